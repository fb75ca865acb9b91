//! Settlement runs: which there are, how far each has come, and which the schedules still owe.
//!
//! What a run reads is in `open.rs`, what it writes in `write.rs`, and how payouts are shown in `views.rs`.
//! Nothing here decides who is paid.

mod open;
mod views;
mod write;

use sqlx::FromRow;

pub use self::{
    open::{
        Batch, OpenLot, Part, Payee, Reach, list_lots, list_payees, list_sales, lock_enrollments, next_batch,
    },
    views::{
        ItemRow, PaidLine, PayoutRow, SkippedLine, find_payout, list_items, list_payouts, payouts_of_run,
        skipped_of_run,
    },
    write::{NewPayout, insert_payouts, insert_skips},
};
use super::{Conn, Sql, StoreError, Tx, expect_one, row::At};
use crate::{
    domain::{
        ids::{EnrollmentId, ProgramId, RunId},
        money::Currency,
        payout::PayoutSchedule,
        time::Timestamp,
    },
    for_update,
};

/// What began a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Began {
    /// The program's schedule: one currency of one period.
    Scheduled {
        /// The currency.
        currency: Currency,
        /// The end of the period, exclusive.
        period_end: Timestamp,
    },
    /// A person: every currency.
    Requested {
        /// The caller's own key of the request, or a random one.
        key: String,
    },
}

/// One settlement of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Derived from what began it, the same in a rebuilt database.
    pub id: RunId,
    /// Whose affiliates are paid.
    pub program_id: ProgramId,
    /// What began it.
    pub began: Began,
    /// Lots made later are left out, unless they take something back.
    pub as_of: Timestamp,
    /// The key that asked, or `schedule`.
    pub actor: String,
    /// Enrollments up to this id had their turn; none yet at the start.
    pub last_enrollment: Option<EnrollmentId>,
    /// When it began.
    pub created_at: Timestamp,
    /// When the last enrollment had its turn.
    pub completed_at: Option<Timestamp>,
}

impl Run {
    /// The one currency that it settles; none: all.
    #[must_use]
    pub const fn currency(&self) -> Option<Currency> {
        match self.began {
            Began::Scheduled { currency, .. } => Some(currency),
            Began::Requested { .. } => None,
        }
    }
}

#[derive(FromRow)]
struct Row {
    id: String,
    program_id: String,
    currency: Option<String>,
    period_end_us: Option<i64>,
    request_key: Option<String>,
    as_of_us: i64,
    actor: String,
    last_enrollment: String,
    created_at_us: i64,
    completed_at_us: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Run, StoreError> {
        let at = At { table: "payout_run", id: &self.id };
        let began = match (self.currency.as_deref(), self.period_end_us, self.request_key) {
            (Some(currency), Some(period_end), None) => Began::Scheduled {
                currency: at.read("currency", currency)?,
                period_end: Timestamp::from_micros(period_end),
            },
            (None, None, Some(key)) => Began::Requested { key },
            _ => return Err(at.corrupt("request_key")),
        };
        let last = Some(self.last_enrollment.as_str()).filter(|last| !last.is_empty());
        Ok(Run {
            id: at.read("id", &self.id)?,
            program_id: at.read("program_id", &self.program_id)?,
            began,
            as_of: Timestamp::from_micros(self.as_of_us),
            actor: self.actor,
            last_enrollment: at.read_opt("last_enrollment", last)?,
            created_at: Timestamp::from_micros(self.created_at_us),
            completed_at: self.completed_at_us.map(Timestamp::from_micros),
        })
    }
}

/// Adds a run. `false` when it was begun before, by whomever.
pub async fn insert_run(tx: &mut Tx, run: &Run) -> Result<bool, StoreError> {
    const SQL: &str =
        "INSERT INTO payout_run (id, program_id, started_by, currency, period_end_us, request_key,
            as_of_us, actor, state, last_enrollment, created_at_us)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', '', $9)
        ON CONFLICT DO NOTHING";
    let (started_by, currency, period_end, key) = match &run.began {
        Began::Scheduled { currency, period_end } => {
            ("schedule", Some(currency.as_str()), Some(period_end.as_micros()), None)
        }
        Began::Requested { key } => ("request", None, None, Some(key.as_str())),
    };
    let affected = tx
        .q(SQL)
        .bind(run.id.as_str())
        .bind(run.program_id.as_str())
        .bind(started_by)
        .bind(currency)
        .bind(period_end)
        .bind(key)
        .bind(run.as_of.as_micros())
        .bind(run.actor.as_str())
        .bind(run.created_at.as_micros())
        .exec()
        .await?;
    Ok(affected == 1)
}

/// One run.
pub async fn find_run(conn: &mut Conn, id: &RunId) -> Result<Option<Run>, StoreError> {
    const SQL: &str = "SELECT id, program_id, currency, period_end_us, request_key, as_of_us, actor,
            last_enrollment, created_at_us, completed_at_us
        FROM payout_run WHERE id = $1";
    conn.q(SQL).bind(id.as_str()).one().await?.map(Row::read).transpose()
}

/// One run, locked until the transaction ends: one node at a time takes it further.
pub async fn lock_run(tx: &mut Tx, id: &RunId) -> Result<Option<Run>, StoreError> {
    const SQL: Sql = for_update!(
        "SELECT id, program_id, currency, period_end_us, request_key, as_of_us, actor, last_enrollment,
             created_at_us, completed_at_us
         FROM payout_run WHERE id = $1"
    );
    tx.q(SQL).bind(id.as_str()).one().await?.map(Row::read).transpose()
}

/// Runs that are not completed and not postponed, oldest first.
pub async fn list_unfinished(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<RunId>, StoreError> {
    // Served by `payout_run_unfinished`.
    const SQL: &str = "SELECT id FROM payout_run
        WHERE state = 'running' AND (retry_at_us IS NULL OR retry_at_us <= $1)
        ORDER BY created_at_us, id LIMIT $2";
    let ids: Vec<String> = conn.q(SQL).bind(now.as_micros()).bind(limit).scalars().await?;
    ids.iter().map(|id| At { table: "payout_run", id }.read("id", id)).collect()
}

/// Notes that the enrollments up to `last` had their turn; without one, that all had.
///
/// # Errors
/// [`StoreError::RowsAffected`] when somebody else has taken the run further.
pub async fn advance_run(
    tx: &mut Tx,
    run: &Run,
    last: Option<&EnrollmentId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE payout_run
        SET last_enrollment = COALESCE($3, last_enrollment), retry_at_us = NULL, completed_at_us = $4,
            state = CASE WHEN $4 IS NULL THEN state ELSE 'completed' END
        WHERE id = $1 AND state = 'running' AND last_enrollment = $2";
    let before = run.last_enrollment.as_ref().map_or("", EnrollmentId::as_str);
    let completed_at = last.is_none().then_some(now.as_micros());
    let affected = tx
        .q(SQL)
        .bind(run.id.as_str())
        .bind(before)
        .bind(last.map(EnrollmentId::as_str))
        .bind(completed_at)
        .exec()
        .await?;
    expect_one(affected)
}

/// Lets a run that cannot go on wait until `until`.
pub async fn postpone_run(tx: &mut Tx, id: &RunId, until: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE payout_run SET retry_at_us = $2 WHERE id = $1 AND state = 'running'";
    tx.q(SQL).bind(id.as_str()).bind(until.as_micros()).exec().await?;
    Ok(())
}

/// Active programs of a schedule that have not begun to settle the period that ended at `period_end`, with
/// the currency. Programs that were made later, or have the schedule only since later, had no such period.
///
/// A program's currencies are those of its books: whatever it owes was an expense first. That is a handful
/// of rows to look at, where the lots themselves may be millions; a currency in which nothing is payable
/// gets a run that pays nobody, and is not looked at again in that period.
pub async fn list_unsettled(
    conn: &mut Conn,
    schedule: PayoutSchedule,
    period_end: Timestamp,
    limit: i64,
) -> Result<Vec<(ProgramId, Currency)>, StoreError> {
    // Served by `program_scheduled` and the keys of the others.
    const SQL: &str = "SELECT p.id, b.currency
        FROM program p
            JOIN program_status s ON s.program_id = p.id AND s.effective_at_us =
                (SELECT MAX(effective_at_us) FROM program_status WHERE program_id = p.id)
            JOIN balance b ON b.owner_id = p.id AND b.account = 'expense'
        WHERE p.payout_schedule IS NOT NULL AND p.payout_schedule = $1
            AND COALESCE(p.payout_schedule_since_us, p.created_at_us) < $2 AND s.status = 'active'
            AND NOT EXISTS (SELECT 1 FROM payout_run r
                WHERE r.program_id = p.id AND r.currency = b.currency AND r.period_end_us = $2)
        ORDER BY p.id, b.currency LIMIT $3";
    let rows: Vec<(String, String)> =
        conn.q(SQL).bind(schedule.as_str()).bind(period_end.as_micros()).bind(limit).all().await?;
    rows.into_iter()
        .map(|(program, currency)| {
            let at = At { table: "program", id: &program };
            Ok((at.read("id", &program)?, at.read("currency", &currency)?))
        })
        .collect()
}
