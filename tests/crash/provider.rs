//! A payment provider as remit sees it: signed deliveries over several connections at once, again and
//! again until each was answered 200.
//!
//! It keeps a journal of what it was told, because that is what the inbox is held against: in memory for
//! the tests, in a file for the auditor.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use remit::{
    clock::{Clock as _, SystemClock},
    providers,
};
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    program::{LOOK_EVERY, PATIENCE},
    support::auditor::{Delivered, TrafficJournal},
};

/// What the provider and the endpoint share.
pub const SECRET: &str = "whsec_of_the_crash_tests";
/// Deliveries under way at once.
const CONNECTIONS: usize = 6;

/// Delivers to whichever nodes there are.
pub struct Provider {
    client: Client,
    endpoint: String,
    /// Where nodes listen now; empty while there are none.
    nodes: watch::Sender<Vec<String>>,
    /// Grows with every 200.
    answered: watch::Sender<usize>,
    journal: Mutex<Journal>,
    file: Arc<SharedJournal>,
}

/// The journal for the auditor, written by everybody who delivers.
pub struct SharedJournal {
    journal: Mutex<TrafficJournal>,
    /// Where it is.
    pub path: PathBuf,
}

impl SharedJournal {
    /// A new journal.
    pub fn create(path: PathBuf) -> Self {
        Self { journal: Mutex::new(TrafficJournal::create(path.clone())), path }
    }

    /// Notes a delivery and how it was answered.
    pub fn add(&self, delivered: &Delivered<'_>, status: Option<u16>) {
        self.journal.lock().unwrap().add(delivered, status);
    }
}

#[derive(Default)]
struct Journal {
    bodies: BTreeMap<String, Vec<u8>>,
    acknowledged: BTreeSet<String>,
}

impl Provider {
    /// Delivers to this endpoint.
    pub fn of_endpoint(id: &str, file: Arc<SharedJournal>) -> Self {
        // The first test installs it; another's choice is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        Self {
            client: Client::builder().no_proxy().timeout(PATIENCE).build().unwrap(),
            endpoint: id.to_owned(),
            nodes: watch::Sender::new(Vec::new()),
            answered: watch::Sender::new(0),
            journal: Mutex::default(),
            file,
        }
    }

    /// From now on the endpoint is at these addresses.
    pub fn send_to(&self, nodes: &[&str]) {
        self.nodes.send_replace(nodes.iter().map(|&node| node.to_owned()).collect());
    }

    /// Delivers all of it and returns when every delivery was answered 200.
    pub async fn deliver(&self, deliveries: Vec<Value>) {
        let waiting = Mutex::new(VecDeque::from(deliveries));
        let connection = async |number: usize| {
            loop {
                let Some(event) = waiting.lock().unwrap().pop_front() else { return };
                while !self.deliver_once(number, &event).await {
                    sleep(LOOK_EVERY).await;
                }
            }
        };
        let connections = (0..CONNECTIONS).map(connection);
        timeout(2 * PATIENCE, join_all(connections)).await.expect("a node that takes the deliveries");
    }

    /// Whether it was answered 200. Every other end tells nothing about what became of the event.
    async fn deliver_once(&self, connection: usize, event: &Value) -> bool {
        let mut nodes = self.nodes.subscribe();
        let node = {
            let nodes = nodes.wait_for(|nodes| !nodes.is_empty()).await.unwrap();
            nodes[connection % nodes.len()].clone()
        };
        let id = event["id"].as_str().unwrap().to_owned();
        let body = event.to_string().into_bytes();
        self.journal.lock().unwrap().bodies.insert(id.clone(), body.clone());
        let stripe = providers::inbound("stripe").unwrap();
        let signature = stripe.sign(&body, &SecretString::from(SECRET), SystemClock.now());
        let answer = self
            .client
            .post(format!("{node}/webhooks/stripe/{}", self.endpoint))
            .header(stripe.signature_header(), signature)
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
            .await;
        let answer = answer.map(|answer| answer.status());
        let delivered = Delivered {
            provider: "stripe",
            endpoint: &self.endpoint,
            account: "",
            livemode: false,
            event_id: &id,
            body: &body,
        };
        self.file.add(&delivered, answer.as_ref().ok().map(StatusCode::as_u16));
        match answer {
            Ok(StatusCode::OK) => {
                self.journal.lock().unwrap().acknowledged.insert(id);
                self.answered.send_modify(|answered| *answered += 1);
                true
            }
            // Another program may have been given the port of a node that died.
            Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_FOUND) | Err(_) => false,
            Ok(status) => panic!("a genuine delivery was answered {status}"),
        }
    }

    /// Waits until so many more deliveries were answered 200.
    pub async fn answers(&self, more: usize) {
        let mut answered = self.answered.subscribe();
        let enough = *answered.borrow() + more;
        timeout(PATIENCE, answered.wait_for(|answered| *answered >= enough)).await.unwrap().unwrap();
    }

    /// The events that were answered 200, with the bytes that were sent.
    pub fn acknowledged(&self) -> BTreeMap<String, Vec<u8>> {
        let journal = self.journal.lock().unwrap();
        journal.acknowledged.iter().map(|id| (id.clone(), journal.bodies[id].clone())).collect()
    }
}

/// Runs futures beside each other in this task.
async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut rest: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        rest.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if rest.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
