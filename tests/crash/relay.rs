//! What stands between the sandbox and the nodes: it takes the sandbox's webhooks at one address that
//! never changes and hands them, as they are, to whichever nodes are there, by turns. Where none is, it answers 503,
//! as a load balancer would, and the sandbox tries again later.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use reqwest::Client;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{program::PATIENCE, provider::SharedJournal, support::auditor::Delivered};

/// The header that carries the signature.
const SIGNATURE: &str = "stripe-signature";
/// The endpoint behind `/webhooks/stripe`.
const ENDPOINT: &str = "ep_default_stripe";

/// Hands webhooks on until it is dropped.
pub struct Relay {
    /// Where the sandbox sends to.
    pub url: String,
    nodes: watch::Sender<Vec<String>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    client: Client,
    nodes: watch::Receiver<Vec<String>>,
    turn: Arc<AtomicUsize>,
    journal: Arc<SharedJournal>,
}

impl Relay {
    /// Starts with no node behind it.
    pub async fn start(journal: Arc<SharedJournal>) -> Self {
        let (nodes, behind) = watch::channel(Vec::new());
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let shared = Shared { client, nodes: behind, turn: Arc::default(), journal };
        let routes = Router::new().route("/", post(hand_on)).with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, nodes, serving }
    }

    /// From now on webhooks go to the nodes at these addresses.
    pub fn send_to(&self, nodes: &[&str]) {
        self.nodes.send_replace(nodes.iter().map(|&node| node.to_owned()).collect());
    }

    /// The address of a node, where there is one.
    pub fn node(&self) -> Option<String> {
        self.nodes.borrow().first().cloned()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn hand_on(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let nodes = shared.nodes.borrow().clone();
    let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
    let Some(node) = nodes.get(turn.checked_rem(nodes.len()).unwrap_or(0)) else {
        return StatusCode::SERVICE_UNAVAILABLE;
    };
    let answer = shared
        .client
        .post(format!("{node}/webhooks/stripe"))
        .header(SIGNATURE, &headers[SIGNATURE])
        .header("content-type", "application/json")
        .body(body.clone())
        .send()
        .await;
    let status = answer.ok().map(|answer| answer.status());
    let event: Value = serde_json::from_slice(&body).unwrap();
    let delivered = Delivered {
        provider: "stripe",
        endpoint: ENDPOINT,
        account: event["account"].as_str().unwrap_or_default(),
        livemode: event["livemode"].as_bool().unwrap(),
        event_id: event["id"].as_str().unwrap(),
        body: &body,
    };
    shared.journal.add(&delivered, status.map(|status| status.as_u16()));
    status.unwrap_or(StatusCode::BAD_GATEWAY)
}
