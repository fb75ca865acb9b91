//! Work that one event, one approval or the clock starts for many sales: it is bounded, it reaches every
//! sale, and trouble with one of them stops no other.

use std::sync::Arc;

use axum::http::Method;
use remit::{
    app::{
        doctor,
        process::{self, Worked},
        refold,
    },
    store::{self, Db, DbOptions, inbox, inbox::Inserted},
};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{Api, NOW, PROGRAMS, id_of, rows},
    books,
    node::Node,
    on_each_engine,
    pg::until_blocked,
    shop::{PAID_AT_S, Shop, charge, customer, intent, invoice_payment, stripe},
};

/// An intent whose metadata names ada's code.
fn referred(id: &str, amount: i64) -> Value {
    let mut event = intent(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event
}

/// Lets PostgreSQL fail with each of these codes as soon as the sale of an intent `pi_<code>` is written,
/// as a limit that its batch runs into would.
async fn fail_at(db: &Db, sql: [&'static str; 2]) {
    let mut tx = db.begin().await.unwrap();
    for statement in sql {
        tx.q(statement).exec().await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Statement timeout, idle in transaction, transaction timeout, out of memory, disk full.
const LIMITS: [&str; 5] = ["57014", "25P03", "25P04", "53200", "53100"];

#[tokio::test]
async fn an_event_that_runs_into_a_limit_of_the_server_delays_no_other() {
    const FAIL: [&str; 2] = [
        "CREATE FUNCTION run_into_limit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.object_id LIKE 'pi_limit_%' THEN
                 RAISE EXCEPTION 'a limit' USING ERRCODE = substr(NEW.object_id, 10);
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER run_into_limit BEFORE INSERT ON payment
             FOR EACH ROW EXECUTE FUNCTION run_into_limit()",
    ];
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 512).await;
    fail_at(&db.db, FAIL).await;
    for code in LIMITS {
        shop.tell(&[referred(&format!("before_{code}"), 1_000)]).await;
        shop.tell(&[referred(&format!("limit_{code}"), 1_000)]).await;
    }

    let worked = process::step(&shop.node.app).await.unwrap();

    assert_eq!(worked, Worked { finished: 5, failed: 5, postponed: 0 });
    for code in LIMITS {
        shop.assert_standing(&format!("pi_before_{code}"), "held", [200, 0, 200, 0]).await;
        let (state, reason, attempts, _) = shop.event(&format!("evt_intent_limit_{code}")).await;
        assert_eq!((state.as_str(), attempts), ("received", 1), "{code}");
        assert!(reason.is_some_and(|reason| reason.contains(code)), "{code}");
    }
    shop.node.clock.advance_secs(30 * 86_400);
    while shop.count("received").await > 0 {
        process::step(&shop.node.app).await.unwrap();
        shop.node.clock.advance_secs(30 * 86_400);
    }
    assert_eq!((shop.count("applied").await, shop.count("parked").await), (5, 5));
    books::assert_they_add_up(&db.db).await;
}

#[tokio::test]
async fn a_due_sale_that_runs_into_a_limit_of_the_server_stops_no_other() {
    const FAIL: [&str; 2] = [
        "CREATE FUNCTION run_into_limit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.amount_minor = 1000 THEN
                 RAISE EXCEPTION 'a limit' USING ERRCODE = '57014';
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER run_into_limit BEFORE INSERT ON lot FOR EACH ROW EXECUTE FUNCTION run_into_limit()",
    ];
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 512).await;
    shop.tell_and_process(&[referred("a", 1_000), referred("slow", 5_000), referred("b", 1_000)]).await;
    fail_at(&db.db, FAIL).await;

    shop.pass_grace().await;

    for sale in ["pi_a", "pi_b"] {
        shop.assert_standing(sale, "payable", [200, 0, 0, 200]).await;
    }
    shop.assert_standing("pi_slow", "held", [1_000, 0, 1_000, 0]).await;
    let findings: Vec<String> =
        db.db.read().await.unwrap().q("SELECT kind FROM finding").scalars().await.unwrap();
    assert_eq!(findings, ["release_failed"]);
}

/// Stores many events in one commit.
async fn tell_at_once(shop: &Shop, events: impl IntoIterator<Item = Value>) {
    let bodies: Vec<Vec<u8>> = events.into_iter().map(|event| event.to_string().into_bytes()).collect();
    let (project, endpoint) = (shop.owner.project(), shop.owner.endpoint("a"));
    let inserted = shop.node.receive_all(&project, &endpoint, "stripe", bodies).await;
    assert!(inserted.iter().all(|answer| *answer == Inserted::New));
}

/// Processes events and nothing else.
async fn process_events(shop: &Shop) {
    while !process::step(&shop.node.app).await.unwrap().is_idle() {}
}

/// Sales of a customer, `pi_<customer>_0` and so on, each of 1000.
fn sales_of(buyer: &str, count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(move |number| intent(&format!("{buyer}_{number}"), 1_000, Some(buyer)))
}

/// How many sales wait to be folded again.
async fn waiting(db: &Db) -> i64 {
    const SQL: &str = "SELECT COUNT(*) FROM refold";
    db.read().await.unwrap().q(SQL).scalar().await.unwrap().unwrap()
}

async fn commissions(db: &Db) -> i64 {
    const SQL: &str = "SELECT COUNT(*) FROM commission WHERE earned_minor > clawed_minor";
    db.read().await.unwrap().q(SQL).scalar().await.unwrap().unwrap()
}

/// The different causes of the entries.
async fn causes(db: &Db) -> Vec<Value> {
    const SQL: &str = "SELECT DISTINCT causes FROM entry ORDER BY causes";
    let texts: Vec<String> = db.read().await.unwrap().q(SQL).scalars().await.unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

on_each_engine! {
    async fn a_code_of_a_customer_with_thousands_of_sales_delays_no_other_event(db: TestDb) {
        const SALES: usize = 2_000;
        let shop = Shop::open(&db.db, 512).await;
        tell_at_once(&shop, sales_of("big", SALES)).await;
        process_events(&shop).await;
        shop.tell(&[customer("big", "ada"), charge("mute", 100, None)]).await;

        let worked = process::step(&shop.node.app).await.unwrap();

        assert_eq!(worked, Worked { finished: 2, failed: 0, postponed: 0 });
        assert_eq!((waiting(&db.db).await, commissions(&db.db).await), (2_000, 0));
        let mut left = waiting(&db.db).await;
        while left > 0 {
            let folded = i64::try_from(refold::step(&shop.node.app).await.unwrap()).unwrap();
            assert!((1..=200).contains(&folded), "{folded} sales in one transaction");
            // Whatever else arrives has its turn in between.
            let next = format!("while_{left}");
            shop.tell(&[referred(&next, 1_000)]).await;
            assert_eq!(process::step(&shop.node.app).await.unwrap().finished, 1);
            shop.assert_standing(&format!("pi_{next}"), "held", [200, 0, 200, 0]).await;
            left -= folded;
            assert_eq!(waiting(&db.db).await, left);
        }
        assert_eq!(refold::step(&shop.node.app).await.unwrap(), 0);
        for number in [0, 1, 999, SALES - 1] {
            shop.assert_standing(&format!("pi_big_{number}"), "held", [200, 0, 200, 0]).await;
        }
        let mut conn = db.db.read().await.unwrap();
        let told = inbox::list_named(&mut conn, "evt_customer_big").await.unwrap().remove(0).id;
        let by_code: Option<i64> = conn
            .q("SELECT COUNT(*) FROM entry WHERE causes = $1")
            .bind(format!(r#"[{{"kind":"event","id":"{told}"}}]"#))
            .scalar()
            .await
            .unwrap();
        assert_eq!(by_code, Some(2_000), "each entry names the event that told the code");
        books::assert_they_add_up(&db.db).await;
    }

    async fn as_many_sales_as_a_batch_bears_are_folded_with_their_event(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        for (buyer, count, at_once) in [("few", 64, true), ("many", 65, false)] {
            tell_at_once(&shop, sales_of(buyer, count)).await;
            process_events(&shop).await;
            shop.tell(&[customer(buyer, "ada")]).await;
            process_events(&shop).await;
            let last = format!("pi_{buyer}_{}", count - 1);
            assert_eq!(shop.standing(&last, "ada").await.is_some(), at_once, "{buyer}");
            assert_eq!(waiting(&db.db).await, if at_once { 0 } else { 65 }, "{buyer}");
            shop.node.process_all().await;
            shop.assert_standing(&last, "held", [200, 0, 200, 0]).await;
        }
        // What is known already reaches nothing.
        let mut again = customer("many", "ada");
        again["id"] = json!("evt_again");
        again["created"] = json!(PAID_AT_S + 60);
        shop.tell(&[again]).await;
        process_events(&shop).await;
        assert_eq!(waiting(&db.db).await, 0);
    }

    async fn a_code_known_of_a_subscription_is_no_news_however_early_it_was_told(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        tell_at_once(&shop, (0..65).map(|number| renewal(number, "sub"))).await;
        process_events(&shop).await;
        for (number, code, expected) in [(1, "ada", 65), (2, "ada", 65), (3, "bob", 130), (4, "ada", 195)] {
            let mut told = subscription("sub", "updated", &json!({ "referral_code": code }));
            told["id"] = json!(format!("evt_told_{number}"));
            told["created"] = json!(PAID_AT_S - number);
            shop.tell(&[told]).await;
            process_events(&shop).await;
            // One code has nobody to win against; between two, the earlier wins.
            assert_eq!(waiting(&db.db).await, expected, "telling {number}");
        }
        shop.node.process_all().await;
        shop.assert_standing("in_sub_64", "held", [200, 0, 200, 0]).await;
    }

    async fn the_end_of_a_long_subscription_flags_every_sale_of_it(db: TestDb) {
        const FLAGGED: &str = "SELECT COUNT(*) FROM commission WHERE state = 'flagged'";
        let shop = Shop::open_with(&db.db, 512, &json!({ "hold_period_days": 30 })).await;
        tell_at_once(&shop, (0..130).map(|number| renewal(number, "sub"))).await;
        shop.tell(&[subscription("sub", "updated", &json!({ "referral_code": "ada" }))]).await;
        shop.node.process_all().await;
        shop.assert_standing("in_sub_129", "held", [200, 0, 200, 0]).await;

        shop.tell(&[subscription("sub", "deleted", &json!({}))]).await;
        process_events(&shop).await;
        assert_eq!(waiting(&db.db).await, 130);
        shop.node.process_all().await;

        let flagged: Option<i64> = db.db.read().await.unwrap().q(FLAGGED).scalar().await.unwrap();
        assert_eq!((flagged, waiting(&db.db).await), (Some(130), 0));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_sale_that_cannot_be_folded_again_stops_no_other(db: TestDb) {
        let all = json!({ "commission": { "type": "percentage", "bps": 10_000 } });
        let shop = Shop::open_with(&db.db, 512, &all).await;
        tell_at_once(&shop, sales_of("cus", 70)).await;
        // Too much beside what the early one earns already, whenever its turn comes.
        shop.tell(&[referred("early", 1_000), intent("poison", i64::MAX - 999, Some("cus"))]).await;
        process_events(&shop).await;
        shop.tell(&[customer("cus", "ada")]).await;
        process_events(&shop).await;

        while refold::step(&shop.node.app).await.unwrap() > 0 {}

        assert_eq!((commissions(&db.db).await, waiting(&db.db).await), (71, 1));
        assert_eq!(shop.standing("pi_poison", "ada").await, None);
        let findings = rows(&db.db, "SELECT created_at_us - created_at_us, kind FROM finding").await;
        assert_eq!(findings, [(0, "refold_failed".to_owned())]);
        assert_eq!(doctor::examine(&shop.node.app).await.unwrap(), []);
        shop.node.clock.advance_secs(16 * 60);
        let found = doctor::examine(&shop.node.app).await.unwrap();
        assert_eq!(found.iter().map(|finding| finding.invariant).collect::<Vec<_>>(), ["refold_stuck"]);
        assert_eq!(found[0].object, shop.sale("pi_poison").await.unwrap().as_str());

        // It has its next turn after an hour, and succeeds once the cause is gone.
        assert_eq!(refold::step(&shop.node.app).await.unwrap(), 0);
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE payment SET amount_minor = 500 WHERE object_id = 'pi_poison'").exec().await.unwrap();
        tx.commit().await.unwrap();
        shop.node.clock.advance_secs(3_600);
        assert_eq!(refold::step(&shop.node.app).await.unwrap(), 1);
        shop.assert_standing("pi_poison", "payable", [500, 0, 0, 500]).await;
        books::assert_they_add_up(&db.db).await;
    }
}

/// `invoice.paid` of a subscription.
fn renewal(number: usize, subscription: &str) -> Value {
    let object = json!({
        "id": format!("in_{subscription}_{number}"), "amount_paid": 1_000, "currency": "usd",
        "parent": {
            "type": "subscription_details", "subscription_details": { "subscription": subscription },
        },
    });
    stripe(&format!("invoice_{subscription}_{number}"), "invoice.paid", &object)
}

/// `customer.subscription.<what>`.
fn subscription(id: &str, what: &str, metadata: &Value) -> Value {
    let object = json!({ "id": id, "metadata": metadata });
    stripe(&format!("{id}_{what}"), &format!("customer.subscription.{what}"), &object)
}

/// The code is told while one of the customer's sales is being merged, and is left to the queue: what is
/// queued is the sale that was merged away a moment later.
#[tokio::test]
async fn a_queued_sale_that_is_merged_meanwhile_hands_on_to_the_survivor() {
    const HOLD: &str = "SELECT object_id FROM payment WHERE object_id = 'in_x' FOR UPDATE";
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 512).await;
    shop.tell_and_process(&[intent("x", 1_000, None)]).await;
    shop.node.clock.advance_secs(1);
    let mut invoiced = renewal(0, "unused");
    invoiced["data"]["object"] =
        json!({ "id": "in_x", "amount_paid": 1_000, "currency": "usd", "customer": "cus" });
    tell_at_once(&shop, sales_of("cus", 70).chain([invoiced])).await;
    process_events(&shop).await;
    let loser = shop.sale("in_x").await;
    let merging = Arc::new(Node::new(db.another_node(&DbOptions::default()).await, 1));
    merging.clock.set(shop.node.app.now());

    let mut holding = db.db.begin().await.unwrap();
    holding.q(HOLD).scalar::<String>().await.unwrap();
    shop.tell(&[invoice_payment("x", "x", "x")]).await;
    let merge = tokio::spawn(async move { process::step(&merging.app).await.unwrap() });
    until_blocked(&db.db, 1).await;
    shop.tell(&[customer("cus", "ada")]).await;
    assert_eq!(process::step(&shop.node.app).await.unwrap().finished, 1, "a merge delays no code");
    holding.rollback().await.unwrap();
    assert_eq!(merge.await.unwrap().finished, 1);
    assert_ne!(shop.sale("in_x").await, loser, "the queued sale was merged away");
    assert_eq!(shop.standing("in_x", "ada").await, None);

    shop.node.process_all().await;

    shop.assert_standing("in_x", "held", [200, 0, 200, 0]).await;
    assert_eq!(commissions(&db.db).await, 71);
    books::assert_they_add_up(&db.db).await;
}

/// An owner as the API knows it, with a program and a node that processes what it is told.
struct Owner {
    api: Api,
    node: Node,
    key: String,
    project: String,
    program: String,
}

impl Owner {
    async fn open(db: &Db, status: &str) -> Self {
        let api = Api::new(db).await;
        let (organization, key) = api.tenant("owner").await;
        let project = json!({ "organization_id": organization, "name": "shop" });
        let project = id_of(&api.create(&key, "/v1/admin/projects", project).await);
        let program = json!({
            "name": "Partners", "commission": { "type": "percentage", "bps": 2000 }, "status": status,
            "hold_period_days": 0,
        });
        let program = id_of(&api.create(&key, PROGRAMS, program).await);
        let node = Node { app: api.app.clone(), clock: api.clock.clone() };
        Self { api, node, key, project, program }
    }

    /// Enrolls an affiliate with the code `ANN`.
    async fn enroll(&self, status: &str) -> String {
        let affiliate = json!({ "email": "ann@example.com", "code": "ANN", "status": status });
        let path = format!("{PROGRAMS}/{}/enrollments", self.program);
        id_of(&self.api.create(&self.key, &path, affiliate).await)
    }

    async fn approve(&self, enrollment: &str) {
        let path = format!("{PROGRAMS}/{}/enrollments/{enrollment}/approve", self.program);
        self.api.create(&self.key, &path, Value::Null).await;
    }

    async fn launch(&self) {
        let path = format!("{PROGRAMS}/{}", self.program);
        let (status, answer) =
            self.api.call(&self.key, Method::PATCH, &path, &json!({ "status": "active" })).await;
        assert!(status.is_success(), "{answer}");
    }

    async fn tell(&self, mut events: Vec<Value>) {
        for event in &mut events {
            event["created"] = json!(NOW.as_secs());
        }
        let bodies = events.iter().map(|event| event.to_string().into_bytes()).collect();
        self.node.receive_all(&self.project, "ep_shop", "stripe", bodies).await;
    }

    /// One sale for each way in which a code reaches it, and one that names another code.
    async fn sell(&self) {
        let coded = |mut event: Value, code: &str| {
            event["data"]["object"]["metadata"] = json!({ "referral_code": code });
            event
        };
        self.tell(vec![
            coded(intent("own", 1_000, None), "Ann"),
            intent("of_customer", 2_000, Some("cus")),
            customer("cus", " aNN "),
            renewal(0, "sub"),
            subscription("sub", "updated", &json!({ "referral_code": "ann" })),
            coded(intent("other", 10_000, None), "anna"),
        ])
        .await;
        self.node.process_all().await;
    }

    /// Each commission by what it earned, and the balances.
    async fn standing(&self) -> (Vec<(i64, String)>, Vec<(i64, String)>) {
        const COMMISSIONS: &str = "SELECT earned_minor, state FROM commission ORDER BY earned_minor";
        const BALANCES: &str = "SELECT credit_minor - debit_minor, account FROM balance ORDER BY account";
        let db = &self.node.app.db;
        (rows(db, COMMISSIONS).await, rows(db, BALANCES).await)
    }

    /// Fails unless all sales with the code earn their fifth, and nothing else does.
    async fn assert_all_earn(&self) {
        let held = |amount| (amount, "held".to_owned());
        let expected = (vec![held(200), held(200), held(400)], vec![(-800, "expense".to_owned()), held(800)]);
        assert_eq!(self.standing().await, expected);
        books::assert_they_add_up(&self.node.app.db).await;
    }
}

on_each_engine! {
    async fn an_approval_counts_the_same_before_and_after_the_sales(db: TestDb) {
        let owner = Owner::open(&db.db, "active").await;
        let ann = owner.enroll("pending").await;
        owner.sell().await;
        assert_eq!(owner.standing().await, (vec![], vec![]));
        owner.approve(&ann).await;
        owner.node.process_all().await;
        owner.assert_all_earn().await;
        assert_eq!(causes(&db.db).await, [json!([{ "kind": "time", "id": "affiliate_activated" }])]);

        // A return after a pause holds from then on and folds nothing again.
        let path = format!("{PROGRAMS}/{}/enrollments/{ann}/suspend", owner.program);
        owner.api.create(&owner.key, &path, Value::Null).await;
        owner.approve(&ann).await;
        assert_eq!(waiting(&db.db).await, 0);
    }

    async fn sales_after_the_approval_end_in_those_balances_too(db: TestDb) {
        let owner = Owner::open(&db.db, "active").await;
        let ann = owner.enroll("pending").await;
        owner.approve(&ann).await;
        owner.sell().await;
        owner.assert_all_earn().await;
    }

    async fn sales_before_the_launch_of_a_program_earn_with_it(db: TestDb) {
        let owner = Owner::open(&db.db, "draft").await;
        owner.enroll("active").await;
        owner.sell().await;
        assert_eq!(owner.standing().await, (vec![], vec![]));
        owner.launch().await;
        owner.node.process_all().await;
        owner.assert_all_earn().await;
        assert_eq!(causes(&db.db).await, [json!([{ "kind": "time", "id": "program_activated" }])]);
    }

    async fn sales_before_the_code_existed_earn_with_it(db: TestDb) {
        let owner = Owner::open(&db.db, "active").await;
        owner.sell().await;
        owner.enroll("active").await;
        owner.node.process_all().await;
        owner.assert_all_earn().await;
        assert_eq!(causes(&db.db).await, [json!([{ "kind": "time", "id": "code_created" }])]);
    }

    async fn the_codes_of_others_reach_no_sale_of_this_owner(db: TestDb) {
        let owner = Owner::open(&db.db, "active").await;
        owner.sell().await;
        let (organization, key) = owner.api.tenant("stranger").await;
        assert!(!organization.is_empty());
        let program = owner.api.program(&key).await;
        let affiliate = json!({ "email": "ann@example.com", "code": "ann" });
        owner.api.create(&key, &format!("{PROGRAMS}/{program}/enrollments"), affiliate).await;
        assert_eq!(waiting(&db.db).await, 0);
    }
}

/// The sale is folded by what held before the approval, and commits after it: one must wait for the other.
#[tokio::test]
async fn a_sale_under_way_is_not_missed_by_an_approval() {
    const HOLD: &str = "LOCK TABLE sale_event IN SHARE MODE";
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let owner = Arc::new(Owner::open(&db.db, "active").await);
    let ann = owner.enroll("pending").await;
    // The sale is there already: opening one would lock its project by itself.
    owner.tell(vec![intent("x", 1_000, None)]).await;
    owner.node.process_all().await;
    let mut charged = charge("x", 1_000, Some("x"));
    charged["data"]["object"]["metadata"] = json!({ "referral_code": "ann" });
    owner.tell(vec![charged]).await;

    let mut holding = db.db.begin().await.unwrap();
    holding.q(HOLD).exec().await.unwrap();
    let selling = Arc::clone(&owner);
    let selling = tokio::spawn(async move { process::step(&selling.node.app).await.unwrap() });
    until_blocked(&db.db, 1).await;
    let approving = Arc::clone(&owner);
    let approving = tokio::spawn(async move { approving.approve(&ann).await });
    until_blocked(&db.db, 2).await;
    holding.rollback().await.unwrap();
    assert_eq!(selling.await.unwrap().finished, 1);
    approving.await.unwrap();
    assert_eq!(owner.standing().await.0, []);

    owner.node.process_all().await;

    assert_eq!(owner.standing().await.0, [(200, "held".to_owned())]);
    assert_eq!(store::refold::oldest(&mut db.db.read().await.unwrap()).await.unwrap(), None);
}
