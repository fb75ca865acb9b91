//! Whatever somebody changes through the API is changed whole or not at all, and once.
//!
//! Whoever was not answered asks again where asking again changes nothing. What makes a new thing each time
//! is looked for first: it is there, whole, or nothing is. What sending it again under an Idempotency-Key
//! does is in `keys`.

use libtest_mimic::Trial;
use remit::{
    app::{enrollments::invites, keys::Principal},
    domain::ids::{EnrollmentId, ProgramId},
    failpoint::{Failpoint, VARIABLE},
};
use reqwest::{Client, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    harness::on_each_engine,
    points::{Driver, driver, is_release_build},
    program::{Server, assert_died},
    run::Run,
    support::{TestDb, node::Node, shop::intent},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(death_while_something_is_changed_changes_it_once_or_not_at_all).into()
}

/// Where the nodes die.
const BEFORE: &str = "change.before_commit";
const AFTER: &str = "change.after_commit";

/// What a request does when it is sent again after it was carried out.
enum Again {
    /// Nothing more, and it is answered with this.
    Answered(StatusCode),
    /// Another of the same: nobody sends it again.
    Another,
}
use Again::{Another, Answered};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A person who may do everything.
    Operator,
    /// An affiliate.
    Affiliate,
    /// A website, with its client key.
    Website,
    /// Somebody without a key.
    Anybody,
}

/// A request that changes something.
struct Change {
    by: By,
    method: Method,
    path: String,
    body: Value,
    again: Again,
    /// What there is more or less of once it was carried out.
    does: &'static [(&'static str, i64)],
    /// Whether it is written down who asked. A click is a row of its own.
    is_audited: bool,
}

/// All that the changes change.
const COUNTS: [(&str, &str); 27] = [
    ("account", "SELECT COUNT(*) FROM payout_account"),
    ("address", "SELECT COUNT(*) FROM organization_email"),
    ("click", "SELECT CAST(COALESCE(SUM(clicks), 0) AS BIGINT) FROM click_day"),
    ("code", "SELECT COUNT(*) FROM code WHERE valid_to_us IS NULL"),
    ("code retired", "SELECT COUNT(*) FROM code WHERE valid_to_us IS NOT NULL"),
    ("endpoint", "SELECT COUNT(*) FROM endpoint WHERE deleted_at_us IS NULL"),
    ("endpoint ended", "SELECT COUNT(*) FROM endpoint WHERE deleted_at_us IS NOT NULL"),
    ("enrollment", "SELECT COUNT(*) FROM enrollment"),
    ("event", "SELECT COUNT(*) FROM inbox"),
    ("hold", "SELECT COUNT(*) FROM payout_hold WHERE lifted_at_us IS NULL"),
    ("hold lifted", "SELECT COUNT(*) FROM payout_hold WHERE lifted_at_us IS NOT NULL"),
    ("key", "SELECT COUNT(*) FROM api_key WHERE revoked_at_us IS NULL"),
    ("key revoked", "SELECT COUNT(*) FROM api_key WHERE revoked_at_us IS NOT NULL"),
    ("link", "SELECT COUNT(*) FROM subject_link"),
    ("organization", "SELECT COUNT(*) FROM organization"),
    ("pause", "SELECT COUNT(*) FROM payout_pause WHERE resumed_at_us IS NULL"),
    ("person", "SELECT COUNT(*) FROM account"),
    ("program", "SELECT COUNT(*) FROM program"),
    ("program renamed", "SELECT COUNT(*) FROM program WHERE name = 'renamed'"),
    ("project", "SELECT COUNT(*) FROM project"),
    ("refold", "SELECT COUNT(*) FROM refold"),
    ("status", "SELECT (SELECT COUNT(*) FROM program_status) + (SELECT COUNT(*) FROM enrollment_status)"),
    ("terms", "SELECT COUNT(*) FROM program_terms"),
    ("token", "SELECT COUNT(*) FROM invite_token"),
    (
        "token renewed",
        "SELECT COUNT(*) FROM invite_token t JOIN enrollment e ON e.id = t.enrollment_id
            WHERE t.created_at_us > e.created_at_us",
    ),
    ("token used", "SELECT COUNT(*) FROM invite_token WHERE used_at_us IS NOT NULL"),
    ("touchpoint", "SELECT COUNT(*) FROM touchpoint"),
];

/// What was written down of who asked for what.
const AUDITED: &str = "SELECT COUNT(*) FROM audit";

/// Commissions that are held for three days, as the report says.
const HELD: &str = "SELECT COUNT(*) FROM commission WHERE due_at_us = paid_at_us + 259200000000";

async fn counts(run: &Run) -> Vec<(&'static str, i64)> {
    let mut found = Vec::new();
    for (name, sql) in COUNTS {
        found.push((name, run.number(sql).await));
    }
    found
}

async fn death_while_something_is_changed_changes_it_once_or_not_at_all(db: TestDb) {
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Changes)) {
        assert!([BEFORE, AFTER].contains(&point.as_str()), "{} is not visited", point.as_str());
    }
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let caller = Caller::of(&run).await;
    // Told before anybody had the code, so that the approval reaches back to it.
    let node = run.program.serve().await;
    run.provider.send_to(&[&node.base]);
    let mut sale = intent("early", 10_000, None);
    sale["data"]["object"]["metadata"] = json!({ "referral_code": "late" });
    run.provider.deliver(vec![sale]).await;
    run.settled(&node).await;
    drop(node);

    let mut tx = run.db().db.begin().await.unwrap();
    tx.q("UPDATE program SET landing_url = 'https://shop.example/'").exec().await.unwrap();
    tx.commit().await.unwrap();
    for change in &makings(&run) {
        survive(&run, &caller, change).await;
    }
    for change in &clicks() {
        survive(&run, &caller, change).await;
    }
    for change in &revisions(&run).await {
        survive(&run, &caller, change).await;
    }
    for change in &joinings(&run).await {
        survive(&run, &caller, change).await;
    }
    let node = run.program.serve().await;
    run.settled(&node).await;
    assert_eq!(run.number("SELECT COUNT(*) FROM conversion").await, 2, "the report, and what was approved");
    // Told with the order, so there is no moment at which one is known without the other.
    assert_eq!(run.number(HELD).await, 1, "the report's hold of three days");
    assert_eq!(run.number("SELECT COUNT(*) FROM decision WHERE kind = 'hold_period'").await, 0);
    run.check_with_doctor(0).await;
}

/// Nodes that only answer: nothing else changes meanwhile.
const ROLES: (&str, &str) = ("REMIT_SERVER__ROLES", "receive");

/// Sends a request to a node that dies before it is carried out, again to one that dies before it answers,
/// and, if that changes nothing, to one that lives.
async fn survive(run: &Run, caller: &Caller, change: &Change) {
    let what = format!("{} {}", change.method, change.path);
    let (before, audited) = (counts(run).await, run.number(AUDITED).await);
    let mut after = before.clone();
    for (name, more) in change.does {
        after.iter_mut().find(|(other, _)| other == name).unwrap().1 += more;
    }
    let deaths = [(BEFORE, &before, audited), (AFTER, &after, audited + i64::from(change.is_audited))];
    for (death, expected, audited) in deaths {
        let mut doomed = run.program.serve_with(&[(VARIABLE, death), ROLES]).await;
        assert_eq!(caller.send(&doomed, change).await, None, "{what}: {death}");
        assert_died(&mut doomed).await;
        assert_eq!(counts(run).await, *expected, "{what}: {death}");
        assert_eq!(run.number(AUDITED).await, audited, "{what}: {death}");
    }
    if let Answered(status) = change.again {
        let node = run.program.serve_with(&[ROLES]).await;
        assert_eq!(caller.send(&node, change).await, Some(status), "{what}");
        assert_eq!(counts(run).await, after, "{what}");
    }
    println!("{what} was survived");
}

struct Caller {
    client: Client,
    operator: String,
    affiliate: String,
    website: String,
}

impl Caller {
    /// With keys of everybody who has one. The affiliate is cleo.
    async fn of(run: &Run) -> Self {
        let create = async |words: &[&str]| {
            let made = run.program.data(&[&["keys", "create", "--kind"], words].concat()).await;
            made["key"].as_str().unwrap().to_owned()
        };
        let owner = &run.reference.owner;
        Self {
            client: Client::builder().no_proxy().build().unwrap(),
            operator: create(&["operator"]).await,
            affiliate: create(&["organization", "--org", &owner.id("org_", "cleo")]).await,
            website: create(&["client", "--project", &owner.project()]).await,
        }
    }

    /// None where the node did not answer.
    async fn send(&self, node: &Server, change: &Change) -> Option<StatusCode> {
        let request = self.client.request(change.method.clone(), format!("{}{}", node.base, change.path));
        let request = match change.by {
            By::Operator => request.bearer_auth(&self.operator),
            By::Affiliate => request.bearer_auth(&self.affiliate),
            By::Website => request.header("x-api-key", &self.website),
            By::Anybody => request,
        };
        let answer = request.json(&change.body).send().await;
        answer.ok().map(|answer| answer.status())
    }
}

const PROGRAMS: &str = "/v1/admin/affiliate/programs";

/// Requests that make something.
fn makings(run: &Run) -> Vec<Change> {
    let owner = &run.reference.owner;
    let (project, program) = (owner.project(), owner.id("prog_", "fifth"));
    let make = |path: &str, body: Value, does| Change {
        by: By::Operator,
        method: Method::POST,
        path: path.to_owned(),
        body,
        again: Another,
        does,
        is_audited: true,
    };
    let enrollment = json!({ "email": "late@example.com", "code": "late", "status": "pending" });
    let report = json!({
        "project_id": project, "external_id": "order_1", "code": "ada", "gross_amount_cents": 5_000,
        "hold_period_days": 3,
    });
    vec![
        make(
            "/v1/admin/organizations",
            json!({ "name": "Acme", "email": "acme@example.com" }),
            &[("organization", 1), ("address", 1)],
        ),
        make(
            "/v1/admin/projects",
            json!({ "organization_id": "org_shop", "name": "second" }),
            &[("project", 1)],
        ),
        make(
            &format!("/v1/admin/projects/{project}/endpoints"),
            json!({ "provider": "stripe", "secrets": ["whsec_of_the_second"], "livemode": false }),
            &[("endpoint", 1)],
        ),
        make("/v1/admin/keys", json!({ "kind": "operator" }), &[("key", 1)]),
        make(
            PROGRAMS,
            json!({
                "name": "new", "owner_organization_id": "org_shop",
                "commission": { "type": "percentage", "bps": 100 },
            }),
            &[("program", 1), ("status", 1), ("terms", 1)],
        ),
        make(
            &format!("{PROGRAMS}/{program}/enrollments"),
            enrollment,
            &[
                ("enrollment", 1),
                ("status", 1),
                ("code", 1),
                ("organization", 1),
                ("address", 1),
                ("token", 1),
            ],
        ),
        Change {
            again: Answered(StatusCode::CREATED),
            ..make(&format!("{PROGRAMS}/{program}/conversions"), report, &[("event", 1)])
        },
        make("/v1/admin/payouts/pause", json!({ "reason": "a test" }), &[("pause", 1)]),
        make(
            &format!("{PROGRAMS}/{program}/enrollments/{}/hold", owner.id("par_", "ada")),
            json!({ "reason": "a test" }),
            &[("hold", 1)],
        ),
        Change {
            by: By::Anybody,
            ..make(
                "/v1/public/affiliate/signup",
                json!({ "email": "new@example.com", "name": "New" }),
                &[("organization", 1), ("address", 1), ("person", 1), ("key", 1)],
            )
        },
    ]
}

/// What visitors do.
fn clicks() -> Vec<Change> {
    let tell = |path: &str, body: Value, status, does| Change {
        by: By::Website,
        method: Method::POST,
        path: format!("/v1/client/affiliate/{path}"),
        body,
        again: Answered(status),
        does,
        is_audited: path == "identify",
    };
    vec![
        tell(
            "touchpoint",
            json!({ "code": "ada", "anonymous_id": "visitor" }),
            StatusCode::OK,
            &[("touchpoint", 1), ("click", 1)],
        ),
        tell(
            "identify",
            json!({ "anonymous_id": "visitor", "subject_ref": "customer" }),
            StatusCode::OK,
            &[("link", 1)],
        ),
        Change {
            by: By::Anybody,
            method: Method::GET,
            path: "/r/ada".to_owned(),
            body: Value::Null,
            again: Another,
            does: &[("touchpoint", 1), ("click", 1)],
            is_audited: false,
        },
    ]
}

/// Requests that change what is there: sent again, they change nothing more.
async fn revisions(run: &Run) -> Vec<Change> {
    let owner = &run.reference.owner;
    let text = async |sql: &'static str| -> String {
        run.db().db.read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
    };
    let key = text("SELECT MAX(id) FROM api_key").await;
    let endpoint = text("SELECT MAX(id) FROM endpoint").await;
    let program = text("SELECT id FROM program WHERE name = 'new'").await;
    let late = text("SELECT enrollment_id FROM code WHERE code = 'late'").await;
    let change = |method, path: String, body: Value, does| Change {
        by: By::Operator,
        method,
        path,
        body,
        again: Answered(StatusCode::OK),
        does,
        is_audited: true,
    };
    let fifth = format!("{PROGRAMS}/{}", owner.id("prog_", "fifth"));
    let endpoints = format!("/v1/admin/projects/{}/endpoints", owner.project());
    vec![
        change(
            Method::PUT,
            format!("/v1/admin/organizations/{}/payout-account", owner.id("org_", "ada")),
            json!({ "provider": "stripe", "account_id": "acct_ada" }),
            &[("account", 1)],
        ),
        change(
            Method::PATCH,
            format!("{PROGRAMS}/{program}"),
            json!({
                "name": "renamed", "status": "active", "commission": { "type": "percentage", "bps": 200 },
            }),
            &[("program renamed", 1), ("status", 1), ("terms", 1)],
        ),
        change(
            Method::POST,
            format!("{fifth}/enrollments/{late}/approve"),
            json!({}),
            &[("status", 1), ("refold", 1)],
        ),
        change(
            Method::POST,
            format!("{fifth}/enrollments/{}/unhold", owner.id("par_", "ada")),
            json!({}),
            &[("hold", -1), ("hold lifted", 1)],
        ),
        change(Method::POST, "/v1/admin/payouts/resume".to_owned(), json!({}), &[("pause", -1)]),
        change(
            Method::DELETE,
            format!("/v1/admin/keys/{key}"),
            Value::Null,
            &[("key", -1), ("key revoked", 1)],
        ),
        Change {
            again: Answered(StatusCode::NOT_FOUND),
            ..change(
                Method::DELETE,
                format!("{endpoints}/{endpoint}"),
                Value::Null,
                &[("endpoint", -1), ("endpoint ended", 1)],
            )
        },
        Change {
            again: Another,
            ..change(
                Method::POST,
                format!("{PROGRAMS}/{program}/invites"),
                json!({ "affiliate_org_id": owner.id("org_", "cleo") }),
                &[("enrollment", 1), ("status", 1), ("code", 1)],
            )
        },
        Change {
            again: Another,
            ..change(
                Method::POST,
                format!("{fifth}/enrollments/{late}/invite-token"),
                Value::Null,
                &[("token renewed", 1)],
            )
        },
    ]
}

/// What an affiliate does who was invited, and the owner with its codes.
async fn joinings(run: &Run) -> Vec<Change> {
    const INVITED: &str = "SELECT enrollment_id FROM enrollment_status WHERE status = 'invited'";
    const LATE: &str = "SELECT enrollment_id FROM code WHERE code = 'late'";
    let owner = &run.reference.owner;
    let text = async |sql: &'static str| -> String {
        run.db().db.read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
    };
    let (invited, late) = (text(INVITED).await, text(LATE).await);
    let program = ProgramId::parse(&owner.id("prog_", "fifth")).unwrap();
    let node = Node::new(run.db().db.clone(), 16);
    let enrollment = EnrollmentId::parse(&late).unwrap();
    let (_, token) =
        invites::renew_token(&node.app, &Principal::console(), &program, &enrollment).await.unwrap();
    let ask = |path: String, body: Value, again, does| Change {
        by: By::Affiliate,
        method: Method::POST,
        path: format!("/v1/affiliate/me/{path}"),
        body,
        again,
        does,
        is_audited: true,
    };
    let codes = format!("{PROGRAMS}/{program}/enrollments/{late}/codes");
    let issue = |method, path: String, body: Value, again, does| Change {
        by: By::Operator,
        method,
        path,
        ..ask(String::new(), body, again, does)
    };
    vec![
        ask(format!("invites/{invited}/accept"), Value::Null, Answered(StatusCode::OK), &[("status", 1)]),
        ask(
            format!("enrollments/{invited}/codes"),
            json!({ "retire_others": true }),
            Another,
            // The first one ends.
            &[("code retired", 1)],
        ),
        ask(
            "invites/accept".to_owned(),
            json!({ "token": token.expose_secret() }),
            Answered(StatusCode::OK),
            // Its sales are looked at again, under the addresses of who took it over.
            &[("token used", 1), ("address", 1), ("refold", 1)],
        ),
        issue(
            Method::POST,
            codes.clone(),
            json!({ "code": "later" }),
            Answered(StatusCode::CONFLICT),
            // The early sale may have told it.
            &[("code", 1), ("refold", 1)],
        ),
        issue(
            Method::DELETE,
            format!("{codes}/later"),
            Value::Null,
            Answered(StatusCode::OK),
            &[("code", -1), ("code retired", 1)],
        ),
    ]
}
