//! The one row that tells how old this database is: an id that a copy shares, and a beat that only grows.
//!
//! What follows from a beat that is too low is decided in `app::instance`; here it is read and written.

use sqlx::FromRow;

use super::{Conn, Sql, StoreError, Tx, expect_one, findings, row::At};
use crate::{
    domain::{
        ids::{HoldId, InstanceId},
        time::Timestamp,
    },
    for_update,
};

/// The finding about a database that has gone back in time; its object is the instance.
pub const RESTORED: &str = "database_restored";

/// The database's own account of its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Made at the first start; a copy or a backup has the same.
    pub id: InstanceId,
    /// Grows every minute that a scheduler runs, and never falls.
    pub beat: i64,
    /// When it grew last.
    pub beat_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    instance_id: String,
    beat: i64,
    beat_at_us: i64,
}

impl Row {
    fn read(self) -> Result<Instance, StoreError> {
        let at = At { table: "instance", id: "1" };
        Ok(Instance {
            id: at.read("instance_id", &self.instance_id)?,
            beat: self.beat,
            beat_at: Timestamp::from_micros(self.beat_at_us),
        })
    }
}

/// The row, as it is. `None` before the first start.
pub async fn find(conn: &mut Conn) -> Result<Option<Instance>, StoreError> {
    const SQL: &str = "SELECT instance_id, beat, beat_at_us FROM instance WHERE id = 1";
    let row: Option<Row> = conn.q(SQL).one().await?;
    row.map(Row::read).transpose()
}

/// The row, locked until the transaction ends, so that of several nodes one looks at a time.
pub async fn lock(tx: &mut Tx) -> Result<Option<Instance>, StoreError> {
    const SQL: Sql = for_update!("SELECT instance_id, beat, beat_at_us FROM instance WHERE id = 1");
    let row: Option<Row> = tx.q(SQL).one().await?;
    row.map(Row::read).transpose()
}

/// Makes the row. Nothing happens when another node has made it.
pub async fn create(tx: &mut Tx, id: &InstanceId, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO instance (id, instance_id, beat, beat_at_us, look_up_before_us)
        VALUES (1, $1, 0, $2, 0) ON CONFLICT DO NOTHING";
    tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Raises the beat. The caller holds the row locked.
pub async fn set_beat(tx: &mut Tx, beat: i64, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE instance SET beat = $1, beat_at_us = $2 WHERE id = 1 AND beat < $1";
    expect_one(tx.q(SQL).bind(beat).bind(now.as_micros()).exec().await?)
}

/// Whether the database knows of money that was to be moved.
pub async fn has_intents(conn: &mut Conn) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(1 AS BIGINT) FROM intent LIMIT 1";
    let found: Option<i64> = conn.q(SQL).scalar().await?;
    Ok(found.is_some())
}

/// Stops all payouts because the database may be older than what the provider has done. Nothing happens
/// while such a stop is in force.
pub async fn pause(tx: &mut Tx, id: &HoldId, reason: &str, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_pause (id, kind, reason, actor, paused_at_us)
        SELECT $1, 'restored', $2, 'remit', $3
        WHERE NOT EXISTS (SELECT 1 FROM payout_pause WHERE kind = 'restored' AND resumed_at_us IS NULL)";
    tx.q(SQL).bind(id.as_str()).bind(reason).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Whether payouts are stopped because of that, and why.
pub async fn find_pause(conn: &mut Conn) -> Result<Option<String>, StoreError> {
    const SQL: &str = "SELECT reason FROM payout_pause
        WHERE kind = 'restored' AND resumed_at_us IS NULL ORDER BY id LIMIT 1";
    conn.q(SQL).scalar().await
}

/// Somebody has seen that the database was restored and wants it to pay again: every intent that it knows,
/// and every one that it makes again soon, is looked up at the provider before it is sent. Ending the
/// stop itself is the caller's.
pub async fn confirm_restored(tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE instance SET look_up_before_us = $1 WHERE id = 1 RETURNING instance_id";
    let id: Option<String> = tx.q(SQL).bind(now.as_micros()).scalar().await?;
    let Some(id) = id else { return Err(StoreError::RowsAffected { expected: 1, actual: 0 }) };
    findings::resolve_others(tx, &[id.as_str()], &[RESTORED], &[], now).await
}
