//! The commission document: a JSON union tagged by `type` (seed S0, "Create the program"), read
//! strictly, so that a rule that is stored is a rule that can be applied.

use serde::{Deserialize, Serialize};

use crate::domain::money::{BasisPoints, Currency};

/// A commission document says something that cannot be. The text names what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRule(String);

impl InvalidRule {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What one payment, or one part of it, earns: `{"bps"}` or `{"amount_cents", "currency"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawRate", try_from = "RawRate")]
pub enum Rate {
    /// A share of the base.
    Bps(BasisPoints),
    /// The same amount each time.
    Flat {
        /// Minor units, 0 or more.
        amount_cents: i64,
        /// Currency of the amount, and so of the commission.
        currency: Currency,
    },
}

impl Rate {
    fn of(
        bps: Option<BasisPoints>,
        amount_cents: Option<i64>,
        currency: Option<Currency>,
    ) -> Result<Self, InvalidRule> {
        match (bps, amount_cents, currency) {
            (Some(bps), None, None) => Ok(Self::Bps(bps)),
            (None, Some(amount_cents), Some(currency)) if amount_cents >= 0 => {
                Ok(Self::Flat { amount_cents, currency })
            }
            (None, Some(_), Some(_)) => Err(InvalidRule::new("amount_cents must be 0 or more")),
            _ => Err(InvalidRule::new("a rate is either `bps`, or `amount_cents` with `currency`")),
        }
    }

    /// The currency of an amount; a share has that of the sale.
    #[must_use]
    pub const fn currency(self) -> Option<Currency> {
        match self {
            Self::Bps(_) => None,
            Self::Flat { currency, .. } => Some(currency),
        }
    }

    fn raw(self) -> RawRate {
        match self {
            Self::Bps(bps) => RawRate { bps: Some(bps), amount_cents: None, currency: None },
            Self::Flat { amount_cents, currency } => {
                RawRate { bps: None, amount_cents: Some(amount_cents), currency: Some(currency) }
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bps: Option<BasisPoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount_cents: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl From<Rate> for RawRate {
    fn from(rate: Rate) -> Self {
        rate.raw()
    }
}

impl TryFrom<RawRate> for Rate {
    type Error = InvalidRule;

    fn try_from(raw: RawRate) -> Result<Self, InvalidRule> {
        Self::of(raw.bps, raw.amount_cents, raw.currency)
    }
}

/// What decides which tier a sale is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierBasis {
    /// How many sales the affiliate brought before this one.
    Count,
    /// How much they brought, in the currency of this one, minor units.
    Revenue,
}

/// What a tier's rate is applied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierMode {
    /// To the whole sale (`semantics.md`, "Tiers": the default).
    #[default]
    Whole,
    /// To the part of the sale that lies within the tier. Only for shares of revenue.
    Marginal,
}

/// One step of a tiered rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawTier", try_from = "RawTier")]
pub struct Tier {
    /// Sales, or minor units of revenue, before this sale from which the tier holds, 0 or more.
    pub from: i64,
    /// What it gives.
    pub rate: Rate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    from: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bps: Option<BasisPoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount_cents: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl From<Tier> for RawTier {
    fn from(tier: Tier) -> Self {
        let RawRate { bps, amount_cents, currency } = tier.rate.raw();
        Self { from: tier.from, bps, amount_cents, currency }
    }
}

impl TryFrom<RawTier> for Tier {
    type Error = InvalidRule;

    fn try_from(raw: RawTier) -> Result<Self, InvalidRule> {
        Ok(Self { from: raw.from, rate: Rate::of(raw.bps, raw.amount_cents, raw.currency)? })
    }
}

/// A rate of its own for a price or product of the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawProductRate", try_from = "RawProductRate")]
pub struct ProductRate {
    /// The provider's id of the price or of the product, such as `price_…`, `prod_…`, `pri_…`.
    pub product: String,
    /// What it gives.
    pub rate: Rate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProductRate {
    product: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bps: Option<BasisPoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount_cents: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl From<ProductRate> for RawProductRate {
    fn from(product: ProductRate) -> Self {
        let RawRate { bps, amount_cents, currency } = product.rate.raw();
        Self { product: product.product, bps, amount_cents, currency }
    }
}

impl TryFrom<RawProductRate> for ProductRate {
    type Error = InvalidRule;

    fn try_from(raw: RawProductRate) -> Result<Self, InvalidRule> {
        let is_id =
            (1..=200).contains(&raw.product.len()) && raw.product.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_id {
            return Err(InvalidRule::new("product must be the provider's id of a price or product"));
        }
        Ok(Self { product: raw.product, rate: Rate::of(raw.bps, raw.amount_cents, raw.currency)? })
    }
}

/// How much one sale earns. Units: basis points, or minor units of the named currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawRule", try_from = "RawRule")]
pub enum CommissionRule {
    /// A share of the base of every sale.
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
    /// Each payment of a customer, up to a limit (`semantics.md`, "Recurring length").
    Recurring {
        /// What each payment gives.
        rate: Rate,
        /// Calendar months from the customer's first attributed payment, 1 to 1200. A payment at the
        /// very end of them is outside.
        max_months: Option<u16>,
        /// Payments of the customer, 1 or more.
        max_payments: Option<u32>,
    },
    /// A rate that depends on what the affiliate brought before (`semantics.md`, "Tiers").
    Tiered {
        /// What is counted.
        basis: TierBasis,
        /// What the rate is applied to.
        mode: TierMode,
        /// 1 to 50, `from` ascending.
        tiers: Vec<Tier>,
    },
}

impl CommissionRule {
    /// The currency of its amounts; none where it gives shares alone.
    #[must_use]
    pub fn currency(&self) -> Option<Currency> {
        match self {
            Self::Percentage { .. } => None,
            Self::Flat { currency, .. } => Some(*currency),
            Self::Recurring { rate, .. } => rate.currency(),
            // Amounts of tiers share one.
            Self::Tiered { tiers, .. } => tiers.iter().find_map(|tier| tier.rate.currency()),
        }
    }
}

/// More tiers than anybody can explain.
const TIERS_MAX: usize = 50;

/// A hundred years.
const MONTHS_MAX: u16 = 1_200;

/// The document as it is written. `deny_unknown_fields` keeps a misspelt limit from being no limit.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum RawRule {
    Percentage {
        bps: BasisPoints,
    },
    Flat {
        amount_cents: i64,
        currency: Currency,
    },
    Recurring {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bps: Option<BasisPoints>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount_cents: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        currency: Option<Currency>,
        #[serde(default)]
        max_months: Option<u16>,
        #[serde(default)]
        max_payments: Option<u32>,
    },
    Tiered {
        basis: TierBasis,
        #[serde(default)]
        mode: TierMode,
        tiers: Vec<Tier>,
    },
}

impl From<CommissionRule> for RawRule {
    fn from(rule: CommissionRule) -> Self {
        match rule {
            CommissionRule::Percentage { bps } => Self::Percentage { bps },
            CommissionRule::Flat { amount_cents, currency } => Self::Flat { amount_cents, currency },
            CommissionRule::Recurring { rate, max_months, max_payments } => {
                let RawRate { bps, amount_cents, currency } = rate.raw();
                Self::Recurring { bps, amount_cents, currency, max_months, max_payments }
            }
            CommissionRule::Tiered { basis, mode, tiers } => Self::Tiered { basis, mode, tiers },
        }
    }
}

impl TryFrom<RawRule> for CommissionRule {
    type Error = InvalidRule;

    fn try_from(raw: RawRule) -> Result<Self, InvalidRule> {
        match raw {
            RawRule::Percentage { bps } => Ok(Self::Percentage { bps }),
            RawRule::Flat { amount_cents, currency } => {
                Rate::of(None, Some(amount_cents), Some(currency))?;
                Ok(Self::Flat { amount_cents, currency })
            }
            RawRule::Recurring { bps, amount_cents, currency, max_months, max_payments } => {
                let rate = Rate::of(bps, amount_cents, currency)?;
                if max_months.is_some_and(|months| !(1..=MONTHS_MAX).contains(&months)) {
                    return Err(InvalidRule::new("max_months must be 1 to 1200"));
                }
                if max_payments == Some(0) {
                    return Err(InvalidRule::new("max_payments must be 1 or more"));
                }
                Ok(Self::Recurring { rate, max_months, max_payments })
            }
            RawRule::Tiered { basis, mode, tiers } => {
                check_tiers(basis, mode, &tiers)?;
                Ok(Self::Tiered { basis, mode, tiers })
            }
        }
    }
}

fn check_tiers(basis: TierBasis, mode: TierMode, tiers: &[Tier]) -> Result<(), InvalidRule> {
    if !(1..=TIERS_MAX).contains(&tiers.len()) {
        return Err(InvalidRule::new("tiers must hold 1 to 50 tiers"));
    }
    if tiers.iter().any(|tier| tier.from < 0) || !tiers.is_sorted_by(|a, b| a.from < b.from) {
        return Err(InvalidRule::new("`from` of the tiers must be 0 or more and ascend"));
    }
    let mut currencies: Vec<Currency> = tiers.iter().filter_map(|tier| tier.rate.currency()).collect();
    currencies.dedup();
    if currencies.len() > 1 {
        return Err(InvalidRule::new("the flat amounts of the tiers must share one currency"));
    }
    match mode {
        TierMode::Whole => Ok(()),
        TierMode::Marginal if basis == TierBasis::Revenue && currencies.is_empty() => Ok(()),
        TierMode::Marginal => {
            Err(InvalidRule::new("mode `marginal` needs basis `revenue` and rates in `bps`"))
        }
    }
}
