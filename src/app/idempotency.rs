//! Requests that were sent with an Idempotency-Key: carried out once, and answered alike for a day.
//!
//! A request is written down as in flight before it is carried out, in a transaction of its own, so that
//! of two that are sent at once, to whichever nodes, one runs. The change it makes names it
//! ([`super::audit::record`]) and commits only while the claim holds. So after a crash the row says which it
//! was: nothing was changed, and the request runs now; or it was, and the caller is told what was done.
//!
//! Behind this stands what must hold for ever: the id of a decision and of a settlement run is made of the
//! caller's key. So a request of these that was interrupted, or that is repeated after the day, is carried
//! out again, finds what it did and is answered with what is true now (`app::decide`, `app::settle`).

use super::{App, Refusal, audit::Claim, keys::Principal, new_id};
pub use crate::store::idempotency::Answer;
use crate::{
    domain::ids::IdempotencyId,
    failpoint::{self, Failpoint},
    store::{
        StoreError, Tx, audit,
        idempotency::{self, NewRequest, StoredRequest},
    },
};

/// For how long a key is remembered, seconds.
pub const KEPT_S: i64 = 24 * 3_600;

/// How long whoever carries a request out is believed to be at work, seconds. Far more than most requests
/// take; whoever takes longer loses the claim, and changes nothing. Only a settlement of very many may take
/// longer: then a repeat takes the same run further beside the first, chunk by chunk.
pub const LEASE_S: i64 = 60;

/// Keys that are forgotten in one transaction at most: on SQLite everybody waits for it.
const PURGED_MAX: i64 = 200;

/// A request with a key.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The caller's own key.
    pub key: &'a str,
    /// SHA-256 of what tells the request from every other.
    pub fingerprint: &'a [u8; 32],
    /// Whether it may be carried out again after it was interrupted, or is carried out for as long as it is
    /// refused: then it finds what it did and answers as it would have.
    pub is_repeatable: bool,
}

/// What is to be done about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Carry it out under this claim, then [`finish`].
    Run(Claim),
    /// It was answered.
    Replay(Answer),
    /// Somebody carries it out now; ask again after so many seconds.
    InFlight {
        /// Seconds until its lease ends at the latest.
        retry_after_s: u32,
    },
    /// The key was used for another request.
    Mismatch,
    /// It was interrupted after it had changed something, and its answer is lost.
    Interrupted {
        /// What was done, and the id of the object.
        changes: Vec<(String, String)>,
    },
}

/// Looks whether a request is to be carried out, and claims it if so.
///
/// # Errors
/// [`Refusal::Store`].
pub async fn begin(app: &App, by: &Principal, asked: Asked<'_>) -> Result<Turn, Refusal> {
    let now = app.now();
    let new = NewRequest {
        id: new_id!(IdempotencyId, now),
        actor: by.actor(),
        key: asked.key,
        fingerprint: asked.fingerprint,
        leased_until: now.plus_secs(LEASE_S),
        created_at: now,
        expires_at: now.plus_secs(KEPT_S),
    };
    let mut tx = app.db.begin().await?;
    idempotency::delete_expired_key(&mut tx, new.actor, new.key, now).await?;
    if idempotency::insert(&mut tx, &new).await? {
        commit(tx).await?;
        return Ok(Turn::Run(Claim { id: new.id, number: 1 }));
    }
    let Some(stored) = idempotency::lock(&mut tx, new.actor, new.key).await? else {
        // Whoever had it has just given it back; the caller's next try finds it free.
        return Ok(Turn::InFlight { retry_after_s: 1 });
    };
    let turn = judge(&mut tx, &new, &asked, stored).await?;
    commit(tx).await?;
    Ok(turn)
}

async fn judge(
    tx: &mut Tx,
    new: &NewRequest<'_>,
    asked: &Asked<'_>,
    stored: StoredRequest,
) -> Result<Turn, StoreError> {
    if stored.fingerprint != asked.fingerprint {
        return Ok(Turn::Mismatch);
    }
    if let Some(answer) = stored.answer {
        return Ok(Turn::Replay(answer));
    }
    let left_us = stored.leased_until.as_micros().saturating_sub(new.created_at.as_micros());
    if left_us > 0 {
        let left_s = u32::try_from(left_us.div_euclid(1_000_000)).unwrap_or(u32::MAX);
        return Ok(Turn::InFlight { retry_after_s: left_s.saturating_add(1) });
    }
    if stored.changed && !asked.is_repeatable {
        return Ok(Turn::Interrupted { changes: audit::list_of_request(tx, &stored.id).await? });
    }
    let number = idempotency::take_over(tx, &stored.id, stored.claim, new.leased_until).await?;
    Ok(Turn::Run(Claim { id: stored.id, number }))
}

/// Ends a request that was carried out. An answer is kept; without one, where the request may be sent
/// again and be answered otherwise, the key is given back unless something was changed.
///
/// # Errors
/// [`StoreError`]; the request is then treated as interrupted once its lease has ended.
pub async fn finish(app: &App, claim: &Claim, answer: Option<&Answer>) -> Result<(), StoreError> {
    let mut tx = app.db.begin().await?;
    match answer {
        // Where the claim was lost, whoever has it now keeps an answer.
        Some(answer) => drop(idempotency::complete(&mut tx, &claim.id, claim.number, answer).await?),
        None => idempotency::release(&mut tx, &claim.id, claim.number, app.now()).await?,
    }
    commit(tx).await
}

/// Forgets keys whose day is over, one small batch. Returns whether there may be more.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(app: &App) -> Result<bool, StoreError> {
    let now = app.now();
    // Most often there is nothing, and a look disturbs nobody.
    if !idempotency::is_any_due(&mut app.db.read().await?, now).await? {
        return Ok(false);
    }
    let mut tx = app.db.begin().await?;
    let purged = idempotency::purge(&mut tx, now, PURGED_MAX).await?;
    commit(tx).await?;
    Ok(purged == PURGED_MAX.unsigned_abs())
}

/// Commits what is known of a key.
async fn commit(tx: Tx) -> Result<(), StoreError> {
    failpoint::reach(Failpoint::KeyBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::KeyAfterCommit);
    Ok(())
}
