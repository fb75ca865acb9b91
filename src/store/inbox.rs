//! The inbox: every verified webhook event, once, with its exact bytes.

use serde_json::json;

use super::{
    Conn, Sql, StoreError, Tx,
    findings::{self, NewFinding, Severity},
};
use crate::{
    domain::{ids::InboxId, program::words, time::Timestamp},
    for_update_skip_locked,
};

words! {
    /// Where a stored event stands.
    InboxState {
        /// Waits for the processor.
        Received = "received",
        /// Its facts are in the books.
        Applied = "applied",
        /// It says nothing that matters here; the reason says why.
        Ignored = "ignored",
        /// It failed for good; an operator looks at the reason and retries it.
        Parked = "parked",
    }
}

words! {
    /// How an event came in.
    EventSource {
        /// Delivered by the provider.
        Webhook = "webhook",
        /// Fed in by an operator.
        Replay = "replay",
        /// Pulled from the provider's event list.
        Reconcile = "reconcile",
        /// Reported by the owner's own backend.
        Api = "api",
    }
}

/// An event to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Our id.
    pub id: InboxId,
    /// Provider name.
    pub provider: &'static str,
    /// The endpoint that verified it.
    pub endpoint_id: String,
    /// The project of the endpoint.
    pub project_id: String,
    /// The connected account, empty for none.
    pub account: String,
    /// Mode.
    pub livemode: bool,
    /// The provider's id, unique in (provider, endpoint, account, mode).
    pub provider_event_id: String,
    /// The provider's type.
    pub event_type: String,
    /// When the provider says it made it.
    pub provider_created_at: Option<Timestamp>,
    /// When we received it.
    pub received_at: Timestamp,
    /// Received or ignored.
    pub state: InboxState,
    /// Why it is ignored.
    pub reason: Option<&'static str>,
    /// How it came in.
    pub source: EventSource,
    /// The signed bytes.
    pub body: Vec<u8>,
    /// SHA-256 of `body`.
    pub body_sha256: [u8; 32],
}

impl NewEvent {
    /// The unique key of the inbox (reliability rule R3).
    #[must_use]
    pub fn key(&self) -> (&str, &str, &str, bool, &str) {
        (self.provider, &self.endpoint_id, &self.account, self.livemode, &self.provider_event_id)
    }
}

/// What became of an event handed to [`insert_batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Stored.
    New,
    /// The same bytes were stored before.
    Duplicate,
    /// The same id was stored before with other bytes; the first ones are kept.
    DuplicateOtherBody,
}

/// Stores events that are not stored yet, in one statement, and says which were. Order of the answers
/// is the order of `events`.
///
/// All bodies travel as one parameter and are cut apart by the database, so that the text parameter
/// with the other columns stays small.
///
/// # Errors
/// [`StoreError::RowsAffected`] when an event is not stored afterwards; then nothing of the batch may be
/// acknowledged.
pub async fn insert_batch(tx: &mut Tx, events: &[NewEvent]) -> Result<Vec<Inserted>, StoreError> {
    const INSERT: &str = "INSERT INTO inbox (id, provider, endpoint_id, project_id, account, livemode,
            provider_event_id, event_type, provider_created_at_us, received_at_us, source, state, reason,
            attempts, next_attempt_at_us, processed_at_us, body, body_sha256)
        SELECT value->>'id', value->>'provider', value->>'endpoint', value->>'project', value->>'account',
            CAST(value->>'livemode' AS BOOLEAN), value->>'event_id', value->>'type',
            CAST(value->>'created' AS BIGINT), CAST(value->>'received' AS BIGINT), value->>'source',
            value->>'state', value->>'reason', 0, CAST(value->>'received' AS BIGINT),
            CAST(value->>'processed' AS BIGINT),
            substr($2, CAST(value->>'body_at' AS INTEGER), CAST(value->>'body_len' AS INTEGER)),
            substr($2, CAST(value->>'hash_at' AS INTEGER), 32)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (provider, endpoint_id, account, livemode, provider_event_id) DO NOTHING
        RETURNING id";
    const STORED: &str = "SELECT CAST(k.value->>'at' AS BIGINT), i.body_sha256
        FROM json_each($1) k JOIN inbox i
            ON i.provider = k.value->>'provider' AND i.endpoint_id = k.value->>'endpoint'
            AND i.account = k.value->>'account' AND i.livemode = CAST(k.value->>'livemode' AS BOOLEAN)
            AND i.provider_event_id = k.value->>'event_id'";
    let mut bytes = Vec::with_capacity(events.iter().map(|event| event.body.len() + 32).sum());
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let body_at = bytes.len() + 1;
        bytes.extend_from_slice(&event.body);
        let hash_at = bytes.len() + 1;
        bytes.extend_from_slice(&event.body_sha256);
        let is_done = event.state != InboxState::Received;
        rows.push(json!({
            "id": event.id, "provider": event.provider, "endpoint": event.endpoint_id,
            "project": event.project_id, "account": event.account, "livemode": event.livemode,
            "event_id": event.provider_event_id, "type": event.event_type,
            "created": event.provider_created_at.map(Timestamp::as_micros),
            "received": event.received_at.as_micros(), "source": event.source.as_str(),
            "state": event.state.as_str(), "reason": event.reason,
            "processed": is_done.then(|| event.received_at.as_micros()),
            "body_at": body_at, "body_len": event.body.len(), "hash_at": hash_at,
        }));
    }
    let stored: Vec<(String,)> =
        tx.q(INSERT).bind(serde_json::Value::from(rows).to_string()).bind(bytes).all().await?;
    let stored: std::collections::HashSet<String> = stored.into_iter().map(|(id,)| id).collect();
    if stored.len() == events.len() {
        return Ok(vec![Inserted::New; events.len()]);
    }
    let known_before: Vec<serde_json::Value> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| !stored.contains(event.id.as_str()))
        .map(|(at, event)| {
            json!({
                "at": at, "provider": event.provider, "endpoint": event.endpoint_id,
                "account": event.account, "livemode": event.livemode, "event_id": event.provider_event_id,
            })
        })
        .collect();
    let hashes: Vec<(i64, Vec<u8>)> =
        tx.q(STORED).bind(serde_json::Value::from(known_before).to_string()).all().await?;
    let mut answers: Vec<Option<Inserted>> =
        events.iter().map(|event| stored.contains(event.id.as_str()).then_some(Inserted::New)).collect();
    for (at, hash) in hashes {
        let Some((event, answer)) =
            usize::try_from(at).ok().and_then(|at| Some((events.get(at)?, answers.get_mut(at)?)))
        else {
            continue;
        };
        let is_same = hash == event.body_sha256;
        *answer = Some(if is_same { Inserted::Duplicate } else { Inserted::DuplicateOtherBody });
    }
    // A row that was neither written nor there before is not stored, whatever kept it out: its sender
    // must deliver it again.
    let answers: Vec<Inserted> = answers.into_iter().flatten().collect();
    if answers.len() != events.len() {
        return Err(StoreError::RowsAffected { expected: events.len() as u64, actual: answers.len() as u64 });
    }
    raise_other_bodies(tx, events, &answers).await?;
    Ok(answers)
}

/// An id that comes again with other bytes is either a provider's fault or an attack with a stolen
/// secret; the first bytes are kept and somebody should look.
async fn raise_other_bodies(
    tx: &mut Tx,
    events: &[NewEvent],
    answers: &[Inserted],
) -> Result<(), StoreError> {
    for (event, answer) in events.iter().zip(answers) {
        // A report that is repeated a second later differs in its time, and means nothing.
        if *answer == Inserted::DuplicateOtherBody && event.source != EventSource::Api {
            let finding = NewFinding {
                kind: "event_body_changed".to_owned(),
                severity: Severity::Critical,
                object: [event.provider, &event.endpoint_id, &event.provider_event_id].join("/"),
                detail:
                    "this event id was delivered again with another body; the first one was kept, compare \
                         it with the provider's own record"
                        .to_owned(),
            };
            findings::raise(tx, &[finding], event.received_at).await?;
        }
    }
    Ok(())
}

/// An event as the processor takes it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ClaimedEvent {
    /// Our id.
    pub id: String,
    /// Provider name.
    pub provider: String,
    /// The project of the endpoint.
    pub project_id: String,
    /// The connected account, empty for none.
    pub account: String,
    /// Mode.
    pub livemode: bool,
    /// The provider's id.
    pub provider_event_id: String,
    /// The provider's type.
    pub event_type: String,
    /// When it was received.
    pub received_at_us: i64,
    /// How often it failed before.
    pub attempts: i64,
    /// The signed bytes.
    pub body: Vec<u8>,
}

/// Whether any event is due. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp) -> Result<bool, StoreError> {
    // Served by the partial index `inbox_due`.
    const SQL: &str =
        "SELECT EXISTS (SELECT 1 FROM inbox WHERE state = 'received' AND next_attempt_at_us <= $1)";
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(is_due == Some(true))
}

/// Takes the oldest due events and locks them until the transaction ends; events that another node
/// has taken are passed over.
pub async fn claim_due(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<Vec<ClaimedEvent>, StoreError> {
    // Served by the partial index `inbox_due`.
    const CLAIM: Sql = for_update_skip_locked!(
        "SELECT id, provider, project_id, account, livemode, provider_event_id, event_type, received_at_us,
             attempts, body
         FROM inbox WHERE state = 'received' AND next_attempt_at_us <= $1
         ORDER BY next_attempt_at_us, id LIMIT $2"
    );
    tx.q(CLAIM).bind(now.as_micros()).bind(limit).all().await
}

/// Takes these events if they still wait: the parts of a batch that failed as a whole.
pub async fn claim_these(tx: &mut Tx, ids: &[String]) -> Result<Vec<ClaimedEvent>, StoreError> {
    const CLAIM: Sql = for_update_skip_locked!(
        "SELECT id, provider, project_id, account, livemode, provider_event_id, event_type, received_at_us,
             attempts, body
         FROM inbox WHERE state = 'received' AND id IN (SELECT value->>'id' FROM json_each($1))
         ORDER BY next_attempt_at_us, id"
    );
    let list: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
    tx.q(CLAIM).bind(serde_json::Value::from(list).to_string()).all().await
}

/// The end of an event's processing.
#[derive(Clone, Debug)]
pub struct Processed {
    /// The event.
    pub id: String,
    /// Applied, ignored or parked.
    pub state: InboxState,
    /// Why, where the state does not say.
    pub reason: Option<String>,
}

/// Records the end of processing of many events.
pub async fn mark_processed(tx: &mut Tx, processed: &[Processed], now: Timestamp) -> Result<(), StoreError> {
    // The state is guarded by an expression, because a plain comparison makes SQLite walk the partial
    // index of everything that waits, once for each row of the list.
    const MARK: &str = "UPDATE inbox SET state = k.state, reason = k.reason, processed_at_us = $2
        FROM (SELECT value->>'id' AS id, value->>'state' AS state, value->>'reason' AS reason
              FROM json_each($1)) AS k
        WHERE inbox.id = k.id AND inbox.state || '' = 'received'";
    if processed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = processed
        .iter()
        .map(|event| json!({ "id": event.id, "state": event.state.as_str(), "reason": event.reason }))
        .collect();
    let changed =
        tx.q(MARK).bind(serde_json::Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
    if changed == processed.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::RowsAffected { expected: processed.len() as u64, actual: changed })
    }
}

/// Records a failure: the event waits until `next_attempt_at`, or is parked when that is `None`.
pub async fn mark_failed(
    tx: &mut Tx,
    id: &str,
    reason: &str,
    next_attempt_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const RETRY: &str = "UPDATE inbox SET attempts = attempts + 1, reason = $2, next_attempt_at_us = $3
        WHERE id = $1 AND state = 'received'";
    const PARK: &str = "UPDATE inbox SET attempts = attempts + 1, reason = $2, state = 'parked',
            processed_at_us = $3
        WHERE id = $1 AND state = 'received'";
    let (sql, at) = match next_attempt_at {
        Some(at) => (RETRY, at),
        None => (PARK, now),
    };
    tx.q(sql).bind(id).bind(reason).bind(at.as_micros()).exec().await?;
    Ok(())
}

/// Puts a parked event back to the start. Returns whether there was one.
pub async fn retry_parked(tx: &mut Tx, id: &str, now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE inbox SET state = 'received', reason = NULL, attempts = 0,
            next_attempt_at_us = $2, processed_at_us = NULL
        WHERE id = $1 AND state = 'parked'";
    Ok(tx.q(SQL).bind(id).bind(now.as_micros()).exec().await? == 1)
}

/// An event as it is shown. The body is not part of it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventRow {
    /// Our id.
    pub id: String,
    /// Provider name.
    pub provider: String,
    /// The endpoint that verified it.
    pub endpoint_id: String,
    /// The project of the endpoint.
    pub project_id: String,
    /// The connected account, empty for none.
    pub account: String,
    /// Mode.
    pub livemode: bool,
    /// The provider's id.
    pub provider_event_id: String,
    /// The provider's type.
    pub event_type: String,
    /// State.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// How often processing failed.
    pub attempts: i64,
    /// When it was received.
    pub received_at_us: i64,
    /// How it came in.
    pub source: String,
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events of these states; all when empty.
    pub states: Vec<InboxState>,
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Only events of projects of this organization.
    pub organization_id: Option<String>,
    /// Only events before this id (newest first).
    pub before: Option<String>,
}

/// Events, newest first.
pub async fn list(conn: &mut Conn, filter: &EventFilter, limit: i64) -> Result<Vec<EventRow>, StoreError> {
    const SQL: &str = "SELECT id, provider, endpoint_id, project_id, account, livemode, provider_event_id,
            event_type, state, reason, attempts, received_at_us, source
        FROM inbox
        WHERE ($1 = '[]' OR state IN (SELECT value->>'state' FROM json_each($1)))
            AND ($2 IS NULL OR event_type = $2)
            AND ($3 IS NULL OR project_id IN (SELECT id FROM project WHERE organization_id = $3))
            AND ($4 IS NULL OR id < $4)
        ORDER BY id DESC LIMIT $5";
    let states: Vec<_> = filter.states.iter().map(|state| json!({ "state": state.as_str() })).collect();
    conn.q(SQL)
        .bind(serde_json::Value::from(states).to_string())
        .bind(filter.event_type.as_deref())
        .bind(filter.organization_id.as_deref())
        .bind(filter.before.as_deref())
        .bind(limit)
        .all()
        .await
}

/// One event by our id.
pub async fn find(conn: &mut Conn, id: &str) -> Result<Option<EventRow>, StoreError> {
    const SQL: &str = "SELECT id, provider, endpoint_id, project_id, account, livemode, provider_event_id,
            event_type, state, reason, attempts, received_at_us, source
        FROM inbox WHERE id = $1";
    conn.q(SQL).bind(id).one().await
}

/// The bytes of an event by our id; none once they are archived elsewhere.
pub async fn find_body(conn: &mut Conn, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
    const SQL: &str = "SELECT body FROM inbox WHERE id = $1 AND body IS NOT NULL";
    conn.q(SQL).bind(id).scalar().await
}

/// One event by its unique key ([`NewEvent::key`]).
pub async fn find_by_key(
    conn: &mut Conn,
    (provider, endpoint_id, account, livemode, provider_event_id): (&str, &str, &str, bool, &str),
) -> Result<Option<EventRow>, StoreError> {
    const SQL: &str = "SELECT id, provider, endpoint_id, project_id, account, livemode, provider_event_id,
            event_type, state, reason, attempts, received_at_us, source
        FROM inbox
        WHERE provider = $1 AND endpoint_id = $2 AND account = $3 AND livemode = $4
            AND provider_event_id = $5";
    conn.q(SQL)
        .bind(provider)
        .bind(endpoint_id)
        .bind(account)
        .bind(livemode)
        .bind(provider_event_id)
        .one()
        .await
}

/// Events that share a provider's id, at most. A provider's id is unique per endpoint only, and a person
/// who names more than these has to say which one is meant.
const NAMED_MAX: i64 = 100;

/// The events that an operator's id leads to, oldest first: the one with this id of ours, else all with
/// this id of the provider's, at most 100.
pub async fn list_named(conn: &mut Conn, id: &str) -> Result<Vec<EventRow>, StoreError> {
    // Served by the index `inbox_by_provider_event`.
    const SQL: &str = "SELECT id, provider, endpoint_id, project_id, account, livemode, provider_event_id,
            event_type, state, reason, attempts, received_at_us, source
        FROM inbox WHERE provider_event_id = $1 ORDER BY id LIMIT $2";
    match find(conn, id).await? {
        Some(event) => Ok(vec![event]),
        None => conn.q(SQL).bind(id).bind(NAMED_MAX).all().await,
    }
}

/// One event with its bytes, as an archive keeps it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ArchiveRow {
    /// Our id.
    pub id: String,
    /// Provider name.
    pub provider: String,
    /// The endpoint that verified it.
    pub endpoint_id: String,
    /// The connected account, empty for none.
    pub account: String,
    /// Mode.
    pub livemode: bool,
    /// The provider's id.
    pub provider_event_id: String,
    /// When it was received.
    pub received_at_us: i64,
    /// The signed bytes.
    pub body: Vec<u8>,
}

/// The next events after an id, oldest first, with their bytes.
pub async fn export(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<ArchiveRow>, StoreError> {
    const SQL: &str =
        "SELECT id, provider, endpoint_id, account, livemode, provider_event_id, received_at_us,
            body
        FROM inbox WHERE id > $1 ORDER BY id LIMIT $2";
    conn.q(SQL).bind(after).bind(limit).all().await
}

/// How many events stand in each state.
pub async fn count_by_state(conn: &mut Conn) -> Result<Vec<(String, i64)>, StoreError> {
    const SQL: &str = "SELECT state, CAST(COUNT(*) AS BIGINT) FROM inbox GROUP BY state ORDER BY state";
    conn.q(SQL).all().await
}

/// When the oldest event that waits was received, microseconds.
pub async fn oldest_waiting(conn: &mut Conn) -> Result<Option<i64>, StoreError> {
    const SQL: &str = "SELECT MIN(received_at_us) FROM inbox WHERE state = 'received'";
    let oldest: Option<Option<i64>> = conn.q(SQL).scalar().await?;
    Ok(oldest.flatten())
}
