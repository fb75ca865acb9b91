//! The real process, killed: what was answered 200 is never lost, nobody is paid twice, and the books
//! after a restart are those of a process that was never disturbed.
//!
//! `cargo test --test crash -- --kills N` (or `REMIT_KILLS=N`) sets how often the tests under load kill a
//! node; all other arguments are those of every test binary. A failure names the seed.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod changes;
mod charges;
mod checks;
mod chunks;
mod commands;
mod database;
mod drain;
mod harness;
mod interrupted;
mod keys;
mod late;
mod mails;
mod migrating;
mod payday;
mod payouts;
mod points;
mod program;
mod provider;
mod random;
mod relay;
mod replay;
mod run;
#[expect(dead_code, reason = "the other tests of mail ask for more")]
#[path = "../smtp/mod.rs"]
mod smtp;
mod stop;
mod storm;
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "these tests need a part of what the others stand on"
)]
#[path = "../it/support/mod.rs"]
mod support;
mod traffic;
mod troubles;

fn main() {
    // What takes longest begins first.
    let trials = [
        database::tests(),
        storm::tests(),
        payouts::tests(),
        points::tests(),
        charges::tests(),
        chunks::tests(),
        late::tests(),
        changes::tests(),
        keys::tests(),
        checks::tests(),
        mails::tests(),
        migrating::tests(),
        troubles::tests(),
        interrupted::tests(),
        drain::tests(),
        replay::tests(),
        commands::tests(),
        stop::tests(),
        random::tests(),
    ];
    harness::run(trials.into_iter().flatten().collect()).exit();
}
