//! Instants and durations. The domain never asks what time it is: `now` is an argument.

use std::fmt;

/// An instant: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text was not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time such as 2026-01-31T00:00:00Z")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// The start of time for effective-dated rows.
    pub const EPOCH: Self = Self(0);

    /// `micros` is microseconds since the Unix epoch, UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// `seconds` is whole seconds since the Unix epoch; out-of-range values saturate.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Parses RFC 3339 with any offset and up to nine fractional digits (digits past the sixth are
    /// cut off; Paddle sends nine).
    ///
    /// # Errors
    /// [`InvalidTimestamp`] for anything else.
    pub fn parse_rfc3339(text: &str) -> Result<Self, InvalidTimestamp> {
        text.parse::<jiff::Timestamp>()
            .map(|instant| Self(instant.as_microsecond()))
            .map_err(|_| InvalidTimestamp(text.to_owned()))
    }

    /// Microseconds since the Unix epoch, UTC.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The instant `seconds` later, saturating at the ends of time.
    #[must_use]
    pub const fn plus_secs(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// The instant `micros` later, saturating at the ends of time.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The instant `days` later, where a day is 86 400 s (`semantics.md`, "Hold start").
    #[must_use]
    pub const fn plus_days(self, days: i64) -> Self {
        self.plus_secs(days.saturating_mul(86_400))
    }

    /// The same time of day `months` calendar months later in UTC, on the last day of a month that is too
    /// short (`semantics.md`, "Recurring length"). Saturates at the end of the calendar.
    #[must_use]
    pub fn plus_months(self, months: u16) -> Self {
        let later = jiff::Timestamp::from_microsecond(self.0).ok().and_then(|instant| {
            let span = jiff::Span::new().try_months(i64::from(months)).ok()?;
            instant.to_zoned(jiff::tz::TimeZone::UTC).checked_add(span).ok()
        });
        later.map_or(Self(i64::MAX), |later| Self(later.timestamp().as_microsecond()))
    }
}

/// RFC 3339, UTC, with as many fractional digits as are needed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            // Only values beyond the year 9999 land here; they are still shown, not hidden.
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_fractional_digits_parse_and_print_as_micros() {
        let at = Timestamp::parse_rfc3339("2026-01-01T00:00:00.123456789Z").unwrap();
        assert_eq!(at.as_micros() % 1_000_000, 123_456);
        assert_eq!(at.to_string(), "2026-01-01T00:00:00.123456Z");
    }

    #[test]
    fn months_are_of_the_calendar_and_end_on_its_last_day() {
        for (from, months, to) in [
            ("2026-01-15T10:00:00.000001Z", 1, "2026-02-15T10:00:00.000001Z"),
            ("2026-01-31T23:59:59Z", 1, "2026-02-28T23:59:59Z"),
            ("2024-01-31T00:00:00Z", 1, "2024-02-29T00:00:00Z"),
            ("2024-02-29T00:00:00Z", 12, "2025-02-28T00:00:00Z"),
            ("2026-03-31T00:00:00Z", 13, "2027-04-30T00:00:00Z"),
        ] {
            let at = Timestamp::parse_rfc3339(from).unwrap();
            assert_eq!(at.plus_months(months), Timestamp::parse_rfc3339(to).unwrap(), "{from} + {months}");
        }
        assert_eq!(Timestamp::from_micros(i64::MAX).plus_months(1), Timestamp::from_micros(i64::MAX));
    }

    #[test]
    fn a_day_is_86400_seconds() {
        assert_eq!(Timestamp::EPOCH.plus_days(30).as_secs(), 2_592_000);
    }
}
