//! What no sale can need any more of touchpoints and visitors: found, and removed.
//!
//! A touchpoint refers sales that are paid within its program's window, and those that are bound by such a
//! sale. So it is needed as long as its visitor has a sale, under whichever id, or a conversion names it. One
//! whose visitor has bought nothing may go once the window is over and what is told late has been told.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Visitor, rows};
use crate::{
    domain::{ids::TouchpointId, time::Timestamp},
    store::{Conn, Sql, StoreError, Tx, refold::sales_of_told, row::At, sales},
};

/// A touchpoint whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldClick {
    /// Id.
    pub id: TouchpointId,
    /// The id that it was recorded under.
    pub visitor: Visitor,
    /// When it was clicked, microseconds.
    pub at_us: i64,
}

/// Touchpoints that were clicked longer before `until` than any window that their program ever had, and that
/// no conversion names; the oldest first, behind `after`.
pub async fn list_old(
    conn: &mut Conn,
    after: Option<&(i64, TouchpointId)>,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<OldClick>, StoreError> {
    // Served by `touchpoint_by_time` and `conversion_by_touchpoint`.
    const SQL: &str = "SELECT t.id, t.project_id, t.subject, t.at_us
        FROM touchpoint t JOIN program g ON g.id = t.program_id
        WHERE (t.at_us, t.id) > ($1, $2) AND t.at_us < $3
            AND t.at_us < $3 - g.attribution_window_days * 86400000000
            AND NOT EXISTS (SELECT 1 FROM program_touch_rule r
                WHERE r.program_id = g.id AND t.at_us >= $3 - r.attribution_window_days * 86400000000)
            AND NOT EXISTS (SELECT 1 FROM conversion v WHERE v.touchpoint_id = t.id)
        ORDER BY t.at_us, t.id LIMIT $4";
    let (at, id) = after.map_or((i64::MIN, ""), |(at, id)| (*at, id.as_str()));
    let found: Vec<(String, String, String, i64)> =
        conn.q(SQL).bind(at).bind(id).bind(until.as_micros()).bind(limit).all().await?;
    found
        .into_iter()
        .map(|(id, project, subject, at_us)| {
            let at = At { table: "touchpoint", id: &id };
            let visitor = Visitor { project_id: at.read("project_id", &project)?, id: subject };
            Ok(OldClick { id: at.read("id", &id)?, visitor, at_us })
        })
        .collect()
}

/// Which of these ids a sale names, whatever became of it.
pub async fn bought(conn: &mut Conn, visitors: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, StoreError> {
    // Served by `attribution_hint_by_code` and `payment_by_customer`.
    const SQL: &str = concat!(
        "WITH told AS (
            SELECT k.value->>'p' AS project_id, k.value->>'v' AS visitor, h.realm, h.subject_kind, h.subject_id
            FROM json_each($1) k JOIN attribution_hint h
                ON h.project_id = k.value->>'p' AND LOWER(h.code) = LOWER(k.value->>'v')
                AND h.code = k.value->>'v' AND h.source IN ($2, $3))
        SELECT DISTINCT bought.* FROM (",
        sales_of_told!("t.project_id, t.visitor"),
        " UNION ALL
            SELECT k.value->>'p', k.value->>'v' FROM json_each($1) k JOIN payment p
                ON p.customer = k.value->>'v' AND p.project_id = k.value->>'p') AS bought"
    );
    let list = Value::from(rows(visitors)).to_string();
    let query = conn.q(SQL).bind(list).bind(sales::CLIENT_REFERENCE).bind(sales::VISITOR);
    read_visitors(query.all().await?)
}

/// Which of these ids have touchpoints.
pub async fn clicked(conn: &mut Conn, visitors: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, StoreError> {
    const SQL: &str = "SELECT k.value->>'p', k.value->>'v' FROM json_each($1) k
        WHERE EXISTS (SELECT 1 FROM touchpoint t
            WHERE t.subject = k.value->>'v' AND t.project_id = k.value->>'p')";
    read_visitors(conn.q(SQL).bind(Value::from(rows(visitors)).to_string()).all().await?)
}

fn read_visitors(rows: Vec<(String, String)>) -> Result<BTreeSet<Visitor>, StoreError> {
    rows.into_iter().map(read_visitor).collect()
}

fn read_visitor((project, id): (String, String)) -> Result<Visitor, StoreError> {
    let at = At { table: "project", id: &project };
    Ok(Visitor { project_id: at.read("id", &project)?, id })
}

/// Removes those of these touchpoints that no conversion names. The caller holds their visitors locked and
/// knows that they have bought nothing.
pub async fn forget_clicks(tx: &mut Tx, ids: &[&TouchpointId]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM touchpoint WHERE id IN (SELECT value->>'id' FROM json_each($1))
        AND NOT EXISTS (SELECT 1 FROM conversion v WHERE v.touchpoint_id = touchpoint.id)";
    if ids.is_empty() {
        return Ok(0);
    }
    let list: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
    tx.q(SQL).bind(Value::from(list).to_string()).exec().await
}

/// Ids that others were linked to, all of them before `until`; in the order of the ids, behind `after`.
pub async fn list_old_links(
    conn: &mut Conn,
    after: Option<&Visitor>,
    until: Timestamp,
    limit: i64,
) -> Result<Vec<Visitor>, StoreError> {
    // Served by `subject_link_by_subject`.
    const SQL: &str = "SELECT l.project_id, l.subject FROM subject_link l
        WHERE (l.subject, l.project_id) > ($1, $2)
        GROUP BY l.subject, l.project_id HAVING MAX(l.created_at_us) < $3
        ORDER BY l.subject, l.project_id LIMIT $4";
    let (id, project) = after.map_or(("", ""), |visitor| (&*visitor.id, visitor.project_id.as_str()));
    let found: Vec<(String, String)> =
        conn.q(SQL).bind(id).bind(project).bind(until.as_micros()).bind(limit).all().await?;
    found.into_iter().map(read_visitor).collect()
}

/// Removes the links of these ids that were made before `until`, where that is given; and then of what was
/// there to be locked the rows that nothing names any more. The caller holds the ids locked and knows that
/// they have bought nothing.
pub async fn forget_ids(
    tx: &mut Tx,
    ids: &BTreeSet<Visitor>,
    until: Option<Timestamp>,
) -> Result<(), StoreError> {
    const LINKS: &str = "DELETE FROM subject_link WHERE (visitor, project_id) IN
            (SELECT value->>'v', value->>'p' FROM json_each($1)) AND created_at_us < $2";
    // On SQLite there are no such rows.
    const IDS: Sql = Sql {
        sqlite: "DELETE FROM visitor WHERE (id, project_id) IN
            (SELECT value->>'v', value->>'p' FROM json_each($1))",
        postgres: "DELETE FROM visitor v WHERE (v.id, v.project_id) IN
                (SELECT value->>'v', value->>'p' FROM json_each($1))
            AND NOT EXISTS (SELECT 1 FROM touchpoint t WHERE t.subject = v.id AND t.project_id = v.project_id)
            AND NOT EXISTS (SELECT 1 FROM subject_link l WHERE l.visitor = v.id AND l.project_id = v.project_id)
            AND NOT EXISTS (SELECT 1 FROM subject_link l WHERE l.subject = v.id AND l.project_id = v.project_id)",
    };
    if ids.is_empty() {
        return Ok(());
    }
    let list = Value::from(rows(ids)).to_string();
    if let Some(until) = until {
        tx.q(LINKS).bind(&*list).bind(until.as_micros()).exec().await?;
    }
    tx.q(IDS).bind(list).exec().await?;
    Ok(())
}
