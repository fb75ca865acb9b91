//! `/v1/client/affiliate/touchpoint` and `/v1/client/affiliate/identify` (seed S0, "In-app link").

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Client;
use crate::{
    app::{
        keys::Principal,
        touchpoints::{self, NewClick},
    },
    domain::{
        ids::{ProgramId, TouchpointId},
        time::Timestamp,
    },
    http::{
        admin::Data,
        body::Body,
        error::ApiError,
        openapi::{
            answers::TooManyRequests,
            schemas::{ReferralCode, VisitorId},
        },
    },
};

pub(super) fn router() -> OpenApiRouter<Client> {
    OpenApiRouter::new().routes(routes!(record, ask_to_record)).routes(routes!(identify, ask_to_identify))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClickRequest {
    #[schema(value_type = ReferralCode)]
    code: String,
    /// Where the click was, such as `qr`; `link` where it is absent.
    #[schema(min_length = 1, max_length = 32, pattern = "^[A-Za-z0-9_-]+$")]
    source: Option<String>,
    /// The visitor, before anybody knows who it is. This or `subject_ref` is needed.
    #[schema(value_type = Option<VisitorId>)]
    anonymous_id: Option<String>,
    /// The visitor, by the owner's own id.
    #[schema(value_type = Option<VisitorId>)]
    subject_ref: Option<String>,
    /// At most a day ago; now where it is absent.
    #[schema(value_type = Option<Timestamp>)]
    occurred_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Touchpoint)]
struct TouchpointView {
    #[schema(value_type = TouchpointId)]
    id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    code: String,
    source: String,
    occurred_at: Timestamp,
}

/// Records a click of an affiliate's link, also before anybody has signed in.
#[utoipa::path(
    post, path = "/v1/client/affiliate/touchpoint",
    operation_id = "recordTouchpoint", tag = "client",
    security(("clientKey" = [])),
    request_body = ClickRequest,
    responses((status = 201, description = "The touchpoint.", body = Data<TouchpointView>),
        (status = 200, description = "The touchpoint of the same click, told before.", body = Data<TouchpointView>),
        (status = 429, response = TooManyRequests))
)]
async fn record(
    State(client): State<Client>,
    Extension(by): Extension<Principal>,
    Body(request): Body<ClickRequest>,
) -> Result<Response, ApiError> {
    client.limit(&by, [request.anonymous_id.as_deref(), request.subject_ref.as_deref()])?;
    let occurred_at = request.occurred_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
    let click = NewClick {
        code: request.code,
        source: request.source,
        anonymous_id: request.anonymous_id,
        subject_ref: request.subject_ref,
        occurred_at: occurred_at.map_err(|_| {
            let message = "occurred_at must be RFC 3339, such as 2026-01-31T00:00:00Z";
            ApiError::new(StatusCode::BAD_REQUEST, "INVALID_TIME", message).with_param("occurred_at")
        })?,
    };
    let recorded = touchpoints::record(&client.clicks, &by, click).await?;
    let row = recorded.touchpoint;
    let data = TouchpointView {
        id: row.id,
        program_id: row.program_id,
        code: row.code,
        source: row.source,
        occurred_at: Timestamp::from_micros(row.at_us),
    };
    let status = if recorded.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Data { data })).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IdentifyRequest {
    #[schema(value_type = VisitorId)]
    anonymous_id: String,
    #[schema(value_type = VisitorId)]
    subject_ref: String,
}

#[derive(Serialize, ToSchema)]
struct Identified {
    anonymous_id: String,
    subject_ref: String,
}

/// Says who an anonymous visitor is: they signed in.
#[utoipa::path(
    post, path = "/v1/client/affiliate/identify",
    operation_id = "identifyVisitor", tag = "client",
    security(("clientKey" = [])),
    request_body = IdentifyRequest,
    responses((status = 200, description = "Who is who.", body = Data<Identified>),
        (status = 429, response = TooManyRequests))
)]
async fn identify(
    State(client): State<Client>,
    Extension(by): Extension<Principal>,
    Body(request): Body<IdentifyRequest>,
) -> Result<Json<Data<Identified>>, ApiError> {
    let IdentifyRequest { anonymous_id, subject_ref } = request;
    client.limit(&by, [Some(&anonymous_id), Some(&subject_ref)])?;
    touchpoints::identify(&client.app, &by, &anonymous_id, &subject_ref).await?;
    Ok(Json(Data { data: Identified { anonymous_id, subject_ref } }))
}

/// Whether a page of another origin may record clicks: it may, as the headers say.
#[utoipa::path(
    options, path = "/v1/client/affiliate/touchpoint",
    operation_id = "askToRecordTouchpoint", tag = "client", security(()),
    responses((status = 204, description = "It may."))
)]
async fn ask_to_record() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether a page of another origin may identify visitors: it may, as the headers say.
#[utoipa::path(
    options, path = "/v1/client/affiliate/identify",
    operation_id = "askToIdentifyVisitor", tag = "client", security(()),
    responses((status = 204, description = "It may."))
)]
async fn ask_to_identify() -> StatusCode {
    StatusCode::NO_CONTENT
}
