//! Clicks: whose link a code is, which click is one that is known, and the rows that are stored. All of it for
//! any number of clicks in a fixed number of statements.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::FromRow;

use super::Visitor;
use crate::{
    domain::{
        attribution::Touch,
        ids::{EnrollmentId, OrganizationId, ProgramId, ProjectId, TouchpointId},
        program::normalise_code,
        time::Timestamp,
    },
    store::{Conn, StoreError, Tx, row::At},
};

/// Two touchpoints of one visitor with one code within this time are one click.
pub const SAME_CLICK_S: i64 = 600;

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

/// The link with this code, if it works at `now`: that of `owner`, or without one that of whoever had the
/// code first, for ever. Nobody else's claim of the same text leads anybody elsewhere, and neither does the
/// end of the first one's code: it stands on paper and on websites.
pub async fn find_link(
    conn: &mut Conn,
    owner: Option<&OrganizationId>,
    code: &str,
    now: Timestamp,
) -> Result<Option<LinkOwner>, StoreError> {
    // Served by `code_by_text`; codes are unique per owner.
    const SQL: &str = "SELECT c.organization_id, c.enrollment_id, e.program_id, c.code, g.landing_url,
            (SELECT s.status FROM program_status s WHERE s.program_id = g.id
                ORDER BY s.effective_at_us DESC LIMIT 1) AS status,
            c.valid_from_us, c.valid_to_us
        FROM code c JOIN enrollment e ON e.id = c.enrollment_id JOIN program g ON g.id = e.program_id
        WHERE c.code_normalised = $1 AND ($2 IS NULL OR c.organization_id = $2)
        ORDER BY c.created_at_us, c.organization_id LIMIT 1";
    #[derive(FromRow)]
    struct Row {
        organization_id: String,
        enrollment_id: String,
        program_id: String,
        code: String,
        landing_url: Option<String>,
        status: Option<String>,
        valid_from_us: i64,
        valid_to_us: Option<i64>,
    }
    let owner = owner.map(OrganizationId::as_str);
    let row: Option<Row> = conn.q(SQL).bind(normalise_code(code)).bind(owner).one().await?;
    let now = now.as_micros();
    let is_live = |row: &Row| row.valid_from_us <= now && row.valid_to_us.is_none_or(|end| end > now);
    row.filter(is_live)
        .map(|row| {
            let at = At { table: "code", id: &row.code };
            Ok(LinkOwner {
                organization_id: at.read("organization_id", &row.organization_id)?,
                enrollment_id: at.read("enrollment_id", &row.enrollment_id)?,
                program_id: at.read("program_id", &row.program_id)?,
                landing_url: row.landing_url,
                is_active: row.status.as_deref() == Some("active"),
                code: row.code.clone(),
            })
        })
        .transpose()
}

/// The project under which a link of this owner that names none is counted: the oldest.
pub async fn first_project(conn: &mut Conn, owner: &OrganizationId) -> Result<Option<ProjectId>, StoreError> {
    const SQL: &str = "SELECT id FROM project WHERE organization_id = $1 ORDER BY created_at_us, id LIMIT 1";
    let id: Option<String> = conn.q(SQL).bind(owner.as_str()).scalar().await?;
    id.map(|id| At { table: "project", id: &id }.read("id", &id)).transpose()
}

/// A touchpoint as it is shown to who tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A click of which it is asked whether it is known.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Every id of the visitor.
    pub visitors: &'a BTreeSet<Visitor>,
    /// The code as issued.
    pub code: &'a str,
    /// When it was.
    pub at: Timestamp,
}

/// The earliest touchpoint that each of these clicks would repeat, by the click's place in `asked`.
pub async fn find_same_clicks(
    conn: &mut Conn,
    asked: &[Asked<'_>],
) -> Result<BTreeMap<usize, TouchpointRow>, StoreError> {
    // Served by `touchpoint_by_subject`.
    const SQL: &str = "SELECT CAST(k.value->>'n' AS BIGINT), t.id, t.program_id, t.code, t.source, t.at_us
        FROM json_each($1) k JOIN touchpoint t ON t.project_id = k.value->>'p' AND t.subject = k.value->>'v'
        WHERE t.code = k.value->>'c' AND t.at_us > CAST(k.value->>'from' AS BIGINT)
            AND t.at_us < CAST(k.value->>'to' AS BIGINT)
        ORDER BY t.at_us, t.id";
    let mut rows = Vec::new();
    for (place, click) in asked.iter().enumerate() {
        let (from, to) = (click.at.plus_secs(-SAME_CLICK_S), click.at.plus_secs(SAME_CLICK_S));
        rows.extend(click.visitors.iter().map(|visitor| {
            json!({
                "n": place, "p": visitor.project_id, "v": visitor.id, "c": click.code,
                "from": from.as_micros(), "to": to.as_micros(),
            })
        }));
    }
    let mut known = BTreeMap::new();
    let found: Vec<(i64, String, String, String, String, i64)> =
        conn.q(SQL).bind(Value::from(rows).to_string()).all().await?;
    for (place, id, program_id, code, source, at_us) in found {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        known.entry(place).or_insert(TouchpointRow { id, program_id, code, source, at_us });
    }
    Ok(known)
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
    /// The key that told of it and its request; none for whoever followed a link of ours.
    pub told_by: Option<(String, String)>,
    /// When it was told.
    pub created_at: Timestamp,
}

/// Stores touchpoints and counts the clicks.
pub async fn insert(tx: &mut Tx, new: &[NewTouchpoint]) -> Result<(), StoreError> {
    // By project, so that all transactions come to the keys of projects in one order.
    const TOUCHPOINT: &str = "INSERT INTO touchpoint (id, project_id, program_id, enrollment_id, code, source,
            subject, at_us, told_by, request_id, created_at_us)
        SELECT value->>'id', value->>'p', value->>'g', value->>'e', value->>'c', value->>'source', value->>'v',
            CAST(value->>'at' AS BIGINT), value->>'by', value->>'request', CAST(value->>'told' AS BIGINT)
        FROM json_each($1) WHERE TRUE ORDER BY value->>'p', value->>'id'";
    const CLICK: &str = "INSERT INTO click_day (program_id, enrollment_id, day, clicks)
        SELECT value->>'g', value->>'e', CAST(value->>'day' AS BIGINT), CAST(value->>'n' AS BIGINT)
        FROM json_each($1) WHERE TRUE ORDER BY 1, 2, 3
        ON CONFLICT (program_id, enrollment_id, day) DO UPDATE SET clicks = click_day.clicks + excluded.clicks";
    if new.is_empty() {
        return Ok(());
    }
    let rows: Vec<Value> = new
        .iter()
        .map(|new| {
            let (by, request) = new.told_by.as_ref().map(|(by, request)| (by, request)).unzip();
            json!({
                "id": new.touch.id, "p": new.project_id, "g": new.program_id, "e": new.touch.enrollment_id,
                "c": new.touch.code, "source": new.source, "v": new.subject, "at": new.touch.at.as_micros(),
                "by": by, "request": request, "told": new.created_at.as_micros(),
            })
        })
        .collect();
    tx.q(TOUCHPOINT).bind(Value::from(rows).to_string()).exec().await?;
    let mut days: BTreeMap<(&ProgramId, &EnrollmentId, i64), i64> = BTreeMap::new();
    for new in new {
        let day = new.touch.at.as_micros().div_euclid(DAY_US);
        *days.entry((&new.program_id, &new.touch.enrollment_id, day)).or_default() += 1;
    }
    let rows: Vec<Value> = days
        .into_iter()
        .map(|((program, enrollment, day), clicks)| {
            json!({ "g": program, "e": enrollment, "day": day, "n": clicks })
        })
        .collect();
    // Last, because all clicks of one affiliate wait here for each other until they commit.
    tx.q(CLICK).bind(Value::from(rows).to_string()).exec().await?;
    Ok(())
}

/// A time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The beginning.
    pub from: Timestamp,
    /// The end.
    pub to: Timestamp,
}

/// From the first to the last touchpoint of each of these ids that has any.
pub async fn spans_of(
    conn: &mut Conn,
    visitors: &BTreeSet<Visitor>,
) -> Result<BTreeMap<Visitor, Span>, StoreError> {
    // Two searches of `touchpoint_by_subject` for each id, however many touchpoints it has.
    const SQL: &str = "SELECT k.value->>'p', k.value->>'v',
            (SELECT t.at_us FROM touchpoint t WHERE t.subject = k.value->>'v' AND t.project_id = k.value->>'p'
                ORDER BY t.at_us LIMIT 1),
            (SELECT t.at_us FROM touchpoint t WHERE t.subject = k.value->>'v' AND t.project_id = k.value->>'p'
                ORDER BY t.at_us DESC LIMIT 1)
        FROM json_each($1) k";
    if visitors.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found: Vec<(String, String, Option<i64>, Option<i64>)> =
        conn.q(SQL).bind(Value::from(super::rows(visitors)).to_string()).all().await?;
    found
        .into_iter()
        .filter_map(|(project, id, first, last)| Some((project, id, first?, last?)))
        .map(|(project, id, first, last)| {
            let at = At { table: "touchpoint", id: &project };
            let visitor = Visitor { project_id: at.read("project_id", &project)?, id };
            let (from, to) = (Timestamp::from_micros(first), Timestamp::from_micros(last));
            Ok((visitor, Span { from, to }))
        })
        .collect()
}

/// The touchpoints of these ids in these times, each with the project and id it was recorded under. Times of
/// one id do not overlap.
pub async fn in_spans(
    conn: &mut Conn,
    spans: &BTreeMap<Visitor, Vec<Span>>,
) -> Result<Vec<(Visitor, Touch)>, StoreError> {
    const SQL: &str = "SELECT t.id, t.project_id, t.subject, t.enrollment_id, t.code, t.at_us
        FROM json_each($1) k JOIN touchpoint t ON t.project_id = k.value->>'p' AND t.subject = k.value->>'v'
            AND t.at_us >= CAST(k.value->>'from' AS BIGINT) AND t.at_us <= CAST(k.value->>'to' AS BIGINT)";
    let rows: Vec<Value> = spans
        .iter()
        .flat_map(|(visitor, spans)| spans.iter().map(move |span| (visitor, span)))
        .map(|(visitor, span)| {
            let (from, to) = (span.from.as_micros(), span.to.as_micros());
            json!({ "p": visitor.project_id, "v": visitor.id, "from": from, "to": to })
        })
        .collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<(String, String, String, String, String, i64)> =
        conn.q(SQL).bind(Value::from(rows).to_string()).all().await?;
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
