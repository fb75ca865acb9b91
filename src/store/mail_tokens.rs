//! Tokens of invitations on their way into a mail: sealed, and kept no longer than they are needed. How they
//! are sealed is known to `app::notices`; what they open, by their hashes, to `enrollments::tokens`.

use super::{Conn, StoreError, Tx, row::At};
use crate::domain::{
    ids::{EnrollmentId, MailId, NoticeId},
    notice::Topic,
    program::EnrollmentStatus,
    time::Timestamp,
};

/// A notice that brings whoever reads an enrollment's address the token that opens it.
#[derive(Clone, Copy, Debug)]
pub struct NewInvitation<'a> {
    /// The notice; nothing names the occurrence but the token, so this is random.
    pub id: &'a NoticeId,
    /// What the token opens.
    pub enrollment_id: &'a EnrollmentId,
    /// Where the enrollment stands.
    pub status: EnrollmentStatus,
    /// The token, sealed for this notice.
    pub token_sealed: &'a [u8],
}

/// Stores the notice, where there is an address. [`withdraw`] what is there of the enrollment before.
pub async fn insert(tx: &mut Tx, new: &NewInvitation<'_>, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO notice (id, topic, enrollment_id, object_id, word, due_at_us, created_at_us,
            token_sealed)
        SELECT $1, $2, e.id, e.id, $4, $5, $5, $6
        FROM enrollment e JOIN organization o ON o.id = e.organization_id
        WHERE e.id = $3 AND o.email IS NOT NULL";
    tx.q(SQL)
        .bind(new.id.as_str())
        .bind(Topic::Enrollment.as_str())
        .bind(new.enrollment_id.as_str())
        .bind(new.status.as_str())
        .bind(now.as_micros())
        .bind(new.token_sealed)
        .exec()
        .await?;
    Ok(())
}

/// Drops the tokens of an enrollment that wait for their mail, because they open nothing any more. Their
/// notices tell nothing then.
pub async fn withdraw(tx: &mut Tx, id: &EnrollmentId) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE notice SET token_sealed = NULL, word = 'withdrawn'
        WHERE enrollment_id = $1 AND token_sealed IS NOT NULL";
    tx.q(SQL).bind(id.as_str()).exec().await?;
    Ok(())
}

/// Drops the token of a mail that is over.
pub async fn forget(tx: &mut Tx, mail: &MailId) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE notice SET token_sealed = NULL WHERE mail_id = $1 AND token_sealed IS NOT NULL";
    tx.q(SQL).bind(mail.as_str()).exec().await?;
    Ok(())
}

/// The token that a mail brings, sealed for the notice beside it. None where it brings none.
pub async fn find(conn: &mut Conn, mail: &MailId) -> Result<Option<(NoticeId, Vec<u8>)>, StoreError> {
    const SQL: &str = "SELECT id, token_sealed FROM notice WHERE mail_id = $1 AND token_sealed IS NOT NULL";
    let row: Option<(String, Vec<u8>)> = conn.q(SQL).bind(mail.as_str()).one().await?;
    row.map(|(id, sealed)| Ok((At { table: "notice", id: &id }.read("id", &id)?, sealed))).transpose()
}
