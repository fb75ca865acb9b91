//! Enrollments: affiliates join a program, under a code, and are let in or kept out.
//!
//! Here is what an owner does. The affiliate's side is `invites.rs`, codes are `codes.rs`, sponsors and
//! rates `terms.rs`.
//!
//! The first activation holds from the beginning of time, as that of a program does
//! ([`super::programs`]), and sales of the past that name a code of the enrollment are folded again;
//! every later change holds from now on.

pub mod codes;
pub mod invites;
mod terms;

use secrecy::SecretString;
use serde_json::Value;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope, hash_of, random_text},
    new_id, notices,
    organizations::address,
    programs::{later, visible},
};
use crate::{
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::{Dated, EnrollmentStatus, ProgramStatus},
        time::Timestamp,
    },
    store::{
        Tx,
        enrollments::{self, EnrollmentDetails, codes::CodeKind},
        organizations::{self, Organization},
        programs::{self, ProgramDetails},
        refold,
    },
};

/// Who is enrolled.
#[derive(Clone, Debug)]
pub enum Affiliate {
    /// An organization that exists.
    Organization(OrganizationId),
    /// Whoever reads this address: see [`invites`].
    Email(String),
}

/// An enrollment to be made.
#[derive(Clone, Debug)]
pub struct NewEnrollment {
    /// Who.
    pub affiliate: Affiliate,
    /// The sponsor: an enrollment of the same program.
    pub parent_enrollment_id: Option<EnrollmentId>,
    /// What it earns instead of what the program says: `{"bps"}` or `{"amount_cents", "currency"}`.
    pub commission_override: Option<Value>,
    /// 2 to 64 letters, digits, `_` and `-`; a random one by default.
    pub code: Option<String>,
    /// `active` by default: the owner asks, so nobody has to approve.
    pub status: Option<String>,
}

/// An enrollment that was made.
#[derive(Debug)]
pub struct Enrolled {
    /// The enrollment.
    pub enrollment: EnrollmentDetails,
    /// What opens it, where it was made for an address: the only time this text exists.
    pub token: Option<SecretString>,
}

/// Enrolls an affiliate in a program.
///
/// # Errors
/// [`Refusal::Invalid`]; [`Refusal::NotFound`] for a program or organization that does not exist for
/// `by`; [`Refusal::Conflict`] with `ALREADY_ENROLLED`, `CODE_TAKEN`, `SPONSOR_TOO_DEEP` or
/// `INVALID_STATE`.
pub async fn create(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    new: NewEnrollment,
) -> Result<Enrolled, Refusal> {
    by.require(Scope::Write)?;
    let status = first_status(new.status.as_deref())?;
    let commission_override = new.commission_override.map(terms::rate).transpose()?.flatten();
    let is_by_email = matches!(new.affiliate, Affiliate::Email(_));
    let now = app.now();
    let mut tx = app.db.begin().await?;
    // Held so that the program cannot be archived meanwhile, and its sponsors stay as they are.
    if !programs::lock(&mut tx, program_id).await? {
        return Err(Refusal::NotFound);
    }
    let program = visible(&mut tx, by, program_id).await?;
    if program.status.value == ProgramStatus::Archived {
        return Err(Refusal::conflict("INVALID_STATE", "an archived program takes no enrollments"));
    }
    let admission = Admission {
        organization_id: affiliate(&mut tx, new.affiliate, now).await?,
        parent_enrollment_id: new.parent_enrollment_id,
        commission_override,
        code: new.code,
        status,
    };
    let enrollment = admit(&mut tx, &program, admission, now).await?;
    let token = if is_by_email {
        invites::give_token(app, &mut tx, &enrollment, now).await?
    } else {
        notices::enrollment(app, &mut tx, &enrollment.id, &enrollment.status, now).await?;
        None
    };
    let owner = Some(&program.organization_id);
    let change = Change::new("enrollment.created", &enrollment.id, owner).after(&enrollment);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(Enrolled { enrollment, token })
}

fn first_status(word: Option<&str>) -> Result<EnrollmentStatus, Refusal> {
    use EnrollmentStatus::{Active, Invited, Pending, Rejected, Suspended};
    match word.map(EnrollmentStatus::parse) {
        None => Ok(Active),
        Some(Some(status @ (Invited | Pending | Active))) => Ok(status),
        Some(Some(Rejected | Suspended) | None) => {
            let message = "a new enrollment is `active`, `pending` or `invited`";
            Err(Refusal::invalid("INVALID_STATUS", "status", message))
        }
    }
}

async fn affiliate(tx: &mut Tx, affiliate: Affiliate, now: Timestamp) -> Result<OrganizationId, Refusal> {
    match affiliate {
        Affiliate::Organization(id) => Ok(organizations::find(tx, &id).await?.ok_or(Refusal::NotFound)?.id),
        Affiliate::Email(text) => {
            let email = address(&text)?;
            // Always a new one: whether an address is known already is not for an owner to find out.
            let id = new_id!(OrganizationId, now);
            let organization = Organization { id, name: email.clone(), email: Some(email), created_at: now };
            organizations::insert(tx, &organization).await?;
            Ok(organization.id)
        }
    }
}

/// An organization that joins a program, and how.
struct Admission {
    organization_id: OrganizationId,
    parent_enrollment_id: Option<EnrollmentId>,
    commission_override: Option<Value>,
    code: Option<String>,
    status: EnrollmentStatus,
}

/// Makes the rows of an enrollment. The caller holds the program locked, and tells the affiliate.
async fn admit(
    tx: &mut Tx,
    program: &ProgramDetails,
    new: Admission,
    now: Timestamp,
) -> Result<EnrollmentDetails, Refusal> {
    if let Some(code) = &new.code {
        codes::check(code)?;
    }
    let mut enrollment = EnrollmentDetails {
        id: new_id!(EnrollmentId, now),
        program_id: program.id.clone(),
        organization_id: new.organization_id,
        parent_enrollment_id: new.parent_enrollment_id,
        commission_override: new.commission_override,
        code: String::new(),
        created_at: now,
        status: Dated { at: Timestamp::EPOCH, value: new.status },
    };
    if !enrollments::insert(tx, &enrollment).await? {
        let message = "this organization is enrolled in the program already";
        return Err(Refusal::conflict("ALREADY_ENROLLED", message));
    }
    enrollments::insert_status(tx, &enrollment.id, &enrollment.status).await?;
    if let Some(parent) = &enrollment.parent_enrollment_id {
        terms::place_new(tx, &program.id, &enrollment.id, parent).await?;
    }
    if let Some(rate) = &enrollment.commission_override {
        terms::set_rate(tx, &enrollment.id, Some(rate.clone()), Timestamp::EPOCH).await?;
    }
    let was_told = new.code.is_some() && new.status == EnrollmentStatus::Active;
    let code =
        codes::give(tx, &program.organization_id, &enrollment.id, CodeKind::Referral, new.code, now).await?;
    enrollment.code = code.code;
    if was_told {
        // The code is valid from the beginning of time, and sales may have told it before it was made.
        programs::lock_directory(tx, &program.organization_id).await?;
        refold::request_enrollment(tx, &enrollment.id, "code_created", now).await?;
    }
    Ok(enrollment)
}

/// An enrollment of a program, locked.
async fn locked(
    tx: &mut Tx,
    program_id: &ProgramId,
    id: &EnrollmentId,
) -> Result<EnrollmentDetails, Refusal> {
    if !enrollments::lock(tx, program_id, id).await? {
        return Err(Refusal::NotFound);
    }
    enrollments::find(tx, program_id, id).await?.ok_or(Refusal::NotFound)
}

/// An enrollment of an affiliate, locked, and its program.
async fn locked_own(
    tx: &mut Tx,
    own: &OrganizationId,
    id: &EnrollmentId,
) -> Result<(ProgramDetails, EnrollmentDetails), Refusal> {
    let found = enrollments::find_of(tx, own, id).await?.ok_or(Refusal::NotFound)?;
    let program = programs::find(tx, &found.program_id).await?.ok_or(Refusal::NotFound)?;
    let enrollment = locked(tx, &found.program_id, id).await?;
    // It may have changed hands before the lock was there.
    if enrollment.organization_id == *own { Ok((program, enrollment)) } else { Err(Refusal::NotFound) }
}

/// What is to change of an enrollment. Absent keeps what is there, an inner none takes it away.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The sponsor.
    pub parent_enrollment_id: Option<Option<EnrollmentId>>,
    /// The rate, as [`NewEnrollment::commission_override`]; null takes it away.
    pub commission_override: Option<Value>,
}

/// Changes what differs for one enrollment, for what is sold from now on. What is the same already
/// changes nothing.
///
/// # Errors
/// [`Refusal::Invalid`]; [`Refusal::NotFound`]; [`Refusal::Conflict`] with `SPONSOR_CYCLE` or
/// `SPONSOR_TOO_DEEP`.
pub async fn update(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
    change: Changes,
) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Write)?;
    let rate = change.commission_override.map(terms::rate).transpose()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    if !programs::lock(&mut tx, program_id).await? {
        return Err(Refusal::NotFound);
    }
    let program = visible(&mut tx, by, program_id).await?;
    let mut enrollment = locked(&mut tx, program_id, id).await?;
    let audited = Change::new("enrollment.updated", id, Some(&program.organization_id)).before(&enrollment);
    if let Some(parent) = change.parent_enrollment_id
        && parent != enrollment.parent_enrollment_id
    {
        terms::place(&mut tx, program_id, id, parent.as_ref(), now).await?;
        enrollment.parent_enrollment_id = parent;
    }
    if let Some(rate) = rate
        && rate != enrollment.commission_override
    {
        terms::set_rate(&mut tx, id, rate.clone(), now).await?;
        enrollment.commission_override = rate;
    }
    audit::record(&mut tx, by, audited.after(&enrollment), now).await?;
    super::commit_change(tx).await?;
    Ok(enrollment)
}

/// One enrollment.
pub async fn find(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    visible(&mut conn, by, program_id).await?;
    enrollments::find(&mut conn, program_id, id).await?.ok_or(Refusal::NotFound)
}

/// What an owner says about an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it earn.
    Approve,
    /// Turn it down. An approval is the only way back.
    Reject,
    /// Let it earn nothing new.
    Suspend,
}

impl Verdict {
    /// The status it leads to.
    const fn status(self) -> EnrollmentStatus {
        match self {
            Self::Approve => EnrollmentStatus::Active,
            Self::Reject => EnrollmentStatus::Rejected,
            Self::Suspend => EnrollmentStatus::Suspended,
        }
    }

    /// What the audit log calls it.
    const fn action(self) -> &'static str {
        match self {
            Self::Approve => "enrollment.approved",
            Self::Reject => "enrollment.rejected",
            Self::Suspend => "enrollment.suspended",
        }
    }
}

/// Says something about an enrollment. Saying it again changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` where it cannot follow.
pub async fn judge(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
    verdict: Verdict,
) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Write)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let program = visible(&mut tx, by, program_id).await?;
    let mut enrollment = locked(&mut tx, program_id, id).await?;
    let next = next_status(&enrollment.status, verdict.status(), now)?;
    if next != enrollment.status {
        let change = Change::new(verdict.action(), id, Some(&program.organization_id)).before(&enrollment);
        set_status(app, &mut tx, &program.organization_id, &mut enrollment, next, now).await?;
        audit::record(&mut tx, by, change.after(&enrollment), now).await?;
        super::commit_change(tx).await?;
    }
    Ok(enrollment)
}

/// Lets a status hold, and has sales of the past folded again where they begin to count.
async fn set_status(
    app: &App,
    tx: &mut Tx,
    owner: &OrganizationId,
    enrollment: &mut EnrollmentDetails,
    next: Dated<EnrollmentStatus>,
    now: Timestamp,
) -> Result<(), Refusal> {
    enrollments::insert_status(tx, &enrollment.id, &next).await?;
    notices::enrollment(app, tx, &enrollment.id, &next, now).await?;
    if next.value == EnrollmentStatus::Rejected {
        notices::withdraw(tx, &enrollment.id).await?;
    }
    if next.value == EnrollmentStatus::Active && next.at < now {
        programs::lock_directory(tx, owner).await?;
        refold::request_enrollment(tx, &enrollment.id, "affiliate_activated", now).await?;
    }
    enrollment.status = next;
    Ok(())
}

/// The status that follows `old`, and from when. The same status again changes nothing.
fn next_status(
    old: &Dated<EnrollmentStatus>,
    to: EnrollmentStatus,
    now: Timestamp,
) -> Result<Dated<EnrollmentStatus>, Refusal> {
    use EnrollmentStatus::{Active, Invited, Pending, Rejected, Suspended};
    let at = match (old.value, to) {
        (from, to) if from == to => return Ok(old.clone()),
        // Sales that were made before the approval were made for this affiliate all the same.
        (Invited | Pending, Active) => later(Timestamp::EPOCH, old.at),
        (Suspended | Rejected, Active) | (Active, Suspended) | (Invited | Pending | Active, Rejected) => {
            later(now, old.at)
        }
        (
            Invited | Pending | Active | Rejected | Suspended,
            Invited | Pending | Active | Rejected | Suspended,
        ) => {
            return Err(Refusal::invalid_state("an enrollment", old.value.as_str(), to.as_str()));
        }
    };
    Ok(Dated { at, value: to })
}

/// The enrollments of a program, newest first.
pub async fn list(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    before: Option<&EnrollmentId>,
    limit: i64,
) -> Result<Vec<EnrollmentDetails>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    visible(&mut conn, by, program_id).await?;
    Ok(enrollments::list(&mut conn, program_id, before, limit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

    #[test]
    fn verdicts_follow_only_as_documented() {
        use EnrollmentStatus::{Active, Invited, Pending, Rejected, Suspended};
        let allowed = [
            (Invited, Active),
            (Pending, Active),
            (Suspended, Active),
            (Rejected, Active),
            (Invited, Rejected),
            (Pending, Rejected),
            (Active, Rejected),
            (Active, Suspended),
        ];
        for from in [Invited, Pending, Active, Rejected, Suspended] {
            for verdict in [Verdict::Approve, Verdict::Reject, Verdict::Suspend] {
                let (old, to) = (Dated { at: NOW, value: from }, verdict.status());
                match next_status(&old, to, NOW.plus_secs(1)) {
                    Ok(next) if from == to => assert_eq!(next, old),
                    Ok(next) => {
                        assert!(allowed.contains(&(from, to)), "{from:?} to {to:?}");
                        assert_eq!(next.value, to);
                    }
                    Err(refusal) => {
                        assert!(!allowed.contains(&(from, to)) && from != to, "{from:?} to {to:?}");
                        assert_eq!(refusal.code(), "INVALID_STATE");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_approval_counts_for_history_and_a_return_does_not() {
        let pending = Dated { at: Timestamp::EPOCH, value: EnrollmentStatus::Pending };
        let active = next_status(&pending, EnrollmentStatus::Active, NOW).unwrap();
        assert_eq!(active.at, Timestamp::from_micros(1));
        let suspended = next_status(&active, EnrollmentStatus::Suspended, NOW).unwrap();
        assert_eq!(suspended.at, NOW);
        let back = next_status(&suspended, EnrollmentStatus::Active, NOW).unwrap();
        assert_eq!(back.at, NOW.plus_micros(1));
    }
}
