//! Settling a program, its payouts, and what stops them (`design.md` §7).

use axum::{
    Json, Router,
    extract::State,
    http::HeaderMap,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Data,
    books::{idempotency_key, refuse},
    ok,
};
use crate::{
    app::{
        App, holds,
        keys::Principal,
        payouts, reads,
        settle::{self, PaidLine, Request, Settlement, SkippedLine},
    },
    domain::{
        ids::{EnrollmentId, HoldId, PayoutId, ProgramId, RunId},
        money::Currency,
        time::Timestamp,
    },
    http::{
        body::{Body, OptionalBody},
        page::{Listing, Page},
        path::Named,
    },
    store::settlement::{AttemptRow, ItemRow, PayoutRow},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs/{program_id}/payouts/run", post(run))
        .route("/v1/admin/affiliate/programs/{program_id}/payouts", get(list))
        .route("/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}", get(find))
        .route("/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}/items", get(items))
        .route("/v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}/cancel", post(cancel))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/hold", post(hold))
        .route("/v1/admin/affiliate/programs/{program_id}/enrollments/{id}/unhold", post(unhold))
        .route("/v1/admin/payouts/pause", post(pause))
        .route("/v1/admin/payouts/resume", post(resume))
        .route("/v1/admin/payouts/status", get(status))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    dry_run: Option<bool>,
    as_of: Option<String>,
}

#[derive(Serialize)]
struct SettlementView {
    run_id: Option<RunId>,
    dry_run: bool,
    payouts: Vec<PaidView>,
    skipped: Vec<SkippedView>,
}

#[derive(Serialize)]
struct PaidView {
    id: Option<PayoutId>,
    enrollment_id: EnrollmentId,
    currency: Currency,
    due: i64,
    fee: i64,
    send: i64,
}

#[derive(Serialize)]
struct SkippedView {
    enrollment_id: EnrollmentId,
    currency: Currency,
    due: i64,
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

#[derive(Default, Serialize)]
pub(super) struct PayoutView {
    id: String,
    run_id: String,
    program_id: String,
    enrollment_id: String,
    affiliate_org_id: String,
    currency: String,
    due: i64,
    fee: i64,
    send: i64,
    state: String,
    reason: Option<String>,
    provider: String,
    livemode: bool,
    destination: String,
    intent_id: Option<String>,
    transfer_id: Option<String>,
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

async fn list(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<(i64, String)>,
) -> Answer<Listing<PayoutView>> {
    let rows = reads::payouts(&app, &by, &program, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize)]
struct ItemView {
    lot_id: String,
    commission_id: Option<String>,
    kind: String,
    amount: i64,
}

impl From<ItemRow> for ItemView {
    fn from(row: ItemRow) -> Self {
        let ItemRow { lot_id, commission_id, kind, amount_minor } = row;
        Self { lot_id, commission_id, kind, amount: amount_minor }
    }
}

#[derive(Serialize)]
struct AttemptView {
    number: i64,
    generation: i64,
    kind: String,
    sent_at: Timestamp,
    answered_at: Option<Timestamp>,
    verdict: Option<String>,
    status: Option<i64>,
    request_id: Option<String>,
    error_code: Option<String>,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            number: row.number,
            generation: row.generation,
            kind: row.kind,
            sent_at: Timestamp::from_micros(row.sent_at_us),
            answered_at: row.answered_at_us.map(Timestamp::from_micros),
            verdict: row.verdict,
            status: row.status,
            request_id: row.request_id,
            error_code: row.error_code,
        }
    }
}

#[derive(Serialize)]
struct PayoutDetail {
    #[serde(flatten)]
    payout: PayoutView,
    /// What it is made of; the rest, if there is more, is a list of its own.
    items: Vec<ItemView>,
    items_next_cursor: Option<String>,
    /// The last calls that were made for it.
    attempts: Vec<AttemptView>,
}

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
    })
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldRequest {
    reason: String,
}

#[derive(Serialize)]
struct HoldsView {
    enrollment_id: EnrollmentId,
    held: bool,
    holds: Vec<HoldView>,
}

#[derive(Serialize)]
struct HoldView {
    id: HoldId,
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

async fn hold(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
    Body(request): Body<HoldRequest>,
) -> Answer<Data<HoldsView>> {
    let holds = holds::hold(&app, &by, &program, &enrollment, &request.reason).await?;
    ok(HoldsView::of(enrollment, holds))
}

async fn unhold(
    State(app): State<App>,
    by: Principal,
    Named((program, enrollment)): Named<(ProgramId, EnrollmentId)>,
) -> Answer<Data<HoldsView>> {
    holds::unhold(&app, &by, &program, &enrollment).await?;
    ok(HoldsView::of(enrollment, Vec::new()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseRequest {
    reason: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeRequest {
    confirm_restored: Option<bool>,
    note: Option<String>,
}

#[derive(Serialize)]
struct StatusView {
    enabled: bool,
    paused: bool,
    pauses: Vec<PauseView>,
}

#[derive(Serialize)]
struct PauseView {
    id: HoldId,
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

async fn pause(
    State(app): State<App>,
    by: Principal,
    Body(request): Body<PauseRequest>,
) -> Answer<Data<StatusView>> {
    let pauses = holds::pause(&app, &by, &request.reason).await?;
    ok(StatusView::of(&app, pauses))
}

async fn resume(
    State(app): State<App>,
    by: Principal,
    OptionalBody(request): OptionalBody<ResumeRequest>,
) -> Answer<Data<StatusView>> {
    let confirmed = request.confirm_restored.unwrap_or(false);
    holds::resume(&app, &by, confirmed, request.note.as_deref()).await?;
    ok(StatusView::of(&app, Vec::new()))
}

async fn status(State(app): State<App>, by: Principal) -> Answer<Data<StatusView>> {
    let pauses = holds::status(&app, &by).await?;
    ok(StatusView::of(&app, pauses))
}
