//! Which jobs are taken next and what wakes those that wait, however many there are.

use std::collections::BTreeSet;

use remit::{
    domain::{
        book::{Realm, Scope},
        ids::{IntentId, JobId, ProjectId},
        money::Currency,
        time::Timestamp,
    },
    store::{
        Db,
        jobs::{self, Lease},
        transfers::{self, Request},
    },
};
use serde_json::{Value, json};

use super::support::{TestDb, on_each_engine};

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

fn usd() -> Currency {
    Currency::parse("usd").unwrap()
}

fn intent_of(name: &str) -> IntentId {
    IntentId::derived(&[name])
}

/// A job to be stored: its name, its lane, and since how many seconds it is due.
struct Queued {
    name: String,
    lane: String,
    due_for_s: i64,
}

fn queued(name: &str, lane: &str, due_for_s: i64) -> Queued {
    Queued { name: name.to_owned(), lane: lane.to_owned(), due_for_s }
}

/// Stores jobs of charges in dollars.
async fn enqueue(db: &Db, jobs: &[Queued]) {
    const CHARGES: &str = "INSERT INTO charge (id, project_id, client_reference, amount_minor, currency,
            application_fee_minor, destination, state, told_at_us, created_at_us)
        SELECT value->>'charge', 'proj_default', value->>'charge', 1, 'usd', 0, value->>'lane', 'pending', 0, 0
        FROM json_each($1)";
    const INTENTS: &str =
        "INSERT INTO intent (id, kind, charge_id, provider, livemode, destination, amount_minor, currency,
            state, generation, created_at_us)
        SELECT value->>'intent', 'charge', value->>'charge', 'stripe', FALSE, value->>'lane', 1, 'usd', 'open', 0, 0
        FROM json_each($1)";
    const JOBS: &str =
        "INSERT INTO job (id, kind, intent_id, lane, state, attempts, epoch, next_attempt_at_us,
            created_at_us)
        SELECT value->>'job', 'charge', value->>'intent', value->>'lane', 'available', 0, 0,
            CAST(value->>'at' AS BIGINT), 0
        FROM json_each($1)";
    let rows: Vec<Value> = jobs
        .iter()
        .map(|job| {
            json!({
                "charge": format!("chg_{}", job.name), "intent": intent_of(&job.name),
                "job": JobId::derived(&[&job.name]), "lane": job.lane,
                "at": NOW.plus_secs(-job.due_for_s).as_micros(),
            })
        })
        .collect();
    let list = Value::from(rows).to_string();
    let mut tx = db.begin().await.unwrap();
    for sql in [CHARGES, INTENTS, JOBS] {
        tx.q(sql).bind(&*list).exec().await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn claim(db: &Db, limit: i64, busy: &[String]) -> Vec<Lease> {
    let mut tx = db.begin().await.unwrap();
    let leases = jobs::claim_due(&mut tx, NOW, NOW.plus_secs(60), limit, busy).await.unwrap();
    tx.commit().await.unwrap();
    leases
}

fn lanes(leases: &[Lease]) -> BTreeSet<&str> {
    leases.iter().map(|lease| lease.lane.as_str()).collect()
}

/// Many jobs of one lane, all due longer than what is due of the others.
async fn crowd(db: &Db) {
    let mut all: Vec<Queued> =
        (0..2_500).map(|number| queued(&format!("crowd{number}"), "acct_crowd", 10_000 - number)).collect();
    all.extend([queued("a", "acct_a", 30), queued("b", "acct_b", 20), queued("c", "acct_c", 10)]);
    all.push(queued("later", "acct_later", -10));
    enqueue(db, &all).await;
}

async fn park(db: &Db, name: &str, reason: &str) {
    let mut tx = db.begin().await.unwrap();
    tx.q("UPDATE job SET state = 'parked', reason = $2, next_attempt_at_us = NULL WHERE id = $1")
        .bind(JobId::derived(&[name]).as_str())
        .bind(reason)
        .exec()
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn woken(db: &Db, name: &str, since: Timestamp) -> bool {
    let mut tx = db.begin().await.unwrap();
    let woken = jobs::was_woken_since(&mut tx, &intent_of(name), since).await.unwrap();
    // Its lock must be gone when this returns; a dropped transaction ends a moment later.
    tx.rollback().await.unwrap();
    woken
}

async fn due_at(db: &Db, name: &str) -> Option<i64> {
    let mut conn = db.read().await.unwrap();
    let at: Option<Option<i64>> = conn
        .q("SELECT next_attempt_at_us FROM job WHERE id = $1")
        .bind(JobId::derived(&[name]).as_str())
        .scalar()
        .await
        .unwrap();
    at.flatten()
}

on_each_engine! {
    async fn only_jobs_that_are_not_over_are_counted(db: TestDb) {
        let names = ["a", "b", "parked", "unknown", "completed", "discarded"];
        enqueue(&db.db, &names.map(|name| queued(name, name, 10))).await;
        park(&db.db, "parked", "waiting_funds").await;
        let mut tx = db.db.begin().await.unwrap();
        for state in ["unknown", "completed", "discarded"] {
            let job = JobId::derived(&[state]);
            tx.q("UPDATE job SET state = $2 WHERE id = $1").bind(job.as_str()).bind(state).exec().await.unwrap();
        }
        tx.commit().await.unwrap();
        let mut counted = jobs::count_unfinished(&mut db.db.read().await.unwrap()).await.unwrap();
        counted.sort();
        let expected = [("available", 2), ("parked", 1), ("unknown", 1)];
        assert_eq!(counted, expected.map(|(state, count)| ("charge".to_owned(), state.to_owned(), count)));
    }

    async fn one_job_of_each_lane_is_taken_the_longest_due_first(db: TestDb) {
        enqueue(&db.db, &[
            queued("a1", "acct_a", 90), queued("a2", "acct_a", 80), queued("b1", "acct_b", 70),
            queued("c1", "acct_c", 60), queued("d1", "acct_d", 50), queued("e1", "acct_e", -1),
        ]).await;
        let busy = ["acct_c".to_owned()];
        let first = claim(&db.db, 2, &busy).await;
        assert_eq!(lanes(&first), BTreeSet::from(["acct_a", "acct_b"]));
        assert!(first.iter().any(|lease| lease.intent_id == intent_of("a1")));
        // What a node holds is due again when its lease runs out; until then the next of the lane is.
        let second = claim(&db.db, 10, &busy).await;
        assert_eq!(lanes(&second), BTreeSet::from(["acct_a", "acct_d"]));
        assert!(second.iter().any(|lease| lease.intent_id == intent_of("a2")));
        assert_eq!(claim(&db.db, 10, &busy).await, []);
    }

    async fn a_lane_with_thousands_of_due_jobs_hides_no_other(db: TestDb) {
        crowd(&db.db).await;
        assert_eq!(lanes(&claim(&db.db, 3, &[]).await), BTreeSet::from(["acct_crowd", "acct_a", "acct_b"]));
        let busy = ["acct_crowd".to_owned(), "acct_a".to_owned(), "acct_b".to_owned()];
        assert_eq!(lanes(&claim(&db.db, 3, &busy).await), BTreeSet::from(["acct_c"]));
        assert_eq!(claim(&db.db, 3, &busy).await, []);
    }

    async fn a_wake_up_finds_what_waits_for_it_and_tells_what_is_being_worked_on(db: TestDb) {
        enqueue(&db.db, &[
            queued("funds", "acct_a", 1), queued("account", "acct_b", 1), queued("running", "acct_b", 2),
            queued("other", "acct_c", 1),
        ]).await;
        let leases = claim(&db.db, 1, &["acct_a".to_owned(), "acct_c".to_owned()]).await;
        assert_eq!(leases[0].intent_id, intent_of("running"));
        for (name, reason) in [("funds", "waiting_funds"), ("account", "waiting_account"), ("other", "waiting_account")] {
            park(&db.db, name, reason).await;
        }
        let told = NOW.plus_secs(5);
        let mut tx = db.db.begin().await.unwrap();
        jobs::wake_accounts(&mut tx, &["acct_b"], told).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(due_at(&db.db, "account").await, Some(told.as_micros()));
        assert_eq!(due_at(&db.db, "running").await, Some(NOW.plus_secs(60).as_micros()), "its lease stays");
        assert_eq!((due_at(&db.db, "funds").await, due_at(&db.db, "other").await), (None, None));
        assert!(woken(&db.db, "running", NOW).await);
        assert!(!woken(&db.db, "running", told.plus_micros(1)).await);
        assert!(!woken(&db.db, "other", NOW).await);

        let mut tx = db.db.begin().await.unwrap();
        jobs::wake_funds(&mut tx, &[Currency::parse("eur").unwrap()], told).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(due_at(&db.db, "funds").await, None, "euros are no dollars");
        let later = told.plus_secs(5);
        let mut tx = db.db.begin().await.unwrap();
        jobs::wake_funds(&mut tx, &[usd()], later).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(due_at(&db.db, "funds").await, Some(later.as_micros()));
        assert!(woken(&db.db, "running", later).await);
        assert_eq!(due_at(&db.db, "other").await, None);
    }

    async fn a_claim_forgets_what_was_told_before_it(db: TestDb) {
        enqueue(&db.db, &[queued("a", "acct_a", 1)]).await;
        park(&db.db, "a", "waiting_account").await;
        let mut tx = db.db.begin().await.unwrap();
        jobs::wake_accounts(&mut tx, &["acct_a"], NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert!(woken(&db.db, "a", NOW).await);
        assert_eq!(claim(&db.db, 1, &[]).await.len(), 1);
        assert!(!woken(&db.db, "a", NOW).await);
    }

    async fn what_is_told_anew_of_a_transfer_is_not_put_off_with_the_old(db: TestDb) {
        let scope = Scope { project_id: ProjectId::platform(), realm: Realm::new("stripe", false, "") };
        let request = [Request { scope: &scope, transfer_id: "tr_1", event_id: None }];
        let mut tx = db.db.begin().await.unwrap();
        transfers::request(&mut tx, &request, NOW).await.unwrap();
        let seen = transfers::list_due(&mut tx, NOW, 10).await.unwrap().remove(0);
        transfers::request(&mut tx, &request, NOW.plus_secs(1)).await.unwrap();
        transfers::postpone(&mut tx, &seen, NOW.plus_secs(3_600)).await.unwrap();
        let again = transfers::list_due(&mut tx, NOW.plus_secs(1), 10).await.unwrap();
        assert_eq!(again.len(), 1);
        transfers::postpone(&mut tx, &again[0], NOW.plus_secs(3_600)).await.unwrap();
        assert_eq!(transfers::list_due(&mut tx, NOW.plus_secs(1), 10).await.unwrap(), []);
        tx.commit().await.unwrap();
    }
}
