//! How often one caller may do something on this node: token buckets in memory.
//!
//! They keep one caller from taking the place of the others, and a flood away from the database. They are
//! no gate for money, so nothing is stored, and with several nodes each lets as much through.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use crate::domain::time::Timestamp;

/// The size of a bucket, and how fast it fills again.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests that may come at once.
    pub burst: u32,
    /// Milliseconds until one more may.
    pub refill_ms: u32,
}

/// A bucket as the instant at which it is full again: a request moves that by one refill, and is refused
/// where it would be further away than an empty bucket is.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at_us: i64,
}

impl Rate {
    fn refill_us(self) -> i64 {
        i64::from(self.refill_ms) * 1_000
    }

    fn room_us(self) -> i64 {
        self.refill_us() * i64::from(self.burst)
    }

    /// The bucket at `now`. A clock that was set back must not keep anybody out for longer than an empty
    /// bucket does.
    fn at(self, bucket: Bucket, now: Timestamp) -> Bucket {
        Bucket { full_at_us: bucket.full_at_us.min(now.as_micros().saturating_add(self.room_us())) }
    }

    /// The bucket after a request at `now`, or the seconds until one would be let through.
    fn take(self, bucket: Bucket, now: Timestamp) -> Result<Bucket, u32> {
        let now = now.as_micros();
        let full_at_us = bucket.full_at_us.max(now).saturating_add(self.refill_us());
        let wait_us = full_at_us.saturating_sub(now.saturating_add(self.room_us()));
        if wait_us <= 0 {
            return Ok(Bucket { full_at_us });
        }
        // Rounded up: who comes back after that is let through.
        let seconds = wait_us.saturating_add(999_999) / 1_000_000;
        Err(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// A bucket for each caller, and one for all of them together where that is asked for.
#[derive(Debug)]
pub struct Limiter<K> {
    each: Rate,
    all: Option<Rate>,
    callers_max: usize,
    buckets: Mutex<Buckets<K>>,
}

#[derive(Debug)]
struct Buckets<K> {
    all: Bucket,
    by_caller: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// At most `each` per caller. Keeps at most `callers_max` of them in mind.
    #[must_use]
    pub fn new(each: Rate, callers_max: usize) -> Self {
        let buckets = Buckets { all: Bucket::default(), by_caller: HashMap::new() };
        Self { each, all: None, callers_max, buckets: Mutex::new(buckets) }
    }

    /// And at most `all` of them together.
    #[must_use]
    pub fn together(self, all: Rate) -> Self {
        Self { all: Some(all), ..self }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The seconds after which the next one is let through, at least 1. A refused request counts for
    /// nobody.
    pub fn take(&self, caller: K, now: Timestamp) -> Result<(), u32> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = self.all {
            buckets.all = all.at(buckets.all, now);
        }
        if let Some(own) = buckets.by_caller.get_mut(&caller) {
            *own = self.each.at(*own, now);
        }
        let all = self.all.map_or(Ok(buckets.all), |all| all.take(buckets.all, now))?;
        let own = self.each.take(buckets.by_caller.get(&caller).copied().unwrap_or_default(), now)?;
        if buckets.by_caller.len() >= self.callers_max && !buckets.by_caller.contains_key(&caller) {
            // Who has a full bucket is as good as unknown. If everybody is busy, all begin anew: a flood
            // of made-up callers must not take memory, nor shut the others out.
            buckets.by_caller.retain(|_, bucket| bucket.full_at_us > now.as_micros());
            if buckets.by_caller.len() >= self.callers_max {
                buckets.by_caller.clear();
            }
        }
        buckets.all = all;
        buckets.by_caller.insert(caller, own);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

    fn let_through(limiter: &Limiter<&'static str>, caller: &'static str, at: Timestamp) -> usize {
        (0..100).take_while(|_| limiter.take(caller, at).is_ok()).count()
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_average() {
        let limiter = Limiter::new(Rate { burst: 5, refill_ms: 500 }, 10);
        assert_eq!(let_through(&limiter, "a", NOW), 5);
        assert_eq!(limiter.take("a", NOW), Err(1));
        assert_eq!(let_through(&limiter, "a", NOW.plus_secs(1)), 2);
        assert_eq!(let_through(&limiter, "a", NOW.plus_secs(60)), 5, "no more than a burst is saved up");
        assert_eq!(let_through(&limiter, "b", NOW), 5, "callers do not share");
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_back_and_has_lost_nothing() {
        let limiter = Limiter::new(Rate { burst: 3, refill_ms: 60_000 }, 10);
        assert_eq!(let_through(&limiter, "a", NOW), 3);
        assert_eq!(limiter.take("a", NOW), Err(60));
        assert_eq!(limiter.take("a", NOW.plus_secs(59)), Err(1));
        assert_eq!(limiter.take("a", NOW.plus_secs(60)), Ok(()));
        assert_eq!(limiter.take("a", NOW.plus_secs(60)), Err(60));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_out_for_longer() {
        let limiter = Limiter::new(Rate { burst: 3, refill_ms: 60_000 }, 10);
        assert_eq!(let_through(&limiter, "a", NOW), 3);
        let back = NOW.plus_secs(-86_400);
        assert_eq!(limiter.take("a", back), Err(60));
        assert_eq!(let_through(&limiter, "a", back.plus_secs(120)), 2);
    }

    #[test]
    fn all_together_are_limited_and_no_bucket_is_kept_for_the_refused() {
        let limiter = Limiter::new(Rate { burst: 3, refill_ms: 60_000 }, 100);
        let limiter = limiter.together(Rate { burst: 5, refill_ms: 1_000 });
        assert_eq!((0..100).filter(|caller| limiter.take(*caller, NOW).is_ok()).count(), 5);
        assert_eq!(limiter.buckets.lock().unwrap().by_caller.len(), 5);
        assert_eq!(limiter.take(100, NOW), Err(1));
        assert_eq!(limiter.take(100, NOW.plus_secs(1)), Ok(()));
    }

    #[test]
    fn one_busy_caller_does_not_use_up_what_all_may_do_together() {
        let limiter = Limiter::new(Rate { burst: 2, refill_ms: 60_000 }, 100);
        let limiter = limiter.together(Rate { burst: 5, refill_ms: 60_000 });
        assert_eq!(let_through(&limiter, "flood", NOW), 2);
        assert_eq!(let_through(&limiter, "b", NOW), 2, "a refusal has cost the others nothing");
    }

    #[test]
    fn callers_without_number_take_no_memory_without_end() {
        let limiter = Limiter::new(Rate { burst: 1, refill_ms: 1_000 }, 4);
        for caller in 0..1_000 {
            assert!(limiter.take(caller, NOW).is_ok());
            assert!(limiter.buckets.lock().unwrap().by_caller.len() <= 4);
        }
    }
}
