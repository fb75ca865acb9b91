//! What the integration tests stand on: databases of both engines and a proxy to disturb them.

pub mod api;
#[path = "../../auditor/runner.rs"]
pub mod auditor;
pub mod bank;
pub mod books;
pub mod described;
pub mod desk;
pub mod event_store;
pub mod node;
pub mod old;
pub mod pg;
pub mod program;
pub mod proxy;
pub mod repeated;
pub mod shop;
pub mod site;
pub mod test_db;
pub mod till;

pub use test_db::TestDb;

/// Writes a test once and runs it on each engine, as `name::sqlite` and `name::postgres`.
///
/// ```ignore
/// on_each_engine! {
///     async fn a_second_claim_gets_nothing(db: TestDb) {
///         let mut tx = db.db.begin().await.unwrap();
///     }
/// }
/// ```
macro_rules! on_each_engine {
    ($($(#[$attribute:meta])* async fn $name:ident($db:ident: TestDb) $body:block)+) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            async fn run($db: TestDb) $body

            #[tokio::test]
            async fn sqlite() {
                run(TestDb::sqlite().await).await;
            }

            #[tokio::test]
            async fn postgres() {
                if let Some(db) = TestDb::postgres(module_path!()).await {
                    run(db).await;
                }
            }
        }
    )+};
}
pub(crate) use on_each_engine;
