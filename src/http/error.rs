//! The one error envelope, and the only place that turns errors into status codes.
//!
//! `{"error": {"code", "message", "param"?, "request_id", "retryable"}}`. Messages are for the caller:
//! they name what to change and carry nothing internal, no secret and no part of a body.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::Refusal;

tokio::task_local! {
    /// The id of the request that this task answers; set by [`super::edge`].
    pub(super) static REQUEST_ID: String;
}

/// An answer that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    retryable: bool,
    retry_after_s: Option<u32>,
}

impl ApiError {
    /// A refusal; `code` is upper case. Errors of the server are marked as worth retrying.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let retryable = status.is_server_error();
        Self { status, code, message: message.into(), param: None, retryable, retry_after_s: None }
    }

    /// Names the parameter that is wrong.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Asks the caller to come back after `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retryable = true;
        self.retry_after_s = Some(seconds);
        self
    }

    /// No such path or object. What a body names may be what is not there, so the message tells of both; it is
    /// one for all, so that nobody learns which it was.
    pub fn not_found() -> Self {
        let message = "there is nothing at this path, or an id in the body names nothing that is yours";
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// The path exists, the method does not; the `Allow` header lists those that do.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "this path does not take this method")
    }

    /// Something broke on our side; the log has the reason under the request id.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "something went wrong on our side")
    }

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code of the answer.
    pub const fn code(&self) -> &'static str {
        self.code
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (code, message) = (refusal.code(), refusal.to_string());
        let retry_after_s = refusal.retry_after_s();
        let error = match refusal {
            Refusal::Invalid { param, .. } => {
                Self::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
            }
            // Word for word what an unknown path gets: nobody learns what others have.
            Refusal::NotFound => Self::not_found(),
            Refusal::MissingScope(_) | Refusal::Forbidden(_) | Refusal::Closed { .. } => {
                Self::new(StatusCode::FORBIDDEN, code, message)
            }
            Refusal::Conflict { .. } => Self::new(StatusCode::CONFLICT, code, message),
            Refusal::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message),
            Refusal::Unavailable { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message),
            Refusal::Store(error) if error.is_unavailable() || error.is_retryable() => {
                tracing::warn!(%error, "the store did not answer a request");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "the store cannot answer now")
            }
            Refusal::Store(_) | Refusal::Seal(_) => {
                tracing::error!(error = message, "a request could not be answered");
                Self::internal()
            }
        };
        match retry_after_s {
            Some(seconds) => error.retry_after(seconds),
            None => error,
        }
    }
}

/// How every refusal is answered.
#[derive(Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct Envelope {
    error: Body,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RefusalBody)]
struct Body {
    /// What to branch on.
    #[schema(pattern = "^[A-Z][A-Z0-9_]*$")]
    code: &'static str,
    /// For people.
    #[schema(value_type = String)]
    message: Cow<'static, str>,
    /// The field, parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    param: Option<Cow<'static, str>>,
    /// Names the request in the log.
    request_id: String,
    /// Whether the same request may succeed later.
    retryable: bool,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Outside a request, as in a unit test of a handler, there is no id to name.
        let request_id = REQUEST_ID.try_with(Clone::clone).unwrap_or_default();
        let Self { status, code, message, param, retryable, retry_after_s } = self;
        let body = Json(Envelope { error: Body { code, message, param, request_id, retryable } });
        let mut response = (status, body).into_response();
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_envelope_names_code_message_parameter_request_and_whether_to_retry() {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "INVALID_AMOUNT", "amount must be positive")
            .with_param("amount");
        let response = REQUEST_ID.scope("req_1".to_owned(), async { error.into_response() }).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"error":{"code":"INVALID_AMOUNT","message":"amount must be positive","param":"amount","request_id":"req_1","retryable":false}}"#
        );
    }

    #[test]
    fn a_retryable_refusal_says_when_to_come_back() {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "busy").retry_after(5);
        assert_eq!(error.into_response().headers()[header::RETRY_AFTER], "5");
    }
}
