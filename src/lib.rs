//! `remit`: a self-hosted affiliate payments worker.
//!
//! Map of the modules, from the inside out:
//!
//! - [`domain`]: the rules, pure; facts, the fold, the ledger.
pub mod app;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod shutdown;
pub mod telemetry;
