//! The audit log: who changed what. Rows are added and read, never changed; triggers see to that.

use serde_json::Value;
use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{AuditId, IdempotencyId, OrganizationId},
    time::Timestamp,
};

/// A change that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Sorts by time.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// The id of a key, `console` or `anonymous`.
    pub actor: String,
    /// The kind of the key, `console` or `anonymous`.
    pub actor_kind: String,
    /// The organization of the key.
    pub actor_organization_id: Option<OrganizationId>,
    /// Whose object was changed; none: an operator's.
    pub organization_id: Option<OrganizationId>,
    /// What was done, such as `program.updated`.
    pub action: String,
    /// The id of what was changed.
    pub object: String,
    /// What it was, without secrets; none: it was not there.
    pub before: Option<Value>,
    /// What it is now, without secrets; none: it is not there any more.
    pub after: Option<Value>,
    /// The request that did it; `cli` for the command line.
    pub request_id: String,
    /// The row of the request's Idempotency-Key.
    pub idempotency_id: Option<IdempotencyId>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    at_us: i64,
    actor: String,
    actor_kind: String,
    actor_organization_id: Option<String>,
    organization_id: Option<String>,
    action: String,
    object: String,
    before_json: Option<String>,
    after_json: Option<String>,
    request_id: String,
    idempotency_id: Option<String>,
}

impl Row {
    fn read(self) -> Result<AuditRow, StoreError> {
        let at = At { table: "audit", id: &self.id };
        Ok(AuditRow {
            id: at.read("id", &self.id)?,
            actor_organization_id: at
                .read_opt("actor_organization_id", self.actor_organization_id.as_deref())?,
            organization_id: at.read_opt("organization_id", self.organization_id.as_deref())?,
            idempotency_id: at.read_opt("idempotency_id", self.idempotency_id.as_deref())?,
            at: Timestamp::from_micros(self.at_us),
            actor: self.actor,
            actor_kind: self.actor_kind,
            action: self.action,
            object: self.object,
            before: at.read_opt("before_json", self.before_json.as_deref())?,
            after: at.read_opt("after_json", self.after_json.as_deref())?,
            request_id: self.request_id,
        })
    }
}

/// Adds a row.
pub async fn insert(tx: &mut Tx, row: &AuditRow) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO audit (id, at_us, actor, actor_kind, actor_organization_id, organization_id,
                                          action, object, before_json, after_json, request_id, idempotency_id)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    tx.q(SQL)
        .bind(row.id.as_str())
        .bind(row.at.as_micros())
        .bind(row.actor.as_str())
        .bind(row.actor_kind.as_str())
        .bind(row.actor_organization_id.as_ref().map(OrganizationId::as_str))
        .bind(row.organization_id.as_ref().map(OrganizationId::as_str))
        .bind(row.action.as_str())
        .bind(row.object.as_str())
        .bind(row.before.as_ref().map(Value::to_string))
        .bind(row.after.as_ref().map(Value::to_string))
        .bind(row.request_id.as_str())
        .bind(row.idempotency_id.as_ref().map(IdempotencyId::as_str))
        .exec()
        .await?;
    Ok(())
}

/// Which rows to list. What is absent does not narrow.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only objects of this organization.
    pub organization_id: Option<OrganizationId>,
    /// Only this object.
    pub object: Option<String>,
    /// Only what this actor did.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only what was done then or later.
    pub since: Option<Timestamp>,
    /// Only rows before this one.
    pub before: Option<AuditId>,
}

/// Rows, newest first.
pub async fn list(conn: &mut Conn, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, StoreError> {
    // The time narrows twice: by the ids, which sort by it to the millisecond and which every index ends
    // with, and exactly.
    const SQL: &str = "SELECT id, at_us, actor, actor_kind, actor_organization_id, organization_id, action,
                              object, before_json, after_json, request_id, idempotency_id
                       FROM audit
                       WHERE id < $1 AND id >= $2 AND at_us >= $3
                           AND ($4 IS NULL OR organization_id = $4)
                           AND ($5 IS NULL OR object = $5)
                           AND ($6 IS NULL OR actor = $6)
                           AND ($7 IS NULL OR action = $7)
                       ORDER BY id DESC LIMIT $8";
    let since = filter.since.unwrap_or(Timestamp::EPOCH);
    let rows: Vec<Row> = conn
        .q(SQL)
        .bind(filter.before.as_ref().map_or(AFTER_EVERY_ID, AuditId::as_str))
        .bind(AuditId::random(since, 0).as_str())
        .bind(since.as_micros())
        .bind(filter.organization_id.as_ref().map(OrganizationId::as_str))
        .bind(filter.object.as_deref())
        .bind(filter.actor.as_deref())
        .bind(filter.action.as_deref())
        .bind(limit)
        .all()
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// What a request with an Idempotency-Key changed, in the order of its doing: action and object.
pub async fn list_of_request(
    conn: &mut Conn,
    id: &IdempotencyId,
) -> Result<Vec<(String, String)>, StoreError> {
    const SQL: &str = "SELECT action, object FROM audit WHERE idempotency_id = $1 ORDER BY id";
    conn.q(SQL).bind(id.as_str()).all().await
}
