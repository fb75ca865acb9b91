//! `Authorization: Bearer rk_…` to the principal behind it.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};

use super::error::{ApiError, REQUEST_ID};
use crate::app::{
    App, Refusal,
    audit::Origin,
    keys::{AuthError, Principal, authenticate},
};

/// The request was not let in.
#[derive(Debug)]
pub enum NotLetIn {
    /// No key that works: 401.
    Unauthenticated,
    /// The store does not answer.
    Unavailable(ApiError),
}

impl IntoResponse for NotLetIn {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthenticated => {
                let message = "send a valid key as `Authorization: Bearer rk_…`";
                let error = ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message);
                let mut response = error.into_response();
                // RFC 9110, section 11.6.1: a 401 names the scheme.
                let scheme = HeaderValue::from_static("Bearer realm=\"remit\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                response
            }
            Self::Unavailable(error) => error.into_response(),
        }
    }
}

impl FromRequestParts<App> for Principal {
    type Rejection = NotLetIn;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, NotLetIn> {
        // Whoever claimed the request's Idempotency-Key has asked already.
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let key = bearer(&parts.headers).ok_or(NotLetIn::Unauthenticated)?;
        let found = authenticate(app, key).await.map_err(|error| match error {
            AuthError::Unauthenticated => NotLetIn::Unauthenticated,
            AuthError::Store(error) => NotLetIn::Unavailable(Refusal::Store(error).into()),
        })?;
        Ok(found.within(origin()))
    }
}

/// The request that this task answers, for the audit log.
pub(super) fn origin() -> Origin {
    Origin { request_id: REQUEST_ID.try_with(Clone::clone).unwrap_or_default(), claim: None }
}

/// The token of the one `Authorization` header. The scheme is compared without case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_is_taken() {
        let token = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(token(&["Bearer rk_op_a"]).as_deref(), Some("rk_op_a"));
        assert_eq!(token(&["bearer  rk_op_a "]).as_deref(), Some("rk_op_a"));
        assert_eq!(token(&["Basic rk_op_a"]), None);
        assert_eq!(token(&["rk_op_a"]), None);
        assert_eq!(token(&[]), None);
        assert_eq!(token(&["Bearer rk_op_a", "Bearer rk_op_b"]), None);
    }
}
