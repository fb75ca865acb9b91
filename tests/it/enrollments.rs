//! Joining a program, from both sides: invitations, applications, codes, rates and sponsors. Numbers in
//! tables are those of the checklist.

use axum::http::{Method, StatusCode};
use remit::{
    domain::{ids::EnrollmentId, time::Timestamp},
    store::programs::load_directory,
};
use serde_json::{Value, json};

use crate::support::{
    TestDb,
    api::{Api, NOW, PROGRAMS, id_of, rows},
    node::Node,
    on_each_engine,
    shop::stripe,
};

const ME: &str = "/v1/affiliate/me";

/// An owner with an active program, and a project whose sales it attributes.
struct Owner {
    key: String,
    project: String,
    program: String,
}

impl Owner {
    async fn new(api: &Api) -> Self {
        let (organization, key) = api.tenant("Owner").await;
        let project = json!({"organization_id": organization, "name": "Site"});
        let project = id_of(&api.create(&key, "/v1/admin/projects", project).await);
        let program = api.program(&key).await;
        Self { key, project, program }
    }

    fn path(&self, rest: &str) -> String {
        format!("{PROGRAMS}/{}/{rest}", self.program)
    }

    fn of(&self, enrollment: &str, rest: &str) -> String {
        self.path(&format!("enrollments/{enrollment}{rest}"))
    }

    async fn enroll(&self, api: &Api, body: Value) -> Value {
        api.create(&self.key, &self.path("enrollments"), body).await
    }

    async fn invite(&self, api: &Api, body: Value) -> Value {
        api.create(&self.key, &self.path("invites"), body).await
    }

    async fn get(&self, api: &Api, enrollment: &str) -> Value {
        let (status, mut answer) =
            api.call(&self.key, Method::GET, &self.of(enrollment, ""), &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"].take()
    }

    async fn patch(&self, api: &Api, enrollment: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = api.call(&self.key, Method::PATCH, &self.of(enrollment, ""), body).await;
        (status.as_u16(), answer)
    }
}

async fn post(api: &Api, key: &str, path: &str, body: &Value) -> (u16, Value) {
    let (status, answer) = api.call(key, Method::POST, path, body).await;
    (status.as_u16(), answer)
}

async fn get(api: &Api, key: &str, path: &str) -> Value {
    let (status, answer) = api.call(key, Method::GET, path, &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

fn code_of(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("none"))
}

/// A sale of 100.00 that was paid then and named the code.
fn sale(id: &str, code: &str, paid_at: Timestamp) -> Value {
    let object = json!({
        "id": format!("pi_{id}"), "amount_received": 10_000, "currency": "usd",
        "metadata": {"referral_code": code},
    });
    let mut event = stripe(id, "payment_intent.succeeded", &object);
    event["created"] = json!(paid_at.as_micros() / 1_000_000);
    event
}

/// A node beside the API, on the same database, with the API's time.
struct Books {
    node: Node,
    project: String,
}

impl Books {
    fn new(api: &Api, owner: &Owner) -> Self {
        Self { node: Node::new(api.app.db.clone(), 50), project: owner.project.clone() }
    }

    /// What the sales of an enrollment earned, after `events` as of `now`.
    async fn earned(&self, now: Timestamp, events: &[Value], enrollment: &str) -> Vec<i64> {
        const SQL: &str = "SELECT earned_minor FROM commission WHERE enrollment_id = $1 ORDER BY paid_at_us";
        self.node.clock.set(now);
        for event in events {
            self.node.receive(&self.project, "ep_site", "stripe", event.to_string().as_bytes()).await;
        }
        self.node.process_all().await;
        let mut conn = self.node.app.db.read().await.unwrap();
        conn.q(SQL).bind(enrollment).scalars().await.unwrap()
    }
}

/// Pages of two, joined; `between` runs after each page.
async fn all_pages(
    api: &Api,
    key: &str,
    path: &str,
    field: &str,
    mut between: impl AsyncFnMut(),
) -> Vec<String> {
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(api, key, &format!("{path}?limit=2{cursor}")).await;
        let rows = page["data"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row[field].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return seen };
        cursor = format!("&cursor={next}");
        between().await;
    }
}

on_each_engine! {
    async fn an_invited_organization_accepts_and_shares_its_code(db: TestDb) {
        // Boxes 25, 28, 29, 72, 73 and 74.
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let (_, peer_key) = api.tenant("Peer").await;
        let invited = owner.invite(&api, json!({"affiliate_org_id": ada})).await;
        let (id, code) = (id_of(&invited), invited["code"].as_str().unwrap());
        assert_eq!(
            (&invited["status"], &invited["program_id"], &invited["affiliate_org_id"], &invited["invite_token"]),
            (&json!("invited"), &json!(owner.program), &json!(ada), &Value::Null)
        );
        assert!(code.starts_with("aff_"), "{code}");

        let listed = get(&api, &ada_key, &format!("{ME}/invites")).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        let shown = &listed["data"][0];
        assert_eq!((id_of(shown), &shown["program_name"]), (id.clone(), &json!("Launch Partners")));
        assert_eq!(get(&api, &peer_key, &format!("{ME}/invites")).await["data"], json!([]));

        let accept = format!("{ME}/invites/{id}/accept");
        let missing = post(&api, &peer_key, &format!("{ME}/invites/par_none/accept"), &Value::Null).await;
        let mut foreign = post(&api, &peer_key, &accept, &Value::Null).await;
        foreign.1["error"]["request_id"] = missing.1["error"]["request_id"].clone();
        assert_eq!(foreign, missing, "a peer's invitation looks like none");

        for _ in 0..2 {
            let (status, answer) = post(&api, &ada_key, &accept, &Value::Null).await;
            assert_eq!((status, &answer["data"]["status"], &answer["data"]["code"]), (200, &json!("active"), &json!(code)));
        }
        assert_eq!(get(&api, &ada_key, &format!("{ME}/invites")).await["data"], json!([]));
        let own = get(&api, &ada_key, &format!("{ME}/enrollments")).await;
        assert_eq!((&own["data"][0]["status"], &own["data"][0]["codes"][0]["code"]), (&json!("active"), &json!(code)));
        assert_eq!(own["data"][0].get("parent_enrollment_id"), None, "a sponsor is a peer");
        let statuses = rows(&db.db, "SELECT effective_at_us, status FROM enrollment_status ORDER BY effective_at_us").await;
        assert_eq!(statuses, [(0, "invited".to_owned()), (1, "active".to_owned())], "one acceptance, from the beginning");
    }

    async fn only_an_invitation_is_accepted_or_declined(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        for (name, status, verdict, accepted, declined) in [
            ("a", "invited", None, Ok("active"), Err(409)),
            ("b", "pending", None, Err(409), Err(409)),
            ("c", "active", None, Ok("active"), Err(409)),
            ("d", "active", Some("suspend"), Err(409), Err(409)),
            ("e", "invited", Some("reject"), Err(409), Ok("rejected")),
        ] {
            let (organization, key) = api.tenant(name).await;
            let made = owner.enroll(&api, json!({"affiliate_org_id": organization, "status": status})).await;
            if let Some(verdict) = verdict {
                api.create(&owner.key, &owner.of(&id_of(&made), &format!("/{verdict}")), Value::Null).await;
            }
            for (word, expected) in [("accept", accepted), ("decline", declined)] {
                let path = format!("{ME}/invites/{}/{word}", id_of(&made));
                let answer = post(&api, &key, &path, &Value::Null).await;
                match expected {
                    Ok(status) => assert_eq!(answer.1["data"]["status"], json!(status), "{name} {word}"),
                    Err(status) => assert_eq!(code_of(&answer), (status, "INVALID_STATE"), "{name} {word}"),
                }
            }
        }
        let (organization, key) = api.tenant("f").await;
        let made = owner.invite(&api, json!({"affiliate_org_id": organization})).await;
        for _ in 0..2 {
            let (status, answer) = post(&api, &key, &format!("{ME}/invites/{}/decline", id_of(&made)), &Value::Null).await;
            assert_eq!((status, &answer["data"]["status"]), (200, &json!("rejected")));
        }
    }

    async fn whoever_was_invited_by_mail_takes_over_with_the_token(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let (_, bob_key) = api.tenant("Bob").await;
        let invited = owner.invite(&api, json!({"email": "Ada@x.org", "code": "ADA"})).await;
        let (id, token) = (id_of(&invited), invited["invite_token"].as_str().unwrap().to_owned());
        let accept = format!("{ME}/invites/accept");
        assert!(owner.get(&api, &id).await.get("invite_token").is_none(), "shown once");
        let stored: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT token_hash FROM invite_token").scalars().await.unwrap();
        assert!(stored.len() == 1 && stored[0].len() == 32 && stored[0] != token.as_bytes());

        for wrong in ["", "inv_", "nonsense", &token[..token.len() - 1], &token.to_uppercase()] {
            let answer = post(&api, &ada_key, &accept, &json!({"token": wrong})).await;
            assert_eq!(code_of(&answer), (400, "INVALID_TOKEN"), "{wrong}");
        }
        for _ in 0..2 {
            let (status, answer) = post(&api, &ada_key, &accept, &json!({"token": token})).await;
            assert_eq!((status, &answer["data"]["status"], &answer["data"]["code"]), (200, &json!("active"), &json!("ADA")));
            assert_eq!(id_of(&answer["data"]), id);
        }
        let used = post(&api, &bob_key, &accept, &json!({"token": token})).await;
        assert_eq!(code_of(&used), (400, "INVALID_TOKEN"), "for others a used token is none");
        assert_eq!(owner.get(&api, &id).await["affiliate_org_id"], json!(ada));
        assert_eq!(id_of(&get(&api, &ada_key, &format!("{ME}/enrollments")).await["data"][0]), id);
        let known = rows(&db.db, "SELECT CAST(1 AS BIGINT), email FROM organization_email WHERE organization_id IN
            (SELECT organization_id FROM enrollment)").await;
        assert_eq!(known, [(1, "ada@x.org".to_owned())], "a purchase from that address is still a self-referral");
        let renewed = post(&api, &owner.key, &owner.of(&id, "/invite-token"), &Value::Null).await;
        assert_eq!(code_of(&renewed), (409, "INVALID_STATE"), "it has its owner");
    }

    async fn a_token_ends_with_its_invitation_or_its_successor(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let accept = format!("{ME}/invites/accept");
        let invited = owner.invite(&api, json!({"email": "ada@x.org"})).await;
        let renew = owner.of(&id_of(&invited), "/invite-token");
        let (_, renewed) = post(&api, &owner.key, &renew, &Value::Null).await;
        let lost = post(&api, &ada_key, &accept, &json!({"token": invited["invite_token"]})).await;
        assert_eq!(code_of(&lost), (400, "INVALID_TOKEN"));
        api.create(&owner.key, &owner.of(&id_of(&invited), "/reject"), Value::Null).await;
        let withdrawn = post(&api, &ada_key, &accept, &json!({"token": renewed["data"]["invite_token"]})).await;
        assert_eq!(code_of(&withdrawn), (400, "INVALID_TOKEN"));
        assert_eq!(code_of(&post(&api, &owner.key, &renew, &Value::Null).await), (409, "INVALID_STATE"));

        // A direct enrollment by address has a token too, and stays in the status that the owner gave it.
        let suspended = owner.enroll(&api, json!({"email": "two@x.org"})).await;
        api.create(&owner.key, &owner.of(&id_of(&suspended), "/suspend"), Value::Null).await;
        let (_, taken) = post(&api, &ada_key, &accept, &json!({"token": suspended["invite_token"]})).await;
        assert_eq!(taken["data"]["status"], json!("suspended"));
        let second = owner.invite(&api, json!({"email": "three@x.org"})).await;
        let twice = post(&api, &ada_key, &accept, &json!({"token": second["invite_token"]})).await;
        assert_eq!(code_of(&twice), (409, "ALREADY_ENROLLED"));
        let direct = owner.enroll(&api, json!({"affiliate_org_id": api.tenant("Eve").await.0})).await;
        assert_eq!(direct["invite_token"], Value::Null);
        let renewed = post(&api, &owner.key, &owner.of(&id_of(&direct), "/invite-token"), &Value::Null).await;
        assert_eq!(code_of(&renewed), (409, "INVALID_STATE"), "{ada} needs no token");
    }

    async fn of_two_who_present_one_token_at_once_one_gets_it(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (_, first) = api.tenant("First").await;
        let (_, second) = api.tenant("Second").await;
        let invited = owner.invite(&api, json!({"email": "ada@x.org"})).await;
        let body = json!({"token": invited["invite_token"]});
        let accept = format!("{ME}/invites/accept");
        let (one, two) = tokio::join!(post(&api, &first, &accept, &body), post(&api, &second, &accept, &body));
        let mut statuses = [one.0, two.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400]);
        let winner = if one.0 == 200 { &first } else { &second };
        assert_eq!(get(&api, winner, &format!("{ME}/enrollments")).await["data"].as_array().unwrap().len(), 1);
    }

    async fn an_invitation_tells_nobody_whether_an_address_is_known(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let signup = json!({"email": "known@x.org", "name": "Known"});
        let (_, known) = post(&api, "", "/v1/public/affiliate/signup", &signup).await;
        let known_key = known["data"]["key"].as_str().unwrap();
        let shape = |answer: &Value| {
            let fields = answer.as_object().unwrap();
            fields.iter().map(|(name, value)| (name.clone(), value.is_null(), value.is_string())).collect::<Vec<_>>()
        };
        let of_known = owner.invite(&api, json!({"email": "known@x.org"})).await;
        let of_unknown = owner.invite(&api, json!({"email": "unknown@x.org"})).await;
        assert_eq!(shape(&of_known), shape(&of_unknown));
        assert_ne!(of_known["affiliate_org_id"], known["data"]["organization"]["id"]);
        // Nobody has verified the address that somebody signed up with, so it opens nothing.
        assert_eq!(get(&api, known_key, &format!("{ME}/invites")).await["data"], json!([]));
        let path = format!("{ME}/invites/{}/accept", id_of(&of_known));
        assert_eq!(code_of(&post(&api, known_key, &path, &Value::Null).await), (404, "NOT_FOUND"));
    }

    async fn affiliates_apply_only_where_a_program_takes_applications(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (_, ada) = api.tenant("Ada").await;
        let apply = format!("{ME}/applications");
        let body = json!({"program_id": owner.program});
        let strip = |mut answer: (u16, Value)| {
            answer.1["error"]["request_id"].take();
            answer
        };
        let missing = strip(post(&api, &ada, &apply, &json!({"program_id": "prog_none"})).await);
        assert_eq!(code_of(&missing), (404, "NOT_FOUND"));
        assert_eq!(strip(post(&api, &ada, &apply, &body).await), missing, "a closed program looks like none");
        assert_eq!(strip(post(&api, &ada, &apply, &json!({"program_id": "nonsense"})).await), missing);
        let program = format!("{PROGRAMS}/{}", owner.program);
        let open = json!({"applications": "open"});
        let (_, shown) = api.call(&owner.key, Method::PATCH, &program, &open).await;
        assert_eq!(shown["data"]["applications"], json!("open"));

        let (status, applied) = post(&api, &ada, &apply, &body).await;
        assert_eq!((status, &applied["data"]["status"]), (201, &json!("pending")));
        let id = id_of(&applied["data"]);
        let accept = post(&api, &ada, &format!("{ME}/invites/{id}/accept"), &Value::Null).await;
        assert_eq!(code_of(&accept), (409, "INVALID_STATE"), "nobody lets themselves in");
        assert_eq!(code_of(&post(&api, &ada, &apply, &body).await), (409, "ALREADY_ENROLLED"));
        let approved = api.create(&owner.key, &owner.of(&id, "/approve"), Value::Null).await;
        assert_eq!(approved["status"], json!("active"));
        let (_, bob) = api.tenant("Bob").await;
        api.call(&owner.key, Method::PATCH, &program, &json!({"status": "paused"})).await;
        assert_eq!(strip(post(&api, &bob, &apply, &body).await), missing, "only an active program takes them");
        assert_eq!(code_of(&post(&api, &ada, &apply, &body).await), (409, "ALREADY_ENROLLED"));
        let refused = api.refusal(&owner.key, Method::PATCH, &program, &json!({"applications": "maybe"})).await;
        assert_eq!(refused, (400, "INVALID_APPLICATIONS".to_owned()));
    }

    async fn the_affiliates_side_is_for_organization_keys(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let client = json!({"kind": "client", "project_id": owner.project});
        let client = api.create(&owner.key, "/v1/admin/keys", client).await;
        let client = client["key"].as_str().unwrap();
        let reader = json!({"kind": "organization", "scopes": ["read"]});
        let reader = api.create(&owner.key, "/v1/admin/keys", reader).await;
        let reader = reader["key"].as_str().unwrap();
        for (method, path, body) in [
            (Method::GET, "invites", Value::Null),
            (Method::GET, "enrollments", Value::Null),
            (Method::GET, "enrollments/par_1/codes", Value::Null),
            (Method::POST, "enrollments/par_1/codes", Value::Null),
            (Method::POST, "invites/par_1/accept", Value::Null),
            (Method::POST, "invites/par_1/decline", Value::Null),
            (Method::POST, "invites/accept", json!({"token": "inv_x"})),
            (Method::POST, "applications", json!({"program_id": owner.program})),
        ] {
            let path = format!("{ME}/{path}");
            for key in [&api.operator, client] {
                assert_eq!(api.refusal(key, method.clone(), &path, &body).await, (403, "FORBIDDEN".to_owned()), "{path}");
            }
            assert_eq!(api.refusal("", method.clone(), &path, &body).await.0, 401, "{path}");
            if method == Method::POST {
                assert_eq!(api.refusal(reader, method, &path, &body).await, (403, "FORBIDDEN".to_owned()), "{path}");
            }
        }
    }

    async fn another_owner_reaches_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (owner, stranger) = (Owner::new(&api).await, Owner::new(&api).await);
        let id = id_of(&owner.enroll(&api, json!({"email": "a@x.org", "code": "ada"})).await);
        for (method, path, body) in [
            (Method::POST, owner.path("invites"), json!({"email": "b@x.org"})),
            (Method::GET, owner.of(&id, ""), Value::Null),
            (Method::PATCH, owner.of(&id, ""), json!({"commission_override": {"bps": 1}})),
            (Method::POST, owner.of(&id, "/invite-token"), Value::Null),
            (Method::GET, owner.of(&id, "/codes"), Value::Null),
            (Method::POST, owner.of(&id, "/codes"), json!({"code": "mine"})),
            (Method::DELETE, owner.of(&id, "/codes/ada"), Value::Null),
            // Under a program of its own, and under one that does not exist.
            (Method::GET, stranger.of(&id, ""), Value::Null),
            (Method::PATCH, stranger.of(&id, ""), json!({})),
            (Method::GET, stranger.of(&id, "/codes"), Value::Null),
            (Method::DELETE, stranger.of(&id, "/codes/ada"), Value::Null),
            (Method::GET, format!("{PROGRAMS}/prog_none/enrollments/{id}"), Value::Null),
        ] {
            let refusal = api.refusal(&stranger.key, method.clone(), &path, &body).await;
            assert_eq!(refusal, (404, "NOT_FOUND".to_owned()), "{method} {path}");
        }
        let (_, affiliate) = api.tenant("Peer").await;
        let own = format!("{ME}/enrollments/{id}/codes");
        for method in [Method::GET, Method::POST] {
            assert_eq!(api.refusal(&affiliate, method, &own, &Value::Null).await, (404, "NOT_FOUND".to_owned()));
        }
        assert_eq!(get(&api, &owner.key, &owner.of(&id, "/codes")).await["data"][0]["retired_at"], Value::Null);
    }

    async fn a_rotation_gives_a_fresh_code_and_ends_the_others_on_request(db: TestDb) {
        // Boxes 30 and 219.
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let made = owner.enroll(&api, json!({"affiliate_org_id": ada, "code": "first"})).await;
        let codes = format!("{ME}/enrollments/{}/codes", id_of(&made));
        let coupon = json!({"code": "SAVE10", "kind": "coupon"});
        api.create(&owner.key, &owner.of(&id_of(&made), "/codes"), coupon).await;
        api.clock.advance_secs(1);
        let second = api.create(&ada_key, &codes, Value::Null).await;
        let second = second["code"].as_str().unwrap();
        assert!(second.starts_with("aff_"), "{second}");
        let live = async || {
            let listed = get(&api, &ada_key, &codes).await;
            let live = listed["data"].as_array().unwrap().iter().filter(|code| code["retired_at"].is_null());
            live.map(|code| code["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(live().await, [second, "SAVE10", "first"], "several live at once");
        assert_eq!(owner.get(&api, &id_of(&made)).await["code"], json!(second));

        api.clock.advance_secs(1);
        let third = api.create(&ada_key, &codes, json!({"retire_others": true})).await;
        let third = third["code"].as_str().unwrap();
        assert_ne!(third, second);
        assert_eq!(live().await, [third, "SAVE10"], "a coupon is the owner's and goes on");
        assert_eq!(owner.get(&api, &id_of(&made)).await["code"], json!(third));
        let own = get(&api, &ada_key, &format!("{ME}/enrollments")).await;
        assert_eq!(own["data"][0]["codes"].as_array().unwrap().len(), 2);

        let chosen = api.refusal(&ada_key, Method::POST, &codes, &json!({"code": "apple"})).await;
        assert_eq!(chosen, (400, "INVALID_BODY".to_owned()), "an affiliate chooses no text");
        api.create(&owner.key, &owner.of(&id_of(&made), "/suspend"), Value::Null).await;
        let refused = api.refusal(&ada_key, Method::POST, &codes, &Value::Null).await;
        assert_eq!(refused, (409, "INVALID_STATE".to_owned()));
    }

    async fn an_owners_code_is_unique_in_any_case_and_for_ever(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (one, two) = (
            id_of(&owner.enroll(&api, json!({"email": "one@x.org", "code": "Ada"})).await),
            id_of(&owner.enroll(&api, json!({"email": "two@x.org"})).await),
        );
        for (enrollment, body, status, code) in [
            (&two, json!({"code": "aDA"}), 409, "CODE_TAKEN"),
            (&one, json!({"code": "ada"}), 409, "CODE_TAKEN"),
            (&two, json!({"code": "a"}), 400, "INVALID_CODE"),
            (&two, json!({"code": "a/b"}), 400, "INVALID_CODE"),
            (&two, json!({"kind": "banner"}), 400, "INVALID_KIND"),
            (&two, json!({"colour": 1}), 400, "INVALID_BODY"),
            (&two, json!({"code": "bob", "kind": "coupon"}), 201, "none"),
            (&two, json!({}), 201, "none"),
        ] {
            let answer = post(&api, &owner.key, &owner.of(enrollment, "/codes"), &body).await;
            assert_eq!(code_of(&answer), (status, code), "{body}");
        }
        let path = owner.of(&one, "/codes/ADA");
        let (_, first) = api.call(&owner.key, Method::DELETE, &path, &Value::Null).await;
        assert_eq!((&first["data"]["code"], &first["data"]["retired_at"]), (&json!("Ada"), &json!(NOW.to_string())));
        api.clock.advance_secs(60);
        let (_, again) = api.call(&owner.key, Method::DELETE, &path, &Value::Null).await;
        assert_eq!(again, first, "ending it again changes nothing");
        let reused = post(&api, &owner.key, &owner.of(&two, "/codes"), &json!({"code": "ada"})).await;
        assert_eq!(code_of(&reused), (409, "CODE_TAKEN"), "old sales still name it");
        let foreign = api.refusal(&owner.key, Method::DELETE, &owner.of(&one, "/codes/bob"), &Value::Null).await;
        assert_eq!(foreign, (404, "NOT_FOUND".to_owned()));
        api.create(&owner.key, &owner.of(&one, "/reject"), Value::Null).await;
        let rejected = post(&api, &owner.key, &owner.of(&one, "/codes"), &json!({})).await;
        assert_eq!(code_of(&rejected), (409, "INVALID_STATE"));
    }

    async fn fresh_codes_have_a_bound_for_each_day(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let made = owner.enroll(&api, json!({"affiliate_org_id": ada, "code": "first"})).await;
        let codes = format!("{ME}/enrollments/{}/codes", id_of(&made));
        let retire = json!({"retire_others": true});
        // With the first one, twenty within a day; that the others are retired makes no room.
        for _ in 1..20 {
            api.clock.advance_secs(60);
            api.create(&ada_key, &codes, retire.clone()).await;
        }
        let refused = post(&api, &ada_key, &codes, &retire).await;
        assert_eq!(code_of(&refused), (409, "TOO_MANY_CODES"));
        let listed = get(&api, &ada_key, &codes).await;
        let live = listed["data"].as_array().unwrap().iter().filter(|code| code["retired_at"].is_null());
        assert_eq!(live.count(), 1, "a refusal retires nothing");
        api.clock.advance_secs(86_400 - 19 * 60);
        api.create(&ada_key, &codes, retire.clone()).await;
        assert_eq!(code_of(&post(&api, &ada_key, &codes, &retire).await), (409, "TOO_MANY_CODES"));
    }

    async fn live_codes_have_a_bound(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let id = id_of(&owner.enroll(&api, json!({"email": "one@x.org"})).await);
        for _ in 1..100 {
            api.create(&owner.key, &owner.of(&id, "/codes"), Value::Null).await;
        }
        let full = post(&api, &owner.key, &owner.of(&id, "/codes"), &json!({})).await;
        assert_eq!(code_of(&full), (409, "TOO_MANY_CODES"));
    }

    async fn a_retired_code_counts_for_what_was_paid_before(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let books = Books::new(&api, &owner);
        let id = id_of(&owner.enroll(&api, json!({"email": "ada@x.org", "code": "ada"})).await);
        // A sale that told a code before it was made counts once it is.
        let early = [sale("early", "later", NOW.plus_secs(-60))];
        assert_eq!(books.earned(NOW, &early, &id).await, [0_i64; 0]);
        api.create(&owner.key, &owner.of(&id, "/codes"), json!({"code": "later"})).await;
        assert_eq!(books.earned(NOW, &[], &id).await, [2_000]);

        api.clock.advance_secs(100);
        api.call(&owner.key, Method::DELETE, &owner.of(&id, "/codes/ada"), &Value::Null).await;
        let late = [sale("before", "ada", NOW.plus_secs(99)), sale("after", "ada", NOW.plus_secs(100))];
        assert_eq!(books.earned(NOW.plus_secs(200), &late, &id).await, [2_000, 2_000]);
    }

    async fn a_suspended_affiliate_earns_nothing_new_until_approved_again(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let books = Books::new(&api, &owner);
        let id = id_of(&owner.enroll(&api, json!({"email": "ada@x.org", "code": "ada"})).await);
        api.clock.advance_secs(100);
        api.create(&owner.key, &owner.of(&id, "/suspend"), Value::Null).await;
        api.clock.advance_secs(100);
        let back = api.create(&owner.key, &owner.of(&id, "/approve"), Value::Null).await;
        assert_eq!(back["status"], json!("active"));
        let sales = [
            sale("before", "ada", NOW.plus_secs(50)),
            sale("while", "ada", NOW.plus_secs(150)),
            sale("after", "ada", NOW.plus_secs(250)),
        ];
        assert_eq!(books.earned(NOW.plus_secs(300), &sales, &id).await, [2_000, 2_000]);
        let paid = rows(&db.db, "SELECT paid_at_us, state FROM commission ORDER BY paid_at_us").await;
        let times: Vec<i64> = paid.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [NOW.plus_secs(50).as_micros(), NOW.plus_secs(250).as_micros()]);
    }

    async fn a_rate_of_its_own_holds_from_the_beginning_or_from_its_change(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let rate = json!({"bps": 3_000});
        let made = owner.invite(&api, json!({"email": "ada@x.org", "commission_override": rate})).await;
        let id = id_of(&made);
        assert_eq!(made["commission_override"], rate);
        for (seconds, change, expected) in [
            (10, json!({"commission_override": rate}), &rate),
            (20, json!({"commission_override": {"amount_cents": 500, "currency": "usd"}}), &json!({"amount_cents": 500, "currency": "usd"})),
            (30, json!({}), &json!({"amount_cents": 500, "currency": "usd"})),
            (40, json!({"commission_override": null}), &Value::Null),
        ] {
            api.clock.set(NOW.plus_secs(seconds));
            let (status, answer) = owner.patch(&api, &id, &change).await;
            assert_eq!((status, &answer["data"]["commission_override"]), (200, expected), "{change}");
        }
        assert_eq!(owner.get(&api, &id).await["commission_override"], Value::Null);
        let kept = rows(&db.db, "SELECT effective_at_us, COALESCE(rate, 'none') FROM enrollment_rate ORDER BY effective_at_us").await;
        let starts: Vec<i64> = kept.iter().map(|(at, _)| *at).collect();
        assert_eq!(starts, [0, NOW.plus_secs(20).as_micros(), NOW.plus_secs(40).as_micros()]);
        assert_eq!((kept[0].1.as_str(), kept[2].1.as_str()), (r#"{"bps":3000}"#, "none"));
        for (path, method) in [(owner.of(&id, ""), Method::PATCH), (owner.path("enrollments"), Method::POST), (owner.path("invites"), Method::POST)] {
            let mut body = json!({"commission_override": {"bps": 10_001}});
            if method == Method::POST {
                body["email"] = json!("bob@x.org");
            }
            let refusal = api.refusal(&owner.key, method, &path, &body).await;
            assert_eq!(refusal, (400, "INVALID_COMMISSION_OVERRIDE".to_owned()), "{path}");
        }
    }

    async fn affiliates_are_placed_under_a_sponsor_without_circles(db: TestDb) {
        // Boxes 75 and 218: placing is always possible; whether it earns is for both gates.
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let top = id_of(&owner.enroll(&api, json!({"email": "top@x.org"})).await);
        let mid = owner.enroll(&api, json!({"email": "mid@x.org", "parent_enrollment_id": top})).await;
        assert_eq!(mid["parent_enrollment_id"], json!(top));
        let mid = id_of(&mid);
        let low = owner.invite(&api, json!({"email": "low@x.org", "parent_enrollment_id": mid})).await;
        let low = id_of(&low);
        let elsewhere = Owner::new(&api).await;
        let foreign = id_of(&elsewhere.enroll(&api, json!({"email": "f@x.org"})).await);
        api.clock.advance_secs(10);
        for (enrollment, parent, status, code) in [
            (&top, json!(top), 409, "SPONSOR_CYCLE"),
            (&top, json!(mid), 409, "SPONSOR_CYCLE"),
            (&top, json!(low), 409, "SPONSOR_CYCLE"),
            (&top, json!(foreign), 400, "INVALID_PARENT"),
            (&top, json!("par_none"), 400, "INVALID_PARENT"),
            (&top, json!("nonsense"), 400, "INVALID_PARENT"),
            (&top, json!(7), 400, "INVALID_PARENT"),
            (&low, json!(top), 200, "none"),
            (&mid, json!(low), 200, "none"),
            (&mid, json!(low), 200, "none"),
            (&low, json!(null), 200, "none"),
            (&top, json!(mid), 200, "none"),
        ] {
            let answer = owner.patch(&api, enrollment, &json!({"parent_enrollment_id": parent})).await;
            assert_eq!(code_of(&answer), (status, code), "{enrollment} under {parent}: {}", answer.1);
        }
        assert_eq!(owner.get(&api, &mid).await["parent_enrollment_id"], json!(low));
        assert_eq!(owner.get(&api, &low).await["parent_enrollment_id"], Value::Null);

        let mut conn = db.db.read().await.unwrap();
        let asked = EnrollmentId::parse(&top).unwrap();
        let directory = load_directory(&mut conn, &[], &[asked]).await.unwrap();
        assert_eq!(directory.enrollments.len(), 3, "the whole chain of a touched enrollment");
        let history = |id: &str| {
            let found = &directory.enrollments[&EnrollmentId::parse(id).unwrap()];
            found.sponsors.iter().map(|row| (row.at, row.value.as_ref().map(ToString::to_string))).collect::<Vec<_>>()
        };
        let at = |micros: i64| NOW.plus_secs(10).plus_micros(micros);
        // Changes of one program never begin at once.
        assert_eq!(history(&low), [
            (Timestamp::EPOCH, Some(mid.clone())), (at(0), Some(top.clone())), (at(2), None),
        ]);
        assert_eq!(history(&mid), [(Timestamp::EPOCH, Some(top.clone())), (at(1), Some(low.clone()))]);
        assert_eq!(history(&top), [(at(3), Some(mid.clone()))]);
    }

    async fn a_chain_of_sponsors_has_a_bound_from_both_ends(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let mut chain = Vec::new();
        for level in 0..=10 {
            let parent = chain.last().map_or(Value::Null, |id| json!(id));
            let body = json!({"email": format!("l{level}@x.org"), "parent_enrollment_id": parent});
            chain.push(id_of(&owner.enroll(&api, body).await));
        }
        let under_last = json!({"email": "x@x.org", "parent_enrollment_id": chain[10]});
        let refusal = api.refusal(&owner.key, Method::POST, &owner.path("enrollments"), &under_last).await;
        assert_eq!(refusal, (409, "SPONSOR_TOO_DEEP".to_owned()));
        let above = id_of(&owner.enroll(&api, json!({"email": "y@x.org"})).await);
        let answer = owner.patch(&api, &chain[0], &json!({"parent_enrollment_id": above})).await;
        assert_eq!(code_of(&answer), (409, "SPONSOR_TOO_DEEP"));
        let answer = owner.patch(&api, &chain[1], &json!({"parent_enrollment_id": above})).await;
        assert_eq!(answer.0, 200, "nine levels fit under the second");
        let left = rows(&db.db, "SELECT created_at_us, email FROM organization WHERE email = 'x@x.org'").await;
        assert!(left.is_empty(), "a refused enrollment leaves nothing behind");
    }

    async fn changes_at_once_close_no_circle(db: TestDb) {
        let api = Api::new(&db.db).await;
        let owner = Owner::new(&api).await;
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            ids.push(id_of(&owner.enroll(&api, json!({"email": format!("{name}@x.org")})).await));
        }
        let place = async |child: usize, parent: usize| {
            owner.patch(&api, &ids[child], &json!({"parent_enrollment_id": ids[parent]})).await.0
        };
        let (one, two, three) = tokio::join!(place(0, 1), place(1, 2), place(2, 0));
        let mut statuses = [one, two, three];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 409], "whichever comes last is refused");
    }

    async fn lists_stay_whole_while_rows_are_added(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (ada, ada_key) = api.tenant("Ada").await;
        let mut expected = Vec::new();
        let first = Owner::new(&api).await;
        for n in 0..5 {
            api.clock.advance_secs(1);
            let owner = if n == 0 { &first } else { &Owner::new(&api).await };
            expected.push(id_of(&owner.invite(&api, json!({"affiliate_org_id": ada})).await));
        }
        expected.reverse();
        for list in ["invites", "enrollments"] {
            let path = format!("{ME}/{list}");
            let seen = all_pages(&api, &ada_key, &path, "id", async || {
                api.clock.advance_secs(1);
                let (key, program) = (&api.operator, api.program(&api.operator).await);
                api.create(key, &format!("{PROGRAMS}/{program}/invites"), json!({"affiliate_org_id": ada})).await;
            }).await;
            let known: Vec<_> = seen.iter().filter(|id| expected.contains(id)).cloned().collect();
            assert_eq!(known, expected, "{list}");
            let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
            assert_eq!(distinct.len(), seen.len(), "{list}: nothing twice");
        }

        // Codes of one instant are in order too, and an enrollment with many codes is listed once.
        let id = expected.last().unwrap();
        let path = first.of(id, "/codes");
        for _ in 0..5 {
            api.create(&first.key, &path, Value::Null).await;
        }
        let before = get(&api, &first.key, &format!("{path}?limit=100")).await;
        let before: Vec<_> = before["data"].as_array().unwrap().iter().map(|row| row["code"].as_str().unwrap().to_owned()).collect();
        assert_eq!(before.len(), 6);
        let seen = all_pages(&api, &first.key, &path, "code", async || {
            api.clock.advance_secs(1);
            api.create(&first.key, &path, Value::Null).await;
        }).await;
        assert_eq!(seen, before);
        let listed = get(&api, &first.key, &first.path("enrollments")).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    }
}
