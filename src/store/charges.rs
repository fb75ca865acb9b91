//! Charges for connected accounts: where each stands. How one is moved is the business of its intent.

use sqlx::FromRow;

use super::{Sql, StoreError, Tx, expect_one, row::At};
use crate::{
    domain::{
        charge::ChargeState,
        ids::{ChargeId, ProjectId},
        money::Money,
        time::Timestamp,
    },
    for_update,
};

/// A charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Id.
    pub id: ChargeId,
    /// The project that sells.
    pub project_id: ProjectId,
    /// The caller's own id of the order; unique in the project.
    pub client_reference: Option<String>,
    /// What the buyer pays.
    pub amount: Money,
    /// What the platform keeps of it, minor units.
    pub application_fee: i64,
    /// The connected account that receives the rest.
    pub destination: String,
    /// Where it stands.
    pub state: ChargeState,
    /// Why, where the state alone does not say.
    pub reason: Option<String>,
    /// The provider's payment intent, once known.
    pub payment_intent_id: Option<String>,
    /// As of when the provider's status is known; the beginning of time before there is one.
    pub told_at: Timestamp,
}

/// Stores a charge. `false` when the project has one with this client reference already.
pub async fn insert(tx: &mut Tx, charge: &Charge, now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "INSERT INTO charge (id, project_id, client_reference, amount_minor, currency,
            application_fee_minor, destination, state, told_at_us, created_at_us)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9) ON CONFLICT DO NOTHING";
    let inserted = tx
        .q(SQL)
        .bind(charge.id.as_str())
        .bind(charge.project_id.as_str())
        .bind(charge.client_reference.as_deref())
        .bind(charge.amount.minor)
        .bind(charge.amount.currency.as_str())
        .bind(charge.application_fee)
        .bind(charge.destination.as_str())
        .bind(charge.state.as_str())
        .bind(now.as_micros())
        .exec()
        .await?;
    Ok(inserted == 1)
}

#[derive(FromRow)]
struct Row {
    id: String,
    project_id: String,
    client_reference: Option<String>,
    amount_minor: i64,
    currency: String,
    application_fee_minor: i64,
    destination: String,
    state: String,
    reason: Option<String>,
    payment_intent_id: Option<String>,
    told_at_us: i64,
}

/// A charge, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, id: &ChargeId) -> Result<Option<Charge>, StoreError> {
    const SQL: Sql = for_update!(
        "SELECT id, project_id, client_reference, amount_minor, currency, application_fee_minor, destination,
             state, reason, payment_intent_id, told_at_us
         FROM charge WHERE id = $1"
    );
    let row: Option<Row> = tx.q(SQL).bind(id.as_str()).one().await?;
    row.map(|row| {
        let at = At { table: "charge", id: &row.id };
        Ok(Charge {
            id: at.read("id", &row.id)?,
            project_id: at.read("project_id", &row.project_id)?,
            client_reference: row.client_reference,
            amount: Money { minor: row.amount_minor, currency: at.read("currency", &row.currency)? },
            application_fee: row.application_fee_minor,
            destination: row.destination,
            state: at.read("state", &row.state)?,
            reason: row.reason,
            payment_intent_id: row.payment_intent_id,
            told_at: Timestamp::from_micros(row.told_at_us),
        })
    })
    .transpose()
}

/// Writes what of a charge can change. The caller holds it locked.
pub async fn save(tx: &mut Tx, charge: &Charge) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE charge SET state = $2, reason = $3, payment_intent_id = $4, told_at_us = $5
        WHERE id = $1";
    let affected = tx
        .q(SQL)
        .bind(charge.id.as_str())
        .bind(charge.state.as_str())
        .bind(charge.reason.as_deref())
        .bind(charge.payment_intent_id.as_deref())
        .bind(charge.told_at.as_micros())
        .exec()
        .await?;
    expect_one(affected)
}
