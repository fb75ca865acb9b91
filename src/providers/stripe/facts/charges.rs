//! Charges that we asked for: payment intents that carry our intent id. Every step of theirs is told, so
//! that a charge whose answer was lost is found by the first webhook about it.
//!
//! What a payment intent means as a sale is said in `sales`.

#[cfg(test)]
pub(super) mod tests;

use serde::Deserialize;

use super::{Event, sales};
use crate::{
    domain::{
        fact::{ChargeSeen, Fact},
        ids::IntentId,
        money::Currency,
    },
    providers::{
        MalformedEvent, Translation,
        codes::Metadata,
        payload::{Id, Minor, Reference, Seconds},
        stripe::INTENT_KEY,
    },
};

/// Source: `docs.stripe.com/api/payment_intents/object`.
#[derive(Deserialize)]
struct Charge {
    id: Id,
    amount: Minor,
    created: Seconds,
    currency: Currency,
    status: Id,
    transfer_data: Option<TransferData>,
}

#[derive(Deserialize)]
struct TransferData {
    destination: Option<Reference>,
}

#[derive(Deserialize)]
struct Marked {
    #[serde(default)]
    metadata: Metadata,
}

/// The buyer has paid: a sale like any other, and perhaps a charge of ours.
pub(super) fn succeeded(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let sale = sales::intent(event)?;
    let (Some(charge), Translation::Facts(facts)) = (charge(event)?, &sale) else { return Ok(sale) };
    Ok(Translation::Facts(facts.iter().cloned().chain([charge]).collect()))
}

/// Nothing was paid yet, or will be.
pub(super) fn moved_on(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    Ok(Translation::of(charge(event)?.into_iter().collect(), "not_own_charge"))
}

/// The charge, where the event tells one of ours. A payment intent of a connected account is never ours:
/// we charge on our own account, and its holder writes whatever metadata it likes.
fn charge(event: &Event<'_>) -> Result<Option<Fact>, MalformedEvent> {
    let Marked { metadata } = event.object()?;
    let told = metadata.0.as_ref().and_then(|metadata| metadata.get(INTENT_KEY)?.as_str());
    let Some(intent_id) = told.and_then(|text| IntentId::parse(text).ok()) else { return Ok(None) };
    if event.account.is_some() {
        return Ok(None);
    }
    let charge: Charge = event.object()?;
    Ok(Some(Fact::ChargeSeen(ChargeSeen {
        intent_id,
        payment_intent_id: charge.id.0,
        status: charge.status.0,
        amount: charge.amount.0,
        currency: charge.currency,
        destination: charge.transfer_data.and_then(|data| data.destination).map(|account| account.0),
        at: charge.created.0,
        told_at: event.at,
    })))
}
