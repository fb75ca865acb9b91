//! The one door to the providers' APIs: sends the bytes of a request once and says whether they left and
//! whether a whole answer came back.
//!
//! It never sends twice, follows no redirect, asks no proxy of the environment and reuses no connection,
//! so one call is at most one request on the wire (`rulings.md` 16). What an answer means is the
//! provider's business (`providers::outbound`), and when to try again is that of `app::dispatch`. No URL,
//! header or body ever reaches a log line or an error text.

use std::{error::Error, time::Duration};

use reqwest::{
    Client, Request, Response, Url,
    header::{
        AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
    },
    redirect,
};
use secrecy::ExposeSecret as _;

use crate::{
    config,
    providers::outbound::{ApiRequest, ApiResponse, Method, Reply},
};

/// Longest time to a connection that is ready, TLS included. Shorter than any useful deadline, because a
/// connection that never came up is known to have carried nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest answer that is read. A page of a hundred objects takes about half of it.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Longest id of a request that is kept, bytes.
const REQUEST_ID_BYTES_MAX: usize = 255;

const USER_AGENT: &str = concat!("remit/", env!("CARGO_PKG_VERSION"));
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
const VERSION: HeaderName = HeaderName::from_static("stripe-version");

/// No request can be sent with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The key cannot be written into a header.
    #[error("the secret key holds characters that no key has")]
    Key,
    /// The HTTP client could not be made, most often because the machine has no CA certificates.
    #[error("cannot make an HTTPS client: {0}")]
    Client(String),
}

/// Sends requests to one provider with one key. Cheap to clone; `Debug` shows no key.
#[derive(Clone, Debug)]
pub struct Transport {
    client: Client,
    api_base: String,
    /// Marked sensitive.
    authorization: HeaderValue,
}

impl Transport {
    /// The door to the API of `section`, or none where no key is configured.
    ///
    /// # Errors
    /// [`TransportError`] when nothing could ever be sent.
    pub fn new(section: &config::Stripe) -> Result<Option<Self>, TransportError> {
        let Some(key) = &section.secret_key else { return Ok(None) };
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
            .map_err(|_| TransportError::Key)?;
        authorization.set_sensitive(true);
        let client = client(&section.api_base).map_err(|error| TransportError::Client(reason(&error)))?;
        Ok(Some(Self { client, api_base: section.api_base.clone(), authorization }))
    }

    /// Makes one call, which ends after `deadline` at the latest.
    ///
    /// Dropping the future cuts the connection; whether the request had left by then is not known.
    pub async fn call(&self, request: &ApiRequest, api_version: &str, deadline: Duration) -> Reply {
        let Some(mut prepared) = self.prepare(request, api_version) else {
            // A fault of ours. It is not hidden, and nothing was sent.
            tracing::error!("a request to the provider cannot be written and was not sent");
            return Reply::NotSent;
        };
        if deadline.is_zero() {
            return Reply::NotSent;
        }
        *prepared.timeout_mut() = Some(deadline);
        match self.client.execute(prepared).await {
            Ok(response) => read(response).await,
            // Raised while the connection is made, before it is given the request. An error of any other
            // kind, our own deadline included, leaves open what was written.
            Err(error) if error.is_connect() => {
                tracing::warn!(reason = reason(&error), "the provider cannot be reached; nothing was sent");
                Reply::NotSent
            }
            Err(error) => lost(&error),
        }
    }

    /// The request as it goes out. `None` if it would not go exactly where it says.
    fn prepare(&self, request: &ApiRequest, api_version: &str) -> Option<Request> {
        // A path that starts otherwise could change the host.
        if !request.path.starts_with('/') {
            return None;
        }
        let url = Url::parse(&format!("{}{}", self.api_base, request.path)).ok()?;
        // One that is not in its final form, such as `/v1/../`, would be tidied up on the way.
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        if format!("{}{query}", url.path()) != request.path {
            return None;
        }
        let builder = match request.method {
            Method::Get => self.client.get(url),
            Method::Post => self.client.post(url).header(CONTENT_TYPE, FORM).body(request.body.clone()),
        };
        let builder = builder.header(AUTHORIZATION, self.authorization.clone()).header(VERSION, api_version);
        match &request.idempotency_key {
            Some(key) => builder.header(IDEMPOTENCY_KEY, key),
            None => builder,
        }
        .build()
        .ok()
    }
}

fn client(api_base: &str) -> Result<Client, reqwest::Error> {
    // Only the first call of a process installs it. The provider is `ring` either way.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT);
    // Plain HTTP (a sandbox on this machine) asks for no certificates, so none need be installed.
    if api_base.starts_with("http://") { builder.tls_certs_only([]).build() } else { builder.build() }
}

/// Reads an answer to its end.
async fn read(mut response: Response) -> Reply {
    if !is_length_told(&response) {
        // Such an answer ends when the connection does, and nobody can tell the end from a cut.
        tracing::warn!("the provider answered without a length; the answer is not used");
        return Reply::Lost;
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                tracing::warn!("the provider's answer is too long and is not used");
                return Reply::Lost;
            }
            Ok(None) => break,
            Err(error) => return lost(&error),
        }
    }
    let headers = response.headers();
    Reply::Answered(ApiResponse {
        status: response.status().as_u16(),
        request_id: text(headers, &REQUEST_ID).and_then(request_id),
        replayed: text(headers, &IDEMPOTENT_REPLAYED) == Some("true"),
        should_retry: text(headers, &SHOULD_RETRY).and_then(|text| text.parse().ok()),
        retry_after_s: text(headers, &RETRY_AFTER).and_then(seconds),
        body,
    })
}

/// Whether the end of the body can be told from a cut.
fn is_length_told(response: &Response) -> bool {
    let coding = response.headers().get_all(TRANSFER_ENCODING).iter().next_back();
    let is_chunked =
        coding.is_some_and(|coding| coding.as_bytes().to_ascii_lowercase().ends_with(b"chunked"));
    is_chunked || response.content_length().is_some()
}

fn lost(error: &reqwest::Error) -> Reply {
    tracing::warn!(reason = reason(error), "no whole answer of the provider; it may have acted");
    Reply::Lost
}

/// Why a call failed: the causes, without the error on top, which would show the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if causes.is_empty() { "unknown".to_owned() } else { causes.join(": ") }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An id that is safe in a log and a database.
fn request_id(text: &str) -> Option<String> {
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len());
    (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

/// Whole seconds; a date is not understood (RFC 9110 allows both).
fn seconds(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
