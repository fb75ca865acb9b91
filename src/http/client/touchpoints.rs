//! `/v1/client/affiliate/touchpoint` and `/v1/client/affiliate/identify` (seed S0, "In-app link").

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};

use super::{Client, KeyHolder};
use crate::{
    app::touchpoints::{self, NewClick},
    domain::time::Timestamp,
    http::{admin::Data, body::Body, error::ApiError},
};

pub(super) fn router() -> Router<Client> {
    Router::new()
        .route("/v1/client/affiliate/touchpoint", post(record).options(super::preflight))
        .route("/v1/client/affiliate/identify", post(identify).options(super::preflight))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClickRequest {
    code: String,
    source: Option<String>,
    anonymous_id: Option<String>,
    subject_ref: Option<String>,
    occurred_at: Option<String>,
}

#[derive(Serialize)]
struct TouchpointView {
    id: String,
    program_id: String,
    code: String,
    source: String,
    occurred_at: Timestamp,
}

/// 201 for a new touchpoint, 200 for the same click again.
async fn record(
    State(client): State<Client>,
    KeyHolder(by): KeyHolder,
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
    let recorded = touchpoints::record(&client.app, &by, click).await?;
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentifyRequest {
    anonymous_id: String,
    subject_ref: String,
}

#[derive(Serialize)]
struct Identified {
    anonymous_id: String,
    subject_ref: String,
}

async fn identify(
    State(client): State<Client>,
    KeyHolder(by): KeyHolder,
    Body(request): Body<IdentifyRequest>,
) -> Result<Json<Data<Identified>>, ApiError> {
    let IdentifyRequest { anonymous_id, subject_ref } = request;
    client.limit(&by, [Some(&anonymous_id), Some(&subject_ref)])?;
    touchpoints::identify(&client.app, &by, &anonymous_id, &subject_ref).await?;
    Ok(Json(Data { data: Identified { anonymous_id, subject_ref } }))
}
