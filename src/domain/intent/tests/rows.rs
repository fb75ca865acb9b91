//! What is durable: the rows of one intent and its payout, and the transactions that change them.
//!
//! A method that takes a lease's epoch is one transaction that a worker commits; it refuses when the lease
//! has passed to somebody else. Nothing here decides: what may be done comes from the functions under test.

use std::collections::BTreeMap;

use super::{
    driver::Bug,
    invariants::Violation,
    provider::{Answer, Request},
};
use crate::domain::{
    ids::{EnrollmentId, IntentId, PayoutId, ProgramId},
    intent::{Intent, IntentState, LOOK_UP_EVERY_S, LOOK_UP_FOR_S, Outcome, Sent, Waiting},
    job::{JobState, WAITING_RECHECK_S},
    ledger::{Account, Entry},
    payout::{OnTransferReversed, Payout, PayoutEvent, PayoutState, Split},
    testing::usd,
    time::Timestamp,
};

/// How long a claim is a worker's own, seconds. Longer than a call.
pub const LEASE_S: i64 = 90;

/// The longest pause between two attempts, seconds.
const RETRY_PAUSE_MAX_S: i64 = 3_600;

/// What is due, kept and sent in every story, minor units.
pub const SPLIT: Split = Split { due: 1_000, fee: 25, send: 975 };

/// Why nothing was executed under a key that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The provider's answer to this attempt.
    Refusal(usize),
    /// None of the attempts was executed.
    NothingExecuted,
    /// A person brought evidence.
    Evidence,
}

#[derive(Clone, Debug)]
pub struct Generation {
    pub body: String,
    pub first_sent_at: Option<Timestamp>,
    pub proof: Option<Proof>,
}

#[derive(Clone, Debug)]
pub struct Attempt {
    pub generation: usize,
    /// False only where a seeded mistake writes the row too late.
    pub is_written: bool,
    pub sent: Sent,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub state: JobState,
    pub attempts: u32,
    pub epoch: u64,
    /// When it is due, or its lease ends.
    pub next_at: Option<Timestamp>,
}

pub struct Rows {
    pub bug: Bug,
    pub id: IntentId,
    pub state: IntentState,
    pub looked_up_at: Option<Timestamp>,
    pub look_up_first: bool,
    pub object: Option<usize>,
    pub unknown_since: Option<Timestamp>,
    pub generations: Vec<Generation>,
    pub attempts: Vec<Attempt>,
    pub job: Job,
    pub payout: Payout,
    /// What was told of the receiving account.
    pub account_told: Option<bool>,
    /// Balances seen from the credit side.
    pub books: BTreeMap<Account, i64>,
}

impl Rows {
    /// A payout that was just settled: reserved, with its intent, first generation and job.
    pub fn new(bug: Bug, look_up_first: bool, now: Timestamp) -> Self {
        let mut payout = Payout {
            id: PayoutId::derived(&["run", "par_ann"]),
            enrollment_id: EnrollmentId::parse("par_ann").unwrap(),
            program_id: ProgramId::parse("prog_one").unwrap(),
            currency: usd(),
            split: SPLIT,
            state: PayoutState::Pending,
            on_transfer_reversed: OnTransferReversed::Clawback,
            reversed: 0,
            returned: 0,
            revision: 0,
        };
        let reserve = payout.reserve().unwrap();
        let mut rows = Self {
            bug,
            id: IntentId::derived(&["run", "par_ann"]),
            state: IntentState::Open,
            looked_up_at: None,
            look_up_first,
            object: None,
            unknown_since: None,
            generations: Vec::new(),
            attempts: Vec::new(),
            job: Job { state: JobState::Available, attempts: 0, epoch: 0, next_at: Some(now) },
            payout,
            account_told: None,
            books: BTreeMap::new(),
        };
        rows.post(&[reserve]);
        rows.open_generation();
        rows
    }

    /// Number of the current generation.
    pub fn generation(&self) -> usize {
        self.generations.len() - 1
    }

    pub fn key(&self, generation: usize) -> String {
        Intent::key(&self.id, i64::try_from(generation).unwrap(), true)
    }

    /// The intent as the functions under test see it, without the sends of closed generations.
    pub fn intent(&self) -> Intent {
        let generation = self.generation();
        let sends = self.attempts.iter().filter(|row| row.is_written && row.generation == generation);
        Intent {
            id: self.id.clone(),
            state: self.state,
            generation: i64::try_from(generation).unwrap(),
            first_sent_at: self.generations[generation].first_sent_at,
            sends: sends.map(|row| row.sent).collect(),
            looked_up_at: self.looked_up_at,
            look_up_first: self.look_up_first,
        }
    }

    /// The intent with `attempt`, which is of its current generation, as the last send: the one that
    /// [`Intent::after_send`] judges.
    pub fn intent_judging(&self, attempt: usize) -> Intent {
        let mut intent = self.intent();
        let of_current = |row: &&Attempt| row.is_written && row.generation == self.generation();
        let place = self.attempts[..attempt].iter().filter(of_current).count();
        let judged = intent.sends.remove(place);
        intent.sends.push(judged);
        intent
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, IntentState::Succeeded | IntentState::Failed | IntentState::Canceled)
    }

    /// Takes the job if it is due; answers the epoch.
    pub fn claim(&mut self, now: Timestamp) -> Option<u64> {
        if self.job.state.is_over() || self.job.next_at.is_none_or(|at| at > now) {
            return None;
        }
        self.job.epoch += 1;
        self.job.attempts += 1;
        self.job.state = JobState::Running;
        self.job.next_at = Some(now.plus_secs(LEASE_S));
        Some(self.job.epoch)
    }

    /// Whether the lease is still this one's.
    pub fn is_held(&self, epoch: u64) -> bool {
        let is_running = self.job.state == JobState::Running || self.bug == Bug::StaleDecision;
        self.bug == Bug::NoFence || (is_running && self.job.epoch == epoch)
    }

    /// Writes an attempt down, before it is made.
    pub fn mark(&mut self, generation: usize, now: Timestamp) -> Result<Request, Violation> {
        let is_written = self.bug != Bug::NoAttemptRowBeforeSend;
        let sent = Sent { verdict: None, replayed: false, retry_advised: false, at: now };
        self.attempts.push(Attempt { generation, is_written, sent });
        if is_written {
            self.generations[generation].first_sent_at.get_or_insert(now);
            self.turn(PayoutEvent::Submitted)?;
        }
        Ok(Request {
            attempt: self.attempts.len() - 1,
            key: self.key(generation),
            body: self.generations[generation].body.clone(),
            made_at: now,
            started: false,
        })
    }

    /// Keeps what an attempt was answered. The first answer stands.
    pub fn observe(&mut self, attempt: usize, answer: Answer) -> Result<(), Violation> {
        if !self.attempts[attempt].is_written {
            self.turn(PayoutEvent::Submitted)?;
        }
        let row = &mut self.attempts[attempt];
        row.is_written = true;
        row.sent.verdict.get_or_insert(answer.verdict);
        row.sent.replayed |= answer.replayed;
        row.sent.retry_advised |= answer.retry_advised;
        let (generation, at) = (row.generation, row.sent.at);
        self.generations[generation].first_sent_at.get_or_insert(at);
        Ok(())
    }

    /// Carries out what an answer leads to. `source` is the attempt that was answered and the object that
    /// was found.
    pub fn apply(&mut self, outcome: Outcome, source: Source, now: Timestamp) -> Result<(), Violation> {
        match outcome {
            Outcome::Succeeded => return self.adopt(source.object.ok_or(Violation::NothingToAdopt)?),
            Outcome::Again => self.try_again(now),
            Outcome::Wait(waiting) => {
                let attempt = source.attempt.ok_or(Violation::GenerationWithoutProof)?;
                self.renew(Proof::Refusal(attempt));
                self.wait(waiting, now)?;
            }
            Outcome::Failed => {
                self.turn(PayoutEvent::Failed)?;
                self.void(IntentState::Failed);
            }
            Outcome::Quarantined(_) => self.quarantine(now)?,
            Outcome::Noted => {}
        }
        Ok(())
    }

    /// Takes the provider's object for the intent: the money moved.
    pub fn adopt(&mut self, object: usize) -> Result<(), Violation> {
        if self.state == IntentState::Succeeded && self.object == Some(object) {
            return Ok(());
        }
        if self.is_over() {
            return Err(Violation::MovedAfterTheEnd);
        }
        self.turn(PayoutEvent::Completed)?;
        let entries = self.payout.settle().unwrap();
        self.post(&entries);
        (self.state, self.object) = (IntentState::Succeeded, Some(object));
        self.finish(JobState::Completed);
        Ok(())
    }

    /// Sends the job to sleep until what is missing may be there.
    pub fn wait(&mut self, waiting: Waiting, now: Timestamp) -> Result<(), Violation> {
        self.turn(PayoutEvent::Waits(waiting))?;
        self.job.state = JobState::Parked;
        self.job.next_at = Some(now.plus_secs(WAITING_RECHECK_S));
        Ok(())
    }

    /// Sets the intent apart: it is only looked up from now on.
    pub fn quarantine(&mut self, now: Timestamp) -> Result<(), Violation> {
        self.turn(PayoutEvent::Quarantined)?;
        self.state = IntentState::Unknown;
        let since = *self.unknown_since.get_or_insert(now);
        self.job.state = JobState::Unknown;
        let next = now.plus_secs(LOOK_UP_EVERY_S);
        self.job.next_at = (next <= since.plus_secs(LOOK_UP_FOR_S)).then_some(next);
        Ok(())
    }

    /// Ends the lease; the job comes back after a pause.
    pub fn try_again(&mut self, now: Timestamp) {
        match self.state {
            IntentState::Open => {
                self.job.state = JobState::Retryable;
                let pause_s = 1_i64 << self.job.attempts.min(12);
                self.job.next_at = Some(now.plus_secs(pause_s.min(RETRY_PAUSE_MAX_S)));
            }
            IntentState::Unknown => {
                let until = self.unknown_since.unwrap_or(now).plus_secs(LOOK_UP_FOR_S);
                let next = now.plus_secs(LOOK_UP_EVERY_S);
                self.job.state = JobState::Unknown;
                self.job.next_at = (next <= until).then_some(next);
            }
            IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => {}
        }
    }

    /// Closes the generation with its proof and opens the next.
    pub fn renew(&mut self, proof: Proof) {
        let current = self.generation();
        self.generations[current].proof = Some(proof);
        self.open_generation();
    }

    /// A person shows that nothing was executed.
    pub fn release(&mut self, now: Timestamp) -> Result<(), Violation> {
        self.turn(PayoutEvent::Released)?;
        self.renew(Proof::Evidence);
        self.state = IntentState::Open;
        self.unknown_since = None;
        self.job.state = JobState::Available;
        self.job.next_at = Some(now);
        Ok(())
    }

    /// A person gives the payout up, if that is still possible.
    pub fn cancel(&mut self) -> Result<(), Violation> {
        if self.intent().can_be_given_up() && self.payout.state.can_be_given_up() {
            self.turn(PayoutEvent::Canceled)?;
            self.void(IntentState::Canceled);
        }
        Ok(())
    }

    /// Makes a waiting job due: what it waits for may be there, or a person wants it tried.
    pub fn wake(&mut self, now: Timestamp) {
        if matches!(self.job.state, JobState::Parked | JobState::Retryable) {
            self.job.next_at = Some(now);
        }
    }

    fn open_generation(&mut self) {
        let number = self.generations.len();
        let body = format!("amount={}&transfer_group={}&generation={number}", SPLIT.send, self.id);
        self.generations.push(Generation { body, first_sent_at: None, proof: None });
    }

    fn void(&mut self, state: IntentState) {
        let entry = self.payout.release().unwrap();
        self.post(&[entry]);
        self.state = state;
        self.finish(JobState::Discarded);
    }

    fn finish(&mut self, state: JobState) {
        self.job.state = state;
        self.job.next_at = None;
    }

    /// Moves the payout. Workers with a seeded mistake go on where the state machine refuses.
    fn turn(&mut self, event: PayoutEvent) -> Result<(), Violation> {
        match self.payout.state.after(event) {
            Ok(state) => self.payout.state = state,
            Err(refused) if self.bug == Bug::None => return Err(Violation::Transition(refused)),
            Err(_) => {}
        }
        Ok(())
    }

    fn post(&mut self, entries: &[Entry]) {
        for entry in entries {
            for &account in Account::ALL {
                *self.books.entry(account).or_default() += entry.effect_on(account).unwrap();
            }
        }
    }
}

/// Where an outcome comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    pub attempt: Option<usize>,
    pub object: Option<usize>,
}
