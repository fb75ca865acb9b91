//! What events said of transfers, of the accounts they go to, and of those accounts' bank payouts.
//! Rows merge like every fact: the highest cumulative amount, the newest statement.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{StoreError, Tx, sales::write_rows};
use crate::domain::{
    book::Scope,
    fact::{BankPayout, Fact, PayoutAccount, TransferReversal, TransferSeen},
    time::Timestamp,
};

/// What is known of an account: its newest statement, `None` when it is gone.
type AccountState<'a> = (Timestamp, Option<&'a PayoutAccount>);

/// The facts of a batch, one row per object, because one statement must not write a row twice.
#[derive(Default)]
struct Merged<'a> {
    transfers: BTreeMap<(&'a Scope, &'a str), (&'a TransferSeen, i64)>,
    reversals: BTreeMap<(&'a Scope, &'a str), (&'a str, &'a TransferReversal)>,
    accounts: BTreeMap<(&'a Scope, &'a str), AccountState<'a>>,
    payouts: BTreeMap<(&'a Scope, &'a str), &'a BankPayout>,
}

impl<'a> Merged<'a> {
    fn add(&mut self, scope: &'a Scope, fact: &'a Fact) {
        match fact {
            Fact::TransferSeen(transfer) => self.add_transfer(scope, transfer, 0),
            Fact::TransferReversed(reversed) => {
                self.add_transfer(scope, &reversed.transfer, reversed.reversed_total);
                for reversal in &reversed.reversals {
                    let transfer = reversed.transfer.transfer_id.as_str();
                    self.reversals.insert((scope, reversal.reversal_id.as_str()), (transfer, reversal));
                }
            }
            Fact::PayoutAccount(account) => {
                self.add_account(scope, &account.account_id, account.at, Some(account));
            }
            Fact::PayoutAccountGone { account_id, at } => self.add_account(scope, account_id, *at, None),
            Fact::BankPayout(payout) => {
                let known = self.payouts.entry((scope, payout.payout_id.as_str())).or_insert(payout);
                if payout.at >= known.at {
                    *known = payout;
                }
            }
            Fact::SalePaid(_)
            | Fact::SaleLinked { .. }
            | Fact::SaleAttributed { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::SubscriptionEnded { .. } => {}
        }
    }

    fn add_transfer(&mut self, scope: &'a Scope, transfer: &'a TransferSeen, reversed: i64) {
        let key = (scope, transfer.transfer_id.as_str());
        let known = self.transfers.entry(key).or_insert((transfer, reversed));
        known.1 = known.1.max(reversed);
    }

    fn add_account(
        &mut self,
        scope: &'a Scope,
        id: &'a str,
        at: Timestamp,
        account: Option<&'a PayoutAccount>,
    ) {
        let known = self.accounts.entry((scope, id)).or_insert((at, account));
        // At one and the same second, an account that is gone stays gone.
        if (at, account.is_none()) >= (known.0, known.1.is_none()) {
            *known = (at, account);
        }
    }
}

/// Merges the facts about transfers, accounts and bank payouts into their rows.
pub async fn save<'a>(
    tx: &mut Tx,
    facts: impl Iterator<Item = (&'a Scope, &'a Fact)>,
) -> Result<(), StoreError> {
    const TRANSFERS: &str = "INSERT INTO transfer (project_id, realm, transfer_id, intent_id, amount_minor,
            currency, destination, of_charge, reversed_minor, created_at_us)
        SELECT value->>'p', value->>'r', value->>'id', value->>'intent', CAST(value->>'amount' AS BIGINT),
            value->>'currency', value->>'destination', CAST(value->>'of_charge' AS BOOLEAN),
            CAST(value->>'reversed' AS BIGINT), CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, transfer_id) DO UPDATE
            SET reversed_minor = CASE WHEN excluded.reversed_minor > transfer.reversed_minor
                    THEN excluded.reversed_minor ELSE transfer.reversed_minor END,
                intent_id = COALESCE(transfer.intent_id, excluded.intent_id)";
    const REVERSALS: &str = "INSERT INTO transfer_reversal (project_id, realm, reversal_id, transfer_id,
            amount_minor)
        SELECT value->>'p', value->>'r', value->>'id', value->>'transfer', CAST(value->>'amount' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, reversal_id) DO NOTHING";
    let mut merged = Merged::default();
    for (scope, fact) in facts {
        merged.add(scope, fact);
    }
    let transfers = merged
        .transfers
        .iter()
        .map(|((scope, id), (transfer, reversed))| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "intent": transfer.intent_id,
                "amount": transfer.amount, "currency": transfer.currency,
                "destination": transfer.destination, "of_charge": transfer.of_charge,
                "reversed": reversed, "at": transfer.at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, TRANSFERS, transfers).await?;
    let reversals = merged
        .reversals
        .iter()
        .map(|((scope, id), (transfer, reversal))| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "transfer": transfer,
                "amount": reversal.amount,
            })
        })
        .collect();
    write_rows(tx, REVERSALS, reversals).await?;
    save_accounts(tx, &merged).await?;
    save_bank_payouts(tx, &merged).await
}

async fn save_accounts(tx: &mut Tx, merged: &Merged<'_>) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO provider_account (project_id, realm, account_id, transfers_active,
            payouts_enabled, charges_enabled, details_submitted, disabled_reason, gone, told_at_us)
        SELECT value->>'p', value->>'r', value->>'id', CAST(value->>'transfers' AS BOOLEAN),
            CAST(value->>'payouts' AS BOOLEAN), CAST(value->>'charges' AS BOOLEAN),
            CAST(value->>'details' AS BOOLEAN), value->>'disabled', CAST(value->>'gone' AS BOOLEAN),
            CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, account_id) DO UPDATE SET
            transfers_active = excluded.transfers_active, payouts_enabled = excluded.payouts_enabled,
            charges_enabled = excluded.charges_enabled, details_submitted = excluded.details_submitted,
            disabled_reason = excluded.disabled_reason, gone = excluded.gone, told_at_us = excluded.told_at_us
            WHERE excluded.told_at_us > provider_account.told_at_us
                OR (excluded.told_at_us = provider_account.told_at_us AND excluded.gone)";
    let rows: Vec<Value> = merged
        .accounts
        .iter()
        .map(|((scope, id), (at, account))| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id,
                "transfers": account.is_some_and(|account| account.transfers_active),
                "payouts": account.is_some_and(|account| account.payouts_enabled),
                "charges": account.is_some_and(|account| account.charges_enabled),
                "details": account.is_some_and(|account| account.details_submitted),
                "disabled": account.and_then(|account| account.disabled_reason.as_deref()),
                "gone": account.is_none(), "at": at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}

async fn save_bank_payouts(tx: &mut Tx, merged: &Merged<'_>) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO bank_payout (project_id, realm, payout_id, account_id, amount_minor, currency,
            status, failure_code, told_at_us)
        SELECT value->>'p', value->>'r', value->>'id', value->>'account', CAST(value->>'amount' AS BIGINT),
            value->>'currency', value->>'status', value->>'failure', CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, payout_id) DO UPDATE SET status = excluded.status,
            failure_code = excluded.failure_code, told_at_us = excluded.told_at_us
            WHERE excluded.told_at_us >= bank_payout.told_at_us";
    let rows: Vec<Value> = merged
        .payouts
        .iter()
        .map(|((scope, id), payout)| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "account": payout.account_id,
                "amount": payout.amount, "currency": payout.currency, "status": payout.status,
                "failure": payout.failure_code, "at": payout.at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}
