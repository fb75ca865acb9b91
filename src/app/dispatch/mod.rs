//! Due jobs become calls to the provider, and their answers become books.
//!
//! One job at a time goes through the protocol of `reliability.md` §5: it is claimed with a lease, what may
//! be done is asked of `domain::intent`, the attempt is written down and committed, the call is made with no
//! transaction open, its answer is kept and judged under the locks. Whatever this process knew is forgotten
//! between two steps; each begins with what is stored. A crash anywhere leaves an attempt without an answer
//! at worst, which is a doubt and never a loss.
//!
//! `lanes` decides who may be called now, `send`, `look_up` and `judge` are the steps of the protocol, and
//! [`super::payouts`] says what an outcome does to the books.

mod accounts;
mod call;
mod judge;
mod lanes;
mod look_up;
mod send;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info_span, warn};

use self::{lanes::Lanes, look_up::Looked};
use super::{
    App,
    payouts::{self, MoveError, Reach},
};
use crate::{
    config::Config,
    domain::{
        intent::{IntentState, Next},
        job::{JobState, RETRY_AFTER_MAX_S},
        retry,
    },
    failpoint::{self, Failpoint},
    store::{
        StoreError, Tx,
        findings::{self, NewFinding, Severity},
        intents::{self, StoredIntent},
        jobs::{self, Lease, Parting},
    },
    transport::Transport,
};

/// How often a step is tried again because another transaction was in the way.
const CONFLICTS_MAX: u32 = 8;

/// How long a job is laid down that cannot be worked on, seconds.
const FAILED_S: i64 = 3_600;

/// Makes calls for due jobs. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Dispatcher {
    app: App,
    transport: Option<Transport>,
    lanes: Arc<Mutex<Lanes>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What one holding of a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// On: look again at what may be done now.
    On,
    /// The job was laid down, or is somebody else's.
    Over,
}

/// How long a job is held: long enough for a look-up of several pages, the account and the call, and always
/// longer than one call.
pub(super) fn lease(config: &Config) -> Duration {
    config.stripe.timeout * 3 + Duration::from_secs(5)
}

impl Dispatcher {
    /// `transport` is none where no key is configured: then nothing is called, and what is due waits.
    /// `tasks` tracks the calls under way, so that a stop can wait for them; once `stop` is cancelled none
    /// is begun.
    #[must_use]
    pub fn new(app: App, transport: Option<Transport>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let lanes = Lanes::new(app.config.dispatch.concurrency, app.config.dispatch.rate_per_s);
        Self { app, transport, lanes: Arc::new(Mutex::new(lanes)), tasks, stop }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // What a panicking holder leaves is at worst a lane that stays busy until the next start.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> Duration {
        lease(&self.app.config)
    }

    /// Takes due jobs and accounts to be read, as many as there are places, and starts work on each. Returns how
    /// many.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be reached; nothing was taken.
    pub async fn step(&self) -> Result<usize, StoreError> {
        let leases = self.claim().await?;
        let taken = leases.len();
        for lease in leases {
            let this = self.clone();
            self.tasks.spawn(async move { this.hold(lease).await });
        }
        let checks = self.claim_checks().await?;
        let taken = taken.saturating_add(checks.len());
        for check in checks {
            let this = self.clone();
            self.tasks.spawn(async move { this.check(check).await });
        }
        Ok(taken)
    }

    /// Takes due jobs, and accounts to be read, and works on them one after the other, until none is due now.
    /// Returns how many jobs were taken. For whoever wants the result at once, such as a test.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be reached.
    pub async fn work_off(&self) -> Result<usize, StoreError> {
        let mut worked = 0;
        loop {
            for check in self.claim_checks().await? {
                self.check(check).await;
            }
            let leases = self.claim().await?;
            if leases.is_empty() {
                return Ok(worked);
            }
            for lease in leases {
                worked += 1;
                self.hold(lease).await;
            }
        }
    }

    async fn claim(&self) -> Result<Vec<Lease>, StoreError> {
        let now = self.app.now();
        let (free, closed) = {
            let lanes = self.lanes();
            (lanes.free(now), lanes.closed(now))
        };
        if free == 0 {
            return Ok(Vec::new());
        }
        // Most often there is nothing, and a look disturbs nobody.
        if !jobs::is_any_due(&mut self.app.db.read().await?, now, &closed).await? {
            return Ok(Vec::new());
        }
        let until = now.plus_micros(micros(self.lease()));
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let mut tx = self.app.db.begin().await?;
        let leases = jobs::claim_due(&mut tx, now, until, limit, &closed).await?;
        if leases.is_empty() {
            tx.rollback().await?;
            return Ok(leases);
        }
        failpoint::reach(Failpoint::ClaimBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::ClaimAfterCommit);
        let mut lanes = self.lanes();
        for lease in &leases {
            lanes.enter(&lease.lane);
        }
        Ok(leases)
    }

    /// Works on a job that this node holds, and lays it down.
    async fn hold(&self, lease: Lease) {
        let span = info_span!(
            "job",
            job.id = lease.job_id.as_str(),
            intent.id = lease.intent_id.as_str(),
            job.epoch = lease.epoch
        );
        let place = Place { dispatcher: self, lane: &lease.lane };
        let worked = self.work_through_conflicts(&lease).instrument(span.clone()).await;
        drop(place);
        self.app.wake.dispatch.notify_one();
        let Err(failure) = worked else { return };
        if failure.is_passing() {
            // The lease ends by itself. An attempt that was written down stays a doubt until then.
            let _entered = span.enter();
            warn!(reason = %failure, "the job was interrupted and is taken up again when its lease ends");
        } else {
            error!(parent: &span, reason = %failure, "the job cannot be worked on and is tried again later");
            if let Err(error) = self.report_failure(&lease, &failure).instrument(span).await {
                warn!(%error, "the failure could not be written down");
            }
        }
    }

    /// Works on a job, again and again while others are in the way: each time begins with what is stored, so
    /// that an attempt of which the answer was not kept is a doubt like any other.
    async fn work_through_conflicts(&self, lease: &Lease) -> Result<(), MoveError> {
        let mut conflicts = 0;
        loop {
            match self.work(lease).await {
                Err(MoveError::Store(error)) if error.is_retryable() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::task::yield_now().await;
                }
                result => return result,
            }
        }
    }

    /// A job that fails for a reason that does not pass is shown, and does not come back at once.
    async fn report_failure(&self, lease: &Lease, failure: &MoveError) -> Result<(), StoreError> {
        let now = self.app.now();
        let finding = NewFinding {
            kind: "job_failed".to_owned(),
            severity: Severity::Critical,
            object: lease.job_id.to_string(),
            detail: format!("this job cannot be worked on: {failure}; it is tried again every hour"),
        };
        let parting = Parting {
            state: JobState::Retryable,
            reason: Some("failed"),
            next_attempt_at: Some(now.plus_secs(FAILED_S)),
        };
        let mut tx = self.app.db.begin().await?;
        findings::raise(&mut tx, &[finding], now).await?;
        jobs::part(&mut tx, lease, parting, now).await?;
        super::commit_postponed(tx).await
    }

    async fn work(&self, lease: &Lease) -> Result<(), MoveError> {
        let mut could_not_look_up = false;
        loop {
            let now = self.app.now();
            let stored = {
                let mut conn = self.app.db.read().await?;
                intents::load(&mut conn, &lease.intent_id).await?
            };
            let Some(stored) = stored else { return Err(MoveError::NoPurpose(lease.intent_id.clone())) };
            let next = match stored.intent.next(now) {
                Next::LookUp { or_send: true } if could_not_look_up => Next::Send,
                next => next,
            };
            let went = match next {
                Next::Send if stored.advised_against && stored.intent.is_in_doubt() => {
                    match self.look_up(lease, &stored).await? {
                        Looked::Settled => Went::Over,
                        Looked::Nothing | Looked::Unreadable => self.again(lease, None).await?,
                    }
                }
                Next::Send => self.send(lease, &stored).await?,
                Next::LookUp { or_send } => match self.look_up(lease, &stored).await? {
                    Looked::Settled => Went::Over,
                    Looked::Nothing => Went::On,
                    Looked::Unreadable if or_send => {
                        could_not_look_up = true;
                        Went::On
                    }
                    Looked::Unreadable if stored.intent.state == IntentState::Unknown => {
                        self.look_again_later(lease, &stored).await?
                    }
                    Looked::Unreadable => self.again(lease, None).await?,
                },
                Next::Renew | Next::Quarantine(_) => self.move_on(lease, next).await?,
                Next::Nothing => self.finish(lease, stored.intent.state).await?,
            };
            if went == Went::Over {
                return Ok(());
            }
        }
    }

    /// Lays down a job of which the intent is over: an event or a person settled it meanwhile.
    async fn finish(&self, lease: &Lease, state: IntentState) -> Result<Went, MoveError> {
        let state = if state == IntentState::Succeeded { JobState::Completed } else { JobState::Discarded };
        self.lay_down(lease, Parting { state, reason: None, next_attempt_at: None }).await
    }

    async fn lay_down(&self, lease: &Lease, parting: Parting<'_>) -> Result<Went, MoveError> {
        let mut tx = self.app.db.begin().await?;
        jobs::part(&mut tx, lease, parting, self.app.now()).await?;
        failpoint::reach(Failpoint::PartBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::PartAfterCommit);
        Ok(Went::Over)
    }

    /// Lays down a job of which the intent is set apart.
    async fn look_again_later(&self, lease: &Lease, stored: &StoredIntent) -> Result<Went, MoveError> {
        let next_attempt_at = payouts::next_look_up(stored, self.app.now());
        self.lay_down(lease, Parting { state: JobState::Unknown, reason: None, next_attempt_at }).await
    }

    /// Lays a job down to be tried again after the delay of its attempts, or after what the provider asked
    /// for where that is longer.
    async fn again(&self, lease: &Lease, retry_after_s: Option<i64>) -> Result<Went, MoveError> {
        let mut tx = self.app.db.begin().await?;
        self.part_for_later(&mut tx, lease, retry_after_s).await?;
        failpoint::reach(Failpoint::PartBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::PartAfterCommit);
        Ok(Went::Over)
    }

    async fn part_for_later(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        retry_after_s: Option<i64>,
    ) -> Result<(), StoreError> {
        let now = self.app.now();
        let attempt = u32::try_from(lease.attempts.saturating_add(1)).unwrap_or(u32::MAX);
        let by_schedule = now.plus_micros(retry::delay(attempt, lease.job_id.as_str()));
        let asked = now.plus_secs(retry_after_s.unwrap_or(0).clamp(0, RETRY_AFTER_MAX_S));
        let parting = Parting {
            state: JobState::Retryable,
            reason: None,
            next_attempt_at: Some(by_schedule.max(asked)),
        };
        jobs::part(tx, lease, parting, now).await?;
        Ok(())
    }

    /// Opens the next generation or sets the intent apart, if that is still what is to be done.
    async fn move_on(&self, lease: &Lease, expected: Next) -> Result<Went, MoveError> {
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        let Some(mut scene) = payouts::lock(&mut tx, &lease.intent_id, Reach::Intent).await? else {
            return Ok(Went::Over);
        };
        if !jobs::is_held(&mut tx, lease).await? {
            return Ok(Went::Over);
        }
        let went = match scene.stored.intent.next(now) {
            next if next != expected => Went::On,
            Next::Renew => {
                let proof = "every call under this key was turned away before it was executed";
                payouts::renew(&mut tx, &mut scene, proof, now).await?;
                Went::On
            }
            Next::Quarantine(why) => {
                error!(reason = why.as_str(), "what became of the intent is not known; it is set apart");
                payouts::quarantine(&mut tx, &mut scene, why, now).await?;
                Went::Over
            }
            Next::Send | Next::LookUp { .. } | Next::Nothing => Went::On,
        };
        failpoint::reach(Failpoint::JudgeBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::JudgeAfterCommit);
        Ok(went)
    }
}

/// A lane that is left whatever happens to the work in it.
struct Place<'a> {
    dispatcher: &'a Dispatcher,
    lane: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.dispatcher.lanes().leave(self.lane);
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
