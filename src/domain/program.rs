//! Programs, enrollments and codes as the fold reads them: effective-dated, as of `paid_at`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{EnrollmentId, OrganizationId, ProgramId},
    terms::{CommissionRule, Rate, Terms},
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

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
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

words! {
    /// Which of several touchpoints wins.
    AttributionModel {
        /// The earliest in the window.
        FirstTouch = "first_touch",
        /// The latest in the window.
        LastTouch = "last_touch",
    }
}

/// What a program makes of touchpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchRule {
    /// Which of several wins.
    pub model: AttributionModel,
    /// Days of 86 400 s before the payment in which a touchpoint counts, both ends included.
    pub window_days: u16,
}

/// The rule over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchRules {
    /// The newest.
    pub newest: TouchRule,
    /// Those before it, each with the instant until which it held, exclusive; in order of time.
    pub former: Vec<(Timestamp, TouchRule)>,
}

impl TouchRules {
    /// The rule for a sale paid at `at`.
    #[must_use]
    pub fn at(&self, at: Timestamp) -> TouchRule {
        self.former.iter().find(|(until, _)| at < *until).map_or(self.newest, |(_, rule)| *rule)
    }
}

impl Default for TouchRules {
    /// The defaults of the guide (seed S0, "Create the program").
    fn default() -> Self {
        let newest = TouchRule { model: AttributionModel::LastTouch, window_days: 30 };
        Self { newest, former: Vec::new() }
    }
}

/// A value and the instant from which it holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
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
    /// What it makes of touchpoints.
    pub touch_rules: TouchRules,
}

impl Program {
    /// The terms of a sale paid at `at`: those that held then, or the first ones for a sale that is
    /// older than the program (history that is replayed).
    #[must_use]
    pub fn terms_at(&self, at: Timestamp) -> Option<&TermsVersion> {
        as_of(&self.terms, at).or_else(|| self.terms.first().map(|row| &row.value))
    }

    /// Whether any version of the terms follows customers from payment to payment. Then a customer's first
    /// payment may have frozen terms that hold for a sale under later ones.
    #[must_use]
    pub fn follows_customers(&self) -> bool {
        self.terms.iter().any(|row| matches!(row.value.terms.commission, CommissionRule::Recurring { .. }))
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
    /// Normalised e-mail addresses of the affiliate. Personal data.
    pub emails: BTreeSet<String>,
    /// The affiliate's own rate over time; none: the program's holds.
    pub rates: Vec<Dated<Option<Rate>>>,
    /// The sponsor over time, an enrollment of the same program.
    pub sponsors: Vec<Dated<Option<EnrollmentId>>>,
}

impl Enrollment {
    /// Whether it earned at `at`.
    #[must_use]
    pub fn is_active_at(&self, at: Timestamp) -> bool {
        as_of(&self.statuses, at) == Some(&EnrollmentStatus::Active)
    }

    /// The terms of a sale paid at `at`, with the affiliate's own rate where they had one.
    #[must_use]
    pub fn terms_of(&self, version: &TermsVersion, at: Timestamp) -> Terms {
        Terms { rate_override: as_of(&self.rates, at).copied().flatten(), ..version.terms.clone() }
    }
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
    /// Whether the platform lets sponsors earn (`REMIT_PROGRAMS__MULTI_LEVEL`). What they earn already
    /// stays when it is switched off.
    pub multi_level: bool,
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
    /// The enrollment that `code` earns for at `paid_at`: the code must have been issued by then, and not
    /// been retired when it was told.
    pub fn enrollment_for(
        &self,
        owner: &OrganizationId,
        code: &str,
        told_at: Timestamp,
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
        if paid_at < known.valid_from || known.valid_to.is_some_and(|end| told_at >= end) {
            return Err(NoAttribution::CodeNotValid);
        }
        earns_at(enrollment, program, paid_at)?;
        Ok(enrollment)
    }

    /// The program in which a touchpoint's enrollment earns from a sale of `owner` at `paid_at`.
    #[must_use]
    pub fn program_earning(
        &self,
        owner: &OrganizationId,
        enrollment: &EnrollmentId,
        paid_at: Timestamp,
    ) -> Option<&Program> {
        let (enrollment, program) = self.membership(enrollment)?;
        let is_owned = program.organization_id == *owner;
        (is_owned && earns_at(enrollment, program, paid_at).is_ok()).then_some(program)
    }

    /// Whether the enrollment is in a program of `owner`: only those can be attributed by the owner's
    /// projects (`rulings.md` 11).
    #[must_use]
    pub fn owns(&self, owner: &OrganizationId, enrollment: &EnrollmentId) -> bool {
        self.membership(enrollment).is_some_and(|(_, program)| program.organization_id == *owner)
    }

    /// The sponsors of an enrollment as of `at`, the nearest first, at most `levels`. A sponsor who did
    /// not earn then leaves their level empty; nobody moves up.
    #[must_use]
    pub fn sponsors_of(&self, id: &EnrollmentId, at: Timestamp, levels: usize) -> Vec<&Enrollment> {
        let mut chain: Vec<&Enrollment> = Vec::new();
        let mut next = self.enrollments.get(id);
        while let Some(enrollment) = next.filter(|_| chain.len() < levels) {
            let sponsor = as_of(&enrollment.sponsors, at).and_then(Option::as_ref);
            next = sponsor
                .and_then(|sponsor| self.enrollments.get(sponsor))
                // Cycles are refused where sponsors are set; a walk that trusts that could never end.
                .filter(|sponsor| sponsor.id != *id && !chain.iter().any(|known| known.id == sponsor.id));
            chain.extend(next);
        }
        chain
    }

    /// An enrollment with its program.
    #[must_use]
    pub fn membership(&self, id: &EnrollmentId) -> Option<(&Enrollment, &Program)> {
        let enrollment = self.enrollments.get(id)?;
        let program = self.programs.get(&enrollment.program_id)?;
        Some((enrollment, program))
    }
}

/// Whether the affiliate and the program were both active.
fn earns_at(enrollment: &Enrollment, program: &Program, at: Timestamp) -> Result<(), NoAttribution> {
    if !enrollment.is_active_at(at) {
        return Err(NoAttribution::EnrollmentNotActive);
    }
    if as_of(&program.statuses, at) != Some(&ProgramStatus::Active) {
        return Err(NoAttribution::ProgramNotActive);
    }
    Ok(())
}
