//! What a returned transfer takes of each commission (`rulings.md` 15).

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
