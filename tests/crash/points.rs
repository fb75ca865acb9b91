//! Death between receive and process, and at every named point of the stages.

use std::io::{self, Write as _};

use libtest_mimic::Trial;
use remit::{
    app::{
        decide::{self, Request},
        keys::Principal,
    },
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::EnrollmentId,
    },
    failpoint::{COMPILED_IN, Failpoint, VARIABLE},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    harness::on_each_engine,
    program::Server,
    run::Run,
    support::{TestDb, shop::intent},
    traffic::{Rng, arriving, before_poison, poison, stories},
};

/// Says that a test was skipped: builds without debug assertions have no failpoints.
pub fn is_release_build() -> bool {
    if !COMPILED_IN {
        // Past the test harness, which swallows the output of a test that passes.
        let _ = writeln!(io::stderr(), "SKIPPED in a release build: death at named points");
    }
    !COMPILED_IN
}

/// How to bring a node to a point.
pub enum Driver {
    /// By webhooks.
    Webhooks,
    /// By webhooks of which one cannot be processed.
    Poison,
    /// By a person's request.
    Decision,
    /// By no node: `remit replay` passes it, see `replay`.
    Replay,
    /// By paying out, see `payouts`.
    Payouts,
}

/// Every point has one, so a new point does not compile without.
pub const fn driver(point: Failpoint) -> Driver {
    match point {
        Failpoint::ReceiveBeforeCommit
        | Failpoint::ReceiveAfterCommit
        | Failpoint::ProcessAfterFold
        | Failpoint::ProcessBeforeCommit
        | Failpoint::ProcessAfterCommit
        | Failpoint::ReleaseBeforeCommit
        | Failpoint::ReleaseAfterCommit => Driver::Webhooks,
        Failpoint::FailureBeforeCommit | Failpoint::FailureAfterCommit => Driver::Poison,
        Failpoint::DecideBeforeCommit | Failpoint::DecideAfterCommit => Driver::Decision,
        Failpoint::ReplayBeforeCommit | Failpoint::ReplayAfterCommit => Driver::Replay,
        Failpoint::RunBeforeCommit
        | Failpoint::RunAfterCommit
        | Failpoint::AccountBeforeCommit
        | Failpoint::AccountAfterCommit
        | Failpoint::PartBeforeCommit
        | Failpoint::PartAfterCommit
        | Failpoint::SettleBeforeCommit
        | Failpoint::SettleAfterCommit
        | Failpoint::ClaimBeforeCommit
        | Failpoint::ClaimAfterCommit
        | Failpoint::AttemptBeforeCommit
        | Failpoint::AttemptAfterCommit
        | Failpoint::CallBefore
        | Failpoint::CallAfter
        | Failpoint::JudgeBeforeCommit
        | Failpoint::JudgeAfterCommit
        | Failpoint::AdoptBeforeCommit
        | Failpoint::AdoptAfterCommit
        | Failpoint::CancelBeforeCommit
        | Failpoint::CancelAfterCommit
        | Failpoint::ResolveBeforeCommit
        | Failpoint::ResolveAfterCommit => Driver::Payouts,
    }
}

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        what_was_received_is_processed_after_a_kill_without_a_redelivery,
        death_at_any_named_point_changes_nothing_in_the_end
    )
    .into()
}

async fn what_was_received_is_processed_after_a_kill_without_a_redelivery(db: TestDb) {
    let run = Run::on(db).await;
    let mut rng = Rng::new(1);
    let events = stories("kept", 12, &mut rng);
    let receiver = run.program.serve_with(&[("REMIT_SERVER__ROLES", "receive")]).await;
    run.provider.send_to(&[&receiver.base]);
    run.provider.deliver(arriving(&events, &mut rng)).await;
    receiver.kill();
    run.check_inbox().await;
    assert_eq!(run.provider.acknowledged().len(), events.len());

    let node = run.program.serve().await;
    run.tell_reference(&events).await;
    run.check(&node, 0).await;
}

async fn death_at_any_named_point_changes_nothing_in_the_end(db: TestDb) {
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let mut rng = Rng::new(2);
    let node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    run.provider.deliver(vec![before_poison()]).await;
    run.tell_reference(&[before_poison()]).await;
    run.settled(&node).await;
    drop(node);

    let mut parked = 0;
    for &point in Failpoint::ALL {
        let name = format!("{}_", point.as_str().replace('.', "_"));
        let mut events = stories(&name, 4, &mut rng);
        // Whatever the seed gives, there is something to earn and to release.
        events.push(referred(&name));
        match driver(point) {
            Driver::Webhooks => die_of_webhooks(&run, point, &events, &mut rng).await,
            Driver::Poison => {
                events.push(poison(parked));
                parked += 1;
                die_of_webhooks(&run, point, &events, &mut rng).await;
            }
            Driver::Decision => die_of_a_decision(&run, point, &events).await,
            Driver::Replay | Driver::Payouts => continue,
        }
        let node = run.program.serve().await;
        println!("{} was survived", point.as_str());
        run.check(&node, parked).await;
    }
}

/// A payment that ada earns from.
fn referred(name: &str) -> Value {
    let mut event = intent(&format!("{name}ada"), 10_000, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event
}

/// Delivers to a node that dies at `point`, and what that one did not answer to its successor.
async fn die_of_webhooks(run: &Run, point: Failpoint, events: &[Value], rng: &mut Rng) {
    let mut doomed = doomed(run, point).await;
    let ((), successor) = tokio::join!(run.provider.deliver(arriving(events, rng)), async {
        assert_died(&mut doomed).await;
        run.check_inbox().await;
        let successor = run.program.serve().await;
        run.provider.send_to(&[&successor.base]);
        successor
    });
    run.settled(&successor).await;
    run.tell_reference(events).await;
}

/// Claws a part back through a node that dies at `point`, and asks its successor for the same again.
async fn die_of_a_decision(run: &Run, point: Failpoint, events: &[Value]) {
    const CLAWED: i64 = 123;
    let node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    run.provider.deliver(events.to_vec()).await;
    run.settled(&node).await;
    drop(node);
    run.tell_reference(events).await;

    let intent = events.last().unwrap()["data"]["object"]["id"].as_str().unwrap();
    let sale = run.reference.sale(intent).await.unwrap();
    let request = Request {
        sale_id: sale,
        enrollment_id: EnrollmentId::parse(&run.reference.enrollment("ada")).unwrap(),
        kind: DecisionKind::Clawback,
        reason: Some(ClawbackReason::Fraud),
        amount: Some(CLAWED),
        note: None,
        by: Principal::console(),
        idempotency_key: None,
    };
    decide::decide(&run.reference.node.app, &request).await.unwrap();

    let key = run.program.data(&["keys", "create", "--kind", "operator"]).await;
    let path = clawback_path(run, intent).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |node: &Server| {
        client
            .post(format!("{}{path}", node.base))
            .bearer_auth(key["key"].as_str().unwrap())
            .header("idempotency-key", point.as_str())
            .json(&json!({ "reason": "fraud", "amount_cents": CLAWED }))
            .send()
            .await
    };
    let mut doomed = doomed(run, point).await;
    assert!(ask(&doomed).await.is_err(), "the node died before it could answer");
    assert_died(&mut doomed).await;
    let successor = run.program.serve().await;
    assert_eq!(ask(&successor).await.unwrap().status(), StatusCode::OK);
}

async fn doomed(run: &Run, point: Failpoint) -> Server {
    let node = run.program.serve_with(&[(VARIABLE, point.as_str())]).await;
    run.provider.send_to(&[&node.base]);
    node
}

/// SIGABRT: by its own hand, at the point.
pub async fn assert_died(node: &mut Server) {
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(node.ended().await.signal(), Some(6), "{}", node.log());
}

/// Where to claw back ada's commission on the sale of this intent.
async fn clawback_path(run: &Run, intent: &str) -> String {
    const SQL: &str = "SELECT c.id, c.program_id FROM conversion c JOIN sale_alias a ON a.sale_id = c.sale_id
        WHERE a.object_id = $1";
    let mut conn = run.db().db.read().await.unwrap();
    let found: Option<(String, String)> = conn.q(SQL).bind(intent).one().await.unwrap();
    let (conversion, program) = found.unwrap();
    format!("/v1/admin/affiliate/programs/{program}/conversions/{conversion}/clawback")
}
