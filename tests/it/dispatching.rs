//! Jobs become calls, answers become books: the dispatcher against the provider sandbox.

use remit::{
    app::charges::{self, NewCharge, Queued},
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
};
use serde_json::json;

use super::support::{TestDb, bank::Bank, on_each_engine};

/// A charge of 20.00 USD with a fee of 0.50 for ada's account.
async fn charge(bank: &Bank, reference: &str) -> Queued {
    let new = NewCharge {
        project_id: ProjectId::parse(&bank.shop.owner.project()).unwrap(),
        amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
        application_fee: 50,
        destination: "acct_ada".to_owned(),
        client_reference: Some(reference.to_owned()),
    };
    charges::queue(&bank.shop.node.app, &new).await.unwrap()
}

on_each_engine! {
    async fn a_charge_becomes_one_payment_intent_for_the_connected_account(db: TestDb) {
        let bank = Bank::open(&db.db).await;
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
        let bank = Bank::open(&db.db).await;
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
}
