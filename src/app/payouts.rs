//! What becomes of money that was asked to move: the steps that an intent, its payout or charge and its
//! job take together, each inside a transaction of the caller.
//!
//! Whether a step may be taken is decided by `domain::intent` and `domain::payout`. Every caller first
//! takes the locks with `lock`, in the order that all stages keep (`rulings.md` 3), and then sees what is
//! true now, whatever it knew before. Which stage calls what: `dispatch` with a provider's answer,
//! `transfers` with what events told, and people through [`cancel`] and `jobs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    App, Refusal,
    audit::{self, Change},
    fold::{self, Counters, FoldAndRecordError},
    keys::{Principal, Scope},
    new_id, notices,
};
use crate::{
    domain::{
        book::{self, CounterKey, FoldError, Realm},
        charge::ChargeState,
        commission::{Decision, DecisionKind},
        fact::{ChargeSeen, Fact, TransferReversed, TransferSeen},
        ids::{CommissionId, DecisionId, HoldId, IntentId, PayoutId, ProjectId, SaleId},
        intent::{Intent, IntentState, LOOK_UP_EVERY_S, LOOK_UP_FOR_S, Quarantine, Waiting},
        job::{JobState, WAITING_RECHECK_S},
        ledger::{Cause, Entry, LedgerError, Lot},
        money::{self, MoneyError},
        notice::Topic,
        payout::{self, InvalidTransition, OnTransferReversed, PayoutEvent},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{self, ObjectSeen, Order, OrderKind, Outbound},
    store::{
        StoreError, Tx, charges,
        commissions::{self, NewDecision},
        findings::{self, NewFinding, Severity},
        intents::{self, NewGeneration, Purpose, StoredIntent},
        jobs::{self, Parting},
        ledger::{self, Posting},
        payouts::{self, StoredPayout},
        sales, transfers, views,
    },
};

/// The shortest wait between two look-ups of an intent that is set apart, seconds.
const LOOK_UP_FIRST_S: i64 = 60;

/// The kinds of findings about a payout that end when its money has moved.
const OPEN_DOUBTS: [&str; 3] = ["payout_unknown", "payout_waits_for_funds", "payout_failed"];

/// A step could not be taken; the transaction must be given up.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The store refused, or another transaction was in the way.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commissions of the payout could not be folded.
    #[error(transparent)]
    Fold(FoldError),
    /// The commissions of the payout are counted for the rates of others. Nothing was written: the caller
    /// begins again with a transaction that locks these first.
    #[error("{} counters have to be locked first", .0.len())]
    Uncounted(BTreeSet<CounterKey>),
    /// Amounts do not fit.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The payout is where this cannot happen to it.
    #[error(transparent)]
    State(#[from] InvalidTransition),
    /// The rows name a provider that this program cannot send to.
    #[error("nothing can be sent to the provider `{0}`")]
    UnknownProvider(String),
    /// An intent without the payout or the charge that it is for.
    #[error("intent {0} is for nothing that is there")]
    NoPurpose(IntentId),
}

impl From<FoldAndRecordError> for MoveError {
    fn from(error: FoldAndRecordError) -> Self {
        match error {
            FoldAndRecordError::Store(error) => Self::Store(error),
            FoldAndRecordError::Uncounted(keys) => Self::Uncounted(keys),
            FoldAndRecordError::Fold(error) => Self::Fold(error),
        }
    }
}

impl From<MoneyError> for MoveError {
    fn from(error: MoneyError) -> Self {
        Self::Ledger(LedgerError::Money(error))
    }
}

impl MoveError {
    /// Whether the same step is expected to succeed later, untouched.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable() || error.is_unreachable(),
            Self::Fold(_)
            | Self::Uncounted(_)
            | Self::Ledger(_)
            | Self::State(_)
            | Self::UnknownProvider(_)
            | Self::NoPurpose(_) => false,
        }
    }
}

/// What the money is for, locked.
pub(super) enum Subject {
    /// An affiliate's payout.
    Payout(StoredPayout),
    /// A charge for a connected account.
    Charge(charges::Charge),
}

/// An intent with everything that moves with it, locked until the transaction ends.
pub(super) struct Scene {
    /// The intent, read after it was locked.
    pub stored: StoredIntent,
    /// What it is for.
    pub subject: Subject,
    /// What was locked before the sales, for rules that count them.
    counters: Counters,
}

/// What else a caller needs locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach<'a> {
    /// The intent and its payout or charge.
    Intent,
    /// The sales too, behind the counters that their rules asked for: their commissions will change.
    Sales(&'a Counters),
}

/// Locks an intent and what moves with it, then reads it. `None` when there is no such intent.
pub(super) async fn lock(tx: &mut Tx, id: &IntentId, reach: Reach<'_>) -> Result<Option<Scene>, MoveError> {
    let counters = match reach {
        Reach::Intent => Counters::default(),
        Reach::Sales(counters) => counters.clone(),
    };
    counters.lock(tx).await?;
    let Some(before) = intents::load(tx, id).await? else { return Ok(None) };
    let no_purpose = || MoveError::NoPurpose(id.clone());
    let subject = match &before.purpose {
        Purpose::Payout(payout) => {
            if let Reach::Sales(_) = reach {
                // What a payout pays never changes, so it can be read before the locks.
                let sales = payouts::sales_of(tx, payout).await?;
                sales::lock(tx, &sales).await?;
            }
            Subject::Payout(payouts::lock(tx, payout).await?.ok_or_else(no_purpose)?)
        }
        Purpose::Charge { id, .. } => Subject::Charge(charges::lock(tx, id).await?.ok_or_else(no_purpose)?),
    };
    intents::lock(tx, id).await?;
    let stored = intents::load(tx, id).await?.ok_or_else(no_purpose)?;
    Ok(Some(Scene { stored, subject, counters }))
}

/// The sending half of the provider of an intent.
pub(super) fn provider_of(stored: &StoredIntent) -> Result<&'static dyn Outbound, MoveError> {
    outbound::outbound(&stored.provider).ok_or_else(|| MoveError::UnknownProvider(stored.provider.clone()))
}

/// The order that an intent stands for, under one of its generations.
pub(super) fn order(stored: &StoredIntent, generation: i64) -> Order {
    let kind = match &stored.purpose {
        Purpose::Payout(_) => OrderKind::Transfer,
        Purpose::Charge { application_fee, .. } => OrderKind::Charge { application_fee: *application_fee },
    };
    Order {
        intent_id: stored.intent.id.clone(),
        generation,
        livemode: stored.livemode,
        amount: stored.amount,
        destination: stored.destination.clone(),
        kind,
    }
}

/// The key and the frozen bytes of an order.
pub(super) fn generation(provider: &dyn Outbound, order: &Order) -> NewGeneration {
    let request = provider.execute(order);
    NewGeneration {
        number: order.generation,
        key: Intent::key(&order.intent_id, order.generation, order.livemode),
        path: request.path,
        body_sha256: Sha256::digest(&request.body).into(),
        body: request.body,
        api_version: provider.api_version(),
    }
}

/// An attempt is about to be written down: the payout is under way.
pub(super) async fn submitted(tx: &mut Tx, scene: &mut Scene) -> Result<(), MoveError> {
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
pub(super) async fn succeed(
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
pub(super) async fn note_transfer(
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
pub(super) async fn note_unexpected(
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

/// Where what the provider shows of the platform's own account belongs.
pub(super) fn own_scope(provider: &str, livemode: bool) -> book::Scope {
    book::Scope { project_id: ProjectId::platform(), realm: Realm::new(provider, livemode, "") }
}

/// The provider refused for now and has stored that under the key: closes the generation with that as its
/// proof, opens the next, and lets the job wait. What is reserved stays reserved.
pub(super) async fn wait(
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
pub(super) async fn park_waiting(
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
pub(super) async fn renew(
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

/// The provider refused for good, or somebody gave the payout up: what was reserved is payable again, and
/// the commissions are what the facts now make of them. The sales must be locked.
pub(super) async fn end(
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
pub(super) enum Ending<'a> {
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

/// The provider may have executed the intent and must not be asked again: sets it apart, raises the alarm,
/// and goes on looking. What is reserved stays reserved.
pub(super) async fn quarantine(
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
pub(super) async fn hold(
    tx: &mut Tx,
    stored: &StoredPayout,
    why: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = new_id!(HoldId, now);
    let reason = format!("{}: {why}", stored.payout.id);
    payouts::hold_after_anomaly(tx, &id, &stored.payout.enrollment_id, &reason, now).await
}

/// When an intent that is set apart is looked up next: after as long again as it has been in doubt, at
/// least a minute and at most a day. None once the provider no longer shows so old events.
pub(super) fn next_look_up(stored: &StoredIntent, now: Timestamp) -> Option<Timestamp> {
    let since = stored.intent.first_sent_at.unwrap_or(stored.created_at);
    let in_doubt_s = now.as_secs().saturating_sub(since.as_secs());
    let next = now.plus_secs(in_doubt_s.clamp(LOOK_UP_FIRST_S, LOOK_UP_EVERY_S));
    (next <= since.plus_secs(LOOK_UP_FOR_S)).then_some(next)
}

/// Posts what came back of a payout's transfer: `reversed` is the cumulative amount. Nothing happens when
/// that much was posted before. The sales must be locked.
pub(super) async fn take_back(
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

async fn post(
    tx: &mut Tx,
    entries: &[Entry],
    lots: &[&Lot],
    cause: &Cause,
    now: Timestamp,
) -> Result<(), MoveError> {
    let causes = BTreeSet::from([cause.clone()]);
    let postings: Vec<Posting<'_>> = entries.iter().map(|entry| Posting { entry, causes: &causes }).collect();
    ledger::post(tx, &postings, lots, now).await?;
    Ok(())
}

/// Takes in what an event told of a charge: adopts the payment intent whose answer was lost, or moves the
/// charge along. `scope` is where it was told.
pub(super) async fn take_in_charge(
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
    if !scene.stored.intent.can_be_given_up() {
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

/// A step that people asked for and that did not happen.
pub(super) fn refused(error: MoveError) -> Refusal {
    match error {
        MoveError::Store(error) => Refusal::Store(error),
        MoveError::State(state) => Refusal::conflict("INVALID_STATE", state.to_string()),
        other => {
            tracing::error!(reason = %other, "a payout could not be changed");
            Refusal::conflict("NOT_POSSIBLE", other.to_string())
        }
    }
}
