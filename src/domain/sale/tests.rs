//! What the facts of a sale say together (`rulings.md` 4, 6, 7).

use super::*;
use crate::domain::testing::{
    charge, currency, dispute, intent, invoice, paid, refund, reverse, session, transaction, usd,
};

/// The summary of a sale of which `tell` told everything.
fn summary(tell: impl FnOnce(&mut SaleFacts)) -> Summary {
    let mut facts = SaleFacts::default();
    tell(&mut facts);
    facts.summary().unwrap().unwrap()
}

/// A charge of 3000 cents and what `tell` adds to it.
fn charged(tell: impl FnOnce(&mut SaleFacts)) -> Summary {
    summary(|facts| {
        facts.merge_payment(&paid(&charge("ch"), 3_000));
        tell(facts);
    })
}

#[test]
fn a_sale_of_which_nobody_told_money_says_nothing() {
    let mut facts = SaleFacts::default();
    facts.merge_refund(&refund(&charge("ch"), "re", 100, RefundStatus::Active));
    assert_eq!(facts.summary(), Ok(None));
}

#[test]
fn the_better_teller_tells_the_amount_whichever_came_first() {
    let tellers = [(invoice("in"), 1_000), (session("cs"), 1_100), (intent("pi"), 1_200)];
    for skipped in 0..tellers.len() {
        let told = &tellers[skipped..];
        let forward =
            summary(|facts| told.iter().for_each(|(it, minor)| facts.merge_payment(&paid(it, *minor))));
        let backward =
            summary(|facts| told.iter().rev().for_each(|(it, minor)| facts.merge_payment(&paid(it, *minor))));
        assert_eq!(forward, backward);
        assert_eq!(forward.amount, told[0].1);
    }
}

#[test]
fn a_charge_inside_an_intent_that_told_is_not_counted_again() {
    let mut inner = paid(&charge("ch"), 1_000);
    inner.parent = Some(intent("pi"));
    let only_charge = summary(|facts| facts.merge_payment(&inner));
    let both = summary(|facts| {
        facts.merge_payment(&inner);
        facts.merge_payment(&paid(&intent("pi"), 1_000));
    });
    assert_eq!((only_charge.amount, both.amount), (1_000, 1_000));
}

#[test]
fn several_payments_of_one_sale_sum() {
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&intent("pi_1"), 1_000));
        facts.merge_payment(&paid(&intent("pi_2"), 500));
    });
    assert_eq!(sale.amount, 1_500);
}

#[test]
fn a_second_capture_of_a_charge_raises_its_amount_and_keeps_its_time() {
    let mut later = paid(&charge("ch"), 5_000);
    later.at = later.at.plus_secs(60);
    let sale = charged(|facts| facts.merge_payment(&later));
    assert_eq!((sale.amount, sale.paid_at), (5_000, paid(&charge("ch"), 0).at));
}

#[test]
fn a_payment_in_another_currency_is_seen_and_not_added() {
    let mut other = paid(&intent("pi_2"), 500);
    other.currency = currency("eur");
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&intent("pi_1"), 1_000));
        facts.merge_payment(&other);
    });
    assert_eq!((sale.amount, sale.currency), (1_000, usd()));
    assert!(sale.oddities.contains(&Oddity::CurrencyMismatch));
}

#[test]
fn tax_that_nobody_told_is_not_zero() {
    let with_tax = |tax| {
        let mut payment = paid(&invoice("in"), 1_000);
        payment.tax = tax;
        summary(|facts| facts.merge_payment(&payment)).tax
    };
    assert_eq!(with_tax(None), None);
    assert_eq!(with_tax(Some(0)), Some(0));
    assert_eq!(with_tax(Some(190)), Some(190));
}

#[test]
fn tax_comes_from_the_best_teller_that_knows_it_for_every_object() {
    let mut told = paid(&session("cs"), 1_000);
    told.tax = Some(160);
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&invoice("in"), 1_000));
        facts.merge_payment(&told);
    });
    assert_eq!(sale.tax, Some(160));
    let mut half = paid(&intent("pi_1"), 500);
    half.tax = Some(80);
    let sale = summary(|facts| {
        facts.merge_payment(&half);
        facts.merge_payment(&paid(&intent("pi_2"), 500));
    });
    assert_eq!(sale.tax, None);
}

#[test]
fn refund_objects_sum_and_a_repeat_adds_nothing() {
    let sale = charged(|facts| {
        for _ in 0..2 {
            facts.merge_refund(&refund(&charge("ch"), "re_1", 1_000, RefundStatus::Active));
            facts.merge_refund(&refund(&charge("ch"), "re_2", 500, RefundStatus::Active));
        }
    });
    assert_eq!((sale.refunded, sale.taken, sale.status()), (1_500, 1_500, SaleStatus::PartialRefunded));
}

#[test]
fn running_totals_alone_count_by_the_highest() {
    let sale = charged(|facts| {
        facts.merge_refund_total(&charge("ch"), 1_500, usd());
        facts.merge_refund_total(&charge("ch"), 1_000, usd());
    });
    assert_eq!(sale.refunded, 1_500);
}

#[test]
fn a_running_total_adds_only_what_no_refund_object_told() {
    let both = |total| {
        charged(|facts| {
            facts.merge_refund(&refund(&charge("ch"), "re_1", 1_000, RefundStatus::Active));
            facts.merge_refund_total(&charge("ch"), total, usd());
        })
        .refunded
    };
    assert_eq!(both(1_000), 1_000);
    assert_eq!(both(1_500), 1_500);
    assert_eq!(both(700), 1_000);
}

#[test]
fn a_refund_that_failed_later_takes_nothing_though_the_total_counted_it() {
    let void = refund(&charge("ch"), "re_1", 1_000, RefundStatus::Void);
    let active = refund(&charge("ch"), "re_1", 1_000, RefundStatus::Active);
    for told in [[&void, &active], [&active, &void]] {
        let sale = charged(|facts| {
            facts.merge_refund_total(&charge("ch"), 1_000, usd());
            for refund in &told {
                facts.merge_refund(refund);
            }
        });
        assert_eq!((sale.refunded, sale.status()), (0, SaleStatus::Complete));
    }
}

#[test]
fn a_refund_made_again_after_one_failed_counts_once() {
    let sale = charged(|facts| {
        facts.merge_refund(&refund(&charge("ch"), "re_1", 3_000, RefundStatus::Void));
        facts.merge_refund(&refund(&charge("ch"), "re_2", 3_000, RefundStatus::Active));
        facts.merge_refund_total(&charge("ch"), 3_000, usd());
    });
    assert_eq!((sale.refunded, sale.status()), (3_000, SaleStatus::Refunded));
}

#[test]
fn a_refund_that_names_only_the_intent_belongs_to_its_charge() {
    let mut inner = paid(&charge("ch_1"), 1_000);
    inner.parent = Some(intent("pi_1"));
    let sale = summary(|facts| {
        facts.merge_payment(&inner);
        facts.merge_payment(&paid(&charge("ch_2"), 1_000));
        facts.merge_refund(&refund(&intent("pi_1"), "re_1", 400, RefundStatus::Active));
        facts.merge_refund_total(&charge("ch_1"), 400, usd());
    });
    assert_eq!(sale.refunded, 400);
}

#[test]
fn a_refund_that_names_only_the_intent_belongs_to_the_only_charge_there_is() {
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&intent("pi"), 1_000));
        facts.merge_refund(&refund(&intent("pi"), "re_1", 400, RefundStatus::Active));
        facts.merge_refund_total(&charge("ch"), 400, usd());
    });
    assert_eq!(sale.refunded, 400);
}

#[test]
fn two_charges_of_one_sale_keep_their_own_totals() {
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&invoice("in"), 2_000));
        facts.merge_refund(&refund(&charge("ch_1"), "re_1", 300, RefundStatus::Active));
        facts.merge_refund_total(&charge("ch_1"), 300, usd());
        facts.merge_refund_total(&charge("ch_2"), 500, usd());
    });
    assert_eq!(sale.refunded, 800);
}

#[test]
fn a_refund_in_another_currency_is_seen_and_not_counted() {
    let mut other = refund(&charge("ch"), "re", 100, RefundStatus::Active);
    other.currency = currency("eur");
    let sale = charged(|facts| facts.merge_refund(&other));
    assert_eq!(sale.taken, 0);
    assert!(sale.oddities.contains(&Oddity::CurrencyMismatch));
}

#[test]
fn a_refund_and_a_dispute_of_the_same_money_take_at_most_the_sale() {
    let sale = charged(|facts| {
        facts.merge_refund(&refund(&charge("ch"), "re", 2_500, RefundStatus::Active));
        facts.merge_dispute(&dispute(&charge("ch"), "dp", DisputePhase::Lost, (1_000, 0)));
    });
    assert_eq!((sale.refunded, sale.disputed, sale.taken), (2_500, 1_000, 3_000));
    assert!(sale.oddities.is_empty());
}

#[test]
fn more_refunded_than_paid_is_odd() {
    let sale = charged(|facts| facts.merge_refund_total(&charge("ch"), 3_001, usd()));
    assert_eq!(sale.taken, 3_000);
    assert_eq!(sale.oddities, BTreeSet::from([Oddity::RefundExceedsSale]));
}

#[test]
fn a_refund_that_was_only_asked_for_stops_the_money_and_takes_nothing() {
    let told = |status| {
        let sale = charged(|facts| facts.merge_refund(&refund(&charge("ch"), "re", 100, status)));
        let stops = sale.stops.iter().map(|stop| stop.kind).collect::<Vec<_>>();
        (sale.taken, stops)
    };
    assert_eq!(told(RefundStatus::AwaitingApproval), (0, vec![StopKind::RefundRequest]));
    assert_eq!(told(RefundStatus::Active), (100, vec![]));
    assert_eq!(told(RefundStatus::Void), (0, vec![]));
}

#[test]
fn each_phase_of_a_dispute_takes_and_stops_what_it_should() {
    use DisputePhase::{Inquiry, InquiryClosed, Lost, Open, Won};
    let cases = [
        (Inquiry, (0, 0), 0, Some(StopKind::Inquiry)),
        (InquiryClosed, (0, 0), 0, None),
        (Open, (0, 0), 0, Some(StopKind::Dispute)),
        (Open, (1_000, 0), 1_000, Some(StopKind::Dispute)),
        (Open, (1_000, 1_000), 0, Some(StopKind::Dispute)),
        (Lost, (1_000, 0), 1_000, None),
        (Lost, (1_000, 400), 600, None),
        (Won, (1_000, 0), 0, None),
        (Won, (1_000, 1_000), 0, None),
        // A provider that gives back more than it took owes an explanation, not a bonus.
        (Lost, (1_000, 1_400), 0, None),
    ];
    for (phase, moved, disputed, stop) in cases {
        let sale = charged(|facts| facts.merge_dispute(&dispute(&charge("ch"), "dp", phase, moved)));
        let stops: Vec<_> = sale.stops.iter().map(|stop| stop.kind).collect();
        assert_eq!((sale.disputed, stops), (disputed, stop.into_iter().collect()), "{phase:?} {moved:?}");
    }
}

#[test]
fn an_earlier_phase_that_comes_late_does_not_open_a_dispute_again() {
    let sale = charged(|facts| {
        facts.merge_dispute(&dispute(&charge("ch"), "dp", DisputePhase::Lost, (1_000, 0)));
        facts.merge_dispute(&dispute(&charge("ch"), "dp", DisputePhase::Open, (0, 0)));
        facts.merge_dispute(&dispute(&charge("ch"), "dp", DisputePhase::Inquiry, (0, 0)));
    });
    assert_eq!((sale.disputed, sale.stops.len(), sale.status()), (1_000, 0, SaleStatus::Disputed));
}

#[test]
fn a_chargeback_given_back_is_given_back_once_however_it_is_told() {
    let sale_of = |reversed: bool, adjustment: Option<i64>| {
        summary(|facts| {
            facts.merge_payment(&paid(&transaction("txn"), 3_000));
            facts.merge_dispute(&dispute(&transaction("txn"), "adj_1", DisputePhase::Lost, (1_000, 0)));
            if reversed {
                facts.merge_dispute(&dispute(
                    &transaction("txn"),
                    "adj_1",
                    DisputePhase::Won,
                    (1_000, 1_000),
                ));
            }
            if let Some(amount) = adjustment {
                facts.merge_chargeback_reversal(&reverse(&transaction("txn"), "adj_2", amount));
            }
        })
        .disputed
    };
    assert_eq!(sale_of(false, None), 1_000);
    assert_eq!(sale_of(true, None), 0);
    assert_eq!(sale_of(false, Some(1_000)), 0);
    assert_eq!(sale_of(true, Some(1_000)), 0);
    assert_eq!(sale_of(false, Some(300)), 700);
}

#[test]
fn a_second_chargeback_stands_while_the_first_was_given_back_twice_told() {
    let sale = summary(|facts| {
        facts.merge_payment(&paid(&transaction("txn"), 3_000));
        facts.merge_dispute(&dispute(&transaction("txn"), "adj_1", DisputePhase::Won, (1_000, 1_000)));
        facts.merge_chargeback_reversal(&reverse(&transaction("txn"), "adj_2", 1_000));
        facts.merge_dispute(&dispute(&transaction("txn"), "adj_3", DisputePhase::Lost, (1_000, 0)));
    });
    assert_eq!(sale.disputed, 1_000);
}

#[test]
fn merging_does_not_depend_on_order_even_where_tellers_contradict() {
    let mut other = reverse(&transaction("txn_2"), "adj", 200);
    other.currency = currency("eur");
    let reversals = [reverse(&transaction("txn_1"), "adj", 100), other];
    let mut dear = refund(&charge("ch_2"), "re", 50, RefundStatus::AwaitingApproval);
    dear.currency = currency("eur");
    let refunds = [refund(&charge("ch_1"), "re", 100, RefundStatus::Active), dear];
    let mut forward = SaleFacts::default();
    let mut backward = SaleFacts::default();
    for told in &reversals {
        forward.merge_chargeback_reversal(told);
    }
    for told in &refunds {
        forward.merge_refund(told);
    }
    for told in reversals.iter().rev() {
        backward.merge_chargeback_reversal(told);
    }
    for told in refunds.iter().rev() {
        backward.merge_refund(told);
    }
    assert_eq!(forward, backward);
}

#[test]
fn absorbing_another_sale_is_the_same_as_having_been_told_everything() {
    let first = |facts: &mut SaleFacts| {
        let mut payment = paid(&intent("pi"), 1_000);
        payment.buyer_email = Some("A.B+x@gmail.com".to_owned());
        facts.merge_payment(&payment);
        facts.merge_refund(&refund(&charge("ch"), "re", 100, RefundStatus::Active));
        facts.merge_dispute(&dispute(&charge("ch"), "dp", DisputePhase::Open, (1_000, 0)));
    };
    let second = |facts: &mut SaleFacts| {
        let mut payment = paid(&invoice("in"), 1_000);
        payment.tax = Some(100);
        payment.subscription = Some("sub".to_owned());
        facts.merge_payment(&payment);
        facts.merge_refund(&refund(&charge("ch"), "re", 100, RefundStatus::Void));
        facts.merge_refund_total(&charge("ch"), 100, usd());
        facts.merge_chargeback_reversal(&reverse(&charge("ch"), "rev", 10));
    };
    let (mut one, mut other, mut told) = <(SaleFacts, SaleFacts, SaleFacts)>::default();
    first(&mut one);
    second(&mut other);
    first(&mut told);
    second(&mut told);
    let (mut forward, mut backward) = (one.clone(), other.clone());
    forward.absorb(other);
    backward.absorb(one);
    assert_eq!(forward, told);
    assert_eq!(backward, told);
}

#[test]
fn amounts_that_do_not_fit_are_an_error() {
    let mut facts = SaleFacts::default();
    facts.merge_payment(&paid(&intent("pi_1"), i64::MAX));
    facts.merge_payment(&paid(&intent("pi_2"), 1));
    assert_eq!(facts.summary(), Err(MoneyError::Overflow));
}
