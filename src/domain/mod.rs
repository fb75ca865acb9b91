//! The rules. Pure: no IO, no async, no clock, no randomness. `now` is always an argument.
//!
//! Read [`fact`] first, then [`sale`] (how facts merge), [`book`] (where they meet), [`commission`]
//! (what should be) and [`ledger`] (how the difference is posted).
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#![cfg_attr(test, expect(clippy::arithmetic_side_effects, reason = "tests compute expected values"))]

pub mod attribution;
pub mod book;
pub mod charge;
pub mod commission;
pub mod email;
pub mod fact;
pub mod ids;
pub mod intent;
pub mod job;
pub mod ledger;
pub mod money;
pub mod notice;
pub mod payout;
pub mod program;
pub mod retry;
pub mod sale;
pub mod schedule;
pub mod terms;
#[cfg(test)]
mod testing;
pub mod time;
pub mod window;
