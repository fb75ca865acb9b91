//! Stopping payouts: those of one affiliate, or all. Events are received and booked all the while.
//!
//! A stop keeps settlements from reserving more and the dispatcher from sending what is reserved; a call
//! that is under way is not called back. Look-ups go on, because they only ask.

use serde_json::json;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{KeyKind, Principal, Scope},
    new_id, programs,
};
pub use crate::store::holds::{Hold, HoldKind, Pause, PauseKind};
use crate::{
    domain::ids::{EnrollmentId, HoldId, OrganizationId, ProgramId},
    store::{Conn, enrollments, holds, instance, jobs, settlement},
};

/// Stops the payouts of an enrollment. It may be stopped several times, each for a reason of its own; the
/// same reason again while its stop is in force changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`] for an enrollment of another owner; [`Refusal::Invalid`] without a reason.
pub async fn hold(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    enrollment: &EnrollmentId,
    reason: &str,
) -> Result<Vec<Hold>, Refusal> {
    by.require(Scope::Settle)?;
    let reason = self::reason(reason)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let owner = require_enrollment(&mut tx, by, program, enrollment).await?;
    // Two requests at once find each other here.
    settlement::lock_enrollments(&mut tx, std::slice::from_ref(enrollment)).await?;
    let open = holds::list_open(&mut tx, enrollment).await?;
    if open.iter().any(|hold| hold.kind == HoldKind::Operator && hold.reason == reason) {
        return Ok(open);
    }
    let hold = Hold {
        id: new_id!(HoldId, now),
        enrollment_id: enrollment.clone(),
        kind: HoldKind::Operator,
        reason,
        actor: by.actor().to_owned(),
        placed_at: now,
    };
    holds::place(&mut tx, &hold).await?;
    let open = holds::list_open(&mut tx, enrollment).await?;
    let change = Change::new("enrollment.held", enrollment, Some(&owner)).after(&open);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(open)
}

/// Lets the payouts of an enrollment go on: lifts every stop on it.
///
/// # Errors
/// As [`hold`]; a conflict `HELD_AFTER_ANOMALY` when the program itself stopped it and the key is no
/// operator's: somebody with access to the provider must have looked.
pub async fn unhold(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    enrollment: &EnrollmentId,
) -> Result<(), Refusal> {
    by.require(Scope::Settle)?;
    let mut tx = app.db.begin().await?;
    let owner = require_enrollment(&mut tx, by, program, enrollment).await?;
    let open = holds::list_open(&mut tx, enrollment).await?;
    if by.kind() != KeyKind::Operator && open.iter().any(|hold| hold.kind == HoldKind::Anomaly) {
        return Err(Refusal::conflict(
            "HELD_AFTER_ANOMALY",
            "these payouts were stopped because the provider shows something else than was asked for; an \
             operator must look and lift it",
        ));
    }
    let now = app.now();
    holds::lift(&mut tx, enrollment, by.actor(), now).await?;
    jobs::wake_stopped(&mut tx, now).await?;
    let change = Change::new("enrollment.unheld", enrollment, Some(&owner)).before(&open);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    app.wake.dispatch.notify_one();
    Ok(())
}

/// The owner of an enrollment that exists for `by`.
async fn require_enrollment(
    conn: &mut Conn,
    by: &Principal,
    program: &ProgramId,
    enrollment: &EnrollmentId,
) -> Result<OrganizationId, Refusal> {
    let program = programs::visible(conn, by, program).await?;
    enrollments::find(conn, &program.id, enrollment).await?.ok_or(Refusal::NotFound)?;
    Ok(program.organization_id)
}

/// What the audit log calls all payouts of this database.
const ALL_PAYOUTS: &str = "payouts";

/// Stops all payouts of this database, of whichever node. The same reason again while its stop is in force
/// changes nothing.
///
/// # Errors
/// [`Refusal::Forbidden`] for any but an operator's key; [`Refusal::Invalid`] without a reason.
pub async fn pause(app: &App, by: &Principal, reason: &str) -> Result<Vec<Pause>, Refusal> {
    require_operator(by)?;
    by.require(Scope::Settle)?;
    let reason = self::reason(reason)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    // Two requests at once find each other here.
    instance::lock(&mut tx).await?;
    let open = holds::list_pauses(&mut tx).await?;
    if open.iter().any(|pause| pause.kind == PauseKind::Operator && pause.reason == reason) {
        return Ok(open);
    }
    let actor = by.actor().to_owned();
    let id = new_id!(HoldId, now);
    let pause = Pause { id, kind: PauseKind::Operator, reason, actor, paused_at: now };
    holds::pause(&mut tx, &pause).await?;
    let open = holds::list_pauses(&mut tx).await?;
    audit::record(&mut tx, by, Change::new("payouts.paused", ALL_PAYOUTS, None).after(&pause), now).await?;
    super::commit_change(tx).await?;
    Ok(open)
}

/// Lets payouts go on. A database that has gone back in time needs `confirm_restored`: the person says that
/// what the provider did meanwhile was compared. From then on every payout that the lost database may have
/// sent is looked up at the provider first.
///
/// # Errors
/// [`Refusal::Forbidden`] for any but an operator's key; a conflict `RESTORED` without the confirmation.
pub async fn resume(
    app: &App,
    by: &Principal,
    confirm_restored: bool,
    note: Option<&str>,
) -> Result<(), Refusal> {
    require_operator(by)?;
    by.require(Scope::Settle)?;
    let note = note.map(reason).transpose()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let open = holds::list_pauses(&mut tx).await?;
    let was_restored = open.iter().any(|pause| pause.kind == PauseKind::Restored);
    if was_restored && !confirm_restored {
        return Err(Refusal::conflict(
            "RESTORED",
            "payouts are paused because the database has gone back in time; compare it with the provider \
             first, then resume with the confirmation that this was done",
        ));
    }
    if was_restored {
        instance::confirm_restored(&mut tx, now).await?;
    }
    holds::resume(&mut tx, by.actor(), note.as_deref(), now).await?;
    jobs::wake_stopped(&mut tx, now).await?;
    let said = json!({ "confirm_restored": confirm_restored, "note": note });
    let change = Change::new("payouts.resumed", ALL_PAYOUTS, None).before(&open).after(&said);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    app.wake.dispatch.notify_one();
    Ok(())
}

/// What stops all payouts now; nothing: they go on.
///
/// # Errors
/// [`Refusal::Forbidden`] for any but an operator's key.
pub async fn status(app: &App, by: &Principal) -> Result<Vec<Pause>, Refusal> {
    require_operator(by)?;
    by.require(Scope::Read)?;
    Ok(holds::list_pauses(&mut app.db.read().await?).await?)
}

fn require_operator(by: &Principal) -> Result<(), Refusal> {
    match by.kind() {
        KeyKind::Operator => Ok(()),
        KeyKind::Organization | KeyKind::Client => {
            Err(Refusal::Forbidden("only an operator key stops or resumes all payouts"))
        }
    }
}

/// A person's own words: 1 to 1000 characters, none of which a database refuses or a terminal obeys.
fn reason(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    let is_layout = |c: char| matches!(c, '\n' | '\r' | '\t');
    let is_prose = text.chars().all(|c| !c.is_control() || is_layout(c));
    if text.is_empty() || text.chars().count() > 1_000 || !is_prose {
        let message = "reason must say why in 1 to 1000 characters, without control characters";
        return Err(Refusal::invalid("INVALID_REASON", "reason", message));
    }
    Ok(text.to_owned())
}
