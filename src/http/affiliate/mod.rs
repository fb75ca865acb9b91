//! The affiliate's side of the API, `/v1/affiliate/me/…`: "me" is the organization of the key. Handlers read
//! the request and show the result; whose side it is, is decided in `app`. What belongs to a peer answers as
//! what does not exist.

mod books;
mod codes;
mod invites;
mod statement;
mod stats;

use axum::Json;
use utoipa_axum::router::OpenApiRouter;

use super::{admin::Data, error::ApiError, params::Params};
use crate::{
    app::{App, affiliate::Part},
    domain::ids::{EnrollmentId, ProgramId},
};

/// Every route of the affiliate's side.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(invites::router())
        .merge(codes::router())
        .merge(stats::router())
        .merge(books::router())
        .merge(statement::router())
}

/// What a handler answers.
type Answer<T> = Result<Json<T>, ApiError>;

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
fn ok<T>(data: T) -> Answer<Data<T>> {
    Ok(Json(Data { data }))
}

/// Which part of the affiliate's side is asked for. A program or an enrollment of somebody else's is a part
/// of which there is nothing, like one that does not exist.
fn part(params: &Params) -> Result<Part, ApiError> {
    Ok(Part {
        program: params.id("program_id", "INVALID_PROGRAM_ID", ProgramId::parse)?,
        enrollment: params.id("enrollment_id", "INVALID_ENROLLMENT_ID", EnrollmentId::parse)?,
    })
}
