//! What a command works with: the configuration, the logs, and the database.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use super::{Format, Global};
use crate::{
    app::{App, worker},
    clock::{DisciplinedClock, SystemClock},
    config::{Config, Log, Source},
    store::{Db, DbOptions},
    telemetry,
};

/// What was typed cannot be done, whatever the state of the world.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub String);

/// The surroundings of a command.
pub(super) struct Context {
    /// The resolved configuration.
    pub config: Arc<Config>,
    /// How data is printed.
    pub format: Format,
    /// Whether to print nothing but data and errors.
    pub quiet: bool,
}

/// An [`App`] with the clock that it follows.
pub(super) struct Opened {
    /// The stages' surroundings.
    pub app: App,
    /// Follows the database's clock once somebody keeps observing it.
    pub clock: Arc<DisciplinedClock>,
}

impl Context {
    /// For commands that do one thing: only warnings are logged unless the configuration says otherwise.
    pub fn load(global: &Global) -> anyhow::Result<Self> {
        Self::load_with(global, Some("warn"))
    }

    /// For the server, whose log is its voice.
    pub fn load_for_server(global: &Global) -> anyhow::Result<Self> {
        Self::load_with(global, None)
    }

    fn load_with(global: &Global, default_filter: Option<&str>) -> anyhow::Result<Self> {
        let flags = global.database_url.iter().map(|url| ("database.url", url.clone()));
        let config = Config::from_process(global.config.as_deref(), flags)?;
        let is_default = config
            .settings()
            .iter()
            .any(|setting| setting.key == "log.filter" && setting.source == Source::Default);
        let filter = match (global.quiet, default_filter) {
            (true, _) => "error",
            (false, Some(filter)) if is_default => filter,
            (false, _) => &config.log.filter,
        };
        telemetry::init_logs(&Log { format: config.log.format, filter: filter.to_owned() })?;
        Ok(Self { config: Arc::new(config), format: global.output, quiet: global.quiet })
    }

    /// Says something that is not data.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Connects; creates the file of a SQLite database that does not exist.
    pub async fn connect(&self) -> Result<Db, crate::store::StoreError> {
        let options =
            DbOptions { max_connections: self.config.database.max_connections, ..DbOptions::default() };
        Db::connect(self.config.database.url.expose_secret(), &options).await
    }

    /// Opens a database that exists and has this program's schema, and changes nothing.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        self.require_file()?;
        let db = self.connect().await.context("cannot open the database")?;
        db.check_schema().await?;
        self.opened(db).await
    }

    /// Puts the app together over a database that is ready.
    pub async fn opened(&self, db: Db) -> anyhow::Result<Opened> {
        let clock = Arc::new(DisciplinedClock::new(SystemClock));
        worker::observe_clock(&db, &clock).await?;
        let app = App::new(db, Arc::clone(&self.config), Arc::<DisciplinedClock>::clone(&clock));
        Ok(Opened { app, clock })
    }

    /// Connecting creates a SQLite file, and a mistyped path must not leave an empty database behind that
    /// looks like lost books.
    fn require_file(&self) -> anyhow::Result<()> {
        let url = self.config.database.url.expose_secret();
        let Some(rest) = url.strip_prefix("sqlite:") else { return Ok(()) };
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let path = path.split('?').next().unwrap_or_default();
        // A path in percent encoding is left to the driver.
        if path.contains('%') || Path::new(path).exists() {
            return Ok(());
        }
        anyhow::bail!("there is no database at {path}: run `remit migrate`, or correct `database.url`")
    }
}
