//! The session with a mail server in another process: how the connection is protected and who logs in, and
//! what each answer means for one mail and for the next.

use remit::{
    config::{Mail, Security},
    domain::{ids::MailId, time::Timestamp},
    mail::{Content, Mailer, SendError, Session},
};

use super::{
    mail::{
        settings,
        smtp::{MailServer, Mode, Tls},
    },
    support::api::config,
};

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";

/// The configuration that an operator would write.
fn configured(url: &str, further: &[(&str, &str)]) -> Mail {
    config(&[&settings(url)[..], further].concat()).mail.clone().unwrap()
}

/// As an operator would write it for this server.
///
/// To this machine `smtp://` is plain, so that the tests' server would never be asked for TLS.
fn protected(server: &MailServer, tls: Tls, ca: &[(&str, &str)]) -> Mail {
    let mut mail = configured(&server.url_with_password("open%3Asesame"), ca);
    match tls {
        Tls::Implicit => assert_eq!(mail.security, Security::Implicit),
        Tls::Start => mail.security = Security::StartTls,
    }
    mail
}

/// Hands one letter over.
async fn send(mailer: &Mailer, session: &mut Session<'_>, to: &str) -> Result<(), SendError> {
    let words = || "one letter".to_owned();
    let content = Content { subject: words(), text: words(), html: words() };
    let id = MailId::parse("mail_1").unwrap();
    session.send(&mailer.compose(to, &id, Timestamp::from_secs(1_767_225_600), content).unwrap()).await
}

/// The same in a session of its own.
async fn send_alone(mail: &Mail) -> Result<(), SendError> {
    let mailer = Mailer::new(mail).unwrap();
    let mut session = mailer.session();
    let sent = send(&mailer, &mut session, ADA).await;
    session.close().await;
    sent
}

fn no_session(reason: &'static str) -> Result<(), SendError> {
    Err(SendError::NoSession { reason })
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_no_password_sent() {
    for tls in [Tls::Implicit, Tls::Start] {
        let Some(server) = MailServer::start_with(Some(tls), Some("PLAIN")) else { return };
        assert_eq!(send_alone(&protected(&server, tls, &[])).await, no_session("bad_certificate"), "{tls:?}");
        // One that vouches for another name is no better.
        let certificate = server.certificate();
        let mut elsewhere = protected(&server, tls, &[("REMIT_MAIL__CA_FILE", &certificate)]);
        elsewhere.host = "localhost".to_owned();
        assert_eq!(send_alone(&elsewhere).await, no_session("bad_certificate"), "{tls:?}");
        assert!(server.logins().is_empty() && server.taken().is_empty(), "{tls:?}");
    }
}

#[tokio::test]
async fn a_configured_authority_is_believed_and_the_login_comes_after_tls() {
    for (tls, mechanism) in [(Tls::Implicit, "PLAIN"), (Tls::Start, "PLAIN"), (Tls::Start, "LOGIN")] {
        let Some(server) = MailServer::start_with(Some(tls), Some(mechanism)) else { return };
        let certificate = server.certificate();
        let mail = protected(&server, tls, &[("REMIT_MAIL__CA_FILE", &certificate)]);
        assert_eq!(send_alone(&mail).await, Ok(()), "{tls:?}");
        let taken = server.taken().pop().unwrap();
        assert_eq!(taken.0["tls"], true, "{taken:?}");
        assert_eq!((taken.text("user"), taken.text("mechanism")), ("remit", mechanism));
        assert_eq!(server.logins(), [mechanism]);
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_neither_password_nor_mail() {
    let Some(server) = MailServer::start() else { return };
    assert_eq!(send_alone(&protected(&server, Tls::Start, &[])).await, no_session("no_tls"));
    // Nor one that speaks plainly where TLS comes first.
    let mut mail = protected(&server, Tls::Start, &[]);
    mail.security = Security::Implicit;
    assert_eq!(send_alone(&mail).await, no_session("no_tls"));
    assert!(server.logins().is_empty() && server.taken().is_empty());
}

#[tokio::test]
async fn a_login_that_is_refused_or_missing_is_not_the_mails_fault() {
    let Some(server) = MailServer::start_with(None, Some("PLAIN")) else { return };
    let wrong = configured(&server.url_with_password("wrong"), &[]);
    assert_eq!(send_alone(&wrong).await, no_session("login_refused"));
    assert_eq!(server.logins(), ["PLAIN"], "a wrong password is tried once");
    assert_eq!(send_alone(&configured(&server.url(), &[])).await, no_session("sender_refused"));
    assert!(server.taken().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let Some(server) = MailServer::start() else { return };
    let url = server.url();
    drop(server);
    assert_eq!(send_alone(&configured(&url, &[])).await, no_session("unreachable"));
}

#[tokio::test]
async fn five_hundreds_are_for_good_and_four_hundreds_for_now() {
    let Some(server) = MailServer::start() else { return };
    let mail = configured(&server.url(), &[]);
    let refused = |code| Err(SendError::Refused { code });
    let put_off = |code| Err(SendError::PutOff { code });
    for (mode, expected) in [
        (Mode::Recipient(550), refused(550)),
        (Mode::Recipient(552), refused(552)),
        (Mode::Recipient(450), put_off(450)),
        (Mode::Recipient(452), put_off(452)),
        (Mode::Message(554), refused(554)),
        (Mode::Message(451), put_off(451)),
        // The sender is the same for every mail: what is wrong with it is the operator's to mend.
        (Mode::Sender(553), no_session("sender_refused")),
        (Mode::Sender(451), put_off(451)),
        // Whatever it answers, the server wants to be left alone.
        (Mode::Recipient(421), no_session("server_closing")),
        (Mode::Message(421), no_session("server_closing")),
        (Mode::Drop, no_session("connection_lost")),
    ] {
        server.set(mode);
        assert_eq!(send_alone(&mail).await, expected, "{mode:?}");
    }
}

#[tokio::test]
async fn after_a_refusal_the_session_is_cleared_and_takes_the_next_mail() {
    let Some(server) = MailServer::start() else { return };
    let mail = configured(&server.url(), &[]);
    let mailer = Mailer::new(&mail).unwrap();
    for (number, code) in [550, 450].into_iter().enumerate() {
        server.set(Mode::OneRecipient(code, ADA));
        let mut session = mailer.session();
        assert!(send(&mailer, &mut session, ADA).await.is_err(), "{code}");
        assert_eq!(send(&mailer, &mut session, BOB).await, Ok(()), "{code}");
        session.close().await;
        let taken = server.taken();
        assert_eq!(taken.len(), number + 1);
        // What the refused one left behind does not hang on.
        assert_eq!((taken[number].to(), &taken[number].0["resets"]), (BOB, &1.into()), "{code}");
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_cleared_is_given_up_and_the_next_mail_has_its_own() {
    let Some(server) = MailServer::start() else { return };
    let mailer = Mailer::new(&configured(&server.url(), &[])).unwrap();
    server.set(Mode::CloseAtReset(ADA));
    let mut session = mailer.session();
    assert_eq!(send(&mailer, &mut session, ADA).await, Err(SendError::Refused { code: 550 }));
    assert_eq!(send(&mailer, &mut session, BOB).await, Ok(()));
    let taken = server.taken();
    assert_eq!((taken[0].to(), &taken[0].0["resets"]), (BOB, &0.into()));
}

#[test]
fn a_file_without_certificates_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let refusal = |path: &str| {
        let mail = configured("smtps://mail.example.com", &[("REMIT_MAIL__CA_FILE", path)]);
        Mailer::new(&mail).map(drop).unwrap_err().to_string()
    };
    let (missing, other, broken) = (path("missing.pem"), path("other.pem"), path("broken.pem"));
    std::fs::write(&other, "no certificate\n").unwrap();
    let half = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    std::fs::write(&broken, half).unwrap();
    let message = refusal(&missing);
    assert!(message.contains(&missing) && message.contains("cannot be read"), "{message}");
    for path in [&other, &broken] {
        let message = refusal(path);
        assert!(message.contains(path.as_str()) && message.contains("in PEM"), "{message}");
    }
}
