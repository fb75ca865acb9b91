//! The database goes away, or does not say whether it has committed.

use std::time::Duration;

use libtest_mimic::Trial;
use remit::failpoint::VARIABLE;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    harness::{on_postgres, trial},
    payday::Payday,
    points::is_release_build,
    program::{LOOK_EVERY, PATIENCE, Server},
    support::{
        TestDb,
        pg::{Death, OwnServer},
        proxy::{Cut, GatedProxy},
    },
    traffic::{Rng, arriving, stories},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial(
            concat!(module_path!(), "::a_database_that_dies_under_load_loses_nothing_and_pays_once"),
            a_database_that_dies_under_load_loses_nothing_and_pays_once,
        ),
        trial(
            concat!(
                module_path!(),
                "::a_database_that_dies_inside_a_transaction_loses_nothing_and_pays_once"
            ),
            a_database_that_dies_inside_a_transaction_loses_nothing_and_pays_once,
        ),
        on_postgres!(a_commit_of_unknown_outcome_pays_once),
    ]
}

/// When the server dies after a settlement was asked for, at most.
const DELAY_MS_MAX: u64 = 60;

async fn a_database_that_dies_under_load_loses_nothing_and_pays_once() {
    const SEED: u64 = 31;
    const DEATHS: [Death; 6] =
        [Death::Immediate, Death::Kill, Death::Kill, Death::Immediate, Death::Kill, Death::Immediate];
    let Some(mut server) = OwnServer::start(module_path!()) else { return };
    println!("seed {SEED}");
    let mut rng = Rng::new(SEED);
    let mut payday = Payday::on(TestDb::at(&server.url()).await).await;
    let names: Vec<String> = (0..DEATHS.len()).map(|number| format!("cut{number}")).collect();
    payday.earn(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let node = payday.serve().await;
    for (name, death) in names.iter().zip(DEATHS) {
        let events = stories(name, 4, &mut rng);
        let deliveries = arriving(&events, &mut rng);
        let delay = Duration::from_millis(rng.below(DELAY_MS_MAX));
        tokio::join!(
            settle_until_answered(&payday, &node, name),
            payday.run.provider.deliver(deliveries),
            async {
                sleep(delay).await;
                server.kill(death);
                server.restart();
            }
        );
        payday.run.tell_reference(&events).await;
    }
    payday.run.reconnect().await;
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}

/// In whose transaction the server dies, and what the node says about it. Everything is written by then.
const INSIDE: [(&str, Option<&str>); 4] = [
    ("settle.before_commit", None),
    ("claim.before_commit", Some("waiting for it")),
    ("attempt.before_commit", Some(INTERRUPTED)),
    ("judge.before_commit", Some(INTERRUPTED)),
];

async fn a_database_that_dies_inside_a_transaction_loses_nothing_and_pays_once() {
    if is_release_build() {
        return;
    }
    let Some(mut server) = OwnServer::start(module_path!()) else { return };
    let mut payday = Payday::on(TestDb::at(&server.url()).await).await;
    let names: Vec<String> = (0..INSIDE.len()).map(|number| format!("inside{number}")).collect();
    payday.earn(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut survivor = None;
    for (name, (point, says)) in names.iter().zip(INSIDE) {
        drop(survivor.take());
        let node = payday.serve_with(&[(VARIABLE, &*format!("{point}:1:stop"))]).await;
        tokio::join!(settle_until_answered(&payday, &node, name), async {
            node.stopped().await;
            server.kill(Death::Kill);
            server.restart();
            node.thaw();
        });
        if let Some(says) = says {
            node.says(says).await;
        }
        payday.run.reconnect().await;
        payday.leases_run_out().await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{point}");
        println!("a database that died at {point} was survived");
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}

/// Sends the same request until it is answered 200.
async fn settle_until_answered(payday: &Payday, node: &Server, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match payday.settle(node, name).await {
            Some(StatusCode::OK) => return,
            Some(StatusCode::SERVICE_UNAVAILABLE) => {}
            // The node could not give the key back: its claim holds for as long as it may be at work.
            Some(StatusCode::CONFLICT) => {
                if payday.can_write().await {
                    payday.claims_run_out().await;
                }
            }
            other => panic!("{other:?} instead of a settlement:\n{}", node.log()),
        }
        assert!(Instant::now() < deadline, "nothing is settled:\n{}", node.log());
        sleep(LOOK_EVERY).await;
    }
}

/// Whose commit is cut: a statement that only this transaction has, and what the node says about it.
struct Commit {
    name: &'static str,
    statement: &'static str,
    says: Option<&'static str>,
}

const COMMITS: [Commit; 6] = [
    Commit { name: "receive", statement: "INSERT INTO inbox", says: None },
    Commit { name: "settle", statement: "INSERT INTO payout (", says: None },
    Commit { name: "claim", statement: "UPDATE job SET state = 'running'", says: Some("waiting for it") },
    Commit { name: "attempt", statement: "INSERT INTO attempt", says: Some(INTERRUPTED) },
    Commit { name: "judge", statement: "UPDATE attempt SET answered_at_us", says: Some(INTERRUPTED) },
    Commit { name: "adopt", statement: "DELETE FROM transfer_news", says: Some("waiting for it") },
];

/// What a node says of a job that it could not finish.
const INTERRUPTED: &str = "taken up again when its lease ends";

async fn a_commit_of_unknown_outcome_pays_once(db: TestDb) {
    let payday = Payday::on(db).await;
    let cuts = [Cut::BeforeCommit, Cut::AfterCommit];
    let cases: Vec<(&Commit, Cut, String)> = COMMITS
        .iter()
        .flat_map(|commit| cuts.map(|cut| (commit, cut, format!("{}{}", commit.name, cut as u8))))
        .collect();
    payday.earn(&cases.iter().map(|case| case.2.as_str()).collect::<Vec<_>>()).await;
    let mut survivor = None;
    for (commit, cut, name) in &cases {
        drop(survivor.take());
        if commit.name == "claim" {
            // Due before the node starts, so that the first time it looks for jobs it takes one.
            let settler = payday.serve_with(&[("REMIT_SERVER__ROLES", "receive,process")]).await;
            settle_until_answered(&payday, &settler, name).await;
        }
        let proxy = GatedProxy::start(payday.run.db().url());
        proxy.cut_commit_after(commit.statement, *cut);
        // A new node prepares every statement anew, so its text passes the proxy.
        let node = payday.serve_with(&[("REMIT_DATABASE__URL", proxy.url())]).await;
        let events: Vec<Value> = stories(&format!("sold_{name}_"), 1, &mut Rng::new(41));
        payday.run.provider.deliver(events.clone()).await;
        payday.run.tell_reference(&events).await;
        settle_until_answered(&payday, &node, name).await;
        proxy.has_cut().await;
        if let Some(says) = commit.says {
            node.says(says).await;
        }
        // Whoever held the job has laid it down without being able to say so.
        payday.leases_run_out().await;
        payday.drained(&node).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{name}");
        println!("{cut:?} of {} was survived", commit.name);
        survivor = Some(node);
    }
    payday.assert_all_paid_once(&survivor.unwrap()).await;
}
