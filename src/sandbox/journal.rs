//! The journal: what was asked, what was done and what was answered, one JSON object per line. The
//! format is in the documentation of [`super`].
//!
//! Lines are collected while the state changes and reach the disk before anybody can see the change.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use serde_json::{Value, json};

/// An append-only file and a copy in memory, which is what is shown.
#[derive(Debug, Default)]
pub(super) struct Journal {
    file: Option<File>,
    lines: Vec<Value>,
    /// How many of `lines` the file has.
    written: usize,
    /// A write failed: nothing may happen any more, because it could not be proved.
    failed: bool,
}

impl Journal {
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Self { file, ..Self::default() })
    }

    /// Adds a line. `fields` must be an object.
    pub(super) fn add(&mut self, at_us: i64, kind: &str, mut fields: Value) {
        fields["seq"] = json!(self.lines.len() + 1);
        fields["at_us"] = json!(at_us);
        fields["kind"] = json!(kind);
        self.lines.push(fields);
    }

    /// Writes what was added. With `durable` it is on the disk afterwards.
    pub(super) fn commit(&mut self, durable: bool) -> io::Result<()> {
        let result = self.write(durable);
        self.failed |= result.is_err();
        result
    }

    fn write(&mut self, durable: bool) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write of the journal failed"));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let text = text_of(&self.lines[self.written..]);
        file.write_all(text.as_bytes())?;
        self.written = self.lines.len();
        if durable { file.sync_data() } else { Ok(()) }
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn lines(&self) -> &[Value] {
        &self.lines
    }
}

/// The lines as they are in the file.
pub(super) fn text_of(lines: &[Value]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}
