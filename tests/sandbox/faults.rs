//! Every fault: what the client sees, what was executed, and what the same key gets afterwards.

use remit::sandbox::Options;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::{Bench, Receiver, options};

/// Sends the transfer with key `k` under a fault; returns the answer, or `None` where there was none, and
/// how many transfers exist.
async fn under(bench: &Bench, fault: Value) -> (Option<super::support::Answer>, usize) {
    bench.fault(fault).await;
    let answer = bench.transfer(700).key("k").send().await.ok();
    (answer, bench.made().await)
}

#[tokio::test]
async fn answers_that_are_lost_after_the_execution_are_replayed() {
    for fault in [
        json!({ "kind": "execute_then_reset_at_byte", "byte": 0 }),
        json!({ "kind": "execute_then_reset_at_byte", "byte": 250 }),
        json!({ "kind": "truncated_body", "byte": 100 }),
        json!({ "kind": "html", "status": 502, "executed": true }),
        json!({ "kind": "html", "status": 503, "executed": true }),
        json!({ "kind": "html", "status": 504, "executed": true }),
    ] {
        let bench = Bench::start().await;
        let (answer, made) = under(&bench, fault.clone()).await;
        assert_eq!(made, 1, "{fault}");
        // Nothing that could be taken for the transfer.
        assert!(answer.is_none_or(|answer| answer.body.is_null()), "{fault}");
        let again = bench.transfer(700).key("k").answer().await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{fault}");
        assert_eq!(bench.made().await, 1, "{fault}");
    }
}

#[tokio::test]
async fn requests_that_are_lost_before_the_execution_leave_the_key_free() {
    for fault in [
        json!({ "kind": "reset_before_execute" }),
        json!({ "kind": "html", "status": 503 }),
        json!({ "kind": "redirect" }),
    ] {
        let bench = Bench::start().await;
        let (answer, made) = under(&bench, fault.clone()).await;
        assert_eq!(made, 0, "{fault}");
        assert!(answer.is_none_or(|answer| answer.body["id"].is_null()), "{fault}");
        let again = bench.transfer(700).key("k").answer().await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, None), "{fault}");
    }
}

#[tokio::test]
async fn a_page_of_the_edge_is_no_answer_of_the_provider() {
    let bench = Bench::start().await;
    for status in [502, 503, 504] {
        let (answer, _) = under(&bench, json!({ "kind": "html", "status": status })).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("text/html")));
        assert_eq!(answer.header("request-id"), None);
    }
}

#[tokio::test]
async fn a_redirect_leads_back_to_where_it_came_from() {
    let bench = Bench::start().await;
    let (answer, _) = under(&bench, json!({ "kind": "redirect" })).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("location")), (307, Some("/v1/transfers")));
    let (answer, _) = under(&bench, json!({ "kind": "redirect", "location": "http://other.test/" })).await;
    assert_eq!(answer.unwrap().header("location"), Some("http://other.test/"));
}

#[tokio::test]
async fn a_hang_after_the_execution_ends_when_it_is_released() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "execute_then_hang" })).await;
    let hanging = tokio::spawn(bench.transfer(700).key("k").send());
    bench.running.until_hanging(1).await;
    assert_eq!(bench.made().await, 1);
    // The key is not in use: the execution is over.
    assert_eq!(bench.transfer(700).key("k").answer().await.status, 200);
    bench.running.release().await;
    hanging.await.unwrap().unwrap_err();
    assert_eq!(bench.lines("hang_ended").await[0]["how"], "released");
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn a_hang_before_the_execution_ends_when_the_client_leaves() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "hang_before_execute" })).await;
    let hanging = tokio::spawn(bench.transfer(700).key("k").send());
    bench.running.until_hanging(1).await;
    hanging.abort();
    bench.running.until_hanging(0).await;
    assert_eq!(bench.lines("hang_ended").await[0]["how"], "client_left");
    assert_eq!(bench.made().await, 0);
    let again = bench.transfer(700).key("k").answer().await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, None));
}

#[tokio::test]
async fn a_held_request_is_executed_although_the_client_left() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "execute_on_release" })).await;
    let held = tokio::spawn(bench.transfer(700).key("k").send());
    bench.running.until_hanging(1).await;
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    assert_eq!(bench.transfer(700).key("k").answer().await.status, 409);
    bench.running.release().await;
    bench.running.until_hanging(0).await;
    // The execution follows the release, so it is under way or over.
    let again = loop {
        let again = bench.transfer(700).key("k").answer().await;
        if again.status != 409 {
            break again;
        }
    };
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn hangs_end_with_the_sandbox() {
    let journal = tempfile::NamedTempFile::new().unwrap();
    let bench = Bench::with(Options { journal: Some(journal.path().to_owned()), ..options() }).await;
    bench.fault(json!([{ "kind": "execute_then_hang" }])).await;
    let hanging = tokio::spawn(bench.transfer(700).send());
    bench.running.until_hanging(1).await;
    bench.running.stop().await;
    hanging.await.unwrap().unwrap_err();
    let written = std::fs::read_to_string(journal.path()).unwrap();
    let last: Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
    assert_eq!((&last["kind"], &last["how"]), (&json!("hang_ended"), &json!("shutdown")));
}

#[tokio::test]
async fn a_500_after_the_execution_is_replayed_for_ever() {
    let bench = Bench::start().await;
    let (answer, made) = under(&bench, json!({ "kind": "execute_then_500" })).await;
    assert_eq!((answer.unwrap().status, made), (500, 1));
    for _ in 0..3 {
        let again = bench.transfer(700).key("k").answer().await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (500, Some("true")));
    }
    // A look-up finds what the answer denied.
    assert_eq!(bench.get("/v1/transfers").await.ids().len(), 1);
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn a_500_without_execution_may_be_carried_out_later() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();
    let (answer, made) = under(&bench, json!({ "kind": "fail_500_without_execute", "late_s": 21_600 })).await;
    assert_eq!((answer.unwrap().status, made), (500, 0));
    let again = bench.transfer(700).key("k").answer().await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (500, Some("true")));
    bench.running.advance(21_599).await;
    assert_eq!((bench.running.flush().await.delivered, bench.made().await), (0, 0));
    bench.running.advance(1).await;
    assert_eq!((bench.running.flush().await.delivered, bench.made().await), (1, 1));
    let event = receiver.take()[0].event();
    assert_eq!(
        (&event["type"], &event["request"]["idempotency_key"]),
        (&json!("transfer.created"), &json!("k"))
    );
    let effects = bench.lines("effect").await;
    let late: Vec<_> = effects.iter().filter(|line| line["effect"] == "transfer.created").collect();
    assert_eq!(late[0]["late"], true);

    // Without a time it never is.
    bench.fault(json!({ "kind": "fail_500_without_execute" })).await;
    assert_eq!(bench.transfer(700).key("never").answer().await.status, 500);
    bench.running.advance(10_000_000).await;
    assert_eq!(bench.made().await, 1);
}

#[tokio::test]
async fn the_limiter_may_say_how_long_to_wait() {
    let bench = Bench::start().await;
    let rule = json!({ "times": 2, "fault": { "kind": "too_many_requests", "retry_after_s": 7 } });
    bench.running.fault(rule).await.unwrap();
    for _ in 0..2 {
        let answer = bench.transfer(5).key("k").answer().await;
        assert_eq!((answer.refusal(), answer.header("retry-after")), ((429, "rate_limit", "-"), Some("7")));
        assert_eq!(answer.header("original-request"), None);
    }
    assert_eq!(bench.transfer(5).key("k").answer().await.status, 200);
    bench.fault(json!({ "kind": "too_many_requests", "lock_timeout": true })).await;
    assert_eq!(bench.transfer(5).answer().await.header("retry-after"), None);
}

#[tokio::test]
async fn a_duplicate_has_everything_in_common_but_its_id() {
    let bench = Bench::start().await;
    let (answer, made) = under(&bench, json!({ "kind": "duplicate" })).await;
    assert_eq!((answer.unwrap().status, made), (200, 2));
    let listed = bench.get("/v1/transfers").await;
    let data = listed.body["data"].as_array().unwrap();
    for field in ["amount", "currency", "destination", "metadata", "transfer_group"] {
        assert_eq!(data[0][field], data[1][field]);
    }
    assert_eq!(bench.available(Some("acct_1")).await, 1400);
}

#[tokio::test]
async fn a_lie_is_told_once_and_changes_nothing() {
    let bench = Bench::start().await;
    let lie = json!({ "kind": "lie", "set": { "amount": 7, "destination": "acct_other", "livemode": true } });
    let (answer, _) = under(&bench, lie).await;
    let told = answer.unwrap().body;
    assert_eq!(
        (&told["amount"], &told["destination"], &told["livemode"]),
        (&json!(7), &json!("acct_other"), &json!(true))
    );
    let truth = bench.transfer(700).key("k").answer().await.body;
    assert_eq!(
        (&truth["amount"], &truth["destination"], &truth["id"]),
        (&json!(700), &json!("acct_1"), &told["id"])
    );
}

#[tokio::test]
async fn the_header_that_steers_retries_can_be_forced() {
    let bench = Bench::start().await;
    for (fault, value) in [
        (json!([{ "kind": "execute_then_500" }, { "kind": "should_retry", "value": false }]), "false"),
        (json!([{ "kind": "key_in_use" }, { "kind": "should_retry", "value": false }]), "false"),
        (json!({ "kind": "should_retry", "value": true }), "true"),
    ] {
        bench.fault(fault).await;
        assert_eq!(bench.transfer(5).answer().await.header("stripe-should-retry"), Some(value));
    }
}

#[tokio::test]
async fn rules_choose_their_requests() {
    let bench = Bench::start().await;
    bench.control("accounts", json!({ "id": "acct_2" })).await;
    let rule = json!({
        "match": { "method": "POST", "path_prefix": "/v1/transfers", "destination": "acct_2", "form": { "amount": "5" } },
        "skip": 1,
        "fault": { "kind": "key_in_use" },
    });
    bench.running.fault(rule).await.unwrap();
    let to = |account: &str, amount: i64| {
        let body = format!("amount={amount}&currency=usd&destination={account}");
        bench.ask("POST", "/v1/transfers", &body).answer()
    };
    assert_eq!(to("acct_1", 5).await.status, 200);
    assert_eq!(to("acct_2", 6).await.status, 200);
    assert_eq!(to("acct_2", 5).await.status, 200, "the first match is spared");
    assert_eq!(to("acct_2", 5).await.status, 409);
    assert_eq!(to("acct_2", 5).await.status, 200, "the rule is used up");
}

#[tokio::test]
async fn rules_can_be_listed_and_taken_away() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "key_in_use" })).await;
    let random = json!({ "random": { "seed": 3, "permille": 1000, "kinds": ["forbidden"] } });
    bench.running.fault(random).await.unwrap();
    let list = bench.running.control("GET", "faults", Value::Null).await.unwrap();
    assert_eq!(list["scripted"][0]["fault"], json!({ "kind": "key_in_use" }));
    assert_eq!(list["random"]["permille"], 1000);
    assert_eq!(bench.transfer(5).answer().await.status, 409);
    assert_eq!(bench.transfer(5).answer().await.status, 403);
    bench.running.control("DELETE", "faults", Value::Null).await.unwrap();
    assert_eq!(bench.transfer(5).answer().await.status, 200);
}

/// Whatever random faults do, what the journal says was made is what exists, and no key made two.
#[tokio::test]
async fn random_faults_make_no_key_pay_twice() {
    let seed = 0xA11CE;
    println!("seed {seed}");
    let bench = Bench::start().await;
    let kinds = [
        "execute_then_500",
        "execute_then_reset_at_byte",
        "reset_before_execute",
        "truncated_body",
        "html",
        "too_many_requests",
        "key_in_use",
        "fail_500_without_execute",
        "redirect",
    ];
    let random =
        json!({ "random": { "seed": seed, "permille": 500, "kinds": kinds, "match": { "method": "POST" } } });
    bench.running.fault(random).await.unwrap();
    for number in 0..60 {
        for _ in 0..4 {
            let _: Result<_, _> = bench.transfer(5).key(&format!("k{number}")).send().await;
        }
    }
    assert!(bench.lines("fault").await.len() > 60);
    let effects = bench.lines("effect").await;
    let mut keys: Vec<String> = effects
        .iter()
        .filter(|line| line["effect"] == "transfer.created")
        .map(|line| line["idempotency_key"].to_string())
        .collect();
    let made = keys.len();
    assert!((30..=60).contains(&made), "{made}");
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), made);
    assert_eq!(bench.available(Some("acct_1")).await, 5 * i64::try_from(made).unwrap());
}

/// One request over a bare connection; everything that arrives before it ends, however it ends.
async fn bare(bench: &Bench, key: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(bench.running.address).await.unwrap();
    let body = "amount=700&currency=usd&destination=acct_1";
    let request = format!(
        "POST /v1/transfers HTTP/1.1\r\nhost: sandbox\r\nauthorization: Bearer sk_test_1\r\n\
         content-type: application/x-www-form-urlencoded\r\nidempotency-key: {key}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    // An error is an end as well: that is what this is about.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        received.extend_from_slice(&buffer[..length]);
    }
    received
}

#[tokio::test]
async fn an_answer_can_be_cut_at_every_byte() {
    let bench = Bench::start().await;
    let whole = bare(&bench, "k0000").await;
    assert!(whole.starts_with(b"HTTP/1.1 200 OK\r\n") && whole.ends_with(b"}"));
    for byte in 0..whole.len() {
        let key = format!("c{byte:04}");
        bench.fault(json!({ "kind": "execute_then_reset_at_byte", "byte": byte })).await;
        let cut = bare(&bench, &key).await;
        // The reset may overtake bytes on their way, but nothing comes after it.
        assert!(cut.len() <= byte, "{byte}: {} bytes", cut.len());
        assert!(cut.starts_with(&b"HTTP/1.1 200 OK\r\n"[..cut.len().min(17)]));
        let again = bench.transfer(700).key(&key).answer().await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{byte}");
    }
    assert_eq!(bench.made().await, whole.len() + 1);
    // One byte more than there are changes nothing.
    bench.fault(json!({ "kind": "execute_then_reset_at_byte", "byte": whole.len() })).await;
    assert_eq!(bare(&bench, "whole").await.len(), whole.len());
}

#[tokio::test]
async fn a_limit_ends_with_its_answer() {
    let bench = Bench::start().await;
    let mut stream = TcpStream::connect(bench.running.address).await.unwrap();
    let ask = "GET /v1/balance HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk_test_1\r\n\r\n";
    bench.fault(json!({ "kind": "execute_then_reset_at_byte", "byte": 2500 })).await;
    for _ in 0..5 {
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"]}") {
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "the connection stays");
            received.extend_from_slice(&buffer[..length]);
        }
    }
}

#[tokio::test]
async fn webhooks_can_come_first_late_twice_or_never() {
    let receiver = Receiver::start().await;
    let bench = Bench::start().await;
    bench.running.add_webhook(receiver.endpoint(false)).await.unwrap();

    bench.fault(json!({ "kind": "webhook_before_answer" })).await;
    bench.transfer(5).answer().await;
    assert_eq!(receiver.take_types(), ["transfer.created"], "before the answer, and without a flush");

    // Even when there is no answer at all.
    bench.fault(json!([{ "kind": "webhook_before_answer" }, { "kind": "execute_then_reset_at_byte" }])).await;
    bench.transfer(5).send().await.unwrap_err();
    assert_eq!(receiver.take_types(), ["transfer.created"]);

    bench.fault(json!({ "kind": "webhook_late", "for_s": 600 })).await;
    bench.transfer(5).answer().await;
    bench.running.advance(599).await;
    assert_eq!(bench.running.flush().await.delivered, 0);
    bench.running.advance(1).await;
    assert_eq!(bench.running.flush().await.delivered, 1);
    receiver.take();

    bench.fault(json!({ "kind": "webhook_duplicate", "times": 2 })).await;
    bench.transfer(5).answer().await;
    assert_eq!(bench.running.flush().await.delivered, 3);
    let arrived = receiver.take();
    assert!(arrived.iter().all(|webhook| webhook.body == arrived[0].body));

    bench.fault(json!({ "kind": "webhook_none" })).await;
    bench.transfer(5).answer().await;
    bench.running.advance(1_000_000).await;
    assert_eq!(bench.running.flush().await.delivered, 0);
    // The event exists, and says that it was not delivered.
    assert_eq!(bench.get("/v1/events?delivery_success=false").await.ids().len(), 1);
}
