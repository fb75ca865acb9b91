//! The stretch of time that a report is about: from an instant on, up to another, in UTC. The end is not
//! part of it, so neighbouring reports share nothing and miss nothing. What the time is compared with, a
//! payment's or an entry's, is the report's own business.

use super::time::Timestamp;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Most days of a report that is told day by day.
pub const DAYS_MAX: i64 = 366;

/// From an instant on, up to another, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first instant of it.
    pub from: Timestamp,
    /// The first instant after it.
    pub to: Timestamp,
}

/// What is wrong with the two ends of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// The start cannot be read.
    #[error("from must be a date such as 2026-01-31 or RFC 3339 such as 2026-01-31T00:00:00Z")]
    From,
    /// The end cannot be read.
    #[error("to must be a date such as 2026-01-31 or RFC 3339 such as 2026-01-31T00:00:00Z")]
    To,
    /// The start is not the start of a day, and clicks are counted by days.
    #[error("from must be the start of a day in UTC")]
    FromWithinDay,
    /// The end is not the start of a day.
    #[error("to must be the start of a day in UTC; it is the first one that is left out")]
    ToWithinDay,
    /// Nothing lies between them.
    #[error("to must be later than from")]
    Empty,
    /// More than [`DAYS_MAX`] days.
    #[error("from and to may be at most 366 days apart")]
    TooLong,
}

impl InvalidWindow {
    /// Which of the two is to be changed: `from` or `to`.
    #[must_use]
    pub const fn param(self) -> &'static str {
        match self {
            Self::From | Self::FromWithinDay => "from",
            Self::To | Self::ToWithinDay | Self::Empty | Self::TooLong => "to",
        }
    }
}

impl Window {
    /// All of time.
    pub const ALWAYS: Self =
        Self { from: Timestamp::from_micros(i64::MIN), to: Timestamp::from_micros(i64::MAX) };

    /// The stretch between two texts, each a date, which stands for the start of that day in UTC, or
    /// RFC 3339. Without a start it has none, and without an end it goes up to `now`, inclusive.
    ///
    /// # Errors
    /// [`InvalidWindow`] for texts that cannot be read or an end that is not after the start.
    pub fn parse(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<Self, InvalidWindow> {
        let from = from.map_or(Ok(Self::ALWAYS.from), |text| instant(text).ok_or(InvalidWindow::From))?;
        let to = to.map_or(Ok(now.plus_micros(1)), |text| instant(text).ok_or(InvalidWindow::To))?;
        if from < to { Ok(Self { from, to }) } else { Err(InvalidWindow::Empty) }
    }
}

/// A date or an instant.
fn instant(text: &str) -> Option<Timestamp> {
    let is_date = text.len() == "2026-01-31".len();
    let parsed = if is_date {
        Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z"))
    } else {
        Timestamp::parse_rfc3339(text)
    };
    parsed.ok()
}

/// Whole days in UTC, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    /// The first of them, in days since the Unix epoch.
    pub first: i64,
    /// The first after them.
    pub end: i64,
}

impl Days {
    /// The days between two texts, as [`Window::parse`] reads them. Without an end they go on to the end of
    /// today; without a start there are 30 of them.
    ///
    /// # Errors
    /// [`InvalidWindow`] also for instants within a day and for more than [`DAYS_MAX`] days.
    pub fn parse(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<Self, InvalidWindow> {
        let start_of_day = |text, unread, within| {
            let at = instant(text).ok_or(unread)?.as_micros();
            if at.rem_euclid(DAY_US) == 0 { Ok(at.div_euclid(DAY_US)) } else { Err(within) }
        };
        let tomorrow = now.as_micros().div_euclid(DAY_US).saturating_add(1);
        let end = to
            .map_or(Ok(tomorrow), |text| start_of_day(text, InvalidWindow::To, InvalidWindow::ToWithinDay))?;
        let first = from.map_or(Ok(end.saturating_sub(30)), |text| {
            start_of_day(text, InvalidWindow::From, InvalidWindow::FromWithinDay)
        })?;
        match end.saturating_sub(first) {
            ..=0 => Err(InvalidWindow::Empty),
            1..=DAYS_MAX => Ok(Self { first, end }),
            _ => Err(InvalidWindow::TooLong),
        }
    }

    /// The instants of these days.
    #[must_use]
    pub fn window(self) -> Window {
        let start = |day: i64| Timestamp::from_micros(day.saturating_mul(DAY_US));
        Window { from: start(self.first), to: start(self.end) }
    }
}

/// How a day since the Unix epoch is written, such as `2026-01-31`.
#[must_use]
pub fn date(day: i64) -> String {
    let start = Timestamp::from_micros(day.saturating_mul(DAY_US)).to_string();
    start.split_once('T').map_or_else(|| start.clone(), |(date, _)| date.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(20_454 * DAY_US + 5);

    #[test]
    fn dates_and_instants_say_the_same_and_the_end_is_left_out() {
        let window = |from, to| Window::parse(Some(from), Some(to), NOW);
        let day = window("2026-01-01", "2026-01-02").unwrap();
        assert_eq!(window("2026-01-01T01:00:00+01:00", "2026-01-02T00:00:00Z"), Ok(day));
        assert_eq!(day.to.as_micros() - day.from.as_micros(), DAY_US);
        let open = Window::parse(None, None, NOW).unwrap();
        assert!(open.from < Timestamp::EPOCH && NOW < open.to, "what happens now is part of it");
    }

    #[test]
    fn each_wrong_end_has_its_own_refusal() {
        for (from, to, expected) in [
            ("yesterday", "2026-01-02", InvalidWindow::From),
            ("2026-02-30", "2026-03-02", InvalidWindow::From),
            ("2026-01-01", "2026-01-01T00:00", InvalidWindow::To),
            ("2026-01-01", "", InvalidWindow::To),
            ("2026-01-01", "2026-01-01", InvalidWindow::Empty),
            ("2026-01-02", "2026-01-01", InvalidWindow::Empty),
        ] {
            assert_eq!(Window::parse(Some(from), Some(to), NOW), Err(expected), "{from} {to}");
            assert_eq!(Days::parse(Some(from), Some(to), NOW), Err(expected), "{from} {to}");
        }
        for (from, to, expected) in [
            ("2026-01-01T00:00:01Z", "2026-01-02", InvalidWindow::FromWithinDay),
            ("2026-01-01", "2026-01-02T12:00:00Z", InvalidWindow::ToWithinDay),
            ("2025-01-01", "2026-01-03", InvalidWindow::TooLong),
        ] {
            assert_eq!(Days::parse(Some(from), Some(to), NOW), Err(expected), "{from} {to}");
        }
    }

    #[test]
    fn without_ends_the_days_are_the_last_thirty_with_today() {
        assert_eq!(Days::parse(None, None, NOW), Ok(Days { first: 20_425, end: 20_455 }));
        assert_eq!((date(20_454), date(0)), ("2026-01-01".to_owned(), "1970-01-01".to_owned()));
        let leap_year = Days::parse(Some("2024-01-01"), Some("2025-01-01"), NOW).unwrap();
        assert_eq!(leap_year.end - leap_year.first, DAYS_MAX);
    }
}
