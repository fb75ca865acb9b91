//! Sending: what of ours may stand against it, the attempt that is committed before one byte goes out, and
//! the call.

use tracing::info;

use super::{Dispatcher, Went, accounts::Read, micros};
use crate::{
    app::payouts::{self, MoveError, Reach},
    domain::{
        intent::{Next, Waiting},
        job::JobState,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{ApiRequest, Method},
    store::{
        StoreError,
        attempts::{self, Call},
        intents::{Purpose, StoredIntent},
        jobs::{self, Lease, Parting},
        transfers,
    },
};

/// How long a job is laid down that must not be sent for a reason of ours, seconds.
const STOPPED_S: i64 = 60;

impl Dispatcher {
    /// Sends, if nothing of ours stands against it.
    pub(super) async fn send(&self, lease: &Lease, stored: &StoredIntent) -> Result<Went, MoveError> {
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
    pub(super) async fn write_down(
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
        let marked = attempts::mark(&mut tx, lease, generation, call, needed_until, now).await?;
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

    /// Until when a call that may move money may begin: while the lease lasts long enough for it and the
    /// window of its key is open. A process that was stopped in between must not send when it wakes; what
    /// was written down may have been closed by others (F-P-15, F-T-03).
    fn send_by(&self, lease: &Lease, stored: &StoredIntent) -> Timestamp {
        let by_lease = lease.until.plus_micros(-micros(self.app.config.stripe.timeout));
        stored.intent.window_ends().map_or(by_lease, |end| end.min(by_lease))
    }
}
