//! `remit payouts`: stops all payouts and lets them go on. Events are received and booked all the while.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Format, context::Context, output, run::Exit};
use crate::app::{
    App,
    holds::{self, Pause},
    keys::Principal,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Stop all payouts: nothing more is reserved or sent, by any node
    Pause {
        /// Why, for whoever finds it paused
        #[arg(long)]
        reason: String,
    },
    /// Let payouts go on
    Resume {
        /// The database was restored and has been compared with the provider
        #[arg(long)]
        confirm_restored: bool,
        /// What was found, for the record
        #[arg(long)]
        note: Option<String>,
    },
    /// Show whether payouts are paused, since when and why
    Status,
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let console = Principal::console();
    let pauses = match command {
        Command::Pause { reason } => holds::pause(&app, &console, &reason).await?,
        Command::Resume { confirm_restored, note } => {
            holds::resume(&app, &console, confirm_restored, note.as_deref()).await?;
            Vec::new()
        }
        Command::Status => holds::status(&app, &console).await?,
    };
    print(context, &app, &pauses)?;
    Ok(Exit::Ok)
}

fn print(context: &Context, app: &App, pauses: &[Pause]) -> anyhow::Result<()> {
    let rows: Vec<Value> = pauses
        .iter()
        .map(|pause| {
            json!({
                "id": pause.id, "kind": pause.kind.as_str(), "reason": pause.reason, "actor": pause.actor,
                "paused_at": pause.paused_at,
            })
        })
        .collect();
    let status = json!({ "enabled": app.config.payouts_live, "paused": !rows.is_empty(), "pauses": rows });
    output::object(context.format, &status, &["enabled", "paused"])?;
    if context.format == Format::Table && !rows.is_empty() {
        output::list(context.format, &rows, None, &["kind", "reason", "actor", "paused_at"])?;
    }
    Ok(())
}
