//! What is paid, and why not.

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
