//! The admin API: one file per resource, each with its routes, its requests and its answers. Handlers
//! read the request and show the result; what may be done, and by whom, is decided in `app`.

mod analytics;
mod books;
mod endpoints;
mod enrollments;
mod exports;
mod jobs;
mod keys;
mod operations;
mod organizations;
mod payouts;
mod programs;
mod projects;

use axum::{Json, Router, http::StatusCode};
use serde::Serialize;

pub(super) use books::status;

use super::error::ApiError;
use crate::app::App;

/// Every route of the admin API.
pub fn router() -> Router<App> {
    Router::new()
        .merge(organizations::router())
        .merge(projects::router())
        .merge(keys::router())
        .merge(endpoints::router())
        .merge(programs::router())
        .merge(enrollments::router())
        .merge(books::router())
        .merge(payouts::router())
        .merge(operations::router())
        .merge(jobs::router())
        .merge(analytics::router())
        .merge(exports::router())
}

/// `{"data": {…}}`.
#[derive(Debug, Serialize)]
pub struct Data<T> {
    /// The object.
    pub data: T,
}

/// What a handler answers.
type Answer<T> = Result<Json<T>, ApiError>;

/// What a handler answers that made something.
type Created<T> = Result<(StatusCode, Json<Data<T>>), ApiError>;

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
fn ok<T>(data: T) -> Answer<Data<T>> {
    Ok(Json(Data { data }))
}

#[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which all may fail")]
fn created<T>(data: T) -> Created<T> {
    Ok((StatusCode::CREATED, Json(Data { data })))
}

/// An id in a body. What is not an id names nothing that exists.
fn id<T, E>(parsed: Result<T, E>) -> Result<T, ApiError> {
    parsed.map_err(|_| ApiError::not_found())
}
