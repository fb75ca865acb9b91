//! Death at any moment, again and again, while providers go on delivering.

use std::{env, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    program::Server,
    run::Run,
    support::{TestDb, on_each_engine},
    traffic::{Rng, arriving, stories},
};

/// Sales per kill: about four times as many deliveries, so that traffic outlasts the last kill.
const SALES_PER_KILL: usize = 14;
/// Deliveries that a node answers, at most, before it is due to be killed.
const ANSWERS_MAX: u64 = 40;
/// How much later it is killed, at most: several batches.
const DELAY_MS_MAX: u64 = 30;

/// How often a node is killed: `REMIT_KILLS`, by default a number that a build can afford.
fn kills() -> usize {
    env::var("REMIT_KILLS").map_or(4, |kills| kills.parse().expect("REMIT_KILLS is a number"))
}

on_each_engine! {
    async fn kills_under_load_lose_nothing_and_double_nothing(db: TestDb) {
        survive(&Run::on(db).await, 1, 3).await;
    }
}

#[tokio::test]
async fn kills_of_either_of_two_nodes_lose_nothing_and_double_nothing() {
    if let Some(db) = TestDb::postgres(module_path!()).await {
        survive(&Run::on(db).await, 2, 4).await;
    }
}

/// Delivers to so many nodes, kills one of them again and again, and checks inbox and books.
async fn survive(run: &Run, nodes: usize, seed: u64) {
    println!("seed {seed}, {} kills", kills());
    let mut rng = Rng::new(seed);
    let events = stories("load", SALES_PER_KILL * kills(), &mut rng);
    let deliveries = arriving(&events, &mut rng);
    let mut servers = Vec::new();
    for _ in 0..nodes {
        servers.push(run.program.serve().await);
    }
    tokio::join!(
        async {
            run.provider.deliver(deliveries).await;
        },
        kill_at_random(run, &mut servers, &mut rng),
        tell_reference_meanwhile(run, &events),
    );
    for survivor in &servers {
        run.settled(survivor).await;
    }
    run.check(&servers[0], 0).await;
}

/// Kills and replaces nodes. Between a death and the next start, where it was the only node, the provider
/// finds nobody.
async fn kill_at_random(run: &Run, servers: &mut Vec<Server>, rng: &mut Rng) {
    publish(run, servers);
    for _ in 0..kills() {
        run.provider.answers(usize::try_from(rng.below(ANSWERS_MAX)).unwrap()).await;
        sleep(Duration::from_millis(rng.below(DELAY_MS_MAX))).await;
        let victim = usize::try_from(rng.below(servers.len() as u64)).unwrap();
        servers.remove(victim).kill();
        publish(run, servers);
        run.check_inbox().await;
        servers.push(run.program.serve().await);
        publish(run, servers);
    }
}

fn publish(run: &Run, servers: &[Server]) {
    let addresses: Vec<&str> = servers.iter().map(|server| server.base.as_str()).collect();
    run.provider.send_to(&addresses);
}

/// The reference needs the time that the nodes need to start again.
async fn tell_reference_meanwhile(run: &Run, events: &[Value]) {
    run.tell_reference(events).await;
}
