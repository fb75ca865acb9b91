//! A payment provider in a box: a stateful double of the parts of Stripe that move money to affiliates,
//! with idempotency keys, scripted and random faults, signed webhooks, a clock of its own and a journal.
//!
//! It stands where the provider stands, so it shares no code with the client that talks to it nor with
//! `providers`: two readings of the same documentation must agree. It is no part of what runs in
//! production, keeps everything in memory, and asks for no permission on its control API.
//!
//! Read `api.rs` first (a request from arrival to answer), then `world.rs` (the state), `faults.rs`, and
//! `routes.rs` for what is answered at all. API version: [`API_VERSION`].
//!
//! # Running it
//!
//! `remit sandbox` on the command line, or inside a process:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use remit::sandbox::{Options, Sandbox};
//! use serde_json::json;
//!
//! let running = Sandbox::start(Options { frozen: true, ..Options::default() }).await?;
//! let account = running.control("POST", "accounts", json!({ "id": "acct_1" })).await?;
//! running.fault(json!({ "match": { "path_prefix": "/v1/transfers" }, "fault": { "kind": "execute_then_hang" } })).await?;
//! println!("{} {}", running.url(), account["id"]);
//! running.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Control API
//!
//! Below `/_sandbox`, JSON in and out; [`Running::control`] is the same without HTTP.
//!
//! | call | body |
//! | --- | --- |
//! | `POST clock` | `advance_s`, `advance_us`, `set` (RFC 3339), `frozen` |
//! | `GET`, `POST`, `DELETE faults` | a rule or a list of rules ([`Rule`]): `{"match": {..}, "skip": 0, "times": 1, "fault": {..} or [..]}`, or `{"random": {"seed", "permille", "kinds", "match"}}`; the kinds are in [`Fault`] |
//! | `POST release` | ends every request that hangs |
//! | `POST accounts` | `id`, `type`, `country`, `email`, `default_currency`, `metadata`, `onboarded` (default true), `transfers` (`active`, `inactive`, `pending`), `payouts_enabled` |
//! | `POST accounts/{id}` | `transfers`, `charges_enabled`, `payouts_enabled`, `details_submitted`, `disabled_reason`, `refuses_transfers`, `disconnected`, `livemode`; tells `account.updated` |
//! | `POST balance` | `currency`, `set` or `add`, `account`, `livemode`; more money tells `balance.available` |
//! | `POST payouts` | `account`, `amount`, `currency`, `status`, `livemode`; tells `payout.*` |
//! | `POST payouts/{id}` | `status` |
//! | `POST payment_intents/{id}` | `status`: `succeeded`, `requires_action`, `processing`, `payment_failed` |
//! | `POST refunds/{id}` | `status`: `failed` |
//! | `POST webhook_endpoints` | `url`, `secret`, `connect` |
//! | `POST webhooks/flush` | `retries`: also what failed before; answers `delivered`, `failed`, `given_up`, `waiting` |
//! | `GET journal`, `GET state` | |
//!
//! # The journal
//!
//! One JSON object per line. A line about a request that changes something is on the disk before its
//! answer leaves and before any other request can see the change. Every line has `seq` (from 1, without
//! gaps), `at_us` (the sandbox's clock, microseconds since the Unix epoch) and `kind`:
//!
//! | `kind` | further fields |
//! | --- | --- |
//! | `start` | `version`, `api_version`, `seed`, `frozen`. A new run in the same file; `seq` begins again |
//! | `request` | `request_id`, `method`, `path`, `idempotency_key`, `stripe_account`, `stripe_version`, `livemode` (null: no readable key), `body_sha256`, `form` (parameters of body or query, names as sent) |
//! | `fault` | `request_id`, `fault` (as in [`Fault`]) |
//! | `effect` | `request_id` and `idempotency_key` (null: nobody asked over the API), `effect`, `account` (null: the platform), `livemode`, `object` (whole, as it is now), `late` or `duplicate` (true where a fault made it) |
//! | `answer` | `request_id`, `status` (null: none), `replayed`, `original_request`, `error_code`, `object_id`, `broken` (null, `hang`, `reset`, `reset_at_byte`, `truncated`, `html`): what was decided, whether or not it arrived |
//! | `hang_ended` | `request_id`, `how` (`released`, `client_left`, `shutdown`) |
//! | `late_failure` | `request_id`, `error_code`: a late execution was refused |
//! | `webhook` | `event_id`, `event_type`, `object_id`, `account`, `url`, `attempt` (from 1), `status` (null: no answer), `error` |
//! | `control` | `method`, `path`, `body` |
//!
//! An effect is one of `transfer.created`, `transfer.updated`, `transfer.reversed` (the transfer as it is
//! afterwards), `transfer_reversal.created` (the reversal), `payment_intent.*`, `charge.*`,
//! `refund.created`, `refund.failed`, `account.created`, `account.updated`, `account.disconnected`,
//! `account_link.created`, `payout.*` and `balance_transaction.created`. Sums over `transfer.created` minus
//! `transfer_reversal.created` are what each account was paid.

mod accounts;
mod api;
mod auth;
mod clock;
mod control;
mod error;
mod faults;
mod form;
mod journal;
mod keys;
mod outbox;
mod params;
mod payments;
mod payouts;
mod reads;
mod refunds;
mod rng;
mod routes;
mod server;
mod transfers;
mod webhooks;
mod world;

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};

use self::{
    clock::Clock,
    journal::Journal,
    keys::Keys,
    outbox::{Endpoint, Outbox},
    rng::Rng,
    server::Shared,
    world::{Purse, Scope, World},
};
pub use self::{
    control::ControlError,
    faults::{Fault, Match, OneOrMany, Random, Rule, Scripted},
    webhooks::Flushed,
};

/// The version of events, and of answers to requests that name none.
pub const API_VERSION: &str = "2026-07-29.dahlia";

/// How long stopping waits for connections.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The sandbox; see [`Sandbox::start`].
#[derive(Clone, Copy, Debug)]
pub struct Sandbox;

/// Where webhooks go, and what they are signed with.
#[derive(Clone)]
pub struct WebhookEndpoint {
    /// `http://` or `https://`.
    pub url: String,
    /// The whole secret is the key, its prefix included.
    pub secret: String,
    /// Gets the events of connected accounts. While no endpoint is for them, the others get them too.
    pub connect: bool,
}

/// When webhooks are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as they are due.
    #[default]
    Background,
    /// Only by `POST /_sandbox/webhooks/flush`.
    OnFlush,
}

/// Which time signatures carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookTime {
    /// The machine's, because a receiver compares with a clock of its own.
    #[default]
    Machine,
    /// The sandbox's.
    Sandbox,
}

/// How a sandbox is set up.
pub struct Options {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// More can be added later over the control API.
    pub webhooks: Vec<WebhookEndpoint>,
    /// When webhooks are sent.
    pub delivery: Delivery,
    /// Which time their signatures carry.
    pub webhook_time: WebhookTime,
    /// Whether webhooks that are due together are sent in an order drawn from the seed.
    pub shuffle_webhooks: bool,
    /// Ids follow from it.
    pub seed: u64,
    /// Lines are appended; without it the journal is kept in memory only.
    pub journal: Option<PathBuf>,
    /// Secret keys that are accepted. Without any, every `sk_test_…`, `rk_test_…`, `sk_live_…` and
    /// `rk_live_…` is.
    pub secret_keys: Vec<String>,
    /// Where the clock starts, microseconds since the Unix epoch; the machine's time without it.
    pub start_us: Option<i64>,
    /// Whether the clock moves only by hand.
    pub frozen: bool,
    /// What the platform can spend at first, minor units by currency, in each mode.
    pub balances: BTreeMap<String, i64>,
    /// How long idempotency keys are kept, seconds.
    pub keys_kept_s: u32,
}

impl Default for Options {
    fn default() -> Self {
        let currencies = ["aud", "cad", "chf", "dkk", "eur", "gbp", "jpy", "nok", "nzd", "pln", "sek", "usd"];
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            webhooks: Vec::new(),
            delivery: Delivery::default(),
            webhook_time: WebhookTime::default(),
            shuffle_webhooks: false,
            seed: 0,
            journal: None,
            secret_keys: Vec::new(),
            start_us: None,
            frozen: false,
            balances: currencies.map(|currency| (currency.to_owned(), 100_000_000)).into(),
            keys_kept_s: 24 * 3600,
        }
    }
}

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be written.
    #[error("cannot write the journal")]
    Journal(#[source] io::Error),
    /// The client for webhooks cannot be made.
    #[error("cannot make an HTTP client")]
    Client(#[from] reqwest::Error),
}

/// A sandbox that answers. Dropping it leaves it running; [`Running::stop`] ends it.
pub struct Running {
    /// The address it is bound to.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Running {
    /// Nothing of the state, which holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts a sandbox on the current runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: Options) -> Result<Running, StartError> {
        let listen = options.listen;
        let bound = server::bind(listen).await;
        let (listener, address) = bound.map_err(|source| StartError::Listen { address: listen, source })?;
        let is_background = options.delivery == Delivery::Background;
        let webhook_time = options.webhook_time;
        let client = webhooks::client()?;
        let world = world_of(options, &format!("http://{address}")).map_err(StartError::Journal)?;
        let shared = Arc::new(Shared::new(world, client, webhook_time));
        let serving = server::serve(Arc::clone(&shared), listener);
        let mut tasks = vec![tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the sandbox stopped serving");
            }
        })];
        if is_background {
            tasks.push(tokio::spawn(server::deliver(Arc::clone(&shared))));
        }
        Ok(Running { address, shared, tasks })
    }
}

fn world_of(options: Options, url: &str) -> io::Result<World> {
    let clock = Clock::new(options.start_us.unwrap_or_else(clock::machine_us), options.frozen);
    let mut journal = Journal::open(options.journal.as_deref())?;
    let line = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "api_version": API_VERSION,
        "seed": options.seed,
        "frozen": options.frozen,
    });
    journal.add(clock.now_us(), "start", line);
    journal.commit(true)?;
    let mut purses = BTreeMap::new();
    for livemode in [false, true] {
        for (currency, available) in &options.balances {
            let purse = Purse { available: *available, ..Purse::default() };
            purses.insert((Scope::platform(livemode), currency.clone()), purse);
        }
    }
    let endpoints = options.webhooks.into_iter();
    let endpoints = endpoints.map(|to| Endpoint { url: to.url, secret: to.secret, is_connect: to.connect });
    // Another sequence than that of the ids, or the order would change with every id drawn.
    let shuffle = options.shuffle_webhooks.then(|| Rng::new(!options.seed));
    let outbox = Outbox::new(endpoints.collect(), shuffle);
    Ok(World {
        clock,
        rng: Rng::new(options.seed),
        objects: world::Objects::default(),
        purses,
        accounts: HashMap::new(),
        visits: HashMap::new(),
        keys: Keys::new(options.keys_kept_s),
        faults: faults::Faults::default(),
        journal,
        outbox,
        late: Vec::new(),
        secret_keys: options.secret_keys,
        url: url.to_owned(),
    })
}

impl Running {
    /// The base of all its URLs, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A call of the control API; `path` is what follows `/_sandbox/`.
    ///
    /// # Errors
    /// [`ControlError`], as the HTTP call would be refused.
    pub async fn control(&self, method: &str, path: &str, body: Value) -> Result<Value, ControlError> {
        control::call(&self.shared, method, path, body).await
    }

    /// Adds a rule or a list of rules, as JSON; see [`Rule`].
    ///
    /// # Errors
    /// The rule cannot be read.
    pub async fn fault(&self, rules: Value) -> Result<(), ControlError> {
        self.control("POST", "faults", rules).await.map(drop)
    }

    /// Moves the clock on.
    pub async fn advance(&self, seconds: u32) {
        let moved = self.control("POST", "clock", json!({ "advance_s": seconds })).await;
        drop(moved);
    }

    /// Adds a place where webhooks go, for events from now on.
    ///
    /// # Errors
    /// The URL is none of http or https.
    pub async fn add_webhook(&self, endpoint: WebhookEndpoint) -> Result<(), ControlError> {
        let WebhookEndpoint { url, secret, connect } = endpoint;
        let body = json!({ "url": url, "secret": secret, "connect": connect });
        self.control("POST", "webhook_endpoints", body).await.map(drop)
    }

    /// Delivers everything that is due, and waits for the answers.
    pub async fn flush(&self) -> Flushed {
        webhooks::flush(&self.shared).await
    }

    /// The lines of the journal so far.
    pub async fn journal(&self) -> Vec<Value> {
        self.shared.with(|world| world.journal.lines().to_vec()).await
    }

    /// Waits until exactly that many requests hang. One that hangs no more has its end in the journal.
    pub async fn until_hanging(&self, requests: usize) {
        let mut hanging = self.shared.hanging.subscribe();
        // The sender is ours, so it cannot be gone.
        drop(hanging.wait_for(|count| *count == requests).await);
    }

    /// Ends every request that hangs.
    pub async fn release(&self) {
        drop(self.control("POST", "release", Value::Null).await);
    }

    /// Stops: hanging requests end, others are finished, nothing more is delivered. A connection that
    /// neither ends nor sends its request is cut after five seconds.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        for mut task in self.tasks {
            match timeout(STOP_WITHIN, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a task of the sandbox ended badly"),
                Err(_) => task.abort(),
            }
        }
    }
}
