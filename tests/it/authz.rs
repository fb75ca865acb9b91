//! Who may reach what, for every route of the description: no answer to a stranger differs between an
//! object of somebody else's and one that does not exist, and nothing of a tenant's is ever in an answer
//! to another. A route that is added is covered by being described; an id or a body that this file does
//! not know how to make up fails the test, with what to add.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use remit::{app::keys::KeyKind, domain::ids::OrganizationId};
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{self, Api, PROGRAMS, id_of},
    bank::Bank,
    described::Description,
    on_each_engine,
    shop::{charge, stripe},
};

/// Is in everything that belongs to the owner or to ada, and in nothing else.
const CANARY: &str = "canary-7f3a";

/// A payout of ada's account to her bank, and its amount.
const BANK_PAYOUT: &str = "po_ToTheBank";
const INCOME: i64 = 7_654_321;

/// Of fields of which one must be given the one that is, where the description says that all are
/// optional: route, field, value.
const CHOICES: &[(&str, &str, &str)] = &[
    ("createEnrollment", "email", r#""mine@example.com""#),
    ("createInvite", "email", r#""mine@example.com""#),
    ("attributeSale", "code", r#""mine""#),
    ("resolveJob", "not_executed", "true"),
];

/// Whoever calls.
struct Caller {
    name: &'static str,
    key: Option<String>,
}

struct Matrix {
    api: Api,
    description: Arc<Description>,
    callers: Vec<Caller>,
    /// A key of ada's, who owns what the routes for affiliates show.
    ada: String,
    /// The kind of the path's part before an id, and the id of such an object of the owner's.
    objects: Vec<(&'static str, String)>,
}

/// What a caller got.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    /// Without the id of the request.
    body: String,
}

/// One route of the description.
struct Route<'a> {
    method: &'a str,
    template: &'a str,
    operation: &'a Value,
}

impl Route<'_> {
    fn is_public(&self) -> bool {
        self.operation["security"] == json!([])
    }

    fn is_for(&self, scheme: &str) -> bool {
        self.operation["security"].as_array().is_some_and(|all| all.iter().all(|one| one[scheme].is_array()))
    }

    fn names_an_object(&self) -> bool {
        self.template.contains('{') || self.needed().next().is_some()
    }

    /// The parameters of the query that must be there.
    fn needed(&self) -> impl Iterator<Item = &str> {
        let parameters = self.operation["parameters"].as_array().into_iter().flatten();
        parameters
            .filter(|parameter| parameter["in"] == "query" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap())
    }

    fn is_for_affiliates(&self) -> bool {
        self.template.starts_with("/v1/affiliate/me/")
    }
}

impl Matrix {
    async fn open(db: &TestDb) -> (Bank, Self) {
        let bank = Bank::open_with(db, &[("REMIT_SECRETS__MASTER_KEY", api::MASTER_KEY)]).await;
        let app = bank.shop.node.app.clone();
        let operator = api::key(&app, KeyKind::Operator, None).await;
        let router = api::public(&app).await;
        let api = Api { router, clock: bank.shop.node.clock.clone(), operator: operator.clone(), app };
        let objects = objects(&bank, &api).await;
        let (_, other_owner) = api.tenant("Another owner").await;
        let (stranger, strangers_key) = api.tenant("A third owner").await;
        let project = json!({"organization_id": stranger, "name": "Shop of the third owner"});
        let project = api.create(&strangers_key, "/v1/admin/projects", project).await;
        let client = json!({"kind": "client", "project_id": project["id"]});
        let client = api.create(&strangers_key, "/v1/admin/keys", client).await;
        let peer = OrganizationId::parse(&bank.shop.owner.id("org_", "bob")).unwrap();
        let peer = api::key(&api.app, KeyKind::Organization, Some(peer)).await;
        let ada = OrganizationId::parse(&bank.shop.owner.id("org_", "ada")).unwrap();
        let ada = api::key(&api.app, KeyKind::Organization, Some(ada)).await;
        let callers = vec![
            Caller { name: "nobody", key: None },
            Caller {
                name: "a client key of another project",
                key: client["key"].as_str().map(str::to_owned),
            },
            Caller { name: "a peer", key: Some(peer) },
            Caller { name: "another owner", key: Some(other_owner) },
            Caller { name: "an operator", key: Some(operator) },
        ];
        let description = Description::of(&api.router).await;
        (bank, Self { api, description, callers, ada, objects })
    }

    fn routes(&self) -> Vec<Route<'_>> {
        let paths = self.description.document["paths"].as_object().unwrap();
        let routes = paths.iter().flat_map(|(template, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| Route { method, template, operation })
        });
        routes.collect()
    }

    /// The path with an object of the owner's, and with one of the same kind that does not exist.
    fn paths(&self, route: &Route<'_>) -> (String, String) {
        let template = route.template;
        let mut before = "";
        let (mut existing, mut missing) = (Vec::new(), Vec::new());
        for part in template.split('/') {
            if part.starts_with('{') {
                // Links name no kind.
                let kind = match part {
                    "{code}" => "codes",
                    "{project_id}" => "projects",
                    _ => before,
                };
                let found = self.objects.iter().find(|(of, _)| *of == kind);
                let (_, id) =
                    found.unwrap_or_else(|| panic!("{template}: add an object for `{before}/{part}`"));
                let prefix = id.split_once('_').map_or("code", |(prefix, _)| prefix);
                existing.push(id.clone());
                missing.push(format!("{prefix}_none"));
            } else {
                existing.push(part.to_owned());
                missing.push(part.to_owned());
            }
            before = part;
        }
        let (mut existing, mut missing) = (existing.join("/"), missing.join("/"));
        for (place, name) in route.needed().enumerate() {
            let mark = if place == 0 { '?' } else { '&' };
            let (own, none) = match name {
                "enrollment_id" => (self.object("enrollments"), "par_none".to_owned()),
                "currency" => ("usd".to_owned(), "usd".to_owned()),
                _ => panic!("{template}: add an example for the parameter {name}"),
            };
            existing = format!("{existing}{mark}{name}={own}");
            missing = format!("{missing}{mark}{name}={none}");
        }
        (existing, missing)
    }

    fn object(&self, kind: &str) -> String {
        self.objects.iter().find(|(of, _)| *of == kind).unwrap().1.clone()
    }

    /// The smallest body that the description allows.
    fn body(&self, route: &Route<'_>) -> Option<Value> {
        let schema = &route.operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            return None;
        }
        let mut body = self.example(schema, "");
        let name = route.operation["operationId"].as_str().unwrap();
        for (_, field, value) in CHOICES.iter().filter(|(of, ..)| *of == name) {
            body[*field] = serde_json::from_str(value).unwrap();
        }
        let at = format!("an example for {} {}", route.method, route.template);
        self.description.assert_fits(&at, &self.description.document, schema.clone(), &body);
        Some(body)
    }

    fn example(&self, schema: &Value, field: &str) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.example(self.description.document.pointer(&reference[1..]).unwrap(), field);
        }
        if let Some(first) = schema["enum"].as_array() {
            return first[0].clone();
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            return self.example(&choices[0], field);
        }
        let word = |text: &str| Value::from(text);
        let object = |kind| Value::from(self.object(kind));
        match field {
            "organization_id" => return object("organizations"),
            "project_id" => return object("projects"),
            "program_id" => return object("programs"),
            "provider" => return word("stripe"),
            "account_id" => return word("acct_1"),
            "secrets" => return json!(["whsec_12345678"]),
            "currency" => return word("usd"),
            "email" => return word("mine@example.com"),
            _ => {}
        }
        match schema["type"].as_str() {
            Some("object") => {
                let needed = schema["required"].as_array().into_iter().flatten();
                let needed = needed.map(|name| name.as_str().unwrap());
                let fields: Map<String, Value> = needed
                    .map(|name| (name.to_owned(), self.example(&schema["properties"][name], name)))
                    .collect();
                Value::Object(fields)
            }
            Some("array") => json!([self.example(&schema["items"], field)]),
            Some("integer") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
            Some("boolean") => json!(true),
            _ => word("mine"),
        }
    }

    async fn ask(&self, route: &Route<'_>, path: &str, key: Option<&str>) -> Answer {
        let mut request = Request::builder().method(route.method.to_uppercase().as_str()).uri(path);
        if let Some(key) = key {
            request = if route.is_for("clientKey") {
                request.header("x-api-key", key)
            } else {
                request.header(header::AUTHORIZATION, format!("Bearer {key}"))
            };
        }
        let body = self.body(route).map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.api.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let mut body = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(mut document) = serde_json::from_slice::<Value>(&bytes)
            && document["error"].is_object()
        {
            document["error"]["request_id"] = Value::Null;
            body = document.to_string();
        }
        Answer { status, body }
    }
}

/// Something of everything that the owner and ada have, with the canary wherever text can be.
async fn objects(bank: &Bank, api: &Api) -> Vec<(&'static str, String)> {
    let key = &api.operator;
    for sql in [
        "UPDATE organization SET name = name || ' canary-7f3a', email = id || '@canary-7f3a.example'
            WHERE id IN ('org_shop', 'org_shop-ada')",
        "UPDATE program SET landing_url = 'https://shop.example/'",
        "UPDATE project SET name = name || ' canary-7f3a' WHERE organization_id = 'org_shop'",
        "UPDATE payout_account SET account_id = 'acct_canary-7f3a' WHERE organization_id = 'org_shop-ada'",
    ] {
        bank.change(sql).await;
    }
    let mut sale = charge("one", 10_000, None);
    sale["data"]["object"]["metadata"] = json!({"referral_code": "ada"});
    bank.shop.tell_and_process(&[sale]).await;
    bank.shop.pass_grace().await;
    bank.pass_time().await;
    let (program, project) = (bank.shop.owner.id("prog_", "fifth"), bank.shop.owner.project());
    bank.settle().await;
    let report = json!({
        "project_id": project, "external_id": format!("{CANARY}-order"), "code": "ada",
        "gross_amount_cents": 2_000, "currency": "usd",
    });
    let conversion = api.create(key, &format!("{PROGRAMS}/{program}/conversions"), report).await;
    let clawback = json!({"reason": "fraud", "amount_cents": 1, "note": format!("{CANARY} note")});
    let conversions = format!("{PROGRAMS}/{program}/conversions");
    api.create(key, &format!("{conversions}/{}/clawback", id_of(&conversion)), clawback).await;
    let ada = bank.shop.enrollment("ada");
    let reason = json!({"reason": format!("{CANARY} reason")});
    api.create(key, &format!("{PROGRAMS}/{program}/enrollments/{ada}/hold"), reason).await;
    let secret = json!({"provider": "stripe", "secrets": [format!("whsec_{CANARY}")], "livemode": false});
    let endpoint = api.create(key, &format!("/v1/admin/projects/{project}/endpoints"), secret).await;
    let of_owner = json!({"kind": "organization", "organization_id": "org_shop"});
    let owners_key = api.create(key, "/v1/admin/keys", of_owner).await;
    let first = async |sql| bank.texts(sql).await.swap_remove(0);
    vec![
        ("organizations", bank.shop.owner.id("org_", "ada")),
        ("projects", project),
        ("endpoints", id_of(&endpoint)),
        ("keys", id_of(&owners_key)),
        ("programs", program),
        ("invites", ada.clone()),
        ("enrollments", ada),
        ("codes", "ada".to_owned()),
        ("conversions", id_of(&conversion)),
        ("commissions", conversion["commission_id"].as_str().unwrap().to_owned()),
        ("sales", conversion["sale_id"].as_str().unwrap().to_owned()),
        ("jobs", first("SELECT id FROM job ORDER BY id").await),
        ("payouts", first("SELECT id FROM payout ORDER BY id").await),
    ]
}

on_each_engine! {
    async fn what_is_somebody_elses_looks_like_what_does_not_exist(db: TestDb) {
        let (_bank, matrix) = Matrix::open(&db).await;
        for route in matrix.routes() {
            let (path, missing) = matrix.paths(&route);
            for caller in &matrix.callers {
                let at = format!("{} {path} by {}", route.method, caller.name);
                if caller.name == "an operator" {
                    // That the object is there is what makes the refusals of the others mean something.
                    if route.method == "get" {
                        let key = if route.is_for_affiliates() { Some(&matrix.ada) } else { caller.key.as_ref() };
                        let answer = matrix.ask(&route, &path, key.map(String::as_str)).await;
                        let is_there = matches!(answer.status, StatusCode::OK | StatusCode::FOUND);
                        assert!(is_there, "{at}: {answer:?}");
                    }
                    continue;
                }
                let answer = matrix.ask(&route, &path, caller.key.as_deref()).await;
                assert!(!answer.body.contains(CANARY), "{at}: {answer:?}");
                if route.is_public() {
                    continue;
                }
                let code = answer.status.as_u16();
                if caller.key.is_none() {
                    assert_eq!(code, 401, "{at}: {answer:?}");
                } else if route.is_for("operatorKey") {
                    assert_eq!(code, 403, "{at}: {answer:?}");
                } else if route.names_an_object() {
                    assert!(matches!(code, 401 | 403 | 404), "{at}: {answer:?}");
                }
                if route.names_an_object() {
                    let absent = matrix.ask(&route, &missing, caller.key.as_deref()).await;
                    assert_eq!(answer, absent, "{at} and {missing}");
                }
            }
        }
    }

    async fn what_an_account_pays_to_its_bank_is_known_to_nobody_but_operators(db: TestDb) {
        let (bank, matrix) = Matrix::open(&db).await;
        // The payout of ada's account is of all that she earns, wherever.
        let object = json!({
            "id": BANK_PAYOUT, "object": "payout", "amount": INCOME, "currency": "eur", "status": "failed",
            "failure_code": "account_closed",
        });
        let mut event = stripe("bank", "payout.failed", &object);
        event["account"] = json!("acct_canary-7f3a");
        bank.deliver(&[event]).await;
        assert_eq!(bank.findings().await, ["bank_payout_failed"]);
        let tells =
            |answer: &Answer| answer.body.contains(&INCOME.to_string()) || answer.body.contains(BANK_PAYOUT);

        let key_of = async |id: &str| {
            let organization = OrganizationId::parse(id).unwrap();
            api::key(&matrix.api.app, KeyKind::Organization, Some(organization)).await
        };
        let owner = key_of("org_shop").await;
        // Whose project the platform's own endpoints belong to.
        let platform = key_of("org_default").await;
        let organizations = [("the owner", &owner), ("ada", &matrix.ada), ("the platform's owner", &platform)];
        let others = matrix.callers.iter().filter(|caller| caller.name != "an operator");
        let others = others.filter_map(|caller| Some((caller.name, caller.key.as_ref()?)));
        for (name, key) in organizations.into_iter().chain(others) {
            for route in matrix.routes().iter().filter(|route| route.method == "get") {
                let (path, _) = matrix.paths(route);
                let answer = matrix.ask(route, &path, Some(key)).await;
                assert!(!tells(&answer), "{path} by {name}: {answer:?}");
            }
        }

        // What the owner may know: that it failed, and why. Operators see all of it, here and with the job.
        let shown = async |path: String, key: &str| -> Value {
            let (status, answer) = matrix.api.call(key, Method::GET, &path, &Value::Null).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            answer["data"]["bank_payouts"].clone()
        };
        let payout = format!("{PROGRAMS}/{}/payouts/{}", matrix.object("programs"), matrix.object("payouts"));
        let mut whole = shown(payout.clone(), &matrix.api.operator).await;
        assert_eq!(shown(format!("/v1/admin/jobs/{}", matrix.object("jobs")), &matrix.api.operator).await, whole);
        assert_eq!((&whole[0]["id"], &whole[0]["amount"]), (&json!(BANK_PAYOUT), &json!(INCOME)));
        assert_eq!(whole[0]["currency"], "eur");
        assert_eq!((&whole[0]["status"], &whole[0]["failure_code"]), (&json!("failed"), &json!("account_closed")));
        for hidden in ["id", "amount", "currency"] {
            whole[0][hidden] = Value::Null;
        }
        assert_eq!(shown(payout, &owner).await, whole);
    }
}
