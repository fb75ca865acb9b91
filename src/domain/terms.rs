//! What a program pays: the versioned commission document and the conditions around it.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::{
    money::{BasisPoints, Currency, MoneyError},
    sale::Summary,
};

/// How much one sale earns. Units: basis points, or minor units of the named currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CommissionRule {
    /// A share of the base.
    Percentage {
        /// 0 to 10 000.
        bps: BasisPoints,
    },
    /// The same amount for every sale.
    Flat {
        /// Minor units, 0 or more.
        amount_cents: i64,
        /// Currency of the amount, and so of the commission.
        currency: Currency,
    },
}

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
}

/// What one sale earns before anything is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earned {
    /// Minor units.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// What a percentage was taken of, minor units of the sale's currency.
    pub base: i64,
    /// Whether `base` had to be taken with its tax because nobody told the tax yet.
    pub tax_missing: bool,
}

impl Terms {
    /// What `sale` earns under these terms, rounded half up once.
    pub fn earned(&self, sale: &Summary) -> Result<Earned, MoneyError> {
        let (base, tax_missing) = match (self.commission_base, sale.tax) {
            (CommissionBase::Gross, _) => (sale.amount, false),
            (CommissionBase::NetOfTax, Some(tax)) => (super::money::sub(sale.amount, tax)?.max(0), false),
            (CommissionBase::NetOfTax, None) => (sale.amount, true),
        };
        let earned = match &self.commission {
            CommissionRule::Percentage { bps } => {
                Earned { amount: bps.of(base)?, currency: sale.currency, base, tax_missing }
            }
            CommissionRule::Flat { amount_cents, currency } => {
                // A sale without money (a trial) earns nothing, flat or not.
                let amount = if sale.amount > 0 { *amount_cents } else { 0 };
                Earned { amount, currency: *currency, base, tax_missing: false }
            }
        };
        Ok(earned)
    }

    /// What stays of `commission` when `sale.taken` of `sale.amount` was given back
    /// (`semantics.md`, "Partial refund"): from totals, rounded once, never per event.
    pub fn kept(&self, commission: i64, sale: &Summary) -> Result<i64, MoneyError> {
        if sale.taken >= sale.amount {
            return Ok(0);
        }
        match (&self.commission, self.flat_on_partial) {
            (CommissionRule::Flat { .. }, FlatOnPartial::Keep) => Ok(commission),
            (CommissionRule::Flat { .. }, FlatOnPartial::Proportional)
            | (CommissionRule::Percentage { .. }, _) => {
                super::money::share(commission, super::money::sub(sale.amount, sale.taken)?, sale.amount)
            }
        }
    }
}
