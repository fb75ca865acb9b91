//! Databases as older programs left them: an earlier schema, with rows of its time.
//!
//! They are made from the files under `migrations` and `fixtures/schemas` by this test code alone, so that
//! the program under test has no hand in what it is to migrate.

use std::{collections::BTreeMap, str::FromStr as _};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, SqliteConnection,
    migrate::{Migration, Migrator},
    sqlite::SqliteConnectOptions,
};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// What `remit` of those days made first.
const SQLITE_HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migration (
    version INTEGER NOT NULL PRIMARY KEY, description TEXT NOT NULL, checksum BLOB NOT NULL
) STRICT";
const POSTGRES_HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migration (
    version BIGINT NOT NULL PRIMARY KEY, description TEXT NOT NULL, checksum BYTEA NOT NULL)";

/// Rows that were added under a schema, in SQL for SQLite.
const ROWS: &[(i64, &str)] = &[
    (4, include_str!("../../../fixtures/schemas/0004.sql")),
    (5, include_str!("../../../fixtures/schemas/0005.sql")),
    (6, include_str!("../../../fixtures/schemas/0006.sql")),
    (7, include_str!("../../../fixtures/schemas/0007.sql")),
    (8, include_str!("../../../fixtures/schemas/0008.sql")),
    (9, include_str!("../../../fixtures/schemas/0009.sql")),
    (10, include_str!("../../../fixtures/schemas/0010.sql")),
    (12, include_str!("../../../fixtures/schemas/0012.sql")),
];

/// The first schema of which there are rows.
pub const OLDEST: i64 = 4;

/// The newest schema that there is.
pub fn newest() -> i64 {
    SQLITE.iter().last().unwrap().version
}

/// Every row of every table as a JSON object, sorted; and what the schema is made of, under its own name.
pub type Dump = BTreeMap<String, Vec<Value>>;

/// Where [`dump`] keeps tables, columns, indexes, constraints and triggers.
pub const CATALOGUE: &str = "(catalogue)";

/// Brings an empty database to that schema, with the rows of every schema on the way.
pub async fn fill(url: &str, schema: i64) {
    let mut conn = Raw::connect(url).await;
    conn.run(if conn.is_sqlite() { SQLITE_HISTORY } else { POSTGRES_HISTORY }.to_owned()).await;
    let migrations = if conn.is_sqlite() { &SQLITE } else { &POSTGRES };
    for migration in migrations.iter().filter(|migration| migration.version <= schema) {
        conn.apply(migration).await;
        for (_, rows) in ROWS.iter().filter(|(version, _)| *version == migration.version) {
            let rows = conn.dialect(rows);
            conn.run(rows).await;
        }
    }
    conn.close().await;
}

/// Reads everything.
pub async fn dump(url: &str) -> Dump {
    let mut conn = Raw::connect(url).await;
    let mut dump = Dump::new();
    for table in conn.texts(conn.tables()).await {
        let rows = conn.rows_of(&table).await;
        dump.insert(table, rows);
    }
    let catalogue = conn.texts(conn.catalogue()).await;
    // However the text was broken into lines.
    let words = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    dump.insert(CATALOGUE.to_owned(), catalogue.iter().map(|text| Value::from(words(text))).collect());
    conn.close().await;
    dump
}

/// A connection of the test's own, past the store.
enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Raw {
    async fn connect(url: &str) -> Self {
        if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url).unwrap().foreign_keys(true);
            Self::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
        } else {
            Self::Postgres(PgConnection::connect(url).await.unwrap())
        }
    }

    async fn close(self) {
        match self {
            Self::Sqlite(conn) => conn.close().await.unwrap(),
            Self::Postgres(conn) => conn.close().await.unwrap(),
        }
    }

    fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    async fn run(&mut self, sql: String) {
        let statements = sqlx::raw_sql(AssertSqlSafe(sql));
        match self {
            Self::Sqlite(conn) => statements.execute(conn).await.map(drop).unwrap(),
            Self::Postgres(conn) => statements.execute(conn).await.map(drop).unwrap(),
        }
    }

    async fn apply(&mut self, migration: &Migration) {
        const APPLIED: &str =
            "INSERT INTO schema_migration (version, description, checksum) VALUES ($1, $2, $3)";
        self.run(migration.sql.as_str().to_owned()).await;
        let (version, description, checksum) =
            (migration.version, &*migration.description, &*migration.checksum);
        match self {
            Self::Sqlite(conn) => {
                let query = sqlx::query(APPLIED).bind(version).bind(description).bind(checksum);
                query.execute(conn).await.map(drop).unwrap();
            }
            Self::Postgres(conn) => {
                let query = sqlx::query(APPLIED).bind(version).bind(description).bind(checksum);
                query.execute(conn).await.map(drop).unwrap();
            }
        }
    }

    /// The rows of a file in this engine's SQL: they differ in how bytes are written.
    fn dialect(&self, rows: &str) -> String {
        if self.is_sqlite() {
            return rows.to_owned();
        }
        rows.replace("X'", r"'\x").replace("CAST('", "convert_to('").replace("' AS BLOB)", "', 'UTF8')")
    }

    async fn texts(&mut self, sql: impl Into<String>) -> Vec<String> {
        let sql = AssertSqlSafe(sql.into());
        match self {
            Self::Sqlite(conn) => sqlx::query_scalar(sql).fetch_all(conn).await.unwrap(),
            Self::Postgres(conn) => sqlx::query_scalar(sql).fetch_all(conn).await.unwrap(),
        }
    }

    fn tables(&self) -> &'static str {
        if self.is_sqlite() {
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1"
        } else {
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        }
    }

    fn catalogue(&self) -> &'static str {
        if self.is_sqlite() {
            "SELECT type || ' ' || name || ': ' || COALESCE(sql, '') FROM sqlite_schema ORDER BY 1"
        } else {
            "SELECT 'column ' || table_name || '.' || column_name || ': ' || data_type || ' ' || is_nullable
                 || ' ' || COALESCE(column_default, '') || ' ' || COALESCE(collation_name, '')
             FROM information_schema.columns WHERE table_schema = 'public'
             UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
             UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ': '
                 || pg_get_constraintdef(oid)
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace
             UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
             ORDER BY 1"
        }
    }

    async fn rows_of(&mut self, table: &str) -> Vec<Value> {
        let sql = if self.is_sqlite() {
            let columns = format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name");
            let pairs: Vec<String> = self
                .texts(columns)
                .await
                .iter()
                .map(|name| {
                    format!("'{name}', CASE typeof({name}) WHEN 'blob' THEN hex({name}) ELSE {name} END")
                })
                .collect();
            format!("SELECT json_object({}) FROM {table}", pairs.join(", "))
        } else {
            format!("SELECT to_jsonb(t)::text FROM {table} t")
        };
        let mut rows = self.texts(sql).await;
        rows.sort();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }
}
