//! Pages of lists: `?limit=20&cursor=…` in, `{"data": […], "next_cursor": …}` out.
//!
//! A cursor is the key of the last row that was shown, made opaque so that nobody builds on its form.
//! Rows that come or go between two pages shift nothing.

use axum::{extract::FromRequestParts, http::StatusCode, http::request::Parts};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;

/// Longer text is not a cursor of ours.
const CURSOR_LENGTH_MAX: usize = 512;

/// Which page of a list is wanted. `K` is what the rows are ordered by: an id, or a tuple that ends in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<K> {
    limit: i64,
    after: Option<K>,
}

impl<K> Page<K> {
    /// Rows to fetch: one more than are shown, which tells whether there is a next page.
    pub const fn fetch(&self) -> i64 {
        self.limit.saturating_add(1)
    }

    /// The key of the last row of the page before; none for the first page.
    pub const fn after(&self) -> Option<&K> {
        self.after.as_ref()
    }
}

impl<K: Serialize> Page<K> {
    /// The page as it is answered. `rows` are at most [`Self::fetch`], in order; `key` is what a row is
    /// ordered by, `view` how it is shown.
    pub fn listing<R, T>(&self, rows: Vec<R>, key: impl Fn(&R) -> K, view: impl Fn(R) -> T) -> Listing<T> {
        let shown = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > shown;
        let last = rows.get(shown.saturating_sub(1)).filter(|_| has_more);
        let next_cursor = last.map(|row| encode(&key(row)));
        Listing { data: rows.into_iter().take(shown).map(view).collect(), next_cursor }
    }
}

/// How [`Page`] is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows of a page.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The rows.
    pub data: Vec<T>,
    /// What `cursor` gives the next page; null on the last one.
    pub next_cursor: Option<String>,
}

fn encode(key: &impl Serialize) -> String {
    let json = serde_json::to_vec(key).expect("keys of plain text and numbers serialise");
    URL_SAFE_NO_PAD.encode(json)
}

fn decode<K: DeserializeOwned>(cursor: &str) -> Option<K> {
    if cursor.len() > CURSOR_LENGTH_MAX {
        return None;
    }
    let key: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    serde_json::from_value(Some(key).filter(is_plain)?).ok()
}

/// Whether no text of a key holds a control character: none of ours does, and PostgreSQL takes no NUL.
fn is_plain(key: &Value) -> bool {
    match key {
        Value::String(text) => !text.chars().any(char::is_control),
        Value::Array(parts) => parts.iter().all(is_plain),
        Value::Object(_) => false,
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

impl<S: Sync, K: DeserializeOwned> FromRequestParts<S> for Page<K> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| refuse("INVALID_QUERY", "query", "the query string cannot be read"))?;
        Self::read(&query.0)
    }
}

impl<K: DeserializeOwned> Page<K> {
    /// Reads `limit` and `cursor`. Other parameters are for others.
    fn read(query: &[(String, String)]) -> Result<Self, ApiError> {
        let find = |name| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let limit = match find("limit") {
            None => LIMIT_DEFAULT,
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
                    refuse("INVALID_LIMIT", "limit", "limit must be a whole number from 1 to 100")
                })?
            }
        };
        let invalid_cursor =
            || refuse("INVALID_CURSOR", "cursor", "cursor must be a next_cursor that this list has given");
        let after = find("cursor").map(|text| decode(text).ok_or_else(invalid_cursor)).transpose()?;
        Ok(Self { limit, after })
    }
}

fn refuse(code: &'static str, param: &'static str, message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ProgramId, ProjectId};

    fn read<K: DeserializeOwned>(query: &[(&str, &str)]) -> Result<Page<K>, &'static str> {
        let query: Vec<_> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Page::read(&query).map_err(|error| error.code())
    }

    #[test]
    fn pages_joined_are_the_list() {
        let rows: Vec<u32> = (0..7).collect();
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let query: Vec<(&str, &str)> =
                [("limit", "3")].into_iter().chain(cursor.as_deref().map(|text| ("cursor", text))).collect();
            let page: Page<u32> = read(&query).unwrap();
            let after = page.after().copied();
            let fetch = usize::try_from(page.fetch()).unwrap();
            let fetched: Vec<u32> = rows
                .iter()
                .copied()
                .filter(|row| after.is_none_or(|after| *row > after))
                .take(fetch)
                .collect();
            let listing = page.listing(fetched, |row| *row, |row| row);
            seen.push(listing.data);
            match listing.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    }

    #[test]
    fn a_page_that_is_exactly_full_is_the_last_one() {
        let page: Page<u32> = read(&[("limit", "2")]).unwrap();
        assert_eq!(page.listing(vec![1, 2], |row| *row, |row| row).next_cursor, None);
        assert_eq!(page.listing(Vec::new(), |row| *row, |row: u32| row).data, [0_u32; 0]);
    }

    #[test]
    fn bad_limits_and_cursors_have_their_codes() {
        for limit in ["0", "101", "-1", "ten", "", "1.5", "99999999999999999999"] {
            assert_eq!(read::<ProgramId>(&[("limit", limit)]), Err("INVALID_LIMIT"), "{limit}");
        }
        let of_another_list = encode(&ProjectId::parse("proj_1").unwrap());
        let long = "a".repeat(CURSOR_LENGTH_MAX + 1);
        for text in ["\0", "a\0b", "\u{1b}[31m", "\n"] {
            assert_eq!(read::<String>(&[("cursor", &encode(&text))]), Err("INVALID_CURSOR"), "{text:?}");
            let pair = encode(&(1, text));
            assert_eq!(read::<(i64, String)>(&[("cursor", &pair)]), Err("INVALID_CURSOR"), "{text:?}");
        }
        for cursor in ["", "prog_1", "!!", of_another_list.as_str(), long.as_str()] {
            assert_eq!(read::<ProgramId>(&[("cursor", cursor)]), Err("INVALID_CURSOR"), "{cursor}");
        }
        let program = ProgramId::parse("prog_1").unwrap();
        let cursor = encode(&program);
        let page = read::<ProgramId>(&[("limit", "100"), ("cursor", &cursor)]).unwrap();
        assert_eq!(page.after(), Some(&program));
        assert_eq!(page.fetch(), 101);
        assert_eq!(read::<ProgramId>(&[]).unwrap().fetch(), 21);
    }
}
