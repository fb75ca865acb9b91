//! What becomes of money that was asked to move: the steps that an intent, its payout or charge and its
//! job take together, each inside a transaction of the caller.
//!
//! Whether a step may be taken is decided by `domain::intent` and `domain::payout`. Every caller first
//! takes the locks with `lock`, in the order that all stages keep (`rulings.md` 3), and then sees what is
//! true now, whatever it knew before. Which stage calls what: `dispatch` with a provider's answer,
//! `transfers` with what events told, and people through [`cancel`] and `jobs`.

mod back;
mod moved;

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{
    Refusal,
    fold::{Counters, FoldAndRecordError},
};
use crate::{
    domain::{
        book::{self, CounterKey, FoldError, Realm},
        ids::{IntentId, ProjectId},
        intent::{Intent, LOOK_UP_EVERY_S, LOOK_UP_FOR_S},
        ledger::{Cause, Entry, LedgerError, Lot},
        money::MoneyError,
        payout::InvalidTransition,
        time::Timestamp,
    },
    providers::outbound::{self, Order, OrderKind, Outbound},
    store::{
        StoreError, Tx, charges,
        intents::{self, NewGeneration, Purpose, StoredIntent},
        ledger::{self, Posting},
        payouts::{self, StoredPayout},
        sales,
    },
};

pub use self::back::cancel;
pub(super) use self::{
    back::{Ending, end, take_back},
    moved::{
        hold, note_unexpected, park_waiting, quarantine, renew, submitted, succeed, take_in_charge, wait,
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

/// Where what the provider shows of the platform's own account belongs.
pub(super) fn own_scope(provider: &str, livemode: bool) -> book::Scope {
    book::Scope { project_id: ProjectId::platform(), realm: Realm::new(provider, livemode, "") }
}

/// When an intent that is set apart is looked up next: after as long again as it has been in doubt, at
/// least a minute and at most a day. None once the provider no longer shows so old events.
pub(super) fn next_look_up(stored: &StoredIntent, now: Timestamp) -> Option<Timestamp> {
    let since = stored.intent.first_sent_at.unwrap_or(stored.created_at);
    let in_doubt_s = now.as_secs().saturating_sub(since.as_secs());
    let next = now.plus_secs(in_doubt_s.clamp(LOOK_UP_FIRST_S, LOOK_UP_EVERY_S));
    (next <= since.plus_secs(LOOK_UP_FOR_S)).then_some(next)
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
