//! Idempotency keys: what was answered under each, for a day.
//!
//! Source: `docs.stripe.com/api/idempotent_requests`, docs.stripe.com/error-low-level.

use std::collections::HashMap;

use serde_json::Value;

use super::{clock::SECOND_US, error::ApiError, world::Scope};

/// Longest key, characters.
const LENGTH_MAX: usize = 255;

/// An answer that will be repeated.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) status: u16,
    pub(super) body: Value,
    /// The request that was executed.
    pub(super) request_id: String,
    /// The header `Stripe-Should-Retry` as it was first answered.
    pub(super) should_retry: Option<bool>,
}

#[derive(Debug)]
struct Record {
    first_used_us: i64,
    /// Method, path and parameters, which must stay the same.
    fingerprint: String,
    /// `None` while the request is executed.
    answer: Option<Stored>,
}

/// What a key says about a request.
#[derive(Debug)]
pub(super) enum Seen {
    /// Execute it.
    Never,
    /// Answer this again.
    Answered(Stored),
}

/// All keys, each in its account and mode.
#[derive(Debug)]
pub(super) struct Keys {
    records: HashMap<(Scope, String), Record>,
    retention_us: i64,
}

impl Keys {
    pub(super) fn new(retention_s: u32) -> Self {
        Self { records: HashMap::new(), retention_us: i64::from(retention_s) * SECOND_US }
    }

    /// What is known of a key. One that is older than the retention is forgotten: its request would be
    /// executed again.
    pub(super) fn look(
        &mut self,
        scope: &Scope,
        key: &str,
        fingerprint: &str,
        now_us: i64,
    ) -> Result<Seen, ApiError> {
        if key.chars().count() > LENGTH_MAX {
            let message = "The idempotency key is longer than 255 characters.";
            return Err(ApiError::idempotency(message));
        }
        let place = (scope.clone(), key.to_owned());
        let is_over = |record: &Record| {
            record.answer.is_some() && now_us.saturating_sub(record.first_used_us) >= self.retention_us
        };
        if self.records.get(&place).is_some_and(is_over) {
            self.records.remove(&place);
        }
        match self.records.get(&place) {
            None => Ok(Seen::Never),
            Some(record) if record.fingerprint != fingerprint => Err(ApiError::idempotency(
                "Keys for idempotent requests can only be used with the same parameters and path they were \
                 first used with.",
            )),
            Some(Record { answer: Some(answer), .. }) => Ok(Seen::Answered(answer.clone())),
            Some(Record { answer: None, .. }) => Err(in_use()),
        }
    }

    /// Takes a key for the time of the execution.
    pub(super) fn begin(&mut self, scope: &Scope, key: &str, fingerprint: String, now_us: i64) {
        let record = Record { first_used_us: now_us, fingerprint, answer: None };
        self.records.insert((scope.clone(), key.to_owned()), record);
    }

    /// Keeps the answer.
    pub(super) fn finish(&mut self, scope: &Scope, key: &str, answer: Stored) {
        if let Some(record) = self.records.get_mut(&(scope.clone(), key.to_owned())) {
            record.answer = Some(answer);
        }
    }

    /// Forgets a key whose request turned out not to be executable.
    pub(super) fn give_up(&mut self, scope: &Scope, key: &str) {
        self.records.remove(&(scope.clone(), key.to_owned()));
    }
}

/// Another request with the key is under way.
pub(super) fn in_use() -> ApiError {
    ApiError::invalid(
        409,
        Some("idempotency_key_in_use"),
        "There is currently another in-progress request using this idempotency key.",
    )
}
