//! What whoever asks for something that cannot be is told: what to change, and nothing was done.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{NOW, PROGRAMS, id_of},
    on_each_engine,
    site::Site,
};

impl Site {
    /// The status, code and message of a refusal.
    async fn told(&self, method: Method, path: &str, body: Value) -> (u16, String, String) {
        let (status, answer) = self.api.call(&self.key, method, path, &body).await;
        let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
        (status.as_u16(), text("code"), text("message"))
    }
}

on_each_engine! {
    async fn a_currency_that_does_not_exist_is_nowhere_what_is_earned_or_paid(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let (program, enrollment) = (site.path(""), site.path(&format!("enrollments/{}", site.ann)));
        let program = program.trim_end_matches('/');
        let preview = json!({"gross_amount_cents": 9_900, "currency": "udd"});
        let amount = json!({"amount_cents": 500, "currency": "udd"});
        for (method, path, body, code) in [
            (Method::PATCH, program, json!({"commission": {"type": "flat", "amount_cents": 500, "currency": "udd"}}),
                "INVALID_COMMISSION"),
            (Method::PATCH, program, json!({"min_payout": {"udd": 1_000}}), "INVALID_MIN_PAYOUT"),
            (Method::PATCH, &enrollment, json!({"commission_override": amount}), "INVALID_COMMISSION_OVERRIDE"),
            (Method::POST, &site.path("preview"), preview, "INVALID_CURRENCY"),
        ] {
            let (status, told, message) = site.told(method, path, body.clone()).await;
            assert_eq!((status, &*told), (400, code), "{body}");
            assert!(message.contains("ISO 4217"), "{message}");
        }
        assert_eq!(site.report("order_1", json!({"code": "ann"})).await.1["data"]["earned_minor"], 1_980);
    }

    async fn a_report_of_a_payment_that_is_still_to_come_is_refused(db: TestDb) {
        let site = Site::open(&db.db, json!({"hold_period_days": 0})).await;
        let at = |after_s: i64| json!({"code": "ann", "occurred_at": serde_json::to_value(NOW.plus_secs(after_s)).unwrap()});
        let (status, answer) = site.report("order_1", at(301)).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("INVALID_TIME")));
        let (_, listed) = site.api.call(&site.key, Method::GET, &site.path("conversions"), &Value::Null).await;
        assert_eq!(listed["data"], json!([]));
        // A clock may be ahead of ours.
        assert_eq!(site.report("order_1", at(300)).await.0, StatusCode::CREATED);
    }

    async fn a_decision_that_cannot_be_is_refused_with_those_that_can(db: TestDb) {
        let site = Site::open(&db.db, json!({"hold_period_days": 0})).await;
        let (_, sold) = site.report("order_1", json!({"code": "ann"})).await;
        site.settle().await;
        site.api.clock.advance_secs(3_600);
        site.settle().await;
        let path = |verb: &str| site.path(&format!("conversions/{}/{verb}", id_of(&sold["data"])));
        for (method, verb, body, hint) in [
            (Method::POST, "approve", Value::Null, "a commission that is payable cannot be decided on this way: only what is awaiting_review or flagged"),
            (Method::POST, "reject", Value::Null, "claw it back"),
            (Method::PUT, "hold-period", json!({"hold_period_days": 3}), "only what is awaiting_review, flagged or held"),
        ] {
            let (status, code, message) = site.told(method, &path(verb), body).await;
            assert_eq!((status, &*code), (409, "INVALID_STATE"), "{verb}");
            assert!(message.contains(hint), "{message}");
        }
        let all = json!({"reason": "fraud"});
        assert_eq!(site.told(Method::POST, &path("clawback"), all.clone()).await.0, 200);
        let (status, _, message) = site.told(Method::POST, &path("clawback"), all).await;
        assert!(status == 409 && message.contains("nothing of it is left"), "{message}");
    }

    async fn a_repeat_with_another_code_is_told_that_it_changes_nothing(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let mut told = Vec::new();
        for (order, fields) in [
            ("order_1", json!({"subject_ref": "stranger"})), ("order_1", json!({"code": "ann"})),
            ("order_2", json!({"code": "ann"})), ("order_2", json!({"code": "bob"})),
        ] {
            let (status, answer) = site.report(order, fields).await;
            let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
            told.push((status.as_u16(), text("code"), text("message")));
        }
        assert_eq!((told[0].0, told[2].0), (200, 201));
        assert_eq!((told[1].0, &*told[1].1), (409, "NOT_ATTRIBUTED"));
        assert_eq!((told[3].0, &*told[3].1), (409, "ALREADY_ATTRIBUTED"));
        for (_, _, message) in [&told[1], &told[3]] {
            assert!(message.starts_with("the order was reported before") && !message.contains("was stored"), "{message}");
        }
        assert!(told[1].2.contains("by hand"), "{}", told[1].2);
        assert_eq!(site.balance(&site.bob).await, (0, 0));
    }

    async fn an_id_in_a_body_that_names_nothing_is_not_blamed_on_the_path(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let program = json!({
            "owner_organization_id": "org_nobody", "name": "x", "commission": {"type": "percentage", "bps": 1},
        });
        for (path, body) in [
            (PROGRAMS.to_owned(), program),
            (site.path("enrollments"), json!({"affiliate_org_id": "org_nobody"})),
            ("/v1/admin/keys".to_owned(), json!({"kind": "client", "project_id": "proj_nobody"})),
        ] {
            let (status, code, message) = site.told(Method::POST, &path, body).await;
            assert_eq!((status, &*code), (404, "NOT_FOUND"), "{path}");
            assert!(message.contains("an id in the body"), "{message}");
        }
    }
}
