//! The real program, run as an operator runs it: arguments in, exit code, documents and files out.
//!
//! On SQLite in a directory per test. What the stages do on both engines is tested in `it`; this is about
//! the contracts of the command line.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod bench;
mod commands;
mod demo;
mod doctor;
mod events;
mod operators;
mod server;
