//! Holds every answer of the routes to their description, whatever a test asks them.
//!
//! An answer must have a status, a content type and a form that `/openapi.json` names, without any field
//! that it does not name; a request that was carried out must have had a body and a query that it
//! allows. So a route cannot say one thing and do another without some test failing.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use jsonschema::Validator;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// No answer of a test is larger.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The description of some routes.
pub struct Description {
    pub document: Value,
    /// As `document`, and objects hold nothing but what is described.
    closed: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// `routes` with everything that goes in and out checked against their own description.
pub async fn checked(routes: Router) -> Router {
    let description = Description::of(&routes).await;
    routes.layer(middleware::from_fn_with_state(description, check))
}

async fn check(State(description): State<Arc<Description>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    let query = head.uri.query().unwrap_or_default().to_owned();
    // A body that cannot be read to its end is for the route to refuse.
    let (sent, body) = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(bytes) => (bytes.clone(), Body::from(bytes)),
        Err(_) => (Bytes::new(), Body::empty()),
    };
    let (answer, body) = next.run(Request::from_parts(head, body)).await.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let exchange = Exchange { method: &method, path: &path, query: &query, sent: &sent };
    description.check(&exchange, answer.status, kind, &body);
    Response::from_parts(answer, Body::from(body))
}

/// A request of which the answer is to be checked.
pub struct Exchange<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub sent: &'a [u8],
}

impl Description {
    /// What `routes` say of themselves.
    pub async fn of(routes: &Router) -> Arc<Self> {
        static KNOWN: LazyLock<Mutex<HashMap<Bytes, Arc<Description>>>> = LazyLock::new(Mutex::default);
        let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = to_bytes(response.into_body(), BODY_BYTES_MAX).await.unwrap();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(text).or_insert_with_key(|text| Arc::new(Self::read(text))))
    }

    fn read(text: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(text).unwrap();
        let mut closed = document.clone();
        for schema in
            closed["components"]["schemas"].as_object_mut().into_iter().flat_map(|all| all.values_mut())
        {
            close_within(schema);
        }
        Self { document, closed, validators: Mutex::default() }
    }

    /// The template of the path that `path` fits, the one with the most fixed parts.
    pub fn template(&self, path: &str) -> Option<&str> {
        let parts: Vec<&str> = path.split('/').collect();
        let templates = self.document["paths"].as_object().unwrap().keys();
        let fits = |template: &&String| {
            let wanted: Vec<&str> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted.iter().zip(&parts).all(|(wanted, part)| {
                    if wanted.starts_with('{') { !part.is_empty() } else { wanted == part }
                })
        };
        templates.filter(fits).min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    /// Fails when an answer is not as described.
    #[track_caller]
    pub fn check(&self, exchange: &Exchange<'_>, status: StatusCode, kind: Option<&str>, answer: &[u8]) {
        let Exchange { method, path, query, sent } = exchange;
        let Some(template) = self.template(path) else {
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path} is not described");
            return;
        };
        let name = if *method == Method::HEAD { "get".to_owned() } else { method.as_str().to_lowercase() };
        let operation = &self.document["paths"][template][&name];
        let at = format!("{method} {template} {}", status.as_u16());
        if operation.is_null() {
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{at}: the method is not described");
            return;
        }
        let mut response = &operation["responses"][status.as_str()];
        assert!(
            !response.is_null(),
            "{at}: the status is not described: {}",
            String::from_utf8_lossy(answer)
        );
        if let Some(reference) = response["$ref"].as_str() {
            response = self.document.pointer(&reference[1..]).unwrap();
        }
        if *method != Method::HEAD {
            self.check_answer(&at, response, kind, answer);
        }
        if status.is_success() {
            check_query(&at, operation, query);
            self.check_request(&at, operation, sent);
        }
    }

    fn check_answer(&self, at: &str, response: &Value, kind: Option<&str>, answer: &[u8]) {
        let Some(described) = response["content"].as_object() else {
            assert!(answer.is_empty(), "{at}: a body that is not described");
            return;
        };
        let kind = kind.unwrap_or_else(|| panic!("{at}: no content type")).split(';').next().unwrap();
        let content = described.get(kind).unwrap_or_else(|| panic!("{at}: {kind} is not described"));
        if kind == "application/json" {
            let answer: Value = serde_json::from_slice(answer).unwrap();
            let mut schema = content["schema"].clone();
            close(&mut schema);
            self.assert_fits(at, &self.closed, schema, &answer);
        }
    }

    fn check_request(&self, at: &str, operation: &Value, sent: &[u8]) {
        let described = &operation["requestBody"];
        if sent.is_empty() {
            assert!(described["required"] != true, "{at}: a body is not as needed as described");
        } else if let Ok(sent) = serde_json::from_slice::<Value>(sent)
            && !described.is_null()
        {
            let schema = described["content"]["application/json"]["schema"].clone();
            self.assert_fits(&format!("request of {at}"), &self.document, schema, &sent);
        }
    }

    /// Fails unless `value` is what `schema` of `document` says.
    #[track_caller]
    pub fn assert_fits(&self, at: &str, document: &Value, mut schema: Value, value: &Value) {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = validators.entry(at.to_owned()).or_insert_with(|| {
            schema["components"] = document["components"].clone();
            Arc::new(jsonschema::draft202012::new(&schema).unwrap())
        });
        let validator = Arc::clone(validator);
        drop(validators);
        let wrong: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{at} is not as described:\n{}\n{value:#}", wrong.join("\n"));
    }
}

fn check_query(at: &str, operation: &Value, query: &str) {
    let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap();
        let is_described =
            parameters.iter().any(|parameter| parameter["in"] == "query" && parameter["name"] == name);
        assert!(is_described, "{at}: the parameter {name} is not described");
    }
}

/// Lets an object hold nothing but what `schema`, at a place where it is used, and its parts describe.
fn close(schema: &mut Value) {
    let Some(words) = schema.as_object_mut() else { return };
    if ["$ref", "properties", "allOf"].iter().any(|word| words.contains_key(*word)) {
        words.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    close_within(schema);
}

/// As [`close`], for a schema that may be a part of another: only what lies within it.
fn close_within(schema: &mut Value) {
    let Some(words) = schema.as_object_mut() else { return };
    for (word, value) in words {
        match word.as_str() {
            "properties" => {
                value.as_object_mut().into_iter().flat_map(|all| all.values_mut()).for_each(close);
            }
            "oneOf" | "anyOf" => value.as_array_mut().into_iter().flatten().for_each(close),
            "allOf" => value.as_array_mut().into_iter().flatten().for_each(close_within),
            "items" | "additionalProperties" => close(value),
            _ => {}
        }
    }
}
