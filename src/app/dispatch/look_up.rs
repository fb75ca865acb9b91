//! Asking the provider whether it knows an intent that is in doubt (`reliability.md` §5, "look up").

use std::collections::BTreeMap;

use tracing::info;

use super::{Dispatcher, micros};
use crate::{
    app::{
        fold::Counters,
        payouts::{self, MoveError, Reach},
    },
    domain::{
        intent::{Found, IntentState, Outcome},
        job::JobState,
        ledger::Cause,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{Made, ObjectSeen},
    store::{
        attempts::{self, Call, Kept, LookedUp},
        intents::StoredIntent,
        jobs::{self, Lease, Parting},
    },
};

/// Pages of a look-up at most; a list that is longer was not read to the end.
const PAGES_MAX: usize = 200;

/// How far before an intent was sent its object is looked for, seconds: clocks differ.
const LOOK_BACK_S: i64 = 3_600;

/// How long after an intent was sent its object is looked for, seconds: twice the time for which a provider
/// keeps a key. One that is made later still is told by its event, and nothing found is no evidence.
const MADE_WITHIN_S: i64 = 2 * 86_400;

/// The same where the intent may have been made by a database that is lost: as far as providers show events.
const LOOK_BACK_AFTER_RESTORE_S: i64 = 30 * 86_400;

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// The job was laid down: the object was found, or the intent is set apart.
    Settled,
    /// The whole list was read and holds nothing.
    Nothing,
    /// The list could not be read.
    Unreadable,
}

impl Dispatcher {
    /// Asks the provider whether it knows the intent, to the end of its list, and does what that means.
    pub(super) async fn look_up(&self, lease: &Lease, stored: &StoredIntent) -> Result<Looked, MoveError> {
        let other_mode = stored.livemode != self.app.config.livemode;
        if self.transport.is_none() || other_mode || self.stop.is_cancelled() {
            return Ok(Looked::Unreadable);
        }
        self.token().await;
        let Some(number) = self.write_down(lease, stored, Call::LookUp).await? else {
            return Ok(Looked::Unreadable);
        };
        let found = self.walk(lease, stored).await?;
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        let (looked, found_now) = match &found {
            None => (LookedUp::Unreadable, None),
            Some(objects) => match objects.as_slice() {
                [] => (LookedUp::Nothing, Some(Found::Nothing)),
                [one] if one.matches => (LookedUp::Something, Some(Found::One)),
                [_] => (LookedUp::Something, Some(Found::Other)),
                [_, _, ..] => (LookedUp::Something, Some(Found::Several)),
            },
        };
        attempts::keep_look_up(&mut tx, &lease.intent_id, number, looked, &Kept::default(), now).await?;
        // What is paid is not folded again, so nothing is counted.
        let counters = Counters::default();
        let reach = if found_now == Some(Found::One) { Reach::Sales(&counters) } else { Reach::Intent };
        let scene = payouts::lock(&mut tx, &lease.intent_id, reach).await?;
        let Some(mut scene) = scene else { return Err(MoveError::NoPurpose(lease.intent_id.clone())) };
        let outcome = found_now.map_or(Outcome::Again, |found| scene.stored.intent.after_look_up(found));
        let result = match outcome {
            Outcome::Succeeded => {
                let cause = Cause::Call(format!("{}#{number}", lease.intent_id));
                if let Some([object]) = found.as_deref() {
                    payouts::succeed(&self.app, &mut tx, &mut scene, object, &cause, now).await?;
                }
                Looked::Settled
            }
            Outcome::Quarantined(why) => {
                payouts::quarantine(&mut tx, &mut scene, why, now).await?;
                Looked::Settled
            }
            Outcome::Again if scene.stored.intent.state == IntentState::Unknown => {
                let parting = Parting {
                    state: JobState::Unknown,
                    reason: None,
                    next_attempt_at: payouts::next_look_up(&scene.stored, now),
                };
                jobs::part(&mut tx, lease, parting, now).await?;
                Looked::Settled
            }
            Outcome::Again | Outcome::Wait(_) | Outcome::Failed | Outcome::Noted
                if looked == LookedUp::Unreadable =>
            {
                Looked::Unreadable
            }
            // Settled by somebody else meanwhile: the next look at the intent sees that.
            Outcome::Noted => {
                let shown = found.as_deref().unwrap_or_default();
                payouts::note_unexpected(&mut tx, &scene.stored, shown, now).await?;
                Looked::Nothing
            }
            Outcome::Again | Outcome::Wait(_) | Outcome::Failed => Looked::Nothing,
        };
        failpoint::reach(Failpoint::JudgeBeforeCommit);
        tx.commit().await?;
        failpoint::reach(Failpoint::JudgeAfterCommit);
        info!(?looked, ?outcome, "the provider's list was read");
        Ok(result)
    }

    /// The objects that carry the intent, by id; `None` when the list could not be read to its end.
    async fn walk(&self, lease: &Lease, stored: &StoredIntent) -> Result<Option<Vec<ObjectSeen>>, MoveError> {
        let provider = payouts::provider_of(stored)?;
        let order = payouts::order(stored, stored.intent.generation);
        let made = when_made(stored);
        let mut objects = BTreeMap::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            if lease.until <= self.app.now().plus_micros(micros(self.app.config.stripe.timeout)) {
                return Ok(None);
            }
            let request = provider.look_up(&order, made, cursor.as_deref());
            let reply =
                self.call("look_up", provider.name(), &stored.api_version, &request, lease.until).await;
            let page = provider.page(&order, &reply);
            self.learn_of_reading(&lease.lane, &reply);
            let Ok(page) = page else { return Ok(None) };
            objects.extend(page.objects.into_iter().map(|object| (object.id.clone(), object)));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(Some(objects.into_values().collect()));
            }
            self.token().await;
        }
        Ok(None)
    }
}

/// When the object of an intent was made, if it was: about when the intent was sent. What a lost database
/// may have sent, nobody knows.
fn when_made(stored: &StoredIntent) -> Made {
    let anytime = |look_back_s: i64| Made { since: stored.created_at.plus_secs(-look_back_s), until: None };
    match stored.sent_between {
        _ if stored.intent.look_up_first => anytime(LOOK_BACK_AFTER_RESTORE_S),
        None => anytime(LOOK_BACK_S),
        Some((first, last)) => {
            Made { since: first.plus_secs(-LOOK_BACK_S), until: Some(last.plus_secs(MADE_WITHIN_S)) }
        }
    }
}
