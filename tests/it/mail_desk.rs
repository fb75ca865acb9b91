//! What operators do with mails that were given up.

use metrics_exporter_prometheus::PrometheusBuilder;
use remit::{
    app::{
        Refusal,
        keys::{KeyKind, Principal, authenticate},
        notices::desk::{self, MailView},
        worker::refresh_gauges,
    },
    domain::{
        ids::{MailId, OrganizationId},
        job::JobState,
    },
    store::mail_views::MailFilter,
};
use serde_json::json;

use super::{
    mail::{Post, mail, number, send, smtp::Mode, unsent},
    support::{TestDb, api, on_each_engine, till::sale},
};

const HOUR_S: i64 = 3_600;

async fn list(post: &Post, states: &[JobState]) -> Vec<MailView> {
    let filter = MailFilter { states: states.to_vec(), after: None };
    desk::list(post.app(), &Principal::console(), &filter, 1_000).await.unwrap()
}

on_each_engine! {
    async fn a_mail_that_was_given_up_is_listed_masked_and_sent_once_its_cause_is_mended(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        post.server.set(Mode::Recipient(550));
        send(post.app()).await;
        let listed = list(&post, &[]).await;
        let [given_up] = listed.as_slice() else { panic!("{listed:?}") };
        assert_eq!((given_up.topic, given_up.state, given_up.attempts), ("commissions", "parked", 1));
        assert_eq!((given_up.to.as_deref(), given_up.reason.as_deref()), (Some("a***@example.com"), Some("refused_550")));
        assert_eq!(given_up.enrollment_id.as_str(), post.shop.enrollment("ada"));
        let shown = serde_json::to_string(given_up).unwrap();
        assert!(!shown.contains("ada@"), "{shown}");
        assert_eq!(list(&post, &[JobState::Completed, JobState::Retryable]).await, []);

        let by = Principal::console();
        let again = desk::retry(post.app(), &by, &given_up.id).await.unwrap();
        assert_eq!((again.state, again.attempts, again.reason), ("available", 0, None));
        post.server.set(Mode::Accept);
        assert_eq!(send(post.app()).await, 1);
        post.only_after(0);
        assert_eq!(post.findings().await, [], "who is reached needs nobody's attention");
        let audited = "SELECT COUNT(*) FROM audit WHERE action = 'mail.retried' AND actor = 'console'";
        assert_eq!(number(&db.db, audited).await, 1);

        let over = desk::retry(post.app(), &by, &given_up.id).await.unwrap_err();
        assert!(matches!(over, Refusal::Conflict { code: "INVALID_STATE", .. }), "{over:?}");
        let unknown = desk::retry(post.app(), &by, &MailId::parse("mail_none").unwrap()).await.unwrap_err();
        assert!(matches!(unknown, Refusal::NotFound), "{unknown:?}");
        assert_eq!(number(&db.db, audited).await, 1);
    }

    async fn the_gauge_counts_mails_by_state_and_goes_back_to_zero(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        let recorder = PrometheusBuilder::new().build_recorder();
        // This thread's, and the test has only one.
        let _guard = metrics::set_default_local_recorder(&recorder);
        let measured = async || {
            refresh_gauges(post.app()).await.unwrap();
            let text = recorder.handle().render();
            let state = |line: &str| {
                let (state, count) = line.strip_prefix("remit_mail{state=\"")?.split_once("\"} ")?;
                (count != "0").then(|| format!("{state} {count}"))
            };
            assert_eq!(text.lines().filter(|line| line.starts_with("remit_mail{")).count(), 6, "{text}");
            let mut states: Vec<String> = text.lines().filter_map(state).collect();
            states.sort();
            states
        };
        assert_eq!(measured().await, [""; 0]);
        post.earn("x").await;
        post.server.set(Mode::Recipient(451));
        send(post.app()).await;
        assert_eq!(measured().await, ["retryable 1"]);
        post.shop.tell_and_process(&[sale("bob", "y", 10_000, "usd")]).await;
        post.advance(HOUR_S);
        post.server.set(Mode::Recipient(550));
        send(post.app()).await;
        assert_eq!(measured().await, ["parked 2"]);
        desk::retry_all(post.app(), &Principal::console()).await.unwrap();
        assert_eq!(measured().await, ["available 2"]);
        post.server.set(Mode::Accept);
        send(post.app()).await;
        assert_eq!(measured().await, ["completed 2"]);
    }

    async fn one_that_is_tried_again_is_tried_for_three_days_again(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        post.server.set(Mode::Recipient(451));
        let parked = || mail("parked", "put_off_451");
        for _ in 0..80 {
            send(post.app()).await;
            post.advance(HOUR_S);
        }
        assert_eq!(post.mails().await, [parked()]);
        assert_eq!(desk::retry_all(post.app(), &Principal::console()).await.unwrap(), 1);
        assert!(!unsent(post.app()).await, "it waits since now");
        for _ in 0..48 {
            send(post.app()).await;
            post.advance(HOUR_S);
        }
        assert_eq!(post.mails().await, [mail("retryable", "put_off_451")]);
        assert!(unsent(post.app()).await);
        for _ in 0..30 {
            send(post.app()).await;
            post.advance(HOUR_S);
        }
        assert_eq!(post.mails().await, [parked()]);
    }

    async fn all_that_were_given_up_are_tried_again_and_no_others(db: TestDb) {
        const COPY: &str = "INSERT INTO mail (id, topic, enrollment_id, state, reason, attempts, epoch,
                next_attempt_at_us, created_at_us, finished_at_us)
            SELECT mail.id || '-' || copies.key, topic, enrollment_id, state, reason, attempts, epoch,
                next_attempt_at_us, created_at_us, finished_at_us
            FROM mail, json_each($1) AS copies WHERE state = 'parked'";
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        send(post.app()).await;
        post.shop.tell_and_process(&[sale("bob", "y", 10_000, "usd")]).await;
        post.advance(HOUR_S);
        post.server.set(Mode::Recipient(550));
        send(post.app()).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q(COPY).bind(json!(vec![0; 249]).to_string()).exec().await.unwrap();
        tx.commit().await.unwrap();

        let by = Principal::console();
        assert_eq!(desk::retry_all(post.app(), &by).await.unwrap(), 250);
        assert_eq!(desk::retry_all(post.app(), &by).await.unwrap(), 0);
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM audit WHERE action = 'mail.retried'").await, 250);
        let listed = list(&post, &[JobState::Available]).await;
        assert_eq!(listed.len(), 250);
        assert!(listed.iter().all(|mail| mail.to.as_deref() == Some("b***@example.com")));
        let page = MailFilter { states: vec![], after: Some(listed[248].id.clone()) };
        let rest = desk::list(post.app(), &by, &page, 1_000).await.unwrap();
        assert_eq!(rest.iter().map(|mail| mail.state).collect::<Vec<_>>(), ["available", "completed"]);
    }

    async fn mails_are_for_operators_alone(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        let owner = OrganizationId::parse("org_default").unwrap();
        let key = api::key(post.app(), KeyKind::Organization, Some(owner)).await;
        let by = authenticate(post.app(), &key).await.unwrap();
        let listed = desk::list(post.app(), &by, &MailFilter::default(), 1).await.unwrap_err();
        assert!(matches!(listed, Refusal::MissingScope(_)), "{listed:?}");
        let retried = desk::retry_all(post.app(), &by).await.unwrap_err();
        assert!(matches!(retried, Refusal::MissingScope(_)), "{retried:?}");
    }
}
