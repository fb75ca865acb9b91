//! Double entry: accounts, postings and entries that balance by construction.
//!
//! Amounts are positive minor units, the side is debit or credit. What an affiliate is owed is a
//! liability, so those accounts grow on the credit side; a program's expense grows on the debit side.
//! Entries are never changed; a correction is a new entry.

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

use super::{
    ids::{CommissionId, EnrollmentId, EntryId, LotId, PayoutId, ProgramId},
    money::{self, Currency, MoneyError},
    program::words,
};

words! {
    /// Where a posting lands.
    Account {
        /// Enrollment: earned, not payable yet.
        Held = "held",
        /// Enrollment: payable; negative is debt.
        Payable = "payable",
        /// Enrollment: reserved by a payout that is under way.
        InTransit = "in_transit",
        /// Enrollment: paid out.
        Paid = "paid",
        /// Program: what commissions cost.
        Expense = "expense",
        /// Program: platform fees kept.
        FeeIncome = "fee_income",
        /// Program: cash that came back from reversed transfers.
        ReturnedCash = "returned_cash",
    }
}

words! {
    /// Left or right.
    Side {
        /// Left.
        Debit = "debit",
        /// Right.
        Credit = "credit",
    }
}

words! {
    /// What an entry does.
    EntryKind {
        /// A commission is earned.
        Accrual = "accrual",
        /// The amount earned changes because better facts about the sale arrived.
        Adjustment = "adjustment",
        /// Part of a commission is taken back.
        Clawback = "clawback",
        /// Part of what was taken back is given again.
        Reinstatement = "reinstatement",
        /// Held becomes payable.
        Release = "release",
        /// Payable becomes held, because something stops the money.
        Suspension = "suspension",
        /// A payout takes what is payable.
        PayoutReserve = "payout_reserve",
        /// The provider moved the money of a payout.
        PayoutSettle = "payout_settle",
        /// The platform keeps its fee of a payout.
        PlatformFee = "platform_fee",
        /// A payout ended without moving money; what it took is payable again.
        PayoutRelease = "payout_release",
        /// Cash of a payout came back, and the fee's part of it.
        TransferReturned = "transfer_returned",
    }
}

/// An account of one owner: an enrollment or a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// An affiliate's side.
    Enrollment(EnrollmentId),
    /// The program's side.
    Program(ProgramId),
}

impl Owner {
    /// The owner's id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Enrollment(id) => id.as_str(),
            Self::Program(id) => id.as_str(),
        }
    }
}

/// One line of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Whose account.
    pub owner: Owner,
    /// Which account.
    pub account: Account,
    /// Left or right.
    pub side: Side,
    /// Minor units, more than 0.
    pub amount: i64,
}

/// What made an entry necessary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Cause {
    /// A stored webhook event (inbox id).
    Event(String),
    /// A person's decision (decision id).
    Decision(String),
    /// Time passed, or something other than the sale began to hold; the text is the rule, such as `due`.
    Time(String),
    /// What a provider answered to a call of ours: the intent and the number of the attempt.
    Call(String),
    /// A settlement (run id).
    Run(String),
    /// How people ended a doubt about an intent (resolution id).
    Resolution(String),
}

impl Cause {
    /// The kind and the id, as they are stored.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Event(id) => ("event", id),
            Self::Decision(id) => ("decision", id),
            Self::Time(rule) => ("time", rule),
            Self::Call(id) => ("call", id),
            Self::Run(id) => ("run", id),
            Self::Resolution(id) => ("resolution", id),
        }
    }

    /// The cause that is stored as these parts.
    #[must_use]
    pub fn from_parts(kind: &str, id: String) -> Option<Self> {
        match kind {
            "event" => Some(Self::Event(id)),
            "decision" => Some(Self::Decision(id)),
            "time" => Some(Self::Time(id)),
            "call" => Some(Self::Call(id)),
            "run" => Some(Self::Run(id)),
            "resolution" => Some(Self::Resolution(id)),
            _ => None,
        }
    }
}

/// The lines do not balance, or a line is not positive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Debits differ from credits.
    #[error("entry {entry} does not balance: debits {debits}, credits {credits}")]
    Unbalanced {
        /// The entry.
        entry: EntryId,
        /// Sum of debits, minor units.
        debits: i64,
        /// Sum of credits, minor units.
        credits: i64,
    },
    /// A line of zero or less.
    #[error("entry {0} has a line that is not positive")]
    NotPositive(EntryId),
    /// Sums do not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// What one enrollment earns from one sale.
    Commission(CommissionId),
    /// What one enrollment is paid.
    Payout(PayoutId),
}

impl About {
    /// The id as text; the prefix says which of the two it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Commission(id) => id.as_str(),
            Self::Payout(id) => id.as_str(),
        }
    }

    /// The commission, unless it is a payout.
    #[must_use]
    pub fn commission_id(&self) -> Option<&CommissionId> {
        match self {
            Self::Commission(id) => Some(id),
            Self::Payout(_) => None,
        }
    }

    /// The payout, unless it is a commission.
    #[must_use]
    pub fn payout_id(&self) -> Option<&PayoutId> {
        match self {
            Self::Commission(_) => None,
            Self::Payout(id) => Some(id),
        }
    }
}

/// A balanced set of lines of one currency, for one revision of one commission or payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Derived from what it is about and the revision, so that the same posting cannot be made twice.
    pub id: EntryId,
    /// The commission or the payout.
    pub about: About,
    /// 1, 2, 3, … per commission and per payout (`rulings.md` 2).
    pub revision: i64,
    /// What it does.
    pub kind: EntryKind,
    /// Whose balance.
    pub enrollment_id: EnrollmentId,
    /// Which program pays.
    pub program_id: ProgramId,
    /// Currency of all lines.
    pub currency: Currency,
    lines: Vec<Posting>,
}

/// What an entry belongs to.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The commission or the payout.
    pub about: About,
    /// Whose balance.
    pub enrollment_id: &'a EnrollmentId,
    /// Which program pays.
    pub program_id: &'a ProgramId,
    /// Currency.
    pub currency: Currency,
}

impl Entry {
    /// An entry of the given lines.
    ///
    /// # Errors
    /// [`LedgerError`] if the lines are not positive or do not balance.
    pub fn new(
        of: &Subject<'_>,
        revision: i64,
        kind: EntryKind,
        lines: Vec<Posting>,
    ) -> Result<Self, LedgerError> {
        let id = EntryId::derived(&[of.about.as_str(), &revision.to_string()]);
        if lines.iter().any(|line| line.amount <= 0) {
            return Err(LedgerError::NotPositive(id));
        }
        let total = |side| money::sum(lines.iter().filter(|line| line.side == side).map(|line| line.amount));
        let (debits, credits) = (total(Side::Debit)?, total(Side::Credit)?);
        if debits != credits || lines.is_empty() {
            return Err(LedgerError::Unbalanced { entry: id, debits, credits });
        }
        Ok(Self {
            id,
            about: of.about.clone(),
            revision,
            kind,
            enrollment_id: of.enrollment_id.clone(),
            program_id: of.program_id.clone(),
            currency: of.currency,
            lines,
        })
    }

    /// The lines, balanced.
    #[must_use]
    pub fn lines(&self) -> &[Posting] {
        &self.lines
    }

    /// What the entry changes an account by, seen from the credit side, minor units.
    pub fn effect_on(&self, account: Account) -> Result<i64, MoneyError> {
        money::sum(self.lines.iter().filter(|line| line.account == account).map(|line| match line.side {
            Side::Debit => line.amount.saturating_neg(),
            Side::Credit => line.amount,
        }))
    }

    /// SHA-256 over everything the entry says, so that an edited row shows (`rulings.md` 25).
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        put(self.id.as_str());
        put(self.about.as_str());
        put(&self.revision.to_string());
        put(self.kind.as_str());
        put(self.enrollment_id.as_str());
        put(self.program_id.as_str());
        put(self.currency.as_str());
        for line in &self.lines {
            put(line.owner.as_str());
            put(line.account.as_str());
            put(line.side.as_str());
            put(&line.amount.to_string());
        }
        hash.finalize().into()
    }
}

words! {
    /// Why a lot exists.
    LotKind {
        /// A commission became payable.
        Release = "release",
        /// A commission that is payable was earned or adjusted further.
        Adjustment = "adjustment",
        /// Taken back from what is payable or already paid; nets against the next payout.
        CarryForward = "carry_forward",
        /// Given again.
        Reinstatement = "reinstatement",
        /// Stopped: leaves the payable side.
        Suspension = "suspension",
        /// Cash of a payout that came back.
        Returned = "returned",
    }
}

/// A signed part of the payable balance that a payout can claim (`rulings.md` 12).
/// The sum of unclaimed lots is the payable balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// Derived from the entry.
    pub id: LotId,
    /// The entry that changed the payable balance.
    pub entry_id: EntryId,
    /// The commission; none for cash that came back.
    pub commission_id: Option<CommissionId>,
    /// Whose balance.
    pub enrollment_id: EnrollmentId,
    /// Currency.
    pub currency: Currency,
    /// Why.
    pub kind: LotKind,
    /// Signed minor units, not 0.
    pub amount: i64,
}

impl Lot {
    /// The lot that goes with an entry, if the entry makes one. Reserving and releasing make none: they
    /// claim and give back the lots that there are.
    pub fn of(entry: &Entry) -> Result<Option<Self>, MoneyError> {
        let amount = entry.effect_on(Account::Payable)?;
        if amount == 0 {
            return Ok(None);
        }
        let kind = match entry.kind {
            EntryKind::Accrual | EntryKind::Adjustment => LotKind::Adjustment,
            EntryKind::Clawback => LotKind::CarryForward,
            EntryKind::Reinstatement => LotKind::Reinstatement,
            EntryKind::Release => LotKind::Release,
            EntryKind::Suspension => LotKind::Suspension,
            EntryKind::TransferReturned => LotKind::Returned,
            EntryKind::PayoutReserve
            | EntryKind::PayoutSettle
            | EntryKind::PlatformFee
            | EntryKind::PayoutRelease => return Ok(None),
        };
        Ok(Some(Self {
            id: LotId::derived(&[entry.id.as_str()]),
            entry_id: entry.id.clone(),
            commission_id: entry.about.commission_id().cloned(),
            enrollment_id: entry.enrollment_id.clone(),
            currency: entry.currency,
            kind,
            amount,
        }))
    }
}
