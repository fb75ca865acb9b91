//! What the processor loads of programs, enrollments and codes, and that findings are raised once.

use remit::{
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        program::{EnrollmentStatus, NoAttribution, ProgramStatus},
        terms::CommissionRule,
        time::Timestamp,
    },
    store::{
        Db, StoreError,
        findings::{self, NewFinding, Severity},
        programs::load_directory,
    },
};

use crate::support::{TestDb, on_each_engine};

const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

/// Two owners with a program each. `par_1` has two codes, `par_2` one, `par_3` is of the other owner.
async fn seed(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    for sql in [
        "INSERT INTO organization (id, name, email, created_at_us)
         VALUES ('org_a', 'A', NULL, 0), ('org_b', 'B', NULL, 0), ('org_x', 'X', NULL, 0), ('org_y', 'Y', NULL, 0)",
        "INSERT INTO organization_email (organization_id, email)
         VALUES ('org_x', 'x@x.org'), ('org_x', 'x@y.org'), ('org_y', 'y@y.org')",
        "INSERT INTO program (id, organization_id, name, conversion_kind, attribution_model,
             attribution_window_days, platform_fee_bps, payout_schedule, min_payout, on_transfer_reversed,
             created_at_us)
         VALUES ('prog_a', 'org_a', 'A', 'payment', 'last_touch', 30, 0, NULL, '{}', 'clawback', 0),
                ('prog_b', 'org_b', 'B', 'payment', 'last_touch', 30, 0, NULL, '{}', 'clawback', 0)",
        "INSERT INTO program_status (program_id, effective_at_us, status)
         VALUES ('prog_a', 500, 'paused'), ('prog_a', 0, 'draft'), ('prog_a', 1, 'active'), ('prog_b', 0, 'active')",
        r#"INSERT INTO program_terms (program_id, version, effective_at_us, terms)
         VALUES ('prog_a', 2, 300, '{"commission":{"type":"flat","amount_cents":7,"currency":"usd"}}'),
                ('prog_a', 1, 0, '{"commission":{"type":"percentage","bps":1000},"hold_period_days":30}'),
                ('prog_b', 1, 0, '{"commission":{"type":"percentage","bps":1}}')"#,
        "INSERT INTO enrollment (id, program_id, organization_id, created_at_us)
         VALUES ('par_1', 'prog_a', 'org_x', 0), ('par_2', 'prog_a', 'org_y', 0),
                ('par_3', 'prog_b', 'org_x', 0), ('par_4', 'prog_b', 'org_y', 0), ('par_5', 'prog_b', 'org_a', 0)",
        "INSERT INTO enrollment_sponsor (enrollment_id, effective_at_us, parent_enrollment_id)
         VALUES ('par_2', 0, 'par_1'), ('par_3', 0, 'par_4'), ('par_4', 70, 'par_5'), ('par_3', 80, NULL),
                ('par_4', 90, 'par_3')",
        "INSERT INTO enrollment_status (enrollment_id, effective_at_us, status)
         VALUES ('par_1', 200, 'suspended'), ('par_1', 0, 'active'), ('par_2', 0, 'active'), ('par_3', 0, 'active'),
                ('par_4', 0, 'active'), ('par_5', 0, 'active')",
        "INSERT INTO code (organization_id, code_normalised, code, kind, enrollment_id, valid_from_us, valid_to_us)
         VALUES ('org_a', 'one', 'One', 'referral', 'par_1', 0, NULL),
                ('org_a', 'sale', 'SALE', 'coupon', 'par_1', 10, 20),
                ('org_a', 'two', 'two', 'referral', 'par_2', 0, NULL),
                ('org_b', 'one', 'one', 'referral', 'par_3', 0, NULL)",
    ] {
        tx.q(sql).exec().await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn owner(id: &str) -> OrganizationId {
    OrganizationId::parse(id).unwrap()
}

fn enrollment(id: &str) -> EnrollmentId {
    EnrollmentId::parse(id).unwrap()
}

on_each_engine! {
    async fn a_directory_holds_what_its_codes_and_enrollments_lead_to(db: TestDb) {
        seed(&db.db).await;
        let codes = [
            (owner("org_a"), "one".to_owned()),
            (owner("org_a"), "sale".to_owned()),
            (owner("org_a"), "one".to_owned()),
            (owner("org_a"), "nobody's \"code\"".to_owned()),
        ];
        let mut conn = db.db.read().await.unwrap();
        let directory = load_directory(&mut conn, &codes, &[enrollment("par_2"), enrollment("par_9")]).await.unwrap();

        assert_eq!(directory.codes.len(), 2);
        assert_eq!(directory.enrollments.keys().collect::<Vec<_>>(), [&enrollment("par_1"), &enrollment("par_2")]);
        assert_eq!(directory.programs.len(), 1);

        let (membership, program) = directory.membership(&enrollment("par_1")).unwrap();
        assert_eq!(membership.emails.iter().collect::<Vec<_>>(), ["x@x.org", "x@y.org"]);
        let statuses: Vec<_> = membership.statuses.iter().map(|row| (row.at.as_micros(), row.value)).collect();
        assert_eq!(statuses, [(0, EnrollmentStatus::Active), (200, EnrollmentStatus::Suspended)]);
        assert!(membership.sponsors.is_empty());
        let (below, _) = directory.membership(&enrollment("par_2")).unwrap();
        let sponsors: Vec<_> = below.sponsors.iter().map(|row| (row.at.as_micros(), row.value.clone())).collect();
        assert_eq!(sponsors, [(0, Some(enrollment("par_1")))]);
        let statuses: Vec<_> = program.statuses.iter().map(|row| (row.at.as_micros(), row.value)).collect();
        assert_eq!(statuses, [(0, ProgramStatus::Draft), (1, ProgramStatus::Active), (500, ProgramStatus::Paused)]);
        let terms: Vec<_> = program.terms.iter().map(|row| (row.at.as_micros(), row.value.version)).collect();
        assert_eq!(terms, [(0, 1), (300, 2)]);
        assert!(matches!(program.terms[1].value.terms.commission, CommissionRule::Flat { amount_cents: 7, .. }));
        assert_eq!(program.organization_id, owner("org_a"));

        let at = |micros| Timestamp::from_micros(micros);
        let referred = |code, micros| {
            directory.enrollment_for(&owner("org_a"), code, at(micros), at(micros)).map(|found| found.id.clone())
        };
        assert_eq!(referred(" ONE ", 100), Ok(enrollment("par_1")));
        assert_eq!(referred("one", 200), Err(NoAttribution::EnrollmentNotActive));
        assert_eq!(referred("sale", 19), Ok(enrollment("par_1")));
        assert_eq!(referred("sale", 20), Err(NoAttribution::CodeNotValid));
        assert_eq!(referred("two", 100), Err(NoAttribution::UnknownCode), "it was not asked for");
    }

    async fn a_code_is_looked_up_under_its_own_owner(db: TestDb) {
        seed(&db.db).await;
        let mut conn = db.db.read().await.unwrap();
        let codes = [(owner("org_b"), "one".to_owned()), (owner("org_b"), "two".to_owned())];
        let directory = load_directory(&mut conn, &codes, &[]).await.unwrap();
        assert_eq!(directory.codes.values().map(|code| &code.enrollment_id).collect::<Vec<_>>(), [&enrollment("par_3")]);
        assert_eq!(directory.programs.keys().collect::<Vec<_>>(), [&ProgramId::parse("prog_b").unwrap()]);
    }

    async fn everybody_who_ever_was_above_an_enrollment_is_loaded_with_it(db: TestDb) {
        seed(&db.db).await;
        let mut conn = db.db.read().await.unwrap();
        let directory = load_directory(&mut conn, &[], &[enrollment("par_3")]).await.unwrap();
        // par_4 was above par_3, and later the other way round; par_5 was above par_4.
        let sponsors: Vec<_> = directory
            .enrollments
            .values()
            .map(|found| (found.id.as_str(), found.sponsors.iter().map(|row| row.at.as_micros()).collect::<Vec<_>>()))
            .collect();
        assert_eq!(sponsors, [("par_3", vec![0, 80]), ("par_4", vec![70, 90]), ("par_5", vec![])]);
        assert_eq!(directory.enrollments[&enrollment("par_3")].sponsors[1].value, None);
        assert_eq!(directory.enrollments[&enrollment("par_4")].statuses.len(), 1);
    }

    async fn nothing_asked_for_is_nothing_loaded(db: TestDb) {
        seed(&db.db).await;
        let directory = load_directory(&mut db.db.read().await.unwrap(), &[], &[]).await.unwrap();
        assert!(directory.codes.is_empty() && directory.enrollments.is_empty() && directory.programs.is_empty());
    }

    async fn terms_that_nobody_could_have_written_are_an_error(db: TestDb) {
        seed(&db.db).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE program_terms SET terms = '{\"commission\":{}}' WHERE program_id = 'prog_b'").exec().await.unwrap();
        let error = load_directory(&mut tx, &[], &[enrollment("par_3")]).await.unwrap_err();
        assert!(matches!(
            error,
            StoreError::Corrupt { table: "program_terms", column: "terms", ref id } if id == "prog_b"
        ));
    }

    async fn a_finding_is_open_once_while_it_is_true(db: TestDb) {
        let finding = |kind: &str, object: &str, detail: &str| NewFinding {
            kind: kind.to_owned(),
            severity: Severity::Warning,
            object: object.to_owned(),
            detail: detail.to_owned(),
        };
        let list = async |open_only| {
            findings::list(&mut db.db.read().await.unwrap(), open_only, None, 10).await.unwrap()
        };
        let mut tx = db.db.begin().await.unwrap();
        let new = [finding("late", "sale_1", "first"), finding("late", "sale_2", "other"), finding("late", "sale_1", "twice")];
        findings::raise(&mut tx, &new, NOW).await.unwrap();
        tx.commit().await.unwrap();
        let open = list(true).await;
        assert_eq!(open.len(), 2);
        let first = open.iter().find(|finding| finding.object == "sale_1").unwrap();
        assert_eq!((first.detail.as_str(), first.created_at), ("first", NOW));

        // The next look at sale_1 does not find it again; sale_2 was not looked at.
        let mut tx = db.db.begin().await.unwrap();
        let later = NOW.plus_secs(9);
        findings::resolve_others(&mut tx, &["sale_1"], &["early"], &[], later).await.unwrap();
        findings::resolve_others(&mut tx, &["sale_1"], &["late"], &new[..1], later).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(list(true).await.len(), 2, "another kind, and what is still true, stay open");
        let mut tx = db.db.begin().await.unwrap();
        findings::resolve_others(&mut tx, &["sale_1"], &["late"], &[], later).await.unwrap();
        tx.commit().await.unwrap();
        let open = list(true).await;
        assert_eq!((open.len(), open[0].object.as_str(), open[0].severity), (1, "sale_2", Severity::Warning));
        let all = list(false).await;
        let resolved = all.iter().find(|finding| finding.object == "sale_1").unwrap();
        assert_eq!(resolved.resolved_at, Some(later));

        let mut tx = db.db.begin().await.unwrap();
        findings::raise(&mut tx, &[finding("late", "sale_1", "again")], later).await.unwrap();
        tx.commit().await.unwrap();
        let all = list(false).await;
        let again = all.iter().find(|finding| finding.object == "sale_1").unwrap();
        assert_eq!((again.detail.as_str(), again.resolved_at, again.created_at), ("again", None, NOW));

        let first = findings::list(&mut db.db.read().await.unwrap(), false, None, 1).await.unwrap();
        let second = findings::list(&mut db.db.read().await.unwrap(), false, Some(&first[0].id), 1).await.unwrap();
        assert_eq!([first, second].concat(), all, "pages joined are the list");
    }
}
