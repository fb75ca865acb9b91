//! What comes back of a payout that was settled (`rulings.md` 15).

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
