//! `remit endpoints`: webhook endpoints beside the default ones of the configuration.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    app::{
        Refusal,
        endpoints::{self, NewEndpoint},
        keys::Principal,
    },
    domain::ids::{EndpointId, ProjectId},
    store::endpoints::{StoredEndpoint, find},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an endpoint; needs the master key of the configuration
    Create {
        /// Whose events it takes: stripe or paddle
        #[arg(long)]
        provider: String,
        /// The project it belongs to
        #[arg(long, default_value = "proj_default", value_parser = ProjectId::parse)]
        project: ProjectId,
        /// File with the signing secrets, one per line; `-` is standard input. A flag would show them to
        /// everybody who can list processes
        #[arg(long, value_name = "FILE")]
        secrets_file: PathBuf,
        /// Take events of real money instead of test events
        #[arg(long)]
        livemode: bool,
        /// Hear about connected accounts
        #[arg(long)]
        connect: bool,
    },
    /// List the endpoints of a project, newest first
    List {
        /// The project
        #[arg(long, default_value = "proj_default", value_parser = ProjectId::parse)]
        project: ProjectId,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this endpoint
        #[arg(long, value_parser = EndpointId::parse)]
        cursor: Option<EndpointId>,
    },
    /// End an endpoint; its past events stay
    Delete {
        /// `ep_…`
        #[arg(value_parser = EndpointId::parse)]
        id: EndpointId,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let console = Principal::console();
    match command {
        Command::Create { provider, project, secrets_file, livemode, connect } => {
            let secrets = read_secrets(&secrets_file)?;
            let new = NewEndpoint { provider, secrets, livemode, connect };
            let made = endpoints::create(&app, &console, &project, new).await?;
            output::object(context.format, &shown(&made), &FIELDS)?;
            context.say(&format!("events go to POST /webhooks/{}/{}", made.provider, made.id));
        }
        Command::List { project, limit, cursor } => {
            let found = endpoints::list(&app, &console, &project, cursor.as_ref(), limit).await?;
            let next = output::next_cursor(&found, limit, |endpoint| endpoint.id.as_str());
            let rows: Vec<Value> = found.iter().map(shown).collect();
            output::list(context.format, &rows, next, &FIELDS)?;
        }
        Command::Delete { id } => {
            let stored = find(&mut app.db.read().await?, &id).await?.ok_or(Refusal::NotFound)?;
            let ended = endpoints::delete(&app, &console, &stored.project_id, &id).await?;
            output::object(context.format, &shown(&ended), &FIELDS)?;
        }
    }
    Ok(Exit::Ok)
}

const FIELDS: [&str; 6] = ["id", "provider", "project_id", "livemode", "connect", "created_at"];

fn shown(endpoint: &StoredEndpoint) -> Value {
    json!({
        "id": endpoint.id, "provider": endpoint.provider, "project_id": endpoint.project_id,
        "livemode": endpoint.livemode, "connect": endpoint.connect, "created_at": endpoint.created_at,
    })
}

/// One secret per line; blank lines and blanks around a secret are nobody's intention.
fn read_secrets(path: &Path) -> anyhow::Result<Vec<SecretString>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("cannot read secrets from {}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(SecretString::from).collect())
}
