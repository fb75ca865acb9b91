//! An owner with a website: a project with a client key, a program, affiliates `ann` and `bob`.

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use remit::{
    app::{
        keys::{self, KeyKind, NewKey, Principal},
        process, receive, refold, release,
    },
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    providers,
    store::{
        Db,
        inbox::{self, EventSource},
    },
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::api::{Api, NOW, PROGRAMS, id_of};

/// The client API's route for clicks.
pub const TOUCHPOINT: &str = "/v1/client/affiliate/touchpoint";
/// The client API's route for signing in.
pub const IDENTIFY: &str = "/v1/client/affiliate/identify";

/// The owner, behind an API whose clock stands still.
pub struct Site {
    pub api: Api,
    pub organization: String,
    pub key: String,
    pub project: String,
    pub program: String,
    pub client: String,
    pub ann: String,
    pub bob: String,
}

impl Site {
    /// With a program of 20 % without hold, whose other fields are those of `fields`.
    pub async fn open(db: &Db, fields: Value) -> Self {
        Self::open_on(Api::new(db).await, "site", fields).await
    }

    /// The same behind an API of the caller's.
    pub async fn open_on(api: Api, name: &str, fields: Value) -> Self {
        let (organization, key) = api.tenant(name).await;
        let project = json!({"organization_id": organization, "name": name});
        let project = id_of(&api.create(&key, "/v1/admin/projects", project).await);
        let client = client_key(&api, &project).await;
        let mut site = Self {
            api,
            organization,
            key,
            project,
            program: String::new(),
            client,
            ann: String::new(),
            bob: String::new(),
        };
        site.program = site.open_program(fields).await;
        let program = site.program.clone();
        site.ann = site.enroll(&program, "ann").await;
        site.bob = site.enroll(&program, "bob").await;
        site
    }

    /// One more active program of the owner.
    pub async fn open_program(&self, fields: Value) -> String {
        let mut body = json!({
            "name": "Partners", "commission": {"type": "percentage", "bps": 2000}, "status": "active",
            "hold_period_days": 0, "landing_url": "https://shop.example/welcome?a=1",
        });
        for (field, value) in fields.as_object().unwrap() {
            body[field] = value.clone();
        }
        id_of(&self.api.create(&self.key, PROGRAMS, body).await)
    }

    /// One more affiliate, with the code of that name.
    pub async fn enroll(&self, program: &str, code: &str) -> String {
        let affiliate = json!({"email": format!("{code}@example.com"), "code": code});
        id_of(&self.api.create(&self.key, &format!("{PROGRAMS}/{program}/enrollments"), affiliate).await)
    }

    /// A path below the program.
    pub fn path(&self, rest: &str) -> String {
        format!("{PROGRAMS}/{}/{rest}", self.program)
    }

    /// One request with the client key.
    pub async fn say(&self, path: &str, body: &Value) -> (StatusCode, HeaderMap, Value) {
        let request = Request::post(path).header("x-api-key", &self.client);
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// One request; the answer is null where it is not JSON.
    pub async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let response = self.api.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A click of an anonymous visitor, now; its id.
    #[track_caller]
    pub fn click<'a>(&'a self, code: &'a str, visitor: &'a str) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let body = json!({"code": code, "anonymous_id": visitor});
            let (status, _, answer) = self.say(TOUCHPOINT, &body).await;
            assert!(status.is_success(), "{caller}: {status} {answer}");
            id_of(&answer["data"])
        }
    }

    /// The report of an order of 99.00 by the subject of its buyer, with more fields.
    pub fn order(&self, external_id: &str, fields: Value) -> Value {
        let mut body =
            json!({"project_id": self.project, "external_id": external_id, "gross_amount_cents": 9_900});
        add(&mut body, fields);
        body
    }

    /// Reports an order to the program.
    pub async fn report(&self, external_id: &str, fields: Value) -> (StatusCode, Value) {
        let body = self.order(external_id, fields);
        self.api.call(&self.key, Method::POST, &self.path("conversions"), &body).await
    }

    /// Stores a Stripe event and processes it, with everything that follows from it.
    pub async fn deliver(&self, event: &Value) {
        self.receive(event).await;
        self.settle().await;
    }

    /// Stores a Stripe event.
    pub async fn receive(&self, event: &Value) {
        let stripe = providers::inbound("stripe").unwrap();
        let endpoint = receive::Endpoint {
            id: EndpointId::parse("ep_site").unwrap(),
            project_id: ProjectId::parse(&self.project).unwrap(),
            provider: stripe.name(),
            livemode: false,
            secrets: Vec::new(),
        };
        let body = event.to_string().into_bytes();
        let head = stripe.head(&body).unwrap();
        let now = self.api.app.now();
        let row = receive::new_event(&endpoint, head, body, EventSource::Webhook, now).unwrap();
        let mut tx = self.api.app.db.begin().await.unwrap();
        inbox::insert_batch(&mut tx, &[row]).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Lets every stage do what waits.
    pub async fn settle(&self) {
        while !process::step(&self.api.app).await.unwrap().is_idle() {}
        while refold::step(&self.api.app).await.unwrap() > 0 {}
        while release::step(&self.api.app).await.unwrap() > 0 {}
    }

    /// Who earns from the sale of an object, and why: the affiliate's code and `attributed_by`.
    pub async fn earner(&self, object: &str) -> Option<(String, String)> {
        const SQL: &str = "SELECT v.code, v.attributed_by FROM sale_alias a
            JOIN conversion v ON v.sale_id = a.sale_id JOIN commission c ON c.conversion_id = v.id
            WHERE a.object_id = $1 AND a.project_id = $2
                AND (c.reason IS NULL OR c.reason NOT IN ('merged', 'reattributed'))";
        let mut conn = self.api.app.db.read().await.unwrap();
        conn.q(SQL).bind(object).bind(&*self.project).one().await.unwrap()
    }

    /// The clicks that analytics sees, by enrollment.
    pub async fn clicks(&self, enrollment: &str) -> i64 {
        const SQL: &str =
            "SELECT CAST(COALESCE(SUM(clicks), 0) AS BIGINT) FROM click_day WHERE enrollment_id = $1";
        let mut conn = self.api.app.db.read().await.unwrap();
        conn.q(SQL).bind(enrollment).scalar().await.unwrap().unwrap()
    }

    /// What is held and payable of an affiliate.
    pub async fn balance(&self, enrollment: &str) -> (i64, i64) {
        let (_, answer) = self.api.call(&self.key, Method::GET, &self.path("balances"), &Value::Null).await;
        let rows = answer["data"].as_array().unwrap();
        rows.iter()
            .find(|row| row["enrollment_id"] == enrollment)
            .map_or((0, 0), |row| (row["held"].as_i64().unwrap(), row["payable"].as_i64().unwrap()))
    }
}

/// Sets fields of an object.
fn add(object: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("{fields}") };
    for (field, value) in fields {
        object[field] = value;
    }
}

/// A key for the website of a project.
pub async fn client_key(api: &Api, project: &str) -> String {
    let new = NewKey {
        kind: KeyKind::Client,
        organization_id: None,
        project_id: Some(ProjectId::parse(project).unwrap()),
        scopes: None,
        expires_at: None,
    };
    keys::create(&api.app, &Principal::console(), new).await.unwrap().text.expose_secret().to_owned()
}

/// `payment_intent.succeeded` of 100.00 dollars at a time, with fields of the intent.
pub fn paid_at(intent: &str, at: Timestamp, fields: Value) -> Value {
    let mut object = json!({
        "id": intent, "object": "payment_intent", "amount": 10_000, "amount_received": 10_000,
        "currency": "usd", "status": "succeeded", "metadata": {}, "customer": null,
    });
    add(&mut object, fields);
    json!({
        "id": format!("evt_{intent}"), "object": "event", "type": "payment_intent.succeeded",
        "created": at.as_secs(), "livemode": false, "data": {"object": object},
    })
}

/// The same, now.
pub fn paid(intent: &str, fields: Value) -> Value {
    paid_at(intent, NOW, fields)
}
