//! Short ways to say what tests of the rules start from. Nothing here knows a rule.

use super::{
    fact::{
        ChargebackReversed, Dispute, DisputePhase, ObjectKind, ObjectRef, Refund, RefundStatus, SalePaid,
    },
    money::{BasisPoints, Currency},
    terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, Terms},
    time::Timestamp,
};

/// When the sales of these tests are paid.
pub const PAID_AT: Timestamp = Timestamp::from_secs(1_700_000_000);

pub fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

pub fn usd() -> Currency {
    currency("usd")
}

pub fn charge(id: &str) -> ObjectRef {
    ObjectRef::new(ObjectKind::Charge, id)
}

pub fn intent(id: &str) -> ObjectRef {
    ObjectRef::new(ObjectKind::Intent, id)
}

pub fn invoice(id: &str) -> ObjectRef {
    ObjectRef::new(ObjectKind::Invoice, id)
}

pub fn session(id: &str) -> ObjectRef {
    ObjectRef::new(ObjectKind::CheckoutSession, id)
}

pub fn transaction(id: &str) -> ObjectRef {
    ObjectRef::new(ObjectKind::Transaction, id)
}

/// `amount` US cents captured by `sale` at [`PAID_AT`].
pub fn paid(sale: &ObjectRef, amount: i64) -> SalePaid {
    SalePaid {
        sale: sale.clone(),
        parent: None,
        amount,
        tax: None,
        currency: usd(),
        at: PAID_AT,
        customer: None,
        subscription: None,
        billing_reason: None,
        buyer_email: None,
        items: Vec::new(),
    }
}

pub fn refund(sale: &ObjectRef, id: &str, amount: i64, status: RefundStatus) -> Refund {
    Refund { sale: sale.clone(), refund_id: id.to_owned(), amount, currency: usd(), status }
}

/// A dispute of 1000 US cents that took `withdrawn` and gave back `reinstated`.
pub fn dispute(
    sale: &ObjectRef,
    id: &str,
    phase: DisputePhase,
    (withdrawn, reinstated): (i64, i64),
) -> Dispute {
    Dispute {
        sale: sale.clone(),
        dispute_id: id.to_owned(),
        amount: 1_000,
        currency: usd(),
        phase,
        withdrawn,
        reinstated,
    }
}

pub fn reverse(sale: &ObjectRef, id: &str, amount: i64) -> ChargebackReversed {
    ChargebackReversed { sale: sale.clone(), reverse_id: id.to_owned(), amount, currency: usd() }
}

/// `bps` of the gross amount, accrued at once, without a hold.
pub fn share_of(bps: i64) -> Terms {
    Terms {
        commission: CommissionRule::Percentage { bps: BasisPoints::new(bps).unwrap() },
        commission_base: CommissionBase::Gross,
        flat_on_partial: FlatOnPartial::Keep,
        approval_mode: ApprovalMode::Auto,
        hold_period_days: 0,
        product_rates: Vec::new(),
        upline_bps: Vec::new(),
        rate_override: None,
    }
}

/// The same US cents for every sale.
pub fn flat(amount_cents: i64) -> Terms {
    Terms { commission: CommissionRule::Flat { amount_cents, currency: usd() }, ..share_of(0) }
}
