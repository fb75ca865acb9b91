//! Tiers (`semantics.md`, "Tiers"): which one holds, of what, and what a sale across several earns.

use super::sale;
use crate::domain::{
    money::BasisPoints,
    terms::{CommissionRule, Limit, Of, Part, Position, Rate, Terms, Tier, TierBasis, TierMode},
    testing::{share_of, usd},
};

/// `(from, bps)` of each tier.
pub(super) fn tiered(basis: TierBasis, mode: TierMode, tiers: &[(i64, i64)]) -> Terms {
    let tier = |&(from, bps): &(i64, i64)| Tier { from, rate: Rate::Bps(BasisPoints::new(bps).unwrap()) };
    let tiers = tiers.iter().map(tier).collect();
    Terms { commission: CommissionRule::Tiered { basis, mode, tiers }, ..share_of(0) }
}

pub(super) fn before(count: i64, revenue: i64) -> Position {
    Position::Sales { count, revenue }
}

/// Commission of a sale of 10 000 after `count` sales that brought `revenue`.
fn amount(terms: &Terms, count: i64, revenue: i64) -> i64 {
    terms.earned(&sale(10_000, None, 0), Some(&before(count, revenue))).unwrap().amount
}

#[test]
fn a_tier_by_count_begins_with_the_sale_after_as_many_sales() {
    let terms = tiered(TierBasis::Count, TierMode::Whole, &[(0, 1_000), (2, 2_000), (5, 3_000)]);
    let amounts: Vec<i64> = (0..7).map(|count| amount(&terms, count, 0)).collect();
    assert_eq!(amounts, [1_000, 1_000, 2_000, 2_000, 2_000, 3_000, 3_000]);
    assert_eq!(amount(&terms, 0, i64::MAX - 10_000), 1_000, "revenue decides nothing here");
}

#[test]
fn a_whole_tier_by_revenue_is_that_of_what_was_brought_before_and_holds_for_all_of_the_sale() {
    let terms = tiered(TierBasis::Revenue, TierMode::Whole, &[(0, 1_000), (5_000, 2_000)]);
    assert_eq!(amount(&terms, 0, 0), 1_000, "the sale itself does not lift its own rate");
    assert_eq!(amount(&terms, 99, 4_999), 1_000);
    assert_eq!(amount(&terms, 1, 5_000), 2_000, "exactly at `from` is in the tier");
    assert_eq!(amount(&terms, 1, 1_000_000), 2_000);
}

#[test]
fn below_the_first_tier_nothing_is_earned_and_the_limit_says_so() {
    for mode in [TierMode::Whole, TierMode::Marginal] {
        let terms = tiered(TierBasis::Revenue, mode, &[(50_000, 1_000)]);
        let earned = terms.earned(&sale(10_000, None, 0), Some(&before(4, 40_000))).unwrap();
        assert_eq!(
            (earned.amount, earned.limit, earned.parts.len()),
            (0, Some(Limit::BelowTiers), 0),
            "{mode:?}"
        );
        let reached = terms.earned(&sale(10_000, None, 0), Some(&before(5, 50_000))).unwrap();
        assert_eq!((reached.amount, reached.limit), (1_000, None), "{mode:?}");
    }
    let by_count = tiered(TierBasis::Count, TierMode::Whole, &[(3, 1_000)]);
    assert_eq!((amount(&by_count, 2, 0), amount(&by_count, 3, 0)), (0, 1_000));
}

#[test]
fn a_marginal_sale_is_cut_at_the_tiers_it_crosses() {
    let terms = tiered(
        TierBasis::Revenue,
        TierMode::Marginal,
        &[(1_000, 1_000), (4_000, 2_000), (6_000, 3_000), (50_000, 9_000)],
    );
    let earned = terms.earned(&sale(10_000, None, 0), Some(&before(3, 500))).unwrap();
    let parts: Vec<(Of, i64, i64)> =
        earned.parts.into_iter().map(|Part { of, base, amount, .. }| (of, base, amount)).collect();
    // 500 to 10 500: 500 earn nothing, 3 000 × 10 %, 2 000 × 20 %, 4 500 × 30 %.
    let expected =
        [(Of::Tier(1_000), 3_000, 300), (Of::Tier(4_000), 2_000, 400), (Of::Tier(6_000), 4_500, 1_350)];
    assert_eq!(parts, expected);
    assert_eq!((earned.amount, earned.base, earned.limit), (2_050, 10_000, None));
}

#[test]
fn a_marginal_sale_that_ends_exactly_at_a_tier_has_no_part_in_it() {
    let terms = tiered(TierBasis::Revenue, TierMode::Marginal, &[(0, 1_000), (10_000, 2_000)]);
    let parts =
        |revenue| terms.earned(&sale(10_000, None, 0), Some(&before(0, revenue))).unwrap().parts.len();
    assert_eq!((parts(0), parts(1), parts(10_000)), (1, 2, 1));
    let end = tiered(TierBasis::Revenue, TierMode::Marginal, &[(10_000, 2_000)]);
    let earned = end.earned(&sale(10_000, None, 0), Some(&before(0, 0))).unwrap();
    assert_eq!((earned.amount, earned.limit), (0, Some(Limit::BelowTiers)));
    let reached = end.earned(&sale(10_001, None, 0), Some(&before(0, 0))).unwrap();
    assert_eq!((reached.parts.len(), reached.limit), (1, None));
}

#[test]
fn marginal_tiers_cut_what_is_left_after_tax_where_the_terms_take_that() {
    let mut terms = tiered(TierBasis::Revenue, TierMode::Marginal, &[(9_500, 1_000)]);
    terms.commission_base = crate::domain::terms::CommissionBase::NetOfTax;
    let earned = terms.earned(&sale(10_000, Some(1_000), 0), Some(&before(0, 0))).unwrap();
    assert_eq!((earned.base, earned.amount, earned.limit), (9_000, 0, Some(Limit::BelowTiers)));
    let untold = terms.earned(&sale(10_000, None, 0), Some(&before(0, 0))).unwrap();
    assert_eq!((untold.amount, untold.tax_missing), (50, true));
}

#[test]
fn a_sale_without_money_has_no_parts_and_no_rounding() {
    for mode in [TierMode::Whole, TierMode::Marginal] {
        let terms = tiered(TierBasis::Revenue, mode, &[(0, 1_000), (10, 2_000)]);
        let earned = terms.earned(&sale(0, None, 0), Some(&before(2, 20))).unwrap();
        assert_eq!((earned.amount, earned.base, earned.limit), (0, 0, None), "{mode:?}");
    }
}

#[test]
fn flat_tiers_give_their_amount_in_their_currency() {
    let flat = |from, amount_cents| Tier { from, rate: Rate::Flat { amount_cents, currency: usd() } };
    let rule = CommissionRule::Tiered {
        basis: TierBasis::Count,
        mode: TierMode::Whole,
        tiers: vec![flat(0, 100), flat(1, 250)],
    };
    let terms = Terms { commission: rule, ..share_of(0) };
    assert_eq!((amount(&terms, 0, 0), amount(&terms, 1, 0)), (100, 250));
    assert_eq!(
        terms.earned(&sale(0, None, 0), Some(&before(1, 0))).unwrap().amount,
        0,
        "a trial earns nothing"
    );
}

#[test]
fn with_a_rate_of_their_own_the_affiliate_is_in_no_tier() {
    let mut terms = tiered(TierBasis::Count, TierMode::Whole, &[(3, 1_000)]);
    terms.rate_override = Some(Rate::Bps(BasisPoints::new(4_000).unwrap()));
    let earned = terms.earned(&sale(10_000, None, 0), None).unwrap();
    assert_eq!((earned.amount, earned.limit, terms.standing()), (4_000, None, None));
    assert_eq!(earned.parts[0].of, Of::Affiliate);
}

#[test]
fn amounts_at_the_edge_of_64_bits_are_an_error_and_never_wrap() {
    let terms = tiered(TierBasis::Revenue, TierMode::Marginal, &[(0, 10_000)]);
    assert!(terms.earned(&sale(2, None, 0), Some(&before(0, i64::MAX - 1))).is_err());
    let earned = terms.earned(&sale(1, None, 0), Some(&before(0, i64::MAX - 1))).unwrap();
    assert_eq!(earned.amount, 1);
}
