//! Polite stops while money is on its way: nothing new is sent once the drain has begun, and what is on
//! its way is recorded or stays in doubt.

use libtest_mimic::Trial;
use reqwest::StatusCode;
use serde_json::json;

use super::{harness::on_each_engine, payday::Payday, program::Server, support::TestDb};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        a_stop_waits_for_the_answer_and_sends_nothing_new,
        a_stop_while_an_answer_does_not_come_leaves_a_doubt_that_is_cleared,
        a_second_signal_while_an_answer_is_awaited_pays_once,
        a_drain_that_takes_too_long_pays_once,
        a_node_beside_which_a_newer_one_has_migrated_stops_by_itself,
    )
    .into()
}

/// A node that waits for answers as long as a test needs it to.
const PATIENT: (&str, &str) = ("REMIT_STRIPE__TIMEOUT_S", "60");
/// What a node says when it begins to stop.
const STOPPING: &str = "finishing what is under way";

async fn a_stop_waits_for_the_answer_and_sends_nothing_new(db: TestDb) {
    let payday = Payday::on(db).await;
    payday.earn(&["first", "second", "third"]).await;
    payday.fault("first", 1, json!({ "kind": "execute_on_release" })).await;
    // With one place, the others wait behind the first.
    let mut node = payday.serve_with(&[PATIENT, ("REMIT_DISPATCH__CONCURRENCY", "1")]).await;
    assert_eq!(payday.settle(&node, "first").await, Some(StatusCode::OK));
    payday.sandbox.until_hanging(1).await;
    for name in ["second", "third"] {
        assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
    }
    node.terminate();
    node.says(STOPPING).await;
    let before = payday.requests().await;
    payday.sandbox.release().await;
    assert_eq!(node.ended().await.code(), Some(0), "{}", node.log());
    assert_eq!(payday.requests().await, before, "no request begins after the drain did");
    payday.assert_paid_once("first").await;
    assert_eq!(payday.number("SELECT COUNT(*) FROM payout WHERE state = 'pending'").await, 2);
    finish(&payday).await;
}

async fn a_stop_while_an_answer_does_not_come_leaves_a_doubt_that_is_cleared(db: TestDb) {
    const IN_DOUBT: &str = "SELECT COUNT(*) FROM attempt a JOIN job j ON j.intent_id = a.intent_id
        WHERE a.verdict = 'ambiguous' AND j.state = 'retryable'";
    let payday = Payday::on(db).await;
    payday.earn(&["lost"]).await;
    let mut node = payday.serve_with(&[("REMIT_STRIPE__TIMEOUT_S", "3")]).await;
    hang(&payday, &node).await;
    node.terminate();
    node.says(STOPPING).await;
    let before = payday.requests().await;
    assert_eq!(node.ended().await.code(), Some(0), "{}", node.log());
    assert_eq!(payday.requests().await, before, "no request begins after the drain did");
    assert_eq!(payday.number(IN_DOUBT).await, 1);
    finish(&payday).await;
    assert_eq!(payday.sends_to("lost").await, 1);
}

async fn a_second_signal_while_an_answer_is_awaited_pays_once(db: TestDb) {
    let payday = Payday::on(db).await;
    payday.earn(&["lost"]).await;
    let mut node = payday.serve_with(&[PATIENT]).await;
    hang(&payday, &node).await;
    node.terminate();
    node.says(STOPPING).await;
    node.terminate();
    // 128 + 15, as a shell reports a program that SIGTERM ended.
    assert_eq!(node.ended().await.code(), Some(143), "{}", node.log());
    assert_unanswered(&payday).await;
    finish(&payday).await;
    assert_eq!(payday.sends_to("lost").await, 1);
}

async fn a_drain_that_takes_too_long_pays_once(db: TestDb) {
    let payday = Payday::on(db).await;
    payday.earn(&["lost"]).await;
    let mut node = payday.serve_with(&[PATIENT, ("REMIT_SERVER__DRAIN_S", "1")]).await;
    hang(&payday, &node).await;
    node.terminate();
    assert_eq!(node.ended().await.code(), Some(1), "{}", node.log());
    assert_unanswered(&payday).await;
    finish(&payday).await;
    assert_eq!(payday.sends_to("lost").await, 1);
}

async fn a_node_beside_which_a_newer_one_has_migrated_stops_by_itself(db: TestDb) {
    const NEWER: &str = "INSERT INTO schema_migration (version, description, checksum)
        SELECT 9999, 'of a newer program', checksum FROM schema_migration WHERE version = 1";
    let payday = Payday::on(db).await;
    // Whatever its roles: who takes events stops as well as who books them.
    for roles in ["receive,process,dispatch,schedule", "receive"] {
        let mut node = payday.serve_with(&[("REMIT_SERVER__ROLES", roles)]).await;
        payday.change(NEWER).await;
        assert_eq!(node.ended().await.code(), Some(1), "{}", node.log());
        node.says("the schema was changed while this node ran; it stops").await;
        node.says("run a newer remit").await;
        payday.change("DELETE FROM schema_migration WHERE version = 9999").await;
    }
}

/// Sends to the only affiliate, of which neither an answer nor a webhook ever tells.
async fn hang(payday: &Payday, node: &Server) {
    payday.fault("lost", 1, json!([{ "kind": "execute_then_hang" }, { "kind": "webhook_none" }])).await;
    assert_eq!(payday.settle(node, "lost").await, Some(StatusCode::OK));
    payday.sandbox.until_hanging(1).await;
}

async fn assert_unanswered(payday: &Payday) {
    const UNANSWERED: &str = "SELECT COUNT(*) FROM attempt WHERE kind = 'send' AND answered_at_us IS NULL";
    assert_eq!(payday.number(UNANSWERED).await, 1);
}

/// Lets another node do what is left.
async fn finish(payday: &Payday) {
    payday.leases_run_out().await;
    let node = payday.serve().await;
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}
