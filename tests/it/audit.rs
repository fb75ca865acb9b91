//! The audit log: every change that somebody asks for, who may read of it, and that nothing is taken back.
//! Whoever walks all changes also asks for each of them again, see [`crate::support::repeated`].

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use remit::app::{
    events,
    keys::{KeyKind, Principal},
};
use serde_json::{Value, json};

use super::{
    paying::{earn, fault, sends},
    support::{
        TestDb,
        api::{self, Api, MASTER_KEY, PROGRAMS, id_of, rows},
        bank::Bank,
        on_each_engine,
        repeated::{self, Change},
        site::{Site, TOUCHPOINT, client_key},
    },
};

/// The routes of the API that change something, or could as HTTP sees it, as `METHOD path`. Those of the
/// receiver take what providers tell: its log is the inbox, and its keys are the providers' ids of events.
async fn changing_routes(api: &Api) -> BTreeSet<String> {
    let (_, document) = api.call("", Method::GET, "/openapi.json", &Value::Null).await;
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|_| !path.starts_with("/webhooks/")) {
            if !["get", "head", "options", "parameters"].contains(&method.as_str()) {
                found.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    assert!(found.len() > 30, "the routes are where the test looks: {found:?}");
    found
}

/// Asks for one change after another, for each again and again, and looks for its one row.
struct Walk {
    api: Api,
    /// Who asks, and the kind of their key.
    by: (String, &'static str),
    /// The routes that were taken.
    taken: BTreeSet<String>,
}

impl Walk {
    /// Asks for a change by `route`, with `ids` in the place of its parameters, and gives what is answered.
    /// One row more must tell of it, as `action`.
    async fn changes(&mut self, route: &str, ids: &[&str], body: Value, action: &str) -> Value {
        let before = self.rows().await.len();
        let request_id = format!("walk-{before}");
        let data = self.asks(route, ids, &body, &request_id).await;
        let rows = self.rows().await;
        assert_eq!(rows.len(), before + 1, "{route} leaves one row");
        let row = rows.iter().find(|row| row["request_id"] == json!(request_id)).unwrap();
        assert_eq!((&row["action"], &row["actor_kind"]), (&json!(action), &json!(self.by.1)), "{route}");
        assert!(row["idempotency_id"].as_str().unwrap().starts_with("idem_"), "{row}");
        let actor = row["actor"].as_str().unwrap();
        assert!(actor.starts_with("key_") || actor == self.by.1, "{row}");
        data
    }

    /// Asks for what leaves no row, as [`Self::changes`].
    async fn leaves_none(&mut self, route: &str, ids: &[&str], body: Value) -> Value {
        let before = self.rows().await.len();
        let data = self.asks(route, ids, &body, "leaves-none").await;
        assert_eq!(self.rows().await.len(), before, "{route} leaves no row");
        data
    }

    async fn asks(&mut self, route: &str, ids: &[&str], body: &Value, request_id: &str) -> Value {
        let (method, template) = route.split_once(' ').unwrap();
        let mut path = String::new();
        let mut ids = ids.iter();
        for part in template.split('/').skip(1) {
            path.push('/');
            path.push_str(if part.starts_with('{') { ids.next().unwrap() } else { part });
        }
        let who = match self.by.1 {
            "client" => ("x-api-key", self.by.0.clone()),
            _ => (header::AUTHORIZATION.as_str(), format!("Bearer {}", self.by.0)),
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let change = Change { method, path: &path, who, body, request_id };
        let mut answer = repeated::ask_again_and_again(&self.api, &change).await;
        self.taken.insert(route.to_owned());
        answer["data"].take()
    }

    /// What the website of a program asks, and what it tells of its visitors: they are clicks until they sign
    /// in.
    async fn website(&mut self, project: &str, program: &str) {
        let question = json!({ "gross_amount_cents": 9_900, "currency": "usd" });
        let route = "POST /v1/admin/affiliate/programs/{program_id}/preview";
        self.leaves_none(route, &[program], question).await;
        let operator = self.by.clone();
        self.by = (client_key(&self.api, project).await, "client");
        let click = json!({ "code": "ANN", "anonymous_id": "anon_hunter2" });
        self.leaves_none("POST /v1/client/affiliate/touchpoint", &[], click).await;
        let person = json!({ "anonymous_id": "anon_hunter2", "subject_ref": "dan@example.com" });
        let route = "POST /v1/client/affiliate/identify";
        self.changes(route, &[], person, "visitor.identified").await;
        self.by = operator;
    }

    /// What joins an affiliate to programs, by the owner and by themself. Gives the secrets that were shown.
    async fn affiliate_side(&mut self, owner: &str, program: &str, enrolled: &str) -> Vec<String> {
        let operator = self.by.clone();
        let of_program = |rest: &str| format!("POST /v1/admin/affiliate/programs/{{program_id}}/{rest}");
        let route = "PATCH /v1/admin/affiliate/programs/{program_id}/enrollments/{id}";
        let rate = json!({ "commission_override": { "bps": 2500 } });
        self.changes(route, &[program, enrolled], rate, "enrollment.updated").await;
        let code = json!({ "code": "ANNS10", "kind": "coupon" });
        self.changes(&of_program("enrollments/{id}/codes"), &[program, enrolled], code, "code.created").await;
        let route = "DELETE /v1/admin/affiliate/programs/{program_id}/enrollments/{id}/codes/{code}";
        self.changes(route, &[program, enrolled, "ANNS10"], Value::Null, "code.retired").await;

        self.by = (String::new(), "anonymous");
        let person = json!({ "email": "cat@example.com", "name": "Cat" });
        let signed_up =
            self.changes("POST /v1/public/affiliate/signup", &[], person, "account.signed_up").await;
        let affiliate = signed_up["organization"]["id"].as_str().unwrap();
        let affiliate_key = (signed_up["key"].as_str().unwrap().to_owned(), "organization");
        let me = |rest: &str| format!("POST /v1/affiliate/me/{rest}");
        for (number, answer) in ["accept", "decline", "applications"].into_iter().enumerate() {
            self.by = operator.clone();
            let another = json!({
                "owner_organization_id": owner, "name": format!("P{number}"), "status": "active",
                "applications": "open", "commission": { "type": "percentage", "bps": 100 },
            });
            let another = id_of(
                &self.changes("POST /v1/admin/affiliate/programs", &[], another, "program.created").await,
            );
            if answer == "applications" {
                self.by = affiliate_key.clone();
                let which = json!({ "program_id": another });
                self.changes(&me("applications"), &[], which, "enrollment.applied").await;
                continue;
            }
            let whom = json!({ "affiliate_org_id": affiliate });
            let invited = self.changes(&of_program("invites"), &[&another], whom, "enrollment.created").await;
            self.by = affiliate_key.clone();
            let action = if answer == "accept" { "enrollment.accepted" } else { "enrollment.declined" };
            let invited = id_of(&invited);
            self.changes(&me(&format!("invites/{{id}}/{answer}")), &[&invited], Value::Null, action).await;
            if answer == "accept" {
                self.changes(&me("enrollments/{id}/codes"), &[&invited], json!({}), "code.rotated").await;
            }
        }
        self.by = operator.clone();
        let whom = json!({ "email": "cat@example.com" });
        let invited =
            id_of(&self.changes(&of_program("invites"), &[program], whom, "enrollment.created").await);
        let route = of_program("enrollments/{id}/invite-token");
        let renewed =
            self.changes(&route, &[program, &invited], Value::Null, "enrollment.token_renewed").await;
        self.by = affiliate_key.clone();
        let token = json!({ "token": renewed["invite_token"] });
        self.changes(&me("invites/accept"), &[], token, "enrollment.accepted").await;
        self.by = operator;
        vec![renewed["invite_token"].as_str().unwrap().to_owned(), affiliate_key.0]
    }

    /// Every row that an operator can read.
    async fn rows(&self) -> Vec<Value> {
        listed(&self.api, &self.api.operator, "").await
    }
}

/// All rows that `key` can read under a filter, page by page.
async fn listed(api: &Api, key: &str, filter: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/admin/audit?limit=7{filter}{cursor}");
        let (status, mut page) = api.call(key, Method::GET, &path, &Value::Null).await;
        assert!(status.is_success(), "{path}: {page}");
        rows.append(page["data"].as_array_mut().unwrap());
        let Some(next) = page["next_cursor"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

/// The first page of a list, as an operator reads it.
async fn listed_at(api: &Api, path: &str) -> Vec<Value> {
    let (status, mut page) = api.call(&api.operator, Method::GET, path, &Value::Null).await;
    assert!(status.is_success(), "{path}: {page}");
    page["data"].as_array_mut().unwrap().drain(..).collect()
}

/// The API over the node of a bank.
async fn api_of(bank: &Bank) -> Api {
    let app = bank.shop.node.app.clone();
    Api {
        router: crate::support::api::public(&app).await,
        clock: bank.shop.node.clock.clone(),
        operator: api::key(&app, KeyKind::Operator, None).await,
        app,
    }
}

on_each_engine! {
    async fn every_route_that_changes_something_leaves_one_row_however_often_it_is_asked(db: TestDb) {
        let bank = Bank::open_with(&db, &[("REMIT_SECRETS__MASTER_KEY", MASTER_KEY)]).await;
        let api = api_of(&bank).await;
        let by = (api.operator.clone(), "operator");
        let mut walk = Walk { api, by, taken: BTreeSet::new() };
        let nothing = || Value::Null;

        let owner = walk
            .changes("POST /v1/admin/organizations", &[], json!({ "name": "Own", "email": "jo@example.com" }), "organization.created")
            .await;
        let owner = id_of(&owner);
        let project = json!({ "organization_id": owner, "name": "Site" });
        let project = id_of(&walk.changes("POST /v1/admin/projects", &[], project, "project.created").await);
        let account = json!({ "provider": "stripe", "account_id": "acct_own" });
        let route = "PUT /v1/admin/organizations/{id}/payout-account";
        walk.changes(route, &[&owner], account, "payout_account.set").await;
        let key = walk.changes("POST /v1/admin/keys", &[], json!({ "kind": "operator" }), "key.created").await;
        walk.changes("DELETE /v1/admin/keys/{id}", &[&id_of(&key)], nothing(), "key.revoked").await;
        let endpoint = json!({ "provider": "stripe", "secrets": ["whsec_hunter2"], "livemode": false });
        let route = "POST /v1/admin/projects/{project_id}/endpoints";
        let endpoint = id_of(&walk.changes(route, &[&project], endpoint, "endpoint.created").await);
        let route = "DELETE /v1/admin/projects/{project_id}/endpoints/{id}";
        walk.changes(route, &[&project, &endpoint], nothing(), "endpoint.deleted").await;

        let program = json!({
            "owner_organization_id": owner, "name": "Partners", "status": "active", "hold_period_days": 0,
            "approval_mode": "manual", "commission": { "type": "percentage", "bps": 2000 },
        });
        let program = id_of(&walk.changes("POST /v1/admin/affiliate/programs", &[], program, "program.created").await);
        let route = "PATCH /v1/admin/affiliate/programs/{program_id}";
        walk.changes(route, &[&program], json!({ "name": "Friends" }), "program.updated").await;
        for verb in ["pause", "activate"] {
            let route = format!("POST /v1/admin/affiliate/programs/{{program_id}}/{verb}");
            walk.changes(&route, &[&program], nothing(), "program.updated").await;
        }
        // What is sold from now on is sold after the pause.
        walk.api.clock.advance_secs(1);
        let mut enrolled = Vec::new();
        for (code, status) in [("ANN", "pending"), ("BEN", "pending")] {
            let body = json!({ "email": format!("{code}@example.com"), "code": code, "status": status });
            let route = "POST /v1/admin/affiliate/programs/{program_id}/enrollments";
            enrolled.push(id_of(&walk.changes(route, &[&program], body, "enrollment.created").await));
        }
        for (who, verb, action) in [(0, "approve", "approved"), (0, "hold", "held"), (0, "unhold", "unheld"), (1, "reject", "rejected")] {
            let route = format!("POST /v1/admin/affiliate/programs/{{program_id}}/enrollments/{{id}}/{verb}");
            let body = if verb == "hold" { json!({ "reason": "to be looked at" }) } else { nothing() };
            walk.changes(&route, &[&program, &enrolled[who]], body, &format!("enrollment.{action}")).await;
        }
        walk.website(&project, &program).await;
        let secrets = walk.affiliate_side(&owner, &program, &enrolled[0]).await;
        let mut conversions = Vec::new();
        for order in ["order_1", "order_2"] {
            let body = json!({ "project_id": project, "external_id": order, "code": "ANN", "gross_amount_cents": 9_900 });
            let route = "POST /v1/admin/affiliate/programs/{program_id}/conversions";
            conversions.push(walk.changes(route, &[&program], body, "conversion.reported").await);
        }
        let ids: Vec<String> = conversions.iter().map(id_of).collect();
        let route = "PUT /v1/admin/affiliate/programs/{program_id}/conversions/{id}/hold-period";
        let days = json!({ "hold_period_days": 0 });
        walk.changes(route, &[&program, &ids[0]], days, "conversion.hold_changed").await;
        for (which, verb, body, action) in [
            (0, "approve", nothing(), "conversion.approved"),
            (0, "clawback", json!({ "reason": "fraud", "amount_cents": 5 }), "conversion.clawed_back"),
            (1, "reject", nothing(), "conversion.rejected"),
        ] {
            let route = format!("POST /v1/admin/affiliate/programs/{{program_id}}/conversions/{{id}}/{verb}");
            walk.changes(&route, &[&program, &ids[which]], body, action).await;
        }
        let sale = conversions[0]["sale_id"].as_str().unwrap();
        let body = json!({ "enrollment_id": enrolled[0], "reason": "support ticket" });
        walk.changes("POST /v1/admin/sales/{id}/attribution", &[sale], body, "sale.attributed").await;
        let route = "POST /v1/admin/affiliate/programs/{program_id}/enrollments/{id}/suspend";
        walk.changes(route, &[&program, &enrolled[0]], nothing(), "enrollment.suspended").await;
        // When the merge grace is over, what was approved is due.
        walk.api.clock.advance_secs(3_600);
        let route = "POST /v1/admin/affiliate/programs/{program_id}/release";
        walk.changes(route, &[&program], nothing(), "program.released").await;
        let route = "POST /v1/admin/affiliate/programs/{program_id}/archive";
        walk.changes(route, &[&program], nothing(), "program.updated").await;
        walk.changes("POST /v1/admin/payouts/pause", &[], json!({ "reason": "a look" }), "payouts.paused").await;
        walk.changes("POST /v1/admin/payouts/resume", &[], nothing(), "payouts.resumed").await;

        // Two payouts of the bank's own program: one is given up, and nobody knows what became of the other.
        let paying = bank.shop.owner.id("prog_", "fifth");
        earn(&bank, "bob", "y", 10_000).await;
        let run = "POST /v1/admin/affiliate/programs/{program_id}/payouts/run";
        let done = walk.changes(run, &[&paying], nothing(), "payouts.run").await;
        let payout = done["payouts"][0]["id"].as_str().unwrap();
        let route = "POST /v1/admin/affiliate/programs/{program_id}/payouts/{payout_id}/cancel";
        walk.changes(route, &[&paying, payout], nothing(), "payout.canceled").await;
        fault(&bank, sends(), 1, json!({ "kind": "fail_500_without_execute" })).await;
        walk.changes(run, &[&paying], nothing(), "payouts.run").await;
        bank.dispatch_over(600, 30).await;
        let intent = bank.texts("SELECT id FROM intent WHERE state = 'unknown'").await.remove(0);
        walk.changes("POST /v1/admin/jobs/{id}/retry", &[&intent], nothing(), "job.retried").await;
        let approver = api::key(&walk.api.app, KeyKind::Operator, None).await;
        let said = json!({ "not_executed": true, "evidence": "their support has looked", "approver": approver });
        walk.changes("POST /v1/admin/jobs/{id}/resolve", &[&intent], said, "job.resolved").await;

        assert_eq!(walk.taken, changing_routes(&walk.api).await, "each route that changes something is walked here");
        let all = Value::from(walk.rows().await).to_string();
        assert!(secrets.iter().all(|secret| secret.len() > 20 && !all.contains(secret)), "a secret is in the log");
        for secret in ["hunter2", "jo@", "ANN@", "cat@", "dan@", approver.split('_').nth(3).unwrap()] {
            assert!(!all.contains(secret), "{secret} is in the log");
        }
        assert!(all.contains("j***@example.com"));
    }

    async fn a_touchpoint_names_the_key_and_the_request_that_told_of_it(db: TestDb) {
        let site = Site::open(&db.db, json!({})).await;
        let click = json!({ "code": "ann", "anonymous_id": "v" }).to_string();
        let request = Request::post(TOUCHPOINT).header("x-api-key", &site.client);
        let request = request.header("x-request-id", "click-1").body(Body::from(click)).unwrap();
        assert!(site.send(request).await.0.is_success());
        let followed = Request::get("/r/bob").header("x-request-id", "click-2").body(Body::empty()).unwrap();
        assert!(site.send(followed).await.0.is_redirection());
        let (_, told) = site.api.call(&site.key, Method::GET, &site.path("touchpoints"), &Value::Null).await;
        let row = |code: &str| told["data"].as_array().unwrap().iter().find(|row| row["code"] == code).unwrap();
        let keys = listed_at(&site.api, "/v1/admin/keys?limit=100").await;
        let by = keys.iter().find(|key| key["id"] == row("ann")["told_by"]).unwrap();
        assert_eq!((&by["kind"], &row("ann")["request_id"]), (&json!("client"), &json!("click-1")));
        assert_eq!((&row("bob")["told_by"], &row("bob")["request_id"]), (&Value::Null, &Value::Null));
    }

    async fn a_row_says_what_was_and_what_is_and_by_whom(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let program = api.program(&tenant).await;
        api.clock.advance_secs(60);
        let path = format!("{PROGRAMS}/{program}");
        let (status, _) = api.call(&tenant, Method::PATCH, &path, &json!({ "name": "Friends" })).await;
        assert!(status.is_success());

        let rows = listed(&api, &tenant, &format!("&object={program}")).await;
        let [updated, created] = rows.as_slice() else { panic!("{rows:?}") };
        let actor = format!("key_{}", tenant.split('_').nth(2).unwrap());
        for row in [updated, created] {
            assert_eq!((&row["actor"], &row["actor_kind"]), (&json!(actor), &json!("organization")));
            assert_eq!((&row["organization_id"], &row["actor_organization_id"]), (&json!(own), &json!(own)));
            assert!(row["request_id"].as_str().unwrap().starts_with("req_"), "{row}");
        }
        assert_eq!((&created["action"], &created["before"]), (&json!("program.created"), &Value::Null));
        assert_eq!(created["after"]["name"], json!("Launch Partners"));
        assert_eq!(created["at"], json!("2025-06-15T15:06:40Z"));
        assert_eq!(updated["before"], created["after"]);
        assert_eq!(updated["after"]["name"], json!("Friends"));
    }

    async fn an_organization_reads_of_its_own_and_an_operator_of_all(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let (_, other) = api.tenant("Other").await;
        let (mine, theirs) = (api.program(&tenant).await, api.program(&other).await);
        let told = listed(&api, &tenant, "").await;
        assert!(told.iter().all(|row| row["organization_id"] == json!(own)), "{told:?}");
        assert!(told.iter().any(|row| row["object"] == json!(mine)));
        assert_eq!(listed(&api, &tenant, &format!("&object={theirs}")).await, [Value::Null; 0]);
        let all = listed(&api, &api.operator, "").await;
        assert!([&mine, &theirs].iter().all(|id| all.iter().any(|row| row["object"] == json!(id))));
        let ids: Vec<&str> = all.iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert!(ids.is_sorted_by(|newer, older| newer > older), "newest first: {ids:?}");

        let client = json!({ "kind": "organization", "organization_id": own, "scopes": ["write"] });
        let writer = api.create(&api.operator, "/v1/admin/keys", client).await;
        let refused = api.refusal(writer["key"].as_str().unwrap(), Method::GET, "/v1/admin/audit", &Value::Null).await;
        assert_eq!(refused, (403, "FORBIDDEN".to_owned()));
    }

    async fn filters_narrow_and_wrong_ones_are_refused(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, tenant) = api.tenant("Own").await;
        api.program(&tenant).await;
        api.clock.advance_secs(100);
        api.program(&tenant).await;
        let count = async |filter: &str| listed(&api, &api.operator, filter).await.len();
        let all = count("").await;
        assert_eq!(count("&action=program.created").await, 2);
        assert_eq!(count("&action=program.created&since=2025-06-15T15:08:20Z").await, 1);
        assert_eq!(count("&since=2025-06-15T15:08:20.000001Z").await, 0);
        assert_eq!(count("&since=2025-06-15T15:06:40Z").await, all);
        assert_eq!(count("&actor=console").await, all - 3, "the organization and two programs were not made there");
        assert_eq!(count("&object=prog_nobody").await, 0);
        for (filter, code) in [
            ("object=", "INVALID_OBJECT"),
            ("actor=%00", "INVALID_ACTOR"),
            ("action=a%20b", "INVALID_ACTION"),
            ("since=yesterday", "INVALID_SINCE"),
            ("cursor=x", "INVALID_CURSOR"),
        ] {
            let path = format!("/v1/admin/audit?{filter}");
            let refused = api.refusal(&api.operator, Method::GET, &path, &Value::Null).await;
            assert_eq!(refused, (400, code.to_owned()), "{filter}");
        }
    }

    async fn what_was_refused_leaves_no_row_and_no_row_is_changed_or_removed(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let program = api.program(&tenant).await;
        let path = format!("{PROGRAMS}/{program}/enrollments");
        api.create(&tenant, &path, json!({ "email": "ann@example.com", "code": "ANN" })).await;
        let before = listed(&api, &api.operator, "").await;
        // Refused after the enrollment's row was written: its transaction takes everything back.
        let taken = api.refusal(&tenant, Method::POST, &path, &json!({ "email": "b@example.com", "code": "ANN" })).await;
        assert_eq!(taken, (409, "CODE_TAKEN".to_owned()));
        let expiry = json!({ "kind": "organization", "organization_id": own, "expires_at": "2020-01-01T00:00:00Z" });
        api.refusal(&tenant, Method::POST, "/v1/admin/keys", &expiry).await;
        assert_eq!(listed(&api, &api.operator, "").await, before);

        for statement in ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"] {
            let mut tx = db.db.begin().await.unwrap();
            let error = tx.q(statement).exec().await.unwrap_err();
            assert!(error.to_string().contains("append-only"), "{error}");
            tx.rollback().await.unwrap();
        }
        assert_eq!(listed(&api, &api.operator, "").await, before);
    }

    async fn the_command_line_is_named_as_the_console(db: TestDb) {
        let api = Api::new(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q("INSERT INTO inbox (id, provider, endpoint_id, project_id, account, livemode, provider_event_id, event_type,
                  received_at_us, source, state, attempts, next_attempt_at_us, body, body_sha256)
              VALUES ('in_1', 'stripe', 'ep_1', 'proj_default', '', $1, 'evt_1', 'x', 0, 'webhook', 'parked', 8, 0, $2, $2)")
            .bind(false)
            .bind([0_u8; 32].as_slice())
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        events::retry(&api.app, &Principal::console(), "in_1").await.unwrap();
        let refused = events::retry(&api.app, &Principal::console(), "in_1").await.unwrap_err();
        assert_eq!(refused.code(), "INVALID_STATE");
        let told: BTreeMap<i64, String> = rows(
            &db.db,
            "SELECT COUNT(*), actor || ' ' || actor_kind || ' ' || request_id FROM audit
             WHERE object = 'in_1' GROUP BY actor, actor_kind, request_id",
        )
        .await
        .into_iter()
        .collect();
        assert_eq!(told, BTreeMap::from([(1, "console console cli".to_owned())]));
    }
}
