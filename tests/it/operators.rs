//! What operators do with jobs: look, retry, and end doubts, against the provider sandbox.

use axum::http::{Method, StatusCode};
use remit::{
    app::{
        App, Refusal,
        charges::{self, NewCharge, Queued},
        doctor, holds,
        jobs::{self, Claim, JobDetails, Resolution},
        keys::{self, KeyKind, NewKey, Principal},
    },
    domain::{
        ids::{JobId, KeyId, ProjectId},
        job::JobState,
        money::{Currency, Money},
    },
    store::{job_views::JobFilter, jobs as stored_jobs},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    paying::{earn, fault, sends},
    support::{
        TestDb,
        api::{Api, public},
        bank::Bank,
        books,
        node::Node,
        on_each_engine,
    },
};

const EVIDENCE: &str = "ticket 4711: support has looked through the logs of that day";

/// The text of an operator key with these scopes.
async fn operator_key(bank: &Bank, scopes: Option<&[&str]>) -> String {
    let scopes = scopes.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
    let new =
        NewKey { kind: KeyKind::Operator, organization_id: None, project_id: None, scopes, expires_at: None };
    let made = keys::create(&bank.shop.node.app, &Principal::console(), new).await.unwrap();
    made.text.expose_secret().to_owned()
}

async fn resolve_as(bank: &Bank, id: &str, claim: Claim, approver: &str) -> Result<JobDetails, Refusal> {
    let approver = SecretString::from(approver.to_owned());
    let resolution = Resolution { claim, evidence: EVIDENCE.to_owned(), approver };
    jobs::resolve(&bank.shop.node.app, &Principal::console(), id, &resolution).await
}

async fn resolve(bank: &Bank, id: &str, claim: Claim) -> Result<JobDetails, Refusal> {
    let approver = operator_key(bank, Some(&["payout:resolve"])).await;
    resolve_as(bank, id, claim, &approver).await
}

fn executed(object: &str) -> Claim {
    Claim::Executed(object.to_owned())
}

async fn shown(bank: &Bank, id: &str) -> Value {
    let details = jobs::show(&bank.shop.node.app, &Principal::console(), id).await.unwrap();
    serde_json::to_value(details).unwrap()
}

async fn retried(bank: &Bank, id: &str) -> Result<JobDetails, Refusal> {
    jobs::retry(&bank.shop.node.app, &Principal::console(), id).await
}

/// The ids of the only job: its own, its intent's and its payout's.
async fn ids(bank: &Bank) -> (String, String, String) {
    let job = bank.texts("SELECT id FROM job").await.remove(0);
    let details = shown(bank, &job).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (job, text(&details["intent"]["id"]), text(&details["payout"]["id"]))
}

/// A payout of 20.00 USD to ada that the provider never executed and whose outcome is unknown. `late_s`
/// after it was asked for it is executed all the same, where that is given.
async fn unknown_payout(bank: &Bank, late_s: Option<u32>) -> String {
    earn(bank, "ada", "x", 10_000).await;
    fault(bank, sends(), 1, json!({ "kind": "fail_500_without_execute", "late_s": late_s })).await;
    bank.settle().await;
    bank.dispatch_over(600, 30).await;
    assert_eq!(bank.payouts().await, ["unknown"]);
    ids(bank).await.1
}

/// A charge of 20.00 USD with a fee of 0.50 for ada's account.
async fn charge(bank: &Bank, reference: &str) -> Queued {
    let new = NewCharge {
        project_id: ProjectId::parse(&bank.shop.owner.project()).unwrap(),
        amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
        application_fee: 50,
        destination: "acct_ada".to_owned(),
        client_reference: Some(reference.to_owned()),
    };
    charges::queue(&bank.shop.node.app, &new).await.unwrap()
}

async fn listed(bank: &Bank, filter: JobFilter, limit: i64) -> Vec<JobId> {
    let rows = jobs::list(&bank.shop.node.app, &Principal::console(), &filter, limit).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// What the check-up finds: rule, severity and object.
async fn diagnosis(bank: &Bank) -> Vec<String> {
    diagnosis_of(&bank.shop.node.app).await
}

async fn diagnosis_of(app: &App) -> Vec<String> {
    let found = doctor::examine(app).await.unwrap();
    found.iter().map(|one| format!("{} {} {}", one.invariant, one.severity, one.object)).collect()
}

/// The code of a refusal.
#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> &'static str {
    result.unwrap_err().code()
}

on_each_engine! {
    async fn jobs_are_listed_newest_first_by_state_and_kind(db: TestDb) {
        let bank = Bank::open(&db).await;
        let mut made = Vec::new();
        for order in ["one", "two", "three"] {
            made.push(JobId::derived(&[charge(&bank, order).await.intent_id.as_str()]));
            bank.advance(1).await;
        }
        bank.dispatch().await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        let transfer = JobId::parse(&bank.texts("SELECT id FROM job WHERE kind = 'transfer'").await[0]).unwrap();
        made.push(transfer.clone());
        made.reverse();
        assert_eq!(listed(&bank, JobFilter::default(), 10).await, made);
        let first = listed(&bank, JobFilter::default(), 3).await;
        let after = JobFilter { after: first.last().cloned(), ..JobFilter::default() };
        assert_eq!([first, listed(&bank, after, 3).await].concat(), made);
        let waiting = JobFilter { states: vec![JobState::Available, JobState::Unknown], ..JobFilter::default() };
        assert_eq!(listed(&bank, waiting, 10).await, std::slice::from_ref(&transfer));
        let done = JobFilter { states: vec![JobState::Completed], ..JobFilter::default() };
        assert_eq!(listed(&bank, done.clone(), 10).await, made[1..]);
        let rest = JobFilter { after: Some(made[1].clone()), ..done };
        assert_eq!(listed(&bank, rest, 10).await, made[2..]);
        let kind = remit::domain::intent::IntentKind::parse("transfer");
        assert_eq!(listed(&bank, JobFilter { kind, ..JobFilter::default() }, 10).await, [transfer]);
    }

    async fn everything_about_an_intent_is_shown_under_any_of_its_ids_and_no_body(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 100 })).await.unwrap();
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        let (job, intent, payout) = ids(&bank).await;
        let details = shown(&bank, &intent).await;
        for id in [&job, &payout] {
            assert_eq!(shown(&bank, id).await, details);
        }
        assert_eq!(details["job"]["id"], job);
        assert_eq!(details["job"]["state"], "parked");
        assert_eq!((&details["job"]["reason"], &details["job"]["generation"]), (&json!("waiting_funds"), &json!(1)));
        assert_eq!(details["intent"]["in_doubt"], false);
        assert_eq!((&details["payout"]["state"], &details["payout"]["send_minor"]), (&json!("waiting_funds"), &json!(2_000)));
        assert_eq!(details["charge"], Value::Null);
        let generations = details["generations"].as_array().unwrap();
        assert_eq!(generations.len(), 2);
        assert_eq!(generations[0]["idempotency_key"], format!("remit_test_{intent}_g0"));
        assert_eq!(generations[0]["proof"], "attempt 1: balance_insufficient");
        assert_eq!((&generations[1]["first_sent_at"], &generations[1]["closed_at"]), (&Value::Null, &Value::Null));
        let attempt = &details["attempts"][0];
        assert_eq!((&attempt["kind"], &attempt["verdict"]), (&json!("send"), &json!("insufficient_funds")));
        assert_eq!((&attempt["status"], &attempt["error_code"]), (&json!(400), &json!("balance_insufficient")));
        assert!(attempt["request_id"].as_str().unwrap().starts_with("req_"));
        assert_eq!(details["findings"][0]["kind"], "payout_waits_for_funds");
        let text = details.to_string();
        assert!(!text.contains("sk_test") && !text.contains("amount=") && !text.contains("body"), "{text}");
        let by = Principal::console();
        assert_eq!(code(jobs::show(&bank.shop.node.app, &by, "po_unheard_of").await), "NOT_FOUND");
    }

    async fn a_job_that_waits_is_tried_at_once_when_somebody_asks(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 100 })).await.unwrap();
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        let (job, _, payout) = ids(&bank).await;
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 9_000 })).await.unwrap();
        assert_eq!(bank.dispatch().await, 0);
        let details = retried(&bank, &payout).await.unwrap();
        assert_eq!(details.job.next_attempt_at, Some(bank.shop.node.app.now()));
        assert_eq!(bank.texts("SELECT verdict || ' ' || actor FROM resolution").await, ["retry console"]);
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        let refusal = retried(&bank, &job).await.unwrap_err();
        assert_eq!(refusal.code(), "JOB_FINISHED");
        assert!(refusal.to_string().contains("is completed"), "{refusal}");
        assert_eq!(code(retried(&bank, "job_unheard_of").await), "NOT_FOUND");
    }

    async fn a_job_that_somebody_works_on_is_left_to_them(db: TestDb) {
        let bank = Bank::open(&db).await;
        let queued = charge(&bank, "order").await;
        let now = bank.shop.node.app.now();
        let mut tx = db.db.begin().await.unwrap();
        let leases = stored_jobs::claim_due(&mut tx, now, now.plus_secs(60), 10, &[]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(code(retried(&bank, queued.intent_id.as_str()).await), "JOB_RUNNING");
        assert_eq!(bank.texts("SELECT id FROM resolution").await, [""; 0]);
    }

    async fn one_that_is_unknown_is_looked_up_and_never_sent_when_somebody_asks(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let (sent, asked) = (
            bank.requests("POST", "/v1/transfers").await.len(),
            bank.requests("GET", "/v1/transfers").await.len(),
        );
        bank.change("UPDATE job SET next_attempt_at_us = NULL").await;
        assert_eq!(bank.dispatch().await, 0);
        retried(&bank, &intent).await.unwrap();
        bank.dispatch().await;
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), sent);
        assert_eq!(bank.requests("GET", "/v1/transfers").await.len(), asked + 1);
        assert_eq!(bank.payouts().await, ["unknown"]);
    }

    async fn what_two_people_say_was_not_executed_is_sent_under_a_new_key(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let before = bank.keys().await.len();
        let details = resolve(&bank, &intent, Claim::NotExecuted).await.unwrap();
        assert_eq!((details.job.state, details.intent.state), ("available", "open"));
        assert_eq!(bank.payouts().await, ["pending"]);
        assert!(bank.findings().await.is_empty());
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        assert_eq!(bank.keys().await.len(), before + 1);
        let details = shown(&bank, &intent).await;
        let resolution = &details["resolutions"][0];
        assert_eq!(resolution["verdict"], "not_executed");
        assert_eq!((&resolution["evidence"], &resolution["actor"]), (&json!(EVIDENCE), &json!("console")));
        assert!(resolution["approver"].as_str().unwrap().starts_with(KeyId::PREFIX));
        let proof = format!("resolution {}", resolution["id"].as_str().unwrap());
        assert_eq!(details["generations"][0]["proof"], proof);
        bank.tell().await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        books::assert_they_add_up(&db.db).await;
        assert!(bank.findings().await.is_empty());
    }

    async fn what_two_people_say_was_executed_is_adopted(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "execute_then_500" }, { "kind": "hide" }])).await;
        bank.settle().await;
        bank.dispatch_over(600, 40).await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        let made = bank.effects("transfer.created").await[0]["id"].as_str().unwrap().to_owned();
        let (job, _, _) = ids(&bank).await;
        let details = resolve(&bank, &job, executed(&made)).await.unwrap();
        assert_eq!((details.job.state, details.intent.state), ("completed", "succeeded"));
        assert_eq!(details.intent.object_id.as_deref(), Some(&*made));
        assert_eq!(bank.payouts().await, ["completed"]);
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        let causes = bank.texts("SELECT causes FROM entry WHERE kind = 'payout_settle'").await;
        assert!(causes[0].contains("\"resolution\"") && causes[0].contains("res_"), "{causes:?}");
        // What the provider tells of it later is the same transfer.
        bank.reverse("500").await;
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["partially_reversed"]);
        assert!(bank.findings().await.is_empty());
        books::assert_they_add_up(&db.db).await;
    }

    async fn another_transfer_than_the_one_that_people_named_is_noticed(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, Some(21_600)).await;
        resolve(&bank, &intent, executed("tr_mistyped")).await.unwrap();
        assert_eq!(bank.payouts().await, ["completed"]);
        bank.advance(21_600).await;
        bank.sandbox.flush().await;
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        bank.tell().await;
        assert_eq!(bank.findings().await, ["duplicate_transfer"]);
        assert_eq!(bank.texts("SELECT kind FROM payout_hold WHERE lifted_at_us IS NULL").await, ["anomaly"]);
        let kinds = shown(&bank, &intent).await["findings"].clone();
        assert_eq!(kinds[0]["kind"], "duplicate_transfer", "an operator who looks at the intent sees it");
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    }

    async fn another_transfer_that_a_look_up_under_way_finds_is_noticed(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let lost = json!([{ "kind": "execute_then_500" }, { "kind": "hide", "for_s": 30_000 }]);
        fault(&bank, sends(), 1, lost).await;
        bank.settle().await;
        bank.dispatch_over(600, 30).await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        let (_, intent, _) = ids(&bank).await;
        bank.advance(30_000).await;
        let asks = json!({ "method": "GET", "path_prefix": "/v1/transfers" });
        fault(&bank, asks, 1, json!({ "kind": "execute_on_release" })).await;
        retried(&bank, &intent).await.unwrap();
        let dispatcher = bank.dispatcher.clone();
        let looking = tokio::spawn(async move { dispatcher.work_off().await });
        bank.sandbox.until_hanging(1).await;
        resolve(&bank, &intent, executed("tr_mistyped")).await.unwrap();
        bank.sandbox.release().await;
        looking.await.unwrap().unwrap();
        bank.shop.node.process_all().await;
        assert_eq!(bank.findings().await, ["duplicate_transfer"]);
        assert_eq!(bank.jobs().await, ["completed"]);
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    }

    async fn a_transfer_made_by_hand_can_stand_for_a_lost_one_if_it_is_what_was_asked_for(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let mut by_hand = Vec::new();
        for (amount, account) in [("1999", "acct_ada"), ("2000", "acct_bob"), ("2000", "acct_ada")] {
            let form = [("amount", amount), ("currency", "usd"), ("destination", account)];
            by_hand.push(bank.post("/v1/transfers", &form).await["id"].as_str().unwrap().to_owned());
        }
        bank.tell().await;
        assert_eq!(bank.findings().await, ["orphan_transfer", "orphan_transfer", "orphan_transfer", "payout_unknown"]);
        for other in &by_hand[..2] {
            assert_eq!(code(resolve(&bank, &intent, executed(other)).await), "OBJECT_DIFFERS");
        }
        resolve(&bank, &intent, executed(&by_hand[2])).await.unwrap();
        assert_eq!(bank.payouts().await, ["completed"]);
        assert_eq!(bank.findings().await, ["orphan_transfer", "orphan_transfer"]);
        // And it stands for one only.
        earn(&bank, "bob", "y", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "fail_500_without_execute" })).await;
        bank.settle().await;
        bank.dispatch_over(600, 30).await;
        let second = bank.texts("SELECT id FROM intent WHERE state = 'unknown'").await.remove(0);
        assert_eq!(code(resolve(&bank, &second, executed(&by_hand[2])).await), "OBJECT_CLAIMED");
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_charge_is_resolved_like_a_payout(db: TestDb) {
        let bank = Bank::open(&db).await;
        let creates = json!({ "method": "POST", "path_prefix": "/v1/payment_intents" });
        fault(&bank, creates, 2, json!({ "kind": "fail_500_without_execute" })).await;
        let (one, two) = (charge(&bank, "one").await, charge(&bank, "two").await);
        bank.dispatch_over(600, 40).await;
        assert_eq!(bank.texts("SELECT state FROM charge").await, ["unknown", "unknown"]);
        assert_eq!(code(resolve(&bank, one.charge_id.as_str(), Claim::NotExecuted).await), "INTENT_ID_NEEDED");
        assert_eq!(code(resolve(&bank, one.charge_id.as_str(), executed("tr_1")).await), "INVALID_OBJECT");
        resolve(&bank, one.charge_id.as_str(), executed("pi_1")).await.unwrap();
        resolve(&bank, two.intent_id.as_str(), Claim::NotExecuted).await.unwrap();
        bank.dispatch().await;
        assert_eq!(bank.texts("SELECT state FROM charge ORDER BY client_reference").await,
            ["processing", "requires_payment_method"]);
        assert_eq!(bank.effects("payment_intent.created").await.len(), 1);
    }

    async fn a_doubt_is_not_ended_without_evidence_a_second_person_or_a_doubt(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let (job, _, payout) = ids(&bank).await;
        for id in [&job, &payout] {
            assert_eq!(code(resolve(&bank, id, Claim::NotExecuted).await), "INTENT_ID_NEEDED");
        }
        for object in ["", "tr_", "pi_123", "tr_1 2", "tr_1%", "re_123"] {
            assert_eq!(code(resolve(&bank, &intent, executed(object)).await), "INVALID_OBJECT", "{object}");
        }
        assert_eq!(code(resolve(&bank, "int_unheard_of", Claim::NotExecuted).await), "NOT_FOUND");

        let app = &bank.shop.node.app;
        let revoked = operator_key(&bank, None).await;
        let by = keys::authenticate(app, &revoked).await.unwrap();
        keys::revoke(app, &Principal::console(), &KeyId::parse(by.actor()).unwrap()).await.unwrap();
        let without_the_scope = operator_key(&bank, Some(&["events", "settle"])).await;
        for approver in ["", "console", "rk_op_a_b_c", &revoked, &without_the_scope] {
            assert_eq!(code(resolve_as(&bank, &intent, Claim::NotExecuted, approver).await), "INVALID_APPROVER");
        }
        let text = operator_key(&bank, None).await;
        let same = keys::authenticate(app, &text).await.unwrap();
        let alone = Resolution {
            claim: Claim::NotExecuted, evidence: EVIDENCE.to_owned(), approver: text.clone().into(),
        };
        assert_eq!(code(jobs::resolve(app, &same, &intent, &alone).await), "INVALID_APPROVER");
        for evidence in ["", "  trust me  ", "123456789", &"x".repeat(1_001), "with a bell \u{7} in it"] {
            let weak = Resolution { evidence: evidence.to_owned(), ..alone.clone() };
            let refusal = jobs::resolve(app, &Principal::console(), &intent, &weak).await;
            assert_eq!(code(refusal), "INVALID_EVIDENCE", "{evidence}");
        }
        let reader = keys::authenticate(app, &without_the_scope).await.unwrap();
        assert_eq!(code(jobs::resolve(app, &reader, &intent, &alone).await), "FORBIDDEN");
        assert_eq!(bank.texts("SELECT id FROM resolution").await, [""; 0], "nothing of this was written");
        assert_eq!(bank.payouts().await, ["unknown"]);

        resolve(&bank, &intent, Claim::NotExecuted).await.unwrap();
        assert_eq!(code(resolve(&bank, &intent, Claim::NotExecuted).await), "NOT_UNKNOWN");
        bank.dispatch().await;
        assert_eq!(code(resolve(&bank, &intent, executed("tr_other")).await), "NOT_UNKNOWN");
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
    }

    async fn nothing_is_resolved_while_a_call_may_be_under_way(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        // A worker that was stopped between writing a call down and making it, and has just woken up.
        bank.change("UPDATE attempt SET answered_at_us = NULL, verdict = NULL,
            sent_at_us = (SELECT MAX(beat_at_us) FROM (SELECT MAX(sent_at_us) AS beat_at_us FROM attempt) AS t)
            WHERE number = (SELECT MAX(number) FROM attempt WHERE kind = 'send')").await;
        let since = bank.texts("SELECT CAST(sent_at_us AS TEXT) FROM attempt WHERE answered_at_us IS NULL").await;
        bank.shop.node.clock.set(remit::domain::time::Timestamp::from_micros(since[0].parse().unwrap()));
        assert_eq!(code(resolve(&bank, &intent, Claim::NotExecuted).await), "CALL_UNDER_WAY");
        assert_eq!(code(resolve(&bank, &intent, executed("tr_1")).await), "CALL_UNDER_WAY");
        // The lease is three calls of two seconds and five seconds more.
        bank.shop.node.clock.advance_secs(11);
        resolve(&bank, &intent, Claim::NotExecuted).await.unwrap();
    }

    async fn of_two_resolutions_at_the_same_time_one_counts(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let approver = operator_key(&bank, None).await;
        let (one, two) = tokio::join!(
            resolve_as(&bank, &intent, Claim::NotExecuted, &approver),
            resolve_as(&bank, &intent, executed("tr_1"), &approver),
        );
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1, "{one:?} {two:?}");
        assert_eq!(bank.texts("SELECT id FROM resolution").await.len(), 1);
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_is_carried_out_after_people_said_it_never_was_is_adopted_and_not_sent_again(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, Some(21_600)).await;
        resolve(&bank, &intent, Claim::NotExecuted).await.unwrap();
        // The people were wrong: before the new key is used, the provider carries out the old one.
        bank.advance(21_600).await;
        bank.sandbox.flush().await;
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        assert_eq!(bank.dispatch().await, 0);
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        assert!(bank.findings().await.is_empty());
    }

    async fn operators_do_all_of_it_over_http_and_nobody_else(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let app = bank.shop.node.app.clone();
        let api = Api {
            router: public(&app).await,
            clock: bank.shop.node.clock.clone(),
            operator: operator_key(&bank, None).await,
            app,
        };
        let (nothing, job) = (Value::Null, format!("/v1/admin/jobs/{intent}"));
        let (status, list) = api.call(&api.operator, Method::GET, "/v1/admin/jobs?state=unknown,parked&limit=1", &nothing).await;
        assert_eq!((status, &list["next_cursor"]), (StatusCode::OK, &nothing));
        let row = list["data"][0].as_object().unwrap();
        let fields: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(fields, ["attempts", "generation", "id", "intent_id", "kind", "next_attempt_at", "reason", "state"]);
        assert_eq!((&row["state"], &row["intent_id"]), (&json!("unknown"), &json!(intent)));
        for (query, code) in [("state=lost", "INVALID_STATE"), ("kind=gift", "INVALID_KIND"), ("cursor=x", "INVALID_CURSOR")] {
            let refusal = api.refusal(&api.operator, Method::GET, &format!("/v1/admin/jobs?{query}"), &nothing).await;
            assert_eq!(refusal, (400, code.to_owned()));
        }
        let (_, details) = api.call(&api.operator, Method::GET, &job, &nothing).await;
        assert_eq!(details["data"]["payout"]["state"], "unknown");
        let (status, _) = api.call(&api.operator, Method::POST, &format!("{job}/retry"), &nothing).await;
        assert_eq!(status, StatusCode::OK);

        let approver = operator_key(&bank, Some(&["payout:resolve"])).await;
        let good = json!({ "not_executed": true, "evidence": EVIDENCE, "approver": approver });
        let resolve = format!("{job}/resolve");
        for (change, value, code) in [
            ("executed", json!("tr_1"), "INVALID_BODY"),
            ("not_executed", json!(false), "INVALID_BODY"),
            ("evidence", json!("short"), "INVALID_EVIDENCE"),
            ("approver", json!(api.operator), "INVALID_APPROVER"),
            ("surprise", json!(1), "INVALID_BODY"),
        ] {
            let mut body = good.clone();
            body[change] = value;
            assert_eq!(api.refusal(&api.operator, Method::POST, &resolve, &body).await, (400, code.to_owned()), "{change}");
        }
        let (_, tenant) = api.tenant("Stranger").await;
        let reader = operator_key(&bank, Some(&["read", "events"])).await;
        for (key, method, path) in [
            (&tenant, Method::GET, "/v1/admin/jobs"),
            (&tenant, Method::GET, &*job),
            (&tenant, Method::POST, &*format!("{job}/retry")),
            (&tenant, Method::POST, &*resolve),
            (&reader, Method::POST, &*resolve),
        ] {
            let body = if path == resolve { &good } else { &nothing };
            assert_eq!(api.refusal(key, method, path, body).await, (403, "FORBIDDEN".to_owned()), "{path}");
        }
        let (status, answer) = api.call(&api.operator, Method::POST, &resolve, &good).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["data"]["job"]["state"], "available");
        let expected = (409, "NOT_UNKNOWN".to_owned());
        assert_eq!(api.refusal(&api.operator, Method::POST, &resolve, &good).await, expected);
        assert_eq!(api.refusal(&api.operator, Method::GET, "/v1/admin/jobs/int_none", &nothing).await, (404, "NOT_FOUND".to_owned()));
    }

    async fn doctor_sees_jobs_that_nobody_takes_unless_they_are_switched_off(db: TestDb) {
        let bank = Bank::open(&db).await;
        charge(&bank, "one").await;
        bank.advance(14 * 60).await;
        assert_eq!(diagnosis(&bank).await, [""; 0]);
        bank.advance(2 * 60).await;
        let job = bank.texts("SELECT id FROM job").await.remove(0);
        assert_eq!(diagnosis(&bank).await, [format!("job_overdue critical {job}")]);
        let off = Node::with_settings(db.db.clone(), 16, &[]);
        off.clock.set(bank.shop.node.app.now());
        assert_eq!(diagnosis_of(&off.app).await, [""; 0], "charges are not switched on there");
        let now = bank.shop.node.app.now();
        let mut tx = db.db.begin().await.unwrap();
        stored_jobs::claim_due(&mut tx, now, now.plus_secs(60), 10, &[]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(diagnosis(&bank).await, [""; 0], "somebody works on it");
        bank.advance(17 * 60).await;
        assert_eq!(diagnosis(&bank).await, [format!("job_abandoned critical {job}")]);
        bank.dispatch().await;
        assert_eq!(diagnosis(&bank).await, [""; 0]);
    }

    async fn doctor_sees_what_keeps_payouts_from_going_out(db: TestDb) {
        let bank = Bank::open(&db).await;
        let (app, by) = (&bank.shop.node.app, Principal::console());
        let pauses = holds::pause(app, &by, "the bank is closed").await.unwrap();
        assert_eq!(diagnosis(&bank).await, [format!("payouts_not_paused warning {}", pauses[0].id)]);
        holds::resume(app, &by, false, None).await.unwrap();
        assert_eq!(diagnosis(&bank).await, [""; 0]);
        let keyless = Node::with_settings(db.db.clone(), 16, &[("REMIT_PAYOUTS__LIVE", "true")]);
        let expected = ["provider_key_configured warning stripe.secret_key"];
        assert_eq!(diagnosis_of(&keyless.app).await, expected);
    }

    async fn doctor_sees_doubts_and_objects_that_count_twice(db: TestDb) {
        let bank = Bank::open(&db).await;
        let intent = unknown_payout(&bank, None).await;
        let found = doctor::examine(&bank.shop.node.app).await.unwrap();
        assert_eq!((found.len(), found[0].invariant, &*found[0].object), (1, "outcome_known", "transfer"));
        assert!(found[0].detail.starts_with("1 of which nobody knows"), "{}", found[0].detail);
        resolve(&bank, &intent, executed("tr_1")).await.unwrap();
        assert_eq!(diagnosis(&bank).await, [""; 0]);
        charge(&bank, "order").await;
        bank.change("UPDATE intent SET object_id = 'tr_1' WHERE kind = 'charge'").await;
        assert_eq!(diagnosis(&bank).await, ["one_intent_per_provider_object critical stripe tr_1"]);
    }
}
