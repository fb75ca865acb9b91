//! What rules count beyond one sale (`rulings.md` 9): the locks, and the counts.
//!
//! A counter has no number of its own that could drift: its row is only there to be locked, before any
//! sale is, and the count is taken from the commissions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Conn, Sql, StoreError, Tx, row::At};
use crate::{
    domain::{
        book::{CounterKey, FirstPayment, Tallies, Tally},
        time::Timestamp,
    },
    for_update,
};

fn text(key: &CounterKey) -> String {
    match key {
        CounterKey::Sales(enrollment, currency) => {
            ["sales", enrollment.as_str(), currency.as_str()].join("/")
        }
        CounterKey::Payments(enrollment, customer) => ["payments", enrollment.as_str(), customer].join("/"),
    }
}

/// Locks the counters until the transaction ends, in order. Call it before anything else is locked.
pub async fn lock(tx: &mut Tx, keys: &BTreeSet<CounterKey>) -> Result<(), StoreError> {
    const ADD: &str = "INSERT INTO counter (key) SELECT value->>'key' FROM json_each($1) WHERE TRUE
        ON CONFLICT (key) DO NOTHING";
    const LOCK: Sql = for_update!(
        "SELECT c.key FROM counter c JOIN json_each($1) k ON c.key = k.value->>'key' ORDER BY c.key"
    );
    if keys.is_empty() {
        return Ok(());
    }
    let mut texts: Vec<String> = keys.iter().map(text).collect();
    texts.sort();
    let rows = texts.iter().map(|key| json!({ "key": key })).collect::<Value>().to_string();
    tx.q(ADD).bind(&*rows).exec().await?;
    tx.q(LOCK).bind(&*rows).scalars::<String>().await?;
    Ok(())
}

/// What is counted under each key. Call it after the counters and the sales are locked.
pub async fn load(conn: &mut Conn, keys: &BTreeSet<CounterKey>) -> Result<Tallies, StoreError> {
    let mut tallies = Tallies::default();
    for key in keys {
        tallies.insert(key.clone(), tally(conn, key).await?);
    }
    Ok(tallies)
}

/// What is counted under one key.
pub async fn tally(conn: &mut Conn, key: &CounterKey) -> Result<Tally, StoreError> {
    match key {
        CounterKey::Sales(enrollment, currency) => sales(conn, enrollment.as_str(), currency.as_str()).await,
        CounterKey::Payments(enrollment, customer) => payments(conn, enrollment.as_str(), customer).await,
    }
}

/// Served by the index `commission_counted` alone.
async fn sales(conn: &mut Conn, enrollment: &str, currency: &str) -> Result<Tally, StoreError> {
    const SQL: &str = "SELECT COUNT(counted_minor), CAST(COALESCE(SUM(counted_minor), 0) AS BIGINT),
            MAX(paid_at_us)
        FROM commission
        WHERE enrollment_id = $1 AND counted_currency = $2 AND counted_minor IS NOT NULL";
    let row: Option<(i64, i64, Option<i64>)> = conn.q(SQL).bind(enrollment).bind(currency).one().await?;
    let (count, revenue, latest) = row.unwrap_or_default();
    Ok(Tally { count, revenue, latest_paid_at: latest.map(Timestamp::from_micros), first: None })
}

/// Payments that a person turned down are not counted; refunded ones are.
async fn payments(conn: &mut Conn, enrollment: &str, customer: &str) -> Result<Tally, StoreError> {
    const COUNT: &str = "SELECT COUNT(*), MAX(paid_at_us) FROM commission
        WHERE customer_key = $1 AND enrollment_id = $2 AND position IS NOT NULL AND state <> 'denied'";
    const FIRST: &str = "SELECT id, paid_at_us, terms, terms_version FROM commission
        WHERE customer_key = $1 AND enrollment_id = $2 AND position IS NOT NULL AND state <> 'denied'
        ORDER BY paid_at_us, id LIMIT 1";
    let row: Option<(i64, Option<i64>)> = conn.q(COUNT).bind(customer).bind(enrollment).one().await?;
    let (count, latest) = row.unwrap_or_default();
    let first: Option<(String, i64, String, i64)> =
        conn.q(FIRST).bind(customer).bind(enrollment).one().await?;
    let first = first.map(|(id, paid_at_us, terms, terms_version)| {
        let terms = At { table: "commission", id: &id }.read("terms", &terms)?;
        Ok::<_, StoreError>(FirstPayment {
            paid_at: Timestamp::from_micros(paid_at_us),
            terms,
            terms_version,
        })
    });
    Ok(Tally {
        count,
        revenue: 0,
        latest_paid_at: latest.map(Timestamp::from_micros),
        first: first.transpose()?,
    })
}
