//! Referral and coupon codes: unique per owner of programs, ASCII case ignored, and never given to
//! another enrollment, not even after their end: old sales still name them.

use serde::Serialize;
use sqlx::FromRow;

use crate::{
    domain::{
        ids::{EnrollmentId, OrganizationId},
        program::{normalise_code, words},
        time::Timestamp,
    },
    store::{
        Conn, StoreError, Tx,
        row::{AFTER_EVERY_ID, At, json_list},
    },
};

words! {
    /// Who writes a code down.
    CodeKind {
        /// The affiliate, in links.
        Referral = "referral",
        /// The buyer, at the provider's checkout: the name of a promotion code.
        Coupon = "coupon",
    }
}

/// A code of an enrollment.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct IssuedCode {
    /// Whom it names.
    pub enrollment_id: EnrollmentId,
    /// As it was given.
    pub code: String,
    /// Who writes it down.
    pub kind: CodeKind,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it no longer counts; sales paid before still do.
    pub retired_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    enrollment_id: String,
    code: String,
    kind: String,
    created_at_us: i64,
    valid_to_us: Option<i64>,
}

impl Row {
    fn read(self) -> Result<IssuedCode, StoreError> {
        let at = At { table: "code", id: &self.code };
        Ok(IssuedCode {
            enrollment_id: at.read("enrollment_id", &self.enrollment_id)?,
            kind: at.read("kind", &self.kind)?,
            created_at: Timestamp::from_micros(self.created_at_us),
            retired_at: self.valid_to_us.map(Timestamp::from_micros),
            code: self.code,
        })
    }
}

/// Adds a code, valid from the beginning of time, so that history that is replayed finds it; false when
/// the owner of the program has that code already.
pub async fn insert(tx: &mut Tx, owner: &OrganizationId, code: &IssuedCode) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO code (organization_id, code_normalised, code, kind, enrollment_id,
                                         created_at_us, valid_from_us, valid_to_us)
                       VALUES ($1, $2, $3, $4, $5, $6, 0, $7)
                       ON CONFLICT (organization_id, code_normalised) DO NOTHING";
    let affected = tx
        .q(SQL)
        .bind(owner.as_str())
        .bind(normalise_code(&code.code))
        .bind(code.code.as_str())
        .bind(code.kind.as_str())
        .bind(code.enrollment_id.as_str())
        .bind(code.created_at.as_micros())
        .bind(code.retired_at.map(Timestamp::as_micros))
        .exec()
        .await?;
    Ok(affected == 1)
}

/// One code of an enrollment, in any case.
pub async fn find(conn: &mut Conn, id: &EnrollmentId, code: &str) -> Result<Option<IssuedCode>, StoreError> {
    const SQL: &str = "SELECT enrollment_id, code, kind, created_at_us, valid_to_us
                       FROM code WHERE enrollment_id = $1 AND code_normalised = $2";
    conn.q(SQL).bind(id.as_str()).bind(normalise_code(code)).one().await?.map(Row::read).transpose()
}

/// What codes are listed by: when they were made in microseconds, then the code in lower case.
pub type CodeKey = (i64, String);

/// The codes of an enrollment, newest first, the retired ones too.
pub async fn list(
    conn: &mut Conn,
    id: &EnrollmentId,
    before: Option<&CodeKey>,
    limit: i64,
) -> Result<Vec<IssuedCode>, StoreError> {
    // Served by `code_by_enrollment`.
    const SQL: &str = "SELECT enrollment_id, code, kind, created_at_us, valid_to_us FROM code
                       WHERE enrollment_id = $1 AND (created_at_us, code_normalised) < ($2, $3)
                       ORDER BY created_at_us DESC, code_normalised DESC LIMIT $4";
    let (at, code) = before.map_or((i64::MAX, AFTER_EVERY_ID), |(at, code)| (*at, code.as_str()));
    let rows: Vec<Row> = conn.q(SQL).bind(id.as_str()).bind(at).bind(code).bind(limit).all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// The live codes of these enrollments, newest first within each.
pub async fn list_live(conn: &mut Conn, ids: &[&EnrollmentId]) -> Result<Vec<IssuedCode>, StoreError> {
    const SQL: &str = "SELECT code.enrollment_id, code.code, code.kind, code.created_at_us, code.valid_to_us
                       FROM json_each($1) AS wanted
                       JOIN code ON code.enrollment_id = wanted.value->>'id' AND code.valid_to_us IS NULL
                       ORDER BY code.enrollment_id, code.created_at_us DESC, code.code_normalised DESC";
    #[derive(Serialize)]
    struct Wanted<'a> {
        id: &'a EnrollmentId,
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = json_list(ids.iter().map(|id| Wanted { id }));
    let rows: Vec<Row> = conn.q(SQL).bind(wanted).all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// How many live codes an enrollment has.
pub async fn count_live(conn: &mut Conn, id: &EnrollmentId) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM code WHERE enrollment_id = $1 AND valid_to_us IS NULL";
    Ok(conn.q(SQL).bind(id.as_str()).scalar().await?.unwrap_or_default())
}

/// How many referral codes an enrollment has got after `since`.
pub async fn count_referrals_since(
    conn: &mut Conn,
    id: &EnrollmentId,
    since: Timestamp,
) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM code
        WHERE enrollment_id = $1 AND kind = 'referral' AND created_at_us > $2";
    Ok(conn.q(SQL).bind(id.as_str()).bind(since.as_micros()).scalar().await?.unwrap_or_default())
}

/// Ends a code. One that has ended stays as it is.
pub async fn mark_retired(
    tx: &mut Tx,
    id: &EnrollmentId,
    code: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE code SET valid_to_us = $3
                       WHERE enrollment_id = $1 AND code_normalised = $2 AND valid_to_us IS NULL";
    tx.q(SQL).bind(id.as_str()).bind(normalise_code(code)).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Ends every live referral code of an enrollment; coupons go on.
pub async fn mark_referrals_retired(
    tx: &mut Tx,
    id: &EnrollmentId,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE code SET valid_to_us = $2
                       WHERE enrollment_id = $1 AND kind = 'referral' AND valid_to_us IS NULL";
    tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await?;
    Ok(())
}
