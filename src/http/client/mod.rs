//! The API for websites and apps of owners: what a browser or a phone may say with a public key
//! (`X-Api-Key: rk_client_…`), without a session. It says things and reads nothing.
//!
//! Any website may call it, so that a click is told from the page it leads to.

mod touchpoints;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use utoipa_axum::router::OpenApiRouter;

use super::{
    address::network,
    auth::origin,
    error::ApiError,
    idempotency,
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
    idempotency::around(touchpoints::router(), &client.app)
        .route_layer(middleware::from_fn_with_state(client.clone(), let_in))
        .layer(middleware::from_fn(any_origin))
        .with_state(client)
}

impl Client {
    /// Refuses a visitor of a key that says too much.
    fn limit(&self, by: &Principal, visitors: [Option<&str>; 2]) -> Result<(), ApiError> {
        let now = self.app.now();
        let key = by.actor();
        let mut allowed = Ok(());
        for visitor in visitors.into_iter().flatten() {
            // Longer than any id: refused later, and not kept in mind.
            if visitor.len() <= 1_000 {
                allowed = allowed
                    .and_then(|()| self.limits.visitors.take((key.to_owned(), visitor.to_owned()), now));
            }
        }
        allowed.map_err(too_many)
    }
}

fn too_many(seconds: u32) -> ApiError {
    let message = "too many requests; come back later";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(seconds)
}

/// Lets in who holds a key, as [`Principal`] in the extensions, unless the key or the address it comes from says too much.
/// That is asked before anything of the request is written down.
async fn let_in(
    State(client): State<Client>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // A browser asks whether it may ask without the key that it would ask with.
    if request.method() == Method::OPTIONS {
        return Ok(next.run(request).await);
    }
    let now = client.app.now();
    // Before the key is looked at: to guess at keys is limited, too.
    let trusted = &client.app.config.server.trusted_proxies;
    let address = network(request.extensions(), request.headers(), trusted);
    client.limits.addresses.take(address, now).map_err(too_many)?;
    let by = holder(&client.app, request.headers()).await?;
    client.limits.keys.take(by.actor().to_owned(), now).map_err(too_many)?;
    request.extensions_mut().insert(by);
    Ok(next.run(request).await)
}

/// Who holds the key in `X-Api-Key`.
async fn holder(app: &App, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let refused = || {
        let message = "send a valid client key as `X-Api-Key: rk_client_…`";
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message)
    };
    let key = api_key(headers).ok_or_else(refused)?;
    let found = authenticate(app, key).await.map_err(|error| match error {
        AuthError::Unauthenticated => refused(),
        AuthError::Store(error) => Refusal::Store(error).into(),
    })?;
    Ok(found.within(origin()))
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
        let allowed = HeaderValue::from_static("x-api-key, content-type, idempotency-key");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    } else {
        let shown = HeaderValue::from_static("retry-after, idempotent-replayed");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
    response
}
