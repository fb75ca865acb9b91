//! The journal: entries, their lines, the lots that follow from them, and the balances kept beside them.
//!
//! Whoever posts, posts here. The unique keys of an entry are (commission, revision) and (payout,
//! revision). A conflict is an error on purpose: somebody else has posted, so the caller must look again
//! (`rulings.md` 2).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    StoreError, Tx,
    sales::{corrupt, write_rows},
};
use crate::domain::{
    ledger::{Cause, Entry, Lot, Side},
    money::{self, Currency, MoneyError},
    time::Timestamp,
};

/// An entry and what made it necessary.
#[derive(Clone, Copy, Debug)]
pub struct Posting<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// The events and decisions behind it.
    pub causes: &'a BTreeSet<Cause>,
}

/// Posts entries with their lots, and adds them to the balances. Call it last in a transaction: the rows
/// that everybody shares are then locked for the shortest time (`rulings.md` 3).
///
/// # Errors
/// [`StoreError`] with `is_unique_violation` when a revision was posted by somebody else.
pub async fn post(
    tx: &mut Tx,
    postings: &[Posting<'_>],
    lots: &[&Lot],
    now: Timestamp,
) -> Result<(), StoreError> {
    if postings.is_empty() {
        return Ok(());
    }
    insert_entries(tx, postings, now).await?;
    insert_lots(tx, lots, now).await?;
    add_to_balances(tx, postings).await
}

async fn insert_entries(tx: &mut Tx, postings: &[Posting<'_>], now: Timestamp) -> Result<(), StoreError> {
    const ENTRIES: &str = "INSERT INTO entry (id, commission_id, payout_id, revision, kind, enrollment_id,
            program_id, currency, causes, content_hash, created_at_us)
        SELECT value->>'id', value->>'c', value->>'payout', CAST(value->>'revision' AS BIGINT),
            value->>'kind', value->>'e', value->>'g', value->>'currency', value->>'causes',
            substr($2, CAST(value->>'hash_at' AS INTEGER), 32), $3
        FROM json_each($1)";
    const LINES: &str = "INSERT INTO posting (entry_id, line, owner_id, account, side, amount_minor)
        SELECT value->>'entry', CAST(value->>'line' AS BIGINT), value->>'owner', value->>'account',
            value->>'side', CAST(value->>'amount' AS BIGINT)
        FROM json_each($1)";
    let (mut entries, mut lines, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for Posting { entry, causes } in postings {
        entries.push(json!({
            "id": entry.id, "c": entry.about.commission_id(), "payout": entry.about.payout_id(),
            "revision": entry.revision, "kind": entry.kind.as_str(), "e": entry.enrollment_id,
            "g": entry.program_id, "currency": entry.currency, "causes": causes_json(causes),
            "hash_at": hashes.len() + 1,
        }));
        hashes.extend_from_slice(&entry.content_hash());
        for (number, line) in entry.lines().iter().enumerate() {
            lines.push(json!({
                "entry": entry.id, "line": number, "owner": line.owner.as_str(),
                "account": line.account.as_str(), "side": line.side.as_str(), "amount": line.amount,
            }));
        }
    }
    tx.q(ENTRIES).bind(Value::from(entries).to_string()).bind(hashes).bind(now.as_micros()).exec().await?;
    write_rows(tx, LINES, lines).await
}

fn causes_json(causes: &BTreeSet<Cause>) -> String {
    serde_json::to_string(causes).unwrap_or_else(|_| "[]".to_owned())
}

async fn insert_lots(tx: &mut Tx, lots: &[&Lot], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO lot (id, entry_id, commission_id, enrollment_id, currency, kind,
            amount_minor, created_at_us)
        SELECT value->>'id', value->>'entry', value->>'c', value->>'e', value->>'currency', value->>'kind',
            CAST(value->>'amount' AS BIGINT), CAST(value->>'at' AS BIGINT)
        FROM json_each($1)";
    let rows = lots
        .iter()
        .map(|lot| {
            json!({
                "id": lot.id, "entry": lot.entry_id, "c": lot.commission_id, "e": lot.enrollment_id,
                "currency": lot.currency, "kind": lot.kind.as_str(), "amount": lot.amount,
                "at": now.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}

/// Increments, in order of key.
async fn add_to_balances(tx: &mut Tx, postings: &[Posting<'_>]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO balance (owner_id, account, currency, debit_minor, credit_minor)
        SELECT value->>'owner', value->>'account', value->>'currency', CAST(value->>'debit' AS BIGINT),
            CAST(value->>'credit' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (owner_id, account, currency) DO UPDATE
            SET debit_minor = balance.debit_minor + excluded.debit_minor,
                credit_minor = balance.credit_minor + excluded.credit_minor";
    let mut sums: BTreeMap<(&str, &str, Currency), (i64, i64)> = BTreeMap::new();
    let overflow = |_: MoneyError| corrupt("balance", "debit_minor", "sum of one batch");
    for Posting { entry, .. } in postings {
        for line in entry.lines() {
            let key = (line.owner.as_str(), line.account.as_str(), entry.currency);
            let (debit, credit) = sums.entry(key).or_default();
            match line.side {
                Side::Debit => *debit = money::add(*debit, line.amount).map_err(overflow)?,
                Side::Credit => *credit = money::add(*credit, line.amount).map_err(overflow)?,
            }
        }
    }
    let rows = sums
        .into_iter()
        .map(|((owner, account, currency), (debit, credit))| {
            json!({
                "owner": owner, "account": account, "currency": currency, "debit": debit, "credit": credit,
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}
