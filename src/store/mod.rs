//! SQL and nothing else: one file per table family, one SQL text for both engines.
//!
//! Start with `db.rs` ([`Db`], [`Conn`], [`Tx`]) and `dialect.rs` (every difference between the
//! engines). Functions that read take `&mut Conn`; functions that write take `&mut Tx`, which cannot be
//! committed through a reference, so the one owner of a transaction is visible in `app`. Nothing here
//! decides anything, asks for the time or knows a provider.

pub mod account_checks;
pub mod accounts;
pub mod affiliate_views;
pub mod analytics;
pub mod attempts;
pub mod audit;
pub mod bank_payouts;
pub mod charges;
pub mod clock;
pub mod commissions;
pub mod counters;
mod db;
mod dialect;
pub mod doctor;
pub mod endpoints;
pub mod enrollments;
mod error;
pub mod findings;
pub mod holds;
pub mod idempotency;
pub mod inbox;
pub mod instance;
pub mod intents;
pub mod job_views;
pub mod jobs;
pub mod keys;
pub mod ledger;
pub mod mail;
pub mod mail_tokens;
pub mod mail_views;
pub mod organizations;
pub mod payouts;
pub mod programs;
pub mod refold;
pub mod resolutions;
mod row;
pub mod sales;
pub mod settlement;
pub mod statements;
pub mod surroundings;
pub mod touchpoints;
pub mod transfers;
pub mod views;

pub use db::{Conn, Db, DbOptions, Query, Tx};
pub use dialect::{Engine, Sql};
pub use error::{DatabaseError, StoreError, expect_one};
