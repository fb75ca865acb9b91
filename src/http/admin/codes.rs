//! `/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes`.

use axum::{
    Json, Router,
    extract::State,
    routing::{delete, get},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{
        App,
        enrollments::codes::{self, NewCode},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, ProgramId},
        program::normalise_code,
        time::Timestamp,
    },
    http::{
        body::OptionalBody,
        page::{Listing, Page},
        path::Named,
    },
    store::enrollments::codes::{CodeKey, IssuedCode},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes", get(list).post(create))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes/{code}", delete(retire))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CodeRequest {
    code: Option<String>,
    kind: Option<String>,
}

/// A code as both sides see it.
#[derive(Debug, Serialize)]
pub(in crate::http) struct CodeView {
    code: String,
    kind: &'static str,
    created_at: Timestamp,
    /// From when it no longer counts; null while it does.
    retired_at: Option<Timestamp>,
}

impl From<IssuedCode> for CodeView {
    fn from(code: IssuedCode) -> Self {
        let IssuedCode { enrollment_id: _, code, kind, created_at, retired_at } = code;
        Self { code, kind: kind.as_str(), created_at, retired_at }
    }
}

/// What a code is listed by.
pub(in crate::http) fn key_of(code: &IssuedCode) -> CodeKey {
    (code.created_at.as_micros(), normalise_code(&code.code))
}

async fn create(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    OptionalBody(request): OptionalBody<CodeRequest>,
) -> Created<CodeView> {
    let new = NewCode { code: request.code, kind: request.kind };
    created(codes::create(&app, &by, &program, &enrollment, new).await?.into())
}

async fn list(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    page: Page<CodeKey>,
) -> Answer<Listing<CodeView>> {
    let rows = codes::list(&app, &by, &program, &enrollment, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, key_of, Into::into)))
}

async fn retire(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment, code)): Named<(ProgramId, EnrollmentId, String)>,
) -> Answer<Data<CodeView>> {
    ok(codes::retire(&app, &by, &program, &enrollment, &code).await?.into())
}
