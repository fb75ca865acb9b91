//! Our requests to Stripe against Stripe's own specification and parameter list, and our reading of its
//! answers against recorded ones.
//!
//! They are read from `../shared/providers/stripe` (or `REMIT_CONFORMANCE_DIR`), which is data beside the
//! project and not part of it; without it these tests say so and pass, except with `CI` set.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use remit::{
    domain::{
        ids::IntentId,
        intent::Verdict,
        money::{Currency, Money},
        time::Timestamp,
    },
    providers::outbound::{
        ApiRequest, ApiResponse, Made, Method, Order, OrderKind, Outbound, Page, Reply, outbound,
    },
};
use serde_json::{Map, Value, json};

const INTENT: &str = "int_01krmt";

fn stripe() -> &'static dyn Outbound {
    outbound("stripe").unwrap()
}

/// A file of the shared data; `None` where there is none.
fn shared(name: &str) -> Option<Value> {
    let folder = env::var_os("REMIT_CONFORMANCE_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/providers"), PathBuf::from)
        .join("stripe");
    if !folder.is_dir() {
        assert!(env::var_os("CI").is_none(), "nothing at {}", folder.display());
        println!("skipped: nothing at {}", folder.display());
        return None;
    }
    Some(serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap())
}

fn order(kind: OrderKind) -> Order {
    Order {
        intent_id: IntentId::parse(INTENT).unwrap(),
        generation: 0,
        livemode: false,
        amount: Money { minor: 700, currency: Currency::parse("usd").unwrap() },
        destination: "acct_1IStbKQOsIOBQfn0".to_owned(),
        kind,
    }
}

fn transfer_order() -> Order {
    order(OrderKind::Transfer)
}

fn charge_order() -> Order {
    order(OrderKind::Charge { application_fee: 70 })
}

/// Every request that we make.
fn requests() -> Vec<ApiRequest> {
    let since = Timestamp::from_secs(1_762_799_179);
    let made = Made { since, until: Some(since.plus_secs(60)) };
    let mut requests = vec![stripe().account("acct_1IStbKQOsIOBQfn0")];
    for order in [transfer_order(), charge_order()] {
        requests.push(stripe().execute(&order));
        requests.push(stripe().look_up(&order, made, None));
        requests.push(stripe().look_up(&order, made, Some("xx_1")));
    }
    requests
}

/// The path without its query, as the specification names it.
fn path(request: &ApiRequest) -> &str {
    let path = request.path.split('?').next().unwrap();
    if path.starts_with("/v1/accounts/") { "/v1/accounts/{account}" } else { path }
}

fn operation(request: &ApiRequest) -> &'static str {
    match request.method {
        Method::Get => "get",
        Method::Post => "post",
    }
}

/// The fields of a request, of its query or its body: `[("metadata[intent_id]", "int_…")]`.
fn fields(request: &ApiRequest) -> Vec<(String, String)> {
    let form = match request.method {
        Method::Get => request.path.split_once('?').map_or("", |(_, query)| query),
        Method::Post => std::str::from_utf8(&request.body).unwrap(),
    };
    let url = reqwest::Url::parse(&format!("http://localhost/?{form}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// The fields as one object: `a[b]=c` is `{"a": {"b": "c"}}`.
fn nested(request: &ApiRequest) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in fields(request) {
        match name.split_once('[') {
            None => assert_eq!(object.insert(name, json!(value)), None),
            Some((outer, inner)) => {
                let inner = inner.strip_suffix(']').unwrap().to_owned();
                let outer = object.entry(outer).or_insert_with(|| json!({}));
                assert_eq!(outer.as_object_mut().unwrap().insert(inner, json!(value)), None);
            }
        }
    }
    object
}

/// Whether the text of a form field, or an object of them, is what the schema asks for.
fn check(value: &Value, schema: &Value, at: &str) {
    if let Some(choices) = schema.get("anyOf") {
        let fits = |choice: &&Value| (choice["type"] == "object") == value.is_object();
        return check(value, choices.as_array().unwrap().iter().find(fits).unwrap(), at);
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("object", Value::Object(fields)) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
            }
            for (name, value) in fields {
                let extra = schema.get("additionalProperties").filter(|extra| extra.is_object());
                let field = schema["properties"].get(name).or(extra);
                check(
                    value,
                    field.unwrap_or_else(|| panic!("{at}: no field {name}")),
                    &format!("{at}.{name}"),
                );
            }
        }
        ("integer", Value::String(text)) => assert!(text.parse::<i64>().is_ok(), "{at}: {text}"),
        ("boolean", Value::String(text)) => assert!(["true", "false"].contains(&&**text), "{at}: {text}"),
        ("string", Value::String(text)) => {
            let length_max = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
            assert!(text.len() as u64 <= length_max, "{at}: too long");
            let words = schema["enum"].as_array();
            assert!(words.is_none_or(|words| words.contains(value)), "{at}: {text}");
        }
        (expected, value) => panic!("{at}: {value} is not of type {expected}"),
    }
}

#[test]
fn every_request_is_valid_against_the_specification() {
    let Some(specification) = shared("openapi.reduced.2023-08-16.json") else { return };
    for request in requests() {
        let at = format!("{} {}", operation(&request), path(&request));
        let operation = &specification["paths"][path(&request)][operation(&request)];
        match request.method {
            Method::Post => {
                let content = &operation["requestBody"]["content"]["application/x-www-form-urlencoded"];
                assert_eq!(content["schema"]["additionalProperties"], false, "{at}");
                check(&Value::Object(nested(&request)), &content["schema"], &at);
            }
            Method::Get => {
                let parameters = operation["parameters"].as_array().unwrap();
                for (name, value) in nested(&request) {
                    let parameter = parameters.iter().find(|parameter| parameter["name"] == json!(name));
                    let parameter = parameter.unwrap_or_else(|| panic!("{at}: no parameter {name}"));
                    check(&value, &parameter["schema"], &format!("{at}.{name}"));
                }
            }
        }
    }
}

#[test]
fn every_parameter_exists_at_the_version_that_we_name() {
    let Some(list) = shared("request_params.2026-07-29.dahlia.json") else { return };
    assert_eq!(list["api_version"], stripe().api_version());
    for request in requests() {
        let method = operation(&request).to_uppercase();
        // An operation without parameters may be left out of the list.
        let known = list["operations"][path(&request)][method.as_str()].as_object();
        let known = known.cloned().unwrap_or_default();
        // Metadata and ranges are not in the list by design.
        let fields: Vec<String> = fields(&request)
            .into_iter()
            .map(|(name, _)| if name.starts_with("created[") { "created".to_owned() } else { name })
            .filter(|name| !name.starts_with("metadata["))
            .map(|name| name.replace('[', ".").replace(']', ""))
            .collect();
        for name in &fields {
            assert!(known.contains_key(name), "{method} {}: {name}", path(&request));
        }
        for (name, parameter) in known.iter().filter(|(_, parameter)| parameter["required"] == true) {
            assert!(fields.contains(name), "{method} {}: {name} {parameter}", path(&request));
        }
    }
}

#[test]
fn what_is_written_into_metadata_and_keys_is_within_the_limits() {
    let longest = Order {
        intent_id: IntentId::parse(&format!("int_{}", "x".repeat(64))).unwrap(),
        generation: i64::MAX,
        livemode: true,
        ..transfer_order()
    };
    let request = stripe().execute(&longest);
    assert!(request.idempotency_key.as_ref().unwrap().len() <= 255);
    for (name, value) in nested(&request)["metadata"].as_object().unwrap() {
        assert!(name.len() <= 40 && value.as_str().unwrap().len() <= 500, "{name}");
    }
}

/// An answer of the recordings.
fn recorded(file: &str, method: &str, path: &str, status: u64) -> Option<ApiResponse> {
    let recording = shared(&format!("recorded/{file}.json"))?;
    let exchanges = recording["exchanges"].as_array().unwrap().clone();
    let is_wanted = |exchange: &&Value| {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        request["method"] == method
            && request["path"].as_str().is_some_and(|told| told.starts_with(path))
            && response["status"] == status
    };
    let response = &exchanges.iter().find(is_wanted).unwrap()["response"];
    Some(ApiResponse {
        status: u16::try_from(status).unwrap(),
        request_id: response["headers"]["request-id"].as_str().map(str::to_owned),
        body: response["body"].to_string().into_bytes(),
        ..ApiResponse::default()
    })
}

/// The answer with our intent in the metadata, as it would be had we asked.
fn with_intent(response: &ApiResponse) -> ApiResponse {
    let mut object: Value = serde_json::from_slice(&response.body).unwrap();
    object["metadata"] = json!({"intent_id": INTENT, "generation": "0"});
    ApiResponse { body: object.to_string().into_bytes(), ..response.clone() }
}

#[test]
fn a_recorded_transfer_is_accepted_once_it_carries_our_intent() {
    let Some(response) = recorded("connect_transfer", "POST", "/v1/transfers", 200) else { return };
    let answer = stripe().answer(&transfer_order(), &Reply::Answered(with_intent(&response)));
    assert_eq!(answer.verdict, Verdict::Executed);
    let object = answer.object.unwrap();
    assert_eq!((object.id.as_str(), object.matches), ("tr_1SRznDKXBGcbgpbZ69pgN0bx", true));
    assert_eq!((object.reversed, object.created_at.as_secs()), (0, 1_762_799_179));

    let foreign = stripe().answer(&transfer_order(), &Reply::Answered(response));
    assert_eq!(foreign.verdict, Verdict::Contradiction);
}

#[test]
fn recorded_refusals_are_read() {
    for (file, path, status, code) in [
        ("handles_exception_when_creating_a_charge", "/v1/payment_intents", 400, "parameter_invalid_integer"),
        ("handles_card_declined", "/v1/payment_methods", 402, "card_declined"),
    ] {
        let Some(response) = recorded(file, "POST", path, status) else { return };
        for order in [transfer_order(), charge_order()] {
            let answer = stripe().answer(&order, &Reply::Answered(response.clone()));
            assert_eq!(
                (answer.verdict, answer.error_code.as_deref()),
                (Verdict::Refused, Some(code)),
                "{file}"
            );
        }
    }
}

#[test]
fn a_recorded_account_is_read() {
    let Some(response) = recorded("connect_account", "GET", "/v1/accounts/", 200) else { return };
    let now = Timestamp::from_secs(1_762_799_179);
    let account = stripe().account_state(&Reply::Answered(response), now).unwrap();
    assert_eq!(account.account_id, "acct_1IStbKQOsIOBQfn0");
    assert!(account.transfers_active && account.payouts_enabled);
}

#[test]
fn recorded_and_published_objects_of_others_are_passed_over_in_a_list() {
    let Some(payment) = recorded("connect_transfer", "POST", "/v1/payment_intents", 200) else { return };
    let mut payments: Vec<Value> = vec![serde_json::from_slice(&payment.body).unwrap()];
    for file in ["fixtures.2023-08-16.json", "fixtures.2026-08.json"] {
        payments.push(shared(file).unwrap()["resources"]["payment_intent"].clone());
    }
    let list = |data: &[Value]| {
        let body = json!({"object": "list", "data": data, "has_more": false}).to_string().into_bytes();
        Reply::Answered(ApiResponse { status: 200, body, ..ApiResponse::default() })
    };
    let nothing = Page { objects: Vec::new(), next: None };
    assert_eq!(stripe().page(&charge_order(), &list(&payments)), Ok(nothing));

    // Ours is found between them, whatever the version of its shape.
    for payment in &mut payments {
        payment["metadata"] = json!({"intent_id": INTENT});
    }
    let page = stripe().page(&charge_order(), &list(&payments)).unwrap();
    assert_eq!(page.objects.len(), payments.len());
    assert!(page.objects.iter().all(|object| !object.matches && object.status.is_some()));
}

#[test]
fn published_objects_of_both_shapes_are_executions_once_they_are_ours() {
    for file in ["fixtures.2023-08-16.json", "fixtures.2026-08.json"] {
        let Some(fixtures) = shared(file) else { return };
        for (order, name) in [(transfer_order(), "transfer"), (charge_order(), "payment_intent")] {
            let mut object = fixtures["resources"][name].clone();
            let ours = json!({
                "amount": 700, "currency": "usd", "application_fee_amount": 70,
                "destination": order.destination,
                "transfer_data": {"destination": {"id": order.destination, "object": "account"}},
                "metadata": {"intent_id": INTENT},
            });
            for (field, value) in ours.as_object().unwrap() {
                object[field] = value.clone();
            }
            let body = object.to_string().into_bytes();
            let reply = Reply::Answered(ApiResponse { status: 200, body, ..ApiResponse::default() });
            assert_eq!(stripe().answer(&order, &reply).verdict, Verdict::Executed, "{file} {name}");
        }
    }
}
