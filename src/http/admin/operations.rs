//! What operators look at: sales with everything told about them, stored events, findings; and the one
//! thing support mends by hand, a missed referral.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Data,
    books::{idempotency_key, is_prose, refuse},
    ok,
};
use crate::{
    app::{
        App,
        decide::{self, To},
        explain::CommissionView,
        keys::Principal,
        reads::{self, SaleView},
    },
    domain::{
        ids::{EnrollmentId, FindingId},
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        page::{Listing, Page},
        path::Named,
    },
    store::{
        findings::Finding,
        inbox::{EventFilter, EventRow, InboxState},
    },
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/sales/{id}", get(sale))
        .route("/v1/admin/sales/{id}/attribution", post(attribute))
        .route("/v1/admin/events", get(events))
        .route("/v1/admin/findings", get(findings))
}

async fn sale(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<SaleView>> {
    ok(reads::sale(&app, &by, &id).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttributionRequest {
    enrollment_id: Option<String>,
    code: Option<String>,
    reason: String,
}

#[derive(Serialize)]
struct Attributed {
    sale_id: Option<String>,
    enrollment_id: String,
    decision_id: String,
    commission: Option<CommissionView>,
}

async fn attribute(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<String>,
    headers: HeaderMap,
    Body(request): Body<AttributionRequest>,
) -> Answer<Data<Attributed>> {
    let to = match (request.enrollment_id, request.code) {
        (Some(enrollment), None) => To::Enrollment(EnrollmentId::parse(&enrollment).map_err(|_| {
            let message = "enrollment_id names no affiliate in a program of this sale's owner";
            refuse("UNKNOWN_ENROLLMENT", "enrollment_id", message)
        })?),
        (None, Some(code)) => To::Code(code),
        (Some(_), Some(_)) | (None, None) => {
            return Err(refuse("INVALID_BODY", "code", "give either enrollment_id or code"));
        }
    };
    let reason = request.reason;
    if reason.trim().is_empty() || !is_prose(&reason) {
        let message = "reason must say in at most 1000 characters why the sale is attributed by hand";
        return Err(refuse("INVALID_REASON", "reason", message));
    }
    let key = idempotency_key(&headers)?;
    let decided = decide::attribute_sale(&app, &by, &id, to, reason, key).await?;
    ok(Attributed {
        sale_id: decided.commission.as_ref().map(|commission| commission.sale_id.to_string()),
        enrollment_id: decided.decision.enrollment_id.to_string(),
        decision_id: decided.decision.id.to_string(),
        commission: decided.commission.as_ref().map(CommissionView::of),
    })
}

#[derive(Deserialize)]
struct EventQuery {
    state: Option<String>,
    r#type: Option<String>,
}

#[derive(Serialize)]
struct EventView {
    id: String,
    provider: String,
    endpoint_id: String,
    account: String,
    livemode: bool,
    provider_event_id: String,
    r#type: String,
    state: String,
    reason: Option<String>,
    attempts: i64,
    received_at: Timestamp,
    source: String,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            provider: row.provider,
            endpoint_id: row.endpoint_id,
            account: row.account,
            livemode: row.livemode,
            provider_event_id: row.provider_event_id,
            r#type: row.event_type,
            state: row.state,
            reason: row.reason,
            attempts: row.attempts,
            received_at: Timestamp::from_micros(row.received_at_us),
            source: row.source,
        }
    }
}

async fn events(
    State(app): State<App>,
    by: Principal,
    page: Page<String>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Answer<Listing<EventView>> {
    let Query(query) = query.map_err(|_| {
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID_QUERY", "the query string cannot be read")
    })?;
    let mut states = Vec::new();
    for word in query.state.iter().flat_map(|words| words.split(',')) {
        states.push(InboxState::parse(word).ok_or_else(|| {
            refuse("INVALID_STATE", "state", "state must be received, applied, ignored or parked")
        })?);
    }
    if query.r#type.as_ref().is_some_and(|word| word.chars().any(char::is_control)) {
        return Err(refuse("INVALID_TYPE", "type", "type must be a provider's event type"));
    }
    let filter = EventFilter {
        states,
        event_type: query.r#type,
        organization_id: None,
        before: page.after().cloned(),
    };
    let rows = reads::events(&app, &by, &filter, page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

#[derive(Serialize)]
struct FindingView {
    id: FindingId,
    kind: String,
    severity: &'static str,
    object: String,
    detail: String,
    created_at: Timestamp,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        Self {
            id: finding.id,
            kind: finding.kind,
            severity: finding.severity.as_str(),
            object: finding.object,
            detail: finding.detail,
            created_at: finding.created_at,
        }
    }
}

async fn findings(
    State(app): State<App>,
    by: Principal,
    page: Page<FindingId>,
) -> Answer<Listing<FindingView>> {
    let rows = reads::open_findings(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}
