//! What operators look at: sales with everything told about them, stored events, findings; and the one
//! thing support mends by hand, a missed referral.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

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
        ids::{DecisionId, EnrollmentId, FindingId, InboxId, SaleId},
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        openapi::schemas::{Reason, ReferralCode},
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::{
        findings::{Finding, Severity},
        inbox::{EventFilter, EventRow, EventSource, InboxState},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sale))
        .routes(routes!(attribute))
        .routes(routes!(events))
        .routes(routes!(findings))
}

/// A sale with everything that was told about it.
#[utoipa::path(
    get, path = "/v1/admin/sales/{id}",
    operation_id = "getSale", tag = "operations",
    params(("id" = String, Path, description = "The id of the sale, or any id of a provider that names it.")),
    responses((status = 200, description = "The sale.", body = Data<SaleView>))
)]
async fn sale(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<SaleView>> {
    ok(reads::sale(&app, &by, &id).await?)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AttributionRequest {
    /// Either this or `code`.
    #[schema(value_type = Option<EnrollmentId>)]
    enrollment_id: Option<String>,
    /// Either this or `enrollment_id`.
    #[schema(value_type = Option<ReferralCode>)]
    code: Option<String>,
    #[schema(value_type = Reason)]
    reason: String,
}

#[derive(Serialize, ToSchema)]
struct Attributed {
    #[schema(value_type = Option<SaleId>)]
    sale_id: Option<String>,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = DecisionId)]
    decision_id: String,
    commission: Option<CommissionView>,
}

/// Attributes a sale by hand, where a referral was missed.
#[utoipa::path(
    post, path = "/v1/admin/sales/{id}/attribution",
    operation_id = "attributeSale", tag = "operations",
    params(("id" = String, Path, description = "The id of the sale, or any id of a provider that names it.")),
    request_body = AttributionRequest,
    responses((status = 200, description = "What was decided.", body = Data<Attributed>))
)]
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EventQuery {
    /// Only events in one of these states, separated by commas.
    #[param(
        nullable = false,
        pattern = "^(received|applied|ignored|parked)(,(received|applied|ignored|parked))*$"
    )]
    state: Option<String>,
    /// Only events of this type of the provider's.
    #[param(nullable = false)]
    r#type: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
struct EventView {
    #[schema(value_type = InboxId)]
    id: String,
    provider: String,
    endpoint_id: String,
    account: String,
    livemode: bool,
    provider_event_id: String,
    r#type: String,
    #[schema(value_type = InboxState)]
    state: String,
    reason: Option<String>,
    attempts: i64,
    received_at: Timestamp,
    #[schema(value_type = EventSource)]
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

/// Stored events, newest first.
#[utoipa::path(
    get, path = "/v1/admin/events",
    operation_id = "listEvents", tag = "operations",
    params(PageQuery, EventQuery),
    responses((status = 200, description = "A page of events.", body = Listing<EventView>))
)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
struct FindingView {
    id: FindingId,
    kind: String,
    #[schema(value_type = Severity)]
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

/// What an operator should look at.
#[utoipa::path(
    get, path = "/v1/admin/findings",
    operation_id = "listFindings", tag = "operations",
    params(PageQuery),
    responses((status = 200, description = "A page of findings.", body = Listing<FindingView>))
)]
async fn findings(
    State(app): State<App>,
    by: Principal,
    page: Page<FindingId>,
) -> Answer<Listing<FindingView>> {
    let rows = reads::open_findings(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}
