//! Payouts of a connected account to its bank, which only the control API makes here.
//!
//! Source: docs.stripe.com/api/payouts.

use serde::Deserialize;
use serde_json::{Value, json};

use super::world::{Call, Movement, Scope, World, int, text};

/// How far a payout is. One that was paid can still fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Pending,
    InTransit,
    Paid,
    Failed,
    Canceled,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InTransit => "in_transit",
            Self::Paid => "paid",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// What is told when a payout comes this far.
    const fn event(self) -> &'static str {
        match self {
            Self::Pending | Self::InTransit => "payout.updated",
            Self::Paid => "payout.paid",
            Self::Failed => "payout.failed",
            Self::Canceled => "payout.canceled",
        }
    }

    /// The balance transaction that brings the money back.
    const fn returns(self) -> Option<&'static str> {
        match self {
            Self::Failed => Some("payout_failure"),
            Self::Canceled => Some("payout_cancel"),
            Self::Pending | Self::InTransit | Self::Paid => None,
        }
    }
}

/// Makes a payout and brings it to the given status.
pub(super) fn make(world: &mut World, scope: &Scope, amount: i64, currency: &str, status: Status) -> Value {
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
    if status == Status::Pending { body } else { proceed(world, scope, &body, status) }
}

/// Brings a payout to another status. The money comes back with one that fails or is canceled.
pub(super) fn proceed(world: &mut World, scope: &Scope, payout: &Value, status: Status) -> Value {
    let call = Call::internal(scope.clone());
    let id = text(payout, "id");
    let is_returned = !payout["failure_balance_transaction"].is_null();
    let booked = status.returns().filter(|_| !is_returned).map(|kind| {
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
    let body = world.change(&call, scope, status.event(), id, |body| {
        body["status"] = json!(status.as_str());
        if let Some(booked) = booked {
            body["failure_balance_transaction"] = json!(booked);
        }
        if status == Status::Failed {
            body["failure_code"] = json!("account_closed");
            body["failure_message"] = json!("The bank account has been closed");
        }
    });
    world.emit(&call, scope, status.event(), &body, Some(json!({ "status": payout["status"] })));
    body
}
