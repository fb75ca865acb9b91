//! Transfers that come back in parts under the policy `clawback`, with a fee: what is posted follows the
//! greatest total that was told, in whatever order and however often totals come. The amounts are worked
//! out by hand (`rulings.md` 15).

use serde_json::{Value, json};

use super::{
    paying::earn,
    support::{TestDb, bank::Bank, books, on_each_engine},
};

/// What is reversed of 24.67 that were sent, one after the other: 5.00, 12.00 and 24.67 in total.
const PARTS: [&str; 3] = ["500", "700", "1267"];

/// The books after a total was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Books {
    /// What the events told at most.
    total: i64,
    /// Of the commissions of 20.00 and of 6.67.
    clawed: [i64; 2],
    /// What the platform keeps of its fee of 2.00.
    fee: i64,
    state: &'static str,
}

/// 26.67 less a fee of 7.5 % (2.00, from 200.025) are 24.67.
///
/// | came back | of the fee | together | × 2000 ÷ 2667 |
/// |---|---|---|---|
/// | 500 | 200 × 500 ÷ 2467 = 40.54 → 41 | 541 | 405.70 → 406, and 135 |
/// | 1200 | 97.28 → 97 | 1297 | 972.63 → 973, and 324 |
/// | 2467 | 200 | 2667 | 2000, and 667 |
const STEPS: [Books; 4] = [
    Books { total: 0, clawed: [0, 0], fee: 200, state: "completed" },
    Books { total: 500, clawed: [406, 135], fee: 159, state: "partially_reversed" },
    Books { total: 1_200, clawed: [973, 324], fee: 103, state: "partially_reversed" },
    Books { total: 2_467, clawed: [2_000, 667], fee: 0, state: "reversed" },
];

/// A bank with that fee that has paid ada for two sales and had all of it reversed in three parts, and the
/// provider's events about them.
async fn reversed(db: &TestDb) -> (Bank, [Value; 3]) {
    let bank = Bank::open(db).await;
    bank.change("UPDATE program SET platform_fee_bps = 750").await;
    earn(&bank, "ada", "x", 10_000).await;
    earn(&bank, "ada", "y", 3_335).await;
    bank.settle().await;
    bank.dispatch().await;
    bank.tell().await;
    assert_books(&bank, STEPS[0]).await;
    for part in PARTS {
        bank.reverse(part).await;
    }
    let bodies = bank.untold(None, Some("transfer.reversed")).await;
    let events: Vec<Value> = bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
    let totals: Vec<_> = events.iter().map(|event| &event["data"]["object"]["amount_reversed"]).collect();
    assert_eq!(totals, [500, 1_200, 2_467]);
    (bank, events.try_into().unwrap())
}

async fn assert_books(bank: &Bank, expected: Books) {
    const SHARES: &str = "SELECT account, credit_minor - debit_minor FROM balance
        WHERE owner_id = $1 AND currency = 'usd' ORDER BY account";
    // Nothing is owed either way, whatever came back: the cash and what is taken back cancel out.
    bank.assert_balance("ada", [0, 0, 0, 2_467]).await;
    for (sale, earned, clawed) in [("ch_x", 2_000, expected.clawed[0]), ("ch_y", 667, expected.clawed[1])] {
        bank.shop.assert_standing(sale, "paid", [earned, clawed, 0, earned - clawed]).await;
    }
    let mut conn = bank.shop.node.app.db.read().await.unwrap();
    let of_program: Vec<(String, i64)> =
        conn.q(SHARES).bind(bank.shop.owner.id("prog_", "fifth")).all().await.unwrap();
    let share = |name: &str| of_program.iter().find(|(account, _)| account == name).map_or(0, |one| one.1);
    let clawed: i64 = expected.clawed.iter().sum();
    assert_eq!(
        (share("expense"), share("fee_income"), share("returned_cash")),
        (clawed - 2_667, expected.fee, -expected.total),
        "what was earned and not taken back, what is kept of the fee, what came back"
    );
    drop(conn);
    assert_eq!(bank.payouts().await, [expected.state]);
    assert_eq!(bank.findings().await, [""; 0]);
    books::assert_they_add_up(&bank.shop.node.app.db).await;
}

/// The provider's event once more, as a provider tells a total again: under another id.
fn again(event: &Value, number: usize) -> Value {
    let mut event = event.clone();
    event["id"] = json!(format!("{}_{number}", event["id"].as_str().unwrap()));
    event
}

/// Tells the events of these places, one batch each, and holds the books to the greatest total so far.
async fn told_in_order(db: &TestDb, order: &[usize]) {
    let (bank, events) = reversed(db).await;
    let mut step = 0;
    for (number, place) in order.iter().enumerate() {
        let before = entries(&bank).await;
        bank.deliver(&[again(&events[*place], number)]).await;
        let is_news = place + 1 > step;
        step = step.max(place + 1);
        assert_books(&bank, STEPS[step]).await;
        assert_eq!(
            entries(&bank).await != before,
            is_news,
            "{order:?}: event {number} after {before} entries"
        );
    }
    assert_eq!(step, 3, "{order:?} tells everything");
    // The next settlement owes nothing of it, and what is earned then is paid whole.
    earn(&bank, "ada", "z", 1_000).await;
    bank.settle().await;
    bank.dispatch().await;
    bank.tell().await;
    // 2.00 less 7.5 %.
    bank.assert_balance("ada", [0, 0, 0, 2_467 + 185]).await;
    books::assert_they_add_up(&bank.shop.node.app.db).await;
    bank.audit().await;
}

async fn entries(bank: &Bank) -> i64 {
    books::entries(&mut bank.shop.node.app.db.read().await.unwrap()).await
}

on_each_engine! {
    async fn parts_of_a_transfer_that_come_back_in_order_are_taken_back_with_their_share_of_the_fee(db: TestDb) {
        told_in_order(&db, &[0, 1, 2]).await;
    }

    async fn the_last_total_told_first_takes_everything_and_older_ones_nothing(db: TestDb) {
        told_in_order(&db, &[2, 1, 0]).await;
    }

    async fn totals_that_are_told_out_of_order_and_again_are_taken_back_once(db: TestDb) {
        told_in_order(&db, &[1, 0, 1, 0, 2, 1, 2]).await;
    }

    async fn totals_that_arrive_together_come_to_the_greatest(db: TestDb) {
        let (bank, events) = reversed(&db).await;
        let [first, second, third] = &events;
        let batch: Vec<Value> =
            [second, first, second].iter().enumerate().map(|(number, event)| again(event, number)).collect();
        bank.deliver(&batch).await;
        assert_books(&bank, STEPS[2]).await;
        bank.deliver(&[again(third, 3), again(first, 4)]).await;
        assert_books(&bank, STEPS[3]).await;
        bank.audit().await;
    }

    async fn a_refund_between_two_parts_that_come_back_takes_only_the_rest(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.change("UPDATE program SET platform_fee_bps = 1000").await;
        earn(&bank, "ada", "x", 10_000).await;
        bank.settle().await;
        bank.dispatch().await;
        bank.assert_balance("ada", [0, 0, 0, 1_800]).await;
        // 601 of 1800, and 200 × 601 ÷ 1800 = 66.8 of the fee, rounded to 67.
        bank.reverse("601").await;
        bank.tell().await;
        bank.shop.assert_standing("ch_x", "paid", [2_000, 668, 0, 1_332]).await;
        bank.assert_balance("ada", [0, 0, 0, 1_800]).await;
        // Half of the sale is refunded, which takes half of the commission: a debt of 10.00.
        bank.refund("x", 10_000, 5_000).await;
        bank.shop.assert_standing("ch_x", "paid", [2_000, 1_668, 0, 332]).await;
        bank.assert_balance("ada", [0, -1_000, 0, 1_800]).await;
        // The rest comes back: 13.32, of which 3.32 are all that is left to take. The other 10.00 end the debt.
        bank.reverse("1199").await;
        bank.tell().await;
        bank.shop.assert_standing("ch_x", "paid", [2_000, 2_000, 0, 0]).await;
        bank.assert_balance("ada", [0, 0, 0, 1_800]).await;
        // The other half finds nothing left.
        bank.refund("x", 10_000, 4_999).await;
        bank.shop.assert_standing("ch_x", "paid", [2_000, 2_000, 0, 0]).await;
        bank.assert_balance("ada", [0, 0, 0, 1_800]).await;
        assert_eq!(bank.settle().await, [("ada".to_owned(), "nothing_due".to_owned())]);
        assert_eq!(bank.dispatch().await, 0);
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }
}
