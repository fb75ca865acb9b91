//! A validator for what the provider's published schema uses of version 3.0 of that format.

use serde_json::Value;

use super::support::{provider_material, read_json};

/// The provider's schemas.
pub struct Schemas(Value);

impl Schemas {
    /// `None` where the material is not there.
    pub fn load() -> Option<Self> {
        let path = provider_material("openapi.reduced.2023-08-16.json")?;
        Some(Self(read_json(&path)))
    }

    /// Fails unless `value` is what the schema of that name says.
    #[track_caller]
    pub fn assert(&self, name: &str, value: &Value) {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "there is no schema {name}");
        let found = self.problems(schema, value, name);
        assert!(found.is_empty(), "{name} {value:#}\n{}", found.join("\n"));
    }

    /// What of `value` contradicts `schema`. Fields that the schema does not know are newer than it.
    fn problems(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap();
            return self.problems(target, value, at);
        }
        if value.is_null() && schema["nullable"] == true {
            return Vec::new();
        }
        for choice in ["anyOf", "oneOf"] {
            let Some(schemas) = schema[choice].as_array() else { continue };
            let all: Vec<_> = schemas.iter().map(|schema| self.problems(schema, value, at)).collect();
            if all.iter().any(Vec::is_empty) {
                return Vec::new();
            }
            return all.into_iter().min_by_key(Vec::len).unwrap_or_default();
        }
        let mut found = Vec::new();
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
            // The provider adds values without a new version where it says this.
            && schema["x-stripeBypassValidation"] != true
        {
            found.push(format!("{at}: {value} is not one of {allowed:?}"));
        }
        let is_type = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            Some(other) => panic!("{at}: unknown type {other}"),
            None => true,
        };
        if !is_type {
            found.push(format!("{at}: {value} is not of type {}", schema["type"]));
        }
        if let (Some(text), Some(most)) = (value.as_str(), schema["maxLength"].as_u64())
            && u64::try_from(text.chars().count()).unwrap() > most
        {
            found.push(format!("{at}: longer than {most}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() {
                found.push(format!("{at}: {name} is missing"));
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            found.extend(self.problems(&schema["items"], item, &format!("{at}[{index}]")));
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let of_field = schema["properties"].get(name);
            let of_others = Some(&schema["additionalProperties"]).filter(|schema| schema.is_object());
            if let Some(schema) = of_field.or(of_others) {
                found.extend(self.problems(schema, field, &format!("{at}.{name}")));
            }
        }
        found
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let Some(schemas) = Schemas::load() else { return };
    let transfer =
        read_json(&provider_material("fixtures.2026-08.json").unwrap())["resources"]["transfer"].clone();
    schemas.assert("transfer", &transfer);
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut transfer = transfer.clone();
        change(&mut transfer);
        let schema = &schemas.0["components"]["schemas"]["transfer"];
        schemas.problems(schema, &transfer, "transfer").len()
    };
    assert_eq!(wrong(&|transfer| transfer["amount"] = "1".into()), 1);
    assert_eq!(wrong(&|transfer| transfer["amount"] = Value::Null), 1);
    assert_eq!(wrong(&|transfer| transfer["object"] = "charge".into()), 1);
    assert_eq!(wrong(&|transfer| drop(transfer.as_object_mut().unwrap().remove("reversals"))), 1);
    assert_eq!(wrong(&|transfer| transfer["metadata"]["k"] = "v".repeat(501).into()), 1);
    assert_eq!(
        wrong(&|transfer| transfer["reversals"]["data"] = serde_json::json!(["x"])),
        7,
        "a type and six fields"
    );
    assert_eq!(wrong(&|transfer| transfer["transfer_group"] = Value::Null), 0);
}
