//! Every fixture of `fixtures/stripe` with its exact facts.

mod shapes;

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::domain::{
    fact::{
        BankPayout, Dispute, DisputePhase, Hint, HintSource, Item, PayoutAccount, Refund, RefundStatus,
        SalePaid, Subject, TransferReversal, TransferReversed, TransferSeen,
    },
    money::Currency,
};

/// 2026-01-01T09:00:00Z, when the story of the fixtures begins.
const START_S: i64 = 1_767_258_000;
const DAY_S: i64 = 86_400;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stripe")
}

fn keys() -> Vec<String> {
    ["referral_code", "affiliate_code", "via", "ref"].map(str::to_owned).to_vec()
}

pub(super) fn fixture(event_type: &str) -> Value {
    let text = fs::read_to_string(folder().join(format!("{event_type}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(super) fn translate_value(event: &Value) -> Result<Translation, MalformedEvent> {
    translate(event.to_string().as_bytes(), MetadataKeys { codes: &keys(), subjects: &[] })
}

pub(super) fn facts_of(event: &Value) -> Vec<Fact> {
    match translate_value(event).unwrap() {
        Translation::Facts(facts) => facts,
        Translation::Ignored(reason) => panic!("ignored as {reason}"),
    }
}

/// The fixture of `event_type`, with `value` at `pointer` below `data.object`.
pub(super) fn with(event_type: &str, pointer: &str, value: Value) -> Value {
    let mut event = fixture(event_type);
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = event.pointer_mut(&format!("/data/object{parent}")).unwrap();
    match parent {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => other[key] = value,
    }
    event
}

/// The fixture of `event_type` without the field `key` of `data.object`.
fn without(event_type: &str, key: &str) -> Value {
    let mut event = fixture(event_type);
    event["data"]["object"].as_object_mut().unwrap().remove(key).unwrap();
    event
}

fn at(offset_s: i64) -> Timestamp {
    Timestamp::from_secs(START_S + offset_s)
}

fn usd() -> Currency {
    Currency::parse("usd").unwrap()
}

fn eur() -> Currency {
    Currency::parse("eur").unwrap()
}

fn object(kind: ObjectKind, id: &str) -> ObjectRef {
    ObjectRef::new(kind, id)
}

fn intent(id: &str) -> ObjectRef {
    object(ObjectKind::Intent, id)
}

fn charge(id: &str) -> ObjectRef {
    object(ObjectKind::Charge, id)
}

fn invoice(id: &str) -> ObjectRef {
    object(ObjectKind::Invoice, id)
}

fn session(id: &str) -> ObjectRef {
    object(ObjectKind::CheckoutSession, id)
}

fn linked(sale: ObjectRef, alias: ObjectRef) -> Fact {
    Fact::SaleLinked { sale, alias }
}

fn told(subject: Subject, source: HintSource, code: &str, offset_s: i64) -> Fact {
    Fact::SaleAttributed { subject, hint: Hint { source, code: code.to_owned(), at: at(offset_s) } }
}

fn customer(id: &str) -> Subject {
    Subject::Customer(id.to_owned())
}

fn subscription(id: &str) -> Subject {
    Subject::Subscription(id.to_owned())
}

fn paid(sale: ObjectRef, amount: i64, currency: Currency, offset_s: i64) -> SalePaid {
    SalePaid {
        sale,
        parent: None,
        amount,
        tax: None,
        currency,
        at: at(offset_s),
        customer: None,
        subscription: None,
        billing_reason: None,
        buyer_email: None,
        items: Vec::new(),
    }
}

fn order_a_refund(status: RefundStatus) -> Vec<Fact> {
    vec![
        Fact::Refund(Refund {
            sale: charge("ch_3RmtOrderA"),
            refund_id: "re_3RmtOrderA1".to_owned(),
            amount: 3000,
            currency: usd(),
            status,
        }),
        linked(charge("ch_3RmtOrderA"), intent("pi_3RmtOrderA")),
    ]
}

fn order_b_refund() -> Vec<Fact> {
    vec![
        Fact::Refund(Refund {
            sale: charge("ch_3RmtOrderB"),
            refund_id: "re_3RmtOrderB1".to_owned(),
            amount: 2000,
            currency: eur(),
            status: RefundStatus::Void,
        }),
        linked(charge("ch_3RmtOrderB"), intent("pi_3RmtOrderB")),
    ]
}

fn plan_c_invoice() -> Vec<Fact> {
    let sale = invoice("in_1RmtPlanC1");
    vec![
        Fact::SalePaid(SalePaid {
            tax: Some(384),
            customer: Some("cus_RmtBuyerC".to_owned()),
            items: vec![Item {
                price: Some("price_1RmtPlanC".to_owned()),
                product: Some("prod_RmtPlanC".to_owned()),
                amount: 4516,
            }],
            subscription: Some("sub_1RmtPlanC".to_owned()),
            billing_reason: Some("subscription_create".to_owned()),
            buyer_email: Some("buyer.c@example.com".to_owned()),
            ..paid(sale.clone(), 4900, usd(), 603)
        }),
        told(Subject::Sale(sale), HintSource::Metadata(2), "grace", 604),
        told(subscription("sub_1RmtPlanC"), HintSource::Metadata(2), "grace", 604),
        told(customer("cus_RmtBuyerC"), HintSource::Metadata(2), "grace", 604),
    ]
}

fn plan_c_told(offset_s: i64) -> Vec<Fact> {
    vec![
        told(subscription("sub_1RmtPlanC"), HintSource::Metadata(2), "grace", offset_s),
        told(customer("cus_RmtBuyerC"), HintSource::Metadata(2), "grace", offset_s),
    ]
}

fn order_d_dispute(phase: DisputePhase, withdrawn: i64, reinstated: i64) -> Vec<Fact> {
    vec![
        Fact::Dispute(Dispute {
            sale: charge("py_3RmtOrderD"),
            dispute_id: "du_1RmtOrderD".to_owned(),
            amount: 8000,
            currency: eur(),
            phase,
            withdrawn,
            reinstated,
        }),
        linked(charge("py_3RmtOrderD"), intent("pi_3RmtOrderD")),
    ]
}

fn ada_transfer() -> TransferSeen {
    TransferSeen {
        transfer_id: "tr_1RmtPayoutAda".to_owned(),
        intent_id: Some("pay_01krmtpayoutada".to_owned()),
        amount: 1800,
        currency: usd(),
        destination: Some("acct_1RmtPayeeAda".to_owned()),
        of_charge: false,
        at: at(40 * DAY_S),
    }
}

fn ada_bank_payout(status: &str, failure_code: Option<&str>, offset_s: i64) -> Vec<Fact> {
    vec![Fact::BankPayout(BankPayout {
        account_id: "acct_1RmtPayeeAda".to_owned(),
        payout_id: "po_1RmtBankAda".to_owned(),
        amount: 1300,
        currency: usd(),
        status: status.to_owned(),
        failure_code: failure_code.map(str::to_owned),
        at: at(offset_s),
    })]
}

fn expected_sales() -> Vec<(&'static str, Translation)> {
    let order_a = intent("pi_3RmtOrderA");
    let charge_a = charge("ch_3RmtOrderA");
    let session_a = session("cs_test_a1RmtOrderA");
    let charge_b = charge("ch_3RmtOrderB");
    let session_d = session("cs_test_d1RmtOrderD");
    let code = |subject, offset_s| told(subject, HintSource::Metadata(0), "ada", offset_s);
    let facts = Translation::Facts;
    vec![
        (
            "payment_intent.succeeded",
            facts(vec![
                Fact::SalePaid(SalePaid {
                    customer: Some("cus_RmtBuyerA".to_owned()),
                    buyer_email: Some("buyer.a@example.com".to_owned()),
                    ..paid(order_a.clone(), 12_000, usd(), 2)
                }),
                linked(order_a.clone(), charge_a.clone()),
                linked(order_a.clone(), object(ObjectKind::External, "order-1001")),
                code(Subject::Sale(order_a.clone()), 2),
                code(customer("cus_RmtBuyerA"), 2),
            ]),
        ),
        (
            "charge.succeeded",
            facts(vec![
                Fact::SalePaid(SalePaid {
                    parent: Some(order_a.clone()),
                    customer: Some("cus_RmtBuyerA".to_owned()),
                    buyer_email: Some("buyer.a@example.com".to_owned()),
                    ..paid(charge_a.clone(), 12_000, usd(), 2)
                }),
                linked(charge_a.clone(), order_a.clone()),
                code(Subject::Sale(charge_a), 2),
                code(customer("cus_RmtBuyerA"), 2),
            ]),
        ),
        (
            "checkout.session.completed",
            facts(vec![
                Fact::SalePaid(SalePaid {
                    tax: Some(1000),
                    customer: Some("cus_RmtBuyerA".to_owned()),
                    buyer_email: Some("buyer.a@example.com".to_owned()),
                    ..paid(session_a.clone(), 12_000, usd(), 3)
                }),
                linked(session_a.clone(), order_a),
                code(Subject::Sale(session_a), 3),
                code(customer("cus_RmtBuyerA"), 3),
            ]),
        ),
        (
            "charge.captured",
            facts(vec![
                Fact::SalePaid(SalePaid {
                    parent: Some(intent("pi_3RmtOrderB")),
                    customer: Some("cus_RmtBuyerB".to_owned()),
                    buyer_email: Some("buyer.b@example.com".to_owned()),
                    ..paid(charge_b.clone(), 5000, eur(), 2 * DAY_S)
                }),
                linked(charge_b.clone(), intent("pi_3RmtOrderB")),
                told(Subject::Sale(charge_b), HintSource::Metadata(1), "grace", 2 * DAY_S),
                told(customer("cus_RmtBuyerB"), HintSource::Metadata(1), "grace", 2 * DAY_S),
            ]),
        ),
        ("invoice.paid", facts(plan_c_invoice())),
        ("invoice.payment_succeeded", facts(plan_c_invoice())),
        ("invoice_payment.paid", facts(vec![linked(invoice("in_1RmtPlanC1"), intent("pi_3RmtPlanC1"))])),
        (
            "checkout.session.async_payment_succeeded",
            facts(vec![
                Fact::SalePaid(SalePaid {
                    tax: Some(1277),
                    customer: Some("cus_RmtBuyerD".to_owned()),
                    buyer_email: Some("buyer.d@example.com".to_owned()),
                    ..paid(session_d.clone(), 8000, eur(), 6 * DAY_S)
                }),
                linked(session_d.clone(), intent("pi_3RmtOrderD")),
                told(Subject::Sale(session_d.clone()), HintSource::ClientReference, "ada", 6 * DAY_S),
                told(Subject::Sale(session_d), HintSource::Coupon, "ADA10", 6 * DAY_S),
                told(customer("cus_RmtBuyerD"), HintSource::ClientReference, "ada", 6 * DAY_S),
                told(customer("cus_RmtBuyerD"), HintSource::Coupon, "ADA10", 6 * DAY_S),
            ]),
        ),
    ]
}

fn expected_attributions() -> Vec<(&'static str, Translation)> {
    let facts = Translation::Facts;
    vec![
        (
            "customer.created",
            facts(vec![told(customer("cus_RmtBuyerC"), HintSource::Metadata(2), "grace", -60)]),
        ),
        (
            "customer.updated",
            facts(vec![told(customer("cus_RmtBuyerC"), HintSource::Metadata(2), "grace", 606)]),
        ),
        ("customer.subscription.created", facts(plan_c_told(600))),
        ("customer.subscription.updated", facts(plan_c_told(605))),
        (
            "customer.subscription.deleted",
            facts(vec![Fact::SubscriptionEnded {
                subscription: "sub_1RmtPlanC".to_owned(),
                at: at(20 * DAY_S),
            }]),
        ),
    ]
}

fn expected_returns() -> Vec<(&'static str, Translation)> {
    let charge_a = charge("ch_3RmtOrderA");
    let facts = Translation::Facts;
    vec![
        ("refund.created", facts(order_a_refund(RefundStatus::Active))),
        ("refund.updated", facts(order_a_refund(RefundStatus::Active))),
        (
            "charge.refunded",
            facts(vec![
                Fact::RefundedTotal { sale: charge_a.clone(), total: 3000, currency: usd() },
                linked(charge_a, intent("pi_3RmtOrderA")),
            ]),
        ),
        ("refund.failed", facts(order_b_refund())),
        ("charge.refund.updated", facts(order_b_refund())),
        ("charge.dispute.created", facts(order_d_dispute(DisputePhase::Open, 0, 0))),
        ("charge.dispute.updated", facts(order_d_dispute(DisputePhase::Open, 0, 0))),
        ("charge.dispute.funds_withdrawn", facts(order_d_dispute(DisputePhase::Open, 8000, 0))),
        ("charge.dispute.funds_reinstated", facts(order_d_dispute(DisputePhase::Won, 8000, 8000))),
        ("charge.dispute.closed", facts(order_d_dispute(DisputePhase::Won, 8000, 8000))),
    ]
}

fn expected_connect() -> Vec<(&'static str, Translation)> {
    let account_id = "acct_1RmtPayeeAda".to_owned();
    let facts = Translation::Facts;
    vec![
        ("balance.available", facts(vec![Fact::FundsAvailable { currencies: vec![usd()] }])),
        ("transfer.created", facts(vec![Fact::TransferSeen(ada_transfer())])),
        ("transfer.updated", facts(vec![Fact::TransferSeen(ada_transfer())])),
        (
            "transfer.reversed",
            facts(vec![Fact::TransferReversed(TransferReversed {
                transfer: ada_transfer(),
                reversed_total: 500,
                reversals: vec![TransferReversal {
                    reversal_id: "trr_1RmtPayoutAda1".to_owned(),
                    amount: 500,
                }],
            })]),
        ),
        (
            "account.updated",
            facts(vec![Fact::PayoutAccount(PayoutAccount {
                account_id: account_id.clone(),
                transfers_active: true,
                payouts_enabled: true,
                charges_enabled: false,
                details_submitted: true,
                disabled_reason: None,
                at: at(-9 * DAY_S),
            })]),
        ),
        (
            "account.application.deauthorized",
            facts(vec![Fact::PayoutAccountGone { account_id, at: at(60 * DAY_S) }]),
        ),
        ("payout.paid", facts(ada_bank_payout("paid", None, 47 * DAY_S))),
        ("payout.failed", facts(ada_bank_payout("failed", Some("account_closed"), 49 * DAY_S))),
    ]
}

fn expected() -> Vec<(&'static str, Translation)> {
    [
        expected_sales(),
        expected_attributions(),
        expected_returns(),
        expected_connect(),
        super::charges::tests::expected(),
    ]
    .concat()
}

#[test]
fn every_fixture_states_exactly_its_facts() {
    for (event_type, translation) in expected() {
        assert_eq!(translate_value(&fixture(event_type)), Ok(translation), "{event_type}");
    }
}

#[test]
fn every_handled_type_has_a_fixture_and_every_fixture_an_expectation() {
    let files: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let expectations: BTreeSet<String> = expected().iter().map(|(name, _)| (*name).to_owned()).collect();
    let handled: BTreeSet<String> = TRANSLATIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, expectations);
    assert_eq!(files, handled);
    for file in files {
        assert_eq!(fixture(&file)["type"], json!(file));
    }
}
