//! Enrollments: who promotes which program, under which code, in which status over time.

use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{EnrollmentId, OrganizationId, ProgramId},
    program::{Dated, EnrollmentStatus, normalise_code},
    time::Timestamp,
};

/// An enrollment with its newest status and its referral code.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EnrollmentDetails {
    /// Id.
    pub id: EnrollmentId,
    /// The program.
    pub program_id: ProgramId,
    /// The affiliate.
    pub organization_id: OrganizationId,
    /// The sponsor, in a program with several levels.
    pub parent_enrollment_id: Option<EnrollmentId>,
    /// The code that names it, as it was given.
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
    code: String,
    created_at_us: i64,
    status: String,
    status_at_us: i64,
}

impl Row {
    fn read(self) -> Result<EnrollmentDetails, StoreError> {
        let at = At { table: "enrollment", id: &self.id };
        Ok(EnrollmentDetails {
            id: at.read("id", &self.id)?,
            program_id: at.read("program_id", &self.program_id)?,
            organization_id: at.read("organization_id", &self.organization_id)?,
            parent_enrollment_id: at
                .read_opt("parent_enrollment_id", self.parent_enrollment_id.as_deref())?,
            code: self.code,
            created_at: Timestamp::from_micros(self.created_at_us),
            status: Dated {
                at: Timestamp::from_micros(self.status_at_us),
                value: At { table: "enrollment_status", id: &self.id }.read("status", &self.status)?,
            },
        })
    }
}

/// Adds the row of an enrollment; false when the organization is enrolled in the program already.
pub async fn insert(tx: &mut Tx, enrollment: &EnrollmentDetails) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO enrollment (id, program_id, organization_id, parent_enrollment_id,
                                               created_at_us)
                       VALUES ($1, $2, $3, $4, $5)
                       ON CONFLICT (program_id, organization_id) DO NOTHING";
    let affected = tx
        .q(SQL)
        .bind(enrollment.id.as_str())
        .bind(enrollment.program_id.as_str())
        .bind(enrollment.organization_id.as_str())
        .bind(enrollment.parent_enrollment_id.as_ref().map(EnrollmentId::as_str))
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

/// Gives an enrollment its referral code, valid from the beginning of time, so that history that is
/// replayed finds it; false when the owner of the program has that code already.
pub async fn insert_code(
    tx: &mut Tx,
    owner: &OrganizationId,
    id: &EnrollmentId,
    code: &str,
) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO code (organization_id, code_normalised, code, kind, enrollment_id,
                                         valid_from_us, valid_to_us)
                       VALUES ($1, $2, $3, 'referral', $4, 0, NULL)
                       ON CONFLICT (organization_id, code_normalised) DO NOTHING";
    let affected =
        tx.q(SQL).bind(owner.as_str()).bind(normalise_code(code)).bind(code).bind(id.as_str()).exec().await?;
    Ok(affected == 1)
}

/// Lets one transaction at a time change an enrollment. False when the program has no such enrollment.
pub async fn lock(tx: &mut Tx, program_id: &ProgramId, id: &EnrollmentId) -> Result<bool, StoreError> {
    // A write that changes nothing; see `programs::lock`.
    const SQL: &str = "UPDATE enrollment SET created_at_us = created_at_us WHERE id = $1 AND program_id = $2";
    Ok(tx.q(SQL).bind(id.as_str()).bind(program_id.as_str()).exec().await? == 1)
}

/// One enrollment of a program.
pub async fn find(
    conn: &mut Conn,
    program_id: &ProgramId,
    id: &EnrollmentId,
) -> Result<Option<EnrollmentDetails>, StoreError> {
    const SQL: &str = "SELECT enrollment.id, enrollment.program_id, enrollment.organization_id,
            enrollment.parent_enrollment_id, code.code, enrollment.created_at_us,
            status.status, status.effective_at_us AS status_at_us
        FROM enrollment
        JOIN code ON code.enrollment_id = enrollment.id AND code.kind = 'referral'
        JOIN enrollment_status AS status ON status.enrollment_id = enrollment.id AND status.effective_at_us =
            (SELECT MAX(effective_at_us) FROM enrollment_status WHERE enrollment_id = enrollment.id)
        WHERE enrollment.id = $1 AND enrollment.program_id = $2
        ORDER BY code.valid_from_us DESC, code.code_normalised LIMIT 1";
    conn.q(SQL).bind(id.as_str()).bind(program_id.as_str()).one().await?.map(Row::read).transpose()
}

/// The enrollments of a program, newest first.
pub async fn list(
    conn: &mut Conn,
    program_id: &ProgramId,
    before: Option<&EnrollmentId>,
    limit: i64,
) -> Result<Vec<EnrollmentDetails>, StoreError> {
    const SQL: &str = "SELECT enrollment.id, enrollment.program_id, enrollment.organization_id,
            enrollment.parent_enrollment_id, code.code, enrollment.created_at_us,
            status.status, status.effective_at_us AS status_at_us
        FROM enrollment
        JOIN code ON code.enrollment_id = enrollment.id AND code.kind = 'referral'
        JOIN enrollment_status AS status ON status.enrollment_id = enrollment.id AND status.effective_at_us =
            (SELECT MAX(effective_at_us) FROM enrollment_status WHERE enrollment_id = enrollment.id)
        WHERE enrollment.program_id = $1 AND enrollment.id < $2
        ORDER BY enrollment.id DESC LIMIT $3";
    let before = before.map_or(AFTER_EVERY_ID, EnrollmentId::as_str);
    let rows: Vec<Row> = conn.q(SQL).bind(program_id.as_str()).bind(before).bind(limit).all().await?;
    rows.into_iter().map(Row::read).collect()
}
