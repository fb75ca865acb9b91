//! `remit demo`: everything at once on a throwaway database. It needs no account and no network but
//! loopback, and it runs the same node as `serve`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use super::{Format, Global, context::Context, node, output, run::Exit};
use crate::{
    app::{
        App,
        demo::{Delivery, Demo, Line},
    },
    config::{Config, Log},
    domain::money::Money,
    shutdown::{Drained, Shutdown},
    store::inbox::{self, InboxState},
    telemetry,
};

/// Deliveries under way at once.
const CONCURRENT: usize = 8;
/// The books of a few dozen events are done in well under a second; beyond this something is broken.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the inbox is looked at meanwhile.
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
    let config = configure(directory.path(), &secret)?;
    let filter = if global.quiet { "error" } else { "warn" };
    telemetry::init_logs(&Log { format: config.log.format, filter: filter.to_owned() })?;
    let context = Context { config: Arc::new(config), format: global.output, quiet: global.quiet };
    let metrics = telemetry::init_metrics()?;
    let shutdown = Shutdown::new();
    shutdown.obey_signals()?;

    let db = context.connect().await?;
    db.migrate().await?;
    let node = node::start(context.opened(db).await?, metrics, &shutdown).await?;
    context.say(&format!("a node listens on http://{} (ops: http://{})", node.public, node.ops));

    let exit = tell(&context, node.app(), &format!("http://{}", node.public), &secret.into()).await?;
    if args.exit {
        shutdown.begin();
    } else {
        context.say(&format!(
            "look around: curl http://{}/metrics; Ctrl-C ends the demonstration and removes its database",
            node.ops
        ));
    }
    match node.finish().await {
        Drained::Clean => Ok(exit),
        Drained::Cut(_) => Ok(Exit::Failed),
    }
}

/// A configuration of its own: nothing of the real one may leak into a demonstration.
fn configure(directory: &Path, secret: &str) -> anyhow::Result<Config> {
    let master_key = format!("{:032x}{:032x}", crate::app::random_u128(), crate::app::random_u128());
    let settings = [
        ("database.url", format!("sqlite://{}", directory.join("demo.db").display())),
        ("server.listen", "127.0.0.1:0".to_owned()),
        ("server.ops_listen", "127.0.0.1:0".to_owned()),
        ("stripe.webhook_secrets", secret.to_owned()),
        ("paddle.webhook_secrets", secret.to_owned()),
        ("secrets.master_key", master_key),
        // Nothing has to be waited for: what is earned is payable as soon as it is booked.
        ("programs.merge_grace_s", "0".to_owned()),
    ];
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Ok(Config::load(None, [], settings, read)?)
}

/// Prepares the books, delivers the events and shows what came of them.
async fn tell(context: &Context, app: &App, base: &str, secret: &SecretString) -> anyhow::Result<Exit> {
    let demo = Demo::prepare(app, secret).await?;
    let deliveries = demo.deliveries(secret, app.now());
    context.say(&format!(
        "delivering {} events, each twice and in no particular order, as signed webhooks",
        demo.events()
    ));
    deliver(base, deliveries).await?;
    let Ok(processed) = timeout(PATIENCE, wait_until_processed(app)).await else {
        bail!("the events were not processed within {} s", PATIENCE.as_secs());
    };
    processed?;
    let lines = demo.outcome(app).await?;
    show(context, &lines)?;
    let differences = demo.differences(&lines);
    for difference in &differences {
        eprintln!(
            "{}: {} should have held {} and payable {}, and has {} and {}",
            difference.shop,
            difference.affiliate,
            difference.expected.0,
            difference.expected.1,
            difference.found.0,
            difference.found.1
        );
    }
    if differences.is_empty() {
        context.say("every balance is the one that was worked out by hand");
        Ok(Exit::Ok)
    } else {
        Ok(Exit::Failed)
    }
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

async fn wait_until_processed(app: &App) -> anyhow::Result<()> {
    loop {
        let counts = inbox::count_by_state(&mut app.db.read().await?).await?;
        if !counts.iter().any(|(state, _)| state == InboxState::Received.as_str()) {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn show(context: &Context, lines: &[Line]) -> anyhow::Result<()> {
    if context.format == Format::Json {
        let rows: Vec<_> = lines
            .iter()
            .map(|line| {
                serde_json::json!({
                    "shop": line.shop, "affiliate": line.affiliate, "sale": line.sale,
                    "currency": line.earned.currency, "earned": line.earned.minor,
                    "clawed": line.clawed.minor, "held": line.held.minor, "payable": line.payable.minor,
                    "state": line.state, "why": line.why,
                })
            })
            .collect();
        return Ok(output::list(context.format, &rows, None, &[])?);
    }
    for shop in lines.chunk_by(|a, b| a.shop == b.shop) {
        output::line(&format!("\n{}", shop[0].shop))?;
        output::table(
            &["affiliate", "sale", "earned", "clawed", "held", "payable", "why"],
            shop.iter().map(|line| {
                let sale = line.sale.map_or_else(|| "-".to_owned(), |sale| sale.to_string());
                let mut cells = vec![line.affiliate.clone(), sale];
                cells.extend(
                    [line.earned, line.clawed, line.held, line.payable].map(|money| money.to_string()),
                );
                cells.push(line.why.clone());
                cells
            }),
        )?;
    }
    output::line("\nTotals")?;
    output::table(
        &["affiliate", "earned", "clawed", "held", "payable", "shop"],
        totals(lines).into_iter().map(|total| {
            let mut cells = vec![total.affiliate];
            cells.extend(
                [total.earned, total.clawed, total.held, total.payable].map(|money| money.to_string()),
            );
            cells.push(total.shop);
            cells
        }),
    )?;
    Ok(())
}

struct Total {
    shop: String,
    affiliate: String,
    earned: Money,
    clawed: Money,
    held: Money,
    payable: Money,
}

/// Sums per shop, affiliate and currency. Lines of one affiliate follow each other.
fn totals(lines: &[Line]) -> Vec<Total> {
    let mut totals: Vec<Total> = Vec::new();
    for line in lines {
        let add = |sum: &mut Money, more: Money| sum.minor = sum.minor.saturating_add(more.minor);
        let same = |total: &&mut Total| {
            total.shop == line.shop
                && total.affiliate == line.affiliate
                && total.earned.currency == line.earned.currency
        };
        if let Some(total) = totals.iter_mut().find(same) {
            add(&mut total.earned, line.earned);
            add(&mut total.clawed, line.clawed);
            add(&mut total.held, line.held);
            add(&mut total.payable, line.payable);
        } else {
            totals.push(Total {
                shop: line.shop.clone(),
                affiliate: line.affiliate.clone(),
                earned: line.earned,
                clawed: line.clawed,
                held: line.held,
                payable: line.payable,
            });
        }
    }
    totals
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
