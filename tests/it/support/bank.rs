//! A shop that pays: its node, a dispatcher, and the provider sandbox in the same process, with one time
//! for both that only the test moves.

use remit::{
    app::dispatch::Dispatcher,
    sandbox::{Delivery, Options, Running, Sandbox},
    store::Db,
    transport::Transport,
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    node::Node,
    shop::{PAID_AT_S, Shop},
};

/// The platform's key at the sandbox.
const KEY: &str = "sk_test_bank";

/// A shop with a provider.
pub struct Bank {
    /// The shop.
    pub shop: Shop,
    /// The provider.
    pub sandbox: Running,
    /// Makes the calls.
    pub dispatcher: Dispatcher,
    told: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

impl Bank {
    /// A shop of which ada and bob have accounts at the provider, `acct_ada` and `acct_bob`.
    pub async fn open(db: &Db) -> Self {
        Self::open_with(db, &[]).await
    }

    /// The same with further settings.
    pub async fn open_with(db: &Db, settings: &[(&str, &str)]) -> Self {
        let options = Options {
            delivery: Delivery::OnFlush,
            frozen: true,
            start_us: Some(PAID_AT_S * 1_000_000),
            secret_keys: vec![KEY.to_owned()],
            ..Options::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        for account in ["acct_ada", "acct_bob"] {
            sandbox.control("POST", "accounts", json!({ "id": account })).await.unwrap();
        }
        let url = sandbox.url();
        let mut all = vec![
            ("REMIT_STRIPE__SECRET_KEY", KEY),
            ("REMIT_STRIPE__API_BASE", &*url),
            ("REMIT_STRIPE__TIMEOUT_S", "2"),
            ("REMIT_PAYOUTS__LIVE", "true"),
            ("REMIT_PAYMENTS__ENABLED", "true"),
        ];
        all.extend_from_slice(settings);
        let node = Node::with_settings(db.clone(), 16, &all);
        let dispatcher = Self::dispatcher_of(&node);
        let shop = Shop::open_on(node, db, &json!({})).await;
        let mut tx = db.begin().await.unwrap();
        tx.q("UPDATE program SET min_payout = '{\"usd\":0,\"eur\":0}'").exec().await.unwrap();
        for affiliate in ["ada", "bob"] {
            tx.q("INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
                  VALUES ($1, 'stripe', $2, 0)")
                .bind(shop.owner.id("org_", affiliate))
                .bind(format!("acct_{affiliate}"))
                .exec()
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        Self { shop, sandbox, dispatcher, told: std::sync::Mutex::default() }
    }

    /// A dispatcher of its own for a node, as another process would have.
    pub fn dispatcher_of(node: &Node) -> Dispatcher {
        let transport = Transport::new(&node.app.config.stripe).unwrap();
        Dispatcher::new(node.app.clone(), transport, TaskTracker::new(), CancellationToken::new())
    }

    /// Lets time pass here and at the provider.
    pub async fn advance(&self, seconds: u32) {
        self.shop.node.clock.advance_secs(i64::from(seconds));
        self.sandbox.advance(seconds).await;
    }

    /// Sends what is due.
    pub async fn dispatch(&self) -> usize {
        self.dispatcher.work_off().await.unwrap()
    }

    /// Sends, and lets time pass in steps of `step_s`, until nothing was due for `times` steps.
    pub async fn dispatch_over(&self, step_s: u32, times: usize) {
        for _ in 0..times {
            self.dispatch().await;
            self.advance(step_s).await;
        }
    }

    /// Delivers every event of the provider's that was not delivered yet, and processes it.
    pub async fn tell(&self) {
        let events = self.get("/v1/events?limit=100").await;
        let mut bodies = Vec::new();
        for event in events["data"].as_array().unwrap().iter().rev() {
            if self.told.lock().unwrap().insert(event["id"].as_str().unwrap().to_owned()) {
                bodies.push(event.to_string().into_bytes());
            }
        }
        if !bodies.is_empty() {
            self.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
        }
        self.shop.node.process_all().await;
    }

    /// Reads from the provider as its owner would.
    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.sandbox.url());
        reqwest::Client::new().get(url).bearer_auth(KEY).send().await.unwrap().json().await.unwrap()
    }

    /// Asks the provider for something as its owner would, with a form body.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let url = format!("{}{path}", self.sandbox.url());
        let request = reqwest::Client::new().post(url).bearer_auth(KEY).form(form);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// What the provider did, in order: kind of effect and the object.
    pub async fn effects(&self, effect: &str) -> Vec<Value> {
        let journal = self.sandbox.journal().await;
        let is_it = |line: &&Value| line["kind"] == "effect" && line["effect"] == effect;
        journal.iter().filter(is_it).map(|line| line["object"].clone()).collect()
    }

    /// The requests that the provider saw: method, path and key.
    pub async fn requests(&self, method: &str, path: &str) -> Vec<Value> {
        let journal = self.sandbox.journal().await;
        let is_it =
            |line: &&Value| line["kind"] == "request" && line["method"] == method && line["path"] == path;
        journal.iter().filter(is_it).cloned().collect()
    }

    /// One text column, in order.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        let mut conn = self.shop.node.app.db.read().await.unwrap();
        conn.q(sql).scalars().await.unwrap()
    }

    /// The open findings' kinds, sorted.
    pub async fn findings(&self) -> Vec<String> {
        self.texts("SELECT kind FROM finding WHERE resolved_at_us IS NULL ORDER BY kind").await
    }
}
