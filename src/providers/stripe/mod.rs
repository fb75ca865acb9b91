//! Stripe: signed snapshot events in, of any API version since 2017; transfers and payment intents out.
//! Thin events are recognised and left alone.

mod facts;
mod outbound;
mod webhook;

use secrecy::SecretString;

use super::{EventHead, Inbound, InvalidBody, MalformedEvent, MetadataKeys, SignatureError, Translation};
use crate::domain::time::Timestamp;

/// The metadata key that carries our intent id, on what we send and in what comes back.
const INTENT_KEY: &str = "intent_id";

/// The provider named `stripe`.
#[derive(Debug, Clone, Copy)]
pub struct Stripe;

impl Inbound for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
    }

    fn signature_header(&self) -> &'static str {
        "stripe-signature"
    }

    fn verify(
        &self,
        headers: &[&[u8]],
        body: &[u8],
        secrets: &[SecretString],
        tolerance_s: i64,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        webhook::SCHEME.verify(headers, body, secrets, tolerance_s, now)
    }

    fn sign(&self, body: &[u8], secret: &SecretString, at: Timestamp) -> String {
        webhook::SCHEME.sign(body, secret, at)
    }

    fn head(&self, body: &[u8]) -> Result<EventHead, InvalidBody> {
        webhook::head(body)
    }

    fn facts(&self, body: &[u8], keys: MetadataKeys<'_>) -> Result<Translation, MalformedEvent> {
        facts::translate(body, keys)
    }
}
