//! What whoever asks for something that cannot be is told: what to change, and nothing was done.

use axum::http::Method;
use serde_json::{Value, json};

use super::support::{TestDb, on_each_engine, site::Site};

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
}
