//! Settling and payouts over the API: shapes, scopes, what each key sees, and what stops them.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        idempotency::{KEPT_S, LEASE_S},
        keys::{self, KeyKind, NewKey, Principal},
    },
    clock::ManualClock,
    domain::ids::{InstanceId, OrganizationId},
    store::instance,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::support::{
    TestDb,
    api::{self, Api, PROGRAMS, rows},
    node::Node,
    on_each_engine,
    shop::{Shop, charge},
};

/// A shop with payable commissions of ada (200) and bob (100), and the API over the same node.
struct Office {
    api: Api,
    shop: Shop,
}

impl Office {
    async fn open(db: &TestDb, settings: &[(&str, &str)]) -> Self {
        let node = Node::with_settings(db.db.clone(), 16, settings);
        let shop = Shop::open_on(node, &db.db, "shop", &json!({})).await;
        let sale = |who: &str, amount| {
            let mut event = charge(who, amount, None);
            event["data"]["object"]["metadata"] = json!({ "referral_code": who });
            event
        };
        shop.tell_and_process(&[sale("ada", 1_000), sale("bob", 500)]).await;
        shop.pass_grace().await;
        let app = shop.node.app.clone();
        let router = api::public(&app).await;
        let operator = api::key(&app, KeyKind::Operator, None).await;
        let clock: ManualClock = shop.node.clock.clone();
        let office = Self { api: Api { app, clock, router, operator }, shop };
        let body = json!({ "min_payout": { "usd": 0 }, "platform_fee_bps": 1_000 });
        let (status, answer) = office.call(Method::PATCH, &office.program(), &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let account =
            format!("/v1/admin/organizations/{}/payout-account", office.shop.owner.id("org_", "ada"));
        let body = json!({ "provider": "stripe", "account_id": "acct_ada" });
        assert_eq!(office.call(Method::PUT, &account, &body).await.0, StatusCode::OK);
        office
    }

    fn program(&self) -> String {
        format!("{PROGRAMS}/{}", self.shop.owner.id("prog_", "fifth"))
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        self.api.call(&self.api.operator, method, path, body).await
    }

    async fn data(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, mut answer) = self.call(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer["data"].take()
    }

    /// The request for a run under an Idempotency-Key.
    fn run_under(&self, key: &str, body: &str) -> Request<Body> {
        Request::post(format!("{}/payouts/run", self.program()))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.api.operator))
            .header("idempotency-key", key)
            .body(Body::from(body.to_owned()))
            .unwrap()
    }

    async fn refusal(&self, key: &str, method: Method, path: &str, body: &Value) -> (u16, String) {
        self.api.refusal(key, method, path, body).await
    }

    /// A key of an organization with these scopes.
    async fn key(&self, organization: &str, scopes: &[&str]) -> String {
        let new = NewKey {
            kind: KeyKind::Organization,
            organization_id: Some(OrganizationId::parse(organization).unwrap()),
            project_id: None,
            scopes: Some(scopes.iter().map(|scope| (*scope).to_owned()).collect()),
            expires_at: None,
        };
        let made = keys::create(&self.api.app, &Principal::console(), new).await.unwrap();
        made.text.expose_secret().to_owned()
    }
}

const LIVE: &[(&str, &str)] = &[("REMIT_PAYOUTS__LIVE", "true")];

on_each_engine! {
    async fn a_run_answers_who_is_paid_and_the_payouts_can_be_read_and_given_up(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let run = format!("{}/payouts/run", office.program());
        let (ada, bob) = (office.shop.enrollment("ada"), office.shop.enrollment("bob"));
        let skipped = json!([{ "enrollment_id": bob, "currency": "usd", "due": 100, "reason": "no_payout_account" }]);
        let mut line = json!({ "id": null, "enrollment_id": ada, "currency": "usd", "due": 200, "fee": 20,
            "send": 180 });
        let plan = office.data(Method::POST, &run, &json!({ "dry_run": true })).await;
        assert_eq!(plan, json!({ "run_id": null, "dry_run": true, "payouts": [line], "skipped": skipped }));

        // No body at all is a run with every default.
        let done = office.data(Method::POST, &run, &Value::Null).await;
        line["id"] = done["payouts"][0]["id"].clone();
        assert!(line["id"].as_str().unwrap().starts_with("po_"), "{done}");
        let run_id = done["run_id"].clone();
        assert_eq!(done, json!({ "run_id": run_id, "dry_run": false, "payouts": [line], "skipped": skipped }));

        let list = office.call(Method::GET, &format!("{}/payouts?limit=1", office.program()), &Value::Null).await.1;
        assert_eq!(list["next_cursor"], Value::Null);
        let shown = &list["data"][0];
        for (field, expected) in [
            ("id", line["id"].clone()), ("run_id", run_id), ("enrollment_id", json!(ada)), ("due", json!(200)),
            ("fee", json!(20)), ("send", json!(180)), ("state", json!("pending")), ("reason", Value::Null),
            ("destination", json!("acct_ada")), ("transfer_id", Value::Null), ("reversed", json!(0)),
            ("returned", json!(0)), ("livemode", json!(false)), ("completed_at", Value::Null),
        ] {
            assert_eq!(shown[field], expected, "{field}");
        }
        let payout = format!("{}/payouts/{}", office.program(), line["id"].as_str().unwrap());
        let detail = office.data(Method::GET, &payout, &Value::Null).await;
        assert_eq!((detail["items"].as_array().unwrap().len(), &detail["items"][0]["amount"]), (1, &json!(200)));
        assert!(detail["items"][0]["commission_id"].as_str().unwrap().starts_with("com_"));
        assert_eq!((&detail["attempts"], &detail["items_next_cursor"]), (&json!([]), &Value::Null));
        let items = office.call(Method::GET, &format!("{payout}/items"), &Value::Null).await.1;
        assert_eq!(items["data"], detail["items"]);

        let canceled = office.data(Method::POST, &format!("{payout}/cancel"), &Value::Null).await;
        assert_eq!(canceled["state"], "canceled");
        let again = office.data(Method::POST, &run, &json!({ "dry_run": true })).await;
        assert_eq!(again["payouts"][0]["due"], 200);
    }

    async fn a_refusal_says_what_is_wrong(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let operator = office.api.operator.clone();
        let run = format!("{}/payouts/run", office.program());
        for (body, status, code) in [
            (json!({ "as_of": "yesterday" }), 400, "INVALID_AS_OF"),
            (json!({ "as_of": "2999-01-01T00:00:00Z" }), 400, "INVALID_AS_OF"),
            (json!({ "amount": 5 }), 400, "INVALID_BODY"),
        ] {
            let refused = office.refusal(&operator, Method::POST, &run, &body).await;
            assert_eq!(refused, (status, code.to_owned()), "{body}");
        }
        for path in ["payouts/po_nobody", "payouts/po_nobody/items", "payouts/run/items"] {
            let path = format!("{}/{path}", office.program());
            let refused = office.refusal(&operator, Method::GET, &path, &Value::Null).await;
            assert_eq!(refused.0, 404, "{path}");
        }
        let nobody = format!("{}/payouts/po_nobody/cancel", office.program());
        assert_eq!(office.refusal(&operator, Method::POST, &nobody, &Value::Null).await.0, 404);
    }

    async fn keys_settle_only_what_is_theirs_and_only_with_the_scope(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let owner = office.shop.owner.id("org_", "ada").replace("-ada", "");
        let reader = office.key(&owner, &["read"]).await;
        let settler = office.key(&owner, &["read", "settle"]).await;
        let stranger = office.key("org_default", &["read", "settle"]).await;
        let run = format!("{}/payouts/run", office.program());
        let (plan, real) = (json!({ "dry_run": true }), json!({}));
        let status = async |key: &str, path: &str, body: &Value| {
            office.api.call(key, Method::POST, path, body).await.0.as_u16()
        };
        assert_eq!(status(&reader, &run, &plan).await, 200);
        assert_eq!(status(&reader, &run, &real).await, 403);
        assert_eq!(status(&stranger, &run, &plan).await, 404);
        assert_eq!(status(&stranger, &run, &real).await, 404);
        let hold = format!("{}/enrollments/{}/hold", office.program(), office.shop.enrollment("ada"));
        let reason = json!({ "reason": "looks odd" });
        assert_eq!(status(&reader, &hold, &reason).await, 403);
        assert_eq!(status(&stranger, &hold, &reason).await, 404);
        assert_eq!(status(&settler, &hold, &json!({ "reason": " " })).await, 400);
        assert_eq!(status(&settler, "/v1/admin/payouts/pause", &reason).await, 403);
        assert_eq!(status(&settler, "/v1/admin/payouts/resume", &json!({})).await, 403);
        assert_eq!(office.api.call(&settler, Method::GET, "/v1/admin/payouts/status", &Value::Null).await.0, 403);
        assert_eq!(status(&settler, &run, &real).await, 200);
        for path in ["payouts", "payouts/po_nobody"] {
            let path = format!("{}/{path}", office.program());
            assert_eq!(office.refusal(&stranger, Method::GET, &path, &Value::Null).await.0, 404);
        }
    }

    async fn a_hold_after_an_anomaly_is_lifted_by_an_operator_only(db: TestDb) {
        const ANOMALY: &str = "INSERT INTO payout_hold (id, enrollment_id, kind, reason, actor, placed_at_us)
            VALUES ('hold_anomaly', $1, 'anomaly', 'two transfers', 'remit', 0)";
        let office = Office::open(&db, LIVE).await;
        let owner = office.shop.owner.id("org_", "ada").replace("-ada", "");
        let settler = office.key(&owner, &["settle"]).await;
        let path = format!("{}/enrollments/{}", office.program(), office.shop.enrollment("ada"));
        let (hold, unhold) = (format!("{path}/hold"), format!("{path}/unhold"));
        let (status, held) = office.api.call(&settler, Method::POST, &hold, &json!({ "reason": "odd" })).await;
        assert_eq!((status, &held["data"]["held"], &held["data"]["holds"][0]["kind"]),
            (StatusCode::OK, &json!(true), &json!("operator")));
        assert_eq!(office.api.call(&settler, Method::POST, &unhold, &Value::Null).await.1["data"]["held"], false);

        let mut tx = db.db.begin().await.unwrap();
        tx.q(ANOMALY).bind(office.shop.enrollment("ada")).exec().await.unwrap();
        tx.commit().await.unwrap();
        let refused = office.refusal(&settler, Method::POST, &unhold, &Value::Null).await;
        assert_eq!(refused, (409, "HELD_AFTER_ANOMALY".to_owned()));
        let run = office.data(Method::POST, &format!("{}/payouts/run", office.program()), &json!({})).await;
        assert_eq!(run["skipped"][0]["reason"], "held");
        assert_eq!(office.data(Method::POST, &unhold, &Value::Null).await["holds"], json!([]));
        let run = office.data(Method::POST, &format!("{}/payouts/run", office.program()), &json!({})).await;
        assert_eq!(run["payouts"].as_array().unwrap().len(), 1);
    }

    async fn fifty_runs_asked_for_at_once_under_one_key_are_one_run(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let mut asked = JoinSet::new();
        for _ in 0..50 {
            let (router, request) = (office.api.router.clone(), office.run_under("november", "{}"));
            asked.spawn(async move { router.oneshot(request).await.unwrap() });
        }
        let mut shown = BTreeSet::new();
        for answer in asked.join_all().await {
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if parts.status == StatusCode::OK {
                shown.insert(body);
                continue;
            }
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((parts.status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("IDEMPOTENCY_IN_FLIGHT")));
            assert!(parts.headers.contains_key(header::RETRY_AFTER));
        }
        assert_eq!(shown.len(), 1, "one answer: {shown:?}");
        let runs = "SELECT COUNT(*), state FROM payout_run GROUP BY state";
        assert_eq!(rows(&db.db, runs).await, [(1, "completed".to_owned())]);
        assert_eq!(rows(&db.db, "SELECT COUNT(*), state FROM payout GROUP BY state").await, [(1, "pending".to_owned())]);
    }

    async fn a_run_is_one_under_its_key_whatever_stops_it(db: TestDb) {
        const INTERRUPT: &str = "UPDATE idempotency SET state = 'in_flight', status = NULL, content_type = NULL, body = NULL";
        const AGAIN: &str = "UPDATE payout_run SET state = 'running', completed_at_us = NULL, last_enrollment = 'par_zz'";
        let office = Office::open(&db, LIVE).await;
        let ask = async |body: &str| {
            let request = office.run_under("november", body);
            let (parts, body) = office.api.router.clone().oneshot(request).await.unwrap().into_parts();
            let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            let code = body["error"]["code"].as_str().unwrap_or("none").to_owned();
            (parts.status.as_u16(), code, parts.headers.contains_key("idempotent-replayed"), body["data"].clone())
        };
        let refused = |status: u16, code: &str| (status, code.to_owned(), false, Value::Null);
        let change = async |sql: &'static str| {
            let mut tx = db.db.begin().await.unwrap();
            tx.q(sql).exec().await.unwrap();
            tx.commit().await.unwrap();
        };
        // What was stopped before it began, and what was only shown, are not kept from being done.
        let pause = async |on: bool| {
            let body = if on { json!({ "reason": "a look" }) } else { Value::Null };
            let verb = if on { "pause" } else { "resume" };
            office.data(Method::POST, &format!("/v1/admin/payouts/{verb}"), &body).await;
        };
        pause(true).await;
        assert_eq!(ask("{}").await, refused(503, "PAYOUTS_PAUSED"));
        pause(false).await;
        let (status, _, _, done) = ask("{}").await;
        assert_eq!((status, done["payouts"].as_array().unwrap().len()), (200, 1));
        assert_eq!(ask("{}").await, (200, "none".to_owned(), true, done.clone()));
        assert_eq!(ask(r#"{"dry_run": true}"#).await, refused(422, "IDEMPOTENCY_MISMATCH"));

        // Its node died with the run half way, and payouts are paused when it is asked for again.
        change(INTERRUPT).await;
        change(AGAIN).await;
        assert_eq!(ask("{}").await, refused(409, "IDEMPOTENCY_IN_FLIGHT"));
        office.api.clock.advance_secs(LEASE_S + 1);
        pause(true).await;
        assert_eq!(ask("{}").await, refused(503, "PAYOUTS_PAUSED"));
        pause(false).await;
        assert_eq!(ask("{}").await, (200, "none".to_owned(), false, done.clone()));
        assert_eq!(ask("{}").await, (200, "none".to_owned(), true, done.clone()));

        // After the day of the key it is the same run still, and no other one.
        office.api.clock.advance_secs(KEPT_S);
        assert_eq!(ask(r#"{"as_of": "2025-01-01T00:00:00Z"}"#).await, refused(422, "IDEMPOTENCY_MISMATCH"));
        assert_eq!(ask("{}").await, (200, "none".to_owned(), false, done));
        assert_eq!(rows(&db.db, "SELECT COUNT(*), state FROM payout_run GROUP BY state").await, [(1, "completed".to_owned())]);
        assert_eq!(rows(&db.db, "SELECT COUNT(*), state FROM payout GROUP BY state").await, [(1, "pending".to_owned())]);
    }

    async fn a_run_that_was_asked_for_by_somebody_else_or_as_of_another_time_answers_no_other_request(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let owner = office.shop.owner.id("org_", "ada").replace("-ada", "");
        let settler = office.key(&owner, &["read", "settle"]).await;
        let ask = async |by: &str, under: &str, body: &str| {
            let mut request = office.run_under(under, body);
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {by}").parse().unwrap());
            let (parts, body) = office.api.router.clone().oneshot(request).await.unwrap().into_parts();
            let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            (parts.status.as_u16(), body["error"]["code"].as_str().unwrap_or("none").to_owned(), body["data"].clone())
        };
        let mismatch = (422, "IDEMPOTENCY_MISMATCH".to_owned(), Value::Null);
        let operator = office.api.operator.clone();
        let (status, _, done) = ask(&operator, "november", "{}").await;
        assert_eq!((status, done["payouts"].as_array().unwrap().len()), (200, 1));
        // The owner would be told of payouts that were made before, and none would be made.
        assert_eq!(ask(&settler, "november", "{}").await, mismatch);
        let early = r#"{"as_of": "2025-01-01T00:00:00Z"}"#;
        assert_eq!(ask(&settler, "december", early).await.0, 200);
        office.api.clock.advance_secs(KEPT_S);
        assert_eq!(ask(&settler, "december", "{}").await, mismatch);
        assert_eq!(ask(&settler, "december", early).await.0, 200);
        assert_eq!(ask(&operator, "november", "{}").await, (200, "none".to_owned(), done));
    }

    async fn a_closed_gate_and_a_pause_answer_503_and_plans_go_on(db: TestDb) {
        let office = Office::open(&db, &[]).await;
        let operator = office.api.operator.clone();
        let run = format!("{}/payouts/run", office.program());
        let refused = office.refusal(&operator, Method::POST, &run, &json!({})).await;
        assert_eq!(refused, (503, "PAYOUTS_NOT_ENABLED".to_owned()));
        assert_eq!(office.data(Method::POST, &run, &json!({ "dry_run": true })).await["payouts"][0]["send"], 180);
        let status = office.data(Method::GET, "/v1/admin/payouts/status", &Value::Null).await;
        assert_eq!(status, json!({ "enabled": false, "paused": false, "pauses": [] }));

        // Another node of the same database, where payouts are enabled.
        let node = Node::with_settings(db.db.clone(), 16, LIVE);
        let router = api::public(&node.app).await;
        let live = Api { app: node.app.clone(), clock: node.clock.clone(), router, operator: operator.clone() };
        node.clock.set(office.shop.node.app.now());
        let body = json!({ "reason": "the bank called" });
        let paused = office.data(Method::POST, "/v1/admin/payouts/pause", &body).await;
        assert_eq!((&paused["paused"], &paused["pauses"][0]["reason"]), (&json!(true), &body["reason"]));
        let refused = live.refusal(&operator, Method::POST, &run, &json!({})).await;
        assert_eq!(refused, (503, "PAYOUTS_PAUSED".to_owned()));
        assert_eq!(live.call(&operator, Method::POST, &run, &json!({ "dry_run": true })).await.0, StatusCode::OK);
        let resumed = live.call(&operator, Method::POST, "/v1/admin/payouts/resume", &Value::Null).await.1;
        assert_eq!(resumed["data"], json!({ "enabled": true, "paused": false, "pauses": [] }));
        assert_eq!(live.call(&operator, Method::POST, &run, &json!({})).await.0, StatusCode::OK);
    }

    async fn a_stop_that_is_asked_for_twice_is_one_stop(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let path = format!("{}/enrollments/{}", office.program(), office.shop.enrollment("ada"));
        let (hold, unhold) = (format!("{path}/hold"), format!("{path}/unhold"));
        let (pause, resume) = ("/v1/admin/payouts/pause", "/v1/admin/payouts/resume");
        let (odd, other) = (json!({ "reason": "odd" }), json!({ "reason": "the tax form is missing" }));
        // As every node does when it starts.
        let mut tx = db.db.begin().await.unwrap();
        let now = office.api.app.now();
        instance::create(&mut tx, &InstanceId::derived(&["office"]), now).await.unwrap();
        tx.commit().await.unwrap();
        for (stop, go_on, list) in [(&*hold, &*unhold, "holds"), (pause, resume, "pauses")] {
            let first = office.data(Method::POST, stop, &odd).await;
            office.api.clock.advance_secs(60);
            let body = json!({ "reason": " odd " });
            assert_eq!(office.data(Method::POST, stop, &body).await, first, "{stop}: nothing changed");
            let (one, two) = tokio::join!(
                office.data(Method::POST, stop, &other),
                office.data(Method::POST, stop, &other)
            );
            assert_eq!(one, two, "{stop}: two requests at once");
            assert_eq!(one[list].as_array().unwrap().len(), 2, "{stop}: another reason is another stop");
            assert_eq!(one[list][0], first[list][0]);

            let ended = office.data(Method::POST, go_on, &Value::Null).await;
            assert_eq!(ended[list], json!([]));
            office.api.clock.advance_secs(60);
            assert_eq!(office.data(Method::POST, go_on, &Value::Null).await, ended, "{go_on}: nothing changed");
            let again = office.data(Method::POST, stop, &odd).await;
            assert_ne!(again[list][0]["id"], first[list][0]["id"], "{stop}: what has ended is no stop");
            office.data(Method::POST, go_on, &Value::Null).await;
        }
        let ends = "SELECT COUNT(DISTINCT lifted_at_us) FROM payout_hold
            UNION ALL SELECT COUNT(DISTINCT resumed_at_us) FROM payout_pause";
        let ends: Vec<i64> = db.db.read().await.unwrap().q(ends).scalars().await.unwrap();
        assert_eq!(ends, [2, 2], "when a stop ended stays as it was");
    }

    async fn payouts_are_listed_newest_first_a_page_at_a_time(db: TestDb) {
        let office = Office::open(&db, LIVE).await;
        let run = format!("{}/payouts/run", office.program());
        let mut made = Vec::new();
        for number in 0..5 {
            let done = office.data(Method::POST, &run, &json!({})).await;
            made.push(done["payouts"][0]["id"].as_str().unwrap().to_owned());
            let mut event = charge(&format!("more{number}"), 1_000, None);
            event["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
            office.shop.tell_and_process(&[event]).await;
            office.shop.node.pass_time(office.shop.node.app.now().plus_secs(1_000)).await;
        }
        made.reverse();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("{}/payouts?limit=2{cursor}", office.program());
            let page = office.call(Method::GET, &path, &Value::Null).await.1;
            let ids = page["data"].as_array().unwrap().iter();
            seen.extend(ids.map(|row| row["id"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, made);
    }
}
