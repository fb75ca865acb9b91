//! What cannot be done is put off with a finding, what was heard is kept, and dying there loses neither.
//!
//! Each trouble is a row that somebody has changed behind the program's back, as after a restore of one
//! table. It is mended in the end, and then everybody is paid once.

use libtest_mimic::Trial;
use remit::{
    app::{
        enrollments::{self, Verdict},
        keys::Principal,
    },
    domain::ids::{EnrollmentId, ProgramId},
    failpoint::{Failpoint, VARIABLE},
};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    harness::on_each_engine,
    payday::Payday,
    points::{Driver, driver, is_release_build},
    program::assert_died,
    support::{TestDb, node::Node},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        death_while_something_is_put_off_puts_it_off_once,
        death_while_an_answer_that_cannot_be_booked_is_kept_pays_once,
    )
    .into()
}

/// Where something is put off, and how many findings say so when a node has died there.
const PUTTING_OFF: [(&str, i64); 2] = [("postpone.before_commit", 0), ("postpone.after_commit", 1)];
/// Where an answer is kept, and how many answers there are when a node has died there.
const KEEPING: [(&str, i64); 2] = [("keep.before_commit", 0), ("keep.after_commit", 1)];

/// Says what a node does.
const ROLES: &str = "REMIT_SERVER__ROLES";

/// Something that goes wrong behind the program's back.
struct Trouble {
    /// Who runs into it: nodes with this role.
    role: &'static str,
    /// Makes that it cannot be done.
    breaks: &'static str,
    /// How many findings say so.
    findings: &'static str,
    /// Undoes `breaks`.
    mends: &'static str,
    /// Brings the next try about.
    hastens: &'static str,
}

const REFOLD: Trouble = Trouble {
    role: "schedule",
    breaks: "UPDATE payment SET currency = '?' WHERE currency = 'usd'",
    findings: "SELECT COUNT(*) FROM finding WHERE kind = 'refold_failed'",
    mends: "UPDATE payment SET currency = 'usd' WHERE currency = '?'",
    hastens: "UPDATE refold SET due_at_us = 0",
};
const RELEASE: Trouble = Trouble {
    findings: "SELECT COUNT(*) FROM finding WHERE kind = 'release_failed'",
    hastens: "UPDATE commission SET due_at_us = 0 WHERE due_at_us IS NOT NULL",
    ..REFOLD
};
const SETTLEMENT: Trouble = Trouble {
    role: "schedule",
    breaks: "UPDATE program SET min_payout = '?' WHERE min_payout <> '?'",
    findings: "SELECT COUNT(*) FROM finding WHERE kind = 'settlement_failed'",
    mends: "UPDATE program SET min_payout = '{\"usd\":0}' WHERE min_payout = '?'",
    hastens: "UPDATE payout_run SET retry_at_us = NULL",
};
/// A payout that has ended cannot be sent, and a transfer cannot complete it.
const JOB: Trouble = Trouble {
    role: "dispatch",
    breaks: "UPDATE payout SET state = 'canceled' WHERE state IN ('pending', 'submitting')",
    findings: "SELECT COUNT(*) FROM finding WHERE kind = 'job_failed'",
    mends: "UPDATE payout SET state = 'submitting' WHERE state = 'canceled'",
    hastens: "UPDATE job SET next_attempt_at_us = 0 WHERE state IN ('running', 'retryable')",
};
const TRANSFER: Trouble = Trouble {
    role: "process",
    findings: "SELECT COUNT(*) FROM finding WHERE kind = 'transfer_failed'",
    hastens: "UPDATE transfer_news SET due_at_us = 0",
    ..JOB
};

async fn death_while_something_is_put_off_puts_it_off_once(db: TestDb) {
    assert_every_point_is_visited();
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    put_off_a_refold(&payday).await;
    put_off_a_release(&payday).await;
    put_off_a_settlement(&payday).await;
    put_off_a_job(&payday).await;
    put_off_a_transfer(&payday).await;
    let node = payday.serve().await;
    payday.assert_all_paid_once(&node).await;
}

fn assert_every_point_is_visited() {
    let visited = PUTTING_OFF.iter().chain(&KEEPING);
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Troubles)) {
        assert!(visited.clone().any(|(death, _)| *death == point.as_str()), "{}", point.as_str());
    }
}

/// Lets nodes run into the trouble and die while they put off what cannot be done, then mends it.
async fn put_off(payday: &Payday, trouble: &Trouble) {
    payday.change(trouble.breaks).await;
    for (death, findings) in PUTTING_OFF {
        payday.run.program.dies_at(death, &[(ROLES, trouble.role)]).await;
        assert_eq!(payday.number(trouble.findings).await, findings, "{death}: {}", trouble.findings);
        payday.leases_run_out().await;
    }
    payday.change(trouble.mends).await;
    payday.change(trouble.hastens).await;
}

/// Pays the affiliate: whatever it ran into is over, and was told once.
async fn pay(payday: &Payday, name: &str, trouble: &Trouble) {
    let node = payday.serve().await;
    payday.run.settled(&node).await;
    assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
    payday.drained(&node).await;
    payday.assert_paid_once(name).await;
    assert_eq!(payday.number(trouble.findings).await, 1, "{name}");
    println!("{name} was survived");
}

/// An affiliate is approved after its sale, and the sale cannot be folded.
async fn put_off_a_refold(payday: &Payday) {
    const PENDING: &str =
        "UPDATE enrollment_status SET status = 'pending' WHERE enrollment_id LIKE '%-refolded'";
    let name = "refolded";
    payday.employ(name).await;
    payday.change(PENDING).await;
    let reference = &payday.run.reference;
    let mut tx = payday.run.reference_db().db.begin().await.unwrap();
    tx.q(PENDING).exec().await.unwrap();
    tx.commit().await.unwrap();
    let sale = payday.sale(name);
    let node = payday.serve().await;
    payday.run.provider.deliver(vec![sale.clone()]).await;
    payday.run.settled(&node).await;
    node.kill();
    payday.run.tell_reference(&[sale]).await;

    let program = ProgramId::parse(&payday.program(name)).unwrap();
    let enrollment = EnrollmentId::parse(&reference.enrollment(name)).unwrap();
    let there = Node::new(payday.run.db().db.clone(), 16);
    for node in [&reference.node, &there] {
        let (app, by, verdict) = (&node.app, Principal::console(), Verdict::Approve);
        enrollments::judge(app, &by, &program, &enrollment, verdict).await.unwrap();
    }
    reference.node.process_all().await;
    put_off(payday, &REFOLD).await;
    pay(payday, name, &REFOLD).await;
}

/// A commission is due, and its sale cannot be folded.
async fn put_off_a_release(payday: &Payday) {
    const HELD: &str = "SELECT COUNT(*) FROM commission WHERE due_at_us IS NOT NULL AND state = 'held'";
    let name = "released";
    payday.employ(name).await;
    let sale = payday.sale(name);
    let node = payday.serve_with(&[(ROLES, "receive,process")]).await;
    payday.run.provider.deliver(vec![sale.clone()]).await;
    payday.until(&node, HELD, 1).await;
    node.kill();
    payday.run.tell_reference(&[sale]).await;
    put_off(payday, &RELEASE).await;
    pay(payday, name, &RELEASE).await;
}

/// A settlement has begun, and its program cannot be read.
async fn put_off_a_settlement(payday: &Payday) {
    let name = "settled";
    payday.earn(&[name]).await;
    let mut doomed = payday.serve_with(&[(VARIABLE, "run.after_commit")]).await;
    assert_eq!(payday.settle(&doomed, name).await, None);
    assert_died(&mut doomed).await;
    put_off(payday, &SETTLEMENT).await;
    pay(payday, name, &SETTLEMENT).await;
}

/// A payout is to be sent that says that it has ended.
async fn put_off_a_job(payday: &Payday) {
    let name = "sent";
    payday.earn(&[name]).await;
    let node = payday.serve_with(&[(ROLES, "receive")]).await;
    assert_eq!(payday.settle(&node, name).await, Some(StatusCode::OK));
    node.kill();
    put_off(payday, &JOB).await;
    assert_eq!(payday.sends_to(name).await, 0);
    pay(payday, name, &JOB).await;
}

/// An event tells of the transfer of a payout that says that it has ended.
async fn put_off_a_transfer(payday: &Payday) {
    let name = "told";
    payday.earn(&[name]).await;
    let mut sender = payday.serve_with(&[(VARIABLE, "call.after:2")]).await;
    payday.cut_webhooks();
    assert_eq!(payday.settle(&sender, name).await, Some(StatusCode::OK));
    assert_died(&mut sender).await;
    // This one neither asks nor looks at what it was told.
    let receiver = payday.serve_with(&[(ROLES, "receive")]).await;
    payday.webhooks_arrive(&receiver).await;
    receiver.kill();
    put_off(payday, &TRANSFER).await;
    pay(payday, name, &TRANSFER).await;
    assert_eq!(payday.sends_to(name).await, 1);
}

async fn death_while_an_answer_that_cannot_be_booked_is_kept_pays_once(db: TestDb) {
    const KEPT: &str = "SELECT COUNT(*) FROM attempt WHERE verdict = 'executed'";
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names = ["early", "late"];
    payday.earn(&names).await;
    let mut survivor = None;
    for (name, (death, kept)) in names.into_iter().zip(KEEPING) {
        drop(survivor.take());
        let before = payday.number(KEPT).await;
        let silent = json!([{ "kind": "execute_on_release" }, { "kind": "webhook_none" }]);
        payday.fault(name, 1, silent).await;
        let mut doomed = payday.serve_with(&[(VARIABLE, death), ("REMIT_STRIPE__TIMEOUT_S", "60")]).await;
        assert_eq!(payday.settle(&doomed, name).await, Some(StatusCode::OK));
        payday.sandbox.until_hanging(1).await;
        payday.change(JOB.breaks).await;
        payday.sandbox.release().await;
        assert_died(&mut doomed).await;
        assert_eq!(payday.number(KEPT).await, before + kept, "{death}");
        payday.change(JOB.mends).await;
        payday.leases_run_out().await;
        let node = payday.serve().await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{death}: found, not sent again");
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}
