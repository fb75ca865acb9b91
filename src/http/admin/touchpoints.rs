//! `/v1/admin/affiliate/programs/{program_id}/touchpoints`: who clicked what, and who told of it.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::{
    app::{
        App,
        enrollments::codes,
        keys::Principal,
        touchpoints::{self, ToldFilter, ToldKey, ToldRow},
    },
    domain::{
        ids::{EnrollmentId, ProgramId, ProjectId, TouchpointId},
        time::Timestamp,
    },
    http::{
        openapi::schemas::ReferralCode,
        page::{Listing, Page, PageQuery},
        params::{Params, WindowQuery},
        path::Named,
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// How the choice of a list is described.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Params` reads")]
struct CodeQuery {
    /// Only clicks on this code.
    #[param(nullable = false, required = false, value_type = ReferralCode)]
    code: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ToldTouchpoint)]
struct ToldView {
    id: TouchpointId,
    project_id: ProjectId,
    enrollment_id: EnrollmentId,
    code: String,
    source: String,
    /// The visitor, by the id under which the click was told.
    subject: String,
    occurred_at: Timestamp,
    created_at: Timestamp,
    /// The client key that told of it; null where a link of ours was followed.
    told_by: Option<String>,
    /// The request by which it was told; null as `told_by`.
    request_id: Option<String>,
}

impl From<ToldRow> for ToldView {
    fn from(row: ToldRow) -> Self {
        Self {
            id: row.id,
            project_id: row.project_id,
            enrollment_id: row.enrollment_id,
            code: row.code,
            source: row.source,
            subject: row.subject,
            occurred_at: row.at,
            created_at: row.created_at,
            told_by: row.told_by,
            request_id: row.request_id,
        }
    }
}

/// Lists the clicks on a program's links, the latest first.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/touchpoints",
    operation_id = "listTouchpoints", tag = "programs",
    params(("program_id" = ProgramId, Path), CodeQuery, WindowQuery, PageQuery),
    responses((status = 200, description = "A page of touchpoints.", body = Listing<ToldView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
    page: Page<ToldKey>,
) -> Answer<Listing<ToldView>> {
    let code = params.get("code").map(str::to_owned);
    code.as_deref().map_or(Ok(()), codes::check)?;
    let filter = ToldFilter { code, window: params.window(app.now())?, before: page.after().cloned() };
    let rows = touchpoints::list(&app, &by, &program, &filter, page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.at.as_micros(), row.id.clone()), Into::into)))
}
