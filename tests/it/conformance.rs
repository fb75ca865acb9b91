//! Real and composed payloads of both providers through the real stages: each delivered twice, each
//! sequence in every kind of order, with the states in between.
//!
//! They are read from `../shared/providers/events` (or `REMIT_CONFORMANCE_DIR`), which is data beside
//! the project and not part of it; without it these tests say so and pass, except with `CI` set. The
//! payloads carry no referral, so the sales are attributed by hand, and a payment is made up where a
//! sequence has none.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use remit::{domain::time::Timestamp, store::inbox::Inserted};
use serde_json::{Value, json};

use super::support::{
    TestDb, books, on_each_engine,
    shop::{self, PAID_AT_S, Shop},
};

/// A payload with the name of its file, without `.json`.
#[derive(Clone)]
struct Payload {
    provider: &'static str,
    name: String,
    body: Vec<u8>,
}

impl Payload {
    /// The provider's id of the event.
    fn event_id(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let field = if self.provider == "stripe" { "id" } else { "event_id" };
        body[field].as_str().unwrap().to_owned()
    }
}

/// Every payload, by provider and name; none where they are not there to be read.
fn payloads() -> Vec<Payload> {
    let shared = env::var_os("REMIT_CONFORMANCE_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/providers"), PathBuf::from);
    let mut payloads = Vec::new();
    for provider in ["paddle", "stripe"] {
        let folder = shared.join("events").join(provider);
        if !folder.is_dir() {
            assert!(env::var_os("CI").is_none(), "no payloads at {}", folder.display());
            println!("skipped: no payloads at {}", folder.display());
            return Vec::new();
        }
        let mut files: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        payloads.extend(files.into_iter().map(|path| Payload {
            provider,
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            body: fs::read(&path).unwrap(),
        }));
    }
    payloads
}

/// The payloads that end `ignored`, with the reason; every other one ends `applied`.
const IGNORED: &[(&str, &str)] = &[
    // Its `payment` names a type only.
    ("stripe/composed.basil.invoice_payment.paid", "no_sale"),
    ("stripe/composed.thin.v1.transfer.reversed", "thin_event"),
    ("stripe/srm.account.application.deauthorized", "no_account"),
    ("stripe/srm.charge.dispute.closed", "old_shape"),
    ("stripe/srm.charge.failed", "unhandled_type"),
    ("stripe/srm.customer.subscription.updated", "no_code"),
    ("stripe/srm.invoice.payment_failed", "unhandled_type"),
    ("stripe/srm.payment_intent.canceled", "not_own_charge"),
    ("stripe/srm.payment_intent.payment_failed", "not_own_charge"),
    ("stripe/srm.payment_intent.processing", "not_own_charge"),
    ("stripe/srm.payout.paid", "own_account"),
    ("stripe/srm.payout.updated", "unhandled_type"),
    ("stripe/srm.transfer.created", "old_shape"),
    ("stripe/srm.transfer.failed", "unhandled_type"),
    ("stripe/srm.transfer.paid", "unhandled_type"),
    ("stripe/srm.transfer.updated", "old_shape"),
    // The one payload in live mode.
    ("stripe/sse.checkout.session.completed", "wrong_mode"),
    ("paddle/composed.credit.1.credit.approved", "no_cash"),
    ("paddle/node.customer.created", "unhandled_type"),
    ("paddle/node.payout.paid", "unhandled_type"),
    ("paddle/node.subscription.created", "no_code"),
    ("paddle/node.subscription.past_due", "unhandled_type"),
    ("paddle/node.transaction.billed", "not_final"),
    ("paddle/node.transaction.paid", "not_final"),
    ("paddle/node.transaction.past_due", "not_final"),
    ("paddle/node.transaction.payment_failed", "not_final"),
];

async fn deliver(shop: &Shop, endpoint: &str, payload: &Payload) -> Inserted {
    let endpoint = shop.owner.endpoint(endpoint);
    shop.node.receive(&shop.owner.project(), &endpoint, payload.provider, &payload.body).await
}

async fn entries(shop: &Shop) -> i64 {
    books::entries(&mut shop.node.app.db.read().await.unwrap()).await
}

/// The sales that have money and belong to nobody yet, each by one of its objects.
async fn unattributed(shop: &Shop) -> Vec<String> {
    const SQL: &str = "SELECT MIN(a.object_id) FROM sale s JOIN sale_alias a ON a.sale_id = s.id
        WHERE s.amount_minor > 0 AND NOT EXISTS (SELECT 1 FROM conversion c WHERE c.sale_id = s.id)
        GROUP BY s.id ORDER BY 1";
    shop.node.app.db.read().await.unwrap().q(SQL).scalars().await.unwrap()
}

/// The state of the events of one endpoint, by the provider's id.
async fn event_states(shop: &Shop, endpoint: &str) -> BTreeMap<String, (String, Option<String>)> {
    const SQL: &str = "SELECT provider_event_id, state, reason FROM inbox WHERE endpoint_id = $1";
    let mut conn = shop.node.app.db.read().await.unwrap();
    let rows: Vec<(String, String, Option<String>)> =
        conn.q(SQL).bind(shop.owner.endpoint(endpoint)).all().await.unwrap();
    rows.into_iter().map(|(id, state, reason)| (id, (state, reason))).collect()
}

on_each_engine! {
    async fn every_payload_delivered_twice_has_one_effect(db: TestDb) {
        let payloads = payloads();
        let shop = Shop::open(&db.db, 16).await;
        for payload in &payloads {
            assert_eq!(deliver(&shop, "a", payload).await, Inserted::New, "{}", payload.name);
            assert_eq!(deliver(&shop, "a", payload).await, Inserted::Duplicate, "{}", payload.name);
        }
        shop.node.process_all().await;
        for object in unattributed(&shop).await {
            shop.attribute(&object, "ada").await;
        }
        let once = books::snapshot(&db.db).await;
        let entries_once = entries(&shop).await;

        // At a second endpoint the keys are new, so that the facts are told again.
        for payload in &payloads {
            assert_eq!(deliver(&shop, "b", payload).await, Inserted::New, "{}", payload.name);
        }
        shop.node.process_all().await;

        for endpoint in ["a", "b"] {
            let states = event_states(&shop, endpoint).await;
            assert_eq!(states.len(), payloads.len());
            for payload in &payloads {
                let name = format!("{}/{}", payload.provider, payload.name);
                let reason = IGNORED.iter().find(|(ignored, _)| *ignored == name).map(|(_, reason)| reason);
                let state = if reason.is_some() { "ignored" } else { "applied" };
                let expected = (state.to_owned(), reason.map(|&reason| reason.to_owned()));
                assert_eq!(states[&payload.event_id()], expected, "{name} at {endpoint}");
            }
        }
        let money = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !line.starts_with("event ")).cloned().collect()
        };
        assert_eq!(money(&books::snapshot(&db.db).await), money(&once));
        assert_eq!(entries(&shop).await, entries_once, "the second delivery posted something");
        assert!(payloads.is_empty() || entries_once > 5, "the payloads moved no money to compare");
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_is_live_is_ignored_in_test_mode(db: TestDb) {
        const SALES: &str = "SELECT COUNT(*) FROM sale";
        let shop = Shop::open(&db.db, 16).await;
        for payload in payloads().iter().filter(|payload| payload.provider == "stripe") {
            let mut body: Value = serde_json::from_slice(&payload.body).unwrap();
            body["livemode"] = true.into();
            shop.deliver("a", &body).await;
        }
        shop.node.process_all().await;
        let states = event_states(&shop, "a").await;
        for (event, state) in states {
            assert_eq!(state, ("ignored".to_owned(), Some("wrong_mode".to_owned())), "{event}");
        }
        let sales: Option<i64> = db.db.read().await.unwrap().q(SALES).scalar().await.unwrap();
        assert_eq!(sales, Some(0));
    }
}

/// Stripe's payment of a charge and its intent, for sequences that begin after it.
fn stripe_payment(name: &str, amount: i64) -> Payload {
    let object = json!({
        "id": format!("ch_1Composed{name}"), "amount": amount, "amount_captured": amount, "captured": true,
        "currency": "usd", "payment_intent": format!("pi_1Composed{name}"),
    });
    let event = shop::stripe(&format!("payment_{name}"), "charge.succeeded", &object);
    Payload { provider: "stripe", name: format!("payment.{name}"), body: event.to_string().into_bytes() }
}

/// Paddle's payment of a transaction.
fn paddle_payment(name: &str, total: i64) -> Payload {
    let event = json!({
        "event_id": format!("evt_payment_{name}"), "event_type": "transaction.completed",
        "occurred_at": "2026-01-01T00:00:00Z", "notification_id": format!("ntf_payment_{name}"),
        "data": {
            "id": format!("txn_01composed{name}"), "status": "completed", "currency_code": "USD",
            "details": { "totals": {
                "total": total.to_string(), "grand_total": total.to_string(), "tax": "0",
                "credit": "0", "balance": "0", "currency_code": "USD",
            } },
        },
    });
    Payload { provider: "paddle", name: format!("payment.{name}"), body: event.to_string().into_bytes() }
}

/// The payloads whose name begins with `start`, in order of their numbers; none without the folder.
fn sequence(start: &str) -> Vec<Payload> {
    payloads().into_iter().filter(|payload| payload.name.starts_with(start)).collect()
}

/// Delivers one payload, twice at one endpoint and once at another, and processes it.
async fn tell(shop: &Shop, payload: &Payload) {
    assert_eq!(deliver(shop, "a", payload).await, Inserted::New, "{}", payload.name);
    assert_eq!(deliver(shop, "a", payload).await, Inserted::Duplicate, "{}", payload.name);
    deliver(shop, "b", payload).await;
    shop.node.process_all().await;
}

/// The orders in which a sequence of `count` is told beside its own: backwards, and shuffled.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let backwards: Vec<usize> = (0..count).rev().collect();
    // Three fixed shuffles: every second one first, the middle first, and the ends towards the middle.
    let odd_first: Vec<usize> =
        (0..count).filter(|at| at % 2 == 1).chain((0..count).filter(|at| at % 2 == 0)).collect();
    let rotated: Vec<usize> = (0..count).map(|at| (at + count / 2) % count).collect();
    let mut inwards: Vec<usize> = (0..count).collect();
    inwards.sort_by_key(|&at| at.min(count - 1 - at));
    vec![backwards, odd_first, rotated, inwards]
}

/// Tells a sequence in several other orders, each in a database of its own, and compares the end: the
/// commission of 20 % on the sale of `object`. The sale is attributed as soon as anything is known of it.
async fn ends_alike_in_other_orders(payloads: &[Payload], object: &str, end: (&str, [i64; 4])) {
    for order in orders(payloads.len()) {
        for one_batch in [false, true] {
            let db = TestDb::sqlite().await;
            let shop = Shop::open(&db.db, 512).await;
            for &at in &order {
                if one_batch {
                    deliver(&shop, "a", &payloads[at]).await;
                } else {
                    tell(&shop, &payloads[at]).await;
                    if shop.sale(object).await.is_some() {
                        shop.attribute(object, "ada").await;
                    }
                }
            }
            shop.node.process_all().await;
            shop.attribute(object, "ada").await;
            shop.node.pass_time(Timestamp::from_secs(PAID_AT_S + 10_000)).await;
            shop.assert_standing(object, end.0, end.1).await;
            assert_eq!(shop.count("parked").await, 0, "{order:?}");
            books::assert_they_add_up(&db.db).await;
        }
    }
}

async fn refunded(shop: &Shop, object: &str) -> i64 {
    const SQL: &str = "SELECT refunded_minor FROM sale WHERE id = $1";
    let sale = shop.sale(object).await.unwrap();
    shop.node.app.db.read().await.unwrap().q(SQL).bind(sale.as_str()).scalar().await.unwrap().unwrap()
}

on_each_engine! {
    async fn the_refunds_take_a_half_of_a_payment_of_3000(db: TestDb) {
        const INTENT: &str = "pi_3SRzqkKXBGcbgpbZ1P6QNbvc";
        let told = sequence("composed.refunds.");
        if told.is_empty() {
            return;
        }
        let named = |end: &str| told.iter().find(|payload| payload.name.ends_with(end)).unwrap();
        let shop = Shop::open(&db.db, 16).await;

        // 3000 × 20 % = 600.
        tell(&shop, named("payment_intent.succeeded")).await;
        shop.attribute(INTENT, "ada").await;
        shop.assert_standing(INTENT, "held", [600, 0, 600, 0]).await;
        tell(&shop, named("charge.succeeded")).await;
        shop.assert_standing(INTENT, "held", [600, 0, 600, 0]).await;
        shop.pass_grace().await;
        shop.assert_standing(INTENT, "payable", [600, 0, 0, 600]).await;
        // 1000 of 3000 refunded: 2000 × 20 % = 400 are kept. The total says nothing new.
        for payload in ["1.refund.created", "1.charge.refunded"] {
            tell(&shop, named(payload)).await;
            shop.assert_standing(INTENT, "payable", [600, 200, 0, 400]).await;
        }
        assert_eq!(refunded(&shop, INTENT).await, 1000);
        // The total alone is enough; the refund it was about comes later and is not added.
        for payload in ["2.charge.refunded", "2.refund.created"] {
            tell(&shop, named(payload)).await;
            shop.assert_standing(INTENT, "payable", [600, 300, 0, 300]).await;
        }
        assert_eq!(refunded(&shop, INTENT).await, 1500);
        books::assert_they_add_up(&db.db).await;
    }

    async fn the_dispute_that_is_won_nets_to_zero(db: TestDb) {
        const CHARGE: &str = "ch_1Composeddispute_won";
        let told = sequence("composed.dispute_won.");
        let [created, withdrawn, updated, reinstated, closed] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        // 4995 × 20 % = 999.
        tell(&shop, &stripe_payment("dispute_won", 4995)).await;
        shop.attribute(CHARGE, "ada").await;
        shop.assert_standing(CHARGE, "held", [999, 0, 999, 0]).await;
        let accrued = entries(&shop).await;

        tell(&shop, created).await;
        shop.assert_standing(CHARGE, "flagged", [999, 0, 999, 0]).await;
        assert_eq!(entries(&shop).await, accrued, "a dispute that took no money posts nothing");
        shop.node.pass_time(Timestamp::from_secs(PAID_AT_S + 10_000)).await;
        shop.assert_standing(CHARGE, "flagged", [999, 0, 999, 0]).await;

        for payload in [withdrawn, updated] {
            tell(&shop, payload).await;
            shop.assert_standing(CHARGE, "reversed", [999, 999, 0, 0]).await;
        }
        // Received 10 000 s after the start, so the grace runs again; the money is back all the same.
        for payload in [reinstated, closed] {
            tell(&shop, payload).await;
            shop.assert_standing(CHARGE, "held", [999, 0, 999, 0]).await;
        }
        shop.node.pass_time(Timestamp::from_secs(PAID_AT_S + 20_000)).await;
        shop.assert_standing(CHARGE, "payable", [999, 0, 0, 999]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_dispute_stops_money_that_is_payable_already(db: TestDb) {
        const CHARGE: &str = "ch_1Composeddispute_won";
        let told = sequence("composed.dispute_won.");
        let Some(created) = told.first() else { return };
        let shop = Shop::open(&db.db, 16).await;
        tell(&shop, &stripe_payment("dispute_won", 4995)).await;
        shop.attribute(CHARGE, "ada").await;
        shop.pass_grace().await;
        shop.assert_standing(CHARGE, "payable", [999, 0, 0, 999]).await;
        tell(&shop, created).await;
        shop.assert_standing(CHARGE, "flagged", [999, 0, 999, 0]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn the_inquiry_moves_no_money(db: TestDb) {
        const CHARGE: &str = "ch_1Composeddispute_inquiry";
        let told = sequence("composed.dispute_inquiry.");
        let [created, closed] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        tell(&shop, &stripe_payment("dispute_inquiry", 4995)).await;
        shop.attribute(CHARGE, "ada").await;
        let accrued = entries(&shop).await;
        tell(&shop, created).await;
        shop.assert_standing(CHARGE, "flagged", [999, 0, 999, 0]).await;
        tell(&shop, closed).await;
        shop.assert_standing(CHARGE, "held", [999, 0, 999, 0]).await;
        assert_eq!(entries(&shop).await, accrued);
        books::assert_they_add_up(&db.db).await;
    }

    async fn the_transfer_ends_fully_reversed_in_every_order(db: TestDb) {
        const TRANSFER: &str = "SELECT amount_minor, reversed_minor FROM transfer WHERE project_id = $1
            AND transfer_id = 'tr_1SRznDKXBGcbgpbZ69pgN0bx'";
        const REVERSALS: &str = "SELECT reversal_id, amount_minor FROM transfer_reversal
            WHERE transfer_id = 'tr_1SRznDKXBGcbgpbZ69pgN0bx' ORDER BY reversal_id";
        let told = sequence("composed.transfer.");
        if told.is_empty() {
            return;
        }
        let shop = Shop::open(&db.db, 16).await;
        let named = |end: &str| told.iter().find(|payload| payload.name.ends_with(end)).unwrap();
        let steps = [("transfer.created", 0), ("1.transfer.reversed", 200), ("2.transfer.reversed", 700)];
        for (name, reversed) in steps {
            tell(&shop, named(name)).await;
            let mut conn = db.db.read().await.unwrap();
            let row: Option<(i64, i64)> =
                conn.q(TRANSFER).bind(shop.owner.project()).one().await.unwrap();
            assert_eq!(row, Some((700, reversed)), "{name}");
        }
        for order in orders(told.len()) {
            let other = TestDb::sqlite().await;
            let shop = Shop::open(&other.db, 16).await;
            for at in order {
                tell(&shop, &told[at]).await;
            }
            let mut conn = other.db.read().await.unwrap();
            let row: Option<(i64, i64)> =
                conn.q(TRANSFER).bind(shop.owner.project()).one().await.unwrap();
            assert_eq!(row, Some((700, 700)));
            let reversals: Vec<(String, i64)> = conn.q(REVERSALS).all().await.unwrap();
            let expected = [("trr_1ComposedpgN0bx01", 200), ("trr_1ComposedpgN0bx02", 500)];
            assert_eq!(reversals, expected.map(|(id, amount)| (id.to_owned(), amount)));
        }
    }

    async fn a_paddle_refund_counts_once_it_is_approved(db: TestDb) {
        const SALE: &str = "txn_01composedrefundok";
        let told = sequence("composed.refund_ok.");
        let [pending, approved] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        // 2400 × 20 % = 480; of 1400 that stay, 280.
        tell(&shop, &paddle_payment("refundok", 2400)).await;
        shop.attribute(SALE, "ada").await;
        let accrued = entries(&shop).await;
        tell(&shop, pending).await;
        shop.assert_standing(SALE, "flagged", [480, 0, 480, 0]).await;
        assert_eq!(entries(&shop).await, accrued, "a refund that is only asked for posts nothing");
        tell(&shop, approved).await;
        shop.assert_standing(SALE, "held", [480, 200, 280, 0]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_paddle_refund_that_is_rejected_moves_no_money(db: TestDb) {
        const SALE: &str = "txn_01composedrefundno";
        let told = sequence("composed.refund_no.");
        let [pending, rejected] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        tell(&shop, &paddle_payment("refundno", 2400)).await;
        shop.attribute(SALE, "ada").await;
        let accrued = entries(&shop).await;
        tell(&shop, pending).await;
        shop.assert_standing(SALE, "flagged", [480, 0, 480, 0]).await;
        tell(&shop, rejected).await;
        shop.assert_standing(SALE, "held", [480, 0, 480, 0]).await;
        assert_eq!(entries(&shop).await, accrued);
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_paddle_chargeback_and_its_reverse_net_to_zero_once(db: TestDb) {
        const SALE: &str = "txn_01composedchargeback";
        let told = sequence("composed.chargeback");
        let [approved, reversed, reverse] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        tell(&shop, &paddle_payment("chargeback", 2400)).await;
        shop.attribute(SALE, "ada").await;
        tell(&shop, approved).await;
        shop.assert_standing(SALE, "reversed", [480, 480, 0, 0]).await;
        for payload in [reversed, reverse] {
            tell(&shop, payload).await;
            shop.assert_standing(SALE, "held", [480, 0, 480, 0]).await;
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_paddle_credit_and_a_warning_move_no_money(db: TestDb) {
        let told: Vec<Payload> =
            [sequence("composed.credit."), sequence("composed.warning.")].concat();
        let [credit, warning] = told.as_slice() else { return };
        let shop = Shop::open(&db.db, 16).await;
        for name in ["credit", "warning"] {
            tell(&shop, &paddle_payment(name, 2400)).await;
            shop.attribute(&format!("txn_01composed{name}"), "ada").await;
        }
        let accrued = entries(&shop).await;
        tell(&shop, credit).await;
        shop.assert_standing("txn_01composedcredit", "held", [480, 0, 480, 0]).await;
        tell(&shop, warning).await;
        shop.assert_standing("txn_01composedwarning", "flagged", [480, 0, 480, 0]).await;
        assert_eq!(entries(&shop).await, accrued);
        books::assert_they_add_up(&db.db).await;
    }
}

#[tokio::test]
async fn the_sequences_end_alike_in_other_orders() {
    let with_payment =
        |payment: Payload, start: &str| -> Vec<Payload> { [vec![payment], sequence(start)].concat() };
    if payloads().is_empty() {
        return;
    }
    let whole = ("payable", [480, 0, 0, 480]);
    let cases = [
        (sequence("composed.refunds."), "pi_3SRzqkKXBGcbgpbZ1P6QNbvc", ("payable", [600, 300, 0, 300])),
        (
            with_payment(stripe_payment("dispute_won", 4995), "composed.dispute_won."),
            "ch_1Composeddispute_won",
            ("payable", [999, 0, 0, 999]),
        ),
        (
            with_payment(stripe_payment("dispute_inquiry", 4995), "composed.dispute_inquiry."),
            "ch_1Composeddispute_inquiry",
            ("payable", [999, 0, 0, 999]),
        ),
        (
            with_payment(paddle_payment("refundok", 2400), "composed.refund_ok."),
            "txn_01composedrefundok",
            ("payable", [480, 200, 0, 280]),
        ),
        (
            with_payment(paddle_payment("refundno", 2400), "composed.refund_no."),
            "txn_01composedrefundno",
            whole,
        ),
        (
            with_payment(paddle_payment("chargeback", 2400), "composed.chargeback"),
            "txn_01composedchargeback",
            whole,
        ),
    ];
    for (payloads, object, end) in cases {
        ends_alike_in_other_orders(&payloads, object, end).await;
    }
}
