//! The thin own layer over sqlx's two native drivers: connect, migrate, transactions, queries.
//!
//! It hides which engine is there and nothing else: no query builder, no models, no cache. sqlx's `Any`
//! driver was measured and rejected (it cannot decode a BOOLEAN on SQLite).
//!
//! # Abandoned futures
//! sqlx 0.9.0 has a fault (its issues 4385 and 4393, fixed on its main branch by 4394): when the future
//! of `begin` is dropped while `BEGIN` is under way, the connection returns to the pool inside an open
//! transaction, and its next user works, unknowingly, inside it. A web handler is dropped whenever its
//! client hangs up. So [`Db::begin`], [`Tx::commit`] and [`Tx::rollback`] run in tasks of their own that
//! always run to their end: whoever waits for them may go away at any time. A transaction that nobody
//! waits for any more is rolled back by its drop, as any other.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use sqlx::{
    Decode, Encode, FromRow, PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool,
    Transaction, Type,
    migrate::Migrator,
    pool::{PoolConnection, PoolOptions},
    postgres::{PgArguments, PgConnectOptions, PgRow},
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use tracing::Instrument;

use super::{
    dialect::{BEGIN_SHARED_READ, CREATE_MIGRATION_TABLE, Engine, HAS_MIGRATION_TABLE, MIGRATION_LOCK, Sql},
    error::StoreError,
};
use crate::failpoint::{self, Failpoint};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Statements that a connection keeps prepared; more than the program has.
const STATEMENTS_MAX: usize = 500;

/// More readers than this only compete for the same disk: each is a thread with a cache of its own.
const SQLITE_READERS_MAX: u32 = 4;

/// How to connect.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// Connections at most, 1 or more. On SQLite this bounds the readers (to 4 at most); there is always
    /// exactly one writer beside them.
    pub max_connections: u32,
    /// PostgreSQL: whether statements stay prepared on a connection. Turn it off behind a pooler that
    /// hands out a server connection per transaction (PgBouncer's transaction mode): what is prepared
    /// there is not there the next time. Every read then costs a small transaction.
    pub statement_cache: bool,
    /// How long SQLite waits for another process that holds the write lock.
    pub busy_timeout: Duration,
    /// How long to wait for a free connection, or for a server that cannot be reached.
    pub acquire_timeout: Duration,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            statement_cache: true,
            busy_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(5),
        }
    }
}

/// A database. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Db(Pools);

#[derive(Clone, Debug)]
enum Pools {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres { pool: PgPool, statement_cache: bool },
}

impl Db {
    /// Connects, and refuses engine versions that remit must not run on. Does not migrate.
    ///
    /// `url` is `sqlite://path` (the file is created if missing), `postgres://user@host/database`, or
    /// `postgres:///database?host=/socket/directory&user=name`.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for another scheme, an in-memory database or an old engine; otherwise
    /// what the database answered.
    pub async fn connect(url: &str, options: &DbOptions) -> Result<Self, StoreError> {
        let engine = Engine::of_url(url)?;
        let db = match engine {
            Engine::Sqlite => Self(connect_sqlite(url, options).await?),
            Engine::Postgres => Self(connect_postgres(url, options).await?),
        };
        let version: Option<String> = db.read().await?.q(engine.version_sql()).scalar().await?;
        engine.check_version(&version.unwrap_or_default())?;
        Ok(db)
    }

    /// The engine behind it.
    pub fn engine(&self) -> Engine {
        match self.0 {
            Pools::Sqlite { .. } => Engine::Sqlite,
            Pools::Postgres { .. } => Engine::Postgres,
        }
    }

    /// The file of a SQLite database; a server's files are none of ours.
    pub fn file(&self) -> Option<PathBuf> {
        match &self.0 {
            Pools::Sqlite { write, .. } => Some(write.connect_options().get_filename().to_owned()),
            Pools::Postgres { .. } => None,
        }
    }

    /// Applies the migrations that are missing, all in one transaction. Any number of nodes may do this
    /// at the same time: one does the work, the others wait for it and find nothing left to do.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`] when a newer remit was here, [`StoreError::SchemaDiffers`] when
    /// another build was; the database is then unchanged.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let db = self.clone();
        to_the_end(async move { db.migrate_in_one_transaction().await }).await
    }

    async fn migrate_in_one_transaction(&self) -> Result<(), StoreError> {
        let mut tx = self.open(self.engine().begin_migration_sql()).await?;
        tx.q(MIGRATION_LOCK).exec().await?;
        let applied = applied_versions(&mut tx).await?;
        match compare_versions(self.migrations(), &applied) {
            Err(StoreError::SchemaTooOld { .. }) => {}
            up_to_date_or_unusable => return up_to_date_or_unusable,
        }
        // Not `Migrator::run`: it takes a session lock, which neither poolers nor all PostgreSQL-compatible
        // engines honour. The transaction and its lock do that work here.
        tx.q(CREATE_MIGRATION_TABLE).exec().await?;
        for migration in self.migrations().iter().skip(applied.len()) {
            tracing::info!(migration.version, description = %migration.description, "applying a migration");
            let statements = sqlx::raw_sql(migration.sql.clone());
            match tx.handle() {
                Handle::Sqlite(conn) => statements.execute(conn).await.map(drop)?,
                Handle::Postgres(conn) => statements.execute(conn).await.map(drop)?,
            }
            tx.q("INSERT INTO schema_migration (version, description, checksum) VALUES ($1, $2, $3)")
                .bind(migration.version)
                .bind(migration.description.as_ref())
                .bind(migration.checksum.as_ref())
                .exec()
                .await?;
            failpoint::reach(Failpoint::MigrateAfterStep);
        }
        failpoint::reach(Failpoint::MigrateBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::MigrateAfterCommit);
        Ok(())
    }

    /// Checks that the database has exactly the migrations this program carries, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooOld`], [`StoreError::SchemaTooNew`] or [`StoreError::SchemaDiffers`].
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let applied = applied_versions(&mut self.read().await?).await?;
        compare_versions(self.migrations(), &applied)
    }

    fn migrations(&self) -> &'static Migrator {
        match self.0 {
            Pools::Sqlite { .. } => &SQLITE_MIGRATIONS,
            Pools::Postgres { .. } => &POSTGRES_MIGRATIONS,
        }
    }

    /// Opens a write transaction. On SQLite it waits its turn for the one writer.
    ///
    /// The work happens in a task of its own (see the module), so this may be abandoned at any time.
    ///
    /// # Errors
    /// [`StoreError::is_unavailable`] when no connection became free in time,
    /// [`StoreError::is_retryable`] when another process kept the SQLite file locked.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let db = self.clone();
        to_the_end(async move { db.open(db.engine().begin_sql()).await }).await
    }

    async fn open(&self, begin_sql: &'static str) -> Result<Tx, StoreError> {
        let link = match &self.0 {
            Pools::Sqlite { write, .. } => Link::SqliteTx(write.begin_with(begin_sql).await?),
            Pools::Postgres { pool, .. } => Link::PostgresTx(pool.begin_with(begin_sql).await?),
        };
        Ok(Tx(self.conn(link)))
    }

    /// A connection for reading outside any transaction. On SQLite it refuses to write.
    ///
    /// # Errors
    /// [`StoreError::is_unavailable`] when no connection became free in time.
    pub async fn read(&self) -> Result<Conn, StoreError> {
        match &self.0 {
            Pools::Sqlite { read, .. } => Ok(self.conn(Link::Sqlite(read.acquire().await?))),
            Pools::Postgres { pool, statement_cache: true } => {
                Ok(self.conn(Link::Postgres(pool.acquire().await?)))
            }
            Pools::Postgres { statement_cache: false, .. } => {
                let db = self.clone();
                Ok(to_the_end(async move { db.open(BEGIN_SHARED_READ).await }).await?.0)
            }
        }
    }

    fn conn(&self, link: Link) -> Conn {
        let statement_cache = !matches!(self.0, Pools::Postgres { statement_cache: false, .. });
        Conn { link, statement_cache }
    }

    /// Waits for connections in use and closes all of them. Later calls fail as unavailable.
    pub async fn close(&self) {
        match &self.0 {
            Pools::Sqlite { write, read } => {
                // The last connection to close checkpoints the log, and only the writer may write.
                read.close().await;
                write.close().await;
            }
            Pools::Postgres { pool, .. } => pool.close().await,
        }
    }
}

/// Runs `work` in a task that no caller can cancel.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and its connections with it.
            Err(_) => Err(StoreError::from(sqlx::Error::PoolClosed)),
        },
    }
}

/// Versions and checksums of the migrations that were applied, in order.
async fn applied_versions(conn: &mut Conn) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    const APPLIED: &str = "SELECT version, checksum FROM schema_migration ORDER BY version";
    let exists: Option<bool> = conn.q(HAS_MIGRATION_TABLE).scalar().await?;
    if exists == Some(true) { conn.q(APPLIED).all().await } else { Ok(Vec::new()) }
}

/// Applied migrations must be a prefix of those that the program carries.
fn compare_versions(carried: &Migrator, applied: &[(i64, Vec<u8>)]) -> Result<(), StoreError> {
    let known = carried.iter().last().map_or(0, |migration| migration.version);
    let found = applied.last().map_or(0, |(version, _)| *version);
    if found > known {
        return Err(StoreError::SchemaTooNew { found, known });
    }
    for (migration, (version, checksum)) in carried.iter().zip(applied) {
        if migration.version != *version || migration.checksum.as_ref() != checksum.as_slice() {
            return Err(StoreError::SchemaDiffers { version: *version });
        }
    }
    if applied.len() < carried.iter().len() { Err(StoreError::SchemaTooOld { found, known }) } else { Ok(()) }
}

async fn connect_sqlite(url: &str, options: &DbOptions) -> Result<Pools, StoreError> {
    let connect = SqliteConnectOptions::from_str(url)?;
    // Every connection to `:memory:` is a database of its own, and none of them survives the process.
    if connect.get_filename().as_os_str().is_empty()
        || url.contains(":memory:")
        || url.contains("mode=memory")
    {
        return Err(StoreError::Unsupported {
            what: "an in-memory SQLite database cannot keep money; name a file, such as sqlite://remit.db"
                .to_owned(),
        });
    }
    let connect = connect
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // With NORMAL, a power cut may undo commits that were already acknowledged.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Without it, `INSERT OR REPLACE` deletes rows past the triggers that keep the ledger append-only
        // (sqlite.org/lang_conflict.html, "REPLACE").
        .pragma("recursive_triggers", "ON")
        .busy_timeout(options.busy_timeout)
        .statement_cache_capacity(STATEMENTS_MAX);
    let pool = |size| {
        PoolOptions::<Sqlite>::new()
            .max_connections(size)
            .acquire_timeout(options.acquire_timeout)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    // The writer goes first: it creates the file and switches it to WAL, which readers cannot.
    let write = open_sqlite(&pool(1), &connect, options.busy_timeout).await?;
    let readers = options.max_connections.clamp(1, SQLITE_READERS_MAX);
    let read = pool(readers).connect_lazy_with(connect.create_if_missing(false).pragma("query_only", "ON"));
    Ok(Pools::Sqlite { write, read })
}

/// SQLite answers "busy" to the switch to WAL without waiting while another process makes the same
/// switch, so two processes that start together on a new file need this second patience.
async fn open_sqlite(
    pool: &PoolOptions<Sqlite>,
    connect: &SqliteConnectOptions,
    patience: Duration,
) -> Result<SqlitePool, StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        match pool.clone().connect_with(connect.clone()).await.map_err(StoreError::from) {
            Err(error) if error.is_retryable() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn connect_postgres(url: &str, options: &DbOptions) -> Result<Pools, StoreError> {
    let connect = PgConnectOptions::from_str(url)?
        // Poolers refuse start-up parameters that they do not track; no float ever crosses this layer.
        .extra_float_digits(None)
        .statement_cache_capacity(if options.statement_cache { STATEMENTS_MAX } else { 0 });
    let connect =
        if connect.get_application_name().is_some() { connect } else { connect.application_name("remit") };
    let pool = PoolOptions::<Postgres>::new()
        .max_connections(options.max_connections.max(1))
        .acquire_timeout(options.acquire_timeout)
        // The test is a round trip before each use. A connection that died shows up as one failed
        // statement instead, which every stage retries anyway.
        .test_before_acquire(false)
        .connect_with(connect)
        .await?;
    Ok(Pools::Postgres { pool, statement_cache: options.statement_cache })
}

/// A connection: what every function that reads takes. Inside a [`Tx`] it reads what the transaction sees.
#[derive(Debug)]
pub struct Conn {
    link: Link,
    statement_cache: bool,
}

#[derive(Debug)]
enum Link {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    SqliteTx(Transaction<'static, Sqlite>),
    PostgresTx(Transaction<'static, Postgres>),
}

enum Handle<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Conn {
    /// Starts a query; parameters follow with [`Query::bind`] in the order `$1`, `$2`, and so on.
    pub fn q(&mut self, sql: impl Into<Sql>) -> Query<'_> {
        let sql = sql.into();
        let keep = self.statement_cache;
        Query(match self.handle() {
            Handle::Sqlite(conn) => {
                Prepared::Sqlite(conn, sqlx::query(Engine::Sqlite.text(sql)).persistent(keep))
            }
            Handle::Postgres(conn) => {
                Prepared::Postgres(conn, sqlx::query(Engine::Postgres.text(sql)).persistent(keep))
            }
        })
    }

    fn handle(&mut self) -> Handle<'_> {
        match &mut self.link {
            Link::Sqlite(conn) => Handle::Sqlite(conn),
            Link::Postgres(conn) => Handle::Postgres(conn),
            Link::SqliteTx(tx) => Handle::Sqlite(tx),
            Link::PostgresTx(tx) => Handle::Postgres(tx),
        }
    }
}

/// A write transaction. Dropping it rolls back. Only its owner can commit, because that takes the value.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx(Conn);

impl Tx {
    /// Makes everything in it durable.
    ///
    /// Runs to its end even when the caller goes away, so that no half-finished commit is left on a
    /// connection.
    ///
    /// # Errors
    /// When the connection broke, whether it was committed is not known: look, never assume.
    pub async fn commit(self) -> Result<(), StoreError> {
        to_the_end(async move {
            match self.0.link {
                Link::SqliteTx(tx) => tx.commit().await?,
                Link::PostgresTx(tx) => tx.commit().await?,
                Link::Sqlite(_) | Link::Postgres(_) => {
                    unreachable!("only Db::open makes a Tx, from a transaction")
                }
            }
            Ok(())
        })
        .await
    }

    /// Undoes everything in it and waits until that is done, which a drop does not.
    pub async fn rollback(self) -> Result<(), StoreError> {
        to_the_end(async move {
            match self.0.link {
                Link::SqliteTx(tx) => tx.rollback().await?,
                Link::PostgresTx(tx) => tx.rollback().await?,
                Link::Sqlite(_) | Link::Postgres(_) => {
                    unreachable!("only Db::open makes a Tx, from a transaction")
                }
            }
            Ok(())
        })
        .await
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}

/// A value that both engines can take as a parameter: `i64`, `bool`, text, bytes, and options of them.
pub trait Bind<'v>: Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres> {}
impl<'v, V: Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres>> Bind<'v> for V {}

/// A row that both engines can give: a tuple, or a struct with `#[derive(sqlx::FromRow)]`.
pub trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
impl<R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Row for R {}

/// A single column that both engines can give.
pub trait Scalar:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin
{
}
impl<S> Scalar for S where
    S: for<'r> Decode<'r, Sqlite>
        + Type<Sqlite>
        + for<'r> Decode<'r, Postgres>
        + Type<Postgres>
        + Send
        + Unpin
{
}

/// A statement on its way, with the parameters bound so far.
#[must_use = "a query does nothing until it is run"]
pub struct Query<'c>(Prepared<'c>);

enum Prepared<'c> {
    Sqlite(&'c mut SqliteConnection, sqlx::query::Query<'c, Sqlite, SqliteArguments>),
    Postgres(&'c mut PgConnection, sqlx::query::Query<'c, Postgres, PgArguments>),
}

impl Query<'_> {
    /// Binds the next parameter.
    pub fn bind<'v>(self, value: impl Bind<'v>) -> Self {
        Self(match self.0 {
            Prepared::Sqlite(conn, query) => Prepared::Sqlite(conn, query.bind(value)),
            Prepared::Postgres(conn, query) => Prepared::Postgres(conn, query.bind(value)),
        })
    }

    /// All rows.
    pub async fn all<R: Row>(self) -> Result<Vec<R>, StoreError> {
        let rows: Result<Vec<R>, sqlx::Error> = match self.0 {
            Prepared::Sqlite(conn, query) => query.fetch_all(conn).await?.iter().map(R::from_row).collect(),
            Prepared::Postgres(conn, query) => query.fetch_all(conn).await?.iter().map(R::from_row).collect(),
        };
        Ok(rows?)
    }

    /// The first row, if there is one.
    pub async fn one<R: Row>(self) -> Result<Option<R>, StoreError> {
        let row: Result<Option<R>, sqlx::Error> = match self.0 {
            Prepared::Sqlite(conn, query) => {
                query.fetch_optional(conn).await?.as_ref().map(R::from_row).transpose()
            }
            Prepared::Postgres(conn, query) => {
                query.fetch_optional(conn).await?.as_ref().map(R::from_row).transpose()
            }
        };
        Ok(row?)
    }

    /// The first column of the first row, if there is a row. A nullable column needs an `Option` inside:
    /// `scalar::<Option<i64>>()`.
    pub async fn scalar<S: Scalar>(self) -> Result<Option<S>, StoreError> {
        Ok(self.one::<(S,)>().await?.map(|(value,)| value))
    }

    /// The first column of every row.
    pub async fn scalars<S: Scalar>(self) -> Result<Vec<S>, StoreError> {
        Ok(self.all::<(S,)>().await?.into_iter().map(|(value,)| value).collect())
    }

    /// Runs the statement and gives the number of rows it changed.
    pub async fn exec(self) -> Result<u64, StoreError> {
        Ok(match self.0 {
            Prepared::Sqlite(conn, query) => query.execute(conn).await?.rows_affected(),
            Prepared::Postgres(conn, query) => query.execute(conn).await?.rows_affected(),
        })
    }
}
