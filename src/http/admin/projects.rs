//! `/v1/admin/projects`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Created, Data, created, id};
use crate::{
    app::{App, keys::Principal, organizations},
    domain::{
        ids::{OrganizationId, ProjectId},
        time::Timestamp,
    },
    http::{
        body::Body,
        openapi::{answers::NotFound, schemas::Name},
        page::{Listing, Page, PageQuery},
    },
    store::organizations::Project,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewProject {
    #[schema(value_type = OrganizationId)]
    organization_id: String,
    #[schema(value_type = Name)]
    name: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Project)]
struct ProjectView {
    id: ProjectId,
    organization_id: OrganizationId,
    name: String,
    created_at: Timestamp,
}

impl From<Project> for ProjectView {
    fn from(project: Project) -> Self {
        let Project { id, organization_id, name, created_at } = project;
        Self { id, organization_id, name, created_at }
    }
}

/// Makes a project: one product of an owner.
#[utoipa::path(
    post, path = "/v1/admin/projects",
    operation_id = "createProject", tag = "projects",
    request_body = NewProject,
    responses((status = 201, description = "The project.", body = Data<ProjectView>), (status = 404, response = NotFound))
)]
async fn create(State(app): State<App>, by: Principal, Body(new): Body<NewProject>) -> Created<ProjectView> {
    let owner = id(OrganizationId::parse(&new.organization_id))?;
    created(organizations::create_project(&app, &by, &owner, &new.name).await?.into())
}

/// Projects, newest first.
#[utoipa::path(
    get, path = "/v1/admin/projects",
    operation_id = "listProjects", tag = "projects",
    params(PageQuery),
    responses((status = 200, description = "A page of projects.", body = Listing<ProjectView>))
)]
async fn list(State(app): State<App>, by: Principal, page: Page<ProjectId>) -> Answer<Listing<ProjectView>> {
    let rows = organizations::list_projects(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}
