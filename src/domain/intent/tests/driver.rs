//! The workers: what `app::dispatch` does, one step at a time, with mistakes that can be seeded.
//!
//! A step is what happens between two moments at which a worker can be stopped for good, or for long: a
//! committed transaction, a byte on the wire, an answer read. A worker never decides anything itself; it
//! asks the functions under test, through [`Bug`], and carries the answer out.

use super::{
    invariants::{Violation, World},
    provider::{Answer, Fate, Request},
    rows::{Proof, Source},
    story::TRAVEL_S,
};
use crate::domain::{
    intent::{Found, Intent, IntentState, Next, Outcome, Sent, Verdict, WINDOW_S, Waiting},
    time::Timestamp,
};

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Every retry uses a key of its own.
    NewKeyPerRetry,
    /// The age of a key is not looked at.
    ResendAfterWindow,
    /// A worker whose lease is over goes on with what it read when it had it.
    NoFence,
    /// Doubt is a property of the last attempt instead of the key.
    DefiniteByLastAttempt,
    /// A look-up that found nothing is taken for a proof.
    CompensateOnGuess,
    /// The attempt is written down when it was answered.
    NoAttemptRowBeforeSend,
    /// An answer that comes late is taken for one to the key that is in use by then.
    LateAnswerToNextKey,
    /// An attempt is written down under a lease that is still the worker's own, without looking whether the
    /// intent is still as it was when the worker decided.
    StaleDecision,
    /// A worker that wakes up sends what it wanted to send, however long ago that was.
    NoDeadline,
    /// An intent of which a restored database says that it was never sent is sent without asking.
    NoLookUpAfterRestore,
    /// A person says that nothing was executed and does not know.
    OperatorLies,
    /// No mistake, only less care: a success that a worker hears too late is kept and not acted on.
    LateSuccessOnlyKept,
}

impl Bug {
    fn perturbed(self, intent: &Intent, now: Timestamp) -> Intent {
        let mut intent = intent.clone();
        match self {
            Self::ResendAfterWindow => {
                intent.first_sent_at = intent.first_sent_at.map(|first| first.max(now));
            }
            Self::DefiniteByLastAttempt => {
                intent.sends.drain(..intent.sends.len().saturating_sub(1));
            }
            Self::NoLookUpAfterRestore => intent.look_up_first = false,
            _ => {}
        }
        intent
    }

    fn next(self, intent: &Intent, now: Timestamp) -> Next {
        self.perturbed(intent, now).next(now)
    }

    fn after_send(self, intent: &Intent, now: Timestamp) -> Outcome {
        self.perturbed(intent, now).after_send()
    }

    fn after_look_up(self, intent: &Intent, found: Found) -> Outcome {
        let outcome = intent.after_look_up(found);
        if self == Self::CompensateOnGuess && outcome == Outcome::Again && intent.is_in_doubt() {
            Outcome::Failed
        } else {
            outcome
        }
    }
}

/// Where a worker stands. All of it is lost when it dies.
#[derive(Clone, Debug)]
enum At {
    Idle,
    Claimed,
    Decided(Next),
    Marked(Request),
    Waiting(usize, Option<Answer>),
    Answered(usize, Answer),
    LookingUp { or_send: bool, since: Timestamp },
    LookedUp { or_send: bool, since: Timestamp, objects: Option<Vec<usize>> },
}

#[derive(Clone, Debug)]
pub struct Worker {
    at: At,
    epoch: u64,
    /// What it read when it decided.
    seen: Option<Intent>,
}

impl Worker {
    pub const IDLE: Self = Self { at: At::Idle, epoch: 0, seen: None };

    pub const fn is_idle(&self) -> bool {
        matches!(self.at, At::Idle)
    }

    /// The attempt of which it wants to hear.
    pub const fn waits_for(&self) -> Option<usize> {
        match self.at {
            At::Waiting(attempt, None) => Some(attempt),
            _ => None,
        }
    }

    pub const fn about_to_send(&self) -> Option<&Request> {
        match &self.at {
            At::Marked(request) => Some(request),
            _ => None,
        }
    }

    /// The call it waits for does not come back in time.
    pub fn time_out(&mut self) {
        self.at = match std::mem::replace(&mut self.at, At::Idle) {
            At::Waiting(attempt, _) => At::Answered(attempt, Answer::LOST),
            At::LookingUp { or_send, since } => At::LookedUp { or_send, since, objects: None },
            other => other,
        };
    }
}

impl World {
    /// One step of one worker.
    pub fn work(&mut self, worker: usize) -> Result<(), Violation> {
        let at = std::mem::replace(&mut self.workers[worker].at, At::Idle);
        let epoch = self.workers[worker].epoch;
        let then = match at {
            At::Idle => self.claim(worker),
            At::Claimed => self.decide(worker),
            At::Decided(next) => self.begin(worker, next)?,
            At::Marked(request) => self.send(request),
            At::Waiting(attempt, None) => return self.listen(worker, attempt),
            At::Waiting(attempt, Some(answer)) => At::Answered(attempt, answer),
            At::Answered(attempt, answer) => self.record(worker, attempt, answer)?,
            At::LookingUp { or_send, since } => {
                At::LookedUp { or_send, since, objects: self.provider.list() }
            }
            At::LookedUp { or_send: true, objects: None, .. } => self.mark(worker, true)?,
            At::LookedUp { or_send: false, objects: None, .. } => {
                if self.rows.is_held(epoch) {
                    self.rows.try_again(self.now);
                }
                At::Idle
            }
            At::LookedUp { since, objects: Some(objects), .. } => self.found(epoch, since, &objects)?,
        };
        self.workers[worker].at = then;
        Ok(())
    }

    fn claim(&mut self, worker: usize) -> At {
        match self.rows.claim(self.now) {
            Some(epoch) => {
                self.workers[worker].epoch = epoch;
                At::Claimed
            }
            None => At::Idle,
        }
    }

    fn decide(&mut self, worker: usize) -> At {
        let intent = self.rows.intent();
        let next = self.rows.bug.next(&intent, self.now);
        self.workers[worker].seen = Some(intent);
        At::Decided(next)
    }

    /// Starts what was decided, unless the lease is lost or something has changed meanwhile.
    fn begin(&mut self, worker: usize, next: Next) -> Result<At, Violation> {
        let epoch = self.workers[worker].epoch;
        match next {
            Next::Send => return self.mark(worker, false),
            Next::LookUp { or_send } => return Ok(At::LookingUp { or_send, since: self.now }),
            Next::Nothing => return Ok(At::Idle),
            Next::Renew | Next::Quarantine(_) => {}
        }
        if !self.rows.is_held(epoch) {
            return Ok(At::Idle);
        }
        if self.rows.bug.next(&self.rows.intent(), self.now) != next {
            return Ok(At::Claimed);
        }
        if next == Next::Renew {
            self.rows.renew(Proof::NothingExecuted);
            return Ok(At::Claimed);
        }
        self.rows.quarantine(self.now)?;
        Ok(At::Idle)
    }

    /// Writes an attempt down. In the same transaction it is asked again whether it may be made.
    fn mark(&mut self, worker: usize, could_not_ask: bool) -> Result<At, Violation> {
        let Worker { epoch, seen, .. } = self.workers[worker].clone();
        if !self.rows.is_held(epoch) {
            return Ok(At::Idle);
        }
        let intent = match seen {
            Some(seen) if self.rows.bug == Bug::NoFence => seen,
            _ => self.rows.intent(),
        };
        let may_send = match self.rows.bug.next(&intent, self.now) {
            Next::Send => true,
            Next::LookUp { or_send } => or_send && could_not_ask,
            Next::Renew | Next::Quarantine(_) | Next::Nothing => false,
        };
        if !may_send && self.rows.bug != Bug::StaleDecision {
            return Ok(At::Claimed);
        }
        if !intent.is_in_doubt() && self.account_is_missing() {
            self.rows.wait(Waiting::Account, self.now)?;
            return Ok(At::Idle);
        }
        let too_old = intent.first_sent_at.is_some_and(|first| self.now >= first.plus_secs(WINDOW_S));
        if too_old && self.rows.bug == Bug::None {
            return Err(Violation::KeyTooOld);
        }
        let generation = usize::try_from(intent.generation).unwrap();
        Ok(At::Marked(self.rows.mark(generation, self.now)?))
    }

    /// Whether the account cannot take a transfer. Where we were told so, the provider is asked again,
    /// because the event that tells of the change may have been lost.
    fn account_is_missing(&mut self) -> bool {
        if self.rows.account_told == Some(false) && self.provider.list().is_some() {
            self.rows.account_told = Some(self.provider.account_ready);
        }
        self.rows.account_told == Some(false)
    }

    fn send(&mut self, request: Request) -> At {
        let attempt = request.attempt;
        if !self.can_arrive(&request) {
            return At::Answered(attempt, Answer::NOT_SENT);
        }
        self.requests.push(request);
        At::Waiting(attempt, None)
    }

    /// Nothing special happens to the request that a worker waits for.
    fn listen(&mut self, worker: usize, attempt: usize) -> Result<(), Violation> {
        self.workers[worker].at = At::Waiting(attempt, None);
        if let Some(place) = self.requests.iter().position(|request| request.attempt == attempt) {
            return self.arrive(place, Fate::Straight);
        }
        self.workers[worker].time_out();
        Ok(())
    }

    /// A request gets where it goes, or does not.
    pub fn arrive(&mut self, place: usize, fate: Fate) -> Result<(), Violation> {
        let mut request = self.requests.remove(place);
        let listener = self.workers.iter().position(|worker| worker.waits_for() == Some(request.attempt));
        if !self.can_arrive(&request) && !request.started {
            return Ok(());
        }
        let fate = if fate == Fate::Unreachable && listener.is_none() { Fate::Vanishes } else { fate };
        let answer = self.provider.receive(&mut request, fate, self.now)?;
        if let (Some(answer), Some(worker)) = (answer, listener) {
            self.workers[worker].at = At::Waiting(request.attempt, Some(answer));
        }
        if answer.is_none() && request.started {
            self.requests.push(request);
        }
        Ok(())
    }

    /// Whether a request may still arrive, or be sent at all.
    pub fn can_arrive(&self, request: &Request) -> bool {
        self.rows.bug == Bug::NoDeadline || self.now <= request.made_at.plus_secs(TRAVEL_S)
    }

    /// Keeps an answer and carries out what it leads to, in one transaction. A worker that has lost its
    /// lease, or whose key is closed, can only tell of a success; all else it says is kept and no more.
    fn record(&mut self, worker: usize, attempt: usize, answer: Answer) -> Result<At, Violation> {
        let Worker { epoch, seen, .. } = self.workers[worker].clone();
        let (bug, now, rows) = (self.rows.bug, self.now, &mut self.rows);
        rows.observe(attempt, answer)?;
        let is_current = rows.attempts[attempt].generation == rows.generation();
        let sent = rows.attempts[attempt].sent;
        let outcome = match (bug, seen) {
            (Bug::NoFence, Some(seen)) => bug.after_send(&with_last(seen, sent), now),
            (Bug::LateAnswerToNextKey, _) if !is_current => {
                bug.after_send(&with_last(rows.intent(), sent), now)
            }
            _ if is_current => bug.after_send(&rows.intent_judging(attempt), now),
            _ if answer.verdict == Verdict::Executed => Outcome::Succeeded,
            _ => Outcome::Noted,
        };
        let acts = rows.is_held(epoch)
            || match bug {
                Bug::LateAnswerToNextKey => !is_current,
                Bug::LateSuccessOnlyKept => false,
                _ => outcome == Outcome::Succeeded,
            };
        if acts {
            if bug == Bug::NewKeyPerRetry && outcome == Outcome::Again {
                rows.renew(Proof::NothingExecuted);
            }
            rows.apply(outcome, Source { attempt: Some(attempt), object: answer.object }, now)?;
        }
        Ok(At::Idle)
    }

    /// Carries out what a look-up found.
    fn found(&mut self, epoch: u64, since: Timestamp, objects: &[usize]) -> Result<At, Violation> {
        let rows = &mut self.rows;
        let found = match objects.len() {
            0 => Found::Nothing,
            1 => Found::One,
            _ => Found::Several,
        };
        let outcome = rows.bug.after_look_up(&rows.intent(), found);
        if !rows.is_held(epoch) && outcome != Outcome::Succeeded {
            return Ok(At::Idle);
        }
        if outcome == Outcome::Again {
            rows.looked_up_at = Some(since);
            if rows.state == IntentState::Open {
                return Ok(At::Claimed);
            }
        }
        rows.apply(outcome, Source { attempt: None, object: objects.first().copied() }, self.now)?;
        Ok(At::Idle)
    }
}

fn with_last(mut intent: Intent, sent: Sent) -> Intent {
    intent.sends.push(sent);
    intent
}
