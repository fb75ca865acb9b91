//! `remit sandbox`: a payment provider to test against. What it can do is told in `crate::sandbox`.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::json;

use super::{Format, Global, context::UsageError, output, run::Exit};
use crate::{
    config::{Log, LogFormat},
    sandbox::{Options, Sandbox, WebhookEndpoint, WebhookTime},
    shutdown::Shutdown,
    telemetry,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where webhooks are sent; may be repeated
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    webhook_url: Vec<String>,
    /// Where webhooks about connected accounts are sent [default: like all others]
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    connect_webhook_url: Vec<String>,
    /// Secret that webhooks are signed with
    #[arg(long, value_name = "SECRET", env = "REMIT_SANDBOX_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// Secret for webhooks about connected accounts [default: that of the others]
    #[arg(long, value_name = "SECRET", requires = "connect_webhook_url")]
    connect_webhook_secret: Option<String>,
    /// Whose time signatures carry: a receiver compares with its own clock
    #[arg(long, value_enum, default_value_t = Time::Machine)]
    webhook_time: Time,
    /// Send webhooks that are due together in a random order
    #[arg(long)]
    shuffle_webhooks: bool,
    /// What ids and orders follow from
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// File that every request and every effect is appended to
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Secret key that is accepted; may be repeated [default: every key of the right form]
    #[arg(long, value_name = "KEY", env = "REMIT_SANDBOX_SECRET_KEY", hide_env_values = true)]
    secret_key: Vec<String>,
    /// Time to start at, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    start_at: Option<String>,
    /// Let time pass by `POST /_sandbox/clock` only
    #[arg(long)]
    frozen: bool,
}

/// Whose time signatures carry.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Time {
    /// That of this machine.
    Machine,
    /// That of the sandbox.
    Sandbox,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let filter = if global.quiet { "error" } else { "warn" };
    telemetry::init_logs(&Log { format: LogFormat::Text, filter: filter.to_owned() })?;
    let shutdown = Shutdown::new();
    shutdown.obey_signals()?;
    let running = Sandbox::start(options(args)?).await?;
    // Scripts that asked for port 0 read the address from this line.
    match global.output {
        Format::Json => output::line(&json!({ "data": { "url": running.url() } }).to_string())?,
        Format::Table => output::line(&format!("sandbox listens on {}", running.url()))?,
    }
    shutdown.draining().cancelled().await;
    running.stop().await;
    Ok(Exit::Ok)
}

fn options(args: Args) -> Result<Options, UsageError> {
    let start_us = args.start_at.map(|text| {
        let start = text.parse::<jiff::Timestamp>();
        start.map(jiff::Timestamp::as_microsecond).map_err(|error| UsageError(format!("--start-at: {error}")))
    });
    let secret = args.webhook_secret.unwrap_or_default();
    let connect_secret = args.connect_webhook_secret.unwrap_or_else(|| secret.clone());
    let ours = args.webhook_url.into_iter().map(|url| (url, secret.clone(), false));
    let theirs = args.connect_webhook_url.into_iter().map(|url| (url, connect_secret.clone(), true));
    let webhooks = ours.chain(theirs).map(|(url, secret, connect)| WebhookEndpoint { url, secret, connect });
    Ok(Options {
        listen: args.listen,
        webhooks: webhooks.collect(),
        webhook_time: match args.webhook_time {
            Time::Machine => WebhookTime::Machine,
            Time::Sandbox => WebhookTime::Sandbox,
        },
        shuffle_webhooks: args.shuffle_webhooks,
        seed: args.seed,
        journal: args.journal,
        secret_keys: args.secret_key,
        start_us: start_us.transpose()?,
        frozen: args.frozen,
        ..Options::default()
    })
}
