//! The description of the API: `GET /openapi.json`, OpenAPI 3.1.
//!
//! A route says of itself only what is its own: path, name, tag, parameters, body and success. A route
//! that is not mounted through [`utoipa_axum::routes!`] does not exist, so none is without a
//! description. What every route does alike is added here, once: the answers of the edge and of the
//! extractors, the `Idempotency-Key`, and that an answer always holds all of its fields.
//!
//! How to describe a new route: annotate the handler with `#[utoipa::path]`, its views and requests
//! with `#[derive(ToSchema)]`, and mount it with `routes!`. It needs a key unless it says
//! `security(())`; a route for operators alone says `security(("operatorKey" = []))`. A refusal that
//! this module does not add is named with one of [`answers`]. The integration tests hold every answer
//! they get against this document.
//!
//! The router takes the description at its word: `queries` refuses query parameters that are not in it.

pub mod answers;
pub mod program;
mod queries;
pub mod schemas;

use std::collections::BTreeSet;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use utoipa::{PartialSchema as _, ToSchema as _, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::error::Envelope;

/// The finished document, as it is sent.
#[derive(Clone)]
struct Document(Bytes);

/// The routes of `api` and, beside them, `GET /openapi.json` that describes them all. But for links and
/// receivers none takes a query parameter that it does not describe.
pub fn described(api: OpenApiRouter) -> Router {
    let (own_routes, mut own) = OpenApiRouter::new().routes(routes!(document)).split_for_parts();
    let (routes, described) = api.split_for_parts();
    own.merge(described);
    let schemas = &mut own.components.get_or_insert_default().schemas;
    let mut of_refusals = vec![(Envelope::name().into_owned(), Envelope::schema())];
    Envelope::schemas(&mut of_refusals);
    schemas.extend(of_refusals);
    let routes = routes.merge(own_routes.with_state(Document(finished(&own))));
    queries::held(routes, own.paths)
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getOpenapi", tag = "description", security(()),
    responses((status = 200, description = "The description of the API.", body = serde_json::Value))
)]
async fn document(State(Document(bytes)): State<Document>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

const ABOUT: &str = "Amounts are whole numbers of the currency's minor unit. Times are RFC 3339 in UTC. \
    Lists are paged by `limit` and `cursor`. A query parameter that a route does not name, or that is given \
    twice, is refused; links and webhooks take any. Refusals share one envelope, whose `code` is what to branch \
    on; the `x-request-id` of each answer names it in the log. What belongs to somebody else looks \
    exactly like what does not exist. New fields and new words may be added at any time.";

/// Adds what is true of every route.
fn finished(described: &OpenApi) -> Bytes {
    let mut document = serde_json::to_value(described).expect("a description is plain JSON");
    finish(&mut document);
    Bytes::from(document.to_string())
}

fn finish(document: &mut Value) {
    document["info"] = json!({
        "title": "remit",
        "version": env!("CARGO_PKG_VERSION"),
        "description": ABOUT,
        "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
    });
    document["security"] = json!([{"organizationKey": []}, {"operatorKey": []}]);
    document["components"]["securitySchemes"] = json!({
        "operatorKey": {
            "type": "http", "scheme": "bearer",
            "description": "A key of kind `operator` (`rk_op_…`), of those who run this installation.",
        },
        "organizationKey": {
            "type": "http", "scheme": "bearer",
            "description": "A key of kind `organization` (`rk_org_…`): sees what belongs to its organization.",
        },
        "clientKey": {
            "type": "apiKey", "in": "header", "name": "X-Api-Key",
            "description": "A key of kind `client` (`rk_cl_…`), for web pages of one project.",
        },
    });
    document["components"]["parameters"] = answers::idempotency_keys();
    document["components"]["responses"] = answers::components();
    let paths = document["paths"].as_object_mut();
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            finish_operation(path, method, operation);
        }
    }
    refer_to_contents(document);
    require_every_field(document);
}

/// The macro repeats in `Data_Sale` what `Sale` says; the envelopes should refer to it.
fn refer_to_contents(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    let names: BTreeSet<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas {
        let Some((_, content)) = name.split_once('_').filter(|(_, content)| names.contains(*content)) else {
            continue;
        };
        let data = &mut schema["properties"]["data"];
        let place = if data["type"] == "array" { &mut data["items"] } else { data };
        *place = json!({"$ref": format!("#/components/schemas/{content}")});
    }
}

/// A body that may be absent is described by the macro as one that may be `null`, which it may not.
fn leave_out_null(operation: &mut Value) {
    let body = &mut operation["requestBody"]["content"]["application/json"]["schema"];
    let is_null = |choice: &Value| choice["type"] == "null";
    let one = body["oneOf"].as_array().and_then(|choices| choices.iter().find(|choice| !is_null(choice)));
    if let Some(one) = one.cloned() {
        *body = one;
    }
}

fn finish_operation(path: &str, method: &str, operation: &mut Value) {
    // A list with one empty requirement is how the macro words "no key".
    let is_public = operation["security"] == json!([{}]);
    if is_public {
        operation["security"] = json!([]);
    }
    let is_shared = is_public || operation["security"] == json!([{"clientKey": []}]);
    // An event that a provider tells has an id of the provider's.
    let is_change = !matches!(method, "get" | "options") && !path.starts_with("/webhooks/");
    if is_change && let Some(parameters) = list(operation, "parameters") {
        let name = if is_shared { "RandomIdempotencyKey" } else { "IdempotencyKey" };
        parameters.push(json!({"$ref": format!("#/components/parameters/{name}")}));
    }
    let has_body = operation.get("requestBody").is_some();
    if has_body {
        leave_out_null(operation);
    }
    let mut statuses = vec!["400", "500", "503"];
    if !is_public {
        statuses.extend(["401", "403"]);
    }
    if has_body {
        statuses.push("413");
    }
    if path.contains('{') {
        statuses.push("404");
    }
    if is_change {
        statuses.extend(["409", "422"]);
    }
    if let Some(responses) = operation["responses"].as_object_mut() {
        for status in statuses {
            let name = answers::name_of(status);
            responses
                .entry(status)
                .or_insert_with(|| json!({"$ref": format!("#/components/responses/{name}")}));
        }
        let done = responses.iter_mut().filter(|(status, _)| is_change && status.starts_with('2'));
        done.for_each(|(_, response)| response["headers"]["Idempotent-Replayed"] = answers::replayed());
    }
}

fn list<'a>(operation: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    operation.as_object_mut()?.entry(name).or_insert_with(|| json!([])).as_array_mut()
}

/// An answer shows every field, null where there is nothing, so a reader need not ask whether one is
/// there. The macro cannot know that: to it an optional field may be absent, as it may in a request.
fn require_every_field(document: &mut Value) {
    let mut requested = BTreeSet::new();
    let mut answered = BTreeSet::new();
    for item in document["paths"].as_object().into_iter().flat_map(serde_json::Map::values) {
        for operation in item.as_object().into_iter().flat_map(serde_json::Map::values) {
            collect_schemas(document, &operation["requestBody"], &mut requested);
            collect_schemas(document, &operation["responses"], &mut answered);
        }
    }
    let schemas = document["components"]["schemas"].as_object_mut();
    for (name, schema) in schemas.into_iter().flatten() {
        if answered.contains(name) && !requested.contains(name) {
            require_fields_of(schema);
        }
    }
}

fn require_fields_of(schema: &mut Value) {
    for word in ["allOf", "oneOf"] {
        for part in schema.get_mut(word).and_then(Value::as_array_mut).into_iter().flatten() {
            require_fields_of(part);
        }
    }
    if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
        schema["required"] = fields.keys().map(String::as_str).collect();
    }
}

/// The names of the schemas that `part` refers to, also through others.
fn collect_schemas(document: &Value, part: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Array(parts) => parts.iter().for_each(|part| collect_schemas(document, part, found)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = value.as_str().and_then(|text| text.strip_prefix("#/components/schemas/"));
                if let Some(name) = name.filter(|_| field == "$ref") {
                    if found.insert(name.to_owned()) {
                        collect_schemas(document, &document["components"]["schemas"][name], found);
                    }
                } else {
                    collect_schemas(document, value, found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
