//! Jobs: the queue of work on intents.
//!
//! A job is claimed with a lease: its epoch grows, and whoever holds an older epoch can write nothing of
//! the job any more.

use std::collections::BTreeSet;

use sqlx::FromRow;

use super::{Conn, Sql, StoreError, Tx, row::At, sales::id_list};
use crate::{
    domain::{
        ids::{IntentId, JobId},
        job::JobState,
        money::Currency,
        time::Timestamp,
    },
    for_update,
};

/// A job that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job_id: JobId,
    /// What it works on.
    pub intent_id: IntentId,
    /// The destination.
    pub lane: String,
    /// Number of the lease.
    pub epoch: i64,
    /// Until when nobody else takes it.
    pub until: Timestamp,
    /// How many attempts were made before.
    pub attempts: i64,
}

/// Jobs that are due longest and looked at first, of whatever lanes.
const WINDOW: i64 = 1_000;

/// How often that is done, each time without the lanes that filled it before.
const WINDOWS: usize = 2;

/// Whether any job is due whose lane is none of `busy`. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp, busy: &[String]) -> Result<bool, StoreError> {
    // Served by `job_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM job
        WHERE next_attempt_at_us <= $1 AND lane NOT IN (SELECT value->>'id' FROM json_each($2)))";
    let busy = id_list(busy.iter().map(String::as_str));
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).bind(busy).scalar().await?;
    Ok(is_due == Some(true))
}

/// Takes jobs that are due, the longest due first, one per lane and none of `busy` lanes: a lane whose
/// calls do not come back keeps no place in the batch. Jobs of which the lease has run out are due again.
pub async fn claim_due(
    tx: &mut Tx,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
    busy: &[String],
) -> Result<Vec<Lease>, StoreError> {
    // A wake-up from before the claim is what it is made for; only a later one says anything new.
    const SQL: Sql = Sql {
        sqlite: "UPDATE job SET state = 'running', epoch = epoch + 1, next_attempt_at_us = $2,
                woken_at_us = NULL
            WHERE id IN (SELECT value->>'id' FROM json_each($3)) AND next_attempt_at_us <= $1
            RETURNING id, intent_id, lane, epoch, attempts",
        postgres: "UPDATE job SET state = 'running', epoch = epoch + 1, next_attempt_at_us = $2,
                woken_at_us = NULL
            WHERE id IN (
                SELECT id FROM job
                WHERE id IN (SELECT value->>'id' FROM json_each($3)) AND next_attempt_at_us <= $1
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING id, intent_id, lane, epoch, attempts",
    };
    #[derive(FromRow)]
    struct Row {
        id: String,
        intent_id: String,
        lane: String,
        epoch: i64,
        attempts: i64,
    }
    let first = list_first_due(tx, now, limit, busy).await?;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let list = id_list(first.iter().map(String::as_str));
    let rows: Vec<Row> = tx.q(SQL).bind(now.as_micros()).bind(until.as_micros()).bind(list).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "job", id: &row.id };
            Ok(Lease {
                job_id: at.read("id", &row.id)?,
                intent_id: at.read("intent_id", &row.intent_id)?,
                lane: row.lane,
                epoch: row.epoch,
                until,
                attempts: row.attempts,
            })
        })
        .collect()
}

/// The job of each lane that is due longest, at most `limit` of them, none of `busy` lanes.
///
/// Most often the jobs that are due longest are of many lanes, and a look at those is enough. Where few lanes
/// fill that window again and again, the rest is found by stepping from lane to lane, so that a lane hides no other however
/// much of it is due. Neither sorts all that is due: this runs in a write transaction.
async fn list_first_due(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
    busy: &[String],
) -> Result<Vec<String>, StoreError> {
    // Served by `job_due`, in order and without a look at the rows.
    const LONGEST: &str = "SELECT id, lane FROM job
        WHERE next_attempt_at_us <= $1 AND lane NOT IN (SELECT value->>'id' FROM json_each($3))
        ORDER BY next_attempt_at_us, id LIMIT $2";
    // Served by `job_by_lane`, by one or two steps into it per lane.
    const OF_EACH_LANE: &str = "WITH RECURSIVE lanes (lane) AS (
            SELECT MIN(lane) FROM job WHERE next_attempt_at_us IS NOT NULL
            UNION ALL
            SELECT (SELECT MIN(j.lane) FROM job j WHERE j.lane > lanes.lane AND j.next_attempt_at_us IS NOT NULL)
            FROM lanes WHERE lanes.lane IS NOT NULL)
        SELECT first.id FROM lanes JOIN job first ON first.id = (
                SELECT j.id FROM job j WHERE j.lane = lanes.lane AND j.next_attempt_at_us <= $1
                ORDER BY j.next_attempt_at_us, j.id LIMIT 1)
        WHERE lanes.lane NOT IN (SELECT value->>'id' FROM json_each($3))
        ORDER BY first.next_attempt_at_us, first.id LIMIT $2";
    let wanted = usize::try_from(limit).unwrap_or(0);
    let mut seen: BTreeSet<String> = busy.iter().cloned().collect();
    let mut first: Vec<String> = Vec::new();
    for _ in 0..WINDOWS {
        let list = id_list(seen.iter().map(String::as_str));
        let longest: Vec<(String, String)> =
            conn.q(LONGEST).bind(now.as_micros()).bind(WINDOW).bind(list).all().await?;
        let is_all = i64::try_from(longest.len()).is_ok_and(|count| count < WINDOW);
        first.extend(longest.into_iter().filter_map(|(id, lane)| seen.insert(lane).then_some(id)));
        if is_all || first.len() >= wanted {
            first.truncate(wanted);
            return Ok(first);
        }
    }
    let missing = limit - i64::try_from(first.len()).unwrap_or(limit);
    let list = id_list(seen.iter().map(String::as_str));
    let rest: Vec<String> =
        conn.q(OF_EACH_LANE).bind(now.as_micros()).bind(missing).bind(list).scalars().await?;
    first.extend(rest);
    Ok(first)
}

/// Where a job goes when this node lays it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting<'a> {
    /// Its state.
    pub state: JobState,
    /// Why.
    pub reason: Option<&'a str>,
    /// When it is due next; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
}

/// Lays a job down. `false` when the lease is not ours any more: then somebody else has it, and nothing
/// was written.
pub async fn part(
    tx: &mut Tx,
    lease: &Lease,
    parting: Parting<'_>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Why an intent was set apart stays true however often it is looked up.
    const SQL: &str =
        "UPDATE job SET state = $3, reason = CASE WHEN $3 = 'unknown' THEN COALESCE($4, reason) ELSE $4 END,
            next_attempt_at_us = $5, finished_at_us = $6
        WHERE id = $1 AND epoch = $2 AND state = 'running'";
    let affected = tx
        .q(SQL)
        .bind(lease.job_id.as_str())
        .bind(lease.epoch)
        .bind(parting.state.as_str())
        .bind(parting.reason)
        .bind(parting.next_attempt_at.map(Timestamp::as_micros))
        .bind(parting.state.is_over().then_some(now.as_micros()))
        .exec()
        .await?;
    Ok(affected == 1)
}

/// Moves the job of an intent whoever holds it, because its intent was settled in another way. The epoch
/// grows, so that who held it can write no more.
pub async fn supersede(
    tx: &mut Tx,
    intent: &IntentId,
    parting: Parting<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET state = $2, reason = $3, next_attempt_at_us = $4, finished_at_us = $5,
            epoch = epoch + 1
        WHERE intent_id = $1 AND state NOT IN ('completed', 'discarded')";
    tx.q(SQL)
        .bind(intent.as_str())
        .bind(parting.state.as_str())
        .bind(parting.reason)
        .bind(parting.next_attempt_at.map(Timestamp::as_micros))
        .bind(parting.state.is_over().then_some(now.as_micros()))
        .exec()
        .await?;
    Ok(())
}

/// Whether this node still holds the job.
pub async fn is_held(conn: &mut Conn, lease: &Lease) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(1 AS BIGINT) FROM job WHERE id = $1 AND epoch = $2 AND state = 'running'";
    let held: Option<i64> = conn.q(SQL).bind(lease.job_id.as_str()).bind(lease.epoch).scalar().await?;
    Ok(held.is_some())
}

/// What people or an anomaly have stopped that covers this intent; none: nothing.
pub async fn stopped_by(conn: &mut Conn, intent: &IntentId) -> Result<Option<&'static str>, StoreError> {
    // An operator pauses payouts; a restored database must not charge anybody either.
    const PAUSED: &str = "SELECT CAST(1 AS BIGINT) FROM payout_pause s JOIN intent i ON i.id = $1
        WHERE s.resumed_at_us IS NULL AND (s.kind = 'restored' OR i.kind = 'transfer') LIMIT 1";
    const HELD: &str = "SELECT CAST(1 AS BIGINT) FROM intent i JOIN payout p ON p.id = i.payout_id
            JOIN payout_hold h ON h.enrollment_id = p.enrollment_id AND h.lifted_at_us IS NULL
        WHERE i.id = $1 LIMIT 1";
    let paused: Option<i64> = conn.q(PAUSED).bind(intent.as_str()).scalar().await?;
    if paused.is_some() {
        return Ok(Some("payouts_paused"));
    }
    let held: Option<i64> = conn.q(HELD).bind(intent.as_str()).scalar().await?;
    Ok(held.map(|_| "payouts_held"))
}

/// Makes jobs due that wait for these accounts, and tells those that are being worked on, see
/// [`was_woken_since`].
pub async fn wake_accounts(tx: &mut Tx, accounts: &[&str], now: Timestamp) -> Result<(), StoreError> {
    // Served by `job_waiting` and `job_by_state`.
    const SQL: Sql = for_update!(
        "SELECT id FROM job
         WHERE lane IN (SELECT value->>'id' FROM json_each($1))
             AND (state = 'running' OR (state = 'parked' AND reason = 'waiting_account'))
         ORDER BY id"
    );
    if accounts.is_empty() {
        return Ok(());
    }
    let jobs: Vec<String> = tx.q(SQL).bind(id_list(accounts.iter().copied())).scalars().await?;
    wake(tx, &jobs, now).await
}

/// Makes jobs due that wait for funds of these currencies, and tells those that are being worked on, see
/// [`was_woken_since`].
pub async fn wake_funds(tx: &mut Tx, currencies: &[Currency], now: Timestamp) -> Result<(), StoreError> {
    // Served by `job_waiting` and `job_by_state`: never all intents of a currency are looked at.
    const SQL: Sql = for_update!(
        "SELECT id FROM job
         WHERE (state = 'running' OR (state = 'parked' AND reason = 'waiting_funds'))
             AND EXISTS (SELECT 1 FROM intent WHERE intent.id = job.intent_id
                 AND intent.currency IN (SELECT value->>'id' FROM json_each($1)))
         ORDER BY id"
    );
    let list = id_list(currencies.iter().map(Currency::as_str));
    let jobs: Vec<String> = tx.q(SQL).bind(list).scalars().await?;
    wake(tx, &jobs, now).await
}

/// Wakes jobs that are locked, in order of their ids. The lease of one that is running stays as it is.
async fn wake(tx: &mut Tx, jobs: &[String], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET woken_at_us = $2,
            next_attempt_at_us = CASE WHEN state = 'parked' THEN $2 ELSE next_attempt_at_us END
        WHERE id IN (SELECT value->>'id' FROM json_each($1))";
    if jobs.is_empty() {
        return Ok(());
    }
    tx.q(SQL).bind(id_list(jobs.iter().map(String::as_str))).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Whether what the job of an intent is about to wait for was told at or after `since`, while it was being
/// worked on: then it must be due at once, because nobody wakes it again. The job stays locked, so whoever
/// tells later finds it parked. A claim forgets what was told before it.
pub async fn was_woken_since(tx: &mut Tx, intent: &IntentId, since: Timestamp) -> Result<bool, StoreError> {
    const SQL: Sql = for_update!("SELECT woken_at_us FROM job WHERE intent_id = $1");
    let woken_at: Option<Option<i64>> = tx.q(SQL).bind(intent.as_str()).scalar().await?;
    Ok(woken_at.flatten().is_some_and(|at| at >= since.as_micros()))
}

/// Makes jobs due that were laid down because of a stop of ours which may be over.
pub async fn wake_stopped(tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE job SET next_attempt_at_us = $1
        WHERE state IN ('available', 'retryable') AND reason IN ('payouts_paused', 'payouts_held')";
    tx.q(SQL).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// How many jobs are not over, by kind and state. Those that are over are nearly all there are, and are
/// never looked at.
pub async fn count_unfinished(conn: &mut Conn) -> Result<Vec<(String, String, i64)>, StoreError> {
    // Served by `job_by_state`.
    const SQL: &str = "SELECT kind, state, COUNT(*) FROM job
        WHERE state IN (SELECT value->>'id' FROM json_each($1)) GROUP BY kind, state";
    let states = JobState::ALL.iter().filter(|state| !state.is_over()).map(|state| state.as_str());
    conn.q(SQL).bind(id_list(states)).all().await
}

/// Since when the job that is due longest is due, microseconds.
pub async fn oldest_due(conn: &mut Conn, now: Timestamp) -> Result<Option<i64>, StoreError> {
    const SQL: &str = "SELECT MIN(next_attempt_at_us) FROM job WHERE next_attempt_at_us <= $1";
    let oldest: Option<Option<i64>> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(oldest.flatten())
}
