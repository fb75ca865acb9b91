//! A real mail server in a process of its own, see `server.py` beside this file.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::auditor::environment;

/// A mail server that is there as long as this value.
pub struct MailServer {
    directory: TempDir,
    port: u16,
    process: Child,
}

/// What the server does with the next mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Accept,
    PutOff,
    RefuseRecipient,
    RefuseMessage,
    RefuseSender,
    Drop,
    Slow,
}

impl MailServer {
    /// Starts a server that takes everything. `None` where there is no Python; then a line says so.
    pub fn start() -> Option<Self> {
        static PYTHON: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
        let python = PYTHON.get_or_init(|| environment("smtp", "smtp/requirements.txt")).as_deref()?;
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mode"), "accept").unwrap();
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp/server.py"))
            .arg(directory.path())
            .env_remove("PYTHONPATH")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the mail server did not start: {line}"));
        Some(Self { directory, port, process })
    }

    /// Its address, for `REMIT_MAIL__URL`.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// The same with a login.
    pub fn url_with_password(&self, password: &str) -> String {
        format!("smtp://remit:{password}@127.0.0.1:{}", self.port)
    }

    /// Changes what it does.
    pub fn set(&self, mode: Mode) {
        let word = match mode {
            Mode::Accept => "accept",
            Mode::PutOff => "451",
            Mode::RefuseRecipient => "550",
            Mode::RefuseMessage => "554",
            Mode::RefuseSender => "sender",
            Mode::Drop => "drop",
            Mode::Slow => "slow",
        };
        // Renamed into place, so that the server never reads half a word.
        let new = self.directory.path().join("mode.new");
        fs::write(&new, word).unwrap();
        fs::rename(new, self.directory.path().join("mode")).unwrap();
    }

    /// The mails that it has taken, oldest first.
    pub fn taken(&self) -> Vec<Taken> {
        let text = fs::read_to_string(self.directory.path().join("taken.ndjson")).unwrap_or_default();
        text.lines().map(|line| Taken(serde_json::from_str(line).unwrap())).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // Its own end of input would do; this does not wait for a mail that it is being slow about.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A mail as the server read it.
#[derive(Clone, Debug)]
pub struct Taken(pub Value);

impl Taken {
    /// A field.
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap()
    }

    /// The only header of this name.
    pub fn header(&self, name: &str) -> &str {
        let headers = self.0["headers"].as_array().unwrap();
        let mut found =
            headers.iter().filter(|header| header[0].as_str().unwrap().eq_ignore_ascii_case(name));
        let value = found.next().unwrap_or_else(|| panic!("no header {name}"))[1].as_str().unwrap();
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    /// Whom it went to.
    pub fn to(&self) -> &str {
        assert_eq!(self.0["envelope_to"].as_array().unwrap().len(), 1);
        self.0["envelope_to"][0].as_str().unwrap()
    }
}
