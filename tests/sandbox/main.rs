//! The provider's double, held against recordings of the provider, its published schema, and the rules
//! for keys, pages, faults, webhooks and the journal.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod accounts;
mod answers;
mod faults;
mod journal;
mod keys;
mod lists;
mod payments;
mod program;
mod recordings;
mod schema;
mod support;
mod transfers;
mod webhooks;
