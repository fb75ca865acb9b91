//! The accept loop: HTTP/1.1 over TCP with a limit on everything a client can hold open.
//!
//! `axum::serve` sets no timer, which leaves hyper's header timeout without effect (`reliability.md`
//! finding 8), and has no limit on connections; hence this loop. It speaks no HTTP/2 (whose floods need
//! defences of their own) and no TLS: a proxy in front does that.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, Router, body::Body, body::Bytes, extract::Request};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::config;

/// Most headers of a request; a webhook has about twenty.
const MAX_HEADERS: usize = 64;
/// Largest request head, and read buffer, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Pause after a failed `accept`. The usual cause is that the process is out of file descriptors, and
/// only the end of another connection helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one client, and all of them together, may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; further clients wait in the listen queue of the kernel.
    pub max_connections: usize,
    /// From the first byte of a request (or the start of the connection) to the end of its head.
    pub header_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// How long a client may refuse to take bytes of an answer.
    pub write_timeout: Duration,
    /// How long a connection may wait for the next request.
    pub idle_timeout: Duration,
    /// How long requests under way may take once the process drains.
    pub drain: Duration,
}

impl From<&config::Server> for Limits {
    fn from(server: &config::Server) -> Self {
        Self {
            max_connections: server.max_connections,
            header_timeout: server.header_timeout,
            body_timeout: server.body_timeout,
            write_timeout: server.write_timeout,
            idle_timeout: server.idle_timeout,
            drain: server.drain,
        }
    }
}

/// The request body did not arrive within [`Limits::body_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body took too long")]
pub struct BodyTimeout;

/// Who is at the other end of the connection; in the extensions of every request that [`serve`] hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Serves `app` until `draining`, then lets the requests under way finish, each for at most
/// [`Limits::drain`], and returns once every connection is closed.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, draining: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    while let Some(accepted) = draining.run_until_cancelled(accept(&listener, &slots)).await {
        match accepted {
            Ok((stream, peer, slot)) => {
                let connection = connection(stream, peer, slot, app.clone(), limits, draining.clone());
                connections.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Closing the listener first makes new clients go to another node at once.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Takes a slot before a connection, so that a full house costs no file descriptors.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Peer, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, Peer(peer.ip().to_canonical()), slot))
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    slot: OwnedSemaphorePermit,
    app: Router,
    limits: Limits,
    draining: CancellationToken,
) {
    // Answers are small: waiting to fill a packet would only delay them. A failure costs speed only.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let phase = Phase::default();
    let stream = GuardedStream::new(stream, limits, phase.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        phase.flip();
        let mut request: Request = request.map(|body| Body::new(TimedBody::new(body, limits.body_timeout)));
        request.extensions_mut().insert(peer);
        let answer = app.clone().oneshot(request);
        let phase = phase.clone();
        async move {
            let answer = answer.await;
            phase.flip();
            answer
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper counts from the end of the last answer, so this is the idle time; the time of the
            // head alone is counted by `GuardedStream`.
            .header_read_timeout(limits.idle_timeout.max(limits.header_timeout))
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let finished = tokio::select! {
        finished = connection.as_mut() => finished,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.drain, connection.as_mut()).await.unwrap_or_else(|_| {
                tracing::warn!("a connection was cut because its request outlived the drain");
                Ok(())
            })
        }
    };
    if let Err(error) = finished {
        // Clients that vanish or dawdle are normal on the internet.
        tracing::debug!(%error, "a connection ended early");
    }
    drop(slot);
}

/// Whether a connection waits for a request (even) or answers one (odd). Clones share it.
#[derive(Clone, Debug, Default)]
struct Phase(Arc<AtomicU64>);

impl Phase {
    fn flip(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream that fails when a request head takes too long to arrive or an answer too long to leave.
struct GuardedStream {
    stream: TcpStream,
    limits: Limits,
    phase: Phase,
    /// Set from the first byte of a head; holds for the phase it was set in.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// Set while the client takes no bytes.
    write: Option<Pin<Box<Sleep>>>,
}

impl GuardedStream {
    fn new(stream: TcpStream, limits: Limits, phase: Phase) -> Self {
        // A new connection has its first request ready: only later ones may keep us waiting.
        let head = Some((phase.count(), Box::pin(sleep(limits.header_timeout))));
        Self { stream, limits, phase, head, write: None }
    }

    /// Passes a finished write on, and fails one that has been pending for too long.
    fn guard_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let limit = self.limits.write_timeout;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let phase = this.phase.count();
        this.head.take_if(|(set_in, _)| *set_in != phase);
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let waits_for_request = phase.is_multiple_of(2);
        if read.is_ready() {
            if waits_for_request && buf.filled().len() > before {
                let limit = this.limits.header_timeout;
                this.head.get_or_insert_with(|| (phase, Box::pin(sleep(limit))));
            }
            return read;
        }
        if let Some((_, deadline)) = &mut this.head {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.guard_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.guard_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A request body that fails with [`BodyTimeout`] when its end does not arrive in time.
struct TimedBody {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming, limit: Duration) -> Self {
        Self { body, deadline: Box::pin(sleep_until(Instant::now() + limit)) }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
