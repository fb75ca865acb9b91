//! What came of the demonstration: who earned, lost and was paid what, in words where amounts do not say
//! it, and what of it is not as it was worked out by hand.

use super::{
    Demo, DemoError,
    stage::{ExpectedEnd, Shop},
};
use crate::{
    app::{App, explain, keys::Principal, reads},
    domain::{
        ids::{CommissionId, PayoutId, ProgramId},
        intent::Verdict,
        money::{self, Currency, Money},
        payout::{PayoutState, Split},
    },
    store::{
        StoreError,
        job_views::AttemptRow,
        settlement::PayoutRow,
        views::{self, BalanceRow},
    },
};

/// Rows of a kind per program; the demonstration has a handful.
const ROWS_MAX: i64 = 1_000;

/// Everything that came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By shop, affiliate and amount.
    pub commissions: Vec<Line>,
    /// By shop, affiliate and currency.
    pub balances: Vec<BalanceLine>,
    /// By shop, affiliate and currency.
    pub payouts: Vec<PayoutLine>,
}

/// What one affiliate earned and lost from one sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// What was paid for the sale.
    pub sale: Option<Money>,
    /// Accrued.
    pub earned: Money,
    /// Taken back.
    pub clawed: Money,
    /// State.
    pub state: &'static str,
    /// How the amounts came about.
    pub why: String,
}

/// What one affiliate has in one currency. Always earned − clawed = held + payable + in transit + paid +
/// fee − came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceLine {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// Accrued.
    pub earned: Money,
    /// Taken back.
    pub clawed: Money,
    /// Still held.
    pub held: Money,
    /// Payable; negative is debt.
    pub payable: Money,
    /// Reserved by payouts under way.
    pub in_transit: Money,
    /// Sent.
    pub paid: Money,
    /// What the platform kept of the payouts.
    pub fee: Money,
    /// Of what was sent, how much came back.
    pub came_back: Money,
}

/// One payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutLine {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// What was taken from the payable side.
    pub due: Money,
    /// What the platform keeps of it.
    pub fee: Money,
    /// What is sent.
    pub send: Money,
    /// Of that, how much came back.
    pub came_back: Money,
    /// Of the fee, how much was given back with it.
    pub fee_back: Money,
    /// Where it stands.
    pub state: PayoutState,
    /// The provider's object, once known.
    pub transfer_id: Option<String>,
    /// What happened, in words.
    pub story: String,
}

/// Somebody whom a settlement passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotPaid {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// What stays payable.
    pub due: Money,
    /// Why.
    pub reason: &'static str,
}

/// Something that is not what was worked out by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// How it should be.
    pub expected: String,
    /// How it is.
    pub found: String,
}

impl Demo {
    /// Who earned, lost and was paid what, and why.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn outcome(&self, app: &App) -> Result<Outcome, DemoError> {
        let mut outcome = Outcome { payouts: self.payouts(app).await?, ..Outcome::default() };
        for shop in &self.shops {
            let (mut commissions, mut balances) = (Vec::new(), Vec::new());
            for program in &shop.programs {
                let mut conn = app.db.read().await?;
                let rows = views::list_commissions(&mut conn, program, None, ROWS_MAX).await?;
                balances.extend(views::list_balances(&mut conn, program, None, ROWS_MAX).await?);
                drop(conn);
                for row in rows {
                    commissions.push(shop.line(app, &CommissionId::parse(&row.id)?).await?);
                }
            }
            commissions.sort_by(|a, b| (&a.affiliate, b.earned.minor).cmp(&(&b.affiliate, a.earned.minor)));
            let payouts: Vec<&PayoutLine> = shop.own(&outcome.payouts).collect();
            let mut lines = Vec::new();
            for balance in balances {
                lines.push(shop.balance(&balance, &commissions, &payouts)?);
            }
            lines.sort_by(|a, b| (&a.affiliate, a.held.currency).cmp(&(&b.affiliate, b.held.currency)));
            outcome.commissions.extend(commissions);
            outcome.balances.extend(lines);
        }
        Ok(outcome)
    }

    /// The payouts of all programs as they stand.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn payouts(&self, app: &App) -> Result<Vec<PayoutLine>, DemoError> {
        let mut lines = Vec::new();
        for shop in &self.shops {
            let mut own = Vec::new();
            for program in &shop.programs {
                for row in reads::payouts(app, &Principal::console(), program, None, ROWS_MAX).await? {
                    own.push(shop.payout(app, program, &row).await?);
                }
            }
            own.sort_by(|a, b| (&a.affiliate, a.due.currency).cmp(&(&b.affiliate, b.due.currency)));
            lines.extend(own);
        }
        Ok(lines)
    }

    /// What is not as it was worked out by hand, and balances that do not add up.
    #[must_use]
    pub fn differences(&self, outcome: &Outcome) -> Vec<Difference> {
        let by_hand = self
            .shops
            .iter()
            .flat_map(|shop| shop.expected.iter().map(move |end| (shop, end)))
            .filter_map(|(shop, end)| shop.difference(end, outcome));
        let sums = outcome.balances.iter().filter_map(|line| {
            let left = line.earned.minor - line.clawed.minor;
            let right = line.held.minor
                + line.payable.minor
                + line.in_transit.minor
                + line.paid.minor
                + line.fee.minor
                - line.came_back.minor;
            (left != right).then(|| Difference {
                shop: line.shop.clone(),
                affiliate: line.affiliate.clone(),
                expected: format!("a total of {left} accounted for"),
                found: right.to_string(),
            })
        });
        by_hand.chain(sums).collect()
    }
}

impl PayoutLine {
    /// Whether it waits for money on the platform's balance.
    #[must_use]
    pub fn waits_for_funds(&self) -> bool {
        self.state == PayoutState::WaitingFunds
    }

    /// Whether money may still have to move.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.state.is_reserved()
    }
}

impl Shop {
    /// Those lines that are this shop's.
    fn own<'a>(&'a self, lines: &'a [PayoutLine]) -> impl Iterator<Item = &'a PayoutLine> {
        lines.iter().filter(|line| line.shop == self.title)
    }

    async fn line(&self, app: &App, id: &CommissionId) -> Result<Line, DemoError> {
        let told = explain::explain(&app.db, id, None).await?;
        let commission = told.commission;
        let money = |minor| Money { minor, currency: commission.currency };
        let sale = told.sale.amount_minor.zip(told.sale.currency);
        let mut why: Vec<String> = told
            .steps
            .into_iter()
            .map(|step| match step.what {
                "transfer_clawback" => {
                    format!("the transfer that paid it came back: {} taken back", money(step.amount_minor))
                }
                _ => step.how,
            })
            .collect();
        // The last step repeats what the columns say.
        why.truncate(why.len().saturating_sub(1));
        if let Some(reason) = &commission.reason {
            why.push(format!("{}: {reason}", commission.state));
        }
        Ok(Line {
            shop: self.title.clone(),
            affiliate: self.name_of(&commission.enrollment_id),
            sale: sale.map(|(minor, currency)| Money { minor, currency }),
            earned: money(commission.earned_minor),
            clawed: money(commission.clawed_minor),
            state: commission.state,
            why: why.join("\n"),
        })
    }

    fn balance(
        &self,
        row: &BalanceRow,
        commissions: &[Line],
        payouts: &[&PayoutLine],
    ) -> Result<BalanceLine, DemoError> {
        let currency = Currency::parse(&row.currency)?;
        let affiliate = self.name_of(&row.enrollment_id);
        let money = |minor| Money { minor, currency };
        let earned =
            commissions.iter().filter(|line| line.affiliate == affiliate && line.earned.currency == currency);
        let paid = payouts.iter().filter(|line| line.affiliate == affiliate && line.due.currency == currency);
        // The fee of a payout is kept once its money has moved; before, all of it is in transit.
        let sent = paid.filter(|line| !line.is_under_way() && !line.state.is_void());
        Ok(BalanceLine {
            earned: money(money::sum(earned.clone().map(|line| line.earned.minor))?),
            clawed: money(money::sum(earned.map(|line| line.clawed.minor))?),
            held: money(row.held),
            payable: money(row.payable),
            in_transit: money(row.in_transit),
            paid: money(row.paid),
            fee: money(money::sum(sent.clone().map(|line| line.fee.minor - line.fee_back.minor))?),
            came_back: money(money::sum(sent.map(|line| line.came_back.minor))?),
            shop: self.title.clone(),
            affiliate,
        })
    }

    async fn payout(&self, app: &App, program: &ProgramId, row: &PayoutRow) -> Result<PayoutLine, DemoError> {
        let shown = reads::payout(app, &Principal::console(), program, &PayoutId::parse(&row.id)?, 0).await?;
        let row = shown.payout;
        let currency = Currency::parse(&row.currency)?;
        let money = |minor| Money { minor, currency };
        let fee_back = money(row.returned_minor - row.reversed_minor);
        let (send, came_back) = (money(row.send_minor), money(row.reversed_minor));
        let mut story = vec![how_it_was_sent(row.transfer_id.is_some(), &shown.attempts)];
        if came_back.minor > 0 {
            story.push(format!("{came_back} of {send} came back, and {fee_back} of the fee"));
        }
        Ok(PayoutLine {
            shop: self.title.clone(),
            affiliate: self.name_of(&row.enrollment_id),
            due: money(row.due_minor),
            fee: money(row.fee_minor),
            send,
            came_back,
            fee_back,
            state: PayoutState::parse(&row.state).ok_or_else(|| corrupt(&row.id))?,
            transfer_id: row.transfer_id,
            story: story.join("\n"),
        })
    }

    fn difference(&self, end: &ExpectedEnd, outcome: &Outcome) -> Option<Difference> {
        let affiliate = self.name_of(end.enrollment_id.as_str());
        let is_it = |shop: &str, name: &str, currency| {
            shop == self.title && name == affiliate && currency == end.currency
        };
        let paid = end.payout.as_ref().map_or(0, |payout| payout.split.send);
        let payout = end.payout.iter().map(|payout| (payout.split, payout.came_back, payout.state));
        let expected = in_words([end.held, end.payable, 0, paid], payout);
        let balance =
            outcome.balances.iter().find(|line| is_it(&line.shop, &line.affiliate, line.held.currency));
        let amounts = balance
            .map_or([0; 4], |line| [line.held, line.payable, line.in_transit, line.paid].map(|m| m.minor));
        let payouts =
            outcome.payouts.iter().filter(|line| is_it(&line.shop, &line.affiliate, line.due.currency));
        let found = in_words(
            amounts,
            payouts.map(|line| {
                let split = Split { due: line.due.minor, fee: line.fee.minor, send: line.send.minor };
                (split, line.came_back.minor, line.state)
            }),
        );
        (expected != found).then(|| Difference { shop: self.title.clone(), affiliate, expected, found })
    }
}

fn corrupt(payout: &str) -> StoreError {
    StoreError::Corrupt { table: "payout", column: "state", id: payout.to_owned() }
}

/// Balances and payouts, minor units, in a form that can be compared and read.
fn in_words(balances: [i64; 4], payouts: impl Iterator<Item = (Split, i64, PayoutState)>) -> String {
    let [held, payable, in_transit, paid] = balances;
    let mut words = format!("held {held}, payable {payable}, in transit {in_transit}, paid {paid}");
    for (Split { due, fee, send }, came_back, state) in payouts {
        let state = state.as_str();
        let payout = format!("; a payout of {due}, fee {fee}, sent {send}, came back {came_back}, {state}");
        words.push_str(&payout);
    }
    words
}

/// How a payout was sent, as its attempts tell it.
fn how_it_was_sent(is_known: bool, attempts: &[AttemptRow]) -> String {
    const FOUND: &str = "found";
    let verdicts = |kind: &'static str| {
        attempts.iter().filter(move |attempt| attempt.kind == kind).map(|attempt| attempt.verdict.as_deref())
    };
    let was_answered = |verdict: Verdict| verdicts("send").any(|known| known == Some(verdict.as_str()));
    let was_lost = was_answered(Verdict::Ambiguous) || verdicts("send").any(|known| known.is_none());
    let words = match (was_lost, was_answered(Verdict::InsufficientFunds), is_known) {
        (true, _, true) if verdicts("look_up").any(|known| known == Some(FOUND)) => {
            "the answer was lost; a look-up found the transfer"
        }
        (true, _, true) if was_answered(Verdict::Executed) => {
            "the answer was lost; sent again under the same key, it was repeated"
        }
        (true, _, true) => "the answer was lost; the webhook told of the transfer",
        (true, _, false) => "the answer was lost; what became of it is not known",
        (false, true, true) => "waited for funds; sent under a new key when they came",
        (false, true, false) => "waits for funds",
        (false, false, true) => "sent and answered",
        (false, false, false) => "not sent yet",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(is_known: bool, attempts: &[(&str, Option<&str>)]) -> String {
        let rows: Vec<AttemptRow> = attempts
            .iter()
            .zip(1..)
            .map(|((kind, verdict), number)| AttemptRow {
                number,
                generation: 0,
                kind: (*kind).to_owned(),
                sent_at_us: 0,
                answered_at_us: None,
                verdict: verdict.map(str::to_owned),
                status: None,
                request_id: None,
                replayed: None,
                error_code: None,
                object_id: None,
            })
            .collect();
        how_it_was_sent(is_known, &rows)
    }

    #[test]
    fn the_words_follow_from_the_attempts() {
        let (lost, sent) = (("send", Some("ambiguous")), ("send", Some("executed")));
        assert_eq!(told(true, &[sent]), "sent and answered");
        assert_eq!(told(false, &[]), "not sent yet");
        assert_eq!(
            told(true, &[lost, ("look_up", Some("found"))]),
            "the answer was lost; a look-up found the transfer"
        );
        assert_eq!(
            told(true, &[lost, ("look_up", Some("found_nothing")), sent]),
            "the answer was lost; sent again under the same key, it was repeated"
        );
        assert_eq!(told(true, &[("send", None)]), "the answer was lost; the webhook told of the transfer");
        assert_eq!(told(false, &[lost]), "the answer was lost; what became of it is not known");
        let short = ("send", Some("insufficient_funds"));
        assert_eq!(told(false, &[short]), "waits for funds");
        assert_eq!(told(true, &[short, sent]), "waited for funds; sent under a new key when they came");
    }
}
