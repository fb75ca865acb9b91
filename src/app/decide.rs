//! What people decide: attribute, approve, reject, claw back. A decision is a row, and then the same
//! fold runs that events run (`rulings.md` 1).

use std::collections::BTreeSet;

use super::{
    App, Refusal,
    fold::{self, FoldAndRecordError},
    keys::{Principal, Scope},
    new_id,
};
use crate::{
    domain::{
        book::{FoldError, Sale, is_allowed},
        commission::{ClawbackReason, Commission, CommissionState, Decision, DecisionKind},
        ids::{DecisionId, EnrollmentId, OrganizationId, ProgramId, SaleId},
        ledger::Cause,
        program::normalise_code,
    },
    failpoint::{self, Failpoint},
    store::{
        StoreError,
        commissions::{self, NewDecision},
        programs,
        views::{self, ConversionRow},
    },
};

/// A decision to be taken.
#[derive(Clone, Debug)]
pub struct Request {
    /// About which sale.
    pub sale_id: SaleId,
    /// Whose commission.
    pub enrollment_id: EnrollmentId,
    /// What.
    pub kind: DecisionKind,
    /// For clawbacks.
    pub reason: Option<ClawbackReason>,
    /// For clawbacks: minor units of the commission, more than 0; absent takes all.
    pub amount: Option<i64>,
    /// The person's own words.
    pub note: Option<String>,
    /// The key that decides.
    pub actor: String,
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
    #[error("a commission that is {} cannot be decided on this way", state.as_str())]
    NotAllowed {
        /// The state.
        state: CommissionState,
    },
    /// A payout took part of the commission, so its attribution stands.
    #[error("a payout has claimed this sale's commission; its attribution cannot change")]
    Frozen,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sale cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// What a decision led to.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// The commission afterwards, if there is one.
    pub commission: Option<Commission>,
}

/// Stores a decision and folds the sale, in one transaction.
///
/// # Errors
/// [`DecideError`]; nothing is half done.
pub async fn decide(app: &App, request: &Request) -> Result<Decided, DecideError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let only = BTreeSet::from([request.sale_id.clone()]);
    let mut book = match fold::load(&mut tx, &only).await {
        Err(StoreError::RowsAffected { .. }) => return Err(DecideError::NoSale),
        book => book?,
    };
    let Some(sale) = book.touch(&request.sale_id) else { return Err(DecideError::NoSale) };
    if sale.merged_into.is_some() {
        return Err(DecideError::NoSale);
    }
    let id = match &request.idempotency_key {
        None => new_id!(DecisionId, now),
        Some(key) => {
            let kind = request.kind.as_str();
            DecisionId::derived(&[
                &request.actor,
                key,
                kind,
                request.enrollment_id.as_str(),
                request.sale_id.as_str(),
            ])
        }
    };
    if let Some(taken) = repeated(request, sale, &id) {
        return Ok(taken);
    }
    check(request, &sale.commissions)?;
    let decision = Decision {
        id,
        enrollment_id: request.enrollment_id.clone(),
        kind: request.kind,
        reason: request.reason,
        amount: request.amount,
        at: now,
    };
    let new = NewDecision {
        decision: decision.clone(),
        sale_id: request.sale_id.clone(),
        note: request.note.clone(),
        actor: request.actor.clone(),
    };
    commissions::insert_decision(&mut tx, &new).await?;
    sale.decisions.push(decision.clone());
    sale.causes.insert(Cause::Decision(decision.id.to_string()));
    if request.kind == DecisionKind::Approve {
        let approved =
            sale.commissions.iter_mut().filter(|known| known.enrollment_id == request.enrollment_id);
        approved.for_each(|commission| commission.clear_flags(&decision.id, now));
    }
    match fold::fold_and_record(&mut tx, &mut book, now, app.config.programs.merge_grace_s).await {
        Ok(_) => {}
        Err(FoldAndRecordError::Store(error)) => return Err(error.into()),
        Err(FoldAndRecordError::Fold(error)) => return Err(error.into()),
    }
    let commission = book
        .sale(&request.sale_id)
        .and_then(|sale| sale.commissions.iter().find(|known| known.enrollment_id == request.enrollment_id))
        .cloned();
    failpoint::reach(Failpoint::DecideBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::DecideAfterCommit);
    Ok(Decided { decision, commission })
}

/// The answer to a request that only repeats what was decided: the same key, or an approval or
/// rejection that stands.
fn repeated(request: &Request, sale: &Sale, id: &DecisionId) -> Option<Decided> {
    let commission = sale.commissions.iter().find(|known| known.enrollment_id == request.enrollment_id);
    let stands = match request.kind {
        DecisionKind::Approve | DecisionKind::Reject => {
            commission.is_some_and(|known| !is_allowed(request.kind, known.state))
        }
        DecisionKind::Attribute | DecisionKind::Clawback => false,
    };
    let is_it = |known: &&Decision| {
        known.id == *id
            || (stands && known.kind == request.kind && known.enrollment_id == request.enrollment_id)
    };
    let decision = sale.decisions.iter().rev().find(is_it)?.clone();
    Some(Decided { decision, commission: commission.cloned() })
}

/// Whether the commission's state allows the decision.
fn check(request: &Request, commissions: &[Commission]) -> Result<(), DecideError> {
    if request.kind == DecisionKind::Attribute {
        let elsewhere = |known: &&Commission| known.claimed && known.enrollment_id != request.enrollment_id;
        return if commissions.iter().any(|known| elsewhere(&known)) {
            Err(DecideError::Frozen)
        } else {
            Ok(())
        };
    }
    let commission = commissions
        .iter()
        .find(|known| known.enrollment_id == request.enrollment_id)
        .ok_or(DecideError::NoCommission)?;
    if is_allowed(request.kind, commission.state) {
        Ok(())
    } else {
        Err(DecideError::NotAllowed { state: commission.state })
    }
}

impl From<DecideError> for Refusal {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::NoSale | DecideError::NoCommission => Self::NotFound,
            DecideError::NotAllowed { .. } => Self::conflict("INVALID_STATE", error.to_string()),
            DecideError::Frozen => Self::conflict("ATTRIBUTION_FROZEN", error.to_string()),
            DecideError::Store(error) => Self::Store(error),
            DecideError::Fold(_) => Self::conflict("NOT_COMPUTABLE", error.to_string()),
        }
    }
}

/// What a person decides about a conversion.
#[derive(Clone, Debug)]
pub struct OnConversion {
    /// Approve, reject or claw back.
    pub kind: DecisionKind,
    /// For clawbacks.
    pub reason: Option<ClawbackReason>,
    /// For clawbacks: minor units of the commission; absent takes all.
    pub amount: Option<i64>,
    /// The person's own words.
    pub note: Option<String>,
    /// The caller's own key of this request.
    pub idempotency_key: Option<String>,
}

/// Decides about a conversion of a program.
///
/// # Errors
/// [`Refusal::NotFound`] for a conversion of another program or owner, [`Refusal::Conflict`] when its
/// state does not allow it, [`Refusal::Invalid`] for an amount outside the commission.
pub async fn decide_conversion(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    conversion: &str,
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
    if what.amount.is_some_and(|amount| amount <= 0 || amount > row.earned_minor) {
        let message = "amount_cents must be between 1 and what the commission earned";
        return Err(Refusal::invalid("INVALID_AMOUNT", "amount_cents", message));
    }
    let request = Request {
        sale_id: SaleId::parse(&row.sale_id).map_err(|_| Refusal::NotFound)?,
        enrollment_id: EnrollmentId::parse(&row.enrollment_id).map_err(|_| Refusal::NotFound)?,
        kind: what.kind,
        reason: what.reason,
        amount: what.amount,
        note: what.note,
        actor: by.actor().to_owned(),
        idempotency_key: what.idempotency_key,
    };
    decide(app, &request).await?;
    let mut conn = app.db.read().await?;
    views::find_conversion(&mut conn, conversion).await?.ok_or(Refusal::NotFound)
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
        actor: by.actor().to_owned(),
        idempotency_key: None,
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
        Refusal::invalid(code, param, "names no affiliate in a program of this sale's owner")
    })
}
