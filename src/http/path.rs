//! Ids in a path. Text that is not an id of the right kind names nothing that exists, so it gets the
//! same 404 as an id that is not there.

use axum::{
    extract::{FromRequestParts, Path, RawPathParams},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The id in the path, or the tuple of ids.
#[derive(Debug)]
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let raw = RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::not_found())?;
        // No id holds a control character, and PostgreSQL cannot even be asked for a NUL.
        if raw.iter().any(|(_, value)| value.chars().any(char::is_control)) {
            return Err(ApiError::not_found());
        }
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id)).map_err(|_| ApiError::not_found())
    }
}
