//! The admin API: one file per resource, each with its routes, its requests and its answers. Handlers
//! read the request and show the result; what may be done, and by whom, is decided in `app`.

mod analytics;
mod audit;
mod books;
pub(super) mod codes;
mod endpoints;
mod enrollments;
mod exports;
mod jobs;
mod keys;
mod operations;
mod organizations;
mod payouts;
mod preview;
mod programs;
mod projects;
mod touchpoints;

use axum::{Json, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

pub(super) use books::{position, status};

use super::error::ApiError;
use crate::app::App;

/// Every route of the admin API.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(organizations::router())
        .merge(projects::router())
        .merge(keys::router())
        .merge(endpoints::router())
        .merge(programs::router())
        .merge(preview::router())
        .merge(enrollments::router())
        .merge(codes::router())
        .merge(touchpoints::router())
        .merge(books::router())
        .merge(payouts::router())
        .merge(operations::router())
        .merge(jobs::router())
        .merge(audit::router())
        .merge(analytics::router())
        .merge(exports::router())
}

/// `{"data": {…}}`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Data<T> {
    /// The object.
    pub data: T,
}

/// What a handler answers.
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// What a handler answers that made something.
pub(super) type Created<T> = Result<(StatusCode, Json<Data<T>>), ApiError>;

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
pub(super) fn ok<T>(data: T) -> Answer<Data<T>> {
    Ok(Json(Data { data }))
}

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
pub(super) fn created<T>(data: T) -> Created<T> {
    Ok((StatusCode::CREATED, Json(Data { data })))
}

/// An id in a body. What is not an id names nothing that exists.
pub(super) fn id<T, E>(parsed: Result<T, E>) -> Result<T, ApiError> {
    parsed.map_err(|_| ApiError::not_found())
}
