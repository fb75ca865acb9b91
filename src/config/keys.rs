//! The settings that exist, with their defaults, their spellings and how they are shown.

use super::{
    STRIPE_API_BASE,
    problems::{Problem, Source, problem},
};

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
    Key { name: "mail.ca_file", default: None, shown: Shown::Plain },
    Key { name: "mail.invite_url", default: None, shown: Shown::Plain },
    key("mail.timeout_s", "30"),
    key("log.format", "text"),
    key("log.filter", "info,sqlx=warn,sqlx::postgres::notice=warn,hyper=warn"),
];

/// Variables that look like settings and are not: the path of the file, and two that only tests read.
pub(super) const OTHER_VARIABLES: [&str; 3] =
    ["REMIT_CONFIG", "REMIT_TEST_DATABASE_URL", "REMIT_CONFORMANCE_DIR"];

/// The variable of a setting: `stripe.api_base` is `REMIT_STRIPE__API_BASE`.
pub(super) fn variable(name: &str) -> String {
    format!("REMIT_{}", name.replace('.', "__").to_ascii_uppercase())
}

pub(super) fn find_key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The setting whose secret the file setting `name` points to.
pub(super) fn file_setting(name: &str) -> Option<&'static Key> {
    name.strip_suffix("_file").and_then(find_key).filter(|key| key.shown != Shown::Plain)
}

pub(super) fn unknown(written_as: &str, name: &str, source: &Source) -> Problem {
    let spell: fn(&str) -> String = match source {
        Source::Environment(_) => variable,
        Source::Default | Source::File | Source::Flag => str::to_owned,
    };
    let (near, _) = nearest(&spell(name), KEYS.iter().map(|key| spell(key.name)));
    problem(written_as, "is not a setting", format!("did you mean `{near}`? Otherwise remove it"))
}

/// The candidate with the fewest edits from `text`, and how many.
pub(super) fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> (String, usize) {
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
pub(super) fn shown(text: &str, shown: Shown) -> String {
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
