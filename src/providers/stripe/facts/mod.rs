//! Stripe's events as facts. This file finds the translation of an event type; the siblings hold them:
//! `sales` (money that came in), `returns` (money that went back), `charges` (money that we asked for) and
//! `connect` (accounts, transfers and our balance).
//!
//! Only used fields are declared, next to the code that uses them. Fields and words that Stripe adds
//! later change nothing. Shapes before and after API version 2025-03-31.basil are read alike.
//!
//! Source: docs.stripe.com/api/events/types.

mod charges;
mod connect;
mod lines;
mod returns;
mod sales;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::value::RawValue;

pub(super) use self::connect::payout_account;
use super::webhook::THIN;
use crate::{
    domain::{
        fact::{Fact, ObjectKind, ObjectRef},
        time::Timestamp,
    },
    providers::{
        MalformedEvent, Translation,
        codes::{Codes, Metadata, MetadataKeys},
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
    keys: MetadataKeys<'a>,
}

impl<'a> Event<'a> {
    /// Reads `data.object`.
    fn object<T: Deserialize<'a>>(&self) -> Result<T, MalformedEvent> {
        payload::read(self.object.get(), "data.object")
    }

    fn codes_of(&self, metadata: &Metadata) -> Codes {
        let mut codes = Codes::default();
        codes.add_metadata(metadata, self.keys);
        codes
    }
}

type Translate = fn(&Event<'_>) -> Result<Translation, MalformedEvent>;

/// Translates one event.
pub(super) fn translate(body: &[u8], keys: MetadataKeys<'_>) -> Result<Translation, MalformedEvent> {
    let text = payload::text_of(body)?;
    let kind: Kind = payload::read(text, "")?;
    if kind.object.is_some_and(|object| object.0 == THIN) {
        return Ok(Translation::Ignored("thin_event"));
    }
    let Some((_, translate)) = TRANSLATIONS.iter().find(|(handled, _)| *handled == kind.r#type.0) else {
        return Ok(Translation::Ignored("unhandled_type"));
    };
    let Envelope { created, account, data } = payload::read(text, "")?;
    let account = account.map(|account| account.0);
    translate(&Event { at: created.0, account, object: data.object, keys })
}

/// The event types that are handled. `invoice.paid` and `invoice.payment_succeeded` tell the same row and
/// fall into one; the first alone also tells of money that was paid out of band.
const TRANSLATIONS: &[(&str, Translate)] = &[
    ("payment_intent.succeeded", charges::succeeded),
    ("payment_intent.amount_capturable_updated", charges::moved_on),
    ("payment_intent.canceled", charges::moved_on),
    ("payment_intent.created", charges::moved_on),
    ("payment_intent.partially_funded", charges::moved_on),
    ("payment_intent.payment_failed", charges::moved_on),
    ("payment_intent.processing", charges::moved_on),
    ("payment_intent.requires_action", charges::moved_on),
    ("charge.succeeded", sales::charge),
    ("charge.captured", sales::charge),
    ("invoice.paid", sales::invoice),
    ("invoice.payment_succeeded", sales::invoice),
    ("invoice_payment.paid", sales::invoice_payment),
    ("checkout.session.completed", sales::checkout_session),
    ("checkout.session.async_payment_succeeded", sales::checkout_session),
    ("customer.subscription.created", sales::subscription_changed),
    ("customer.subscription.updated", sales::subscription_changed),
    ("customer.subscription.deleted", sales::subscription_ended),
    ("customer.created", sales::customer),
    ("customer.updated", sales::customer),
    ("refund.created", returns::refund),
    ("refund.updated", returns::refund),
    ("refund.failed", returns::refund),
    ("charge.refund.updated", returns::refund),
    ("charge.refunded", returns::charge_refunded),
    ("charge.dispute.created", returns::dispute_told),
    ("charge.dispute.updated", returns::dispute_told),
    ("charge.dispute.funds_withdrawn", returns::dispute_funds_withdrawn),
    ("charge.dispute.funds_reinstated", returns::dispute_funds_reinstated),
    ("charge.dispute.closed", returns::dispute_closed),
    ("transfer.created", connect::transfer),
    ("transfer.updated", connect::transfer),
    ("transfer.reversed", connect::transfer),
    ("account.updated", connect::account),
    ("account.application.deauthorized", |event| Ok(connect::deauthorized(event))),
    ("payout.paid", connect::bank_payout),
    ("payout.failed", connect::bank_payout),
    ("balance.available", connect::balance),
];

/// `Some` link where the other id is known.
fn link(sale: &ObjectRef, kind: ObjectKind, id: Option<&Reference>) -> Option<Fact> {
    id.map(|id| Fact::SaleLinked { sale: sale.clone(), alias: ObjectRef::new(kind, &*id.0) })
}
