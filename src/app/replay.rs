//! Replay: stored events through the same pipeline as webhooks, without their signatures.
//!
//! Takes files with one event, directories of them, and archives of `remit events export`. The bytes are
//! stored as they are; the unique key of the inbox makes a second replay change nothing. An input that
//! cannot be taken is reported with its place and the rest goes on. Nothing here sends money.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::BufRead as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use sha2::{Digest as _, Sha256};

use super::{
    App,
    archive::ArchivedEvent,
    process,
    receive::{self, Endpoint},
    refold, report,
};
use crate::{
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::{self, Inbound, Translation},
    store::{
        StoreError, endpoints,
        inbox::{self, EventSource, InboxState, Inserted, NewEvent},
        organizations,
    },
};

/// Events that are stored in one transaction at most.
const BATCH: usize = 200;
/// How often a batch is tried while other transactions are in the way.
const ATTEMPTS_MAX: u32 = 8;
/// Bytes of bodies that are held at once, so that a huge archive does not fill the memory.
const BATCH_BYTES: usize = 16 * 1_048_576;

/// What to replay, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// The endpoint that all events are to belong to; by default the one an archive names, else the
    /// default endpoint of the provider.
    pub endpoint: Option<EndpointId>,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events that were not stored before and change the books.
    pub new: u64,
    /// Events that were stored before.
    pub duplicate: u64,
    /// Events that were not stored before and say nothing that matters here.
    pub ignored: u64,
    /// Inputs that are no event, or that were stored and parked because they cannot be understood.
    pub failed: u64,
    /// One per failure, in the order of the inputs.
    pub errors: Vec<InputError>,
}

/// An input that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputError {
    /// The file.
    pub path: String,
    /// Line in the file, from 1, where there is one to name.
    pub line: Option<usize>,
    /// Column in the line, from 1, for errors of syntax.
    pub column: Option<usize>,
    /// What is wrong. Never a part of the input.
    pub error: String,
}

/// Nothing could be replayed, or the replay ended early. What was stored stays, and replaying again
/// picks up the rest.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A path that was named cannot be read.
    #[error("{} cannot be read: {}", path.display(), source.kind())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The endpoint that was asked for does not exist.
    #[error("there is no endpoint {0}")]
    UnknownEndpoint(EndpointId),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The files that `paths` stand for: a file is itself, a directory is every `*.json` and `*.ndjson`
/// below it, sorted.
///
/// # Errors
/// [`ReplayError::Path`].
pub fn list_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ReplayError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, &mut files)?;
        } else {
            fs::metadata(path).map_err(|source| ReplayError::Path { path: path.clone(), source })?;
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Path { path: directory.to_owned(), source };
    let mut entries =
        fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        // A link to a directory is not followed: it may lead back up.
        if kind.is_dir() {
            walk(&path, files)?;
        } else if is_event_file(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// A story of the tests (`scenario.json`) holds events but is none.
fn is_event_file(path: &Path) -> bool {
    let is_json = path.extension().is_some_and(|extension| extension == "json" || extension == "ndjson");
    is_json && path.file_name().is_some_and(|name| name != "scenario.json")
}

/// Replays `files`, calls `progress` after each, and then processes what was stored, so that one command
/// is enough also without a server.
///
/// # Errors
/// [`ReplayError`]; single inputs that cannot be taken are in the report instead.
pub async fn replay(
    app: &App,
    request: &Request,
    files: &[PathBuf],
    mut progress: impl FnMut(),
) -> Result<Report, ReplayError> {
    let mut replay = Replay::new(app, request).await?;
    for path in files {
        replay.take_file(path).await?;
        progress();
    }
    replay.flush().await?;
    if !request.dry_run {
        // Also when nothing is new: an earlier replay may have ended between storing and processing.
        catch_up(app).await?;
    }
    Ok(replay.report)
}

/// Runs the stages that turn stored events into books until nothing is left for them, for a command
/// that is to be enough without a server.
///
/// # Errors
/// [`StoreError`] when the database cannot be reached; what is left waits for a server.
pub async fn catch_up(app: &App) -> Result<(), StoreError> {
    while !process::step(app).await?.is_idle() {}
    while refold::step(app).await? > 0 {}
    Ok(())
}

/// Which mode and project events of an endpoint belong to.
#[derive(Clone, Debug)]
struct Destination {
    id: EndpointId,
    project_id: ProjectId,
    livemode: bool,
}

struct Replay<'a> {
    app: &'a App,
    dry_run: bool,
    forced: Option<(String, Destination)>,
    known: BTreeMap<(String, String), Option<Destination>>,
    waiting: Vec<Ready>,
    waiting_bytes: usize,
    /// A dry run stores nothing, so it has to remember what it has seen.
    seen: HashSet<(&'static str, String, String, bool, String)>,
    report: Report,
}

/// An event that can be stored.
struct Ready {
    event: NewEvent,
    /// What the processor will make of it.
    fate: Fate,
    path: String,
    line: Option<usize>,
}

enum Fate {
    Applied,
    Ignored,
    Parked(String),
}

/// A failure with the place of a syntax error in the text.
struct Failure {
    at: Option<(usize, usize)>,
    error: String,
}

impl Failure {
    fn of(error: impl Into<String>) -> Self {
        Self { at: None, error: error.into() }
    }

    fn of_json(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        // serde_json ends its text with the place, which has fields of its own here.
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        // What is said of a value of the wrong type quotes the value.
        let is_quoting = error.is_data() && !what.starts_with("missing field");
        let what = if is_quoting { "holds something else than an event does at this place" } else { what };
        Self { at: Some((error.line(), error.column())), error: what.to_owned() }
    }
}

/// What tells a provider by the shape of its events.
#[derive(Deserialize)]
struct Shape {
    object: Option<Word>,
    event_id: Option<IgnoredAny>,
}

/// A text, or anything else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Other(IgnoredAny),
}

impl<'a> Replay<'a> {
    async fn new(app: &'a App, request: &Request) -> Result<Self, ReplayError> {
        let mut replay = Self {
            app,
            dry_run: request.dry_run,
            forced: None,
            known: BTreeMap::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            seen: HashSet::new(),
            report: Report::default(),
        };
        if let Some(id) = &request.endpoint {
            let mut found = None;
            for provider in providers::INBOUND {
                if let Some(destination) = replay.find(provider.name(), id.as_str()).await? {
                    found = Some((provider.name().to_owned(), destination));
                }
            }
            replay.forced = Some(found.ok_or_else(|| ReplayError::UnknownEndpoint(id.clone()))?);
        }
        Ok(replay)
    }

    async fn take_file(&mut self, path: &Path) -> Result<(), ReplayError> {
        let name = path.display().to_string();
        let unreadable = |source| ReplayError::Path { path: path.to_owned(), source };
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            let file = fs::File::open(path).map_err(unreadable)?;
            for (index, line) in io::BufReader::new(file).split(b'\n').enumerate() {
                let line = line.map_err(unreadable)?;
                if !line.trim_ascii().is_empty() {
                    let taken = self.take_line(&line).await?;
                    self.accept(taken, &name, Some(index + 1)).await?;
                }
            }
        } else {
            let taken = self.take_body(fs::read(path).map_err(unreadable)?, None).await?;
            self.accept(taken, &name, None).await?;
        }
        Ok(())
    }

    /// Counts and queues what was read of one place of the input.
    async fn accept(
        &mut self,
        taken: Result<(NewEvent, Fate), Failure>,
        path: &str,
        line: Option<usize>,
    ) -> Result<(), ReplayError> {
        match taken {
            Ok((event, fate)) => {
                self.waiting_bytes += event.body.len();
                self.waiting.push(Ready { event, fate, path: path.to_owned(), line });
                if self.waiting.len() >= BATCH || self.waiting_bytes >= BATCH_BYTES {
                    self.flush().await?;
                }
            }
            Err(failure) => {
                // What waits goes first, so that errors come in the order of the inputs.
                self.flush().await?;
                self.fail(path, line, failure);
            }
        }
        Ok(())
    }

    fn fail(&mut self, path: &str, line: Option<usize>, failure: Failure) {
        self.report.failed += 1;
        let (line, column) = match (line, failure.at) {
            // Within an archive each line is a text of its own.
            (Some(line), at) => (Some(line), at.map(|(_, column)| column)),
            (None, at) => at.unzip(),
        };
        self.report.errors.push(InputError { path: path.to_owned(), line, column, error: failure.error });
    }

    /// A line of an archive, or an event as it is.
    async fn take_line(&mut self, line: &[u8]) -> Result<Result<(NewEvent, Fate), Failure>, StoreError> {
        #[derive(Deserialize)]
        struct Archived {
            body_base64: Option<IgnoredAny>,
        }
        match serde_json::from_slice::<Archived>(line) {
            Ok(Archived { body_base64: None }) => self.take_body(line.to_vec(), None).await,
            Ok(Archived { body_base64: Some(_) }) => {
                let archived: ArchivedEvent = match serde_json::from_slice(line) {
                    Ok(archived) => archived,
                    Err(error) => return Ok(Err(Failure::of_json(&error))),
                };
                match archived.body() {
                    Ok(body) => self.take_body(body, Some(&archived)).await,
                    Err(error) => Ok(Err(Failure::of(format!("body_base64 is not base64: {error}")))),
                }
            }
            Err(error) => Ok(Err(Failure::of_json(&error))),
        }
    }

    async fn take_body(
        &mut self,
        body: Vec<u8>,
        archived: Option<&ArchivedEvent>,
    ) -> Result<Result<(NewEvent, Fate), Failure>, StoreError> {
        if let Some(archived) = archived.filter(|archived| archived.provider == report::PROVIDER) {
            return self.take_report(body, archived).await;
        }
        let provider = match identify(&body, archived) {
            Ok(provider) => provider,
            Err(mut failure) => {
                if archived.is_some() {
                    // The place within decoded bytes is no place of the file.
                    failure.at = None;
                }
                return Ok(Err(failure));
            }
        };
        let destination = match self.destination(provider, archived).await? {
            Ok(destination) => destination,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(self.read_event(provider, &destination, body, archived))
    }

    /// A conversion that an owner's backend reported: it has a project in place of an endpoint.
    async fn take_report(
        &self,
        body: Vec<u8>,
        archived: &ArchivedEvent,
    ) -> Result<Result<(NewEvent, Fate), Failure>, StoreError> {
        let Ok(reported) = serde_json::from_slice::<report::Report>(&body) else {
            return Ok(Err(Failure::of("is not a report of a conversion")));
        };
        if archived.livemode != self.app.config.livemode {
            return Ok(Err(Failure::of("a report of the other mode is not replayed here")));
        }
        let project = match ProjectId::parse(&archived.endpoint_id) {
            Ok(id) => organizations::find_project(&mut self.app.db.read().await?, &id).await?,
            Err(_) => None,
        };
        let Some(project) = project else {
            return Ok(Err(Failure::of("its project does not exist here")));
        };
        let now = self.app.now();
        let event = NewEvent {
            id: super::new_inbox_id(now),
            provider: report::PROVIDER,
            endpoint_id: archived.endpoint_id.clone(),
            project_id: project.id.to_string(),
            account: String::new(),
            livemode: archived.livemode,
            provider_event_id: archived.provider_event_id.clone(),
            event_type: report::EVENT_TYPE.to_owned(),
            provider_created_at: Some(reported.occurred_at),
            received_at: archived.received_at.clamp(Timestamp::EPOCH, now),
            state: InboxState::Received,
            reason: None,
            source: EventSource::Replay,
            body_sha256: Sha256::digest(&body).into(),
            body,
        };
        Ok(Ok((event, Fate::Applied)))
    }

    fn read_event(
        &self,
        provider: &'static dyn Inbound,
        destination: &Destination,
        body: Vec<u8>,
        archived: Option<&ArchivedEvent>,
    ) -> Result<(NewEvent, Fate), Failure> {
        let head = provider.head(&body).map_err(|error| Failure::of(error.to_string()))?;
        let mode = head.livemode.or(archived.map(|archived| archived.livemode));
        if let Some(livemode) = mode.filter(|livemode| *livemode != destination.livemode) {
            let name = |livemode| if livemode { "live" } else { "test" };
            return Err(Failure::of(format!(
                "a {} event is not replayed into endpoint {}, which is in {} mode",
                name(livemode),
                destination.id,
                name(destination.livemode)
            )));
        }
        let fate = match provider.facts(&body, self.app.metadata_keys()) {
            Ok(Translation::Facts(_)) => Fate::Applied,
            Ok(Translation::Ignored(_)) => Fate::Ignored,
            Err(malformed) => Fate::Parked(malformed.to_string()),
        };
        let endpoint = Endpoint {
            id: destination.id.clone(),
            project_id: destination.project_id.clone(),
            provider: provider.name(),
            livemode: destination.livemode,
            secrets: Vec::new(),
        };
        let now = self.app.now();
        let mut event = receive::new_event(&endpoint, head, body, EventSource::Replay, now)
            .map_err(|error| Failure::of(error.to_string()))?;
        if let Some(archived) = archived {
            check_identity(&event, archived)?;
            // Periods that count from the receipt go on as they did where the archive was made.
            event.received_at = archived.received_at.clamp(Timestamp::EPOCH, now);
        }
        Ok((event, fate))
    }

    /// Where an event of `provider` goes.
    async fn destination(
        &mut self,
        provider: &'static dyn Inbound,
        archived: Option<&ArchivedEvent>,
    ) -> Result<Result<Destination, Failure>, StoreError> {
        if let Some((name, destination)) = &self.forced {
            return Ok(if name == provider.name() {
                Ok(destination.clone())
            } else {
                Err(Failure::of(format!(
                    "endpoint {} is of {name} and this is an event of {}",
                    destination.id,
                    provider.name()
                )))
            });
        }
        let default = default_endpoint(provider.name());
        let id = archived.map_or(default.as_str(), |archived| archived.endpoint_id.as_str()).to_owned();
        Ok(self.find(provider.name(), &id).await?.ok_or_else(|| {
            Failure::of("its endpoint does not exist here: name another with --endpoint".to_owned())
        }))
    }

    /// The endpoint of that id, default or stored. Its secrets are not needed: nothing is verified.
    async fn find(&mut self, provider: &str, id: &str) -> Result<Option<Destination>, StoreError> {
        let key = (provider.to_owned(), id.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let found = match EndpointId::parse(id) {
            Err(_) => None,
            Ok(parsed) if id == default_endpoint(provider) => ProjectId::parse("proj_default")
                .ok()
                .map(|project_id| Destination { id: parsed, project_id, livemode: self.app.config.livemode }),
            Ok(parsed) => endpoints::find(&mut self.app.db.read().await?, &parsed)
                .await?
                .filter(|stored| stored.provider == provider)
                .map(|stored| Destination {
                    id: stored.id,
                    project_id: stored.project_id,
                    livemode: stored.livemode,
                }),
        };
        self.known.insert(key, found.clone());
        Ok(found)
    }

    /// Stores what waits, or finds out what storing it would do.
    async fn flush(&mut self) -> Result<(), ReplayError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let (events, rest): (Vec<NewEvent>, Vec<_>) =
            waiting.into_iter().map(|Ready { event, fate, path, line }| (event, (fate, path, line))).unzip();
        let inserted = self.insert(&events).await?;
        for ((event, (fate, path, line)), inserted) in events.iter().zip(rest).zip(inserted) {
            let is_new = inserted == Inserted::New && (!self.dry_run || self.seen.insert(owned_key(event)));
            match fate {
                _ if !is_new => self.report.duplicate += 1,
                Fate::Applied => self.report.new += 1,
                Fate::Ignored => self.report.ignored += 1,
                Fate::Parked(reason) => {
                    let error = format!("stored and parked, because it cannot be understood: {reason}");
                    self.fail(&path, line, Failure { at: None, error });
                }
            }
        }
        Ok(())
    }

    async fn insert(&self, events: &[NewEvent]) -> Result<Vec<Inserted>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.insert_once(events).await {
                // The order of the inputs is not the order of keys in which a receiver beside us inserts,
                // so the two can be in each other's way. Then nothing was written.
                Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => attempt += 1,
                result => return result,
            }
        }
    }

    async fn insert_once(&self, events: &[NewEvent]) -> Result<Vec<Inserted>, StoreError> {
        let mut tx = self.app.db.begin().await?;
        let inserted = inbox::insert_batch(&mut tx, events).await?;
        if self.dry_run {
            tx.rollback().await?;
        } else {
            failpoint::reach(Failpoint::ReplayBeforeCommit);
            tx.commit().await?;
            failpoint::reach(Failpoint::ReplayAfterCommit);
        }
        Ok(inserted)
    }
}

fn owned_key(event: &NewEvent) -> (&'static str, String, String, bool, String) {
    let (_, endpoint, account, livemode, id) = event.key();
    (event.provider, endpoint.to_owned(), account.to_owned(), livemode, id.to_owned())
}

/// The id of the endpoint that the configuration stands for.
fn default_endpoint(provider: &str) -> String {
    format!("ep_default_{provider}")
}

/// The provider that an archive names, else the one whose events look like this.
fn identify(body: &[u8], archived: Option<&ArchivedEvent>) -> Result<&'static dyn Inbound, Failure> {
    // Also a body that an archive names must be JSON before anything else is said about it.
    let shape: Shape = serde_json::from_slice(body).map_err(|error| Failure::of_json(&error))?;
    let name = match (archived, shape.object) {
        (Some(archived), _) => archived.provider.as_str(),
        (None, Some(Word::Text(object))) if object == "event" || object == "v2.core.event" => "stripe",
        (None, _) if shape.event_id.is_some() => "paddle",
        (None, _) => {
            return Err(Failure::of(
                "is not an event: neither `\"object\": \"event\"` (Stripe) nor an `event_id` (Paddle)",
            ));
        }
    };
    providers::inbound(name)
        .ok_or_else(|| Failure::of("the archive names a provider that this program does not know"))
}

/// An archive line whose columns contradict its bytes was edited, and nobody can say which half is true.
fn check_identity(event: &NewEvent, archived: &ArchivedEvent) -> Result<(), Failure> {
    if event.provider_event_id == archived.provider_event_id && event.account == archived.account {
        return Ok(());
    }
    Err(Failure::of("the line names another event or account than its body does"))
}
