//! One call to the provider, and what every call teaches about its lane.

use std::time::Duration;

use tracing::warn;

use super::{Dispatcher, lanes::Lesson};
use crate::{
    domain::{intent::Verdict, time::Timestamp},
    failpoint::{self, Failpoint},
    providers::outbound::{ApiRequest, Reply},
    telemetry::names,
};

impl Dispatcher {
    /// Makes a call, with no transaction open, if it can begin before `begin_by`.
    pub(super) async fn call(
        &self,
        op: &'static str,
        provider: &str,
        api_version: &str,
        request: &ApiRequest,
        begin_by: Timestamp,
    ) -> Reply {
        let Some(transport) = &self.transport else { return Reply::NotSent };
        failpoint::reach(Failpoint::CallBefore);
        if self.stop.is_cancelled() || self.app.now() > begin_by {
            warn!(op, "a call came too late and was not made");
            return Reply::NotSent;
        }
        let started = tokio::time::Instant::now();
        let reply = transport.call(request, api_version, self.app.config.stripe.timeout).await;
        failpoint::reach(Failpoint::CallAfter);
        let outcome = match &reply {
            Reply::NotSent => "not_sent",
            Reply::Lost => "lost",
            Reply::Answered(response) => match response.status {
                200..=299 => "2xx",
                400..=499 => "4xx",
                500..=599 => "5xx",
                _ => "other",
            },
        };
        metrics::histogram!(names::PROVIDER_REQUEST_SECONDS, "provider" => provider.to_owned(), "op" => op,
            "outcome" => outcome)
        .record(started.elapsed().as_secs_f64());
        reply
    }

    /// What reading from the provider taught. A key that may not read is no reason to stop sending.
    pub(super) fn learn_of_reading(&self, lane: &str, reply: &Reply) {
        let verdict = match reply {
            Reply::Answered(response) if response.status == 401 => Verdict::Unauthorized,
            Reply::Answered(_) | Reply::Lost => Verdict::Ambiguous,
            Reply::NotSent => Verdict::NotSent,
        };
        self.learn(lane, reply, verdict);
    }

    pub(super) fn learn(&self, lane: &str, reply: &Reply, verdict: Verdict) {
        let lesson = match reply {
            Reply::NotSent | Reply::Lost => Lesson::Failed,
            Reply::Answered(_) if verdict == Verdict::Unauthorized => Lesson::Unauthorized,
            Reply::Answered(response) if response.status == 429 || verdict == Verdict::TurnedAway => {
                Lesson::RateLimited { retry_after_s: retry_after(reply) }
            }
            Reply::Answered(response) if response.status >= 500 => Lesson::Failed,
            Reply::Answered(_) => Lesson::Answered,
        };
        self.lanes().learn(lane, lesson, self.app.now());
    }

    /// Waits for a place in the second's calls.
    pub(super) async fn token(&self) {
        let wait = self.lanes().wait_for_token(self.app.now());
        if let Ok(micros @ 1..) = u64::try_from(wait) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

pub(super) fn retry_after(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::NotSent | Reply::Lost => None,
        Reply::Answered(response) => response.retry_after_s,
    }
}
