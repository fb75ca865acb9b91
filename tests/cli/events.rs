//! Events in and out: replay, archives, lists, retries.

use std::fs;

use serde_json::{Value, json};

use super::bench::{Bench, Ran, event, fixture, text};

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
