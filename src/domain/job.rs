//! Work on an intent: who does it when. What may be done is decided by [`super::intent`].

use super::program::words;

words! {
    /// Where a job stands (`rulings.md` 23).
    JobState {
        /// Not tried yet.
        Available = "available",
        /// A node works on it; its lease tells until when.
        Running = "running",
        /// Tried, and to be tried again.
        Retryable = "retryable",
        /// Waits for something that time does not bring: funds, an account, an operator.
        Parked = "parked",
        /// What became of its intent is not known; it is only looked up.
        Unknown = "unknown",
        /// Done.
        Completed = "completed",
        /// Ended without moving money.
        Discarded = "discarded",
    }
}

impl JobState {
    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Completed | Self::Discarded => true,
            Self::Available | Self::Running | Self::Retryable | Self::Parked | Self::Unknown => false,
        }
    }
}

/// The longest wait that a provider can ask for by `Retry-After`, seconds.
pub const RETRY_AFTER_MAX_S: i64 = 3_600;

/// How long a job that waits for funds or an account sleeps when nobody wakes it, seconds: an event that
/// says so may have been lost.
pub const WAITING_RECHECK_S: i64 = 6 * 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_over_when_its_money_moved_or_never_will() {
        let over: Vec<&str> =
            JobState::ALL.iter().filter(|state| state.is_over()).map(|state| state.as_str()).collect();
        assert_eq!(over, ["completed", "discarded"]);
    }

    #[test]
    fn every_word_is_read_back_as_what_it_was_written_for() {
        for &state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
        }
        assert_eq!(JobState::parse("done"), None);
    }

    /// A job that waits is due again long before the window of a key can be over, and a provider cannot put
    /// it off beyond that.
    #[test]
    fn no_pause_is_longer_than_the_window_of_a_key() {
        let longest_s = RETRY_AFTER_MAX_S.max(WAITING_RECHECK_S);
        assert!(longest_s < super::super::intent::WINDOW_S);
    }
}
