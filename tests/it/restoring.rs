//! A database that went back in time pays nobody before a person has confirmed it, and nobody twice.

use std::{path::Path, sync::Arc};

use remit::{
    app::{
        App,
        charges::{self, NewCharge},
        doctor, holds, instance,
        keys::Principal,
    },
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
    store::{Db, DbOptions},
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    paying::{earn, fault, sends},
    support::{TestDb, bank::Bank, books, node::Node, on_each_engine},
};

const WEEKEND_S: u32 = 2 * 86_400;

/// A machine with a shop that pays, and a directory of its own for the witness.
async fn open(db: &TestDb) -> (Bank, TempDir) {
    let machine = tempfile::tempdir().unwrap();
    let witness = machine.path().join("witness");
    let bank = Bank::open_with(db, &[("REMIT_PAYOUTS__WITNESS_FILE", witness.to_str().unwrap())]).await;
    (bank, machine)
}

async fn beat(bank: &Bank) {
    instance::beat(&bank.shop.node.app).await.unwrap();
}

async fn beats(bank: &Bank) -> String {
    bank.texts("SELECT CAST(beat AS TEXT) FROM instance").await.remove(0)
}

async fn paused(bank: &Bank) -> Vec<String> {
    bank.texts("SELECT kind FROM payout_pause WHERE resumed_at_us IS NULL").await
}

async fn resume(bank: &Bank, confirm: bool) -> Result<(), remit::app::Refusal> {
    holds::resume(&bank.shop.node.app, &Principal::console(), confirm, Some("compared")).await
}

/// What doctor says of the database's age.
async fn diagnosis(bank: &Bank) -> Vec<String> {
    let found = doctor::examine(&bank.shop.node.app).await.unwrap();
    let of_age = found.into_iter().filter(|finding| finding.invariant == "database_not_restored");
    of_age.map(|finding| format!("{}: {}", finding.severity, finding.detail)).collect()
}

/// The same machine and the same provider on another database.
fn restart_on(bank: &mut Bank, db: Db) {
    let node = &bank.shop.node;
    let app = App::new(db, Arc::clone(&node.app.config), Arc::new(node.clock.clone()));
    bank.shop.node = Node { app, clock: node.clock.clone() };
    bank.dispatcher = Bank::dispatcher_of(&bank.shop.node);
}

async fn queue_charge(bank: &Bank, reference: &str) {
    let new = NewCharge {
        project_id: ProjectId::parse(&bank.shop.owner.project()).unwrap(),
        amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
        application_fee: 50,
        destination: "acct_ada".to_owned(),
        client_reference: Some(reference.to_owned()),
    };
    charges::queue(&bank.shop.node.app, &new).await.unwrap();
}

async fn back_up(db: &Db, to: &Path) {
    // SQLite takes no parameter here, and no transaction may be open.
    let url = format!("sqlite://{}", db.file().unwrap().display());
    let options = url.parse::<sqlx::sqlite::SqliteConnectOptions>().unwrap();
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let statement = sqlx::AssertSqlSafe(format!("VACUUM INTO '{}'", to.display()));
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
}

/// Puts a backup in the place of the database, as an operator does with the server stopped.
async fn restore(bank: &mut Bank, db: &Db, from: &Path) -> Db {
    let file = db.file().unwrap();
    bank.shop.node.app.db.close().await;
    for suffix in ["-wal", "-shm"] {
        let mut beside = file.clone().into_os_string();
        beside.push(suffix);
        // Nothing of the newer database may be replayed into the older one.
        drop(std::fs::remove_file(beside));
    }
    std::fs::copy(from, &file).unwrap();
    let restored = Db::connect(&format!("sqlite://{}", file.display()), &DbOptions::default()).await.unwrap();
    restart_on(bank, restored.clone());
    restored
}

on_each_engine! {
    async fn a_beat_only_grows_and_a_restart_after_a_weekend_is_nothing_special(db: TestDb) {
        let (bank, _machine) = open(&db).await;
        beat(&bank).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        beat(&bank).await;
        assert_eq!(beats(&bank).await, "2");
        bank.advance(WEEKEND_S).await;
        assert_eq!(diagnosis(&bank).await, [""; 0]);
        beat(&bank).await;
        assert_eq!(beats(&bank).await, "3");
        assert_eq!(paused(&bank).await, [""; 0]);
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["completed"]);
    }

    async fn a_database_behind_its_witness_pays_nobody_until_a_person_confirms(db: TestDb) {
        let (bank, _machine) = open(&db).await;
        for _ in 0..3 {
            beat(&bank).await;
        }
        bank.change("UPDATE instance SET beat = 1").await;
        let found = diagnosis(&bank).await;
        assert!(found[0].contains("at beat 1 and this machine has seen beat 3"), "{found:?}");
        beat(&bank).await;
        assert_eq!((beats(&bank).await, paused(&bank).await), ("4".to_owned(), vec!["restored".to_owned()]));
        assert_eq!(bank.findings().await, ["database_restored"]);
        beat(&bank).await;
        assert_eq!(paused(&bank).await.len(), 1, "one pause is enough");
        assert!(diagnosis(&bank).await[0].starts_with("critical: "), "until it is confirmed");
        queue_charge(&bank, "order").await;
        bank.dispatch().await;
        assert_eq!(bank.effects("payment_intent.created").await.len(), 0);
        assert_eq!(resume(&bank, false).await.unwrap_err().code(), "RESTORED");
        resume(&bank, true).await.unwrap();
        assert!(bank.findings().await.is_empty() && diagnosis(&bank).await.is_empty());
        beat(&bank).await;
        assert_eq!(paused(&bank).await, [""; 0], "confirmed once is confirmed");
        bank.advance(60).await;
        bank.dispatch().await;
        assert_eq!(bank.requests("GET", "/v1/payment_intents").await.len(), 1, "asked first");
        assert_eq!(bank.effects("payment_intent.created").await.len(), 1);
    }

    async fn a_new_machine_joins_a_cluster_that_lives_and_asks_about_a_copy(db: TestDb) {
        let (bank, machine) = open(&db).await;
        beat(&bank).await;
        queue_charge(&bank, "order").await;
        let witness = machine.path().join("witness");
        std::fs::remove_file(&witness).unwrap();
        bank.advance(15 * 60).await;
        beat(&bank).await;
        assert_eq!(paused(&bank).await, [""; 0], "used a quarter of an hour ago");
        let of_another = json!({ "instance_id": "inst_other", "beat": 9_000, "beat_at_us": 0 });
        std::fs::write(&witness, of_another.to_string()).unwrap();
        bank.advance(15 * 60 + 1).await;
        beat(&bank).await;
        assert_eq!(paused(&bank).await, ["restored"]);
        let found = bank.texts("SELECT detail FROM finding WHERE kind = 'database_restored'").await;
        assert!(found[0].contains("may be an older copy") && found[0].contains("--confirm-restored"), "{found:?}");
        resume(&bank, true).await.unwrap();
        bank.advance(WEEKEND_S).await;
        beat(&bank).await;
        assert_eq!(paused(&bank).await, [""; 0], "now this machine knows it");
    }

    async fn a_fresh_install_is_never_paused_and_one_that_cannot_write_a_witness_works(db: TestDb) {
        let nowhere = ("REMIT_PAYOUTS__WITNESS_FILE", "/nonexistent/directory/witness");
        let bank = Bank::open_with(&db, &[nowhere]).await;
        // Settled by hand before the first start of a node.
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.advance(WEEKEND_S).await;
        beat(&bank).await;
        bank.advance(60).await;
        beat(&bank).await;
        assert_eq!((beats(&bank).await, paused(&bank).await), ("2".to_owned(), Vec::new()));
        let id = bank.texts("SELECT instance_id FROM instance").await;
        assert!(id[0].starts_with("inst_") && id.len() == 1);
    }

    async fn nodes_that_start_together_make_one_instance(db: TestDb) {
        let (bank, machine) = open(&db).await;
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let app = bank.shop.node.app.clone();
            starts.spawn(async move { instance::beat(&app).await });
        }
        for started in starts.join_all().await {
            started.unwrap();
        }
        assert_eq!(beats(&bank).await, "8");
        assert_eq!(bank.texts("SELECT instance_id FROM instance").await.len(), 1);
        assert_eq!(paused(&bank).await, [""; 0]);
        assert_eq!(std::fs::read_dir(machine.path()).unwrap().count(), 1, "a witness and nothing else");
    }
}

#[tokio::test]
async fn a_restored_backup_sends_nothing_until_confirmed_and_then_finds_what_was_paid() {
    let db = TestDb::sqlite().await;
    let mut bank = Bank::open(&db).await;
    let vault = tempfile::tempdir().unwrap();
    let backup = vault.path().join("backup.db");
    beat(&bank).await;
    // In the backup: one payout whose answer is lost, one that nobody has sent yet, and an order that comes
    // after it.
    earn(&bank, "ada", "x", 10_000).await;
    fault(&bank, sends(), 1, json!({ "kind": "execute_then_500" })).await;
    bank.settle().await;
    bank.dispatch().await;
    earn(&bank, "bob", "y", 5_000).await;
    bank.settle().await;
    assert_eq!(bank.payouts().await, ["submitting", "pending"]);
    back_up(&db.db, &backup).await;
    // Life goes on: both are paid, and an order is charged.
    bank.advance(60).await;
    beat(&bank).await;
    queue_charge(&bank, "order").await;
    bank.dispatch().await;
    bank.advance(3_600).await;
    bank.dispatch().await;
    assert_eq!(bank.payouts().await, ["completed", "completed"]);
    let transfers = bank.effects("transfer.created").await;
    assert_eq!((transfers.len(), bank.effects("payment_intent.created").await.len()), (2, 1));
    // Long enough for the provider to have forgotten every key.
    bank.advance(WEEKEND_S).await;

    let restored = restore(&mut bank, &db.db, &backup).await;
    assert_eq!(bank.payouts().await, ["submitting", "pending"], "it has forgotten");
    let posts = bank.requests("POST", "/v1/transfers").await.len();
    beat(&bank).await;
    assert_eq!(
        (paused(&bank).await, bank.findings().await),
        (vec!["restored".to_owned()], vec!["database_restored".to_owned()])
    );
    for _ in 0..10 {
        bank.dispatch().await;
        bank.advance(600).await;
    }
    assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), posts, "not one before it is confirmed");
    assert!(resume(&bank, false).await.is_err());
    resume(&bank, true).await.unwrap();
    // The order is made again too, with the same id.
    bank.advance(86_400).await;
    queue_charge(&bank, "order").await;
    for _ in 0..10 {
        bank.dispatch().await;
        bank.advance(3_600).await;
    }
    assert_eq!(bank.payouts().await, ["completed", "completed"]);
    assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), posts, "found, not sent");
    assert_eq!(bank.effects("transfer.created").await.len(), 2);
    assert_eq!(bank.effects("payment_intent.created").await.len(), 1);
    let adopted = bank.texts("SELECT transfer_id FROM payout ORDER BY transfer_id").await;
    let mut made: Vec<&str> = transfers.iter().map(|transfer| transfer["id"].as_str().unwrap()).collect();
    made.sort_unstable();
    assert_eq!(adopted, made);
    bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    bank.assert_balance("bob", [0, 0, 0, 1_000]).await;
    books::assert_they_add_up(&restored).await;
    assert!(bank.findings().await.is_empty());
}
