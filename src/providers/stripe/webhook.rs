//! Stripe's signature header and the head of its events.
//!
//! Source: docs.stripe.com/webhooks/signature, docs.stripe.com/api/events/object.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    domain::time::Timestamp,
    providers::{
        EventHead, InvalidBody,
        payload::{self, Id, Seconds},
        signature::Scheme,
    },
};

/// `Stripe-Signature: t=<s>,v1=<hex>[,v1=<hex>…][,v0=<hex>]`, signed over `<t>.<body>`.
pub(super) const SCHEME: Scheme = Scheme { separator: ',', time_key: "t", signature_key: "v1", joint: "." };

/// `object` of an event that names its object instead of holding it.
pub(super) const THIN: &str = "v2.core.event";

#[derive(Deserialize)]
struct Head<'a> {
    id: Id,
    r#type: Id,
    object: Option<Id>,
    #[serde(default, deserialize_with = "present")]
    livemode: Option<bool>,
    account: Option<Id>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
}

/// A field that may be left out but not be null: an unknown mode must not pass for a known one.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(deserializer).map(Some)
}

pub(super) fn head(body: &[u8]) -> Result<EventHead, InvalidBody> {
    let head: Head<'_> = payload::read_head(body)?;
    Ok(EventHead {
        event_id: head.id.0,
        event_type: head.r#type.0,
        livemode: head.livemode,
        account: head.account.map(|account| account.0),
        created_at: head.created.and_then(|created| created_at(created.get())),
        thin: head.object.is_some_and(|object| object.0 == THIN),
    })
}

/// Whole seconds in snapshot events, RFC 3339 in thin ones.
fn created_at(json: &str) -> Option<Timestamp> {
    if let Ok(Seconds(at)) = serde_json::from_str(json) {
        return Some(at);
    }
    Timestamp::parse_rfc3339(&serde_json::from_str::<String>(json).ok()?).ok()
}
