//! Death at every named point of money out: settled once, sent once, booked once.
//!
//! Leases of the dead are let run out by hand; that they run out by themselves is shown in `interrupted`.

use std::os::unix::process::ExitStatusExt as _;

use libtest_mimic::Trial;
use remit::failpoint::{Failpoint, VARIABLE};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    harness::on_each_engine,
    payday::Payday,
    points::{Driver, driver, is_release_build},
    program::assert_died,
    support::TestDb,
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        death_at_any_named_point_pays_once,
        death_of_a_settlement_reserves_all_of_a_chunk_or_nothing,
        death_while_a_webhook_adopts_a_transfer_pays_once,
        death_while_a_job_is_laid_down_pays_once,
        death_while_a_payout_waits_for_its_account_pays_once,
        death_while_a_payout_is_canceled_pays_once,
        death_while_people_end_a_doubt_pays_once,
    )
    .into()
}

/// The nodes that die one after the other before one lives. The first is asked to settle. An account of
/// which nothing is known is read before the first send, so that is the first call and the send the second.
const DEATHS: &[&[&str]] = &[
    &["run.before_commit"],
    &["run.after_commit"],
    &["settle.before_commit"],
    &["settle.after_commit"],
    &["claim.before_commit"],
    &["claim.after_commit"],
    &["account.before_commit"],
    &["account.after_commit"],
    &["attempt.before_commit"],
    &["attempt.after_commit"],
    &["call.before"],
    &["call.after"],
    &["call.before:2"],
    &["call.after:2"],
    &["judge.before_commit"],
    &["judge.after_commit"],
    // The look-up of a transfer that was made, and the judgement of what it found.
    &["call.after:2", "attempt.before_commit"],
    &["call.after:2", "attempt.after_commit"],
    &["call.after:2", "call.before"],
    &["call.after:2", "call.after"],
    &["call.after:2", "judge.before_commit"],
    &["call.after:2", "judge.after_commit"],
    // The look-up that finds nothing, and the send that follows it.
    &["attempt.after_commit", "judge.before_commit"],
    &["attempt.after_commit", "judge.after_commit"],
    &["attempt.after_commit", "attempt.after_commit:2"],
    &["attempt.after_commit", "call.after:2"],
    &["attempt.after_commit", "judge.before_commit:2"],
    // Dying again and again changes nothing.
    &["claim.after_commit", "call.before:2", "attempt.after_commit:2", "call.after:2", "judge.before_commit"],
];

/// Points that only an event or a person passes, each with a test of its own.
const ADOPTION: [&str; 2] = ["adopt.before_commit", "adopt.after_commit"];
const CANCELLATION: [&str; 2] = ["cancel.before_commit", "cancel.after_commit"];
const PARTING: [&str; 2] = ["part.before_commit", "part.after_commit"];
const RESOLUTION: [&str; 2] = ["resolve.before_commit", "resolve.after_commit"];

/// Every point of this driver is one that a node here dies at; whether it does, the tests assert.
fn assert_every_point_is_visited() {
    let others = [ADOPTION, CANCELLATION, PARTING, RESOLUTION];
    let visited = || DEATHS.iter().copied().flatten().chain(others.iter().flatten());
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Payouts)) {
        assert!(visited().any(|death| *death == point.as_str()), "{} is not visited", point.as_str());
    }
}

async fn death_at_any_named_point_pays_once(db: TestDb) {
    assert_every_point_is_visited();
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names: Vec<String> = (0..DEATHS.len()).map(|number| format!("dead{number}")).collect();
    payday.earn(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut survivor = None;
    for (name, deaths) in names.iter().zip(DEATHS) {
        drop(survivor.take());
        for (number, death) in deaths.iter().enumerate() {
            let mut doomed = payday.serve_with(&[(VARIABLE, death)]).await;
            if number == 0 {
                payday.settle(&doomed, name).await;
            }
            assert_died(&mut doomed).await;
            payday.leases_run_out().await;
        }
        let node = payday.serve().await;
        assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        // Before it is sent again it is looked for, and what the first send did is found.
        assert_eq!(payday.sends_to(name).await, 1, "{deaths:?}");
        println!("{deaths:?} was survived");
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}

async fn death_of_a_settlement_reserves_all_of_a_chunk_or_nothing(db: TestDb) {
    const DEATHS: [(&str, &str, [&str; 3], i64); 2] = [
        ("none", "settle.before_commit", ["none0", "none1", "none2"], 0),
        ("all", "settle.after_commit", ["all0", "all1", "all2"], 3),
    ];
    const PENDING: &str = "SELECT COUNT(*) FROM payout WHERE state = 'pending'";
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    for (program, death, team, reserved) in DEATHS {
        payday.earn_together(program, &team).await;
        let id = payday.program(program);
        let settle = ["settle", "--program", &id, "--yes"];
        let output = payday.run.program.run(&settle, &[(VARIABLE, death)]).await;
        assert_eq!(output.status.signal(), Some(9), "{death}: {output:?}");
        assert_eq!(payday.number(PENDING).await, reserved, "{death}");
        // A settlement anew finds what is left, and the unfinished one goes on as well.
        payday.run.program.data(&settle).await;
        assert_eq!(payday.number(PENDING).await, 3, "{death}");
        let node = payday.serve().await;
        payday.drained(&node).await;
        payday.assert_all_paid_once(&node).await;
    }
}

async fn death_while_a_webhook_adopts_a_transfer_pays_once(db: TestDb) {
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names = ["early", "late"];
    payday.earn(&names).await;
    let mut survivor = None;
    for (name, death) in names.into_iter().zip(ADOPTION) {
        drop(survivor.take());
        let sender = payday.serve().await;
        payday.cut_webhooks();
        payday.fault(name, 1, json!({ "kind": "execute_then_hang" })).await;
        assert_eq!(payday.settle(&sender, name).await, Some(StatusCode::OK));
        payday.sandbox.until_hanging(1).await;
        sender.kill();

        // This one cannot ask, so it is the event that adopts.
        let roles = ("REMIT_SERVER__ROLES", "receive,process");
        let mut doomed = payday.serve_with(&[(VARIABLE, death), roles]).await;
        let told = payday.sandbox.control("POST", "webhooks/flush", json!({ "retries": true })).await;
        told.unwrap();
        assert_died(&mut doomed).await;

        let adopter = payday.serve_with(&[roles]).await;
        payday.drained(&adopter).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{name}");
        survivor = Some(adopter);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}

async fn death_while_a_job_is_laid_down_pays_once(db: TestDb) {
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names = ["early", "late"];
    payday.earn(&names).await;
    let mut survivor = None;
    for (name, death) in names.into_iter().zip(PARTING) {
        drop(survivor.take());
        payday.fault(name, 1, json!({ "kind": "webhook_none" })).await;
        let mut sender = payday.serve_with(&[(VARIABLE, "call.after:2")]).await;
        payday.settle(&sender, name).await;
        assert_died(&mut sender).await;
        payday.leases_run_out().await;
        // What it has done can neither be told nor looked up, so the next node lays the job down.
        let reading = json!({ "method": "GET", "path_prefix": "/v1/transfers" });
        let rule = json!({ "match": reading, "times": 1, "fault": { "kind": "html", "status": 503 } });
        payday.sandbox.fault(rule).await.unwrap();
        let mut doomed = payday.serve_with(&[(VARIABLE, death)]).await;
        assert_died(&mut doomed).await;
        payday.leases_run_out().await;
        let node = payday.serve().await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{death}");
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}

async fn death_while_a_payout_waits_for_its_account_pays_once(db: TestDb) {
    const WAITS: &str = "SELECT COUNT(*) FROM payout WHERE state = 'waiting_account'";
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names = ["early", "late"];
    payday.earn(&names).await;
    // The first commit keeps what was read of the account, the second lets the payout wait.
    let deaths = ["account.before_commit:2", "account.after_commit:2"];
    let mut survivor = None;
    for (name, death) in names.into_iter().zip(deaths) {
        drop(survivor.take());
        let transfers = async |state: &str| {
            let path = format!("accounts/acct_{name}");
            payday.sandbox.control("POST", &path, json!({ "transfers": state })).await.unwrap();
        };
        payday.cut_webhooks();
        transfers("inactive").await;
        let mut doomed = payday.run.program.serve_with(&[(VARIABLE, death)]).await;
        payday.settle(&doomed, name).await;
        assert_died(&mut doomed).await;
        payday.leases_run_out().await;
        let node = payday.serve().await;
        payday.until(&node, WAITS, 1).await;
        assert_eq!(payday.sends_to(name).await, 0, "{death}");
        transfers("active").await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}

async fn death_while_a_payout_is_canceled_pays_once(db: TestDb) {
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names = ["early", "late"];
    payday.earn(&names).await;
    // Nothing is sent meanwhile.
    let roles = ("REMIT_SERVER__ROLES", "receive,process,schedule");
    for (name, death) in names.into_iter().zip(CANCELLATION) {
        let mut doomed = payday.serve_with(&[(VARIABLE, death), roles]).await;
        assert_eq!(payday.settle(&doomed, name).await, Some(StatusCode::OK));
        let path = format!("{}/{}/cancel", payday.payouts_path(name), payday.payout_of(name).await);
        assert_eq!(payday.post(&doomed, &path, death).await, None, "the node died before it could answer");
        assert_died(&mut doomed).await;
        payday.claims_run_out().await;
        let successor = payday.serve_with(&[roles]).await;
        let expected = if death == CANCELLATION[0] { StatusCode::OK } else { StatusCode::CONFLICT };
        assert_eq!(payday.post(&successor, &path, death).await, Some(expected), "{death}");
        payday.assert_owed(name).await;
    }
    let node = payday.serve().await;
    for name in names {
        let again = format!("{}/run", payday.payouts_path(name));
        assert_eq!(payday.post(&node, &again, &format!("{name} again")).await, Some(StatusCode::OK));
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
    }
    payday.assert_all_paid_once(&node).await;
}

async fn death_while_people_end_a_doubt_pays_once(db: TestDb) {
    const UNKNOWN: &str = "SELECT COUNT(*) FROM payout WHERE state = 'unknown'";
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    // What the provider did, what people say, and where their program dies.
    let doubts = [
        ("made0", true, RESOLUTION[0]),
        ("made1", true, RESOLUTION[1]),
        ("never0", false, RESOLUTION[0]),
        ("never1", false, RESOLUTION[1]),
    ];
    payday.earn(&doubts.map(|doubt| doubt.0)).await;
    let mut survivor = None;
    for (name, is_made, death) in doubts {
        drop(survivor.take());
        let fault = if is_made {
            json!([{ "kind": "execute_then_500" }, { "kind": "hide" }, { "kind": "webhook_none" }])
        } else {
            json!({ "kind": "fail_500_without_execute" })
        };
        payday.fault(name, 1, fault).await;
        let node = payday.serve().await;
        assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
        // The provider repeats its error until nobody asks it any more.
        payday.until_hastened(&node, UNKNOWN, 1).await;
        node.kill();

        let intent = payday.intent_of(name).await;
        let mut words = vec!["jobs", "resolve", &*intent, "--evidence", "ticket 4711 of the provider's"];
        words.extend(["--approver", payday.operator()]);
        let made = payday.transfers_to(name).await;
        match made.first() {
            Some(transfer) => words.extend(["--executed", transfer["id"].as_str().unwrap()]),
            None => words.push("--not-executed"),
        }
        assert_eq!(made.len(), usize::from(is_made), "{name}");
        let output = payday.run.program.run(&words, &[(VARIABLE, death)]).await;
        assert_eq!(output.status.signal(), Some(9), "{death}: {output:?}");
        let is_over = death == RESOLUTION[1];
        assert_eq!(payday.number(UNKNOWN).await, i64::from(!is_over), "{name}: {death}");
        // Said again, it is done, or was done.
        let again = payday.run.program.run(&words, &[]).await;
        assert_eq!(again.status.code(), Some(i32::from(is_over)), "{name}: {again:?}");
        let node = payday.serve().await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        println!("{name}: {death} was survived");
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}
