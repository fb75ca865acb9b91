//! Rates of their own for prices and products, and what a partial refund leaves of mixed parts.

use super::{
    kept, sale,
    tiers::{before, tiered},
};
use crate::domain::{
    fact::Item,
    money::BasisPoints,
    sale::Summary,
    terms::{CommissionBase, FlatOnPartial, Limit, Of, ProductRate, Rate, Terms, TierBasis, TierMode},
    testing::{currency, flat, share_of, usd},
};

fn bps(bps: i64) -> Rate {
    Rate::Bps(BasisPoints::new(bps).unwrap())
}

fn cents(amount_cents: i64) -> Rate {
    Rate::Flat { amount_cents, currency: usd() }
}

fn rated(terms: Terms, rates: &[(&str, Rate)]) -> Terms {
    let rate = |&(product, rate): &(&str, Rate)| ProductRate { product: product.to_owned(), rate };
    Terms { product_rates: rates.iter().map(rate).collect(), ..terms }
}

/// A sale of `amount` with lines of price, product and amount; `-` is a line that names none.
fn basket(amount: i64, lines: &[(&str, &str, i64)]) -> Summary {
    let named = |id: &str| (id != "-").then(|| id.to_owned());
    let item = |&(price, product, amount): &(&str, &str, i64)| Item {
        price: named(price),
        product: named(product),
        amount,
    };
    Summary { items: lines.iter().map(item).collect(), ..sale(amount, None, 0) }
}

/// What each part was given for, of how much, and how much.
fn parts(terms: &Terms, sale: &Summary) -> Vec<(String, i64, i64)> {
    let earned = terms.earned(sale, None).unwrap();
    let sum: i64 = earned.parts.iter().map(|part| part.amount).sum();
    assert_eq!(sum, earned.amount, "the parts are the commission");
    let name = |of| match of {
        Of::Sale => "sale".to_owned(),
        Of::Affiliate => "affiliate".to_owned(),
        Of::Product(id) => id,
        Of::Tier(from) => format!("tier {from}"),
    };
    earned.parts.into_iter().map(|part| (name(part.of), part.base, part.amount)).collect()
}

fn part(of: &str, base: i64, amount: i64) -> (String, i64, i64) {
    (of.to_owned(), base, amount)
}

#[test]
fn the_rate_of_the_price_comes_before_that_of_the_product_and_both_before_the_programs() {
    let terms = rated(share_of(1_000), &[("prod_a", bps(2_000)), ("price_big", bps(5_000))]);
    let sale = basket(
        4_000,
        &[("price_big", "prod_a", 1_000), ("price_small", "prod_a", 1_000), ("price_x", "prod_b", 2_000)],
    );
    let expected = [part("price_big", 1_000, 500), part("prod_a", 1_000, 200), part("sale", 2_000, 200)];
    assert_eq!(parts(&terms, &sale), expected);
}

#[test]
fn lines_that_name_nothing_earn_the_programs_rate() {
    let terms = rated(share_of(1_000), &[("prod_a", bps(5_000))]);
    let sale = basket(3_000, &[("-", "-", 1_000), ("-", "prod_a", 2_000)]);
    assert_eq!(parts(&terms, &sale), [part("prod_a", 2_000, 1_000), part("sale", 1_000, 100)]);
    assert_eq!(parts(&terms, &basket(3_000, &[])), [part("sale", 3_000, 300)]);
}

#[test]
fn a_discount_lowers_every_line_in_proportion_and_the_parts_still_sum_to_the_base() {
    let terms = rated(share_of(1_000), &[("prod_a", bps(5_000)), ("prod_b", bps(2_000))]);
    // 100 for three lines of 1 each: 33, 34 and 33 by cumulative rounding.
    let sale = basket(100, &[("-", "prod_a", 1), ("-", "prod_b", 1), ("-", "prod_c", 1)]);
    let bases: Vec<i64> = parts(&terms, &sale).into_iter().map(|(_, base, _)| base).collect();
    assert_eq!(bases, [33, 34, 33]);
}

#[test]
fn a_line_that_takes_off_or_costs_nothing_is_no_sale_of_its_own() {
    let terms = rated(flat(500), &[("prod_a", bps(5_000))]);
    let credited = basket(800, &[("-", "prod_a", 1_000), ("-", "prod_old", -200)]);
    assert_eq!(parts(&terms, &credited), [part("prod_a", 800, 400)], "no flat amount for a credit");
    let with_gift = basket(1_000, &[("-", "prod_a", 1_000), ("-", "prod_gift", 0)]);
    assert_eq!(parts(&terms, &with_gift), [part("prod_a", 1_000, 500)]);
    let nothing_but_credits = basket(800, &[("-", "prod_a", -200)]);
    assert_eq!(parts(&terms, &nothing_but_credits), [part("sale", 800, 500)]);
}

#[test]
fn lines_of_one_product_are_one_part_and_its_flat_amount_is_given_once() {
    let terms = rated(share_of(0), &[("prod_a", cents(300))]);
    let sale = basket(2_000, &[("-", "prod_a", 500), ("-", "prod_b", 1_000), ("-", "prod_a", 500)]);
    assert_eq!(parts(&terms, &sale), [part("prod_a", 1_000, 300), part("sale", 1_000, 0)]);
}

#[test]
fn parts_in_several_currencies_fall_back_to_the_programs_rate_for_all() {
    let euro = Rate::Flat { amount_cents: 300, currency: currency("eur") };
    let terms = rated(share_of(1_000), &[("prod_a", euro)]);
    let mixed = basket(2_000, &[("-", "prod_a", 1_000), ("-", "prod_b", 1_000)]);
    assert_eq!(parts(&terms, &mixed), [part("sale", 2_000, 200)]);
    let alone = terms.earned(&basket(2_000, &[("-", "prod_a", 1_000)]), None).unwrap();
    assert_eq!((alone.amount, alone.currency), (300, currency("eur")));
}

#[test]
fn the_affiliates_own_rate_comes_before_product_and_tier() {
    let mut terms = rated(share_of(1_000), &[("prod_a", bps(5_000))]);
    terms.rate_override = Some(bps(2_500));
    assert_eq!(parts(&terms, &basket(1_000, &[("-", "prod_a", 1_000)])), [part("affiliate", 1_000, 250)]);
}

#[test]
fn what_has_a_rate_of_its_own_earns_it_below_the_first_tier_too() {
    let tiers = tiered(TierBasis::Count, TierMode::Whole, &[(10, 3_000)]);
    let terms = rated(tiers, &[("prod_a", bps(5_000))]);
    let sale = basket(2_000, &[("-", "prod_a", 1_000), ("-", "prod_b", 1_000)]);
    let below = terms.earned(&sale, Some(&before(0, 0))).unwrap();
    assert_eq!((below.amount, below.limit), (500, None));
    let within = terms.earned(&sale, Some(&before(10, 0))).unwrap();
    assert_eq!(within.amount, 500 + 300);
    let other = terms.earned(&basket(1_000, &[("-", "prod_b", 1_000)]), Some(&before(0, 0))).unwrap();
    assert_eq!((other.amount, other.limit), (0, Some(Limit::BelowTiers)));
}

#[test]
fn tax_is_taken_off_all_lines_in_proportion() {
    let terms = rated(
        Terms { commission_base: CommissionBase::NetOfTax, ..share_of(1_000) },
        &[("prod_a", bps(5_000))],
    );
    let mut sale = basket(2_400, &[("-", "prod_a", 500), ("-", "prod_b", 1_500)]);
    sale.tax = Some(400);
    assert_eq!(parts(&terms, &sale), [part("prod_a", 500, 250), part("sale", 1_500, 150)]);
    sale.tax = None;
    assert!(terms.earned(&sale, None).unwrap().tax_missing);
    let all_flat =
        rated(Terms { commission_base: CommissionBase::NetOfTax, ..flat(100) }, &[("prod_a", cents(200))]);
    let earned = all_flat.earned(&sale, None).unwrap();
    assert_eq!((earned.amount, earned.tax_missing), (300, false), "flat amounts do not ask for the tax");
}

#[test]
fn shares_of_a_cent_are_summed_before_they_are_rounded() {
    let terms = rated(share_of(5_000), &[("prod_a", bps(5_000)), ("prod_b", bps(5_000))]);
    let sale = basket(3, &[("-", "prod_a", 1), ("-", "prod_b", 1), ("-", "prod_c", 1)]);
    // 0.5 + 0.5 + 0.5 = 1.5, rounded half up to 2; each line alone would make it 3.
    let amounts: Vec<i64> = parts(&terms, &sale).into_iter().map(|(.., amount)| amount).collect();
    assert_eq!(amounts, [1, 0, 1]);
}

#[test]
fn a_partial_refund_keeps_the_flat_part_whole_and_shrinks_the_shares() {
    let keep = rated(share_of(1_000), &[("prod_a", cents(300))]);
    let proportional = Terms { flat_on_partial: FlatOnPartial::Proportional, ..keep.clone() };
    let refunded = |taken| Summary {
        taken,
        refunded: taken,
        ..basket(2_000, &[("-", "prod_a", 1_000), ("-", "prod_b", 1_000)])
    };
    // 300 flat and 100 of the other 1 000.
    assert_eq!((kept(&keep, &refunded(0)), kept(&proportional, &refunded(0))), (400, 400));
    assert_eq!((kept(&keep, &refunded(500)), kept(&proportional, &refunded(500))), (375, 300));
    assert_eq!((kept(&keep, &refunded(1_999)), kept(&proportional, &refunded(1_999))), (300, 0));
    assert_eq!((kept(&keep, &refunded(2_000)), kept(&proportional, &refunded(2_000))), (0, 0));
}
