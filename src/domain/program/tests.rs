//! Effective dating, and which code earns for whom (`rulings.md` 7, 11).

use super::*;
use crate::domain::testing::{PAID_AT, share_of};

fn owner() -> OrganizationId {
    OrganizationId::parse("org_owner").unwrap()
}

fn dated<T>(rows: impl IntoIterator<Item = (i64, T)>) -> Vec<Dated<T>> {
    rows.into_iter().map(|(secs, value)| Dated { at: PAID_AT.plus_secs(secs), value }).collect()
}

/// One active enrollment `par_1` of an active program, and its code `ann`, valid for a day from
/// [`PAID_AT`].
fn directory() -> Directory {
    let program = Program {
        id: ProgramId::parse("prog_1").unwrap(),
        organization_id: owner(),
        statuses: dated([(-1_000, ProgramStatus::Draft), (-100, ProgramStatus::Active)]),
        touch_rules: TouchRules::default(),
        terms: dated([
            (-1_000, TermsVersion { version: 1, terms: share_of(1_000) }),
            (0, TermsVersion { version: 2, terms: share_of(2_000) }),
        ]),
    };
    let enrollment = Enrollment {
        id: EnrollmentId::parse("par_1").unwrap(),
        program_id: program.id.clone(),
        organization_id: OrganizationId::parse("org_affiliate").unwrap(),
        statuses: dated([(-100, EnrollmentStatus::Active)]),
        emails: BTreeSet::new(),
        rates: Vec::new(),
        sponsors: Vec::new(),
    };
    let code = Code {
        enrollment_id: enrollment.id.clone(),
        valid_from: PAID_AT,
        valid_to: Some(PAID_AT.plus_days(1)),
    };
    Directory {
        codes: BTreeMap::from([((owner(), "ann".to_owned()), code)]),
        programs: BTreeMap::from([(program.id.clone(), program)]),
        enrollments: BTreeMap::from([(enrollment.id.clone(), enrollment)]),
        multi_level: false,
    }
}

/// Whom the code earns for, or why for nobody.
fn earner(directory: &Directory, code: &str, after_s: i64) -> Result<String, NoAttribution> {
    let found =
        directory.enrollment_for(&owner(), code, PAID_AT.plus_secs(after_s), PAID_AT.plus_secs(after_s));
    found.map(|enrollment| enrollment.id.to_string())
}

#[test]
fn the_row_that_began_last_holds_and_its_first_instant_is_its_own() {
    let rows = dated([(0, 'a'), (10, 'b')]);
    let holds = |secs| as_of(&rows, PAID_AT.plus_secs(secs)).copied();
    assert_eq!(
        [holds(-1), holds(0), holds(9), holds(10), holds(99)],
        [None, Some('a'), Some('a'), Some('b'), Some('b')]
    );
}

#[test]
fn terms_are_those_of_the_payment_and_history_gets_the_first() {
    let directory = directory();
    let program = directory.programs.values().next().unwrap();
    let version = |secs| program.terms_at(PAID_AT.plus_secs(secs)).unwrap().version;
    assert_eq!([version(-9_999), version(-1), version(0)], [1, 1, 2]);
}

#[test]
fn a_code_is_compared_without_case_and_spaces() {
    assert_eq!(earner(&directory(), " AnN ", 0).as_deref(), Ok("par_1"));
}

#[test]
fn a_code_is_valid_from_its_first_instant_until_just_before_its_last() {
    let directory = directory();
    assert_eq!(earner(&directory, "ann", -1), Err(NoAttribution::CodeNotValid));
    assert!(earner(&directory, "ann", 0).is_ok());
    assert!(earner(&directory, "ann", 86_399).is_ok());
    assert_eq!(earner(&directory, "ann", 86_400), Err(NoAttribution::CodeNotValid));
}

#[test]
fn an_enrollment_earns_only_while_it_is_active() {
    let mut directory = directory();
    let set = |directory: &mut Directory, status| {
        let enrollment = directory.enrollments.values_mut().next().unwrap();
        enrollment.statuses = dated([(-100, EnrollmentStatus::Active), (10, status)]);
    };
    for status in [
        EnrollmentStatus::Invited,
        EnrollmentStatus::Pending,
        EnrollmentStatus::Rejected,
        EnrollmentStatus::Suspended,
    ] {
        set(&mut directory, status);
        assert!(earner(&directory, "ann", 9).is_ok(), "{status:?} begins later");
        assert_eq!(earner(&directory, "ann", 10), Err(NoAttribution::EnrollmentNotActive), "{status:?}");
    }
}

#[test]
fn a_program_attributes_only_while_it_is_active() {
    let mut directory = directory();
    for status in [ProgramStatus::Draft, ProgramStatus::Paused, ProgramStatus::Archived] {
        let program = directory.programs.values_mut().next().unwrap();
        program.statuses = dated([(-100, ProgramStatus::Active), (10, status)]);
        assert!(earner(&directory, "ann", 9).is_ok(), "{status:?} begins later");
        assert_eq!(earner(&directory, "ann", 10), Err(NoAttribution::ProgramNotActive), "{status:?}");
    }
}

#[test]
fn a_code_of_another_owner_is_unknown_here() {
    let directory = directory();
    let stranger = OrganizationId::parse("org_stranger").unwrap();
    let found = directory.enrollment_for(&stranger, "ann", PAID_AT, PAID_AT);
    assert_eq!(found.map(|it| &it.id), Err(NoAttribution::UnknownCode));
}

#[test]
fn a_code_that_names_another_owners_program_is_unknown() {
    let mut directory = directory();
    let stranger = OrganizationId::parse("org_stranger").unwrap();
    directory.programs.values_mut().next().unwrap().organization_id = stranger;
    assert_eq!(earner(&directory, "ann", 0), Err(NoAttribution::UnknownCode));
}

#[test]
fn words_are_read_back_as_they_are_written() {
    for status in EnrollmentStatus::ALL {
        assert_eq!(EnrollmentStatus::parse(status.as_str()), Some(*status));
    }
    assert_eq!(ProgramStatus::parse("Active"), None);
}

#[test]
fn codes_compare_as_both_database_engines_compare_them() {
    assert_eq!(normalise_code(" AnnÉ\t"), "annÉ");
    assert_eq!(normalise_code("K-20"), normalise_code("k-20"));
    assert_ne!(normalise_code("\u{212a}"), "k", "the Kelvin sign is no K");
}
