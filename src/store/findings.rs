//! Findings: what an operator should look at.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
    sales::{id_list, write_rows},
};
use crate::domain::{ids::FindingId, program::words, time::Timestamp};

words! {
    /// How much it matters.
    Severity {
        /// Good to know.
        Info = "info",
        /// A person should look.
        Warning = "warning",
        /// Money is at risk.
        Critical = "critical",
    }
}

/// A finding to be raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFinding {
    /// Stable word.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub object: String,
    /// What happened and what to do.
    pub detail: String,
}

impl NewFinding {
    /// One finding per kind and object.
    fn id(&self) -> FindingId {
        FindingId::derived(&[&self.kind, &self.object])
    }
}

/// Raises findings. One that is open stays as it is; one that was resolved is opened again.
pub async fn raise(tx: &mut Tx, new: &[NewFinding], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO finding (id, kind, severity, object, detail, created_at_us)
        SELECT value->>'id', value->>'kind', value->>'severity', value->>'object', value->>'detail',
            CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET resolved_at_us = NULL, detail = excluded.detail
            WHERE finding.resolved_at_us IS NOT NULL";
    // One statement must not write a row twice: of two about the same object the first is kept.
    let mut rows: BTreeMap<FindingId, serde_json::Value> = BTreeMap::new();
    for finding in new {
        rows.entry(finding.id()).or_insert_with(|| {
            json!({
                "id": finding.id(), "kind": finding.kind, "severity": finding.severity.as_str(),
                "object": finding.object, "detail": finding.detail, "at": now.as_micros(),
            })
        });
    }
    let rows = rows.into_values().collect();
    write_rows(tx, SQL, rows).await
}

/// Resolves the open findings of these kinds about these objects, but for those in `raised`: what the
/// last look at an object did not find again.
pub async fn resolve_others(
    tx: &mut Tx,
    objects: &[&str],
    kinds: &[&str],
    raised: &[NewFinding],
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE finding SET resolved_at_us = $4
        WHERE resolved_at_us IS NULL AND object IN (SELECT value->>'id' FROM json_each($1))
            AND kind IN (SELECT value->>'id' FROM json_each($2))
            AND id NOT IN (SELECT value->>'id' FROM json_each($3))";
    let ids: Vec<FindingId> = raised.iter().map(NewFinding::id).collect();
    tx.q(SQL)
        .bind(id_list(objects.iter().copied()))
        .bind(id_list(kinds.iter().copied()))
        .bind(id_list(ids.iter().map(FindingId::as_str)))
        .bind(now.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// A finding that was raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Id.
    pub id: FindingId,
    /// Stable word.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub object: String,
    /// What happened and what to do.
    pub detail: String,
    /// When it was raised first.
    pub created_at: Timestamp,
    /// When a person closed it.
    pub resolved_at: Option<Timestamp>,
}

/// Findings in the order of their ids, which says nothing of time: those that are open, or all.
pub async fn list(
    conn: &mut Conn,
    open_only: bool,
    before: Option<&FindingId>,
    limit: i64,
) -> Result<Vec<Finding>, StoreError> {
    const ALL: &str = "SELECT id, kind, severity, object, detail, created_at_us, resolved_at_us
                       FROM finding WHERE id < $1 ORDER BY id DESC LIMIT $2";
    const OPEN: &str = "SELECT id, kind, severity, object, detail, created_at_us, resolved_at_us
                        FROM finding WHERE id < $1 AND resolved_at_us IS NULL ORDER BY id DESC LIMIT $2";
    let before = before.map_or(AFTER_EVERY_ID, FindingId::as_str);
    read_rows(conn.q(if open_only { OPEN } else { ALL }).bind(before).bind(limit).all().await?)
}

/// A finding as it is stored.
#[derive(FromRow)]
pub(super) struct Row {
    id: String,
    kind: String,
    severity: String,
    object: String,
    detail: String,
    created_at_us: i64,
    resolved_at_us: Option<i64>,
}

/// The findings that rows hold.
pub(super) fn read_rows(rows: Vec<Row>) -> Result<Vec<Finding>, StoreError> {
    rows.into_iter()
        .map(|row| {
            let at = At { table: "finding", id: &row.id };
            Ok(Finding {
                id: at.read("id", &row.id)?,
                severity: at.read("severity", &row.severity)?,
                kind: row.kind,
                object: row.object,
                detail: row.detail,
                created_at: Timestamp::from_micros(row.created_at_us),
                resolved_at: row.resolved_at_us.map(Timestamp::from_micros),
            })
        })
        .collect()
}
