//! What needs no key: `POST /v1/public/affiliate/signup` (seed S0, "They're brand new").

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::post,
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    admin::Data,
    body::Body,
    error::ApiError,
    serve::Peer,
    throttle::{Rate, Throttle, client},
};
use crate::{
    app::{
        App,
        signup::{self, NewAccount, SignedUp},
    },
    domain::ids::{AccountId, OrganizationId},
};

/// A person signs up once; an office may share an address.
const EACH: Rate = Rate { burst: 5, refill_s: 60 };
/// Each signup is a transaction, and SQLite has one writer.
const ALL: Rate = Rate { burst: 60, refill_s: 1 };

#[derive(Clone)]
struct Public {
    app: App,
    signups: Arc<Throttle>,
}

/// The routes, with the memory of who asked how often.
pub fn routes(app: &App) -> Router {
    let public = Public { app: app.clone(), signups: Arc::new(Throttle::new(EACH, ALL)) };
    Router::new().route("/v1/public/affiliate/signup", post(sign_up)).with_state(public)
}

/// Who asks, as far as it can be known.
struct Client(IpAddr);

impl FromRequestParts<Public> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, public: &Public) -> Result<Self, Infallible> {
        // Without a connection, as in a test of the routes, everybody is the same client.
        let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        Ok(Self(client(peer, &parts.headers, &public.app.config.server.trusted_proxies)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignupRequest {
    email: String,
    name: String,
    organization_name: Option<String>,
}

#[derive(Serialize)]
struct SignupView {
    account: AccountView,
    organization: OrganizationView,
    /// Shown this once.
    key: String,
    /// To be pasted into the configuration of an MCP client.
    mcp_config: Value,
}

#[derive(Serialize)]
struct AccountView {
    id: AccountId,
    email: String,
    name: String,
}

#[derive(Serialize)]
struct OrganizationView {
    id: OrganizationId,
    name: String,
}

impl SignupView {
    fn new(signed_up: SignedUp, public_url: &str) -> Self {
        let SignedUp { account, organization, key } = signed_up;
        let key = key.expose_secret().to_owned();
        Self {
            account: AccountView { id: account.id, email: account.email, name: account.name },
            organization: OrganizationView { id: organization.id, name: organization.name },
            mcp_config: json!({"mcpServers": {"remit": {
                "url": format!("{public_url}/mcp"),
                "headers": {"Authorization": format!("Bearer {key}")},
            }}}),
            key,
        }
    }
}

async fn sign_up(
    State(public): State<Public>,
    Client(client): Client,
    Body(request): Body<SignupRequest>,
) -> Result<Response, ApiError> {
    let SignupRequest { email, name, organization_name } = request;
    public.signups.take(client, public.app.now()).map_err(|seconds| {
        let message = "too many signups; come back later";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(seconds)
    })?;
    let signed_up = signup::sign_up(&public.app, NewAccount { email, name, organization_name }).await?;
    let view = SignupView::new(signed_up, &public.app.config.server.public_url);
    // The answer holds a key: nothing on the way may keep it.
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(Data { data: view })).into_response())
}
