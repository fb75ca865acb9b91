//! What a program came to over some days, for its owner: totals, each day, and who brought most of it.
//!
//! A sale counts on the day it was paid, money on the day its entry was posted, a click on the day it was
//! recorded; all days are UTC. So a commission that accrues late, or is taken back later, shows on the day of
//! the posting, and the money of any days is exactly what the ledger posted on them. Currencies are never
//! added to each other. A rate is in basis points, rounded half up, and absent where there is nothing to
//! divide by.

use std::collections::BTreeMap;

use super::{
    App, Refusal,
    explain::ExplainError,
    keys::{Principal, Scope},
    programs,
};
pub use crate::store::analytics::{LeaderRow, Rank};
use crate::{
    domain::{
        commission::CommissionState,
        ids::ProgramId,
        money::{self, Currency, MoneyError},
        window::Days,
    },
    store::{
        Conn, StoreError,
        analytics::{self, SalesRow},
    },
};

/// Affiliates that are shown with a program's figures.
const LEADERS_SHOWN: i64 = 10;

/// What a program's days came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analytics {
    /// The days.
    pub days: Days,
    /// All of them together.
    pub totals: Figures,
    /// Each of them, in order, with every currency of the totals.
    pub by_day: Vec<(i64, Figures)>,
}

/// Figures of one day or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Clicks on the links of affiliates.
    pub clicks: i64,
    /// Attributed sales, without those that were rejected. One that was taken back was made all the same.
    pub conversions: i64,
    /// Conversions per click in basis points; none without clicks.
    pub conversion_rate_bps: Option<i64>,
    /// Where these sales stand now.
    pub statuses: Statuses,
    /// The amounts, by currency.
    pub currencies: Vec<CurrencyFigures>,
}

/// How many sales stand where, in the words of seed S0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    /// Somebody must accept it, or something stops the money.
    pub pending: i64,
    /// Accrued and not paid out yet.
    pub approved: i64,
    /// Paid out.
    pub paid: i64,
    /// Turned down.
    pub rejected: i64,
    /// Taken back before it was paid out.
    pub clawed_back: i64,
}

impl Statuses {
    fn of(&mut self, state: CommissionState) -> &mut i64 {
        match state {
            CommissionState::AwaitingReview | CommissionState::Flagged => &mut self.pending,
            CommissionState::Held | CommissionState::Payable | CommissionState::InPayout => {
                &mut self.approved
            }
            CommissionState::Paid => &mut self.paid,
            CommissionState::Denied => &mut self.rejected,
            CommissionState::Reversed => &mut self.clawed_back,
        }
    }
}

/// Amounts of one currency, minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrencyFigures {
    /// The currency.
    pub currency: String,
    /// What buyers paid, tax included.
    pub gross: i64,
    /// What was refunded of it.
    pub refunded: i64,
    /// What disputes took of the rest.
    pub disputed: i64,
    /// Refunded of gross in basis points; none without sales.
    pub refund_rate_bps: Option<i64>,
    /// What affiliates earned, sponsors included, before anything was taken back.
    pub earned: i64,
    /// What was taken back.
    pub clawed: i64,
    /// Earned less taken back.
    pub net: i64,
    /// Earned per click, rounded half up; none without clicks.
    pub epc: Option<i64>,
}

impl CurrencyFigures {
    pub(super) fn new(currency: String) -> Self {
        Self {
            currency,
            gross: 0,
            refunded: 0,
            disputed: 0,
            refund_rate_bps: None,
            earned: 0,
            clawed: 0,
            net: 0,
            epc: None,
        }
    }

    fn add_sales(&mut self, row: &SalesRow) -> Result<(), MoneyError> {
        self.gross = money::add(self.gross, row.gross)?;
        self.refunded = money::add(self.refunded, row.refunded)?;
        self.disputed = money::add(self.disputed, row.disputed)?;
        Ok(())
    }

    pub(super) fn add_money(&mut self, earned: i64, clawed: i64) -> Result<(), Refusal> {
        let added =
            money::add(self.earned, earned).and_then(|earned| Ok((earned, money::add(self.clawed, clawed)?)));
        (self.earned, self.clawed) = computed(added)?;
        Ok(())
    }

    /// Reckons what follows from the sums.
    pub(super) fn finish(&mut self, clicks: i64) -> Result<(), Refusal> {
        self.net = computed(money::sub(self.earned, self.clawed))?;
        self.refund_rate_bps = rate_bps(self.refunded, self.gross)?;
        self.epc = if clicks > 0 { Some(computed(money::share(self.earned, 1, clicks))?) } else { None };
        Ok(())
    }
}

/// `part` of `whole` in basis points, rounded half up; none of nothing.
pub(super) fn rate_bps(part: i64, whole: i64) -> Result<Option<i64>, Refusal> {
    if whole > 0 { computed(money::share(10_000, part, whole)).map(Some) } else { Ok(None) }
}

fn computed<T>(result: Result<T, MoneyError>) -> Result<T, Refusal> {
    result.map_err(|error| ExplainError::from(error).into())
}

/// Sums under way, of one day or of all.
#[derive(Default)]
struct Sums {
    figures: Figures,
    currencies: BTreeMap<String, CurrencyFigures>,
}

impl Sums {
    fn of(&mut self, currency: &str) -> &mut CurrencyFigures {
        let new = || CurrencyFigures::new(currency.to_owned());
        self.currencies.entry(currency.to_owned()).or_insert_with(new)
    }

    fn add_clicks(&mut self, clicks: i64) -> Result<(), Refusal> {
        self.figures.clicks = computed(money::add(self.figures.clicks, clicks))?;
        Ok(())
    }

    fn add_sales(&mut self, state: CommissionState, row: &SalesRow) -> Result<(), Refusal> {
        let count = self.figures.statuses.of(state);
        *count = computed(money::add(*count, row.conversions))?;
        if state != CommissionState::Denied {
            self.figures.conversions = computed(money::add(self.figures.conversions, row.conversions))?;
            computed(self.of(&row.currency).add_sales(row))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Figures, Refusal> {
        let clicks = self.figures.clicks;
        self.figures.conversion_rate_bps = rate_bps(self.figures.conversions, clicks)?;
        for mut currency in self.currencies.into_values() {
            currency.finish(clicks)?;
            self.figures.currencies.push(currency);
        }
        Ok(self.figures)
    }
}

/// A connection, once it is clear that the program is one the key may read. Affiliates of a program own
/// nothing of it: for them it does not exist.
async fn of_owner(app: &App, by: &Principal, program: &ProgramId) -> Result<Conn, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    programs::visible(&mut conn, by, program).await?;
    Ok(conn)
}

/// What a program's days came to, and who brought most sales.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn of_program(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    days: Days,
) -> Result<(Analytics, Vec<LeaderRow>), Refusal> {
    let mut conn = of_owner(app, by, program).await?;
    let mut totals = Sums::default();
    let mut by_day: BTreeMap<i64, Sums> = (days.first..days.end).map(|day| (day, Sums::default())).collect();
    for row in analytics::clicks(&mut conn, program, days).await? {
        totals.add_clicks(row.clicks)?;
        by_day.entry(row.day).or_default().add_clicks(row.clicks)?;
    }
    for row in analytics::sales(&mut conn, program, days).await? {
        let state = CommissionState::parse(&row.state).ok_or_else(|| StoreError::Corrupt {
            table: "commission",
            column: "state",
            id: program.to_string(),
        })?;
        totals.add_sales(state, &row)?;
        by_day.entry(row.day).or_default().add_sales(state, &row)?;
    }
    for row in analytics::money(&mut conn, program, days).await? {
        totals.of(&row.currency).add_money(row.earned, row.clawed)?;
        by_day.entry(row.day).or_default().of(&row.currency).add_money(row.earned, row.clawed)?;
    }
    for sums in by_day.values_mut() {
        for currency in totals.currencies.keys() {
            sums.of(currency);
        }
    }
    let by_day =
        by_day.into_iter().map(|(day, sums)| Ok((day, sums.finish()?))).collect::<Result<_, Refusal>>()?;
    let leaders =
        analytics::leaders(&mut conn, program, days, Rank::Conversions, None, LEADERS_SHOWN).await?;
    Ok((Analytics { days, totals: totals.finish()?, by_day }, leaders))
}

/// What a list of leaders is to show.
#[derive(Clone, Copy, Debug)]
pub struct Ranking {
    /// The days that count.
    pub days: Days,
    /// What they are ranked by.
    pub by: Rank,
    /// The currency of the amounts; amounts of several cannot be compared.
    pub currency: Option<Currency>,
    /// At most so many.
    pub limit: i64,
}

/// The affiliates of a program with the greatest figures.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner; [`Refusal::Invalid`] when amounts are to be compared
/// and no currency is named.
pub async fn leaders(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    ranking: &Ranking,
) -> Result<Vec<LeaderRow>, Refusal> {
    let mut conn = of_owner(app, by, program).await?;
    let Ranking { days, by, currency, limit } = *ranking;
    let needs_currency = match by {
        Rank::Earned | Rank::Net => true,
        Rank::Conversions | Rank::Clicks => false,
    };
    if needs_currency && currency.is_none() {
        let message = "amounts of different currencies cannot be compared: name one, such as usd";
        return Err(Refusal::invalid("MISSING_CURRENCY", "currency", message));
    }
    Ok(analytics::leaders(&mut conn, program, days, by, currency, limit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_half_up_and_absent_of_nothing() {
        for (part, whole, expected) in [
            (1, 3, Some(3_333)),
            (1, 6, Some(1_667)),
            (1, 16, Some(625)),
            (3, 2, Some(15_000)),
            (0, 5, Some(0)),
        ] {
            assert_eq!(rate_bps(part, whole).unwrap(), expected, "{part}/{whole}");
        }
        assert_eq!(rate_bps(7, 0).unwrap(), None);
    }

    #[test]
    fn box_210_earnings_per_click_need_clicks() {
        let epc = |earned, clicks| {
            let mut figures = CurrencyFigures::new("usd".to_owned());
            figures.add_money(earned, 0).unwrap();
            figures.finish(clicks).unwrap();
            figures.epc
        };
        assert_eq!((epc(5, 2), epc(4, 3), epc(0, 9), epc(100, 0)), (Some(3), Some(1), Some(0), None));
        assert_eq!(epc(-5, 2), Some(-3), "corrections on a day without sales round by magnitude");
    }
}
