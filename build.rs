//! Rebuilds when a migration is added: `sqlx::migrate!` embeds the folders but cannot watch them.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
