//! The statement of an affiliate: what changed the accounts of one enrollment, entry by entry. Scoped as all
//! of its side ([`AffiliateScope`]).

use sqlx::FromRow;

use super::{Conn, StoreError, affiliate_views::AffiliateScope, sales::id_list};
use crate::domain::{ids::EnrollmentId, money::Currency, window::Window};

/// One enrollment of an affiliate's: the id of its program.
pub async fn find_enrollment(
    conn: &mut Conn,
    scope: &AffiliateScope,
    id: &EnrollmentId,
) -> Result<Option<String>, StoreError> {
    const SQL: &str = "SELECT e.program_id FROM enrollment e WHERE e.organization_id = $1 AND e.id = $2";
    conn.q(SQL).bind(scope.as_str()).bind(id.as_str()).scalar().await
}

/// What changed the accounts of one enrollment in one currency, minor units; what grows them is positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Accounts {
    /// Earned, not payable yet.
    pub held: i64,
    /// Payable; negative is debt.
    pub payable: i64,
    /// Reserved by payouts under way.
    pub in_transit: i64,
    /// Paid out.
    pub paid: i64,
}

/// The accounts of an enrollment as the entries before an instant left them.
pub async fn accounts_before(
    conn: &mut Conn,
    scope: &AffiliateScope,
    enrollment: &EnrollmentId,
    currency: Currency,
    before_us: i64,
) -> Result<Accounts, StoreError> {
    // Served by `entry_by_enrollment`. An aggregate over no rows gives one row.
    const SQL: &str = "SELECT
            CAST(COALESCE(SUM(CASE account WHEN 'held' THEN amount ELSE 0 END), 0) AS BIGINT) AS held,
            CAST(COALESCE(SUM(CASE account WHEN 'payable' THEN amount ELSE 0 END), 0) AS BIGINT) AS payable,
            CAST(COALESCE(SUM(CASE account WHEN 'in_transit' THEN amount ELSE 0 END), 0) AS BIGINT) AS in_transit,
            CAST(COALESCE(SUM(CASE account WHEN 'paid' THEN amount ELSE 0 END), 0) AS BIGINT) AS paid
        FROM (SELECT p.account, CASE p.side WHEN 'credit' THEN p.amount_minor ELSE -p.amount_minor END AS amount
            FROM enrollment e JOIN entry n ON n.enrollment_id = e.id
                JOIN posting p ON p.entry_id = n.id AND p.owner_id = e.id
            WHERE e.organization_id = $1 AND e.id = $2 AND n.currency = $3 AND n.created_at_us < $4) AS moved";
    let found = conn
        .q(SQL)
        .bind(scope.as_str())
        .bind(enrollment.as_str())
        .bind(currency.as_str())
        .bind(before_us)
        .one()
        .await?;
    Ok(found.unwrap_or_default())
}

/// An entry with what it changed the affiliate's accounts by.
#[derive(Clone, Debug, FromRow)]
pub struct StatementRow {
    /// The entry.
    pub id: String,
    /// 1, 2, 3, … per commission and per payout.
    pub revision: i64,
    /// What it does.
    pub kind: String,
    /// The commission it is about.
    pub commission_id: Option<String>,
    /// The payout it is about.
    pub payout_id: Option<String>,
    /// The events and decisions behind it, JSON.
    pub causes: String,
    /// When it was posted, microseconds.
    pub created_at_us: i64,
    /// What it changed.
    #[sqlx(flatten)]
    pub changed: Accounts,
}

/// What the lines of a statement are ordered by: time of posting in microseconds, revision, id. Entries of one
/// instant follow their revisions, so that nothing is taken back before it was earned.
pub type StatementKey = (i64, i64, String);

/// The entries of an enrollment in one currency and a window, in order of [`StatementKey`], after the given one.
pub async fn list_entries(
    conn: &mut Conn,
    scope: &AffiliateScope,
    enrollment: &EnrollmentId,
    currency: Currency,
    window: Window,
    after: Option<&StatementKey>,
    limit: i64,
) -> Result<Vec<StatementRow>, StoreError> {
    // Served by `entry_by_enrollment`; the lines are added up for the entries of the page only.
    const SQL: &str = "SELECT n.id, n.revision, n.kind, n.commission_id, n.payout_id, n.causes, n.created_at_us,
            CAST(COALESCE(SUM(CASE WHEN p.account = 'held' THEN
                CASE p.side WHEN 'credit' THEN p.amount_minor ELSE -p.amount_minor END END), 0) AS BIGINT) AS held,
            CAST(COALESCE(SUM(CASE WHEN p.account = 'payable' THEN
                CASE p.side WHEN 'credit' THEN p.amount_minor ELSE -p.amount_minor END END), 0) AS BIGINT) AS payable,
            CAST(COALESCE(SUM(CASE WHEN p.account = 'in_transit' THEN
                CASE p.side WHEN 'credit' THEN p.amount_minor ELSE -p.amount_minor END END), 0) AS BIGINT)
                AS in_transit,
            CAST(COALESCE(SUM(CASE WHEN p.account = 'paid' THEN
                CASE p.side WHEN 'credit' THEN p.amount_minor ELSE -p.amount_minor END END), 0) AS BIGINT) AS paid
        FROM (SELECT i.id, i.revision, i.kind, i.commission_id, i.payout_id, i.causes, i.created_at_us,
                i.enrollment_id
            FROM enrollment e JOIN entry i ON i.enrollment_id = e.id
            WHERE e.organization_id = $1 AND e.id = $2 AND i.currency = $3
                AND i.created_at_us >= $4 AND i.created_at_us < $5
                AND ($6 IS NULL OR (i.created_at_us, i.revision, i.id) > ($6, $7, $8))
            ORDER BY i.created_at_us, i.revision, i.id LIMIT $9) AS n
            LEFT JOIN posting p ON p.entry_id = n.id AND p.owner_id = n.enrollment_id
        GROUP BY n.id, n.revision, n.kind, n.commission_id, n.payout_id, n.causes, n.created_at_us
        ORDER BY n.created_at_us, n.revision, n.id";
    conn.q(SQL)
        .bind(scope.as_str())
        .bind(enrollment.as_str())
        .bind(currency.as_str())
        .bind(window.from.as_micros())
        .bind(window.to.as_micros())
        .bind(after.map(|(at, _, _)| *at))
        .bind(after.map(|(_, revision, _)| *revision))
        .bind(after.map(|(_, _, id)| id.as_str()))
        .bind(limit)
        .all()
        .await
}

/// What stands behind an entry, in one word and perhaps a second.
#[derive(Clone, Debug, FromRow)]
pub struct CauseRow {
    /// The event or the decision.
    pub id: String,
    /// The provider's type of the event, or what was decided.
    pub what: String,
    /// Why it was decided.
    pub reason: Option<String>,
}

/// The types of events and the kinds of decisions by their ids. Neither bodies nor notes.
pub async fn list_causes(conn: &mut Conn, ids: &[String]) -> Result<Vec<CauseRow>, StoreError> {
    const SQL: &str = "SELECT i.id, i.event_type AS what, NULL AS reason FROM inbox i
            WHERE i.id IN (SELECT value->>'id' FROM json_each($1))
        UNION ALL
        SELECT d.id, d.kind, d.reason FROM decision d
            WHERE d.id IN (SELECT value->>'id' FROM json_each($1))";
    conn.q(SQL).bind(id_list(ids.iter().map(String::as_str))).all().await
}
