//! `/v1/admin/audit`: who changed what. An organization reads of its own objects, an operator of all.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, books::refuse};
use crate::{
    app::{
        App,
        audit::{self, AuditFilter, AuditRow},
        keys::Principal,
    },
    domain::{
        ids::{AuditId, IdempotencyId, OrganizationId},
        time::Timestamp,
    },
    http::{
        error::ApiError,
        page::{Listing, Page, PageQuery},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only changes of this object: its id.
    #[param(nullable = false, min_length = 1, max_length = 200, pattern = "^[!-~]+$")]
    object: Option<String>,
    /// Only changes made by this key: its id, or `console` or `anonymous`.
    #[param(nullable = false, min_length = 1, max_length = 200, pattern = "^[!-~]+$")]
    actor: Option<String>,
    /// Only changes of this kind, such as `program.updated`.
    #[param(nullable = false, min_length = 1, max_length = 200, pattern = "^[!-~]+$")]
    action: Option<String>,
    /// Only changes from then on.
    #[param(nullable = false, required = false, value_type = Timestamp)]
    since: Option<String>,
}

impl AuditQuery {
    fn read(self, before: Option<AuditId>) -> Result<AuditFilter, ApiError> {
        let is_word = |text: &Option<String>| text.as_deref().is_none_or(is_word);
        if !is_word(&self.object) {
            return Err(refuse("INVALID_OBJECT", "object", "object must be the id of what was changed"));
        }
        if !is_word(&self.actor) {
            return Err(refuse(
                "INVALID_ACTOR",
                "actor",
                "actor must be the id of a key, console or anonymous",
            ));
        }
        if !is_word(&self.action) {
            return Err(refuse("INVALID_ACTION", "action", "action must be such as program.updated"));
        }
        let since = self.since.as_deref().map(Timestamp::parse_rfc3339).transpose().map_err(|_| {
            refuse("INVALID_SINCE", "since", "since must be RFC 3339, such as 2026-01-31T00:00:00Z")
        })?;
        let Self { object, actor, action, .. } = self;
        Ok(AuditFilter { organization_id: None, object, actor, action, since, before })
    }
}

/// Whether a text can be what is asked for: an id or a word of ours. What is neither cannot be asked of
/// every database.
fn is_word(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct AuditView {
    id: AuditId,
    at: Timestamp,
    actor: String,
    actor_kind: String,
    actor_organization_id: Option<OrganizationId>,
    organization_id: Option<OrganizationId>,
    action: String,
    object: String,
    before: Option<Value>,
    after: Option<Value>,
    request_id: String,
    idempotency_id: Option<IdempotencyId>,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            actor: row.actor,
            actor_kind: row.actor_kind,
            actor_organization_id: row.actor_organization_id,
            organization_id: row.organization_id,
            action: row.action,
            object: row.object,
            before: row.before,
            after: row.after,
            request_id: row.request_id,
            idempotency_id: row.idempotency_id,
        }
    }
}

/// Lists what was changed, newest first.
#[utoipa::path(
    get, path = "/v1/admin/audit", operation_id = "listAudit", tag = "operations",
    params(AuditQuery, PageQuery),
    responses((status = 200, description = "The changes.", body = Listing<AuditView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<AuditId>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Answer<Listing<AuditView>> {
    let Query(query) =
        query.map_err(|_| refuse("INVALID_QUERY", "query", "the query string cannot be read"))?;
    let filter = query.read(page.after().cloned())?;
    let rows = audit::list(&app, &by, &filter, page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}
