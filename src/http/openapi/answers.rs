//! Refusals as the description names them, so that no route repeats their form.
//!
//! [`super::described`] puts most of them where they belong. A route names the others by itself:
//! `(status = 404, response = NotFound)`.

use serde_json::{Value, json};
use utoipa::{ToResponse, openapi::Ref, openapi::RefOr, openapi::Response};

/// Status, name and meaning of each refusal.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("400", "Invalid", "The request is not what this route takes; `param` names the field."),
    ("401", "Unauthenticated", "There is no key, or none that works."),
    ("403", "Forbidden", "The key may not do this."),
    ("404", "NotFound", "There is no such object, or it belongs to somebody else."),
    ("408", "RequestTimeout", "The body took too long to arrive."),
    (
        "409",
        "Conflict",
        "It contradicts what is there, or the same request is still under way: then there is a \
        `Retry-After`.",
    ),
    ("413", "PayloadTooLarge", "The body is too large."),
    ("415", "UnsupportedEncoding", "The body is encoded, and this route takes it plain."),
    ("422", "IdempotencyMismatch", "The Idempotency-Key was used with another request."),
    ("429", "TooManyRequests", "Too many requests; `Retry-After` says when to come back."),
    ("500", "Internal", "Something went wrong on our side."),
    ("503", "Unavailable", "Not now: switched off, overloaded, or the store does not answer."),
];

/// The name of the refusal of a status.
pub(super) fn name_of(status: &str) -> &'static str {
    REFUSALS.iter().find(|(of, ..)| *of == status).map_or("Internal", |(_, name, _)| name)
}

/// Every refusal, for `components.responses`.
pub(super) fn components() -> Value {
    let refusal = |(status, name, description): &(&str, &str, &str)| {
        let mut response = json!({
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
        });
        if matches!(*status, "409" | "429" | "503") {
            response["headers"] = json!({"Retry-After": {
                "description": "Seconds to wait, where that is known.",
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        if *status == "401" {
            response["headers"] = json!({"WWW-Authenticate": {"schema": {"type": "string"}}});
        }
        ((*name).to_owned(), response)
    };
    Value::Object(REFUSALS.iter().map(refusal).collect())
}

/// The header that makes a change safe to repeat: of those with an API key of their own, and of the others,
/// for `components.parameters`.
pub(super) fn idempotency_keys() -> Value {
    let key = |least: u8, description: &str| {
        json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": format!("{description} The same request with the same key is carried out once, and \
                is answered the same for 24 hours."),
            "schema": {"type": "string", "minLength": least, "maxLength": 255, "pattern": "^[ -~]+$"},
        })
    };
    json!({
        "IdempotencyKey": key(1, "1 to 255 printable ASCII characters of the caller's own."),
        "RandomIdempotencyKey": key(32, "32 to 255 printable ASCII characters, chosen at random, such as a UUID: \
            strangers share this route."),
    })
}

/// The header of an answer that was given before.
pub(super) fn replayed() -> Value {
    json!({
        "description": "The answer is the one that the same request under this `Idempotency-Key` was given. \
            What is shown once is null.",
        "schema": {"type": "string", "const": "true"},
    })
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        pub struct $name;

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                let name = stringify!($name);
                (name, RefOr::Ref(Ref::from_response_name(name)))
            }
        }
    )+};
}

refusals! {
    /// 403 of a route that needs no key and may be switched off.
    Forbidden
    /// 404 of a route whose body names the object.
    NotFound
    /// 408 of a route whose bodies may come slowly.
    RequestTimeout
    /// 413 of a route that reads its body by itself.
    PayloadTooLarge
    /// 415.
    UnsupportedEncoding
    /// 429 of a route with a limit on its callers.
    TooManyRequests
}
