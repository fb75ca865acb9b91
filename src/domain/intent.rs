//! The money protocol (`reliability.md` §5): how one intent moves money at most once, whatever is lost.
//!
//! Pure. An [`Intent`] is what is known of one transfer or charge under its current key. [`Intent::next`]
//! says what may be done now; [`Intent::after_send`] and [`Intent::after_look_up`] say what an answer
//! means. The worker in `app::dispatch` only carries that out, and `tests` runs the same functions against
//! a provider that loses, repeats and delays everything.
//!
//! The rule that the rest follows from: an attempt is written down before it is made, and an attempt of
//! which nothing is known may have moved the money. That doubt belongs to the generation, that is to the
//! idempotency key, and not to the attempt that came last. It ends in one of three ways only: the
//! provider shows the object, the provider repeats a refusal that is stored under the key, or people bring
//! evidence. Nothing found is no evidence.

#[cfg(test)]
mod tests;

use super::{ids::IntentId, program::words, time::Timestamp};

/// How long a key may be used from its first send, seconds. Stripe may forget a key after 24 hours and
/// then executes it again; four hours are left for clocks, queues and calls under way
/// (<https://docs.stripe.com/api/idempotent_requests>; `rulings.md` 16).
pub const WINDOW_S: i64 = 20 * 3_600;

/// How often a provider may repeat a stored server error before asking again is pointless.
pub const REPLAYED_ERRORS_MAX: u32 = 2;

/// How often a first-hand refusal that the provider advises to try again is tried again under its key. A
/// provider that stores the refusal repeats it at once and ends this; one that stores nothing would go on.
pub const ADVISED_RETRIES_MAX: u32 = 5;

/// How long look-ups go on once a key's window is over, seconds: as long as a provider shows its events.
pub const LOOK_UP_FOR_S: i64 = 30 * 86_400;

/// How often an intent that is set apart is looked up at least, seconds.
pub const LOOK_UP_EVERY_S: i64 = 86_400;

/// How long after a restore an intent that is made may be one that the lost database had made too, seconds:
/// with the same id, hence the same key, which may be too old to protect. As long as an operator may take to
/// settle what was lost.
pub const MADE_AGAIN_S: i64 = 30 * 86_400;

words! {
    /// What money an intent moves.
    IntentKind {
        /// From the platform to an affiliate's account.
        Transfer = "transfer",
        /// From a buyer to a connected account, less the application fee.
        Charge = "charge",
    }
}

words! {
    /// Where an intent stands.
    IntentState {
        /// May be sent; whether it was is told by its attempts.
        Open = "open",
        /// May have been executed and must not be sent any more.
        Unknown = "unknown",
        /// The provider's object is known.
        Succeeded = "succeeded",
        /// The provider has definitely refused; nothing moved and nothing will.
        Failed = "failed",
        /// Given up before anything was sent.
        Canceled = "canceled",
    }
}

words! {
    /// What the answer to one attempt proves, and about what.
    Verdict {
        /// The object exists and is what was asked for.
        Executed = "executed",
        /// Not one byte of the request left: about this attempt alone.
        NotSent = "not_sent",
        /// The provider turned the request away before executing it (rate limit): about this attempt alone.
        TurnedAway = "turned_away",
        /// The provider does not accept our key: about this attempt alone, and about every other intent.
        Unauthorized = "unauthorized",
        /// The platform's balance does not cover it: the result stored under the key.
        InsufficientFunds = "insufficient_funds",
        /// The receiving account cannot take it: the result stored under the key.
        AccountNotReady = "account_not_ready",
        /// Refused for good: the result stored under the key.
        Refused = "refused",
        /// Anything may have happened.
        Ambiguous = "ambiguous",
        /// The key was used with another body. A fault of ours; never a reason for a new key.
        KeyMisused = "key_misused",
        /// A success that is not what was asked for.
        Contradiction = "contradiction",
    }
}

impl Verdict {
    /// Whether the verdict leaves open what the attempt did.
    #[must_use]
    pub const fn leaves_doubt(self) -> bool {
        match self {
            Self::Ambiguous | Self::KeyMisused | Self::Contradiction => true,
            Self::Executed
            | Self::NotSent
            | Self::TurnedAway
            | Self::Unauthorized
            | Self::InsufficientFunds
            | Self::AccountNotReady
            | Self::Refused => false,
        }
    }
}

/// What is known of one send under the current key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What its answer proved; `None` when no answer was recorded, so that anything may have happened.
    pub verdict: Option<Verdict>,
    /// Whether the provider said that the answer was stored under the key before.
    pub replayed: bool,
    /// Whether the provider advised to try again. It decides whether that is done, never what happened
    /// (`rulings.md` 16, F-P-13).
    pub retry_advised: bool,
    /// When it was written down, just before it was made.
    pub at: Timestamp,
}

impl Sent {
    /// Whether it may have moved money. A success that nobody acted on, because the worker that heard it
    /// had lost its lease, certainly did.
    fn is_doubtful(&self) -> bool {
        self.verdict.is_none_or(|verdict| verdict == Verdict::Executed || verdict.leaves_doubt())
    }
}

/// One intent under its current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Derived from what it pays.
    pub id: IntentId,
    /// Where it stands.
    pub state: IntentState,
    /// Which key it uses: 0 is the first.
    pub generation: i64,
    /// When the current key was first sent. Set with the first attempt and never moved.
    pub first_sent_at: Option<Timestamp>,
    /// The sends of the current generation, in order.
    pub sends: Vec<Sent>,
    /// When the provider's list was last read to the end without finding the intent.
    pub looked_up_at: Option<Timestamp>,
    /// Whether the provider must be asked before the first send: the database may be older than what the
    /// provider has done (`reliability.md` §5.12).
    pub look_up_first: bool,
}

/// What may be done with an intent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the stored bytes under the current key.
    Send,
    /// Ask the provider whether it knows the intent.
    LookUp {
        /// Whether a send may follow when the provider could not be asked: the key protects while its
        /// window is open and it is known when the earlier attempts were made.
        or_send: bool,
    },
    /// Close the generation, because nothing was executed under its key and the key has become too old to
    /// be used, and open the next.
    Renew,
    /// The key may have been executed and can no more be used: set the intent apart.
    Quarantine(Quarantine),
    /// Nothing: it is over.
    Nothing,
}

words! {
    /// Why an intent may not be sent any more.
    Quarantine {
        /// The window of its key is over and what happened is not known.
        WindowOver = "window_over",
        /// The provider keeps repeating a server error that it stored under the key.
        ErrorReplayed = "error_replayed",
        /// The key was used with another body.
        KeyMisused = "key_misused",
        /// The provider shows something else than was asked for.
        Contradiction = "contradiction",
        /// The provider shows more than one object for the intent.
        Duplicate = "duplicate",
    }
}

/// What an answer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The money moved: adopt the object.
    Succeeded,
    /// Nothing new: try again later, under the same key.
    Again,
    /// The provider refused for now and stored that: close the generation with the answer as its proof and
    /// wait for what was missing.
    Wait(Waiting),
    /// The provider refused for good: give the reservation back.
    Failed,
    /// Set the intent apart for people.
    Quarantined(Quarantine),
    /// The intent was settled in another way meanwhile; the answer is only kept.
    Noted,
}

words! {
    /// What an intent waits for.
    Waiting {
        /// Money on the platform's balance.
        Funds = "waiting_funds",
        /// The receiving account.
        Account = "waiting_account",
    }
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The whole list was read and holds nothing of the intent. No evidence of anything.
    Nothing,
    /// Exactly one object, and it is what was asked for.
    One,
    /// Exactly one object, and it is not what was asked for.
    Other,
    /// More than one object.
    Several,
}

impl Intent {
    /// Whether the current key may have moved money.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.sends.iter().any(Sent::is_doubtful)
    }

    /// When the current key must not be sent any more.
    #[must_use]
    pub fn window_ends(&self) -> Option<Timestamp> {
        self.first_sent_at.map(|first| first.plus_secs(WINDOW_S))
    }

    /// What may be done now.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Next {
        match self.state {
            IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => Next::Nothing,
            IntentState::Unknown => Next::LookUp { or_send: false },
            IntentState::Open => self.next_of_open(now),
        }
    }

    fn next_of_open(&self, now: Timestamp) -> Next {
        let too_old = self.window_ends().is_some_and(|end| now >= end);
        if self.is_in_doubt() {
            if too_old {
                return Next::Quarantine(Quarantine::WindowOver);
            }
            if let Some(fault) = self.fault() {
                return Next::Quarantine(fault);
            }
            let last_sent = self.sends.last().map(|sent| sent.at);
            if self.looked_up_at >= last_sent {
                return Next::Send;
            }
            // An attempt without an answer was made by a process that died. How long ago its bytes went
            // out, or whether they still travel, is not known, so the provider is asked before more are sent.
            let or_send = self.sends.iter().all(|sent| sent.verdict.is_some());
            return Next::LookUp { or_send };
        }
        if self.look_up_first && self.looked_up_at.is_none() {
            return Next::LookUp { or_send: false };
        }
        if too_old { Next::Renew } else { Next::Send }
    }

    /// What makes sending again pointless or dangerous, whatever the clock says.
    fn fault(&self) -> Option<Quarantine> {
        let has = |verdict| self.sends.iter().any(|sent| sent.verdict == Some(verdict));
        if has(Verdict::KeyMisused) {
            return Some(Quarantine::KeyMisused);
        }
        if has(Verdict::Contradiction) {
            return Some(Quarantine::Contradiction);
        }
        let repeated = self
            .sends
            .iter()
            .filter(|sent| sent.verdict == Some(Verdict::Ambiguous) && sent.replayed)
            .count();
        (repeated >= REPLAYED_ERRORS_MAX as usize).then_some(Quarantine::ErrorReplayed)
    }

    /// What the answer to the last of [`Self::sends`] leads to. The answer is already among the sends.
    #[must_use]
    pub fn after_send(&self) -> Outcome {
        let Some(Sent { verdict: Some(verdict), replayed, .. }) = self.sends.last().copied() else {
            return Outcome::Again;
        };
        match self.state {
            IntentState::Open => {}
            // A success is the truth whoever hears it, and however late.
            IntentState::Unknown if verdict == Verdict::Executed => return Outcome::Succeeded,
            IntentState::Unknown | IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => {
                return Outcome::Noted;
            }
        }
        // Of two answers under one key, only one that the key itself gave says what became of the other
        // attempts: a repeated answer is the key's own. A first-hand refusal proves nothing about an
        // earlier attempt that may still be under way.
        let refusal_stands = replayed || !self.is_in_doubt();
        let was_executed = self.sends.iter().any(|sent| sent.verdict == Some(Verdict::Executed));
        match verdict {
            Verdict::Executed => Outcome::Succeeded,
            // One key has one result. A refusal beside a success is for people (F-P-27).
            Verdict::InsufficientFunds | Verdict::AccountNotReady | Verdict::Refused if was_executed => {
                Outcome::Quarantined(Quarantine::Contradiction)
            }
            Verdict::InsufficientFunds if refusal_stands => Outcome::Wait(Waiting::Funds),
            Verdict::AccountNotReady if refusal_stands => Outcome::Wait(Waiting::Account),
            // The same bytes under the same key execute at most once, so following the advice is safe, and the
            // other refusals are tried again anyway when what was missing is there. An answer from the key
            // stays what it is.
            Verdict::Refused if refusal_stands && !replayed && self.is_advised_to_retry() => Outcome::Again,
            Verdict::Refused if refusal_stands => Outcome::Failed,
            Verdict::NotSent
            | Verdict::TurnedAway
            | Verdict::Unauthorized
            | Verdict::InsufficientFunds
            | Verdict::AccountNotReady
            | Verdict::Refused => Outcome::Again,
            Verdict::Ambiguous | Verdict::KeyMisused | Verdict::Contradiction => {
                self.fault().map_or(Outcome::Again, Outcome::Quarantined)
            }
        }
    }

    /// Whether the provider advises to try the refusal again that it gave last, and has not done so too often.
    fn is_advised_to_retry(&self) -> bool {
        let is_advised = |sent: &&Sent| sent.verdict == Some(Verdict::Refused) && sent.retry_advised;
        let times = self.sends.iter().filter(is_advised).count();
        self.sends.last().as_ref().is_some_and(is_advised) && times <= ADVISED_RETRIES_MAX as usize
    }

    /// What a look-up that read the whole list leads to.
    #[must_use]
    pub fn after_look_up(&self, found: Found) -> Outcome {
        match self.state {
            IntentState::Open | IntentState::Unknown => match found {
                Found::Nothing => Outcome::Again,
                Found::One => Outcome::Succeeded,
                Found::Other => Outcome::Quarantined(Quarantine::Contradiction),
                Found::Several => Outcome::Quarantined(Quarantine::Duplicate),
            },
            IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => Outcome::Noted,
        }
    }

    /// Whether it can still be given up: nothing was written down to be sent under the current key
    /// (`rulings.md` 13). Earlier keys were closed with the proof that nothing was executed under them.
    /// Never so while a restored database may have forgotten a send: nothing found is no evidence for
    /// giving up either.
    #[must_use]
    pub fn can_be_given_up(&self) -> bool {
        self.state == IntentState::Open && self.sends.is_empty() && !self.look_up_first
    }

    /// The idempotency key of a generation: of the intent and the generation alone, never of retries,
    /// dates or amounts (`rulings.md` 16). At most 255 characters.
    #[must_use]
    pub fn key(id: &IntentId, generation: i64, livemode: bool) -> String {
        let mode = if livemode { "live" } else { "test" };
        format!("remit_{mode}_{id}_g{generation}")
    }
}
