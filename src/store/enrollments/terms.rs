//! What differs for one enrollment: its sponsor and its rate, both rows with a beginning.

use serde_json::Value;

use crate::{
    domain::{
        ids::{EnrollmentId, ProgramId},
        program::Dated,
        time::Timestamp,
    },
    store::{Conn, StoreError, Tx, row::At},
};

/// Adds a sponsor, or the end of having one, that holds from an instant at which no other begins.
pub async fn insert_sponsor(
    tx: &mut Tx,
    id: &EnrollmentId,
    sponsor: &Dated<Option<EnrollmentId>>,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO enrollment_sponsor (enrollment_id, effective_at_us, parent_enrollment_id)
                       VALUES ($1, $2, $3)";
    tx.q(SQL)
        .bind(id.as_str())
        .bind(sponsor.at.as_micros())
        .bind(sponsor.value.as_ref().map(EnrollmentId::as_str))
        .exec()
        .await?;
    Ok(())
}

/// When the last change of a sponsor in this program begins.
pub async fn last_sponsor_change(
    conn: &mut Conn,
    program_id: &ProgramId,
) -> Result<Option<Timestamp>, StoreError> {
    const SQL: &str = "SELECT MAX(sponsor.effective_at_us)
                       FROM enrollment
                       JOIN enrollment_sponsor AS sponsor ON sponsor.enrollment_id = enrollment.id
                       WHERE enrollment.program_id = $1";
    let last: Option<Option<i64>> = conn.q(SQL).bind(program_id.as_str()).scalar().await?;
    Ok(last.flatten().map(Timestamp::from_micros))
}

/// The newest sponsor of an enrollment, the sponsor of that one, and so on, `most` at most.
pub async fn uplines(conn: &mut Conn, id: &EnrollmentId, most: i64) -> Result<Vec<EnrollmentId>, StoreError> {
    const SQL: &str = "WITH RECURSIVE upline (id, level) AS (
            SELECT enrollment.id, 0 FROM enrollment WHERE enrollment.id = $1
            UNION ALL
            SELECT sponsor.parent_enrollment_id, upline.level + 1
            FROM upline
            JOIN enrollment_sponsor AS sponsor ON sponsor.enrollment_id = upline.id
                AND sponsor.effective_at_us = (SELECT MAX(newest.effective_at_us)
                    FROM enrollment_sponsor AS newest WHERE newest.enrollment_id = upline.id)
            WHERE sponsor.parent_enrollment_id IS NOT NULL AND upline.level < $2)
        SELECT id FROM upline WHERE level > 0 ORDER BY level";
    let ids: Vec<String> = conn.q(SQL).bind(id.as_str()).bind(most).scalars().await?;
    let at = At { table: "enrollment_sponsor", id: id.as_str() };
    ids.iter().map(|upline| at.read("parent_enrollment_id", upline)).collect()
}

/// How many levels of enrollments are below this one, `most` at most.
pub async fn levels_below(conn: &mut Conn, id: &EnrollmentId, most: i64) -> Result<i64, StoreError> {
    // Served by `enrollment_sponsor_by_parent`.
    const SQL: &str = "WITH RECURSIVE below (id, level) AS (
            SELECT enrollment.id, 0 FROM enrollment WHERE enrollment.id = $1
            UNION ALL
            SELECT sponsor.enrollment_id, below.level + 1
            FROM below
            JOIN enrollment_sponsor AS sponsor ON sponsor.parent_enrollment_id = below.id
                AND sponsor.effective_at_us = (SELECT MAX(newest.effective_at_us)
                    FROM enrollment_sponsor AS newest WHERE newest.enrollment_id = sponsor.enrollment_id)
            WHERE below.level < $2)
        SELECT CAST(MAX(level) AS BIGINT) FROM below";
    let levels: Option<Option<i64>> = conn.q(SQL).bind(id.as_str()).bind(most).scalar().await?;
    Ok(levels.flatten().unwrap_or_default())
}

/// Adds a rate, or the end of having one, that holds from an instant at which no other begins.
pub async fn insert_rate(
    tx: &mut Tx,
    id: &EnrollmentId,
    rate: &Dated<Option<Value>>,
) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO enrollment_rate (enrollment_id, effective_at_us, rate) VALUES ($1, $2, $3)";
    let json = rate.value.as_ref().map(Value::to_string);
    tx.q(SQL).bind(id.as_str()).bind(rate.at.as_micros()).bind(json).exec().await?;
    Ok(())
}

/// When the last rate of an enrollment begins.
pub async fn last_rate_change(conn: &mut Conn, id: &EnrollmentId) -> Result<Option<Timestamp>, StoreError> {
    const SQL: &str = "SELECT MAX(effective_at_us) FROM enrollment_rate WHERE enrollment_id = $1";
    let last: Option<Option<i64>> = conn.q(SQL).bind(id.as_str()).scalar().await?;
    Ok(last.flatten().map(Timestamp::from_micros))
}
