//! What a query may say: what the route is described to take, once, and nothing that would be ignored.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use remit::domain::commission::DecisionKind;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::support::{
    TestDb,
    api::Api,
    desk::Desk,
    event_store, on_each_engine,
    shop::{Shop, intent, stripe},
    site::Site,
    till::sale,
};

/// Every route whose query is the caller's own: its method, a path of it and the parameters that it takes.
fn routes(document: &Value) -> Vec<(Method, String, Vec<&str>)> {
    let mut routes = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        if template.starts_with("/r/") || template.starts_with("/webhooks/") {
            continue;
        }
        let parts = template.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let of_query = parameters.filter(|parameter| parameter["in"] == "query");
            let names = of_query.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            routes.push((method.to_uppercase().parse().unwrap(), path.clone(), names));
        }
    }
    routes
}

#[tokio::test]
async fn no_route_takes_a_parameter_that_it_does_not_describe_or_one_twice() {
    let db = TestDb::sqlite().await;
    let api = Api::new(&db.db).await;
    let ask = async |method: &Method, path: &str| {
        let (status, mut answer) = api.call(&api.operator, method.clone(), path, &Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {path} {answer}");
        answer["error"].take()
    };
    let (_, document) = api.call(&api.operator, Method::GET, "/openapi.json", &Value::Null).await;
    let (mut reading, mut filtered) = (0, 0);
    for (method, path, names) in routes(&document) {
        for query in ["unheard%20of=1".to_owned(), format!("{}&unheard+of", names.join("&"))] {
            let refused = ask(&method, &format!("{path}?{query}")).await;
            assert_eq!(refused["code"], "UNKNOWN_PARAMETER", "{method} {path}");
            assert_eq!(refused["param"], "unheard of", "{method} {path}");
            let message = refused["message"].as_str().unwrap();
            let told = message.strip_prefix("the query parameters of this route are ");
            assert_eq!(told.map_or(vec![], |told| told.split(", ").collect()), names, "{method} {path}");
        }
        for name in &names {
            let refused = ask(&method, &format!("{path}?{name}=1&{name}=1")).await;
            assert_eq!(
                (&refused["code"], &refused["param"]),
                (&json!("REPEATED_PARAMETER"), &json!(name)),
                "{path}"
            );
        }
        reading += usize::from(method == Method::GET);
        filtered += usize::from(!names.is_empty());
    }
    assert!(reading > 40 && filtered > 20, "{reading} {filtered}");
}

on_each_engine! {
    async fn what_advertisers_and_providers_add_to_an_address_loses_no_click_and_no_event(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for method in [Method::GET, Method::HEAD] {
            let link = Request::builder().method(method).uri("/r/ann?utm_source=a&utm_source=b&limit=x");
            let (status, ..) = site.send(link.body(Body::empty()).unwrap()).await;
            assert_eq!(status, StatusCode::FOUND);
        }

        let event = stripe("evt_1", "payment_intent.succeeded", &intent("pi_1", 1_000, None)).to_string();
        let request = Request::post("/webhooks/stripe?region=eu&region=us")
            .header("stripe-signature", event_store::signature(event.as_bytes()))
            .body(Body::from(event))
            .unwrap();
        let receiver = event_store::webhooks(db.db.clone(), &TaskTracker::new());
        assert_eq!(receiver.oneshot(request).await.unwrap().status(), StatusCode::OK);
    }

    async fn conversions_of_a_status_are_found_page_by_page_by_their_owner_and_their_affiliate(db: TestDb) {
        let shop = Shop::open_with(&db.db, 16, &json!({"approval_mode": "manual"})).await;
        let desk = Desk::over(&shop).await;
        for number in 0..12 {
            shop.tell_and_process(&[sale("ada", &number.to_string(), 1_000, "usd")]).await;
            // Some are of one time, and are told apart by their ids.
            shop.node.clock.advance_secs(number % 3);
            let decisions: &[DecisionKind] = match number % 4 {
                1 => &[DecisionKind::Approve],
                2 => &[DecisionKind::Reject],
                3 if number > 3 => &[DecisionKind::Approve, DecisionKind::Clawback],
                _ => &[],
            };
            for decision in decisions {
                shop.decide(*decision, &format!("ch_{number}"), "ada").await.unwrap();
            }
        }
        let lists = [
            (&desk.owner, format!("{}/conversions", desk.program)),
            (&desk.ada, "/v1/affiliate/me/conversions".to_owned()),
        ];
        for (key, path) in lists {
            let all = desk.pages(key, &path, 5, async |_| {}).await;
            assert_eq!(all.len(), 12, "{path}");
            for (status, count) in
                [("pending", 4), ("approved", 3), ("paid", 0), ("rejected", 3), ("clawed_back", 2)]
            {
                let expected: Vec<Value> = all.iter().filter(|row| row["status"] == status).cloned().collect();
                assert_eq!(expected.len(), count, "{path} {status}");
                for limit in [2, 3, 100] {
                    let found = desk.pages(key, &format!("{path}?status={status}"), limit, async |_| {}).await;
                    assert_eq!(found, expected, "{path} {status} by {limit}");
                }
            }
            for wrong in ["lost", "held", "Pending", "", "pending,paid", "%00"] {
                let (_, refused) =
                    desk.api.call(key, Method::GET, &format!("{path}?status={wrong}"), &Value::Null).await;
                assert_eq!(refused["error"]["code"], "INVALID_STATUS", "{path} {wrong}");
                let message = "status must be pending, approved, paid, rejected or clawed_back";
                assert_eq!(refused["error"]["message"], message);
            }
        }
        let none = desk.data(&desk.bob, "/v1/affiliate/me/conversions?status=pending").await;
        assert_eq!(none, json!([]), "a peer's");
    }

    async fn a_filter_that_a_list_does_not_have_is_not_taken_for_no_filter(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let path = site.path("commissions?status=pending");
        let (status, refused) = site.api.call(&site.key, Method::GET, &path, &Value::Null).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("UNKNOWN_PARAMETER")));
        assert_eq!(refused["error"]["message"], "the query parameters of this route are limit, cursor");
    }
}
