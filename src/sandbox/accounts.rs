//! Connected accounts, and the links that lead through their onboarding.
//!
//! An account belongs to both modes here; with the provider it belongs to one. What it owns (money,
//! charges, payouts) is kept apart by mode as usual.
//!
//! Source: docs.stripe.com/api/accounts, `docs.stripe.com/api/account_links`.

use serde_json::{Value, json};

use super::{
    clock::SECOND_US,
    error::ApiError,
    world::{Call, Scope, World, metadata, text},
};

/// How long an account link can be used.
const LINK_S: i64 = 300;

/// What is not visible in an account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// Closed, or it revoked the platform's access.
    pub(super) is_gone: bool,
    /// Transfers to it are refused although the capability is active.
    pub(super) refuses_transfers: bool,
}

/// Where an account link leads.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) account: String,
    pub(super) refresh_url: String,
    pub(super) return_url: String,
    pub(super) expires_us: i64,
}

/// How an account is made.
pub(super) struct Draft {
    pub(super) id: Option<String>,
    /// `express`, `custom` or `standard`.
    pub(super) kind: String,
    pub(super) country: String,
    pub(super) email: Option<String>,
    pub(super) business_type: Option<String>,
    pub(super) default_currency: String,
    pub(super) metadata: Value,
    /// Whether the owner has answered everything.
    pub(super) is_onboarded: bool,
}

/// `POST /v1/accounts`.
pub(super) fn create(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let form = &call.form;
    let has_controller = form.iter().any(|(name, _)| name.starts_with("controller["));
    if has_controller && form.get("type").is_some() {
        let message = "You may only specify one of these parameters: type, controller.";
        return Err(ApiError::invalid(400, None, message).about("type"));
    }
    let kind = form.get("type").unwrap_or(match form.get("controller[stripe_dashboard][type]") {
        Some("express") => "express",
        Some("none") => "custom",
        _ => "standard",
    });
    let draft = Draft {
        id: None,
        kind: kind.to_owned(),
        country: form.get("country").unwrap_or("US").to_owned(),
        email: form.get("email").map(str::to_owned),
        business_type: form.get("business_type").map(str::to_owned),
        default_currency: form.get("default_currency").unwrap_or("usd").to_owned(),
        metadata: metadata(form),
        is_onboarded: false,
    };
    Ok(make(world, call, draft))
}

/// Stores a new account.
pub(super) fn make(world: &mut World, call: &Call, draft: Draft) -> Value {
    let id = draft.id.unwrap_or_else(|| world.rng.id("acct_1", 15));
    let due = if draft.is_onboarded { json!([]) } else { json!(["external_account", "tos_acceptance.date"]) };
    let requirements = |disabled: Value, due: &Value| {
        json!({
            "alternatives": [], "current_deadline": null, "currently_due": due, "disabled_reason": disabled,
            "errors": [], "eventually_due": due, "past_due": [], "pending_verification": [],
        })
    };
    let disabled = if draft.is_onboarded { Value::Null } else { json!("requirements.past_due") };
    let body = json!({
        "id": id,
        "object": "account",
        "business_profile": {
            "mcc": null, "name": null, "product_description": null, "support_address": null,
            "support_email": null, "support_phone": null, "support_url": null, "url": null,
        },
        "business_type": draft.business_type,
        "capabilities": { "transfers": if draft.is_onboarded { "active" } else { "inactive" } },
        "charges_enabled": draft.is_onboarded,
        "controller": {
            "fees": { "payer": "application_express" },
            "is_controller": true,
            "losses": { "payments": "application" },
            "requirement_collection": "stripe",
            "stripe_dashboard": { "type": if draft.kind == "custom" { "none" } else { draft.kind.as_str() } },
            "type": "application",
        },
        "country": draft.country,
        "created": world.clock.now_s(),
        "default_currency": draft.default_currency,
        "details_submitted": draft.is_onboarded,
        "email": draft.email,
        "external_accounts": {
            "object": "list", "data": [], "has_more": false, "total_count": 0,
            "url": format!("/v1/accounts/{id}/external_accounts"),
        },
        "future_requirements": requirements(Value::Null, &json!([])),
        "login_links": {
            "object": "list", "data": [], "has_more": false, "total_count": 0,
            "url": format!("/v1/accounts/{id}/login_links"),
        },
        "metadata": draft.metadata,
        "payouts_enabled": draft.is_onboarded,
        "requirements": requirements(disabled, &due),
        "settings": {
            "bacs_debit_payments": {},
            "branding": { "icon": null, "logo": null, "primary_color": null, "secondary_color": null },
            "card_issuing": { "tos_acceptance": { "date": null, "ip": null } },
            "card_payments": {
                "decline_on": { "avs_failure": false, "cvc_failure": false },
                "statement_descriptor_prefix": null, "statement_descriptor_prefix_kana": null,
                "statement_descriptor_prefix_kanji": null,
            },
            "dashboard": { "display_name": null, "timezone": "Etc/UTC" },
            "payments": {
                "statement_descriptor": null, "statement_descriptor_kana": null,
                "statement_descriptor_kanji": null,
            },
            "payouts": {
                "debit_negative_balances": true,
                "schedule": { "delay_days": 2, "interval": "daily" },
                "statement_descriptor": null,
            },
            "sepa_debit_payments": {},
        },
        "tos_acceptance": { "date": null },
        "type": draft.kind,
    });
    world.accounts.insert(id, Flags::default());
    world.create(call, &call.scope.above(), "account.created", body.clone());
    body
}

/// `POST /v1/account_links`.
pub(super) fn create_link(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let account = call.form.get("account").unwrap_or_default();
    if world.objects.any("account", account).is_none() {
        return Err(ApiError::no_such("account", account, "account").status(400));
    }
    for url in ["refresh_url", "return_url"] {
        if call.form.get(url).is_none() {
            return Err(ApiError::missing_parameter(url));
        }
    }
    let now_us = world.clock.now_us();
    let token = world.rng.id("", 24);
    let url_of = |name: &str| call.form.get(name).unwrap_or_default().to_owned();
    let visit = Visit {
        account: account.to_owned(),
        refresh_url: url_of("refresh_url"),
        return_url: url_of("return_url"),
        expires_us: now_us + LINK_S * SECOND_US,
    };
    world.visits.insert(token.clone(), visit);
    let body = json!({
        "object": "account_link",
        "created": world.clock.now_s(),
        "expires_at": world.clock.now_s() + LINK_S,
        "url": format!("{}/_sandbox/onboarding/{account}/{token}", world.url),
    });
    world.effect(call, &call.scope, "account_link.created", &json!({ "account": account }));
    Ok(body)
}

/// Somebody follows an account link; returns where the browser goes next. The first visit in time
/// answers everything that is due.
pub(super) fn visit(world: &mut World, account: &str, token: &str) -> Option<String> {
    let visit = world.visits.get(token).filter(|visit| visit.account == account)?.clone();
    if visit.expires_us <= world.clock.now_us() {
        return Some(visit.refresh_url);
    }
    world.visits.remove(token);
    let change = json!({
        "transfers": "active", "charges_enabled": true, "payouts_enabled": true, "details_submitted": true,
    });
    update(world, account, false, &change);
    Some(visit.return_url)
}

/// Changes what the control API names: `transfers` (`active`, `inactive`, `pending`), `charges_enabled`,
/// `payouts_enabled`, `details_submitted`, `disabled_reason`. Tells `account.updated`.
pub(super) fn update(world: &mut World, id: &str, livemode: bool, change: &Value) -> Option<Value> {
    let before = world.objects.any("account", id)?.body.clone();
    let platform = Scope::platform(livemode);
    let call = Call::internal(platform.clone());
    let body = world.change(&call, &platform, "account.updated", id, |body| {
        if let Some(state) = change["transfers"].as_str() {
            body["capabilities"]["transfers"] = json!(state);
        }
        for flag in ["charges_enabled", "payouts_enabled", "details_submitted"] {
            if let Some(value) = change[flag].as_bool() {
                body[flag] = json!(value);
            }
        }
        if let Some(reason) = change.get("disabled_reason") {
            body["requirements"]["disabled_reason"] = reason.clone();
        }
        if body["details_submitted"] == true && body["payouts_enabled"] == true {
            for due in ["currently_due", "eventually_due", "past_due"] {
                body["requirements"][due] = json!([]);
            }
            if change.get("disabled_reason").is_none() {
                body["requirements"]["disabled_reason"] = Value::Null;
            }
        }
    });
    let mut previous = json!({});
    for field in ["capabilities", "charges_enabled", "payouts_enabled", "details_submitted", "requirements"] {
        if before[field] != body[field] {
            previous[field] = before[field].clone();
        }
    }
    world.emit(&call, &platform.of(id), "account.updated", &body, Some(previous));
    Some(body)
}

/// Closes an account, or takes the platform's access away: the same to us.
pub(super) fn disconnect(world: &mut World, id: &str, livemode: bool) {
    let platform = Scope::platform(livemode);
    let call = Call::internal(platform.clone());
    world.accounts.entry(id.to_owned()).or_default().is_gone = true;
    let application = json!({ "id": "ca_sandbox", "object": "application", "name": "sandbox" });
    world.effect(&call, &platform, "account.disconnected", &json!({ "id": id, "object": "account" }));
    world.emit(&call, &platform.of(id), "account.application.deauthorized", &application, None);
}

/// Refuses a destination that cannot be paid.
pub(super) fn check_destination(world: &World, id: &str, param: &str) -> Result<(), ApiError> {
    let Some(account) = world.objects.any("account", id) else {
        let message = format!("No such destination: '{id}'");
        return Err(ApiError::invalid(400, Some("no_account"), message).about(param));
    };
    let flags = world.accounts.get(id).copied().unwrap_or_default();
    if flags.is_gone {
        return Err(gone(id));
    }
    if flags.refuses_transfers {
        let message = "Transfers to this account are not allowed.";
        return Err(ApiError::invalid(400, Some("transfers_not_allowed"), message).about(param));
    }
    if account.body["capabilities"]["transfers"] != "active" {
        let message = "Your destination account needs to have at least one of the following capabilities \
                       enabled: transfers, crypto_transfers, legacy_payments";
        let code = Some("insufficient_capabilities_for_transfer");
        return Err(ApiError::invalid(400, code, message).about(param));
    }
    Ok(())
}

/// The account of the header `Stripe-Account`, or of a path.
pub(super) fn check_access(world: &World, id: &str) -> Result<(), ApiError> {
    let is_gone = world.accounts.get(id).is_none_or(|flags| flags.is_gone);
    if is_gone { Err(gone(id)) } else { Ok(()) }
}

/// `GET /v1/accounts/{id}`.
pub(super) fn read(world: &mut World, call: &Call) -> Result<Value, ApiError> {
    let id = &call.args[0];
    check_access(world, id)?;
    let account = world.objects.any("account", id);
    account.map(|account| account.body.clone()).ok_or_else(|| gone(id))
}

fn gone(id: &str) -> ApiError {
    let message = format!(
        "The provided key does not have access to account '{id}' (or that account does not exist). \
         Application access may have been revoked."
    );
    ApiError::invalid(403, Some("account_invalid"), message)
}

/// Whether the id is that of an account.
pub(super) fn exists(world: &World, id: &str) -> bool {
    world.objects.any("account", id).is_some_and(|account| text(&account.body, "id") == id)
}
