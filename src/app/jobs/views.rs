//! Jobs as operators see them, in the API and on the command line alike. No bodies and no secrets: keys,
//! times, and what answers proved.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::bank_payouts::BankPayoutView,
    domain::{
        ids::{IntentId, JobId},
        intent::Intent,
        time::Timestamp,
    },
    store::{
        findings::Finding,
        intents::{Purpose, StoredIntent},
        job_views::{AttemptRow, ChargeRow, GenerationRow, JobRow, PayoutRow},
        resolutions::ResolutionRow,
    },
};

fn time(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(Timestamp::from_micros)
}

/// A job in a list (`design.md` §7, `jobs list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    /// Id.
    pub id: JobId,
    /// `transfer` or `charge`.
    pub kind: &'static str,
    /// State.
    pub state: &'static str,
    /// What it works on.
    pub intent_id: IntentId,
    /// Which key the intent uses.
    pub generation: i64,
    /// Calls that were written down.
    pub attempts: i64,
    /// When it is due; of a running job when its lease ends; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it is in its state.
    pub reason: Option<String>,
}

impl From<JobRow> for JobView {
    fn from(row: JobRow) -> Self {
        Self {
            id: row.id,
            kind: row.kind.as_str(),
            state: row.state.as_str(),
            intent_id: row.intent_id,
            generation: row.generation,
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            reason: row.reason,
        }
    }
}

/// Everything about one intent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobDetails {
    /// Its job.
    pub job: JobView,
    /// The intent.
    pub intent: IntentView,
    /// What it pays, unless it is a charge.
    pub payout: Option<PayoutView>,
    /// What it charges, unless it is a payout.
    pub charge: Option<ChargeView>,
    /// Its keys, in order.
    pub generations: Vec<GenerationView>,
    /// The calls about it, in order.
    pub attempts: Vec<AttemptView>,
    /// What people said about it.
    pub resolutions: Vec<ResolutionView>,
    /// What is open about it.
    pub findings: Vec<FindingView>,
    /// What was told last of the receiving account's own payouts to its bank, newest first.
    pub bank_payouts: Vec<BankPayoutView>,
}

/// An intent.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Intent)]
pub struct IntentView {
    /// Id; the provider's object carries it in its metadata, a transfer also as its group.
    pub id: String,
    /// Where it stands.
    pub state: &'static str,
    /// Whether something may have been executed under its current key of which nothing is known.
    pub in_doubt: bool,
    /// Until when its current key protects from a second execution.
    pub key_protects_until: Option<Timestamp>,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The account that receives it.
    pub destination: String,
    /// How much, minor units.
    pub amount_minor: i64,
    /// Of which currency.
    pub currency: String,
    /// The provider's object, once known.
    pub object_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl From<&StoredIntent> for IntentView {
    fn from(stored: &StoredIntent) -> Self {
        let intent: &Intent = &stored.intent;
        Self {
            id: intent.id.to_string(),
            state: intent.state.as_str(),
            in_doubt: intent.is_in_doubt(),
            key_protects_until: intent.window_ends(),
            provider: stored.provider.clone(),
            livemode: stored.livemode,
            destination: stored.destination.clone(),
            amount_minor: stored.amount.minor,
            currency: stored.amount.currency.as_str().to_owned(),
            object_id: stored.object_id.clone(),
            created_at: stored.created_at,
        }
    }
}

/// What an object of the provider's for this intent is called.
pub(super) const fn object_word(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Payout(_) => "transfer (tr_…)",
        Purpose::Charge { .. } => "payment intent (pi_…)",
    }
}

/// A payout.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = JobPayout)]
pub struct PayoutView {
    id: String,
    run_id: String,
    program_id: String,
    enrollment_id: String,
    organization_id: String,
    state: String,
    reason: Option<String>,
    currency: String,
    due_minor: i64,
    fee_minor: i64,
    send_minor: i64,
    transfer_id: Option<String>,
    reversed_minor: i64,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
}

impl From<PayoutRow> for PayoutView {
    fn from(row: PayoutRow) -> Self {
        Self {
            id: row.id,
            run_id: row.run_id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            organization_id: row.organization_id,
            state: row.state,
            reason: row.reason,
            currency: row.currency,
            due_minor: row.due_minor,
            fee_minor: row.fee_minor,
            send_minor: row.send_minor,
            transfer_id: row.transfer_id,
            reversed_minor: row.reversed_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
            completed_at: time(row.completed_at_us),
        }
    }
}

/// A charge.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = JobCharge)]
pub struct ChargeView {
    id: String,
    project_id: String,
    client_reference: Option<String>,
    state: String,
    reason: Option<String>,
    currency: String,
    amount_minor: i64,
    application_fee_minor: i64,
    payment_intent_id: Option<String>,
    created_at: Timestamp,
}

impl From<ChargeRow> for ChargeView {
    fn from(row: ChargeRow) -> Self {
        Self {
            id: row.id,
            project_id: row.project_id,
            client_reference: row.client_reference,
            state: row.state,
            reason: row.reason,
            currency: row.currency,
            amount_minor: row.amount_minor,
            application_fee_minor: row.application_fee_minor,
            payment_intent_id: row.payment_intent_id,
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

/// One idempotency key.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Generation)]
pub struct GenerationView {
    generation: i64,
    idempotency_key: String,
    api_version: String,
    first_sent_at: Option<Timestamp>,
    closed_at: Option<Timestamp>,
    proof: Option<String>,
}

impl From<GenerationRow> for GenerationView {
    fn from(row: GenerationRow) -> Self {
        Self {
            generation: row.generation,
            idempotency_key: row.idempotency_key,
            api_version: row.api_version,
            first_sent_at: time(row.first_sent_at_us),
            closed_at: time(row.closed_at_us),
            proof: row.proof,
        }
    }
}

/// One call that was written down.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = JobAttempt)]
pub struct AttemptView {
    number: i64,
    generation: i64,
    kind: String,
    sent_at: Timestamp,
    answered_at: Option<Timestamp>,
    verdict: Option<String>,
    status: Option<i64>,
    request_id: Option<String>,
    replayed: Option<bool>,
    error_code: Option<String>,
    object_id: Option<String>,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            number: row.number,
            generation: row.generation,
            kind: row.kind,
            sent_at: Timestamp::from_micros(row.sent_at_us),
            answered_at: time(row.answered_at_us),
            verdict: row.verdict,
            status: row.status,
            request_id: row.request_id,
            replayed: row.replayed,
            error_code: row.error_code,
            object_id: row.object_id,
        }
    }
}

/// What people said about an intent.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Resolution)]
pub struct ResolutionView {
    id: String,
    generation: i64,
    verdict: String,
    object_id: Option<String>,
    evidence: String,
    actor: String,
    approver: Option<String>,
    created_at: Timestamp,
}

impl From<ResolutionRow> for ResolutionView {
    fn from(row: ResolutionRow) -> Self {
        Self {
            id: row.id,
            generation: row.generation,
            verdict: row.verdict,
            object_id: row.object_id,
            evidence: row.evidence,
            actor: row.actor,
            approver: row.approver,
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

/// What is open about an intent.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = JobFinding)]
pub struct FindingView {
    id: String,
    kind: String,
    severity: &'static str,
    object: String,
    detail: String,
    created_at: Timestamp,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        Self {
            id: finding.id.to_string(),
            kind: finding.kind,
            severity: finding.severity.as_str(),
            object: finding.object,
            detail: finding.detail,
            created_at: finding.created_at,
        }
    }
}
