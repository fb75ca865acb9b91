//! Requests sent again under their Idempotency-Key: by one caller or many, at once or after a crash. Every
//! route is asked again by `audit`, and settlements by `payouts_api`.

use std::collections::BTreeSet;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        App,
        audit::Origin,
        idempotency::{self, Asked, KEPT_S, LEASE_S, Turn},
        keys::{KeyKind, Principal, authenticate},
        programs::{self, ProgramFields},
        random_u128,
    },
    domain::ids::{DecisionId, OrganizationId},
    store::{DbOptions, StoreError},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{Api, PROGRAMS, id_of, key, rows},
    on_each_engine,
    site::{Site, TOUCHPOINT},
};

const SIGNUP: &str = "/v1/public/affiliate/signup";

/// An answer, whole.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and the code of a refusal.
    fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"]["code"].as_str().unwrap_or("none").to_owned())
    }
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A request of `key` under the Idempotency-Key `under`.
async fn send(api: &Api, key: &str, method: Method, path: &str, under: &str, body: &Value) -> Answer {
    send_to(api.router.clone(), key, method, path, under, body).await
}

async fn send_to(router: Router, key: &str, method: Method, path: &str, under: &str, body: &Value) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header("idempotency-key", HeaderValue::from_bytes(under.as_bytes()).unwrap())
        .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn post(api: &Api, path: &str, under: &str, body: &Value) -> Answer {
    send(api, &api.operator, Method::POST, path, under, body).await
}

fn program(name: &str) -> Value {
    json!({ "name": name, "commission": { "type": "percentage", "bps": 1000 } })
}

async fn programs_of(api: &Api) -> usize {
    let (_, list) = api.call(&api.operator, Method::GET, PROGRAMS, &Value::Null).await;
    list["data"].as_array().unwrap().len()
}

/// Makes every stored request look as one whose node died before it could keep the answer.
async fn lose_the_answer(api: &Api, changed: bool) {
    const LOSE: &str = "UPDATE idempotency
        SET state = 'in_flight', status = NULL, content_type = NULL, body = NULL, changed = $1";
    let mut tx = api.app.db.begin().await.unwrap();
    assert_eq!(tx.q(LOSE).bind(changed).exec().await.unwrap(), 1);
    tx.commit().await.unwrap();
}

/// The day of every key is over.
async fn forget(api: &Api) {
    let mut tx = api.app.db.begin().await.unwrap();
    tx.q("DELETE FROM idempotency").exec().await.unwrap();
    tx.commit().await.unwrap();
}

/// Makes many requests of the only one.
const COPY: &str = "INSERT INTO idempotency
    SELECT id || value, actor, request_key || value, fingerprint, state, claim, leased_until_us, changed,
        status, content_type, body, created_at_us, expires_at_us
    FROM idempotency, (SELECT CAST(key AS TEXT) AS value FROM json_each($1)) AS copies";

async fn stored(api: &Api) -> i64 {
    let mut conn = api.app.db.read().await.unwrap();
    conn.q("SELECT COUNT(*) FROM idempotency").scalar().await.unwrap().unwrap()
}

on_each_engine! {
    async fn the_same_request_is_answered_byte_for_byte_and_made_once(db: TestDb) {
        let api = Api::new(&db.db).await;
        let first = post(&api, PROGRAMS, "k 1", &program("One")).await;
        assert_eq!(first.status, StatusCode::CREATED);
        assert!(!first.is_replayed());
        api.clock.advance_secs(3_600);
        for _ in 0..2 {
            let again = post(&api, PROGRAMS, "k 1", &program("One")).await;
            assert!(again.is_replayed());
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            assert_eq!(again.headers[header::CONTENT_TYPE], "application/json");
        }
        assert_eq!(programs_of(&api).await, 1);
        // Another key, or none, is another request.
        assert!(!post(&api, PROGRAMS, "k 2", &program("One")).await.is_replayed());
        api.create(&api.operator, PROGRAMS, program("One")).await;
        assert_eq!(programs_of(&api).await, 3);
    }

    async fn a_key_under_another_request_is_refused_and_another_callers_key_is_another_key(db: TestDb) {
        let api = Api::new(&db.db).await;
        let first = post(&api, PROGRAMS, "k", &program("One")).await;
        let path = format!("{PROGRAMS}/{}", id_of(&first.json()["data"]));
        for (method, path, body) in [
            (Method::POST, PROGRAMS, program("Two")),
            (Method::POST, "/v1/admin/organizations", program("One")),
            (Method::PATCH, &*path, program("One")),
        ] {
            let answer = send(&api, &api.operator, method, path, "k", &body).await;
            assert_eq!(answer.refusal(), code(422, "IDEMPOTENCY_MISMATCH"), "{path}");
        }
        assert_eq!(programs_of(&api).await, 1);

        let other = key(&api.app, KeyKind::Operator, None).await;
        let theirs = send(&api, &other, Method::POST, PROGRAMS, "k", &program("One")).await;
        assert_eq!((theirs.status, theirs.is_replayed()), (StatusCode::CREATED, false));
        assert_eq!(programs_of(&api).await, 2);
    }

    async fn what_is_shown_once_is_null_in_the_replay_and_stored_nowhere(db: TestDb) {
        let api = Api::new(&db.db).await;
        let body = json!({ "kind": "operator", "scopes": ["read"] });
        let first = post(&api, "/v1/admin/keys", "k", &body).await.json();
        let secret = first["data"]["key"].as_str().unwrap().split('_').nth(3).unwrap().to_owned();
        let again = post(&api, "/v1/admin/keys", "k", &body).await;
        assert!(again.is_replayed());
        let mut expected = first.clone();
        expected["data"]["key"] = Value::Null;
        assert_eq!(again.json(), expected);

        let bodies: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT body FROM idempotency").scalars().await.unwrap();
        assert!(!String::from_utf8(bodies.concat()).unwrap().contains(&secret));
        let audit = "SELECT at_us, COALESCE(before_json, '') || COALESCE(after_json, '') || object FROM audit";
        assert!(rows(&db.db, audit).await.iter().all(|(_, text)| !text.contains(&secret)));
    }

    async fn a_header_that_is_no_key_is_refused_and_nothing_is_done(db: TestDb) {
        let api = Api::new(&db.db).await;
        for wrong in ["", &"x".repeat(256), "caf\u{e9}"] {
            let answer = post(&api, PROGRAMS, wrong, &program("One")).await;
            assert_eq!(answer.refusal(), code(400, "INVALID_IDEMPOTENCY_KEY"), "{wrong}");
        }
        let large = json!({ "name": "x".repeat(70_000) });
        assert_eq!(post(&api, PROGRAMS, "k", &large).await.refusal(), code(413, "PAYLOAD_TOO_LARGE"));
        assert_eq!((programs_of(&api).await, stored(&api).await), (0, 0));
        // Whoever is not let in is told that first, and no key is taken for them.
        let stranger = send(&api, "rk_op_1_2_3", Method::POST, PROGRAMS, "", &program("One")).await;
        assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
        // A request that only reads has no use for one.
        let read = send(&api, &api.operator, Method::GET, PROGRAMS, "", &Value::Null).await;
        assert_eq!((read.status, stored(&api).await), (StatusCode::OK, 0));
    }

    async fn requests_sent_at_once_to_two_nodes_make_one_object(db: TestDb) {
        let api = Api::new(&db.db).await;
        let other = App::new(
            db.another_node(&DbOptions::default()).await,
            api.app.config.clone(),
            api.app.clock.clone(),
        );
        let other = Api {
            router: crate::support::api::public(&other).await,
            app: other,
            clock: api.clock.clone(),
            operator: api.operator.clone(),
        };
        for round in 0..4 {
            let (name, under) = (format!("Program {round}"), format!("k{round}"));
            let body = program(&name);
            let mut asked = JoinSet::new();
            for turn in 0..8 {
                let router = if turn % 2 == 0 { api.router.clone() } else { other.router.clone() };
                let (key, under, body) = (api.operator.clone(), under.clone(), body.clone());
                asked.spawn(async move { send_to(router, &key, Method::POST, PROGRAMS, &under, &body).await });
            }
            let answers = asked.join_all().await;
            let made: Vec<&Answer> =
                answers.iter().filter(|answer| answer.status.is_success() && !answer.is_replayed()).collect();
            let [made] = made.as_slice() else { panic!("{answers:?}") };
            for answer in &answers {
                if answer.status.is_success() {
                    assert_eq!(answer.body, made.body);
                } else {
                    assert_eq!(answer.refusal(), code(409, "IDEMPOTENCY_IN_FLIGHT"));
                    assert!(answer.headers.contains_key(header::RETRY_AFTER));
                    assert_eq!(answer.json()["error"]["retryable"], json!(true));
                }
            }
            assert_eq!(post(&other, PROGRAMS, &under, &body).await.body, made.body);
            assert_eq!(programs_of(&api).await, round + 1);
        }
    }

    async fn a_request_whose_node_died_before_it_changed_anything_runs_once_its_lease_is_over(db: TestDb) {
        let api = Api::new(&db.db).await;
        post(&api, PROGRAMS, "k", &program("One")).await;
        lose_the_answer(&api, false).await;
        let early = post(&api, PROGRAMS, "k", &program("One")).await;
        assert_eq!(early.refusal(), code(409, "IDEMPOTENCY_IN_FLIGHT"));
        let wait: i64 = early.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=LEASE_S + 1).contains(&wait), "{wait}");
        api.clock.advance_secs(wait);
        let late = post(&api, PROGRAMS, "k", &program("One")).await;
        assert_eq!((late.status, late.is_replayed()), (StatusCode::CREATED, false));
        let again = post(&api, PROGRAMS, "k", &program("One")).await;
        assert_eq!((again.is_replayed(), &again.body), (true, &late.body));
    }

    async fn a_request_whose_answer_was_lost_after_the_change_says_what_was_done_and_does_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        let first = post(&api, PROGRAMS, "k", &program("One")).await;
        lose_the_answer(&api, true).await;
        api.clock.advance_secs(LEASE_S + 1);
        for _ in 0..2 {
            let late = post(&api, PROGRAMS, "k", &program("One")).await;
            assert_eq!(late.refusal(), code(409, "IDEMPOTENCY_INTERRUPTED"));
            let message = late.json()["error"]["message"].as_str().unwrap().to_owned();
            let done = format!("program.created {}", id_of(&first.json()["data"]));
            assert!(message.contains(&done), "{message}");
        }
        assert_eq!(post(&api, PROGRAMS, "k", &program("Two")).await.refusal(), code(422, "IDEMPOTENCY_MISMATCH"));
        assert_eq!(programs_of(&api).await, 1);
    }

    async fn a_report_that_was_interrupted_is_answered_as_it_would_have_been(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (organization, tenant) = api.tenant("Shop").await;
        let project =
            id_of(&api.create(&tenant, "/v1/admin/projects", json!({ "organization_id": organization, "name": "Site" })).await);
        let path = format!("{PROGRAMS}/{}", api.program(&tenant).await);
        api.create(&tenant, &format!("{path}/enrollments"), json!({ "email": "ann@example.com", "code": "ANN" })).await;
        let order = json!({ "project_id": project, "external_id": "order_1", "code": "ANN", "gross_amount_cents": 9_900 });
        let conversions = format!("{path}/conversions");
        let first = send(&api, &tenant, Method::POST, &conversions, "k", &order).await;
        assert_eq!(first.status, StatusCode::CREATED);
        lose_the_answer(&api, true).await;
        api.clock.advance_secs(LEASE_S + 1);
        let again = send(&api, &tenant, Method::POST, &conversions, "k", &order).await;
        assert_eq!((again.status, again.is_replayed()), (StatusCode::CREATED, false));
        assert_eq!(again.json()["data"]["id"], first.json()["data"]["id"]);
        let (_, list) = api.call(&tenant, Method::GET, &conversions, &Value::Null).await;
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
    }

    async fn a_decision_that_was_interrupted_is_answered_as_it_would_have_been(db: TestDb) {
        let site = Site::open(&db.db, json!({ "approval_mode": "manual" })).await;
        let api = &site.api;
        site.report("order_1", json!({ "code": "ann" })).await;
        let (_, list) = api.call(&site.key, Method::GET, &site.path("conversions"), &Value::Null).await;
        let conversion = id_of(&list["data"][0]);
        let fraud = json!({ "reason": "fraud", "amount_cents": 5 });
        for (verb, body) in [("clawback", &fraud), ("approve", &Value::Null)] {
            let path = site.path(&format!("conversions/{conversion}/{verb}"));
            let ask = async || send(api, &site.key, Method::POST, &path, verb, body).await;
            let first = ask().await;
            assert_eq!(first.status, StatusCode::OK, "{first:?}");
            lose_the_answer(api, true).await;
            assert_eq!(ask().await.refusal(), code(409, "IDEMPOTENCY_IN_FLIGHT"));
            api.clock.advance_secs(LEASE_S + 1);
            let again = ask().await;
            assert_eq!((again.is_replayed(), &again.body), (false, &first.body), "{verb}");
            assert!(ask().await.is_replayed());
            // After the day it is nothing new either.
            api.clock.advance_secs(KEPT_S);
            let late = ask().await;
            assert_eq!((late.is_replayed(), &late.body), (false, &first.body), "{verb}");
            forget(api).await;
        }
        let decided = rows(&db.db, "SELECT COUNT(*), kind FROM decision GROUP BY kind ORDER BY kind").await;
        assert_eq!(decided, [(1, "approve".to_owned()), (1, "clawback".to_owned())]);
    }

    async fn a_decision_whose_key_was_sent_to_an_older_program_is_not_taken_again(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let api = &site.api;
        let (_, reported) = site.report("order_1", json!({ "code": "ann" })).await;
        let path = site.path(&format!("conversions/{}/clawback", id_of(&reported["data"])));
        let ask = async |cents: i64| {
            let body = json!({ "reason": "other", "amount_cents": cents });
            send(api, &site.key, Method::POST, &path, "k", &body).await
        };
        let first = ask(5).await;
        assert_eq!(first.status, StatusCode::OK, "{first:?}");
        // That program kept nothing but the decision, and made its id of what was decided about whom, too.
        forget(api).await;
        let decided = "SELECT COUNT(*), actor FROM decision GROUP BY actor";
        let taken = rows(&db.db, decided).await;
        let [(1, actor)] = taken.as_slice() else { panic!("{taken:?}") };
        let id = DecisionId::derived(&[actor, "k", "clawback", &site.ann]);
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE decision SET id = $1").bind(id.as_str()).exec().await.unwrap();
        tx.commit().await.unwrap();

        let again = ask(5).await;
        assert_eq!((again.status, again.is_replayed(), &again.body), (StatusCode::OK, false, &first.body));
        forget(api).await;
        assert_eq!(ask(6).await.refusal(), code(422, "IDEMPOTENCY_MISMATCH"));
        assert_eq!(rows(&db.db, decided).await, taken);
    }

    async fn a_key_of_strangers_is_long_and_nobody_elses_request_is_answered_under_it(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let api = &site.api;
        let random = "7f3b1c5e9a2d4f60b8c7d6e5f4a39281";
        let ada = json!({ "email": "ada@x.org", "name": "Ada" });
        let click = json!({ "code": "ann", "anonymous_id": "v" });
        for (path, body) in [(SIGNUP, &ada), (TOUCHPOINT, &click)] {
            let ask = async |under: &str, body: &Value| {
                let request = Request::post(path).header("x-api-key", &site.client).header("idempotency-key", under);
                let response = api.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
                let (parts, body) = response.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Answer { status: parts.status, headers: parts.headers, body }
            };
            let short = ask(&random[1..], body).await;
            assert_eq!(short.refusal(), code(400, "INVALID_IDEMPOTENCY_KEY"), "{path}");
            let first = ask(random, body).await;
            assert_eq!((first.status, first.is_replayed()), (StatusCode::CREATED, false), "{path}");
            assert!(ask(random, body).await.is_replayed(), "{path}");
            let mut other = body.clone();
            other["name"] = json!("Eve");
            let refused = ask(random, &other).await;
            assert_eq!(refused.refusal(), code(422, "IDEMPOTENCY_MISMATCH"), "{path}");
            assert!(!String::from_utf8_lossy(&refused.body).contains("ada"), "{path}");
        }
        // The key of one kind of strangers is not the key of another, nor of those with an API key.
        assert_eq!(stored(api).await, 2);
        assert_eq!(post(api, PROGRAMS, random, &program("One")).await.status, StatusCode::CREATED);
        let kept: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT body FROM idempotency").scalars().await.unwrap();
        assert!(!String::from_utf8(kept.concat()).unwrap().contains("rk_"));
    }

    async fn strangers_who_ask_too_often_leave_no_keys(db: TestDb) {
        let api = Api::new(&db.db).await;
        for number in 0..20 {
            let request = Request::post(SIGNUP).header("idempotency-key", format!("{number:032}"));
            let answer = api.router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
            let expected = if number < 5 { StatusCode::BAD_REQUEST } else { StatusCode::TOO_MANY_REQUESTS };
            assert_eq!(answer.status(), expected, "{number}");
        }
        assert_eq!(stored(&api).await, 5);
    }

    async fn who_has_lost_the_claim_changes_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        let by = authenticate(&api.app, &api.operator).await.unwrap();
        let asked = Asked { key: "k", fingerprint: &[7; 32], is_repeatable: false };
        let claim = async || match idempotency::begin(&api.app, &by, asked).await.unwrap() {
            Turn::Run(claim) => claim,
            other => panic!("{other:?}"),
        };
        let create = async |by: &Principal| {
            let fields: ProgramFields = serde_json::from_value(program("One")).unwrap();
            programs::create(&api.app, by, fields).await
        };
        let slow = claim().await;
        api.clock.advance_secs(LEASE_S);
        let quick = claim().await;
        assert_eq!((&quick.id, quick.number), (&slow.id, slow.number + 1));
        let within = |claim| by.clone().within(Origin { request_id: "req_1".to_owned(), claim: Some(claim) });
        let refused = create(&within(slow.clone())).await.unwrap_err();
        assert!(matches!(refused, remit::app::Refusal::Store(StoreError::RowsAffected { .. })), "{refused:?}");
        assert_eq!(programs_of(&api).await, 0);
        // Nor does it end the request of the one that has the claim now.
        idempotency::finish(&api.app, &slow, None).await.unwrap();
        assert!(matches!(idempotency::begin(&api.app, &by, asked).await.unwrap(), Turn::InFlight { .. }));

        create(&within(quick.clone())).await.unwrap();
        assert_eq!(programs_of(&api).await, 1);
        // It failed afterwards: the next one learns at once that it was done.
        idempotency::finish(&api.app, &quick, None).await.unwrap();
        let Turn::Interrupted { changes } = idempotency::begin(&api.app, &by, asked).await.unwrap() else {
            panic!("the change is not known")
        };
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].0, "program.created");
    }

    async fn refusals_about_the_request_are_kept_and_those_about_anything_else_are_not(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, tenant) = api.tenant("Shop").await;
        let path = format!("{PROGRAMS}/{}/enrollments", api.program(&tenant).await);
        let affiliate = json!({ "email": "ann@example.com", "code": "ANN" });
        let nobody = json!({ "affiliate_org_id": "org_nobody" });
        api.create(&tenant, &path, affiliate.clone()).await;
        for (under, path, body, expected, is_kept) in [
            ("invalid", PROGRAMS, json!({ "name": "" }), code(400, "INVALID_NAME"), true),
            ("missing", &*path, nobody, code(404, "NOT_FOUND"), false),
            ("taken", &path, affiliate, code(409, "CODE_TAKEN"), false),
        ] {
            let first = send(&api, &tenant, Method::POST, path, under, &body).await;
            assert_eq!((first.refusal(), first.is_replayed()), (expected.clone(), false));
            let again = send(&api, &tenant, Method::POST, path, under, &body).await;
            assert_eq!((again.is_replayed(), again.refusal()), (is_kept, expected), "{under}");
            // Each answer names its own request, and a kept one the request that it was made for.
            assert_eq!(again.body == first.body, is_kept, "{under}");
        }
        assert_eq!(stored(&api).await, 1);

        // Switched off, and not allowed to: neither says anything about the request.
        for key in [&api.operator, &tenant] {
            let resumed = send(&api, key, Method::POST, "/v1/admin/payouts/resume", "k", &json!({ "surprise": 1 })).await;
            assert_eq!(resumed.refusal().0, 400);
        }
        let before = stored(&api).await;
        let refused = send(&api, &tenant, Method::POST, "/v1/admin/organizations", "scope", &json!({ "name": "X" })).await;
        assert_eq!((refused.refusal(), stored(&api).await), (code(403, "FORBIDDEN"), before));
    }

    async fn a_key_is_free_again_after_a_day_and_forgotten_in_small_batches(db: TestDb) {
        let api = Api::new(&db.db).await;
        let first = post(&api, PROGRAMS, "k", &program("One")).await;
        api.clock.advance_secs(KEPT_S - 1);
        assert!(post(&api, PROGRAMS, "k", &program("One")).await.is_replayed());
        api.clock.advance_secs(1);
        let second = post(&api, PROGRAMS, "k", &program("Two")).await;
        assert_eq!((second.status, second.is_replayed()), (StatusCode::CREATED, false));
        assert_ne!(second.body, first.body);

        let mut tx = db.db.begin().await.unwrap();
        tx.q(COPY).bind(json!(vec![0; 350]).to_string()).exec().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(stored(&api).await, 351);
        assert!(!idempotency::purge(&api.app).await.unwrap(), "nothing is due yet");
        assert_eq!(stored(&api).await, 351);
        api.clock.advance_secs(KEPT_S);
        assert!(idempotency::purge(&api.app).await.unwrap());
        assert_eq!(stored(&api).await, 151);
        assert!(!idempotency::purge(&api.app).await.unwrap());
        assert_eq!(stored(&api).await, 0);
    }

    async fn random_repeats_of_random_requests_make_each_object_once(db: TestDb) {
        let api = Api::new(&db.db).await;
        let organization = OrganizationId::parse("org_default").unwrap();
        let tenant = key(&api.app, KeyKind::Organization, Some(organization)).await;
        let seed = u64::try_from(random_u128() >> 64).unwrap();
        println!("seed {seed}");
        let mut state = seed | 1;
        let mut dice = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let mut asked = BTreeSet::new();
        for _ in 0..60 {
            let (caller, under) = (dice(2), dice(5));
            let key = if caller == 0 { &api.operator } else { &tenant };
            let name = format!("Program {caller}-{under}");
            let answer = send(&api, key, Method::POST, PROGRAMS, &format!("k{under}"), &program(&name)).await;
            assert_eq!(answer.status, StatusCode::CREATED, "seed {seed}");
            assert_eq!(answer.is_replayed(), !asked.insert((caller, under)), "seed {seed}");
            assert_eq!(answer.json()["data"]["name"], json!(name), "seed {seed}");
            // Well within the day of every key.
            api.clock.advance_secs(i64::try_from(dice(600)).unwrap());
        }
        assert_eq!(programs_of(&api).await, asked.len());
    }
}
