//! What a commission should be (`rulings.md` 1, 2, 5–8, 10; `semantics.md`, "One state machine").

use super::*;
use crate::domain::{
    fact::{DisputePhase, Item, ObjectKind, ObjectRef, RefundStatus, SalePaid},
    money::BasisPoints,
    sale::SaleFacts,
    terms::{CommissionRule, Limit, ProductRate, Rate, Tier, TierBasis, TierMode},
    testing::{PAID_AT, charge, currency, dispute, flat, invoice, paid, refund, share_of, usd},
};

const DAY_S: i64 = 86_400;
const GRACE_S: i64 = 900;

/// One commission of one sale, taken through time by hand.
struct Case {
    facts: SaleFacts,
    decisions: Vec<Decision>,
    more_stops: BTreeSet<Stop>,
    voided: Option<Voided>,
    commission: Commission,
    received_at: Timestamp,
}

/// Everything one step posted, as kinds and amounts.
type Entries = Vec<(EntryKind, i64)>;

impl Case {
    /// A sale of 10 000 cents, paid and received at [`PAID_AT`].
    fn new(terms: Terms) -> Self {
        let mut facts = SaleFacts::default();
        let mut payment = paid(&invoice("in"), 10_000);
        payment.tax = Some(1_000);
        facts.merge_payment(&payment);
        let sale_id = SaleId::parse("sale_1").unwrap();
        let enrollment_id = EnrollmentId::parse("par_1").unwrap();
        let commission = Commission {
            id: Commission::id_of(&sale_id, &enrollment_id, 0),
            conversion_id: Commission::conversion_id_of(&sale_id, &enrollment_id),
            sale_id,
            enrollment_id,
            program_id: ProgramId::parse("prog_1").unwrap(),
            level: 0,
            currency: usd(),
            terms,
            terms_version: 1,
            base: 0,
            amount: 0,
            earned: 0,
            clawed: 0,
            held: 0,
            released: 0,
            state: CommissionState::Held,
            reason: None,
            claimed: false,
            revision: 0,
            paid_at: PAID_AT,
            due_at: None,
            flags: BTreeMap::new(),
            position: None,
            customer_key: None,
            counted: None,
        };
        Self {
            facts,
            decisions: Vec::new(),
            more_stops: BTreeSet::new(),
            voided: None,
            commission,
            received_at: PAID_AT,
        }
    }

    fn target(&self, after_s: i64) -> Target {
        let summary = self.facts.summary().unwrap();
        target(&Input {
            commission: &self.commission,
            sale: summary.as_ref(),
            voided: self.voided,
            decisions: &self.decisions,
            more_stops: self.more_stops.clone(),
            not_before: self.received_at.plus_secs(GRACE_S),
            received_at: self.received_at,
            now: PAID_AT.plus_secs(after_s),
            position: None,
        })
        .unwrap()
    }

    /// Folds `after_s` seconds after the payment and takes the result over.
    fn at(&mut self, after_s: i64) -> Entries {
        let posted = post(&self.commission, self.target(after_s)).unwrap();
        self.commission = posted.commission;
        let now = &self.commission;
        assert_eq!(now.earned - now.clawed, now.held + now.released);
        let amount = |entry: &Entry| entry.lines().first().unwrap().amount;
        posted.entries.iter().map(|entry| (entry.kind, amount(entry))).collect()
    }

    fn decide(&mut self, kind: DecisionKind, reason: Option<ClawbackReason>, amount: Option<i64>) {
        let id = DecisionId::derived(&[&self.decisions.len().to_string()]);
        if kind == DecisionKind::Approve {
            self.commission.clear_flags(&id, PAID_AT);
        }
        let enrollment_id = self.commission.enrollment_id.clone();
        self.decisions.push(Decision {
            id,
            enrollment_id,
            commission_id: None,
            kind,
            reason,
            amount,
            at: PAID_AT,
        });
    }

    fn refund(&mut self, id: &str, amount: i64, status: RefundStatus) {
        self.facts.merge_refund(&refund(&charge("ch"), id, amount, status));
    }

    fn dispute(&mut self, phase: DisputePhase, moved: (i64, i64)) {
        self.facts.merge_dispute(&dispute(&charge("ch"), "dp", phase, moved));
    }

    fn cleared_flags(&self) -> Vec<(StopKind, bool)> {
        self.commission.flags.iter().map(|(stop, flag)| (stop.kind, flag.cleared.is_some())).collect()
    }

    /// State, held and released.
    fn shows(&self) -> (CommissionState, i64, i64) {
        (self.commission.state, self.commission.held, self.commission.released)
    }
}

fn manual(terms: Terms) -> Terms {
    Terms { approval_mode: ApprovalMode::Manual, ..terms }
}

fn held_for(days: u16, terms: Terms) -> Terms {
    Terms { hold_period_days: days, ..terms }
}

/// A commission of 1000 that was released.
fn released() -> Case {
    let mut case = Case::new(share_of(1_000));
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Payable, 0, 1_000));
    case
}

#[test]
fn the_hold_counts_from_the_payment_to_the_second() {
    let mut case = Case::new(held_for(30, share_of(1_000)));
    assert_eq!(case.at(0), [(EntryKind::Accrual, 1_000)]);
    assert_eq!(case.commission.due_at, Some(PAID_AT.plus_days(30)));
    assert_eq!(case.at(30 * DAY_S - 1), []);
    assert_eq!(case.shows(), (CommissionState::Held, 1_000, 0));
    assert_eq!(case.at(30 * DAY_S), [(EntryKind::Release, 1_000)]);
    assert_eq!((case.shows(), case.commission.due_at), ((CommissionState::Payable, 0, 1_000), None));
}

#[test]
fn the_hold_of_a_report_outranks_the_terms_of_its_program_and_a_person_outranks_it() {
    let order = |id: &str| ObjectRef::new(ObjectKind::External, id);
    let mut case = Case::new(held_for(30, share_of(1_000)));
    let mine = case.commission.program_id.clone();
    case.facts.merge_hold(&order("1"), &ProgramId::parse("prog_other").unwrap(), 90);
    case.at(0);
    assert_eq!(case.commission.due_at, Some(PAID_AT.plus_days(30)), "another program's report");
    // Of two orders that are one payment the longer hold counts, and of one order told twice.
    for (id, days) in [("1", 3), ("2", 2), ("1", 1)] {
        case.facts.merge_hold(&order(id), &mine, days);
        case.at(0);
        assert_eq!(case.commission.due_at, Some(PAID_AT.plus_days(3)));
    }
    case.decide(DecisionKind::HoldPeriod, None, Some(1));
    assert_eq!(case.at(DAY_S - 1), []);
    assert_eq!(case.at(DAY_S), [(EntryKind::Release, 1_000)]);
    // Once released it stays so, whatever is told late.
    case.facts.merge_hold(&order("3"), &mine, 60);
    assert_eq!(case.at(DAY_S), []);
}

#[test]
fn a_reported_hold_of_nothing_and_no_grace_is_payable_in_the_first_fold() {
    for (days, state) in [(0, CommissionState::Payable), (1, CommissionState::Held)] {
        let mut case = Case::new(held_for(30, share_of(1_000)));
        let mine = case.commission.program_id.clone();
        case.facts.merge_hold(&ObjectRef::new(ObjectKind::External, "1"), &mine, days);
        case.at(GRACE_S);
        assert_eq!(case.commission.state, state);
    }
}

#[test]
fn nothing_is_payable_before_the_grace_for_merges_is_over() {
    let mut case = Case::new(share_of(1_000));
    case.at(0);
    assert_eq!(case.commission.due_at, Some(PAID_AT.plus_secs(GRACE_S)));
    assert_eq!(case.at(GRACE_S - 1), []);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Release, 1_000)]);
}

#[test]
fn the_grace_counts_from_receipt_also_for_old_sales() {
    let mut case = Case::new(held_for(30, share_of(1_000)));
    case.received_at = PAID_AT.plus_days(90);
    case.at(90 * DAY_S);
    assert_eq!(case.shows(), (CommissionState::Held, 1_000, 0));
    assert_eq!(case.commission.due_at, Some(PAID_AT.plus_days(90).plus_secs(GRACE_S)));
}

#[test]
fn what_was_released_stays_released_when_another_event_comes() {
    let mut case = released();
    case.received_at = PAID_AT.plus_secs(GRACE_S);
    case.refund("re", 2_500, RefundStatus::Active);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 250)]);
    assert_eq!(case.shows(), (CommissionState::Payable, 0, 750));
}

#[test]
fn the_same_facts_again_post_nothing() {
    let mut case = released();
    case.refund("re", 3_333, RefundStatus::Active);
    case.at(GRACE_S);
    let before = case.commission.clone();
    assert_eq!(case.at(GRACE_S), []);
    assert_eq!(case.commission, before);
}

#[test]
fn under_review_nothing_accrues_until_it_is_approved() {
    let mut case = Case::new(manual(share_of(1_000)));
    assert_eq!(case.at(90 * DAY_S), []);
    assert_eq!(case.shows(), (CommissionState::AwaitingReview, 0, 0));
    assert_eq!(case.commission.amount, 1_000);
    case.decide(DecisionKind::Approve, None, None);
    assert_eq!(case.at(90 * DAY_S), [(EntryKind::Accrual, 1_000), (EntryKind::Release, 1_000)]);
}

#[test]
fn an_approval_does_not_shorten_the_hold() {
    let mut case = Case::new(manual(held_for(30, share_of(1_000))));
    case.decide(DecisionKind::Approve, None, None);
    case.at(DAY_S);
    assert_eq!(case.shows(), (CommissionState::Held, 1_000, 0));
}

#[test]
fn a_rejection_under_review_accrues_nothing_ever() {
    let mut case = Case::new(manual(share_of(1_000)));
    case.decide(DecisionKind::Reject, None, None);
    assert_eq!(case.at(0), []);
    case.refund("re", 100, RefundStatus::Active);
    assert_eq!(case.at(90 * DAY_S), []);
    assert_eq!(case.shows(), (CommissionState::Denied, 0, 0));
}

#[test]
fn a_rejection_of_what_accrued_takes_it_back_and_is_final() {
    let mut case = Case::new(share_of(1_000));
    case.at(0);
    case.decide(DecisionKind::Reject, None, None);
    assert_eq!(case.at(1), [(EntryKind::Clawback, 1_000)]);
    case.refund("re", 10_000, RefundStatus::Active);
    case.refund("re", 10_000, RefundStatus::Void);
    assert_eq!(case.at(90 * DAY_S), []);
    assert_eq!(case.shows(), (CommissionState::Denied, 0, 0));
}

#[test]
fn a_full_refund_reverses_and_its_failure_restores() {
    let mut case = released();
    case.refund("re", 10_000, RefundStatus::Active);
    // The money leaves the payable side; a commission that is nobody's does not stay there.
    assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 1_000)]);
    assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
    assert_eq!(case.commission.reason.as_deref(), Some("refund"));
    case.refund("re", 10_000, RefundStatus::Void);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Reinstatement, 1_000), (EntryKind::Release, 1_000)]);
    assert_eq!(case.shows(), (CommissionState::Payable, 0, 1_000));
}

#[test]
fn a_refund_known_before_the_payment_leaves_both_entries() {
    let mut case = Case::new(share_of(1_000));
    case.refund("re", 10_000, RefundStatus::Active);
    assert_eq!(case.at(0), [(EntryKind::Accrual, 1_000), (EntryKind::Clawback, 1_000)]);
    assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
}

#[test]
fn a_full_refund_under_review_posts_nothing() {
    let mut case = Case::new(manual(share_of(1_000)));
    case.refund("re", 10_000, RefundStatus::Active);
    assert_eq!(case.at(0), []);
    assert_eq!(case.commission.state, CommissionState::Reversed);
    case.refund("re", 10_000, RefundStatus::Void);
    case.at(1);
    assert_eq!(case.commission.state, CommissionState::AwaitingReview);
}

#[test]
fn a_dispute_stops_the_money_takes_it_when_withdrawn_and_gives_it_back_when_won() {
    let mut case = released();
    case.dispute(DisputePhase::Open, (0, 0));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Suspension, 1_000)]);
    assert_eq!(case.shows(), (CommissionState::Flagged, 1_000, 0));
    assert_eq!(case.commission.reason.as_deref(), Some("dispute"));
    case.dispute(DisputePhase::Open, (5_000, 0));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 500)]);
    case.dispute(DisputePhase::Won, (5_000, 5_000));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Reinstatement, 500), (EntryKind::Release, 1_000)]);
    assert_eq!(case.cleared_flags(), [(StopKind::Dispute, true)]);
}

#[test]
fn an_approval_clears_a_flag_once_and_for_all() {
    let mut case = released();
    case.dispute(DisputePhase::Open, (0, 0));
    case.at(GRACE_S);
    case.decide(DecisionKind::Approve, None, None);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Release, 1_000)]);
    case.dispute(DisputePhase::Open, (0, 0));
    assert_eq!(case.at(GRACE_S + 1), []);
    assert_eq!(case.shows(), (CommissionState::Payable, 0, 1_000));
}

#[test]
fn an_inquiry_that_was_approved_stops_the_money_again_when_it_becomes_a_dispute() {
    let mut case = released();
    case.dispute(DisputePhase::Inquiry, (0, 0));
    case.at(GRACE_S);
    assert_eq!(case.commission.reason.as_deref(), Some("inquiry"));
    case.decide(DecisionKind::Approve, None, None);
    case.at(GRACE_S);
    case.dispute(DisputePhase::Open, (0, 0));
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Flagged, 1_000, 0));
    assert_eq!(case.cleared_flags(), [(StopKind::Dispute, false), (StopKind::Inquiry, true)]);
}

#[test]
fn a_refund_request_stops_the_money_until_it_is_decided() {
    let mut case = released();
    case.refund("re", 10_000, RefundStatus::AwaitingApproval);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Suspension, 1_000)]);
    case.refund("re", 10_000, RefundStatus::Void);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Release, 1_000)]);
}

#[test]
fn a_cancellation_stands_until_a_person_clears_it() {
    let mut case = released();
    let cancellation = Stop { kind: StopKind::Cancellation, id: "sub".to_owned() };
    case.more_stops.insert(cancellation);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Suspension, 1_000)]);
    case.more_stops.clear();
    assert_eq!(case.at(GRACE_S), []);
    case.decide(DecisionKind::Approve, None, None);
    assert_eq!(case.at(GRACE_S), [(EntryKind::Release, 1_000)]);
}

#[test]
fn a_clawback_for_a_refund_and_the_refund_itself_take_the_larger() {
    let clawed = |by_hand, refunded| {
        let mut case = released();
        case.decide(DecisionKind::Clawback, Some(ClawbackReason::Refund), Some(by_hand));
        case.refund("re", refunded, RefundStatus::Active);
        case.at(GRACE_S);
        case.commission.clawed
    };
    assert_eq!(clawed(300, 2_000), 300);
    assert_eq!(clawed(100, 2_000), 200);
}

#[test]
fn a_clawback_for_fraud_comes_on_top_and_all_is_capped_at_the_commission() {
    let mut case = released();
    case.refund("re", 2_000, RefundStatus::Active);
    case.decide(DecisionKind::Clawback, Some(ClawbackReason::Fraud), Some(300));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 500)]);
    case.decide(DecisionKind::Clawback, Some(ClawbackReason::Other), Some(900));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 500)]);
    assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
    assert_eq!(case.commission.reason.as_deref(), Some("clawback"));
}

#[test]
fn a_clawback_without_amount_takes_all_and_a_negative_one_gives_nothing() {
    let mut case = released();
    case.decide(DecisionKind::Clawback, Some(ClawbackReason::Other), Some(-500));
    assert_eq!(case.at(GRACE_S), []);
    case.decide(DecisionKind::Clawback, None, None);
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
}

#[test]
fn an_amount_that_a_better_teller_corrects_is_adjusted() {
    let mut case = released();
    case.facts.merge_payment(&paid(&invoice("in"), 12_000));
    assert_eq!(case.at(GRACE_S), [(EntryKind::Adjustment, 200)]);
    assert_eq!((case.commission.base, case.commission.released), (12_000, 1_200));
}

#[test]
fn a_sale_that_turns_out_to_be_in_another_currency_earns_in_that_one() {
    let mut case = released();
    case.commission.currency = currency("eur");
    assert_eq!(case.at(GRACE_S), [(EntryKind::Adjustment, 1_000), (EntryKind::Accrual, 1_000)]);
    assert_eq!((case.commission.currency, case.commission.released), (usd(), 1_000));
}

#[test]
fn what_a_payout_claimed_is_not_moved_to_another_currency() {
    let mut case = released();
    case.commission.claimed = true;
    case.commission.currency = currency("eur");
    assert!(case.target(GRACE_S).currency_contradiction);
    assert_eq!(case.at(GRACE_S), []);
    assert_eq!((case.commission.currency, case.commission.earned), (currency("eur"), 1_000));
}

#[test]
fn untold_tax_keeps_the_commission_unpayable_and_after_a_day_somebody_is_told() {
    let net = Terms { commission_base: crate::domain::terms::CommissionBase::NetOfTax, ..share_of(1_000) };
    let mut case = Case::new(net);
    case.facts.payments.values_mut().for_each(|payment| payment.tax = None);
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Held, 1_000, 0));
    assert_eq!(case.commission.reason.as_deref(), Some("tax_unknown"));
    assert_eq!(case.commission.due_at, Some(PAID_AT.plus_days(1)));
    assert!(!case.target(DAY_S - 1).tax_overdue);
    assert!(case.target(DAY_S).tax_overdue);
    case.facts.payments.values_mut().for_each(|payment| payment.tax = Some(1_000));
    assert_eq!(case.at(DAY_S), [(EntryKind::Adjustment, 100), (EntryKind::Release, 900)]);
}

#[test]
fn what_nobody_is_owed_is_taken_back_and_says_why() {
    for (voided, reason) in [(Voided::Merged, "merged"), (Voided::Reattributed, "reattributed")] {
        let mut case = released();
        case.voided = Some(voided);
        assert_eq!(case.at(GRACE_S), [(EntryKind::Clawback, 1_000)]);
        assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
        assert_eq!(case.commission.reason.as_deref(), Some(reason));
        case.voided = None;
        case.at(GRACE_S);
        assert_eq!(case.shows(), (CommissionState::Payable, 0, 1_000));
    }
}

/// Whatever happens to a commission of which a payout took part.
type Blow = fn(&mut Case);

#[test]
fn what_a_payout_claimed_carries_forward_and_is_never_moved_back() {
    let blows: [(&str, Blow, i64); 6] = [
        ("full refund", |case| case.refund("re", 10_000, RefundStatus::Active), 0),
        ("partial refund", |case| case.refund("re", 2_500, RefundStatus::Active), 750),
        ("open dispute", |case| case.dispute(DisputePhase::Open, (0, 0)), 1_000),
        ("reattribution", |case| case.voided = Some(Voided::Reattributed), 0),
        (
            "full refund of what was already clawed back",
            |case| {
                case.refund("re", 10_000, RefundStatus::Active);
                case.decide(DecisionKind::Clawback, Some(ClawbackReason::Fraud), Some(400));
            },
            0,
        ),
        ("clawback", |case| case.decide(DecisionKind::Clawback, None, Some(400)), 600),
    ];
    for state in [CommissionState::InPayout, CommissionState::Paid] {
        for (name, blow, left) in blows {
            let mut case = released();
            case.commission.claimed = true;
            case.commission.state = state;
            blow(&mut case);
            let posted = post(&case.commission, case.target(GRACE_S)).unwrap();
            assert_eq!((posted.commission.state, posted.commission.held), (state, 0), "{name}");
            assert_eq!(posted.commission.released, left, "{name}");
            let lots: Vec<_> = posted.lots.iter().map(|lot| (lot.kind, lot.amount)).collect();
            let expected =
                if left == 1_000 { vec![] } else { vec![(ledger::LotKind::CarryForward, left - 1_000)] };
            assert_eq!(lots, expected, "{name}");
        }
    }
}

#[test]
fn a_flat_commission_of_a_partly_refunded_sale_stays_whole() {
    let mut case = Case::new(flat(500));
    case.refund("re", 9_999, RefundStatus::Active);
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Payable, 0, 500));
    case.refund("re_2", 1, RefundStatus::Active);
    case.at(GRACE_S);
    assert_eq!(case.shows(), (CommissionState::Reversed, 0, 0));
}

#[test]
fn terms_follow_the_time_of_payment_until_a_payout_claims_them() {
    let second = || share_of(2_000);
    let mut case = released();
    case.commission.paid_from(PAID_AT, 2, second);
    assert_eq!(case.commission.terms_version, 1, "the same time keeps what was frozen");
    case.commission.claimed = true;
    case.commission.paid_from(PAID_AT.plus_secs(5), 2, second);
    assert_eq!(case.commission.terms_version, 1, "a payout claimed it");
    case.commission.claimed = false;
    case.commission.paid_from(PAID_AT.plus_secs(5), 2, second);
    assert_eq!((case.commission.terms_version, case.commission.paid_at), (2, PAID_AT.plus_secs(5)));
}

#[test]
fn of_two_commissions_the_one_nearer_to_payment_is_further() {
    let of = |state, claimed| {
        let mut case = released();
        case.commission.state = state;
        case.commission.claimed = claimed;
        case.commission.advancement()
    };
    let order = [
        of(CommissionState::AwaitingReview, false),
        of(CommissionState::Held, false),
        of(CommissionState::Payable, false),
        of(CommissionState::InPayout, false),
    ];
    assert!(order.is_sorted_by(|a, b| a < b));
    assert_eq!(of(CommissionState::Reversed, true), of(CommissionState::Paid, false));
}

#[test]
fn a_sponsor_who_was_paid_owes_back_what_came_of_a_sale_that_was_turned_down() {
    let mut direct = Case::new(share_of(2_000));
    direct.at(0);
    let sponsor = EnrollmentId::parse("par_2").unwrap();
    let upline = direct.commission.upline(&direct.commission.sale_id, &sponsor, 1);
    let mut sponsor = Case { commission: upline, ..Case::new(share_of(2_000)) };
    let mut follow = |direct: &Target, is_claimed: bool| {
        sponsor.commission.claimed = is_claimed;
        let summary = sponsor.facts.summary().unwrap();
        let input = Input {
            commission: &sponsor.commission,
            sale: summary.as_ref(),
            voided: None,
            decisions: &[],
            more_stops: BTreeSet::new(),
            not_before: PAID_AT,
            received_at: PAID_AT,
            now: PAID_AT,
            position: None,
        };
        let target = upline_target(&input, direct, BasisPoints::new(1_000).unwrap()).unwrap();
        sponsor.commission = post(&sponsor.commission, target).unwrap().commission;
        (sponsor.commission.earned, sponsor.commission.clawed)
    };
    assert_eq!(follow(&direct.target(0), false), (200, 0), "a tenth of the 2 000 of the affiliate");
    // The sponsor's other money reached the minimum and a payout took this too; the affiliate's did not.
    direct.decide(DecisionKind::Reject, None, None);
    assert_eq!(direct.target(0).state, CommissionState::Denied);
    assert_eq!(follow(&direct.target(0), true), (200, 200));
}

#[test]
fn what_has_a_rate_of_its_own_earns_below_the_first_tier_too() {
    let rate = |bps| Rate::Bps(BasisPoints::new(bps).unwrap());
    let item = |product: &str, amount| Item { price: None, product: Some(product.to_owned()), amount };
    for (mode, basis) in [(TierMode::Whole, TierBasis::Count), (TierMode::Marginal, TierBasis::Revenue)] {
        let tiers = vec![Tier { from: 20_000, rate: rate(1_000) }];
        let product_rates = vec![ProductRate { product: "prod_own".to_owned(), rate: rate(5_000) }];
        let terms =
            Terms { commission: CommissionRule::Tiered { basis, mode, tiers }, product_rates, ..share_of(0) };
        let earned = |items: Vec<Item>| {
            let mut facts = SaleFacts::default();
            facts.merge_payment(&SalePaid { items, ..paid(&invoice("in"), 10_000) });
            let earned = terms.earned(&facts.summary().unwrap().unwrap(), None).unwrap();
            (earned.amount, earned.limit)
        };
        assert_eq!(earned(vec![item("prod_own", 1), item("prod_other", 3)]), (1_250, None), "{mode:?}");
        assert_eq!(earned(vec![item("prod_other", 3)]), (0, Some(Limit::BelowTiers)), "{mode:?}");
    }
}
