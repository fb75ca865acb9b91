//! Every list of the description is read in pages while rows come in: what was there when the first page was
//! read is shown once, in its order. A list that is added is covered by being described; a path that this file
//! cannot make up, and a list that stays too short to have pages, fail the test.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use serde_json::{Value, json};

use crate::support::{
    TestDb,
    api::{MASTER_KEY, PROGRAMS, id_of},
    desk::Desk,
    on_each_engine,
    site::{TOUCHPOINT, client_key},
    till::{Till, sale},
};

/// Ada is owed something in each.
const CURRENCIES: [&str; 6] = ["usd", "eur", "gbp", "chf", "sek", "nok"];

/// Rows that a list needs to be read in three pages.
const ROWS: usize = 3;

/// A shop where everything that is listed becomes more.
struct World {
    till: Till,
    desk: Desk,
    client: String,
    /// A payout of several lots.
    payout: String,
    grown: usize,
}

impl World {
    async fn open(db: &TestDb) -> Self {
        let settings = [
            ("REMIT_PAYOUTS__LIVE", "true"),
            ("REMIT_STRIPE__SECRET_KEY", "sk_test_till"),
            ("REMIT_SECRETS__MASTER_KEY", MASTER_KEY),
        ];
        let till = Till::open_with(db, &json!({}), &settings).await;
        let desk = Desk::over(&till.shop).await;
        let client = client_key(&desk.api, &till.shop.owner.project()).await;
        let sales: Vec<String> = (0..ROWS).map(|number| format!("lot{number}")).collect();
        let sales: Vec<_> = sales.iter().map(|id| ("ada", id.as_str(), 1_000, "usd")).collect();
        till.earn(&sales).await;
        let payout = till.settle().await.payouts[0].id.as_ref().unwrap().to_string();
        let mut world = Self { till, desk, client, payout, grown: 0 };
        for _ in 0..ROWS {
            world.grow().await;
        }
        world
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        self.desk.api.create(&self.desk.api.operator, path, body).await
    }

    /// One row more in every list but that of the payout's lots.
    async fn grow(&mut self) {
        self.grown += 1;
        let (n, desk, owner) = (self.grown, &self.desk, &self.till.shop.owner);
        desk.api.clock.advance_secs(1);
        let organization =
            id_of(&self.create("/v1/admin/organizations", json!({ "name": format!("O{n}") })).await);
        self.create("/v1/admin/keys", json!({ "kind": "organization", "organization_id": organization }))
            .await;
        self.create("/v1/admin/projects", json!({ "organization_id": organization, "name": "Site" })).await;
        let endpoint =
            json!({ "provider": "stripe", "secrets": [format!("whsec_{n:08}")], "livemode": false });
        self.create(&format!("/v1/admin/projects/{}/endpoints", owner.project()), endpoint).await;

        let commission = json!({ "type": "percentage", "bps": 2_000 + n });
        let program = json!({
            "owner_organization_id": organization, "name": format!("P{n}"), "status": "active",
            "commission": commission,
        });
        let program = id_of(&self.create(PROGRAMS, program).await);
        let ada = json!({ "affiliate_org_id": owner.id("org_", "ada") });
        self.create(&format!("{PROGRAMS}/{program}/invites"), ada).await;
        let terms = json!({ "commission": commission });
        let (status, answer) = desk.api.call(&desk.api.operator, Method::PATCH, &desk.program, &terms).await;
        assert_eq!(status, StatusCode::OK, "{answer}");

        let code = format!("new{n}");
        let enrolled = json!({ "email": format!("{code}@example.com"), "code": code });
        self.create(&format!("{}/enrollments", desk.program), enrolled).await;
        let of_ada = format!("{}/enrollments/{}/codes", desk.program, self.till.enrollment("ada"));
        self.create(&of_ada, json!({ "code": format!("ada{n}"), "kind": "coupon" })).await;
        let click = json!({ "code": code, "anonymous_id": format!("anon_{n}") }).to_string();
        let click =
            Request::post(TOUCHPOINT).header("x-api-key", &self.client).body(Body::from(click)).unwrap();
        let told = tower::ServiceExt::oneshot(desk.api.router.clone(), click).await.unwrap();
        assert_eq!(told.status(), StatusCode::CREATED);

        let currency = CURRENCIES[n % CURRENCIES.len()];
        let (dollars, other, new) = (format!("d{n}"), format!("o{n}"), format!("n{n}"));
        let sales = [
            ("ada", &*dollars, 1_000, "usd"),
            ("ada", &other, 1_000, currency),
            (&*code, &new, 1_000, "usd"),
        ];
        self.till.earn(&sales).await;
        // Nobody's code: a finding.
        let unknown = format!("u{n}");
        self.till.shop.tell_and_process(&[sale(&format!("nobody{n}"), &unknown, 1_000, "usd")]).await;
        self.till.settle().await;
    }

    /// A path with the ids of this shop.
    fn path(&self, template: &str) -> String {
        let mut path = String::new();
        let mut last = "";
        for part in template.split('/').skip(1) {
            path.push('/');
            match part {
                "{program_id}" => path.push_str(self.till.program().as_str()),
                "{project_id}" => path.push_str(&self.till.shop.owner.project()),
                "{payout_id}" => path.push_str(&self.payout),
                "{id}" if last == "enrollments" => path.push_str(self.till.enrollment("ada").as_str()),
                id if id.starts_with('{') => panic!("{template}: which {id}?"),
                fixed => path.push_str(fixed),
            }
            last = part;
        }
        path
    }
}

/// The paths of all lists: what answers `data`, an array, with a cursor.
async fn lists(desk: &Desk) -> Vec<String> {
    let (_, document) = desk.api.call("", Method::GET, "/openapi.json", &Value::Null).await;
    let is_list = |methods: &Value| {
        let schema = &methods["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let schema = schema["$ref"].as_str().map_or(schema, |name| document.pointer(&name[1..]).unwrap());
        let fields = &schema["properties"];
        fields["data"]["type"] == "array" && fields.get("next_cursor").is_some()
    };
    let paths = document["paths"].as_object().unwrap().iter();
    paths.filter(|(_, methods)| is_list(methods)).map(|(path, _)| path.clone()).collect()
}

/// What tells a row from the others of its list.
fn name(row: &Value) -> String {
    if let Some(id) = row["id"].as_str() {
        return id.to_owned();
    }
    let fields = ["lot_id", "version", "code", "enrollment_id", "currency"];
    let fields: Vec<&Value> = fields.iter().filter_map(|field| row.get(field)).collect();
    assert!(!fields.is_empty(), "how is this row told from the others? {row}");
    json!(fields).to_string()
}

fn names(rows: &[Value]) -> Vec<String> {
    rows.iter().map(name).collect()
}

on_each_engine! {
    async fn every_list_is_stable_while_rows_come_in(db: TestDb) {
        let mut world = World::open(&db).await;
        let lists = lists(&world.desk).await;
        assert!(lists.len() > 20, "the lists are where the test looks: {lists:?}");
        for template in lists {
            let path = world.path(&template);
            let is_adas = path.starts_with("/v1/affiliate/");
            let key = if is_adas { world.desk.ada.clone() } else { world.desk.api.operator.clone() };
            let before = names(&world.desk.pages(&key, &path, 100, async |_| ()).await);
            assert!(before.len() >= ROWS, "{template} has {} rows", before.len());
            let limit = before.len().div_ceil(ROWS);
            // The same as `Desk::pages`, which would hold the desk while the world grows.
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let mut page = world.desk.get(&key, &format!("{path}?limit={limit}{cursor}")).await;
                seen.append(&mut names(page["data"].take().as_array().unwrap()));
                let Some(next) = page["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
                if seen.len() < before.len() {
                    world.grow().await;
                }
            }
            let known: Vec<&String> = seen.iter().filter(|name| before.contains(name)).collect();
            assert_eq!(known, before.iter().collect::<Vec<_>>(), "{template}");
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "{template} shows a row twice");
        }
    }
}
