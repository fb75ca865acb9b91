//! `remit serve`: a node until it is told to stop.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{context::Context, node, run::Exit};
use crate::{
    shutdown::{Drained, Shutdown},
    store::{Db, StoreError},
    telemetry,
};

/// The pause after the first failed attempt to connect; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long to wait for a database that does not answer, before ending with code 75
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    database_patience: u64,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let metrics = telemetry::init_metrics()?;
    let shutdown = Shutdown::new();
    shutdown.obey_signals()?;
    let patience = Duration::from_secs(args.database_patience);
    let connecting = shutdown.draining().run_until_cancelled(connect(context, patience));
    let Some(connected) = connecting.await else { return Ok(Exit::Ok) };
    let opened = context.opened(connected?).await?;
    let node = node::start(opened, metrics, &shutdown).await?;
    // Operators and tests that asked for port 0 read the ports from this line.
    tracing::info!(public = %node.public, ops = %node.ops, "listening");
    match node.finish().await? {
        Drained::Clean => {
            tracing::info!("stopped");
            Ok(Exit::Ok)
        }
        Drained::Cut(tasks) => {
            tracing::error!(tasks, "stopped before everything was finished; it is resumed at the next start");
            Ok(Exit::Failed)
        }
    }
}

/// Connects and migrates, again and again for `patience` while the database does not answer.
async fn connect(context: &Context, patience: Duration) -> Result<Db, StoreError> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match connect_once(context).await {
            Ok(db) => return Ok(db),
            Err(error) if error.is_unavailable() || error.is_retryable() => error,
            Err(error) => return Err(error),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::error!(reason = %error, ?patience, "the database did not answer; giving up");
            return Err(error);
        }
        tracing::warn!(reason = %error, ?pause, ?left, "the database does not answer; trying again");
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect_once(context: &Context) -> Result<Db, StoreError> {
    let db = context.connect().await?;
    db.migrate().await?;
    Ok(db)
}
