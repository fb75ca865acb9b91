//! How the words of the lower layers look in the description. They know nothing of OpenAPI, so their
//! schemas are here.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

use crate::{
    app::keys::Scope,
    domain::{
        charge::ChargeState,
        commission::{ClawbackReason, CommissionState, ConversionStatus, DecisionKind},
        ids::{
            AccountId, AuditId, ChargeId, CommissionId, ConversionId, DecisionId, EndpointId, EnrollmentId,
            EntryId, FindingId, HoldId, IdempotencyId, InboxId, IntentId, JobId, KeyId, LotId,
            OrganizationId, PayoutId, ProgramId, ProjectId, ResolutionId, RunId, SaleId, TouchpointId,
        },
        intent::{IntentKind, IntentState},
        job::JobState,
        ledger::{Account, EntryKind, LotKind},
        money::{BasisPoints, Currency},
        payout::{OnTransferReversed, PayoutSchedule, PayoutState, Skip},
        program::{EnrollmentStatus, ProgramStatus},
        terms::Position,
        time::Timestamp,
    },
    store::{
        enrollments::codes::CodeKind,
        findings::Severity,
        holds::{HoldKind, PauseKind},
        inbox::{EventSource, InboxState},
        keys::KeyKind,
        programs::{Applications, AttributionModel, ConversionKind},
    },
};

/// One line of a person's own, such as a name: 1 to 200 characters, not all blank, no control characters.
pub const LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\x00-\x1f\x7f-\x9f]*$";

/// As [`LINE`], with line breaks and tabs, for the reason of a decision.
pub const PROSE: &str = concat!(
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*",
    r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
    r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$",
);

/// As [`PROSE`], or nothing.
pub const NOTE: &str = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> RefOr<Schema> {
    text().enum_values(Some(words.collect::<Vec<_>>())).into()
}

macro_rules! ids {
    ($($id:ident),+ $(,)?) => {$(
        impl PartialSchema for $id {
            fn schema() -> RefOr<Schema> {
                let pattern = format!("^{}[A-Za-z0-9_-]{{1,64}}$", $id::PREFIX);
                text().pattern(Some(pattern)).into()
            }
        }
        impl ToSchema for $id {}
    )+};
}

ids! {
    AccountId, AuditId, ChargeId, CommissionId, ConversionId, DecisionId, EndpointId, EnrollmentId, EntryId, FindingId,
    HoldId, IdempotencyId,
    InboxId, IntentId, JobId, KeyId, LotId, OrganizationId, PayoutId, ProgramId, ProjectId, ResolutionId,
    RunId, SaleId, TouchpointId,
}

macro_rules! word_lists {
    ($($list:ident),+ $(,)?) => {$(
        impl PartialSchema for $list {
            fn schema() -> RefOr<Schema> {
                words($list::ALL.iter().map(|word| word.as_str()))
            }
        }
        impl ToSchema for $list {}
    )+};
}

word_lists! {
    Account, Applications, AttributionModel, ChargeState, ClawbackReason, CommissionState, ConversionKind, ConversionStatus,
    DecisionKind, CodeKind, EnrollmentStatus, EntryKind, EventSource, HoldKind, InboxState, IntentKind, IntentState, JobState,
    KeyKind, LotKind, OnTransferReversed, PauseKind, PayoutSchedule, PayoutState, ProgramStatus, Scope,
    Severity, Skip,
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).into()
    }
}

impl ToSchema for Timestamp {}

impl PartialSchema for Currency {
    fn schema() -> RefOr<Schema> {
        text()
            .pattern(Some("^[a-z]{3}$"))
            .description(Some("ISO 4217, lower case."))
            .examples([json!("usd")])
            .into()
    }
}

impl ToSchema for Currency {}

impl PartialSchema for BasisPoints {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(10_000))
            .description(Some("Hundredths of a percent."))
            .into()
    }
}

impl ToSchema for BasisPoints {}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($least:literal..=$most:literal, $pattern:expr))+) => {$(
        $(#[$doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                text().min_length(Some($least)).max_length(Some($most)).pattern(Some($pattern)).into()
            }
        }
        impl ToSchema for $name {}
    )+};
}

texts! {
    /// A name for people.
    Name(1..=200, LINE)
    /// Why something is done, in a person's own words.
    Reason(1..=1000, PROSE)
    /// A person's own words beside a decision.
    Note(0..=1000, NOTE)
    /// An e-mail address, with or without blanks around it.
    Email(3..=254, r"^\s*[^\s\x00-\x1f\x7f-\x9f@+][^\s\x00-\x1f\x7f-\x9f]*@[^\s\x00-\x1f\x7f-\x9f@]+\s*$")
    /// An affiliate's code.
    ReferralCode(2..=64, "^[A-Za-z0-9_-]+$")
    /// Who visits a website: an id without blanks around it.
    VisitorId(1..=200, r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$")
    /// The id of an order at the one who reports it.
    ExternalId(1..=200, r"^[^\x00-\x1f\x7f-\x9f]+$")
    /// A signing secret of a webhook endpoint.
    SigningSecret(8..=512, r"^[^\s\x00-\x1f\x7f-\x9f]+$")
}

impl PartialSchema for Position {
    fn schema() -> RefOr<Schema> {
        let whole = |least: i64| json!({"type": "integer", "format": "int64", "minimum": least});
        let of = |among: &str, fields: [(&str, Value); 2]| {
            let fields = fields.map(|(name, schema)| (name.to_owned(), schema));
            let mut properties = serde_json::Map::from_iter(fields);
            properties.insert("among".to_owned(), json!({"type": "string", "enum": [among]}));
            json!({"type": "object", "properties": properties})
        };
        let time = json!({"type": "string", "format": "date-time"});
        super::program::schema(json!({"oneOf": [
            of("sales", [("count", whole(0)), ("revenue", whole(0))]),
            of("payments", [("number", whole(1)), ("first_paid_at", time)]),
        ]}))
    }
}

impl ToSchema for Position {}

/// The name of a provider in a path.
pub struct ProviderName;

impl PartialSchema for ProviderName {
    fn schema() -> RefOr<Schema> {
        words(["stripe", "paddle"].into_iter())
    }
}

impl ToSchema for ProviderName {}
