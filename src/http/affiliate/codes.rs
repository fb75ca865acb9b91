//! `/v1/affiliate/me/enrollments/{id}/codes`: an affiliate's codes, and fresh ones (seed S0,
//! `my_referral_generate`).

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, enrollments::codes, keys::Principal},
    domain::ids::EnrollmentId,
    http::{
        admin::{
            Answer, Created, Data,
            codes::{CodeView, key_of},
            created,
        },
        body::OptionalBody,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::enrollments::codes::CodeKey,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, rotate))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct RotationRequest {
    /// Whether the older referral codes end with this.
    retire_others: bool,
}

/// The codes of an enrollment of the caller, newest first, the retired ones too.
#[utoipa::path(
    get, path = "/v1/affiliate/me/enrollments/{id}/codes",
    operation_id = "listOwnCodes", tag = "affiliate",
    params(("id" = EnrollmentId, Path), PageQuery),
    responses((status = 200, description = "A page of codes.", body = Listing<CodeView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
    page: Page<CodeKey>,
) -> Answer<Listing<CodeView>> {
    let rows = codes::list_own(&app, &by, &enrollment, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, key_of, Into::into)))
}

/// A fresh referral code; the older ones end with it on request.
#[utoipa::path(
    post, path = "/v1/affiliate/me/enrollments/{id}/codes",
    operation_id = "rotateOwnCode", tag = "affiliate",
    params(("id" = EnrollmentId, Path)),
    request_body = Option<RotationRequest>,
    responses((status = 201, description = "The code.", body = Data<CodeView>))
)]
async fn rotate(
    State(app): State<App>,
    by: Principal,
    Named(enrollment): Named<EnrollmentId>,
    OptionalBody(request): OptionalBody<RotationRequest>,
) -> Created<CodeView> {
    created(codes::rotate(&app, &by, &enrollment, request.retire_others).await?.into())
}
