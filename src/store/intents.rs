//! Intents: money that is to move, each with the generations of its request.
//!
//! What may become of an intent is decided in `domain::intent`; here it is only read and written down.

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, Sql, StoreError, Tx,
    attempts::FOUND_NOTHING,
    expect_one,
    row::{At, json_list},
};
use crate::{
    domain::{
        ids::{ChargeId, IntentId, JobId, PayoutId},
        intent::{Intent, IntentKind, IntentState, MADE_AGAIN_S, Sent},
        money::{Currency, Money},
        time::Timestamp,
    },
    for_update,
};

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

/// An intent as it stands. Lock it first ([`lock`]) where something is decided by it.
pub async fn load(conn: &mut Conn, id: &IntentId) -> Result<Option<StoredIntent>, StoreError> {
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
pub async fn lock(tx: &mut Tx, id: &IntentId) -> Result<bool, StoreError> {
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
pub async fn set(
    tx: &mut Tx,
    id: &IntentId,
    state: IntentState,
    object_id: Option<&str>,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE intent SET state = $2, object_id = COALESCE($3, object_id) WHERE id = $1";
    expect_one(tx.q(SQL).bind(id.as_str()).bind(state.as_str()).bind(object_id).exec().await?)
}
