//! The stages: each takes work from committed rows, decides with the domain, and ends in committed
//! rows. This is the only module that sees both the store and the providers, and the only one that
//! owns transactions. No network call is ever made inside one.

pub mod affiliate;
pub mod analytics;
pub mod archive;
pub mod audit;
pub mod bank_payouts;
pub mod charges;
pub mod clicks;
pub mod decide;
pub mod demo;
pub mod dispatch;
pub mod doctor;
pub mod endpoints;
pub mod enrollments;
pub mod events;
pub mod explain;
pub mod exports;
mod fold;
pub mod forget;
pub mod group;
pub mod holds;
pub mod idempotency;
pub mod instance;
pub mod jobs;
pub mod keys;
pub mod notices;
pub mod organizations;
pub mod payouts;
pub mod preview;
pub mod process;
pub mod programs;
pub mod reads;
pub mod receive;
pub mod reckon;
pub mod redirect;
pub mod refold;
mod refusal;
pub mod release;
pub mod replay;
pub mod report;
pub mod seal;
pub mod settle;
pub mod signup;
pub mod store_events;
pub mod touchpoints;
pub mod transfers;
pub mod worker;

use std::sync::Arc;

pub use refusal::Refusal;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    config::Config,
    domain::{ids, time::Timestamp},
    failpoint::{self, Failpoint},
    providers::MetadataKeys,
    store::{Db, StoreError, Tx},
};

/// What every stage works with. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct App {
    /// The database.
    pub db: Db,
    /// The resolved configuration.
    pub config: Arc<Config>,
    /// Read once per stage; everything below takes `now`.
    pub clock: Arc<dyn Clock>,
    /// Shortens the wait of the next stage. The poll is the truth, this is only a hint.
    pub wake: Arc<Wake>,
}

/// In-process signals between stages.
#[derive(Debug, Default)]
pub struct Wake {
    /// Something was received.
    pub process: Arc<Notify>,
    /// Something is due to be sent, or there is room to send it.
    pub dispatch: Arc<Notify>,
    /// Something was told of transfers.
    pub transfers: Arc<Notify>,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(db: Db, config: Arc<Config>, clock: Arc<dyn Clock>) -> Self {
        Self { db, config, clock, wake: Arc::default() }
    }

    /// The metadata keys that mean something to this node.
    pub(crate) fn metadata_keys(&self) -> MetadataKeys<'_> {
        MetadataKeys { codes: &self.config.attribution_keys, subjects: &self.config.subject_keys }
    }

    /// The clock, read now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Commits a change that somebody asked for, or that something which nobody needs is forgotten.
pub(crate) async fn commit_change(tx: Tx) -> Result<(), StoreError> {
    failpoint::reach(Failpoint::ChangeBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::ChangeAfterCommit);
    Ok(())
}

/// Commits that something cannot be done now, with the finding that says so.
pub(crate) async fn commit_postponed(tx: Tx) -> Result<(), StoreError> {
    failpoint::reach(Failpoint::PostponeBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::PostponeAfterCommit);
    Ok(())
}

/// Randomness for ids and keys, from the operating system.
#[must_use]
pub fn random_u128() -> u128 {
    let mut bytes = [0_u8; 16];
    fill_random(&mut bytes);
    u128::from_be_bytes(bytes)
}

/// Fills `bytes` with randomness from the operating system.
///
/// # Panics
/// When the operating system gives none: without it there are no ids and no keys.
pub fn fill_random(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the operating system gives randomness");
}

/// A new id that sorts by `now`.
macro_rules! new_id {
    ($kind:ty, $now:expr) => {
        <$kind>::random($now, $crate::app::random_u128())
    };
}
pub(crate) use new_id;

/// A new id for a stored event.
#[must_use]
pub fn new_inbox_id(now: Timestamp) -> ids::InboxId {
    new_id!(ids::InboxId, now)
}
