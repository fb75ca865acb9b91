//! A program's conversions, commissions and payouts as files: the rows that the lists show, with the same
//! fields and values.

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

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
        params::{FormatQuery, Params, WindowQuery},
        path::Named,
    },
    store::{
        settlement::PayoutRow,
        views::{CommissionRow, ConversionRow},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(conversions)).routes(routes!(commissions)).routes(routes!(payouts))
}

/// The conversions of a program as a file, of a stretch of time.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/exports/conversions",
    operation_id = "exportConversions", tag = "exports",
    params(("program_id" = ProgramId, Path), WindowQuery, FormatQuery),
    responses((status = 200, description = "The rows, as the list shows them.",
        content((String = "text/csv"), (String = "application/x-ndjson"))))
)]
async fn conversions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Result<Response, ApiError> {
    export::<ConversionRow, ConversionView>("conversions", &app, &by, &program, &params).await
}

/// The commissions of a program as a file, of a stretch of time.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/exports/commissions",
    operation_id = "exportCommissions", tag = "exports",
    params(("program_id" = ProgramId, Path), WindowQuery, FormatQuery),
    responses((status = 200, description = "The rows, as the list shows them.",
        content((String = "text/csv"), (String = "application/x-ndjson"))))
)]
async fn commissions(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Result<Response, ApiError> {
    export::<CommissionRow, CommissionListed>("commissions", &app, &by, &program, &params).await
}

/// The payouts of a program as a file, of a stretch of time.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/exports/payouts",
    operation_id = "exportPayouts", tag = "exports",
    params(("program_id" = ProgramId, Path), WindowQuery, FormatQuery),
    responses((status = 200, description = "The rows, as the list shows them.",
        content((String = "text/csv"), (String = "application/x-ndjson"))))
)]
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
