//! Touchpoints, the clicks counted by day, and the ids that belong to one visitor.
//!
//! Ids of one visitor form a star: every id but one points at that one ([`link`]), so all of them are
//! found in one statement. Which touchpoint wins is not known here.
//!
//! A touchpoint that is told and a sale of the same visitor that is folded at that moment must see each
//! other. Both lock the visitor's ids, [`lock_visitors`] alone and `surroundings` shared, read again what
//! they locked for, and only then look for the other. The rows of `visitor` are there only to be locked:
//! for most visitors there is no other row that both could meet at.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Conn, Sql, StoreError, Tx, row::At, sales};
use crate::{
    domain::{
        attribution::Touch,
        ids::{EnrollmentId, OrganizationId, ProgramId, ProjectId, TouchpointId},
        program::normalise_code,
        time::Timestamp,
    },
    for_update,
};

/// Two touchpoints of one visitor with one code within this time are one click.
pub const SAME_CLICK_S: i64 = 600;

/// Ids of one visitor at most. People have a handful; without a limit, a script that holds a website's
/// public key could make folds of one sale read any number of rows.
const LINKED_MAX: i64 = 100;

const DAY_US: i64 = 86_400_000_000;

/// Whose link a code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOwner {
    /// The owner of the program.
    pub organization_id: OrganizationId,
    /// The affiliate.
    pub enrollment_id: EnrollmentId,
    /// The program.
    pub program_id: ProgramId,
    /// The code as issued.
    pub code: String,
    /// Where the program's links lead.
    pub landing_url: Option<String>,
    /// Whether the program attributes now.
    pub is_active: bool,
}

/// The links with this code that work at `now`: one of `owner`, or those of all owners.
pub async fn find_links(
    conn: &mut Conn,
    owner: Option<&OrganizationId>,
    code: &str,
    now: Timestamp,
) -> Result<Vec<LinkOwner>, StoreError> {
    // Served by `code_by_text`; codes are unique per owner.
    const SQL: &str = "SELECT c.organization_id, c.enrollment_id, e.program_id, c.code, g.landing_url,
            (SELECT s.status FROM program_status s WHERE s.program_id = g.id
                ORDER BY s.effective_at_us DESC LIMIT 1) AS status
        FROM code c JOIN enrollment e ON e.id = c.enrollment_id JOIN program g ON g.id = e.program_id
        WHERE c.code_normalised = $1 AND ($2 IS NULL OR c.organization_id = $2)
            AND c.valid_from_us <= $3 AND (c.valid_to_us IS NULL OR c.valid_to_us > $3)
        ORDER BY c.organization_id LIMIT 2";
    type Row = (String, String, String, String, Option<String>, Option<String>);
    let rows: Vec<Row> = conn
        .q(SQL)
        .bind(normalise_code(code))
        .bind(owner.map(OrganizationId::as_str))
        .bind(now.as_micros())
        .all()
        .await?;
    rows.into_iter()
        .map(|(organization_id, enrollment_id, program_id, code, landing_url, status)| {
            let at = At { table: "code", id: &code };
            Ok(LinkOwner {
                organization_id: at.read("organization_id", &organization_id)?,
                enrollment_id: at.read("enrollment_id", &enrollment_id)?,
                program_id: at.read("program_id", &program_id)?,
                landing_url,
                is_active: status.as_deref() == Some("active"),
                code: code.clone(),
            })
        })
        .collect()
}

/// A touchpoint to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTouchpoint {
    /// What is known of it already.
    pub touch: Touch,
    /// Where the visitor's ids belong.
    pub project_id: ProjectId,
    /// The program of the enrollment.
    pub program_id: ProgramId,
    /// The caller's word for the way the visitor came.
    pub source: String,
    /// The visitor.
    pub subject: String,
    /// When it was told.
    pub created_at: Timestamp,
}

/// Stores a touchpoint and counts the click.
pub async fn insert(tx: &mut Tx, new: &NewTouchpoint) -> Result<(), StoreError> {
    const TOUCHPOINT: &str = "INSERT INTO touchpoint
            (id, project_id, program_id, enrollment_id, code, source, subject, at_us, created_at_us)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    const CLICK: &str = "INSERT INTO click_day (program_id, enrollment_id, day, clicks)
        VALUES ($1, $2, $3, 1)
        ON CONFLICT (program_id, enrollment_id, day) DO UPDATE SET clicks = click_day.clicks + 1";
    let at = new.touch.at.as_micros();
    tx.q(TOUCHPOINT)
        .bind(new.touch.id.as_str())
        .bind(new.project_id.as_str())
        .bind(new.program_id.as_str())
        .bind(new.touch.enrollment_id.as_str())
        .bind(new.touch.code.as_str())
        .bind(new.source.as_str())
        .bind(new.subject.as_str())
        .bind(at)
        .bind(new.created_at.as_micros())
        .exec()
        .await?;
    // Last, because all clicks of one affiliate wait here for each other until they commit.
    tx.q(CLICK)
        .bind(new.program_id.as_str())
        .bind(new.touch.enrollment_id.as_str())
        .bind(at.div_euclid(DAY_US))
        .exec()
        .await?;
    Ok(())
}

/// A touchpoint as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TouchpointRow {
    /// Id.
    pub id: String,
    /// The program.
    pub program_id: String,
    /// The code as issued.
    pub code: String,
    /// The way the visitor came.
    pub source: String,
    /// When, microseconds.
    pub at_us: i64,
}

/// The touchpoint that a click of these ids with this enrollment's code at `at` would repeat.
pub async fn find_same_click(
    conn: &mut Conn,
    visitors: &BTreeSet<Visitor>,
    code: &str,
    at: Timestamp,
) -> Result<Option<TouchpointRow>, StoreError> {
    // Served by `touchpoint_by_subject`.
    const SQL: &str = "SELECT t.id, t.program_id, t.code, t.source, t.at_us
        FROM json_each($1) k JOIN touchpoint t ON t.project_id = k.value->>'p' AND t.subject = k.value->>'v'
        WHERE t.code = $2 AND t.at_us > $3 AND t.at_us < $4
        ORDER BY t.at_us, t.id LIMIT 1";
    let (from, to) = (at.plus_secs(-SAME_CLICK_S), at.plus_secs(SAME_CLICK_S));
    let list = Value::from(rows(visitors)).to_string();
    conn.q(SQL).bind(list).bind(code).bind(from.as_micros()).bind(to.as_micros()).one().await
}

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

/// Keeps every other telling about these visitors, and every fold of a sale of theirs, waiting until this
/// transaction ends.
pub async fn lock_visitors(tx: &mut Tx, visitors: &BTreeSet<Visitor>) -> Result<(), StoreError> {
    const LOCK: Sql = for_update!(
        "SELECT v.id FROM visitor v JOIN json_each($1) k ON v.id = k.value->>'v' AND v.project_id = k.value->>'p'
            ORDER BY v.id, v.project_id"
    );
    lock_with(tx, visitors, LOCK).await
}

/// Keeps what is told about these visitors waiting until this transaction ends. Folds do not wait for
/// each other, but where both are the first to meet a visitor.
pub(super) async fn share_visitors(tx: &mut Tx, visitors: &BTreeSet<Visitor>) -> Result<(), StoreError> {
    const SHARE: Sql = Sql {
        sqlite: "SELECT v.id FROM visitor v
            JOIN json_each($1) k ON v.id = k.value->>'v' AND v.project_id = k.value->>'p'",
        postgres: "SELECT v.id FROM visitor v
            JOIN json_each($1) k ON v.id = k.value->>'v' AND v.project_id = k.value->>'p'
            ORDER BY v.id, v.project_id FOR SHARE",
    };
    lock_with(tx, visitors, SHARE).await
}

/// Adds the rows that are missing, then locks all of them. Once in a transaction: both are in one order
/// everywhere, and whoever waits for a row that is being added holds none that was there before.
async fn lock_with(tx: &mut Tx, visitors: &BTreeSet<Visitor>, lock: Sql) -> Result<(), StoreError> {
    // SQLite has one writer, and it is this one: no row is ever needed.
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
    tx.q(lock).bind(&*rows).scalars::<String>().await?;
    Ok(())
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
    // Served by `attribution_hint_by_code` and `payment_by_customer`.
    const SQL: &str = "WITH told AS (
            SELECT h.project_id, h.realm, h.subject_kind, h.subject_id
            FROM json_each($1) k JOIN attribution_hint h
                ON h.project_id = k.value->>'p' AND LOWER(h.code) = LOWER(k.value->>'v')
                AND h.code = k.value->>'v' AND h.source IN ($4, $5))
        INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT s.id, 'time', 'touchpoint_told', $3, $3
        FROM (
            SELECT a.sale_id FROM told t JOIN sale_alias a
                ON a.project_id = t.project_id AND a.realm = t.realm AND a.kind = t.subject_kind
                AND a.object_id = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM told t JOIN payment p
                ON t.subject_kind = 'subscription' AND p.project_id = t.project_id AND p.realm = t.realm
                AND p.subscription = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM told t JOIN payment p
                ON t.subject_kind = 'customer' AND p.project_id = t.project_id AND p.realm = t.realm
                AND p.customer = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM json_each($1) k JOIN payment p
                ON p.customer = k.value->>'v' AND p.project_id = k.value->>'p') AS concerned
        JOIN sale s ON s.id = concerned.sale_id
        WHERE s.paid_at_us >= $2
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us";
    tx.q(SQL)
        .bind(Value::from(rows(visitors)).to_string())
        .bind(since.as_micros())
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
    const SQL: &str = "WITH star AS (
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
        FROM (
            SELECT a.sale_id FROM told t JOIN sale_alias a
                ON a.project_id = t.project_id AND a.realm = t.realm AND a.kind = t.subject_kind
                AND a.object_id = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM told t JOIN payment p
                ON t.subject_kind = 'subscription' AND p.project_id = t.project_id AND p.realm = t.realm
                AND p.subscription = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM told t JOIN payment p
                ON t.subject_kind = 'customer' AND p.project_id = t.project_id AND p.realm = t.realm
                AND p.customer = t.subject_id
            UNION ALL
            SELECT p.sale_id FROM visitor v JOIN payment p
                ON p.customer = v.id AND p.project_id = v.project_id) AS concerned
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us";
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

/// The touchpoints of these visitors, each with the project and id it was recorded under.
pub(super) async fn of_visitors(
    conn: &mut Conn,
    visitors: &BTreeSet<Visitor>,
) -> Result<Vec<(Visitor, Touch)>, StoreError> {
    const SQL: &str = "SELECT t.id, t.project_id, t.subject, t.enrollment_id, t.code, t.at_us
        FROM json_each($1) k JOIN touchpoint t ON t.project_id = k.value->>'p' AND t.subject = k.value->>'v'";
    if visitors.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<(String, String, String, String, String, i64)> =
        conn.q(SQL).bind(Value::from(rows(visitors)).to_string()).all().await?;
    found
        .into_iter()
        .map(|(id, project, subject, enrollment, code, at_us)| {
            let at = At { table: "touchpoint", id: &id };
            let touch = Touch {
                id: at.read::<TouchpointId>("id", &id)?,
                enrollment_id: at.read("enrollment_id", &enrollment)?,
                code,
                at: Timestamp::from_micros(at_us),
            };
            Ok((Visitor { project_id: at.read("project_id", &project)?, id: subject }, touch))
        })
        .collect()
}

/// The project under which a link of this owner that names none is counted: the oldest.
pub async fn first_project(conn: &mut Conn, owner: &OrganizationId) -> Result<Option<ProjectId>, StoreError> {
    const SQL: &str = "SELECT id FROM project WHERE organization_id = $1 ORDER BY created_at_us, id LIMIT 1";
    let id: Option<String> = conn.q(SQL).bind(owner.as_str()).scalar().await?;
    id.map(|id| At { table: "project", id: &id }.read("id", &id)).transpose()
}
