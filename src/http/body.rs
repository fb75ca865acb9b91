//! JSON request bodies: read strictly, refused with the name of the field, never echoed.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// More than any request of the API holds.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A JSON document as the request body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read(&bytes(request).await?).map(Self)
    }
}

/// A JSON document as the request body, or no body at all: then every field is at its default.
#[derive(Debug)]
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { read(&bytes).map(Self) }
    }
}

/// The whole body of a request, within the limit that all have.
pub(super) async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
        let message = "the body is larger than 65536 bytes, or did not arrive whole";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    })
}

fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let refuse = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "INVALID_BODY", message);
    // A list of values would be read as the fields in their order, which nobody who sends one means.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(refuse("the body must be a JSON object".to_owned()));
    }
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut document).map_err(|error| {
        // The parser's own message may quote the value, and the value may be a secret.
        let inner = error.inner();
        if !inner.is_data() {
            return refuse(format!(
                "the body is not valid JSON at line {} column {}",
                inner.line(),
                inner.column()
            ));
        }
        let message = inner.to_string();
        if let Some(field) = quoted_after(&message, "unknown field `") {
            return refuse(format!("the field `{field}` is not known here")).with_param(field);
        }
        if let Some(field) = quoted_after(&message, "missing field `") {
            return refuse(format!("the field `{field}` is needed")).with_param(field);
        }
        let path = error.path().to_string();
        if path == "." {
            return refuse("the body must be a JSON object".to_owned());
        }
        refuse(format!("the field `{path}` has the wrong type or form")).with_param(path)
    })?;
    document.end().map_err(|_| refuse("there is more after the JSON document".to_owned()))?;
    Ok(value)
}

/// The name between `start` and the next backtick, cut to what is sensible to repeat.
fn quoted_after(message: &str, start: &str) -> Option<String> {
    let (name, _) = message.strip_prefix(start)?.split_once('`')?;
    Some(name.chars().filter(|c| !c.is_control()).take(64).collect())
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use http_body_util::BodyExt as _;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        name: String,
        #[expect(dead_code, reason = "only its type matters")]
        count: Option<u8>,
    }

    async fn refused(body: &'static str) -> String {
        let error = read::<Wanted>(&Bytes::from_static(body.as_bytes())).unwrap_err();
        assert_eq!((error.status(), error.code()), (StatusCode::BAD_REQUEST, "INVALID_BODY"), "{body}");
        let bytes = error.into_response().into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_never_the_value() {
        for (body, expected) in [
            (r#"{"name":"a","colour":"hunter2"}"#, r#""param":"colour""#),
            (r#"{"count":1}"#, r#""param":"name""#),
            (r#"{"name":"a","count":"hunter2"}"#, r#""param":"count""#),
            (r#"{"name":["hunter2"]}"#, r#""param":"name""#),
            (r#""hunter2""#, "must be a JSON object"),
            (r#" ["hunter2", 1]"#, "must be a JSON object"),
            (r#"{"name":"hunter2""#, "not valid JSON at line 1"),
            (r#"{"name":"a"} hunter2"#, "more after"),
            ("", "not valid JSON"),
        ] {
            let answer = refused(body).await;
            assert!(answer.contains(expected), "{body} gave {answer}");
            assert!(!answer.contains("hunter2"), "{answer}");
        }
    }

    #[test]
    fn a_document_that_fits_is_read() {
        let read: Wanted = read(&Bytes::from_static(br#" {"name":"a"} "#)).unwrap();
        assert_eq!(read.name, "a");
    }
}
