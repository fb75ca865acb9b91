//! Payment intents that carry our intent id, and those that only seem to.

use serde_json::{Value, json};

use super::*;
use crate::{
    domain::time::Timestamp,
    providers::stripe::facts::tests::{facts_of, fixture, translate_value, with},
};

fn seen(event_type: &str, status: &str) -> ChargeSeen {
    ChargeSeen {
        intent_id: IntentId::parse("int_01krmtchargee").unwrap(),
        payment_intent_id: "pi_3RmtChargeE".to_owned(),
        status: status.to_owned(),
        amount: 2500,
        currency: Currency::parse("eur").unwrap(),
        destination: Some("acct_1RmtPayeeAda".to_owned()),
        at: Timestamp::from_secs(1_771_146_000),
        told_at: Timestamp::from_secs(fixture(event_type)["created"].as_i64().unwrap()),
    }
}

/// The fixtures of charges, with what they state.
pub(in crate::providers::stripe::facts) fn expected() -> Vec<(&'static str, Translation)> {
    [
        ("payment_intent.created", "requires_payment_method"),
        ("payment_intent.payment_failed", "requires_payment_method"),
        ("payment_intent.requires_action", "requires_action"),
        ("payment_intent.partially_funded", "requires_action"),
        ("payment_intent.processing", "processing"),
        ("payment_intent.amount_capturable_updated", "requires_capture"),
        ("payment_intent.canceled", "canceled"),
    ]
    .map(|(event_type, status)| {
        (event_type, Translation::Facts(vec![Fact::ChargeSeen(seen(event_type, status))]))
    })
    .into()
}

/// The payment of the fixture `payment_intent.succeeded`, made by a charge of ours.
fn own_payment() -> Value {
    let mut event = with("payment_intent.succeeded", "/transfer_data", json!({"destination": "acct_1"}));
    event["data"]["object"]["metadata"]["intent_id"] = json!("int_01");
    event
}

#[test]
fn a_charge_that_was_paid_is_a_sale_and_a_charge() {
    let as_sale = facts_of(&fixture("payment_intent.succeeded"));
    let facts = facts_of(&own_payment());
    let (charge, sale) = facts.split_last().unwrap();
    assert_eq!(sale, as_sale);
    let Fact::ChargeSeen(charge) = charge else { panic!("{charge:?}") };
    assert_eq!((charge.intent_id.as_str(), charge.status.as_str()), ("int_01", "succeeded"));
    assert_eq!((charge.amount, charge.destination.as_deref()), (12_000, Some("acct_1")));
}

#[test]
fn a_destination_may_be_told_as_an_object() {
    let expanded = json!({"destination": {"id": "acct_1", "object": "account"}});
    let facts = facts_of(&with("payment_intent.created", "/transfer_data", expanded));
    assert!(
        matches!(&facts[..], [Fact::ChargeSeen(charge)] if charge.destination.as_deref() == Some("acct_1"))
    );
    let none = facts_of(&with("payment_intent.created", "/transfer_data", Value::Null));
    assert!(matches!(&none[..], [Fact::ChargeSeen(charge)] if charge.destination.is_none()));
}

#[test]
fn words_for_a_status_that_are_new_are_kept() {
    let facts = facts_of(&with("payment_intent.created", "/status", json!("requires_patience")));
    assert_eq!(facts, [Fact::ChargeSeen(seen("payment_intent.created", "requires_patience"))]);
}

#[test]
fn what_does_not_carry_an_intent_id_is_no_charge_of_ours() {
    let not_ours = Ok(Translation::Ignored("not_own_charge"));
    for told in
        [json!(null), json!(7), json!(""), json!("int_"), json!("order-1"), json!("int_a b"), json!("po_01")]
    {
        let event = with("payment_intent.created", "/metadata/intent_id", told.clone());
        assert_eq!(translate_value(&event), not_ours, "{told}");
    }
    let without = with("payment_intent.created", "/metadata", json!(null));
    assert_eq!(translate_value(&without), not_ours);
    // Of a payment intent that is not ours nothing needs to be readable.
    let mut unreadable = without;
    unreadable["data"]["object"]["amount"] = json!("12.50");
    assert_eq!(translate_value(&unreadable), not_ours);
}

#[test]
fn a_connected_account_cannot_claim_a_charge_by_writing_our_metadata() {
    let mut created = fixture("payment_intent.created");
    created["account"] = json!("acct_1RmtPayeeAda");
    assert_eq!(translate_value(&created), Ok(Translation::Ignored("not_own_charge")));
    let mut paid = own_payment();
    paid["account"] = json!("acct_1RmtPayeeAda");
    assert_eq!(facts_of(&paid), facts_of(&fixture("payment_intent.succeeded")));
}
