//! What people do about mails, doubts, pauses and settlements.

use std::{io::Write as _, process::Stdio, sync::Arc};

use remit::{
    app::{
        App,
        charges::{self, NewCharge},
    },
    clock::SystemClock,
    config::Config,
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
    store::{Db, DbOptions},
};
use serde_json::{Value, json};

use super::bench::{Bench, CAN_BE_PAID, Ran, fixture, in_runtime, text};
use super::server::Server;

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
