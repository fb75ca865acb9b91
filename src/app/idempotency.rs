//! Requests that were sent with an Idempotency-Key: carried out once, and answered alike ever after.
