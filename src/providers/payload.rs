//! How a provider's JSON is read: what is checked before anything is stored, and field types whose
//! errors name a path and never a value.
//!
//! What money depends on is read strictly. What only describes (metadata, e-mail addresses, free words)
//! is read with [`Lenient`] and can never make an event unreadable.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

use crate::domain::time::Timestamp;

/// Deepest nesting of objects and arrays that is accepted (`rulings.md` 20).
const DEPTH_MAX: usize = 128;

/// Longest id or type, bytes.
const ID_BYTES_MAX: usize = 255;

/// Longest descriptive text that is kept, characters.
const TEXT_CHARS_MAX: usize = 255;

/// 9999-12-31T23:59:59Z: the last second that RFC 3339 can write.
const SECONDS_MAX: i64 = 253_402_300_799;

/// The receiver cannot accept this body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBody {
    /// Bytes that are not UTF-8.
    #[error("body is not UTF-8")]
    NotUtf8,
    /// More than 128 levels of nesting.
    #[error("body is nested too deeply")]
    TooDeep,
    /// Not one JSON object: broken, empty, with a byte order mark or with something behind it.
    #[error("body is not one JSON object")]
    NotJson,
    /// A field of the head is missing, repeated or unreadable.
    #[error("field `{0}` is missing, repeated or not of the expected form")]
    Field(String),
}

/// A field that money depends on is missing, repeated or unreadable. Holds the path, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event field `{path}` is missing, repeated or not of the expected form")]
pub struct MalformedEvent {
    path: String,
}

impl MalformedEvent {
    /// Names the field.
    pub(super) fn at(path: impl Into<String>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the field, such as `data.object.amount`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Reads the head fields of a whole body.
pub(super) fn read_head<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, InvalidBody> {
    // serde_json limits neither the depth nor the encoding of fields that it skips.
    let text = std::str::from_utf8(body).map_err(|_| InvalidBody::NotUtf8)?;
    if !is_depth_within_limit(body) {
        return Err(InvalidBody::TooDeep);
    }
    // A struct can also be read from an array, field by field; an event is never that.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(InvalidBody::NotJson);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let head = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        if error.inner().is_data() { InvalidBody::Field(path_of(&error)) } else { InvalidBody::NotJson }
    })?;
    json.end().map_err(|_| InvalidBody::NotJson)?;
    Ok(head)
}

/// Reads `text` as a `T`. `within` is the path of `text` in the event, empty for the whole event.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str, within: &str) -> Result<T, MalformedEvent> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let inner = path_of(&error);
        match (within, inner.as_str()) {
            ("", _) => MalformedEvent::at(inner),
            (_, ".") => MalformedEvent::at(within),
            _ => MalformedEvent::at(format!("{within}.{inner}")),
        }
    })?;
    json.end().map_err(|_| MalformedEvent::at(if within.is_empty() { "." } else { within }))?;
    Ok(value)
}

/// The text of a whole event.
pub(super) fn text_of(body: &[u8]) -> Result<&str, MalformedEvent> {
    std::str::from_utf8(body).map_err(|_| MalformedEvent::at("."))
}

/// The path of a field, made of names in our own structs and of positions in lists.
fn path_of(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    // Broken JSON breaks anywhere, also at a name that the sender chose and that is not ours to repeat.
    if !error.inner().is_data() {
        return ".".to_owned();
    }
    let path = error.path().to_string();
    // serde names a missing or repeated field in the message only; the name is one of ours.
    let message = error.inner().to_string();
    let named = ["missing field `", "duplicate field `"]
        .into_iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    match named {
        None => path,
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path,
        Some(name) if path == "." => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
    }
}

/// Whether objects and arrays nest at most [`DEPTH_MAX`] deep. Brackets within strings do not count.
fn is_depth_within_limit(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth = depth.saturating_add(1);
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// An id or type: 1 to 255 visible ASCII characters, so that it is safe in a path, a key and a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        if (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into_owned()))
        } else {
            Err(D::Error::custom("not an id"))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's id, or the object itself where the sender expanded it.
#[derive(Clone, Debug)]
pub(super) struct Reference(pub String);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Id(Id),
            Expanded { id: Id },
        }
        match Either::deserialize(deserializer)? {
            Either::Id(id) | Either::Expanded { id } => Ok(Self(id.0)),
        }
    }
}

/// An amount told as a JSON integer: minor units, 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Minor(pub i64);

impl<'de> Deserialize<'de> for Minor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // i64 refuses fractions, exponents, strings and what is larger than 64 bits.
        match i64::deserialize(deserializer)? {
            amount @ 0.. => Ok(Self(amount)),
            _ => Err(D::Error::custom("negative")),
        }
    }
}

/// An amount told as a string of digits: minor units, 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MinorText(pub i64);

impl<'de> Deserialize<'de> for MinorText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        // Digits only: `i64::from_str` would also take a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let amount = digits.then(|| text.parse().ok()).flatten();
        amount.map(Self).ok_or_else(|| D::Error::custom("not a whole amount"))
    }
}

/// An instant told as whole seconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds(pub Timestamp);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            seconds @ 0..=SECONDS_MAX => Ok(Self(Timestamp::from_secs(seconds))),
            _ => Err(D::Error::custom("not a time")),
        }
    }
}

/// What only describes: unreadable is the same as absent.
#[derive(Clone, Debug)]
pub(super) struct Lenient<T>(pub Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).ok()))
    }
}

impl Lenient<String> {
    /// The text, trimmed, if it is 1 to 255 characters and none of them is a control character
    /// (not every database stores NUL, and a line break would forge a log line).
    pub(super) fn text(&self) -> Option<String> {
        clean_text(self.0.as_deref()?, TEXT_CHARS_MAX)
    }

    /// The instant, if the text is one after 1970 (Paddle writes the year 1 for "never").
    pub(super) fn instant(&self) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.0.as_deref()?).ok().filter(|&at| at > Timestamp::EPOCH)
    }
}

/// `text` trimmed, if it is then 1 to `chars_max` characters without a control character.
pub(super) fn clean_text(text: &str, chars_max: usize) -> Option<String> {
    let text = text.trim();
    let fits = (1..=chars_max).contains(&text.chars().count());
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}
