//! Timestamped HMAC-SHA256 signatures in a header, as Stripe and Paddle send them. The two differ in
//! punctuation only.
//!
//! Stricter than the providers' own libraries where they disagree or are lax: the time is bounded in
//! both directions, a repeated header or time is refused, every signature counts during a secret's
//! rotation, and the work per request is bounded. No clock here: `now` is an argument.
//!
//! Source: docs.stripe.com/webhooks/signature, developer.paddle.com/webhooks/about/signature-verification;
//! `facts.md` 1 and 12, `reliability.md` 3.5, `rulings.md` 19.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use crate::domain::time::Timestamp;

/// Longest header that is looked at, bytes; 64 signatures take 4.4 KB.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Most signatures that are compared, readable or not (`rulings.md` 19).
const CANDIDATES_MAX: usize = 64;

/// Why a signature was refused. No message holds anything of the header, the body or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No header, or an empty one.
    #[error("signature header is missing")]
    Missing,
    /// More than one header of that name.
    #[error("signature header is repeated")]
    Repeated,
    /// More than 8192 bytes.
    #[error("signature header is too long")]
    TooLong,
    /// Not ASCII, not a list of `key=value`, or without a whole number of seconds.
    #[error("signature header is malformed")]
    Malformed,
    /// More than one time; which one was signed would be a guess.
    #[error("signature header has more than one timestamp")]
    DuplicateTimestamp,
    /// No 64-digit hexadecimal signature of the scheme that counts.
    #[error("signature header has no readable signature")]
    NoCandidates,
    /// More than 64 signatures of the scheme that counts.
    #[error("signature header has too many signatures")]
    TooManyCandidates,
    /// Truly signed, but too long ago. A clock that is ahead looks the same, so operators want to know.
    #[error("signature is valid but too old")]
    TooOld,
    /// Truly signed, but in the future.
    #[error("signature is valid but from the future")]
    TooNew,
    /// Not signed with any of the secrets.
    #[error("signature does not match")]
    Mismatch,
}

impl SignatureError {
    /// Whether the body was truly signed and only the time is wrong: the mark of a wrong clock, which
    /// operators want told apart from strangers knocking (`reliability.md` F-S-06).
    #[must_use]
    pub const fn is_clock_suspect(self) -> bool {
        match self {
            Self::TooOld | Self::TooNew => true,
            Self::Missing
            | Self::Repeated
            | Self::TooLong
            | Self::Malformed
            | Self::DuplicateTimestamp
            | Self::NoCandidates
            | Self::TooManyCandidates
            | Self::Mismatch => false,
        }
    }
}

/// The punctuation of one provider's header.
#[derive(Debug)]
pub(super) struct Scheme {
    /// Between the items of the header.
    pub separator: char,
    /// Key of the time, whole seconds since the Unix epoch.
    pub time_key: &'static str,
    /// Key of the signatures that count; every other key is ignored (Stripe's `v0` is not a signature
    /// of ours, and a new scheme must not break the old one).
    pub signature_key: &'static str,
    /// Between time and body in the signed text.
    pub joint: &'static str,
}

/// A header taken apart.
struct Header<'a> {
    /// The time as written, because that text is what was signed.
    time: &'a str,
    seconds: i64,
    candidates: Vec<[u8; 32]>,
}

impl Scheme {
    /// See [`super::Inbound::verify`].
    pub(super) fn verify(
        &self,
        headers: &[&[u8]],
        body: &[u8],
        secrets: &[SecretString],
        tolerance_s: i64,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let header = self.parse(single(headers)?)?;
        let mut matched = Choice::from(0);
        // Neither loop ends early: the time taken says nothing about which secret or signature was right.
        for secret in secrets.iter().filter(|secret| !is_blank(secret)) {
            let expected = self.mac(secret, header.time, body);
            for candidate in &header.candidates {
                matched |= expected.ct_eq(candidate);
            }
        }
        if !bool::from(matched) {
            return Err(SignatureError::Mismatch);
        }
        let age_s = now.as_secs().saturating_sub(header.seconds);
        if age_s > tolerance_s {
            return Err(SignatureError::TooOld);
        }
        if age_s < tolerance_s.saturating_neg() {
            return Err(SignatureError::TooNew);
        }
        Ok(())
    }

    /// A header value with one signature.
    pub(super) fn sign(&self, body: &[u8], secret: &SecretString, at: Timestamp) -> String {
        let time = at.as_secs().to_string();
        let signature = hex::encode(self.mac(secret, &time, body));
        let Self { separator, time_key, signature_key, .. } = self;
        format!("{time_key}={time}{separator}{signature_key}={signature}")
    }

    fn parse<'a>(&self, header: &'a str) -> Result<Header<'a>, SignatureError> {
        let mut time = None;
        let mut signatures_seen = 0_usize;
        let mut candidates = Vec::new();
        for item in header.split(self.separator) {
            let (key, value) = item.split_once('=').ok_or(SignatureError::Malformed)?;
            if key == self.time_key {
                if time.replace(value).is_some() {
                    return Err(SignatureError::DuplicateTimestamp);
                }
            } else if key == self.signature_key {
                signatures_seen = signatures_seen.saturating_add(1);
                if signatures_seen > CANDIDATES_MAX {
                    return Err(SignatureError::TooManyCandidates);
                }
                candidates.extend(decode(value));
            }
        }
        let time = time.ok_or(SignatureError::Malformed)?;
        let seconds = whole_seconds(time).ok_or(SignatureError::Malformed)?;
        if candidates.is_empty() {
            return Err(SignatureError::NoCandidates);
        }
        Ok(Header { time, seconds, candidates })
    }

    fn mac(&self, secret: &SecretString, time: &str, body: &[u8]) -> [u8; 32] {
        // The key is the whole text of the secret, its prefix included; nothing is base64-decoded.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(time.as_bytes());
        mac.update(self.joint.as_bytes());
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// The one value of the header.
fn single<'a>(headers: &[&'a [u8]]) -> Result<&'a str, SignatureError> {
    match headers {
        [] | [[]] => Err(SignatureError::Missing),
        [value] if value.len() > HEADER_BYTES_MAX => Err(SignatureError::TooLong),
        [value] if value.is_ascii() => std::str::from_utf8(value).map_err(|_| SignatureError::Malformed),
        [_] => Err(SignatureError::Malformed),
        _ => Err(SignatureError::Repeated),
    }
}

/// An empty HMAC key is a key that everybody has.
fn is_blank(secret: &SecretString) -> bool {
    secret.expose_secret().trim().is_empty()
}

/// Digits only: `i64::from_str` would also take a sign.
fn whole_seconds(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// 64 hexadecimal digits of either case. What is not that is passed over, so that a damaged signature
/// does not spoil the good one next to it.
fn decode(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}
