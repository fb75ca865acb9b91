//! What the answer to a send means: it is kept and booked in one transaction, under the locks.

use sha2::{Digest, Sha256};
use tracing::info;

use super::{CONFLICTS_MAX, Dispatcher, Went, call::retry_after};
use crate::{
    app::{
        fold::Counters,
        payouts::{self, Ending, MoveError, Reach, Scene},
    },
    domain::{
        intent::{IntentState, Outcome, Verdict},
        ledger::Cause,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{Answer, Reply},
    store::{
        StoreError, Tx,
        attempts::{self, Kept},
        findings::{self, NewFinding, Severity},
        jobs::{self, Lease},
    },
};

impl Dispatcher {
    /// Keeps the answer to a send and does what it means.
    pub(super) async fn judge(
        &self,
        lease: &Lease,
        number: i64,
        reply: &Reply,
        answer: &Answer,
    ) -> Result<Went, MoveError> {
        let (mut conflicts, mut counters) = (0, Counters::default());
        loop {
            match self.try_judge(lease, number, reply, answer, &counters).await {
                Err(MoveError::Uncounted(keys)) if counters.extend(&keys) => {}
                Err(MoveError::Store(error)) if error.is_retryable() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::task::yield_now().await;
                }
                Err(failure) if !failure.is_passing() => {
                    // What it means cannot be booked; what was heard is kept all the same.
                    let (kept, now) = (kept(reply, answer), self.app.now());
                    let mut tx = self.app.db.begin().await?;
                    attempts::keep_answer(&mut tx, &lease.intent_id, number, answer.verdict, &kept, now)
                        .await?;
                    failpoint::reach(Failpoint::KeepBeforeCommit);
                    tx.commit().await?;
                    failpoint::reach(Failpoint::KeepAfterCommit);
                    return Err(failure);
                }
                result => return result,
            }
        }
    }

    async fn try_judge(
        &self,
        lease: &Lease,
        number: i64,
        reply: &Reply,
        answer: &Answer,
        counters: &Counters,
    ) -> Result<Went, MoveError> {
        let now = self.app.now();
        let reach = match answer.verdict {
            Verdict::Executed | Verdict::Refused => Reach::Sales(counters),
            Verdict::NotSent
            | Verdict::TurnedAway
            | Verdict::Unauthorized
            | Verdict::InsufficientFunds
            | Verdict::AccountNotReady
            | Verdict::Ambiguous
            | Verdict::KeyMisused
            | Verdict::Contradiction => Reach::Intent,
        };
        let code = answer.error_code.as_deref().unwrap_or(answer.verdict.as_str());
        let mut tx = self.app.db.begin().await?;
        attempts::keep_answer(&mut tx, &lease.intent_id, number, answer.verdict, &kept(reply, answer), now)
            .await?;
        let scene = payouts::lock(&mut tx, &lease.intent_id, reach).await?;
        let Some(mut scene) = scene else { return Err(MoveError::NoPurpose(lease.intent_id.clone())) };
        let held = jobs::is_held(&mut tx, lease).await?;
        let outcome = outcome_of(&scene, held, answer.verdict);
        let cause = Cause::Call(format!("{}#{number}", lease.intent_id));
        match outcome {
            Outcome::Succeeded => {
                // The verdict `Executed` always comes with the object that proves it.
                let Some(object) = &answer.object else {
                    return Err(MoveError::NoPurpose(lease.intent_id.clone()));
                };
                payouts::succeed(&self.app, &mut tx, &mut scene, object, &cause, now).await?;
            }
            Outcome::Again => {
                self.part_for_later(&mut tx, lease, retry_after(reply)).await?;
            }
            Outcome::Wait(waiting) => {
                let proof = format!("attempt {number}: {code}");
                payouts::wait(&self.app, &mut tx, &mut scene, waiting, &proof, now).await?;
            }
            Outcome::Failed => {
                payouts::end(&self.app, &mut tx, &mut scene, Ending::Failed { reason: code }, &cause, now)
                    .await?;
            }
            Outcome::Quarantined(why) => payouts::quarantine(&mut tx, &mut scene, why, now).await?,
            Outcome::Noted => {
                let shown = answer.object.as_slice();
                payouts::note_unexpected(&mut tx, &scene.stored, shown, now).await?;
            }
        }
        note_key_trouble(&mut tx, &scene.stored.provider, answer.verdict, now).await?;
        failpoint::reach(Failpoint::JudgeBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::JudgeAfterCommit);
        info!(verdict = answer.verdict.as_str(), code, ?outcome, "the provider answered");
        Ok(Went::Over)
    }
}

/// What an answer leads to. Who no longer holds the job judges nothing, but a success is the truth whoever
/// hears it.
fn outcome_of(scene: &Scene, held: bool, verdict: Verdict) -> Outcome {
    if held {
        return scene.stored.intent.after_send();
    }
    match (verdict, scene.stored.intent.state) {
        (Verdict::Executed, IntentState::Open | IntentState::Unknown) => Outcome::Succeeded,
        _ => Outcome::Noted,
    }
}

/// Raises the alarm when the provider does not accept our key, and ends it when it does again.
async fn note_key_trouble(
    tx: &mut Tx,
    provider: &str,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), StoreError> {
    const KIND: &str = "provider_refuses_key";
    match verdict {
        Verdict::Unauthorized => {
            let finding = NewFinding {
                kind: KIND.to_owned(),
                severity: Severity::Critical,
                object: provider.to_owned(),
                detail:
                    "the provider does not accept the configured key, or the key lacks a right; nothing is \
                         sent for a few minutes at a time until it does"
                        .to_owned(),
            };
            findings::raise(tx, &[finding], now).await
        }
        Verdict::Executed
        | Verdict::InsufficientFunds
        | Verdict::AccountNotReady
        | Verdict::Refused
        | Verdict::KeyMisused
        | Verdict::Contradiction => findings::resolve_others(tx, &[provider], &[KIND], &[], now).await,
        Verdict::NotSent | Verdict::TurnedAway | Verdict::Ambiguous => Ok(()),
    }
}

fn kept(reply: &Reply, answer: &Answer) -> Kept {
    let shared = Kept {
        error_code: answer.error_code.clone(),
        object_id: answer.object.as_ref().map(|object| object.id.clone()),
        ..Kept::default()
    };
    match reply {
        Reply::NotSent | Reply::Lost => shared,
        Reply::Answered(response) => Kept {
            status: Some(response.status),
            request_id: response.request_id.clone(),
            replayed: response.replayed,
            should_retry: response.should_retry,
            body_sha256: Some(Sha256::digest(&response.body).to_vec()),
            ..shared
        },
    }
}
