//! Every row of the table of answers (facts §9) and every fault of `reliability.md` §3.3 that comes as an
//! answer, each with what it proves.

use std::collections::BTreeSet;

use super::*;

const INVALID_TYPE: &str = "invalid_request_error";

/// What is answered, and what that proves.
struct Case {
    /// The row of facts §9, or the F-P ids, that it stands for.
    of: &'static str,
    signs: Signs<'static>,
    verdict: Verdict,
}

fn case(of: &'static str, status: u16, body: Shape, verdict: Verdict) -> Case {
    Case { of, signs: Signs { status, body, kind: None, code: None, replayed: false }, verdict }
}

/// An error of Stripe's; an empty word is one that is not told.
fn error(of: &'static str, status: u16, kind: &'static str, code: &'static str, verdict: Verdict) -> Case {
    let told = |word: &'static str| Some(word).filter(|word| !word.is_empty());
    let signs = Signs { status, body: Shape::Error, kind: told(kind), code: told(code), replayed: false };
    Case { of, signs, verdict }
}

impl Case {
    fn replayed(mut self) -> Self {
        self.signs.replayed = true;
        self
    }
}

fn successes() -> Vec<Case> {
    vec![
        case("success", 200, Shape::Asked, Verdict::Executed),
        case("F-P-02", 200, Shape::Asked, Verdict::Executed).replayed(),
        case("success, another 2xx", 201, Shape::Asked, Verdict::Executed),
        case("F-P-19", 200, Shape::Different, Verdict::Contradiction),
        case("F-P-19", 200, Shape::Different, Verdict::Contradiction).replayed(),
        case("F-P-03 F-P-12", 200, Shape::Unknown, Verdict::Ambiguous),
        case("an error that claims success", 200, Shape::Error, Verdict::Ambiguous),
        case("nothing to read", 204, Shape::Unknown, Verdict::Ambiguous),
        case("F-P-20", 307, Shape::Unknown, Verdict::Ambiguous),
        case("F-P-20", 301, Shape::Asked, Verdict::Ambiguous),
    ]
}

fn turned_away() -> Vec<Case> {
    use Verdict::{Ambiguous, TurnedAway, Unauthorized};
    vec![
        error("409", 409, "idempotency_error", "idempotency_key_in_use", Ambiguous),
        error("F-P-08", 409, INVALID_TYPE, "", Ambiguous),
        error("F-P-08", 400, INVALID_TYPE, "idempotency_key_in_use", Ambiguous),
        error("429", 429, INVALID_TYPE, "rate_limit", TurnedAway),
        error("429", 429, INVALID_TYPE, "lock_timeout", TurnedAway),
        error("F-P-07", 429, "rate_limit_error", "", TurnedAway),
        error("429 on old versions", 400, INVALID_TYPE, "rate_limit", TurnedAway),
        // A limiter stores nothing.
        error("429", 429, INVALID_TYPE, "rate_limit", Ambiguous).replayed(),
        error("429 on old versions", 400, INVALID_TYPE, "rate_limit", Ambiguous).replayed(),
        error("401", 401, INVALID_TYPE, "", Unauthorized),
        error("F-P-11", 401, INVALID_TYPE, "api_key_expired", Unauthorized),
        error("401", 401, INVALID_TYPE, "", Ambiguous).replayed(),
        error("403", 403, INVALID_TYPE, "", Unauthorized),
        error("F-P-11", 403, "permission_error", "platform_account_required", Unauthorized),
    ]
}

fn refusals() -> Vec<Case> {
    use Verdict::{AccountNotReady, Ambiguous, InsufficientFunds, KeyMisused, Refused};
    let mut cases = vec![
        error("F-P-09", 400, "idempotency_error", "", KeyMisused),
        error("400", 400, INVALID_TYPE, "parameter_invalid_integer", Refused),
        error("400", 400, INVALID_TYPE, "", Refused),
        error("400", 400, INVALID_TYPE, "a_code_of_next_year", Refused),
        error("404", 404, INVALID_TYPE, "resource_missing", Refused),
        // A path that does not exist is a fault of ours or of something on the way.
        error("F-P-12", 404, INVALID_TYPE, "", Ambiguous),
        error("balance", 400, INVALID_TYPE, "balance_insufficient", InsufficientFunds),
        error("F-P-10", 402, INVALID_TYPE, "balance_insufficient", InsufficientFunds).replayed(),
        error("balance", 402, INVALID_TYPE, "insufficient_funds", InsufficientFunds),
        error("balance", 402, "card_error", "balance_insufficient", InsufficientFunds),
        // Of the buyer, not of the platform.
        error("402", 402, "card_error", "insufficient_funds", Refused),
        error("402", 402, "card_error", "card_declined", Refused),
        error("402", 402, "card_error", "card_declined", Refused).replayed(),
        error("402", 402, INVALID_TYPE, "", Ambiguous),
    ];
    for code in ACCOUNT {
        cases.push(error("account F-P-22", 400, INVALID_TYPE, code, AccountNotReady));
        cases.push(error("account F-P-22", 403, INVALID_TYPE, code, AccountNotReady).replayed());
    }
    cases
}

fn doubts() -> Vec<Case> {
    use Verdict::Ambiguous;
    let mut cases = vec![
        error("424", 424, INVALID_TYPE, "", Ambiguous),
        error("F-P-04", 500, "api_error", "", Ambiguous).replayed(),
        // A code that would be a refusal proves nothing on a failure of theirs.
        error("5xx", 500, INVALID_TYPE, "balance_insufficient", Ambiguous),
        error("5xx", 503, INVALID_TYPE, "rate_limit", Ambiguous),
        error("F-P-12", 400, "api_error", "", Ambiguous),
        error("F-P-12", 400, "an_error_of_next_year", "balance_insufficient", Ambiguous),
        error("F-P-12", 400, "", "", Ambiguous),
        error("F-P-12", 402, "an_error_of_next_year", "", Ambiguous),
        error("F-P-12", 404, "an_error_of_next_year", "resource_missing", Ambiguous),
        error("F-P-12", 418, INVALID_TYPE, "", Ambiguous),
        error("F-P-12", 199, INVALID_TYPE, "", Ambiguous),
        error("F-P-12", 600, INVALID_TYPE, "", Ambiguous),
    ];
    cases.extend(
        [500, 501, 502, 503, 504, 520, 529, 599]
            .map(|status| error("5xx", status, "api_error", "", Ambiguous)),
    );
    cases.extend([502, 503, 504].map(|status| case("F-P-06", status, Shape::Unknown, Ambiguous)));
    for status in [400, 401, 402, 403, 404, 409, 424, 429, 500] {
        for body in [Shape::Unknown, Shape::Asked, Shape::Different] {
            cases.push(case("F-P-12", status, body, Ambiguous));
        }
    }
    cases
}

fn cases() -> Vec<Case> {
    [successes(), turned_away(), refusals(), doubts()].into_iter().flatten().collect()
}

const OUTBOUND: &str = "src/providers/stripe/outbound/tests.rs";
const INTENT: &str = "src/domain/intent/tests/tables.rs";
const RETURNS: &str = "src/domain/payout/tests/returns.rs";
const TRANSPORT: &str = "tests/transport.rs";
const PAYING: &str = "tests/it/paying.rs";
const DISPATCHING: &str = "tests/it/dispatching.rs";
const ACCOUNTS: &str = "tests/it/accounts.rs";
const NETTING: &str = "tests/it/netting.rs";

/// The faults of §3.3 that are no answer, or not one answer alone, and the tests that show them.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("F-P-01", OUTBOUND, "an_answer_that_was_lost_or_never_asked_for_says_so"),
    ("F-P-01", TRANSPORT, "an_answer_that_is_not_whole_at_the_deadline_is_lost"),
    ("F-P-05", PAYING, "a_500_that_is_carried_out_later_is_adopted_when_it_is"),
    ("F-P-13", OUTBOUND, "advice_to_retry_never_changes_what_an_answer_proves"),
    ("F-P-13", PAYING, "a_refusal_that_comes_with_advice_to_retry_is_tried_again_under_its_key"),
    ("F-P-14", PAYING, "a_key_is_not_used_once_its_window_is_over"),
    ("F-P-15", TRANSPORT, "a_call_whose_deadline_is_over_is_not_made"),
    ("F-P-16", PAYING, "a_transfer_that_lists_do_not_show_is_not_sent_twice"),
    ("F-P-17", DISPATCHING, "a_lost_answer_is_found_on_the_last_page_of_a_look_up"),
    ("F-P-18", PAYING, "two_transfers_of_one_payout_stop_the_payee"),
    ("F-P-21", TRANSPORT, "a_name_that_does_not_resolve_was_sent_nothing"),
    ("F-P-21", TRANSPORT, "a_server_that_cannot_prove_its_name_is_sent_nothing"),
    ("F-P-23", ACCOUNTS, "only_the_platforms_word_decides_which_account_is_paid_and_only_its_owner_names_it"),
    ("F-P-23", ACCOUNTS, "an_account_that_is_not_the_platforms_is_paid_nothing_and_holds_nobody_up"),
    ("F-P-23", NETTING, "what_a_stranger_tells_of_an_account_stops_nobodys_money"),
    ("F-P-24", PAYING, "a_bank_payout_that_fails_is_none_of_our_transfers"),
    ("F-P-25", OUTBOUND, "a_charge_in_any_status_was_executed"),
    ("F-P-25", DISPATCHING, "a_charge_moves_along_with_what_the_provider_tells"),
    ("F-P-26", RETURNS, "what_is_given_back_follows_the_highest_total_whatever_came_in_between"),
    ("F-P-27", INTENT, "an_intent_that_is_over_is_not_changed_by_answers"),
    ("F-P-27", PAYING, "a_second_success_is_never_silent"),
    ("F-P-28", INTENT, "doubt_outlives_every_answer_that_is_about_another_attempt"),
    ("F-P-28", PAYING, "an_answer_that_only_looks_definite_ends_no_doubt"),
];

#[test]
fn every_answer_proves_what_the_sources_say() {
    for Case { of, signs, verdict } in cases() {
        assert_eq!(super::of(&signs), verdict, "{of}: {signs:?}");
    }
}

#[test]
fn every_row_of_the_table_decides_a_case() {
    let decided: BTreeSet<usize> =
        cases().iter().filter_map(|case| TABLE.iter().position(|row| row.fits(&case.signs))).collect();
    let idle: Vec<&str> =
        (0..TABLE.len()).filter(|row| !decided.contains(row)).map(|row| TABLE[row].source).collect();
    assert!(idle.is_empty(), "rows that decide no case: {idle:?}");
}

#[test]
fn every_fault_of_a_provider_call_has_a_case_or_is_tested_elsewhere() {
    let mentioned: BTreeSet<String> = cases()
        .iter()
        .flat_map(|case| case.of.split(' '))
        .filter(|word| word.starts_with("F-P-"))
        .chain(ELSEWHERE.iter().map(|(id, ..)| *id))
        .map(str::to_owned)
        .collect();
    let all: BTreeSet<String> = (1..=28).map(|number| format!("F-P-{number:02}")).collect();
    assert_eq!(mentioned, all);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (id, file, test) in ELSEWHERE {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{id}: there is no {test} in {file}");
    }
}

#[test]
fn only_the_object_that_was_asked_for_in_an_answer_of_success_is_an_execution() {
    let kinds = [None, Some(INVALID_TYPE), Some("card_error"), Some("idempotency_error"), Some("api_error")];
    let codes: Vec<Option<&str>> = [None]
        .into_iter()
        .chain(ACCOUNT.iter().chain(FUNDS).chain(LIMITER).map(|code| Some(*code)))
        .collect();
    for status in 100..=599 {
        for body in [Shape::Asked, Shape::Different, Shape::Error, Shape::Unknown] {
            for (kind, code) in kinds.iter().flat_map(|kind| codes.iter().map(move |code| (*kind, *code))) {
                for replayed in [false, true] {
                    let verdict = super::of(&Signs { status, body, kind, code, replayed });
                    let is_asked = (200..=299).contains(&status) && body == Shape::Asked;
                    assert_eq!(verdict == Verdict::Executed, is_asked, "{status} {body:?} {kind:?} {code:?}");
                    // Nothing is ever definitely refused by a server that failed, or in words not Stripe's.
                    let is_refusal = (400..=499).contains(&status) && body == Shape::Error;
                    assert!(
                        verdict.leaves_doubt() || is_asked || is_refusal,
                        "{status} {body:?} {verdict:?}"
                    );
                }
            }
        }
    }
}
