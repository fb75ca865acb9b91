//! Death while a node migrates: the schema is the old one or the new one, nothing between, with all rows;
//! the next start finishes and serves.
//!
//! On an empty database, and on one that the first release with payouts has filled (`fixtures/schemas`).

use std::time::Duration;

use libtest_mimic::Trial;
use remit::failpoint::Failpoint;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    harness::on_each_engine,
    points::{Driver, driver, is_release_build},
    program::{Program, Server},
    support::{
        TestDb,
        old::{self, CATALOGUE, Dump},
    },
};

/// Where the migrations that were applied are written down.
const HISTORY: &str = "schema_migration";

/// Nothing at all.
const EMPTY: i64 = 0;

/// How long another node may wait before the one that migrates is killed.
const HEAD_START: Duration = Duration::from_millis(300);

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        death_while_migrating_leaves_the_old_schema_or_the_new_one,
        of_two_nodes_that_migrate_one_is_killed_and_the_other_finishes
    )
    .into()
}

async fn death_while_migrating_leaves_the_old_schema_or_the_new_one(db: TestDb) {
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Migration)) {
        let is_visited = deaths(1).iter().any(|(death, _)| death.split(':').next() == Some(point.as_str()));
        assert!(is_visited, "{} is not visited", point.as_str());
    }
    if is_release_build() {
        return;
    }
    for schema in [EMPTY, old::OLDEST] {
        let undisturbed = database(&db, schema).await;
        undisturbed.db.migrate().await.unwrap();
        let new = old::dump(undisturbed.url()).await;
        for (death, is_committed) in deaths(old::newest() - schema) {
            let database = database(&db, schema).await;
            let old = old::dump(database.url()).await;
            let program = Program::on(database.url());
            program.dies_at(&death, &[]).await;
            let left = old::dump(database.url()).await;
            assert_same(&left, if is_committed { &new } else { &old }, &format!("from {schema}, {death}"));

            let node = program.serve().await;
            assert_serves(&program, &node, &new).await;
            println!("{death} on schema {schema} was survived");
        }
    }
}

async fn of_two_nodes_that_migrate_one_is_killed_and_the_other_finishes(db: TestDb) {
    if is_release_build() {
        return;
    }
    let undisturbed = database(&db, old::OLDEST).await;
    undisturbed.db.migrate().await.unwrap();
    let new = old::dump(undisturbed.url()).await;
    for point in ["migrate.after_step:4", "migrate.before_commit:1"] {
        let database = database(&db, old::OLDEST).await;
        let program = Program::on(database.url());
        // It stands still in its transaction and keeps everybody else out of theirs.
        let doomed = program.stops_at(point, &[]).await;
        let (other, ()) = tokio::join!(program.serve(), async {
            sleep(HEAD_START).await;
            doomed.kill();
        });
        assert_serves(&program, &other, &new).await;
    }
}

/// Where a node dies that has so many migrations to apply, and whether they are committed then.
fn deaths(migrations: i64) -> Vec<(String, bool)> {
    let steps = [1, (migrations / 2).max(1), migrations];
    let between = steps.map(|step| (format!("{}:{step}", Failpoint::MigrateAfterStep.as_str()), false));
    let around = [(Failpoint::MigrateBeforeCommit, false), (Failpoint::MigrateAfterCommit, true)];
    between.into_iter().chain(around.map(|(point, done)| (point.as_str().to_owned(), done))).collect()
}

async fn database(like: &TestDb, schema: i64) -> TestDb {
    let database = like.another_empty(module_path!()).await;
    if schema != EMPTY {
        old::fill(database.url(), schema).await;
    }
    database
}

/// The node answers, from a database with the schema and the programs of this one.
async fn assert_serves(program: &Program, node: &Server, expected: &Dump) {
    let key = program.data(&["keys", "create", "--kind", "operator"]).await;
    let programs = format!("{}/v1/admin/affiliate/programs?limit=100", node.base);
    // The first test installs it; another's choice is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(programs).bearer_auth(key["key"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", node.log());
    let page: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(page["data"].as_array().unwrap().len(), expected["program"].len(), "{page}");
    let found = old::dump(program.database_url()).await;
    for table in [CATALOGUE, HISTORY] {
        assert_eq!(found[table], expected[table], "{table}");
    }
    // Time has passed, so a node may have released something: then there are rows more, and none fewer.
    for table in ["inbox", "entry", "posting", "decision", "intent", "attempt", "generation"] {
        assert_eq!(missing(&expected[table], &found[table]), Vec::<&Value>::new(), "{table}");
    }
}

/// The rows of the first that the second does not have.
fn missing<'rows>(expected: &'rows [Value], found: &[Value]) -> Vec<&'rows Value> {
    expected.iter().filter(|row| !found.contains(row)).collect()
}

fn assert_same(found: &Dump, expected: &Dump, when: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{when}: the tables");
    for (table, rows) in expected {
        assert_eq!(missing(rows, &found[table]), Vec::<&Value>::new(), "{when}: {table} lacks rows");
        assert_eq!(missing(&found[table], rows), Vec::<&Value>::new(), "{when}: {table} has others");
        assert_eq!(found[table].len(), rows.len(), "{when}: {table}");
    }
}
