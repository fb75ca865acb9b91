//! A store that a test can hold, fail and look into, and a provider that says what it is told.

use std::{sync::Mutex, time::Duration};

use tokio::sync::Semaphore;

use super::*;
use crate::providers::{InvalidBody, MalformedEvent, MetadataKeys, SignatureError, Translation};

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

    fn facts(&self, _body: &[u8], _keys: MetadataKeys<'_>) -> Result<Translation, MalformedEvent> {
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

pub const LIMITS: GroupLimits =
    GroupLimits { queued_max: 64, batch_max: 16, writers: 1, answer_within: Duration::from_secs(20) };

/// A receiver of the provider `fake`, whose default endpoint is in test mode.
pub fn receiver(store: &Arc<FakeStore>, limits: GroupLimits, tasks: &TaskTracker) -> Receiver<FakeStore> {
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
