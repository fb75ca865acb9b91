//! What a payout posts, and that it nets to nothing where it should.

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
