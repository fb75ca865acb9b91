//! The API for websites and apps of owners: what a browser or a phone may say with a public key
//! (`X-Api-Key: rk_client_…`), without a session. It says things and reads nothing.
//!
//! Any website may call it, so that a click is told from the page it leads to.

mod touchpoints;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::Response,
};
use utoipa_axum::router::OpenApiRouter;

use super::{
    address::network,
    auth::origin,
    error::ApiError,
    rate::{Limiter, Rate},
};
use crate::app::{
    App, Refusal,
    clicks::Clicks,
    keys::{AuthError, Principal, authenticate},
};

/// One key is a whole website or app.
const OF_KEY: Rate = Rate { burst: 400, refill_ms: 5 };

/// One visitor clicks, signs in, and that is it.
const OF_VISITOR: Rate = Rate { burst: 20, refill_ms: 1_000 };

/// Everybody behind one address: an office, a school, a mobile network, or a website's own backend that
/// tells for all of its visitors.
pub(super) const OF_ADDRESS: Rate = Rate { burst: 600, refill_ms: 20 };

/// Keys, visitors or addresses kept in mind for their limits.
pub(super) const CALLERS_MAX: usize = 100_000;

/// What the handlers share.
#[derive(Clone)]
struct Client {
    app: App,
    clicks: Clicks,
    limits: Arc<Limits>,
}

struct Limits {
    addresses: Limiter<IpAddr>,
    keys: Limiter<String>,
    visitors: Limiter<(String, String)>,
}

/// The routes of the client API.
pub fn routes(app: App, clicks: Clicks) -> OpenApiRouter {
    let limits = Limits {
        addresses: Limiter::new(OF_ADDRESS, CALLERS_MAX),
        keys: Limiter::new(OF_KEY, CALLERS_MAX),
        visitors: Limiter::new(OF_VISITOR, CALLERS_MAX),
    };
    let client = Client { app, clicks, limits: Arc::new(limits) };
    touchpoints::router().layer(middleware::from_fn(any_origin)).with_state(client)
}

impl Client {
    /// Refuses a key, or a visitor of it, that says too much.
    fn limit(&self, by: &Principal, visitors: [Option<&str>; 2]) -> Result<(), ApiError> {
        let now = self.app.now();
        let key = by.actor().to_owned();
        let mut allowed = self.limits.keys.take(key.clone(), now);
        for visitor in visitors.into_iter().flatten() {
            // Longer than any id: refused later, and not kept in mind.
            if visitor.len() <= 1_000 {
                allowed =
                    allowed.and_then(|()| self.limits.visitors.take((key.clone(), visitor.to_owned()), now));
            }
        }
        allowed.map_err(too_many)
    }
}

fn too_many(seconds: u32) -> ApiError {
    let message = "too many requests; come back later";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(seconds)
}

/// Who holds the key in `X-Api-Key`, if their address has not asked too often.
struct KeyHolder(Principal);

impl FromRequestParts<Client> for KeyHolder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, client: &Client) -> Result<Self, ApiError> {
        let refused = || {
            let message = "send a valid client key as `X-Api-Key: rk_client_…`";
            ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message)
        };
        // Before the key is looked at: to guess at keys is limited, too.
        let trusted = &client.app.config.server.trusted_proxies;
        let address = network(&parts.extensions, &parts.headers, trusted);
        client.limits.addresses.take(address, client.app.now()).map_err(too_many)?;
        let key = api_key(&parts.headers).ok_or_else(refused)?;
        let by = authenticate(&client.app, key).await.map_err(|error| match error {
            AuthError::Unauthenticated => refused(),
            AuthError::Store(error) => Refusal::Store(error).into(),
        })?;
        Ok(Self(by.within(origin())))
    }
}

/// The one `X-Api-Key` header.
fn api_key(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("x-api-key").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok().map(str::trim)
}

/// Lets pages of every origin call. There is no cookie and no session that another page could misuse:
/// the key is in the request, and it is public (Fetch standard, "CORS protocol").
async fn any_origin(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if is_preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        let allowed = HeaderValue::from_static("x-api-key, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    response
}
