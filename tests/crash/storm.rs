//! Everything at once: sales, refunds and disputes arrive, payouts are settled all the time, the provider
//! loses answers, repeats itself and tells late, and nodes are killed at any moment.

use std::{cell::Cell, time::Duration};

use libtest_mimic::Trial;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    harness::{kills, on_each_engine, on_postgres},
    payday::Payday,
    program::{LOOK_EVERY, PATIENCE, Server},
    random::victims,
    support::TestDb,
    traffic::{Rng, arriving, stories},
};

pub fn tests() -> Vec<Trial> {
    let mut tests = Vec::from(on_each_engine!(kills_under_load_pay_once));
    tests.push(on_postgres!(kills_of_one_or_both_of_two_nodes_pay_once));
    tests
}

/// How many of a thousand requests about transfers something happens to.
const FAULTS_PERMILLE: u32 = 300;
/// A settlement is asked for that often.
const SETTLE_EVERY: Duration = Duration::from_millis(100);
/// Sales happen that often, and so many at a time. What they earn is payable a second later.
const SALES_EVERY: Duration = Duration::from_millis(200);
const SALES_AT_ONCE: usize = 6;
/// Calls that the nodes make, at most, before one is due to be killed.
const CALLS_MAX: u64 = 8;
/// How much later it is killed, at most.
const DELAY_MS_MAX: u64 = 60;
/// The affiliates of the shop's programs.
const AFFILIATES: [&str; 3] = ["ada", "bob", "cleo"];
/// The shop's programs.
const PROGRAMS: [&str; 2] = ["fifth", "patient"];

/// What happens to them. Nothing here makes the provider pay twice by itself, and whatever it does is
/// told in the end.
fn faults() -> Value {
    json!([
        "execute_then_500",
        "execute_then_hang",
        "execute_then_reset_at_byte",
        "truncated_body",
        "reset_before_execute",
        "hang_before_execute",
        "too_many_requests",
        "key_in_use",
        "html",
        "webhook_before_answer",
        "webhook_duplicate",
        { "kind": "html", "executed": true },
        { "kind": "fail_500_without_execute", "stored": false },
        { "kind": "fail_500_without_execute", "late_s": 1 },
        { "kind": "webhook_late", "for_s": 2 },
        { "kind": "hide", "for_s": 2 },
    ])
}

async fn kills_under_load_pay_once(db: TestDb) {
    survive(&Payday::on(db).await, 1, 21).await;
}

async fn kills_of_one_or_both_of_two_nodes_pay_once(db: TestDb) {
    survive(&Payday::on(db).await, 2, 22).await;
}

async fn survive(payday: &Payday, nodes: usize, seed: u64) {
    const COMPLETED: &str = "SELECT COUNT(*) FROM payout WHERE state = 'completed'";
    println!("seed {seed}, {} kills", kills());
    for name in AFFILIATES {
        payday.open_account(name).await;
    }
    let random = json!({
        "seed": seed, "permille": FAULTS_PERMILLE, "kinds": faults(),
        "match": { "path_prefix": "/v1/transfers" },
    });
    payday.sandbox.fault(json!({ "random": random })).await.unwrap();
    let mut servers = Vec::new();
    for _ in 0..nodes {
        servers.push(payday.run.program.serve().await);
    }
    payday.send_to(&servers);
    let over = Cell::new(false);
    tokio::join!(sell_until(payday, &over, Rng::new(seed)), settle_until(payday, &over), async {
        kill_at_random(payday, &mut servers, Rng::new(!seed)).await;
        over.set(true);
    });
    drop(servers);

    payday.sandbox.control("DELETE", "faults", Value::Null).await.unwrap();
    payday.sandbox.release().await;
    let survivor = payday.serve().await;
    payday.pauses_end().await;
    payday.run.settled(&survivor).await;
    for program in PROGRAMS {
        assert_eq!(payday.settle_somewhere(program, &format!("{program}_last")).await, Some(StatusCode::OK));
    }
    payday.check(&survivor).await;
    let paid = payday.number(COMPLETED).await;
    assert!(paid >= i64::try_from(kills()).unwrap(), "{paid} payouts are no storm");
    println!("{paid} payouts");
}

/// Delivers sale after sale, and tells the reference of them in the order in which they happened.
async fn sell_until(payday: &Payday, enough: &Cell<bool>, mut rng: Rng) {
    let mut told = 0;
    while !enough.get() {
        let events = stories(&format!("storm{told}_"), SALES_AT_ONCE, &mut rng);
        payday.run.provider.deliver(arriving(&events, &mut rng)).await;
        payday.run.tell_reference(&events).await;
        told += 1;
        sleep(SALES_EVERY).await;
    }
}

/// Kills one node or all, whenever they have made some more calls, and replaces them.
async fn kill_at_random(payday: &Payday, servers: &mut Vec<Server>, mut rng: Rng) {
    for _ in 0..kills() {
        calls(payday, 1 + i64::try_from(rng.below(CALLS_MAX)).unwrap()).await;
        sleep(Duration::from_millis(rng.below(DELAY_MS_MAX))).await;
        let all = servers.len();
        for killed in servers.drain(victims(all, &mut rng)) {
            killed.kill();
        }
        payday.send_to(servers);
        while servers.len() < all {
            servers.push(payday.run.program.serve().await);
            payday.send_to(servers);
        }
    }
}

/// Waits until so many more calls to the provider are written down.
async fn calls(payday: &Payday, more: i64) {
    const CALLS: &str = "SELECT COUNT(*) FROM attempt";
    let enough = payday.number(CALLS).await + more;
    let deadline = Instant::now() + PATIENCE;
    while payday.number(CALLS).await < enough {
        assert!(Instant::now() < deadline, "nobody asks the provider for anything");
        sleep(LOOK_EVERY).await;
    }
}

/// Settles again and again, each time by a request of its own.
async fn settle_until(payday: &Payday, enough: &Cell<bool>) {
    let mut number = 0;
    while !enough.get() {
        for program in PROGRAMS {
            let answer = payday.settle_somewhere(program, &format!("{program}_{number}")).await;
            // A node that is killed does not answer; what it began is gone on with by the others.
            assert!(matches!(answer, None | Some(StatusCode::OK)), "{answer:?}");
        }
        number += 1;
        sleep(SETTLE_EVERY).await;
    }
}
