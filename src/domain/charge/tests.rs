//! What holds of two statements about a charge, whatever order they come in.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_secs(second)
}

#[test]
fn of_two_statements_the_same_holds_in_either_order() {
    for one in ChargeState::ALL {
        for other in ChargeState::ALL {
            for (first, second) in [(1, 1), (1, 2), (2, 1)] {
                let (one, other) = ((at(first), *one), (at(second), *other));
                let (ends, same_rank) =
                    (one.1.is_over() && other.1.is_over(), one.1.rank() == other.1.rank());
                // Two ends contradict each other and the first one heard stands; before there is a payment
                // intent nothing is told.
                if one.1 != other.1 && (ends || (same_rank && one.0 == other.0)) {
                    continue;
                }
                let (forth, back) = (ChargeState::newest(one, other), ChargeState::newest(other, one));
                assert_eq!(forth.1, back.1, "{one:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_payment_that_failed_goes_back_and_one_that_is_over_does_not() {
    let acting = (at(1), ChargeState::RequiresAction);
    let failed = (at(2), ChargeState::RequiresPaymentMethod);
    assert_eq!(ChargeState::newest(acting, failed), failed);
    let paid = (at(1), ChargeState::Succeeded);
    assert_eq!(ChargeState::newest(paid, failed), paid);
    assert_eq!(ChargeState::newest(failed, paid), paid);
}

#[test]
fn a_status_that_is_not_known_yet_is_under_way() {
    assert_eq!(ChargeState::of_status("requires_patience"), ChargeState::Processing);
    for state in ["requires_payment_method", "requires_confirmation", "requires_action", "processing"] {
        assert_eq!(ChargeState::of_status(state).as_str(), state);
    }
    for state in ["requires_capture", "succeeded", "canceled"] {
        assert_eq!(ChargeState::of_status(state).as_str(), state);
    }
}
