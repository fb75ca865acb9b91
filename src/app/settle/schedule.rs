//! Settlements that nobody asks for: programs with a schedule, once a period has ended, and runs that a
//! crash or a pause left unfinished.
//!
//! Which period is due is computed in `domain::schedule`. A run is unique per program, currency and period,
//! so any number of nodes may look at the same time. Periods that ended while payouts were switched off or
//! paused are caught up by one run when they are on again.

use tracing::{error, info};

use super::{Progress, SettleError};
use crate::{
    app::App,
    domain::{
        ids::{ProgramId, RunId},
        money::Currency,
        payout::PayoutSchedule,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    store::{
        StoreError,
        findings::{self, NewFinding, Severity},
        holds,
        settlement::{self, Began, Run},
    },
};

/// Runs begun, and runs taken further by one chunk each, in one step at most.
const RUNS_MAX: i64 = 50;

/// How long a run that cannot go on waits, seconds.
const RETRY_S: i64 = 3_600;

/// Begins the runs that the schedules owe, and takes unfinished ones further by a chunk each. Returns how
/// many runs it began or took further. Does nothing while payouts are switched off or paused.
///
/// A run that cannot go on raises the finding `settlement_failed` and waits an hour, so that it does not
/// stop the others.
///
/// # Errors
/// [`StoreError`] when the database is not there or another transaction was in the way; nothing is half
/// done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    if !app.config.payouts_live {
        return Ok(0);
    }
    let now = app.now();
    let (unsettled, unfinished) = {
        let mut conn = app.db.read().await?;
        if holds::is_paused(&mut conn).await? {
            return Ok(0);
        }
        let mut unsettled = Vec::new();
        for &schedule in PayoutSchedule::ALL {
            let Some(period_end) = schedule.last_period_end(now) else { continue };
            let due = settlement::list_unsettled(&mut conn, schedule, period_end, RUNS_MAX).await?;
            unsettled.extend(due.into_iter().map(|(program, currency)| (program, currency, period_end)));
        }
        (unsettled, settlement::list_unfinished(&mut conn, now, RUNS_MAX).await?)
    };
    let worked = unsettled.len().saturating_add(unfinished.len());
    for (program, currency, period_end) in unsettled {
        begin(app, program, currency, period_end, now).await?;
    }
    for run in unfinished {
        match super::step(app, &run).await {
            // Where folds keep booking what it would pay, its next turn finds them done.
            Ok(Progress::More | Progress::Completed) | Err(SettleError::Overtaken) => {}
            Ok(Progress::Paused) => break,
            Err(SettleError::Store(error)) if error.is_retryable() || error.is_unreachable() => {
                return Err(error);
            }
            Err(failure) => postpone(app, &run, &failure).await?,
        }
    }
    Ok(worked)
}

/// The id of the run of a period. With [`crate::domain::payout::Payout::id_of`] and the intent's own
/// derivation it makes the key under which the provider is asked, so it never changes.
fn run_id(program: &ProgramId, currency: Currency, period_end: Timestamp) -> RunId {
    RunId::derived(&[program.as_str(), "schedule", currency.as_str(), &period_end.as_micros().to_string()])
}

async fn begin(
    app: &App,
    program: ProgramId,
    currency: Currency,
    period_end: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let run = Run {
        id: run_id(&program, currency, period_end),
        program_id: program,
        began: Began::Scheduled { currency, period_end },
        // The end belongs to the next period.
        as_of: period_end.plus_micros(-1),
        actor: "schedule".to_owned(),
        last_enrollment: None,
        created_at: now,
        completed_at: None,
    };
    let mut tx = app.db.begin().await?;
    let is_new = settlement::insert_run(&mut tx, &run).await?;
    failpoint::reach(Failpoint::RunBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::RunAfterCommit);
    if is_new {
        info!(
            run.id = run.id.as_str(),
            program.id = run.program_id.as_str(),
            currency = currency.as_str(),
            %period_end,
            "a scheduled settlement begins"
        );
    }
    Ok(())
}

async fn postpone(app: &App, run: &RunId, failure: &SettleError) -> Result<(), StoreError> {
    error!(run.id = run.as_str(), reason = %failure, "a settlement cannot go on and is tried again later");
    let now = app.now();
    let finding = NewFinding {
        kind: "settlement_failed".to_owned(),
        severity: Severity::Critical,
        object: run.to_string(),
        detail: format!(
            "this settlement stopped part of the way: {failure}; run `remit doctor`, it is tried again every \
             hour"
        ),
    };
    let mut tx = app.db.begin().await?;
    settlement::postpone_run(&mut tx, run, now.plus_secs(RETRY_S)).await?;
    findings::raise(&mut tx, &[finding], now).await?;
    crate::app::commit_postponed(tx).await
}
