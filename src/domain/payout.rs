//! What an affiliate is paid: states, the arithmetic of settling, and what a returned transfer takes back.
//!
//! A payout is frozen when it is made: its lots, its fee and what is sent never change (`rulings.md` 13).
//! Afterwards only its state moves, by [`PayoutState::after`], and its ledger entries follow from that.
//! How the money is moved without doubling it is the business of [`super::intent`].

#[cfg(test)]
mod tests;

use super::{
    ids::{CommissionId, EnrollmentId, PayoutId, ProgramId},
    intent::Waiting,
    ledger::{About, Account, Entry, EntryKind, LedgerError, Owner, Posting, Side, Subject},
    money::{self, BasisPoints, Currency, MoneyError},
    program::words,
};

words! {
    /// Where a payout stands (`semantics.md`, "One state machine").
    PayoutState {
        /// Reserved; nothing was written down to be sent under the current key.
        Pending = "pending",
        /// A call was written down; the provider may have executed it.
        Submitting = "submitting",
        /// The provider may have executed it and must not be asked again. Left by a look-up, a webhook, or
        /// people with evidence.
        Unknown = "unknown",
        /// The receiving account cannot take it yet.
        WaitingAccount = "waiting_account",
        /// The platform's balance does not cover it yet.
        WaitingFunds = "waiting_funds",
        /// The money moved.
        Completed = "completed",
        /// Definitely refused; what was reserved is payable again.
        Failed = "failed",
        /// Given up before anything was sent; what was reserved is payable again.
        Canceled = "canceled",
        /// Part of the money came back.
        PartiallyReversed = "partially_reversed",
        /// All of the money came back.
        Reversed = "reversed",
    }
}

words! {
    /// What happens to a commission when the transfer that paid it comes back (`rulings.md` 15).
    OnTransferReversed {
        /// The cash is back and the commission is taken back: nothing is owed either way.
        Clawback = "clawback",
        /// The cash is back and is owed again: the next settlement pays it.
        Requeue = "requeue",
    }
}

words! {
    /// How often a program is settled by itself.
    PayoutSchedule {
        /// Every Monday, 00:00 UTC.
        Weekly = "weekly",
        /// Every first day of a month, 00:00 UTC.
        Monthly = "monthly",
    }
}

words! {
    /// Why an enrollment is not paid now. What it is owed stays payable.
    Skip {
        /// Nothing is left after what was taken back.
        NothingDue = "nothing_due",
        /// More was taken back than is payable; the debt is netted against what is earned next.
        Debt = "debt",
        /// The program names no minimum for this currency, so it is not paid out (`rulings.md` 18).
        NoMinimum = "no_min_payout",
        /// Less than the program's minimum.
        BelowMinimum = "below_min_payout",
        /// The platform fee leaves nothing to send.
        FeeTakesAll = "fee_takes_all",
        /// The payouts of this enrollment are stopped by an operator or after an anomaly.
        Held = "held",
        /// An earlier payout may or may not have been executed; until that is known nothing more is sent.
        PayoutUnknown = "payout_unknown",
        /// The affiliate has named no account to be paid to.
        NoPayoutAccount = "no_payout_account",
        /// The account cannot be paid to.
        AccountNotReady = "account_not_ready",
    }
}

/// What can happen to a payout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayoutEvent {
    /// An attempt was written down.
    Submitted,
    /// The provider refused for now.
    Waits(Waiting),
    /// Its intent was set apart.
    Quarantined,
    /// People showed that nothing was executed; it may be sent under a new key.
    Released,
    /// The provider moved the money.
    Completed,
    /// The provider refused for good.
    Failed,
    /// Somebody gave it up.
    Canceled,
    /// Some of what was sent came back.
    PartiallyReversed,
    /// All of what was sent came back.
    Reversed,
}

/// A payout cannot go from this state by this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payout that is {} cannot be changed by {event:?}", from.as_str())]
pub struct InvalidTransition {
    /// Where it stands.
    pub from: PayoutState,
    /// What was to happen.
    pub event: PayoutEvent,
}

impl PayoutState {
    /// Where `event` leads.
    ///
    /// # Errors
    /// [`InvalidTransition`] where the state machine has no such way. A transfer that turns up for a
    /// payout that ended without one is the case to alarm about (`rulings.md` 16).
    pub fn after(self, event: PayoutEvent) -> Result<Self, InvalidTransition> {
        let refused = Err(InvalidTransition { from: self, event });
        match self {
            Self::Pending | Self::WaitingAccount | Self::WaitingFunds => match event {
                PayoutEvent::Submitted => Ok(Self::Submitting),
                PayoutEvent::Waits(waiting) => Ok(Self::waiting(waiting)),
                PayoutEvent::Quarantined => Ok(Self::Unknown),
                PayoutEvent::Completed => Ok(Self::Completed),
                PayoutEvent::Canceled => Ok(Self::Canceled),
                PayoutEvent::Released
                | PayoutEvent::Failed
                | PayoutEvent::PartiallyReversed
                | PayoutEvent::Reversed => refused,
            },
            Self::Submitting => match event {
                PayoutEvent::Submitted => Ok(Self::Submitting),
                PayoutEvent::Waits(waiting) => Ok(Self::waiting(waiting)),
                PayoutEvent::Quarantined => Ok(Self::Unknown),
                PayoutEvent::Completed => Ok(Self::Completed),
                PayoutEvent::Failed => Ok(Self::Failed),
                PayoutEvent::Released
                | PayoutEvent::Canceled
                | PayoutEvent::PartiallyReversed
                | PayoutEvent::Reversed => refused,
            },
            Self::Unknown => match event {
                PayoutEvent::Released => Ok(Self::Pending),
                PayoutEvent::Quarantined => Ok(Self::Unknown),
                PayoutEvent::Completed => Ok(Self::Completed),
                PayoutEvent::Submitted
                | PayoutEvent::Waits(_)
                | PayoutEvent::Failed
                | PayoutEvent::Canceled
                | PayoutEvent::PartiallyReversed
                | PayoutEvent::Reversed => refused,
            },
            Self::Completed | Self::PartiallyReversed => match event {
                PayoutEvent::PartiallyReversed => Ok(Self::PartiallyReversed),
                PayoutEvent::Reversed => Ok(Self::Reversed),
                PayoutEvent::Submitted
                | PayoutEvent::Waits(_)
                | PayoutEvent::Quarantined
                | PayoutEvent::Released
                | PayoutEvent::Completed
                | PayoutEvent::Failed
                | PayoutEvent::Canceled => refused,
            },
            Self::Failed | Self::Canceled | Self::Reversed => refused,
        }
    }

    const fn waiting(waiting: Waiting) -> Self {
        match waiting {
            Waiting::Funds => Self::WaitingFunds,
            Waiting::Account => Self::WaitingAccount,
        }
    }

    /// Whether it can be given up: what was sent for it, if anything, is known to have been refused for now.
    /// Between two keys it is still `submitting`, and goes on.
    #[must_use]
    pub fn can_be_given_up(self) -> bool {
        self.after(PayoutEvent::Canceled).is_ok()
    }

    /// Whether it holds a reservation: its amount is in transit.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        match self {
            Self::Pending | Self::Submitting | Self::Unknown | Self::WaitingAccount | Self::WaitingFunds => {
                true
            }
            Self::Completed | Self::Failed | Self::Canceled | Self::PartiallyReversed | Self::Reversed => {
                false
            }
        }
    }

    /// Whether it ended without moving money; its lots are free again.
    #[must_use]
    pub const fn is_void(self) -> bool {
        match self {
            Self::Failed | Self::Canceled => true,
            Self::Pending
            | Self::Submitting
            | Self::Unknown
            | Self::WaitingAccount
            | Self::WaitingFunds
            | Self::Completed
            | Self::PartiallyReversed
            | Self::Reversed => false,
        }
    }
}

/// What is known of an enrollment's payable side in one currency when a program is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Sum of the unclaimed lots, minor units; negative is debt.
    pub due: i64,
    /// The program's minimum for the currency, minor units.
    pub minimum: Option<i64>,
    /// The platform's share of each payout.
    pub fee: BasisPoints,
    /// Whether the enrollment's payouts are stopped.
    pub held: bool,
    /// Whether an earlier payout of the enrollment is unknown.
    pub has_unknown: bool,
    /// Whether there is an account to pay to, and whether it was told to be able to take transfers and to
    /// pay out; an account of which nothing was told counts as ready, the provider has the last word.
    pub account_ready: Option<bool>,
}

/// How an amount that is due is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// What is taken from the payable side, minor units.
    pub due: i64,
    /// What the platform keeps, minor units.
    pub fee: i64,
    /// What is sent, minor units.
    pub send: i64,
}

impl Candidate {
    /// What is paid, or why not (`semantics.md`, "Minimum and netting order": debts first, then the
    /// minimum, which pays when it is met exactly, then the fee).
    ///
    /// # Errors
    /// [`MoneyError`] when an amount does not fit 64 bits.
    pub fn plan(&self) -> Result<Result<Split, Skip>, MoneyError> {
        let skip = if self.due == 0 {
            Skip::NothingDue
        } else if self.due < 0 {
            Skip::Debt
        } else if self.minimum.is_none() {
            Skip::NoMinimum
        } else if self.minimum > Some(self.due) {
            Skip::BelowMinimum
        } else if self.held {
            Skip::Held
        } else if self.has_unknown {
            Skip::PayoutUnknown
        } else {
            match self.account_ready {
                None => Skip::NoPayoutAccount,
                Some(false) => Skip::AccountNotReady,
                Some(true) => return self.split(),
            }
        };
        Ok(Err(skip))
    }

    fn split(&self) -> Result<Result<Split, Skip>, MoneyError> {
        let fee = self.fee.of(self.due)?;
        let send = money::sub(self.due, fee)?;
        Ok(if send > 0 { Ok(Split { due: self.due, fee, send }) } else { Err(Skip::FeeTakesAll) })
    }
}

/// The ledger's view of a payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payout {
    /// Id.
    pub id: PayoutId,
    /// Who is paid.
    pub enrollment_id: EnrollmentId,
    /// Who pays.
    pub program_id: ProgramId,
    /// Currency of the amounts.
    pub currency: Currency,
    /// The frozen amounts.
    pub split: Split,
    /// Where it stands.
    pub state: PayoutState,
    /// What happens when its transfer comes back; frozen with it.
    pub on_transfer_reversed: OnTransferReversed,
    /// Of what was sent, how much came back and is posted, minor units, cumulative.
    pub reversed: i64,
    /// That and the fee's part of it, minor units, cumulative.
    pub returned: i64,
    /// Number of its entries.
    pub revision: i64,
}

impl Payout {
    /// The id of the payout of this run, enrollment and currency.
    #[must_use]
    pub fn id_of(run: &str, enrollment: &EnrollmentId, currency: Currency) -> PayoutId {
        PayoutId::derived(&[run, enrollment.as_str(), currency.as_str()])
    }

    /// Takes what is due from the payable side.
    ///
    /// # Errors
    /// [`LedgerError`] when amounts do not fit.
    pub fn reserve(&mut self) -> Result<Entry, LedgerError> {
        let due = self.split.due;
        self.between(EntryKind::PayoutReserve, Account::Payable, Account::InTransit, due)
    }

    /// The provider moved the money: what was sent is paid, the fee is kept.
    ///
    /// # Errors
    /// [`LedgerError`] when amounts do not fit.
    pub fn settle(&mut self) -> Result<Vec<Entry>, LedgerError> {
        let Split { fee, send, .. } = self.split;
        let mut entries =
            vec![self.between(EntryKind::PayoutSettle, Account::InTransit, Account::Paid, send)?];
        if fee > 0 {
            entries.push(self.between(
                EntryKind::PlatformFee,
                Account::InTransit,
                Account::FeeIncome,
                fee,
            )?);
        }
        Ok(entries)
    }

    /// Gives back what was reserved.
    ///
    /// # Errors
    /// [`LedgerError`] when amounts do not fit.
    pub fn release(&mut self) -> Result<Entry, LedgerError> {
        let due = self.split.due;
        self.between(EntryKind::PayoutRelease, Account::InTransit, Account::Payable, due)
    }

    /// Posts what came back: the difference between the cumulative `reversed` and what was posted before,
    /// with the fee's part of it (`rulings.md` 15: the fee returned is fee × reversed ÷ sent, cumulative).
    /// `None` when nothing new came back; a smaller total than before is old news.
    ///
    /// # Errors
    /// [`LedgerError`] when amounts do not fit.
    pub fn give_back(&mut self, reversed: i64) -> Result<Option<Entry>, LedgerError> {
        let reversed = reversed.min(self.split.send);
        if reversed <= self.reversed {
            return Ok(None);
        }
        let fee_returned = money::share(self.split.fee, reversed, self.split.send)?;
        let returned = money::add(reversed, fee_returned)?;
        let cash = money::sub(reversed, self.reversed)?;
        let all = money::sub(returned, self.returned)?;
        let fee = money::sub(all, cash)?;
        let mut lines = vec![self.line(Account::ReturnedCash, Side::Debit, cash)];
        if fee > 0 {
            lines.push(self.line(Account::FeeIncome, Side::Debit, fee));
        }
        lines.push(self.line(Account::Payable, Side::Credit, all));
        let entry = self.entry(EntryKind::TransferReturned, lines)?;
        (self.reversed, self.returned) = (reversed, returned);
        Ok(Some(entry))
    }

    fn between(
        &mut self,
        kind: EntryKind,
        debit: Account,
        credit: Account,
        amount: i64,
    ) -> Result<Entry, LedgerError> {
        let lines = vec![self.line(debit, Side::Debit, amount), self.line(credit, Side::Credit, amount)];
        self.entry(kind, lines)
    }

    fn line(&self, account: Account, side: Side, amount: i64) -> Posting {
        let owner = match account {
            Account::Held | Account::Payable | Account::InTransit | Account::Paid => {
                Owner::Enrollment(self.enrollment_id.clone())
            }
            Account::Expense | Account::FeeIncome | Account::ReturnedCash => {
                Owner::Program(self.program_id.clone())
            }
        };
        Posting { owner, account, side, amount }
    }

    fn entry(&mut self, kind: EntryKind, lines: Vec<Posting>) -> Result<Entry, LedgerError> {
        let revision = money::add(self.revision, 1)?;
        let subject = Subject {
            about: About::Payout(self.id.clone()),
            enrollment_id: &self.enrollment_id,
            program_id: &self.program_id,
            currency: self.currency,
        };
        let entry = Entry::new(&subject, revision, kind, lines)?;
        self.revision = revision;
        Ok(entry)
    }
}

/// How much of each commission a payout takes back when `returned` of it came back: `returned` spread
/// over what it paid by cumulative rounding, so that the parts always sum to the whole and a full return
/// takes each back whole (`rulings.md` 15).
///
/// `paid` is the net of each commission's lots in the payout, in a fixed order. Commissions that it paid
/// nothing for, such as debts that it netted, give nothing back: they were settled by the others.
///
/// # Errors
/// [`MoneyError`] when amounts do not fit.
pub fn spread(returned: i64, paid: &[(CommissionId, i64)]) -> Result<Vec<(CommissionId, i64)>, MoneyError> {
    let total = money::sum(paid.iter().map(|(_, amount)| (*amount).max(0)))?;
    let returned = returned.min(total);
    let (mut paid_so_far, mut taken_so_far) = (0, 0);
    let mut parts = Vec::new();
    for (commission, amount) in paid.iter().filter(|(_, amount)| *amount > 0) {
        paid_so_far = money::add(paid_so_far, *amount)?;
        let taken = money::share(returned, paid_so_far, total)?;
        parts.push((commission.clone(), money::sub(taken, taken_so_far)?));
        taken_so_far = taken;
    }
    Ok(parts)
}
