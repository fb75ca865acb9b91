//! Seals what must not be readable in the database: endpoint secrets (`rulings.md` 22), and the tokens of
//! invitations until they are sent.
//!
//! `ChaCha20-Poly1305` (RFC 8439) under the configured master key. A sealed value is bound to the place
//! it is stored at, so a value that was moved to another row or column does not open. Rotating the master
//! key is not done here.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret as _, SecretSlice};

use crate::config::MasterKey;

/// The first byte of a sealed value names how the rest is to be read.
const VERSION: u8 = 1;

/// Where a sealed value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Table.
    pub table: &'static str,
    /// Id of the row.
    pub row: &'a str,
    /// Column.
    pub column: &'static str,
}

impl Place<'_> {
    /// The associated data. A length before each part keeps ("ab", "c") and ("a", "bc") apart.
    fn associated_data(self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for part in [self.table, self.row, self.column] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

/// A sealed value does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no master key.
    #[error(
        "{table}.{column} of {row} is sealed and there is no master key: set REMIT_SECRETS__MASTER_KEY (or _FILE)"
    )]
    NoKey {
        /// Table of the value.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// Row of the value.
        row: String,
    },
    /// It was sealed in a way this program does not know.
    #[error("{table}.{column} of {row} was sealed by a newer remit")]
    UnknownVersion {
        /// Table of the value.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// Row of the value.
        row: String,
    },
    /// It was sealed with another key or for another place, or it was changed.
    #[error(
        "{table}.{column} of {row} does not open: REMIT_SECRETS__MASTER_KEY is not the key it was sealed \
         with, or the value was changed or moved"
    )]
    Broken {
        /// Table of the value.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// Row of the value.
        row: String,
    },
}

/// Seals `plain` for `place`: version byte, nonce, ciphertext and tag.
///
/// # Panics
/// For values of more than 256 GiB.
pub fn seal(key: &MasterKey, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
    // Random nonces repeat with a chance of 1 in 2^32 after some 2^32 values. There is one value per
    // endpoint and per invitation.
    let mut nonce = [0_u8; NONCE_LEN];
    super::fill_random(&mut nonce);
    let mut sealed = plain.to_vec();
    let associated_data = Aad::from(place.associated_data());
    cipher(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated_data, &mut sealed)
        .expect("the cipher refuses only values of more than 256 GiB");
    [&[VERSION], nonce.as_slice(), &sealed].concat()
}

/// Opens what [`seal`] made with the same key for the same place.
pub fn open(key: Option<&MasterKey>, place: Place<'_>, sealed: &[u8]) -> Result<SecretSlice<u8>, SealError> {
    let Place { table, column, .. } = place;
    let row = || place.row.to_owned();
    let Some(key) = key else { return Err(SealError::NoKey { table, column, row: row() }) };
    let broken = || SealError::Broken { table, column, row: row() };
    let (version, rest) = sealed.split_first().ok_or_else(broken)?;
    if *version != VERSION {
        return Err(SealError::UnknownVersion { table, column, row: row() });
    }
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
    let mut plain = ciphertext.to_vec();
    let length = cipher(key)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place.associated_data()), &mut plain)
        .map_err(|_| broken())?
        .len();
    plain.truncate(length);
    Ok(SecretSlice::from(plain))
}

fn cipher(key: &MasterKey) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.expose_secret())
        .expect("a master key is 32 bytes, as the cipher wants it");
    LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use secrecy::SecretBox;

    use super::*;

    const PLACE: Place<'_> = Place { table: "endpoint", row: "ep_1", column: "secrets_sealed" };

    fn key(byte: u8) -> MasterKey {
        SecretBox::new(Box::new([byte; 32]))
    }

    fn broken() -> SealError {
        SealError::Broken { table: "endpoint", column: "secrets_sealed", row: "ep_1".to_owned() }
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_at_the_same_place() {
        let sealed = seal(&key(1), PLACE, b"whsec_one");
        assert_eq!(open(Some(&key(1)), PLACE, &sealed).unwrap().expose_secret(), b"whsec_one");
        assert!(!sealed.windows(9).any(|window| window == b"whsec_one"));
    }

    #[test]
    fn the_same_value_is_never_sealed_to_the_same_bytes() {
        assert_ne!(seal(&key(1), PLACE, b"x"), seal(&key(1), PLACE, b"x"));
    }

    #[test]
    fn another_key_row_column_or_table_does_not_open() {
        let sealed = seal(&key(1), PLACE, b"whsec_one");
        assert_eq!(open(Some(&key(2)), PLACE, &sealed).unwrap_err(), broken());
        for place in [
            Place { row: "ep_2", ..PLACE },
            Place { column: "secrets", ..PLACE },
            Place { table: "project", ..PLACE },
            // The same text, cut elsewhere.
            Place { row: "ep_1s", column: "ecrets_sealed", ..PLACE },
        ] {
            assert!(open(Some(&key(1)), place, &sealed).is_err(), "{place:?}");
        }
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let sealed = seal(&key(1), PLACE, b"whsec_one");
        for index in 1..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(open(Some(&key(1)), PLACE, &changed).unwrap_err(), broken(), "byte {index}");
        }
        for length in [0, 1, 12, 13, 20, sealed.len() - 1] {
            assert_eq!(open(Some(&key(1)), PLACE, &sealed[..length]).unwrap_err(), broken(), "{length}");
        }
    }

    #[test]
    fn a_missing_key_and_an_unknown_version_say_what_they_are() {
        let mut sealed = seal(&key(1), PLACE, b"x");
        assert!(open(None, PLACE, &sealed).unwrap_err().to_string().contains("REMIT_SECRETS__MASTER_KEY"));
        sealed[0] = 2;
        assert!(matches!(open(Some(&key(1)), PLACE, &sealed), Err(SealError::UnknownVersion { .. })));
    }
}
