//! What sponsors earn of the commission of an affiliate whom they brought (`rulings.md` 8).

use super::{
    examples::{code, link, of_ann, shop_of, stripe},
    *,
};
use crate::domain::{
    fact::{DisputePhase, RefundStatus, SalePaid},
    ids::{DecisionId, ProgramId},
    money::BasisPoints,
    program::Dated,
    terms::ApprovalMode,
    testing::{charge, dispute, intent, invoice, paid, refund, share_of},
};

/// Enrollment, level, earned, clawed and state of what is owed or was posted on the sale, by level.
type Standing = (&'static str, i64, i64, i64, CommissionState);

fn upline(bps: &[i64]) -> Vec<BasisPoints> {
    bps.iter().map(|bps| BasisPoints::new(*bps).unwrap()).collect()
}

/// A fifth for the affiliate; 10 % of that for the sponsor and 5 % for the sponsor's sponsor.
fn terms() -> Terms {
    Terms { upline_bps: upline(&[1_000, 500]), ..share_of(2_000) }
}

/// All four are in one program: cat brought bob, and bob brought ann. Dan is suspended.
fn shop_with(terms: &Terms) -> Shop {
    let mut shop = shop_of(terms);
    shop.directory.multi_level = true;
    let program_id = ProgramId::parse("prog_0").unwrap();
    for name in ["par_bob", "par_cat", "par_dan"] {
        let id = EnrollmentId::parse(name).unwrap();
        shop.directory.enrollments.get_mut(&id).unwrap().program_id = program_id.clone();
    }
    sponsor(&mut shop, "par_ann", Some("par_bob"));
    sponsor(&mut shop, "par_bob", Some("par_cat"));
    shop
}

fn shop() -> Shop {
    shop_with(&terms())
}

/// Places an affiliate under a sponsor from the beginning of time.
fn sponsor(shop: &mut Shop, affiliate: &str, sponsor: Option<&str>) {
    let id = EnrollmentId::parse(affiliate).unwrap();
    let sponsor = sponsor.map(|sponsor| EnrollmentId::parse(sponsor).unwrap());
    let enrollment = shop.directory.enrollments.get_mut(&id).unwrap();
    enrollment.sponsors = vec![Dated { at: Timestamp::EPOCH, value: sponsor }];
}

/// 10 000 brought by ann, who earns 2 000 of it.
fn sold(shop: &mut Shop, id: &str) {
    shop.hears(of_ann(&charge(id), 10_000));
}

fn standings(shop: &Shop, object: &ObjectRef) -> Vec<Standing> {
    let mut found: Vec<Standing> = shop
        .sale_of(object)
        .commissions
        .iter()
        .map(|known| {
            let name = ENROLLMENTS.into_iter().find(|name| *name == known.enrollment_id.as_str()).unwrap();
            (name, known.level, known.earned, known.clawed, known.state)
        })
        .collect();
    found.sort_by_key(|(name, level, ..)| (*level, *name));
    found
}

fn refunds(shop: &mut Shop, id: &str, amount: i64) {
    let object = refund(&charge("ch"), id, amount, RefundStatus::Active);
    shop.hears(vec![Fact::Refund(object)]);
}

/// What came back of the transfer that paid one of them, who has one commission of the sale.
fn transfer_came_back(shop: &mut Shop, enrollment: &str, amount: i64) {
    let level = shop.commission(&charge("ch"), enrollment).level;
    transfer_of_level_came_back(shop, enrollment, level, amount);
}

fn transfer_of_level_came_back(shop: &mut Shop, enrollment: &str, level: i64, amount: i64) {
    let enrollment_id = EnrollmentId::parse(enrollment).unwrap();
    let sale = &shop.sale_of(&charge("ch")).id;
    let decision = Decision {
        id: DecisionId::derived(&["transfer", enrollment, &amount.to_string()]),
        commission_id: Some(Commission::id_of(sale, &enrollment_id, level)),
        enrollment_id,
        kind: DecisionKind::TransferClawback,
        reason: None,
        amount: Some(amount),
        at: shop.now,
    };
    shop.step(&Step::Decision { scope: stripe(), object: charge("ch"), decision });
    shop.fold();
}

use CommissionState::{AwaitingReview, Denied, Flagged, Held, InPayout, Payable, Reversed};

#[test]
fn each_level_gets_its_share_of_the_direct_commission() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    let expected =
        [("par_ann", 0, 2_000, 0, Held), ("par_bob", 1, 200, 0, Held), ("par_cat", 2, 100, 0, Held)];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    let direct = shop.commission(&charge("ch"), "par_ann");
    let upline = shop.commission(&charge("ch"), "par_bob");
    assert_eq!(upline.conversion_id, direct.conversion_id);
    assert_eq!((upline.base, upline.amount, upline.position), (2_000, 200, None));
    shop.passes(MERGE_GRACE_S);
    assert!(standings(&shop, &charge("ch")).iter().all(|known| known.4 == Payable));
}

#[test]
fn levels_beyond_those_of_the_program_earn_nothing() {
    for (shares, earners) in
        [(vec![], 1), (vec![1_000], 2), (vec![1_000, 500], 3), (vec![1_000, 500, 250], 3)]
    {
        let mut shop = shop_with(&Terms { upline_bps: upline(&shares), ..share_of(2_000) });
        sold(&mut shop, "ch");
        assert_eq!(shop.sale_of(&charge("ch")).commissions.len(), earners, "{shares:?}");
    }
}

#[test]
fn without_the_platforms_leave_nothing_new_is_earned_and_nothing_old_is_taken_back() {
    let mut shop = shop();
    shop.directory.multi_level = false;
    sold(&mut shop, "before");
    assert_eq!(standings(&shop, &charge("before")).len(), 1);
    shop.directory.multi_level = true;
    sold(&mut shop, "ch");
    shop.directory.multi_level = false;
    refunds(&mut shop, "re", 5_000);
    let expected =
        [("par_ann", 0, 2_000, 1_000, Held), ("par_bob", 1, 200, 100, Held), ("par_cat", 2, 100, 50, Held)];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    sold(&mut shop, "after");
    assert_eq!(standings(&shop, &charge("after")).len(), 1);
}

#[test]
fn a_suspended_sponsor_leaves_the_level_empty_and_nobody_moves_up() {
    let mut shop = shop();
    sponsor(&mut shop, "par_ann", Some("par_dan"));
    sponsor(&mut shop, "par_dan", Some("par_cat"));
    sold(&mut shop, "ch");
    assert_eq!(
        standings(&shop, &charge("ch")),
        [("par_ann", 0, 2_000, 0, Held), ("par_cat", 2, 100, 0, Held)]
    );
}

#[test]
fn a_circle_of_sponsors_ends_where_it_began() {
    let mut shop = shop_with(&Terms { upline_bps: upline(&[1_000; 4]), ..share_of(2_000) });
    sponsor(&mut shop, "par_cat", Some("par_ann"));
    sold(&mut shop, "ch");
    let names: Vec<_> = standings(&shop, &charge("ch")).into_iter().map(|known| known.0).collect();
    assert_eq!(names, ["par_ann", "par_bob", "par_cat"]);
    sponsor(&mut shop, "par_ann", Some("par_ann"));
    sold(&mut shop, "own");
    assert_eq!(standings(&shop, &charge("own")).len(), 1);
}

#[test]
fn a_sponsor_is_the_one_of_when_the_sale_was_paid() {
    let mut shop = shop();
    let ann = EnrollmentId::parse("par_ann").unwrap();
    let later = Dated { at: crate::domain::testing::PAID_AT.plus_secs(1), value: None };
    shop.directory.enrollments.get_mut(&ann).unwrap().sponsors.push(later);
    sold(&mut shop, "ch");
    assert_eq!(standings(&shop, &charge("ch")).len(), 3);
}

#[test]
fn the_sponsors_wait_for_the_approval_and_the_hold_of_the_direct_commission() {
    let manual = Terms { approval_mode: ApprovalMode::Manual, hold_period_days: 10, ..terms() };
    let mut shop = shop_with(&manual);
    sold(&mut shop, "ch");
    assert!(standings(&shop, &charge("ch")).iter().all(|known| (known.2, known.4) == (0, AwaitingReview)));
    shop.decides(&charge("ch"), DecisionKind::Approve, "par_ann");
    let held = [("par_ann", 0, 2_000, 0, Held), ("par_bob", 1, 200, 0, Held), ("par_cat", 2, 100, 0, Held)];
    assert_eq!(standings(&shop, &charge("ch")), held);
    shop.passes(10 * 86_400 - 1);
    assert_eq!(standings(&shop, &charge("ch")), held);
    shop.passes(1);
    assert!(standings(&shop, &charge("ch")).iter().all(|known| known.4 == Payable));
}

#[test]
fn what_is_turned_down_was_never_the_sponsors() {
    let mut shop = shop_with(&Terms { approval_mode: ApprovalMode::Manual, ..terms() });
    sold(&mut shop, "ch");
    shop.decides(&charge("ch"), DecisionKind::Reject, "par_ann");
    assert!(
        standings(&shop, &charge("ch")).iter().all(|known| (known.2, known.3, known.4) == (0, 0, Denied))
    );

    let mut shop = super::uplines::shop();
    sold(&mut shop, "ch");
    shop.decides(&charge("ch"), DecisionKind::Reject, "par_ann");
    let taken = [
        ("par_ann", 0, 2_000, 2_000, Denied),
        ("par_bob", 1, 200, 200, Denied),
        ("par_cat", 2, 100, 100, Denied),
    ];
    assert_eq!(standings(&shop, &charge("ch")), taken);
}

#[test]
fn what_stops_the_sale_stops_all_and_a_full_refund_takes_all() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.hears(vec![Fact::Dispute(dispute(&charge("ch"), "dp", DisputePhase::Open, (0, 0)))]);
    assert!(standings(&shop, &charge("ch")).iter().all(|known| known.4 == Flagged));
    assert_eq!(shop.commission(&charge("ch"), "par_cat").reason.as_deref(), Some("dispute"));
    shop.decides(&charge("ch"), DecisionKind::Approve, "par_ann");
    assert!(standings(&shop, &charge("ch")).iter().all(|known| known.4 == Held));
    refunds(&mut shop, "re", 10_000);
    let taken = [
        ("par_ann", 0, 2_000, 2_000, Reversed),
        ("par_bob", 1, 200, 200, Reversed),
        ("par_cat", 2, 100, 100, Reversed),
    ];
    assert_eq!(standings(&shop, &charge("ch")), taken);
    shop.hears(vec![Fact::Refund(refund(&charge("ch"), "re", 10_000, RefundStatus::Void))]);
    assert!(standings(&shop, &charge("ch")).iter().all(|known| (known.3, known.4) == (0, Held)));
}

#[test]
fn what_came_back_of_one_transfer_concerns_only_whom_it_paid() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.passes(MERGE_GRACE_S);
    shop.claim_all();
    transfer_came_back(&mut shop, "par_ann", 2_000);
    let expected = [
        ("par_ann", 0, 2_000, 2_000, InPayout),
        ("par_bob", 1, 200, 0, InPayout),
        ("par_cat", 2, 100, 0, InPayout),
    ];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    transfer_came_back(&mut shop, "par_bob", 50);
    refunds(&mut shop, "re", 5_000);
    // The refund takes 1 000, 100 and 50; what came back already is not owed twice.
    let expected = [
        ("par_ann", 0, 2_000, 2_000, InPayout),
        ("par_bob", 1, 200, 150, InPayout),
        ("par_cat", 2, 100, 50, InPayout),
    ];
    assert_eq!(standings(&shop, &charge("ch")), expected);
}

#[test]
fn what_a_payout_took_carries_forward() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.passes(MERGE_GRACE_S);
    shop.claim_all();
    refunds(&mut shop, "re", 2_500);
    let expected = [
        ("par_ann", 0, 2_000, 500, InPayout),
        ("par_bob", 1, 200, 50, InPayout),
        ("par_cat", 2, 100, 25, InPayout),
    ];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    refunds(&mut shop, "rest", 7_500);
    assert!(standings(&shop, &charge("ch")).iter().all(|known| known.2 == known.3 && known.4 == InPayout));
}

#[test]
fn a_sponsor_who_was_paid_first_owes_all_when_the_direct_commission_is_turned_down() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.passes(MERGE_GRACE_S);
    let id = shop.sale_of(&charge("ch")).id.clone();
    let of_bob = |known: &&mut Commission| known.level == 1;
    for known in shop.book.sales.get_mut(&id).unwrap().commissions.iter_mut().filter(of_bob) {
        known.claimed = true;
        known.state = InPayout;
    }
    shop.hears(vec![Fact::Dispute(dispute(&charge("ch"), "dp", DisputePhase::Open, (0, 0)))]);
    assert_eq!(
        standings(&shop, &charge("ch")),
        [
            ("par_ann", 0, 2_000, 0, Flagged),
            ("par_bob", 1, 200, 0, InPayout),
            ("par_cat", 2, 100, 0, Flagged)
        ]
    );
    shop.decides(&charge("ch"), DecisionKind::Reject, "par_ann");
    let expected = [
        ("par_ann", 0, 2_000, 2_000, Denied),
        ("par_bob", 1, 200, 200, InPayout),
        ("par_cat", 2, 100, 100, Denied),
    ];
    assert_eq!(standings(&shop, &charge("ch")), expected);
}

#[test]
fn a_sale_that_goes_to_somebody_else_goes_to_their_sponsors() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.decides(&charge("ch"), DecisionKind::Attribute, "par_bob");
    let expected = [
        ("par_ann", 0, 2_000, 2_000, Reversed),
        ("par_bob", 0, 2_000, 0, Held),
        ("par_bob", 1, 200, 200, Reversed),
        ("par_cat", 1, 200, 0, Held),
        ("par_cat", 2, 100, 100, Reversed),
    ];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    assert_eq!((shop.balance("par_ann"), shop.balance("par_bob"), shop.balance("par_cat")), (0, 2_000, 200));
    // And back again.
    let back = Decision {
        id: DecisionId::derived(&["back"]),
        enrollment_id: EnrollmentId::parse("par_ann").unwrap(),
        commission_id: None,
        kind: DecisionKind::Attribute,
        reason: None,
        amount: None,
        at: shop.now.plus_secs(1),
    };
    shop.step(&Step::Decision { scope: stripe(), object: charge("ch"), decision: back });
    shop.fold();
    assert_eq!(
        (shop.balance("par_ann"), shop.balance("par_bob"), shop.balance("par_cat")),
        (2_000, 200, 100)
    );
}

#[test]
fn what_came_back_of_a_sponsors_transfer_is_not_taken_from_what_they_earn_directly() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    shop.passes(MERGE_GRACE_S);
    // A payout pays bob their 200 as ann's sponsor; then the sale turns out to be bob's own.
    let id = shop.sale_of(&charge("ch")).id.clone();
    let of_bob = |known: &&mut Commission| known.enrollment_id.as_str() == "par_bob";
    let paid = shop.book.touch(&id).unwrap().commissions.iter_mut().find(of_bob).unwrap();
    (paid.claimed, paid.state) = (true, InPayout);
    shop.decides(&charge("ch"), DecisionKind::Attribute, "par_bob");
    let bobs = |shop: &Shop| {
        let known = standings(shop, &charge("ch")).into_iter().filter(|known| known.0 == "par_bob");
        known.map(|(_, level, earned, clawed, _)| (level, earned, clawed)).collect::<Vec<_>>()
    };
    // A fifth of 10 000 directly; the 200 were taken back for what bob is paid next.
    assert_eq!(bobs(&shop), [(0, 2_000, 0), (1, 200, 200)]);
    assert_eq!(shop.balance("par_bob"), 2_000);
    // The transfer of the 200 comes back, half of it and then the rest.
    for amount in [99, 101] {
        transfer_of_level_came_back(&mut shop, "par_bob", 1, amount);
        assert_eq!(bobs(&shop), [(0, 2_000, 0), (1, 200, 200)]);
        assert_eq!(shop.balance("par_bob"), 2_000);
    }
    // A quarter of what the direct one paid comes back: of that alone.
    transfer_of_level_came_back(&mut shop, "par_bob", 0, 500);
    assert_eq!(bobs(&shop), [(0, 2_000, 500), (1, 200, 200)]);
    assert_eq!(shop.balance("par_bob"), 1_500);
}

#[test]
fn of_two_sales_that_turn_out_to_be_one_the_sponsors_keep_one_share() {
    for seed in 0..6 {
        let mut shop = shop();
        shop.ids = Shuffler(seed);
        shop.hears(of_ann(&invoice("in"), 10_000));
        shop.hears(of_ann(&intent("pi"), 10_000));
        assert_eq!(shop.balance("par_bob"), 400);
        shop.hears(vec![link(invoice("in"), intent("pi"))]);
        assert_eq!(
            (shop.balance("par_ann"), shop.balance("par_bob"), shop.balance("par_cat")),
            (2_000, 200, 100)
        );
    }
}

#[test]
fn a_buyer_who_looks_like_the_sponsor_stops_only_the_sponsor_until_a_person_approves() {
    let mut shop = shop();
    let bob = EnrollmentId::parse("par_bob").unwrap();
    shop.directory.enrollments.get_mut(&bob).unwrap().emails.insert("bob@x.org".to_owned());
    let payment = SalePaid { buyer_email: Some("bob@x.org".to_owned()), ..paid(&charge("ch"), 10_000) };
    shop.hears(vec![Fact::SalePaid(payment), code(Subject::Sale(charge("ch")), "ann")]);
    shop.passes(MERGE_GRACE_S);
    let expected =
        [("par_ann", 0, 2_000, 0, Payable), ("par_bob", 1, 200, 0, Flagged), ("par_cat", 2, 100, 0, Payable)];
    assert_eq!(standings(&shop, &charge("ch")), expected);
    assert_eq!(shop.commission(&charge("ch"), "par_bob").reason.as_deref(), Some("self_referral"));
    shop.decides(&charge("ch"), DecisionKind::Approve, "par_ann");
    assert_eq!(shop.commission(&charge("ch"), "par_bob").state, Payable);
}

#[test]
fn half_a_cent_is_rounded_up_and_less_makes_no_commission() {
    for (bps, earners, of_bob) in [(5_000, 2, 1), (4_999, 1, 0), (10_000, 2, 1)] {
        let mut shop = shop_with(&Terms { upline_bps: upline(&[bps]), ..share_of(10_000) });
        shop.hears(of_ann(&charge("ch"), 1));
        assert_eq!(standings(&shop, &charge("ch")).len(), earners, "{bps}");
        assert_eq!((shop.balance("par_ann"), shop.balance("par_bob")), (1, of_bob), "{bps}");
    }
}

#[test]
fn clawing_the_direct_commission_back_by_hand_takes_the_same_share_of_the_sponsors() {
    let mut shop = shop();
    sold(&mut shop, "ch");
    let decision = Decision {
        id: DecisionId::derived(&["fraud"]),
        enrollment_id: EnrollmentId::parse("par_ann").unwrap(),
        commission_id: None,
        kind: DecisionKind::Clawback,
        reason: Some(crate::domain::commission::ClawbackReason::Fraud),
        amount: Some(500),
        at: shop.now,
    };
    shop.step(&Step::Decision { scope: stripe(), object: charge("ch"), decision });
    shop.fold();
    let expected =
        [("par_ann", 0, 2_000, 500, Held), ("par_bob", 1, 200, 50, Held), ("par_cat", 2, 100, 25, Held)];
    assert_eq!(standings(&shop, &charge("ch")), expected);
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn the_sponsor_keeps_the_same_share_as_the_affiliate_however_refunds_are_split(
        amount in 1_i64..1_000_000,
        bps in 0_i64..=10_000,
        share in 0_i64..=10_000,
        cuts in prop::collection::vec(0_i64..1_000_000, 0..6),
        claims in any::<u8>(),
    ) {
        let mut shop = shop_with(&Terms { upline_bps: upline(&[share]), ..share_of(bps) });
        shop.hears(of_ann(&charge("ch"), amount));
        shop.passes(MERGE_GRACE_S);
        let mut left = amount;
        for (nth, cut) in cuts.into_iter().enumerate() {
            if usize::from(claims % 8) == nth {
                shop.claim_all();
            }
            let part = cut % (left + 1);
            left -= part;
            refunds(&mut shop, &nth.to_string(), part);
        }
        let direct = super::super::model::half_up(amount, bps, 10_000);
        let kept = super::super::model::half_up(direct, left, amount);
        let of_sponsor = super::super::model::half_up(direct, share, 10_000);
        let expected = if direct == 0 { 0 } else { super::super::model::half_up(of_sponsor, kept, direct) };
        prop_assert_eq!((shop.balance("par_ann"), shop.balance("par_bob")), (kept, expected));
    }
}
