//! Too late: a node that comes back when the window of a key is over, and one that stands still between
//! writing a call down and making it.
//!
//! Nobody waits a day here. Between a death and the restart the times in the database are moved back and
//! the provider's clock is moved on, which is the same as time that passes.

use libtest_mimic::Trial;
use remit::{
    clock::{Clock as _, SystemClock},
    domain::intent::WINDOW_S,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    harness::on_each_engine,
    payday::Payday,
    points::is_release_build,
    program::{LOOK_EVERY, Server},
    support::TestDb,
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        a_restart_after_the_window_sends_nothing_again_and_adopts_what_was_made,
        a_node_that_stands_still_past_its_lease_does_not_send_when_it_goes_on,
        a_node_that_stands_still_past_the_window_does_not_send_when_it_goes_on,
    )
    .into()
}

/// How long nobody was there, seconds: longer than the window of a key, and so long that the provider has
/// forgotten the keys and would execute them again.
const AWAY_S: u32 = 25 * 3_600;

const UNKNOWN: &str = "SELECT COUNT(*) FROM payout WHERE state = 'unknown' AND reason = 'window_over'";
const COMPLETED: &str = "SELECT COUNT(*) FROM payout WHERE state = 'completed'";

async fn a_restart_after_the_window_sends_nothing_again_and_adopts_what_was_made(db: TestDb) {
    const LOOK_UPS: &str =
        "SELECT COUNT(*) FROM attempt WHERE kind = 'look_up' AND answered_at_us IS NOT NULL";
    if is_release_build() {
        return;
    }
    // Who is paid, where the node dies, what the provider does meanwhile, and how often it was asked.
    let fates: [(&str, &str, Value, usize); 3] = [
        ("made", "call.after:2", json!([{ "kind": "webhook_none" }]), 1),
        ("hidden", "call.after:2", json!([{ "kind": "hide" }]), 1),
        ("never", "attempt.after_commit", json!([{ "kind": "webhook_none" }]), 0),
    ];
    let payday = Payday::on(db).await;
    payday.earn(&fates.each_ref().map(|fate| fate.0)).await;
    payday.cut_webhooks();
    for (name, death, fault, _) in &fates {
        payday.fault(name, 1, fault.clone()).await;
        settle_without_sending(&payday, name).await;
        payday.run.program.dies_at(death, &[]).await;
        // Nobody takes it over before time has passed.
        payday.change("UPDATE job SET next_attempt_at_us = 9000000000000000 WHERE state = 'running'").await;
    }
    let sends = async || {
        let mut found = Vec::new();
        for (name, ..) in &fates {
            found.push(payday.sends_to(name).await);
        }
        found
    };
    let once: Vec<usize> = fates.iter().map(|fate| fate.3).collect();
    assert_eq!(sends().await, once);
    be_away(&payday).await;

    let node = payday.run.program.serve().await;
    payday.until(&node, UNKNOWN, 3).await;
    assert_eq!(sends().await, once, "a key is not used again");
    // They are looked up, and what the list shows is adopted.
    payday.until_hastened(&node, COMPLETED, 1).await;
    payday.assert_paid_once("made").await;
    let looked_up = payday.number(LOOK_UPS).await;
    payday.pauses_end().await;
    while payday.number(LOOK_UPS).await < looked_up + 2 {
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(payday.number(UNKNOWN).await, 2, "nothing found is no evidence");
    node.kill();

    // What lists do not show is told by an event; of the last one nobody ever hears.
    let node = payday.serve().await;
    payday.webhooks_arrive(&node).await;
    payday.until(&node, COMPLETED, 2).await;
    payday.assert_paid_once("hidden").await;
    assert_eq!((sends().await, payday.number(UNKNOWN).await), (once, 1));
    node.kill();
    resolve_as_not_executed(&payday, "never").await;
    let node = payday.serve().await;
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}

/// F-P-15, by the lease: another node has taken the job over meanwhile.
async fn a_node_that_stands_still_past_its_lease_does_not_send_when_it_goes_on(db: TestDb) {
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    payday.earn(&["owl"]).await;
    settle_without_sending(&payday, "owl").await;
    let sleeper = payday.run.program.stops_at("attempt.after_commit:1", &[]).await;
    assert_eq!(payday.sends_to("owl").await, 0, "it has written down what it was about to send");
    let lease_ends = payday.number("SELECT next_attempt_at_us FROM job").await;
    let other = payday.serve().await;
    payday.until(&other, COMPLETED, 1).await;
    assert!(SystemClock.now().as_micros() > lease_ends, "nobody takes over while the lease lasts");
    sleeper.thaw();
    says_that_it_is_late(&payday, &sleeper, 1).await;
    assert_eq!(payday.sends_to("owl").await, 1, "by the other");
    payday.drained(&other).await;
    payday.assert_all_paid_once(&other).await;
}

/// F-P-15, by the window of the key: the lease would last.
async fn a_node_that_stands_still_past_the_window_does_not_send_when_it_goes_on(db: TestDb) {
    const FIRST_SENT: &str = "UPDATE generation SET first_sent_at_us = $1";
    const LEFT_S: i64 = 10;
    /// A lease is three of them and five seconds.
    const PATIENT: (&str, &str) = ("REMIT_STRIPE__TIMEOUT_S", "30");
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    payday.earn(&["owl"]).await;
    settle_without_sending(&payday, "owl").await;
    // Written down and not sent, nearly as long ago as a key may be used.
    payday.run.program.dies_at("attempt.after_commit", &[]).await;
    let window_ends = SystemClock.now().plus_secs(LEFT_S);
    let mut tx = payday.run.db().db.begin().await.unwrap();
    tx.q(FIRST_SENT).bind(window_ends.plus_secs(-WINDOW_S).as_micros()).exec().await.unwrap();
    tx.commit().await.unwrap();
    payday.leases_run_out().await;
    // The first that it writes down is a look-up, which finds nothing; the second is the send.
    let sleeper = payday.run.program.stops_at("attempt.after_commit:2", &[PATIENT]).await;
    assert_eq!(payday.sends_to("owl").await, 0, "it has written down what it was about to send");
    let lease_ends = payday.number("SELECT next_attempt_at_us FROM job").await;
    // The node's clock follows that of the database, so it may be a little behind this one.
    while SystemClock.now() <= window_ends.plus_secs(1) {
        sleep(LOOK_EVERY).await;
    }
    sleeper.thaw();
    says_that_it_is_late(&payday, &sleeper, 3).await;
    assert!(SystemClock.now().plus_secs(30).as_micros() < lease_ends, "the lease has nothing to do with it");
    payday.until_hastened(&sleeper, UNKNOWN, 1).await;
    assert_eq!(payday.sends_to("owl").await, 0);
    sleeper.kill();
    resolve_as_not_executed(&payday, "owl").await;
    let node = payday.serve().await;
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}

/// Waits until a node has noted that it did not make a call that it had written down.
async fn says_that_it_is_late(payday: &Payday, node: &Server, number: i64) {
    const NOT_SENT: &str =
        "SELECT COALESCE(MAX(number), 0) FROM attempt WHERE kind = 'send' AND verdict = 'not_sent'";
    node.says("a call came too late and was not made").await;
    payday.until(node, NOT_SENT, number).await;
}

/// Reserves the affiliate's payout on a node that makes no calls.
async fn settle_without_sending(payday: &Payday, name: &str) {
    let node = payday.run.program.serve_with(&[("REMIT_SERVER__ROLES", "receive")]).await;
    assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
    node.kill();
}

/// Time passes while no node is there.
async fn be_away(payday: &Payday) {
    const AGES: [&str; 4] = [
        "UPDATE generation SET first_sent_at_us = first_sent_at_us - 90000000000",
        "UPDATE attempt SET sent_at_us = sent_at_us - 90000000000,
            answered_at_us = answered_at_us - 90000000000",
        "UPDATE intent SET created_at_us = created_at_us - 90000000000",
        "UPDATE job SET created_at_us = created_at_us - 90000000000, next_attempt_at_us = 0
            WHERE state = 'running'",
    ];
    for sql in AGES {
        payday.change(sql).await;
    }
    payday.sandbox.advance(AWAY_S).await;
}

/// Two people say that the provider has executed nothing.
async fn resolve_as_not_executed(payday: &Payday, name: &str) {
    assert!(payday.transfers_to(name).await.is_empty(), "{name}");
    let intent = payday.intent_of(name).await;
    let words =
        ["jobs", "resolve", &*intent, "--not-executed", "--evidence", "ticket 4711 of the provider's"];
    let words = [&words[..], &["--approver", payday.operator()]].concat();
    let output = payday.run.program.run(&words, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
