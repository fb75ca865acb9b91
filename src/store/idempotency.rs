//! Requests that were sent with an Idempotency-Key, and their answers. What follows from them is
//! `app::idempotency`.

use sqlx::FromRow;

use super::{Conn, StoreError, Tx, error::expect_one, row::At};
use crate::{
    domain::{ids::IdempotencyId, program::words, time::Timestamp},
    for_update,
};

words! {
    /// How far a request is.
    RequestState {
        /// It is being carried out, or whoever did that is gone.
        InFlight = "in_flight",
        /// It was answered.
        Completed = "completed",
    }
}

/// A request under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRequest<'a> {
    /// Of the row.
    pub id: IdempotencyId,
    /// The API key that asks.
    pub actor: &'a str,
    /// The caller's own key.
    pub key: &'a str,
    /// What tells this request from every other.
    pub fingerprint: &'a [u8],
    /// When its first claim ends.
    pub leased_until: Timestamp,
    /// Now.
    pub created_at: Timestamp,
    /// From when the key is free again.
    pub expires_at: Timestamp,
}

/// A request that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// Of the row.
    pub id: IdempotencyId,
    /// What tells it from every other.
    pub fingerprint: Vec<u8>,
    /// The claim that holds.
    pub claim: i64,
    /// Until when its holder is believed to be at work.
    pub leased_until: Timestamp,
    /// Whether it changed something, and committed that.
    pub changed: bool,
    /// The answer, once there is one.
    pub answer: Option<Answer>,
}

/// An answer as it was given, without what is shown only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Of the body.
    pub content_type: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// Adds a request with claim 1. False when the key is taken: somebody else inserted it first.
pub async fn insert(tx: &mut Tx, new: &NewRequest<'_>) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO idempotency (id, actor, request_key, fingerprint, state, claim,
                                                leased_until_us, changed, created_at_us, expires_at_us)
                       VALUES ($1, $2, $3, $4, 'in_flight', 1, $5, $6, $7, $8)
                       ON CONFLICT (actor, request_key) DO NOTHING";
    let inserted = tx
        .q(SQL)
        .bind(new.id.as_str())
        .bind(new.actor)
        .bind(new.key)
        .bind(new.fingerprint)
        .bind(new.leased_until.as_micros())
        .bind(false)
        .bind(new.created_at.as_micros())
        .bind(new.expires_at.as_micros())
        .exec()
        .await?;
    Ok(inserted == 1)
}

#[derive(FromRow)]
struct Row {
    id: String,
    fingerprint: Vec<u8>,
    claim: i64,
    leased_until_us: i64,
    changed: bool,
    status: Option<i64>,
    content_type: Option<String>,
    body: Option<Vec<u8>>,
}

impl Row {
    fn read(self) -> Result<StoredRequest, StoreError> {
        let at = At { table: "idempotency", id: &self.id };
        let answer = match (self.status, self.body) {
            (Some(status), Some(body)) => Some(Answer {
                status: u16::try_from(status).map_err(|_| at.corrupt("status"))?,
                content_type: self.content_type,
                body,
            }),
            _ => None,
        };
        Ok(StoredRequest {
            id: at.read("id", &self.id)?,
            fingerprint: self.fingerprint,
            claim: self.claim,
            leased_until: Timestamp::from_micros(self.leased_until_us),
            changed: self.changed,
            answer,
        })
    }
}

/// The request under a key, locked: whoever carries it out cannot commit a change meanwhile.
pub async fn lock(tx: &mut Tx, actor: &str, key: &str) -> Result<Option<StoredRequest>, StoreError> {
    const SQL: super::Sql = for_update!(
        "SELECT id, fingerprint, claim, leased_until_us, changed, status, content_type, body
         FROM idempotency WHERE actor = $1 AND request_key = $2"
    );
    tx.q(SQL).bind(actor).bind(key).one().await?.map(Row::read).transpose()
}

/// Frees a key whose time is over.
pub async fn delete_expired_key(
    tx: &mut Tx,
    actor: &str,
    key: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM idempotency WHERE actor = $1 AND request_key = $2 AND expires_at_us <= $3";
    tx.q(SQL).bind(actor).bind(key).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Takes a request over from whoever holds its claim, and gives the new claim.
///
/// # Errors
/// [`StoreError::RowsAffected`] when the claim is not `claim` any more, or the request was answered.
pub async fn take_over(
    tx: &mut Tx,
    id: &IdempotencyId,
    claim: i64,
    leased_until: Timestamp,
) -> Result<i64, StoreError> {
    const SQL: &str = "UPDATE idempotency SET claim = $3, leased_until_us = $4
                       WHERE id = $1 AND claim = $2 AND state = 'in_flight'";
    let next = claim.saturating_add(1);
    let affected =
        tx.q(SQL).bind(id.as_str()).bind(claim).bind(next).bind(leased_until.as_micros()).exec().await?;
    expect_one(affected)?;
    Ok(next)
}

/// Notes, in the transaction of a change, that the request under this claim makes it. This is the fence:
/// who has lost the claim changes nothing.
///
/// # Errors
/// [`StoreError::RowsAffected`] when the claim was lost.
pub async fn mark_changed(tx: &mut Tx, id: &IdempotencyId, claim: i64) -> Result<(), StoreError> {
    const SQL: &str =
        "UPDATE idempotency SET changed = $3 WHERE id = $1 AND claim = $2 AND state = 'in_flight'";
    let affected = tx.q(SQL).bind(id.as_str()).bind(claim).bind(true).exec().await?;
    expect_one(affected)
}

/// Keeps the answer. False when the claim was lost; then nothing is kept.
pub async fn complete(
    tx: &mut Tx,
    id: &IdempotencyId,
    claim: i64,
    answer: &Answer,
) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE idempotency SET state = 'completed', status = $3, content_type = $4, body = $5
         WHERE id = $1 AND claim = $2 AND state = 'in_flight'";
    let affected = tx
        .q(SQL)
        .bind(id.as_str())
        .bind(claim)
        .bind(i64::from(answer.status))
        .bind(answer.content_type.as_deref())
        .bind(answer.body.as_slice())
        .exec()
        .await?;
    Ok(affected == 1)
}

/// Gives a request up that was not answered for good: the key is free again if nothing was changed under
/// it; otherwise the claim ends now, so that the next one learns at once what was done.
pub async fn release(tx: &mut Tx, id: &IdempotencyId, claim: i64, now: Timestamp) -> Result<(), StoreError> {
    const FREE: &str = "DELETE FROM idempotency
                        WHERE id = $1 AND claim = $2 AND state = 'in_flight' AND changed = $3";
    const END_LEASE: &str = "UPDATE idempotency SET leased_until_us = $3
                             WHERE id = $1 AND claim = $2 AND state = 'in_flight'";
    if tx.q(FREE).bind(id.as_str()).bind(claim).bind(false).exec().await? == 0 {
        tx.q(END_LEASE).bind(id.as_str()).bind(claim).bind(now.as_micros()).exec().await?;
    }
    Ok(())
}

/// Whether the time of any request is over. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp) -> Result<bool, StoreError> {
    // Served by `idempotency_expired`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM idempotency WHERE expires_at_us <= $1)";
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(is_due == Some(true))
}

/// Removes requests whose time is over, the oldest first, at most `limit`; gives how many.
pub async fn purge(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM idempotency WHERE id IN (
                           SELECT id FROM idempotency WHERE expires_at_us <= $1
                           ORDER BY expires_at_us, id LIMIT $2)";
    tx.q(SQL).bind(now.as_micros()).bind(limit).exec().await
}
