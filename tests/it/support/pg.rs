//! A PostgreSQL server for the tests: the one that `REMIT_TEST_DATABASE_URL` names, else a throwaway one
//! from installed binaries, one per test binary.
//!
//! The throwaway server listens on a Unix socket in a private directory, so it needs no port and no
//! password, and it ends with the test process however that ends: it lives as long as a pipe from here
//! stays open. (Statics are never dropped, and a killed process runs no destructors.)

use std::{
    collections::HashSet,
    env, fs,
    future::Future,
    io::{BufRead as _, BufReader, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    str::FromStr,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use remit::store::{Db, DbOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

/// Names a server to use instead of a throwaway one. Its role must be allowed to create databases.
const URL_VARIABLE: &str = "REMIT_TEST_DATABASE_URL";

/// The empty database that every PostgreSQL server has.
const EMPTY: &str = "template0";

/// A database of its own for one test, dropped with this value.
pub struct PgDatabase {
    name: String,
    url: String,
}

impl PgDatabase {
    /// A URL that remit connects with, also from another process.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PgDatabase {
    fn drop(&mut self) {
        if let Some(server) = server() {
            // A panic here, while a test fails already, would abort all the others.
            let _ = server.admin(format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name));
        }
    }
}

/// A new, empty database, for tests that migrate it themselves or start the real program on it. None
/// when there is no PostgreSQL here; then one line says which group of tests was skipped.
///
/// `caller` is `module_path!()`.
///
/// # Panics
/// Without PostgreSQL when `CI` is set: there, nothing may be skipped.
pub fn postgres_url_for_new_database(caller: &str) -> Option<PgDatabase> {
    new_database(caller, EMPTY)
}

/// As [`postgres_url_for_new_database`], but already migrated where that comes for free.
pub fn database_to_migrate(caller: &str) -> Option<PgDatabase> {
    new_database(caller, server().map_or(EMPTY, |server| server.template))
}

fn new_database(caller: &str, template: &str) -> Option<PgDatabase> {
    let Some(server) = server() else {
        report_skipped(caller);
        return None;
    };
    Some(server.create(template))
}

fn report_skipped(caller: &str) {
    const REMEDY: &str =
        "set REMIT_TEST_DATABASE_URL or install PostgreSQL (Debian: apt-get install postgresql)";
    static REPORTED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    assert!(env::var_os("CI").is_none(), "no PostgreSQL found, and with CI set no test is skipped: {REMEDY}");
    let group = caller.split("::").nth(1).unwrap_or(caller).to_owned();
    if REPORTED.lock().unwrap().get_or_insert_default().insert(group.clone()) {
        // Written past the test harness, which would swallow the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED on PostgreSQL: {group}. To run it, {REMEDY}.");
    }
}

struct Server {
    options: PgConnectOptions,
    /// What new databases are copied from: a migrated database, or an empty one on a server that outlives
    /// the tests, where a template would stay behind.
    template: &'static str,
    /// Open as long as this process lives; see the module.
    process: Option<Child>,
}

fn server() -> Option<&'static Server> {
    // A failure is remembered too: a server that does not come up must not cost every test its patience.
    static SERVER: OnceLock<Option<Result<Server, Unprepared>>> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let (url, process) = match env::var(URL_VARIABLE) {
                Ok(url) => (url, None),
                Err(_) => start(&find_binaries()?),
            };
            let options =
                PgConnectOptions::from_str(&url).expect("a valid PostgreSQL URL").extra_float_digits(None);
            Some(Server::prepare(options, process))
        })
        .as_ref()
        .map(|prepared| prepared.as_ref().expect("a test PostgreSQL that answers"))
}

impl Server {
    fn prepare(options: PgConnectOptions, process: Option<Child>) -> Result<Self, Unprepared> {
        let throwaway = process.is_some();
        let server = Self { options, template: EMPTY, process };
        server.wait_until_ready()?;
        if throwaway { server.with_migrated_template() } else { Ok(server) }
    }

    /// Copying a migrated database is several times faster than migrating each.
    fn with_migrated_template(self) -> Result<Self, Unprepared> {
        const MIGRATED: &str = "remit_test_template";
        self.admin(format!("CREATE DATABASE \"{MIGRATED}\" TEMPLATE {EMPTY}"))?;
        let url = self.url(MIGRATED);
        in_own_runtime(async move {
            let db = Db::connect(&url, &DbOptions::default()).await.unwrap();
            db.migrate().await.unwrap();
            // A template can be copied only while nobody is connected to it.
            db.close().await;
        })?;
        Ok(Self { template: MIGRATED, ..self })
    }

    fn create(&self, template: &str) -> PgDatabase {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("remit_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // A process with the same id may have left one behind.
        self.admin(format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).unwrap();
        self.admin(format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).unwrap();
        PgDatabase { url: self.url(&name), name }
    }

    fn url(&self, database: &str) -> String {
        match self.options.get_socket() {
            // The spelling that people use; the driver's own would put the encoded path in the host.
            Some(directory) if self.process.is_some() => format!(
                "postgres:///{database}?host={}&user={}",
                directory.display(),
                self.options.get_username()
            ),
            _ => self.options.clone().database(database).to_url_lossy().to_string(),
        }
    }

    /// Runs a statement about databases, which cannot run in a transaction or take parameters.
    fn admin(&self, statement: String) -> Result<(), Unprepared> {
        let options = self.options.clone();
        in_own_runtime(async move {
            let mut conn = PgConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        })
    }

    fn wait_until_ready(&self) -> Result<(), Unprepared> {
        let is_ready = self.is_ready_within(Duration::from_mins(1))?;
        assert!(is_ready, "PostgreSQL answers within a minute");
        Ok(())
    }

    fn is_ready_within(&self, patience: Duration) -> Result<bool, Unprepared> {
        let options = self.options.clone();
        in_own_runtime(async move {
            let ready = async {
                while PgConnection::connect_with(&options).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(patience, ready).await.is_ok()
        })
    }
}

/// Work on the test PostgreSQL panicked; its message has been printed already.
#[derive(Debug)]
struct Unprepared;

/// Tests run in runtimes of their own, and some of this runs in `Drop`, where nothing can be awaited.
fn in_own_runtime<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Unprepared> {
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    });
    thread.join().map_err(|_| Unprepared)
}

/// The directory that holds `initdb` and `postgres`, if there is one.
fn find_binaries() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = env::var_os("PG_BIN_DIR").map(PathBuf::from).into_iter().collect();
    candidates.extend(env::split_paths(&path));
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql", "bin"),
        ("/usr/local", "pgsql", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
    ] {
        let mut found: Vec<PathBuf> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join(suffix))
            .collect();
        // The newest version first, as far as names tell.
        found.sort();
        candidates.extend(found.into_iter().rev());
    }
    candidates
        .into_iter()
        .find(|directory| ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file()))
}

/// An initialised directory, and how to start programs in it.
struct Cluster {
    directory: PathBuf,
    user: Option<(u32, u32)>,
}

impl Cluster {
    fn new(binaries: &Path) -> Self {
        // Directly under /tmp: socket paths end at 107 bytes, and the server's user must be able to enter.
        let directory = tempfile::Builder::new().prefix("remit-pg-").tempdir_in("/tmp").unwrap().keep();
        let user = unprivileged_user(&directory);
        let cluster = Self { directory, user };
        let initdb = cluster
            .command(&binaries.join("initdb"))
            .args(["-D", "data", "-U", "remit", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        cluster
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A shell that does what `script` says with the server, `$0`.
    fn shell(&self, script: &str, binaries: &Path) -> Command {
        let mut command = self.command(Path::new("/bin/sh"));
        command
            .args(["-c", script])
            .arg(binaries.join("postgres"))
            // Ctrl-C ends the tests, and only then, through the pipe, the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    fn url(&self) -> String {
        format!("postgres:///postgres?host={}&user=remit", self.directory.display())
    }
}

fn start(binaries: &Path) -> (String, Option<Child>) {
    // Durability is not what these tests look at, so nothing is synced. Deadlocks are found quickly.
    const SCRIPT: &str = r#"
        directory=$PWD
        "$0" -D data -k "$directory" -c listen_addresses= -c fsync=off -c full_page_writes=off \
            -c autovacuum=off -c max_connections=200 -c deadlock_timeout=50ms >log 2>&1 &
        server=$!
        cat >/dev/null
        kill -INT $server
        wait $server
        cd / && rm -rf "$directory"
    "#;
    let cluster = Cluster::new(binaries);
    let process = cluster.shell(SCRIPT, binaries).stdout(Stdio::null()).spawn().unwrap();
    (cluster.url(), Some(process))
}

/// A server of a test's own, which it may kill. It ends with this value, or with the test process.
pub struct OwnServer {
    server: Server,
    answers: BufReader<ChildStdout>,
}

/// How a server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// As by `pg_ctl stop -m immediate`: everybody is told to drop everything.
    Immediate,
    /// SIGKILL of the postmaster: its children find out by themselves.
    Kill,
}

impl OwnServer {
    /// A running server, unless there are no binaries here; see the module. `caller` is `module_path!()`.
    pub fn start(caller: &str) -> Option<Self> {
        // A crash of the server alone loses nothing that it has written, synced or not. What the postmaster
        // is can be read from its file, also when it was started twice because the first start failed.
        const SCRIPT: &str = r#"
            directory=$PWD
            end() {
                postmaster=$(head -n 1 data/postmaster.pid)
                kill -s "$1" "$postmaster"
                wait "$postmaster"
            }
            while read -r command; do
                case $command in
                    start)
                        "$0" -D data -k "$directory" -c listen_addresses= -c fsync=off \
                            -c max_connections=100 -c deadlock_timeout=50ms >>log 2>&1 & ;;
                    *) end "$command" ;;
                esac
                echo done
            done
            end INT
            cd / && rm -rf "$directory"
        "#;
        let Some(binaries) = find_binaries() else {
            report_skipped(caller);
            return None;
        };
        let cluster = Cluster::new(&binaries);
        let mut process = cluster.shell(SCRIPT, &binaries).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let options = PgConnectOptions::from_str(&cluster.url()).unwrap().extra_float_digits(None);
        let server = Server { options, template: EMPTY, process: Some(process) };
        let mut own = Self { server, answers };
        own.restart();
        Some(own)
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        self.server.url("postgres")
    }

    /// Ends it without a shutdown. It is gone when this returns; its children may take a moment.
    pub fn kill(&mut self, death: Death) {
        self.tell(match death {
            Death::Immediate => "QUIT",
            Death::Kill => "KILL",
        });
    }

    /// Starts it again and waits until it has recovered.
    pub fn restart(&mut self) {
        // It refuses while a child of its predecessor lives.
        for _ in 0..60 {
            self.tell("start");
            if self.server.is_ready_within(Duration::from_secs(1)).unwrap() {
                return;
            }
        }
        panic!("PostgreSQL does not come back");
    }

    fn tell(&mut self, command: &str) {
        let process = self.server.process.as_mut().unwrap();
        writeln!(process.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{command}");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.server.process {
            drop(process.stdin.take());
            // Nothing can be done about a failure here.
            let _ = process.wait();
        }
    }
}

/// PostgreSQL refuses to run as root; then `postgres` or `nobody` owns `directory` and the server.
fn unprivileged_user(directory: &Path) -> Option<(u32, u32)> {
    if fs::metadata(directory).unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted).then_some((uid, gid))
        })
    };
    let (uid, gid) = ids("postgres").or_else(|| ids("nobody")).expect("a user `postgres` or `nobody`");
    std::os::unix::fs::chown(directory, Some(uid), Some(gid)).unwrap();
    Some((uid, gid))
}

/// Waits until `count` connections of this PostgreSQL database wait for a lock.
pub async fn until_blocked(db: &Db, count: i64) {
    const BLOCKED: &str = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let all_blocked = async {
        while db.read().await.unwrap().q(BLOCKED).scalar().await.unwrap() != Some(count) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_blocked)
        .await
        .unwrap_or_else(|_| panic!("{count} of them wait for a lock"));
}
