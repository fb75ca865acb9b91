//! The group commit and the receiver, over a store that a test holds.

use std::time::Duration;

use tokio::{task::JoinSet, time::timeout};

use super::{
    fake::{FakeStore, LIMITS, Mode, receiver},
    *,
};

const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

fn event(id: &str) -> NewEvent {
    let head = EventHead {
        event_id: id.to_owned(),
        event_type: "charge.succeeded".to_owned(),
        livemode: Some(false),
        account: None,
        created_at: None,
        thin: false,
    };
    new_event(
        &fake::endpoint("ep_default_fake", false),
        head,
        id.as_bytes().to_vec(),
        EventSource::Webhook,
        NOW,
    )
    .unwrap()
}

struct Bench {
    store: Arc<FakeStore>,
    committer: Committer,
    wake: Arc<Notify>,
    tasks: TaskTracker,
}

fn bench(store: Arc<FakeStore>, limits: GroupLimits) -> Bench {
    let (wake, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
    let committer = Committer::start(&store, limits, &wake, &tasks);
    Bench { store, committer, wake, tasks }
}

impl Bench {
    /// Starts one commit per id and returns once all of them wait in the queue.
    async fn enqueue(&self, ids: &[&str]) -> JoinSet<Result<Inserted, ReceiveError>> {
        let mut waiters = JoinSet::new();
        for id in ids {
            let before = self.committer.group.room();
            let (committer, event) = (self.committer.clone(), event(id));
            waiters.spawn(async move { committer.commit(event).await });
            while self.committer.group.room() == before {
                tokio::task::yield_now().await;
            }
        }
        waiters
    }

    /// Occupies the only writer with the event `first`.
    async fn busy(&self) -> JoinSet<Result<Inserted, ReceiveError>> {
        let (committer, event) = (self.committer.clone(), event("first"));
        let mut waiters = JoinSet::new();
        waiters.spawn(async move { committer.commit(event).await });
        self.store.until_entered().await;
        waiters
    }
}

#[tokio::test]
async fn an_idle_receiver_commits_each_event_at_once() {
    let bench = bench(FakeStore::open(), LIMITS);
    for id in ["a", "b", "c"] {
        assert_eq!(bench.committer.commit(event(id)).await, Ok(Inserted::New));
    }
    assert_eq!(bench.store.batch_sizes(), [1, 1, 1]);
}

#[tokio::test]
async fn what_waits_while_the_writer_is_busy_becomes_one_commit() {
    let bench = bench(FakeStore::held(), GroupLimits { batch_max: 4, ..LIMITS });
    let mut waiters = bench.busy().await;
    let mut queued = bench.enqueue(&["a", "b", "c", "d", "e", "f"]).await;
    bench.store.gate.add_permits(3);
    assert_eq!(waiters.join_next().await.unwrap().unwrap(), Ok(Inserted::New));
    while let Some(answer) = queued.join_next().await {
        assert_eq!(answer.unwrap(), Ok(Inserted::New));
    }
    assert_eq!(bench.store.batch_sizes(), [1, 4, 2]);
}

#[tokio::test]
async fn several_writers_commit_at_the_same_time() {
    let bench = bench(FakeStore::held(), GroupLimits { writers: 3, ..LIMITS });
    let mut waiters = Vec::new();
    for _ in 0..3 {
        // Returns only once one more commit has begun, while none has ended.
        waiters.push(bench.busy().await);
    }
    bench.store.gate.add_permits(3);
    for mut waiter in waiters {
        assert!(waiter.join_next().await.unwrap().unwrap().is_ok());
    }
    assert_eq!(bench.store.batch_sizes(), [1, 1, 1]);
    assert_eq!(bench.store.stored().len(), 1, "all three were deliveries of one event");
}

#[tokio::test]
async fn a_batch_is_sorted_by_key_and_every_waiter_gets_its_own_answer() {
    let bench = bench(FakeStore::held(), LIMITS);
    let _first = bench.busy().await;
    let mut c = bench.enqueue(&["c"]).await;
    let mut rest = bench.enqueue(&["a", "b"]).await;
    let mut again = bench.enqueue(&["c"]).await;
    bench.store.gate.add_permits(2);
    assert_eq!(c.join_next().await.unwrap().unwrap(), Ok(Inserted::New));
    assert_eq!(again.join_next().await.unwrap().unwrap(), Ok(Inserted::Duplicate));
    while let Some(answer) = rest.join_next().await {
        assert_eq!(answer.unwrap(), Ok(Inserted::New));
    }
    assert_eq!(bench.store.batches.lock().unwrap()[1], ["a", "b", "c", "c"]);
}

#[tokio::test]
async fn a_failed_commit_fails_for_all_and_the_writer_goes_on() {
    for broken in [Mode::Fail, Mode::Panic] {
        let bench = bench(FakeStore::held(), LIMITS);
        bench.store.set(broken);
        let mut waiters = bench.busy().await;
        let mut queued = bench.enqueue(&["a", "b"]).await;
        bench.store.gate.add_permits(2);
        assert_eq!(waiters.join_next().await.unwrap().unwrap(), Err(ReceiveError::StoreUnavailable));
        while let Some(answer) = queued.join_next().await {
            assert_eq!(answer.unwrap(), Err(ReceiveError::StoreUnavailable));
        }
        assert!(bench.store.stored().is_empty());

        bench.store.set(Mode::Commit);
        bench.store.gate.add_permits(1);
        assert_eq!(bench.committer.commit(event("a")).await, Ok(Inserted::New), "after {broken:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let bench = bench(FakeStore::held(), GroupLimits { queued_max: 2, ..LIMITS });
    let _first = bench.busy().await;
    let _queued = bench.enqueue(&["a", "b"]).await;
    assert_eq!(bench.committer.commit(event("c")).await, Err(ReceiveError::Overloaded));
}

#[tokio::test]
async fn a_commit_that_takes_too_long_is_not_acknowledged_and_still_done() {
    let bench = bench(FakeStore::held(), GroupLimits { answer_within: Duration::ZERO, ..LIMITS });
    assert_eq!(bench.committer.commit(event("a")).await, Err(ReceiveError::StoreUnavailable));
    bench.store.gate.add_permits(1);
    bench.committer.close();
    bench.tasks.close();
    bench.tasks.wait().await;
    assert_eq!(bench.store.stored().len(), 1);
}

#[tokio::test]
async fn closing_commits_everything_that_waits_and_refuses_the_rest() {
    let bench = bench(FakeStore::held(), GroupLimits { batch_max: 2, writers: 2, ..LIMITS });
    let mut waiters = vec![bench.busy().await, bench.busy().await];
    waiters.push(bench.enqueue(&["a", "b", "c", "d", "e"]).await);
    bench.committer.close();
    bench.store.gate.add_permits(8);
    bench.tasks.close();
    bench.tasks.wait().await;
    for mut waiter in waiters {
        while let Some(answer) = waiter.join_next().await {
            assert!(answer.unwrap().is_ok());
        }
    }
    assert_eq!(bench.store.stored().len(), 6);
    assert_eq!(bench.committer.commit(event("z")).await, Err(ReceiveError::StoreUnavailable));
}

#[tokio::test]
async fn the_processor_is_woken_for_new_work_only() {
    let bench = bench(FakeStore::open(), LIMITS);
    let woken = async || timeout(Duration::ZERO, bench.wake.notified()).await.is_ok();
    let ignored = NewEvent { state: InboxState::Ignored, reason: Some("thin_event"), ..event("thin") };
    bench.committer.commit(ignored).await.unwrap();
    assert!(!woken().await);
    bench.committer.commit(event("a")).await.unwrap();
    assert!(woken().await);
    bench.committer.commit(event("a")).await.unwrap();
    assert!(!woken().await, "a duplicate is no work");
}

async fn accept(store: &Arc<FakeStore>, signature: &str, body: &str) -> Result<Receipt, ReceiveError> {
    let receiver = receiver(store, LIMITS, &TaskTracker::new());
    let target = receiver.route("fake", None).await.unwrap();
    receiver.accept(&target, &[signature.as_bytes()], body.as_bytes().to_vec()).await
}

#[tokio::test]
async fn an_event_is_stored_as_it_was_signed() {
    let store = FakeStore::open();
    let body = "evt_1 charge.succeeded test";
    let receipt = accept(&store, "new", body).await.unwrap();
    assert_eq!(receipt, Receipt { duplicate: false, ignored: false });
    let stored = store.stored().remove(0);
    assert_eq!(stored.body, body.as_bytes());
    assert_eq!(stored.body_sha256, <[u8; 32]>::from(Sha256::digest(body)));
    assert_eq!((stored.provider, stored.endpoint_id.as_str()), ("fake", "ep_default_fake"));
    assert_eq!(
        (stored.provider_event_id.as_str(), stored.event_type.as_str()),
        ("evt_1", "charge.succeeded")
    );
    assert_eq!((stored.project_id.as_str(), stored.account.as_str()), ("proj_default", ""));
    assert_eq!(
        (stored.state, stored.reason, stored.source),
        (InboxState::Received, None, EventSource::Webhook)
    );
    assert_eq!(stored.received_at, NOW);
    assert!(!stored.livemode);
}

#[tokio::test]
async fn the_other_mode_and_thin_events_are_kept_and_ignored() {
    for (body, livemode, reason) in [
        ("evt_1 charge.succeeded live", true, Some("wrong_mode")),
        ("evt_1 charge.succeeded live thin", true, Some("wrong_mode")),
        ("evt_1 v1.charge.succeeded test thin", false, Some("thin_event")),
        ("evt_1 transaction.completed -", false, None),
    ] {
        let store = FakeStore::open();
        let receipt = accept(&store, "old", body).await.unwrap();
        assert_eq!(receipt.ignored, reason.is_some(), "{body}");
        let stored = store.stored().remove(0);
        assert_eq!((stored.livemode, stored.reason), (livemode, reason), "{body}");
        assert_eq!(stored.state, if reason.is_some() { InboxState::Ignored } else { InboxState::Received });
    }
}

#[tokio::test]
async fn an_endpoint_of_the_other_mode_books_nothing() {
    let store = FakeStore::open();
    let receiver = receiver(&store, LIMITS, &TaskTracker::new());
    let target = receiver.route("fake", Some("ep_live")).await.unwrap();
    let body = b"evt_1 charge.succeeded live".to_vec();
    assert!(receiver.accept(&target, &[b"old"], body).await.unwrap().ignored);
    assert_eq!(store.stored()[0].reason, Some("wrong_mode"));
}

#[tokio::test]
async fn what_is_not_signed_or_not_an_event_leaves_nothing_behind() {
    let long = format!("{} charge.succeeded test", "x".repeat(256));
    for (signature, body, error) in [
        ("stranger", "evt_1 charge.succeeded test", ReceiveError::BadSignature),
        ("", "evt_1 charge.succeeded test", ReceiveError::BadSignature),
        ("old", "", ReceiveError::InvalidBody),
        ("old", " charge.succeeded test", ReceiveError::InvalidBody),
        ("old", "evt\0 charge.succeeded test", ReceiveError::InvalidBody),
        ("old", &long, ReceiveError::InvalidBody),
    ] {
        let store = FakeStore::open();
        assert_eq!(accept(&store, signature, body).await, Err(error), "{body:?}");
        assert!(store.stored().is_empty() && store.batch_sizes().is_empty());
    }
}

#[test]
fn default_endpoints_exist_for_providers_with_secrets_only() {
    let env = [
        ("REMIT_STRIPE__WEBHOOK_SECRETS".to_owned(), "whsec_a,whsec_b".to_owned()),
        ("REMIT_LIVEMODE".to_owned(), "true".to_owned()),
    ];
    let config = Config::load(None, env, [], |_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let providers = ProviderEdge::from_config(&config, |_| Some(&fake::FakeInbound));
    let [stripe, paddle] = providers.as_slice() else { panic!("two providers") };
    let endpoint = stripe.default_endpoint.as_ref().unwrap();
    assert_eq!((endpoint.id.as_str(), endpoint.project_id.as_str()), ("ep_default_stripe", "proj_default"));
    assert!(endpoint.livemode);
    assert_eq!((endpoint.secrets.len(), stripe.tolerance_s), (2, 300));
    assert!(paddle.default_endpoint.is_none());
    assert_eq!(paddle.tolerance_s, 30);
}

#[test]
fn one_line_a_second_is_logged_and_the_others_are_counted() {
    let limit = LogLimit::default();
    assert_eq!(limit.admit(NOW), Some(0));
    assert_eq!(limit.admit(NOW.plus_micros(1)), None);
    assert_eq!(limit.admit(NOW.plus_micros(999_999)), None);
    assert_eq!(limit.admit(NOW.plus_secs(1)), Some(2));
    assert_eq!(limit.admit(NOW), Some(0), "a clock set back does not silence the log");
}
