//! `remit`: a self-hosted affiliate payments worker.
//!
//! Map of the modules, from the inside out:
//!
//! - [`domain`]: the rules, pure; facts, the fold, the ledger.
//! - [`store`]: SQL for SQLite and PostgreSQL, and nothing else.
//! - [`providers`]: one folder per payment provider; pure translation of events into facts.
//! - [`clock`], [`config`], [`shutdown`], [`telemetry`]: leaves that the edges share.
pub mod domain;
pub mod providers;
pub mod store;
