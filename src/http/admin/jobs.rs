//! `/v1/admin/jobs`: the work on payouts and charges as operators see it, and what they can do about it.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, books::refuse, ok};
use crate::{
    app::{
        App,
        jobs::{self, Claim, JobDetails, JobView, Resolution},
        keys::Principal,
    },
    domain::{ids::JobId, intent::IntentKind, job::JobState},
    http::{
        body::Body,
        error::ApiError,
        openapi::schemas::Reason,
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::job_views::JobFilter,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(retry))
        .routes(routes!(resolve))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobQuery {
    /// Only jobs in one of these states, separated by commas.
    #[param(
        nullable = false,
        pattern = "^(available|running|retryable|parked|unknown|completed|discarded)(,(available|running|retryable|parked|unknown|completed|discarded))*$"
    )]
    state: Option<String>,
    /// Only jobs of this kind.
    #[param(nullable = false, pattern = "^(transfer|charge)$")]
    kind: Option<String>,
}

impl JobQuery {
    fn read(self, after: Option<JobId>) -> Result<JobFilter, ApiError> {
        let mut states = Vec::new();
        for word in self.state.iter().flat_map(|words| words.split(',')) {
            states.push(JobState::parse(word).ok_or_else(|| {
                let message = "state must be available, running, retryable, parked, unknown, completed or \
                               discarded";
                refuse("INVALID_STATE", "state", message)
            })?);
        }
        let kind = self.kind.as_deref().map(|word| {
            IntentKind::parse(word)
                .ok_or_else(|| refuse("INVALID_KIND", "kind", "kind must be transfer or charge"))
        });
        Ok(JobFilter { states, kind: kind.transpose()?, after })
    }
}

/// Jobs, newest first.
#[utoipa::path(
    get, path = "/v1/admin/jobs",
    operation_id = "listJobs", tag = "jobs",
    params(PageQuery, JobQuery),
    responses((status = 200, description = "A page of jobs.", body = Listing<JobView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<JobId>,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Answer<Listing<JobView>> {
    let Query(query) = query.map_err(|_| {
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID_QUERY", "the query string cannot be read")
    })?;
    let filter = query.read(page.after().cloned())?;
    let rows = jobs::list(&app, &by, &filter, page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

/// Everything about one job and the intent that it works on.
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}",
    operation_id = "getJob", tag = "jobs",
    params(("id" = String, Path, description = "The id of the job or of its intent.")),
    responses((status = 200, description = "The job.", body = Data<JobDetails>))
)]
async fn show(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<JobDetails>> {
    ok(jobs::show(&app, &by, &id).await?)
}

/// Makes a job due now.
#[utoipa::path(
    post, path = "/v1/admin/jobs/{id}/retry",
    operation_id = "retryJob", tag = "jobs",
    params(("id" = String, Path, description = "The id of the job or of its intent.")),
    responses((status = 200, description = "The job.", body = Data<JobDetails>))
)]
async fn retry(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<JobDetails>> {
    ok(jobs::retry(&app, &by, &id).await?)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResolveRequest {
    /// The id of the provider's object; either this or `not_executed`.
    executed: Option<String>,
    #[serde(default)]
    not_executed: bool,
    #[schema(value_type = Reason)]
    evidence: String,
    /// A key of somebody else.
    approver: String,
}

/// Says what became of an intent of which nothing else is known. Takes two people.
#[utoipa::path(
    post, path = "/v1/admin/jobs/{id}/resolve",
    operation_id = "resolveJob", tag = "jobs",
    params(("id" = String, Path, description = "The id of the job or of its intent.")),
    request_body = ResolveRequest,
    responses((status = 200, description = "The job.", body = Data<JobDetails>))
)]
async fn resolve(
    State(app): State<App>,
    by: Principal,
    Named(id): Named<String>,
    Body(request): Body<ResolveRequest>,
) -> Answer<Data<JobDetails>> {
    let claim = match (request.executed, request.not_executed) {
        (Some(object), false) => Claim::Executed(object),
        (None, true) => Claim::NotExecuted,
        (Some(_), true) | (None, false) => {
            let message = "give either executed, the id of the provider's object, or \"not_executed\": true";
            return Err(refuse("INVALID_BODY", "executed", message));
        }
    };
    let resolution =
        Resolution { claim, evidence: request.evidence, approver: SecretString::from(request.approver) };
    ok(jobs::resolve(&app, &by, &id, &resolution).await?)
}
