//! An affiliate's conversions, commissions and payouts. Of a sale it shows what the affiliate's amount follows
//! from, and nothing of who bought.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, ok, part};
use crate::{
    app::{
        App,
        affiliate::{self, Because, OwnCommissionRow, OwnConversionRow, OwnPayoutRow, Reasons},
        keys::Principal,
    },
    domain::{
        commission::{CommissionState, ConversionStatus},
        ids::{CommissionId, ConversionId, EnrollmentId, LotId, PayoutId, ProgramId},
        ledger::LotKind,
        money::Currency,
        payout::PayoutState,
        terms::Position,
        time::Timestamp,
    },
    http::{
        admin::{position, status},
        page::{Listing, Page, PageQuery},
        params::{Params, PartQuery, StatusQuery},
        path::Named,
    },
    store::settlement::ItemRow,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_conversions))
        .routes(routes!(find_conversion))
        .routes(routes!(list_commissions))
        .routes(routes!(find_commission))
        .routes(routes!(list_payouts))
        .routes(routes!(find_payout))
}

/// Rows newest first: the time of the last one in microseconds, and its id.
type ByTime = Page<(i64, String)>;

#[derive(Serialize, ToSchema)]
#[schema(as = OwnConversion)]
struct ConversionView {
    #[schema(value_type = ConversionId)]
    id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = CommissionId)]
    commission_id: String,
    kind: String,
    attributed_by: String,
    code: Option<String>,
    #[schema(value_type = ConversionStatus)]
    status: &'static str,
    #[schema(value_type = CommissionState)]
    commission_state: String,
    reason: Option<String>,
    #[schema(value_type = Currency)]
    currency: String,
    earned_cents: i64,
    clawed_cents: i64,
    paid_at: Timestamp,
    created_at: Timestamp,
}

impl From<OwnConversionRow> for ConversionView {
    fn from(row: OwnConversionRow) -> Self {
        Self {
            status: status(&row.state),
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

/// The caller's conversions, newest first.
#[utoipa::path(
    get, path = "/v1/affiliate/me/conversions",
    operation_id = "listOwnConversions", tag = "affiliate",
    params(PartQuery, StatusQuery, PageQuery),
    responses((status = 200, description = "A page of conversions.", body = Listing<ConversionView>))
)]
async fn list_conversions(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<ConversionView>> {
    let (part, status) = (part(&params)?, params.status()?);
    let rows = affiliate::conversions(&app, &by, &part, status, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

/// One conversion of the caller's.
#[utoipa::path(
    get, path = "/v1/affiliate/me/conversions/{id}",
    operation_id = "getOwnConversion", tag = "affiliate",
    params(("id" = ConversionId, Path)),
    responses((status = 200, description = "The conversion.", body = Data<ConversionView>))
)]
async fn find_conversion(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<ConversionId>,
) -> Answer<Data<ConversionView>> {
    ok(affiliate::conversion(&app, &by, &id).await?.into())
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnCommission)]
struct CommissionView {
    #[schema(value_type = CommissionId)]
    id: String,
    #[schema(value_type = Option<ConversionId>)]
    conversion_id: Option<String>,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    level: i64,
    #[schema(value_type = ConversionStatus)]
    status: &'static str,
    #[schema(value_type = CommissionState)]
    state: String,
    reason: Option<String>,
    base_cents: i64,
    #[schema(value_type = Currency)]
    base_currency: String,
    #[schema(value_type = Currency)]
    currency: String,
    amount_cents: i64,
    /// The version of the program's terms that it is reckoned by.
    terms_version: i64,
    /// Where the sale stands among others; null where the terms do not ask.
    position: Option<Position>,
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
            status: status(&row.state),
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
            terms_version: row.terms_version,
            position: position(row.position.as_deref()),
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

/// The caller's commissions, newest first.
#[utoipa::path(
    get, path = "/v1/affiliate/me/commissions",
    operation_id = "listOwnCommissions", tag = "affiliate",
    params(PartQuery, PageQuery),
    responses((status = 200, description = "A page of commissions.", body = Listing<CommissionView>))
)]
async fn list_commissions(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<CommissionView>> {
    let rows = affiliate::commissions(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnCommissionDetail)]
struct CommissionDetail {
    #[serde(flatten)]
    commission: CommissionView,
    sale_status: &'static str,
    steps: Vec<StepView>,
    entries: Vec<EntryView>,
    flags: Vec<FlagView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnStep)]
struct StepView {
    what: &'static str,
    how: String,
    amount_cents: i64,
    currency: Currency,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnEntry)]
struct EntryView {
    id: String,
    kind: String,
    amount_cents: i64,
    #[schema(value_type = Currency)]
    currency: String,
    posted_at: Timestamp,
    because: Vec<BecauseView>,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = OwnCause)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = OwnFlag)]
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

/// One commission of the caller's, with the reason of each amount.
#[utoipa::path(
    get, path = "/v1/affiliate/me/commissions/{id}",
    operation_id = "getOwnCommission", tag = "affiliate",
    params(("id" = CommissionId, Path)),
    responses((status = 200, description = "The commission.", body = Data<CommissionDetail>))
)]
async fn find_commission(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<CommissionId>,
) -> Answer<Data<CommissionDetail>> {
    let (row, reasons) = affiliate::commission(&app, &by, &id).await?;
    ok(CommissionDetail::of(row, reasons))
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnPayout)]
struct PayoutView {
    #[schema(value_type = PayoutId)]
    id: String,
    #[schema(value_type = ProgramId)]
    program_id: String,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = Currency)]
    currency: String,
    due_cents: i64,
    fee_cents: i64,
    send_cents: i64,
    #[schema(value_type = PayoutState)]
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

/// The caller's payouts, newest first.
#[utoipa::path(
    get, path = "/v1/affiliate/me/payouts",
    operation_id = "listOwnPayouts", tag = "affiliate",
    params(PartQuery, PageQuery),
    responses((status = 200, description = "A page of payouts.", body = Listing<PayoutView>))
)]
async fn list_payouts(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: ByTime,
) -> Answer<Listing<PayoutView>> {
    let rows = affiliate::payouts(&app, &by, &part(&params)?, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| (row.created_at_us, row.id.clone()), Into::into)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnPayoutDetail)]
struct PayoutDetail {
    #[serde(flatten)]
    payout: PayoutView,
    /// What it is made of, a page at a time.
    items: Vec<ItemView>,
    items_next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OwnPayoutItem)]
struct ItemView {
    #[schema(value_type = LotId)]
    lot_id: String,
    #[schema(value_type = Option<CommissionId>)]
    commission_id: Option<String>,
    #[schema(value_type = LotKind)]
    kind: String,
    amount_cents: i64,
}

impl From<ItemRow> for ItemView {
    fn from(row: ItemRow) -> Self {
        let ItemRow { lot_id, commission_id, kind, amount_minor } = row;
        Self { lot_id, commission_id, kind, amount_cents: amount_minor }
    }
}

/// One payout of the caller's, and what it is made of.
#[utoipa::path(
    get, path = "/v1/affiliate/me/payouts/{id}",
    operation_id = "getOwnPayout", tag = "affiliate",
    params(("id" = PayoutId, Path), PageQuery),
    responses((status = 200, description = "The payout.", body = Data<PayoutDetail>))
)]
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
