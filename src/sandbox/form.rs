//! Form bodies and query strings: `a=1&b[c]=2&d[]=3`.
//!
//! Names are kept as they were sent; what they mean is decided by `params.rs`.

use serde_json::{Map, Value, json};

use super::error::ApiError;

/// Decoded parameters in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Decodes `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// An escape sequence is broken, or the text is not UTF-8.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ApiError> {
        let pieces = text.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty());
        let pairs = pieces.map(|piece| {
            let mut halves = piece.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            Some((name, value))
        });
        pairs.collect::<Option<Vec<_>>>().map(Self).ok_or_else(|| {
            ApiError::invalid(400, None, "Invalid request body: it is not form-encoded text in UTF-8.")
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The last value of that name, unless it is empty: an empty value unsets a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.last(name).filter(|value| !value.is_empty())
    }

    /// As [`Self::get`], empty values included.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.iter().filter(|(other, _)| *other == name).last().map(|(_, value)| value)
    }

    /// A whole number; what is not one was refused before (`params.rs`).
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The values of `name[]`, `name[0]`, …
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|(other, _)| key_in(other, name).is_some()).map(|(_, value)| value).collect()
    }

    /// The keys and values of `name[key]`.
    pub(super) fn map(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(move |(other, value)| Some((key_in(other, name)?, value)))
    }

    /// The parameters as one flat JSON object, for the journal.
    pub(super) fn to_json(&self) -> Value {
        json!(self.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>())
    }

    /// A text that is equal for equal parameters, whatever their order.
    pub(super) fn canonical(&self) -> String {
        let mut pairs = self.0.clone();
        pairs.sort();
        json!(pairs).to_string()
    }
}

/// `key` of `name[key]`.
fn key_in<'a>(sent: &'a str, name: &str) -> Option<&'a str> {
    sent.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')
}

fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [*rest.next()?, *rest.next()?];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).ok()?;
                decoded[0]
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_and_escapes_are_decoded() {
        let form =
            Form::parse(b"a=1&metadata[k%20x]=gr%C3%BC%C3%9Fe+x&expand%5B0%5D=y&expand[]=z&a=2").unwrap();
        assert_eq!(form.get("a"), Some("2"));
        assert_eq!(form.map("metadata").collect::<Vec<_>>(), [("k x", "grüße x")]);
        assert_eq!(form.list("expand"), ["y", "z"]);
    }

    #[test]
    fn broken_escapes_and_other_encodings_are_refused() {
        for text in [b"a=%2".as_slice(), b"a=%zz", b"a=%ff"] {
            assert_eq!(Form::parse(text).unwrap_err().status, 400);
        }
    }

    #[test]
    fn the_order_of_parameters_does_not_count() {
        let [a, b, c] =
            [b"x=1&y=2".as_slice(), b"y=2&x=1", b"x=1&y=3"].map(|text| Form::parse(text).unwrap());
        assert_eq!(a.canonical(), b.canonical());
        assert_ne!(a.canonical(), c.canonical());
    }
}
