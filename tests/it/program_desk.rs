//! What an owner does with a program beside its fields: start and stop it, look at its terms, try them out,
//! hold and release. Numbers are those of the product's checklist.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{PROGRAMS, id_of},
    books, on_each_engine,
    shop::intent,
    site::Site,
};

impl Site {
    async fn ask(&self, method: Method, rest: &str, body: Value) -> (u16, Value) {
        let (status, answer) = self.api.call(&self.key, method, &self.path(rest), &body).await;
        (status.as_u16(), answer)
    }

    fn pass_days(&self, days: i64) {
        self.api.clock.advance_secs(days * 86_400);
    }
}

/// Five tiers, rates by product, two levels of sponsors: every field that terms have.
fn full_terms() -> Value {
    json!({
        "commission": {
            "type": "tiered", "basis": "revenue", "mode": "marginal", "version": 1,
            "tiers": [{"from": 0, "bps": 1_000}, {"from": 10_000, "bps": 2_000}],
            "products": [
                {"product": "price_1", "bps": 500},
                {"product": "prod_2", "amount_cents": 300, "currency": "usd"},
            ],
            "base": "net_of_tax", "flat_on_partial": "proportional",
        },
        "upline_bps": [1_000, 500], "applications": "open", "landing_url": "https://shop.example/",
    })
}

const HOLD_DECISIONS: &str = "SELECT COUNT(*) FROM decision WHERE kind = 'hold_period'";
const PAYABLE: &str = "SELECT COUNT(*) FROM commission WHERE state = 'payable'";
on_each_engine! {
    async fn every_form_of_terms_is_taken_shown_and_kept_as_a_version(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let path = format!("{PROGRAMS}/{}", site.program);
        let (status, shown) = site.api.call(&site.key, Method::PATCH, &path, &full_terms()).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
        let shown = &shown["data"];
        assert_eq!((&shown["terms_version"], &shown["commission_base"]), (&json!(2), &json!("net_of_tax")));
        assert_eq!(shown["commission"], json!({
            "type": "tiered", "basis": "revenue", "mode": "marginal",
            "tiers": [{"from": 0, "bps": 1_000}, {"from": 10_000, "bps": 2_000}],
        }));
        assert_eq!(shown["product_rates"], json!([
            {"product": "price_1", "bps": 500},
            {"product": "prod_2", "amount_cents": 300, "currency": "usd"},
        ]));
        assert_eq!((&shown["upline_bps"], &shown["applications"]), (&json!([1_000, 500]), &json!("open")));

        let recurring = json!({"commission": {"type": "recurring", "bps": 3_000, "max_months": 12}});
        let (status, shown) = site.api.call(&site.key, Method::PATCH, &path, &recurring).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
        let (status, first) = site.ask(Method::GET, "terms?limit=2", Value::Null).await;
        assert_eq!(status, 200, "{first}");
        let cursor = first["next_cursor"].as_str().unwrap();
        let (_, last) = site.ask(Method::GET, &format!("terms?limit=2&cursor={cursor}"), Value::Null).await;
        let versions: Vec<i64> = [&first, &last].into_iter()
            .flat_map(|page| page["data"].as_array().unwrap())
            .map(|row| row["version"].as_i64().unwrap())
            .collect();
        assert_eq!((versions, &last["next_cursor"]), (vec![3, 2, 1], &Value::Null));
        assert_eq!(first["data"][0]["terms"]["commission"],
            json!({"type": "recurring", "bps": 3_000, "max_months": 12, "max_payments": null}));
        assert_eq!(first["data"][0]["effective_at"], "2025-06-15T15:06:40.000001Z");
        assert_eq!(last["data"][0]["effective_at"], "1970-01-01T00:00:00Z");
    }

    async fn a_program_starts_pauses_and_ends_by_a_call(db: TestDb) {
        let site = Site::open(&db.db, json!({"status": "draft"})).await;
        for (word, expected) in [
            ("pause", (409, json!("INVALID_STATE"))),
            ("activate", (200, json!("active"))), ("activate", (200, json!("active"))),
            ("pause", (200, json!("paused"))), ("activate", (200, json!("active"))),
            ("archive", (200, json!("archived"))), ("activate", (409, json!("INVALID_STATE"))),
        ] {
            let (status, answer) = site.ask(Method::POST, word, Value::Null).await;
            let told = if status == 200 { &answer["data"]["status"] } else { &answer["error"]["code"] };
            assert_eq!((status, told), (expected.0, &expected.1), "{word}: {answer}");
        }
    }

    async fn a_sale_that_is_tried_out_is_explained_and_changes_nothing(db: TestDb) {
        let site = Site::open(&db.db, full_terms()).await;
        let question = json!({
            "gross_amount_cents": 12_100, "tax_cents": 2_100, "currency": "usd", "refunded_cents": 6_050,
            "enrollment_id": site.ann, "position": {"sales_before": 3, "revenue_before_cents": 5_000},
        });
        let (status, answer) = site.ask(Method::POST, "preview", question).await;
        assert_eq!(status, 200, "{answer}");
        let told = &answer["data"];
        // Net of tax 100.00, of which 50.00 lie in each tier; half was refunded.
        assert_eq!((&told["base_cents"], &told["amount_cents"], &told["kept_cents"]),
            (&json!(10_000), &json!(1_500), &json!(750)));
        let steps: Vec<&str> = told["steps"].as_array().unwrap().iter()
            .map(|step| step["what"].as_str().unwrap()).collect();
        assert_eq!(steps, ["base", "position", "part", "part", "commission", "kept_of_sale"]);
        assert_eq!((&told["terms_version"], &told["limit"], &told["uplines"]), (&json!(1), &Value::Null, &json!([])));
        assert_eq!(site.balance(&site.ann).await, (0, 0));
        for (body, code) in [
            (json!({"gross_amount_cents": -1, "currency": "usd"}), "INVALID_AMOUNT"),
            (json!({"gross_amount_cents": 1, "currency": "usd", "tax_cents": 2}), "INVALID_TAX"),
            (json!({"gross_amount_cents": 1, "currency": "usd", "refunded_cents": 2}), "INVALID_REFUND"),
            (json!({"gross_amount_cents": 1, "currency": "usd", "enrollment_id": "par_none"}), "UNKNOWN_ENROLLMENT"),
            (json!({"gross_amount_cents": 1}), "INVALID_BODY"),
        ] {
            let (status, answer) = site.ask(Method::POST, "preview", body.clone()).await;
            assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{body}");
        }
    }

    async fn a_sale_of_a_returning_customer_is_tried_out_as_the_payment_it_would_be(db: TestDb) {
        let recurring = json!({"commission": {"type": "recurring", "bps": 1_000, "max_payments": 2}});
        let site = Site::open(&db.db, recurring).await;
        let sold = async |order: &str| {
            let (_, answer) = site.report(order, json!({"code": "ann", "customer": "c_1"})).await;
            answer["data"]["earned_minor"].as_i64().unwrap()
        };
        // What it would earn, under which terms, whether a first payment is assumed, and the limit.
        let tried = async |customer: Option<&str>| {
            let mut question = json!({"gross_amount_cents": 9_900, "currency": "usd", "enrollment_id": site.ann});
            if let Some(customer) = customer {
                question["customer"] = json!(customer);
            }
            let (status, answer) = site.ask(Method::POST, "preview", question).await;
            assert_eq!(status, 200, "{answer}");
            let told = &answer["data"];
            let number = |name: &str| told[name].as_i64().unwrap();
            (number("amount_cents"), number("terms_version"), told["assumes_new_customer"] == true, told["limit"].clone())
        };
        let nothing = Value::Null;
        assert_eq!(tried(None).await, (990, 1, true, nothing.clone()));
        assert_eq!(tried(Some("c_1")).await, (990, 1, false, nothing.clone()));
        assert_eq!(sold("order_1").await, 990);
        // Better terms for everybody but those whose first payment froze theirs.
        let path = format!("{PROGRAMS}/{}", site.program);
        let better = json!({"commission": {"type": "recurring", "bps": 2_000, "max_payments": 2}});
        site.api.clock.advance_secs(60);
        assert_eq!(site.api.call(&site.key, Method::PATCH, &path, &better).await.0, StatusCode::OK);
        site.api.clock.advance_secs(60);
        assert_eq!(tried(None).await, (1_980, 2, true, nothing.clone()));
        assert_eq!(tried(Some("c_2")).await, (1_980, 2, false, nothing.clone()));
        assert_eq!(tried(Some("c_1")).await, (990, 1, false, nothing));
        assert_eq!(sold("order_2").await, 990, "as it was tried out");
        assert_eq!(tried(Some("c_1")).await, (0, 1, false, json!("payments_limit")));
        assert_eq!(sold("order_3").await, 0, "as it was tried out");

        let refused = async |question: Value| site.ask(Method::POST, "preview", question).await.1["error"]["code"].clone();
        let ask = |fields: Value| {
            let mut question = json!({"gross_amount_cents": 1, "currency": "usd", "customer": "c_1"});
            question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            question
        };
        assert_eq!(refused(ask(json!({}))).await, "MISSING_ENROLLMENT");
        assert_eq!(refused(ask(json!({"customer": "", "enrollment_id": site.ann}))).await, "INVALID_CUSTOMER");
        // The provider has a customer of the same id: which of the two is meant nobody knows.
        let mut paid = intent("x", 9_900, Some("c_1"));
        paid["data"]["object"]["metadata"] = json!({"referral_code": "ann"});
        site.deliver(&paid).await;
        assert_eq!(refused(ask(json!({"enrollment_id": site.ann}))).await, "AMBIGUOUS_CUSTOMER");
    }

    async fn releasing_a_program_tells_only_of_its_own_commissions(db: TestDb) {
        let site = Site::open(&db.db, json!({"hold_period_days": 3})).await;
        let other = site.open_program(json!({"hold_period_days": 0})).await;
        let cid = site.enroll(&other, "cid").await;
        let mut paid = intent("x", 9_900, None);
        paid["data"]["object"]["metadata"] = json!({"referral_code": "ann", "via": "cid"});
        paid["created"] = json!(site.api.app.now().as_secs());
        site.deliver(&paid).await;
        assert_eq!(site.balance(&site.ann).await, (1_980, 0));
        site.pass_days(3);
        // Ann's code turns out never to have been hers, and nobody has looked at the sale since.
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE code SET valid_to_us = 1 WHERE code_normalised = 'ann'").exec().await.unwrap();
        tx.commit().await.unwrap();
        let (_, answer) = site.ask(Method::POST, "release", Value::Null).await;
        assert_eq!(answer, json!({"data": {"released": 0}}), "what became payable is the other program's");
        assert_eq!(site.balance(&site.ann).await, (0, 0));
        let path = format!("{PROGRAMS}/{other}/balances");
        let (_, balances) = site.api.call(&site.key, Method::GET, &path, &Value::Null).await;
        let of_cid = &balances["data"][0];
        assert_eq!((&of_cid["enrollment_id"], &of_cid["payable"]), (&json!(cid), &json!(1_980)));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_commission_is_held_as_its_report_or_a_person_says(db: TestDb) {
        let site = Site::open(&db.db, json!({"hold_period_days": 30})).await;
        let (status, first) = site.report("order_1", json!({"code": "ann", "hold_period_days": 3})).await;
        assert_eq!(status, StatusCode::CREATED, "{first}");
        assert_eq!((&first["data"]["terms_version"], &first["data"]["position"]), (&json!(1), &Value::Null));
        let path = format!("conversions/{}/hold-period", id_of(&first["data"]));
        let due = async || {
            let (_, listed) = site.ask(Method::GET, "commissions", Value::Null).await;
            listed["data"][0]["due_at"].as_str().unwrap().to_owned()
        };
        assert_eq!(due().await, "2025-06-18T15:06:40Z");
        // The same order again changes nothing, whatever it says.
        site.report("order_1", json!({"code": "ann", "hold_period_days": 1})).await;
        assert_eq!(due().await, "2025-06-18T15:06:40Z");
        // What a person decides outranks the report.
        site.api.clock.advance_secs(1);
        for _ in 0..2 {
            let (status, answer) = site.ask(Method::PUT, &path, json!({"hold_period_days": 5})).await;
            assert_eq!(status, 200, "{answer}");
        }
        site.report("order_1", json!({"code": "ann", "hold_period_days": 3})).await;
        assert_eq!(due().await, "2025-06-20T15:06:40Z", "what a person said since then holds");
        let decisions: Option<i64> = site.api.app.db.read().await.unwrap().q(HOLD_DECISIONS).scalar().await.unwrap();
        assert_eq!(decisions, Some(1), "a report decides nothing, and what stands is not decided again");
        for days in [-1, 3_651] {
            let (status, answer) = site.ask(Method::PUT, &path, json!({"hold_period_days": days})).await;
            assert_eq!((status, &answer["error"]["code"]), (400, &json!("INVALID_HOLD_PERIOD")));
            let (_, answer) = site.report("order_2", json!({"code": "ann", "hold_period_days": days})).await;
            assert_eq!(answer["error"]["code"], "INVALID_HOLD_PERIOD");
        }
        site.pass_days(5);
        site.settle().await;
        assert_eq!(site.balance(&site.ann).await, (0, 1_980));
        let (status, answer) = site.ask(Method::PUT, &path, json!({"hold_period_days": 90})).await;
        assert_eq!((status, &answer["error"]["code"]), (409, &json!("INVALID_STATE")), "it is payable");
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_is_due_is_released_by_a_call_and_what_is_held_is_not(db: TestDb) {
        let site = Site::open(&db.db, json!({"hold_period_days": 3})).await;
        let other = site.open_program(json!({"hold_period_days": 3})).await;
        site.enroll(&other, "cid").await;
        for (order, days) in [("order_1", 3), ("order_2", 3), ("order_3", 4)] {
            let fields = json!({"code": "ann", "hold_period_days": days});
            assert_eq!(site.report(order, fields).await.0, StatusCode::CREATED);
        }
        let body = site.order("order_4", json!({"code": "cid"}));
        site.api.create(&site.key, &format!("{PROGRAMS}/{other}/conversions"), body).await;
        let release = async || site.ask(Method::POST, "release", Value::Null).await;
        assert_eq!(release().await, (200, json!({"data": {"released": 0}})));
        site.pass_days(3);
        assert_eq!(release().await, (200, json!({"data": {"released": 2}})));
        assert_eq!(site.balance(&site.ann).await, (1_980, 3_960));
        assert_eq!(release().await, (200, json!({"data": {"released": 0}})), "nothing is released twice");
        let payable: Option<i64> = site.api.app.db.read().await.unwrap().q(PAYABLE).scalar().await.unwrap();
        assert_eq!(payable, Some(2), "the other program waits for its own turn");
        let told = site.api.call(&site.key, Method::GET, "/v1/admin/audit?action=program.released", &Value::Null).await.1;
        assert_eq!(told["data"].as_array().unwrap().len(), 1);
        assert_eq!((&told["data"][0]["object"], &told["data"][0]["after"]["released"]), (&json!(site.program), &json!(2)));
        books::assert_they_add_up(&db.db).await;
    }
}
