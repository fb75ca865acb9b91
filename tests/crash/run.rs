//! One run: a shop on the database under test, a provider that tells it of sales, and a reference that
//! is told the same without any trouble.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use remit::{
    clock::{Clock as _, SystemClock},
    store::{Db, inbox::Inserted},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::{
    program::{LOOK_EVERY, PATIENCE, Program, Server},
    provider::{Provider, SECRET, SharedJournal},
    support::{
        TestDb, api,
        auditor::Audit,
        books,
        shop::{GRACE_S, Shop},
    },
};

/// See the module.
pub struct Run {
    /// The program on the database under test.
    pub program: Program,
    /// The provider of the shop's payments.
    pub provider: Provider,
    /// The shop on a database of its own that only the test's process works on: told in order, one event
    /// at a time.
    pub reference: Shop,
    /// Every delivery, for the auditor.
    pub traffic: Arc<SharedJournal>,
    endpoint: String,
    db: TestDb,
    reference_db: TestDb,
}

impl Run {
    /// The same shop twice: affiliates with and without a hold, and an endpoint.
    pub async fn on(db: TestDb) -> Self {
        Self::with(db, &[]).await
    }

    /// The same on nodes with further settings.
    pub async fn with(db: TestDb, settings: &[(&'static str, &str)]) -> Self {
        let reference_db = TestDb::sqlite().await;
        let mut reference = open_shop(&reference_db).await;
        // Poison is parked at its first failure, so that a run need not wait for the retries.
        let once = ("REMIT_PROCESS__MAX_ATTEMPTS", "1");
        reference.node.app.config = api::config(&[once]);
        let shop = open_shop(&db).await;
        let mut program = Program::on(db.url()).with(once.0, once.1);
        for (name, value) in settings {
            program = program.with(name, value);
        }
        let traffic = Arc::new(SharedJournal::create(program.path("traffic.ndjson")));
        let secrets = program.write("secrets", SECRET.as_bytes());
        let project = shop.owner.project();
        let create = ["endpoints", "create", "--provider", "stripe", "--project", &project];
        let made = program.data(&[&create[..], &["--secrets-file", &secrets]].concat()).await;
        let endpoint = made["id"].as_str().unwrap().to_owned();
        let provider = Provider::of_endpoint(&endpoint, Arc::clone(&traffic));
        Self { program, provider, reference, traffic, endpoint, db, reference_db }
    }

    /// The endpoint of the shop.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The database under test.
    pub fn db(&self) -> &TestDb {
        &self.db
    }

    /// Connects anew to the database under test, of which the server was away.
    pub async fn reconnect(&mut self) {
        self.db = TestDb::at(self.db.url()).await;
    }

    /// The database of the reference.
    pub fn reference_db(&self) -> &TestDb {
        &self.reference_db
    }

    /// Tells the reference of events: in this order, each processed before the next comes.
    pub async fn tell_reference(&self, events: &[Value]) {
        let project = self.reference.owner.project();
        for event in events {
            let body = event.to_string().into_bytes();
            let inserted = self.reference.node.receive(&project, &self.endpoint, "stripe", &body).await;
            assert_eq!(inserted, Inserted::New, "{event}");
            self.reference.node.process_all().await;
        }
    }

    /// A number of the tables.
    pub async fn number(&self, sql: &'static str) -> i64 {
        self.db.db.read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
    }

    /// Waits until the node has nothing left to do.
    pub async fn settled(&self, node: &Server) {
        const WAITING: &str = "SELECT CAST((SELECT COUNT(*) FROM inbox WHERE state = 'received')
            + (SELECT COUNT(*) FROM refold) AS BIGINT)";
        // A hold lasts a century here, so whatever is due within a day is due because of the grace.
        const DUE: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM commission WHERE due_at_us < $1";
        let soon = SystemClock.now().plus_secs(86_400).as_micros();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut conn = self.db.db.read().await.unwrap();
            let waiting: Option<i64> = conn.q(WAITING).scalar().await.unwrap();
            let due: Option<i64> = conn.q(DUE).bind(soon).scalar().await.unwrap();
            drop(conn);
            if (waiting, due) == (Some(0), Some(0)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{waiting:?} events or sales wait, {due:?} due:\n{}",
                node.log()
            );
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets `node` finish, then holds inbox and books against journal and reference. `parked` is how many
    /// events are known to fail.
    pub async fn check(&self, node: &Server, parked: usize) {
        self.settled(node).await;
        self.check_inbox().await;
        let reference = &self.reference.node;
        reference.pass_time(reference.app.now().plus_secs(GRACE_S)).await;
        let expected: BTreeSet<String> = snapshot(&self.reference.node.app.db).await;
        let found = snapshot(&self.db.db).await;
        let missing: Vec<_> = expected.difference(&found).collect();
        let surplus: Vec<_> = found.difference(&expected).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
        books::assert_they_add_up(&self.db.db).await;
        self.check_with_doctor(parked).await;
        let waiting = self.program.data(&["events", "list", "--state", "received"]).await;
        assert_eq!(waiting, json!([]));
        self.audit(None).await;
    }

    /// The auditor finds nothing wrong. Without the sandbox's journal it says nothing of what was sent.
    pub async fn audit(&self, sandbox: Option<&Path>) {
        let (url, traffic) = (self.db.url().to_owned(), self.traffic.path.clone());
        let sandbox = sandbox.map(Path::to_path_buf);
        let audit = move || {
            let now = SystemClock.now();
            let audit = Audit { url: &url, sandbox: sandbox.as_deref(), traffic: Some(&traffic), now };
            let Some(report) = audit.assert_clean() else { return };
            assert!(report.model.compared > 0, "{report:?}");
            assert!(sandbox.is_none() || report.unchecked.is_empty(), "{report:?}");
        };
        if let Err(failed) = tokio::task::spawn_blocking(audit).await {
            std::panic::resume_unwind(failed.into_panic());
        }
    }

    /// Every event that was answered 200 is there with the bytes that were sent.
    pub async fn check_inbox(&self) {
        const STORED: &str = "SELECT provider_event_id, body, body_sha256 FROM inbox";
        // Before the inbox is read: deliveries may go on meanwhile.
        let acknowledged = self.provider.acknowledged();
        let mut conn = self.db.db.read().await.unwrap();
        let rows: Vec<(String, Vec<u8>, Vec<u8>)> = conn.q(STORED).all().await.unwrap();
        let stored: BTreeMap<_, _> = rows.into_iter().map(|(id, body, hash)| (id, (body, hash))).collect();
        for (id, sent) in acknowledged {
            let (body, hash) = stored.get(&id).unwrap_or_else(|| panic!("{id} was answered 200 and is lost"));
            assert!(*body == sent, "{id} is stored with other bytes than were sent");
            assert_eq!(hash[..], Sha256::digest(&sent)[..], "{id}");
        }
    }

    /// The program's own check-up finds nothing but the parked events.
    pub async fn check_with_doctor(&self, parked: usize) {
        let output = self.program.run(&["doctor", "--output", "json"], &[]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let findings = report["data"]["findings"].as_array().unwrap_or_else(|| panic!("{output:?}"));
        let others: Vec<_> =
            findings.iter().filter(|finding| finding["invariant"] != "event_parked").collect();
        assert!(others.is_empty(), "{others:#?}");
        assert_eq!(findings.len(), parked, "parked events");
        assert_eq!(output.status.code(), Some(if parked == 0 { 0 } else { 3 }));
    }
}

/// Ada and bob earn without a hold; what cleo earns stays held.
async fn open_shop(db: &TestDb) -> Shop {
    let shop = Shop::open(&db.db, 512).await;
    let terms = json!({
        "commission": { "type": "percentage", "bps": 725 },
        "commission_base": "gross",
        "approval_mode": "auto",
        "flat_on_partial": "keep",
        "hold_period_days": 36_500,
    });
    shop.owner.create_program(&db.db, "patient", &terms.to_string()).await;
    shop.owner.enroll(&db.db, "patient", "cleo", "cleo", "cleo@example.com").await;
    shop
}

async fn snapshot(db: &Db) -> BTreeSet<String> {
    books::snapshot(db).await.into_iter().collect()
}
