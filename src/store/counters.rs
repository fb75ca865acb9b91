//! What rules count beyond one sale (`rulings.md` 9): the locks, and the counts.
//!
//! A counter has no number of its own that could drift: its row is only there to be locked, before any
//! sale is, and the count is taken from the commissions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Conn, Sql, StoreError, Tx, row::At};
use crate::{
    domain::{
        book::{CounterKey, FirstPayment, Tallies, Tally},
        ids::EnrollmentId,
        money::Currency,
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
    let mut customers: BTreeSet<(&EnrollmentId, &str)> = BTreeSet::new();
    for key in keys {
        match key {
            CounterKey::Sales(enrollment, currency) => {
                let tally = sales(conn, enrollment.as_str(), currency.as_str()).await?;
                tallies.insert(key.clone(), tally);
            }
            CounterKey::Payments(enrollment, customer) => {
                customers.insert((enrollment, customer));
            }
        }
    }
    for (key, tally) in payments(conn, &customers).await? {
        tallies.insert(key, tally);
    }
    Ok(tallies)
}

/// What an affiliate brought in one currency.
pub async fn tally_of_sales(
    conn: &mut Conn,
    enrollment: &EnrollmentId,
    currency: Currency,
) -> Result<Tally, StoreError> {
    sales(conn, enrollment.as_str(), currency.as_str()).await
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

/// The payments of these customers, of all of them at once: a batch has a customer for nearly every sale.
/// Payments that a person turned down are not counted; refunded ones are.
async fn payments(
    conn: &mut Conn,
    customers: &BTreeSet<(&EnrollmentId, &str)>,
) -> Result<Vec<(CounterKey, Tally)>, StoreError> {
    /// Enrollment, customer, commission, when it was paid, terms and their version.
    type First = (String, String, String, i64, String, i64);
    // Served by the index `commission_of_customer`.
    const COUNT: &str = "SELECT c.enrollment_id, c.customer_key, COUNT(*), MAX(c.paid_at_us)
        FROM json_each($1) k JOIN commission c
            ON c.customer_key = k.value->>'c' AND c.enrollment_id = k.value->>'e'
        WHERE c.position IS NOT NULL AND c.state <> 'denied'
        GROUP BY c.enrollment_id, c.customer_key";
    const FIRST: &str = "SELECT enrollment_id, customer_key, id, paid_at_us, terms, terms_version
        FROM (SELECT c.enrollment_id, c.customer_key, c.id, c.paid_at_us, c.terms, c.terms_version,
                ROW_NUMBER() OVER (PARTITION BY c.enrollment_id, c.customer_key
                    ORDER BY c.paid_at_us, c.id) AS place
            FROM json_each($1) k JOIN commission c
                ON c.customer_key = k.value->>'c' AND c.enrollment_id = k.value->>'e'
            WHERE c.position IS NOT NULL AND c.state <> 'denied') AS placed
        WHERE place = 1";
    if customers.is_empty() {
        return Ok(Vec::new());
    }
    let keys = customers.iter().map(|(enrollment, customer)| json!({ "e": enrollment, "c": customer }));
    let rows = keys.collect::<Value>().to_string();
    let mut tallies: BTreeMap<(String, String), Tally> = BTreeMap::new();
    let counted: Vec<(String, String, i64, Option<i64>)> = conn.q(COUNT).bind(&*rows).all().await?;
    for (enrollment, customer, count, latest) in counted {
        let tally = Tally { count, latest_paid_at: latest.map(Timestamp::from_micros), ..Tally::default() };
        tallies.insert((enrollment, customer), tally);
    }
    let firsts: Vec<First> = conn.q(FIRST).bind(&*rows).all().await?;
    for (enrollment, customer, id, paid_at_us, terms, terms_version) in firsts {
        let terms = At { table: "commission", id: &id }.read("terms", &terms)?;
        let paid_at = Timestamp::from_micros(paid_at_us);
        let tally = tallies.entry((enrollment, customer)).or_default();
        tally.first = Some(FirstPayment { paid_at, terms, terms_version });
    }
    // Who has paid nothing yet has a tally, too: it was looked for.
    let found = customers.iter().map(|(enrollment, customer)| {
        let tally = tallies.remove(&(enrollment.to_string(), (*customer).to_owned())).unwrap_or_default();
        (CounterKey::Payments((*enrollment).clone(), (*customer).to_owned()), tally)
    });
    Ok(found.collect())
}
