//! A sandbox to talk to over HTTP, and somebody who receives its webhooks.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, http::StatusCode, routing::post};
use remit::sandbox::{Delivery, Options, Running, Sandbox, WebhookEndpoint};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// 2026-01-01T00:00:00Z, when every sandbox here starts; its clock moves by hand.
pub const START_S: i64 = 1_767_225_600;

pub const SECRET: &str = "whsec_of_the_sandbox";

/// A sandbox whose clock is frozen and whose webhooks go out by `flush`.
pub struct Bench {
    pub running: Running,
    client: reqwest::Client,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null where the text is no JSON.
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn id(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body["id"].as_str().unwrap().to_owned()
    }

    /// Status, code and parameter of a refusal; `-` for what is not said.
    pub fn refusal(&self) -> (u16, &str, &str) {
        let word = |field: &str| self.body["error"][field].as_str().unwrap_or("-");
        (self.status, word("code"), word("param"))
    }

    /// Ids of a list.
    pub fn ids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        let data = self.body["data"].as_array().unwrap();
        data.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// A request in the making.
pub struct Ask {
    request: reqwest::RequestBuilder,
}

impl Ask {
    pub fn key(self, key: &str) -> Self {
        Self { request: self.request.header("idempotency-key", key) }
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value) }
    }

    pub async fn send(self) -> Result<Answer, reqwest::Error> {
        let answer = self.request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body })
    }

    pub async fn answer(self) -> Answer {
        self.send().await.unwrap()
    }
}

pub fn options() -> Options {
    Options {
        frozen: true,
        start_us: Some(START_S * 1_000_000),
        delivery: Delivery::OnFlush,
        seed: 7,
        ..Options::default()
    }
}

impl Bench {
    /// With the account `acct_1`, which is ready to be paid.
    pub async fn start() -> Self {
        Self::with(options()).await
    }

    pub async fn with(options: Options) -> Self {
        let running = Sandbox::start(options).await.unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let bench = Self { running, client };
        bench.control("accounts", json!({ "id": "acct_1" })).await;
        bench
    }

    /// A request with the test key.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Ask {
        self.anonymous(method, path, body).header("authorization", "Bearer sk_test_123")
    }

    /// A request without a key.
    pub fn anonymous(&self, method: &str, path: &str, body: &str) -> Ask {
        let url = format!("{}{path}", self.running.url());
        let mut request = self.client.request(method.parse().unwrap(), url);
        if method == "POST" {
            request =
                request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned());
        }
        Ask { request }
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, body).answer().await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").answer().await
    }

    /// A transfer of `amount` cents to `acct_1`.
    pub fn transfer(&self, amount: i64) -> Ask {
        self.ask("POST", "/v1/transfers", &format!("amount={amount}&currency=usd&destination=acct_1"))
    }

    pub async fn control(&self, path: &str, body: Value) -> Value {
        self.running.control("POST", path, body).await.unwrap()
    }

    pub async fn fault(&self, fault: Value) {
        self.running.fault(json!({ "fault": fault })).await.unwrap();
    }

    /// The journal's lines of a kind.
    pub async fn lines(&self, kind: &str) -> Vec<Value> {
        self.running.journal().await.into_iter().filter(|line| line["kind"] == kind).collect()
    }

    /// Transfers that were really made.
    pub async fn made(&self) -> usize {
        let effects = self.lines("effect").await;
        effects.iter().filter(|line| line["effect"] == "transfer.created").count()
    }

    /// What `account` (the platform: `None`) can spend, in cents of test money.
    pub async fn available(&self, account: Option<&str>) -> i64 {
        let state = self.running.control("GET", "state", Value::Null).await.unwrap();
        let balances = state["balances"].as_array().unwrap();
        let of = |balance: &&Value| {
            balance["account"] == json!(account)
                && balance["livemode"] == false
                && balance["currency"] == "usd"
        };
        balances.iter().find(of).map_or(0, |balance| balance["available"].as_i64().unwrap())
    }
}

/// A webhook that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub signature: String,
    pub body: Vec<u8>,
}

impl Arrived {
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Receives webhooks and answers with the statuses it was told, then with 200.
pub struct Receiver {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    answers: Arc<Mutex<Vec<u16>>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, answers) = (Arc::<Mutex<Vec<Arrived>>>::default(), Arc::<Mutex<Vec<u16>>>::default());
        let (kept, statuses) = (Arc::clone(&arrived), Arc::clone(&answers));
        let receive = move |headers: HeaderMap, body: Bytes| async move {
            let signature = headers["stripe-signature"].to_str().unwrap().to_owned();
            kept.lock().unwrap().push(Arrived { signature, body: body.to_vec() });
            let mut statuses = statuses.lock().unwrap();
            let status = if statuses.is_empty() { 200 } else { statuses.remove(0) };
            StatusCode::from_u16(status).unwrap()
        };
        let app = Router::new().route("/hook", post(receive));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, arrived, answers, task }
    }

    pub fn endpoint(&self, connect: bool) -> WebhookEndpoint {
        WebhookEndpoint { url: format!("http://{}/hook", self.address), secret: SECRET.to_owned(), connect }
    }

    pub fn answer_with(&self, statuses: &[u16]) {
        *self.answers.lock().unwrap() = statuses.to_vec();
    }

    /// What arrived since the last call.
    pub fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }

    /// Types of the events that arrived since the last call.
    pub fn take_types(&self) -> Vec<String> {
        self.take().iter().map(|arrived| arrived.event()["type"].as_str().unwrap().to_owned()).collect()
    }
}

/// A folder of the provider's own material, which lies beside the project and is not part of it.
pub fn provider_material(name: &str) -> Option<PathBuf> {
    let shared = env::var_os("REMIT_CONFORMANCE_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/providers"), PathBuf::from);
    let path = shared.join("stripe").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(env::var_os("CI").is_none(), "nothing at {}", path.display());
    println!("skipped: nothing at {}", path.display());
    None
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
