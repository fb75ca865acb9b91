//! `/v1/admin/keys`. The text of a key is in the answer that made it and nowhere else.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::{Answer, Data, id, ok};
use crate::{
    app::{
        App, Refusal,
        keys::{self, ApiKey, KeyKind, NewKey, Principal},
    },
    domain::{
        ids::{KeyId, OrganizationId, ProjectId},
        time::Timestamp,
    },
    http::{
        Once, ShownOnce,
        body::Body,
        error::ApiError,
        page::{Listing, Page},
        path::Named,
    },
};

pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/admin/keys", get(list).post(create)).route("/v1/admin/keys/{id}", delete(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    kind: String,
    organization_id: Option<String>,
    project_id: Option<String>,
    scopes: Option<Vec<String>>,
    expires_at: Option<String>,
}

impl KeyRequest {
    fn read(self) -> Result<NewKey, ApiError> {
        let refuse =
            |code, param, message| ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param);
        let kind = KeyKind::parse(&self.kind).ok_or_else(|| {
            refuse("INVALID_KIND", "kind", "kind must be one of: operator, organization, client")
        })?;
        let expires_at = self.expires_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
        Ok(NewKey {
            kind,
            organization_id: self.organization_id.map(|text| id(OrganizationId::parse(&text))).transpose()?,
            project_id: self.project_id.map(|text| id(ProjectId::parse(&text))).transpose()?,
            scopes: self.scopes,
            expires_at: expires_at.map_err(|_| {
                refuse(
                    "INVALID_EXPIRY",
                    "expires_at",
                    "expires_at must be a time such as 2026-01-31T00:00:00Z",
                )
            })?,
        })
    }
}

#[derive(Serialize)]
struct KeyView {
    id: KeyId,
    kind: &'static str,
    scopes: Vec<&'static str>,
    organization_id: Option<OrganizationId>,
    project_id: Option<ProjectId>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl KeyView {
    fn of(key: ApiKey) -> Result<Self, ApiError> {
        let scopes = keys::scopes_of(&key).map_err(Refusal::from)?.words();
        let ApiKey { id, kind, organization_id, project_id, created_at, expires_at, revoked_at, .. } = key;
        let kind = kind.as_str();
        Ok(Self { id, kind, scopes, organization_id, project_id, created_at, expires_at, revoked_at })
    }
}

#[derive(Serialize)]
struct CreatedKeyView {
    key: ShownOnce<String>,
    #[serde(flatten)]
    view: KeyView,
}

async fn create(
    State(app): State<App>,
    by: Principal,
    Body(request): Body<KeyRequest>,
) -> Result<Once<Data<CreatedKeyView>>, ApiError> {
    let made = keys::create(&app, &by, request.read()?).await?;
    let key = ShownOnce(made.text.expose_secret().to_owned());
    let data = CreatedKeyView { key, view: KeyView::of(made.key)? };
    Ok(Once(StatusCode::CREATED, Data { data }))
}

async fn list(State(app): State<App>, by: Principal, page: Page<KeyId>) -> Answer<Listing<KeyView>> {
    let rows = keys::list(&app, &by, page.after(), page.fetch()).await?;
    let views = rows.into_iter().map(KeyView::of).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(page.listing(views, |view| view.id.clone(), |view| view)))
}

async fn revoke(State(app): State<App>, by: Principal, Named(key): Named<KeyId>) -> Answer<Data<KeyView>> {
    ok(KeyView::of(keys::revoke(&app, &by, &key).await?)?)
}
