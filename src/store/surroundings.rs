//! What the fold knows of a sale's buyer from rows that are not the sale's own: touchpoints, other
//! payments, the addresses of the customer. Loaded for a whole batch in a fixed number of statements.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Conn, StoreError, Tx,
    sales::{corrupt, id_list, subject_rows},
    touchpoints::{self, Span, Visitor},
};
use crate::domain::{
    attribution::{Carrier, OtherPayment, Surroundings, Touch},
    book::{Book, Folded, Sale},
    ids::{OrganizationId, SaleId},
    time::Timestamp,
};

/// Puts the surroundings of every sale that is to be folded into the book. Call it when all facts of the
/// batch are applied: they may name a buyer that nobody knew before.
///
/// Comes behind the locks of the sales, and locks the visitors so that no touchpoint of theirs is told
/// unseen (`store::touchpoints`).
pub async fn load(tx: &mut Tx, book: &mut Book) -> Result<(), StoreError> {
    let mut around: BTreeMap<SaleId, Surroundings> =
        book.dirty_sales().map(|sale| (sale.id.clone(), Surroundings::default())).collect();
    let buyers = clicking_buyers(tx, book).await?;
    load_other_payments(tx, book, &buyers, &mut around).await?;
    load_touches(tx, book, &buyers, &mut around).await?;
    load_customer_emails(tx, book, &mut around).await?;
    for (sale, surroundings) in around {
        book.surround(sale, surroundings);
    }
    Ok(())
}

/// What is known of the buyer of a sale who has clicked before it.
struct Buyer {
    /// The ids under which they clicked.
    ids: BTreeSet<Visitor>,
    /// When the sale was paid.
    paid_at: Timestamp,
    /// From the first click to the last, before the sale or after.
    clicks: Span,
    /// The longest window of the owner's programs.
    window: Window,
}

/// Days of 86 400 s before a payment in which a touchpoint can count.
#[derive(Clone, Copy, Default)]
struct Window {
    days: i64,
}

impl Window {
    fn before(self, paid_at: Timestamp) -> Span {
        Span { from: paid_at.plus_days(self.days.saturating_neg()), to: paid_at }
    }
}

/// The buyers of the batch's sales who have clicked before they paid, by the sale.
async fn clicking_buyers(tx: &mut Tx, book: &Book) -> Result<BTreeMap<SaleId, Buyer>, StoreError> {
    let visitors_of = |sale: &Sale| -> Vec<Visitor> {
        let project_id = &sale.scope.project_id;
        let ids = book.visitors_of(sale).into_iter();
        ids.map(|id| Visitor { project_id: project_id.clone(), id }).collect()
    };
    let asked: BTreeSet<Visitor> = book.dirty_sales().flat_map(visitors_of).collect();
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let seen = touchpoints::stars(tx, &asked).await?;
    touchpoints::share_visitors(tx, &seen.into_values().flatten().collect()).await?;
    // Read again: an id that was linked while the locks were waited for counts.
    let stars = touchpoints::stars(tx, &asked).await?;
    let spans = touchpoints::spans_of(tx, &stars.values().flatten().cloned().collect()).await?;
    if spans.is_empty() {
        return Ok(BTreeMap::new());
    }
    let windows = longest_windows(tx, book).await?;
    let mut buyers = BTreeMap::new();
    for sale in book.dirty_sales() {
        let Some(paid_at) = sale.paid_at() else { continue };
        let all = visitors_of(sale);
        let clicked: BTreeMap<&Visitor, &Span> = all
            .iter()
            .flat_map(|visitor| stars.get(visitor).into_iter().flatten())
            .filter_map(|id| spans.get_key_value(id))
            .collect();
        let from = clicked.values().map(|span| span.from).min();
        let to = clicked.values().map(|span| span.to).max();
        let (Some(from), Some(to)) = (from.filter(|from| *from <= paid_at), to) else { continue };
        let ids = clicked.into_keys().cloned().collect();
        let window = windows.get(&sale.owner).copied().unwrap_or_default();
        buyers.insert(sale.id.clone(), Buyer { ids, paid_at, clicks: Span { from, to }, window });
    }
    Ok(buyers)
}

/// The longest window that any program of the sales' owners ever had.
async fn longest_windows(
    conn: &mut Conn,
    book: &Book,
) -> Result<BTreeMap<OrganizationId, Window>, StoreError> {
    // Served by `program_by_organization`.
    const SQL: &str = "SELECT g.organization_id, g.attribution_window_days FROM json_each($1) k
            JOIN program g ON g.organization_id = k.value->>'id'
        UNION
        SELECT g.organization_id, r.attribution_window_days FROM json_each($1) k
            JOIN program g ON g.organization_id = k.value->>'id'
            JOIN program_touch_rule r ON r.program_id = g.id";
    let owners: BTreeSet<&str> = book.dirty_sales().map(|sale| sale.owner.as_str()).collect();
    let found: Vec<(String, i64)> = conn.q(SQL).bind(id_list(owners)).all().await?;
    let mut windows: BTreeMap<OrganizationId, Window> = BTreeMap::new();
    for (owner, days) in found {
        let owner =
            OrganizationId::parse(&owner).map_err(|_| corrupt("program", "organization_id", &owner))?;
        let window = windows.entry(owner).or_default();
        window.days = window.days.max(days);
    }
    Ok(windows)
}

/// The touchpoints that can have referred a sale, or an earlier payment that binds it: those in the windows
/// before them, however many there are beside.
async fn load_touches(
    conn: &mut Conn,
    book: &Book,
    buyers: &BTreeMap<SaleId, Buyer>,
    around: &mut BTreeMap<SaleId, Surroundings>,
) -> Result<(), StoreError> {
    let mut spans: BTreeMap<Visitor, Vec<Span>> = BTreeMap::new();
    for (sale, buyer) in buyers {
        let others = around.get(sale).into_iter().flat_map(|around| &around.other_payments);
        let payments = others.map(|other| other.paid_at).chain([buyer.paid_at]);
        let counting: Vec<Span> = payments.map(|paid_at| buyer.window.before(paid_at)).collect();
        for id in &buyer.ids {
            spans.entry(id.clone()).or_default().extend(&counting);
        }
    }
    for spans in spans.values_mut() {
        *spans = merged(std::mem::take(spans));
    }
    let mut touches: BTreeMap<Visitor, Vec<Touch>> = BTreeMap::new();
    for (visitor, touch) in touchpoints::in_spans(conn, &spans).await? {
        touches.entry(visitor).or_default().push(touch);
    }
    for sale in book.dirty_sales() {
        let (Some(buyer), Some(surroundings)) = (buyers.get(&sale.id), around.get_mut(&sale.id)) else {
            continue;
        };
        let own = buyer.ids.iter().filter_map(|id| touches.get(id)).flatten();
        surroundings.touches = own.cloned().collect();
        surroundings.touches.sort_by(|a, b| a.id.cmp(&b.id));
    }
    Ok(())
}

/// The same times without overlaps.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            _ => merged.push(span),
        }
    }
    merged
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

/// When the subscriptions and customers of the sales paid otherwise. Only for buyers who clicked, and only
/// when that can have referred anything, before the sale.
async fn load_other_payments(
    conn: &mut Conn,
    book: &Book,
    buyers: &BTreeMap<SaleId, Buyer>,
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
        let Some(buyer) = buyers.get(&sale.id) else { continue };
        let to = buyer.clicks.to.plus_days(buyer.window.days).min(buyer.paid_at);
        let range = json!({ "from": buyer.clicks.from.as_micros(), "to": to.as_micros() });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(days: &[(i64, i64)]) -> Vec<Span> {
        let at = |day: i64| Timestamp::from_secs(1_750_000_000).plus_days(day);
        days.iter().map(|(from, to)| Span { from: at(*from), to: at(*to) }).collect()
    }

    #[test]
    fn windows_that_overlap_become_one() {
        for (given, expected) in [
            (&[(0, 30)][..], &[(0, 30)][..]),
            (&[(31, 61), (0, 30)], &[(0, 30), (31, 61)]),
            (&[(30, 60), (0, 30)], &[(0, 60)]),
            (&[(0, 90), (10, 20), (80, 100), (200, 230)], &[(0, 100), (200, 230)]),
            (&[], &[]),
        ] {
            assert_eq!(merged(spans(given)), spans(expected), "{given:?}");
        }
    }
}
