//! `/v1/affiliate/me/enrollments/{id}/codes`: an affiliate's codes, and fresh ones (seed S0,
//! `my_referral_generate`).

use axum::{Json, Router, extract::State, routing::get};
use serde::Deserialize;

use crate::{
    app::{App, enrollments::codes, keys::Principal},
    domain::ids::EnrollmentId,
    http::{
        admin::{
            Answer, Created,
            codes::{CodeView, key_of},
            created,
        },
        body::OptionalBody,
        page::{Listing, Page},
        path::Named,
    },
    store::enrollments::codes::CodeKey,
};

pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/affiliate/me/enrollments/{id}/codes", get(list).post(rotate))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotationRequest {
    /// Whether the older referral codes end with this.
    retire_others: bool,
}

async fn list(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
    page: Page<CodeKey>,
) -> Answer<Listing<CodeView>> {
    let rows = codes::list_own(&app, &by, &enrollment, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, key_of, Into::into)))
}

async fn rotate(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
    OptionalBody(request): OptionalBody<RotationRequest>,
) -> Created<CodeView> {
    created(codes::rotate(&app, &by, &enrollment, request.retire_others).await?.into())
}
