//! Back: payouts that end without the money having moved, and money that comes back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{MoveError, OPEN_DOUBTS, Reach, Scene, Subject, lock, post, refused};
use crate::{
    app::{
        App, Refusal,
        audit::{self, Change},
        fold::{self, Counters},
        keys::{Principal, Scope},
    },
    domain::{
        charge::ChargeState,
        commission::{Decision, DecisionKind},
        ids::{CommissionId, DecisionId, PayoutId, SaleId},
        intent::IntentState,
        job::JobState,
        ledger::{Cause, Lot},
        money,
        payout::{self, OnTransferReversed, PayoutEvent},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    store::{
        Tx, charges,
        commissions::{self, NewDecision},
        findings::{self, NewFinding, Severity},
        intents,
        jobs::{self, Parting},
        payouts::{self, StoredPayout},
        views,
    },
};

/// The provider refused for good, or somebody gave the payout up: what was reserved is payable again, and
/// the commissions are what the facts now make of them. The sales must be locked.
pub(in crate::app) async fn end(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    ending: Ending<'_>,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let id = scene.stored.intent.id.clone();
    intents::set(tx, &id, ending.intent_state(), None).await?;
    let discarded =
        Parting { state: JobState::Discarded, reason: Some(ending.reason()), next_attempt_at: None };
    jobs::supersede(tx, &id, discarded, now).await?;
    match &mut scene.subject {
        Subject::Charge(charge) => {
            charge.state = ending.charge_state();
            charge.reason = Some(ending.reason().to_owned());
            charges::save(tx, charge).await?;
        }
        Subject::Payout(stored) => {
            let before = stored.payout.revision;
            stored.payout.state = stored.payout.state.after(ending.payout_event())?;
            stored.reason = Some(ending.reason().to_owned());
            let entry = stored.payout.release()?;
            let payout_id = stored.payout.id.clone();
            payouts::save(tx, stored, before).await?;
            findings::resolve_others(tx, &[payout_id.as_str()], &OPEN_DOUBTS, &[], now).await?;
            if let Ending::Failed { reason } = ending {
                let finding = NewFinding {
                    kind: "payout_failed".to_owned(),
                    severity: Severity::Warning,
                    object: payout_id.to_string(),
                    detail: format!(
                        "the provider refused this payout for good ({reason}); the amount is payable again \
                         and the next settlement tries anew"
                    ),
                };
                findings::raise(tx, &[finding], now).await?;
            }
            payouts::free_lots(tx, &payout_id).await?;
            // While they were claimed, what happened to the sales could only carry forward.
            let sales = payouts::sales_of(tx, &payout_id).await?;
            refold(app, tx, &sales, &scene.counters, cause, now).await?;
            post(tx, &[entry], &[], cause, now).await?;
        }
    }
    Ok(())
}

/// How a payout or charge ends without moving money.
#[derive(Clone, Copy, Debug)]
pub(in crate::app) enum Ending<'a> {
    /// The provider refused for good, with this code.
    Failed {
        /// The provider's error code.
        reason: &'a str,
    },
    /// Somebody gave it up before anything was sent.
    Canceled,
}

impl<'a> Ending<'a> {
    const fn reason(self) -> &'a str {
        match self {
            Self::Failed { reason } => reason,
            Self::Canceled => "canceled",
        }
    }

    const fn intent_state(self) -> IntentState {
        match self {
            Self::Failed { .. } => IntentState::Failed,
            Self::Canceled => IntentState::Canceled,
        }
    }

    const fn payout_event(self) -> PayoutEvent {
        match self {
            Self::Failed { .. } => PayoutEvent::Failed,
            Self::Canceled => PayoutEvent::Canceled,
        }
    }

    const fn charge_state(self) -> ChargeState {
        match self {
            Self::Failed { .. } => ChargeState::Failed,
            Self::Canceled => ChargeState::Canceled,
        }
    }
}

/// Posts what came back of a payout's transfer: `reversed` is the cumulative amount. Nothing happens when
/// that much was posted before. The sales must be locked.
pub(in crate::app) async fn take_back(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    reversed: i64,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let Subject::Payout(stored) = &mut scene.subject else { return Ok(()) };
    let (revision, returned_before) = (stored.payout.revision, stored.payout.returned);
    let Some(entry) = stored.payout.give_back(reversed)? else { return Ok(()) };
    let event = if stored.payout.reversed >= stored.payout.split.send {
        PayoutEvent::Reversed
    } else {
        PayoutEvent::PartiallyReversed
    };
    stored.payout.state = stored.payout.state.after(event)?;
    payouts::save(tx, stored, revision).await?;
    if stored.payout.on_transfer_reversed == OnTransferReversed::Clawback {
        claw_back(app, tx, stored, &scene.counters, returned_before, cause, now).await?;
    }
    let lot = Lot::of(&entry)?;
    post(tx, &[entry], &lot.iter().collect::<Vec<_>>(), cause, now).await
}

/// Takes the commissions back that the payout paid, as much of each as its share of what came back, by
/// decisions that go through the same fold as everything else (`rulings.md` 1, 15).
async fn claw_back(
    app: &App,
    tx: &mut Tx,
    stored: &StoredPayout,
    counters: &Counters,
    returned_before: i64,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let payout = &stored.payout;
    let paid = payouts::commissions_of(tx, &payout.id).await?;
    let amounts: Vec<(CommissionId, i64)> =
        paid.iter().map(|paid| (paid.commission_id.clone(), paid.amount)).collect();
    let before: BTreeMap<CommissionId, i64> =
        payout::spread(returned_before, &amounts)?.into_iter().collect();
    let sale_of: BTreeMap<&CommissionId, &SaleId> =
        paid.iter().map(|paid| (&paid.commission_id, &paid.sale_id)).collect();
    let mut sales = BTreeSet::new();
    for (commission, taken) in payout::spread(payout.returned, &amounts)? {
        let more = money::sub(taken, before.get(&commission).copied().unwrap_or(0))?;
        let Some(sale) = sale_of.get(&commission).filter(|_| more != 0) else { continue };
        // It stays with the commission that was paid: where the sale was merged since, that one is void and
        // there is nothing left to take, and what the survivor earned was paid by another transfer.
        let sale_id = (*sale).clone();
        let decision = Decision {
            id: DecisionId::derived(&[payout.id.as_str(), commission.as_str(), &payout.returned.to_string()]),
            enrollment_id: payout.enrollment_id.clone(),
            commission_id: Some(commission.clone()),
            kind: DecisionKind::TransferClawback,
            reason: None,
            amount: Some(more),
            at: now,
        };
        let actor = "remit".to_owned();
        let note = Some(format!("transfer of payout {} came back", payout.id));
        let new = NewDecision { decision, sale_id: sale_id.clone(), note, actor };
        commissions::insert_decision(tx, &new).await?;
        sales.insert(sale_id);
    }
    refold(app, tx, &sales, counters, cause, now).await
}

/// Folds sales again because of something that is none of their own facts.
async fn refold(
    app: &App,
    tx: &mut Tx,
    sales: &BTreeSet<SaleId>,
    counters: &Counters,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let mut book = fold::load(tx, sales, counters).await?;
    for id in sales {
        if let Some(sale) = book.touch(id) {
            sale.causes.insert(cause.clone());
        }
    }
    fold::fold_and_record(app, tx, &mut book, now).await?;
    Ok(())
}

/// Gives up a payout under whose key nothing was written down to be sent, whole (`rulings.md` 13). Earlier
/// keys of it are closed, each with the proof that nothing was executed under it.
///
/// # Errors
/// [`Refusal::NotFound`], or a conflict `PAYOUT_SUBMITTED` when a call was written down.
pub async fn cancel(app: &App, by: &Principal, id: &PayoutId) -> Result<(), Refusal> {
    by.require(Scope::Settle)?;
    let mut counters = Counters::default();
    while !try_cancel(app, by, id, &mut counters).await? {}
    Ok(())
}

/// As [`cancel`]; `false` when it has to begin again, with more counters locked first.
async fn try_cancel(
    app: &App,
    by: &Principal,
    id: &PayoutId,
    counters: &mut Counters,
) -> Result<bool, Refusal> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let Some(intent) = intents::find_by_payout(&mut tx, id).await? else { return Err(Refusal::NotFound) };
    let scene = lock(&mut tx, &intent, Reach::Sales(counters)).await.map_err(refused)?;
    let Some(mut scene) = scene else { return Err(Refusal::NotFound) };
    let Subject::Payout(stored) = &scene.subject else { return Err(Refusal::NotFound) };
    let program = stored.payout.program_id.clone();
    let owner = views::program_owner(&mut tx, &program).await?.ok_or(Refusal::NotFound)?;
    by.require_owner(&owner)?;
    if stored.payout.state.is_void() {
        return Err(Refusal::conflict("INVALID_STATE", format!("payout {id} has ended already")));
    }
    if !scene.stored.intent.can_be_given_up() || !stored.payout.state.can_be_given_up() {
        let message = format!(
            "payout {id} is {} and was sent to the provider, so it cannot be canceled; a transfer that went \
             out is taken back by reversing it at the provider",
            stored.payout.state.as_str()
        );
        return Err(Refusal::conflict("PAYOUT_SUBMITTED", message));
    }
    let cause = Cause::Time(format!("canceled by {}", by.actor()));
    let was = json!({ "state": stored.payout.state.as_str(), "reason": stored.reason });
    match end(app, &mut tx, &mut scene, Ending::Canceled, &cause, now).await {
        Err(MoveError::Uncounted(keys)) if counters.extend(&keys) => return Ok(false),
        ended => ended.map_err(refused)?,
    }
    let change = Change::new("payout.canceled", id, Some(&owner)).before(&was);
    audit::record(&mut tx, by, change.after(&json!({ "state": "canceled" })), now).await?;
    failpoint::reach(Failpoint::CancelBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::CancelAfterCommit);
    Ok(true)
}
