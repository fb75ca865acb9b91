//! A program's conversions, commissions and payouts as files: the rows that the lists show, with the same
//! fields and values.

use axum::{Router, extract::State, response::Response, routing::get};
use serde::Serialize;

use super::{
    books::{CommissionListed, ConversionView},
    payouts::PayoutView,
};
use crate::{
    app::{
        App,
        exports::{self, Exported},
        keys::Principal,
    },
    domain::ids::ProgramId,
    http::{
        error::ApiError,
        file::{Format, file},
        params::Params,
        path::Named,
    },
    store::{
        settlement::PayoutRow,
        views::{CommissionRow, ConversionRow},
    },
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/affiliate/programs/{program_id}/exports/conversions", get(conversions))
        .route("/v1/admin/affiliate/programs/{program_id}/exports/commissions", get(commissions))
        .route("/v1/admin/affiliate/programs/{program_id}/exports/payouts", get(payouts))
}

async fn conversions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Result<Response, ApiError> {
    export::<ConversionRow, ConversionView>("conversions", &app, &by, &program, &params).await
}

async fn commissions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Result<Response, ApiError> {
    export::<CommissionRow, CommissionListed>("commissions", &app, &by, &program, &params).await
}

async fn payouts(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Result<Response, ApiError> {
    export::<PayoutRow, PayoutView>("payouts", &app, &by, &program, &params).await
}

async fn export<R: Exported, V: From<R> + Serialize + Default + 'static>(
    what: &str,
    app: &App,
    by: &Principal,
    program: &ProgramId,
    params: &Params,
) -> Result<Response, ApiError> {
    let format = Format::read(params)?;
    let rows = exports::export::<R>(app, by, program, params.window(app.now())?).await?;
    file(&format!("{what}-{program}"), format, rows, V::from).await
}
