//! The money protocol against everything that can go wrong with it.
//!
//! [`tables`] are the rules row by row. [`protocol`] is the model check: random stories, told by [`story`],
//! in which two workers ([`driver`]) with durable rows ([`rows`]) move the money of one intent through a
//! [`provider`] that loses, repeats, hides and delays. After every step the invariants of [`invariants`]
//! hold, and every story comes to an end that can be explained. The same check is run with mistakes seeded
//! into the workers, and has to find each of them; otherwise its silence would mean nothing.
//!
//! What the claim rests on, and the model therefore assumes:
//! - A request reaches the provider, if it ever does, within [`story::TRAVEL_S`] of the moment its attempt
//!   was written down: a call has a total deadline shorter than its lease, and a worker that wakes up late
//!   refuses to send.
//! - A provider keeps a key for 24 hours at least, with the first result that executing gave.
//! - A person who says that nothing was executed says the truth.
//! - After a restore, payouts resume only when the provider's list shows all that was done before it.

mod driver;
mod invariants;
mod protocol;
mod provider;
mod rows;
mod story;
mod tables;
