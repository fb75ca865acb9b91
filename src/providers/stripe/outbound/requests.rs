//! The requests, byte for byte: form fields in a fixed order, percent-encoded UTF-8, so that the same
//! order gives the same bytes and the key is never used with another body.
//!
//! Source: docs.stripe.com/api/transfers, `docs.stripe.com/api/payment_intents`,
//! docs.stripe.com/connect/destination-charges.

use std::fmt::{Display, Write as _};

use crate::providers::{
    outbound::{Made, Order, OrderKind},
    stripe::INTENT_KEY,
};

/// Most objects of one page (docs.stripe.com/api/pagination).
const PAGE_OBJECTS: u8 = 100;

/// The body that transfers from the platform's balance. `source_transaction` is never sent: the group is
/// ours alone then, and the transfer can be found by it.
pub(super) fn transfer(order: &Order) -> String {
    Form::default()
        .field("amount", order.amount.minor)
        .field("currency", order.amount.currency)
        .field("destination", &order.destination)
        .marks(order)
        .text
}

/// The body that creates a payment intent for a destination charge. The buyer confirms it.
///
/// A fee of nothing is left out: Stripe takes only a positive fee.
pub(super) fn charge(order: &Order, application_fee: i64) -> String {
    let form = Form::default()
        .field("amount", order.amount.minor)
        .field("currency", order.amount.currency)
        .field("automatic_payment_methods[enabled]", true)
        .field("on_behalf_of", &order.destination)
        .field("transfer_data[destination]", &order.destination);
    let form = if application_fee > 0 { form.field("application_fee_amount", application_fee) } else { form };
    form.marks(order).text
}

/// Path and query of one page of the objects in which the order would be found. Transfers can be asked
/// for by group; payment intents only by time, because ours name no customer, and search is no place to look
/// for what was just written (`reliability.md` §0.3).
pub(super) fn look_up(order: &Order, made: Made, cursor: Option<&str>) -> String {
    let (path, mut form) = match order.kind {
        OrderKind::Transfer => {
            let form = Form::default()
                .field("transfer_group", &order.intent_id)
                .field("destination", &order.destination);
            ("/v1/transfers", form)
        }
        OrderKind::Charge { .. } => {
            let form = match made.until {
                // A second that has begun counts whole.
                Some(until) => {
                    Form::default().field("created[lte]", until.as_secs().saturating_add(1).max(0))
                }
                None => Form::default(),
            };
            ("/v1/payment_intents", form)
        }
    };
    form = form.field("created[gte]", made.since.as_secs().max(0)).field("limit", PAGE_OBJECTS);
    if let Some(cursor) = cursor {
        form = form.field("starting_after", cursor);
    }
    format!("{path}?{}", form.text)
}

/// Path of an account.
pub(super) fn account(account_id: &str) -> String {
    let mut path = "/v1/accounts/".to_owned();
    push_encoded(&mut path, account_id);
    path
}

/// Fields of a form, in the order in which they are added.
#[derive(Default)]
struct Form {
    text: String,
}

impl Form {
    fn field(mut self, name: &str, value: impl Display) -> Self {
        if !self.text.is_empty() {
            self.text.push('&');
        }
        push_encoded(&mut self.text, name);
        self.text.push('=');
        push_encoded(&mut self.text, &value.to_string());
        self
    }

    /// What the object is found by, should the answer be lost (`rulings.md` 16).
    fn marks(self, order: &Order) -> Self {
        self.field("transfer_group", &order.intent_id)
            .field(&format!("metadata[{INTENT_KEY}]"), &order.intent_id)
            .field("metadata[generation]", order.generation)
    }
}

/// Appends `text` with every byte but the unreserved ones of RFC 3986 percent-encoded. That holds for a
/// path segment, a query and a form alike.
fn push_encoded(encoded: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
}
