//! A request with an Idempotency-Key is carried out once, wherever its node dies: whoever sends it again
//! is answered as the first time, or told what was done.
//!
//! Nobody waits for the claim of a dead node to end: its times in the database are moved.

use libtest_mimic::Trial;
use remit::failpoint::{Failpoint, VARIABLE};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::{
    harness::on_each_engine,
    points::{Driver, driver, is_release_build},
    program::{Server, assert_died},
    run::Run,
    support::TestDb,
};

/// The claims of the dead come to their end.
pub const CLAIMS_RUN_OUT: &str = "UPDATE idempotency SET leased_until_us = 0 WHERE state = 'in_flight'";

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        death_of_a_request_with_a_key_makes_one_object,
        death_while_keys_are_forgotten_forgets_them_whole,
    )
    .into()
}

/// How a request that a death interrupted is answered when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It is carried out at once: nobody has heard of the key.
    Runs,
    /// It is carried out when the claim is over.
    RunsLater,
    /// It was done, and its answer is lost.
    Interrupted,
    /// It was done, and answered.
    Replayed,
}

/// Where nodes die, and what becomes of the request.
const DEATHS: [(&str, Again); 6] = [
    ("key.before_commit", Again::Runs),
    ("key.after_commit", Again::RunsLater),
    ("change.before_commit", Again::RunsLater),
    ("change.after_commit", Again::Interrupted),
    // What was done is not answered yet, and then is.
    ("key.before_commit:2", Again::Interrupted),
    ("key.after_commit:2", Again::Replayed),
];

/// Nodes that only answer: no stage passes a point meanwhile.
const ROLES: (&str, &str) = ("REMIT_SERVER__ROLES", "receive");

/// Something that is made by a request.
struct Making {
    path: String,
    /// Where a request says what it makes, the text that stands for it is `NAME`.
    body: Value,
    /// How many there are.
    count: &'static str,
    /// A request names what it makes, so one that was interrupted is carried out again and finds it.
    is_repeatable: bool,
    /// What is shown once.
    secret: Option<&'static str>,
}

const NAME: &str = "NAME";

fn makings(run: &Run) -> [Making; 3] {
    const PROGRAMS: &str = "/v1/admin/affiliate/programs";
    let owner = &run.reference.owner;
    [
        Making {
            path: PROGRAMS.to_owned(),
            body: json!({
                "name": NAME, "owner_organization_id": "org_shop",
                "commission": { "type": "percentage", "bps": 100 },
            }),
            count: "SELECT COUNT(*) FROM program",
            is_repeatable: false,
            secret: None,
        },
        Making {
            path: "/v1/admin/keys".to_owned(),
            body: json!({ "kind": "operator" }),
            count: "SELECT COUNT(*) FROM api_key",
            is_repeatable: false,
            secret: Some("key"),
        },
        Making {
            path: format!("{PROGRAMS}/{}/conversions", owner.id("prog_", "fifth")),
            body: json!({
                "project_id": owner.project(), "external_id": NAME, "code": "ada", "gross_amount_cents": 5_000,
            }),
            count: "SELECT COUNT(*) FROM conversion",
            is_repeatable: true,
            secret: None,
        },
    ]
}

async fn death_of_a_request_with_a_key_makes_one_object(db: TestDb) {
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Keys)) {
        assert!(
            DEATHS.iter().any(|(death, _)| *death == point.as_str()),
            "{} is not visited",
            point.as_str()
        );
    }
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let caller = Caller::of(&run).await;
    for making in &makings(&run) {
        die_of(&run, &caller, making).await;
    }
    let node = run.program.serve().await;
    run.settled(&node).await;
    run.check_with_doctor(0).await;
}

/// Sends a request of this kind to each of the nodes that die, and all of them again to one that lives.
async fn die_of(run: &Run, caller: &Caller, making: &Making) {
    /// However slow this machine is, the claims of the dead last.
    const LASTS: &str =
        "UPDATE idempotency SET leased_until_us = leased_until_us + 3600000000 WHERE state = 'in_flight'";
    let before = run.number(making.count).await;
    for (death, _) in DEATHS {
        let mut doomed = run.program.serve_with(&[(VARIABLE, death), ROLES]).await;
        assert!(caller.send(&doomed, making, death).await.is_none(), "{death}");
        assert_died(&mut doomed).await;
    }
    change(run, LASTS).await;
    let node = run.program.serve_with(&[ROLES]).await;
    let mut first = Vec::new();
    for (death, again) in DEATHS {
        let answer = caller.send(&node, making, death).await.unwrap();
        if matches!(again, Again::RunsLater | Again::Interrupted) {
            assert_eq!(answer.refusal(), Some("IDEMPOTENCY_IN_FLIGHT"), "{death}: {answer:?}");
        }
        first.push(answer);
    }
    change(run, CLAIMS_RUN_OUT).await;
    for ((death, again), first) in DEATHS.into_iter().zip(first) {
        let answer = match again {
            Again::Runs | Again::Replayed => first,
            Again::RunsLater | Again::Interrupted => caller.send(&node, making, death).await.unwrap(),
        };
        check(run, making, death, again, &answer).await;
        // And for as long as the key is kept.
        let mut later = caller.send(&node, making, death).await.unwrap();
        assert_eq!(later.status, answer.status, "{death}: {later:?}");
        if answer.status == StatusCode::CREATED {
            assert!(later.is_replayed, "{death}: {later:?}");
            if let Some(secret) = making.secret {
                assert_eq!(later.body["data"][secret], Value::Null, "{death}");
                later.body["data"][secret] = answer.body["data"][secret].clone();
            }
            assert_eq!(later.body["data"], answer.body["data"], "{death}");
        }
    }
    let made = run.number(making.count).await - before;
    assert_eq!(made, i64::try_from(DEATHS.len()).unwrap(), "{}: one each", making.path);
    println!("{} was survived", making.path);
}

/// Holds the last answer against what was to become of the request.
async fn check(run: &Run, making: &Making, death: &str, again: Again, answer: &Answer) {
    const DONE: &str = "SELECT a.action || ' ' || a.object FROM audit a
        JOIN idempotency i ON i.id = a.idempotency_id WHERE i.request_key = $1";
    let key = making.key(death);
    let done: Vec<String> = run.db().db.read().await.unwrap().q(DONE).bind(&*key).scalars().await.unwrap();
    assert_eq!(done.len(), 1, "{death}: {done:?}");
    if again == Again::Interrupted && !making.is_repeatable {
        assert_eq!(answer.status, StatusCode::CONFLICT, "{death}");
        assert_eq!(answer.refusal(), Some("IDEMPOTENCY_INTERRUPTED"), "{death}");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(&done[0]), "{death}: {message}");
    } else {
        assert_eq!(answer.status, StatusCode::CREATED, "{death}: {answer:?}");
        assert_eq!(answer.is_replayed, again == Again::Replayed, "{death}");
    }
}

async fn death_while_keys_are_forgotten_forgets_them_whole(db: TestDb) {
    const KEPT: &str = "SELECT COUNT(*) FROM idempotency";
    const SCHEDULE: (&str, &str) = ("REMIT_SERVER__ROLES", "schedule");
    if is_release_build() {
        return;
    }
    let run = Run::on(db).await;
    let caller = Caller::of(&run).await;
    let node = run.program.serve_with(&[ROLES]).await;
    let [program, ..] = &makings(&run);
    for name in ["old", "older"] {
        assert_eq!(caller.send(&node, program, name).await.unwrap().status, StatusCode::CREATED);
    }
    node.kill();
    change(&run, "UPDATE idempotency SET expires_at_us = 1").await;
    for (death, kept) in [("key.before_commit", 2), ("key.after_commit", 0)] {
        run.program.dies_at(death, &[SCHEDULE]).await;
        assert_eq!(run.number(KEPT).await, kept, "{death}");
    }
    // A key that was forgotten is one that nobody has used.
    let node = run.program.serve_with(&[ROLES]).await;
    let answer = caller.send(&node, program, "old").await.unwrap();
    assert_eq!((answer.status, answer.is_replayed), (StatusCode::CREATED, false));
}

/// Changes something behind the nodes' backs.
pub async fn change(run: &Run, sql: &'static str) {
    let mut tx = run.db().db.begin().await.unwrap();
    tx.q(sql).exec().await.unwrap();
    tx.commit().await.unwrap();
}

impl Making {
    /// The Idempotency-Key of the request that is interrupted here.
    fn key(&self, death: &str) -> String {
        format!("{death} of {}", self.path)
    }

    fn body(&self, death: &str) -> Value {
        let mut body = self.body.clone();
        for value in body.as_object_mut().unwrap().values_mut().filter(|value| *value == NAME) {
            *value = json!(death);
        }
        body
    }
}

struct Caller {
    client: Client,
    key: String,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    is_replayed: bool,
    body: Value,
}

impl Answer {
    fn refusal(&self) -> Option<&str> {
        self.body["error"]["code"].as_str()
    }
}

impl Caller {
    async fn of(run: &Run) -> Self {
        let made = run.program.data(&["keys", "create", "--kind", "operator"]).await;
        let key = made["key"].as_str().unwrap().to_owned();
        Self { client: Client::builder().no_proxy().build().unwrap(), key }
    }

    /// None where the node did not answer.
    async fn send(&self, node: &Server, making: &Making, death: &str) -> Option<Answer> {
        let request = self.client.post(format!("{}{}", node.base, making.path)).bearer_auth(&self.key);
        let request = request.header("idempotency-key", making.key(death)).json(&making.body(death));
        let answer = request.send().await.ok()?;
        let (status, headers) = (answer.status(), answer.headers());
        let is_replayed = headers.get("idempotent-replayed").is_some_and(|value| value == "true");
        Some(Answer { status, is_replayed, body: answer.json().await.unwrap() })
    }
}
