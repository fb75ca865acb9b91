//! The journal: complete, in order, on the disk in time, and in agreement with what exists.

use std::{collections::BTreeMap, fs};

use remit::sandbox::Options;
use serde_json::{Value, json};

use super::support::{Bench, Receiver, options};

fn read(path: &std::path::Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn effects_are_on_the_disk_when_the_answer_arrives() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bench = Bench::with(Options { journal: Some(file.path().to_owned()), ..options() }).await;
    for amount in 1..=5 {
        let id = bench.transfer(amount).answer().await.id();
        let written = read(file.path());
        let is_of = |line: &&Value| line["effect"] == "transfer.created" && line["object"]["id"] == json!(id);
        let effect = written.iter().find(is_of).unwrap();
        assert_eq!(effect["object"]["amount"], amount);
        assert_eq!(written.last().unwrap()["kind"], "answer");
    }
    assert_eq!(read(file.path()), bench.running.journal().await);
}

#[tokio::test]
async fn every_request_is_answered_once_and_every_effect_has_its_request() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    bench.fault(json!({ "kind": "execute_then_reset_at_byte", "byte": 3 })).await;
    bench.transfer(700).key("k").send().await.unwrap_err();
    let transfer = bench.transfer(700).key("k").answer().await;
    bench.post(&format!("/v1/transfers/{}/reversals", transfer.id()), "amount=300").await;
    bench.get("/v1/transfers?limit=2").await;
    bench.transfer(0).answer().await;
    bench.running.flush().await;

    let journal = bench.running.journal().await;
    let sequence: Vec<u64> = journal.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(sequence, (1..=u64::try_from(journal.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(journal[0]["kind"], "start");
    let of = |kind: &str| journal.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let (requests, answers) = (of("request"), of("answer"));
    let ids = |lines: &[&Value]| lines.iter().map(|line| line["request_id"].to_string()).collect::<Vec<_>>();
    assert_eq!(requests.len(), 5);
    assert_eq!(ids(&requests), ids(&answers));

    let request = requests[0];
    assert_eq!((&request["method"], &request["path"]), (&json!("POST"), &json!("/v1/transfers")));
    assert_eq!((&request["idempotency_key"], &request["livemode"]), (&json!("k"), &json!(false)));
    assert_eq!(request["form"], json!({ "amount": "700", "currency": "usd", "destination": "acct_1" }));
    // Computed with sha256sum.
    assert_eq!(request["body_sha256"], "d5f15cba20fc53c4d42f0293c9ac37d6cada2e0628e1337f1a226cb9aa725b89");
    assert_eq!(of("fault")[0]["fault"], json!({ "kind": "execute_then_reset_at_byte", "byte": 3 }));
    assert_eq!((&answers[0]["status"], &answers[0]["broken"]), (&json!(200), &json!("reset_at_byte")));
    assert_eq!(
        (&answers[1]["replayed"], &answers[1]["original_request"]),
        (&json!(true), &answers[0]["request_id"])
    );
    assert_eq!(
        (&answers[4]["status"], &answers[4]["error_code"]),
        (&json!(400), &json!("parameter_invalid_integer"))
    );

    let made: Vec<_> = of("effect").into_iter().filter(|line| line["effect"] == "transfer.created").collect();
    assert_eq!((made.len(), &made[0]["request_id"]), (1, &request["request_id"]));
    let webhooks = of("webhook");
    assert_eq!(webhooks.len(), 2);
    assert_eq!(
        (&webhooks[0]["event_type"], &webhooks[0]["status"]),
        (&json!("transfer.created"), &json!(200))
    );
    assert_eq!(webhooks[0]["object_id"], json!(transfer.id()));
}

#[tokio::test]
async fn the_sums_of_the_journal_are_the_balances() {
    let bench = Bench::start().await;
    bench.control("accounts", json!({ "id": "acct_2" })).await;
    for (account, amount, back) in [("acct_1", 700, 200), ("acct_2", 900, 900), ("acct_1", 50, 1)] {
        let body = format!("amount={amount}&currency=usd&destination={account}");
        let id = bench.post("/v1/transfers", &body).await.id();
        bench.post(&format!("/v1/transfers/{id}/reversals"), &format!("amount={back}")).await;
    }
    let mut paid: BTreeMap<String, i64> = BTreeMap::new();
    let mut accounts: BTreeMap<String, String> = BTreeMap::new();
    for effect in bench.lines("effect").await {
        let object = &effect["object"];
        let text = |field: &str| object[field].as_str().unwrap().to_owned();
        match effect["effect"].as_str().unwrap() {
            "transfer.created" => {
                accounts.insert(text("id"), text("destination"));
                *paid.entry(text("destination")).or_default() += object["amount"].as_i64().unwrap();
            }
            "transfer_reversal.created" => {
                *paid.get_mut(&accounts[&text("transfer")]).unwrap() -= object["amount"].as_i64().unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(paid, [("acct_1".to_owned(), 549), ("acct_2".to_owned(), 0)].into());
    for (account, sum) in &paid {
        assert_eq!(bench.available(Some(account)).await, *sum);
    }
    assert_eq!(bench.available(None).await, 100_000_000 - 549);
}

#[tokio::test]
async fn a_second_run_appends_to_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for _ in 0..2 {
        let bench = Bench::with(Options { journal: Some(file.path().to_owned()), ..options() }).await;
        bench.transfer(5).answer().await;
        bench.running.stop().await;
    }
    let written = read(file.path());
    let starts: Vec<usize> = (0..written.len()).filter(|at| written[*at]["kind"] == "start").collect();
    assert_eq!(starts, [0, written.len() / 2]);
    assert_eq!(written[starts[1]]["seq"], 1);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_journal() {
    let run = async || {
        let bench = Bench::start().await;
        for amount in 1..=3 {
            bench.transfer(amount).key("k").answer().await;
        }
        bench.running.journal().await
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_ends_the_answers() {
    // Every write to this device fails for want of space.
    let journal = Some("/dev/full".into());
    let started = remit::sandbox::Sandbox::start(Options { journal, ..options() }).await;
    assert!(started.unwrap_err().to_string().contains("journal"));
}
