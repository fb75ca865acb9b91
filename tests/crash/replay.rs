//! A replay that is killed and run again ends where a single one would have.

use std::os::unix::process::ExitStatusExt as _;

use libtest_mimic::Trial;
use remit::failpoint::{Failpoint, VARIABLE};
use serde_json::{Value, json};

use super::{
    harness::on_each_engine,
    points::{Driver, driver, is_release_build},
    program::Program,
    run::Run,
    support::{TestDb, books},
    traffic::{Rng, stories},
};

/// Every point that a replay passes, and some of them again with a batch already done.
const DEATHS: [&str; 7] = [
    "replay.before_commit",
    "replay.after_commit",
    "process.after_fold",
    "process.before_commit",
    "process.after_commit",
    "process.before_commit:2",
    "process.after_commit:2",
];

pub fn tests() -> Vec<Trial> {
    on_each_engine!(a_replay_that_is_killed_can_be_run_again).into()
}

async fn a_replay_that_is_killed_can_be_run_again(db: TestDb) {
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let events = stories("archived", 40, &mut Rng::new(7));
    run.tell_reference(&events).await;
    let source = Program::on(run.reference_db().url());
    let archive = source.run(&["events", "export"], &[]).await.stdout;
    assert_eq!(archive.split_inclusive(|byte| *byte == b'\n').count(), events.len());
    let archive = run.program.write("archive.ndjson", &archive);

    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Replay)) {
        assert!(DEATHS.contains(&point.as_str()), "{} is not visited", point.as_str());
    }
    for death in DEATHS {
        let output = run.program.run(&["replay", &archive], &[(VARIABLE, death)]).await;
        assert_eq!(output.status.signal(), Some(9), "{death}: {output:?}");
    }
    let stored = json!(events.len());
    assert_eq!(replay(&run, &archive).await["duplicate"], stored);
    let waiting = run.program.data(&["events", "list", "--state", "received"]).await;
    assert_eq!(waiting, json!([]), "a replay alone processes what it finds stored");
    let posted = books::entries(&mut run.db().db.read().await.unwrap()).await;
    let again = json!({ "new": 0, "duplicate": stored, "ignored": 0, "failed": 0, "errors": [] });
    assert_eq!(replay(&run, &archive).await, again);
    assert_eq!(books::entries(&mut run.db().db.read().await.unwrap()).await, posted);

    // Releasing is the business of a node.
    let node = run.program.serve().await;
    run.check(&node, 0).await;
}

async fn replay(run: &Run, archive: &str) -> Value {
    run.program.data(&["replay", archive]).await
}
