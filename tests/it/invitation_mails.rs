//! Invitations by e-mail, told by the mail alone: it brings the token that opens the enrollment, once, and no
//! token that opens nothing. Until then the token is sealed, and afterwards it is nowhere.

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use remit::{app::App, store::Db};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    mail::{
        assert_says, mail, mails, number, send, settings,
        smtp::{MailServer, Taken},
    },
    support::{
        TestDb,
        api::{Api, MASTER_KEY, OTHER_MASTER_KEY, PROGRAMS, config, id_of},
        on_each_engine,
    },
};

const ACCEPT: &str = "/v1/affiliate/me/invites/accept";
const WAITING: &str = "SELECT COUNT(*) FROM notice WHERE token_sealed IS NOT NULL";

/// A program whose owner invites, and the server that takes the mail.
struct Desk {
    server: MailServer,
    api: Api,
    key: String,
    program: String,
}

impl Desk {
    /// `None` where there is no mail server to test with.
    async fn open(db: &Db, further: &[(&str, &str)]) -> Option<Self> {
        let server = MailServer::start()?;
        let url = server.url();
        let api = Api::with(db, &[&settings(&url)[..], further].concat()).await;
        let (_, key) = api.tenant("Example Shop").await;
        let program = api.program(&key).await;
        Some(Self { server, api, key, program })
    }

    fn path(&self, rest: &str) -> String {
        format!("{PROGRAMS}/{}/{rest}", self.program)
    }

    /// Invites somebody; the enrollment and the token, as the owner is answered.
    async fn invite(&self, address: &str) -> (String, String) {
        let made = self.api.create(&self.key, &self.path("invites"), json!({"email": address})).await;
        (id_of(&made), made["invite_token"].as_str().unwrap().to_owned())
    }

    /// A fresh token for an enrollment.
    async fn renew(&self, enrollment: &str) -> String {
        let path = self.path(&format!("enrollments/{enrollment}/invite-token"));
        let made = self.api.create(&self.key, &path, Value::Null).await;
        made["invite_token"].as_str().unwrap().to_owned()
    }

    async fn judge(&self, enrollment: &str, verdict: &str) {
        let path = self.path(&format!("enrollments/{enrollment}/{verdict}"));
        self.api.create(&self.key, &path, Value::Null).await;
    }

    /// The key of somebody who has just signed up.
    async fn stranger(&self, address: &str) -> String {
        let body = json!({"email": address, "name": "Ada"});
        let made = self.api.create("", "/v1/public/affiliate/signup", body).await;
        made["key"].as_str().unwrap().to_owned()
    }

    /// The status of an enrollment that is taken over with a token; the refusal's code where it is not.
    async fn accept(&self, key: &str, token: &str) -> String {
        let (_, answer) = self.api.call(key, Method::POST, ACCEPT, &json!({"token": token})).await;
        let word = answer["data"]["status"].as_str().or(answer["error"]["code"].as_str());
        word.unwrap().to_owned()
    }

    async fn send(&self) -> usize {
        send(&self.api.app).await
    }
}

/// The token that a mail brings by itself.
fn token_in(taken: &Taken) -> Option<&str> {
    let line = taken.text("text").lines().find_map(|line| line.trim().strip_prefix("- Your token: "))?;
    assert_says(taken, &format!("Your token: {line}"));
    Some(line)
}

/// No text and no bytes of the table hold the token.
async fn assert_not_stored(app: &App, token: &str) {
    const SQL: &str =
        "SELECT COALESCE(word, '') || COALESCE(reason, '') || object_id, token_sealed FROM notice";
    let rows: Vec<(String, Option<Vec<u8>>)> = app.db.read().await.unwrap().q(SQL).all().await.unwrap();
    assert!(!rows.is_empty());
    for (text, sealed) in rows {
        let sealed = sealed.unwrap_or_default();
        let is_in_bytes = sealed.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!text.contains(token) && !is_in_bytes, "{text}");
    }
}

on_each_engine! {
    async fn a_stranger_takes_the_invitation_up_by_what_the_mail_says(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[("REMIT_SERVER__PUBLIC_URL", "https://pay.example.com/")]).await
        else { return };
        let (_, shown) = desk.invite("ada@example.com").await;
        assert_not_stored(&desk.api.app, &shown).await;
        assert_eq!(number(&db.db, WAITING).await, 1);
        assert_eq!(desk.send().await, 1);
        assert_eq!(number(&db.db, WAITING).await, 0, "it is not kept once it was sent");

        let told = &desk.server.taken()[0];
        assert_eq!(told.to(), "ada@example.com");
        let token = token_in(told).unwrap();
        assert_eq!(token, shown, "the owner may hand on what the mail brings");
        assert_says(told, "curl https://pay.example.com/v1/public/affiliate/signup");
        assert_says(told, "curl https://pay.example.com/v1/affiliate/me/invites/accept");
        // Any address will do: what counts is who could read the mail.
        let stranger = desk.stranger("another@example.com").await;
        assert_eq!(desk.accept(&stranger, token).await, "active");
    }

    async fn where_nobody_signs_up_the_mail_says_who_gives_a_key(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[("REMIT_PROGRAMS__PUBLIC_SIGNUP", "false")]).await else { return };
        desk.invite("ada@example.com").await;
        desk.send().await;
        let told = &desk.server.taken()[0];
        assert_says(told, "Get a key, unless you have one: Example Shop gives it to you.");
        assert!(!told.text("text").contains("/signup"), "{told:?}");
    }

    async fn the_operators_own_page_is_linked_with_the_token(db: TestDb) {
        let page = ("REMIT_MAIL__INVITE_URL", "https://partners.example.com/join?from=mail&x=1#token={token}");
        let Some(desk) = Desk::open(&db.db, &[page]).await else { return };
        let (_, token) = desk.invite("ada@example.com").await;
        desk.send().await;
        let told = &desk.server.taken()[0];
        let link = format!("https://partners.example.com/join?from=mail&x=1#token={token}");
        assert!(told.text("text").lines().any(|line| line == link), "{told:?}");
        let escaped = link.replace('&', "&#38;");
        assert!(told.text("html").contains(&format!("<a href=\"{escaped}\">{escaped}</a>")), "{told:?}");
        assert!(!told.text("text").contains("Your token") && !told.text("text").contains("curl"), "{told:?}");
    }

    async fn a_renewed_token_is_mailed_and_the_one_before_is_not(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        let (enrollment, first) = desk.invite("ada@example.com").await;
        let second = desk.renew(&enrollment).await;
        assert_eq!(number(&db.db, WAITING).await, 1);
        desk.send().await;
        let taken = desk.server.taken();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(token_in(&taken[0]), Some(&*second));
        assert!(mails(&db.db).await.contains(&mail("discarded", "superseded")));

        // At the same instant, and after the mail was sent: a mail of its own.
        let third = desk.renew(&enrollment).await;
        assert_eq!(desk.send().await, 1);
        let taken = desk.server.taken();
        assert_eq!(token_in(&taken[1]), Some(&*third));
        assert_ne!(taken[0].header("Message-ID"), taken[1].header("Message-ID"));
        let stranger = desk.stranger("ada@example.com").await;
        for lost in [first, second] {
            assert_eq!(desk.accept(&stranger, &lost).await, "INVALID_TOKEN");
        }
        assert_eq!(desk.accept(&stranger, &third).await, "active");
    }

    async fn an_invitation_that_ended_before_its_mail_was_sent_brings_no_token(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        let (withdrawn, _) = desk.invite("withdrawn@example.com").await;
        let (_, handed_on) = desk.invite("taken@example.com").await;
        desk.judge(&withdrawn, "reject").await;
        let stranger = desk.stranger("somebody@example.com").await;
        assert_eq!(desk.accept(&stranger, &handed_on).await, "active");
        assert_eq!(number(&db.db, WAITING).await, 0);
        desk.send().await;
        let mut told: Vec<(String, String)> = Vec::new();
        for taken in desk.server.taken() {
            assert_eq!(token_in(&taken), None, "{taken:?}");
            told.push((taken.to().to_owned(), taken.header("Subject").to_owned()));
        }
        told.sort();
        let subject = |to: &str, words: &str| (to.to_owned(), words.to_owned());
        assert_eq!(told, [
            subject("somebody@example.com", "You are an affiliate of Launch Partners"),
            subject("withdrawn@example.com", "Your application to Launch Partners"),
        ]);
    }

    async fn whoever_was_let_in_before_the_mail_was_sent_gets_the_token_all_the_same(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        let (enrollment, token) = desk.invite("ada@example.com").await;
        desk.judge(&enrollment, "approve").await;
        // And who was enrolled without being asked.
        let made = desk.api.create(&desk.key, &desk.path("enrollments"), json!({"email": "bob@example.com"})).await;
        desk.send().await;
        let tokens: Vec<String> =
            desk.server.taken().iter().filter_map(token_in).map(str::to_owned).collect();
        assert_eq!(tokens.len(), 2, "{tokens:?}");
        for expected in [&token, made["invite_token"].as_str().unwrap()] {
            assert!(tokens.iter().any(|token| token == expected), "{tokens:?}");
        }
        let stranger = desk.stranger("ada@example.com").await;
        assert_eq!(desk.accept(&stranger, &token).await, "active");
    }

    async fn a_repeat_under_its_idempotency_key_makes_no_second_mail(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        for times in 1..=2 {
            let request = Request::post(desk.path("invites"))
                .header(header::AUTHORIZATION, format!("Bearer {}", desk.key))
                .header("idempotency-key", "invite-ada")
                .body(Body::from(json!({"email": "ada@example.com"}).to_string()))
                .unwrap();
            let answer = desk.api.router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), 201);
            assert_eq!(answer.headers().contains_key("idempotent-replayed"), times == 2);
        }
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 1);
        assert_eq!(desk.send().await, 1);
        assert!(token_in(&desk.server.taken()[0]).is_some());
    }

    async fn an_organization_is_invited_without_a_token(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        let body = json!({"name": "Ada", "email": "ada@example.com"});
        let ada = id_of(&desk.api.create(&desk.api.operator, "/v1/admin/organizations", body).await);
        let made = desk.api.create(&desk.key, &desk.path("invites"), json!({"affiliate_org_id": ada})).await;
        assert_eq!(made["invite_token"], Value::Null);
        assert_eq!(desk.send().await, 1);
        let told = &desk.server.taken()[0];
        assert_eq!(told.header("Subject"), "Example Shop invites you to the affiliate program Launch Partners");
        assert_eq!(token_in(told), None);
        assert!(!told.text("text").contains("http"), "{told:?}");
    }

    async fn a_token_that_does_not_open_waits_for_the_key_that_it_was_sealed_with(db: TestDb) {
        let Some(desk) = Desk::open(&db.db, &[]).await else { return };
        let (_, token) = desk.invite("ada@example.com").await;
        let with_key = |key| {
            let url = desk.server.url();
            let mut settings = settings(&url).to_vec();
            settings.retain(|(name, _)| *name != "REMIT_SECRETS__MASTER_KEY");
            settings.push(("REMIT_SECRETS__MASTER_KEY", key));
            App { config: config(&settings), ..desk.api.app.clone() }
        };
        send(&with_key(OTHER_MASTER_KEY)).await;
        assert_eq!(mails(&db.db).await, [mail("retryable", "token_sealed")]);
        assert!(desk.server.taken().is_empty());
        desk.api.clock.advance_secs(60);
        assert_eq!(send(&with_key(MASTER_KEY)).await, 1);
        assert_eq!(token_in(&desk.server.taken()[0]), Some(&*token));
    }

    async fn no_token_waits_while_mail_is_off(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, key) = api.tenant("quiet").await;
        let program = api.program(&key).await;
        let made = api.create(&key, &format!("{PROGRAMS}/{program}/invites"), json!({"email": "eve@example.com"})).await;
        assert!(made["invite_token"].is_string());
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 0);
    }
}
