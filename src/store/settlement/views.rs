//! Payouts as they are shown, and what a run came to. Reading only.

use sqlx::FromRow;

use crate::{
    domain::{
        ids::{EnrollmentId, PayoutId, ProgramId, RunId},
        money::Currency,
        payout::{Skip, Split},
    },
    store::{Conn, StoreError, row::At},
};

/// A payout, every column that its owner may want.
#[derive(Clone, Debug, FromRow)]
pub struct PayoutRow {
    /// Id.
    pub id: String,
    /// The run that made it.
    pub run_id: String,
    /// Who pays.
    pub program_id: String,
    /// Who is paid.
    pub enrollment_id: String,
    /// The affiliate behind the enrollment.
    pub organization_id: String,
    /// Currency of the amounts.
    pub currency: String,
    /// What was taken from the payable side, minor units.
    pub due_minor: i64,
    /// What the platform keeps, minor units.
    pub fee_minor: i64,
    /// What is sent, minor units.
    pub send_minor: i64,
    /// Where it stands.
    pub state: String,
    /// Why, where the state alone does not say.
    pub reason: Option<String>,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The account that receives it.
    pub destination: String,
    /// What happens when its transfer comes back.
    pub on_transfer_reversed: String,
    /// The provider's object, once known.
    pub transfer_id: Option<String>,
    /// Of what was sent, how much came back, minor units.
    pub reversed_minor: i64,
    /// That and the fee's part of it, minor units.
    pub returned_minor: i64,
    /// The intent that moves the money: what to look for at the provider.
    pub intent_id: Option<String>,
    /// When it was made, microseconds.
    pub created_at_us: i64,
    /// When the money moved, microseconds.
    pub completed_at_us: Option<i64>,
}

/// Payouts of a program, newest first, before the given time and id.
pub async fn list_payouts(
    conn: &mut Conn,
    program: &ProgramId,
    before: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<PayoutRow>, StoreError> {
    // Served by `payout_by_program`.
    const SQL: &str = "SELECT p.id, p.run_id, p.program_id, p.enrollment_id, p.organization_id, p.currency,
            p.due_minor, p.fee_minor, p.send_minor, p.state, p.reason, p.provider, p.livemode, p.destination,
            p.on_transfer_reversed, p.transfer_id, p.reversed_minor, p.returned_minor, i.id AS intent_id,
            p.created_at_us, p.completed_at_us
        FROM payout p LEFT JOIN intent i ON i.payout_id = p.id
        WHERE p.program_id = $1 AND ($2 IS NULL OR (p.created_at_us, p.id) < ($2, $3))
        ORDER BY p.created_at_us DESC, p.id DESC LIMIT $4";
    let (at, id) = before.unzip();
    conn.q(SQL).bind(program.as_str()).bind(at).bind(id).bind(limit).all().await
}

/// One payout.
pub async fn find_payout(conn: &mut Conn, id: &PayoutId) -> Result<Option<PayoutRow>, StoreError> {
    const SQL: &str = "SELECT p.id, p.run_id, p.program_id, p.enrollment_id, p.organization_id, p.currency,
            p.due_minor, p.fee_minor, p.send_minor, p.state, p.reason, p.provider, p.livemode, p.destination,
            p.on_transfer_reversed, p.transfer_id, p.reversed_minor, p.returned_minor, i.id AS intent_id,
            p.created_at_us, p.completed_at_us
        FROM payout p LEFT JOIN intent i ON i.payout_id = p.id
        WHERE p.id = $1";
    conn.q(SQL).bind(id.as_str()).one().await
}

/// A lot that a payout is made of.
#[derive(Clone, Debug, FromRow)]
pub struct ItemRow {
    /// The lot.
    pub lot_id: String,
    /// What it is a part of; none for cash that came back.
    pub commission_id: Option<String>,
    /// Why the lot exists.
    pub kind: String,
    /// Minor units, signed.
    pub amount_minor: i64,
}

/// The items of a payout, in order of their lots, after the given one.
pub async fn list_items(
    conn: &mut Conn,
    id: &PayoutId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<ItemRow>, StoreError> {
    const SQL: &str = "SELECT i.lot_id, i.commission_id, l.kind, i.amount_minor
        FROM payout_item i JOIN lot l ON l.id = i.lot_id
        WHERE i.payout_id = $1 AND i.lot_id > $2 ORDER BY i.lot_id LIMIT $3";
    conn.q(SQL).bind(id.as_str()).bind(after.unwrap_or("")).bind(limit).all().await
}

/// A payout as the answer to a run lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidLine {
    /// The payout; none in a plan.
    pub id: Option<PayoutId>,
    /// Who is paid.
    pub enrollment_id: EnrollmentId,
    /// Currency of the amounts.
    pub currency: Currency,
    /// The amounts.
    pub split: Split,
}

/// The payouts that a run made, by enrollment and currency.
pub async fn payouts_of_run(conn: &mut Conn, run: &RunId) -> Result<Vec<PaidLine>, StoreError> {
    const SQL: &str = "SELECT id, enrollment_id, currency, due_minor, fee_minor, send_minor FROM payout
        WHERE run_id = $1 ORDER BY enrollment_id, currency";
    let rows: Vec<(String, String, String, i64, i64, i64)> = conn.q(SQL).bind(run.as_str()).all().await?;
    rows.into_iter()
        .map(|(id, enrollment, currency, due, fee, send)| {
            let at = At { table: "payout", id: &id };
            Ok(PaidLine {
                id: Some(at.read("id", &id)?),
                enrollment_id: at.read("enrollment_id", &enrollment)?,
                currency: at.read("currency", &currency)?,
                split: Split { due, fee, send },
            })
        })
        .collect()
}

/// Somebody who was not paid, as the answer to a run lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedLine {
    /// Who.
    pub enrollment_id: EnrollmentId,
    /// Currency of the amount.
    pub currency: Currency,
    /// What would be due, minor units; negative is debt.
    pub due: i64,
    /// Why not.
    pub reason: Skip,
}

/// Who was not paid by a run, by enrollment and currency.
pub async fn skipped_of_run(conn: &mut Conn, run: &RunId) -> Result<Vec<SkippedLine>, StoreError> {
    const SQL: &str = "SELECT enrollment_id, currency, due_minor, reason FROM payout_skip
        WHERE run_id = $1 ORDER BY enrollment_id, currency";
    let rows: Vec<(String, String, i64, String)> = conn.q(SQL).bind(run.as_str()).all().await?;
    rows.into_iter()
        .map(|(enrollment, currency, due, reason)| {
            let at = At { table: "payout_skip", id: &enrollment };
            Ok(SkippedLine {
                enrollment_id: at.read("enrollment_id", &enrollment)?,
                currency: at.read("currency", &currency)?,
                due,
                reason: at.read("reason", &reason)?,
            })
        })
        .collect()
}
