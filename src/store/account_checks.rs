//! Accounts that settlements passed over because they were told not to be ready, to be read from the
//! provider again. What is read becomes a statement like any other (`transfers.rs`).

use sqlx::FromRow;

use super::{Conn, Sql, StoreError, Tx, sales::id_list};
use crate::domain::time::Timestamp;

/// How often an account is read for settlements at most, seconds.
pub const EVERY_S: i64 = 3_600;

/// Asks for accounts to be read. One that was read within [`EVERY_S`] is read again when that is over.
pub async fn request(
    tx: &mut Tx,
    provider: &str,
    livemode: bool,
    accounts: impl Iterator<Item = &str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO account_check (provider, livemode, account_id, due_at_us)
        SELECT $1, $2, value->>'id', $3 FROM json_each($4) WHERE TRUE
        ON CONFLICT (account_id, provider, livemode) DO UPDATE
            SET due_at_us = CASE WHEN account_check.checked_at_us + $5 > excluded.due_at_us
                THEN account_check.checked_at_us + $5 ELSE excluded.due_at_us END
            WHERE account_check.due_at_us IS NULL";
    let list = id_list(accounts);
    if list != "[]" {
        let every_us = Timestamp::from_secs(EVERY_S).as_micros();
        tx.q(SQL)
            .bind(provider)
            .bind(livemode)
            .bind(now.as_micros())
            .bind(list)
            .bind(every_us)
            .exec()
            .await?;
    }
    Ok(())
}

/// Whether any account is due.
pub async fn is_any_due(
    conn: &mut Conn,
    provider: &str,
    livemode: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Served by `account_check_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM account_check
        WHERE due_at_us <= $1 AND provider = $2 AND livemode = $3)";
    let is_due: Option<bool> =
        conn.q(SQL).bind(now.as_micros()).bind(provider).bind(livemode).scalar().await?;
    Ok(is_due == Some(true))
}

/// An account that this node reads.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Check {
    /// The provider's id.
    pub account_id: String,
    /// When it is due again if nobody answers, microseconds; it tells this claim from a later one.
    pub due_at_us: i64,
}

/// Takes accounts that are due, the longest due first, none of `busy`. They are due again after
/// [`EVERY_S`], unless [`finish`] is called: a crash loses none.
pub async fn claim_due(
    tx: &mut Tx,
    provider: &str,
    livemode: bool,
    busy: &[String],
    limit: i64,
    now: Timestamp,
) -> Result<Vec<Check>, StoreError> {
    const SQL: Sql = Sql {
        sqlite: "UPDATE account_check SET checked_at_us = $1, due_at_us = $2
            WHERE provider = $3 AND livemode = $4 AND account_id IN (
                SELECT account_id FROM account_check
                WHERE due_at_us <= $1 AND provider = $3 AND livemode = $4
                    AND account_id NOT IN (SELECT value->>'id' FROM json_each($5))
                ORDER BY due_at_us, account_id LIMIT $6)
            RETURNING account_id, due_at_us",
        postgres: "UPDATE account_check SET checked_at_us = $1, due_at_us = $2
            WHERE provider = $3 AND livemode = $4 AND account_id IN (
                SELECT account_id FROM account_check
                WHERE due_at_us <= $1 AND provider = $3 AND livemode = $4
                    AND account_id NOT IN (SELECT value->>'id' FROM json_each($5))
                ORDER BY due_at_us, account_id LIMIT $6 FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING account_id, due_at_us",
    };
    tx.q(SQL)
        .bind(now.as_micros())
        .bind(now.plus_secs(EVERY_S).as_micros())
        .bind(provider)
        .bind(livemode)
        .bind(id_list(busy.iter().map(String::as_str)))
        .bind(limit)
        .all()
        .await
}

/// Strikes off an account of which the provider has answered.
pub async fn finish(tx: &mut Tx, provider: &str, livemode: bool, check: &Check) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE account_check SET due_at_us = NULL
        WHERE account_id = $1 AND provider = $2 AND livemode = $3 AND due_at_us = $4";
    tx.q(SQL)
        .bind(check.account_id.as_str())
        .bind(provider)
        .bind(livemode)
        .bind(check.due_at_us)
        .exec()
        .await?;
    Ok(())
}
