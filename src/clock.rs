//! What time it is.
//!
//! A stage reads the clock once and passes `now` down; `domain` and `store` never see a clock. On
//! `PostgreSQL` the clock is disciplined by the database's, so leases and periods survive a node whose
//! own clock is wrong. Nothing here measures durations: timers are the runtime's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::UNIX_EPOCH,
};

use crate::domain::time::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The instant at which this is called.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        // A machine set to before 1970 reads as 1970; every signature then fails its age check.
        let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is set. Clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_micros())))
    }

    /// Shows `now` from here on, earlier or later than before.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_micros(), Ordering::SeqCst);
    }

    /// Moves on by `seconds`.
    pub fn advance_secs(&self, seconds: i64) {
        self.set(self.now().plus_secs(seconds));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A local clock corrected by the database's.
///
/// The offset comes from the samples given to [`Self::observe`]. Between samples the local clock only
/// has to run at about the right speed.
#[derive(Debug)]
pub struct DisciplinedClock<C = SystemClock> {
    local: C,
    offset_micros: AtomicI64,
}

/// A sample that took longer says too little: its error is up to half of this.
const LONGEST_ROUND_TRIP_MICROS: i64 = 2_000_000;

impl<C: Clock> DisciplinedClock<C> {
    /// Follows `local` until the first sample.
    pub const fn new(local: C) -> Self {
        Self { local, offset_micros: AtomicI64::new(0) }
    }

    /// The uncorrected clock: what the two ends of a sample are read from.
    pub fn local_now(&self) -> Timestamp {
        self.local.now()
    }

    /// Takes a sample: the database said `db_now` at some moment between `local_before` and
    /// `local_after`, both read with [`Self::local_now`]. Returns whether the sample was used: one that
    /// took more than two seconds, or during which the local clock was set back, is not.
    pub fn observe(&self, db_now: Timestamp, local_before: Timestamp, local_after: Timestamp) -> bool {
        let round_trip = local_after.as_micros().saturating_sub(local_before.as_micros());
        if !(0..=LONGEST_ROUND_TRIP_MICROS).contains(&round_trip) {
            return false;
        }
        // The database read its clock, at best guess, half-way.
        let local_then = local_before.plus_micros(round_trip / 2);
        let offset = db_now.as_micros().saturating_sub(local_then.as_micros());
        self.offset_micros.store(offset, Ordering::Relaxed);
        true
    }

    /// What is added to the local clock, in microseconds: positive when this machine is slow.
    pub fn offset_micros(&self) -> i64 {
        self.offset_micros.load(Ordering::Relaxed)
    }
}

impl<C: Clock> Clock for DisciplinedClock<C> {
    fn now(&self) -> Timestamp {
        self.local.now().plus_micros(self.offset_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_750_000_000);

    #[test]
    fn clones_of_a_manual_clock_share_the_time() {
        let clock = ManualClock::new(NOON);
        let other = clock.clone();
        clock.advance_secs(90);
        assert_eq!(other.now(), NOON.plus_secs(90));
    }

    #[test]
    fn a_node_that_is_an_hour_late_shows_the_database_time() {
        let local = ManualClock::new(NOON.plus_secs(-3_600));
        let clock = DisciplinedClock::new(local.clone());
        assert_eq!(clock.now(), NOON.plus_secs(-3_600));

        let before = clock.local_now();
        local.set(before.plus_micros(200));
        assert!(clock.observe(NOON.plus_micros(100), before, clock.local_now()));
        assert_eq!(clock.offset_micros(), 3_600_000_000);
        assert_eq!(clock.now(), NOON.plus_micros(200));

        local.advance_secs(60);
        assert_eq!(clock.now(), NOON.plus_micros(200).plus_secs(60));
    }

    #[test]
    fn a_slow_or_broken_sample_changes_nothing() {
        let clock = DisciplinedClock::new(ManualClock::new(NOON));
        assert!(!clock.observe(NOON.plus_secs(500), NOON, NOON.plus_secs(3)));
        assert!(!clock.observe(NOON.plus_secs(500), NOON, NOON.plus_secs(-1)));
        assert_eq!(clock.now(), NOON);
    }

    #[test]
    fn the_system_clock_is_past_the_day_this_was_written() {
        assert!(SystemClock.now() > Timestamp::from_secs(1_763_000_000));
    }
}
