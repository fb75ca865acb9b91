//! The sandbox's own time: it starts somewhere, runs or stands still, and is moved by hand.
//!
//! It shares nothing with the clock of the program under test, because the two may disagree in reality.
//! Webhook signatures are another matter: their receiver compares with its own clock (`webhooks.rs`).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Microseconds per second.
pub(super) const SECOND_US: i64 = 1_000_000;

/// A clock that can be set, advanced and frozen. Times are microseconds since the Unix epoch, UTC.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// What it showed at `running_since`, or shows while it is frozen.
    shown_us: i64,
    /// `None` while it is frozen.
    running_since: Option<Instant>,
}

impl Clock {
    pub(super) fn new(start_us: i64, frozen: bool) -> Self {
        Self { shown_us: start_us, running_since: (!frozen).then(Instant::now) }
    }

    pub(super) fn now_us(&self) -> i64 {
        let elapsed = self.running_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.shown_us.saturating_add(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Whole seconds, as the provider writes times.
    pub(super) fn now_s(&self) -> i64 {
        self.now_us().div_euclid(SECOND_US)
    }

    pub(super) const fn is_frozen(&self) -> bool {
        self.running_since.is_none()
    }

    /// Shows `now_us` from now on.
    pub(super) fn set(&mut self, now_us: i64) {
        self.shown_us = now_us;
        if self.running_since.is_some() {
            self.running_since = Some(Instant::now());
        }
    }

    /// Stops it, or lets it run on from what it shows.
    pub(super) fn freeze(&mut self, frozen: bool) {
        self.shown_us = self.now_us();
        self.running_since = (!frozen).then(Instant::now);
    }
}

/// The time of the machine, microseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the sandbox stands for a foreign system: it must not follow the clock of the program under test"
)]
pub(super) fn machine_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_moves_only_by_hand() {
        let mut clock = Clock::new(5, true);
        assert_eq!((clock.now_us(), clock.is_frozen()), (5, true));
        clock.set(2 * SECOND_US);
        assert_eq!(clock.now_s(), 2);
    }

    #[test]
    fn a_clock_that_runs_again_does_not_jump_back() {
        let mut clock = Clock::new(9, true);
        clock.freeze(false);
        assert!(!clock.is_frozen());
        assert!(clock.now_us() >= 9);
    }
}
