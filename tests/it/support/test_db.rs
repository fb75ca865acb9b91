//! A migrated database of its own for every test.

use remit::store::{Db, DbOptions};
use tempfile::TempDir;

use super::pg::{self, PgDatabase};

/// A migrated database that goes away with this value.
pub struct TestDb {
    /// The connected database.
    pub db: Db,
    url: String,
    _home: Home,
}

#[expect(dead_code, reason = "held for their drop, which removes the database")]
enum Home {
    File(TempDir),
    Server(PgDatabase),
    /// Whoever made it takes care of it.
    Elsewhere,
}

impl TestDb {
    /// A SQLite file in a directory of its own.
    pub async fn sqlite() -> Self {
        let new = Self::empty_sqlite().await;
        new.db.migrate().await.unwrap();
        new
    }

    /// The same before anything was migrated.
    pub async fn empty_sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("remit.db").display());
        let db = Db::connect(&url, &DbOptions::default()).await.unwrap();
        Self { db, url, _home: Home::File(directory) }
    }

    /// A PostgreSQL database, or none where there is no PostgreSQL (see [`pg`]). `caller` is
    /// `module_path!()`.
    pub async fn postgres(caller: &str) -> Option<Self> {
        let database = pg::database_to_migrate(caller)?;
        let url = database.url().to_owned();
        let db = Db::connect(&url, &DbOptions::default()).await.unwrap();
        db.migrate().await.unwrap();
        Some(Self { db, url, _home: Home::Server(database) })
    }

    /// A PostgreSQL database in which nothing was migrated yet, or none.
    pub async fn empty_postgres(caller: &str) -> Option<Self> {
        let database = pg::postgres_url_for_new_database(caller)?;
        let url = database.url().to_owned();
        let db = Db::connect(&url, &DbOptions::default()).await.unwrap();
        Some(Self { db, url, _home: Home::Server(database) })
    }

    /// Another database of the same engine, in which nothing was migrated yet.
    pub async fn another_empty(&self, caller: &str) -> Self {
        if self.url.starts_with("sqlite:") {
            Self::empty_sqlite().await
        } else {
            Self::empty_postgres(caller).await.unwrap()
        }
    }

    /// Connects to a database that somebody else keeps, and migrates it.
    pub async fn at(url: &str) -> Self {
        let db = Db::connect(url, &DbOptions::default()).await.unwrap();
        db.migrate().await.unwrap();
        Self { db, url: url.to_owned(), _home: Home::Elsewhere }
    }

    /// The URL, for a second connection or another process.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A second, independent [`Db`] on the same database, as another node or process would have.
    pub async fn another_node(&self, options: &DbOptions) -> Db {
        Db::connect(&self.url, options).await.unwrap()
    }
}
