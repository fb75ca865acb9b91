//! Named places where a test makes this process die, as `kill -9` or a power cut would.
//!
//! A kill from outside hits the moment between two statements only by luck. Set [`VARIABLE`] to the name
//! of a [`Failpoint`], and the process sends itself SIGKILL when it gets there: no thread takes another step,
//! no destructor runs and nothing is flushed. `name:3` lets two passages go by and dies at the third. `name:3:stop` stops the process there
//! instead, as SIGSTOP from outside or a machine that is suspended would, until somebody continues it.
//! Builds without debug assertions, so every release build, never look at the variable and contain no
//! trace of this.
//!
//! Points stand before and after every commit of the program and around the calls to providers;
//! `tests/crash` finds a commit that has none and a point that nobody dies at. Nothing else belongs here: a
//! point that returns an error or waits would be a second way to write a test double.

use crate::domain::program::words;

/// Names the point at which to die.
pub const VARIABLE: &str = "REMIT_FAILPOINT";

/// Whether this build has failpoints.
pub const COMPILED_IN: bool = cfg!(debug_assertions);

words! {
    /// A place to die at. The tests visit every one.
    Failpoint {
        /// One migration more is applied, and nothing of it is committed; others may follow.
        MigrateAfterStep = "migrate.after_step",
        /// All migrations that were missing are applied and not committed.
        MigrateBeforeCommit = "migrate.before_commit",
        /// The schema is this program's; nothing in this process knows yet.
        MigrateAfterCommit = "migrate.after_commit",
        /// Webhooks are inserted and not committed; nobody was answered.
        ReceiveBeforeCommit = "receive.before_commit",
        /// Webhooks are durable; nobody was answered.
        ReceiveAfterCommit = "receive.after_commit",
        /// The books of a batch are written; its events are not marked yet.
        ProcessAfterFold = "process.after_fold",
        /// Books and marks of a batch are written and not committed.
        ProcessBeforeCommit = "process.before_commit",
        /// A batch is durable; nothing in this process knows yet.
        ProcessAfterCommit = "process.after_commit",
        /// The failure of an event that stands alone is written and not committed.
        FailureBeforeCommit = "failure.before_commit",
        /// The failure of an event that stands alone is durable.
        FailureAfterCommit = "failure.after_commit",
        /// Sales that no event is about are folded again and not committed.
        RefoldBeforeCommit = "refold.before_commit",
        /// Sales that no event is about are folded again.
        RefoldAfterCommit = "refold.after_commit",
        /// Due commissions are released and not committed.
        ReleaseBeforeCommit = "release.before_commit",
        /// Released commissions are durable.
        ReleaseAfterCommit = "release.after_commit",
        /// A person's decision and its postings are written and not committed.
        DecideBeforeCommit = "decide.before_commit",
        /// A decision is durable; the person was not answered.
        DecideAfterCommit = "decide.after_commit",
        /// What somebody asked the API to change is written and not committed.
        ChangeBeforeCommit = "change.before_commit",
        /// A change is durable; whoever asked for it was not answered.
        ChangeAfterCommit = "change.after_commit",
        /// A request's Idempotency-Key is taken, or given its answer, or forgotten, and that is not
        /// committed.
        KeyBeforeCommit = "key.before_commit",
        /// What becomes of an Idempotency-Key is durable.
        KeyAfterCommit = "key.after_commit",
        /// That something cannot be done now is written, with its finding, and not committed.
        PostponeBeforeCommit = "postpone.before_commit",
        /// That something cannot be done now is durable, with its finding.
        PostponeAfterCommit = "postpone.after_commit",
        /// The database is about to be a beat older and that is not committed.
        BeatBeforeCommit = "beat.before_commit",
        /// The database is a beat older, and the witness beside it does not know.
        BeatAfterCommit = "beat.after_commit",
        /// A settlement is about to begin and that is not committed.
        RunBeforeCommit = "run.before_commit",
        /// A settlement has begun; nothing is reserved.
        RunAfterCommit = "run.after_commit",
        /// Payouts of some enrollments are reserved and not committed.
        SettleBeforeCommit = "settle.before_commit",
        /// Payouts of some enrollments are reserved; the run goes on from there.
        SettleAfterCommit = "settle.after_commit",
        /// Jobs are taken and that is not committed.
        ClaimBeforeCommit = "claim.before_commit",
        /// Jobs are taken.
        ClaimAfterCommit = "claim.after_commit",
        /// What is known of a receiving account is written and not committed.
        AccountBeforeCommit = "account.before_commit",
        /// What is known of a receiving account is durable.
        AccountAfterCommit = "account.after_commit",
        /// Accounts are taken to be read for settlements, or one is struck off, and that is not committed.
        CheckBeforeCommit = "check.before_commit",
        /// Which accounts are to be read for settlements is durable.
        CheckAfterCommit = "check.after_commit",
        /// A call is written down and that is not committed.
        AttemptBeforeCommit = "attempt.before_commit",
        /// A call is written down; not one byte was sent.
        AttemptAfterCommit = "attempt.after_commit",
        /// A provider is about to be called.
        CallBefore = "call.before",
        /// A provider has answered, or has not; nothing of it is kept.
        CallAfter = "call.after",
        /// What an answer means is written and not committed.
        JudgeBeforeCommit = "judge.before_commit",
        /// What an answer means is durable.
        JudgeAfterCommit = "judge.after_commit",
        /// An answer whose meaning cannot be booked is kept and that is not committed.
        KeepBeforeCommit = "keep.before_commit",
        /// An answer whose meaning cannot be booked is kept.
        KeepAfterCommit = "keep.after_commit",
        /// A job is laid down without a judgement and that is not committed.
        PartBeforeCommit = "part.before_commit",
        /// A job is laid down without a judgement.
        PartAfterCommit = "part.after_commit",
        /// What an event told of a transfer is booked and not committed.
        AdoptBeforeCommit = "adopt.before_commit",
        /// What an event told of a transfer is booked.
        AdoptAfterCommit = "adopt.after_commit",
        /// A payout is given up and that is not committed.
        CancelBeforeCommit = "cancel.before_commit",
        /// A payout is given up; the person was not answered.
        CancelAfterCommit = "cancel.after_commit",
        /// What people said of an intent, or asked for, is written and not committed.
        ResolveBeforeCommit = "resolve.before_commit",
        /// What people said of an intent is durable; they were not answered.
        ResolveAfterCommit = "resolve.after_commit",
        /// Mails are made, or one is taken or laid down, and that is not committed.
        MailBeforeCommit = "mail.before_commit",
        /// What becomes of mails is durable.
        MailAfterCommit = "mail.after_commit",
        /// Replayed events are inserted and not committed.
        ReplayBeforeCommit = "replay.before_commit",
        /// Replayed events are durable and not processed.
        ReplayAfterCommit = "replay.after_commit",
    }
}

/// What happens to the process at the point.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It dies.
    Kill,
    /// It stands still.
    Stop,
}

/// A point as the environment names it.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Armed {
    point: Failpoint,
    /// At which passage; the first is 1.
    passage: u32,
    fate: Fate,
}

/// Dies here, or stands still, if the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn reach(point: Failpoint) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static PASSAGES: AtomicU32 = AtomicU32::new(0);
    let armed = ARMED.get_or_init(|| armed_by(&std::env::var(VARIABLE).ok()?));
    if let Some(armed) = *armed
        && armed.point == point
        && PASSAGES.fetch_add(1, Ordering::Relaxed) + 1 == armed.passage
    {
        match armed.fate {
            Fate::Kill => kill(),
            Fate::Stop => stop(),
        }
    }
}

/// Ends this process as `kill -9` does, at once: a process that kills itself has no instruction left.
#[cfg(debug_assertions)]
fn kill() -> ! {
    use rustix::process::{Signal, getpid, kill_process};

    let refused = kill_process(getpid(), Signal::KILL);
    unreachable!("a process can kill itself: {refused:?}")
}

/// Stops every thread of this process. Returns when the process was continued.
#[cfg(debug_assertions)]
fn stop() {
    // A signal may reach another thread first, so this one waits for a child that sees the process stand
    // still before it ends: it cannot go on in between.
    const STOP: &str =
        r#"kill -STOP "$0"; while :; do case $(ps -o state= -p "$0") in T*) exit;; esac; done"#;
    let own = std::process::id().to_string();
    let stopped = std::process::Command::new("sh").args(["-c", STOP, &own]).status();
    assert!(stopped.is_ok_and(|status| status.success()), "a process can stop itself");
}

/// Release builds pass every point.
#[cfg(not(debug_assertions))]
pub(crate) const fn reach(_: Failpoint) {}

// Proof at every release build: a constant cannot read the environment, so this `reach` does not.
#[cfg(not(debug_assertions))]
const _: () = reach(Failpoint::ReceiveBeforeCommit);

/// What a text such as `process.after_commit:2:stop` names.
#[cfg(debug_assertions)]
fn armed_by(text: &str) -> Option<Armed> {
    let armed = parse(text);
    match armed.map(|armed| armed.fate) {
        Some(Fate::Kill) => {
            tracing::warn!("{VARIABLE} is set: this process will die on purpose at {text}");
        }
        Some(Fate::Stop) => {
            tracing::warn!("{VARIABLE} is set: this process will stop on purpose at {text}");
        }
        None => tracing::error!("{VARIABLE} is set and names no failpoint"),
    }
    armed
}

#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<Armed> {
    let mut parts = text.split(':');
    let point = Failpoint::parse(parts.next()?)?;
    let passage = parts.next().map_or(Ok(1), str::parse).ok()?;
    let fate = match parts.next() {
        None => Fate::Kill,
        Some("stop") => Fate::Stop,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Armed { point, passage, fate })
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_or_without_the_passage_and_what_happens_there() {
        let point = Failpoint::ProcessAfterCommit;
        let armed = |passage, fate| Some(Armed { point, passage, fate });
        assert_eq!(parse("process.after_commit"), armed(1, Fate::Kill));
        assert_eq!(parse("process.after_commit:3"), armed(3, Fate::Kill));
        assert_eq!(parse("process.after_commit:2:stop"), armed(2, Fate::Stop));
        let wrong = ["", "process", "process.after_commit:", "process.after_commit:-1"];
        let wrong_fates =
            ["process.after_commit:stop", "process.after_commit:1:", "process.after_commit:1:stop:"];
        for unknown in wrong.into_iter().chain(wrong_fates) {
            assert_eq!(parse(unknown), None, "{unknown}");
        }
    }
}
