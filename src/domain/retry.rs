//! How long to wait before trying again.
//!
//! Pure: the delay is a function of the attempt and of what is retried, so a test can assert the exact
//! schedule and two nodes compute the same one. It never says "give up": how many attempts are enough
//! is the decision of the stage that retries.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff as _};
use sha2::{Digest, Sha256};

/// The longest wait before the second attempt.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait before any attempt.
const CAP: Duration = Duration::from_hours(1);
/// Doubling from [`FIRST`] reaches [`CAP`] long before this attempt, so counting on changes nothing.
const LAST_STEP: u32 = 32;

/// Microseconds to wait after the `attempt`-th failure (1 is the first; 0 counts as 1).
///
/// Exponential with full jitter: between one microsecond and a ceiling that doubles from one second to
/// one hour. The jitter is derived from `seed`, the id of what is retried, so that a thousand jobs that
/// failed together do not come back together.
#[must_use]
pub fn delay(attempt: u32, seed: &str) -> i64 {
    let ceiling = ceiling_micros(attempt);
    let mut hash = Sha256::new();
    hash.update(attempt.to_be_bytes());
    hash.update(seed.as_bytes());
    let digest = hash.finalize();
    let mut first = [0_u8; 8];
    first.copy_from_slice(&digest[..8]);
    let below_ceiling = u64::from_be_bytes(first).checked_rem(ceiling).unwrap_or(0);
    i64::try_from(below_ceiling.saturating_add(1)).unwrap_or(i64::MAX)
}

/// The `backoff` crate is unmaintained (RUSTSEC-2025-0012) and is used for this arithmetic alone: its
/// own jitter and its own end (15 minutes by default) are both switched off.
fn ceiling_micros(attempt: u32) -> u64 {
    let mut schedule = ExponentialBackoff {
        current_interval: FIRST,
        initial_interval: FIRST,
        max_interval: CAP,
        multiplier: 2.0,
        randomization_factor: 0.0,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let steps = attempt.clamp(1, LAST_STEP);
    // Without a maximal elapsed time there always is a next interval, so `None` stands for the cap.
    let last = (0..steps).map(|_| schedule.next_backoff()).last().flatten().unwrap_or(CAP);
    // Cut to microseconds: even without jitter the crate adds a random part of a nanosecond.
    u64::try_from(last.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_a_second_to_an_hour() {
        let seconds: Vec<u64> = (1..=15).map(|attempt| ceiling_micros(attempt) / 1_000_000).collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600];
        assert_eq!(seconds, expected);
    }

    #[test]
    fn the_schedule_of_one_job_is_exact() {
        let schedule: Vec<i64> = (1..=6).map(|attempt| delay(attempt, "job_1")).collect();
        // First eight bytes of SHA-256(attempt as four big-endian bytes, "job_1"), modulo the ceiling, plus one.
        assert_eq!(schedule, [488_672, 513_228, 321_688, 2_828_063, 2_014_210, 16_408_584]);
    }

    #[test]
    fn different_jobs_spread_over_the_whole_window() {
        let delays: Vec<i64> = (0..1_000).map(|job| delay(4, &format!("job_{job}"))).collect();
        assert!(delays.iter().all(|&micros| (1..=8_000_000).contains(&micros)));
        for eighth in 0..8_i64 {
            let window = eighth * 1_000_000 + 1..=(eighth + 1) * 1_000_000;
            let within = delays.iter().filter(|micros| window.contains(micros)).count();
            assert!((80..=170).contains(&within), "{within} of 1000 delays lie in second {eighth}");
        }
    }

    #[test]
    fn every_attempt_has_a_delay_of_at_most_an_hour() {
        for attempt in [0, 1, 31, 32, 33, 1_000_000, u32::MAX] {
            assert!((1..=3_600_000_000).contains(&delay(attempt, "job_1")), "attempt {attempt}");
        }
    }
}
