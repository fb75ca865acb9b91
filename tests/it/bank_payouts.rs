//! Payouts of an affiliate's account to its bank: shown with our payouts, told of while they fail, and
//! never taken for our transfer failing (F-P-24).

use remit::app::{jobs, keys::Principal, reads};
use remit::domain::ids::{PayoutId, ProgramId};
use serde_json::{Value, json};

use super::{
    paying::earn,
    support::{TestDb, bank::Bank, on_each_engine, shop::stripe},
};

/// A payout of ada's account that comes to this end, told of by its events.
async fn bank_payout(bank: &Bank, status: &str) {
    let payout = json!({ "account": "acct_ada", "amount": 100, "currency": "usd", "status": status });
    bank.sandbox.control("POST", "payouts", payout).await.unwrap();
    bank.tell_account("acct_ada").await;
}

/// What the provider tells of a bank payout of ada's account at a time, seconds.
fn event(id: &str, status: &str, at_s: i64) -> Value {
    let object = json!({ "id": id, "object": "payout", "amount": 100, "currency": "usd", "status": status });
    let mut event = stripe(&format!("{id}_{status}"), &format!("payout.{status}"), &object);
    event["account"] = json!("acct_ada");
    event["created"] = json!(at_s);
    event
}

/// A shop that has paid ada 200.
async fn paid(db: &TestDb) -> Bank {
    let bank = Bank::open(db).await;
    earn(&bank, "ada", "one", 1_000).await;
    bank.settle().await;
    bank.dispatch().await;
    bank.tell().await;
    bank.assert_balance("ada", [0, 0, 0, 200]).await;
    bank
}

/// The payout's bank payouts as its owner sees them, and as an operator sees those of its job.
async fn shown(bank: &Bank) -> (Value, Value) {
    let (app, by) = (&bank.shop.node.app, Principal::console());
    let ids = bank.texts("SELECT id FROM payout").await;
    let program = ProgramId::parse(&bank.shop.owner.id("prog_", "fifth")).unwrap();
    let payout = PayoutId::parse(&ids[0]).unwrap();
    let detail = reads::payout(app, &by, &program, &payout, 10).await.unwrap();
    let job = jobs::show(app, &by, &ids[0]).await.unwrap();
    (json!(detail.bank_payouts), json!({ "bank_payouts": job.bank_payouts, "findings": job.findings }))
}

on_each_engine! {
    async fn a_bank_payout_that_fails_is_shown_and_found_until_a_later_one_is_paid(db: TestDb) {
        let bank = paid(&db).await;
        assert_eq!(shown(&bank).await.0, json!([]));
        bank_payout(&bank, "failed").await;
        let (owner, operator) = shown(&bank).await;
        let first = &owner[0];
        assert_eq!(owner, operator["bank_payouts"]);
        assert_eq!((&first["status"], &first["amount"], &first["currency"], &first["failure_code"]),
            (&json!("failed"), &json!(100), &json!("usd"), &json!("account_closed")));
        assert!(first["id"].as_str().unwrap().starts_with("po_") && first["told_at"].is_string(), "{first}");
        let finding = &operator["findings"][0];
        assert_eq!((&finding["kind"], &finding["severity"], &finding["object"]),
            (&json!("bank_payout_failed"), &json!("info"), &json!("acct_ada")));
        assert!(finding["detail"].as_str().unwrap().contains("(account_closed)"), "{finding}");

        // Our transfer has arrived all the same.
        assert_eq!(bank.payouts().await, ["completed"]);
        bank.assert_balance("ada", [0, 0, 0, 200]).await;

        bank.advance(60).await;
        bank_payout(&bank, "paid").await;
        assert_eq!(bank.findings().await, [""; 0]);
        bank.advance(60).await;
        bank_payout(&bank, "failed").await;
        assert_eq!(bank.findings().await, ["bank_payout_failed"], "the same finding, open again");
        for _ in 0..4 {
            bank.advance(60).await;
            bank_payout(&bank, "paid").await;
        }
        let statuses: Vec<Value> =
            shown(&bank).await.0.as_array().unwrap().iter().map(|row| row["status"].clone()).collect();
        assert_eq!(statuses, ["paid", "paid", "paid", "paid", "failed"], "the newest five");
        assert_eq!(bank.findings().await, [""; 0]);
        bank.audit().await;
    }

    async fn only_accounts_that_affiliates_are_paid_to_are_found(db: TestDb) {
        let bank = paid(&db).await;
        bank.change("UPDATE payout_account SET account_id = 'acct_other' WHERE account_id = 'acct_ada'").await;
        bank_payout(&bank, "failed").await;
        assert_eq!(bank.findings().await, [""; 0]);
        assert_eq!(shown(&bank).await.0[0]["status"], "failed");
    }

    async fn the_order_in_which_events_arrive_changes_nothing(db: TestDb) {
        let bank = paid(&db).await;
        let now = bank.shop.node.app.now().as_secs();
        let tell = async |event: Value| {
            let bodies = vec![event.to_string().into_bytes()];
            bank.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", bodies).await;
            bank.shop.node.process_all().await;
        };
        tell(event("po_later", "paid", now - 10)).await;
        tell(event("po_earlier", "failed", now - 20)).await;
        assert_eq!(bank.findings().await, [""; 0], "the later one was paid");
        tell(event("po_last", "failed", now - 10)).await;
        assert_eq!(bank.findings().await, ["bank_payout_failed"], "of one second the failure stands");
    }

    async fn what_the_endpoint_of_another_project_tells_is_not_believed(db: TestDb) {
        let bank = paid(&db).await;
        let now = bank.shop.node.app.now().as_secs();
        bank.shop.tell_and_process(&[event("po_1", "failed", now)]).await;
        assert_eq!(bank.findings().await, [""; 0]);
        assert_eq!(shown(&bank).await.0, json!([]));
    }
}
