//! Integration tests: one binary, so that it links once and starts one PostgreSQL server.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod admin_api;
mod affiliate_side;
mod analytics;
mod audit;
mod auditor;
mod authz;
mod bank_payouts;
mod books_api;
mod boxes;
mod checklist;
mod clicks;
mod conformance;
mod conversions;
mod directory;
mod dispatching;
mod doctor;
mod enrollments;
mod exports;
mod holds;
mod idempotency;
mod idle;
mod invitation_mails;
mod job_queue;
mod layering;
mod ledger_rules;
mod mail;
mod mail_desk;
mod mail_session;
mod netting;
mod openapi;
mod operators;
mod orphans;
mod paying;
mod payouts_api;
mod positions;
mod processing;
mod program_desk;
mod receiving;
mod refold;
mod restoring;
#[path = "../scenario_format/mod.rs"]
mod scenario_format;
mod scenarios;
mod settlement_runs;
mod settling;
mod signup;
mod store_contract;
#[expect(dead_code, reason = "the kill tests use the rest")]
mod support;
mod tallies;
mod touchpoints;
mod upgrading;
mod wrong_inputs;
