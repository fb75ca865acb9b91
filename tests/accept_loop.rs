//! The accept loop against clients that dawdle, hoard and vanish. Timers are the thing under test, so
//! the limits here are real and short; nothing else sleeps.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use http_body_util::BodyExt as _;
use remit::http::{
    edge,
    serve::{BodyTimeout, Limits, serve},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SHORT: Duration = Duration::from_millis(150);
/// Nothing under test may take this long.
const NEVER: Duration = Duration::from_secs(20);

const LIMITS: Limits = Limits {
    max_connections: 8,
    header_timeout: NEVER,
    body_timeout: NEVER,
    write_timeout: NEVER,
    idle_timeout: NEVER,
    drain: NEVER,
};

/// Lets a test see that a handler has begun, and hold it.
#[derive(Clone)]
struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

struct Server {
    address: SocketAddr,
    draining: CancellationToken,
    tasks: TaskTracker,
    gate: Gate,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let gate = Gate { entered: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let routes = Router::new()
            .route("/quick", get(async || "quick"))
            .route("/length", post(length))
            // Far more than the socket buffers of both ends hold.
            .route("/large", get(async || vec![b'x'; 64 * 1024 * 1024]))
            .route("/held", get(held))
            .with_state(gate.clone());
        let tasks = TaskTracker::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let draining = CancellationToken::new();
        let task = tokio::spawn(serve(listener, edge(routes, &tasks), limits, draining.clone()));
        Self { address, draining, tasks, gate, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, bytes: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(bytes.as_bytes()).await.unwrap();
        client
    }
}

async fn length(body: Body) -> (StatusCode, String) {
    match body.collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes().len().to_string()),
        Err(error) => {
            let timed_out = error.into_inner().is::<BodyTimeout>();
            (if timed_out { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST }, String::new())
        }
    }
}

async fn held(State(gate): State<Gate>) -> &'static str {
    gate.entered.add_permits(1);
    gate.open.acquire().await.unwrap().forget();
    "held"
}

/// Everything until the server closes the connection; a reset counts as closing.
async fn until_closed(client: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let read = timeout(NEVER, client.read_to_end(&mut received)).await;
    drop(read.expect("the server should have closed the connection"));
    String::from_utf8_lossy(&received).into_owned()
}

/// One answer with a short body, on a connection that may stay open.
async fn answer(client: &mut TcpStream, last: &str) -> String {
    let mut received = String::new();
    let mut buffer = [0; 1024];
    while !received.ends_with(last) {
        let count = timeout(NEVER, client.read(&mut buffer)).await.expect("an answer in time").unwrap();
        assert_ne!(count, 0, "closed after {received:?}");
        received.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    received
}

const QUICK: &str = "GET /quick HTTP/1.1\r\nhost: x\r\n\r\n";
const QUICK_AND_CLOSE: &str = "GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_client_that_never_ends_its_headers_is_cut() {
    let server = Server::start(Limits { header_timeout: SHORT, ..LIMITS }).await;
    for beginning in ["", "GET /quick HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut client = server.send(beginning).await;
        assert_eq!(until_closed(&mut client).await, "", "after {beginning:?}");
    }
}

#[tokio::test]
async fn dripping_headers_do_not_extend_the_time_for_them() {
    let server = Server::start(Limits { header_timeout: SHORT, ..LIMITS }).await;
    let client = server.send("GET /quick HTTP/1.1\r\nx-slow: ").await;
    let started = Instant::now();
    let mut drips = tokio::time::interval(SHORT / 10);
    // Writing goes on until the server is gone.
    while client.writable().await.is_ok() && client.try_write(b"x").is_ok() {
        drips.tick().await;
        assert!(started.elapsed() < NEVER, "still connected");
    }
    assert!(started.elapsed() >= SHORT);
}

#[tokio::test]
async fn the_second_request_of_a_connection_has_its_own_time_for_headers() {
    let server = Server::start(Limits { header_timeout: SHORT, ..LIMITS }).await;
    let mut client = server.send(QUICK).await;
    answer(&mut client, "quick").await;
    client.write_all(b"GET /quick HTTP/1.1\r\nx-slow: ").await.unwrap();
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test]
async fn waiting_for_the_next_request_may_take_longer_than_headers() {
    let server = Server::start(Limits { header_timeout: SHORT, ..LIMITS }).await;
    let mut client = server.send(QUICK).await;
    answer(&mut client, "quick").await;
    // Idle for several header times: the read must time out, not end.
    let idle = timeout(SHORT * 3, client.read(&mut [0; 1])).await;
    assert!(idle.is_err(), "the connection was closed while idle");
    client.write_all(QUICK.as_bytes()).await.unwrap();
    answer(&mut client, "quick").await;
}

#[tokio::test]
async fn a_slow_handler_is_not_cut_by_the_header_timeout() {
    let server = Server::start(Limits { header_timeout: SHORT, ..LIMITS }).await;
    let mut client = server.send(HELD).await;
    let early = timeout(SHORT * 3, client.read(&mut [0; 1])).await;
    assert!(early.is_err(), "answered or closed while the handler was working");
    server.gate.open.add_permits(1);
    answer(&mut client, "held").await;
}

#[tokio::test]
async fn an_idle_connection_is_cut() {
    let server = Server::start(Limits { header_timeout: SHORT, idle_timeout: SHORT, ..LIMITS }).await;
    let mut client = server.send(QUICK).await;
    answer(&mut client, "quick").await;
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_408_and_cut() {
    let server = Server::start(Limits { body_timeout: SHORT, ..LIMITS }).await;
    let announced = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
    let chunked = "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab";
    for beginning in [announced, chunked] {
        let mut client = server.send(beginning).await;
        let received = until_closed(&mut client).await;
        assert!(received.starts_with("HTTP/1.1 408 "), "{received}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let server = Server::start(Limits { write_timeout: SHORT, max_connections: 1, ..LIMITS }).await;
    let mut hoarder = server.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The only slot is free again as soon as the hoarder is cut.
    let mut client = server.send(QUICK_AND_CLOSE).await;
    assert!(until_closed(&mut client).await.ends_with("quick"));
    assert!(until_closed(&mut hoarder).await.len() < 64 * 1024 * 1024);
}

#[tokio::test]
async fn the_cap_holds_and_a_client_is_served_when_another_leaves() {
    let server = Server::start(Limits { max_connections: 2, ..LIMITS }).await;
    let first = server.connect().await;
    let mut second = server.send(QUICK).await;
    answer(&mut second, "quick").await;

    let mut third = server.send(QUICK_AND_CLOSE).await;
    let early = timeout(SHORT, third.read(&mut [0; 1])).await;
    assert!(early.is_err(), "served beyond the cap");
    drop(first);
    assert!(until_closed(&mut third).await.ends_with("quick"));
}

#[tokio::test]
async fn a_draining_server_answers_what_is_under_way_and_takes_nothing_new() {
    let server = Server::start(LIMITS).await;
    let mut idle = server.send(QUICK).await;
    answer(&mut idle, "quick").await;
    let mut client = server.send(HELD).await;
    server.gate.entered.acquire().await.unwrap().forget();

    server.draining.cancel();
    assert_eq!(until_closed(&mut idle).await, "", "an idle connection is closed at once");
    assert!(!server.task.is_finished());
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");

    server.gate.open.add_permits(1);
    let received = until_closed(&mut client).await;
    assert!(received.starts_with("HTTP/1.1 200 ") && received.ends_with("held"), "{received}");
    timeout(NEVER, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_outlives_the_drain_is_cut() {
    let server = Server::start(Limits { drain: SHORT, ..LIMITS }).await;
    let mut client = server.send(HELD).await;
    server.gate.entered.acquire().await.unwrap().forget();
    server.draining.cancel();
    assert_eq!(until_closed(&mut client).await, "");
    timeout(NEVER, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_goes_on_when_its_client_is_gone() {
    let server = Server::start(LIMITS).await;
    let client = server.send(HELD).await;
    server.gate.entered.acquire().await.unwrap().forget();
    drop(client);
    server.draining.cancel();
    // Every connection is closed, and yet the handler still waits at the gate.
    timeout(NEVER, server.task).await.unwrap().unwrap();
    assert_eq!(server.tasks.len(), 1);
    server.gate.open.add_permits(1);
    server.tasks.close();
    timeout(NEVER, server.tasks.wait()).await.unwrap();
    assert_eq!(server.gate.open.available_permits(), 0, "the handler took the permit");
}

#[tokio::test]
async fn oversized_and_malformed_heads_are_refused() {
    let server = Server::start(LIMITS).await;
    let many_headers = "x-many: y\r\n".repeat(200);
    for (head, status) in [
        (format!("GET /quick HTTP/1.1\r\n{many_headers}\r\n"), "431"),
        (format!("GET /quick HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024)), "431"),
        ("GET /quick HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n".to_owned(), "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
    ] {
        let mut client = server.connect().await;
        // The server may close before it has read everything, and a reset can overtake the answer.
        drop(client.write_all(head.as_bytes()).await);
        let received = until_closed(&mut client).await;
        assert!(received.is_empty() || received.starts_with(&format!("HTTP/1.1 {status} ")), "{received}");
    }
}

#[tokio::test]
async fn a_request_with_both_lengths_is_never_read_as_two() {
    let server = Server::start(LIMITS).await;
    let smuggled = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut client = server.send(smuggled).await;
    // The chunks count, and the connection ends with them (RFC 9112, section 6.1).
    let received = until_closed(&mut client).await;
    assert!(received.starts_with("HTTP/1.1 200 ") && received.ends_with("\r\n\r\n0"), "{received}");
}
