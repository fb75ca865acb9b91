//! Answers that are files: CSV (RFC 4180) or one JSON object per line, written while they are read.
//!
//! A file that breaks off must not look whole, so its body ends well only when the last page was written; a
//! page that cannot be read, or a task that panics, breaks the connection instead. The first page is read
//! before the answer begins, so what is refused has a status of its own.
//!
//! The columns of CSV are the fields of a row as JSON shows them. A spreadsheet takes text that begins with
//! `=`, `+`, `-`, `@`, a tab or a carriage return for a formula: such text gets an apostrophe in front (OWASP,
//! "CSV Injection"). Numbers are never text and stay as they are.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use hyper::body::{Body as HttpBody, Frame};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::{
    error::ApiError,
    params::{Params, refuse},
};
use crate::app::{Refusal, exports::Pages};

/// Pages that wait for a slow reader.
const PAGES_WAITING: usize = 1;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated, with a header.
    Csv,
    /// A JSON object per line.
    Ndjson,
}

impl Format {
    /// The `format` of a request, CSV by default.
    ///
    /// # Errors
    /// 400 `INVALID_FORMAT`.
    pub fn read(params: &Params) -> Result<Self, ApiError> {
        match params.get("format") {
            None | Some("csv") => Ok(Self::Csv),
            Some("ndjson") => Ok(Self::Ndjson),
            Some(_) => Err(refuse("INVALID_FORMAT", "format", "format must be csv or ndjson")),
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

/// The answer that is a file named `name` of these rows, each as `view` shows it. `V::default()` names the
/// columns also of a file without rows.
///
/// # Errors
/// What reading the first page is refused with.
pub async fn file<P: Pages, V: Serialize + Default + 'static>(
    name: &str,
    format: Format,
    mut pages: P,
    view: fn(P::Row) -> V,
) -> Result<Response, ApiError> {
    let first = pages.next().await?;
    let (sender, body) = Pipe::new();
    // A task of its own: whoever reads may go away at any time, and a query is then still read to its end.
    let writing = async move {
        if let Err(error) = write(&sender, format, pages, first, view).await {
            tracing::warn!(%error, "a file was broken off");
        }
    };
    tokio::spawn(writing.in_current_span());
    let disposition = format!("attachment; filename=\"{name}.{}\"", format.extension());
    let disposition = HeaderValue::from_str(&disposition).map_err(|_| ApiError::internal())?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// Why a file was not written to its end.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("its rows could not be read: {0}")]
    Read(#[from] Refusal),
    #[error("its rows could not be written: {0}")]
    Write(#[from] io::Error),
    #[error("nobody reads it any more")]
    Gone,
}

async fn write<P: Pages, V: Serialize + Default>(
    sender: &mpsc::Sender<Piece>,
    format: Format,
    mut pages: P,
    first: Option<Vec<P::Row>>,
    view: fn(P::Row) -> V,
) -> Result<(), BrokenOff> {
    let send = async |piece| sender.send(piece).await.map_err(|_| BrokenOff::Gone);
    if format == Format::Csv {
        let names = csv_line(&V::default(), |(name, _)| name)?;
        send(Piece::Bytes(names)).await?;
    }
    let mut page = first;
    while let Some(rows) = page {
        let mut bytes = Vec::new();
        for row in rows {
            match format {
                Format::Csv => bytes.extend(csv_line(&view(row), |(_, value)| cell(value))?),
                Format::Ndjson => {
                    serde_json::to_writer(&mut bytes, &view(row)).map_err(io::Error::from)?;
                    bytes.push(b'\n');
                }
            }
        }
        if !bytes.is_empty() {
            send(Piece::Bytes(bytes)).await?;
        }
        page = pages.next().await?;
    }
    send(Piece::End).await
}

/// A line of CSV, of what `of` takes of each field of a row.
fn csv_line(row: &impl Serialize, of: impl Fn((String, Value)) -> String) -> io::Result<Vec<u8>> {
    let fields: Fields = serde_json::from_slice(&serde_json::to_vec(row)?)?;
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(fields.0.into_iter().map(of)).map_err(io::Error::from)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// A value as a cell shows it: nothing for null, and JSON for what has parts.
fn cell(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
        Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        Value::String(text) => text,
    }
}

/// The fields of an object in the order in which they are written.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// What comes through a [`Pipe`].
enum Piece {
    /// More of the file.
    Bytes(Vec<u8>),
    /// The file is whole.
    End,
}

/// A body that is written elsewhere. It ends well only after [`Piece::End`]: a writer that goes away without
/// one has failed.
struct Pipe {
    pieces: mpsc::Receiver<Piece>,
    is_whole: bool,
}

/// The file was broken off.
#[derive(Debug, thiserror::Error)]
#[error("the file was broken off")]
struct Torn;

impl Pipe {
    fn new() -> (mpsc::Sender<Piece>, Self) {
        let (sender, pieces) = mpsc::channel(PAGES_WAITING);
        (sender, Self { pieces, is_whole: false })
    }
}

impl HttpBody for Pipe {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        if self.is_whole {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes.into()))),
            Some(Piece::End) => {
                self.is_whole = true;
                None
            }
            None => Some(Err(Torn)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt as _;

    use super::*;

    /// Pages that were prepared; a missing one cannot be read.
    struct Prepared(VecDeque<Option<Vec<Row>>>);

    impl Pages for Prepared {
        type Row = Row;

        async fn next(&mut self) -> Result<Option<Vec<Row>>, Refusal> {
            match self.0.pop_front() {
                None => Ok(None),
                Some(Some(rows)) => Ok(Some(rows)),
                Some(None) => Err(Refusal::NotFound),
            }
        }
    }

    #[derive(Clone, Default, Serialize)]
    struct Row {
        name: String,
        amount_cents: i64,
        note: Option<String>,
    }

    fn row(name: &str, amount_cents: i64, note: Option<&str>) -> Row {
        Row { name: name.to_owned(), amount_cents, note: note.map(str::to_owned) }
    }

    async fn read(format: Format, pages: Vec<Option<Vec<Row>>>) -> Result<String, String> {
        let answer = file("rows", format, Prepared(pages.into()), |row| row).await;
        let answer = answer.map_err(|error| error.code().to_owned())?;
        let collected = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(collected.to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn cells_that_a_spreadsheet_would_run_are_disarmed_and_numbers_stay_numbers() {
        let texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "a=1", "", "say \"hi\", twice\r\n"];
        let rows = texts.iter().map(|text| row(text, -5, Some("é"))).collect();
        let text = read(Format::Csv, vec![Some(rows)]).await.unwrap();
        assert_eq!(
            text,
            "name,amount_cents,note\r\n'=1+1,-5,é\r\n'+1,-5,é\r\n'-1,-5,é\r\n'@SUM(A1),-5,é\r\n'\tx,-5,é\r\n\
             \"'\rx\",-5,é\r\na=1,-5,é\r\n,-5,é\r\n\"say \"\"hi\"\", twice\r\n\",-5,é\r\n"
        );
    }

    #[tokio::test]
    async fn pages_follow_each_other_and_an_empty_file_has_its_header() {
        let pages = || vec![Some(vec![row("a", 1, None)]), Some(Vec::new()), Some(vec![row("b", 2, None)])];
        assert_eq!(read(Format::Csv, pages()).await.unwrap(), "name,amount_cents,note\r\na,1,\r\nb,2,\r\n");
        let lines = "{\"name\":\"a\",\"amount_cents\":1,\"note\":null}\n{\"name\":\"b\",\"amount_cents\":2,\"note\":null}\n";
        assert_eq!(read(Format::Ndjson, pages()).await.unwrap(), lines);
        assert_eq!(read(Format::Csv, vec![]).await.unwrap(), "name,amount_cents,note\r\n");
        assert_eq!(read(Format::Ndjson, vec![]).await.unwrap(), "");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused_at_first_and_breaks_the_file_off_later() {
        assert_eq!(read(Format::Csv, vec![None]).await, Err("NOT_FOUND".to_owned()));
        let broken = vec![Some(vec![row("a", 1, None)]), None];
        assert_eq!(read(Format::Ndjson, broken).await, Err(Torn.to_string()));
    }

    #[tokio::test]
    async fn a_writer_that_dies_breaks_the_file_off() {
        let (sender, body) = Pipe::new();
        sender.send(Piece::Bytes(b"half".to_vec())).await.unwrap();
        drop(sender);
        assert!(body.collect().await.is_err());
    }
}
