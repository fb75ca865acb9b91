//! Stories: what happens to one intent, and how it is told to the end.

use proptest::prelude::*;

use super::{
    driver::{Bug, Worker},
    invariants::{Violation, World},
    provider::{Fate, Lists, Provider},
    rows::{LEASE_S, Rows},
};
use crate::domain::{
    intent::{IntentState, Verdict},
    job::JobState,
    time::Timestamp,
};

/// How long a request can be under way, seconds: the margin that the window leaves of the provider's
/// retention.
pub const TRAVEL_S: i64 = 4 * 3_600;

const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// Steps that one act of a worker takes at most: a look-up, a new key, a send and its record.
const ACT_STEPS_MAX: usize = 16;

/// Acts that a story may take to come to its end. An intent is looked up for 30 days, once a day, and a
/// window may see a few dozen retries before.
const ACTS_TO_THE_END_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A worker takes one step.
    Step(usize),
    /// A worker goes on until it has nothing to do.
    Act(usize),
    /// A worker goes on until a request of its is on its way.
    Send(usize),
    /// A worker goes on until it has nothing to do. What it sends meets this fate, and it hears of it or
    /// not.
    Meet(usize, Fate, bool),
    /// A worker dies; another is started in its place.
    Crash(usize),
    /// The call that a worker waits for does not come back in time; it may still arrive.
    TimeOut(usize),
    /// One of the requests under way meets its fate.
    Arrive(usize, Fate),
    /// Seconds pass.
    Advance(i64),
    /// Time passes until the job is due, or its lease is over.
    UntilDue,
    Lists(Lists),
    /// The provider rolls a failed operation forward.
    RollForward,
    /// The provider's event about the object comes in.
    Webhook,
    Funds(bool),
    Account(bool),
    /// An event tells of the account as it is.
    TellAccount,
    Refuses(bool),
    OurKey(bool),
    /// What the job waits for may be there, or a person wants it tried again.
    Wake,
    /// A person looks into an intent that is unknown, and says so if nothing was executed.
    Resolve,
    /// A person gives the payout up.
    Cancel,
}

/// How a story begins.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn on its own")]
pub struct Setup {
    /// Whether the provider forgets a key as soon as it may.
    forgets: bool,
    has_funds: bool,
    account_ready: bool,
    lists: Lists,
    /// The database was restored from a copy that does not know that the intent was executed, this many
    /// seconds ago.
    executed_before_restore_s: Option<i64>,
    /// Whether the events about the object are lost.
    loses_events: bool,
}

#[derive(Clone, Debug)]
pub struct Story {
    pub setup: Setup,
    pub actions: Vec<Action>,
}

/// How a story ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Succeeded,
    Failed,
    Canceled,
    Waiting,
    Unknown,
}

fn worker() -> impl Strategy<Value = usize> {
    0..2_usize
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Straight),
        2 => Just(Fate::Starts),
        2 => Just(Fate::RateLimited),
        1 => Just(Fate::EdgeError),
        1 => Just(Fate::TurnedBack(Verdict::Refused)),
        1 => Just(Fate::TurnedBack(Verdict::AccountNotReady)),
        1 => Just(Fate::TurnedBack(Verdict::InsufficientFunds)),
        1 => Just(Fate::StoredError),
        1 => Just(Fate::StoredErrorAfterMoving),
        2 => Just(Fate::StoredErrorThenMoves),
        1 => Just(Fate::Vanishes),
        1 => Just(Fate::Unreachable),
    ]
}

fn lists() -> impl Strategy<Value = Lists> {
    prop_oneof![2 => Just(Lists::Hiding), 1 => Just(Lists::Failing), 1 => Just(Lists::Complete)]
}

fn action() -> impl Strategy<Value = Action> {
    let seconds = prop_oneof![
        2 => 1..LEASE_S,
        3 => LEASE_S..=LEASE_S + 30,
        1 => Just(3_600),
        1 => Just(5 * 3_600),
        2 => Just(21 * 3_600),
        2 => Just(25 * 3_600),
        1 => Just(30 * 3_600),
    ];
    prop_oneof![
        10 => worker().prop_map(Action::Step),
        8 => worker().prop_map(Action::Act),
        5 => worker().prop_map(Action::Send),
        10 => (worker(), fate(), any::<bool>())
            .prop_map(|(worker, fate, hears)| Action::Meet(worker, fate, hears)),
        3 => worker().prop_map(Action::Crash),
        4 => worker().prop_map(Action::TimeOut),
        6 => (0..4_usize, fate()).prop_map(|(place, fate)| Action::Arrive(place, fate)),
        6 => seconds.prop_map(Action::Advance),
        8 => Just(Action::UntilDue),
        3 => lists().prop_map(Action::Lists),
        1 => Just(Action::RollForward),
        1 => Just(Action::Webhook),
        2 => any::<bool>().prop_map(Action::Funds),
        1 => any::<bool>().prop_map(Action::Account),
        1 => Just(Action::TellAccount),
        1 => any::<bool>().prop_map(Action::Refuses),
        3 => any::<bool>().prop_map(Action::OurKey),
        2 => Just(Action::Wake),
        2 => Just(Action::Resolve),
        1 => Just(Action::Cancel),
    ]
}

/// What happens where nothing fails but workers, which stop for a while and go on.
fn stall() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => worker().prop_map(Action::Act),
        2 => worker().prop_map(Action::Send),
        2 => worker().prop_map(|worker| Action::Meet(worker, Fate::Straight, false)),
        2 => Just(Action::Advance(LEASE_S)),
        2 => Just(Action::UntilDue),
        1 => Just(Action::Wake),
        1 => any::<bool>().prop_map(Action::Funds),
        1 => any::<bool>().prop_map(Action::Refuses),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let restored = prop_oneof![
        8 => Just(None),
        1 => prop_oneof![Just(60), Just(19 * 3_600), Just(30 * 3_600)].prop_map(Some),
    ];
    let mostly = || prop::bool::weighted(0.8);
    (any::<bool>(), mostly(), mostly(), lists(), restored, any::<bool>()).prop_map(
        |(forgets, has_funds, account_ready, lists, executed_before_restore_s, loses_events)| Setup {
            forgets,
            has_funds,
            account_ready,
            lists,
            executed_before_restore_s,
            loses_events,
        },
    )
}

/// Any story.
pub fn story() -> impl Strategy<Value = Story> {
    told(action())
}

/// A story of workers that overtake each other.
pub fn story_of_stalls() -> impl Strategy<Value = Story> {
    told(stall())
}

fn told(actions: impl Strategy<Value = Action>) -> impl Strategy<Value = Story> {
    (setup(), prop::collection::vec(actions, 1..40)).prop_map(|(setup, actions)| Story { setup, actions })
}

impl Story {
    /// Tells the story to its end.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn tell(&self, bug: Bug) -> Result<End, Violation> {
        let mut world = World::new(self.setup, bug);
        world.check()?;
        for &action in &self.actions {
            world.happens(action)?;
            world.check()?;
        }
        world.heal(self.setup)
    }
}

impl World {
    fn new(setup: Setup, bug: Bug) -> Self {
        let restored = setup.executed_before_restore_s;
        let rows = Rows::new(bug, restored.is_some(), START);
        let mut provider = Provider::new(setup.forgets, setup.has_funds, setup.account_ready);
        provider.lists = setup.lists;
        if let Some(ago_s) = restored {
            provider.remember(&rows.key(0), &rows.generations[0].body, START.plus_secs(-ago_s));
        }
        Self { now: START, rows, provider, workers: [Worker::IDLE; 2], requests: Vec::new() }
    }

    fn happens(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Step(worker) => self.work(worker)?,
            Action::Act(worker) => self.act(worker)?,
            Action::Send(worker) => self.send_off(worker)?,
            Action::Meet(worker, fate, hears) => {
                self.send_off(worker)?;
                let sent = self.workers[worker].waits_for();
                if let Some(place) = self.requests.iter().position(|request| Some(request.attempt) == sent) {
                    self.arrive(place, fate)?;
                }
                if !hears {
                    self.workers[worker].time_out();
                }
                self.check()?;
                self.act(worker)?;
            }
            Action::Crash(worker) => self.workers[worker] = Worker::IDLE,
            Action::TimeOut(worker) => self.workers[worker].time_out(),
            Action::Arrive(place, fate) => {
                if let Some(place) = place.checked_rem(self.requests.len()) {
                    self.arrive(place, fate)?;
                }
            }
            Action::Advance(seconds) => self.pass_to(self.now.plus_secs(seconds)),
            Action::UntilDue => self.pass_to(self.rows.job.next_at.unwrap_or(self.now)),
            Action::Lists(lists) => self.provider.lists = lists,
            Action::RollForward => self.provider.roll_forward(),
            Action::Webhook => self.tell_of_the_object()?,
            Action::Funds(there) => self.provider.has_funds = there,
            Action::Account(ready) => self.provider.account_ready = ready,
            Action::TellAccount => {
                self.rows.account_told = Some(self.provider.account_ready);
                self.rows.wake(self.now);
            }
            Action::Refuses(refuses) => self.provider.refuses = refuses,
            Action::OurKey(known) => self.provider.knows_our_key = known,
            Action::Wake => self.rows.wake(self.now),
            Action::Resolve => self.resolve()?,
            Action::Cancel => self.rows.cancel()?,
        }
        Ok(())
    }

    fn act(&mut self, worker: usize) -> Result<(), Violation> {
        for _ in 0..ACT_STEPS_MAX {
            self.work(worker)?;
            if self.workers[worker].is_idle() {
                break;
            }
            self.check()?;
        }
        Ok(())
    }

    fn send_off(&mut self, worker: usize) -> Result<(), Violation> {
        for _ in 0..ACT_STEPS_MAX {
            if self.workers[worker].waits_for().is_some() {
                break;
            }
            self.work(worker)?;
            self.check()?;
            if self.workers[worker].is_idle() {
                break;
            }
        }
        Ok(())
    }

    fn pass_to(&mut self, later: Timestamp) {
        self.now = self.now.max(later);
        self.provider.forget(self.now);
    }

    fn tell_of_the_object(&mut self) -> Result<(), Violation> {
        if self.provider.objects.is_empty() { Ok(()) } else { self.rows.adopt(0) }
    }

    /// A person asks the provider, which knows whether anything was or will be executed.
    fn resolve(&mut self) -> Result<(), Violation> {
        let nothing_was_executed = self.provider.objects.is_empty()
            && !self.provider.has_late()
            && self.requests.iter().all(|request| !request.started)
            && self.under_way().next().is_none();
        let says_so = nothing_was_executed || self.rows.bug == Bug::OperatorLies;
        if self.rows.state == IntentState::Unknown && says_so { self.rows.release(self.now) } else { Ok(()) }
    }

    /// Everything that is broken works again, everything that is under way arrives, and the workers go on
    /// until there is nothing left to do. What is missing stays missing.
    fn heal(mut self, setup: Setup) -> Result<End, Violation> {
        self.provider.lists = Lists::Complete;
        self.provider.knows_our_key = true;
        while let Some(place) = self.requests.len().checked_sub(1) {
            self.arrive(place, Fate::Straight)?;
            self.check()?;
        }
        while self.provider.has_late() {
            self.provider.roll_forward();
            self.check()?;
        }
        for worker in [0, 1] {
            self.act(worker)?;
            self.check()?;
        }
        if !setup.loses_events {
            self.tell_of_the_object()?;
            self.check()?;
        }
        for _ in 0..ACTS_TO_THE_END_MAX {
            let Some(due) = self.rows.job.next_at else { break };
            if self.is_waiting_for_what_is_missing() {
                return Ok(End::Waiting);
            }
            self.pass_to(due);
            self.act(0)?;
            self.check()?;
        }
        match self.rows.state {
            IntentState::Succeeded => Ok(End::Succeeded),
            IntentState::Failed => Ok(End::Failed),
            IntentState::Canceled => Ok(End::Canceled),
            // Whoever can read the whole list finds what there is. What is left is what nobody can know.
            IntentState::Unknown if self.provider.objects.is_empty() => Ok(End::Unknown),
            IntentState::Unknown | IntentState::Open => Err(Violation::Stuck(self.rows.state)),
        }
    }

    fn is_waiting_for_what_is_missing(&self) -> bool {
        let missing = !self.provider.has_funds || !self.provider.account_ready;
        self.rows.job.state == JobState::Parked && missing
    }
}

/// Every call under the first key was turned away, its window is over, and the next key was not sent yet.
#[test]
fn a_payout_is_not_given_up_between_two_keys() {
    let setup = Setup {
        forgets: false,
        has_funds: false,
        account_ready: false,
        lists: Lists::Hiding,
        executed_before_restore_s: None,
        loses_events: false,
    };
    let window_is_over = Action::Advance(75_600);
    let turned_away = Action::Meet(0, Fate::Unreachable, true);
    let mut actions = vec![Action::Send(0), turned_away, window_is_over];
    actions.extend([Action::Step(0); 3]);
    actions.push(Action::Cancel);
    let end = Story { setup, actions }.tell(Bug::None);
    assert!(end.is_ok(), "{end:?}");
}
