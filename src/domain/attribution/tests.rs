//! Who referred a sale (`rulings.md` 8, 11; `semantics.md`, "First / last touch").

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::{
    ids::ProgramId,
    program::{
        Code, Dated, Enrollment, EnrollmentStatus, NoAttribution, Program, ProgramStatus, TermsVersion,
        TouchRules,
    },
    testing::{PAID_AT, share_of},
};

fn owner() -> OrganizationId {
    OrganizationId::parse("org_owner").unwrap()
}

fn enrollment(name: &str) -> EnrollmentId {
    EnrollmentId::parse(&format!("par_{name}")).unwrap()
}

/// Enrollments `ann`, `bob` and `cat` with codes of their names; `gone` is suspended, `late` is a code
/// that is not valid yet. `par_foreign` is in a program of another owner.
fn directory() -> Directory {
    let mut directory = Directory::default();
    for (program, organization_id) in
        [("prog_1", owner()), ("prog_2", OrganizationId::parse("org_2").unwrap())]
    {
        let id = ProgramId::parse(program).unwrap();
        let program = Program {
            id: id.clone(),
            organization_id,
            statuses: vec![Dated { at: Timestamp::EPOCH, value: ProgramStatus::Active }],
            touch_rules: TouchRules::default(),
            terms: vec![Dated {
                at: Timestamp::EPOCH,
                value: TermsVersion { version: 1, terms: share_of(1_000) },
            }],
        };
        directory.programs.insert(id, program);
    }
    for name in ["ann", "bob", "cat", "gone", "late", "foreign"] {
        let status = if name == "gone" { EnrollmentStatus::Suspended } else { EnrollmentStatus::Active };
        let member = Enrollment {
            id: enrollment(name),
            program_id: ProgramId::parse(if name == "foreign" { "prog_2" } else { "prog_1" }).unwrap(),
            organization_id: OrganizationId::parse("org_affiliate").unwrap(),
            statuses: vec![Dated { at: Timestamp::EPOCH, value: status }],
            emails: BTreeSet::new(),
            rates: Vec::new(),
            sponsors: Vec::new(),
        };
        let valid_from = if name == "late" { PAID_AT.plus_days(1) } else { Timestamp::EPOCH };
        let code = Code { enrollment_id: member.id.clone(), valid_from, valid_to: None };
        directory.codes.insert((owner(), name.to_owned()), code);
        directory.enrollments.insert(member.id.clone(), member);
    }
    directory
}

fn hint(source: HintSource, code: &str, after_s: i64) -> Hint {
    Hint { source, code: code.to_owned(), at: PAID_AT.plus_secs(after_s) }
}

fn metadata(code: &str) -> Hint {
    hint(HintSource::Metadata(0), code, 0)
}

fn decision(name: &str, after_s: i64) -> Decision {
    Decision {
        id: DecisionId::derived(&[name, &after_s.to_string()]),
        enrollment_id: enrollment(name),
        commission_id: None,
        kind: DecisionKind::Attribute,
        reason: None,
        amount: None,
        at: PAID_AT.plus_secs(after_s),
    }
}

fn attributed(decisions: &[Decision], hints: &Hints) -> Attribution {
    attribute(&owner(), PAID_AT, decisions, hints, &directory())
}

/// Whom the hints attribute the sale to, and by what.
fn earner(hints: &Hints) -> Option<(String, &'static str)> {
    let found = attributed(&[], hints).to?;
    Some((found.0.to_string(), found.1.as_str()))
}

fn to(name: &str, basis: &'static str) -> (String, &'static str) {
    (format!("par_{name}"), basis)
}

#[test]
fn a_decision_wins_over_every_code_and_the_last_one_over_the_first() {
    let hints = Hints { sale: vec![metadata("ann")], ..Hints::default() };
    let found = attributed(&[decision("cat", 20), decision("bob", 10)], &hints);
    let (enrollment_id, basis) = found.to.unwrap();
    assert_eq!((enrollment_id, basis.as_str(), basis.code()), (enrollment("cat"), "manual", None));
}

#[test]
fn a_decision_may_name_who_no_code_could() {
    assert_eq!(attributed(&[decision("gone", 0)], &Hints::default()).to.unwrap().0, enrollment("gone"));
}

#[test]
fn a_decision_for_another_owners_program_attributes_nothing() {
    let hints = Hints { sale: vec![metadata("ann")], ..Hints::default() };
    assert_eq!(attributed(&[decision("foreign", 0)], &hints).to.unwrap().0, enrollment("ann"));
}

#[test]
fn other_decisions_attribute_nothing() {
    let mut approve = decision("bob", 0);
    approve.kind = DecisionKind::Approve;
    assert_eq!(attributed(&[approve], &Hints::default()), Attribution::default());
}

#[test]
fn the_sales_own_code_wins_over_the_subscriptions_and_that_over_the_customers() {
    let mut hints = Hints {
        sale: vec![metadata("ann")],
        subscription: vec![metadata("bob")],
        customer: vec![metadata("cat")],
        ..Hints::default()
    };
    assert_eq!(earner(&hints), Some(to("ann", "metadata")));
    hints.sale.clear();
    assert_eq!(earner(&hints), Some(to("bob", "subscription")));
    hints.subscription.clear();
    assert_eq!(earner(&hints), Some(to("cat", "customer")));
}

#[test]
fn among_the_sales_own_codes_the_source_decides_and_not_the_time() {
    let mut sale = vec![
        hint(HintSource::Coupon, "ann", -30),
        hint(HintSource::ClientReference, "bob", -20),
        hint(HintSource::Metadata(1), "cat", -10),
        hint(HintSource::Metadata(0), "ann", 0),
    ];
    for expected in
        [to("ann", "metadata"), to("cat", "metadata"), to("bob", "client_reference"), to("ann", "coupon")]
    {
        assert_eq!(earner(&Hints { sale: sale.clone(), ..Hints::default() }), Some(expected));
        sale.pop();
    }
}

#[test]
fn the_first_code_binds_a_subscription_and_a_customer() {
    let told = vec![hint(HintSource::Metadata(0), "bob", 10), hint(HintSource::Coupon, "ann", -10)];
    let of_subscription = Hints { subscription: told.clone(), ..Hints::default() };
    assert_eq!(earner(&of_subscription), Some(to("ann", "subscription")));
    assert_eq!(earner(&Hints { customer: told, ..Hints::default() }), Some(to("ann", "customer")));
}

#[test]
fn a_code_that_attributes_nothing_lets_the_next_one_speak_and_is_reported() {
    let hints = Hints {
        sale: vec![
            hint(HintSource::Metadata(0), "nobody", 0),
            hint(HintSource::Metadata(1), "gone", 0),
            hint(HintSource::Metadata(2), "late", 0),
            hint(HintSource::Metadata(3), "foreign", 0),
        ],
        customer: vec![metadata("cat")],
        ..Hints::default()
    };
    let found = attributed(&[], &hints);
    assert_eq!(found.to.map(|(enrollment_id, _)| enrollment_id), Some(enrollment("cat")));
    let refused = [
        ("nobody", NoAttribution::UnknownCode),
        ("gone", NoAttribution::EnrollmentNotActive),
        ("late", NoAttribution::CodeNotValid),
        ("foreign", NoAttribution::UnknownCode),
    ];
    assert_eq!(found.refused, refused.map(|(code, why)| (code.to_owned(), why)));
}

#[test]
fn only_a_code_in_metadata_of_the_sale_is_worth_reporting() {
    let hints = Hints {
        sale: vec![hint(HintSource::ClientReference, "user_17", 0), hint(HintSource::Coupon, "SUMMER", 0)],
        subscription: vec![metadata("nobody")],
        customer: vec![metadata("nobody")],
        ..Hints::default()
    };
    assert_eq!(attributed(&[], &hints), Attribution::default());
}

#[test]
fn a_customers_code_speaks_for_sales_from_an_hour_before_it_was_told() {
    let told = |after_s| {
        earner(&Hints { customer: vec![hint(HintSource::Metadata(0), "ann", after_s)], ..Hints::default() })
    };
    assert_eq!(told(-90_000), Some(to("ann", "customer")));
    assert_eq!(told(3_600), Some(to("ann", "customer")));
    assert_eq!(told(3_601), None);
}

#[test]
fn codes_told_at_the_same_time_have_one_order() {
    let told = [metadata("bob"), metadata("ann"), hint(HintSource::Coupon, "cat", 0)];
    let mut orders = BTreeMap::new();
    for turn in 0..told.len() {
        let mut hints = told.to_vec();
        hints.rotate_left(turn);
        *orders.entry(earner(&Hints { customer: hints, ..Hints::default() })).or_insert(0) += 1;
    }
    assert_eq!(orders, BTreeMap::from([(Some(to("ann", "customer")), 3)]));
}

/// Ann's code is retired a day after [`PAID_AT`], and issued a day before it.
fn with_a_code_of_two_days() -> Directory {
    let mut directory = directory();
    let code = directory.codes.get_mut(&(owner(), "ann".to_owned())).unwrap();
    code.valid_from = PAID_AT.plus_days(-1);
    code.valid_to = Some(PAID_AT.plus_days(1));
    directory
}

#[test]
fn a_code_that_bound_a_subscription_or_customer_binds_renewals_after_it_was_retired() {
    let mut directory = with_a_code_of_two_days();
    let bound = [
        Hints { subscription: vec![metadata("ann")], ..Hints::default() },
        Hints { customer: vec![metadata("ann")], ..Hints::default() },
        // A renewal tells the code of its subscription as its own, too.
        Hints { sale: vec![metadata("ann")], subscription: vec![metadata("ann")], ..Hints::default() },
    ];
    for hints in &bound {
        let found = attribute(&owner(), PAID_AT.plus_days(365), &[], hints, &directory);
        assert_eq!(found.to.map(|(id, _)| id), Some(enrollment("ann")), "{hints:?}");
        assert_eq!(found.refused, []);
    }
    // Who was suspended meanwhile earns nothing new.
    let ann = directory.enrollments.get_mut(&enrollment("ann")).unwrap();
    ann.statuses.push(Dated { at: PAID_AT.plus_days(2), value: EnrollmentStatus::Suspended });
    for hints in &bound {
        assert_eq!(attribute(&owner(), PAID_AT.plus_days(365), &[], hints, &directory).to, None);
    }
}

#[test]
fn a_code_that_was_retired_before_it_was_told_binds_nothing() {
    let directory = with_a_code_of_two_days();
    let late = hint(HintSource::Metadata(0), "ann", 86_400);
    for hints in [
        Hints { subscription: vec![late.clone()], ..Hints::default() },
        Hints { customer: vec![late.clone()], ..Hints::default() },
    ] {
        assert_eq!(attribute(&owner(), PAID_AT.plus_days(2), &[], &hints, &directory).to, None, "{hints:?}");
    }
}

#[test]
fn a_code_told_before_it_was_issued_earns_from_then_on() {
    let directory = with_a_code_of_two_days();
    let hints =
        Hints { subscription: vec![hint(HintSource::Metadata(0), "ann", -100 * 86_400)], ..Hints::default() };
    let to = |paid_at| attribute(&owner(), paid_at, &[], &hints, &directory).to.map(|(id, _)| id);
    assert_eq!(to(PAID_AT.plus_days(-2)), None);
    assert_eq!(to(PAID_AT.plus_days(300)), Some(enrollment("ann")));
}

#[test]
fn a_code_of_the_sale_itself_must_be_valid_when_it_is_paid() {
    let directory = with_a_code_of_two_days();
    let hints = Hints { sale: vec![metadata("ann")], ..Hints::default() };
    let found = attribute(&owner(), PAID_AT.plus_days(1), &[], &hints, &directory);
    assert_eq!((found.to, found.refused), (None, vec![("ann".to_owned(), NoAttribution::CodeNotValid)]));
}
