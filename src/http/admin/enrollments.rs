//! `/v1/admin/affiliate/programs/{program_id}/enrollments` (seed S0, "Enroll affiliates").

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Created, Data, created, id, ok};
use crate::{
    app::{
        App,
        enrollments::{self, Affiliate, NewEnrollment, Verdict},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::EnrollmentStatus,
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        openapi::schemas::{Email, ReferralCode},
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(approve))
        .routes(routes!(reject))
        .routes(routes!(suspend))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EnrollmentRequest {
    /// Either this or `email`.
    #[schema(value_type = Option<OrganizationId>)]
    affiliate_org_id: Option<String>,
    /// Either this or `affiliate_org_id`.
    #[schema(value_type = Option<Email>)]
    email: Option<String>,
    #[schema(value_type = Option<EnrollmentId>)]
    parent_enrollment_id: Option<String>,
    /// Made up where it is absent.
    #[schema(value_type = Option<ReferralCode>)]
    code: Option<String>,
    #[schema(pattern = "^(active|pending|invited)$")]
    status: Option<String>,
}

impl EnrollmentRequest {
    fn read(self) -> Result<NewEnrollment, ApiError> {
        let refuse =
            |code, param, message| ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param);
        let affiliate = match (self.affiliate_org_id, self.email) {
            (Some(organization), None) => Affiliate::Organization(id(OrganizationId::parse(&organization))?),
            (None, Some(email)) => Affiliate::Email(email),
            (Some(_), Some(_)) | (None, None) => {
                let message = "give either affiliate_org_id or email";
                return Err(refuse("INVALID_AFFILIATE", "affiliate_org_id", message));
            }
        };
        let parent = self.parent_enrollment_id.as_deref().map(EnrollmentId::parse).transpose();
        Ok(NewEnrollment {
            affiliate,
            parent_enrollment_id: parent.map_err(|_| {
                let message = "parent_enrollment_id must be an enrollment of the same program";
                refuse("INVALID_PARENT", "parent_enrollment_id", message)
            })?,
            code: self.code,
            status: self.status,
        })
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Enrollment)]
struct EnrollmentView {
    id: EnrollmentId,
    program_id: ProgramId,
    affiliate_org_id: OrganizationId,
    parent_enrollment_id: Option<EnrollmentId>,
    code: String,
    #[schema(value_type = EnrollmentStatus)]
    status: &'static str,
    created_at: Timestamp,
}

impl From<EnrollmentDetails> for EnrollmentView {
    fn from(enrollment: EnrollmentDetails) -> Self {
        Self {
            id: enrollment.id,
            program_id: enrollment.program_id,
            affiliate_org_id: enrollment.organization_id,
            parent_enrollment_id: enrollment.parent_enrollment_id,
            code: enrollment.code,
            status: enrollment.status.value.as_str(),
            created_at: enrollment.created_at,
        }
    }
}

/// Lets an affiliate join, by organization or by e-mail address.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments",
    operation_id = "createEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path)),
    request_body = EnrollmentRequest,
    responses((status = 201, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<EnrollmentRequest>,
) -> Created<EnrollmentView> {
    created(enrollments::create(&app, &by, &program, request.read()?).await?.into())
}

/// The enrollments of a program, newest first.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/enrollments",
    operation_id = "listEnrollments", tag = "enrollments",
    params(("program_id" = ProgramId, Path), PageQuery),
    responses((status = 200, description = "A page of enrollments.", body = Listing<EnrollmentView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<EnrollmentId>,
) -> Answer<Listing<EnrollmentView>> {
    let rows = enrollments::list(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

type Both = Named<(ProgramId, EnrollmentId)>;

/// Lets an affiliate in who applied or was suspended.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/approve",
    operation_id = "approveEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn approve(State(app): State<App>, by: Principal, path: Both) -> Answer<Data<EnrollmentView>> {
    judge(&app, &by, path, Verdict::Approve).await
}

/// Turns an affiliate down.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/reject",
    operation_id = "rejectEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn reject(State(app): State<App>, by: Principal, path: Both) -> Answer<Data<EnrollmentView>> {
    judge(&app, &by, path, Verdict::Reject).await
}

/// Stops new earnings; what was earned goes on.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/suspend",
    operation_id = "suspendEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn suspend(State(app): State<App>, by: Principal, path: Both) -> Answer<Data<EnrollmentView>> {
    judge(&app, &by, path, Verdict::Suspend).await
}

async fn judge(
    app: &App,
    by: &Principal,
    Named((program, enrollment)): Both,
    verdict: Verdict,
) -> Answer<Data<EnrollmentView>> {
    ok(enrollments::judge(app, by, &program, &enrollment, verdict).await?.into())
}
