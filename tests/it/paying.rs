//! Affiliates are paid once, whatever the provider does: settlement, dispatch and the provider's events
//! together, against the sandbox.

use serde_json::{Value, json};

use super::support::{
    TestDb,
    bank::Bank,
    books, on_each_engine,
    shop::{GRACE_S, PAID_AT_S, charge, intent, invoice, invoice_payment, stripe},
};

/// A sale of `amount` by the affiliate's code, a fifth of which is payable.
pub(super) async fn earn(bank: &Bank, affiliate: &str, id: &str, amount: i64) {
    let mut sale = charge(id, amount, None);
    sale["data"]["object"]["metadata"] = json!({ "referral_code": affiliate });
    bank.shop.tell_and_process(&[sale]).await;
    bank.advance(u32::try_from(GRACE_S).unwrap() + 1).await;
    bank.pass_time().await;
}

pub(super) async fn fault(bank: &Bank, matching: Value, times: u32, fault: Value) {
    let rule = json!({ "match": matching, "times": times, "fault": fault });
    bank.sandbox.fault(rule).await.unwrap();
}

pub(super) fn sends() -> Value {
    json!({ "method": "POST", "path_prefix": "/v1/transfers" })
}

/// Replaces the stored bytes of the only transfer, as nothing in the program ever does, and gives those
/// that were there.
pub(super) async fn replace_body(db: &TestDb, body: &[u8]) -> Vec<u8> {
    let mut tx = db.db.begin().await.unwrap();
    let before: Option<Vec<u8>> = tx.q("SELECT body FROM generation").scalar().await.unwrap();
    tx.q("UPDATE generation SET body = $1").bind(body.to_vec()).exec().await.unwrap();
    tx.commit().await.unwrap();
    before.unwrap()
}

async fn paid_once(bank: &Bank, amount: i64) {
    let made = bank.effects("transfer.created").await;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["amount"], amount);
    assert_eq!(bank.payouts().await, ["completed"]);
    assert_eq!(bank.jobs().await, ["completed"]);
    assert_eq!(bank.commissions().await, ["paid"]);
    bank.assert_balance("ada", [0, 0, 0, amount]).await;
    books::assert_they_add_up(&bank.shop.node.app.db).await;
    bank.audit().await;
}

async fn answer_is_found_by_look_up(db: &TestDb, kind: &str) {
    let bank = Bank::open(db).await;
    earn(&bank, "ada", "x", 10_000).await;
    fault(&bank, sends(), 1, json!({ "kind": kind })).await;
    bank.settle().await;
    bank.dispatch().await;
    assert_eq!(bank.payouts().await, ["submitting"]);
    bank.advance(60).await;
    bank.dispatch().await;
    paid_once(&bank, 2_000).await;
    assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), 1);
}

on_each_engine! {
    async fn what_is_payable_is_paid_by_one_transfer(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        assert_eq!(bank.commissions().await, ["in_payout"]);
        assert_eq!(bank.dispatch().await, 1);
        let made = &bank.effects("transfer.created").await[0];
        assert_eq!((&made["destination"], &made["currency"]), (&json!("acct_ada"), &json!("usd")));
        paid_once(&bank, 2_000).await;
        bank.tell().await;
        bank.settle().await;
        assert_eq!(bank.dispatch().await, 0);
        paid_once(&bank, 2_000).await;
        assert!(bank.findings().await.is_empty());
    }

    async fn an_error_that_hides_a_transfer_is_seen_through_by_look_up(db: TestDb) {
        answer_is_found_by_look_up(&db, "execute_then_500").await;
    }

    async fn an_answer_that_never_comes_is_found_by_look_up(db: TestDb) {
        answer_is_found_by_look_up(&db, "execute_then_hang").await;
    }

    async fn an_answer_that_is_cut_off_is_found_by_look_up(db: TestDb) {
        answer_is_found_by_look_up(&db, "execute_then_reset_at_byte").await;
    }

    async fn an_answer_that_cannot_be_read_is_found_by_look_up(db: TestDb) {
        answer_is_found_by_look_up(&db, "truncated_body").await;
    }

    async fn an_answer_that_is_lost_is_told_by_the_webhook(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "execute_then_500" })).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.tell().await;
        paid_once(&bank, 2_000).await;
        assert!(bank.requests("GET", "/v1/transfers").await.is_empty());
        bank.advance(3_600).await;
        assert_eq!(bank.dispatch().await, 0);
    }

    async fn a_transfer_that_lists_do_not_show_is_not_sent_twice(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "execute_then_500" }, { "kind": "hide" }])).await;
        bank.settle().await;
        bank.dispatch_over(600, 400).await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        assert_eq!(bank.reasons().await, ["error_replayed"]);
        assert_eq!(bank.findings().await, ["payout_unknown"]);
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        // What is earned meanwhile is not paid before that is known.
        earn(&bank, "ada", "y", 5_000).await;
        assert_eq!(bank.settle().await, [("ada".to_owned(), "payout_unknown".to_owned())]);
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        assert!(bank.findings().await.is_empty());
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 3_000]).await;
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_500_that_is_carried_out_later_is_adopted_when_it_is(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "fail_500_without_execute", "late_s": 21_600 })).await;
        bank.settle().await;
        bank.dispatch_over(600, 30).await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        assert!(bank.effects("transfer.created").await.is_empty());
        bank.advance(21_600).await;
        bank.sandbox.flush().await;
        bank.tell().await;
        paid_once(&bank, 2_000).await;
    }

    async fn a_key_is_not_used_once_its_window_is_over(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 10_000, json!({ "kind": "html", "status": 502 })).await;
        bank.settle().await;
        bank.dispatch_over(1_800, 60).await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        let requests = bank.requests("POST", "/v1/transfers").await;
        let times: Vec<i64> = requests.iter().map(|line| line["at_us"].as_i64().unwrap()).collect();
        assert!(times.len() > 3);
        assert!(times.last().unwrap() - times[0] < 20 * 3_600 * 1_000_000);
        let keys: std::collections::BTreeSet<_> =
            requests.iter().map(|line| line["idempotency_key"].as_str().unwrap()).collect();
        assert_eq!(keys.len(), 1);
        let bodies: std::collections::BTreeSet<_> =
            requests.iter().map(|line| line["body_sha256"].as_str().unwrap()).collect();
        assert_eq!(bodies.len(), 1);
        // It is looked up for a month and never sent again.
        bank.sandbox.control("DELETE", "faults", Value::Null).await.unwrap();
        bank.dispatch_over(86_400, 40).await;
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), times.len());
        assert_eq!(bank.payouts().await, ["unknown"]);
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
    }

    async fn a_payout_that_funds_do_not_cover_waits_and_is_sent_under_a_new_key_when_they_come(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 100 })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["waiting_funds"]);
        assert_eq!(bank.texts("SELECT state || ' ' || reason FROM job").await, ["parked waiting_funds"]);
        assert_eq!(bank.findings().await, ["payout_waits_for_funds"]);
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        bank.advance(60).await;
        assert_eq!(bank.dispatch().await, 0, "nobody asks before something has changed");
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "add": 5_000 })).await.unwrap();
        bank.tell().await;
        bank.dispatch().await;
        paid_once(&bank, 2_000).await;
        assert!(bank.findings().await.is_empty());
        assert_eq!(bank.texts("SELECT proof FROM generation WHERE closed_at_us IS NOT NULL").await,
            ["attempt 1: balance_insufficient"]);
    }

    async fn an_account_that_is_not_ready_is_not_sent_to_until_it_is(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "inactive" })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["waiting_account"]);
        assert!(bank.requests("POST", "/v1/transfers").await.is_empty());
        bank.advance(60).await;
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "active" })).await.unwrap();
        bank.tell_account("acct_ada").await;
        bank.dispatch().await;
        paid_once(&bank, 2_000).await;
    }

    async fn an_account_that_the_provider_refuses_waits_under_a_new_key(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "refuses_transfers": true })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["waiting_account"]);
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), 1);
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "refuses_transfers": false })).await.unwrap();
        bank.advance(7 * 3_600).await;
        bank.dispatch().await;
        paid_once(&bank, 2_000).await;
    }

    async fn an_answer_that_only_looks_definite_ends_no_doubt(db: TestDb) {
        let definite = [
            json!({ "kind": "too_many_requests", "retry_after_s": 5 }),
            json!({ "kind": "too_many_requests", "lock_timeout": true }),
            json!({ "kind": "unauthorized" }),
            json!({ "kind": "forbidden" }),
            json!({ "kind": "key_in_use" }),
        ];
        for (number, definite) in definite.into_iter().enumerate() {
            let bank = Bank::open_named(&db, &format!("shop{number}")).await;
            earn(&bank, "ada", &format!("x{number}"), 10_000).await;
            let lost = json!([{ "kind": "html", "status": 502, "executed": true }, { "kind": "hide", "for_s": 3_600 }]);
            fault(&bank, sends(), 1, lost).await;
            fault(&bank, sends(), 1, definite.clone()).await;
            bank.settle().await;
            bank.dispatch().await;
            bank.advance(10).await;
            bank.dispatch().await;
            assert_eq!(bank.payouts().await, ["submitting"], "{definite}");
            bank.dispatch_over(600, 20).await;
            let made = bank.effects("transfer.created").await;
            assert_eq!(made.len(), 1, "{definite}");
            assert_eq!(bank.payouts().await, ["completed"], "{definite}");
            assert_eq!(bank.keys().await.len(), 1, "{definite}");
        }
    }

    async fn two_transfers_of_one_payout_stop_the_payee(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "duplicate" }, { "kind": "execute_then_500" }])).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.advance(60).await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        assert_eq!(bank.reasons().await, ["duplicate"]);
        earn(&bank, "ada", "y", 5_000).await;
        assert_eq!(bank.settle().await, [("ada".to_owned(), "held".to_owned())]);
    }

    async fn an_answer_about_something_else_is_never_taken_for_ours(db: TestDb) {
        for (number, lie) in [
            json!({ "amount": 1 }),
            json!({ "destination": "acct_bob" }),
            json!({ "currency": "eur" }),
            json!({ "livemode": true }),
        ].into_iter().enumerate() {
            let bank = Bank::open_named(&db, &format!("shop{number}")).await;
            earn(&bank, "ada", &format!("x{number}"), 10_000).await;
            fault(&bank, sends(), 1, json!({ "kind": "lie", "set": lie })).await;
            bank.settle().await;
            bank.dispatch().await;
            assert_eq!(bank.payouts().await, ["unknown"], "{lie}");
            bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        }
    }

    async fn a_worker_that_wakes_after_its_lease_changes_nothing(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "execute_on_release" })).await;
        bank.settle().await;
        let sleeper = bank.dispatcher.clone();
        let asleep = tokio::spawn(async move { sleeper.work_off().await });
        bank.sandbox.until_hanging(1).await;
        // Its lease ends; another node takes over and is told that the key is in use.
        bank.advance(3_600).await;
        let other = Bank::dispatcher_of(&bank.shop.node);
        other.work_off().await.unwrap();
        assert_eq!(bank.payouts().await, ["submitting"]);
        bank.sandbox.release().await;
        asleep.await.unwrap().unwrap();
        bank.advance(3_600).await;
        other.work_off().await.unwrap();
        paid_once(&bank, 2_000).await;
        assert_eq!(bank.keys().await.len(), 1);
    }

    async fn two_nodes_send_each_payout_once(db: TestDb) {
        let bank = Bank::open(&db).await;
        for (number, affiliate) in ["ada", "bob", "ada", "bob"].into_iter().enumerate() {
            earn(&bank, affiliate, &format!("x{number}"), 10_000).await;
            bank.settle().await;
        }
        let other = Bank::dispatcher_of(&bank.shop.node);
        let (one, two) = tokio::join!(bank.dispatcher.work_off(), other.work_off());
        assert_eq!(one.unwrap() + two.unwrap(), 4);
        assert_eq!(bank.effects("transfer.created").await.len(), 4);
        bank.assert_balance("ada", [0, 0, 0, 4_000]).await;
        bank.assert_balance("bob", [0, 0, 0, 4_000]).await;
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_payout_is_canceled_whole_and_only_before_it_is_sent(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.cancel().await.unwrap();
        assert_eq!(bank.payouts().await, ["canceled"]);
        bank.assert_balance("ada", [0, 2_000, 0, 0]).await;
        assert_eq!(bank.commissions().await, ["payable"]);
        assert_eq!(bank.dispatch().await, 0);
        books::assert_they_add_up(&db.db).await;
        bank.advance(1).await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        assert_eq!(bank.cancel().await.unwrap_err().code(), "PAYOUT_SUBMITTED");
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    }

    async fn a_refund_of_a_sale_that_is_being_paid_carries_forward(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.refund("x", 10_000, 4_000).await;
        bank.assert_balance("ada", [0, -800, 2_000, 0]).await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, -800, 0, 2_000]).await;
        earn(&bank, "ada", "y", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 3_200]).await;
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_canceled_payout_gives_back_what_a_dispute_has_stopped_meanwhile_as_held(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispute("x", 10_000).await;
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        bank.cancel().await.unwrap();
        bank.assert_balance("ada", [2_000, 0, 0, 0]).await;
        assert_eq!(bank.commissions().await, ["flagged"]);
        bank.settle().await;
        assert_eq!(bank.dispatch().await, 0);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_reversed_transfer_takes_the_commission_back(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        for (amount, state) in [("300", "partially_reversed"), ("700", "partially_reversed"), ("1000", "reversed")] {
            bank.reverse(amount).await;
            bank.tell().await;
            assert_eq!(bank.payouts().await, [state]);
            // The cash is back and the commission is taken back: nothing is owed either way.
            bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
            books::assert_they_add_up(&db.db).await;
        }
        assert_eq!(bank.texts("SELECT CAST(clawed_minor AS TEXT) FROM commission").await, ["2000"]);
        assert_eq!(bank.commissions().await, ["paid"]);
        // A refund of the same sale finds nothing left to take.
        bank.refund("x", 10_000, 10_000).await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    }

    async fn a_reversed_transfer_is_owed_again_where_the_program_says_so(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.change("UPDATE program SET on_transfer_reversed = 'requeue', platform_fee_bps = 1000").await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 1_800]).await;
        bank.reverse("601").await;
        bank.tell().await;
        // 601 of 1800 came back, and with it 200 × 601 ÷ 1800 = 66.8 of the fee, rounded to 67.
        bank.assert_balance("ada", [0, 668, 0, 1_800]).await;
        bank.reverse("1199").await;
        bank.tell().await;
        bank.assert_balance("ada", [0, 2_000, 0, 1_800]).await;
        books::assert_they_add_up(&db.db).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 3_600]).await;
        assert_eq!(bank.effects("transfer.created").await.len(), 2);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_reversal_that_is_told_before_its_transfer_is_known_is_booked_with_it(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "execute_then_500" }, { "kind": "webhook_none" }])).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.reverse("500").await;
        bank.tell_only("transfer.reversed").await;
        assert_eq!(bank.payouts().await, ["partially_reversed"]);
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        bank.advance(3_600).await;
        assert_eq!(bank.dispatch().await, 0);
        assert_eq!(bank.effects("transfer.created").await.len(), 1);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn a_bank_payout_that_fails_is_none_of_our_transfers(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        let payout = json!({ "account": "acct_ada", "amount": 2_000, "currency": "usd", "status": "failed" });
        bank.sandbox.control("POST", "payouts", payout).await.unwrap();
        bank.tell_account("acct_ada").await;
        paid_once(&bank, 2_000).await;
        assert_eq!(bank.texts("SELECT status FROM bank_payout").await, ["failed"]);
    }

    async fn a_transfer_that_nobody_asked_for_is_shown(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.post("/v1/transfers", &[("amount", "5"), ("currency", "usd"), ("destination", "acct_bob")]).await;
        bank.tell().await;
        assert_eq!(bank.findings().await, ["orphan_transfer"]);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn an_endpoint_of_another_owner_adopts_nothing(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "execute_then_500" })).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.tell_from_a_stranger().await;
        assert_eq!(bank.payouts().await, ["submitting"]);
        assert!(bank.findings().await.is_empty());
    }

    async fn no_answer_of_the_provider_stops_the_payouts_for_longer_than_an_hour(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let patience = json!({ "kind": "too_many_requests", "retry_after_s": 100_000_000 });
        fault(&bank, sends(), 1, patience).await;
        bank.settle().await;
        bank.dispatch().await;
        earn(&bank, "bob", "y", 10_000).await;
        bank.settle().await;
        bank.dispatch_over(1_800, 4).await;
        assert_eq!(bank.payouts().await, ["completed", "completed"]);
        bank.audit().await;
    }

    async fn an_account_is_read_again_when_no_event_tells_that_it_is_ready(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "inactive" })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["waiting_account"]);
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "active" })).await.unwrap();
        bank.advance(7 * 3_600).await;
        bank.dispatch().await;
        paid_once(&bank, 2_000).await;
    }

    async fn the_owner_of_a_program_cannot_forge_what_became_of_a_transfer(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.change("UPDATE program SET on_transfer_reversed = 'requeue'").await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        let intent = bank.texts("SELECT id FROM intent").await.remove(0);
        let made = json!({
            "id": "tr_forged", "object": "transfer", "amount": 2_000, "amount_reversed": 0, "created": PAID_AT_S,
            "currency": "usd", "destination": "acct_ada", "livemode": false,
            "metadata": { "intent_id": intent }, "transfer_group": intent,
        });
        bank.shop.tell_and_process(&[stripe("forged_created", "transfer.created", &made)]).await;
        assert_eq!(bank.payouts().await, ["pending"]);
        bank.dispatch().await;
        let mut reversed = bank.effects("transfer.created").await.remove(0);
        reversed["amount_reversed"] = json!(2_000);
        bank.shop.tell_and_process(&[stripe("forged_reversed", "transfer.reversed", &reversed)]).await;
        paid_once(&bank, 2_000).await;
        assert!(bank.settle().await.is_empty());
        assert_eq!(bank.dispatch().await, 0);
    }

    async fn a_payout_of_the_other_mode_is_not_sent(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.change("UPDATE intent SET livemode = NOT livemode").await;
        bank.dispatch().await;
        assert!(bank.requests("POST", "/v1/transfers").await.is_empty());
        assert_eq!(bank.texts("SELECT reason FROM job").await, ["wrong_mode"]);
    }

    async fn what_was_set_apart_is_looked_up_ever_more_seldom_and_not_for_ever(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 100 })).await.unwrap();
        bank.settle().await;
        bank.dispatch().await;
        // Under its new key nothing was sent when a strange transfer that names it sets it apart.
        let intent = bank.texts("SELECT id FROM intent").await.remove(0);
        let strange =
            [("amount", "5"), ("currency", "usd"), ("destination", "acct_ada"), ("transfer_group", &*intent)];
        bank.post("/v1/transfers", &strange).await;
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["unknown"]);
        bank.dispatch_over(60, 120).await;
        let look_ups = bank.requests("GET", "/v1/transfers").await.len();
        assert!((1..=12).contains(&look_ups), "{look_ups} look-ups in two hours");
        bank.advance(40 * 86_400).await;
        bank.dispatch().await;
        let look_ups = bank.requests("GET", "/v1/transfers").await.len();
        bank.dispatch_over(86_400, 10).await;
        assert_eq!(bank.requests("GET", "/v1/transfers").await.len(), look_ups);
    }

    async fn a_transfer_that_paid_a_merged_sale_again_takes_nothing_from_the_other(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.shop.tell_and_process(&[intent("m", 10_000, None)]).await;
        bank.shop.attribute("pi_m", "ada").await;
        bank.advance(1_000).await;
        bank.pass_time().await;
        bank.settle().await;
        bank.dispatch().await;
        bank.shop.tell_and_process(&[invoice("m", 10_000, None)]).await;
        bank.shop.attribute("in_m", "ada").await;
        bank.advance(1_000).await;
        bank.pass_time().await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 4_000]).await;
        bank.shop.tell_and_process(&[invoice_payment("m", "m", "m")]).await;
        bank.assert_balance("ada", [0, -2_000, 0, 4_000]).await;
        // The operator takes the second transfer back: cash and debt end each other.
        let twice = bank.texts("SELECT p.transfer_id FROM payout p JOIN payout_item i ON i.payout_id = p.id
            JOIN commission c ON c.id = i.commission_id WHERE c.reason = 'merged'").await;
        bank.post(&format!("/v1/transfers/{}/reversals", twice[0]), &[("amount", "2000")]).await;
        bank.tell().await;
        bank.assert_balance("ada", [0, 0, 0, 4_000]).await;
        books::assert_they_add_up(&db.db).await;
    }

    async fn nothing_is_asked_of_the_provider_once_the_node_is_stopping(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "execute_then_500" }, { "kind": "hide" }])).await;
        bank.settle().await;
        bank.dispatch().await;
        earn(&bank, "bob", "y", 10_000).await;
        bank.settle().await;
        bank.advance(600).await;
        let asked = bank.requests("GET", "/v1/transfers").await.len();
        bank.stopped_dispatcher().work_off().await.unwrap();
        assert_eq!(bank.requests("GET", "/v1/transfers").await.len(), asked);
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), 1);
    }

    async fn a_second_success_is_never_silent(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!([{ "kind": "execute_on_release" }, { "kind": "webhook_none" }])).await;
        bank.settle().await;
        let intent = bank.texts("SELECT id FROM intent").await.remove(0);
        let sleeper = bank.dispatcher.clone();
        let asleep = tokio::spawn(async move { sleeper.work_off().await });
        bank.sandbox.until_hanging(1).await;
        let by_hand = [
            ("amount", "2000"), ("currency", "usd"), ("destination", "acct_ada"),
            ("transfer_group", &*intent), ("metadata[intent_id]", &*intent),
        ];
        bank.post("/v1/transfers", &by_hand).await;
        bank.tell().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        bank.sandbox.release().await;
        asleep.await.unwrap().unwrap();
        bank.shop.node.process_all().await;
        assert_eq!(bank.findings().await, ["duplicate_transfer"]);
        earn(&bank, "ada", "y", 5_000).await;
        assert_eq!(bank.settle().await, [("ada".to_owned(), "held".to_owned())]);
        // Taking the one that nobody booked back ends the finding; the hold is lifted by a person.
        let booked = bank.texts("SELECT transfer_id FROM payout").await.remove(0);
        let made = bank.effects("transfer.created").await;
        let other = made.iter().find(|made| made["id"] != booked.as_str()).unwrap();
        let path = format!("/v1/transfers/{}/reversals", other["id"].as_str().unwrap());
        bank.post(&path, &[("amount", "2000")]).await;
        bank.change("UPDATE payout_hold SET lifted_at_us = 1, lifted_by = 'me'").await;
        bank.tell().await;
        assert!(bank.findings().await.is_empty());
        assert!(bank.settle().await.is_empty());
    }

    async fn the_alarm_about_our_key_ends_when_the_key_is_accepted_again(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        fault(&bank, sends(), 1, json!({ "kind": "unauthorized" })).await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(bank.findings().await, ["provider_refuses_key"]);
        bank.sandbox.control("POST", "balance", json!({ "currency": "usd", "set": 1 })).await.unwrap();
        bank.dispatch_over(600, 3).await;
        assert_eq!(bank.findings().await, ["payout_waits_for_funds"]);
    }

    async fn a_refusal_that_comes_with_advice_to_retry_is_tried_again_under_its_key(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        // What the provider checks before it looks at the key, and stores nothing of.
        let body = replace_body(&db, b"nonsense=1").await;
        fault(&bank, sends(), 2, json!({ "kind": "should_retry", "value": true })).await;
        for _ in 0..2 {
            bank.dispatch().await;
            assert_eq!((bank.payouts().await, bank.jobs().await),
                (vec!["submitting".to_owned()], vec!["retryable".to_owned()]));
            bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
            bank.advance(60).await;
        }
        replace_body(&db, &body).await;
        bank.dispatch().await;
        // No audit: it rightly finds that the bytes under the key have changed.
        assert_eq!(bank.payouts().await, ["completed"]);
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        let sent = bank.requests("POST", "/v1/transfers").await.len();
        assert_eq!((sent, bank.keys().await.len()), (3, 1));
    }

    async fn advice_to_retry_is_not_followed_for_ever(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        replace_body(&db, b"nonsense=1").await;
        fault(&bank, sends(), 1_000, json!({ "kind": "should_retry", "value": true })).await;
        bank.dispatch_over(3_600, 10).await;
        assert_eq!((bank.payouts().await, bank.jobs().await), (vec!["failed".to_owned()], vec!["discarded".to_owned()]));
        bank.assert_balance("ada", [0, 2_000, 0, 0]).await;
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), 6);
    }

    async fn a_provider_that_advises_against_retrying_is_only_asked(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let never = json!([{ "kind": "fail_500_without_execute", "stored": false }, { "kind": "should_retry", "value": false }]);
        fault(&bank, sends(), 1, never).await;
        bank.settle().await;
        bank.dispatch_over(1_800, 6).await;
        assert_eq!(bank.requests("POST", "/v1/transfers").await.len(), 1);
        assert!(bank.requests("GET", "/v1/transfers").await.len() >= 2);
        assert_eq!(bank.payouts().await, ["submitting"]);
    }
}
