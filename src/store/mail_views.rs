//! Mails as an operator looks at them, and another chance for those that were given up.

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{At, json_list},
};
use crate::domain::{
    ids::{EnrollmentId, MailId},
    job::JobState,
    notice::Topic,
    time::Timestamp,
};

/// Which mails are listed.
#[derive(Clone, Debug, Default)]
pub struct MailFilter {
    /// Only mails in these states; all when empty.
    pub states: Vec<JobState>,
    /// Only mails after this one in the list.
    pub after: Option<MailId>,
}

/// A mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailRow {
    /// Id.
    pub id: MailId,
    /// What it is about.
    pub topic: Topic,
    /// Where it stands.
    pub state: JobState,
    /// Why it is in its state.
    pub reason: Option<String>,
    /// Who is told.
    pub enrollment_id: EnrollmentId,
    /// The address it would go to now; none once it was erased. Personal data.
    pub email: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is due; of a running one when its lease ends; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    id: String,
    topic: String,
    state: String,
    reason: Option<String>,
    enrollment_id: String,
    email: Option<String>,
    attempts: i64,
    next_attempt_at_us: Option<i64>,
    created_at_us: i64,
}

impl Row {
    fn read(self) -> Result<MailRow, StoreError> {
        let at = At { table: "mail", id: &self.id };
        Ok(MailRow {
            id: at.read("id", &self.id)?,
            topic: at.read("topic", &self.topic)?,
            state: at.read("state", &self.state)?,
            reason: self.reason,
            enrollment_id: at.read("enrollment_id", &self.enrollment_id)?,
            email: self.email,
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at_us.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(self.created_at_us),
        })
    }
}

/// Mails, newest first.
pub async fn list(conn: &mut Conn, filter: &MailFilter, limit: i64) -> Result<Vec<MailRow>, StoreError> {
    // Two texts, because each has an index that serves it: `mail_by_time` the one, `mail_by_state` the
    // other, which usually looks for the few that wait among all that were sent.
    const ALL: &str = "SELECT m.id, m.topic, m.state, m.reason, m.enrollment_id, o.email, m.attempts,
            m.next_attempt_at_us, m.created_at_us
        FROM mail m JOIN enrollment e ON e.id = m.enrollment_id JOIN organization o ON o.id = e.organization_id
        WHERE ($1 IS NULL OR (m.created_at_us, m.id) < (SELECT created_at_us, id FROM mail WHERE id = $1))
        ORDER BY m.created_at_us DESC, m.id DESC LIMIT $2";
    const BY_STATE: &str = "SELECT m.id, m.topic, m.state, m.reason, m.enrollment_id, o.email, m.attempts,
            m.next_attempt_at_us, m.created_at_us
        FROM mail m JOIN enrollment e ON e.id = m.enrollment_id JOIN organization o ON o.id = e.organization_id
        WHERE m.state IN (SELECT value->>'state' FROM json_each($3))
            AND ($1 IS NULL OR (m.created_at_us, m.id) < (SELECT created_at_us, id FROM mail WHERE id = $1))
        ORDER BY m.created_at_us DESC, m.id DESC LIMIT $2";
    let by_state = !filter.states.is_empty();
    let query = conn
        .q(if by_state { BY_STATE } else { ALL })
        .bind(filter.after.as_ref().map(MailId::as_str))
        .bind(limit);
    let states = filter.states.iter().map(|state| json!({ "state": state.as_str() }));
    let query = if by_state { query.bind(json_list(states)) } else { query };
    let rows: Vec<Row> = query.all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// One mail.
pub async fn find(conn: &mut Conn, id: &MailId) -> Result<Option<MailRow>, StoreError> {
    const SQL: &str = "SELECT m.id, m.topic, m.state, m.reason, m.enrollment_id, o.email, m.attempts,
            m.next_attempt_at_us, m.created_at_us
        FROM mail m JOIN enrollment e ON e.id = m.enrollment_id JOIN organization o ON o.id = e.organization_id
        WHERE m.id = $1";
    let row: Option<Row> = conn.q(SQL).bind(id.as_str()).one().await?;
    row.map(Row::read).transpose()
}

/// Up to `limit` mails that were given up at or before `until`.
pub async fn list_given_up(
    conn: &mut Conn,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<MailRow>, StoreError> {
    // Served by `mail_by_state`.
    const SQL: &str = "SELECT m.id, m.topic, m.state, m.reason, m.enrollment_id, o.email, m.attempts,
            m.next_attempt_at_us, m.created_at_us
        FROM mail m JOIN enrollment e ON e.id = m.enrollment_id JOIN organization o ON o.id = e.organization_id
        WHERE m.state = 'parked' AND m.finished_at_us <= $1 ORDER BY m.id LIMIT $2";
    let rows: Vec<Row> = conn.q(SQL).bind(until.as_micros()).bind(limit).all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// Makes a mail that was given up due, for as long as a new one. False when it was not given up.
pub async fn retry(tx: &mut Tx, id: &MailId, now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE mail SET state = 'available', reason = NULL, attempts = 0,
            next_attempt_at_us = $2, retried_at_us = $2, finished_at_us = NULL
        WHERE id = $1 AND state = 'parked'";
    Ok(tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await? == 1)
}
