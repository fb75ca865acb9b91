//! Webhooks: signed so that the project's own verifier accepts them, sent until they are accepted.

use remit::{
    domain::time::Timestamp,
    providers,
    sandbox::{Flushed, Options, WebhookTime},
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::support::{Bench, Receiver, SECRET, START_S, options};

async fn with_receiver(options: Options) -> (Bench, Receiver) {
    let receiver = Receiver::start().await;
    let bench = Bench::with(options).await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    (bench, receiver)
}

#[tokio::test]
async fn the_projects_own_verifier_accepts_them() {
    let (bench, receiver) = with_receiver(Options { webhook_time: WebhookTime::Sandbox, ..options() }).await;
    let transfer = bench.transfer(700).key("key of the job").answer().await;
    bench.running.flush().await;
    let arrived = receiver.take().remove(0);
    let stripe = providers::inbound("stripe").unwrap();
    let verify = |secret: &str, at_s: i64| {
        let secrets = [SecretString::from(secret.to_owned())];
        stripe.verify(
            &[arrived.signature.as_bytes()],
            &arrived.body,
            &secrets,
            300,
            Timestamp::from_secs(at_s),
        )
    };
    verify(SECRET, START_S).unwrap();
    verify("whsec_of_somebody_else", START_S).unwrap_err();
    verify(SECRET, START_S + 301).unwrap_err();
    let head = stripe.head(&arrived.body).unwrap();
    assert_eq!(
        (head.event_type.as_str(), head.livemode, head.account),
        ("transfer.created", Some(false), None)
    );
    let event = arrived.event();
    assert_eq!(event["data"]["object"]["id"], json!(transfer.id()));
    assert_eq!(event["api_version"], remit::sandbox::API_VERSION);
    assert_eq!(event["request"]["idempotency_key"], "key of the job");
    assert_eq!(event["request"]["id"], json!(transfer.header("request-id")));
}

#[tokio::test]
async fn signatures_carry_the_time_of_the_machine_unless_told() {
    let (bench, receiver) = with_receiver(options()).await;
    bench.transfer(5).answer().await;
    bench.running.flush().await;
    let signature = &receiver.take()[0].signature;
    let signed_s: i64 = signature.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    // The sandbox stands still at its start, which is long ago.
    assert!(signed_s > START_S, "{signature}");
}

#[tokio::test]
async fn they_are_sent_again_until_they_are_accepted() {
    let (bench, receiver) = with_receiver(options()).await;
    receiver.answer_with(&[500, 301, 404]);
    bench.transfer(5).answer().await;
    let failed = Flushed { failed: 1, waiting: 1, ..Flushed::default() };
    assert_eq!(bench.running.flush().await, failed);
    assert_eq!(bench.running.flush().await, Flushed { waiting: 1, ..Flushed::default() }, "not due yet");
    bench.running.advance(1).await;
    assert_eq!(bench.running.flush().await, failed);
    // Or at once, by hand.
    assert_eq!(bench.control("webhooks/flush", json!({ "retries": true })).await["failed"], 1);
    assert_eq!(bench.get("/v1/events?delivery_success=false").await.ids().len(), 1);
    bench.running.advance(60).await;
    assert_eq!(bench.running.flush().await, Flushed { delivered: 1, ..Flushed::default() });
    assert_eq!(bench.get("/v1/events?delivery_success=false").await.ids().len(), 0);
    let arrived = receiver.take();
    assert_eq!(arrived.len(), 4);
    assert!(arrived.iter().all(|webhook| webhook.body == arrived[0].body), "the same bytes each time");
    let attempts: Vec<_> = bench.lines("webhook").await.iter().map(|line| line["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
}

#[tokio::test]
async fn they_are_given_up_after_three_days() {
    let (bench, receiver) = with_receiver(options()).await;
    receiver.answer_with(&[500; 100]);
    bench.transfer(5).answer().await;
    let mut tries = 0;
    for _ in 0..(4 * 24) {
        let flushed = bench.running.flush().await;
        tries += flushed.failed + flushed.given_up;
        bench.running.advance(3600).await;
    }
    let last = bench.running.flush().await;
    assert_eq!((last, receiver.take().len()), (Flushed::default(), tries));
    assert!((10..20).contains(&tries), "{tries}");
}

#[tokio::test]
async fn events_of_connected_accounts_go_to_the_endpoint_for_them() {
    let (bench, ours) = with_receiver(options()).await;
    bench.control("accounts/acct_1", json!({ "payouts_enabled": false })).await;
    bench.running.flush().await;
    assert_eq!(ours.take_types(), ["account.updated"], "as long as there is no other");

    let theirs = Receiver::start().await;
    bench.running.add_webhook(theirs.endpoint(true)).await.unwrap();
    bench.control("accounts/acct_1", json!({ "payouts_enabled": true })).await;
    let payout = json!({ "account": "acct_1", "amount": 100, "currency": "usd", "status": "failed" });
    bench.control("payouts", payout).await;
    bench.transfer(5).answer().await;
    bench.running.flush().await;
    assert_eq!(ours.take_types(), ["transfer.created"]);
    let arrived = theirs.take();
    let types: Vec<Value> = arrived.iter().map(|webhook| webhook.event()["type"].clone()).collect();
    assert_eq!(types, ["account.updated", "payout.created", "payout.failed"]);
    assert!(arrived.iter().all(|webhook| webhook.event()["account"] == "acct_1"));
}

#[tokio::test]
async fn the_order_of_delivery_can_be_shuffled_by_the_seed() {
    let run = async |shuffle_webhooks: bool, seed: u64| {
        let (bench, receiver) = with_receiver(Options { shuffle_webhooks, seed, ..options() }).await;
        for amount in 1..=12 {
            bench.transfer(amount).answer().await;
        }
        bench.running.flush().await;
        let amount =
            |webhook: &super::support::Arrived| webhook.event()["data"]["object"]["amount"].as_i64().unwrap();
        receiver.take().iter().map(amount).collect::<Vec<_>>()
    };
    let in_order: Vec<i64> = (1..=12).collect();
    assert_eq!(run(false, 1).await, in_order);
    let shuffled = run(true, 1).await;
    assert_ne!(shuffled, in_order);
    assert_eq!(run(true, 1).await, shuffled);
    assert_ne!(run(true, 2).await, shuffled);
}

#[tokio::test]
async fn a_running_sandbox_delivers_by_itself() {
    let receiver = Receiver::start().await;
    let delivery = remit::sandbox::Delivery::Background;
    let bench =
        Bench::with(Options { delivery, webhooks: vec![receiver.endpoint(false)], ..options() }).await;
    let event = bench.transfer(5).answer().await;
    // Nobody flushes; the journal says when it was delivered.
    loop {
        let lines = bench.lines("webhook").await;
        if let Some(line) = lines.first() {
            assert_eq!((&line["object_id"], &line["status"]), (&json!(event.id()), &json!(200)));
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(receiver.take_types(), ["transfer.created"]);
    bench.running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_a_failure() {
    let bench = Bench::start().await;
    let receiver = Receiver::start().await;
    let endpoint = receiver.endpoint(false);
    drop(receiver);
    bench.running.add_webhook(endpoint).await.unwrap();
    bench.transfer(5).answer().await;
    let flushed = loop {
        let flushed = bench.control("webhooks/flush", json!({ "retries": true })).await;
        // The listener of an aborted task may live for a moment longer.
        if flushed["failed"] == 1 || flushed["delivered"] == 1 {
            break flushed;
        }
    };
    assert_eq!(flushed["failed"], 1);
    let line = bench.lines("webhook").await.pop().unwrap();
    assert_eq!(line["status"], Value::Null);
    assert!(line["error"].is_string());
}
