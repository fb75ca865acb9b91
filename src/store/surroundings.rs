//! What the fold knows of a sale's buyer from rows that are not the sale's own: touchpoints, other
//! payments, the addresses of the customer. Loaded for a whole batch in a fixed number of statements.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Conn, StoreError, Tx,
    sales::{corrupt, subject_rows},
    touchpoints::{self, Visitor},
};
use crate::domain::{
    attribution::{Carrier, OtherPayment, Surroundings, Touch},
    book::{Book, Folded, Sale},
    ids::SaleId,
    time::Timestamp,
};

/// The longest window a program can have, and a day for the rounding of times.
const WINDOW_MAX_S: i64 = 366 * 86_400;

/// Puts the surroundings of every sale that is to be folded into the book. Call it when all facts of the
/// batch are applied: they may name a buyer that nobody knew before.
///
/// Comes behind the locks of the sales, and locks the visitors so that no touchpoint of theirs is told
/// unseen (`store::touchpoints`).
pub async fn load(tx: &mut Tx, book: &mut Book) -> Result<(), StoreError> {
    let mut around: BTreeMap<SaleId, Surroundings> =
        book.dirty_sales().map(|sale| (sale.id.clone(), Surroundings::default())).collect();
    let visitors = touches_by_visitor(tx, book).await?;
    for sale in book.dirty_sales() {
        let Some(surroundings) = around.get_mut(&sale.id) else { continue };
        // Two ids of one visitor give the same touchpoints.
        let mut touches: BTreeMap<_, Touch> = BTreeMap::new();
        for id in book.visitors_of(sale) {
            let visitor = Visitor { project_id: sale.scope.project_id.clone(), id };
            let told = visitors.get(&visitor).into_iter().flatten();
            touches.extend(told.map(|touch| (touch.id.clone(), touch.clone())));
        }
        surroundings.touches = touches.into_values().collect();
    }
    load_other_payments(tx, book, &mut around).await?;
    load_customer_emails(tx, book, &mut around).await?;
    for (sale, surroundings) in around {
        book.surround(sale, surroundings);
    }
    Ok(())
}

/// The touchpoints behind each id that a sale of the batch names.
async fn touches_by_visitor(tx: &mut Tx, book: &Book) -> Result<BTreeMap<Visitor, Vec<Touch>>, StoreError> {
    let asked: BTreeSet<Visitor> = book
        .dirty_sales()
        .flat_map(|sale| {
            let project_id = sale.scope.project_id.clone();
            book.visitors_of(sale).into_iter().map(move |id| Visitor { project_id: project_id.clone(), id })
        })
        .collect();
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let seen = touchpoints::all_ids(tx, &asked).await?;
    let locked: BTreeSet<Visitor> = asked.iter().chain(seen.iter().map(|(id, _)| id)).cloned().collect();
    touchpoints::share_visitors(tx, &locked).await?;
    // Read again: an id that was linked while the locks were waited for counts.
    let ids = touchpoints::all_ids(tx, &asked).await?;
    let all: BTreeSet<Visitor> = asked.iter().chain(ids.iter().map(|(id, _)| id)).cloned().collect();
    let mut recorded: BTreeMap<Visitor, Vec<Touch>> = BTreeMap::new();
    for (visitor, touch) in touchpoints::of_visitors(tx, &all).await? {
        recorded.entry(visitor).or_default().push(touch);
    }
    let mut found: BTreeMap<Visitor, Vec<Touch>> = BTreeMap::new();
    for (visitor, asked) in &ids {
        if let Some(touches) = recorded.get(visitor) {
            let asked = Visitor { project_id: visitor.project_id.clone(), id: asked.clone() };
            found.entry(asked).or_default().extend(touches.iter().cloned());
        }
    }
    Ok(found)
}

/// A row for each subscription and customer of a sale, with the fields of `more`.
fn carrier_rows(sale: &Sale, more: &Value) -> Vec<Value> {
    let mut rows = subject_rows(&sale.carriers());
    for row in &mut rows {
        row["s"] = json!(sale.id);
        for (field, value) in more.as_object().into_iter().flatten() {
            row[field] = value.clone();
        }
    }
    rows
}

/// When the subscriptions and customers of the sales paid otherwise. Only for sales with touchpoints, and
/// only in the time in which those can have referred anything.
async fn load_other_payments(
    conn: &mut Conn,
    book: &Book,
    around: &mut BTreeMap<SaleId, Surroundings>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT k.value->>'s', 'subscription', s.paid_at_us
        FROM json_each($1) k JOIN payment p
            ON k.value->>'k' = 'subscription' AND p.project_id = k.value->>'p' AND p.realm = k.value->>'r'
            AND p.subscription = k.value->>'c'
            JOIN sale s ON s.id = p.sale_id
        WHERE s.id <> k.value->>'s' AND s.paid_at_us >= CAST(k.value->>'from' AS BIGINT)
            AND s.paid_at_us <= CAST(k.value->>'to' AS BIGINT)
        UNION
        SELECT k.value->>'s', 'customer', s.paid_at_us
        FROM json_each($1) k JOIN payment p
            ON k.value->>'k' = 'customer' AND p.project_id = k.value->>'p' AND p.realm = k.value->>'r'
            AND p.customer = k.value->>'c'
            JOIN sale s ON s.id = p.sale_id
        WHERE s.id <> k.value->>'s' AND s.paid_at_us >= CAST(k.value->>'from' AS BIGINT)
            AND s.paid_at_us <= CAST(k.value->>'to' AS BIGINT)";
    let mut rows = Vec::new();
    for sale in book.dirty_sales() {
        let touches = around.get(&sale.id).map(|around| around.touches.iter().map(|touch| touch.at));
        let (Some(first), Some(last)) =
            (touches.clone().and_then(Iterator::min), touches.and_then(Iterator::max))
        else {
            continue;
        };
        let range = json!({ "from": first.as_micros(), "to": last.plus_secs(WINDOW_MAX_S).as_micros() });
        rows.extend(carrier_rows(sale, &range));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let found: Vec<(String, String, i64)> = conn.q(SQL).bind(Value::from(rows).to_string()).all().await?;
    for (sale, carrier, paid_at_us) in found {
        let carrier = if carrier == "subscription" { Carrier::Subscription } else { Carrier::Customer };
        let payment = OtherPayment { paid_at: Timestamp::from_micros(paid_at_us), carrier };
        let id = SaleId::parse(&sale).map_err(|_| corrupt("sale", "id", &sale))?;
        if let Some(surroundings) = around.get_mut(&id) {
            surroundings.other_payments.push(payment);
        }
    }
    Ok(())
}

async fn load_customer_emails(
    conn: &mut Conn,
    book: &Book,
    around: &mut BTreeMap<SaleId, Surroundings>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT k.value->>'s', e.email FROM json_each($1) k JOIN customer_email e
        ON k.value->>'k' = 'customer' AND e.customer = k.value->>'c' AND e.realm = k.value->>'r'
            AND e.project_id = k.value->>'p'";
    let rows: Vec<Value> = book.dirty_sales().flat_map(|sale| carrier_rows(sale, &Value::Null)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let found: Vec<(String, String)> = conn.q(SQL).bind(Value::from(rows).to_string()).all().await?;
    for (sale, email) in found {
        let id = SaleId::parse(&sale).map_err(|_| corrupt("sale", "id", &sale))?;
        if let Some(surroundings) = around.get_mut(&id) {
            surroundings.customer_emails.insert(email);
        }
    }
    Ok(())
}

/// Writes down with which addresses the customers of folded sales bought. Where an address is new for a
/// customer and is an affiliate's, that affiliate's unpaid commissions of the customer's other sales are
/// requested to be folded again, so that they are flagged as if the address had been known before.
pub async fn save_customer_emails(
    tx: &mut Tx,
    book: &Book,
    folded: &[Folded],
    now: Timestamp,
) -> Result<(), StoreError> {
    const ADD: &str = "INSERT INTO customer_email (project_id, realm, customer, email)
        SELECT DISTINCT value->>'p', value->>'r', value->>'c', value->>'email' FROM json_each($1) WHERE TRUE
        ON CONFLICT (customer, realm, project_id, email) DO NOTHING
        RETURNING project_id, realm, customer, email";
    const REQUEST: &str = "INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT c.sale_id, 'time', 'customer_email_told', $2, $2
        FROM json_each($1) k
            JOIN payment p ON p.customer = k.value->>'c' AND p.realm = k.value->>'r'
                AND p.project_id = k.value->>'p'
            JOIN commission c ON c.sale_id = p.sale_id
            JOIN enrollment n ON n.id = c.enrollment_id
            JOIN organization_email o ON o.organization_id = n.organization_id AND o.email = k.value->>'email'
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us";
    let rows: Vec<Value> = folded
        .iter()
        .filter_map(|folded| book.sale(&folded.sale_id))
        .flat_map(|sale| {
            let emails = sale.facts.buyer_emails.iter();
            emails.flat_map(|email| carrier_rows(sale, &json!({ "email": email })))
        })
        .filter(|row| row["k"] == "customer")
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let new: Vec<(String, String, String, String)> =
        tx.q(ADD).bind(Value::from(rows).to_string()).all().await?;
    let new: Vec<Value> = new
        .into_iter()
        .map(|(project, realm, customer, email)| json!({ "p": project, "r": realm, "c": customer, "email": email }))
        .collect();
    if !new.is_empty() {
        tx.q(REQUEST).bind(Value::from(new).to_string()).bind(now.as_micros()).exec().await?;
    }
    Ok(())
}

/// Requests the later sales of the subscriptions and customers of these sales to be folded again: they
/// were referred by a touchpoint, which binds what was paid after them and may have become known before.
pub async fn request_bound(
    tx: &mut Tx,
    book: &Book,
    referred: &[(&SaleId, Timestamp)],
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO refold (sale_id, cause_kind, cause_id, requested_at_us, due_at_us)
        SELECT DISTINCT later.id, 'time', 'earlier_sale_referred', $2, $2
        FROM (
            SELECT s.id FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'subscription' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.subscription = k.value->>'c'
                JOIN sale s ON s.id = p.sale_id
            WHERE s.paid_at_us > CAST(k.value->>'at' AS BIGINT)
            UNION ALL
            SELECT s.id FROM json_each($1) k JOIN payment p
                ON k.value->>'k' = 'customer' AND p.project_id = k.value->>'p'
                AND p.realm = k.value->>'r' AND p.customer = k.value->>'c'
                JOIN sale s ON s.id = p.sale_id
            WHERE s.paid_at_us > CAST(k.value->>'at' AS BIGINT)) AS later
        WHERE TRUE
        ON CONFLICT (sale_id, cause_kind, cause_id) DO UPDATE SET due_at_us = excluded.due_at_us";
    let rows = referred
        .iter()
        .filter_map(|(sale, at)| Some((book.sale(sale)?, at)))
        .flat_map(|(sale, at)| carrier_rows(sale, &json!({ "at": at.as_micros() })))
        .collect::<Vec<_>>();
    if !rows.is_empty() {
        tx.q(SQL).bind(Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
    }
    Ok(())
}
