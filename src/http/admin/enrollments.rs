//! `/v1/admin/affiliate/programs/{program_id}/enrollments` (seed S0, "Enroll affiliates").

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Created, Data, created, id, ok};
use crate::{
    app::{
        App,
        enrollments::{self, Affiliate, NewEnrollment, Verdict},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        page::{Listing, Page},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments", get(list).post(create))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/approve", post(approve))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/reject", post(reject))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/suspend", post(suspend))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrollmentRequest {
    affiliate_org_id: Option<String>,
    email: Option<String>,
    parent_enrollment_id: Option<String>,
    code: Option<String>,
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

#[derive(Serialize)]
struct EnrollmentView {
    id: EnrollmentId,
    program_id: ProgramId,
    affiliate_org_id: OrganizationId,
    parent_enrollment_id: Option<EnrollmentId>,
    code: String,
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

async fn create(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<EnrollmentRequest>,
) -> Created<EnrollmentView> {
    created(enrollments::create(&app, &by, &program, request.read()?).await?.into())
}

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

async fn approve(State(app): State<App>, by: Principal, path: Both) -> Answer<Data<EnrollmentView>> {
    judge(&app, &by, path, Verdict::Approve).await
}

async fn reject(State(app): State<App>, by: Principal, path: Both) -> Answer<Data<EnrollmentView>> {
    judge(&app, &by, path, Verdict::Reject).await
}

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
