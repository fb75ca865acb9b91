//! What stops payouts: holds on one enrollment, pauses on all. Receiving and booking know neither.
//!
//! A stop is a row with a beginning and an end, so that it can be read afterwards who stopped what, and
//! why. Whether a stop may be placed or lifted is decided in `app::holds`.

use sqlx::FromRow;

use super::{Conn, StoreError, Tx, row::At};
use crate::domain::{
    ids::{EnrollmentId, HoldId},
    program::words,
    time::Timestamp,
};

words! {
    /// Who stopped an enrollment.
    HoldKind {
        /// A person.
        Operator = "operator",
        /// The program, because what a provider shows contradicts what was asked for.
        Anomaly = "anomaly",
    }
}

words! {
    /// Who stopped everything.
    PauseKind {
        /// A person.
        Operator = "operator",
        /// The program, because the database has gone back in time: the provider may have done more than
        /// it knows of.
        Restored = "restored",
    }
}

/// A stop on one enrollment that is in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hold {
    /// Id.
    pub id: HoldId,
    /// Whose payouts are stopped.
    pub enrollment_id: EnrollmentId,
    /// Who stopped them.
    pub kind: HoldKind,
    /// Why, in a person's words.
    pub reason: String,
    /// The key that placed it.
    pub actor: String,
    /// Since when.
    pub placed_at: Timestamp,
}

/// Places a hold by a person.
pub async fn place(tx: &mut Tx, hold: &Hold) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_hold (id, enrollment_id, kind, reason, actor, placed_at_us)
        VALUES ($1, $2, $3, $4, $5, $6)";
    tx.q(SQL)
        .bind(hold.id.as_str())
        .bind(hold.enrollment_id.as_str())
        .bind(hold.kind.as_str())
        .bind(hold.reason.as_str())
        .bind(hold.actor.as_str())
        .bind(hold.placed_at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// The stops on an enrollment that are in force, oldest first.
pub async fn list_open(conn: &mut Conn, enrollment: &EnrollmentId) -> Result<Vec<Hold>, StoreError> {
    const SQL: &str = "SELECT id, kind, reason, actor, placed_at_us FROM payout_hold
        WHERE enrollment_id = $1 AND lifted_at_us IS NULL ORDER BY placed_at_us, id";
    let rows: Vec<(String, String, String, String, i64)> =
        conn.q(SQL).bind(enrollment.as_str()).all().await?;
    rows.into_iter()
        .map(|(id, kind, reason, actor, placed_at_us)| {
            let at = At { table: "payout_hold", id: &id };
            Ok(Hold {
                id: at.read("id", &id)?,
                enrollment_id: enrollment.clone(),
                kind: HoldKind::parse(&kind).ok_or_else(|| at.corrupt("kind"))?,
                reason,
                actor,
                placed_at: Timestamp::from_micros(placed_at_us),
            })
        })
        .collect()
}

/// Lifts the stops on an enrollment that are in force.
pub async fn lift(
    tx: &mut Tx,
    enrollment: &EnrollmentId,
    by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE payout_hold SET lifted_at_us = $3, lifted_by = $2
        WHERE enrollment_id = $1 AND lifted_at_us IS NULL";
    tx.q(SQL).bind(enrollment.as_str()).bind(by).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// A stop on all payouts that is in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pause {
    /// Id.
    pub id: HoldId,
    /// Who stopped them.
    pub kind: PauseKind,
    /// Why, in a person's words.
    pub reason: String,
    /// The key that paused, or `remit`.
    pub actor: String,
    /// Since when.
    pub paused_at: Timestamp,
}

#[derive(FromRow)]
struct PauseRow {
    id: String,
    kind: String,
    reason: String,
    actor: String,
    paused_at_us: i64,
}

/// Whether all payouts are stopped.
pub async fn is_paused(conn: &mut Conn) -> Result<bool, StoreError> {
    // Served by `payout_pause_open`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM payout_pause WHERE resumed_at_us IS NULL)";
    let is_paused: Option<bool> = conn.q(SQL).scalar().await?;
    Ok(is_paused == Some(true))
}

/// The stops on all payouts that are in force, oldest first.
pub async fn list_pauses(conn: &mut Conn) -> Result<Vec<Pause>, StoreError> {
    const SQL: &str = "SELECT id, kind, reason, actor, paused_at_us FROM payout_pause
        WHERE resumed_at_us IS NULL ORDER BY paused_at_us, id";
    let rows: Vec<PauseRow> = conn.q(SQL).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "payout_pause", id: &row.id };
            Ok(Pause {
                id: at.read("id", &row.id)?,
                kind: PauseKind::parse(&row.kind).ok_or_else(|| at.corrupt("kind"))?,
                reason: row.reason,
                actor: row.actor,
                paused_at: Timestamp::from_micros(row.paused_at_us),
            })
        })
        .collect()
}

/// Stops all payouts.
pub async fn pause(tx: &mut Tx, pause: &Pause) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_pause (id, kind, reason, actor, paused_at_us)
        VALUES ($1, $2, $3, $4, $5)";
    tx.q(SQL)
        .bind(pause.id.as_str())
        .bind(pause.kind.as_str())
        .bind(pause.reason.as_str())
        .bind(pause.actor.as_str())
        .bind(pause.paused_at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// Ends every stop on all payouts.
pub async fn resume(tx: &mut Tx, by: &str, note: Option<&str>, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE payout_pause SET resumed_at_us = $3, resumed_by = $1, note = $2
        WHERE resumed_at_us IS NULL";
    tx.q(SQL).bind(by).bind(note).bind(now.as_micros()).exec().await?;
    Ok(())
}
