//! `/v1/affiliate/me/invites`, `…/applications` and `…/enrollments`: how an affiliate joins, and where.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{
        App,
        enrollments::invites::{self, OwnEnrollment},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, ProgramId},
        program::EnrollmentStatus,
        time::Timestamp,
    },
    http::{
        admin::{Answer, Created, Data, codes::CodeView, created, id, ok},
        body::Body,
        error::ApiError,
        openapi::{answers::NotFound, program::CommissionOverride},
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_invites))
        .routes(routes!(accept_token))
        .routes(routes!(accept))
        .routes(routes!(decline))
        .routes(routes!(apply))
        .routes(routes!(list))
}

/// An enrollment as its affiliate sees it. The sponsor is left out: it is a peer.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnEnrollment)]
struct OwnView {
    id: EnrollmentId,
    program_id: ProgramId,
    #[schema(value_type = EnrollmentStatus)]
    status: &'static str,
    code: String,
    #[schema(value_type = Option<CommissionOverride>)]
    commission_override: Option<Value>,
    created_at: Timestamp,
}

impl From<EnrollmentDetails> for OwnView {
    fn from(enrollment: EnrollmentDetails) -> Self {
        Self {
            id: enrollment.id,
            program_id: enrollment.program_id,
            status: enrollment.status.value.as_str(),
            code: enrollment.code,
            commission_override: enrollment.commission_override,
            created_at: enrollment.created_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ListedEnrollment)]
struct ListedView {
    #[serde(flatten)]
    enrollment: OwnView,
    program_name: String,
    /// The live ones.
    codes: Vec<CodeView>,
}

impl From<OwnEnrollment> for ListedView {
    fn from(own: OwnEnrollment) -> Self {
        Self {
            enrollment: own.membership.enrollment.into(),
            program_name: own.membership.program_name,
            codes: own.codes.into_iter().map(Into::into).collect(),
        }
    }
}

/// The programs that the caller is in, or asked to be in, newest first.
#[utoipa::path(
    get, path = "/v1/affiliate/me/enrollments",
    operation_id = "listOwnEnrollments", tag = "affiliate",
    params(PageQuery),
    responses((status = 200, description = "A page of enrollments.", body = Listing<ListedView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<EnrollmentId>,
) -> Answer<Listing<ListedView>> {
    listing(&app, &by, None, &page).await
}

/// The invitations of the caller that wait for an answer, newest first.
#[utoipa::path(
    get, path = "/v1/affiliate/me/invites",
    operation_id = "listOwnInvites", tag = "affiliate",
    params(PageQuery),
    responses((status = 200, description = "A page of invitations.", body = Listing<ListedView>))
)]
async fn list_invites(
    State(app): State<App>,
    by: Principal,
    page: Page<EnrollmentId>,
) -> Answer<Listing<ListedView>> {
    listing(&app, &by, Some(EnrollmentStatus::Invited), &page).await
}

async fn listing(
    app: &App,
    by: &Principal,
    status: Option<EnrollmentStatus>,
    page: &Page<EnrollmentId>,
) -> Answer<Listing<ListedView>> {
    let rows = invites::list_own(app, by, status, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.membership.enrollment.id.clone(), Into::into)))
}

/// Accepts an invitation.
#[utoipa::path(
    post, path = "/v1/affiliate/me/invites/{id}/accept",
    operation_id = "acceptInvite", tag = "affiliate",
    params(("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<OwnView>))
)]
async fn accept(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
) -> Answer<Data<OwnView>> {
    ok(invites::accept(&app, &by, &enrollment).await?.into())
}

/// Declines an invitation, for good.
#[utoipa::path(
    post, path = "/v1/affiliate/me/invites/{id}/decline",
    operation_id = "declineInvite", tag = "affiliate",
    params(("id" = EnrollmentId, Path)),
    responses((status = 200, description = "The enrollment.", body = Data<OwnView>))
)]
async fn decline(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
) -> Answer<Data<OwnView>> {
    ok(invites::decline(&app, &by, &enrollment).await?.into())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    token: String,
}

/// Takes over what was made for an e-mail address, with the token that went there.
#[utoipa::path(
    post, path = "/v1/affiliate/me/invites/accept",
    operation_id = "acceptInviteToken", tag = "affiliate",
    request_body = TokenRequest,
    responses((status = 200, description = "The enrollment.", body = Data<OwnView>))
)]
async fn accept_token(
    State(app): State<App>,
    by: Principal,
    Body(request): Body<TokenRequest>,
) -> Answer<Data<OwnView>> {
    ok(invites::accept_token(&app, &by, &request.token).await?.into())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Application {
    #[schema(value_type = ProgramId)]
    program_id: String,
}

/// Applies to a program that takes applications.
#[utoipa::path(
    post, path = "/v1/affiliate/me/applications",
    operation_id = "apply", tag = "affiliate",
    request_body = Application,
    responses((status = 201, description = "The enrollment.", body = Data<OwnView>), (status = 404, response = NotFound))
)]
async fn apply(
    State(app): State<App>,
    by: Principal,
    Body(application): Body<Application>,
) -> Created<OwnView> {
    let program: Result<ProgramId, ApiError> = id(ProgramId::parse(&application.program_id));
    created(invites::apply(&app, &by, &program?).await?.into())
}
