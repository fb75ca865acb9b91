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
