//! Due jobs become calls to the provider, and their answers become books.
//!
//! One job at a time goes through the protocol of `reliability.md` §5: it is claimed with a lease, what may
//! be done is asked of `domain::intent`, the attempt is written down and committed, the call is made with no
//! transaction open, its answer is kept and judged under the locks. Whatever this process knew is forgotten
//! between two steps; each begins with what is stored. A crash anywhere leaves an attempt without an answer
//! at worst, which is a doubt and never a loss.
//!
//! `lanes` decides who may be called now, [`super::payouts`] what an outcome does to the books.

mod accounts;
mod lanes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};

use self::{
    accounts::Read,
    lanes::{Lanes, Lesson},
};
use super::{
    App,
    fold::Counters,
    payouts::{self, Ending, MoveError, Reach, Scene},
};
use crate::{
    config::Config,
    domain::{
        intent::{Found, IntentState, Next, Outcome, Verdict, Waiting},
        job::{JobState, RETRY_AFTER_MAX_S},
        ledger::Cause,
        retry,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{Answer, ApiRequest, Made, Method, ObjectSeen, Reply},
    store::{
        StoreError, Tx,
        findings::{self, NewFinding, Severity},
        jobs::{self, Call, Kept, Lease, LookedUp, Parting, Purpose, StoredIntent},
        transfers,
    },
    telemetry::names,
    transport::Transport,
};

/// How often a step is tried again because another transaction was in the way.
const CONFLICTS_MAX: u32 = 8;

/// How long a job is laid down that must not be sent for a reason of ours, seconds.
const STOPPED_S: i64 = 60;

/// How long a job is laid down that cannot be worked on, seconds.
const FAILED_S: i64 = 3_600;

/// Pages of a look-up at most; a list that is longer was not read to the end.
const PAGES_MAX: usize = 200;

/// How far before an intent was sent its object is looked for, seconds: clocks differ.
const LOOK_BACK_S: i64 = 3_600;

/// How long after an intent was sent its object is looked for, seconds: twice the time for which a provider
/// keeps a key. One that is made later still is told by its event, and nothing found is no evidence.
const MADE_WITHIN_S: i64 = 2 * 86_400;

/// The same where the intent may have been made by a database that is lost: as far as providers show events.
const LOOK_BACK_AFTER_RESTORE_S: i64 = 30 * 86_400;

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

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// The job was laid down: the object was found, or the intent is set apart.
    Settled,
    /// The whole list was read and holds nothing.
    Nothing,
    /// The list could not be read.
    Unreadable,
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
                jobs::load_intent(&mut conn, &lease.intent_id).await?
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

    /// Sends, if nothing of ours stands against it.
    async fn send(&self, lease: &Lease, stored: &StoredIntent) -> Result<Went, MoveError> {
        if self.stop.is_cancelled() {
            return self.again(lease, None).await;
        }
        if let Some(reason) = self.stopped_by(stored).await? {
            return self.lay_down_stopped(lease, reason).await;
        }
        // In doubt the call goes out whatever the account is like: it may only find out what happened.
        if !stored.intent.is_in_doubt() && self.account_is_ready(lease, stored).await? == Some(false) {
            return self.wait_for_account(lease).await;
        }
        self.token().await;
        let Some(number) = self.write_down(lease, stored, Call::Send).await? else {
            return self.still_held(lease).await;
        };
        let provider = payouts::provider_of(stored)?;
        let request = ApiRequest {
            method: Method::Post,
            path: stored.path.clone(),
            body: stored.body.clone(),
            idempotency_key: Some(stored.key.clone()),
        };
        let reply = self
            .call("send", provider.name(), &stored.api_version, &request, self.send_by(lease, stored))
            .await;
        let answer = provider.answer(&payouts::order(stored, stored.intent.generation), &reply);
        self.learn(&lease.lane, &reply, answer.verdict);
        self.judge(lease, number, &reply, &answer).await
    }

    /// Why nothing may be sent now, if so. A look-up is always allowed.
    async fn stopped_by(&self, stored: &StoredIntent) -> Result<Option<&'static str>, StoreError> {
        let gate_open = match stored.purpose {
            Purpose::Payout(_) => self.app.config.payouts_live,
            Purpose::Charge { .. } => self.app.config.payments_enabled,
        };
        if !gate_open {
            return Ok(Some("not_enabled"));
        }
        if stored.livemode != self.app.config.livemode {
            return Ok(Some("wrong_mode"));
        }
        if self.transport.is_none() {
            return Ok(Some("no_provider_key"));
        }
        let mut conn = self.app.db.read().await?;
        jobs::stopped_by(&mut conn, &stored.intent.id).await
    }

    async fn lay_down_stopped(&self, lease: &Lease, reason: &'static str) -> Result<Went, MoveError> {
        let state = if lease.attempts == 0 { JobState::Available } else { JobState::Retryable };
        let next_attempt_at = Some(self.app.now().plus_secs(STOPPED_S));
        self.lay_down(lease, Parting { state, reason: Some(reason), next_attempt_at }).await
    }

    /// Whether the receiving account can take money. One that was not told to be able to is read from the
    /// provider: an event about it may never have come. When nobody says, the call itself will.
    async fn account_is_ready(
        &self,
        lease: &Lease,
        stored: &StoredIntent,
    ) -> Result<Option<bool>, MoveError> {
        let scope = payouts::own_scope(&stored.provider, stored.livemode);
        let charges = matches!(stored.purpose, Purpose::Charge { .. });
        let told = {
            let mut conn = self.app.db.read().await?;
            let told =
                transfers::account_is_ready(&mut conn, &scope.realm, &stored.destination, charges).await?;
            if told == Some(true) {
                return Ok(told);
            }
            told
        };
        let provider = payouts::provider_of(stored)?;
        let read = self.read_account(provider, stored.livemode, &stored.destination, lease.until).await?;
        Ok(match read {
            Read::Told(account) if charges => Some(account.charges_enabled),
            Read::Told(account) => Some(account.can_be_paid()),
            Read::NotShown | Read::Unanswered => told,
        })
    }

    /// Lets a job wait for its account without having sent anything.
    async fn wait_for_account(&self, lease: &Lease) -> Result<Went, MoveError> {
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        let scene = payouts::lock(&mut tx, &lease.intent_id, Reach::Intent).await?;
        let Some(mut scene) = scene.filter(|scene| scene.stored.intent.next(now) == Next::Send) else {
            return Ok(Went::On);
        };
        if scene.stored.intent.is_in_doubt() || !jobs::is_held(&mut tx, lease).await? {
            // Before the next begins: SQLite has one writer.
            tx.rollback().await?;
            return self.again(lease, None).await;
        }
        payouts::park_waiting(&self.app, &mut tx, &mut scene, Waiting::Account, now).await?;
        failpoint::reach(Failpoint::AccountBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::AccountAfterCommit);
        info!("the receiving account cannot be paid yet; the payout waits for it");
        Ok(Went::Over)
    }

    /// Writes down that a call is about to be made. `None` when it must not be made.
    async fn write_down(
        &self,
        lease: &Lease,
        stored: &StoredIntent,
        call: Call,
    ) -> Result<Option<i64>, MoveError> {
        let generation = stored.intent.generation;
        let mut tx = self.app.db.begin().await?;
        let Some(mut scene) = payouts::lock(&mut tx, &lease.intent_id, Reach::Intent).await? else {
            return Ok(None);
        };
        // Read behind the locks: waiting for them may have taken as long as the lease.
        let now = self.app.now();
        let needed_until = now.plus_micros(micros(self.app.config.stripe.timeout));
        // Between the decision and the lock somebody may have settled it, or a stop may have come.
        let still = !self.stop.is_cancelled()
            && scene.stored.intent == stored.intent
            && scene.stored.intent.window_ends().is_none_or(|end| call == Call::LookUp || now < end)
            && (call == Call::LookUp || jobs::stopped_by(&mut tx, &stored.intent.id).await?.is_none());
        if !still {
            return Ok(None);
        }
        let marked = jobs::mark_attempt(&mut tx, lease, generation, call, needed_until, now).await?;
        let Some(number) = marked else { return Ok(None) };
        if call == Call::Send {
            payouts::submitted(&mut tx, &mut scene).await?;
        }
        failpoint::reach(Failpoint::AttemptBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::AttemptAfterCommit);
        Ok(Some(number))
    }

    /// After a call that must not be made: goes on while there is time in the lease, else gives the job back.
    async fn still_held(&self, lease: &Lease) -> Result<Went, MoveError> {
        let needed_until = self.app.now().plus_micros(micros(self.app.config.stripe.timeout));
        let held = {
            let mut conn = self.app.db.read().await?;
            jobs::is_held(&mut conn, lease).await?
        };
        if held && lease.until > needed_until { Ok(Went::On) } else { self.again(lease, None).await }
    }

    /// Keeps the answer to a send and does what it means.
    async fn judge(
        &self,
        lease: &Lease,
        number: i64,
        reply: &Reply,
        answer: &Answer,
    ) -> Result<Went, MoveError> {
        let (mut conflicts, mut counters) = (0, Counters::default());
        loop {
            match self.try_judge(lease, number, reply, answer, &counters).await {
                Err(MoveError::Uncounted(keys)) if counters.extend(&keys) => {}
                Err(MoveError::Store(error)) if error.is_retryable() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::task::yield_now().await;
                }
                Err(failure) if !failure.is_passing() => {
                    // What it means cannot be booked; what was heard is kept all the same.
                    let (kept, now) = (kept(reply, answer), self.app.now());
                    let mut tx = self.app.db.begin().await?;
                    jobs::keep_answer(&mut tx, &lease.intent_id, number, answer.verdict, &kept, now).await?;
                    failpoint::reach(Failpoint::KeepBeforeCommit);
                    tx.commit().await?;
                    failpoint::reach(Failpoint::KeepAfterCommit);
                    return Err(failure);
                }
                result => return result,
            }
        }
    }

    async fn try_judge(
        &self,
        lease: &Lease,
        number: i64,
        reply: &Reply,
        answer: &Answer,
        counters: &Counters,
    ) -> Result<Went, MoveError> {
        let now = self.app.now();
        let reach = match answer.verdict {
            Verdict::Executed | Verdict::Refused => Reach::Sales(counters),
            Verdict::NotSent
            | Verdict::TurnedAway
            | Verdict::Unauthorized
            | Verdict::InsufficientFunds
            | Verdict::AccountNotReady
            | Verdict::Ambiguous
            | Verdict::KeyMisused
            | Verdict::Contradiction => Reach::Intent,
        };
        let code = answer.error_code.as_deref().unwrap_or(answer.verdict.as_str());
        let mut tx = self.app.db.begin().await?;
        jobs::keep_answer(&mut tx, &lease.intent_id, number, answer.verdict, &kept(reply, answer), now)
            .await?;
        let scene = payouts::lock(&mut tx, &lease.intent_id, reach).await?;
        let Some(mut scene) = scene else { return Err(MoveError::NoPurpose(lease.intent_id.clone())) };
        let held = jobs::is_held(&mut tx, lease).await?;
        let outcome = outcome_of(&scene, held, answer.verdict);
        let cause = Cause::Call(format!("{}#{number}", lease.intent_id));
        match outcome {
            Outcome::Succeeded => {
                // The verdict `Executed` always comes with the object that proves it.
                let Some(object) = &answer.object else {
                    return Err(MoveError::NoPurpose(lease.intent_id.clone()));
                };
                payouts::succeed(&self.app, &mut tx, &mut scene, object, &cause, now).await?;
            }
            Outcome::Again => {
                self.part_for_later(&mut tx, lease, retry_after(reply)).await?;
            }
            Outcome::Wait(waiting) => {
                let proof = format!("attempt {number}: {code}");
                payouts::wait(&self.app, &mut tx, &mut scene, waiting, &proof, now).await?;
            }
            Outcome::Failed => {
                payouts::end(&self.app, &mut tx, &mut scene, Ending::Failed { reason: code }, &cause, now)
                    .await?;
            }
            Outcome::Quarantined(why) => payouts::quarantine(&mut tx, &mut scene, why, now).await?,
            Outcome::Noted => {
                let shown = answer.object.as_slice();
                payouts::note_unexpected(&mut tx, &scene.stored, shown, now).await?;
            }
        }
        note_key_trouble(&mut tx, &scene.stored.provider, answer.verdict, now).await?;
        failpoint::reach(Failpoint::JudgeBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::JudgeAfterCommit);
        info!(verdict = answer.verdict.as_str(), code, ?outcome, "the provider answered");
        Ok(Went::Over)
    }

    /// Asks the provider whether it knows the intent, to the end of its list, and does what that means.
    async fn look_up(&self, lease: &Lease, stored: &StoredIntent) -> Result<Looked, MoveError> {
        let other_mode = stored.livemode != self.app.config.livemode;
        if self.transport.is_none() || other_mode || self.stop.is_cancelled() {
            return Ok(Looked::Unreadable);
        }
        self.token().await;
        let Some(number) = self.write_down(lease, stored, Call::LookUp).await? else {
            return Ok(Looked::Unreadable);
        };
        let found = self.walk(lease, stored).await?;
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        let (looked, found_now) = match &found {
            None => (LookedUp::Unreadable, None),
            Some(objects) => match objects.as_slice() {
                [] => (LookedUp::Nothing, Some(Found::Nothing)),
                [one] if one.matches => (LookedUp::Something, Some(Found::One)),
                [_] => (LookedUp::Something, Some(Found::Other)),
                [_, _, ..] => (LookedUp::Something, Some(Found::Several)),
            },
        };
        jobs::keep_look_up(&mut tx, &lease.intent_id, number, looked, &Kept::default(), now).await?;
        // What is paid is not folded again, so nothing is counted.
        let counters = Counters::default();
        let reach = if found_now == Some(Found::One) { Reach::Sales(&counters) } else { Reach::Intent };
        let scene = payouts::lock(&mut tx, &lease.intent_id, reach).await?;
        let Some(mut scene) = scene else { return Err(MoveError::NoPurpose(lease.intent_id.clone())) };
        let outcome = found_now.map_or(Outcome::Again, |found| scene.stored.intent.after_look_up(found));
        let result = match outcome {
            Outcome::Succeeded => {
                let cause = Cause::Call(format!("{}#{number}", lease.intent_id));
                if let Some([object]) = found.as_deref() {
                    payouts::succeed(&self.app, &mut tx, &mut scene, object, &cause, now).await?;
                }
                Looked::Settled
            }
            Outcome::Quarantined(why) => {
                payouts::quarantine(&mut tx, &mut scene, why, now).await?;
                Looked::Settled
            }
            Outcome::Again if scene.stored.intent.state == IntentState::Unknown => {
                let parting = Parting {
                    state: JobState::Unknown,
                    reason: None,
                    next_attempt_at: payouts::next_look_up(&scene.stored, now),
                };
                jobs::part(&mut tx, lease, parting, now).await?;
                Looked::Settled
            }
            Outcome::Again | Outcome::Wait(_) | Outcome::Failed | Outcome::Noted
                if looked == LookedUp::Unreadable =>
            {
                Looked::Unreadable
            }
            // Settled by somebody else meanwhile: the next look at the intent sees that.
            Outcome::Noted => {
                let shown = found.as_deref().unwrap_or_default();
                payouts::note_unexpected(&mut tx, &scene.stored, shown, now).await?;
                Looked::Nothing
            }
            Outcome::Again | Outcome::Wait(_) | Outcome::Failed => Looked::Nothing,
        };
        failpoint::reach(Failpoint::JudgeBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::JudgeAfterCommit);
        info!(?looked, ?outcome, "the provider's list was read");
        Ok(result)
    }

    /// The objects that carry the intent, by id; `None` when the list could not be read to its end.
    async fn walk(&self, lease: &Lease, stored: &StoredIntent) -> Result<Option<Vec<ObjectSeen>>, MoveError> {
        let provider = payouts::provider_of(stored)?;
        let order = payouts::order(stored, stored.intent.generation);
        let made = when_made(stored);
        let mut objects = BTreeMap::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            if lease.until <= self.app.now().plus_micros(micros(self.app.config.stripe.timeout)) {
                return Ok(None);
            }
            let request = provider.look_up(&order, made, cursor.as_deref());
            let reply =
                self.call("look_up", provider.name(), &stored.api_version, &request, lease.until).await;
            let page = provider.page(&order, &reply);
            self.learn_of_reading(&lease.lane, &reply);
            let Ok(page) = page else { return Ok(None) };
            objects.extend(page.objects.into_iter().map(|object| (object.id.clone(), object)));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(Some(objects.into_values().collect()));
            }
            self.token().await;
        }
        Ok(None)
    }

    /// Until when a call that may move money may begin: while the lease lasts long enough for it and the
    /// window of its key is open. A process that was stopped in between must not send when it wakes; what
    /// was written down may have been closed by others (F-P-15, F-T-03).
    fn send_by(&self, lease: &Lease, stored: &StoredIntent) -> Timestamp {
        let by_lease = lease.until.plus_micros(-micros(self.app.config.stripe.timeout));
        stored.intent.window_ends().map_or(by_lease, |end| end.min(by_lease))
    }

    /// Makes a call, with no transaction open, if it can begin before `begin_by`.
    async fn call(
        &self,
        op: &'static str,
        provider: &str,
        api_version: &str,
        request: &ApiRequest,
        begin_by: Timestamp,
    ) -> Reply {
        let Some(transport) = &self.transport else { return Reply::NotSent };
        failpoint::reach(Failpoint::CallBefore);
        if self.stop.is_cancelled() || self.app.now() > begin_by {
            warn!(op, "a call came too late and was not made");
            return Reply::NotSent;
        }
        let started = tokio::time::Instant::now();
        let reply = transport.call(request, api_version, self.app.config.stripe.timeout).await;
        failpoint::reach(Failpoint::CallAfter);
        let outcome = match &reply {
            Reply::NotSent => "not_sent",
            Reply::Lost => "lost",
            Reply::Answered(response) => match response.status {
                200..=299 => "2xx",
                400..=499 => "4xx",
                500..=599 => "5xx",
                _ => "other",
            },
        };
        metrics::histogram!(names::PROVIDER_REQUEST_SECONDS, "provider" => provider.to_owned(), "op" => op,
            "outcome" => outcome)
        .record(started.elapsed().as_secs_f64());
        reply
    }

    /// What reading from the provider taught. A key that may not read is no reason to stop sending.
    fn learn_of_reading(&self, lane: &str, reply: &Reply) {
        let verdict = match reply {
            Reply::Answered(response) if response.status == 401 => Verdict::Unauthorized,
            Reply::Answered(_) | Reply::Lost => Verdict::Ambiguous,
            Reply::NotSent => Verdict::NotSent,
        };
        self.learn(lane, reply, verdict);
    }

    fn learn(&self, lane: &str, reply: &Reply, verdict: Verdict) {
        let lesson = match reply {
            Reply::NotSent | Reply::Lost => Lesson::Failed,
            Reply::Answered(_) if verdict == Verdict::Unauthorized => Lesson::Unauthorized,
            Reply::Answered(response) if response.status == 429 || verdict == Verdict::TurnedAway => {
                Lesson::RateLimited { retry_after_s: retry_after(reply) }
            }
            Reply::Answered(response) if response.status >= 500 => Lesson::Failed,
            Reply::Answered(_) => Lesson::Answered,
        };
        self.lanes().learn(lane, lesson, self.app.now());
    }

    /// Waits for a place in the second's calls.
    async fn token(&self) {
        let wait = self.lanes().wait_for_token(self.app.now());
        if let Ok(micros @ 1..) = u64::try_from(wait) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

/// When the object of an intent was made, if it was: about when the intent was sent. What a lost database
/// may have sent, nobody knows.
fn when_made(stored: &StoredIntent) -> Made {
    let anytime = |look_back_s: i64| Made { since: stored.created_at.plus_secs(-look_back_s), until: None };
    match stored.sent_between {
        _ if stored.intent.look_up_first => anytime(LOOK_BACK_AFTER_RESTORE_S),
        None => anytime(LOOK_BACK_S),
        Some((first, last)) => {
            Made { since: first.plus_secs(-LOOK_BACK_S), until: Some(last.plus_secs(MADE_WITHIN_S)) }
        }
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

/// What an answer leads to. Who no longer holds the job judges nothing, but a success is the truth whoever
/// hears it.
fn outcome_of(scene: &Scene, held: bool, verdict: Verdict) -> Outcome {
    if held {
        return scene.stored.intent.after_send();
    }
    match (verdict, scene.stored.intent.state) {
        (Verdict::Executed, IntentState::Open | IntentState::Unknown) => Outcome::Succeeded,
        _ => Outcome::Noted,
    }
}

/// Raises the alarm when the provider does not accept our key, and ends it when it does again.
async fn note_key_trouble(
    tx: &mut Tx,
    provider: &str,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), StoreError> {
    const KIND: &str = "provider_refuses_key";
    match verdict {
        Verdict::Unauthorized => {
            let finding = NewFinding {
                kind: KIND.to_owned(),
                severity: Severity::Critical,
                object: provider.to_owned(),
                detail:
                    "the provider does not accept the configured key, or the key lacks a right; nothing is \
                         sent for a few minutes at a time until it does"
                        .to_owned(),
            };
            findings::raise(tx, &[finding], now).await
        }
        Verdict::Executed
        | Verdict::InsufficientFunds
        | Verdict::AccountNotReady
        | Verdict::Refused
        | Verdict::KeyMisused
        | Verdict::Contradiction => findings::resolve_others(tx, &[provider], &[KIND], &[], now).await,
        Verdict::NotSent | Verdict::TurnedAway | Verdict::Ambiguous => Ok(()),
    }
}

fn kept(reply: &Reply, answer: &Answer) -> Kept {
    let shared = Kept {
        error_code: answer.error_code.clone(),
        object_id: answer.object.as_ref().map(|object| object.id.clone()),
        ..Kept::default()
    };
    match reply {
        Reply::NotSent | Reply::Lost => shared,
        Reply::Answered(response) => Kept {
            status: Some(response.status),
            request_id: response.request_id.clone(),
            replayed: response.replayed,
            should_retry: response.should_retry,
            body_sha256: Some(Sha256::digest(&response.body).to_vec()),
            ..shared
        },
    }
}

fn retry_after(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::NotSent | Reply::Lost => None,
        Reply::Answered(response) => response.retry_after_s,
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
