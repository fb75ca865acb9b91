//! The loop that stages share: step while there is work, else wait for a hint or the next poll.
//!
//! The poll is the truth and hints only shorten it. A step runs in a task of its own, so a panic ends
//! that step and not the stage, and a stop is obeyed between two steps, never inside one. What a step
//! does is the business of [`super::process`], [`super::release`], [`super::refold`],
//! [`super::settle`], [`super::notices`] and [`super::forget`].

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::{
    App, dispatch::Dispatcher, forget, idempotency, instance, notices, process, refold, release, settle,
    transfers,
};
use crate::{
    clock::DisciplinedClock,
    domain::{intent::IntentKind, job::JobState},
    mail::Mailer,
    store::{
        Db, StoreError, clock, doctor,
        findings::Severity,
        inbox::{self, InboxState},
        jobs, mail, refold as refold_queue,
    },
    telemetry::names,
};

/// How long a stage waits when there is nothing to do, or nothing it can do.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long a stage with nothing to do waits for a hint.
    poll: Duration,
    /// The pause after the first failure in a row; it doubles with every further one.
    first_pause: Duration,
    /// The longest pause after a failure.
    longest_pause: Duration,
}

const PACE: Pace = Pace {
    poll: Duration::from_secs(1),
    first_pause: Duration::from_millis(500),
    longest_pause: Duration::from_secs(30),
};

impl Pace {
    fn pause_after(self, earlier_failures: u32) -> Duration {
        self.first_pause.saturating_mul(1 << earlier_failures.min(16)).min(self.longest_pause)
    }
}

/// How often the schedules are looked at. Periods are weeks and months; a few seconds are nobody's loss.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// How often the mails are looked at. What is told at once may take a few seconds.
const MAIL_EVERY: Duration = Duration::from_secs(5);
/// How often gauges are computed. They cost a few grouped counts.
const GAUGES_EVERY: Duration = Duration::from_secs(15);
/// How often the database's age is raised.
const BEAT_EVERY: Duration = Duration::from_mins(1);
/// How often old Idempotency-Keys are looked for. One that is sent again after its day is free by itself.
const PURGE_EVERY: Duration = Duration::from_mins(1);
/// How often it is looked for clicks that can be forgotten. Each round passes those that have to stay.
const FORGET_EVERY: Duration = Duration::from_hours(6);
/// How often the clock is compared with the database's.
const CLOCK_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether the schema is still this program's. A node that does not notice writes by
/// old rules for so long.
const SCHEMA_EVERY: Duration = Duration::from_secs(5);

/// Turns stored events into books until `stop`, and what they tell of transfers into those of the payouts.
pub async fn run_process(app: App, stop: CancellationToken) {
    let process = run("process", PACE, &app.wake.process, &stop, || {
        let app = app.clone();
        async move {
            let worked = process::step(&app).await?;
            if worked.finished > 0 {
                app.wake.transfers.notify_one();
                app.wake.dispatch.notify_one();
            }
            Ok(!worked.is_idle())
        }
    });
    let transfers = run("transfers", PACE, &app.wake.transfers, &stop, || {
        let app = app.clone();
        async move { Ok(transfers::step(&app).await? > 0) }
    });
    tokio::join!(process, transfers);
}

/// Makes the calls that are due until `stop`. Calls under way are finished by the dispatcher's own tasks.
pub async fn run_dispatch(dispatcher: Dispatcher, app: App, stop: CancellationToken) {
    run("dispatch", PACE, &app.wake.dispatch, &stop, || {
        let dispatcher = dispatcher.clone();
        async move { Ok(dispatcher.step().await? > 0) }
    })
    .await;
}

/// Tells affiliates what happened until `stop`.
pub async fn run_mail(app: App, mailer: Arc<Mailer>, stop: CancellationToken) {
    let pace = Pace { poll: MAIL_EVERY, ..PACE };
    run("mail", pace, &Notify::new(), &stop, || {
        let (app, mailer, stop) = (app.clone(), Arc::clone(&mailer), stop.clone());
        async move { Ok(notices::send::step(&app, &mailer, &stop).await? > 0) }
    })
    .await;
}

/// Applies what no event about the sale tells until `stop`: time that has passed, and codes, approvals
/// and ends that reach many sales. The two go on beside each other, so that neither waits for the other.
pub async fn run_release(app: App, stop: CancellationToken) {
    // Nothing but time makes a commission due, so there is nobody to hint; many sales can wait a poll.
    let (no_hint, pace) = (Notify::new(), PACE);
    let release = run("release", pace, &no_hint, &stop, || {
        let app = app.clone();
        async move { Ok(release::step(&app).await? > 0) }
    });
    let refold = run("refold", pace, &no_hint, &stop, || {
        let app = app.clone();
        async move { Ok(refold::step(&app).await? > 0) }
    });
    tokio::join!(release, refold);
}

/// Counts the minutes of the database's life until `stop`, so that a copy of it can be told from the newest.
pub async fn run_beat(app: App, stop: CancellationToken) {
    let (no_hint, pace) = (Notify::new(), Pace { poll: BEAT_EVERY, ..PACE });
    run("beat", pace, &no_hint, &stop, || {
        let app = app.clone();
        async move { instance::beat(&app).await.map(|()| false) }
    })
    .await;
}

/// Forgets Idempotency-Keys whose day is over, and clicks that no sale can need, until `stop`.
pub async fn run_purge(app: App, stop: CancellationToken) {
    let no_hint = Notify::new();
    let keys = run("purge", Pace { poll: PURGE_EVERY, ..PACE }, &no_hint, &stop, || {
        let app = app.clone();
        async move { idempotency::purge(&app).await }
    });
    let round = Arc::new(Mutex::new(forget::Round::default()));
    let clicks = run("forget", Pace { poll: FORGET_EVERY, ..PACE }, &no_hint, &stop, || {
        let (app, round) = (app.clone(), Arc::clone(&round));
        async move { forget::step(&app, &round).await }
    });
    tokio::join!(keys, clicks);
}

/// Settles what the schedules owe, and takes unfinished settlements further, until `stop`.
pub async fn run_settle(app: App, stop: CancellationToken) {
    let pace = Pace { poll: SETTLE_EVERY, ..PACE };
    run("settle", pace, &Notify::new(), &stop, || {
        let app = app.clone();
        async move { Ok(settle::step_scheduled(&app).await? > 0) }
    })
    .await;
}

/// Runs `step` until `stop`. A step says whether it found work.
async fn run<S, F>(stage: &'static str, pace: Pace, wake: &Notify, stop: &CancellationToken, mut next_step: S)
where
    S: FnMut() -> F,
    F: Future<Output = Result<bool, StoreError>> + Send + 'static,
{
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        let outcome = tokio::spawn(next_step().instrument(info_span!("stage", stage))).await;
        let pause = match outcome {
            Ok(Ok(worked)) => {
                if failures > 0 {
                    info!(stage, failures, "the stage works again");
                }
                failures = 0;
                if worked {
                    continue;
                }
                pace.poll
            }
            Ok(Err(failure)) => {
                let pause = pace.pause_after(failures);
                failures = failures.saturating_add(1);
                log_failure(stage, &failure, failures, pause);
                pause
            }
            Err(join) => {
                let pause = pace.pause_after(failures);
                failures = failures.saturating_add(1);
                // The panic hook has printed where; the payload may hold data and is not repeated.
                let panicked = join.is_panic();
                error!(stage, panicked, ?pause, "a step of the stage crashed and is tried again");
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            // A hint says that there is work, not that the database is back.
            () = wake.notified(), if failures == 0 => {}
            () = sleep(pause) => {}
        }
    }
    info!(stage, "the stage has stopped");
}

fn log_failure(stage: &'static str, failure: &StoreError, failures: u32, pause: Duration) {
    if failure.is_unavailable() {
        warn!(stage, failures, ?pause, reason = %failure, "the database is unavailable; waiting for it");
    } else {
        error!(stage, failures, ?pause, reason = %failure, "the stage failed and is tried again");
    }
}

/// Keeps the gauges of the inbox, the findings and the ledger fresh until `stop`.
pub async fn run_gauges(app: App, stop: CancellationToken) {
    loop {
        if let Err(failure) = refresh_gauges(&app).await {
            // Stale gauges mislead less than zeros would; the stages log what is wrong.
            tracing::debug!(reason = %failure, "the gauges could not be refreshed");
        }
        if stop.run_until_cancelled(sleep(GAUGES_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Sets every gauge to what the database shows now.
///
/// # Errors
/// [`StoreError`] when the database does not answer; some gauges are then as they were.
pub async fn refresh_gauges(app: &App) -> Result<(), StoreError> {
    let mut conn = app.db.read().await?;
    let counts = inbox::count_by_state(&mut conn).await?;
    for state in InboxState::ALL {
        let count = count_of(&counts, state.as_str());
        metrics::gauge!(names::INBOX_EVENTS, "state" => state.as_str()).set(as_gauge(count));
    }
    let oldest = inbox::oldest_waiting(&mut conn).await?;
    let lag_micros = oldest.map_or(0, |at| app.now().as_micros().saturating_sub(at).max(0));
    metrics::gauge!(names::INBOX_LAG_SECONDS).set(as_gauge(lag_micros) / 1e6);
    let oldest = refold_queue::oldest(&mut conn).await?;
    let lag_micros = oldest.map_or(0, |at| app.now().as_micros().saturating_sub(at).max(0));
    metrics::gauge!(names::REFOLD_LAG_SECONDS).set(as_gauge(lag_micros) / 1e6);
    let counts = jobs::count_unfinished(&mut conn).await?;
    for kind in IntentKind::ALL {
        for state in JobState::ALL.iter().filter(|state| !state.is_over()) {
            let counted = |job: &&(String, String, i64)| job.0 == kind.as_str() && job.1 == state.as_str();
            let count = counts.iter().find(counted).map_or(0, |job| job.2);
            metrics::gauge!(names::JOBS, "kind" => kind.as_str(), "state" => state.as_str())
                .set(as_gauge(count));
        }
    }
    let oldest = jobs::oldest_due(&mut conn, app.now()).await?;
    let lag_micros = oldest.map_or(0, |at| app.now().as_micros().saturating_sub(at).max(0));
    metrics::gauge!(names::OLDEST_DUE_JOB_SECONDS).set(as_gauge(lag_micros) / 1e6);
    let open = doctor::count_open_findings(&mut conn).await?;
    for severity in Severity::ALL {
        let count = count_of(&open, severity.as_str());
        metrics::gauge!(names::FINDINGS, "severity" => severity.as_str()).set(as_gauge(count));
    }
    let counts = mail::count_by_state(&mut conn).await?;
    for state in JobState::ALL.iter().filter(|state| **state != JobState::Unknown) {
        let count = count_of(&counts, state.as_str());
        metrics::gauge!(names::MAIL, "state" => state.as_str()).set(as_gauge(count));
    }
    metrics::gauge!(names::LEDGER_DRIFT).set(as_gauge(doctor::ledger_drift(&mut conn).await?));
    Ok(())
}

/// A group without rows is not in the answer, and its gauge must still go back to zero.
fn count_of(counts: &[(String, i64)], name: &str) -> i64 {
    counts.iter().find(|(counted, _)| counted == name).map_or(0, |(_, count)| *count)
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is for eyes and alarms, never for books")]
const fn as_gauge(value: i64) -> f64 {
    value as f64
}

/// Compares `clock` with the database's once. Returns the offset in microseconds that is now added to
/// this machine's clock; 0 where the database has no clock of its own.
///
/// # Errors
/// [`StoreError`] when the database does not answer; the clock then goes on as before.
pub async fn observe_clock(db: &Db, clock: &DisciplinedClock) -> Result<i64, StoreError> {
    let mut conn = db.read().await?;
    let before = clock.local_now();
    if let Some(db_now) = clock::read(&mut conn).await? {
        clock.observe(db_now, before, clock.local_now());
    }
    Ok(clock.offset_micros())
}

/// Keeps `clock` in step with the database's until `stop`.
pub async fn run_clock(db: Db, clock: Arc<DisciplinedClock>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(CLOCK_EVERY)).await.is_some() {
        if let Err(failure) = observe_clock(&db, &clock).await {
            tracing::debug!(reason = %failure, "the clock could not be compared with the database's");
        }
    }
}

/// Looks until `stop` whether the database still has the schema of this program, and cancels `stop` when it
/// has another: a newer program has migrated it, and what this node would write by its old rules would leave
/// out what the new ones keep. A database that does not answer says nothing about its schema.
///
/// Every node looks, whatever its roles: the beat of [`run_beat`] is only one scheduler's.
///
/// # Errors
/// The schema that was found instead.
pub async fn run_schema(db: Db, stop: CancellationToken) -> Result<(), StoreError> {
    loop {
        match db.check_schema().await {
            Err(other) if other.is_other_schema() => {
                error!(reason = %other, "the schema was changed while this node ran; it stops");
                stop.cancel();
                return Err(other);
            }
            Err(failure) => tracing::debug!(reason = %failure, "the schema could not be looked at"),
            Ok(()) => {}
        }
        if stop.run_until_cancelled(sleep(SCHEMA_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const NO_PAUSE: Pace =
        Pace { poll: Duration::ZERO, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };

    /// Runs a stage whose n-th step does what `plan` says and which is stopped in the last.
    async fn steps_until_stopped(plan: fn(u32) -> Result<bool, StoreError>, last: u32) -> u32 {
        let (stop, count) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        run("test", NO_PAUSE, &Notify::new(), &stop, || {
            let (stop, count) = (stop.clone(), Arc::clone(&count));
            async move {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                if number == last {
                    stop.cancel();
                }
                plan(number)
            }
        })
        .await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_stop_ends_the_stage_after_the_step_under_way() {
        assert_eq!(steps_until_stopped(|_| Ok(true), 3).await, 3);
        assert_eq!(steps_until_stopped(|_| Ok(false), 2).await, 2);
    }

    #[tokio::test]
    async fn a_panic_and_a_failure_end_a_step_and_not_the_stage() {
        let plan = |step| match step {
            1 => panic!("a step that fails its test on purpose"),
            2 => Err(StoreError::RowsAffected { expected: 1, actual: 0 }),
            _ => Ok(false),
        };
        assert_eq!(steps_until_stopped(plan, 4).await, 4);
    }

    #[tokio::test]
    async fn a_hint_ends_the_wait_of_an_idle_stage() {
        let (stop, wake, count) = (CancellationToken::new(), Arc::new(Notify::new()), AtomicU32::new(0));
        let pace = Pace { poll: HOUR, ..NO_PAUSE };
        run("test", pace, &wake, &stop, || {
            // The second step comes an hour later, or at once because of the hint.
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                wake.notify_one();
            } else {
                stop.cancel();
            }
            async { Ok(false) }
        })
        .await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let pauses: Vec<u64> = (0..8).map(|failures| PACE.pause_after(failures).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(PACE.pause_after(u32::MAX), PACE.longest_pause);
    }
}
