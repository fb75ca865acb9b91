//! How the facts of one sale merge, and what they say together.
//!
//! Every merge is a union, a rank or a maximum, so it is commutative, associative and idempotent: the
//! order and the number of deliveries cannot change [`SaleFacts`]. What the facts mean is computed
//! from scratch by [`SaleFacts::summary`] and never stored as truth.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use super::fact::Item;
use super::{
    email,
    fact::{
        ChargebackReversed, Dispute, DisputePhase, Fact, ObjectKind, ObjectRef, Refund, RefundStatus,
        SalePaid,
    },
    ids::ProgramId,
    money::{self, Currency, MoneyError},
    time::Timestamp,
};

/// Captured money of one object of the sale. See [`SalePaid`] for units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The object that contains this one, so that both are not summed.
    pub parent: Option<ObjectRef>,
    /// Minor units, tax included.
    pub amount: i64,
    /// Minor units within `amount`; absent is not zero.
    pub tax: Option<i64>,
    /// Currency of both.
    pub currency: Currency,
    /// Earliest time the provider gave for it.
    pub at: Timestamp,
    /// The provider's customer.
    pub customer: Option<String>,
    /// The subscription it pays.
    pub subscription: Option<String>,
    /// The provider's word for why it was billed.
    pub billing_reason: Option<String>,
    /// What was sold, line by line; empty where it was not told.
    pub items: Vec<Item>,
}

/// Everything told about one sale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaleFacts {
    /// Captured money by the object that told it.
    pub payments: BTreeMap<ObjectRef, Payment>,
    /// Refund objects by id.
    pub refunds: BTreeMap<String, Refund>,
    /// Highest running total refunded, by charge.
    pub refund_totals: BTreeMap<ObjectRef, (i64, Currency)>,
    /// Disputes by id.
    pub disputes: BTreeMap<String, Dispute>,
    /// Paddle `chargeback_reverse` adjustments by id.
    pub chargeback_reversals: BTreeMap<String, ChargebackReversed>,
    /// Normalised e-mail addresses of the buyer. Personal data.
    pub buyer_emails: BTreeSet<String>,
    /// For how many days the owner wants a program's commission held, by the order and the program that it
    /// was reported to.
    pub holds: BTreeMap<(ObjectRef, ProgramId), u16>,
}

/// Something about the facts that an operator should see. The name is the finding's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// More was refunded than paid; the sale's amount is the cap.
    RefundExceedsSale,
    /// A payment, refund or dispute is in another currency than the sale; it is not counted.
    CurrencyMismatch,
}

impl Oddity {
    /// The finding's kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RefundExceedsSale => "refund_exceeds_sale",
            Self::CurrencyMismatch => "currency_mismatch",
        }
    }
}

/// Why unpaid money of the sale must stand still at the moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stop {
    /// What kind of thing stops it.
    pub kind: StopKind,
    /// The provider's id of that thing.
    pub id: String,
}

/// Kinds of [`Stop`]. An inquiry that becomes a dispute is a new stop, so that clearing the first does
/// not wave the second through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopKind {
    /// A formal dispute is open.
    Dispute,
    /// An inquiry or early warning is open.
    Inquiry,
    /// A refund was asked for and is not decided.
    RefundRequest,
    /// The subscription that was paid has ended.
    Cancellation,
    /// The buyer looks like the affiliate.
    SelfReferral,
}

impl StopKind {
    /// Every kind, for parsing.
    pub const ALL: [Self; 5] =
        [Self::Dispute, Self::Inquiry, Self::RefundRequest, Self::Cancellation, Self::SelfReferral];

    /// The name used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dispute => "dispute",
            Self::Inquiry => "inquiry",
            Self::RefundRequest => "refund_request",
            Self::Cancellation => "cancellation",
            Self::SelfReferral => "self_referral",
        }
    }
}

/// What the facts of a sale say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Paid, tax included, minor units.
    pub amount: i64,
    /// Tax within `amount`, where any object told it.
    pub tax: Option<i64>,
    /// Currency of all amounts.
    pub currency: Currency,
    /// When it was paid; hold periods count from here.
    pub paid_at: Timestamp,
    /// Refunded, minor units, not capped.
    pub refunded: i64,
    /// Taken by disputes and not given back, minor units, not capped.
    pub disputed: i64,
    /// Refunded and disputed together, at most `amount`.
    pub taken: i64,
    /// The provider's customer.
    pub customer: Option<String>,
    /// The subscription it pays.
    pub subscription: Option<String>,
    /// The provider's word for why it was billed.
    pub billing_reason: Option<String>,
    /// What was sold, line by line, in the words of the best teller that tells it.
    pub items: Vec<Item>,
    /// Whether it was reported as something that needs no money, such as a sign-up.
    pub is_event: bool,
    /// For how many days a program's commission is held, where the owner reported the order with that.
    pub holds: BTreeMap<ProgramId, u16>,
    /// What stops unpaid money now.
    pub stops: BTreeSet<Stop>,
    /// What an operator should see.
    pub oddities: BTreeSet<Oddity>,
}

/// The words of the sale's state (seed S1, plus `disputed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaleStatus {
    /// Nothing was captured yet.
    Open,
    /// Paid and kept.
    Complete,
    /// Part of it was given back.
    PartialRefunded,
    /// All of it was given back.
    Refunded,
    /// A dispute holds or took money of it.
    Disputed,
}

impl SaleStatus {
    /// The name used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::PartialRefunded => "partial_refunded",
            Self::Refunded => "refunded",
            Self::Disputed => "disputed",
        }
    }
}

impl Summary {
    /// The sale's state, derived.
    #[must_use]
    pub fn status(&self) -> SaleStatus {
        let dispute_open = self.stops.iter().any(|stop| stop.kind == StopKind::Dispute);
        if self.disputed > 0 || dispute_open {
            SaleStatus::Disputed
        } else if self.taken == 0 {
            SaleStatus::Complete
        } else if self.taken >= self.amount {
            SaleStatus::Refunded
        } else {
            SaleStatus::PartialRefunded
        }
    }
}

/// Which objects tell the amount when several do: invoice (or Paddle transaction) before checkout
/// session before payments before the owner's own report (`rulings.md` 7).
fn precedence(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Invoice | ObjectKind::Transaction => 0,
        ObjectKind::CheckoutSession => 1,
        ObjectKind::Intent | ObjectKind::Charge => 2,
        ObjectKind::External => 3,
    }
}

/// Of two values told for one field, the same one whichever came first.
fn keep_either<T: Ord>(mine: &mut Option<T>, other: Option<T>) {
    *mine = match (mine.take(), other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

impl SaleFacts {
    /// Merges captured money. The amount of one object only grows (multicapture), so the larger wins.
    pub fn merge_payment(&mut self, paid: &SalePaid) {
        let told = Payment {
            parent: paid.parent.clone(),
            amount: paid.amount,
            tax: paid.tax,
            currency: paid.currency,
            at: paid.at,
            customer: paid.customer.clone(),
            subscription: paid.subscription.clone(),
            billing_reason: paid.billing_reason.clone(),
            items: paid.items.clone(),
        };
        if let Some(email) =
            paid.buyer_email.as_deref().map(email::normalise).filter(|email| !email.is_empty())
        {
            self.buyer_emails.insert(email);
        }
        match self.payments.get_mut(&paid.sale) {
            None => {
                self.payments.insert(paid.sale.clone(), told);
            }
            Some(known) => {
                if (told.amount, told.currency) > (known.amount, known.currency) {
                    known.amount = told.amount;
                    known.currency = told.currency;
                }
                known.tax = known.tax.max(told.tax);
                known.at = known.at.min(told.at);
                keep_either(&mut known.parent, told.parent);
                keep_either(&mut known.customer, told.customer);
                keep_either(&mut known.subscription, told.subscription);
                keep_either(&mut known.billing_reason, told.billing_reason);
                // The longer list tells more: an event may carry the first lines only.
                if (told.items.len(), &told.items) > (known.items.len(), &known.items) {
                    known.items = told.items;
                }
            }
        }
    }

    /// Merges a refund object: the later state wins, the larger amount wins.
    pub fn merge_refund(&mut self, refund: &Refund) {
        match self.refunds.get_mut(&refund.refund_id) {
            None => {
                self.refunds.insert(refund.refund_id.clone(), refund.clone());
            }
            Some(known) => {
                known.status = known.status.max(refund.status);
                known.amount = known.amount.max(refund.amount);
                known.currency = known.currency.min(refund.currency);
                known.sale = known.sale.clone().max(refund.sale.clone());
            }
        }
    }

    /// Merges a running total: the highest wins.
    pub fn merge_refund_total(&mut self, charge: &ObjectRef, total: i64, currency: Currency) {
        let known = self.refund_totals.entry(charge.clone()).or_insert((total, currency));
        *known = (*known).max((total, currency));
    }

    /// Merges a dispute: the later phase wins, the cumulative amounts only grow.
    pub fn merge_dispute(&mut self, dispute: &Dispute) {
        match self.disputes.get_mut(&dispute.dispute_id) {
            None => {
                self.disputes.insert(dispute.dispute_id.clone(), dispute.clone());
            }
            Some(known) => {
                known.phase = known.phase.max(dispute.phase);
                known.amount = known.amount.max(dispute.amount);
                known.withdrawn = known.withdrawn.max(dispute.withdrawn);
                known.reinstated = known.reinstated.max(dispute.reinstated);
                known.currency = known.currency.min(dispute.currency);
                known.sale = known.sale.clone().max(dispute.sale.clone());
            }
        }
    }

    /// Merges a chargeback reversal.
    pub fn merge_chargeback_reversal(&mut self, reversal: &ChargebackReversed) {
        let known =
            self.chargeback_reversals.entry(reversal.reverse_id.clone()).or_insert_with(|| reversal.clone());
        known.amount = known.amount.max(reversal.amount);
        known.currency = known.currency.min(reversal.currency);
        known.sale = known.sale.clone().max(reversal.sale.clone());
    }

    /// Merges a hold: the longest that was told counts, so that no order of reports pays earlier.
    pub fn merge_hold(&mut self, order: &ObjectRef, program: &ProgramId, days: u16) {
        let known = self.holds.entry((order.clone(), program.clone())).or_insert(days);
        *known = days.max(*known);
    }

    /// Merges a fact about this sale's money. Facts about anything else change nothing and return
    /// `false`.
    pub fn merge(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::SalePaid(paid) => self.merge_payment(paid),
            Fact::HoldTold { sale, program, days } => self.merge_hold(sale, program, *days),
            Fact::Refund(refund) => self.merge_refund(refund),
            Fact::RefundedTotal { sale, total, currency } => self.merge_refund_total(sale, *total, *currency),
            Fact::Dispute(dispute) => self.merge_dispute(dispute),
            Fact::ChargebackReversed(reversal) => self.merge_chargeback_reversal(reversal),
            Fact::SaleLinked { .. }
            | Fact::SaleAttributed { .. }
            | Fact::TransferSeen(_)
            | Fact::TransferReversed(_)
            | Fact::PayoutAccount(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::SubscriptionEnded { .. }
            | Fact::BankPayout(_)
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => return false,
        }
        true
    }

    /// Takes over everything `other` knows: the merge of two sales that turn out to be one.
    pub fn absorb(&mut self, other: Self) {
        for (object, payment) in other.payments {
            self.merge_payment(&SalePaid {
                sale: object,
                parent: payment.parent,
                amount: payment.amount,
                tax: payment.tax,
                currency: payment.currency,
                at: payment.at,
                customer: payment.customer,
                subscription: payment.subscription,
                billing_reason: payment.billing_reason,
                buyer_email: None,
                items: payment.items,
            });
        }
        for refund in other.refunds.values() {
            self.merge_refund(refund);
        }
        for (charge, (total, currency)) in &other.refund_totals {
            self.merge_refund_total(charge, *total, *currency);
        }
        for dispute in other.disputes.values() {
            self.merge_dispute(dispute);
        }
        for reversal in other.chargeback_reversals.values() {
            self.merge_chargeback_reversal(reversal);
        }
        self.buyer_emails.extend(other.buyer_emails);
        for ((order, program), days) in &other.holds {
            self.merge_hold(order, program, *days);
        }
    }

    /// What the facts say together; `None` while no object has told captured money.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`] when amounts do not fit 64 bits.
    pub fn summary(&self) -> Result<Option<Summary>, MoneyError> {
        let told = self.tellers();
        let Some(&(_, first)) = told.first() else { return Ok(None) };
        let level = told.first().map(|(object, _)| precedence(object.kind));
        let currency = first.currency;
        let (deciding, foreign): (Vec<&Payment>, Vec<&Payment>) = told
            .iter()
            .filter(|(object, _)| Some(precedence(object.kind)) == level)
            .map(|&(_, payment)| payment)
            .partition(|payment| payment.currency == currency);
        let amount = money::sum(deciding.iter().map(|payment| payment.amount))?;
        let paid_at = deciding.iter().map(|payment| payment.at).min().unwrap_or(first.at);

        let mut oddities = BTreeSet::new();
        if !foreign.is_empty() {
            oddities.insert(Oddity::CurrencyMismatch);
        }
        let refunded = self.refunded(currency, &mut oddities)?;
        let disputed = self.disputed(currency, &mut oddities)?;
        let taken = money::add(refunded, disputed)?;
        // A refund and a dispute of the same money do overlap in practice; more refunded than paid does not.
        if refunded > amount {
            oddities.insert(Oddity::RefundExceedsSale);
        }
        let first_told = |field: fn(&Payment) -> Option<&String>| {
            told.iter().find_map(|(_, payment)| field(payment)).cloned()
        };
        Ok(Some(Summary {
            amount,
            tax: Self::tax(&told)?,
            currency,
            paid_at,
            refunded,
            disputed,
            taken: taken.min(amount),
            customer: first_told(|payment| payment.customer.as_ref()),
            subscription: first_told(|payment| payment.subscription.as_ref()),
            billing_reason: first_told(|payment| payment.billing_reason.as_ref()),
            items: told
                .iter()
                .find(|(_, payment)| !payment.items.is_empty())
                .map_or_else(Vec::new, |(_, payment)| payment.items.clone()),
            // Only the owner's own reports are of events that cost nothing; an invoice of nothing is a trial.
            is_event: amount == 0
                && told.first().is_some_and(|(object, _)| object.kind == ObjectKind::External),
            holds: self.longest_holds(),
            stops: self.stops(),
            oddities,
        }))
    }

    /// The objects whose amounts count, best teller first. A charge inside an intent that also told
    /// its amount is left out, so that a payment is counted once.
    fn tellers(&self) -> Vec<(&ObjectRef, &Payment)> {
        let mut told: Vec<_> = self
            .payments
            .iter()
            .filter(|(_, payment)| {
                !payment.parent.as_ref().is_some_and(|parent| self.payments.contains_key(parent))
            })
            .collect();
        told.sort_by_key(|(object, _)| (precedence(object.kind), *object));
        told
    }

    /// Tax as told by the best teller that tells it for every one of its objects.
    fn tax(told: &[(&ObjectRef, &Payment)]) -> Result<Option<i64>, MoneyError> {
        for level in 0..=precedence(ObjectKind::External) {
            let taxes: Vec<Option<i64>> = told
                .iter()
                .filter(|(object, _)| precedence(object.kind) == level)
                .map(|(_, payment)| payment.tax)
                .collect();
            if taxes.is_empty() {
                continue;
            }
            if let Some(known) = taxes.into_iter().collect::<Option<Vec<i64>>>() {
                return money::sum(known).map(Some);
            }
        }
        Ok(None)
    }

    /// The charge that a refund belongs to. A refund that names only an intent belongs to that
    /// intent's charge where it is known, or to the only charge there is.
    fn charge_of(&self, object: &ObjectRef) -> ObjectRef {
        if object.kind != ObjectKind::Intent {
            return object.clone();
        }
        let inside = self.payments.iter().find(|(inner, payment)| {
            inner.kind == ObjectKind::Charge && payment.parent.as_ref() == Some(object)
        });
        if let Some((charge, _)) = inside {
            return charge.clone();
        }
        let charges: BTreeSet<&ObjectRef> = self
            .payments
            .keys()
            .chain(self.refunds.values().map(|refund| &refund.sale))
            .chain(self.refund_totals.keys())
            .filter(|known| known.kind == ObjectKind::Charge)
            .collect();
        match charges.first() {
            Some(only) if charges.len() == 1 => (*only).clone(),
            _ => object.clone(),
        }
    }

    /// Per charge: refunds that are not void, plus what running totals show beyond all refund objects
    /// ever seen (`rulings.md` 6).
    fn refunded(&self, currency: Currency, oddities: &mut BTreeSet<Oddity>) -> Result<i64, MoneyError> {
        #[derive(Default)]
        struct Charge {
            active: i64,
            ever: i64,
            highest_total: i64,
        }
        let mut charges: BTreeMap<ObjectRef, Charge> = BTreeMap::new();
        for refund in self.refunds.values() {
            if refund.currency != currency {
                oddities.insert(Oddity::CurrencyMismatch);
                continue;
            }
            let charge = charges.entry(self.charge_of(&refund.sale)).or_default();
            match refund.status {
                RefundStatus::AwaitingApproval => {}
                RefundStatus::Active => {
                    charge.active = money::add(charge.active, refund.amount)?;
                    charge.ever = money::add(charge.ever, refund.amount)?;
                }
                RefundStatus::Void => charge.ever = money::add(charge.ever, refund.amount)?,
            }
        }
        for (object, &(total, total_currency)) in &self.refund_totals {
            if total_currency != currency {
                oddities.insert(Oddity::CurrencyMismatch);
                continue;
            }
            let charge = charges.entry(self.charge_of(object)).or_default();
            charge.highest_total = charge.highest_total.max(total);
        }
        let mut refunded = 0;
        for charge in charges.values() {
            let untold = money::sub(charge.highest_total, charge.ever)?.max(0);
            refunded = money::add(refunded, money::add(charge.active, untold)?)?;
        }
        Ok(refunded)
    }

    /// What disputes took and did not give back. A Paddle chargeback's return is told twice, as its
    /// own status and as a `chargeback_reverse`; the larger of the two counts (`rulings.md` 6).
    fn disputed(&self, currency: Currency, oddities: &mut BTreeSet<Oddity>) -> Result<i64, MoneyError> {
        let (mut withdrawn, mut reinstated, mut reversed) = (0, 0, 0);
        for dispute in self.disputes.values() {
            if dispute.currency != currency {
                if dispute.withdrawn > 0 {
                    oddities.insert(Oddity::CurrencyMismatch);
                }
                continue;
            }
            let returned = match dispute.phase {
                // A win gives everything back, whether or not the event about it has come.
                DisputePhase::Won => dispute.withdrawn,
                DisputePhase::Inquiry
                | DisputePhase::InquiryClosed
                | DisputePhase::Open
                | DisputePhase::Lost => dispute.reinstated.min(dispute.withdrawn),
            };
            withdrawn = money::add(withdrawn, dispute.withdrawn)?;
            reinstated = money::add(reinstated, returned)?;
        }
        for reversal in self.chargeback_reversals.values() {
            if reversal.currency == currency {
                reversed = money::add(reversed, reversal.amount)?;
            } else {
                oddities.insert(Oddity::CurrencyMismatch);
            }
        }
        Ok(money::sub(withdrawn, reinstated.max(reversed))?.max(0))
    }

    /// One sale can be several orders, when ids of the owner turn out to name one payment.
    fn longest_holds(&self) -> BTreeMap<ProgramId, u16> {
        let mut longest = BTreeMap::new();
        for ((_, program), days) in &self.holds {
            let known = longest.entry(program.clone()).or_insert(*days);
            *known = (*known).max(*days);
        }
        longest
    }

    fn stops(&self) -> BTreeSet<Stop> {
        let disputes = self.disputes.values().filter_map(|dispute| {
            let kind = match dispute.phase {
                DisputePhase::Inquiry => StopKind::Inquiry,
                DisputePhase::Open => StopKind::Dispute,
                DisputePhase::InquiryClosed | DisputePhase::Lost | DisputePhase::Won => return None,
            };
            Some(Stop { kind, id: dispute.dispute_id.clone() })
        });
        let requests = self
            .refunds
            .values()
            .filter(|refund| refund.status == RefundStatus::AwaitingApproval)
            .map(|refund| Stop { kind: StopKind::RefundRequest, id: refund.refund_id.clone() });
        disputes.chain(requests).collect()
    }
}
