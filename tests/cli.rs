//! The real program, run as an operator runs it: arguments in, exit code, documents and files out.
//!
//! On SQLite in a directory per test. What the stages do on both engines is tested in `it`; this is about
//! the contracts of the command line.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use remit::{
    app::{
        App,
        charges::{self, NewCharge},
        demo::Demo,
    },
    clock::{Clock as _, SystemClock},
    config::Config,
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
    providers::{Inbound as _, stripe::Stripe},
    store::{Db, DbOptions},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "whsec_of_the_tests";
/// The platform's key at the provider.
const KEY: &str = "sk_test_of_the_tests";
const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A directory with a database and nothing else.
struct Bench {
    directory: TempDir,
}

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    #[track_caller]
    fn data(&self) -> Value {
        let document: Value = serde_json::from_slice(&self.out).unwrap();
        document["data"].clone()
    }
}

impl Bench {
    /// Without a database.
    fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// With a database that has the schema.
    fn migrated() -> Self {
        let bench = Self::empty();
        bench.run(&["migrate"]).ends_with(0);
        bench
    }

    /// With the programs and affiliates that the fixtures talk about.
    fn with_affiliates() -> Self {
        let bench = Self::migrated();
        in_runtime(async {
            let settings = [("secrets.master_key", MASTER_KEY.to_owned())];
            let config =
                Config::load(None, [], settings, |_| unreachable!("no setting names a file")).unwrap();
            let db = Db::connect(&bench.url(), &DbOptions::default()).await.unwrap();
            let app = App::new(db.clone(), Arc::new(config), Arc::new(SystemClock));
            Demo::prepare(&app, &SecretString::from(SECRET)).await.unwrap();
            db.close().await;
        });
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        name.to_owned()
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path("remit.db").display())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remit"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REMIT_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("REMIT_PROGRAMS__MERGE_GRACE_S", "0")
            .env("REMIT_SECRETS__MASTER_KEY", MASTER_KEY)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs with `--output json` and gives what is under `data`.
    #[track_caller]
    fn json(&self, arguments: &[&str], code: i32) -> Value {
        self.run(&[arguments, &["--output", "json"]].concat()).ends_with(code).data()
    }

    #[track_caller]
    fn events(&self) -> Vec<Value> {
        self.json(&["events", "list", "--limit", "1000"], 0).as_array().unwrap().clone()
    }

    /// Settles where payouts are enabled, and gives what is under `data`, if there is anything.
    #[track_caller]
    fn settle(&self, arguments: &[&str], code: i32) -> Value {
        let arguments = [&["settle", "--output", "json"], arguments].concat();
        let ran = Ran::of(self.command(&arguments).env("REMIT_PAYOUTS__LIVE", "true").output().unwrap());
        let ran = ran.ends_with(code);
        if ran.out.is_empty() { Value::Null } else { ran.data() }
    }

    /// One text column of the database.
    fn column(&self, sql: &'static str) -> Vec<String> {
        in_runtime(async {
            let db = Db::connect(&self.url(), &DbOptions::default()).await.unwrap();
            let column = db.read().await.unwrap().q(sql).scalars().await.unwrap();
            db.close().await;
            column
        })
    }

    /// Runs statements on the database behind the program's back.
    fn tamper(&self, statements: &'static [&'static str]) {
        in_runtime(async {
            let db = Db::connect(&self.url(), &DbOptions::default()).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            for statement in statements {
                tx.q(*statement).exec().await.unwrap();
            }
            tx.commit().await.unwrap();
            db.close().await;
        });
    }
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn event(id: &str, livemode: bool) -> String {
    let object = json!({
        "id": format!("pi_{id}"), "object": "payment_intent", "amount": 10_000, "amount_received": 10_000,
        "created": 1_767_348_000, "currency": "usd", "customer": "cus_1", "livemode": livemode,
        "latest_charge": format!("ch_{id}"), "metadata": {"referral_code": "ada"}, "status": "succeeded",
    });
    let event = json!({
        "id": format!("evt_{id}"), "object": "event", "api_version": "2026-07-29.dahlia",
        "created": 1_767_348_000, "livemode": livemode, "type": "payment_intent.succeeded",
        "data": {"object": object},
    });
    // Spread over lines and with a line at the end: bytes that a re-serialised copy would not have.
    format!("{event:#}\n")
}

#[test]
fn commands_that_read_create_no_database() {
    let bench = Bench::empty();
    for arguments in [
        &["events", "list"][..],
        &["events", "export"],
        &["doctor"],
        &["keys", "list"],
        &["findings", "list"],
        &["audit", "list"],
        &["mail", "list"],
        &["mail", "retry", "--all"],
        &["replay", "."],
    ] {
        let ran = bench.run(arguments).ends_with(1);
        assert!(ran.err.contains("remit migrate"), "{arguments:?}: {}", ran.err);
        assert!(ran.out.is_empty());
    }
    assert_eq!(fs::read_dir(bench.directory.path()).unwrap().count(), 0);
}

#[test]
fn a_database_without_the_schema_is_named_with_its_remedy() {
    let bench = Bench::empty();
    bench.write("remit.db", "");
    let ran = bench.run(&["events", "list"]).ends_with(1);
    assert!(ran.err.contains("run `remit migrate`"), "{}", ran.err);
    bench.run(&["migrate"]).ends_with(0);
    bench.run(&["migrate"]).ends_with(0);
    assert_eq!(bench.json(&["events", "list"], 0), json!([]));
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    let bench = Bench::migrated();
    for arguments in [
        &["events", "list", "--state", "lost"][..],
        &["events", "list", "--limit", "0"],
        &["jobs", "list", "--state", "lost"],
        &["jobs", "list", "--kind", "gift"],
        &["jobs", "resolve", "int_1", "--evidence", "a ticket of theirs", "--approver", "rk"],
        &[
            "jobs",
            "resolve",
            "int_1",
            "--not-executed",
            "--executed",
            "tr_1",
            "--evidence",
            "x",
            "--approver",
            "rk",
        ],
        &["jobs", "resolve", "int_1", "--not-executed", "--evidence", "too short", "--approver", "rk"],
        &["mail", "list", "--state", "unknown"],
        &["mail", "retry"],
        &["mail", "retry", "mail_1", "--all"],
        &["mail", "retry", "job_1"],
        &["keys", "create", "--kind", "root"],
        &["keys", "create", "--kind", "operator", "--scopes", "everything"],
        &["keys", "create", "--kind", "organization"],
        &["keys", "revoke", "not-a-key"],
        &["replay"],
        &["nonsense"],
        &[],
    ] {
        let ran = bench.run(arguments).ends_with(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}");
    }
    let state = bench.run(&["events", "list", "--state", "lost"]);
    assert!(state.err.contains("received, applied, ignored, parked"), "{}", state.err);
}

#[test]
fn every_problem_of_the_configuration_is_named_at_once() {
    let bench = Bench::empty();
    let output = bench
        .command(&["serve"])
        .env("REMIT_STRIPE__TOLERANCE_S", "0")
        .env("REMIT_STRIPE__WEBHOOK_SECRET", "whsec_misspelt")
        .env("REMIT_SERVER__LISTEN", "everywhere")
        .output()
        .unwrap();
    let ran = Ran::of(output).ends_with(2);
    for part in ["REMIT_STRIPE__TOLERANCE_S", "REMIT_STRIPE__WEBHOOK_SECRETS", "REMIT_SERVER__LISTEN"] {
        assert!(ran.err.contains(part), "{}", ran.err);
    }
    assert!(!ran.err.contains("whsec_misspelt"));
    assert!(!bench.path("remit.db").exists());
}

#[test]
fn a_replayed_directory_is_stored_byte_for_byte_and_only_once() {
    let bench = Bench::with_affiliates();
    let directory = fixture("stripe");
    let first = bench.json(&["replay", text(&directory)], 0);
    let count = fs::read_dir(&directory).unwrap().count();
    assert_eq!(first["new"].as_u64().unwrap() + first["ignored"].as_u64().unwrap(), count as u64);
    assert_eq!((&first["duplicate"], &first["failed"], &first["errors"]), (&json!(0), &json!(0), &json!([])));

    let events = bench.events();
    assert_eq!(events.len(), count);
    assert!(events.iter().all(|event| event["source"] == "replay"));
    let ignored = events.iter().filter(|event| event["state"] == "ignored").count();
    assert_eq!(first["ignored"], ignored, "what was announced as ignored was ignored");
    assert!(events.iter().all(|event| event["state"] == "ignored" || event["state"] == "applied"));

    let again = bench.json(&["replay", text(&directory)], 0);
    assert_eq!(again, json!({"new": 0, "duplicate": count, "ignored": 0, "failed": 0, "errors": []}));

    let archive = bench.run(&["events", "export"]).ends_with(0).out;
    for line in archive.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).unwrap();
        let body = base64(line["body_base64"].as_str().unwrap());
        let parsed: Value = serde_json::from_slice(&body).unwrap();
        let file = directory.join(format!("{}.json", parsed["type"].as_str().unwrap()));
        assert_eq!(body, fs::read(file).unwrap());
    }
    bench.run(&["doctor"]).ends_with(0);
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn an_archive_rebuilds_the_same_books_elsewhere() {
    let (here, there) = (Bench::with_affiliates(), Bench::with_affiliates());
    here.json(&["replay", text(&fixture("stripe")), text(&fixture("paddle"))], 0);
    let archive = here.run(&["events", "export"]).ends_with(0).out;
    there.write("archive.ndjson", &archive);
    let replayed = there.json(&["replay", "archive.ndjson"], 0);
    assert_eq!(replayed["failed"], 0);
    assert_eq!(sorted_lines(&there.run(&["events", "export"]).ends_with(0).out), sorted_lines(&archive));
    let states = |bench: &Bench| {
        let key = |event: &Value| (event["provider_event_id"].to_string(), event["state"].to_string());
        let mut states: Vec<_> = bench.events().iter().map(key).collect();
        states.sort();
        states
    };
    assert_eq!(states(&there), states(&here));
    there.run(&["doctor"]).ends_with(0);
}

fn sorted_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

#[test]
fn an_archive_line_that_was_edited_is_refused() {
    let bench = Bench::migrated();
    bench.write("event.json", event("1", false));
    bench.json(&["replay", "event.json"], 0);
    let archive = String::from_utf8(bench.run(&["events", "export"]).ends_with(0).out).unwrap();
    let other = Bench::migrated();
    other.write("id.ndjson", archive.replace("\"evt_1\"", "\"evt_2\""));
    other.write("endpoint.ndjson", archive.replace("ep_default_stripe", "ep_elsewhere"));
    other.write("bytes.ndjson", archive.replace("\"body_base64\":\"", "\"body_base64\":\"!"));
    let report = other.json(&["replay", "id.ndjson", "endpoint.ndjson", "bytes.ndjson"], 1);
    let errors = report["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 3, "{report:#}");
    for (error, words) in errors.iter().zip(["another event", "--endpoint", "not base64"]) {
        assert!(error["error"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(error["line"], 1);
    }
    assert_eq!(other.events(), Vec::<Value>::new());
}

#[test]
fn a_dry_run_tells_the_outcome_and_writes_nothing() {
    let bench = Bench::migrated();
    bench.write("a.json", event("1", false));
    bench.write("b.json", event("1", false));
    let paths = ["replay", "a.json", "b.json", text(&fixture("paddle"))].map(str::to_owned);
    let arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    let told = bench.json(&[&arguments[..], &["--dry-run"]].concat(), 0);
    assert_eq!(bench.events(), Vec::<Value>::new());
    assert_eq!(told["duplicate"], 1);
    assert_eq!(bench.json(&arguments, 0), told);
}

#[test]
fn an_id_that_several_events_carry_shows_all_of_them_and_retries_none() {
    const COPY: &str =
        "INSERT INTO inbox SELECT 'in_other', provider, 'ep_other', project_id, account, livemode,
            provider_event_id, event_type, provider_created_at_us, received_at_us, source, state, reason,
            attempts, next_attempt_at_us, processed_at_us, body, body_sha256
        FROM inbox";
    let bench = Bench::migrated();
    bench.write("event.json", event("1", false));
    bench.json(&["replay", "event.json"], 0);
    let own = bench.events()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.json(&["events", "show", "evt_1"], 0)["id"], json!(own));
    bench.tamper(&[COPY]);
    let shared = bench.json(&["events", "show", "evt_1"], 0);
    let mut ids: Vec<&str> =
        shared.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut both = [own.as_str(), "in_other"];
    both.sort_unstable();
    assert_eq!(ids, both);
    assert_eq!(bench.json(&["events", "show", "in_other"], 0)["endpoint_id"], "ep_other");
    let refused = bench.run(&["events", "retry", "evt_1"]).ends_with(1);
    assert!(refused.err.contains(&own) && refused.err.contains("in_other"), "{}", refused.err);
}

#[test]
fn events_of_the_other_mode_are_refused_in_both_directions() {
    let bench = Bench::migrated();
    bench.write("live.json", event("live", true));
    bench.write("test.json", event("test", false));
    let report = bench.json(&["replay", "live.json", "test.json"], 1);
    assert_eq!((&report["new"], &report["failed"]), (&json!(1), &json!(1)));
    assert_eq!(report["errors"][0]["path"], "live.json");
    assert!(report["errors"][0]["error"].as_str().unwrap().contains("live"));

    let live = Bench::migrated();
    live.write("live.json", event("live", true));
    live.write("test.json", event("test", false));
    let mut command = live.command(&["replay", "live.json", "test.json", "--output", "json"]);
    let report = Ran::of(command.env("REMIT_LIVEMODE", "true").output().unwrap()).ends_with(1).data();
    assert_eq!((&report["new"], &report["errors"][0]["path"]), (&json!(1), &json!("test.json")));
}

#[test]
fn errors_name_path_line_and_column_and_the_rest_goes_on() {
    let bench = Bench::migrated();
    bench.write("broken.json", "{\n  \"object\": \"event\",\n  \"id\": ,\n}");
    bench.write("other.json", r#"{"hello": "alice@example.com"}"#);
    bench.write("fine.json", event("1", false));
    let line = |id| event(id, false).replace('\n', "");
    bench.write("many.ndjson", format!("{}\n\n{{\"object\": \"event\", ]\n{}\n", line("2"), line("3")));
    let report = bench.json(&["replay", "broken.json", "other.json", "fine.json", "many.ndjson"], 1);
    assert_eq!((&report["new"], &report["failed"]), (&json!(3), &json!(3)), "{report:#}");
    let errors = report["errors"].as_array().unwrap();
    let place = |error: &Value| (error["path"].clone(), error["line"].clone(), error["column"].clone());
    assert_eq!(place(&errors[0]), (json!("broken.json"), json!(3), json!(9)));
    assert_eq!(place(&errors[1]), (json!("other.json"), json!(null), json!(null)));
    assert_eq!(place(&errors[2]), (json!("many.ndjson"), json!(3), json!(21)));
    // What is wrong is said without repeating what may be somebody's data.
    assert!(!report.to_string().contains("alice"));

    let told = bench.run(&["replay", "broken.json"]).ends_with(1);
    assert!(told.err.contains("broken.json:3:9: "), "{}", told.err);
}

#[test]
fn stories_of_the_tests_are_passed_over_in_a_directory_and_refused_by_name() {
    let bench = Bench::migrated();
    fs::create_dir_all(bench.path("stories/one")).unwrap();
    let story = fixture("scenarios/plain_sale/scenario.json");
    fs::copy(&story, bench.path("stories/one/scenario.json")).unwrap();
    bench.write("stories/README.md", "words");
    bench.write("stories/one/event.json", event("1", false));
    let report = bench.json(&["replay", "stories"], 0);
    assert_eq!((&report["new"], &report["failed"]), (&json!(1), &json!(0)));
    assert_eq!(bench.json(&["replay", text(&story)], 1)["failed"], 1);
    bench.run(&["replay", "missing"]).ends_with(1);
}

#[test]
fn an_event_that_cannot_be_understood_is_kept_parked_and_can_be_retried() {
    let bench = Bench::migrated();
    let broken = event("1", false).replace("\"amount_received\": 10000", "\"amount_received\": \"much\"");
    bench.write("broken.json", broken);
    let report = bench.json(&["replay", "broken.json"], 1);
    assert_eq!((&report["new"], &report["failed"]), (&json!(0), &json!(1)));
    let parked = bench.json(&["events", "list", "--state", "parked"], 0);
    assert_eq!(parked[0]["provider_event_id"], "evt_1");
    let id = parked[0]["id"].as_str().unwrap();

    let doctor = bench.json(&["doctor"], 3);
    assert_eq!(doctor["findings"][0]["invariant"], "event_parked");
    assert_eq!(doctor["findings"][0]["severity"], "warning");
    assert_eq!(doctor["findings"][0]["object"], id);

    assert_eq!(bench.json(&["events", "retry", id], 0)["state"], "received");
    let again = bench.run(&["events", "retry", id]).ends_with(1);
    assert!(again.err.contains("only parked events"), "{}", again.err);
    bench.write("fine.json", event("2", false));
    bench.json(&["replay", "fine.json"], 0);
    // The body is as it was, so it ends where it did; by the provider's id this time.
    assert_eq!(bench.json(&["events", "retry", "evt_1", "--now"], 1)["state"], "parked");
    assert_eq!(bench.json(&["events", "show", "evt_2"], 0)["state"], "applied");
    bench.run(&["events", "show", "evt_3"]).ends_with(1);
}

#[test]
fn lists_continue_at_their_cursor() {
    let bench = Bench::migrated();
    bench.json(&["replay", text(&fixture("paddle"))], 0);
    let page = bench.run(&["events", "list", "--limit", "4", "--output", "json"]).ends_with(0);
    let document: Value = serde_json::from_slice(&page.out).unwrap();
    assert_eq!(document["data"].as_array().unwrap().len(), 4);
    let cursor = document["next_cursor"].as_str().unwrap();
    let rest = bench.run(&["events", "list", "--cursor", cursor, "--output", "json"]).ends_with(0);
    let rest: Value = serde_json::from_slice(&rest.out).unwrap();
    assert_eq!(rest["next_cursor"], Value::Null);
    let mut all = document["data"].as_array().unwrap().clone();
    all.extend(rest["data"].as_array().unwrap().clone());
    assert_eq!(all, bench.events());
    let fields: Vec<&String> = all[0].as_object().unwrap().keys().collect();
    for field in ["id", "provider", "endpoint_id", "account", "livemode", "provider_event_id", "type"]
        .into_iter()
        .chain(["state", "reason", "attempts", "received_at", "source"])
    {
        assert!(fields.iter().any(|known| *known == field), "{field}");
    }
    assert!(all[0]["received_at"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_key_is_shown_once_and_ends_when_it_is_revoked() {
    let bench = Bench::migrated();
    let made = bench.json(&["keys", "create", "--kind", "operator"], 0);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with("rk_op_"), "{key}");
    assert_eq!((&made["kind"], &made["scopes"]), (&json!("operator"), &json!(["*"])));
    let listed = bench.run(&["keys", "list", "--output", "json"]).ends_with(0);
    assert_eq!(listed.data()[0]["id"], id);
    assert!(!String::from_utf8(listed.out).unwrap().contains(key));
    assert!(bench.json(&["keys", "revoke", id], 0)["revoked_at"].is_string());

    let told = bench.json(&["audit", "list", "--object", id], 0);
    let told: Vec<_> = told.as_array().unwrap().iter().map(|row| (&row["action"], &row["actor"])).collect();
    let console = json!("console");
    assert_eq!(told, [(&json!("key.revoked"), &console), (&json!("key.created"), &console)]);
    let narrow = ["audit", "list", "--object", id, "--action", "key.revoked", "--actor", "console"];
    assert_eq!(bench.json(&narrow, 0).as_array().unwrap().len(), 1);
    assert_eq!(bench.json(&["audit", "list", "--since", "2999-01-01T00:00:00Z"], 0), json!([]));

    let organization =
        ["keys", "create", "--kind", "organization", "--org", "org_default", "--scopes", "read"];
    assert_eq!(bench.json(&organization, 0)["scopes"], json!(["read"]));
    bench.run(&["keys", "create", "--kind", "organization", "--org", "org_missing"]).ends_with(1);
}

#[test]
fn endpoint_secrets_come_from_a_file_and_are_sealed() {
    let bench = Bench::migrated();
    bench.write("secrets", format!("{SECRET}\n"));
    let create = ["endpoints", "create", "--provider", "stripe", "--secrets-file", "secrets"];
    let made = bench.json(&create, 0);
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["provider"], &made["livemode"]), (&json!("stripe"), &json!(false)));
    let raw = fs::read(bench.path("remit.db")).unwrap();
    assert!(!raw.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));

    bench.write("event.json", event("1", false));
    bench.json(&["replay", "event.json", "--endpoint", id], 0);
    assert_eq!(bench.events()[0]["endpoint_id"], id);
    bench.write("paddle.json", fs::read(fixture("paddle/transaction.completed.json")).unwrap());
    bench.json(&["replay", "paddle.json", "--endpoint", id], 1);

    assert_eq!(bench.json(&["endpoints", "list"], 0)[0]["id"], id);
    bench.json(&["endpoints", "delete", id], 0);
    assert_eq!(bench.json(&["endpoints", "list"], 0), json!([]));
    bench.run(&["endpoints", "delete", id]).ends_with(1);

    bench.write("secrets", "short");
    bench.run(&create).ends_with(2);
    bench.write("secrets", format!("{SECRET}\n"));
    let keyless = bench.command(&create).env_remove("REMIT_SECRETS__MASTER_KEY").output().unwrap();
    assert!(Ran::of(keyless).ends_with(1).err.contains("REMIT_SECRETS__MASTER_KEY"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::migrated();
    bench.json(&["replay", text(&fixture("stripe"))], 0);
    for arguments in [&["events", "export"][..], &["events", "list"], &["completions", "bash"]] {
        let mut child =
            bench.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().unwrap()).ends_with(0);
        assert!(ran.err.is_empty(), "{}", ran.err);
    }
}

#[test]
fn completions_name_every_command() {
    let script = String::from_utf8(Bench::empty().run(&["completions", "bash"]).ends_with(0).out).unwrap();
    let commands = [
        "serve",
        "demo",
        "sandbox",
        "replay",
        "settle",
        "payouts",
        "events",
        "jobs",
        "mail",
        "keys",
        "endpoints",
        "doctor",
        "migrate",
    ];
    for command in commands {
        assert!(script.contains(command), "{command}");
    }
}

#[test]
fn mails_that_were_given_up_are_listed_masked_and_tried_again() {
    let bench = Bench::with_affiliates();
    bench.tamper(&[
        "INSERT INTO mail (id, topic, enrollment_id, state, reason, attempts, epoch, created_at_us,
            finished_at_us)
        SELECT 'mail_' || key, 'commissions', (SELECT MIN(id) FROM enrollment), value, 'refused_550', 1, 1,
            1767225600000000 + key, 1767225600000009
        FROM json_each('[\"completed\", \"parked\", \"parked\", \"parked\"]')",
    ]);
    let list = |arguments: &[&str]| bench.json(&[&["mail", "list"], arguments].concat(), 0);
    let ids = |rows: &Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let given_up = list(&["--state", "parked"]);
    assert_eq!(ids(&given_up), ["mail_3", "mail_2", "mail_1"]);
    assert_eq!(ids(&list(&["--limit", "2"])), ["mail_3", "mail_2"]);
    assert_eq!(ids(&list(&["--cursor", "mail_2"])), ["mail_1", "mail_0"]);
    let address = &bench.column(
        "SELECT o.email FROM organization o JOIN enrollment e ON e.organization_id = o.id
        ORDER BY e.id LIMIT 1",
    )[0];
    let to = given_up[0]["to"].as_str().unwrap();
    assert!(to.contains("***@") && to != address, "{to}");
    assert!(!bench.run(&["mail", "list"]).err.contains('@'));

    let one = bench.json(&["mail", "retry", "mail_1"], 0);
    assert_eq!(
        (&one["id"], &one["state"], &one["attempts"]),
        (&json!("mail_1"), &json!("available"), &json!(0))
    );
    let again = bench.run(&["mail", "retry", "mail_1"]).ends_with(1);
    assert!(again.err.contains("mail_1 is available, and only parked ones are tried again"), "{}", again.err);
    bench.run(&["mail", "retry", "mail_9"]).ends_with(1);
    assert_eq!(bench.json(&["mail", "retry", "--all"], 0), json!({"retried": 2}));
    assert_eq!(bench.json(&["mail", "retry", "--all"], 0), json!({"retried": 0}));
    assert_eq!(list(&["--state", "parked"]), json!([]));
    assert!(bench.run(&["mail", "list"]).err.contains("`mail.url` is not set here"));
}

#[test]
fn a_file_of_authorities_that_holds_none_is_named_at_the_start() {
    let bench = Bench::migrated();
    bench.write("empty.pem", "");
    for (file, what) in [("missing.pem", "cannot be read"), ("empty.pem", "must hold certificates in PEM")] {
        let mut serve = bench.command(&["serve"]);
        serve.env("REMIT_MAIL__URL", "smtps://mail.example.com").env("REMIT_MAIL__FROM", "a@example.com");
        serve.env("REMIT_SERVER__LISTEN", "127.0.0.1:0").env("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0");
        let ran = Ran::of(serve.env("REMIT_MAIL__CA_FILE", file).output().unwrap()).ends_with(2);
        assert!(ran.err.contains("`mail.ca_file`") && ran.err.contains(what), "{}", ran.err);
    }
}

/// Queues a charge as a caller will, and leaves what became of it in doubt.
fn charge_in_doubt(bench: &Bench) {
    in_runtime(async {
        let config = Config::load(None, [], [], |_| unreachable!("no setting names a file")).unwrap();
        let db = Db::connect(&bench.url(), &DbOptions::default()).await.unwrap();
        let app = App::new(db.clone(), Arc::new(config), Arc::new(SystemClock));
        let charge = NewCharge {
            project_id: ProjectId::platform(),
            amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
            application_fee: 50,
            destination: "acct_seller".to_owned(),
            client_reference: Some("order".to_owned()),
        };
        charges::queue(&app, &charge).await.unwrap();
        db.close().await;
    });
    bench.tamper(&[
        "UPDATE intent SET state = 'unknown'",
        "UPDATE charge SET state = 'unknown', reason = 'window_over'",
        "UPDATE job SET state = 'unknown', reason = 'window_over', next_attempt_at_us = NULL",
    ]);
}

#[test]
fn a_doubt_is_listed_shown_retried_and_ended_by_two_people() {
    let bench = Bench::migrated();
    charge_in_doubt(&bench);
    let jobs =
        bench.json(&["jobs", "list", "--state", "unknown", "--state", "parked", "--kind", "charge"], 0);
    let job = jobs[0].as_object().unwrap();
    let fields: Vec<&str> = job.keys().map(String::as_str).collect();
    let contract =
        ["attempts", "generation", "id", "intent_id", "kind", "next_attempt_at", "reason", "state"];
    assert_eq!(fields, contract);
    assert_eq!((&job["state"], &job["reason"]), (&json!("unknown"), &json!("window_over")));
    assert_eq!(bench.json(&["jobs", "list", "--state", "completed"], 0), json!([]));
    let (id, intent) = (job["id"].as_str().unwrap(), job["intent_id"].as_str().unwrap());
    let shown = bench.json(&["jobs", "show", id], 0);
    assert_eq!(shown["charge"]["client_reference"], "order");
    assert_eq!(bench.json(&["jobs", "show", intent], 0), shown);
    let table = String::from_utf8(bench.run(&["jobs", "show", intent]).ends_with(0).out).unwrap();
    assert!(table.contains("remit_test_") && table.contains("acct_seller"), "{table}");
    assert!(bench.json(&["jobs", "retry", id], 0)["job"]["next_attempt_at"].is_string());
    bench.run(&["jobs", "show", "job_unheard_of"]).ends_with(1);

    let made = bench.json(&["keys", "create", "--kind", "operator", "--scopes", "payout:resolve"], 0);
    let approver = made["key"].as_str().unwrap();
    let say = |id: &str| {
        let mut command = bench.command(&["jobs", "resolve", id, "--not-executed", "--approver", "-"]);
        command.args(["--evidence", "their support has looked: ticket 4711", "--output", "json"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(approver.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    };
    let refused = say(id).ends_with(2);
    assert!(refused.err.contains("type the intent's own id"), "{}", refused.err);
    let ended = say(intent).ends_with(0).data();
    assert_eq!((&ended["job"]["state"], &ended["job"]["generation"]), (&json!("available"), &json!(1)));
    assert_eq!(ended["resolutions"][1]["evidence"], "their support has looked: ticket 4711");
    let again = say(intent).ends_with(1);
    assert!(again.err.contains("only one that is unknown"), "{}", again.err);
    assert!(!again.err.contains(approver));
}

#[test]
fn a_database_that_went_back_in_time_is_paused_at_the_start_and_resumed_by_a_person() {
    let bench = Bench::migrated();
    let serve = || {
        let server = Server::start(&bench);
        server.signal("-TERM");
        assert_eq!(server.end().0, Some(0));
    };
    serve();
    assert!(bench.path("remit.db.witness").exists());
    serve();
    assert_eq!(bench.json(&["payouts", "status"], 0)["paused"], false);
    bench.tamper(&["UPDATE instance SET beat = 1"]);
    assert_eq!(bench.json(&["doctor"], 3)["findings"][0]["invariant"], "database_not_restored");
    serve();
    assert_eq!(bench.json(&["payouts", "status"], 0)["pauses"][0]["kind"], "restored");
    assert_eq!(bench.json(&["findings", "list"], 0)[0]["kind"], "database_restored");
    bench.run(&["payouts", "resume"]).ends_with(1);
    bench.run(&["payouts", "resume", "--confirm-restored", "--note", "compared"]).ends_with(0);
    serve();
    assert_eq!(bench.json(&["payouts", "status"], 0)["paused"], false);
    assert_eq!(bench.json(&["findings", "list"], 0), json!([]));
    assert_eq!(bench.json(&["doctor"], 0)["findings"], json!([]));
}

/// A server that is stopped when the test ends, however it ends.
struct Server {
    child: Child,
    public: String,
    ops: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(bench: &Bench) -> Self {
        Self::start_with(bench, &[])
    }

    fn start_with(bench: &Bench, settings: &[(&str, &str)]) -> Self {
        let mut child = bench
            .command(&["serve"])
            .envs(settings.iter().copied())
            .env("REMIT_SERVER__LISTEN", "127.0.0.1:0")
            .env("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0")
            .env("REMIT_STRIPE__WEBHOOK_SECRETS", SECRET)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, public: String::new(), ops: String::new(), log };
        let line = server.wait_for_log("listening");
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap();
        (server.public, server.ops) = (word("public=").to_owned(), word("ops=").to_owned());
        server
    }

    /// Reads the log up to the first line with `words` and gives that line.
    fn wait_for_log(&mut self, words: &str) -> String {
        let mut lines = String::new();
        loop {
            let start = lines.len();
            assert!(self.log.read_line(&mut lines).unwrap() > 0, "the server ended: {lines}");
            if lines[start..].contains(words) {
                return lines[start..].to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(name).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (code, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only fails when the process has ended already.
        drop(self.child.kill());
    }
}

/// A provider sandbox that is stopped when the test ends, however it ends.
struct Sandbox {
    child: Child,
    address: String,
}

impl Sandbox {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let fixed = ["sandbox", "--listen", "127.0.0.1:0"];
        let mut command = bench.command(&[&fixed, arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("sandbox listens on http://").unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Only fails when the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One request over a connection of its own; the status line and the body.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn post(address: &str, path: &str, body: &Value) -> (String, String) {
    let body = body.to_string();
    ask(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nhost: remit\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

fn get(address: &str, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: remit\r\nconnection: close\r\n\r\n"))
}

fn webhook(body: &str, secret: &str) -> String {
    let signature = Stripe.sign(body.as_bytes(), &SecretString::from(secret), SystemClock.now());
    format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: remit\r\nconnection: close\r\nstripe-signature: {signature}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_server_takes_signed_webhooks_beside_other_commands_and_drains_on_sigterm() {
    let bench = Bench::empty();
    let mut server = Server::start(&bench);
    let body = event("1", false);
    let (status, answer) = ask(&server.public, &webhook(&body, SECRET));
    assert_eq!(
        (status.as_str(), answer.as_str()),
        ("HTTP/1.1 200 OK", r#"{"received":true,"duplicate":false}"#)
    );
    let (_, answer) = ask(&server.public, &webhook(&body, SECRET));
    assert_eq!(answer, r#"{"received":true,"duplicate":true}"#);
    let (status, answer) = ask(&server.public, &webhook(&body, "whsec_of_somebody_else"));
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert!(answer.contains("BAD_SIGNATURE"));

    assert_eq!(
        get(&server.ops, "/readyz"),
        ("HTTP/1.1 200 OK".to_owned(), r#"{"status":"ready"}"#.to_owned())
    );
    assert!(get(&server.ops, "/metrics").1.contains(r#"remit_webhook_requests_total{provider="stripe""#));
    assert_eq!(get(&server.public, "/metrics").0, "HTTP/1.1 404 Not Found");
    let events = bench.events();
    assert_eq!((events.len(), &events[0]["source"]), (1, &json!("webhook")));

    // A request of which only the head has arrived is under way, and is answered in the drain. The
    // server asks for the body when its handler wants to read it.
    let late = event("2", false);
    let request = webhook(&late, SECRET);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut stream = TcpStream::connect(&server.public).unwrap();
    stream.write_all(format!("{head}\r\nexpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.signal("-TERM");
    server.wait_for_log("stopping");
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert_eq!(bench.events().len(), 2);
    bench.run(&["doctor"]).ends_with(0);
}

#[test]
fn the_admin_api_opens_with_a_key_of_the_command_line() {
    let bench = Bench::migrated();
    let key = bench.json(&["keys", "create", "--kind", "operator"], 0);
    let server = Server::start(&bench);
    let request = |key: &str| {
        format!(
            "GET /v1/admin/keys HTTP/1.1\r\nhost: remit\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
        )
    };
    assert_eq!(ask(&server.public, &request(key["key"].as_str().unwrap())).0, "HTTP/1.1 200 OK");
    assert_eq!(ask(&server.public, &request("rk_op_made_up")).0, "HTTP/1.1 401 Unauthorized");
}

#[test]
fn a_server_pays_through_the_sandbox_what_the_command_line_has_settled() {
    let bench = Bench::with_affiliates();
    bench.json(&["replay", text(&fixture("stripe"))], 0);
    bench.tamper(CAN_BE_PAID);
    let sandbox = Sandbox::start(&bench, &["--journal", "sandbox.ndjson"]);
    for account in bench.column("SELECT account_id FROM payout_account") {
        let (status, answer) = post(&sandbox.address, "/_sandbox/accounts", &json!({ "id": account }));
        assert_eq!(status, "HTTP/1.1 200 OK", "{answer}");
    }
    let url = format!("http://{}", sandbox.address);
    let settings = [
        ("REMIT_PAYOUTS__LIVE", "true"),
        ("REMIT_STRIPE__SECRET_KEY", KEY),
        ("REMIT_STRIPE__API_BASE", &url),
    ];
    let mut server = Server::start_with(&bench, &settings);
    let settled = bench.settle(&["--yes"], 0);
    let payouts = settled["payouts"].as_array().unwrap();
    for _ in payouts {
        server.wait_for_log("the provider answered");
    }
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");

    let mut asked: Vec<(String, i64)> = payouts.iter().map(|payout| moved(payout, "send")).collect();
    let journal = fs::read_to_string(bench.path("sandbox.ndjson")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let made = lines.filter(|line| line["effect"] == "transfer.created");
    let mut sent: Vec<(String, i64)> = made.map(|line| moved(&line["object"], "amount")).collect();
    asked.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, asked);
    // What the demonstration pays of the same events, less 1 % here.
    assert_eq!(sent, [("eur".to_owned(), 990), ("eur".to_owned(), 1_584), ("usd".to_owned(), 1_782)]);
    bench.run(&["doctor"]).ends_with(0);
}

/// The currency of a payout or transfer, and the amount that this field tells.
fn moved(object: &Value, field: &str) -> (String, i64) {
    (object["currency"].as_str().unwrap().to_owned(), object[field].as_i64().unwrap())
}

#[test]
fn a_database_that_does_not_answer_ends_with_try_again() {
    let bench = Bench::empty();
    // A port that was free a moment ago refuses connections.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://remit:hunter2@127.0.0.1:{port}/remit");
    let ran = bench.run(&["serve", "--database-patience", "0", "--database-url", &url]).ends_with(75);
    assert!(ran.err.contains("the database did not answer"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2"));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let bench = Bench::empty();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = bench.command(&["serve"]);
    let output = command.env("REMIT_SERVER__LISTEN", &address).env("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0");
    let ran = Ran::of(output.output().unwrap()).ends_with(1);
    assert!(ran.err.contains(&address) && ran.err.contains("server.listen"), "{}", ran.err);
}

#[test]
fn the_demonstration_ends_with_the_amounts_worked_out_by_hand() {
    let bench = Bench::empty();
    let ran = bench.run(&["demo", "--exit"]).ends_with(0);
    let text = String::from_utf8(ran.out).unwrap();
    // Order A: 20 % of 120.00, of which 30.00 were refunded; 5 % of the 18.00 that are left is the fee.
    for part in ["ada", "grace", "24.00 USD", "17.10 USD", "0.90 USD", "Payouts", "Not paid", "Totals"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(ran.err.contains("every payout is the one that was worked out by hand"), "{}", ran.err);
    assert!(ran.err.contains("the provider has moved exactly that"), "{}", ran.err);
    assert_eq!(fs::read_dir(bench.directory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_demonstration_pays_through_lost_answers_short_funds_and_reversals() {
    let told = Bench::empty().json(&["demo", "--exit", "--quiet"], 0);
    let line = |list: &str, affiliate: &str, currency: &str| {
        let lines = told[list].as_array().unwrap().iter();
        let mut own = lines.filter(|line| line["affiliate"] == affiliate && line["currency"] == currency);
        own.next().unwrap_or_else(|| panic!("{told}")).clone()
    };
    let amounts = |line: &Value, names: &[&str]| -> Vec<i64> {
        names.iter().map(|name| line[name].as_i64().unwrap()).collect()
    };

    let waited = line("payouts", "ada", "eur");
    assert_eq!(amounts(&waited, &["due", "fee", "send", "came_back"]), [1_600, 80, 1_520, 0]);
    assert_eq!(waited["story"], "waited for funds; sent under a new key when they came");
    let lost = line("payouts", "grace", "eur");
    assert_eq!(amounts(&lost, &["due", "fee", "send", "came_back"]), [1_000, 50, 950, 0]);
    assert_eq!(lost["story"], "the answer was lost; a look-up found the transfer");
    let back = line("payouts", "ada", "usd");
    assert_eq!(amounts(&back, &["due", "fee", "send", "came_back", "fee_back"]), [1_800, 90, 1_710, 570, 30]);
    assert_eq!(back["state"], "partially_reversed");

    // The conversion shows what was refunded to the buyer, 600, and what came back, 600.
    let sale = line("commissions", "ada", "usd");
    assert_eq!(amounts(&sale, &["earned", "clawed"]), [2_400, 1_200]);
    let balance = line("balances", "ada", "usd");
    assert_eq!(
        amounts(&balance, &["held", "payable", "in_transit", "paid", "fee", "came_back"]),
        [0, 0, 0, 1_710, 60, 570]
    );
    let small = line("not_paid", "ann", "usd");
    assert_eq!((&small["due"], &small["reason"]), (&json!(380), &json!("below_min_payout")));
}

/// Lets every program pay dollars and euros to everybody.
const CAN_BE_PAID: &[&str] = &[
    "UPDATE program SET min_payout = '{\"usd\":0,\"eur\":0}', platform_fee_bps = 100",
    "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
     SELECT DISTINCT organization_id, 'stripe', 'acct_' || SUBSTR(organization_id, 5), 0 FROM enrollment",
];

#[test]
fn settling_shows_a_plan_and_pays_only_when_told_to_and_allowed_to() {
    let bench = Bench::with_affiliates();
    bench.json(&["replay", text(&fixture("stripe")), text(&fixture("paddle"))], 0);
    bench.tamper(CAN_BE_PAID);
    let plan = bench.json(&["settle"], 0);
    let payouts = plan["payouts"].as_array().unwrap();
    assert!(!payouts.is_empty() && payouts.iter().all(|line| line["id"].is_null()), "{plan}");
    assert_eq!((&plan["dry_run"], &plan["runs"]), (&json!(true), &json!([])));
    for line in payouts {
        let amount = |field: &str| line[field].as_i64().unwrap();
        assert_eq!(amount("due"), amount("fee") + amount("send"), "{line}");
    }
    assert_eq!(bench.json(&["settle", "--dry-run"], 0), plan);
    let table = bench.run(&["settle"]).ends_with(0);
    assert!(String::from_utf8_lossy(&table.out).contains(" USD"), "{}", table.err);
    assert!(table.err.contains("--yes"), "{}", table.err);

    let refused = bench.run(&["settle", "--yes"]).ends_with(1);
    assert!(refused.err.contains("payouts.live") && refused.out.is_empty(), "{}", refused.err);
    bench.run(&["settle", "--yes", "--dry-run"]).ends_with(2);
    bench.run(&["settle", "--as-of", "yesterday"]).ends_with(2);
    bench.run(&["settle", "--program", "prog_nobody"]).ends_with(1);
    bench.settle(&["--yes", "--as-of", "2999-01-01T00:00:00Z"], 2);

    let one = payouts[0]["program_id"].as_str().unwrap();
    let first = bench.settle(&["--yes", "--program", one], 0);
    assert!(first["run_id"].as_str().unwrap().starts_with("run_"), "{first}");
    assert!(first["payouts"].as_array().unwrap().iter().all(|line| line["program_id"] == one));
    let rest = bench.settle(&["--yes"], 0);
    let paid: usize = [&first, &rest].map(|run| run["payouts"].as_array().unwrap().len()).iter().sum();
    assert_eq!(paid, payouts.len());
    assert_eq!(bench.json(&["settle"], 0)["payouts"], json!([]));
}

#[test]
fn paused_payouts_are_shown_and_refuse_settlements_until_they_are_resumed() {
    let bench = Bench::with_affiliates();
    let status = || bench.json(&["payouts", "status"], 0);
    assert_eq!(status(), json!({ "enabled": false, "paused": false, "pauses": [] }));
    bench.run(&["payouts", "pause"]).ends_with(2);
    bench.run(&["payouts", "pause", "--reason", " "]).ends_with(2);
    let paused = bench.json(&["payouts", "pause", "--reason", "the bank called"], 0);
    assert_eq!((&paused["paused"], &paused["pauses"][0]["actor"]), (&json!(true), &json!("console")));
    let table = bench.run(&["payouts", "status"]).ends_with(0);
    assert!(String::from_utf8_lossy(&table.out).contains("the bank called"));
    let refused =
        Ran::of(bench.command(&["settle", "--yes"]).env("REMIT_PAYOUTS__LIVE", "true").output().unwrap())
            .ends_with(1);
    assert!(refused.err.contains("paused"), "{}", refused.err);
    bench.tamper(&[
        "UPDATE payout_pause SET kind = 'restored'",
        "INSERT INTO instance (id, instance_id, beat, beat_at_us, look_up_before_us) VALUES (1, 'inst_x', 1, 0, 0)",
    ]);
    let refused = bench.run(&["payouts", "resume"]).ends_with(1);
    assert!(refused.err.contains("gone back in time"), "{}", refused.err);
    bench.run(&["payouts", "resume", "--confirm-restored", "--note", "compared by hand"]).ends_with(0);
    assert_eq!(status()["paused"], false);
    bench.settle(&["--yes"], 0);
}

#[test]
fn doctor_shows_the_configuration_with_secrets_masked() {
    let bench = Bench::migrated();
    let mut command = bench.command(&["doctor", "--output", "json"]);
    let ran = Ran::of(command.env("REMIT_STRIPE__WEBHOOK_SECRETS", SECRET).output().unwrap()).ends_with(0);
    let data = ran.data();
    assert_eq!(data["findings"], json!([]));
    assert_eq!(data["database"]["engine"], "sqlite");
    let setting = |key: &str| {
        let found = data["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key);
        found.unwrap().clone()
    };
    assert_eq!(setting("stripe.webhook_secrets")["source"], "REMIT_STRIPE__WEBHOOK_SECRETS");
    assert_eq!(setting("stripe.tolerance_s")["source"], "default");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(!text.contains(SECRET) && !text.contains(MASTER_KEY));
}

/// What `remit doctor` must say after a change that no code of the program makes.
struct Tampering {
    statements: &'static [&'static str],
    finds: &'static [&'static str],
}

const TAMPERINGS: &[Tampering] = &[
    Tampering {
        statements: &[
            "DROP TRIGGER posting_no_update",
            "UPDATE posting SET amount_minor = amount_minor + 1
                WHERE side = 'credit' AND entry_id = (SELECT MIN(id) FROM entry WHERE kind = 'accrual')",
        ],
        finds: &["entry_balanced", "entry_content_hash", "balance_is_sum_of_postings"],
    },
    Tampering {
        // Both lines: the entry still balances, so only the hash and the sums can tell.
        statements: &[
            "DROP TRIGGER posting_no_update",
            "UPDATE posting SET amount_minor = amount_minor + 1
                WHERE entry_id = (SELECT MIN(id) FROM entry WHERE kind = 'accrual')",
        ],
        finds: &["entry_content_hash", "balance_is_sum_of_postings", "commission_earned_is_posted"],
    },
    Tampering {
        statements: &["DROP TRIGGER entry_no_update", "UPDATE entry SET currency = 'chf'"],
        finds: &["entry_content_hash", "balance_is_sum_of_postings"],
    },
    Tampering {
        statements: &[
            "DROP TRIGGER posting_no_delete",
            "DELETE FROM posting WHERE entry_id = (SELECT MIN(id) FROM entry)",
        ],
        finds: &["entry_balanced", "entry_content_hash"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'payable'"],
        finds: &["balance_is_sum_of_postings", "unclaimed_lots_are_payable"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'held'"],
        finds: &["balance_is_sum_of_postings", "held_balance_is_sum_of_commissions"],
    },
    Tampering {
        statements: &["DELETE FROM lot WHERE id = (SELECT MIN(id) FROM lot)"],
        finds: &["unclaimed_lots_are_payable", "lots_follow_entries"],
    },
    Tampering {
        statements: &[
            "UPDATE commission SET earned_minor = earned_minor + 7, released_minor = released_minor + 7
                WHERE state = 'payable'",
        ],
        finds: &["commission_earned_is_posted", "commission_released_is_posted"],
    },
    Tampering {
        statements: &["UPDATE commission SET clawed_minor = clawed_minor + 1, held_minor = held_minor - 1
                WHERE state = 'flagged'"],
        finds: &[
            "commission_clawed_is_posted",
            "commission_held_is_posted",
            "held_balance_is_sum_of_commissions",
        ],
    },
    Tampering {
        statements: &[
            "PRAGMA ignore_check_constraints = ON",
            "UPDATE commission SET earned_minor = earned_minor + 1 WHERE state = 'payable'",
        ],
        finds: &["commission_adds_up", "commission_earned_is_posted"],
    },
    Tampering {
        statements: &["UPDATE commission SET revision = revision + 1"],
        finds: &["revisions_without_gaps"],
    },
    Tampering {
        statements: &["UPDATE commission SET state = 'payable' WHERE state = 'flagged'"],
        finds: &["state_fits_amounts"],
    },
    Tampering {
        statements: &["UPDATE commission SET state = 'reversed' WHERE state = 'payable'"],
        finds: &["state_fits_amounts"],
    },
    Tampering {
        statements: &[
            "UPDATE sale SET merged_into = (SELECT MAX(id) FROM sale) WHERE id = (SELECT MIN(sale_id) FROM commission)",
        ],
        finds: &["merged_sale_is_empty"],
    },
    Tampering {
        statements: &["UPDATE inbox SET state = 'received', next_attempt_at_us = 1
                WHERE id = (SELECT MIN(id) FROM inbox)"],
        finds: &["event_stuck"],
    },
    Tampering {
        // A copy without its keys, as a careless restore makes it.
        statements: &[
            "PRAGMA defer_foreign_keys = ON",
            "CREATE TABLE copy AS SELECT * FROM sale_alias",
            "DROP TABLE sale_alias",
            "ALTER TABLE copy RENAME TO sale_alias",
            "INSERT INTO sale_alias SELECT * FROM sale_alias LIMIT 1",
        ],
        finds: &["one_sale_per_provider_object"],
    },
];

/// The same where payouts were made.
const PAYOUT_TAMPERINGS: &[Tampering] = &[
    Tampering {
        statements: &["UPDATE payout SET due_minor = due_minor + 1, send_minor = send_minor + 1"],
        finds: &["payout_is_its_items", "in_transit_is_reserved", "payout_has_its_intent"],
    },
    Tampering {
        statements: &["UPDATE lot SET payout_id = NULL WHERE payout_id IS NOT NULL"],
        finds: &["lot_in_one_payout", "unclaimed_lots_are_payable", "claimed_is_held_by_a_payout"],
    },
    Tampering {
        // A lot in two payouts of which neither was given up.
        statements: &[
            "INSERT INTO payout SELECT 'po_twin', run_id, program_id, enrollment_id, organization_id, currency,
                 due_minor, fee_minor, send_minor, state, reason, provider, livemode, destination,
                 on_transfer_reversed, transfer_id, reversed_minor, returned_minor, revision, created_at_us,
                 completed_at_us
             FROM payout WHERE id = (SELECT MIN(id) FROM payout)",
            "INSERT INTO payout_item SELECT 'po_twin', lot_id, commission_id, amount_minor FROM payout_item
             WHERE payout_id = (SELECT MIN(id) FROM payout WHERE id <> 'po_twin')",
        ],
        finds: &[
            "lot_in_one_payout",
            "in_transit_is_reserved",
            "payout_has_its_intent",
            "payout_revisions_without_gaps",
        ],
    },
    Tampering {
        statements: &["UPDATE payout_item SET lot_id = 'lot_nowhere' WHERE lot_id = (SELECT MIN(lot_id) FROM payout_item)"],
        finds: &["lot_in_one_payout", "payout_item_has_a_lot"],
    },
    Tampering {
        statements: &["UPDATE commission SET claimed = 0 WHERE claimed = 1"],
        finds: &["claimed_is_held_by_a_payout"],
    },
    Tampering {
        statements: &["UPDATE payout SET state = 'completed'"],
        finds: &["in_transit_is_reserved", "paid_is_sent", "payout_fits_its_intent"],
    },
    Tampering {
        statements: &["UPDATE payout SET state = 'canceled'"],
        finds: &["lot_in_one_payout", "in_transit_is_reserved", "payout_fits_its_intent"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'in_transit'"],
        finds: &["balance_is_sum_of_postings", "in_transit_is_reserved", "earned_is_accounted_for"],
    },
    Tampering {
        statements: &["UPDATE intent SET amount_minor = amount_minor + 1"],
        finds: &["payout_has_its_intent"],
    },
    Tampering {
        statements: &["DELETE FROM job"],
        finds: &["payout_has_its_intent"],
    },
    Tampering {
        statements: &["UPDATE payout_run SET state = 'running', created_at_us = 1"],
        finds: &["settlement_stuck"],
    },
    Tampering {
        statements: &["UPDATE payout SET revision = 2"],
        finds: &["payout_revisions_without_gaps"],
    },
];

#[test]
fn doctor_finds_every_way_in_which_the_books_were_changed() {
    let original = Bench::with_affiliates();
    original.json(&["replay", text(&fixture("stripe")), text(&fixture("paddle"))], 0);
    find_all(&original, TAMPERINGS);
    original.tamper(CAN_BE_PAID);
    assert!(!original.settle(&["--yes"], 0)["payouts"].as_array().unwrap().is_empty());
    find_all(&original, PAYOUT_TAMPERINGS);
}

/// Copies a database that doctor finds nothing in, once per change, and has doctor find the change.
fn find_all(original: &Bench, tamperings: &[Tampering]) {
    assert_eq!(original.json(&["doctor"], 0)["findings"], json!([]));
    for tampering in tamperings {
        let bench = Bench::empty();
        for entry in fs::read_dir(original.directory.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), bench.directory.path().join(entry.file_name())).unwrap();
        }
        bench.tamper(tampering.statements);
        let found = bench.json(&["doctor"], 3);
        let named: Vec<&str> = found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["invariant"].as_str().unwrap())
            .collect();
        for expected in tampering.finds {
            assert!(named.contains(expected), "{expected} after {:?}: {named:?}", tampering.statements);
        }
    }
}
