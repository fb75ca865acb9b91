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
    tls: Option<Tls>,
    process: Child,
}

/// How the server protects its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From the first byte.
    Implicit,
    /// When asked to, and takes nothing before that.
    Start,
}

/// What the server does with the next mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Accept,
    /// Answers the sender's address with this code.
    Sender(u16),
    /// Answers every recipient with this code.
    Recipient(u16),
    /// Answers this recipient with this code.
    OneRecipient(u16, &'static str),
    /// Answers the message with this code.
    Message(u16),
    /// Refuses this recipient, and closes the connection when asked to forget the mail.
    CloseAtReset(&'static str),
    Drop,
    Slow,
}

impl MailServer {
    /// Starts a server that takes everything. `None` where there is no Python; then a line says so.
    pub fn start() -> Option<Self> {
        Self::start_with(None, None)
    }

    /// The same with TLS under a certificate of its own ([`Self::certificate`]), and taking mail only from
    /// whoever logs in by this mechanism.
    pub fn start_with(tls: Option<Tls>, login: Option<&str>) -> Option<Self> {
        static PYTHON: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
        let python = PYTHON.get_or_init(|| environment("smtp", "smtp/requirements.txt")).as_deref()?;
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mode"), "accept").unwrap();
        if tls.is_some() {
            make_certificate(directory.path());
        }
        let tls_word = tls.map(|tls| if tls == Tls::Implicit { "implicit" } else { "starttls" });
        let options = [("--tls", tls_word), ("--login", login)];
        let options = options.iter().filter_map(|(option, value)| Some([*option, (*value)?]));
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp/server.py"))
            .arg(directory.path())
            .args(options.flatten())
            .env_remove("PYTHONPATH")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the mail server did not start: {line}"));
        Some(Self { directory, port, tls, process })
    }

    /// Its address, for `REMIT_MAIL__URL`.
    pub fn url(&self) -> String {
        self.url_with("")
    }

    fn url_with(&self, login: &str) -> String {
        let scheme = if self.tls == Some(Tls::Implicit) { "smtps" } else { "smtp" };
        format!("{scheme}://{login}127.0.0.1:{}", self.port)
    }

    /// The file with its certificate, which only whoever is told of it trusts.
    pub fn certificate(&self) -> String {
        self.directory.path().join("certificate.pem").display().to_string()
    }

    /// The mechanisms of the logins that were tried.
    pub fn logins(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("logins")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The same with a login.
    pub fn url_with_password(&self, password: &str) -> String {
        self.url_with(&format!("remit:{password}@"))
    }

    /// Changes what it does.
    pub fn set(&self, mode: Mode) {
        let word = match mode {
            Mode::Accept => "accept".to_owned(),
            Mode::Sender(code) => format!("mail {code}"),
            Mode::Recipient(code) => format!("rcpt {code}"),
            Mode::OneRecipient(code, address) => format!("rcpt {code} {address}"),
            Mode::Message(code) => format!("data {code}"),
            Mode::CloseAtReset(address) => format!("reset {address}"),
            Mode::Drop => "drop".to_owned(),
            Mode::Slow => "slow".to_owned(),
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

/// A certificate for this machine's own address that nobody else has signed.
fn make_certificate(directory: &Path) {
    const REQUEST: &str = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n\
        [name]\nCN = mail.test\n\
        [extensions]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";
    fs::write(directory.join("request.cnf"), REQUEST).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", "request.cnf"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(directory)
        .output()
        .expect("the tests of TLS need `openssl` to make certificates with");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
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
