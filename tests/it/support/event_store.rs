//! The receiver on a real database: routes, committer and the store behind them.

use std::{sync::Arc, time::Duration};

use axum::Router;
use remit::{
    app::{
        group::GroupLimits,
        receive::{Committer, Endpoint, EventStore, ProviderEdge, Receiver, StoreFailure},
    },
    clock::ManualClock,
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    http::{edge, openapi, webhooks},
    providers,
    store::{
        Db,
        inbox::{self, Inserted, NewEvent},
    },
};
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::shop::PAID_AT_S;

/// The largest body that the routes take: the default of `REMIT_SERVER__MAX_BODY_BYTES`.
pub const MAX_BODY_BYTES: usize = 1_048_576;

const SECRET: &str = "whsec_of_the_tests";

/// One transaction per batch, and no endpoints but the default ones.
struct DbEventStore(Db);

impl EventStore for DbEventStore {
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<Inserted>, StoreFailure> {
        let mut tx = self.0.begin().await.map_err(StoreFailure::new)?;
        let inserted = inbox::insert_batch(&mut tx, &events).await.map_err(StoreFailure::new)?;
        tx.commit().await.map_err(StoreFailure::new)?;
        Ok(inserted)
    }

    async fn endpoint(
        &self,
        _provider: &'static str,
        _id: &EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, StoreFailure> {
        Ok(None)
    }
}

/// `POST /webhooks/stripe` on this database, with everything that the edge puts around it.
pub fn webhooks(db: Db, tasks: &TaskTracker) -> Router {
    let store = Arc::new(DbEventStore(db));
    let limits =
        GroupLimits { queued_max: 4_096, batch_max: 64, writers: 4, answer_within: Duration::from_secs(30) };
    let committer = Committer::start(&store, limits, &Arc::new(Notify::new()), tasks);
    let inbound = providers::inbound("stripe").unwrap();
    let default_endpoint = Endpoint {
        id: EndpointId::parse("ep_default_stripe").unwrap(),
        project_id: ProjectId::parse("proj_default").unwrap(),
        provider: "stripe",
        livemode: false,
        secrets: vec![SecretString::from(SECRET)],
    };
    let provider = ProviderEdge {
        livemode: false,
        name: "stripe",
        inbound,
        tolerance_s: 300,
        default_endpoint: Some(Arc::new(default_endpoint)),
    };
    let clock = ManualClock::new(Timestamp::from_secs(PAID_AT_S));
    let receiver = Receiver::new(store, committer, vec![provider], Arc::new(clock));
    edge(openapi::described(webhooks::routes(receiver, MAX_BODY_BYTES)), tasks)
}

/// The value of `stripe-signature` that those routes accept for `body`.
pub fn signature(body: &[u8]) -> String {
    let inbound = providers::inbound("stripe").unwrap();
    inbound.sign(body, &SecretString::from(SECRET), Timestamp::from_secs(PAID_AT_S))
}
