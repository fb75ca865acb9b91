//! Money that went back to the buyer: refunds and disputes.

use serde::Deserialize;

use super::{Event, link};
use crate::{
    domain::{
        fact::{Dispute, DisputePhase, Fact, ObjectKind, ObjectRef, Refund, RefundStatus},
        money::{self, Currency},
    },
    providers::{
        MalformedEvent, Translation,
        payload::{Id, Lenient, Minor, Reference},
    },
};

/// Source: docs.stripe.com/api/refunds/object.
#[derive(Deserialize)]
struct RefundObject {
    id: Id,
    amount: Minor,
    currency: Currency,
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
    #[serde(default)]
    status: Lenient<String>,
}

impl RefundObject {
    /// A refund counts from the moment it is made, and no longer once it failed, which can happen after
    /// it succeeded. Old refunds have no status, and new words are not failures.
    fn status(&self) -> RefundStatus {
        match self.status.0.as_deref() {
            Some("failed" | "canceled") => RefundStatus::Void,
            _ => RefundStatus::Active,
        }
    }
}

/// The charge, or the intent where no charge is named; and the link between them where both are.
fn sale_of(charge: Option<&Reference>, intent: Option<&Reference>) -> Option<(ObjectRef, Option<Fact>)> {
    match (charge, intent) {
        (Some(charge), intent) => {
            let sale = ObjectRef::new(ObjectKind::Charge, &*charge.0);
            let intent_link = link(&sale, ObjectKind::Intent, intent);
            Some((sale, intent_link))
        }
        (None, Some(intent)) => Some((ObjectRef::new(ObjectKind::Intent, &*intent.0), None)),
        (None, None) => None,
    }
}

pub(super) fn refund(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let refund: RefundObject = event.object()?;
    let Some((sale, intent_link)) = sale_of(refund.charge.as_ref(), refund.payment_intent.as_ref()) else {
        // A refund of a customer's cash balance belongs to no payment.
        return Ok(Translation::Ignored("no_sale"));
    };
    let status = refund.status();
    let RefundObject { id, amount, currency, .. } = refund;
    let mut facts = vec![Fact::Refund(Refund { sale, refund_id: id.0, amount: amount.0, currency, status })];
    facts.extend(intent_link);
    Ok(Translation::Facts(facts))
}

/// Source: docs.stripe.com/api/charges/object. `refunds` is not there by default since 2022-11-15.
#[derive(Deserialize)]
struct RefundedCharge {
    id: Id,
    amount_refunded: Minor,
    currency: Currency,
    payment_intent: Option<Reference>,
    invoice: Option<Reference>,
    refunds: Option<Refunds>,
}

#[derive(Deserialize)]
struct Refunds {
    data: Vec<RefundObject>,
}

/// `amount_refunded` is cumulative, so it stays true whatever was lost or came out of order.
pub(super) fn charge_refunded(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let charge: RefundedCharge = event.object()?;
    let sale = ObjectRef::new(ObjectKind::Charge, charge.id.0);
    let total = charge.amount_refunded.0;
    let mut facts = vec![Fact::RefundedTotal { sale: sale.clone(), total, currency: charge.currency }];
    for refund in charge.refunds.into_iter().flat_map(|refunds| refunds.data) {
        let status = refund.status();
        let RefundObject { id, amount, currency, .. } = refund;
        let sale = sale.clone();
        facts.push(Fact::Refund(Refund { sale, refund_id: id.0, amount: amount.0, currency, status }));
    }
    facts.extend(link(&sale, ObjectKind::Intent, charge.payment_intent.as_ref()));
    facts.extend(link(&sale, ObjectKind::Invoice, charge.invoice.as_ref()));
    Ok(Translation::Facts(facts))
}

/// Source: docs.stripe.com/api/disputes/object. Before 2013 a dispute had no `id`.
#[derive(Deserialize)]
struct DisputeObject {
    id: Option<Id>,
    amount: Minor,
    currency: Currency,
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
    status: Id,
    balance_transactions: Option<Vec<BalanceTransaction>>,
}

#[derive(Deserialize)]
struct BalanceTransaction {
    /// Signed: negative when taken from us.
    amount: i64,
    currency: Currency,
}

/// What a dispute has moved so far, minor units of its currency.
#[derive(Clone, Copy, Default)]
struct Moved {
    withdrawn: i64,
    reinstated: i64,
}

impl DisputeObject {
    fn phase(&self) -> DisputePhase {
        match self.status.0.as_str() {
            "warning_needs_response" | "warning_under_review" => DisputePhase::Inquiry,
            "warning_closed" | "prevented" => DisputePhase::InquiryClosed,
            "won" => DisputePhase::Won,
            "lost" => DisputePhase::Lost,
            // An appeal or a word that is new keeps the money stopped.
            _ => DisputePhase::Open,
        }
    }

    /// Sums of the listed balance transactions; their fees are the owner's and not the sale's.
    fn listed(&self) -> Result<Moved, MalformedEvent> {
        let sum_where = |counts: fn(i64) -> bool| {
            let counted =
                || self.balance_transactions.iter().flatten().filter(move |listed| counts(listed.amount));
            // Settled in another currency: the converted amount says nothing about the sale's.
            if counted().any(|listed| listed.currency != self.currency) {
                return Ok(self.amount.0);
            }
            money::sum(counted().map(|listed| listed.amount.saturating_abs()))
                .map_err(|_| MalformedEvent::at("data.object.balance_transactions"))
        };
        Ok(Moved { withdrawn: sum_where(i64::is_negative)?, reinstated: sum_where(i64::is_positive)? })
    }

    fn told(self, phase: DisputePhase, moved: Moved) -> Translation {
        let Some(dispute_id) = self.id else { return Translation::Ignored("old_shape") };
        let Some((sale, intent_link)) = sale_of(self.charge.as_ref(), self.payment_intent.as_ref()) else {
            return Translation::Ignored("no_sale");
        };
        let mut facts = vec![Fact::Dispute(Dispute {
            sale,
            dispute_id: dispute_id.0,
            amount: self.amount.0,
            currency: self.currency,
            phase,
            withdrawn: moved.withdrawn,
            reinstated: moved.reinstated,
        })];
        facts.extend(intent_link);
        Translation::Facts(facts)
    }
}

/// `created` and `updated` say how far a dispute is, never that money moved.
pub(super) fn dispute_told(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let dispute: DisputeObject = event.object()?;
    let phase = dispute.phase();
    Ok(dispute.told(phase, Moved::default()))
}

/// The event proves a withdrawal even where the list is empty or lags behind, and that the dispute is
/// more than an inquiry even where the status still says so.
pub(super) fn dispute_funds_withdrawn(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let dispute: DisputeObject = event.object()?;
    let mut moved = dispute.listed()?;
    moved.withdrawn = or_whole(moved.withdrawn, &dispute);
    let phase = dispute.phase().max(DisputePhase::Open);
    Ok(dispute.told(phase, moved))
}

/// The event proves a return, and a return proves the withdrawal before it.
pub(super) fn dispute_funds_reinstated(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let dispute: DisputeObject = event.object()?;
    let mut moved = dispute.listed()?;
    moved.withdrawn = or_whole(moved.withdrawn, &dispute);
    moved.reinstated = or_whole(moved.reinstated, &dispute);
    let phase = dispute.phase().max(DisputePhase::Open);
    Ok(dispute.told(phase, moved))
}

/// Closing moves nothing itself, but a lost dispute took the money even where no list says so.
pub(super) fn dispute_closed(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let dispute: DisputeObject = event.object()?;
    let mut moved = dispute.listed()?;
    let phase = dispute.phase();
    let is_unlisted = dispute.balance_transactions.iter().flatten().next().is_none();
    if phase == DisputePhase::Lost && is_unlisted {
        moved.withdrawn = dispute.amount.0;
    }
    Ok(dispute.told(phase, moved))
}

/// `listed`, or the whole amount in dispute where nothing is.
fn or_whole(listed: i64, dispute: &DisputeObject) -> i64 {
    if listed == 0 { dispute.amount.0 } else { listed }
}
