//! The arithmetic of paying out, as properties and as tables.
//!
//! Properties draw amounts up to a billion minor units and compare with arithmetic of their own, in 128 bits.

mod entries;
mod plan;
mod returns;
mod spreading;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::testing::usd;

/// Amounts that are drawn, minor units.
const AMOUNT_MAX: i64 = 1_000_000_000;

fn payout(fee: i64, send: i64) -> Payout {
    let enrollment_id = EnrollmentId::parse("par_ann").unwrap();
    Payout {
        id: Payout::id_of("run_one", &enrollment_id, usd()),
        enrollment_id,
        program_id: ProgramId::parse("prog_one").unwrap(),
        currency: usd(),
        split: Split { due: fee + send, fee, send },
        state: PayoutState::Pending,
        on_transfer_reversed: OnTransferReversed::Clawback,
        reversed: 0,
        returned: 0,
        revision: 0,
    }
}

/// Balances seen from the credit side, without accounts that are even.
fn balances<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Account, i64> {
    let mut balances = BTreeMap::new();
    for entry in entries {
        for &account in Account::ALL {
            *balances.entry(account).or_default() += entry.effect_on(account).unwrap();
        }
    }
    balances.retain(|_, balance| *balance != 0);
    balances
}

/// `part × amount ÷ whole` of positive numbers, rounded half up.
fn rounded(amount: i64, part: i64, whole: i64) -> i64 {
    let (amount, part, whole) = (i128::from(amount), i128::from(part), i128::from(whole));
    i64::try_from((2 * amount * part + whole) / (2 * whole)).unwrap()
}

mod states {
    use super::*;

    /// Every way there is. What is not listed is refused.
    #[rustfmt::skip]
    const WAYS: &[(PayoutState, PayoutEvent, PayoutState)] = {
        use PayoutEvent as E;
        use PayoutState as S;
        &[
            (S::Pending, E::Submitted, S::Submitting),
            (S::Pending, E::Waits(Waiting::Funds), S::WaitingFunds),
            (S::Pending, E::Waits(Waiting::Account), S::WaitingAccount),
            (S::Pending, E::Quarantined, S::Unknown),
            (S::Pending, E::Completed, S::Completed),
            (S::Pending, E::Canceled, S::Canceled),

            (S::WaitingAccount, E::Submitted, S::Submitting),
            (S::WaitingAccount, E::Waits(Waiting::Funds), S::WaitingFunds),
            (S::WaitingAccount, E::Waits(Waiting::Account), S::WaitingAccount),
            (S::WaitingAccount, E::Quarantined, S::Unknown),
            (S::WaitingAccount, E::Completed, S::Completed),
            (S::WaitingAccount, E::Canceled, S::Canceled),

            (S::WaitingFunds, E::Submitted, S::Submitting),
            (S::WaitingFunds, E::Waits(Waiting::Funds), S::WaitingFunds),
            (S::WaitingFunds, E::Waits(Waiting::Account), S::WaitingAccount),
            (S::WaitingFunds, E::Quarantined, S::Unknown),
            (S::WaitingFunds, E::Completed, S::Completed),
            (S::WaitingFunds, E::Canceled, S::Canceled),

            (S::Submitting, E::Submitted, S::Submitting),
            (S::Submitting, E::Waits(Waiting::Funds), S::WaitingFunds),
            (S::Submitting, E::Waits(Waiting::Account), S::WaitingAccount),
            (S::Submitting, E::Quarantined, S::Unknown),
            (S::Submitting, E::Completed, S::Completed),
            (S::Submitting, E::Failed, S::Failed),

            (S::Unknown, E::Released, S::Pending),
            (S::Unknown, E::Quarantined, S::Unknown),
            (S::Unknown, E::Completed, S::Completed),

            (S::Completed, E::PartiallyReversed, S::PartiallyReversed),
            (S::Completed, E::Reversed, S::Reversed),
            (S::PartiallyReversed, E::PartiallyReversed, S::PartiallyReversed),
            (S::PartiallyReversed, E::Reversed, S::Reversed),
        ]
    };

    const EVENTS: [PayoutEvent; 10] = [
        PayoutEvent::Submitted,
        PayoutEvent::Waits(Waiting::Funds),
        PayoutEvent::Waits(Waiting::Account),
        PayoutEvent::Quarantined,
        PayoutEvent::Released,
        PayoutEvent::Completed,
        PayoutEvent::Failed,
        PayoutEvent::Canceled,
        PayoutEvent::PartiallyReversed,
        PayoutEvent::Reversed,
    ];

    #[test]
    fn every_event_leads_where_the_table_says_and_nowhere_else() {
        for &from in PayoutState::ALL {
            for event in EVENTS {
                let way = WAYS.iter().find(|way| (way.0, way.1) == (from, event));
                let expected = way.map(|way| way.2).ok_or(InvalidTransition { from, event });
                assert_eq!(from.after(event), expected, "{from:?} after {event:?}");
            }
        }
    }

    /// What was given back stays given back, and what was paid stays paid: `rulings.md` 16.
    #[test]
    fn a_reservation_is_left_once_and_never_entered_again() {
        for &(from, event, to) in WAYS {
            assert!(from.is_reserved() || !to.is_reserved(), "{from:?} to {to:?} would reserve again");
            assert!(!from.is_void(), "{from:?} is over, and {event:?} would change it");
            assert!(!to.is_void() || from.is_reserved(), "{from:?} to {to:?} gives back what is not there");
        }
        for &state in PayoutState::ALL {
            assert!(!(state.is_reserved() && state.is_void()), "{state:?}");
        }
    }

    /// `reliability.md` §1, R10: nothing automatic turns unknown into failed.
    #[test]
    fn what_is_unknown_neither_fails_nor_is_canceled_nor_sent() {
        let left_by: Vec<PayoutEvent> = EVENTS
            .into_iter()
            .filter(|&event| {
                PayoutState::Unknown.after(event).is_ok_and(|state| state != PayoutState::Unknown)
            })
            .collect();
        assert_eq!(left_by, [PayoutEvent::Released, PayoutEvent::Completed]);
    }
}
