//! Referral codes that an event tells, and ids of the buyer on the owner's side. Collects them; what they
//! are worth is the fold's business.

use serde_json::{Map, Value};

use super::payload::{Lenient, clean_text};
use crate::domain::{
    fact::{Fact, Hint, HintSource, ObjectKind, ObjectRef, Subject},
    time::Timestamp,
};

/// Longest code, characters.
const CODE_CHARS_MAX: usize = 200;

/// Longest id of an order of the owner's, characters.
const EXTERNAL_ID_CHARS_MAX: usize = 255;

/// The metadata key that names the owner's own id of the order, so that a reported conversion and the
/// payment's webhooks meet in one sale.
const EXTERNAL_ID_KEY: &str = "remit_external_id";

/// Metadata (Stripe) or custom data (Paddle): whatever the owner wrote there.
pub(super) type Metadata = Lenient<Map<String, Value>>;

/// Which keys of metadata mean something, both as configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetadataKeys<'a> {
    /// May carry a referral code; the earlier the stronger.
    pub codes: &'a [String],
    /// May carry an id of the buyer under which touchpoints were recorded.
    pub subjects: &'a [String],
}

/// The codes of one event, best source first within each call.
#[derive(Debug, Default)]
pub(super) struct Codes(Vec<(HintSource, String)>);

impl Codes {
    /// Reads the configured keys. A key that an earlier call has answered is not read again: an
    /// invoice's own metadata wins over its subscription's.
    pub(super) fn add_metadata(&mut self, metadata: &Metadata, keys: MetadataKeys<'_>) {
        let Some(metadata) = &metadata.0 else { return };
        for key in keys.subjects {
            match metadata.get(key) {
                Some(Value::String(id)) => self.add(HintSource::Visitor, id),
                // An owner's user 17: Paddle keeps it a number.
                Some(Value::Number(id)) if id.is_i64() => self.add(HintSource::Visitor, &id.to_string()),
                _ => {}
            }
        }
        for (place, key) in (0_u16..).zip(keys.codes) {
            let source = HintSource::Metadata(place);
            let is_answered = self.0.iter().any(|(known, _)| *known == source);
            if let Some(Value::String(code)) = metadata.get(key)
                && !is_answered
            {
                self.add(source, code);
            }
        }
    }

    /// Adds a code unless it is blank, longer than 200 characters or already there.
    pub(super) fn add(&mut self, source: HintSource, code: &str) {
        if let Some(code) = clean_text(code, CODE_CHARS_MAX)
            && !self.0.iter().any(|known| *known == (source, code.clone()))
        {
            self.0.push((source, code));
        }
    }

    /// Every code for every subject.
    pub(super) fn facts(&self, subjects: &[Subject], at: Timestamp) -> Vec<Fact> {
        let hints = || self.0.iter().map(|(source, code)| Hint { source: *source, code: code.clone(), at });
        subjects
            .iter()
            .flat_map(|subject| hints().map(|hint| Fact::SaleAttributed { subject: subject.clone(), hint }))
            .collect()
    }
}

/// What carries the codes of an event: the sale and the subscription and customer it names.
pub(super) fn subjects(
    sale: Option<&ObjectRef>,
    subscription: Option<&str>,
    customer: Option<&str>,
) -> Vec<Subject> {
    let sale = sale.cloned().map(Subject::Sale);
    let subscription = subscription.map(|id| Subject::Subscription(id.to_owned()));
    let customer = customer.map(|id| Subject::Customer(id.to_owned()));
    [sale, subscription, customer].into_iter().flatten().collect()
}

/// The link to the owner's own id of the order, where the metadata tells one.
pub(super) fn external_link(sale: &ObjectRef, metadata: &Metadata) -> Option<Fact> {
    let id = metadata.0.as_ref()?.get(EXTERNAL_ID_KEY)?.as_str()?;
    let alias = ObjectRef::new(ObjectKind::External, clean_text(id, EXTERNAL_ID_CHARS_MAX)?);
    Some(Fact::SaleLinked { sale: sale.clone(), alias })
}
