//! An affiliate's conversions, commissions and payouts. Of a sale it shows what the affiliate's amount follows
//! from, and nothing of who bought.

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use super::{Answer, Data, ok, part};
use crate::{
    app::{
        App,
        affiliate::{self, Because, OwnCommissionRow, OwnConversionRow, OwnPayoutRow, Reasons},
        keys::Principal,
    },
    domain::{
        commission::CommissionState,
        ids::{CommissionId, ConversionId, PayoutId},
        money::Currency,
        time::Timestamp,
    },
    http::{
        admin::status,
        page::{Listing, Page},
        params::Params,
        path::Named,
    },
    store::settlement::ItemRow,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/affiliate/me/conversions", get(list_conversions))
        .route("/v1/affiliate/me/conversions/{id}", get(find_conversion))
        .route("/v1/affiliate/me/commissions", get(list_commissions))
        .route("/v1/affiliate/me/commissions/{id}", get(find_commission))
        .route("/v1/affiliate/me/payouts", get(list_payouts))
        .route("/v1/affiliate/me/payouts/{id}", get(find_payout))
}

/// Rows newest first: the time of the last one in microseconds, and its id.
type ByTime = Page<(i64, String)>;

#[derive(Serialize)]
struct ConversionView {
    id: String,
    program_id: String,
    enrollment_id: String,
    commission_id: String,
    kind: String,
    attributed_by: String,
    code: Option<String>,
    status: &'static str,
    commission_state: String,
    reason: Option<String>,
    currency: String,
    earned_cents: i64,
    clawed_cents: i64,
    paid_at: Timestamp,
    created_at: Timestamp,
}

impl From<OwnConversionRow> for ConversionView {
    fn from(row: OwnConversionRow) -> Self {
        Self {
            status: CommissionState::parse(&row.state).map_or("unknown", status),
            id: row.id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            commission_id: row.commission_id,
            kind: row.kind,
            attributed_by: row.attributed_by,
            code: row.code,
            commission_state: row.state,
            reason: row.reason,
            currency: row.currency,
            earned_cents: row.earned_minor,
            clawed_cents: row.clawed_minor,
            paid_at: Timestamp::from_micros(row.paid_at_us),
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

async fn list_conversions(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<ConversionView>> {
    let rows = affiliate::conversions(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

async fn find_conversion(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<ConversionId>,
) -> Answer<Data<ConversionView>> {
    ok(affiliate::conversion(&app, &by, &id).await?.into())
}

#[derive(Serialize)]
struct CommissionView {
    id: String,
    conversion_id: Option<String>,
    program_id: String,
    enrollment_id: String,
    level: i64,
    status: &'static str,
    state: String,
    reason: Option<String>,
    base_cents: i64,
    base_currency: String,
    currency: String,
    amount_cents: i64,
    earned_cents: i64,
    clawed_cents: i64,
    held_cents: i64,
    payable_cents: i64,
    paid_at: Timestamp,
    due_at: Option<Timestamp>,
    created_at: Timestamp,
}

impl From<OwnCommissionRow> for CommissionView {
    fn from(row: OwnCommissionRow) -> Self {
        Self {
            status: CommissionState::parse(&row.state).map_or("unknown", status),
            id: row.id,
            conversion_id: row.conversion_id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            level: row.level,
            state: row.state,
            reason: row.reason,
            base_cents: row.base_minor,
            base_currency: row.base_currency,
            currency: row.currency,
            amount_cents: row.amount_minor,
            earned_cents: row.earned_minor,
            clawed_cents: row.clawed_minor,
            held_cents: row.held_minor,
            payable_cents: row.released_minor,
            paid_at: Timestamp::from_micros(row.paid_at_us),
            due_at: row.due_at_us.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(row.created_at_us),
        }
    }
}

async fn list_commissions(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<CommissionView>> {
    let rows = affiliate::commissions(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize)]
struct CommissionDetail {
    #[serde(flatten)]
    commission: CommissionView,
    sale_status: &'static str,
    steps: Vec<StepView>,
    entries: Vec<EntryView>,
    flags: Vec<FlagView>,
}

#[derive(Serialize)]
struct StepView {
    what: &'static str,
    how: String,
    amount_cents: i64,
    currency: Currency,
}

#[derive(Serialize)]
struct EntryView {
    id: String,
    kind: String,
    amount_cents: i64,
    currency: String,
    posted_at: Timestamp,
    because: Vec<BecauseView>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum BecauseView {
    Event { r#type: String },
    Decision { decision: String, reason: Option<String> },
    Time { rule: String },
}

impl From<Because> for BecauseView {
    fn from(because: Because) -> Self {
        match because {
            Because::Event(r#type) => Self::Event { r#type },
            Because::Decision(decision, reason) => Self::Decision { decision, reason },
            Because::Time(rule) => Self::Time { rule },
        }
    }
}

#[derive(Serialize)]
struct FlagView {
    kind: &'static str,
    raised_at: Timestamp,
    cleared_at: Option<Timestamp>,
}

impl CommissionDetail {
    fn of(row: OwnCommissionRow, reasons: Reasons) -> Self {
        let steps = reasons.steps.into_iter().map(|step| StepView {
            what: step.what,
            how: step.how,
            amount_cents: step.amount,
            currency: step.currency,
        });
        let entries = reasons.entries.into_iter().map(|entry| EntryView {
            id: entry.id,
            kind: entry.kind,
            amount_cents: entry.amount,
            currency: entry.currency,
            posted_at: entry.posted_at,
            because: entry.because.into_iter().map(Into::into).collect(),
        });
        let flags = reasons.flags.into_iter().map(|flag| FlagView {
            kind: flag.kind,
            raised_at: flag.raised_at,
            cleared_at: flag.cleared_at,
        });
        Self {
            commission: row.into(),
            sale_status: reasons.sale_status,
            steps: steps.collect(),
            entries: entries.collect(),
            flags: flags.collect(),
        }
    }
}

async fn find_commission(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<CommissionId>,
) -> Answer<Data<CommissionDetail>> {
    let (row, reasons) = affiliate::commission(&app, &by, &id).await?;
    ok(CommissionDetail::of(row, reasons))
}

#[derive(Serialize)]
struct PayoutView {
    id: String,
    program_id: String,
    enrollment_id: String,
    currency: String,
    due_cents: i64,
    fee_cents: i64,
    send_cents: i64,
    state: String,
    reason: Option<String>,
    provider: String,
    livemode: bool,
    destination: String,
    reversed_cents: i64,
    returned_cents: i64,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
}

impl From<OwnPayoutRow> for PayoutView {
    fn from(row: OwnPayoutRow) -> Self {
        Self {
            id: row.id,
            program_id: row.program_id,
            enrollment_id: row.enrollment_id,
            currency: row.currency,
            due_cents: row.due_minor,
            fee_cents: row.fee_minor,
            send_cents: row.send_minor,
            state: row.state,
            reason: row.reason,
            provider: row.provider,
            livemode: row.livemode,
            destination: row.destination,
            reversed_cents: row.reversed_minor,
            returned_cents: row.returned_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
            completed_at: row.completed_at_us.map(Timestamp::from_micros),
        }
    }
}

async fn list_payouts(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<PayoutView>> {
    let rows = affiliate::payouts(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize)]
struct PayoutDetail {
    #[serde(flatten)]
    payout: PayoutView,
    /// What it is made of, a page at a time.
    items: Vec<ItemView>,
    items_next_cursor: Option<String>,
}

#[derive(Serialize)]
struct ItemView {
    lot_id: String,
    commission_id: Option<String>,
    kind: String,
    amount_cents: i64,
}

impl From<ItemRow> for ItemView {
    fn from(row: ItemRow) -> Self {
        let ItemRow { lot_id, commission_id, kind, amount_minor } = row;
        Self { lot_id, commission_id, kind, amount_cents: amount_minor }
    }
}

async fn find_payout(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<PayoutId>,
    page: Page<String>,
) -> Answer<Data<PayoutDetail>> {
    let after = page.after().map(String::as_str);
    let (row, items) = affiliate::payout(&app, &by, &id, after, page.fetch()).await?;
    let items = page.listing(items, |item| item.lot_id.clone(), Into::into);
    ok(PayoutDetail { payout: row.into(), items: items.data, items_next_cursor: items.next_cursor })
}
