//! `/v1/admin/jobs`: the work on payouts and charges as operators see it, and what they can do about it.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    routing::{get, post},
};
use secrecy::SecretString;
use serde::Deserialize;

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
        page::{Listing, Page},
        path::Named,
    },
    store::job_views::JobFilter,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/jobs", get(list))
        .route("/v1/admin/jobs/{id}", get(show))
        .route("/v1/admin/jobs/{id}/retry", post(retry))
        .route("/v1/admin/jobs/{id}/resolve", post(resolve))
}

#[derive(Deserialize)]
struct JobQuery {
    state: Option<String>,
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

async fn show(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<JobDetails>> {
    ok(jobs::show(&app, &by, &id).await?)
}

async fn retry(State(app): State<App>, by: Principal, Named(id): Named<String>) -> Answer<Data<JobDetails>> {
    ok(jobs::retry(&app, &by, &id).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveRequest {
    executed: Option<String>,
    #[serde(default)]
    not_executed: bool,
    evidence: String,
    approver: String,
}

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
