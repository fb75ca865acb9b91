//! `/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

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
        openapi::schemas::ReferralCode,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::enrollments::codes::{CodeKey, CodeKind, IssuedCode},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(retire))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct CodeRequest {
    /// Made up where it is absent.
    #[schema(value_type = Option<ReferralCode>)]
    code: Option<String>,
    /// `referral` where it is absent.
    #[schema(value_type = Option<CodeKind>)]
    kind: Option<String>,
}

/// A code as both sides see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Code)]
pub(in crate::http) struct CodeView {
    code: String,
    #[schema(value_type = CodeKind)]
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

/// Gives an enrollment a further code.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes",
    operation_id = "createCode", tag = "codes",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    request_body = Option<CodeRequest>,
    responses((status = 201, description = "The code.", body = Data<CodeView>))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    OptionalBody(request): OptionalBody<CodeRequest>,
) -> Created<CodeView> {
    let new = NewCode { code: request.code, kind: request.kind };
    created(codes::create(&app, &by, &program, &enrollment, new).await?.into())
}

/// The codes of an enrollment, newest first, the retired ones too.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes",
    operation_id = "listCodes", tag = "codes",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path), PageQuery),
    responses((status = 200, description = "A page of codes.", body = Listing<CodeView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    page: Page<CodeKey>,
) -> Answer<Listing<CodeView>> {
    let rows = codes::list(&app, &by, &program, &enrollment, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, key_of, Into::into)))
}

/// Ends a code; sales paid before still count.
#[utoipa::path(
    delete, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes/{code}",
    operation_id = "retireCode", tag = "codes",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path), ("code" = ReferralCode, Path)),
    responses((status = 200, description = "The code.", body = Data<CodeView>))
)]
async fn retire(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment, code)): Named<(ProgramId, EnrollmentId, String)>,
) -> Answer<Data<CodeView>> {
    ok(codes::retire(&app, &by, &program, &enrollment, &code).await?.into())
}
