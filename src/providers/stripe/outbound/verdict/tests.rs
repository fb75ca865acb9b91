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

/// The faults of §3.3 that are no answer, or not one answer alone, and where they are tested.
const ELSEWHERE: &[(&str, &str)] = &[
    ("F-P-01", "`Reply::Lost` in `outbound::tests`; the time-out in tests/transport.rs"),
    ("F-P-05", "a late webhook: adopted by `app`"),
    ("F-P-13", "the header is no sign of this table: `outbound::tests`"),
    ("F-P-14", "the window of a key: `domain::intent`"),
    ("F-P-15", "the deadline of a call: tests/transport.rs"),
    ("F-P-16", "absence is no evidence: `domain::intent`"),
    ("F-P-17", "paging: `outbound::tests`"),
    ("F-P-18", "two objects: `outbound::tests` and `domain::intent`"),
    ("F-P-21", "DNS and TLS: tests/transport.rs"),
    ("F-P-23", "ownership of an account: `app`"),
    ("F-P-24", "a bank payout that fails: `stripe::facts` and `app`"),
    ("F-P-25", "every status of a charge: `outbound::tests`"),
    ("F-P-26", "reversals: `domain::payout`"),
    ("F-P-27", "two answers: `domain::intent`"),
    ("F-P-28", "two attempts: `domain::intent`"),
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
        .chain(ELSEWHERE.iter().map(|(id, _)| *id))
        .map(str::to_owned)
        .collect();
    let all: BTreeSet<String> = (1..=28).map(|number| format!("F-P-{number:02}")).collect();
    assert_eq!(mentioned, all);
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
