//! Every fixture of `fixtures/stripe` with its exact facts, and what broken or old shapes become.

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

#[test]
fn an_authorisation_is_not_a_payment() {
    let mut event = fixture("charge.succeeded");
    event["data"]["object"]["captured"] = json!(false);
    event["data"]["object"]["amount_captured"] = json!(0);
    let facts = facts_of(&event);
    assert!(!facts.iter().any(|fact| matches!(fact, Fact::SalePaid(_))));
    assert!(facts.contains(&linked(charge("ch_3RmtOrderA"), intent("pi_3RmtOrderA"))));
}

#[test]
fn an_old_charge_without_amount_captured_counts_its_amount_once_captured() {
    let event = without("charge.captured", "amount_captured");
    assert!(matches!(&facts_of(&event)[0], Fact::SalePaid(paid) if paid.amount == 6000));
}

#[test]
fn old_shapes_link_the_invoice_and_its_payment() {
    let pi = with("payment_intent.succeeded", "/invoice", json!("in_old"));
    assert!(facts_of(&pi).contains(&linked(intent("pi_3RmtOrderA"), invoice("in_old"))));

    let mut event = fixture("payment_intent.succeeded");
    event["data"]["object"]["latest_charge"] = Value::Null;
    event["data"]["object"]["charges"] =
        json!({"object": "list", "data": [{"id": "ch_old"}, {"id": "ch_old"}]});
    let link = linked(intent("pi_3RmtOrderA"), charge("ch_old"));
    assert_eq!(facts_of(&event).iter().filter(|fact| **fact == link).count(), 1);

    let old_charge = with("charge.succeeded", "/invoice", json!("in_old"));
    assert!(facts_of(&old_charge).contains(&linked(charge("ch_3RmtOrderA"), invoice("in_old"))));

    let mut old = without("invoice.paid", "parent");
    let fields = &mut old["data"]["object"];
    fields["subscription"] = json!("sub_old");
    fields["subscription_details"] = json!({"metadata": {"ref": "old-code"}});
    fields["charge"] = json!("ch_old");
    fields["payment_intent"] = json!({"id": "pi_old", "object": "payment_intent"});
    fields["total_taxes"] = Value::Null;
    fields["tax"] = json!(300);
    let facts = facts_of(&old);
    let sale = invoice("in_1RmtPlanC1");
    assert!(matches!(&facts[0], Fact::SalePaid(paid)
        if paid.subscription.as_deref() == Some("sub_old") && paid.tax == Some(300)));
    assert!(facts.contains(&linked(sale.clone(), charge("ch_old"))));
    assert!(facts.contains(&linked(sale.clone(), intent("pi_old"))));
    assert!(facts.contains(&told(Subject::Sale(sale), HintSource::Metadata(3), "old-code", 604)));
}

fn invoice_amount_and_tax(event: &Value) -> (i64, Option<i64>) {
    match &facts_of(event)[0] {
        Fact::SalePaid(paid) => (paid.amount, paid.tax),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_tax_of_an_invoice_is_the_tax_within_what_was_paid() {
    // Half of the total was paid from credit.
    assert_eq!(invoice_amount_and_tax(&with("invoice.paid", "/amount_paid", json!(2450))), (2450, Some(192)));
    assert_eq!(invoice_amount_and_tax(&with("invoice.paid", "/amount_paid", json!(0))), (0, Some(0)));
    assert_eq!(invoice_amount_and_tax(&with("invoice.paid", "/total_taxes", json!([]))), (4900, Some(0)));
    assert_eq!(invoice_amount_and_tax(&without("invoice.paid", "total_taxes")), (4900, None));
    let mut old = without("invoice.paid", "total_taxes");
    old["data"]["object"]["total_tax_amounts"] = json!([{"amount": 100}, {"amount": 11}]);
    assert_eq!(invoice_amount_and_tax(&old), (4900, Some(111)));
    let mut credit = with("invoice.paid", "/total_taxes", json!([{"amount": -384}]));
    credit["data"]["object"]["amount_paid"] = json!(0);
    credit["data"]["object"]["total"] = json!(-4900);
    assert_eq!(invoice_amount_and_tax(&credit), (0, Some(0)));
    let huge = with("invoice.paid", "/total_taxes", json!([{"amount": i64::MAX}, {"amount": 1}]));
    assert_eq!(translate_value(&huge), Err(MalformedEvent::at("data.object.total_taxes")));
}

#[test]
fn an_invoice_without_a_payment_time_was_paid_when_the_event_says() {
    let event = with("invoice.paid", "/status_transitions/paid_at", Value::Null);
    assert!(matches!(&facts_of(&event)[0], Fact::SalePaid(paid) if paid.at == at(604)));
}

#[test]
fn an_invoices_own_metadata_wins_over_its_subscriptions() {
    let event = with("invoice.paid", "/metadata", json!({"via": "ada", "ref": "  linus "}));
    let codes: Vec<_> = facts_of(&event)
        .into_iter()
        .filter_map(|fact| match fact {
            Fact::SaleAttributed { subject: Subject::Sale(_), hint } => Some((hint.source, hint.code)),
            _ => None,
        })
        .collect();
    let expected =
        [(HintSource::Metadata(2), "ada".to_owned()), (HintSource::Metadata(3), "linus".to_owned())];
    assert_eq!(codes, expected);
}

#[test]
fn an_unpaid_session_links_and_attributes_but_is_no_payment() {
    for status in [json!("unpaid"), json!("a_new_word"), Value::Null, json!(7)] {
        let facts = facts_of(&with("checkout.session.completed", "/payment_status", status));
        assert!(!facts.iter().any(|fact| matches!(fact, Fact::SalePaid(_))));
        assert!(facts.contains(&linked(session("cs_test_a1RmtOrderA"), intent("pi_3RmtOrderA"))));
        assert!(facts.iter().any(|fact| matches!(fact, Fact::SaleAttributed { .. })));
    }
}

#[test]
fn a_free_session_is_paid_with_nothing_and_a_deferred_one_is_not_paid() {
    let mut event = with("checkout.session.completed", "/payment_status", json!("no_payment_required"));
    let is_sale = |fact: &Fact| matches!(fact, Fact::SalePaid(_));
    assert!(!facts_of(&event).iter().any(is_sale), "12000 to be paid later is not 12000 paid");
    event["data"]["object"]["amount_total"] = json!(0);
    assert!(matches!(&facts_of(&event)[0], Fact::SalePaid(paid) if paid.amount == 0 && paid.tax == Some(0)));
}

#[test]
fn a_session_that_starts_a_subscription_is_its_first_invoice() {
    let mut event = fixture("checkout.session.completed");
    let fields = &mut event["data"]["object"];
    fields["mode"] = json!("subscription");
    fields["payment_intent"] = Value::Null;
    fields["invoice"] = json!("in_first");
    fields["subscription"] = json!("sub_first");
    let facts = facts_of(&event);
    assert!(facts.contains(&linked(session("cs_test_a1RmtOrderA"), invoice("in_first"))));
    assert!(facts.contains(&told(subscription("sub_first"), HintSource::Metadata(0), "ada", 3)));
}

#[test]
fn saving_a_card_is_no_sale_but_tells_the_customers_code() {
    let mut event = fixture("checkout.session.completed");
    let fields = &mut event["data"]["object"];
    fields["mode"] = json!("setup");
    fields["payment_intent"] = Value::Null;
    fields["amount_total"] = Value::Null;
    fields["currency"] = Value::Null;
    fields["payment_status"] = json!("no_payment_required");
    let code = told(customer("cus_RmtBuyerA"), HintSource::Metadata(0), "ada", 3);
    assert_eq!(facts_of(&event), [code]);
}

#[test]
fn discounts_tell_the_code_as_typed_or_else_what_names_it() {
    let cases = [
        (
            json!([{"promotion_code": {"id": "promo_1", "code": "TYPED"}, "coupon": {"id": "c"}}]),
            Some("TYPED"),
        ),
        (json!([{"promotion_code": "promo_1", "coupon": null}]), Some("promo_1")),
        (json!([{"promotion_code": null, "coupon": {"id": "SUMMER"}}]), Some("SUMMER")),
        (json!([{"promotion_code": null, "coupon": "SUMMER"}]), Some("SUMMER")),
        (json!([{"promotion_code": null, "source": {"type": "coupon", "coupon": "SUMMER"}}]), Some("SUMMER")),
        (json!(["di_1"]), None),
        (json!([]), None),
        (json!("broken"), None),
        (json!([{"promotion_code": {"id": 5}}]), None),
    ];
    for (discounts, code) in cases {
        let facts = facts_of(&with("invoice.paid", "/discounts", discounts.clone()));
        let coupons: Vec<_> = facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::SaleAttributed { subject: Subject::Sale(_), hint } => {
                    (hint.source == HintSource::Coupon).then_some(hint.code.as_str())
                }
                _ => None,
            })
            .collect();
        assert_eq!(coupons, code.into_iter().collect::<Vec<_>>(), "{discounts}");
    }
}

#[test]
fn codes_that_cannot_be_codes_are_passed_over() {
    let long = "x".repeat(201);
    for code in
        [json!(""), json!("  "), json!(5), Value::Null, json!({"a": 1}), json!(long), json!("a\u{0}b")]
    {
        let event = with("customer.created", "/metadata", json!({ "via": code }));
        assert_eq!(translate_value(&event), Ok(Translation::Ignored("no_code")), "{event}");
    }
    for metadata in [json!([]), json!("text"), Value::Null, json!(1)] {
        let event = with("customer.created", "/metadata", metadata);
        assert_eq!(translate_value(&event), Ok(Translation::Ignored("no_code")));
    }
}

#[test]
fn refunds_count_until_they_fail() {
    let cases = [
        (json!("pending"), RefundStatus::Active),
        (json!("requires_action"), RefundStatus::Active),
        (json!("succeeded"), RefundStatus::Active),
        (json!("a_new_word"), RefundStatus::Active),
        (Value::Null, RefundStatus::Active),
        (json!("failed"), RefundStatus::Void),
        (json!("canceled"), RefundStatus::Void),
    ];
    for (word, status) in cases {
        assert_eq!(facts_of(&with("refund.created", "/status", word)), order_a_refund(status));
    }
}

#[test]
fn a_refund_without_a_charge_belongs_to_the_intent_and_without_both_to_no_sale() {
    let mut event = with("refund.created", "/charge", Value::Null);
    assert!(matches!(facts_of(&event).as_slice(),
        [Fact::Refund(refund)] if refund.sale == intent("pi_3RmtOrderA")));
    event["data"]["object"]["payment_intent"] = Value::Null;
    assert_eq!(translate_value(&event), Ok(Translation::Ignored("no_sale")));
}

#[test]
fn refunds_listed_in_an_old_charge_are_read_too() {
    let refund = fixture("refund.created")["data"]["object"].clone();
    let facts = facts_of(&with("charge.refunded", "/refunds", json!({"object": "list", "data": [refund]})));
    assert!(matches!(&facts[1], Fact::Refund(refund) if refund.refund_id == "re_3RmtOrderA1"));
}

/// Balance transactions of a dispute: amount and currency.
type Listed<'a> = &'a [(i64, &'a str)];

/// The dispute of an event of this type, with this status and list.
fn dispute(event_type: &str, status: &str, listed: Option<Listed<'_>>) -> Dispute {
    let mut event = with(event_type, "/status", json!(status));
    event["data"]["object"]["balance_transactions"] = match listed {
        None => Value::Null,
        Some(listed) => {
            listed.iter().map(|(amount, currency)| json!({"amount": amount, "currency": currency})).collect()
        }
    };
    match facts_of(&event).remove(0) {
        Fact::Dispute(dispute) => dispute,
        other => panic!("{other:?}"),
    }
}

#[test]
fn dispute_words_become_phases() {
    use DisputePhase::{Inquiry, InquiryClosed, Lost, Open, Won};
    let cases = [
        ("warning_needs_response", Inquiry),
        ("warning_under_review", Inquiry),
        ("warning_closed", InquiryClosed),
        ("prevented", InquiryClosed),
        ("needs_response", Open),
        ("under_review", Open),
        ("appeal_needs_response", Open),
        ("appeal_under_review", Open),
        ("a_new_word", Open),
        ("won", Won),
        ("lost", Lost),
    ];
    for (word, phase) in cases {
        assert_eq!(dispute("charge.dispute.updated", word, None).phase, phase, "{word}");
        let withdrawn = dispute("charge.dispute.funds_withdrawn", word, None).phase;
        assert_eq!(withdrawn, phase.max(Open), "money that was taken is no inquiry");
    }
}

#[test]
fn only_events_about_money_prove_that_money_of_a_dispute_moved() {
    let out: &[_] = &[(-8000, "eur")];
    let both: &[_] = &[(-8000, "eur"), (8000, "eur")];
    let part: &[_] = &[(-8000, "eur"), (3000, "eur")];
    let foreign: &[_] = &[(-8700, "usd")];
    let cases: [(_, _, Option<Listed<'_>>, _); 16] = [
        ("charge.dispute.created", "needs_response", Some(out), (0, 0)),
        ("charge.dispute.updated", "won", Some(both), (0, 0)),
        ("charge.dispute.funds_withdrawn", "needs_response", Some(out), (8000, 0)),
        ("charge.dispute.funds_withdrawn", "needs_response", Some(&[(-500, "eur")]), (500, 0)),
        ("charge.dispute.funds_withdrawn", "needs_response", Some(&[]), (8000, 0)),
        ("charge.dispute.funds_withdrawn", "needs_response", None, (8000, 0)),
        ("charge.dispute.funds_withdrawn", "needs_response", Some(foreign), (8000, 0)),
        ("charge.dispute.funds_reinstated", "won", Some(both), (8000, 8000)),
        ("charge.dispute.funds_reinstated", "under_review", Some(part), (8000, 3000)),
        ("charge.dispute.funds_reinstated", "won", Some(out), (8000, 8000)),
        ("charge.dispute.funds_reinstated", "won", None, (8000, 8000)),
        ("charge.dispute.closed", "won", Some(both), (8000, 8000)),
        ("charge.dispute.closed", "lost", Some(out), (8000, 0)),
        ("charge.dispute.closed", "lost", Some(&[]), (8000, 0)),
        ("charge.dispute.closed", "warning_closed", Some(&[]), (0, 0)),
        ("charge.dispute.closed", "won", None, (0, 0)),
    ];
    for (event_type, status, listed, moved) in cases {
        let dispute = dispute(event_type, status, listed);
        assert_eq!((dispute.withdrawn, dispute.reinstated), moved, "{event_type} {status} {listed:?}");
    }
}

#[test]
fn transfers_of_destination_charges_are_never_payouts() {
    let transfer = |metadata: Value, group: Value, source: Value| {
        let mut event = with("transfer.created", "/metadata", metadata);
        event["data"]["object"]["transfer_group"] = group;
        event["data"]["object"]["source_transaction"] = source;
        match facts_of(&event).remove(0) {
            Fact::TransferSeen(seen) => (seen.intent_id, seen.of_charge),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(transfer(json!({}), json!("group_pi_1"), json!("ch_1")), (None, true));
    assert_eq!(transfer(json!({}), json!("group_pi_1"), Value::Null), (None, true));
    assert_eq!(transfer(json!({}), json!("other"), json!("ch_1")), (None, true));
    assert_eq!(transfer(json!({}), json!("pay_1"), Value::Null), (Some("pay_1".to_owned()), false));
    assert_eq!(transfer(json!({}), Value::Null, Value::Null), (None, false));
    assert_eq!(
        transfer(json!({"intent_id": "pay_1"}), json!("group_x"), json!("ch_1")),
        (Some("pay_1".to_owned()), false)
    );
}

#[test]
fn funds_are_available_in_the_currencies_with_more_than_nothing() {
    let available = |list: Value| translate_value(&with("balance.available", "/available", list));
    let entry = |amount: i64, currency: &str| json!({"amount": amount, "currency": currency});
    let both = json!([entry(1, "usd"), entry(0, "gbp"), entry(5, "eur"), entry(-7, "jpy"), entry(2, "usd")]);
    let funds = Fact::FundsAvailable { currencies: vec![eur(), usd()] };
    assert_eq!(available(both), Ok(Translation::Facts(vec![funds])));
    assert_eq!(available(json!([])), Ok(Translation::Ignored("no_money")));
    assert_eq!(available(json!([entry(-1, "usd")])), Ok(Translation::Ignored("no_money")));
    assert_eq!(available(Value::Null).unwrap_err().path(), "data.object.available");
}

#[test]
fn old_and_foreign_shapes_are_ignored_with_a_reason() {
    let ignored =
        |event: &Value, reason| assert_eq!(translate_value(event), Ok(Translation::Ignored(reason)));
    ignored(&without("transfer.created", "amount_reversed"), "old_shape");
    ignored(&without("transfer.created", "created"), "old_shape");
    ignored(&without("charge.dispute.closed", "id"), "old_shape");
    let own = |event_type| {
        let mut event = fixture(event_type);
        event.as_object_mut().unwrap().remove("account");
        event
    };
    ignored(&own("payout.paid"), "own_account");
    let mut of_account = fixture("balance.available");
    of_account["account"] = json!("acct_1RmtPayeeAda");
    ignored(&of_account, "not_own_account");
    ignored(&own("account.application.deauthorized"), "no_account");
    ignored(&json!({"type": "price.created", "created": "whenever"}), "unhandled_type");
    ignored(&json!({"type": "v1.transfer.reversed", "object": "v2.core.event"}), "thin_event");
    ignored(&json!({"type": "transfer.reversed", "object": "v2.core.event"}), "thin_event");
    ignored(&with("invoice_payment.paid", "/payment", json!({"type": "payment_record"})), "no_sale");
}

#[test]
fn what_money_depends_on_is_read_strictly_and_errors_name_only_the_path() {
    const SECRET: &str = "jane@example.com";
    let wrong_amounts =
        [json!(-1), json!(1.5), json!(12e3), json!("12000"), json!(9_223_372_036_854_775_808_u64)];
    let amounts = [
        ("payment_intent.succeeded", "/amount_received"),
        ("charge.succeeded", "/amount_captured"),
        ("invoice.paid", "/amount_paid"),
        ("checkout.session.completed", "/amount_total"),
        ("refund.created", "/amount"),
        ("charge.refunded", "/amount_refunded"),
        ("charge.dispute.closed", "/amount"),
        ("transfer.reversed", "/amount"),
        ("transfer.reversed", "/amount_reversed"),
        ("transfer.reversed", "/reversals/data/0/amount"),
        ("payment_intent.created", "/amount"),
    ];
    let mut cases = Vec::new();
    for (event_type, pointer) in amounts {
        cases.extend(wrong_amounts.iter().map(|wrong| (event_type, pointer, wrong.clone())));
    }
    for event_type in
        ["payment_intent.succeeded", "charge.refunded", "transfer.created", "invoice_payment.paid"]
    {
        let key = if event_type == "invoice_payment.paid" { "/invoice" } else { "/id" };
        let mut wrong = vec![json!(""), json!(5), json!([SECRET]), json!("a\u{0}"), json!("x".repeat(256))];
        wrong.push(Value::Null);
        cases.extend(wrong.into_iter().map(|wrong| (event_type, key, wrong)));
    }
    for wrong in [json!("us"), json!("12$"), json!(SECRET), Value::Null, json!(840)] {
        cases.push(("payment_intent.succeeded", "/currency", wrong.clone()));
        cases.push(("checkout.session.completed", "/currency", wrong));
    }
    cases.push(("charge.succeeded", "/captured", json!("true")));
    cases.push(("charge.succeeded", "/payment_intent", json!(7)));
    cases.push(("invoice.paid", "/status_transitions/paid_at", json!(SECRET)));
    cases.push(("invoice.paid", "/status_transitions/paid_at", json!(-1)));
    cases.push(("account.updated", "/payouts_enabled", json!("yes")));
    for (event_type, pointer, wrong) in cases {
        let error = translate_value(&with(event_type, pointer, wrong.clone())).unwrap_err();
        let path = format!("data.object{}", pointer.replace('/', ".").replace(".data.0.", ".data[0]."));
        assert_eq!(error.path(), path, "{event_type} with {wrong}");
        assert!(!error.to_string().contains(SECRET));
    }
}

#[test]
fn missing_and_repeated_fields_are_named() {
    let missing = [
        (without("payment_intent.succeeded", "currency"), "data.object.currency"),
        (without("refund.created", "amount"), "data.object.amount"),
        (without("checkout.session.completed", "amount_total"), "data.object.amount_total"),
        (without("charge.dispute.created", "status"), "data.object.status"),
        (json!({"type": "invoice.paid", "created": 1}), "data"),
        (json!({"type": "invoice.paid", "created": 1, "data": {}}), "data.object"),
        (json!({"type": "invoice.paid", "data": {"object": {}}}), "created"),
        (json!({"object": "event"}), "type"),
        (json!({"type": "invoice.paid", "created": "2026-01-01", "data": {"object": {}}}), "created"),
    ];
    for (event, path) in missing {
        assert_eq!(translate_value(&event).unwrap_err().path(), path);
    }
    let twice =
        br#"{"type":"refund.created","created":1,"data":{"object":{"id":"re_1","amount":1,"amount":2}}}"#;
    assert_eq!(
        translate(twice, MetadataKeys { codes: &keys(), subjects: &[] }).unwrap_err().path(),
        "data.object.amount"
    );
    for broken in [&b""[..], b"[]", b"{", b"\xff", b"\xef\xbb\xbf{}", b"{\"type\":\"x\"} {}"] {
        assert!(translate(broken, MetadataKeys { codes: &keys(), subjects: &[] }).is_err());
    }
}
