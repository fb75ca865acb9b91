//! The model check of the money protocol, and the proof that it would see a mistake.
//!
//! `cargo test` tells two thousand stories. `REMIT_CASES=1000000 cargo test --release --lib protocol` tells
//! a million.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

use super::{
    driver::Bug,
    invariants::Violation,
    story::{End, Story, story, story_of_stalls},
};

/// Stories after which a seeded mistake must have been found.
const STORIES_PER_BUG: u32 = 20_000;

fn cases(by_default: u32) -> u32 {
    std::env::var("REMIT_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(by_default)
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2_000), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn money_moves_at_most_once_and_every_story_ends(story in story()) {
        let end = story.tell(Bug::None);
        prop_assert!(end.is_ok(), "{end:?}");
    }

    #[test]
    fn a_late_success_that_is_only_kept_does_no_harm(story in story()) {
        let end = story.tell(Bug::LateSuccessOnlyKept);
        prop_assert!(end.is_ok(), "{end:?}");
    }
}

#[test]
fn stories_come_to_every_kind_of_end() {
    let mut runner = runner(1);
    let ends: BTreeSet<End> =
        (0..500).map(|_| story().new_tree(&mut runner).unwrap().current().tell(Bug::None).unwrap()).collect();
    let all = [End::Succeeded, End::Failed, End::Canceled, End::Waiting, End::Unknown];
    assert_eq!(ends, BTreeSet::from(all));
}

/// Finds a story in which `bug` harms somebody's money, and tells it.
fn counterexample(bug: Bug, stories: impl Strategy<Value = Story>) -> (Violation, Story) {
    let harmed = |story: Story| match story.tell(bug) {
        // It has to be the mistake that does the harm: without it, the same story does none.
        Err(violation) if violation.is_about_money() && story.tell(Bug::None).is_ok() => {
            Err(TestCaseError::fail(format!("{violation:?}")))
        }
        Ok(_) | Err(_) => Ok(()),
    };
    match runner(STORIES_PER_BUG).run(&stories, harmed) {
        Err(TestError::Fail(_, story)) => {
            let violation = story.tell(bug).unwrap_err();
            println!("{bug:?} leads to {violation:?}: {story:?}");
            (violation, story)
        }
        Ok(()) => panic!("{bug:?} was not found in {STORIES_PER_BUG} stories"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// The mistake harms somebody's money, and it is the mistake that does: the same story is harmless without.
fn is_found(bug: Bug) {
    is_found_in(bug, story());
}

fn is_found_in(bug: Bug, stories: impl Strategy<Value = Story>) {
    let (violation, story) = counterexample(bug, stories);
    assert!(violation.is_about_money());
    assert!(story.tell(Bug::None).is_ok(), "without {bug:?} the story is harmless");
}

#[test]
fn a_new_key_for_every_retry_is_found() {
    is_found(Bug::NewKeyPerRetry);
}

#[test]
fn a_send_after_the_window_is_found() {
    is_found(Bug::ResendAfterWindow);
}

#[test]
fn a_missing_fence_is_found() {
    is_found(Bug::NoFence);
}

#[test]
fn an_outcome_judged_by_the_last_attempt_alone_is_found() {
    is_found(Bug::DefiniteByLastAttempt);
}

#[test]
fn a_look_up_that_found_nothing_taken_as_proof_is_found() {
    is_found(Bug::CompensateOnGuess);
}

#[test]
fn an_attempt_that_is_not_written_down_before_it_is_made_is_found() {
    is_found(Bug::NoAttemptRowBeforeSend);
}

#[test]
fn a_late_answer_taken_for_one_to_the_next_key_is_found() {
    is_found_in(Bug::LateAnswerToNextKey, story_of_stalls());
}

#[test]
fn an_attempt_that_nobody_allowed_any_more_is_found() {
    is_found(Bug::StaleDecision);
}

#[test]
fn a_send_that_waited_longer_than_the_margin_is_found() {
    is_found(Bug::NoDeadline);
}

#[test]
fn a_send_after_a_restore_without_asking_first_is_found() {
    is_found(Bug::NoLookUpAfterRestore);
}

/// The claim ends where people bring false evidence: nothing in the protocol can save that payout.
#[test]
fn a_person_who_brings_false_evidence_is_outside_the_claim() {
    is_found(Bug::OperatorLies);
}
