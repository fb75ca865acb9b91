//! The complete list of differences between SQLite and PostgreSQL.
//!
//! Nothing outside this file and `db.rs` names an engine. Everything else in the store is one SQL text
//! in the portable subset: `$1` placeholders, `ON CONFLICT`, `CAST(SUM(x) AS BIGINT)`, lists and bulk rows
//! as one JSON parameter through `json_each($1)`, times and clocks bound from outside.
//!
//! | Difference | Where it is handled |
//! |---|---|
//! | start of a transaction | [`Engine::begin_sql`], [`BEGIN_SHARED_READ`] |
//! | row locks | [`for_update!`](crate::for_update), [`for_update_skip_locked!`](crate::for_update_skip_locked) |
//! | a statement that truly has two texts | [`Sql`] with both |
//! | one schema change at a time | [`Engine::begin_migration_sql`], [`MIGRATION_LOCK`] |
//! | supported versions | [`Engine::check_version`] |
//! | catalogue | [`HAS_MIGRATION_TABLE`], [`CREATE_MIGRATION_TABLE`] |
//! | whether commits can run beside each other | [`Engine::has_one_writer`] |
//! | pools and connection set-up | `db.rs` |

use super::error::StoreError;

/// A database engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// One file, one writer at a time, any number of readers.
    Sqlite,
    /// A server, any number of nodes.
    Postgres,
}

/// One statement: the same text for both engines, or a pair where they truly differ.
///
/// Both texts take the same parameters and give the same columns.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// Text for SQLite.
    pub sqlite: &'static str,
    /// Text for PostgreSQL.
    pub postgres: &'static str,
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A `SELECT` that locks its rows for an update, until the transaction ends. SQLite needs no lock: a
/// write transaction is alone from its first statement.
///
/// The lock is `FOR NO KEY UPDATE`: the one that an `UPDATE` of columns outside every key takes, and no
/// statement of this program changes a key or deletes a locked row. It excludes itself as `FOR UPDATE`
/// does, but not the `FOR KEY SHARE` of foreign-key checks: with `FOR UPDATE`, two transactions that each
/// hold a sale and insert a row naming the other's would deadlock (PostgreSQL manual, "Row-Level Locks").
/// YugabyteDB has the same four strengths; CockroachDB reads this one as `FOR UPDATE`, which is only
/// stricter; Citus passes it on.
#[macro_export]
macro_rules! for_update {
    ($select:literal) => {
        $crate::store::Sql { sqlite: $select, postgres: concat!($select, " FOR NO KEY UPDATE") }
    };
}

/// As [`for_update!`](crate::for_update), but passes over rows that another transaction has locked, so
/// that nodes claim different rows without waiting for each other.
#[macro_export]
macro_rules! for_update_skip_locked {
    ($select:literal) => {
        $crate::store::Sql { sqlite: $select, postgres: concat!($select, " FOR NO KEY UPDATE SKIP LOCKED") }
    };
}

/// Lets one node at a time apply migrations; released by the end of the transaction, so it also works
/// behind a transaction-mode pooler. On SQLite, `BEGIN IMMEDIATE` has done this already.
pub(super) const MIGRATION_LOCK: Sql =
    Sql { sqlite: "SELECT 1", postgres: "SELECT pg_advisory_xact_lock(7235421090813)" };

/// Whether anything was ever migrated here: one row with one boolean.
pub(super) const HAS_MIGRATION_TABLE: Sql = Sql {
    sqlite: "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migration')",
    postgres: "SELECT to_regclass('schema_migration') IS NOT NULL",
};

/// Which migrations were applied, and from which text.
pub(super) const CREATE_MIGRATION_TABLE: Sql = Sql {
    sqlite: "CREATE TABLE IF NOT EXISTS schema_migration (
                 version INTEGER NOT NULL PRIMARY KEY, description TEXT NOT NULL, checksum BLOB NOT NULL
             ) STRICT",
    postgres: "CREATE TABLE IF NOT EXISTS schema_migration (
                   version BIGINT NOT NULL PRIMARY KEY, description TEXT NOT NULL, checksum BYTEA NOT NULL
               )",
};

/// Opens a read on a PostgreSQL connection that a pooler shares. The driver parses a statement and runs
/// it in two round trips; without a transaction the pooler may send them to two servers.
pub(super) const BEGIN_SHARED_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
     SET LOCAL statement_timeout = '30s'; \
     SET LOCAL idle_in_transaction_session_timeout = '60s'";

/// Oldest SQLite library without the WAL-reset corruption bug (sqlite.org/wal.html#walresetbug).
const SQLITE_OLDEST: (u32, u32, u32) = (3, 51, 3);

/// Oldest PostgreSQL major version that the tests run on.
const POSTGRES_OLDEST: u32 = 15;

impl Engine {
    /// The engine that a database URL names.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for any other scheme; the URL is not repeated, it may hold a password.
    pub(super) fn of_url(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            _ => Err(StoreError::Unsupported {
                what: "the database URL must start with sqlite:// or postgres://".to_owned(),
            }),
        }
    }

    /// The text of a statement for this engine.
    pub(super) fn text(self, sql: Sql) -> &'static str {
        match self {
            Self::Sqlite => sql.sqlite,
            Self::Postgres => sql.postgres,
        }
    }

    /// Whether one transaction at a time writes, so that more writers only split the batches.
    #[must_use]
    pub fn has_one_writer(self) -> bool {
        match self {
            Self::Sqlite => true,
            Self::Postgres => false,
        }
    }

    /// Opens a write transaction.
    ///
    /// SQLite takes the write lock at the start, so contention shows up here, where it waits, and not
    /// halfway through a transaction that has already read, where it fails at once (code 517).
    ///
    /// PostgreSQL gets its limits in the same round trip. `SET LOCAL` ends with the transaction, so this
    /// leaves nothing behind on a server connection that a transaction-mode pooler shares, and start-up
    /// options, which such poolers refuse, are not needed. Plans are made anew for each execution: a plan
    /// cached while the tables of a fresh install were empty scans them whole when they no longer are. A node that hangs inside a transaction loses
    /// it, and its locks, after a minute.
    pub(super) fn begin_sql(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => {
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                 SET LOCAL statement_timeout = '30s'; \
                 SET LOCAL lock_timeout = '10s'; \
                 SET LOCAL plan_cache_mode = force_custom_plan; \
                 SET LOCAL idle_in_transaction_session_timeout = '60s'"
            }
        }
    }

    /// Opens the transaction that migrates. Building an index may take long, so only waiting is bounded.
    pub(super) fn begin_migration_sql(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => {
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                 SET LOCAL client_min_messages = 'warning'; \
                 SET LOCAL statement_timeout = 0; \
                 SET LOCAL lock_timeout = '60s'"
            }
        }
    }

    /// Gives the version of the library or server as one text, for [`Self::check_version`].
    pub(super) fn version_sql(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT sqlite_version()",
            Self::Postgres => "SELECT current_setting('server_version')",
        }
    }

    /// Refuses versions that remit must not run on.
    ///
    /// `version` is what [`Self::version_sql`] gave, such as `3.51.3` or `15.18 (Debian 15.18-0+deb12u1)`.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] with what was found and what is needed.
    pub(super) fn check_version(self, version: &str) -> Result<(), StoreError> {
        // Missing parts count as 0, so `17beta1` and `18` read as 17.0.0 and 18.0.0.
        let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        let found: (u32, u32, u32) = (part(), part(), part());
        let (name, supported, needed) = match self {
            Self::Sqlite => ("SQLite", found >= SQLITE_OLDEST, "3.51.3 (a WAL corruption bug before it)"),
            Self::Postgres => ("PostgreSQL", found.0 >= POSTGRES_OLDEST, "15"),
        };
        if supported {
            return Ok(());
        }
        Err(StoreError::Unsupported {
            what: format!("{name} {version} is too old, remit needs at least {needed}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_refused() {
        for (engine, version, supported) in [
            (Engine::Sqlite, "3.51.3", true),
            (Engine::Sqlite, "3.52.0", true),
            (Engine::Sqlite, "4.0.0", true),
            (Engine::Sqlite, "3.51.2", false),
            (Engine::Sqlite, "3.9.9", false),
            (Engine::Sqlite, "", false),
            (Engine::Postgres, "15.18 (Debian 15.18-0+deb12u1)", true),
            (Engine::Postgres, "18beta1", true),
            (Engine::Postgres, "14.20", false),
            (Engine::Postgres, "9.6.24", false),
        ] {
            assert_eq!(engine.check_version(version).is_ok(), supported, "{engine:?} {version}");
        }
    }

    #[test]
    fn the_scheme_names_the_engine_and_errors_keep_the_password() {
        assert_eq!(Engine::of_url("sqlite://remit.db").unwrap(), Engine::Sqlite);
        assert_eq!(Engine::of_url("postgres://localhost/remit").unwrap(), Engine::Postgres);
        assert_eq!(Engine::of_url("postgresql://localhost/remit").unwrap(), Engine::Postgres);
        let error = Engine::of_url("mysql://root:hunter2@localhost/remit").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_lock_is_added_where_the_engine_has_it() {
        let sql = for_update_skip_locked!("SELECT id FROM job");
        assert_eq!(Engine::Sqlite.text(sql), "SELECT id FROM job");
        assert_eq!(Engine::Postgres.text(sql), "SELECT id FROM job FOR NO KEY UPDATE SKIP LOCKED");
        assert_eq!(Engine::Postgres.text(for_update!("SELECT 1")), "SELECT 1 FOR NO KEY UPDATE");
    }
}
