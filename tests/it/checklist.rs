//! Which test shows which box of the product's checklist for affiliate programs. A box without a test, and a
//! test that is named here and is not there, fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::Path,
};

/// The boxes of affiliate programs: routes, fields of the guide, rules.
const NUMBERS: [RangeInclusive<u16>; 4] = [1..=3, 51..=84, 206..=219, 257..=258];

/// Number, what it asks for, and the tests that show it.
const BOXES: &[(u16, &str, &[&str])] = &[
    (1, "a conversion is reported", &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"]),
    (
        2,
        "a touchpoint is recorded",
        &["box_2_81_82_210_a_click_before_signing_in_is_recorded_and_counted_once"],
    ),
    (
        3,
        "a conversion is clawed back",
        &["box_3_83_212_an_unpaid_conversion_is_clawed_back_outright_or_in_part"],
    ),
    (51, "owner_organization_id", &["box_51_52_72_a_program_is_its_owners_and_has_a_name"]),
    (52, "name", &["box_51_52_72_a_program_is_its_owners_and_has_a_name"]),
    (
        53,
        "commission.type percentage",
        &[
            "box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid",
            "a_percentage_is_rounded_half_up_once",
        ],
    ),
    (
        54,
        "flat",
        &[
            "box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid",
            "a_flat_commission_has_its_own_currency_and_a_free_sale_earns_none",
        ],
    ),
    (55, "recurring", &["box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid"]),
    (56, "tiered", &["box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid"]),
    (57, "commission.bps", &["box_53_54_55_56_57_each_form_of_commission_is_taken_shown_and_paid"]),
    (
        58,
        "version of the commission document",
        &[
            "box_58_every_version_is_kept_and_a_conversion_names_its_own",
            "terms_and_statuses_are_kept_with_their_beginnings",
        ],
    ),
    (59, "conversion_kind event", &["box_59_60_61_what_a_program_counts_is_what_it_is_told"]),
    (60, "payment", &["box_59_60_61_what_a_program_counts_is_what_it_is_told"]),
    (61, "entitlement", &["box_59_60_61_what_a_program_counts_is_what_it_is_told"]),
    (62, "attribution_model first_touch", &["box_62_63_209_first_and_last_touch"]),
    (63, "last_touch", &["box_62_63_209_first_and_last_touch"]),
    (64, "attribution_window_days", &["box_64_the_edge_of_the_window_is_inside"]),
    (
        65,
        "approval_mode auto",
        &[
            "box_65_66_207_a_manual_program_books_pending_and_approval_accrues",
            "box_1_76_77_78_79_206_a_report_by_code_is_taken_once",
        ],
    ),
    (66, "manual", &["box_65_66_207_a_manual_program_books_pending_and_approval_accrues"]),
    (
        67,
        "hold_period_days",
        &[
            "box_67_what_is_earned_is_held_for_the_days_of_the_program",
            "the_hold_counts_from_the_payment_to_the_second",
        ],
    ),
    (68, "platform_fee_bps", &["box_68_215_a_payout_is_made_over_the_minimum_net_of_the_fee"]),
    (
        69,
        "program status active",
        &[
            "box_69_a_program_earns_nobody_anything_before_it_is_active",
            "a_program_attributes_only_while_it_is_active",
        ],
    ),
    (70, "payout_schedule weekly", &["box_70_71_216_a_schedule_settles_unattended"]),
    (71, "monthly", &["box_70_71_216_a_schedule_settles_unattended"]),
    (72, "program_id", &["box_51_52_72_a_program_is_its_owners_and_has_a_name"]),
    (
        73,
        "affiliate_org_id",
        &[
            "box_73_74_75_an_enrollment_names_the_affiliate_its_code_and_its_sponsor",
            "affiliates_are_enrolled_by_organization_or_address",
        ],
    ),
    (
        74,
        "referral code returned (aff_…)",
        &[
            "box_73_74_75_an_enrollment_names_the_affiliate_its_code_and_its_sponsor",
            "an_invited_organization_accepts_and_shares_its_code",
        ],
    ),
    (
        75,
        "parent_enrollment_id",
        &[
            "box_73_74_75_an_enrollment_names_the_affiliate_its_code_and_its_sponsor",
            "affiliates_are_placed_under_a_sponsor_without_circles",
        ],
    ),
    (76, "project_id", &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"]),
    (77, "external_id", &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"]),
    (78, "code", &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"]),
    (79, "gross_amount_cents", &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"]),
    (80, "subject_ref", &["box_80_209_210_a_report_by_subject_promotes_the_latest_touchpoint"]),
    (81, "touchpoint source", &["box_2_81_82_210_a_click_before_signing_in_is_recorded_and_counted_once"]),
    (82, "anonymous_id", &["box_2_81_82_210_a_click_before_signing_in_is_recorded_and_counted_once"]),
    (83, "clawback reason", &["box_3_83_212_an_unpaid_conversion_is_clawed_back_outright_or_in_part"]),
    (
        84,
        "signup returns account, organization, key and mcp_config",
        &["a_signup_answers_account_organization_key_and_mcp_config"],
    ),
    (
        206,
        "a report is idempotent on program, project and order",
        &["box_1_76_77_78_79_206_a_report_by_code_is_taken_once"],
    ),
    (
        207,
        "a manual program books pending; approval accrues",
        &["box_65_66_207_a_manual_program_books_pending_and_approval_accrues"],
    ),
    (208, "the affiliate is told on approval", &["box_208_the_affiliate_is_told_on_approval"]),
    (
        209,
        "the latest touchpoint in the window is promoted for the subject",
        &[
            "box_80_209_210_a_report_by_subject_promotes_the_latest_touchpoint",
            "box_62_63_209_first_and_last_touch",
        ],
    ),
    (
        210,
        "a click before signing in counts, for EPC and conversion rate too",
        &[
            "box_2_81_82_210_a_click_before_signing_in_is_recorded_and_counted_once",
            "box_80_209_210_a_report_by_subject_promotes_the_latest_touchpoint",
            "box_210_clicks_feed_earnings_per_click_and_the_conversion_rate",
            "box_210_earnings_per_click_need_clicks",
        ],
    ),
    (211, "an affiliate never sees a peer", &["box_211_an_affiliate_never_sees_a_peer_nor_a_buyer"]),
    (
        212,
        "an unpaid clawback reverses outright",
        &["box_3_83_212_an_unpaid_conversion_is_clawed_back_outright_or_in_part"],
    ),
    (
        213,
        "a paid clawback is carried forward and netted from the next payout",
        &[
            "box_213_what_was_paid_and_taken_back_is_netted_from_the_next_payout",
            "a_commission_is_not_paid_by_the_payout_that_netted_its_debt",
        ],
    ),
    (214, "transfer.reversed does so by itself", &["a_reversed_transfer_takes_the_commission_back"]),
    (
        215,
        "a payout is over the threshold, net of fee and debt",
        &[
            "box_68_215_a_payout_is_made_over_the_minimum_net_of_the_fee",
            "debts_come_off_first_then_the_minimum_is_asked_then_the_fee_is_taken",
        ],
    ),
    (
        216,
        "a scheduled settlement runs unattended",
        &["box_70_71_216_a_schedule_settles_unattended", "a_period_is_settled_once_however_many_were_missed"],
    ),
    (
        217,
        "with the gate off a run is 503, and a request still tells what is owed",
        &[
            "box_217_with_the_gate_off_a_payout_request_still_tells_what_is_owed",
            "a_closed_gate_and_a_pause_answer_503_and_plans_go_on",
        ],
    ),
    (
        218,
        "uplines only where program and platform both allow",
        &["box_218_sponsors_earn_only_where_program_and_platform_both_allow"],
    ),
    (219, "rotation gives a fresh code", &["a_rotation_gives_a_fresh_code_and_ends_the_others_on_request"]),
    (
        257,
        "code and touchpoint can be used together",
        &["box_257_a_report_with_both_goes_by_the_code", "box_257_a_code_outranks_a_coupon_and_that_a_click"],
    ),
    (
        258,
        "leaderboard and analytics are for the owner alone",
        &["box_258_analytics_and_leaderboard_are_for_the_owner_alone"],
    ),
];

/// How often each function is written in the sources of the tests and of the program.
fn functions(folder: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            for line in source.lines() {
                let line = line.trim_start();
                let line = line.strip_prefix("async ").unwrap_or(line);
                if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                    *found.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }
}

/// The numbers at the beginning of `box_1_76_a_report…`.
fn numbers_of(test: &str) -> BTreeSet<u16> {
    let Some(rest) = test.strip_prefix("box_") else { return BTreeSet::new() };
    rest.split('_').map_while(|word| word.parse().ok()).collect()
}

#[test]
fn every_box_is_shown_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut written = BTreeMap::new();
    functions(&root.join("tests"), &mut written);
    functions(&root.join("src"), &mut written);
    let listed: Vec<u16> = BOXES.iter().map(|(number, ..)| *number).collect();
    assert_eq!(listed, NUMBERS.into_iter().flatten().collect::<Vec<_>>(), "each box once, in order");
    for (number, what, tests) in BOXES {
        assert!(!tests.is_empty(), "box {number}, {what}, has no test");
        for test in *tests {
            assert_eq!(written.get(*test), Some(&1), "box {number}, {what}: {test}");
        }
        // A test that says it shows a box is listed with it, and the other way round.
        let named: BTreeSet<&str> =
            written.keys().map(String::as_str).filter(|test| numbers_of(test).contains(number)).collect();
        let listed: BTreeSet<&str> = tests.iter().copied().collect();
        assert!(named.is_subset(&listed), "box {number}, {what}: {named:?}");
    }
}
