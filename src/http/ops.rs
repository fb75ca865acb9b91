//! Health and metrics, on a listener of their own that is not for the internet.
//!
//! `/healthz` says that the process runs and asks nothing else; restarting a process because its
//! database is away helps nobody. `/readyz` says whether traffic should come here.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::store::Db;

/// A store that does not answer for this long is not reachable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why this node should get no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotReady {
    /// The process is stopping.
    Draining,
    /// The store does not answer.
    StoreUnreachable,
    /// The schema is not the one this program was built for.
    SchemaOutdated,
}

/// Asks the store whether it can be used.
pub trait Probe: Send + Sync + 'static {
    /// # Errors
    /// Why it cannot be used now.
    fn check(&self) -> impl Future<Output = Result<(), NotReady>> + Send;
}

/// The database of this node, as a [`Probe`].
pub struct StoreProbe(pub Db);

impl Probe for StoreProbe {
    async fn check(&self) -> Result<(), NotReady> {
        self.0.check_schema().await.map_err(|error| {
            if error.is_other_schema() { NotReady::SchemaOutdated } else { NotReady::StoreUnreachable }
        })
    }
}

struct Ops<P> {
    probe: P,
    metrics: PrometheusHandle,
    draining: CancellationToken,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn routes<P: Probe>(probe: P, metrics: PrometheusHandle, draining: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(Status { status: "ok", reason: None })))
        .route("/readyz", get(ready::<P>))
        .route("/metrics", get(render::<P>))
        .with_state(Arc::new(Ops { probe, metrics, draining }))
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<NotReady>,
}

async fn ready<P: Probe>(State(ops): State<Arc<Ops<P>>>) -> Response {
    let checked = if ops.draining.is_cancelled() {
        Err(NotReady::Draining)
    } else {
        timeout(PROBE_TIMEOUT, ops.probe.check()).await.unwrap_or(Err(NotReady::StoreUnreachable))
    };
    match checked {
        Ok(()) => Json(Status { status: "ready", reason: None }).into_response(),
        Err(reason) => {
            let body = Json(Status { status: "not_ready", reason: Some(reason) });
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn render<P: Probe>(State(ops): State<Arc<Ops<P>>>) -> Response {
    // The version of the text format, as the Prometheus page "Exposition formats" asks for it.
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.metrics.render())
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt as _;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt as _;

    use super::*;

    struct Answers(Result<(), NotReady>);

    impl Probe for Answers {
        async fn check(&self) -> Result<(), NotReady> {
            self.0
        }
    }

    async fn ask(path: &str, store: Result<(), NotReady>, draining: bool) -> (StatusCode, String) {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || metrics::counter!("remit_test_total").increment(3));
        let token = CancellationToken::new();
        if draining {
            token.cancel();
        }
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes(Answers(store), recorder.handle(), token).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_means_a_usable_store_and_no_drain() {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        for (store, draining, status, body) in [
            (Ok(()), false, StatusCode::OK, r#"{"status":"ready"}"#),
            (Ok(()), true, unavailable, r#"{"status":"not_ready","reason":"draining"}"#),
            (
                Err(NotReady::StoreUnreachable),
                false,
                unavailable,
                r#"{"status":"not_ready","reason":"store_unreachable"}"#,
            ),
            (
                Err(NotReady::SchemaOutdated),
                false,
                unavailable,
                r#"{"status":"not_ready","reason":"schema_outdated"}"#,
            ),
        ] {
            assert_eq!(ask("/readyz", store, draining).await, (status, body.to_owned()));
        }
    }

    #[tokio::test]
    async fn health_does_not_depend_on_the_store() {
        let (status, body) = ask("/healthz", Err(NotReady::StoreUnreachable), true).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"status":"ok"}"#));
    }

    #[tokio::test]
    async fn metrics_are_rendered_as_text() {
        let (status, body) = ask("/metrics", Ok(()), false).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("remit_test_total 3"), "{body}");
    }
}
