//! `POST /webhooks/{provider}` and `POST /webhooks/{provider}/{endpoint_id}`.
//!
//! Reads the raw body within its limits, hands it to [`Receiver`] and turns the outcome into the answers
//! that providers act on: exactly 200 after the durable commit (Paddle insists), 4xx for what would
//! fail again, 503 for what should be delivered again.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::Serialize;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    error::ApiError,
    openapi::{
        answers::{RequestTimeout, UnsupportedEncoding},
        schemas::ProviderName,
    },
    serve::BodyTimeout,
};
use crate::{
    app::receive::{EventStore, Receipt, ReceiveError, Receiver, Target},
    domain::ids::EndpointId,
    telemetry::names,
};

/// Seconds after which a refused delivery may come again.
const RETRY_AFTER_S: u32 = 5;

struct Webhooks<S> {
    receiver: Receiver<S>,
    max_body_bytes: usize,
}

/// The descriptions of the two routes: `routes!` cannot mount handlers that are generic.
#[derive(OpenApi)]
#[openapi(paths(default_endpoint, named_endpoint), components(schemas(ProviderName, EndpointId)))]
struct Description;

/// The webhook routes. Bodies larger than `max_body_bytes` are refused.
pub fn routes<S: EventStore>(receiver: Receiver<S>, max_body_bytes: usize) -> OpenApiRouter {
    OpenApiRouter::with_openapi(Description::openapi())
        .route("/webhooks/{provider}", post(default_endpoint::<S>))
        .route("/webhooks/{provider}/{endpoint_id}", post(named_endpoint::<S>))
        .with_state(Arc::new(Webhooks { receiver, max_body_bytes }))
}

/// Takes an event at the default endpoint of a provider.
///
/// The signature covers the bytes as sent. An event that is not of use here is taken all the same.
#[utoipa::path(
    post, path = "/webhooks/{provider}", operation_id = "receiveEvent", tag = "webhooks", security(()),
    params(("provider" = ProviderName, Path), Signatures),
    request_body(description = "The event as the provider sends it.", content = serde_json::Value),
    responses(
        (status = 200, description = "The event is stored durably.", body = Received),
        (status = 408, response = RequestTimeout),
        (status = 415, response = UnsupportedEncoding),
    )
)]
async fn default_endpoint<S: EventStore>(
    State(webhooks): State<Arc<Webhooks<S>>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    match path {
        Ok(Path(provider)) => webhooks.answer(&provider, None, request).await,
        Err(_) => ApiError::not_found().into_response(),
    }
}

/// Takes an event at an endpoint that was made through the API.
///
/// As at the default endpoint.
#[utoipa::path(
    post, path = "/webhooks/{provider}/{endpoint_id}", operation_id = "receiveEventAt", tag = "webhooks",
    security(()),
    params(("provider" = ProviderName, Path), ("endpoint_id" = EndpointId, Path), Signatures),
    request_body(description = "The event as the provider sends it.", content = serde_json::Value),
    responses(
        (status = 200, description = "The event is stored durably.", body = Received),
        (status = 408, response = RequestTimeout),
        (status = 415, response = UnsupportedEncoding),
    )
)]
async fn named_endpoint<S: EventStore>(
    State(webhooks): State<Arc<Webhooks<S>>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    match path {
        Ok(Path((provider, endpoint_id))) => webhooks.answer(&provider, Some(&endpoint_id), request).await,
        Err(_) => ApiError::not_found().into_response(),
    }
}

/// The headers that providers sign with.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the receiver reads the header that its provider names")]
struct Signatures {
    /// Of Stripe: `t=…,v1=…`.
    #[param(rename = "Stripe-Signature", nullable = false)]
    stripe_signature: Option<String>,
    /// Of Paddle: `ts=…;h1=…`.
    #[param(rename = "Paddle-Signature", nullable = false)]
    paddle_signature: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Received {
    /// Always true.
    received: bool,
    /// Whether the event was there already.
    duplicate: bool,
}

impl<S: EventStore> Webhooks<S> {
    async fn answer(&self, provider: &str, endpoint_id: Option<&str>, request: Request) -> Response {
        let (label, result) = match self.receiver.route(provider, endpoint_id).await {
            Ok(target) => (target.provider(), self.take(&target, request).await),
            // The name in the path is the caller's: as a label it would let anyone add time series.
            Err(error) => ("unknown", Err(error.into())),
        };
        let outcome = match &result {
            Ok(Receipt { duplicate: true, .. }) => "duplicate",
            Ok(Receipt { ignored: true, .. }) => "ignored",
            Ok(_) => "new",
            Err(error) => error.code(),
        };
        metrics::counter!(names::WEBHOOK_REQUESTS, "provider" => label, "outcome" => outcome.to_ascii_lowercase())
            .increment(1);
        match result {
            Ok(Receipt { duplicate, .. }) => Json(Received { received: true, duplicate }).into_response(),
            Err(error) => error.into_response(),
        }
    }

    async fn take(&self, target: &Target, request: Request) -> Result<Receipt, ApiError> {
        let (parts, body) = request.into_parts();
        check_encoding(&parts.headers)?;
        let body = read(body, self.max_body_bytes).await?;
        let signatures: Vec<&[u8]> =
            parts.headers.get_all(target.signature_header()).iter().map(HeaderValue::as_bytes).collect();
        Ok(self.receiver.accept(target, &signatures, body).await?)
    }
}

/// The signature covers the bytes as sent, and nothing unsigned is decompressed, so there is no use for
/// an encoding.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let plain = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
    if plain {
        return Ok(());
    }
    let message = "webhooks are taken without content encoding";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_ENCODING", message))
}

/// The whole body, at most `limit` bytes, whatever its length header says.
async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreadable(error.into_inner().is::<BodyTimeout>()))?;
        // Trailers are no part of the body.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
}

fn unreadable(timed_out: bool) -> ApiError {
    if timed_out {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the body took too long to arrive")
    } else {
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID_BODY", "the body could not be read to its end")
    }
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        let (status, code) = match error {
            ReceiveError::UnknownEndpoint => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            ReceiveError::BadSignature => (StatusCode::BAD_REQUEST, "BAD_SIGNATURE"),
            ReceiveError::InvalidBody => (StatusCode::BAD_REQUEST, "INVALID_BODY"),
            ReceiveError::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE"),
            ReceiveError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
        };
        let refusal = Self::new(status, code, error.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE { refusal.retry_after(RETRY_AFTER_S) } else { refusal }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::Method};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener, net::TcpStream};
    use tokio_util::{sync::CancellationToken, task::TaskTracker};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        app::{
            group::GroupLimits,
            receive::fake::{FakeStore, LIMITS, Mode, receiver},
        },
        http::{
            edge,
            serve::{self, serve},
        },
    };

    const MAX_BODY: usize = 64;
    const EVENT: &str = "evt_1 charge.succeeded test";

    fn app(store: &Arc<FakeStore>, limits: GroupLimits, tasks: &TaskTracker) -> Router {
        edge(routes(receiver(store, limits, tasks), MAX_BODY).into(), tasks)
    }

    async fn send(
        app: &Router,
        request: axum::http::request::Builder,
        body: impl Into<Body>,
    ) -> (StatusCode, String) {
        let request = request.body(body.into()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        }
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn signed(path: &str) -> axum::http::request::Builder {
        Request::post(path).header("x-fake-signature", "new")
    }

    #[tokio::test]
    async fn a_delivery_is_answered_200_and_a_second_one_is_a_duplicate() {
        let store = FakeStore::open();
        let app = app(&store, LIMITS, &TaskTracker::new());
        let first = send(&app, signed("/webhooks/fake"), EVENT).await;
        assert_eq!(first, (StatusCode::OK, r#"{"received":true,"duplicate":false}"#.to_owned()));
        let second = send(&app, signed("/webhooks/fake"), EVENT).await;
        assert_eq!(second, (StatusCode::OK, r#"{"received":true,"duplicate":true}"#.to_owned()));
        let other_body = send(&app, signed("/webhooks/fake"), "evt_1 charge.failed test").await;
        assert_eq!(other_body, second);
        // The same event at another endpoint is another delivery.
        let elsewhere = send(&app, signed("/webhooks/fake/ep_made"), EVENT).await;
        assert_eq!(elsewhere, first);
        assert_eq!(store.stored().len(), 2);
    }

    #[tokio::test]
    async fn refusals_have_the_documented_codes_and_write_nothing() {
        let store = FakeStore::open();
        let app = app(&store, LIMITS, &TaskTracker::new());
        let large = "x".repeat(MAX_BODY + 1);
        let deliver = || signed("/webhooks/fake");
        for (request, body, status, code) in [
            (signed("/webhooks/paypal"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/bare"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/fake/ep_other"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/fake/nonsense"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/bare/ep_made"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/fake/"), EVENT, 404, "NOT_FOUND"),
            (signed("/webhooks/%ff"), EVENT, 404, "NOT_FOUND"),
            (deliver().method(Method::GET), "", 405, "METHOD_NOT_ALLOWED"),
            (deliver().method(Method::PUT), EVENT, 405, "METHOD_NOT_ALLOWED"),
            (deliver().header("content-encoding", "gzip"), EVENT, 415, "UNSUPPORTED_ENCODING"),
            (deliver().header("content-encoding", "identity, br"), EVENT, 415, "UNSUPPORTED_ENCODING"),
            (deliver(), large.as_str(), 413, "PAYLOAD_TOO_LARGE"),
            (Request::post("/webhooks/fake"), EVENT, 400, "BAD_SIGNATURE"),
            (deliver().header("x-fake-signature", "new"), EVENT, 400, "BAD_SIGNATURE"),
            (deliver(), "one", 400, "INVALID_BODY"),
        ] {
            let (got, answer) = send(&app, request, body.to_owned()).await;
            assert_eq!(got.as_u16(), status, "{answer}");
            assert!(answer.starts_with(&format!(r#"{{"error":{{"code":"{code}","#)), "{answer}");
        }
        assert!(store.batch_sizes().is_empty());

        let identity = deliver().header("content-encoding", "Identity");
        assert_eq!(send(&app, identity, EVENT).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_cut_at_the_limit() {
        struct Endless;
        impl hyper::body::Body for Endless {
            type Data = axum::body::Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
                let chunk = axum::body::Bytes::from_static(b"xxxxxxxx");
                std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(chunk))))
            }
        }
        let app = app(&FakeStore::open(), LIMITS, &TaskTracker::new());
        let (status, answer) = send(&app, signed("/webhooks/fake"), Body::new(Endless)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(answer.contains("larger than 64 bytes"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_taken() {
        let app = app(&FakeStore::open(), LIMITS, &TaskTracker::new());
        let body = format!("{EVENT} {}", "x".repeat(MAX_BODY - EVENT.len() - 1));
        assert_eq!(send(&app, signed("/webhooks/fake"), body).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_503_everywhere() {
        let store = FakeStore::open();
        store.set(Mode::Fail);
        let app = app(&store, LIMITS, &TaskTracker::new());
        for path in ["/webhooks/fake", "/webhooks/fake/ep_made"] {
            let (status, answer) = send(&app, signed(path), EVENT).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(
                answer.contains("STORE_UNAVAILABLE") && answer.contains(r#""retryable":true"#),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_full_queue_is_503_overloaded() {
        let store = FakeStore::held();
        let app = app(&store, GroupLimits { queued_max: 1, ..LIMITS }, &TaskTracker::new());
        let deliver = |id: usize| {
            let (app, body) = (app.clone(), format!("evt_{id} charge.succeeded test"));
            tokio::spawn(async move { send(&app, signed("/webhooks/fake"), body).await })
        };
        let first = deliver(0);
        store.until_entered().await;
        // One of these two finds the only place in the queue, the other finds it taken.
        let (mut a, mut b) = (deliver(1), deliver(2));
        let (refused, waiting) = tokio::select! {
            refused = &mut a => (refused.unwrap(), b),
            refused = &mut b => (refused.unwrap(), a),
        };
        assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.1.contains("OVERLOADED"), "{}", refused.1);
        store.gate.add_permits(2);
        assert_eq!(first.await.unwrap().0, StatusCode::OK);
        assert_eq!(waiting.await.unwrap().0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_client_that_leaves_after_sending_cancels_nothing() {
        let store = FakeStore::held();
        let tasks = TaskTracker::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let draining = CancellationToken::new();
        let patience = Duration::from_secs(20);
        let limits = serve::Limits {
            max_connections: 128,
            header_timeout: patience,
            body_timeout: patience,
            write_timeout: patience,
            idle_timeout: patience,
            drain: patience,
        };
        let writers = TaskTracker::new();
        let receiver = receiver(&store, GroupLimits { queued_max: 256, ..LIMITS }, &writers);
        let app = edge(routes(receiver, MAX_BODY).into(), &tasks);
        let server = tokio::spawn(serve(listener, app, limits, draining.clone()));

        for id in 0..100 {
            let body = format!("evt_{id} charge.succeeded test");
            let request = format!(
                "POST /webhooks/fake HTTP/1.1\r\nhost: x\r\nx-fake-signature: new\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            // Gone as soon as its handler runs.
            let runs = async {
                while tasks.len() <= id {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(patience, runs).await.expect("the handler has a task of its own");
            drop(client);
        }
        draining.cancel();
        server.await.unwrap();
        assert!(store.stored().is_empty(), "every connection is closed before the first commit ends");

        store.gate.add_permits(100);
        tasks.close();
        tasks.wait().await;
        assert_eq!(store.stored().len(), 100);
    }

    #[test]
    fn every_outcome_is_counted_under_a_known_provider() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let app = app(&FakeStore::open(), LIMITS, &TaskTracker::new());
                send(&app, signed("/webhooks/fake"), EVENT).await;
                send(&app, signed("/webhooks/fake"), EVENT).await;
                send(&app, signed("/webhooks/fake"), "evt_2 charge.succeeded live").await;
                send(&app, Request::post("/webhooks/fake"), EVENT).await;
                send(&app, signed("/webhooks/attacker-chosen"), EVENT).await;
            });
        });
        let text = recorder.handle().render();
        for (provider, outcome) in [
            ("fake", "new"),
            ("fake", "duplicate"),
            ("fake", "ignored"),
            ("fake", "bad_signature"),
            ("unknown", "not_found"),
        ] {
            let line =
                format!("remit_webhook_requests_total{{provider=\"{provider}\",outcome=\"{outcome}\"}} 1");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("attacker"), "{text}");
        assert!(text.contains("remit_webhook_commit_seconds_count 3"), "{text}");
    }
}
