//! Holds queries to the description: a parameter that a route does not take is refused, and so is one that is
//! given twice. Were it ignored, a filter with a slip in its name would show everything and nobody would notice.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
};
use utoipa::openapi::{
    RefOr,
    path::{Operation, ParameterIn, Paths},
};

use crate::http::{error::ApiError, params::Params};

/// Where a query is not the caller's own: advertisers put theirs on an affiliate's link, and an event is not
/// lost over what somebody added to the address of the receiver.
const FOREIGN: [&str; 2] = ["/r/", "/webhooks/"];

/// `routes`, each of which takes the parameters that `described` names for it, and no others.
pub(super) fn held(routes: Router, described: Paths) -> Router {
    routes.route_layer(middleware::from_fn_with_state(Arc::new(described), hold))
}

async fn hold(
    State(described): State<Arc<Paths>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = path.as_str();
    let is_foreign = FOREIGN.iter().any(|prefix| path.starts_with(prefix));
    if !is_foreign && let Some(operation) = operation(&described, path, request.method()) {
        check(operation, request.uri())?;
    }
    Ok(next.run(request).await)
}

/// What a path does under a method; none for a method that it does not take.
fn operation<'a>(described: &'a Paths, path: &str, method: &Method) -> Option<&'a Operation> {
    let item = described.paths.get(path)?;
    let operation = match *method {
        Method::GET | Method::HEAD => &item.get,
        Method::POST => &item.post,
        Method::PUT => &item.put,
        Method::PATCH => &item.patch,
        Method::DELETE => &item.delete,
        Method::OPTIONS => &item.options,
        _ => &None,
    };
    operation.as_ref()
}

/// 400 `UNKNOWN_PARAMETER` or `REPEATED_PARAMETER`.
fn check(operation: &Operation, uri: &Uri) -> Result<(), ApiError> {
    // A handler describes its parameters in place, none by reference.
    let taken = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.as_str()),
        RefOr::T(_) | RefOr::Ref(_) => None,
    });
    let taken: Vec<&str> = taken.collect();
    let params = Params::of(uri)?;
    let mut given = Vec::new();
    for name in params.names() {
        if !taken.contains(&name) {
            let message = match &*taken {
                [] => "this route takes no query parameters".to_owned(),
                taken => format!("the query parameters of this route are {}", taken.join(", ")),
            };
            return Err(refuse("UNKNOWN_PARAMETER", name, message));
        }
        if given.contains(&name) {
            return Err(refuse("REPEATED_PARAMETER", name, format!("{name} can be given once")));
        }
        given.push(name);
    }
    Ok(())
}

fn refuse(code: &'static str, param: &str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param.to_owned())
}
