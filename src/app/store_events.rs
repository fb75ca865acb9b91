//! The store as the receiver sees it: batches of events in, endpoints out.
//!
//! Nothing is decided here. What the receiver needs of a store is [`EventStore`]; this implements it over
//! the real one.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;

use super::{
    App,
    endpoints::EndpointCache,
    group::GroupLimits,
    receive::{Committer, Endpoint, EventStore, ProviderEdge, Receiver, StoreFailure},
};
use crate::{
    domain::ids::EndpointId,
    failpoint::{self, Failpoint},
    providers,
    store::{
        StoreError,
        inbox::{self, Inserted, NewEvent},
    },
};

/// How often a batch is tried while other transactions are in the way. More than a few only holds up
/// providers that would deliver again anyway.
const ATTEMPTS_MAX: u32 = 5;

/// How long one delivery waits for its commit. Paddle calls again after 5 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Puts the receiver of `app` together. Its writers run on `tasks`, and end after
/// [`Committer::close`].
#[must_use]
pub fn start_receiver(app: &App, tasks: &TaskTracker) -> (Receiver<InboxStore>, Committer) {
    let settings = app.config.receive;
    let limits = GroupLimits {
        queued_max: settings.queue_events,
        batch_max: settings.batch_events,
        writers: if app.db.engine().has_one_writer() { 1 } else { settings.writers },
        answer_within: ANSWER_WITHIN,
    };
    let store = Arc::new(InboxStore::new(app.clone()));
    let committer = Committer::start(&store, limits, &app.wake.process, tasks);
    let edges = ProviderEdge::from_config(&app.config, providers::inbound);
    (Receiver::new(store, committer.clone(), edges, Arc::clone(&app.clock)), committer)
}

/// Stores events in the inbox of an [`App`].
pub struct InboxStore {
    app: App,
    endpoints: EndpointCache,
}

impl InboxStore {
    /// Stores into the database of `app`.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app, endpoints: EndpointCache::default() }
    }

    async fn insert_once(&self, events: &[NewEvent]) -> Result<Vec<Inserted>, StoreError> {
        let mut tx = self.app.db.begin().await?;
        let inserted = inbox::insert_batch(&mut tx, events).await?;
        failpoint::reach(Failpoint::ReceiveBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::ReceiveAfterCommit);
        Ok(inserted)
    }
}

impl EventStore for InboxStore {
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<Inserted>, StoreFailure> {
        let mut attempt = 1;
        loop {
            match self.insert_once(&events).await {
                // Another transaction was in the way, so nothing of this one was written.
                Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::task::yield_now().await;
                }
                result => return result.map_err(StoreFailure::new),
            }
        }
    }

    async fn endpoint(
        &self,
        provider: &'static str,
        id: &EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, StoreFailure> {
        self.endpoints.find(&self.app, provider, id).await.map_err(StoreFailure::new)
    }
}
