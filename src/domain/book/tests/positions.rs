//! Rules that look at other sales (`rulings.md` 9): what a sale's place is, when it is decided, and what
//! never moves it. What was brought is kept from fold to fold, as in the store, and compared with a count of all
//! commissions of the book each time.

use super::{
    examples::{code, decision, link, of_ann, shop_of, stripe},
    *,
};
use crate::domain::{
    fact::{RefundStatus, SalePaid},
    ids::DecisionId,
    money::BasisPoints,
    terms::{ApprovalMode, CommissionRule, Rate, Tier, TierBasis, TierMode},
    testing::{PAID_AT, charge, currency, flat, intent, invoice, paid, refund, share_of},
};

const DAY_S: i64 = 86_400;

fn bps(bps: i64) -> Rate {
    Rate::Bps(BasisPoints::new(bps).unwrap())
}

/// 10 % for the first two sales, then 20 %.
fn by_count() -> Terms {
    let tiers = vec![Tier { from: 0, rate: bps(1_000) }, Tier { from: 2, rate: bps(2_000) }];
    let rule = CommissionRule::Tiered { basis: TierBasis::Count, mode: TierMode::Whole, tiers };
    Terms { commission: rule, ..share_of(0) }
}

/// 10 % up to 1 500 of revenue, then 20 %.
fn by_revenue() -> Terms {
    let tiers = vec![Tier { from: 0, rate: bps(1_000) }, Tier { from: 1_500, rate: bps(2_000) }];
    let rule = CommissionRule::Tiered { basis: TierBasis::Revenue, mode: TierMode::Whole, tiers };
    Terms { commission: rule, ..share_of(0) }
}

/// A tenth of each payment of a customer.
fn recurring(max_months: Option<u16>, max_payments: Option<u32>) -> Terms {
    let rule = CommissionRule::Recurring { rate: bps(1_000), max_months, max_payments };
    Terms { commission: rule, ..share_of(0) }
}

/// 1 000 paid by a charge, brought by ann, some time after [`PAID_AT`].
fn sold(id: &str, after_s: i64, customer: Option<&str>) -> Vec<Fact> {
    let payment = SalePaid {
        at: PAID_AT.plus_secs(after_s),
        customer: customer.map(str::to_owned),
        ..paid(&charge(id), 1_000)
    };
    vec![Fact::SalePaid(payment), code(Subject::Sale(charge(id)), "ann")]
}

fn event(facts: Vec<Fact>) -> Step {
    Step::Event { scope: stripe(), facts }
}

fn refunded(sale: &str, id: &str, amount: i64, status: RefundStatus) -> Vec<Fact> {
    vec![Fact::Refund(refund(&charge(sale), id, amount, status))]
}

impl Shop {
    fn of_ann_in(&self, sale: &str) -> &Commission {
        self.commission(&charge(sale), "par_ann")
    }

    /// How many sales came before.
    fn count_before(&self, sale: &str) -> i64 {
        match self.of_ann_in(sale).position {
            Some(Position::Sales { count, .. }) => count,
            other => panic!("{sale} is not among sales: {other:?}"),
        }
    }

    /// Which payment of its customer it is.
    fn number(&self, sale: &str) -> i64 {
        match self.of_ann_in(sale).position {
            Some(Position::Payments { number, .. }) => number,
            other => panic!("{sale} is not among payments: {other:?}"),
        }
    }

    fn kinds(&mut self, facts: Vec<Fact>) -> Vec<&'static str> {
        self.hears(facts).into_iter().map(|finding| finding.kind).collect()
    }
}

#[test]
fn within_a_batch_sales_are_placed_by_when_they_were_paid_then_by_id() {
    let mut shop = shop_of(&by_count());
    for (id, after_s) in [("c", 30), ("a", 10), ("tie1", 20), ("tie2", 20)] {
        shop.step(&event(sold(id, after_s, None)));
    }
    assert_eq!(shop.folds(), [], "none of them is late");
    let mut ties = ["tie1", "tie2"];
    ties.sort_by_key(|id| shop.sale_of(&charge(id)).id.clone());
    let places: Vec<i64> = ["a", ties[0], ties[1], "c"].map(|id| shop.count_before(id)).to_vec();
    assert_eq!(places, [0, 1, 2, 3]);
    let amounts: Vec<i64> = ["a", ties[0], ties[1], "c"].map(|id| shop.of_ann_in(id).amount).to_vec();
    assert_eq!(amounts, [100, 100, 200, 200]);
}

#[test]
fn the_best_teller_of_the_time_orders_a_batch_and_nothing_looks_late() {
    let mut shop = shop_of(&by_count());
    // The charge was made before the other sale, the invoice it belongs to was paid after it.
    let invoice_later = SalePaid { at: PAID_AT.plus_secs(7), ..paid(&invoice("in"), 1_000) };
    shop.step(&event(sold("part", 5, None)));
    shop.step(&event(vec![Fact::SalePaid(invoice_later), link(invoice("in"), charge("part"))]));
    shop.step(&event(sold("other", 6, None)));
    assert_eq!(shop.folds(), []);
    assert_eq!((shop.count_before("other"), shop.count_before("part")), (0, 1));
}

#[test]
fn an_older_sale_that_arrives_later_is_counted_last_reprices_nothing_and_is_reported() {
    let mut shop = shop_of(&by_count());
    for (id, after_s) in [("b", 20), ("c", 30)] {
        assert_eq!(shop.kinds(sold(id, after_s, None)), [""; 0]);
    }
    assert_eq!(shop.kinds(sold("late", 10, None)), ["late_position"]);
    let places = ["b", "c", "late"].map(|id| (shop.count_before(id), shop.of_ann_in(id).amount));
    assert_eq!(places, [(0, 100), (1, 100), (2, 200)]);
    // It is reported once, and a sale that is the latest is not late.
    assert_eq!(shop.kinds(sold("late", 10, None)), [""; 0]);
    assert_eq!(shop.kinds(sold("d", 40, None)), [""; 0]);
}

#[test]
fn a_refund_lowers_what_later_sales_find_and_nothing_else() {
    let mut shop = shop_of(&by_revenue());
    shop.hears(sold("a", 0, None));
    shop.hears(sold("b", 1, None));
    shop.hears(refunded("a", "re", 600, RefundStatus::Active));
    // 400 and 1 000 are left: below the second tier.
    shop.hears(sold("c", 2, None));
    assert_eq!(shop.of_ann_in("c").position, Some(Position::Sales { count: 2, revenue: 1_400 }));
    assert_eq!(shop.of_ann_in("c").amount, 100);
    shop.hears(refunded("a", "re2", 400, RefundStatus::Active));
    shop.hears(sold("d", 3, None));
    assert_eq!(shop.of_ann_in("d").position, Some(Position::Sales { count: 2, revenue: 2_000 }));
    assert_eq!(shop.of_ann_in("d").amount, 200);
    // A refund that failed brings the sale back, for later sales only.
    shop.hears(refunded("a", "re", 600, RefundStatus::Void));
    shop.hears(refunded("a", "re2", 400, RefundStatus::Void));
    shop.hears(sold("e", 4, None));
    assert_eq!(shop.of_ann_in("e").position, Some(Position::Sales { count: 4, revenue: 4_000 }));
    assert_eq!(["b", "c", "d"].map(|id| shop.of_ann_in(id).amount), [100, 100, 200]);
}

#[test]
fn a_refund_needs_the_sum_that_it_lowers_and_a_sale_told_again_needs_none() {
    let mut shop = shop_of(&by_revenue());
    shop.hears(sold("a", 0, None));
    shop.book.tallies = Tallies::default();
    shop.step(&event(sold("a", 0, None)));
    assert_eq!(shop.book.fold(&shop.directory, shop.now, MERGE_GRACE_S).unwrap().len(), 1);
    shop.step(&event(refunded("a", "re", 600, RefundStatus::Active)));
    let missing = shop.book.fold(&shop.directory, shop.now, MERGE_GRACE_S).unwrap_err();
    let key = CounterKey::Sales(EnrollmentId::parse("par_ann").unwrap(), currency("usd"));
    assert_eq!(missing, FoldError::Uncounted(BTreeSet::from([key])));
}

#[test]
fn where_a_person_approves_the_place_is_decided_by_the_approval() {
    let mut shop = shop_of(&Terms { approval_mode: ApprovalMode::Manual, ..by_count() });
    for (id, after_s) in [("a", 0), ("b", 1), ("c", 2)] {
        shop.hears(sold(id, after_s, None));
        assert_eq!(shop.of_ann_in(id).position, None);
        assert_eq!((shop.of_ann_in(id).counted, shop.of_ann_in(id).amount), (None, 100));
    }
    shop.decides(&charge("c"), DecisionKind::Approve, "par_ann");
    assert_eq!(shop.count_before("c"), 0);
    shop.decides(&charge("b"), DecisionKind::Reject, "par_ann");
    shop.decides(&charge("a"), DecisionKind::Approve, "par_ann");
    assert_eq!(
        (shop.count_before("a"), shop.of_ann_in("b").position),
        (1, None),
        "what was turned down is not counted"
    );
    shop.hears(sold("d", 3, None));
    assert_eq!(shop.of_ann_in("d").amount, 200, "what waits shows what it would be now");
}

#[test]
fn what_a_rule_counts_must_be_loaded_and_a_fold_without_it_changes_nothing() {
    let mut shop = shop_of(&by_count());
    shop.step(&event(sold("a", 0, None)));
    let before = format!("{:?}", shop.book);
    let missing = shop.book.fold(&shop.directory, shop.now, MERGE_GRACE_S).unwrap_err();
    let key = CounterKey::Sales(EnrollmentId::parse("par_ann").unwrap(), currency("usd"));
    assert_eq!(missing, FoldError::Uncounted(BTreeSet::from([key])));
    assert_eq!(format!("{:?}", shop.book), before);
    shop.fold();
    assert_eq!(shop.count_before("a"), 0);
}

#[test]
fn sales_of_each_currency_and_affiliate_are_counted_apart() {
    let mut shop = shop_of(&by_count());
    shop.hears(sold("a", 0, None));
    let euros = SalePaid { currency: currency("eur"), ..paid(&charge("e"), 1_000) };
    shop.hears(vec![Fact::SalePaid(euros), code(Subject::Sale(charge("e")), "ann")]);
    assert_eq!(shop.count_before("e"), 0);
    shop.hears(vec![Fact::SalePaid(paid(&charge("b"), 1_000)), code(Subject::Sale(charge("b")), "bob")]);
    assert_eq!(
        shop.commission(&charge("b"), "par_bob").position,
        Some(Position::Sales { count: 0, revenue: 0 })
    );
}

#[test]
fn a_sale_that_earns_nothing_counts_and_a_trial_does_not() {
    let nothing_first = vec![Tier { from: 0, rate: bps(0) }, Tier { from: 1, rate: bps(2_000) }];
    let rule =
        CommissionRule::Tiered { basis: TierBasis::Count, mode: TierMode::Whole, tiers: nothing_first };
    let mut shop = shop_of(&Terms { commission: rule, ..share_of(0) });
    shop.hears(vec![Fact::SalePaid(paid(&charge("trial"), 0)), code(Subject::Sale(charge("trial")), "ann")]);
    assert!(shop.sale_of(&charge("trial")).commissions.is_empty());
    shop.hears(sold("a", 1, None));
    assert_eq!((shop.count_before("a"), shop.of_ann_in("a").amount), (0, 0));
    shop.hears(sold("b", 2, None));
    assert_eq!((shop.count_before("b"), shop.of_ann_in("b").amount), (1, 200));
}

#[test]
fn a_reported_event_without_money_earns_the_flat_amount_and_is_one_more_sale() {
    let signup = |id: &str| {
        let object = ObjectRef::new(ObjectKind::External, id);
        vec![Fact::SalePaid(paid(&object, 0)), code(Subject::Sale(object), "ann")]
    };
    let mut shop = shop_of(&flat(500));
    shop.hears(signup("one"));
    let object = ObjectRef::new(ObjectKind::External, "one");
    assert_eq!(shop.commission(&object, "par_ann").earned, 500);

    let mut shop = shop_of(&by_count());
    shop.hears(signup("one"));
    shop.hears(sold("a", 1, None));
    assert_eq!(shop.of_ann_in("a").position, Some(Position::Sales { count: 1, revenue: 0 }));
}

#[test]
fn a_customers_payments_are_numbered_and_end_where_the_rule_says() {
    let mut shop = shop_of(&recurring(None, Some(2)));
    for (id, after_s) in [("a", 0), ("b", 1), ("c", 2)] {
        shop.hears(sold(id, after_s, Some("cus")));
    }
    assert_eq!(
        ["a", "b", "c"].map(|id| (shop.number(id), shop.of_ann_in(id).amount)),
        [(1, 100), (2, 100), (3, 0)]
    );
    assert_eq!(shop.of_ann_in("c").reason.as_deref(), Some("payments_limit"));
    shop.hears(sold("other", 3, Some("another")));
    assert_eq!((shop.number("other"), shop.of_ann_in("other").amount), (1, 100));
}

#[test]
fn a_refunded_payment_is_counted_and_one_that_was_turned_down_is_not() {
    let mut shop = shop_of(&recurring(None, Some(2)));
    shop.hears(sold("a", 0, Some("cus")));
    shop.hears(refunded("a", "re", 1_000, RefundStatus::Active));
    shop.hears(sold("b", 1, Some("cus")));
    assert_eq!(shop.number("b"), 2);
    shop.decides(&charge("b"), DecisionKind::Reject, "par_ann");
    assert_eq!(shop.of_ann_in("b").state, CommissionState::Denied);
    shop.hears(sold("c", 2, Some("cus")));
    assert_eq!((shop.number("c"), shop.of_ann_in("c").amount), (2, 100));
}

#[test]
fn months_are_counted_from_the_first_payment_also_one_that_was_refunded() {
    let mut shop = shop_of(&recurring(Some(1), None));
    shop.hears(sold("a", 0, Some("cus")));
    shop.hears(refunded("a", "re", 1_000, RefundStatus::Active));
    // PAID_AT is the 14th of November 2023; its month has 30 days.
    shop.hears(sold("b", 30 * DAY_S - 1, Some("cus")));
    shop.hears(sold("c", 30 * DAY_S, Some("cus")));
    assert_eq!(["b", "c"].map(|id| shop.of_ann_in(id).amount), [100, 0]);
    assert_eq!(shop.of_ann_in("c").reason.as_deref(), Some("months_limit"));
}

#[test]
fn a_customer_keeps_the_terms_of_the_first_payment_when_the_program_changes_them() {
    let mut shop = shop_of(&recurring(None, None));
    let program = shop.directory.programs.values_mut().find(|it| it.id.as_str() == "prog_0").unwrap();
    program.terms[1].value.terms = share_of(5_000);
    let after_turn = TURN.as_secs() - PAID_AT.as_secs();
    shop.hears(sold("a", 0, Some("cus")));
    shop.hears(sold("b", after_turn + 1, Some("cus")));
    let bound = shop.of_ann_in("b");
    assert_eq!((bound.amount, bound.terms_version, shop.number("b")), (100, 1, 2));
    shop.hears(sold("new", after_turn + 2, Some("newcomer")));
    let fresh = shop.of_ann_in("new");
    assert_eq!((fresh.amount, fresh.terms_version, fresh.position), (500, 2, None));
}

#[test]
fn a_payment_that_waits_takes_the_terms_that_the_first_payment_freezes_meanwhile() {
    let mut shop = shop_of(&Terms { approval_mode: ApprovalMode::Manual, ..recurring(None, Some(2)) });
    let program = shop.directory.programs.values_mut().find(|it| it.id.as_str() == "prog_0").unwrap();
    program.terms[1].value.terms = Terms { approval_mode: ApprovalMode::Manual, ..share_of(5_000) };
    let after_turn = TURN.as_secs() - PAID_AT.as_secs();
    shop.hears(sold("a", 0, Some("cus")));
    shop.hears(sold("b", after_turn + 1, Some("cus")));
    assert_eq!(shop.of_ann_in("b").amount, 500, "nobody is bound yet");
    shop.decides(&charge("a"), DecisionKind::Approve, "par_ann");
    shop.decides(&charge("b"), DecisionKind::Approve, "par_ann");
    assert_eq!((shop.of_ann_in("b").earned, shop.number("b")), (100, 2));
}

#[test]
fn without_a_customer_the_subscription_is_followed_and_without_either_nobody() {
    let mut shop = shop_of(&recurring(None, Some(1)));
    let of_subscription = |id: &str| {
        let payment = SalePaid { subscription: Some("sub".to_owned()), ..paid(&charge(id), 1_000) };
        vec![Fact::SalePaid(payment), code(Subject::Sale(charge(id)), "ann")]
    };
    shop.hears(of_subscription("a"));
    shop.hears(of_subscription("b"));
    assert_eq!((shop.number("a"), shop.number("b")), (1, 2));
    for id in ["x", "y"] {
        shop.hears(sold(id, 9, None));
        assert_eq!((shop.number(id), shop.of_ann_in(id).amount), (1, 100));
    }
}

#[test]
fn two_objects_that_turn_out_to_be_one_payment_are_counted_once_whichever_survives() {
    for seed in 0..8 {
        for is_invoice_first in [true, false] {
            let mut shop = shop_of(&recurring(None, Some(1)));
            shop.ids = Shuffler(seed);
            let of_customer = |object: ObjectRef| {
                let payment = SalePaid { customer: Some("cus".to_owned()), ..paid(&object, 1_000) };
                vec![Fact::SalePaid(payment), code(Subject::Sale(object), "ann")]
            };
            let mut objects = [invoice("in"), intent("pi")];
            if !is_invoice_first {
                objects.reverse();
            }
            for object in objects {
                shop.hears(of_customer(object));
            }
            assert_eq!(shop.kinds(vec![link(invoice("in"), intent("pi"))]), [""; 0]);
            let survivor = shop.commission(&invoice("in"), "par_ann");
            assert_eq!((survivor.amount, survivor.earned - survivor.clawed), (100, 100), "seed {seed}");
            assert!(matches!(survivor.position, Some(Position::Payments { number: 1, .. })));
            assert_eq!(shop.balance("par_ann"), 100);
            shop.hears(sold("next", 1, Some("cus")));
            assert_eq!(shop.number("next"), 2, "the other half is no payment of its own");
        }
    }
}

#[test]
fn a_late_half_without_commission_takes_the_place_of_the_one_it_joins() {
    for seed in 0..8 {
        let mut shop = shop_of(&by_count());
        shop.ids = Shuffler(seed);
        shop.hears(sold("before", 0, None));
        shop.hears(of_ann(&intent("pi"), 1_000));
        shop.hears(sold("after", 2, None));
        shop.hears(vec![Fact::SalePaid(paid(&invoice("in"), 1_000))]);
        shop.hears(vec![link(invoice("in"), intent("pi"))]);
        let survivor = shop.commission(&invoice("in"), "par_ann");
        assert_eq!(survivor.position, Some(Position::Sales { count: 1, revenue: 1_000 }), "seed {seed}");
        assert_eq!(shop.balance("par_ann"), 100 + 100 + 200);
        shop.hears(sold("next", 3, None));
        assert_eq!(shop.count_before("next"), 3);
    }
}

#[test]
fn a_sale_that_goes_to_somebody_else_is_no_sale_of_the_first_any_more() {
    for terms in [by_count(), recurring(None, Some(2))] {
        let mut shop = shop_of(&terms);
        shop.hears(sold("a", 0, Some("cus")));
        shop.decides(&charge("a"), DecisionKind::Attribute, "par_bob");
        shop.hears(sold("b", 1, Some("cus")));
        match shop.of_ann_in("b").position {
            Some(Position::Sales { count, .. }) => assert_eq!(count, 0),
            Some(Position::Payments { number, .. }) => assert_eq!(number, 1),
            None => panic!("b has no place"),
        }
    }
}

#[test]
fn better_facts_that_bring_another_kind_of_rule_bring_another_kind_of_place() {
    let mut shop = shop_of(&by_count());
    let program = shop.directory.programs.values_mut().find(|it| it.id.as_str() == "prog_0").unwrap();
    program.terms[1].value.terms = recurring(None, Some(1));
    let near_turn = TURN.as_secs() - PAID_AT.as_secs();
    shop.hears(sold("a", near_turn - 1, Some("cus")));
    assert_eq!(shop.count_before("a"), 0);
    let invoice_after =
        SalePaid { at: TURN.plus_secs(1), customer: Some("cus".to_owned()), ..paid(&invoice("in"), 1_000) };
    shop.hears(vec![Fact::SalePaid(invoice_after), link(invoice("in"), charge("a"))]);
    assert_eq!((shop.number("a"), shop.of_ann_in("a").counted), (1, None));
    shop.hears(sold("b", near_turn + 2, Some("cus")));
    assert_eq!((shop.number("b"), shop.of_ann_in("b").amount), (2, 0));
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn once_placed_a_sale_stays_whatever_comes_later_in_whatever_order(
        seed in any::<u64>(),
        partial in 1_i64..1_000,
        is_recurring in any::<bool>(),
    ) {
        let terms = if is_recurring { recurring(None, Some(2)) } else { by_revenue() };
        let mut shop = shop_of(&terms);
        let mut shuffler = Shuffler(seed);
        let sales = ["a", "b", "c", "d"];
        for (after_s, id) in (0..).zip(sales) {
            shop.hears(sold(id, after_s, Some("cus")));
        }
        let places = sales.map(|id| shop.of_ann_in(id).position);
        let amounts = sales.map(|id| shop.of_ann_in(id).amount);
        let mut later: Vec<Step> = Vec::new();
        for (after_s, id) in (0..).zip(sales) {
            later.push(event(sold(id, after_s, Some("cus"))));
            later.push(event(refunded(id, &format!("{id}1"), partial, RefundStatus::Active)));
            later.push(event(refunded(id, &format!("{id}2"), 1_000 - partial, RefundStatus::Active)));
            later.push(event(refunded(id, &format!("{id}1"), partial, RefundStatus::Void)));
        }
        later.push(Step::Decision {
            scope: stripe(),
            object: charge("c"),
            decision: decision(DecisionKind::Reject, "par_ann", shop.now),
        });
        shuffler.shuffle(&mut later);
        for step in &later {
            shop.step(step);
            if shuffler.below(2) == 0 {
                shop.fold();
            }
        }
        shop.touch_all();
        shop.fold();
        prop_assert_eq!(sales.map(|id| shop.of_ann_in(id).position), places);
        prop_assert_eq!(sales.map(|id| shop.of_ann_in(id).amount), amounts);
    }

    /// [`Shop::fold`] compares after every step what is kept with what a count of all commissions gives.
    #[test]
    fn the_sums_that_are_kept_are_what_a_count_of_all_sales_gives_whatever_happens(
        seed in any::<u64>(),
        happens in prop::collection::vec((0_u8..8, 0_usize..6, 1_i64..1_500), 1..40),
        is_manual in any::<bool>(),
    ) {
        let approval_mode = if is_manual { ApprovalMode::Manual } else { ApprovalMode::Auto };
        let mut shop = shop_of(&Terms { approval_mode, ..by_revenue() });
        shop.opening = if seed.is_multiple_of(2) { Opening::Grouped } else { Opening::OneEach };
        let mut shuffler = Shuffler(seed);
        let objects = ["a", "b", "c", "d", "e", "f"];
        for (number, (what, which, amount)) in happens.into_iter().enumerate() {
            let (id, other) = (objects[which], objects[shuffler.below(objects.len())]);
            let who = ["ann", "bob"][shuffler.below(2)];
            let at = PAID_AT.plus_secs(amount);
            let kind = [
                DecisionKind::Approve, DecisionKind::Approve, DecisionKind::Reject, DecisionKind::Attribute,
            ][shuffler.below(4)];
            match what {
                0..=2 => {
                    let currency = currency(["usd", "usd", "eur"][shuffler.below(3)]);
                    let payment = SalePaid { currency, at, ..paid(&charge(id), amount) };
                    shop.step(&event(vec![Fact::SalePaid(payment), code(Subject::Sale(charge(id)), who)]));
                }
                3 | 4 => {
                    let status = [RefundStatus::Active, RefundStatus::Void][shuffler.below(2)];
                    shop.step(&event(refunded(id, &format!("{id}{}", amount % 3), amount, status)));
                }
                5 => shop.step(&event(vec![link(charge(id), charge(other))])),
                6 => {
                    let decided = decision(kind, &format!("par_{who}"), PAID_AT.plus_secs(2_000 + amount));
                    shop.step(&Step::Decision {
                        scope: stripe(),
                        object: charge(id),
                        decision: Decision { id: DecisionId::derived(&[&number.to_string()]), ..decided },
                    });
                }
                _ => shop.claim_all(),
            }
            if shuffler.below(3) > 0 {
                shop.fold();
            }
        }
        shop.touch_all();
        shop.fold();
    }

    #[test]
    fn a_count_is_of_what_came_before_and_never_retroactive(
        seed in any::<u64>(),
        batches in prop::collection::vec(1_usize..5, 1..6),
    ) {
        let mut shop = shop_of(&by_count());
        let mut shuffler = Shuffler(seed);
        let mut names: Vec<String> = Vec::new();
        for (number, size) in batches.into_iter().enumerate() {
            let mut batch: Vec<String> = (0..size).map(|nth| format!("{number}_{nth}")).collect();
            for name in &batch {
                let after_s = i64::try_from(number * 10 + shuffler.below(10)).unwrap();
                shop.step(&event(sold(name, after_s, None)));
            }
            let before: Vec<i64> = names.iter().map(|name| shop.of_ann_in(name).amount).collect();
            shop.fold();
            let after: Vec<i64> = names.iter().map(|name| shop.of_ann_in(name).amount).collect();
            prop_assert_eq!(before, after);
            names.append(&mut batch);
        }
        let mut places: Vec<i64> = names.iter().map(|name| shop.count_before(name)).collect();
        places.sort_unstable();
        prop_assert_eq!(places, (0..i64::try_from(names.len()).unwrap()).collect::<Vec<_>>());
        for name in &names {
            let expected = if shop.count_before(name) < 2 { 100 } else { 200 };
            prop_assert_eq!(shop.of_ann_in(name).amount, expected);
        }
    }
}
