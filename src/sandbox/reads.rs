//! What can be looked at: single objects, lists with their filters and pages, and `expand`.
//!
//! Source: docs.stripe.com/api/pagination, `docs.stripe.com/api/expanding_objects`.

use serde_json::{Value, json};

use super::{
    clock::SECOND_US,
    error::ApiError,
    world::{Call, Object, Scope, World, int, text},
};

/// Objects of a page unless `limit` says otherwise.
const PAGE_DEFAULT: usize = 10;
/// How long events can be read, microseconds.
const EVENTS_KEPT_US: i64 = 30 * 24 * 3600 * SECOND_US;

/// One object of the call's account and mode, by the last id of the path.
pub(super) fn get(world: &World, call: &Call, kind: &str, param: &str) -> Result<Value, ApiError> {
    let id = call.args.last().map_or("", String::as_str);
    let found = world.objects.get(&call.scope, kind, id);
    found.cloned().ok_or_else(|| ApiError::no_such(kind, id, param))
}

/// A list of the call's account and mode. Each of `filters` is a parameter that an equal field answers.
pub(super) fn list(world: &World, call: &Call, kind: &str, filters: &[&str]) -> Result<Value, ApiError> {
    page(world, call, kind, |object| {
        object.scope == call.scope
            && filters.iter().all(|name| call.form.get(name).is_none_or(|value| object.body[*name] == value))
    })
}

/// `GET /v1/accounts`: accounts belong to both modes.
pub(super) fn accounts(world: &World, call: &Call) -> Result<Value, ApiError> {
    page(world, call, "account", |_| true)
}

/// `GET /v1/transfers/{id}/reversals`.
pub(super) fn reversals(world: &World, call: &Call) -> Result<Value, ApiError> {
    let transfer = super::transfers::found(world, &call.scope, &call.args[0])?;
    page(world, call, "transfer_reversal", |object| object.body["transfer"] == transfer["id"])
}

/// `GET /v1/transfers/{id}/reversals/{id}`.
pub(super) fn reversal(world: &World, call: &Call) -> Result<Value, ApiError> {
    let reversal = get(world, call, "transfer_reversal", "id")?;
    if text(&reversal, "transfer") == call.args[0] {
        return Ok(reversal);
    }
    Err(ApiError::no_such("transfer_reversal", &call.args[1], "id"))
}

/// `GET /v1/events`: those of the last 30 days.
pub(super) fn events(world: &World, call: &Call) -> Result<Value, ApiError> {
    let types = call.form.list("types");
    let oldest_us = world.clock.now_us() - EVENTS_KEPT_US;
    page(world, call, "event", |object| {
        let kind = text(&object.body, "type");
        let is_delivered = int(&object.body, "pending_webhooks") == 0;
        object.scope == call.scope
            && object.created_us >= oldest_us
            && (types.is_empty() || types.iter().any(|wanted| matches_type(wanted, kind)))
            && call.form.get("type").is_none_or(|wanted| matches_type(wanted, kind))
            && call.form.get("delivery_success").is_none_or(|wanted| (wanted == "true") == is_delivered)
    })
}

/// `transfer.*` stands for every type that begins so.
fn matches_type(wanted: &str, kind: &str) -> bool {
    wanted.strip_suffix('*').map_or(wanted == kind, |prefix| kind.starts_with(prefix))
}

fn page(
    world: &World,
    call: &Call,
    kind: &str,
    is_listed: impl Fn(&Object) -> bool,
) -> Result<Value, ApiError> {
    let form = &call.form;
    let (after, before) = (form.get("starting_after"), form.get("ending_before"));
    if after.is_some() && before.is_some() {
        let message = "You may only specify one of these parameters: ending_before, starting_after.";
        return Err(ApiError::invalid(400, None, message).about("ending_before"));
    }
    for (cursor, param) in [(after, "starting_after"), (before, "ending_before")] {
        if let Some(id) = cursor
            && !world.objects.any(kind, id).is_some_and(&is_listed_or_hidden(&call.scope, kind))
        {
            return Err(ApiError::no_such(kind, id, param).status(400));
        }
    }
    let limit = form.integer("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_DEFAULT);
    let newest_us = newest_shown(world, call);
    let listed = |object: &&Object| {
        is_listed(object)
            && object.hidden_until_us <= world.clock.now_us()
            && object.created_us <= newest_us
            && is_in_time(object, call)
    };
    let (objects, has_more) = match before {
        None => {
            // The cursor itself may be filtered out, so everything up to it is passed over first.
            let all = world.objects.newest(kind);
            let mut rest: Box<dyn Iterator<Item = &Object>> = match after {
                None => Box::new(all),
                Some(id) => Box::new(all.skip_while(move |object| object.body["id"] != id).skip(1)),
            };
            let mut found: Vec<&Object> = rest.by_ref().filter(listed).take(limit + 1).collect();
            let has_more = found.len() > limit;
            found.truncate(limit);
            (found, has_more)
        }
        Some(id) => {
            let newer = world.objects.newest(kind).take_while(|object| object.body["id"] != id);
            let newer: Vec<&Object> = newer.filter(listed).collect();
            // The page that ends next to the cursor, still newest first.
            (newer[newer.len().saturating_sub(limit)..].to_vec(), newer.len() > limit)
        }
    };
    let data: Vec<&Value> = objects.into_iter().map(|object| &object.body).collect();
    Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": call.path }))
}

/// A cursor may name what this list does not show.
fn is_listed_or_hidden(scope: &Scope, kind: &str) -> impl Fn(&Object) -> bool {
    let is_account = kind == "account";
    move |object| is_account || object.scope == *scope
}

/// The newest time of creation that this answer shows, which a fault may put into the past.
fn newest_shown(world: &World, call: &Call) -> i64 {
    match call.plan.hidden_for_us() {
        None => i64::MAX,
        Some(for_us) => world.clock.now_us().saturating_sub(for_us).saturating_sub(1),
    }
}

/// `created` and `created[gt|gte|lt|lte]`.
fn is_in_time(object: &Object, call: &Call) -> bool {
    let created = int(&object.body, "created");
    let bound = |name: &str| call.form.integer(name);
    bound("created").is_none_or(|at| created == at)
        && bound("created[gt]").is_none_or(|at| created > at)
        && bound("created[gte]").is_none_or(|at| created >= at)
        && bound("created[lt]").is_none_or(|at| created < at)
        && bound("created[lte]").is_none_or(|at| created <= at)
}

/// Puts objects in place of their ids, along `a.b.c`. What cannot be expanded stays as it is: a request
/// that was executed must not be answered with a refusal.
pub(super) fn expand(world: &World, call: &Call, body: &mut Value) {
    for path in call.form.list("expand") {
        expand_along(world, &call.scope, body, path);
    }
}

fn expand_along(world: &World, scope: &Scope, body: &mut Value, path: &str) {
    let (field, rest) = path.split_once('.').unwrap_or((path, ""));
    if field == "refunds" && body["object"] == "charge" && body.get("refunds").is_none() {
        body["refunds"] = refunds_of(world, scope, text(body, "id"));
    }
    let Some(value) = body.get_mut(field) else { return };
    if let Some(object) = value.as_str().and_then(|id| world.objects.expand(scope, id)) {
        *value = object.clone();
    }
    if rest.is_empty() {
        return;
    }
    match value {
        Value::Array(items) => {
            for item in items {
                if let Some(object) = item.as_str().and_then(|id| world.objects.expand(scope, id)) {
                    *item = object.clone();
                }
                expand_along(world, scope, item, rest);
            }
        }
        other => expand_along(world, scope, other, rest),
    }
}

fn refunds_of(world: &World, scope: &Scope, charge: &str) -> Value {
    let refunds = world.objects.newest("refund");
    let refunds = refunds.filter(|refund| refund.scope == *scope && refund.body["charge"] == charge);
    let data: Vec<&Value> = refunds.map(|refund| &refund.body).collect();
    json!({
        "object": "list", "data": data, "has_more": false, "total_count": data.len(),
        "url": format!("/v1/charges/{charge}/refunds"),
    })
}
