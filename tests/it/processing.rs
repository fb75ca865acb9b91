//! The processor under trouble: events that cannot be processed, rows that were tampered with, nodes
//! that work on the same sales at the same moment.

use std::{future::Future, sync::Arc, time::Duration};

use remit::{
    app::{
        process::{self, Worked},
        refold,
    },
    domain::{retry, time::Timestamp},
    store::{self, Db, DbOptions, inbox},
};
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use super::support::{
    TestDb, books,
    node::Node,
    on_each_engine,
    pg::until_blocked,
    shop::{PAID_AT_S, Shop, charge, customer, intent, invoice, invoice_payment, refund, stripe},
};

/// An intent whose metadata names ada's code.
fn referred(id: &str, amount: i64) -> Value {
    let mut event = intent(id, amount, None);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event
}

/// Two charges of one intent whose sum does not fit 64 bits: whichever is processed second fails.
fn too_much(id: &str) -> [Value; 2] {
    [charge(&format!("{id}1"), i64::MAX - 1, Some(id)), charge(&format!("{id}2"), i64::MAX - 1, Some(id))]
}

/// Our id of the event of endpoint `a`.
async fn inbox_id(shop: &Shop, provider_event_id: &str) -> String {
    let mut conn = shop.node.app.db.read().await.unwrap();
    inbox::list_named(&mut conn, provider_event_id).await.unwrap().remove(0).id
}

async fn change(db: &Db, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    assert!(tx.q(sql).exec().await.unwrap() > 0, "{sql}");
    tx.commit().await.unwrap();
}

async fn retry_parked(shop: &Shop, id: &str) -> bool {
    let mut tx = shop.node.app.db.begin().await.unwrap();
    let retried = inbox::retry_parked(&mut tx, id, shop.node.app.now()).await.unwrap();
    tx.commit().await.unwrap();
    retried
}

on_each_engine! {
    async fn an_event_that_cannot_be_processed_delays_no_other(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let [first, second] = too_much("big");
        shop.tell(&[first]).await;
        shop.node.process_all().await;
        for number in 0..40 {
            shop.tell(&[referred(&format!("{number}"), 1_000)]).await;
            if number == 17 {
                shop.tell(std::slice::from_ref(&second)).await;
            }
        }

        let worked = process::step(&shop.node.app).await.unwrap();

        assert_eq!(worked, Worked { finished: 40, failed: 1, postponed: 0 });
        assert_eq!((shop.count("applied").await, shop.count("received").await), (41, 1));
        for number in 0..40 {
            shop.assert_standing(&format!("pi_{number}"), "held", [200, 0, 200, 0]).await;
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_failing_event_is_tried_on_schedule_then_parked_and_can_be_brought_back(db: TestDb) {
        const REPAIR: &str = "UPDATE payment SET amount_minor = 1 WHERE object_id = 'ch_big1'";
        let shop = Shop::open(&db.db, 512).await;
        let [first, second] = too_much("big");
        shop.tell_and_process(&[first]).await;
        shop.tell(&[second]).await;
        let id = inbox_id(&shop, "evt_charge_big2").await;

        let mut due = shop.node.app.now();
        for attempt in 1..=7_u32 {
            shop.node.clock.set(due.plus_micros(-1));
            if attempt > 1 {
                let worked = process::step(&shop.node.app).await.unwrap();
                assert!(worked.is_idle(), "attempt {attempt} came early");
            }
            shop.node.clock.set(due);
            let worked = process::step(&shop.node.app).await.unwrap();
            assert_eq!(worked, Worked { finished: 0, failed: 1, postponed: 0 }, "attempt {attempt}");
            due = due.plus_micros(retry::delay(attempt, &id));
            let (state, reason, attempts, next) = shop.event("evt_charge_big2").await;
            assert_eq!((state.as_str(), attempts, next), ("received", i64::from(attempt), due.as_micros()));
            assert!(reason.is_some_and(|reason| reason.contains("64 bits")), "the reason is kept");
        }
        // The eighth failure is the last by `process.max_attempts`.
        shop.node.clock.set(due);
        process::step(&shop.node.app).await.unwrap();
        let (state, reason, attempts, _) = shop.event("evt_charge_big2").await;
        assert_eq!((state.as_str(), attempts), ("parked", 8));
        assert!(reason.is_some_and(|reason| reason.contains("64 bits")));
        let counted = inbox::count_by_state(&mut db.db.read().await.unwrap()).await.unwrap();
        assert_eq!(counted, [("applied".to_owned(), 1), ("parked".to_owned(), 1)]);
        shop.node.clock.advance_secs(1_000_000);
        assert!(process::step(&shop.node.app).await.unwrap().is_idle(), "what is parked stays parked");

        // Brought back while the cause is still there, it fails from the first attempt on.
        assert!(retry_parked(&shop, &id).await);
        process::step(&shop.node.app).await.unwrap();
        let (state, _, attempts, _) = shop.event("evt_charge_big2").await;
        assert_eq!((state.as_str(), attempts), ("received", 1));
        assert!(!retry_parked(&shop, &id).await, "only what is parked can be brought back");

        // Once the cause is gone, it is applied like any other.
        change(&db.db, REPAIR).await;
        shop.node.clock.advance_secs(1_000_000);
        shop.node.process_all().await;
        let (state, reason, ..) = shop.event("evt_charge_big2").await;
        assert_eq!((state.as_str(), reason), ("applied", None));
    }

    async fn a_balance_that_would_not_fit_fails_one_event(db: TestDb) {
        let terms = json!({ "commission": { "type": "percentage", "bps": 10_000 } });
        let shop = Shop::open_with(&db.db, 512, &terms).await;
        shop.tell_and_process(&[referred("first", i64::MAX - 10)]).await;
        shop.tell(&[referred("a", 3), referred("second", i64::MAX - 10), referred("b", 4)]).await;
        let worked = process::step(&shop.node.app).await.unwrap();
        assert_eq!(worked, Worked { finished: 2, failed: 1, postponed: 0 });
        assert_eq!(shop.event("evt_intent_second").await.0, "received");
        for (sale, amount) in [("pi_a", 3), ("pi_b", 4)] {
            shop.assert_standing(sale, "held", [amount, 0, amount, 0]).await;
        }
    }

    async fn a_malformed_event_is_parked_at_once_with_the_path_of_the_field(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let mut malformed = referred("bad", 1_000);
        malformed["data"]["object"]["amount_received"] = json!("jane@example.com");
        shop.tell(&[referred("a", 1_000), malformed, referred("b", 1_000)]).await;

        let worked = process::step(&shop.node.app).await.unwrap();

        assert_eq!(worked, Worked { finished: 3, failed: 0, postponed: 0 });
        let (state, reason, ..) = shop.event("evt_intent_bad").await;
        assert_eq!(state, "parked");
        let reason = reason.unwrap();
        assert!(reason.contains("`data.object.amount_received`") && !reason.contains("jane"), "{reason}");
        for sale in ["pi_a", "pi_b"] {
            shop.assert_standing(sale, "held", [200, 0, 200, 0]).await;
        }
    }

    async fn an_unknown_type_is_ignored_and_says_so(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        shop.tell_and_process(&[stripe("new", "moon.landed", &json!({ "id": "moon_1" }))]).await;
        let (state, reason, attempts, _) = shop.event("evt_new").await;
        assert_eq!((state.as_str(), reason.as_deref(), attempts), ("ignored", Some("unhandled_type"), 0));
    }

    async fn rows_of_the_inbox_that_make_no_sense_stop_no_other(db: TestDb) {
        const BODY: &str = "UPDATE inbox SET body = $1 WHERE provider_event_id = 'evt_intent_bytes'";
        let shop = Shop::open(&db.db, 512).await;
        let strange = ["project", "nonsense", "provider", "bytes"];
        for id in strange {
            shop.tell(&[referred(id, 1_000)]).await;
        }
        for sql in [
            "UPDATE inbox SET project_id = 'proj_nowhere' WHERE provider_event_id = 'evt_intent_project'",
            "UPDATE inbox SET project_id = 'no id' WHERE provider_event_id = 'evt_intent_nonsense'",
            "UPDATE inbox SET provider = 'nobody' WHERE provider_event_id = 'evt_intent_provider'",
        ] {
            change(&db.db, sql).await;
        }
        let mut tx = db.db.begin().await.unwrap();
        tx.q(BODY).bind(b"{\"type\":".to_vec()).exec().await.unwrap();
        tx.commit().await.unwrap();
        shop.tell(&[referred("good", 1_000)]).await;

        process::step(&shop.node.app).await.unwrap();

        shop.assert_standing("pi_good", "held", [200, 0, 200, 0]).await;
        // A project may be restored from a backup, so that one is tried again.
        let (state, reason, attempts, _) = shop.event("evt_intent_project").await;
        assert_eq!((state.as_str(), attempts), ("received", 1), "{reason:?}");
        for id in ["nonsense", "provider", "bytes"] {
            let (state, reason, ..) = shop.event(&format!("evt_intent_{id}")).await;
            assert_eq!(state, "parked", "{id}: {reason:?}");
            assert!(reason.is_some(), "{id}");
        }
    }

    async fn a_commission_that_was_set_back_stops_its_own_events_only(db: TestDb) {
        // As after a restore of one table: the next revision is posted already.
        const TAMPER: &str = "UPDATE commission SET revision = 0, earned_minor = 0, held_minor = 0";
        let shop = Shop::open(&db.db, 512).await;
        shop.tell_and_process(&[referred("old", 1_000), charge("old", 1_000, Some("old"))]).await;
        change(&db.db, TAMPER).await;
        shop.tell(&[referred("a", 1_000), refund("1", "old", 500), referred("b", 1_000)]).await;

        let worked = process::step(&shop.node.app).await.unwrap();

        assert_eq!(worked, Worked { finished: 2, failed: 1, postponed: 0 });
        for sale in ["pi_a", "pi_b"] {
            shop.assert_standing(sale, "held", [200, 0, 200, 0]).await;
        }
        let (state, reason, attempts, _) = shop.event("evt_refund_1").await;
        assert_eq!((state.as_str(), attempts), ("received", 1));
        assert!(reason.is_some());
    }

    async fn a_refund_waits_for_its_sale_as_long_as_it_takes(db: TestDb) {
        const YEAR_S: i64 = 365 * 86_400;
        let shop = Shop::open(&db.db, 512).await;
        shop.tell_and_process(&[refund("1", "late", 400), refund("2", "late", 100)]).await;
        assert_eq!(shop.count("applied").await, 2);
        shop.node.pass_time(Timestamp::from_secs(PAID_AT_S + YEAR_S)).await;
        assert_eq!(shop.standing("ch_late", "ada").await, None);

        let mut sale = charge("late", 1_000, None);
        sale["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
        shop.tell_and_process(&[sale]).await;

        // 1000 × 20 % = 200, of which 500 of 1000 refunded take the half.
        shop.assert_standing("ch_late", "held", [200, 100, 100, 0]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn three_sales_become_one_and_keep_what_people_decided(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        // Opened one second apart, so that the intent has the lowest id, then the invoice, then the charge.
        for event in [intent("x", 1_000, None), invoice("x", 1_000, None), refund("1", "x", 0)] {
            shop.tell_and_process(&[event]).await;
            shop.node.clock.advance_secs(1);
        }
        shop.attribute("ch_x", "ada").await;
        let mut charge_link = invoice_payment("1", "x", "unused");
        charge_link["data"]["object"]["payment"] = json!({ "type": "charge", "charge": "ch_x" });
        // One batch: the charge's sale goes into the invoice's, and that one into the intent's.
        shop.tell_and_process(&[charge_link, invoice_payment("2", "x", "x")]).await;
        shop.assert_standing("in_x", "held", [200, 0, 200, 0]).await;
        assert_eq!(shop.sale("ch_x").await, shop.sale("pi_x").await);

        // The next event loads everything anew.
        shop.tell_and_process(&[refund("2", "x", 500)]).await;

        shop.assert_standing("in_x", "held", [200, 100, 100, 0]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn three_sales_become_one_in_every_order_and_grouping(db: TestDb) {
        let reference = TestDb::sqlite().await;
        let shop = Shop::open(&reference.db, 512).await;
        let count = 6;
        let triples = |number: usize| {
            let id = format!("m{number}");
            let mut charge_link = invoice_payment(&format!("c{number}"), &id, "unused");
            charge_link["data"]["object"]["payment"] =
                json!({ "type": "charge", "charge": format!("ch_{id}") });
            let mut charged = charge(&id, 1_000, None);
            charged["data"]["object"]["metadata"] = json!({ "referral_code": "bob" });
            [
                referred(&id, 1_000), invoice(&id, 1_000, None), charged,
                charge_link, invoice_payment(&id, &id, &id),
            ]
        };
        for number in 0..count {
            shop.tell(&triples(number)).await;
        }
        shop.node.process_all().await;
        let expected = books::snapshot(&reference.db).await;

        // Each sale of three is told in another order; one event at a time posts all of them first.
        let shop = Shop::open(&db.db, 1).await;
        for number in 0..count {
            let mut events = triples(number);
            events.rotate_left(number % 5);
            if number % 2 == 1 {
                events.reverse();
            }
            shop.tell(&events).await;
        }
        shop.node.process_all().await;
        assert_eq!(books::snapshot(&db.db).await, expected);
        books::assert_they_add_up(&db.db).await;
    }
}

/// Processes with several tasks at once until nothing waits.
async fn drain(nodes: Vec<Arc<Node>>) {
    let start = Arc::new(Barrier::new(nodes.len()));
    let mut tasks = JoinSet::new();
    for node in nodes {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            // A node that finds everything taken by the others is idle and not done.
            while !process::step(&node.app).await.unwrap().is_idle()
                || refold_some(&node).await
                || is_waiting(&node.app.db).await
            {
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
}

/// Whether there was work, or another node was in the way of it.
async fn refold_some(node: &Node) -> bool {
    match refold::step(&node.app).await {
        Ok(sales) => sales > 0,
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            true
        }
    }
}

async fn is_waiting(db: &Db) -> bool {
    let mut conn = db.read().await.unwrap();
    inbox::oldest_waiting(&mut conn).await.unwrap().is_some()
        || store::refold::oldest(&mut conn).await.unwrap().is_some()
}

/// Nodes of their own on the same database, `tasks` of them, in pairs that share their connections.
async fn nodes(db: &TestDb, tasks: usize, batch_events: usize) -> Vec<Arc<Node>> {
    let options = DbOptions { max_connections: 4, ..DbOptions::default() };
    let databases = [db.another_node(&options).await, db.another_node(&options).await];
    (0..tasks).map(|task| Arc::new(Node::new(databases[task % 2].clone(), batch_events))).collect()
}

/// 300 events about 60 sales of one customer: paid, charged, invoiced or refunded, and linked late.
fn sales_of_one_customer() -> Vec<Value> {
    let buyer = Some("cus_one");
    let mut events = Vec::new();
    for number in 0..60_i64 {
        let id = format!("s{number}");
        events.push(intent(&id, 1_000 + number, buyer));
        events.push(charge(&id, 1_000 + number, Some(&id)));
        events.push(invoice(&id, 1_000 + number, buyer));
        events.push(invoice_payment(&id, &id, &id));
        events.push(if number % 3 == 0 {
            refund(&id, &id, 100 + number)
        } else {
            stripe(&format!("other_{id}"), "charge.failed", &json!({ "id": format!("ch_{id}") }))
        });
    }
    events.insert(150, customer("cus_one", "ada"));
    events
}

on_each_engine! {
    async fn many_nodes_on_one_customer_lose_and_double_nothing(db: TestDb) {
        let events = sales_of_one_customer();
        let reference = TestDb::sqlite().await;
        let shop = Shop::open(&reference.db, 512).await;
        shop.tell_and_process(&events).await;
        let expected = books::snapshot(&reference.db).await;
        assert_eq!(expected.iter().filter(|line| line.starts_with("commission ")).count(), 60);

        let shop = Shop::open(&db.db, 512).await;
        // Spread, so that the batches of the nodes touch the same sales.
        for start in 0..7 {
            let part: Vec<Value> = events.iter().skip(start).step_by(7).cloned().collect();
            shop.tell(&part).await;
        }
        drain(nodes(&db, 4, 8).await).await;

        assert_eq!(books::snapshot(&db.db).await, expected);
        books::assert_they_add_up(&db.db).await;
    }

    async fn late_links_told_to_two_nodes_at_once_merge_each_pair_once(db: TestDb) {
        const COUNT: usize = 25;
        let shop = Shop::open(&db.db, 512).await;
        for number in 0..COUNT {
            let id = format!("{number}");
            shop.tell(&[referred(&id, 1_000), invoice(&id, 1_000, Some("cus_one"))]).await;
        }
        shop.tell_and_process(&[customer("cus_one", "ada")]).await;
        for number in 0..COUNT {
            let id = format!("{number}");
            let link = invoice_payment(&id, &id, &id);
            shop.tell(std::slice::from_ref(&link)).await;
            shop.deliver("b", &link).await;
        }
        drain(nodes(&db, 4, 1).await).await;

        for number in 0..COUNT {
            shop.assert_standing(&format!("pi_{number}"), "held", [200, 0, 200, 0]).await;
            assert_eq!(shop.sale(&format!("pi_{number}")).await, shop.sale(&format!("in_{number}")).await);
        }
        let balances: Vec<String> = books::snapshot(&db.db).await;
        assert!(
            balances.contains(&"balance par_shop-ada held usd 5000".to_owned()),
            "25 sales × 200: {balances:?}"
        );
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_code_told_at_the_same_moment_as_the_sale_is_not_lost(db: TestDb) {
        const ROUNDS: usize = 30;
        let shop = Shop::open(&db.db, 1).await;
        let nodes = nodes(&db, 2, 1).await;
        for round in 0..ROUNDS {
            let buyer = format!("cus_{round}");
            let sale = intent(&format!("{round}"), 1_000, Some(&buyer));
            let code = customer(&buyer, "ada");
            if round % 2 == 0 {
                shop.tell(&[sale, code]).await;
            } else {
                shop.tell(&[code, sale]).await;
            }
            drain(nodes.clone()).await;
        }
        for round in 0..ROUNDS {
            shop.assert_standing(&format!("pi_{round}"), "held", [200, 0, 200, 0]).await;
        }
        books::assert_they_add_up(&db.db).await;
    }
}

fn step_of(node: &Arc<Node>) -> impl Future<Output = Worked> + 'static + use<> {
    let node = Arc::clone(node);
    async move { process::step(&node.app).await.unwrap() }
}

/// The order of locks decides: the merge holds both sales when the code looks for the customer's sales,
/// and moves the customer's payment to the other sale before the code gets its lock.
#[tokio::test]
async fn a_code_told_while_its_sale_is_merged_reaches_the_survivor() {
    const HOLD: &str = "SELECT object_id FROM payment WHERE object_id = 'in_x' FOR UPDATE";
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 1).await;
    shop.tell_and_process(&[intent("x", 1_000, None)]).await;
    shop.node.clock.advance_secs(1);
    shop.tell_and_process(&[invoice("x", 1_000, Some("cus_x"))]).await;
    let nodes = nodes(&db, 2, 1).await;

    let mut holding = db.db.begin().await.unwrap();
    holding.q(HOLD).scalar::<String>().await.unwrap();
    shop.tell(&[invoice_payment("x", "x", "x")]).await;
    for node in &nodes {
        node.clock.set(shop.node.app.now());
    }
    let merge = tokio::spawn(step_of(&nodes[0]));
    until_blocked(&db.db, 1).await;
    shop.tell(&[customer("cus_x", "ada")]).await;
    let code = tokio::spawn(step_of(&nodes[1]));
    until_blocked(&db.db, 2).await;
    holding.rollback().await.unwrap();
    assert_eq!(merge.await.unwrap().finished + code.await.unwrap().finished, 2);

    shop.assert_standing("pi_x", "held", [200, 0, 200, 0]).await;
    books::assert_they_add_up(&db.db).await;
}

/// A sale that another node opens under the same id while this one is at work: the batch starts again.
#[tokio::test]
async fn a_conflict_between_nodes_costs_no_attempt() {
    const SALE: &str = "INSERT INTO sale (id, project_id, realm, status, refunded_minor, disputed_minor,
            received_at_us, created_at_us)
        VALUES ('sale_other', $1, 'stripe/test', 'open', 0, 0, 0, 0)";
    const ALIAS: &str = "INSERT INTO sale_alias (project_id, realm, kind, object_id, sale_id)
        VALUES ($1, 'stripe/test', 'payment_intent', 'pi_x', 'sale_other')";
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 1).await;
    let nodes = nodes(&db, 1, 1).await;
    shop.tell(&[referred("x", 1_000)]).await;
    let mut other = db.db.begin().await.unwrap();
    other.q(SALE).bind(shop.owner.project()).exec().await.unwrap();
    other.q(ALIAS).bind(shop.owner.project()).exec().await.unwrap();
    let step = tokio::spawn(step_of(&nodes[0]));
    until_blocked(&db.db, 1).await;
    other.commit().await.unwrap();

    assert_eq!(step.await.unwrap(), Worked { finished: 1, failed: 0, postponed: 0 });
    let (state, _, attempts, _) = shop.event("evt_intent_x").await;
    assert_eq!((state.as_str(), attempts), ("applied", 0));
    assert_eq!(shop.sale("pi_x").await.unwrap().as_str(), "sale_other");
    shop.assert_standing("pi_x", "held", [200, 0, 200, 0]).await;
}

#[tokio::test]
async fn a_busy_database_file_costs_no_attempt() {
    let db = TestDb::sqlite().await;
    let shop = Shop::open(&db.db, 512).await;
    shop.tell(&[referred("x", 1_000)]).await;
    let impatient = DbOptions { busy_timeout: Duration::from_millis(1), ..DbOptions::default() };
    let node = Node::new(db.another_node(&impatient).await, 512);

    let writing = db.db.begin().await.unwrap();
    assert_eq!(process::step(&node.app).await.unwrap(), Worked { finished: 0, failed: 0, postponed: 1 });
    writing.rollback().await.unwrap();

    let (state, reason, attempts, _) = shop.event("evt_intent_x").await;
    assert_eq!((state.as_str(), reason, attempts), ("received", None, 0));
    assert_eq!(process::step(&node.app).await.unwrap(), Worked { finished: 1, failed: 0, postponed: 0 });
}
