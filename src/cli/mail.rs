//! `remit mail`: what affiliates are to be told, and another chance for what could not be delivered.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{context::Context, output, run::Exit};
use crate::{
    app::{keys::Principal, notices::desk},
    domain::{ids::MailId, job::JobState},
    store::mail_views::MailFilter,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List mails, newest first
    List {
        /// Only mails in this state: available, running, retryable, parked, completed or discarded; may be
        /// repeated. Those that were given up are parked
        #[arg(long = "state", value_parser = parse_state)]
        states: Vec<JobState>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this mail
        #[arg(long, value_parser = MailId::parse)]
        cursor: Option<MailId>,
    },
    /// Have mails that were given up tried again, for three days
    Retry {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// `mail_…`
    #[arg(value_parser = MailId::parse)]
    id: Option<MailId>,
    /// All that were given up
    #[arg(long)]
    all: bool,
}

/// The states that a mail can be in: what becomes of it is always known.
fn states() -> impl Iterator<Item = JobState> {
    JobState::ALL.iter().copied().filter(|state| *state != JobState::Unknown)
}

fn parse_state(word: &str) -> Result<JobState, String> {
    states().find(|state| state.as_str() == word).ok_or_else(|| {
        let words: Vec<&str> = states().map(JobState::as_str).collect();
        format!("states are: {}", words.join(", "))
    })
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let by = Principal::console();
    match command {
        Command::List { states, limit, cursor } => {
            let found = desk::list(&app, &by, &MailFilter { states, after: cursor }, limit).await?;
            let next = output::next_cursor(&found, limit, |mail| mail.id.as_str());
            let rows: Result<Vec<Value>, _> = found.iter().map(serde_json::to_value).collect();
            output::list(context.format, &rows?, next, &FIELDS)?;
        }
        Command::Retry { which: Which { id: Some(id), .. } } => {
            let mail = desk::retry(&app, &by, &id).await?;
            output::object(context.format, &serde_json::to_value(&mail)?, &FIELDS)?;
        }
        Command::Retry { which: Which { id: None, .. } } => {
            let retried = desk::retry_all(&app, &by).await?;
            output::object(context.format, &json!({ "retried": retried }), &["retried"])?;
        }
    }
    if app.config.mail.is_none() {
        context.say("`mail.url` is not set here: nodes with the role `dispatch` send only where it is");
    }
    Ok(Exit::Ok)
}

const FIELDS: [&str; 9] =
    ["id", "topic", "state", "reason", "enrollment_id", "to", "attempts", "next_attempt_at", "created_at"];
