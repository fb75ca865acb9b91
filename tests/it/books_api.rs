//! The books over the API: a webhook's money seen as conversion, commission, balance and explanation,
//! and what people decide about it.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        Refusal,
        decide::{self, OnConversion},
        keys::authenticate,
        process, receive, release,
    },
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::{ConversionId, EndpointId, ProgramId, ProjectId},
    },
    providers,
    store::inbox::{self, EventSource},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{Api, NOW, PROGRAMS, id_of},
    on_each_engine,
};

/// An owner with a project, a program without hold, and one affiliate.
struct Shop {
    key: String,
    project: String,
    program: String,
    enrollment: String,
}

impl Shop {
    async fn open(api: &Api, name: &str, terms: Value) -> Self {
        let (organization, key) = api.tenant(name).await;
        let project = json!({"organization_id": organization, "name": name});
        let project = id_of(&api.create(&key, "/v1/admin/projects", project).await);
        let mut body = json!({
            "name": "Partners", "commission": {"type": "percentage", "bps": 2000}, "status": "active",
            "hold_period_days": 0,
        });
        for (field, value) in terms.as_object().unwrap() {
            body[field] = value.clone();
        }
        let program = id_of(&api.create(&key, PROGRAMS, body).await);
        let affiliate = json!({"email": "ann@example.com", "code": "ANN"});
        let enrollment =
            id_of(&api.create(&key, &format!("{PROGRAMS}/{program}/enrollments"), affiliate).await);
        Self { key, project, program, enrollment }
    }

    fn path(&self, rest: &str) -> String {
        format!("{PROGRAMS}/{}/{rest}", self.program)
    }

    async fn data(&self, api: &Api, path: &str) -> Value {
        let (status, mut answer) = api.call(&self.key, Method::GET, path, &Value::Null).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer["data"].take()
    }

    /// The one balance of the shop's affiliate, as held and payable.
    async fn balance(&self, api: &Api) -> (i64, i64) {
        let balances = self.data(api, &self.path("balances")).await;
        let [balance] = balances.as_array().unwrap().as_slice() else { panic!("{balances}") };
        assert_eq!(
            (&balance["enrollment_id"], &balance["currency"]),
            (&json!(self.enrollment), &json!("usd"))
        );
        assert_eq!((&balance["in_transit"], &balance["paid"]), (&json!(0), &json!(0)));
        (balance["held"].as_i64().unwrap(), balance["payable"].as_i64().unwrap())
    }

    /// One more affiliate of the program, with the code of that name.
    async fn enroll(&self, api: &Api, code: &str) -> String {
        let affiliate = json!({"email": format!("{code}@example.com"), "code": code});
        id_of(&api.create(&self.key, &self.path("enrollments"), affiliate).await)
    }

    /// The report of an order of the shop.
    fn order(&self, external_id: &str, code: &str) -> Value {
        json!({
            "project_id": self.project, "external_id": external_id, "code": code,
            "gross_amount_cents": 9_900,
        })
    }

    /// Decides about a conversion under a key of the caller's; the answer or the code of the refusal.
    async fn decide(
        &self,
        api: &Api,
        conversion: &str,
        verb: &str,
        idempotency_key: &str,
        body: Value,
    ) -> Result<Value, (u16, String)> {
        let request = Request::post(self.path(&format!("conversions/{conversion}/{verb}")))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header("idempotency-key", idempotency_key)
            .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
            .unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
        if status.is_success() {
            Ok(answer["data"].take())
        } else {
            Err((status.as_u16(), answer["error"]["code"].as_str().unwrap().to_owned()))
        }
    }

    /// Delivers a Stripe event to the shop's project and processes it.
    async fn deliver(&self, api: &Api, event: &Value) {
        let stripe = providers::inbound("stripe").unwrap();
        let endpoint = receive::Endpoint {
            id: EndpointId::parse("ep_shop").unwrap(),
            project_id: ProjectId::parse(&self.project).unwrap(),
            provider: stripe.name(),
            livemode: false,
            secrets: Vec::new(),
        };
        let body = event.to_string().into_bytes();
        let head = stripe.head(&body).unwrap();
        let row = receive::new_event(&endpoint, head, body, EventSource::Webhook, api.app.now()).unwrap();
        let mut tx = api.app.db.begin().await.unwrap();
        inbox::insert_batch(&mut tx, &[row]).await.unwrap();
        tx.commit().await.unwrap();
        while !process::step(&api.app).await.unwrap().is_idle() {}
    }

    /// Lets the merge grace pass.
    async fn settle_down(&self, api: &Api) {
        api.clock.advance_secs(901);
        while release::step(&api.app).await.unwrap() > 0 {}
    }
}

fn paid(intent: &str, amount: i64, metadata: &Value) -> Value {
    json!({
        "id": format!("evt_{intent}"), "object": "event", "type": "payment_intent.succeeded",
        "created": NOW.as_secs(), "livemode": false, "api_version": "2026-07-29.dahlia",
        "data": {"object": {
            "id": intent, "object": "payment_intent", "amount": amount, "amount_received": amount,
            "currency": "usd", "latest_charge": format!("ch_{intent}"), "status": "succeeded",
            "metadata": metadata, "customer": null, "created": NOW.as_secs(), "livemode": false,
        }},
    })
}

/// A second event about an intent, which tells that it pays an order.
fn pays_order(intent: &str, amount: i64, external_id: &str) -> Value {
    let mut event = paid(intent, amount, &json!({"referral_code": "ann", "remit_external_id": external_id}));
    event["id"] = json!(format!("evt_order_{intent}"));
    event
}

/// The names of the fields of a row.
fn fields(row: &Value) -> BTreeSet<&str> {
    row.as_object().unwrap().keys().map(String::as_str).collect()
}

fn refunded(intent: &str, amount: i64) -> Value {
    json!({
        "id": format!("evt_re_{intent}"), "object": "event", "type": "refund.created",
        "created": NOW.as_secs(), "livemode": false, "api_version": "2026-07-29.dahlia",
        "data": {"object": {
            "id": format!("re_{intent}"), "object": "refund", "amount": amount, "currency": "usd",
            "charge": format!("ch_{intent}"), "payment_intent": intent, "status": "succeeded",
            "created": NOW.as_secs(), "metadata": {},
        }},
    })
}

/// The day of every key is over.
async fn forget_keys(api: &Api) {
    let mut tx = api.app.db.begin().await.unwrap();
    tx.q("DELETE FROM idempotency").exec().await.unwrap();
    tx.commit().await.unwrap();
}

on_each_engine! {
    async fn a_payment_and_its_refund_are_shown_and_explained(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"referral_code": "ann"}))).await;
        assert_eq!(shop.balance(&api).await, (2_000, 0));
        shop.settle_down(&api).await;
        assert_eq!(shop.balance(&api).await, (0, 2_000));
        // 2000 x (10000 - 3333) / 10000 = 1333.4, so 1333 stay.
        shop.deliver(&api, &refunded("pi_1", 3_333)).await;
        assert_eq!(shop.balance(&api).await, (0, 1_333));

        let conversions = shop.data(&api, &shop.path("conversions")).await;
        let conversion = &conversions[0];
        assert_eq!(conversion["status"], "approved");
        assert_eq!((&conversion["attributed_by"], &conversion["code"]), (&json!("metadata"), &json!("ann")));
        assert_eq!((&conversion["earned_minor"], &conversion["clawed_minor"]), (&json!(2_000), &json!(667)));
        let commissions = shop.data(&api, &shop.path("commissions")).await;
        assert_eq!(commissions[0]["id"], conversion["commission_id"]);
        assert_eq!((&commissions[0]["state"], &commissions[0]["payable_minor"]), (&json!("payable"), &json!(1_333)));

        let path = format!("/v1/admin/commissions/{}/explain", commissions[0]["id"].as_str().unwrap());
        let explained = shop.data(&api, &path).await;
        let steps: Vec<(&str, i64)> = explained["steps"].as_array().unwrap().iter()
            .map(|step| (step["what"].as_str().unwrap(), step["amount_minor"].as_i64().unwrap()))
            .collect();
        assert_eq!(steps, [("base", 10_000), ("commission", 2_000), ("kept_of_sale", 1_333), ("posted", 1_333)]);
        assert!(explained["steps"][2]["how"].as_str().unwrap().contains("1333 and 4000/10000, rounded down"), "{explained}");
        let entries: Vec<(&str, i64, &str)> = explained["entries"].as_array().unwrap().iter()
            .map(|entry| {
                let cause = entry["causes"][0]["type"].as_str().or(entry["causes"][0]["rule"].as_str());
                (entry["kind"].as_str().unwrap(), entry["amount_minor"].as_i64().unwrap(), cause.unwrap())
            })
            .collect();
        assert_eq!(entries, [
            ("accrual", 2_000, "payment_intent.succeeded"),
            ("release", 2_000, "due"),
            ("clawback", 667, "refund.created"),
        ]);

        for id in ["pi_1", "ch_pi_1"] {
            let sale = shop.data(&api, &format!("/v1/admin/sales/{id}")).await;
            assert_eq!((&sale["status"], &sale["refunded_minor"]), (&json!("partial_refunded"), &json!(3_333)));
            assert_eq!(sale["events"].as_array().unwrap().len(), 2);
            assert_eq!(sale["hints"][0]["code"], "ann");
        }
    }

    async fn a_missed_referral_is_mended_by_hand(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"referral_code": "nobody"}))).await;
        let path = "/v1/admin/sales/pi_1/attribution";
        for (body, status, code) in [
            (json!({"code": "nobody", "reason": "ticket 7"}), 400, "UNKNOWN_CODE"),
            (json!({"enrollment_id": "par_nobody", "reason": "ticket 7"}), 400, "UNKNOWN_ENROLLMENT"),
            (json!({"code": "ann", "enrollment_id": shop.enrollment, "reason": "x"}), 400, "INVALID_BODY"),
            (json!({"reason": "ticket 7"}), 400, "INVALID_BODY"),
            (json!({"code": "ann", "reason": "  "}), 400, "INVALID_REASON"),
        ] {
            let refused = api.refusal(&shop.key, Method::POST, path, &body).await;
            assert_eq!(refused, (status, code.to_owned()), "{body}");
        }
        let findings = async || {
            let (_, answer) = api.call(&api.operator, Method::GET, "/v1/admin/findings", &Value::Null).await;
            answer["data"].as_array().unwrap().len()
        };
        assert_eq!(findings().await, 1);
        let mended = api.create(&shop.key, path, json!({"code": "ANN", "reason": "ticket 7"})).await;
        assert_eq!(findings().await, 0, "what was mended is no finding any more");
        assert_eq!(mended["enrollment_id"], json!(shop.enrollment));
        assert_eq!(mended["commission"]["earned_minor"], json!(2_000));
        assert_eq!(shop.balance(&api).await, (2_000, 0));
        let sale = shop.data(&api, "/v1/admin/sales/pi_1").await;
        assert_eq!((&sale["decisions"][0]["kind"], &sale["decisions"][0]["note"]), (&json!("attribute"), &json!("ticket 7")));
        let missing = api.refusal(&shop.key, Method::POST, "/v1/admin/sales/pi_none/attribution", &json!({"code": "ANN", "reason": "x"})).await;
        assert_eq!(missing, (404, "NOT_FOUND".to_owned()));
    }

    async fn a_manual_program_accrues_on_approval_and_a_repeat_changes_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({"approval_mode": "manual"})).await;
        for intent in ["pi_1", "pi_2"] {
            shop.deliver(&api, &paid(intent, 5_000, &json!({"via": "ann"}))).await;
        }
        let conversions = shop.data(&api, &shop.path("conversions")).await;
        let ids: Vec<String> = conversions.as_array().unwrap().iter().map(id_of).collect();
        assert!(conversions.as_array().unwrap().iter().all(|known| known["status"] == "pending"));
        assert_eq!(shop.data(&api, &shop.path("balances")).await, json!([]));

        let decide = |id: &str, verb: &str| shop.path(&format!("conversions/{id}/{verb}"));
        for _ in 0..2 {
            let approved = api.create(&shop.key, &decide(&ids[0], "approve"), Value::Null).await;
            assert_eq!((&approved["status"], &approved["earned_minor"]), (&json!("approved"), &json!(1_000)));
            let rejected = api.create(&shop.key, &decide(&ids[1], "reject"), Value::Null).await;
            assert_eq!((&rejected["status"], &rejected["earned_minor"]), (&json!("rejected"), &json!(0)));
        }
        assert_eq!(shop.balance(&api).await, (1_000, 0));
        let refused = api.refusal(&shop.key, Method::POST, &decide(&ids[1], "approve"), &Value::Null).await;
        assert_eq!(refused, (409, "INVALID_STATE".to_owned()));
        // What was approved is still held, but only a clawback with its reason takes it back now.
        let refused = api.refusal(&shop.key, Method::POST, &decide(&ids[0], "reject"), &Value::Null).await;
        assert_eq!(refused, (409, "INVALID_STATE".to_owned()));
        assert_eq!(shop.balance(&api).await, (1_000, 0));
    }

    async fn a_clawback_takes_a_part_or_all_and_no_more(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"ref": "ann"}))).await;
        let id = id_of(&shop.data(&api, &shop.path("conversions")).await[0]);
        let path = shop.path(&format!("conversions/{id}/clawback"));
        for (body, code) in [
            (json!({"reason": "because"}), "INVALID_REASON"),
            (json!({"reason": "fraud", "amount_cents": 0}), "INVALID_AMOUNT"),
            (json!({"reason": "fraud", "amount_cents": 2_001}), "INVALID_AMOUNT"),
            (json!({"reason": "fraud", "amount": 1}), "INVALID_BODY"),
        ] {
            let refused = api.refusal(&shop.key, Method::POST, &path, &body).await;
            assert_eq!(refused, (400, code.to_owned()), "{body}");
        }
        let part = api.create(&shop.key, &path, json!({"reason": "fraud", "amount_cents": 500})).await;
        assert_eq!(part["clawed_minor"], json!(500));
        assert_eq!(shop.balance(&api).await, (1_500, 0));
        let whole = api.create(&shop.key, &path, json!({"reason": "refund"})).await;
        assert_eq!((&whole["clawed_minor"], &whole["status"]), (&json!(2_000), &json!("clawed_back")));
        assert_eq!(shop.balance(&api).await, (0, 0));
        let again = api.refusal(&shop.key, Method::POST, &path, &json!({"reason": "refund"})).await;
        assert_eq!(again, (409, "INVALID_STATE".to_owned()));
        // The provider tells the refund that was clawed back by hand: nothing is taken twice.
        shop.deliver(&api, &refunded("pi_1", 10_000)).await;
        assert_eq!(shop.balance(&api).await, (0, 0));
    }

    async fn a_report_is_idempotent_and_joins_the_webhook_of_its_order(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        let path = shop.path("conversions");
        let report = |changes: Value| {
            let mut body = json!({
                "project_id": shop.project, "external_id": "order_123", "code": "ANN",
                "gross_amount_cents": 9_900,
            });
            for (field, value) in changes.as_object().unwrap() {
                body[field] = value.clone();
            }
            body
        };
        for (changes, code) in [
            (json!({"code": "nobody"}), "UNKNOWN_CODE"),
            (json!({"gross_amount_cents": 0}), "INVALID_AMOUNT"),
            (json!({"gross_amount_cents": -1}), "INVALID_AMOUNT"),
            (json!({"external_id": ""}), "INVALID_EXTERNAL_ID"),
            (json!({"currency": "xxx1"}), "INVALID_CURRENCY"),
            (json!({"project_id": "proj_default"}), "INVALID_PROJECT"),
            (json!({"occurred_at": "yesterday"}), "INVALID_TIME"),
            (json!({"amount": 1}), "INVALID_BODY"),
        ] {
            let refused = api.refusal(&shop.key, Method::POST, &path, &report(changes)).await;
            assert_eq!(refused, (400, code.to_owned()));
        }
        let first = api.create(&shop.key, &path, report(json!({}))).await;
        assert_eq!((&first["external_id"], &first["earned_minor"]), (&json!("order_123"), &json!(1_980)));
        api.clock.advance_secs(5);
        let second = api.create(&shop.key, &path, report(json!({}))).await;
        assert_eq!(first["id"], second["id"]);
        assert_eq!(shop.balance(&api).await, (1_980, 0));

        // The provider's own amount wins, and it is still one sale.
        shop.deliver(&api, &paid("pi_9", 10_000, &json!({"remit_external_id": "order_123"}))).await;
        assert_eq!(shop.balance(&api).await, (2_000, 0));
        let open: Vec<Value> = shop.data(&api, &path).await.as_array().unwrap().iter()
            .filter(|known| known["earned_minor"] != known["clawed_minor"]).cloned().collect();
        assert_eq!(open.len(), 1);
    }

    async fn the_same_order_of_two_projects_is_two_sales(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        let (_, projects) = api.call(&shop.key, Method::GET, "/v1/admin/projects", &Value::Null).await;
        let project = json!({"organization_id": projects["data"][0]["organization_id"], "name": "second"});
        let second = id_of(&api.create(&shop.key, "/v1/admin/projects", project).await);
        let mut made = BTreeSet::new();
        for project in [&shop.project, &second] {
            for _ in 0..2 {
                let mut report = shop.order("order_1", "ANN");
                report["project_id"] = json!(project);
                let conversion = api.create(&shop.key, &shop.path("conversions"), report).await;
                assert_eq!(conversion["project_id"], json!(project));
                made.insert(id_of(&conversion));
            }
        }
        assert_eq!(made.len(), 2);
        assert_eq!(shop.balance(&api).await, (2 * 1_980, 0));
    }

    async fn an_order_that_belongs_to_another_affiliate_is_a_conflict(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        let bob = shop.enroll(&api, "BOB").await;
        let path = shop.path("conversions");
        let first = api.create(&shop.key, &path, shop.order("order_1", "ANN")).await;
        let sale = first["sale_id"].as_str().unwrap();
        let attribute = format!("/v1/admin/sales/{sale}/attribution");

        let (status, refused) = api.call(&shop.key, Method::POST, &path, &shop.order("order_1", "BOB")).await;
        assert_eq!((status.as_u16(), &refused["error"]["code"]), (409, &json!("ALREADY_ATTRIBUTED")));
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("`BOB`") && !message.contains(&shop.enrollment), "{message}");

        api.create(&shop.key, &attribute, json!({"code": "BOB", "reason": "ticket 7"})).await;
        let away = api.refusal(&shop.key, Method::POST, &path, &shop.order("order_1", "ANN")).await;
        assert_eq!(away, (409, "ALREADY_ATTRIBUTED".to_owned()));
        let of_bob = api.create(&shop.key, &path, shop.order("order_1", "BOB")).await;
        assert_eq!(of_bob["enrollment_id"], json!(bob));

        // What was Ann's is history: nothing is reckoned from a rule that does not apply to her any more.
        let explain = format!("/v1/admin/commissions/{}/explain", first["commission_id"].as_str().unwrap());
        let explained = shop.data(&api, &explain).await;
        assert_eq!(explained["steps"], json!([]));
        assert_eq!(explained["commission"]["reason"], "reattributed");
        assert_eq!(explained["entries"].as_array().unwrap().len(), 2);

        // The later decision stands.
        api.clock.advance_secs(1);
        api.create(&shop.key, &attribute, json!({"code": "ANN", "reason": "ticket 8"})).await;
        let back = api.create(&shop.key, &path, shop.order("order_1", "ANN")).await;
        assert_eq!(back["id"], first["id"]);
        assert_ne!(shop.data(&api, &explain).await["steps"], json!([]));
    }

    async fn text_that_a_database_cannot_hold_is_refused_at_the_edge(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({"approval_mode": "manual"})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"ref": "ann"}))).await;
        let id = id_of(&shop.data(&api, &shop.path("conversions")).await[0]);
        let cursor = |key: Value| URL_SAFE_NO_PAD.encode(key.to_string());
        let attribute = "/v1/admin/sales/pi_1/attribution".to_owned();
        let report = |field: &str| {
            let mut body = shop.order("order_1", "ANN");
            body[field] = json!("a\0b");
            (Method::POST, shop.path("conversions"), body)
        };
        let organization = |body: Value| (Method::POST, "/v1/admin/organizations".to_owned(), body);
        let enrollment = |body: Value| (Method::POST, shop.path("enrollments"), body);
        let get = |path: String| (Method::GET, path, Value::Null);
        for ((method, path, body), status, code) in [
            (get("/v1/admin/sales/%00".to_owned()), 404, "NOT_FOUND"),
            (get("/v1/admin/sales/pi%1b1".to_owned()), 404, "NOT_FOUND"),
            (get("/v1/admin/commissions/com_%00/explain".to_owned()), 404, "NOT_FOUND"),
            (get(format!("{PROGRAMS}/%00/conversions")), 404, "NOT_FOUND"),
            ((Method::POST, shop.path("conversions/%00/approve"), Value::Null), 404, "NOT_FOUND"),
            ((Method::POST, shop.path("conversions/conv_%00/clawback"), json!({"reason": "fraud"})), 404, "NOT_FOUND"),
            ((Method::POST, "/v1/admin/sales/%00/attribution".to_owned(), json!({"code": "ANN", "reason": "x"})), 404, "NOT_FOUND"),
            (get("/v1/admin/events?type=%00".to_owned()), 400, "INVALID_TYPE"),
            (get("/v1/admin/events?state=%00".to_owned()), 400, "INVALID_STATE"),
            (get("/v1/admin/events?limit=%00".to_owned()), 400, "INVALID_LIMIT"),
            (get(format!("/v1/admin/events?cursor={}", cursor(json!("\0")))), 400, "INVALID_CURSOR"),
            (get(shop.path(&format!("conversions?cursor={}", cursor(json!([1, "\0"]))))), 400, "INVALID_CURSOR"),
            (get(shop.path(&format!("balances?cursor={}", cursor(json!(["\0", "usd"]))))), 400, "INVALID_CURSOR"),
            ((Method::POST, shop.path(&format!("conversions/{id}/clawback")), json!({"reason": "fraud", "note": "\0"})), 400, "INVALID_NOTE"),
            ((Method::POST, shop.path(&format!("conversions/{id}/clawback")), json!({"reason": "\0"})), 400, "INVALID_REASON"),
            ((Method::POST, attribute.clone(), json!({"code": "ANN", "reason": "a\0b"})), 400, "INVALID_REASON"),
            ((Method::POST, attribute.clone(), json!({"code": "ANN", "reason": "\u{1b}[31m"})), 400, "INVALID_REASON"),
            ((Method::POST, attribute.clone(), json!({"code": "ANN\0", "reason": "x"})), 400, "UNKNOWN_CODE"),
            ((Method::POST, attribute, json!({"enrollment_id": "par_\0", "reason": "x"})), 400, "UNKNOWN_ENROLLMENT"),
            (report("code"), 400, "UNKNOWN_CODE"),
            (report("external_id"), 400, "INVALID_EXTERNAL_ID"),
            (report("project_id"), 400, "INVALID_PROJECT"),
            (report("currency"), 400, "INVALID_CURRENCY"),
            (report("occurred_at"), 400, "INVALID_TIME"),
            (organization(json!({"name": "a\0b"})), 400, "INVALID_NAME"),
            (organization(json!({"name": "a", "email": "a\0@example.com"})), 400, "INVALID_EMAIL"),
            (enrollment(json!({"email": "a\0@example.com"})), 400, "INVALID_EMAIL"),
            (enrollment(json!({"email": "b@example.com", "code": "b\0"})), 400, "INVALID_CODE"),
        ] {
            let refused = api.refusal(&api.operator, method, &path, &body).await;
            assert_eq!(refused, (status, code.to_owned()), "{path} {body}");
        }
        // A person's own words may have lines.
        let words = json!({"reason": "fraud", "amount_cents": 1, "note": "first\r\n\tsecond"});
        api.create(&shop.key, &shop.path(&format!("conversions/{id}/clawback")), words).await;
    }

    async fn a_part_may_be_clawed_back_before_the_review_is_over(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({"approval_mode": "manual"})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"ref": "ann"}))).await;
        let id = id_of(&shop.data(&api, &shop.path("conversions")).await[0]);
        let path = shop.path(&format!("conversions/{id}/clawback"));
        let too_much = json!({"reason": "fraud", "amount_cents": 2_001});
        let refused = api.refusal(&shop.key, Method::POST, &path, &too_much).await;
        assert_eq!(refused, (400, "INVALID_AMOUNT".to_owned()));
        api.create(&shop.key, &path, json!({"reason": "fraud", "amount_cents": 500})).await;
        api.create(&shop.key, &shop.path(&format!("conversions/{id}/approve")), Value::Null).await;
        assert_eq!(shop.balance(&api).await, (1_500, 0));
    }

    async fn a_key_takes_its_decision_once_also_across_a_merge(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        api.create(&shop.key, &shop.path("conversions"), shop.order("order_1", "ANN")).await;
        api.clock.advance_secs(1);
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"referral_code": "ann"}))).await;
        let conversions = shop.data(&api, &shop.path("conversions")).await;
        let [loser, survivor] = [0, 1].map(|row| id_of(&conversions[row]));
        assert_eq!(shop.balance(&api).await, (1_980 + 2_000, 0));

        let fraud = |amount: i64| json!({"reason": "fraud", "amount_cents": amount});
        let mismatch = Err((422, "IDEMPOTENCY_MISMATCH".to_owned()));
        shop.decide(&api, &loser, "clawback", "ticket-7", fraud(500)).await.unwrap();
        // Within the day of the key, and after it.
        for _ in 0..2 {
            for (conversion, verb, body) in [
                (&loser, "clawback", fraud(400)),
                (&loser, "clawback", json!({"reason": "fraud"})),
                (&loser, "clawback", json!({"reason": "refund", "amount_cents": 500})),
                (&loser, "clawback", json!({"reason": "fraud", "amount_cents": 500, "note": "other words"})),
                (&loser, "reject", Value::Null),
                (&survivor, "clawback", fraud(500)),
            ] {
                let answer = shop.decide(&api, conversion, verb, "ticket-7", body.clone()).await;
                assert_eq!(answer, mismatch, "{verb} {body}");
            }
            let clawed = shop.decide(&api, &loser, "clawback", "ticket-7", fraud(500)).await.unwrap();
            assert_eq!((&clawed["id"], &clawed["clawed_minor"]), (&json!(loser), &json!(500)));
            assert_eq!(shop.balance(&api).await, (1_980 + 1_500, 0));
            forget_keys(&api).await;
        }

        // One payment after all: 2000 for the provider's amount, less the 500.
        shop.deliver(&api, &pays_order("pi_1", 10_000, "order_1")).await;
        assert_eq!(shop.balance(&api).await, (1_500, 0));
        for conversion in [&loser, &survivor] {
            let other = shop.decide(&api, conversion, "clawback", "ticket-7", fraud(400)).await;
            assert_eq!(other, mismatch);
            let again = shop.decide(&api, conversion, "clawback", "ticket-7", fraud(500)).await.unwrap();
            assert_eq!(again["id"], json!(survivor), "the conversion that carries it now");
            forget_keys(&api).await;
        }
        assert_eq!(shop.balance(&api).await, (1_500, 0));

        // A new decision under the old id is about what carries the commission now.
        let more = shop.decide(&api, &loser, "clawback", "ticket-8", fraud(100)).await.unwrap();
        assert_eq!((&more["id"], &more["clawed_minor"]), (&json!(survivor), &json!(600)));
        assert_eq!(shop.balance(&api).await, (1_400, 0));
    }

    async fn the_same_decision_sent_at_once_many_times_is_taken_once(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        for intent in ["pi_1", "pi_2"] {
            shop.deliver(&api, &paid(intent, 10_000, &json!({"ref": "ann"}))).await;
        }
        let conversions = shop.data(&api, &shop.path("conversions")).await;
        let ids = [0, 1].map(|row| id_of(&conversions[row]));
        let by = authenticate(&api.app, &shop.key).await.unwrap();
        let program = ProgramId::parse(&shop.program).unwrap();
        // Behind the routes, whose own memory of keys lets one through at a time.
        let decide = async |row: usize| {
            let what = OnConversion {
                kind: DecisionKind::Clawback,
                reason: Some(ClawbackReason::Fraud),
                amount: Some(500),
                note: None,
                idempotency_key: Some("ticket-7".to_owned()),
            };
            let conversion = ConversionId::parse(&ids[row]).unwrap();
            decide::decide_conversion(&api.app, &by, &program, &conversion, what).await
        };
        let answers: [Result<_, Refusal>; 4] = tokio::join!(decide(0), decide(1), decide(0), decide(1)).into();
        let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((taken.len(), refused.len()), (2, 2), "{taken:?} {refused:?}");
        assert!(refused.iter().all(|answer| matches!(answer, Err(Refusal::KeyReused))), "{refused:?}");
        assert_eq!(shop.balance(&api).await, (3_500, 0));
    }

    async fn nothing_of_another_owner_exists(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        shop.deliver(&api, &paid("pi_1", 10_000, &json!({"referral_code": "ann"}))).await;
        let conversion = &shop.data(&api, &shop.path("conversions")).await[0];
        let (id, commission) = (id_of(conversion), conversion["commission_id"].as_str().unwrap());
        let (_, stranger) = api.tenant("stranger").await;
        for (method, path, body) in [
            (Method::GET, shop.path("conversions"), Value::Null),
            (Method::GET, shop.path("commissions"), Value::Null),
            (Method::GET, shop.path("balances"), Value::Null),
            (Method::POST, shop.path("conversions"), json!({"project_id": shop.project, "external_id": "x", "code": "ANN", "gross_amount_cents": 1})),
            (Method::POST, shop.path(&format!("conversions/{id}/approve")), Value::Null),
            (Method::POST, shop.path(&format!("conversions/{id}/clawback")), json!({"reason": "refund"})),
            (Method::GET, format!("/v1/admin/commissions/{commission}/explain"), Value::Null),
            (Method::GET, "/v1/admin/sales/pi_1".to_owned(), Value::Null),
            (Method::GET, format!("/v1/admin/sales/{}", conversion["sale_id"].as_str().unwrap()), Value::Null),
            (Method::POST, "/v1/admin/sales/pi_1/attribution".to_owned(), json!({"code": "ANN", "reason": "x"})),
        ] {
            let refused = api.refusal(&stranger, method, &path, &body).await;
            assert_eq!(refused, (404, "NOT_FOUND".to_owned()), "{path}");
        }
        for path in ["/v1/admin/events", "/v1/admin/findings"] {
            let refused = api.refusal(&stranger, Method::GET, path, &Value::Null).await;
            assert_eq!(refused, (403, "FORBIDDEN".to_owned()), "{path}");
        }
        assert_eq!(shop.balance(&api).await, (2_000, 0));
    }

    async fn operators_see_events_and_findings(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        for intent in ["pi_1", "pi_2", "pi_3"] {
            shop.deliver(&api, &paid(intent, 10_000, &json!({"referral_code": "nobody"}))).await;
        }
        let mut seen = Vec::new();
        let mut path = "/v1/admin/events?limit=2&state=applied&type=payment_intent.succeeded".to_owned();
        loop {
            let (_, answer) = api.call(&api.operator, Method::GET, &path, &Value::Null).await;
            seen.extend(answer["data"].as_array().unwrap().iter().map(|event| event["provider_event_id"].clone()));
            let Some(cursor) = answer["next_cursor"].as_str() else { break };
            path = format!("/v1/admin/events?limit=2&state=applied&type=payment_intent.succeeded&cursor={cursor}");
        }
        seen.sort_by_key(ToString::to_string);
        assert_eq!(seen, ["evt_pi_1", "evt_pi_2", "evt_pi_3"]);
        let (_, events) = api.call(&api.operator, Method::GET, "/v1/admin/events", &Value::Null).await;
        assert_eq!(fields(&events["data"][0]), BTreeSet::from([
            "id", "provider", "endpoint_id", "account", "livemode", "provider_event_id", "type", "state",
            "reason", "attempts", "received_at", "source",
        ]));
        let (_, findings) = api.call(&api.operator, Method::GET, "/v1/admin/findings", &Value::Null).await;
        assert_eq!(fields(&findings["data"][0]), BTreeSet::from([
            "id", "kind", "severity", "object", "detail", "created_at",
        ]));
        let kinds: Vec<&Value> = findings["data"].as_array().unwrap().iter().map(|finding| &finding["kind"]).collect();
        assert_eq!(kinds, ["unknown_code", "unknown_code", "unknown_code"]);
        let refused = api.refusal(&api.operator, Method::GET, "/v1/admin/events?state=lost", &Value::Null).await;
        assert_eq!(refused, (400, "INVALID_STATE".to_owned()));
    }

    async fn lists_page_through_everything_once(db: TestDb) {
        let api = Api::new(&db.db).await;
        let shop = Shop::open(&api, "shop", json!({})).await;
        for number in 0..7 {
            shop.deliver(&api, &paid(&format!("pi_{number}"), 1_000, &json!({"ref": "ann"}))).await;
        }
        for list in ["conversions", "commissions"] {
            let mut seen = std::collections::BTreeSet::new();
            let mut path = shop.path(&format!("{list}?limit=3"));
            loop {
                let (_, answer) = api.call(&shop.key, Method::GET, &path, &Value::Null).await;
                for row in answer["data"].as_array().unwrap() {
                    assert!(seen.insert(id_of(row)), "{list} shows a row twice");
                }
                let Some(cursor) = answer["next_cursor"].as_str() else { break };
                path = shop.path(&format!("{list}?limit=3&cursor={cursor}"));
            }
            assert_eq!(seen.len(), 7, "{list}");
        }
    }
}
