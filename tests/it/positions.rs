//! Rules that look at other sales, and what sponsors earn, through the real stages: places are given once
//! whoever asks at the same moment, and everybody who earned is paid.

use std::collections::BTreeMap;

use remit::{
    app::{
        decide::{self, Request},
        doctor,
        keys::Principal,
    },
    domain::{commission::DecisionKind, ids::EnrollmentId},
    store::DbOptions,
};
use serde_json::{Value, json};

use super::{
    paying::earn,
    support::{
        TestDb,
        bank::Bank,
        books,
        node::Node,
        on_each_engine,
        shop::{PAID_AT_S, Shop, customer, intent, refund, stripe},
        till::sale,
    },
};

const DAY_S: i64 = 86_400;

/// 10 % for the first three sales, then 20 %.
fn by_count() -> Value {
    let tiers = json!([{ "from": 0, "bps": 1_000 }, { "from": 3, "bps": 2_000 }]);
    json!({ "commission": { "type": "tiered", "basis": "count", "tiers": tiers } })
}

fn recurring(max_payments: u32) -> Value {
    json!({ "commission": { "type": "recurring", "bps": 1_000, "max_payments": max_payments } })
}

/// 1 000 by an intent that names ada's code, paid some time after the start.
fn referred(id: &str, after_s: i64, customer: Option<&str>) -> Value {
    let mut event = intent(id, 1_000, customer);
    event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    event["created"] = json!(PAID_AT_S + after_s);
    event
}

/// `customer.subscription.created` that names ada's code.
fn subscribed(after_s: i64) -> Value {
    let object = json!({ "id": "sub", "customer": "cus", "metadata": { "referral_code": "ada" } });
    let mut event = stripe("subscribed", "customer.subscription.created", &object);
    event["created"] = json!(PAID_AT_S + after_s);
    event
}

/// `invoice.paid` of the subscription, which tells its metadata again.
fn renewal(number: i64, after_s: i64, metadata: &Value) -> Value {
    let object = json!({
        "id": format!("in_{number}"), "amount_paid": 1_000, "currency": "usd", "customer": "cus",
        "billing_reason": if number == 1 { "subscription_create" } else { "subscription_cycle" },
        "parent": {
            "type": "subscription_details",
            "subscription_details": { "subscription": "sub", "metadata": metadata },
        },
    });
    let mut event = stripe(&format!("renewal_{number}"), "invoice.paid", &object);
    event["created"] = json!(PAID_AT_S + after_s);
    event
}

/// Of every placed commission its place (sales before it, or the number of the payment) and its amount.
async fn places(shop: &Shop) -> Vec<(i64, i64)> {
    const SQL: &str = "SELECT position, amount_minor FROM commission WHERE position IS NOT NULL";
    let mut conn = shop.node.app.db.read().await.unwrap();
    let rows: Vec<(String, i64)> = conn.q(SQL).all().await.unwrap();
    let mut places: Vec<(i64, i64)> = rows
        .iter()
        .map(|(position, amount)| {
            let position: Value = serde_json::from_str(position).unwrap();
            let place = position.get("count").or_else(|| position.get("number")).unwrap();
            (place.as_i64().unwrap(), *amount)
        })
        .collect();
    places.sort_unstable();
    places
}

/// What `count` sales are to earn by [`by_count`], by place.
fn by_place(count: i64) -> Vec<(i64, i64)> {
    (0..count).map(|place| (place, if place < 3 { 100 } else { 200 })).collect()
}

async fn second_node(db: &TestDb, batch_events: usize) -> Node {
    Node::new(db.another_node(&DbOptions::default()).await, batch_events)
}

/// Both nodes at once, then the first alone, for what the other had locked.
async fn process_on_both(shop: &Shop, other: &Node) {
    tokio::join!(shop.node.process_all(), other.process_all());
    shop.node.process_all().await;
}

async fn open_findings(shop: &Shop) -> Vec<String> {
    const SQL: &str = "SELECT kind FROM finding WHERE resolved_at_us IS NULL ORDER BY kind";
    shop.node.app.db.read().await.unwrap().q(SQL).scalars().await.unwrap()
}

on_each_engine! {
    async fn two_nodes_give_each_place_among_an_affiliates_sales_once(db: TestDb) {
        let shop = Shop::open_with(&db.db, 2, &by_count()).await;
        let other = second_node(&db, 3).await;
        let events: Vec<Value> = (0..40).map(|n| referred(&n.to_string(), n, None)).collect();
        shop.tell(&events).await;
        process_on_both(&shop, &other).await;
        assert_eq!(places(&shop).await, by_place(40));
        assert_eq!(shop.count("applied").await, 40);
        books::assert_they_add_up(&db.db).await;
    }

    async fn two_nodes_let_no_payment_beyond_the_limit_earn(db: TestDb) {
        let shop = Shop::open_with(&db.db, 1, &recurring(5)).await;
        let other = second_node(&db, 2).await;
        let events: Vec<Value> = (0..16).map(|n| referred(&n.to_string(), n, Some("cus"))).collect();
        shop.tell(&events).await;
        process_on_both(&shop, &other).await;
        let expected: Vec<(i64, i64)> = (1..=16).map(|n| (n, if n <= 5 { 100 } else { 0 })).collect();
        assert_eq!(places(&shop).await, expected);
        books::assert_they_add_up(&db.db).await;
    }

    async fn approvals_on_two_nodes_give_each_place_once(db: TestDb) {
        let mut terms = by_count();
        terms["approval_mode"] = json!("manual");
        let shop = Shop::open_with(&db.db, 512, &terms).await;
        let other = second_node(&db, 512).await;
        let events: Vec<Value> = (0..8).map(|n| referred(&n.to_string(), n, None)).collect();
        shop.tell_and_process(&events).await;
        assert_eq!(places(&shop).await, [], "nothing has accrued yet");
        for pair in 0..4 {
            let (one, two) = (format!("pi_{}", pair * 2), format!("pi_{}", pair * 2 + 1));
            let request = |sale| Request {
                sale_id: sale,
                enrollment_id: EnrollmentId::parse(&shop.enrollment("ada")).unwrap(),
                kind: DecisionKind::Approve,
                reason: None,
                amount: None,
                note: None,
                by: Principal::console(),
                idempotency_key: None,
            };
            let one = request(shop.sale(&one).await.unwrap());
            let two = request(shop.sale(&two).await.unwrap());
            let (one, two) = tokio::join!(decide::decide(&shop.node.app, &one), decide::decide(&other.app, &two));
            one.unwrap();
            two.unwrap();
        }
        assert_eq!(places(&shop).await, by_place(8));
        books::assert_they_add_up(&db.db).await;
    }

    async fn sales_that_are_folded_again_get_each_place_once_and_keep_it(db: TestDb) {
        let shop = Shop::open_with(&db.db, 512, &by_count()).await;
        // More sales of one customer than a batch folds at once, and then the code that refers them.
        let events: Vec<Value> = (0..70).map(|n| intent(&n.to_string(), 1_000, Some("cus"))).collect();
        shop.tell_and_process(&events).await;
        assert_eq!(places(&shop).await, []);
        shop.tell_and_process(&[customer("cus", "ada")]).await;
        let given = places(&shop).await;
        assert_eq!(given, by_place(70));
        let mut again = customer("cus", "ADA");
        again["id"] = json!("evt_again");
        again["created"] = json!(PAID_AT_S - 60);
        shop.tell_and_process(&[again]).await;
        assert_eq!(places(&shop).await, given);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_subscription_earns_for_as_many_invoices_as_the_rule_says(db: TestDb) {
        let shop = Shop::open_with(&db.db, 512, &recurring(2)).await;
        shop.tell_and_process(&[subscribed(0), renewal(1, 1, &json!({}))]).await;
        shop.tell_and_process(&[renewal(2, 30 * DAY_S, &json!({}))]).await;
        shop.tell_and_process(&[renewal(3, 60 * DAY_S, &json!({}))]).await;
        assert_eq!(places(&shop).await, [(1, 100), (2, 100), (3, 0)]);
        shop.assert_standing("in_3", "held", [0, 0, 0, 0]).await;
        let reason: Option<String> = shop.node.app.db.read().await.unwrap()
            .q("SELECT reason FROM commission WHERE amount_minor = 0").scalar().await.unwrap();
        assert_eq!(reason.as_deref(), Some("payments_limit"));
        assert_eq!(open_findings(&shop).await, [""; 0]);
        books::assert_they_add_up(&db.db).await;
    }

    async fn an_older_invoice_that_arrives_late_is_reported_and_reprices_nothing(db: TestDb) {
        let shop = Shop::open_with(&db.db, 512, &recurring(2)).await;
        shop.tell_and_process(&[subscribed(0), renewal(2, 30 * DAY_S, &json!({}))]).await;
        shop.tell_and_process(&[renewal(3, 60 * DAY_S, &json!({}))]).await;
        shop.tell_and_process(&[renewal(1, 1, &json!({}))]).await;
        assert_eq!(places(&shop).await, [(1, 100), (2, 100), (3, 0)]);
        shop.assert_standing("in_1", "held", [0, 0, 0, 0]).await;
        assert_eq!(open_findings(&shop).await, ["late_position"]);
    }

    async fn retiring_a_code_ends_no_renewal_of_those_it_brought(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let code = json!({ "referral_code": "ada" });
        shop.tell_and_process(&[subscribed(0), renewal(1, 1, &code)]).await;
        retire(&shop, "ada", 10).await;
        shop.tell_and_process(&[renewal(2, 30 * DAY_S, &code), renewal(3, 60 * DAY_S, &json!({}))]).await;
        for invoice in ["in_1", "in_2", "in_3"] {
            shop.assert_standing(invoice, "held", [200, 0, 200, 0]).await;
        }
        assert_eq!(open_findings(&shop).await, [""; 0]);
        // Nobody new comes by it.
        shop.tell_and_process(&[referred("new", 30 * DAY_S, None)]).await;
        assert_eq!(shop.standing("pi_new", "ada").await, None);
        assert_eq!(open_findings(&shop).await, ["code_not_valid"]);
    }

    async fn that_a_retired_code_was_told_in_time_may_become_known_late(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        retire(&shop, "ada", 10).await;
        shop.tell_and_process(&[renewal(2, 30 * DAY_S, &json!({ "referral_code": "ada" }))]).await;
        assert_eq!(shop.standing("in_2", "ada").await, None);
        assert_eq!(open_findings(&shop).await, ["code_not_valid"]);
        let mut early = subscribed(0);
        early["data"]["object"]["customer"] = json!(null);
        shop.tell_and_process(&[early]).await;
        shop.assert_standing("in_2", "held", [200, 0, 200, 0]).await;
        assert_eq!(open_findings(&shop).await, [""; 0]);
    }

    async fn sponsors_are_paid_with_the_affiliate_and_share_what_is_taken_back(db: TestDb) {
        let bank = multi_level(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.assert_balance("ada", [0, 2_000, 0, 0]).await;
        bank.assert_balance("bob", [0, 200, 0, 0]).await;
        it_adds_up(&bank).await;

        assert_eq!(bank.settle().await, []);
        bank.dispatch().await;
        bank.tell().await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        bank.assert_balance("bob", [0, 0, 0, 200]).await;
        let mut sent: BTreeMap<String, i64> = BTreeMap::new();
        for transfer in bank.effects("transfer.created").await {
            let account = transfer["destination"].as_str().unwrap().to_owned();
            *sent.entry(account).or_default() += transfer["amount"].as_i64().unwrap();
        }
        assert_eq!(sent, BTreeMap::from([("acct_ada".to_owned(), 2_000), ("acct_bob".to_owned(), 200)]));

        // A quarter of the sale goes back: a quarter of both carries forward and is netted.
        bank.refund("x", 10_000, 2_500).await;
        bank.assert_balance("ada", [0, -500, 0, 2_000]).await;
        bank.assert_balance("bob", [0, -50, 0, 200]).await;
        earn(&bank, "ada", "y", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.tell().await;
        bank.assert_balance("ada", [0, 0, 0, 3_500]).await;
        bank.assert_balance("bob", [0, 0, 0, 350]).await;
        it_adds_up(&bank).await;
    }

    async fn a_transfer_that_came_back_concerns_only_whom_it_paid(db: TestDb) {
        let bank = multi_level(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        let made = bank.effects("transfer.created").await;
        let is_adas = |transfer: &&Value| transfer["destination"] == "acct_ada";
        let id = made.iter().find(is_adas).unwrap()["id"].as_str().unwrap().to_owned();
        bank.post(&format!("/v1/transfers/{id}/reversals"), &[("amount", "2000")]).await;
        bank.tell().await;
        let standing = |affiliate: &'static str| bank.shop.standing("ch_x", affiliate);
        assert_eq!(standing("ada").await, Some(("paid".to_owned(), 2_000, 2_000, 0, 0)));
        assert_eq!(standing("bob").await, Some(("paid".to_owned(), 200, 0, 0, 200)));
        it_adds_up(&bank).await;
    }

    async fn another_hold_for_one_commission_holds_its_sponsors_share_as_long(db: TestDb) {
        let bank = multi_level(&db).await;
        let event = sale("ada", "x", 10_000, "usd");
        bank.shop.tell_and_process(&[event]).await;
        let request = Request {
            sale_id: bank.shop.sale("ch_x").await.unwrap(),
            enrollment_id: EnrollmentId::parse(&bank.shop.enrollment("ada")).unwrap(),
            kind: DecisionKind::HoldPeriod,
            reason: None,
            amount: Some(5),
            note: None,
            by: Principal::console(),
            idempotency_key: None,
        };
        decide::decide(&bank.shop.node.app, &request).await.unwrap();
        bank.advance(5 * 86_400 - 1).await;
        bank.pass_time().await;
        bank.assert_balance("ada", [2_000, 0, 0, 0]).await;
        bank.assert_balance("bob", [200, 0, 0, 0]).await;
        bank.advance(1).await;
        bank.pass_time().await;
        bank.assert_balance("ada", [0, 2_000, 0, 0]).await;
        bank.assert_balance("bob", [0, 200, 0, 0]).await;
        bank.shop.tell_and_process(&[refund("all", "x", 10_000)]).await;
        bank.assert_balance("bob", [0, 0, 0, 0]).await;
        it_adds_up(&bank).await;
    }
}

/// Retires a code some seconds after the start.
async fn retire(shop: &Shop, code: &str, after_s: i64) {
    let mut tx = shop.node.app.db.begin().await.unwrap();
    tx.q("UPDATE code SET valid_to_us = $2 WHERE code_normalised = $1")
        .bind(code)
        .bind((PAID_AT_S + after_s) * 1_000_000)
        .exec()
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// A bank whose program gives sponsors a tenth of the commission, and bob brought ada.
async fn multi_level(db: &TestDb) -> Bank {
    let bank = Bank::open_with(db, &[("REMIT_PROGRAMS__MULTI_LEVEL", "true")]).await;
    let terms = json!({ "commission": { "type": "percentage", "bps": 2_000 }, "upline_bps": [1_000] });
    let mut tx = db.db.begin().await.unwrap();
    tx.q("UPDATE program_terms SET terms = $1").bind(terms.to_string()).exec().await.unwrap();
    tx.commit().await.unwrap();
    bank.shop.owner.place_under(&db.db, "ada", "bob").await;
    bank
}

async fn it_adds_up(bank: &Bank) {
    books::assert_they_add_up(&bank.shop.node.app.db).await;
    let found = doctor::examine(&bank.shop.node.app).await.unwrap();
    // These databases have no beat: nobody runs a whole node.
    let broken: Vec<_> = found.iter().filter(|one| one.invariant != "database_not_restored").collect();
    assert!(broken.is_empty(), "{broken:?}");
    bank.audit().await;
}
