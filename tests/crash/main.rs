//! The real process, killed: what was answered 200 is never lost, and the books after a restart are those
//! of a process that was never disturbed.
//!
//! `REMIT_KILLS` sets how often the tests under load kill a node; a failure names the seed.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod points;
mod program;
mod provider;
mod random;
mod replay;
mod run;
mod stop;
#[expect(dead_code, reason = "these tests need a part of what the others stand on")]
#[path = "../it/support/mod.rs"]
mod support;
mod traffic;
