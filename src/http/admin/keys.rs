//! `/v1/admin/keys`. The text of a key is in the answer that made it and nowhere else.

use axum::{Json, extract::State, http::StatusCode};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, id, ok};
use crate::{
    app::{
        App, Refusal,
        keys::{self, ApiKey, KeyKind, NewKey, Principal, Scope},
    },
    domain::{
        ids::{KeyId, OrganizationId, ProjectId},
        time::Timestamp,
    },
    http::{
        Once, ShownOnce,
        body::Body,
        error::ApiError,
        openapi::answers::NotFound,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    #[schema(value_type = KeyKind)]
    kind: String,
    #[schema(value_type = Option<OrganizationId>)]
    organization_id: Option<String>,
    #[schema(value_type = Option<ProjectId>)]
    project_id: Option<String>,
    #[schema(value_type = Option<Vec<Scope>>, min_items = 1)]
    scopes: Option<Vec<String>>,
    #[schema(value_type = Option<Timestamp>)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyView {
    id: KeyId,
    #[schema(value_type = KeyKind)]
    kind: &'static str,
    #[schema(value_type = Vec<Scope>)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey)]
struct CreatedKeyView {
    /// Shown this once; null when the request is sent again under its `Idempotency-Key`.
    #[schema(value_type = Option<String>)]
    key: ShownOnce<String>,
    #[serde(flatten)]
    view: KeyView,
}

/// Makes a key. Its text is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/admin/keys",
    operation_id = "createKey", tag = "keys",
    request_body = KeyRequest,
    responses((status = 201, description = "The key with its text.", body = Data<CreatedKeyView>), (status = 404, response = NotFound))
)]
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

/// Keys, newest first, without their texts.
#[utoipa::path(
    get, path = "/v1/admin/keys",
    operation_id = "listKeys", tag = "keys",
    params(PageQuery),
    responses((status = 200, description = "A page of keys.", body = Listing<KeyView>))
)]
async fn list(State(app): State<App>, by: Principal, page: Page<KeyId>) -> Answer<Listing<KeyView>> {
    let rows = keys::list(&app, &by, page.after(), page.fetch()).await?;
    let views = rows.into_iter().map(KeyView::of).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(page.listing(views, |view| view.id.clone(), |view| view)))
}

/// Revokes a key, at once and for ever.
#[utoipa::path(
    delete, path = "/v1/admin/keys/{id}",
    operation_id = "revokeKey", tag = "keys",
    params(("id" = KeyId, Path)),
    responses((status = 200, description = "The revoked key.", body = Data<KeyView>))
)]
async fn revoke(State(app): State<App>, by: Principal, Named(key): Named<KeyId>) -> Answer<Data<KeyView>> {
    ok(KeyView::of(keys::revoke(&app, &by, &key).await?)?)
}
