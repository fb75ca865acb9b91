//! When a program is settled by itself: periods of weeks and months, in UTC.
//!
//! A period is from one boundary to the next, the end exclusive: an instant on a boundary belongs to the
//! period that begins there. Only the end of a period is needed, because a settlement pays everything that
//! is older and not paid yet. That is also why catching up is one run: the latest period that ended covers
//! the ones that were missed before it. What a run pays is none of this module's business.

use jiff::tz::TimeZone;

use super::{payout::PayoutSchedule, time::Timestamp};

/// Microseconds of a week.
const WEEK_US: i64 = 7 * 86_400 * 1_000_000;

/// The first Monday, 1970-01-05T00:00:00Z, in microseconds: the Unix epoch was a Thursday.
const FIRST_MONDAY_US: i64 = 4 * 86_400 * 1_000_000;

impl PayoutSchedule {
    /// The end of the latest period that is over at `now`: the last boundary that is not later. `None`
    /// outside the years that calendars are made for.
    #[must_use]
    pub fn last_period_end(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Weekly => {
                let into_week = now.as_micros().checked_sub(FIRST_MONDAY_US)?.rem_euclid(WEEK_US);
                now.as_micros().checked_sub(into_week).map(Timestamp::from_micros)
            }
            Self::Monthly => {
                let instant = jiff::Timestamp::from_microsecond(now.as_micros()).ok()?;
                let first = instant.to_zoned(TimeZone::UTC).date().first_of_month();
                let start = first.to_zoned(TimeZone::UTC).ok()?.timestamp();
                Some(Timestamp::from_micros(start.as_microsecond()))
            }
        }
    }

    /// The end of the period that is to be settled at `now`, for a program that was made at `created_at`:
    /// the latest one that is over, unless it was over before the program was there.
    #[must_use]
    pub fn period_end_to_settle(self, created_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        self.last_period_end(now).filter(|end| *end > created_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn the_latest_period_ends_at_the_last_boundary_that_is_not_later() {
        for (now, weekly, monthly) in [
            // 2026 begins on a Thursday.
            ("2026-01-01T00:00:00Z", "2025-12-29", "2026-01-01"),
            ("2025-12-31T23:59:59.999999Z", "2025-12-29", "2025-12-01"),
            ("2025-12-29T00:00:00Z", "2025-12-29", "2025-12-01"),
            ("2025-12-28T23:59:59.999999Z", "2025-12-22", "2025-12-01"),
            ("2026-01-04T23:59:59.999999Z", "2025-12-29", "2026-01-01"),
            ("2026-01-05T00:00:00Z", "2026-01-05", "2026-01-01"),
            ("2026-01-05T00:00:00.000001Z", "2026-01-05", "2026-01-01"),
            // A leap day, and the century rule either way.
            ("2024-02-29T12:00:00Z", "2024-02-26", "2024-02-01"),
            ("2024-03-01T00:00:00Z", "2024-02-26", "2024-03-01"),
            ("2000-02-29T23:59:59.999999Z", "2000-02-28", "2000-02-01"),
            ("2100-03-01T00:00:00Z", "2100-03-01", "2100-03-01"),
            ("2100-02-28T23:59:59.999999Z", "2100-02-22", "2100-02-01"),
            // A week that begins with a month, and months of 30 and 31 days.
            ("2026-06-01T00:00:00Z", "2026-06-01", "2026-06-01"),
            ("2026-05-31T23:59:59.999999Z", "2026-05-25", "2026-05-01"),
            ("2026-04-30T23:59:59Z", "2026-04-27", "2026-04-01"),
            // The seam of the epoch.
            ("1970-01-01T00:00:00Z", "1969-12-29", "1970-01-01"),
            ("1969-12-31T23:59:59.999999Z", "1969-12-29", "1969-12-01"),
            // Offsets are only another way to write an instant.
            ("2026-02-01T00:30:00+01:00", "2026-01-26", "2026-01-01"),
        ] {
            let midnight = |date: &str| Some(at(&format!("{date}T00:00:00Z")));
            assert_eq!(PayoutSchedule::Weekly.last_period_end(at(now)), midnight(weekly), "weekly at {now}");
            assert_eq!(
                PayoutSchedule::Monthly.last_period_end(at(now)),
                midnight(monthly),
                "monthly at {now}"
            );
        }
    }

    #[test]
    fn a_period_that_was_over_before_the_program_is_not_settled() {
        let settle = |created: &str, now: &str| {
            PayoutSchedule::Monthly.period_end_to_settle(at(created), at(now)).map(|end| end.to_string())
        };
        let first = Some("2026-02-01T00:00:00Z".to_owned());
        assert_eq!(settle("2026-01-15T00:00:00Z", "2026-01-31T23:59:59Z"), None);
        assert_eq!(settle("2026-01-15T00:00:00Z", "2026-02-01T00:00:00Z"), first);
        // Made on the boundary: the period that ended there had no program.
        assert_eq!(settle("2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"), None);
        assert_eq!(settle("2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:00Z"), first);
    }

    #[test]
    fn the_ends_of_time_have_no_period() {
        for schedule in PayoutSchedule::ALL {
            assert_eq!(schedule.last_period_end(Timestamp::from_micros(i64::MIN)), None, "{schedule:?}");
        }
        assert_eq!(PayoutSchedule::Monthly.last_period_end(Timestamp::from_micros(i64::MAX)), None);
    }

    proptest! {
        #[test]
        fn a_period_end_is_its_own_and_every_instant_is_less_than_a_period_after_one(
            micros in -62_000_000_000_000_000_i64..250_000_000_000_000_000,
        ) {
            let now = Timestamp::from_micros(micros);
            for (schedule, longest_days) in [(PayoutSchedule::Weekly, 7), (PayoutSchedule::Monthly, 31)] {
                let end = schedule.last_period_end(now).unwrap();
                prop_assert!(end <= now && now < end.plus_days(longest_days));
                prop_assert_eq!(schedule.last_period_end(end), Some(end));
                prop_assert!(schedule.last_period_end(end.plus_micros(-1)).unwrap() < end);
            }
        }
    }
}
