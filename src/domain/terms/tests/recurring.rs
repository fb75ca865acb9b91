//! Recurring rules (`semantics.md`, "Recurring length"): calendar months and payments.

use super::sale;
use crate::domain::{
    money::BasisPoints,
    sale::Summary,
    terms::{CommissionRule, Limit, Position, Rate, Terms},
    testing::{flat, share_of, usd},
    time::Timestamp,
};

pub(super) fn recurring(bps: i64, max_months: Option<u16>, max_payments: Option<u32>) -> Terms {
    let rate = Rate::Bps(BasisPoints::new(bps).unwrap());
    Terms { commission: CommissionRule::Recurring { rate, max_months, max_payments }, ..share_of(0) }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

fn paid_at(at: Timestamp) -> Summary {
    Summary { paid_at: at, ..sale(10_000, None, 0) }
}

/// Amount and limit of payment `number` at `at` of a customer who first paid at `first`.
fn earned(terms: &Terms, number: i64, first: &str, paid: &str) -> (i64, Option<&'static str>) {
    let position = Position::Payments { number, first_paid_at: at(first) };
    let earned = terms.earned(&paid_at(at(paid)), Some(&position)).unwrap();
    (earned.amount, earned.limit.map(Limit::as_str))
}

#[test]
fn months_are_those_of_the_calendar_and_the_very_end_is_outside() {
    let over = (0, Some("months_limit"));
    for (months, first, inside, outside) in [
        (1, "2026-01-15T10:00:00Z", "2026-02-15T09:59:59.999999Z", "2026-02-15T10:00:00Z"),
        (1, "2026-01-31T10:00:00Z", "2026-02-28T09:59:59Z", "2026-02-28T10:00:00Z"),
        (1, "2028-01-31T10:00:00Z", "2028-02-29T09:59:59Z", "2028-02-29T10:00:00Z"),
        (12, "2028-02-29T00:00:00Z", "2029-02-27T23:59:59Z", "2029-02-28T00:00:00Z"),
        (3, "2026-11-30T12:00:00Z", "2027-02-28T11:59:59Z", "2027-02-28T12:00:00Z"),
        (1200, "2026-01-01T00:00:00Z", "2125-12-31T23:59:59Z", "2126-01-01T00:00:00Z"),
    ] {
        let terms = recurring(2_000, Some(months), None);
        assert_eq!(earned(&terms, 2, first, inside), (2_000, None), "{months} months from {first}");
        assert_eq!(earned(&terms, 2, first, outside), over, "{months} months from {first}");
        assert_eq!(earned(&terms, 1, first, first), (2_000, None), "the first payment is always inside");
    }
}

#[test]
fn as_many_payments_count_as_the_rule_says() {
    let terms = recurring(2_000, None, Some(3));
    let day = "2026-01-01T00:00:00Z";
    let amounts: Vec<_> = (1..=5).map(|number| earned(&terms, number, day, day)).collect();
    let (full, over) = ((2_000, None), (0, Some("payments_limit")));
    assert_eq!(amounts, [full, full, full, over, over]);
}

#[test]
fn whichever_limit_is_reached_first_ends_it() {
    let terms = recurring(2_000, Some(2), Some(2));
    let first = "2026-01-01T00:00:00Z";
    assert_eq!(earned(&terms, 3, first, "2026-01-02T00:00:00Z"), (0, Some("payments_limit")));
    assert_eq!(earned(&terms, 2, first, "2026-03-01T00:00:00Z"), (0, Some("months_limit")));
    assert_eq!(earned(&terms, 2, first, "2026-02-28T23:59:59Z"), (2_000, None));
}

#[test]
fn without_limits_it_never_ends() {
    let terms = recurring(2_000, None, None);
    assert_eq!(earned(&terms, 1_000_000, "1990-01-01T00:00:00Z", "2126-01-01T00:00:00Z"), (2_000, None));
}

#[test]
fn the_limits_hold_for_the_affiliates_own_rate_and_for_products_too() {
    let mut terms = recurring(2_000, None, Some(1));
    terms.rate_override = Some(Rate::Flat { amount_cents: 300, currency: usd() });
    let day = "2026-01-01T00:00:00Z";
    assert_eq!(earned(&terms, 1, day, day), (300, None));
    assert_eq!(earned(&terms, 2, day, day), (0, Some("payments_limit")));
}

#[test]
fn a_flat_rate_gives_the_same_each_time_and_nothing_for_a_trial() {
    let rate = Rate::Flat { amount_cents: 700, currency: usd() };
    let rule = CommissionRule::Recurring { rate, max_months: None, max_payments: Some(2) };
    let terms = Terms { commission: rule, ..share_of(0) };
    let day = "2026-01-01T00:00:00Z";
    assert_eq!((earned(&terms, 1, day, day).0, earned(&terms, 2, day, day).0), (700, 700));
    assert_eq!(terms.earned(&sale(0, None, 0), None).unwrap().amount, 0);
}

#[test]
fn an_event_that_was_reported_as_one_earns_the_flat_amount_without_money() {
    let event = Summary { is_event: true, ..sale(0, None, 0) };
    let terms = flat(500);
    let earned = terms.earned(&event, None).unwrap();
    assert_eq!((earned.amount, terms.kept(&earned, &event).unwrap()), (500, 500));
    assert_eq!(share_of(10_000).earned(&event, None).unwrap().amount, 0);
    assert_eq!(terms.earned(&sale(0, None, 0), None).unwrap().amount, 0, "a trial is no event");
}
