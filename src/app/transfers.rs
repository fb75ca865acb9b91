//! What events told of transfers, taken in by the payouts that they belong to.
//!
//! The processor only writes down what was told (`store::transfers`) and asks for a look. Here each transfer
//! is compared with the payout of its intent: a transfer that we did not hear of is adopted, what came back
//! of one is posted, one that contradicts is reported and its payee left alone. The comparison is of
//! cumulative amounts with what is posted, so events may come in any order, any number of times, and before
//! the payout that they speak of is settled.

use tracing::{debug, error, warn};

use super::{
    App,
    fold::Counters,
    new_id,
    payouts::{self, MoveError, Reach, Scene, Subject},
};
use crate::{
    domain::{
        ids::{HoldId, IntentId},
        intent::{IntentState, Quarantine},
        ledger::Cause,
        payout::PayoutEvent,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::ObjectSeen,
    store::{
        StoreError, Tx,
        findings::{self, NewFinding, Severity},
        intents::{self, Purpose},
        payouts as store_payouts,
        transfers::{self, News, Told},
    },
};

/// Transfers looked at in one step at most.
const NEWS_MAX: i64 = 50;

/// How long a transfer that cannot be taken in waits before it is tried again, seconds.
const RETRY_S: i64 = 3_600;

/// How often one is tried again because another transaction was in the way.
const CONFLICTS_MAX: u32 = 8;

/// The kinds of findings about a transfer that should not be there; they end when all of it came back.
const STRANGE_TRANSFERS: [&str; 4] =
    ["duplicate_transfer", "transfer_of_void_payout", "transfer_contradicts_payout", "orphan_transfer"];

/// Takes in the transfers that wait longest. Returns how many had their turn.
///
/// One that cannot be taken in raises the finding `transfer_failed` and waits an hour.
///
/// # Errors
/// [`StoreError`] when the database is not there; nothing is half done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let due = {
        let mut conn = app.db.read().await?;
        transfers::list_due(&mut conn, app.now(), NEWS_MAX).await?
    };
    for news in &due {
        let (mut conflicts, mut counters) = (0, Counters::default());
        let failure = loop {
            match take_in(app, news, &counters).await {
                Ok(()) => break None,
                Err(MoveError::Uncounted(keys)) if counters.extend(&keys) => {}
                Err(MoveError::Store(error)) if error.is_retryable() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::task::yield_now().await;
                }
                Err(MoveError::Store(error)) if error.is_unreachable() || error.is_retryable() => {
                    return Err(error);
                }
                Err(failure) => break Some(failure),
            }
        };
        if let Some(failure) = failure {
            postpone(app, news, &failure).await?;
        }
    }
    Ok(due.len())
}

async fn postpone(app: &App, news: &News, failure: &MoveError) -> Result<(), StoreError> {
    error!(transfer.id = news.transfer_id, reason = %failure, "a transfer cannot be taken in and is tried again later");
    let now = app.now();
    let finding = NewFinding {
        kind: "transfer_failed".to_owned(),
        severity: Severity::Critical,
        object: news.transfer_id.clone(),
        detail: format!(
            "an event about this transfer cannot be booked: {failure}; it is tried again every hour"
        ),
    };
    let mut tx = app.db.begin().await?;
    transfers::postpone(&mut tx, news, now.plus_secs(RETRY_S)).await?;
    findings::raise(&mut tx, &[finding], now).await?;
    super::commit_postponed(tx).await
}

async fn take_in(app: &App, news: &News, counters: &Counters) -> Result<(), MoveError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let told = transfers::find(&mut tx, news).await?;
    if let Some(told) = told
        && !told.of_charge
    {
        match intent_of(&mut tx, news, &told).await? {
            Some(intent) => meet(app, &mut tx, &intent, news, &told, counters, now).await?,
            None => report_orphan(&mut tx, news, &told, now).await?,
        }
    }
    transfers::answered(&mut tx, news).await?;
    findings::resolve_others(&mut tx, &[&news.transfer_id], &["transfer_failed"], &[], now).await?;
    failpoint::reach(Failpoint::AdoptBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::AdoptAfterCommit);
    Ok(())
}

/// The intent that a transfer belongs to: the one it names, or the one that was settled by it.
async fn intent_of(tx: &mut Tx, news: &News, told: &Told) -> Result<Option<IntentId>, StoreError> {
    let named = told.intent_id.as_deref().and_then(|id| IntentId::parse(id).ok());
    if let Some(id) = named
        && intents::load(tx, &id).await?.is_some_and(|stored| news.is_of(&stored.provider, stored.livemode))
    {
        return Ok(Some(id));
    }
    let Some((provider, livemode)) = news.provider_and_mode() else { return Ok(None) };
    intents::find_by_object(tx, provider, livemode, &news.transfer_id).await
}

/// A transfer of the platform's own account that no intent asked for, such as one made by hand, or one that
/// a lost database asked for. Those of other projects' accounts are none of ours.
async fn report_orphan(tx: &mut Tx, news: &News, told: &Told, now: Timestamp) -> Result<(), StoreError> {
    if !news.is_of_platform() {
        return Ok(());
    }
    if told.reversed >= told.amount.minor {
        return findings::resolve_others(tx, &[&news.transfer_id], &STRANGE_TRANSFERS, &[], now).await;
    }
    warn!(transfer.id = news.transfer_id, "a transfer belongs to no payout");
    if told.intent_id.as_deref().is_some_and(|id| IntentId::parse(id).is_ok()) {
        // A database that is lost has asked for it. Whoever it went to may be paid already.
        let provider = news.provider_and_mode().map_or("", |(provider, _)| provider);
        let reason = format!("{}: orphan_transfer", news.transfer_id);
        for enrollment in store_payouts::paid_to(tx, provider, told.destination.as_deref()).await? {
            let id = new_id!(HoldId, now);
            store_payouts::hold_after_anomaly(tx, &id, &enrollment, &reason, now).await?;
        }
    }
    let finding = NewFinding {
        kind: "orphan_transfer".to_owned(),
        severity: Severity::Warning,
        object: news.transfer_id.clone(),
        detail:
            "this transfer left the platform's account and belongs to no payout: it was made by hand, or by a \
                 database that was lost, and then the payouts of whom it went to are held. If it paid \
                 commissions, claw those back by hand before the hold is lifted"
                .to_owned(),
    };
    findings::raise(tx, &[finding], now).await
}

/// Compares a transfer with the payout of its intent.
async fn meet(
    app: &App,
    tx: &mut Tx,
    intent: &IntentId,
    news: &News,
    told: &Told,
    counters: &Counters,
    now: Timestamp,
) -> Result<(), MoveError> {
    // All payouts leave through the platform's account. Whoever else holds an endpoint chooses its secret
    // and could sign anything, the owner of the program included.
    if !news.is_of_platform() {
        debug!(transfer.id = news.transfer_id, "another account's endpoint names an intent; it is not heard");
        return Ok(());
    }
    let Some(mut scene) = payouts::lock(tx, intent, Reach::Sales(counters)).await? else { return Ok(()) };
    let cause = match &news.event_id {
        Some(event) => Cause::Event(event.clone()),
        None => Cause::Call(intent.to_string()),
    };
    let object = object_of(&scene, news, told);
    let is_known = scene.stored.object_id.as_deref() == Some(&*news.transfer_id);
    if !is_known && told.reversed >= told.amount.minor && !object.matches {
        // Somebody has taken back what should not have been there.
        findings::resolve_others(tx, &[&news.transfer_id], &STRANGE_TRANSFERS, &[], now).await?;
        return Ok(());
    }
    match scene.stored.intent.state {
        IntentState::Open | IntentState::Unknown if object.matches => {
            payouts::succeed(app, tx, &mut scene, &object, &cause, now).await?;
        }
        IntentState::Succeeded if is_known => {}
        IntentState::Succeeded | IntentState::Failed | IntentState::Canceled
            if told.reversed >= told.amount.minor =>
        {
            findings::resolve_others(tx, &[&news.transfer_id], &STRANGE_TRANSFERS, &[], now).await?;
            return Ok(());
        }
        IntentState::Succeeded => {
            return contradiction(tx, &mut scene, news, Quarantine::Duplicate, now).await;
        }
        IntentState::Open | IntentState::Unknown | IntentState::Failed | IntentState::Canceled => {
            return contradiction(tx, &mut scene, news, Quarantine::Contradiction, now).await;
        }
    }
    payouts::take_back(app, tx, &mut scene, told.reversed, &cause, now).await
}

/// What was told of the transfer, against what was asked for.
fn object_of(scene: &Scene, news: &News, told: &Told) -> ObjectSeen {
    let stored = &scene.stored;
    let matches = matches!(stored.purpose, Purpose::Payout(_))
        && told.amount == stored.amount
        && told.destination.as_deref() == Some(&*stored.destination)
        && news.is_of(&stored.provider, stored.livemode);
    ObjectSeen {
        id: news.transfer_id.clone(),
        matches,
        status: None,
        reversed: told.reversed,
        created_at: told.created_at,
    }
}

/// A transfer that should not be there: the payee is left alone until somebody has looked, and nothing is
/// booked.
async fn contradiction(
    tx: &mut Tx,
    scene: &mut Scene,
    news: &News,
    why: Quarantine,
    now: Timestamp,
) -> Result<(), MoveError> {
    let is_open = matches!(scene.stored.intent.state, IntentState::Open | IntentState::Unknown);
    let Subject::Payout(stored) = &scene.subject else { return Ok(()) };
    let (kind, what) = if stored.payout.state.is_void() {
        ("transfer_of_void_payout", "a payout that ended without a transfer")
    } else if why == Quarantine::Duplicate {
        ("duplicate_transfer", "a payout that another transfer has paid")
    } else {
        ("transfer_contradicts_payout", "a payout of another amount, currency or destination")
    };
    error!(
        transfer.id = news.transfer_id,
        payout.id = stored.payout.id.as_str(),
        kind,
        "a transfer should not be there"
    );
    let finding = NewFinding {
        kind: kind.to_owned(),
        severity: Severity::Critical,
        object: news.transfer_id.clone(),
        detail: format!(
            "this transfer names {what}: {}; the affiliate's payouts are held. Look at both in the provider's \
             dashboard, reverse the one that should not be, then lift the hold",
            stored.payout.id
        ),
    };
    findings::raise(tx, &[finding], now).await?;
    payouts::hold(tx, stored, kind, now).await?;
    if is_open && stored.payout.state.after(PayoutEvent::Quarantined).is_ok() {
        payouts::quarantine(tx, scene, why, now).await?;
    }
    Ok(())
}
