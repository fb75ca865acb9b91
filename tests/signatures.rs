//! Signature verification of both providers: the cases of the official libraries' own tests, and where
//! those are lax, stricter ones. The corpus of the fuzz target runs here as well.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/checks.rs"]
#[expect(dead_code, reason = "the body check runs in another test binary")]
mod checks;

use std::{fs, path::Path};

use proptest::prelude::*;
use remit::{
    domain::time::Timestamp,
    providers::{INBOUND, Inbound, SignatureError, inbound},
};
use secrecy::SecretString;

const NOW_S: i64 = 1_767_258_000;
const TOLERANCE_S: i64 = 300;
const BODY: &[u8] = "{\"id\":\"evt_1\",\"type\":\"x\",\"note\":\"grüße\"}".as_bytes();

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(seconds)
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn stripe() -> &'static dyn Inbound {
    inbound("stripe").unwrap()
}

fn paddle() -> &'static dyn Inbound {
    inbound("paddle").unwrap()
}

/// Verifies one header value against one secret, now.
fn verify(provider: &dyn Inbound, header: &str, body: &[u8]) -> Result<(), SignatureError> {
    provider.verify(&[header.as_bytes()], body, &[secret("whsec_live")], TOLERANCE_S, at(NOW_S))
}

/// The hexadecimal signature of [`BODY`] at `seconds` with the secret that [`verify`] knows.
fn signature_of(provider: &dyn Inbound, seconds: i64) -> String {
    provider.sign(BODY, &secret("whsec_live"), at(seconds)).rsplit_once('=').unwrap().1.to_owned()
}

#[test]
fn signatures_equal_those_of_an_independent_implementation() {
    // Computed with Python's hmac module.
    let known = [
        (
            "stripe",
            "whsec_remit_known_answer",
            "t=1767258000,v1=69948336fc188893eb61047392e471b0377b99d8c5a10f287fcff4a67f005df7",
        ),
        (
            "paddle",
            "pdl_ntfset_remit_known_answer",
            "ts=1767258000;h1=57eb1dac85b4a6e6d718d95e13207e831634adc45f59e813039eefcd62b01a8a",
        ),
    ];
    for (name, key, header) in known {
        let provider = inbound(name).unwrap();
        assert_eq!(provider.sign(BODY, &secret(key), at(NOW_S)), header);
        let secrets = [secret(key)];
        assert_eq!(provider.verify(&[header.as_bytes()], BODY, &secrets, 0, at(NOW_S)), Ok(()));
    }
}

#[test]
fn headers_are_judged_one_by_one() {
    use SignatureError::{
        DuplicateTimestamp, Malformed, Mismatch, Missing, NoCandidates, TooLong, TooManyCandidates, TooNew,
        TooOld,
    };
    for (provider, comma, t, v1) in [(stripe(), ',', "t", "v1"), (paddle(), ';', "ts", "h1")] {
        let good = signature_of(provider, NOW_S);
        let signed_at = |seconds| format!("{t}={seconds}{comma}{v1}={}", signature_of(provider, seconds));
        let wrong = "ab".repeat(32);
        let now = format!("{t}={NOW_S}");
        let many = |count: usize, signature: &str| {
            let items = format!("{comma}{v1}={signature}").repeat(count);
            format!("{now}{items}")
        };
        let cases: Vec<(&str, String, Result<(), SignatureError>)> = vec![
            ("valid", format!("{now}{comma}{v1}={good}"), Ok(())),
            ("time last", format!("{v1}={good}{comma}{now}"), Ok(())),
            ("upper-case hex", format!("{now}{comma}{v1}={}", good.to_uppercase()), Ok(())),
            ("unreadable second", format!("{now}{comma}{v1}={good}{comma}{v1}=bad_signature"), Ok(())),
            ("unreadable first", format!("{now}{comma}{v1}=bad_signature{comma}{v1}={good}"), Ok(())),
            ("good one first", format!("{now}{comma}{v1}={good}{comma}{v1}={wrong}"), Ok(())),
            ("good one last", format!("{now}{comma}{v1}={wrong}{comma}{v1}={good}"), Ok(())),
            ("good one 64th", format!("{}{comma}{v1}={good}", many(63, &wrong)), Ok(())),
            ("unknown scheme ignored", format!("{now}{comma}v9={wrong}{comma}{v1}={good}"), Ok(())),
            ("value with equals sign ignored", format!("{now}{comma}x=a=b{comma}{v1}={good}"), Ok(())),
            ("other old scheme ignored", format!("{now}{comma}v0={wrong}{comma}{v1}={good}"), Ok(())),
            ("oldest", signed_at(NOW_S - TOLERANCE_S), Ok(())),
            ("newest", signed_at(NOW_S + TOLERANCE_S), Ok(())),
            ("too old by a second", signed_at(NOW_S - TOLERANCE_S - 1), Err(TooOld)),
            ("six minutes old", signed_at(NOW_S - 360), Err(TooOld)),
            ("a day old", signed_at(NOW_S - 86_400), Err(TooOld)),
            ("as old as time", signed_at(0), Err(TooOld)),
            ("too new by a second", signed_at(NOW_S + TOLERANCE_S + 1), Err(TooNew)),
            ("far future", signed_at(99_999_999_999), Err(TooNew)),
            ("empty", String::new(), Err(Missing)),
            ("words", "i'm not even a real signature header".to_owned(), Err(Malformed)),
            ("no equals sign", format!("{v1}{comma}{t}=1"), Err(Malformed)),
            ("trailing separator", format!("{now}{comma}{v1}={good}{comma}"), Err(Malformed)),
            ("no time", format!("{v1}={good}"), Err(Malformed)),
            ("empty time", format!("{t}={comma}{v1}={good}"), Err(Malformed)),
            ("time in words", format!("{t}=now{comma}{v1}={good}"), Err(Malformed)),
            ("time with sign", format!("{t}=+{NOW_S}{comma}{v1}={good}"), Err(Malformed)),
            ("negative time", format!("{t}=-{NOW_S}{comma}{v1}={good}"), Err(Malformed)),
            ("fractional time", format!("{t}={NOW_S}.0{comma}{v1}={good}"), Err(Malformed)),
            ("time with space", format!("{t}= {NOW_S}{comma}{v1}={good}"), Err(Malformed)),
            ("time too large", format!("{t}=99999999999999999999{comma}{v1}={good}"), Err(Malformed)),
            ("time rewritten", format!("{t}=0{NOW_S}{comma}{v1}={good}"), Err(Mismatch)),
            ("two times", format!("{now}{comma}{now}{comma}{v1}={good}"), Err(DuplicateTimestamp)),
            ("two different times", format!("{t}=1{comma}{now}{comma}{v1}={good}"), Err(DuplicateTimestamp)),
            ("not ASCII", format!("{now}{comma}{v1}={good}{comma}x=ü"), Err(Malformed)),
            ("only another scheme", format!("{now}{comma}v0={good}"), Err(NoCandidates)),
            ("scheme in upper case", format!("{now}{comma}{}={good}", v1.to_uppercase()), Err(NoCandidates)),
            ("space before the scheme", format!("{now}{comma} {v1}={good}"), Err(NoCandidates)),
            ("no signature", now.clone(), Err(NoCandidates)),
            ("empty signature", format!("{now}{comma}{v1}="), Err(NoCandidates)),
            ("only unreadable", format!("{now}{comma}{v1}=bad_signature"), Err(NoCandidates)),
            ("one digit short", format!("{now}{comma}{v1}={}", &good[1..]), Err(NoCandidates)),
            ("one byte short", format!("{now}{comma}{v1}={}", &good[2..]), Err(NoCandidates)),
            ("one byte long", format!("{now}{comma}{v1}={good}00"), Err(NoCandidates)),
            ("space within", format!("{now}{comma}{v1}= {}", &good[1..]), Err(NoCandidates)),
            ("wrong", format!("{now}{comma}{v1}={wrong}"), Err(Mismatch)),
            ("of another time", format!("{t}={}{comma}{v1}={good}", NOW_S - 1), Err(Mismatch)),
            ("wrong and old", format!("{t}=1{comma}{v1}={wrong}"), Err(Mismatch)),
            ("65 signatures", format!("{}{comma}{v1}={good}", many(64, &wrong)), Err(TooManyCandidates)),
            ("65 unreadable", format!("{}{comma}{v1}={good}", many(64, "x")), Err(TooManyCandidates)),
            ("10 000 signatures", many(10_000, ""), Err(TooLong)),
            ("one endless signature", format!("{now}{comma}{v1}={}", "ab".repeat(5000)), Err(TooLong)),
        ];
        for (case, header, expected) in cases {
            assert_eq!(verify(provider, &header, BODY), expected, "{}: {case}", provider.name());
        }
    }
}

#[test]
fn a_signature_is_good_for_its_own_provider_only() {
    let key = secret("whsec_live");
    let as_stripe = stripe().sign(BODY, &key, at(NOW_S));
    let as_paddle = paddle().sign(BODY, &key, at(NOW_S));
    assert!(verify(paddle(), &as_stripe, BODY).is_err());
    assert!(verify(stripe(), &as_paddle, BODY).is_err());
    // The same key and time, only the other provider's punctuation.
    let hex = signature_of(paddle(), NOW_S);
    assert_eq!(verify(stripe(), &format!("t={NOW_S},v1={hex}"), BODY), Err(SignatureError::Mismatch));
}

#[test]
fn the_header_must_come_exactly_once() {
    for provider in INBOUND {
        let header = provider.sign(BODY, &secret("whsec_live"), at(NOW_S));
        let verify = |headers: &[&[u8]]| {
            provider.verify(headers, BODY, &[secret("whsec_live")], TOLERANCE_S, at(NOW_S))
        };
        assert_eq!(verify(&[]), Err(SignatureError::Missing));
        assert_eq!(verify(&[b""]), Err(SignatureError::Missing));
        assert_eq!(verify(&[header.as_bytes()]), Ok(()));
        assert_eq!(verify(&[header.as_bytes(), header.as_bytes()]), Err(SignatureError::Repeated));
        assert_eq!(verify(&[header.as_bytes(), b""]), Err(SignatureError::Repeated));
        assert_eq!(verify(&[b"\xff\xfe"]), Err(SignatureError::Malformed));
    }
}

#[test]
fn the_body_is_signed_byte_for_byte() {
    let changed: [&[u8]; 6] = [
        b"",
        "{\"id\": \"evt_1\",\"type\":\"x\",\"note\":\"grüße\"}".as_bytes(),
        "{\"id\":\"evt_1\",\"type\":\"x\",\"note\":\"grüße\"}\n".as_bytes(),
        "\u{feff}{\"id\":\"evt_1\",\"type\":\"x\",\"note\":\"grüße\"}".as_bytes(),
        b"{\"id\":\"evt_1\",\"type\":\"x\",\"note\":\"gr\\u00fc\\u00dfe\"}",
        b"{\"id\":\"evt_1\",\"type\":\"x\"}",
    ];
    for provider in INBOUND {
        let header = provider.sign(BODY, &secret("whsec_live"), at(NOW_S));
        for body in changed {
            assert_eq!(verify(provider, &header, body), Err(SignatureError::Mismatch));
        }
        // What is signed need not be JSON or UTF-8; that is judged after the signature.
        for body in [&b""[..], b"this is not valid JSON", b"\xff\x00"] {
            let header = provider.sign(body, &secret("whsec_live"), at(NOW_S));
            assert_eq!(verify(provider, &header, body), Ok(()));
        }
    }
}

#[test]
fn rotating_a_secret_never_loses_an_event() {
    for provider in INBOUND {
        let header_with = |keys: &[&str]| {
            let mut headers = keys.iter().map(|key| provider.sign(BODY, &secret(key), at(NOW_S)));
            let first = headers.next().unwrap();
            let separator = if provider.name() == "stripe" { "," } else { ";" };
            headers.fold(first, |header, next| {
                format!("{header}{separator}{}", next.split_once(separator).unwrap().1)
            })
        };
        let cases: [(&[&str], &[&str], bool); 10] = [
            (&["old"], &["old"], true),
            (&["old"], &["old", "new"], true),
            (&["new"], &["old", "new"], true),
            (&["old", "new"], &["old"], true),
            (&["old", "new"], &["new"], true),
            (&["old", "new"], &["new", "old"], true),
            (&["old"], &["new"], false),
            (&["old", "new"], &["of another endpoint"], false),
            (&["old"], &[], false),
            (&["old"], &["old "], false),
        ];
        for (signed_with, live, passes) in cases {
            let header = header_with(signed_with);
            let live_secrets: Vec<_> = live.iter().map(|key| secret(key)).collect();
            let result = provider.verify(&[header.as_bytes()], BODY, &live_secrets, TOLERANCE_S, at(NOW_S));
            let expected = if passes { Ok(()) } else { Err(SignatureError::Mismatch) };
            assert_eq!(result, expected, "signed with {signed_with:?}, live {live:?}");
        }
    }
}

#[test]
fn a_blank_secret_never_matches_what_is_signed_with_it() {
    for provider in INBOUND {
        for blank in ["", " ", "\n"] {
            let header = provider.sign(BODY, &secret(blank), at(NOW_S));
            let result =
                provider.verify(&[header.as_bytes()], BODY, &[secret(blank)], TOLERANCE_S, at(NOW_S));
            assert_eq!(result, Err(SignatureError::Mismatch));
        }
    }
}

#[test]
fn only_a_truly_signed_body_points_at_the_clock() {
    let header = stripe().sign(BODY, &secret("whsec_live"), at(NOW_S - 1000));
    assert!(verify(stripe(), &header, BODY).unwrap_err().is_clock_suspect());
    assert!(!verify(stripe(), &header, b"{}").unwrap_err().is_clock_suspect());
}

#[test]
fn no_message_repeats_what_was_sent() {
    let header = format!("t={NOW_S},v1=jane@example.com");
    let message = verify(stripe(), &header, BODY).unwrap_err().to_string();
    assert!(!message.contains("jane") && !message.contains("whsec"));
}

#[test]
fn the_stored_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signature");
    let mut inputs = 0;
    for entry in fs::read_dir(folder).unwrap() {
        checks::signature(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 20, "the corpus is missing");
}

fn provider_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["stripe", "paddle"])
}

proptest! {
    #[test]
    fn what_was_signed_passes_with_any_live_secret_and_a_changed_bit_never_does(
        name in provider_name(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        keys in proptest::collection::vec("[!-~]{1,40}", 1..5),
        signer in any::<prop::sample::Index>(),
        drift_s in -TOLERANCE_S..=TOLERANCE_S,
        flipped in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let provider = inbound(name).unwrap();
        let live: Vec<_> = keys.iter().map(|key| secret(key)).collect();
        let header = provider.sign(&body, signer.get(&live), at(NOW_S + drift_s));
        let verify = |header: &[u8], body: &[u8]| provider.verify(&[header], body, &live, TOLERANCE_S, at(NOW_S));
        prop_assert_eq!(verify(header.as_bytes(), &body), Ok(()));

        if !body.is_empty() {
            let mut changed = body.clone();
            changed[flipped.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(verify(header.as_bytes(), &changed), Err(SignatureError::Mismatch));
        }

        let mut changed = header.clone().into_bytes();
        let place = flipped.index(changed.len());
        changed[place] ^= 1 << bit;
        // The other case of a hexadecimal digit is the same signature.
        if !changed.eq_ignore_ascii_case(header.as_bytes()) {
            prop_assert!(verify(&changed, &body).is_err());
        }

        let mut longer = body.clone();
        longer.push(b'\n');
        prop_assert_eq!(verify(header.as_bytes(), &longer), Err(SignatureError::Mismatch));
    }

    #[test]
    fn any_time_outside_the_tolerance_is_refused(name in provider_name(), drift_s in TOLERANCE_S + 1..1_000_000_000) {
        let provider = inbound(name).unwrap();
        let key = secret("whsec_live");
        let old = provider.sign(BODY, &key, at(NOW_S - drift_s));
        let new = provider.sign(BODY, &key, at(NOW_S + drift_s));
        prop_assert_eq!(verify(provider, &old, BODY), Err(SignatureError::TooOld));
        prop_assert_eq!(verify(provider, &new, BODY), Err(SignatureError::TooNew));
    }

    #[test]
    fn arbitrary_headers_never_pass_and_never_panic(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        checks::signature(&input);
    }

    #[test]
    fn nearly_right_headers_never_pass_and_never_panic(
        items in proptest::collection::vec("(t|ts|v1|h1|v0|)(=|)([0-9]{0,12}|[0-9a-fA-F]{62,66}|[ -~]{0,8})", 0..70),
        separator in "[,;]",
        body in "[ -~]{0,40}",
    ) {
        checks::signature(format!("{}\n{body}", items.join(&separator)).as_bytes());
    }
}
