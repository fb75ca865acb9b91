//! Debts are netted once, and nobody is paid or marked as paid by somebody else's money: what settlement
//! does with commissions of which several payouts hold parts.

use remit::{
    app::{keys::Principal, payouts},
    domain::ids::PayoutId,
};
use serde_json::json;

use super::{
    paying::earn,
    support::{
        TestDb,
        bank::Bank,
        books, on_each_engine,
        program::Owner,
        shop::{GRACE_S, PAID_AT_S, stripe},
    },
};

/// The payouts in order of making.
async fn payouts(bank: &Bank) -> Vec<PayoutId> {
    let ids = bank.texts("SELECT id FROM payout ORDER BY created_at_us, id").await;
    ids.iter().map(|id| PayoutId::parse(id).unwrap()).collect()
}

async fn cancel(bank: &Bank, payout: &PayoutId) {
    payouts::cancel(&bank.shop.node.app, &Principal::console(), payout).await.unwrap();
}

async fn sent(bank: &Bank) -> Vec<i64> {
    let made = bank.effects("transfer.created").await;
    made.iter().map(|transfer| transfer["amount"].as_i64().unwrap()).collect()
}

async fn it_adds_up(bank: &Bank) {
    books::assert_they_add_up(&bank.shop.node.app.db).await;
    let found = remit::app::doctor::examine(&bank.shop.node.app).await.unwrap();
    // These databases have no beat: nobody runs a whole node.
    let broken: Vec<_> = found.iter().filter(|one| one.invariant != "database_not_restored").collect();
    assert!(broken.is_empty(), "{broken:?}");
    bank.audit().await;
}

/// x is in a payout of 2000; 800 of it were taken back and netted by a payout of y.
async fn a_debt_netted_elsewhere(db: &TestDb) -> (Bank, [PayoutId; 2]) {
    let bank = Bank::open(db).await;
    earn(&bank, "ada", "x", 10_000).await;
    bank.settle().await;
    bank.refund("x", 10_000, 4_000).await;
    earn(&bank, "ada", "y", 10_000).await;
    bank.settle().await;
    bank.shop.assert_standing("ch_x", "in_payout", [2_000, 800, 0, 1_200]).await;
    bank.assert_balance("ada", [0, 0, 3_200, 0]).await;
    let [first, second] = payouts(&bank).await.try_into().unwrap();
    (bank, [first, second])
}

/// Lets only this payout be sent.
async fn send_only(bank: &Bank, payout: &PayoutId) {
    let mut tx = bank.shop.node.app.db.begin().await.unwrap();
    tx.q("UPDATE job SET next_attempt_at_us = next_attempt_at_us + 3600000000
          WHERE state = 'available'
              AND intent_id NOT IN (SELECT id FROM intent WHERE payout_id = $1)")
        .bind(payout.as_str())
        .exec()
        .await
        .unwrap();
    tx.commit().await.unwrap();
    bank.dispatch().await;
}

on_each_engine! {
    async fn a_commission_is_not_paid_by_the_payout_that_netted_its_debt(db: TestDb) {
        let (bank, [first, second]) = a_debt_netted_elsewhere(&db).await;
        cancel(&bank, &first).await;
        bank.shop.assert_standing("ch_x", "payable", [2_000, 800, 0, 1_200]).await;
        it_adds_up(&bank).await;
        // Nothing of x is in a payout any more, so what happens to it stops its money.
        bank.dispute("x", 10_000).await;
        bank.shop.assert_standing("ch_x", "flagged", [2_000, 800, 1_200, 0]).await;
        bank.dispatch().await;
        assert_eq!((sent(&bank).await, payouts(&bank).await[1].clone()), (vec![1_200], second));
        bank.shop.assert_standing("ch_x", "flagged", [2_000, 800, 1_200, 0]).await;
        bank.shop.assert_standing("ch_y", "paid", [2_000, 0, 0, 2_000]).await;
        bank.assert_balance("ada", [1_200, 800, 0, 1_200]).await;
        it_adds_up(&bank).await;
        // The debt of x came off y, though no payout paid x: that is owed, and x stays stopped.
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [1_200, 800]);
        bank.shop.assert_standing("ch_x", "flagged", [2_000, 800, 1_200, 0]).await;
        bank.assert_balance("ada", [1_200, 0, 0, 2_000]).await;
        it_adds_up(&bank).await;
        assert_eq!(bank.settle().await, []);
        // The dispute is won: now x is paid, once.
        let won = json!({
            "id": "dp_x", "charge": "ch_x", "amount": 10_000, "currency": "usd", "status": "won",
            "balance_transactions": [],
        });
        bank.shop.tell_and_process(&[stripe("dp_x_won", "charge.dispute.closed", &won)]).await;
        bank.advance(u32::try_from(GRACE_S).unwrap() + 1).await;
        bank.pass_time().await;
        bank.shop.assert_standing("ch_x", "payable", [2_000, 800, 0, 1_200]).await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [1_200, 800, 1_200]);
        bank.shop.assert_standing("ch_x", "paid", [2_000, 800, 0, 1_200]).await;
        bank.assert_balance("ada", [0, 0, 0, 3_200]).await;
        it_adds_up(&bank).await;
    }

    async fn what_came_off_others_is_owed_even_when_the_commission_is_taken_back_whole(db: TestDb) {
        let (bank, [first, _]) = a_debt_netted_elsewhere(&db).await;
        cancel(&bank, &first).await;
        bank.refund("x", 10_000, 6_000).await;
        bank.shop.assert_standing("ch_x", "reversed", [2_000, 2_000, 0, 0]).await;
        it_adds_up(&bank).await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await.iter().sum::<i64>(), 2_000, "all of y and nothing of x");
        bank.shop.assert_standing("ch_x", "reversed", [2_000, 2_000, 0, 0]).await;
        bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
        it_adds_up(&bank).await;
    }

    async fn what_was_owed_because_of_a_netted_debt_is_taken_back_with_it(db: TestDb) {
        let (bank, [first, second]) = a_debt_netted_elsewhere(&db).await;
        cancel(&bank, &first).await;
        bank.dispute("x", 10_000).await;
        bank.settle().await;
        let mut all = payouts(&bank).await.into_iter();
        let third = all.find(|id| *id != first && *id != second).unwrap();
        send_only(&bank, &third).await;
        assert_eq!(sent(&bank).await, [800]);
        // The payout of y does not happen, so its debt is open again: 2000 of y less the 800 that were sent.
        cancel(&bank, &second).await;
        bank.assert_balance("ada", [1_200, 1_200, 0, 800]).await;
        it_adds_up(&bank).await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [800, 1_200]);
        bank.shop.assert_standing("ch_x", "flagged", [2_000, 800, 1_200, 0]).await;
        bank.shop.assert_standing("ch_y", "paid", [2_000, 0, 0, 2_000]).await;
        it_adds_up(&bank).await;
    }

    async fn a_commission_is_paid_when_the_last_payout_that_pays_it_is(db: TestDb) {
        let (bank, [first, second]) = a_debt_netted_elsewhere(&db).await;
        send_only(&bank, &second).await;
        assert_eq!(sent(&bank).await, [1_200]);
        bank.shop.assert_standing("ch_x", "in_payout", [2_000, 800, 0, 1_200]).await;
        bank.shop.assert_standing("ch_y", "paid", [2_000, 0, 0, 2_000]).await;
        it_adds_up(&bank).await;
        bank.advance(3_600).await;
        send_only(&bank, &first).await;
        assert_eq!(sent(&bank).await, [1_200, 2_000]);
        bank.shop.assert_standing("ch_x", "paid", [2_000, 800, 0, 1_200]).await;
        it_adds_up(&bank).await;
    }

    async fn sales_of_the_other_mode_are_not_paid_and_their_debts_are_not_netted(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "test", 10_000).await;
        earn(&bank, "ada", "live", 5_000).await;
        bank.change("UPDATE sale SET realm = 'stripe/live' WHERE id IN
            (SELECT sale_id FROM sale_alias WHERE object_id = 'ch_live')").await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [2_000]);
        bank.shop.assert_standing("ch_live", "payable", [1_000, 0, 0, 1_000]).await;
        bank.assert_balance("ada", [0, 1_000, 0, 2_000]).await;
        assert_eq!(bank.settle().await, []);
        // Cash that came back has the mode of its payout.
        bank.change("UPDATE program SET on_transfer_reversed = 'requeue'").await;
        earn(&bank, "ada", "more", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.reverse("2000").await;
        bank.tell().await;
        bank.assert_balance("ada", [0, 3_000, 0, 4_000]).await;
        bank.change("UPDATE payout SET livemode = NOT livemode").await;
        assert_eq!(bank.settle().await, []);
        bank.change("UPDATE payout SET livemode = NOT livemode").await;
        bank.settle().await;
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [2_000, 2_000, 2_000]);
        bank.assert_balance("ada", [0, 1_000, 0, 6_000]).await;
    }

    async fn what_a_stranger_tells_of_an_account_stops_nobodys_money(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let stranger = Owner::create(&db.db, "stranger").await;
        let event = stopped("forged", PAID_AT_S + 10 * 365 * 86_400).into_bytes();
        bank.shop.node
            .receive_all(&stranger.project(), &stranger.endpoint("a"), "stripe", vec![event])
            .await;
        bank.shop.node.process_all().await;
        assert_eq!(bank.settle().await, []);
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [2_000]);
        it_adds_up(&bank).await;
    }

    async fn a_statement_from_the_future_does_not_outrank_those_that_follow(db: TestDb) {
        let bank = Bank::open(&db).await;
        earn(&bank, "ada", "x", 10_000).await;
        let event = stopped("ahead", PAID_AT_S + 10 * 365 * 86_400).into_bytes();
        bank.shop.node.receive_all("proj_default", "ep_default_stripe", "stripe", vec![event]).await;
        bank.shop.node.process_all().await;
        assert_eq!(bank.settle().await, [("ada".to_owned(), "account_not_ready".to_owned())]);
        bank.advance(2).await;
        bank.sandbox.control("POST", "accounts/acct_ada", json!({ "transfers": "active" })).await.unwrap();
        bank.tell_account("acct_ada").await;
        bank.tell().await;
        assert_eq!(bank.settle().await, []);
        bank.dispatch().await;
        assert_eq!(sent(&bank).await, [2_000]);
    }
}

/// An event that says that ada's account can receive nothing.
fn stopped(id: &str, created_s: i64) -> String {
    let account = json!({
        "id": "acct_ada", "object": "account", "capabilities": { "transfers": "inactive" },
        "payouts_enabled": false, "charges_enabled": false, "details_submitted": true,
    });
    let mut event = stripe(id, "account.updated", &account);
    event["created"] = json!(created_s);
    event.to_string()
}

#[tokio::test]
async fn a_debt_that_comes_up_while_a_settlement_waits_is_netted_by_it() {
    const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // SQLite has one writer: nothing comes up there.
    let Some(db) = TestDb::postgres(module_path!()).await else { return };
    let bank = Bank::open(&db).await;
    earn(&bank, "ada", "x", 10_000).await;
    bank.settle().await;
    bank.dispatch().await;
    earn(&bank, "ada", "y", 10_000).await;
    let y = bank.shop.sale("ch_y").await.unwrap();
    let mut fold = db.db.begin().await.unwrap();
    fold.q("SELECT id FROM sale WHERE id = $1 FOR NO KEY UPDATE")
        .bind(y.as_str())
        .scalars::<String>()
        .await
        .unwrap();
    let (skipped, ()) = tokio::join!(bank.settle(), async {
        let mut conn = db.db.read().await.unwrap();
        while conn.q(WAITING).scalar::<i64>().await.unwrap() == Some(0) {
            tokio::task::yield_now().await;
        }
        drop(conn);
        bank.refund("x", 10_000, 10_000).await;
        fold.rollback().await.unwrap();
    });
    assert_eq!(skipped, [("ada".to_owned(), "nothing_due".to_owned())]);
    assert_eq!(bank.payouts().await, ["completed"]);
    bank.assert_balance("ada", [0, 0, 0, 2_000]).await;
    it_adds_up(&bank).await;
}
