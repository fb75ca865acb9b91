//! A shop that pays: its sales, real nodes, and the provider sandbox that they send money through.
//!
//! Every affiliate has a program, an account and a sale of its own, so that one settlement pays one of
//! them, and a test can say of each what became of it. Time is real; only the ends of leases and of pauses
//! between attempts are brought about by hand where a test would wait for nothing else.

use std::{collections::BTreeMap, sync::Mutex};

use remit::{
    clock::{Clock as _, SystemClock},
    sandbox::{Options, Running, Sandbox, WebhookEndpoint},
    store::Db,
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    keys::CLAIMS_RUN_OUT,
    program::{LOOK_EVERY, PATIENCE, Server},
    relay::Relay,
    run::Run,
    support::{
        TestDb, books,
        shop::{GRACE_S, charge},
    },
};

/// The platform's key at the sandbox.
const KEY: &str = "sk_test_of_the_crash_tests";
/// What the sandbox signs with.
const WEBHOOK_SECRET: &str = "whsec_of_the_sandbox";
/// Every affiliate earns a fifth of its sale.
const TERMS: &str = r#"{"commission": {"type": "percentage", "bps": 2000}, "commission_base": "gross",
    "approval_mode": "auto", "flat_on_partial": "keep", "hold_period_days": 0}"#;
/// One provider call, seconds. A lease is three of them and five seconds.
const TIMEOUT_S: &str = "1";
/// The sandbox's journal.
const JOURNAL: &str = "sandbox.ndjson";

/// See the module.
pub struct Payday {
    /// The shop.
    pub run: Run,
    /// The provider.
    pub sandbox: Running,
    relay: Relay,
    client: Client,
    key: String,
    /// What every affiliate is owed by its sale.
    owed: Mutex<BTreeMap<String, i64>>,
    /// For the journal of the sandbox.
    home: TempDir,
}

impl Payday {
    /// Everything is there but affiliates and nodes.
    pub async fn on(db: TestDb) -> Self {
        Self::with(db, &[]).await
    }

    /// The same on nodes with further settings.
    pub async fn with(db: TestDb, further: &[(&'static str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = Options {
            secret_keys: vec![KEY.to_owned()],
            journal: Some(home.path().join(JOURNAL)),
            ..Options::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let url = sandbox.url();
        let mut settings = vec![
            ("REMIT_STRIPE__SECRET_KEY", KEY),
            ("REMIT_STRIPE__API_BASE", &*url),
            ("REMIT_STRIPE__TIMEOUT_S", TIMEOUT_S),
            ("REMIT_STRIPE__WEBHOOK_SECRETS", WEBHOOK_SECRET),
            ("REMIT_DISPATCH__RATE_PER_S", "1000"),
            ("REMIT_PAYOUTS__LIVE", "true"),
        ];
        settings.extend_from_slice(further);
        let run = Run::with(db, &settings).await;
        let relay = Relay::start(run.traffic.clone()).await;
        let secret = WEBHOOK_SECRET.to_owned();
        let webhook = WebhookEndpoint { url: relay.url.clone(), secret, connect: false };
        sandbox.add_webhook(webhook).await.unwrap();
        let made = run.program.data(&["keys", "create", "--kind", "operator"]).await;
        let key = made["key"].as_str().unwrap().to_owned();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { run, sandbox, relay, client, key, owed: Mutex::default(), home }
    }

    fn db(&self) -> &Db {
        &self.run.db().db
    }

    /// Starts a node; from now on everything is delivered to it.
    pub async fn serve(&self) -> Server {
        self.serve_with(&[]).await
    }

    /// The same with further settings.
    pub async fn serve_with(&self, more: &[(&str, &str)]) -> Server {
        let node = self.run.program.serve_with(more).await;
        self.send_to(std::slice::from_ref(&node));
        node
    }

    /// From now on everything is delivered to these nodes.
    pub fn send_to(&self, nodes: &[Server]) {
        let addresses: Vec<&str> = nodes.iter().map(|node| node.base.as_str()).collect();
        self.run.provider.send_to(&addresses);
        self.relay.send_to(&addresses);
    }

    /// From now on the sandbox's webhooks find nobody.
    pub fn cut_webhooks(&self) {
        self.relay.send_to(&[]);
    }

    /// Gives every affiliate a program, an account and a sale, and waits until a fifth of it is payable.
    pub async fn earn(&self, affiliates: &[&str]) {
        for &name in affiliates {
            self.employ(name).await;
        }
        self.sell(affiliates).await;
    }

    /// Gives an affiliate a program and an account.
    pub async fn employ(&self, name: &str) {
        self.open_program(name).await;
        self.hire(name, name).await;
    }

    /// The same for affiliates of one program.
    pub async fn earn_together(&self, program: &str, affiliates: &[&str]) {
        self.open_program(program).await;
        for &name in affiliates {
            self.hire(program, name).await;
        }
        self.sell(affiliates).await;
    }

    async fn open_program(&self, name: &str) {
        for db in [&self.run.reference_db().db, self.db()] {
            self.run.reference.owner.create_program(db, name, TERMS).await;
        }
    }

    async fn hire(&self, program: &str, name: &str) {
        for db in [&self.run.reference_db().db, self.db()] {
            let address = format!("{name}@example.com");
            self.run.reference.owner.enroll(db, program, name, name, &address).await;
        }
        self.open_account(name).await;
    }

    /// A sale by each of them.
    async fn sell(&self, affiliates: &[&str]) {
        let node = self.serve().await;
        let events: Vec<Value> = affiliates.iter().map(|&name| self.sale(name)).collect();
        self.run.tell_reference(&events).await;
        self.run.provider.deliver(events).await;
        self.run.settled(&node).await;
    }

    /// A sale by an affiliate, a fifth of which it is owed.
    pub fn sale(&self, name: &str) -> Value {
        let amount = self.amount_of_next_sale();
        self.owed.lock().unwrap().insert(name.to_owned(), amount / 5);
        let mut sale = charge(name, amount, None);
        sale["data"]["object"]["metadata"] = json!({ "referral_code": name });
        sale
    }

    /// No two alike, so that a wrong one is seen.
    fn amount_of_next_sale(&self) -> i64 {
        10_000 + 500 * i64::try_from(self.owed.lock().unwrap().len()).unwrap()
    }

    /// The affiliate is paid whatever it is owed, to an account of its own.
    pub async fn open_account(&self, name: &str) {
        const ACCOUNT: &str =
            "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
            VALUES ($1, 'stripe', $2, 0)";
        self.sandbox.control("POST", "accounts", json!({ "id": account(name) })).await.unwrap();
        let mut tx = self.db().begin().await.unwrap();
        tx.q("UPDATE program SET min_payout = '{\"usd\":0}'").exec().await.unwrap();
        tx.q(ACCOUNT)
            .bind(self.run.reference.owner.id("org_", name))
            .bind(account(name))
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// The id of a program.
    pub fn program(&self, name: &str) -> String {
        self.run.reference.owner.id("prog_", name)
    }

    /// Where payouts of the affiliate's program are.
    pub fn payouts_path(&self, name: &str) -> String {
        format!("/v1/admin/affiliate/programs/{}/payouts", self.program(name))
    }

    /// Asks the node for something; none where it did not answer.
    pub async fn post(&self, node: &Server, path: &str, key: &str) -> Option<StatusCode> {
        self.post_to(&node.base, path, key).await
    }

    async fn post_to(&self, base: &str, path: &str, key: &str) -> Option<StatusCode> {
        let request = self.client.post(format!("{base}{path}")).bearer_auth(&self.key);
        let answer = request.header("idempotency-key", key).send().await;
        answer.ok().map(|answer| answer.status())
    }

    /// Asks whichever node there is to pay everybody in the program. None where none did.
    pub async fn settle_somewhere(&self, program: &str, key: &str) -> Option<StatusCode> {
        let base = self.relay.node()?;
        self.post_to(&base, &format!("{}/run", self.payouts_path(program)), key).await
    }

    /// Asks the node to pay the affiliate; always the same request under the same key. None where it did not answer.
    pub async fn settle(&self, node: &Server, name: &str) -> Option<StatusCode> {
        self.post(node, &format!("{}/run", self.payouts_path(name)), name).await
    }

    /// Scripts what goes wrong with the next requests that send money to the affiliate.
    pub async fn fault(&self, name: &str, times: u32, fault: Value) {
        let matching =
            json!({ "method": "POST", "path_prefix": "/v1/transfers", "destination": account(name) });
        let rule = json!({ "match": matching, "times": times, "fault": fault });
        self.sandbox.fault(rule).await.unwrap();
    }

    /// The leases of processes that are dead come to their end.
    pub async fn leases_run_out(&self) {
        self.change("UPDATE job SET next_attempt_at_us = 0 WHERE state = 'running'").await;
        self.claims_run_out().await;
    }

    /// The claims of processes that are dead, on the requests that they carried out, come to their end.
    pub async fn claims_run_out(&self) {
        self.change(CLAIMS_RUN_OUT).await;
    }

    /// The pauses between attempts come to their end.
    pub async fn pauses_end(&self) {
        self.change("UPDATE job SET next_attempt_at_us = 0 WHERE state IN ('retryable', 'unknown')").await;
    }

    /// Changes something behind the nodes' backs.
    pub async fn change(&self, sql: &'static str) {
        let mut tx = self.db().begin().await.unwrap();
        tx.q(sql).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Whether nobody keeps the database locked.
    pub async fn can_write(&self) -> bool {
        match self.db().begin().await {
            Ok(tx) => tx.rollback().await.is_ok(),
            Err(_) => false,
        }
    }

    /// A number of the tables.
    pub async fn number(&self, sql: &'static str) -> i64 {
        self.run.number(sql).await
    }

    /// Waits until a number of the tables is this.
    pub async fn until(&self, node: &Server, sql: &'static str, wanted: i64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.number(sql).await;
            if found == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{found} instead of {wanted}: {sql}\n{}", node.log());
            sleep(LOOK_EVERY).await;
        }
    }

    /// The same, without the pauses between attempts.
    pub async fn until_hastened(&self, node: &Server, sql: &'static str, wanted: i64) {
        let deadline = Instant::now() + PATIENCE;
        while self.number(sql).await != wanted {
            assert!(Instant::now() < deadline, "never {wanted}: {sql}\n{}", node.log());
            self.pauses_end().await;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until nothing is left to do: no event here or at the provider, no job, no run.
    pub async fn drained(&self, node: &Server) {
        const LEFT: &str = "SELECT CAST((SELECT COUNT(*) FROM inbox WHERE state = 'received')
            + (SELECT COUNT(*) FROM job WHERE state NOT IN ('completed', 'discarded'))
            + (SELECT COUNT(*) FROM transfer_news) + (SELECT COUNT(*) FROM refold)
            + (SELECT COUNT(*) FROM payout_run WHERE state = 'running') AS BIGINT)";
        self.webhooks_arrive(node).await;
        self.until(node, LEFT, 0).await;
        self.run.settled(node).await;
        // What was paid last is told, too.
        self.webhooks_arrive(node).await;
        self.until(node, LEFT, 0).await;
    }

    /// Waits until the sandbox has told everything.
    pub async fn webhooks_arrive(&self, node: &Server) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told =
                self.sandbox.control("POST", "webhooks/flush", json!({ "retries": true })).await.unwrap();
            if told["waiting"] == 0 && told["failed"] == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{told}\n{}", node.log());
            sleep(LOOK_EVERY).await;
        }
    }

    /// The transfers that the provider made to an affiliate.
    pub async fn transfers_to(&self, name: &str) -> Vec<Value> {
        let journal = self.sandbox.journal().await;
        let is_it = |line: &&Value| {
            line["effect"] == "transfer.created" && line["object"]["destination"] == account(name)
        };
        journal.iter().filter(is_it).map(|line| line["object"].clone()).collect()
    }

    /// How often the provider was asked to send money to an affiliate.
    pub async fn sends_to(&self, name: &str) -> usize {
        let journal = self.sandbox.journal().await;
        let is_it = |line: &&Value| {
            line["kind"] == "request"
                && line["method"] == "POST"
                && line["path"] == "/v1/transfers"
                && line["form"]["destination"] == account(name)
        };
        journal.iter().filter(is_it).count()
    }

    /// Every request that the provider has seen.
    pub async fn requests(&self) -> usize {
        self.sandbox.journal().await.iter().filter(|line| line["kind"] == "request").count()
    }

    /// The payout of an affiliate that was made last.
    pub async fn payout_of(&self, name: &str) -> String {
        const SQL: &str =
            "SELECT id FROM payout WHERE enrollment_id = $1 ORDER BY created_at_us DESC LIMIT 1";
        let enrollment = self.run.reference.enrollment(name);
        self.db().read().await.unwrap().q(SQL).bind(enrollment).scalar().await.unwrap().unwrap()
    }

    /// The intent of an affiliate's only payout.
    pub async fn intent_of(&self, name: &str) -> String {
        const SQL: &str = "SELECT i.id FROM intent i JOIN payout p ON p.id = i.payout_id
            WHERE p.enrollment_id = $1";
        let enrollment = self.run.reference.enrollment(name);
        self.db().read().await.unwrap().q(SQL).bind(enrollment).scalar().await.unwrap().unwrap()
    }

    /// The key of a person who may do everything.
    pub fn operator(&self) -> &str {
        &self.key
    }

    /// The affiliate was sent nothing and is owed everything.
    pub async fn assert_owed(&self, name: &str) {
        assert_eq!(self.sends_to(name).await, 0, "{name}");
        let owed = self.owed.lock().unwrap()[name];
        assert_eq!(self.balances(name).await, [("payable".to_owned(), owed)], "{name}");
    }

    /// What is not zero.
    async fn balances(&self, name: &str) -> Vec<(String, i64)> {
        const SQL: &str = "SELECT account, credit_minor - debit_minor FROM balance
            WHERE owner_id = $1 AND credit_minor <> debit_minor";
        let enrollment = self.run.reference.enrollment(name);
        self.db().read().await.unwrap().q(SQL).bind(enrollment).all().await.unwrap()
    }

    /// The affiliate has what it is owed, by one transfer and one payout.
    pub async fn assert_paid_once(&self, name: &str) {
        const PAYOUTS: &str = "SELECT state FROM payout WHERE enrollment_id = $1 AND state <> 'canceled'";
        const COMMISSIONS: &str = "SELECT state FROM commission WHERE enrollment_id = $1";
        let owed = self.owed.lock().unwrap()[name];
        let amounts: Vec<Value> =
            self.transfers_to(name).await.iter().map(|transfer| transfer["amount"].clone()).collect();
        assert_eq!(amounts, [json!(owed)], "{name}: transfers");
        let enrollment = self.run.reference.enrollment(name);
        let mut conn = self.db().read().await.unwrap();
        let payouts: Vec<String> = conn.q(PAYOUTS).bind(&*enrollment).scalars().await.unwrap();
        assert_eq!(payouts, ["completed"], "{name}: payouts");
        assert_eq!(self.balances(name).await, [("paid".to_owned(), owed)], "{name}: balances");
        let commissions: Vec<String> = conn.q(COMMISSIONS).bind(&*enrollment).scalars().await.unwrap();
        assert_eq!(commissions, ["paid"], "{name}: commissions");
    }

    /// The affiliate has what it is owed and is owed no more, and everything adds up.
    pub async fn assert_all_paid_once(&self, node: &Server) {
        let names: Vec<String> = self.owed.lock().unwrap().keys().cloned().collect();
        for name in names {
            self.assert_paid_once(&name).await;
        }
        self.check(node).await;
    }

    /// The payouts that say that they are paid are the transfers that the provider has made, one to one.
    async fn assert_payouts_are_transfers(&self) {
        const PAID: &str = "SELECT i.id || ' ' || p.transfer_id || ' ' || p.destination || ' '
                || CAST(p.send_minor AS TEXT) || ' ' || p.currency
            FROM payout p JOIN intent i ON i.payout_id = p.id WHERE p.state = 'completed' ORDER BY 1";
        let mut paid: Vec<String> = self.db().read().await.unwrap().q(PAID).scalars().await.unwrap();
        paid.sort();
        let journal = self.sandbox.journal().await;
        let mut made: Vec<String> = journal
            .iter()
            .filter(|line| line["effect"] == "transfer.created")
            .map(|line| {
                let object = &line["object"];
                let text = |field: &str| object[field].as_str().unwrap().to_owned();
                let intent = object["metadata"]["intent_id"].as_str().unwrap();
                let (id, destination, currency) = (text("id"), text("destination"), text("currency"));
                format!("{intent} {id} {destination} {} {currency}", object["amount"])
            })
            .collect();
        made.sort();
        assert_eq!(paid, made, "payouts, transfers");
    }

    /// Lets `node` finish, then holds everything against everything: deliveries, books, the reference,
    /// what the provider did.
    pub async fn check(&self, node: &Server) {
        self.drained(node).await;
        self.run.check_inbox().await;
        let reference = &self.run.reference.node;
        reference.pass_time(SystemClock.now().plus_secs(GRACE_S)).await;
        assert_eq!(
            worth(self.db()).await,
            worth(&reference.app.db).await,
            "what affiliates have and are owed"
        );
        self.assert_payouts_are_transfers().await;
        books::assert_they_add_up(self.db()).await;
        self.run.check_with_doctor(0).await;
        self.run.audit(Some(&self.home.path().join(JOURNAL))).await;
    }
}

/// The account of an affiliate at the provider.
fn account(name: &str) -> String {
    format!("acct_{name}")
}

/// What each affiliate has earned and not lost, whether it was paid or not.
async fn worth(db: &Db) -> Vec<(String, i64)> {
    const SQL: &str = "SELECT owner_id, CAST(SUM(credit_minor - debit_minor) AS BIGINT) AS worth FROM balance
        WHERE account IN ('held', 'payable', 'in_transit', 'paid')
            AND owner_id IN (SELECT id FROM enrollment)
        GROUP BY owner_id HAVING SUM(credit_minor - debit_minor) <> 0 ORDER BY owner_id";
    db.read().await.unwrap().q(SQL).all().await.unwrap()
}
