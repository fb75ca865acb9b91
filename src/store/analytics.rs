//! What a program's days came to, and who brought how much of it. Reading only; rates and sums over several
//! days are `app::analytics`.
//!
//! Sales are counted on the day they were paid, by the provider's time; money on the day its entry was
//! posted, and from the postings themselves, so that figures and ledger cannot differ; clicks on the day
//! they were recorded. Currencies are never added to each other.

use sqlx::FromRow;

use super::{Conn, StoreError};
use crate::domain::{ids::ProgramId, money::Currency, program::words, window::Days};

/// Clicks of one day.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct ClickRow {
    /// Days since the Unix epoch.
    pub day: i64,
    /// How many.
    pub clicks: i64,
}

/// Sales of one day and currency whose direct commissions are in one state.
#[derive(Clone, Debug, FromRow)]
pub struct SalesRow {
    /// Days since the Unix epoch.
    pub day: i64,
    /// Currency of the amounts: the buyer's.
    pub currency: String,
    /// The state of their direct commissions.
    pub state: String,
    /// How many.
    pub conversions: i64,
    /// What buyers paid, tax included, minor units.
    pub gross: i64,
    /// What was refunded of it, at most all of it, minor units.
    pub refunded: i64,
    /// What disputes took of the rest, minor units.
    pub disputed: i64,
}

/// What was posted on one day in one currency.
#[derive(Clone, Debug, FromRow)]
pub struct MoneyRow {
    /// Days since the Unix epoch.
    pub day: i64,
    /// Currency of the amounts.
    pub currency: String,
    /// Accrued less corrected, minor units.
    pub earned: i64,
    /// Taken back less given again, minor units.
    pub clawed: i64,
}

/// Clicks on the links of a program's affiliates, by day.
pub async fn clicks(conn: &mut Conn, program: &ProgramId, days: Days) -> Result<Vec<ClickRow>, StoreError> {
    const SQL: &str = "SELECT day, CAST(SUM(clicks) AS BIGINT) AS clicks FROM click_day
        WHERE program_id = $1 AND day >= $2 AND day < $3 GROUP BY day ORDER BY day";
    conn.q(SQL).bind(program.as_str()).bind(days.first).bind(days.end).all().await
}

/// A program's attributed sales, by day of payment. Those that were merged or attributed away are history.
pub async fn sales(conn: &mut Conn, program: &ProgramId, days: Days) -> Result<Vec<SalesRow>, StoreError> {
    // Served by `commission_by_payment`.
    const SQL: &str = "SELECT day, currency, state, COUNT(*) AS conversions,
            CAST(SUM(amount) AS BIGINT) AS gross, CAST(SUM(refunded) AS BIGINT) AS refunded,
            CAST(SUM(CASE WHEN disputed > amount - refunded THEN amount - refunded ELSE disputed END) AS BIGINT)
                AS disputed
        FROM (SELECT c.paid_at_us / 86400000000 AS day, COALESCE(s.currency, c.currency) AS currency, c.state,
                COALESCE(s.amount_minor, 0) AS amount, s.disputed_minor AS disputed,
                CASE WHEN s.refunded_minor > COALESCE(s.amount_minor, 0) THEN COALESCE(s.amount_minor, 0)
                    ELSE s.refunded_minor END AS refunded
            FROM commission c JOIN sale s ON s.id = c.sale_id
            WHERE c.program_id = $1 AND c.paid_at_us >= $2 AND c.paid_at_us < $3 AND c.level = 0
                AND (c.reason IS NULL OR c.reason NOT IN ('merged', 'reattributed'))) AS sold
        GROUP BY day, currency, state ORDER BY day, currency, state";
    let window = days.window();
    conn.q(SQL).bind(program.as_str()).bind(window.from.as_micros()).bind(window.to.as_micros()).all().await
}

/// What a program's commissions cost, sponsors' included, by day of posting.
pub async fn money(conn: &mut Conn, program: &ProgramId, days: Days) -> Result<Vec<MoneyRow>, StoreError> {
    // Served by `enrollment_by_program` and `entry_by_enrollment`.
    const SQL: &str = "SELECT day, currency,
            CAST(SUM(CASE WHEN kind IN ('clawback', 'reinstatement') THEN 0 ELSE cost END) AS BIGINT) AS earned,
            CAST(SUM(CASE WHEN kind IN ('clawback', 'reinstatement') THEN -cost ELSE 0 END) AS BIGINT) AS clawed
        FROM (SELECT n.created_at_us / 86400000000 AS day, n.currency, n.kind,
                CASE p.side WHEN 'debit' THEN p.amount_minor ELSE -p.amount_minor END AS cost
            FROM enrollment e JOIN entry n ON n.enrollment_id = e.id
                JOIN posting p ON p.entry_id = n.id AND p.account = 'expense'
            WHERE e.program_id = $1 AND n.created_at_us >= $2 AND n.created_at_us < $3) AS posted
        GROUP BY day, currency ORDER BY day, currency";
    let window = days.window();
    conn.q(SQL).bind(program.as_str()).bind(window.from.as_micros()).bind(window.to.as_micros()).all().await
}

words! {
    /// What affiliates are ranked by.
    Rank {
        /// What they earned, before anything was taken back.
        Earned = "earned",
        /// What they earned less what was taken back.
        Net = "net",
        /// The sales they brought.
        Conversions = "conversions",
        /// The clicks on their links.
        Clicks = "clicks",
    }
}

/// An affiliate's figures in a program.
#[derive(Clone, Debug, FromRow)]
pub struct LeaderRow {
    /// The enrollment.
    pub enrollment_id: String,
    /// The affiliate.
    pub organization_id: String,
    /// Its name.
    pub name: String,
    /// Clicks on its links.
    pub clicks: i64,
    /// Sales it brought, without those that were rejected.
    pub conversions: i64,
    /// Accrued in the asked currency, minor units; 0 without one.
    pub earned: i64,
    /// Taken back in the asked currency, minor units; 0 without one.
    pub clawed: i64,
}

/// The affiliates of a program with the greatest figures, in that order, at most `limit`; equal ones in
/// order of their ids. Who has nothing of what is ranked by is left out.
pub async fn leaders(
    conn: &mut Conn,
    program: &ProgramId,
    days: Days,
    by: Rank,
    currency: Option<Currency>,
    limit: i64,
) -> Result<Vec<LeaderRow>, StoreError> {
    const SQL: &str = "SELECT enrollment_id, organization_id, name, clicks, conversions, earned, clawed
        FROM (SELECT e.id AS enrollment_id, e.organization_id, o.name, COALESCE(k.clicks, 0) AS clicks,
                COALESCE(v.conversions, 0) AS conversions, COALESCE(m.earned, 0) AS earned,
                COALESCE(m.clawed, 0) AS clawed,
                CASE $6 WHEN 'clicks' THEN COALESCE(k.clicks, 0)
                    WHEN 'conversions' THEN COALESCE(v.conversions, 0)
                    WHEN 'net' THEN COALESCE(m.earned, 0) - COALESCE(m.clawed, 0)
                    ELSE COALESCE(m.earned, 0) END AS figure
            FROM enrollment e JOIN organization o ON o.id = e.organization_id
                LEFT JOIN (SELECT enrollment_id, CAST(SUM(clicks) AS BIGINT) AS clicks FROM click_day
                    WHERE program_id = $1 AND day >= $2 AND day < $3 GROUP BY enrollment_id) k
                    ON k.enrollment_id = e.id
                LEFT JOIN (SELECT enrollment_id, COUNT(*) AS conversions FROM commission
                    WHERE program_id = $1 AND paid_at_us >= $4 AND paid_at_us < $5 AND level = 0
                        AND state <> 'denied' AND (reason IS NULL OR reason NOT IN ('merged', 'reattributed'))
                    GROUP BY enrollment_id) v ON v.enrollment_id = e.id
                LEFT JOIN (SELECT n.enrollment_id,
                        CAST(SUM(CASE WHEN n.kind IN ('clawback', 'reinstatement') THEN 0
                            WHEN p.side = 'debit' THEN p.amount_minor ELSE -p.amount_minor END) AS BIGINT)
                            AS earned,
                        CAST(SUM(CASE WHEN n.kind NOT IN ('clawback', 'reinstatement') THEN 0
                            WHEN p.side = 'credit' THEN p.amount_minor ELSE -p.amount_minor END) AS BIGINT)
                            AS clawed
                    FROM enrollment i JOIN entry n ON n.enrollment_id = i.id
                        JOIN posting p ON p.entry_id = n.id AND p.account = 'expense'
                    WHERE i.program_id = $1 AND n.created_at_us >= $4 AND n.created_at_us < $5
                        AND n.currency = $7
                    GROUP BY n.enrollment_id) m ON m.enrollment_id = e.id
            WHERE e.program_id = $1) AS ranked
        WHERE figure <> 0 ORDER BY figure DESC, enrollment_id LIMIT $8";
    let window = days.window();
    conn.q(SQL)
        .bind(program.as_str())
        .bind(days.first)
        .bind(days.end)
        .bind(window.from.as_micros())
        .bind(window.to.as_micros())
        .bind(by.as_str())
        .bind(currency.as_ref().map(Currency::as_str))
        .bind(limit)
        .all()
        .await
}
