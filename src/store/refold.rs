//! Sales to be folded again: the queue of work that reaches more sales than one transaction should.
//!
//! Rows are made by whoever learns of a reason and taken by `app::refold`. A request is set-based, so
//! that asking for a hundred thousand sales costs one statement. What folding does is not known here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::FromRow;

use super::{
    Conn, Sql, StoreError, Tx,
    sales::{corrupt, id_list, subject_rows, write_rows},
    touchpoints,
};
use crate::{
    domain::{
        book::SubjectKey,
        ids::{EnrollmentId, ProgramId, SaleId},
        ledger::Cause,
        time::Timestamp,
    },
    for_update_skip_locked,
};

/// A sale that is to be folded again, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refold {
    /// The sale.
    pub sale_id: SaleId,
    /// What makes it necessary.
    pub cause: Cause,
    /// Since when it waits.
    pub requested_at: Timestamp,
}

/// Subscriptions and customers of which something new was told, and by what.
pub type Reaching = BTreeMap<SubjectKey, BTreeSet<Cause>>;

/// How many sales these subscriptions and customers have.
pub async fn count_carried(conn: &mut Conn, reaching: &Reaching) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM (
            SELECT p.sale_id FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'subscription' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.subscription = k.value->>'c'
            UNION
            SELECT p.sale_id FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'customer' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.customer = k.value->>'c') AS carried";
    if reaching.is_empty() {
        return Ok(0);
    }
    let carriers = Value::from(subject_rows(reaching.keys())).to_string();
    Ok(conn.q(SQL).bind(carriers).scalar().await?.unwrap_or_default())
}

/// Requests all sales of these subscriptions and customers. The caller holds the carriers locked
/// (`sales::lock_carriers`), so no sale of theirs can appear unseen.
pub async fn request_carried(tx: &mut Tx, reaching: &Reaching, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT carried.sale_id, carried.cause_kind, carried.cause_id, $2, $2
        FROM (
            SELECT p.sale_id, k.value->>'cause_kind' AS cause_kind, k.value->>'cause_id' AS cause_id
            FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'subscription' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.subscription = k.value->>'c'
            UNION ALL
            SELECT p.sale_id, k.value->>'cause_kind', k.value->>'cause_id'
            FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'customer' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.customer = k.value->>'c') AS carried
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us";
    let mut rows = Vec::new();
    for (carrier, causes) in reaching {
        for cause in causes {
            let (kind, id) = cause.parts();
            for mut row in subject_rows([carrier]) {
                row["cause_kind"] = kind.into();
                row["cause_id"] = id.into();
                rows.push(row);
            }
        }
    }
    if !rows.is_empty() {
        tx.q(SQL).bind(Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
    }
    Ok(())
}

/// Requests all sales for which a code of this enrollment was told, and those of visitors who came through
/// its links. The caller holds the directory
/// locked (`programs::lock_directory`), so no such sale can appear unseen.
pub async fn request_enrollment(
    tx: &mut Tx,
    id: &EnrollmentId,
    rule: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    request_told(tx, id.as_str(), rule, now).await?;
    touchpoints::request_clicked(tx, id.as_str(), rule, now).await
}

/// The same for all enrollments of a program.
pub async fn request_program(
    tx: &mut Tx,
    id: &ProgramId,
    rule: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    request_told(tx, id.as_str(), rule, now).await?;
    touchpoints::request_clicked(tx, id.as_str(), rule, now).await
}

/// `SELECT` of `$columns` for each sale (`found.sale_id`) that the rows of `told` (`t`: `project_id`, `realm`,
/// `subject_kind`, `subject_id`) tell of: the sale itself, or those of a subscription or a customer. Served by
/// the keys of `sale_alias`, `payment_by_subscription` and `payment_by_customer`.
macro_rules! sales_of_told {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM told t JOIN sale_alias found
                ON found.project_id = t.project_id AND found.realm = t.realm AND found.kind = t.subject_kind
                AND found.object_id = t.subject_id
            UNION ALL
            SELECT ",
            $columns,
            " FROM told t JOIN payment found
                ON t.subject_kind = 'subscription' AND found.project_id = t.project_id
                AND found.realm = t.realm AND found.subscription = t.subject_id
            UNION ALL
            SELECT ",
            $columns,
            " FROM told t JOIN payment found
                ON t.subject_kind = 'customer' AND found.project_id = t.project_id
                AND found.realm = t.realm AND found.customer = t.subject_id"
        )
    };
}
pub(super) use sales_of_told;

/// `of` is an enrollment or a program; their ids cannot be mistaken for each other.
async fn request_told(tx: &mut Tx, of: &str, rule: &str, now: Timestamp) -> Result<(), StoreError> {
    // Served by `attribution_hint_by_code`, then by the keys of what the codes were told for.
    const SQL: &str = concat!(
        "WITH told AS (
            SELECT h.project_id, h.realm, h.subject_kind, h.subject_id
            FROM code c
            JOIN project o ON o.organization_id = c.organization_id
            JOIN attribution_hint h ON h.project_id = o.id AND LOWER(h.code) = c.code_normalised
            WHERE c.enrollment_id IN (SELECT id FROM enrollment WHERE id = $1 OR program_id = $1))
        INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT concerned.sale_id, 'time', $2, $3, $3
        FROM (",
        sales_of_told!("found.sale_id"),
        ") AS concerned
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us"
    );
    tx.q(SQL).bind(of).bind(rule).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Requests single sales.
pub async fn request(tx: &mut Tx, refolds: &[Refold]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT value->>'s', value->>'k', value->>'c', CAST(value->>'at' AS BIGINT),
            CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO NOTHING";
    write_rows(tx, SQL, rows(refolds)).await
}

fn rows(refolds: &[Refold]) -> Vec<Value> {
    refolds
        .iter()
        .map(|refold| {
            let (kind, id) = refold.cause.parts();
            json!({ "s": refold.sale_id, "k": kind, "c": id, "at": refold.requested_at.as_micros() })
        })
        .collect()
}

/// Whether any sale is due to be folded again. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp) -> Result<bool, StoreError> {
    // Served by `refold_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM refold WHERE due_at_us <= $1)";
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(is_due == Some(true))
}

/// Takes the sales that are due longest, at most `sales_max` of them, and locks them until the
/// transaction ends; sales that another node works on are passed over. Gives every due request of them.
///
/// The requests themselves stay unlocked: who holds a directory locked may renew one at any time.
pub async fn claim_due(tx: &mut Tx, now: Timestamp, sales_max: i64) -> Result<Vec<Refold>, StoreError> {
    // Served by `refold_due`.
    const SQL: Sql = Sql {
        sqlite: "SELECT s.id FROM refold r JOIN sale s ON s.id = r.sale_id
            WHERE r.due_at_us <= $1 ORDER BY r.due_at_us, r.sale_id LIMIT $2",
        postgres: "SELECT s.id FROM refold r JOIN sale s ON s.id = r.sale_id
            WHERE r.due_at_us <= $1 ORDER BY r.due_at_us, r.sale_id LIMIT $2 FOR UPDATE OF s SKIP LOCKED",
    };
    let sales: Vec<String> = tx.q(SQL).bind(now.as_micros()).bind(sales_max).scalars().await?;
    list_due(tx, &sales, now).await
}

/// Takes one sale, as [`claim_due`] does. Gives nothing when another node works on it or has done so.
pub async fn claim_sale(tx: &mut Tx, sale: &SaleId, now: Timestamp) -> Result<Vec<Refold>, StoreError> {
    const SQL: Sql = for_update_skip_locked!("SELECT id FROM sale WHERE id = $1");
    let sales: Vec<String> = tx.q(SQL).bind(sale.as_str()).scalars().await?;
    list_due(tx, &sales, now).await
}

/// Read after the sales are locked, so that what another node has done meanwhile is not done again.
async fn list_due(tx: &mut Tx, sales: &[String], now: Timestamp) -> Result<Vec<Refold>, StoreError> {
    const SQL: &str = "SELECT sale_id, cause_kind, cause_id, requested_at_us FROM refold
        WHERE sale_id IN (SELECT value->>'id' FROM json_each($1)) AND due_at_us <= $2
        ORDER BY sale_id, cause_kind, cause_id";
    #[derive(FromRow)]
    struct Row {
        sale_id: String,
        cause_kind: String,
        cause_id: String,
        requested_at_us: i64,
    }
    if sales.is_empty() {
        return Ok(Vec::new());
    }
    let list = id_list(sales.iter().map(String::as_str));
    let rows: Vec<Row> = tx.q(SQL).bind(list).bind(now.as_micros()).all().await?;
    rows.into_iter()
        .map(|row| {
            let bad = |column| corrupt("refold", column, &row.sale_id);
            Ok(Refold {
                sale_id: SaleId::parse(&row.sale_id).map_err(|_| bad("sale_id"))?,
                cause: Cause::from_parts(&row.cause_kind, row.cause_id.clone())
                    .ok_or_else(|| bad("cause_kind"))?,
                requested_at: Timestamp::from_micros(row.requested_at_us),
            })
        })
        .collect()
}

/// Removes requests that were answered.
pub async fn delete(tx: &mut Tx, refolds: &[Refold]) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM refold WHERE (sale_id, cause_kind, cause_id) IN
        (SELECT value->>'s', value->>'k', value->>'c' FROM json_each($1))";
    write_rows(tx, SQL, rows(refolds)).await
}

/// Lets the due requests of a sale that cannot be folded wait until `until`.
pub async fn postpone(
    tx: &mut Tx,
    sale: &SaleId,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE refold SET due_at_us = $3 WHERE sale_id = $1 AND due_at_us <= $2";
    tx.q(SQL).bind(sale.as_str()).bind(now.as_micros()).bind(until.as_micros()).exec().await?;
    Ok(())
}

/// Since when the oldest request waits, microseconds.
pub async fn oldest(conn: &mut Conn) -> Result<Option<i64>, StoreError> {
    const SQL: &str = "SELECT MIN(requested_at_us) FROM refold";
    let oldest: Option<Option<i64>> = conn.q(SQL).scalar().await?;
    Ok(oldest.flatten())
}
