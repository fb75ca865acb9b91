//! Secret keys: which are accepted, and which mode they are for.
//!
//! Source: docs.stripe.com/api/authentication, docs.stripe.com/keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{error::ApiError, world::World};

/// The secret key of `Authorization: Bearer` or `Basic`.
fn key_of(authorization: &str) -> Option<String> {
    if let Some(key) = authorization.strip_prefix("Bearer ") {
        return Some(key.trim().to_owned());
    }
    let decoded = STANDARD.decode(authorization.strip_prefix("Basic ")?.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    Some(text.split(':').next().unwrap_or_default().to_owned())
}

/// The mode that the form of the key tells; `None` where it is no secret key.
pub(super) fn livemode(authorization: &str) -> Option<bool> {
    let key = key_of(authorization)?;
    let is_of = |mode: &str| ["sk", "rk"].iter().any(|kind| key.starts_with(&format!("{kind}_{mode}_")));
    if is_of("test") {
        Some(false)
    } else if is_of("live") {
        Some(true)
    } else {
        None
    }
}

/// The mode that the key is for.
pub(super) fn check(world: &World, authorization: Option<&str>) -> Result<bool, ApiError> {
    let Some(authorization) = authorization else {
        let message = "You did not provide an API key.";
        return Err(ApiError::invalid(401, None, message));
    };
    let livemode = livemode(authorization).ok_or_else(wrong_key)?;
    let is_known = world.secret_keys.is_empty()
        || key_of(authorization).is_some_and(|key| world.secret_keys.contains(&key));
    if is_known { Ok(livemode) } else { Err(wrong_key()) }
}

/// The key itself is not repeated: it may be a good one, mistyped.
pub(super) fn wrong_key() -> ApiError {
    ApiError::invalid(401, None, "Invalid API Key provided.")
}
