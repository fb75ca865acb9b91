//! Recorded exchanges with the provider, asked once more of the sandbox.

use std::fs;

use remit::sandbox::Options;
use serde_json::{Value, json};

use super::support::{Answer, Bench, options, provider_material, read_json};

/// Paths that the sandbox answers; the recordings have others in between.
fn is_covered(path: &str) -> bool {
    ["/v1/transfers", "/v1/payment_intents", "/v1/refunds", "/v1/accounts/"]
        .iter()
        .any(|covered| path.starts_with(covered))
}

/// Fields that the sandbox leaves out, because nobody but a dashboard needs them.
const LEFT_OUT: &[&str] = &["individual", "company"];

#[tokio::test]
async fn recorded_requests_are_answered_as_the_provider_did() {
    let Some(folder) = provider_material("recorded") else { return };
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut replayed = 0;
    for file in files {
        let bench = Bench::with(Options { seed: 1, ..options() }).await;
        for id in ["acct_1ISuLNQK2ZHS99Rk", "acct_1IStbKQOsIOBQfn0"] {
            bench.control("accounts", json!({ "id": id })).await;
        }
        // What the provider called an object, and what the sandbox calls it.
        let mut names: Vec<(String, String)> = Vec::new();
        for exchange in read_json(&file)["exchanges"].as_array().unwrap() {
            let path = exchange["request"]["path"].as_str().unwrap();
            if !is_covered(path) {
                continue;
            }
            let label = format!("{} {path}", file.file_name().unwrap().display());
            let first = ask(&bench, &exchange["request"], &names).await;
            compare(&label, &exchange["response"], &first);
            learn(&exchange["response"]["body"], &first.body, &mut names);
            if exchange["request"]["headers"]["idempotency-key"].is_string() && first.status == 200 {
                let again = ask(&bench, &exchange["request"], &names).await;
                assert_eq!(again.text, first.text, "{label}");
                assert_eq!(again.header("idempotent-replayed"), Some("true"), "{label}");
                assert_eq!(again.header("original-request"), first.header("request-id"), "{label}");
                assert_ne!(again.header("request-id"), first.header("request-id"), "{label}");
            }
            replayed += 1;
        }
    }
    assert_eq!(replayed, 8, "as many as are recorded");
}

async fn ask(bench: &Bench, request: &Value, names: &[(String, String)]) -> Answer {
    let rename = |text: &str| names.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new));
    let text = |field: &str| rename(request[field].as_str().unwrap());
    let mut asked = bench.ask(&text("method"), &text("path"), &text("body"));
    for (name, value) in request["headers"].as_object().unwrap() {
        if name != "content-type" {
            asked = asked.header(name, value.as_str().unwrap());
        }
    }
    asked.answer().await
}

fn compare(label: &str, recorded: &Value, answer: &Answer) {
    assert_eq!(json!(answer.status), recorded["status"], "{label}: {}", answer.body);
    for name in ["idempotency-key", "stripe-version", "stripe-account", "stripe-should-retry", "content-type"]
    {
        assert_eq!(answer.header(name), recorded["headers"][name].as_str(), "{label}: {name}");
    }
    // A first execution is its own original.
    let is_original =
        |id: Option<&str>, original: Option<&str>| original.map(|original| Some(original) == id);
    assert_eq!(
        is_original(answer.header("request-id"), answer.header("original-request")),
        is_original(
            recorded["headers"]["request-id"].as_str(),
            recorded["headers"]["original-request"].as_str()
        ),
        "{label}"
    );
    assert_eq!(answer.header("idempotent-replayed"), None, "{label}");
    for field in ["type", "code", "param", "decline_code", "doc_url"] {
        assert_eq!(answer.body["error"][field], recorded["body"]["error"][field], "{label}: {field}");
    }
    let mut missing = Vec::new();
    differences(&recorded["body"], &answer.body, "", &mut missing);
    missing.retain(|path| !LEFT_OUT.contains(&path.as_str()));
    assert!(missing.is_empty(), "{label}: {missing:#?}");
}

/// Fields that are missing or of another kind. Details of a payment method, of an account's settings and of
/// who owns it are as free as the account is.
fn differences(recorded: &Value, found: &Value, at: &str, missing: &mut Vec<String>) {
    const FREE: &[&str] = &[
        "payment_method_details",
        "payment_method_options",
        "settings",
        "business_profile",
        "payment_method_configuration_details",
        "outcome",
        "external_accounts",
    ];
    let (Some(recorded), Some(fields)) = (recorded.as_object(), found.as_object()) else { return };
    for (name, value) in recorded {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let kind = |value: &Value| match value {
            Value::Null => None,
            other => Some(std::mem::discriminant(other)),
        };
        match fields.get(name) {
            None => missing.push(path),
            Some(other) if kind(value).is_some() && kind(other).is_some() && kind(value) != kind(other) => {
                missing.push(path);
            }
            Some(_) if FREE.contains(&name.as_str()) => {}
            Some(other) => differences(value, other, &path, missing),
        }
    }
}

/// Notes which id stands for which.
fn learn(recorded: &Value, found: &Value, names: &mut Vec<(String, String)>) {
    match (recorded, found) {
        (Value::Object(recorded), Value::Object(found)) => {
            for (name, value) in recorded {
                if let Some(other) = found.get(name) {
                    learn(value, other, names);
                }
            }
        }
        (Value::String(old), Value::String(new)) => {
            let is_id = ["pi_", "ch_", "tr_", "re_"].iter().any(|prefix| old.starts_with(prefix));
            if is_id && old != new {
                names.push((old.clone(), new.clone()));
            }
        }
        _ => {}
    }
}
