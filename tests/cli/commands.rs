//! What can be asked and typed: usage, configuration, keys, endpoints, completions.

use std::{fs, process::Stdio};

use serde_json::json;

use super::bench::{Bench, Ran, SECRET, event, fixture, text};

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
