//! What must hold after every step of every story.

use super::{
    driver::Worker,
    provider::{Object, Provider, Request},
    rows::{Rows, SPLIT},
};
use crate::domain::{
    intent::IntentState,
    ledger::Account,
    payout::{InvalidTransition, PayoutState},
    time::Timestamp,
};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// More than one object for the intent.
    PaidTwice,
    /// Money moved, or still may, for a payout whose reservation was given back.
    VoidButMoved,
    /// Money moved under a key that was given up with a proof that nothing was executed.
    ProofWasWrong,
    /// A key was given up without a proof.
    GenerationWithoutProof,
    /// An object turned up after the intent had ended without one.
    MovedAfterTheEnd,
    /// The ledger does not show what the state of the payout says: a reservation was lost, or given back
    /// twice, or settled without money.
    Books(PayoutState),
    /// An intent, its payout, its job and its object contradict each other.
    Torn,
    /// One key was used with two bodies.
    BodyChanged,
    /// A key was sent that was too old.
    KeyTooOld,
    /// The intent succeeded and nothing shows with what.
    NothingToAdopt,
    /// The workers wanted a transition that the payout does not have.
    Transition(InvalidTransition),
    /// There is work left and nothing will do it.
    Stuck(IntentState),
}

impl Violation {
    /// Whether money is wrong, and not only a word.
    pub const fn is_about_money(self) -> bool {
        matches!(
            self,
            Self::PaidTwice
                | Self::VoidButMoved
                | Self::ProofWasWrong
                | Self::MovedAfterTheEnd
                | Self::Books(_)
        )
    }
}

/// Everything there is, durable or not.
pub struct World {
    pub now: Timestamp,
    pub rows: Rows,
    pub provider: Provider,
    pub workers: [Worker; 2],
    /// Requests on their way.
    pub requests: Vec<Request>,
}

impl World {
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        self.money_moved_once()?;
        self.keys_were_given_up_for_a_reason()?;
        self.books_follow_the_payout()?;
        self.rows_agree()
    }

    fn money_moved_once(&self) -> Result<(), Violation> {
        if self.provider.objects.len() > 1 {
            return Err(Violation::PaidTwice);
        }
        let may_still_move =
            self.provider.has_late() || self.under_way().any(|request| self.provider.might_execute(request));
        if self.rows.payout.state.is_void() && (!self.provider.objects.is_empty() || may_still_move) {
            return Err(Violation::VoidButMoved);
        }
        Ok(())
    }

    /// Every request that may still arrive: on its way, or about to be sent.
    pub fn under_way(&self) -> impl Iterator<Item = &Request> {
        let about_to_be_sent = self.workers.iter().filter_map(Worker::about_to_send);
        self.requests.iter().chain(about_to_be_sent).filter(|request| self.can_arrive(request))
    }

    fn keys_were_given_up_for_a_reason(&self) -> Result<(), Violation> {
        let current = self.rows.generation();
        for (number, generation) in self.rows.generations.iter().enumerate() {
            if number != current && generation.proof.is_none() {
                return Err(Violation::GenerationWithoutProof);
            }
            let moved = |object: &Object| object.key == self.rows.key(number);
            if generation.proof.is_some() && self.provider.objects.iter().any(moved) {
                return Err(Violation::ProofWasWrong);
            }
        }
        Ok(())
    }

    fn books_follow_the_payout(&self) -> Result<(), Violation> {
        let state = self.rows.payout.state;
        let expected = |account| match account {
            Account::InTransit if state.is_reserved() => SPLIT.due,
            Account::Payable if !state.is_void() => -SPLIT.due,
            Account::Paid if state == PayoutState::Completed => SPLIT.send,
            Account::FeeIncome if state == PayoutState::Completed => SPLIT.fee,
            _ => 0,
        };
        let balance = |account| self.rows.books.get(&account).copied().unwrap_or_default();
        if Account::ALL.iter().all(|&account| balance(account) == expected(account)) {
            Ok(())
        } else {
            Err(Violation::Books(state))
        }
    }

    fn rows_agree(&self) -> Result<(), Violation> {
        let rows = &self.rows;
        let payout = rows.payout.state;
        let agree = match rows.state {
            IntentState::Open => {
                matches!(
                    payout,
                    PayoutState::Pending
                        | PayoutState::Submitting
                        | PayoutState::WaitingAccount
                        | PayoutState::WaitingFunds
                ) && !rows.job.state.is_over()
                    && rows.job.next_at.is_some()
            }
            IntentState::Unknown => payout == PayoutState::Unknown && !rows.job.state.is_over(),
            IntentState::Succeeded => payout == PayoutState::Completed && rows.job.state.is_over(),
            IntentState::Failed => payout == PayoutState::Failed && rows.job.state.is_over(),
            IntentState::Canceled => payout == PayoutState::Canceled && rows.job.state.is_over(),
        };
        let adopted = rows.object.is_some() == (rows.state == IntentState::Succeeded)
            && rows.object.is_none_or(|object| object < self.provider.objects.len());
        if agree && adopted { Ok(()) } else { Err(Violation::Torn) }
    }
}
