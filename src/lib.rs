//! `remit`: a self-hosted affiliate payments worker.
//!
//! Map of the modules, from the inside out:
//!
//! - [`domain`]: the rules, pure; facts, the fold, the ledger.
//! - [`store`]: SQL for SQLite and PostgreSQL, and nothing else.
//! - [`providers`]: one folder per payment provider; pure translation of events into facts, of orders into
//!   requests, and of answers into what they prove.
//! - [`transport`]: the one door to the providers' APIs; sends bytes, understands none of them.
//! - [`mail`]: letters to affiliates, and the session with the mail server that takes them.
//! - [`app`]: the stages; owns every transaction.
//! - [`http`]: webhooks, the API, health and metrics.
//! - [`cli`]: the commands of the program.
//! - [`sandbox`]: a provider to test against, which knows nothing of all the others.
//! - [`clock`], [`config`], [`shutdown`], [`telemetry`]: leaves that the edges share.
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod failpoint;
pub mod http;
pub mod mail;
pub mod providers;
pub mod sandbox;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod transport;
