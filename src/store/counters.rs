//! What rules count beyond one sale (`rulings.md` 9): the locks, and the counts.
//!
//! A counter is a row that is locked before any sale is. For the sales of an affiliate it holds what they
//! come to: whoever changes what one of them counts has locked it and keeps the sum, so that the next sale
//! costs the same whether there are ten before it or a million. `remit doctor` counts the commissions and
//! compares. The payments of a customer are few, and are counted each time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Conn, Sql, StoreError, Tx,
    row::At,
    sales::{scope, write_rows},
};
use crate::{
    domain::{
        book::{CounterKey, FirstPayment, SubjectKey, Tallies, Tally},
        fact::Subject,
        ids::{EnrollmentId, OrganizationId},
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
    let mut affiliates: BTreeSet<(&EnrollmentId, Currency)> = BTreeSet::new();
    let mut customers: BTreeSet<(&EnrollmentId, &str)> = BTreeSet::new();
    for key in keys {
        match key {
            CounterKey::Sales(enrollment, currency) => affiliates.insert((enrollment, *currency)),
            CounterKey::Payments(enrollment, customer) => customers.insert((enrollment, customer)),
        };
    }
    for (key, tally) in sales(conn, &affiliates).await? {
        tallies.insert(key, tally);
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
    let found = sales(conn, &BTreeSet::from([(enrollment, currency)])).await?;
    Ok(found.into_iter().next().map(|(_, tally)| tally).unwrap_or_default())
}

/// Keeps the sums as they stand after a batch. The counters are locked since before they were loaded.
pub async fn save(tx: &mut Tx, tallies: &Tallies) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE counter SET sales = k.sales, revenue_minor = k.revenue
        FROM (SELECT value->>'key' AS key, CAST(value->>'sales' AS BIGINT) AS sales,
                  CAST(value->>'revenue' AS BIGINT) AS revenue FROM json_each($1)) AS k
        WHERE counter.key = k.key";
    let rows = tallies
        .of_sales()
        .map(|(key, tally)| json!({ "key": text(key), "sales": tally.count, "revenue": tally.revenue }))
        .collect();
    write_rows(tx, SQL, rows).await
}

/// What these affiliates brought, each in one currency: the sums that are kept. The latest sale is the end
/// of the index `commission_counted`.
async fn sales(
    conn: &mut Conn,
    affiliates: &BTreeSet<(&EnrollmentId, Currency)>,
) -> Result<Vec<(CounterKey, Tally)>, StoreError> {
    /// Key, sales, revenue, and when the latest was paid.
    type Kept = (String, Option<i64>, Option<i64>, Option<i64>);
    const KEPT: &str = "SELECT k.value->>'key', c.sales, c.revenue_minor,
            (SELECT m.paid_at_us FROM commission m WHERE m.enrollment_id = k.value->>'e'
                AND m.counted_currency = k.value->>'c' AND m.counted_minor IS NOT NULL
             ORDER BY m.paid_at_us DESC LIMIT 1)
        FROM json_each($1) k LEFT JOIN counter c ON c.key = k.value->>'key'";
    // Once in the life of a counter: of those that nobody has summed yet.
    const COUNT: &str = "SELECT k.value->>'key', COUNT(*), CAST(SUM(m.counted_minor) AS BIGINT)
        FROM json_each($1) k JOIN commission m
            ON m.enrollment_id = k.value->>'e' AND m.counted_currency = k.value->>'c'
        WHERE m.counted_minor IS NOT NULL GROUP BY k.value->>'key'";
    if affiliates.is_empty() {
        return Ok(Vec::new());
    }
    let keys: BTreeMap<String, CounterKey> = affiliates
        .iter()
        .map(|(enrollment, currency)| CounterKey::Sales((*enrollment).clone(), *currency))
        .map(|key| (text(&key), key))
        .collect();
    let row = |(enrollment, currency): &(&EnrollmentId, Currency)| {
        let key = CounterKey::Sales((*enrollment).clone(), *currency);
        json!({ "key": text(&key), "e": enrollment, "c": currency })
    };
    let rows: Vec<Value> = affiliates.iter().map(row).collect();
    let kept: Vec<Kept> = conn.q(KEPT).bind(Value::from(rows.clone()).to_string()).all().await?;
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut unknown: BTreeSet<String> = BTreeSet::new();
    for (key, count, revenue, latest) in kept {
        if count.is_none() && latest.is_some() {
            unknown.insert(key.clone());
        }
        let (count, revenue) = (count.unwrap_or(0), revenue.unwrap_or(0));
        let latest_paid_at = latest.map(Timestamp::from_micros);
        tallies.insert(key, Tally { count, revenue, latest_paid_at, first: None });
    }
    if !unknown.is_empty() {
        let is_unknown = |row: &Value| row["key"].as_str().is_some_and(|key| unknown.contains(key));
        let rows: Vec<Value> = rows.into_iter().filter(is_unknown).collect();
        let counted: Vec<(String, i64, i64)> =
            conn.q(COUNT).bind(Value::from(rows).to_string()).all().await?;
        for (key, count, revenue) in counted {
            let tally = tallies.entry(key).or_default();
            (tally.count, tally.revenue) = (count, revenue);
        }
    }
    Ok(keys.into_iter().map(|(text, key)| (key, tallies.remove(&text).unwrap_or_default())).collect())
}

/// What a customer of the owner has paid to the credit of the affiliate, by every customer of that id: each
/// project and each provider has its own. None who has paid nothing is among them.
pub async fn tallies_of_customer(
    conn: &mut Conn,
    owner: &OrganizationId,
    enrollment: &EnrollmentId,
    customer: &str,
) -> Result<Vec<Tally>, StoreError> {
    const SQL: &str = "SELECT c.project_id, c.realm FROM carrier c JOIN project p ON p.id = c.project_id
        WHERE c.carrier_id = $1 AND c.kind = 'customer' AND p.organization_id = $2";
    let found: Vec<(String, String)> = conn.q(SQL).bind(customer).bind(owner.as_str()).all().await?;
    let mut keys = Vec::new();
    for (project, realm) in found {
        let subject = Subject::Customer(customer.to_owned());
        keys.extend(SubjectKey { scope: scope(&project, realm)?, subject }.customer_key());
    }
    let customers = keys.iter().map(|key| (enrollment, key.as_str())).collect();
    let tallies = payments(conn, &customers).await?.into_iter().map(|(_, tally)| tally);
    Ok(tallies.filter(|tally| tally.count > 0).collect())
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
