//! `remit audit`: who changed what.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    app::{
        audit::{self, AuditFilter, AuditRow},
        keys::Principal,
    },
    domain::{
        ids::{AuditId, OrganizationId},
        time::Timestamp,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List changes, newest first
    List {
        /// Only changes of this object, such as `prog_…`
        #[arg(long)]
        object: Option<String>,
        /// Only changes by this key, or by `console` or `anonymous`
        #[arg(long)]
        actor: Option<String>,
        /// Only such changes, as program.updated
        #[arg(long)]
        action: Option<String>,
        /// Only what belongs to this organization
        #[arg(long, value_parser = OrganizationId::parse)]
        organization: Option<OrganizationId>,
        /// Only changes from then on, such as 2026-01-31T00:00:00Z
        #[arg(long, value_parser = Timestamp::parse_rfc3339)]
        since: Option<Timestamp>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this change
        #[arg(long, value_parser = AuditId::parse)]
        cursor: Option<AuditId>,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let Command::List { object, actor, action, organization, since, limit, cursor } = command;
    let app = context.open().await?.app;
    let filter = AuditFilter { organization_id: organization, object, actor, action, since, before: cursor };
    let found = audit::list(&app, &Principal::console(), &filter, limit).await?;
    let next = output::next_cursor(&found, limit, |row| row.id.as_str());
    let rows: Vec<Value> = found.iter().map(shown).collect();
    output::list(context.format, &rows, next, &["id", "at", "actor", "action", "object", "request_id"])?;
    Ok(Exit::Ok)
}

fn shown(row: &AuditRow) -> Value {
    json!({
        "id": row.id, "at": row.at, "actor": row.actor, "actor_kind": row.actor_kind,
        "actor_organization_id": row.actor_organization_id, "organization_id": row.organization_id,
        "action": row.action, "object": row.object, "before": row.before, "after": row.after,
        "request_id": row.request_id, "idempotency_id": row.idempotency_id,
    })
}
