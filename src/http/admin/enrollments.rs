//! `/v1/admin/affiliate/programs/{program_id}/enrollments` and `…/invites` (seed S0, "Enroll affiliates").

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Answer, Created, Data, created, id, ok};
use crate::{
    app::{
        App, Refusal,
        enrollments::{self, Affiliate, Change, Enrolled, NewEnrollment, Verdict, invites},
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
        page::{Listing, Page},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs/{program_id}/invites", post(invite))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments", get(list).post(create))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}", get(find).patch(update))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/approve", post(approve))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/reject", post(reject))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/suspend", post(suspend))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/invite-token", post(renew_token))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrollmentRequest {
    affiliate_org_id: Option<String>,
    email: Option<String>,
    parent_enrollment_id: Option<String>,
    commission_override: Option<Value>,
    code: Option<String>,
    status: Option<String>,
}

/// An invitation has every field of an enrollment but its status.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InviteRequest {
    affiliate_org_id: Option<String>,
    email: Option<String>,
    parent_enrollment_id: Option<String>,
    commission_override: Option<Value>,
    code: Option<String>,
}

impl From<InviteRequest> for EnrollmentRequest {
    fn from(invite: InviteRequest) -> Self {
        let InviteRequest { affiliate_org_id, email, parent_enrollment_id, commission_override, code } =
            invite;
        let status = Some(EnrollmentStatus::Invited.as_str().to_owned());
        Self { affiliate_org_id, email, parent_enrollment_id, commission_override, code, status }
    }
}

impl EnrollmentRequest {
    fn read(self) -> Result<NewEnrollment, ApiError> {
        let affiliate = match (self.affiliate_org_id, self.email) {
            (Some(organization), None) => Affiliate::Organization(id(OrganizationId::parse(&organization))?),
            (None, Some(email)) => Affiliate::Email(email),
            (Some(_), Some(_)) | (None, None) => {
                let message = "give either affiliate_org_id or email";
                return Err(Refusal::invalid("INVALID_AFFILIATE", "affiliate_org_id", message).into());
            }
        };
        Ok(NewEnrollment {
            affiliate,
            parent_enrollment_id: self.parent_enrollment_id.as_deref().map(parent).transpose()?,
            commission_override: self.commission_override,
            code: self.code,
            status: self.status,
        })
    }
}

fn parent(text: &str) -> Result<EnrollmentId, ApiError> {
    EnrollmentId::parse(text).map_err(|_| {
        let message = "parent_enrollment_id must be an enrollment of the same program";
        Refusal::invalid("INVALID_PARENT", "parent_enrollment_id", message).into()
    })
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct ChangeRequest {
    #[serde(deserialize_with = "given")]
    parent_enrollment_id: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    commission_override: Option<Value>,
}

/// Keeps `null` apart from absent.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl ChangeRequest {
    fn read(self) -> Result<Change, ApiError> {
        let parent = self.parent_enrollment_id.map(|text| text.as_deref().map(parent).transpose());
        Ok(Change {
            parent_enrollment_id: parent.transpose()?,
            commission_override: self.commission_override,
        })
    }
}

#[derive(Serialize)]
struct EnrollmentView {
    id: EnrollmentId,
    program_id: ProgramId,
    affiliate_org_id: OrganizationId,
    parent_enrollment_id: Option<EnrollmentId>,
    commission_override: Option<Value>,
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
            commission_override: enrollment.commission_override,
            code: enrollment.code,
            status: enrollment.status.value.as_str(),
            created_at: enrollment.created_at,
        }
    }
}

#[derive(Serialize)]
struct EnrolledView {
    #[serde(flatten)]
    enrollment: EnrollmentView,
    /// Shown this once, for whoever reads the address; null for an organization that exists.
    invite_token: Option<String>,
}

impl EnrolledView {
    fn new(enrollment: EnrollmentDetails, token: Option<&SecretString>) -> Self {
        let invite_token = token.map(|token| token.expose_secret().to_owned());
        Self { enrollment: enrollment.into(), invite_token }
    }
}

impl From<Enrolled> for EnrolledView {
    fn from(enrolled: Enrolled) -> Self {
        Self::new(enrolled.enrollment, enrolled.token.as_ref())
    }
}

async fn create(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<EnrollmentRequest>,
) -> Created<EnrolledView> {
    created(enrollments::create(&app, &by, &program, request.read()?).await?.into())
}

async fn invite(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<InviteRequest>,
) -> Created<EnrolledView> {
    let new = EnrollmentRequest::from(request).read()?;
    created(enrollments::create(&app, &by, &program, new).await?.into())
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

async fn find(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
) -> Answer<Data<EnrollmentView>> {
    ok(enrollments::find(&app, &by, &program, &enrollment).await?.into())
}

async fn update(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
    Body(change): Body<ChangeRequest>,
) -> Answer<Data<EnrollmentView>> {
    ok(enrollments::update(&app, &by, &program, &enrollment, change.read()?).await?.into())
}

async fn renew_token(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
) -> Answer<Data<EnrolledView>> {
    let (enrollment, token) = invites::renew_token(&app, &by, &program, &enrollment).await?;
    ok(EnrolledView::new(enrollment, Some(&token)))
}

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
