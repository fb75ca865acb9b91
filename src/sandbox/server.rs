//! HTTP/1.1 around the state: connections that can be reset after any byte, requests that hang, and the
//! task that delivers webhooks.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, State, connect_info::Connected},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    WebhookTime,
    api::{self, Ending, Outcome, Reply, Request},
    control, webhooks,
    world::World,
};

/// How often the delivering task looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What all requests share.
pub(super) struct Shared {
    world: Mutex<World>,
    /// Counts calls of `POST /_sandbox/release`.
    pub(super) release: watch::Sender<u64>,
    /// Requests that hang now.
    pub(super) hanging: watch::Sender<usize>,
    pub(super) stop: CancellationToken,
    /// Something may have become due.
    pub(super) wake: Notify,
    /// An attempt to deliver has ended.
    pub(super) attempted: Notify,
    pub(super) client: reqwest::Client,
    pub(super) webhook_time: WebhookTime,
}

impl Shared {
    pub(super) fn new(world: World, client: reqwest::Client, webhook_time: WebhookTime) -> Self {
        Self {
            world: Mutex::new(world),
            release: watch::Sender::new(0),
            hanging: watch::Sender::new(0),
            stop: CancellationToken::new(),
            wake: Notify::new(),
            attempted: Notify::new(),
            client,
            webhook_time,
        }
    }

    /// Works on the state where blocking is allowed, because the journal reaches the disk under the lock.
    /// The work is done even when the caller goes away.
    pub(super) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> T {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || shared.with_blocking(work)).await;
        done.expect("work on the state does not panic, and the runtime outlives it")
    }

    /// As [`Self::with`], for short work where waiting for the lock is no harm.
    pub(super) fn with_blocking<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the next release; `false` when the sandbox stops instead. `hang` is told how it ended.
    async fn released(&self, hang: Option<Hang>) -> bool {
        let mut releases = self.release.subscribe();
        // Only now is it counted: whoever releases after seeing the count releases this one.
        let _counted = Counted::new(&self.hanging);
        // Dropped before the count goes down: who sees it go down finds the end in the journal.
        let mut hang = hang;
        let is_released = tokio::select! {
            changed = releases.changed() => changed.is_ok(),
            () = self.stop.cancelled() => false,
        };
        if let Some(hang) = &mut hang {
            hang.how = if is_released { "released" } else { "shutdown" };
        }
        is_released
    }
}

/// A request that hangs, also counted out when its future is dropped because the client left.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Serves until `stop`; connections that are open then are finished.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    let stop = shared.stop.clone();
    let app = Router::new()
        .nest("/_sandbox", control::routes())
        .fallback(answer)
        .with_state(shared)
        .into_make_service_with_connect_info::<Wire>();
    axum::serve(Gate(listener), app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Delivers webhooks as they become due, until `stop`.
pub(super) async fn deliver(shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        let round = async {
            webhooks::flush(&shared).await;
            tokio::select! {
                () = shared.wake.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        };
        shared.stop.run_until_cancelled(round).await;
    }
}

/// Every request of the provider's API.
async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // A value that is no text still counts: a key that is passed over would pay twice.
    let text =
        |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let request = Request {
        method: method.as_str().to_owned(),
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        authorization: text(header::AUTHORIZATION.as_str()),
        idempotency_key: text("idempotency-key"),
        stripe_account: text("stripe-account"),
        stripe_version: text("stripe-version"),
        content_type: text(header::CONTENT_TYPE.as_str()),
        body,
    };
    let outcome = shared.with(|world| api::handle(world, request)).await;
    shared.wake.notify_one();
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Held(held) => {
            // A task of its own: the client may leave, and the execution happens all the same.
            let waiting = Arc::clone(&shared);
            let task = tokio::spawn(async move {
                if !waiting.released(None).await {
                    return None;
                }
                let reply = waiting.with(|world| api::finish(world, *held)).await;
                waiting.wake.notify_one();
                Some(reply)
            });
            match task.await {
                Ok(Some(reply)) => reply,
                Ok(None) | Err(_) => return reset(&wire, 0),
            }
        }
    };
    if reply.announced_first {
        webhooks::deliver_of_request(&shared, reply.request_id.clone()).await;
    }
    match reply.ending {
        Ending::Whole => respond(reply),
        Ending::ResetAt(bytes) => {
            wire.reset_after(bytes);
            respond(reply)
        }
        Ending::Hang => {
            let hang = Hang { shared: Arc::clone(&shared), request_id: reply.request_id, how: "client_left" };
            shared.released(Some(hang)).await;
            reset(&wire, 0)
        }
    }
}

/// Writes down how a hanging request ended, also when the client leaves and the handler is dropped.
struct Hang {
    shared: Arc<Shared>,
    request_id: String,
    how: &'static str,
}

impl Drop for Hang {
    fn drop(&mut self) {
        let (request_id, how) = (&self.request_id, self.how);
        self.shared.with_blocking(|world| api::hang_ended(world, request_id, how));
    }
}

fn respond(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = status;
    for (name, value) in reply.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn reset(wire: &Wire, after_bytes: usize) -> Response {
    wire.reset_after(after_bytes);
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// The listener; its connections can be reset.
struct Gate(TcpListener);

impl Listener for Gate {
    type Io = Connection;
    type Addr = Wire;

    async fn accept(&mut self) -> (Connection, Wire) {
        let (stream, _) = Listener::accept(&mut self.0).await;
        // Small answers must not wait for each other.
        drop(stream.set_nodelay(true));
        let wire = Wire::default();
        (Connection { stream, wire: wire.clone() }, wire)
    }

    fn local_addr(&self) -> io::Result<Wire> {
        Ok(Wire::default())
    }
}

/// How many bytes a connection may still write; clones share it.
#[derive(Clone, Debug)]
struct Wire(Arc<AtomicUsize>);

impl Wire {
    const UNLIMITED: usize = usize::MAX;

    fn reset_after(&self, bytes: usize) {
        self.0.store(bytes, Ordering::SeqCst);
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(Self::UNLIMITED)))
    }
}

impl Connected<IncomingStream<'_, Gate>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A TCP stream that is reset once its [`Wire`] has no bytes left.
struct Connection {
    stream: TcpStream,
    wire: Wire,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            // The limit was for an answer, and this is the next request.
            self.wire.reset_after(Wire::UNLIMITED);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.wire.0.load(Ordering::SeqCst);
        if left == Wire::UNLIMITED {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        if left == 0 && !buf.is_empty() {
            // Closing with this set sends a reset in place of an orderly end.
            drop(self.stream.set_zero_linger());
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let length = buf.len().min(left);
        let written = Pin::new(&mut self.stream).poll_write(cx, &buf[..length]);
        if let Poll::Ready(Ok(bytes)) = written {
            self.wire.reset_after(left - bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Binds the address.
pub(super) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
