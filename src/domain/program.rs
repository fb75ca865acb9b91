//! Programs, enrollments and codes as the fold reads them: effective-dated, as of `paid_at`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{EnrollmentId, OrganizationId, ProgramId},
    terms::Terms,
    time::Timestamp,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, for parsing and for listing in error messages.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in the database and the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value with that name.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Whether a program attributes sales.
    ProgramStatus {
        /// Not launched yet.
        Draft = "draft",
        /// Attributes and accrues.
        Active = "active",
        /// Attributes nothing new; what was earned goes on.
        Paused = "paused",
        /// Over.
        Archived = "archived",
    }
}

words! {
    /// Whether an affiliate earns in a program.
    EnrollmentStatus {
        /// Asked by the owner, not answered yet.
        Invited = "invited",
        /// Applied, waits for the owner.
        Pending = "pending",
        /// Earns.
        Active = "active",
        /// Turned down; never earns.
        Rejected = "rejected",
        /// Earns nothing new; what was earned goes on.
        Suspended = "suspended",
    }
}

/// A value and the instant from which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated<T> {
    /// From when, inclusive.
    pub at: Timestamp,
    /// What holds.
    pub value: T,
}

/// The value that holds at `at`: the last row that is not later. `rows` are in order of time.
#[must_use]
pub fn as_of<T>(rows: &[Dated<T>], at: Timestamp) -> Option<&T> {
    rows.iter().rev().find(|row| row.at <= at).map(|row| &row.value)
}

/// A numbered version of a program's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsVersion {
    /// 1, 2, 3, …
    pub version: i64,
    /// What it says.
    pub terms: Terms,
}

/// A program as the fold reads it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Id.
    pub id: ProgramId,
    /// The owner.
    pub organization_id: OrganizationId,
    /// Status over time.
    pub statuses: Vec<Dated<ProgramStatus>>,
    /// Terms over time.
    pub terms: Vec<Dated<TermsVersion>>,
}

impl Program {
    /// The terms of a sale paid at `at`: those that held then, or the first ones for a sale that is
    /// older than the program (history that is replayed).
    #[must_use]
    pub fn terms_at(&self, at: Timestamp) -> Option<&TermsVersion> {
        as_of(&self.terms, at).or_else(|| self.terms.first().map(|row| &row.value))
    }
}

/// An affiliate's membership as the fold reads it.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Id.
    pub id: EnrollmentId,
    /// The program.
    pub program_id: ProgramId,
    /// The affiliate.
    pub organization_id: OrganizationId,
    /// Status over time.
    pub statuses: Vec<Dated<EnrollmentStatus>>,
    /// Its sponsor over time; no row holds where it had none.
    pub sponsors: Vec<Dated<Option<EnrollmentId>>>,
    /// Normalised e-mail addresses of the affiliate. Personal data.
    pub emails: BTreeSet<String>,
}

/// A referral or coupon code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Whom it names.
    pub enrollment_id: EnrollmentId,
    /// From when, inclusive.
    pub valid_from: Timestamp,
    /// Until when, exclusive.
    pub valid_to: Option<Timestamp>,
}

/// The programs, enrollments and codes that a batch of sales can touch.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// By id.
    pub programs: BTreeMap<ProgramId, Program>,
    /// By id.
    pub enrollments: BTreeMap<EnrollmentId, Enrollment>,
    /// By owner and normalised code.
    pub codes: BTreeMap<(OrganizationId, String), Code>,
}

/// How codes are compared: trimmed, ASCII case ignored, so that both database engines agree.
#[must_use]
pub fn normalise_code(code: &str) -> String {
    code.trim().to_ascii_lowercase()
}

/// Why a code attributes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoAttribution {
    /// The owner has no such code.
    UnknownCode,
    /// The code was not valid when the sale was paid.
    CodeNotValid,
    /// The enrollment was not active when the sale was paid.
    EnrollmentNotActive,
    /// The program was not active when the sale was paid.
    ProgramNotActive,
}

impl Directory {
    /// The enrollment that `code` earns for at `paid_at`.
    pub fn enrollment_for(
        &self,
        owner: &OrganizationId,
        code: &str,
        paid_at: Timestamp,
    ) -> Result<&Enrollment, NoAttribution> {
        let known =
            self.codes.get(&(owner.clone(), normalise_code(code))).ok_or(NoAttribution::UnknownCode)?;
        let (enrollment, program) =
            self.membership(&known.enrollment_id).ok_or(NoAttribution::UnknownCode)?;
        // A code only works for the owner's own programs (`rulings.md` 11).
        if program.organization_id != *owner {
            return Err(NoAttribution::UnknownCode);
        }
        if paid_at < known.valid_from || known.valid_to.is_some_and(|end| paid_at >= end) {
            return Err(NoAttribution::CodeNotValid);
        }
        if as_of(&enrollment.statuses, paid_at) != Some(&EnrollmentStatus::Active) {
            return Err(NoAttribution::EnrollmentNotActive);
        }
        if as_of(&program.statuses, paid_at) != Some(&ProgramStatus::Active) {
            return Err(NoAttribution::ProgramNotActive);
        }
        Ok(enrollment)
    }

    /// Whether the enrollment is in a program of `owner`: only those can be attributed by the owner's
    /// projects (`rulings.md` 11).
    #[must_use]
    pub fn owns(&self, owner: &OrganizationId, enrollment: &EnrollmentId) -> bool {
        self.membership(enrollment).is_some_and(|(_, program)| program.organization_id == *owner)
    }

    /// An enrollment with its program.
    #[must_use]
    pub fn membership(&self, id: &EnrollmentId) -> Option<(&Enrollment, &Program)> {
        let enrollment = self.enrollments.get(id)?;
        let program = self.programs.get(&enrollment.program_id)?;
        Some((enrollment, program))
    }
}
