//! Webhook endpoints that were created through the API. Their secrets are sealed before they come here.

use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{EndpointId, ProjectId},
    time::Timestamp,
};

/// A webhook endpoint, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoredEndpoint {
    /// Id.
    pub id: EndpointId,
    /// What it is bound to.
    pub project_id: ProjectId,
    /// Name of the provider.
    pub provider: String,
    /// The mode it accepts.
    pub livemode: bool,
    /// Whether it hears about connected accounts.
    pub connect: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    id: String,
    project_id: String,
    provider: String,
    livemode: bool,
    connect: bool,
    created_at_us: i64,
}

impl Row {
    fn read(self) -> Result<StoredEndpoint, StoreError> {
        let at = At { table: "endpoint", id: &self.id };
        Ok(StoredEndpoint {
            id: at.read("id", &self.id)?,
            project_id: at.read("project_id", &self.project_id)?,
            provider: self.provider,
            livemode: self.livemode,
            connect: self.connect,
            created_at: Timestamp::from_micros(self.created_at_us),
        })
    }
}

/// Adds an endpoint to a project that exists.
pub async fn insert(tx: &mut Tx, endpoint: &StoredEndpoint, secrets_sealed: &[u8]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO endpoint (id, project_id, provider, livemode, connect, secrets_sealed,
                                             created_at_us, deleted_at_us)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, NULL)";
    tx.q(SQL)
        .bind(endpoint.id.as_str())
        .bind(endpoint.project_id.as_str())
        .bind(endpoint.provider.as_str())
        .bind(endpoint.livemode)
        .bind(endpoint.connect)
        .bind(secrets_sealed)
        .bind(endpoint.created_at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// An endpoint that was not deleted.
pub async fn find(conn: &mut Conn, id: &EndpointId) -> Result<Option<StoredEndpoint>, StoreError> {
    const SQL: &str = "SELECT id, project_id, provider, livemode, connect, created_at_us
                       FROM endpoint WHERE id = $1 AND deleted_at_us IS NULL";
    conn.q(SQL).bind(id.as_str()).one().await?.map(Row::read).transpose()
}

/// The sealed secrets of an endpoint that was not deleted.
pub async fn find_sealed(conn: &mut Conn, id: &EndpointId) -> Result<Option<Vec<u8>>, StoreError> {
    const SQL: &str = "SELECT secrets_sealed FROM endpoint WHERE id = $1 AND deleted_at_us IS NULL";
    conn.q(SQL).bind(id.as_str()).scalar().await
}

/// The endpoints of a project that were not deleted, newest first.
pub async fn list(
    conn: &mut Conn,
    project_id: &ProjectId,
    before: Option<&EndpointId>,
    limit: i64,
) -> Result<Vec<StoredEndpoint>, StoreError> {
    const SQL: &str = "SELECT id, project_id, provider, livemode, connect, created_at_us
                       FROM endpoint WHERE project_id = $1 AND id < $2 AND deleted_at_us IS NULL
                       ORDER BY id DESC LIMIT $3";
    let before = before.map_or(AFTER_EVERY_ID, EndpointId::as_str);
    let rows: Vec<Row> = conn.q(SQL).bind(project_id.as_str()).bind(before).bind(limit).all().await?;
    rows.into_iter().map(Row::read).collect()
}

/// Ends an endpoint. The row stays, because stored events name it.
pub async fn mark_deleted(tx: &mut Tx, id: &EndpointId, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE endpoint SET deleted_at_us = $2 WHERE id = $1 AND deleted_at_us IS NULL";
    tx.q(SQL).bind(id.as_str()).bind(now.as_micros()).exec().await?;
    Ok(())
}
