//! Signing up without a key: what is answered, what is not told, and how often.

use axum::{
    body::Body,
    extract::Request,
    http::{Method, StatusCode, header},
};
use http_body_util::BodyExt as _;
use remit::http::serve::Peer;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{Api, PROGRAMS, rows},
    on_each_engine,
};

const SIGNUP: &str = "/v1/public/affiliate/signup";

/// A signup from an address; the status, how long to wait, and the answer.
async fn sign_up(
    api: &Api,
    peer: &str,
    forwarded: Option<&str>,
    body: &Value,
) -> (u16, Option<String>, Value) {
    let mut request = Request::builder().method(Method::POST).uri(SIGNUP);
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-for", forwarded);
    }
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(Peer(peer.parse().unwrap()));
    let response = api.router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let wait = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    if status == StatusCode::CREATED {
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status.as_u16(), wait, serde_json::from_slice(&bytes).unwrap())
}

fn ada() -> Value {
    json!({"email": "ada@x.org", "name": "Ada"})
}

on_each_engine! {
    async fn a_signup_answers_account_organization_key_and_mcp_config(db: TestDb) {
        // Boxes 27 and 84.
        let api = Api::with(&db.db, &[("REMIT_SERVER__PUBLIC_URL", "https://pay.example.com/")]).await;
        let body = json!({"email": " Ada@x.org ", "name": "Ada", "organization_name": "Ada's Blog"});
        let (status, _, answer) = sign_up(&api, "192.0.2.1", None, &body).await;
        assert_eq!(status, 201, "{answer}");
        let data = &answer["data"];
        let key = data["key"].as_str().unwrap();
        assert!(data["account"]["id"].as_str().unwrap().starts_with("acc_"));
        assert_eq!((&data["account"]["email"], &data["account"]["name"]), (&json!("Ada@x.org"), &json!("Ada")));
        assert_eq!(data["organization"]["name"], json!("Ada's Blog"));
        assert!(key.starts_with("rk_org_"), "{key}");
        assert_eq!(data["mcp_config"], json!({"mcpServers": {"remit": {
            "url": "https://pay.example.com/mcp", "headers": {"Authorization": format!("Bearer {key}")},
        }}}));

        // The key works, for this organization alone.
        let (status, own) = api.call(key, Method::GET, "/v1/admin/organizations", &Value::Null).await;
        assert_eq!((status, own["data"].as_array().unwrap().len()), (StatusCode::OK, 1));
        assert_eq!(own["data"][0]["id"], data["organization"]["id"]);
        let (status, enrollments) = api.call(key, Method::GET, "/v1/affiliate/me/enrollments", &Value::Null).await;
        assert_eq!((status, &enrollments["data"]), (StatusCode::OK, &json!([])));
        // And it joins a program from beginning to end.
        let program = api.program(&api.operator).await;
        let invites = format!("{PROGRAMS}/{program}/invites");
        let invited = api.create(&api.operator, &invites, json!({"affiliate_org_id": data["organization"]["id"]})).await;
        let accept = format!("/v1/affiliate/me/invites/{}/accept", invited["id"].as_str().unwrap());
        assert_eq!(api.create(key, &accept, Value::Null).await["status"], json!("active"));
    }

    async fn who_signed_up_owns_programs_once_an_operator_has_made_one(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, _, answer) = sign_up(&api, "192.0.2.1", None, &ada()).await;
        let (key, organization) = (answer["data"]["key"].as_str().unwrap(), &answer["data"]["organization"]["id"]);
        let program = |name: &str| json!({
            "owner_organization_id": organization, "name": name, "landing_url": "https://elsewhere.example.com",
            "commission": {"type": "percentage", "bps": 100}, "status": "active",
        });
        let (status, refused) = api.call(key, Method::POST, PROGRAMS, &program("First")).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::FORBIDDEN, &json!("FORBIDDEN")));
        assert!(refused["error"]["message"].as_str().unwrap().contains("an operator makes its first program"));
        let (_, none) = api.call(&api.operator, Method::GET, PROGRAMS, &Value::Null).await;
        assert_eq!(none["data"], json!([]));

        api.create(&api.operator, PROGRAMS, program("First")).await;
        api.create(key, PROGRAMS, program("Second")).await;
    }

    async fn the_same_address_twice_answers_the_same(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (first, _, one) = sign_up(&api, "192.0.2.1", None, &ada()).await;
        let (second, _, two) = sign_up(&api, "192.0.2.1", None, &ada()).await;
        assert_eq!((first, second), (201, 201));
        assert_ne!(one["data"]["organization"]["id"], two["data"]["organization"]["id"]);
        assert_eq!(one["data"]["organization"]["name"], two["data"]["organization"]["name"]);
        assert_eq!(one["data"]["mcp_config"]["mcpServers"]["remit"]["url"], json!("http://127.0.0.1:8080/mcp"));
        let accounts = rows(&db.db, "SELECT created_at_us, email FROM account").await;
        assert_eq!(accounts.len(), 2);
        let keys = rows(&db.db, "SELECT created_at_us, scopes FROM api_key WHERE kind = 'organization'").await;
        assert!(keys.iter().all(|(_, scopes)| scopes == "read,write,decide,keys"), "{keys:?}");
    }

    async fn every_wrong_field_has_its_code_and_leaves_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        for (n, (body, code)) in [
            (json!({"email": "ada", "name": "Ada"}), "INVALID_EMAIL"),
            (json!({"email": "", "name": "Ada"}), "INVALID_EMAIL"),
            (json!({"email": "a b@x.org", "name": "Ada"}), "INVALID_EMAIL"),
            (json!({"email": format!("{}@x.org", "a".repeat(250)), "name": "Ada"}), "INVALID_EMAIL"),
            (json!({"email": "ada@x.org", "name": " "}), "INVALID_NAME"),
            (json!({"email": "ada@x.org", "name": "a\u{0}"}), "INVALID_NAME"),
            (json!({"email": "ada@x.org", "name": "A", "organization_name": ""}), "INVALID_ORGANIZATION_NAME"),
            (json!({"email": "ada@x.org"}), "INVALID_BODY"),
            (json!({"name": "Ada"}), "INVALID_BODY"),
            (json!({"email": "ada@x.org", "name": "Ada", "kind": "operator"}), "INVALID_BODY"),
            (json!([]), "INVALID_BODY"),
        ].into_iter().enumerate() {
            let (status, _, answer) = sign_up(&api, &format!("192.0.2.{n}"), None, &body).await;
            assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{body}");
            assert!(!answer.to_string().contains("x.org"), "an address is not repeated: {answer}");
        }
        assert!(rows(&db.db, "SELECT created_at_us, email FROM account").await.is_empty());
        assert!(rows(&db.db, "SELECT created_at_us, name FROM organization WHERE id <> 'org_default'").await.is_empty());
    }

    async fn signups_are_limited_per_client_and_all_together(db: TestDb) {
        let api = Api::with(&db.db, &[("REMIT_SERVER__TRUSTED_PROXIES", "10.0.0.0/8")]).await;
        for _ in 0..5 {
            assert_eq!(sign_up(&api, "192.0.2.1", None, &ada()).await.0, 201);
        }
        let (status, wait, answer) = sign_up(&api, "192.0.2.1", Some("203.0.113.1"), &ada()).await;
        assert_eq!((status, &answer["error"]["code"]), (429, &json!("RATE_LIMITED")), "what a stranger says of itself is not believed");
        assert_eq!((wait.as_deref(), &answer["error"]["retryable"]), (Some("60"), &json!(true)));
        assert_eq!(sign_up(&api, "10.1.1.1", Some("192.0.2.1"), &ada()).await.0, 429, "the same client behind the proxy");
        assert_eq!(sign_up(&api, "10.1.1.1", Some("192.0.2.2"), &ada()).await.0, 201);
        api.clock.advance_secs(60);
        assert_eq!(sign_up(&api, "192.0.2.1", None, &ada()).await.0, 201);
        assert_eq!(sign_up(&api, "192.0.2.1", None, &ada()).await.0, 429);
        let mut through = 0;
        for n in 0..100 {
            through += u32::from(sign_up(&api, &format!("198.51.100.{n}"), None, &ada()).await.0 == 201);
        }
        assert_eq!(through, 59, "60 at once, and one was there already");
    }

    async fn a_closed_door_says_so(db: TestDb) {
        let api = Api::with(&db.db, &[("REMIT_PROGRAMS__PUBLIC_SIGNUP", "false")]).await;
        let (status, _, answer) = sign_up(&api, "192.0.2.1", None, &ada()).await;
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("SIGNUP_CLOSED")));
        assert!(rows(&db.db, "SELECT created_at_us, email FROM account").await.is_empty());
    }
}
