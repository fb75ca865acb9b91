//! What needs no key: `POST /v1/public/affiliate/signup` (seed S0, "They're brand new").

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    Extension,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    address::network,
    admin::Data,
    auth::origin,
    body::Body,
    error::ApiError,
    idempotency,
    once::{Once, ShownOnce},
    openapi::{
        answers::{Forbidden, TooManyRequests},
        schemas::{Email, Name},
    },
    rate::{Limiter, Rate},
};
use crate::{
    app::{
        App,
        keys::Principal,
        signup::{self, NewAccount, SignedUp},
    },
    domain::ids::{AccountId, OrganizationId},
};

/// A person signs up once; an office may share an address.
const EACH: Rate = Rate { burst: 5, refill_ms: 60_000 };
/// Each signup is a transaction, and SQLite has one writer.
const ALL: Rate = Rate { burst: 60, refill_ms: 1_000 };
/// Clients kept in mind; [`ALL`] lets fewer through while one bucket fills.
const CLIENTS_MAX: usize = 1_024;

#[derive(Clone)]
struct Public {
    app: App,
    signups: Arc<Limiter<IpAddr>>,
}

/// The routes, with the memory of who asked how often.
pub fn routes(app: App) -> OpenApiRouter {
    let public = Public { app, signups: Arc::new(Limiter::new(EACH, CLIENTS_MAX).together(ALL)) };
    idempotency::around(OpenApiRouter::new().routes(routes!(sign_up)), &public.app)
        .route_layer(middleware::from_fn_with_state(public.clone(), limited))
        .with_state(public)
}

/// Lets a stranger in who does not ask too often, before anything of the request is written down.
async fn limited(
    State(public): State<Public>,
    Client(client): Client,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    public.signups.take(client, public.app.now()).map_err(|seconds| {
        let message = "too many signups; come back later";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(seconds)
    })?;
    request.extensions_mut().insert(Principal::anonymous().within(origin()));
    Ok(next.run(request).await)
}

/// From where it is asked, as far as it can be known.
struct Client(IpAddr);

impl FromRequestParts<Public> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, public: &Public) -> Result<Self, Infallible> {
        Ok(Self(network(&parts.extensions, &parts.headers, &public.app.config.server.trusted_proxies)))
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignupRequest {
    #[schema(value_type = Email)]
    email: String,
    #[schema(value_type = Name)]
    name: String,
    /// By default `name`.
    #[schema(value_type = Option<Name>)]
    organization_name: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SignedUp)]
struct SignupView {
    account: AccountView,
    organization: OrganizationView,
    /// Shown this once; null when the request is sent again under its `Idempotency-Key`.
    #[schema(value_type = Option<String>)]
    key: ShownOnce<String>,
    /// To be pasted into the configuration of an MCP client. It holds the key and is shown as often.
    #[schema(value_type = Option<Object>)]
    mcp_config: ShownOnce<Value>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SignedUpAccount)]
struct AccountView {
    id: AccountId,
    email: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SignedUpOrganization)]
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
            mcp_config: ShownOnce(json!({"mcpServers": {"remit": {
                "url": format!("{public_url}/mcp"),
                "headers": {"Authorization": format!("Bearer {key}")},
            }}})),
            key: ShownOnce(key),
        }
    }
}

/// Makes an account with an organization of its own and a key for it.
#[utoipa::path(
    post, path = "/v1/public/affiliate/signup",
    operation_id = "signUp", tag = "public",
    request_body = SignupRequest,
    security(()),
    responses((status = 201, description = "Who signed up. The key is shown this once.", body = Data<SignupView>),
        (status = 403, response = Forbidden), (status = 429, response = TooManyRequests))
)]
async fn sign_up(
    State(public): State<Public>,
    Extension(by): Extension<Principal>,
    Body(request): Body<SignupRequest>,
) -> Result<impl IntoResponse, ApiError> {
    let SignupRequest { email, name, organization_name } = request;
    let signed_up = signup::sign_up(&public.app, &by, NewAccount { email, name, organization_name }).await?;
    let data = SignupView::new(signed_up, &public.app.config.server.public_url);
    // The answer holds a key: nothing on the way may keep it.
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Once(StatusCode::CREATED, Data { data })))
}
