//! Payment intents, destination charges and refunds.

use serde_json::{Value, json};

use super::support::{Arrived, Bench, Receiver};

const VISA: &str = "confirm=true&payment_method=pm_card_visa";

async fn with_receiver() -> (Bench, Receiver) {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    (bench, receiver)
}

#[tokio::test]
async fn a_payment_goes_through_its_states() {
    let (bench, receiver) = with_receiver().await;
    let intent = bench.post("/v1/payment_intents", "amount=1000&currency=usd").await;
    let path = format!("/v1/payment_intents/{}", intent.id());
    assert_eq!(intent.body["status"], "requires_payment_method");
    assert_eq!(
        bench.post(&format!("{path}/confirm"), "").await.refusal().1,
        "payment_intent_unexpected_state"
    );
    let asks = bench.post(&format!("{path}/confirm"), "payment_method=pm_card_authenticationRequired").await;
    assert_eq!(
        (&asks.body["status"], &asks.body["next_action"]["type"]),
        (&json!("requires_action"), &json!("redirect_to_url"))
    );
    let declined = bench.post(&format!("{path}/confirm"), "payment_method=pm_card_chargeDeclined").await;
    assert_eq!(declined.refusal(), (402, "card_declined", "-"));
    assert_eq!(declined.body["error"]["payment_intent"]["status"], "requires_payment_method");
    assert_eq!(bench.get(&path).await.body["last_payment_error"]["decline_code"], "generic_decline");
    let slow = bench.post(&format!("{path}/confirm"), "payment_method=pm_usBankAccount_success").await;
    assert_eq!(slow.body["status"], "processing");
    let control = format!("payment_intents/{}", intent.id());
    let paid = bench.control(&control, json!({ "status": "succeeded" })).await;
    assert_eq!((&paid["status"], &paid["amount_received"]), (&json!("succeeded"), &json!(1000)));
    for action in ["confirm", "cancel"] {
        let refused = bench.post(&format!("{path}/{action}"), "").await;
        assert_eq!(refused.refusal().1, "payment_intent_unexpected_state");
    }
    bench.running.flush().await;
    assert_eq!(
        receiver.take_types(),
        [
            "payment_intent.created",
            "payment_intent.requires_action",
            "charge.failed",
            "payment_intent.payment_failed",
            "payment_intent.processing",
            "charge.succeeded",
            "payment_intent.succeeded",
        ]
    );
}

#[tokio::test]
async fn a_payment_can_be_cancelled_until_it_is_over() {
    let (bench, receiver) = with_receiver().await;
    let intent = bench.post("/v1/payment_intents", "amount=1000&currency=usd").await.id();
    let path = format!("/v1/payment_intents/{intent}/cancel");
    let canceled = bench.post(&path, "cancellation_reason=abandoned").await.body;
    assert_eq!(
        (&canceled["status"], &canceled["cancellation_reason"]),
        (&json!("canceled"), &json!("abandoned"))
    );
    assert_eq!(bench.post(&path, "").await.status, 400);
    let control = format!("payment_intents/{intent}");
    let late = bench.running.control("POST", &control, json!({ "status": "succeeded" })).await;
    assert_eq!(late.unwrap_err().status, 400);
    bench.running.flush().await;
    assert_eq!(receiver.take_types(), ["payment_intent.created", "payment_intent.canceled"]);
}

#[tokio::test]
async fn a_destination_charge_makes_charge_and_transfer() {
    let (bench, receiver) = with_receiver().await;
    let body = format!(
        "amount=10000&currency=usd&{VISA}&transfer_data[destination]=acct_1&application_fee_amount=1200\
         &on_behalf_of=acct_1&metadata[sale]=s1"
    );
    let intent = bench.post("/v1/payment_intents", &body).await;
    let group = format!("group_{}", intent.id());
    assert_eq!(intent.body["transfer_group"], json!(group));
    let charge = bench.get("/v1/charges").await.body["data"][0].clone();
    assert_eq!(charge["id"], intent.body["latest_charge"]);
    for (field, value) in [
        ("destination", json!("acct_1")),
        ("application_fee_amount", json!(1200)),
        ("on_behalf_of", json!("acct_1")),
        ("transfer_group", json!(group)),
        ("metadata", json!({ "sale": "s1" })),
        ("transfer_data", json!({ "amount": null, "destination": "acct_1" })),
        // Filled in later by the provider, so nobody may need them.
        ("balance_transaction", Value::Null),
        ("application_fee", Value::Null),
    ] {
        assert_eq!(charge[field], value, "{field}");
    }
    assert!(charge.get("transfer").is_none());
    let transfers = bench.get(&format!("/v1/transfers?transfer_group={group}")).await;
    let transfer = &transfers.body["data"][0];
    assert_eq!((&transfer["amount"], &transfer["source_transaction"]), (&json!(10_000), &charge["id"]));
    bench.running.advance(2 * 24 * 3600).await;
    assert_eq!(bench.available(Some("acct_1")).await, 10_000 - 1200);
    assert_eq!(bench.available(None).await, 100_000_000 + 1200 - 320);
    bench.running.flush().await;
    let types = receiver.take_types();
    let expected =
        ["payment_intent.created", "transfer.created", "charge.succeeded", "payment_intent.succeeded"];
    assert_eq!(types[..4], expected);
    // One for the platform and one for the account, whose endpoint this is as well.
    assert_eq!(types[4..], ["balance.available", "balance.available"]);
}

#[tokio::test]
async fn a_part_of_the_charge_can_be_transferred() {
    let bench = Bench::start().await;
    let body = format!(
        "amount=10000&currency=usd&{VISA}&transfer_data[destination]=acct_1&transfer_data[amount]=877"
    );
    bench.post("/v1/payment_intents", &body).await;
    assert_eq!(bench.get("/v1/transfers").await.body["data"][0]["amount"], 877);
    for (more, param) in [
        ("&application_fee_amount=5", "application_fee_amount"),
        ("&transfer_data[amount]=10001", "transfer_data[amount]"),
        ("&on_behalf_of=acct_none", "on_behalf_of"),
        ("&transfer_data[destination]=acct_none", "transfer_data[destination]"),
    ] {
        assert_eq!(
            bench.post("/v1/payment_intents", &format!("{body}{more}")).await.refusal().2,
            param,
            "{more}"
        );
    }
    let fee = bench.post("/v1/payment_intents", "amount=5&currency=usd&application_fee_amount=1").await;
    assert_eq!(fee.refusal(), (400, "-", "application_fee_amount"));
}

#[tokio::test]
async fn refunds_take_back_transfer_and_fee_in_proportion() {
    let (bench, receiver) = with_receiver().await;
    let body = format!(
        "amount=1000&currency=usd&{VISA}&transfer_data[destination]=acct_1&application_fee_amount=100"
    );
    let intent = bench.post("/v1/payment_intents", &body).await.id();
    bench.running.advance(2 * 24 * 3600).await;
    bench.running.flush().await;
    receiver.take();
    let refund = async |amount: i64| {
        let flags = "reverse_transfer=true&refund_application_fee=true";
        bench.post("/v1/refunds", &format!("payment_intent={intent}&amount={amount}&{flags}")).await
    };
    let first = refund(333).await;
    assert!(first.body["transfer_reversal"].as_str().unwrap().starts_with("trr_"));
    assert_eq!(refund(333).await.status, 200);
    assert_eq!(refund(335).await.refusal(), (400, "-", "amount"));
    assert_eq!(refund(334).await.status, 200);
    assert_eq!(refund(1).await.refusal().1, "charge_already_refunded");
    assert_eq!(bench.available(Some("acct_1")).await, 0);
    // What is lost is the provider's own fee.
    assert_eq!(bench.available(None).await, 100_000_000 - 59);
    bench.running.flush().await;
    let events: Vec<Value> = receiver.take().iter().map(Arrived::event).collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["transfer.reversed", "refund.created", "charge.refunded"].repeat(3));
    let totals: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "charge.refunded")
        .map(|event| &event["data"]["object"]["amount_refunded"])
        .collect();
    assert_eq!(totals, [&json!(333), &json!(666), &json!(1000)]);
    let source = &events[0]["data"]["object"]["reversals"]["data"][0]["source_refund"];
    assert_eq!(source, &json!(first.id()));
}

#[tokio::test]
async fn a_refund_can_fail_after_all() {
    let (bench, receiver) = with_receiver().await;
    let intent = bench.post("/v1/payment_intents", &format!("amount=1000&currency=usd&{VISA}")).await.id();
    let refund = bench.post("/v1/refunds", &format!("payment_intent={intent}")).await.id();
    let before = bench.available(None).await;
    for _ in 0..2 {
        let failed = bench.control(&format!("refunds/{refund}"), json!({ "status": "failed" })).await;
        assert_eq!(failed["status"], "failed");
    }
    assert_eq!(bench.available(None).await, before + 1000);
    assert_eq!(bench.get("/v1/charges").await.body["data"][0]["amount_refunded"], 0);
    bench.running.flush().await;
    assert_eq!(receiver.take_types().last().unwrap(), "refund.failed");
}

#[tokio::test]
async fn a_direct_charge_belongs_to_the_account() {
    let bench = Bench::start().await;
    let body = format!("amount=1000&currency=usd&{VISA}&application_fee_amount=100");
    let asked = bench.ask("POST", "/v1/payment_intents", &body).header("stripe-account", "acct_1");
    let intent = asked.answer().await;
    assert_eq!(intent.header("stripe-account"), Some("acct_1"));
    let path = format!("/v1/payment_intents/{}", intent.id());
    assert_eq!(bench.get(&path).await.refusal(), (404, "resource_missing", "intent"));
    assert_eq!(bench.ask("GET", &path, "").header("stripe-account", "acct_1").answer().await.status, 200);
    bench.running.advance(2 * 24 * 3600).await;
    assert_eq!(bench.available(Some("acct_1")).await, 1000 - 59 - 100);
    assert_eq!(bench.available(None).await, 100_000_000 + 100);
    let gone = bench.ask("GET", &path, "").header("stripe-account", "acct_none").answer().await;
    assert_eq!(gone.refusal(), (403, "account_invalid", "-"));
}
