//! Parameters of a query string that several routes take: stretches of time, filters, formats. `limit` and
//! `cursor` are read by [`super::page`].

use axum::{
    extract::{FromRequestParts, Query},
    http::{StatusCode, Uri, request::Parts},
};
use utoipa::IntoParams;

use super::error::ApiError;
use crate::domain::{
    commission::ConversionStatus,
    ids::{EnrollmentId, InvalidId, ProgramId},
    money::Currency,
    time::Timestamp,
    window::{Days, InvalidWindow, Window},
};

/// How [`Params::window`] is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WindowQuery {
    /// A date, which is the start of that day in UTC, or RFC 3339; from the beginning where it is absent.
    #[param(nullable = false)]
    pub from: Option<String>,
    /// As `from`; the first instant that is left out. Until now where it is absent.
    #[param(nullable = false)]
    pub to: Option<String>,
}

/// How [`Params::days`] is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DaysQuery {
    /// The first day, a date in UTC; 30 days before `to` where it is absent.
    #[param(nullable = false)]
    pub from: Option<String>,
    /// The first day that is left out, at most 366 after `from`; tomorrow where it is absent.
    #[param(nullable = false)]
    pub to: Option<String>,
}

/// How the part of an affiliate's side is described that is asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PartQuery {
    /// Only what belongs to this program.
    #[param(nullable = false)]
    pub program_id: Option<ProgramId>,
    /// Only what belongs to this enrollment.
    #[param(nullable = false)]
    pub enrollment_id: Option<EnrollmentId>,
}

/// How [`Params::status`] is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// Only conversions of this status.
    #[param(nullable = false)]
    pub status: Option<ConversionStatus>,
}

/// How the format of a file is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FormatQuery {
    /// One object per line, or comma-separated values with a header.
    #[param(nullable = false, pattern = "^(csv|ndjson)$", default = "csv")]
    pub format: Option<String>,
}

/// How the order of a leaderboard is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RankQuery {
    /// What decides; `earned` and `net` need a currency.
    #[param(nullable = false, pattern = "^(earned|net|conversions|clicks)$", default = "conversions")]
    pub by: Option<String>,
    /// Whose amounts are shown.
    #[param(nullable = false, pattern = "^[A-Za-z]{3}$")]
    pub currency: Option<String>,
    /// Affiliates that are shown.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<i64>,
}

/// How the choice of a statement is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatementQuery {
    /// Whose statement.
    pub enrollment_id: EnrollmentId,
    /// Of which currency.
    #[param(pattern = "^[A-Za-z]{3}$")]
    pub currency: String,
    /// Only where the enrollment is of this program.
    #[param(nullable = false)]
    pub program_id: Option<ProgramId>,
    /// A page of lines, or all of them as comma-separated values.
    #[param(nullable = false, pattern = "^(json|csv)$", default = "json")]
    pub format: Option<String>,
}

/// The parameters of a request. [`super::openapi`] has refused those that the route does not take, and those
/// that are given twice.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Self::of(&parts.uri)
    }
}

impl Params {
    /// The parameters of a query.
    ///
    /// # Errors
    /// 400 `INVALID_QUERY`.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        Query::try_from_uri(uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|_| refuse("INVALID_QUERY", "query", "the query string cannot be read"))
    }

    /// The names of all parameters, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// An id, where there is one.
    ///
    /// # Errors
    /// 400 with `code` for text that is not an id of this kind.
    pub fn id<T>(
        &self,
        name: &'static str,
        code: &'static str,
        parse: impl Fn(&str) -> Result<T, InvalidId>,
    ) -> Result<Option<T>, ApiError> {
        let read = |text| parse(text).map_err(|error| refuse(code, name, error.to_string()));
        self.get(name).map(read).transpose()
    }

    /// A currency, where there is one.
    ///
    /// # Errors
    /// 400 `INVALID_CURRENCY`.
    pub fn currency(&self) -> Result<Option<Currency>, ApiError> {
        let message = "currency must be an ISO 4217 code such as usd";
        let read = |text| Currency::parse(text).map_err(|_| refuse("INVALID_CURRENCY", "currency", message));
        self.get("currency").map(read).transpose()
    }

    /// The status of a conversion, where there is one.
    ///
    /// # Errors
    /// 400 `INVALID_STATUS`.
    pub fn status(&self) -> Result<Option<ConversionStatus>, ApiError> {
        let message = "status must be pending, approved, paid, rejected or clawed_back";
        let read =
            |word| ConversionStatus::parse(word).ok_or_else(|| refuse("INVALID_STATUS", "status", message));
        self.get("status").map(read).transpose()
    }

    /// `from` and `to` as instants.
    ///
    /// # Errors
    /// 400 `INVALID_FROM` or `INVALID_TO`.
    pub fn window(&self, now: Timestamp) -> Result<Window, ApiError> {
        Window::parse(self.get("from"), self.get("to"), now).map_err(invalid_window)
    }

    /// `from` and `to` as whole days.
    ///
    /// # Errors
    /// 400 `INVALID_FROM` or `INVALID_TO`.
    pub fn days(&self, now: Timestamp) -> Result<Days, ApiError> {
        Days::parse(self.get("from"), self.get("to"), now).map_err(invalid_window)
    }
}

fn invalid_window(error: InvalidWindow) -> ApiError {
    let param = error.param();
    let code = if param == "from" { "INVALID_FROM" } else { "INVALID_TO" };
    refuse(code, param, error.to_string())
}

/// 400 for a parameter.
pub fn refuse(
    code: &'static str,
    param: &'static str,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
}
