//! What a commission should be, and the entries that take it there from what was posted.
//!
//! [`target`] is the one place where facts, decisions, frozen terms and time meet. [`post`] compares
//! its answer with what was posted before and returns the difference as entries; most often there is
//! none, which is why duplicates, replays and reorderings change nothing.

#[cfg(test)]
mod tests;
mod upline;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{CommissionId, ConversionId, DecisionId, EnrollmentId, ProgramId, SaleId},
    ledger::{self, Account, Entry, EntryKind, LedgerError, Lot, Owner, Posting, Side},
    money::{self, Currency, Money, MoneyError},
    program::words,
    sale::{Stop, StopKind, Summary},
    terms::{ApprovalMode, Earned, Position, Standing, Terms},
    time::Timestamp,
};
pub use upline::upline_target;

words! {
    /// Stored state of a commission (`semantics.md`, "One state machine"). Computed, never set by hand.
    CommissionState {
        /// Waits for approval; nothing is accrued.
        AwaitingReview = "awaiting_review",
        /// Accrued; the hold period is not over.
        Held = "held",
        /// Accrued; something stops the money until a person or the provider clears it.
        Flagged = "flagged",
        /// Can be claimed by a payout.
        Payable = "payable",
        /// Claimed by a payout that is not done.
        InPayout = "in_payout",
        /// Paid out. Later clawbacks carry forward; the state stays.
        Paid = "paid",
        /// Turned down by a person. Terminal.
        Denied = "denied",
        /// Taken back whole before it was paid.
        Reversed = "reversed",
    }
}

words! {
    /// The state of a conversion in the words of seed S0 (`semantics.md`, "Views").
    ConversionStatus {
        /// Waits for a person.
        Pending = "pending",
        /// Earned, and not paid yet.
        Approved = "approved",
        /// Paid out.
        Paid = "paid",
        /// Turned down by a person.
        Rejected = "rejected",
        /// Taken back whole before it was paid.
        ClawedBack = "clawed_back",
    }
}

impl ConversionStatus {
    /// How a commission's state is called.
    #[must_use]
    pub const fn of(state: CommissionState) -> Self {
        match state {
            CommissionState::AwaitingReview | CommissionState::Flagged => Self::Pending,
            CommissionState::Held | CommissionState::Payable | CommissionState::InPayout => Self::Approved,
            CommissionState::Paid => Self::Paid,
            CommissionState::Denied => Self::Rejected,
            CommissionState::Reversed => Self::ClawedBack,
        }
    }

    /// The states that are called this.
    pub fn states(self) -> impl Iterator<Item = CommissionState> {
        CommissionState::ALL.iter().copied().filter(move |state| Self::of(*state) == self)
    }
}

words! {
    /// What a person can decide about the commission of one enrollment on one sale.
    DecisionKind {
        /// The sale belongs to this enrollment.
        Attribute = "attribute",
        /// Accept what waits or is flagged.
        Approve = "approve",
        /// Turn it down.
        Reject = "reject",
        /// Take it back, whole or in part.
        Clawback = "clawback",
        /// The transfer that paid it came back, whole or in part (`rulings.md` 15). Recorded by the
        /// program, never by a person.
        TransferClawback = "transfer_clawback",
        /// Hold it for another number of days than the program says.
        HoldPeriod = "hold_period",
    }
}

words! {
    /// Why a person claws back. Refunds and chargebacks are also told by the provider, so for those
    /// the larger of the two counts; the others come on top.
    ClawbackReason {
        /// The buyer got money back.
        Refund = "refund",
        /// The buyer's bank took the money back.
        Chargeback = "chargeback",
        /// The sale was not genuine.
        Fraud = "fraud",
        /// Anything else; the note says what.
        Other = "other",
    }
}

/// A stored decision about one sale and one enrollment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Id; later decisions sort after earlier ones of the same instant.
    pub id: DecisionId,
    /// Whose commission.
    pub enrollment_id: EnrollmentId,
    /// For transfer clawbacks: the commission that the transfer paid. One affiliate can have earned twice
    /// of one sale, directly and as a sponsor.
    pub commission_id: Option<CommissionId>,
    /// What was decided.
    pub kind: DecisionKind,
    /// For clawbacks.
    pub reason: Option<ClawbackReason>,
    /// For clawbacks: minor units of the commission; absent takes all. For transfer clawbacks: the change
    /// against the earlier ones of the same payout, so their sum counts; rounding can make one negative.
    /// For hold periods: days of 86 400 s.
    pub amount: Option<i64>,
    /// When it was decided.
    pub at: Timestamp,
}

impl Decision {
    /// Whether it is about this commission of its sale. People decide about the direct one, and what they
    /// decide reaches the sponsors through it; an affiliate can have been either on the same sale.
    #[must_use]
    pub fn is_about(&self, commission: &Commission) -> bool {
        match &self.commission_id {
            Some(id) => *id == commission.id,
            None => {
                self.enrollment_id == commission.enrollment_id
                    && (commission.level == 0 || self.kind == DecisionKind::TransferClawback)
            }
        }
    }
}

/// A stop that was raised on a commission. Cleared at most once (`rulings.md` 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// When it was first seen.
    pub raised_at: Timestamp,
    /// When it was cleared, by whom: a decision id, or `resolved` when the cause went away.
    pub cleared: Option<(Timestamp, String)>,
}

/// How a flag is cleared when its cause went away.
const RESOLVED: &str = "resolved";

impl Flag {
    fn is_cleared_by_person(&self) -> bool {
        self.cleared.as_ref().is_some_and(|(_, by)| by != RESOLVED)
    }

    /// Takes the flags of a commission whose sale was merged into this one's. The same cause may stand
    /// on both; what a person cleared on either stays cleared (`rulings.md` 10).
    pub fn inherit(flags: &mut BTreeMap<Stop, Self>, others: &BTreeMap<Stop, Self>) {
        for (stop, other) in others {
            let known = flags.entry(stop.clone()).or_insert_with(|| other.clone());
            if other.is_cleared_by_person() && !known.is_cleared_by_person() {
                *known = other.clone();
            }
        }
    }
}

/// What one enrollment earns from one sale, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commission {
    /// Derived from sale, enrollment and level.
    pub id: CommissionId,
    /// Derived from sale and enrollment.
    pub conversion_id: ConversionId,
    /// The sale.
    pub sale_id: SaleId,
    /// Who earns.
    pub enrollment_id: EnrollmentId,
    /// Who pays.
    pub program_id: ProgramId,
    /// 0 for the direct affiliate, 1 and up for sponsors.
    pub level: i64,
    /// Currency of all amounts below.
    pub currency: Currency,
    /// Terms as of [`Self::paid_at`]. They change only when that does, see [`Self::paid_from`].
    pub terms: Terms,
    /// Which version they are.
    pub terms_version: i64,
    /// What the rule was applied to, minor units of the sale's currency. Not frozen.
    pub base: i64,
    /// What the rule gives for `base`, minor units.
    pub amount: i64,
    /// Accrued so far, minor units.
    pub earned: i64,
    /// Taken back so far, minor units.
    pub clawed: i64,
    /// Of the rest, still held.
    pub held: i64,
    /// Of the rest, released to the payable side, whether paid out or not.
    /// `earned − clawed = held + released`.
    pub released: i64,
    /// State.
    pub state: CommissionState,
    /// Why it is in that state, where the state alone does not say.
    pub reason: Option<String>,
    /// Whether a payout claimed any part of it; then its attribution is frozen (`rulings.md` 8).
    pub claimed: bool,
    /// Posted revision.
    pub revision: i64,
    /// When the sale was paid.
    pub paid_at: Timestamp,
    /// When time alone can change the commission next.
    pub due_at: Option<Timestamp>,
    /// Stops raised on it.
    pub flags: BTreeMap<Stop, Flag>,
    /// Where its sale stands among others, once it has accrued under a rule that asks for that.
    pub position: Option<Position>,
    /// The customer whose payments are counted, while this one is among them.
    pub customer_key: Option<String>,
    /// What it adds to the tiers of later sales: the base that was kept, in the sale's currency. None
    /// while it is not accepted or was taken back.
    pub counted: Option<Money>,
}

impl Commission {
    /// The id of the commission of this sale, enrollment and level.
    #[must_use]
    pub fn id_of(sale: &SaleId, enrollment: &EnrollmentId, level: i64) -> CommissionId {
        CommissionId::derived(&[sale.as_str(), enrollment.as_str(), &level.to_string()])
    }

    /// The id of the conversion of this sale and enrollment.
    #[must_use]
    pub fn conversion_id_of(sale: &SaleId, enrollment: &EnrollmentId) -> ConversionId {
        ConversionId::derived(&[sale.as_str(), enrollment.as_str()])
    }

    /// How far the commission is, for choosing which of two merging sales survives.
    #[must_use]
    pub fn advancement(&self) -> u8 {
        if self.claimed {
            return 3;
        }
        match self.state {
            CommissionState::InPayout | CommissionState::Paid => 3,
            CommissionState::Payable => 2,
            CommissionState::Held | CommissionState::Flagged => 1,
            CommissionState::AwaitingReview | CommissionState::Denied | CommissionState::Reversed => 0,
        }
    }

    /// Clears every open flag: the effect of an approval on what stands at that moment. A cause that
    /// was cleared is never raised again (`rulings.md` 10).
    pub fn clear_flags(&mut self, by: &DecisionId, now: Timestamp) {
        for flag in self.flags.values_mut().filter(|flag| flag.cleared.is_none()) {
            flag.cleared = Some((now, by.as_str().to_owned()));
        }
    }

    /// Takes over when the sale was paid and the terms that held then.
    ///
    /// Terms are frozen as of `paid_at` (`rulings.md` 7), and a better teller of that time may come
    /// after the commission was made. Without this, a payment near a change of terms would earn by
    /// whichever event came first. What a payout claimed stands.
    ///
    /// A later payment of a customer keeps the terms of the first (`semantics.md`, "Recurring length").
    pub fn paid_from(&mut self, paid_at: Timestamp, version: i64, terms: impl FnOnce() -> Terms) {
        if self.claimed || self.paid_at == paid_at {
            return;
        }
        self.paid_at = paid_at;
        let follows = matches!(self.position, Some(Position::Payments { number, .. }) if number > 1);
        if !follows && self.terms_version != version {
            self.terms_version = version;
            self.terms = terms();
        }
    }

    /// The commission of a sponsor of the affiliate, on which nothing is posted yet. It belongs to the same
    /// conversion.
    #[must_use]
    pub fn upline(&self, sale: &SaleId, sponsor: &EnrollmentId, level: i64) -> Self {
        Self {
            id: Self::id_of(sale, sponsor, level),
            enrollment_id: sponsor.clone(),
            level,
            base: 0,
            amount: 0,
            earned: 0,
            clawed: 0,
            held: 0,
            released: 0,
            state: CommissionState::Held,
            reason: None,
            claimed: false,
            revision: 0,
            due_at: None,
            flags: BTreeMap::new(),
            position: None,
            customer_key: None,
            counted: None,
            ..self.clone()
        }
    }

    fn is_released(&self) -> bool {
        match self.state {
            CommissionState::Payable | CommissionState::InPayout | CommissionState::Paid => true,
            CommissionState::AwaitingReview
            | CommissionState::Held
            | CommissionState::Flagged
            | CommissionState::Denied
            | CommissionState::Reversed => self.claimed,
        }
    }
}

/// Why a commission that exists is owed to nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voided {
    /// Its sale was merged into another, which carries the commission now.
    Merged,
    /// The sale belongs to another enrollment, or to none.
    Reattributed,
}

impl Voided {
    /// The word shown as the reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::Reattributed => "reattributed",
        }
    }
}

/// Everything [`target`] looks at.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The commission as it stands; freshly made ones have nothing posted.
    pub commission: &'a Commission,
    /// What the facts of the sale say; `None` when its money is unknown or moved elsewhere.
    pub sale: Option<&'a Summary>,
    /// Set when the commission is owed to nobody any more.
    pub voided: Option<Voided>,
    /// Decisions about this sale and enrollment, in order of time.
    pub decisions: &'a [Decision],
    /// Stops beyond those of the facts: cancellation, self-referral.
    pub more_stops: BTreeSet<Stop>,
    /// Earliest instant at which anything of this sale may become payable (`rulings.md` 5).
    pub not_before: Timestamp,
    /// When the last event about the sale was received.
    pub received_at: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Where the sale stands among others: as stored, or as it would be stored now.
    pub position: Option<Position>,
}

/// What a commission should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    currency: Currency,
    base: i64,
    amount: i64,
    earned: i64,
    clawed: i64,
    released: bool,
    state: CommissionState,
    reason: Option<String>,
    due_at: Option<Timestamp>,
    flags: BTreeMap<Stop, Flag>,
    /// Of what is clawed, all but what came back of the transfer that paid it: a sponsor's commission
    /// follows this part.
    lost: i64,
    position: Option<Position>,
    counted: Option<Money>,
    /// The tax of the sale stayed unknown for a day (`rulings.md` 7).
    pub tax_overdue: bool,
    /// The sale turned out to be in another currency than the commission that a payout claimed.
    pub currency_contradiction: bool,
}

impl Target {
    /// What the rule gives, minor units of the commission's currency.
    #[must_use]
    pub const fn amount(&self) -> i64 {
        self.amount
    }
}

/// How long tax may stay unknown before an operator is told (`rulings.md` 7).
const TAX_PATIENCE_S: i64 = 86_400;

/// What the commission should be, given everything known.
///
/// # Errors
/// [`MoneyError`] when an amount does not fit 64 bits.
pub fn target(input: &Input<'_>) -> Result<Target, MoneyError> {
    let now = input.now;
    let commission = input.commission;
    let (Some(sale), None) = (input.sale, input.voided) else {
        return Ok(void(commission, input.voided.unwrap_or(Voided::Reattributed)));
    };
    let earned = commission.terms.earned(sale, input.position.as_ref())?;
    let flags = flags(input, &sale.stops.iter().chain(&input.more_stops).collect());
    let stopped = flags.values().any(|flag| flag.cleared.is_none());

    let rejected = input.decisions.iter().any(|decision| decision.kind == DecisionKind::Reject);
    let approved = input.decisions.iter().any(|decision| decision.kind == DecisionKind::Approve);
    let told = money::sub(earned.amount, commission.terms.kept(&earned, sale)?)?;
    let Clawed { lost, clawed } = clawed(input, told, earned.amount)?;
    let counted = counted(commission, sale, &earned, clawed)?;
    let base = Target {
        currency: earned.currency,
        base: earned.base,
        amount: earned.amount,
        earned: earned.amount,
        clawed,
        released: commission.is_released(),
        state: commission.state,
        reason: earned.limit.map(|limit| limit.as_str().to_owned()),
        due_at: None,
        flags,
        lost,
        position: input.position,
        counted,
        tax_overdue: false,
        currency_contradiction: false,
    };
    // Money that a payout took is never moved back; what changes carries forward.
    if commission.claimed {
        return Ok(claimed(commission, base));
    }
    if rejected {
        // What was accrued is taken back; what waited never accrues.
        return Ok(Target {
            currency: commission.currency,
            earned: commission.earned,
            clawed: commission.earned,
            released: false,
            state: CommissionState::Denied,
            reason: None,
            position: commission.position,
            counted: None,
            ..base
        });
    }
    if clawed >= earned.amount && earned.amount > 0 {
        let accrues = commission.terms.approval_mode == ApprovalMode::Auto || approved;
        let total = if accrues { earned.amount } else { commission.earned };
        return Ok(Target {
            earned: total,
            clawed: total,
            released: false,
            state: CommissionState::Reversed,
            reason: Some(reversal_reason(input, sale).to_owned()),
            position: if accrues { base.position } else { commission.position },
            counted: None,
            ..base
        });
    }
    if commission.terms.approval_mode == ApprovalMode::Manual && !approved {
        return Ok(Target {
            earned: 0,
            clawed: 0,
            released: false,
            state: CommissionState::AwaitingReview,
            // Decided when it accrues (`rulings.md` 9); until then the amount is what it would be now.
            position: commission.position,
            counted: None,
            ..base
        });
    }
    if stopped {
        let reason =
            base.flags.iter().find(|(_, flag)| flag.cleared.is_none()).map(|(stop, _)| stop.kind.as_str());
        return Ok(Target {
            released: false,
            state: CommissionState::Flagged,
            reason: reason.map(str::to_owned),
            ..base
        });
    }
    if earned.tax_missing {
        let patience_over = input.received_at.plus_secs(TAX_PATIENCE_S);
        return Ok(Target {
            released: false,
            state: CommissionState::Held,
            reason: Some("tax_unknown".to_owned()),
            due_at: (now < patience_over).then_some(patience_over),
            tax_overdue: now >= patience_over,
            ..base
        });
    }
    // Once released it stays released, so that a later event about the sale does not flap.
    let hold_over = sale.paid_at.plus_days(hold_days(input, sale)).max(input.not_before);
    if base.released || now >= hold_over {
        return Ok(Target { released: true, state: CommissionState::Payable, ..base });
    }
    Ok(Target { released: false, state: CommissionState::Held, due_at: Some(hold_over), ..base })
}

/// A commission that a payout took: its state stands. The difference of two currencies is no amount, so
/// what was posted in another one stands too.
fn claimed(commission: &Commission, base: Target) -> Target {
    if base.currency == commission.currency {
        return base;
    }
    Target {
        currency: commission.currency,
        base: commission.base,
        amount: commission.amount,
        earned: commission.earned,
        clawed: commission.clawed,
        counted: commission.counted,
        currency_contradiction: true,
        ..base
    }
}

/// How long the commission is held: as a person last said, else as the order was reported to its program
/// with, else as its terms say. Days.
fn hold_days(input: &Input<'_>, sale: &Summary) -> i64 {
    let said = input.decisions.iter().rev().find(|decision| decision.kind == DecisionKind::HoldPeriod);
    said.and_then(|decision| decision.amount).unwrap_or_else(|| {
        let reported = sale.holds.get(&input.commission.program_id);
        i64::from(*reported.unwrap_or(&input.commission.terms.hold_period_days))
    })
}

/// What an accepted sale adds to the tiers of later ones: refunds lower it, for later sales only
/// (`semantics.md`, "Tiers").
fn counted(
    commission: &Commission,
    sale: &Summary,
    earned: &Earned,
    clawed: i64,
) -> Result<Option<Money>, MoneyError> {
    let is_lost =
        (clawed >= earned.amount && earned.amount > 0) || (sale.taken >= sale.amount && sale.amount > 0);
    if commission.terms.standing() != Some(Standing::AmongSales) || is_lost {
        return Ok(None);
    }
    // An event without money is one more sale and no more revenue.
    let minor = match money::sub(sale.amount, sale.taken)? {
        0 => 0,
        kept => money::share(earned.base, kept, sale.amount)?,
    };
    Ok(Some(Money { minor, currency: sale.currency }))
}

/// A commission that is owed to nobody: what was accrued is taken back.
fn void(commission: &Commission, why: Voided) -> Target {
    let (released, state) =
        if commission.claimed { (true, commission.state) } else { (false, CommissionState::Reversed) };
    Target {
        currency: commission.currency,
        base: commission.base,
        amount: 0,
        earned: commission.earned,
        clawed: commission.earned,
        released,
        state,
        reason: Some(why.as_str().to_owned()),
        due_at: None,
        flags: commission.flags.clone(),
        lost: commission.earned,
        position: commission.position,
        counted: None,
        tax_overdue: false,
        currency_contradiction: false,
    }
}

/// What is taken back of a commission, minor units.
struct Clawed {
    /// By refunds, disputes and people.
    lost: i64,
    /// And by the transfer that came back. At most the commission.
    clawed: i64,
}

/// What is taken back: what the provider's refunds and disputes take (`told`), what people decided, and
/// what came back of the transfer that paid it, together at most the commission. The cash that came back
/// is never owed twice: a refund of the same sale finds only the rest (`rulings.md` 15).
fn clawed(input: &Input<'_>, told: i64, commission: i64) -> Result<Clawed, MoneyError> {
    let (mut same_event, mut on_top, mut came_back) = (0, 0, 0);
    for decision in input.decisions {
        match decision.kind {
            DecisionKind::Clawback => {}
            DecisionKind::TransferClawback => {
                came_back = money::add(came_back, decision.amount.unwrap_or(0))?;
                continue;
            }
            DecisionKind::Attribute
            | DecisionKind::Approve
            | DecisionKind::Reject
            | DecisionKind::HoldPeriod => continue,
        }
        let amount = decision.amount.unwrap_or(commission).clamp(0, commission);
        match decision.reason {
            Some(ClawbackReason::Refund | ClawbackReason::Chargeback) => {
                same_event = money::add(same_event, amount)?;
            }
            Some(ClawbackReason::Fraud | ClawbackReason::Other) | None => {
                on_top = money::add(on_top, amount)?;
            }
        }
    }
    let lost = money::add(told.max(same_event), on_top)?;
    let clawed = money::add(lost, came_back)?.clamp(0, commission);
    Ok(Clawed { lost: lost.clamp(0, commission), clawed })
}

fn reversal_reason(input: &Input<'_>, sale: &Summary) -> &'static str {
    if sale.taken >= sale.amount && sale.amount > 0 {
        if sale.disputed > sale.refunded { "dispute" } else { "refund" }
    } else if input.decisions.iter().any(|decision| decision.kind == DecisionKind::Clawback) {
        "clawback"
    } else {
        // A rate so small that rounding took the rest.
        "refund"
    }
}

/// The flags after looking at the facts: new causes are raised, causes that went away are cleared.
/// An approval clears the flags that stand at that moment, see [`Commission::clear_flags`].
fn flags(input: &Input<'_>, stops: &BTreeSet<&Stop>) -> BTreeMap<Stop, Flag> {
    let mut flags = input.commission.flags.clone();
    for stop in stops {
        flags.entry((*stop).clone()).or_insert(Flag { raised_at: input.now, cleared: None });
    }
    for (stop, flag) in &mut flags {
        if flag.cleared.is_some() {
            continue;
        }
        if !stops.contains(stop) && stop.kind != StopKind::Cancellation {
            flag.cleared = Some((input.now, RESOLVED.to_owned()));
        }
    }
    flags
}

/// What changes when a commission moves to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The commission afterwards.
    pub commission: Commission,
    /// The entries to post, in order.
    pub entries: Vec<Entry>,
    /// The lots that go with them.
    pub lots: Vec<Lot>,
}

/// The difference between what was posted and `target`, as entries.
///
/// # Errors
/// [`LedgerError`] when an amount does not fit 64 bits.
pub fn post(commission: &Commission, target: Target) -> Result<Posted, LedgerError> {
    let mut after = commission.clone();
    let mut entries = Vec::new();
    let bucket = if commission.is_released() { Account::Payable } else { Account::Held };

    if target.currency != commission.currency {
        // A better teller changed the currency: what was posted is undone in its own.
        let net = money::sub(commission.clawed, commission.earned)?;
        move_money(&mut after, &mut entries, EntryKind::Adjustment, Account::Expense, bucket, net)?;
        (after.currency, after.earned, after.clawed) = (target.currency, 0, 0);
    }
    let more_earned = money::sub(target.earned, after.earned)?;
    let kind = if after.earned == 0 { EntryKind::Accrual } else { EntryKind::Adjustment };
    // Earning debits the program's expense and credits the affiliate; clawing back is the reverse.
    move_money(&mut after, &mut entries, kind, Account::Expense, bucket, more_earned)?;

    let more_clawed = money::sub(target.clawed, after.clawed)?;
    let kind = if more_clawed >= 0 { EntryKind::Clawback } else { EntryKind::Reinstatement };
    move_money(&mut after, &mut entries, kind, bucket, Account::Expense, more_clawed)?;

    let net = money::sub(target.earned, target.clawed)?;
    let destination = if target.released { Account::Payable } else { Account::Held };
    if destination != bucket {
        let kind = if target.released { EntryKind::Release } else { EntryKind::Suspension };
        move_money(&mut after, &mut entries, kind, bucket, destination, net)?;
    }
    (after.held, after.released) = if target.released { (0, net) } else { (net, 0) };
    after.base = target.base;
    after.amount = target.amount;
    after.earned = target.earned;
    after.clawed = target.clawed;
    after.state = target.state;
    after.reason = target.reason;
    after.due_at = target.due_at;
    after.flags = target.flags;
    after.position = target.position;
    after.counted = target.counted;
    let lots = entries.iter().map(Lot::of).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    Ok(Posted { commission: after, entries, lots })
}

/// Appends the entry that moves `amount` from one account to the other; a negative amount moves the
/// other way, zero moves nothing.
fn move_money(
    after: &mut Commission,
    entries: &mut Vec<Entry>,
    kind: EntryKind,
    from: Account,
    to: Account,
    amount: i64,
) -> Result<(), LedgerError> {
    let (from, to) = if amount >= 0 { (from, to) } else { (to, from) };
    let amount = amount.checked_abs().ok_or(MoneyError::Overflow)?;
    if amount == 0 {
        return Ok(());
    }
    let owner = |account| match account {
        Account::Held | Account::Payable | Account::InTransit | Account::Paid => {
            Owner::Enrollment(after.enrollment_id.clone())
        }
        Account::Expense | Account::FeeIncome | Account::ReturnedCash => {
            Owner::Program(after.program_id.clone())
        }
    };
    let lines = vec![
        Posting { owner: owner(from), account: from, side: Side::Debit, amount },
        Posting { owner: owner(to), account: to, side: Side::Credit, amount },
    ];
    let revision = money::add(after.revision, 1)?;
    let subject = ledger::Subject {
        about: ledger::About::Commission(after.id.clone()),
        enrollment_id: &after.enrollment_id,
        program_id: &after.program_id,
        currency: after.currency,
    };
    entries.push(Entry::new(&subject, revision, kind, lines)?);
    after.revision = revision;
    Ok(())
}
