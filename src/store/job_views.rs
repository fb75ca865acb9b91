//! Jobs as people look at them: lists, and everything about one intent. Reading only.
//!
//! Bodies of requests and answers are never read here: an operator sees keys, times and what answers
//! proved, and looks at the rest in the provider's dashboard.

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, StoreError,
    findings::{self, Finding},
    row::At,
};
use crate::domain::{
    ids::{IntentId, JobId},
    intent::IntentKind,
    job::JobState,
    time::Timestamp,
};

/// Findings shown of one intent at most.
const FINDINGS_MAX: i64 = 100;

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only jobs in these states; all when empty.
    pub states: Vec<JobState>,
    /// Only jobs of this kind.
    pub kind: Option<IntentKind>,
    /// Only jobs after this one in the list.
    pub after: Option<JobId>,
}

/// A job with the generation that its intent is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// What it moves.
    pub kind: IntentKind,
    /// Where it stands.
    pub state: JobState,
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

#[derive(FromRow)]
struct Row {
    id: String,
    kind: String,
    state: String,
    intent_id: String,
    generation: i64,
    attempts: i64,
    next_attempt_at_us: Option<i64>,
    reason: Option<String>,
}

impl Row {
    fn read(self) -> Result<JobRow, StoreError> {
        let at = At { table: "job", id: &self.id };
        Ok(JobRow {
            id: at.read("id", &self.id)?,
            kind: at.read("kind", &self.kind)?,
            state: at.read("state", &self.state)?,
            intent_id: at.read("intent_id", &self.intent_id)?,
            generation: self.generation,
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at_us.map(Timestamp::from_micros),
            reason: self.reason,
        })
    }
}

/// Jobs, newest first.
pub async fn list(conn: &mut Conn, filter: &JobFilter, limit: i64) -> Result<Vec<JobRow>, StoreError> {
    // Two texts, because each has an index that serves it: `job_by_time` the one, `job_by_state` the
    // other, which usually looks for the few that wait among millions that are done.
    const ALL: &str = "SELECT j.id, j.kind, j.state, j.intent_id, i.generation, j.attempts,
            j.next_attempt_at_us, j.reason
        FROM job j JOIN intent i ON i.id = j.intent_id
        WHERE ($1 IS NULL OR j.kind = $1)
            AND ($2 IS NULL OR (j.created_at_us, j.id) < (SELECT created_at_us, id FROM job WHERE id = $2))
        ORDER BY j.created_at_us DESC, j.id DESC LIMIT $3";
    const BY_STATE: &str = "SELECT j.id, j.kind, j.state, j.intent_id, i.generation, j.attempts,
            j.next_attempt_at_us, j.reason
        FROM job j JOIN intent i ON i.id = j.intent_id
        WHERE j.state IN (SELECT value->>'state' FROM json_each($4)) AND ($1 IS NULL OR j.kind = $1)
            AND ($2 IS NULL OR (j.created_at_us, j.id) < (SELECT created_at_us, id FROM job WHERE id = $2))
        ORDER BY j.created_at_us DESC, j.id DESC LIMIT $3";
    let states: Vec<_> = filter.states.iter().map(|state| json!({ "state": state.as_str() })).collect();
    let by_state = !states.is_empty();
    let query = conn
        .q(if by_state { BY_STATE } else { ALL })
        .bind(filter.kind.map(IntentKind::as_str))
        .bind(filter.after.as_ref().map(JobId::as_str))
        .bind(limit);
    let query = if by_state { query.bind(serde_json::Value::from(states).to_string()) } else { query };
    let rows: Vec<Row> = query.all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// The intent that an id leads to: its own, or that of its job, payout or charge.
pub async fn find_intent(conn: &mut Conn, id: &str) -> Result<Option<IntentId>, StoreError> {
    // Each kind of id has a unique key, and no two kinds share a prefix.
    const SQL: &str = "SELECT id FROM intent WHERE id = $1
        UNION SELECT id FROM intent WHERE payout_id = $1
        UNION SELECT id FROM intent WHERE charge_id = $1
        UNION SELECT intent_id FROM job WHERE id = $1";
    let found: Option<String> = conn.q(SQL).bind(id).scalar().await?;
    found.map(|id| At { table: "intent", id: &id }.read("id", &id)).transpose()
}

/// The job of an intent.
pub async fn find_job(conn: &mut Conn, intent: &IntentId) -> Result<Option<JobRow>, StoreError> {
    const SQL: &str = "SELECT j.id, j.kind, j.state, j.intent_id, i.generation, j.attempts,
            j.next_attempt_at_us, j.reason
        FROM job j JOIN intent i ON i.id = j.intent_id WHERE j.intent_id = $1";
    let row: Option<Row> = conn.q(SQL).bind(intent.as_str()).one().await?;
    row.map(Row::read).transpose()
}

/// A payout as an operator sees it.
#[derive(Clone, Debug, FromRow)]
pub struct PayoutRow {
    /// Id.
    pub id: String,
    /// The run that made it.
    pub run_id: String,
    /// Who pays.
    pub program_id: String,
    /// Who is paid.
    pub enrollment_id: String,
    /// The payee's organization.
    pub organization_id: String,
    /// Where it stands.
    pub state: String,
    /// Why, where the state alone does not say.
    pub reason: Option<String>,
    /// Currency of the amounts.
    pub currency: String,
    /// Taken from the payable side, minor units.
    pub due_minor: i64,
    /// Kept by the platform, minor units.
    pub fee_minor: i64,
    /// Sent, minor units.
    pub send_minor: i64,
    /// The provider's object.
    pub transfer_id: Option<String>,
    /// Of what was sent, how much came back, minor units.
    pub reversed_minor: i64,
    /// When it was made, microseconds.
    pub created_at_us: i64,
    /// When the money moved, microseconds.
    pub completed_at_us: Option<i64>,
}

/// The payout of an intent.
pub async fn find_payout(conn: &mut Conn, intent: &IntentId) -> Result<Option<PayoutRow>, StoreError> {
    const SQL: &str = "SELECT p.id, p.run_id, p.program_id, p.enrollment_id, p.organization_id, p.state,
            p.reason, p.currency, p.due_minor, p.fee_minor, p.send_minor, p.transfer_id, p.reversed_minor,
            p.created_at_us, p.completed_at_us
        FROM intent i JOIN payout p ON p.id = i.payout_id WHERE i.id = $1";
    conn.q(SQL).bind(intent.as_str()).one().await
}

/// A charge as an operator sees it.
#[derive(Clone, Debug, FromRow)]
pub struct ChargeRow {
    /// Id.
    pub id: String,
    /// The project that sells.
    pub project_id: String,
    /// The caller's own id of the order.
    pub client_reference: Option<String>,
    /// Where it stands.
    pub state: String,
    /// Why, where the state alone does not say.
    pub reason: Option<String>,
    /// Currency of the amounts.
    pub currency: String,
    /// What the buyer pays, minor units.
    pub amount_minor: i64,
    /// What the platform keeps of it, minor units.
    pub application_fee_minor: i64,
    /// The provider's object.
    pub payment_intent_id: Option<String>,
    /// When it was made, microseconds.
    pub created_at_us: i64,
}

/// The charge of an intent.
pub async fn find_charge(conn: &mut Conn, intent: &IntentId) -> Result<Option<ChargeRow>, StoreError> {
    const SQL: &str = "SELECT c.id, c.project_id, c.client_reference, c.state, c.reason, c.currency,
            c.amount_minor, c.application_fee_minor, c.payment_intent_id, c.created_at_us
        FROM intent i JOIN charge c ON c.id = i.charge_id WHERE i.id = $1";
    conn.q(SQL).bind(intent.as_str()).one().await
}

/// One idempotency key of an intent.
#[derive(Clone, Debug, FromRow)]
pub struct GenerationRow {
    /// 0 is the first.
    pub generation: i64,
    /// The key, to be searched for at the provider.
    pub idempotency_key: String,
    /// The API version of its requests.
    pub api_version: String,
    /// When it was first sent, microseconds.
    pub first_sent_at_us: Option<i64>,
    /// When it was closed, microseconds.
    pub closed_at_us: Option<i64>,
    /// Why nothing was executed under it.
    pub proof: Option<String>,
}

/// The keys of an intent, in order.
pub async fn list_generations(conn: &mut Conn, intent: &IntentId) -> Result<Vec<GenerationRow>, StoreError> {
    const SQL: &str = "SELECT generation, idempotency_key, api_version, first_sent_at_us, closed_at_us, proof
        FROM generation WHERE intent_id = $1 ORDER BY generation";
    conn.q(SQL).bind(intent.as_str()).all().await
}

/// One call that was written down.
#[derive(Clone, Debug, FromRow)]
pub struct AttemptRow {
    /// 1, 2, 3, … per intent.
    pub number: i64,
    /// The key that it was made under.
    pub generation: i64,
    /// `send` or `look_up`.
    pub kind: String,
    /// When it was written down, microseconds.
    pub sent_at_us: i64,
    /// When its answer was kept, microseconds.
    pub answered_at_us: Option<i64>,
    /// What the answer proved; none: nothing is known.
    pub verdict: Option<String>,
    /// HTTP status.
    pub status: Option<i64>,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// Whether the answer was stored under the key before.
    pub replayed: Option<bool>,
    /// The provider's error code.
    pub error_code: Option<String>,
    /// The provider's object.
    pub object_id: Option<String>,
}

/// The calls about an intent in order; of more than `limit` the newest.
pub async fn list_attempts(
    conn: &mut Conn,
    intent: &IntentId,
    limit: i64,
) -> Result<Vec<AttemptRow>, StoreError> {
    const SQL: &str = "SELECT number, generation, kind, sent_at_us, answered_at_us, verdict, status,
            request_id, replayed, error_code, object_id
        FROM attempt WHERE intent_id = $1 ORDER BY number DESC LIMIT $2";
    let mut newest_first: Vec<AttemptRow> = conn.q(SQL).bind(intent.as_str()).bind(limit).all().await?;
    newest_first.reverse();
    Ok(newest_first)
}

/// The open findings about an intent: about itself, its job, its payout or charge, the account that receives
/// it, or any object of the provider's that names it.
pub async fn list_findings(conn: &mut Conn, intent: &IntentId) -> Result<Vec<Finding>, StoreError> {
    const SQL: &str = "SELECT f.id, f.kind, f.severity, f.object, f.detail, f.created_at_us, f.resolved_at_us
        FROM finding f
        WHERE f.resolved_at_us IS NULL AND f.object IN (
            SELECT $1
            UNION SELECT id FROM job WHERE intent_id = $1
            UNION SELECT payout_id FROM intent WHERE id = $1 AND payout_id IS NOT NULL
            UNION SELECT charge_id FROM intent WHERE id = $1 AND charge_id IS NOT NULL
            UNION SELECT destination FROM intent WHERE id = $1
            UNION SELECT object_id FROM intent WHERE id = $1 AND object_id IS NOT NULL
            UNION SELECT object_id FROM attempt WHERE intent_id = $1 AND object_id IS NOT NULL
            UNION SELECT transfer_id FROM transfer WHERE intent_id = $1)
        ORDER BY f.created_at_us, f.id LIMIT $2";
    let rows = conn.q(SQL).bind(intent.as_str()).bind(FINDINGS_MAX).all().await?;
    findings::read_rows(rows)
}
