//! `/v1/affiliate/me/invites`, `…/applications` and `…/enrollments`: how an affiliate joins, and where.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
        page::{Listing, Page},
        path::Named,
    },
    store::enrollments::EnrollmentDetails,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/affiliate/me/invites", get(list_invites))
        .route("/v1/affiliate/me/invites/accept", post(accept_token))
        .route("/v1/affiliate/me/invites/{id}/accept", post(accept))
        .route("/v1/affiliate/me/invites/{id}/decline", post(decline))
        .route("/v1/affiliate/me/applications", post(apply))
        .route("/v1/affiliate/me/enrollments", get(list))
}

/// An enrollment as its affiliate sees it. The sponsor is left out: it is a peer.
#[derive(Serialize)]
struct OwnView {
    id: EnrollmentId,
    program_id: ProgramId,
    status: &'static str,
    code: String,
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

#[derive(Serialize)]
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

async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<EnrollmentId>,
) -> Answer<Listing<ListedView>> {
    listing(&app, &by, None, &page).await
}

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

async fn accept(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
) -> Answer<Data<OwnView>> {
    ok(invites::accept(&app, &by, &enrollment).await?.into())
}

async fn decline(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
) -> Answer<Data<OwnView>> {
    ok(invites::decline(&app, &by, &enrollment).await?.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    token: String,
}

async fn accept_token(
    State(app): State<App>,
    by: Principal,
    Body(request): Body<TokenRequest>,
) -> Answer<Data<OwnView>> {
    ok(invites::accept_token(&app, &by, &request.token).await?.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Application {
    program_id: String,
}

async fn apply(
    State(app): State<App>,
    by: Principal,
    Body(application): Body<Application>,
) -> Created<OwnView> {
    let program: Result<ProgramId, ApiError> = id(ProgramId::parse(&application.program_id));
    created(invites::apply(&app, &by, &program?).await?.into())
}
