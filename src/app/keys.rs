//! API keys: how they look, what they may do, and who holds them.
//!
//! A key is `rk_<kind>_<public id>_<secret>_<checksum>`. The checksum lets a mistyped or made-up key be
//! refused without asking the database, and lets scanners recognise a leaked one. Only the SHA-256 of the
//! secret is stored: it holds 260 random bits, so a slow hash would add nothing but a way to overload us.
//! Every request reads the key's row, so revoking works at once.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    App, Refusal,
    audit::{self, Change, Origin},
    fill_random, new_id,
};
pub use crate::store::keys::{ApiKey, KeyKind};
use crate::{
    domain::{
        ids::{KeyId, OrganizationId, ProjectId},
        program::words,
        time::Timestamp,
    },
    store::{StoreError, Tx, keys, organizations},
};

words! {
    /// What a key may do.
    Scope {
        /// See everything of its organization, or everything for an operator.
        Read = "read",
        /// Change programs, enrollments, endpoints and accounts.
        Write = "write",
        /// Approve, reject, claw back, attribute.
        Decide = "decide",
        /// Make and revoke keys.
        Keys = "keys",
        /// See and retry stored events and jobs.
        Events = "events",
        /// Run settlements.
        Settle = "settle",
        /// Say what became of a payout nobody knows about.
        PayoutResolve = "payout:resolve",
        /// Report that a visitor came through a link.
        Touchpoint = "touchpoint",
        /// Everything.
        All = "*",
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key may do, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// What a key of this kind gets when nothing else is asked for.
    fn default_of(kind: KeyKind) -> Self {
        Self(match kind {
            KeyKind::Operator => BTreeSet::from([Scope::All]),
            KeyKind::Organization => BTreeSet::from([Scope::Read, Scope::Write, Scope::Decide, Scope::Keys]),
            KeyKind::Client => BTreeSet::from([Scope::Touchpoint]),
        })
    }

    /// Whether this includes `scope`.
    fn include(&self, scope: Scope) -> bool {
        self.0.contains(&Scope::All) || self.0.contains(&scope)
    }

    /// From the column, whose words this program wrote.
    fn read(text: &str) -> Option<Self> {
        text.split(',').map(Scope::parse).collect::<Option<_>>().map(Self)
    }

    /// The words, in the order in which they are listed.
    pub fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.as_str()).collect()
    }
}

/// The scopes that a key of this kind can hold at all. Stored events and unresolved payouts cross
/// organizations, and a client key is public.
const fn possible_scopes(kind: KeyKind) -> &'static [Scope] {
    match kind {
        KeyKind::Operator => Scope::ALL,
        KeyKind::Organization => &[Scope::Read, Scope::Write, Scope::Decide, Scope::Keys, Scope::Settle],
        KeyKind::Client => &[Scope::Touchpoint],
    }
}

/// Who is asking. Only [`authenticate`], [`Principal::console`] and [`Principal::anonymous`] make one, so
/// whoever holds one has been checked.
#[derive(Clone, Debug)]
pub struct Principal {
    key_id: Option<KeyId>,
    kind: KeyKind,
    organization_id: Option<OrganizationId>,
    project_id: Option<ProjectId>,
    scopes: Scopes,
    origin: Origin,
}

impl Principal {
    /// The person at the command line, who holds the database itself.
    #[must_use]
    pub fn console() -> Self {
        Self {
            key_id: None,
            kind: KeyKind::Operator,
            organization_id: None,
            project_id: None,
            scopes: Scopes::default_of(KeyKind::Operator),
            origin: Origin::default(),
        }
    }

    /// Somebody without a key, who may do nothing but what needs none; named in the audit log.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            key_id: None,
            kind: KeyKind::Client,
            organization_id: None,
            project_id: None,
            scopes: Scopes(BTreeSet::new()),
            origin: Origin::default(),
        }
    }

    /// The same, asking by this request.
    #[must_use]
    pub fn within(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// The request by which it asks.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Written down beside what it did: the id of its key, `console`, or `anonymous`.
    pub fn actor(&self) -> &str {
        self.key_id.as_ref().map_or_else(|| self.keyless(), KeyId::as_str)
    }

    /// The kind of its key in the audit log, or what it is without one.
    pub fn actor_kind(&self) -> &'static str {
        if self.key_id.is_some() { self.kind.as_str() } else { self.keyless() }
    }

    const fn keyless(&self) -> &'static str {
        match self.kind {
            KeyKind::Operator => "console",
            KeyKind::Organization | KeyKind::Client => "anonymous",
        }
    }

    /// Whether many who do not know each other ask as this one: without a key, or with the public key of a
    /// website.
    pub const fn is_shared(&self) -> bool {
        matches!(self.kind, KeyKind::Client)
    }

    /// The kind of its key.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The organization it is confined to; none for an operator.
    pub const fn organization_id(&self) -> Option<&OrganizationId> {
        self.organization_id.as_ref()
    }

    /// The project of a client key.
    pub const fn project_id(&self) -> Option<&ProjectId> {
        self.project_id.as_ref()
    }

    /// Whether it may do that.
    ///
    /// # Errors
    /// [`Refusal::MissingScope`].
    pub fn require(&self, scope: Scope) -> Result<(), Refusal> {
        if self.scopes.include(scope) { Ok(()) } else { Err(Refusal::MissingScope(scope)) }
    }

    /// Whether what belongs to that organization exists for it.
    pub fn can_see(&self, owner: &OrganizationId) -> bool {
        match self.kind {
            KeyKind::Operator => true,
            KeyKind::Organization | KeyKind::Client => self.organization_id.as_ref() == Some(owner),
        }
    }

    /// # Errors
    /// [`Refusal::NotFound`] for what belongs to another organization: as if it did not exist.
    pub fn require_owner(&self, owner: &OrganizationId) -> Result<(), Refusal> {
        if self.can_see(owner) { Ok(()) } else { Err(Refusal::NotFound) }
    }

    /// The organization whose own side it is on: that of an organization key.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] for other kinds: an operator belongs to no organization, and a client key
    /// is public.
    pub fn require_member(&self) -> Result<&OrganizationId, Refusal> {
        match (self.kind, &self.organization_id) {
            (KeyKind::Organization, Some(own)) => Ok(own),
            (KeyKind::Organization | KeyKind::Operator | KeyKind::Client, _) => Err(Refusal::Forbidden(
                "this is the affiliate's own side: use a key of the affiliate's organization",
            )),
        }
    }

    /// Whether it may hand this scope on. A touchpoint is the least there is: whoever may write in an
    /// organization may let its website report them.
    fn may_grant(&self, scope: Scope) -> bool {
        match scope {
            Scope::Touchpoint => self.scopes.include(scope) || self.scopes.include(Scope::Write),
            _ => self.scopes.include(scope),
        }
    }
}

/// The key opens nothing. One message for every cause, so that it tells nothing about what exists.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Not a key, unknown, wrong, expired or revoked.
    #[error("the key is missing, unknown, expired or revoked")]
    Unauthenticated,
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds out who holds `presented`.
pub async fn authenticate(app: &App, presented: &str) -> Result<Principal, AuthError> {
    let parts = KeyText::parse(presented).ok_or(AuthError::Unauthenticated)?;
    let found = keys::find_with_hash(&mut app.db.read().await?, &parts.id).await?;
    let (key, hash) = found.ok_or(AuthError::Unauthenticated)?;
    let is_right = bool::from(hash_of(parts.secret).as_slice().ct_eq(&hash));
    if !is_right || key.kind != parts.kind || !is_live(&key, app.now()) {
        return Err(AuthError::Unauthenticated);
    }
    Ok(Principal {
        scopes: scopes_of(&key)?,
        key_id: Some(key.id),
        kind: key.kind,
        organization_id: key.organization_id,
        project_id: key.project_id,
        origin: Origin::default(),
    })
}

fn is_live(key: &ApiKey, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|end| now < end)
}

/// The scopes of a stored key.
pub fn scopes_of(key: &ApiKey) -> Result<Scopes, StoreError> {
    Scopes::read(&key.scopes).ok_or_else(|| StoreError::Corrupt {
        table: "api_key",
        column: "scopes",
        id: key.id.to_string(),
    })
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whom it speaks for.
    pub kind: KeyKind,
    /// For an organization key; by default that of the key that makes it. A client key has that of its
    /// project.
    pub organization_id: Option<OrganizationId>,
    /// For a client key.
    pub project_id: Option<ProjectId>,
    /// Words; by default those of the kind.
    pub scopes: Option<Vec<String>>,
    /// From when it no longer works.
    pub expires_at: Option<Timestamp>,
}

/// A key that was made: the only time its text exists.
#[derive(Debug)]
pub struct CreatedKey {
    /// Without its secret.
    pub key: ApiKey,
    /// The text to hand to its holder.
    pub text: SecretString,
}

/// Makes a key.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::NotFound`] for an organization or project that does not exist for
/// `by`, [`Refusal::Forbidden`] for more than `by` may hand on.
pub async fn create(app: &App, by: &Principal, new: NewKey) -> Result<CreatedKey, Refusal> {
    by.require(Scope::Keys)?;
    if new.kind == KeyKind::Operator && by.kind != KeyKind::Operator {
        return Err(Refusal::Forbidden("only an operator key makes operator keys"));
    }
    let now = app.now();
    if new.expires_at.is_some_and(|end| end <= now) {
        return Err(Refusal::invalid("INVALID_EXPIRY", "expires_at", "expires_at must be in the future"));
    }
    let scopes = asked_scopes(by, new.kind, new.scopes.as_deref())?;
    let mut tx = app.db.begin().await?;
    let (organization_id, project_id) = match new.kind {
        KeyKind::Operator => no_owner(&new)?,
        KeyKind::Organization => owner_of_organization_key(&mut tx, by, &new).await?,
        KeyKind::Client => owner_of_client_key(&mut tx, by, &new).await?,
    };
    let key = ApiKey {
        id: new_id!(KeyId, now),
        kind: new.kind,
        organization_id,
        project_id,
        scopes: scopes.words().join(","),
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    let change = Change::new("key.created", &key.id, key.organization_id.as_ref()).after(&key);
    let created = issue(&mut tx, key).await?;
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(created)
}

/// The first key of an organization that `tx` makes, with the scopes of its kind.
pub(super) async fn first_of(
    tx: &mut Tx,
    organization_id: &OrganizationId,
    now: Timestamp,
) -> Result<CreatedKey, StoreError> {
    let key = ApiKey {
        id: new_id!(KeyId, now),
        kind: KeyKind::Organization,
        organization_id: Some(organization_id.clone()),
        project_id: None,
        scopes: Scopes::default_of(KeyKind::Organization).words().join(","),
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    issue(tx, key).await
}

/// Gives a key its secret and stores the hash of that.
async fn issue(tx: &mut Tx, key: ApiKey) -> Result<CreatedKey, StoreError> {
    let secret = random_text::<SECRET_LENGTH>();
    keys::insert(tx, &key, &hash_of(&secret)).await?;
    let text = SecretString::from(key_text(key.kind, &key.id, &secret));
    Ok(CreatedKey { key, text })
}

fn asked_scopes(by: &Principal, kind: KeyKind, words: Option<&[String]>) -> Result<Scopes, Refusal> {
    let Some(words) = words else {
        // What `by` lacks is left out of a default, and refused only when it was asked for by name.
        let default = Scopes::default_of(kind).0.into_iter().filter(|scope| by.may_grant(*scope)).collect();
        return non_empty(Scopes(default));
    };
    let possible = possible_scopes(kind);
    let mut scopes = BTreeSet::new();
    for word in words {
        let Some(scope) = Scope::parse(word).filter(|scope| possible.contains(scope)) else {
            let known: Vec<&str> = possible.iter().map(|scope| scope.as_str()).collect();
            return Err(invalid_scopes(format!("scopes of this kind of key are: {}", known.join(", "))));
        };
        if !by.may_grant(scope) {
            return Err(Refusal::MissingScope(scope));
        }
        scopes.insert(scope);
    }
    non_empty(Scopes(scopes))
}

fn non_empty(scopes: Scopes) -> Result<Scopes, Refusal> {
    if scopes.0.is_empty() { Err(invalid_scopes("a key needs at least one scope")) } else { Ok(scopes) }
}

fn invalid_scopes(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::invalid("INVALID_SCOPES", "scopes", message)
}

type Owner = (Option<OrganizationId>, Option<ProjectId>);

fn no_owner(new: &NewKey) -> Result<Owner, Refusal> {
    if new.organization_id.is_some() {
        return Err(invalid_organization("an operator key belongs to no organization"));
    }
    no_project(new)?;
    Ok((None, None))
}

async fn owner_of_organization_key(tx: &mut Tx, by: &Principal, new: &NewKey) -> Result<Owner, Refusal> {
    no_project(new)?;
    let id = new.organization_id.as_ref().or(by.organization_id());
    let id = id.ok_or_else(|| invalid_organization("an organization key needs an organization_id"))?;
    by.require_owner(id)?;
    let found = organizations::find(tx, id).await?.ok_or(Refusal::NotFound)?;
    Ok((Some(found.id), None))
}

async fn owner_of_client_key(tx: &mut Tx, by: &Principal, new: &NewKey) -> Result<Owner, Refusal> {
    let id = new.project_id.as_ref();
    let id = id.ok_or_else(|| invalid_project("a client key needs a project_id"))?;
    let project = organizations::find_project(tx, id).await?.ok_or(Refusal::NotFound)?;
    by.require_owner(&project.organization_id)?;
    if new.organization_id.as_ref().is_some_and(|named| *named != project.organization_id) {
        return Err(invalid_organization("the project belongs to another organization"));
    }
    Ok((Some(project.organization_id), Some(project.id)))
}

fn no_project(new: &NewKey) -> Result<(), Refusal> {
    if new.project_id.is_some() {
        return Err(invalid_project("only a client key belongs to a project"));
    }
    Ok(())
}

fn invalid_organization(message: &'static str) -> Refusal {
    Refusal::invalid("INVALID_ORGANIZATION", "organization_id", message)
}

fn invalid_project(message: &'static str) -> Refusal {
    Refusal::invalid("INVALID_PROJECT", "project_id", message)
}

/// Keys, newest first, without their secrets: those of the organization of `by`, or all.
pub async fn list(
    app: &App,
    by: &Principal,
    before: Option<&KeyId>,
    limit: i64,
) -> Result<Vec<ApiKey>, Refusal> {
    by.require(Scope::Keys)?;
    Ok(keys::list(&mut app.db.read().await?, by.organization_id(), before, limit).await?)
}

/// Ends a key at once. Ending it again changes nothing.
///
/// # Errors
/// [`Refusal::NotFound`] for a key that does not exist for `by`.
pub async fn revoke(app: &App, by: &Principal, id: &KeyId) -> Result<ApiKey, Refusal> {
    by.require(Scope::Keys)?;
    let mut tx = app.db.begin().await?;
    let key = keys::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    let is_visible = match &key.organization_id {
        Some(owner) => by.can_see(owner),
        None => by.kind == KeyKind::Operator,
    };
    if !is_visible {
        return Err(Refusal::NotFound);
    }
    let now = app.now();
    keys::mark_revoked(&mut tx, id, now).await?;
    let revoked = keys::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    let change = Change::new("key.revoked", id, key.organization_id.as_ref()).before(&key).after(&revoked);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(revoked)
}

/// Crockford's base32 in lower case: no letter that looks like a digit, and no `_`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 52 characters of 5 bits: 260 random bits.
pub(super) const SECRET_LENGTH: usize = 52;

/// `LENGTH` random characters, 5 bits each.
pub(super) fn random_text<const LENGTH: usize>() -> String {
    let mut bytes = [0_u8; LENGTH];
    fill_random(&mut bytes);
    // 256 is a multiple of 32, so every character is equally likely.
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

/// What is stored of a secret that was made of [`random_text`].
pub(super) fn hash_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

const fn kind_in_text(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Operator => "op",
        KeyKind::Organization => "org",
        KeyKind::Client => "client",
    }
}

fn key_text(kind: KeyKind, id: &KeyId, secret: &str) -> String {
    let public = id.as_str().trim_start_matches(KeyId::PREFIX);
    let body = format!("rk_{}_{public}_{secret}", kind_in_text(kind));
    let checksum = checksum(&body);
    format!("{body}_{checksum}")
}

/// The first 8 characters of the base32 of the SHA-256 of what stands before.
fn checksum(body: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    let bits = digest.iter().take(5).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (0..8_u32)
        .rev()
        .map(|place| ((bits >> (place * 5)) & 31) as usize)
        .map(|index| char::from(ALPHABET[index]))
        .collect()
}

/// A key, taken apart; its checksum was right.
struct KeyText<'a> {
    kind: KeyKind,
    id: KeyId,
    secret: &'a str,
}

impl<'a> KeyText<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (body, sum) = text.rsplit_once('_')?;
        let mut parts = body.split('_');
        let (Some("rk"), Some(kind), Some(public), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        // Longer text is not hashed.
        if public.len() > 64 || secret.len() != SECRET_LENGTH || sum != checksum(body) {
            return None;
        }
        let kind = KeyKind::ALL.iter().copied().find(|known| kind_in_text(*known) == kind)?;
        let id = KeyId::parse(&format!("{}{public}", KeyId::PREFIX)).ok()?;
        Some(Self { kind, id, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> (KeyId, String) {
        let id = KeyId::random(Timestamp::from_secs(1_750_000_000), 7);
        let text = key_text(KeyKind::Organization, &id, &random_text::<SECRET_LENGTH>());
        (id, text)
    }

    #[test]
    fn a_key_comes_apart_as_it_was_put_together() {
        let (id, text) = text();
        let parts = KeyText::parse(&text).unwrap();
        assert_eq!((parts.kind, &parts.id), (KeyKind::Organization, &id));
        assert_eq!(parts.secret.len(), SECRET_LENGTH);
        assert!(text.starts_with("rk_org_"), "{text}");
    }

    #[test]
    fn a_mistyped_key_is_refused_before_anybody_is_asked() {
        let (_, text) = text();
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = if bytes[index] == b'0' { b'1' } else { b'0' };
            let mistyped = String::from_utf8(bytes).unwrap();
            assert!(KeyText::parse(&mistyped).is_none(), "{mistyped}");
        }
        for broken in ["", "rk", "rk_org", "rk_org_a_b_c", "sk_live_abc", &text[..text.len() - 1]] {
            assert!(KeyText::parse(broken).is_none(), "{broken}");
        }
        assert!(KeyText::parse(&format!("{text}0")).is_none());
    }

    #[test]
    fn the_checksum_is_the_base32_that_other_tools_compute() {
        // printf rk_op_a_b | sha256sum, its first 40 bits in Crockford's base32.
        assert_eq!(checksum("rk_op_a_b"), "qkztmare");
    }

    #[test]
    fn a_scope_outside_what_a_kind_can_hold_is_refused() {
        let by = Principal::console();
        for (kind, word) in [
            (KeyKind::Organization, "*"),
            (KeyKind::Organization, "payout:resolve"),
            (KeyKind::Organization, "events"),
            (KeyKind::Client, "read"),
            (KeyKind::Operator, "everything"),
        ] {
            let refusal = asked_scopes(&by, kind, Some(&[word.to_owned()])).unwrap_err();
            assert_eq!(refusal.code(), "INVALID_SCOPES", "{word}");
        }
    }

    #[test]
    fn nobody_hands_on_what_they_lack() {
        let by = Principal { scopes: Scopes::read("read,keys").unwrap(), ..Principal::console() };
        let asked = asked_scopes(&by, KeyKind::Organization, Some(&["write".to_owned()]));
        assert!(matches!(asked, Err(Refusal::MissingScope(Scope::Write))));
        let by_default = asked_scopes(&by, KeyKind::Organization, None).unwrap();
        assert_eq!(by_default.words(), ["read", "keys"]);
        assert!(asked_scopes(&by, KeyKind::Operator, None).is_err());
    }
}
