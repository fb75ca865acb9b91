//! Idempotency keys: what is stored, what is replayed, what is refused, and when they end.

use serde_json::json;

use super::support::Bench;

#[tokio::test]
async fn one_key_makes_one_transfer() {
    let bench = Bench::start().await;
    let first = bench.transfer(700).key("k").answer().await;
    let again = bench.transfer(700).key("k").answer().await;
    assert_eq!((again.status, &again.text), (200, &first.text));
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(first.header("original-request"), first.header("request-id"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    assert_eq!(again.header("idempotency-key"), Some("k"));
    assert_eq!(bench.made().await, 1);
    assert_ne!(bench.transfer(700).key("l").answer().await.text, first.text);
    assert_eq!(bench.made().await, 2);
}

#[tokio::test]
async fn parameters_in_another_order_are_the_same_request() {
    let bench = Bench::start().await;
    let ask = |body: &str| bench.ask("POST", "/v1/transfers", body).key("k");
    let first = ask("amount=5&currency=usd&destination=acct_1").answer().await;
    let again = ask("destination=acct_1&amount=5&currency=usd").answer().await;
    assert_eq!(first.text, again.text);
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() {
    let bench = Bench::start().await;
    let first = bench.transfer(700).key("k").answer().await;
    let other = bench.transfer(701).key("k").answer().await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &json!("idempotency_error")));
    let elsewhere = format!("/v1/transfers/{}/reversals", first.id());
    let elsewhere = bench.ask("POST", &elsewhere, "amount=700").key("k").answer().await;
    assert_eq!((elsewhere.status, &elsewhere.body["error"]["type"]), (400, &json!("idempotency_error")));
    // The key still keeps its first answer.
    assert_eq!(bench.transfer(700).key("k").answer().await.text, first.text);
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn keys_belong_to_an_account_and_a_mode() {
    let bench = Bench::start().await;
    let ask = || {
        let body = "amount=500&currency=usd";
        bench.anonymous("POST", "/v1/payment_intents", body).key("k")
    };
    let test = |ask: super::support::Ask| ask.header("authorization", "Bearer sk_test_1");
    let platform = test(ask()).answer().await.id();
    let account = test(ask()).header("stripe-account", "acct_1").answer().await.id();
    let live = ask().header("authorization", "Bearer rk_live_1").answer().await;
    assert_eq!(live.body["livemode"], true);
    assert!(platform != account && platform != live.id() && account != live.id());
    assert_eq!(test(ask()).answer().await.id(), platform);
}

#[tokio::test]
async fn refusals_of_the_business_are_stored_and_those_of_the_parameters_are_not() {
    let bench = Bench::start().await;
    // Refused for want of money, and still refused after there is enough.
    let much = bench.transfer(100_000_001).key("much").answer().await;
    assert_eq!(much.refusal(), (400, "balance_insufficient", "-"));
    bench.control("balance", json!({ "currency": "usd", "add": 1_000_000 })).await;
    let again = bench.transfer(100_000_001).key("much").answer().await;
    assert_eq!(again.refusal(), (400, "balance_insufficient", "-"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(bench.transfer(100_000_001).key("much, once more").answer().await.status, 200);

    // A stored 402 and a stored 404.
    let declined = "amount=5&currency=usd&confirm=true&payment_method=pm_card_chargeDeclined";
    for (path, body, status) in
        [("/v1/payment_intents", declined, 402), ("/v1/transfers/tr_none/reversals", "amount=1", 404)]
    {
        let ask = || bench.ask("POST", path, body).key(path);
        let first = ask().answer().await;
        let again = ask().answer().await;
        assert_eq!((first.status, &first.text), (status, &again.text));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }

    // A parameter that is refused leaves the key free for the corrected request.
    let wrong = bench.transfer(0).key("typo").answer().await;
    assert_eq!(wrong.refusal(), (400, "parameter_invalid_integer", "amount"));
    assert_eq!(bench.transfer(5).key("typo").answer().await.status, 200);
    // Also where the parameter is missing in the eyes of the execution.
    let ask = |body: &str| bench.ask("POST", "/v1/transfers", body).key("missing");
    let missing = ask("currency=usd&destination=acct_1").answer().await;
    assert_eq!(missing.refusal(), (400, "parameter_missing", "amount"));
    assert_eq!(ask("currency=usd&destination=acct_1&amount=5").answer().await.status, 200);
}

#[tokio::test]
async fn faults_in_front_of_the_keys_store_nothing() {
    let bench = Bench::start().await;
    for (fault, status, code) in [
        (json!({ "kind": "too_many_requests" }), 429, "rate_limit"),
        (json!({ "kind": "too_many_requests", "lock_timeout": true }), 429, "lock_timeout"),
        (json!({ "kind": "key_in_use" }), 409, "idempotency_key_in_use"),
        (json!({ "kind": "unauthorized" }), 401, "-"),
        (json!({ "kind": "forbidden" }), 403, "-"),
        (json!({ "kind": "fail_500_without_execute", "stored": false }), 500, "-"),
    ] {
        let key = fault.to_string();
        let before = bench.made().await;
        bench.fault(fault).await;
        assert_eq!(bench.transfer(5).key(&key).answer().await.refusal(), (status, code, "-"), "{key}");
        assert_eq!(bench.made().await, before, "{key}");
        let again = bench.transfer(5).key(&key).answer().await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, None), "{key}");
    }
}

#[tokio::test]
async fn a_key_is_in_use_while_its_request_is_executed() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "execute_on_release" })).await;
    let first = tokio::spawn(bench.transfer(700).key("k").send());
    bench.running.until_hanging(1).await;
    let meanwhile = bench.transfer(700).key("k").answer().await;
    assert_eq!(meanwhile.refusal(), (409, "idempotency_key_in_use", "-"));
    assert_eq!(bench.made().await, 0);
    bench.running.release().await;
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status, 200);
    assert_eq!(bench.transfer(700).key("k").answer().await.text, first.text);
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn a_key_executes_again_after_a_day() {
    let bench = Bench::start().await;
    let first = bench.transfer(700).key("k").answer().await.id();
    bench.running.advance(24 * 3600 - 1).await;
    assert_eq!(bench.transfer(700).key("k").answer().await.id(), first);
    bench.running.advance(1).await;
    let second = bench.transfer(700).key("k").answer().await;
    assert_eq!(second.header("idempotent-replayed"), None);
    assert_ne!(second.id(), first);
    assert_eq!(bench.made().await, 2);
}

#[tokio::test]
async fn keys_count_for_posts_and_have_a_limit() {
    let bench = Bench::start().await;
    let read = || bench.ask("GET", "/v1/balance", "").key("k");
    assert_eq!(read().answer().await.header("idempotency-key"), None);
    bench.transfer(5).answer().await;
    assert_eq!(read().answer().await.header("idempotent-replayed"), None);
    // A key in letters of any alphabet is a key.
    let greek = || bench.transfer(5).key("κλειδί").answer();
    assert_eq!(greek().await.id(), greek().await.id());
    let longest = "k".repeat(255);
    assert_eq!(bench.transfer(5).key(&longest).answer().await.status, 200);
    let longer = bench.transfer(5).key(&format!("{longest}k")).answer().await;
    assert_eq!((longer.status, &longer.body["error"]["type"]), (400, &json!("idempotency_error")));
}
