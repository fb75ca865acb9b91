//! Receive: from a signed request to a durable inbox row.
//!
//! [`Receiver`] checks the signature, reads the head of the event and hands the row to the
//! [`Committer`], which groups the rows of concurrent requests into one commit. A receipt means that the
//! commit is durable; any doubt is an error, and the provider delivers again. What an event means is not
//! asked here: unknown types are stored like all others (`rulings.md` 19, 20).

use std::{
    error::Error,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::Config,
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    providers::{EventHead, Inbound},
    store::inbox::{EventSource, InboxState, Inserted, NewEvent},
    telemetry::names,
};

/// Longest text of the head that is stored: it becomes part of a unique key, and providers use 30 to 60.
const MAX_HEAD_TEXT: usize = 255;

/// The store could not do it, or it is unknown whether it did.
#[derive(Debug, thiserror::Error)]
#[error("the store is not able to do this now")]
pub struct StoreFailure(#[source] Box<dyn Error + Send + Sync>);

impl StoreFailure {
    /// Keeps the reason for the log.
    pub fn new(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

/// What the receiver needs of the store.
pub trait EventStore: Send + Sync + 'static {
    /// Inserts `events`, sorted by key, in one transaction, and returns once that is durable: one result
    /// per event, in the same order. Two events of one batch may have the same key.
    ///
    /// # Errors
    /// [`StoreFailure`] also when the outcome of the commit is unknown.
    fn insert(
        &self,
        events: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Vec<Inserted>, StoreFailure>> + Send;

    /// The endpoint of that id, if it exists and belongs to `provider`.
    ///
    /// # Errors
    /// [`StoreFailure`] when the store does not answer.
    fn endpoint(
        &self,
        provider: &'static str,
        id: &EndpointId,
    ) -> impl Future<Output = Result<Option<Arc<Endpoint>>, StoreFailure>> + Send;
}

/// Where a provider sends events to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Our id.
    pub id: EndpointId,
    /// The project it is bound to.
    pub project_id: ProjectId,
    /// Name of the provider.
    pub provider: &'static str,
    /// The mode it accepts.
    pub livemode: bool,
    /// Its signing secrets, all live at once.
    pub secrets: Vec<SecretString>,
}

/// What the receiver knows of one provider.
#[derive(Clone)]
pub struct ProviderEdge {
    /// Its name in the path.
    pub name: &'static str,
    /// Its translation.
    pub inbound: &'static dyn Inbound,
    /// Largest age, and lead, of a signature in seconds.
    pub tolerance_s: i64,
    /// The mode of this node. An endpoint of the other mode may exist, but its events are never booked:
    /// one ledger holds one kind of money.
    pub livemode: bool,
    /// The endpoint of `POST /webhooks/{name}`; none without configured secrets.
    pub default_endpoint: Option<Arc<Endpoint>>,
}

impl ProviderEdge {
    /// The providers of the configuration with their default endpoints, which belong to `proj_default`.
    /// A provider that `inbound` does not know is left out.
    pub fn from_config(config: &Config, inbound: impl Fn(&str) -> Option<&'static dyn Inbound>) -> Vec<Self> {
        let sections = [
            ("stripe", "ep_default_stripe", &config.stripe.webhook_secrets, config.stripe.tolerance_s),
            ("paddle", "ep_default_paddle", &config.paddle.webhook_secrets, config.paddle.tolerance_s),
        ];
        sections
            .into_iter()
            .filter_map(|(name, endpoint_id, secrets, tolerance_s)| {
                let default_endpoint = default_endpoint(name, endpoint_id, secrets, config.livemode);
                if default_endpoint.is_none() {
                    let section = name.to_ascii_uppercase();
                    tracing::info!(
                        provider.name = name,
                        "POST /webhooks/{name} answers 404 until REMIT_{section}__WEBHOOK_SECRETS is set"
                    );
                }
                Some(Self {
                    name,
                    inbound: inbound(name)?,
                    tolerance_s,
                    livemode: config.livemode,
                    default_endpoint,
                })
            })
            .collect()
    }
}

fn default_endpoint(
    provider: &'static str,
    id: &str,
    secrets: &[SecretString],
    livemode: bool,
) -> Option<Arc<Endpoint>> {
    if secrets.is_empty() {
        return None;
    }
    let id = EndpointId::parse(id).ok()?;
    let project_id = ProjectId::parse("proj_default").ok()?;
    Some(Arc::new(Endpoint { id, project_id, provider, livemode, secrets: secrets.to_vec() }))
}

/// The provider and endpoint that a request is addressed to.
#[derive(Clone)]
pub struct Target {
    provider: ProviderEdge,
    endpoint: Arc<Endpoint>,
}

impl Target {
    /// Name of the provider.
    pub fn provider(&self) -> &'static str {
        self.provider.name
    }

    /// Name of the header that carries the signature, lower case.
    pub fn signature_header(&self) -> &'static str {
        self.provider.inbound.signature_header()
    }
}

/// The event is durably stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whether it had been stored before.
    pub duplicate: bool,
    /// Whether it is kept but will not be processed.
    pub ignored: bool,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// No such provider, or no such endpoint of it.
    #[error("there is no such webhook endpoint")]
    UnknownEndpoint,
    /// The signature proves nothing. Nothing was written.
    #[error("the signature does not match any secret of this endpoint, or is too old or too new")]
    BadSignature,
    /// Signed, but not an event.
    #[error("the body is not an event of this provider")]
    InvalidBody,
    /// The store did not confirm in time. The row may exist; the next delivery will show.
    #[error("the event could not be stored now")]
    StoreUnavailable,
    /// Too many events wait for the store already.
    #[error("too many events are waiting to be stored")]
    Overloaded,
}

/// Takes events in.
pub struct Receiver<S> {
    store: Arc<S>,
    committer: Committer,
    providers: Vec<ProviderEdge>,
    clock: Arc<dyn Clock>,
    refusals: LogLimit,
}

impl<S: EventStore> Receiver<S> {
    /// `committer` commits to the same `store`.
    pub fn new(
        store: Arc<S>,
        committer: Committer,
        providers: Vec<ProviderEdge>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, committer, providers, clock, refusals: LogLimit::default() }
    }

    /// Finds what a path addresses: the default endpoint of the provider, or the one named.
    ///
    /// # Errors
    /// [`ReceiveError::UnknownEndpoint`], or [`ReceiveError::StoreUnavailable`] when the store would know
    /// but does not answer.
    pub async fn route(&self, provider: &str, endpoint_id: Option<&str>) -> Result<Target, ReceiveError> {
        let provider = self
            .providers
            .iter()
            .find(|known| known.name == provider)
            .ok_or(ReceiveError::UnknownEndpoint)?;
        let default = provider.default_endpoint.as_ref();
        let endpoint = match endpoint_id {
            None => default.cloned(),
            Some(id) if default.is_some_and(|endpoint| endpoint.id.as_str() == id) => default.cloned(),
            Some(id) => {
                let id = EndpointId::parse(id).map_err(|_| ReceiveError::UnknownEndpoint)?;
                self.store.endpoint(provider.name, &id).await.map_err(|failure| {
                    self.log_refusal(&failure, "an endpoint could not be looked up");
                    ReceiveError::StoreUnavailable
                })?
            }
        };
        let endpoint = endpoint.ok_or(ReceiveError::UnknownEndpoint)?;
        Ok(Target { provider: provider.clone(), endpoint })
    }

    /// Verifies and stores one delivery. `headers` are all values of [`Target::signature_header`].
    ///
    /// # Errors
    /// Any [`ReceiveError`]; after each of them the provider is right to deliver again.
    pub async fn accept(
        &self,
        target: &Target,
        headers: &[&[u8]],
        body: Vec<u8>,
    ) -> Result<Receipt, ReceiveError> {
        let Target { provider, endpoint } = target;
        let now = self.clock.now();
        provider.inbound.verify(headers, &body, &endpoint.secrets, provider.tolerance_s, now).map_err(
            |error| {
                self.log_refusal(&error, "a webhook was refused because of its signature");
                ReceiveError::BadSignature
            },
        )?;
        let head = provider.inbound.head(&body).map_err(|error| {
            self.log_refusal(&error, "a signed webhook was refused because of its body");
            ReceiveError::InvalidBody
        })?;
        let mut event = new_event(endpoint, head, body, EventSource::Webhook, now)?;
        if event.livemode != provider.livemode {
            event.state = InboxState::Ignored;
            event.reason = Some("wrong_mode");
        }
        let ignored = event.state == InboxState::Ignored;
        let inserted = self.committer.commit(event).await?;
        if inserted == Inserted::DuplicateOtherBody {
            tracing::warn!(
                provider.name = provider.name,
                endpoint.id = endpoint.id.as_str(),
                "an event id came again with another body; the first is kept"
            );
        }
        Ok(Receipt { duplicate: inserted != Inserted::New, ignored })
    }

    /// The address of an endpoint is public, so anyone can cause these lines: one a second is enough.
    fn log_refusal(&self, reason: &dyn Error, message: &'static str) {
        if let Some(suppressed) = self.refusals.admit(self.clock.now()) {
            tracing::warn!(reason = %reason, source = reason.source().map(tracing::field::display), suppressed, "{message}");
        }
    }
}

/// The inbox row of an event that was verified, or that an operator vouches for.
///
/// # Errors
/// [`ReceiveError::InvalidBody`] when a text of the head does not fit the unique key.
pub fn new_event(
    endpoint: &Endpoint,
    head: EventHead,
    body: Vec<u8>,
    source: EventSource,
    now: Timestamp,
) -> Result<NewEvent, ReceiveError> {
    if !is_storable(&head) {
        return Err(ReceiveError::InvalidBody);
    }
    let livemode = head.livemode.unwrap_or(endpoint.livemode);
    // Live Connect endpoints do receive test events (`rulings.md` 19): kept and counted, never booked.
    let (state, reason) = if livemode != endpoint.livemode {
        (InboxState::Ignored, Some("wrong_mode"))
    } else if head.thin {
        (InboxState::Ignored, Some("thin_event"))
    } else {
        (InboxState::Received, None)
    };
    Ok(NewEvent {
        id: super::new_inbox_id(now),
        provider: endpoint.provider,
        endpoint_id: endpoint.id.as_str().to_owned(),
        project_id: endpoint.project_id.as_str().to_owned(),
        account: head.account.unwrap_or_default(),
        livemode,
        provider_event_id: head.event_id,
        event_type: head.event_type,
        provider_created_at: head.created_at,
        received_at: now,
        state,
        reason,
        source,
        body_sha256: Sha256::digest(&body).into(),
        body,
    })
}

/// Whether every text of the head fits the unique key. A NUL byte, which `PostgreSQL` refuses in text,
/// would fail the whole batch and every other event in it.
fn is_storable(head: &EventHead) -> bool {
    let fits = |text: &str| text.len() <= MAX_HEAD_TEXT && !text.contains('\0');
    let account = head.account.as_deref().unwrap_or_default();
    !head.event_id.is_empty() && [&head.event_id, &head.event_type, account].into_iter().all(fits)
}

/// How the committer groups.
#[derive(Clone, Copy, Debug)]
pub struct CommitLimits {
    /// Most events that wait; one more is [`ReceiveError::Overloaded`].
    pub queue_events: usize,
    /// Most events of one commit.
    pub batch_events: usize,
    /// Commits in flight at once: 1 on `SQLite`, which has one writer.
    pub writers: usize,
    /// How long one event waits for its commit. Paddle wants an answer within 5 s.
    pub answer_within: Duration,
}

/// Groups the inserts of concurrent requests. Clones feed the same queue.
///
/// Each writer takes whatever waits, one event or many, and commits it at once: an idle receiver adds no
/// delay, and under load the batches grow by themselves while all writers are busy.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Waiting>,
    answer_within: Duration,
    closed: CancellationToken,
}

struct Waiting {
    event: NewEvent,
    answer: oneshot::Sender<Result<Inserted, ReceiveError>>,
}

impl Committer {
    /// Starts the writers on `tasks`. `committed` is notified after each commit that left events to
    /// process.
    pub fn start<S: EventStore>(
        store: &Arc<S>,
        limits: CommitLimits,
        committed: &Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queue_events.max(1));
        let waiting = Arc::new(Mutex::new(waiting));
        let closed = CancellationToken::new();
        for _ in 0..limits.writers.max(1) {
            let writer = Writer {
                store: Arc::clone(store),
                waiting: Arc::clone(&waiting),
                batch_events: limits.batch_events.max(1),
                committed: Arc::clone(committed),
                closed: closed.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { queue, answer_within: limits.answer_within, closed }
    }

    /// Ends the writers once everything that waits is committed. Later events are refused as
    /// [`ReceiveError::StoreUnavailable`]. Call it after the last request was answered.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Waits for the durable commit of `event`.
    async fn commit(&self, event: NewEvent) -> Result<Inserted, ReceiveError> {
        let (answer, committed) = oneshot::channel();
        self.queue.try_send(Waiting { event, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReceiveError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReceiveError::StoreUnavailable,
        })?;
        match timeout(self.answer_within, committed).await {
            Ok(Ok(result)) => result,
            // Too late, or the writer is gone: the row may still be written, and nobody may say so.
            Ok(Err(_)) | Err(_) => Err(ReceiveError::StoreUnavailable),
        }
    }
}

struct Writer<S> {
    store: Arc<S>,
    /// Held only while taking a batch, so that writers take turns at the queue.
    waiting: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    batch_events: usize,
    committed: Arc<Notify>,
    closed: CancellationToken,
}

impl<S: EventStore> Writer<S> {
    async fn run(self) {
        loop {
            let batch = self.take().await;
            if batch.is_empty() {
                return;
            }
            self.write(batch).await;
        }
    }

    /// Waits for the next batch; empty when the queue is closed and drained.
    async fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().await;
        let mut batch = Vec::new();
        let taken = self.closed.run_until_cancelled(waiting.recv_many(&mut batch, self.batch_events)).await;
        if taken.is_none() {
            // A closed queue still hands out what it holds.
            waiting.close();
            waiting.recv_many(&mut batch, self.batch_events).await;
        }
        batch
    }

    async fn write(&self, mut batch: Vec<Waiting>) {
        // One order for all writers of all nodes, so that two batches with the same keys wait for each
        // other instead of deadlocking. Stable: of two deliveries of one event the first is stored.
        batch.sort_by(|a, b| a.event.key().cmp(&b.event.key()));
        let (events, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { event, answer }| (event, answer)).unzip();
        let is_work: Vec<bool> = events.iter().map(|event| event.state == InboxState::Received).collect();

        let results = self.insert(events).await;
        if is_work.iter().zip(&results).any(|(work, result)| *work && *result == Ok(Inserted::New)) {
            self.committed.notify_one();
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // A waiter that gave up is gone; its event is stored all the same.
            let _gone = answer.send(result);
        }
    }

    /// One result per event. A commit that failed, or of which nobody knows, fails for all of them.
    async fn insert(&self, events: Vec<NewEvent>) -> Vec<Result<Inserted, ReceiveError>> {
        let count = events.len();
        metrics::histogram!(names::WEBHOOK_COMMIT_EVENTS).record(u32::try_from(count).unwrap_or(u32::MAX));
        let started = Instant::now();
        let store = Arc::clone(&self.store);
        // In a task of its own a panic costs one batch instead of a writer.
        let inserted = tokio::spawn(async move { store.insert(events).await }).await;
        metrics::histogram!(names::WEBHOOK_COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
        match inserted {
            Ok(Ok(results)) if results.len() == count => results.into_iter().map(Ok).collect(),
            failed => {
                let reason = match failed {
                    Ok(Ok(_)) => "the store answered for another number of events".to_owned(),
                    Ok(Err(StoreFailure(source))) => source.to_string(),
                    Err(join) => join.to_string(),
                };
                tracing::error!(reason, events = count, "a batch of webhooks could not be stored");
                vec![Err(ReceiveError::StoreUnavailable); count]
            }
        }
    }
}

/// Admits one log line a second.
#[derive(Debug)]
struct LogLimit {
    last_micros: AtomicI64,
    suppressed: AtomicU64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { last_micros: AtomicI64::new(i64::MIN), suppressed: AtomicU64::new(0) }
    }
}

impl LogLimit {
    /// How many lines were suppressed since the last one, or `None` to suppress this one too.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let now = now.as_micros();
        let last = self.last_micros.load(Ordering::Relaxed);
        // A clock that was set back starts a new second instead of silencing the log.
        let same_second = (0..1_000_000).contains(&now.saturating_sub(last));
        let exchange =
            || self.last_micros.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if same_second || !exchange() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A store that a test can hold, fail and look into, and a provider that says what it is told.

    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::providers::{InvalidBody, MalformedEvent, SignatureError, Translation};

    /// What the next commits do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mode {
        Commit,
        Fail,
        Panic,
    }

    #[derive(Debug)]
    pub struct FakeStore {
        /// A commit takes one permit, so that without permits it hangs.
        pub gate: Semaphore,
        /// Gets one permit for each commit that has begun.
        pub entered: Semaphore,
        pub mode: Mutex<Mode>,
        /// The provider event ids of each committed batch, in order.
        pub batches: Mutex<Vec<Vec<String>>>,
        pub events: Mutex<Vec<NewEvent>>,
        pub endpoints: Vec<Arc<Endpoint>>,
    }

    impl FakeStore {
        /// Commits at once.
        pub fn open() -> Arc<Self> {
            let store = Self::held();
            store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
            store
        }

        /// Commits when the test says so.
        pub fn held() -> Arc<Self> {
            Arc::new(Self {
                gate: Semaphore::new(0),
                entered: Semaphore::new(0),
                mode: Mutex::new(Mode::Commit),
                batches: Mutex::default(),
                events: Mutex::default(),
                endpoints: vec![Arc::new(endpoint("ep_made", false)), Arc::new(endpoint("ep_live", true))],
            })
        }

        pub fn set(&self, mode: Mode) {
            *self.mode.lock().unwrap() = mode;
        }

        pub async fn until_entered(&self) {
            self.entered.acquire().await.unwrap().forget();
        }

        pub fn batch_sizes(&self) -> Vec<usize> {
            self.batches.lock().unwrap().iter().map(Vec::len).collect()
        }

        pub fn stored(&self) -> Vec<NewEvent> {
            self.events.lock().unwrap().clone()
        }
    }

    impl EventStore for FakeStore {
        async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<Inserted>, StoreFailure> {
            self.entered.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
            let mode = *self.mode.lock().unwrap();
            match mode {
                Mode::Commit => {}
                Mode::Fail => return Err(StoreFailure::new("disk full")),
                Mode::Panic => panic!("a store that fails its test on purpose"),
            }
            let ids = events.iter().map(|event| event.provider_event_id.clone()).collect();
            self.batches.lock().unwrap().push(ids);
            let mut stored = self.events.lock().unwrap();
            let mut insert = |event: NewEvent| {
                let earlier = stored.iter().find(|stored| stored.key() == event.key());
                let result = match earlier.map(|earlier| earlier.body_sha256 == event.body_sha256) {
                    None => Inserted::New,
                    Some(true) => Inserted::Duplicate,
                    Some(false) => Inserted::DuplicateOtherBody,
                };
                if result == Inserted::New {
                    stored.push(event);
                }
                result
            };
            Ok(events.into_iter().map(&mut insert).collect())
        }

        async fn endpoint(
            &self,
            provider: &'static str,
            id: &EndpointId,
        ) -> Result<Option<Arc<Endpoint>>, StoreFailure> {
            if *self.mode.lock().unwrap() == Mode::Fail {
                return Err(StoreFailure::new("connection refused"));
            }
            let is_it = |endpoint: &&Arc<Endpoint>| endpoint.id == *id && endpoint.provider == provider;
            Ok(self.endpoints.iter().find(is_it).cloned())
        }
    }

    /// Signature: the one header is the secret. Body: `id type livemode`, separated by blanks, where the
    /// mode is `live`, `test` or `-`, and `thin` may follow.
    pub struct FakeInbound;

    impl Inbound for FakeInbound {
        fn name(&self) -> &'static str {
            "fake"
        }

        fn signature_header(&self) -> &'static str {
            "x-fake-signature"
        }

        fn verify(
            &self,
            headers: &[&[u8]],
            _body: &[u8],
            secrets: &[SecretString],
            _tolerance_s: i64,
            _now: Timestamp,
        ) -> Result<(), SignatureError> {
            use secrecy::ExposeSecret as _;
            let [header] = headers else { return Err(SignatureError::Missing) };
            let matches = |secret: &SecretString| secret.expose_secret().as_bytes() == *header;
            if secrets.iter().any(matches) { Ok(()) } else { Err(SignatureError::Mismatch) }
        }

        fn sign(&self, _body: &[u8], secret: &SecretString, _at: Timestamp) -> String {
            use secrecy::ExposeSecret as _;
            secret.expose_secret().to_owned()
        }

        fn facts(&self, _body: &[u8], _keys: &[String]) -> Result<Translation, MalformedEvent> {
            Ok(Translation::Ignored("fake"))
        }

        fn head(&self, body: &[u8]) -> Result<EventHead, InvalidBody> {
            let text = std::str::from_utf8(body).map_err(|_| InvalidBody::NotUtf8)?;
            let words: Vec<&str> = text.split(' ').collect();
            let [id, event_type, mode, rest @ ..] = words.as_slice() else {
                return Err(InvalidBody::NotJson);
            };
            Ok(EventHead {
                event_id: (*id).to_owned(),
                event_type: (*event_type).to_owned(),
                livemode: match *mode {
                    "live" => Some(true),
                    "test" => Some(false),
                    _ => None,
                },
                account: None,
                created_at: None,
                thin: rest.contains(&"thin"),
            })
        }
    }

    pub fn endpoint(id: &str, livemode: bool) -> Endpoint {
        Endpoint {
            id: EndpointId::parse(id).unwrap(),
            project_id: ProjectId::parse("proj_default").unwrap(),
            provider: "fake",
            livemode,
            secrets: vec![SecretString::from("old"), SecretString::from("new")],
        }
    }

    pub const LIMITS: CommitLimits = CommitLimits {
        queue_events: 64,
        batch_events: 16,
        writers: 1,
        answer_within: Duration::from_secs(20),
    };

    /// A receiver of the provider `fake`, whose default endpoint is in test mode.
    pub fn receiver(
        store: &Arc<FakeStore>,
        limits: CommitLimits,
        tasks: &TaskTracker,
    ) -> Receiver<FakeStore> {
        let committer = Committer::start(store, limits, &Arc::new(Notify::new()), tasks);
        let clock = crate::clock::ManualClock::new(Timestamp::from_secs(1_750_000_000));
        let provider = |name, default_endpoint| ProviderEdge {
            name,
            inbound: &FakeInbound,
            tolerance_s: 300,
            livemode: false,
            default_endpoint,
        };
        let default = Arc::new(endpoint("ep_default_fake", false));
        let providers = vec![provider("fake", Some(default)), provider("bare", None)];
        Receiver::new(Arc::clone(store), committer, providers, Arc::new(clock))
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

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

    fn bench(store: Arc<FakeStore>, limits: CommitLimits) -> Bench {
        let (wake, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
        let committer = Committer::start(&store, limits, &wake, &tasks);
        Bench { store, committer, wake, tasks }
    }

    impl Bench {
        /// Starts one commit per id and returns once all of them wait in the queue.
        async fn enqueue(&self, ids: &[&str]) -> JoinSet<Result<Inserted, ReceiveError>> {
            let mut waiters = JoinSet::new();
            for id in ids {
                let before = self.committer.queue.capacity();
                let (committer, event) = (self.committer.clone(), event(id));
                waiters.spawn(async move { committer.commit(event).await });
                while self.committer.queue.capacity() == before {
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
        let bench = bench(FakeStore::held(), CommitLimits { batch_events: 4, ..LIMITS });
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
        let bench = bench(FakeStore::held(), CommitLimits { writers: 3, ..LIMITS });
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
        let bench = bench(FakeStore::held(), CommitLimits { queue_events: 2, ..LIMITS });
        let _first = bench.busy().await;
        let _queued = bench.enqueue(&["a", "b"]).await;
        assert_eq!(bench.committer.commit(event("c")).await, Err(ReceiveError::Overloaded));
    }

    #[tokio::test]
    async fn a_commit_that_takes_too_long_is_not_acknowledged_and_still_done() {
        let bench = bench(FakeStore::held(), CommitLimits { answer_within: Duration::ZERO, ..LIMITS });
        assert_eq!(bench.committer.commit(event("a")).await, Err(ReceiveError::StoreUnavailable));
        bench.store.gate.add_permits(1);
        bench.committer.close();
        bench.tasks.close();
        bench.tasks.wait().await;
        assert_eq!(bench.store.stored().len(), 1);
    }

    #[tokio::test]
    async fn closing_commits_everything_that_waits_and_refuses_the_rest() {
        let bench = bench(FakeStore::held(), CommitLimits { batch_events: 2, writers: 2, ..LIMITS });
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
            assert_eq!(
                stored.state,
                if reason.is_some() { InboxState::Ignored } else { InboxState::Received }
            );
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
        assert_eq!(
            (endpoint.id.as_str(), endpoint.project_id.as_str()),
            ("ep_default_stripe", "proj_default")
        );
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
}
