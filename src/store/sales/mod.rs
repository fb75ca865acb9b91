//! Sales: aliases, fact rows, and the cached summary. Everything is loaded and written for many sales
//! at once, so that a batch of events costs a fixed number of statements.

mod hints;
mod load;
mod save;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Conn, Sql, StoreError, Tx};
use crate::{
    domain::{
        book::{AliasKey, Realm, Scope, SubjectKey},
        fact::{ObjectKind, ObjectRef, Subject},
        ids::{ProjectId, SaleId},
        money::Currency,
        time::Timestamp,
    },
    for_update,
};

pub(super) use self::hints::{CLIENT_REFERENCE, VISITOR};
pub use self::{
    hints::{load_hints, save_hints},
    load::load,
    save::save,
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
