//! A shop that may pay, and short ways to settle it and to see who was paid.

use remit::{
    app::{
        App,
        keys::Principal,
        settle::{self, Request, Settlement},
    },
    domain::{
        ids::{EnrollmentId, ProgramId, RunId},
        time::Timestamp,
    },
    store::{
        Db,
        settlement::{self, Began, Run},
    },
};
use serde_json::{Value, json};

use super::{
    TestDb,
    node::Node,
    shop::{GRACE_S, Shop, charge},
};

/// A shop that may pay: minimums of 0 in dollars and euros, no fee, accounts for ada and bob.
pub struct Till {
    /// The shop.
    pub shop: Shop,
}

impl Till {
    /// A shop of which the gate is open.
    pub async fn open(db: &TestDb) -> Self {
        let live = [("REMIT_PAYOUTS__LIVE", "true"), ("REMIT_STRIPE__SECRET_KEY", "sk_test_till")];
        Self::open_with(db, &json!({}), &live).await
    }

    /// The same with other terms and settings.
    pub async fn open_with(db: &TestDb, terms: &Value, settings: &[(&str, &str)]) -> Self {
        let node = Node::with_settings(db.db.clone(), 512, settings);
        let till = Self { shop: Shop::open_on(node, &db.db, "shop", terms).await };
        till.change("UPDATE program SET min_payout = '{\"usd\":0,\"eur\":0}'").await;
        for affiliate in ["ada", "bob"] {
            till.name_account(affiliate).await;
        }
        till
    }

    /// Names an affiliate's account, `acct_` and its name.
    pub async fn name_account(&self, affiliate: &str) {
        const SQL: &str = "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
            VALUES ($1, 'stripe', $2, 0)";
        let mut tx = self.db().begin().await.unwrap();
        let organization = self.shop.owner.id("org_", affiliate);
        tx.q(SQL).bind(organization).bind(format!("acct_{affiliate}")).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The stages.
    pub fn app(&self) -> &App {
        &self.shop.node.app
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.app().db
    }

    /// The program that pays a fifth.
    pub fn program(&self) -> ProgramId {
        ProgramId::parse(&self.shop.owner.id("prog_", "fifth")).unwrap()
    }

    /// An affiliate's enrollment.
    pub fn enrollment(&self, affiliate: &str) -> EnrollmentId {
        EnrollmentId::parse(&self.shop.enrollment(affiliate)).unwrap()
    }

    /// Changes rows; there must be some.
    pub async fn change(&self, sql: &'static str) {
        let mut tx = self.db().begin().await.unwrap();
        assert!(tx.q(sql).exec().await.unwrap() > 0, "{sql}");
        tx.commit().await.unwrap();
    }

    /// The first column of a query.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        self.db().read().await.unwrap().q(sql).scalars().await.unwrap()
    }

    /// The number that a query gives.
    pub async fn number(&self, sql: &'static str) -> i64 {
        self.db().read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
    }

    /// Sales by the affiliates' codes, each payable at once; a fifth of each is earned.
    pub async fn earn(&self, sales: &[(&str, &str, i64, &str)]) {
        let events: Vec<Value> =
            sales.iter().map(|(who, id, amount, currency)| sale(who, id, *amount, currency)).collect();
        self.shop.tell_and_process(&events).await;
        let now = self.shop.node.app.now().plus_secs(GRACE_S + 1);
        self.shop.node.pass_time(now).await;
    }

    /// A settlement of everything, under a key of its own.
    pub fn request(&self) -> Request {
        Request { program: self.program(), as_of: None, key: None }
    }

    /// Settles everything now.
    pub async fn settle(&self) -> Settlement {
        settle::run(self.app(), &Principal::console(), &self.request()).await.unwrap()
    }

    /// What settling now would come to.
    pub async fn plan(&self) -> Settlement {
        settle::plan(self.app(), &Principal::console(), &self.program(), None).await.unwrap()
    }

    /// Held, payable, in transit and paid, in dollars.
    pub async fn balance(&self, affiliate: &str) -> [i64; 4] {
        const SQL: &str = "SELECT account, credit_minor - debit_minor FROM balance
            WHERE owner_id = $1 AND currency = 'usd'";
        let mut conn = self.db().read().await.unwrap();
        let rows: Vec<(String, i64)> = conn.q(SQL).bind(self.shop.enrollment(affiliate)).all().await.unwrap();
        ["held", "payable", "in_transit", "paid"]
            .map(|name| rows.iter().find(|(account, _)| account == name).map_or(0, |(_, amount)| *amount))
    }
}

/// A charge that carries an affiliate's code.
pub fn sale(affiliate: &str, id: &str, amount: i64, currency: &str) -> Value {
    let mut event = charge(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": affiliate });
    event["data"]["object"]["currency"] = json!(currency);
    event
}

/// The payouts: whose, currency, due, fee and sent.
pub fn paid(settlement: &Settlement) -> Vec<(&str, String, i64, i64, i64)> {
    settlement
        .payouts
        .iter()
        .map(|one| {
            let split = one.split;
            (short(one.enrollment_id.as_str()), one.currency.to_string(), split.due, split.fee, split.send)
        })
        .collect()
}

/// Who was passed over: currency, amount and reason.
pub fn passed(settlement: &Settlement) -> Vec<(&str, String, i64, &'static str)> {
    settlement
        .skipped
        .iter()
        .map(|one| {
            (short(one.enrollment_id.as_str()), one.currency.to_string(), one.due, one.reason.as_str())
        })
        .collect()
}

/// The affiliate's name in the id of its enrollment.
pub fn short(enrollment: &str) -> &str {
    enrollment.rsplit('-').next().unwrap()
}

/// A payout as [`paid`] shows it.
pub fn line<'a>(who: &'a str, currency: &str, due: i64, fee: i64) -> (&'a str, String, i64, i64, i64) {
    (who, currency.to_owned(), due, fee, due - fee)
}

/// Somebody passed over, as [`passed`] shows it.
pub fn skip<'a>(
    who: &'a str,
    currency: &str,
    due: i64,
    why: &'static str,
) -> (&'a str, String, i64, &'static str) {
    (who, currency.to_owned(), due, why)
}

/// An instant.
pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// Affiliates beside ada and bob, each with a code of its own name and an account.
pub async fn many(till: &Till, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|number| format!("n{number:04}")).collect();
    for name in &names {
        till.shop.owner.enroll(till.db(), "fifth", name, name, &format!("{name}@example.com")).await;
        till.name_account(name).await;
    }
    names
}

/// Begins a run as if the process had died before its first chunk.
pub async fn begin(till: &Till, request: &Request) -> RunId {
    let key = request.key.clone().unwrap_or_else(|| "begun".to_owned());
    let run = Run {
        id: RunId::derived(&[request.program.as_str(), "request", &key]),
        program_id: request.program.clone(),
        began: Began::Requested { key },
        as_of: till.app().now(),
        actor: "console".to_owned(),
        last_enrollment: None,
        created_at: till.app().now(),
        completed_at: None,
    };
    let mut tx = till.db().begin().await.unwrap();
    assert!(settlement::insert_run(&mut tx, &run).await.unwrap());
    tx.commit().await.unwrap();
    run.id
}

/// Runs the schedule stage until it finds nothing, and counts the runs that are completed by it.
pub async fn scheduled(till: &Till) -> i64 {
    const COMPLETED: &str = "SELECT COUNT(*) FROM payout_run WHERE state = 'completed'";
    let before = till.number(COMPLETED).await;
    while settle::step_scheduled(till.app()).await.unwrap() > 0 {}
    till.number(COMPLETED).await - before
}
