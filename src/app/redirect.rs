//! `GET /r/{code}`: where an affiliate's link leads, and the click that it is.
//!
//! The address is the program's own, checked when it was set; nothing of a request has a part in its host
//! or path. A visitor is forwarded also when the click cannot be written down.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    App, Refusal,
    clicks::{Clicks, Told},
    keys::random_text,
    touchpoints::{self, Click},
};
use crate::{
    domain::ids::{EnrollmentId, ProjectId},
    store::{
        organizations,
        touchpoints::{LinkOwner, find_link, first_project},
    },
};

/// Longest landing address, bytes.
const ADDRESS_MAX: usize = 2_000;

/// How long a visitor waits for their click to be written down.
const PATIENCE: Duration = Duration::from_secs(1);

/// What ids made here look like: this, then letters and digits.
const ANONYMOUS_PREFIX: &str = "anon_";

/// A landing address as a caller gives it: `https`, or `http` on this machine alone, without credentials;
/// null for none.
///
/// # Errors
/// [`Refusal::Invalid`] with `INVALID_LANDING_URL`.
pub fn landing_url(value: &Value) -> Result<Option<String>, Refusal> {
    if value.is_null() {
        return Ok(None);
    }
    let url = value.as_str().filter(|text| text.len() <= ADDRESS_MAX).and_then(|text| Url::parse(text).ok());
    let is_allowed = |url: &Url| {
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        !has_credentials && (url.scheme() == "https" || (url.scheme() == "http" && is_local))
    };
    let message = "landing_url must be an https address of at most 2000 characters without user name and \
                   password, or null";
    url.filter(is_allowed)
        .map(|url| Some(url.to_string()))
        .ok_or_else(|| Refusal::invalid("INVALID_LANDING_URL", "landing_url", message))
}

/// A link that leads somewhere.
#[derive(Clone, Debug)]
pub struct Destination {
    link: LinkOwner,
    project_id: ProjectId,
    landing: Url,
}

impl Destination {
    /// Whether clicks count: not those on a program that is paused, over or not launched.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.link.is_active
    }

    /// Whose link it is, and the code as issued.
    #[must_use]
    pub fn link(&self) -> (EnrollmentId, String) {
        (self.link.enrollment_id.clone(), self.link.code.clone())
    }

    /// Whether the landing page is reached encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.landing.scheme() == "https"
    }

    /// The id under which the project knows the visitor with this browser. Each project knows another one:
    /// whoever has an id can tell of clicks by it, and what one owner's website is given must not do so at
    /// another's.
    #[must_use]
    pub fn visitor(&self, browser: &str) -> String {
        let digest = Sha256::digest(format!("{}/{browser}", self.project_id));
        format!("{ANONYMOUS_PREFIX}{}", hex::encode(&digest[..16]))
    }

    /// The address for a visitor, with the code and their id added to its query.
    #[must_use]
    pub fn address(&self, anonymous_id: &str) -> String {
        let mut url = self.landing.clone();
        url.query_pairs_mut().append_pair("ref", &self.link.code).append_pair("anonymous_id", anonymous_id);
        url.to_string()
    }
}

/// Where the link with this code leads. Codes are one owner's; where several owners have the same, the link
/// is that of the first, and the others' links name the project.
///
/// # Errors
/// [`Refusal::NotFound`] for a code that names nobody, and for a program without an address.
pub async fn resolve(app: &App, project: Option<&str>, code: &str) -> Result<Destination, Refusal> {
    if !touchpoints::is_id(code) {
        return Err(Refusal::NotFound);
    }
    let mut conn = app.db.read().await?;
    let named = match project {
        None => None,
        Some(id) => {
            let id = ProjectId::parse(id).map_err(|_| Refusal::NotFound)?;
            Some(organizations::find_project(&mut conn, &id).await?.ok_or(Refusal::NotFound)?)
        }
    };
    let owner = named.as_ref().map(|project| &project.organization_id);
    let link = find_link(&mut conn, owner, code, app.now()).await?.ok_or(Refusal::NotFound)?;
    let project_id = match named {
        Some(project) => project.id,
        None => first_project(&mut conn, &link.organization_id).await?.ok_or(Refusal::NotFound)?,
    };
    let landing =
        link.landing_url.as_deref().and_then(|url| Url::parse(url).ok()).ok_or(Refusal::NotFound)?;
    Ok(Destination { link, project_id, landing })
}

/// The id of a browser, which it and this server alone know: the one it sent, if that was made here, else a
/// new one.
#[must_use]
pub fn browser_id(sent: Option<&str>) -> String {
    let is_ours = |id: &&str| {
        let tail = id.strip_prefix(ANONYMOUS_PREFIX).unwrap_or_default();
        tail.len() == 26 && tail.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    };
    sent.filter(is_ours).map_or_else(|| format!("{ANONYMOUS_PREFIX}{}", random_text::<26>()), str::to_owned)
}

/// Writes the click down, and says whether that is known to have worked in time. It goes on when the
/// visitor is not waited for any longer.
pub async fn count(clicks: &Clicks, destination: &Destination, anonymous_id: &str) -> bool {
    let Destination { link, project_id, .. } = destination.clone();
    let click = Click {
        code: link.code.clone(),
        source: "redirect".to_owned(),
        subject: anonymous_id.to_owned(),
        anonymous: None,
        at: clicks.app.now(),
    };
    let written = clicks.tell(Told { project_id, link, click, by: None });
    match tokio::time::timeout(PATIENCE, written).await {
        Ok(Ok(_)) => true,
        Ok(Err(refusal)) => {
            tracing::warn!(reason = refusal.code(), "a click could not be written down");
            false
        }
        Err(_) => {
            tracing::warn!("a click could not be written down in time");
            false
        }
    }
}
