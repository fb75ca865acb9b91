//! Settling a program, its payouts, and what stops them (`design.md` §7).

use axum::{Json, extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Answer, Data,
    books::{idempotency_key, refuse},
    ok,
};
use crate::{
    app::{
        App,
        bank_payouts::BankPayoutView,
        holds,
        jobs::AttemptView,
        keys::Principal,
        payouts, reads,
        settle::{self, PaidLine, Request, Settlement, SkippedLine},
    },
    domain::{
        ids::{
            CommissionId, EnrollmentId, HoldId, IntentId, LotId, OrganizationId, PayoutId, ProgramId, RunId,
        },
        ledger::LotKind,
        money::Currency,
        payout::{OnTransferReversed, PayoutState, Skip},
        time::Timestamp,
    },
    http::{
        body::{Body, OptionalBody},
        openapi::schemas::Reason,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::{
        holds::{HoldKind, PauseKind},
        settlement::{ItemRow, PayoutRow},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(run))
        .routes(routes!(list))
        .routes(routes!(find))
        .routes(routes!(items))
        .routes(routes!(cancel))
        .routes(routes!(hold))
        .routes(routes!(unhold))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(status))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    dry_run: Option<bool>,
    #[schema(value_type = Option<Timestamp>)]
    as_of: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Settlement)]
struct SettlementView {
    run_id: Option<RunId>,
    dry_run: bool,
    payouts: Vec<PaidView>,
    skipped: Vec<SkippedView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SettlementPayout)]
struct PaidView {
    id: Option<PayoutId>,
    enrollment_id: EnrollmentId,
    currency: Currency,
    due: i64,
    fee: i64,
    send: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SettlementSkip)]
struct SkippedView {
    enrollment_id: EnrollmentId,
    currency: Currency,
    due: i64,
    #[schema(value_type = Skip)]
    reason: &'static str,
}

impl From<PaidLine> for PaidView {
    fn from(line: PaidLine) -> Self {
        let PaidLine { id, enrollment_id, currency, split } = line;
        Self { id, enrollment_id, currency, due: split.due, fee: split.fee, send: split.send }
    }
}

impl From<SkippedLine> for SkippedView {
    fn from(line: SkippedLine) -> Self {
        let SkippedLine { enrollment_id, currency, due, reason } = line;
        Self { enrollment_id, currency, due, reason: reason.as_str() }
    }
}

impl From<Settlement> for SettlementView {
    fn from(settlement: Settlement) -> Self {
        Self {
            dry_run: settlement.run_id.is_none(),
            run_id: settlement.run_id,
            payouts: settlement.payouts.into_iter().map(Into::into).collect(),
            skipped: settlement.skipped.into_iter().map(Into::into).collect(),
        }
    }
}

/// Settles a program now, or shows what a settlement would do.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/payouts/run",
    operation_id = "runSettlement", tag = "payouts",
    params(("program_id" = ProgramId, Path)),
    request_body = Option<RunRequest>,
    responses((status = 200, description = "Who is paid, and who is not and why.", body = Data<SettlementView>))
)]
async fn run(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    headers: HeaderMap,
    OptionalBody(request): OptionalBody<RunRequest>,
) -> Answer<Data<SettlementView>> {
    let as_of = request.as_of.as_deref().map(Timestamp::parse_rfc3339).transpose().map_err(|_| {
        refuse("INVALID_AS_OF", "as_of", "as_of must be RFC 3339, such as 2026-01-31T00:00:00Z")
    })?;
    let key = idempotency_key(&headers)?;
    let settlement = if request.dry_run.unwrap_or(false) {
        settle::plan(&app, &by, &program, as_of).await?
    } else {
        settle::run(&app, &by, &Request { program, as_of, key }).await?
    };
    ok(settlement.into())
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = Payout)]
pub(super) struct PayoutView {
    #[schema(value_type = PayoutId)]
    id: String,
    #[schema(value_type = RunId)]
    run_id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = OrganizationId)]
    affiliate_org_id: String,
    #[schema(value_type = Currency)]
    currency: String,
    due: i64,
    fee: i64,
    send: i64,
    #[schema(value_type = PayoutState)]
    state: String,
    reason: Option<String>,
    provider: String,
    livemode: bool,
    destination: String,
    #[schema(value_type = Option<IntentId>)]
    intent_id: Option<String>,
    transfer_id: Option<String>,
    #[schema(value_type = OnTransferReversed)]
    on_transfer_reversed: String,
    reversed: i64,
    returned: i64,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
}

impl From<PayoutRow> for PayoutView {
    fn from(row: PayoutRow) -> Self {
        Self {
            id: row.id,
            run_id: row.run_id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            affiliate_org_id: row.organization_id,
            currency: row.currency,
            due: row.due_minor,
            fee: row.fee_minor,
            send: row.send_minor,
            state: row.state,
            reason: row.reason,
            provider: row.provider,
            livemode: row.livemode,
            destination: row.destination,
            intent_id: row.intent_id,
            transfer_id: row.transfer_id,
            on_transfer_reversed: row.on_transfer_reversed,
            reversed: row.reversed_minor,
            returned: row.returned_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
            completed_at: row.completed_at_us.map(Timestamp::from_micros),
        }
    }
}

/// The payouts of a program, newest first.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/payouts",
    operation_id = "listPayouts", tag = "payouts",
    params(("program_id" = ProgramId, Path), PageQuery),
    responses((status = 200, description = "A page of payouts.", body = Listing<PayoutView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(i64, String)>,
) -> Answer<Listing<PayoutView>> {
    let rows = reads::payouts(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutItem)]
struct ItemView {
    #[schema(value_type = LotId)]
    lot_id: String,
    #[schema(value_type = Option<CommissionId>)]
    commission_id: Option<String>,
    #[schema(value_type = LotKind)]
    kind: String,
    amount: i64,
}

impl From<ItemRow> for ItemView {
    fn from(row: ItemRow) -> Self {
        let ItemRow { lot_id, commission_id, kind, amount_minor } = row;
        Self { lot_id, commission_id, kind, amount: amount_minor }
    }
}

#[derive(Serialize, ToSchema)]
struct PayoutDetail {
    #[serde(flatten)]
    payout: PayoutView,
    /// What it is made of; the rest, if there is more, is a list of its own.
    items: Vec<ItemView>,
    items_next_cursor: Option<String>,
    /// The last calls that were made for it.
    attempts: Vec<AttemptView>,
    /// What became of the account's last payouts to its bank; they say nothing of this payout.
    bank_payouts: Vec<BankPayoutView>,
}

/// One payout, what it is made of and the calls that were made for it.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}",
    operation_id = "getPayout", tag = "payouts",
    params(("program_id" = ProgramId, Path), ("payout_id" = PayoutId, Path), PageQuery),
    responses((status = 200, description = "The payout.", body = Data<PayoutDetail>))
)]
async fn find(
    State(app): State<App>,
    by: Principal,
    Named((program, payout)): Named<(ProgramId, PayoutId)>,
    page: Page<String>,
) -> Answer<Data<PayoutDetail>> {
    let found = reads::payout(&app, &by, &program, &payout, page.fetch()).await?;
    let items = page.listing(found.items, |item| item.lot_id.clone(), Into::into);
    ok(PayoutDetail {
        payout: found.payout.into(),
        items: items.data,
        items_next_cursor: items.next_cursor,
        attempts: found.attempts.into_iter().map(Into::into).collect(),
        bank_payouts: found.bank_payouts,
    })
}

/// What a payout is made of.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}/items",
    operation_id = "listPayoutItems", tag = "payouts",
    params(("program_id" = ProgramId, Path), ("payout_id" = PayoutId, Path), PageQuery),
    responses((status = 200, description = "A page of items.", body = Listing<ItemView>))
)]
async fn items(
    State(app): State<App>,
    by: Principal,
    Named((program, payout)): Named<(ProgramId, PayoutId)>,
    page: Page<String>,
) -> Answer<Listing<ItemView>> {
    let after = page.after().map(String::as_str);
    let rows = reads::payout_items(&app, &by, &program, &payout, after, page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.lot_id.clone(), Into::into)))
}

/// Cancels a payout of which nothing was sent.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}/cancel",
    operation_id = "cancelPayout", tag = "payouts",
    params(("program_id" = ProgramId, Path), ("payout_id" = PayoutId, Path)),
    responses((status = 200, description = "The payout.", body = Data<PayoutView>))
)]
async fn cancel(
    State(app): State<App>,
    by: Principal,
    Named((program, payout)): Named<(ProgramId, PayoutId)>,
) -> Answer<Data<PayoutView>> {
    // A payout of another program is not there, whoever owns it.
    reads::payout(&app, &by, &program, &payout, 0).await?;
    payouts::cancel(&app, &by, &payout).await?;
    ok(reads::payout(&app, &by, &program, &payout, 0).await?.payout.into())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldRequest {
    #[schema(value_type = Reason)]
    reason: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Holds)]
struct HoldsView {
    enrollment_id: EnrollmentId,
    held: bool,
    holds: Vec<HoldView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Hold)]
struct HoldView {
    id: HoldId,
    #[schema(value_type = HoldKind)]
    kind: &'static str,
    reason: String,
    actor: String,
    placed_at: Timestamp,
}

impl HoldsView {
    fn of(enrollment_id: EnrollmentId, holds: Vec<holds::Hold>) -> Self {
        let shown = |hold: holds::Hold| HoldView {
            id: hold.id,
            kind: hold.kind.as_str(),
            reason: hold.reason,
            actor: hold.actor,
            placed_at: hold.placed_at,
        };
        Self { enrollment_id, held: !holds.is_empty(), holds: holds.into_iter().map(shown).collect() }
    }
}

/// Stops the payouts of an affiliate.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/hold",
    operation_id = "holdEnrollment", tag = "payouts",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    request_body = HoldRequest,
    responses((status = 200, description = "What stops them.", body = Data<HoldsView>))
)]
async fn hold(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    Body(request): Body<HoldRequest>,
) -> Answer<Data<HoldsView>> {
    let holds = holds::hold(&app, &by, &program, &enrollment, &request.reason).await?;
    ok(HoldsView::of(enrollment, holds))
}

/// Lets the payouts of an affiliate go on.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/unhold",
    operation_id = "unholdEnrollment", tag = "payouts",
    params(("program_id" = ProgramId, Path), ("id" = EnrollmentId, Path)),
    responses((status = 200, description = "What stops them: nothing.", body = Data<HoldsView>))
)]
async fn unhold(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
) -> Answer<Data<HoldsView>> {
    holds::unhold(&app, &by, &program, &enrollment).await?;
    ok(HoldsView::of(enrollment, Vec::new()))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PauseRequest {
    #[schema(value_type = Reason)]
    reason: String,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResumeRequest {
    confirm_restored: Option<bool>,
    #[schema(value_type = Option<Reason>)]
    note: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutsStatus)]
struct StatusView {
    enabled: bool,
    paused: bool,
    pauses: Vec<PauseView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Pause)]
struct PauseView {
    id: HoldId,
    #[schema(value_type = PauseKind)]
    kind: &'static str,
    reason: String,
    actor: String,
    paused_at: Timestamp,
}

impl StatusView {
    fn of(app: &App, pauses: Vec<holds::Pause>) -> Self {
        let shown = |pause: holds::Pause| PauseView {
            id: pause.id,
            kind: pause.kind.as_str(),
            reason: pause.reason,
            actor: pause.actor,
            paused_at: pause.paused_at,
        };
        Self {
            enabled: app.config.payouts_live,
            paused: !pauses.is_empty(),
            pauses: pauses.into_iter().map(shown).collect(),
        }
    }
}

/// Stops all payouts of this installation.
#[utoipa::path(
    post, path = "/v1/admin/payouts/pause",
    operation_id = "pausePayouts", tag = "payouts",
    security(("operatorKey" = [])),
    request_body = PauseRequest,
    responses((status = 200, description = "What stops them.", body = Data<StatusView>))
)]
async fn pause(
    State(app): State<App>,
    by: Principal,
    Body(request): Body<PauseRequest>,
) -> Answer<Data<StatusView>> {
    let pauses = holds::pause(&app, &by, &request.reason).await?;
    ok(StatusView::of(&app, pauses))
}

/// Lets all payouts go on.
#[utoipa::path(
    post, path = "/v1/admin/payouts/resume",
    operation_id = "resumePayouts", tag = "payouts",
    security(("operatorKey" = [])),
    request_body = Option<ResumeRequest>,
    responses((status = 200, description = "What stops them: nothing.", body = Data<StatusView>))
)]
async fn resume(
    State(app): State<App>,
    by: Principal,
    OptionalBody(request): OptionalBody<ResumeRequest>,
) -> Answer<Data<StatusView>> {
    let confirmed = request.confirm_restored.unwrap_or(false);
    holds::resume(&app, &by, confirmed, request.note.as_deref()).await?;
    ok(StatusView::of(&app, Vec::new()))
}

/// Whether payouts are enabled, and what stops them.
#[utoipa::path(
    get, path = "/v1/admin/payouts/status",
    operation_id = "getPayoutsStatus", tag = "payouts",
    security(("operatorKey" = [])),
    responses((status = 200, description = "Where payouts stand.", body = Data<StatusView>))
)]
async fn status(State(app): State<App>, by: Principal) -> Answer<Data<StatusView>> {
    let pauses = holds::status(&app, &by).await?;
    ok(StatusView::of(&app, pauses))
}
