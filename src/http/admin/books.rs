//! Conversions, commissions and balances of a program, and what people decide about conversions
//! (seed S0, "Attribute conversions" and "Handle refunds").

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{
        App,
        decide::{self, OnConversion},
        keys::Principal,
        reads,
        report::{self, NewReport},
    },
    domain::{
        commission::{ClawbackReason, CommissionState, DecisionKind},
        ids::{CommissionId, ConversionId, ProgramId, ProjectId},
        money::Currency,
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        page::{Listing, Page},
        path::Named,
    },
    store::views::{BalanceRow, CommissionRow, ConversionRow},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(
            "/v1/admin/affiliate/programs/{program_id}/conversions",
            get(list_conversions).post(report_conversion),
        )
        .route("/v1/admin/affiliate/programs/{program_id}/conversions/{id}/approve", post(approve))
        .route("/v1/admin/affiliate/programs/{program_id}/conversions/{id}/reject", post(reject))
        .route("/v1/admin/affiliate/programs/{program_id}/conversions/{id}/clawback", post(claw_back))
        .route("/v1/admin/affiliate/programs/{program_id}/commissions", get(list_commissions))
        .route("/v1/admin/affiliate/programs/{program_id}/balances", get(list_balances))
        .route("/v1/admin/commissions/{id}/explain", get(explain))
}

/// The state of a conversion in seed S0's words (`semantics.md`, "Views").
pub(in crate::http) fn status(state: CommissionState) -> &'static str {
    match state {
        CommissionState::AwaitingReview | CommissionState::Flagged => "pending",
        CommissionState::Held | CommissionState::Payable | CommissionState::InPayout => "approved",
        CommissionState::Paid => "paid",
        CommissionState::Denied => "rejected",
        CommissionState::Reversed => "clawed_back",
    }
}

#[derive(Default, Serialize)]
pub(super) struct ConversionView {
    id: String,
    program_id: String,
    enrollment_id: String,
    project_id: String,
    sale_id: String,
    commission_id: String,
    kind: String,
    external_id: Option<String>,
    attributed_by: String,
    code: Option<String>,
    status: &'static str,
    commission_state: String,
    reason: Option<String>,
    currency: String,
    earned_minor: i64,
    clawed_minor: i64,
    created_at: Timestamp,
}

impl From<ConversionRow> for ConversionView {
    fn from(row: ConversionRow) -> Self {
        Self {
            status: CommissionState::parse(&row.state).map_or("unknown", status),
            id: row.id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            project_id: row.project_id,
            sale_id: row.sale_id,
            commission_id: row.commission_id,
            kind: row.kind,
            external_id: row.external_id,
            attributed_by: row.attributed_by,
            code: row.code,
            commission_state: row.state,
            reason: row.reason,
            currency: row.currency,
            earned_minor: row.earned_minor,
            clawed_minor: row.clawed_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

async fn list_conversions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(i64, String)>,
) -> Answer<Listing<ConversionView>> {
    let rows = reads::conversions(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportRequest {
    project_id: String,
    external_id: String,
    code: String,
    gross_amount_cents: i64,
    currency: Option<String>,
    occurred_at: Option<String>,
}

impl ReportRequest {
    fn read(self) -> Result<NewReport, ApiError> {
        let currency = Currency::parse(self.currency.as_deref().unwrap_or("usd"))
            .ok()
            .filter(|currency| currency.is_listed())
            .ok_or_else(|| {
                refuse("INVALID_CURRENCY", "currency", "currency must be an ISO 4217 code such as usd")
            })?;
        let occurred_at = self.occurred_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
        Ok(NewReport {
            project_id: ProjectId::parse(&self.project_id).map_err(|_| {
                refuse("INVALID_PROJECT", "project_id", "project_id names no project of the program's owner")
            })?,
            external_id: self.external_id,
            code: self.code,
            gross_amount_cents: self.gross_amount_cents,
            currency,
            occurred_at: occurred_at.map_err(|_| {
                refuse(
                    "INVALID_TIME",
                    "occurred_at",
                    "occurred_at must be RFC 3339, such as 2026-01-31T00:00:00Z",
                )
            })?,
        })
    }
}

async fn report_conversion(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<ReportRequest>,
) -> Created<ConversionView> {
    created(report::report(&app, &by, &program, request.read()?).await?.into())
}

type OfProgram = Named<(ProgramId, ConversionId)>;

async fn approve(
    State(app): State<App>,
    by: Principal,
    path: OfProgram,
    headers: HeaderMap,
) -> Answer<Data<ConversionView>> {
    decide(&app, &by, path, plain(DecisionKind::Approve, &headers)?).await
}

async fn reject(
    State(app): State<App>,
    by: Principal,
    path: OfProgram,
    headers: HeaderMap,
) -> Answer<Data<ConversionView>> {
    decide(&app, &by, path, plain(DecisionKind::Reject, &headers)?).await
}

fn plain(kind: DecisionKind, headers: &HeaderMap) -> Result<OnConversion, ApiError> {
    let idempotency_key = idempotency_key(headers)?;
    Ok(OnConversion { kind, reason: None, amount: None, note: None, idempotency_key })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClawbackRequest {
    reason: String,
    amount_cents: Option<i64>,
    note: Option<String>,
}

async fn claw_back(
    State(app): State<App>,
    by: Principal,
    path: OfProgram,
    headers: HeaderMap,
    Body(request): Body<ClawbackRequest>,
) -> Answer<Data<ConversionView>> {
    let reason = ClawbackReason::parse(&request.reason).ok_or_else(|| {
        refuse("INVALID_REASON", "reason", "reason must be refund, chargeback, fraud or other")
    })?;
    let what = OnConversion {
        kind: DecisionKind::Clawback,
        reason: Some(reason),
        amount: request.amount_cents,
        note: note(request.note)?,
        idempotency_key: idempotency_key(&headers)?,
    };
    decide(&app, &by, path, what).await
}

async fn decide(
    app: &App,
    by: &Principal,
    Named((program, conversion)): OfProgram,
    what: OnConversion,
) -> Answer<Data<ConversionView>> {
    ok(decide::decide_conversion(app, by, &program, &conversion, what).await?.into())
}

/// The caller's own key of a request, 1 to 255 visible characters.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let message = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        refuse("INVALID_IDEMPOTENCY_KEY", "Idempotency-Key", message)
    })
}

fn note(text: Option<String>) -> Result<Option<String>, ApiError> {
    let message =
        "a note has at most 1000 characters and, but for line breaks and tabs, no control characters";
    match text {
        Some(text) if !is_prose(&text) => Err(refuse("INVALID_NOTE", "note", message)),
        text => Ok(text),
    }
}

/// Whether a text can be a person's own words: at most 1000 characters, none of which a database refuses
/// or a terminal obeys.
pub(super) fn is_prose(text: &str) -> bool {
    let is_layout = |c: char| matches!(c, '\n' | '\r' | '\t');
    text.chars().count() <= 1_000 && text.chars().all(|c| !c.is_control() || is_layout(c))
}

pub(super) fn refuse(code: &'static str, param: &'static str, message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
}

#[derive(Default, Serialize)]
pub(super) struct CommissionListed {
    id: String,
    conversion_id: String,
    sale_id: String,
    enrollment_id: String,
    program_id: String,
    level: i64,
    currency: String,
    base_minor: i64,
    amount_minor: i64,
    earned_minor: i64,
    clawed_minor: i64,
    held_minor: i64,
    payable_minor: i64,
    state: String,
    reason: Option<String>,
    paid_at: Timestamp,
    due_at: Option<Timestamp>,
    created_at: Timestamp,
}

impl From<CommissionRow> for CommissionListed {
    fn from(row: CommissionRow) -> Self {
        Self {
            id: row.id,
            conversion_id: row.conversion_id,
            sale_id: row.sale_id,
            enrollment_id: row.enrollment_id,
            program_id: row.program_id,
            level: row.level,
            currency: row.currency,
            base_minor: row.base_minor,
            amount_minor: row.amount_minor,
            earned_minor: row.earned_minor,
            clawed_minor: row.clawed_minor,
            held_minor: row.held_minor,
            payable_minor: row.released_minor,
            state: row.state,
            reason: row.reason,
            paid_at: Timestamp::from_micros(row.paid_at_us),
            due_at: row.due_at_us.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

async fn list_commissions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(i64, String)>,
) -> Answer<Listing<CommissionListed>> {
    let rows = reads::commissions(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize)]
struct BalanceView {
    enrollment_id: String,
    currency: String,
    held: i64,
    payable: i64,
    in_transit: i64,
    paid: i64,
}

impl From<BalanceRow> for BalanceView {
    fn from(row: BalanceRow) -> Self {
        let BalanceRow { enrollment_id, currency, held, payable, in_transit, paid } = row;
        Self { enrollment_id, currency, held, payable, in_transit, paid }
    }
}

async fn list_balances(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(String, String)>,
) -> Answer<Listing<BalanceView>> {
    let rows = reads::balances(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.enrollment_id.clone(), row.currency.clone()), Into::into)))
}

async fn explain(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<CommissionId>,
) -> Answer<Data<crate::app::explain::Explanation>> {
    ok(reads::explanation(&app, &by, &id).await?)
}
