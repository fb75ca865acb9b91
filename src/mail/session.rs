//! One connection to the mail server, and what its answers mean.
//!
//! Whose fault a refusal is depends on the command that it answers, so the commands are given one by one:
//! only what the server says about the recipient or the message counts against a mail. A refused login or
//! sender is the operator's to mend, and every mail waits for it.

use std::{error::Error, future::Future, io};

use lettre::{
    Address, Message,
    transport::smtp::{
        Error as SmtpError,
        authentication::Mechanism,
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt, Rset},
        extension::{Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use tokio::time::timeout;

use super::Mailer;
use crate::config::Security;

/// A mail was not taken, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server will never take this mail: it refused the recipient or the message with this code.
    #[error("refused for good with {code}")]
    Refused {
        /// 500 to 599.
        code: u16,
    },
    /// The server does not take this mail now, with this code.
    #[error("put off with {code}")]
    PutOff {
        /// 400 to 499.
        code: u16,
    },
    /// The server takes no mail of ours at the moment: it cannot be reached, or refuses us. If the
    /// connection broke at the end of the message, the mail may have been taken all the same.
    #[error("no session with the mail server: {reason}")]
    NoSession {
        /// A stable word, such as `unreachable`, `bad_certificate` or `login_refused`.
        reason: &'static str,
    },
}

/// A session with the mail server.
pub struct Session<'m> {
    mailer: &'m Mailer,
    connection: Option<AsyncSmtpConnection>,
}

impl<'m> Session<'m> {
    pub(super) fn new(mailer: &'m Mailer) -> Self {
        Self { mailer, connection: None }
    }

    /// Hands a message to the server. Once this returned, the server has it.
    ///
    /// # Errors
    /// [`SendError`]; after [`SendError::NoSession`] the next message connects anew.
    pub async fn send(&mut self, message: &Message) -> Result<(), SendError> {
        // Each mail connects where it must, so that one deadline holds for everything that can hang.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => within(self.mailer, connect(self.mailer)).await?,
        };
        let result = within(self.mailer, hand_over(&mut connection, message)).await;
        match &result {
            Ok(()) => self.connection = Some(connection),
            // The refused mail's transaction must not hang on into the next mail's (RFC 5321, 4.1.1.5).
            Err(SendError::Refused { .. } | SendError::PutOff { .. }) => {
                if within(self.mailer, command(&mut connection, Rset)).await.is_ok() {
                    self.connection = Some(connection);
                }
            }
            Err(SendError::NoSession { .. }) => {}
        }
        result
    }

    /// Takes leave of the server. Whatever comes of that, what was sent was sent.
    pub async fn close(mut self) {
        if let Some(mut connection) = self.connection.take()
            && timeout(self.mailer.timeout, connection.quit()).await.is_err()
        {
            tracing::debug!("the mail server did not answer a good-bye");
        }
    }
}

async fn within<T>(
    mailer: &Mailer,
    work: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    timeout(mailer.timeout, work).await.unwrap_or(Err(SendError::NoSession { reason: "timeout" }))
}

async fn connect(mailer: &Mailer) -> Result<AsyncSmtpConnection, SendError> {
    let tls = (mailer.security == Security::Implicit).then(|| mailer.tls.clone());
    let server = (mailer.host.as_str(), mailer.port);
    let mut connection =
        AsyncSmtpConnection::connect_tokio1(server, Some(mailer.timeout), &mailer.hello, tls, None)
            .await
            .map_err(|error| no_session(&error, "unreachable"))?;
    if mailer.security == Security::StartTls {
        connection
            .starttls(mailer.tls.clone(), &mailer.hello)
            .await
            .map_err(|error| no_session(&error, "no_tls"))?;
    }
    if let Some(credentials) = &mailer.credentials {
        let answer = connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await;
        let is_taken = answer.is_ok_and(|answer| answer.is_positive());
        if !is_taken {
            return Err(SendError::NoSession { reason: "login_refused" });
        }
    }
    Ok(connection)
}

/// Why there is no session: for the server's certificate, or else for `reason`.
fn no_session(error: &SmtpError, reason: &'static str) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(_)) => {
                return SendError::NoSession { reason: "bad_certificate" };
            }
            Some(_) => return SendError::NoSession { reason: "no_tls" },
            None => {}
        }
        // What an `io::Error` holds is not its source, but in its place.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    SendError::NoSession { reason }
}

async fn hand_over(connection: &mut AsyncSmtpConnection, message: &Message) -> Result<(), SendError> {
    let envelope = message.envelope();
    let bytes = message.formatted();
    let info = connection.server_info();
    let mut parameters = Vec::new();
    let is_ascii = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
    if !envelope.from().into_iter().chain(envelope.to()).all(is_ascii) {
        if !info.supports_feature(Extension::SmtpUtfEight) {
            // No such address can be written to through this server (RFC 6531, 3.2); 553 says that.
            return Err(SendError::Refused { code: 553 });
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !bytes.is_ascii() && info.supports_feature(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    command(connection, Mail::new(envelope.from().cloned(), parameters)).await.map_err(
        |error| match error {
            SendError::Refused { .. } => SendError::NoSession { reason: "sender_refused" },
            other => other,
        },
    )?;
    for recipient in envelope.to() {
        command(connection, Rcpt::new(recipient.clone(), Vec::new())).await?;
    }
    command(connection, Data).await?;
    judge(connection.message(&bytes).await).map(drop)
}

async fn command(
    connection: &mut AsyncSmtpConnection,
    command: impl std::fmt::Display,
) -> Result<Response, SendError> {
    judge(connection.command(command).await)
}

/// What an answer means. 421 ends the session whatever it answers (RFC 5321, 3.8).
fn judge(answer: Result<Response, SmtpError>) -> Result<Response, SendError> {
    let error = match answer {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    let Some(code) = error.status() else { return Err(SendError::NoSession { reason: "connection_lost" }) };
    match u16::from(code) {
        421 => Err(SendError::NoSession { reason: "server_closing" }),
        code @ 500.. => Err(SendError::Refused { code }),
        code => Err(SendError::PutOff { code }),
    }
}
