//! Clicks under load, what the owner is shown of them, and what is forgotten of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use remit::{
    app::{
        clicks::{self, Clicks},
        forget,
        group::GroupLimits,
        keys,
        touchpoints::{self, NewClick},
    },
    http::{self, edge, openapi},
    store::Sql,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::support::{
    TestDb,
    api::{Api, MASTER_KEY, id_of},
    books, on_each_engine,
    site::{IDENTIFY, Site, TOUCHPOINT, client_key, paid_at},
};

/// A request that tells of a click.
fn told(site: &Site, visitor: &str) -> Request<Body> {
    let body = json!({"code": "ann", "anonymous_id": visitor}).to_string();
    Request::post(TOUCHPOINT).header("x-api-key", &site.client).body(Body::from(body)).unwrap()
}

/// A request that follows a link.
fn link(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// The site behind an API whose clicks are grouped otherwise.
async fn with_limits(db: &TestDb, limits: GroupLimits) -> Site {
    let mut site = Site::open(&db.db, json!({})).await;
    let clicks = Clicks::start(&site.api.app, limits, &TaskTracker::new());
    site.api.router = edge(openapi::described(http::api(&site.api.app, &clicks)), &TaskTracker::new());
    site
}

async fn number(site: &Site, sql: &'static str) -> i64 {
    site.api.app.db.read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
}

/// Looks at everything once.
async fn forget(site: &Site) {
    let round = Mutex::new(forget::Round::default());
    while forget::step(&site.api.app, &round).await.unwrap() {}
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Two years of people who click, sign in, buy and buy again, or never do. Gives who earns from each sale, by
/// its number.
async fn two_years(db: &TestDb, name: &str, forgets: bool) -> BTreeMap<u64, Option<(String, String)>> {
    let env = [("REMIT_SECRETS__MASTER_KEY", MASTER_KEY), ("REMIT_ATTRIBUTION__KEEP_CLICKS_DAYS", "10")];
    let api = Api::with(&db.db, &env).await;
    let site = Site::open_on(api, name, json!({"attribution_window_days": 30})).await;
    let (mut dice, mut sales) = (Dice(7), 0);
    for _ in 0..24 {
        site.api.clock.advance_secs(30 * 86_400 + 1);
        for person in 0..5 {
            let (visitor, buyer) = (format!("{name}_v{person}"), format!("{name}_cus{person}"));
            if dice.below(2) == 0 {
                site.click(["ann", "bob"][usize::try_from(dice.below(2)).unwrap()], &visitor).await;
                // Who they are is told within the days for which clicks are kept; later it finds none.
                let ids = json!({"anonymous_id": visitor, "subject_ref": buyer});
                assert_eq!(site.say(IDENTIFY, &ids).await.0, StatusCode::OK);
            }
            // Two of them never buy.
            if person < 3 && dice.below(3) == 0 {
                let fields = match dice.below(2) {
                    0 => json!({"customer": buyer}),
                    _ => json!({"customer": buyer, "metadata": {"anonymous_id": visitor}}),
                };
                site.deliver(&paid_at(&format!("pi_{name}_{sales}"), site.api.app.now(), fields)).await;
                sales += 1;
            }
        }
        if forgets {
            let before = earners(&site, name, sales).await;
            forget(&site).await;
            fold_all(&site).await;
            assert_eq!(earners(&site, name, sales).await, before);
        }
    }
    earners(&site, name, sales).await
}

async fn earners(site: &Site, name: &str, sales: u64) -> BTreeMap<u64, Option<(String, String)>> {
    let mut found = BTreeMap::new();
    for sale in 0..sales {
        found.insert(sale, site.earner(&format!("pi_{name}_{sale}")).await);
    }
    found
}

/// Folds every sale again.
async fn fold_all(site: &Site) {
    const ASK: &str = "INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT id, 'time', 'asked', 0, 0 FROM sale WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO NOTHING";
    let mut tx = site.api.app.db.begin().await.unwrap();
    tx.q(ASK).exec().await.unwrap();
    tx.commit().await.unwrap();
    site.settle().await;
}

on_each_engine! {
    async fn a_click_that_cannot_be_stored_takes_no_other_with_it(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let mut tx = db.db.begin().await.unwrap();
        // Only one of them fits into the table.
        tx.q("CREATE UNIQUE INDEX one_poison ON touchpoint ((CASE WHEN subject LIKE 'poison%' THEN 1 END))")
            .exec().await.unwrap();
        tx.commit().await.unwrap();
        let mut asked = JoinSet::new();
        for n in 0..20 {
            let visitor = if n < 2 { format!("poison_{n}") } else { format!("v{n}") };
            let (router, request) = (site.api.router.clone(), told(&site, &visitor));
            asked.spawn(async move { router.oneshot(request).await.unwrap().status() });
        }
        let mut statuses = asked.join_all().await;
        statuses.sort_unstable();
        let mut expected = vec![StatusCode::CREATED; 19];
        expected.push(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(statuses, expected);
        assert_eq!(site.clicks(&site.ann).await, 19);
    }

    async fn too_many_clicks_are_told_to_come_back_and_links_still_lead_on(db: TestDb) {
        const HOLD: Sql = Sql { sqlite: "SELECT 1", postgres: "LOCK TABLE touchpoint" };
        let site = with_limits(&db, GroupLimits { queued_max: 1, ..clicks::LIMITS }).await;
        let mut held = db.db.begin().await.unwrap();
        held.q(HOLD).exec().await.unwrap();
        let mut asked = JoinSet::new();
        for n in 0..6 {
            let (router, request) = (site.api.router.clone(), told(&site, &format!("v{n}")));
            asked.spawn(async move {
                let answer = router.oneshot(request).await.unwrap();
                (answer.status(), answer.headers().get(header::RETRY_AFTER).cloned())
            });
        }
        // One is being written and one waits; who is answered now is refused.
        for _ in 0..4 {
            let (status, wait) = asked.join_next().await.unwrap().unwrap();
            assert_eq!((status, wait), (StatusCode::SERVICE_UNAVAILABLE, Some("1".parse().unwrap())));
        }
        let (status, headers, _) = site.send(link("/r/ann")).await;
        assert_eq!(status, StatusCode::FOUND);
        assert!(headers[header::LOCATION].to_str().unwrap().starts_with("https://shop.example/"));
        held.rollback().await.unwrap();
        let written = asked.join_all().await;
        assert!(written.iter().all(|(status, _)| *status == StatusCode::CREATED), "{written:?}");
        assert_eq!((written.len(), site.clicks(&site.ann).await), (2, 2));
    }

    async fn two_nodes_that_are_told_of_the_same_visitors_at_once_count_each_click_once(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let second = crate::support::api::public(&site.api.app).await;
        let mut asked = JoinSet::new();
        for n in 0..40 {
            // In another order on each node, and half of them join two ids.
            for (router, n) in [(&site.api.router, n), (&second, 39 - n)] {
                let mut body = json!({"code": "ann", "subject_ref": format!("v{n}")});
                if n % 2 == 0 {
                    body["anonymous_id"] = json!(format!("anon_{n}"));
                }
                let request = Request::post(TOUCHPOINT).header("x-api-key", &site.client);
                let request = request.body(Body::from(body.to_string())).unwrap();
                let router = router.clone();
                asked.spawn(async move { router.oneshot(request).await.unwrap().status() });
            }
        }
        let statuses = asked.join_all().await;
        let counted = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!((counted(StatusCode::CREATED), counted(StatusCode::OK)), (40, 40), "{statuses:?}");
        assert_eq!(site.clicks(&site.ann).await, 40);
        assert_eq!(number(&site, "SELECT COUNT(*) FROM subject_link").await, 20);
    }

    async fn a_code_that_is_flooded_leaves_the_same_code_of_another_owner_alone(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let other = Site::open_on(Api::new(&db.db).await, "other", json!({})).await;
        let mut asked = JoinSet::new();
        for _ in 0..501 {
            let router = site.api.router.clone();
            let request = link(&format!("/r/{}/ann", site.project));
            asked.spawn(async move { router.oneshot(request).await.unwrap().status() });
        }
        let statuses = asked.join_all().await;
        assert!(statuses.iter().all(|status| *status == StatusCode::FOUND));
        let own = link(&format!("/r/{}/ann", other.project));
        assert_eq!(site.send(own).await.0, StatusCode::FOUND);
        // Clicks are written in order: whoever comes last is told when all are there.
        site.click("bob", "last").await;
        assert_eq!((site.clicks(&site.ann).await, site.clicks(&other.ann).await), (500, 1));
    }

    async fn an_address_that_asks_too_often_waits_and_another_does_not(db: TestDb) {
        let api = Api::with(&db.db, &[("REMIT_SERVER__TRUSTED_PROXIES", "0.0.0.0/32")]).await;
        let site = Site::open_on(api, "site", json!({})).await;
        let guess = async |from: &str| {
            let request = Request::post(TOUCHPOINT).header("x-api-key", "rk_client_0_0_0");
            let request = request.header("x-forwarded-for", from).body(Body::from("{}")).unwrap();
            site.send(request).await.0
        };
        for n in 0..600 {
            // One network of IPv6 is one client.
            assert_eq!(guess(&format!("2001:db8::{n:x}")).await, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(guess("2001:db8::ffff").await, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(guess("2001:db8:1::1").await, StatusCode::UNAUTHORIZED);
        site.api.clock.advance_secs(1);
        assert_eq!(guess("2001:db8::1").await, StatusCode::UNAUTHORIZED);
    }

    async fn an_address_that_follows_links_too_often_is_forwarded_and_not_counted(db: TestDb) {
        let api = Api::with(&db.db, &[("REMIT_SERVER__TRUSTED_PROXIES", "0.0.0.0/32")]).await;
        let site = Site::open_on(api, "site", json!({})).await;
        let follow = |code: &str, from: String| {
            let request = Request::get(format!("/r/{code}")).header("x-forwarded-for", from);
            let (router, request) = (site.api.router.clone(), request.body(Body::empty()).unwrap());
            async move { router.oneshot(request).await.unwrap().status() }
        };
        let mut asked = JoinSet::new();
        for n in 0..610 {
            // One network of IPv6 is one client, and no code is followed too often.
            asked.spawn(follow(["ann", "bob"][n % 2], format!("2001:db8::{n:x}")));
        }
        let statuses = asked.join_all().await;
        assert!(statuses.iter().all(|status| *status == StatusCode::FOUND));
        let counted = async || {
            // Clicks are written in order: whoever comes last is told when all are there.
            site.click("ann", &format!("last_{}", site.clicks(&site.ann).await)).await;
            site.clicks(&site.ann).await + site.clicks(&site.bob).await
        };
        assert_eq!(counted().await, 601);
        assert_eq!(follow("ann", "2001:db8:1::1".to_owned()).await, StatusCode::FOUND);
        assert_eq!(counted().await, 603, "another address is counted");
    }

    async fn the_owner_lists_the_clicks_of_a_program_and_nobody_else_does(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let mut clicked = Vec::new();
        for n in 0..5 {
            clicked.push(site.click(["ann", "bob"][n % 2], &format!("v{n}")).await);
            site.api.clock.advance_secs(3_600);
        }
        clicked.reverse();
        let list = async |query: &str| {
            let (status, answer) =
                site.api.call(&site.key, Method::GET, &site.path(&format!("touchpoints?{query}")), &Value::Null).await;
            assert_eq!(status, StatusCode::OK, "{query} {answer}");
            let ids: Vec<String> = answer["data"].as_array().unwrap().iter().map(id_of).collect();
            (ids, answer["next_cursor"].as_str().map(str::to_owned))
        };
        assert_eq!(list("").await.0, clicked);
        // Page by page, while somebody clicks.
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let (ids, next) = list(&format!("limit=2{cursor}")).await;
            pages.extend(ids);
            let Some(next) = next else { break };
            cursor = format!("&cursor={next}");
            site.click("ann", &format!("meanwhile_{}", pages.len())).await;
        }
        assert_eq!(pages, clicked);
        let newest = &clicked[0];
        assert_eq!(list("code=BOB").await.0, [&*clicked[1], &*clicked[3]]);
        assert_eq!(list("code=nobody").await.0, Vec::<String>::new());
        let at = site.api.app.now().plus_secs(-3_600).to_string();
        assert!(list(&format!("from={at}")).await.0.contains(newest));
        assert!(!list(&format!("to={at}")).await.0.contains(newest));
        let (_, stranger) = site.api.tenant("stranger").await;
        let (_, affiliate) = site.api.tenant("affiliate").await;
        for key in [&stranger, &affiliate, &site.client] {
            let (status, answer) = site.api.call(key, Method::GET, &site.path("touchpoints"), &Value::Null).await;
            assert!([StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&status), "{status} {answer}");
        }
        for wrong in ["%20", "0.5", "a", ""] {
            let path = site.path(&format!("touchpoints?code={wrong}"));
            let refused = site.api.refusal(&site.key, Method::GET, &path, &Value::Null).await;
            assert_eq!(refused, (400, "INVALID_CODE".to_owned()), "{wrong}");
        }
    }

    async fn forgetting_at_any_time_changes_no_sale(db: TestDb) {
        let kept = two_years(&db, "kept", false).await;
        let clicks = "SELECT COUNT(*) FROM touchpoint WHERE subject LIKE 'lean%'";
        let lean = two_years(&db, "lean", true).await;
        assert_eq!(lean, kept);
        assert!(lean.values().flatten().count() > 5 && lean.values().any(Option::is_none), "{lean:?}");
        let site = Site::open_on(Api::new(&db.db).await, "look", json!({})).await;
        let idle = "SELECT COUNT(*) FROM touchpoint WHERE subject IN ('lean_v3', 'lean_v4')";
        assert!(number(&site, idle).await <= 6, "of those who never bought, only what is young is kept");
        assert!(number(&site, clicks).await > number(&site, idle).await, "who bought is remembered");
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_nobody_needs_of_a_visitor_goes_and_the_days_stay_counted(db: TestDb) {
        let site = Site::open(&db.db, json!({"attribution_window_days": 30})).await;
        site.click("ann", "idle").await;
        let ids = json!({"anonymous_id": "idle", "subject_ref": "user_1"});
        assert_eq!(site.say(IDENTIFY, &ids).await.0, StatusCode::OK);
        site.click("bob", "buyer").await;
        site.deliver(&paid_at("pi_1", site.api.app.now(), json!({"metadata": {"user_id": "buyer"}}))).await;
        let left = async || {
            let mut left = Vec::new();
            for sql in [
                "SELECT COUNT(*) FROM touchpoint", "SELECT COUNT(*) FROM subject_link",
                "SELECT COUNT(*) FROM visitor WHERE id IN ('idle', 'user_1')",
            ] {
                left.push(number(&site, sql).await);
            }
            left
        };
        let locks = left().await[2];
        // The window of then, although it is shorter now.
        let path = format!("/v1/admin/affiliate/programs/{}", site.program);
        let shorter = json!({"attribution_window_days": 1});
        assert_eq!(site.api.call(&site.key, Method::PATCH, &path, &shorter).await.0, StatusCode::OK);
        for (days, expected) in [(430, [2, 1, locks]), (1, [1, 1, locks]), (335, [1, 0, 0])] {
            site.api.clock.advance_secs(days * 86_400);
            forget(&site).await;
            assert_eq!(left().await, expected, "{days}");
        }
        assert_eq!((site.clicks(&site.ann).await, site.clicks(&site.bob).await), (1, 1));
        fold_all(&site).await;
        assert_eq!(site.earner("pi_1").await, Some(("bob".to_owned(), "touchpoint".to_owned())));
        // They are met again as if for the first time.
        site.click("ann", "idle").await;
        assert_eq!(site.say(IDENTIFY, &ids).await.0, StatusCode::OK);
        site.deliver(&paid_at("pi_2", site.api.app.now(), json!({"metadata": {"user_id": "user_1"}}))).await;
        assert_eq!(site.earner("pi_2").await, Some(("ann".to_owned(), "touchpoint".to_owned())));
    }
}

/// How many clicks a second are written, by 64 callers at once. Says it and judges nothing.
async fn clicks_a_second(site: &Site, limits: GroupLimits, tag: &str) -> f64 {
    const CALLERS: u32 = 64;
    const EACH: u32 = 25;
    let app = &site.api.app;
    let key = client_key(&site.api, &site.project).await;
    let by = Arc::new(keys::authenticate(app, &key).await.unwrap());
    let tasks = TaskTracker::new();
    let clicks = Clicks::start(app, limits, &tasks);
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (clicks, by, tag) = (clicks.clone(), Arc::clone(&by), tag.to_owned());
        callers.spawn(async move {
            for n in 0..EACH {
                let click = NewClick {
                    code: "ann".to_owned(),
                    source: None,
                    anonymous_id: Some(format!("{tag}_{caller}_{n}")),
                    subject_ref: None,
                    occurred_at: None,
                };
                assert!(touchpoints::record(&clicks, &by, click).await.unwrap().is_new);
            }
        });
    }
    callers.join_all().await;
    f64::from(CALLERS * EACH) / started.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release --test it clicks_a_second -- --ignored --nocapture"]
async fn clicks_a_second_in_groups_and_one_by_one() {
    let sqlite = Some(TestDb::sqlite().await);
    for (engine, db, writers) in
        [("sqlite", sqlite, 1), ("postgres", TestDb::postgres(module_path!()).await, 8)]
    {
        let Some(db) = db else { continue };
        let site = Site::open(&db.db, json!({})).await;
        let alone = GroupLimits { batch_max: 1, writers, ..clicks::LIMITS };
        for round in 0..3 {
            let grouped = clicks_a_second(&site, clicks::LIMITS, &format!("g{round}")).await;
            let single = clicks_a_second(&site, alone, &format!("s{round}")).await;
            println!("{engine}: {grouped:.0} grouped, {single:.0} one by one, {:.1}x", grouped / single);
        }
    }
}
