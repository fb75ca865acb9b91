//! `/v1/admin/projects`.

use axum::{Json, Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};

use super::{Answer, Created, created, id};
use crate::{
    app::{App, keys::Principal, organizations},
    domain::{
        ids::{OrganizationId, ProjectId},
        time::Timestamp,
    },
    http::{
        body::Body,
        page::{Listing, Page},
    },
    store::organizations::Project,
};

pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/admin/projects", get(list).post(create))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProject {
    organization_id: String,
    name: String,
}

#[derive(Serialize)]
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

async fn create(State(app): State<App>, by: Principal, Body(new): Body<NewProject>) -> Created<ProjectView> {
    let owner = id(OrganizationId::parse(&new.organization_id))?;
    created(organizations::create_project(&app, &by, &owner, &new.name).await?.into())
}

async fn list(State(app): State<App>, by: Principal, page: Page<ProjectId>) -> Answer<Listing<ProjectView>> {
    let rows = organizations::list_projects(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}
