//! What people did to an intent: how they ended a doubt about it, and that they asked for it to be tried.
//!
//! Whether they may is decided in `app::jobs`. Rows are only added: they are the evidence.

use sqlx::FromRow;

use super::{Conn, StoreError, Tx};
use crate::domain::{
    ids::{IntentId, ResolutionId},
    program::words,
    time::Timestamp,
};

words! {
    /// What people said or asked for.
    Verdict {
        /// The provider did it: this object.
        Executed = "executed",
        /// The provider never did it under this generation's key, nor any before.
        NotExecuted = "not_executed",
        /// Nothing is said; it is to be tried, or looked up, now.
        Retry = "retry",
    }
}

/// A resolution to be written down.
#[derive(Clone, Debug)]
pub struct NewResolution<'a> {
    /// Id.
    pub id: ResolutionId,
    /// What it is about.
    pub intent_id: &'a IntentId,
    /// The generation that it is about.
    pub generation: i64,
    /// What was said.
    pub verdict: Verdict,
    /// The provider's object, of one that was executed.
    pub object_id: Option<&'a str>,
    /// How the people know.
    pub evidence: &'a str,
    /// Who says so.
    pub actor: &'a str,
    /// Who says so too.
    pub approver: Option<&'a str>,
}

/// Writes a resolution down.
pub async fn insert(tx: &mut Tx, new: &NewResolution<'_>, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO resolution (id, intent_id, generation, verdict, object_id, evidence, actor,
            approver, created_at_us)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    tx.q(SQL)
        .bind(new.id.as_str())
        .bind(new.intent_id.as_str())
        .bind(new.generation)
        .bind(new.verdict.as_str())
        .bind(new.object_id)
        .bind(new.evidence)
        .bind(new.actor)
        .bind(new.approver)
        .bind(now.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// A resolution as it is shown.
#[derive(Clone, Debug, FromRow)]
pub struct ResolutionRow {
    /// Id.
    pub id: String,
    /// The generation that it is about.
    pub generation: i64,
    /// What was said.
    pub verdict: String,
    /// The provider's object.
    pub object_id: Option<String>,
    /// How the people know.
    pub evidence: String,
    /// Who says so.
    pub actor: String,
    /// Who says so too.
    pub approver: Option<String>,
    /// When, microseconds.
    pub created_at_us: i64,
}

/// The resolutions of an intent, in order.
pub async fn list(conn: &mut Conn, intent: &IntentId) -> Result<Vec<ResolutionRow>, StoreError> {
    const SQL: &str = "SELECT id, generation, verdict, object_id, evidence, actor, approver, created_at_us
        FROM resolution WHERE intent_id = $1 ORDER BY created_at_us, id";
    conn.q(SQL).bind(intent.as_str()).all().await
}

/// Makes the job of an intent due. `false` when somebody works on it, or it is over: then nothing changed.
pub async fn hasten(tx: &mut Tx, intent: &IntentId, now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE job SET next_attempt_at_us = $2
        WHERE intent_id = $1 AND state IN ('available', 'retryable', 'parked', 'unknown')";
    Ok(tx.q(SQL).bind(intent.as_str()).bind(now.as_micros()).exec().await? == 1)
}

/// Whether a call that may move money was written down after `since` and has no answer: whoever makes it
/// may still be waiting.
pub async fn is_send_under_way(
    conn: &mut Conn,
    intent: &IntentId,
    since: Timestamp,
) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(1 AS BIGINT) FROM attempt
        WHERE intent_id = $1 AND kind = 'send' AND answered_at_us IS NULL AND sent_at_us > $2 LIMIT 1";
    let found: Option<i64> = conn.q(SQL).bind(intent.as_str()).bind(since.as_micros()).scalar().await?;
    Ok(found.is_some())
}
