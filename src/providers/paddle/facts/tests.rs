//! Every fixture of `fixtures/paddle` with its exact facts, and what broken shapes become.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::domain::fact::{Hint, Subject};

const TRANSACTION: &str = "txn_01krmtplan1000000000000000";
const SUBSCRIPTION: &str = "sub_01krmtplan0000000000000000";
const CUSTOMER: &str = "ctm_01krmtbuyer000000000000000";
const ADJUSTMENT: &str = "adj_01krmtrefund10000000000000";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/paddle")
}

fn fixture(event_type: &str) -> Value {
    let text = fs::read_to_string(folder().join(format!("{event_type}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn translate_value(event: &Value) -> Result<Translation, MalformedEvent> {
    let keys = ["referral_code", "via"].map(str::to_owned);
    translate(event.to_string().as_bytes(), MetadataKeys { codes: &keys, subjects: &[] })
}

fn facts_of(event: &Value) -> Vec<Fact> {
    match translate_value(event).unwrap() {
        Translation::Facts(facts) => facts,
        Translation::Ignored(reason) => panic!("ignored as {reason}"),
    }
}

/// The fixture of `event_type`, with `value` at `pointer` below `data`.
fn with(event_type: &str, pointer: &str, value: Value) -> Value {
    let mut event = fixture(event_type);
    *event.pointer_mut(&format!("/data{pointer}")).unwrap() = value;
    event
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

fn eur() -> Currency {
    Currency::parse("EUR").unwrap()
}

fn sale() -> ObjectRef {
    ObjectRef::new(ObjectKind::Transaction, TRANSACTION)
}

fn told(subjects: &[Subject], source: HintSource, code: &str, time: &str) -> Vec<Fact> {
    let hint = Hint { source, code: code.to_owned(), at: at(time) };
    subjects
        .iter()
        .map(|subject| Fact::SaleAttributed { subject: subject.clone(), hint: hint.clone() })
        .collect()
}

fn ada(subjects: &[Subject], time: &str) -> Vec<Fact> {
    told(subjects, HintSource::Metadata(0), "ada", time)
}

fn customer() -> Subject {
    Subject::Customer(CUSTOMER.to_owned())
}

fn subscription() -> Subject {
    Subject::Subscription(SUBSCRIPTION.to_owned())
}

fn refund(status: RefundStatus) -> Vec<Fact> {
    let (refund_id, currency) = (ADJUSTMENT.to_owned(), eur());
    vec![Fact::Refund(Refund { sale: sale(), refund_id, amount: 1190, currency, status })]
}

fn dispute(phase: DisputePhase, withdrawn: i64, reinstated: i64) -> Vec<Fact> {
    vec![Fact::Dispute(Dispute {
        sale: sale(),
        dispute_id: ADJUSTMENT.to_owned(),
        amount: 1190,
        currency: eur(),
        phase,
        withdrawn,
        reinstated,
    })]
}

fn completed() -> Vec<Fact> {
    let paid = Fact::SalePaid(SalePaid {
        sale: sale(),
        parent: None,
        amount: 2975,
        tax: Some(475),
        currency: eur(),
        at: at("2026-01-03T10:00:02.5Z"),
        customer: Some(CUSTOMER.to_owned()),
        subscription: Some(SUBSCRIPTION.to_owned()),
        billing_reason: Some("web".to_owned()),
        buyer_email: None,
        items: Vec::new(),
    });
    let subjects = [Subject::Sale(sale()), subscription(), customer()];
    [vec![paid], ada(&subjects, "2026-01-03T10:00:05Z")].concat()
}

fn expected() -> Vec<(&'static str, Vec<Fact>)> {
    let of_sale = [Subject::Sale(sale()), customer()];
    let of_subscription = [subscription(), customer()];
    let ended =
        Fact::SubscriptionEnded { subscription: SUBSCRIPTION.to_owned(), at: at("2026-02-01T07:00:00Z") };
    vec![
        ("transaction.updated", ada(&of_sale, "2026-01-03T09:59:00Z")),
        ("transaction.billed", ada(&of_sale, "2026-01-03T10:00:03.2Z")),
        ("transaction.paid", ada(&of_sale, "2026-01-03T10:00:03.5Z")),
        ("subscription.created", ada(&of_subscription, "2026-01-03T10:00:03.7Z")),
        ("subscription.activated", ada(&of_subscription, "2026-01-03T10:00:03.8Z")),
        ("transaction.completed", completed()),
        ("subscription.updated", ada(&of_subscription, "2026-01-10T08:00:00Z")),
        ("adjustment.created", refund(RefundStatus::AwaitingApproval)),
        ("adjustment.updated", refund(RefundStatus::Active)),
        ("subscription.canceled", vec![ended]),
    ]
}

#[test]
fn every_fixture_states_exactly_its_facts() {
    for (event_type, facts) in expected() {
        assert_eq!(translate_value(&fixture(event_type)), Ok(Translation::Facts(facts)), "{event_type}");
    }
}

#[test]
fn every_fixture_has_an_expectation() {
    let files: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, expected().iter().map(|(name, _)| (*name).to_owned()).collect());
    for file in files {
        assert_eq!(fixture(&file)["event_type"], json!(file));
    }
}

fn adjusted(action: &str, status: &str) -> Result<Translation, MalformedEvent> {
    let mut event = with("adjustment.updated", "/action", json!(action));
    event["data"]["status"] = json!(status);
    translate_value(&event)
}

#[test]
fn adjustments_move_money_only_when_approved() {
    use DisputePhase::{Inquiry, InquiryClosed, Lost, Open, Won};
    use RefundStatus::{Active, AwaitingApproval, Void};
    let cases = [
        ("refund", "pending_approval", refund(AwaitingApproval)),
        ("refund", "approved", refund(Active)),
        ("refund", "rejected", refund(Void)),
        ("refund", "reversed", refund(Void)),
        ("refund", "a_new_word", refund(AwaitingApproval)),
        ("chargeback", "approved", dispute(Lost, 1190, 0)),
        ("chargeback", "reversed", dispute(Won, 1190, 1190)),
        ("chargeback", "pending_approval", dispute(Open, 0, 0)),
        ("chargeback", "a_new_word", dispute(Open, 0, 0)),
        ("chargeback_warning", "approved", dispute(Inquiry, 0, 0)),
        ("chargeback_warning", "pending_approval", dispute(Inquiry, 0, 0)),
        ("chargeback_warning", "reversed", dispute(InquiryClosed, 0, 0)),
        ("chargeback_warning", "rejected", dispute(InquiryClosed, 0, 0)),
    ];
    for (action, status, facts) in cases {
        assert_eq!(adjusted(action, status), Ok(Translation::Facts(facts)), "{action} {status}");
    }
    let (reverse_id, currency) = (ADJUSTMENT.to_owned(), eur());
    let reversed =
        Fact::ChargebackReversed(ChargebackReversed { sale: sale(), reverse_id, amount: 1190, currency });
    assert_eq!(adjusted("chargeback_reverse", "approved"), Ok(Translation::Facts(vec![reversed])));
    let ignored = [
        ("chargeback_reverse", "pending_approval", "not_final"),
        ("chargeback_warning_reverse", "approved", "no_sale"),
        ("credit", "approved", "no_cash"),
        ("credit_reverse", "approved", "no_cash"),
        ("a_new_action", "approved", "no_cash"),
    ];
    for (action, status, reason) in ignored {
        assert_eq!(adjusted(action, status), Ok(Translation::Ignored(reason)), "{action} {status}");
    }
}

fn paid(event: &Value) -> SalePaid {
    match facts_of(event).remove(0) {
        Fact::SalePaid(paid) => paid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn credit_that_was_used_is_not_money_that_came_in() {
    let mut event = with("transaction.completed", "/details/totals/grand_total", json!("1190"));
    event["data"]["details"]["totals"]["grand_total_tax"] = json!("190");
    assert_eq!((paid(&event).amount, paid(&event).tax), (1190, Some(190)));
    event["data"]["details"]["totals"]["grand_total_tax"] = Value::Null;
    assert_eq!(paid(&event).tax, Some(190), "1190 of 2975 holds 190 of 475 tax");
    event["data"]["details"]["totals"]["tax"] = Value::Null;
    assert_eq!(paid(&event).tax, None, "absent is not zero");
    event["data"]["details"]["totals"]["grand_total"] = Value::Null;
    assert_eq!(paid(&event).amount, 2975);
}

#[test]
fn a_sale_was_paid_when_its_last_payment_was_captured() {
    let mut event = fixture("transaction.completed");
    event["data"]["payments"] = json!([
        {"captured_at": "2026-01-03T10:00:02Z"}, {"captured_at": null}, {"captured_at": "2026-01-05T00:00:00Z"}
    ]);
    assert_eq!(paid(&event).at, at("2026-01-05T00:00:00Z"));
    event["data"]["payments"] = json!([]);
    assert_eq!(paid(&event).at, at("2026-01-03T10:00:03.1Z"));
    event["data"]["billed_at"] = json!("0001-01-01T00:00:00Z");
    assert_eq!(paid(&event).at, at("2026-01-03T10:00:05Z"), "the year 1 stands for never");
}

#[test]
fn discounts_tell_their_code_or_else_their_id() {
    let cases = [
        (json!({"id": "dsc_1", "code": "ADA10"}), json!("dsc_1"), Some("ADA10")),
        (json!({"id": "dsc_1", "code": null}), Value::Null, Some("dsc_1")),
        (Value::Null, json!("dsc_2"), Some("dsc_2")),
        (Value::Null, Value::Null, None),
        (json!("broken"), json!(4), None),
    ];
    for (discount, discount_id, code) in cases {
        let mut event = with("transaction.completed", "/custom_data", Value::Null);
        event["data"]["discount"] = discount;
        event["data"]["discount_id"] = discount_id;
        let subjects = [Subject::Sale(sale()), subscription(), customer()];
        let expected = code.map(|code| told(&subjects, HintSource::Coupon, code, "2026-01-03T10:00:05Z"));
        assert_eq!(facts_of(&event)[1..], expected.unwrap_or_default());
    }
}

#[test]
fn an_own_order_id_in_custom_data_links_the_order() {
    let event = with("transaction.paid", "/custom_data", json!({"remit_external_id": "order-7"}));
    let alias = ObjectRef::new(ObjectKind::External, "order-7");
    assert_eq!(facts_of(&event), [Fact::SaleLinked { sale: sale(), alias }]);
}

#[test]
fn events_without_anything_to_book_are_ignored_with_a_reason() {
    let ignored =
        |event: &Value, reason| assert_eq!(translate_value(event), Ok(Translation::Ignored(reason)));
    ignored(&with("transaction.paid", "/custom_data", Value::Null), "not_final");
    ignored(&with("subscription.created", "/custom_data", json!({"referral_code": 5})), "no_code");
    ignored(&json!({"event_type": "payout.paid"}), "unhandled_type");
    ignored(&json!({"event_type": "customer.created", "data": []}), "unhandled_type");
}

#[test]
fn what_money_depends_on_is_read_strictly_and_errors_name_only_the_path() {
    let wrong_amounts = ["-1", "+1", "1.5", "1e3", " 1", "", "jane@example.com", "9223372036854775808"];
    let mut cases = Vec::new();
    for wrong in wrong_amounts.map(|text| json!(text)).into_iter().chain([json!(5), json!(1.5)]) {
        cases.push(("transaction.completed", "/details/totals/grand_total", wrong.clone()));
        cases.push(("transaction.completed", "/details/totals/tax", wrong.clone()));
        cases.push(("adjustment.created", "/totals/total", wrong));
    }
    cases.push(("adjustment.created", "/totals/total", Value::Null));
    for wrong in [json!(""), json!(5), json!(["jane@example.com"]), Value::Null] {
        cases.push(("transaction.completed", "/id", wrong.clone()));
        cases.push(("adjustment.updated", "/transaction_id", wrong.clone()));
        cases.push(("adjustment.updated", "/currency_code", wrong.clone()));
        cases.push(("adjustment.updated", "/status", wrong));
    }
    for (event_type, pointer, wrong) in cases {
        let error = translate_value(&with(event_type, pointer, wrong.clone())).unwrap_err();
        assert_eq!(error.path(), format!("data{}", pointer.replace('/', ".")), "{event_type} with {wrong}");
        assert!(!error.to_string().contains("jane"));
    }
}

#[test]
fn missing_fields_are_named() {
    let cases = [
        (json!({"event_type": "adjustment.created", "data": {}}), "occurred_at"),
        (json!({"event_type": "adjustment.created", "occurred_at": "yesterday", "data": {}}), "occurred_at"),
        (json!({"event_type": "adjustment.created", "occurred_at": "2026-01-01T00:00:00Z"}), "data"),
        (
            json!({"event_type": "adjustment.created", "occurred_at": "2026-01-01T00:00:00Z", "data": {}}),
            "data.id",
        ),
        (json!({}), "event_type"),
    ];
    for (event, path) in cases {
        assert_eq!(translate_value(&event).unwrap_err().path(), path);
    }
}
