//! What affiliates are told by e-mail, against a mail server in another process: each thing once, to the
//! right address, in words that are true when it is sent, whatever the server does meanwhile.

#[path = "../smtp/mod.rs"]
pub mod smtp;

use std::sync::Arc;

use axum::http::Method;
use remit::{
    app::{App, doctor, notices::send},
    domain::{
        commission::{ClawbackReason, DecisionKind},
        ids::EnrollmentId,
        money::{Currency, Money},
        notice::Topic,
        time::Timestamp,
    },
    mail::Mailer,
    store::{self, Db, mail::NewNotice},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::smtp::{MailServer, Mode, Taken};
use super::support::{
    TestDb,
    api::{Api, MASTER_KEY, PROGRAMS, id_of},
    bank::Bank,
    node::Node,
    on_each_engine,
    pg::until_blocked,
    shop::{PAID_AT_S, Shop, charge, refund},
    till::sale,
};

const HOUR_S: i64 = 3_600;
const FROM: (&str, &str) = ("REMIT_MAIL__FROM", "Example Partners <partners@example.org>");
/// Longer than any answer here that is not meant to be late.
const TIMEOUT: (&str, &str) = ("REMIT_MAIL__TIMEOUT_S", "3");

/// What switches mail on, through the server at this address.
pub fn settings(url: &str) -> [(&str, &str); 4] {
    [("REMIT_MAIL__URL", url), FROM, TIMEOUT, ("REMIT_SECRETS__MASTER_KEY", MASTER_KEY)]
}

fn mailer(app: &App) -> Mailer {
    Mailer::new(app.config.mail.as_ref().unwrap()).unwrap()
}

/// Sends what is due now.
pub async fn send(app: &App) -> usize {
    send::step(app, &mailer(app), &CancellationToken::new()).await.unwrap()
}

/// The mails with their states and reasons, in the order in which they were made.
pub async fn mails(db: &Db) -> Vec<(String, String)> {
    const SQL: &str = "SELECT state, COALESCE(reason, '') FROM mail ORDER BY created_at_us, id";
    db.read().await.unwrap().q(SQL).all().await.unwrap()
}

pub fn mail(state: &str, reason: &str) -> (String, String) {
    (state.to_owned(), reason.to_owned())
}

pub async fn number(db: &Db, sql: &'static str) -> i64 {
    db.read().await.unwrap().q(sql).scalar().await.unwrap().unwrap()
}

pub async fn change(db: &Db, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    assert!(tx.q(sql).exec().await.unwrap() > 0, "{sql}");
    tx.commit().await.unwrap();
}

/// A shop whose affiliates are told, and the server that their mail goes through.
pub struct Post {
    pub server: MailServer,
    pub shop: Shop,
}

impl Post {
    /// `None` where there is no mail server to test with.
    pub async fn open(db: &TestDb, terms: &Value) -> Option<Self> {
        let server = MailServer::start()?;
        let url = server.url();
        Some(Self::open_at(db, server, &url, terms).await)
    }

    async fn open_at(db: &TestDb, server: MailServer, url: &str, terms: &Value) -> Self {
        let node = Node::with_settings(db.db.clone(), 16, &settings(url));
        Self { server, shop: Shop::open_on(node, &db.db, "shop", terms).await }
    }

    pub fn app(&self) -> &App {
        &self.shop.node.app
    }

    pub fn advance(&self, seconds: i64) {
        self.shop.node.clock.advance_secs(seconds);
    }

    /// Lets the hour end, and sends what is due then.
    async fn send_after_an_hour(&self) -> usize {
        self.advance(HOUR_S);
        send(self.app()).await
    }

    /// Ada earns 20.00 by a sale of this id, and her mail is due.
    pub async fn earn(&self, id: &str) {
        self.shop.tell_and_process(&[sale("ada", id, 10_000, "usd")]).await;
        self.advance(HOUR_S);
    }

    /// The only mail that was taken since `before` of them.
    pub fn only_after(&self, before: usize) -> Taken {
        let taken = self.server.taken();
        assert_eq!(taken.len(), before + 1, "{taken:?}");
        taken.last().unwrap().clone()
    }

    pub async fn mails(&self) -> Vec<(String, String)> {
        mails(&self.app().db).await
    }

    /// The open findings: severity, kind, object.
    pub async fn findings(&self) -> Vec<(String, String, String)> {
        const SQL: &str =
            "SELECT severity, kind, object FROM finding WHERE resolved_at_us IS NULL ORDER BY id";
        self.app().db.read().await.unwrap().q(SQL).all().await.unwrap()
    }
}

/// One text in two forms, and all that a mail has around it.
fn assert_well_made(taken: &Taken, to: &str) {
    assert_eq!(taken.to(), to);
    assert_eq!(taken.header("To"), to);
    assert_eq!(taken.header("From"), "Example Partners <partners@example.org>");
    assert_eq!(taken.text("envelope_from"), "partners@example.org");
    assert_eq!(taken.header("Auto-Submitted"), "auto-generated");
    assert_eq!(taken.text("content_type"), "multipart/alternative");
    assert_eq!(taken.0["parts"], json!(["text/plain", "text/html"]));
    assert_eq!(taken.0["defects"], json!([]));
    let id = taken.header("Message-ID");
    assert!(id.starts_with("<mail_") && id.ends_with("@example.org>"), "{id}");
    for part in [taken.text("text"), taken.text("html")] {
        assert!(part.contains("You receive this because"), "{part}");
        assert!(!part.contains("src="), "{part}");
        assert_eq!(part.contains("http"), part.contains("inv_"), "only invitations link: {part}");
    }
}

#[track_caller]
pub fn assert_says(taken: &Taken, words: &str) {
    for part in ["text", "html"] {
        let said = taken.text(part).replace("&#39;", "'").replace("&#34;", "\"");
        assert!(said.contains(words), "{words:?} in {part}: {said}");
    }
}

on_each_engine! {
    async fn box_208_the_affiliate_is_told_on_approval(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({"approval_mode": "manual"})).await else { return };
        post.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd")]).await;
        assert_eq!(post.send_after_an_hour().await, 0, "nothing accrued yet");

        // Long after the sale: the approval is the news.
        post.advance(30 * 86_400);
        post.shop.decide(DecisionKind::Approve, "ch_x", "ada").await.unwrap();
        assert_eq!(send(post.app()).await, 0, "what happens to commissions is collected for the hour");
        assert_eq!(post.send_after_an_hour().await, 1);
        let told = post.only_after(0);
        assert_well_made(&told, "ada@example.com");
        assert_eq!(told.header("Subject"), "Your commissions in fifth");
        assert_says(&told, "You earned 20.00 USD (1 commission).");

        // Said again, it changes nothing and tells nothing.
        post.shop.decide(DecisionKind::Approve, "ch_x", "ada").await.unwrap();
        post.shop.node.process_all().await;
        assert_eq!(post.send_after_an_hour().await, 0);
        assert_eq!(post.server.taken().len(), 1);
        assert_eq!(post.mails().await, [mail("completed", "")]);
    }

    async fn what_happens_in_an_hour_is_one_mail_with_a_sum_per_currency(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        let events = [
            sale("ada", "a", 10_000, "usd"),
            sale("ada", "b", 2_505, "usd"),
            sale("ada", "c", 5_000, "jpy"),
            sale("bob", "d", 700, "usd"),
        ];
        post.shop.tell_and_process(&events).await;
        assert_eq!(post.send_after_an_hour().await, 2, "one for each affiliate");
        let taken = post.server.taken();
        let ada = taken.iter().find(|taken| taken.to() == "ada@example.com").unwrap();
        assert_says(ada, "You earned 25.01 USD (2 commissions).");
        assert_says(ada, "You earned 1000 JPY (1 commission).");
        assert_says(ada, "Your balance is 0.00 USD payable and 25.01 USD on hold.");
        let bob = taken.iter().find(|taken| taken.to() == "bob@example.com").unwrap();
        assert_says(bob, "You earned 1.40 USD (1 commission).");
        assert_eq!(ada.0["session"], bob.0["session"], "one session takes all of a step");

        // The same sale told by another event, and the end of its hold, are no news.
        let mut again = charge("a", 10_000, None);
        again["id"] = json!("evt_another");
        post.shop.tell_and_process(&[again]).await;
        post.shop.pass_grace().await;
        post.advance(2 * HOUR_S);
        assert_eq!(send(post.app()).await, 0);
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 4);
    }

    async fn what_is_taken_back_is_told_with_its_amount_and_reason(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        let sold = [sale("ada", "a", 10_000, "usd"), sale("ada", "b", 10_000, "usd"), sale("ada", "c", 10_000, "usd")];
        post.shop.tell_and_process(&sold).await;
        post.send_after_an_hour().await;

        post.shop.tell_and_process(&[refund("r", "a", 2_500)]).await;
        post.shop.decide(DecisionKind::Clawback, "ch_b", "ada").await.unwrap();
        let sale_id = post.shop.sale("ch_c").await.unwrap();
        let fraud = remit::app::decide::Request {
            sale_id,
            enrollment_id: EnrollmentId::parse(&post.shop.enrollment("ada")).unwrap(),
            kind: DecisionKind::Clawback,
            reason: Some(ClawbackReason::Fraud),
            amount: Some(300),
            note: Some("a note for the owner alone".to_owned()),
            by: remit::app::keys::Principal::console(),
            idempotency_key: None,
        };
        remit::app::decide::decide(post.app(), &fraud).await.unwrap();
        assert_eq!(post.send_after_an_hour().await, 1);
        let told = post.only_after(1);
        assert_says(&told, "5.00 USD was taken back (1 commission): the buyer was refunded.");
        assert_says(&told, "20.00 USD was taken back (1 commission): the program's owner decided so.");
        assert_says(&told, "3.00 USD was taken back (1 commission): the program's owner found the sale not to be genuine.");
        assert!(!told.text("text").contains("a note"), "{told:?}");

        // The refund fails after all.
        let mut failed = refund("r", "a", 2_500);
        failed["id"] = json!("evt_failed");
        failed["type"] = json!("refund.failed");
        failed["data"]["object"]["status"] = json!("failed");
        post.shop.tell_and_process(&[failed]).await;
        assert_eq!(post.send_after_an_hour().await, 1);
        assert_says(&post.only_after(2), "5.00 USD that had been taken back is yours again (1 commission).");
    }

    async fn an_affiliate_is_told_where_the_enrollment_stands_once_each(db: TestDb) {
        let Some(server) = MailServer::start() else { return };
        let url = server.url();
        let api = Api::with(&db.db, &settings(&url)).await;
        let (_, key) = api.tenant("Example Shop").await;
        let program = api.program(&key).await;
        let path = format!("{PROGRAMS}/{program}/enrollments");
        let body = json!({"email": "eve@example.com", "status": "invited"});
        let enrollment = id_of(&api.create(&key, &path, body).await);
        assert_eq!(send(&api.app).await, 1);
        let judge = async |verdict: &str| {
            let (status, _) = api.call(&key, Method::POST, &format!("{path}/{enrollment}/{verdict}"), &json!({})).await;
            assert!(status.is_success(), "{verdict}: {status}");
        };
        judge("approve").await;
        judge("approve").await;
        assert_eq!(send(&api.app).await, 1);
        api.clock.advance_secs(60);
        judge("suspend").await;
        assert_eq!(send(&api.app).await, 1);
        assert_eq!(send(&api.app).await, 0);
        let subjects: Vec<String> =
            server.taken().iter().map(|taken| taken.header("Subject").to_owned()).collect();
        assert_eq!(subjects, [
            "Example Shop invites you to the affiliate program Launch Partners",
            "You are an affiliate of Launch Partners",
            "Your part in Launch Partners is suspended",
        ]);
        for taken in server.taken() {
            assert_well_made(&taken, "eve@example.com");
        }

        // What is not true any more when its turn comes is not told: only that it ended up rejected.
        api.clock.advance_secs(60);
        judge("approve").await;
        api.clock.advance_secs(60);
        judge("reject").await;
        send(&api.app).await;
        let taken = server.taken();
        assert_eq!(taken.len(), 4, "{taken:?}");
        assert_eq!(taken[3].header("Subject"), "Your application to Launch Partners");
        assert!(mails(&db.db).await.contains(&mail("discarded", "superseded")));
    }

    async fn a_payout_is_told_when_it_was_sent_with_its_fee_and_once(db: TestDb) {
        let Some(server) = MailServer::start() else { return };
        let url = server.url();
        let bank = Bank::open_with(&db, &settings(&url)).await;
        let app = &bank.shop.node.app;
        bank.change("UPDATE program SET platform_fee_bps = 500").await;
        bank.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd")]).await;
        bank.advance(3_600).await;
        bank.pass_time().await;
        assert_eq!(send(app).await, 1);

        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "inactive" })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        // It comes to wait again and again, and is told once.
        bank.advance(7 * 3_600).await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["waiting_account"]);
        assert_eq!(send(app).await, 1);
        let waiting = server.taken().pop().unwrap();
        assert_well_made(&waiting, "ada@example.com");
        assert_eq!(waiting.header("Subject"), "Your payout of 19.00 USD from fifth is waiting");

        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "active" })).await.unwrap();
        bank.tell_account("acct_ada").await;
        bank.dispatch().await;
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        assert_eq!(send(app).await, 1);
        let sent = server.taken().pop().unwrap();
        assert_eq!(sent.header("Subject"), "Your payout of 19.00 USD from fifth was sent");
        assert_says(&sent, "That is 20.00 USD that was payable, less a fee of 1.00 USD.");
        assert!(!sent.text("text").contains("returned since"), "{sent:?}");

        // The transfer comes back: that is a clawback, for its own reason.
        bank.reverse("1900").await;
        bank.tell().await;
        bank.advance(3_600).await;
        assert_eq!(send(app).await, 1);
        let back = server.taken().pop().unwrap();
        assert_says(&back, "20.00 USD was taken back (1 commission): the transfer that paid it was returned.");
        assert_eq!(server.taken().len(), 4);
    }

    async fn a_notice_that_waited_tells_what_is_true_when_it_is_sent(db: TestDb) {
        let Some(server) = MailServer::start() else { return };
        let url = server.url();
        let bank = Bank::open_with(&db, &settings(&url)).await;
        let app = &bank.shop.node.app;
        bank.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd")]).await;
        bank.advance(3_600).await;
        bank.pass_time().await;
        bank.settle().await;
        bank.dispatch().await;
        bank.tell().await;
        bank.reverse("500").await;
        bank.tell().await;
        send(app).await;
        let payout = server.taken().into_iter().find(|taken| taken.header("Subject").contains("payout")).unwrap();
        assert_says(&payout, "Of what was sent, 5.00 USD has been returned since.");

        // An account that became ready before the mail about it was sent.
        bank.sandbox.control("POST", "accounts/acct_bob", json!({ "transfers": "inactive" })).await.unwrap();
        bank.shop.tell_and_process(&[sale("bob", "y", 10_000, "usd")]).await;
        bank.advance(3_600).await;
        bank.pass_time().await;
        bank.settle().await;
        bank.dispatch().await;
        bank.sandbox.control("POST", "accounts/acct_bob", json!({ "transfers": "active" })).await.unwrap();
        bank.tell_account("acct_bob").await;
        bank.dispatch().await;
        send(app).await;
        let subjects: Vec<String> = server
            .taken()
            .iter()
            .filter(|taken| taken.to() == "bob@example.com")
            .map(|taken| taken.header("Subject").to_owned())
            .filter(|subject| subject.contains("payout"))
            .collect();
        assert_eq!(subjects, ["Your payout of 20.00 USD from fifth was sent"]);
    }

    async fn hostile_names_are_text_and_add_no_header(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        let mut tx = db.db.begin().await.unwrap();
        let name = "<script>alert(1)</script>\nBcc: eve@example.com";
        assert!(tx.q("UPDATE program SET name = $1").bind(name).exec().await.unwrap() > 0);
        tx.commit().await.unwrap();
        change(&db.db, "UPDATE organization SET name = '<a href=\"http://evil\">Ada</a> & \"Co\"' WHERE name = 'ada'").await;
        post.earn("x").await;
        assert_eq!(send(post.app()).await, 1);
        let told = post.only_after(0);
        assert_eq!(told.to(), "ada@example.com");
        let names: Vec<&str> =
            told.0["headers"].as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
        assert!(!names.contains(&"Bcc"), "{names:?}");
        assert_eq!(told.header("Subject"), "Your commissions in <script>alert(1)</script> Bcc: eve@example.com");
        let html = told.text("html");
        assert!(!html.contains("<script") && !html.contains("<a "), "{html}");
        assert!(html.contains("Hello &#60;a href=&#34;http://evil&#34;&#62;Ada&#60;/a&#62; &#38; &#34;Co&#34;,"), "{html}");
    }

    async fn mail_that_is_put_off_is_sent_later(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        post.server.set(Mode::Recipient(451));
        for _ in 0..4 {
            send(post.app()).await;
            post.advance(60);
        }
        assert_eq!(post.mails().await, [mail("retryable", "put_off_451")]);
        assert_eq!(post.findings().await, []);
        assert!(post.server.taken().is_empty());
        post.server.set(Mode::Accept);
        assert_eq!(send(post.app()).await, 1);
        assert_well_made(&post.only_after(0), "ada@example.com");
        assert_eq!(post.mails().await, [mail("completed", "")]);
    }

    async fn mail_that_is_refused_for_good_is_parked_and_does_not_stop_the_others(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        post.server.set(Mode::Recipient(550));
        assert_eq!(send(post.app()).await, 1);
        assert_eq!(post.mails().await, [mail("parked", "refused_550")]);
        let finding = ("info".to_owned(), "mail_undelivered".to_owned(), post.shop.enrollment("ada"));
        assert_eq!(post.findings().await, [finding]);
        post.advance(10 * 86_400);
        assert_eq!(send(post.app()).await, 0, "it is never tried by itself again");
        let told = "SELECT COUNT(*) FROM finding WHERE detail LIKE '%@%'";
        assert_eq!(number(&db.db, told).await, 0, "the server repeats addresses, we do not");

        // The message, not the recipient.
        post.server.set(Mode::Message(554));
        post.shop.tell_and_process(&[at_now(&post, sale("bob", "y", 10_000, "usd"))]).await;
        assert_eq!(post.send_after_an_hour().await, 1);
        assert_eq!(post.mails().await[1], mail("parked", "refused_554"));

        // Once mail reaches her, nobody has to look any more.
        post.server.set(Mode::Accept);
        post.shop.tell_and_process(&[at_now(&post, sale("ada", "z", 10_000, "usd"))]).await;
        assert_eq!(post.send_after_an_hour().await, 1);
        let left: Vec<String> = post.findings().await.into_iter().map(|finding| finding.2).collect();
        assert_eq!(left, [post.shop.enrollment("bob")]);
    }

    async fn an_address_that_cannot_be_written_to_does_not_stop_the_next(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        change(&db.db, "UPDATE organization SET email = 'nobody@[not a host' WHERE name = 'ada'").await;
        post.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd"), sale("bob", "y", 10_000, "usd")]).await;
        assert_eq!(post.send_after_an_hour().await, 2);
        assert_eq!(post.only_after(0).to(), "bob@example.com");
        let mut all = post.mails().await;
        all.sort();
        assert_eq!(all, [mail("completed", ""), mail("parked", "bad_address")]);
    }

    async fn a_server_that_is_not_there_or_refuses_us_parks_nobody_for_three_days(db: TestDb) {
        let Some(server) = MailServer::start() else { return };
        let url = server.url_with_password("wrong");
        let post = Post::open_at(&db, server, &url, &json!({})).await;
        post.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd"), sale("bob", "y", 10_000, "usd")]).await;
        assert_eq!(post.send_after_an_hour().await, 0, "the stage waits");
        let mut first = post.mails().await;
        first.sort();
        assert_eq!(first, [mail("available", ""), mail("retryable", "login_refused")]);
        assert_eq!(post.findings().await, []);

        // It is tried each hour at least, until three days are over.
        for _ in 0..75 {
            post.advance(HOUR_S);
            for _ in 0..2 {
                send(post.app()).await;
            }
        }
        assert_eq!(post.mails().await, [mail("parked", "login_refused"), mail("parked", "login_refused")]);
        assert!(post.server.taken().is_empty());
    }

    async fn a_refused_sender_is_the_operators_to_mend(db: TestDb) {
        let Some(server) = MailServer::start() else { return };
        let url = server.url_with_password("open%3Asesame");
        let post = Post::open_at(&db, server, &url, &json!({})).await;
        post.earn("x").await;
        post.server.set(Mode::Sender(553));
        assert_eq!(send(post.app()).await, 0);
        assert_eq!(post.mails().await, [mail("retryable", "sender_refused")]);
        post.server.set(Mode::Accept);
        post.advance(60);
        assert_eq!(send(post.app()).await, 1);
        assert_eq!(post.only_after(0).text("user"), "remit");
    }

    async fn an_answer_that_is_lost_repeats_the_mail_and_its_message_id(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        for (mode, reason) in [(Mode::Drop, "connection_lost"), (Mode::Slow, "timeout")] {
            post.server.set(mode);
            assert_eq!(send(post.app()).await, 0);
            assert_eq!(post.mails().await, [mail("retryable", reason)]);
            post.advance(60);
        }
        post.server.set(Mode::Accept);
        assert_eq!(send(post.app()).await, 1);
        let taken = post.server.taken();
        assert_eq!(taken.len(), 3);
        for repeat in &taken {
            assert_eq!(repeat.header("Message-ID"), taken[0].header("Message-ID"));
            assert_eq!(repeat.header("Date"), taken[0].header("Date"));
            assert_eq!(repeat.text("text"), taken[0].text("text"));
        }
    }

    async fn a_crash_between_sending_and_marking_repeats_the_mail_and_its_message_id(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        let crashed = post.app().now();
        assert_eq!(send(post.app()).await, 1);
        // As the process leaves it that dies after the server's answer: claimed, and nothing else.
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE mail SET state = 'running', finished_at_us = NULL, next_attempt_at_us = $1")
            .bind(crashed.plus_secs(78).as_micros())
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(send(post.app()).await, 0, "the lease holds");
        post.advance(78);
        assert_eq!(send(post.app()).await, 1);
        let taken = post.server.taken();
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0].header("Message-ID"), taken[1].header("Message-ID"));
        assert_eq!(post.mails().await, [mail("completed", "")]);
    }

    async fn nodes_that_send_at_once_send_each_mail_once(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        for number in 0..12 {
            let name = format!("n{number}");
            post.shop.owner.enroll(&db.db, "fifth", &name, &name, &format!("{name}@example.com")).await;
            post.shop.tell_and_process(&[sale(&name, &name, 10_000, "usd")]).await;
        }
        post.advance(HOUR_S);
        let mailer = Arc::new(mailer(post.app()));
        let stop = CancellationToken::new();
        let other = App::new(
            db.another_node(&remit::store::DbOptions::default()).await,
            Arc::clone(&post.app().config),
            Arc::clone(&post.app().clock),
        );
        let (one, two) =
            tokio::join!(send::step(post.app(), &mailer, &stop), send::step(&other, &mailer, &stop));
        assert_eq!(one.unwrap() + two.unwrap(), 12);
        let mut to: Vec<String> = post.server.taken().iter().map(|taken| taken.to().to_owned()).collect();
        to.sort();
        to.dedup();
        assert_eq!((to.len(), post.server.taken().len()), (12, 12));
    }

    async fn a_stopping_node_begins_no_mail(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(send::step(post.app(), &mailer(post.app()), &stop).await.unwrap(), 0);
        assert_eq!(post.mails().await, [mail("available", "")]);
    }

    async fn history_tells_nobody_anything(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        // Two days and a second after they happened, and a second less.
        post.advance(48 * HOUR_S + 1);
        post.shop.tell_and_process(&[sale("ada", "old", 10_000, "usd"), refund("r", "old", 5_000)]).await;
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 0);
        post.shop.node.clock.set(Timestamp::from_secs(PAID_AT_S + 48 * HOUR_S));
        post.shop.tell_and_process(&[sale("ada", "new", 10_000, "usd")]).await;
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 1);
        // A refund of today is news, also of an old sale.
        post.shop.tell_and_process(&[at_now(&post, refund("s", "old", 1_000))]).await;
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 2);
    }

    async fn nothing_is_stored_or_sent_while_mail_is_off(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.shop.tell_and_process(&[sale("ada", "x", 10_000, "usd"), refund("r", "x", 1_000)]).await;
        bank.advance(3_600).await;
        bank.pass_time().await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        let api = Api::new(&db.db).await;
        let (_, key) = api.tenant("quiet").await;
        let program = api.program(&key).await;
        api.create(&key, &format!("{PROGRAMS}/{program}/enrollments"), json!({"email": "eve@example.com"})).await;
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 0);
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM mail").await, 0);
    }

    async fn who_has_no_address_is_told_nothing_and_an_erased_one_is_not_used(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        change(&db.db, "UPDATE organization SET email = NULL WHERE name = 'bob'").await;
        post.shop.tell_and_process(&[sale("bob", "y", 10_000, "usd")]).await;
        assert_eq!(number(&db.db, "SELECT COUNT(*) FROM notice").await, 0);
        post.earn("x").await;
        change(&db.db, "UPDATE organization SET email = NULL WHERE name = 'ada'").await;
        assert_eq!(send(post.app()).await, 1);
        assert!(post.server.taken().is_empty());
        assert_eq!(post.mails().await, [mail("discarded", "no_address")]);
    }

    async fn the_check_up_tells_of_mail_that_waits_for_more_than_a_day(db: TestDb) {
        let Some(post) = Post::open(&db, &json!({})).await else { return };
        post.earn("x").await;
        post.server.set(Mode::Recipient(451));
        send(post.app()).await;
        post.shop.tell_and_process(&[sale("bob", "y", 10_000, "usd")]).await;
        assert!(!unsent(post.app()).await);
        post.advance(26 * HOUR_S);
        assert!(unsent(post.app()).await);
        post.server.set(Mode::Accept);
        send(post.app()).await;
        assert_eq!(post.server.taken().len(), 2);
        assert!(!unsent(post.app()).await);
    }
}

/// The event, made by the provider at what the clock shows.
fn at_now(post: &Post, mut event: Value) -> Value {
    event["created"] = json!(post.app().now().as_secs());
    event
}

pub async fn unsent(app: &App) -> bool {
    let findings = doctor::examine(app).await.unwrap();
    findings.iter().any(|finding| finding.invariant == "mail_unsent" && finding.severity == "warning")
}

/// One node makes a mail of what is due while another does the same, and something more happens meanwhile.
#[tokio::test]
async fn a_notice_joins_no_mail_that_another_node_has_made() {
    const LATER: Timestamp = Timestamp::from_secs(PAID_AT_S + 2 * HOUR_S);
    const OF_NOTICE: &str = "SELECT mail_id FROM notice ORDER BY created_at_us";
    // On SQLite one waits for the other's end.
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let shop = Shop::open(&db.db, 16).await;
    let happens = async |revision: i64| {
        let notice = NewNotice {
            topic: Topic::Commissions,
            enrollment_id: EnrollmentId::parse(&shop.enrollment("ada")).unwrap(),
            object_id: "com_1".to_owned(),
            revision,
            word: Some("earned"),
            reason: None,
            amount: Some(Money { minor: 100, currency: Currency::parse("usd").unwrap() }),
        };
        let mut tx = db.db.begin().await.unwrap();
        store::mail::insert_notices(&mut tx, &[notice], Timestamp::from_secs(PAID_AT_S + revision))
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    happens(1).await;
    let mut one = db.db.begin().await.unwrap();
    assert_eq!(store::mail::gather(&mut one, LATER, 10).await.unwrap(), 1);
    let gather = async || {
        let mut tx = db.db.begin().await.unwrap();
        let made = store::mail::gather(&mut tx, LATER, 10).await.unwrap();
        tx.commit().await.unwrap();
        made
    };
    let (made, ()) = tokio::join!(gather(), async {
        until_blocked(&db.db, 1).await;
        happens(2).await;
        one.commit().await.unwrap();
    });
    assert_eq!(made, 0, "the mail is the other's");
    assert_eq!(gather().await, 1);
    let mails: Vec<Option<String>> = db.db.read().await.unwrap().q(OF_NOTICE).scalars().await.unwrap();
    assert!(mails.iter().all(Option::is_some), "{mails:?}");
    assert_ne!(mails[0], mails[1], "what came later is told by a mail of its own");
}
