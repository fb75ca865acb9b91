//! Accounts that affiliates are paid to, our transfers to them, and the balance that those come from.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::Event;
use crate::{
    domain::{
        fact::{BankPayout, Fact, PayoutAccount, TransferReversal, TransferReversed, TransferSeen},
        money::Currency,
        time::Timestamp,
    },
    providers::{
        MalformedEvent, Translation,
        codes::Metadata,
        payload::{self, Id, Lenient, Minor, Reference, Seconds, clean_text},
        stripe::INTENT_KEY,
    },
};

/// What Stripe names the groups that it makes itself for destination charges.
const CHARGE_GROUP_PREFIX: &str = "group_";

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

impl Account {
    /// What the account can do, as of `at`.
    fn state(self, at: Timestamp) -> PayoutAccount {
        let transfers = self.capabilities.0.as_ref().and_then(|capabilities| capabilities.get("transfers"));
        PayoutAccount {
            account_id: self.id.0,
            transfers_active: transfers.and_then(Value::as_str) == Some("active"),
            payouts_enabled: self.payouts_enabled == Some(true),
            charges_enabled: self.charges_enabled == Some(true),
            details_submitted: self.details_submitted == Some(true),
            disabled_reason: self.requirements.and_then(|requirements| requirements.disabled_reason.text()),
            at,
        }
    }
}

pub(super) fn account(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let account: Account = event.object()?;
    Ok(Translation::Facts(vec![Fact::PayoutAccount(account.state(event.at))]))
}

/// The state of an account that was read through the API at `now`; `None` if `text` is not an account.
pub(in crate::providers::stripe) fn payout_account(text: &str, now: Timestamp) -> Option<PayoutAccount> {
    let kind: Kind = payload::read(text, "").ok()?;
    let account: Account = payload::read(text, "").ok()?;
    (kind.object.0 == "account").then(|| account.state(now))
}

#[derive(Deserialize)]
struct Kind {
    object: Id,
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

/// Source: `docs.stripe.com/api/balance/balance_object`.
#[derive(Deserialize)]
struct Balance {
    available: Vec<Available>,
}

/// Signed: a balance can be overdrawn.
#[derive(Deserialize)]
struct Available {
    amount: i64,
    currency: Currency,
}

/// Money of a connected account pays none of our transfers.
pub(super) fn balance(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    if event.account.is_some() {
        return Ok(Translation::Ignored("not_own_account"));
    }
    let balance: Balance = event.object()?;
    let with_money = balance.available.iter().filter(|available| available.amount > 0);
    let currencies: BTreeSet<Currency> = with_money.map(|available| available.currency).collect();
    if currencies.is_empty() {
        return Ok(Translation::Ignored("no_money"));
    }
    Ok(Translation::Facts(vec![Fact::FundsAvailable { currencies: currencies.into_iter().collect() }]))
}
