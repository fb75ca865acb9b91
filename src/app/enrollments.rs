//! Enrollments: affiliates join a program, under a code, and are let in or kept out.
//!
//! The first activation holds from the beginning of time, as that of a program does
//! ([`super::programs`]), and sales of the past that name a code of the enrollment are folded again;
//! every later change holds from now on.

use super::{
    App, Refusal,
    keys::{Principal, Scope, random_text},
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
        enrollments::{self, EnrollmentDetails},
        organizations::{self, Organization},
        programs, refold,
    },
};

/// Who is enrolled.
#[derive(Clone, Debug)]
pub enum Affiliate {
    /// An organization that exists.
    Organization(OrganizationId),
    /// A new organization, made for this address.
    Email(String),
}

/// An enrollment to be made.
#[derive(Clone, Debug)]
pub struct NewEnrollment {
    /// Who.
    pub affiliate: Affiliate,
    /// The sponsor: an enrollment of the same program.
    pub parent_enrollment_id: Option<EnrollmentId>,
    /// 2 to 64 letters, digits, `_` and `-`; a random one by default.
    pub code: Option<String>,
    /// `active` by default: the owner asks, so nobody has to approve.
    pub status: Option<String>,
}

/// Enrolls an affiliate in a program.
///
/// # Errors
/// [`Refusal::Invalid`]; [`Refusal::NotFound`] for a program or organization that does not exist for
/// `by`; [`Refusal::Conflict`] with `ALREADY_ENROLLED`, `CODE_TAKEN` or `INVALID_STATE`.
pub async fn create(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    new: NewEnrollment,
) -> Result<EnrollmentDetails, Refusal> {
    by.require(Scope::Write)?;
    let status = first_status(new.status.as_deref())?;
    if let Some(code) = &new.code {
        check_code(code)?;
    }
    let now = app.now();
    let mut tx = app.db.begin().await?;
    // Held so that the program cannot be archived meanwhile.
    if !programs::lock(&mut tx, program_id).await? {
        return Err(Refusal::NotFound);
    }
    let program = visible(&mut tx, by, program_id).await?;
    if program.status.value == ProgramStatus::Archived {
        return Err(Refusal::conflict("INVALID_STATE", "an archived program takes no enrollments"));
    }
    if let Some(parent) = &new.parent_enrollment_id
        && enrollments::find(&mut tx, program_id, parent).await?.is_none()
    {
        let message = "parent_enrollment_id must be an enrollment of the same program";
        return Err(Refusal::invalid("INVALID_PARENT", "parent_enrollment_id", message));
    }
    let mut enrollment = EnrollmentDetails {
        id: new_id!(EnrollmentId, now),
        program_id: program_id.clone(),
        organization_id: affiliate(&mut tx, new.affiliate, now).await?,
        parent_enrollment_id: new.parent_enrollment_id,
        code: String::new(),
        created_at: now,
        status: Dated { at: Timestamp::EPOCH, value: status },
    };
    if !enrollments::insert(&mut tx, &enrollment).await? {
        let message = "this organization is enrolled in the program already";
        return Err(Refusal::conflict("ALREADY_ENROLLED", message));
    }
    enrollments::insert_status(&mut tx, &enrollment.id, &enrollment.status).await?;
    notices::enrollment(app, &mut tx, &enrollment.id, &enrollment.status, now).await?;
    enrollment.code = give_code(&mut tx, &program.organization_id, &enrollment.id, new.code).await?;
    if status == EnrollmentStatus::Active {
        // The code is valid from the beginning of time, and sales may have told it before it was made.
        programs::lock_directory(&mut tx, &program.organization_id).await?;
        refold::request_enrollment(&mut tx, &enrollment.id, "code_created", now).await?;
    }
    tx.commit().await?;
    Ok(enrollment)
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

fn check_code(code: &str) -> Result<(), Refusal> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (2..=64).contains(&code.len()) && code.bytes().all(is_safe) {
        return Ok(());
    }
    Err(Refusal::invalid("INVALID_CODE", "code", "code must be 2 to 64 letters, digits, `_` or `-`"))
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

/// Stores the code that was asked for, or a random one.
async fn give_code(
    tx: &mut Tx,
    owner: &OrganizationId,
    id: &EnrollmentId,
    asked: Option<String>,
) -> Result<String, Refusal> {
    if let Some(code) = asked {
        return if enrollments::insert_code(tx, owner, id, &code).await? {
            Ok(code)
        } else {
            Err(Refusal::conflict("CODE_TAKEN", "another enrollment of this owner has this code"))
        };
    }
    // 50 random bits: a second try is not seen in a lifetime, a third shows that randomness is broken.
    for _ in 0..3 {
        let code = format!("aff_{}", random_text::<10>());
        if enrollments::insert_code(tx, owner, id, &code).await? {
            return Ok(code);
        }
    }
    Err(Refusal::conflict("CODE_TAKEN", "no free code was found; give one"))
}

/// What an owner says about an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it earn.
    Approve,
    /// Turn it down, for good.
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
    if !enrollments::lock(&mut tx, program_id, id).await? {
        return Err(Refusal::NotFound);
    }
    let mut enrollment = enrollments::find(&mut tx, program_id, id).await?.ok_or(Refusal::NotFound)?;
    let next = next_status(&enrollment.status, verdict.status(), now)?;
    if next != enrollment.status {
        enrollments::insert_status(&mut tx, id, &next).await?;
        notices::enrollment(app, &mut tx, id, &next, now).await?;
        if next.value == EnrollmentStatus::Active && next.at < now {
            programs::lock_directory(&mut tx, &program.organization_id).await?;
            refold::request_enrollment(&mut tx, id, "affiliate_activated", now).await?;
        }
        enrollment.status = next;
        tx.commit().await?;
    }
    Ok(enrollment)
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
        (Suspended, Active) | (Active, Suspended) | (Invited | Pending | Active, Rejected) => {
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

    #[test]
    fn codes_are_short_and_safe_in_a_link() {
        for good in ["ab", "Summer-24_x", &"a".repeat(64)] {
            assert!(check_code(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "a b", "a/b", "café", "a%", &"a".repeat(65)] {
            assert_eq!(check_code(bad).unwrap_err().code(), "INVALID_CODE", "{bad}");
        }
    }
}
