//! Real and composed payloads of both providers, of many API versions, through head and translation.
//!
//! They are read from `../shared/providers/events` (or `REMIT_CONFORMANCE_DIR`), which is data beside the
//! project and not part of it; without it those tests say so and pass, except with `CI` set. What is made
//! by this project, the fixtures and the corpus of the fuzz target, is always read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/checks.rs"]
#[expect(dead_code, reason = "the signature check runs in another test binary")]
mod checks;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use remit::{
    domain::{
        fact::{DisputePhase, Fact, RefundStatus},
        time::Timestamp,
    },
    providers::{EventHead, InvalidBody, MetadataKeys, Translation, inbound},
};

fn keys() -> Vec<String> {
    ["referral_code", "affiliate_code", "via", "ref"].map(str::to_owned).to_vec()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The payloads of a provider by file name without `.json`; none where they are not there to be read.
fn payloads(provider: &str) -> BTreeMap<String, Vec<u8>> {
    let shared = env::var_os("REMIT_CONFORMANCE_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/providers"), PathBuf::from);
    let folder = shared.join("events").join(provider);
    if !folder.is_dir() {
        assert!(env::var_os("CI").is_none(), "no payloads at {}", folder.display());
        println!("skipped: no payloads at {}", folder.display());
        return BTreeMap::new();
    }
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files(&folder).into_iter().map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

fn translate(provider: &str, body: &[u8]) -> Translation {
    inbound(provider).unwrap().facts(body, MetadataKeys { codes: &keys(), subjects: &[] }).unwrap()
}

fn facts(provider: &str, payloads: &BTreeMap<String, Vec<u8>>, name: &str) -> Vec<Fact> {
    match translate(provider, &payloads[name]) {
        Translation::Facts(facts) => facts,
        Translation::Ignored(reason) => panic!("{name} is ignored as {reason}"),
    }
}

/// The payloads that state nothing, with the reason; every other one states facts.
const IGNORED: &[(&str, &str, &str)] = &[
    // Its `payment` names a type only.
    ("stripe", "composed.basil.invoice_payment.paid", "no_sale"),
    ("stripe", "composed.thin.v1.transfer.reversed", "thin_event"),
    ("stripe", "srm.account.application.deauthorized", "no_account"),
    ("stripe", "srm.charge.dispute.closed", "old_shape"),
    ("stripe", "srm.charge.failed", "unhandled_type"),
    ("stripe", "srm.customer.subscription.updated", "no_code"),
    ("stripe", "srm.invoice.payment_failed", "unhandled_type"),
    ("stripe", "srm.payment_intent.canceled", "not_own_charge"),
    ("stripe", "srm.payment_intent.payment_failed", "not_own_charge"),
    ("stripe", "srm.payment_intent.processing", "not_own_charge"),
    ("stripe", "srm.payout.paid", "own_account"),
    ("stripe", "srm.payout.updated", "unhandled_type"),
    ("stripe", "srm.transfer.created", "old_shape"),
    ("stripe", "srm.transfer.failed", "unhandled_type"),
    ("stripe", "srm.transfer.paid", "unhandled_type"),
    ("stripe", "srm.transfer.updated", "old_shape"),
    ("paddle", "composed.credit.1.credit.approved", "no_cash"),
    ("paddle", "node.customer.created", "unhandled_type"),
    ("paddle", "node.payout.paid", "unhandled_type"),
    ("paddle", "node.subscription.created", "no_code"),
    ("paddle", "node.subscription.past_due", "unhandled_type"),
    ("paddle", "node.transaction.billed", "not_final"),
    ("paddle", "node.transaction.paid", "not_final"),
    ("paddle", "node.transaction.past_due", "not_final"),
    ("paddle", "node.transaction.payment_failed", "not_final"),
];

#[test]
fn every_payload_states_facts_or_is_ignored_for_a_known_reason() {
    for provider in ["stripe", "paddle"] {
        let payloads = payloads(provider);
        let ignored: BTreeSet<(String, &str)> = payloads
            .iter()
            .filter_map(|(name, body)| match translate(provider, body) {
                Translation::Ignored(reason) => Some((name.clone(), reason)),
                Translation::Facts(_) => None,
            })
            .collect();
        let expected: BTreeSet<(String, &str)> = IGNORED
            .iter()
            .filter(|(of, name, _)| *of == provider && payloads.contains_key(*name))
            .map(|(_, name, reason)| ((*name).to_owned(), *reason))
            .collect();
        assert_eq!(ignored, expected, "{provider}");
    }
}

#[test]
fn every_payload_has_a_head() {
    for provider in ["stripe", "paddle"] {
        for (name, body) in payloads(provider) {
            let head = inbound(provider).unwrap().head(&body).unwrap();
            assert!(head.event_id.starts_with("evt_"), "{name}");
            assert!(head.created_at.is_some(), "{name}");
            assert_eq!(head.livemode.is_some(), provider == "stripe", "{name}");
            assert_eq!(head.thin, name.starts_with("composed.thin."), "{name}");
            assert!(name.contains(&head.event_type) || provider == "paddle", "{name}");
        }
    }
}

#[test]
fn the_refund_sequence_ends_at_1500_of_3000() {
    let payloads = payloads("stripe");
    if payloads.is_empty() {
        return;
    }
    let of = |name| facts("stripe", &payloads, name);
    let paid = of("composed.refunds.payment_intent.succeeded");
    assert!(matches!(&paid[0], Fact::SalePaid(paid) if paid.amount == 3000 && paid.parent.is_none()));
    let charged = of("composed.refunds.charge.succeeded");
    assert!(matches!(&charged[0], Fact::SalePaid(charge)
        if charge.amount == 3000 && charge.parent.as_ref().is_some_and(|intent| matches!(&paid[0],
            Fact::SalePaid(paid) if paid.sale == *intent))));
    let total = |name| match of(name)[0] {
        Fact::RefundedTotal { total, .. } => total,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(total("composed.refunds.1.charge.refunded"), 1000);
    assert_eq!(total("composed.refunds.2.charge.refunded"), 1500);
    let refund = |name| match of(name).remove(0) {
        Fact::Refund(refund) => refund,
        other => panic!("{other:?}"),
    };
    let first = refund("composed.refunds.1.refund.created");
    let second = refund("composed.refunds.2.refund.created");
    assert_eq!((first.amount, second.amount), (1000, 500));
    assert_eq!(first.sale, second.sale);
    assert_ne!(first.refund_id, second.refund_id);
}

#[test]
fn the_won_dispute_nets_to_zero_and_the_inquiry_never_moves_money() {
    let payloads = payloads("stripe");
    if payloads.is_empty() {
        return;
    }
    let told = |name| match facts("stripe", &payloads, name).remove(0) {
        Fact::Dispute(dispute) => (dispute.phase, dispute.withdrawn, dispute.reinstated),
        other => panic!("{other:?}"),
    };
    assert_eq!(told("composed.dispute_won.1.charge.dispute.created"), (DisputePhase::Open, 0, 0));
    assert_eq!(told("composed.dispute_won.2.charge.dispute.funds_withdrawn"), (DisputePhase::Open, 4995, 0));
    assert_eq!(told("composed.dispute_won.5.charge.dispute.closed"), (DisputePhase::Won, 4995, 4995));
    let (_, withdrawn, reinstated) = told("composed.dispute_won.4.charge.dispute.funds_reinstated");
    assert_eq!((withdrawn, reinstated), (4995, 4995));
    assert_eq!(told("composed.dispute_inquiry.1.charge.dispute.created"), (DisputePhase::Inquiry, 0, 0));
    assert_eq!(told("composed.dispute_inquiry.2.charge.dispute.closed"), (DisputePhase::InquiryClosed, 0, 0));
}

#[test]
fn the_transfer_ends_fully_reversed() {
    let payloads = payloads("stripe");
    if payloads.is_empty() {
        return;
    }
    let reversed = |name| match facts("stripe", &payloads, name).remove(0) {
        Fact::TransferReversed(reversed) => (reversed.reversed_total, reversed.transfer.amount),
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        facts("stripe", &payloads, "composed.transfer.transfer.created")[0],
        Fact::TransferSeen(_)
    ));
    assert_eq!(reversed("composed.transfer.1.transfer.reversed"), (200, 700));
    assert_eq!(reversed("composed.transfer.2.transfer.reversed"), (700, 700));
}

#[test]
fn events_of_a_connected_account_carry_it() {
    let payloads = payloads("stripe");
    for (name, body) in &payloads {
        let head = inbound("stripe").unwrap().head(body).unwrap();
        let is_connected = ["composed.connected.", "composed.payout.", "dj.account."];
        let expected = is_connected.iter().any(|start| name.starts_with(start));
        assert_eq!(head.account.is_some(), expected, "{name}");
    }
}

#[test]
fn paddle_adjustments_take_only_what_was_approved() {
    let payloads = payloads("paddle");
    if payloads.is_empty() {
        return;
    }
    let of = |name| facts("paddle", &payloads, name).remove(0);
    let refund = |name| match of(name) {
        Fact::Refund(refund) => (refund.amount, refund.status),
        other => panic!("{other:?}"),
    };
    let asked = RefundStatus::AwaitingApproval;
    assert_eq!(refund("composed.refund_ok.1.refund.pending_approval"), (1000, asked));
    assert_eq!(refund("composed.refund_ok.2.refund.approved"), (1000, RefundStatus::Active));
    assert_eq!(refund("composed.refund_no.1.refund.pending_approval"), (700, asked));
    assert_eq!(refund("composed.refund_no.2.refund.rejected"), (700, RefundStatus::Void));
    let dispute = |name| match of(name) {
        Fact::Dispute(dispute) => (dispute.phase, dispute.withdrawn, dispute.reinstated),
        other => panic!("{other:?}"),
    };
    assert_eq!(dispute("composed.chargeback.1.chargeback.approved"), (DisputePhase::Lost, 2400, 0));
    assert_eq!(dispute("composed.chargeback.2.chargeback.reversed"), (DisputePhase::Won, 2400, 2400));
    assert_eq!(dispute("composed.warning.1.chargeback_warning.approved"), (DisputePhase::Inquiry, 0, 0));
    assert!(matches!(of("composed.chargeback_reverse.3.chargeback_reverse.approved"),
        Fact::ChargebackReversed(reversed) if reversed.amount == 2400));
}

fn stripe_head(body: impl AsRef<[u8]>) -> Result<EventHead, InvalidBody> {
    inbound("stripe").unwrap().head(body.as_ref())
}

fn paddle_head(body: impl AsRef<[u8]>) -> Result<EventHead, InvalidBody> {
    inbound("paddle").unwrap().head(body.as_ref())
}

fn field(name: &str) -> Result<EventHead, InvalidBody> {
    Err(InvalidBody::Field(name.to_owned()))
}

#[test]
fn a_stripe_head_has_what_the_receiver_needs() {
    let body = r#"{"id":"evt_1","object":"event","type":"payout.paid","created":1767258000,
        "account":"acct_1","livemode":true,"data":{"object":{"id":"po_1","livemode":"not looked at"}}}"#;
    let head = EventHead {
        event_id: "evt_1".to_owned(),
        event_type: "payout.paid".to_owned(),
        livemode: Some(true),
        account: Some("acct_1".to_owned()),
        created_at: Some(Timestamp::from_secs(1_767_258_000)),
        thin: false,
    };
    assert_eq!(stripe_head(body), Ok(head));
    let thin = r#"{"id":"evt_1","object":"v2.core.event","type":"v1.transfer.reversed","livemode":false,
        "created":"2026-01-01T09:00:00.000Z"}"#;
    let thin = stripe_head(thin).unwrap();
    assert!(thin.thin);
    assert_eq!(thin.created_at, Some(Timestamp::from_secs(1_767_258_000)));
}

#[test]
fn a_paddle_head_has_what_the_receiver_needs() {
    let body = r#"{"event_id":"evt_1","event_type":"transaction.paid","occurred_at":"2026-01-01T09:00:00.123456789Z",
        "notification_id":"ntf_1","data":{}}"#;
    let head = paddle_head(body).unwrap();
    assert_eq!((head.event_id.as_str(), head.event_type.as_str()), ("evt_1", "transaction.paid"));
    assert_eq!(head.created_at, Some(Timestamp::from_micros(1_767_258_000_123_456)));
    assert_eq!((head.livemode, head.account, head.thin), (None, None, false));
    assert_eq!(paddle_head(r#"{"event_type":"x","notification_id":"ntf_1"}"#), field("event_id"));
    assert_eq!(paddle_head(r#"{"event_id":"evt_1","event_type":"x","event_id":"evt_2"}"#), field("event_id"));
}

#[test]
fn bodies_that_no_provider_sends_are_refused() {
    let long = "x".repeat(256);
    let nested = |levels: usize| {
        format!(r#"{{"id":"evt_1","type":"x","a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let invalid = [
        (String::new(), Err(InvalidBody::NotJson)),
        ("null".to_owned(), Err(InvalidBody::NotJson)),
        (r#"["evt_1","x"]"#.to_owned(), Err(InvalidBody::NotJson)),
        ("\u{feff}{\"id\":\"evt_1\",\"type\":\"x\"}".to_owned(), Err(InvalidBody::NotJson)),
        (r#"{"id":"evt_1","type":"x"}}"#.to_owned(), Err(InvalidBody::NotJson)),
        (r#"{"id":"evt_1","type":"x"} x"#.to_owned(), Err(InvalidBody::NotJson)),
        (r#"{"id":"evt_1","type":"x","data":{"a":tru}}"#.to_owned(), Err(InvalidBody::NotJson)),
        (r#"{"id":"evt_1","type":"x","data":{"#.to_owned(), Err(InvalidBody::NotJson)),
        (nested(128), Err(InvalidBody::TooDeep)),
        ("[".repeat(1_000_000), Err(InvalidBody::TooDeep)),
        (r#"{"type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":"evt_1"}"#.to_owned(), field("type")),
        (r#"{"id":"","type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":5,"type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":"evt_1","type":null}"#.to_owned(), field("type")),
        (r#"{"id":"evt 1","type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":"evt_1\u0000","type":"x"}"#.to_owned(), field("id")),
        (format!(r#"{{"id":"{long}","type":"x"}}"#), field("id")),
        (format!(r#"{{"id":"evt_1","type":"{long}"}}"#), field("type")),
        (r#"{"id":"evt_1","id":"evt_1","type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":"evt_1","\u0069d":"evt_2","type":"x"}"#.to_owned(), field("id")),
        (r#"{"id":"evt_1","type":"x","livemode":false,"livemode":true}"#.to_owned(), field("livemode")),
        (r#"{"id":"evt_1","type":"x","livemode":"false"}"#.to_owned(), field("livemode")),
        (r#"{"id":"evt_1","type":"x","livemode":null}"#.to_owned(), field("livemode")),
        (r#"{"id":"evt_1","type":"x","account":7}"#.to_owned(), field("account")),
    ];
    for (body, expected) in invalid {
        assert_eq!(stripe_head(&body), expected, "{body:.80}");
    }
    assert_eq!(stripe_head(b"{\"id\":\"evt_1\",\"type\":\"x\",\"a\":\"\xff\"}"), Err(InvalidBody::NotUtf8));
    assert!(stripe_head(nested(127)).is_ok(), "128 levels are allowed");
    let brackets = format!(r#"{{"id":"evt_1","type":"x","a":"{}\"["}}"#, "[{".repeat(500));
    assert!(stripe_head(brackets).is_ok(), "brackets in a string are not levels");
    assert!(
        stripe_head(" {\"id\":\"evt_1\",\"type\":\"x\",\"created\":\"soon\"}\n")
            .is_ok_and(|head| head.created_at.is_none())
    );
}

#[test]
fn no_message_about_a_body_repeats_a_value() {
    for body in
        [r#"{"id":["jane@example.com"],"type":"x"}"#, r#"{"id":"jane doe","type":"x"}"#, "jane@example.com"]
    {
        let message = stripe_head(body).unwrap_err().to_string();
        assert!(!message.contains("jane"), "{message}");
    }
}

#[test]
fn the_stored_corpus_the_fixtures_and_their_broken_forms_hold() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = files(&project.join("fuzz/corpus/body"));
    assert!(corpus.len() >= 20, "the corpus is missing");
    for path in corpus {
        checks::body(&fs::read(path).unwrap());
    }
    for provider in ["stripe", "paddle"] {
        let own = files(&project.join("fixtures").join(provider));
        for body in own.iter().map(|path| fs::read(path).unwrap()).chain(payloads(provider).into_values()) {
            checks::body(&body);
            // Cut off, and with one byte overwritten, at places spread over the body.
            for place in (0..body.len()).step_by(body.len() / 40 + 1) {
                checks::body(&body[..place]);
                let mut broken = body.clone();
                broken[place] = b'"';
                checks::body(&broken);
            }
        }
    }
}
