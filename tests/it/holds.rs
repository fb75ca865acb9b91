//! For how long a commission is held where its report says so: a fact like the amount, and no decision.

use axum::http::{Method, StatusCode};
use remit::{app::report::Report, domain::money::Currency};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{Api, MASTER_KEY, PROGRAMS},
    books,
    node::Node,
    on_each_engine,
    shop::intent,
    site::Site,
};

const DAY_S: i64 = 86_400;

/// Nothing is held by anybody but a report: no hold of the program's, and no grace for late links.
async fn open(db: &TestDb) -> Site {
    let env = [("REMIT_SECRETS__MASTER_KEY", MASTER_KEY), ("REMIT_PROGRAMS__MERGE_GRACE_S", "0")];
    Site::open_on(Api::with(&db.db, &env).await, "site", json!({"hold_period_days": 0})).await
}

/// When each commission that is held falls due, days after its payment.
async fn held_days(site: &Site) -> Vec<i64> {
    const SQL: &str = "SELECT due_at_us - paid_at_us FROM commission WHERE due_at_us IS NOT NULL ORDER BY 1";
    let held: Vec<i64> = site.api.app.db.read().await.unwrap().q(SQL).scalars().await.unwrap();
    held.into_iter().map(|micros| micros / 1_000_000 / DAY_S).collect()
}

async fn hold_decisions(site: &Site) -> i64 {
    const SQL: &str = "SELECT COUNT(*) FROM decision WHERE kind = 'hold_period'";
    site.api.app.db.read().await.unwrap().q(SQL).scalar().await.unwrap().unwrap()
}

/// The provider's webhook of the order, with ann's code.
fn webhook(site: &Site, order: &str) -> Value {
    let mut event = intent(order, 9_900, None);
    event["data"]["object"]["metadata"] = json!({"referral_code": "ann", "remit_external_id": order});
    event["created"] = json!(site.api.app.now().as_secs());
    event
}

on_each_engine! {
    async fn a_report_holds_its_commission_where_program_and_grace_hold_nothing(db: TestDb) {
        let site = open(&db).await;
        let (status, answer) = site.report("order_1", json!({"code": "ann", "hold_period_days": 3})).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        assert_eq!(site.balance(&site.ann).await, (1_980, 0));
        assert_eq!((held_days(&site).await, hold_decisions(&site).await), (vec![3], 0));
        // The webhook of the same order does not end it, and neither does a report without a hold.
        site.deliver(&webhook(&site, "order_1")).await;
        site.report("order_1", json!({"code": "ann"})).await;
        assert_eq!((site.balance(&site.ann).await, held_days(&site).await), ((1_980, 0), vec![3]));
        // Nor that it belongs to somebody else of the program.
        let sale: Option<String> = db.db.read().await.unwrap().q("SELECT id FROM sale").scalar().await.unwrap();
        let to_bob = json!({"enrollment_id": site.bob, "reason": "it was bob"});
        let path = format!("/v1/admin/sales/{}/attribution", sale.unwrap());
        let (status, answer) = site.api.call(&site.key, Method::POST, &path, &to_bob).await;
        assert!(status.is_success(), "{answer}");
        assert_eq!((site.balance(&site.bob).await, held_days(&site).await), ((1_980, 0), vec![3]));
        site.api.clock.advance_secs(3 * DAY_S - 1);
        site.settle().await;
        assert_eq!(site.balance(&site.bob).await, (1_980, 0));
        site.api.clock.advance_secs(1);
        site.settle().await;
        assert_eq!(site.balance(&site.bob).await, (0, 1_980));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_hold_that_is_reported_too_late_is_refused_and_takes_nothing_back(db: TestDb) {
        let site = open(&db).await;
        site.deliver(&webhook(&site, "order_1")).await;
        assert_eq!(site.balance(&site.ann).await, (0, 1_980));
        let report = async || site.report("order_1", json!({"code": "ann", "hold_period_days": 3})).await;
        for _ in 0..2 {
            let (status, answer) = report().await;
            assert_eq!((status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("INVALID_STATE")));
            assert_eq!(site.balance(&site.ann).await, (0, 1_980));
        }
        // Once the hold would be over, nothing is too late any more.
        site.api.clock.advance_secs(3 * DAY_S);
        assert_eq!(report().await.0, StatusCode::CREATED);
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_a_person_said_about_the_hold_is_no_business_of_the_report(db: TestDb) {
        let site = open(&db).await;
        let report = async || site.report("order_1", json!({"code": "ann", "hold_period_days": 30})).await;
        let (_, answer) = report().await;
        let path = site.path(&format!("conversions/{}/hold-period", answer["data"]["id"].as_str().unwrap()));
        let (status, answer) = site.api.call(&site.key, Method::PUT, &path, &json!({"hold_period_days": 0})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(site.balance(&site.ann).await, (0, 1_980));
        assert_eq!(report().await.0, StatusCode::CREATED, "it is payable because somebody said so");
    }

    async fn the_hold_of_a_report_to_another_program_is_that_ones(db: TestDb) {
        let site = open(&db).await;
        let other = site.open_program(json!({"hold_period_days": 0})).await;
        site.enroll(&other, "cid").await;
        let body = site.order("order_1", json!({"code": "cid", "hold_period_days": 9}));
        let path = format!("{PROGRAMS}/{other}/conversions");
        let (status, _) = site.api.call(&site.key, Method::POST, &path, &body).await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(held_days(&site).await, [9]);
        site.api.clock.advance_secs(1);
        // Ann's program was told the same order without a hold; by hand the sale becomes hers.
        let (_, answer) = site.report("order_1", json!({"code": "ann"})).await;
        assert_eq!(answer["error"]["code"], "ALREADY_ATTRIBUTED");
        let sale: Option<String> = db.db.read().await.unwrap().q("SELECT id FROM sale").scalar().await.unwrap();
        let to_ann = json!({"enrollment_id": site.ann, "reason": "it was ann"});
        let path = format!("/v1/admin/sales/{}/attribution", sale.unwrap());
        site.api.call(&site.key, Method::POST, &path, &to_ann).await;
        assert_eq!((held_days(&site).await, site.balance(&site.ann).await), (vec![], (0, 1_980)));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_report_out_of_an_archive_is_a_sale_though_its_program_is_not_in_this_database(db: TestDb) {
        let site = open(&db).await;
        let node = Node { app: site.api.app.clone(), clock: site.api.clock.clone() };
        let report = Report {
            external_id: "order_1".to_owned(),
            code: Some("ann".to_owned()),
            subject_ref: None,
            program_id: Some("prog_of_the_database_that_was_lost".to_owned()),
            gross_amount_cents: 9_900,
            tax_cents: None,
            currency: Currency::USD,
            occurred_at: site.api.app.now(),
            customer: None,
            hold_period_days: Some(9),
        };
        node.receive_report(&site.project, &site.project, &serde_json::to_vec(&report).unwrap()).await;
        site.settle().await;
        // How long a program that is not here would have held it is nobody's question.
        assert_eq!((site.balance(&site.ann).await, held_days(&site).await), ((0, 1_980), vec![]));
        books::assert_they_add_up(&db.db).await;
    }

    async fn a_sale_whose_terms_give_nothing_is_reported_as_a_conversion_of_nothing(db: TestDb) {
        let site = Site::open(&db.db, json!({"commission": {"type": "percentage", "bps": 0}})).await;
        site.click("ann", "v").await;
        for (order, fields) in [("order_1", json!({"code": "ann"})), ("order_2", json!({"subject_ref": "v"}))] {
            let (status, answer) = site.report(order, fields.clone()).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
            let shown = &answer["data"];
            assert_eq!((&shown["enrollment_id"], &shown["earned_minor"]), (&json!(site.ann), &json!(0)));
            let (_, again) = site.report(order, fields).await;
            assert_eq!(again["data"]["id"], shown["id"]);
            let path = format!("/v1/admin/commissions/{}/explain", shown["commission_id"].as_str().unwrap());
            let (status, explained) = site.api.call(&site.key, Method::GET, &path, &Value::Null).await;
            assert_eq!(status, StatusCode::OK);
            assert!(explained["data"]["steps"].to_string().contains("9900 × 0 basis points"), "{explained}");
        }
        assert_eq!(site.balance(&site.ann).await, (0, 0));
        books::assert_they_add_up(&db.db).await;
    }
}
