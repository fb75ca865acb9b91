//! Charges for connected accounts: destination charges with an application fee (seed S2).

#[cfg(test)]
mod tests;

use super::{intent::Waiting, program::words, time::Timestamp};

words! {
    /// Where a charge stands. Until the provider has made a payment intent the words are those of a
    /// payout; from then on they are the provider's (`docs.stripe.com/payments/paymentintents/lifecycle`).
    ChargeState {
        /// Nothing was written down to be sent under the current key.
        Pending = "pending",
        /// A call was written down; the provider may have executed it.
        Submitting = "submitting",
        /// The provider may have executed it and must not be asked again.
        Unknown = "unknown",
        /// The connected account cannot take it yet.
        WaitingAccount = "waiting_account",
        /// The buyer has not given a payment method.
        RequiresPaymentMethod = "requires_payment_method",
        /// Waits for the buyer's confirmation.
        RequiresConfirmation = "requires_confirmation",
        /// The buyer has to do something more, such as 3-D Secure.
        RequiresAction = "requires_action",
        /// The payment is under way.
        Processing = "processing",
        /// Authorised, not captured.
        RequiresCapture = "requires_capture",
        /// The buyer has paid.
        Succeeded = "succeeded",
        /// Given up.
        Canceled = "canceled",
        /// The provider refused to make a payment intent.
        Failed = "failed",
    }
}

impl ChargeState {
    /// The state that a payment intent's status word stands for. A word that is not known yet leaves the
    /// charge where the money is safe: under way.
    #[must_use]
    pub fn of_status(word: &str) -> Self {
        match word {
            "requires_payment_method" => Self::RequiresPaymentMethod,
            "requires_confirmation" => Self::RequiresConfirmation,
            "requires_action" => Self::RequiresAction,
            "requires_capture" => Self::RequiresCapture,
            "succeeded" => Self::Succeeded,
            "canceled" => Self::Canceled,
            _ => Self::Processing,
        }
    }

    /// Where a charge goes whose intent waits. Charges wait for accounts alone: a provider that lacks
    /// funds for a charge has refused it.
    #[must_use]
    pub const fn waiting(waiting: Waiting) -> Self {
        match waiting {
            Waiting::Account => Self::WaitingAccount,
            Waiting::Funds => Self::Pending,
        }
    }

    /// Which of two statements about a payment intent holds: an end is never taken back, else the newer
    /// one, and of one second the one that is further. A payment that failed goes back to an earlier state,
    /// so being further alone does not decide. Events may come in any order.
    #[must_use]
    pub fn newest(known: (Timestamp, Self), told: (Timestamp, Self)) -> (Timestamp, Self) {
        if known.1.is_over() || told.1.is_over() {
            return if known.1.is_over() { known } else { told };
        }
        if (told.0, told.1.rank()) > (known.0, known.1.rank()) { told } else { known }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Pending | Self::Submitting | Self::Unknown | Self::WaitingAccount => 0,
            Self::RequiresPaymentMethod => 1,
            Self::RequiresConfirmation => 2,
            Self::RequiresAction => 3,
            Self::Processing => 4,
            Self::RequiresCapture => 5,
            Self::Succeeded | Self::Canceled | Self::Failed => 6,
        }
    }

    /// Whether nothing more happens to it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Succeeded | Self::Canceled | Self::Failed => true,
            Self::Pending
            | Self::Submitting
            | Self::Unknown
            | Self::WaitingAccount
            | Self::RequiresPaymentMethod
            | Self::RequiresConfirmation
            | Self::RequiresAction
            | Self::Processing
            | Self::RequiresCapture => false,
        }
    }
}
