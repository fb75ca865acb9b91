//! What happened is told to whom it happened, wherever the sender dies: at least once, and a repeat is
//! known by its Message-ID. What was rolled back is told to nobody.
//!
//! The mail server is a process of its own. Leases of the dead are let run out by hand.

use libtest_mimic::Trial;
use remit::{
    clock::{Clock as _, SystemClock},
    failpoint::{Failpoint, VARIABLE},
};
use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    harness::on_each_engine,
    points::{Driver, driver, is_release_build},
    program::{LOOK_EVERY, PATIENCE, Server, assert_died},
    run::Run,
    smtp::{MailServer, Mode, Taken},
    support::{TestDb, shop::intent},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(
        death_while_a_mail_is_sent_tells_it_again_under_its_message_id,
        what_was_rolled_back_is_told_to_nobody,
    )
    .into()
}

/// The nodes that die one after the other before one lives; in which state the mail is then, of those that
/// are not sent; and how often the server has it in the end. A node makes the mail, takes it, sends it and
/// lays it down.
const DEATHS: &[(&[&str], &[&str], usize)] = &[
    (&["mail.before_commit"], &[], 1),
    (&["mail.after_commit"], &["available"], 1),
    (&["mail.before_commit:2"], &["available"], 1),
    (&["mail.after_commit:2"], &["running"], 1),
    (&["mail.before_commit:3"], &["running"], 2),
    (&["mail.after_commit:3"], &[], 1),
    (&["mail.after_commit:2", "mail.before_commit:3", "mail.before_commit:3"], &["running"], 3),
];

const ROLES: &str = "REMIT_SERVER__ROLES";
const RECEIVE: (&str, &str) = (ROLES, "receive");
const PROCESS: (&str, &str) = (ROLES, "process");
const DISPATCH: (&str, &str) = (ROLES, "dispatch");

async fn death_while_a_mail_is_sent_tells_it_again_under_its_message_id(db: TestDb) {
    let visited = || DEATHS.iter().flat_map(|(deaths, ..)| *deaths);
    for point in Failpoint::ALL.iter().filter(|point| matches!(driver(**point), Driver::Mails)) {
        assert!(visited().any(|death| *death == point.as_str()), "{} is not visited", point.as_str());
    }
    if is_release_build() {
        return;
    }
    let Some(post) = Post::open(db).await else { return };
    let teller = post.run.program.serve_with(&[RECEIVE]).await;
    for (number, (deaths, left, times)) in DEATHS.iter().enumerate() {
        let address = format!("dead{number}@example.com");
        assert_eq!(post.invite(&teller, &address).await, Some(StatusCode::CREATED));
        for death in *deaths {
            post.leases_run_out().await;
            post.run.program.dies_at(death, &[DISPATCH]).await;
        }
        assert_eq!(post.unsent().await, *left, "{deaths:?}");
        post.deliver().await;
        post.assert_told(&address, *times);
        println!("{deaths:?} was survived");
    }

    // Killed while the server, which has the mail, has not said so.
    let address = "slow@example.com";
    post.server.set(Mode::Slow);
    assert_eq!(post.invite(&teller, address).await, Some(StatusCode::CREATED));
    let node = post.run.program.serve_with(&[DISPATCH]).await;
    let deadline = Instant::now() + PATIENCE;
    while post.told(address).is_empty() {
        assert!(Instant::now() < deadline, "nothing is sent:\n{}", node.log());
        sleep(LOOK_EVERY).await;
    }
    node.kill();
    post.server.set(Mode::Accept);
    post.deliver().await;
    post.assert_told(address, 2);
    post.run.check_with_doctor(0).await;
}

async fn what_was_rolled_back_is_told_to_nobody(db: TestDb) {
    const NOTICES: &str = "SELECT COUNT(*) FROM notice";
    if is_release_build() {
        return;
    }
    let Some(post) = Post::open(db).await else { return };
    // An invitation that was not made, and one that was made and not answered.
    let invitations =
        [("never@example.com", "change.before_commit", 0), ("made@example.com", "change.after_commit", 1)];
    for (address, death, notices) in invitations {
        let mut doomed = post.run.program.serve_with(&[(VARIABLE, death), RECEIVE]).await;
        assert_eq!(post.invite(&doomed, address).await, None, "{death}");
        assert_died(&mut doomed).await;
        assert_eq!(post.run.number(NOTICES).await, notices, "{death}");
    }
    // A sale that is booked by the second of two nodes that die.
    let receiver = post.run.program.serve_with(&[RECEIVE]).await;
    post.run.provider.send_to(&[&receiver.base]);
    let mut sale = intent("told", 10_000, None);
    sale["created"] = json!(SystemClock.now().as_secs());
    sale["data"]["object"]["metadata"] = json!({ "referral_code": "ada" });
    post.run.provider.deliver(vec![sale]).await;
    receiver.kill();
    for (death, notices) in [("process.before_commit", 1), ("process.after_commit", 2)] {
        post.run.program.dies_at(death, &[PROCESS]).await;
        assert_eq!(post.run.number(NOTICES).await, notices, "{death}");
    }
    // The hour is over.
    post.change("UPDATE notice SET due_at_us = 0").await;
    post.deliver().await;
    post.assert_told("never@example.com", 0);
    post.assert_told("made@example.com", 1);
    post.assert_told("ada@example.com", 1);
    let told = post.told("ada@example.com");
    assert!(told[0].text("text").contains("You earned 20.00 USD (1 commission)."), "{told:?}");
    assert_eq!(post.server.taken().len(), 2, "nobody else is told anything");
}

/// A shop whose affiliates are told, and the server that their mail goes through.
struct Post {
    server: MailServer,
    run: Run,
    client: Client,
    key: String,
}

impl Post {
    /// `None` where there is no mail server to test with.
    async fn open(db: TestDb) -> Option<Self> {
        let server = MailServer::start()?;
        let settings = [
            ("REMIT_MAIL__URL", &*server.url()),
            ("REMIT_MAIL__FROM", "Example Partners <partners@example.org>"),
            ("REMIT_MAIL__TIMEOUT_S", "60"),
        ];
        let run = Run::with(db, &settings).await;
        let made = run.program.data(&["keys", "create", "--kind", "operator"]).await;
        let key = made["key"].as_str().unwrap().to_owned();
        Some(Self { server, run, client: Client::builder().no_proxy().build().unwrap(), key })
    }

    /// Invites somebody, who is told at once. None where the node did not answer.
    async fn invite(&self, node: &Server, address: &str) -> Option<StatusCode> {
        let program = self.run.reference.owner.id("prog_", "fifth");
        let path = format!("/v1/admin/affiliate/programs/{program}/invites");
        let request = self.client.post(format!("{}{path}", node.base)).bearer_auth(&self.key);
        let answer = request.json(&json!({ "email": address })).send().await;
        answer.ok().map(|answer| answer.status())
    }

    /// Starts a node that sends all that is due.
    async fn deliver(&self) {
        const WAITING: &str = "SELECT CAST((SELECT COUNT(*) FROM notice WHERE mail_id IS NULL)
            + (SELECT COUNT(*) FROM mail WHERE state <> 'completed') AS BIGINT)";
        self.leases_run_out().await;
        let node = self.run.program.serve_with(&[DISPATCH]).await;
        let deadline = Instant::now() + PATIENCE;
        while self.run.number(WAITING).await > 0 {
            assert!(Instant::now() < deadline, "somebody is not told:\n{}", node.log());
            sleep(LOOK_EVERY).await;
        }
        // Invitations bring tokens, and everything else is addressed to somebody.
        let log = node.log();
        assert!(!log.contains("inv_") && !log.contains("@example"), "{log}");
        assert_eq!(self.run.number("SELECT COUNT(*) FROM notice WHERE token_sealed IS NOT NULL").await, 0);
    }

    /// The leases of processes that are dead come to their end.
    async fn leases_run_out(&self) {
        self.change("UPDATE mail SET next_attempt_at_us = 0 WHERE state = 'running'").await;
    }

    async fn change(&self, sql: &'static str) {
        let mut tx = self.run.db().db.begin().await.unwrap();
        tx.q(sql).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The states of mails that are not sent.
    async fn unsent(&self) -> Vec<String> {
        const SQL: &str = "SELECT state FROM mail WHERE state <> 'completed'";
        self.run.db().db.read().await.unwrap().q(SQL).scalars().await.unwrap()
    }

    /// The mails that the server has for somebody.
    fn told(&self, address: &str) -> Vec<Taken> {
        self.server.taken().into_iter().filter(|taken| taken.to() == address).collect()
    }

    /// The server has so many mails for somebody, all of them the same one.
    fn assert_told(&self, address: &str, times: usize) {
        let told = self.told(address);
        assert_eq!(told.len(), times, "{address}: {told:?}");
        for again in told.iter().skip(1) {
            assert_eq!(again.header("Message-ID"), told[0].header("Message-ID"), "{address}");
            assert_eq!(again.text("text"), told[0].text("text"), "{address}");
        }
    }
}
