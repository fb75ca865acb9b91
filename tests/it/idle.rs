//! What polls takes no write lock while there is nothing to do: on SQLite everybody would wait for it.

use remit::{
    app::{
        App, dispatch::Dispatcher, idempotency, notices::send, process, refold, release, settle, transfers,
    },
    mail::Mailer,
    store::{DbOptions, StoreError},
    transport::Transport,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    mail::settings,
    support::{TestDb, node::Node, shop::Shop, till::sale},
};

/// Every step that is polled, once.
async fn poll_all(app: &App, mailer: &Mailer) -> Vec<(&'static str, Result<bool, StoreError>)> {
    let stop = CancellationToken::new();
    let transport = Transport::new(&app.config.stripe).unwrap();
    let dispatcher = Dispatcher::new(app.clone(), transport, TaskTracker::new(), stop.clone());
    vec![
        ("process", process::step(app).await.map(|worked| !worked.is_idle())),
        ("transfers", transfers::step(app).await.map(|count| count > 0)),
        ("release", release::step(app).await.map(|count| count > 0)),
        ("refold", refold::step(app).await.map(|count| count > 0)),
        ("settle", settle::step_scheduled(app).await.map(|count| count > 0)),
        ("dispatch", dispatcher.step().await.map(|count| count > 0)),
        ("mail", send::step(app, mailer, &stop).await.map(|count| count > 0)),
        ("purge", idempotency::purge(app).await),
    ]
}

#[tokio::test]
async fn polls_that_find_nothing_go_on_while_somebody_else_writes() {
    let db = TestDb::sqlite().await;
    // Whoever wants to write fails at once instead of waiting for the other.
    let impatient = DbOptions { busy_timeout: std::time::Duration::ZERO, ..DbOptions::default() };
    let own = db.another_node(&impatient).await;
    let further = [("REMIT_PAYOUTS__LIVE", "true"), ("REMIT_STRIPE__SECRET_KEY", "sk_test_idle")];
    // Nobody is there; nothing here is to be sent.
    let settings = [&settings("smtp://127.0.0.1:9")[..], &further].concat();
    let node = Node::with_settings(own, 16, &settings);
    let mailer = Mailer::new(node.app.config.mail.as_ref().unwrap()).unwrap();
    // Not an empty database: what is there is done, or not due yet.
    let shop = Shop::open_on(node, &db.db, "shop", &serde_json::json!({})).await;
    shop.tell_and_process(&[sale("ada", "x", 10_000, "usd")]).await;
    let app = &shop.node.app;

    let writer = db.db.begin().await.unwrap();
    for (step, polled) in poll_all(app, &mailer).await {
        assert!(!polled.unwrap_or_else(|error| panic!("{step} wanted to write: {error}")), "{step}");
    }
    // That it would have been noticed: with something due, a step does want to write.
    shop.node.clock.advance_secs(10 * 86_400);
    let polled = poll_all(app, &mailer).await;
    let busy: Vec<&str> =
        polled.iter().filter(|(_, polled)| polled.is_err()).map(|(step, _)| *step).collect();
    assert_eq!(busy, ["release", "mail"], "{polled:?}");
    writer.rollback().await.unwrap();
    assert!(release::step(app).await.unwrap() > 0);
}
