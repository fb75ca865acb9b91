//! The sending half of a provider: pure translation of an [`Order`] into the bytes of a request, and of an
//! answer into what it proves. Nothing here sends; `transport` does, and `app::dispatch` decides when.

use std::fmt;

use crate::domain::{fact::PayoutAccount, ids::IntentId, intent::Verdict, money::Money, time::Timestamp};

/// Money that a provider is asked to move. Everything in it is frozen with the intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What it is for. The provider keeps it beside the object, so that the object can be found again.
    pub intent_id: IntentId,
    /// Which key it is sent under.
    pub generation: i64,
    /// Real money or a test.
    pub livemode: bool,
    /// How much.
    pub amount: Money,
    /// The account that receives it.
    pub destination: String,
    /// What is moved.
    pub kind: OrderKind,
}

/// What an order moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// From the platform's balance to an affiliate's account.
    Transfer,
    /// From a buyer to a connected account, which is the settlement merchant (`rulings.md` 17).
    Charge {
        /// What the platform keeps, minor units of the order's currency, less than its amount.
        application_fee: i64,
    },
}

/// A request of a provider's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// What is done.
    pub method: Method,
    /// Path and query, from the first slash.
    pub path: String,
    /// The exact bytes of the body; empty for reading.
    pub body: Vec<u8>,
    /// The idempotency key; none for reading.
    pub idempotency_key: Option<String>,
}

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads, free of effects.
    Get,
    /// May have effects.
    Post,
}

/// What came back of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Not one byte of the request was written: name not resolved, connection or TLS refused, or past the
    /// caller's own deadline before it began.
    NotSent,
    /// The request may have arrived and nothing whole came back: time-out, reset, cut or oversized answer.
    Lost,
    /// A whole answer.
    Answered(ApiResponse),
}

/// A whole answer. Headers that providers steer by are read into fields; nothing else of them is kept.
/// `Debug` tells the length of the body only: it may hold personal data.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiResponse {
    /// HTTP status.
    pub status: u16,
    /// The provider's id of the request (`Request-Id`).
    pub request_id: Option<String>,
    /// Whether the answer was stored under the key before (`Idempotent-Replayed`).
    pub replayed: bool,
    /// Whether the provider advises to try again (`Stripe-Should-Retry`). It steers when, never what happened.
    pub should_retry: Option<bool>,
    /// How long to wait, seconds (`Retry-After`); dates and nonsense are left out.
    pub retry_after_s: Option<i64>,
    /// The body.
    pub body: Vec<u8>,
}

impl fmt::Debug for ApiResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, request_id, replayed, should_retry, retry_after_s, body } = self;
        f.debug_struct("ApiResponse")
            .field("status", status)
            .field("request_id", request_id)
            .field("replayed", replayed)
            .field("should_retry", should_retry)
            .field("retry_after_s", retry_after_s)
            .field("body_bytes", &body.len())
            .finish()
    }
}

/// What an answer proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it proves, and about what.
    pub verdict: Verdict,
    /// The provider's object: of [`Verdict::Executed`] the one that was asked for, of
    /// [`Verdict::Contradiction`] the one that was shown instead, otherwise none.
    pub object: Option<ObjectSeen>,
    /// The provider's error code, such as `balance_insufficient`: a word of its list, never free text.
    pub error_code: Option<String>,
}

/// An object that the provider shows for our intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSeen {
    /// The provider's id.
    pub id: String,
    /// Whether amount, fee, currency, destination and mode are those of the order, and it names no other
    /// intent.
    pub matches: bool,
    /// For charges: the provider's status word.
    pub status: Option<String>,
    /// For transfers: what came back of it so far, minor units, cumulative.
    pub reversed: i64,
    /// When the provider made it.
    pub created_at: Timestamp,
}

/// When an object was made, if it was made at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Not earlier.
    pub since: Timestamp,
    /// Not later; none: at any time.
    pub until: Option<Timestamp>,
}

/// One page of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The objects that carry the intent, of any generation.
    pub objects: Vec<ObjectSeen>,
    /// Where the next page starts; none at the end.
    pub next: Option<String>,
}

/// The page could not be read. Nothing follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the provider's list could not be read")]
pub struct Unreadable;

/// The sending half of a provider.
pub trait Outbound: Send + Sync {
    /// The name in configuration and the database.
    fn name(&self) -> &'static str;

    /// The API version that every request names.
    fn api_version(&self) -> &'static str;

    /// The request that executes the order. The same order gives the same bytes.
    fn execute(&self, order: &Order) -> ApiRequest;

    /// What the reply to [`Self::execute`] proves.
    fn answer(&self, order: &Order, reply: &Reply) -> Answer;

    /// The request for one page of the list in which the order would be found, from `cursor` on. Where the
    /// list can be asked for the order itself, objects that were made after `made.until` are shown too.
    fn look_up(&self, order: &Order, made: Made, cursor: Option<&str>) -> ApiRequest;

    /// Reads a page.
    ///
    /// # Errors
    /// [`Unreadable`] for anything but a whole page.
    fn page(&self, order: &Order, reply: &Reply) -> Result<Page, Unreadable>;

    /// Whether `text` can be the id of the object that an order of this kind makes.
    fn is_object_id(&self, kind: &OrderKind, text: &str) -> bool;

    /// The request that reads a receiving account.
    fn account(&self, account_id: &str) -> ApiRequest;

    /// What a receiving account can do, as of `now`; `None` when the reply does not tell. The caller
    /// compares the account with the one it asked for.
    fn account_state(&self, reply: &Reply, now: Timestamp) -> Option<PayoutAccount>;
}

/// Every provider that can move money.
pub static OUTBOUND: [&dyn Outbound; 1] = [&super::stripe::Stripe];

/// The provider of that name.
#[must_use]
pub fn outbound(name: &str) -> Option<&'static dyn Outbound> {
    OUTBOUND.into_iter().find(|provider| provider.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_found_by_their_exact_name() {
        assert_eq!(outbound("stripe").map(Outbound::api_version), Some("2026-07-29.dahlia"));
        assert!(outbound("Stripe").is_none());
        assert!(outbound("paddle").is_none());
    }

    #[test]
    fn an_answer_shown_for_debugging_does_not_show_its_body() {
        let response =
            ApiResponse { status: 402, body: b"ada@example.com".to_vec(), ..ApiResponse::default() };
        let shown = format!("{:?}", Reply::Answered(response));
        assert!(shown.contains("402") && shown.contains("body_bytes: 15"), "{shown}");
        assert!(!shown.contains("97, 100, 97") && !shown.contains("ada@"), "{shown}");
    }
}
