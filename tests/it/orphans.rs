//! Transfers that carry an intent of ours which this database does not know: a database that is lost has
//! asked for them, so whoever they went to may be paid already and is left alone until people have looked.

use remit::{
    app::{holds, keys::Principal},
    domain::ids::{EnrollmentId, IntentId, ProgramId},
};
use serde_json::Value;

use super::{
    paying::earn,
    support::{TestDb, bank::Bank, books, on_each_engine},
};

const HELD: &str = "SELECT enrollment_id || ' ' || kind || ' ' || actor FROM payout_hold
    WHERE lifted_at_us IS NULL ORDER BY enrollment_id, id";

/// A transfer of 20.00 USD to an account, under the intent of a payout that is in no table here.
async fn transfer_of_a_lost_database(bank: &Bank, account: &str) -> Value {
    let intent = IntentId::derived(&["payout", "po_of_a_lost_database", account]);
    transfer(bank, account, intent.as_str()).await
}

async fn transfer(bank: &Bank, account: &str, intent: &str) -> Value {
    let amount = [("amount", "2000"), ("currency", "usd"), ("destination", account)];
    let form = [&amount[..], &[("metadata[intent_id]", intent)]].concat();
    let made = bank.post("/v1/transfers", &form).await;
    assert_eq!(made["object"], "transfer", "{made}");
    made
}

async fn unhold(bank: &Bank, affiliate: &str) {
    let program = ProgramId::parse(&bank.shop.owner.id("prog_", "fifth")).unwrap();
    let enrollment = EnrollmentId::parse(&bank.shop.enrollment(affiliate)).unwrap();
    holds::unhold(&bank.shop.node.app, &Principal::console(), &program, &enrollment).await.unwrap();
}

on_each_engine! {
    async fn whom_a_lost_database_has_paid_is_not_paid_again_before_people_have_looked(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        earn(&bank, "bob", "y", 5_000).await;
        let made = transfer_of_a_lost_database(&bank, "acct_ada").await;
        bank.tell().await;
        assert_eq!(bank.findings().await, ["orphan_transfer"]);
        assert_eq!(bank.texts(HELD).await, ["par_shop-ada anomaly remit"]);
        let reason = format!("{}: orphan_transfer", made["id"].as_str().unwrap());
        assert_eq!(bank.texts("SELECT reason FROM payout_hold").await, [reason]);

        assert_eq!(bank.settle().await, [("ada".to_owned(), "held".to_owned())]);
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 2_000, 0, 0]).await;
        bank.assert_balance("bob", [0, 0, 0, 1_000]).await;
        bank.audit().await;

        // An event about a transfer that was seen before holds nobody twice.
        let path = format!("/v1/transfers/{}", made["id"].as_str().unwrap());
        bank.post(&path, &[("metadata[seen]", "again")]).await;
        bank.tell().await;
        assert_eq!(bank.texts(HELD).await, ["par_shop-ada anomaly remit"]);

        // Somebody looks, takes the money back at the provider and lifts the hold.
        let back = bank.post(&format!("{path}/reversals"), &[("amount", "2000")]).await;
        assert_eq!(back["object"], "transfer_reversal", "{back}");
        bank.tell().await;
        assert!(bank.findings().await.is_empty());
        assert_eq!(bank.texts(HELD).await.len(), 1, "only people lift it");
        unhold(&bank, "ada").await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        bank.tell().await;
        assert!(bank.findings().await.is_empty() && bank.texts(HELD).await.is_empty());
        books::assert_they_add_up(&db.db).await;
    }

    async fn what_is_reserved_already_is_not_sent_to_whom_a_lost_database_has_paid(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        transfer_of_a_lost_database(&bank, "acct_ada").await;
        bank.tell().await;
        bank.dispatch_over(600, 10).await;
        assert_eq!(bank.payouts().await, ["pending"]);
        assert_eq!(bank.texts("SELECT reason FROM job").await, ["payouts_held"]);
        assert_eq!(bank.effects("transfer.created").await.len(), 1, "the one of the lost database");
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        unhold(&bank, "ada").await;
        bank.dispatch().await;
        assert_eq!(bank.payouts().await, ["completed"]);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }

    async fn every_enrollment_that_is_paid_to_the_account_is_held(db: TestDb) {
        const AGAIN: &str = "INSERT INTO enrollment (id, program_id, organization_id, created_at_us)
            VALUES ('par_shop-ada_again', 'prog_shop-second', 'org_shop-ada', 0)";
        let bank = Bank::open(&db).await;
        bank.shop.owner.create_program(&db.db, "second", "{}").await;
        bank.change(AGAIN).await;
        transfer_of_a_lost_database(&bank, "acct_ada").await;
        bank.tell().await;
        let held = ["par_shop-ada anomaly remit", "par_shop-ada_again anomaly remit"];
        assert_eq!(bank.texts(HELD).await, held);
    }

    async fn a_transfer_that_names_no_intent_of_ours_holds_nobody(db: TestDb) {
        let bank = Bank::open(&db).await;
        transfer(&bank, "acct_ada", "order 4711 of another program").await;
        bank.tell().await;
        assert_eq!(bank.findings().await, ["orphan_transfer"], "it is shown all the same");
        assert_eq!(bank.texts(HELD).await, [""; 0]);
    }

    async fn an_endpoint_of_another_owner_holds_nobody(db: TestDb) {
        let bank = Bank::open(&db).await;
        transfer_of_a_lost_database(&bank, "acct_ada").await;
        bank.tell_from_a_stranger().await;
        assert_eq!(bank.findings().await, [""; 0]);
        assert_eq!(bank.texts(HELD).await, [""; 0]);
    }
}
