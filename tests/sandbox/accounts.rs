//! Connected accounts: made over the API, onboarded by a visit, changed and disconnected by hand. And the
//! clock, which accounts' links depend on.

use serde_json::{Value, json};

use super::support::{Bench, Receiver, START_S};

#[tokio::test]
async fn an_account_can_be_paid_once_its_owner_has_followed_the_link() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(true)).await.unwrap();
    let body = "type=express&country=FR&capabilities[transfers][requested]=true&metadata[affiliate]=ada";
    let account = bench.post("/v1/accounts", body).await;
    assert_eq!(account.body["capabilities"]["transfers"], "inactive");
    assert_eq!(account.body["requirements"]["disabled_reason"], "requirements.past_due");
    assert_eq!(account.body["metadata"], json!({ "affiliate": "ada" }));
    let id = account.id();
    let pay = async || {
        let body = format!("amount=5&currency=usd&destination={id}");
        bench.post("/v1/transfers", &body).await.status
    };
    assert_eq!(pay().await, 400);

    let link = async || {
        let body = format!(
            "account={id}&type=account_onboarding&refresh_url=https%3A%2F%2Fus.test%2Fagain\
             &return_url=https%3A%2F%2Fus.test%2Fdone"
        );
        let link = bench.post("/v1/account_links", &body).await.body;
        link["url"].as_str().unwrap().strip_prefix(&bench.running.url()).unwrap().to_owned()
    };
    let expired = link().await;
    bench.running.advance(300).await;
    let visit = async |url: &str| {
        let answer = bench.anonymous("GET", url, "").answer().await;
        (answer.status, answer.header("location").map(str::to_owned))
    };
    assert_eq!(visit(&expired).await, (303, Some("https://us.test/again".to_owned())));
    assert_eq!(pay().await, 400);
    let good = link().await;
    assert_eq!(visit(&good).await, (303, Some("https://us.test/done".to_owned())));
    assert_eq!(visit(&good).await.0, 404, "a link is used once");
    assert_eq!(pay().await, 200);
    let account = bench.get(&format!("/v1/accounts/{id}")).await.body;
    assert_eq!(
        (&account["payouts_enabled"], &account["requirements"]["currently_due"]),
        (&json!(true), &json!([]))
    );
    bench.running.flush().await;
    let event = receiver.take()[0].event();
    assert_eq!((&event["type"], &event["account"]), (&json!("account.updated"), &json!(id)));
    assert_eq!(event["data"]["previous_attributes"]["capabilities"]["transfers"], "inactive");
}

#[tokio::test]
async fn type_and_controller_exclude_each_other() {
    let bench = Bench::start().await;
    let both = bench.post("/v1/accounts", "type=express&controller[fees][payer]=application").await;
    assert_eq!(both.status, 400);
    let controller = bench.post("/v1/accounts", "controller[stripe_dashboard][type]=express").await;
    assert_eq!(controller.body["type"], "express");
    let unknown = bench.post("/v1/account_links", "account=acct_none&type=account_onboarding").await;
    assert_eq!(unknown.refusal(), (400, "resource_missing", "account"));
    let missing = bench.post("/v1/account_links", "account=acct_1&type=account_onboarding").await;
    assert_eq!(missing.refusal(), (400, "parameter_missing", "refresh_url"));
}

#[tokio::test]
async fn a_disconnected_account_is_gone() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(true)).await.unwrap();
    bench.control("accounts/acct_1", json!({ "disconnected": true })).await;
    let read = bench.get("/v1/accounts/acct_1").await;
    assert_eq!(read.refusal(), (403, "account_invalid", "-"));
    let payouts = bench.ask("GET", "/v1/payouts", "").header("stripe-account", "acct_1").answer().await;
    assert_eq!(payouts.refusal(), (403, "account_invalid", "-"));
    bench.running.flush().await;
    let event = receiver.take()[0].event();
    assert_eq!(
        (&event["type"], &event["account"]),
        (&json!("account.application.deauthorized"), &json!("acct_1"))
    );
    assert_eq!(event["data"]["object"]["object"], "application");
}

#[tokio::test]
async fn time_is_moved_by_hand() {
    let bench = Bench::start().await;
    let clock = |body: Value| bench.running.control("POST", "clock", body);
    assert_eq!(clock(json!({})).await.unwrap()["now"], "2026-01-01T00:00:00Z");
    assert_eq!(clock(json!({ "advance_s": 60 })).await.unwrap()["now"], "2026-01-01T00:01:00Z");
    let set = clock(json!({ "set": "2026-02-01T00:00:00Z" })).await.unwrap();
    assert_eq!((&set["now"], &set["frozen"]), (&json!("2026-02-01T00:00:00Z"), &json!(true)));
    assert_eq!(bench.transfer(5).answer().await.body["created"], START_S + 31 * 24 * 3600);
    assert_eq!(clock(json!({ "advance_s": -1 })).await.unwrap_err().status, 400);
    assert_eq!(clock(json!({ "forward": 1 })).await.unwrap_err().status, 400);
    let runs = clock(json!({ "frozen": false })).await.unwrap();
    assert_eq!(runs["frozen"], false);
}

#[tokio::test]
async fn control_calls_are_checked() {
    let bench = Bench::start().await;
    for (method, path, body, status) in [
        ("POST", "accounts", json!({ "id": "acct_1" }), 400),
        ("POST", "accounts", json!({ "id": "1" }), 400),
        ("POST", "accounts/acct_none", json!({}), 404),
        ("POST", "accounts/acct_1", json!({ "transfer": "active" }), 400),
        ("POST", "balance", json!({ "currency": "usd" }), 400),
        (
            "POST",
            "payouts",
            json!({ "account": "acct_none", "amount": 1, "currency": "usd", "status": "paid" }),
            404,
        ),
        (
            "POST",
            "payouts",
            json!({ "account": "acct_1", "amount": 0, "currency": "usd", "status": "paid" }),
            400,
        ),
        (
            "POST",
            "payouts",
            json!({ "account": "acct_1", "amount": 1, "currency": "usd", "status": "gone" }),
            400,
        ),
        ("POST", "faults", json!({ "fault": { "kind": "unheard_of" } }), 400),
        ("POST", "webhook_endpoints", json!({ "url": "ftp://x", "secret": "s" }), 400),
        ("GET", "nowhere", Value::Null, 404),
    ] {
        let refused = bench.running.control(method, path, body.clone()).await.unwrap_err();
        assert_eq!(refused.status, status, "{path} {body}: {refused}");
        // Over HTTP the same.
        let text = body.to_string();
        let over_http = bench.anonymous(method, &format!("/_sandbox/{path}"), &text).answer().await;
        assert_eq!(over_http.status, status, "{path} {body}");
        assert!(over_http.body["error"].is_string());
    }
    let state = bench.anonymous("GET", "/_sandbox/state", "").answer().await.body;
    assert_eq!((&state["objects"]["account"], &state["hanging"]), (&json!(1), &json!(0)));
    let journal = bench.anonymous("GET", "/_sandbox/journal", "").answer().await;
    assert_eq!(journal.text.lines().count(), bench.running.journal().await.len());
}
