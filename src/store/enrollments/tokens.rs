//! The tokens with which people who were invited by e-mail take their enrollment over. Only hashes are
//! here; how a token looks is `app::enrollments::invites`.

use crate::{
    domain::{
        ids::{EnrollmentId, ProgramId},
        time::Timestamp,
    },
    store::{Conn, StoreError, Tx, expect_one, row::At},
};

/// Gives an enrollment its token, in place of the one it had. False when that one was used.
pub async fn put(tx: &mut Tx, id: &EnrollmentId, hash: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO invite_token (enrollment_id, token_hash, created_at_us, used_at_us)
                       VALUES ($1, $2, $3, NULL)
                       ON CONFLICT (enrollment_id) DO UPDATE
                       SET token_hash = excluded.token_hash, created_at_us = excluded.created_at_us
                       WHERE invite_token.used_at_us IS NULL";
    Ok(tx.q(SQL).bind(id.as_str()).bind(hash).bind(now.as_micros()).exec().await? == 1)
}

/// What a token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opens {
    /// The enrollment.
    pub enrollment_id: EnrollmentId,
    /// Its program.
    pub program_id: ProgramId,
    /// Whether it was taken over with this token.
    pub is_used: bool,
}

/// What the token with this hash opens.
pub async fn find(conn: &mut Conn, hash: &[u8]) -> Result<Option<Opens>, StoreError> {
    const SQL: &str = "SELECT enrollment.id, enrollment.program_id, invite_token.used_at_us
                       FROM invite_token JOIN enrollment ON enrollment.id = invite_token.enrollment_id
                       WHERE invite_token.token_hash = $1";
    let row: Option<(String, String, Option<i64>)> = conn.q(SQL).bind(hash).one().await?;
    row.map(|(id, program_id, used_at_us)| {
        let at = At { table: "enrollment", id: &id };
        Ok(Opens {
            enrollment_id: at.read("id", &id)?,
            program_id: at.read("program_id", &program_id)?,
            is_used: used_at_us.is_some(),
        })
    })
    .transpose()
}

/// Whether an enrollment has a token that nobody has used.
pub async fn is_waiting(conn: &mut Conn, id: &EnrollmentId) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM invite_token WHERE enrollment_id = $1 AND used_at_us IS NULL";
    let waiting: Option<i64> = conn.q(SQL).bind(id.as_str()).scalar().await?;
    Ok(waiting.unwrap_or_default() > 0)
}

/// Ends a token that was not used before.
pub async fn mark_used(tx: &mut Tx, id: &EnrollmentId, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str =
        "UPDATE invite_token SET used_at_us = $2 WHERE enrollment_id = $1 AND used_at_us IS NULL";
    expect_one(tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await?)
}
