//! The audit log: each change that somebody asked for is written down beside the change, in its own
//! transaction, so that there is never one without the other.
//!
//! A row says who asked, by which request, what the object was before and what it is since. Secrets are
//! left out, addresses and visitors are masked, whatever the caller passes. What the stages do on their own
//! (book events, settle by schedule, send) is not here: their rows are facts, entries, payouts and attempts.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{
    App, Refusal,
    keys::{Principal, Scope},
    new_id,
};
pub use crate::store::audit::{AuditFilter, AuditRow};
use crate::{
    domain::{
        ids::{AuditId, IdempotencyId, OrganizationId},
        time::Timestamp,
    },
    store::{StoreError, Tx, audit, idempotency},
};

/// The request by which somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of the HTTP request, as its answer names it; `cli` for the command line.
    pub request_id: String,
    /// The claim on its Idempotency-Key, where it has one.
    pub claim: Option<Claim>,
}

impl Default for Origin {
    fn default() -> Self {
        Self { request_id: "cli".to_owned(), claim: None }
    }
}

/// The right to carry out a request that was sent with an Idempotency-Key. It is lost to whoever takes the
/// request over after its lease has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The row of the key.
    pub id: IdempotencyId,
    /// Grows with each take-over.
    pub number: i64,
}

/// A change, as the function that makes it describes it.
#[derive(Clone, Debug)]
pub struct Change {
    /// What was done: the kind of object, a dot, a participle.
    pub action: &'static str,
    /// The id of what was changed.
    pub object: String,
    /// Whose it is: the organization that may read about it. None: operators only.
    pub organization_id: Option<OrganizationId>,
    /// What it was; none where it was not there.
    pub before: Option<Value>,
    /// What it is now; none where it is not there any more.
    pub after: Option<Value>,
}

impl Change {
    /// A change of the object with that id, which belongs to `owner`.
    #[must_use]
    pub fn new(action: &'static str, object: impl fmt::Display, owner: Option<&OrganizationId>) -> Self {
        let (object, organization_id) = (object.to_string(), owner.cloned());
        Self { action, object, organization_id, before: None, after: None }
    }

    /// The object is called as a person may be: of its name the first letter is kept, as of addresses.
    #[must_use]
    pub fn of_a_person(mut self) -> Self {
        for picture in [&mut self.before, &mut self.after].into_iter().flatten() {
            if let Some(Value::String(name)) = picture.get_mut("name") {
                *name = name.chars().take(1).chain("***".chars()).collect();
            }
        }
        self
    }

    /// With what the object was.
    #[must_use]
    pub fn before(self, object: &impl Serialize) -> Self {
        Self { before: snapshot(object), ..self }
    }

    /// With what the object is now.
    #[must_use]
    pub fn after(self, object: &impl Serialize) -> Self {
        Self { after: snapshot(object), ..self }
    }
}

/// An object as it is kept in the log; none for nothing.
#[must_use]
pub fn snapshot(object: &impl Serialize) -> Option<Value> {
    // Fails only for maps whose keys are not text; the log then lacks the picture and still has the change.
    serde_json::to_value(object).ok().filter(|value| !value.is_null())
}

/// Writes a change down, in the transaction that makes it.
///
/// # Errors
/// [`StoreError`]; with [`StoreError::RowsAffected`] when the request was taken over by another one of the
/// same Idempotency-Key. The transaction must then not be committed: the other one makes the change.
pub async fn record(tx: &mut Tx, by: &Principal, change: Change, now: Timestamp) -> Result<(), StoreError> {
    let origin = by.origin();
    if let Some(claim) = &origin.claim {
        idempotency::mark_changed(tx, &claim.id, claim.number).await?;
    }
    let row = AuditRow {
        id: new_id!(AuditId, now),
        at: now,
        actor: by.actor().to_owned(),
        actor_kind: by.actor_kind().to_owned(),
        actor_organization_id: by.organization_id().cloned(),
        organization_id: change.organization_id,
        action: change.action.to_owned(),
        object: change.object,
        before: change.before.map(redacted),
        after: change.after.map(redacted),
        request_id: origin.request_id.clone(),
        idempotency_id: origin.claim.as_ref().map(|claim| claim.id.clone()),
    };
    audit::insert(tx, &row).await
}

/// Who changed what, newest first: of the organization of `by`, or everything for an operator.
///
/// # Errors
/// [`Refusal::MissingScope`] without `read`.
pub async fn list(
    app: &App,
    by: &Principal,
    filter: &AuditFilter,
    limit: i64,
) -> Result<Vec<AuditRow>, Refusal> {
    by.require(Scope::Read)?;
    let mut filter = filter.clone();
    if let Some(own) = by.organization_id() {
        filter.organization_id = Some(own.clone());
    }
    Ok(audit::list(&mut app.db.read().await?, &filter, limit).await?)
}

/// Stands where a secret was.
const REDACTED: &str = "[redacted]";

/// The value without what must not be read in a log: no caller can forget it.
fn redacted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(name, value)| {
                let value = match value {
                    Value::Null => Value::Null,
                    _ if is_secret_field(&name) => REDACTED.into(),
                    Value::String(id) if VISITOR_FIELDS.contains(&&*name) => masked(&id).into(),
                    value => redacted(value),
                };
                (name, value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(values) => values.into_iter().map(redacted).collect(),
        Value::String(text) => without_personal_data(&text).into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "secrets", "token", "password", "key", "authorization"]
        .iter()
        .any(|word| name == *word || name.ends_with(&format!("_{word}")))
}

/// Fields that hold an owner's own id of a visitor. The log outlives what is forgotten of visitors.
const VISITOR_FIELDS: [&str; 2] = ["anonymous_id", "subject_ref"];

/// An id whose holder recognises it, and nobody else.
fn masked(id: &str) -> String {
    id.chars().take(2).chain("***".chars()).collect()
}

/// What secrets of ours and of the providers start with.
const SECRET_PREFIXES: [&str; 5] = ["rk_", "whsec_", "sk_live_", "sk_test_", "pdl_"];

/// The text with every e-mail address in it masked, or nothing of it where it is a secret.
pub(super) fn without_personal_data(text: &str) -> String {
    if SECRET_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        return REDACTED.to_owned();
    }
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        let start = before.rfind(ends_an_address).map_or(0, |at| at + 1);
        let local = before.get(start..).unwrap_or_default();
        masked.push_str(before.get(..start).unwrap_or_default());
        masked.extend(local.chars().next());
        masked.push_str(if local.is_empty() { "@" } else { "***@" });
        rest = after;
    }
    masked.push_str(rest);
    masked
}

/// ASCII, so that the character after it begins one byte later.
fn ends_an_address(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, '<' | '>' | '(' | ')' | ',' | ';' | ':' | '"' | '\'' | '@')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        let told = json!({
            "id": "ep_1", "secrets": ["whsec_hunter2"], "nested": [{"invite_token": "hunter2", "KEY": "hunter2"}],
            "note": "rk_op_1_hunter2_x", "secret": null, "keys": 3,
        });
        let kept = redacted(told);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(kept["id"], "ep_1");
        assert_eq!(kept["secret"], Value::Null);
        assert_eq!(kept["keys"], 3);
    }

    #[test]
    fn ids_of_visitors_are_masked() {
        let kept = redacted(
            json!({"subject_ref": "user_4711", "anonymous_id": null, "sale": {"subject_ref": "ö@x"}}),
        );
        assert_eq!(
            kept,
            json!({"subject_ref": "us***", "anonymous_id": null, "sale": {"subject_ref": "ö@***"}})
        );
    }

    #[test]
    fn of_the_name_of_who_may_be_a_person_one_letter_is_kept() {
        let change =
            |name: &str| Change::new("organization.created", "org_1", None).after(&json!({"name": name}));
        for (name, kept) in [("Jane Doe", "J***"), ("Ö", "Ö***"), ("", "***")] {
            assert_eq!(change(name).of_a_person().after, Some(json!({"name": kept})));
        }
        assert_eq!(Change::new("organization.created", "org_1", None).of_a_person().after, None);
    }

    #[test]
    fn addresses_are_masked_and_still_tell_people_apart() {
        for (text, expected) in [
            ("jane@example.com", "j***@example.com"),
            ("Jane Doe <jane.doe+x@example.com>", "Jane Doe <j***@example.com>"),
            ("a@b.c, ö@b.c and mailto:x@y", "a***@b.c, ö***@b.c and mailto:x***@y"),
            ("@handle", "@handle"),
            ("no address", "no address"),
            ("a@@b", "a***@@b"),
        ] {
            assert_eq!(without_personal_data(text), expected, "{text}");
        }
    }
}
