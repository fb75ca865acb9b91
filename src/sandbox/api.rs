//! The provider's API: from a request to the reply, through faults, keys and parameters.
//!
//! A request is decided under the lock of the state, so executions never overlap; what takes time (hanging,
//! delivering, sending the answer in pieces) is the business of `server.rs`.

use axum::body::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    API_VERSION, accounts, auth,
    clock::SECOND_US,
    error::ApiError,
    faults::{self, Fault, Plan},
    form::Form,
    keys::{self, Stored},
    params, reads,
    routes::{self, Found},
    world::{Call, Late, Scope, World},
};

pub(super) use super::routes::Route;

/// What of an HTTP request counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) authorization: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) stripe_account: Option<String>,
    pub(super) stripe_version: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
}

/// What the server does with a request.
pub(super) enum Outcome {
    Reply(Reply),
    /// Answered when it is released; see [`finish`].
    Held(Box<Held>),
}

/// How a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    /// The connection is reset after this many bytes.
    ResetAt(usize),
    /// Nothing is ever sent.
    Hang,
}

/// An answer, ready to be sent.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) request_id: String,
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) ending: Ending,
    /// The webhooks of this request go out first.
    pub(super) announced_first: bool,
}

/// A request whose key is taken and whose execution waits.
pub(super) struct Held {
    exchange: Exchange,
    call: Call,
    route: &'static Route,
}

/// A request with what was found out about it on arrival.
struct Exchange {
    request: Request,
    id: String,
    form: Result<Form, ApiError>,
    plan: Plan,
    /// Known once the key is accepted.
    livemode: bool,
}

/// An answer before it becomes bytes.
struct Answer {
    status: u16,
    body: Value,
    should_retry: Option<bool>,
    /// The request that was executed, where it is another one.
    replay_of: Option<String>,
}

/// Decides a request and, unless it is held, executes it. What the journal has to prove is on the disk
/// when this returns.
pub(super) fn handle(world: &mut World, request: Request) -> Outcome {
    world.tick();
    let mut exchange = Exchange::begin(world, request);
    if world.journal.has_failed() {
        return Outcome::Reply(exchange.broken());
    }
    let outcome = exchange.decide(world);
    exchange.commit(world, outcome)
}

/// Executes a request that was held.
pub(super) fn finish(world: &mut World, held: Held) -> Reply {
    let Held { exchange, call, route } = held;
    world.tick();
    let reply = exchange.execute(world, &call, route);
    match exchange.commit(world, Outcome::Reply(reply)) {
        Outcome::Reply(reply) => reply,
        Outcome::Held(_) => exchange.broken(),
    }
}

/// Notes that a request which hung is over.
pub(super) fn hang_ended(world: &mut World, request_id: &str, how: &str) {
    let line = json!({ "request_id": request_id, "how": how });
    world.journal.add(world.clock.now_us(), "hang_ended", line);
    // Nothing depends on it, and a journal that fails shows at the next request.
    drop(world.journal.commit(false));
}

impl Exchange {
    fn begin(world: &mut World, request: Request) -> Self {
        let id = world.rng.id("req_", 14);
        let form = match request.method.as_str() {
            "POST" => check_content_type(&request).and_then(|()| Form::parse(&request.body)),
            _ => Form::parse(request.query.as_bytes()),
        };
        let shown = form.clone().unwrap_or_default();
        let seen = faults::Seen {
            method: &request.method,
            path: &request.path,
            idempotency_key: request.idempotency_key.as_deref(),
            form: &shown,
        };
        let plan = world.faults.plan(&seen);
        let livemode = request.authorization.as_deref().and_then(auth::livemode);
        let line = json!({
            "request_id": id,
            "method": request.method,
            "path": request.path,
            "idempotency_key": request.idempotency_key,
            "stripe_account": request.stripe_account,
            "stripe_version": request.stripe_version,
            "livemode": livemode,
            "body_sha256": hex::encode(Sha256::digest(&request.body)),
            "form": shown.to_json(),
        });
        world.journal.add(world.clock.now_us(), "request", line);
        for fault in &plan.0 {
            let line = json!({ "request_id": id, "fault": fault });
            world.journal.add(world.clock.now_us(), "fault", line);
        }
        Self { request, id, form, plan, livemode: livemode.unwrap_or(false) }
    }

    fn decide(&mut self, world: &mut World) -> Outcome {
        if let Some(reply) = self.stopped_before(world) {
            return Outcome::Reply(reply);
        }
        match self.admit(world) {
            Err(error) => Outcome::Reply(self.reply(world, &self.refusal(world, &error))),
            Ok(Admitted::Again(stored)) => {
                let Stored { status, body, request_id, should_retry } = stored;
                let answer = Answer { status, body, should_retry, replay_of: Some(request_id) };
                Outcome::Reply(self.reply(world, &answer))
            }
            Ok(Admitted::New(call, route)) => self.start(world, call, route),
        }
    }

    /// Begins an execution, unless a fault has it otherwise.
    fn start(&self, world: &mut World, call: Call, route: &'static Route) -> Outcome {
        let instead = self.plan.find(|fault| match fault {
            Fault::Fail500WithoutExecute { late_s, stored } => Some((*late_s, *stored)),
            _ => None,
        });
        if let Some((late_s, stored)) = instead {
            let answer = self.refusal(world, &ApiError::internal());
            if stored {
                self.store(world, &call, &answer);
            } else {
                give_key_up(world, &call);
            }
            if let Some(late_s) = late_s {
                let due_us = world.clock.now_us() + i64::from(late_s) * SECOND_US;
                let call = Call { mark: Some("late"), ..call };
                world.late.push(Late { due_us, call, route });
            }
            return Outcome::Reply(self.reply(world, &answer));
        }
        if self.plan.has(&Fault::ExecuteOnRelease) {
            return Outcome::Held(Box::new(Held { exchange: self.clone_for_later(), call, route }));
        }
        Outcome::Reply(self.execute(world, &call, route))
    }

    fn clone_for_later(&self) -> Self {
        Self {
            request: self.request.clone(),
            id: self.id.clone(),
            form: self.form.clone(),
            plan: self.plan.clone(),
            livemode: self.livemode,
        }
    }

    /// The reply of a fault that keeps the request from the provider's core.
    fn stopped_before(&self, world: &mut World) -> Option<Reply> {
        let with = |reply: Reply, name, value: String| {
            let mut reply = reply;
            reply.headers.push((name, value));
            reply
        };
        self.plan.0.iter().find_map(|fault| match fault {
            Fault::HangBeforeExecute => Some(self.broken_off(world, Ending::Hang, "hang")),
            Fault::ResetBeforeExecute => Some(self.broken_off(world, Ending::ResetAt(0), "reset")),
            Fault::Html { status, executed: false } => Some(self.page(world, *status)),
            Fault::TooManyRequests { retry_after_s, lock_timeout } => {
                let code = if *lock_timeout { "lock_timeout" } else { "rate_limit" };
                let error = ApiError::invalid(429, Some(code), "Too many requests. Try again later.");
                let mut reply = self.reply(world, &self.refusal(world, &error));
                if !lock_timeout {
                    reply = with(reply, "stripe-rate-limited-reason", "endpoint-rate".to_owned());
                }
                Some(match retry_after_s {
                    Some(seconds) => with(reply, "retry-after", seconds.to_string()),
                    None => reply,
                })
            }
            Fault::KeyInUse => Some(self.reply(world, &self.refusal(world, &keys::in_use()))),
            Fault::Unauthorized => Some(self.reply(world, &self.refusal(world, &auth::wrong_key()))),
            Fault::Forbidden => {
                let message = "The provided key does not have the required permissions for this endpoint.";
                let error = ApiError::invalid(403, None, message);
                Some(self.reply(world, &self.refusal(world, &error)))
            }
            Fault::Redirect { location } => {
                let answer = Answer { status: 307, body: json!({}), should_retry: None, replay_of: None };
                let location = location.clone().unwrap_or_else(|| self.request.path.clone());
                Some(with(self.reply(world, &answer), "location", location))
            }
            _ => None,
        })
    }

    /// Checks everything that comes before an execution, in the provider's order. The key is taken
    /// afterwards.
    fn admit(&mut self, world: &mut World) -> Result<Admitted, ApiError> {
        self.livemode = auth::check(world, self.request.authorization.as_deref())?;
        let mut scope = Scope::platform(self.livemode);
        if let Some(account) = &self.request.stripe_account {
            accounts::check_access(world, account)?;
            scope = scope.of(account);
        }
        let form = self.form.clone()?;
        let Found { route, args } = routes::find(&self.request.method, &self.request.path)?;
        let key = self.request.idempotency_key.clone().filter(|_| route.method == "POST");
        let now_us = world.clock.now_us();
        if let Some(key) = &key {
            let fingerprint = self.fingerprint(&form);
            if let keys::Seen::Answered(stored) = world.keys.look(&scope, key, &fingerprint, now_us)? {
                return Ok(Admitted::Again(stored));
            }
        }
        params::check(&form, route.params)?;
        if let Some(key) = &key {
            world.keys.begin(&scope, key, self.fingerprint(&form), now_us);
        }
        let call = Call {
            scope,
            request_id: Some(self.id.clone()),
            idempotency_key: key,
            form,
            args,
            path: self.request.path.clone(),
            plan: self.plan.clone(),
            mark: None,
        };
        Ok(Admitted::New(call, route))
    }

    fn fingerprint(&self, form: &Form) -> String {
        format!("{} {} {}", self.request.method, self.request.path, form.canonical())
    }

    fn execute(&self, world: &mut World, call: &Call, route: &Route) -> Reply {
        let result = (route.run)(world, call);
        if result.is_ok() && route.method == "POST" && self.plan.has(&Fault::Duplicate) {
            let again = Call { mark: Some("duplicate"), ..call.clone() };
            // The money may not suffice for a second one; then there is none.
            drop((route.run)(world, &again));
        }
        let true_answer = match result {
            Ok(mut body) => {
                reads::expand(world, call, &mut body);
                let should_retry = (route.method == "POST").then_some(false);
                Answer { status: 200, body, should_retry, replay_of: None }
            }
            Err(error) if error.is_validation() => {
                give_key_up(world, call);
                return self.reply(world, &self.refusal(world, &error));
            }
            Err(error) => self.refusal(world, &error),
        };
        let mut answer = if self.plan.has(&Fault::ExecuteThen500) {
            self.refusal(world, &ApiError::internal())
        } else {
            true_answer
        };
        self.store(world, call, &answer);
        for (field, value) in self.plan.lies().into_iter().flatten() {
            answer.body[field] = value.clone();
        }
        self.reply(world, &answer)
    }

    fn store(&self, world: &mut World, call: &Call, answer: &Answer) {
        let Some(key) = &call.idempotency_key else { return };
        let stored = Stored {
            status: answer.status,
            body: answer.body.clone(),
            request_id: self.id.clone(),
            should_retry: answer.should_retry,
        };
        world.keys.finish(&call.scope, key, stored);
    }

    fn refusal(&self, world: &World, error: &ApiError) -> Answer {
        let should_retry = (error.status == 402).then_some(false);
        let body = error.body(&self.id, self.livemode, world.clock.now_s());
        Answer { status: error.status, body, should_retry, replay_of: None }
    }

    /// Makes the reply, broken as the faults say, and writes the journal's line about it.
    fn reply(&self, world: &mut World, answer: &Answer) -> Reply {
        let (ending, broken) = self
            .plan
            .find(|fault| match fault {
                Fault::ExecuteThenHang => Some((Ending::Hang, "hang")),
                Fault::ExecuteThenResetAtByte { byte } => Some((Ending::ResetAt(*byte), "reset_at_byte")),
                _ => None,
            })
            .map_or((Ending::Whole, None), |(ending, broken)| (ending, Some(broken)));
        let edge = self.plan.find(|fault| match fault {
            Fault::Html { status, executed: true } => Some(*status),
            _ => None,
        });
        if let Some(status) = edge {
            return self.page(world, status);
        }
        let mut body = answer.body.to_string().into_bytes();
        let cut = self.plan.find(|fault| match fault {
            Fault::TruncatedBody { byte } => Some(*byte),
            _ => None,
        });
        if let Some(byte) = cut {
            body.truncate(byte);
        }
        self.note(world, answer, broken.or(cut.map(|_| "truncated")));
        let headers = self.headers(answer);
        let announced_first = self.plan.has(&Fault::WebhookBeforeAnswer);
        Reply { request_id: self.id.clone(), status: answer.status, headers, body, ending, announced_first }
    }

    fn headers(&self, answer: &Answer) -> Vec<(&'static str, String)> {
        let request = &self.request;
        let version = request.stripe_version.as_deref().unwrap_or(API_VERSION);
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("request-id", self.id.clone()),
            ("stripe-version", version.to_owned()),
        ];
        // An account that is read is named as if it had been asked on its own behalf.
        let account = request.stripe_account.as_deref().or_else(|| {
            let is_account = answer.status == 200 && answer.body["object"] == "account";
            answer.body["id"].as_str().filter(|_| is_account)
        });
        if let Some(account) = account {
            headers.push(("stripe-account", account.to_owned()));
        }
        // The limiter and the check of the key stand in front of the idempotency layer.
        let key = request.idempotency_key.as_ref().filter(|_| request.method == "POST");
        if let Some(key) = key.filter(|_| ![401, 429].contains(&answer.status)) {
            headers.push(("idempotency-key", key.clone()));
            headers.push(("original-request", answer.replay_of.as_ref().unwrap_or(&self.id).clone()));
        }
        if answer.replay_of.is_some() {
            headers.push(("idempotent-replayed", "true".to_owned()));
        }
        if let Some(retry) = self.plan.should_retry().or(answer.should_retry) {
            headers.push(("stripe-should-retry", retry.to_string()));
        }
        headers
    }

    /// A page of an edge in front of the provider, which knows nothing of requests and keys.
    fn page(&self, world: &mut World, status: u16) -> Reply {
        let answer = Answer { status, body: Value::Null, should_retry: None, replay_of: None };
        self.note(world, &answer, Some("html"));
        let headers = vec![("content-type", "text/html".to_owned())];
        let body =
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
        Reply {
            request_id: self.id.clone(),
            status,
            headers,
            body: body.into_bytes(),
            ending: Ending::Whole,
            announced_first: self.plan.has(&Fault::WebhookBeforeAnswer),
        }
    }

    fn broken_off(&self, world: &mut World, ending: Ending, broken: &str) -> Reply {
        let answer = Answer { status: 0, body: Value::Null, should_retry: None, replay_of: None };
        self.note(world, &answer, Some(broken));
        Reply { ending, ..self.broken() }
    }

    /// The reply of a sandbox that cannot vouch for anything: the connection is reset.
    fn broken(&self) -> Reply {
        Reply {
            request_id: self.id.clone(),
            status: 500,
            headers: Vec::new(),
            body: Vec::new(),
            ending: Ending::ResetAt(0),
            announced_first: false,
        }
    }

    fn note(&self, world: &mut World, answer: &Answer, broken: Option<&str>) {
        let line = json!({
            "request_id": self.id,
            "status": (answer.status > 0).then_some(answer.status),
            "replayed": answer.replay_of.is_some(),
            "original_request": answer.replay_of,
            "error_code": answer.body["error"]["code"],
            "object_id": answer.body["id"],
            "broken": broken,
        });
        world.journal.add(world.clock.now_us(), "answer", line);
    }

    /// Brings the journal to the disk; without that nothing is answered.
    fn commit(&self, world: &mut World, outcome: Outcome) -> Outcome {
        let is_durable = self.request.method != "GET";
        match world.journal.commit(is_durable) {
            Ok(()) => outcome,
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written; the sandbox answers nothing any more");
                Outcome::Reply(self.broken())
            }
        }
    }
}

/// Forgets the key of a request that turned out not to be executable.
fn give_key_up(world: &mut World, call: &Call) {
    if let Some(key) = &call.idempotency_key {
        world.keys.give_up(&call.scope, key);
    }
}

/// A request that may be executed, or has been.
enum Admitted {
    New(Call, &'static Route),
    Again(Stored),
}

fn check_content_type(request: &Request) -> Result<(), ApiError> {
    let is_form = request
        .content_type
        .as_deref()
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .is_none_or(|value| value.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    if is_form || request.body.is_empty() {
        return Ok(());
    }
    let message = "Request bodies must be sent as application/x-www-form-urlencoded.";
    Err(ApiError::invalid(400, None, message))
}
