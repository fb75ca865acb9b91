//! What `/openapi.json` says, as a whole. That it is true, each of the other tests shows by itself, see
//! [`crate::support::described`].

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{self, Api},
    described::{Description, Exchange},
};

/// Every route of the public listener, with the receiver.
async fn description() -> Arc<Description> {
    let db = TestDb::sqlite().await;
    Description::of(&api::with_receiver(&Api::new(&db.db).await.app)).await
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

#[tokio::test]
async fn the_description_is_served_to_everybody() {
    let db = TestDb::sqlite().await;
    let api = Api::new(&db.db).await;
    let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
    let response = api.router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
}

#[tokio::test]
async fn the_description_names_its_version_and_every_route_by_one_name() {
    let description = description().await;
    let document = &description.document;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut names = BTreeSet::new();
    for (at, operation) in operations(document) {
        let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no name"));
        assert!(names.insert(name), "{name} names two routes");
        assert!(operation["summary"].is_string(), "{at} has no summary");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{at}");
    }
    for wanted in ["createProgram", "runSettlement", "receiveEvent", "receiveEventAt", "getOpenapi"] {
        assert!(names.contains(wanted), "{wanted}");
    }
}

#[tokio::test]
async fn every_route_says_who_may_call_it_and_every_change_can_be_repeated() {
    let description = description().await;
    for (at, operation) in operations(&description.document) {
        let is_public = operation["security"] == json!([]);
        assert_eq!(is_public, operation["responses"]["401"].is_null(), "{at}");
        let can_repeat = |key: &str| {
            let key = json!({"$ref": format!("#/components/parameters/{key}")});
            operation["parameters"].as_array().is_some_and(|all| all.contains(&key))
        };
        // Strangers share a key of nobody's and the one of a website.
        let is_shared = is_public || operation["security"] == json!([{"clientKey": []}]);
        let is_change = !["get ", "options "].iter().any(|method| at.starts_with(method));
        // An event has its provider's own id.
        let is_change = is_change && !at.contains(" /webhooks/");
        assert_eq!(can_repeat("IdempotencyKey"), is_change && !is_shared, "{at}");
        assert_eq!(can_repeat("RandomIdempotencyKey"), is_change && is_shared, "{at}");
        for status in ["409", "422"] {
            assert!(!is_change || operation["responses"][status].is_object(), "{at}: {status}");
        }
    }
}

#[tokio::test]
async fn everything_that_is_described_is_there_and_used() {
    let description = description().await;
    let mut used = BTreeSet::new();
    references(&description.document, &mut used);
    for reference in &used {
        assert!(description.document.pointer(&reference[1..]).is_some(), "{reference}");
    }
    for name in description.document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(used.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
    }
}

fn references(part: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Array(parts) => parts.iter().for_each(|part| references(part, found)),
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|part| references(part, found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_described_is_noticed() {
    let description = description().await;
    let path = "/v1/admin/organizations/org_1";
    let organization =
        json!({"id": "org_1", "name": "Ann", "email": null, "created_at": "2026-01-01T00:00:00Z"});
    let fits = |status, answer: Value| {
        let exchange = Exchange { method: &Method::GET, path, query: "", sent: &[] };
        let (status, answer) = (StatusCode::from_u16(status).unwrap(), answer.to_string());
        let check = || description.check(&exchange, status, Some("application/json"), answer.as_bytes());
        catch_unwind(AssertUnwindSafe(check)).is_ok()
    };
    assert!(fits(200, json!({"data": organization})));
    assert!(!fits(202, json!({"data": organization})), "a status");
    assert!(!fits(404, json!({"data": organization})), "another form");
    for (field, value) in [("id", json!("prog_1")), ("email", json!(1)), ("secret", json!("x"))] {
        let mut other = organization.clone();
        other[field] = value;
        assert!(!fits(200, json!({"data": other})), "{field}");
    }
    let mut partial = organization.clone();
    partial.as_object_mut().unwrap().remove("email");
    assert!(!fits(200, json!({"data": partial})), "a field that is missing");
}
