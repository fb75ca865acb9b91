//! Sales: aliases, fact rows, and the cached summary. Everything is loaded and written for many sales
//! at once, so that a batch of events costs a fixed number of statements.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Conn, Sql, StoreError, Tx};
use crate::{
    domain::{
        book::{AliasKey, Book, Folded, Realm, Sale, Scope, SubjectKey},
        fact::{
            ChargebackReversed, Dispute, DisputePhase, Hint, HintSource, ObjectKind, ObjectRef, Refund,
            RefundStatus, Subject,
        },
        ids::{OrganizationId, ProgramId, ProjectId, SaleId},
        money::Currency,
        sale::{Item, Payment, SaleStatus, Summary},
        time::Timestamp,
    },
    for_update,
};

/// A JSON array of `{"id": …}` objects, the form in which lists of ids are bound.
pub(super) fn id_list<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    Value::from(ids.into_iter().map(|id| json!({ "id": id })).collect::<Vec<_>>()).to_string()
}

pub(super) fn corrupt(table: &'static str, column: &'static str, id: &str) -> StoreError {
    StoreError::Corrupt { table, column, id: id.to_owned() }
}

fn object_kind(word: &str) -> Option<ObjectKind> {
    ObjectKind::ALL.into_iter().find(|kind| kind.as_str() == word)
}

fn object(table: &'static str, kind: &str, id: &str) -> Result<ObjectRef, StoreError> {
    let kind = object_kind(kind).ok_or_else(|| corrupt(table, "kind", id))?;
    Ok(ObjectRef::new(kind, id))
}

fn currency(table: &'static str, code: &str, id: &str) -> Result<Currency, StoreError> {
    Currency::parse(code).map_err(|_| corrupt(table, "currency", id))
}

pub(super) fn scope(project: &str, realm: String) -> Result<Scope, StoreError> {
    let project_id = ProjectId::parse(project).map_err(|_| corrupt("project", "id", project))?;
    Ok(Scope { project_id, realm: Realm::from_stored(realm) })
}

fn alias_rows<'a>(keys: impl IntoIterator<Item = &'a AliasKey>) -> Vec<Value> {
    keys.into_iter()
        .map(|key| {
            json!({
                "p": key.scope.project_id, "r": key.scope.realm.as_str(),
                "k": key.object.kind.as_str(), "o": key.object.id,
            })
        })
        .collect()
}

/// The sales that these ids lead to, where they lead to any.
pub async fn resolve_aliases(
    conn: &mut Conn,
    keys: &BTreeSet<AliasKey>,
) -> Result<BTreeMap<AliasKey, SaleId>, StoreError> {
    const SQL: &str = "SELECT a.project_id, a.realm, a.kind, a.object_id, a.sale_id
        FROM json_each($1) k JOIN sale_alias a
            ON a.project_id = k.value->>'p' AND a.realm = k.value->>'r'
            AND a.kind = k.value->>'k' AND a.object_id = k.value->>'o'";
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(String, String, String, String, String)> =
        conn.q(SQL).bind(Value::from(alias_rows(keys)).to_string()).all().await?;
    rows.into_iter()
        .map(|(project, realm, kind, id, sale)| {
            let key = AliasKey { scope: scope(&project, realm)?, object: object("sale_alias", &kind, &id)? };
            Ok((key, sale_id(&sale)?))
        })
        .collect()
}

fn sale_id(text: &str) -> Result<SaleId, StoreError> {
    SaleId::parse(text).map_err(|_| corrupt("sale", "id", text))
}

/// Opens sales that nothing is known of.
pub async fn insert_open(tx: &mut Tx, sales: &[(SaleId, Scope)], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale (id, project_id, realm, status, refunded_minor, disputed_minor,
            received_at_us, created_at_us)
        SELECT value->>'id', value->>'p', value->>'r', 'open', 0, 0, 0, $2 FROM json_each($1)";
    if sales.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = sales
        .iter()
        .map(|(id, scope)| json!({ "id": id, "p": scope.project_id, "r": scope.realm.as_str() }))
        .collect();
    tx.q(SQL).bind(Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
    Ok(())
}

/// Adds aliases that are not there yet. An alias that another transaction is adding at this moment is
/// waited for and then left to it; resolve again afterwards.
pub async fn insert_aliases(tx: &mut Tx, aliases: &BTreeMap<AliasKey, SaleId>) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale_alias (project_id, realm, kind, object_id, sale_id)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s' FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, object_id) DO NOTHING";
    if aliases.is_empty() {
        return Ok(());
    }
    tx.q(SQL).bind(aliases_with_sales(aliases.iter())).exec().await?;
    Ok(())
}

fn aliases_with_sales<'a>(aliases: impl Iterator<Item = (&'a AliasKey, &'a SaleId)>) -> String {
    // In key order, so that two transactions that add the same aliases wait for each other and do not
    // deadlock.
    let rows: Vec<_> = aliases
        .map(|(key, sale)| {
            json!({
                "p": key.scope.project_id, "r": key.scope.realm.as_str(),
                "k": key.object.kind.as_str(), "o": key.object.id, "s": sale,
            })
        })
        .collect();
    Value::from(rows).to_string()
}

/// Makes sure that these carriers exist and locks them, in order of key. A code told for a customer and
/// a sale of that customer are thereby never processed at the same time.
pub async fn lock_carriers(tx: &mut Tx, carriers: &BTreeSet<SubjectKey>) -> Result<(), StoreError> {
    const ADD: &str = "INSERT INTO carrier (project_id, realm, kind, carrier_id)
        SELECT value->>'p', value->>'r', value->>'k', value->>'c' FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, carrier_id) DO NOTHING";
    const LOCK: Sql = for_update!(
        "SELECT c.carrier_id FROM carrier c JOIN json_each($1) k
             ON c.project_id = k.value->>'p' AND c.realm = k.value->>'r'
             AND c.kind = k.value->>'k' AND c.carrier_id = k.value->>'c'
         ORDER BY c.project_id, c.realm, c.kind, c.carrier_id"
    );
    if carriers.is_empty() {
        return Ok(());
    }
    let rows = Value::from(subject_rows(carriers)).to_string();
    tx.q(ADD).bind(&*rows).exec().await?;
    tx.q(LOCK).bind(&*rows).scalars::<String>().await?;
    Ok(())
}

fn subject_words(subject: &Subject) -> (&'static str, &str) {
    match subject {
        Subject::Sale(object) => (object.kind.as_str(), &object.id),
        Subject::Subscription(id) => ("subscription", id),
        Subject::Customer(id) => ("customer", id),
    }
}

fn subject_of(kind: &str, id: &str) -> Result<Subject, StoreError> {
    match kind {
        "subscription" => Ok(Subject::Subscription(id.to_owned())),
        "customer" => Ok(Subject::Customer(id.to_owned())),
        _ => object("attribution_hint", kind, id).map(Subject::Sale),
    }
}

pub(super) fn subject_rows<'a>(subjects: impl IntoIterator<Item = &'a SubjectKey>) -> Vec<Value> {
    subjects
        .into_iter()
        .map(|key| {
            let (kind, id) = subject_words(&key.subject);
            json!({ "p": key.scope.project_id, "r": key.scope.realm.as_str(), "k": kind, "c": id })
        })
        .collect()
}

/// The sales of these subscriptions and customers.
pub async fn sales_carried_by(
    conn: &mut Conn,
    carriers: &BTreeSet<SubjectKey>,
) -> Result<BTreeSet<SaleId>, StoreError> {
    const SQL: &str = "SELECT p.sale_id FROM json_each($1) k JOIN payment p
            ON k.value->>'k' = 'subscription' AND p.project_id = k.value->>'p' AND p.realm = k.value->>'r'
            AND p.subscription = k.value->>'c'
        UNION
        SELECT p.sale_id FROM json_each($1) k JOIN payment p
            ON k.value->>'k' = 'customer' AND p.project_id = k.value->>'p' AND p.realm = k.value->>'r'
            AND p.customer = k.value->>'c'";
    if carriers.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids: Vec<String> =
        conn.q(SQL).bind(Value::from(subject_rows(carriers)).to_string()).scalars().await?;
    ids.iter().map(|id| sale_id(id)).collect()
}

/// Locks sales in order of id, the order that every stage uses.
pub async fn lock(tx: &mut Tx, ids: &BTreeSet<SaleId>) -> Result<(), StoreError> {
    const SQL: Sql =
        for_update!("SELECT id FROM sale WHERE id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY id");
    if ids.is_empty() {
        return Ok(());
    }
    let locked: Vec<String> = tx.q(SQL).bind(id_list(ids.iter().map(SaleId::as_str))).scalars().await?;
    if locked.len() == ids.len() {
        Ok(())
    } else {
        Err(StoreError::RowsAffected { expected: ids.len() as u64, actual: locked.len() as u64 })
    }
}

#[derive(sqlx::FromRow)]
struct SaleRow {
    id: String,
    project_id: String,
    organization_id: String,
    realm: String,
    merged_into: Option<String>,
    received_at_us: i64,
}

#[derive(sqlx::FromRow)]
struct PaymentRow {
    kind: String,
    object_id: String,
    sale_id: String,
    parent_kind: Option<String>,
    parent_id: Option<String>,
    amount_minor: i64,
    tax_minor: Option<i64>,
    currency: String,
    paid_at_us: i64,
    customer: Option<String>,
    subscription: Option<String>,
    billing_reason: Option<String>,
    items: Option<String>,
}

#[derive(sqlx::FromRow)]
struct RefundRow {
    refund_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
    status: String,
}

#[derive(sqlx::FromRow)]
struct RefundTotalRow {
    charge_kind: String,
    charge_id: String,
    sale_id: String,
    total_minor: i64,
    currency: String,
}

#[derive(sqlx::FromRow)]
struct DisputeRow {
    dispute_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
    phase: String,
    withdrawn_minor: i64,
    reinstated_minor: i64,
}

#[derive(sqlx::FromRow)]
struct ReversalRow {
    reverse_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
}

/// Loads sales with all their facts, without decisions and commissions.
pub async fn load(conn: &mut Conn, ids: &BTreeSet<SaleId>) -> Result<BTreeMap<SaleId, Sale>, StoreError> {
    const SALES: &str =
        "SELECT s.id, s.project_id, p.organization_id, s.realm, s.merged_into, s.received_at_us
        FROM sale s JOIN project p ON p.id = s.project_id
        WHERE s.id IN (SELECT value->>'id' FROM json_each($1))";
    const ALIASES: &str = "SELECT project_id, realm, kind, object_id, sale_id FROM sale_alias
        WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const PAYMENTS: &str = "SELECT kind, object_id, sale_id, parent_kind, parent_id, amount_minor, tax_minor,
            currency, paid_at_us, customer, subscription, billing_reason, items
        FROM payment WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    let mut sales = BTreeMap::new();
    if ids.is_empty() {
        return Ok(sales);
    }
    let list = id_list(ids.iter().map(SaleId::as_str));
    for row in conn.q(SALES).bind(&*list).all::<SaleRow>().await? {
        let id = sale_id(&row.id)?;
        let owner = OrganizationId::parse(&row.organization_id)
            .map_err(|_| corrupt("project", "organization_id", &row.project_id))?;
        let mut sale = Sale::open(id.clone(), scope(&row.project_id, row.realm)?, owner);
        sale.merged_into = row.merged_into.as_deref().map(sale_id).transpose()?;
        sale.received_at = Timestamp::from_micros(row.received_at_us);
        sales.insert(id, sale);
    }
    let aliases: Vec<(String, String, String, String, String)> = conn.q(ALIASES).bind(&*list).all().await?;
    for (project, realm, kind, id, owner) in aliases {
        let key = AliasKey { scope: scope(&project, realm)?, object: object("sale_alias", &kind, &id)? };
        of(&mut sales, &owner)?.aliases.insert(key);
    }
    for row in conn.q(PAYMENTS).bind(&*list).all::<PaymentRow>().await? {
        let parent = match (&row.parent_kind, &row.parent_id) {
            (Some(kind), Some(id)) => Some(object("payment", kind, id)?),
            _ => None,
        };
        let payment = Payment {
            parent,
            amount: row.amount_minor,
            tax: row.tax_minor,
            currency: currency("payment", &row.currency, &row.object_id)?,
            at: Timestamp::from_micros(row.paid_at_us),
            customer: row.customer,
            subscription: row.subscription,
            billing_reason: row.billing_reason,
            items: items(row.items.as_deref(), &row.object_id)?,
        };
        let told_by = object("payment", &row.kind, &row.object_id)?;
        of(&mut sales, &row.sale_id)?.facts.payments.insert(told_by, payment);
    }
    load_returns(conn, &list, &mut sales).await?;
    Ok(sales)
}

/// Buyers, refunds, disputes, chargeback reversals and reported holds of the sales in `list`.
async fn load_returns(
    conn: &mut Conn,
    list: &str,
    sales: &mut BTreeMap<SaleId, Sale>,
) -> Result<(), StoreError> {
    const BUYERS: &str = "SELECT sale_id, email FROM sale_buyer
        WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const REFUNDS: &str = "SELECT refund_id, sale_id, charge_kind, charge_id, amount_minor, currency, status
        FROM refund WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const TOTALS: &str = "SELECT charge_kind, charge_id, sale_id, total_minor, currency
        FROM refund_total WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const DISPUTES: &str =
        "SELECT dispute_id, sale_id, charge_kind, charge_id, amount_minor, currency, phase,
            withdrawn_minor, reinstated_minor
        FROM dispute WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const REVERSALS: &str = "SELECT reverse_id, sale_id, charge_kind, charge_id, amount_minor, currency
        FROM chargeback_reversal WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const HOLDS: &str = "SELECT kind, object_id, program_id, sale_id, days
        FROM reported_hold WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    for (sale, email) in conn.q(BUYERS).bind(list).all::<(String, String)>().await? {
        of(sales, &sale)?.facts.buyer_emails.insert(email);
    }
    for row in conn.q(REFUNDS).bind(list).all::<RefundRow>().await? {
        let status = [RefundStatus::AwaitingApproval, RefundStatus::Active, RefundStatus::Void]
            .into_iter()
            .find(|status| status.as_str() == row.status)
            .ok_or_else(|| corrupt("refund", "status", &row.refund_id))?;
        let refund = Refund {
            sale: object("refund", &row.charge_kind, &row.charge_id)?,
            refund_id: row.refund_id.clone(),
            amount: row.amount_minor,
            currency: currency("refund", &row.currency, &row.refund_id)?,
            status,
        };
        of(sales, &row.sale_id)?.facts.refunds.insert(row.refund_id, refund);
    }
    for row in conn.q(TOTALS).bind(list).all::<RefundTotalRow>().await? {
        let charge = object("refund_total", &row.charge_kind, &row.charge_id)?;
        let total = (row.total_minor, currency("refund_total", &row.currency, &row.charge_id)?);
        of(sales, &row.sale_id)?.facts.refund_totals.insert(charge, total);
    }
    for row in conn.q(DISPUTES).bind(list).all::<DisputeRow>().await? {
        let phase = [
            DisputePhase::Inquiry,
            DisputePhase::InquiryClosed,
            DisputePhase::Open,
            DisputePhase::Lost,
            DisputePhase::Won,
        ]
        .into_iter()
        .find(|phase| phase.as_str() == row.phase)
        .ok_or_else(|| corrupt("dispute", "phase", &row.dispute_id))?;
        let dispute = Dispute {
            sale: object("dispute", &row.charge_kind, &row.charge_id)?,
            dispute_id: row.dispute_id.clone(),
            amount: row.amount_minor,
            currency: currency("dispute", &row.currency, &row.dispute_id)?,
            phase,
            withdrawn: row.withdrawn_minor,
            reinstated: row.reinstated_minor,
        };
        of(sales, &row.sale_id)?.facts.disputes.insert(row.dispute_id, dispute);
    }
    for row in conn.q(REVERSALS).bind(list).all::<ReversalRow>().await? {
        let reversal = ChargebackReversed {
            sale: object("chargeback_reversal", &row.charge_kind, &row.charge_id)?,
            reverse_id: row.reverse_id.clone(),
            amount: row.amount_minor,
            currency: currency("chargeback_reversal", &row.currency, &row.reverse_id)?,
        };
        of(sales, &row.sale_id)?.facts.chargeback_reversals.insert(row.reverse_id, reversal);
    }
    let holds: Vec<(String, String, String, String, i64)> = conn.q(HOLDS).bind(list).all().await?;
    for (kind, id, program, sale, days) in holds {
        let order = object("reported_hold", &kind, &id)?;
        let program = ProgramId::parse(&program).map_err(|_| corrupt("reported_hold", "program_id", &id))?;
        let days = u16::try_from(days).map_err(|_| corrupt("reported_hold", "days", &id))?;
        of(sales, &sale)?.facts.merge_hold(&order, &program, days);
    }
    Ok(())
}

fn of<'a>(sales: &'a mut BTreeMap<SaleId, Sale>, id: &str) -> Result<&'a mut Sale, StoreError> {
    let key = sale_id(id)?;
    sales.get_mut(&key).ok_or_else(|| corrupt("sale", "id", id))
}

/// Position of a hint source in the order of precedence, as stored; metadata keys stand between, by
/// their index.
const REPORTED: i64 = -1;
pub(super) const CLIENT_REFERENCE: i64 = 100_000;
const COUPON: i64 = 100_001;
pub(super) const VISITOR: i64 = 100_002;
const PROGRAM: i64 = 100_003;

fn source_rank(source: HintSource) -> i64 {
    match source {
        HintSource::Reported => REPORTED,
        HintSource::Metadata(index) => i64::from(index),
        HintSource::ClientReference => CLIENT_REFERENCE,
        HintSource::Coupon => COUPON,
        HintSource::Visitor => VISITOR,
        HintSource::Program => PROGRAM,
    }
}

fn source_of(rank: i64, code: &str) -> Result<HintSource, StoreError> {
    match rank {
        REPORTED => Ok(HintSource::Reported),
        CLIENT_REFERENCE => Ok(HintSource::ClientReference),
        COUPON => Ok(HintSource::Coupon),
        VISITOR => Ok(HintSource::Visitor),
        PROGRAM => Ok(HintSource::Program),
        index => u16::try_from(index)
            .map(HintSource::Metadata)
            .map_err(|_| corrupt("attribution_hint", "source", code)),
    }
}

/// Puts the codes told for these subjects, and the ends of these subscriptions, into the book.
pub async fn load_hints(
    conn: &mut Conn,
    subjects: &BTreeSet<SubjectKey>,
    book: &mut Book,
) -> Result<(), StoreError> {
    const HINTS: &str =
        "SELECT h.project_id, h.realm, h.subject_kind, h.subject_id, h.source, h.code, h.at_us
        FROM json_each($1) k JOIN attribution_hint h
            ON h.project_id = k.value->>'p' AND h.realm = k.value->>'r'
            AND h.subject_kind = k.value->>'k' AND h.subject_id = k.value->>'c'";
    const ENDED: &str = "SELECT c.project_id, c.realm, c.carrier_id, c.ended_at_us
        FROM json_each($1) k JOIN carrier c
            ON c.project_id = k.value->>'p' AND c.realm = k.value->>'r'
            AND c.kind = k.value->>'k' AND c.carrier_id = k.value->>'c'
        WHERE c.kind = 'subscription' AND c.ended_at_us IS NOT NULL";
    if subjects.is_empty() {
        return Ok(());
    }
    let list = Value::from(subject_rows(subjects)).to_string();
    let rows: Vec<(String, String, String, String, i64, String, i64)> =
        conn.q(HINTS).bind(&*list).all().await?;
    for (project, realm, kind, id, source, code, at) in rows {
        let key = SubjectKey { scope: scope(&project, realm)?, subject: subject_of(&kind, &id)? };
        let source = source_of(source, &code)?;
        book.insert_hint(key, Hint { source, code, at: Timestamp::from_micros(at) });
    }
    for (project, realm, id, at) in conn.q(ENDED).bind(&*list).all::<(String, String, String, i64)>().await? {
        book.insert_ended(scope(&project, realm)?, id, Timestamp::from_micros(at));
    }
    Ok(())
}

/// Writes what the facts of a batch added to codes and subscription ends.
pub async fn save_hints(tx: &mut Tx, book: &Book) -> Result<(), StoreError> {
    const HINTS: &str = "INSERT INTO attribution_hint
            (project_id, realm, subject_kind, subject_id, source, code, at_us)
        SELECT value->>'p', value->>'r', value->>'k', value->>'c', CAST(value->>'source' AS BIGINT),
            value->>'code', MIN(CAST(value->>'at' AS BIGINT))
        FROM json_each($1) WHERE TRUE
        GROUP BY value->>'p', value->>'r', value->>'k', value->>'c', CAST(value->>'source' AS BIGINT),
            value->>'code'
        ON CONFLICT (project_id, realm, subject_kind, subject_id, source, code)
            DO UPDATE SET at_us = excluded.at_us WHERE excluded.at_us < attribution_hint.at_us";
    const ENDED: &str = "UPDATE carrier SET ended_at_us = k.ended_at_us
        FROM (SELECT value->>'p' AS p, value->>'r' AS r, value->>'c' AS c,
                  MIN(CAST(value->>'at' AS BIGINT)) AS ended_at_us
              FROM json_each($1) GROUP BY value->>'p', value->>'r', value->>'c') AS k
        WHERE carrier.project_id = k.p AND carrier.realm = k.r AND carrier.kind = 'subscription'
            AND carrier.carrier_id = k.c AND carrier.ended_at_us IS NULL";
    if !book.new_hints().is_empty() {
        let rows: Vec<_> = book
            .new_hints()
            .iter()
            .map(|(key, hint)| {
                let (kind, id) = subject_words(&key.subject);
                json!({
                    "p": key.scope.project_id, "r": key.scope.realm.as_str(), "k": kind, "c": id,
                    "source": source_rank(hint.source), "code": hint.code, "at": hint.at.as_micros(),
                })
            })
            .collect();
        tx.q(HINTS).bind(Value::from(rows).to_string()).exec().await?;
    }
    if !book.new_ended().is_empty() {
        let rows: Vec<_> = book
            .new_ended()
            .iter()
            .map(|(scope, id, at)| {
                json!({ "p": scope.project_id, "r": scope.realm.as_str(), "c": id, "at": at.as_micros() })
            })
            .collect();
        tx.q(ENDED).bind(Value::from(rows).to_string()).exec().await?;
    }
    Ok(())
}

/// Writes folded sales: aliases, facts, cached summary, and the events that touched them. Fact rows are
/// merged in memory before, under the locks of their sales, so what is written replaces what was there.
pub async fn save(tx: &mut Tx, book: &Book, folded: &[Folded]) -> Result<(), StoreError> {
    let sales: Vec<(&Sale, &Folded)> =
        folded.iter().filter_map(|folded| Some((book.sale(&folded.sale_id)?, folded))).collect();
    save_summaries(tx, &sales).await?;
    save_aliases(tx, &sales).await?;
    save_payments(tx, &sales).await?;
    save_refunds(tx, &sales).await?;
    save_disputes(tx, &sales).await?;
    save_holds(tx, &sales).await
}

async fn save_summaries(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE sale SET merged_into = k.merged_into, status = k.status, currency = k.currency,
            amount_minor = k.amount, tax_minor = k.tax, refunded_minor = k.refunded,
            disputed_minor = k.disputed, paid_at_us = k.paid_at, received_at_us = k.received_at
        FROM (SELECT value->>'id' AS id, value->>'merged_into' AS merged_into, value->>'status' AS status,
                  value->>'currency' AS currency, CAST(value->>'amount' AS BIGINT) AS amount,
                  CAST(value->>'tax' AS BIGINT) AS tax, CAST(value->>'refunded' AS BIGINT) AS refunded,
                  CAST(value->>'disputed' AS BIGINT) AS disputed, CAST(value->>'paid_at' AS BIGINT) AS paid_at,
                  CAST(value->>'received_at' AS BIGINT) AS received_at
              FROM json_each($1)) AS k
        WHERE sale.id = k.id";
    let rows: Vec<_> = sales
        .iter()
        .map(|(sale, folded)| {
            let summary = folded.summary.as_ref();
            json!({
                "id": sale.id, "merged_into": sale.merged_into,
                "status": summary.map_or(SaleStatus::Open, Summary::status).as_str(),
                "currency": summary.map(|summary| summary.currency),
                "amount": summary.map(|summary| summary.amount),
                "tax": summary.and_then(|summary| summary.tax),
                "refunded": summary.map_or(0, |summary| summary.refunded),
                "disputed": summary.map_or(0, |summary| summary.disputed),
                "paid_at": summary.map(|summary| summary.paid_at.as_micros()),
                "received_at": sale.received_at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}

async fn save_aliases(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale_alias (project_id, realm, kind, object_id, sale_id)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s' FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, object_id) DO UPDATE SET sale_id = excluded.sale_id
            WHERE sale_alias.sale_id <> excluded.sale_id";
    let aliases: BTreeMap<&AliasKey, &SaleId> =
        sales.iter().flat_map(|(sale, _)| sale.aliases.iter().map(|alias| (alias, &sale.id))).collect();
    if !aliases.is_empty() {
        tx.q(SQL).bind(aliases_with_sales(aliases.into_iter())).exec().await?;
    }
    Ok(())
}

/// The lines of a payment as stored.
fn items(stored: Option<&str>, payment: &str) -> Result<Vec<Item>, StoreError> {
    stored.map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(text).map_err(|_| corrupt("payment", "items", payment))
    })
}

async fn save_payments(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const PAYMENTS: &str = "INSERT INTO payment (project_id, realm, kind, object_id, sale_id, parent_kind,
            parent_id, amount_minor, tax_minor, currency, paid_at_us, customer, subscription, billing_reason,
            items)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s', value->>'parent_kind',
            value->>'parent_id', CAST(value->>'amount' AS BIGINT), CAST(value->>'tax' AS BIGINT),
            value->>'currency', CAST(value->>'at' AS BIGINT), value->>'customer', value->>'subscription',
            value->>'billing_reason', value->>'items'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, object_id) DO UPDATE SET sale_id = excluded.sale_id,
            parent_kind = excluded.parent_kind, parent_id = excluded.parent_id,
            amount_minor = excluded.amount_minor, tax_minor = excluded.tax_minor,
            currency = excluded.currency, paid_at_us = excluded.paid_at_us, customer = excluded.customer,
            subscription = excluded.subscription, billing_reason = excluded.billing_reason,
            items = excluded.items";
    const BUYERS: &str = "INSERT INTO sale_buyer (sale_id, email)
        SELECT value->>'s', value->>'email' FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, email) DO NOTHING";
    let payments = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.payments.iter().map(|(object, payment)| {
                let scope = sale.scope_of(object);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "k": object.kind.as_str(),
                    "o": object.id, "s": sale.id,
                    "parent_kind": payment.parent.as_ref().map(|parent| parent.kind.as_str()),
                    "parent_id": payment.parent.as_ref().map(|parent| &parent.id),
                    "amount": payment.amount, "tax": payment.tax, "currency": payment.currency,
                    "at": payment.at.as_micros(), "customer": payment.customer,
                    "subscription": payment.subscription, "billing_reason": payment.billing_reason,
                    "items": (!payment.items.is_empty()).then(|| json!(payment.items).to_string()),
                })
            })
        })
        .collect();
    write_rows(tx, PAYMENTS, payments).await?;
    let buyers = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.buyer_emails.iter().map(|email| json!({ "s": sale.id, "email": email }))
        })
        .collect();
    write_rows(tx, BUYERS, buyers).await
}

async fn save_refunds(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const REFUNDS: &str = "INSERT INTO refund (project_id, realm, refund_id, sale_id, charge_kind, charge_id,
            amount_minor, currency, status)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency', value->>'status'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, refund_id) DO UPDATE SET sale_id = excluded.sale_id,
            charge_kind = excluded.charge_kind, charge_id = excluded.charge_id,
            amount_minor = excluded.amount_minor, currency = excluded.currency, status = excluded.status";
    const TOTALS: &str = "INSERT INTO refund_total (project_id, realm, charge_kind, charge_id, sale_id,
            total_minor, currency)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s',
            CAST(value->>'total' AS BIGINT), value->>'currency'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, charge_kind, charge_id) DO UPDATE SET sale_id = excluded.sale_id,
            total_minor = excluded.total_minor, currency = excluded.currency";
    let refunds = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.refunds.values().map(|refund| {
                let scope = sale.scope_of(&refund.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": refund.refund_id,
                    "s": sale.id, "k": refund.sale.kind.as_str(), "o": refund.sale.id,
                    "amount": refund.amount, "currency": refund.currency, "status": refund.status.as_str(),
                })
            })
        })
        .collect();
    write_rows(tx, REFUNDS, refunds).await?;
    let totals = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.refund_totals.iter().map(|(charge, (total, currency))| {
                let scope = sale.scope_of(charge);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "s": sale.id,
                    "k": charge.kind.as_str(), "o": charge.id, "total": total, "currency": currency,
                })
            })
        })
        .collect();
    write_rows(tx, TOTALS, totals).await
}

async fn save_disputes(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const DISPUTES: &str =
        "INSERT INTO dispute (project_id, realm, dispute_id, sale_id, charge_kind, charge_id,
            amount_minor, currency, phase, withdrawn_minor, reinstated_minor)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency', value->>'phase',
            CAST(value->>'withdrawn' AS BIGINT), CAST(value->>'reinstated' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, dispute_id) DO UPDATE SET sale_id = excluded.sale_id,
            charge_kind = excluded.charge_kind, charge_id = excluded.charge_id,
            amount_minor = excluded.amount_minor, currency = excluded.currency, phase = excluded.phase,
            withdrawn_minor = excluded.withdrawn_minor, reinstated_minor = excluded.reinstated_minor";
    const REVERSALS: &str = "INSERT INTO chargeback_reversal (project_id, realm, reverse_id, sale_id,
            charge_kind, charge_id, amount_minor, currency)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, reverse_id) DO UPDATE SET sale_id = excluded.sale_id,
            amount_minor = excluded.amount_minor";
    let disputes = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.disputes.values().map(|dispute| {
                let scope = sale.scope_of(&dispute.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": dispute.dispute_id,
                    "s": sale.id, "k": dispute.sale.kind.as_str(), "o": dispute.sale.id,
                    "amount": dispute.amount, "currency": dispute.currency, "phase": dispute.phase.as_str(),
                    "withdrawn": dispute.withdrawn, "reinstated": dispute.reinstated,
                })
            })
        })
        .collect();
    write_rows(tx, DISPUTES, disputes).await?;
    let reversals = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.chargeback_reversals.values().map(|reversal| {
                let scope = sale.scope_of(&reversal.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": reversal.reverse_id,
                    "s": sale.id, "k": reversal.sale.kind.as_str(), "o": reversal.sale.id,
                    "amount": reversal.amount, "currency": reversal.currency,
                })
            })
        })
        .collect();
    write_rows(tx, REVERSALS, reversals).await
}

/// A report out of an archive may name a program that is not in this database: no commission is of that one, and
/// its sale must not be lost over it.
async fn save_holds(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO reported_hold (project_id, realm, kind, object_id, program_id, sale_id, days)
        SELECT k.value->>'p', k.value->>'r', k.value->>'k', k.value->>'o', g.id, k.value->>'s',
            CAST(k.value->>'days' AS BIGINT)
        FROM json_each($1) k JOIN program g ON g.id = k.value->>'g' WHERE TRUE
        ON CONFLICT (object_id, kind, realm, project_id, program_id)
            DO UPDATE SET sale_id = excluded.sale_id, days = excluded.days";
    let holds = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.holds.iter().map(|((order, program), days)| {
                let scope = sale.scope_of(order);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "k": order.kind.as_str(),
                    "o": order.id, "g": program, "s": sale.id, "days": days,
                })
            })
        })
        .collect();
    write_rows(tx, SQL, holds).await
}

/// Records which stored events said something about which sale.
pub async fn save_events(tx: &mut Tx, pairs: &BTreeSet<(SaleId, String)>) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale_event (sale_id, inbox_id)
        SELECT value->>'s', value->>'e' FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, inbox_id) DO NOTHING";
    write_rows(tx, SQL, pairs.iter().map(|(sale, event)| json!({ "s": sale, "e": event })).collect()).await
}

/// Gives the events of merged sales to the sale that carries their facts now.
pub async fn copy_events(tx: &mut Tx, merged: &[(SaleId, SaleId)]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale_event (sale_id, inbox_id)
        SELECT DISTINCT k.value->>'survivor', s.inbox_id
        FROM json_each($1) k JOIN sale_event s ON s.sale_id = k.value->>'loser' WHERE TRUE
        ON CONFLICT (sale_id, inbox_id) DO NOTHING";
    let rows =
        merged.iter().map(|(loser, survivor)| json!({ "loser": loser, "survivor": survivor })).collect();
    write_rows(tx, SQL, rows).await
}

/// Runs a statement that takes one JSON array, unless the array is empty.
pub(super) async fn write_rows(tx: &mut Tx, sql: &'static str, rows: Vec<Value>) -> Result<(), StoreError> {
    if !rows.is_empty() {
        tx.q(sql).bind(Value::from(rows).to_string()).exec().await?;
    }
    Ok(())
}
