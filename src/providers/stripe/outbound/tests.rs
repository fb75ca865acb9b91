//! Orders into bytes, and bytes of answers into what they prove.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::{
        ids::IntentId,
        money::{Currency, Money},
    },
    providers::outbound::ObjectSeen,
};

const INTENT: &str = "int_01krmt";
const ACCOUNT: &str = "acct_1RmtPayeeAda";
const CREATED_S: i64 = 1_770_714_000;

fn money(minor: i64, currency: &str) -> Money {
    Money { minor, currency: Currency::parse(currency).unwrap() }
}

fn order(kind: OrderKind) -> Order {
    Order {
        intent_id: IntentId::parse(INTENT).unwrap(),
        generation: 2,
        livemode: false,
        amount: money(1800, "usd"),
        destination: ACCOUNT.to_owned(),
        kind,
    }
}

fn transfer_order() -> Order {
    order(OrderKind::Transfer)
}

fn charge_order() -> Order {
    order(OrderKind::Charge { application_fee: 180 })
}

fn transfer() -> Value {
    json!({
        "id": "tr_1", "object": "transfer", "amount": 1800, "amount_reversed": 0, "created": CREATED_S,
        "currency": "usd", "destination": ACCOUNT, "livemode": false, "transfer_group": INTENT,
        "metadata": {"intent_id": INTENT, "generation": "2"}, "reversed": false,
    })
}

fn charge() -> Value {
    json!({
        "id": "pi_1", "object": "payment_intent", "amount": 1800, "application_fee_amount": 180,
        "created": CREATED_S, "currency": "usd", "livemode": false, "status": "requires_payment_method",
        "transfer_data": {"destination": ACCOUNT}, "transfer_group": INTENT,
        "metadata": {"intent_id": INTENT, "generation": "2"},
    })
}

/// `object` with `value` at `pointer`.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}

/// `object` without the field `key`.
fn without(mut object: Value, key: &str) -> Value {
    object.as_object_mut().unwrap().remove(key).unwrap();
    object
}

fn answered(status: u16, body: &[u8]) -> Reply {
    Reply::Answered(ApiResponse { status, body: body.to_vec(), ..ApiResponse::default() })
}

fn ok(body: &Value) -> Reply {
    answered(200, body.to_string().as_bytes())
}

fn verdict(order: &Order, body: &Value) -> Verdict {
    Stripe.answer(order, &ok(body)).verdict
}

fn seen(id: &str, matches: bool, status: Option<&str>) -> ObjectSeen {
    ObjectSeen {
        id: id.to_owned(),
        matches,
        status: status.map(str::to_owned),
        reversed: 0,
        created_at: Timestamp::from_secs(CREATED_S),
    }
}

fn form(request: &ApiRequest) -> &str {
    std::str::from_utf8(&request.body).unwrap()
}

#[test]
fn a_transfer_is_asked_for_in_exactly_these_bytes() {
    let request = Stripe.execute(&transfer_order());
    assert_eq!((request.method, request.path.as_str()), (Method::Post, "/v1/transfers"));
    assert_eq!(request.idempotency_key.as_deref(), Some("remit_test_int_01krmt_g2"));
    assert_eq!(
        form(&request),
        "amount=1800&currency=usd&destination=acct_1RmtPayeeAda&transfer_group=int_01krmt\
         &metadata%5Bintent_id%5D=int_01krmt&metadata%5Bgeneration%5D=2"
    );
    assert_eq!(Stripe.execute(&transfer_order()), request);
}

#[test]
fn a_charge_is_asked_for_in_exactly_these_bytes() {
    let request = Stripe.execute(&charge_order());
    assert_eq!((request.method, request.path.as_str()), (Method::Post, "/v1/payment_intents"));
    assert_eq!(
        form(&request),
        "amount=1800&currency=usd&automatic_payment_methods%5Benabled%5D=true\
         &on_behalf_of=acct_1RmtPayeeAda&transfer_data%5Bdestination%5D=acct_1RmtPayeeAda\
         &application_fee_amount=180&transfer_group=int_01krmt\
         &metadata%5Bintent_id%5D=int_01krmt&metadata%5Bgeneration%5D=2"
    );
    let live = Order { livemode: true, generation: 0, ..charge_order() };
    assert_eq!(Stripe.execute(&live).idempotency_key.as_deref(), Some("remit_live_int_01krmt_g0"));
}

#[test]
fn a_charge_without_a_fee_asks_for_none() {
    let order = order(OrderKind::Charge { application_fee: 0 });
    assert!(!form(&Stripe.execute(&order)).contains("application_fee_amount"));
    let without_fee = with(charge(), "/application_fee_amount", Value::Null);
    assert_eq!(verdict(&order, &without_fee), Verdict::Executed);
    assert_eq!(verdict(&order, &charge()), Verdict::Contradiction);
}

#[test]
fn nothing_that_is_written_into_a_request_can_leave_its_place() {
    let destination = "acct_é&amount=9 #?/..%00[x]".to_owned();
    let encoded = "acct_%C3%A9%26amount%3D9%20%23%3F%2F..%2500%5Bx%5D";
    let order = Order { destination: destination.clone(), ..transfer_order() };
    assert!(form(&Stripe.execute(&order)).contains(&format!("&destination={encoded}&")));
    assert_eq!(Stripe.account(&destination).path, format!("/v1/accounts/{encoded}"));
    let page = Stripe.look_up(&order, made(Timestamp::EPOCH, None), Some(&destination));
    assert!(page.path.ends_with(&format!("&starting_after={encoded}")), "{}", page.path);
}

const fn made(since: Timestamp, until: Option<Timestamp>) -> Made {
    Made { since, until }
}

#[test]
fn a_look_up_asks_for_the_group_or_where_there_is_none_for_the_time() {
    let since = Timestamp::from_secs(CREATED_S).plus_micros(999_999);
    let first = Stripe.look_up(&transfer_order(), made(since, Some(since)), None);
    assert_eq!(
        first.path,
        "/v1/transfers?transfer_group=int_01krmt&destination=acct_1RmtPayeeAda\
         &created%5Bgte%5D=1770714000&limit=100"
    );
    assert_eq!((first.method, first.body.len(), first.idempotency_key), (Method::Get, 0, None));
    let next = Stripe.look_up(&charge_order(), made(Timestamp::from_secs(-5), None), Some("pi_100"));
    assert_eq!(next.path, "/v1/payment_intents?created%5Bgte%5D=0&limit=100&starting_after=pi_100");
    let bounded = Stripe.look_up(&charge_order(), made(since, Some(since.plus_secs(60))), None);
    assert_eq!(
        bounded.path, "/v1/payment_intents?created%5Blte%5D=1770714061&created%5Bgte%5D=1770714000&limit=100",
        "a second that has begun counts whole"
    );
}

#[test]
fn the_object_that_was_asked_for_is_an_execution() {
    for (order, object, shown) in [
        (transfer_order(), transfer(), seen("tr_1", true, None)),
        (charge_order(), charge(), seen("pi_1", true, Some("requires_payment_method"))),
    ] {
        let answer = Stripe.answer(&order, &ok(&object));
        assert_eq!(answer, Answer { verdict: Verdict::Executed, object: Some(shown), error_code: None });
    }
    let expanded = json!({"id": ACCOUNT, "object": "account"});
    assert_eq!(
        verdict(&transfer_order(), &with(transfer(), "/destination", expanded.clone())),
        Verdict::Executed
    );
    let charge = with(charge(), "/transfer_data/destination", expanded);
    assert_eq!(verdict(&charge_order(), &charge), Verdict::Executed);
}

#[test]
fn an_answer_that_was_lost_or_never_asked_for_says_so() {
    assert_eq!(Stripe.answer(&transfer_order(), &Reply::Lost).verdict, Verdict::Ambiguous);
    assert_eq!(Stripe.answer(&transfer_order(), &Reply::NotSent).verdict, Verdict::NotSent);
}

/// F-P-25.
#[test]
fn a_charge_in_any_status_was_executed() {
    for status in [
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "succeeded",
        "canceled",
        "a_status_of_next_year",
    ] {
        let answer = Stripe.answer(&charge_order(), &ok(&with(charge(), "/status", json!(status))));
        assert_eq!(answer.verdict, Verdict::Executed, "{status}");
        assert_eq!(answer.object.unwrap().status.as_deref(), Some(status));
    }
}

/// F-P-19.
#[test]
fn an_object_that_differs_in_anything_that_matters_is_a_contradiction() {
    let other_account = json!("acct_1RmtPayeeBob");
    let common = [
        ("/amount", json!(1801)),
        ("/currency", json!("eur")),
        ("/livemode", json!(true)),
        ("/metadata/intent_id", json!("int_other")),
        ("/metadata/intent_id", Value::Null),
        ("/metadata", Value::Null),
        ("/metadata", json!({})),
    ];
    let of_transfer = [("/destination", other_account.clone()), ("/destination", Value::Null)];
    let of_charge = [
        ("/transfer_data/destination", other_account),
        ("/transfer_data", Value::Null),
        ("/application_fee_amount", json!(181)),
        ("/application_fee_amount", Value::Null),
    ];
    let transfers = common.iter().chain(&of_transfer).map(|change| (transfer_order(), transfer(), change));
    let charges = common.iter().chain(&of_charge).map(|change| (charge_order(), charge(), change));
    for (order, object, (pointer, value)) in transfers.chain(charges) {
        let answer = Stripe.answer(&order, &ok(&with(object, pointer, value.clone())));
        assert_eq!(answer.verdict, Verdict::Contradiction, "{pointer} {value}");
        assert!(answer.object.is_some_and(|object| !object.matches), "{pointer} {value}");
    }
}

#[test]
fn an_object_that_cannot_be_read_as_a_whole_proves_nothing() {
    let broken = [
        without(transfer(), "id"),
        without(transfer(), "amount"),
        without(transfer(), "amount_reversed"),
        without(transfer(), "livemode"),
        without(transfer(), "created"),
        with(transfer(), "/amount", json!("1800")),
        with(transfer(), "/amount", json!(1800.0)),
        with(transfer(), "/object", json!("transfer_reversal")),
        with(transfer(), "/currency", json!("dollar")),
        json!([transfer()]),
        json!({"object": "list", "data": [transfer()], "has_more": false}),
        json!(null),
        charge(),
    ];
    for body in broken {
        let answer = Stripe.answer(&transfer_order(), &ok(&body));
        assert_eq!((answer.verdict, &answer.object), (Verdict::Ambiguous, &None), "{body}");
    }
    assert_eq!(verdict(&charge_order(), &without(charge(), "status")), Verdict::Ambiguous);
    assert_eq!(verdict(&charge_order(), &transfer()), Verdict::Ambiguous);
    let twice = transfer().to_string().replace(r#""amount":1800"#, r#""amount":1800,"amount":1"#);
    assert_eq!(
        Stripe.answer(&transfer_order(), &answered(200, twice.as_bytes())).verdict,
        Verdict::Ambiguous
    );
    for body in ["", "<html>OK</html>", "{}", "\u{feff}{}", "{\"id\":"] {
        let answer = Stripe.answer(&transfer_order(), &answered(200, body.as_bytes()));
        assert_eq!(answer.verdict, Verdict::Ambiguous, "{body}");
    }
}

#[test]
fn an_error_is_read_with_its_code_and_without_its_text() {
    let refused = |error: Value| {
        Stripe.answer(&transfer_order(), &answered(400, json!({"error": error}).to_string().as_bytes()))
    };
    let answer = refused(json!({
        "type": "invalid_request_error", "code": "balance_insufficient", "message": "ada@example.com",
    }));
    assert_eq!(answer.verdict, Verdict::InsufficientFunds);
    assert_eq!(answer.error_code.as_deref(), Some("balance_insufficient"));
    assert!(!format!("{answer:?}").contains("ada@"));
    let nameless = refused(json!({"type": "invalid_request_error", "code": null}));
    assert_eq!((nameless.verdict, nameless.error_code), (Verdict::Refused, None));
    // What is not a word of a list is not Stripe's, so nothing of the answer counts.
    for code in
        [json!("ada@example.com"), json!("Balance_insufficient"), json!(""), json!(7), json!("a".repeat(65))]
    {
        let answer = refused(json!({"type": "invalid_request_error", "code": code}));
        assert_eq!((answer.verdict, answer.error_code), (Verdict::Ambiguous, None), "{code}");
    }
}

/// F-P-13.
#[test]
fn advice_to_retry_never_changes_what_an_answer_proves() {
    let error = |kind: &str, code: &str| json!({"error": {"type": kind, "code": code}}).to_string();
    for (status, body) in [
        (200, transfer().to_string()),
        (400, error("invalid_request_error", "no_account")),
        (400, error("invalid_request_error", "balance_insufficient")),
        (400, error("invalid_request_error", "parameter_invalid_integer")),
        (400, error("idempotency_error", "")),
        (401, error("invalid_request_error", "")),
        (402, error("card_error", "card_declined")),
        (404, error("invalid_request_error", "resource_missing")),
        (409, error("idempotency_error", "idempotency_key_in_use")),
        (429, error("invalid_request_error", "rate_limit")),
        (500, error("api_error", "")),
        (502, "<html>".to_owned()),
    ] {
        let verdict = |should_retry| {
            let response = ApiResponse {
                status,
                should_retry,
                body: body.clone().into_bytes(),
                ..ApiResponse::default()
            };
            Stripe.answer(&transfer_order(), &Reply::Answered(response)).verdict
        };
        assert_eq!(verdict(Some(true)), verdict(None), "{status}");
        assert_eq!(verdict(Some(false)), verdict(None), "{status}");
    }
}

fn list(data: &[Value], has_more: bool) -> Reply {
    ok(&json!({"object": "list", "url": "/v1/transfers", "has_more": has_more, "data": data}))
}

#[test]
fn a_page_shows_what_carries_the_intent_whatever_its_generation() {
    let earlier = with(with(transfer(), "/metadata/generation", json!("0")), "/id", json!("tr_2"));
    let by_group = with(with(transfer(), "/metadata", json!({})), "/id", json!("tr_3"));
    let by_metadata = with(with(transfer(), "/transfer_group", Value::Null), "/id", json!("tr_4"));
    let reversed = with(with(transfer(), "/amount_reversed", json!(300)), "/id", json!("tr_5"));
    let of_another = with(with(transfer(), "/metadata/intent_id", json!("int_other")), "/id", json!("tr_6"));
    let larger = with(with(transfer(), "/amount", json!(1801)), "/id", json!("tr_7"));
    let foreign =
        json!({"id": "tr_8", "object": "transfer", "amount": "?", "metadata": "?", "transfer_group": 7});
    let data = [transfer(), earlier, by_group, by_metadata, reversed, of_another, larger];
    let page = Stripe.page(&transfer_order(), &list(&data, false)).unwrap();
    let expected = [
        seen("tr_1", true, None),
        seen("tr_2", true, None),
        seen("tr_3", true, None),
        seen("tr_4", true, None),
        ObjectSeen { reversed: 300, ..seen("tr_5", true, None) },
        // It lies in our group and names another intent: people have to look at it.
        seen("tr_6", false, None),
        seen("tr_7", false, None),
    ];
    assert_eq!(page, Page { objects: expected.into(), next: None });
    // Metadata that cannot be read might name us, so the page cannot be trusted to be without us.
    assert_eq!(Stripe.page(&transfer_order(), &list(&[foreign], false)), Err(Unreadable));
}

/// F-P-17.
#[test]
fn pages_are_walked_by_the_last_id_whether_or_not_it_is_ours() {
    let other = |id: &str| json!({"id": id, "object": "payment_intent", "metadata": {"order": "7"}});
    let first = Stripe.page(&charge_order(), &list(&[charge(), other("pi_2")], true)).unwrap();
    assert_eq!(first.next.as_deref(), Some("pi_2"));
    assert_eq!(first.objects, [seen("pi_1", true, Some("requires_payment_method"))]);
    let last = Stripe.page(&charge_order(), &list(&[other("pi_3")], false)).unwrap();
    assert_eq!(last, Page { objects: Vec::new(), next: None });
    let empty = Stripe.page(&charge_order(), &list(&[], false)).unwrap();
    assert_eq!(empty, Page { objects: Vec::new(), next: None });
}

#[test]
fn anything_but_a_whole_page_is_unreadable() {
    let order = transfer_order();
    let unreadable = |reply: &Reply| assert_eq!(Stripe.page(&order, reply), Err(Unreadable), "{reply:?}");
    unreadable(&Reply::Lost);
    unreadable(&Reply::NotSent);
    unreadable(&list(&[], true));
    unreadable(&list(&[without(transfer(), "amount")], false));
    unreadable(&list(&[json!({"object": "transfer"})], false));
    unreadable(&list(&[charge()], false));
    unreadable(&ok(&json!({"object": "list", "data": []})));
    unreadable(&ok(&json!({"object": "transfer", "data": [], "has_more": false})));
    unreadable(&ok(&json!({"error": {"type": "invalid_request_error"}})));
    let whole = json!({"object": "list", "data": [transfer()], "has_more": false}).to_string();
    assert!(Stripe.page(&order, &answered(200, whole.as_bytes())).is_ok());
    unreadable(&answered(404, whole.as_bytes()));
    unreadable(&answered(206, whole.as_bytes()));
    for end in 0..whole.len() {
        unreadable(&answered(200, &whole.as_bytes()[..end]));
    }
}

#[test]
fn an_account_is_read_like_an_event_about_it() {
    let request = Stripe.account(ACCOUNT);
    assert_eq!((request.method, request.path.as_str()), (Method::Get, "/v1/accounts/acct_1RmtPayeeAda"));
    let now = Timestamp::from_secs(CREATED_S);
    let account = json!({
        "id": ACCOUNT, "object": "account", "capabilities": {"transfers": "active"}, "payouts_enabled": true,
        "charges_enabled": false, "requirements": {"disabled_reason": null},
    });
    let state = Stripe.account_state(&ok(&account), now).unwrap();
    assert_eq!((state.account_id.as_str(), state.at), (ACCOUNT, now));
    assert!(
        state.transfers_active && state.payouts_enabled && !state.charges_enabled && !state.details_submitted
    );
    let pending = with(account.clone(), "/capabilities/transfers", json!("pending"));
    assert!(!Stripe.account_state(&ok(&pending), now).unwrap().transfers_active);

    let body = account.to_string();
    assert_eq!(Stripe.account_state(&answered(403, body.as_bytes()), now), None);
    assert_eq!(Stripe.account_state(&ok(&with(account, "/object", json!("person"))), now), None);
    assert_eq!(Stripe.account_state(&ok(&json!({"error": {}})), now), None);
    assert_eq!(Stripe.account_state(&Reply::Lost, now), None);
}

/// Answers that are near to a good one: cut, changed in one place, or anything at all.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let good =
        prop_oneof![Just(transfer().to_string()), Just(charge().to_string())].prop_map(String::into_bytes);
    let changed = (good, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut body, at, byte)| {
        let at = at.index(body.len());
        body[at] = byte;
        body
    });
    let cut = (changed.clone(), any::<prop::sample::Index>()).prop_map(|(mut body, at)| {
        body.truncate(at.index(body.len()));
        body
    });
    prop_oneof![4 => changed, 2 => cut, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// Whether the body says of the order what must be said, read in the plainest way.
fn says_it(order: &Order, body: &[u8]) -> bool {
    let Ok(said) = serde_json::from_slice::<Value>(body) else { return false };
    let destination = match order.kind {
        OrderKind::Transfer => &said["destination"],
        OrderKind::Charge { .. } => &said["transfer_data"]["destination"],
    };
    said["amount"] == json!(order.amount.minor)
        && said["currency"].as_str().is_some_and(|code| code.eq_ignore_ascii_case("usd"))
        && *destination == json!(order.destination)
        && said["livemode"] == json!(order.livemode)
        && said["metadata"]["intent_id"] == json!(order.intent_id.as_str())
        && said["id"].is_string()
}

proptest! {
    #[test]
    fn nothing_but_the_object_that_was_asked_for_is_taken_for_an_execution(
        body in bodies(),
        status in 100_u16..600,
        is_charge: bool,
        replayed: bool,
        should_retry: Option<bool>,
    ) {
        let order = if is_charge { charge_order() } else { transfer_order() };
        let response =
            ApiResponse { status, replayed, should_retry, body: body.clone(), ..ApiResponse::default() };
        let answer = Stripe.answer(&order, &Reply::Answered(response));
        if answer.verdict == Verdict::Executed {
            prop_assert!((200..300).contains(&status) && says_it(&order, &body));
        }
        if (500..600).contains(&status) {
            prop_assert_eq!(answer.verdict, Verdict::Ambiguous);
        }
        let shows = matches!(answer.verdict, Verdict::Executed | Verdict::Contradiction);
        prop_assert_eq!(answer.object.is_some(), shows);
    }

    #[test]
    fn an_unharmed_answer_of_success_is_always_an_execution(status in 200_u16..300, replayed: bool) {
        let body = transfer().to_string().into_bytes();
        let response = ApiResponse { status, replayed, body, ..ApiResponse::default() };
        let answer = Stripe.answer(&transfer_order(), &Reply::Answered(response));
        prop_assert_eq!(answer.verdict, Verdict::Executed);
    }

    #[test]
    fn every_order_is_written_as_a_form_that_reads_back(
        minor in 1..i64::MAX,
        destination in "\\PC{1,40}",
        generation in 0..1000_i64,
        fee in prop::option::of(1..1000_i64),
    ) {
        let (kind, place) = match fee {
            None => (OrderKind::Transfer, "destination"),
            Some(application_fee) => (OrderKind::Charge { application_fee }, "transfer_data[destination]"),
        };
        let amount = money(minor, "jpy");
        let order = Order { amount, destination: destination.clone(), generation, ..order(kind) };
        let request = Stripe.execute(&order);
        prop_assert!(request.body.is_ascii());
        let url = reqwest::Url::parse(&format!("http://localhost/?{}", form(&request))).unwrap();
        let told = |wanted: &str| -> Vec<String> {
            let pairs = url.query_pairs().filter(|(name, _)| name == wanted);
            pairs.map(|(_, value)| value.into_owned()).collect()
        };
        prop_assert_eq!(told("amount"), [minor.to_string()]);
        prop_assert_eq!(told("currency"), ["jpy"]);
        prop_assert_eq!(told("metadata[intent_id]"), [INTENT]);
        prop_assert_eq!(told("metadata[generation]"), [generation.to_string()]);
        let fees: Vec<String> = fee.iter().map(ToString::to_string).collect();
        prop_assert_eq!(told("application_fee_amount"), fees);
        prop_assert_eq!(told(place), [destination]);
    }
}
