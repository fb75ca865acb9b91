//! API keys. Only a hash of the secret is here; how a key looks and what it may do is `app::keys`.

use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{KeyId, OrganizationId, ProjectId},
    program::words,
    time::Timestamp,
};

words! {
    /// Whom a key speaks for.
    KeyKind {
        /// Whoever runs this installation.
        Operator = "operator",
        /// One organization.
        Organization = "organization",
        /// The public part of one project: a website or an app.
        Client = "client",
    }
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ApiKey {
    /// The public half.
    pub id: KeyId,
    /// Whom it speaks for.
    pub kind: KeyKind,
    /// The organization of an organization or client key.
    pub organization_id: Option<OrganizationId>,
    /// The project of a client key.
    pub project_id: Option<ProjectId>,
    /// Words separated by commas.
    pub scopes: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it no longer works.
    pub expires_at: Option<Timestamp>,
    /// Since when it no longer works.
    pub revoked_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    kind: String,
    organization_id: Option<String>,
    project_id: Option<String>,
    scopes: String,
    created_at_us: i64,
    expires_at_us: Option<i64>,
    revoked_at_us: Option<i64>,
}

impl Row {
    fn read(self) -> Result<ApiKey, StoreError> {
        let at = At { table: "api_key", id: &self.id };
        Ok(ApiKey {
            id: at.read("id", &self.id)?,
            kind: at.read("kind", &self.kind)?,
            organization_id: at.read_opt("organization_id", self.organization_id.as_deref())?,
            project_id: at.read_opt("project_id", self.project_id.as_deref())?,
            scopes: self.scopes,
            created_at: Timestamp::from_micros(self.created_at_us),
            expires_at: self.expires_at_us.map(Timestamp::from_micros),
            revoked_at: self.revoked_at_us.map(Timestamp::from_micros),
        })
    }
}

/// Adds a key. `secret_hash` is the SHA-256 of its secret.
pub async fn insert(tx: &mut Tx, key: &ApiKey, secret_hash: &[u8]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO api_key (id, kind, organization_id, project_id, scopes, secret_hash,
                                            created_at_us, expires_at_us, revoked_at_us)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    tx.q(SQL)
        .bind(key.id.as_str())
        .bind(key.kind.as_str())
        .bind(key.organization_id.as_ref().map(OrganizationId::as_str))
        .bind(key.project_id.as_ref().map(ProjectId::as_str))
        .bind(key.scopes.as_str())
        .bind(secret_hash)
        .bind(key.created_at.as_micros())
        .bind(key.expires_at.map(Timestamp::as_micros))
        .bind(key.revoked_at.map(Timestamp::as_micros))
        .exec()
        .await?;
    Ok(())
}

/// A key, revoked or not.
pub async fn find(conn: &mut Conn, id: &KeyId) -> Result<Option<ApiKey>, StoreError> {
    const SQL: &str = "SELECT id, kind, organization_id, project_id, scopes, created_at_us, expires_at_us,
                              revoked_at_us
                       FROM api_key WHERE id = $1";
    conn.q(SQL).bind(id.as_str()).one().await?.map(Row::read).transpose()
}

/// A key with the hash of its secret, for the authenticator alone.
pub async fn find_with_hash(conn: &mut Conn, id: &KeyId) -> Result<Option<(ApiKey, Vec<u8>)>, StoreError> {
    const SQL: &str = "SELECT id, kind, organization_id, project_id, scopes, created_at_us, expires_at_us,
                              revoked_at_us, secret_hash
                       FROM api_key WHERE id = $1";
    #[derive(FromRow)]
    struct Hashed {
        #[sqlx(flatten)]
        key: Row,
        secret_hash: Vec<u8>,
    }
    let row: Option<Hashed> = conn.q(SQL).bind(id.as_str()).one().await?;
    row.map(|row| Ok((row.key.read()?, row.secret_hash))).transpose()
}

/// Keys, newest first: all of them, or those of one organization.
pub async fn list(
    conn: &mut Conn,
    owner: Option<&OrganizationId>,
    before: Option<&KeyId>,
    limit: i64,
) -> Result<Vec<ApiKey>, StoreError> {
    const ALL: &str = "SELECT id, kind, organization_id, project_id, scopes, created_at_us, expires_at_us,
                              revoked_at_us
                       FROM api_key WHERE id < $1 ORDER BY id DESC LIMIT $2";
    const OWNED: &str = "SELECT id, kind, organization_id, project_id, scopes, created_at_us, expires_at_us,
                                revoked_at_us
                         FROM api_key WHERE id < $1 AND organization_id = $3 ORDER BY id DESC LIMIT $2";
    let before = before.map_or(AFTER_EVERY_ID, KeyId::as_str);
    let rows: Vec<Row> = match owner {
        None => conn.q(ALL).bind(before).bind(limit).all().await?,
        Some(owner) => conn.q(OWNED).bind(before).bind(limit).bind(owner.as_str()).all().await?,
    };
    rows.into_iter().map(Row::read).collect()
}

/// Ends a key. A key that was revoked before keeps its first time.
pub async fn mark_revoked(tx: &mut Tx, id: &KeyId, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE api_key SET revoked_at_us = $2 WHERE id = $1 AND revoked_at_us IS NULL";
    tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await?;
    Ok(())
}
