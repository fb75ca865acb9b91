//! A proxy in front of PostgreSQL that can hold back the server's answers, so that a test decides what
//! is under way at the moment it interferes, and that can cut a connection during a commit.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// How a client ends a transaction.
const COMMIT: &[u8] = b"COMMIT\0";
const ROLLBACK: &[u8] = b"ROLLBACK\0";

/// Forwards everything, except that answers wait while the gate is closed.
pub struct GatedProxy {
    url: String,
    gate: Gate,
    cuts: watch::Sender<Cuts>,
    _directory: TempDir,
}

/// Where a connection is cut during a commit. The client cannot tell one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees the commit and rolls back.
    BeforeCommit,
    /// The server has committed; its answer is lost.
    AfterCommit,
}

/// What is to be cut, and what was.
#[derive(Default)]
struct Cuts {
    /// The transaction in which a request contains this text.
    wanted: Option<(&'static str, Cut)>,
    made: usize,
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
        let cuts = watch::Sender::new(Cuts::default());
        let (gate_of_connections, cuts_of_connections) = (gate.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = gate_of_connections.clone();
                tokio::spawn(forward(client, server.clone(), gate, cuts_of_connections.clone()));
            }
        });
        Self { url, gate, cuts, _directory: directory }
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

    /// Cuts the next connection that commits a transaction in which a request contains `text`. Prepared
    /// statements have their text once per connection.
    pub fn cut_commit_after(&self, text: &'static str, cut: Cut) {
        self.cuts.send_modify(|cuts| cuts.wanted = Some((text, cut)));
    }

    /// Waits until it was cut.
    pub async fn has_cut(&self) {
        self.cuts.subscribe().wait_for(|cuts| cuts.made > 0).await.unwrap();
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

async fn forward(client: UnixStream, server: PgConnectOptions, gate: Gate, cuts: watch::Sender<Cuts>) {
    let connection = Connection {
        gate,
        cuts,
        armed: Mutex::default(),
        answer_is_lost: AtomicBool::default(),
        cut: CancellationToken::new(),
    };
    if let Some(directory) = server.get_socket() {
        let server = UnixStream::connect(socket_in(directory, server.get_port())).await;
        pump(client, server.unwrap(), &connection).await;
    } else {
        let server = TcpStream::connect((server.get_host(), server.get_port())).await;
        pump(client, server.unwrap(), &connection).await;
    }
}

/// One client's connection.
struct Connection {
    gate: Gate,
    cuts: watch::Sender<Cuts>,
    /// Its next commit is cut.
    armed: Mutex<Option<Cut>>,
    /// The commit is on its way to the server.
    answer_is_lost: AtomicBool,
    cut: CancellationToken,
}

async fn pump(client: UnixStream, server: impl AsyncRead + AsyncWrite, connection: &Connection) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    let both = async {
        tokio::join!(
            copy(from_client, to_server, Direction::Requests, connection),
            copy(from_server, to_client, Direction::Answers, connection),
        )
    };
    // Where it was cut, both ends are closed without another byte.
    connection.cut.run_until_cancelled(both).await;
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

/// Copies until either end closes.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    connection: &Connection,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let is_cut = match direction {
            Direction::Requests => {
                connection.gate.close_if_triggered(&buffer[..length]);
                connection.is_cut_by(&buffer[..length])
            }
            Direction::Answers => {
                connection.gate.wait_until_open().await;
                connection.is_answer_lost()
            }
        };
        if is_cut {
            connection.cuts.send_modify(|cuts| cuts.made += 1);
            connection.cut.cancel();
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    // The other end may be gone already.
    let _ = to.shutdown().await;
}

impl Connection {
    /// Whether the connection ends before this request. One that commits and is let through leaves the
    /// rest to [`Self::is_answer_lost`].
    fn is_cut_by(&self, request: &[u8]) -> bool {
        let mut armed = self.armed.lock().unwrap();
        self.cuts.send_if_modified(|cuts| {
            let hit = cuts.wanted.filter(|(text, _)| contains(request, text.as_bytes()));
            if let Some((_, cut)) = hit {
                *armed = Some(cut);
                cuts.wanted = None;
            }
            false
        });
        if contains(request, ROLLBACK) {
            *armed = None;
        }
        if !contains(request, COMMIT) {
            return false;
        }
        match *armed {
            Some(Cut::BeforeCommit) => true,
            Some(Cut::AfterCommit) => {
                self.answer_is_lost.store(true, Ordering::SeqCst);
                false
            }
            None => false,
        }
    }

    /// Whether the connection ends before this answer. A client waits for the answers to its statements
    /// before it commits, so the first one after that is the commit's.
    fn is_answer_lost(&self) -> bool {
        self.answer_is_lost.load(Ordering::SeqCst)
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

impl Gate {
    async fn wait_until_open(&self) {
        self.open.subscribe().wait_for(|open| *open).await.expect("the sender lives in `self`");
    }

    fn close_if_triggered(&self, request: &[u8]) {
        let mut trigger = self.trigger.lock().unwrap();
        if trigger.is_some_and(|text| contains(request, text.as_bytes())) {
            *trigger = None;
            self.open.send_replace(false);
        }
    }
}
