//! The fields of a program in the description. `app` reads them one by one, so that each has an error of
//! its own, and no type of Rust says what they may hold; here it is written down.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::schemas::LINE;
use crate::domain::terms::{CommissionRule, Terms};

/// A program to be made.
pub struct NewProgram;

/// Changes of a program; what is absent stays.
pub struct ProgramChange;

fn schema(document: Value) -> RefOr<Schema> {
    serde_json::from_value(document).expect("a schema that is written out here is one")
}

fn commission() -> Value {
    json!({
        "description": "How much one sale earns.",
        "oneOf": [
            {
                "type": "object",
                "description": "A share of the base.",
                "required": ["type", "bps"],
                "additionalProperties": false,
                "properties": {
                    "type": {"type": "string", "enum": ["percentage"]},
                    "bps": {"type": "integer", "minimum": 0, "maximum": 10_000},
                },
            },
            {
                "type": "object",
                "description": "The same amount for every sale.",
                "required": ["type", "amount_cents", "currency"],
                "additionalProperties": false,
                "properties": {
                    "type": {"type": "string", "enum": ["flat"]},
                    "amount_cents": {"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX},
                    "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
                },
            },
        ],
    })
}

fn terms() -> Value {
    json!({
        "commission": {"$ref": "#/components/schemas/CommissionRule"},
        "commission_base": {"type": "string", "enum": ["gross", "net_of_tax"]},
        "flat_on_partial": {"type": "string", "enum": ["keep", "proportional"]},
        "approval_mode": {"type": "string", "enum": ["auto", "manual"]},
        "hold_period_days": {"type": "integer", "minimum": 0, "maximum": 3650},
    })
}

/// What both [`NewProgram`] and [`ProgramChange`] may hold.
fn fields() -> Value {
    let mut fields = terms();
    let own = json!({
        "name": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": LINE},
        "conversion_kind": {"$ref": "#/components/schemas/ConversionKind"},
        "attribution_model": {"$ref": "#/components/schemas/AttributionModel"},
        "attribution_window_days": {"type": "integer", "minimum": 1, "maximum": 365},
        "platform_fee_bps": {"type": "integer", "minimum": 0, "maximum": 10_000},
        "min_payout": {
            "type": "object",
            "description": "Minor units by currency. A currency that is not here is not paid out.",
            "propertyNames": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
            "additionalProperties": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX,
            },
        },
        "payout_schedule": {
            "oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/PayoutSchedule"}],
        },
        "on_transfer_reversed": {"$ref": "#/components/schemas/OnTransferReversed"},
        "applications": {"$ref": "#/components/schemas/Applications"},
        "status": {"$ref": "#/components/schemas/ProgramStatus"},
    });
    if let (Some(fields), Value::Object(own)) = (fields.as_object_mut(), own) {
        fields.extend(own);
    }
    fields
}

/// What one enrollment earns instead of what its program says.
pub struct CommissionOverride;

impl PartialSchema for CommissionOverride {
    fn schema() -> RefOr<Schema> {
        schema(json!({
            "oneOf": [
                {
                    "type": "object",
                    "description": "A share of the base.",
                    "required": ["bps"],
                    "additionalProperties": false,
                    "properties": {"bps": {"type": "integer", "minimum": 0, "maximum": 10_000}},
                },
                {
                    "type": "object",
                    "description": "The same amount for every sale.",
                    "required": ["amount_cents", "currency"],
                    "additionalProperties": false,
                    "properties": {
                        "amount_cents": {"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX},
                        "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
                    },
                },
            ],
        }))
    }
}

impl ToSchema for CommissionOverride {}

impl PartialSchema for CommissionRule {
    fn schema() -> RefOr<Schema> {
        schema(commission())
    }
}

impl ToSchema for CommissionRule {}

impl PartialSchema for Terms {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "object", "properties": terms()}))
    }
}

impl ToSchema for Terms {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((CommissionRule::name().into_owned(), CommissionRule::schema()));
    }
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
        Terms::schemas(schemas);
    }
}

impl PartialSchema for ProgramChange {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "object", "additionalProperties": false, "properties": fields()}))
    }
}

impl ToSchema for ProgramChange {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Terms::schemas(schemas);
    }
}
