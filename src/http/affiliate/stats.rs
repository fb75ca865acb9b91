//! An affiliate's figures and balances, and what it would be paid now.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, ok, part};
use crate::{
    app::{
        App,
        affiliate::{self, OwnBalanceRow, PayoutAccount, Preview, PreviewLine},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, ProgramId},
        money::Currency,
        payout::{PayoutSchedule, Skip},
        time::Timestamp,
    },
    http::{
        page::{Listing, Page, PageQuery},
        params::{DaysQuery, Params, PartQuery},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stats)).routes(routes!(balance)).routes(routes!(payout_request))
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnStats)]
struct StatsView {
    from: Timestamp,
    to: Timestamp,
    clicks: i64,
    conversions: i64,
    /// Conversions per click; null without clicks.
    conversion_rate_bps: Option<i64>,
    currencies: Vec<EarnedView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnEarnings)]
struct EarnedView {
    #[schema(value_type = Currency)]
    currency: String,
    earned_cents: i64,
    clawed_cents: i64,
    net_cents: i64,
    /// Earned per click; null without clicks.
    epc_cents: Option<i64>,
}

/// The caller's clicks, conversions and earnings over some days.
#[utoipa::path(
    get, path = "/v1/affiliate/me/stats",
    operation_id = "getOwnStats", tag = "affiliate",
    params(DaysQuery, PartQuery),
    responses((status = 200, description = "The figures.", body = Data<StatsView>))
)]
async fn stats(State(app): State<App>, by: Principal, params: Params) -> Answer<Data<StatsView>> {
    let found = affiliate::stats(&app, &by, &part(&params)?, params.days(app.now())?).await?;
    let currencies = found.currencies.into_iter().map(|figures| EarnedView {
        currency: figures.currency,
        earned_cents: figures.earned,
        clawed_cents: figures.clawed,
        net_cents: figures.net,
        epc_cents: figures.epc,
    });
    ok(StatsView {
        from: found.days.window().from,
        to: found.days.window().to,
        clicks: found.clicks,
        conversions: found.conversions,
        conversion_rate_bps: found.conversion_rate_bps,
        currencies: currencies.collect(),
    })
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnBalance)]
struct BalanceView {
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = Currency)]
    currency: String,
    /// Awaiting review and held together.
    pending_cents: i64,
    awaiting_review_cents: i64,
    held_cents: i64,
    payable_cents: i64,
    in_transit_cents: i64,
    paid_cents: i64,
    /// What was taken back and is netted against what is earned next.
    debt_cents: i64,
    next_release_at: Option<Timestamp>,
}

impl From<OwnBalanceRow> for BalanceView {
    fn from(row: OwnBalanceRow) -> Self {
        Self {
            enrollment_id: row.enrollment_id,
            program_id: row.program_id,
            currency: row.currency,
            pending_cents: row.awaiting_review.saturating_add(row.held),
            awaiting_review_cents: row.awaiting_review,
            held_cents: row.held,
            payable_cents: row.payable.max(0),
            in_transit_cents: row.in_transit,
            paid_cents: row.paid,
            debt_cents: row.payable.min(0).saturating_neg(),
            next_release_at: row.next_release_at_us.map(Timestamp::from_micros),
        }
    }
}

/// The caller's balances, per enrollment and currency.
#[utoipa::path(
    get, path = "/v1/affiliate/me/balance",
    operation_id = "listOwnBalances", tag = "affiliate",
    params(PartQuery, PageQuery),
    responses((status = 200, description = "A page of balances.", body = Listing<BalanceView>))
)]
async fn balance(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: Page<(String, String)>,
) -> Answer<Listing<BalanceView>> {
    let rows = affiliate::balances(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.enrollment_id.clone(), row.currency.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutPreview)]
struct PreviewView {
    payouts_enabled: bool,
    payouts_paused: bool,
    account: Option<AccountView>,
    balances: Vec<PreviewLineView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutPreviewAccount)]
struct AccountView {
    provider: &'static str,
    account_id: String,
    /// Null while the provider has told nothing; that stops no payout.
    ready: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutPreviewLine)]
struct PreviewLineView {
    enrollment_id: EnrollmentId,
    program_id: ProgramId,
    currency: Currency,
    due_cents: i64,
    min_payout_cents: Option<i64>,
    meets_minimum: bool,
    #[schema(value_type = Option<PayoutSchedule>)]
    payout_schedule: Option<&'static str>,
    /// Whether a settlement would pay it, were payouts enabled and not paused.
    would_be_paid: bool,
    fee_cents: Option<i64>,
    send_cents: Option<i64>,
    #[schema(value_type = Option<Skip>)]
    reason: Option<&'static str>,
}

impl From<PreviewLine> for PreviewLineView {
    fn from(line: PreviewLine) -> Self {
        Self {
            enrollment_id: line.enrollment_id,
            program_id: line.program_id,
            currency: line.currency,
            due_cents: line.due,
            min_payout_cents: line.minimum,
            meets_minimum: line.due > 0 && line.minimum.is_some_and(|minimum| line.due >= minimum),
            payout_schedule: line.schedule.map(PayoutSchedule::as_str),
            would_be_paid: line.split.is_some(),
            fee_cents: line.split.map(|split| split.fee),
            send_cents: line.split.map(|split| split.send),
            reason: line.skip.map(Skip::as_str),
        }
    }
}

/// What the caller would be paid now. It moves nothing.
#[utoipa::path(
    get, path = "/v1/affiliate/me/payout-request",
    operation_id = "previewOwnPayout", tag = "affiliate",
    params(PartQuery),
    responses((status = 200, description = "What would be paid, and what would not and why.", body = Data<PreviewView>))
)]
async fn payout_request(State(app): State<App>, by: Principal, params: Params) -> Answer<Data<PreviewView>> {
    let Preview { enabled, paused, account, lines } = affiliate::preview(&app, &by, &part(&params)?).await?;
    let account = account.map(|PayoutAccount { provider, account_id, is_ready }| AccountView {
        provider,
        account_id,
        ready: is_ready,
    });
    ok(PreviewView {
        payouts_enabled: enabled,
        payouts_paused: paused,
        account,
        balances: lines.into_iter().map(Into::into).collect(),
    })
}
