//! That what is kept for rules which count others is what a count gives.

use super::Proof;

/// Rules of counters.
pub const PROOFS: &[Proof] = &[Proof {
    invariant: "counter_is_sum_of_sales",
    left: "what the counter keeps",
    right: "what the commissions that count come to",
    sql: "WITH counted AS (
            SELECT 'sales/' || enrollment_id || '/' || counted_currency AS key, COUNT(*) AS sales,
                SUM(counted_minor) AS revenue
            FROM commission WHERE counted_minor IS NOT NULL GROUP BY enrollment_id, counted_currency),
        compared AS (
            SELECT c.key || ' sales' AS object, c.sales AS kept, COALESCE(t.sales, 0) AS found
            FROM counter c LEFT JOIN counted t ON t.key = c.key WHERE c.sales IS NOT NULL
            UNION ALL
            SELECT c.key || ' revenue', c.revenue_minor, COALESCE(t.revenue, 0)
            FROM counter c LEFT JOIN counted t ON t.key = c.key WHERE c.sales IS NOT NULL)
        SELECT object, kept AS left_minor, CAST(found AS BIGINT) AS right_minor
        FROM compared WHERE kept <> found ORDER BY object LIMIT $1",
}];
