//! The check-up on both engines: books of every kind of change pass it, and changed rows do not.
//!
//! Every way of changing the books is tried in `tests/cli/doctor.rs`, on SQLite; here it is about the queries
//! giving the same answers on PostgreSQL.

use remit::{
    app::{
        doctor::{self, Finding},
        worker,
    },
    clock::{Clock as _, DisciplinedClock, ManualClock, SystemClock},
    domain::time::Timestamp,
    store::{self, Db},
};
use serde_json::json;

use super::support::{
    TestDb, on_each_engine,
    shop::{PAID_AT_S, Shop, charge, intent, refund},
};

/// A shop with a sale that is payable, one that is partly refunded and one that waits out its grace.
async fn open_shop(db: &Db) -> Shop {
    let shop = Shop::open(db, 512).await;
    let mut events = Vec::new();
    for (id, amount) in [("one", 10_000), ("two", 5_000)] {
        let mut paid = intent(id, amount, None);
        paid["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
        events.push(paid);
        events.push(charge(&format!("charge-{id}"), amount, Some(id)));
    }
    shop.tell_and_process(&events).await;
    shop.pass_grace().await;
    shop.tell_and_process(&[refund("refund-two", "charge-two", 1_000)]).await;
    let mut late = intent("three", 700, None);
    late["data"]["object"]["metadata"] = json!({ "referral_code": "bob" });
    shop.tell_and_process(&[late]).await;
    shop
}

async fn change(db: &Db, statements: &[&'static str]) {
    let mut tx = db.begin().await.unwrap();
    for statement in statements {
        assert!(tx.q(*statement).exec().await.unwrap() > 0, "{statement}");
    }
    tx.commit().await.unwrap();
}

fn names(findings: &[Finding]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = findings.iter().map(|finding| finding.invariant).collect();
    names.dedup();
    names
}

on_each_engine! {
    async fn books_that_were_only_written_by_the_program_pass(db: TestDb) {
        let shop = open_shop(&db.db).await;
        assert_eq!(shop.count("applied").await, 6);
        assert_eq!(doctor::examine(&shop.node.app).await.unwrap(), []);
        let mut conn = db.db.read().await.unwrap();
        assert_eq!(store::doctor::ledger_drift(&mut conn).await.unwrap(), 0);
        assert_eq!(store::doctor::count_open_findings(&mut conn).await.unwrap(), []);
        assert!(!store::doctor::read_version(&db.db).await.unwrap().is_empty());
    }

    async fn changed_balances_lots_and_commissions_are_found(db: TestDb) {
        let shop = open_shop(&db.db).await;
        change(&db.db, &[
            "UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'payable'",
            "DELETE FROM lot WHERE kind = 'carry_forward'",
            "UPDATE commission SET revision = revision + 1 WHERE state = 'held'",
            "UPDATE commission SET held_minor = held_minor + 3, earned_minor = earned_minor + 3
                WHERE state = 'held'",
            "UPDATE commission SET state = 'reversed' WHERE state = 'payable'",
            "UPDATE sale SET merged_into = (SELECT MAX(id) FROM sale)
                WHERE id = (SELECT MIN(sale_id) FROM commission)",
        ]).await;
        let found = doctor::examine(&shop.node.app).await.unwrap();
        assert_eq!(names(&found), [
            "balance_is_sum_of_postings",
            "unclaimed_lots_are_payable",
            "lots_follow_entries",
            "commission_held_is_posted",
            "commission_earned_is_posted",
            "revisions_without_gaps",
            "state_fits_amounts",
            "held_balance_is_sum_of_commissions",
            "merged_sale_is_empty",
            "earned_is_accounted_for",
        ]);
        assert!(found.iter().all(|finding| finding.severity == "critical"));
        let mut conn = db.db.read().await.unwrap();
        assert_eq!(store::doctor::ledger_drift(&mut conn).await.unwrap(), 5);
    }

    async fn events_that_nobody_takes_are_found_after_a_while(db: TestDb) {
        let shop = open_shop(&db.db).await;
        shop.tell(&[charge("late", 100, None)]).await;
        assert_eq!(doctor::examine(&shop.node.app).await.unwrap(), []);
        shop.node.clock.advance_secs(16 * 60);
        let found = doctor::examine(&shop.node.app).await.unwrap();
        assert_eq!(names(&found), ["event_stuck"]);
        change(&db.db, &["UPDATE inbox SET state = 'parked', reason = 'odd' WHERE state = 'received'"]).await;
        let found = doctor::examine(&shop.node.app).await.unwrap();
        assert_eq!((names(&found), found[0].severity), (vec!["event_parked"], "warning"));
        assert!(found[0].detail.contains("odd"));
    }

    async fn the_clock_follows_a_database_that_has_one(db: TestDb) {
        let mut conn = db.db.read().await.unwrap();
        let has_clock = store::clock::read(&mut conn).await.unwrap().is_some();
        drop(conn);
        let wrong = DisciplinedClock::new(SystemClock);
        let offset = worker::observe_clock(&db.db, &wrong).await.unwrap();
        // Both run on this machine: whatever differs is the time of a round trip.
        assert!(offset.abs() < 2_000_000, "{offset}");
        let long_ago = DisciplinedClock::new(ManualClock::new(Timestamp::from_secs(PAID_AT_S)));
        assert_eq!(moves_a_late_clock(&db.db, &long_ago).await, has_clock);
    }
}

/// Whether observing the database moves a clock that shows a time long ago.
async fn moves_a_late_clock(db: &Db, clock: &DisciplinedClock<ManualClock>) -> bool {
    let mut conn = db.read().await.unwrap();
    let Some(db_now) = store::clock::read(&mut conn).await.unwrap() else { return false };
    let before = clock.local_now();
    assert!(clock.observe(db_now, before, before));
    assert!(clock.now() > Timestamp::from_secs(PAID_AT_S).plus_days(1));
    true
}
