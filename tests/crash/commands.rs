//! A command that changes something by itself, killed before and after its commit.

use std::os::unix::process::ExitStatusExt as _;

use libtest_mimic::Trial;
use remit::failpoint::VARIABLE;

use super::{
    harness::on_each_engine,
    points::is_release_build,
    run::Run,
    support::TestDb,
    traffic::{before_poison, poison},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(death_of_a_retry_gives_the_event_one_more_chance_or_none).into()
}

async fn death_of_a_retry_gives_the_event_one_more_chance_or_none(db: TestDb) {
    const PARKED: &str = "SELECT COUNT(*) FROM inbox WHERE state = 'parked'";
    const EVENT: &str = "SELECT id FROM inbox WHERE state = 'parked'";
    const AUDITED: &str = "SELECT COUNT(*) FROM audit WHERE action = 'event.retried'";
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    for event in [before_poison(), poison(0)] {
        run.provider.deliver(vec![event]).await;
        run.settled(&node).await;
    }
    node.kill();
    let id: String = run.db().db.read().await.unwrap().q(EVENT).scalar().await.unwrap().unwrap();
    for (death, parked) in [("change.before_commit", 1), ("change.after_commit", 0)] {
        let output = run.program.run(&["events", "retry", &id], &[(VARIABLE, death)]).await;
        assert_eq!(output.status.signal(), Some(9), "{death}: {output:?}");
        assert_eq!(run.number(PARKED).await, parked, "{death}");
        assert_eq!(run.number(AUDITED).await, 1 - parked, "{death}: with its row of the audit log, or not");
    }
    // Asked again, it says that the event waits already.
    let again = run.program.run(&["events", "retry", &id], &[]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(run.number(AUDITED).await, 1);
    let node = run.program.serve().await;
    run.settled(&node).await;
    run.check_with_doctor(1).await;
}
