//! Who referred a sale, and why.
//!
//! Order of precedence: a person's decision, the sale's own codes (metadata by configured key, then
//! `client_reference_id`, then coupon), the subscription's, the customer's. A code that attributes
//! nothing lets the next one speak.

#[cfg(test)]
mod tests;

use super::{
    commission::{Decision, DecisionKind},
    fact::{Hint, HintSource},
    ids::{DecisionId, EnrollmentId, OrganizationId},
    program::{Directory, NoAttribution},
    time::Timestamp,
};

/// What carried the affiliate to the sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// A person said so.
    Decision(DecisionId),
    /// A code told for the sale itself.
    SaleCode(Hint),
    /// A code told for the subscription it pays.
    SubscriptionCode(Hint),
    /// A code told for its customer.
    CustomerCode(Hint),
}

impl Basis {
    /// The word stored with the conversion and shown as the reason.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Decision(_) => "manual",
            Self::SaleCode(hint) => match hint.source {
                HintSource::Reported => "reported",
                HintSource::Metadata(_) => "metadata",
                HintSource::ClientReference => "client_reference",
                HintSource::Coupon => "coupon",
            },
            Self::SubscriptionCode(_) => "subscription",
            Self::CustomerCode(_) => "customer",
        }
    }

    /// The code, where one was told.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Decision(_) => None,
            Self::SaleCode(hint) | Self::SubscriptionCode(hint) | Self::CustomerCode(hint) => {
                Some(&hint.code)
            }
        }
    }
}

/// The hints that can speak for one sale.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Told for the sale itself.
    pub sale: Vec<Hint>,
    /// Told for its subscription.
    pub subscription: Vec<Hint>,
    /// Told for its customer.
    pub customer: Vec<Hint>,
}

/// Who referred a sale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// The enrollment and what carried it, if any.
    pub to: Option<(EnrollmentId, Basis)>,
    /// Codes in metadata that attribute nothing, and why.
    pub refused: Vec<(String, NoAttribution)>,
}

/// A customer's code speaks for sales from one hour before it was told: the objects of one checkout
/// are created within minutes, in any order, while a sale of last month was not referred by a code of
/// today.
const CUSTOMER_SLACK_S: i64 = 3_600;

/// Who referred a sale of `owner` that was paid at `paid_at`.
#[must_use]
pub fn attribute(
    owner: &OrganizationId,
    paid_at: Timestamp,
    decisions: &[Decision],
    hints: &Hints,
    directory: &Directory,
) -> Attribution {
    let mut found = Attribution::default();
    let decided = decisions
        .iter()
        .filter(|decision| decision.kind == DecisionKind::Attribute)
        .filter(|decision| directory.owns(owner, &decision.enrollment_id))
        .max_by_key(|decision| (decision.at, &decision.id));
    if let Some(decision) = decided {
        found.to = Some((decision.enrollment_id.clone(), Basis::Decision(decision.id.clone())));
        return found;
    }
    let mut sale = hints.sale.clone();
    sale.sort_by(|a, b| (a.source, a.at, &a.code).cmp(&(b.source, b.at, &b.code)));
    // The first code binds; a later one does not take the subscription or the customer away.
    let mut subscription = hints.subscription.clone();
    subscription.sort_by(|a, b| (a.at, a.source, &a.code).cmp(&(b.at, b.source, &b.code)));
    let mut customer = hints.customer.clone();
    customer.retain(|hint| hint.at <= paid_at.plus_secs(CUSTOMER_SLACK_S));
    customer.sort_by(|a, b| (a.at, a.source, &a.code).cmp(&(b.at, b.source, &b.code)));
    let candidates = sale
        .into_iter()
        .map(Basis::SaleCode)
        .chain(subscription.into_iter().map(Basis::SubscriptionCode))
        .chain(customer.into_iter().map(Basis::CustomerCode));
    for basis in candidates {
        let code = basis.code().unwrap_or_default().to_owned();
        match directory.enrollment_for(owner, &code, paid_at) {
            Ok(enrollment) => {
                found.to = Some((enrollment.id.clone(), basis));
                return found;
            }
            Err(why) => {
                // A client reference is often the owner's own customer id, and a coupon often just a
                // discount; only a configured metadata key says "this is a referral code".
                let is_explicit = matches!(&basis, Basis::SaleCode(hint) if matches!(hint.source, HintSource::Reported | HintSource::Metadata(_)));
                if is_explicit {
                    found.refused.push((code, why));
                }
            }
        }
    }
    found
}
