//! Clicks on affiliates' links, told by websites and apps before anybody has signed in, and the ids that
//! turn out to be one visitor's (seed S0, "In-app link").
//!
//! Whoever holds a website's public key can tell of any click, so a touchpoint is a claim and not proof:
//! a code that the owner tells for a sale outranks it (`domain::attribution`). Telling is one short
//! transaction. What it changes of sales that are known already is left to [`super::refold`].

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
    new_id,
};
use crate::{
    domain::{
        attribution::Touch,
        ids::{ProjectId, TouchpointId},
        time::Timestamp,
    },
    store::{
        Tx,
        touchpoints::{self, LinkOwner, Linked, NewTouchpoint, TouchpointRow, Visitor},
    },
};

/// How old a click may be when it is told: an app that was offline tells it later.
const AGE_MAX_S: i64 = 86_400;

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
    /// When they came; now by default. Not in the future and at most a day ago.
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
/// [`Refusal::Invalid`] naming the field, [`Refusal::Forbidden`] for a key that is of no project.
pub async fn record(app: &App, by: &Principal, new: NewClick) -> Result<Recorded, Refusal> {
    let project = project_of(by)?;
    let now = app.now();
    let click = check(new, now)?;
    let unknown =
        || Refusal::invalid("UNKNOWN_CODE", "code", "code names no affiliate of this project's owner");
    // What cannot be a code cannot even be asked for.
    if !is_id(&click.code) {
        return Err(unknown());
    }
    let found = {
        let mut conn = app.db.read().await?;
        touchpoints::find_links(&mut conn, by.organization_id(), &click.code, click.at).await?
    };
    let link = found.into_iter().next().ok_or_else(unknown)?;
    store(app, project, &link, &click).await
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
    if at > now || at < now.plus_secs(-AGE_MAX_S) {
        let message = "occurred_at must not be in the future and not more than a day ago";
        return Err(Refusal::invalid("INVALID_TIME", "occurred_at", message));
    }
    Ok(Click { code: new.code, source, subject, anonymous, at })
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

/// Stores a click, unless it is one that is known.
pub(super) async fn store(
    app: &App,
    project: &ProjectId,
    link: &LinkOwner,
    click: &Click,
) -> Result<Recorded, Refusal> {
    let now = app.now();
    let named = [Some(&click.subject), click.anonymous.as_ref()];
    let named: BTreeSet<Visitor> = named.into_iter().flatten().map(|id| visitor(project, id)).collect();
    let mut tx = app.db.begin().await?;
    lock_all(&mut tx, &named).await?;
    if let Some(anonymous) = &click.anonymous {
        // An id that is somebody else's already stays theirs. The click is the named subject's.
        touchpoints::link(&mut tx, project, anonymous, &click.subject, now).await?;
    }
    let visitors = all_of(&mut tx, &named).await?;
    if let Some(known) = touchpoints::find_same_click(&mut tx, &visitors, &link.code, click.at).await? {
        super::commit_change(tx).await?;
        return Ok(Recorded { touchpoint: known, is_new: false });
    }
    let new = NewTouchpoint {
        touch: Touch {
            id: new_id!(TouchpointId, now),
            enrollment_id: link.enrollment_id.clone(),
            code: link.code.clone(),
            at: click.at,
        },
        project_id: project.clone(),
        program_id: link.program_id.clone(),
        source: click.source.clone(),
        subject: click.subject.clone(),
        created_at: now,
    };
    touchpoints::request_sales(&mut tx, &visitors, click.at, now).await?;
    touchpoints::insert(&mut tx, &new).await?;
    super::commit_change(tx).await?;
    let NewTouchpoint { touch, program_id, source, .. } = new;
    let touchpoint = TouchpointRow {
        id: touch.id.to_string(),
        program_id: program_id.to_string(),
        code: touch.code,
        source,
        at_us: touch.at.as_micros(),
    };
    Ok(Recorded { touchpoint, is_new: true })
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

fn visitor(project: &ProjectId, id: &str) -> Visitor {
    Visitor { project_id: project.clone(), id: id.to_owned() }
}

/// Locks every id of these visitors.
async fn lock_all(tx: &mut Tx, named: &BTreeSet<Visitor>) -> Result<(), Refusal> {
    let all = all_of(tx, named).await?;
    Ok(touchpoints::lock_visitors(tx, &all).await?)
}

async fn all_of(tx: &mut Tx, named: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, Refusal> {
    let found = touchpoints::all_ids(tx, named).await?;
    Ok(named.iter().cloned().chain(found.into_iter().map(|(visitor, _)| visitor)).collect())
}
