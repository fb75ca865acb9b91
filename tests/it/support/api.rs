//! The admin API over a database, as a caller sees it.

use std::{io, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        App,
        clicks::{self, Clicks},
        keys::{self, KeyKind, NewKey, Principal},
        store_events,
    },
    clock::ManualClock,
    config::Config,
    domain::{ids::OrganizationId, time::Timestamp},
    http::{self, edge, openapi, webhooks},
    store::Db,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::described::checked;

/// What the clock of [`Api`] shows at first.
pub const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);
/// Where programs are.
pub const PROGRAMS: &str = "/v1/admin/affiliate/programs";

/// The API over a database, with a clock that stands still.
pub struct Api {
    pub app: App,
    pub clock: ManualClock,
    pub router: Router,
    /// A key that may do everything.
    pub operator: String,
}

/// The routes of the public listener, held to their description. Without the receiver.
pub async fn public(app: &App) -> Router {
    let clicks = Clicks::start(app, clicks::LIMITS, &TaskTracker::new());
    checked(edge(openapi::described(http::api(app, &clicks)), &TaskTracker::new())).await
}

/// As [`public`], with the receiver, to be looked at and not called.
pub fn with_receiver(app: &App) -> Router {
    let (receiver, _) = store_events::start_receiver(app, &TaskTracker::new());
    let clicks = Clicks::start(app, clicks::LIMITS, &TaskTracker::new());
    openapi::described(http::api(app, &clicks).merge(webhooks::routes(receiver, 1024)))
}

/// The configuration of these variables.
pub fn config(env: &[(&str, &str)]) -> Arc<Config> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Arc::new(Config::load(None, env, [], |_| Err(io::ErrorKind::NotFound.into())).unwrap())
}

/// A key of the kind that seals, as an operator would write it.
pub const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// A master key that opens nothing sealed with [`MASTER_KEY`].
pub const OTHER_MASTER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

impl Api {
    /// With a master key.
    pub async fn new(db: &Db) -> Self {
        Self::with(db, &[("REMIT_SECRETS__MASTER_KEY", MASTER_KEY)]).await
    }

    /// With these variables.
    pub async fn with(db: &Db, env: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(NOW);
        let app = App::new(db.clone(), config(env), Arc::new(clock.clone()));
        let router = public(&app).await;
        let operator = key(&app, KeyKind::Operator, None).await;
        Self { app, clock, router, operator }
    }

    /// One request; the answer is null where it is not JSON.
    pub async fn call(&self, key: &str, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(body)
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Makes something and gives its `data`.
    #[track_caller]
    pub fn create<'a>(
        &'a self,
        key: &'a str,
        path: &'a str,
        body: Value,
    ) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let (status, mut answer) = self.call(key, Method::POST, path, &body).await;
            assert!(status.is_success(), "{caller}: {status} {answer}");
            answer["data"].take()
        }
    }

    /// The status and code of a refusal.
    pub async fn refusal(&self, key: &str, method: Method, path: &str, body: &Value) -> (u16, String) {
        let (status, answer) = self.call(key, method, path, body).await;
        (status.as_u16(), answer["error"]["code"].as_str().unwrap_or("none").to_owned())
    }

    /// An organization with a key of its own.
    pub async fn tenant(&self, name: &str) -> (String, String) {
        let organization =
            self.create(&self.operator, "/v1/admin/organizations", json!({"name": name})).await;
        let id = organization["id"].as_str().unwrap().to_owned();
        let key = key(&self.app, KeyKind::Organization, Some(OrganizationId::parse(&id).unwrap())).await;
        (id, key)
    }

    /// An active program of the organization of the key, 20 % of gross.
    pub async fn program(&self, key: &str) -> String {
        let body = json!({
            "name": "Launch Partners", "commission": {"type": "percentage", "bps": 2000}, "status": "active",
        });
        id_of(&self.create(key, PROGRAMS, body).await)
    }
}

/// A key, as its holder has it.
pub async fn key(app: &App, kind: KeyKind, organization_id: Option<OrganizationId>) -> String {
    let new = NewKey { kind, organization_id, project_id: None, scopes: None, expires_at: None };
    let made = keys::create(app, &Principal::console(), new).await.unwrap();
    made.text.expose_secret().to_owned()
}

/// The id of what an answer shows.
pub fn id_of(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

/// What a query of a number and a text gives.
pub async fn rows(db: &Db, sql: &'static str) -> Vec<(i64, String)> {
    db.read().await.unwrap().q(sql).all().await.unwrap()
}
