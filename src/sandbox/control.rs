//! The control API below `/_sandbox`: time, faults, accounts, money, payouts, webhooks.
//!
//! Bodies and answers are JSON; a body with an unknown field is refused. There is no key: whoever reaches
//! the sandbox may do everything. The calls are listed in the documentation of [`super`].

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    accounts,
    clock::SECOND_US,
    faults::{OneOrMany, Rule},
    journal::text_of,
    outbox::Endpoint,
    payments::{self, Verdict},
    payouts, refunds,
    server::Shared,
    webhooks,
    world::{Call, Movement, Scope, World, text},
};

/// Why a control call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The HTTP status: 400 or 404.
    pub status: u16,
    /// What is wrong.
    pub message: String,
}

impl ControlError {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    fn unknown(what: &str) -> Self {
        Self { status: 404, message: format!("there is no {what}") }
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/onboarding/{account}/{token}", get(onboard))
        .route("/journal", get(journal))
        .route("/{*path}", axum::routing::any(over_http))
}

async fn over_http(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    method: Method,
    body: Bytes,
) -> Response {
    let body = match body.as_ref() {
        b"" => Ok(Value::Null),
        bytes => serde_json::from_slice(bytes).map_err(|error| ControlError::bad(error.to_string())),
    };
    let done = match body {
        Ok(body) => call(&shared, method.as_str(), &path, body).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, axum::Json(json!({ "error": error.message }))).into_response()
        }
    }
}

/// The whole journal, as it is in the file.
async fn journal(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.with(|world| text_of(world.journal.lines()));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], text.await).into_response()
}

/// Somebody follows an account link.
async fn onboard(
    State(shared): State<Arc<Shared>>,
    Path((account, token)): Path<(String, String)>,
) -> Response {
    let next = shared.with(move |world| {
        let next = accounts::visit(world, &account, &token);
        world.journal.commit(true).ok().and(next)
    });
    let next = next.await;
    shared.wake.notify_one();
    next.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |url| Redirect::to(&url).into_response())
}

/// Carries out a control call; `path` is what follows `/_sandbox/`.
pub(super) async fn call(
    shared: &Arc<Shared>,
    method: &str,
    path: &str,
    body: Value,
) -> Result<Value, ControlError> {
    match (method, path) {
        ("POST", "release") => {
            let released = *shared.hanging.borrow();
            shared.release.send_modify(|count| *count += 1);
            return Ok(json!({ "released": released }));
        }
        ("POST", "webhooks/flush") => {
            let Flush { retries } = read(body)?;
            if retries {
                let hasten = |world: &mut World| {
                    let now_us = world.clock.now_us();
                    world.outbox.hasten(now_us);
                };
                shared.with(hasten).await;
            }
            return Ok(json!(webhooks::flush(shared).await));
        }
        _ => {}
    }
    let hanging = *shared.hanging.borrow();
    let (method, path) = (method.to_owned(), path.to_owned());
    let done = shared.with(move |world| {
        let done = apply(world, &method, &path, body);
        if method != "GET" {
            world.tick();
        }
        world
            .journal
            .commit(method != "GET")
            .map_err(|_| ControlError::bad("the journal cannot be written"))?;
        done
    });
    let mut answer = done.await?;
    if let Some(state) = answer.as_object_mut().filter(|state| state.contains_key("objects")) {
        state.insert("hanging".to_owned(), json!(hanging));
    }
    shared.wake.notify_one();
    Ok(answer)
}

fn apply(world: &mut World, method: &str, path: &str, body: Value) -> Result<Value, ControlError> {
    if method != "GET" {
        // The secret of an endpoint is nobody's business.
        let shown = if path == "webhook_endpoints" { Value::Null } else { body.clone() };
        let line = json!({ "method": method, "path": path, "body": shown });
        world.journal.add(world.clock.now_us(), "control", line);
    }
    let parts: Vec<&str> = path.split('/').collect();
    match (method, parts.as_slice()) {
        ("POST", ["clock"]) => set_clock(world, read(body)?),
        ("GET", ["faults"]) => Ok(world.faults.list()),
        ("POST", ["faults"]) => add_faults(world, body),
        ("DELETE", ["faults"]) => {
            world.faults.clear();
            world.objects.reveal();
            Ok(world.faults.list())
        }
        ("POST", ["accounts"]) => add_account(world, read(body)?),
        ("POST", ["accounts", id]) => change_account(world, id, read(body)?),
        ("POST", ["balance"]) => change_balance(world, &read(body)?),
        ("POST", ["payouts"]) => add_payout(world, &read(body)?),
        ("POST", ["payouts", id]) => {
            let PayoutStatus { status } = read(body)?;
            let (scope, payout) = find(world, "payout", id)?;
            Ok(payouts::proceed(world, &scope, &payout, status))
        }
        ("POST", ["payment_intents", id]) => change_intent(world, id, &read(body)?),
        ("POST", ["refunds", id]) => {
            let RefundStatus { status: Failed::Failed } = read(body)?;
            let (scope, _) = find(world, "refund", id)?;
            refunds::fail(world, &scope, id).ok_or_else(|| ControlError::unknown("such refund"))
        }
        ("POST", ["webhook_endpoints"]) => add_endpoint(world, read(body)?),
        ("GET", ["journal"]) => Ok(json!(world.journal.lines())),
        ("GET", ["state"]) => Ok(state(world)),
        _ => Err(ControlError::unknown("such call")),
    }
}

fn read<T: DeserializeOwned>(body: Value) -> Result<T, ControlError> {
    let body = if body.is_null() { json!({}) } else { body };
    serde_json::from_value(body).map_err(|error| ControlError::bad(error.to_string()))
}

/// An object with the account and mode it belongs to.
fn find(world: &World, kind: &str, id: &str) -> Result<(Scope, Value), ControlError> {
    let object = world.objects.any(kind, id);
    object
        .map(|object| (object.scope.clone(), object.body.clone()))
        .ok_or_else(|| ControlError::unknown(kind))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flush {
    retries: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SetClock {
    advance_s: i64,
    advance_us: i64,
    set: Option<jiff::Timestamp>,
    frozen: Option<bool>,
}

fn set_clock(world: &mut World, change: SetClock) -> Result<Value, ControlError> {
    if change.advance_s < 0 || change.advance_us < 0 {
        return Err(ControlError::bad("time does not run backwards; use `set`"));
    }
    if let Some(frozen) = change.frozen {
        world.clock.freeze(frozen);
    }
    let from_us = change.set.map_or_else(|| world.clock.now_us(), jiff::Timestamp::as_microsecond);
    let advance_us = change.advance_s.saturating_mul(SECOND_US).saturating_add(change.advance_us);
    if change.set.is_some() || advance_us > 0 {
        world.clock.set(from_us.saturating_add(advance_us));
    }
    Ok(clock(world))
}

fn clock(world: &World) -> Value {
    let now_us = world.clock.now_us();
    let now = jiff::Timestamp::from_microsecond(now_us).map(|now| now.to_string()).ok();
    json!({ "now": now, "now_us": now_us, "frozen": world.clock.is_frozen() })
}

fn add_faults(world: &mut World, body: Value) -> Result<Value, ControlError> {
    let rules = match read::<OneOrMany<Rule>>(body) {
        Ok(OneOrMany::One(rule)) => vec![rule],
        Ok(OneOrMany::Many(rules)) => rules,
        Err(_) => {
            return Err(ControlError::bad(
                "not a rule, a list of rules or `random`, or one with unknown fields",
            ));
        }
    };
    for rule in rules {
        world.faults.add(rule).map_err(|error| ControlError::bad(error.to_string()))?;
    }
    Ok(world.faults.list())
}

/// The state of the capability `transfers`.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Capability {
    Active,
    Inactive,
    Pending,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    id: Option<String>,
    r#type: Option<String>,
    country: Option<String>,
    email: Option<String>,
    default_currency: Option<String>,
    #[serde(default = "empty")]
    metadata: Value,
    /// Without it the owner has answered everything.
    onboarded: Option<bool>,
    transfers: Option<Capability>,
    payouts_enabled: Option<bool>,
}

fn empty() -> Value {
    json!({})
}

/// Announces nothing, as with an account that was there before.
fn add_account(world: &mut World, new: NewAccount) -> Result<Value, ControlError> {
    if let Some(id) = &new.id
        && (!id.starts_with("acct_") || accounts::exists(world, id))
    {
        return Err(ControlError::bad("the id must begin with `acct_` and be new"));
    }
    let draft = accounts::Draft {
        id: new.id,
        kind: new.r#type.unwrap_or_else(|| "express".to_owned()),
        country: new.country.unwrap_or_else(|| "US".to_owned()),
        email: new.email,
        business_type: None,
        default_currency: new.default_currency.unwrap_or_else(|| "usd".to_owned()),
        metadata: new.metadata,
        is_onboarded: new.onboarded.unwrap_or(true),
    };
    let call = Call::internal(Scope::platform(false));
    let account = accounts::make(world, &call, draft);
    let id = text(&account, "id").to_owned();
    world.objects.update(&id, |body| {
        if let Some(transfers) = new.transfers {
            body["capabilities"]["transfers"] = json!(transfers);
        }
        if let Some(enabled) = new.payouts_enabled {
            body["payouts_enabled"] = json!(enabled);
        }
    });
    Ok(find(world, "account", &id)?.1)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeAccount {
    #[serde(default)]
    livemode: bool,
    transfers: Option<Capability>,
    charges_enabled: Option<bool>,
    payouts_enabled: Option<bool>,
    details_submitted: Option<bool>,
    /// `null` takes it away.
    #[serde(default, deserialize_with = "present")]
    disabled_reason: Option<Value>,
    /// Transfers are refused with `transfers_not_allowed`.
    refuses_transfers: Option<bool>,
    /// The account is closed, or took the platform's access away.
    #[serde(default)]
    disconnected: bool,
}

/// A field that may be `null` but not be left out.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn change_account(world: &mut World, id: &str, change: ChangeAccount) -> Result<Value, ControlError> {
    if !accounts::exists(world, id) {
        return Err(ControlError::unknown("such account"));
    }
    if let Some(refuses) = change.refuses_transfers {
        world.accounts.entry(id.to_owned()).or_default().refuses_transfers = refuses;
    }
    if change.disconnected {
        accounts::disconnect(world, id, change.livemode);
        return Ok(find(world, "account", id)?.1);
    }
    let mut fields = json!({
        "transfers": change.transfers,
        "charges_enabled": change.charges_enabled,
        "payouts_enabled": change.payouts_enabled,
        "details_submitted": change.details_submitted,
    });
    if let Some(reason) = change.disabled_reason {
        fields["disabled_reason"] = reason;
    }
    accounts::update(world, id, change.livemode, &fields).ok_or_else(|| ControlError::unknown("such account"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBalance {
    currency: String,
    #[serde(default)]
    livemode: bool,
    account: Option<String>,
    set: Option<i64>,
    add: Option<i64>,
}

fn change_balance(world: &mut World, change: &ChangeBalance) -> Result<Value, ControlError> {
    let scope = Scope { account: change.account.clone(), livemode: change.livemode };
    let before = world.available(&scope, &change.currency);
    let amount = match (change.set, change.add) {
        (Some(set), None) => set - before,
        (None, Some(add)) => add,
        _ => return Err(ControlError::bad("either `set` or `add`")),
    };
    let call = Call::internal(scope.clone());
    let kind = if amount < 0 { "adjustment" } else { "topup" };
    let source = world.id("tu_");
    let movement =
        Movement { currency: &change.currency, amount, fee: 0, kind, source: &source, available_us: None };
    world.book(&call, &scope, &movement);
    let balance = world.balance(&scope);
    if amount > 0 {
        world.emit(&call, &scope, "balance.available", &balance, None);
    }
    Ok(balance)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPayout {
    account: String,
    amount: i64,
    currency: String,
    #[serde(default)]
    livemode: bool,
    status: payouts::Status,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayoutStatus {
    status: payouts::Status,
}

fn add_payout(world: &mut World, new: &NewPayout) -> Result<Value, ControlError> {
    if !accounts::exists(world, &new.account) {
        return Err(ControlError::unknown("such account"));
    }
    if new.amount <= 0 {
        return Err(ControlError::bad("the amount must be positive"));
    }
    let scope = Scope::platform(new.livemode).of(&new.account);
    Ok(payouts::make(world, &scope, new.amount, &new.currency, new.status))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Conclusion {
    Succeeded,
    RequiresAction,
    Processing,
    PaymentFailed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IntentStatus {
    status: Conclusion,
}

/// What the customer or the bank did in the meantime.
fn change_intent(world: &mut World, id: &str, change: &IntentStatus) -> Result<Value, ControlError> {
    let (scope, intent) = find(world, "payment_intent", id)?;
    if ["succeeded", "canceled"].contains(&text(&intent, "status")) {
        return Err(ControlError::bad("the payment is over"));
    }
    let verdict = match change.status {
        Conclusion::Succeeded => Verdict::Succeeds,
        Conclusion::RequiresAction => Verdict::Asks,
        Conclusion::Processing => Verdict::Processes,
        Conclusion::PaymentFailed => Verdict::Fails("generic_decline"),
    };
    // A refusal is what was asked for; the intent tells it.
    drop(payments::conclude(world, &Call::internal(scope.clone()), &scope, &intent, verdict));
    Ok(find(world, "payment_intent", id)?.1)
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Failed {
    Failed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefundStatus {
    status: Failed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEndpoint {
    url: String,
    secret: String,
    #[serde(default)]
    connect: bool,
}

fn add_endpoint(world: &mut World, new: NewEndpoint) -> Result<Value, ControlError> {
    let is_http = new.url.starts_with("http://") || new.url.starts_with("https://");
    if !is_http {
        return Err(ControlError::bad("the url must be one of http or https"));
    }
    world.outbox.endpoints.push(Endpoint { url: new.url, secret: new.secret, is_connect: new.connect });
    Ok(json!({ "webhook_endpoints": world.outbox.endpoints.len() }))
}

fn state(world: &World) -> Value {
    let balances = world.purses.iter().map(|((scope, currency), purse)| {
        json!({
            "account": scope.account, "livemode": scope.livemode, "currency": currency,
            "available": purse.available, "pending": purse.pending_total(),
        })
    });
    json!({
        "clock": clock(world),
        "objects": world.objects.counts(),
        "balances": balances.collect::<Vec<_>>(),
        "webhooks": { "waiting": world.outbox.waiting(), "in_flight": world.outbox.in_flight() },
        "late_executions": world.late.len(),
        "journal_lines": world.journal.lines().len(),
    })
}
