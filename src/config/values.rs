//! What each setting may be: from the text of the layers to a checked [`Config`].

use std::{collections::BTreeSet, net::SocketAddr};

use base64::Engine as _;
use secrecy::{SecretBox, SecretString};

use super::{
    Config, ConfigError, Database, Dispatch, KEYS, Log, LogFormat, MasterKey, Network, Paddle, Process,
    Programs, Receive, Role, STRIPE_API_BASE, Server, Setting, Source, Stripe, keys::shown, layers::Layers,
};

impl Layers<'_> {
    pub(super) fn into_config(mut self) -> Result<Config, ConfigError> {
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
}

pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Whether an address means whoever uses it: a loopback address, or the one of listening everywhere.
pub(super) fn is_this_machine(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    is_loopback(url) || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_unspecified())
}
