//! Clicks on affiliates' links, told by websites and apps before anybody has signed in, and the ids that
//! turn out to be one visitor's (seed S0, "In-app link").
//!
//! Whoever holds a website's public key can tell of any click, so a touchpoint is a claim and not proof:
//! a code that the owner tells for a sale outranks it (`domain::attribution`). Clicks are written down in
//! groups ([`super::clicks`]). What they change of sales that are known already is left to [`super::refold`].
//!
//! A touchpoint names the key and the request that told of it: the list of touchpoints is the audit log of
//! clicks.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    App, Refusal,
    audit::{self, Change},
    clicks::{ATTEMPTS_MAX, Clicks, Told},
    keys::{Principal, Scope},
    programs::visible,
};
pub use crate::store::touchpoints::{ToldFilter, ToldKey, ToldRow};
use crate::{
    domain::{
        ids::{ProgramId, ProjectId},
        time::Timestamp,
    },
    store::{
        StoreError, Tx,
        touchpoints::{self, Linked, TouchpointRow, Visitor},
    },
};

/// How old a click may be when it is told: an app that was offline tells it later.
const AGE_MAX_S: i64 = 86_400;

/// How far the clock of whoever tells of a click may be ahead of ours, seconds. Such a click is one of now.
const AHEAD_MAX_S: i64 = 300;

/// A click as a website or app tells it. Without `anonymous_id` or `subject_ref` it is nobody's.
#[derive(Clone, Debug)]
pub struct NewClick {
    /// The affiliate's code, from the link.
    pub code: String,
    /// How the visitor came, 1 to 32 letters, digits, `_` and `-`; `link` by default.
    pub source: Option<String>,
    /// The visitor's id before they have signed in, 1 to 200 characters.
    pub anonymous_id: Option<String>,
    /// The owner's own id of the visitor, 1 to 200 characters.
    pub subject_ref: Option<String>,
    /// When they came; now by default. At most a day ago; what is up to five minutes ahead is now.
    pub occurred_at: Option<Timestamp>,
}

/// A touchpoint, and whether it was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The touchpoint.
    pub touchpoint: TouchpointRow,
    /// False for the same click again, which is counted once.
    pub is_new: bool,
}

/// The project of a key that may tell of clicks.
fn project_of(by: &Principal) -> Result<&ProjectId, Refusal> {
    by.require(Scope::Touchpoint)?;
    by.project_id()
        .ok_or(Refusal::Forbidden("only a client key, which belongs to a project, tells of visitors"))
}

/// Records a click. The same visitor with the same code within ten minutes is the same click.
///
/// # Errors
/// [`Refusal::Invalid`] naming the field, [`Refusal::Forbidden`] for a key that is of no project,
/// [`Refusal::Unavailable`] when more clicks are told than can be stored.
pub async fn record(clicks: &Clicks, by: &Principal, new: NewClick) -> Result<Recorded, Refusal> {
    let app = &clicks.app;
    let project = project_of(by)?;
    let click = check(new, app.now())?;
    let unknown =
        || Refusal::invalid("UNKNOWN_CODE", "code", "code names no affiliate of this project's owner");
    // What cannot be a code cannot even be asked for.
    if !is_id(&click.code) {
        return Err(unknown());
    }
    let link = {
        let mut conn = app.db.read().await?;
        touchpoints::find_link(&mut conn, by.organization_id(), &click.code, click.at).await?
    };
    let by = Some((by.actor().to_owned(), by.origin().request_id.clone()));
    clicks.tell(Told { project_id: project.clone(), link: link.ok_or_else(unknown)?, click, by }).await
}

/// The touchpoints of a program, those clicked last first.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of somebody else's; [`Refusal::MissingScope`] without `read`.
pub async fn list(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    filter: &ToldFilter,
    limit: i64,
) -> Result<Vec<ToldRow>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    visible(&mut conn, by, program).await?;
    Ok(touchpoints::list_told(&mut conn, program, filter, limit).await?)
}

/// A checked click.
#[derive(Clone, Debug)]
pub(super) struct Click {
    pub code: String,
    pub source: String,
    /// The id that it is recorded under.
    pub subject: String,
    /// Another id of the same visitor.
    pub anonymous: Option<String>,
    pub at: Timestamp,
}

fn check(new: NewClick, now: Timestamp) -> Result<Click, Refusal> {
    let source = new.source.unwrap_or_else(|| "link".to_owned());
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=32).contains(&source.len()) || !source.bytes().all(is_word) {
        let message = "source must be 1 to 32 letters, digits, `_` or `-`, such as link or qr";
        return Err(Refusal::invalid("INVALID_SOURCE", "source", message));
    }
    if let Some(id) = &new.anonymous_id {
        check_anonymous_id(id)?;
    }
    if let Some(id) = &new.subject_ref {
        check_subject_ref(id)?;
    }
    let (subject, anonymous) = match (new.subject_ref, new.anonymous_id) {
        (Some(subject), anonymous) => {
            let anonymous = anonymous.filter(|anonymous| *anonymous != subject);
            (subject, anonymous)
        }
        (None, Some(anonymous)) => (anonymous, None),
        (None, None) => {
            let message = "a click needs an anonymous_id or a subject_ref";
            return Err(Refusal::invalid("MISSING_SUBJECT", "anonymous_id", message));
        }
    };
    let at = new.occurred_at.unwrap_or(now);
    if at > now.plus_secs(AHEAD_MAX_S) || at < now.plus_secs(-AGE_MAX_S) {
        let message = "occurred_at must not be in the future and not more than a day ago";
        return Err(Refusal::invalid("INVALID_TIME", "occurred_at", message));
    }
    Ok(Click { code: new.code, source, subject, anonymous, at: at.min(now) })
}

/// Whether a text can be an id of a visitor: 1 to 200 characters, as it is written.
pub(super) fn is_id(text: &str) -> bool {
    (1..=200).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && text.trim().len() == text.len()
}

fn check_anonymous_id(id: &str) -> Result<(), Refusal> {
    let message = "anonymous_id must be 1 to 200 printable characters without blanks around them";
    if is_id(id) { Ok(()) } else { Err(Refusal::invalid("INVALID_ANONYMOUS_ID", "anonymous_id", message)) }
}

pub(super) fn check_subject_ref(id: &str) -> Result<(), Refusal> {
    let message = "subject_ref must be 1 to 200 printable characters without blanks around them";
    if is_id(id) { Ok(()) } else { Err(Refusal::invalid("INVALID_SUBJECT_REF", "subject_ref", message)) }
}

/// Says that the visitor with an anonymous id is the one with a reference of the owner's: they signed in.
/// Saying it again changes nothing.
///
/// # Errors
/// [`Refusal::Invalid`] naming the field; [`Refusal::Conflict`] with `ALREADY_IDENTIFIED` when the
/// anonymous id is somebody else's, and with `TOO_MANY_IDS`.
pub async fn identify(
    app: &App,
    by: &Principal,
    anonymous_id: &str,
    subject_ref: &str,
) -> Result<(), Refusal> {
    let project = project_of(by)?;
    check_anonymous_id(anonymous_id)?;
    check_subject_ref(subject_ref)?;
    let mut attempt = 1;
    loop {
        match identify_once(app, by, project, anonymous_id, subject_ref).await {
            // Another transaction was in the way, so nothing of this one was written.
            Err(Refusal::Store(error)) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                attempt += 1;
                tokio::task::yield_now().await;
            }
            result => return result,
        }
    }
}

async fn identify_once(
    app: &App,
    by: &Principal,
    project: &ProjectId,
    anonymous_id: &str,
    subject_ref: &str,
) -> Result<(), Refusal> {
    let now = app.now();
    let named = BTreeSet::from([visitor(project, anonymous_id), visitor(project, subject_ref)]);
    let mut tx = app.db.begin().await?;
    lock_all(&mut tx, &named).await?;
    match touchpoints::link(&mut tx, project, anonymous_id, subject_ref, now).await? {
        Linked::New => {}
        Linked::Already => return Ok(()),
        Linked::Taken => {
            let message = "this anonymous_id was identified as somebody else; begin with a new one";
            return Err(Refusal::conflict("ALREADY_IDENTIFIED", message));
        }
        Linked::TooMany => {
            let message = "this subject_ref has too many anonymous ids; use one for each browser or device";
            return Err(Refusal::conflict("TOO_MANY_IDS", message));
        }
    }
    let visitors = all_of(&mut tx, &named).await?;
    if let Some(earliest) = touchpoints::earliest(&mut tx, &visitors).await? {
        touchpoints::request_sales(&mut tx, &visitors, earliest, now).await?;
    }
    let joined = json!({ "anonymous_id": anonymous_id, "subject_ref": subject_ref });
    let change = Change::new("visitor.identified", project, by.organization_id()).after(&joined);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(())
}

pub(super) fn visitor(project: &ProjectId, id: &str) -> Visitor {
    Visitor { project_id: project.clone(), id: id.to_owned() }
}

/// Locks every id of these visitors.
///
/// # Errors
/// [`StoreError::Changed`] when ids were removed or joined while the locks were waited for: a sale under one
/// that is not locked would not see what is told.
pub(super) async fn lock_all(tx: &mut Tx, named: &BTreeSet<Visitor>) -> Result<(), StoreError> {
    let all = all_of(tx, named).await?;
    touchpoints::lock_visitors(tx, &all).await?;
    if all_of(tx, named).await?.is_subset(&all) { Ok(()) } else { Err(StoreError::Changed) }
}

/// Every id of these visitors.
pub(super) async fn all_of(tx: &mut Tx, named: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, StoreError> {
    let found = touchpoints::all_ids(tx, named).await?;
    Ok(named.iter().cloned().chain(found.into_iter().map(|(visitor, _)| visitor)).collect())
}
