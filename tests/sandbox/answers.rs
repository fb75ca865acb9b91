//! Every answer of every route against the provider's published schema, and every parameter against its
//! list of parameters.

use serde_json::{Value, json};

use super::{
    schema::Schemas,
    support::{Answer, Bench, Receiver, provider_material, read_json},
};

/// Fails unless the answer is a list of objects of that schema, at least one.
#[track_caller]
fn assert_list(schemas: &Schemas, name: &str, answer: &Answer) {
    assert_eq!((answer.status, &answer.body["object"]), (200, &json!("list")), "{}", answer.body);
    assert!(answer.body["has_more"].is_boolean());
    assert!(answer.body["url"].as_str().unwrap().starts_with("/v1/"));
    let data = answer.body["data"].as_array().unwrap();
    assert!(!data.is_empty(), "{name}: nothing listed");
    for object in data {
        schemas.assert(name, object);
    }
}

#[tokio::test]
async fn every_answer_of_every_route_is_valid() {
    let Some(schemas) = Schemas::load() else { return };
    let bench = Bench::start().await;
    let check = async |name: &str, path: &str, body: &str| {
        let answer = bench.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        schemas.assert(name, &answer.body);
        answer.body["id"].as_str().unwrap_or_default().to_owned()
    };

    let account = check("account", "/v1/accounts", "type=express&country=DE&email=a%40example.org").await;
    let link = format!(
        "account={account}&type=account_onboarding&refresh_url=https://x.test/a&return_url=https://x.test/b"
    );
    check("account_link", "/v1/account_links", &link).await;
    let transfer = "amount=700&currency=usd&destination=acct_1&metadata[k]=v&transfer_group=g&description=d";
    let transfer = check("transfer", "/v1/transfers", transfer).await;
    check("transfer", &format!("/v1/transfers/{transfer}"), "metadata[k]=w").await;
    let reversals = format!("/v1/transfers/{transfer}/reversals");
    let reversal = check("transfer_reversal", &reversals, "amount=200").await;
    let destination = "amount=3000&currency=usd&confirm=true&payment_method=pm_card_visa\
                       &transfer_data[destination]=acct_1&application_fee_amount=300&on_behalf_of=acct_1";
    let paid = check("payment_intent", "/v1/payment_intents", destination).await;
    check("payment_intent", &format!("/v1/payment_intents/{paid}"), "metadata[k]=v").await;
    let asks = "amount=500&currency=usd&confirm=true&payment_method=pm_card_authenticationRequired";
    let asks = check("payment_intent", "/v1/payment_intents", asks).await;
    check("payment_intent", &format!("/v1/payment_intents/{asks}/cancel"), "").await;
    let later = check("payment_intent", "/v1/payment_intents", "amount=500&currency=eur").await;
    let slow = "payment_method=pm_usBankAccount_success";
    check("payment_intent", &format!("/v1/payment_intents/{later}/confirm"), slow).await;
    let refund =
        format!("payment_intent={paid}&amount=1000&reverse_transfer=true&refund_application_fee=true");
    let refund = check("refund", "/v1/refunds", &refund).await;
    let payout = json!({ "account": "acct_1", "amount": 100, "currency": "usd", "status": "failed" });
    let payout = bench.control("payouts", payout).await;

    let charge = bench.get("/v1/charges").await.ids()[0].clone();
    let booked = bench.get("/v1/balance_transactions").await.ids()[0].clone();
    let event = bench.get("/v1/events").await.ids()[0].clone();
    for (name, path) in [
        ("account", format!("/v1/accounts/{account}")),
        ("transfer", format!("/v1/transfers/{transfer}")),
        ("transfer_reversal", format!("/v1/transfers/{transfer}/reversals/{reversal}")),
        ("payment_intent", format!("/v1/payment_intents/{paid}?expand[]=latest_charge.refunds")),
        ("charge", format!("/v1/charges/{charge}?expand[]=refunds.data.balance_transaction")),
        ("refund", format!("/v1/refunds/{refund}?expand[]=charge")),
        ("balance", "/v1/balance".to_owned()),
        ("balance_transaction", format!("/v1/balance_transactions/{booked}?expand[]=source")),
        ("event", format!("/v1/events/{event}")),
    ] {
        let answer = bench.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        schemas.assert(name, &answer.body);
    }
    for (name, path) in [
        ("account", "/v1/accounts"),
        ("transfer", "/v1/transfers"),
        ("transfer_reversal", reversals.as_str()),
        ("payment_intent", "/v1/payment_intents"),
        ("charge", "/v1/charges"),
        ("refund", "/v1/refunds"),
        ("balance_transaction", "/v1/balance_transactions?limit=100"),
        ("event", "/v1/events?limit=100"),
    ] {
        assert_list(&schemas, name, &bench.get(path).await);
    }
    let of_account = |path: String| bench.ask("GET", &path, "").header("stripe-account", "acct_1");
    assert_list(&schemas, "payout", &of_account("/v1/payouts".to_owned()).answer().await);
    let id = payout["id"].as_str().unwrap();
    schemas.assert("payout", &of_account(format!("/v1/payouts/{id}")).answer().await.body);
    schemas.assert("balance", &of_account("/v1/balance".to_owned()).answer().await.body);
}

#[tokio::test]
async fn every_event_is_valid_and_so_is_its_object() {
    let Some(schemas) = Schemas::load() else { return };
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    let transfer = bench.transfer(500).answer().await.id();
    bench.post(&format!("/v1/transfers/{transfer}"), "description=x").await;
    bench.post(&format!("/v1/transfers/{transfer}/reversals"), "amount=20").await;
    let paid = "amount=3000&currency=usd&confirm=true&payment_method=pm_card_visa";
    let paid = bench.post("/v1/payment_intents", paid).await.id();
    bench.post("/v1/refunds", &format!("payment_intent={paid}")).await;
    let declined = "amount=3000&currency=usd&confirm=true&payment_method=pm_card_chargeDeclined";
    assert_eq!(bench.post("/v1/payment_intents", declined).await.status, 402);
    bench.control("accounts/acct_1", json!({ "payouts_enabled": false })).await;
    let payout = json!({ "account": "acct_1", "amount": 100, "currency": "usd", "status": "paid" });
    bench.control("payouts", payout).await;
    bench.control("balance", json!({ "currency": "usd", "add": 5 })).await;
    bench.running.flush().await;

    let arrived = receiver.take();
    assert_eq!(arrived.len(), 15);
    for event in arrived.iter().map(super::support::Arrived::event) {
        schemas.assert("event", &event);
        let object = &event["data"]["object"];
        schemas.assert(object["object"].as_str().unwrap(), object);
    }
}

#[tokio::test]
async fn every_refusal_is_valid() {
    let Some(schemas) = Schemas::load() else { return };
    let bench = Bench::start().await;
    let declined = "amount=3000&currency=usd&confirm=true&payment_method=pm_card_chargeDeclined";
    for (method, path, body, status) in [
        ("POST", "/v1/transfers", "amount=0&currency=usd&destination=acct_1", 400),
        ("POST", "/v1/transfers", "amount=5&currency=usd&destination=acct_none", 400),
        ("POST", "/v1/payment_intents", declined, 402),
        ("GET", "/v1/transfers/tr_none", "", 404),
        ("GET", "/v1/nowhere", "", 404),
        ("GET", "/v1/accounts/acct_none", "", 403),
    ] {
        let answer = bench.ask(method, path, body).answer().await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        schemas.assert("error", &answer.body);
        let log = answer.body["error"]["request_log_url"].as_str().unwrap();
        assert!(log.contains(answer.header("request-id").unwrap()), "{log}");
    }
    for fault in ["execute_then_500", "too_many_requests", "key_in_use", "unauthorized", "forbidden"] {
        bench.fault(json!({ "kind": fault })).await;
        schemas.assert("error", &bench.transfer(5).answer().await.body);
    }
}

#[tokio::test]
async fn every_parameter_that_is_taken_is_one_of_the_provider() {
    let Some(path) = provider_material("request_params.2026-07-29.dahlia.json") else { return };
    let operations = read_json(&path)["operations"].clone();
    let bench = Bench::start().await;
    // An unknown name is refused before anything else, so whatever else is refused is known.
    let takes = async |method: &str, path: &str, name: &str| {
        let pair = format!("{name}=x");
        let answer = match method {
            "GET" => bench.get(&format!("{path}?{pair}")).await,
            _ => bench.post(path, &pair).await,
        };
        answer.refusal() != (400, "parameter_unknown", name)
    };
    for (path, sent, method, least) in [
        ("/v1/account_links", "/v1/account_links", "POST", 7),
        ("/v1/transfers", "/v1/transfers", "POST", 7),
        ("/v1/transfers", "/v1/transfers", "GET", 6),
        ("/v1/transfers/{id}/reversals", "/v1/transfers/tr_1/reversals", "POST", 3),
        ("/v1/transfers/{id}/reversals", "/v1/transfers/tr_1/reversals", "GET", 3),
        ("/v1/payment_intents", "/v1/payment_intents", "POST", 18),
        ("/v1/payment_intents/{intent}/confirm", "/v1/payment_intents/pi_1/confirm", "POST", 4),
        ("/v1/payment_intents/{intent}/cancel", "/v1/payment_intents/pi_1/cancel", "POST", 1),
        ("/v1/refunds", "/v1/refunds", "POST", 6),
        ("/v1/events", "/v1/events", "GET", 6),
    ] {
        let known = operations[path][method].as_object().unwrap();
        assert!(!known.is_empty());
        let mut taken = 0;
        for (name, about) in known {
            let mut name = name.split('.').enumerate().fold(String::new(), |name, (index, part)| {
                if index == 0 { part.to_owned() } else { format!("{name}[{part}]") }
            });
            if about["type"] == "array" {
                name.push_str("[]");
            }
            taken += usize::from(takes(method, sent, &name).await);
        }
        assert!(taken >= least, "{method} {path}: only {taken} of {} are taken", known.len());
        assert!(!takes(method, sent, "no_such_name").await);
    }
}

#[tokio::test]
async fn an_expanded_field_is_the_object_itself() {
    let bench = Bench::start().await;
    let intent = "amount=3000&currency=usd&confirm=true&payment_method=pm_card_visa\
                  &expand[0]=latest_charge.balance_transaction&expand[1]=latest_charge.payment_intent";
    let intent = bench.post("/v1/payment_intents", intent).await;
    let charge = &intent.body["latest_charge"];
    assert_eq!(charge["object"], "charge");
    assert_eq!(charge["payment_intent"]["id"], intent.body["id"]);
    assert_eq!(charge["balance_transaction"], Value::Null);
    let listed = bench.get("/v1/charges?expand[]=data.payment_intent").await;
    assert_eq!(listed.body["data"][0]["payment_intent"]["id"], intent.body["id"]);
}
