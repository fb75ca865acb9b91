//! The books over the API: a webhook's money seen as conversion, commission, balance and explanation,
//! and what people decide about it.

use axum::http::Method;
use remit::{
    app::{process, receive, release},
    domain::ids::{EndpointId, ProjectId},
    providers,
    store::inbox::{self, EventSource},
};
use serde_json::{Value, json};

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
        let mended = api.create(&shop.key, path, json!({"code": "ANN", "reason": "ticket 7"})).await;
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
        let (_, findings) = api.call(&api.operator, Method::GET, "/v1/admin/findings", &Value::Null).await;
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
