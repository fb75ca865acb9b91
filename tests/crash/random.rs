//! Death at any moment, again and again, while providers go on delivering.

use std::{cell::Cell, ops::Range, time::Duration};

use libtest_mimic::Trial;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    harness::{kills, on_each_engine, on_postgres},
    program::Server,
    run::Run,
    support::TestDb,
    traffic::{Rng, arriving, stories},
};

/// Sales of which the provider tells at a time.
const SALES_AT_ONCE: usize = 12;
/// Deliveries that a node answers, at most, before it is due to be killed.
const ANSWERS_MAX: u64 = 40;
/// How much later it is killed, at most: several batches.
const DELAY_MS_MAX: u64 = 30;

pub fn tests() -> Vec<Trial> {
    let mut tests = Vec::from(on_each_engine!(kills_under_load_lose_nothing_and_double_nothing));
    tests.push(on_postgres!(kills_of_one_or_both_of_two_nodes_lose_nothing_and_double_nothing));
    tests
}

async fn kills_under_load_lose_nothing_and_double_nothing(db: TestDb) {
    survive(&Run::on(db).await, 1, 3).await;
}

async fn kills_of_one_or_both_of_two_nodes_lose_nothing_and_double_nothing(db: TestDb) {
    survive(&Run::on(db).await, 2, 4).await;
}

/// Delivers to so many nodes, kills one or all of them again and again, and checks inbox and books.
async fn survive(run: &Run, nodes: usize, seed: u64) {
    println!("seed {seed}, {} kills", kills());
    let mut servers = Vec::new();
    for _ in 0..nodes {
        servers.push(run.program.serve().await);
    }
    publish(run, &servers);
    let killed_all = Cell::new(false);
    let (events, ()) = tokio::join!(deliver_until(run, &killed_all, Rng::new(seed)), async {
        kill_at_random(run, &mut servers, Rng::new(!seed)).await;
        killed_all.set(true);
    });
    for survivor in &servers {
        run.settled(survivor).await;
    }
    run.tell_reference(&events).await;
    run.check(&servers[0], 0).await;
}

/// Delivers sale after sale and returns all events in the order in which they happened.
async fn deliver_until(run: &Run, enough: &Cell<bool>, mut rng: Rng) -> Vec<Value> {
    let mut told = Vec::new();
    while !enough.get() {
        let events = stories(&format!("load{}_", told.len()), SALES_AT_ONCE, &mut rng);
        run.provider.deliver(arriving(&events, &mut rng)).await;
        told.extend(events);
    }
    told
}

/// Kills and replaces nodes. Where there is only one, the provider finds nobody in between.
async fn kill_at_random(run: &Run, servers: &mut Vec<Server>, mut rng: Rng) {
    for _ in 0..kills() {
        run.provider.answers(usize::try_from(rng.below(ANSWERS_MAX)).unwrap()).await;
        sleep(Duration::from_millis(rng.below(DELAY_MS_MAX))).await;
        let all = servers.len();
        for killed in servers.drain(victims(all, &mut rng)) {
            killed.kill();
        }
        publish(run, servers);
        run.check_inbox().await;
        while servers.len() < all {
            servers.push(run.program.serve().await);
            publish(run, servers);
        }
    }
}

/// Which of `all` nodes to kill: one of them, or all at once.
pub fn victims(all: usize, rng: &mut Rng) -> Range<usize> {
    let victim = usize::try_from(rng.below(all as u64 + 1)).unwrap();
    if victim == all { 0..all } else { victim..victim + 1 }
}

fn publish(run: &Run, servers: &[Server]) {
    let addresses: Vec<&str> = servers.iter().map(|server| server.base.as_str()).collect();
    run.provider.send_to(&addresses);
}
