//! Accounts that affiliates are paid to, and our transfers to them.

use serde::Deserialize;
use serde_json::Value;

use super::Event;
use crate::{
    domain::{
        fact::{BankPayout, Fact, PayoutAccount, TransferReversal, TransferReversed, TransferSeen},
        money::Currency,
    },
    providers::{
        MalformedEvent, Translation,
        codes::Metadata,
        payload::{Id, Lenient, Minor, Reference, Seconds, clean_text},
    },
};

/// What Stripe names the groups that it makes itself for destination charges.
const CHARGE_GROUP_PREFIX: &str = "group_";

/// The metadata key that carries our intent id.
const INTENT_KEY: &str = "intent_id";

/// Longest intent id or transfer group, characters.
const GROUP_CHARS_MAX: usize = 255;

/// Source: docs.stripe.com/api/transfers/object. Before 2017-04-06 a `transfer` was a payout to one's own
/// bank, without `created` and `amount_reversed`.
#[derive(Deserialize)]
struct Transfer {
    id: Id,
    amount: Minor,
    amount_reversed: Option<Minor>,
    created: Option<Seconds>,
    currency: Currency,
    destination: Option<Reference>,
    #[serde(default, rename = "transfer_group")]
    group: Lenient<String>,
    source_transaction: Option<Reference>,
    reversals: Option<Reversals>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Reversals {
    data: Vec<Reversal>,
}

#[derive(Deserialize)]
struct Reversal {
    id: Id,
    amount: Minor,
}

/// `transfer.reversed` fires for every reversal, a partial one too; the amount reversed is cumulative.
pub(super) fn transfer(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let transfer: Transfer = event.object()?;
    let (Some(Seconds(at)), Some(Minor(reversed_total))) = (transfer.created, transfer.amount_reversed)
    else {
        return Ok(Translation::Ignored("old_shape"));
    };
    let told_intent = transfer.metadata.0.as_ref().and_then(|metadata| metadata.get(INTENT_KEY)?.as_str());
    let told_intent = told_intent.and_then(|id| clean_text(id, GROUP_CHARS_MAX));
    let group = transfer.group.text();
    let is_charge_group = group.as_deref().is_some_and(|group| group.starts_with(CHARGE_GROUP_PREFIX));
    // We never send `source_transaction`, so a transfer tied to a charge is not a payout of ours unless
    // it names an intent.
    let of_charge = told_intent.is_none() && (is_charge_group || transfer.source_transaction.is_some());
    let intent_id = told_intent.or_else(|| group.filter(|_| !of_charge && !is_charge_group));
    let seen = TransferSeen {
        transfer_id: transfer.id.0,
        intent_id,
        amount: transfer.amount.0,
        currency: transfer.currency,
        destination: transfer.destination.map(|destination| destination.0),
        of_charge,
        at,
    };
    if reversed_total == 0 {
        return Ok(Translation::Facts(vec![Fact::TransferSeen(seen)]));
    }
    let reversals = transfer.reversals.into_iter().flat_map(|reversals| reversals.data);
    let reversals = reversals
        .map(|reversal| TransferReversal { reversal_id: reversal.id.0, amount: reversal.amount.0 })
        .collect();
    let reversed = TransferReversed { transfer: seen, reversed_total, reversals };
    Ok(Translation::Facts(vec![Fact::TransferReversed(reversed)]))
}

/// Source: docs.stripe.com/api/accounts/object. A switch that is not told is off.
#[derive(Deserialize)]
struct Account {
    id: Id,
    #[serde(default)]
    capabilities: Lenient<Value>,
    charges_enabled: Option<bool>,
    payouts_enabled: Option<bool>,
    details_submitted: Option<bool>,
    requirements: Option<Requirements>,
}

#[derive(Deserialize)]
struct Requirements {
    #[serde(default)]
    disabled_reason: Lenient<String>,
}

pub(super) fn account(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let account: Account = event.object()?;
    let transfers = account.capabilities.0.as_ref().and_then(|capabilities| capabilities.get("transfers"));
    Ok(Translation::Facts(vec![Fact::PayoutAccount(PayoutAccount {
        account_id: account.id.0,
        transfers_active: transfers.and_then(Value::as_str) == Some("active"),
        payouts_enabled: account.payouts_enabled == Some(true),
        charges_enabled: account.charges_enabled == Some(true),
        details_submitted: account.details_submitted == Some(true),
        disabled_reason: account.requirements.and_then(|requirements| requirements.disabled_reason.text()),
        at: event.at,
    })]))
}

/// The object is our own application; the account is told by the event itself.
///
/// Source: docs.stripe.com/api/events/types#event_types-account.application.deauthorized.
pub(super) fn deauthorized(event: &Event<'_>) -> Translation {
    let gone = |account_id| Fact::PayoutAccountGone { account_id, at: event.at };
    Translation::of(event.account.clone().map(gone).into_iter().collect(), "no_account")
}

/// Source: docs.stripe.com/api/payouts/object.
#[derive(Deserialize)]
struct Payout {
    id: Id,
    amount: i64,
    currency: Currency,
    status: Id,
    #[serde(default)]
    failure_code: Lenient<String>,
}

/// A payout of ours to our own bank says nothing about any affiliate.
pub(super) fn bank_payout(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let Some(account_id) = event.account.clone() else {
        return Ok(Translation::Ignored("own_account"));
    };
    let payout: Payout = event.object()?;
    Ok(Translation::Facts(vec![Fact::BankPayout(BankPayout {
        account_id,
        payout_id: payout.id.0,
        amount: payout.amount,
        currency: payout.currency,
        status: payout.status.0,
        failure_code: payout.failure_code.text(),
        at: event.at,
    })]))
}
