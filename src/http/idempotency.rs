//! `Idempotency-Key` on every route that changes something: sent again, a request is answered as it was
//! and nothing is done twice. What a key is and what becomes of it is `app::idempotency`.
//!
//! The header is optional. A key belongs to the API key that sent it, so nobody meets another's.
//!
//! Those who sign up have no API key, and the one of a website is everybody's who looks at its pages. Among
//! them a key is its sender's for as long as nobody else knows it, so it must be long enough to be random.
//! Whoever guesses a key regardless gets little: the answer for nothing but the same request, so only what
//! they have said themselves, without what is shown once, and for another one that the key is taken. Nor does
//! it bar the owner of the key, who sends the request with a new one or none. What stands before this module
//! limits how often they may ask (`http::public`, `http::client`), so that nobody fills the table either.
//! A key of the caller's address would be forgotten by whoever changes from one network to another, which is
//! when answers are lost; a key together with the body would never notice that the body is another.
//!
//! The receiver's routes are not here: an event carries its provider's own id, and that is its key.

use axum::{
    body::Body,
    extract::{FromRequestParts as _, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;

use super::{auth::NotLetIn, body, error::ApiError, once::Kept};
use crate::app::{
    App, Refusal,
    audit::{Claim, Origin},
    idempotency::{self, Answer, Asked, Turn},
    keys::Principal,
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How long a key is at least, where many who do not know each other ask as one: a random UUID without its
/// hyphens.
const SHARED_KEY_BYTES_MIN: usize = 32;

/// Routes whose requests name what they make, or whose keys name it for ever, so that one that was interrupted
/// is simply carried out again.
const REPEATABLE: [&str; 9] = [
    "/v1/admin/affiliate/programs/{program_id}/conversions",
    "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/approve",
    "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/reject",
    "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/clawback",
    "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/hold-period",
    "/v1/admin/affiliate/programs/{program_id}/payouts/run",
    "/v1/admin/sales/{id}/attribution",
    "/v1/client/affiliate/identify",
    "/v1/client/affiliate/touchpoint",
];

/// Puts the rule around `routes`. Who asks is who stands in the request's extensions, else the bearer.
pub(super) fn around<S>(routes: OpenApiRouter<S>, app: &App) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    routes.layer(middleware::from_fn_with_state(app.clone(), once))
}

async fn once(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_reading || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let by = match Principal::from_request_parts(&mut parts, &app).await {
        Ok(by) => by,
        // The route says so itself, or does not ask who it is.
        Err(NotLetIn::Unauthenticated) => return next.run(Request::from_parts(parts, body)).await,
        Err(refused @ NotLetIn::Unavailable(_)) => return refused.into_response(),
    };
    let path = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    let is_repeatable = REPEATABLE.contains(&path);
    let request = Request::from_parts(parts, body);
    carry_out(&app, by, is_repeatable, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn carry_out(
    app: &App,
    by: Principal,
    is_repeatable: bool,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let Some(key) = key_of(&parts.headers)? else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    if by.is_shared() && key.len() < SHARED_KEY_BYTES_MIN {
        return Err(no_key(
            "an Idempotency-Key without an API key of one's own must be random and have 32 characters",
        ));
    }
    let body = body::bytes(Request::new(body)).await?;
    let fingerprint = fingerprint(&parts, &body);
    let asked = Asked { key: &key, fingerprint: &fingerprint, is_repeatable };
    let claim = match idempotency::begin(app, &by, asked).await? {
        Turn::Run(claim) => claim,
        Turn::Replay(answer) => return Ok(replay(answer)),
        Turn::InFlight { retry_after_s } => return Err(in_flight(retry_after_s)),
        Turn::Mismatch => return Err(Refusal::KeyReused.into()),
        Turn::Interrupted { changes } => return Err(interrupted(&changes)),
    };
    let origin = Origin { claim: Some(claim.clone()), ..by.origin().clone() };
    parts.extensions.insert(by.within(origin));
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    Ok(keep(app, &claim, response).await)
}

/// The caller's own key, 1 to 255 printable characters.
///
/// # Errors
/// 400 `INVALID_IDEMPOTENCY_KEY`, also for two of them.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_printable = |key: &&str| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    };
    let key = value.to_str().ok().filter(is_printable).filter(|_| values.next().is_none());
    key.map(|key| Some(key.to_owned()))
        .ok_or_else(|| no_key("Idempotency-Key must be 1 to 255 printable ASCII characters, given once"))
}

fn no_key(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "INVALID_IDEMPOTENCY_KEY", message).with_param("Idempotency-Key")
}

/// What tells a request from every other: method, path with query, body.
fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let path = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str());
    for part in [parts.method.as_str().as_bytes(), path.as_bytes(), body] {
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Keeps an answer that is one for good; the others give the key back.
async fn keep(app: &App, claim: &Claim, response: Response) -> Response {
    let (response, answer) = if is_for_good(&response) {
        match read(response).await {
            Ok((response, answer)) => (response, Some(answer)),
            Err(error) => (error.into_response(), None),
        }
    } else {
        (response, None)
    };
    // What was done is done, and the caller is told; a repeat after the lease learns it from the log.
    if let Err(error) = idempotency::finish(app, claim, answer.as_ref()).await {
        tracing::warn!(%error, idempotency.id = claim.id.as_str(), "the answer to a request was not kept");
    }
    response
}

/// Whether the same request would be answered the same: it was done, or it says what cannot be. Who may ask,
/// how often, what is there and how it stands (404, 409), and trouble of ours can change, and an answer that
/// asks to come back is none. Nor is one to a request under the key of another that was forgotten here: the
/// key stays the other's.
fn is_for_good(response: &Response) -> bool {
    let status = response.status();
    let passes = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::CONFLICT,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    (status.is_success() || status.is_client_error())
        && !passes.contains(&status)
        && !response.headers().contains_key(header::RETRY_AFTER)
}

/// The response, and what of it is kept.
async fn read(response: Response) -> Result<(Response, Answer), ApiError> {
    let (parts, body) = response.into_parts();
    // Answers of these routes are in memory already, whole.
    let shown = axum::body::to_bytes(body, usize::MAX).await.map_err(|_| ApiError::internal())?;
    let kept = parts.extensions.get::<Kept>().map_or(&shown, |Kept(kept)| kept);
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let answer = Answer {
        status: parts.status.as_u16(),
        content_type: content_type.map(str::to_owned),
        body: kept.to_vec(),
    };
    Ok((Response::from_parts(parts, Body::from(shown)), answer))
}

fn replay(answer: Answer) -> Response {
    let Answer { status, content_type, body } = answer;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn in_flight(retry_after_s: u32) -> ApiError {
    let message = "a request with this Idempotency-Key is being carried out; send it again in a moment";
    ApiError::new(StatusCode::CONFLICT, "IDEMPOTENCY_IN_FLIGHT", message).retry_after(retry_after_s)
}

fn interrupted(changes: &[(String, String)]) -> ApiError {
    let done: Vec<String> = changes.iter().map(|(action, object)| format!("{action} {object}")).collect();
    let message = format!(
        "this request was interrupted after it was done, and its answer is lost ({}); look at the object, \
         and use a new key for a new request",
        done.join(", ")
    );
    ApiError::new(StatusCode::CONFLICT, "IDEMPOTENCY_INTERRUPTED", message)
}
