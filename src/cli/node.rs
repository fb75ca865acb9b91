//! A running node: listeners, receiver and stages, and the order in which they stop.
//!
//! `serve` and `demo` run the same node. A drain stops accepting, answers what is under way, commits
//! what the receiver holds, lets each stage finish its step, and keeps health and metrics up until then.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::context::Opened;
use crate::{
    app::{
        App,
        clicks::{self, Clicks},
        dispatch::Dispatcher,
        instance, store_events, worker,
    },
    config::Role,
    http::{
        self, openapi, ops,
        serve::{Limits, serve},
        webhooks,
    },
    mail::Mailer,
    shutdown::{Drained, Shutdown},
    store::StoreError,
    telemetry,
    transport::Transport,
};

/// What the stages and the last commits may take beyond the requests under way.
const BEYOND_REQUESTS: Duration = Duration::from_secs(5);

/// A node that has started.
pub(super) struct Node {
    /// Where webhooks and the API are.
    pub public: SocketAddr,
    /// Where health and metrics are.
    pub ops: SocketAddr,
    app: App,
    shutdown: Shutdown,
    end_ops: CancellationToken,
    ops_task: JoinHandle<()>,
    schema_task: JoinHandle<Result<(), StoreError>>,
}

/// Binds both listeners and starts the roles of the configuration. The schema must be current.
pub(super) async fn start(
    opened: Opened,
    metrics: PrometheusHandle,
    shutdown: &Shutdown,
) -> anyhow::Result<Node> {
    let Opened { app, clock } = opened;
    let public = bind(app.config.server.listen, "server.listen").await?;
    let ops = bind(app.config.server.ops_listen, "server.ops_listen").await?;
    let (public_address, ops_address) = (public.local_addr()?, ops.local_addr()?);

    // Before anything can be sent: a database that went back in time pauses its payouts here.
    instance::beat(&app).await?;
    start_public(&app, public, shutdown);
    start_stages(&app, shutdown)?;
    let draining = shutdown.draining();
    shutdown.spawn(worker::run_gauges(app.clone(), draining.clone()));
    shutdown.spawn(worker::run_clock(app.db.clone(), clock, draining.clone()));
    let schema_task = shutdown.spawn(worker::run_schema(app.db.clone(), draining.clone()));

    let end_ops = CancellationToken::new();
    tokio::spawn(telemetry::upkeep(metrics.clone(), end_ops.clone()));
    let routes = ops::routes(ops::StoreProbe(app.db.clone()), metrics, draining.clone());
    let limits = Limits::from(&app.config.server);
    let ops_task = tokio::spawn(serve(ops, routes, limits, end_ops.clone()));
    let shutdown = shutdown.clone();
    Ok(Node { public: public_address, ops: ops_address, app, shutdown, end_ops, ops_task, schema_task })
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (`{setting}`)"))
}

/// Serves the public listener until the drain, then closes what writes for requests behind the last one.
fn start_public(app: &App, listener: TcpListener, shutdown: &Shutdown) {
    let clicks = Clicks::start(app, clicks::LIMITS, shutdown.tasks());
    let mut routes = http::api(app, &clicks);
    let mut committer = None;
    if app.config.has_role(Role::Receive) {
        let (receiver, started) = store_events::start_receiver(app, shutdown.tasks());
        routes = routes.merge(webhooks::routes(receiver, app.config.server.max_body_bytes));
        committer = Some(started);
    }
    let requests = TaskTracker::new();
    let edge = http::edge(openapi::described(routes), &requests);
    let limits = Limits::from(&app.config.server);
    let draining = shutdown.draining().clone();
    shutdown.spawn(async move {
        serve(listener, edge, limits, draining).await;
        // A request whose client went away is still under way after its connection has closed.
        requests.close();
        requests.wait().await;
        clicks.close();
        if let Some(committer) = committer {
            committer.close();
        }
    });
}

fn start_stages(app: &App, shutdown: &Shutdown) -> anyhow::Result<()> {
    if app.config.has_role(Role::Process) {
        shutdown.spawn(worker::run_process(app.clone(), shutdown.draining().clone()));
    }
    if app.config.has_role(Role::Schedule) {
        shutdown.spawn(worker::run_release(app.clone(), shutdown.draining().clone()));
        shutdown.spawn(worker::run_beat(app.clone(), shutdown.draining().clone()));
        shutdown.spawn(worker::run_purge(app.clone(), shutdown.draining().clone()));
        shutdown.spawn(worker::run_settle(app.clone(), shutdown.draining().clone()));
    }
    if app.config.has_role(Role::Dispatch) {
        let transport = Transport::new(&app.config.stripe)?;
        let stop = shutdown.draining().clone();
        let dispatcher = Dispatcher::new(app.clone(), transport, shutdown.tasks().clone(), stop.clone());
        shutdown.spawn(worker::run_dispatch(dispatcher, app.clone(), stop.clone()));
        if let Some(mail) = &app.config.mail {
            if app.config.mails_lead_nowhere() {
                tracing::warn!(
                    server.public_url = app.config.server.public_url,
                    "invitations are mailed with an address that nobody else reaches; set `server.public_url` \
                     to where the world finds `server.listen`, or `mail.invite_url`"
                );
            }
            let mailer = Arc::new(Mailer::new(mail)?);
            shutdown.spawn(worker::run_mail(app.clone(), mailer, stop));
        }
    }
    Ok(())
}

impl Node {
    /// The surroundings of its stages.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Waits for the drain to begin and for everything under way to end.
    ///
    /// An error when nobody asked for the drain: the schema of the database is another one by now.
    pub async fn finish(self) -> anyhow::Result<Drained> {
        self.shutdown.draining().cancelled().await;
        let grace = self.app.config.server.drain + BEYOND_REQUESTS;
        let drained = self.shutdown.wait(grace).await;
        self.end_ops.cancel();
        if let Err(error) = self.ops_task.await {
            tracing::error!(panicked = error.is_panic(), "the ops listener did not end cleanly");
        }
        // Behind the last user of a connection, so that SQLite folds its log into the file.
        if drained == Drained::Clean {
            self.app.db.close().await;
            // One of the tasks that have all ended.
            self.schema_task.await?.context("the schema was changed while this node ran")?;
        }
        Ok(drained)
    }
}
