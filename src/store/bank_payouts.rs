//! Payouts of receiving accounts to their banks, as events told of them. Reading only: `transfers.rs` keeps
//! what was told.
//!
//! As for what is told of an account itself, only the platform's own endpoints count (`rulings.md` 11).

use sqlx::FromRow;

use super::{Conn, Sql, StoreError, Tx, sales::id_list};
use crate::{
    domain::{book::Realm, ids::ProjectId},
    for_update,
};

/// A payout of an account to its bank.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct BankPayoutRow {
    /// The provider's id.
    pub payout_id: String,
    /// How much, minor units.
    pub amount_minor: i64,
    /// Of which currency.
    pub currency: String,
    /// The provider's word.
    pub status: String,
    /// The provider's word for what went wrong.
    pub failure_code: Option<String>,
    /// As of when, microseconds.
    pub told_at_us: i64,
}

/// The bank payouts of an account of which something was told last, newest first. `realm` is the
/// platform's.
pub async fn list_newest(
    conn: &mut Conn,
    realm: &Realm,
    account_id: &str,
    limit: i64,
) -> Result<Vec<BankPayoutRow>, StoreError> {
    // Served by `bank_payout_by_account`.
    const SQL: &str = "SELECT payout_id, amount_minor, currency, status, failure_code, told_at_us
        FROM bank_payout WHERE account_id = $1 AND realm = $2 AND project_id = $3
        ORDER BY told_at_us DESC, payout_id DESC LIMIT $4";
    conn.q(SQL)
        .bind(account_id)
        .bind(realm.of_account(account_id).as_str())
        .bind(ProjectId::platform().as_str())
        .bind(limit)
        .all()
        .await
}

/// Which of these accounts affiliates are paid to, in order of id. They stay locked until the transaction
/// ends, so that of two nodes that look at the bank payouts of one account the second sees what the first
/// has booked.
pub async fn lock_payees(tx: &mut Tx, provider: &str, accounts: &[&str]) -> Result<Vec<String>, StoreError> {
    // Served by `payout_account_by_account`.
    const SQL: Sql = for_update!(
        "SELECT account_id FROM payout_account
         WHERE provider = $1 AND account_id IN (SELECT value->>'id' FROM json_each($2))
         ORDER BY account_id, organization_id"
    );
    let mut payees: Vec<String> =
        tx.q(SQL).bind(provider).bind(id_list(accounts.iter().copied())).scalars().await?;
    payees.dedup();
    Ok(payees)
}

/// A bank payout that failed, with no later one of its account that was paid.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct FailedRow {
    /// The account.
    pub account_id: String,
    /// The provider's word for what went wrong.
    pub failure_code: Option<String>,
}

/// The bank payouts of these accounts that failed and that no later one made good, oldest first.
pub async fn list_failing(
    conn: &mut Conn,
    realm: &Realm,
    accounts: &[&str],
) -> Result<Vec<FailedRow>, StoreError> {
    // Served by `bank_payout_by_account`.
    const SQL: &str = "SELECT b.account_id, b.failure_code FROM bank_payout b
        WHERE b.account_id IN (SELECT value->>'id' FROM json_each($1)) AND b.status = 'failed'
            AND b.realm = $2 || '/' || b.account_id AND b.project_id = $3
            AND NOT EXISTS (SELECT 1 FROM bank_payout later
                WHERE later.account_id = b.account_id AND later.told_at_us > b.told_at_us
                    AND later.realm = b.realm AND later.project_id = b.project_id AND later.status = 'paid')
        ORDER BY b.told_at_us, b.payout_id";
    conn.q(SQL)
        .bind(id_list(accounts.iter().copied()))
        .bind(realm.as_str())
        .bind(ProjectId::platform().as_str())
        .all()
        .await
}
