//! What operators do with mails: look at them, and have those that were given up tried again.

use serde::Serialize;
use serde_json::json;

use crate::{
    app::{
        App, Refusal,
        audit::{self, Change},
        commit_change,
        keys::{Principal, Scope},
    },
    domain::{
        ids::{EnrollmentId, MailId},
        time::Timestamp,
    },
    store::{
        Tx,
        mail_views::{self, MailFilter, MailRow},
    },
};

/// Mails made due again in one transaction at most: on SQLite everybody waits for it.
const RETRIED_MAX: i64 = 100;

/// A mail as operators see it: whom it is for, and not what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MailView {
    /// Id.
    pub id: MailId,
    /// What it is about.
    pub topic: &'static str,
    /// Where it stands.
    pub state: &'static str,
    /// Why it is in its state.
    pub reason: Option<String>,
    /// Who is told.
    pub enrollment_id: EnrollmentId,
    /// The address it would go to now, with all but its first character and its host masked; none once it
    /// was erased.
    pub to: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is due; of a running one when its lease ends; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl From<MailRow> for MailView {
    fn from(row: MailRow) -> Self {
        Self {
            id: row.id,
            topic: row.topic.as_str(),
            state: row.state.as_str(),
            reason: row.reason,
            enrollment_id: row.enrollment_id,
            to: row.email.as_deref().map(audit::without_personal_data),
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            created_at: row.created_at,
        }
    }
}

/// Mails, newest first.
///
/// # Errors
/// [`Refusal::MissingScope`] without `events`, which only operators hold: mails cross organizations.
pub async fn list(
    app: &App,
    by: &Principal,
    filter: &MailFilter,
    limit: i64,
) -> Result<Vec<MailView>, Refusal> {
    by.require(Scope::Events)?;
    let rows = mail_views::list(&mut app.db.read().await?, filter, limit).await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Has a mail that was given up tried again, for three days as a new one.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` for one that was not given up.
pub async fn retry(app: &App, by: &Principal, id: &MailId) -> Result<MailView, Refusal> {
    by.require(Scope::Events)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let mail = mail_views::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    if !retry_one(&mut tx, by, &mail, now).await? {
        let message = format!("mail {id} is {}, and only parked ones are tried again", mail.state.as_str());
        return Err(Refusal::conflict("INVALID_STATE", message));
    }
    let after = mail_views::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    commit_change(tx).await?;
    Ok(after.into())
}

/// Has all mails that were given up until now tried again. Returns how many.
///
/// # Errors
/// [`Refusal::Store`]; those of earlier transactions are tried all the same.
pub async fn retry_all(app: &App, by: &Principal) -> Result<usize, Refusal> {
    by.require(Scope::Events)?;
    let now = app.now();
    let mut retried = 0;
    loop {
        let mut tx = app.db.begin().await?;
        let mails = mail_views::list_given_up(&mut tx, now, RETRIED_MAX).await?;
        // Those that are given up again meanwhile were so after `now`, so this ends.
        if mails.is_empty() {
            return Ok(retried);
        }
        for mail in &mails {
            retried += usize::from(retry_one(&mut tx, by, mail, now).await?);
        }
        commit_change(tx).await?;
    }
}

/// False when it was not given up.
async fn retry_one(tx: &mut Tx, by: &Principal, mail: &MailRow, now: Timestamp) -> Result<bool, Refusal> {
    if !mail_views::retry(tx, &mail.id, now).await? {
        return Ok(false);
    }
    let was = json!({ "state": mail.state.as_str(), "reason": mail.reason, "attempts": mail.attempts });
    audit::record(tx, by, Change::new("mail.retried", &mail.id, None).before(&was), now).await?;
    Ok(true)
}
