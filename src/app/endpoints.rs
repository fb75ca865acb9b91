//! Webhook endpoints: where providers send events to, and with which secrets they sign them.
//!
//! The default endpoints come from the configuration; the rest are rows whose secrets are sealed
//! ([`super::seal`]) and never shown again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
    new_id,
    receive::Endpoint,
    seal::{self, Place},
};
use crate::{
    config::Config,
    domain::{
        ids::{EndpointId, ProjectId},
        time::Timestamp,
    },
    providers,
    store::{
        Conn,
        endpoints::{self, StoredEndpoint},
        organizations::{self, Project},
    },
};

/// An endpoint to be made.
#[derive(Debug)]
pub struct NewEndpoint {
    /// Name of the provider.
    pub provider: String,
    /// Signing secrets, 1 to 8, all live at once.
    pub secrets: Vec<SecretString>,
    /// The mode it accepts.
    pub livemode: bool,
    /// Whether it hears about connected accounts.
    pub connect: bool,
}

/// Makes an endpoint of a project.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::NotFound`] for a project that does not exist for `by`, and
/// `MASTER_KEY_MISSING` when there is nothing to seal its secrets with.
pub async fn create(
    app: &App,
    by: &Principal,
    project_id: &ProjectId,
    new: NewEndpoint,
) -> Result<StoredEndpoint, Refusal> {
    by.require(Scope::Write)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let project = require_project(&mut tx, by, project_id).await?;
    let provider = providers::inbound(&new.provider).ok_or_else(invalid_provider)?.name();
    check_secrets(provider, &new.secrets)?;
    let Some(master_key) = &app.config.master_key else {
        return Err(Refusal::conflict(
            "MASTER_KEY_MISSING",
            "endpoint secrets are stored sealed and there is no key to seal them with: set \
             REMIT_SECRETS__MASTER_KEY (or REMIT_SECRETS__MASTER_KEY_FILE) and restart",
        ));
    };
    let endpoint = StoredEndpoint {
        id: new_id!(EndpointId, now),
        project_id: project_id.clone(),
        provider: provider.to_owned(),
        livemode: new.livemode,
        connect: new.connect,
        created_at: now,
    };
    let sealed = seal::seal(master_key, place(&endpoint.id), &encode(&new.secrets));
    endpoints::insert(&mut tx, &endpoint, &sealed).await?;
    let change =
        Change::new("endpoint.created", &endpoint.id, Some(&project.organization_id)).after(&endpoint);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(endpoint)
}

fn invalid_provider() -> Refusal {
    let names: Vec<&str> = providers::INBOUND.iter().map(|provider| provider.name()).collect();
    let message = format!("provider must be one of: {}", names.join(", "));
    Refusal::invalid("INVALID_PROVIDER", "provider", message)
}

/// A secret that was pasted with a blank or cut short would fail silently, at every event.
fn check_secrets(provider: &str, secrets: &[SecretString]) -> Result<(), Refusal> {
    let refuse = |message: &'static str| Err(Refusal::invalid("INVALID_SECRETS", "secrets", message));
    if !(1..=8).contains(&secrets.len()) {
        return refuse("secrets must hold 1 to 8 signing secrets");
    }
    for secret in secrets {
        let text = secret.expose_secret();
        if !(8..=512).contains(&text.len()) || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return refuse("a secret must be 8 to 512 characters without blanks");
        }
        if provider == "stripe" && !text.starts_with("whsec_") {
            return refuse("a Stripe signing secret starts with `whsec_`");
        }
    }
    Ok(())
}

/// The endpoints of a project, newest first.
pub async fn list(
    app: &App,
    by: &Principal,
    project_id: &ProjectId,
    before: Option<&EndpointId>,
    limit: i64,
) -> Result<Vec<StoredEndpoint>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    require_project(&mut conn, by, project_id).await?;
    Ok(endpoints::list(&mut conn, project_id, before, limit).await?)
}

/// Ends an endpoint: its events are answered 404 within [`CACHE_S`] seconds. Its past events stay.
pub async fn delete(
    app: &App,
    by: &Principal,
    project_id: &ProjectId,
    id: &EndpointId,
) -> Result<StoredEndpoint, Refusal> {
    by.require(Scope::Write)?;
    let mut tx = app.db.begin().await?;
    let project = require_project(&mut tx, by, project_id).await?;
    let endpoint = endpoints::find(&mut tx, id).await?;
    let endpoint = endpoint.filter(|endpoint| endpoint.project_id == *project_id).ok_or(Refusal::NotFound)?;
    let now = app.now();
    endpoints::mark_deleted(&mut tx, id, now).await?;
    let change = Change::new("endpoint.deleted", id, Some(&project.organization_id)).before(&endpoint);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(endpoint)
}

async fn require_project(conn: &mut Conn, by: &Principal, id: &ProjectId) -> Result<Project, Refusal> {
    let project = organizations::find_project(conn, id).await?.ok_or(Refusal::NotFound)?;
    by.require_owner(&project.organization_id)?;
    Ok(project)
}

/// Finds an endpoint of a provider: a default one with the configured secrets, or a stored one, whose
/// secrets are opened.
///
/// # Errors
/// [`Refusal::Seal`] when the configured master key is not the one its secrets were sealed with.
pub async fn find(app: &App, provider: &str, id: &EndpointId) -> Result<Option<Endpoint>, Refusal> {
    if let Some(endpoint) = default_endpoint(&app.config, id) {
        return Ok(Some(endpoint).filter(|endpoint| endpoint.provider == provider));
    }
    let mut conn = app.db.read().await?;
    let Some(stored) = endpoints::find(&mut conn, id).await?.filter(|found| found.provider == provider)
    else {
        return Ok(None);
    };
    let Some(sealed) = endpoints::find_sealed(&mut conn, id).await? else { return Ok(None) };
    let Some(provider) = providers::inbound(provider) else { return Ok(None) };
    let opened = seal::open(app.config.master_key.as_ref(), place(id), &sealed)?;
    Ok(Some(Endpoint {
        id: stored.id,
        project_id: stored.project_id,
        provider: provider.name(),
        livemode: stored.livemode,
        secrets: decode(opened.expose_secret()),
    }))
}

/// The endpoint that a provider has when secrets are configured for it. It belongs to the project that
/// the first migration makes.
fn default_endpoint(config: &Config, id: &EndpointId) -> Option<Endpoint> {
    let (provider, secrets) = match id.as_str() {
        "ep_default_stripe" => ("stripe", &config.stripe.webhook_secrets),
        "ep_default_paddle" => ("paddle", &config.paddle.webhook_secrets),
        _ => return None,
    };
    if secrets.is_empty() {
        return None;
    }
    let (id, project_id) = (id.clone(), ProjectId::parse("proj_default").ok()?);
    Some(Endpoint { id, project_id, provider, livemode: config.livemode, secrets: secrets.clone() })
}

/// How long a found endpoint is remembered, and so how long a deleted one may go on taking events.
pub const CACHE_S: i64 = 5;

/// How long it is remembered that there is no such endpoint. Ids are made up by us and cannot be guessed,
/// so nobody calls one before it exists.
const MISS_S: i64 = 2;

/// More endpoints than this are not remembered at once, and not more misses.
const CACHE_ENTRIES: usize = 1_024;

/// Remembers for a few seconds what was found and what was not, so that a busy endpoint costs no query and
/// no opening per event, and an unsigned request for a made-up id no query either when it is repeated.
/// Misses have a place of their own: made-up ids drive no real one out.
#[derive(Debug, Default)]
pub struct EndpointCache(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    found: HashMap<EndpointId, (Arc<Endpoint>, Timestamp)>,
    /// With the provider in whose name it was asked for.
    missed: HashMap<(EndpointId, String), Timestamp>,
}

impl EndpointCache {
    /// As [`find`].
    ///
    /// # Errors
    /// As [`find`].
    pub async fn find(
        &self,
        app: &App,
        provider: &str,
        id: &EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, Refusal> {
        let now = app.now();
        match self.look_up(provider, id, now) {
            Memory::Found(endpoint) => return Ok(Some(endpoint)),
            Memory::Missed => return Ok(None),
            Memory::Empty => {}
        }
        let endpoint = find(app, provider, id).await?.map(Arc::new);
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { found, missed } = &mut *remembered;
        if let Some(endpoint) = &endpoint {
            make_room(found);
            found.insert(id.clone(), (Arc::clone(endpoint), now.plus_secs(CACHE_S)));
        } else {
            make_room(missed);
            missed.insert((id.clone(), provider.to_owned()), now.plus_secs(MISS_S));
        }
        Ok(endpoint)
    }

    fn look_up(&self, provider: &str, id: &EndpointId, now: Timestamp) -> Memory {
        // No statement under the lock can panic half-way, so poisoned maps are still good ones.
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not make an entry live for ever.
        let is_fresh = |until: Timestamp, for_s: i64| now < until && until <= now.plus_secs(for_s);
        if let Some((endpoint, until)) = remembered.found.get(id)
            && is_fresh(*until, CACHE_S)
        {
            let is_asked_for = endpoint.provider == provider;
            return if is_asked_for { Memory::Found(Arc::clone(endpoint)) } else { Memory::Missed };
        }
        match remembered.missed.get(&(id.clone(), provider.to_owned())) {
            Some(until) if is_fresh(*until, MISS_S) => Memory::Missed,
            Some(_) | None => Memory::Empty,
        }
    }
}

/// What is remembered of an endpoint.
enum Memory {
    Found(Arc<Endpoint>),
    Missed,
    /// Nothing; somebody has to look.
    Empty,
}

fn make_room<K, V>(entries: &mut HashMap<K, V>) {
    if entries.len() >= CACHE_ENTRIES {
        entries.clear();
    }
}

fn place(id: &EndpointId) -> Place<'_> {
    Place { table: "endpoint", row: id.as_str(), column: "secrets_sealed" }
}

/// Secrets as sealed: one per line, which is unambiguous because no secret holds a blank.
fn encode(secrets: &[SecretString]) -> Vec<u8> {
    let texts: Vec<&str> = secrets.iter().map(SecretString::expose_secret).collect();
    texts.join("\n").into_bytes()
}

fn decode(plain: &[u8]) -> Vec<SecretString> {
    // What was sealed here is text; the seal proves that it is what was sealed.
    String::from_utf8_lossy(plain).lines().map(SecretString::from).collect()
}
