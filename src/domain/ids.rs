//! Prefixed text ids. Different ids do not mix, and a log line says what it names.
//!
//! A random id sorts by creation time (48 bits of milliseconds, then randomness). An id that must be
//! the same when the work is done again is derived from its source and never random.

use std::fmt;

use sha2::{Digest, Sha256};

use super::time::Timestamp;

/// The text was not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id that starts with `{prefix}`")]
pub struct InvalidId {
    text: String,
    prefix: &'static str,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl ProjectId {
    /// The project that the first migration makes: default endpoints and the platform's own provider
    /// account belong to it (`design.md` §7, "First start").
    #[must_use]
    pub fn platform() -> Self {
        Self("proj_default".to_owned())
    }
}

/// 26 characters of Crockford base32, most significant first, so that text order is number order.
fn encode(mut value: u128) -> String {
    let mut text = [b'0'; 26];
    for slot in text.iter_mut().rev() {
        let low_bits = usize::try_from(value & 31).unwrap_or(0);
        *slot = ALPHABET[low_bits];
        value >>= 5;
    }
    text.iter().copied().map(char::from).collect()
}

fn time_ordered(at: Timestamp, random: u128) -> u128 {
    const RANDOM_BITS: u128 = u128::MAX >> 48;
    let millis = u128::try_from(at.as_micros().max(0).div_euclid(1_000)).unwrap_or(0);
    (millis << 80) | (random & RANDOM_BITS)
}

fn derived(parts: &[&str]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut first = [0_u8; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// An id that sorts by `at`; `random` supplies its lower 80 bits.
            #[must_use]
            pub fn random(at: Timestamp, random: u128) -> Self {
                Self(format!("{}{}", $prefix, encode(time_ordered(at, random))))
            }

            /// The id of the thing named by `parts`, the same every time.
            #[must_use]
            pub fn derived(parts: &[&str]) -> Self {
                Self(format!("{}{}", $prefix, encode(derived(parts))))
            }

            /// Accepts any text of 1 to 64 safe characters after the prefix.
            ///
            /// # Errors
            /// [`InvalidId`] for another prefix, length or character.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let tail = text.strip_prefix($prefix).unwrap_or_default();
                let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if tail.is_empty() || tail.len() > 64 || !tail.chars().all(safe) {
                    return Err(InvalidId { text: text.chars().take(80).collect(), prefix: $prefix });
                }
                Ok(Self(text.to_owned()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// An owner of programs, or an affiliate: both are organizations.
    OrganizationId, "org_"
);
text_id!(
    /// One product of an owner.
    ProjectId, "proj_"
);
text_id!(
    /// A person who signed up.
    AccountId, "acc_"
);
text_id!(
    /// A webhook endpoint: provider, mode and signing secrets, bound to one project.
    EndpointId, "ep_"
);
text_id!(
    /// The public half of an API key.
    KeyId, "key_"
);
text_id!(
    /// A stored webhook event.
    InboxId, "in_"
);
text_id!(
    /// A provider's payment with all its aliases.
    SaleId, "sale_"
);
text_id!(
    /// An affiliate program.
    ProgramId, "prog_"
);
text_id!(
    /// An affiliate's membership of a program.
    EnrollmentId, "par_"
);
text_id!(
    /// A sale attributed to an enrollment.
    ConversionId, "conv_"
);
text_id!(
    /// What one enrollment earns from one sale.
    CommissionId, "com_"
);
text_id!(
    /// A decision a person took: attribute, approve, reject, claw back.
    DecisionId, "dec_"
);
text_id!(
    /// A journal entry.
    EntryId, "je_"
);
text_id!(
    /// A part of the payable balance that a payout can claim.
    LotId, "lot_"
);
text_id!(
    /// One settlement of a program: scheduled or asked for.
    RunId, "run_"
);
text_id!(
    /// What one enrollment is to be paid in one currency by one run.
    PayoutId, "po_"
);
text_id!(
    /// A charge made for a connected account.
    ChargeId, "ch_"
);
text_id!(
    /// Money that a provider is to move, at most once.
    IntentId, "int_"
);
text_id!(
    /// Work on an intent.
    JobId, "job_"
);
text_id!(
    /// A stop on the payouts of one enrollment, or of all.
    HoldId, "hold_"
);
text_id!(
    /// How people ended a doubt about an intent.
    ResolutionId, "res_"
);
text_id!(
    /// One database, from its first start on; a copy has the same.
    InstanceId, "inst_"
);
text_id!(
    /// A click or scan through an affiliate's link.
    TouchpointId, "tp_"
);
text_id!(
    /// Something an operator should look at.
    FindingId, "find_"
);
text_id!(
    /// A change that somebody made.
    AuditId, "aud_"
);
text_id!(
    /// A request that was sent with an Idempotency-Key.
    IdempotencyId, "idem_"
);
text_id!(
    /// Something that an affiliate is told of once.
    NoticeId, "ntc_"
);
text_id!(
    /// An e-mail to an affiliate.
    MailId, "mail_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_sort_by_time() {
        let earlier = SaleId::random(Timestamp::from_secs(1_700_000_000), u128::MAX);
        let later = SaleId::random(Timestamp::from_secs(1_700_000_001), 0);
        assert!(earlier < later);
        assert_eq!(earlier.as_str().len(), "sale_".len() + 26);
    }

    #[test]
    fn derived_ids_depend_on_where_parts_end() {
        assert_eq!(CommissionId::derived(&["a", "b"]), CommissionId::derived(&["a", "b"]));
        assert_ne!(CommissionId::derived(&["ab", "c"]), CommissionId::derived(&["a", "bc"]));
    }

    #[test]
    fn another_prefix_is_refused() {
        assert!(SaleId::parse("com_123").is_err());
        assert!(SaleId::parse("sale_").is_err());
        assert!(SaleId::parse("sale_a b").is_err());
        assert_eq!(ProjectId::parse("proj_default").unwrap().as_str(), "proj_default");
    }
}
