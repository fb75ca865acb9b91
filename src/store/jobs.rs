//! Intents with their generations and attempts, and the jobs that work on them.
//!
//! A job is claimed with a lease: its epoch grows, and whoever holds an older epoch can write nothing of
//! the job any more. Answers are kept even then (`reliability.md` R9). What an answer means is decided in
//! `domain::intent`; here it is only written down.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, Sql, StoreError, Tx, expect_one,
    row::{At, json_list},
    sales::id_list,
};
use crate::{
    domain::{
        ids::{ChargeId, IntentId, JobId, PayoutId},
        intent::{Intent, IntentKind, IntentState, MADE_AGAIN_S, Sent, Verdict},
        job::JobState,
        money::{Currency, Money},
        time::Timestamp,
    },
    for_update,
};

/// What a look-up that read the whole list and found nothing is recorded as.
const FOUND_NOTHING: &str = "found_nothing";

/// A job that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job_id: JobId,
    /// What it works on.
    pub intent_id: IntentId,
    /// The destination.
    pub lane: String,
    /// Number of the lease.
    pub epoch: i64,
    /// Until when nobody else takes it.
    pub until: Timestamp,
    /// How many attempts were made before.
    pub attempts: i64,
}

/// Jobs that are due longest and looked at first, of whatever lanes.
const WINDOW: i64 = 1_000;

/// How often that is done, each time without the lanes that filled it before.
const WINDOWS: usize = 2;

/// Whether any job is due whose lane is none of `busy`. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp, busy: &[String]) -> Result<bool, StoreError> {
    // Served by `job_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM job
        WHERE next_attempt_at_us <= $1 AND lane NOT IN (SELECT value->>'id' FROM json_each($2)))";
    let busy = id_list(busy.iter().map(String::as_str));
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).bind(busy).scalar().await?;
    Ok(is_due == Some(true))
}

/// Takes jobs that are due, the longest due first, one per lane and none of `busy` lanes: a lane whose
/// calls do not come back keeps no place in the batch. Jobs of which the lease has run out are due again.
pub async fn claim_due(
    tx: &mut Tx,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
    busy: &[String],
) -> Result<Vec<Lease>, StoreError> {
    // A wake-up from before the claim is what it is made for; only a later one says anything new.
    const SQL: Sql = Sql {
        sqlite: "UPDATE job SET state = 'running', epoch = epoch + 1, next_attempt_at_us = $2,
                woken_at_us = NULL
            WHERE id IN (SELECT value->>'id' FROM json_each($3)) AND next_attempt_at_us <= $1
            RETURNING id, intent_id, lane, epoch, attempts",
        postgres: "UPDATE job SET state = 'running', epoch = epoch + 1, next_attempt_at_us = $2,
                woken_at_us = NULL
            WHERE id IN (
                SELECT id FROM job
                WHERE id IN (SELECT value->>'id' FROM json_each($3)) AND next_attempt_at_us <= $1
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING id, intent_id, lane, epoch, attempts",
    };
    #[derive(FromRow)]
    struct Row {
        id: String,
        intent_id: String,
        lane: String,
        epoch: i64,
        attempts: i64,
    }
    let first = list_first_due(tx, now, limit, busy).await?;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let list = id_list(first.iter().map(String::as_str));
    let rows: Vec<Row> = tx.q(SQL).bind(now.as_micros()).bind(until.as_micros()).bind(list).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "job", id: &row.id };
            Ok(Lease {
                job_id: at.read("id", &row.id)?,
                intent_id: at.read("intent_id", &row.intent_id)?,
                lane: row.lane,
                epoch: row.epoch,
                until,
                attempts: row.attempts,
            })
        })
        .collect()
}

/// The job of each lane that is due longest, at most `limit` of them, none of `busy` lanes.
///
/// Most often the jobs that are due longest are of many lanes, and a look at those is enough. Where few lanes
/// fill that window again and again, the rest is found by stepping from lane to lane, so that a lane hides no other however
/// much of it is due. Neither sorts all that is due: this runs in a write transaction.
async fn list_first_due(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
    busy: &[String],
) -> Result<Vec<String>, StoreError> {
    // Served by `job_due`, in order and without a look at the rows.
    const LONGEST: &str = "SELECT id, lane FROM job
        WHERE next_attempt_at_us <= $1 AND lane NOT IN (SELECT value->>'id' FROM json_each($3))
        ORDER BY next_attempt_at_us, id LIMIT $2";
    // Served by `job_by_lane`, by one or two steps into it per lane.
    const OF_EACH_LANE: &str = "WITH RECURSIVE lanes (lane) AS (
            SELECT MIN(lane) FROM job WHERE next_attempt_at_us IS NOT NULL
            UNION ALL
            SELECT (SELECT MIN(j.lane) FROM job j WHERE j.lane > lanes.lane AND j.next_attempt_at_us IS NOT NULL)
            FROM lanes WHERE lanes.lane IS NOT NULL)
        SELECT first.id FROM lanes JOIN job first ON first.id = (
                SELECT j.id FROM job j WHERE j.lane = lanes.lane AND j.next_attempt_at_us <= $1
                ORDER BY j.next_attempt_at_us, j.id LIMIT 1)
        WHERE lanes.lane NOT IN (SELECT value->>'id' FROM json_each($3))
        ORDER BY first.next_attempt_at_us, first.id LIMIT $2";
    let wanted = usize::try_from(limit).unwrap_or(0);
    let mut seen: BTreeSet<String> = busy.iter().cloned().collect();
    let mut first: Vec<String> = Vec::new();
    for _ in 0..WINDOWS {
        let list = id_list(seen.iter().map(String::as_str));
        let longest: Vec<(String, String)> =
            conn.q(LONGEST).bind(now.as_micros()).bind(WINDOW).bind(list).all().await?;
        let is_all = i64::try_from(longest.len()).is_ok_and(|count| count < WINDOW);
        first.extend(longest.into_iter().filter_map(|(id, lane)| seen.insert(lane).then_some(id)));
        if is_all || first.len() >= wanted {
            first.truncate(wanted);
            return Ok(first);
        }
    }
    let missing = limit - i64::try_from(first.len()).unwrap_or(limit);
    let list = id_list(seen.iter().map(String::as_str));
    let rest: Vec<String> =
        conn.q(OF_EACH_LANE).bind(now.as_micros()).bind(missing).bind(list).scalars().await?;
    first.extend(rest);
    Ok(first)
}

/// What an intent is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It pays an affiliate.
    Payout(PayoutId),
    /// It charges a buyer for a connected account.
    Charge {
        /// The charge.
        id: ChargeId,
        /// What the platform keeps, minor units.
        application_fee: i64,
    },
}

/// An intent with the bytes of its current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIntent {
    /// What the protocol looks at.
    pub intent: Intent,
    /// What it is for.
    pub purpose: Purpose,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The account that receives it.
    pub destination: String,
    /// How much.
    pub amount: Money,
    /// The provider's object, once known.
    pub object_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The idempotency key.
    pub key: String,
    /// Path of the request.
    pub path: String,
    /// Exact bytes of the request.
    pub body: Vec<u8>,
    /// The API version it is made for.
    pub api_version: String,
    /// When it was first and last sent, under whichever key; none: never.
    pub sent_between: Option<(Timestamp, Timestamp)>,
    /// Whether the provider advised against trying again (`Stripe-Should-Retry: false`): then it is asked
    /// what became of the last call instead (`rulings.md` 16).
    pub advised_against: bool,
}

#[derive(FromRow)]
struct IntentRow {
    id: String,
    kind: String,
    payout_id: Option<String>,
    charge_id: Option<String>,
    application_fee_minor: Option<i64>,
    provider: String,
    livemode: bool,
    destination: String,
    amount_minor: i64,
    currency: String,
    state: String,
    generation: i64,
    object_id: Option<String>,
    created_at_us: i64,
    idempotency_key: String,
    path: String,
    body: Vec<u8>,
    api_version: String,
    first_sent_at_us: Option<i64>,
    look_up_before_us: i64,
    first_send_us: Option<i64>,
    last_send_us: Option<i64>,
}

#[derive(FromRow)]
struct SendRow {
    verdict: Option<String>,
    replayed: Option<bool>,
    sent_at_us: i64,
    should_retry: Option<bool>,
}

/// An intent as it stands. Lock it first ([`lock_intent`]) where something is decided by it.
pub async fn load_intent(conn: &mut Conn, id: &IntentId) -> Result<Option<StoredIntent>, StoreError> {
    const SQL: &str = "SELECT i.id, i.kind, i.payout_id, i.charge_id, c.application_fee_minor, i.provider,
            i.livemode, i.destination, i.amount_minor, i.currency, i.state, i.generation, i.object_id,
            i.created_at_us, g.idempotency_key, g.path, g.body, g.api_version, g.first_sent_at_us,
            COALESCE((SELECT look_up_before_us FROM instance), 0) AS look_up_before_us,
            (SELECT MIN(sent_at_us) FROM attempt WHERE intent_id = i.id AND kind = 'send') AS first_send_us,
            (SELECT MAX(sent_at_us) FROM attempt WHERE intent_id = i.id AND kind = 'send') AS last_send_us
        FROM intent i JOIN generation g ON g.intent_id = i.id AND g.generation = i.generation
            LEFT JOIN charge c ON c.id = i.charge_id
        WHERE i.id = $1";
    const SENDS: &str = "SELECT verdict, replayed, sent_at_us, should_retry FROM attempt
        WHERE intent_id = $1 AND generation = $2 AND kind = 'send' ORDER BY number";
    // A look-up finds the objects of every generation, so one that came up empty counts for all of them. It
    // says nothing of what was made after it was asked.
    const LOOKED_UP: &str = "SELECT MAX(sent_at_us) FROM attempt
        WHERE intent_id = $1 AND kind = 'look_up' AND verdict = $2";
    let row: Option<IntentRow> = conn.q(SQL).bind(id.as_str()).one().await?;
    let Some(row) = row else { return Ok(None) };
    let at = At { table: "intent", id: &row.id };
    let sends: Vec<SendRow> = conn.q(SENDS).bind(id.as_str()).bind(row.generation).all().await?;
    let advised_against = sends.last().is_some_and(|last| last.should_retry == Some(false));
    let sends = sends
        .into_iter()
        .map(|send| {
            let at = At { table: "attempt", id: &row.id };
            Ok(Sent {
                verdict: at.read_opt("verdict", send.verdict.as_deref())?,
                replayed: send.replayed.unwrap_or(false),
                retry_advised: send.should_retry == Some(true),
                at: Timestamp::from_micros(send.sent_at_us),
            })
        })
        .collect::<Result<Vec<Sent>, StoreError>>()?;
    let looked_up: Option<Option<i64>> =
        conn.q(LOOKED_UP).bind(id.as_str()).bind(FOUND_NOTHING).scalar().await?;
    // After a restore only what was asked since then counts. What is made soon afterwards may have been made
    // before, by the database that is lost.
    let restored_at = Some(row.look_up_before_us).filter(|at| *at > 0).map(Timestamp::from_micros);
    let look_up_first =
        restored_at.is_some_and(|at| row.created_at_us < at.plus_secs(MADE_AGAIN_S).as_micros());
    let looked_up_at = looked_up.flatten().filter(|at| !look_up_first || *at >= row.look_up_before_us);
    let kind: IntentKind = at.read("kind", &row.kind)?;
    let purpose = match (kind, &row.payout_id, &row.charge_id, row.application_fee_minor) {
        (IntentKind::Transfer, Some(id), None, _) => Purpose::Payout(at.read("payout_id", id)?),
        (IntentKind::Charge, None, Some(id), Some(application_fee)) => {
            Purpose::Charge { id: at.read("charge_id", id)?, application_fee }
        }
        (IntentKind::Transfer | IntentKind::Charge, ..) => return Err(at.corrupt("kind")),
    };
    let currency: Currency = at.read("currency", &row.currency)?;
    Ok(Some(StoredIntent {
        intent: Intent {
            id: at.read("id", &row.id)?,
            state: at.read("state", &row.state)?,
            generation: row.generation,
            first_sent_at: row.first_sent_at_us.map(Timestamp::from_micros),
            sends,
            looked_up_at: looked_up_at.map(Timestamp::from_micros),
            look_up_first,
        },
        purpose,
        provider: row.provider,
        livemode: row.livemode,
        destination: row.destination,
        amount: Money { minor: row.amount_minor, currency },
        object_id: row.object_id,
        created_at: Timestamp::from_micros(row.created_at_us),
        key: row.idempotency_key,
        path: row.path,
        body: row.body,
        api_version: row.api_version,
        sent_between: row
            .first_send_us
            .zip(row.last_send_us)
            .map(|(first, last)| (Timestamp::from_micros(first), Timestamp::from_micros(last))),
        advised_against,
    }))
}

/// Locks an intent until the transaction ends. `false` when there is none.
pub async fn lock_intent(tx: &mut Tx, id: &IntentId) -> Result<bool, StoreError> {
    const SQL: Sql = for_update!("SELECT id FROM intent WHERE id = $1");
    let found: Option<String> = tx.q(SQL).bind(id.as_str()).scalar().await?;
    Ok(found.is_some())
}

/// The intent that an object of the provider's belongs to.
pub async fn find_by_object(
    conn: &mut Conn,
    provider: &str,
    livemode: bool,
    object_id: &str,
) -> Result<Option<IntentId>, StoreError> {
    const SQL: &str = "SELECT id FROM intent WHERE object_id = $1 AND provider = $2 AND livemode = $3";
    let id: Option<String> = conn.q(SQL).bind(object_id).bind(provider).bind(livemode).scalar().await?;
    id.map(|id| At { table: "intent", id: &id }.read("id", &id)).transpose()
}

/// The intent that pays a payout.
pub async fn find_by_payout(conn: &mut Conn, payout: &PayoutId) -> Result<Option<IntentId>, StoreError> {
    const SQL: &str = "SELECT id FROM intent WHERE payout_id = $1";
    let id: Option<String> = conn.q(SQL).bind(payout.as_str()).scalar().await?;
    id.map(|id| At { table: "intent", id: &id }.read("id", &id)).transpose()
}

/// Money to be moved, with its first generation and its job.
#[derive(Clone, Debug)]
pub struct NewIntent {
    /// Derived from what it pays.
    pub id: IntentId,
    /// What it is for.
    pub purpose: Purpose,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The account that receives it.
    pub destination: String,
    /// How much.
    pub amount: Money,
    /// The bytes of its first generation.
    pub generation: NewGeneration,
}

/// A key and the bytes that go with it.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    /// 0 is the first.
    pub number: i64,
    /// The idempotency key.
    pub key: String,
    /// Path of the request.
    pub path: String,
    /// Exact bytes of the request.
    pub body: Vec<u8>,
    /// SHA-256 of them.
    pub body_sha256: [u8; 32],
    /// The API version it is made for.
    pub api_version: &'static str,
}

/// Stores intents with their first generations and their jobs, due at once. The ids of the jobs are derived
/// from the intents, so that an intent is never worked on by two.
pub async fn insert(tx: &mut Tx, new: &[NewIntent], now: Timestamp) -> Result<(), StoreError> {
    const INTENTS: &str =
        "INSERT INTO intent (id, kind, payout_id, charge_id, provider, livemode, destination,
            amount_minor, currency, state, generation, created_at_us)
        SELECT value->>'id', value->>'kind', value->>'payout', value->>'charge', value->>'provider',
            CAST(value->>'livemode' AS BOOLEAN), value->>'destination', CAST(value->>'amount' AS BIGINT),
            value->>'currency', 'open', 0, CAST(value->>'at' AS BIGINT)
        FROM json_each($1)";
    const JOBS: &str = "INSERT INTO job (id, kind, intent_id, lane, state, attempts, epoch,
            next_attempt_at_us, created_at_us)
        SELECT value->>'job', value->>'kind', value->>'id', value->>'destination', 'available', 0, 0,
            CAST(value->>'at' AS BIGINT), CAST(value->>'at' AS BIGINT)
        FROM json_each($1)";
    if new.is_empty() {
        return Ok(());
    }
    let rows = json_list(new.iter().map(|new| {
        let (kind, payout, charge) = match &new.purpose {
            Purpose::Payout(id) => (IntentKind::Transfer, Some(id), None),
            Purpose::Charge { id, .. } => (IntentKind::Charge, None, Some(id)),
        };
        json!({
            "id": new.id, "job": JobId::derived(&[new.id.as_str()]), "kind": kind.as_str(), "payout": payout,
            "charge": charge, "provider": new.provider, "livemode": new.livemode,
            "destination": new.destination, "amount": new.amount.minor, "currency": new.amount.currency,
            "at": now.as_micros(),
        })
    }));
    tx.q(INTENTS).bind(&*rows).exec().await?;
    let generations: Vec<_> = new.iter().map(|new| (&new.id, &new.generation)).collect();
    insert_generations(tx, &generations).await?;
    tx.q(JOBS).bind(&*rows).exec().await?;
    Ok(())
}

async fn insert_generations(tx: &mut Tx, new: &[(&IntentId, &NewGeneration)]) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO generation (intent_id, generation, idempotency_key, path, body, body_sha256,
            api_version)
        SELECT value->>'intent', CAST(value->>'generation' AS BIGINT), value->>'key', value->>'path',
            substr($2, CAST(value->>'body_at' AS INTEGER), CAST(value->>'body_len' AS INTEGER)),
            substr($2, CAST(value->>'hash_at' AS INTEGER), 32), value->>'version'
        FROM json_each($1)";
    let mut bytes = Vec::new();
    let rows = json_list(new.iter().map(|(intent, generation)| {
        let body_at = bytes.len() + 1;
        bytes.extend_from_slice(&generation.body);
        let hash_at = bytes.len() + 1;
        bytes.extend_from_slice(&generation.body_sha256);
        json!({
            "intent": intent, "generation": generation.number, "key": generation.key,
            "path": generation.path, "body_at": body_at, "body_len": generation.body.len(),
            "hash_at": hash_at, "version": generation.api_version,
        })
    }));
    tx.q(SQL).bind(rows).bind(bytes).exec().await?;
    Ok(())
}

/// Closes the current generation of an intent with the proof that nothing was executed under its key, and
/// opens the next.
///
/// # Errors
/// [`StoreError::RowsAffected`] when the intent is not open, or is at another generation.
pub async fn renew(
    tx: &mut Tx,
    intent: &Intent,
    proof: &str,
    next: &NewGeneration,
    now: Timestamp,
) -> Result<(), StoreError> {
    const CLOSE: &str = "UPDATE generation SET closed_at_us = $3, proof = $4
        WHERE intent_id = $1 AND generation = $2 AND closed_at_us IS NULL";
    const INTENT: &str = "UPDATE intent SET generation = $3, state = 'open'
        WHERE id = $1 AND generation = $2 AND state IN ('open', 'unknown')";
    let id = &intent.id;
    let closed = tx
        .q(CLOSE)
        .bind(id.as_str())
        .bind(intent.generation)
        .bind(now.as_micros())
        .bind(proof)
        .exec()
        .await?;
    expect_one(closed)?;
    let moved = tx.q(INTENT).bind(id.as_str()).bind(intent.generation).bind(next.number).exec().await?;
    expect_one(moved)?;
    insert_generations(tx, &[(id, next)]).await
}

/// Writes where an intent stands. The caller holds it locked.
pub async fn set_intent(
    tx: &mut Tx,
    id: &IntentId,
    state: IntentState,
    object_id: Option<&str>,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE intent SET state = $2, object_id = COALESCE($3, object_id) WHERE id = $1";
    expect_one(tx.q(SQL).bind(id.as_str()).bind(state.as_str()).bind(object_id).exec().await?)
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It may move money.
    Send,
    /// It only asks.
    LookUp,
}

/// Writes down that a call is about to be made, and gives its number. From here on a send counts as
/// perhaps executed (`reliability.md` §5.3).
///
/// `None` when the lease is not ours any more or ends before `needed_until`, or the intent is not open at
/// this generation: then nothing may be sent, and nothing was written.
pub async fn mark_attempt(
    tx: &mut Tx,
    lease: &Lease,
    generation: i64,
    call: Call,
    needed_until: Timestamp,
    now: Timestamp,
) -> Result<Option<i64>, StoreError> {
    const INTENT: Sql = for_update!("SELECT state FROM intent WHERE id = $1 AND generation = $2");
    const JOB: &str = "UPDATE job SET attempts = attempts + 1
        WHERE id = $1 AND epoch = $2 AND state = 'running' AND next_attempt_at_us > $3";
    const ATTEMPT: &str = "INSERT INTO attempt (intent_id, number, generation, kind, epoch, sent_at_us)
        SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4, $5 FROM attempt WHERE intent_id = $1
        RETURNING number";
    const FIRST_SENT: &str = "UPDATE generation SET first_sent_at_us = $3
        WHERE intent_id = $1 AND generation = $2 AND first_sent_at_us IS NULL";
    let intent = lease.intent_id.as_str();
    let state: Option<String> = tx.q(INTENT).bind(intent).bind(generation).scalar().await?;
    let may_call = match call {
        Call::Send => state.as_deref() == Some(IntentState::Open.as_str()),
        Call::LookUp => state.is_some(),
    };
    if !may_call {
        return Ok(None);
    }
    let held =
        tx.q(JOB).bind(lease.job_id.as_str()).bind(lease.epoch).bind(needed_until.as_micros()).exec().await?;
    if held == 0 {
        return Ok(None);
    }
    let kind = match call {
        Call::Send => "send",
        Call::LookUp => "look_up",
    };
    let number: Option<i64> = tx
        .q(ATTEMPT)
        .bind(intent)
        .bind(generation)
        .bind(kind)
        .bind(lease.epoch)
        .bind(now.as_micros())
        .scalar()
        .await?;
    if call == Call::Send {
        tx.q(FIRST_SENT).bind(intent).bind(generation).bind(now.as_micros()).exec().await?;
    }
    Ok(number)
}

/// What is kept of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// HTTP status; none when nothing whole came back.
    pub status: Option<u16>,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// Whether the answer was stored under the key before.
    pub replayed: bool,
    /// Whether the provider advised to try again.
    pub should_retry: Option<bool>,
    /// The provider's error code.
    pub error_code: Option<String>,
    /// The provider's object.
    pub object_id: Option<String>,
    /// SHA-256 of the body.
    pub body_sha256: Option<Vec<u8>>,
}

/// Keeps the answer to a send. It needs no lease: what happened stays true whoever hears it.
pub async fn keep_answer(
    tx: &mut Tx,
    intent: &IntentId,
    number: i64,
    verdict: Verdict,
    kept: &Kept,
    now: Timestamp,
) -> Result<(), StoreError> {
    keep(tx, intent, number, verdict.as_str(), kept, now).await
}

/// Keeps what a look-up found; an error code stands for one that could not be read.
pub async fn keep_look_up(
    tx: &mut Tx,
    intent: &IntentId,
    number: i64,
    found: LookedUp,
    kept: &Kept,
    now: Timestamp,
) -> Result<(), StoreError> {
    keep(tx, intent, number, found.as_str(), kept, now).await
}

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// The whole list was read and holds nothing.
    Nothing,
    /// At least one object was found.
    Something,
    /// The list could not be read to the end.
    Unreadable,
}

impl LookedUp {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => FOUND_NOTHING,
            Self::Something => "found",
            Self::Unreadable => "unreadable",
        }
    }
}

async fn keep(
    tx: &mut Tx,
    intent: &IntentId,
    number: i64,
    verdict: &str,
    kept: &Kept,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE attempt SET answered_at_us = $3, verdict = $4, status = $5, request_id = $6,
            replayed = $7, should_retry = $8, error_code = $9, object_id = $10, body_sha256 = $11
        WHERE intent_id = $1 AND number = $2 AND answered_at_us IS NULL";
    let affected = tx
        .q(SQL)
        .bind(intent.as_str())
        .bind(number)
        .bind(now.as_micros())
        .bind(verdict)
        .bind(kept.status.map(i64::from))
        .bind(kept.request_id.as_deref())
        .bind(kept.replayed)
        .bind(kept.should_retry)
        .bind(kept.error_code.as_deref())
        .bind(kept.object_id.as_deref())
        .bind(kept.body_sha256.as_deref())
        .exec()
        .await?;
    expect_one(affected)
}

/// Where a job goes when this node lays it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting<'a> {
    /// Its state.
    pub state: JobState,
    /// Why.
    pub reason: Option<&'a str>,
    /// When it is due next; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
}

/// Lays a job down. `false` when the lease is not ours any more: then somebody else has it, and nothing
/// was written.
pub async fn part(
    tx: &mut Tx,
    lease: &Lease,
    parting: Parting<'_>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Why an intent was set apart stays true however often it is looked up.
    const SQL: &str =
        "UPDATE job SET state = $3, reason = CASE WHEN $3 = 'unknown' THEN COALESCE($4, reason) ELSE $4 END,
            next_attempt_at_us = $5, finished_at_us = $6
        WHERE id = $1 AND epoch = $2 AND state = 'running'";
    let affected = tx
        .q(SQL)
        .bind(lease.job_id.as_str())
        .bind(lease.epoch)
        .bind(parting.state.as_str())
        .bind(parting.reason)
        .bind(parting.next_attempt_at.map(Timestamp::as_micros))
        .bind(parting.state.is_over().then_some(now.as_micros()))
        .exec()
        .await?;
    Ok(affected == 1)
}

/// Moves the job of an intent whoever holds it, because its intent was settled in another way. The epoch
/// grows, so that who held it can write no more.
pub async fn supersede(
    tx: &mut Tx,
    intent: &IntentId,
    parting: Parting<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET state = $2, reason = $3, next_attempt_at_us = $4, finished_at_us = $5,
            epoch = epoch + 1
        WHERE intent_id = $1 AND state NOT IN ('completed', 'discarded')";
    tx.q(SQL)
        .bind(intent.as_str())
        .bind(parting.state.as_str())
        .bind(parting.reason)
        .bind(parting.next_attempt_at.map(Timestamp::as_micros))
        .bind(parting.state.is_over().then_some(now.as_micros()))
        .exec()
        .await?;
    Ok(())
}

/// Whether this node still holds the job.
pub async fn is_held(conn: &mut Conn, lease: &Lease) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(1 AS BIGINT) FROM job WHERE id = $1 AND epoch = $2 AND state = 'running'";
    let held: Option<i64> = conn.q(SQL).bind(lease.job_id.as_str()).bind(lease.epoch).scalar().await?;
    Ok(held.is_some())
}

/// What people or an anomaly have stopped that covers this intent; none: nothing.
pub async fn stopped_by(conn: &mut Conn, intent: &IntentId) -> Result<Option<&'static str>, StoreError> {
    // An operator pauses payouts; a restored database must not charge anybody either.
    const PAUSED: &str = "SELECT CAST(1 AS BIGINT) FROM payout_pause s JOIN intent i ON i.id = $1
        WHERE s.resumed_at_us IS NULL AND (s.kind = 'restored' OR i.kind = 'transfer') LIMIT 1";
    const HELD: &str = "SELECT CAST(1 AS BIGINT) FROM intent i JOIN payout p ON p.id = i.payout_id
            JOIN payout_hold h ON h.enrollment_id = p.enrollment_id AND h.lifted_at_us IS NULL
        WHERE i.id = $1 LIMIT 1";
    let paused: Option<i64> = conn.q(PAUSED).bind(intent.as_str()).scalar().await?;
    if paused.is_some() {
        return Ok(Some("payouts_paused"));
    }
    let held: Option<i64> = conn.q(HELD).bind(intent.as_str()).scalar().await?;
    Ok(held.map(|_| "payouts_held"))
}

/// Makes jobs due that wait for these accounts, and tells those that are being worked on, see
/// [`was_woken_since`].
pub async fn wake_accounts(tx: &mut Tx, accounts: &[&str], now: Timestamp) -> Result<(), StoreError> {
    // Served by `job_waiting` and `job_by_state`.
    const SQL: Sql = for_update!(
        "SELECT id FROM job
         WHERE lane IN (SELECT value->>'id' FROM json_each($1))
             AND (state = 'running' OR (state = 'parked' AND reason = 'waiting_account'))
         ORDER BY id"
    );
    if accounts.is_empty() {
        return Ok(());
    }
    let jobs: Vec<String> = tx.q(SQL).bind(id_list(accounts.iter().copied())).scalars().await?;
    wake(tx, &jobs, now).await
}

/// Makes jobs due that wait for funds of these currencies, and tells those that are being worked on, see
/// [`was_woken_since`].
pub async fn wake_funds(tx: &mut Tx, currencies: &[Currency], now: Timestamp) -> Result<(), StoreError> {
    // Served by `job_waiting` and `job_by_state`: never all intents of a currency are looked at.
    const SQL: Sql = for_update!(
        "SELECT id FROM job
         WHERE (state = 'running' OR (state = 'parked' AND reason = 'waiting_funds'))
             AND EXISTS (SELECT 1 FROM intent WHERE intent.id = job.intent_id
                 AND intent.currency IN (SELECT value->>'id' FROM json_each($1)))
         ORDER BY id"
    );
    let list = id_list(currencies.iter().map(Currency::as_str));
    let jobs: Vec<String> = tx.q(SQL).bind(list).scalars().await?;
    wake(tx, &jobs, now).await
}

/// Wakes jobs that are locked, in order of their ids. The lease of one that is running stays as it is.
async fn wake(tx: &mut Tx, jobs: &[String], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET woken_at_us = $2,
            next_attempt_at_us = CASE WHEN state = 'parked' THEN $2 ELSE next_attempt_at_us END
        WHERE id IN (SELECT value->>'id' FROM json_each($1))";
    if jobs.is_empty() {
        return Ok(());
    }
    tx.q(SQL).bind(id_list(jobs.iter().map(String::as_str))).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Whether what the job of an intent is about to wait for was told at or after `since`, while it was being
/// worked on: then it must be due at once, because nobody wakes it again. The job stays locked, so whoever
/// tells later finds it parked. A claim forgets what was told before it.
pub async fn was_woken_since(tx: &mut Tx, intent: &IntentId, since: Timestamp) -> Result<bool, StoreError> {
    const SQL: Sql = for_update!("SELECT woken_at_us FROM job WHERE intent_id = $1");
    let woken_at: Option<Option<i64>> = tx.q(SQL).bind(intent.as_str()).scalar().await?;
    Ok(woken_at.flatten().is_some_and(|at| at >= since.as_micros()))
}

/// Makes jobs due that were laid down because of a stop of ours which may be over.
pub async fn wake_stopped(tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET next_attempt_at_us = $1
        WHERE state IN ('available', 'retryable') AND reason IN ('payouts_paused', 'payouts_held')";
    tx.q(SQL).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// How many jobs are not over, by kind and state. Those that are over are nearly all there are, and are
/// never looked at.
pub async fn count_unfinished(conn: &mut Conn) -> Result<Vec<(String, String, i64)>, StoreError> {
    // Served by `job_by_state`.
    const SQL: &str = "SELECT kind, state, COUNT(*) FROM job
        WHERE state IN (SELECT value->>'id' FROM json_each($1)) GROUP BY kind, state";
    let states = JobState::ALL.iter().filter(|state| !state.is_over()).map(|state| state.as_str());
    conn.q(SQL).bind(id_list(states)).all().await
}

/// Since when the job that is due longest is due, microseconds.
pub async fn oldest_due(conn: &mut Conn, now: Timestamp) -> Result<Option<i64>, StoreError> {
    const SQL: &str = "SELECT MIN(next_attempt_at_us) FROM job WHERE next_attempt_at_us <= $1";
    let oldest: Option<Option<i64>> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(oldest.flatten())
}
