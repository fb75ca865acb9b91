//! What an answer shows once: the text of a key, a token. It is in the answer that made it, and null in
//! every copy: [`ShownOnce`] serialises as null, and only [`Once`] reveals it, on its way to the caller.
//! An answer that forgets [`Once`] shows null, so a mistake is seen at once and leaks nothing.

use std::{cell::Cell, fmt};

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use super::error::ApiError;

thread_local! {
    /// Whether this thread is writing the one copy that shows everything. Serialising never waits, so the
    /// mark is seen by nobody else.
    static REVEALING: Cell<bool> = const { Cell::new(false) };
}

/// A value that only the first answer shows.
#[derive(Clone)]
pub struct ShownOnce<T>(pub T);

impl<T> fmt::Debug for ShownOnce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShownOnce(..)")
    }
}

impl<T: Serialize> Serialize for ShownOnce<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if REVEALING.get() { self.0.serialize(serializer) } else { serializer.serialize_none() }
    }
}

/// An answer with something that is shown once. Its copy without it is what is kept for a replay.
#[derive(Debug)]
pub struct Once<T>(pub StatusCode, pub T);

/// The body as it may be kept; beside the answer, for whoever keeps answers.
#[derive(Clone, Debug)]
pub(super) struct Kept(pub Bytes);

impl<T: Serialize> IntoResponse for Once<T> {
    fn into_response(self) -> Response {
        let Self(status, answer) = self;
        REVEALING.set(true);
        let shown = serde_json::to_vec(&answer);
        REVEALING.set(false);
        let (Ok(shown), Ok(kept)) = (shown, serde_json::to_vec(&answer)) else {
            return ApiError::internal().into_response();
        };
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (status, json, shown).into_response();
        response.extensions_mut().insert(Kept(kept.into()));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Made {
        id: &'static str,
        key: ShownOnce<&'static str>,
    }

    #[tokio::test]
    async fn the_answer_shows_it_and_every_copy_has_null() {
        let made = Made { id: "key_1", key: ShownOnce("hunter2") };
        assert_eq!(serde_json::to_value(&made).unwrap(), json!({"id": "key_1", "key": null}));
        assert!(!format!("{:?}", made.key).contains("hunter2"));
        let response = Once(StatusCode::CREATED, made).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let kept = response.extensions().get::<Kept>().unwrap().0.clone();
        let shown = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&shown[..], br#"{"id":"key_1","key":"hunter2"}"#);
        assert_eq!(&kept[..], br#"{"id":"key_1","key":null}"#);
    }
}
