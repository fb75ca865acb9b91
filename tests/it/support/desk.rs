//! The API over a shop's node, as its owner and its affiliates read it.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        clicks::{self, Clicks},
        keys::KeyKind,
    },
    domain::ids::OrganizationId,
    http::{self, edge, openapi},
    store::Db,
};
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::{
    api::{self, Api, PROGRAMS},
    shop::Shop,
};

/// The API with a key of each side.
pub struct Desk {
    /// The API.
    pub api: Api,
    /// The owner's key.
    pub owner: String,
    /// Ada's key.
    pub ada: String,
    /// Bob's key.
    pub bob: String,
    /// The path of the program.
    pub program: String,
}

impl Desk {
    /// The API over the node of a shop.
    pub async fn over(shop: &Shop) -> Self {
        let app = shop.node.app.clone();
        let router = super::api::public(&app).await;
        let operator = api::key(&app, KeyKind::Operator, None).await;
        let organization = |id: &str| OrganizationId::parse(id).unwrap();
        let owner_id = shop.owner.id("org_", "").trim_end_matches('-').to_owned();
        let mut keys = Vec::new();
        for id in [owner_id, shop.owner.id("org_", "ada"), shop.owner.id("org_", "bob")] {
            keys.push(api::key(&app, KeyKind::Organization, Some(organization(&id))).await);
        }
        let [owner, ada, bob] = keys.try_into().unwrap();
        let program = format!("{PROGRAMS}/{}", shop.owner.id("prog_", "fifth"));
        Self { api: Api { app, clock: shop.node.clock.clone(), router, operator }, owner, ada, bob, program }
    }

    /// The whole answer to a `GET`, which must succeed.
    #[track_caller]
    pub fn get<'a>(&'a self, key: &'a str, path: &'a str) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let (status, answer) = self.api.call(key, Method::GET, path, &Value::Null).await;
            assert_eq!(status, StatusCode::OK, "{caller}: {path}: {answer}");
            answer
        }
    }

    /// The `data` of an answer.
    #[track_caller]
    pub fn data<'a>(&'a self, key: &'a str, path: &'a str) -> impl Future<Output = Value> + 'a {
        let found = self.get(key, path);
        async move { found.await["data"].take() }
    }

    /// The status and code of a refused `GET`.
    pub async fn refusal(&self, key: &str, path: &str) -> (u16, String) {
        self.api.refusal(key, Method::GET, path, &Value::Null).await
    }

    /// The rows of a list, read in pages of `limit`; `between` is done after each page.
    pub async fn pages(
        &self,
        key: &str,
        path: &str,
        limit: usize,
        mut between: impl AsyncFnMut(usize),
    ) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut rows, mut cursor, mut number) = (Vec::new(), String::new(), 0);
        loop {
            let mut page = self.get(key, &format!("{path}{join}limit={limit}{cursor}")).await;
            let data = page["data"].take();
            let shown = data.as_array().or_else(|| data["lines"].as_array()).unwrap();
            assert!(shown.len() <= limit, "{path}");
            rows.extend(shown.iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { return rows };
            cursor = format!("&cursor={next}");
            number += 1;
            between(number).await;
        }
    }

    /// An answer whose body is still to be written while it is read. It is not held against the description,
    /// for which it would have to be read to its end first.
    pub async fn stream(&self, key: &str, path: &str) -> Response {
        let request = Request::get(path)
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        let clicks = Clicks::start(&self.api.app, clicks::LIMITS, &TaskTracker::new());
        let routes = openapi::described(http::api(&self.api.app, &clicks));
        edge(routes, &TaskTracker::new()).oneshot(request).await.unwrap()
    }

    /// An answer whose body is still to be read.
    pub async fn open(&self, key: &str, path: &str) -> Response {
        let request = Request::get(path)
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header("x-request-id", "the-same")
            .body(Body::empty())
            .unwrap();
        self.api.router.clone().oneshot(request).await.unwrap()
    }

    /// The status and the text of an answer.
    pub async fn text(&self, key: &str, path: &str) -> (StatusCode, String) {
        let response = self.open(key, path).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

/// A line of CSV for each row, as the values of its columns.
pub fn csv_rows(text: &str) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.unwrap();
        names.iter().cloned().zip(record.iter().map(str::to_owned)).collect()
    };
    reader.records().map(row).collect()
}

/// A value of JSON as a cell of CSV shows it, but for text that looks like a formula.
pub fn as_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Clicks on an enrollment's links on a day.
pub async fn click(db: &Db, program: &str, enrollment: &str, day: i64, clicks: i64) {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS click_day (program_id TEXT NOT NULL,
        enrollment_id TEXT NOT NULL, day BIGINT NOT NULL, clicks BIGINT NOT NULL,
        PRIMARY KEY (program_id, enrollment_id, day))";
    const SQL: &str =
        "INSERT INTO click_day (program_id, enrollment_id, day, clicks) VALUES ($1, $2, $3, $4)";
    let mut tx = db.begin().await.unwrap();
    tx.q(TABLE).exec().await.unwrap();
    if clicks > 0 {
        tx.q(SQL).bind(program).bind(enrollment).bind(day).bind(clicks).exec().await.unwrap();
    }
    tx.commit().await.unwrap();
}
