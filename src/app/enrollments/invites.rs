//! The affiliate's side of joining: what it was invited to, accepting and declining, applying, and taking
//! over what was made for an e-mail address.
//!
//! Whoever is invited by e-mail has no organization yet, or one that the owner must not find out about.
//! So the enrollment is made for a new organization that stands in for the address, and a token that
//! opens it goes to the address. Whoever presents the token with a key of their own takes the enrollment
//! over. An address alone gives access to nothing: nobody has verified it.

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Admission, App, Principal, Refusal, Scope, admit, hash_of, locked, locked_own, next_status, random_text,
    set_status, visible,
};
use crate::{
    app::{
        audit::{self, Change},
        commit_change,
        keys::SECRET_LENGTH,
        notices,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::{EnrollmentStatus, ProgramStatus},
        time::Timestamp,
    },
    store::{
        Tx,
        enrollments::{
            self, EnrollmentDetails, Membership,
            codes::{self, IssuedCode},
            tokens,
        },
        organizations,
        programs::{self, Applications, ProgramDetails},
        refold,
    },
};

/// What every token starts with.
const TOKEN_PREFIX: &str = "inv_";

/// Gives an enrollment a fresh token of 260 random bits, which is mailed to the address where mail is on; the
/// one before opens nothing any more. None when it was taken over already.
pub(super) async fn give_token(
    app: &App,
    tx: &mut Tx,
    enrollment: &EnrollmentDetails,
    now: Timestamp,
) -> Result<Option<SecretString>, Refusal> {
    let token = SecretString::from(format!("{TOKEN_PREFIX}{}", random_text::<SECRET_LENGTH>()));
    if !tokens::put(tx, &enrollment.id, &hash_of(token.expose_secret()), now).await? {
        return Ok(None);
    }
    notices::invitation(app, tx, &enrollment.id, enrollment.status.value, &token, now).await?;
    Ok(Some(token))
}

/// A new token for an enrollment that was made for an address, in place of one that was lost. Where mail is
/// on, a new mail brings it.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` for an enrollment that was made for
/// an organization, was taken over, or is rejected.
pub async fn renew_token(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
) -> Result<(EnrollmentDetails, SecretString), Refusal> {
    by.require(Scope::Write)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let program = visible(&mut tx, by, program_id).await?;
    let enrollment = locked(&mut tx, program_id, id).await?;
    let message = "only an enrollment that was made for an address and waits for its owner has a token";
    let waits =
        tokens::is_waiting(&mut tx, id).await? && enrollment.status.value != EnrollmentStatus::Rejected;
    let token = if waits { give_token(app, &mut tx, &enrollment, now).await? } else { None };
    let token = token.ok_or_else(|| Refusal::conflict("INVALID_STATE", message))?;
    let change = Change::new("enrollment.token_renewed", id, Some(&program.organization_id));
    audit::record(&mut tx, by, change, now).await?;
    commit_change(tx).await?;
    Ok((enrollment, token))
}

/// An enrollment of the caller, with its live codes.
#[derive(Clone, Debug)]
pub struct OwnEnrollment {
    /// The enrollment and its program.
    pub membership: Membership,
    /// Newest first.
    pub codes: Vec<IssuedCode>,
}

/// The enrollments of the caller, newest first: all, or those of one status.
pub async fn list_own(
    app: &App,
    by: &Principal,
    status: Option<EnrollmentStatus>,
    before: Option<&EnrollmentId>,
    limit: i64,
) -> Result<Vec<OwnEnrollment>, Refusal> {
    by.require(Scope::Read)?;
    let own = by.require_member()?;
    let mut conn = app.db.read().await?;
    let memberships = enrollments::list_of(&mut conn, own, status, before, limit).await?;
    let ids: Vec<&EnrollmentId> = memberships.iter().map(|membership| &membership.enrollment.id).collect();
    let live = codes::list_live(&mut conn, &ids).await?;
    let with_codes = |membership: Membership| {
        let is_its = |code: &&IssuedCode| code.enrollment_id == membership.enrollment.id;
        let codes = live.iter().filter(is_its).cloned().collect();
        OwnEnrollment { membership, codes }
    };
    Ok(memberships.into_iter().map(with_codes).collect())
}

/// Accepts an invitation. Accepting it again changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` for what is not an invitation: only
/// the owner lets an applicant in, or somebody suspended back in.
pub async fn accept(app: &App, by: &Principal, id: &EnrollmentId) -> Result<EnrollmentDetails, Refusal> {
    use EnrollmentStatus::{Active, Invited, Pending, Rejected, Suspended};
    by.require(Scope::Write)?;
    let own = by.require_member()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let (program, mut enrollment) = locked_own(&mut tx, own, id).await?;
    match enrollment.status.value {
        Active => return Ok(enrollment),
        Invited => check_takes_members(&program)?,
        from @ (Pending | Rejected | Suspended) => {
            return Err(Refusal::invalid_state("an enrollment", from.as_str(), "accepted"));
        }
    }
    let change = Change::new("enrollment.accepted", id, Some(&program.organization_id)).before(&enrollment);
    let next = next_status(&enrollment.status, Active, now)?;
    set_status(app, &mut tx, &program.organization_id, &mut enrollment, next, now).await?;
    audit::record(&mut tx, by, change.after(&enrollment), now).await?;
    commit_change(tx).await?;
    Ok(enrollment)
}

/// Declines an invitation; only the owner lets in afterwards. Declining it again changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` for what is not an invitation.
pub async fn decline(app: &App, by: &Principal, id: &EnrollmentId) -> Result<EnrollmentDetails, Refusal> {
    use EnrollmentStatus::{Active, Invited, Pending, Rejected, Suspended};
    by.require(Scope::Write)?;
    let own = by.require_member()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let (program, mut enrollment) = locked_own(&mut tx, own, id).await?;
    match enrollment.status.value {
        Rejected => return Ok(enrollment),
        Invited => {}
        from @ (Pending | Active | Suspended) => {
            return Err(Refusal::invalid_state("an enrollment", from.as_str(), "declined"));
        }
    }
    let change = Change::new("enrollment.declined", id, Some(&program.organization_id)).before(&enrollment);
    let next = next_status(&enrollment.status, Rejected, now)?;
    set_status(app, &mut tx, &program.organization_id, &mut enrollment, next, now).await?;
    audit::record(&mut tx, by, change.after(&enrollment), now).await?;
    commit_change(tx).await?;
    Ok(enrollment)
}

fn check_takes_members(program: &ProgramDetails) -> Result<(), Refusal> {
    if program.status.value == ProgramStatus::Archived {
        return Err(Refusal::conflict("INVALID_STATE", "an archived program takes no enrollments"));
    }
    Ok(())
}

/// Takes over what was made for an address, and accepts it where it is an invitation. The same token
/// again, by the same organization, changes nothing.
///
/// What the address was known by is added to what the caller is known by: a purchase from it is a
/// self-referral before and after.
///
/// # Errors
/// [`Refusal::Invalid`] with `INVALID_TOKEN`, whatever is wrong with it; [`Refusal::Conflict`] with
/// `ALREADY_ENROLLED` where the caller is in the program on its own.
pub async fn accept_token(app: &App, by: &Principal, token: &str) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Write)?;
    let own = by.require_member()?;
    let hash = hash_of(token);
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let opens = tokens::find(&mut tx, &hash).await?.ok_or_else(invalid_token)?;
    // The program first, as everywhere: whoever joins it at the same time on their own waits, or is seen.
    if !programs::lock(&mut tx, &opens.program_id).await? {
        return Err(Refusal::NotFound);
    }
    let mut enrollment = locked(&mut tx, &opens.program_id, &opens.enrollment_id).await?;
    // Read again under the locks: it may have been used or replaced meanwhile.
    let opens = tokens::find(&mut tx, &hash).await?.ok_or_else(invalid_token)?;
    if opens.is_used {
        return if enrollment.organization_id == *own { Ok(enrollment) } else { Err(invalid_token()) };
    }
    if enrollment.status.value == EnrollmentStatus::Rejected {
        return Err(invalid_token());
    }
    let program = programs::find(&mut tx, &opens.program_id).await?.ok_or(Refusal::NotFound)?;
    check_takes_members(&program)?;
    let change = Change::new("enrollment.accepted", &enrollment.id, Some(&program.organization_id))
        .before(&enrollment);
    take_over(&mut tx, &program, &mut enrollment, own, now).await?;
    if enrollment.status.value == EnrollmentStatus::Invited {
        let next = next_status(&enrollment.status, EnrollmentStatus::Active, now)?;
        set_status(app, &mut tx, &program.organization_id, &mut enrollment, next, now).await?;
    } else {
        // Under the addresses of who takes it over, some of its sales may be purchases of their own.
        refold::request_enrollment(&mut tx, &enrollment.id, "enrollment_taken_over", now).await?;
    }
    audit::record(&mut tx, by, change.after(&enrollment), now).await?;
    commit_change(tx).await?;
    Ok(enrollment)
}

fn invalid_token() -> Refusal {
    let message = "this token opens nothing: it is mistyped, was used, was replaced or was withdrawn";
    Refusal::invalid("INVALID_TOKEN", "token", message)
}

/// Hands a locked enrollment to the organization that presented its token.
async fn take_over(
    tx: &mut Tx,
    program: &ProgramDetails,
    enrollment: &mut EnrollmentDetails,
    to: &OrganizationId,
    now: Timestamp,
) -> Result<(), Refusal> {
    if enrollments::is_enrolled(tx, &program.id, to).await? {
        let message = "your organization is enrolled in this program already";
        return Err(Refusal::conflict("ALREADY_ENROLLED", message));
    }
    tokens::mark_used(tx, &enrollment.id, now).await?;
    notices::withdraw(tx, &enrollment.id).await?;
    organizations::copy_addresses(tx, &enrollment.organization_id, to).await?;
    // Before the row changes hands: see `enrollments::hand_over`.
    programs::lock_directory(tx, &program.organization_id).await?;
    enrollments::hand_over(tx, &enrollment.id, to).await?;
    enrollment.organization_id = to.clone();
    Ok(())
}

/// Applies to a program that takes applications; the owner decides. To everybody else a program that
/// takes none does not exist.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `ALREADY_ENROLLED`.
pub async fn apply(app: &App, by: &Principal, program_id: &ProgramId) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Write)?;
    let own = by.require_member()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    if !programs::lock(&mut tx, program_id).await? {
        return Err(Refusal::NotFound);
    }
    let program = programs::find(&mut tx, program_id).await?.ok_or(Refusal::NotFound)?;
    let takes_applications =
        program.applications == Applications::Open && program.status.value == ProgramStatus::Active;
    if !takes_applications && !enrollments::is_enrolled(&mut tx, program_id, own).await? {
        return Err(Refusal::NotFound);
    }
    let admission = Admission {
        organization_id: own.clone(),
        parent_enrollment_id: None,
        commission_override: None,
        code: None,
        status: EnrollmentStatus::Pending,
    };
    let enrollment = admit(&mut tx, &program, admission, now).await?;
    notices::enrollment(app, &mut tx, &enrollment.id, &enrollment.status, now).await?;
    let owner = Some(&program.organization_id);
    let change = Change::new("enrollment.applied", &enrollment.id, owner).after(&enrollment);
    audit::record(&mut tx, by, change, now).await?;
    commit_change(tx).await?;
    Ok(enrollment)
}
