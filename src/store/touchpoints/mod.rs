//! Touchpoints, the clicks counted by day, and the ids that belong to one visitor.
//!
//! Ids of one visitor form a star: every id but one points at that one ([`link`]), so all of them are
//! found in one statement. Which touchpoint wins is not known here.
//!
//! A touchpoint that is told and a sale of the same visitor that is folded at that moment must see each
//! other. Both lock the visitor's ids, [`lock_visitors`] alone and `surroundings` shared, read again what
//! they locked for, and only then look for the other. The rows of `visitor` are there only to be locked:
//! for most visitors there is no other row that both could meet at.
//!
//! `clicks` stores and finds touchpoints, `list` shows them to the owner, and `forget` removes what no sale
//! can need any more.

mod clicks;
mod forget;
mod list;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub(super) use self::clicks::{Span, in_spans, spans_of};
pub use self::{
    clicks::{
        Asked, LinkOwner, NewTouchpoint, SAME_CLICK_S, TouchpointRow, find_link, find_same_clicks,
        first_project, insert,
    },
    forget::{OldClick, bought, clicked, forget_clicks, forget_ids, list_old, list_old_links},
    list::{ToldFilter, ToldKey, ToldRow, list_told},
};
use super::{Conn, Sql, StoreError, Tx, refold::sales_of_told, row::At, sales};
use crate::domain::{ids::ProjectId, time::Timestamp};

/// Ids of one visitor at most. People have a handful; without a limit, a script that holds a website's
/// public key could make folds of one sale read any number of rows.
const LINKED_MAX: i64 = 100;

/// An id of a visitor, within the project that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Visitor {
    /// The project.
    pub project_id: ProjectId,
    /// The id.
    pub id: String,
}

pub(super) fn rows<'a>(visitors: impl IntoIterator<Item = &'a Visitor>) -> Vec<Value> {
    visitors.into_iter().map(|visitor| json!({ "p": visitor.project_id, "v": visitor.id })).collect()
}

/// Every id of the visitors who have these ids, each with the id that it was found by.
pub async fn all_ids(
    conn: &mut Conn,
    asked: &BTreeSet<Visitor>,
) -> Result<BTreeSet<(Visitor, String)>, StoreError> {
    const SQL: &str = "WITH star AS (
            SELECT k.value->>'p' AS project_id, k.value->>'v' AS asked,
                COALESCE(l.subject, k.value->>'v') AS center
            FROM json_each($1) k LEFT JOIN subject_link l
                ON l.visitor = k.value->>'v' AND l.project_id = k.value->>'p')
        SELECT s.project_id, s.center, s.asked FROM star s
        UNION
        SELECT s.project_id, l.visitor, s.asked
        FROM star s JOIN subject_link l ON l.subject = s.center AND l.project_id = s.project_id";
    if asked.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found: Vec<(String, String, String)> =
        conn.q(SQL).bind(Value::from(rows(asked)).to_string()).all().await?;
    found
        .into_iter()
        .map(|(project, id, asked)| {
            let at = At { table: "subject_link", id: &project };
            Ok((Visitor { project_id: at.read("project_id", &project)?, id }, asked))
        })
        .collect()
}

/// Every id of the visitors who have these ids, by the id that was asked for. Two ids of one visitor have
/// the same.
pub async fn stars(
    conn: &mut Conn,
    asked: &BTreeSet<Visitor>,
) -> Result<BTreeMap<Visitor, BTreeSet<Visitor>>, StoreError> {
    let mut stars: BTreeMap<Visitor, BTreeSet<Visitor>> =
        asked.iter().map(|visitor| (visitor.clone(), BTreeSet::from([visitor.clone()]))).collect();
    for (visitor, asked) in all_ids(conn, asked).await? {
        let asked = Visitor { project_id: visitor.project_id.clone(), id: asked };
        stars.entry(asked).or_default().insert(visitor);
    }
    Ok(stars)
}

/// Keeps every other telling about these visitors, and every fold of a sale of theirs, waiting until this
/// transaction ends.
pub async fn lock_visitors(tx: &mut Tx, visitors: &BTreeSet<Visitor>) -> Result<(), StoreError> {
    const LOCK: Sql = Sql {
        sqlite: "SELECT value->>'v' FROM json_each($1)",
        postgres: "SELECT v.id FROM visitor v
            JOIN json_each($1) k ON v.id = k.value->>'v' AND v.project_id = k.value->>'p'
            ORDER BY v.id, v.project_id FOR NO KEY UPDATE OF v",
    };
    lock_with(tx, visitors, LOCK).await
}

/// Keeps what is told about these visitors waiting until this transaction ends. Folds do not wait for
/// each other, but where both are the first to meet a visitor.
pub(super) async fn share_visitors(tx: &mut Tx, visitors: &BTreeSet<Visitor>) -> Result<(), StoreError> {
    const SHARE: Sql = Sql {
        sqlite: "SELECT value->>'v' FROM json_each($1)",
        postgres: "SELECT v.id FROM visitor v
            JOIN json_each($1) k ON v.id = k.value->>'v' AND v.project_id = k.value->>'p'
            ORDER BY v.id, v.project_id FOR SHARE OF v",
    };
    lock_with(tx, visitors, SHARE).await
}

/// Adds the rows that are missing, then locks all of them. Once in a transaction: both are in one order
/// everywhere, and whoever waits for a row that is being added holds none that was there before.
///
/// # Errors
/// [`StoreError::Changed`] when one of them was forgotten between the two: then it is not locked.
async fn lock_with(tx: &mut Tx, visitors: &BTreeSet<Visitor>, lock: Sql) -> Result<(), StoreError> {
    // SQLite has one writer, and it is this one: no row is ever needed, and all are as good as locked.
    const ADD: Sql = Sql {
        sqlite: "INSERT INTO visitor (project_id, id) SELECT '', '' FROM json_each($1) WHERE FALSE",
        postgres: "INSERT INTO visitor (project_id, id)
            SELECT value->>'p', value->>'v' FROM json_each($1) ORDER BY value->>'v', value->>'p'
            ON CONFLICT (id, project_id) DO NOTHING",
    };
    if visitors.is_empty() {
        return Ok(());
    }
    let rows = Value::from(rows(visitors)).to_string();
    tx.q(ADD).bind(&*rows).exec().await?;
    let locked: Vec<String> = tx.q(lock).bind(&*rows).scalars().await?;
    if locked.len() == visitors.len() { Ok(()) } else { Err(StoreError::Changed) }
}

/// What became of two ids that were said to be one visitor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// They are from now on.
    New,
    /// They were already.
    Already,
    /// The first id is another visitor's.
    Taken,
    /// There are too many ids already.
    TooMany,
}

/// Makes `anonymous` an id of the visitor who has the id `subject`. The caller holds both locked
/// ([`lock_visitors`]).
///
/// The first link of an id stands: a browser that two people use stays the first one's.
pub async fn link(
    tx: &mut Tx,
    project: &ProjectId,
    anonymous: &str,
    subject: &str,
    now: Timestamp,
) -> Result<Linked, StoreError> {
    const CENTER: &str = "SELECT subject FROM subject_link WHERE visitor = $1 AND project_id = $2";
    const COUNT: &str = "SELECT COUNT(*) FROM subject_link WHERE project_id = $1 AND subject IN ($2, $3)";
    const MOVE: &str = "UPDATE subject_link SET subject = $3 WHERE subject = $1 AND project_id = $2";
    const ADD: &str = "INSERT INTO subject_link (project_id, visitor, subject, created_at_us)
        VALUES ($1, $2, $3, $4)";
    let known: Option<String> = tx.q(CENTER).bind(anonymous).bind(project.as_str()).scalar().await?;
    let center: Option<String> = tx.q(CENTER).bind(subject).bind(project.as_str()).scalar().await?;
    let center = center.unwrap_or_else(|| subject.to_owned());
    if let Some(known) = known {
        return Ok(if known == center { Linked::Already } else { Linked::Taken });
    }
    if center == anonymous {
        return Ok(Linked::Already);
    }
    let count: Option<i64> =
        tx.q(COUNT).bind(project.as_str()).bind(&*center).bind(anonymous).scalar().await?;
    if count.unwrap_or_default() >= LINKED_MAX {
        return Ok(Linked::TooMany);
    }
    tx.q(MOVE).bind(anonymous).bind(project.as_str()).bind(&*center).exec().await?;
    tx.q(ADD).bind(project.as_str()).bind(anonymous).bind(&*center).bind(now.as_micros()).exec().await?;
    Ok(Linked::New)
}

/// Requests the sales of these visitors that were paid at `since` or later to be folded again: something
/// was told that may refer them. The caller holds the visitors locked, so no such sale can appear unseen.
///
/// For a click that happens now there are none, and this costs a few index searches.
pub async fn request_sales(
    tx: &mut Tx,
    visitors: &BTreeSet<Visitor>,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let since = visitors.iter().map(|visitor| (visitor.clone(), since)).collect();
    request_sales_since(tx, &since, now).await
}

/// The same with an instant for each visitor.
pub async fn request_sales_since(
    tx: &mut Tx,
    since: &BTreeMap<Visitor, Timestamp>,
    now: Timestamp,
) -> Result<(), StoreError> {
    // Served by `attribution_hint_by_code` and `payment_by_customer`. In one order everywhere, since two
    // visitors may be told of at once to whom the same sales belong.
    const SQL: &str = concat!(
        "WITH told AS (
            SELECT h.project_id, h.realm, h.subject_kind, h.subject_id,
                CAST(k.value->>'at' AS BIGINT) AS since_us
            FROM json_each($1) k JOIN attribution_hint h
                ON h.project_id = k.value->>'p' AND LOWER(h.code) = LOWER(k.value->>'v')
                AND h.code = k.value->>'v' AND h.source IN ($3, $4))
        INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT s.id, 'time', 'touchpoint_told', $2, $2
        FROM (",
        sales_of_told!("found.sale_id, t.since_us"),
        " UNION ALL
            SELECT p.sale_id, CAST(k.value->>'at' AS BIGINT) FROM json_each($1) k JOIN payment p
                ON p.customer = k.value->>'v' AND p.project_id = k.value->>'p') AS concerned
        JOIN sale s ON s.id = concerned.sale_id
        WHERE s.paid_at_us >= concerned.since_us
        ORDER BY 1
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us"
    );
    if since.is_empty() {
        return Ok(());
    }
    let rows: Vec<Value> = since
        .iter()
        .map(|(visitor, since)| json!({ "p": visitor.project_id, "v": visitor.id, "at": since.as_micros() }))
        .collect();
    tx.q(SQL)
        .bind(Value::from(rows).to_string())
        .bind(now.as_micros())
        .bind(sales::CLIENT_REFERENCE)
        .bind(sales::VISITOR)
        .exec()
        .await?;
    Ok(())
}

/// The same for all visitors who came through links of this enrollment, or of this program's; their ids
/// cannot be mistaken for each other. The caller holds the directory locked.
pub(super) async fn request_clicked(
    tx: &mut Tx,
    of: &str,
    rule: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    // Served by `touchpoint_by_enrollment`, then as above.
    const SQL: &str = concat!(
        "WITH star AS (
            SELECT DISTINCT t.project_id, COALESCE(l.subject, t.subject) AS center
            FROM touchpoint t LEFT JOIN subject_link l
                ON l.visitor = t.subject AND l.project_id = t.project_id
            WHERE t.enrollment_id IN (SELECT id FROM enrollment WHERE id = $1 OR program_id = $1)),
        visitor AS (
            SELECT project_id, center AS id FROM star
            UNION ALL
            SELECT s.project_id, l.visitor FROM star s JOIN subject_link l
                ON l.subject = s.center AND l.project_id = s.project_id),
        told AS (
            SELECT h.project_id, h.realm, h.subject_kind, h.subject_id
            FROM visitor v JOIN attribution_hint h
                ON h.project_id = v.project_id AND LOWER(h.code) = LOWER(v.id) AND h.code = v.id
                AND h.source IN ($4, $5))
        INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT concerned.sale_id, 'time', $2, $3, $3
        FROM (",
        sales_of_told!("found.sale_id"),
        " UNION ALL
            SELECT p.sale_id FROM visitor v JOIN payment p
                ON p.customer = v.id AND p.project_id = v.project_id) AS concerned
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us"
    );
    tx.q(SQL)
        .bind(of)
        .bind(rule)
        .bind(now.as_micros())
        .bind(sales::CLIENT_REFERENCE)
        .bind(sales::VISITOR)
        .exec()
        .await?;
    Ok(())
}

/// The earliest touchpoint of these visitors.
pub async fn earliest(
    conn: &mut Conn,
    visitors: &BTreeSet<Visitor>,
) -> Result<Option<Timestamp>, StoreError> {
    const SQL: &str = "SELECT MIN(t.at_us) FROM json_each($1) k JOIN touchpoint t
        ON t.project_id = k.value->>'p' AND t.subject = k.value->>'v'";
    let at: Option<Option<i64>> = conn.q(SQL).bind(Value::from(rows(visitors)).to_string()).scalar().await?;
    Ok(at.flatten().map(Timestamp::from_micros))
}
