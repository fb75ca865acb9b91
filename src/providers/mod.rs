//! What payment providers send, translated, and what is asked of them. One folder per provider: how its
//! webhooks are signed, where an event keeps its id, which facts an event states; and for those that move
//! money, which bytes ask for it and what an answer proves.
//!
//! Pure: no database, no clock, no sockets. Nothing outside `providers/<name>` knows a provider's JSON.
//! Read [`Inbound`] first, then `signature` (shared by all), then a provider's `facts`; of the sending
//! half [`outbound::Outbound`], then a provider's `outbound`.

mod codes;
pub mod outbound;
pub mod paddle;
mod payload;
mod signature;
pub mod stripe;

use secrecy::SecretString;

pub use self::{
    codes::MetadataKeys,
    payload::{InvalidBody, MalformedEvent},
    signature::SignatureError,
};
use crate::domain::{fact::Fact, time::Timestamp};

/// What the receiver reads of a body before it commits (`rulings.md` 20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// The provider's id of the event, 1 to 255 visible ASCII characters.
    pub event_id: String,
    /// The provider's name of the event type, 1 to 255 visible ASCII characters.
    pub event_type: String,
    /// Whether real money moved. `None` where the provider does not say (Paddle: the secret that
    /// verified the body tells).
    pub livemode: Option<bool>,
    /// The connected account the event is about.
    pub account: Option<String>,
    /// When the provider made the event. `None` where it is absent or unreadable; translation reports it.
    pub created_at: Option<Timestamp>,
    /// The body names an object instead of holding it (Stripe `v2.core.event`).
    pub thin: bool,
}

/// What an event means to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// At least one fact.
    Facts(Vec<Fact>),
    /// Nothing to book; one word for why: `unhandled_type`, `thin_event`, `old_shape`, `no_money`,
    /// `no_code`, `no_sale`, `no_account`, `no_cash`, `not_final`, `own_account`, `not_own_account`, `not_own_charge`.
    Ignored(&'static str),
}

impl Translation {
    /// Facts, or the reason why there are none.
    fn of(facts: Vec<Fact>, reason_if_none: &'static str) -> Self {
        if facts.is_empty() { Self::Ignored(reason_if_none) } else { Self::Facts(facts) }
    }
}

/// The receiving half of a provider.
pub trait Inbound: Send + Sync {
    /// The name in routes, configuration and the database.
    fn name(&self) -> &'static str;

    /// The header that carries the signature, lower case.
    fn signature_header(&self) -> &'static str;

    /// Whether `body` was signed by the holder of one of `secrets` within `tolerance_s` seconds of `now`,
    /// in either direction. `headers` are all values of the signature header. Every secret is tried
    /// against every signature, in constant time; a blank secret never matches.
    ///
    /// # Errors
    /// [`SignatureError`]; the age is reported only of a body that was truly signed.
    fn verify(
        &self,
        headers: &[&[u8]],
        body: &[u8],
        secrets: &[SecretString],
        tolerance_s: i64,
        now: Timestamp,
    ) -> Result<(), SignatureError>;

    /// The header value that [`Self::verify`] accepts for this body, secret and time: for tests, the
    /// demonstration and the sandbox.
    fn sign(&self, body: &[u8], secret: &SecretString, at: Timestamp) -> String;

    /// Reads what the receiver needs. The whole body must be one JSON document in UTF-8.
    ///
    /// # Errors
    /// [`InvalidBody`] for a body that no provider sends.
    fn head(&self, body: &[u8]) -> Result<EventHead, InvalidBody>;

    /// Translates an event. `keys` are the metadata keys that mean something.
    ///
    /// # Errors
    /// [`MalformedEvent`] when a field that money depends on is missing or unreadable.
    fn facts(&self, body: &[u8], keys: MetadataKeys<'_>) -> Result<Translation, MalformedEvent>;
}

/// Every provider that can send webhooks.
pub static INBOUND: [&dyn Inbound; 2] = [&stripe::Stripe, &paddle::Paddle];

/// The provider of that name.
#[must_use]
pub fn inbound(name: &str) -> Option<&'static dyn Inbound> {
    INBOUND.into_iter().find(|provider| provider.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_found_by_their_exact_name() {
        assert_eq!(inbound("stripe").map(Inbound::signature_header), Some("stripe-signature"));
        assert_eq!(inbound("paddle").map(Inbound::signature_header), Some("paddle-signature"));
        assert!(inbound("Stripe").is_none());
        assert!(inbound("").is_none());
    }
}
