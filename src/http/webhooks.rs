//! `POST /webhooks/{provider}` and `POST /webhooks/{provider}/{endpoint_id}`.
//!
//! Reads the raw body within its limits, hands it to [`Receiver`] and turns the outcome into the answers
//! that providers act on: exactly 200 after the durable commit (Paddle insists), 4xx for what would
//! fail again, 503 for what should be delivered again.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::Serialize;

use super::{error::ApiError, serve::BodyTimeout};
use crate::{
    app::receive::{EventStore, Receipt, ReceiveError, Receiver, Target},
    telemetry::names,
};

/// Seconds after which a refused delivery may come again.
const RETRY_AFTER_S: u32 = 5;

struct Webhooks<S> {
    receiver: Receiver<S>,
    max_body_bytes: usize,
}

/// The webhook routes. Bodies larger than `max_body_bytes` are refused.
pub fn routes<S: EventStore>(receiver: Receiver<S>, max_body_bytes: usize) -> Router {
    Router::new()
        .route("/webhooks/{provider}", post(default_endpoint::<S>))
        .route("/webhooks/{provider}/{endpoint_id}", post(named_endpoint::<S>))
        .with_state(Arc::new(Webhooks { receiver, max_body_bytes }))
}

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

#[derive(Serialize)]
struct Received {
    received: bool,
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
