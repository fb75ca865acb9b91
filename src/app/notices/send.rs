//! Makes mails of the notices that are due, and hands them to the mail server, one after the other in one
//! session.
//!
//! A mail is claimed with a lease, sent with no transaction open, and laid down. Whoever dies between the
//! last two leaves a mail that is sent again when its lease ends, under the same Message-ID: affiliates are
//! told at least once, and their mail programs know a repeat. What the server refuses for good is parked
//! with a finding; anything else is tried again for three days.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    app::{
        App,
        seal::{self, SealError},
    },
    domain::{
        ids::NoticeId,
        job::JobState,
        notice::{self, Topic},
        payout::PayoutState,
        program::EnrollmentStatus,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    mail::{
        Letter, Mailer, Reader, SendError, Session,
        letter::{Balance, Invitation, Line},
    },
    store::{
        Conn, StoreError, Tx,
        findings::{self, NewFinding, Severity},
        mail::{self, Lease, Parting},
        mail_tokens,
    },
};

/// Mails that are made, and that are sent, in one step at most.
const MAILS_MAX: i64 = 100;

/// The kind of finding about an affiliate whom mail does not reach.
const UNDELIVERED: &str = "mail_undelivered";

/// Sends what is due, until `stop`. Returns how many mails had their turn; 0 also where the server takes no
/// mail at the moment, so that the stage waits.
///
/// # Errors
/// [`StoreError`] when the database does not answer; a mail that was being sent is sent again.
pub async fn step(app: &App, mailer: &Mailer, stop: &CancellationToken) -> Result<usize, StoreError> {
    // Fixed for the step: a mail that fails in it is due later, and has its next turn in another step.
    let due = app.now();
    // Most often there is nothing, and a look disturbs nobody.
    if !mail::is_any_due(&mut app.db.read().await?, due).await? {
        return Ok(0);
    }
    let mut tx = app.db.begin().await?;
    mail::gather(&mut tx, due, MAILS_MAX).await?;
    commit(tx).await?;
    let mut session = mailer.session();
    let mut sent = 0;
    for _ in 0..MAILS_MAX {
        if stop.is_cancelled() {
            break;
        }
        match send_next(app, mailer, &mut session, due).await? {
            Turn::Nobody => break,
            Turn::Had => sent += 1,
            Turn::NoSession => {
                sent = 0;
                break;
            }
        }
    }
    session.close().await;
    Ok(sent)
}

/// What came of one turn.
enum Turn {
    /// Nothing was due.
    Nobody,
    /// A mail was sent, or refused, or is none any more.
    Had,
    /// The server takes nothing at the moment.
    NoSession,
}

/// How long a mail is held: connecting, sending, clearing up after a refusal, and as much again for a node
/// that is slow.
fn lease_s(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).saturating_mul(6).saturating_add(60)
}

async fn send_next(
    app: &App,
    mailer: &Mailer,
    session: &mut Session<'_>,
    due: Timestamp,
) -> Result<Turn, StoreError> {
    let until = app.now().plus_secs(lease_s(mailer.timeout()));
    let mut tx = app.db.begin().await?;
    let claimed = mail::claim(&mut tx, due, until).await?;
    commit(tx).await?;
    let Some(lease) = claimed else { return Ok(Turn::Nobody) };
    let outcome = match prepare(app, &lease).await? {
        Ok((to, letter, reader)) => deliver(mailer, session, &lease, &to, &letter, &reader).await,
        Err(outcome) => outcome,
    };
    lay_down(app, &lease, &outcome).await?;
    Ok(match outcome {
        Outcome::Later { is_server: true, .. } => Turn::NoSession,
        Outcome::Sent | Outcome::NotToBeSent(_) | Outcome::Refused(_) | Outcome::Later { .. } => Turn::Had,
    })
}

/// What came of a mail.
enum Outcome {
    /// The server has it.
    Sent,
    /// There is nothing to tell any more, or nobody to tell it to.
    NotToBeSent(&'static str),
    /// It can never be delivered.
    Refused(String),
    /// It may be delivered later.
    Later { reason: String, is_server: bool },
}

/// Whom a mail goes to and what it says, by what is true now; or what comes of one that is not sent.
async fn prepare(app: &App, lease: &Lease) -> Result<Result<(String, Letter, Reader), Outcome>, StoreError> {
    let over = |reason| Ok(Err(Outcome::NotToBeSent(reason)));
    let mut conn = app.db.read().await?;
    let Some(reader) = mail::find_reader(&mut conn, &lease.enrollment_id).await? else {
        return over("no_enrollment");
    };
    let Some(email) = reader.email else { return over("no_address") };
    let letter = match mail_tokens::find(&mut conn, &lease.mail_id).await? {
        Some((notice, sealed)) => match invitation(app, &notice, &sealed) {
            Ok(invitation) => Letter::Enrollment(reader.status, Some(invitation)),
            Err(error) => {
                error!(mail.id = lease.mail_id.as_str(), reason = %error, "an invitation cannot be sent");
                return Ok(Err(Outcome::Later { reason: "token_sealed".to_owned(), is_server: false }));
            }
        },
        None => match letter(&mut conn, lease, reader.status).await? {
            Some(letter) => letter,
            None => return over("superseded"),
        },
    };
    Ok(Ok((email, letter, Reader::new(&reader.name, &reader.program, &reader.owner))))
}

/// How an enrollment is taken over with the token that waits with a notice.
fn invitation(app: &App, notice: &NoticeId, sealed: &[u8]) -> Result<Invitation, SealError> {
    let opened = seal::open(app.config.master_key.as_ref(), super::place(notice), sealed)?;
    // What was sealed here is text; the seal proves that it is what was sealed.
    let token = SecretString::from(&*String::from_utf8_lossy(opened.expose_secret()));
    let link = app.config.mail.as_ref().and_then(|mail| mail.invite_url.as_ref());
    Ok(match link {
        Some(invite_url) => Invitation::Link(invite_url.with(&token)),
        None => Invitation::Token {
            token,
            api: app.config.server.public_url.clone(),
            has_signup: app.config.programs.public_signup,
        },
    })
}

/// What a mail without a token says; none when what it was to tell is not true any more.
async fn letter(
    conn: &mut Conn,
    lease: &Lease,
    status: EnrollmentStatus,
) -> Result<Option<Letter>, StoreError> {
    if lease.topic == Topic::Commissions {
        let lines: Vec<Line> = mail::list_lines(conn, &lease.mail_id)
            .await?
            .into_iter()
            .map(|mail::Line { change, why, count, amount }| Line { change, why, count, amount })
            .collect();
        let balances = mail::list_balances(conn, &lease.enrollment_id).await?;
        let balances =
            balances.into_iter().map(|mail::Balance { held, payable }| Balance { held, payable }).collect();
        return Ok((!lines.is_empty()).then_some(Letter::Commissions { lines, balances }));
    }
    let Some((object, word)) = mail::find_told(conn, &lease.mail_id).await? else { return Ok(None) };
    if lease.topic == Topic::Enrollment {
        // A later status has a notice of its own.
        return Ok((word.as_deref() == Some(status.as_str())).then_some(Letter::Enrollment(status, None)));
    }
    let Some(payout) = mail::find_payout(conn, &object).await? else { return Ok(None) };
    let mail::PayoutNow { state, due, fee, sent, reversed } = payout;
    Ok(match (lease.topic, state) {
        (Topic::PayoutWaiting, PayoutState::WaitingAccount) => Some(Letter::PayoutWaiting { sent }),
        (
            Topic::PayoutCompleted,
            PayoutState::Completed | PayoutState::PartiallyReversed | PayoutState::Reversed,
        ) => Some(Letter::PayoutCompleted { due, fee, sent, reversed }),
        (Topic::Enrollment | Topic::Commissions | Topic::PayoutCompleted | Topic::PayoutWaiting, _) => None,
    })
}

async fn deliver(
    mailer: &Mailer,
    session: &mut Session<'_>,
    lease: &Lease,
    to: &str,
    letter: &Letter,
    reader: &Reader,
) -> Outcome {
    let later = |reason: &str, is_server| Outcome::Later { reason: reason.to_owned(), is_server };
    let Ok(content) = letter.write(reader) else { return later("not_written", false) };
    let message = match mailer.compose(to, &lease.mail_id, lease.created_at, content) {
        Ok(message) => message,
        Err(error) => return Outcome::Refused(error.as_str().to_owned()),
    };
    match session.send(&message).await {
        Ok(()) => Outcome::Sent,
        Err(SendError::Refused { code }) => Outcome::Refused(format!("refused_{code}")),
        Err(SendError::PutOff { code }) => later(&format!("put_off_{code}"), false),
        Err(SendError::NoSession { reason }) => later(reason, true),
    }
}

/// Writes down what came of a mail. Where the lease has run out, whoever holds it now does.
async fn lay_down(app: &App, lease: &Lease, outcome: &Outcome) -> Result<(), StoreError> {
    let now = app.now();
    let over = |state, reason| Parting { state, reason, next_attempt_at: None };
    let mail_id = lease.mail_id.as_str();
    let parting = match outcome {
        Outcome::Sent => over(JobState::Completed, None),
        Outcome::NotToBeSent(reason) => over(JobState::Discarded, Some(*reason)),
        Outcome::Refused(reason) => over(JobState::Parked, Some(reason.as_str())),
        Outcome::Later { reason, is_server } => {
            let next = notice::next_attempt(lease.attempts, mail_id, lease.tried_since, now);
            if *is_server {
                error!(mail.id = mail_id, reason, "the mail server takes no mail; look at `mail.url`");
            }
            let state = if next.is_some() { JobState::Retryable } else { JobState::Parked };
            Parting { state, reason: Some(reason.as_str()), next_attempt_at: next }
        }
    };
    let mut tx = app.db.begin().await?;
    if !mail::part(&mut tx, lease, parting, now).await? {
        info!(mail.id = mail_id, "a mail was taken over by another node before it was laid down");
        return Ok(());
    }
    if matches!(parting.state, JobState::Completed | JobState::Discarded) {
        mail_tokens::forget(&mut tx, &lease.mail_id).await?;
    }
    let enrollment = lease.enrollment_id.as_str();
    match (parting.state, parting.reason) {
        (JobState::Parked, reason) => {
            let reason = reason.unwrap_or_default();
            warn!(mail.id = mail_id, reason, "a mail cannot be delivered and was parked");
            let finding = NewFinding {
                kind: UNDELIVERED.to_owned(),
                severity: Severity::Info,
                object: enrollment.to_owned(),
                detail: format!(
                    "the mail {mail_id} to this affiliate could not be delivered ({reason}); correct the \
                     affiliate's address if it is wrong; `remit mail retry {mail_id}` tries it again"
                ),
            };
            findings::raise(&mut tx, &[finding], now).await?;
        }
        (JobState::Completed, _) => {
            debug!(mail.id = mail_id, mail.attempts = lease.attempts, "a mail was sent");
            findings::resolve_others(&mut tx, &[enrollment], &[UNDELIVERED], &[], now).await?;
        }
        _ => {}
    }
    commit(tx).await
}

/// Commits what becomes of mails.
async fn commit(tx: Tx) -> Result<(), StoreError> {
    failpoint::reach(Failpoint::MailBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::MailAfterCommit);
    Ok(())
}
