//! Death and sleep while an answer of the provider's is on its way.
//!
//! That a key is not sent again once its window of hours is over is shown in `late`; here time is real.

use libtest_mimic::Trial;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{harness::on_each_engine, payday::Payday, program::Server, support::TestDb};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        a_kill_while_answers_are_awaited_pays_once,
        a_refusal_that_a_kill_lost_is_told_again_and_the_payout_waits,
        a_node_that_sleeps_past_its_lease_changes_nothing_when_it_wakes,
        an_answer_that_is_read_too_late_is_kept,
    )
    .into()
}

/// A node that waits for answers as long as a test needs it to.
const PATIENT: (&str, &str) = ("REMIT_STRIPE__TIMEOUT_S", "60");

async fn a_kill_while_answers_are_awaited_pays_once(db: TestDb) {
    // Who is paid, what happens to the send, and how often it is sent in the end.
    let fates: [(&str, Value, u32); 5] = [
        ("executed", json!({ "kind": "execute_then_hang" }), 1),
        ("never", json!({ "kind": "hang_before_execute" }), 2),
        ("told", json!([{ "kind": "execute_then_hang" }, { "kind": "webhook_before_answer" }]), 1),
        ("hidden", json!([{ "kind": "execute_then_hang" }, { "kind": "hide" }]), 2),
        ("again", json!([{ "kind": "execute_then_hang" }, { "kind": "webhook_duplicate", "times": 3 }]), 1),
    ];
    let names = fates.each_ref().map(|fate| fate.0);
    let payday = Payday::on(db).await;
    payday.earn(&names).await;
    let node = payday.serve_with(&[PATIENT]).await;
    for (name, fault, _) in &fates {
        let silent = *name != "told" && *name != "again";
        let mut faults = fault.as_array().cloned().unwrap_or_else(|| vec![fault.clone()]);
        if silent {
            faults.push(json!({ "kind": "webhook_none" }));
        }
        payday.fault(name, 1, Value::Array(faults)).await;
        assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
    }
    payday.sandbox.until_hanging(names.len()).await;
    node.kill();
    payday.leases_run_out().await;
    let node = payday.serve().await;
    payday.drained(&node).await;
    for (name, _, sends) in &fates {
        assert_eq!(payday.sends_to(name).await, *sends as usize, "{name}");
    }
    payday.assert_all_paid_once(&node).await;
}

async fn a_refusal_that_a_kill_lost_is_told_again_and_the_payout_waits(db: TestDb) {
    let payday = Payday::on(db).await;
    payday.earn(&["poor"]).await;
    let balance = async |amount: i64| {
        let body = json!({ "currency": "usd", "set": amount });
        payday.sandbox.control("POST", "balance", body).await.unwrap();
    };
    balance(0).await;
    // The refusal is stored under the key, and all of it that arrives is the first byte.
    payday.fault("poor", 1, json!({ "kind": "execute_then_hang" })).await;
    let node = payday.serve_with(&[PATIENT]).await;
    assert_eq!(payday.settle(&node, "poor").await, Some(StatusCode::OK));
    payday.sandbox.until_hanging(1).await;
    node.kill();
    payday.leases_run_out().await;
    let node = payday.serve().await;
    payday.until(&node, "SELECT COUNT(*) FROM payout WHERE state = 'waiting_funds'", 1).await;
    assert_eq!(payday.number("SELECT MAX(generation) FROM intent").await, 1);
    assert!(payday.transfers_to("poor").await.is_empty());
    // The provider says that there is money again.
    balance(1_000_000).await;
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}

async fn a_node_that_sleeps_past_its_lease_changes_nothing_when_it_wakes(db: TestDb) {
    const NEXT: &str = "SELECT MIN(sent_at_us) FROM attempt WHERE number > 1";
    let payday = Payday::on(db).await;
    payday.earn(&["owl"]).await;
    let sleeper = payday.serve().await;
    hold_the_answer(&payday, "owl").await;
    assert_eq!(payday.settle(&sleeper, "owl").await, Some(StatusCode::OK));
    payday.sandbox.until_hanging(1).await;
    freeze(&payday, &sleeper).await;
    payday.sandbox.release().await;
    let lease_ends = payday.number("SELECT next_attempt_at_us FROM job").await;

    let other = payday.serve().await;
    payday.until(&other, "SELECT COUNT(*) FROM payout WHERE state = 'completed'", 1).await;
    assert!(payday.number(NEXT).await >= lease_ends, "nobody takes over while the lease lasts");
    wake_and_compare(&payday, &sleeper).await;
    payday.assert_all_paid_once(&other).await;
}

async fn an_answer_that_is_read_too_late_is_kept(db: TestDb) {
    const KEPT: &str = "SELECT COUNT(*) FROM attempt a JOIN intent i ON i.id = a.intent_id
        WHERE a.number = 1 AND a.verdict = 'executed' AND a.object_id = i.object_id AND a.status = 200";
    let payday = Payday::on(db).await;
    payday.earn(&["owl"]).await;
    let sleeper = payday.serve_with(&[PATIENT]).await;
    hold_the_answer(&payday, "owl").await;
    assert_eq!(payday.settle(&sleeper, "owl").await, Some(StatusCode::OK));
    payday.sandbox.until_hanging(1).await;
    freeze(&payday, &sleeper).await;
    // The answer is on the sleeper's side of the wire when somebody else takes over.
    payday.sandbox.release().await;
    payday.leases_run_out().await;
    let other = payday.serve().await;
    payday.until(&other, "SELECT COUNT(*) FROM payout WHERE state = 'completed'", 1).await;
    wake_and_compare(&payday, &sleeper).await;
    assert_eq!(payday.number(KEPT).await, 1);
    payday.assert_all_paid_once(&other).await;
}

/// The next send to the affiliate is answered when the test releases it, and no webhook tells of it.
async fn hold_the_answer(payday: &Payday, name: &str) {
    payday.fault(name, 1, json!([{ "kind": "execute_on_release" }, { "kind": "webhook_none" }])).await;
}

/// Stops a process where it holds no lock on the database. One that is stopped inside a transaction keeps
/// a SQLite file locked, which no lease helps against.
async fn freeze(payday: &Payday, node: &Server) {
    loop {
        node.freeze();
        if payday.can_write().await {
            return;
        }
        node.thaw();
    }
}

/// Wakes a node that has lost its lease, and waits until it has kept the answer that it had asked for.
/// Nothing else may have changed.
async fn wake_and_compare(payday: &Payday, sleeper: &Server) {
    const ENTRIES: &str = "SELECT COUNT(*) FROM entry";
    const EPOCH: &str = "SELECT epoch FROM job";
    const ATTEMPTS: &str = "SELECT COUNT(*) FROM attempt";
    const ANSWERED: &str = "SELECT COUNT(*) FROM attempt WHERE number = 1 AND answered_at_us IS NOT NULL";
    let mut before = Vec::new();
    for sql in [ENTRIES, EPOCH, ATTEMPTS] {
        before.push(payday.number(sql).await);
    }
    assert_eq!(payday.number(ANSWERED).await, 0);
    sleeper.thaw();
    payday.until(sleeper, ANSWERED, 1).await;
    let mut after = Vec::new();
    for sql in [ENTRIES, EPOCH, ATTEMPTS] {
        after.push(payday.number(sql).await);
    }
    assert_eq!(before, after, "entries, epoch, attempts");
}
