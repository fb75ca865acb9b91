//! Entries balance by construction, and lots follow from them (`rulings.md` 12, 25).

use super::*;
use crate::domain::testing::usd;

fn line(account: Account, side: Side, amount: i64) -> Posting {
    let owner = match account {
        Account::Expense | Account::FeeIncome | Account::ReturnedCash => {
            Owner::Program(ProgramId::parse("prog_1").unwrap())
        }
        Account::Held | Account::Payable | Account::InTransit | Account::Paid => {
            Owner::Enrollment(EnrollmentId::parse("par_1").unwrap())
        }
    };
    Posting { owner, account, side, amount }
}

fn entry(kind: EntryKind, revision: i64, lines: Vec<Posting>) -> Result<Entry, LedgerError> {
    let enrollment_id = EnrollmentId::parse("par_1").unwrap();
    let program_id = ProgramId::parse("prog_1").unwrap();
    let subject = Subject {
        about: About::Commission(CommissionId::parse("com_1").unwrap()),
        enrollment_id: &enrollment_id,
        program_id: &program_id,
        currency: usd(),
    };
    Entry::new(&subject, revision, kind, lines)
}

fn between(kind: EntryKind, debit: Account, credit: Account) -> Entry {
    entry(kind, 1, vec![line(debit, Side::Debit, 70), line(credit, Side::Credit, 70)]).unwrap()
}

#[test]
fn an_entry_that_does_not_balance_is_refused() {
    let lines = vec![line(Account::Expense, Side::Debit, 100), line(Account::Held, Side::Credit, 99)];
    let refused = entry(EntryKind::Accrual, 1, lines).unwrap_err();
    assert!(matches!(refused, LedgerError::Unbalanced { debits: 100, credits: 99, .. }));
    assert!(matches!(entry(EntryKind::Accrual, 1, vec![]), Err(LedgerError::Unbalanced { .. })));
}

#[test]
fn a_line_of_zero_or_less_is_refused() {
    for amount in [0, -5] {
        let lines =
            vec![line(Account::Expense, Side::Debit, amount), line(Account::Held, Side::Credit, amount)];
        assert!(matches!(entry(EntryKind::Accrual, 1, lines), Err(LedgerError::NotPositive(_))));
    }
}

#[test]
fn sums_that_do_not_fit_are_refused() {
    let most = || line(Account::Expense, Side::Debit, i64::MAX);
    let refused = entry(EntryKind::Accrual, 1, vec![most(), most()]);
    assert_eq!(refused, Err(LedgerError::Money(MoneyError::Overflow)));
}

#[test]
fn the_same_revision_has_the_same_id_and_the_next_one_another() {
    let of = |revision| {
        let lines = vec![line(Account::Expense, Side::Debit, 1), line(Account::Held, Side::Credit, 1)];
        entry(EntryKind::Accrual, revision, lines).unwrap().id
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn the_content_hash_shows_every_change() {
    let base = between(EntryKind::Accrual, Account::Expense, Account::Held);
    let turned = between(EntryKind::Accrual, Account::Held, Account::Expense);
    let renamed = between(EntryKind::Adjustment, Account::Expense, Account::Held);
    let moved = between(EntryKind::Accrual, Account::Expense, Account::Payable);
    for other in [turned, renamed, moved] {
        assert_ne!(base.content_hash(), other.content_hash());
    }
    assert_eq!(base.content_hash(), base.clone().content_hash());
}

#[test]
fn only_entries_that_touch_the_payable_side_have_a_lot() {
    let cases = [
        (EntryKind::Accrual, Account::Expense, Account::Held, None),
        (EntryKind::Clawback, Account::Held, Account::Expense, None),
        (EntryKind::Release, Account::Held, Account::Payable, Some((LotKind::Release, 70))),
        (EntryKind::Suspension, Account::Payable, Account::Held, Some((LotKind::Suspension, -70))),
        (EntryKind::Clawback, Account::Payable, Account::Expense, Some((LotKind::CarryForward, -70))),
        (EntryKind::Reinstatement, Account::Expense, Account::Payable, Some((LotKind::Reinstatement, 70))),
        (EntryKind::Adjustment, Account::Expense, Account::Payable, Some((LotKind::Adjustment, 70))),
    ];
    for (kind, debit, credit, expected) in cases {
        let lot = Lot::of(&between(kind, debit, credit)).unwrap();
        assert_eq!(lot.map(|lot| (lot.kind, lot.amount)), expected, "{kind:?}");
    }
}
