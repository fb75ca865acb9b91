//! Who referred a sale, and why.
//!
//! Order of precedence: a person's decision, the sale's own codes (metadata by configured key, then
//! `client_reference_id`, then coupon), the subscription's, the customer's; then the touchpoints that
//! referred an earlier payment of the same subscription or customer, then those of the sale itself. What
//! attributes nothing lets the next one speak.
//!
//! A renewal is thus bound by the click behind the first payment, and no binding is stored: it follows
//! from the times of the earlier payments and the touchpoints, whichever of them became known first
//! (`semantics.md`, "First / last touch"). Nor is a winner stored: terms, statuses and the rule of each
//! program are read as of the payment, so a later change of a program moves nothing.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    commission::{Decision, DecisionKind},
    fact::{Hint, HintSource},
    ids::{DecisionId, EnrollmentId, OrganizationId, ProgramId, TouchpointId},
    program::{AttributionModel, Directory, NoAttribution},
    time::Timestamp,
};

/// A click or scan through an affiliate's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Id.
    pub id: TouchpointId,
    /// Whose link it was.
    pub enrollment_id: EnrollmentId,
    /// The code of the link.
    pub code: String,
    /// When it was clicked.
    pub at: Timestamp,
}

/// What carries a binding from one payment to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// Both are of one subscription.
    Subscription,
    /// Both are of one customer.
    Customer,
}

/// Another payment of the same subscription or customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherPayment {
    /// When it was paid. One of 0 counts, too: a free trial is how a subscription begins.
    pub paid_at: Timestamp,
    /// What the two have in common.
    pub carrier: Carrier,
}

/// What is known of the buyer of a sale from rows that are not the sale's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Touchpoints of the buyer, under every id of theirs.
    pub touches: Vec<Touch>,
    /// Other payments of the sale's subscriptions and customers.
    pub other_payments: Vec<OtherPayment>,
    /// Normalised addresses with which the sale's customers bought, this time or another. Personal data.
    pub customer_emails: BTreeSet<String>,
}

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
    /// The touchpoint that referred an earlier payment.
    EarlierTouch(Carrier, Touch),
    /// A touchpoint before the sale.
    Touch(Touch),
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
                HintSource::Visitor | HintSource::Program => "unknown",
            },
            Self::SubscriptionCode(_) | Self::EarlierTouch(Carrier::Subscription, _) => "subscription",
            Self::CustomerCode(_) | Self::EarlierTouch(Carrier::Customer, _) => "customer",
            Self::Touch(_) => "touchpoint",
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
            Self::EarlierTouch(_, touch) | Self::Touch(touch) => Some(&touch.code),
        }
    }

    /// The touchpoint, where it was one.
    #[must_use]
    pub fn touch(&self) -> Option<&Touch> {
        match self {
            Self::EarlierTouch(_, touch) | Self::Touch(touch) => Some(touch),
            Self::Decision(_) | Self::SaleCode(_) | Self::SubscriptionCode(_) | Self::CustomerCode(_) => None,
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
    /// Touchpoints of its buyer.
    pub touches: Vec<Touch>,
    /// Other payments of its subscription or customer.
    pub other_payments: Vec<OtherPayment>,
}

impl Hints {
    /// The programs that the owner reported the sale to; none is any.
    fn programs(&self) -> BTreeSet<&str> {
        let reported = self.sale.iter().filter(|hint| hint.source == HintSource::Program);
        reported.map(|hint| hint.code.as_str()).collect()
    }
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
        .chain(customer.into_iter().map(Basis::CustomerCode))
        .filter(|basis| match basis {
            Basis::SaleCode(hint) | Basis::SubscriptionCode(hint) | Basis::CustomerCode(hint) => {
                hint.source.is_code()
            }
            Basis::Decision(_) | Basis::EarlierTouch(..) | Basis::Touch(_) => false,
        });
    for basis in candidates {
        let code = basis.code().unwrap_or_default().to_owned();
        match directory.enrollment_for(owner, &code, told_at(&basis, paid_at), paid_at) {
            Ok(enrollment) => {
                // Every renewal tells its subscription's code again; one that bound it is not refused.
                found.refused.retain(|(refused, _)| *refused != code);
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
    found.to = by_touch(owner, paid_at, hints, directory);
    found
}

/// When a code was told, which must be before it was retired. One of the sale itself counts as told when it
/// was paid. What was told for a subscription or customer bound them then: that the code is retired later
/// ends no renewal (`semantics.md`, "First / last touch").
fn told_at(basis: &Basis, paid_at: Timestamp) -> Timestamp {
    match basis {
        Basis::SubscriptionCode(hint) | Basis::CustomerCode(hint) => hint.at,
        Basis::SaleCode(_) | Basis::Decision(_) | Basis::EarlierTouch(..) | Basis::Touch(_) => paid_at,
    }
}

/// Who referred the sale by a link: the touchpoint that had won at the first payment of the same
/// subscription or customer at which any had, else the one that wins now.
fn by_touch(
    owner: &OrganizationId,
    paid_at: Timestamp,
    hints: &Hints,
    directory: &Directory,
) -> Option<(EnrollmentId, Basis)> {
    let mut earlier: Vec<OtherPayment> =
        hints.other_payments.iter().filter(|other| other.paid_at < paid_at).copied().collect();
    earlier.sort_unstable();
    for payment in earlier {
        let Some(touch) = winner(owner, payment.paid_at, hints, directory) else { continue };
        // Bound, but who was suspended meanwhile earns nothing new.
        if directory.program_earning(owner, &touch.enrollment_id, paid_at).is_some() {
            let basis = Basis::EarlierTouch(payment.carrier, touch.clone());
            return Some((touch.enrollment_id.clone(), basis));
        }
        break;
    }
    let touch = winner(owner, paid_at, hints, directory)?;
    Some((touch.enrollment_id.clone(), Basis::Touch(touch.clone())))
}

/// The touchpoint that refers a payment at `paid_at`: of each program the one that its rule chooses, of
/// those the latest. Ties are decided by the id.
fn winner<'a>(
    owner: &OrganizationId,
    paid_at: Timestamp,
    hints: &'a Hints,
    directory: &Directory,
) -> Option<&'a Touch> {
    let reported_to = hints.programs();
    let mut chosen: BTreeMap<&ProgramId, &Touch> = BTreeMap::new();
    for touch in &hints.touches {
        let Some(program) = directory.program_earning(owner, &touch.enrollment_id, paid_at) else { continue };
        let rule = program.touch_rules.at(paid_at);
        let opens_at = paid_at.plus_days(i64::from(rule.window_days).saturating_neg());
        let is_asked = reported_to.is_empty() || reported_to.contains(program.id.as_str());
        if !is_asked || touch.at < opens_at || touch.at > paid_at {
            continue;
        }
        let best = chosen.entry(&program.id).or_insert(touch);
        let (known, new) = ((best.at, &best.id), (touch.at, &touch.id));
        let is_better = match rule.model {
            AttributionModel::FirstTouch => new < known,
            AttributionModel::LastTouch => new > known,
        };
        if is_better {
            *best = touch;
        }
    }
    chosen.into_values().max_by_key(|touch| (touch.at, &touch.id))
}
