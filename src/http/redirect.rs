//! `GET /r/{code}` and `GET /r/{project_id}/{code}`: an affiliate's link, for people.
//!
//! The browser keeps an id in a cookie of this server, and the landing page gets the anonymous id that follows
//! from it with the code, so that the owner's website can name it when it sells.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, RawPathParams, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    address::network,
    client::{CALLERS_MAX, OF_ADDRESS},
    error::ApiError,
    openapi::schemas::ReferralCode,
    rate::{Limiter, Rate},
};
use crate::{
    app::{App, clicks::Clicks, redirect},
    domain::ids::{EnrollmentId, ProjectId},
    telemetry::names,
};

/// The cookie with the browser's id.
const COOKIE: &str = "remit_anon";

/// A year, seconds.
const COOKIE_MAX_AGE_S: u32 = 31_536_000;

/// Clicks of one code that are written down. More than a campaign brings; a script that asks for the same
/// link over and over is forwarded and not counted.
const OF_CODE: Rate = Rate { burst: 500, refill_ms: 20 };

#[derive(Clone)]
struct Links {
    app: App,
    clicks: Clicks,
    limits: Arc<Limits>,
}

struct Limits {
    addresses: Limiter<IpAddr>,
    /// By whose code it is: the same text is another code for another owner.
    codes: Limiter<(EnrollmentId, String)>,
}

/// The redirect routes.
pub fn routes(app: App, clicks: Clicks) -> OpenApiRouter {
    let limits = Limits {
        addresses: Limiter::new(OF_ADDRESS, CALLERS_MAX),
        codes: Limiter::new(OF_CODE, CALLERS_MAX),
    };
    OpenApiRouter::new().routes(routes!(follow)).routes(routes!(follow_of_project)).with_state(Links {
        app,
        clicks,
        limits: Arc::new(limits),
    })
}

/// How somebody follows a link.
struct Visit {
    method: Method,
    headers: HeaderMap,
    /// From where, as far as it can be known.
    address: IpAddr,
}

impl FromRequestParts<Links> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, links: &Links) -> Result<Self, Infallible> {
        let trusted = &links.app.config.server.trusted_proxies;
        let address = network(&parts.extensions, &parts.headers, trusted);
        Ok(Self { method: parts.method.clone(), headers: parts.headers.clone(), address })
    }
}

impl Links {
    /// Whether a click is more than are counted of its address or its code.
    fn is_too_much(&self, visit: &Visit, destination: &redirect::Destination) -> bool {
        let now = self.app.now();
        self.limits.addresses.take(visit.address, now).is_err()
            || self.limits.codes.take(destination.link(), now).is_err()
    }
}

/// Leads a visitor to the landing page of an affiliate's program, and counts the click.
#[utoipa::path(
    get, path = "/r/{code}",
    operation_id = "followLink", tag = "links", security(()),
    params(("code" = ReferralCode, Path)),
    responses((status = 302, description = "To the landing page.",
        headers(("location" = String), ("set-cookie" = String, description = "The visitor's anonymous id."))))
)]
async fn follow(State(links): State<Links>, path: RawPathParams, visit: Visit) -> Result<Response, ApiError> {
    forward(&links, &path, &visit).await
}

/// The same where the code alone does not say whose it is.
#[utoipa::path(
    get, path = "/r/{project_id}/{code}",
    operation_id = "followLinkOfProject", tag = "links", security(()),
    params(("project_id" = ProjectId, Path), ("code" = ReferralCode, Path)),
    responses((status = 302, description = "To the landing page.",
        headers(("location" = String), ("set-cookie" = String, description = "The visitor's anonymous id."))))
)]
async fn follow_of_project(
    State(links): State<Links>,
    path: RawPathParams,
    visit: Visit,
) -> Result<Response, ApiError> {
    forward(&links, &path, &visit).await
}

async fn forward(links: &Links, path: &RawPathParams, visit: &Visit) -> Result<Response, ApiError> {
    let named = |name| path.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    let code = named("code").ok_or_else(ApiError::not_found)?;
    let destination = redirect::resolve(&links.app, named("project_id"), code).await?;
    let browser = redirect::browser_id(cookie(&visit.headers));
    let anonymous_id = destination.visitor(&browser);
    let outcome = if !destination.counts() || visit.method == Method::HEAD || is_prefetch(&visit.headers) {
        "not_counted"
    } else if links.is_too_much(visit, &destination) {
        "limited"
    } else if redirect::count(&links.clicks, &destination, &anonymous_id).await {
        "counted"
    } else {
        "lost"
    };
    metrics::counter!(names::REDIRECTS, "outcome" => outcome).increment(1);

    let secure = if destination.is_https() { "; Secure" } else { "" };
    let set_cookie =
        format!("{COOKIE}={browser}; Max-Age={COOKIE_MAX_AGE_S}; Path=/r; HttpOnly; SameSite=Lax{secure}");
    let mut response = StatusCode::FOUND.into_response();
    let answer = response.headers_mut();
    let location = HeaderValue::from_str(&destination.address(&anonymous_id));
    answer.insert(header::LOCATION, location.map_err(|_| ApiError::internal())?);
    if let Ok(value) = HeaderValue::from_str(&set_cookie) {
        answer.insert(header::SET_COOKIE, value);
    }
    // Each click is one of its own, and whose it is stands in the address.
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The value of our cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Whether a browser asks in advance, without anybody having clicked (`Sec-Purpose`, and the older
/// `Purpose` and `X-Moz` of the same meaning).
fn is_prefetch(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-moz"].into_iter().any(|name| {
        headers.get_all(name).iter().any(|value| {
            value.to_str().is_ok_and(|text| {
                let text = text.to_ascii_lowercase();
                text.contains("prefetch") || text.contains("preview") || text.contains("prerender")
            })
        })
    })
}
