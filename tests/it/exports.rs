//! Files of a program's rows: what the lists show, whole or visibly broken off.

use axum::http::header;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::support::{
    TestDb,
    api::{Api, PROGRAMS, id_of},
    desk::{Desk, as_cell, csv_rows},
    on_each_engine,
    shop::Shop,
    till::{Till, sale},
};

/// Rows of a file with one object per line.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Many sales of ada's, told at once.
async fn sell(shop: &Shop, prefix: &str, count: usize) {
    let bodies = (0..count).map(|number| sale("ada", &format!("{prefix}{number}"), 1_000, "usd").to_string());
    let (project, endpoint) = (shop.owner.project(), shop.owner.endpoint("a"));
    shop.node.receive_all(&project, &endpoint, "stripe", bodies.map(String::into_bytes).collect()).await;
    shop.node.process_all().await;
}

on_each_engine! {
    async fn files_have_the_rows_fields_and_values_of_the_lists(db: TestDb) {
        let till = Till::open(&db).await;
        let desk = Desk::over(&till.shop).await;
        till.earn(&[("ada", "1", 1_000, "usd"), ("bob", "2", 2_000, "eur"), ("ada", "3", 5, "jpy")]).await;
        till.settle().await;
        till.earn(&[("bob", "4", 3_000, "usd")]).await;
        for what in ["conversions", "commissions", "payouts"] {
            let listed = desk.pages(&desk.owner, &format!("{}/{what}", desk.program), 2, async |_| ()).await;
            assert!(listed.len() >= 2, "{what}");
            let path = format!("{}/exports/{what}", desk.program);
            let (_, ndjson) = desk.text(&desk.owner, &format!("{path}?format=ndjson")).await;
            assert_eq!(lines(&ndjson), listed, "{what}");
            let (_, csv) = desk.text(&desk.owner, &path).await;
            let rows = csv_rows(&csv);
            assert_eq!(rows.len(), listed.len(), "{what}");
            for (row, listed) in rows.iter().zip(&listed) {
                assert_eq!(row.len(), listed.as_object().unwrap().len(), "{what}");
                for (name, cell) in row {
                    assert_eq!(*cell, as_cell(&listed[name]), "{what}.{name}");
                }
            }
        }
        let response = desk.open(&desk.owner, &format!("{}/exports/payouts", desk.program)).await;
        let name = format!("attachment; filename=\"payouts-{}.csv\"", till.program());
        assert_eq!(response.headers()[header::CONTENT_DISPOSITION], *name);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
        for (query, code) in
            [("format=xml", "INVALID_FORMAT"), ("from=x", "INVALID_FROM"), ("to=x", "INVALID_TO")]
        {
            let refused = desk.refusal(&desk.owner, &format!("{}/exports/payouts?{query}", desk.program)).await;
            assert_eq!(refused, (400, code.to_owned()));
        }
    }

    async fn files_one_after_another_hold_every_row_once(db: TestDb) {
        let shop = Shop::open(&db.db, 64).await;
        let desk = Desk::over(&shop).await;
        for number in 0..6 {
            shop.tell_and_process(&[sale("ada", &number.to_string(), 1_000, "usd")]).await;
            shop.node.clock.advance_secs(6 * 3_600);
        }
        let ids = async |query: &str| {
            let path = format!("{}/exports/commissions?format=ndjson{query}", desk.program);
            let (_, text) = desk.text(&desk.owner, &path).await;
            lines(&text).iter().map(id_of).collect::<Vec<String>>()
        };
        let all = ids("").await;
        assert_eq!(all.len(), 6);
        let parts = [
            ids("&from=2026-01-02").await,
            ids("&from=2026-01-01T06:00:00Z&to=2026-01-02").await,
            ids("&to=2026-01-01T06:00:00Z").await,
        ];
        assert_eq!(parts.each_ref().map(Vec::len), [2, 3, 1], "the start is part of it and the end is not");
        assert_eq!(parts.concat(), all);
    }

    async fn a_long_file_is_read_in_pages_that_nothing_shifts(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let desk = Desk::over(&shop).await;
        sell(&shop, "old", 1_203).await;
        let path = format!("{}/exports/conversions?format=ndjson", desk.program);
        shop.node.clock.advance_secs(1);
        let mut body = desk.stream(&desk.owner, &path).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        shop.node.clock.advance_secs(1);
        sell(&shop, "new", 40).await;
        let rest = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8([first, rest].concat()).unwrap();
        let mut ids: Vec<String> = lines(&text).iter().map(id_of).collect();
        assert_eq!(ids.len(), 1_203);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 1_203, "nothing comes twice");
    }

    async fn a_file_that_cannot_be_finished_breaks_off(db: TestDb) {
        let shop = Shop::open(&db.db, 512).await;
        let desk = Desk::over(&shop).await;
        sell(&shop, "s", 1_700).await;
        let path = format!("{}/exports/commissions?format=ndjson", desk.program);
        let mut body = desk.stream(&desk.owner, &path).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.split(|byte| *byte == b'\n').count(), 501);
        // The writer is at most two pages ahead of the reader.
        db.db.close().await;
        assert!(body.collect().await.is_err(), "what is missing must not look like the end");
    }

    async fn an_order_that_looks_like_a_formula_is_text_in_the_file(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (organization, key) = api.tenant("shop").await;
        let project = json!({"organization_id": organization, "name": "shop"});
        let project = id_of(&api.create(&key, "/v1/admin/projects", project).await);
        let program = api.program(&key).await;
        let affiliate = json!({"email": "ann@example.com", "code": "ann"});
        api.create(&key, &format!("{PROGRAMS}/{program}/enrollments"), affiliate).await;
        let report = json!({"project_id": project, "external_id": "=HYPERLINK(\"x\")", "code": "ann", "gross_amount_cents": 9_900});
        let reported = api.create(&key, &format!("{PROGRAMS}/{program}/conversions"), report).await;
        assert_eq!(reported["external_id"], "=HYPERLINK(\"x\")");
        let request = axum::http::Request::get(format!("{PROGRAMS}/{program}/exports/conversions"))
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(axum::body::Body::empty())
            .unwrap();
        let response = tower::ServiceExt::oneshot(api.router.clone(), request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let rows = csv_rows(std::str::from_utf8(&bytes).unwrap());
        let cell = rows[0].iter().find(|(name, _)| name == "external_id").unwrap();
        assert_eq!(cell.1, "'=HYPERLINK(\"x\")");
    }
}
