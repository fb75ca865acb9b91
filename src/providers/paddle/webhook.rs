//! Paddle's signature header and the head of its events.
//!
//! Source: developer.paddle.com/webhooks/about/signature-verification,
//! developer.paddle.com/webhooks/about/how-webhooks-work.

use serde::Deserialize;

use crate::providers::{
    EventHead, InvalidBody,
    payload::{self, Id, Lenient},
    signature::Scheme,
};

/// `Paddle-Signature: ts=<s>;h1=<hex>[;h1=<hex>…]`, signed over `<ts>:<body>`.
pub(super) const SCHEME: Scheme = Scheme { separator: ';', time_key: "ts", signature_key: "h1", joint: ":" };

/// `notification_id` is not the event's id: each replay makes a new one.
#[derive(Deserialize)]
struct Head {
    event_id: Id,
    event_type: Id,
    #[serde(default)]
    occurred_at: Lenient<String>,
}

pub(super) fn head(body: &[u8]) -> Result<EventHead, InvalidBody> {
    let head: Head = payload::read_head(body)?;
    Ok(EventHead {
        event_id: head.event_id.0,
        event_type: head.event_type.0,
        livemode: None,
        account: None,
        created_at: head.occurred_at.instant(),
        thin: false,
    })
}
