//! Everything at once: sales, refunds and disputes arrive, payouts are settled all the time, the provider
//! loses answers, repeats itself and tells late, and nodes are killed at any moment.

use std::{cell::Cell, time::Duration};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    harness::{kills, on_each_engine, on_postgres},
    payday::Payday,
    random::{deliver_until, kill_at_random},
    support::TestDb,
    traffic::Rng,
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
    let (events, (), ()) =
        tokio::join!(deliver_until(&payday.run, &over, Rng::new(seed)), settle_until(payday, &over), async {
            kill_at_random(&payday.run, &mut servers, Rng::new(!seed), |servers| payday.send_to(servers))
                .await;
            over.set(true);
        });
    drop(servers);

    payday.sandbox.control("DELETE", "faults", Value::Null).await.unwrap();
    payday.sandbox.release().await;
    payday.run.tell_reference(&events).await;
    let survivor = payday.serve().await;
    payday.pauses_end().await;
    payday.run.settled(&survivor).await;
    for program in PROGRAMS {
        payday.settle_somewhere(program, "last").await.unwrap();
    }
    payday.check(&survivor).await;
    const COMPLETED: &str = "SELECT COUNT(*) FROM payout WHERE state = 'completed'";
    println!("{} payouts", payday.number(COMPLETED).await);
}

/// Settles again and again, each time by a request of its own.
async fn settle_until(payday: &Payday, enough: &Cell<bool>) {
    let mut number = 0;
    while !enough.get() {
        for program in PROGRAMS {
            // A node that is killed does not answer, and what it began the next request goes on with.
            let _answer = payday.settle_somewhere(program, &format!("run {number}")).await;
        }
        number += 1;
        sleep(SETTLE_EVERY).await;
    }
}
