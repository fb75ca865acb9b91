//! What an affiliate sees: its own figures, balances, conversions, commissions and payouts, over all the
//! programs that it is enrolled in (seed S0, "Affiliates read their own side").
//!
//! "Me" is the organization of the key. It becomes an [`AffiliateScope`] here and nowhere else, and every read
//! of the store takes that first, so what belongs to a peer is not found, like what does not exist. Why a
//! commission is what it is is told in `reasons.rs`, what would be paid now in `request.rs`, and the ledger
//! line by line in `statement.rs`. Nothing here changes anything.

mod reasons;
mod request;
mod statement;

pub use self::{
    reasons::{Because, OwnEntry, OwnFlag, OwnStep, Reasons, commission},
    request::{PayoutAccount, Preview, PreviewLine, preview},
    statement::{FileRow, Key, Line, Range, Statement, StatementFile, statement, statement_file},
};
use super::{
    App, Refusal,
    analytics::{self, CurrencyFigures},
    keys::{KeyKind, Principal, Scope},
};
pub use crate::store::affiliate_views::{
    OwnBalanceRow, OwnCommissionRow, OwnConversionRow, OwnPayoutRow, Part,
};
pub use crate::store::statements::Accounts;
use crate::{
    domain::{
        commission::ConversionStatus,
        ids::{ConversionId, PayoutId},
        window::Days,
    },
    store::{
        affiliate_views::{self, AffiliateScope},
        settlement::{self, ItemRow},
    },
};

/// The side of the organization that asks.
///
/// # Errors
/// [`Refusal::MissingScope`]; [`Refusal::Forbidden`] for a key that belongs to no organization.
fn own_side(by: &Principal) -> Result<AffiliateScope, Refusal> {
    by.require(Scope::Read)?;
    match (by.kind(), by.organization_id()) {
        (KeyKind::Organization, Some(organization)) => Ok(AffiliateScope::of(organization.clone())),
        _ => {
            Err(Refusal::Forbidden("an affiliate's side is read with a key of the affiliate's organization"))
        }
    }
}

/// An affiliate's figures over some days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The days.
    pub days: Days,
    /// Clicks on its links.
    pub clicks: i64,
    /// Sales that it brought and that were paid on these days, without those that were rejected.
    pub conversions: i64,
    /// Conversions per click in basis points; none without clicks.
    pub conversion_rate_bps: Option<i64>,
    /// What was posted for it on these days; `gross` and what follows from it is the owner's to know.
    pub currencies: Vec<CurrencyFigures>,
}

/// What an affiliate's days came to.
///
/// # Errors
/// [`Refusal::Forbidden`] for a key of no organization.
pub async fn stats(app: &App, by: &Principal, part: &Part, days: Days) -> Result<Stats, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    let clicks = affiliate_views::clicks(&mut conn, &scope, part, days).await?;
    let conversions = affiliate_views::count_conversions(&mut conn, &scope, part, days.window()).await?;
    let earned = affiliate_views::earned(&mut conn, &scope, part, days.window()).await?;
    let figures = earned.into_iter().map(|row| {
        let mut figures = CurrencyFigures::new(row.currency);
        figures.add_money(row.earned, row.clawed)?;
        figures.finish(clicks)?;
        Ok(figures)
    });
    Ok(Stats {
        days,
        clicks,
        conversions,
        conversion_rate_bps: analytics::rate_bps(conversions, clicks)?,
        currencies: figures.collect::<Result<_, Refusal>>()?,
    })
}

/// An affiliate's balances by enrollment and currency, after the given pair.
///
/// # Errors
/// As [`stats`].
pub async fn balances(
    app: &App,
    by: &Principal,
    part: &Part,
    after: Option<&(String, String)>,
    limit: i64,
) -> Result<Vec<OwnBalanceRow>, Refusal> {
    let scope = own_side(by)?;
    let after = after.map(|(enrollment, currency)| (enrollment.as_str(), currency.as_str()));
    Ok(affiliate_views::list_balances(&mut app.db.read().await?, &scope, part, after, limit).await?)
}

/// The key of the last row of the page before: its time in microseconds and its id.
type Before<'a> = Option<&'a (i64, String)>;

fn pair(before: Before<'_>) -> Option<(i64, &str)> {
    before.map(|(at, id)| (*at, id.as_str()))
}

/// An affiliate's conversions, all or those of a status, newest first.
///
/// # Errors
/// As [`stats`].
pub async fn conversions(
    app: &App,
    by: &Principal,
    part: &Part,
    status: Option<ConversionStatus>,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnConversionRow>, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    Ok(affiliate_views::list_conversions(&mut conn, &scope, part, status, pair(before), limit).await?)
}

/// One conversion of the affiliate's.
///
/// # Errors
/// [`Refusal::NotFound`] also for a peer's.
pub async fn conversion(app: &App, by: &Principal, id: &ConversionId) -> Result<OwnConversionRow, Refusal> {
    let scope = own_side(by)?;
    let found = affiliate_views::find_conversion(&mut app.db.read().await?, &scope, id).await?;
    found.ok_or(Refusal::NotFound)
}

/// An affiliate's commissions, newest first.
///
/// # Errors
/// As [`stats`].
pub async fn commissions(
    app: &App,
    by: &Principal,
    part: &Part,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnCommissionRow>, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    Ok(affiliate_views::list_commissions(&mut conn, &scope, part, pair(before), limit).await?)
}

/// An affiliate's payouts, newest first.
///
/// # Errors
/// As [`stats`].
pub async fn payouts(
    app: &App,
    by: &Principal,
    part: &Part,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnPayoutRow>, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    Ok(affiliate_views::list_payouts(&mut conn, &scope, part, pair(before), limit).await?)
}

/// One payout of the affiliate's with what it is made of, after the given lot.
///
/// # Errors
/// [`Refusal::NotFound`] also for a peer's.
pub async fn payout(
    app: &App,
    by: &Principal,
    id: &PayoutId,
    after: Option<&str>,
    limit: i64,
) -> Result<(OwnPayoutRow, Vec<ItemRow>), Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    let found = affiliate_views::find_payout(&mut conn, &scope, id).await?.ok_or(Refusal::NotFound)?;
    // The lots of a payout are all of its one enrollment.
    let items = settlement::list_items(&mut conn, id, after, limit).await?;
    Ok((found, items))
}
