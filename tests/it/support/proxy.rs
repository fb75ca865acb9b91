//! A proxy in front of PostgreSQL that can hold back the server's answers, so that a test decides what
//! is under way at the moment it interferes.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex},
};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    sync::watch,
};

/// Forwards everything, except that answers wait while the gate is closed.
pub struct GatedProxy {
    url: String,
    gate: Gate,
    _directory: TempDir,
}

#[derive(Clone)]
struct Gate {
    open: watch::Sender<bool>,
    /// A request that contains this text closes the gate before its answer.
    trigger: Arc<Mutex<Option<&'static str>>>,
}

impl GatedProxy {
    /// Listens on a Unix socket and forwards to the database of `url`. The gate is open.
    pub fn start(url: &str) -> Self {
        let server = PgConnectOptions::from_str(url).unwrap();
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(socket_in(directory.path(), server.get_port())).unwrap();
        let url = server.clone().socket(directory.path()).to_url_lossy().to_string();
        let gate = Gate { open: watch::Sender::new(true), trigger: Arc::default() };
        let gate_of_connections = gate.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), gate_of_connections.clone()));
            }
        });
        Self { url, gate, _directory: directory }
    }

    /// URL of the same database through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Holds back all answers from the next request on that contains `text`.
    pub fn hold_answers_from(&self, text: &'static str) {
        *self.gate.trigger.lock().unwrap() = Some(text);
    }

    /// Waits until such a request is on its way to the server.
    pub async fn holds(&self) {
        self.gate.open.subscribe().wait_for(|open| !open).await.unwrap();
    }

    /// Lets the answers through that were held back, and all later ones.
    pub fn release(&self) {
        *self.gate.trigger.lock().unwrap() = None;
        self.gate.open.send_replace(true);
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

async fn forward(client: UnixStream, server: PgConnectOptions, gate: Gate) {
    if let Some(directory) = server.get_socket() {
        pump(client, UnixStream::connect(socket_in(directory, server.get_port())).await.unwrap(), gate).await;
    } else {
        pump(client, TcpStream::connect((server.get_host(), server.get_port())).await.unwrap(), gate).await;
    }
}

async fn pump(client: UnixStream, server: impl AsyncRead + AsyncWrite, gate: Gate) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    tokio::join!(
        copy(from_client, to_server, Direction::Requests, gate.clone()),
        copy(from_server, to_client, Direction::Answers, gate),
    );
}

enum Direction {
    Requests,
    Answers,
}

/// Copies until either end closes.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    gate: Gate,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        match direction {
            Direction::Requests => gate.close_if_triggered(&buffer[..length]),
            Direction::Answers => gate.wait_until_open().await,
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    // The other end may be gone already.
    let _ = to.shutdown().await;
}

impl Gate {
    async fn wait_until_open(&self) {
        self.open.subscribe().wait_for(|open| *open).await.expect("the sender lives in `self`");
    }

    fn close_if_triggered(&self, request: &[u8]) {
        let mut trigger = self.trigger.lock().unwrap();
        if trigger.is_some_and(|text| request.windows(text.len()).any(|window| window == text.as_bytes())) {
            *trigger = None;
            self.open.send_replace(false);
        }
    }
}
