//! What every engine promises behind `Db`, and the few promises that only one of them has to make.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use remit::{
    domain::{
        book::{Realm, Scope},
        fact::{BankPayout, Fact, PayoutAccount},
        ids::ProjectId,
        money::Currency,
        time::Timestamp,
    },
    store::{Db, DbOptions, Sql, StoreError, transfers},
};
use serde_json::json;

use crate::support::{
    TestDb, on_each_engine, pg,
    proxy::GatedProxy,
    shop::{Shop, charge},
};

const CREATE_NOTE: Sql = Sql {
    sqlite: "CREATE TABLE note (
                 id INTEGER PRIMARY KEY, body TEXT, flag INTEGER CHECK (flag IN (0, 1)), raw BLOB, amount INTEGER
             ) STRICT",
    postgres: "CREATE TABLE note (id BIGINT PRIMARY KEY, body TEXT, flag BOOLEAN, raw BYTEA, amount BIGINT)",
};
const INSERT_ID: &str = "INSERT INTO note (id) VALUES ($1)";

#[derive(Debug, Default, PartialEq, sqlx::FromRow)]
struct Note {
    id: i64,
    body: Option<String>,
    flag: Option<bool>,
    raw: Option<Vec<u8>>,
    amount: Option<i64>,
}

async fn create_note_table(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    tx.q(CREATE_NOTE).exec().await.unwrap();
    tx.commit().await.unwrap();
}

async fn note_ids(db: &Db) -> Vec<i64> {
    db.read().await.unwrap().q("SELECT id FROM note ORDER BY id").scalars().await.unwrap()
}

on_each_engine! {
    async fn only_a_committed_transaction_leaves_anything(db: TestDb) {
        create_note_table(&db.db).await;

        let mut dropped = db.db.begin().await.unwrap();
        dropped.q(INSERT_ID).bind(1_i64).exec().await.unwrap();
        drop(dropped);
        let mut rolled_back = db.db.begin().await.unwrap();
        rolled_back.q(INSERT_ID).bind(2_i64).exec().await.unwrap();
        rolled_back.rollback().await.unwrap();
        let mut committed = db.db.begin().await.unwrap();
        assert_eq!(committed.q(INSERT_ID).bind(3_i64).exec().await.unwrap(), 1);
        assert_eq!(note_ids(&db.db).await, [0_i64; 0], "nobody sees what is not committed");
        committed.commit().await.unwrap();

        assert_eq!(note_ids(&db.db).await, [3]);
    }

    async fn a_read_function_works_inside_a_transaction(db: TestDb) {
        async fn count(conn: &mut remit::store::Conn) -> i64 {
            conn.q("SELECT COUNT(*) FROM note").scalar().await.unwrap().unwrap()
        }
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q(INSERT_ID).bind(1_i64).exec().await.unwrap();
        assert_eq!(count(&mut tx).await, 1);
        assert_eq!(count(&mut db.db.read().await.unwrap()).await, 0);
    }

    async fn two_nodes_cannot_spend_the_same_money(db: TestDb) {
        async fn pay(db: Db, entered: std::sync::Arc<tokio::sync::Barrier>) -> bool {
            entered.wait().await;
            let mut tx = db.begin().await.unwrap();
            // Touching the row first is the lock that both engines have.
            tx.q("UPDATE note SET amount = amount WHERE id = 1").exec().await.unwrap();
            let balance: Option<i64> = tx.q("SELECT amount FROM note WHERE id = 1").scalar().await.unwrap();
            let enough = balance.unwrap() >= 100;
            if enough {
                tx.q("UPDATE note SET amount = amount - 100 WHERE id = 1").exec().await.unwrap();
            }
            tx.commit().await.unwrap();
            enough
        }
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q("INSERT INTO note (id, amount) VALUES (1, 350)").exec().await.unwrap();
        tx.commit().await.unwrap();

        let entered = std::sync::Arc::new(tokio::sync::Barrier::new(8));
        let mut payers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            payers.spawn(pay(db.db.clone(), entered.clone()));
            payers.spawn(pay(db.another_node(&DbOptions::default()).await, entered.clone()));
        }
        let paid = payers.join_all().await.into_iter().filter(|paid| *paid).count();

        assert_eq!(paid, 3);
        let left: Option<i64> =
            db.db.read().await.unwrap().q("SELECT amount FROM note").scalar().await.unwrap();
        assert_eq!(left, Some(50));
    }

    async fn a_taken_key_is_told_apart_from_trouble(db: TestDb) {
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q(INSERT_ID).bind(1_i64).exec().await.unwrap();
        let error = tx.q(INSERT_ID).bind(1_i64).exec().await.unwrap_err();
        assert!(error.is_unique_violation(), "{error}");
        assert!(!error.is_retryable() && !error.is_unavailable(), "{error}");
    }

    async fn an_insert_that_meets_its_key_changes_nothing_and_says_so(db: TestDb) {
        const ONCE: &str = "INSERT INTO note (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        assert_eq!(tx.q(ONCE).bind(1_i64).exec().await.unwrap(), 1);
        assert_eq!(tx.q(ONCE).bind(1_i64).exec().await.unwrap(), 0);
    }

    async fn values_come_back_as_they_went_in(db: TestDb) {
        const INSERT: &str = "INSERT INTO note (id, body, flag, raw, amount) VALUES ($1, $2, $3, $4, $5)";
        const SELECT: &str = "SELECT id, body, flag, raw, amount FROM note WHERE id = $1";
        create_note_table(&db.db).await;
        let notes = [
            Note { id: 1, ..Note::default() },
            Note {
                id: 2,
                body: Some("größer 💶 'quoted' \\".into()),
                flag: Some(true),
                raw: Some(vec![0, 255, 10, 0]),
                amount: Some(i64::MAX),
            },
            Note { id: i64::MIN, body: Some(String::new()), flag: Some(false), raw: Some(vec![]), amount: Some(i64::MIN) },
        ];
        let mut tx = db.db.begin().await.unwrap();
        for note in &notes {
            tx.q(INSERT)
                .bind(note.id)
                .bind(note.body.as_deref())
                .bind(note.flag)
                .bind(note.raw.as_deref())
                .bind(note.amount)
                .exec()
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();

        let mut conn = db.db.read().await.unwrap();
        for note in &notes {
            assert_eq!(conn.q(SELECT).bind(note.id).one::<Note>().await.unwrap().as_ref(), Some(note));
        }
        assert_eq!(conn.q(SELECT).bind(404_i64).one::<Note>().await.unwrap(), None);
        let flags: Vec<Option<bool>> = conn.q("SELECT flag FROM note ORDER BY id").scalars().await.unwrap();
        assert_eq!(flags, [Some(false), None, Some(true)]);
    }

    async fn one_json_parameter_writes_many_rows_and_skips_known_ones(db: TestDb) {
        const BULK: &str = "INSERT INTO note (id, body, amount)
                            SELECT CAST(value->>'id' AS BIGINT), value->>'body', CAST(value->>'amount' AS BIGINT)
                            FROM json_each($1) WHERE TRUE
                            ON CONFLICT (id) DO NOTHING";
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q(INSERT_ID).bind(2_i64).exec().await.unwrap();
        let rows = format!(r#"[{{"id":1,"body":"a","amount":{}}}, {{"id":2,"body":"b"}}, {{"id":3,"body":null}}]"#, i64::MAX);
        assert_eq!(tx.q(BULK).bind(&rows).exec().await.unwrap(), 2);
        assert_eq!(tx.q(BULK).bind("[]").exec().await.unwrap(), 0);

        let written: Vec<(i64, Option<String>, Option<i64>)> =
            tx.q("SELECT id, body, amount FROM note ORDER BY id").all().await.unwrap();
        assert_eq!(written, [(1, Some("a".into()), Some(i64::MAX)), (2, None, None), (3, None, None)]);
        let keys: Vec<i64> = tx.q("SELECT key FROM json_each($1) ORDER BY key").bind("[{}, {}]").scalars().await.unwrap();
        assert_eq!(keys, [0, 1]);
    }

    async fn a_sum_is_a_64_bit_integer_or_nothing(db: TestDb) {
        const SUM: &str = "SELECT CAST(SUM(amount) AS BIGINT) FROM note";
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        assert_eq!(tx.q(SUM).scalar::<Option<i64>>().await.unwrap(), Some(None));
        tx.q("INSERT INTO note (id, amount) VALUES (1, 40), (2, 2)").exec().await.unwrap();
        assert_eq!(tx.q(SUM).scalar::<Option<i64>>().await.unwrap(), Some(Some(42)));
    }

    async fn a_value_never_reaches_an_error_message(db: TestDb) {
        const BULK: &str = "INSERT INTO note (id, amount)
                            SELECT CAST(value->>'id' AS BIGINT), CAST(value->>'amount' AS BIGINT) FROM json_each($1)";
        create_note_table(&db.db).await;
        for rows in [
            r#"[{"id": 1}, {"id": "alice@example.com"}, {"id": null}, {"id": 1}]"#,
            r#"[{"id": 1}, {"id": 1, "amount": "alice@example.com"}]"#,
            r#"[{"id": "alice@example.com"#,
        ] {
            let mut tx = db.db.begin().await.unwrap();
            let error = tx.q(BULK).bind(rows).exec().await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("alice"), "{error:?}");
            assert!(std::error::Error::source(&error).is_none(), "a source would be printed too");
        }
    }

    async fn a_locked_out_caller_gets_an_answer_in_bounded_time(db: TestDb) {
        let hurried = DbOptions { max_connections: 1, acquire_timeout: Duration::from_millis(50), ..DbOptions::default() };
        let node = db.another_node(&hurried).await;
        let _only_connection = node.begin().await.unwrap();
        let error = node.begin().await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }

    async fn a_closed_database_is_unavailable(db: TestDb) {
        let node = db.another_node(&DbOptions::default()).await;
        node.close().await;
        assert!(node.begin().await.unwrap_err().is_unavailable());
        assert!(node.read().await.unwrap_err().is_unavailable());
    }

    async fn a_migrated_database_passes_the_check_and_migrating_again_changes_nothing(db: TestDb) {
        db.db.check_schema().await.unwrap();
        let before = applied(&db.db).await;
        db.db.migrate().await.unwrap();
        assert_eq!(applied(&db.db).await, before);
        assert!(!before.is_empty());
    }

    async fn a_schema_from_the_future_is_refused(db: TestDb) {
        let mut tx = db.db.begin().await.unwrap();
        tx.q("INSERT INTO schema_migration (version, description, checksum)
              VALUES (9999, 'from the future', $1)")
            .bind(vec![1_u8])
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        for result in [db.db.check_schema().await, db.db.migrate().await] {
            assert!(matches!(result, Err(StoreError::SchemaTooNew { found: 9999, known }) if known < 9999));
        }
    }

    async fn a_migration_applied_from_another_text_is_refused(db: TestDb) {
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE schema_migration SET checksum = $1 WHERE version = 1").bind(vec![1_u8]).exec().await.unwrap();
        tx.commit().await.unwrap();
        for result in [db.db.check_schema().await, db.db.migrate().await] {
            assert!(matches!(result, Err(StoreError::SchemaDiffers { version: 1 })));
        }
    }
}

fn account(id: &str, bits: u8, disabled_reason: Option<&str>, at_s: i64) -> Fact {
    Fact::PayoutAccount(PayoutAccount {
        account_id: id.to_owned(),
        transfers_active: bits & 1 != 0,
        payouts_enabled: bits & 2 != 0,
        charges_enabled: bits & 4 != 0,
        details_submitted: bits & 8 != 0,
        disabled_reason: disabled_reason.map(str::to_owned),
        at: Timestamp::from_secs(at_s),
    })
}

fn bank_payout(id: &str, status: &str, failure_code: Option<&str>, at_s: i64) -> Fact {
    Fact::BankPayout(BankPayout {
        account_id: "acct_1".to_owned(),
        payout_id: id.to_owned(),
        amount: 500,
        currency: Currency::parse("usd").unwrap(),
        status: status.to_owned(),
        failure_code: failure_code.map(str::to_owned),
        at: Timestamp::from_secs(at_s),
    })
}

/// Every order of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

/// Saves what `told` says of one object in every order, cut into batches in every way, each time of an
/// object of its own.
async fn save_in_every_order(db: &Db, count: usize, told: impl Fn(&str, usize) -> Fact) {
    let scope = Scope {
        project_id: ProjectId::parse("proj_default").unwrap(),
        realm: Realm::new("stripe", false, ""),
    };
    let mut tx = db.begin().await.unwrap();
    for (number, order) in orders(count).iter().enumerate() {
        for cuts in 0..1_u32 << (count - 1) {
            let id = format!("{number}_{cuts}");
            let mut batch = Vec::new();
            for (place, which) in order.iter().enumerate() {
                batch.push(told(&id, *which));
                if place + 1 == count || cuts & (1 << place) != 0 {
                    transfers::save(&mut tx, batch.iter().map(|fact| (&scope, fact))).await.unwrap();
                    batch.clear();
                }
            }
        }
    }
    tx.commit().await.unwrap();
}

on_each_engine! {
    async fn statements_about_an_account_end_the_same_in_every_order_and_batch(db: TestDb) {
        const DISTINCT: &str = "SELECT DISTINCT transfers_active, payouts_enabled, charges_enabled,
                details_submitted, disabled_reason, gone, told_at_us
            FROM provider_account";
        type State = (bool, bool, bool, bool, Option<String>, bool, i64);
        async fn states(db: &Db) -> Vec<State> {
            let states = db.read().await.unwrap().q(DISTINCT).all().await.unwrap();
            let mut tx = db.begin().await.unwrap();
            tx.q("DELETE FROM provider_account").exec().await.unwrap();
            tx.commit().await.unwrap();
            states
        }
        let gone = |id: &str, at_s| Fact::PayoutAccountGone { account_id: id.to_owned(), at: Timestamp::from_secs(at_s) };
        save_in_every_order(&db.db, 4, |id, which| match which {
            0 => account(id, 0b1111, None, 9),
            1 => account(id, 0b1101, Some("Listed"), 10),
            2 => account(id, 0b0111, Some("listed"), 10),
            _ => gone(id, 9),
        }).await;
        let strictest = (true, false, true, false, Some("listed".to_owned()), false, 10_000_000);
        assert_eq!(states(&db.db).await, [strictest]);
        save_in_every_order(&db.db, 3, |id, which| match which {
            0 => account(id, 0b1111, None, 10),
            1 => account(id, 0, Some("listed"), 10),
            _ => gone(id, 10),
        }).await;
        assert_eq!(states(&db.db).await, [(false, false, false, false, None, true, 10_000_000)]);
    }

    async fn statements_about_a_bank_payout_end_the_same_in_every_order_and_batch(db: TestDb) {
        const DISTINCT: &str = "SELECT DISTINCT status, failure_code, told_at_us FROM bank_payout";
        save_in_every_order(&db.db, 4, |id, which| match which {
            0 => bank_payout(id, "in_transit", None, 10),
            1 => bank_payout(id, "paid", None, 10),
            2 => bank_payout(id, "failed", Some("account_closed"), 10),
            _ => bank_payout(id, "paid", None, 9),
        }).await;
        let states: Vec<(String, Option<String>, i64)> =
            db.db.read().await.unwrap().q(DISTINCT).all().await.unwrap();
        assert_eq!(states, [("failed".to_owned(), Some("account_closed".to_owned()), 10_000_000)]);
    }
}

async fn applied(db: &Db) -> Vec<(i64, Vec<u8>)> {
    let mut conn = db.read().await.unwrap();
    conn.q("SELECT version, checksum FROM schema_migration ORDER BY version").all().await.unwrap()
}

/// Several nodes start on one empty database: all end up ready, and each migration ran once.
async fn start_together_on_an_empty_database(url: &str) {
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = url.to_owned();
        nodes.spawn(async move {
            let db = Db::connect(&url, &DbOptions::default()).await.unwrap();
            db.migrate().await.unwrap();
            db.check_schema().await.unwrap();
            db.close().await;
        });
    }
    assert_eq!(nodes.join_all().await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_migrate_once_on_sqlite() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("new.db").display());
        start_together_on_an_empty_database(&url).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_migrate_once_on_postgres() {
    let Some(database) = pg::postgres_url_for_new_database(module_path!()) else { return };
    start_together_on_an_empty_database(database.url()).await;
}

/// A database that was never migrated says so, and the check leaves it as it is.
async fn is_reported_as_too_old(url: &str) {
    let db = Db::connect(url, &DbOptions::default()).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(db.check_schema().await, Err(StoreError::SchemaTooOld { found: 0, known: 1.. })));
    }
    db.close().await;
}

#[tokio::test]
async fn an_empty_database_needs_migrating() {
    let directory = tempfile::tempdir().unwrap();
    is_reported_as_too_old(&format!("sqlite://{}", directory.path().join("new.db").display())).await;
    if let Some(database) = pg::postgres_url_for_new_database(module_path!()) {
        is_reported_as_too_old(database.url()).await;
    }
}

/// (table, column, nullable), sorted.
async fn catalogue(db: &Db) -> Vec<(String, String, bool)> {
    const COLUMNS: Sql = Sql {
        // A primary key of a STRICT table is never null, whether or not the text says NOT NULL.
        sqlite: "SELECT t.name, c.name, c.\"notnull\" = 0 AND c.pk = 0
                 FROM pragma_table_list AS t, pragma_table_info(t.name) AS c
                 WHERE t.schema = 'main' AND t.type = 'table'
                   AND t.name NOT LIKE 'sqlite_%'",
        postgres: "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), is_nullable = 'YES'
                   FROM information_schema.columns
                   WHERE table_schema = 'public'",
    };
    let mut columns: Vec<_> = db.read().await.unwrap().q(COLUMNS).all().await.unwrap();
    columns.sort();
    columns
}

#[tokio::test]
async fn both_engines_have_the_same_tables_columns_and_nullability() {
    let sqlite = TestDb::sqlite().await;
    let Some(postgres) = TestDb::postgres(module_path!()).await else { return };
    // A table of known shape shows that the comparison sees anything at all.
    create_note_table(&sqlite.db).await;
    create_note_table(&postgres.db).await;
    let columns = catalogue(&sqlite.db).await;
    assert_eq!(columns, catalogue(&postgres.db).await);
    assert!(columns.contains(&("note".into(), "id".into(), false)));
    assert!(columns.contains(&("note".into(), "body".into(), true)));
}

mod sqlite {
    use super::*;

    #[tokio::test]
    async fn a_database_that_would_not_survive_is_refused() {
        for url in
            ["sqlite::memory:", "sqlite://:memory:", "sqlite://x.db?mode=memory", "sqlite://", "sqlite:"]
        {
            let error = Db::connect(url, &DbOptions::default()).await.unwrap_err();
            assert!(matches!(error, StoreError::Unsupported { .. }), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn commits_are_durable_and_readers_cannot_write() {
        let db = TestDb::sqlite().await;
        let mut tx = db.db.begin().await.unwrap();
        let mut conn = db.db.read().await.unwrap();
        for conn in [&mut *tx, &mut conn] {
            let journal: Option<String> = conn.q("PRAGMA journal_mode").scalar().await.unwrap();
            assert_eq!(journal.as_deref(), Some("wal"));
            // 2 is FULL, 1 would be NORMAL.
            assert_eq!(conn.q("PRAGMA synchronous").scalar::<i64>().await.unwrap(), Some(2));
            assert_eq!(conn.q("PRAGMA foreign_keys").scalar::<bool>().await.unwrap(), Some(true));
            assert_eq!(conn.q("PRAGMA recursive_triggers").scalar::<bool>().await.unwrap(), Some(true));
        }
        assert!(conn.q("CREATE TABLE t (a INTEGER) STRICT").exec().await.is_err());
    }

    #[tokio::test]
    async fn replacing_a_row_of_the_ledger_is_refused_like_deleting_it() {
        let db = TestDb::sqlite().await;
        let shop = Shop::open(&db.db, 16).await;
        let mut sale = charge("x", 1_000, None);
        sale["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
        shop.tell_and_process(&[sale]).await;
        for statement in [
            "INSERT OR REPLACE INTO entry SELECT * FROM entry",
            "INSERT OR REPLACE INTO posting SELECT * FROM posting",
            "REPLACE INTO posting (entry_id, line, owner_id, account, side, amount_minor)
             SELECT entry_id, line, owner_id, account, side, amount_minor + 1 FROM posting",
        ] {
            let mut tx = db.db.begin().await.unwrap();
            let refused = tx.q(statement).exec().await.expect_err(statement);
            assert!(refused.to_string().contains("append-only"), "{statement}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_second_process_waits_for_the_first() {
        let db = TestDb::sqlite().await;
        create_note_table(&db.db).await;
        let other = db.another_node(&DbOptions::default()).await;

        let mut first = db.db.begin().await.unwrap();
        first.q(INSERT_ID).bind(1_i64).exec().await.unwrap();
        let second = tokio::spawn(async move {
            let mut tx = other.begin().await.unwrap();
            let seen: Vec<i64> = tx.q("SELECT id FROM note").scalars().await.unwrap();
            tx.q(INSERT_ID).bind(2_i64).exec().await.unwrap();
            tx.commit().await.unwrap();
            seen
        });
        // The second has every chance to start, and reads only what the first has committed.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        first.commit().await.unwrap();
        assert_eq!(second.await.unwrap(), [1]);
        assert_eq!(note_ids(&db.db).await, [1, 2]);
    }

    #[tokio::test]
    async fn a_process_that_waited_too_long_may_try_again() {
        let db = TestDb::sqlite().await;
        let hurried = DbOptions { busy_timeout: Duration::ZERO, ..DbOptions::default() };
        let other = db.another_node(&hurried).await;
        let _held = db.db.begin().await.unwrap();
        let error = other.begin().await.unwrap_err();
        assert!(error.is_retryable() && !error.is_unavailable(), "{error}");
    }
}

mod postgres {
    use super::*;

    #[tokio::test]
    async fn limits_hold_inside_a_transaction_and_leave_nothing_behind() {
        const SETTINGS: &str = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
                                       current_setting('idle_in_transaction_session_timeout'),
                                       current_setting('transaction_isolation')";
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        let node = db.another_node(&DbOptions { max_connections: 1, ..DbOptions::default() }).await;
        let settings = |a: &str, b: &str, c: &str| {
            Some((a.to_owned(), b.to_owned(), c.to_owned(), "read committed".to_owned()))
        };

        let mut tx = node.begin().await.unwrap();
        assert_eq!(tx.q(SETTINGS).one().await.unwrap(), settings("30s", "10s", "1min"));
        tx.commit().await.unwrap();
        assert_eq!(node.read().await.unwrap().q(SETTINGS).one().await.unwrap(), settings("0", "0", "0"));
    }

    #[tokio::test]
    async fn a_deadlock_ends_one_of_the_two_and_that_one_may_try_again() {
        const TOUCH: &str = "UPDATE note SET body = 'x' WHERE id = $1";
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        create_note_table(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q("INSERT INTO note (id) VALUES (1), (2)").exec().await.unwrap();
        tx.commit().await.unwrap();

        let mut one = db.db.begin().await.unwrap();
        let mut two = db.db.begin().await.unwrap();
        one.q(TOUCH).bind(1_i64).exec().await.unwrap();
        two.q(TOUCH).bind(2_i64).exec().await.unwrap();
        let crosswise = async |mut tx: remit::store::Tx, id: i64| match tx.q(TOUCH).bind(id).exec().await {
            Ok(_) => tx.commit().await,
            Err(error) => Err(error),
        };
        let (one, two) = tokio::join!(crosswise(one, 2), crosswise(two, 1));

        let lost = one.err().xor(two.err()).expect("exactly one of the two loses");
        assert!(lost.is_retryable() && !lost.is_unavailable(), "{lost}");
    }

    #[tokio::test]
    async fn a_connection_that_the_server_ended_is_unavailable_once_and_then_replaced() {
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        let node = db.another_node(&DbOptions { max_connections: 1, ..DbOptions::default() }).await;
        let pid: Option<i64> =
            node.read().await.unwrap().q("SELECT CAST(pg_backend_pid() AS BIGINT)").scalar().await.unwrap();
        let mut tx = node.begin().await.unwrap();
        let ended: Option<bool> = db
            .db
            .read()
            .await
            .unwrap()
            .q("SELECT pg_terminate_backend(CAST($1 AS INTEGER), 10000)")
            .bind(pid)
            .scalar()
            .await
            .unwrap();
        assert_eq!(ended, Some(true));

        let error = tx.q("SELECT TRUE").scalar::<bool>().await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        drop(tx);
        assert_eq!(node.read().await.unwrap().q("SELECT TRUE").scalar().await.unwrap(), Some(true));
    }

    #[tokio::test]
    async fn two_nodes_that_hold_a_sale_each_may_name_the_other_ones() {
        const LOCK: Sql = remit::for_update!("SELECT id FROM sale WHERE id = $1");
        const NAME: &str = "INSERT INTO sale_alias (project_id, realm, kind, object_id, sale_id)
            VALUES ('proj_default', 'external', 'external', $1, $1)";
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        let mut tx = db.db.begin().await.unwrap();
        for id in ["sale_1", "sale_2"] {
            tx.q("INSERT INTO sale (id, project_id, realm, status, refunded_minor, disputed_minor,
                      received_at_us, created_at_us)
                  VALUES ($1, 'proj_default', 'external', 'open', 0, 0, 0, 0)")
                .bind(id)
                .exec()
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();

        let (mut one, mut two) = (db.db.begin().await.unwrap(), db.db.begin().await.unwrap());
        one.q(LOCK).bind("sale_1").scalar::<String>().await.unwrap();
        two.q(LOCK).bind("sale_2").scalar::<String>().await.unwrap();
        // The foreign-key check of each reads a row that the other has locked, and does not wait.
        one.q(NAME).bind("sale_2").exec().await.unwrap();
        two.q(NAME).bind("sale_1").exec().await.unwrap();
        one.commit().await.unwrap();
        two.commit().await.unwrap();
    }

    #[tokio::test]
    async fn it_works_without_a_statement_cache() {
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        let pooled = DbOptions { statement_cache: false, max_connections: 1, ..DbOptions::default() };
        let node = db.another_node(&pooled).await;
        for expected in 1..=3_i64 {
            let mut tx = node.begin().await.unwrap();
            assert_eq!(tx.q("SELECT $1").bind(expected).scalar().await.unwrap(), Some(expected));
            let kept: Option<i64> =
                tx.q("SELECT COUNT(*) FROM pg_prepared_statements").scalar().await.unwrap();
            assert_eq!(kept, Some(0));
            tx.commit().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_unavailable_and_its_password_stays_secret() {
        let options = DbOptions { acquire_timeout: Duration::from_millis(100), ..DbOptions::default() };
        for url in
            ["postgres://remit:hunter2@127.0.0.1:1/remit", "postgres:///remit?host=/nowhere&password=hunter2"]
        {
            let error = Db::connect(url, &options).await.unwrap_err();
            assert!(error.is_unavailable(), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    /// The fault of the driver that `db.rs` describes: with its `begin` called directly, this fails.
    #[tokio::test]
    async fn an_abandoned_begin_leaves_no_open_transaction_in_the_pool() {
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        let proxy = GatedProxy::start(db.url());
        let node = one_connection(proxy.url()).await;
        for polls in 0..30 {
            abandon_while_unanswered(&proxy, "BEGIN", node.begin()).await;
            assert_nothing_is_open(&node, &db.db).await;
            abandon_after(polls, node.begin()).await;
            assert_nothing_is_open(&node, &db.db).await;
        }
    }

    #[tokio::test]
    async fn an_abandoned_commit_is_finished() {
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        create_note_table(&db.db).await;
        let proxy = GatedProxy::start(db.url());
        let node = one_connection(proxy.url()).await;
        for id in 1..=10 {
            let mut tx = node.begin().await.unwrap();
            tx.q(INSERT_ID).bind(id).exec().await.unwrap();
            abandon_while_unanswered(&proxy, "COMMIT", tx.commit()).await;
            assert_nothing_is_open(&node, &db.db).await;

            let mut tx = node.begin().await.unwrap();
            tx.q(INSERT_ID).bind(id + 100).exec().await.unwrap();
            abandon_after(1, tx.commit()).await;
            assert_nothing_is_open(&node, &db.db).await;
        }
        assert_eq!(note_ids(&db.db).await, (1..=10).chain(101..=110).collect::<Vec<i64>>());
    }

    #[tokio::test]
    async fn an_abandoned_statement_is_rolled_back_with_its_transaction() {
        let Some(db) = TestDb::postgres(module_path!()).await else { return };
        create_note_table(&db.db).await;
        let proxy = GatedProxy::start(db.url());
        let node = one_connection(proxy.url()).await;
        for id in 1..=10 {
            let work = async {
                let mut tx = node.begin().await.unwrap();
                tx.q(INSERT_ID).bind(id).exec().await.unwrap();
                tx.q("UPDATE note SET amount = 1").exec().await.unwrap();
            };
            // The first time each statement is prepared, later times it is only run.
            let text = if id == 1 { "UPDATE note" } else { "BEGIN" };
            abandon_while_unanswered(&proxy, text, work).await;
            assert_nothing_is_open(&node, &db.db).await;
        }
        assert_eq!(note_ids(&db.db).await, [0_i64; 0]);
    }

    async fn one_connection(url: &str) -> Db {
        Db::connect(url, &DbOptions { max_connections: 1, ..DbOptions::default() }).await.unwrap()
    }

    /// Drops `work` when it waits for the answer to a request that contains `text`.
    async fn abandon_while_unanswered<T>(
        proxy: &GatedProxy,
        text: &'static str,
        work: impl Future<Output = T>,
    ) {
        proxy.hold_answers_from(text);
        tokio::select! {
            biased;
            () = proxy.holds() => {}
            _ = work => panic!("it ended without an answer to {text}"),
        }
        proxy.release();
    }

    /// Drops `work` after polling it so many times at most.
    async fn abandon_after<T>(polls: i64, work: impl Future<Output = T>) {
        let mut work = pin!(work);
        for _ in 0..polls {
            let poll = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            if poll.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn assert_nothing_is_open(node: &Db, observer: &Db) {
        const OPEN: &str = "SELECT COUNT(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        // The node has one connection. While it is lent to us here, nobody else works on it.
        let mut lent = node.read().await.unwrap();
        assert_eq!(lent.q("SELECT TRUE").scalar().await.unwrap(), Some(true));
        let open: Option<i64> = observer.read().await.unwrap().q(OPEN).scalar().await.unwrap();
        assert_eq!(open, Some(0));
    }
}
