//! An account that kept a settlement from paying is read again, however often whoever reads it dies, and
//! what it is owed is paid once.
//!
//! It has become ready and nobody was told, so only the reading can find out. A claim on a reading ends
//! after an hour; the times in the database are moved back instead.

use libtest_mimic::Trial;
use remit::{
    clock::{Clock as _, SystemClock},
    failpoint::Failpoint,
};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use super::{
    harness::on_each_engine,
    payday::Payday,
    points::{Driver, driver, is_release_build},
    program::LOOK_EVERY,
    support::TestDb,
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(death_while_an_account_is_read_again_pays_once).into()
}

/// Where nodes die, and how many accounts wait to be read or are being read when they have.
const DEATHS: [(&str, (i64, i64)); 7] = [
    ("check.before_commit", (1, 0)),
    ("check.after_commit", (0, 1)),
    ("call.after", (0, 1)),
    ("account.before_commit", (0, 1)),
    ("account.after_commit", (0, 1)),
    // What was read is kept, and the account is struck off.
    ("check.before_commit:2", (0, 1)),
    ("check.after_commit:2", (0, 0)),
];

const WAITING: &str =
    "SELECT COUNT(*) FROM account_check WHERE due_at_us IS NOT NULL AND checked_at_us IS NULL";
const TAKEN: &str =
    "SELECT COUNT(*) FROM account_check WHERE due_at_us IS NOT NULL AND checked_at_us IS NOT NULL";
const OPEN: &str = "SELECT COUNT(*) FROM account_check WHERE due_at_us IS NOT NULL";

async fn death_while_an_account_is_read_again_pays_once(db: TestDb) {
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Checks)) {
        assert!(
            DEATHS.iter().any(|(death, _)| *death == point.as_str()),
            "{} is not visited",
            point.as_str()
        );
    }
    if is_release_build() {
        return;
    }
    let payday = Payday::on(db).await;
    let names: Vec<String> = (0..DEATHS.len()).map(|number| format!("read{number}")).collect();
    payday.earn(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let transfers = async |name: &str, state: &str| {
        let path = format!("accounts/acct_{name}");
        payday.sandbox.control("POST", &path, json!({ "transfers": state })).await.unwrap();
    };
    let node = payday.serve().await;
    for name in &names {
        transfers(name, "inactive").await;
    }
    payday.drained(&node).await;
    node.kill();
    payday.cut_webhooks();
    // Of one moment an event tells the newer state; what is read later counts.
    let told = SystemClock.now();
    while SystemClock.now() < told.plus_secs(3) {
        sleep(LOOK_EVERY).await;
    }

    let mut survivor = None;
    for (name, (death, (waiting, taken))) in names.iter().zip(DEATHS) {
        drop(survivor.take());
        payday.run.program.data(&["settle", "--program", &payday.program(name), "--yes"]).await;
        payday.assert_owed(name).await;
        assert_eq!(
            (payday.number(WAITING).await, payday.number(TAKEN).await),
            (1, 0),
            "{name} was passed over"
        );
        transfers(name, "active").await;
        payday.run.program.dies_at(death, &[]).await;
        assert_eq!((payday.number(WAITING).await, payday.number(TAKEN).await), (waiting, taken), "{death}");
        payday.change("UPDATE account_check SET due_at_us = 0 WHERE due_at_us IS NOT NULL").await;

        // Nobody tells this one anything either.
        let node = payday.run.program.serve().await;
        payday.until(&node, OPEN, 0).await;
        let run = format!("{}/run", payday.payouts_path(name));
        assert_eq!(payday.post(&node, &run, &format!("{name} again")).await, Some(StatusCode::OK));
        payday.until(&node, "SELECT COUNT(*) FROM job WHERE state <> 'completed'", 0).await;
        payday.assert_paid_once(name).await;
        assert_eq!(payday.sends_to(name).await, 1, "{death}");
        println!("{death} was survived");
        survivor = Some(node);
    }
    let node = survivor.unwrap();
    payday.send_to(std::slice::from_ref(&node));
    payday.assert_all_paid_once(&node).await;
}
