//! The real program as processes of its own: a node that serves, and commands that end.
//!
//! A process never outlives its value, however a test ends.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use remit::failpoint::VARIABLE;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::support::api::MASTER_KEY;

/// Nothing that a test waits for may take this long, on a slow machine under load.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How often another process is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Names the database.
const DATABASE_URL: &str = "REMIT_DATABASE__URL";
/// Lines of a node's log that a failing test shows.
const LOG_LINES: usize = 40;

/// How to start the program on one database.
pub struct Program {
    environment: Vec<(&'static str, String)>,
    /// The working directory: a `remit.toml` elsewhere must not have a say.
    home: TempDir,
}

impl Program {
    /// On the database of that URL.
    pub fn on(database_url: &str) -> Self {
        let environment = [
            (DATABASE_URL, database_url),
            ("REMIT_SERVER__LISTEN", "127.0.0.1:0"),
            ("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0"),
            ("REMIT_SECRETS__MASTER_KEY", MASTER_KEY),
            // Small batches, so that there is nearly always one to interrupt.
            ("REMIT_PROCESS__BATCH_EVENTS", "16"),
            // The shortest grace with which releasing is left to its own stage.
            ("REMIT_PROGRAMS__MERGE_GRACE_S", "1"),
            ("REMIT_LOG__FORMAT", "json"),
        ];
        Self {
            environment: environment.map(|(name, value)| (name, value.to_owned())).to_vec(),
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// The URL of its database.
    pub fn database_url(&self) -> &str {
        &self.environment.iter().find(|(name, _)| *name == DATABASE_URL).unwrap().1
    }

    /// The same with another setting.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Where a file of this name is kept as long as the program is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A file that a command is to read.
    pub fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str], more: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remit"));
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(more.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str], more: &[(&str, &str)]) -> Output {
        let mut command = self.command(arguments, more);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Runs a command that must succeed and gives the `data` it prints.
    pub async fn data(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let output = self.run(&arguments, &[]).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["data"].take()
    }

    /// Starts a node and waits until it listens.
    pub async fn serve(&self) -> Server {
        self.serve_with(&[]).await
    }

    /// The same with more settings.
    pub async fn serve_with(&self, more: &[(&str, &str)]) -> Server {
        let (mut server, listens) = self.start(more);
        match tokio::time::timeout(PATIENCE, listens).await {
            Ok(Ok(address)) => server.base = format!("http://{address}"),
            Ok(Err(_)) | Err(_) => panic!("the node does not listen:\n{}", server.log()),
        }
        server
    }

    /// Runs a node with more settings that dies by its own hand at this point, whether it came to listen or
    /// not.
    pub async fn dies_at(&self, death: &str, more: &[(&str, &str)]) {
        let more = [&[(VARIABLE, death)], more].concat();
        assert_died(&mut self.start(&more).0).await;
    }

    /// Starts a node that stops by itself at this point, as by SIGSTOP, and waits until it has.
    pub async fn stops_at(&self, point: &str, more: &[(&str, &str)]) -> Server {
        let stop = format!("{point}:stop");
        let more = [&[(VARIABLE, &*stop)], more].concat();
        let (server, _listens) = self.start(&more);
        server.stopped().await;
        server
    }

    /// Starts a node. What is given beside it tells where it listens, once it does.
    fn start(&self, more: &[(&str, &str)]) -> (Server, oneshot::Receiver<String>) {
        let mut command = self.command(&["serve"], more);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (listening, listens) = oneshot::channel();
        let log: Log = Log::default();
        let lines = log.clone();
        std::thread::spawn(move || {
            let mut listening = Some(listening);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                if entry["message"] == "listening"
                    && let Some(listening) = listening.take()
                {
                    // Nobody waits any more when the test has failed.
                    let _gone = listening.send(entry["public"].as_str().unwrap().to_owned());
                }
                lines.push(line);
            }
        });
        (Server { child, base: String::new(), log }, listens)
    }
}

/// SIGKILL: by its own hand, at a named point.
pub async fn assert_died(node: &mut Server) {
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(node.ended().await.signal(), Some(9), "{}", node.log());
}

/// The end of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap();
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// A running node, killed with this value.
pub struct Server {
    child: Child,
    /// Where webhooks are taken, such as `http://127.0.0.1:40001`.
    pub base: String,
    log: Log,
}

impl Server {
    /// The last lines it wrote.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().iter().fold(String::new(), |log, line| log + line + "\n")
    }

    /// SIGKILL. The process is gone when this returns.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGSTOP: the process is there and does nothing, not even notice that time passes.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Waits until the process has stopped by itself, at a named point.
    pub async fn stopped(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output =
                Command::new("ps").args(["-o", "state=", "-p", &self.child.id().to_string()]).output();
            if output.unwrap().stdout.starts_with(b"T") {
                return;
            }
            assert!(Instant::now() < deadline, "the node did not stop:\n{}", self.log());
            sleep(LOOK_EVERY).await;
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "the node is there to be sent a signal");
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the node did not end:\n{}", self.log());
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the log has a line with this message.
    pub async fn says(&self, message: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(message) {
            assert!(Instant::now() < deadline, "the node never said {message:?}:\n{}", self.log());
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail for a process that was waited for already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
