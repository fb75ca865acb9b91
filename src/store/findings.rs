//! Findings: what an operator should look at.

use serde_json::json;

use super::{StoreError, Tx, sales::write_rows};
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

/// Raises findings; one that was raised before, open or resolved, stays as it is.
pub async fn raise(tx: &mut Tx, new: &[NewFinding], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO finding (id, kind, severity, object, detail, created_at_us)
        SELECT value->>'id', value->>'kind', value->>'severity', value->>'object', value->>'detail',
            CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (id) DO NOTHING";
    let rows = new
        .iter()
        .map(|finding| {
            json!({
                "id": FindingId::derived(&[&finding.kind, &finding.object]), "kind": finding.kind,
                "severity": finding.severity.as_str(), "object": finding.object,
                "detail": finding.detail, "at": now.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}
