//! What happens to the sales of a shop, as a provider tells it: generated from a seed.
//!
//! Every sale is a story of its own: whoever referred it and wherever the code stands, money back in
//! parts, refunds that fail later, disputes won and lost, an invoice whose link to its payment comes
//! apart from both. Nothing here knows what the books should say.

use serde_json::{Value, json};

use super::support::shop::{charge, customer, intent, invoice, invoice_payment, refund, stripe};

/// A small generator of numbers (`SplitMix64`): the same seed gives the same traffic on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn amount(&mut self, least: i64, most: i64) -> i64 {
        least + i64::try_from(self.below(u64::try_from(most - least + 1).unwrap())).unwrap()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, usize::try_from(self.below(last as u64 + 1)).unwrap());
        }
    }
}

/// Codes of affiliates, a code of nobody, and the affiliate whose commissions stay held.
const CODES: [&str; 5] = ["ada", "ada", "bob", "cleo", "nobody"];

/// The events of `sales` sales, each sale in the order in which it happened.
pub fn stories(name: &str, sales: usize, rng: &mut Rng) -> Vec<Value> {
    (0..sales).flat_map(|number| story(&format!("{name}{number}"), rng)).collect()
}

/// The deliveries of these events as they arrive: in any order, some of them several times.
pub fn arriving(events: &[Value], rng: &mut Rng) -> Vec<Value> {
    let mut deliveries = events.to_vec();
    for event in events {
        if rng.chance(20) {
            deliveries.push(event.clone());
        }
    }
    rng.shuffle(&mut deliveries);
    deliveries
}

fn story(id: &str, rng: &mut Rng) -> Vec<Value> {
    let amount = rng.amount(500, 90_000);
    let code = rng.pick(&CODES);
    let mut events = if rng.chance(50) { one_off(id, amount, code, rng) } else { renewal(id, amount, code) };
    match rng.below(4) {
        0 => events.extend(refunds(id, amount, rng)),
        1 => events.extend(dispute(id, amount, rng)),
        _ => {}
    }
    events
}

/// A payment with the code on the intent, on the charge, or on the checkout session.
fn one_off(id: &str, amount: i64, code: &str, rng: &mut Rng) -> Vec<Value> {
    let mut events = vec![intent(id, amount, None), charge(id, amount, Some(id))];
    match rng.below(3) {
        0 => events[0]["data"]["object"]["metadata"] = json!({ "referral_code": code }),
        1 => events[1]["data"]["object"]["metadata"] = json!({ "ref": code, "order": id }),
        _ => {
            let session = json!({
                "id": format!("cs_{id}"), "mode": "payment", "payment_status": "paid", "amount_total": amount,
                "currency": "usd", "payment_intent": format!("pi_{id}"), "client_reference_id": code,
            });
            events.push(stripe(&format!("session_{id}"), "checkout.session.completed", &session));
        }
    }
    events
}

/// A bill to a customer who carries the code. Only `invoice_payment.paid` joins the bill and its payment.
fn renewal(id: &str, amount: i64, code: &str) -> Vec<Value> {
    let buyer = format!("cus_{id}");
    vec![
        customer(&buyer, code),
        intent(id, amount, Some(&buyer)),
        charge(id, amount, Some(id)),
        invoice(id, amount, Some(&buyer)),
        invoice_payment(id, id, id),
    ]
}

/// Up to two partial refunds, of which one may fail later, and the running total of the charge.
fn refunds(id: &str, amount: i64, rng: &mut Rng) -> Vec<Value> {
    let part = rng.amount(1, amount / 2);
    let mut events = vec![refund(&format!("{id}a"), id, part)];
    if rng.chance(50) {
        let charge = json!({
            "id": format!("ch_{id}"), "amount": amount, "amount_refunded": part, "currency": "usd",
            "payment_intent": format!("pi_{id}"),
        });
        events.push(stripe(&format!("refunded_{id}"), "charge.refunded", &charge));
    }
    if rng.chance(50) {
        let made = refund(&format!("{id}b"), id, amount - part);
        let mut failed = made["data"]["object"].clone();
        failed["status"] = json!("failed");
        events.push(made);
        if rng.chance(50) {
            events.push(stripe(&format!("refund_failed_{id}"), "refund.failed", &failed));
        }
    }
    events
}

/// A dispute that takes the money, and its end.
fn dispute(id: &str, amount: i64, rng: &mut Rng) -> Vec<Value> {
    let told = |step: &str, status: &str| {
        let object = json!({
            "id": format!("dp_{id}"), "amount": amount, "currency": "usd", "charge": format!("ch_{id}"),
            "payment_intent": format!("pi_{id}"), "status": status,
        });
        let kind = format!("charge.dispute.{step}");
        stripe(&format!("dispute_{step}_{id}"), &kind, &object)
    };
    let mut events = vec![told("created", "needs_response"), told("funds_withdrawn", "under_review")];
    match rng.below(3) {
        0 => events.extend([told("funds_reinstated", "won"), told("closed", "won")]),
        1 => events.push(told("closed", "lost")),
        _ => {}
    }
    events
}

/// The first of many charges of one payment whose sum does not fit 64 bits.
pub fn before_poison() -> Value {
    charge("huge0", i64::MAX - 1, Some("huge"))
}

/// A further charge of that payment: an event that fails whenever it is processed.
pub fn poison(number: usize) -> Value {
    charge(&format!("huge{}", number + 1), i64::MAX - 1, Some("huge"))
}
