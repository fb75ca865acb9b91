//! The touchpoints of a program for its owner: who clicked what, and who told of it.

use sqlx::FromRow;

use crate::{
    domain::{
        ids::{EnrollmentId, ProgramId, ProjectId, TouchpointId},
        program::normalise_code,
        time::Timestamp,
        window::Window,
    },
    store::{Conn, StoreError, row::At},
};

/// What touchpoints are listed by: when they were clicked in microseconds, then the id.
pub type ToldKey = (i64, TouchpointId);

/// Which touchpoints are asked for.
#[derive(Clone, Debug)]
pub struct ToldFilter {
    /// Only clicks on this code.
    pub code: Option<String>,
    /// Only clicks of this time.
    pub window: Window,
    /// Only what comes after this one in the list.
    pub before: Option<ToldKey>,
}

/// A touchpoint as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRow {
    /// Id.
    pub id: TouchpointId,
    /// Where the visitor's ids belong.
    pub project_id: ProjectId,
    /// Whose link it was.
    pub enrollment_id: EnrollmentId,
    /// The code as issued.
    pub code: String,
    /// The way the visitor came.
    pub source: String,
    /// The id of the visitor under which it was told.
    pub subject: String,
    /// When it was clicked.
    pub at: Timestamp,
    /// When it was told.
    pub created_at: Timestamp,
    /// The key that told of it; none for whoever followed a link of ours.
    pub told_by: Option<String>,
    /// By which request it did.
    pub request_id: Option<String>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    project_id: String,
    enrollment_id: String,
    code: String,
    source: String,
    subject: String,
    at_us: i64,
    created_at_us: i64,
    told_by: Option<String>,
    request_id: Option<String>,
}

/// The touchpoints of a program, those clicked last first.
pub async fn list_told(
    conn: &mut Conn,
    program: &ProgramId,
    filter: &ToldFilter,
    limit: i64,
) -> Result<Vec<ToldRow>, StoreError> {
    // Served by `touchpoint_by_program`.
    const OF_PROGRAM: &str =
        "SELECT t.id, t.project_id, t.enrollment_id, t.code, t.source, t.subject, t.at_us,
            t.created_at_us, t.told_by, t.request_id
        FROM touchpoint t
        WHERE t.program_id = $1 AND t.at_us >= $2 AND t.at_us < $3
            AND ($4 IS NULL OR (t.at_us, t.id) < ($4, $5))
        ORDER BY t.at_us DESC, t.id DESC LIMIT $6";
    // A code is one enrollment's: served by `code_by_text` and `touchpoint_by_enrollment`.
    const OF_CODE: &str = "SELECT t.id, t.project_id, t.enrollment_id, t.code, t.source, t.subject, t.at_us,
            t.created_at_us, t.told_by, t.request_id
        FROM program g
            JOIN code c ON c.organization_id = g.organization_id AND c.code_normalised = $7
            JOIN touchpoint t ON t.enrollment_id = c.enrollment_id AND t.code = c.code
        WHERE g.id = $1 AND t.program_id = $1 AND t.at_us >= $2 AND t.at_us < $3
            AND ($4 IS NULL OR (t.at_us, t.id) < ($4, $5))
        ORDER BY t.at_us DESC, t.id DESC LIMIT $6";
    let (at, id) = filter.before.as_ref().map(|(at, id)| (*at, id.as_str())).unzip();
    let Window { from, to } = filter.window;
    let query = conn.q(if filter.code.is_some() { OF_CODE } else { OF_PROGRAM });
    let query = query.bind(program.as_str()).bind(from.as_micros()).bind(to.as_micros());
    let query = query.bind(at).bind(id).bind(limit);
    let found: Vec<Row> = match &filter.code {
        Some(code) => query.bind(normalise_code(code)).all().await?,
        None => query.all().await?,
    };
    found
        .into_iter()
        .map(|row| {
            let at = At { table: "touchpoint", id: &row.id };
            Ok(ToldRow {
                id: at.read("id", &row.id)?,
                project_id: at.read("project_id", &row.project_id)?,
                enrollment_id: at.read("enrollment_id", &row.enrollment_id)?,
                code: row.code,
                source: row.source,
                subject: row.subject,
                at: Timestamp::from_micros(row.at_us),
                created_at: Timestamp::from_micros(row.created_at_us),
                told_by: row.told_by,
                request_id: row.request_id,
            })
        })
        .collect()
}
