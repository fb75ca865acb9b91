//! The rules of one intent, row by row. A row that decides a fault of `reliability.md` §3.3 names it.
//!
//! Decided elsewhere: F-P-13 (a header never changes a verdict), F-P-20, F-P-21 (what counts as not sent)
//! and F-P-17 (paging) by the provider's requests and the transport; F-P-15 by the deadline of a call, see
//! [`super::protocol`]; F-P-23, F-P-24 and F-P-26 by settlement, bank payouts and returned transfers;
//! F-P-25 by charges, whose every status is an object and therefore an execution.

use super::super::*;

const FIRST: Timestamp = Timestamp::from_secs(1_800_000_000);

/// The verdict on a send, and whether it was replayed.
type Told = (Option<Verdict>, bool);

/// Sends one minute apart, each with its verdict and whether it was replayed.
fn intent(sends: &[Told]) -> Intent {
    let sends: Vec<Sent> = sends
        .iter()
        .zip(0..)
        .map(|(&(verdict, replayed), minute)| Sent {
            verdict,
            replayed,
            retry_advised: false,
            at: FIRST.plus_secs(60 * minute),
        })
        .collect();
    Intent {
        id: IntentId::derived(&["run", "par_ann", "usd"]),
        state: IntentState::Open,
        generation: 0,
        first_sent_at: sends.first().map(|sent| sent.at),
        sends,
        looked_up_at: None,
        look_up_first: false,
    }
}

/// A verdict of the provider's, told for the first time.
const fn told(verdict: Verdict) -> Told {
    (Some(verdict), false)
}

/// A result that the provider had stored under the key.
const fn replayed(verdict: Verdict) -> Told {
    (Some(verdict), true)
}

/// An attempt of which no answer was kept.
const UNANSWERED: Told = (None, false);

/// Verdicts about one attempt, which says nothing of the key.
const OF_THE_ATTEMPT: [Verdict; 3] = [Verdict::NotSent, Verdict::TurnedAway, Verdict::Unauthorized];

/// Refusals and what each leads to where it stands.
const REFUSALS: [(Verdict, Outcome); 3] = [
    (Verdict::InsufficientFunds, Outcome::Wait(Waiting::Funds)),
    (Verdict::AccountNotReady, Outcome::Wait(Waiting::Account)),
    (Verdict::Refused, Outcome::Failed),
];

/// What leaves open whether the money moved.
const DOUBTS: [Told; 5] = [
    UNANSWERED,
    told(Verdict::Ambiguous),
    replayed(Verdict::Ambiguous),
    told(Verdict::KeyMisused),
    told(Verdict::Contradiction),
];

#[test]
fn an_answer_leads_to_what_it_proves() {
    use Outcome::{Again, Failed, Quarantined, Succeeded, Wait};
    use Verdict::{
        AccountNotReady, Ambiguous, Contradiction, Executed, InsufficientFunds, KeyMisused, NotSent, Refused,
        TurnedAway, Unauthorized,
    };

    let rows: &[(&str, &[Told], Outcome)] = &[
        ("first answer is a success", &[told(Executed)], Succeeded),
        ("F-P-01 time-out, then executed by the retry", &[told(Ambiguous), told(Executed)], Succeeded),
        ("F-P-02 time-out after execution, replayed", &[told(Ambiguous), replayed(Executed)], Succeeded),
        ("F-P-03 cut answer", &[told(Ambiguous)], Again),
        ("F-P-04 stored error, once", &[told(Ambiguous), replayed(Ambiguous)], Again),
        (
            "F-P-04 stored error, for ever",
            &[told(Ambiguous), replayed(Ambiguous), replayed(Ambiguous)],
            Quarantined(Quarantine::ErrorReplayed),
        ),
        ("F-P-05 error before a late execution", &[told(Ambiguous)], Again),
        ("F-P-06 edge errors are never stored", &[told(Ambiguous), told(Ambiguous), told(Ambiguous)], Again),
        ("F-P-07 rate limit", &[told(TurnedAway)], Again),
        ("F-P-08 key in use", &[UNANSWERED, told(Ambiguous)], Again),
        ("F-P-09 key with another body", &[told(KeyMisused)], Quarantined(Quarantine::KeyMisused)),
        ("F-P-10 balance too low", &[told(InsufficientFunds)], Wait(Waiting::Funds)),
        ("F-P-10 balance too low, replayed", &[replayed(InsufficientFunds)], Wait(Waiting::Funds)),
        ("F-P-11 wrong key of ours", &[told(Unauthorized)], Again),
        ("F-P-12 unknown answer", &[told(Ambiguous)], Again),
        ("F-P-18, F-P-19 another object", &[told(Contradiction)], Quarantined(Quarantine::Contradiction)),
        ("F-P-21 nothing was sent", &[told(NotSent)], Again),
        ("F-P-22 account not ready", &[told(AccountNotReady)], Wait(Waiting::Account)),
        ("refused for good", &[told(Refused)], Failed),
        ("F-P-27 a success after a first-hand refusal", &[told(Refused), told(Executed)], Succeeded),
        (
            "F-P-27 a stored refusal beside a success",
            &[told(Executed), replayed(Refused)],
            Quarantined(Quarantine::Contradiction),
        ),
        (
            "F-P-27 a refusal beside a success",
            &[told(Executed), told(InsufficientFunds)],
            Quarantined(Quarantine::Contradiction),
        ),
        ("nothing was sent and then refused", &[told(NotSent), told(TurnedAway), told(Refused)], Failed),
        ("the judged attempt has no answer", &[told(Refused), UNANSWERED], Again),
        ("no attempt at all", &[], Again),
    ];
    for (name, sends, expected) in rows {
        assert_eq!(intent(sends).after_send(), *expected, "{name}");
    }
}

/// F-P-13: whether to retry is all that advice decides. `advised` tells which sends came with it.
#[test]
fn advice_to_retry_keeps_a_first_hand_refusal_open_under_its_key_and_changes_nothing_else() {
    use Outcome::{Again, Failed, Quarantined, Succeeded, Wait};
    use Verdict::{
        AccountNotReady, Ambiguous, Contradiction, Executed, InsufficientFunds, KeyMisused, Refused,
        TurnedAway,
    };

    let often = vec![told(Refused); ADVISED_RETRIES_MAX as usize];
    let too_often = vec![told(Refused); ADVISED_RETRIES_MAX as usize + 1];
    let rows: &[(&str, &[Told], Outcome)] = &[
        ("refused, and the answer was not stored", &[told(Refused)], Again),
        ("the key repeats the refusal", &[told(Refused), replayed(Refused)], Failed),
        ("refused as often as is followed", &often, Again),
        ("a provider that never stops advising", &too_often, Failed),
        ("executed by the retry", &[told(Refused), told(Executed)], Succeeded),
        ("a success needs no advice", &[told(Executed)], Succeeded),
        (
            "a refusal beside a success",
            &[told(Executed), told(Refused)],
            Quarantined(Quarantine::Contradiction),
        ),
        ("a doubt is no refusal", &[told(Ambiguous), told(Refused)], Again),
        (
            "balance too low: tried again under a new key anyway",
            &[told(InsufficientFunds)],
            Wait(Waiting::Funds),
        ),
        ("account not ready: likewise", &[told(AccountNotReady)], Wait(Waiting::Account)),
        ("turned away: tried again anyway", &[told(TurnedAway)], Again),
        ("key with another body: never again", &[told(KeyMisused)], Quarantined(Quarantine::KeyMisused)),
        ("another object: never again", &[told(Contradiction)], Quarantined(Quarantine::Contradiction)),
        (
            "a stored error is not asked for ever",
            &[told(Ambiguous), replayed(Ambiguous), replayed(Ambiguous)],
            Quarantined(Quarantine::ErrorReplayed),
        ),
    ];
    for (name, sends, expected) in rows {
        let mut intent = intent(sends);
        intent.sends.iter_mut().for_each(|sent| sent.retry_advised = true);
        assert_eq!(intent.after_send(), *expected, "{name}");
    }
    // Only the advice about the last refusal counts.
    let mut intent = intent(&[told(Refused), told(Refused)]);
    intent.sends[0].retry_advised = true;
    assert_eq!(intent.after_send(), Failed);
    intent.sends[1].retry_advised = true;
    assert_eq!((intent.after_send(), intent.next(FIRST)), (Again, Next::Send));
    assert!(!intent.is_in_doubt(), "nothing was executed");
}

/// F-P-28, every combination: what is said of a later attempt ends no doubt about an earlier one.
#[test]
fn doubt_outlives_every_answer_that_is_about_another_attempt() {
    for doubt in DOUBTS {
        for verdict in OF_THE_ATTEMPT {
            let intent = intent(&[doubt, told(verdict)]);
            assert_eq!(intent.after_send(), Outcome::Again, "{doubt:?} then {verdict:?}");
            assert!(intent.is_in_doubt(), "{doubt:?} then {verdict:?}");
            let late = intent.first_sent_at.unwrap().plus_secs(WINDOW_S);
            assert_eq!(
                intent.next(late),
                Next::Quarantine(Quarantine::WindowOver),
                "{doubt:?} then {verdict:?} gets no new key by age"
            );
        }
        for (verdict, _) in REFUSALS {
            let intent = intent(&[doubt, told(verdict)]);
            assert_eq!(intent.after_send(), Outcome::Again, "{doubt:?} then {verdict:?}");
            assert!(intent.is_in_doubt(), "{doubt:?} then {verdict:?}");
        }
    }
}

#[test]
fn a_refusal_that_the_key_itself_gives_ends_the_doubt() {
    for (verdict, outcome) in REFUSALS {
        assert_eq!(intent(&[told(Verdict::Ambiguous), replayed(verdict)]).after_send(), outcome);
        assert_eq!(intent(&[UNANSWERED, told(verdict), replayed(verdict)]).after_send(), outcome);
    }
}

/// F-P-27: what comes after the end is kept and changes nothing, except a success of what is unknown.
#[test]
fn an_intent_that_is_over_is_not_changed_by_answers() {
    for &state in IntentState::ALL.iter().filter(|&&state| state != IntentState::Open) {
        for &verdict in Verdict::ALL {
            for sends in [[told(verdict)], [replayed(verdict)]] {
                let intent = Intent { state, ..intent(&sends) };
                let expected = if state == IntentState::Unknown && verdict == Verdict::Executed {
                    Outcome::Succeeded
                } else {
                    Outcome::Noted
                };
                assert_eq!(intent.after_send(), expected, "{state:?} hears {verdict:?}");
            }
        }
    }
}

/// F-P-04, F-P-05, F-P-16, F-P-18, F-P-19.
#[test]
fn a_look_up_proves_what_it_shows_and_nothing_by_what_it_does_not() {
    for &state in IntentState::ALL {
        let intent = Intent { state, ..intent(&[told(Verdict::Ambiguous)]) };
        let expected = match state {
            IntentState::Open | IntentState::Unknown => [
                (Found::Nothing, Outcome::Again),
                (Found::One, Outcome::Succeeded),
                (Found::Other, Outcome::Quarantined(Quarantine::Contradiction)),
                (Found::Several, Outcome::Quarantined(Quarantine::Duplicate)),
            ],
            IntentState::Succeeded | IntentState::Failed | IntentState::Canceled => {
                [Found::Nothing, Found::One, Found::Other, Found::Several]
                    .map(|found| (found, Outcome::Noted))
            }
        };
        for (found, outcome) in expected {
            assert_eq!(intent.after_look_up(found), outcome, "{state:?} finds {found:?}");
        }
    }
}

#[test]
fn what_may_be_done_follows_from_what_is_known() {
    use Next::{LookUp, Nothing, Quarantine as SetApart, Renew, Send};
    use Verdict::{
        Ambiguous, Contradiction, Executed, KeyMisused, NotSent, Refused, TurnedAway, Unauthorized,
    };

    let soon = FIRST.plus_secs(600);
    let late = FIRST.plus_secs(WINDOW_S);
    let rows: &[(&str, &[Told], Timestamp, Next)] = &[
        ("never sent", &[], soon, Send),
        ("never sent is never too old", &[], FIRST.plus_days(400), Send),
        (
            "F-P-01, F-P-03, F-P-06, F-P-12 no whole answer",
            &[told(Ambiguous)],
            soon,
            LookUp { or_send: true },
        ),
        ("F-P-02 it died while it waited", &[UNANSWERED], soon, LookUp { or_send: false }),
        ("one of them died", &[UNANSWERED, told(TurnedAway)], soon, LookUp { or_send: false }),
        (
            "F-P-04 one replayed error",
            &[told(Ambiguous), replayed(Ambiguous)],
            soon,
            LookUp { or_send: true },
        ),
        (
            "F-P-04 a second one",
            &[replayed(Ambiguous), replayed(Ambiguous)],
            soon,
            SetApart(Quarantine::ErrorReplayed),
        ),
        ("F-P-07 turned away", &[told(TurnedAway)], soon, Send),
        ("F-P-09 key misused", &[told(KeyMisused)], soon, SetApart(Quarantine::KeyMisused)),
        ("F-P-11 not let in", &[told(Unauthorized)], soon, Send),
        ("F-P-14 too old and in doubt", &[told(Ambiguous)], late, SetApart(Quarantine::WindowOver)),
        ("F-P-14 too old and unanswered", &[UNANSWERED], late, SetApart(Quarantine::WindowOver)),
        ("F-P-14 too old, nothing executed", &[told(TurnedAway), told(NotSent)], late, Renew),
        ("F-P-19 contradiction", &[told(Contradiction)], soon, SetApart(Quarantine::Contradiction)),
        ("F-P-21 nothing was sent", &[told(NotSent)], soon, Send),
        (
            "F-P-28 in doubt, then turned away",
            &[told(Ambiguous), told(TurnedAway)],
            soon,
            LookUp { or_send: true },
        ),
        ("F-P-28 in doubt, then refused", &[told(Ambiguous), told(Refused)], soon, LookUp { or_send: true }),
        ("a success that was only kept", &[told(Executed)], soon, LookUp { or_send: true }),
        (
            "a success that was only kept, and old",
            &[told(Executed), told(NotSent)],
            late,
            SetApart(Quarantine::WindowOver),
        ),
    ];
    for (name, sends, now, expected) in rows {
        assert_eq!(intent(sends).next(*now), *expected, "{name}");
        for state in [IntentState::Succeeded, IntentState::Failed, IntentState::Canceled] {
            assert_eq!(Intent { state, ..intent(sends) }.next(*now), Nothing, "{name}, {state:?}");
        }
        // F-P-14: what is unknown is asked about and never sent, whatever is known of its attempts.
        let unknown = Intent { state: IntentState::Unknown, ..intent(sends) };
        assert_eq!(unknown.next(*now), LookUp { or_send: false }, "{name}, unknown");
    }
}

/// F-P-16: a look-up that found nothing permits the same key again, and only that.
#[test]
fn a_look_up_permits_one_more_send_under_the_same_key() {
    let mut intent = intent(&[told(Verdict::Ambiguous), UNANSWERED]);
    let last = intent.sends[1].at;
    intent.looked_up_at = Some(last.plus_micros(-1));
    assert_eq!(intent.next(last), Next::LookUp { or_send: false }, "read before the last send");
    intent.looked_up_at = Some(last);
    assert_eq!(intent.next(last), Next::Send);
    assert!(intent.is_in_doubt(), "nothing found is no evidence");
    assert_eq!(intent.next(FIRST.plus_secs(WINDOW_S)), Next::Quarantine(Quarantine::WindowOver));
}

/// F-P-14: the window is open up to its last microsecond and closed at its end.
#[test]
fn the_window_ends_at_the_microsecond() {
    let in_doubt = Intent { looked_up_at: Some(FIRST.plus_secs(60)), ..intent(&[told(Verdict::Ambiguous)]) };
    let certain = intent(&[told(Verdict::TurnedAway)]);
    let end = FIRST.plus_secs(20 * 3_600);
    assert_eq!(in_doubt.window_ends(), Some(end));
    for now in [FIRST, end.plus_micros(-1)] {
        assert_eq!(in_doubt.next(now), Next::Send, "{now}");
        assert_eq!(certain.next(now), Next::Send, "{now}");
    }
    for now in [end, end.plus_micros(1)] {
        assert_eq!(in_doubt.next(now), Next::Quarantine(Quarantine::WindowOver), "{now}");
        assert_eq!(certain.next(now), Next::Renew, "{now}");
    }
    assert_eq!(intent(&[]).window_ends(), None);
}

#[test]
fn the_window_leaves_a_margin_below_the_retention_of_the_key() {
    assert_eq!(WINDOW_S + super::story::TRAVEL_S, super::provider::KEY_KEPT_S);
}

/// `reliability.md` §5.12.
#[test]
fn after_a_restore_the_provider_is_asked_before_the_first_send() {
    let restored = Intent { look_up_first: true, ..intent(&[]) };
    assert_eq!(restored.next(FIRST), Next::LookUp { or_send: false });
    let asked = Intent { looked_up_at: Some(FIRST), ..restored };
    assert_eq!(asked.next(FIRST), Next::Send);
}

#[test]
fn only_what_was_never_written_down_to_be_sent_can_be_given_up() {
    assert!(intent(&[]).can_be_given_up());
    for &verdict in Verdict::ALL {
        assert!(!intent(&[told(verdict)]).can_be_given_up(), "{verdict:?}");
    }
    assert!(!intent(&[UNANSWERED]).can_be_given_up());
    assert!(
        Intent { generation: 1, ..intent(&[]) }.can_be_given_up(),
        "nothing was executed under the earlier key, which is why it was closed"
    );
    let restored = Intent { look_up_first: true, ..intent(&[]) };
    assert!(!restored.can_be_given_up(), "a restored database may have forgotten a send");
    assert!(
        !Intent { looked_up_at: Some(FIRST), ..restored }.can_be_given_up(),
        "nothing found is no evidence"
    );
    for &state in IntentState::ALL.iter().filter(|&&state| state != IntentState::Open) {
        assert!(!Intent { state, ..intent(&[]) }.can_be_given_up(), "{state:?}");
    }
}

#[test]
fn a_key_depends_on_mode_intent_and_generation_alone() {
    let id = IntentId::parse("int_abc").unwrap();
    assert_eq!(Intent::key(&id, 0, true), "remit_live_int_abc_g0");
    assert_eq!(Intent::key(&id, 12, false), "remit_test_int_abc_g12");
    let longest = IntentId::parse(&format!("int_{}", "x".repeat(64))).unwrap();
    assert!(Intent::key(&longest, i64::MAX, true).len() <= 255);
}
