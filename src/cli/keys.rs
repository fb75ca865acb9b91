//! `remit keys`: the first operator key comes from here, never from a default.

use clap::Subcommand;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    app::{
        App,
        keys::{self, ApiKey, KeyKind, NewKey, Principal},
    },
    domain::{
        ids::{KeyId, OrganizationId, ProjectId},
        time::Timestamp,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key; its text is shown this once
    Create {
        /// Whom it speaks for: operator, organization or client
        #[arg(long, value_parser = parse_kind)]
        kind: KeyKind,
        /// Organization of an organization key
        #[arg(long, value_parser = OrganizationId::parse)]
        org: Option<OrganizationId>,
        /// Project of a client key
        #[arg(long, value_parser = ProjectId::parse)]
        project: Option<ProjectId>,
        /// What it may do, separated by commas [default: what its kind usually may]
        #[arg(long, value_delimiter = ',')]
        scopes: Option<Vec<String>>,
        /// From when it no longer works, RFC 3339 [default: never]
        #[arg(long, value_parser = Timestamp::parse_rfc3339)]
        expires_at: Option<Timestamp>,
    },
    /// List keys, newest first, without their secrets
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this key
        #[arg(long, value_parser = KeyId::parse)]
        cursor: Option<KeyId>,
    },
    /// End a key at once
    Revoke {
        /// The public id, `key_…`
        #[arg(value_parser = KeyId::parse)]
        id: KeyId,
    },
}

fn parse_kind(word: &str) -> Result<KeyKind, String> {
    KeyKind::parse(word).ok_or_else(|| "kinds of keys are: operator, organization, client".to_owned())
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    match command {
        Command::Create { kind, org, project, scopes, expires_at } => {
            let new = NewKey { kind, organization_id: org, project_id: project, scopes, expires_at };
            create(context, &app, new).await?;
        }
        Command::List { limit, cursor } => {
            let keys = keys::list(&app, &Principal::console(), cursor.as_ref(), limit).await?;
            let next = output::next_cursor(&keys, limit, |key| key.id.as_str());
            let rows: Vec<Value> = keys.iter().map(shown).collect();
            output::list(context.format, &rows, next, &LISTED)?;
        }
        Command::Revoke { id } => {
            let key = keys::revoke(&app, &Principal::console(), &id).await?;
            output::object(context.format, &shown(&key), &["id", "kind", "revoked_at"])?;
        }
    }
    Ok(Exit::Ok)
}

async fn create(context: &Context, app: &App, new: NewKey) -> anyhow::Result<()> {
    let created = keys::create(app, &Principal::console(), new).await?;
    let mut value = shown(&created.key);
    value["key"] = Value::from(created.text.expose_secret());
    output::object(context.format, &value, &["id", "key", "kind", "scopes"])?;
    context.say("this key is not shown again");
    Ok(())
}

const LISTED: [&str; 8] =
    ["id", "kind", "organization_id", "project_id", "scopes", "created_at", "expires_at", "revoked_at"];

fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id, "kind": key.kind.as_str(), "organization_id": key.organization_id,
        "project_id": key.project_id, "scopes": key.scopes.split(',').collect::<Vec<_>>(),
        "created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at,
    })
}
