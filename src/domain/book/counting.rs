//! What rules count beyond one sale: the sales of an affiliate, for tiers, and the payments of a customer,
//! for recurring rules (`rulings.md` 9).
//!
//! A sale gets its place once, from what is counted at that moment under a lock that the caller holds, and
//! keeps it. The caller learns from [`Tallies::take_missing`] what it has to lock and load.

use std::collections::{BTreeMap, BTreeSet};

use super::{Commission, CommissionState, Finding, Sale};
use crate::domain::{
    ids::EnrollmentId,
    money::{Currency, Money},
    sale::Summary,
    terms::{Position, Standing, Terms},
    time::Timestamp,
};

/// What is counted together, and locked together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CounterKey {
    /// The accepted sales of an affiliate in one currency.
    Sales(EnrollmentId, Currency),
    /// The payments of a customer ([`Sale::customer_key`]) to the credit of an affiliate.
    Payments(EnrollmentId, String),
}

/// The first of a customer's payments, whose terms hold for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPayment {
    /// When it was paid.
    pub paid_at: Timestamp,
    /// The frozen terms.
    pub terms: Terms,
    /// Which version they are.
    pub terms_version: i64,
}

/// What was counted under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sales, or payments.
    pub count: i64,
    /// What the sales brought and kept, minor units. Nothing for payments.
    pub revenue: i64,
    /// When the latest of them was paid.
    pub latest_paid_at: Option<Timestamp>,
    /// For payments.
    pub first: Option<FirstPayment>,
}

/// The tallies of a batch: those that were loaded, and those that were asked for in vain.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    loaded: BTreeMap<CounterKey, Tally>,
    missing: BTreeSet<CounterKey>,
}

impl Tallies {
    /// Puts a tally in that was loaded under its lock.
    pub fn insert(&mut self, key: CounterKey, tally: Tally) {
        self.loaded.insert(key, tally);
    }

    /// What has to be locked and loaded before the batch can be folded.
    pub fn take_missing(&mut self) -> BTreeSet<CounterKey> {
        std::mem::take(&mut self.missing)
    }

    /// The sums of sales that were loaded, as they stand: whoever locked them keeps them.
    pub fn of_sales(&self) -> impl Iterator<Item = (&CounterKey, &Tally)> {
        self.loaded.iter().filter(|(key, _)| matches!(key, CounterKey::Sales(..)))
    }

    pub(super) fn get(&mut self, key: CounterKey) -> Option<&Tally> {
        if !self.loaded.contains_key(&key) {
            self.missing.insert(key);
            return None;
        }
        self.loaded.get(&key)
    }

    /// The first payment of the customer to the credit of the affiliate, if there was one.
    pub(super) fn first_payment(
        &mut self,
        enrollment: &EnrollmentId,
        customer: &str,
    ) -> Option<&FirstPayment> {
        self.get(CounterKey::Payments(enrollment.clone(), customer.to_owned()))?.first.as_ref()
    }

    /// Where the sale stands: as stored, or as it would now.
    pub(super) fn place(
        &mut self,
        sale: &Sale,
        commission: &Commission,
        summary: &Summary,
    ) -> Option<Position> {
        let standing = commission.terms.standing()?;
        // Better facts about when it was paid may have brought terms that ask for another kind of place.
        if let Some(stored) = commission.position.filter(|stored| stored.standing() == standing) {
            return Some(stored);
        }
        let enrollment = commission.enrollment_id.clone();
        match standing {
            Standing::AmongSales => {
                let tally = self.get(CounterKey::Sales(enrollment, summary.currency))?;
                Some(Position::Sales { count: tally.count, revenue: tally.revenue })
            }
            Standing::AmongPayments => {
                let customer = commission.customer_key.clone().unwrap_or_else(|| sale.customer_key());
                let tally = self.get(CounterKey::Payments(enrollment, customer))?;
                let first = tally.first.as_ref().map_or(summary.paid_at, |first| first.paid_at);
                Some(Position::Payments { number: tally.count.saturating_add(1), first_paid_at: first })
            }
        }
    }

    /// Takes the folded commission into the tallies, so that the next sale of the batch counts it. A
    /// finding tells of a sale that was placed after sales that were paid later.
    ///
    /// The sums of sales are kept and not counted anew, so whatever changes one of them needs it loaded, a
    /// refund too.
    pub(super) fn note(&mut self, sale: &Sale, after: &Commission) -> Option<Finding> {
        let before = sale.commissions.iter().find(|before| before.id == after.id);
        let (counted_before, counted_after) = (before.and_then(counted_under), counted_under(after));
        if counted_before != counted_after {
            self.add(counted_before, -1);
            self.add(counted_after, 1);
        }
        let position = after.position?;
        let is_inherited = sale.inherited_positions.contains_key(&after.enrollment_id);
        if is_inherited || before.and_then(|before| before.position) == Some(position) {
            return None;
        }
        let (key, _) = counted_under(after)?;
        let tally = self.loaded.get_mut(&key)?;
        if position.standing() == Standing::AmongPayments
            && tally.first.as_ref().is_none_or(|first| after.paid_at < first.paid_at)
        {
            tally.first = Some(FirstPayment {
                paid_at: after.paid_at,
                terms: after.terms.clone(),
                terms_version: after.terms_version,
            });
        }
        let is_late = tally.latest_paid_at.is_some_and(|latest| after.paid_at < latest);
        tally.latest_paid_at = tally.latest_paid_at.max(Some(after.paid_at));
        is_late.then(|| Finding {
            kind: "late_position",
            object: sale.id.to_string(),
            detail: format!(
                "the sale of commission {} was paid before others that count for its rate or limit, but arrived \
                 after them; it was counted as the latest, and nothing of the others was changed",
                after.id
            ),
        })
    }

    /// Adds what is counted under a key, or takes it away.
    fn add(&mut self, counted: Option<(CounterKey, i64)>, sign: i64) {
        let Some((key, minor)) = counted else { return };
        match self.loaded.get_mut(&key) {
            Some(tally) => {
                tally.count = tally.count.saturating_add(sign);
                tally.revenue = tally.revenue.saturating_add(minor.saturating_mul(sign));
            }
            // Payments are counted anew by whoever asks.
            None if matches!(key, CounterKey::Payments(..)) => {}
            None => {
                self.missing.insert(key);
            }
        }
    }
}

/// Where the commission is counted as it stands, and with how much revenue, minor units: what the store
/// counts, too.
fn counted_under(commission: &Commission) -> Option<(CounterKey, i64)> {
    let enrollment = commission.enrollment_id.clone();
    match commission.position? {
        Position::Sales { .. } => {
            let Money { minor, currency } = commission.counted?;
            Some((CounterKey::Sales(enrollment, currency), minor))
        }
        // Refunded payments are counted, those that a person turned down are not.
        Position::Payments { .. } if commission.state != CommissionState::Denied => {
            Some((CounterKey::Payments(enrollment, commission.customer_key.clone()?), 0))
        }
        Position::Payments { .. } => None,
    }
}
