//! Configuration: defaults, then `remit.toml`, then the environment, then flags.
//!
//! Every setting has one name, `section.key`, the same in the file, in the environment
//! (`REMIT_SECTION__KEY`) and in messages; [`KEYS`] lists them all. All problems are reported together,
//! each with the setting and the remedy, and never with the value of a secret. [`Config::load`] is pure;
//! [`Config::from_process`] reads the file and the environment. Whether a database or a provider can be
//! reached is not a question for this module.

mod keys;
mod layers;
mod mail;
mod network;
mod problems;
mod values;

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{SecretBox, SecretString};

pub use self::{
    keys::{KEYS, Key, Shown},
    mail::{InviteUrl, Mail, Security},
    network::Network,
    problems::{ConfigError, Problem, Setting, Source},
};
use self::{layers::Layers, problems::problem};

/// Where Stripe's API lives unless a test says otherwise.
pub const STRIPE_API_BASE: &str = "https://api.stripe.com";

/// A stage that a node can take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes webhooks in.
    Receive,
    /// Turns stored events into books.
    Process,
    /// Calls providers.
    Dispatch,
    /// Starts periodic work: releases, settlement runs, reconciliation.
    Schedule,
}

impl Role {
    /// Every role with its name in the configuration.
    pub const ALL: [(&str, Self); 4] = [
        ("receive", Self::Receive),
        ("process", Self::Process),
        ("dispatch", Self::Dispatch),
        ("schedule", Self::Schedule),
    ];
}

/// `[database]`.
#[derive(Clone, Debug)]
pub struct Database {
    /// `sqlite://…` or `postgres://…`; may carry a password.
    pub url: SecretString,
    /// Most connections of this node to the database, at least 2.
    pub max_connections: u32,
}

/// `[server]`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Public listener.
    pub listen: SocketAddr,
    /// Listener of health and metrics.
    pub ops_listen: SocketAddr,
    /// Where the world finds the public listener, without a trailing slash; by default `http://` and
    /// [`Self::listen`].
    pub public_url: String,
    /// Whose `X-Forwarded-For` is believed. Empty: nobody's.
    pub trusted_proxies: Vec<Network>,
    /// What this node does; never empty.
    pub roles: BTreeSet<Role>,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Most connections open at once.
    pub max_connections: usize,
    /// From the first byte of a request (or the start of the connection) to the end of its headers.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// How long a client may refuse to take bytes of an answer.
    pub write_timeout: Duration,
    /// How long a connection may stay open between two requests.
    pub idle_timeout: Duration,
    /// How long a stopping process lets work finish.
    pub drain: Duration,
}

/// `[receive]`: the group commit of the receiver.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// Most events that wait for a commit; more are refused with `OVERLOADED`.
    pub queue_events: usize,
    /// Most events of one commit.
    pub batch_events: usize,
    /// Commits in flight at once (`PostgreSQL`; `SQLite` has one writer).
    pub writers: usize,
}

/// `[process]`.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Most events of one batch.
    pub batch_events: u32,
    /// Failures after which an event is parked.
    pub max_attempts: u32,
}

/// `[dispatch]`.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch {
    /// Provider calls of this node under way at once.
    pub concurrency: usize,
    /// Provider calls of this node a second (Stripe documents 25 a second and endpoint in a sandbox,
    /// docs.stripe.com/rate-limits).
    pub rate_per_s: u32,
}

/// `[stripe]`.
#[derive(Clone, Debug)]
pub struct Stripe {
    /// Signing secrets of the default endpoint, all live at once; empty means there is no such endpoint.
    pub webhook_secrets: Vec<SecretString>,
    /// Largest age, and lead, of a signature in seconds, at least 1.
    pub tolerance_s: i64,
    /// Key of the API.
    pub secret_key: Option<SecretString>,
    /// Scheme, host and port of the API, without a trailing slash.
    pub api_base: String,
    /// Longest provider call.
    pub timeout: Duration,
}

/// `[paddle]`.
#[derive(Clone, Debug)]
pub struct Paddle {
    /// Signing secrets of the default endpoint, all live at once; empty means there is no such endpoint.
    pub webhook_secrets: Vec<SecretString>,
    /// Largest age, and lead, of a signature in seconds, at least 1.
    pub tolerance_s: i64,
}

/// `[programs]`.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The platform side of the upline gate.
    pub multi_level: bool,
    /// Seconds after its event was received before anything becomes payable (`rulings.md` 5).
    pub merge_grace_s: i64,
    /// Whether affiliates may sign up by themselves.
    pub public_signup: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// The key that seals endpoint secrets and payout details: 32 bytes.
pub type MasterKey = SecretBox<[u8; 32]>;

/// A complete, checked configuration. `Debug` shows no secret.
#[derive(Debug)]
pub struct Config {
    /// The mode this node accepts.
    pub livemode: bool,
    /// `[database]`.
    pub database: Database,
    /// `[server]`.
    pub server: Server,
    /// `[receive]`.
    pub receive: Receive,
    /// `[process]`.
    pub process: Process,
    /// `[dispatch]`.
    pub dispatch: Dispatch,
    /// `[stripe]`.
    pub stripe: Stripe,
    /// `[paddle]`.
    pub paddle: Paddle,
    /// `secrets.master_key`.
    pub master_key: Option<MasterKey>,
    /// `attribution.keys`: metadata keys that may carry a code, the earlier the stronger.
    pub attribution_keys: Vec<String>,
    /// `attribution.subject_keys`: metadata keys that may carry an id of the buyer under which touchpoints
    /// were recorded.
    pub subject_keys: Vec<String>,
    /// `attribution.keep_clicks_days`: days for which a click is kept beyond the longest window of its program.
    pub keep_clicks_days: u16,
    /// `payouts.live`: whether payouts may send money.
    pub payouts_live: bool,
    /// `payouts.witness_file`: where the age of the database is kept outside of it; none: beside the
    /// database file, or `remit.witness` in the working directory where the database is a server.
    pub witness_file: Option<PathBuf>,
    /// `payments.enabled`: whether charges may be made.
    pub payments_enabled: bool,
    /// `[programs]`.
    pub programs: Programs,
    /// `[mail]`; none: nobody is told anything by e-mail.
    pub mail: Option<Mail>,
    /// `[log]`.
    pub log: Log,
    settings: Vec<Setting>,
}

impl Config {
    /// Resolves the configuration from the text of a file, the environment (other variables in it are
    /// passed over) and flags (by setting name). `read_secret` reads what a `<key>_file` setting names.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(
        file_text: Option<&str>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (&'static str, String)>,
        read_secret: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::new(&read_secret);
        if let Some(text) = file_text {
            layers.add_file(text);
        }
        layers.add_environment(env);
        for (name, text) in flags {
            layers.add(name, text, Source::Flag, name);
        }
        layers.resolve_files();
        layers.into_config()
    }

    /// Resolves the configuration of this process. The file is `config_flag`, else `REMIT_CONFIG`, else
    /// `remit.toml` in the working directory where there is one.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, also when a file that was named cannot be read.
    pub fn from_process(
        config_flag: Option<&Path>,
        flags: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, ConfigError> {
        let file_text = read_file(config_flag)?;
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            // A variable that is not text cannot be one of ours.
            let Ok(name) = name.into_string() else { continue };
            if name.starts_with("REMIT_") {
                let value = value.into_string().map_err(|_| ConfigError {
                    problems: vec![problem(&name, "is not UTF-8 text", "set it to text, or unset it")],
                })?;
                env.push((name, value));
            }
        }
        Self::load(file_text.as_deref(), env, flags, |path| fs::read_to_string(path))
    }

    /// Whether mails tell strangers to ask at an address that only this machine reaches: where the API is, when
    /// no page of the operator's takes up invitations.
    #[must_use]
    pub fn mails_lead_nowhere(&self) -> bool {
        let names_api = self.mail.as_ref().is_some_and(|mail| mail.invite_url.is_none());
        names_api
            && reqwest::Url::parse(&self.server.public_url).is_ok_and(|url| values::is_this_machine(&url))
    }

    /// Whether this node takes part in `role`.
    pub fn has_role(&self, role: Role) -> bool {
        self.server.roles.contains(&role)
    }

    /// Every setting with its value and where that comes from, secrets masked.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

fn read_file(config_flag: Option<&Path>) -> Result<Option<String>, ConfigError> {
    let named = config_flag
        .map(|path| ("--config", path.to_owned()))
        .or_else(|| std::env::var_os("REMIT_CONFIG").map(|path| ("REMIT_CONFIG", PathBuf::from(path))));
    let (key, path) = named.clone().unwrap_or(("remit.toml", PathBuf::from("remit.toml")));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError {
            problems: vec![problem(
                key,
                format!("names {}, which cannot be read ({error})", path.display()),
                "correct the path or the permissions of the file",
            )],
        }),
    }
}
