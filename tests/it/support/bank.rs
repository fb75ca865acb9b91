//! A shop that pays: its node, a dispatcher, and the provider sandbox in the same process, with one time
//! for both that only the test moves.

use std::{collections::BTreeSet, sync::Mutex};

use remit::{
    app::{Refusal, dispatch::Dispatcher, keys::Principal, payouts, settle},
    domain::ids::{PayoutId, ProgramId},
    sandbox::{Delivery, Options, Running, Sandbox},
    transport::Transport,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    TestDb,
    auditor::Audit,
    node::Node,
    program::Owner,
    shop::{self, PAID_AT_S, Shop},
};

/// Where the sandbox writes down what it did.
const JOURNAL: &str = "sandbox.ndjson";

/// The platform's key at the sandbox.
pub const KEY: &str = "sk_test_bank";

/// A shop with a provider.
pub struct Bank {
    /// The shop.
    pub shop: Shop,
    /// The provider.
    pub sandbox: Running,
    /// Makes the calls.
    pub dispatcher: Dispatcher,
    told: Mutex<BTreeSet<String>>,
    url: String,
    home: TempDir,
}

impl Bank {
    /// A shop of which ada and bob have accounts at the provider, `acct_ada` and `acct_bob`.
    pub async fn open(db: &TestDb) -> Self {
        Self::open_with(db, &[]).await
    }

    /// The same with further settings.
    pub async fn open_with(db: &TestDb, settings: &[(&str, &str)]) -> Self {
        Self::build(db, "shop", settings).await
    }

    /// One of several shops in one database, each with a provider of its own.
    pub async fn open_named(db: &TestDb, name: &str) -> Self {
        Self::build(db, name, &[]).await
    }

    async fn build(test_db: &TestDb, name: &str, settings: &[(&str, &str)]) -> Self {
        let db = &test_db.db;
        let home = tempfile::tempdir().unwrap();
        let options = Options {
            delivery: Delivery::OnFlush,
            frozen: true,
            start_us: Some(PAID_AT_S * 1_000_000),
            secret_keys: vec![KEY.to_owned()],
            journal: Some(home.path().join(JOURNAL)),
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
        all.retain(|(name, _)| settings.iter().all(|(other, _)| other != name));
        all.extend_from_slice(settings);
        let node = Node::with_settings(db.clone(), 16, &all);
        let dispatcher = Self::dispatcher_of(&node);
        let shop = Shop::open_on(node, db, name, &json!({})).await;
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
        Self { shop, sandbox, dispatcher, told: Mutex::default(), url: test_db.url().to_owned(), home }
    }

    /// A dispatcher of its own for a node, as another process would have.
    pub fn dispatcher_of(node: &Node) -> Dispatcher {
        let transport = Transport::new(&node.app.config.stripe).unwrap();
        Dispatcher::new(node.app.clone(), transport, TaskTracker::new(), CancellationToken::new())
    }

    /// A dispatcher of a node that is stopping.
    pub fn stopped_dispatcher(&self) -> Dispatcher {
        let stop = CancellationToken::new();
        stop.cancel();
        let transport = Transport::new(&self.shop.node.app.config.stripe).unwrap();
        Dispatcher::new(self.shop.node.app.clone(), transport, TaskTracker::new(), stop)
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
        let bodies = self.untold(None, None).await;
        if !bodies.is_empty() {
            self.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
        }
        self.shop.node.process_all().await;
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

    /// Changes something that a caller would change by other routes.
    pub async fn change(&self, sql: &'static str) {
        let mut tx = self.shop.node.app.db.begin().await.unwrap();
        tx.q(sql).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn of_program(&self, sql: &'static str) -> Vec<String> {
        let mut conn = self.shop.node.app.db.read().await.unwrap();
        conn.q(sql).bind(self.program()).scalars().await.unwrap()
    }

    fn program(&self) -> String {
        self.shop.owner.id("prog_", "fifth")
    }

    /// The states of the shop's payouts.
    pub async fn payouts(&self) -> Vec<String> {
        self.of_program("SELECT state FROM payout WHERE program_id = $1 ORDER BY created_at_us, id").await
    }

    /// Why they are in their states.
    pub async fn reasons(&self) -> Vec<String> {
        self.of_program("SELECT reason FROM payout WHERE program_id = $1 AND reason IS NOT NULL ORDER BY id")
            .await
    }

    /// The states of their jobs.
    pub async fn jobs(&self) -> Vec<String> {
        self.of_program(
            "SELECT j.state FROM job j JOIN intent i ON i.id = j.intent_id JOIN payout p ON p.id = i.payout_id
             WHERE p.program_id = $1 ORDER BY p.created_at_us, p.id",
        )
        .await
    }

    /// The states that the shop's commissions are in.
    pub async fn commissions(&self) -> Vec<String> {
        self.of_program("SELECT DISTINCT state FROM commission WHERE program_id = $1 ORDER BY state").await
    }

    /// The keys under which transfers were sent.
    pub async fn keys(&self) -> BTreeSet<String> {
        let sent = self.requests("POST", "/v1/transfers").await;
        sent.iter().map(|line| line["idempotency_key"].as_str().unwrap().to_owned()).collect()
    }

    /// An affiliate's balance in USD: held, payable, in transit, paid.
    pub async fn assert_balance(&self, affiliate: &str, expected: [i64; 4]) {
        const SQL: &str = "SELECT account, credit_minor - debit_minor FROM balance
            WHERE owner_id = $1 AND currency = 'usd'";
        let mut conn = self.shop.node.app.db.read().await.unwrap();
        let rows: Vec<(String, i64)> = conn.q(SQL).bind(self.shop.enrollment(affiliate)).all().await.unwrap();
        let found = ["held", "payable", "in_transit", "paid"]
            .map(|account| rows.iter().find(|row| row.0 == account).map_or(0, |row| row.1));
        assert_eq!(found, expected, "{affiliate}: held, payable, in transit, paid");
    }

    /// Lets what is due be released.
    pub async fn pass_time(&self) {
        let now = self.shop.node.app.now();
        self.shop.node.pass_time(now).await;
    }

    /// Settles the shop's program now. Returns who was skipped, and why.
    pub async fn settle(&self) -> Vec<(String, String)> {
        let request =
            settle::Request { program: ProgramId::parse(&self.program()).unwrap(), as_of: None, key: None };
        let settled = settle::run(&self.shop.node.app, &Principal::console(), &request).await.unwrap();
        let prefix = self.shop.owner.id("par_", "");
        let name = |id: &str| id.strip_prefix(&prefix).unwrap().to_owned();
        settled
            .skipped
            .iter()
            .map(|line| (name(line.enrollment_id.as_str()), line.reason.as_str().to_owned()))
            .collect()
    }

    /// Gives up the payout that was made last.
    pub async fn cancel(&self) -> Result<(), Refusal> {
        let ids = self
            .of_program("SELECT id FROM payout WHERE program_id = $1 ORDER BY created_at_us DESC, id LIMIT 1")
            .await;
        let id = PayoutId::parse(&ids[0]).unwrap();
        payouts::cancel(&self.shop.node.app, &Principal::console(), &id).await
    }

    /// `refunded` of a sale of `amount` is given back.
    pub async fn refund(&self, sale: &str, amount: i64, refunded: i64) {
        assert!(refunded <= amount);
        self.shop.tell_and_process(&[shop::refund(&format!("{sale}_{refunded}"), sale, refunded)]).await;
    }

    /// The buyer's bank asks for all of a sale of `amount`.
    pub async fn dispute(&self, sale: &str, amount: i64) {
        let object = json!({
            "id": format!("dp_{sale}"), "charge": format!("ch_{sale}"), "amount": amount, "currency": "usd",
            "status": "needs_response", "balance_transactions": [],
        });
        let event = shop::stripe(&format!("dp_{sale}"), "charge.dispute.created", &object);
        self.shop.tell_and_process(&[event]).await;
    }

    /// The provider takes part of the only transfer back.
    pub async fn reverse(&self, amount: &str) {
        let made = self.effects("transfer.created").await;
        let id = made.last().unwrap()["id"].as_str().unwrap();
        let done = self.post(&format!("/v1/transfers/{id}/reversals"), &[("amount", amount)]).await;
        assert_eq!(done["object"], "transfer_reversal", "{done}");
    }

    /// Delivers the events of one type that were not delivered yet.
    pub async fn tell_only(&self, event_type: &str) {
        let bodies = self.untold(None, Some(event_type)).await;
        self.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
        self.shop.node.process_all().await;
    }

    /// Delivers the events of a connected account.
    pub async fn tell_account(&self, account: &str) {
        let bodies = self.untold(Some(account), None).await;
        self.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
        self.shop.node.process_all().await;
    }

    /// Delivers what the platform's provider told as if an endpoint of another owner's project had.
    pub async fn tell_from_a_stranger(&self) {
        let db = &self.shop.node.app.db;
        let stranger = Owner::create(db, "stranger").await;
        let bodies = self.untold(None, None).await;
        let node = &self.shop.node;
        node.receive_all(&stranger.project(), &stranger.endpoint("a"), "stripe", bodies).await;
        node.process_all().await;
    }

    /// Processes these events of the platform's own endpoint, in one delivery.
    pub async fn deliver(&self, events: &[Value]) {
        let bodies = events.iter().map(|event| event.to_string().into_bytes()).collect();
        self.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
        self.shop.node.process_all().await;
    }

    /// The provider's events that nobody asked for yet, oldest first, of one account or type only.
    pub async fn untold(&self, account: Option<&str>, event_type: Option<&str>) -> Vec<Vec<u8>> {
        let url = format!("{}/v1/events?limit=100", self.sandbox.url());
        let mut request = reqwest::Client::new().get(url).bearer_auth(KEY);
        if let Some(account) = account {
            request = request.header("Stripe-Account", account);
        }
        let events: Value = request.send().await.unwrap().json().await.unwrap();
        let mut bodies = Vec::new();
        for event in events["data"].as_array().unwrap().iter().rev() {
            let wanted = event_type.is_none_or(|wanted| event["type"] == wanted);
            let id = event["id"].as_str().unwrap();
            if wanted && self.told.lock().unwrap().insert(id.to_owned()) {
                bodies.push(event.to_string().into_bytes());
            }
        }
        bodies
    }

    /// Lets the independent auditor compare the database with what the provider did.
    pub async fn audit(&self) {
        self.shop.node.process_all().await;
        let journal = self.home.path().join(JOURNAL);
        let (url, now) = (self.url.clone(), self.shop.node.app.now());
        // It runs another program, which waits for no runtime of ours.
        let audited = tokio::task::spawn_blocking(move || {
            Audit { url: &url, sandbox: Some(&journal), traffic: None, now }.assert_clean();
        });
        audited.await.unwrap();
    }

    /// The open findings' kinds, sorted.
    pub async fn findings(&self) -> Vec<String> {
        self.texts("SELECT kind FROM finding WHERE resolved_at_us IS NULL ORDER BY kind").await
    }
}
