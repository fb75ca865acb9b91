//! The `remit` program.
fn main() {}
