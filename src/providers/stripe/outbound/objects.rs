//! What Stripe shows of our orders: transfers, payment intents, pages of them, and errors.
//!
//! Only used fields are declared. A field that money depends on must be there and readable; words that
//! Stripe adds later, such as a new status, are kept as they are. What follows from any of it is said in
//! `verdict`.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::value::RawValue;

use crate::{
    domain::{money::Currency, time::Timestamp},
    providers::{
        outbound::{ObjectSeen, Order, OrderKind, Page, Unreadable},
        payload::{self, Id, Lenient, Minor, Reference, Seconds},
    },
};

/// Longest type or code of an error, bytes.
const WORD_BYTES_MAX: usize = 64;

/// What the body of an answer shows.
pub(super) enum Shown {
    /// An object of the kind that was asked for. It `matches` if it is the very one.
    Object(ObjectSeen),
    /// An error of Stripe's.
    Error {
        /// `error.type`.
        kind: Option<String>,
        /// `error.code`.
        code: Option<String>,
    },
    /// Nothing that can be understood.
    Nothing,
}

/// Reads the answer to the request that executes `order`.
pub(super) fn read(order: &Order, body: &[u8]) -> Shown {
    let Some(text) = text(body) else { return Shown::Nothing };
    if let Some(found) = Found::read(&order.kind, text) {
        // We wrote our id into the metadata, so an answer without it speaks of something else.
        let matches = found.is_as_ordered(order) && found.names(order);
        return Shown::Object(found.into_object(matches));
    }
    match payload::read::<Failure>(text, "") {
        Ok(Failure { error }) => {
            let word = |word: Option<Word>| word.map(|word| word.0);
            Shown::Error { kind: word(error.r#type), code: word(error.code) }
        }
        Err(_) => Shown::Nothing,
    }
}

/// Reads one page of a list.
pub(super) fn page(order: &Order, body: &[u8]) -> Result<Page, Unreadable> {
    let list: List = text(body).and_then(|text| payload::read(text, "").ok()).ok_or(Unreadable)?;
    if list.object.0 != "list" {
        return Err(Unreadable);
    }
    let mut objects = Vec::new();
    let mut last_id = None;
    for element in list.data {
        let listed: Listed = payload::read(element.get(), "").map_err(|_| Unreadable)?;
        let marks = Marks { metadata: listed.metadata, group: listed.group };
        if marks.carry(order) {
            // What carries the intent must be readable as a whole; what does not is not our business.
            let found = Found::read(&order.kind, element.get()).ok_or(Unreadable)?;
            let matches = found.is_as_ordered(order) && !found.names_another(order);
            objects.push(found.into_object(matches));
        }
        last_id = Some(listed.id.0);
    }
    // A page that has a next one and no last object has lost something.
    let next = if list.has_more { Some(last_id.ok_or(Unreadable)?) } else { None };
    Ok(Page { objects, next })
}

/// The text of a body that may be one JSON object. (A struct could also be read from an array.)
pub(super) fn text(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body).ok().filter(|text| text.trim_ascii_start().starts_with('{'))
}

/// A transfer or a payment intent, as far as it is compared with an order.
struct Found {
    id: String,
    amount: i64,
    currency: Currency,
    destination: Option<String>,
    /// Minor units; 0 for a transfer, and where none was taken.
    application_fee: i64,
    livemode: bool,
    marks: Marks,
    status: Option<String>,
    reversed: i64,
    created_at: Timestamp,
}

impl Found {
    /// `None` unless `text` is a whole object of the kind that such an order makes.
    fn read(kind: &OrderKind, text: &str) -> Option<Self> {
        match kind {
            OrderKind::Transfer => payload::read(text, "").ok().and_then(Self::of_transfer),
            OrderKind::Charge { .. } => payload::read(text, "").ok().and_then(Self::of_charge),
        }
    }

    fn of_transfer(transfer: Transfer) -> Option<Self> {
        (transfer.object.0 == "transfer").then(|| Self {
            id: transfer.id.0,
            amount: transfer.amount.0,
            currency: transfer.currency,
            destination: transfer.destination.map(|account| account.0),
            application_fee: 0,
            livemode: transfer.livemode,
            marks: Marks { metadata: transfer.metadata, group: transfer.group },
            status: None,
            reversed: transfer.amount_reversed.0,
            created_at: transfer.created.0,
        })
    }

    fn of_charge(charge: PaymentIntent) -> Option<Self> {
        (charge.object.0 == "payment_intent").then(|| Self {
            id: charge.id.0,
            amount: charge.amount.0,
            currency: charge.currency,
            destination: charge.transfer_data.and_then(|data| data.destination).map(|account| account.0),
            application_fee: charge.application_fee_amount.map_or(0, |fee| fee.0),
            livemode: charge.livemode,
            marks: Marks { metadata: charge.metadata, group: charge.group },
            status: Some(charge.status.0),
            reversed: 0,
            created_at: charge.created.0,
        })
    }

    /// Whether the money is what was asked for.
    fn is_as_ordered(&self, order: &Order) -> bool {
        let application_fee = match order.kind {
            OrderKind::Transfer => 0,
            OrderKind::Charge { application_fee } => application_fee,
        };
        self.amount == order.amount.minor
            && self.currency == order.amount.currency
            && self.destination.as_ref() == Some(&order.destination)
            && self.application_fee == application_fee
            && self.livemode == order.livemode
    }

    fn names(&self, order: &Order) -> bool {
        self.marks.intent_id() == Some(order.intent_id.as_str())
    }

    fn names_another(&self, order: &Order) -> bool {
        self.marks.intent_id().is_some() && !self.names(order)
    }

    fn into_object(self, matches: bool) -> ObjectSeen {
        ObjectSeen {
            id: self.id,
            matches,
            status: self.status,
            reversed: self.reversed,
            created_at: self.created_at,
        }
    }
}

/// What an object is found by.
struct Marks {
    metadata: Option<Metadata>,
    group: Lenient<String>,
}

/// A struct and no map: a key that is told twice is then an error.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    intent_id: Lenient<String>,
}

impl Marks {
    fn intent_id(&self) -> Option<&str> {
        self.metadata.as_ref()?.intent_id.0.as_deref()
    }

    /// Whether the object carries the intent of the order, under whichever key it was made. A group that
    /// is the intent's id is ours too, even where people changed the metadata since.
    fn carry(&self, order: &Order) -> bool {
        let intent_id = order.intent_id.as_str();
        self.intent_id() == Some(intent_id) || self.group.0.as_deref() == Some(intent_id)
    }
}

/// Source: docs.stripe.com/api/transfers/object.
#[derive(Deserialize)]
struct Transfer {
    id: Id,
    object: Id,
    amount: Minor,
    amount_reversed: Minor,
    created: Seconds,
    currency: Currency,
    destination: Option<Reference>,
    livemode: bool,
    metadata: Option<Metadata>,
    #[serde(default, rename = "transfer_group")]
    group: Lenient<String>,
}

/// Source: `docs.stripe.com/api/payment_intents/object`.
#[derive(Deserialize)]
struct PaymentIntent {
    id: Id,
    object: Id,
    amount: Minor,
    application_fee_amount: Option<Minor>,
    created: Seconds,
    currency: Currency,
    livemode: bool,
    metadata: Option<Metadata>,
    status: Id,
    transfer_data: Option<TransferData>,
    #[serde(default, rename = "transfer_group")]
    group: Lenient<String>,
}

#[derive(Deserialize)]
struct TransferData {
    destination: Option<Reference>,
}

/// Source: docs.stripe.com/api/pagination.
#[derive(Deserialize)]
struct List<'a> {
    object: Id,
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    has_more: bool,
}

/// What is read of every element of a list.
#[derive(Deserialize)]
struct Listed {
    id: Id,
    metadata: Option<Metadata>,
    #[serde(default, rename = "transfer_group")]
    group: Lenient<String>,
}

/// Source: docs.stripe.com/api/errors.
#[derive(Deserialize)]
struct Failure {
    error: Error,
}

/// The message is text for people and may hold what they typed: it is not read.
#[derive(Deserialize)]
struct Error {
    r#type: Option<Word>,
    code: Option<Word>,
}

/// A word of a list of Stripe's: 1 to 64 lower-case letters, digits and underscores.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fits = (1..=WORD_BYTES_MAX).contains(&text.len());
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if fits && text.bytes().all(is_word) { Ok(Self(text)) } else { Err(D::Error::custom("not a word")) }
    }
}
