//! Payouts as they stand: read under lock, changed by compare-and-set, with what they hold.
//!
//! How a payout comes to be is in `settlement.rs`. Whoever changes one locks in the order that all stages
//! keep: sales, payout, intent, job, balances (`rulings.md` 3).

use std::collections::BTreeSet;

use sqlx::FromRow;

use super::{Conn, Sql, StoreError, Tx, expect_one, row::At, sales::corrupt};
use crate::{
    domain::{
        ids::{CommissionId, EnrollmentId, HoldId, PayoutId, SaleId},
        payout::{Payout, Split},
        time::Timestamp,
    },
    for_update,
};

/// A payout with what the ledger does not need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPayout {
    /// Amounts, state and entries.
    pub payout: Payout,
    /// Why it is in its state, where the state alone does not say.
    pub reason: Option<String>,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The account it goes to.
    pub destination: String,
    /// The provider's object, once known.
    pub transfer_id: Option<String>,
    /// When the money moved.
    pub completed_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    enrollment_id: String,
    program_id: String,
    currency: String,
    due_minor: i64,
    fee_minor: i64,
    send_minor: i64,
    state: String,
    reason: Option<String>,
    provider: String,
    livemode: bool,
    destination: String,
    on_transfer_reversed: String,
    transfer_id: Option<String>,
    reversed_minor: i64,
    returned_minor: i64,
    revision: i64,
    completed_at_us: Option<i64>,
}

impl Row {
    fn read(self) -> Result<StoredPayout, StoreError> {
        let at = At { table: "payout", id: &self.id };
        Ok(StoredPayout {
            payout: Payout {
                id: at.read("id", &self.id)?,
                enrollment_id: at.read("enrollment_id", &self.enrollment_id)?,
                program_id: at.read("program_id", &self.program_id)?,
                currency: at.read("currency", &self.currency)?,
                split: Split { due: self.due_minor, fee: self.fee_minor, send: self.send_minor },
                state: at.read("state", &self.state)?,
                on_transfer_reversed: at.read("on_transfer_reversed", &self.on_transfer_reversed)?,
                reversed: self.reversed_minor,
                returned: self.returned_minor,
                revision: self.revision,
            },
            reason: self.reason,
            provider: self.provider,
            livemode: self.livemode,
            destination: self.destination,
            transfer_id: self.transfer_id,
            completed_at: self.completed_at_us.map(Timestamp::from_micros),
        })
    }
}

/// A payout, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, id: &PayoutId) -> Result<Option<StoredPayout>, StoreError> {
    const SQL: Sql = for_update!(
        "SELECT id, enrollment_id, program_id, currency, due_minor, fee_minor, send_minor, state, reason,
             provider, livemode, destination, on_transfer_reversed, transfer_id, reversed_minor,
             returned_minor, revision, completed_at_us
         FROM payout WHERE id = $1"
    );
    let row: Option<Row> = tx.q(SQL).bind(id.as_str()).one().await?;
    row.map(Row::read).transpose()
}

/// Writes what of a payout can change.
///
/// # Errors
/// [`StoreError::RowsAffected`] when it stands at another revision than the one it was read at and
/// `revision_before` names.
pub async fn save(tx: &mut Tx, stored: &StoredPayout, revision_before: i64) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE payout SET state = $3, reason = $4, transfer_id = $5, reversed_minor = $6,
            returned_minor = $7, revision = $8, completed_at_us = $9
        WHERE id = $1 AND revision = $2";
    let payout = &stored.payout;
    let affected = tx
        .q(SQL)
        .bind(payout.id.as_str())
        .bind(revision_before)
        .bind(payout.state.as_str())
        .bind(stored.reason.as_deref())
        .bind(stored.transfer_id.as_deref())
        .bind(payout.reversed)
        .bind(payout.returned)
        .bind(payout.revision)
        .bind(stored.completed_at.map(Timestamp::as_micros))
        .exec()
        .await?;
    expect_one(affected)
}

/// The sales whose commissions a payout pays.
pub async fn sales_of(conn: &mut Conn, id: &PayoutId) -> Result<BTreeSet<SaleId>, StoreError> {
    const SQL: &str =
        "SELECT DISTINCT c.sale_id FROM payout_item i JOIN commission c ON c.id = i.commission_id
        WHERE i.payout_id = $1";
    let ids: Vec<String> = conn.q(SQL).bind(id.as_str()).scalars().await?;
    ids.iter().map(|id| SaleId::parse(id).map_err(|_| corrupt("commission", "sale_id", id))).collect()
}

/// A commission that a payout pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidCommission {
    /// The commission.
    pub commission_id: CommissionId,
    /// Its sale; the survivor where it was merged.
    pub sale_id: SaleId,
    /// The net of its lots in the payout, minor units.
    pub amount: i64,
}

/// The commissions that a payout pays, by id.
pub async fn commissions_of(conn: &mut Conn, id: &PayoutId) -> Result<Vec<PaidCommission>, StoreError> {
    const SQL: &str = "SELECT c.id, c.sale_id, CAST(SUM(i.amount_minor) AS BIGINT) AS amount_minor
        FROM payout_item i JOIN commission c ON c.id = i.commission_id
        WHERE i.payout_id = $1 GROUP BY c.id, c.sale_id ORDER BY c.id";
    #[derive(FromRow)]
    struct Row {
        id: String,
        sale_id: String,
        amount_minor: i64,
    }
    let rows: Vec<Row> = conn.q(SQL).bind(id.as_str()).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "commission", id: &row.id };
            Ok(PaidCommission {
                commission_id: at.read("id", &row.id)?,
                sale_id: at.read("sale_id", &row.sale_id)?,
                amount: row.amount_minor,
            })
        })
        .collect()
}

/// Marks the commissions that a payout paid: those of which, with it, nothing is left to be paid. A payout may
/// have taken only what a commission owes while another still has to pay it; and what is open of one and
/// brings nothing is no reason to wait. The caller holds their sales locked, and saves the payout after this.
pub async fn mark_commissions_paid(tx: &mut Tx, id: &PayoutId) -> Result<(), StoreError> {
    // Served by the key of `payout_item` and `lot_by_commission`.
    const SQL: &str = "UPDATE commission SET state = 'paid' WHERE state = 'in_payout'
        AND id IN (SELECT commission_id FROM payout_item WHERE payout_id = $1)
        AND (SELECT COALESCE(SUM(lot.amount_minor), 0)
            FROM lot LEFT JOIN payout ON payout.id = lot.payout_id
            WHERE lot.commission_id = commission.id
                AND (payout.id IS NULL OR (payout.id <> $1
                    AND payout.state NOT IN ('completed', 'partially_reversed', 'reversed')))) <= 0";
    tx.q(SQL).bind(id.as_str()).exec().await?;
    Ok(())
}

/// Gives back what a payout held: its lots are free, and a commission of which the other payouts pay nothing
/// is as it was before. What they took of it then is at most what it owed, and came off what others earned.
/// The caller holds the sales locked and folds them afterwards.
pub async fn free_lots(tx: &mut Tx, id: &PayoutId) -> Result<(), StoreError> {
    const LOTS: &str = "UPDATE lot SET payout_id = NULL WHERE payout_id = $1";
    // One that was paid stays paid, whatever other payouts netted of it since.
    const COMMISSIONS: &str = "UPDATE commission SET claimed = FALSE, state = 'payable'
        WHERE id IN (SELECT commission_id FROM payout_item WHERE payout_id = $1) AND state = 'in_payout'
            AND (SELECT COALESCE(SUM(lot.amount_minor), 0) FROM lot
                WHERE lot.commission_id = commission.id AND lot.payout_id IS NOT NULL) <= 0";
    tx.q(LOTS).bind(id.as_str()).exec().await?;
    tx.q(COMMISSIONS).bind(id.as_str()).exec().await?;
    Ok(())
}

/// The enrollments that are paid to an account of a provider.
pub async fn paid_to(
    conn: &mut Conn,
    provider: &str,
    account: Option<&str>,
) -> Result<Vec<EnrollmentId>, StoreError> {
    const SQL: &str = "SELECT e.id FROM payout_account a
            JOIN enrollment e ON e.organization_id = a.organization_id
        WHERE a.provider = $1 AND a.account_id = $2 ORDER BY e.id";
    let ids: Vec<String> = conn.q(SQL).bind(provider).bind(account).scalars().await?;
    ids.iter().map(|id| At { table: "enrollment", id }.read("id", id)).collect()
}

/// Stops the payouts of an enrollment because something about them contradicts what is known.
pub async fn hold_after_anomaly(
    tx: &mut Tx,
    hold: &HoldId,
    enrollment: &EnrollmentId,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_hold (id, enrollment_id, kind, reason, actor, placed_at_us)
        SELECT $1, $2, 'anomaly', $3, 'remit', $4
        WHERE NOT EXISTS (SELECT 1 FROM payout_hold WHERE enrollment_id = $2 AND kind = 'anomaly'
            AND reason = $3 AND lifted_at_us IS NULL)";
    tx.q(SQL).bind(hold.as_str()).bind(enrollment.as_str()).bind(reason).bind(now.as_micros()).exec().await?;
    Ok(())
}
