//! What a sale would earn and why, tried out.

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Data, ok};
use crate::{
    app::{
        App,
        keys::Principal,
        preview::{self, Answer, Question},
    },
    domain::ids::ProgramId,
    http::{body::Body, path::Named},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(preview))
}

/// What a sale would earn and why. Nothing is sold and nothing is kept.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/preview",
    operation_id = "previewCommission", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    request_body = Question,
    responses((status = 200, description = "What it would earn.", body = Data<Answer>))
)]
async fn preview(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(question): Body<Question>,
) -> super::Answer<Data<Answer>> {
    ok(preview::preview(&app, &by, &program, question).await?)
}
