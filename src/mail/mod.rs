//! E-mail to affiliates: what a letter says ([`letter`]), how it becomes a message ([`Mailer::compose`]),
//! and the session with the server that takes it ([`session`]).
//!
//! Nothing here knows a database or decides who is told what; that is the business of `app::notices`. No
//! address and nothing a server says gets into an error or a log line: servers like to repeat addresses.

pub mod letter;
pub mod session;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, TlsParameters},
        extension::ClientId,
    },
};
use secrecy::ExposeSecret as _;

pub use self::{
    letter::{Content, Letter, Reader},
    session::{SendError, Session},
};
use crate::{
    config,
    domain::{ids::MailId, time::Timestamp},
};

/// Composes messages and opens sessions.
pub struct Mailer {
    host: String,
    port: u16,
    security: config::Security,
    tls: TlsParameters,
    credentials: Option<Credentials>,
    hello: ClientId,
    from: Mailbox,
    timeout: Duration,
}

/// The mailer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MailerError {
    /// The certificates of this machine.
    #[error("the certificates that the mail server is checked with cannot be loaded")]
    Certificates(#[source] lettre::transport::smtp::Error),
    /// The file of `mail.ca_file` is not there, or not for us.
    #[error(
        "`mail.ca_file` names {path}, which cannot be read; correct the path or the permissions of the file"
    )]
    NoFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("`mail.ca_file` names {path}, which holds no certificate; it must hold certificates in PEM")]
    NoCertificate {
        /// The file.
        path: String,
    },
}

/// What the server's certificate is checked with: what this machine trusts, and what `mail.ca_file` adds.
fn trust(mail: &config::Mail) -> Result<TlsParameters, MailerError> {
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(file) = &mail.ca_file {
        let path = file.display().to_string();
        let pem = match fs::read(file) {
            Ok(pem) => pem,
            Err(source) => return Err(MailerError::NoFile { path, source }),
        };
        // lettre takes a file without certificates for one with none to add, and none of what is around
        // them; one that cannot be read as a certificate is found when the parameters are built.
        let holds_one = pem.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN);
        let added = Certificate::from_pem(&pem).ok().filter(|_| holds_one);
        let Some(added) = added else { return Err(MailerError::NoCertificate { path }) };
        parameters = parameters.add_root_certificate(added);
    }
    parameters.build_rustls().map_err(MailerError::Certificates)
}

/// What a certificate begins with (RFC 7468, 5.1).
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Why no message can be made of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// The reader's address is none that mail can be sent to. The address is not repeated.
    #[error("the address is none that mail can be sent to")]
    Address,
    /// The message could not be built. A bug, never the reader's fault.
    #[error("the message could not be built")]
    Message,
}

impl ComposeError {
    /// A stable word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "bad_address",
            Self::Message => "not_composed",
        }
    }
}

/// RFC 3834: keeps vacation responders and their loops quiet.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Mailer {
    /// A mailer of this configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// [`MailerError`] when the certificates to check the server with cannot be loaded.
    pub fn new(mail: &config::Mail) -> Result<Self, MailerError> {
        let credentials = mail
            .login
            .as_ref()
            .map(|(user, password)| Credentials::new(user.clone(), password.expose_secret().to_owned()));
        Ok(Self {
            host: mail.host.clone(),
            port: mail.port,
            security: mail.security,
            tls: trust(mail)?,
            credentials,
            // Submission servers look at who logs in, not at this name; the machine's own is nobody's business.
            hello: ClientId::Domain(mail.from.email.domain().to_owned()),
            from: mail.from.clone(),
            timeout: mail.timeout,
        })
    }

    /// A message for one reader. Its Message-ID is made of the mail's id and its date is the mail's, so a
    /// message that is sent again is recognised as the same.
    ///
    /// # Errors
    /// [`ComposeError`].
    pub fn compose(
        &self,
        to: &str,
        id: &MailId,
        made_at: Timestamp,
        content: Content,
    ) -> Result<Message, ComposeError> {
        let to: Address = to.parse().map_err(|_| ComposeError::Address)?;
        let micros = u64::try_from(made_at.as_micros()).unwrap_or(0);
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(content.subject)
            .date(SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(AutoSubmitted)
            .multipart(MultiPart::alternative_plain_html(content.text, content.html))
            .map_err(|_| ComposeError::Message)
    }

    /// Longest wait for connecting, and for each mail.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A session in which any number of mails can be sent; it connects with the first.
    #[must_use]
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }
}
