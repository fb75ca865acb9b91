//! Programs: the row, its statuses and its terms over time. How they are read by the fold is in
//! `directory.rs`.

mod directory;

pub use directory::load_directory;
