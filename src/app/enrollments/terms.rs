//! What differs for one enrollment: who sponsors it, and what it earns instead of what its program says.
//!
//! Given when the enrollment is made, both hold from the beginning, as its first status does. A later
//! change holds for what is sold from now on and re-prices nothing. What a sponsor earns is decided by
//! the fold, not here.

use serde::Deserialize;
use serde_json::Value;

use super::{Refusal, later};
use crate::{
    domain::{
        ids::{EnrollmentId, ProgramId},
        money::{BasisPoints, Currency},
        program::Dated,
        time::Timestamp,
    },
    store::{Tx, enrollments, enrollments::terms},
};

/// Most sponsors above one enrollment.
const LEVELS_MAX: i64 = 10;

/// The forms of a rate.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
#[expect(dead_code, reason = "only whether a document has the form matters")]
enum Rate {
    Share { bps: BasisPoints },
    Flat { amount_cents: i64, currency: Currency },
}

/// A `commission_override` as a caller gives it: `{"bps"}` of 0 to 10 000, `{"amount_cents", "currency"}`
/// with minor units of 0 or more, or null for none.
pub(super) fn rate(document: Value) -> Result<Option<Value>, Refusal> {
    if document.is_null() {
        return Ok(None);
    }
    match Rate::deserialize(&document) {
        Ok(Rate::Share { .. }) => Ok(Some(document)),
        Ok(Rate::Flat { amount_cents, currency }) if amount_cents >= 0 && currency.is_listed() => {
            Ok(Some(document))
        }
        Ok(Rate::Flat { .. }) | Err(_) => Err(Refusal::invalid(
            "INVALID_COMMISSION_OVERRIDE",
            "commission_override",
            "commission_override must be {\"bps\": 0 to 10000}, {\"amount_cents\": 0 or more, \"currency\": \
             three letters of ISO 4217}, or null",
        )),
    }
}

/// Lets `rate` hold from `at`, or just after the last change.
pub(super) async fn set_rate(
    tx: &mut Tx,
    id: &EnrollmentId,
    rate: Option<Value>,
    at: Timestamp,
) -> Result<(), Refusal> {
    let at = terms::last_rate_change(tx, id).await?.map_or(at, |last| later(at, last));
    terms::insert_rate(tx, id, &Dated { at, value: rate }).await?;
    Ok(())
}

/// Places an enrollment that was just made, and is nobody's sponsor, from the beginning.
///
/// The caller holds the program locked.
pub(super) async fn place_new(
    tx: &mut Tx,
    program_id: &ProgramId,
    id: &EnrollmentId,
    parent: &EnrollmentId,
) -> Result<(), Refusal> {
    check_place(tx, program_id, id, parent).await?;
    let sponsor = Dated { at: Timestamp::EPOCH, value: Some(parent.clone()) };
    terms::insert_sponsor(tx, id, &sponsor).await?;
    Ok(())
}

/// Places an enrollment under another one, or under none, from `now`.
///
/// The caller holds the program locked, so that two changes that are each right cannot close a circle
/// together.
pub(super) async fn place(
    tx: &mut Tx,
    program_id: &ProgramId,
    id: &EnrollmentId,
    parent: Option<&EnrollmentId>,
    now: Timestamp,
) -> Result<(), Refusal> {
    if let Some(parent) = parent {
        check_place(tx, program_id, id, parent).await?;
    }
    // Behind the last change of any enrollment of the program, whatever the clock says: then what holds
    // at any instant is what some change has checked.
    let last = terms::last_sponsor_change(tx, program_id).await?;
    let at = last.map_or(now, |last| later(now, last));
    terms::insert_sponsor(tx, id, &Dated { at, value: parent.cloned() }).await?;
    Ok(())
}

/// Whether `parent` can be the sponsor of `id`.
async fn check_place(
    tx: &mut Tx,
    program_id: &ProgramId,
    id: &EnrollmentId,
    parent: &EnrollmentId,
) -> Result<(), Refusal> {
    if enrollments::find(tx, program_id, parent).await?.is_none() {
        let message = "parent_enrollment_id must be an enrollment of the same program";
        return Err(Refusal::invalid("INVALID_PARENT", "parent_enrollment_id", message));
    }
    let above = terms::uplines(tx, parent, LEVELS_MAX.saturating_add(1)).await?;
    if parent == id || above.contains(id) {
        let message = "an enrollment cannot be above itself";
        return Err(Refusal::conflict("SPONSOR_CYCLE", message));
    }
    let below = terms::levels_below(tx, id, LEVELS_MAX).await?;
    let levels = i64::try_from(above.len()).unwrap_or(i64::MAX).saturating_add(1).saturating_add(below);
    if levels > LEVELS_MAX {
        let message = format!("at most {LEVELS_MAX} sponsors can be above an enrollment");
        return Err(Refusal::conflict("SPONSOR_TOO_DEEP", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rate_is_a_share_an_amount_or_nothing() {
        for good in [
            json!({"bps": 0}),
            json!({"bps": 10_000}),
            json!({"amount_cents": 0, "currency": "usd"}),
            json!({"amount_cents": 500, "currency": "jpy"}),
        ] {
            assert_eq!(rate(good.clone()).unwrap(), Some(good));
        }
        assert_eq!(rate(Value::Null).unwrap(), None);
        for bad in [
            json!({}),
            json!(2000),
            json!("20%"),
            json!({"bps": -1}),
            json!({"bps": 10_001}),
            json!({"bps": 12.5}),
            json!({"bps": 100, "cap": 5}),
            json!({"bps": 100, "amount_cents": 5, "currency": "usd"}),
            json!({"amount_cents": 500}),
            json!({"amount_cents": -1, "currency": "usd"}),
            json!({"amount_cents": 5.5, "currency": "usd"}),
            json!({"amount_cents": 5, "currency": "dollars"}),
            json!({"amount_cents": 5, "currency": "udd"}),
        ] {
            assert_eq!(rate(bad.clone()).unwrap_err().code(), "INVALID_COMMISSION_OVERRIDE", "{bad}");
        }
    }
}
