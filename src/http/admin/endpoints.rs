//! `/v1/admin/projects/{project_id}/endpoints`. Signing secrets go in and never come out.

use axum::{
    Json, Router,
    extract::State,
    routing::{delete as delete_route, get},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

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
        page::{Listing, Page},
        path::Named,
    },
    store::endpoints::StoredEndpoint,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/projects/{project_id}/endpoints", get(list).post(create))
        .route("/v1/admin/projects/{project_id}/endpoints/{id}", delete_route(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointRequest {
    provider: String,
    secrets: Vec<String>,
    livemode: bool,
    #[serde(default)]
    connect: bool,
}

#[derive(Serialize)]
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

async fn list(
    State(app): State<App>,
    by: Principal,
    Named(project): Named<ProjectId>,
    page: Page<EndpointId>,
) -> Answer<Listing<EndpointView>> {
    let rows = endpoints::list(&app, &by, &project, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

async fn delete(
    State(app): State<App>,
    by: Principal,
    Named((project, endpoint)): Named<(ProjectId, EndpointId)>,
) -> Answer<Data<EndpointView>> {
    ok(endpoints::delete(&app, &by, &project, &endpoint).await?.into())
}
