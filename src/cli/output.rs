//! The one way to standard output. A reader that goes away (`| head`) is an error of kind `BrokenPipe`,
//! which ends the command quietly; `println!` would panic.
//!
//! A table shows fields of the same values that JSON prints, so the two cannot disagree.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::Format;

/// Writes data as it is.
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes one line of text.
pub(super) fn line(text: &str) -> io::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes one object: `{"data": {…}}`, or a table with the named fields, one per line.
pub(super) fn object(format: Format, value: &Value, fields: &[&str]) -> io::Result<()> {
    match format {
        Format::Json => line(&format!("{:#}", json!({ "data": value }))),
        Format::Table => {
            let mut table = new_table();
            table.add_rows(fields.iter().map(|field| [(*field).to_owned(), cell(&value[*field])]));
            line(&table.to_string())
        }
    }
}

/// Writes a list: `{"data": […], "next_cursor": …}`, or a table with the named fields as columns.
pub(super) fn list(
    format: Format,
    rows: &[Value],
    next_cursor: Option<&str>,
    fields: &[&str],
) -> io::Result<()> {
    match format {
        Format::Json => line(&format!("{:#}", json!({ "data": rows, "next_cursor": next_cursor }))),
        Format::Table => {
            table(fields, rows.iter().map(|row| fields.iter().map(|field| cell(&row[*field])).collect()))?;
            if let Some(cursor) = next_cursor {
                eprintln!("there are more: --cursor {cursor}");
            }
            Ok(())
        }
    }
}

/// Where the next page of a list starts: after the last row of a page that is full.
pub(super) fn next_cursor<T>(rows: &[T], limit: i64, id: impl Fn(&T) -> &str) -> Option<&str> {
    let is_full = i64::try_from(rows.len()).is_ok_and(|length| length == limit);
    rows.last().filter(|_| is_full).map(id)
}

/// Writes a table.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> io::Result<()> {
    let mut table = new_table();
    table.set_header(header);
    table.add_rows(rows.into_iter().map(|cells| cells.iter().map(|cell| plain(cell)).collect::<Vec<_>>()));
    line(&table.to_string())
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Text of strangers on a terminal: whatever could move the cursor or change colours is shown as `?`.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\rc\nd"), "a?[31mb?c\nd");
    }

    #[test]
    fn only_a_full_page_has_a_next_one() {
        let rows = ["a".to_owned(), "b".to_owned()];
        assert_eq!(next_cursor(&rows, 2, String::as_str), Some("b"));
        assert_eq!(next_cursor(&rows, 3, String::as_str), None);
        assert_eq!(next_cursor(&rows[..0], 1, String::as_str), None);
    }
}
