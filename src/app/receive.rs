//! Receive: from a signed request to a durable inbox row.
//!
//! [`Receiver`] checks the signature, reads the head of the event and hands the row to the
//! [`Committer`], which groups the rows of concurrent requests into one commit ([`super::group`]). A receipt means that the
//! commit is durable; any doubt is an error, and the provider delivers again. What an event means is not
//! asked here: unknown types are stored like all others (`rulings.md` 19, 20).

use std::{
    error::Error,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::group::{Commit, Group, GroupLimits, GroupMetrics, Unanswered};
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

/// Groups the inserts of concurrent requests. Clones feed the same queue.
#[derive(Clone)]
pub struct Committer {
    group: Group<NewEvent, Result<Inserted, ReceiveError>>,
}

impl Committer {
    /// Starts the writers on `tasks`. `committed` is notified after each commit that left events to
    /// process. Paddle wants an answer within 5 s.
    pub fn start<S: EventStore>(
        store: &Arc<S>,
        limits: GroupLimits,
        committed: &Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Self {
        let inserts = Inserts { store: Arc::clone(store), committed: Arc::clone(committed) };
        let metrics =
            GroupMetrics { items: names::WEBHOOK_COMMIT_EVENTS, seconds: names::WEBHOOK_COMMIT_SECONDS };
        Self { group: Group::start(inserts, limits, metrics, tasks) }
    }

    /// Ends the writers once everything that waits is committed. Later events are refused as
    /// [`ReceiveError::StoreUnavailable`]. Call it after the last request was answered.
    pub fn close(&self) {
        self.group.close();
    }

    /// Waits for the durable commit of `event`.
    async fn commit(&self, event: NewEvent) -> Result<Inserted, ReceiveError> {
        self.group.commit(event).await.unwrap_or_else(|unanswered| {
            Err(match unanswered {
                Unanswered::Overloaded => ReceiveError::Overloaded,
                Unanswered::Unknown => ReceiveError::StoreUnavailable,
            })
        })
    }
}

/// Inserts events into the inbox, a batch at a time.
struct Inserts<S> {
    store: Arc<S>,
    committed: Arc<Notify>,
}

impl<S: EventStore> Commit for Inserts<S> {
    type Item = NewEvent;
    type Answer = Result<Inserted, ReceiveError>;

    async fn commit(&self, events: Vec<NewEvent>) -> Vec<Result<Inserted, ReceiveError>> {
        // One order for all writers of all nodes, so that two batches with the same keys wait for each
        // other instead of deadlocking. Stable: of two deliveries of one event the first is stored.
        let mut sorted: Vec<(usize, NewEvent)> = events.into_iter().enumerate().collect();
        sorted.sort_by(|(_, a), (_, b)| a.key().cmp(&b.key()));
        let is_work: Vec<bool> =
            sorted.iter().map(|(_, event)| event.state == InboxState::Received).collect();
        let (places, events): (Vec<usize>, Vec<NewEvent>) = sorted.into_iter().unzip();

        let results = self.insert(events).await;
        if is_work.iter().zip(&results).any(|(work, result)| *work && *result == Ok(Inserted::New)) {
            self.committed.notify_one();
        }
        let mut placed: Vec<_> = places.into_iter().zip(results).collect();
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, result)| result).collect()
    }
}

impl<S: EventStore> Inserts<S> {
    /// One result per event. A commit that failed, or of which nobody knows, fails for all of them.
    async fn insert(&self, events: Vec<NewEvent>) -> Vec<Result<Inserted, ReceiveError>> {
        let count = events.len();
        match self.store.insert(events).await {
            Ok(results) if results.len() == count => results.into_iter().map(Ok).collect(),
            failed => {
                let reason = match failed {
                    Ok(_) => "the store answered for another number of events".to_owned(),
                    Err(StoreFailure(source)) => source.to_string(),
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
pub(crate) mod fake;
#[cfg(test)]
mod tests;
