//! What holds for any amounts: nothing is lost between parts, and rounding never costs a minor unit.

use proptest::prelude::*;

use super::{
    recurring::recurring,
    sale,
    tiers::{before, tiered},
};
use crate::domain::{
    fact::Item,
    money::BasisPoints,
    sale::Summary,
    terms::{FlatOnPartial, Of, Position, ProductRate, Rate, Terms, TierBasis, TierMode},
    testing::{PAID_AT, share_of, usd},
};

/// Tiers that ascend from `first`, by steps and rates.
fn ladder(first: i64, steps: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut from = first;
    let mut tiers = Vec::new();
    for (step, bps) in steps {
        tiers.push((from, *bps));
        from += step;
    }
    tiers
}

fn steps() -> impl Strategy<Value = Vec<(i64, i64)>> {
    prop::collection::vec((1_i64..5_000, 0_i64..=10_000), 1..8)
}

/// What of a sale lies in each tier.
fn bases(terms: &Terms, amount: i64, revenue: i64) -> Vec<(i64, i64)> {
    let earned = terms.earned(&sale(amount, None, 0), Some(&before(0, revenue))).unwrap();
    earned
        .parts
        .into_iter()
        .map(|part| match part.of {
            Of::Tier(from) => (from, part.base),
            Of::Sale | Of::Affiliate | Of::Product(_) => unreachable!("there are only tiers"),
        })
        .collect()
}

fn summed(parts: impl IntoIterator<Item = (i64, i64)>) -> std::collections::BTreeMap<i64, i64> {
    let mut sums = std::collections::BTreeMap::new();
    for (from, base) in parts {
        *sums.entry(from).or_default() += base;
    }
    sums
}

fn rate(flat: bool, number: i64) -> Rate {
    if flat {
        Rate::Flat { amount_cents: number, currency: usd() }
    } else {
        Rate::Bps(BasisPoints::new(number).unwrap())
    }
}

proptest! {
    #[test]
    fn the_parts_of_a_basket_sum_to_the_commission_within_one_unit_of_the_exact_one(
        amount in 0_i64..10_000_000,
        bps in 0_i64..=10_000,
        rates in prop::collection::vec((any::<bool>(), 0_i64..=10_000), 0..4),
        lines in prop::collection::vec((0_usize..5, -500_i64..5_000), 0..8),
    ) {
        let product_rates = rates
            .iter()
            .enumerate()
            .map(|(n, (flat, number))| ProductRate { product: format!("p{n}"), rate: rate(*flat, *number) })
            .collect();
        let terms = Terms { product_rates, ..share_of(bps) };
        let items: Vec<Item> = lines
            .iter()
            .map(|(product, amount)| Item { price: None, product: Some(format!("p{product}")), amount: *amount })
            .collect();
        let sale = Summary { items, ..sale(amount, None, 0) };
        let earned = terms.earned(&sale, None).unwrap();

        prop_assert_eq!(earned.parts.iter().map(|part| part.amount).sum::<i64>(), earned.amount);
        prop_assert_eq!(earned.parts.iter().map(|part| part.base).sum::<i64>(), amount, "no cent has no rate");
        let (mut shares, mut flat) = (0_i128, 0_i128);
        for part in &earned.parts {
            prop_assert!(part.amount >= 0 && part.base >= 0, "{:?}", part);
            match part.rate {
                Rate::Bps(bps) => shares += i128::from(part.base) * i128::from(bps.get()),
                Rate::Flat { amount_cents, .. } if amount > 0 => flat += i128::from(amount_cents),
                Rate::Flat { .. } => {}
            }
        }
        let error = (i128::from(earned.amount) - flat) * 10_000 - shares;
        prop_assert!(error.abs() < 10_000, "rounding cost a whole unit: {:?}", earned);
    }

    #[test]
    fn marginal_tiers_of_one_rate_are_a_percentage(
        amount in 0_i64..1_000_000,
        revenue in 0_i64..1_000_000,
        bps in 0_i64..=10_000,
        steps in steps(),
    ) {
        let same: Vec<(i64, i64)> = steps.into_iter().map(|(step, _)| (step, bps)).collect();
        let tiers = tiered(TierBasis::Revenue, TierMode::Marginal, &ladder(0, &same));
        let sale = sale(amount, None, 0);
        let by_tiers = tiers.earned(&sale, Some(&before(0, revenue))).unwrap();
        prop_assert_eq!(by_tiers.amount, share_of(bps).earned(&sale, None).unwrap().amount);
    }

    #[test]
    fn a_larger_sale_never_earns_less_in_marginal_tiers(
        amount in 0_i64..100_000,
        more in 0_i64..100_000,
        revenue in 0_i64..30_000,
        first in 0_i64..20_000,
        steps in steps(),
    ) {
        let terms = tiered(TierBasis::Revenue, TierMode::Marginal, &ladder(first, &steps));
        let earned = |amount| terms.earned(&sale(amount, None, 0), Some(&before(0, revenue))).unwrap().amount;
        prop_assert!(earned(amount) <= earned(amount + more));
    }

    #[test]
    fn two_consecutive_sales_bring_to_each_tier_what_one_sale_of_both_does(
        one in 1_i64..50_000,
        two in 1_i64..50_000,
        revenue in 0_i64..30_000,
        first in 0_i64..20_000,
        steps in steps(),
    ) {
        let terms = tiered(TierBasis::Revenue, TierMode::Marginal, &ladder(first, &steps));
        let apart = bases(&terms, one, revenue).into_iter().chain(bases(&terms, two, revenue + one));
        let together = bases(&terms, one + two, revenue);
        prop_assert_eq!(summed(apart), summed(together.iter().copied()));
        let reached = (revenue + one + two - revenue.max(first)).max(0);
        prop_assert_eq!(together.iter().map(|(_, base)| base).sum::<i64>(), reached);
    }

    #[test]
    fn a_whole_tier_gives_exactly_its_own_percentage(
        amount in 1_i64..1_000_000,
        count in 0_i64..40_000,
        first in 0_i64..20_000,
        steps in steps(),
    ) {
        let tiers = ladder(first, &steps);
        let terms = tiered(TierBasis::Count, TierMode::Whole, &tiers);
        let bps = tiers.iter().filter(|(from, _)| *from <= count).map(|(_, bps)| *bps).next_back();
        let sale = sale(amount, None, 0);
        let earned = terms.earned(&sale, Some(&before(count, 0))).unwrap();
        let expected = share_of(bps.unwrap_or(0)).earned(&sale, None).unwrap().amount;
        prop_assert_eq!((earned.amount, earned.limit.is_some()), (expected, bps.is_none()));
    }

    #[test]
    fn what_is_kept_depends_on_the_total_alone_falls_with_it_and_ends_at_zero(
        amount in 1_i64..1_000_000,
        flat in 0_i64..100_000,
        bps in 0_i64..=10_000,
        proportional in any::<bool>(),
        cut in 0_i64..1_000_000,
    ) {
        let flat_on_partial = if proportional { FlatOnPartial::Proportional } else { FlatOnPartial::Keep };
        let product_rates = vec![ProductRate { product: "p".to_owned(), rate: rate(true, flat) }];
        let terms = Terms { flat_on_partial, product_rates, ..share_of(bps) };
        let item = |product: &str| Item { price: None, product: Some(product.to_owned()), amount: 1 };
        let taken = |taken| Summary { items: vec![item("p"), item("q")], ..sale(amount, None, taken) };
        let earned = terms.earned(&taken(0), None).unwrap();
        let cut = cut % (amount + 1);
        let kept = |given_back: i64| terms.kept(&earned, &taken(given_back)).unwrap();
        prop_assert!(kept(cut) <= kept(cut / 2) && kept(cut / 2) <= earned.amount);
        prop_assert!(kept(cut) >= 0);
        prop_assert_eq!((kept(0), kept(amount)), (earned.amount, 0));
    }

    #[test]
    fn of_a_customers_payments_at_most_as_many_earn_as_the_rule_says_and_none_after_its_months(
        months in prop::option::of(1_u16..40),
        payments in prop::option::of(1_u32..30),
        days in prop::collection::vec(0_i64..60, 1..40),
    ) {
        let terms = recurring(1_000, months, payments);
        let mut paid_at = PAID_AT;
        let mut earning = 0_u32;
        for (number, pause) in (1..).zip(&days) {
            let position = Position::Payments { number, first_paid_at: PAID_AT };
            let payment = Summary { paid_at, ..sale(1_000, None, 0) };
            let earned = terms.earned(&payment, Some(&position)).unwrap();
            let is_in_time = months.is_none_or(|months| paid_at < PAID_AT.plus_months(months));
            prop_assert_eq!(earned.amount > 0, is_in_time && payments.is_none_or(|max| number <= i64::from(max)));
            earning += u32::from(earned.amount > 0);
            paid_at = paid_at.plus_days(*pause);
        }
        prop_assert!(payments.is_none_or(|max| earning <= max));
    }
}
