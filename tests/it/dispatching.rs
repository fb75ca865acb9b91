//! Jobs become calls, answers become books: the dispatcher against the provider sandbox.

use remit::{
    app::charges::{self, NewCharge, Queued},
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
};
use serde_json::json;

use super::{
    paying::earn,
    support::{TestDb, bank::Bank, on_each_engine},
};

/// A charge of 20.00 USD with a fee of 0.50 for ada's account.
async fn charge(bank: &Bank, reference: &str) -> Queued {
    charge_for(bank, reference, "acct_ada").await
}

async fn charge_for(bank: &Bank, reference: &str, account: &str) -> Queued {
    let new = NewCharge {
        project_id: ProjectId::parse(&bank.shop.owner.project()).unwrap(),
        amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
        application_fee: 50,
        destination: account.to_owned(),
        client_reference: Some(reference.to_owned()),
    };
    charges::queue(&bank.shop.node.app, &new).await.unwrap()
}

on_each_engine! {
    async fn a_charge_becomes_one_payment_intent_for_the_connected_account(db: TestDb) {
        let bank = Bank::open(&db).await;
        let queued = charge(&bank, "order_1").await;
        assert!(charge(&bank, "order_1").await.already);
        assert_eq!(bank.dispatch().await, 1);
        let made = bank.effects("payment_intent.created").await;
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(made[0]["amount"], 2_000);
        assert_eq!(made[0]["application_fee_amount"], 50);
        assert_eq!(made[0]["on_behalf_of"], "acct_ada");
        assert_eq!(made[0]["transfer_data"]["destination"], "acct_ada");
        assert_eq!(made[0]["metadata"]["intent_id"], queued.intent_id.as_str());
        assert_eq!(bank.texts("SELECT state FROM charge").await, ["requires_payment_method"]);
        assert_eq!(bank.texts("SELECT state FROM job").await, ["completed"]);
        assert_eq!(bank.dispatch().await, 0);
    }

    async fn a_lost_answer_is_found_by_look_up_and_nothing_is_made_twice(db: TestDb) {
        let bank = Bank::open(&db).await;
        charge(&bank, "order_1").await;
        let rule = json!({ "match": { "method": "POST", "path_prefix": "/v1/payment_intents" },
            "times": 1, "fault": { "kind": "execute_then_500" } });
        bank.sandbox.fault(rule).await.unwrap();
        bank.dispatch().await;
        assert_eq!(bank.texts("SELECT state FROM job").await, ["retryable"]);
        assert_eq!(bank.texts("SELECT state FROM charge").await, ["submitting"]);
        bank.advance(60).await;
        bank.dispatch().await;
        assert_eq!(bank.texts("SELECT state FROM job").await, ["completed"]);
        assert_eq!(bank.effects("payment_intent.created").await.len(), 1);
        assert_eq!(bank.requests("POST", "/v1/payment_intents").await.len(), 1, "found, not sent again");
    }

    async fn a_lost_answer_is_found_on_the_last_page_of_a_look_up(db: TestDb) {
        const OF_OTHERS: usize = 120;
        let bank = Bank::open(&db).await;
        charge(&bank, "order_1").await;
        let rule = json!({ "match": { "method": "POST", "path_prefix": "/v1/payment_intents" },
            "times": 1, "fault": { "kind": "execute_then_500" } });
        bank.sandbox.fault(rule).await.unwrap();
        bank.dispatch().await;
        // The newest come first, a hundred on a page.
        for _ in 0..OF_OTHERS {
            bank.post("/v1/payment_intents", &[("amount", "100"), ("currency", "usd")]).await;
        }
        bank.advance(60).await;
        bank.dispatch().await;
        assert_eq!(bank.texts("SELECT state FROM intent").await, ["succeeded"]);
        let pages = bank.requests("GET", "/v1/payment_intents").await;
        assert_eq!(pages.len(), 2, "{pages:?}");
        assert!(pages[0]["form"]["starting_after"].is_null() && pages[1]["form"]["starting_after"].is_string(), "{pages:?}");
        assert_eq!(bank.requests("POST", "/v1/payment_intents").await.len(), 1 + OF_OTHERS, "found, not sent again");
    }

    async fn a_charge_is_looked_for_about_when_it_was_sent_however_late_the_provider_makes_it(db: TestDb) {
        let bank = Bank::open(&db).await;
        charge(&bank, "order_1").await;
        // It waits for ten days, then the provider fails, and makes it six hours later.
        bank.advance(10 * 86_400).await;
        let sent_at = bank.shop.node.app.now().as_secs();
        let rule = json!({ "match": { "method": "POST", "path_prefix": "/v1/payment_intents" },
            "fault": { "kind": "fail_500_without_execute", "late_s": 21_600 } });
        bank.sandbox.fault(rule).await.unwrap();
        bank.dispatch_over(3_600, 30).await;
        assert_eq!(bank.effects("payment_intent.created").await.len(), 1);
        assert_eq!(bank.texts("SELECT state FROM job").await, ["completed"]);
        assert_eq!(bank.texts("SELECT state FROM intent").await, ["succeeded"]);
        let asked = bank.requests("GET", "/v1/payment_intents").await;
        assert!(!asked.is_empty());
        for request in asked {
            let bound = |name: &str| request["form"][name].as_str().unwrap().parse::<i64>().unwrap();
            assert!((sent_at - 3_600..=sent_at).contains(&bound("created[gte]")), "{request}");
            assert!(bound("created[lte]") <= sent_at + 3 * 86_400, "{request}");
        }
    }

    async fn an_account_that_kept_a_settlement_from_paying_is_read_again_at_most_once_an_hour(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let set = async |transfers: &str| {
            bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": transfers })).await.unwrap();
            bank.advance(60).await;
        };
        let reads = async || bank.requests("GET", "/v1/accounts/acct_ada").await.len();
        let passed_over = [("ada".to_owned(), "account_not_ready".to_owned())];
        set("inactive").await;
        bank.tell_account("acct_ada").await;
        for _ in 0..3 {
            assert_eq!(bank.settle().await, passed_over);
            bank.dispatch().await;
            assert_eq!(reads().await, 1, "once an hour");
        }
        // The account becomes ready, and nobody is told.
        set("active").await;
        bank.advance(3_600).await;
        bank.dispatch().await;
        assert_eq!(reads().await, 2);
        assert!(bank.settle().await.is_empty());
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        bank.advance(7_200).await;
        bank.dispatch().await;
        assert_eq!(reads().await, 2, "what is ready is not asked about");
    }

    async fn one_account_of_a_hundred_that_does_not_answer_leaves_the_others_alone(db: TestDb) {
        let settings = [
            ("REMIT_DISPATCH__CONCURRENCY", "8"),
            ("REMIT_DISPATCH__RATE_PER_S", "1000"),
            ("REMIT_STRIPE__TIMEOUT_S", "300"),
        ];
        let bank = Bank::open_with(&db, &settings).await;
        for number in 0..100 {
            let account = format!("acct_{number}");
            bank.sandbox.control("POST", "accounts", json!({ "id": account })).await.unwrap();
            charge_for(&bank, &format!("order_{number}"), &account).await;
        }
        // Three more for the one that will not answer: they must not take the places of the others.
        for number in 100..103 {
            charge_for(&bank, &format!("order_{number}"), "acct_7").await;
        }
        let form = json!({ "transfer_data[destination]": "acct_7" });
        let to_seven = json!({ "method": "POST", "path_prefix": "/v1/payment_intents", "form": form });
        let hang = json!({ "match": to_seven, "times": 1_000, "fault": { "kind": "hang_before_execute" } });
        bank.sandbox.fault(hang).await.unwrap();
        let done = "SELECT CAST(COUNT(*) AS TEXT) FROM job WHERE state = 'completed'";
        loop {
            while bank.dispatcher.step().await.unwrap() > 0 {}
            if bank.texts(done).await == ["99"] {
                break;
            }
            // A job that was laid down says so.
            bank.shop.node.app.wake.dispatch.notified().await;
        }
        // All others were made while its first call was still under way, and it took one place of eight.
        bank.sandbox.until_hanging(1).await;
        assert_eq!(bank.requests("POST", "/v1/payment_intents").await.len(), 100);
    }

    async fn a_charge_is_never_made_while_payments_are_off(db: TestDb) {
        let bank = Bank::open_with(&db, &[("REMIT_PAYMENTS__ENABLED", "false")]).await;
        charge(&bank, "order_1").await;
        bank.dispatch().await;
        assert!(bank.requests("POST", "/v1/payment_intents").await.is_empty());
        assert_eq!(bank.texts("SELECT state || ' ' || reason FROM job").await, ["available not_enabled"]);
    }

    async fn a_charge_moves_along_with_what_the_provider_tells(db: TestDb) {
        let bank = Bank::open(&db).await;
        charge(&bank, "order_1").await;
        bank.dispatch().await;
        let id = bank.effects("payment_intent.created").await[0]["id"].as_str().unwrap().to_owned();
        for status in ["requires_action", "processing", "succeeded"] {
            let path = format!("payment_intents/{id}");
            bank.sandbox.control("POST", &path, json!({ "status": status })).await.unwrap();
            bank.tell().await;
            assert_eq!(bank.texts("SELECT state FROM charge").await, [status]);
        }
        // The transfer of a destination charge is neither a payout of ours nor an orphan.
        assert!(bank.findings().await.is_empty());
    }

    async fn a_charge_that_is_told_by_an_event_alone_is_adopted(db: TestDb) {
        let bank = Bank::open(&db).await;
        charge(&bank, "order_1").await;
        let lost = json!({ "match": { "method": "POST", "path_prefix": "/v1/payment_intents" },
            "times": 1, "fault": { "kind": "execute_then_500" } });
        bank.sandbox.fault(lost).await.unwrap();
        bank.dispatch().await;
        bank.tell().await;
        assert_eq!(bank.texts("SELECT state FROM charge").await, ["requires_payment_method"]);
        assert_eq!(bank.texts("SELECT state FROM job").await, ["completed"]);
        bank.advance(3_600).await;
        assert_eq!(bank.dispatch().await, 0);
        assert_eq!(bank.requests("POST", "/v1/payment_intents").await.len(), 1);
    }
}
