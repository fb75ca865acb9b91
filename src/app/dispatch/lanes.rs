//! Who may be called now: one call at a time to each destination, a circuit for each, a token bucket for
//! the provider.
//!
//! Pure but for the clock that it is given, and local to this node. Nothing here is needed for money to be
//! right: it only keeps one bad destination, or a provider that asks for patience, from taking the places
//! of the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{job::RETRY_AFTER_MAX_S, time::Timestamp};

/// Calls in a row without a whole answer after which a destination is left alone for a while.
const FAILURES_MAX: u32 = 3;

/// How long a destination is left alone at first, seconds; doubled with every further failure.
const FIRST_BREAK_S: i64 = 30;

/// The longest break, seconds.
const BREAK_MAX_S: i64 = 600;

/// How long nothing is sent after the provider has refused our own key, seconds. One call then tries.
const UNAUTHORIZED_BREAK_S: i64 = 300;

/// How long the provider is left alone after a rate limit without `Retry-After`, seconds.
const RATE_LIMITED_BREAK_S: i64 = 1;

/// What a call taught about whom it was made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// A whole answer came back.
    Answered,
    /// No whole answer came back, or a server error.
    Failed,
    /// Too many calls; the provider may have said for how long.
    RateLimited {
        /// Seconds.
        retry_after_s: Option<i64>,
    },
    /// The provider does not accept our key.
    Unauthorized,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    closed_until: Option<Timestamp>,
}

/// The state of all lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Places for calls under way.
    places: usize,
    busy: BTreeSet<String>,
    circuits: BTreeMap<String, Circuit>,
    provider_closed_until: Option<Timestamp>,
    /// Our key was refused; until it is accepted again one call at a time tries.
    key_refused: bool,
    bucket: Bucket,
}

impl Lanes {
    /// `places` calls at a time, `per_second` calls a second.
    pub fn new(places: usize, per_second: u32) -> Self {
        Self {
            places,
            busy: BTreeSet::new(),
            circuits: BTreeMap::new(),
            provider_closed_until: None,
            key_refused: false,
            bucket: Bucket::new(per_second),
        }
    }

    /// How many jobs may be taken now.
    pub fn free(&self, now: Timestamp) -> usize {
        if self.provider_closed_until.is_some_and(|until| now < until) {
            return 0;
        }
        let places = if self.key_refused { 1 } else { self.places };
        places.saturating_sub(self.busy.len())
    }

    /// The destinations that must not be taken now.
    pub fn closed(&self, now: Timestamp) -> Vec<String> {
        let broken = self
            .circuits
            .iter()
            .filter(|(_, circuit)| circuit.closed_until.is_some_and(|until| now < until))
            .map(|(lane, _)| lane);
        self.busy.iter().chain(broken).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A job of this destination was taken.
    pub fn enter(&mut self, lane: &str) {
        self.busy.insert(lane.to_owned());
    }

    /// Its work is over.
    pub fn leave(&mut self, lane: &str) {
        self.busy.remove(lane);
    }

    /// A call was made.
    pub fn learn(&mut self, lane: &str, lesson: Lesson, now: Timestamp) {
        match lesson {
            Lesson::Answered => {
                self.key_refused = false;
                self.circuits.remove(lane);
            }
            Lesson::Failed => {
                let circuit = self.circuits.entry(lane.to_owned()).or_default();
                circuit.failures = circuit.failures.saturating_add(1);
                if circuit.failures >= FAILURES_MAX {
                    let doublings = (circuit.failures - FAILURES_MAX).min(16);
                    let pause = FIRST_BREAK_S.saturating_mul(1 << doublings).min(BREAK_MAX_S);
                    circuit.closed_until = Some(now.plus_secs(pause));
                }
            }
            Lesson::RateLimited { retry_after_s } => {
                let asked_s = retry_after_s.unwrap_or(RATE_LIMITED_BREAK_S).clamp(0, RETRY_AFTER_MAX_S);
                self.close_provider(now.plus_secs(asked_s));
            }
            Lesson::Unauthorized => {
                self.key_refused = true;
                self.close_provider(now.plus_secs(UNAUTHORIZED_BREAK_S));
            }
        }
    }

    fn close_provider(&mut self, until: Timestamp) {
        self.provider_closed_until = self.provider_closed_until.max(Some(until));
    }

    /// Takes a place in the second's calls: how many microseconds to wait before the call.
    pub fn wait_for_token(&mut self, now: Timestamp) -> i64 {
        self.bucket.take(now)
    }
}

/// So many calls a second, spread evenly once a second's worth was used up at once.
#[derive(Debug)]
struct Bucket {
    /// Microseconds between two calls.
    interval: i64,
    /// When the bucket would be full again.
    full_at: Timestamp,
}

/// A second's worth of calls can be made at once.
const BURST_MICROS: i64 = 1_000_000;

impl Bucket {
    fn new(per_second: u32) -> Self {
        Self { interval: BURST_MICROS / i64::from(per_second.max(1)), full_at: Timestamp::EPOCH }
    }

    /// Takes a token, on credit if there is none: the wait until it is there, microseconds.
    fn take(&mut self, now: Timestamp) -> i64 {
        self.full_at = self.full_at.max(now).plus_micros(self.interval);
        let used = self.full_at.as_micros().saturating_sub(now.as_micros());
        used.saturating_sub(BURST_MICROS).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + second)
    }

    #[test]
    fn a_destination_is_taken_once_at_a_time_and_the_places_are_counted() {
        let mut lanes = Lanes::new(2, 10);
        lanes.enter("acct_1");
        assert_eq!((lanes.free(at(0)), lanes.closed(at(0))), (1, vec!["acct_1".to_owned()]));
        lanes.enter("acct_2");
        assert_eq!(lanes.free(at(0)), 0);
        lanes.leave("acct_1");
        assert_eq!((lanes.free(at(0)), lanes.closed(at(0))), (1, vec!["acct_2".to_owned()]));
    }

    #[test]
    fn a_destination_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        let mut lanes = Lanes::new(2, 10);
        for _ in 0..FAILURES_MAX - 1 {
            lanes.learn("acct_1", Lesson::Failed, at(0));
            assert!(lanes.closed(at(0)).is_empty());
        }
        let mut breaks = Vec::new();
        for _ in 0..7 {
            lanes.learn("acct_1", Lesson::Failed, at(0));
            let until = (0..=BREAK_MAX_S).find(|second| lanes.closed(at(*second)).is_empty());
            breaks.push(until.unwrap());
        }
        assert_eq!(breaks, [30, 60, 120, 240, 480, 600, 600]);
        assert_eq!(lanes.free(at(0)), 2, "the others go on");
        lanes.learn("acct_1", Lesson::Answered, at(0));
        assert!(lanes.closed(at(0)).is_empty());
    }

    #[test]
    fn a_rate_limit_and_a_refused_key_close_the_provider() {
        let mut lanes = Lanes::new(2, 10);
        lanes.learn("acct_1", Lesson::RateLimited { retry_after_s: Some(7) }, at(0));
        assert_eq!((lanes.free(at(6)), lanes.free(at(7))), (0, 2));
        lanes.learn("acct_1", Lesson::RateLimited { retry_after_s: None }, at(7));
        assert_eq!((lanes.free(at(7)), lanes.free(at(8))), (0, 2));
        lanes.learn("acct_1", Lesson::Unauthorized, at(10));
        lanes.learn("acct_2", Lesson::RateLimited { retry_after_s: None }, at(10));
        assert_eq!(
            (lanes.free(at(309)), lanes.free(at(310))),
            (0, 1),
            "the longer break stands, then one tries"
        );
        lanes.learn("acct_1", Lesson::Answered, at(310));
        assert_eq!(lanes.free(at(310)), 2);
        lanes.learn("acct_1", Lesson::RateLimited { retry_after_s: Some(i64::MAX) }, at(310));
        assert_eq!(lanes.free(at(310 + RETRY_AFTER_MAX_S)), 2, "no answer closes the provider for longer");
    }

    #[test]
    fn a_second_of_calls_is_free_and_the_rest_is_spread() {
        let mut lanes = Lanes::new(2, 4);
        let waits: Vec<i64> = (0..7).map(|_| lanes.wait_for_token(at(0))).collect();
        assert_eq!(waits, [0, 0, 0, 0, 250_000, 500_000, 750_000]);
        // Two seconds later the bucket is full again, not fuller.
        let waits: Vec<i64> = (0..5).map(|_| lanes.wait_for_token(at(2))).collect();
        assert_eq!(waits, [0, 0, 0, 0, 250_000]);
    }
}
