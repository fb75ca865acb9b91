//! What a settlement writes: payouts with their items, the claims on lots and commissions, and who was
//! passed over. Intents and jobs are written by `jobs.rs`, entries by `ledger.rs`.

use std::collections::BTreeSet;

use serde_json::json;

use super::{open::OpenLot, views::SkippedLine};
use crate::{
    domain::{
        ids::{CommissionId, OrganizationId, RunId},
        payout::Payout,
        time::Timestamp,
    },
    store::{
        StoreError, Tx,
        row::json_list,
        sales::{id_list, write_rows},
    },
};

/// A payout that is made.
#[derive(Clone, Debug)]
pub struct NewPayout {
    /// Its amounts, its state, and how many entries it has by now.
    pub payout: Payout,
    /// The affiliate.
    pub organization_id: OrganizationId,
    /// Who moves the money.
    pub provider: &'static str,
    /// Real money or a test.
    pub livemode: bool,
    /// The account that receives it.
    pub destination: String,
    /// The lots that it is made of; they sum to what is due.
    pub lots: Vec<OpenLot>,
}

/// Stores payouts with their items, and claims what they are made of: the lots, and the commissions of which
/// they pay something, which were payable and are in a payout from now on. A commission of which a payout takes
/// only what it owes, or that is stopped, stays as it is. The caller holds the sales locked.
///
/// # Errors
/// [`StoreError::RowsAffected`] when one of the lots was claimed meanwhile; nothing may be kept then.
pub async fn insert_payouts(
    tx: &mut Tx,
    run: &RunId,
    new: &[NewPayout],
    now: Timestamp,
) -> Result<(), StoreError> {
    const PAYOUTS: &str =
        "INSERT INTO payout (id, run_id, program_id, enrollment_id, organization_id, currency,
            due_minor, fee_minor, send_minor, state, provider, livemode, destination, on_transfer_reversed,
            reversed_minor, returned_minor, revision, created_at_us)
        SELECT value->>'id', $2, value->>'g', value->>'e', value->>'o', value->>'currency',
            CAST(value->>'due' AS BIGINT), CAST(value->>'fee' AS BIGINT), CAST(value->>'send' AS BIGINT),
            value->>'state', value->>'provider', CAST(value->>'livemode' AS BOOLEAN), value->>'destination',
            value->>'policy', CAST(value->>'reversed' AS BIGINT), CAST(value->>'returned' AS BIGINT),
            CAST(value->>'revision' AS BIGINT), $3
        FROM json_each($1)";
    const ITEMS: &str = "INSERT INTO payout_item (payout_id, lot_id, commission_id, amount_minor)
        SELECT value->>'p', value->>'l', value->>'c', CAST(value->>'amount' AS BIGINT) FROM json_each($1)";
    const COMMISSIONS: &str = "UPDATE commission SET claimed = TRUE, state = 'in_payout'
        WHERE id IN (SELECT value->>'id' FROM json_each($1)) AND state = 'payable'";
    const LOTS: &str = "UPDATE lot SET payout_id = k.p
        FROM (SELECT value->>'l' AS l, value->>'p' AS p FROM json_each($1)) AS k
        WHERE lot.id = k.l AND lot.payout_id IS NULL";
    if new.is_empty() {
        return Ok(());
    }
    let rows = json_list(new.iter().map(|new| {
        let payout = &new.payout;
        json!({
            "id": payout.id, "g": payout.program_id, "e": payout.enrollment_id, "o": new.organization_id,
            "currency": payout.currency, "due": payout.split.due, "fee": payout.split.fee,
            "send": payout.split.send, "state": payout.state.as_str(), "provider": new.provider,
            "livemode": new.livemode, "destination": new.destination,
            "policy": payout.on_transfer_reversed.as_str(), "reversed": payout.reversed,
            "returned": payout.returned, "revision": payout.revision,
        })
    }));
    tx.q(PAYOUTS).bind(rows).bind(run.as_str()).bind(now.as_micros()).exec().await?;
    let (mut items, mut commissions): (Vec<_>, BTreeSet<&CommissionId>) = (Vec::new(), BTreeSet::new());
    for new in new {
        for lot in &new.lots {
            let commission = lot.part_of.as_ref().map(|part| &part.commission_id);
            commissions.extend(commission.filter(|_| lot.amount > 0));
            items.push(json!({ "p": new.payout.id, "l": lot.id, "c": commission, "amount": lot.amount }));
        }
    }
    let lots = items.len() as u64;
    let items = json_list(items);
    tx.q(ITEMS).bind(&*items).exec().await?;
    let list = id_list(commissions.iter().map(|id| id.as_str()));
    tx.q(COMMISSIONS).bind(list).exec().await?;
    expect(lots, tx.q(LOTS).bind(&*items).exec().await?)
}

fn expect(expected: u64, actual: u64) -> Result<(), StoreError> {
    if actual == expected { Ok(()) } else { Err(StoreError::RowsAffected { expected, actual }) }
}

/// Notes who is not paid by a run, and why.
pub async fn insert_skips(tx: &mut Tx, run: &RunId, new: &[SkippedLine]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_skip (run_id, enrollment_id, currency, due_minor, reason)
        SELECT value->>'run', value->>'e', value->>'currency', CAST(value->>'due' AS BIGINT), value->>'reason'
        FROM json_each($1)";
    let rows = new
        .iter()
        .map(|skip| {
            json!({
                "run": run, "e": skip.enrollment_id, "currency": skip.currency, "due": skip.due,
                "reason": skip.reason.as_str(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}
