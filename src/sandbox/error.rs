//! What the provider answers when it refuses, in its words.
//!
//! Shape and codes: docs.stripe.com/api/errors and docs.stripe.com/error-codes.

use serde_json::{Map, Value, json};

/// A refusal, not yet bound to a request.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    kind: &'static str,
    pub(super) code: Option<&'static str>,
    message: String,
    param: Option<String>,
    /// Further fields of the error object, such as `decline_code`.
    more: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    /// A refusal of a request that makes no sense or cannot be done now.
    pub(super) fn invalid(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind: "invalid_request_error", code, message: message.into(), param: None, more: None }
    }

    /// The provider's own fault.
    pub(super) fn internal() -> Self {
        let message = "An unknown error occurred. Confirm the outcome before you try again.";
        Self { kind: "api_error", ..Self::invalid(500, None, message) }
    }

    pub(super) fn idempotency(message: impl Into<String>) -> Self {
        Self { kind: "idempotency_error", ..Self::invalid(400, None, message) }
    }

    /// A payment method was declined.
    pub(super) fn declined(decline_code: &'static str) -> Self {
        Self { kind: "card_error", ..Self::invalid(402, Some("card_declined"), "Your card was declined.") }
            .with("decline_code", json!(decline_code))
            .with("advice_code", json!("try_again_later"))
    }

    pub(super) fn unknown_parameter(param: &str) -> Self {
        Self::invalid(400, Some("parameter_unknown"), format!("Received unknown parameter: {param}"))
            .about(param)
    }

    pub(super) fn missing_parameter(param: &str) -> Self {
        Self::invalid(400, Some("parameter_missing"), format!("Missing required param: {param}."))
            .about(param)
    }

    pub(super) fn empty_parameter(param: &str) -> Self {
        let message = format!("You passed an empty string for '{param}', which cannot be unset.");
        Self::invalid(400, Some("parameter_invalid_empty"), message).about(param)
    }

    pub(super) fn integer_parameter(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(400, Some("parameter_invalid_integer"), message).about(param)
    }

    /// The object that the path names does not exist here; for one that a parameter names, see `status`.
    pub(super) fn no_such(what: &str, id: &str, param: &str) -> Self {
        Self::invalid(404, Some("resource_missing"), format!("No such {what}: '{id}'")).about(param)
    }

    pub(super) fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn with(mut self, field: &str, value: Value) -> Self {
        self.more.get_or_insert_default().insert(field.to_owned(), value);
        self
    }

    /// Whether the parameters were refused before anything was executed; such an answer is not stored.
    pub(super) fn is_validation(&self) -> bool {
        self.code.is_some_and(|code| code.starts_with("parameter_"))
    }

    /// The body of the answer to `request_id`.
    pub(super) fn body(&self, request_id: &str, livemode: bool, now_s: i64) -> Value {
        let mut error = self.more.as_deref().cloned().unwrap_or_default();
        error.insert("type".to_owned(), json!(self.kind));
        error.insert("message".to_owned(), json!(self.message));
        if let Some(code) = self.code {
            error.insert("code".to_owned(), json!(code));
            let page = code.replace('_', "-");
            error.insert("doc_url".to_owned(), json!(format!("https://stripe.com/docs/error-codes/{page}")));
        }
        if let Some(param) = &self.param {
            error.insert("param".to_owned(), json!(param));
        }
        let mode = if livemode { "" } else { "test/" };
        let log = format!("https://dashboard.stripe.com/{mode}logs/{request_id}?t={now_s}");
        error.insert("request_log_url".to_owned(), json!(log));
        json!({ "error": error })
    }
}
