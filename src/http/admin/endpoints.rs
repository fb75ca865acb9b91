//! `/v1/admin/projects/{project_id}/endpoints`. Signing secrets go in and never come out.

use axum::{Json, extract::State};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{
        App,
        endpoints::{self, NewEndpoint},
        keys::Principal,
    },
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    http::{
        body::Body,
        openapi::schemas::SigningSecret,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::endpoints::StoredEndpoint,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndpointRequest {
    #[schema(pattern = "^(stripe|paddle)$")]
    provider: String,
    /// Signing secrets, all live at once; those of Stripe start with `whsec_`.
    #[schema(min_items = 1, max_items = 8, value_type = Vec<SigningSecret>)]
    secrets: Vec<String>,
    livemode: bool,
    #[serde(default)]
    connect: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
struct EndpointView {
    id: EndpointId,
    url_path: String,
    project_id: ProjectId,
    provider: String,
    livemode: bool,
    connect: bool,
    created_at: Timestamp,
}

impl From<StoredEndpoint> for EndpointView {
    fn from(endpoint: StoredEndpoint) -> Self {
        let StoredEndpoint { id, project_id, provider, livemode, connect, created_at } = endpoint;
        let url_path = format!("/webhooks/{provider}/{id}");
        Self { id, url_path, project_id, provider, livemode, connect, created_at }
    }
}

/// Makes a webhook endpoint of a project.
#[utoipa::path(
    post, path = "/v1/admin/projects/{project_id}/endpoints",
    operation_id = "createEndpoint", tag = "endpoints",
    params(("project_id" = ProjectId, Path)),
    request_body = EndpointRequest,
    responses((status = 201, description = "The endpoint.", body = Data<EndpointView>))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Named(project): Named<ProjectId>,
    Body(request): Body<EndpointRequest>,
) -> Created<EndpointView> {
    let EndpointRequest { provider, secrets, livemode, connect } = request;
    let secrets = secrets.into_iter().map(SecretString::from).collect();
    let new = NewEndpoint { provider, secrets, livemode, connect };
    created(endpoints::create(&app, &by, &project, new).await?.into())
}

/// The webhook endpoints of a project, newest first.
#[utoipa::path(
    get, path = "/v1/admin/projects/{project_id}/endpoints",
    operation_id = "listEndpoints", tag = "endpoints",
    params(("project_id" = ProjectId, Path), PageQuery),
    responses((status = 200, description = "A page of endpoints.", body = Listing<EndpointView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named(project): Named<ProjectId>,
    page: Page<EndpointId>,
) -> Answer<Listing<EndpointView>> {
    let rows = endpoints::list(&app, &by, &project, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

/// Ends a webhook endpoint. The events that it took stay.
#[utoipa::path(
    delete, path = "/v1/admin/projects/{project_id}/endpoints/{id}",
    operation_id = "deleteEndpoint", tag = "endpoints",
    params(("project_id" = ProjectId, Path), ("id" = EndpointId, Path)),
    responses((status = 200, description = "The endpoint that was ended.", body = Data<EndpointView>))
)]
async fn delete(
    State(app): State<App>,
    by: Principal,
    Named((project, endpoint)): Named<(ProjectId, EndpointId)>,
) -> Answer<Data<EndpointView>> {
    ok(endpoints::delete(&app, &by, &project, &endpoint).await?.into())
}
