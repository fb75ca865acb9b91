//! What a program came to: figures that equal the ledger, ranks that are stable, and nobody but the owner.

use std::collections::BTreeMap;

use remit::{domain::time::Timestamp, store::Db};
use serde_json::{Value, json};

use super::support::{
    TestDb,
    desk::{Desk, click},
    on_each_engine,
    shop::{PAID_AT_S, Shop, refund},
    till::sale,
};

/// The day on which the sales of the tests are paid, 2026-01-01.
const DAY: i64 = PAID_AT_S / 86_400;

/// A sale that was paid later than the others.
fn paid_after(mut event: Value, seconds: i64) -> Value {
    event["created"] = json!(PAID_AT_S + seconds);
    event
}

/// A shop with its API, and the table of clicks.
async fn open(db: &TestDb, terms: &Value) -> (Shop, Desk) {
    let shop = Shop::open_with(&db.db, 64, terms).await;
    let desk = Desk::over(&shop).await;
    clicks(&shop, "ada", DAY, 0).await;
    (shop, desk)
}

async fn clicks(shop: &Shop, affiliate: &str, day: i64, number: i64) {
    let program = shop.owner.id("prog_", "fifth");
    click(&shop.node.app.db, &program, &shop.enrollment(affiliate), day, number).await;
}

/// A small generator (`SplitMix64`), so that a seed names a story for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((mixed ^ (mixed >> 31)) % end).unwrap()
    }
}

/// Sales and refunds of some days, told hours later; some of them twice.
async fn live_through(shop: &Shop, seed: u64) {
    let mut dice = Dice(seed);
    let mut sold: Vec<(String, i64)> = Vec::new();
    for number in 0..40 {
        let id = format!("s{seed}_{number}");
        if dice.below(3) > 0 || sold.is_empty() {
            let who = ["ada", "bob", "nobody"][usize::try_from(dice.below(3)).unwrap()];
            let currency = ["usd", "eur", "jpy"][usize::try_from(dice.below(3)).unwrap()];
            let amount = 1 + dice.below(100_000);
            let event = paid_after(sale(who, &id, amount, currency), dice.below(6 * 86_400));
            shop.tell_and_process(std::slice::from_ref(&event)).await;
            shop.deliver("a", &event).await;
            sold.push((format!("{id} {currency}"), amount));
        } else {
            let (of, amount) = &sold[usize::try_from(dice.below(sold.len() as u64)).unwrap()];
            let (of, currency) = of.split_once(' ').unwrap();
            let refunded = 1 + dice.below(u64::try_from(*amount).unwrap());
            let mut event = refund(&id, of, refunded);
            event["data"]["object"]["currency"] = json!(currency);
            shop.tell_and_process(&[event]).await;
        }
        let later = shop.node.app.now().plus_secs(dice.below(40_000));
        shop.node.pass_time(later).await;
    }
}

/// Earned and clawed by day and currency, added up from the raw lines of the ledger.
async fn plain_sums(db: &Db) -> BTreeMap<(i64, String), [i64; 2]> {
    const SQL: &str = "SELECT n.created_at_us, n.currency, n.kind, p.side, p.amount_minor
        FROM posting p JOIN entry n ON n.id = p.entry_id WHERE p.account = 'expense'";
    let rows: Vec<(i64, String, String, String, i64)> = db.read().await.unwrap().q(SQL).all().await.unwrap();
    let mut sums: BTreeMap<(i64, String), [i64; 2]> = BTreeMap::new();
    for (at, currency, kind, side, amount) in rows {
        let cost = if side == "debit" { amount } else { -amount };
        let sum = sums.entry((at / 86_400_000_000, currency)).or_default();
        match kind.as_str() {
            "clawback" | "reinstatement" => sum[1] -= cost,
            _ => sum[0] += cost,
        }
    }
    sums
}

/// What was sold and refunded by day of payment and currency, and how often, from the raw rows.
async fn plain_sales(db: &Db) -> BTreeMap<(i64, String), [i64; 3]> {
    const SQL: &str = "SELECT s.paid_at_us, s.currency, s.amount_minor, s.refunded_minor
        FROM conversion v JOIN sale s ON s.id = v.sale_id";
    let rows: Vec<(i64, String, i64, i64)> = db.read().await.unwrap().q(SQL).all().await.unwrap();
    let mut sums: BTreeMap<(i64, String), [i64; 3]> = BTreeMap::new();
    for (at, currency, amount, refunded) in rows {
        let sum = sums.entry((at / 86_400_000_000, currency)).or_default();
        *sum = [sum[0] + 1, sum[1] + amount, sum[2] + refunded.min(amount)];
    }
    sums
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// What the programs owe for, by currency.
const BALANCES: &str = "SELECT debit_minor - credit_minor, currency FROM balance WHERE account = 'expense'";

on_each_engine! {
    async fn the_figures_of_random_stories_are_the_plain_sums_of_the_ledger(db: TestDb) {
        const SEED: u64 = 20_260_101;
        println!("seed {SEED}");
        let (shop, desk) = open(&db, &json!({})).await;
        for story in 0..2 {
            live_through(&shop, SEED + story).await;
        }
        let path = format!("{}/analytics?from=2025-12-20&to=2026-12-01", desk.program);
        let shown = desk.data(&desk.owner, &path).await;
        let (mut money, mut sales) = (BTreeMap::new(), BTreeMap::new());
        let mut totals: BTreeMap<String, [i64; 5]> = BTreeMap::new();
        let mut conversions = 0;
        for (index, day) in shown["days"].as_array().unwrap().iter().enumerate() {
            let at = DAY - 12 + i64::try_from(index).unwrap();
            assert_eq!(day["date"], Timestamp::from_secs(at * 86_400).to_string()[..10]);
            conversions += number(&day["conversions"]);
            for row in day["currencies"].as_array().unwrap() {
                let currency = row["currency"].as_str().unwrap().to_owned();
                let of = |field: &str| number(&row[field]);
                assert_eq!(of("net_cents"), of("earned_cents") - of("clawed_cents"));
                let amounts = ["earned_cents", "clawed_cents", "net_cents", "gross_cents", "refunded_cents"].map(of);
                let total = totals.entry(currency.clone()).or_default();
                for (sum, amount) in total.iter_mut().zip(amounts) {
                    *sum += amount;
                }
                if [of("earned_cents"), of("clawed_cents")] != [0, 0] {
                    money.insert((at, currency.clone()), [of("earned_cents"), of("clawed_cents")]);
                }
                if of("gross_cents") > 0 {
                    sales.insert((at, currency), [of("gross_cents"), of("refunded_cents")]);
                }
            }
        }
        let mut posted = plain_sums(&db.db).await;
        posted.retain(|_, sums| *sums != [0, 0]);
        assert_eq!(money, posted);
        assert!(posted.values().any(|sums| sums[1] > 0) && posted.len() > 5, "the stories say something");
        let sold = plain_sales(&db.db).await;
        assert_eq!(conversions, sold.values().map(|sums| sums[0]).sum::<i64>());
        assert_eq!(number(&shown["totals"]["conversions"]), conversions);
        let amounts: BTreeMap<_, _> = sold.into_iter().map(|(key, sums)| (key, [sums[1], sums[2]])).collect();
        assert_eq!(sales, amounts);
        for row in shown["totals"]["currencies"].as_array().unwrap() {
            let amounts = ["earned_cents", "clawed_cents", "net_cents", "gross_cents", "refunded_cents"]
                .map(|field| number(&row[field]));
            assert_eq!(totals.remove(row["currency"].as_str().unwrap()), Some(amounts));
        }
        assert!(totals.is_empty(), "every currency of a day is in the totals: {totals:?}");

        // The balance of the program's expense is what all of it cost.
        let balances: Vec<(i64, String)> = db.db.read().await.unwrap().q(BALANCES).all().await.unwrap();
        for (net, currency) in balances {
            let rows = shown["totals"]["currencies"].as_array().unwrap();
            let row = rows.iter().find(|row| row["currency"] == *currency).unwrap();
            assert_eq!(number(&row["net_cents"]), net, "{currency}");
        }
    }

    async fn box_210_clicks_feed_earnings_per_click_and_the_conversion_rate(db: TestDb) {
        let (shop, desk) = open(&db, &json!({})).await;
        let path = format!("{}/analytics?from=2026-01-01&to=2026-01-04", desk.program);
        let empty = desk.data(&desk.owner, &path).await;
        assert_eq!(empty["totals"], json!({
            "clicks": 0, "conversions": 0, "conversion_rate_bps": null, "currencies": [],
            "by_status": {"pending": 0, "approved": 0, "paid": 0, "rejected": 0, "clawed_back": 0},
        }));
        assert_eq!((&empty["from"], &empty["to"]), (&json!("2026-01-01T00:00:00Z"), &json!("2026-01-04T00:00:00Z")));
        shop.tell_and_process(&[
            sale("ada", "1", 10_001, "usd"), sale("ada", "2", 500, "eur"), paid_after(sale("bob", "3", 1_000, "usd"), 86_400),
        ]).await;
        let before_clicks = desk.data(&desk.owner, &path).await;
        assert_eq!(before_clicks["totals"]["conversion_rate_bps"], Value::Null, "nothing is divided by no clicks");
        assert_eq!(before_clicks["totals"]["currencies"][1]["epc_cents"], Value::Null);
        clicks(&shop, "ada", DAY, 5).await;
        clicks(&shop, "bob", DAY + 1, 2).await;
        clicks(&shop, "bob", DAY + 3, 100).await;
        shop.tell_and_process(&[refund("1", "1", 3_333)]).await;
        let shown = desk.data(&desk.owner, &path).await;
        assert_eq!(shown["totals"], json!({
            "clicks": 7, "conversions": 3, "conversion_rate_bps": 4_286,
            "by_status": {"pending": 0, "approved": 3, "paid": 0, "rejected": 0, "clawed_back": 0},
            "currencies": [
                {"currency": "eur", "gross_cents": 500, "refunded_cents": 0, "disputed_cents": 0, "refund_rate_bps": 0,
                 "earned_cents": 100, "clawed_cents": 0, "net_cents": 100, "epc_cents": 14},
                {"currency": "usd", "gross_cents": 11_001, "refunded_cents": 3_333, "disputed_cents": 0,
                 "refund_rate_bps": 3_030, "earned_cents": 2_200, "clawed_cents": 667, "net_cents": 1_533, "epc_cents": 314},
            ],
        }));
        let days = shown["days"].as_array().unwrap();
        let dates: Vec<&str> = days.iter().map(|day| day["date"].as_str().unwrap()).collect();
        assert_eq!(dates, ["2026-01-01", "2026-01-02", "2026-01-03"]);
        assert_eq!((&days[0]["clicks"], &days[1]["clicks"], &days[2]["clicks"]), (&json!(5), &json!(2), &json!(0)));
        assert_eq!((&days[1]["conversions"], &days[1]["conversion_rate_bps"]), (&json!(1), &json!(5_000)));
        assert_eq!(days[2]["currencies"].as_array().unwrap().len(), 2, "a day without anything has its zeros");
        assert_eq!((&days[2]["currencies"][1]["earned_cents"], &days[2]["currencies"][1]["refund_rate_bps"]), (&json!(0), &Value::Null));
        let leaders = shown["leaderboard"].as_array().unwrap();
        assert_eq!((&leaders[0]["name"], &leaders[0]["conversions"], &leaders[0]["earned_cents"]), (&json!("ada"), &json!(2), &Value::Null));

        let mine = desk.data(&desk.ada, "/v1/affiliate/me/stats?from=2026-01-01&to=2026-01-04").await;
        assert_eq!(mine, json!({
            "from": "2026-01-01T00:00:00Z", "to": "2026-01-04T00:00:00Z", "clicks": 5, "conversions": 2,
            "conversion_rate_bps": 4_000,
            "currencies": [
                {"currency": "eur", "earned_cents": 100, "clawed_cents": 0, "net_cents": 100, "epc_cents": 20},
                {"currency": "usd", "earned_cents": 2_000, "clawed_cents": 667, "net_cents": 1_333, "epc_cents": 400},
            ],
        }));
    }

    async fn what_was_rejected_is_no_conversion_and_what_was_taken_back_is_one(db: TestDb) {
        let (shop, desk) = open(&db, &json!({"approval_mode": "manual"})).await;
        shop.tell_and_process(&[
            sale("ada", "1", 1_000, "usd"), sale("ada", "2", 1_000, "usd"), sale("ada", "3", 1_000, "usd"),
        ]).await;
        shop.decide(remit::domain::commission::DecisionKind::Reject, "ch_1", "ada").await.unwrap();
        shop.decide(remit::domain::commission::DecisionKind::Approve, "ch_2", "ada").await.unwrap();
        shop.tell_and_process(&[refund("2", "2", 1_000)]).await;
        let path = format!("{}/analytics?from=2026-01-01&to=2026-01-02", desk.program);
        let totals = desk.data(&desk.owner, &path).await["totals"].take();
        assert_eq!(totals["by_status"],
            json!({"pending": 1, "approved": 0, "paid": 0, "rejected": 1, "clawed_back": 1}));
        assert_eq!((&totals["conversions"], &totals["currencies"][0]["gross_cents"]), (&json!(2), &json!(2_000)));
        assert_eq!(totals["currencies"][0]["refund_rate_bps"], 5_000);
    }

    async fn leaders_come_by_what_is_asked_for_and_equal_ones_in_a_stable_order(db: TestDb) {
        let (shop, desk) = open(&db, &json!({})).await;
        shop.tell_and_process(&[
            sale("ada", "1", 1_000, "usd"), sale("ada", "2", 1_000, "usd"), sale("bob", "3", 5_000, "usd"),
            sale("bob", "4", 100, "eur"),
        ]).await;
        shop.tell_and_process(&[refund("3", "3", 4_500)]).await;
        clicks(&shop, "bob", DAY, 9).await;
        let leaders = async |query: &str| {
            let path = format!("{}/leaderboard?from=2026-01-01&to=2026-01-03{query}", desk.program);
            let shown = desk.data(&desk.owner, &path).await;
            let rows = shown["leaders"].as_array().unwrap().iter();
            rows.map(|row| (row["rank"].as_i64().unwrap(), row["name"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
        };
        let rank = |place: i64, name: &str| (place, name.to_owned());
        assert_eq!(leaders("&by=earned&currency=usd").await, [rank(1, "bob"), rank(2, "ada")]);
        assert_eq!(leaders("&by=net&currency=usd").await, [rank(1, "ada"), rank(2, "bob")]);
        assert_eq!(leaders("").await, [rank(1, "ada"), rank(1, "bob")], "both brought two");
        assert_eq!(leaders("&by=clicks").await, [rank(1, "bob")]);
        assert_eq!(leaders("&by=earned&currency=jpy").await, []);
        assert_eq!(leaders("&by=conversions&limit=1").await, [rank(1, "ada")]);
        let amounts = desk.data(&desk.owner, &format!("{}/leaderboard?from=2026-01-01&to=2026-01-03&by=net&currency=USD", desk.program)).await;
        let bob = &amounts["leaders"][1];
        assert_eq!((&bob["earned_cents"], &bob["clawed_cents"], &bob["net_cents"], &bob["currency"]),
            (&json!(1_000), &json!(900), &json!(100), &json!("usd")));
        for (query, code) in [
            ("by=earned", "MISSING_CURRENCY"), ("by=net", "MISSING_CURRENCY"), ("by=luck", "INVALID_BY"),
            ("limit=0", "INVALID_LIMIT"), ("limit=101", "INVALID_LIMIT"), ("currency=dollars", "INVALID_CURRENCY"),
            ("from=yesterday", "INVALID_FROM"), ("from=2026-01-01T01:00:00Z", "INVALID_FROM"),
            ("from=2026-01-02&to=2026-01-02", "INVALID_TO"), ("from=2020-01-01&to=2026-01-02", "INVALID_TO"),
        ] {
            let refused = desk.refusal(&desk.owner, &format!("{}/leaderboard?{query}", desk.program)).await;
            assert_eq!(refused, (400, code.to_owned()), "{query}");
        }
    }

    async fn box_258_analytics_and_leaderboard_are_for_the_owner_alone(db: TestDb) {
        let (shop, desk) = open(&db, &json!({})).await;
        shop.tell_and_process(&[sale("ada", "1", 1_000, "usd")]).await;
        let missing = desk.text(&desk.ada, "/v1/admin/affiliate/programs/prog_missing/analytics").await;
        assert_eq!(missing.0, 404);
        for what in ["analytics", "leaderboard", "exports/conversions", "exports/commissions", "exports/payouts"] {
            for key in [&desk.ada, &desk.bob] {
                assert_eq!(desk.text(key, &format!("{}/{what}", desk.program)).await, missing, "{what}");
            }
            for key in [&desk.owner, &desk.api.operator] {
                assert_eq!(desk.text(key, &format!("{}/{what}", desk.program)).await.0, 200, "{what}");
            }
        }
    }
}
