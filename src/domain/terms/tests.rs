//! What one sale earns and what stays of it (`semantics.md`, "Partial refund", "Rounding").

mod products;
mod properties;
mod recurring;
mod rule;
mod tiers;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    sale::{SaleFacts, Summary},
    testing::{charge, currency, flat, invoice, paid, refund, share_of, usd},
};

/// A sale of `amount` of which `tax` is tax and `taken` was refunded.
fn sale(amount: i64, tax: Option<i64>, taken: i64) -> Summary {
    let mut facts = SaleFacts::default();
    let mut payment = paid(&invoice("in"), amount);
    payment.tax = tax;
    facts.merge_payment(&payment);
    facts.merge_refund_total(&charge("ch"), taken, usd());
    facts.summary().unwrap().unwrap()
}

/// What stays of the commission of the sale.
fn kept(terms: &Terms, sale: &Summary) -> i64 {
    terms.kept(&terms.earned(sale, None).unwrap(), sale).unwrap()
}

fn net_of_tax(bps: i64) -> Terms {
    Terms { commission_base: CommissionBase::NetOfTax, ..share_of(bps) }
}

#[test]
fn a_percentage_is_rounded_half_up_once() {
    assert_eq!(share_of(250).earned(&sale(1_999, None, 0), None).unwrap().amount, 50);
    assert_eq!(share_of(5_000).earned(&sale(1, None, 0), None).unwrap().amount, 1);
    assert_eq!(share_of(4_999).earned(&sale(1, None, 0), None).unwrap().amount, 0);
    assert_eq!(share_of(10_000).earned(&sale(1_999, None, 0), None).unwrap().amount, 1_999);
}

#[test]
fn net_of_tax_takes_the_share_of_what_is_left_after_tax() {
    let earned = net_of_tax(1_000).earned(&sale(1_190, Some(190), 0), None).unwrap();
    assert_eq!((earned.base, earned.amount, earned.tax_missing), (1_000, 100, false));
}

#[test]
fn tax_of_zero_is_known_and_tax_untold_is_missing() {
    let of = |tax| net_of_tax(1_000).earned(&sale(1_190, tax, 0), None).unwrap();
    assert_eq!((of(Some(0)).amount, of(Some(0)).tax_missing), (119, false));
    assert_eq!((of(None).amount, of(None).tax_missing), (119, true));
}

#[test]
fn gross_and_flat_terms_never_wait_for_tax() {
    let flat_net = Terms { commission_base: CommissionBase::NetOfTax, ..flat(500) };
    for terms in [share_of(1_000), flat_net] {
        assert!(!terms.earned(&sale(1_190, None, 0), None).unwrap().tax_missing);
    }
}

#[test]
fn a_flat_commission_has_its_own_currency_and_a_free_sale_earns_none() {
    let euro = Terms {
        commission: CommissionRule::Flat { amount_cents: 500, currency: currency("eur") },
        ..flat(0)
    };
    let earned = euro.earned(&sale(9_999, None, 0), None).unwrap();
    assert_eq!((earned.amount, earned.currency), (500, currency("eur")));
    assert_eq!(euro.earned(&sale(0, None, 0), None).unwrap().amount, 0);
}

#[test]
fn a_percentage_shrinks_in_proportion_and_ends_at_exactly_zero() {
    let kept = |taken| kept(&share_of(1_000), &sale(1_000, None, taken));
    assert_eq!((kept(0), kept(333), kept(335), kept(999), kept(1_000)), (100, 67, 67, 0, 0));
}

#[test]
fn a_flat_commission_stays_whole_until_everything_is_refunded() {
    let kept = |taken| kept(&flat(500), &sale(1_000, None, taken));
    assert_eq!((kept(1), kept(999), kept(1_000)), (500, 500, 0));
}

#[test]
fn a_flat_commission_shrinks_in_proportion_where_the_terms_say_so() {
    let terms = Terms { flat_on_partial: FlatOnPartial::Proportional, ..flat(500) };
    assert_eq!(kept(&terms, &sale(1_000, None, 250)), 375);
}

#[test]
fn unknown_words_in_terms_are_refused() {
    let read = serde_json::from_str::<Terms>;
    assert!(read(r#"{"commission":{"type":"percentage","bps":1000}}"#).is_ok());
    assert!(read(r#"{"commission":{"type":"percentage","bps":10001}}"#).is_err());
    assert!(read(r#"{"commission":{"type":"percentage","bps":1000},"hold_days":3}"#).is_err());
}

proptest! {
    #[test]
    fn partial_refunds_in_any_split_leave_what_one_refund_leaves(
        amount in 1_i64..1_000_000,
        bps in 0_i64..=10_000,
        cuts in prop::collection::vec(0_i64..1_000_000, 0..8),
    ) {
        let mut left = amount;
        let mut facts = SaleFacts::default();
        facts.merge_payment(&paid(&charge("ch"), amount));
        let whole = share_of(bps).earned(&facts.summary().unwrap().unwrap(), None).unwrap();
        let mut kept_before = whole.amount;
        for (nth, cut) in cuts.into_iter().enumerate() {
            let part = cut % (left + 1);
            left -= part;
            let object = refund(&charge("ch"), &nth.to_string(), part, crate::domain::fact::RefundStatus::Active);
            facts.merge_refund(&object);
            let kept = share_of(bps).kept(&whole, &facts.summary().unwrap().unwrap()).unwrap();
            prop_assert!(kept <= kept_before, "a further refund never gives anything back");
            kept_before = kept;
        }
        let at_once = share_of(bps).kept(&whole, &sale(amount, None, amount - left)).unwrap();
        prop_assert_eq!(kept_before, at_once);
    }

    #[test]
    fn a_full_refund_in_any_split_leaves_exactly_zero(
        parts in prop::collection::vec(1_i64..100_000, 1..12),
        bps in 0_i64..=10_000,
    ) {
        let amount: i64 = parts.iter().sum();
        let mut facts = SaleFacts::default();
        facts.merge_payment(&paid(&charge("ch"), amount));
        for (nth, part) in parts.iter().enumerate() {
            let status = crate::domain::fact::RefundStatus::Active;
            facts.merge_refund(&refund(&charge("ch"), &nth.to_string(), *part, status));
        }
        let refunded = facts.summary().unwrap().unwrap();
        for terms in [share_of(bps), flat(500)] {
            prop_assert_eq!(kept(&terms, &refunded), 0);
        }
    }
}
