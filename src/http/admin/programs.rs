//! `/v1/admin/affiliate/programs` (seed S0).

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{
        App,
        keys::Principal,
        programs::{self, ProgramFields},
    },
    domain::{
        ids::{OrganizationId, ProgramId},
        money::BasisPoints,
        payout::PayoutSchedule,
        terms::Terms,
        time::Timestamp,
    },
    http::{
        body::Body,
        page::{Listing, Page},
        path::Named,
    },
    store::programs::{MinPayout, ProgramDetails},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs", get(list).post(create))
        .route("/v1/admin/affiliate/programs/{program_id}", get(find).patch(update))
}

#[derive(Serialize)]
struct ProgramView {
    id: ProgramId,
    owner_organization_id: OrganizationId,
    name: String,
    status: &'static str,
    /// Commission, base, partial refunds, approval and hold.
    #[serde(flatten)]
    terms: Terms,
    terms_version: i64,
    conversion_kind: &'static str,
    attribution_model: &'static str,
    attribution_window_days: u16,
    platform_fee_bps: BasisPoints,
    min_payout: MinPayout,
    payout_schedule: Option<&'static str>,
    on_transfer_reversed: &'static str,
    applications: &'static str,
    created_at: Timestamp,
}

impl From<ProgramDetails> for ProgramView {
    fn from(program: ProgramDetails) -> Self {
        Self {
            id: program.id,
            owner_organization_id: program.organization_id,
            name: program.name,
            status: program.status.value.as_str(),
            terms: program.terms.value.terms,
            terms_version: program.terms.value.version,
            conversion_kind: program.conversion_kind.as_str(),
            attribution_model: program.attribution_model.as_str(),
            attribution_window_days: program.attribution_window_days,
            platform_fee_bps: program.platform_fee,
            min_payout: program.min_payout,
            payout_schedule: program.payout_schedule.map(PayoutSchedule::as_str),
            on_transfer_reversed: program.on_transfer_reversed.as_str(),
            applications: program.applications.as_str(),
            created_at: program.created_at,
        }
    }
}

async fn create(
    State(app): State<App>,
    by: Principal,
    Body(fields): Body<ProgramFields>,
) -> Created<ProgramView> {
    created(programs::create(&app, &by, fields).await?.into())
}

async fn list(State(app): State<App>, by: Principal, page: Page<ProgramId>) -> Answer<Listing<ProgramView>> {
    let rows = programs::list(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

async fn find(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
) -> Answer<Data<ProgramView>> {
    ok(programs::find(&app, &by, &program).await?.into())
}

async fn update(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    Body(fields): Body<ProgramFields>,
) -> Answer<Data<ProgramView>> {
    ok(programs::update(&app, &by, &program, fields).await?.into())
}
