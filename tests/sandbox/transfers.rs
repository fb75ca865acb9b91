//! Transfers and reversals: who can be paid, with which money, and how it comes back.

use serde_json::{Value, json};

use super::support::{Bench, Receiver};

#[tokio::test]
async fn a_transfer_moves_money_once() {
    let bench = Bench::start().await;
    let transfer = bench.transfer(700).answer().await;
    assert_eq!(transfer.body["balance_transaction"].as_str().map(|id| id.starts_with("txn_")), Some(true));
    assert_eq!(bench.available(None).await, 100_000_000 - 700);
    assert_eq!(bench.available(Some("acct_1")).await, 700);
    let balance = bench.ask("GET", "/v1/balance", "").header("stripe-account", "acct_1").answer().await;
    assert_eq!(balance.body["available"][0]["amount"], 700);
}

#[tokio::test]
async fn destinations_that_cannot_be_paid_are_refused() {
    let bench = Bench::start().await;
    for (id, flags) in [
        ("acct_inactive", json!({ "transfers": "inactive" })),
        ("acct_pending", json!({ "transfers": "pending" })),
        ("acct_forbidden", json!({ "refuses_transfers": true })),
        ("acct_gone", json!({ "disconnected": true })),
    ] {
        bench.control("accounts", json!({ "id": id })).await;
        bench.control(&format!("accounts/{id}"), flags).await;
    }
    for (id, status, code, param) in [
        ("acct_none", 400, "no_account", "destination"),
        ("acct_inactive", 400, "insufficient_capabilities_for_transfer", "destination"),
        ("acct_pending", 400, "insufficient_capabilities_for_transfer", "destination"),
        ("acct_forbidden", 400, "transfers_not_allowed", "destination"),
        ("acct_gone", 403, "account_invalid", "-"),
    ] {
        let body = format!("amount=5&currency=usd&destination={id}");
        let answer = bench.post("/v1/transfers", &body).await;
        assert_eq!(answer.refusal(), (status, code, param), "{id}");
    }
    assert_eq!(bench.made().await, 0);
    bench.control("accounts/acct_inactive", json!({ "transfers": "active" })).await;
    assert_eq!(
        bench.post("/v1/transfers", "amount=5&currency=usd&destination=acct_inactive").await.status,
        200
    );
}

#[tokio::test]
async fn money_that_is_not_there_is_not_transferred() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    bench.control("balance", json!({ "currency": "usd", "set": 100 })).await;
    assert_eq!(bench.transfer(101).answer().await.refusal(), (400, "balance_insufficient", "-"));
    assert_eq!(bench.transfer(100).answer().await.status, 200);
    assert_eq!(bench.transfer(1).answer().await.refusal(), (400, "balance_insufficient", "-"));
    bench.control("balance", json!({ "currency": "usd", "add": 5 })).await;
    assert_eq!(bench.transfer(5).answer().await.status, 200);
    let other = bench.post("/v1/transfers", "amount=5&currency=huf&destination=acct_1").await;
    assert_eq!(other.refusal(), (400, "balance_insufficient", "-"));
    bench.running.flush().await;
    assert_eq!(receiver.take_types(), ["transfer.created", "balance.available", "transfer.created"]);
}

#[tokio::test]
async fn reversals_add_up_to_the_transfer_and_no_further() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    let id = bench.transfer(700).answer().await.id();
    let path = format!("/v1/transfers/{id}/reversals");
    let first = bench.post(&path, "amount=200&metadata[why]=wrong").await;
    assert_eq!((&first.body["amount"], &first.body["metadata"]), (&json!(200), &json!({ "why": "wrong" })));
    let transfer = bench.get(&format!("/v1/transfers/{id}")).await.body;
    assert_eq!((&transfer["amount_reversed"], &transfer["reversed"]), (&json!(200), &json!(false)));
    assert_eq!(transfer["reversals"]["data"][0]["id"], json!(first.id()));
    assert_eq!(bench.post(&path, "amount=501").await.refusal(), (400, "-", "amount"));
    let second = bench.post(&path, "").await;
    assert_eq!(second.body["amount"], 500);
    let transfer = bench.get(&format!("/v1/transfers/{id}")).await.body;
    assert_eq!((&transfer["amount_reversed"], &transfer["reversed"]), (&json!(700), &json!(true)));
    assert_eq!(bench.post(&path, "amount=1").await.status, 400);
    assert_eq!(bench.get(&path).await.ids(), [second.id(), first.id()]);
    assert_eq!(bench.available(None).await, 100_000_000);
    assert_eq!(bench.available(Some("acct_1")).await, 0);

    bench.running.flush().await;
    let events: Vec<Value> = receiver.take().iter().map(super::support::Arrived::event).collect();
    let reversed: Vec<_> = events.iter().filter(|event| event["type"] == "transfer.reversed").collect();
    let amounts: Vec<_> = reversed
        .iter()
        .map(|event| {
            let data = &event["data"];
            (
                data["previous_attributes"]["amount_reversed"].clone(),
                data["object"]["amount_reversed"].clone(),
            )
        })
        .collect();
    assert_eq!(amounts, [(json!(0), json!(200)), (json!(200), json!(700))]);
}

#[tokio::test]
async fn a_transfer_shows_the_ten_newest_reversals() {
    let bench = Bench::start().await;
    let id = bench.transfer(100).answer().await.id();
    for _ in 0..12 {
        bench.post(&format!("/v1/transfers/{id}/reversals"), "amount=1").await;
    }
    let shown = bench.get(&format!("/v1/transfers/{id}")).await.body["reversals"].clone();
    assert_eq!(shown["data"].as_array().unwrap().len(), 10);
    assert_eq!((&shown["total_count"], &shown["has_more"]), (&json!(12), &json!(true)));
    let listed = bench.get(&format!("/v1/transfers/{id}/reversals?limit=100")).await;
    assert_eq!(listed.ids().len(), 12);
    assert_eq!(listed.body["data"][0], shown["data"][0]);
}

#[tokio::test]
async fn what_the_account_has_spent_cannot_be_reversed() {
    let bench = Bench::start().await;
    let id = bench.transfer(700).answer().await.id();
    let payout = json!({ "account": "acct_1", "amount": 600, "currency": "usd", "status": "paid" });
    let payout = bench.control("payouts", payout).await;
    let path = format!("/v1/transfers/{id}/reversals");
    assert_eq!(bench.post(&path, "").await.refusal(), (400, "balance_insufficient", "-"));
    assert_eq!(bench.post(&path, "amount=100").await.status, 200);
    // The bank sends it back: paid becomes failed.
    let id = payout["id"].as_str().unwrap();
    bench.control(&format!("payouts/{id}"), json!({ "status": "failed" })).await;
    assert_eq!(bench.available(Some("acct_1")).await, 600);
    assert_eq!(bench.post(&path, "amount=600").await.status, 200);
}

#[tokio::test]
async fn only_notes_of_a_transfer_can_change() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    let body = "amount=5&currency=usd&destination=acct_1&metadata[a]=1&metadata[b]=2";
    let id = bench.post("/v1/transfers", body).await.id();
    let path = format!("/v1/transfers/{id}");
    let changed = bench.post(&path, "metadata[a]=&metadata[c]=3&description=note").await;
    assert_eq!(changed.body["metadata"], json!({ "b": "2", "c": "3" }));
    assert_eq!(changed.body["description"], "note");
    assert_eq!(bench.post(&path, "amount=6").await.refusal(), (400, "parameter_unknown", "amount"));
    assert_eq!(bench.post(&path, "metadata=").await.body["metadata"], json!({}));
    bench.running.flush().await;
    let event = receiver.take()[1].event();
    assert_eq!(event["type"], "transfer.updated");
    let previous = json!({ "description": null, "metadata": { "a": "1", "b": "2" } });
    assert_eq!(event["data"]["previous_attributes"], previous);
}

#[tokio::test]
async fn a_transfer_can_be_paid_from_a_charge_that_is_still_pending() {
    let bench = Bench::start().await;
    bench.control("balance", json!({ "currency": "usd", "set": 0 })).await;
    let paid = "amount=1000&currency=usd&confirm=true&payment_method=pm_card_visa&transfer_group=sale";
    let paid = bench.post("/v1/payment_intents", paid).await;
    let charge = paid.body["latest_charge"].as_str().unwrap();
    assert_eq!(bench.transfer(400).answer().await.refusal(), (400, "balance_insufficient", "-"));
    let from = |amount: i64, more: &str| {
        let body =
            format!("amount={amount}&currency=usd&destination=acct_1&source_transaction={charge}{more}");
        bench.ask("POST", "/v1/transfers", &body).answer()
    };
    assert_eq!(from(400, "&transfer_group=other").await.refusal(), (400, "-", "transfer_group"));
    let transfer = from(400, "").await;
    assert_eq!(transfer.body["transfer_group"], "sale");
    assert_eq!(from(601, "").await.refusal(), (400, "-", "amount"));
    assert_eq!(from(600, "").await.status, 200);
    assert_eq!(bench.available(Some("acct_1")).await, 0);
    bench.running.advance(2 * 24 * 3600).await;
    assert_eq!(bench.available(Some("acct_1")).await, 1000);
}

#[tokio::test]
async fn bodies_are_forms_and_keys_are_needed() {
    let bench = Bench::start().await;
    let json_body = bench.ask("POST", "/v1/transfers", "{\"amount\":5}");
    let refused = json_body.header("content-type", "application/json").answer().await;
    assert_eq!(refused.status, 400);
    let none = bench.anonymous("POST", "/v1/transfers", "").answer().await;
    assert_eq!((none.status, &none.body["error"]["type"]), (401, &json!("invalid_request_error")));
    for authorization in ["Bearer pk_test_1", "Bearer ", "Digest x", "Basic !!!"] {
        let refused = bench.anonymous("GET", "/v1/balance", "").header("authorization", authorization);
        assert_eq!(refused.answer().await.status, 401, "{authorization}");
    }
    // `sk_test_1:` in base64, as curl's `-u` sends it.
    let basic = bench.anonymous("GET", "/v1/balance", "").header("authorization", "Basic c2tfdGVzdF8xOg==");
    assert_eq!(basic.answer().await.status, 200);
    let options = remit::sandbox::Options {
        secret_keys: vec!["sk_test_the_one".to_owned()],
        ..super::support::options()
    };
    let bench = Bench::with(options).await;
    assert_eq!(bench.get("/v1/balance").await.status, 401);
    let known = bench.anonymous("GET", "/v1/balance", "").header("authorization", "Bearer sk_test_the_one");
    assert_eq!(known.answer().await.status, 200);
}
