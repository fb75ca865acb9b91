//! The HTTP edge: from bytes on a socket to a call of `app`, and back.
//!
//! Read [`serve`] for the accept loop and its limits, [`error`] for the one error envelope,
//! [`webhooks`] for the receiver, [`admin`] and [`affiliate`] for the two sides of the API (with [`page`],
//! [`params`], [`body`], [`path`] and [`mod@file`] under them), [`client`] for websites and apps, [`redirect`] for affiliates' links,
//! [`public`] for what needs no key, [`rate`] for how often strangers may ask and [`address`] for who they
//! are, [`openapi`] for the description of it all, and [`ops`] for health and metrics. No rule of the product lives here.

pub mod address;
pub mod admin;
pub mod affiliate;
mod auth;
pub mod body;
pub mod client;
pub mod error;
pub mod file;
mod idempotency;
mod once;
pub mod openapi;
pub mod ops;
pub mod page;
pub mod params;
pub mod path;
pub mod public;
pub mod rate;
pub mod redirect;
pub mod serve;
pub mod webhooks;

pub use once::{Once, ShownOnce};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::app::{App, clicks::Clicks};
use error::{ApiError, REQUEST_ID};

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Every route of the API, with what stands around them all. What is clicked goes to `clicks`. The receiver
/// has state of its own, see [`webhooks::routes`].
pub fn api(app: &App, clicks: &Clicks) -> OpenApiRouter {
    let public = public::routes(app.clone());
    let keyed = admin::router().merge(affiliate::router());
    let client = client::routes(app.clone(), clicks.clone());
    // These only read, as HTTP sees it.
    let links = redirect::routes(app.clone(), clicks.clone());
    idempotency::around(keyed, app).with_state(app.clone()).merge(public).merge(client).merge(links)
}

/// Puts around all `routes` what every request needs: an id, a span, the error envelope also for
/// unknown paths, wrong methods and panics, and a task of its own.
///
/// The task matters: when a client goes away the connection drops whatever it awaits, and a dropped
/// `BEGIN` poisons the pool (`reliability.md` finding 1). The connection awaits only the task, which goes
/// on to its end; `tasks` is what a draining process waits for.
pub fn edge(routes: Router, tasks: &TaskTracker) -> Router {
    routes
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn_with_state(tasks.clone(), detached))
}

async fn detached(State(tasks): State<TaskTracker>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // The path only: a query may carry personal data.
    let span = tracing::info_span!(
        "request",
        request.id = id,
        http.method = %request.method(),
        http.path = request.uri().path(),
    );
    let handled = REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span.clone());
    let mut response = match tasks.spawn(handled).await {
        Ok(response) => response,
        Err(error) => {
            let panicked = error.is_panic();
            span.in_scope(|| tracing::error!(panicked, "request handler ended without an answer"));
            REQUEST_ID.sync_scope(id.clone(), || ApiError::internal().into_response())
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

/// The caller's request id where it is safe to log and echo, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_safe = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    headers
        .get(REQUEST_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(is_safe)
        .map_or_else(|| format!("req_{}", Uuid::now_v7().simple()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Method, StatusCode, header},
        routing::get,
    };
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: Method, path: &str, id: Option<&str>) -> (StatusCode, HeaderMap, serde_json::Value) {
        let routes = Router::new().route("/fine", get(async || axum::Json(serde_json::json!({})))).route(
            "/panic",
            get(async || -> Response { panic!("a handler that fails its test on purpose") }),
        );
        let mut request = Request::builder().method(method).uri(path);
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = edge(routes, &TaskTracker::new()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn unknown_paths_wrong_methods_and_panics_share_one_envelope() {
        for (method, path, status, code, retryable) in [
            (Method::GET, "/missing", StatusCode::NOT_FOUND, "NOT_FOUND", false),
            (Method::GET, "/fine/", StatusCode::NOT_FOUND, "NOT_FOUND", false),
            (Method::DELETE, "/fine", StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", false),
            (Method::GET, "/panic", StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", true),
        ] {
            let (got, headers, body) = ask(method, path, Some("abc-1")).await;
            assert_eq!(got, status, "{path}");
            assert_eq!(body["error"]["code"], code);
            assert_eq!(body["error"]["retryable"], retryable);
            assert_eq!(body["error"]["request_id"], "abc-1");
            assert_eq!(headers["x-request-id"], "abc-1");
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let (_, headers, _) = ask(Method::DELETE, "/fine", None).await;
        assert_eq!(headers[header::ALLOW], "GET,HEAD");
    }

    #[tokio::test]
    async fn an_unsafe_request_id_is_replaced() {
        for unsafe_id in ["", "a b", "<script>", &"x".repeat(65)] {
            let (_, headers, _) = ask(Method::GET, "/fine", Some(unsafe_id)).await;
            assert!(headers["x-request-id"].to_str().unwrap().starts_with("req_"), "{unsafe_id}");
        }
    }
}
