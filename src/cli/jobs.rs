//! `remit jobs`: the work on payouts and charges, and what a person can do about it.

use std::io::Read as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde_json::Value;

use super::{Format, context::Context, output, run::Exit};
use crate::{
    app::{
        jobs::{self, Claim, JobDetails, JobView, Resolution},
        keys::Principal,
    },
    domain::{ids::JobId, intent::IntentKind, job::JobState},
    store::job_views::JobFilter,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, newest first
    List {
        /// Only jobs in this state: available, running, retryable, parked, unknown, completed or discarded; may
        /// be repeated
        #[arg(long = "state", value_parser = parse_state)]
        states: Vec<JobState>,
        /// Only jobs of this kind: transfer or charge
        #[arg(long, value_parser = parse_kind)]
        kind: Option<IntentKind>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        /// Continue after this job
        #[arg(long, value_parser = JobId::parse)]
        cursor: Option<JobId>,
    },
    /// Show everything about one: intent, keys, calls, what people said, open findings
    Show {
        /// A job, intent, payout or charge: `job_…`, `int_…`, `po_…` or `ch_…`
        id: String,
    },
    /// Have one tried now; one that is unknown is looked up and never sent
    Retry {
        /// A job, intent, payout or charge
        id: String,
    },
    /// Say what became of one that is unknown
    Resolve {
        /// The job, intent, payout or charge; for --not-executed the intent's own id, `int_…`
        id: String,
        #[command(flatten)]
        claim: ClaimArgs,
        /// How you know: a ticket of the provider's, what its dashboard shows
        #[arg(long, value_name = "TEXT")]
        evidence: String,
        /// The whole text of a second person's key with the scope payout:resolve, or - to read it from
        /// standard input
        #[arg(long, value_name = "KEY")]
        approver: String,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct ClaimArgs {
    /// The provider did it: the id of its transfer (`tr_…`) or payment intent (`pi_…`)
    #[arg(long, value_name = "OBJECT")]
    executed: Option<String>,
    /// The provider never did it; it is sent again under a new key
    #[arg(long)]
    not_executed: bool,
}

fn parse_state(word: &str) -> Result<JobState, String> {
    JobState::parse(word).ok_or_else(|| {
        let words: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        format!("states are: {}", words.join(", "))
    })
}

fn parse_kind(word: &str) -> Result<IntentKind, String> {
    IntentKind::parse(word).ok_or_else(|| "kinds are: transfer, charge".to_owned())
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let by = Principal::console();
    match command {
        Command::List { states, kind, limit, cursor } => {
            let filter = JobFilter { states, kind, after: cursor };
            let found = jobs::list(&app, &by, &filter, limit).await?;
            let next = output::next_cursor(&found, limit, |job| job.id.as_str()).map(str::to_owned);
            let rows: Vec<JobView> = found.into_iter().map(Into::into).collect();
            output::list(context.format, &values(&rows)?, next.as_deref(), &LISTED)?;
        }
        Command::Show { id } => show(context, &jobs::show(&app, &by, &id).await?)?,
        Command::Retry { id } => {
            show(context, &jobs::retry(&app, &by, &id).await?)?;
            context.say("a node with the role `dispatch` takes it up within a second");
        }
        Command::Resolve { id, claim, evidence, approver } => {
            let claim = claim.executed.map_or(Claim::NotExecuted, Claim::Executed);
            let approver = secret(approver).context("cannot read the approver's key")?;
            let resolution = Resolution { claim, evidence, approver };
            show(context, &jobs::resolve(&app, &by, &id, &resolution).await?)?;
        }
    }
    Ok(Exit::Ok)
}

/// What was typed, or for `-` what standard input gives: what is typed shows in the list of processes.
fn secret(typed: String) -> std::io::Result<SecretString> {
    if typed != "-" {
        return Ok(typed.into());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text.into())
}

const LISTED: [&str; 8] =
    ["id", "kind", "state", "intent_id", "generation", "attempts", "next_attempt_at", "reason"];
const INTENT: [&str; 11] = [
    "id",
    "state",
    "in_doubt",
    "key_protects_until",
    "provider",
    "livemode",
    "destination",
    "amount_minor",
    "currency",
    "object_id",
    "created_at",
];
const PAYOUT: [&str; 11] = [
    "id",
    "program_id",
    "enrollment_id",
    "state",
    "reason",
    "currency",
    "due_minor",
    "fee_minor",
    "send_minor",
    "transfer_id",
    "reversed_minor",
];
const CHARGE: [&str; 8] = [
    "id",
    "project_id",
    "client_reference",
    "state",
    "reason",
    "currency",
    "amount_minor",
    "payment_intent_id",
];
const GENERATIONS: [&str; 5] = ["generation", "idempotency_key", "first_sent_at", "closed_at", "proof"];
const ATTEMPTS: [&str; 11] = [
    "number",
    "generation",
    "kind",
    "sent_at",
    "answered_at",
    "verdict",
    "status",
    "request_id",
    "replayed",
    "error_code",
    "object_id",
];
const RESOLUTIONS: [&str; 7] = ["id", "verdict", "object_id", "evidence", "actor", "approver", "created_at"];
const FINDINGS: [&str; 4] = ["kind", "severity", "object", "detail"];
const BANK_PAYOUTS: [&str; 6] = ["id", "amount", "currency", "status", "failure_code", "told_at"];

/// One document, or a table for each part that there is.
fn show(context: &Context, details: &JobDetails) -> anyhow::Result<()> {
    let value = serde_json::to_value(details)?;
    if context.format == Format::Json {
        return Ok(output::object(context.format, &value, &[])?);
    }
    for (part, fields) in
        [("job", &LISTED[..]), ("intent", &INTENT), ("payout", &PAYOUT), ("charge", &CHARGE)]
    {
        if !value[part].is_null() {
            output::line(part)?;
            output::object(context.format, &value[part], fields)?;
        }
    }
    for (part, fields) in [
        ("generations", &GENERATIONS[..]),
        ("attempts", &ATTEMPTS),
        ("resolutions", &RESOLUTIONS),
        ("findings", &FINDINGS),
        ("bank_payouts", &BANK_PAYOUTS),
    ] {
        if let Some(rows) = value[part].as_array().filter(|rows| !rows.is_empty()) {
            output::line(part)?;
            output::list(context.format, rows, None, fields)?;
        }
    }
    Ok(())
}

fn values(rows: &[JobView]) -> serde_json::Result<Vec<Value>> {
    rows.iter().map(serde_json::to_value).collect()
}
