//! Refunds of charges, with the transfer and the application fee where asked for.
//!
//! A refund succeeds at once; `failed` is told over the control API.
//!
//! Source: docs.stripe.com/api/refunds.

use serde_json::{Value, json};

use super::{
    error::ApiError,
    transfers,
    world::{Call, Movement, Scope, World, int, metadata, text},
};

/// `POST /v1/refunds`.
pub(super) fn create(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let charge = charge_of(world, call)?;
    let charge_id = text(&charge, "id");
    let left = int(&charge, "amount_captured") - int(&charge, "amount_refunded");
    if left == 0 {
        let message = format!("Charge {charge_id} has already been refunded.");
        return Err(ApiError::invalid(400, Some("charge_already_refunded"), message));
    }
    let amount = call.form.integer("amount").unwrap_or(left);
    if amount > left {
        let message =
            format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left})");
        return Err(ApiError::invalid(400, None, message).about("amount"));
    }
    let transfer = transfer_of(world, &call.scope, charge_id);
    if call.form.flag("reverse_transfer") && transfer.is_none() {
        let message = "The charge has no transfer that could be reversed.";
        return Err(ApiError::invalid(400, None, message).about("reverse_transfer"));
    }

    let id = world.id("re_");
    let currency = text(&charge, "currency").to_owned();
    let movement = |amount, kind, source| Movement {
        currency: &currency,
        amount,
        fee: 0,
        kind,
        source,
        available_us: None,
    };
    let booked = world.book(call, &call.scope, &movement(-amount, "refund", &id));
    let refunded = int(&charge, "amount_refunded") + amount;
    let reversal = transfer.filter(|_| call.form.flag("reverse_transfer")).map(|transfer| {
        // In proportion to the whole refunded so far, so that rounding never adds up.
        let part = share(int(&transfer, "amount"), refunded, int(&charge, "amount"));
        let reversal = transfers::Reversal {
            amount: part - int(&transfer, "amount_reversed"),
            source_refund: Some(id.clone()),
            description: None,
            metadata: json!({}),
        };
        transfers::take_back(world, call, &transfer, reversal)
    });
    if call.form.flag("refund_application_fee") {
        return_fee(world, call, &charge, refunded);
    }

    let body = json!({
        "id": id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": booked,
        "charge": charge_id,
        "created": world.clock.now_s(),
        "currency": currency,
        "destination_details": {
            "card": {
                "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund",
            },
            "type": "card",
        },
        "metadata": metadata(&call.form),
        "payment_intent": charge["payment_intent"],
        "reason": call.form.get("reason"),
        "receipt_number": null,
        "source_transfer_reversal": null,
        "status": "succeeded",
        "transfer_reversal": reversal.as_ref().map(|reversal| reversal["id"].clone()),
    });
    world.create(call, &call.scope, "refund.created", body.clone());
    let after = world.change(call, &call.scope, "charge.refunded", charge_id, |charge| {
        charge["amount_refunded"] = json!(refunded);
        charge["refunded"] = json!(refunded == int(charge, "amount_captured"));
    });
    world.emit(call, &call.scope, "refund.created", &body, None);
    let previous = json!({ "amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"] });
    world.emit(call, &call.scope, "charge.refunded", &after, Some(previous));
    Ok(body)
}

/// The customer's bank sent the money back: the refund fails after all, and the charge is paid again.
pub(super) fn fail(world: &mut World, scope: &Scope, id: &str) -> Option<Value> {
    let refund = world.objects.get(scope, "refund", id)?.clone();
    if text(&refund, "status") == "failed" {
        return Some(refund);
    }
    let call = Call::internal(scope.clone());
    let amount = int(&refund, "amount");
    let movement = Movement {
        currency: text(&refund, "currency"),
        amount,
        fee: 0,
        kind: "refund_failure",
        source: id,
        available_us: None,
    };
    let booked = world.book(&call, scope, &movement);
    let body = world.change(&call, scope, "refund.failed", id, |refund| {
        refund["status"] = json!("failed");
        refund["failure_reason"] = json!("expired_or_canceled_card");
        refund["failure_balance_transaction"] = json!(booked);
    });
    world.objects.update(text(&refund, "charge"), |charge| {
        charge["amount_refunded"] = json!(int(charge, "amount_refunded") - amount);
        charge["refunded"] = json!(false);
    });
    world.emit(&call, scope, "refund.failed", &body, Some(json!({ "status": refund["status"] })));
    Some(body)
}

/// The charge that `charge` or `payment_intent` names.
fn charge_of(world: &World, call: &Call) -> Result<Value, ApiError> {
    let (id, param) = match (call.form.get("charge"), call.form.get("payment_intent")) {
        (Some(charge), _) => (charge.to_owned(), "charge"),
        (None, Some(intent)) => {
            let Some(found) = world.objects.get(&call.scope, "payment_intent", intent) else {
                return Err(ApiError::no_such("payment_intent", intent, "payment_intent").status(400));
            };
            (text(found, "latest_charge").to_owned(), "payment_intent")
        }
        (None, None) => return Err(ApiError::missing_parameter("charge")),
    };
    match world.objects.get(&call.scope, "charge", &id) {
        Some(charge) if charge["paid"] == true => Ok(charge.clone()),
        Some(_) => Err(ApiError::invalid(400, None, "The charge did not succeed.").about(param)),
        None => Err(ApiError::no_such("charge", &id, param).status(400)),
    }
}

/// The transfer that a destination charge made.
fn transfer_of(world: &World, scope: &Scope, charge: &str) -> Option<Value> {
    let is_of_charge = |body: &Value| body["source_transaction"] == charge;
    let mut transfers = world.objects.newest("transfer").filter(|transfer| transfer.scope == *scope);
    transfers.find(|transfer| is_of_charge(&transfer.body)).map(|transfer| transfer.body.clone())
}

fn return_fee(world: &mut World, call: &Call, charge: &Value, refunded: i64) {
    let payer = charge["destination"].as_str().or(call.scope.account.as_deref());
    let (Some(fee), Some(payer)) = (charge["application_fee_amount"].as_i64(), payer) else { return };
    let whole = int(charge, "amount");
    let part = share(fee, refunded, whole) - share(fee, int(charge, "amount_refunded"), whole);
    let movement = |amount| Movement {
        currency: text(charge, "currency"),
        amount,
        fee: 0,
        kind: "application_fee_refund",
        source: text(charge, "id"),
        available_us: None,
    };
    world.book(call, &call.scope.of(payer), &movement(part));
    world.book(call, &call.scope.above(), &movement(-part));
}

/// `amount` × `part` / `whole`, rounded half up. Amounts have twelve digits at most, so the product fits
/// into 128 bits with ease.
fn share(amount: i64, part: i64, whole: i64) -> i64 {
    let (amount, part, whole) = (i128::from(amount), i128::from(part), i128::from(whole.max(1)));
    i64::try_from((2 * amount * part + whole) / (2 * whole)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_whole_add_up_to_it() {
        assert_eq!(share(1000, 1, 3) + (share(1000, 2, 3) - share(1000, 1, 3)), share(1000, 2, 3));
        assert_eq!((share(1000, 3, 3), share(5, 1, 2), share(0, 1, 2)), (1000, 3, 0));
    }
}
