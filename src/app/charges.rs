//! Charges for connected accounts: queued here, moved by the same protocol as payouts. The routes that
//! take them from callers are not part of this version.

use super::{App, Refusal, new_id, payouts};
use crate::{
    domain::{
        charge::ChargeState,
        ids::{ChargeId, IntentId, ProjectId},
        money::Money,
        time::Timestamp,
    },
    providers::outbound::{self, Order, OrderKind},
    store::{
        charges::{self, Charge},
        intents::{self, NewIntent, Purpose},
    },
};

/// The provider that charges.
const PROVIDER: &str = "stripe";

/// A charge as a caller asks for it.
#[derive(Clone, Debug)]
pub struct NewCharge {
    /// The project that sells.
    pub project_id: ProjectId,
    /// What the buyer pays; more than 0.
    pub amount: Money,
    /// What the platform keeps, minor units; 0 or more and less than the amount.
    pub application_fee: i64,
    /// The connected account that receives the rest and is the settlement merchant.
    pub destination: String,
    /// The caller's own id of the order: the same id never charges twice.
    pub client_reference: Option<String>,
}

/// A charge that is queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The charge.
    pub charge_id: ChargeId,
    /// What moves it.
    pub intent_id: IntentId,
    /// Whether it was queued before, by the same client reference.
    pub already: bool,
}

/// Stores a charge with its intent and its job, in one transaction. The dispatcher makes the payment intent.
///
/// # Errors
/// [`Refusal::Invalid`] for amounts that cannot be; a conflict `CHARGE_DIFFERS` when the client reference
/// names another charge.
pub async fn queue(app: &App, new: &NewCharge) -> Result<Queued, Refusal> {
    check(new)?;
    let now = app.now();
    let charge_id = match &new.client_reference {
        Some(reference) => ChargeId::derived(&[new.project_id.as_str(), reference]),
        None => new_id!(ChargeId, now),
    };
    let intent_id = IntentId::derived(&["charge", charge_id.as_str()]);
    let charge = Charge {
        id: charge_id.clone(),
        project_id: new.project_id.clone(),
        client_reference: new.client_reference.clone(),
        amount: new.amount,
        application_fee: new.application_fee,
        destination: new.destination.clone(),
        state: ChargeState::Pending,
        reason: None,
        payment_intent_id: None,
        told_at: Timestamp::EPOCH,
    };
    let provider = outbound::outbound(PROVIDER)
        .ok_or_else(|| Refusal::conflict("NOT_POSSIBLE", "no provider can make charges"))?;
    let order = Order {
        intent_id: intent_id.clone(),
        generation: 0,
        livemode: app.config.livemode,
        amount: new.amount,
        destination: new.destination.clone(),
        kind: OrderKind::Charge { application_fee: new.application_fee },
    };
    let mut tx = app.db.begin().await?;
    let already = !charges::insert(&mut tx, &charge, now).await?;
    if already {
        let known = charges::lock(&mut tx, &charge_id).await?.ok_or(Refusal::NotFound)?;
        let same = known.amount == charge.amount
            && known.application_fee == charge.application_fee
            && known.destination == charge.destination;
        if !same {
            return Err(Refusal::conflict(
                "CHARGE_DIFFERS",
                "this client_reference names a charge of another amount, fee or account; use a new one for a \
                 new order",
            ));
        }
        return Ok(Queued { charge_id, intent_id, already });
    }
    let intent = NewIntent {
        id: intent_id.clone(),
        purpose: Purpose::Charge { id: charge_id.clone(), application_fee: new.application_fee },
        provider: PROVIDER.to_owned(),
        livemode: app.config.livemode,
        destination: new.destination.clone(),
        amount: new.amount,
        generation: payouts::generation(provider, &order),
    };
    intents::insert(&mut tx, &[intent], now).await?;
    super::commit_change(tx).await?;
    app.wake.dispatch.notify_one();
    Ok(Queued { charge_id, intent_id, already })
}

fn check(new: &NewCharge) -> Result<(), Refusal> {
    if new.amount.minor <= 0 {
        return Err(Refusal::invalid("INVALID_AMOUNT", "amount", "amount must be more than 0 minor units"));
    }
    if new.application_fee < 0 || new.application_fee >= new.amount.minor {
        let message = "application_fee_amount must be 0 or more and less than the amount";
        return Err(Refusal::invalid("INVALID_FEE", "application_fee_amount", message));
    }
    let reference = new.client_reference.as_deref().unwrap_or("-");
    if reference.is_empty() || reference.chars().count() > 255 {
        let message = "client_reference must be 1 to 255 characters";
        return Err(Refusal::invalid("INVALID_CLIENT_REFERENCE", "client_reference", message));
    }
    Ok(())
}
