//! What people decide: attribute, approve, reject, claw back. A decision is a row, and then the same
//! fold runs that events run (`rulings.md` 1).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    App, Refusal,
    audit::{self, Change},
    fold::{self, Counters, FoldAndRecordError},
    keys::{Principal, Scope},
    new_id,
};
use crate::{
    domain::{
        book::{CounterKey, FoldError, Sale, is_allowed},
        commission::{ClawbackReason, Commission, CommissionState, Decision, DecisionKind},
        ids::{ConversionId, DecisionId, EnrollmentId, OrganizationId, ProgramId, SaleId},
        ledger::Cause,
        program::normalise_code,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    store::{
        StoreError,
        commissions::{self, NewDecision},
        programs,
        views::{self, ConversionRow, DecidedRow},
    },
};

/// A decision to be taken.
#[derive(Clone, Debug)]
pub struct Request {
    /// About which sale; where it was merged, the decision is about the sale that carries it now.
    pub sale_id: SaleId,
    /// Whose commission.
    pub enrollment_id: EnrollmentId,
    /// What.
    pub kind: DecisionKind,
    /// For clawbacks.
    pub reason: Option<ClawbackReason>,
    /// For clawbacks: minor units of the commission, more than 0; absent takes all. For hold periods: days,
    /// as [`check_hold_period`] lets them through.
    pub amount: Option<i64>,
    /// The person's own words.
    pub note: Option<String>,
    /// Who decides.
    pub by: Principal,
    /// The caller's own key of this request: the same key takes the same decision once.
    pub idempotency_key: Option<String>,
}

/// The decision was not taken; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// There is no such sale.
    #[error("there is no such sale")]
    NoSale,
    /// The sale has no commission of this enrollment.
    #[error("the sale has no commission of this enrollment")]
    NoCommission,
    /// The commission is in a state that does not allow it.
    #[error("a commission that is {} cannot be decided on this way: {}", state.as_str(), possible(*kind))]
    NotAllowed {
        /// What was asked for.
        kind: DecisionKind,
        /// The state.
        state: CommissionState,
    },
    /// More than the commission, or nothing, would be clawed back.
    #[error("amount_cents must be between 1 and {commission}, the amount of the commission")]
    AmountOutside {
        /// The commission, minor units.
        commission: i64,
    },
    /// The caller's key took another decision before.
    #[error("this key has taken another decision before")]
    KeyReused,
    /// The sale is being merged again and again.
    #[error("the sale is being merged into another; try again")]
    Merging,
    /// A payout took part of the commission, so its attribution stands.
    #[error("a payout has claimed this sale's commission; its attribution cannot change")]
    Frozen,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sale cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The sale's rule counts what has to be locked first; the caller does, and never sees this.
    #[error("the sale is being counted; try again")]
    Uncounted(BTreeSet<CounterKey>),
}

/// What a decision can be about ([`is_allowed`]), for whoever asked for one that it cannot.
const fn possible(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Approve => "only what is awaiting_review or flagged can be approved",
        DecisionKind::Reject => {
            "only what is awaiting_review or flagged, or held and not approved by a person, can be rejected; \
             beyond that, claw it back"
        }
        DecisionKind::Clawback => "nothing of it is left to be clawed back",
        DecisionKind::HoldPeriod => {
            "only what is awaiting_review, flagged or held can be held for other days"
        }
        DecisionKind::Attribute | DecisionKind::TransferClawback => "that is not for people to decide",
    }
}

/// What a decision led to.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// The commission afterwards, if there is one.
    pub commission: Option<Commission>,
}

/// How often a decision is started again because another transaction was in the way.
const CONFLICTS_MAX: u32 = 8;

/// Stores a decision and folds the sale, in one transaction.
///
/// # Errors
/// [`DecideError`]; nothing is half done.
pub async fn decide(app: &App, request: &Request) -> Result<Decided, DecideError> {
    let mut conflicts = 0;
    let mut counters = Counters::default();
    loop {
        let error = match decide_once(app, request, &counters).await {
            Ok(decided) => return Ok(decided),
            Err(DecideError::Uncounted(keys)) if counters.extend(&keys) => continue,
            Err(error) => error,
        };
        let is_conflict = match &error {
            DecideError::Merging | DecideError::Uncounted(_) => true,
            // A taken key is the same request sent twice at once: the second try finds the decision.
            DecideError::Store(error) => error.is_retryable() || error.is_unique_violation(),
            DecideError::NoSale
            | DecideError::NoCommission
            | DecideError::NotAllowed { .. }
            | DecideError::AmountOutside { .. }
            | DecideError::KeyReused
            | DecideError::Frozen
            | DecideError::Fold(_) => false,
        };
        if !is_conflict || conflicts == CONFLICTS_MAX {
            return Err(error);
        }
        conflicts += 1;
        tokio::task::yield_now().await;
    }
}

async fn decide_once(app: &App, request: &Request, counters: &Counters) -> Result<Decided, DecideError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    counters.lock(&mut tx).await?;
    let sale_id = views::find_survivor(&mut tx, &request.sale_id).await?.ok_or(DecideError::NoSale)?;
    let mut book = fold::load(&mut tx, &BTreeSet::from([sale_id.clone()]), counters).await?;
    let sale = book.touch(&sale_id).ok_or(DecideError::NoSale)?;
    if sale.merged_into.is_some() {
        // It was merged between the look and the lock. Locking the next one now would be out of order.
        return Err(DecideError::Merging);
    }
    let id = decision_id(request, now);
    for known in std::iter::once(id.clone()).chain(former_id(request)) {
        if let Some(taken) = views::find_decision(&mut tx, &known).await? {
            return repeated(request, sale, &known, &taken);
        }
    }
    if let Some(standing) = standing(request, sale) {
        return Ok(standing);
    }
    check(request, sale)?;
    let (owner, was) = (sale.owner.clone(), commission_of(request, sale).map(told));
    let decision = Decision {
        id,
        enrollment_id: request.enrollment_id.clone(),
        commission_id: None,
        kind: request.kind,
        reason: request.reason,
        amount: request.amount,
        at: now,
    };
    let new = NewDecision {
        decision: decision.clone(),
        sale_id: sale_id.clone(),
        note: request.note.clone(),
        actor: request.by.actor().to_owned(),
    };
    commissions::insert_decision(&mut tx, &new).await?;
    sale.decisions.push(decision.clone());
    sale.causes.insert(Cause::Decision(decision.id.to_string()));
    if request.kind == DecisionKind::Approve {
        // Those of the sponsors too: the conversion is approved as a whole.
        let approved = sale.commissions.iter_mut();
        approved.for_each(|commission| commission.clear_flags(&decision.id, now));
    }
    match fold::fold_and_record(app, &mut tx, &mut book, now).await {
        Ok(_) => {}
        Err(FoldAndRecordError::Store(error)) => return Err(error.into()),
        Err(FoldAndRecordError::Fold(error)) => return Err(error.into()),
        Err(FoldAndRecordError::Uncounted(keys)) => return Err(DecideError::Uncounted(keys)),
    }
    let commission = book.sale(&sale_id).and_then(|sale| commission_of(request, sale)).cloned();
    let change = change(request, &sale_id, commission.as_ref(), &decision);
    let change = Change { organization_id: Some(owner), before: was, ..change };
    audit::record(&mut tx, &request.by, change, now).await?;
    failpoint::reach(Failpoint::DecideBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::DecideAfterCommit);
    Ok(Decided { decision, commission })
}

/// The id of the decision. With a key of the caller's it is made of caller and key alone, so that a key takes
/// one decision, for ever and whatever becomes of `app::idempotency`. It says nothing of the sale: a repeat
/// that meets the sale under the id of another, after a merge, is still a repeat.
fn decision_id(request: &Request, now: Timestamp) -> DecisionId {
    match &request.idempotency_key {
        None => new_id!(DecisionId, now),
        Some(key) => DecisionId::derived(&[request.by.actor(), key]),
    }
}

/// The id that a decision with this key had before its key alone named it. That program kept nothing else of the
/// request, so a repeat that comes after an upgrade is known by this only.
fn former_id(request: &Request) -> Option<DecisionId> {
    let key = request.idempotency_key.as_deref()?;
    let (kind, enrollment) = (request.kind.as_str(), request.enrollment_id.as_str());
    Some(DecisionId::derived(&[request.by.actor(), key, kind, enrollment]))
}

/// A commission as the audit log tells of it.
fn told(commission: &Commission) -> Value {
    json!({
        "commission_id": commission.id, "state": commission.state.as_str(), "currency": commission.currency,
        "amount_cents": commission.amount, "earned_cents": commission.earned,
        "clawed_cents": commission.clawed,
    })
}

/// What the decision changed. An attribution is about a sale, every other decision about a conversion.
fn change(request: &Request, sale: &SaleId, commission: Option<&Commission>, decision: &Decision) -> Change {
    let (action, is_about_sale) = match request.kind {
        DecisionKind::Attribute => ("sale.attributed", true),
        DecisionKind::Approve => ("conversion.approved", false),
        DecisionKind::Reject => ("conversion.rejected", false),
        DecisionKind::Clawback | DecisionKind::TransferClawback => ("conversion.clawed_back", false),
        DecisionKind::HoldPeriod => ("conversion.hold_changed", false),
    };
    let conversion = commission.filter(|_| !is_about_sale).map(|known| known.conversion_id.as_str());
    let after = json!({
        "decision_id": decision.id, "enrollment_id": decision.enrollment_id, "note": request.note,
        "reason": decision.reason.map(ClawbackReason::as_str), "amount_cents": decision.amount,
        "commission": commission.map(told),
    });
    Change::new(action, conversion.unwrap_or(sale.as_str()), None).after(&after)
}

fn commission_of<'s>(request: &Request, sale: &'s Sale) -> Option<&'s Commission> {
    sale.commissions.iter().find(|known| known.level == 0 && known.enrollment_id == request.enrollment_id)
}

/// The answer to a key that has taken a decision before: the same decision, if it is the same request.
/// Decisions follow their sale into a merge, so the sale is compared as it is now.
fn repeated(
    request: &Request,
    sale: &Sale,
    id: &DecisionId,
    taken: &DecidedRow,
) -> Result<Decided, DecideError> {
    let is_same = |known: &&Decision| {
        known.id == *id
            && known.kind == request.kind
            && known.enrollment_id == request.enrollment_id
            && known.reason == request.reason
            && known.amount == request.amount
            && taken.sale_id == sale.id.as_str()
            && taken.note == request.note
    };
    let decision = sale.decisions.iter().find(is_same).ok_or(DecideError::KeyReused)?.clone();
    Ok(Decided { decision, commission: commission_of(request, sale).cloned() })
}

/// The answer to an approval, a rejection or a hold period that was given before and stands.
fn standing(request: &Request, sale: &Sale) -> Option<Decided> {
    let commission = commission_of(request, sale);
    let stands = match request.kind {
        DecisionKind::Approve | DecisionKind::Reject => {
            commission.is_some_and(|known| !is_allowed(request.kind, known.state))
        }
        // The last one counts, so only the last one stands.
        DecisionKind::HoldPeriod => true,
        DecisionKind::Attribute | DecisionKind::Clawback | DecisionKind::TransferClawback => false,
    };
    let is_it =
        |known: &&Decision| known.kind == request.kind && known.enrollment_id == request.enrollment_id;
    let is_same =
        |known: &&Decision| request.kind != DecisionKind::HoldPeriod || known.amount == request.amount;
    let decision = sale.decisions.iter().rev().find(is_it).filter(is_same).filter(|_| stands)?.clone();
    Some(Decided { decision, commission: commission.cloned() })
}

/// Whether the commission's state allows the decision.
fn check(request: &Request, sale: &Sale) -> Result<(), DecideError> {
    let commissions = &sale.commissions;
    if request.kind == DecisionKind::Attribute {
        let elsewhere = |known: &&Commission| {
            known.level == 0 && known.claimed && known.enrollment_id != request.enrollment_id
        };
        return if commissions.iter().any(|known| elsewhere(&known)) {
            Err(DecideError::Frozen)
        } else {
            Ok(())
        };
    }
    let commission = commission_of(request, sale).ok_or(DecideError::NoCommission)?;
    // What a person approved is not turned down afterwards; that would be a clawback, with its reason.
    let was_reviewed = sale
        .decisions
        .iter()
        .any(|known| known.kind == DecisionKind::Approve && known.enrollment_id == request.enrollment_id);
    let is_too_late =
        request.kind == DecisionKind::Reject && commission.state == CommissionState::Held && was_reviewed;
    if is_too_late || !is_allowed(request.kind, commission.state) {
        return Err(DecideError::NotAllowed { kind: request.kind, state: commission.state });
    }
    if request.kind == DecisionKind::HoldPeriod {
        return Ok(());
    }
    // Of the commission and not of what is accrued: under review nothing is accrued yet, and a part may
    // be taken all the same.
    if request.amount.is_some_and(|amount| !(1..=commission.amount).contains(&amount)) {
        return Err(DecideError::AmountOutside { commission: commission.amount });
    }
    Ok(())
}

impl From<DecideError> for Refusal {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::NoSale | DecideError::NoCommission => Self::NotFound,
            DecideError::NotAllowed { .. } => Self::conflict("INVALID_STATE", error.to_string()),
            DecideError::AmountOutside { .. } => {
                Self::invalid("INVALID_AMOUNT", "amount_cents", error.to_string())
            }
            DecideError::KeyReused => Self::KeyReused,
            DecideError::Merging | DecideError::Uncounted(_) => {
                Self::conflict("SALE_MERGING", error.to_string())
            }
            DecideError::Frozen => Self::conflict("ATTRIBUTION_FROZEN", error.to_string()),
            DecideError::Store(error) => Self::Store(error),
            DecideError::Fold(_) => Self::conflict("NOT_COMPUTABLE", error.to_string()),
        }
    }
}

/// What a person decides about a conversion.
#[derive(Clone, Debug)]
pub struct OnConversion {
    /// Approve, reject, claw back or hold for other days.
    pub kind: DecisionKind,
    /// For clawbacks.
    pub reason: Option<ClawbackReason>,
    /// For clawbacks: minor units of the commission; absent takes all. For hold periods: days, 0 to 3650.
    pub amount: Option<i64>,
    /// The person's own words.
    pub note: Option<String>,
    /// The caller's own key of this request.
    pub idempotency_key: Option<String>,
}

/// Days that a commission can be held for.
///
/// # Errors
/// [`Refusal::Invalid`] with `INVALID_HOLD_PERIOD` for less than 0 or more than 3650 days.
pub fn check_hold_period(days: i64) -> Result<u16, Refusal> {
    u16::try_from(days).ok().filter(|days| *days <= 3_650).ok_or_else(|| {
        let message = "hold_period_days must be a whole number from 0 to 3650";
        Refusal::invalid("INVALID_HOLD_PERIOD", "hold_period_days", message)
    })
}

/// Decides about a conversion of a program. Where its sale was merged, this decides about the conversion
/// of the same affiliate that carries it now, and gives that one.
///
/// # Errors
/// [`Refusal::NotFound`] for a conversion of another program or owner, [`Refusal::Conflict`] when its
/// state does not allow it, [`Refusal::Invalid`] for an amount outside the commission.
pub async fn decide_conversion(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    conversion: &ConversionId,
    what: OnConversion,
) -> Result<ConversionRow, Refusal> {
    by.require(Scope::Decide)?;
    let row = {
        let mut conn = app.db.read().await?;
        let owner = views::program_owner(&mut conn, program).await?.ok_or(Refusal::NotFound)?;
        by.require_owner(&owner)?;
        views::find_conversion(&mut conn, conversion).await?.ok_or(Refusal::NotFound)?
    };
    if row.program_id != program.as_str() {
        return Err(Refusal::NotFound);
    }
    let request = Request {
        sale_id: SaleId::parse(&row.sale_id).map_err(|_| Refusal::NotFound)?,
        enrollment_id: EnrollmentId::parse(&row.enrollment_id).map_err(|_| Refusal::NotFound)?,
        kind: what.kind,
        reason: what.reason,
        amount: what.amount,
        note: what.note,
        by: by.clone(),
        idempotency_key: what.idempotency_key,
    };
    let decided = decide(app, &request).await?;
    let carrying = decided.commission.as_ref().map_or(conversion, |commission| &commission.conversion_id);
    let mut conn = app.db.read().await?;
    views::find_conversion(&mut conn, carrying).await?.ok_or(Refusal::NotFound)
}

/// Whom a sale is to be attributed to.
#[derive(Clone, Debug)]
pub enum To {
    /// An enrollment.
    Enrollment(EnrollmentId),
    /// The holder of a code.
    Code(String),
}

/// Attributes a sale by hand: support fixes a missed referral. The terms are those of the time the sale
/// was paid.
///
/// # Errors
/// [`Refusal::NotFound`] for a sale of another owner, [`Refusal::Invalid`] for an affiliate that is none
/// of the owner's, [`Refusal::Conflict`] once a payout took part of the commission.
pub async fn attribute_sale(
    app: &App,
    by: &Principal,
    sale: &str,
    to: To,
    note: String,
    idempotency_key: Option<String>,
) -> Result<Decided, Refusal> {
    by.require(Scope::Decide)?;
    let mut conn = app.db.read().await?;
    let id = views::find_sale(&mut conn, sale, by.organization_id()).await?.ok_or(Refusal::NotFound)?;
    let sale_id = SaleId::parse(&id).map_err(|_| Refusal::NotFound)?;
    let owner = super::explain::load_sale(&mut conn, &sale_id)
        .await?
        .map(|sale| sale.owner)
        .ok_or(Refusal::NotFound)?;
    let enrollment_id = enrollment_of(&mut conn, &owner, to).await?;
    drop(conn);
    let request = Request {
        sale_id,
        enrollment_id,
        kind: DecisionKind::Attribute,
        reason: None,
        amount: None,
        note: Some(note),
        by: by.clone(),
        idempotency_key,
    };
    Ok(decide(app, &request).await?)
}

/// The enrollment in a program of `owner`.
async fn enrollment_of(
    conn: &mut crate::store::Conn,
    owner: &OrganizationId,
    to: To,
) -> Result<EnrollmentId, Refusal> {
    let (codes, ids, param) = match to {
        To::Enrollment(id) => (Vec::new(), vec![id], "enrollment_id"),
        // A code with control characters is nobody's, and not every database can be asked for it.
        To::Code(code) if code.chars().any(char::is_control) => (Vec::new(), Vec::new(), "code"),
        To::Code(code) => (vec![(owner.clone(), normalise_code(&code))], Vec::new(), "code"),
    };
    let directory = programs::load_directory(conn, &codes, &ids).await?;
    let found = directory.enrollments.values().find(|enrollment| {
        directory
            .programs
            .get(&enrollment.program_id)
            .is_some_and(|program| program.organization_id == *owner)
    });
    found.map(|enrollment| enrollment.id.clone()).ok_or_else(|| {
        let code = if param == "code" { "UNKNOWN_CODE" } else { "UNKNOWN_ENROLLMENT" };
        let message = format!("{param} names no affiliate in a program of this sale's owner");
        Refusal::invalid(code, param, message)
    })
}
