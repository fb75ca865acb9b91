//! `remit demo`: everything at once on a throwaway database. It needs no account and no network but
//! loopback, and it runs the same node as `serve`, with the provider sandbox in the same process.

mod provider;
mod show;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use self::provider::Provider;
use super::{Global, context::Context, node, run::Exit};
use crate::{
    app::{
        App,
        demo::{self, COMES_BACK, Delivery, Demo, LOSES_ANSWER, NotPaid, Outcome},
        doctor,
    },
    config::{Config, Log},
    shutdown::{Drained, Shutdown},
    store::inbox::{self, InboxState},
    telemetry,
};

/// Deliveries under way at once.
const CONCURRENT: usize = 8;
/// Each step is done in a second or two; beyond this something is broken.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End after the table instead of staying up
    #[arg(long)]
    exit: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let directory = Scratch::create()?;
    let secret = format!("whsec_{:032x}", crate::app::random_u128());
    let provider = Provider::start().await?;
    let config = configure(directory.path(), &secret, &provider)?;
    let filter = if global.quiet { "error" } else { "warn" };
    telemetry::init_logs(&Log { format: config.log.format, filter: filter.to_owned() })?;
    let context = Context { config: Arc::new(config), format: global.output, quiet: global.quiet };
    let metrics = telemetry::init_metrics()?;
    let shutdown = Shutdown::new();
    shutdown.obey_signals()?;

    let db = context.connect().await?;
    db.migrate().await?;
    let node = node::start(context.opened(db).await?, metrics, &shutdown).await?;
    let (base, sandbox) = (format!("http://{}", node.public), provider.url());
    context.say(&format!("a node listens on {base} (ops: http://{}), the provider on {sandbox}", node.ops));
    provider.tell(format!("{base}/webhooks/stripe"), &secret).await?;

    let exit = tell(&context, node.app(), &base, &secret.into(), &provider).await?;
    if args.exit {
        shutdown.begin();
    } else {
        context.say(&format!(
            "look around: curl http://{}/metrics, curl {sandbox}/_sandbox/journal; Ctrl-C ends the \
             demonstration and removes its database",
            node.ops
        ));
    }
    let drained = node.finish().await;
    provider.stop().await;
    match drained? {
        Drained::Clean => Ok(exit),
        Drained::Cut(_) => Ok(Exit::Failed),
    }
}

/// A configuration of its own: nothing of the real one may leak into a demonstration.
fn configure(directory: &Path, secret: &str, provider: &Provider) -> anyhow::Result<Config> {
    let master_key = format!("{:032x}{:032x}", crate::app::random_u128(), crate::app::random_u128());
    let settings = [
        ("database.url", format!("sqlite://{}", directory.join("demo.db").display())),
        ("server.listen", "127.0.0.1:0".to_owned()),
        ("server.ops_listen", "127.0.0.1:0".to_owned()),
        ("stripe.webhook_secrets", secret.to_owned()),
        ("stripe.secret_key", provider.secret_key.clone()),
        ("stripe.api_base", provider.url()),
        ("paddle.webhook_secrets", secret.to_owned()),
        ("payouts.live", "true".to_owned()),
        ("secrets.master_key", master_key),
        // Nothing has to be waited for: what is earned is payable as soon as it is booked.
        ("programs.merge_grace_s", "0".to_owned()),
    ];
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Ok(Config::load(None, [], settings, read)?)
}

/// Prepares the books, delivers the events, pays, and shows what came of it.
async fn tell(
    context: &Context,
    app: &App,
    base: &str,
    secret: &SecretString,
    provider: &Provider,
) -> anyhow::Result<Exit> {
    let demo = Demo::prepare(app, secret).await?;
    context.say(&format!(
        "delivering {} events, each twice and in no particular order, as signed webhooks",
        demo.events()
    ));
    deliver(base, demo.deliveries(secret, app.now())).await?;
    until("the events were processed", async || is_processed(app).await).await?;

    let not_paid = pay(context, app, &demo, provider).await?;
    let outcome = demo.outcome(app).await?;
    show::show(context.format, &outcome, &not_paid)?;

    let faults = faults(app, &demo, &outcome, provider).await?;
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        context.say("every balance and every payout is the one that was worked out by hand");
        context.say("the provider has moved exactly that, and `doctor` finds nothing");
        Ok(Exit::Ok)
    } else {
        Ok(Exit::Failed)
    }
}

/// A payday: funds that are short until somebody adds some, an answer that is lost, and a transfer that
/// comes back in part.
async fn pay(context: &Context, app: &App, demo: &Demo, provider: &Provider) -> anyhow::Result<Vec<NotPaid>> {
    for payee in demo.payees() {
        let account = provider.open_account().await?;
        demo.pay_to(app, payee, &account).await?;
        if payee.name == LOSES_ANSWER {
            provider.lose_answer(&account).await?;
        }
    }
    context.say("settling every program; one answer of the provider is lost, and funds are short");
    let not_paid = demo.settle(app).await?;
    until("what the funds cover was paid", async || {
        Ok(demo.payouts(app).await?.iter().all(|payout| !payout.is_under_way() || payout.waits_for_funds()))
    })
    .await?;

    let (affiliate, currency, amount) = COMES_BACK;
    let payouts = demo.payouts(app).await?;
    let paid = payouts.iter().find(|line| {
        line.affiliate == affiliate && line.due.currency.as_str() == currency && line.transfer_id.is_some()
    });
    let transfer = paid.and_then(|line| line.transfer_id.as_deref()).context("nothing could come back")?;
    context.say("adding funds, and taking part of a transfer back");
    provider.add_funds(demo::MORE_FUNDS).await?;
    provider.take_back(transfer, amount).await?;
    until("everybody was paid and part of it came back", async || {
        let payouts = demo.payouts(app).await?;
        let came_back: i64 = payouts.iter().map(|payout| payout.came_back.minor).sum();
        Ok(came_back == amount && payouts.iter().all(|payout| !payout.is_under_way()))
    })
    .await?;
    // Nothing that the provider has still to say may change anything.
    provider.told().await?;
    until("the provider's events were processed", async || is_processed(app).await).await?;
    Ok(not_paid)
}

/// What is not as it should be: by hand, by the provider, and by the books themselves.
async fn faults(
    app: &App,
    demo: &Demo,
    outcome: &Outcome,
    provider: &Provider,
) -> anyhow::Result<Vec<String>> {
    let differences = demo.differences(outcome).into_iter().map(|difference| {
        let demo::Difference { shop, affiliate, expected, found } = difference;
        format!("{shop}: {affiliate} should have {expected}, and has {found}")
    });
    let mut faults: Vec<String> = differences.collect();
    let booked: BTreeMap<String, i64> = outcome
        .payouts
        .iter()
        .filter_map(|line| Some((line.transfer_id.clone()?, line.send.minor - line.came_back.minor)))
        .collect();
    let moved = provider.moved().await?;
    if moved != booked {
        faults.push(format!("the provider has moved {moved:?}, and the books say {booked:?}"));
    }
    let broken = doctor::examine(app).await?.into_iter();
    faults.extend(broken.map(|it| format!("doctor: {} {}: {}", it.invariant, it.object, it.detail)));
    Ok(faults)
}

/// Posts the deliveries, a few at a time, as a provider does.
async fn deliver(base: &str, deliveries: Vec<Delivery>) -> anyhow::Result<()> {
    // The first call installs it; another caller's choice is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut rest = deliveries.into_iter();
    let mut under_way = tokio::task::JoinSet::new();
    loop {
        while under_way.len() < CONCURRENT
            && let Some(delivery) = rest.next()
        {
            let request = client
                .post(format!("{base}{}", delivery.path))
                .header(delivery.header, delivery.signature)
                .header("content-type", "application/json")
                .body(delivery.body);
            under_way.spawn(async move { request.send().await.map(|answer| answer.status()) });
        }
        let Some(answered) = under_way.join_next().await else { return Ok(()) };
        let status = answered?.context("a delivery was not answered")?;
        if status != reqwest::StatusCode::OK {
            bail!("a delivery was answered {status}");
        }
    }
}

/// Waits for something that is about to be so.
async fn until(what: &str, is_so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let waiting = async {
        while !is_so().await? {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    let patience = PATIENCE.as_secs();
    timeout(PATIENCE, waiting).await.with_context(|| format!("not within {patience} s: {what}"))?
}

async fn is_processed(app: &App) -> anyhow::Result<bool> {
    let counts = inbox::count_by_state(&mut app.db.read().await?).await?;
    Ok(!counts.iter().any(|(state, _)| state == InboxState::Received.as_str()))
}

/// A directory for the throwaway database, removed when the demonstration ends.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> anyhow::Result<Self> {
        let name = format!("remit-demo-{:032x}", crate::app::random_u128());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "the demonstration's directory stays");
        }
    }
}
