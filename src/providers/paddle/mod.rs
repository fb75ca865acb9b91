//! Paddle Billing: signed events in. Paddle is the merchant of record; its amounts are strings.

mod facts;
mod webhook;

use secrecy::SecretString;

use super::{EventHead, Inbound, InvalidBody, MalformedEvent, MetadataKeys, SignatureError, Translation};
use crate::domain::time::Timestamp;

/// The provider named `paddle`.
#[derive(Debug, Clone, Copy)]
pub struct Paddle;

impl Inbound for Paddle {
    fn name(&self) -> &'static str {
        "paddle"
    }

    fn signature_header(&self) -> &'static str {
        "paddle-signature"
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
