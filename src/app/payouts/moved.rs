//! Forward: what is sent, arrives, waits, or is not known.

use super::{
    MoveError, OPEN_DOUBTS, Reach, Scene, Subject, generation, lock, next_look_up, order, own_scope, post,
    provider_of,
};
use crate::{
    app::{App, new_id, notices},
    domain::{
        book,
        charge::ChargeState,
        fact::{ChargeSeen, Fact, TransferReversed, TransferSeen},
        ids::{HoldId, IntentId},
        intent::{IntentState, Quarantine, Waiting},
        job::{JobState, WAITING_RECHECK_S},
        ledger::Cause,
        money,
        notice::Topic,
        payout::PayoutEvent,
        time::Timestamp,
    },
    providers::outbound::ObjectSeen,
    store::{
        StoreError, Tx, charges,
        findings::{self, NewFinding, Severity},
        intents::{self, Purpose, StoredIntent},
        jobs::{self, Parting},
        payouts::{self, StoredPayout},
        transfers,
    },
};

/// An attempt is about to be written down: the payout is under way.
pub(in crate::app) async fn submitted(tx: &mut Tx, scene: &mut Scene) -> Result<(), MoveError> {
    match &mut scene.subject {
        Subject::Payout(stored) => {
            stored.payout.state = stored.payout.state.after(PayoutEvent::Submitted)?;
            stored.reason = None;
            payouts::save(tx, stored, stored.payout.revision).await?;
        }
        Subject::Charge(charge) => {
            charge.state = ChargeState::Submitting;
            charge.reason = None;
            charges::save(tx, charge).await?;
        }
    }
    Ok(())
}

/// The money moved: adopts the provider's object, settles the payout, ends the job whoever holds it.
/// The sales must be locked.
pub(in crate::app) async fn succeed(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    object: &ObjectSeen,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let id = scene.stored.intent.id.clone();
    intents::set(tx, &id, IntentState::Succeeded, Some(&object.id)).await?;
    let done = Parting { state: JobState::Completed, reason: None, next_attempt_at: None };
    jobs::supersede(tx, &id, done, now).await?;
    match &mut scene.subject {
        Subject::Charge(charge) => {
            charge.payment_intent_id = Some(object.id.clone());
            charge.state = ChargeState::of_status(object.status.as_deref().unwrap_or_default());
            charge.told_at = object.created_at;
            charge.reason = None;
            charges::save(tx, charge).await?;
        }
        Subject::Payout(stored) => {
            let before = stored.payout.revision;
            stored.payout.state = stored.payout.state.after(PayoutEvent::Completed)?;
            stored.reason = None;
            stored.transfer_id = Some(object.id.clone());
            stored.completed_at = Some(now);
            let entries = stored.payout.settle()?;
            payouts::mark_commissions_paid(tx, &stored.payout.id).await?;
            payouts::save(tx, stored, before).await?;
            findings::resolve_others(tx, &[stored.payout.id.as_str()], &OPEN_DOUBTS, &[], now).await?;
            note_transfer(tx, &scene.stored, object, now).await?;
            post(tx, &entries, &[], cause, now).await?;
            notices::payout(app, tx, &stored.payout, Topic::PayoutCompleted, now).await?;
        }
    }
    Ok(())
}

/// Writes down a transfer that a provider showed us, like an event about it would, and asks for it to be
/// looked at: part of it may have come back before we knew that it was ours.
pub(in crate::app) async fn note_transfer(
    tx: &mut Tx,
    stored: &StoredIntent,
    object: &ObjectSeen,
    now: Timestamp,
) -> Result<(), MoveError> {
    let seen = TransferSeen {
        transfer_id: object.id.clone(),
        intent_id: Some(stored.intent.id.to_string()),
        amount: stored.amount.minor,
        currency: stored.amount.currency,
        destination: Some(stored.destination.clone()),
        of_charge: false,
        at: object.created_at,
    };
    let fact = if object.reversed > 0 {
        let reversed_total = object.reversed;
        Fact::TransferReversed(TransferReversed { transfer: seen, reversed_total, reversals: Vec::new() })
    } else {
        Fact::TransferSeen(seen)
    };
    let scope = own_scope(&stored.provider, stored.livemode);
    transfers::save(tx, std::iter::once((&scope, &fact))).await?;
    let request = transfers::Request { scope: &scope, transfer_id: &object.id, event_id: None };
    transfers::request(tx, &[request], now).await?;
    Ok(())
}

/// Writes down the transfers that the provider shows for an intent that was settled meanwhile in another
/// way, but for the one that settled it: they are then compared with the payout like those that events tell
/// of, and one that should not be there raises the alarm.
pub(in crate::app) async fn note_unexpected(
    tx: &mut Tx,
    stored: &StoredIntent,
    objects: &[ObjectSeen],
    now: Timestamp,
) -> Result<(), MoveError> {
    let Purpose::Payout(_) = stored.purpose else { return Ok(()) };
    for object in objects {
        // Of one that is not what was asked for, only an event tells what it is.
        if object.matches && stored.object_id.as_deref() != Some(&*object.id) {
            note_transfer(tx, stored, object, now).await?;
        }
    }
    Ok(())
}

/// The provider refused for now and has stored that under the key: closes the generation with that as its
/// proof, opens the next, and lets the job wait. What is reserved stays reserved.
pub(in crate::app) async fn wait(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    waiting: Waiting,
    proof: &str,
    now: Timestamp,
) -> Result<(), MoveError> {
    renew(tx, scene, proof, now).await?;
    park_waiting(app, tx, scene, waiting, now).await
}

/// Lets the job wait under the key that it has: nothing was sent under it.
pub(in crate::app) async fn park_waiting(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    waiting: Waiting,
    now: Timestamp,
) -> Result<(), MoveError> {
    match &mut scene.subject {
        Subject::Payout(stored) => {
            stored.payout.state = stored.payout.state.after(PayoutEvent::Waits(waiting))?;
            payouts::save(tx, stored, stored.payout.revision).await?;
            if waiting == Waiting::Account {
                notices::payout(app, tx, &stored.payout, Topic::PayoutWaiting, now).await?;
            }
            if waiting == Waiting::Funds {
                let finding = NewFinding {
                    kind: "payout_waits_for_funds".to_owned(),
                    severity: Severity::Warning,
                    object: stored.payout.id.to_string(),
                    detail: "the platform's balance does not cover this payout; add funds, it is sent when \
                             they arrive"
                        .to_owned(),
                };
                findings::raise(tx, &[finding], now).await?;
            }
        }
        Subject::Charge(charge) => {
            charge.state = ChargeState::waiting(waiting);
            charges::save(tx, charge).await?;
        }
    }
    // What it waits for may have come while it was being worked on.
    let has_come = jobs::was_woken_since(tx, &scene.stored.intent.id, Timestamp::EPOCH).await?;
    let parked = Parting {
        state: JobState::Parked,
        reason: Some(waiting.as_str()),
        // An event that says that the wait is over can be lost.
        next_attempt_at: Some(if has_come { now } else { now.plus_secs(WAITING_RECHECK_S) }),
    };
    jobs::supersede(tx, &scene.stored.intent.id, parked, now).await?;
    Ok(())
}

/// Closes the generation with the proof that nothing was executed under its key, and opens the next with
/// its own frozen bytes.
pub(in crate::app) async fn renew(
    tx: &mut Tx,
    scene: &mut Scene,
    proof: &str,
    now: Timestamp,
) -> Result<(), MoveError> {
    let stored = &scene.stored;
    let next_order = order(stored, money::add(stored.intent.generation, 1)?);
    let next = generation(provider_of(stored)?, &next_order);
    intents::renew(tx, &stored.intent, proof, &next, now).await?;
    Ok(())
}

/// The provider may have executed the intent and must not be asked again: sets it apart, raises the alarm,
/// and goes on looking. What is reserved stays reserved.
pub(in crate::app) async fn quarantine(
    tx: &mut Tx,
    scene: &mut Scene,
    why: Quarantine,
    now: Timestamp,
) -> Result<(), MoveError> {
    let id = scene.stored.intent.id.clone();
    intents::set(tx, &id, IntentState::Unknown, None).await?;
    let apart = Parting {
        state: JobState::Unknown,
        reason: Some(why.as_str()),
        next_attempt_at: next_look_up(&scene.stored, now),
    };
    jobs::supersede(tx, &id, apart, now).await?;
    match &mut scene.subject {
        Subject::Payout(stored) => {
            stored.payout.state = stored.payout.state.after(PayoutEvent::Quarantined)?;
            stored.reason = Some(why.as_str().to_owned());
            payouts::save(tx, stored, stored.payout.revision).await?;
            let (object, detail) = (stored.payout.id.to_string(), unknown_detail(why, &id));
            let kind = "payout_unknown".to_owned();
            let finding = NewFinding { kind, severity: Severity::Critical, object, detail };
            findings::raise(tx, &[finding], now).await?;
            if contradicts(why) {
                hold(tx, stored, why.as_str(), now).await?;
            }
        }
        Subject::Charge(charge) => {
            charge.state = ChargeState::Unknown;
            charge.reason = Some(why.as_str().to_owned());
            charges::save(tx, charge).await?;
        }
    }
    Ok(())
}

/// Whether the payee must be left alone until somebody has looked: what the provider shows is not what was
/// asked for.
const fn contradicts(why: Quarantine) -> bool {
    match why {
        Quarantine::Contradiction | Quarantine::Duplicate | Quarantine::KeyMisused => true,
        Quarantine::WindowOver | Quarantine::ErrorReplayed => false,
    }
}

fn unknown_detail(why: Quarantine, id: &IntentId) -> String {
    let what = match why {
        Quarantine::WindowOver => "the provider's answer was lost and its key is too old to ask again",
        Quarantine::ErrorReplayed => "the provider keeps repeating a server error",
        Quarantine::KeyMisused => "the provider saw the key with another body",
        Quarantine::Contradiction => "the provider shows something else than was asked for",
        Quarantine::Duplicate => "the provider shows more than one object for it",
    };
    format!(
        "{what}; the amount stays reserved and the provider is asked again and again. Look for the intent {id} in the provider's \
         dashboard, then `remit jobs resolve`"
    )
}

/// Stops the payouts of the payee.
pub(in crate::app) async fn hold(
    tx: &mut Tx,
    stored: &StoredPayout,
    why: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = new_id!(HoldId, now);
    let reason = format!("{}: {why}", stored.payout.id);
    payouts::hold_after_anomaly(tx, &id, &stored.payout.enrollment_id, &reason, now).await
}

/// Takes in what an event told of a charge: adopts the payment intent whose answer was lost, or moves the
/// charge along. `scope` is where it was told.
pub(in crate::app) async fn take_in_charge(
    app: &App,
    tx: &mut Tx,
    scope: &book::Scope,
    seen: &ChargeSeen,
    event: &str,
    now: Timestamp,
) -> Result<(), MoveError> {
    let Some(known) = intents::load(tx, &seen.intent_id).await? else { return Ok(()) };
    // Charges are made on the platform's account. Anybody else could make a payment that names our intent.
    let is_charge = matches!(known.purpose, Purpose::Charge { .. });
    if !is_charge || *scope != own_scope(&known.provider, known.livemode) {
        return Ok(());
    }
    let Some(mut scene) = lock(tx, &seen.intent_id, Reach::Intent).await? else { return Ok(()) };
    let Subject::Charge(charge) = &mut scene.subject else { return Ok(()) };
    let stored = &scene.stored;
    let matches = seen.amount == stored.amount.minor
        && seen.currency == stored.amount.currency
        && seen.destination.as_deref().is_none_or(|destination| destination == stored.destination);
    let is_same = stored.object_id.as_deref().is_none_or(|id| id == seen.payment_intent_id);
    match stored.intent.state {
        IntentState::Open | IntentState::Unknown if matches && is_same => {
            let object = ObjectSeen {
                id: seen.payment_intent_id.clone(),
                matches,
                status: Some(seen.status.clone()),
                reversed: 0,
                created_at: seen.told_at,
            };
            succeed(app, tx, &mut scene, &object, &Cause::Event(event.to_owned()), now).await
        }
        IntentState::Succeeded if is_same => {
            let told = (seen.told_at, ChargeState::of_status(&seen.status));
            (charge.told_at, charge.state) = ChargeState::newest((charge.told_at, charge.state), told);
            Ok(charges::save(tx, charge).await?)
        }
        IntentState::Open
        | IntentState::Unknown
        | IntentState::Succeeded
        | IntentState::Failed
        | IntentState::Canceled => {
            let finding = NewFinding {
                kind: "charge_contradicts_intent".to_owned(),
                severity: Severity::Critical,
                object: seen.payment_intent_id.clone(),
                detail: format!(
                    "this payment names intent {} and is not what it asked for; compare both in the provider's \
                     dashboard",
                    seen.intent_id
                ),
            };
            Ok(findings::raise(tx, &[finding], now).await?)
        }
    }
}
