//! Configuration: defaults, then `remit.toml`, then the environment, then flags.
//!
//! Every setting has one name, `section.key`, the same in the file, in the environment
//! (`REMIT_SECTION__KEY`) and in messages; [`KEYS`] lists them all. All problems are reported together,
//! each with the setting and the remedy, and never with the value of a secret. [`Config::load`] is pure;
//! [`Config::from_process`] reads the file and the environment. Whether a database or a provider can be
//! reached is not a question for this module.

mod mail;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use base64::Engine as _;
pub use mail::{Mail, Security};
use secrecy::{SecretBox, SecretString};

/// Where Stripe's API lives unless a test says otherwise.
pub const STRIPE_API_BASE: &str = "https://api.stripe.com";

/// How a setting may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As it is.
    Plain,
    /// Only that it is set. Also readable from a file named by `<key>_file`.
    Secret,
    /// As it is, except for a password within the URL. Also readable from a file.
    Url,
}

/// One setting that exists.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// The default as one would write it; `None` where there is none.
    pub default: Option<&'static str>,
    /// How it may be shown.
    pub shown: Shown,
}

const fn key(name: &'static str, default: &'static str) -> Key {
    Key { name, default: Some(default), shown: Shown::Plain }
}

const fn secret(name: &'static str) -> Key {
    Key { name, default: None, shown: Shown::Secret }
}

/// Every setting, in the order in which `remit doctor` shows them.
pub const KEYS: &[Key] = &[
    key("livemode", "false"),
    Key { name: "database.url", default: Some("sqlite://remit.db"), shown: Shown::Url },
    key("database.max_connections", "16"),
    key("server.listen", "127.0.0.1:8080"),
    key("server.ops_listen", "127.0.0.1:9090"),
    Key { name: "server.public_url", default: None, shown: Shown::Plain },
    Key { name: "server.trusted_proxies", default: None, shown: Shown::Plain },
    key("server.roles", "receive,process,dispatch,schedule"),
    key("server.max_body_bytes", "1048576"),
    key("server.max_connections", "1024"),
    key("server.header_timeout_s", "10"),
    key("server.body_timeout_s", "15"),
    key("server.write_timeout_s", "15"),
    key("server.idle_timeout_s", "75"),
    key("server.drain_s", "25"),
    key("receive.queue_events", "4096"),
    key("receive.batch_events", "256"),
    key("receive.writers", "4"),
    key("process.batch_events", "512"),
    key("process.max_attempts", "8"),
    key("dispatch.concurrency", "32"),
    key("dispatch.rate_per_s", "20"),
    secret("stripe.webhook_secrets"),
    key("stripe.tolerance_s", "300"),
    secret("stripe.secret_key"),
    key("stripe.api_base", STRIPE_API_BASE),
    key("stripe.api_base_force", "false"),
    key("stripe.timeout_s", "30"),
    secret("paddle.webhook_secrets"),
    key("paddle.tolerance_s", "30"),
    secret("secrets.master_key"),
    key("attribution.keys", "referral_code,affiliate_code,via,ref"),
    key("attribution.subject_keys", "anonymous_id,subject_ref,user_id"),
    key("attribution.keep_clicks_days", "400"),
    key("payouts.live", "false"),
    Key { name: "payouts.witness_file", default: None, shown: Shown::Plain },
    key("payments.enabled", "false"),
    key("programs.multi_level", "false"),
    key("programs.merge_grace_s", "900"),
    key("programs.public_signup", "true"),
    Key { name: "mail.url", default: None, shown: Shown::Url },
    Key { name: "mail.from", default: None, shown: Shown::Plain },
    key("mail.timeout_s", "30"),
    key("log.format", "text"),
    key("log.filter", "info,sqlx=warn,sqlx::postgres::notice=warn,hyper=warn"),
];

/// Variables that look like settings and are not: the path of the file, and two that only tests read.
const OTHER_VARIABLES: [&str; 3] = ["REMIT_CONFIG", "REMIT_TEST_DATABASE_URL", "REMIT_CONFORMANCE_DIR"];

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

/// A range of IP addresses: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that an address shares with `address`: 0 to 32, or to 128.
    prefix: u8,
}

impl Network {
    /// Reads `address/prefix` or `address`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// Whether the address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // What stays of the difference behind the prefix does not matter; a shift by the whole width
        // leaves nothing.
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(u32::from(32 - self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(u32::from(128 - self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
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

/// One resolved setting, fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// The value with secrets masked; `None` when it is not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
}

/// Where a value comes from. Later variants win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// This environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("configuration file"),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting as its source writes it, such as `stripe.tolerance_s` or `REMIT_STRIPE__TOLERANCE_S`.
    pub key: String,
    /// What is wrong. Never the value of a secret.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Everything that is wrong, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for Problem { key, what, remedy } in &self.problems {
            write!(f, "\n  `{key}` {what}; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

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

fn problem(key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { key: key.into(), what: what.into(), remedy: remedy.into() }
}

/// The variable of a setting: `stripe.api_base` is `REMIT_STRIPE__API_BASE`.
fn variable(name: &str) -> String {
    format!("REMIT_{}", name.replace('.', "__").to_ascii_uppercase())
}

fn find_key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The setting whose secret the file setting `name` points to.
fn file_setting(name: &str) -> Option<&'static Key> {
    name.strip_suffix("_file").and_then(find_key).filter(|key| key.shown != Shown::Plain)
}

/// A value as text, with where it was written, for messages.
#[derive(Debug)]
struct Value {
    text: String,
    source: Source,
    written_as: String,
}

/// The layers on the way to a [`Config`]; collects problems instead of stopping at the first.
struct Layers<'a> {
    read_secret: &'a dyn Fn(&Path) -> io::Result<String>,
    values: BTreeMap<&'static str, Value>,
    files: BTreeMap<&'static str, Value>,
    problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    fn new(read_secret: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self { read_secret, values: BTreeMap::new(), files: BTreeMap::new(), problems: Vec::new() }
    }

    /// Sets `name`, known or `…_file` of a known one, over whatever an earlier layer said.
    fn add(&mut self, name: &str, text: String, source: Source, written_as: &str) {
        let (slot, other, key) = if let Some(key) = find_key(name) {
            (&mut self.values, &mut self.files, key)
        } else if let Some(key) = file_setting(name) {
            (&mut self.files, &mut self.values, key)
        } else {
            self.problems.push(unknown(written_as, name, &source));
            return;
        };
        // A secret and a file for it in the same layer: whichever won would surprise someone.
        let same_layer =
            |value: &&Value| std::mem::discriminant(&value.source) == std::mem::discriminant(&source);
        if let Some(rival) = other.get(key.name).filter(same_layer) {
            self.problems.push(problem(
                written_as,
                format!("is set together with `{}`", rival.written_as),
                "keep one of the two",
            ));
        }
        other.remove(key.name);
        slot.insert(key.name, Value { text, source, written_as: written_as.to_owned() });
    }

    fn add_file(&mut self, text: &str) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                // Its `Display` quotes the line, which may hold a secret; its message does not.
                let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                let what = format!("is not valid TOML at line {line} ({})", error.message());
                self.problems.push(problem("configuration file", what, "correct that line"));
                return;
            }
        };
        for (section, value) in table {
            match value {
                toml::Value::Table(settings) => {
                    for (name, value) in settings {
                        self.add_file_value(&format!("{section}.{name}"), value);
                    }
                }
                value => self.add_file_value(&section, value),
            }
        }
    }

    fn add_file_value(&mut self, name: &str, value: toml::Value) {
        match file_text(value) {
            Some(text) => self.add(name, text, Source::File, name),
            None if find_key(name).is_none() => self.problems.push(unknown(name, name, &Source::File)),
            None => self.problems.push(problem(
                name,
                "is neither text, a whole number, true or false, nor a list of texts without commas",
                "write one of these",
            )),
        }
    }

    fn add_environment(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        for (written_as, text) in env {
            let Some(rest) = written_as.strip_prefix("REMIT_") else { continue };
            if OTHER_VARIABLES.contains(&written_as.as_str()) {
                continue;
            }
            let name = rest.to_ascii_lowercase().replace("__", ".");
            let known = find_key(&name).is_some() || file_setting(&name).is_some();
            // Without `__` it may belong to someone else (Kubernetes sets REMIT_PORT for a service
            // called remit), unless it is all but one of ours, such as REMIT_DATABASE_URL.
            let near = || nearest(&written_as, KEYS.iter().map(|key| variable(key.name))).1 <= 2;
            if known || rest.contains("__") || near() {
                self.add(&name, text, Source::Environment(written_as.clone()), &written_as);
            }
        }
    }

    /// Puts what the `…_file` settings name in the place of the settings themselves.
    fn resolve_files(&mut self) {
        for (name, file) in std::mem::take(&mut self.files) {
            match (self.read_secret)(Path::new(&file.text)) {
                Ok(text) => {
                    let text = text.strip_suffix('\n').unwrap_or(&text);
                    let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                    self.values.insert(name, Value { text, ..file });
                }
                Err(error) => self.problems.push(problem(
                    file.written_as,
                    format!("names a file that cannot be read ({error})"),
                    "correct the path or the permissions of the file",
                )),
            }
        }
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        let default = || find_key(name).and_then(|key| key.default);
        self.values.get(name).map(|value| value.text.as_str()).or_else(default)
    }

    /// Notes a problem with `name` under the name its source gave it.
    fn reject(&mut self, name: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let written_as = self.values.get(name).map_or(name, |value| &value.written_as).to_owned();
        self.problems.push(problem(written_as, what, remedy));
    }

    /// Parses a setting that is not secret. A value that will not do is noted and replaced by
    /// `T::default()`, which never gets out because the problem refuses the whole configuration.
    fn parse<T: FromStr + Default>(
        &mut self,
        name: &'static str,
        wanted: &str,
        accept: impl Fn(&T) -> bool,
    ) -> T {
        let text = self.text(name).unwrap_or_default();
        if let Some(value) = text.parse().ok().filter(accept) {
            return value;
        }
        let what = format!("is `{text}`, not {wanted}");
        self.reject(name, what, format!("set it to {wanted}"));
        T::default()
    }

    fn switch(&mut self, name: &'static str) -> bool {
        self.parse(name, "`true` or `false`", |_| true)
    }

    fn number<T>(&mut self, name: &'static str, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + Default + PartialOrd + fmt::Display,
    {
        let wanted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.parse(name, &wanted, move |value| bounds.contains(value))
    }

    fn seconds(&mut self, name: &'static str, most: u64) -> Duration {
        Duration::from_secs(self.number(name, 1..=most))
    }

    fn address(&mut self, name: &'static str) -> SocketAddr {
        let text = self.text(name).unwrap_or_default();
        if let Ok(address) = text.parse() {
            return address;
        }
        let what = format!("is `{text}`, not an IP address and port");
        self.reject(name, what, "set it to an address such as `0.0.0.0:8080` or `[::]:8080`");
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let text = self.text(name)?.to_owned();
        if text.is_empty() {
            self.reject(name, "is empty", "set it to a path, or unset it");
        }
        Some(PathBuf::from(text))
    }

    fn list(&self, name: &'static str) -> Vec<String> {
        self.text(name)
            .map(|text| text.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    }

    fn networks(&mut self, name: &'static str) -> Vec<Network> {
        let mut networks = Vec::new();
        for item in self.list(name) {
            match Network::parse(&item) {
                Some(network) => networks.push(network),
                None => self.reject(
                    name,
                    format!("names `{item}`, which is neither an IP address nor a range of them"),
                    "list some such as `10.0.0.7` or `10.0.0.0/8`, separated by commas, or unset it",
                ),
            }
        }
        networks
    }

    /// The address that is handed to strangers, so it must be one that they can use.
    fn public_url(&mut self, listen: SocketAddr) -> String {
        const NAME: &str = "server.public_url";
        let Some(text) = self.text(NAME) else { return format!("http://{listen}") };
        let text = text.trim_end_matches('/').to_owned();
        let is_plain = reqwest::Url::parse(&text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if !is_plain {
            self.reject(
                NAME,
                "is not a plain http or https address",
                "set it to an address such as `https://affiliates.example.com`, or unset it",
            );
        }
        text
    }

    fn roles(&mut self) -> BTreeSet<Role> {
        let mut roles = BTreeSet::new();
        for word in self.list("server.roles") {
            match Role::ALL.iter().find(|(name, _)| *name == word) {
                Some((_, role)) => {
                    roles.insert(*role);
                }
                None => self.reject(
                    "server.roles",
                    format!("names `{word}`, which is not a role"),
                    "list some of receive, process, dispatch, schedule, separated by commas",
                ),
            }
        }
        roles
    }

    /// Signing secrets, separated by commas. Signature checks fail silently with a secret that was
    /// pasted with a blank or cut short, so an odd one refuses to start.
    fn webhook_secrets(&mut self, name: &'static str, prefix: Option<&str>) -> Vec<SecretString> {
        let Some(text) = self.text(name).map(str::to_owned) else { return Vec::new() };
        let mut secrets = Vec::new();
        for item in text.trim_end_matches(['\n', '\r']).split(',') {
            if item.is_empty() {
                self.reject(name, "holds an empty secret", "remove it, or the comma beside it, or unset it");
            } else if item.chars().any(|c| c.is_whitespace() || c.is_control()) {
                self.reject(name, "holds a secret with a blank in it", "paste it again without blanks");
            } else if let Some(prefix) = prefix.filter(|prefix| !item.starts_with(prefix)) {
                self.reject(
                    name,
                    format!("holds a secret that does not start with `{prefix}`"),
                    "copy the signing secret of the webhook endpoint from the provider's dashboard",
                );
            } else {
                secrets.push(SecretString::from(item));
            }
        }
        secrets
    }

    fn secret_key(&mut self, livemode: bool) -> Option<SecretString> {
        const NAME: &str = "stripe.secret_key";
        let text = self.text(NAME)?.trim_end_matches(['\n', '\r']).to_owned();
        let is_live = text.starts_with("sk_live_") || text.starts_with("rk_live_");
        let is_test = text.starts_with("sk_test_") || text.starts_with("rk_test_");
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.reject(NAME, "has a blank in it", "paste it again without blanks");
        } else if !is_live && !is_test {
            self.reject(
                NAME,
                "does not start with `sk_live_`, `sk_test_`, `rk_live_` or `rk_test_`",
                "copy a secret or restricted key from the Stripe dashboard",
            );
        } else if is_live && !livemode {
            self.reject(
                NAME,
                "is a live key while livemode is false",
                "use a test key, or set REMIT_LIVEMODE=true",
            );
        } else if is_test && livemode {
            self.reject(
                NAME,
                "is a test key while livemode is true",
                "use a live key, or set REMIT_LIVEMODE=false",
            );
        }
        Some(SecretString::from(text))
    }

    /// A wrong base would hand the secret key to a stranger, so anything but Stripe or this machine has
    /// to be forced.
    fn api_base(&mut self) -> String {
        const NAME: &str = "stripe.api_base";
        let forced = self.switch("stripe.api_base_force");
        let text = self.text(NAME).unwrap_or_default().trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none()
                && url.username().is_empty()
        });
        match url {
            None => self.reject(
                NAME,
                "is not a plain http or https address",
                format!("set it to an address such as `{STRIPE_API_BASE}` or `http://127.0.0.1:12111`"),
            ),
            Some(url) if text != STRIPE_API_BASE && !is_loopback(&url) && !forced => self.reject(
                NAME,
                format!("is `{text}`, neither {STRIPE_API_BASE} nor on this machine"),
                "unset it, or set REMIT_STRIPE__API_BASE_FORCE=true if you are sure",
            ),
            Some(_) => {}
        }
        text
    }

    fn master_key(&mut self) -> Option<MasterKey> {
        const NAME: &str = "secrets.master_key";
        let text = self.text(NAME)?.trim().to_owned();
        let bytes = if text.len() == 64 {
            hex::decode(&text).ok()
        } else {
            base64::engine::general_purpose::STANDARD.decode(&text).ok()
        };
        let Some(key) = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) else {
            self.reject(
                NAME,
                "is not 32 bytes in hexadecimal or base64",
                "make one with `openssl rand -hex 32` and keep a copy in a safe place",
            );
            return None;
        };
        Some(SecretBox::new(Box::new(key)))
    }

    fn database_url(&mut self) -> SecretString {
        let text = self.text("database.url").unwrap_or_default().to_owned();
        if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            self.reject(
                "database.url",
                "is neither a SQLite nor a PostgreSQL address",
                "set it to one such as `sqlite://remit.db` or `postgres://user@host/remit`",
            );
        }
        SecretString::from(text)
    }

    fn log(&mut self) -> Log {
        let text = self.text("log.format").unwrap_or_default();
        let format = match text {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                let what = format!("is `{text}`");
                self.reject("log.format", what, "set it to `text` or `json`");
                LogFormat::Text
            }
        };
        Log { format, filter: self.text("log.filter").unwrap_or_default().to_owned() }
    }

    fn settings(&self) -> Vec<Setting> {
        KEYS.iter()
            .map(|key| Setting {
                key: key.name,
                value: self.text(key.name).map(|text| shown(text, key.shown)),
                source: self.values.get(key.name).map_or(Source::Default, |value| value.source.clone()),
            })
            .collect()
    }

    fn into_config(mut self) -> Result<Config, ConfigError> {
        let livemode = self.switch("livemode");
        let listen = self.address("server.listen");
        let config = Config {
            livemode,
            database: Database {
                url: self.database_url(),
                max_connections: self.number("database.max_connections", 2..=10_000),
            },
            server: Server {
                listen,
                ops_listen: self.address("server.ops_listen"),
                public_url: self.public_url(listen),
                trusted_proxies: self.networks("server.trusted_proxies"),
                roles: self.roles(),
                max_body_bytes: self.number("server.max_body_bytes", 1_024..=16 * 1_048_576),
                max_connections: self.number("server.max_connections", 1..=100_000),
                header_timeout: self.seconds("server.header_timeout_s", 300),
                body_timeout: self.seconds("server.body_timeout_s", 300),
                write_timeout: self.seconds("server.write_timeout_s", 300),
                idle_timeout: self.seconds("server.idle_timeout_s", 3_600),
                drain: self.seconds("server.drain_s", 3_600),
            },
            receive: Receive {
                queue_events: self.number("receive.queue_events", 1..=1_000_000),
                batch_events: self.number("receive.batch_events", 1..=4_096),
                writers: self.number("receive.writers", 1..=64),
            },
            process: Process {
                batch_events: self.number("process.batch_events", 1..=10_000),
                max_attempts: self.number("process.max_attempts", 1..=100),
            },
            dispatch: Dispatch {
                concurrency: self.number("dispatch.concurrency", 1..=1_024),
                rate_per_s: self.number("dispatch.rate_per_s", 1..=1_000),
            },
            stripe: Stripe {
                webhook_secrets: self.webhook_secrets("stripe.webhook_secrets", Some("whsec_")),
                tolerance_s: self.number("stripe.tolerance_s", 1..=86_400),
                secret_key: self.secret_key(livemode),
                api_base: self.api_base(),
                timeout: self.seconds("stripe.timeout_s", 300),
            },
            paddle: Paddle {
                webhook_secrets: self.webhook_secrets("paddle.webhook_secrets", None),
                tolerance_s: self.number("paddle.tolerance_s", 1..=86_400),
            },
            master_key: self.master_key(),
            attribution_keys: self.list("attribution.keys"),
            subject_keys: self.list("attribution.subject_keys"),
            keep_clicks_days: self.number("attribution.keep_clicks_days", 1..=3_650),
            payouts_live: self.switch("payouts.live"),
            witness_file: self.path("payouts.witness_file"),
            payments_enabled: self.switch("payments.enabled"),
            programs: Programs {
                multi_level: self.switch("programs.multi_level"),
                merge_grace_s: self.number("programs.merge_grace_s", 0..=30 * 86_400),
                public_signup: self.switch("programs.public_signup"),
            },
            mail: self.mail(),
            log: self.log(),
            settings: self.settings(),
        };
        for (name, keys) in [
            ("attribution.keys", &config.attribution_keys),
            ("attribution.subject_keys", &config.subject_keys),
        ] {
            if keys.iter().any(String::is_empty) {
                self.reject(name, "holds an empty key", "remove it, or the comma beside it");
            }
        }
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// A value of the file as the environment would write it.
fn file_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .into_iter()
                .map(|item| match item {
                    toml::Value::String(text) if !text.contains(',') => Some(text),
                    _ => None,
                })
                .collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn unknown(written_as: &str, name: &str, source: &Source) -> Problem {
    let spell: fn(&str) -> String = match source {
        Source::Environment(_) => variable,
        Source::Default | Source::File | Source::Flag => str::to_owned,
    };
    let (near, _) = nearest(&spell(name), KEYS.iter().map(|key| spell(key.name)));
    problem(written_as, "is not a setting", format!("did you mean `{near}`? Otherwise remove it"))
}

/// The candidate with the fewest edits from `text`, and how many.
fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> (String, usize) {
    candidates
        .map(|candidate| {
            let edits = edits(text, &candidate);
            (candidate, edits)
        })
        .min_by_key(|(_, edits)| *edits)
        .unwrap_or_default()
}

/// Levenshtein distance, by bytes: names are ASCII.
fn edits(from: &str, to: &str) -> usize {
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.bytes().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.bytes().enumerate() {
            let replaced = above[column] + usize::from(a != b);
            current.push(replaced.min(above[column + 1] + 1).min(current[column] + 1));
        }
        above = current;
    }
    above[to.len()]
}

/// A value fit to be shown.
fn shown(text: &str, shown: Shown) -> String {
    match shown {
        Shown::Plain => text.to_owned(),
        Shown::Secret => "(set)".to_owned(),
        Shown::Url => match reqwest::Url::parse(text) {
            // Query parameters may carry a password too (`?password=`), so they are left out.
            Ok(mut url) if url.scheme().starts_with("postgres") || url.scheme().starts_with("smtp") => {
                url.set_query(None);
                if url.password().is_some() && url.set_password(Some("***")).is_err() {
                    return "(set)".to_owned();
                }
                url.to_string()
            }
            _ if text.starts_with("sqlite:") => text.to_owned(),
            _ => "(set)".to_owned(),
        },
    }
}
