//! A settlement of more enrollments than one transaction takes, killed between them and inside them.

use libtest_mimic::Trial;
use remit::failpoint::VARIABLE;
use reqwest::StatusCode;
use serde_json::json;

use super::{
    harness::on_each_engine, payday::Payday, points::is_release_build, program::assert_died, support::TestDb,
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(death_between_the_chunks_of_a_settlement_pays_everybody_once).into()
}

/// Enrollments of one chunk (`app::settle`): where all writers wait for each other, and elsewhere.
const CHUNK_OF_ONE_WRITER: usize = 100;
const CHUNK: usize = 500;
/// The program that all of them are in.
const PROGRAM: &str = "crowd";

async fn death_between_the_chunks_of_a_settlement_pays_everybody_once(db: TestDb) {
    const PAYOUTS: &str = "SELECT COUNT(*) FROM payout";
    const COMPLETED: &str = "SELECT COUNT(*) FROM payout_run WHERE state = 'completed'";
    const RUNS: &str = "SELECT COUNT(*) FROM payout_run";
    if is_release_build() {
        return;
    }
    let chunk = if db.db.engine().has_one_writer() { CHUNK_OF_ONE_WRITER } else { CHUNK };
    let payday = Payday::on(db).await;
    // Four in each of three chunks, the first and the last of a chunk among them.
    let paid = [0, 1, 2, chunk - 1, chunk, chunk + 1, chunk + 2, 2 * chunk - 1, 2 * chunk]
        .into_iter()
        .chain(2 * chunk + 1..2 * chunk + 4);
    let paid: Vec<String> = paid.map(name).collect();
    payday.earn_together(PROGRAM, &paid.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let others = (0..2 * chunk + 10).map(name).filter(|name| !paid.contains(name));
    enroll_idle(&payday, &others.collect::<Vec<_>>()).await;

    // Whoever asks is not answered and asks for the same again, of nodes that do nothing by themselves.
    for (death, reserved) in [("settle.before_commit", 0), ("settle.after_commit", 4)] {
        let roles = ("REMIT_SERVER__ROLES", "receive");
        let mut doomed = payday.serve_with(&[(VARIABLE, death), roles]).await;
        assert_eq!(payday.settle(&doomed, PROGRAM).await, None, "{death}");
        assert_died(&mut doomed).await;
        payday.claims_run_out().await;
        assert_eq!(payday.number(PAYOUTS).await, reserved, "{death}");
    }
    // Nobody asks any more: the run goes on from where it stands. Its second chunk is kept, its third is not.
    payday.run.program.dies_at("settle.before_commit:2", &[("REMIT_SERVER__ROLES", "schedule")]).await;
    assert_eq!((payday.number(PAYOUTS).await, payday.number(COMPLETED).await), (8, 0));
    let node = payday.serve().await;
    payday.until(&node, COMPLETED, 1).await;
    // The same request is told of the same settlement.
    assert_eq!(payday.settle(&node, PROGRAM).await, Some(StatusCode::OK));
    assert_eq!((payday.number(PAYOUTS).await, payday.number(RUNS).await), (12, 1));
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
    for name in &paid {
        assert_eq!(payday.sends_to(name).await, 1, "{name}");
    }
}

/// The name of an affiliate, by its place in the order in which a settlement goes through them.
fn name(place: usize) -> String {
    format!("{PROGRAM}{place:05}")
}

/// Enrolls affiliates who have sold nothing.
async fn enroll_idle(payday: &Payday, names: &[String]) {
    const ORGANIZATIONS: &str = "INSERT INTO organization (id, name, created_at_us)
        SELECT value->>'organization', value->>'name', 0 FROM json_each($1)";
    const ENROLLMENTS: &str = "INSERT INTO enrollment (id, program_id, organization_id, created_at_us)
        SELECT value->>'id', $2, value->>'organization', 0 FROM json_each($1)";
    const STATUSES: &str = "INSERT INTO enrollment_status (enrollment_id, effective_at_us, status)
        SELECT value->>'id', 0, 'active' FROM json_each($1)";
    let owner = &payday.run.reference.owner;
    let rows = json!(
        names
            .iter()
            .map(|name| json!({
                "id": owner.id("par_", name), "organization": owner.id("org_", name), "name": name,
            }))
            .collect::<Vec<_>>()
    )
    .to_string();
    let mut tx = payday.run.db().db.begin().await.unwrap();
    tx.q(ORGANIZATIONS).bind(&*rows).exec().await.unwrap();
    tx.q(ENROLLMENTS).bind(&*rows).bind(payday.program(PROGRAM)).exec().await.unwrap();
    tx.q(STATUSES).bind(&*rows).exec().await.unwrap();
    tx.commit().await.unwrap();
}
