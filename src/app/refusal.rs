//! Why something that a caller asked for was not done. Nothing changed when one of these is returned.
//!
//! Messages are for the caller: they name what to change and never repeat a secret or an address.

use std::borrow::Cow;

use super::{keys::Scope, seal::SealError};
use crate::store::StoreError;

/// A request that was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field holds what it cannot hold.
    #[error("{message}")]
    Invalid {
        /// Upper-case code, one per field.
        code: &'static str,
        /// The field.
        param: &'static str,
        /// What it may hold.
        message: Cow<'static, str>,
    },
    /// There is no such object, or it belongs to somebody else: the two look the same.
    #[error("there is no such object")]
    NotFound,
    /// The key was not given this right.
    #[error("this key lacks the scope `{0}`")]
    MissingScope(Scope),
    /// A key of this kind can never do it.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Nobody can do it here: the configuration says so.
    #[error("{message}")]
    Closed {
        /// Upper-case code.
        code: &'static str,
        /// What is closed.
        message: Cow<'static, str>,
    },
    /// It contradicts what is there.
    #[error("{message}")]
    Conflict {
        /// Upper-case code.
        code: &'static str,
        /// What is there, and what would be possible.
        message: Cow<'static, str>,
    },
    /// The caller's Idempotency-Key came with another request before.
    #[error("this Idempotency-Key was sent with another request; use a new key for a new request")]
    KeyReused,
    /// Not as things are now: it is switched off, or stopped.
    #[error("{message}")]
    Unavailable {
        /// Upper-case code.
        code: &'static str,
        /// What would make it possible.
        message: Cow<'static, str>,
    },
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is sealed cannot be opened with the configured key.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Refusal {
    /// A field holds what it cannot hold.
    pub(crate) fn invalid(
        code: &'static str,
        param: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid { code, param, message: message.into() }
    }

    /// It contradicts what is there.
    pub(crate) fn conflict(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict { code, message: message.into() }
    }

    /// It is switched off, or stopped.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable { code, message: message.into() }
    }

    /// A status cannot follow another.
    pub(crate) fn invalid_state(what: &str, from: &str, to: &str) -> Self {
        Self::conflict("INVALID_STATE", format!("{what} that is {from} cannot become {to}"))
    }

    /// When the same request may be answered otherwise, where that takes only time; seconds.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Conflict { code: "SALE_MERGING" | "NOT_PROCESSED_YET", .. }
            | Self::Unavailable { code: "OVERLOADED" | "STORE_UNAVAILABLE", .. } => Some(1),
            Self::Conflict { code: "CALL_UNDER_WAY" | "JOB_RUNNING", .. } => Some(60),
            Self::Store(error) if error.is_unavailable() || error.is_retryable() => Some(1),
            Self::Invalid { .. }
            | Self::NotFound
            | Self::MissingScope(_)
            | Self::Forbidden(_)
            | Self::Conflict { .. }
            | Self::KeyReused
            | Self::Unavailable { .. }
            | Self::Closed { .. }
            | Self::Store(_)
            | Self::Seal(_) => None,
        }
    }

    /// The upper-case code that callers branch on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { code, .. }
            | Self::Closed { code, .. }
            | Self::Conflict { code, .. }
            | Self::Unavailable { code, .. } => code,
            Self::NotFound => "NOT_FOUND",
            Self::KeyReused => "IDEMPOTENCY_MISMATCH",
            Self::MissingScope(_) | Self::Forbidden(_) => "FORBIDDEN",
            Self::Store(error) if error.is_unavailable() || error.is_retryable() => "STORE_UNAVAILABLE",
            Self::Store(_) | Self::Seal(_) => "INTERNAL",
        }
    }
}

/// A name for people: 1 to 200 characters after trimming, none of them a control character.
pub(crate) fn name(text: &str) -> Result<String, Refusal> {
    let name = text.trim();
    if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        return Err(Refusal::invalid("INVALID_NAME", "name", "name must be 1 to 200 printable characters"));
    }
    Ok(name.to_owned())
}
