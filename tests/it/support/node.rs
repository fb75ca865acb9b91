//! A node of the program under test: database, configuration, a clock that the test moves.

use std::sync::Arc;

use remit::{
    app::{App, process, receive, release},
    clock::ManualClock,
    config::Config,
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    providers,
    store::{
        Db,
        inbox::{self, EventSource, Inserted},
    },
};

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
        let clock = ManualClock::new(Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap());
        let environment = [("REMIT_PROCESS__BATCH_EVENTS".to_owned(), batch_events.to_string())];
        let no_secret_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let config = Config::load(None, environment, [], no_secret_file).unwrap();
        Self { app: App::new(db, Arc::new(config), Arc::new(clock.clone())), clock }
    }

    /// Stores an event as the receiver does, and says whether it was new.
    pub async fn receive(&self, project: &str, endpoint: &str, provider: &str, body: &[u8]) -> Inserted {
        let inbound = providers::inbound(provider).unwrap();
        let endpoint = receive::Endpoint {
            id: EndpointId::parse(endpoint).unwrap(),
            project_id: ProjectId::parse(project).unwrap(),
            provider: inbound.name(),
            livemode: false,
            secrets: Vec::new(),
        };
        let head = inbound.head(body).unwrap();
        let event =
            receive::new_event(&endpoint, head, body.to_vec(), EventSource::Webhook, self.app.now()).unwrap();
        let mut tx = self.app.db.begin().await.unwrap();
        let inserted = inbox::insert_batch(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
        inserted[0]
    }

    /// Processes until nothing waits.
    pub async fn process_all(&self) {
        while !process::step(&self.app).await.unwrap().is_idle() {}
    }

    /// Lets time pass to `now` and releases until nothing is due.
    pub async fn pass_time(&self, now: Timestamp) {
        self.clock.set(now);
        while release::step(&self.app).await.unwrap() > 0 {}
    }
}
