//! Stripe's events as facts. This file finds the translation of an event type; the siblings hold them:
//! `sales` (money that came in), `returns` (money that went back) and `connect` (accounts and transfers).
//!
//! Only used fields are declared, next to the code that uses them. Fields and words that Stripe adds
//! later change nothing. Shapes before and after API version 2025-03-31.basil are read alike.
//!
//! Source: docs.stripe.com/api/events/types.

mod connect;
mod returns;
mod sales;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::webhook::THIN;
use crate::{
    domain::{
        fact::{Fact, ObjectKind, ObjectRef},
        time::Timestamp,
    },
    providers::{
        MalformedEvent, Translation,
        codes::{Codes, Metadata},
        payload::{self, Id, Reference, Seconds},
    },
};

#[derive(Deserialize)]
struct Kind {
    r#type: Id,
    object: Option<Id>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    created: Seconds,
    account: Option<Id>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What every translation gets.
struct Event<'a> {
    /// When Stripe made the event.
    at: Timestamp,
    /// The connected account it is about.
    account: Option<String>,
    object: &'a RawValue,
    attribution_keys: &'a [String],
}

impl<'a> Event<'a> {
    /// Reads `data.object`.
    fn object<T: Deserialize<'a>>(&self) -> Result<T, MalformedEvent> {
        payload::read(self.object.get(), "data.object")
    }

    fn codes_of(&self, metadata: &Metadata) -> Codes {
        let mut codes = Codes::default();
        codes.add_metadata(metadata, self.attribution_keys);
        codes
    }
}

type Translate = fn(&Event<'_>) -> Result<Translation, MalformedEvent>;

/// Translates one event.
pub(super) fn translate(body: &[u8], attribution_keys: &[String]) -> Result<Translation, MalformedEvent> {
    let text = payload::text_of(body)?;
    let kind: Kind = payload::read(text, "")?;
    if kind.object.is_some_and(|object| object.0 == THIN) {
        return Ok(Translation::Ignored("thin_event"));
    }
    let Some(translate) = translation_of(&kind.r#type.0) else {
        return Ok(Translation::Ignored("unhandled_type"));
    };
    let Envelope { created, account, data } = payload::read(text, "")?;
    let account = account.map(|account| account.0);
    translate(&Event { at: created.0, account, object: data.object, attribution_keys })
}

fn translation_of(event_type: &str) -> Option<Translate> {
    let translate: Translate = match event_type {
        "payment_intent.succeeded" => sales::intent,
        "charge.succeeded" | "charge.captured" => sales::charge,
        // The two names tell the same row and fall into one; `invoice.paid` alone also tells of money
        // that was paid out of band.
        "invoice.paid" | "invoice.payment_succeeded" => sales::invoice,
        "invoice_payment.paid" => sales::invoice_payment,
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => sales::checkout_session,
        "customer.subscription.created" | "customer.subscription.updated" => sales::subscription_changed,
        "customer.subscription.deleted" => sales::subscription_ended,
        "customer.created" | "customer.updated" => sales::customer,
        "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => returns::refund,
        "charge.refunded" => returns::charge_refunded,
        "charge.dispute.created" | "charge.dispute.updated" => returns::dispute_told,
        "charge.dispute.funds_withdrawn" => returns::dispute_funds_withdrawn,
        "charge.dispute.funds_reinstated" => returns::dispute_funds_reinstated,
        "charge.dispute.closed" => returns::dispute_closed,
        "transfer.created" | "transfer.updated" | "transfer.reversed" => connect::transfer,
        "account.updated" => connect::account,
        "account.application.deauthorized" => |event| Ok(connect::deauthorized(event)),
        "payout.paid" | "payout.failed" => connect::bank_payout,
        // Money became available: a reason to try payouts again, which dispatching looks at itself.
        "balance.available" => |_| Ok(Translation::Ignored("handled_later")),
        _ => return None,
    };
    Some(translate)
}

/// `Some` link where the other id is known.
fn link(sale: &ObjectRef, kind: ObjectKind, id: Option<&Reference>) -> Option<Fact> {
    id.map(|id| Fact::SaleLinked { sale: sale.clone(), alias: ObjectRef::new(kind, &*id.0) })
}
