//! The arithmetic of paying out, as properties and as tables.
//!
//! Properties draw amounts up to a billion minor units and compare with arithmetic of their own, in 128 bits.

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

mod plan {
    use super::*;

    /// Everything is in order and 5000 are due.
    fn candidate() -> Candidate {
        Candidate {
            due: 5_000,
            minimum: Some(5_000),
            fee: BasisPoints::new(250).unwrap(),
            held: false,
            has_unknown: false,
            account_ready: Some(true),
        }
    }

    #[test]
    fn a_minimum_that_is_met_exactly_pays() {
        let paid = Split { due: 5_000, fee: 125, send: 4_875 };
        assert_eq!(candidate().plan(), Ok(Ok(paid)));
        assert_eq!(Candidate { due: 4_999, ..candidate() }.plan(), Ok(Err(Skip::BelowMinimum)));
        assert_eq!(Candidate { minimum: Some(5_001), ..candidate() }.plan(), Ok(Err(Skip::BelowMinimum)));
    }

    #[test]
    fn a_minimum_of_nothing_pays_a_single_cent_and_no_debt() {
        let generous = Candidate { minimum: Some(0), ..candidate() };
        let paid = Split { due: 1, fee: 0, send: 1 };
        assert_eq!(Candidate { due: 1, ..generous }.plan(), Ok(Ok(paid)));
        assert_eq!(Candidate { due: 0, ..generous }.plan(), Ok(Err(Skip::NothingDue)));
        assert_eq!(Candidate { due: -1, ..generous }.plan(), Ok(Err(Skip::Debt)));
    }

    #[test]
    fn the_fee_is_rounded_half_up_and_may_take_all() {
        let of = |due, bps| {
            let fee = BasisPoints::new(bps).unwrap();
            Candidate { due, minimum: Some(0), fee, ..candidate() }.plan().unwrap()
        };
        assert_eq!(of(1_999, 250), Ok(Split { due: 1_999, fee: 50, send: 1_949 }));
        assert_eq!(of(20, 250), Ok(Split { due: 20, fee: 1, send: 19 }), "half a cent is a cent");
        assert_eq!(of(19, 250), Ok(Split { due: 19, fee: 0, send: 19 }));
        assert_eq!(of(5_000, 0), Ok(Split { due: 5_000, fee: 0, send: 5_000 }));
        assert_eq!(of(1, 5_000), Err(Skip::FeeTakesAll));
        assert_eq!(of(5_000, 10_000), Err(Skip::FeeTakesAll));
    }

    #[test]
    fn the_largest_amount_is_no_overflow() {
        let whole = Candidate { due: i64::MAX, minimum: Some(i64::MAX), ..candidate() };
        let split = whole.plan().unwrap().unwrap();
        assert_eq!(split.fee + split.send, i64::MAX);
        assert_eq!(Candidate { due: i64::MIN, ..candidate() }.plan(), Ok(Err(Skip::Debt)));
    }

    /// Takes away what stops the payout, one reason after the other.
    #[test]
    fn the_reason_that_is_told_is_the_first_of_a_fixed_order() {
        let mut all_wrong = Candidate {
            due: -1,
            minimum: None,
            fee: BasisPoints::new(10_000).unwrap(),
            held: true,
            has_unknown: true,
            account_ready: None,
        };
        let mut told = Vec::new();
        let repairs: [fn(&mut Candidate); 9] = [
            |candidate| candidate.due = 0,
            |candidate| candidate.due = 4_999,
            |candidate| candidate.minimum = Some(5_000),
            |candidate| candidate.due = 5_000,
            |candidate| candidate.held = false,
            |candidate| candidate.has_unknown = false,
            |candidate| candidate.account_ready = Some(false),
            |candidate| candidate.account_ready = Some(true),
            |candidate| candidate.fee = BasisPoints::ZERO,
        ];
        for repair in repairs {
            told.push(all_wrong.plan().unwrap().unwrap_err());
            repair(&mut all_wrong);
        }
        let expected = [
            Skip::Debt,
            Skip::NothingDue,
            Skip::NoMinimum,
            Skip::BelowMinimum,
            Skip::Held,
            Skip::PayoutUnknown,
            Skip::NoPayoutAccount,
            Skip::AccountNotReady,
            Skip::FeeTakesAll,
        ];
        assert_eq!(told, expected);
        assert_eq!(all_wrong.plan(), Ok(Ok(Split { due: 5_000, fee: 0, send: 5_000 })));
    }

    proptest! {
        #[test]
        fn what_is_paid_is_all_that_is_due_and_nothing_is_paid_below_the_minimum(
            due in -AMOUNT_MAX..AMOUNT_MAX,
            minimum in prop::option::of(0..AMOUNT_MAX),
            bps in 0..=10_000_i64,
            stops in (any::<bool>(), any::<bool>(), prop::option::of(any::<bool>())),
        ) {
            let (held, has_unknown, account_ready) = stops;
            let fee = BasisPoints::new(bps).unwrap();
            let plan = Candidate { due, minimum, fee, held, has_unknown, account_ready }.plan().unwrap();
            let is_stopped = held || has_unknown || account_ready != Some(true);
            let fee = rounded(due.max(0), bps, 10_000);
            let is_due = due > 0 && minimum.is_some_and(|minimum| due >= minimum);
            match plan {
                Ok(split) => {
                    prop_assert!(is_due && !is_stopped);
                    prop_assert_eq!(split, Split { due, fee, send: due - fee });
                    prop_assert!(split.send > 0);
                }
                Err(skip) => {
                    prop_assert!(!is_due || is_stopped || fee == due, "{skip:?} for no reason");
                }
            }
        }
    }
}

mod entries {
    use super::*;

    proptest! {
        #[test]
        fn a_payout_that_is_released_leaves_every_account_as_it_was(
            fee in 0..AMOUNT_MAX,
            send in 1..AMOUNT_MAX,
        ) {
            let mut payout = payout(fee, send);
            let reserve = payout.reserve().unwrap();
            let reserved = BTreeMap::from([(Account::Payable, -(fee + send)), (Account::InTransit, fee + send)]);
            prop_assert_eq!(balances([&reserve]), reserved);
            let release = payout.release().unwrap();
            prop_assert_eq!(balances([&reserve, &release]), BTreeMap::new());
            prop_assert_eq!((reserve.revision, release.revision), (1, 2));
            prop_assert_ne!(reserve.id, release.id);
        }

        #[test]
        fn a_payout_that_is_settled_leaves_nothing_in_transit(fee in 0..AMOUNT_MAX, send in 1..AMOUNT_MAX) {
            let mut payout = payout(fee, send);
            let mut entries = vec![payout.reserve().unwrap()];
            entries.extend(payout.settle().unwrap());
            let mut expected = BTreeMap::from([(Account::Payable, -(fee + send)), (Account::Paid, send)]);
            if fee > 0 {
                expected.insert(Account::FeeIncome, fee);
            }
            prop_assert_eq!(balances(&entries), expected);
            let revisions: Vec<i64> = entries.iter().map(|entry| entry.revision).collect();
            prop_assert_eq!(revisions, (1..=payout.revision).collect::<Vec<_>>());
        }
    }

    #[test]
    fn affiliates_own_their_side_and_the_program_its_own() {
        let mut payout = payout(25, 975);
        let mut entries = vec![payout.reserve().unwrap()];
        entries.extend(payout.settle().unwrap());
        entries.extend(payout.give_back(975).unwrap());
        let enrollment = Owner::Enrollment(payout.enrollment_id.clone());
        let program = Owner::Program(payout.program_id.clone());
        for line in entries.iter().flat_map(Entry::lines) {
            let owner = match line.account {
                Account::Payable | Account::InTransit | Account::Paid => &enrollment,
                Account::FeeIncome | Account::ReturnedCash => &program,
                Account::Held | Account::Expense => panic!("a payout touches no {:?}", line.account),
            };
            assert_eq!(&line.owner, owner, "{:?}", line.account);
        }
    }

    #[test]
    fn an_entry_that_cannot_be_made_uses_no_revision() {
        let mut empty = payout(0, 0);
        assert!(matches!(empty.reserve(), Err(LedgerError::NotPositive(_))));
        assert_eq!(empty.revision, 0);
    }

    #[test]
    fn a_payout_is_named_by_run_enrollment_and_currency() {
        let ann = EnrollmentId::parse("par_ann").unwrap();
        let bob = EnrollmentId::parse("par_bob").unwrap();
        let eur = Currency::parse("eur").unwrap();
        let id = Payout::id_of("run_one", &ann, usd());
        assert_eq!(id, Payout::id_of("run_one", &ann, usd()));
        for other in [("run_two", &ann, usd()), ("run_one", &bob, usd()), ("run_one", &ann, eur)] {
            assert_ne!(id, Payout::id_of(other.0, other.1, other.2));
        }
    }
}

mod returns {
    use super::*;

    /// Cumulative totals as events tell them: late, repeated, nonsense among them.
    fn told(send: i64) -> impl Strategy<Value = Vec<i64>> {
        let total = prop_oneof![
            8 => 0..=send,
            1 => Just(send),
            1 => -AMOUNT_MAX..=0,
            1 => send..=2 * AMOUNT_MAX,
        ];
        prop::collection::vec(total, 1..12)
    }

    fn split_and_totals() -> impl Strategy<Value = (i64, i64, Vec<i64>)> {
        let amounts = prop_oneof![(0..50_i64, 1..50_i64), (0..AMOUNT_MAX, 1..AMOUNT_MAX)];
        amounts.prop_flat_map(|(fee, send)| (Just(fee), Just(send), told(send)))
    }

    proptest! {
        /// `rulings.md` 15, I7: what came back is the highest total told, with its part of the fee.
        #[test]
        fn what_is_given_back_follows_the_highest_total_whatever_came_in_between(
            (fee, send, totals) in split_and_totals(),
        ) {
            let mut payout = payout(fee, send);
            let mut entries = vec![payout.reserve().unwrap()];
            entries.extend(payout.settle().unwrap());
            let mut highest = 0;
            for total in totals {
                let before = payout.clone();
                let entry = payout.give_back(total).unwrap();
                prop_assert_eq!(entry.is_some(), total.min(send) > highest);
                highest = highest.max(total.min(send));
                prop_assert_eq!(payout.reversed, highest);
                prop_assert_eq!(payout.returned, highest + rounded(fee, highest, send));
                match entry {
                    None => prop_assert_eq!(&payout, &before, "old news change nothing"),
                    Some(entry) => {
                        prop_assert_eq!(entry.revision, before.revision + 1);
                        prop_assert_eq!(entry.kind, EntryKind::TransferReturned);
                        entries.push(entry);
                    }
                }

                let books = balances(&entries);
                let balance = |account| books.get(&account).copied().unwrap_or_default();
                prop_assert_eq!(balance(Account::Payable), payout.returned - (fee + send));
                prop_assert_eq!(balance(Account::Paid), send);
                prop_assert_eq!(balance(Account::ReturnedCash), -highest);
                prop_assert_eq!(balance(Account::FeeIncome), fee - (payout.returned - highest));
                prop_assert_eq!(balance(Account::InTransit), 0);
                prop_assert!(balance(Account::Paid) + balance(Account::ReturnedCash) >= 0);
                prop_assert!(payout.returned <= payout.split.due, "no more than was taken");
                prop_assert_eq!(payout.returned == payout.split.due, highest == send);
            }
        }

        #[test]
        fn many_small_returns_come_to_the_same_as_one(
            (fee, send, totals) in split_and_totals(),
        ) {
            let mut in_steps = payout(fee, send);
            for &total in &totals {
                in_steps.give_back(total).unwrap();
            }
            let mut at_once = payout(fee, send);
            at_once.give_back(totals.into_iter().max().unwrap_or_default()).unwrap();
            prop_assert_eq!((in_steps.reversed, in_steps.returned), (at_once.reversed, at_once.returned));
        }
    }

    #[test]
    fn a_return_of_all_gives_back_exactly_what_was_due() {
        let mut payout = payout(25, 975);
        for (total, returned) in [(1, 1), (19, 19), (20, 21), (500, 513), (974, 999), (975, 1_000)] {
            payout.give_back(total).unwrap();
            assert_eq!((payout.reversed, payout.returned), (total, returned));
        }
    }

    #[test]
    fn a_return_without_a_fee_has_no_line_for_it() {
        let entry = payout(0, 975).give_back(100).unwrap().unwrap();
        let expected = BTreeMap::from([(Account::ReturnedCash, -100), (Account::Payable, 100)]);
        assert_eq!(balances([&entry]), expected);
        assert_eq!(entry.lines().len(), 2);
    }
}

mod spreading {
    use super::*;

    fn commissions(amounts: &[i64]) -> Vec<(CommissionId, i64)> {
        let ids = (0..amounts.len()).map(|number| CommissionId::derived(&[&number.to_string()]));
        ids.zip(amounts.iter().copied()).collect()
    }

    fn parts(returned: i64, amounts: &[i64]) -> Vec<i64> {
        let parts = spread(returned, &commissions(amounts)).unwrap();
        parts.into_iter().map(|(_, part)| part).collect()
    }

    fn amounts() -> impl Strategy<Value = Vec<i64>> {
        let amount = prop_oneof![4 => 1..20_i64, 4 => 1..AMOUNT_MAX, 1 => -AMOUNT_MAX..0, 1 => Just(0)];
        prop::collection::vec(amount, 1..20)
    }

    proptest! {
        #[test]
        fn parts_sum_to_what_came_back_and_none_is_more_than_was_paid(
            amounts in amounts(),
            fractions in prop::collection::vec(0..=1_000_i64, 1..8),
        ) {
            let positive: Vec<i64> = amounts.iter().copied().filter(|amount| *amount > 0).collect();
            let total: i64 = positive.iter().sum();
            let mut totals: Vec<i64> = fractions.iter().map(|part| rounded(total, *part, 1_000)).collect();
            totals.sort_unstable();
            let mut before = vec![0; positive.len()];
            for returned in totals {
                let parts = parts(returned, &amounts);
                prop_assert_eq!(parts.len(), positive.len());
                prop_assert_eq!(parts.iter().sum::<i64>(), returned);
                for ((part, paid), before) in parts.iter().zip(&positive).zip(&before) {
                    prop_assert!((0..=*paid).contains(part), "{part} of {paid}");
                    // Each part is rounded on its own, so the next total may take a cent less of it.
                    prop_assert!(*part >= before - 1, "{part} after {before}");
                }
                before = parts;
            }
            prop_assert_eq!(parts(total, &amounts), positive, "a full return takes each back whole");
        }

        #[test]
        fn parts_are_proportional_to_within_a_minor_unit(
            amounts in prop::collection::vec(1..AMOUNT_MAX, 1..20),
            fraction in 0..=1_000_i64,
        ) {
            let total: i64 = amounts.iter().sum();
            let returned = rounded(total, fraction, 1_000);
            for (part, paid) in parts(returned, &amounts).into_iter().zip(&amounts) {
                let error = i128::from(part) * i128::from(total) - i128::from(returned) * i128::from(*paid);
                prop_assert!(error.abs() <= i128::from(total), "{part} of {paid}");
            }
        }
    }

    #[test]
    fn debts_that_a_payout_netted_give_nothing_back() {
        let paid = commissions(&[60, -30, 40]);
        let taken = spread(70, &paid).unwrap();
        assert_eq!(taken, [(paid[0].0.clone(), 42), (paid[2].0.clone(), 28)]);
    }

    #[test]
    fn nothing_paid_gives_nothing_back() {
        assert_eq!(parts(100, &[]), Vec::<i64>::new());
        assert_eq!(parts(100, &[0, -5]), Vec::<i64>::new());
        assert_eq!(parts(0, &[60, 40]), [0, 0]);
        assert_eq!(parts(1_000, &[60, 40]), [60, 40], "never more than was paid");
    }

    /// Parts follow from the total alone, so one part can be a cent less of a larger total. What is posted
    /// is the difference to what was taken before, and that may be negative.
    #[test]
    fn a_larger_total_can_take_a_cent_less_of_one_commission() {
        assert_eq!(parts(1, &[1, 1, 1]), [0, 1, 0]);
        assert_eq!(parts(2, &[1, 1, 1]), [1, 0, 1]);
        assert_eq!(parts(3, &[1, 1, 1]), [1, 1, 1]);
    }

    #[test]
    fn sums_that_do_not_fit_are_errors() {
        assert_eq!(spread(1, &commissions(&[i64::MAX, 1])), Err(MoneyError::Overflow));
    }
}
