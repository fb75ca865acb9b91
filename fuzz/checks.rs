//! What must hold for every input, however broken. The fuzz targets call these with generated input, and
//! `tests/signatures.rs` and `tests/provider_payloads.rs` call them with the stored corpus.

use remit::{
    domain::time::Timestamp,
    providers::{INBOUND, MetadataKeys, SignatureError, Translation},
};
use secrecy::SecretString;

const NOW: Timestamp = Timestamp::from_secs(1_767_258_000);
const TOLERANCE_S: i64 = 300;

/// `input` is a header, a line feed and a body. Nobody who does not know the secret can make one that
/// passes; and what we sign ourselves passes whatever the body.
pub fn signature(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (header, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let secret = SecretString::from("whsec_never_written_into_any_corpus");
    let blank = SecretString::from(" ");
    let secrets = [blank, secret.clone()];
    for provider in INBOUND {
        let refused = provider.verify(&[header], body, &secrets, TOLERANCE_S, NOW);
        assert!(refused.is_err_and(|error| !error.is_clock_suspect()), "a forged signature passed");
        assert_eq!(
            provider.verify(&[header, header], body, &secrets, TOLERANCE_S, NOW),
            Err(SignatureError::Repeated)
        );
        let own = provider.sign(body, &secret, NOW);
        assert_eq!(provider.verify(&[own.as_bytes()], body, &secrets, TOLERANCE_S, NOW), Ok(()));
    }
}

/// `input` is a body. Reading it never panics and gives the same result every time; a translation with
/// facts has at least one; an error says where and not what.
pub fn body(input: &[u8]) {
    let (codes, subjects) = (["referral_code".to_owned(), "via".to_owned()], ["user_id".to_owned()]);
    let keys = MetadataKeys { codes: &codes, subjects: &subjects };
    for provider in INBOUND {
        let head = provider.head(input);
        assert_eq!(provider.head(input), head);
        if let Ok(head) = &head {
            assert!((1..=255).contains(&head.event_id.len()) && (1..=255).contains(&head.event_type.len()));
        }
        let facts = provider.facts(input, keys);
        assert_eq!(provider.facts(input, keys), facts);
        match facts {
            Ok(Translation::Facts(facts)) => assert!(!facts.is_empty()),
            Ok(Translation::Ignored(reason)) => assert!(!reason.is_empty()),
            Err(error) => {
                let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"._[]?".contains(&byte);
                assert!(error.path().bytes().all(is_path), "not a path: {}", error.path());
            }
        }
    }
}
