//! Payment intents and their charges: what a confirmation does, by the test payment method it names.
//!
//! Every capture is automatic. What the customer's bank decides later is told over the control API.
//!
//! Source: `docs.stripe.com/api/payment_intents`, docs.stripe.com/connect/destination-charges,
//! docs.stripe.com/testing.

use serde_json::{Value, json};

use super::{
    accounts,
    clock::SECOND_US,
    error::ApiError,
    transfers,
    world::{Call, Movement, Scope, World, int, merge_metadata, metadata, text},
};

/// How long the money of a charge is pending.
const PENDING_S: i64 = 2 * 24 * 3600;

/// Test payment methods that are declined, with the reason.
const DECLINED: &[(&str, &str)] = &[
    ("pm_card_chargeDeclined", "generic_decline"),
    ("pm_card_visa_chargeDeclined", "generic_decline"),
    ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ("pm_card_chargeCustomerFail", "generic_decline"),
];

/// Test payment methods that ask the customer first.
const ASKING: &[&str] = &[
    "pm_card_authenticationRequired",
    "pm_card_threeDSecure2Required",
    "pm_card_threeDSecureRequired",
    "pm_card_authenticationRequiredOnSetup",
];

/// Test payment methods whose bank takes days.
const SLOW: &[&str] = &["pm_usBankAccount_success", "pm_usBankAccount_processing", "pm_sepa_debit"];

/// What becomes of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Succeeds,
    Asks,
    Processes,
    /// With the provider's word for why.
    Fails(&'static str),
}

/// `POST /v1/payment_intents`.
pub(super) fn create(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let form = &call.form;
    check_connect(world, call)?;
    if form.flag("confirm") && form.get("payment_method").is_none() {
        return Err(missing_method());
    }
    let id = world.id("pi_");
    let secret = world.rng.id(&format!("{id}_secret_"), 25);
    let destination = form.get("transfer_data[destination]");
    let transfer_data = destination.map(|destination| {
        let mut data = json!({ "destination": destination });
        if let Some(amount) = form.integer("transfer_data[amount]") {
            data["amount"] = json!(amount);
        }
        data
    });
    let types = form.list("payment_method_types");
    let is_automatic = types.is_empty();
    let body = json!({
        "id": id,
        "object": "payment_intent",
        "amount": form.integer("amount"),
        "amount_capturable": 0,
        "amount_details": { "tip": {} },
        "amount_received": 0,
        "application": null,
        "application_fee_amount": form.integer("application_fee_amount"),
        "automatic_payment_methods":
            is_automatic.then(|| json!({ "allow_redirects": "always", "enabled": true })),
        "canceled_at": null,
        "cancellation_reason": null,
        "capture_method": "automatic_async",
        "client_secret": secret,
        "confirmation_method": "automatic",
        "created": world.clock.now_s(),
        "currency": form.get("currency"),
        "customer": form.get("customer"),
        "description": form.get("description"),
        "excluded_payment_method_types": null,
        "last_payment_error": null,
        "latest_charge": null,
        "livemode": call.scope.livemode,
        "metadata": metadata(form),
        "next_action": null,
        "on_behalf_of": form.get("on_behalf_of"),
        "payment_method": form.get("payment_method"),
        "payment_method_configuration_details": null,
        "payment_method_options": {},
        "payment_method_types": if is_automatic { vec!["card"] } else { types },
        "processing": null,
        "receipt_email": form.get("receipt_email"),
        "review": null,
        "setup_future_usage": form.get("setup_future_usage"),
        "shipping": null,
        "source": null,
        "statement_descriptor": form.get("statement_descriptor"),
        "statement_descriptor_suffix": form.get("statement_descriptor_suffix"),
        "status":
            if form.get("payment_method").is_some() { "requires_confirmation" } else { "requires_payment_method" },
        "transfer_data": transfer_data,
        "transfer_group": form.get("transfer_group"),
    });
    world.create(call, &call.scope, "payment_intent.created", body.clone());
    world.emit(call, &call.scope, "payment_intent.created", &body, None);
    if form.flag("confirm") { proceed(world, call, &id) } else { Ok(body) }
}

/// The rules about connected accounts (docs.stripe.com/connect/destination-charges).
fn check_connect(world: &World, call: &Call) -> Result<(), ApiError> {
    let form = &call.form;
    let destination = form.get("transfer_data[destination]");
    if let Some(destination) = destination {
        accounts::check_destination(world, destination, "transfer_data[destination]")?;
    }
    if let Some(account) = form.get("on_behalf_of")
        && !accounts::exists(world, account)
    {
        return Err(ApiError::no_such("on_behalf_of", account, "on_behalf_of").status(400));
    }
    let amount = form.integer("amount").unwrap_or_default();
    let refuse = |param: &str, message: &str| Err(ApiError::invalid(400, None, message).about(param));
    let part = form.integer("transfer_data[amount]");
    if part.is_some() && destination.is_none() {
        return refuse("transfer_data[destination]", "transfer_data[amount] needs a destination.");
    }
    if part.is_some_and(|part| part > amount) {
        return refuse("transfer_data[amount]", "transfer_data[amount] must not exceed the amount.");
    }
    let Some(fee) = form.integer("application_fee_amount") else { return Ok(()) };
    if part.is_some() {
        let message = "You may not provide both transfer_data[amount] and application_fee_amount.";
        return refuse("application_fee_amount", message);
    }
    if destination.is_none() && call.scope.account.is_none() {
        let message = "Can only apply an application_fee_amount to a direct or a destination charge.";
        return refuse("application_fee_amount", message);
    }
    if fee > amount {
        return refuse("application_fee_amount", "The application fee must not exceed the amount.");
    }
    Ok(())
}

/// `POST /v1/payment_intents/{id}`.
pub(super) fn update(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    found(world, &call.scope, &call.args[0])?;
    Ok(world.change(call, &call.scope, "payment_intent.updated", &call.args[0], |body| {
        for field in ["description", "receipt_email"] {
            if let Some(value) = call.form.last(field) {
                body[field] = if value.is_empty() { Value::Null } else { json!(value) };
            }
        }
        merge_metadata(&mut body["metadata"], &call.form);
    }))
}

/// `POST /v1/payment_intents/{id}/confirm`.
pub(super) fn confirm(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let id = &call.args[0];
    let intent = found(world, &call.scope, id)?;
    if !["requires_payment_method", "requires_confirmation", "requires_action"]
        .contains(&text(&intent, "status"))
    {
        return Err(unexpected(&intent, "confirm"));
    }
    let method = call.form.get("payment_method").or(intent["payment_method"].as_str()).map(str::to_owned);
    let Some(method) = method else { return Err(missing_method()) };
    world.objects.update(id, |body| body["payment_method"] = json!(method));
    proceed(world, call, id)
}

/// `POST /v1/payment_intents/{id}/cancel`.
pub(super) fn cancel(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let id = &call.args[0];
    let intent = found(world, &call.scope, id)?;
    if ["succeeded", "canceled"].contains(&text(&intent, "status")) {
        return Err(unexpected(&intent, "cancel"));
    }
    let now_s = world.clock.now_s();
    let reason = call.form.get("cancellation_reason");
    let body = world.change(call, &call.scope, "payment_intent.canceled", id, |body| {
        body["status"] = json!("canceled");
        body["canceled_at"] = json!(now_s);
        body["cancellation_reason"] = json!(reason);
        body["next_action"] = Value::Null;
    });
    world.emit(call, &call.scope, "payment_intent.canceled", &body, None);
    Ok(body)
}

/// Does what the payment method stands for.
fn proceed(world: &mut World, call: &Call, id: &str) -> Result<Value, ApiError> {
    let intent = found(world, &call.scope, id)?;
    let method = text(&intent, "payment_method");
    let verdict = match DECLINED.iter().find(|(declined, _)| *declined == method) {
        Some((_, why)) => Verdict::Fails(why),
        None if ASKING.contains(&method) => Verdict::Asks,
        None if SLOW.contains(&method) => Verdict::Processes,
        None => Verdict::Succeeds,
    };
    conclude(world, call, &call.scope, &intent, verdict)
}

/// Brings a payment to its next state. The control API calls it too.
///
/// # Errors
/// The refusal that a declined payment is answered with; the decline itself is stored.
pub(super) fn conclude(
    world: &mut World,
    call: &Call,
    scope: &Scope,
    intent: &Value,
    verdict: Verdict,
) -> Result<Value, ApiError> {
    let id = text(intent, "id");
    let (status, event) = match verdict {
        Verdict::Succeeds => return Ok(succeed(world, call, scope, intent)),
        Verdict::Fails(why) => return Err(fail(world, call, scope, intent, why)),
        Verdict::Asks => ("requires_action", "payment_intent.requires_action"),
        Verdict::Processes => ("processing", "payment_intent.processing"),
    };
    let action = (verdict == Verdict::Asks).then(|| {
        json!({
            "type": "redirect_to_url",
            "redirect_to_url": { "return_url": null, "url": format!("{}/_sandbox/payment_intents/{id}", world.url) },
        })
    });
    let body = world.change(call, scope, event, id, |body| {
        body["status"] = json!(status);
        body["next_action"] = json!(action);
    });
    world.emit(call, scope, event, &body, None);
    Ok(body)
}

fn succeed(world: &mut World, call: &Call, scope: &Scope, intent: &Value) -> Value {
    let id = text(intent, "id");
    let amount = int(intent, "amount");
    let currency = text(intent, "currency");
    let destination = intent["transfer_data"]["destination"].as_str();
    let group = match (intent["transfer_group"].as_str(), destination) {
        (Some(group), _) => Some(group.to_owned()),
        (None, Some(_)) => Some(format!("group_{id}")),
        (None, None) => None,
    };
    let mut charge = charge_of(world, intent, group.as_deref());
    let charge_id = text(&charge, "id").to_owned();
    let available_us = Some(world.clock.now_us() + PENDING_S * SECOND_US);
    // 2.9 % and 30: any fee will do, as long as nobody takes the amount for what arrives.
    let fee = ((amount * 29 + 500) / 1000 + 30).min(amount);
    let movement = |amount, fee, kind, source| Movement { currency, amount, fee, kind, source, available_us };
    world.book(call, scope, &movement(amount, fee, "charge", &charge_id));
    if let Some(destination) = destination {
        let draft = transfers::Draft {
            amount: intent["transfer_data"]["amount"].as_i64().unwrap_or(amount),
            currency: currency.to_owned(),
            destination: destination.to_owned(),
            source_transaction: Some(charge_id.clone()),
            transfer_group: group.clone(),
            description: None,
            metadata: json!({}),
            source_type: "card".to_owned(),
            available_us,
        };
        transfers::make(world, call, scope, &draft);
    }
    let payer = destination.or(scope.account.as_deref());
    if let (Some(fee), Some(payer)) = (intent["application_fee_amount"].as_i64(), payer) {
        let fee_id = world.id("fee_");
        world.book(call, &scope.of(payer), &movement(-fee, 0, "application_fee", &fee_id));
        world.book(call, &scope.above(), &movement(fee, 0, "application_fee", &fee_id));
    }
    charge["transfer_data"] = intent["transfer_data"].clone();
    if let Some(data) = charge["transfer_data"].as_object_mut() {
        data.entry("amount").or_insert(Value::Null);
    }
    world.create(call, scope, "charge.succeeded", charge.clone());
    world.emit(call, scope, "charge.succeeded", &charge, None);
    let body = world.change(call, scope, "payment_intent.succeeded", id, |body| {
        body["status"] = json!("succeeded");
        body["amount_received"] = json!(amount);
        body["latest_charge"] = json!(charge_id);
        body["next_action"] = Value::Null;
        body["last_payment_error"] = Value::Null;
        body["transfer_group"] = json!(group);
    });
    world.emit(call, scope, "payment_intent.succeeded", &body, None);
    body
}

fn fail(world: &mut World, call: &Call, scope: &Scope, intent: &Value, why: &'static str) -> ApiError {
    let id = text(intent, "id");
    let mut charge = charge_of(world, intent, intent["transfer_group"].as_str());
    let charge_id = text(&charge, "id").to_owned();
    for (field, value) in [
        ("amount_captured", json!(0)),
        ("captured", json!(false)),
        ("paid", json!(false)),
        ("status", json!("failed")),
        ("failure_code", json!("card_declined")),
        ("failure_message", json!("Your card was declined.")),
    ] {
        charge[field] = value;
    }
    charge["outcome"] = json!({
        "network_status": "declined_by_network", "reason": why, "risk_level": "normal",
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    });
    world.create(call, scope, "charge.failed", charge.clone());
    world.emit(call, scope, "charge.failed", &charge, None);
    let body = world.change(call, scope, "payment_intent.payment_failed", id, |body| {
        body["status"] = json!("requires_payment_method");
        body["latest_charge"] = json!(charge_id);
        body["payment_method"] = Value::Null;
        body["next_action"] = Value::Null;
        body["last_payment_error"] = json!({
            "charge": charge_id, "code": "card_declined", "decline_code": why,
            "message": "Your card was declined.", "type": "card_error",
        });
    });
    world.emit(call, scope, "payment_intent.payment_failed", &body, None);
    ApiError::declined(why).with("charge", json!(charge_id)).with("payment_intent", body)
}

/// A charge of the whole amount, captured. `application_fee`, `balance_transaction` and the transfer are
/// filled in asynchronously by the provider; here they stay empty, so that nobody comes to need them.
fn charge_of(world: &mut World, intent: &Value, group: Option<&str>) -> Value {
    let id = world.id("ch_");
    let amount = int(intent, "amount");
    let authorization = world.rng.below(900_000) + 100_000;
    let mut charge = json!({
        "id": id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount,
        "amount_refunded": 0,
        "calculated_statement_descriptor": "SANDBOX",
        "captured": true,
        "created": world.clock.now_s(),
        "destination": intent["transfer_data"]["destination"],
        "disputed": false,
        "fraud_details": {},
        "paid": true,
        "payment_intent": intent["id"],
        "radar_options": {},
        "refunded": false,
        "status": "succeeded",
        "transfer_group": group,
        "billing_details": {
            "address": {
                "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null,
            },
            "email": null, "name": null, "phone": null, "tax_id": null,
        },
        "outcome": {
            "advice_code": null, "network_advice_code": null, "network_decline_code": null,
            "network_status": "approved_by_network", "reason": null, "risk_level": "normal", "risk_score": 1,
            "seller_message": "Payment complete.", "type": "authorized",
        },
        "payment_method_details": {
            "card": {
                "amount_authorized": amount, "authorization_code": authorization.to_string(), "brand": "visa",
                "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
                "country": "US", "exp_month": 11, "exp_year": 2030, "fingerprint": "sandbox", "funding": "credit",
                "installments": null, "last4": "4242", "mandate": null, "network": "visa",
                "three_d_secure": null, "wallet": null,
            },
            "type": "card",
        },
    });
    for field in OF_THE_INTENT {
        charge[*field] = intent[*field].clone();
    }
    for field in EMPTY {
        charge[*field] = Value::Null;
    }
    charge
}

/// Fields that a charge has from its payment intent.
const OF_THE_INTENT: &[&str] = &[
    "application_fee_amount",
    "currency",
    "customer",
    "description",
    "livemode",
    "metadata",
    "on_behalf_of",
    "payment_method",
    "receipt_email",
    "statement_descriptor",
    "statement_descriptor_suffix",
];

/// Fields of a charge that are null here.
const EMPTY: &[&str] = &[
    "application",
    "application_fee",
    "balance_transaction",
    "dispute",
    "failure_balance_transaction",
    "failure_code",
    "failure_message",
    "order",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "transfer_data",
];

fn found(world: &World, scope: &Scope, id: &str) -> Result<Value, ApiError> {
    let intent = world.objects.get(scope, "payment_intent", id);
    intent.cloned().ok_or_else(|| ApiError::no_such("payment_intent", id, "intent"))
}

fn missing_method() -> ApiError {
    ApiError::invalid(
        400,
        Some("payment_intent_unexpected_state"),
        "You cannot confirm this PaymentIntent because it's missing a payment method.",
    )
}

fn unexpected(intent: &Value, action: &str) -> ApiError {
    let message = format!(
        "You cannot {action} this PaymentIntent because it has a status of {}.",
        text(intent, "status")
    );
    ApiError::invalid(400, Some("payment_intent_unexpected_state"), message)
        .with("payment_intent", intent.clone())
}
