//! What broken, old and rare shapes of events become.

use super::*;

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
