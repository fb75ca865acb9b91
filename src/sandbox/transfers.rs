//! Transfers to connected accounts, and their reversals.
//!
//! Source: docs.stripe.com/api/transfers, `docs.stripe.com/api/transfer_reversals`,
//! docs.stripe.com/connect/separate-charges-and-transfers.

use serde_json::{Value, json};

use super::{
    accounts,
    error::ApiError,
    world::{Call, Movement, Scope, World, int, merge_metadata, metadata, text},
};

/// Reversals that a transfer shows in itself.
const SHOWN_REVERSALS: usize = 10;

/// A transfer that is about to be made. What it needs has been checked.
pub(super) struct Draft {
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) destination: String,
    pub(super) source_transaction: Option<String>,
    pub(super) transfer_group: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: Value,
    pub(super) source_type: String,
    /// When the money moves, as the charge's does; now where it is `None`.
    pub(super) available_us: Option<i64>,
}

/// `POST /v1/transfers`.
pub(super) fn create(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let form = &call.form;
    let currency = form.get("currency").unwrap_or_default().to_owned();
    let destination = form.get("destination").unwrap_or_default().to_owned();
    accounts::check_destination(world, &destination, "destination")?;
    let funds = match form.get("source_transaction") {
        None => Funds { group: None, available_us: None, left: world.available(&call.scope, &currency) },
        Some(charge) => funds_of_charge(world, &call.scope, charge, &currency)?,
    };
    let amount = match (form.integer("amount"), form.get("source_transaction")) {
        (Some(amount), _) => amount,
        (None, Some(_)) => funds.left,
        (None, None) => return Err(ApiError::missing_parameter("amount")),
    };
    if amount > funds.left {
        if form.get("source_transaction").is_none() {
            return Err(insufficient());
        }
        let message = "Transfers using this transaction as a source must not exceed the source amount.";
        return Err(ApiError::invalid(400, None, message).about("amount"));
    }
    let asked = form.get("transfer_group").map(str::to_owned);
    if let (Some(asked), Some(group)) = (&asked, &funds.group)
        && asked != group
    {
        let message = "The transfer_group must be that of the source_transaction.";
        return Err(ApiError::invalid(400, None, message).about("transfer_group"));
    }
    let draft = Draft {
        amount,
        currency,
        destination,
        source_transaction: form.get("source_transaction").map(str::to_owned),
        transfer_group: asked.or(funds.group),
        description: form.get("description").map(str::to_owned),
        metadata: metadata(form),
        source_type: form.get("source_type").unwrap_or("card").to_owned(),
        available_us: funds.available_us,
    };
    Ok(make(world, call, &call.scope, &draft))
}

/// What a transfer may take.
struct Funds {
    group: Option<String>,
    available_us: Option<i64>,
    left: i64,
}

/// The rest of a charge, whose funds need not be available yet.
fn funds_of_charge(world: &mut World, scope: &Scope, id: &str, currency: &str) -> Result<Funds, ApiError> {
    let Some(charge) = world.objects.get(scope, "charge", id) else {
        return Err(ApiError::no_such("charge", id, "source_transaction").status(400));
    };
    if text(charge, "currency") != currency {
        let message = "The currency must be that of the source_transaction's balance transaction.";
        return Err(ApiError::invalid(400, None, message).about("currency"));
    }
    let amount = int(charge, "amount");
    let group = match charge["transfer_group"].as_str() {
        Some(group) => group.to_owned(),
        // The provider names the group after the payment when nobody has.
        None => format!("group_{}", charge["payment_intent"].as_str().unwrap_or(id)),
    };
    let taken: i64 = world
        .objects
        .newest("transfer")
        .filter(|transfer| transfer.body["source_transaction"] == id)
        .map(|transfer| int(&transfer.body, "amount"))
        .sum();
    let booked = world.objects.newest("balance_transaction").find(|booked| booked.body["source"] == id);
    let available_us =
        booked.map(|booked| int(&booked.body, "available_on").saturating_mul(super::clock::SECOND_US));
    Ok(Funds { group: Some(group), available_us, left: amount - taken })
}

fn insufficient() -> ApiError {
    ApiError::invalid(
        400,
        Some("balance_insufficient"),
        "You have insufficient available funds in your Stripe account.",
    )
}

/// Moves the money and stores the transfer.
pub(super) fn make(world: &mut World, call: &Call, scope: &Scope, draft: &Draft) -> Value {
    let id = world.id("tr_");
    let payment = world.id("py_");
    let movement = |amount, kind, source| Movement {
        currency: &draft.currency,
        amount,
        fee: 0,
        kind,
        source,
        available_us: draft.available_us,
    };
    let booked = world.book(call, scope, &movement(-draft.amount, "transfer", &id));
    world.book(call, &scope.of(&draft.destination), &movement(draft.amount, "payment", &payment));
    let body = json!({
        "id": id,
        "object": "transfer",
        "amount": draft.amount,
        "amount_reversed": 0,
        "balance_transaction": booked,
        "created": world.clock.now_s(),
        "currency": draft.currency,
        "description": draft.description,
        "destination": draft.destination,
        "destination_payment": payment,
        "livemode": scope.livemode,
        "metadata": draft.metadata,
        "reversals": {
            "object": "list", "data": [], "has_more": false, "total_count": 0,
            "url": format!("/v1/transfers/{id}/reversals"),
        },
        "reversed": false,
        "source_transaction": draft.source_transaction,
        "source_type": draft.source_type,
        "transfer_group": draft.transfer_group,
    });
    world.create(call, scope, "transfer.created", body.clone());
    world.emit(call, scope, "transfer.created", &body, None);
    body
}

/// `POST /v1/transfers/{id}`.
pub(super) fn update(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let id = &call.args[0];
    let before = found(world, &call.scope, id)?;
    let body = world.change(call, &call.scope, "transfer.updated", id, |body| {
        if let Some(description) = call.form.last("description") {
            body["description"] = if description.is_empty() { Value::Null } else { json!(description) };
        }
        merge_metadata(&mut body["metadata"], &call.form);
    });
    let mut previous = json!({});
    for field in ["description", "metadata"] {
        if before[field] != body[field] {
            previous[field] = before[field].clone();
        }
    }
    world.emit(call, &call.scope, "transfer.updated", &body, Some(previous));
    Ok(body)
}

/// `POST /v1/transfers/{id}/reversals`.
pub(super) fn reverse(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let transfer = found(world, &call.scope, &call.args[0])?;
    let left = int(&transfer, "amount") - int(&transfer, "amount_reversed");
    if left == 0 {
        let message = format!("Transfer {} is already fully reversed.", call.args[0]);
        return Err(ApiError::invalid(400, None, message));
    }
    let amount = call.form.integer("amount").unwrap_or(left);
    if amount > left {
        let message =
            format!("Reversal amount ({amount}) is greater than what is left of the transfer ({left}).");
        return Err(ApiError::invalid(400, None, message).about("amount"));
    }
    let account = call.scope.of(text(&transfer, "destination"));
    let purse = world.purses.entry((account, text(&transfer, "currency").to_owned())).or_default();
    if purse.available + purse.pending_total() < amount {
        return Err(insufficient());
    }
    let reversal = Reversal {
        amount,
        source_refund: None,
        description: call.form.get("description").map(str::to_owned),
        metadata: metadata(&call.form),
    };
    Ok(take_back(world, call, &transfer, reversal))
}

/// A reversal that is about to be made.
pub(super) struct Reversal {
    pub(super) amount: i64,
    /// The refund it belongs to.
    pub(super) source_refund: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: Value,
}

/// Moves the money back and stores the reversal.
pub(super) fn take_back(world: &mut World, call: &Call, transfer: &Value, reversal: Reversal) -> Value {
    let scope = call.scope.clone();
    let id = world.id("trr_");
    let transfer_id = text(transfer, "id");
    let currency = text(transfer, "currency");
    let movement =
        |amount, kind, source| Movement { currency, amount, fee: 0, kind, source, available_us: None };
    let payment = text(transfer, "destination_payment");
    let account = scope.of(text(transfer, "destination"));
    let booked = world.book(call, &scope, &movement(reversal.amount, "transfer_refund", &id));
    world.book(call, &account, &movement(-reversal.amount, "payment_refund", payment));
    let mut body = json!({
        "id": id,
        "object": "transfer_reversal",
        "amount": reversal.amount,
        "balance_transaction": booked,
        "created": world.clock.now_s(),
        "currency": currency,
        "destination_payment_refund": world.id("pyr_"),
        "metadata": reversal.metadata,
        "source_refund": reversal.source_refund,
        "transfer": transfer_id,
    });
    if let Some(description) = reversal.description {
        body["description"] = json!(description);
    }
    world.create(call, &scope, "transfer_reversal.created", body.clone());
    let after = world.change(call, &scope, "transfer.reversed", transfer_id, |transfer| {
        let reversed = int(transfer, "amount_reversed") + reversal.amount;
        transfer["amount_reversed"] = json!(reversed);
        transfer["reversed"] = json!(reversed == int(transfer, "amount"));
        let list = &mut transfer["reversals"];
        list["total_count"] = json!(int(list, "total_count") + 1);
        if let Some(data) = list["data"].as_array_mut() {
            data.insert(0, body.clone());
            data.truncate(SHOWN_REVERSALS);
        }
        list["has_more"] = json!(int(list, "total_count") > 10);
    });
    let previous = json!({
        "amount_reversed": transfer["amount_reversed"],
        "reversed": transfer["reversed"],
        "reversals": transfer["reversals"],
    });
    world.emit(call, &scope, "transfer.reversed", &after, Some(previous));
    body
}

/// The transfer of a path.
pub(super) fn found(world: &World, scope: &Scope, id: &str) -> Result<Value, ApiError> {
    let transfer = world.objects.get(scope, "transfer", id);
    transfer.cloned().ok_or_else(|| ApiError::no_such("transfer", id, "id"))
}
