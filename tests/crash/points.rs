//! Death between receive and process, and at every named point of the stages.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use libtest_mimic::Trial;
use remit::{
    app::{
        decide::{self, Request},
        enrollments::{self, Verdict},
        keys::Principal,
    },
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::{EnrollmentId, ProgramId},
    },
    failpoint::{COMPILED_IN, Failpoint, VARIABLE},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    harness::{on_each_engine, trial},
    keys::{self, CLAIMS_RUN_OUT},
    program::{Server, assert_died},
    run::Run,
    support::{TestDb, node::Node, shop::intent},
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
    /// By an approval after the sale.
    Refold,
    /// By starting.
    Start,
    /// By starting on a database of an older program, or on an empty one, see `migrating`.
    Migration,
    /// By whoever changes something through the API, see `changes`.
    Changes,
    /// By requests with an Idempotency-Key, see `keys`.
    Keys,
    /// By settlements that passed an account over, see `checks`.
    Checks,
    /// By what affiliates are told, see `mails`.
    Mails,
    /// By no node: `remit replay` passes it, see `replay`.
    Replay,
    /// By paying out, see `payouts`.
    Payouts,
    /// By what cannot be done, see `troubles`.
    Troubles,
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
        Failpoint::RefoldBeforeCommit | Failpoint::RefoldAfterCommit => Driver::Refold,
        Failpoint::BeatBeforeCommit | Failpoint::BeatAfterCommit => Driver::Start,
        Failpoint::MigrateAfterStep | Failpoint::MigrateBeforeCommit | Failpoint::MigrateAfterCommit => {
            Driver::Migration
        }
        Failpoint::ChangeBeforeCommit | Failpoint::ChangeAfterCommit => Driver::Changes,
        Failpoint::KeyBeforeCommit | Failpoint::KeyAfterCommit => Driver::Keys,
        Failpoint::CheckBeforeCommit | Failpoint::CheckAfterCommit => Driver::Checks,
        Failpoint::MailBeforeCommit | Failpoint::MailAfterCommit => Driver::Mails,
        Failpoint::ReplayBeforeCommit | Failpoint::ReplayAfterCommit => Driver::Replay,
        Failpoint::PostponeBeforeCommit
        | Failpoint::PostponeAfterCommit
        | Failpoint::KeepBeforeCommit
        | Failpoint::KeepAfterCommit => Driver::Troubles,
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
    let mut tests = Vec::from(on_each_engine!(
        what_was_received_is_processed_after_a_kill_without_a_redelivery,
        death_at_any_named_point_changes_nothing_in_the_end
    ));
    tests.push(trial(
        concat!(module_path!(), "::every_commit_stands_between_two_points"),
        every_commit_stands_between_two_points,
    ));
    tests.push(trial(
        concat!(module_path!(), "::every_call_of_a_provider_stands_between_two_points"),
        every_call_of_a_provider_stands_between_two_points,
    ));
    tests
}

/// What every other commit goes through, engine by engine: `store::Tx::commit`.
const THE_COMMIT: [&str; 2] =
    ["Link::SqliteTx(tx) => tx.commit().await?,", "Link::PostgresTx(tx) => tx.commit().await?,"];

async fn every_commit_stands_between_two_points() {
    let (mut commits, mut bare, mut the_commit) = (0, Vec::new(), 0);
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(".commit()")) {
            if path.ends_with("store/db.rs") && THE_COMMIT.contains(&line.trim()) {
                the_commit += 1;
                continue;
            }
            commits += 1;
            let is_point = |line: &str, when: &str| line.contains("reach") && line.contains(when);
            let around = (lines[number - 1], lines[number + 1]);
            if !is_point(around.0, "BeforeCommit") || !is_point(around.1, "AfterCommit") {
                bare.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(commits > 15, "{commits} commits are not all");
    assert_eq!(the_commit, THE_COMMIT.len(), "one per engine");
    assert!(bare.is_empty(), "commits without points, see `app::commit_change`: {bare:#?}");
}

async fn every_call_of_a_provider_stands_between_two_points() {
    let mut calls = 0;
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("transport.call(")) {
            calls += 1;
            let place = format!("{}:{}", path.display(), number + 1);
            assert!(lines[number + 1].contains("reach(Failpoint::CallAfter)"), "{place}");
            let before =
                lines[..number].iter().rposition(|line| line.contains("reach(Failpoint::CallBefore)"));
            // Between them the deadline is looked at, and nothing is waited for.
            let waits = |before: usize| lines[before..number].iter().any(|line| line.contains(".await"));
            assert!(before.is_some_and(|before| !waits(before)), "{place}");
        }
    }
    assert_eq!(calls, 1, "all go through one place");
}

/// Every file under `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sources.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources
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
            Driver::Refold => die_of_a_refold(&run, point, &name).await,
            Driver::Start => die_of_a_start(&run, point).await,
            Driver::Migration
            | Driver::Changes
            | Driver::Keys
            | Driver::Checks
            | Driver::Mails
            | Driver::Replay
            | Driver::Payouts
            | Driver::Troubles => continue,
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
    assert_eq!(ask(&successor).await.unwrap().status(), StatusCode::CONFLICT, "the dead may be at work");
    keys::change(run, CLAIMS_RUN_OUT).await;
    let answer = ask(&successor).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("idempotent-replayed"), "it is carried out again, and taken once");
    let again = ask(&successor).await.unwrap();
    assert_eq!((again.status(), again.headers().contains_key("idempotent-replayed")), (StatusCode::OK, true));
}

/// Approves an affiliate after its sale, while a node runs that dies at `point`.
async fn die_of_a_refold(run: &Run, point: Failpoint, name: &str) {
    const PENDING: &str = "UPDATE enrollment_status SET status = 'pending' WHERE enrollment_id = $1";
    let owner = &run.reference.owner;
    let (enrollment, program) = (owner.id("par_", name), owner.id("prog_", "fifth"));
    for db in [&run.reference_db().db, &run.db().db] {
        owner.enroll(db, "fifth", name, name, &format!("{name}@example.com")).await;
        let mut tx = db.begin().await.unwrap();
        tx.q(PENDING).bind(&*enrollment).exec().await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut sale = intent(name, 10_000, None);
    sale["data"]["object"]["metadata"] = json!({ "referral_code": name });
    let mut doomed = doomed(run, point).await;
    run.provider.deliver(vec![sale.clone()]).await;
    run.settled(&doomed).await;
    run.tell_reference(&[sale]).await;

    let (enrollment, program) =
        (EnrollmentId::parse(&enrollment).unwrap(), ProgramId::parse(&program).unwrap());
    let there = Node::new(run.db().db.clone(), 16);
    for node in [&run.reference.node, &there] {
        let (app, by, verdict) = (&node.app, Principal::console(), Verdict::Approve);
        enrollments::judge(app, &by, &program, &enrollment, verdict).await.unwrap();
    }
    run.reference.node.process_all().await;
    assert_died(&mut doomed).await;
    let left = run.number("SELECT COUNT(*) FROM refold").await;
    assert_eq!(left, i64::from(point == Failpoint::RefoldBeforeCommit), "{}", point.as_str());
}

/// Starts a node that dies at `point`, before it listens. Its database is not taken for an older one.
async fn die_of_a_start(run: &Run, point: Failpoint) {
    const BEAT: &str = "SELECT beat FROM instance";
    let before = run.number(BEAT).await;
    run.program.dies_at(point.as_str(), &[]).await;
    let grown = i64::from(point == Failpoint::BeatAfterCommit);
    assert_eq!(run.number(BEAT).await, before + grown, "{}", point.as_str());
    // A node that keeps the schedule would go on beating, at once and every minute.
    let _node = run.program.serve_with(&[("REMIT_SERVER__ROLES", "receive")]).await;
    assert_eq!(run.number(BEAT).await, before + grown + 1, "{}", point.as_str());
    assert_eq!(run.number("SELECT COUNT(*) FROM payout_pause").await, 0, "{}", point.as_str());
}

async fn doomed(run: &Run, point: Failpoint) -> Server {
    let node = run.program.serve_with(&[(VARIABLE, point.as_str())]).await;
    run.provider.send_to(&[&node.base]);
    node
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
