//! Logs to standard error, metrics in Prometheus text.
//!
//! Only names, buckets and set-up live here; whoever handles a thing logs and counts it. Bodies,
//! secrets and personal data are never fields of a log line or labels of a metric.

use std::{io::IsTerminal as _, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Names of the metrics that operators rely on (design, "Metrics").
pub mod names {
    /// Counter of webhook requests by `provider` and `outcome`.
    pub const WEBHOOK_REQUESTS: &str = "remit_webhook_requests_total";
    /// Histogram of seconds from the start to the end of one commit of the receiver.
    pub const WEBHOOK_COMMIT_SECONDS: &str = "remit_webhook_commit_seconds";
    /// Histogram of how many events one commit of the receiver held.
    pub const WEBHOOK_COMMIT_EVENTS: &str = "remit_webhook_commit_events";
    /// Counter of followed links by `outcome`: counted, not counted on purpose, over the limit, or lost
    /// because the store did not take the click in time.
    pub const REDIRECTS: &str = "remit_redirects_total";
    /// Histogram of one commit of clicks.
    pub const CLICK_COMMIT_SECONDS: &str = "remit_click_commit_seconds";
    /// Histogram of how many clicks one commit held.
    pub const CLICK_COMMIT_EVENTS: &str = "remit_click_commit_events";
    /// Gauge of inbox events by `state`.
    pub const INBOX_EVENTS: &str = "remit_inbox_events";
    /// Gauge of the age of the oldest event that waits to be processed, in seconds.
    pub const INBOX_LAG_SECONDS: &str = "remit_inbox_lag_seconds";
    /// Gauge of the age of the oldest request to fold a sale again, in seconds.
    pub const REFOLD_LAG_SECONDS: &str = "remit_refold_lag_seconds";
    /// Histogram of how many events one processing batch held.
    pub const PROCESS_BATCH_EVENTS: &str = "remit_process_batch_events";
    /// Gauge of outbound jobs by `kind` and `state`.
    pub const JOBS: &str = "remit_jobs";
    /// Gauge of how long the oldest due job has been due, in seconds.
    pub const OLDEST_DUE_JOB_SECONDS: &str = "remit_oldest_due_job_seconds";
    /// Histogram of one provider call, by `provider`, `op` and `outcome`.
    pub const PROVIDER_REQUEST_SECONDS: &str = "remit_provider_request_seconds";
    /// Gauge of e-mails to affiliates by `state`.
    pub const MAIL: &str = "remit_mail";
    /// Gauge of the ledger's imbalance in minor units, over all accounts: anything but 0 is an alarm.
    pub const LEDGER_DRIFT: &str = "remit_ledger_drift";
    /// Gauge of open findings by `severity`.
    pub const FINDINGS: &str = "remit_findings";
}

/// Bounds in seconds, from a fast `SQLite` commit to the 5 s in which Paddle wants an answer and the 30 s
/// of a provider call.
const SECONDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];
/// Bounds in events.
const EVENTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Samples of a histogram pile up until they are folded into its buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one that `tracing` understands.
    #[error("`log.filter` (REMIT_LOG__FILTER) is not a filter such as `info,remit=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Something else in the process has installed a subscriber.
    #[error("logging is already set up in this process")]
    Subscriber(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The recorder of metrics could not be built or installed.
    #[error("metrics could not be set up")]
    Metrics(#[from] BuildError),
}

/// Sends log lines to standard error from now on; standard output belongs to data.
///
/// # Errors
/// [`TelemetryError::Filter`] for a bad filter, [`TelemetryError::Subscriber`] the second time.
pub fn init_logs(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&log.filter).map_err(TelemetryError::Filter)?;
    // Colours are for eyes only: whoever reads the log from a file or a pipe parses it.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !is_plain)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(TelemetryError::Subscriber)
}

/// Collects metrics from now on; the handle renders them.
///
/// # Errors
/// [`TelemetryError::Metrics`] the second time in one process.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let handle = prometheus()?.install_recorder()?;
    describe();
    Ok(handle)
}

/// Folds histogram samples into buckets until `stop`, so that memory stays flat when nobody scrapes.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    while tokio::time::timeout(UPKEEP_EVERY, stop.cancelled()).await.is_err() {
        handle.run_upkeep();
    }
}

fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &EVENTS)
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

    describe_counter!(names::WEBHOOK_REQUESTS, Unit::Count, "Webhook requests by provider and outcome");
    describe_histogram!(names::WEBHOOK_COMMIT_SECONDS, Unit::Seconds, "One commit of the receiver");
    describe_histogram!(names::WEBHOOK_COMMIT_EVENTS, Unit::Count, "Events in one commit of the receiver");
    describe_histogram!(names::CLICK_COMMIT_SECONDS, Unit::Seconds, "One commit of clicks");
    describe_histogram!(names::CLICK_COMMIT_EVENTS, Unit::Count, "Clicks in one commit");
    describe_gauge!(names::INBOX_EVENTS, Unit::Count, "Inbox events by state");
    describe_gauge!(names::INBOX_LAG_SECONDS, Unit::Seconds, "Age of the oldest unprocessed event");
    describe_gauge!(names::REFOLD_LAG_SECONDS, Unit::Seconds, "Age of the oldest sale to be folded again");
    describe_histogram!(names::PROCESS_BATCH_EVENTS, Unit::Count, "Events in one processing batch");
    describe_gauge!(names::JOBS, Unit::Count, "Outbound jobs that are not over, by kind and state");
    describe_gauge!(names::OLDEST_DUE_JOB_SECONDS, Unit::Seconds, "How long the oldest due job has waited");
    describe_histogram!(names::PROVIDER_REQUEST_SECONDS, Unit::Seconds, "One call to a provider");
    describe_gauge!(names::LEDGER_DRIFT, Unit::Count, "Imbalance of the ledger in minor units, 0 when right");
    describe_gauge!(names::FINDINGS, Unit::Count, "Open findings by severity");
    describe_gauge!(names::MAIL, Unit::Count, "E-mails to affiliates by state");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_events_are_histograms_with_our_buckets() {
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::histogram!(names::WEBHOOK_COMMIT_SECONDS).record(0.004);
            metrics::histogram!(names::PROCESS_BATCH_EVENTS).record(300.0);
            metrics::counter!(names::WEBHOOK_REQUESTS, "provider" => "stripe", "outcome" => "new")
                .increment(1);
        });
        let text = recorder.handle().render();
        assert!(text.contains("remit_webhook_commit_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("remit_webhook_commit_seconds_bucket{le=\"0.002\"} 0"), "{text}");
        assert!(text.contains("remit_process_batch_events_bucket{le=\"512\"} 1"), "{text}");
        assert!(
            text.contains("remit_webhook_requests_total{provider=\"stripe\",outcome=\"new\"} 1"),
            "{text}"
        );
    }
}
