//! Token buckets in memory: how often one caller may do something on this node.
//!
//! They keep one caller from taking the place of the others. They are no gate for money, so nothing is
//! stored, and each node counts for itself.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use crate::domain::time::Timestamp;

const SECOND_US: i64 = 1_000_000;

/// How much a caller may do.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// On average, a second; at least 1.
    pub per_second: u32,
    /// At once, after a pause; at least 1.
    pub burst: u32,
}

/// A bucket for each caller.
#[derive(Debug)]
pub struct Limiter<K> {
    allowance: Allowance,
    /// Callers kept in mind at most.
    callers_max: usize,
    /// When each caller's bucket will be full again, microseconds.
    full_at: Mutex<HashMap<K, i64>>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Keeps at most `callers_max` callers in mind.
    #[must_use]
    pub fn new(allowance: Allowance, callers_max: usize) -> Self {
        Self { allowance, callers_max, full_at: Mutex::default() }
    }

    /// Takes one token of `caller`.
    ///
    /// # Errors
    /// The seconds after which there is one again, at least 1.
    pub fn take(&self, caller: K, now: Timestamp) -> Result<(), u32> {
        let now = now.as_micros();
        let token = SECOND_US / i64::from(self.allowance.per_second.max(1));
        let depth = token.saturating_mul(i64::from(self.allowance.burst.max(1)));
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= self.callers_max && !full_at.contains_key(&caller) {
            // Who has a full bucket is as good as unknown. If everybody is busy, all begin anew: a flood
            // of made-up callers must not take memory, nor shut the others out.
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= self.callers_max {
                full_at.clear();
            }
        }
        let entry = full_at.entry(caller).or_insert(now);
        // A clock that was set back leaves no bucket emptier than empty.
        let filled = (*entry).clamp(now, now.saturating_add(depth));
        let taken = filled.saturating_add(token);
        let missing = taken.saturating_sub(now).saturating_sub(depth);
        if missing > 0 {
            *entry = filled;
            let seconds = missing.saturating_add(SECOND_US - 1) / SECOND_US;
            return Err(u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
        }
        *entry = taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

    fn taken(limiter: &Limiter<&'static str>, caller: &'static str, at: Timestamp) -> usize {
        (0..100).take_while(|_| limiter.take(caller, at).is_ok()).count()
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_average() {
        let limiter = Limiter::new(Allowance { per_second: 2, burst: 5 }, 10);
        assert_eq!(taken(&limiter, "a", NOW), 5);
        assert_eq!(limiter.take("a", NOW), Err(1));
        assert_eq!(taken(&limiter, "a", NOW.plus_secs(1)), 2);
        assert_eq!(taken(&limiter, "a", NOW.plus_secs(60)), 5, "no more than a burst is saved up");
        assert_eq!(taken(&limiter, "b", NOW), 5, "callers do not share");
    }

    #[test]
    fn a_clock_that_is_set_back_shuts_nobody_out_for_long() {
        let limiter = Limiter::new(Allowance { per_second: 1, burst: 2 }, 10);
        assert_eq!(taken(&limiter, "a", NOW), 2);
        let back = NOW.plus_secs(-86_400);
        assert_eq!(limiter.take("a", back), Err(1));
        assert_eq!(taken(&limiter, "a", back.plus_secs(2)), 2);
    }

    #[test]
    fn callers_without_number_take_no_memory_without_end() {
        let limiter = Limiter::new(Allowance { per_second: 1, burst: 1 }, 4);
        for caller in 0..1_000 {
            assert!(limiter.take(caller, NOW).is_ok());
            assert!(limiter.full_at.lock().unwrap().len() <= 4);
        }
    }
}
