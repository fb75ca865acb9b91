//! `/v1/admin/affiliate/programs/{program_id}/enrollments` and `…/invites` (seed S0, "Enroll affiliates").

use axum::{Json, extract::State, http::StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, id, ok};
use crate::{
    app::{
        App, Refusal,
        enrollments::{self, Affiliate, Changes, Enrolled, NewEnrollment, Verdict, invites},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::EnrollmentStatus,
        time::Timestamp,
    },
    http::{
        Once, ShownOnce,
        body::Body,
        error::ApiError,
        openapi::{
            program::CommissionOverride,
            schemas::{Email, ReferralCode},
        },
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(invite))
        .routes(routes!(list, create))
        .routes(routes!(find, update))
        .routes(routes!(approve))
        .routes(routes!(reject))
        .routes(routes!(suspend))
        .routes(routes!(renew_token))
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
    #[schema(value_type = Option<CommissionOverride>)]
    commission_override: Option<Value>,
    /// Made up where it is absent.
    #[schema(value_type = Option<ReferralCode>)]
    code: Option<String>,
    #[schema(pattern = "^(active|pending|invited)$")]
    status: Option<String>,
}

/// An invitation has every field of an enrollment but its status.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InviteRequest {
    /// Either this or `email`.
    #[schema(value_type = Option<OrganizationId>)]
    affiliate_org_id: Option<String>,
    /// Either this or `affiliate_org_id`.
    #[schema(value_type = Option<Email>)]
    email: Option<String>,
    #[schema(value_type = Option<EnrollmentId>)]
    parent_enrollment_id: Option<String>,
    #[schema(value_type = Option<CommissionOverride>)]
    commission_override: Option<Value>,
    /// Made up where it is absent.
    #[schema(value_type = Option<ReferralCode>)]
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

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct EnrollmentChange {
    /// Null takes the sponsor away.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<EnrollmentId>)]
    parent_enrollment_id: Option<Value>,
    /// Null lets the terms of the program hold.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<CommissionOverride>)]
    commission_override: Option<Value>,
}

/// Keeps `null` apart from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl EnrollmentChange {
    fn read(self) -> Result<Changes, ApiError> {
        let sponsor = |value: Value| match value {
            Value::Null => Ok(None),
            value => parent(value.as_str().unwrap_or_default()).map(Some),
        };
        Ok(Changes {
            parent_enrollment_id: self.parent_enrollment_id.map(sponsor).transpose()?,
            commission_override: self.commission_override,
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
    #[schema(value_type = Option<CommissionOverride>)]
    commission_override: Option<Value>,
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
            commission_override: enrollment.commission_override,
            code: enrollment.code,
            status: enrollment.status.value.as_str(),
            created_at: enrollment.created_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewlyEnrolled)]
struct EnrolledView {
    #[serde(flatten)]
    enrollment: EnrollmentView,
    /// Shown this once, for whoever reads the address; null for an organization that exists, and when the
    /// request is sent again under its `Idempotency-Key`.
    #[schema(value_type = Option<String>)]
    invite_token: ShownOnce<Option<String>>,
}

impl EnrolledView {
    fn new(enrollment: EnrollmentDetails, token: Option<&SecretString>) -> Self {
        let invite_token = token.map(|token| token.expose_secret().to_owned());
        Self { enrollment: enrollment.into(), invite_token: ShownOnce(invite_token) }
    }
}

type EnrolledOnce = Result<Once<Data<EnrolledView>>, ApiError>;

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
fn enrolled(enrolled: Enrolled) -> EnrolledOnce {
    let data = EnrolledView::new(enrolled.enrollment, enrolled.token.as_ref());
    Ok(Once(StatusCode::CREATED, Data { data }))
}

/// Lets an affiliate join, by organization or by e-mail address.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments",
    operation_id = "createEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path)),
    request_body = EnrollmentRequest,
    responses((status = 201, description = "The enrollment.", body = Data<EnrolledView>))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<EnrollmentRequest>,
) -> EnrolledOnce {
    enrolled(enrollments::create(&app, &by, &program, request.read()?).await?)
}

/// Asks an affiliate to join; it accepts with a key of its own, or with the token that goes to the address.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/invites",
    operation_id = "createInvite", tag = "enrollments",
    params(("program_id" = ProgramId, Path)),
    request_body = InviteRequest,
    responses((status = 201, description = "The enrollment.", body = Data<EnrolledView>))
)]
async fn invite(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<InviteRequest>,
) -> EnrolledOnce {
    let new = EnrollmentRequest::from(request).read()?;
    enrolled(enrollments::create(&app, &by, &program, new).await?)
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

/// One enrollment.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}",
    operation_id = "getEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn find(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
) -> Answer<Data<EnrollmentView>> {
    ok(enrollments::find(&app, &by, &program, &enrollment).await?.into())
}

/// Changes what differs for one enrollment, for what is sold from now on.
#[utoipa::path(
    patch, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}",
    operation_id = "updateEnrollment", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    request_body = EnrollmentChange,
    responses((status = 200, description = "The enrollment.", body = Data<EnrollmentView>))
)]
async fn update(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
    Body(change): Body<EnrollmentChange>,
) -> Answer<Data<EnrollmentView>> {
    ok(enrollments::update(&app, &by, &program, &enrollment, change.read()?).await?.into())
}

/// A new token for an enrollment that was made for an address, in place of one that was lost.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/invite-token",
    operation_id = "renewInviteToken", tag = "enrollments",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment, with its new token.", body = Data<EnrolledView>))
)]
async fn renew_token(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Both,
) -> EnrolledOnce {
    let (enrollment, token) = invites::renew_token(&app, &by, &program, &enrollment).await?;
    Ok(Once(StatusCode::OK, Data { data: EnrolledView::new(enrollment, Some(&token)) }))
}

/// Lets an affiliate in who applied, was suspended, or was turned down before.
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
