//! What operators do with jobs: look at them, have them tried now, and end the doubt about an intent that
//! nobody but a person can end (`reliability.md` §5.10).
//!
//! Nothing here calls a provider. A person's word that a transfer was made, or never was, moves money just
//! as an answer of the provider does, so it takes the same locks and the same steps of [`super::payouts`],
//! and it takes two people with keys and a text that says how they know.

mod views;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tracing::info;

pub use self::views::{
    AttemptView, ChargeView, FindingView, GenerationView, IntentView, JobDetails, JobView, PayoutView,
    ResolutionView,
};
use super::{
    App, Refusal,
    audit::{self, Change},
    bank_payouts, dispatch,
    fold::Counters,
    keys::{self, AuthError, Principal, Scope},
    new_id,
    payouts::{self, Reach, Scene, Subject},
};
use crate::{
    domain::{
        charge::ChargeState,
        ids::{IntentId, ResolutionId},
        intent::IntentState,
        job::JobState,
        ledger::Cause,
        payout::PayoutEvent,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::ObjectSeen,
    store::{
        Conn, Tx, charges, findings,
        intents::{self, Purpose, StoredIntent},
        job_views::{self, JobFilter, JobRow},
        jobs::{self, Parting},
        payouts as stored_payouts,
        resolutions::{self, NewResolution, Verdict},
        transfers,
    },
};

/// A text that says how people know something has at least so many characters.
const EVIDENCE_MIN: usize = 10;

/// And at most so many.
const EVIDENCE_MAX: usize = 1_000;

/// Attempts shown of one intent at most, the newest: far more than any schedule makes in 30 days.
const ATTEMPTS_SHOWN: i64 = 500;

/// Jobs, newest first.
///
/// # Errors
/// [`Refusal::MissingScope`] without `events`, which only operators hold: jobs cross organizations.
pub async fn list(app: &App, by: &Principal, filter: &JobFilter, limit: i64) -> Result<Vec<JobRow>, Refusal> {
    by.require(Scope::Events)?;
    Ok(job_views::list(&mut app.db.read().await?, filter, limit).await?)
}

/// Everything about the intent that an id leads to: its own id, or that of its job, payout or charge.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn show(app: &App, by: &Principal, id: &str) -> Result<JobDetails, Refusal> {
    by.require(Scope::Events)?;
    let mut conn = app.db.read().await?;
    let intent = job_views::find_intent(&mut conn, id).await?.ok_or(Refusal::NotFound)?;
    details(&mut conn, &intent).await
}

async fn details(conn: &mut Conn, intent: &IntentId) -> Result<JobDetails, Refusal> {
    let job = job_views::find_job(conn, intent).await?.ok_or(Refusal::NotFound)?;
    let stored = intents::load(conn, intent).await?.ok_or(Refusal::NotFound)?;
    let bank_payouts =
        bank_payouts::newest(conn, &stored.provider, stored.livemode, &stored.destination).await?;
    Ok(JobDetails {
        job: job.into(),
        intent: (&stored).into(),
        payout: job_views::find_payout(conn, intent).await?.map(Into::into),
        charge: job_views::find_charge(conn, intent).await?.map(Into::into),
        generations: all(job_views::list_generations(conn, intent).await?),
        attempts: all(job_views::list_attempts(conn, intent, ATTEMPTS_SHOWN).await?),
        resolutions: all(resolutions::list(conn, intent).await?),
        findings: all(job_views::list_findings(conn, intent).await?),
        bank_payouts,
    })
}

fn all<R, V: From<R>>(rows: Vec<R>) -> Vec<V> {
    rows.into_iter().map(Into::into).collect()
}

/// Makes a job due now, whatever it waits for. What is done then is decided as always: an intent that is
/// unknown is looked up and never sent, and what stops payouts still stops them.
///
/// # Errors
/// [`Refusal::NotFound`]; a conflict `JOB_FINISHED` or `JOB_RUNNING`.
pub async fn retry(app: &App, by: &Principal, id: &str) -> Result<JobDetails, Refusal> {
    by.require(Scope::Events)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let intent = job_views::find_intent(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    if !resolutions::hasten(&mut tx, &intent, now).await? {
        let job = job_views::find_job(&mut tx, &intent).await?.ok_or(Refusal::NotFound)?;
        return Err(not_hastened(&job));
    }
    let stored = intents::load(&mut tx, &intent).await?.ok_or(Refusal::NotFound)?;
    audit::record(&mut tx, by, Change::new("job.retried", &intent, None), now).await?;
    let resolution = NewResolution {
        id: new_id!(ResolutionId, now),
        intent_id: &intent,
        generation: stored.intent.generation,
        verdict: Verdict::Retry,
        object_id: None,
        evidence: "to be tried now",
        actor: by.actor(),
        approver: None,
    };
    resolutions::insert(&mut tx, &resolution, now).await?;
    let shown = details(&mut tx, &intent).await?;
    failpoint::reach(Failpoint::ResolveBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::ResolveAfterCommit);
    app.wake.dispatch.notify_one();
    Ok(shown)
}

fn not_hastened(job: &JobRow) -> Refusal {
    if job.state.is_over() {
        let message = format!(
            "job {} is {}: its intent is over and nothing is left to try; a payout that failed or was \
             canceled is paid again by the next settlement",
            job.id,
            job.state.as_str()
        );
        return Refusal::conflict("JOB_FINISHED", message);
    }
    let until = job.next_attempt_at.unwrap_or_default();
    let message = format!(
        "job {} is being worked on under a lease until {until}; if that ends without a result, the job is \
         taken up again by itself",
        job.id
    );
    Refusal::conflict("JOB_RUNNING", message)
}

/// What people say became of an intent that is unknown.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The provider did it: the id of its object.
    Executed(String),
    /// The provider never did it, under any of its keys.
    NotExecuted,
}

/// How a doubt is to be ended.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// What became of the intent.
    pub claim: Claim,
    /// How the people know: a ticket of the provider's, what its dashboard shows.
    pub evidence: String,
    /// The whole text of the second person's key.
    pub approver: SecretString,
}

/// Ends the doubt about an intent that is unknown, on the word of two people. Executed: the object is
/// adopted, and the payout is completed. Not executed: the key is closed with the resolution as its proof,
/// and the intent is sent again under a new one.
///
/// `id` is the intent's own id for [`Claim::NotExecuted`], so that it was read where the evidence was
/// found; otherwise any id that leads to it.
///
/// # Errors
/// [`Refusal::MissingScope`] without `payout:resolve`; [`Refusal::Invalid`] for an `id`, object, evidence or
/// approver that will not do; a conflict `NOT_UNKNOWN`, `CALL_UNDER_WAY`, `OBJECT_CLAIMED` or
/// `OBJECT_DIFFERS`.
pub async fn resolve(app: &App, by: &Principal, id: &str, new: &Resolution) -> Result<JobDetails, Refusal> {
    by.require(Scope::PayoutResolve)?;
    let evidence = evidence(&new.evidence)?;
    let approver = approver(app, by, &new.approver).await?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let intent = job_views::find_intent(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    let counters = Counters::default();
    let reach = match new.claim {
        // What is paid is not folded again, so nothing is counted.
        Claim::Executed(_) => Reach::Sales(&counters),
        Claim::NotExecuted if intent.as_str() == id => Reach::Intent,
        Claim::NotExecuted => {
            let message = "to say that nothing was executed, type the intent's own id (int_…), the one that \
                           you looked for at the provider; the id of its job or payout will not do";
            return Err(Refusal::invalid("INTENT_ID_NEEDED", "id", message));
        }
    };
    let scene = payouts::lock(&mut tx, &intent, reach).await.map_err(payouts::refused)?;
    let mut scene = scene.ok_or(Refusal::NotFound)?;
    may_be_resolved(app, &mut tx, &scene.stored, now).await?;
    let resolution_id = new_id!(ResolutionId, now);
    let (verdict, object_id) = match &new.claim {
        Claim::Executed(object) => (Verdict::Executed, Some(object.trim())),
        Claim::NotExecuted => (Verdict::NotExecuted, None),
    };
    let resolution = NewResolution {
        id: resolution_id.clone(),
        intent_id: &intent,
        generation: scene.stored.intent.generation,
        verdict,
        object_id,
        evidence,
        actor: by.actor(),
        approver: Some(approver.actor()),
    };
    resolutions::insert(&mut tx, &resolution, now).await?;
    match object_id {
        Some(object) => adopt(app, &mut tx, &mut scene, object, &resolution_id, now).await?,
        None => release(&mut tx, &mut scene, &resolution_id, now).await?,
    }
    let said = json!({
        "resolution_id": resolution_id, "verdict": verdict.as_str(), "object_id": object_id,
        "evidence": evidence, "approver": approver.actor(),
    });
    audit::record(&mut tx, by, Change::new("job.resolved", &intent, None).after(&said), now).await?;
    let shown = details(&mut tx, &intent).await?;
    failpoint::reach(Failpoint::ResolveBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::ResolveAfterCommit);
    info!(
        intent.id = intent.as_str(),
        resolution.id = resolution_id.as_str(),
        verdict = verdict.as_str(),
        actor = by.actor(),
        approver = approver.actor(),
        "people ended the doubt about an intent"
    );
    app.wake.dispatch.notify_one();
    app.wake.transfers.notify_one();
    Ok(shown)
}

fn evidence(text: &str) -> Result<&str, Refusal> {
    let text = text.trim();
    let is_layout = |c: char| matches!(c, '\n' | '\r' | '\t');
    let is_prose = text.chars().all(|c| !c.is_control() || is_layout(c));
    if !(EVIDENCE_MIN..=EVIDENCE_MAX).contains(&text.chars().count()) || !is_prose {
        let message = format!(
            "evidence must say in {EVIDENCE_MIN} to {EVIDENCE_MAX} characters how you know what became of \
             the intent"
        );
        return Err(Refusal::invalid("INVALID_EVIDENCE", "evidence", message));
    }
    Ok(text)
}

/// The second person: another key than the acting one, alive, and with the same right.
async fn approver(app: &App, by: &Principal, key: &SecretString) -> Result<Principal, Refusal> {
    let refuse = |message| Err(Refusal::invalid("INVALID_APPROVER", "approver", message));
    let approver = match keys::authenticate(app, key.expose_secret().trim()).await {
        Ok(approver) => approver,
        Err(AuthError::Store(error)) => return Err(error.into()),
        Err(AuthError::Unauthenticated) => {
            return refuse("approver must be the whole text of a second person's live key (rk_…)");
        }
    };
    if approver.require(Scope::PayoutResolve).is_err() {
        return refuse("the approver's key lacks the scope `payout:resolve`");
    }
    if approver.actor() == by.actor() {
        return refuse("the approver must be a second person, with another key than the one that asks");
    }
    Ok(approver)
}

/// Whether people may end the doubt now: there is one, and no call that could end it is under way.
async fn may_be_resolved(
    app: &App,
    tx: &mut Tx,
    stored: &StoredIntent,
    now: Timestamp,
) -> Result<(), Refusal> {
    let intent = &stored.intent;
    match intent.state {
        IntentState::Unknown => {}
        IntentState::Open => {
            let message = format!(
                "intent {} is still tried under its key and its doubt may end by itself; only one that is \
                 unknown is resolved by people",
                intent.id
            );
            return Err(Refusal::conflict("NOT_UNKNOWN", message));
        }
        IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => {
            let message = format!(
                "intent {} is {} already; there is no doubt to end",
                intent.id,
                intent.state.as_str()
            );
            return Err(Refusal::conflict("NOT_UNKNOWN", message));
        }
    }
    let lease_us = i64::try_from(dispatch::lease(&app.config).as_micros()).unwrap_or(i64::MAX);
    if resolutions::is_send_under_way(tx, &intent.id, now.plus_micros(-lease_us)).await? {
        let message = format!("a call about intent {} may still be under way; wait a few minutes", intent.id);
        return Err(Refusal::conflict("CALL_UNDER_WAY", message));
    }
    Ok(())
}

/// The provider did it: adopts the object that people found, unless what is known of it speaks against it.
async fn adopt(
    app: &App,
    tx: &mut Tx,
    scene: &mut Scene,
    object_id: &str,
    resolution: &ResolutionId,
    now: Timestamp,
) -> Result<(), Refusal> {
    let stored = &scene.stored;
    let provider = payouts::provider_of(stored).map_err(payouts::refused)?;
    let order = payouts::order(stored, stored.intent.generation);
    if !provider.is_object_id(&order.kind, object_id) {
        let message =
            format!("executed must be the id of the provider's {}", views::object_word(&stored.purpose));
        return Err(Refusal::invalid("INVALID_OBJECT", "executed", message));
    }
    let owner = intents::find_by_object(tx, &stored.provider, stored.livemode, object_id).await?;
    if let Some(owner) = owner.filter(|owner| *owner != stored.intent.id) {
        let message = format!("{object_id} is what intent {owner} has moved; one object pays one intent");
        return Err(Refusal::conflict("OBJECT_CLAIMED", message));
    }
    let (reversed, created_at) = match told_of(tx, stored, object_id).await? {
        Some(told) => (told.reversed, told.created_at),
        None => (0, stored.intent.first_sent_at.unwrap_or(now)),
    };
    let object = ObjectSeen { id: object_id.to_owned(), matches: true, status: None, reversed, created_at };
    let cause = Cause::Resolution(resolution.to_string());
    payouts::succeed(app, tx, scene, &object, &cause, now).await.map_err(payouts::refused)?;
    // A transfer made by hand in the place of a lost one was reported as nobody's; now it is somebody's.
    findings::resolve_others(tx, &[object_id], &["orphan_transfer"], &[], now).await?;
    Ok(())
}

/// What events of the platform's own account told of a transfer. A conflict when that is not what the
/// intent asked for.
async fn told_of(
    tx: &mut Tx,
    stored: &StoredIntent,
    object_id: &str,
) -> Result<Option<transfers::Told>, Refusal> {
    let Purpose::Payout(_) = stored.purpose else { return Ok(None) };
    let scope = payouts::own_scope(&stored.provider, stored.livemode);
    let Some(told) = transfers::find_told(tx, &scope, object_id).await? else { return Ok(None) };
    let names_another = told.intent_id.as_deref().is_some_and(|id| id != stored.intent.id.as_str());
    let fits = told.amount == stored.amount
        && told.destination.as_deref().is_none_or(|account| account == stored.destination)
        && !told.of_charge;
    if names_another || !fits {
        let message = format!(
            "events of the provider say that {object_id} is another transfer: its amount, currency, \
             destination or intent is not that of intent {}",
            stored.intent.id
        );
        return Err(Refusal::conflict("OBJECT_DIFFERS", message));
    }
    Ok(Some(told))
}

/// The provider never did it: closes the key with the resolution as its proof and sends under a new one.
async fn release(
    tx: &mut Tx,
    scene: &mut Scene,
    resolution: &ResolutionId,
    now: Timestamp,
) -> Result<(), Refusal> {
    let proof = format!("resolution {resolution}");
    payouts::renew(tx, scene, &proof, now).await.map_err(payouts::refused)?;
    match &mut scene.subject {
        Subject::Payout(stored) => {
            let released = stored.payout.state.after(PayoutEvent::Released);
            stored.payout.state =
                released.map_err(|state| Refusal::conflict("INVALID_STATE", state.to_string()))?;
            stored.reason = None;
            stored_payouts::save(tx, stored, stored.payout.revision).await?;
            let id = stored.payout.id.as_str();
            findings::resolve_others(tx, &[id], &["payout_unknown"], &[], now).await?;
        }
        Subject::Charge(charge) => {
            charge.state = ChargeState::Pending;
            charge.reason = None;
            charges::save(tx, charge).await?;
        }
    }
    // Whoever still looks it up under the old lease can write nothing of the job any more.
    let due = Parting { state: JobState::Available, reason: None, next_attempt_at: Some(now) };
    jobs::supersede(tx, &scene.stored.intent.id, due, now).await?;
    Ok(())
}
