//! From text columns to the types of the domain, and lists to the one parameter that carries them.
//!
//! A value that does not parse was not written by this program: it becomes [`StoreError::Corrupt`] with
//! its table, column and row, and never with the value.

use serde::Serialize;
use serde_json::Value;

use super::{
    enrollments::codes::CodeKind,
    error::StoreError,
    findings::Severity,
    keys::KeyKind,
    programs::{Applications, AttributionModel, ConversionKind, MinPayout},
};
use crate::domain::{
    charge::ChargeState,
    ids::{
        AuditId, ChargeId, CommissionId, EndpointId, EnrollmentId, FindingId, HoldId, IdempotencyId,
        InstanceId, IntentId, InvalidId, JobId, KeyId, LotId, MailId, NoticeId, OrganizationId, PayoutId,
        ProgramId, ProjectId, ResolutionId, RunId, SaleId, TouchpointId,
    },
    intent::{IntentKind, IntentState, Verdict},
    job::JobState,
    money::Currency,
    notice::{Change, Topic, Why},
    payout::{OnTransferReversed, PayoutSchedule, PayoutState, Skip},
    program::{EnrollmentStatus, ProgramStatus},
    terms::{Position, Rate, Terms},
};

/// Sorts after every id of any kind: where a list that goes backwards starts.
pub(super) const AFTER_EVERY_ID: &str = "~";

/// A type that is stored as text.
pub(super) trait FromText: Sized {
    /// The value that `text` stands for.
    fn from_text(text: &str) -> Option<Self>;
}

macro_rules! from_text {
    (ids: $($id:ty),+; words: $($word:ty),+; json: $($json:ty),+ $(,)?) => {
        $(impl FromText for $id {
            fn from_text(text: &str) -> Option<Self> {
                let parsed: Result<Self, InvalidId> = Self::parse(text);
                parsed.ok()
            }
        })+
        $(impl FromText for $word {
            fn from_text(text: &str) -> Option<Self> {
                Self::parse(text)
            }
        })+
        $(impl FromText for $json {
            fn from_text(text: &str) -> Option<Self> {
                serde_json::from_str(text).ok()
            }
        })+
    };
}
from_text! {
    ids: AuditId, ChargeId, CommissionId, EndpointId, EnrollmentId, FindingId, HoldId, IdempotencyId, InstanceId,
        IntentId, JobId, KeyId, LotId, MailId, NoticeId, OrganizationId, PayoutId, ProgramId, ProjectId, ResolutionId, RunId, SaleId, TouchpointId;
    words: Applications, AttributionModel, Change, ChargeState, CodeKind, ConversionKind, EnrollmentStatus, IntentKind, IntentState, JobState, KeyKind,
        OnTransferReversed, PayoutSchedule, PayoutState, ProgramStatus, Severity, Skip, Topic, Verdict, Why;
    json: MinPayout, Position, Rate, Terms, Value,
}

impl FromText for Currency {
    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

/// The row that is being read, named in errors.
#[derive(Clone, Copy)]
pub(super) struct At<'r> {
    /// Its table.
    pub table: &'static str,
    /// Its id.
    pub id: &'r str,
}

impl At<'_> {
    /// The value of a text column.
    pub fn read<T: FromText>(self, column: &'static str, text: &str) -> Result<T, StoreError> {
        T::from_text(text).ok_or_else(|| self.corrupt(column))
    }

    /// The value of a text column that may be empty.
    pub fn read_opt<T: FromText>(
        self,
        column: &'static str,
        text: Option<&str>,
    ) -> Result<Option<T>, StoreError> {
        text.map(|text| self.read(column, text)).transpose()
    }

    /// The error for a value that cannot be there.
    pub fn corrupt(self, column: &'static str) -> StoreError {
        StoreError::Corrupt { table: self.table, column, id: self.id.to_owned() }
    }
}

/// A list as one parameter for `json_each($n)`: an array of objects.
pub(super) fn json_list<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    let rows: Vec<T> = rows.into_iter().collect();
    // Fails only for maps whose keys are not text and for a `Serialize` that refuses; no row of ours
    // has either, and a wrong list must never be mistaken for an empty one.
    serde_json::to_string(&rows).expect("rows of plain text and numbers serialise")
}
