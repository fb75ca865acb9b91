//! A proxy in front of PostgreSQL that can hold back the server's answers, so that a test decides what
//! is under way at the moment it interferes.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
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
    open: watch::Sender<bool>,
    _directory: TempDir,
}

impl GatedProxy {
    /// Listens on a Unix socket and forwards to the database of `url`. The gate is open.
    pub fn start(url: &str) -> Self {
        let server = PgConnectOptions::from_str(url).unwrap();
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(socket_in(directory.path(), server.get_port())).unwrap();
        let url = server.clone().socket(directory.path()).to_url_lossy().to_string();
        let (open, gate) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), gate.clone()));
            }
        });
        Self { url, open, _directory: directory }
    }

    /// URL of the same database through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Holds back answers from now on.
    pub fn close_gate(&self) {
        self.open.send_replace(false);
    }

    /// Lets the answers through that were held back, and all later ones.
    pub fn open_gate(&self) {
        self.open.send_replace(true);
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

async fn forward(client: UnixStream, server: PgConnectOptions, gate: watch::Receiver<bool>) {
    if let Some(directory) = server.get_socket() {
        pump(client, UnixStream::connect(socket_in(directory, server.get_port())).await.unwrap(), gate).await;
    } else {
        pump(client, TcpStream::connect((server.get_host(), server.get_port())).await.unwrap(), gate).await;
    }
}

async fn pump(client: UnixStream, server: impl AsyncRead + AsyncWrite, mut gate: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let requests = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if gate.wait_for(|open| *open).await.is_err()
                || to_client.write_all(&buffer[..length]).await.is_err()
            {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(requests, answers);
}
