//! The server beside other commands, and the sandbox beside the server.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use remit::{
    clock::{Clock as _, SystemClock},
    providers::{Inbound as _, stripe::Stripe},
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::bench::{Bench, CAN_BE_PAID, KEY, Ran, SECRET, event, fixture, text};

/// A server that is stopped when the test ends, however it ends.
pub struct Server {
    pub child: Child,
    pub public: String,
    pub ops: String,
    pub log: BufReader<std::process::ChildStderr>,
}

impl Server {
    pub fn start(bench: &Bench) -> Self {
        Self::start_with(bench, &[])
    }

    pub fn start_with(bench: &Bench, settings: &[(&str, &str)]) -> Self {
        let mut child = bench
            .command(&["serve"])
            .envs(settings.iter().copied())
            .env("REMIT_SERVER__LISTEN", "127.0.0.1:0")
            .env("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0")
            .env("REMIT_STRIPE__WEBHOOK_SECRETS", SECRET)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, public: String::new(), ops: String::new(), log };
        let line = server.wait_for_log("listening");
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap();
        (server.public, server.ops) = (word("public=").to_owned(), word("ops=").to_owned());
        server
    }

    /// Reads the log up to the first line with `words` and gives that line.
    pub fn wait_for_log(&mut self, words: &str) -> String {
        let mut lines = String::new();
        loop {
            let start = lines.len();
            assert!(self.log.read_line(&mut lines).unwrap() > 0, "the server ended: {lines}");
            if lines[start..].contains(words) {
                return lines[start..].to_owned();
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(name).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (code, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only fails when the process has ended already.
        drop(self.child.kill());
    }
}

/// A provider sandbox that is stopped when the test ends, however it ends.
pub struct Sandbox {
    pub child: Child,
    pub address: String,
}

impl Sandbox {
    pub fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let fixed = ["sandbox", "--listen", "127.0.0.1:0"];
        let mut command = bench.command(&[&fixed, arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("sandbox listens on http://").unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Only fails when the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One request over a connection of its own; the status line and the body.
pub fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub fn post(address: &str, path: &str, body: &Value) -> (String, String) {
    let body = body.to_string();
    ask(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nhost: remit\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

pub fn get(address: &str, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: remit\r\nconnection: close\r\n\r\n"))
}

pub fn webhook(body: &str, secret: &str) -> String {
    let signature = Stripe.sign(body.as_bytes(), &SecretString::from(secret), SystemClock.now());
    format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: remit\r\nconnection: close\r\nstripe-signature: {signature}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_server_takes_signed_webhooks_beside_other_commands_and_drains_on_sigterm() {
    let bench = Bench::empty();
    let mut server = Server::start(&bench);
    let body = event("1", false);
    let (status, answer) = ask(&server.public, &webhook(&body, SECRET));
    assert_eq!(
        (status.as_str(), answer.as_str()),
        ("HTTP/1.1 200 OK", r#"{"received":true,"duplicate":false}"#)
    );
    let (_, answer) = ask(&server.public, &webhook(&body, SECRET));
    assert_eq!(answer, r#"{"received":true,"duplicate":true}"#);
    let (status, answer) = ask(&server.public, &webhook(&body, "whsec_of_somebody_else"));
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert!(answer.contains("BAD_SIGNATURE"));

    assert_eq!(
        get(&server.ops, "/readyz"),
        ("HTTP/1.1 200 OK".to_owned(), r#"{"status":"ready"}"#.to_owned())
    );
    assert!(get(&server.ops, "/metrics").1.contains(r#"remit_webhook_requests_total{provider="stripe""#));
    assert_eq!(get(&server.public, "/metrics").0, "HTTP/1.1 404 Not Found");
    let events = bench.events();
    assert_eq!((events.len(), &events[0]["source"]), (1, &json!("webhook")));

    // A request of which only the head has arrived is under way, and is answered in the drain. The
    // server asks for the body when its handler wants to read it.
    let late = event("2", false);
    let request = webhook(&late, SECRET);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut stream = TcpStream::connect(&server.public).unwrap();
    stream.write_all(format!("{head}\r\nexpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.signal("-TERM");
    server.wait_for_log("stopping");
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert_eq!(bench.events().len(), 2);
    bench.run(&["doctor"]).ends_with(0);
}

#[test]
fn the_admin_api_opens_with_a_key_of_the_command_line() {
    let bench = Bench::migrated();
    let key = bench.json(&["keys", "create", "--kind", "operator"], 0);
    let server = Server::start(&bench);
    let request = |key: &str| {
        format!(
            "GET /v1/admin/keys HTTP/1.1\r\nhost: remit\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
        )
    };
    assert_eq!(ask(&server.public, &request(key["key"].as_str().unwrap())).0, "HTTP/1.1 200 OK");
    assert_eq!(ask(&server.public, &request("rk_op_made_up")).0, "HTTP/1.1 401 Unauthorized");
}

#[test]
fn a_server_pays_through_the_sandbox_what_the_command_line_has_settled() {
    let bench = Bench::with_affiliates();
    bench.json(&["replay", text(&fixture("stripe"))], 0);
    bench.tamper(CAN_BE_PAID);
    let sandbox = Sandbox::start(&bench, &["--journal", "sandbox.ndjson"]);
    for account in bench.column("SELECT account_id FROM payout_account") {
        let (status, answer) = post(&sandbox.address, "/_sandbox/accounts", &json!({ "id": account }));
        assert_eq!(status, "HTTP/1.1 200 OK", "{answer}");
    }
    let url = format!("http://{}", sandbox.address);
    let settings = [
        ("REMIT_PAYOUTS__LIVE", "true"),
        ("REMIT_STRIPE__SECRET_KEY", KEY),
        ("REMIT_STRIPE__API_BASE", &url),
    ];
    let mut server = Server::start_with(&bench, &settings);
    let settled = bench.settle(&["--yes"], 0);
    let payouts = settled["payouts"].as_array().unwrap();
    for _ in payouts {
        server.wait_for_log("the provider answered");
    }
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");

    let mut asked: Vec<(String, i64)> = payouts.iter().map(|payout| moved(payout, "send")).collect();
    let journal = fs::read_to_string(bench.path("sandbox.ndjson")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let made = lines.filter(|line| line["effect"] == "transfer.created");
    let mut sent: Vec<(String, i64)> = made.map(|line| moved(&line["object"], "amount")).collect();
    asked.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, asked);
    // What the demonstration pays of the same events, less 1 % here.
    assert_eq!(sent, [("eur".to_owned(), 990), ("eur".to_owned(), 1_584), ("usd".to_owned(), 1_782)]);
    bench.run(&["doctor"]).ends_with(0);
}

/// The currency of a payout or transfer, and the amount that this field tells.
pub fn moved(object: &Value, field: &str) -> (String, i64) {
    (object["currency"].as_str().unwrap().to_owned(), object[field].as_i64().unwrap())
}

#[test]
fn a_database_that_does_not_answer_ends_with_try_again() {
    let bench = Bench::empty();
    // A port that was free a moment ago refuses connections.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://remit:hunter2@127.0.0.1:{port}/remit");
    let ran = bench.run(&["serve", "--database-patience", "0", "--database-url", &url]).ends_with(75);
    assert!(ran.err.contains("the database did not answer"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2"));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let bench = Bench::empty();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = bench.command(&["serve"]);
    let output = command.env("REMIT_SERVER__LISTEN", &address).env("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:0");
    let ran = Ran::of(output.output().unwrap()).ends_with(1);
    assert!(ran.err.contains(&address) && ran.err.contains("server.listen"), "{}", ran.err);
}
