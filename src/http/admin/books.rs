//! Conversions, commissions and balances of a program, and what people decide about conversions
//! (seed S0, "Attribute conversions" and "Handle refunds").

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, created, ok};
use crate::{
    app::{
        App,
        decide::{self, OnConversion},
        explain::Explanation,
        keys::Principal,
        reads,
        report::{self, NewReport, Reported},
    },
    domain::{
        commission::{ClawbackReason, CommissionState, ConversionStatus, DecisionKind},
        ids::{CommissionId, ConversionId, EnrollmentId, ProgramId, ProjectId, SaleId},
        money::Currency,
        terms::Position,
        time::Timestamp,
    },
    http::{
        body::Body,
        error::ApiError,
        idempotency,
        openapi::schemas::{ExternalId, Note, ReferralCode},
        page::{Listing, Page, PageQuery},
        params::{Params, StatusQuery},
        path::Named,
    },
    store::views::{BalanceRow, CommissionRow, ConversionRow, FlagRow},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_conversions, report_conversion))
        .routes(routes!(find_conversion))
        .routes(routes!(approve))
        .routes(routes!(reject))
        .routes(routes!(claw_back))
        .routes(routes!(set_hold_period))
        .routes(routes!(list_commissions))
        .routes(routes!(list_balances))
        .routes(routes!(explain))
}

/// How a stored state is called. It was written by this program, so it can be read.
pub(in crate::http) fn status(stored: &str) -> &'static str {
    CommissionState::parse(stored).map_or("unknown", |state| ConversionStatus::of(state).as_str())
}

/// A stored position. It was written by this program, so it can be read.
pub(in crate::http) fn position(stored: Option<&str>) -> Option<Position> {
    stored.and_then(|text| serde_json::from_str(text).ok())
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = Conversion)]
pub(super) struct ConversionView {
    #[schema(value_type = ConversionId)]
    id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = ProjectId)]
    project_id: String,
    #[schema(value_type = SaleId)]
    sale_id: String,
    #[schema(value_type = CommissionId)]
    commission_id: String,
    kind: String,
    external_id: Option<String>,
    attributed_by: String,
    code: Option<String>,
    touchpoint_id: Option<String>,
    touched_at: Option<Timestamp>,
    #[schema(value_type = ConversionStatus)]
    status: &'static str,
    #[schema(value_type = CommissionState)]
    commission_state: String,
    /// Why it is in that state, or earns nothing.
    reason: Option<String>,
    /// The version of the program's terms that it is reckoned by.
    terms_version: i64,
    /// Where the sale stands among others; null where the terms do not ask.
    position: Option<Position>,
    #[schema(value_type = Currency)]
    currency: String,
    earned_minor: i64,
    clawed_minor: i64,
    created_at: Timestamp,
}

impl From<ConversionRow> for ConversionView {
    fn from(row: ConversionRow) -> Self {
        Self {
            status: status(&row.state),
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
            touchpoint_id: row.touchpoint_id,
            touched_at: row.touched_at_us.map(Timestamp::from_micros),
            commission_state: row.state,
            reason: row.reason,
            terms_version: row.terms_version,
            position: position(row.position.as_deref()),
            currency: row.currency,
            earned_minor: row.earned_minor,
            clawed_minor: row.clawed_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

/// The conversions of a program, newest first. Those that are `pending` wait for you.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/conversions",
    operation_id = "listConversions", tag = "conversions",
    params(("program_id" = ProgramId, Path), StatusQuery, PageQuery),
    responses((status = 200, description = "A page of conversions.", body = Listing<ConversionView>))
)]
async fn list_conversions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
    page: Page<(i64, String)>,
) -> Answer<Listing<ConversionView>> {
    let status = params.status()?;
    let rows = reads::conversions(&app, &by, &program, status, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConversionFlag)]
struct FlagView {
    kind: String,
    id: String,
    raised_at: Timestamp,
    cleared_at: Option<Timestamp>,
    cleared_by: Option<String>,
}

impl From<FlagRow> for FlagView {
    fn from(row: FlagRow) -> Self {
        Self {
            kind: row.kind,
            id: row.cause_id,
            raised_at: Timestamp::from_micros(row.raised_at_us),
            cleared_at: row.cleared_at_us.map(Timestamp::from_micros),
            cleared_by: row.cleared_by,
        }
    }
}

/// A conversion with what stops or stopped its commission.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversionDetail)]
struct ConversionShown {
    #[serde(flatten)]
    conversion: ConversionView,
    flags: Vec<FlagView>,
}

/// One conversion, with what stops or stopped its commission.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/conversions/{id}",
    operation_id = "getConversion", tag = "conversions",
    params(("program_id" = ProgramId, Path), ("id" = ConversionId, Path)),
    responses((status = 200, description = "The conversion.", body = Data<ConversionShown>))
)]
async fn find_conversion(
    State(app): State<App>,
    by: Principal,
    Named((program, conversion)): OfProgram,
) -> Answer<Data<ConversionShown>> {
    let (row, flags) = reads::conversion(&app, &by, &program, &conversion).await?;
    ok(ConversionShown { conversion: row.into(), flags: flags.into_iter().map(Into::into).collect() })
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportRequest {
    #[schema(value_type = ProjectId)]
    project_id: String,
    /// The order's id at the one who reports.
    #[schema(value_type = ExternalId)]
    external_id: String,
    /// Whose code the buyer named.
    #[schema(value_type = Option<ReferralCode>, nullable = false)]
    code: Option<String>,
    /// Who bought, by the owner's own id or the visitor's: what touchpoints are told of.
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    subject_ref: Option<String>,
    /// More than 0 for a payment; 0 or more for an event or entitlement.
    #[schema(minimum = 0)]
    gross_amount_cents: i64,
    /// Tax within the amount.
    #[schema(nullable = false, minimum = 0)]
    tax_cents: Option<i64>,
    /// ISO 4217; that of the program's flat commission or `usd` where it is absent.
    #[schema(nullable = false, pattern = "^[A-Za-z]{3}$")]
    currency: Option<String>,
    /// What was converted; as the program says where it is absent.
    #[schema(nullable = false, pattern = "^(event|payment|entitlement)$")]
    kind: Option<String>,
    /// When it was paid; now where it is absent.
    #[schema(value_type = Option<Timestamp>)]
    occurred_at: Option<String>,
    customer: Option<String>,
    /// Days that this commission is held; as the program says where it is absent.
    #[schema(nullable = false, minimum = 0, maximum = 3650)]
    hold_period_days: Option<i64>,
}

impl ReportRequest {
    fn read(self) -> Result<NewReport, ApiError> {
        let currency = self.currency.as_deref().map(|code| {
            let listed = Currency::parse(code).ok().filter(|currency| currency.is_listed());
            listed.ok_or_else(|| {
                refuse("INVALID_CURRENCY", "currency", "currency must be an ISO 4217 code such as usd")
            })
        });
        let occurred_at = self.occurred_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
        Ok(NewReport {
            project_id: ProjectId::parse(&self.project_id).map_err(|_| {
                refuse("INVALID_PROJECT", "project_id", "project_id names no project of the program's owner")
            })?,
            external_id: self.external_id,
            code: self.code,
            subject_ref: self.subject_ref,
            gross_amount_cents: self.gross_amount_cents,
            tax_cents: self.tax_cents,
            currency: currency.transpose()?,
            kind: self.kind,
            occurred_at: occurred_at.map_err(|_| {
                refuse(
                    "INVALID_TIME",
                    "occurred_at",
                    "occurred_at must be RFC 3339, such as 2026-01-31T00:00:00Z",
                )
            })?,
            customer: self.customer,
            hold_period_days: self.hold_period_days,
        })
    }
}

/// A report that nobody is owed anything for: stored, and answered without a conversion.
#[derive(Serialize, ToSchema)]
struct Unattributed {
    /// Always null.
    #[schema(value_type = Option<Value>)]
    data: Option<ConversionView>,
    reason: &'static str,
}

/// 201 with the conversion, or 200 without one.
/// Reports a sale. The same order again changes nothing and gives the same conversion.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/conversions",
    operation_id = "reportConversion", tag = "conversions",
    params(("program_id" = ProgramId, Path)),
    request_body = ReportRequest,
    responses(
        (status = 201, description = "The conversion.", body = Data<ConversionView>),
        (status = 200, description = "Stored, and nobody is owed anything for it.", body = Unattributed)
    )
)]
async fn report_conversion(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(request): Body<ReportRequest>,
) -> Result<Response, ApiError> {
    let reason = match report::report(&app, &by, &program, request.read()?).await? {
        Reported::Conversion(row) => {
            return created(ConversionView::from(*row)).map(IntoResponse::into_response);
        }
        Reported::NoTouchpoint => "no_touchpoint",
        Reported::OtherProgram => "other_program",
    };
    Ok(Json(Unattributed { data: None, reason }).into_response())
}

type OfProgram = Named<(ProgramId, ConversionId)>;

/// Approves a conversion that waits for review.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/approve",
    operation_id = "approveConversion", tag = "conversions",
    params(("program_id" = ProgramId, Path), ("id" = ConversionId, Path)),
    responses((status = 200, description = "The conversion.", body = Data<ConversionView>))
)]
async fn approve(
    State(app): State<App>,
    by: Principal,
    path: OfProgram,
    headers: HeaderMap,
) -> Answer<Data<ConversionView>> {
    decide(&app, &by, path, plain(DecisionKind::Approve, &headers)?).await
}

/// Rejects a conversion.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/reject",
    operation_id = "rejectConversion", tag = "conversions",
    params(("program_id" = ProgramId, Path), ("id" = ConversionId, Path)),
    responses((status = 200, description = "The conversion.", body = Data<ConversionView>))
)]
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClawbackRequest {
    #[schema(value_type = ClawbackReason)]
    reason: String,
    /// Minor units; all that is left where it is absent.
    #[schema(minimum = 1)]
    amount_cents: Option<i64>,
    #[schema(value_type = Option<Note>)]
    note: Option<String>,
}

/// Takes a commission back, all of it or an amount.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/clawback",
    operation_id = "clawBackConversion", tag = "conversions",
    params(("program_id" = ProgramId, Path), ("id" = ConversionId, Path)),
    request_body = ClawbackRequest,
    responses((status = 200, description = "The conversion.", body = Data<ConversionView>))
)]
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldPeriodRequest {
    /// From the payment on, 86 400 seconds each; 0 releases at once.
    #[schema(minimum = 0, maximum = 3650)]
    hold_period_days: i64,
}

/// Holds a commission for other days than its program says, as long as it is not payable.
#[utoipa::path(
    put, path = "/v1/admin/affiliate/programs/{program_id}/conversions/{id}/hold-period",
    operation_id = "setHoldPeriod", tag = "conversions",
    params(("program_id" = ProgramId, Path), ("id" = ConversionId, Path)),
    request_body = HoldPeriodRequest,
    responses((status = 200, description = "The conversion.", body = Data<ConversionView>))
)]
async fn set_hold_period(
    State(app): State<App>,
    by: Principal,
    path: OfProgram,
    headers: HeaderMap,
    Body(request): Body<HoldPeriodRequest>,
) -> Answer<Data<ConversionView>> {
    let days = decide::check_hold_period(request.hold_period_days)?;
    let what = OnConversion { amount: Some(i64::from(days)), ..plain(DecisionKind::HoldPeriod, &headers)? };
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

/// The caller's own key of a request whose decision or run is named by it for ever.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    idempotency::key_of(headers)
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

#[derive(Default, Serialize, ToSchema)]
#[schema(as = Commission)]
pub(super) struct CommissionListed {
    #[schema(value_type = CommissionId)]
    id: String,
    #[schema(value_type = ConversionId)]
    conversion_id: String,
    #[schema(value_type = SaleId)]
    sale_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    level: i64,
    #[schema(value_type = Currency)]
    currency: String,
    base_minor: i64,
    amount_minor: i64,
    earned_minor: i64,
    clawed_minor: i64,
    held_minor: i64,
    payable_minor: i64,
    #[schema(value_type = CommissionState)]
    state: String,
    /// Why it is in that state, or earns nothing.
    reason: Option<String>,
    /// The version of the program's terms that it is reckoned by.
    terms_version: i64,
    /// Where the sale stands among others; null where the terms do not ask.
    position: Option<Position>,
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
            terms_version: row.terms_version,
            position: position(row.position.as_deref()),
            paid_at: Timestamp::from_micros(row.paid_at_us),
            due_at: row.due_at_us.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

/// The commissions of a program, newest first.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/commissions",
    operation_id = "listCommissions", tag = "commissions",
    params(("program_id" = ProgramId, Path), PageQuery),
    responses((status = 200, description = "A page of commissions.", body = Listing<CommissionListed>))
)]
async fn list_commissions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(i64, String)>,
) -> Answer<Listing<CommissionListed>> {
    let rows = reads::commissions(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Balance)]
struct BalanceView {
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = Currency)]
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

/// The balances of a program, per enrollment and currency.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/balances",
    operation_id = "listBalances", tag = "commissions",
    params(("program_id" = ProgramId, Path), PageQuery),
    responses((status = 200, description = "A page of balances.", body = Listing<BalanceView>))
)]
async fn list_balances(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(String, String)>,
) -> Answer<Listing<BalanceView>> {
    let rows = reads::balances(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.enrollment_id.clone(), row.currency.clone()), Into::into)))
}

/// Each amount of a commission with its rule, base and rounding, and the events behind it.
#[utoipa::path(
    get, path = "/v1/admin/commissions/{id}/explain",
    operation_id = "explainCommission", tag = "commissions",
    params(("id" = CommissionId, Path)),
    responses((status = 200, description = "The explanation.", body = Data<Explanation>))
)]
async fn explain(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<CommissionId>,
) -> Answer<Data<Explanation>> {
    ok(reads::explanation(&app, &by, &id).await?)
}
