//! The fields of a program in the description. `app` reads them one by one, so that each has an error of
//! its own, and no type of Rust says what they may hold; here it is written down.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::schemas::LINE;
use crate::domain::terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, ProductRate};

/// A program to be made.
pub struct NewProgram;

/// Changes of a program; what is absent stays.
pub struct ProgramChange;

pub(super) fn schema(document: Value) -> RefOr<Schema> {
    serde_json::from_value(document).expect("a schema that is written out here is one")
}

fn bps() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": 10_000})
}

fn minor_units() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX})
}

/// An object with the fields of `first` and then those of `second`. What is in `required` must be there.
fn object(description: &str, required: &[&str], first: &Value, second: &Value) -> Value {
    let mut properties = first.clone();
    if let (Some(properties), Some(second)) = (properties.as_object_mut(), second.as_object()) {
        properties.extend(second.clone());
    }
    json!({
        "type": "object",
        "description": description,
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

/// An object with these fields, all of them required but the optional ones, and a rate: a share of the
/// base, or the same amount each time.
fn with_rate(required: &[&str], fields: &Value) -> [Value; 2] {
    let share = json!({"bps": bps()});
    let amount = json!({
        "amount_cents": minor_units(),
        "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
    });
    let of_share = [required, &["bps"]].concat();
    let of_amount = [required, &["amount_cents", "currency"]].concat();
    [
        object("A share of the base.", &of_share, fields, &share),
        object("The same amount each time.", &of_amount, fields, &amount),
    ]
}

fn tag(word: &str) -> Value {
    json!({"type": "string", "enum": [word]})
}

/// The commission documents, each with the fields of `more` beside its own.
fn commission(more: &Value) -> Value {
    let with_more = |fields: Value| {
        let mut fields = fields;
        if let (Some(fields), Some(more)) = (fields.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        fields
    };
    let recurring = with_more(json!({
        "type": tag("recurring"),
        "max_months": {
            "type": ["integer", "null"], "minimum": 1, "maximum": 1_200,
            "description": "Calendar months from the customer's first attributed payment.",
        },
        "max_payments": {
            "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX,
            "description": "Payments of the customer.",
        },
    }));
    let tier = with_rate(
        &["from"],
        &json!({"from": {
            "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX,
            "description": "Sales, or minor units of revenue, before this sale from which the tier holds.",
        }}),
    );
    let tiered = with_more(json!({
        "type": tag("tiered"),
        "basis": {"type": "string", "enum": ["count", "revenue"]},
        "mode": {
            "type": "string", "enum": ["whole", "marginal"], "default": "whole",
            "description": "`marginal` needs the basis `revenue` and shares.",
        },
        "tiers": {
            "type": "array", "minItems": 1, "maxItems": 50, "items": {"oneOf": tier},
            "description": "`from` ascends.",
        },
    }));
    let percentage = with_more(json!({"type": tag("percentage"), "bps": bps()}));
    let flat = with_more(json!({
        "type": tag("flat"),
        "amount_cents": minor_units(),
        "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
    }));
    let [share, amount] = with_rate(&["type"], &recurring);
    let none = json!({});
    json!({
        "description": "How much one sale earns.",
        "oneOf": [
            object("A share of the base.", &["type", "bps"], &percentage, &none),
            object(
                "The same amount for every sale.", &["type", "amount_cents", "currency"], &flat, &none,
            ),
            share,
            amount,
            object(
                "By what the affiliate brought before.", &["type", "basis", "tiers"], &tiered, &none,
            ),
        ],
    })
}

/// A commission as it is sent: with what belongs to all kinds of rules beside it or in it.
pub struct CommissionDocument;

impl PartialSchema for CommissionDocument {
    fn schema() -> RefOr<Schema> {
        schema(commission(&json!({
            "version": {"type": "integer", "enum": [1], "description": "Of this form of document."},
            "products": product_rates(),
            "base": {"$ref": "#/components/schemas/CommissionBase"},
            "flat_on_partial": {"$ref": "#/components/schemas/FlatOnPartial"},
        })))
    }
}

impl ToSchema for CommissionDocument {}

impl PartialSchema for CommissionRule {
    fn schema() -> RefOr<Schema> {
        schema(commission(&json!({})))
    }
}

impl ToSchema for CommissionRule {}

impl PartialSchema for ProductRate {
    fn schema() -> RefOr<Schema> {
        let id = json!({"product": {
            "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$",
            "description": "The provider's id of a price or product.",
        }});
        schema(json!({"oneOf": with_rate(&["product"], &id)}))
    }
}

impl ToSchema for ProductRate {}

fn product_rates() -> Value {
    json!({"type": "array", "maxItems": 200, "items": {"$ref": "#/components/schemas/ProductRate"}})
}

macro_rules! word_lists {
    ($($list:ident: $($word:literal)+;)+) => {$(
        impl PartialSchema for $list {
            fn schema() -> RefOr<Schema> {
                schema(json!({"type": "string", "enum": [$($word),+]}))
            }
        }
        impl ToSchema for $list {}
    )+};
}

word_lists! {
    CommissionBase: "gross" "net_of_tax";
    FlatOnPartial: "keep" "proportional";
    ApprovalMode: "auto" "manual";
}

/// What both [`NewProgram`] and [`ProgramChange`] may hold.
fn fields() -> Value {
    json!({
        "commission": {"$ref": "#/components/schemas/CommissionDocument"},
        "product_rates": product_rates(),
        "upline_bps": {
            "type": "array", "maxItems": 10, "items": bps(),
            "description": "Of the direct commission, for the sponsor, the sponsor's sponsor and so on.",
        },
        "commission_base": {"$ref": "#/components/schemas/CommissionBase"},
        "flat_on_partial": {"$ref": "#/components/schemas/FlatOnPartial"},
        "approval_mode": {"$ref": "#/components/schemas/ApprovalMode"},
        "hold_period_days": {"type": "integer", "minimum": 0, "maximum": 3650},
        "name": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": LINE},
        "conversion_kind": {"$ref": "#/components/schemas/ConversionKind"},
        "attribution_model": {"$ref": "#/components/schemas/AttributionModel"},
        "attribution_window_days": {"type": "integer", "minimum": 1, "maximum": 365},
        "platform_fee_bps": bps(),
        "min_payout": {
            "type": "object",
            "description": "Minor units by currency. A currency that is not here is not paid out.",
            "propertyNames": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
            "additionalProperties": minor_units(),
        },
        "payout_schedule": {
            "oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/PayoutSchedule"}],
        },
        "on_transfer_reversed": {"$ref": "#/components/schemas/OnTransferReversed"},
        "applications": {"$ref": "#/components/schemas/Applications"},
        "landing_url": {
            "type": ["string", "null"], "maxLength": 2_000, "pattern": "^https?://",
            "description": "Where affiliates' links lead: https, or http on this machine alone.",
        },
        "status": {"$ref": "#/components/schemas/ProgramStatus"},
    })
}

/// What one enrollment earns instead of what its program says.
pub struct CommissionOverride;

impl PartialSchema for CommissionOverride {
    fn schema() -> RefOr<Schema> {
        schema(json!({"oneOf": with_rate(&[], &json!({}))}))
    }
}

impl ToSchema for CommissionOverride {}

/// What the fields of a program refer to and no answer does.
fn referred_to(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((CommissionDocument::name().into_owned(), CommissionDocument::schema()));
}

impl PartialSchema for NewProgram {
    fn schema() -> RefOr<Schema> {
        let mut fields = fields();
        fields["owner_organization_id"] = json!({"$ref": "#/components/schemas/OrganizationId"});
        fields["status"] = json!({"type": "string", "enum": ["draft", "active"]});
        schema(json!({
            "type": "object",
            "required": ["name", "commission"],
            "additionalProperties": false,
            "properties": fields,
        }))
    }
}

impl ToSchema for NewProgram {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        referred_to(schemas);
    }
}

impl PartialSchema for ProgramChange {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "object", "additionalProperties": false, "properties": fields()}))
    }
}

impl ToSchema for ProgramChange {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        referred_to(schemas);
    }
}
