//! A node of the program under test: database, configuration, a clock that the test moves.

use std::sync::Arc;

use remit::{
    app::{
        self, App, process, receive, refold, release,
        report::{self, Report},
        transfers,
    },
    clock::ManualClock,
    config::Config,
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    providers,
    store::{
        Db,
        inbox::{self, EventSource, InboxState, Inserted, NewEvent},
    },
};
use sha2::{Digest as _, Sha256};

/// A node with its own view of one database.
pub struct Node {
    /// The stages.
    pub app: App,
    /// The node's clock.
    pub clock: ManualClock,
}

impl Node {
    /// A node in test mode with the default settings and batches of `batch_events`.
    pub fn new(db: Db, batch_events: usize) -> Self {
        Self::with_settings(db, batch_events, &[])
    }

    /// A node with further settings, by their variables.
    pub fn with_settings(db: Db, batch_events: usize, settings: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap());
        let batch = [("REMIT_PROCESS__BATCH_EVENTS".to_owned(), batch_events.to_string())];
        let further = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Vec<_> = batch.into_iter().chain(further).collect();
        let no_secret_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let config = Config::load(None, environment, [], no_secret_file).unwrap();
        Self { app: App::new(db, Arc::new(config), Arc::new(clock.clone())), clock }
    }

    /// Stores an event as the receiver does, and says whether it was new.
    pub async fn receive(&self, project: &str, endpoint: &str, provider: &str, body: &[u8]) -> Inserted {
        self.receive_all(project, endpoint, provider, vec![body.to_vec()]).await[0]
    }

    /// Stores a report of the owner's as the API does, and says whether it was new.
    pub async fn receive_report(&self, project: &str, endpoint: &str, body: &[u8]) -> Inserted {
        let told: Report = serde_json::from_slice(body).unwrap();
        let now = self.app.now();
        let event = NewEvent {
            id: app::new_inbox_id(now),
            provider: report::PROVIDER,
            endpoint_id: endpoint.to_owned(),
            project_id: project.to_owned(),
            account: String::new(),
            livemode: false,
            provider_event_id: told.event_id(told.program_id.as_deref().unwrap()),
            event_type: report::EVENT_TYPE.to_owned(),
            provider_created_at: Some(told.occurred_at),
            received_at: now,
            state: InboxState::Received,
            reason: None,
            source: EventSource::Api,
            body_sha256: Sha256::digest(body).into(),
            body: body.to_vec(),
        };
        let mut tx = self.app.db.begin().await.unwrap();
        let inserted = inbox::insert_batch(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
        inserted[0]
    }

    /// Stores many events in one commit.
    pub async fn receive_all(
        &self,
        project: &str,
        endpoint: &str,
        provider: &str,
        bodies: Vec<Vec<u8>>,
    ) -> Vec<Inserted> {
        let inbound = providers::inbound(provider).unwrap();
        let endpoint = receive::Endpoint {
            id: EndpointId::parse(endpoint).unwrap(),
            project_id: ProjectId::parse(project).unwrap(),
            provider: inbound.name(),
            livemode: false,
            secrets: Vec::new(),
        };
        let event = |body: Vec<u8>| {
            let head = inbound.head(&body).unwrap();
            receive::new_event(&endpoint, head, body, EventSource::Webhook, self.app.now()).unwrap()
        };
        let events: Vec<_> = bodies.into_iter().map(event).collect();
        let mut tx = self.app.db.begin().await.unwrap();
        let inserted = inbox::insert_batch(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
        inserted
    }

    /// Processes until nothing waits: no event, no sale to be folded again, no transfer to be taken in.
    pub async fn process_all(&self) {
        while !process::step(&self.app).await.unwrap().is_idle() {}
        while refold::step(&self.app).await.unwrap() > 0 {}
        while transfers::step(&self.app).await.unwrap() > 0 {}
    }

    /// Lets time pass to `now` and releases until nothing is due.
    pub async fn pass_time(&self, now: Timestamp) {
        self.clock.set(now);
        while release::step(&self.app).await.unwrap() > 0 {}
    }
}
