//! What affiliates are told by e-mail, and when: pure rules. Words and letters are in `crate::mail`, rows
//! in `store::mail`.
//!
//! A notice is one thing that happened to one affiliate. What happens to commissions comes in floods, so
//! it is collected: one mail an hour at most tells of all of it. Everything else is a mail of its own.

use std::collections::BTreeMap;

use super::{
    commission::{ClawbackReason, Commission, CommissionState, Decision, DecisionKind},
    ledger::{Account, Cause, Entry, Side},
    money::{self, Currency, MoneyError},
    program::words,
    retry,
    sale::Summary,
    time::Timestamp,
};

words! {
    /// What a mail is about.
    Topic {
        /// The enrollment was asked for, let in, turned down or suspended.
        Enrollment = "enrollment",
        /// Commissions were earned, taken back or given back.
        Commissions = "commissions",
        /// A payout was sent.
        PayoutCompleted = "payout_completed",
        /// A payout waits until the affiliate's account can receive it.
        PayoutWaiting = "payout_waiting",
    }
}

words! {
    /// What happened to a commission, as its affiliate sees it.
    Change {
        /// It accrued: by itself, or because it was approved.
        Earned = "earned",
        /// Some or all of it was taken back.
        TakenBack = "taken_back",
        /// What had been taken back, or more than before, is the affiliate's.
        GivenBack = "given_back",
    }
}

words! {
    /// Why something was taken back.
    Why {
        /// The buyer got money back.
        Refund = "refund",
        /// The buyer's bank took the money back.
        Dispute = "dispute",
        /// The owner turned the commission down.
        Rejected = "rejected",
        /// The owner took it back: the sale was not genuine.
        Fraud = "fraud",
        /// The owner took it back for another reason.
        Decided = "decided",
        /// The transfer that paid it came back.
        TransferReturned = "transfer_returned",
        /// The sale turned out to be the same as another one.
        Merged = "merged",
        /// The sale turned out to belong to somebody else.
        Reattributed = "reattributed",
        /// The sale turned out to be worth less.
        Corrected = "corrected",
    }
}

/// How old what caused a change may be for the change still to be news, seconds: history that is replayed
/// or imported tells nobody anything.
pub const NEWS_S: i64 = 48 * 3_600;

/// How long a mail that cannot be delivered is tried, seconds.
pub const GIVE_UP_AFTER_S: i64 = 3 * 86_400;

/// How long a mail may wait to be sent before somebody should look, seconds.
pub const OVERDUE_S: i64 = 86_400;

const HOUR_US: i64 = 3_600_000_000;

impl Topic {
    /// When a notice of something that happens `now` may be sent: at once, or with everything else of the
    /// same UTC hour.
    #[must_use]
    pub fn due_at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Enrollment | Self::PayoutCompleted | Self::PayoutWaiting => now,
            Self::Commissions => {
                let into_hour = now.as_micros().rem_euclid(HOUR_US);
                now.plus_micros(HOUR_US.saturating_sub(into_hour))
            }
        }
    }
}

/// When a mail is tried again after its `attempts`-th failure; `None` when it has been tried long enough.
/// `seed` is the id of the mail, `since` when it was made.
#[must_use]
pub fn next_attempt(attempts: i64, seed: &str, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let attempt = u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
    let next = now.plus_micros(retry::delay(attempt, seed));
    (next <= since.plus_secs(GIVE_UP_AFTER_S)).then_some(next)
}

/// What entries about one commission mean for the affiliate, per currency: minor units, more than 0. Empty when what the
/// affiliate has earned is what it was, as when a hold ends.
///
/// # Errors
/// [`MoneyError`] when an amount does not fit.
pub fn changes(entries: &[Entry]) -> Result<Vec<(Currency, Change, i64)>, MoneyError> {
    let mut net: BTreeMap<Currency, i64> = BTreeMap::new();
    for entry in entries {
        // What the program owes grows on the left of its expense and shrinks on the right.
        for line in entry.lines().iter().filter(|line| line.account == Account::Expense) {
            let sum = net.entry(entry.currency).or_default();
            *sum = match line.side {
                Side::Debit => money::add(*sum, line.amount)?,
                Side::Credit => money::sub(*sum, line.amount)?,
            };
        }
    }
    let is_first = entries.first().is_some_and(|entry| entry.revision == 1);
    let mut changes = Vec::new();
    for (currency, amount) in net {
        let change = match amount {
            0 => continue,
            ..0 => Change::TakenBack,
            _ if is_first => Change::Earned,
            _ => Change::GivenBack,
        };
        changes.push((currency, change, amount.checked_abs().ok_or(MoneyError::Overflow)?));
    }
    Ok(changes)
}

/// Why a commission became less. `causes` are those of the fold that took it back, `decisions` all that
/// were taken about its sale.
#[must_use]
pub fn why<'c>(
    commission: &Commission,
    summary: Option<&Summary>,
    decisions: &[Decision],
    causes: impl IntoIterator<Item = &'c Cause>,
    now: Timestamp,
) -> Why {
    if commission.state == CommissionState::Denied {
        return Why::Rejected;
    }
    match commission.reason.as_deref() {
        Some("merged") => return Why::Merged,
        Some("reattributed") => return Why::Reattributed,
        Some(_) | None => {}
    }
    let mine = || decisions.iter().filter(|decision| decision.enrollment_id == commission.enrollment_id);
    let of_person = causes.into_iter().find_map(|cause| match cause {
        Cause::Decision(id) => {
            mine().find(|decision| decision.kind == DecisionKind::Clawback && decision.id.as_str() == id)
        }
        Cause::Event(_) | Cause::Time(_) | Cause::Call(_) | Cause::Run(_) | Cause::Resolution(_) => None,
    });
    if let Some(decision) = of_person {
        return match decision.reason {
            Some(ClawbackReason::Refund) => Why::Refund,
            Some(ClawbackReason::Chargeback) => Why::Dispute,
            Some(ClawbackReason::Fraud) => Why::Fraud,
            Some(ClawbackReason::Other) | None => Why::Decided,
        };
    }
    // The program's own decision is taken in the transaction that folds it.
    if mine().any(|decision| decision.kind == DecisionKind::TransferClawback && decision.at == now) {
        return Why::TransferReturned;
    }
    match summary {
        Some(sale) if sale.disputed > sale.refunded => Why::Dispute,
        Some(sale) if sale.refunded > 0 => Why::Refund,
        Some(_) | None => Why::Corrected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::{CommissionId, EnrollmentId, ProgramId},
        ledger::{About, EntryKind, Owner, Posting, Subject},
    };

    const DAY_S: i64 = 86_400;

    #[test]
    fn commissions_of_one_utc_hour_are_told_together_at_its_end() {
        let due = |text: &str| Topic::Commissions.due_at(Timestamp::parse_rfc3339(text).unwrap()).to_string();
        assert_eq!(due("2026-03-01T10:00:00Z"), "2026-03-01T11:00:00Z");
        assert_eq!(due("2026-03-01T10:59:59.999999Z"), "2026-03-01T11:00:00Z");
        assert_eq!(due("2026-03-01T23:30:00Z"), "2026-03-02T00:00:00Z");
    }

    #[test]
    fn everything_else_is_told_at_once() {
        let now = Timestamp::from_secs(1_767_225_601);
        for topic in [Topic::Enrollment, Topic::PayoutCompleted, Topic::PayoutWaiting] {
            assert_eq!(topic.due_at(now), now);
        }
    }

    #[test]
    fn a_mail_is_tried_for_three_days_and_no_longer() {
        let made = Timestamp::from_secs(1_767_225_600);
        let (mut now, mut attempts) = (made, 0);
        while let Some(next) = next_attempt(attempts, "mail_1", made, now) {
            assert!(next > now && next <= now.plus_secs(3_600), "attempt {attempts}");
            (now, attempts) = (next, attempts + 1);
        }
        assert!(now > made.plus_secs(3 * DAY_S - 3_600) && now <= made.plus_secs(3 * DAY_S));
        assert!((72..2_000).contains(&attempts), "{attempts} attempts");
    }

    fn entry(
        revision: i64,
        kind: EntryKind,
        currency: &str,
        debit: Account,
        credit: Account,
        amount: i64,
    ) -> Entry {
        let enrollment = EnrollmentId::parse("par_a").unwrap();
        let program = ProgramId::parse("prog_a").unwrap();
        let owner = |account| match account {
            Account::Expense => Owner::Program(program.clone()),
            _ => Owner::Enrollment(enrollment.clone()),
        };
        let lines = vec![
            Posting { owner: owner(debit), account: debit, side: Side::Debit, amount },
            Posting { owner: owner(credit), account: credit, side: Side::Credit, amount },
        ];
        let subject = Subject {
            about: About::Commission(CommissionId::parse("com_a").unwrap()),
            enrollment_id: &enrollment,
            program_id: &program,
            currency: Currency::parse(currency).unwrap(),
        };
        Entry::new(&subject, revision, kind, lines).unwrap()
    }

    fn told(entries: &[Entry]) -> Vec<(String, Change, i64)> {
        let changes = changes(entries).unwrap();
        changes.into_iter().map(|(currency, change, amount)| (currency.to_string(), change, amount)).collect()
    }

    #[test]
    fn what_is_told_is_what_the_affiliate_gains_or_loses() {
        use Account::{Expense, Held, Payable};
        use EntryKind::{Accrual, Adjustment, Clawback, Reinstatement, Release};
        let accrual = |amount| entry(1, Accrual, "usd", Expense, Held, amount);
        assert_eq!(told(&[accrual(2_000)]), [("usd".to_owned(), Change::Earned, 2_000)]);
        // A refund that was told before its payment: only what is left was ever earned.
        let reduced = vec![accrual(2_000), entry(2, Clawback, "usd", Held, Expense, 500)];
        assert_eq!(told(&reduced), [("usd".to_owned(), Change::Earned, 1_500)]);
        let gone = vec![accrual(2_000), entry(2, Clawback, "usd", Held, Expense, 2_000)];
        assert_eq!(told(&gone), []);
        assert_eq!(told(&[entry(2, Release, "usd", Held, Payable, 2_000)]), []);
        let clawed = vec![entry(3, Clawback, "usd", Payable, Expense, 700)];
        assert_eq!(told(&clawed), [("usd".to_owned(), Change::TakenBack, 700)]);
        let returned = vec![entry(4, Reinstatement, "usd", Expense, Payable, 700)];
        assert_eq!(told(&returned), [("usd".to_owned(), Change::GivenBack, 700)]);
        // Two currencies are never netted.
        let moved = vec![
            entry(2, Adjustment, "usd", Held, Expense, 2_000),
            entry(3, Adjustment, "eur", Expense, Held, 1_800),
        ];
        let expected =
            [("eur".to_owned(), Change::GivenBack, 1_800), ("usd".to_owned(), Change::TakenBack, 2_000)];
        assert_eq!(told(&moved), expected);
    }
}
