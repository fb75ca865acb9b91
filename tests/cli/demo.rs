//! The demonstration.

use std::fs;

use serde_json::{Value, json};

use super::bench::Bench;

#[test]
fn the_demonstration_ends_with_the_amounts_worked_out_by_hand() {
    let bench = Bench::empty();
    let ran = bench.run(&["demo", "--exit"]).ends_with(0);
    let text = String::from_utf8(ran.out).unwrap();
    // Order A: 20 % of 120.00, of which 30.00 were refunded; 5 % of the 18.00 that are left is the fee.
    for part in ["ada", "grace", "24.00 USD", "17.10 USD", "0.90 USD", "Payouts", "Not paid", "Totals"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(ran.err.contains("every payout is the one that was worked out by hand"), "{}", ran.err);
    assert!(ran.err.contains("the provider has moved exactly that"), "{}", ran.err);
    assert_eq!(fs::read_dir(bench.directory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_demonstration_pays_through_lost_answers_short_funds_and_reversals() {
    let told = Bench::empty().json(&["demo", "--exit", "--quiet"], 0);
    let line = |list: &str, affiliate: &str, currency: &str| {
        let lines = told[list].as_array().unwrap().iter();
        let mut own = lines.filter(|line| line["affiliate"] == affiliate && line["currency"] == currency);
        own.next().unwrap_or_else(|| panic!("{told}")).clone()
    };
    let amounts = |line: &Value, names: &[&str]| -> Vec<i64> {
        names.iter().map(|name| line[name].as_i64().unwrap()).collect()
    };

    let waited = line("payouts", "ada", "eur");
    assert_eq!(amounts(&waited, &["due", "fee", "send", "came_back"]), [1_600, 80, 1_520, 0]);
    assert_eq!(waited["story"], "waited for funds; sent under a new key when they came");
    let lost = line("payouts", "grace", "eur");
    assert_eq!(amounts(&lost, &["due", "fee", "send", "came_back"]), [1_000, 50, 950, 0]);
    assert_eq!(lost["story"], "the answer was lost; a look-up found the transfer");
    let back = line("payouts", "ada", "usd");
    assert_eq!(amounts(&back, &["due", "fee", "send", "came_back", "fee_back"]), [1_800, 90, 1_710, 570, 30]);
    assert_eq!(back["state"], "partially_reversed");

    // The conversion shows what was refunded to the buyer, 600, and what came back, 600.
    let sale = line("commissions", "ada", "usd");
    assert_eq!(amounts(&sale, &["earned", "clawed"]), [2_400, 1_200]);
    let balance = line("balances", "ada", "usd");
    assert_eq!(
        amounts(&balance, &["held", "payable", "in_transit", "paid", "fee", "came_back"]),
        [0, 0, 0, 1_710, 60, 570]
    );
    let small = line("not_paid", "ann", "usd");
    assert_eq!((&small["due"], &small["reason"]), (&json!(380), &json!("below_min_payout")));
}
