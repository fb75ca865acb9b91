//! One change, asked for under an Idempotency-Key, and then again in each way in which that can happen.

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use remit::app::random_u128;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::api::Api;

/// A request that changes something.
pub struct Change<'a> {
    pub method: Method,
    pub path: &'a str,
    /// The header that says who asks, and what it holds.
    pub who: (&'static str, String),
    pub body: &'a Value,
    /// The same in every try: what is done twice is written down twice under it.
    pub request_id: &'a str,
}

/// What answers show once.
const SHOWN_ONCE: [&str; 3] = ["key", "mcp_config", "invite_token"];

/// Asks for a change, which succeeds, and again: after the answer, with another body, while the first is under
/// way, and after its node has died. Gives the first answer. That the change was made once is for the caller.
pub async fn ask_again_and_again(api: &Api, change: &Change<'_>) -> Value {
    const IN_FLIGHT: &str = "UPDATE idempotency SET state = 'in_flight', status = NULL, content_type = NULL,
        body = NULL, leased_until_us = $2 WHERE request_key = $1";
    let at = format!("{} {}", change.method, change.path);
    let key = format!("{:032x}", random_u128());
    let in_flight_until = async |until: i64| {
        let mut tx = api.app.db.begin().await.unwrap();
        assert_eq!(tx.q(IN_FLIGHT).bind(&*key).bind(until).exec().await.unwrap(), 1, "{at}");
        tx.commit().await.unwrap();
    };

    let (status, headers, first) = send(api, change, &key, change.body).await;
    assert!(status.is_success(), "{at}: {status} {first}");
    assert!(!is_replayed(&headers), "{at}");

    let again = send(api, change, &key, change.body).await;
    assert!(is_replayed(&again.1), "{at}: {again:?}");
    assert_eq!((again.0, &again.2), (status, &without_secrets(&first)), "{at}");

    let mut other = change.body.clone();
    other["another"] = json!("request");
    let (refused, headers, answer) = send(api, change, &key, &other).await;
    assert_eq!((refused, code(&answer)), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_MISMATCH"), "{at}");
    assert!(!is_replayed(&headers), "{at}");

    in_flight_until(api.app.now().plus_secs(30).as_micros()).await;
    let (refused, headers, answer) = send(api, change, &key, change.body).await;
    assert_eq!((refused, code(&answer)), (StatusCode::CONFLICT, "IDEMPOTENCY_IN_FLIGHT"), "{at}");
    assert_eq!(headers[header::RETRY_AFTER], "31", "{at}");

    in_flight_until(0).await;
    let (late, headers, answer) = send(api, change, &key, change.body).await;
    assert!(!is_replayed(&headers), "{at}");
    // A change that can be found again is answered as it would have been.
    let was_told = (late, code(&answer)) == (StatusCode::CONFLICT, "IDEMPOTENCY_INTERRUPTED");
    assert!(late.is_success() || was_told, "{at}: {late} {answer}");
    first
}

async fn send(api: &Api, change: &Change<'_>, key: &str, body: &Value) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder()
        .method(&change.method)
        .uri(change.path)
        .header(change.who.0, &change.who.1)
        .header("idempotency-key", key)
        .header("x-request-id", change.request_id)
        .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
        .unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
}

fn is_replayed(headers: &HeaderMap) -> bool {
    headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("none")
}

/// The answer as it may be kept.
fn without_secrets(answer: &Value) -> Value {
    let mut kept = answer.clone();
    let shown = kept["data"].as_object_mut().unwrap();
    shown
        .iter_mut()
        .filter(|(name, _)| SHOWN_ONCE.contains(&name.as_str()))
        .for_each(|(_, value)| *value = Value::Null);
    assert!(
        !kept.to_string().contains("rk_"),
        "an answer would be kept with a key: {:?}",
        kept["data"].as_object().unwrap().keys()
    );
    kept
}
