//! Codes: referral codes that affiliates put into links, and coupon codes that a provider's promotion
//! codes carry. An enrollment has any number at once.
//!
//! A code counts from the beginning of time until it is retired: sales that told it before it was made
//! were made for this affiliate, and sales paid before its end stay what they were. Only an owner
//! chooses the text; an affiliate gets a random one, so nobody poses as somebody else.

use serde_json::json;

use super::{App, Principal, Refusal, Scope, locked, locked_own, random_text, visible};
use crate::{
    app::{
        audit::{self, Change},
        commit_change,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::EnrollmentStatus,
        time::Timestamp,
    },
    store::{
        Tx,
        enrollments::{
            self,
            codes::{self, CodeKey, CodeKind, IssuedCode},
        },
        programs, refold,
    },
};

/// Most live codes of one enrollment.
const LIVE_MAX: i64 = 100;

/// Most referral codes that one enrollment gets within a day before it cannot rotate: every code is kept for
/// ever, because old sales name it.
const FRESH_MAX: i64 = 20;

/// Whether text can be a code: safe in a link and typed without doubt.
///
/// # Errors
/// [`Refusal::Invalid`] `INVALID_CODE`.
pub fn check(code: &str) -> Result<(), Refusal> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (2..=64).contains(&code.len()) && code.bytes().all(is_safe) {
        return Ok(());
    }
    Err(Refusal::invalid("INVALID_CODE", "code", "code must be 2 to 64 letters, digits, `_` or `-`"))
}

/// Stores the code that was asked for, or a random one.
pub(super) async fn give(
    tx: &mut Tx,
    owner: &OrganizationId,
    id: &EnrollmentId,
    kind: CodeKind,
    asked: Option<String>,
    now: Timestamp,
) -> Result<IssuedCode, Refusal> {
    let issued =
        |code| IssuedCode { enrollment_id: id.clone(), code, kind, created_at: now, retired_at: None };
    if let Some(code) = asked.map(issued) {
        return if codes::insert(tx, owner, &code).await? {
            Ok(code)
        } else {
            // Also when it was retired, and even by the same enrollment: old sales still name it.
            Err(Refusal::conflict("CODE_TAKEN", "this owner has given out this code already"))
        };
    }
    // 50 random bits: a second try is not seen in a lifetime, a third shows that randomness is broken.
    for _ in 0..3 {
        let code = issued(format!("aff_{}", random_text::<10>()));
        if codes::insert(tx, owner, &code).await? {
            return Ok(code);
        }
    }
    Err(Refusal::conflict("CODE_TAKEN", "no free code was found; give one"))
}

/// A code to be made by an owner.
#[derive(Clone, Debug)]
pub struct NewCode {
    /// 2 to 64 letters, digits, `_` and `-`; a random one by default.
    pub code: Option<String>,
    /// `referral` by default.
    pub kind: Option<String>,
}

/// Gives an enrollment a further code.
///
/// # Errors
/// [`Refusal::Invalid`]; [`Refusal::NotFound`]; [`Refusal::Conflict`] with `CODE_TAKEN`, `TOO_MANY_CODES`
/// or `INVALID_STATE`.
pub async fn create(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
    new: NewCode,
) -> Result<IssuedCode, Refusal> {
    by.require(Scope::Write)?;
    let kind = new.kind.as_deref().map_or(Some(CodeKind::Referral), CodeKind::parse);
    let kind =
        kind.ok_or_else(|| Refusal::invalid("INVALID_KIND", "kind", "kind must be `referral` or `coupon`"))?;
    if let Some(code) = &new.code {
        check(code)?;
    }
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let program = visible(&mut tx, by, program_id).await?;
    let enrollment = locked(&mut tx, program_id, id).await?;
    if enrollment.status.value == EnrollmentStatus::Rejected {
        return Err(Refusal::conflict("INVALID_STATE", "an enrollment that is rejected gets no codes"));
    }
    check_room(&mut tx, id).await?;
    let was_told = new.code.is_some() && enrollment.status.value == EnrollmentStatus::Active;
    let code = give(&mut tx, &program.organization_id, id, kind, new.code, now).await?;
    if was_told {
        // Sales may have told a chosen code before it was made; a random one nobody could know.
        programs::lock_directory(&mut tx, &program.organization_id).await?;
        refold::request_enrollment(&mut tx, id, "code_created", now).await?;
    }
    let change = Change::new("code.created", id, Some(&program.organization_id)).after(&code);
    audit::record(&mut tx, by, change, now).await?;
    commit_change(tx).await?;
    Ok(code)
}

async fn check_room(tx: &mut Tx, id: &EnrollmentId) -> Result<(), Refusal> {
    if codes::count_live(tx, id).await? < LIVE_MAX {
        return Ok(());
    }
    let message = format!("an enrollment has at most {LIVE_MAX} live codes; retire some");
    Err(Refusal::conflict("TOO_MANY_CODES", message))
}

/// The codes of an enrollment, newest first, the retired ones too.
pub async fn list(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
    before: Option<&CodeKey>,
    limit: i64,
) -> Result<Vec<IssuedCode>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    visible(&mut conn, by, program_id).await?;
    enrollments::find(&mut conn, program_id, id).await?.ok_or(Refusal::NotFound)?;
    Ok(codes::list(&mut conn, id, before, limit).await?)
}

/// Ends a code: what is sold from now on no longer counts by it. Ending it again changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`] for a code that is not of this enrollment.
pub async fn retire(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    id: &EnrollmentId,
    code: &str,
) -> Result<IssuedCode, Refusal> {
    by.require(Scope::Write)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let program = visible(&mut tx, by, program_id).await?;
    locked(&mut tx, program_id, id).await?;
    codes::mark_retired(&mut tx, id, code, now).await?;
    let code = codes::find(&mut tx, id, code).await?.ok_or(Refusal::NotFound)?;
    let change = Change::new("code.retired", id, Some(&program.organization_id)).after(&code);
    audit::record(&mut tx, by, change, now).await?;
    commit_change(tx).await?;
    Ok(code)
}

/// The codes of an enrollment of the caller, newest first, the retired ones too.
pub async fn list_own(
    app: &App,
    by: &Principal,
    id: &EnrollmentId,
    before: Option<&CodeKey>,
    limit: i64,
) -> Result<Vec<IssuedCode>, Refusal> {
    by.require(Scope::Read)?;
    let own = by.require_member()?;
    let mut conn = app.db.read().await?;
    enrollments::find_of(&mut conn, own, id).await?.ok_or(Refusal::NotFound)?;
    Ok(codes::list(&mut conn, id, before, limit).await?)
}

/// Gives an enrollment of the caller a fresh referral code, and on request ends the older ones in the
/// same step. Coupons are the owner's and go on.
///
/// # Errors
/// [`Refusal::NotFound`]; [`Refusal::Conflict`] with `INVALID_STATE` unless the enrollment is active, or
/// `TOO_MANY_CODES`, alive or within a day.
pub async fn rotate(
    app: &App,
    by: &Principal,
    id: &EnrollmentId,
    retire_others: bool,
) -> Result<IssuedCode, Refusal> {
    by.require(Scope::Write)?;
    let own = by.require_member()?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let (program, enrollment) = locked_own(&mut tx, own, id).await?;
    if enrollment.status.value != EnrollmentStatus::Active {
        let message = format!(
            "only an active enrollment gets codes of its own, and this one is {}",
            enrollment.status.value.as_str()
        );
        return Err(Refusal::conflict("INVALID_STATE", message));
    }
    if codes::count_referrals_since(&mut tx, id, now.plus_days(-1)).await? >= FRESH_MAX {
        let message =
            format!("an enrollment gets at most {FRESH_MAX} fresh codes within a day; try again later");
        return Err(Refusal::conflict("TOO_MANY_CODES", message));
    }
    if retire_others {
        codes::mark_referrals_retired(&mut tx, id, now).await?;
    }
    check_room(&mut tx, id).await?;
    let code = give(&mut tx, &program.organization_id, id, CodeKind::Referral, None, now).await?;
    let told = json!({ "code": code, "retired_others": retire_others });
    let change = Change::new("code.rotated", id, Some(&program.organization_id)).after(&told);
    audit::record(&mut tx, by, change, now).await?;
    commit_change(tx).await?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_short_and_safe_in_a_link() {
        for good in ["ab", "Summer-24_x", &"a".repeat(64)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "a b", "a/b", "café", "a%", &"a".repeat(65)] {
            assert_eq!(check(bad).unwrap_err().code(), "INVALID_CODE", "{bad}");
        }
    }
}
