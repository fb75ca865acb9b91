//! Reading receiving accounts from the provider: before a call that needs one, and for settlements that
//! passed somebody over because the account was told not to be ready. An event that told otherwise may
//! have been lost, and nothing else would ask again.

use tracing::{Instrument, debug, info_span, warn};

use super::{Dispatcher, Place};
use crate::{
    app::{
        organizations::PAYOUT_PROVIDER,
        payouts::{self, MoveError},
    },
    domain::{
        fact::{Fact, PayoutAccount},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{self, Outbound, Reply},
    store::{
        StoreError,
        account_checks::{self, Check},
        jobs, transfers,
    },
};

/// What became of a reading.
pub(super) enum Read {
    /// What the account can do; it is stored.
    Told(PayoutAccount),
    /// The provider answered something else.
    NotShown,
    /// Nobody answered.
    Unanswered,
}

impl Dispatcher {
    /// Takes accounts that settlements have asked for, as many as there are places, with their lanes.
    pub(super) async fn claim_checks(&self) -> Result<Vec<Check>, StoreError> {
        let (now, livemode) = (self.app.now(), self.app.config.livemode);
        let (free, closed) = {
            let lanes = self.lanes();
            (lanes.free(now), lanes.closed(now))
        };
        if free == 0 || self.transport.is_none() || self.stop.is_cancelled() {
            return Ok(Vec::new());
        }
        // Most often there is none, and a look disturbs nobody.
        if !account_checks::is_any_due(&mut self.app.db.read().await?, PAYOUT_PROVIDER, livemode, now).await?
        {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let mut tx = self.app.db.begin().await?;
        let checks =
            account_checks::claim_due(&mut tx, PAYOUT_PROVIDER, livemode, &closed, limit, now).await?;
        failpoint::reach(Failpoint::CheckBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::CheckAfterCommit);
        let mut lanes = self.lanes();
        for check in &checks {
            lanes.enter(&check.account_id);
        }
        Ok(checks)
    }

    /// Reads an account that was taken.
    pub(super) async fn check(&self, check: Check) {
        let span = info_span!("account", account.id = check.account_id);
        let place = Place { dispatcher: self, lane: &check.account_id };
        if let Err(failure) = self.try_check(&check).instrument(span.clone()).await {
            let _entered = span.enter();
            warn!(reason = %failure, "the account could not be read and is read again in an hour");
        }
        drop(place);
        self.app.wake.dispatch.notify_one();
    }

    async fn try_check(&self, check: &Check) -> Result<(), MoveError> {
        let livemode = self.app.config.livemode;
        let Some(provider) = outbound::outbound(PAYOUT_PROVIDER) else { return Ok(()) };
        let begin_by = self.app.now().plus_micros(super::micros(self.lease()));
        let read = self.read_account(provider, livemode, &check.account_id, begin_by).await?;
        let can_be_paid = match &read {
            Read::Told(account) => account.can_be_paid(),
            Read::NotShown => false,
            // It stays due, in an hour.
            Read::Unanswered => return Ok(()),
        };
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        account_checks::finish(&mut tx, PAYOUT_PROVIDER, livemode, check).await?;
        if can_be_paid {
            // Payouts that were made before may wait for what was lost, too.
            jobs::wake_accounts(&mut tx, &[&check.account_id], now).await?;
        }
        failpoint::reach(Failpoint::CheckBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::CheckAfterCommit);
        debug!(can_be_paid, "an account that was told not to be ready was read again");
        Ok(())
    }

    /// Reads an account and stores what it can do.
    pub(super) async fn read_account(
        &self,
        provider: &dyn Outbound,
        livemode: bool,
        account_id: &str,
        begin_by: Timestamp,
    ) -> Result<Read, MoveError> {
        self.token().await;
        let request = provider.account(account_id);
        let reply = self.call("account", provider.name(), provider.api_version(), &request, begin_by).await;
        self.learn_of_reading(account_id, &reply);
        // What an event tells of the same moment is newer than what was read here.
        let read_at = Timestamp::from_secs(self.app.now().as_secs() - 1);
        let account = provider.account_state(&reply, read_at);
        let Some(account) = account.filter(|account| account.account_id == account_id) else {
            debug!(account.id = account_id, "the provider does not show the receiving account");
            return Ok(match reply {
                Reply::Answered(response) if response.status != 429 && response.status < 500 => {
                    Read::NotShown
                }
                Reply::Answered(_) | Reply::Lost | Reply::NotSent => Read::Unanswered,
            });
        };
        let scope = payouts::own_scope(provider.name(), livemode);
        let fact = Fact::PayoutAccount(account.clone());
        let mut tx = self.app.db.begin().await?;
        transfers::save(&mut tx, std::iter::once((&scope, &fact))).await?;
        failpoint::reach(Failpoint::AccountBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::AccountAfterCommit);
        Ok(Read::Told(account))
    }
}
