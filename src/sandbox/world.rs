//! Everything the sandbox remembers, and the three things that happen to it: an object comes or changes,
//! money moves, an event is told.
//!
//! An object is kept as the JSON that is answered. What may be done to it is in `transfers.rs`,
//! `payments.rs`, `refunds.rs`, `accounts.rs` and `payouts.rs`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::{
    API_VERSION,
    clock::{Clock, SECOND_US},
    faults::{Faults, Plan},
    form::Form,
    journal::Journal,
    keys::Keys,
    outbox::Outbox,
    rng::Rng,
};

/// Where objects, keys and money belong: a mode, and the platform or one of its connected accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Scope {
    /// `None` for the platform.
    pub(super) account: Option<String>,
    pub(super) livemode: bool,
}

impl Scope {
    pub(super) const fn platform(livemode: bool) -> Self {
        Self { account: None, livemode }
    }

    /// A connected account in the same mode.
    pub(super) fn of(&self, account: &str) -> Self {
        Self { account: Some(account.to_owned()), livemode: self.livemode }
    }

    /// The platform in the same mode.
    pub(super) const fn above(&self) -> Self {
        Self::platform(self.livemode)
    }
}

/// What is being done, and because of which request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) scope: Scope,
    /// `None` for what nobody asked for over the API.
    pub(super) request_id: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) form: Form,
    /// The ids in the path.
    pub(super) args: Vec<String>,
    pub(super) path: String,
    pub(super) plan: Plan,
    /// `late` or `duplicate`, for the journal.
    pub(super) mark: Option<&'static str>,
}

impl Call {
    /// Something that happens by itself or by the control API.
    pub(super) fn internal(scope: Scope) -> Self {
        Self {
            scope,
            request_id: None,
            idempotency_key: None,
            form: Form::default(),
            args: Vec::new(),
            path: String::new(),
            plan: Plan::default(),
            mark: None,
        }
    }
}

/// A stored object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) scope: Scope,
    pub(super) created_us: i64,
    /// Lists miss it until then.
    pub(super) hidden_until_us: i64,
    pub(super) body: Value,
}

/// All objects, by id, and in the order of their creation by type.
#[derive(Debug, Default)]
pub(super) struct Objects {
    by_id: HashMap<String, Object>,
    by_type: HashMap<String, Vec<String>>,
}

impl Objects {
    fn insert(&mut self, object: Object) {
        let id = text(&object.body, "id").to_owned();
        self.by_type.entry(text(&object.body, "object").to_owned()).or_default().push(id.clone());
        self.by_id.insert(id, object);
    }

    /// The object of that type and id, whatever its scope.
    pub(super) fn any(&self, kind: &str, id: &str) -> Option<&Object> {
        self.by_id.get(id).filter(|object| text(&object.body, "object") == kind)
    }

    pub(super) fn get(&self, scope: &Scope, kind: &str, id: &str) -> Option<&Value> {
        self.any(kind, id).filter(|object| object.scope == *scope).map(|object| &object.body)
    }

    /// Any object of that scope, for `expand`.
    pub(super) fn expand(&self, scope: &Scope, id: &str) -> Option<&Value> {
        self.by_id
            .get(id)
            .filter(|object| object.scope == *scope || object.body["object"] == "account")
            .map(|object| &object.body)
    }

    /// Changes fields.
    pub(super) fn update(&mut self, id: &str, change: impl FnOnce(&mut Value)) {
        if let Some(object) = self.by_id.get_mut(id) {
            change(&mut object.body);
        }
    }

    /// Objects of a type, newest first.
    pub(super) fn newest(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.by_type.get(kind).into_iter().flatten().rev().filter_map(|id| self.by_id.get(id))
    }

    /// Lists show everything again.
    pub(super) fn reveal(&mut self) {
        for object in self.by_id.values_mut() {
            object.hidden_until_us = i64::MIN;
        }
    }

    /// How many there are of each type.
    pub(super) fn counts(&self) -> Value {
        json!(self.by_type.iter().map(|(kind, ids)| (kind.clone(), json!(ids.len()))).collect::<Map<_, _>>())
    }
}

/// Money of one currency, minor units; either side may be negative.
#[derive(Debug, Default)]
pub(super) struct Purse {
    pub(super) available: i64,
    pub(super) pending: Vec<Pending>,
}

/// Money that is not available yet.
#[derive(Debug)]
pub(super) struct Pending {
    due_us: i64,
    net: i64,
    /// The balance transaction.
    id: String,
}

impl Purse {
    pub(super) fn pending_total(&self) -> i64 {
        self.pending.iter().map(|pending| pending.net).sum()
    }
}

/// A movement of money of one purse.
pub(super) struct Movement<'a> {
    pub(super) currency: &'a str,
    /// Minor units, negative when taken.
    pub(super) amount: i64,
    pub(super) fee: i64,
    /// `type` of the balance transaction.
    pub(super) kind: &'a str,
    pub(super) source: &'a str,
    /// At once where it is `None`.
    pub(super) available_us: Option<i64>,
}

/// Something that will be executed later although a 500 was answered.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) due_us: i64,
    pub(super) call: Call,
    pub(super) route: &'static super::api::Route,
}

/// The state. It holds secrets, so it is never shown as a whole.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) objects: Objects,
    pub(super) purses: BTreeMap<(Scope, String), Purse>,
    pub(super) accounts: HashMap<String, super::accounts::Flags>,
    pub(super) visits: HashMap<String, super::accounts::Visit>,
    pub(super) keys: Keys,
    pub(super) faults: Faults,
    pub(super) journal: Journal,
    pub(super) outbox: Outbox,
    pub(super) late: Vec<Late>,
    /// Secret keys that are accepted; every key of the right form where there is none.
    pub(super) secret_keys: Vec<String>,
    /// Where this sandbox is reached, `http://…`.
    pub(super) url: String,
}

impl World {
    /// An id in the provider's style: 24 letters and digits behind the prefix.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        self.rng.id(&format!("{prefix}1"), 23)
    }

    /// Stores a new object and writes it down.
    pub(super) fn create(&mut self, call: &Call, scope: &Scope, effect: &str, body: Value) {
        let now_us = self.clock.now_us();
        let hidden_for_us = call.plan.hidden_for_us();
        let hidden_until_us = hidden_for_us.map_or(i64::MIN, |for_us| now_us.saturating_add(for_us));
        self.effect(call, scope, effect, &body);
        self.objects.insert(Object { scope: scope.clone(), created_us: now_us, hidden_until_us, body });
    }

    /// Changes an object, writes the change down and returns the object as it is now.
    pub(super) fn change(
        &mut self,
        call: &Call,
        scope: &Scope,
        effect: &str,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Value {
        self.objects.update(id, change);
        let body = self.objects.by_id.get(id).map_or(Value::Null, |object| object.body.clone());
        self.effect(call, scope, effect, &body);
        body
    }

    /// The journal's line about a change.
    pub(super) fn effect(&mut self, call: &Call, scope: &Scope, effect: &str, object: &Value) {
        let mut line = json!({
            "request_id": call.request_id,
            "idempotency_key": call.idempotency_key,
            "effect": effect,
            "account": scope.account,
            "livemode": scope.livemode,
            "object": object,
        });
        if let Some(mark) = call.mark {
            line[mark] = json!(true);
        }
        self.journal.add(self.clock.now_us(), "effect", line);
    }

    /// Moves money and stores the balance transaction; returns its id.
    pub(super) fn book(&mut self, call: &Call, scope: &Scope, movement: &Movement<'_>) -> String {
        let Movement { currency, amount, fee, kind, source, available_us } = *movement;
        let id = self.id("txn_");
        let net = amount - fee;
        let now_us = self.clock.now_us();
        let available_us = available_us.filter(|at| *at > now_us);
        let purse = self.purses.entry((scope.clone(), currency.to_owned())).or_default();
        match available_us {
            None => purse.available += net,
            Some(due_us) => purse.pending.push(Pending { due_us, net, id: id.clone() }),
        }
        let fees = if fee == 0 {
            json!([])
        } else {
            json!([{
                "amount": fee, "application": null, "currency": currency,
                "description": "Stripe processing fees", "type": "stripe_fee",
            }])
        };
        let body = json!({
            "id": id,
            "object": "balance_transaction",
            "amount": amount,
            "available_on": available_us.unwrap_or(now_us).div_euclid(SECOND_US),
            "balance_type": "payments",
            "created": self.clock.now_s(),
            "currency": currency,
            "description": null,
            "exchange_rate": null,
            "fee": fee,
            "fee_details": fees,
            "net": net,
            "reporting_category": kind,
            "source": source,
            "status": if available_us.is_none() { "available" } else { "pending" },
            "type": kind,
        });
        self.create(call, scope, "balance_transaction.created", body);
        id
    }

    /// What can be spent now, minor units.
    pub(super) fn available(&self, scope: &Scope, currency: &str) -> i64 {
        self.purses.get(&(scope.clone(), currency.to_owned())).map_or(0, |purse| purse.available)
    }

    /// Tells an event: stores it, and queues its webhooks as the request's faults say.
    pub(super) fn emit(
        &mut self,
        call: &Call,
        scope: &Scope,
        kind: &str,
        object: &Value,
        previous: Option<Value>,
    ) {
        let id = self.id("evt_");
        let mut data = json!({ "object": object });
        if let Some(previous) = previous {
            data["previous_attributes"] = previous;
        }
        let announcement = call.plan.announcement();
        let endpoints = self.outbox.endpoints_for(scope);
        let mut event = json!({
            "id": id,
            "object": "event",
            "api_version": API_VERSION,
            "created": self.clock.now_s(),
            "data": data,
            "livemode": scope.livemode,
            "pending_webhooks": endpoints.len(),
            "request": { "id": call.request_id, "idempotency_key": call.idempotency_key },
            "type": kind,
        });
        if let Some(account) = &scope.account {
            event["account"] = json!(account);
        }
        if announcement.is_sent {
            let due_us = self.clock.now_us() + i64::from(announcement.late_s) * SECOND_US;
            for _ in 0..announcement.copies {
                for endpoint in &endpoints {
                    self.outbox.queue(*endpoint, &event, due_us, call.request_id.as_deref());
                }
            }
        }
        let created_us = self.clock.now_us();
        let scope = scope.clone();
        self.objects.insert(Object { scope, created_us, hidden_until_us: i64::MIN, body: event });
    }

    /// Lets everything happen that time has brought: pending money, late executions.
    pub(super) fn tick(&mut self) {
        let now_us = self.clock.now_us();
        self.settle(now_us);
        self.late.sort_by_key(|late| late.due_us);
        while self.late.first().is_some_and(|late| late.due_us <= now_us) {
            let Late { call, route, .. } = self.late.remove(0);
            // It may fail like any other, with nobody to tell.
            let outcome = (route.run)(self, &call);
            if let Err(error) = outcome {
                let line = json!({ "request_id": call.request_id, "late": true, "error_code": error.code });
                self.journal.add(now_us, "late_failure", line);
            }
        }
    }

    fn settle(&mut self, now_us: i64) {
        let mut settled = Vec::new();
        for ((scope, _), purse) in &mut self.purses {
            for pending in purse.pending.extract_if(.., |pending| pending.due_us <= now_us) {
                purse.available += pending.net;
                self.objects.update(&pending.id, |body| body["status"] = json!("available"));
                settled.push(scope.clone());
            }
        }
        settled.dedup();
        for scope in settled {
            let balance = self.balance(&scope);
            self.emit(&Call::internal(scope.clone()), &scope, "balance.available", &balance, None);
        }
    }

    /// The balance object.
    pub(super) fn balance(&self, scope: &Scope) -> Value {
        let row = |amount: i64, currency: &String| json!({ "amount": amount, "currency": currency, "source_types": { "card": amount } });
        let own = || self.purses.iter().filter(|((owner, _), _)| owner == scope);
        let available: Vec<Value> =
            own().map(|((_, currency), purse)| row(purse.available, currency)).collect();
        let pending: Vec<Value> =
            own().map(|((_, currency), purse)| row(purse.pending_total(), currency)).collect();
        let reserved: Vec<Value> =
            own().map(|((_, currency), _)| json!({ "amount": 0, "currency": currency })).collect();
        let mut balance = json!({
            "object": "balance", "available": available, "livemode": scope.livemode, "pending": pending,
        });
        if scope.account.is_none() {
            balance["connect_reserved"] = json!(reserved);
        }
        balance
    }
}

/// A field that is text; empty where it is not.
pub(super) fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field].as_str().unwrap_or_default()
}

/// A field that is a whole number; zero where it is not.
pub(super) fn int(body: &Value, field: &str) -> i64 {
    body[field].as_i64().unwrap_or_default()
}

/// An object of the metadata that a request gives.
pub(super) fn metadata(form: &Form) -> Value {
    let mut metadata = json!({});
    merge_metadata(&mut metadata, form);
    metadata
}

/// Sets the keys that a request names, and removes those it empties.
pub(super) fn merge_metadata(metadata: &mut Value, form: &Form) {
    let Some(map) = metadata.as_object_mut() else { return };
    if form.last("metadata").is_some_and(str::is_empty) {
        map.clear();
    }
    for (key, value) in form.map("metadata") {
        if value.is_empty() {
            map.remove(key);
        } else {
            map.insert(key.to_owned(), json!(value));
        }
    }
}
