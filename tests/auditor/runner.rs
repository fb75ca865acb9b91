//! Runs the independent auditor on a database of a test, and writes the journal of deliveries that it
//! reads. What it checks and the formats of the journals are in `README.md` beside this file.
//!
//! Other test binaries include this file by its path.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use remit::domain::time::Timestamp;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// How the auditor ends when it has found something.
const FOUND: i32 = 3;

/// What the auditor is to look at.
pub struct Audit<'a> {
    /// The database.
    pub url: &'a str,
    /// The journal of the provider's sandbox.
    pub sandbox: Option<&'a Path>,
    /// The journal of the deliveries, see [`TrafficJournal`].
    pub traffic: Option<&'a Path>,
    /// What the clock of the program under test shows.
    pub now: Timestamp,
}

/// What the auditor says.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// What it had no journal for.
    pub unchecked: Vec<String>,
    /// How much of the books the reference model speaks about.
    pub model: Model,
}

/// Something that must not be.
#[derive(Debug, Deserialize)]
pub struct Violation {
    /// I1 to I15.
    pub invariant: String,
    /// What it is about.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
}

/// How much of the books the reference model speaks about.
#[derive(Debug, Deserialize)]
pub struct Model {
    /// Sales that the stored events tell of.
    pub sales: usize,
    /// Of these, how many it could compute.
    pub compared: usize,
}

impl Audit<'_> {
    /// Audits. `None` where there is no Python; then a line says so.
    ///
    /// # Panics
    /// When the audit cannot be made, and without Python when `CI` is set.
    pub fn report(&self) -> Option<Report> {
        let is_sqlite = self.url.starts_with("sqlite:");
        let python = if is_sqlite { python() } else { python_with_driver() }?;
        let mut command = auditor(python);
        command.args(["-m", "auditor", "--json", "--database", self.url]);
        command.args(["--now-us", &self.now.as_micros().to_string()]);
        for (option, journal) in [("--sandbox-journal", self.sandbox), ("--traffic-journal", self.traffic)] {
            if let Some(journal) = journal {
                command.arg(option).arg(journal);
            }
        }
        let output = command.output().unwrap();
        let is_made = matches!(output.status.code(), Some(0 | FOUND));
        assert!(is_made, "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code() == Some(FOUND), !report.violations.is_empty());
        Some(report)
    }

    /// Audits, and fails when anything is wrong.
    ///
    /// # Panics
    /// With everything that is wrong.
    #[track_caller]
    pub fn assert_clean(&self) -> Option<Report> {
        let report = self.report()?;
        assert!(report.violations.is_empty(), "{}", report.text());
        Some(report)
    }
}

impl Report {
    /// A line for everything that is wrong.
    pub fn text(&self) -> String {
        let lines = self
            .violations
            .iter()
            .map(|Violation { invariant, object, detail }| format!("{invariant}  {object}: {detail}\n"));
        lines.collect()
    }

    /// The invariants that do not hold.
    pub fn broken(&self) -> BTreeSet<&str> {
        self.violations.iter().map(|violation| violation.invariant.as_str()).collect()
    }
}

/// Python with this directory's parent as the place of packages.
pub fn auditor(python: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"))
        .env_remove("PYTHONPATH")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// An interpreter that is new enough. What it needs for SQLite comes with it.
pub fn python() -> Option<&'static Path> {
    const OLD: &str = "import sys; sys.exit(sys.version_info < (3, 11))";
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let name = env::var_os("PYTHON").unwrap_or_else(|| OsString::from("python3"));
        let answer = Command::new(&name).args(["-c", OLD]).output();
        let is_there = answer.is_ok_and(|answer| answer.status.success());
        if !is_there {
            report_skipped("no Python 3.11 or later found (Debian: apt-get install python3-venv)");
        }
        is_there.then(|| PathBuf::from(name))
    });
    found.as_deref()
}

/// An interpreter that can read PostgreSQL too.
fn python_with_driver() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(|| environment("auditor", "auditor/requirements.txt")).as_deref()
}

/// An interpreter with the packages that a file below `tests` pins, in an environment of this name below the
/// target directory. `None` where it cannot be made; then a line says so.
///
/// # Panics
/// Where it cannot be made and `CI` is set.
pub fn environment(name: &str, pins: &str) -> Option<PathBuf> {
    let base = python()?;
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Test binaries may run beside each other; the lock ends with the file.
    let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let made = auditor(Path::new("sh"))
        .args(["auditor/setup.sh".as_ref(), home.join(name).as_os_str(), pins.as_ref()])
        .env("PYTHON", base)
        .output()
        .unwrap();
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr);
        report_skipped(&format!("the Python packages of {pins} cannot be installed: {reason}"));
        return None;
    }
    Some(PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()))
}

fn report_skipped(reason: &str) {
    assert!(env::var_os("CI").is_none(), "with CI set nothing is skipped: {reason}");
    // Written past the test harness, which would swallow the output of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// The journal of whoever delivers webhooks: one line per delivery.
pub struct TrafficJournal {
    path: PathBuf,
    file: File,
}

/// What is delivered where.
#[derive(Clone, Copy)]
pub struct Delivered<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The endpoint it goes to.
    pub endpoint: &'a str,
    /// The connected account; empty for none.
    pub account: &'a str,
    /// Whether it is about real money.
    pub livemode: bool,
    /// The provider's id of the event.
    pub event_id: &'a str,
    /// The bytes.
    pub body: &'a [u8],
}

impl TrafficJournal {
    /// A new journal.
    pub fn create(path: PathBuf) -> Self {
        let file = File::create(&path).unwrap();
        Self { path, file }
    }

    /// Notes a delivery and the status it was answered with; `None` where there was no whole answer.
    pub fn add(&mut self, delivered: &Delivered<'_>, status: Option<u16>) {
        let line = json!({
            "provider": delivered.provider,
            "endpoint_id": delivered.endpoint,
            "account": delivered.account,
            "livemode": delivered.livemode,
            "event_id": delivered.event_id,
            "body_sha256": hex::encode(Sha256::digest(delivered.body)),
            "status": status,
        });
        writeln!(self.file, "{line}").unwrap();
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
