//! What an answer proves: one table, read from the top, and the first row that fits decides.
//!
//! A row says that something is proven; what no row knows is [`Verdict::Ambiguous`], because a wrong
//! guess there pays twice. The table knows nothing of earlier attempts (`domain::intent` does), and it
//! does not look at `Stripe-Should-Retry`: that header says whether to try again, which `domain::intent`
//! follows, and never what happened (`rulings.md` 16).

#[cfg(test)]
mod tests;

use crate::domain::intent::Verdict;

/// What the table looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs<'a> {
    /// HTTP status.
    pub(super) status: u16,
    /// What the body is.
    pub(super) body: Shape,
    /// `error.type`.
    pub(super) kind: Option<&'a str>,
    /// `error.code`.
    pub(super) code: Option<&'a str>,
    /// Whether the answer was stored under the key before.
    pub(super) replayed: bool,
}

/// What the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The object that was asked for.
    Asked,
    /// An object of that kind, which is not the one that was asked for.
    Different,
    /// An error as Stripe writes it.
    Error,
    /// Anything else: empty, cut, HTML, another object.
    Unknown,
}

/// The verdict of the first row that fits.
pub(super) fn of(signs: &Signs<'_>) -> Verdict {
    TABLE.iter().find(|row| row.fits(signs)).map_or(Verdict::Ambiguous, |row| row.verdict)
}

/// One row. A list that is empty fits everything.
#[derive(Clone, Copy)]
struct Row {
    /// Where the rule comes from: `facts` §9 is docs.stripe.com/error-low-level and
    /// docs.stripe.com/error-codes, F-P ids and §5 are `reliability.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by people and by the tests"))]
    source: &'static str,
    statuses: (u16, u16),
    bodies: &'static [Shape],
    kinds: &'static [&'static str],
    codes: &'static [&'static str],
    /// Only answers that were stored under the key before.
    replayed: bool,
    verdict: Verdict,
}

impl Row {
    fn fits(&self, signs: &Signs<'_>) -> bool {
        let among = |list: &[&str], word: Option<&str>| {
            list.is_empty() || word.is_some_and(|word| list.contains(&word))
        };
        (self.statuses.0..=self.statuses.1).contains(&signs.status)
            && (self.bodies.is_empty() || self.bodies.contains(&signs.body))
            && among(self.kinds, signs.kind)
            && among(self.codes, signs.code)
            && (signs.replayed || !self.replayed)
    }

    const fn bodies(self, bodies: &'static [Shape]) -> Self {
        Self { bodies, ..self }
    }

    const fn kinds(self, kinds: &'static [&'static str]) -> Self {
        Self { kinds, ..self }
    }

    const fn codes(self, codes: &'static [&'static str]) -> Self {
        Self { codes, ..self }
    }

    const fn replayed(self) -> Self {
        Self { replayed: true, ..self }
    }
}

/// A row for every answer with a status from `first` to `last`.
const fn row(source: &'static str, first: u16, last: u16, verdict: Verdict) -> Row {
    Row { source, statuses: (first, last), bodies: &[], kinds: &[], codes: &[], replayed: false, verdict }
}

const INVALID: &[&str] = &["invalid_request_error"];
const CARD: &[&str] = &["card_error"];

/// The platform's balance does not cover it.
const BALANCE: &[&str] = &["balance_insufficient"];

/// The same, with the word of newer flows. Of a card it would speak of the buyer's funds.
const FUNDS: &[&str] = &["balance_insufficient", "insufficient_funds"];

/// The receiving account is not ready, restricted, closed or disconnected.
const ACCOUNT: &[&str] = &[
    "account_closed",
    "account_invalid",
    "insufficient_capabilities_for_transfer",
    "no_account",
    "transfers_not_allowed",
];

/// Limiters stand in front of the keys: what they turn away is not executed and not stored.
const LIMITER: &[&str] = &["rate_limit"];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Successes.
    row("§5 definite success", 200, 299, Verdict::Executed).bodies(&[Shape::Asked]),
    row("F-P-19", 200, 299, Verdict::Contradiction).bodies(&[Shape::Different]),
    row("F-P-03, F-P-12", 200, 299, Verdict::Ambiguous),
    row("F-P-20", 300, 399, Verdict::Ambiguous),

    // A refusal counts only in Stripe's own words: whoever else answers, a proxy or a firewall, does not
    // know what became of the request.
    row("F-P-12", 400, 599, Verdict::Ambiguous).bodies(&[Shape::Asked, Shape::Different, Shape::Unknown]),

    // The first request under the key is still under way.
    row("facts §9 409, F-P-08", 409, 409, Verdict::Ambiguous),
    row("facts §8 in flight", 400, 499, Verdict::Ambiguous).codes(&["idempotency_key_in_use"]),

    // Turned away before the key was looked at. Such an answer is never stored, so one that claims to
    // be is not understood.
    row("facts §8 not saved", 401, 401, Verdict::Ambiguous).replayed(),
    row("facts §8 not saved", 429, 429, Verdict::Ambiguous).replayed(),
    row("facts §8 not saved", 400, 400, Verdict::Ambiguous).codes(LIMITER).replayed(),
    row("facts §9 429, F-P-07", 429, 429, Verdict::TurnedAway),
    row("facts §9 429 on old versions", 400, 400, Verdict::TurnedAway).kinds(INVALID).codes(LIMITER),
    row("facts §9 401, F-P-11", 401, 401, Verdict::Unauthorized),

    // Refused, and the refusal is stored under the key.
    row("facts §8, F-P-09", 400, 400, Verdict::KeyMisused).kinds(&["idempotency_error"]),
    row("facts §9 balance, F-P-10", 400, 402, Verdict::InsufficientFunds).kinds(INVALID).codes(FUNDS),
    row("facts §9 balance, F-P-10", 402, 402, Verdict::InsufficientFunds).kinds(CARD).codes(BALANCE),
    row("facts §9 account, F-P-22", 400, 403, Verdict::AccountNotReady).kinds(INVALID).codes(ACCOUNT),
    row("facts §9 403, F-P-11", 403, 403, Verdict::Unauthorized),
    row("facts §9 402", 402, 402, Verdict::Refused).kinds(CARD),
    row("facts §9 400", 400, 400, Verdict::Refused).kinds(INVALID),
    row("facts §9 404", 404, 404, Verdict::Refused).kinds(INVALID).codes(&["resource_missing"]),

    // Failures of theirs, which may have happened before, while or after it was executed.
    row("facts §9 424", 424, 424, Verdict::Ambiguous),
    row("facts §9 5xx, F-P-04, F-P-06", 500, 599, Verdict::Ambiguous),
];
