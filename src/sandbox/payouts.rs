//! Payouts of a connected account to its bank, which only the control API makes here.
//!
//! Source: docs.stripe.com/api/payouts.

use serde_json::{Value, json};

use super::world::{Call, Movement, Scope, World, int, text};

/// Makes a payout in the given status: `pending`, `in_transit`, `paid`, `failed` or `canceled`.
pub(super) fn make(world: &mut World, scope: &Scope, amount: i64, currency: &str, status: &str) -> Value {
    let call = Call::internal(scope.clone());
    let id = world.id("po_");
    let movement =
        Movement { currency, amount: -amount, fee: 0, kind: "payout", source: &id, available_us: None };
    let booked = world.book(&call, scope, &movement);
    let bank = world.id("ba_");
    let body = json!({
        "id": id,
        "object": "payout",
        "amount": amount,
        "application_fee": null,
        "application_fee_amount": null,
        "arrival_date": world.clock.now_s() + 2 * 24 * 3600,
        "automatic": true,
        "balance_transaction": booked,
        "created": world.clock.now_s(),
        "currency": currency,
        "description": "STRIPE PAYOUT",
        "destination": bank,
        "failure_balance_transaction": null,
        "failure_code": null,
        "failure_message": null,
        "livemode": scope.livemode,
        "metadata": {},
        "method": "standard",
        "original_payout": null,
        "payout_method": null,
        "reconciliation_status": "in_progress",
        "reversed_by": null,
        "source_type": "card",
        "statement_descriptor": null,
        "status": "pending",
        "trace_id": null,
        "type": "bank_account",
    });
    world.create(&call, scope, "payout.created", body.clone());
    world.emit(&call, scope, "payout.created", &body, None);
    if status == "pending" { body } else { proceed(world, scope, &body, status) }
}

/// Brings a payout to another status. The money comes back with one that fails or is canceled.
pub(super) fn proceed(world: &mut World, scope: &Scope, payout: &Value, status: &str) -> Value {
    let call = Call::internal(scope.clone());
    let id = text(payout, "id");
    let is_over = |status: &str| ["failed", "canceled"].contains(&status);
    let returned = is_over(status) && !is_over(text(payout, "status"));
    let booked = returned.then(|| {
        let kind = if status == "failed" { "payout_failure" } else { "payout_cancel" };
        let movement = Movement {
            currency: text(payout, "currency"),
            amount: int(payout, "amount"),
            fee: 0,
            kind,
            source: id,
            available_us: None,
        };
        world.book(&call, scope, &movement)
    });
    let event = match status {
        "paid" => "payout.paid",
        "failed" => "payout.failed",
        "canceled" => "payout.canceled",
        _ => "payout.updated",
    };
    let body = world.change(&call, scope, event, id, |body| {
        body["status"] = json!(status);
        if let Some(booked) = booked {
            body["failure_balance_transaction"] = json!(booked);
        }
        if status == "failed" {
            body["failure_code"] = json!("account_closed");
            body["failure_message"] = json!("The bank account has been closed");
        }
    });
    world.emit(&call, scope, event, &body, Some(json!({ "status": payout["status"] })));
    body
}
