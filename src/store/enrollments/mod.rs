//! Enrollments: who promotes which program, and in which status over time.
//!
//! Here are the row, its statuses and the reads of both sides. The rest has files of its own: `codes.rs`,
//! `tokens.rs` (invitations by e-mail) and `terms.rs` (sponsors and rates). How the fold reads all of it
//! is in `store/programs/directory.rs`.

pub mod codes;
pub mod terms;
pub mod tokens;

use serde_json::Value;
use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx, expect_one,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{EnrollmentId, OrganizationId, ProgramId},
    program::{Dated, EnrollmentStatus},
    time::Timestamp,
};

/// An enrollment with what holds of it now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EnrollmentDetails {
    /// Id.
    pub id: EnrollmentId,
    /// The program.
    pub program_id: ProgramId,
    /// The affiliate.
    pub organization_id: OrganizationId,
    /// The newest sponsor, in a program with several levels.
    pub parent_enrollment_id: Option<EnrollmentId>,
    /// The newest rate of its own; none where the program's terms hold.
    pub commission_override: Option<Value>,
    /// The newest referral code that is live, or the newest of all; as it was given.
    pub code: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The newest status.
    pub status: Dated<EnrollmentStatus>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    program_id: String,
    organization_id: String,
    parent_enrollment_id: Option<String>,
    rate: Option<String>,
    code: String,
    created_at_us: i64,
    status: String,
    status_at_us: i64,
}

impl Row {
    fn read(self) -> Result<EnrollmentDetails, StoreError> {
        let at = At { table: "enrollment", id: &self.id };
        let of = |table| At { table, id: &self.id };
        Ok(EnrollmentDetails {
            id: at.read("id", &self.id)?,
            program_id: at.read("program_id", &self.program_id)?,
            organization_id: at.read("organization_id", &self.organization_id)?,
            parent_enrollment_id: of("enrollment_sponsor")
                .read_opt("parent_enrollment_id", self.parent_enrollment_id.as_deref())?,
            commission_override: of("enrollment_rate").read_opt("rate", self.rate.as_deref())?,
            code: self.code,
            created_at: Timestamp::from_micros(self.created_at_us),
            status: Dated {
                at: Timestamp::from_micros(self.status_at_us),
                value: of("enrollment_status").read("status", &self.status)?,
            },
        })
    }
}

/// Selects [`Row`]s, and further columns before the `FROM`. Every primary key ends in what its subquery
/// orders by, so each newest row is one index search.
macro_rules! select {
    ($further:literal, $rest:literal) => {
        concat!(
            "SELECT enrollment.id, enrollment.program_id, enrollment.organization_id,
                (SELECT sponsor.parent_enrollment_id FROM enrollment_sponsor AS sponsor
                    WHERE sponsor.enrollment_id = enrollment.id
                    ORDER BY sponsor.effective_at_us DESC LIMIT 1) AS parent_enrollment_id,
                (SELECT own.rate FROM enrollment_rate AS own WHERE own.enrollment_id = enrollment.id
                    ORDER BY own.effective_at_us DESC LIMIT 1) AS rate,
                COALESCE((SELECT shown.code FROM code AS shown
                    WHERE shown.enrollment_id = enrollment.id AND shown.kind = 'referral'
                    ORDER BY CASE WHEN shown.valid_to_us IS NULL THEN 0 ELSE 1 END,
                        shown.created_at_us DESC, shown.code_normalised DESC LIMIT 1), '') AS code,
                enrollment.created_at_us, status.status, status.effective_at_us AS status_at_us",
            $further,
            " FROM enrollment
            JOIN enrollment_status AS status
                ON status.enrollment_id = enrollment.id AND status.effective_at_us =
                    (SELECT MAX(effective_at_us) FROM enrollment_status WHERE enrollment_id = enrollment.id) ",
            $rest
        )
    };
}

/// Adds the row of an enrollment; false when the organization is enrolled in the program already. Its
/// status, codes, sponsor and rate are rows of their own.
pub async fn insert(tx: &mut Tx, enrollment: &EnrollmentDetails) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO enrollment (id, program_id, organization_id, created_at_us)
                       VALUES ($1, $2, $3, $4)
                       ON CONFLICT (program_id, organization_id) DO NOTHING";
    let affected = tx
        .q(SQL)
        .bind(enrollment.id.as_str())
        .bind(enrollment.program_id.as_str())
        .bind(enrollment.organization_id.as_str())
        .bind(enrollment.created_at.as_micros())
        .exec()
        .await?;
    Ok(affected == 1)
}

/// Adds a status that holds from an instant at which no other begins.
pub async fn insert_status(
    tx: &mut Tx,
    id: &EnrollmentId,
    status: &Dated<EnrollmentStatus>,
) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO enrollment_status (enrollment_id, effective_at_us, status) VALUES ($1, $2, $3)";
    tx.q(SQL).bind(id.as_str()).bind(status.at.as_micros()).bind(status.value.as_str()).exec().await?;
    Ok(())
}

/// Lets one transaction at a time change an enrollment. False when the program has no such enrollment.
pub async fn lock(tx: &mut Tx, program_id: &ProgramId, id: &EnrollmentId) -> Result<bool, StoreError> {
    // A write that changes nothing; see `programs::lock`.
    const SQL: &str = "UPDATE enrollment SET created_at_us = created_at_us WHERE id = $1 AND program_id = $2";
    Ok(tx.q(SQL).bind(id.as_str()).bind(program_id.as_str()).exec().await? == 1)
}

/// Hands an enrollment to another organization, which has none in the program.
///
/// The caller holds the owner's directory locked: on PostgreSQL this waits for every transaction that
/// refers to the enrollment, and a fold that does so must not be waiting for the caller.
pub async fn hand_over(tx: &mut Tx, id: &EnrollmentId, to: &OrganizationId) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE enrollment SET organization_id = $2 WHERE id = $1";
    expect_one(tx.q(SQL).bind(id.as_str()).bind(to.as_str()).exec().await?)
}

/// One enrollment of a program.
pub async fn find(
    conn: &mut Conn,
    program_id: &ProgramId,
    id: &EnrollmentId,
) -> Result<Option<EnrollmentDetails>, StoreError> {
    const SQL: &str = select!("", "WHERE enrollment.id = $1 AND enrollment.program_id = $2");
    conn.q(SQL).bind(id.as_str()).bind(program_id.as_str()).one().await?.map(Row::read).transpose()
}

/// One enrollment of an affiliate.
pub async fn find_of(
    conn: &mut Conn,
    affiliate: &OrganizationId,
    id: &EnrollmentId,
) -> Result<Option<EnrollmentDetails>, StoreError> {
    const SQL: &str = select!("", "WHERE enrollment.id = $1 AND enrollment.organization_id = $2");
    conn.q(SQL).bind(id.as_str()).bind(affiliate.as_str()).one().await?.map(Row::read).transpose()
}

/// Whether an organization is enrolled in a program, in whatever status.
pub async fn is_enrolled(
    conn: &mut Conn,
    program_id: &ProgramId,
    affiliate: &OrganizationId,
) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM enrollment WHERE program_id = $1 AND organization_id = $2";
    let found: Option<i64> = conn.q(SQL).bind(program_id.as_str()).bind(affiliate.as_str()).scalar().await?;
    Ok(found.unwrap_or_default() > 0)
}

/// The enrollments of a program, newest first.
pub async fn list(
    conn: &mut Conn,
    program_id: &ProgramId,
    before: Option<&EnrollmentId>,
    limit: i64,
) -> Result<Vec<EnrollmentDetails>, StoreError> {
    const SQL: &str = select!(
        "",
        "WHERE enrollment.program_id = $1 AND enrollment.id < $2 ORDER BY enrollment.id DESC LIMIT $3"
    );
    let before = before.map_or(AFTER_EVERY_ID, EnrollmentId::as_str);
    let rows: Vec<Row> = conn.q(SQL).bind(program_id.as_str()).bind(before).bind(limit).all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// An enrollment as its affiliate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The enrollment.
    pub enrollment: EnrollmentDetails,
    /// The name of its program.
    pub program_name: String,
}

#[derive(FromRow)]
struct MembershipRow {
    #[sqlx(flatten)]
    enrollment: Row,
    program_name: String,
}

/// The enrollments of an affiliate, newest first: all of them, or those of one status.
pub async fn list_of(
    conn: &mut Conn,
    affiliate: &OrganizationId,
    status: Option<EnrollmentStatus>,
    before: Option<&EnrollmentId>,
    limit: i64,
) -> Result<Vec<Membership>, StoreError> {
    // Served by `enrollment_by_organization`.
    const SQL: &str = select!(
        ", program.name AS program_name",
        "JOIN program ON program.id = enrollment.program_id
         WHERE enrollment.organization_id = $1 AND enrollment.id < $2
             AND ($3 = '' OR status.status = $3)
         ORDER BY enrollment.id DESC LIMIT $4"
    );
    let rows: Vec<MembershipRow> = conn
        .q(SQL)
        .bind(affiliate.as_str())
        .bind(before.map_or(AFTER_EVERY_ID, EnrollmentId::as_str))
        .bind(status.map_or("", EnrollmentStatus::as_str))
        .bind(limit)
        .all()
        .await?;
    rows.into_iter()
        .map(|row| Ok(Membership { enrollment: row.enrollment.read()?, program_name: row.program_name }))
        .collect()
}
