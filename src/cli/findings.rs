//! `remit findings`: what the program could not decide on its own.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    domain::ids::FindingId,
    store::findings::{self, Finding},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List findings that are open
    List {
        /// Also those that a person has closed
        #[arg(long)]
        all: bool,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this finding
        #[arg(long, value_parser = FindingId::parse)]
        cursor: Option<FindingId>,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let Command::List { all, limit, cursor } = command;
    let app = context.open().await?.app;
    let found = findings::list(&mut app.db.read().await?, !all, cursor.as_ref(), limit).await?;
    let next = output::next_cursor(&found, limit, |finding| finding.id.as_str());
    let rows: Vec<Value> = found.iter().map(shown).collect();
    output::list(context.format, &rows, next, &["id", "kind", "severity", "object", "detail", "created_at"])?;
    Ok(Exit::Ok)
}

fn shown(finding: &Finding) -> Value {
    json!({
        "id": finding.id, "kind": finding.kind, "severity": finding.severity.as_str(),
        "object": finding.object, "detail": finding.detail, "created_at": finding.created_at,
        "resolved_at": finding.resolved_at,
    })
}
