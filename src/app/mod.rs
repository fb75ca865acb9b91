//! The stages: each sequences the rules, the store and the providers, and ends in committed rows.
//!
//! Stages never call each other; a signal only shortens the wait for the next one.

pub mod receive;
