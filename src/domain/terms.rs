//! What a program pays: the versioned commission document and the conditions around it.
//!
//! `rule` says what a commission document may look like, `evaluate` what one sale earns under it.

mod evaluate;
mod rule;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use evaluate::{Earned, Limit, Of, Part, Position, Standing};
pub use rule::{CommissionRule, InvalidRule, ProductRate, Rate, Tier, TierBasis, TierMode};

use super::money::BasisPoints;

/// What a percentage is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommissionBase {
    /// What the buyer paid, tax included.
    #[default]
    Gross,
    /// What the buyer paid less tax.
    NetOfTax,
}

/// What a partial refund does to a flat commission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlatOnPartial {
    /// It stays whole until everything is refunded.
    #[default]
    Keep,
    /// It shrinks in proportion.
    Proportional,
}

/// Whether a person must approve a conversion before it accrues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    /// It accrues at once.
    #[default]
    Auto,
    /// It waits for approval.
    Manual,
}

/// One version of a program's terms. A commission freezes the version that held at `paid_at`
/// (`rulings.md` 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// How much one sale earns.
    pub commission: CommissionRule,
    /// What a percentage is taken of.
    #[serde(default)]
    pub commission_base: CommissionBase,
    /// What a partial refund does to a flat commission.
    #[serde(default)]
    pub flat_on_partial: FlatOnPartial,
    /// Whether a person must approve.
    #[serde(default)]
    pub approval_mode: ApprovalMode,
    /// Days of 86 400 s between payment and payable, 0 to 3650.
    #[serde(default)]
    pub hold_period_days: u16,
    /// Rates of their own for some of what is sold; at most one per price or product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub product_rates: Vec<ProductRate>,
    /// What sponsors get of the direct commission, the direct affiliate's sponsor first. Empty: the
    /// program has one level (`rulings.md` 8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upline_bps: Vec<BasisPoints>,
    /// The affiliate's own rate. No version of a program has one: it is put in when the terms of a
    /// commission are frozen, and then comes before every other rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_override: Option<Rate>,
}
