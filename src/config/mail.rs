//! `[mail]`: the server that takes our mail, and in whose name it is sent. Nothing is connected here.

use std::{path::PathBuf, time::Duration};

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};

use super::{layers::Layers, values::is_loopback};

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (`smtps://`, RFC 8314).
    Implicit,
    /// The server must offer STARTTLS (`smtp://`, RFC 3207); without it nothing is sent.
    StartTls,
    /// Not at all: a server on this machine, or `?tls=none`.
    None,
}

/// `[mail]`.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Name or address of the server.
    pub host: String,
    /// Its port: 465 by default for `smtps://`, 587 for `smtp://`, 25 on this machine.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// User and password, where the URL has them.
    pub login: Option<(String, SecretString)>,
    /// The sender, with or without a name.
    pub from: Mailbox,
    /// PEM file with certificates that the server's may be signed by, beside those that this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Where an invitation is accepted; none: at the API, as the mail then explains.
    pub invite_url: Option<InviteUrl>,
    /// Longest wait for connecting and for each mail.
    pub timeout: Duration,
}

/// The address of a page of the operator's that takes an invitation's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteUrl(String);

impl InviteUrl {
    /// Reads an address with `{token}` in its path, query or fragment. Whoever has a token can use it, so the
    /// address is https, or on this machine.
    fn parse(text: &str) -> Option<Self> {
        let [one, other] = ["inv_a", "inv_b"].map(|token| {
            let url = reqwest::Url::parse(&text.replace(TOKEN, token)).ok()?;
            let is_safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
            let is_plain = url.username().is_empty() && url.password().is_none();
            (is_safe && is_plain && url.has_host()).then_some(url)
        });
        let (one, other) = one.zip(other)?;
        let holds_token = one != other && one.origin() == other.origin();
        let is_one_word = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        (holds_token && is_one_word).then(|| Self(text.to_owned()))
    }

    /// The address of one invitation. Whoever has it can accept it.
    #[must_use]
    pub fn with(&self, token: &SecretString) -> SecretString {
        SecretString::from(self.0.replace(TOKEN, token.expose_secret()))
    }
}

const URL: &str = "mail.url";
const FROM: &str = "mail.from";
const CA_FILE: &str = "mail.ca_file";
const INVITE_URL: &str = "mail.invite_url";
const MASTER_KEY: &str = "secrets.master_key";

/// Stands for the token in the address of an invitation.
const TOKEN: &str = "{token}";

impl Layers<'_> {
    /// The whole section; none where no server is set.
    pub(super) fn mail(&mut self) -> Option<Mail> {
        let timeout = self.seconds("mail.timeout_s", 300);
        let text = self.text(URL)?.trim_end_matches(['\n', '\r']).to_owned();
        // All are looked at, so that all problems are told together.
        let server = self.mail_server(&text);
        let from = self.mail_from();
        let ca_file = self.path(CA_FILE);
        let invite_url = self.invite_url();
        if self.text(MASTER_KEY).is_none() {
            let what =
                format!("is not set, and `{URL}` is: it seals the tokens of invitations until they are sent");
            self.reject(
                MASTER_KEY,
                what,
                "make one with `openssl rand -hex 32` and keep a copy in a safe place",
            );
        }
        let (host, port, security, login) = server?;
        Some(Mail { host, port, security, login, from: from?, ca_file, invite_url, timeout })
    }

    fn invite_url(&mut self) -> Option<InviteUrl> {
        let text = self.text(INVITE_URL)?.to_owned();
        let url = InviteUrl::parse(&text);
        if url.is_none() {
            self.reject(
                INVITE_URL,
                format!("is not an https address with `{TOKEN}` in its path, query or fragment"),
                "set it to one such as `https://partners.example.com/join#token={token}`, or unset it",
            );
        }
        url
    }

    fn mail_from(&mut self) -> Option<Mailbox> {
        const REMEDY: &str = "set it to the sender, such as `Partners <partners@example.com>`";
        let Some(text) = self.text(FROM).map(str::to_owned) else {
            self.reject(FROM, format!("is not set, and `{URL}` is"), REMEDY);
            return None;
        };
        let from = text.parse().ok();
        if from.is_none() {
            self.reject(FROM, format!("is `{text}`, not an e-mail address"), REMEDY);
        }
        from
    }

    /// The parts of the URL. It may hold a password, so it is never repeated.
    #[expect(clippy::type_complexity, reason = "taken apart by its only caller")]
    fn mail_server(&mut self, text: &str) -> Option<(String, u16, Security, Option<(String, SecretString)>)> {
        const REMEDY: &str = "set it to one such as `smtps://user:password@mail.example.com`";
        let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "smtp" | "smtps"));
        let Some(url) = url else {
            self.reject(URL, "is not an address that begins with `smtp://` or `smtps://`", REMEDY);
            return None;
        };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            self.reject(URL, "names no mail server", REMEDY);
            return None;
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            self.reject(URL, "goes on after the server's name and port", REMEDY);
            return None;
        }
        let security = match (url.scheme(), url.query()) {
            ("smtps", None) => Security::Implicit,
            ("smtp", Some("tls=none")) => Security::None,
            ("smtp", None) if is_loopback(&url) => Security::None,
            ("smtp", None) => Security::StartTls,
            _ => {
                let what =
                    "ends with a parameter that is not `tls=none`, or has it and begins with `smtps://`";
                self.reject(URL, what, "remove the parameter");
                return None;
            }
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                let decode = |text| percent_decode_str(text).decode_utf8().ok().map(String::from);
                let decoded = decode(user).zip(decode(password));
                if decoded.is_none() {
                    self.reject(URL, "has a user or password that is not UTF-8 text", REMEDY);
                }
                let (user, password) = decoded?;
                Some((user, SecretString::from(password)))
            }
            _ => {
                self.reject(URL, "has a user without a password, or the reverse", REMEDY);
                return None;
            }
        };
        if login.is_some() && security == Security::None && !is_loopback(&url) {
            let what = "would send its password to another machine without encryption";
            self.reject(URL, what, "remove `tls=none`, or the user and password");
            return None;
        }
        let port = url.port().unwrap_or(match security {
            Security::Implicit => 465,
            Security::StartTls => 587,
            Security::None => 25,
        });
        Some((host.trim_matches(['[', ']']).to_owned(), port, security, login))
    }
}
