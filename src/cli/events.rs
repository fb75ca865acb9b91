//! `remit events`: what was received, and what became of it.

use std::io::{self, Write as _};

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    app::{App, archive::Export, events, keys::Principal, replay},
    domain::{ids::InboxId, time::Timestamp},
    store::inbox::{self, EventFilter, EventRow, InboxState},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List events, newest first
    List {
        /// Only events in this state: received, applied, ignored or parked; may be repeated
        #[arg(long = "state", value_parser = parse_state)]
        states: Vec<InboxState>,
        /// Only events of this type, such as charge.refunded
        #[arg(long = "type")]
        event_type: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this event
        #[arg(long, value_parser = InboxId::parse)]
        cursor: Option<InboxId>,
    },
    /// Show one event, by our id or the provider's; all that share the provider's id where several do
    Show {
        /// `in_…` or the provider's id
        id: String,
    },
    /// Give a parked event another chance
    Retry {
        /// `in_…` or the provider's id
        id: String,
        /// Process it here instead of leaving it to the server
        #[arg(long)]
        now: bool,
    },
    /// Write all events with their signed bytes to standard output, one JSON object per line
    Export,
}

fn parse_state(word: &str) -> Result<InboxState, String> {
    InboxState::parse(word).ok_or_else(|| "states are: received, applied, ignored, parked".to_owned())
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    match command {
        Command::List { states, event_type, limit, cursor } => {
            let before = cursor.map(|id| id.to_string());
            let filter = EventFilter { states, event_type, before, ..EventFilter::default() };
            let found = inbox::list(&mut app.db.read().await?, &filter, limit).await?;
            let next = output::next_cursor(&found, limit, |event| event.id.as_str());
            let rows: Vec<Value> = found.iter().map(shown).collect();
            output::list(context.format, &rows, next, &LISTED)?;
        }
        Command::Show { id } => show_named(context, &find_named(&app, &id).await?)?,
        Command::Retry { id, now } => return retry(context, &app, &id, now).await,
        Command::Export => export(&app).await?,
    }
    Ok(Exit::Ok)
}

const LISTED: [&str; 8] =
    ["id", "provider", "provider_event_id", "type", "state", "reason", "attempts", "received_at"];
/// What tells events apart that share a provider's id.
const SHARED: [&str; 7] = ["id", "provider", "endpoint_id", "account", "livemode", "state", "received_at"];
const FIELDS: [&str; 13] = [
    "id",
    "provider",
    "endpoint_id",
    "project_id",
    "account",
    "livemode",
    "provider_event_id",
    "type",
    "state",
    "reason",
    "attempts",
    "received_at",
    "source",
];

fn shown(event: &EventRow) -> Value {
    json!({
        "id": event.id, "provider": event.provider, "endpoint_id": event.endpoint_id,
        "project_id": event.project_id, "account": event.account, "livemode": event.livemode,
        "provider_event_id": event.provider_event_id, "type": event.event_type, "state": event.state,
        "reason": event.reason, "attempts": event.attempts,
        "received_at": Timestamp::from_micros(event.received_at_us), "source": event.source,
    })
}

fn show(context: &Context, event: &EventRow) -> io::Result<()> {
    output::object(context.format, &shown(event), &FIELDS)
}

/// One event in full, or the list of those that share a provider's id: endpoints are told of the same
/// event each for itself, and only a person knows which row is meant.
fn show_named(context: &Context, events: &[EventRow]) -> io::Result<()> {
    if let [event] = events {
        return show(context, event);
    }
    context.say(&format!("{} events have this id; name one of them by its own `in_…` id", events.len()));
    let rows: Vec<Value> = events.iter().map(shown).collect();
    output::list(context.format, &rows, None, &SHARED)
}

/// The events that an id names; at least one.
async fn find_named(app: &App, id: &str) -> anyhow::Result<Vec<EventRow>> {
    let events = inbox::list_named(&mut app.db.read().await?, id).await?;
    if events.is_empty() {
        bail!("there is no such event");
    }
    Ok(events)
}

async fn retry(context: &Context, app: &App, id: &str, now: bool) -> anyhow::Result<Exit> {
    let events = find_named(app, id).await?;
    let [event] = events.as_slice() else {
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        bail!("several events have this id; name one of them: {}", ids.join(", "));
    };
    events::retry(app, &Principal::console(), &event.id).await?;
    if now {
        replay::catch_up(app).await?;
    }
    let Some(after) = inbox::find(&mut app.db.read().await?, &event.id).await? else {
        bail!("there is no such event");
    };
    show(context, &after)?;
    // Received is as it should be without `--now`; with it, the event failed and waits for its next turn.
    let is_done =
        [InboxState::Applied, InboxState::Ignored].iter().any(|state| state.as_str() == after.state);
    Ok(if is_done || !now { Exit::Ok } else { Exit::Failed })
}

async fn export(app: &App) -> anyhow::Result<()> {
    let mut export = Export::default();
    loop {
        let page = export.next_page(app).await?;
        if page.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for event in page {
            serde_json::to_writer(&mut lines, &event)?;
            lines.write_all(b"\n")?;
        }
        output::write(&lines)?;
    }
}
