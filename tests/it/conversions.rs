//! Conversions: reported by code or by subject, decided by people, flagged with their reasons. Numbers are
//! those of the product's checklist.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{Api, NOW, PROGRAMS, id_of},
    books, on_each_engine,
    site::{Site, TOUCHPOINT, paid, paid_at},
};

async fn conversion(site: &Site, id: &str) -> Value {
    let path = site.path(&format!("conversions/{id}"));
    let (status, mut answer) = site.api.call(&site.key, Method::GET, &path, &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["data"].take()
}

async fn conversions(site: &Site) -> Vec<Value> {
    let (_, answer) = site.api.call(&site.key, Method::GET, &site.path("conversions"), &Value::Null).await;
    answer["data"].as_array().unwrap().clone()
}

on_each_engine! {
    async fn box_1_76_77_78_79_206_a_report_by_code_is_taken_once(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let (status, first) = site.report("order_123", json!({"code": "ANN"})).await;
        assert_eq!(status, StatusCode::CREATED, "{first}");
        let shown = &first["data"];
        assert_eq!((&shown["attributed_by"], &shown["code"]), (&json!("reported"), &json!("ANN")));
        assert_eq!((&shown["external_id"], &shown["currency"]), (&json!("order_123"), &json!("usd")));
        assert_eq!((&shown["earned_minor"], &shown["touchpoint_id"]), (&json!(1_980), &Value::Null));
        // The same order again changes nothing, whatever it says.
        for fields in [json!({"code": "ann"}), json!({"code": "ann", "gross_amount_cents": 1, "currency": "eur"})] {
            let (status, again) = site.report("order_123", fields).await;
            assert_eq!((status, &again["data"]["id"]), (StatusCode::CREATED, &shown["id"]));
        }
        assert_eq!(site.balance(&site.ann).await, (1_980, 0));
        // Another project's order of the same number is another order.
        let project = json!({"organization_id": site.organization, "name": "second"});
        let second = id_of(&site.api.create(&site.key, "/v1/admin/projects", project).await);
        site.report("order_123", json!({"code": "ann", "project_id": second})).await;
        assert_eq!(site.balance(&site.ann).await, (3_960, 0));
        books::assert_they_add_up(&db.db).await;
    }

    async fn box_80_209_210_a_report_by_subject_promotes_the_latest_touchpoint(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.click("bob", "anon_9f3").await;
        site.api.clock.advance_secs(60);
        let touchpoint = site.click("ann", "anon_9f3").await;
        site.api.clock.advance_secs(60);
        let (status, answer) = site.report("order_1", json!({"subject_ref": "anon_9f3"})).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let shown = conversion(&site, answer["data"]["id"].as_str().unwrap()).await;
        assert_eq!((&shown["attributed_by"], &shown["code"]), (&json!("touchpoint"), &json!("ann")));
        assert_eq!(shown["touchpoint_id"], json!(touchpoint));
        assert_eq!(shown["touched_at"], serde_json::to_value(NOW.plus_secs(60)).unwrap());
        assert_eq!((&shown["enrollment_id"], &shown["flags"]), (&json!(site.ann), &json!([])));
        assert_eq!(site.balance(&site.ann).await, (1_980, 0));
    }

    async fn a_report_that_nobody_referred_is_stored_and_answered(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let nobody = json!({"data": null, "reason": "no_touchpoint"});
        for _ in 0..2 {
            assert_eq!(site.report("order_1", json!({"subject_ref": "v"})).await, (StatusCode::OK, nobody.clone()));
        }
        // The app was offline: the click is told an hour later.
        site.api.clock.advance_secs(3_600);
        let click = json!({
            "code": "ann", "anonymous_id": "v", "occurred_at": serde_json::to_value(NOW.plus_secs(-60)).unwrap(),
        });
        assert_eq!(site.say(TOUCHPOINT, &click).await.0, StatusCode::CREATED);
        site.settle().await;
        let (status, answer) = site.report("order_1", json!({"subject_ref": "v"})).await;
        assert_eq!((status, &answer["data"]["attributed_by"]), (StatusCode::CREATED, &json!("touchpoint")));
        // The sale of another program's affiliate is not this program's.
        let second = site.open_program(json!({})).await;
        site.enroll(&second, "eve").await;
        site.deliver(&paid("pi_2", json!({"metadata": {"ref": "eve", "remit_external_id": "order_2"}}))).await;
        let other = json!({"data": null, "reason": "other_program"});
        assert_eq!(site.report("order_2", json!({"subject_ref": "v"})).await, (StatusCode::OK, other));
    }

    async fn box_257_a_report_with_both_goes_by_the_code(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.click("ann", "v").await;
        let (_, answer) = site.report("order_1", json!({"subject_ref": "v", "code": "bob"})).await;
        assert_eq!((&answer["data"]["attributed_by"], &answer["data"]["code"]), (&json!("reported"), &json!("bob")));
    }

    async fn every_field_of_a_report_has_an_error_of_its_own(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for (fields, code) in [
            (json!({}), "MISSING_SUBJECT"),
            (json!({"code": "nobody"}), "UNKNOWN_CODE"),
            (json!({"subject_ref": ""}), "INVALID_SUBJECT_REF"),
            (json!({"subject_ref": "a\u{0}"}), "INVALID_SUBJECT_REF"),
            (json!({"subject_ref": "v", "external_id": ""}), "INVALID_EXTERNAL_ID"),
            (json!({"subject_ref": "v", "customer": "\u{0}"}), "INVALID_CUSTOMER"),
            (json!({"subject_ref": "v", "gross_amount_cents": 0}), "INVALID_AMOUNT"),
            (json!({"subject_ref": "v", "gross_amount_cents": -1}), "INVALID_AMOUNT"),
            (json!({"subject_ref": "v", "tax_cents": 9_901}), "INVALID_TAX"),
            (json!({"subject_ref": "v", "tax_cents": -1}), "INVALID_TAX"),
            (json!({"subject_ref": "v", "currency": "xxq"}), "INVALID_CURRENCY"),
            (json!({"subject_ref": "v", "kind": "event"}), "INVALID_KIND"),
            (json!({"subject_ref": "v", "occurred_at": "now"}), "INVALID_TIME"),
            (json!({"subject_ref": "v", "project_id": "proj_default"}), "INVALID_PROJECT"),
        ] {
            let (status, answer) = site.report("order_1", fields.clone()).await;
            assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{fields}");
        }
    }

    async fn box_59_60_61_what_a_program_counts_is_what_it_is_told(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for (kind, least) in [("event", 0), ("payment", 1), ("entitlement", 0)] {
            let program = site.open_program(json!({"conversion_kind": kind})).await;
            let code = format!("of_{kind}");
            site.enroll(&program, &code).await;
            let path = format!("{PROGRAMS}/{program}/conversions");
            let tell = async |order: &str, fields: Value| {
                let mut body = site.order(&format!("{kind}_{order}"), json!({"code": code}));
                for (field, value) in fields.as_object().unwrap() {
                    body[field] = value.clone();
                }
                let (status, answer) = site.api.call(&site.key, Method::POST, &path, &body).await;
                (status, answer["data"]["kind"].clone(), answer["error"]["code"].clone())
            };
            for (order, fields) in [("1", json!({})), ("2", json!({"kind": kind}))] {
                assert_eq!(tell(order, fields).await, (StatusCode::CREATED, json!(kind), Value::Null));
            }
            let too_little = tell("3", json!({"gross_amount_cents": least - 1})).await;
            assert_eq!(too_little, (StatusCode::BAD_REQUEST, Value::Null, json!("INVALID_AMOUNT")));
        }
    }

    async fn a_report_without_currency_takes_that_of_a_flat_commission(db: TestDb) {
        let flat = json!({"commission": {"type": "flat", "amount_cents": 500, "currency": "eur"}});
        let site = Site::open(&db.db, flat).await;
        let (_, answer) = site.report("order_1", json!({"code": "ann"})).await;
        assert_eq!((&answer["data"]["currency"], &answer["data"]["earned_minor"]), (&json!("eur"), &json!(500)));
    }

    async fn a_report_and_the_webhook_of_one_order_are_one_sale(db: TestDb) {
        for (order, reported_first) in [("order_1", true), ("order_2", false)] {
            let site = Site::open_on(Api::new(&db.db).await, order, json!({})).await;
            site.click("ann", "v").await;
            let webhook = paid(&format!("pi_{order}"), json!({"metadata": {"remit_external_id": order}}));
            if !reported_first {
                site.deliver(&webhook).await;
            }
            let (status, answer) = site.report(order, json!({"subject_ref": "v"})).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
            site.deliver(&webhook).await;
            let all = conversions(&site).await;
            assert_eq!(all.len(), 1);
            // The provider's 100.00 win over the owner's 99.00.
            assert_eq!((&all[0]["earned_minor"], &all[0]["clawed_minor"]), (&json!(2_000), &json!(0)), "{order}");
            assert_eq!(site.balance(&site.ann).await, (2_000, 0));
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn reports_of_a_customer_are_renewals(db: TestDb) {
        let site = Site::open(&db.db, json!({"attribution_window_days": 1})).await;
        site.click("ann", "v").await;
        let (_, first) = site.report("order_1", json!({"subject_ref": "v", "customer": "c_1"})).await;
        assert_eq!(first["data"]["attributed_by"], "touchpoint");
        site.api.clock.advance_secs(10 * 86_400);
        let (_, second) = site.report("order_2", json!({"subject_ref": "w", "customer": "c_1"})).await;
        assert_eq!((&second["data"]["attributed_by"], &second["data"]["code"]), (&json!("customer"), &json!("ann")));
    }

    async fn box_65_66_207_a_manual_program_books_pending_and_approval_accrues(db: TestDb) {
        let site = Site::open(&db.db, json!({"approval_mode": "manual"})).await;
        let [one, two] = ["order_1", "order_2"].map(|order| site.report(order, json!({"code": "ann"})));
        let (one, two) = (id_of(&one.await.1["data"]), id_of(&two.await.1["data"]));
        assert_eq!(conversion(&site, &one).await["status"], "pending");
        assert_eq!(site.balance(&site.ann).await, (0, 0));
        let approved = site.api.create(&site.key, &site.path(&format!("conversions/{one}/approve")), Value::Null).await;
        assert_eq!((&approved["status"], &approved["earned_minor"]), (&json!("approved"), &json!(1_980)));
        let rejected = site.api.create(&site.key, &site.path(&format!("conversions/{two}/reject")), Value::Null).await;
        assert_eq!((&rejected["status"], &rejected["earned_minor"]), (&json!("rejected"), &json!(0)));
        assert_eq!(site.balance(&site.ann).await, (1_980, 0));
    }

    async fn box_3_83_212_an_unpaid_conversion_is_clawed_back_outright_or_in_part(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let id = id_of(&site.report("order_1", json!({"code": "ann"})).await.1["data"]);
        let path = site.path(&format!("conversions/{id}/clawback"));
        for (body, code) in [
            (json!({"reason": "because"}), "INVALID_REASON"),
            (json!({"reason": "fraud", "amount_cents": 0}), "INVALID_AMOUNT"),
            (json!({"reason": "fraud", "amount_cents": 1_981}), "INVALID_AMOUNT"),
        ] {
            assert_eq!(site.api.refusal(&site.key, Method::POST, &path, &body).await, (400, code.to_owned()));
        }
        let part = site.api.create(&site.key, &path, json!({"reason": "other", "amount_cents": 80, "note": "half"})).await;
        assert_eq!((&part["status"], &part["clawed_minor"]), (&json!("approved"), &json!(80)));
        assert_eq!(site.balance(&site.ann).await, (1_900, 0));
        let whole = site.api.create(&site.key, &path, json!({"reason": "refund"})).await;
        assert_eq!((&whole["status"], &whole["clawed_minor"]), (&json!("clawed_back"), &json!(1_980)));
        assert_eq!(site.balance(&site.ann).await, (0, 0));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_customer_who_once_used_the_affiliates_address_is_the_affiliate_in_every_order(db: TestDb) {
        for (name, order) in [("before", [0, 1]), ("after", [1, 0])] {
            let site = Site::open_on(Api::new(&db.db).await, name, json!({})).await;
            let buyer = format!("cus_{name}");
            let [plain, telling] = [format!("pi_{name}_1"), format!("pi_{name}_2")];
            let events = [
                paid(&plain, json!({"customer": buyer, "metadata": {"ref": "ann"}})),
                paid_at(&telling, NOW.plus_secs(5), json!({"customer": buyer, "receipt_email": "Ann+x@example.com"})),
            ];
            for index in order {
                site.deliver(&events[index]).await;
            }
            let all = conversions(&site).await;
            assert_eq!(all.len(), 2, "{name}: the code was told for the customer");
            for row in all {
                let shown = conversion(&site, row["id"].as_str().unwrap()).await;
                assert_eq!((&shown["status"], &shown["reason"]), (&json!("pending"), &json!("self_referral")), "{name}");
                let flags = shown["flags"].as_array().unwrap();
                assert_eq!((flags.len(), &flags[0]["kind"]), (1, &json!("self_referral")));
                assert_eq!((&flags[0]["id"], &flags[0]["cleared_at"]), (&json!(site.ann), &Value::Null));
            }
            // A flag denies nothing: a person decides, once.
            let id = id_of(&conversions(&site).await[0]);
            let approved = site.api.create(&site.key, &site.path(&format!("conversions/{id}/approve")), Value::Null).await;
            assert_eq!(approved["status"], "approved");
            assert!(conversion(&site, &id).await["flags"][0]["cleared_at"].is_string());
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn the_customers_of_others_are_flagged_for_nobody(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.deliver(&paid("pi_1", json!({"customer": "cus_1", "receipt_email": "bob@example.com"}))).await;
        site.deliver(&paid("pi_2", json!({"customer": "cus_1", "metadata": {"ref": "ann"}}))).await;
        site.deliver(&paid("pi_3", json!({"customer": "cus_2", "metadata": {"ref": "bob"}}))).await;
        assert_eq!(conversions(&site).await.iter().filter(|row| row["status"] == "pending").count(), 0);
    }

    async fn a_conversion_of_somebody_else_is_not_there(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let id = id_of(&site.report("order_1", json!({"code": "ann"})).await.1["data"]);
        let (_, stranger) = site.api.tenant("stranger").await;
        let second = site.open_program(json!({})).await;
        let elsewhere = format!("{PROGRAMS}/{second}/conversions/{id}");
        let gone = (404, "NOT_FOUND".to_owned());
        for (key, path) in [
            (&stranger, site.path(&format!("conversions/{id}"))),
            (&site.key, elsewhere),
            (&site.key, site.path("conversions/conv_missing")),
            (&site.key, site.path("conversions/nonsense")),
        ] {
            assert_eq!(site.api.refusal(key, Method::GET, &path, &Value::Null).await, gone, "{path}");
        }
    }

    async fn the_payments_of_several_customers_are_counted_each_by_itself(db: TestDb) {
        let rule = json!({"type": "recurring", "bps": 2000, "max_payments": 2});
        let site = Site::open(&db.db, json!({"commission": rule})).await;
        let pay = |customer: &str, number: i64| {
            let fields = json!({"customer": customer, "metadata": {"via": "ann"}});
            paid_at(&format!("pi_{customer}_{number}"), NOW.plus_secs(number), fields)
        };
        site.deliver(&pay("cus_a", 1)).await;
        // One batch, whose customers stand at different places.
        for (customer, number) in [("cus_b", 1), ("cus_a", 2), ("cus_b", 2), ("cus_a", 3), ("cus_b", 3), ("cus_c", 1)] {
            site.receive(&pay(customer, number)).await;
        }
        site.settle().await;
        let (held, payable) = site.balance(&site.ann).await;
        assert_eq!(held + payable, 5 * 2_000, "two payments of `a` and `b`, one of `c`");
        let limited: Vec<Value> =
            conversions(&site).await.into_iter().filter(|row| row["reason"] == "payments_limit").collect();
        assert_eq!(limited.len(), 2, "{limited:?}");
        books::assert_they_add_up(&db.db).await;
    }
}
