//! `/v1/admin/affiliate/programs` (seed S0).

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{
        App,
        keys::Principal,
        programs::{self, ProgramFields},
        release,
    },
    domain::{
        ids::{OrganizationId, ProgramId},
        money::BasisPoints,
        payout::{OnTransferReversed, PayoutSchedule},
        program::{Dated, ProgramStatus, TermsVersion},
        terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, ProductRate, Terms},
        time::Timestamp,
    },
    http::{
        body::Body,
        openapi::{
            answers::NotFound,
            program::{NewProgram, ProgramChange},
        },
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::programs::{Applications, AttributionModel, ConversionKind, MinPayout, ProgramDetails},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(find, update))
        .routes(routes!(activate))
        .routes(routes!(pause))
        .routes(routes!(archive))
        .routes(routes!(terms))
        .routes(routes!(release))
}

/// What a program pays.
#[derive(Serialize, ToSchema)]
#[schema(as = Terms)]
struct TermsView {
    commission: CommissionRule,
    product_rates: Vec<ProductRate>,
    upline_bps: Vec<BasisPoints>,
    commission_base: CommissionBase,
    flat_on_partial: FlatOnPartial,
    approval_mode: ApprovalMode,
    hold_period_days: u16,
}

impl From<Terms> for TermsView {
    fn from(terms: Terms) -> Self {
        let Terms {
            commission,
            commission_base,
            flat_on_partial,
            approval_mode,
            hold_period_days,
            product_rates,
            upline_bps,
            // No version of a program has one.
            rate_override: _,
        } = terms;
        Self {
            commission,
            product_rates,
            upline_bps,
            commission_base,
            flat_on_partial,
            approval_mode,
            hold_period_days,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Program)]
struct ProgramView {
    id: ProgramId,
    owner_organization_id: OrganizationId,
    name: String,
    #[schema(value_type = ProgramStatus)]
    status: &'static str,
    #[serde(flatten)]
    terms: TermsView,
    terms_version: i64,
    #[schema(value_type = ConversionKind)]
    conversion_kind: &'static str,
    #[schema(value_type = AttributionModel)]
    attribution_model: &'static str,
    attribution_window_days: u16,
    platform_fee_bps: BasisPoints,
    #[schema(value_type = BTreeMap<String, i64>)]
    min_payout: MinPayout,
    #[schema(value_type = Option<PayoutSchedule>)]
    payout_schedule: Option<&'static str>,
    #[schema(value_type = OnTransferReversed)]
    on_transfer_reversed: &'static str,
    #[schema(value_type = Applications)]
    applications: &'static str,
    landing_url: Option<String>,
    created_at: Timestamp,
}

impl From<ProgramDetails> for ProgramView {
    fn from(program: ProgramDetails) -> Self {
        Self {
            id: program.id,
            owner_organization_id: program.organization_id,
            name: program.name,
            status: program.status.value.as_str(),
            terms: program.terms.value.terms.into(),
            terms_version: program.terms.value.version,
            conversion_kind: program.conversion_kind.as_str(),
            attribution_model: program.attribution_model.as_str(),
            attribution_window_days: program.attribution_window_days,
            platform_fee_bps: program.platform_fee,
            min_payout: program.min_payout,
            payout_schedule: program.payout_schedule.map(PayoutSchedule::as_str),
            on_transfer_reversed: program.on_transfer_reversed.as_str(),
            applications: program.applications.as_str(),
            landing_url: program.landing_url,
            created_at: program.created_at,
        }
    }
}

/// Makes a program: a draft, or active at once.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs",
    operation_id = "createProgram", tag = "programs",
    request_body = NewProgram,
    responses((status = 201, description = "The program.", body = Data<ProgramView>), (status = 404, response = NotFound))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Body(fields): Body<ProgramFields>,
) -> Created<ProgramView> {
    created(programs::create(&app, &by, fields).await?.into())
}

/// Programs, newest first.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs",
    operation_id = "listPrograms", tag = "programs",
    params(PageQuery),
    responses((status = 200, description = "A page of programs.", body = Listing<ProgramView>))
)]
async fn list(State(app): State<App>, by: Principal, page: Page<ProgramId>) -> Answer<Listing<ProgramView>> {
    let rows = programs::list(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

/// One program.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}",
    operation_id = "getProgram", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    responses((status = 200, description = "The program.", body = Data<ProgramView>))
)]
async fn find(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
) -> Answer<Data<ProgramView>> {
    ok(programs::find(&app, &by, &program).await?.into())
}

/// Changes a program. Changed terms become a new version that holds from now on.
#[utoipa::path(
    patch, path = "/v1/admin/affiliate/programs/{program_id}",
    operation_id = "updateProgram", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    request_body = ProgramChange,
    responses((status = 200, description = "The program.", body = Data<ProgramView>))
)]
async fn update(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(fields): Body<ProgramFields>,
) -> Answer<Data<ProgramView>> {
    ok(programs::update(&app, &by, &program, fields).await?.into())
}

/// Starts a program: from then on sales count.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/activate",
    operation_id = "activateProgram", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    responses((status = 200, description = "The program.", body = Data<ProgramView>))
)]
async fn activate(
    State(app): State<App>,
    by: Principal,
    path: Named<ProgramId>,
) -> Answer<Data<ProgramView>> {
    become_status(&app, &by, &path, ProgramStatus::Active).await
}

/// Stops a program for a while: what is sold meanwhile does not count.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/pause",
    operation_id = "pauseProgram", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    responses((status = 200, description = "The program.", body = Data<ProgramView>))
)]
async fn pause(State(app): State<App>, by: Principal, path: Named<ProgramId>) -> Answer<Data<ProgramView>> {
    become_status(&app, &by, &path, ProgramStatus::Paused).await
}

/// Ends a program for good. What was earned is still paid.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/archive",
    operation_id = "archiveProgram", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    responses((status = 200, description = "The program.", body = Data<ProgramView>))
)]
async fn archive(State(app): State<App>, by: Principal, path: Named<ProgramId>) -> Answer<Data<ProgramView>> {
    become_status(&app, &by, &path, ProgramStatus::Archived).await
}

async fn become_status(
    app: &App,
    by: &Principal,
    Named(program): &Named<ProgramId>,
    status: ProgramStatus,
) -> Answer<Data<ProgramView>> {
    let fields = ProgramFields { status: Some(status.as_str().into()), ..ProgramFields::default() };
    ok(programs::update(app, by, program, fields).await?.into())
}

#[derive(Serialize, ToSchema)]
#[schema(as = TermsVersion)]
struct TermsVersionView {
    version: i64,
    /// The first version holds from the beginning of time.
    effective_at: Timestamp,
    terms: TermsView,
}

impl From<Dated<TermsVersion>> for TermsVersionView {
    fn from(Dated { at, value: TermsVersion { version, terms } }: Dated<TermsVersion>) -> Self {
        Self { version, effective_at: at, terms: terms.into() }
    }
}

/// Every version of a program's terms, the newest first. A commission names the one it was reckoned by.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/terms",
    operation_id = "listTerms", tag = "programs",
    params(("program_id" = ProgramId, Path), PageQuery),
    responses((status = 200, description = "A page of versions.", body = Listing<TermsVersionView>))
)]
async fn terms(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    page: Page<i64>,
) -> Answer<Listing<TermsVersionView>> {
    let rows = programs::terms(&app, &by, &program, page.after().copied(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.value.version, Into::into)))
}

#[derive(Serialize, ToSchema)]
struct Released {
    /// Commissions that became payable.
    released: usize,
}

/// Lets become payable what is due now, without waiting for the schedule. No hold is cut short.
#[utoipa::path(
    post, path = "/v1/admin/affiliate/programs/{program_id}/release",
    operation_id = "releaseCommissions", tag = "programs",
    params(("program_id" = ProgramId, Path)),
    responses((status = 200, description = "How many were released.", body = Data<Released>))
)]
async fn release(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
) -> Answer<Data<Released>> {
    ok(Released { released: release::of_program(&app, &by, &program).await? })
}
