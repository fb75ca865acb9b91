//! What people decide: attribute, approve, reject, claw back. A decision is a row, and then the same
//! fold runs that events run (`rulings.md` 1).

use std::collections::BTreeSet;

use super::{
    App,
    fold::{self, FoldAndRecordError},
    new_id,
};
use crate::{
    domain::{
        book::{FoldError, is_allowed},
        commission::{ClawbackReason, Commission, CommissionState, Decision, DecisionKind},
        ids::{DecisionId, EnrollmentId, SaleId},
        ledger::Cause,
    },
    store::{
        StoreError,
        commissions::{self, NewDecision},
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
    check(request, &sale.commissions)?;
    let decision = Decision {
        id: new_id!(DecisionId, now),
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
    tx.commit().await?;
    Ok(Decided { decision, commission })
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
