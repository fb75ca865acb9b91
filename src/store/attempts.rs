//! Attempts: every call for an intent, written down before it is made, and what was heard of it. Answers are
//! kept also when the job is somebody else's by now (`reliability.md` R9).

use super::{Sql, StoreError, Tx, expect_one, jobs::Lease};
use crate::{
    domain::{
        ids::IntentId,
        intent::{IntentState, Verdict},
        time::Timestamp,
    },
    for_update,
};

/// What a look-up that read the whole list and found nothing is recorded as.
pub(super) const FOUND_NOTHING: &str = "found_nothing";

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
pub async fn mark(
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
