//! Clicks: told by a website, followed through a link, and what they are worth when somebody buys.
//! Numbers are those of the product's checklist.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    pin::{Pin, pin},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use remit::{
    app::keys::KeyKind,
    domain::{ids::ProjectId, time::Timestamp},
    store::touchpoints::{self, Visitor},
};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{Api, NOW, PROGRAMS, id_of, key},
    books, on_each_engine,
    site::{IDENTIFY, Site, TOUCHPOINT, client_key, paid, paid_at},
};

const DAY_S: i64 = 86_400;

#[expect(clippy::unnecessary_wraps, reason = "it stands beside what was found, if anything was")]
fn by(code: &str, why: &str) -> Option<(String, String)> {
    Some((code.to_owned(), why.to_owned()))
}

fn time(at: Timestamp) -> Value {
    serde_json::to_value(at).unwrap()
}

async fn follow(
    site: &Site,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, headers, _) = site.send(request.body(Body::empty()).unwrap()).await;
    (status, headers)
}

fn query(location: &str) -> Vec<(String, String)> {
    reqwest::Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

on_each_engine! {
    async fn box_2_81_82_210_a_click_before_signing_in_is_recorded_and_counted_once(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let click = json!({"code": "ANN", "source": "link", "anonymous_id": "anon_9f3"});
        let (status, _, first) = site.say(TOUCHPOINT, &click).await;
        assert_eq!(status, StatusCode::CREATED, "{first}");
        assert_eq!((&first["data"]["code"], &first["data"]["source"]), (&json!("ann"), &json!("link")));
        assert_eq!(first["data"]["program_id"], json!(site.program));
        site.api.clock.advance_secs(599);
        let (status, _, again) = site.say(TOUCHPOINT, &click).await;
        assert_eq!((status, &again["data"]), (StatusCode::OK, &first["data"]));
        assert_eq!(site.clicks(&site.ann).await, 1);
        // Ten minutes later it is another click; another visitor or code always is.
        site.api.clock.advance_secs(1);
        assert_eq!(site.say(TOUCHPOINT, &click).await.0, StatusCode::CREATED);
        site.click("ann", "anon_other").await;
        site.click("bob", "anon_9f3").await;
        assert_eq!((site.clicks(&site.ann).await, site.clicks(&site.bob).await), (3, 1));
    }

    async fn the_same_click_sent_at_once_is_counted_once(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let body = json!({"code": "ann", "anonymous_id": "v"});
        let say = || site.say(TOUCHPOINT, &body);
        let answers: [_; 4] = tokio::join!(say(), say(), say(), say()).into();
        let new = answers.iter().filter(|(status, ..)| *status == StatusCode::CREATED).count();
        assert_eq!(new, 1, "{answers:?}");
        assert_eq!(site.clicks(&site.ann).await, 1);
    }

    async fn what_a_click_may_hold(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let long = "x".repeat(201);
        for (body, code) in [
            (json!({"code": "nobody", "anonymous_id": "v"}), "UNKNOWN_CODE"),
            (json!({"code": "", "anonymous_id": "v"}), "UNKNOWN_CODE"),
            (json!({"code": "a\u{0}", "anonymous_id": "v"}), "UNKNOWN_CODE"),
            (json!({"code": "ann"}), "MISSING_SUBJECT"),
            (json!({"code": "ann", "anonymous_id": ""}), "INVALID_ANONYMOUS_ID"),
            (json!({"code": "ann", "anonymous_id": "a\u{0}b"}), "INVALID_ANONYMOUS_ID"),
            (json!({"code": "ann", "anonymous_id": long}), "INVALID_ANONYMOUS_ID"),
            (json!({"code": "ann", "subject_ref": " v"}), "INVALID_SUBJECT_REF"),
            (json!({"code": "ann", "anonymous_id": "v", "source": "a b"}), "INVALID_SOURCE"),
            (json!({"code": "ann", "anonymous_id": "v", "source": "s".repeat(33)}), "INVALID_SOURCE"),
            (json!({"code": "ann", "anonymous_id": "v", "occurred_at": "yesterday"}), "INVALID_TIME"),
            (json!({"code": "ann", "anonymous_id": "v", "occurred_at": time(NOW.plus_secs(301))}), "INVALID_TIME"),
            (json!({"code": "ann", "anonymous_id": "v", "occurred_at": time(NOW.plus_secs(-DAY_S - 1))}), "INVALID_TIME"),
            (json!({"code": "ann", "anonymous_id": "v", "ip": "1.2.3.4"}), "INVALID_BODY"),
        ] {
            let (status, _, answer) = site.say(TOUCHPOINT, &body).await;
            assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{body}");
        }
        let oldest = json!({"code": "ann", "anonymous_id": "v", "occurred_at": time(NOW.plus_secs(-DAY_S))});
        assert_eq!(site.say(TOUCHPOINT, &oldest).await.0, StatusCode::CREATED);
        assert_eq!(site.clicks(&site.ann).await, 1);
        let by_a_fast_clock = json!({"code": "ann", "anonymous_id": "w", "occurred_at": time(NOW.plus_secs(300))});
        let (status, _, answer) = site.say(TOUCHPOINT, &by_a_fast_clock).await;
        assert_eq!((status, &answer["data"]["occurred_at"]), (StatusCode::CREATED, &json!(time(NOW))));
    }

    async fn only_a_client_key_tells_of_clicks_and_only_to_its_own_owner(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let body = json!({"code": "ann", "anonymous_id": "v"}).to_string();
        let ask = async |name: &str, value: &str| {
            let request = Request::post(TOUCHPOINT).header(name, value).body(Body::from(body.clone())).unwrap();
            site.send(request).await.0
        };
        let bearer = format!("Bearer {}", site.client);
        for (name, value, status) in [
            ("x-api-key", "", StatusCode::UNAUTHORIZED),
            ("x-api-key", "rk_client_0_0_0", StatusCode::UNAUTHORIZED),
            (header::AUTHORIZATION.as_str(), &*bearer, StatusCode::UNAUTHORIZED),
            ("x-api-key", &*site.key, StatusCode::FORBIDDEN),
            ("x-api-key", &*site.api.operator, StatusCode::FORBIDDEN),
            ("x-api-key", &*site.client, StatusCode::CREATED),
        ] {
            assert_eq!(ask(name, value).await, status, "{name}");
        }
        // A client key is public, so it opens nothing else.
        let (status, _) = site.api.call(&site.client, Method::GET, PROGRAMS, &Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        // Another owner's website does not know the code.
        let (organization, stranger) = site.api.tenant("stranger").await;
        let project = json!({"organization_id": organization, "name": "p"});
        let project = id_of(&site.api.create(&stranger, "/v1/admin/projects", project).await);
        let foreign = client_key(&site.api, &project).await;
        assert_eq!(ask("x-api-key", &foreign).await, StatusCode::BAD_REQUEST);
        let other = key(&site.api.app, KeyKind::Operator, None).await;
        assert_eq!(ask("x-api-key", &other).await, StatusCode::FORBIDDEN);
        assert_eq!(site.clicks(&site.ann).await, 1);
    }

    async fn a_visitor_who_says_too_much_is_told_when_to_come_back(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let body = json!({"code": "ann", "anonymous_id": "v"});
        for _ in 0..20 {
            assert!(site.say(TOUCHPOINT, &body).await.0.is_success());
        }
        let (status, headers, answer) = site.say(TOUCHPOINT, &body).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("RATE_LIMITED")));
        assert_eq!((&headers[header::RETRY_AFTER], &answer["error"]["retryable"]), (&"1".parse().unwrap(), &json!(true)));
        site.click("ann", "somebody_else").await;
        site.api.clock.advance_secs(1);
        assert!(site.say(TOUCHPOINT, &body).await.0.is_success());
    }

    async fn pages_of_any_origin_may_ask(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let asked = [("origin", "https://shop.example"), ("access-control-request-method", "POST")];
        let (status, headers) = follow(&site, Method::OPTIONS, TOUCHPOINT, &asked).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        let allowed: Vec<&str> =
            headers[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().split(", ").collect();
        for name in ["x-api-key", "content-type", "idempotency-key"] {
            assert!(allowed.contains(&name), "{allowed:?}");
        }
        let (_, headers, _) = site.say(TOUCHPOINT, &json!({})).await;
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "also when it is refused");
        let shown = headers[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        assert_eq!(shown.split(", ").collect::<Vec<_>>(), ["retry-after", "idempotent-replayed"]);
    }

    async fn box_64_the_edge_of_the_window_is_inside(db: TestDb) {
        let site = Site::open(&db.db, json!({"attribution_window_days": 30})).await;
        site.click("ann", "v").await;
        for (intent, at, earner) in [
            ("pi_edge", NOW.plus_days(30), by("ann", "touchpoint")),
            ("pi_late", NOW.plus_days(30).plus_secs(1), None),
            ("pi_same", NOW, by("ann", "touchpoint")),
            ("pi_before", NOW.plus_secs(-1), None),
        ] {
            site.deliver(&paid_at(intent, at, json!({"metadata": {"anonymous_id": "v"}}))).await;
            assert_eq!(site.earner(intent).await, earner, "{intent}");
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn box_62_63_209_first_and_last_touch(db: TestDb) {
        for (model, earner) in [("first_touch", "ann"), ("last_touch", "bob")] {
            let api = Api::new(&db.db).await;
            let site = Site::open_on(api, model, json!({"attribution_model": model})).await;
            site.click("ann", "v").await;
            site.api.clock.advance_secs(60);
            site.click("bob", "v").await;
            site.deliver(&paid_at(&format!("pi_{model}"), NOW.plus_secs(120), json!({"metadata": {"user_id": "v"}}))).await;
            assert_eq!(site.earner(&format!("pi_{model}")).await, by(earner, "touchpoint"));
        }
    }

    async fn box_257_a_code_outranks_a_coupon_and_that_a_click(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.click("ann", "v").await;
        site.deliver(&paid("pi_code", json!({"metadata": {"ref": "bob", "anonymous_id": "v"}}))).await;
        assert_eq!(site.earner("pi_code").await, by("bob", "metadata"));
        // A code that names nobody lets the click speak.
        site.deliver(&paid("pi_nobody", json!({"metadata": {"ref": "nobody", "anonymous_id": "v"}}))).await;
        assert_eq!(site.earner("pi_nobody").await, by("ann", "touchpoint"));
        let session = |id: &str, fields: Value| {
            let mut object = json!({
                "id": id, "mode": "payment", "payment_status": "paid", "amount_total": 5_000, "currency": "usd",
                "metadata": {},
            });
            for (field, value) in fields.as_object().unwrap() {
                object[field] = value.clone();
            }
            json!({
                "id": format!("evt_{id}"), "object": "event", "type": "checkout.session.completed",
                "created": NOW.as_secs(), "livemode": false, "data": {"object": object},
            })
        };
        let discounts = json!([{"promotion_code": {"id": "promo_1", "code": "BOB"}}]);
        site.deliver(&session("cs_coupon", json!({"client_reference_id": "v", "discounts": discounts}))).await;
        assert_eq!(site.earner("cs_coupon").await, by("BOB", "coupon"));
        site.deliver(&session("cs_reference", json!({"client_reference_id": "v"}))).await;
        assert_eq!(site.earner("cs_reference").await, by("ann", "touchpoint"));
    }

    async fn ids_of_one_visitor_are_one_visitor(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.click("ann", "anon_1").await;
        let identify = async |anonymous: &str, subject: &str| {
            let body = json!({"anonymous_id": anonymous, "subject_ref": subject});
            let (status, _, answer) = site.say(IDENTIFY, &body).await;
            (status.as_u16(), answer["error"]["code"].as_str().unwrap_or("").to_owned())
        };
        // Bought before signing in was told: the link reaches back to the sale.
        site.deliver(&paid("pi_1", json!({"metadata": {"user_id": "user_1"}}))).await;
        assert_eq!(site.earner("pi_1").await, None);
        for _ in 0..2 {
            assert_eq!(identify("anon_1", "user_1").await, (200, String::new()));
        }
        site.settle().await;
        assert_eq!(site.earner("pi_1").await, by("ann", "touchpoint"));
        // On to the provider's customer: the click under the first id speaks for the third.
        assert_eq!(identify("user_1", "cus_1").await, (200, String::new()));
        site.deliver(&paid("pi_2", json!({"customer": "cus_1"}))).await;
        assert_eq!(site.earner("pi_2").await, by("ann", "touchpoint"));
        // The first link of an id stands, and a click that names both is the named subject's.
        assert_eq!(identify("anon_1", "user_2").await, (409, "ALREADY_IDENTIFIED".to_owned()));
        let click = json!({"code": "bob", "anonymous_id": "anon_1", "subject_ref": "user_2"});
        assert_eq!(site.say(TOUCHPOINT, &click).await.0, StatusCode::CREATED);
        site.deliver(&paid("pi_3", json!({"metadata": {"subject_ref": "user_2"}}))).await;
        site.deliver(&paid("pi_4", json!({"metadata": {"subject_ref": "user_1"}}))).await;
        assert_eq!((site.earner("pi_3").await, site.earner("pi_4").await), (by("bob", "touchpoint"), by("ann", "touchpoint")));
        // A group has an end.
        for number in 0..100 {
            let (status, code) = identify(&format!("device_{number}"), &format!("shared_{}", number / 1_000)).await;
            assert_eq!(status, if code == "RATE_LIMITED" { 429 } else { 200 }, "{number} {code}");
            site.api.clock.advance_secs(2);
        }
        assert_eq!(identify("one_more", "shared_0").await, (409, "TOO_MANY_IDS".to_owned()));
        for (body, code) in [
            (json!({"anonymous_id": "", "subject_ref": "u"}), "INVALID_ANONYMOUS_ID"),
            (json!({"anonymous_id": "a", "subject_ref": "u\n"}), "INVALID_SUBJECT_REF"),
        ] {
            let (status, _, answer) = site.say(IDENTIFY, &body).await;
            assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(code)));
        }
    }

    async fn a_click_that_names_both_ids_reaches_back_as_far_as_signing_in_does(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for n in 1..=2 {
            site.click("ann", &format!("anon_{n}")).await;
            site.deliver(&paid(&format!("pi_{n}"), json!({"metadata": {"user_id": format!("user_{n}")}}))).await;
            assert_eq!(site.earner(&format!("pi_{n}")).await, None);
        }
        // The same click, now of somebody who is known.
        let again = json!({"code": "ann", "anonymous_id": "anon_1", "subject_ref": "user_1"});
        assert_eq!(site.say(TOUCHPOINT, &again).await.0, StatusCode::OK);
        // Another one, which itself came after the sale.
        site.api.clock.advance_secs(3_600);
        let later = json!({"code": "bob", "anonymous_id": "anon_2", "subject_ref": "user_2"});
        assert_eq!(site.say(TOUCHPOINT, &later).await.0, StatusCode::CREATED);
        site.settle().await;
        for intent in ["pi_1", "pi_2"] {
            assert_eq!(site.earner(intent).await, by("ann", "touchpoint"), "{intent}");
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_fold_reads_the_clicks_of_the_window_and_no_others(db: TestDb) {
        const CLICK: &str = "INSERT INTO touchpoint
                (id, project_id, program_id, enrollment_id, code, source, subject, at_us, created_at_us)
            VALUES ($1, $2, $3, $4, 'bob', 'link', 'v', $5, $5)";
        const MOVE: &str = "UPDATE touchpoint SET at_us = $1 WHERE id = 'unreadable'";
        let site = Site::open(&db.db, json!({"attribution_window_days": 30, "attribution_model": "first_touch"})).await;
        let edge = NOW.plus_days(-30);
        let mut tx = db.db.begin().await.unwrap();
        // Whoever reads the one with an id that is none fails.
        for (id, at) in [("unreadable", edge.plus_micros(-1)), ("tp_edge", edge)] {
            let click = tx.q(CLICK).bind(id).bind(&*site.project).bind(&*site.program).bind(&*site.bob);
            click.bind(at.as_micros()).exec().await.unwrap();
        }
        tx.commit().await.unwrap();
        site.click("ann", "v").await;
        site.deliver(&paid("pi_1", json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_1").await, by("bob", "touchpoint"));
        let mut tx = db.db.begin().await.unwrap();
        tx.q(MOVE).bind(edge.as_micros()).exec().await.unwrap();
        tx.commit().await.unwrap();
        site.deliver(&paid("pi_2", json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_2").await, None, "it would have been noticed");
    }

    async fn ids_of_another_project_are_another_visitor(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let project = json!({"organization_id": site.organization, "name": "second"});
        let second = id_of(&site.api.create(&site.key, "/v1/admin/projects", project).await);
        let client = client_key(&site.api, &second).await;
        let body = json!({"code": "ann", "subject_ref": "1"}).to_string();
        let request = Request::post(TOUCHPOINT).header("x-api-key", client).body(Body::from(body)).unwrap();
        assert_eq!(site.send(request).await.0, StatusCode::CREATED);
        site.deliver(&paid("pi_1", json!({"metadata": {"user_id": "1"}}))).await;
        assert_eq!(site.earner("pi_1").await, None);
    }

    async fn a_click_that_is_told_late_still_refers_the_sale(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.deliver(&paid("pi_1", json!({"metadata": {"anonymous_id": "v"}}))).await;
        site.deliver(&paid("pi_2", json!({"customer": "cus_1"}))).await;
        assert_eq!((site.earner("pi_1").await, site.earner("pi_2").await), (None, None));
        site.api.clock.advance_secs(3_600);
        for (subject, at) in [("v", NOW.plus_secs(-60)), ("cus_1", NOW.plus_secs(-60))] {
            let click = json!({"code": "ann", "subject_ref": subject, "occurred_at": time(at)});
            assert_eq!(site.say(TOUCHPOINT, &click).await.0, StatusCode::CREATED);
        }
        site.settle().await;
        assert_eq!((site.earner("pi_1").await, site.earner("pi_2").await), (by("ann", "touchpoint"), by("ann", "touchpoint")));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_click_and_a_sale_that_arrive_at_once_see_each_other(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for n in 0..12 {
            let (visitor, intent) = (format!("v{n}"), format!("pi_{n}"));
            // Half of the visitors were met before, so that their rows are locked and not added.
            if n % 2 == 0 {
                let body = json!({"anonymous_id": format!("other_{n}"), "subject_ref": visitor});
                assert_eq!(site.say(IDENTIFY, &body).await.0, StatusCode::OK);
            }
            let told = [format!("other_{n}"), visitor.clone()].map(|subject| {
                json!({"code": "ann", "subject_ref": subject, "occurred_at": time(NOW.plus_secs(-60))})
            });
            let event = paid(&intent, json!({"customer": visitor}));
            let ((), first, second) =
                tokio::join!(site.deliver(&event), site.say(TOUCHPOINT, &told[n % 2]), site.say(TOUCHPOINT, &told[1]));
            assert!(first.0.is_success() && second.0.is_success(), "{n}: {first:?} {second:?}");
            site.settle().await;
            assert_eq!(site.earner(&intent).await, by("ann", "touchpoint"), "{n}");
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_renewal_is_bound_by_the_click_behind_the_first_payment_in_every_order(db: TestDb) {
        for (name, order) in [("first", [0, 1]), ("last", [1, 0])] {
            let site = Site::open_on(Api::new(&db.db).await, name, json!({"attribution_window_days": 30})).await;
            site.click("ann", "v").await;
            let buyer = format!("cus_{name}");
            let body = json!({"anonymous_id": "v", "subject_ref": buyer});
            assert_eq!(site.say(IDENTIFY, &body).await.0, StatusCode::OK);
            let [first, renewal] = [format!("pi_{name}_1"), format!("pi_{name}_2")];
            let events = [
                paid_at(&first, NOW.plus_days(10), json!({"customer": buyer})),
                paid_at(&renewal, NOW.plus_days(40), json!({"customer": buyer})),
            ];
            for index in order {
                site.deliver(&events[index]).await;
            }
            assert_eq!(site.earner(&first).await, by("ann", "touchpoint"), "{name}");
            assert_eq!(site.earner(&renewal).await, by("ann", "customer"), "{name}");
            // A later click takes nobody away who is bound, and a code of its own does.
            site.api.clock.advance_secs(41 * DAY_S);
            site.click("bob", "v").await;
            let [third, fourth] = [format!("pi_{name}_3"), format!("pi_{name}_4")];
            site.deliver(&paid_at(&third, NOW.plus_days(42), json!({"customer": buyer}))).await;
            assert_eq!(site.earner(&third).await, by("ann", "customer"), "{name}");
            let event = paid_at(&fourth, NOW.plus_days(43), json!({"metadata": {"via": "bob"}, "customer": buyer}));
            site.deliver(&event).await;
            assert_eq!(site.earner(&fourth).await, by("bob", "metadata"), "{name}");
            assert_eq!(site.earner(&third).await, by("ann", "customer"), "{name}");
        }
        books::assert_they_add_up(&db.db).await;
    }

    async fn who_was_not_active_lets_the_next_click_speak(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        site.click("ann", "v").await;
        site.api.clock.advance_secs(60);
        site.click("bob", "v").await;
        let path = site.path(&format!("enrollments/{}/suspend", site.bob));
        site.api.create(&site.key, &path, Value::Null).await;
        site.deliver(&paid_at("pi_1", NOW.plus_secs(59), json!({"metadata": {"user_id": "v"}}))).await;
        site.deliver(&paid_at("pi_2", NOW.plus_secs(120), json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_1").await, by("ann", "touchpoint"));
        assert_eq!(site.earner("pi_2").await, by("ann", "touchpoint"));
    }

    async fn an_approval_reaches_the_sales_of_those_who_clicked(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let affiliate = json!({"email": "cat@example.com", "code": "cat", "status": "pending"});
        let cat = id_of(&site.api.create(&site.key, &site.path("enrollments"), affiliate).await);
        site.click("cat", "v").await;
        site.deliver(&paid("pi_1", json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_1").await, None);
        site.api.create(&site.key, &site.path(&format!("enrollments/{cat}/approve")), Value::Null).await;
        site.settle().await;
        assert_eq!(site.earner("pi_1").await, by("cat", "touchpoint"));
    }

    async fn a_changed_window_or_model_moves_no_sale_of_the_past(db: TestDb) {
        let site = Site::open(&db.db, json!({"attribution_window_days": 30})).await;
        site.click("ann", "v").await;
        site.api.clock.advance_secs(60);
        site.click("bob", "v").await;
        let refund = json!({
            "id": "evt_re_1", "object": "event", "type": "refund.created", "created": NOW.as_secs(),
            "livemode": false, "data": {"object": {
                "id": "re_1", "amount": 1_000, "currency": "usd", "payment_intent": "pi_1", "status": "succeeded",
            }},
        });
        site.deliver(&paid_at("pi_1", NOW.plus_days(10), json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_1").await, by("bob", "touchpoint"));
        site.api.clock.advance_secs(10 * DAY_S);
        let path = format!("{PROGRAMS}/{}", site.program);
        let changed = json!({"attribution_window_days": 1, "attribution_model": "first_touch"});
        let (status, _) = site.api.call(&site.key, Method::PATCH, &path, &changed).await;
        assert_eq!(status, StatusCode::OK);
        site.deliver(&refund).await;
        assert_eq!(site.earner("pi_1").await, by("bob", "touchpoint"), "folded again under the rule of then");
        site.deliver(&paid_at("pi_2", NOW.plus_days(11), json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_2").await, None, "under the rule of now");
        assert_eq!(site.balance(&site.bob).await, (1_800, 0));
    }

    async fn of_several_programs_the_latest_winner_wins(db: TestDb) {
        let site = Site::open(&db.db, json!({"attribution_model": "first_touch"})).await;
        let second = site.open_program(json!({"commission": {"type": "percentage", "bps": 500}})).await;
        site.enroll(&second, "eve").await;
        for code in ["ann", "eve", "bob"] {
            site.click(code, "v").await;
            site.api.clock.advance_secs(60);
        }
        // Of the first program ann, the first; of the second eve, later than ann.
        site.deliver(&paid_at("pi_1", NOW.plus_secs(600), json!({"metadata": {"user_id": "v"}}))).await;
        assert_eq!(site.earner("pi_1").await, by("eve", "touchpoint"));
        // What is reported to a program is asked of its own touchpoints.
        site.api.clock.advance_secs(600);
        let (status, answer) = site.report("order_1", json!({"subject_ref": "v"})).await;
        assert_eq!((status, &answer["data"]["code"]), (StatusCode::CREATED, &json!("ann")), "{answer}");
    }

    async fn a_link_forwards_with_the_code_and_counts_the_click(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let (status, headers) = follow(&site, Method::GET, "/r/ANN", &[]).await;
        assert_eq!(status, StatusCode::FOUND);
        let location = headers[header::LOCATION].to_str().unwrap();
        assert!(location.starts_with("https://shop.example/welcome?a=1&ref=ann&anonymous_id=anon_"), "{location}");
        let cookie = headers[header::SET_COOKIE].to_str().unwrap();
        for part in ["remit_anon=anon_", "Max-Age=31536000", "Path=/r", "HttpOnly", "SameSite=Lax", "Secure"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let visitor = &query(location)[2].1;
        // The browser comes back with its cookie: the same visitor, the same click.
        let sent = format!("other=1; {}", cookie.split(';').next().unwrap());
        let (_, again) = follow(&site, Method::GET, &format!("/r/{}/ann", site.project), &[("cookie", &sent)]).await;
        assert_eq!(&query(again[header::LOCATION].to_str().unwrap())[2].1, visitor);
        assert_eq!(site.clicks(&site.ann).await, 1);
        site.deliver(&paid("pi_1", json!({"metadata": {"anonymous_id": visitor}}))).await;
        assert_eq!(site.earner("pi_1").await, by("ann", "touchpoint"));
    }

    async fn nothing_of_a_request_decides_where_a_link_leads(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for (path, headers) in [
            ("/r/ann?url=https://evil.example", vec![]),
            ("/r/ann?ref=bob&next=//evil.example", vec![]),
            ("/r/ann", vec![("host", "evil.example"), ("x-forwarded-host", "evil.example")]),
            ("/r/ann", vec![("cookie", "remit_anon=x&ref=bob#@evil.example")]),
            ("/r/ann", vec![("cookie", "remit_anon=anon_%0d%0aSet-Cookie:evil")]),
            ("/r/ann", vec![("referer", "https://evil.example")]),
        ] {
            let (status, answer) = follow(&site, Method::GET, path, &headers).await;
            assert_eq!(status, StatusCode::FOUND, "{path}");
            let location = answer[header::LOCATION].to_str().unwrap();
            let url = reqwest::Url::parse(location).unwrap();
            assert_eq!((url.scheme(), url.host_str(), url.path()), ("https", Some("shop.example"), "/welcome"));
            let names: Vec<String> = query(location).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["a", "ref", "anonymous_id"], "{location}");
            assert_eq!(query(location)[1].1, "ann");
            assert!(!location.contains("evil") && !answer[header::SET_COOKIE].to_str().unwrap().contains("evil"));
        }
        for path in [
            "/r/nobody", "/r//evil.example", "/r/%2F%2Fevil.example", "/r/https:%2F%2Fevil.example", "/r/a%00b",
            "/r/%0d%0aLocation:evil", "/r/proj_default/ann", "/r/evil.example/ann", "/r/..%2F..%2Fann", "/r/",
        ] {
            let (status, answer) = follow(&site, Method::GET, path, &[]).await;
            assert_eq!((status, answer.get(header::LOCATION)), (StatusCode::NOT_FOUND, None), "{path}");
        }
    }

    async fn what_is_no_click_is_not_counted(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        for (method, headers) in [
            (Method::HEAD, vec![]),
            (Method::GET, vec![("sec-purpose", "prefetch")]),
            (Method::GET, vec![("sec-purpose", "prefetch;prerender")]),
            (Method::GET, vec![("purpose", "preview")]),
        ] {
            let (status, _) = follow(&site, method, "/r/ann", &headers).await;
            assert_eq!(status, StatusCode::FOUND);
        }
        let path = format!("{PROGRAMS}/{}", site.program);
        site.api.call(&site.key, Method::PATCH, &path, &json!({"status": "paused"})).await;
        assert_eq!(follow(&site, Method::GET, "/r/ann", &[]).await.0, StatusCode::FOUND, "visitors are not lost");
        assert_eq!(site.clicks(&site.ann).await, 0);
        site.api.call(&site.key, Method::PATCH, &path, &json!({"landing_url": null})).await;
        assert_eq!(follow(&site, Method::GET, "/r/ann", &[]).await.0, StatusCode::NOT_FOUND);
    }

    async fn a_visitor_is_forwarded_when_the_click_cannot_be_stored(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        // A click cannot be written while the table is not there.
        let mut tx = db.db.begin().await.unwrap();
        tx.q("ALTER TABLE click_day RENAME TO click_day_away").exec().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(follow(&site, Method::GET, "/r/ann", &[]).await.0, StatusCode::FOUND);
        let mut tx = db.db.begin().await.unwrap();
        tx.q("ALTER TABLE click_day_away RENAME TO click_day").exec().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(site.clicks(&site.ann).await, 0);
        assert_eq!(follow(&site, Method::GET, "/r/ann", &[]).await.0, StatusCode::FOUND);
        assert_eq!(site.clicks(&site.ann).await, 1);
    }

    async fn the_short_link_of_a_code_stays_with_the_owner_who_had_it_first(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let leads_to = async |path: &str| {
            let (_, headers) = follow(&site, Method::GET, path, &[]).await;
            let location = headers.get(header::LOCATION)?.to_str().unwrap().to_owned();
            Some(reqwest::Url::parse(&location).unwrap().host_str().unwrap().to_owned())
        };
        let (first, second) = (Some("shop.example".to_owned()), Some("other.example".to_owned()));
        site.api.clock.advance_secs(60);
        assert_eq!(leads_to("/r/ann").await, first);
        let api = Api::new(&db.db).await;
        api.clock.advance_secs(30);
        let other = Site::open_on(api, "other", json!({"landing_url": "https://other.example"})).await;
        assert_eq!(leads_to("/r/ann").await, first, "somebody else's claim changes nothing");
        assert_eq!(leads_to(&format!("/r/{}/ann", other.project)).await, second);
        assert_eq!((site.clicks(&site.ann).await, other.clicks(&other.ann).await), (2, 1));
        // Nor does it lead to them once the first one is retired: it stands on paper and on websites.
        let code = site.path(&format!("enrollments/{}/codes/ann", site.ann));
        assert_eq!(site.api.call(&site.key, Method::DELETE, &code, &Value::Null).await.0, StatusCode::OK);
        assert_eq!(leads_to("/r/ann").await, None);
        assert_eq!(leads_to(&format!("/r/{}/ann", other.project)).await, second);
    }

    async fn a_browser_is_another_visitor_for_each_owner(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let other = Site::open_on(Api::new(&db.db).await, "other", json!({"landing_url": "https://other.example"})).await;
        let cookie = format!("remit_anon=anon_{}", "x".repeat(26));
        let mut visitors = Vec::new();
        for (owner, host) in [(&site, "shop.example"), (&other, "other.example")] {
            let path = format!("/r/{}/ann", owner.project);
            let (_, headers) = follow(owner, Method::GET, &path, &[("cookie", &cookie)]).await;
            assert!(headers[header::SET_COOKIE].to_str().unwrap().starts_with(&cookie));
            let location = headers[header::LOCATION].to_str().unwrap();
            assert_eq!(reqwest::Url::parse(location).unwrap().host_str(), Some(host));
            assert!(!location.contains(&"x".repeat(26)), "{location}");
            visitors.extend(query(location).into_iter().filter(|(name, _)| name == "anonymous_id"));
            assert_eq!(owner.clicks(&owner.ann).await, 1);
        }
        assert_ne!(visitors[0].1, visitors[1].1, "one owner cannot tell of clicks at the other's");
    }

    async fn a_landing_address_is_checked_when_it_is_set(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let path = format!("{PROGRAMS}/{}", site.program);
        for bad in [
            "http://shop.example", "javascript:alert(1)", "//shop.example", "/welcome", "", "ftp://shop.example",
            "https://user:secret@shop.example", "https://", "http://127.0.0.1.evil.example", "data:text/html,x",
        ] {
            let refused = site.api.refusal(&site.key, Method::PATCH, &path, &json!({"landing_url": bad})).await;
            assert_eq!(refused, (400, "INVALID_LANDING_URL".to_owned()), "{bad}");
        }
        for good in ["https://shop.example/x?y=1#z", "http://localhost:3000/", "http://127.0.0.1:8000/a"] {
            let (status, answer) = site.api.call(&site.key, Method::PATCH, &path, &json!({"landing_url": good})).await;
            assert_eq!((status, &answer["data"]["landing_url"]), (StatusCode::OK, &json!(good)));
        }
    }
}

/// How many wait for a lock of a row.
const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// How many wait for a lock of a table.
const WAITING_FOR_TABLE: &str = "SELECT COUNT(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'relation' AND NOT l.granted";

/// Takes `asked` on until somebody waits, as the statement counts. It cannot end before.
async fn until_it_waits<T: Debug>(
    db: &TestDb,
    mut asked: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    count: &'static str,
) {
    let mut conn = db.db.read().await.unwrap();
    loop {
        tokio::select! {
            answer = &mut asked => panic!("it did not wait: {answer:?}"),
            waiting = conn.q(count).scalar::<i64>() => if waiting.unwrap() != Some(0) { return },
        }
    }
}

fn visitors(site: &Site, ids: &[&str]) -> BTreeSet<Visitor> {
    let project_id = ProjectId::parse(&site.project).unwrap();
    ids.iter().map(|id| Visitor { project_id: project_id.clone(), id: (*id).to_owned() }).collect()
}

/// A click is told, and not committed, when a sale of the same visitor is folded.
#[tokio::test]
async fn a_sale_waits_for_a_click_that_is_being_told() {
    const CLICK: &str = "INSERT INTO touchpoint
            (id, project_id, program_id, enrollment_id, code, source, subject, at_us, created_at_us)
        VALUES ('tp_1', $1, $2, $3, 'ann', 'link', 'v', $4, $4)";
    // SQLite has one writer: there it is one after the other.
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let site = Site::open(&db.db, json!({})).await;
    let mut telling = db.db.begin().await.unwrap();
    touchpoints::lock_visitors(&mut telling, &visitors(&site, &["v"])).await.unwrap();
    let told = telling.q(CLICK).bind(&*site.project).bind(&*site.program).bind(&*site.ann);
    told.bind(NOW.plus_secs(-60).as_micros()).exec().await.unwrap();
    let event = paid("pi_1", json!({"metadata": {"anonymous_id": "v"}}));
    let mut sale = pin!(site.deliver(&event));
    until_it_waits(&db, sale.as_mut(), WAITING).await;
    telling.commit().await.unwrap();
    sale.await;
    assert_eq!(site.earner("pi_1").await, by("ann", "touchpoint"));
}

/// What a visitor is locked by is removed while somebody waits for it.
#[tokio::test]
async fn who_waits_for_a_visitor_that_is_forgotten_meets_them_anew() {
    type Asked<'a> = Pin<Box<dyn Future<Output = Option<StatusCode>> + 'a>>;
    // SQLite has no such rows.
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let site = Site::open(&db.db, json!({})).await;
    let click = json!({"code": "ann", "anonymous_id": "a"});
    let ids = json!({"anonymous_id": "b", "subject_ref": "user_b"});
    let event = paid("pi_1", json!({"metadata": {"user_id": "c"}}));
    let status = async |path, body| Some(site.say(path, body).await.0);
    let asked: [(&str, Asked<'_>, _); 3] = [
        ("a", Box::pin(status(TOUCHPOINT, &click)), Some(StatusCode::CREATED)),
        ("b", Box::pin(status(IDENTIFY, &ids)), Some(StatusCode::OK)),
        (
            "c",
            Box::pin(async {
                site.deliver(&event).await;
                None
            }),
            None,
        ),
    ];
    for (visitor, mut asked, answer) in asked {
        let known = visitors(&site, &[visitor]);
        let mut meeting = db.db.begin().await.unwrap();
        touchpoints::lock_visitors(&mut meeting, &known).await.unwrap();
        meeting.commit().await.unwrap();
        let mut forgetting = db.db.begin().await.unwrap();
        touchpoints::lock_visitors(&mut forgetting, &known).await.unwrap();
        until_it_waits(&db, asked.as_mut(), WAITING).await;
        touchpoints::forget_ids(&mut forgetting, &known, None).await.unwrap();
        forgetting.commit().await.unwrap();
        assert_eq!(asked.await, answer, "{visitor}");
    }
    let rows = "SELECT COUNT(*) FROM visitor WHERE id IN ('a', 'b', 'c')";
    assert_eq!(db.db.read().await.unwrap().q(rows).scalar::<i64>().await.unwrap(), Some(3));
    let applied = "SELECT COUNT(*) FROM inbox WHERE state = 'applied' AND attempts = 0";
    assert_eq!(db.db.read().await.unwrap().q(applied).scalar::<i64>().await.unwrap(), Some(1));
}

/// Somebody signs in while a click of theirs waits: then whoever sells to them under the other id has to
/// wait for the click, too.
#[tokio::test]
async fn a_click_holds_the_ids_that_were_joined_while_it_waited() {
    const FREE: &str = "SELECT id FROM visitor WHERE id IN ('anon', 'user') FOR UPDATE SKIP LOCKED";
    // SQLite has one writer: there nobody waits in the middle.
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let site = Site::open(&db.db, json!({})).await;
    let project = ProjectId::parse(&site.project).unwrap();
    let mut joining = db.db.begin().await.unwrap();
    touchpoints::lock_visitors(&mut joining, &visitors(&site, &["anon", "user"])).await.unwrap();
    touchpoints::link(&mut joining, &project, "anon", "user", NOW).await.unwrap();
    let mut click = pin!(site.click("ann", "anon"));
    until_it_waits(&db, click.as_mut(), WAITING).await;
    // Behind its locks, and before it commits.
    let mut held = db.db.begin().await.unwrap();
    held.q("LOCK TABLE touchpoint IN SHARE MODE").exec().await.unwrap();
    joining.commit().await.unwrap();
    until_it_waits(&db, click.as_mut(), WAITING_FOR_TABLE).await;
    let mut selling = db.db.begin().await.unwrap();
    assert_eq!(selling.q(FREE).scalars::<String>().await.unwrap(), Vec::<String>::new());
    selling.rollback().await.unwrap();
    held.rollback().await.unwrap();
    click.await;
    assert_eq!(site.clicks(&site.ann).await, 1);
}
