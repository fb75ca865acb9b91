//! What one sale earns under frozen terms, part by part, and what stays of it after refunds.
//!
//! Pure arithmetic: which sales came before, where a rule asks for that, is an argument
//! ([`Position`]). All shares of one sale are summed exactly and rounded once.
//!
//! The rate of a sale is, in this order: the affiliate's own, that of the price, that of the product,
//! the tier's or the program's.

use serde::{Deserialize, Serialize};

use super::{
    CommissionBase, CommissionRule, FlatOnPartial, ProductRate, Rate, Terms, Tier, TierBasis, TierMode,
};
use crate::domain::{
    money::{self, BasisPoints, Currency, MoneyError},
    sale::Summary,
    time::Timestamp,
};

/// Which other sales a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What the affiliate brought before: tiers.
    AmongSales,
    /// What the same customer paid before: recurring rules.
    AmongPayments,
}

/// Where a sale stands among the others that its rule looks at. Decided once, when the sale first
/// accrues, and stored: an older sale that arrives later moves nothing (`rulings.md` 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "among", rename_all = "snake_case")]
pub enum Position {
    /// Among the accepted sales of the affiliate in the currency of this one.
    Sales {
        /// How many came before.
        count: i64,
        /// What they brought and kept, minor units.
        revenue: i64,
    },
    /// Among the payments of one customer to the affiliate's credit, refunded ones included.
    Payments {
        /// 1 for the first.
        number: i64,
        /// When the first was paid.
        first_paid_at: Timestamp,
    },
}

/// What a part of the commission was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// The sale, at the program's rate.
    Sale,
    /// The sale, at the affiliate's own rate.
    Affiliate,
    /// What was sold of a price or product with a rate of its own.
    Product(String),
    /// What lies in the tier that begins there: sales, or minor units of revenue.
    Tier(i64),
}

/// One part of a commission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it was given for.
    pub of: Of,
    /// At which rate.
    pub rate: Rate,
    /// What a share was taken of, minor units of the sale's currency.
    pub base: i64,
    /// Minor units. The parts sum to the commission exactly.
    pub amount: i64,
}

/// Why a rule gives nothing for a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The customer's payments that count were all made.
    Payments {
        /// Which payment of the customer it is.
        number: i64,
        /// How many count.
        max: u32,
    },
    /// The months that count are over.
    Months {
        /// When they were, exclusive.
        until: Timestamp,
    },
    /// The affiliate has not brought enough for the first tier.
    BelowTiers,
}

impl Limit {
    /// The word shown as the reason of the commission.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payments { .. } => "payments_limit",
            Self::Months { .. } => "months_limit",
            Self::BelowTiers => "below_tiers",
        }
    }
}

/// What one sale earns before anything is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earned {
    /// Minor units.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// What shares were taken of, minor units of the sale's currency.
    pub base: i64,
    /// Whether `base` had to be taken with its tax because nobody told the tax yet.
    pub tax_missing: bool,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// Why it is nothing, where a limit says so.
    pub limit: Option<Limit>,
}

impl Earned {
    /// Of the amount, what does not depend on how much was paid. Minor units.
    pub fn flat(&self) -> Result<i64, MoneyError> {
        money::sum(self.parts.iter().filter(|part| !is_share(part)).map(|part| part.amount))
    }
}

fn is_share(part: &Part) -> bool {
    match part.rate {
        Rate::Bps(_) => true,
        Rate::Flat { .. } => false,
    }
}

impl Terms {
    /// Which other sales the rule looks at, if any.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        match (&self.commission, self.rate_override) {
            (CommissionRule::Recurring { .. }, _) => Some(Standing::AmongPayments),
            // With a rate of their own the affiliate is in no tier.
            (CommissionRule::Tiered { .. }, None) => Some(Standing::AmongSales),
            (
                CommissionRule::Percentage { .. }
                | CommissionRule::Flat { .. }
                | CommissionRule::Tiered { .. },
                _,
            ) => None,
        }
    }

    /// What `sale` earns under these terms. A rule that looks at other sales takes the sale as the first
    /// where no position is given.
    ///
    /// # Errors
    /// [`MoneyError`] when an amount does not fit 64 bits.
    pub fn earned(&self, sale: &Summary, position: Option<&Position>) -> Result<Earned, MoneyError> {
        let (base, tax_told) = match (self.commission_base, sale.tax) {
            (CommissionBase::Gross, _) => (sale.amount, true),
            (CommissionBase::NetOfTax, Some(tax)) => (money::sub(sale.amount, tax)?.max(0), true),
            (CommissionBase::NetOfTax, None) => (sale.amount, false),
        };
        let mut earned = Earned {
            amount: 0,
            currency: sale.currency,
            base,
            tax_missing: false,
            parts: Vec::new(),
            limit: self.limit(sale, position),
        };
        if earned.limit.is_none() {
            let shares = match self.rate_override {
                Some(rate) => vec![(Of::Affiliate, rate, base)],
                None => self.shares(sale, base, position)?,
            };
            // What has a rate of its own needs no tier.
            earned.limit = shares.is_empty().then(|| self.below_tiers(position)).flatten();
            (earned.parts, earned.currency) = reckon(shares, sale)?;
            earned.amount = money::sum(earned.parts.iter().map(|part| part.amount))?;
            earned.tax_missing = !tax_told && earned.parts.iter().any(is_share);
        }
        Ok(earned)
    }

    /// What stays of `earned` when `sale.taken` of `sale.amount` was given back (`semantics.md`, "Partial
    /// refund"): from totals, rounded once, never per event. A sale without money cannot be given back.
    ///
    /// # Errors
    /// [`MoneyError`] when an amount does not fit 64 bits.
    pub fn kept(&self, earned: &Earned, sale: &Summary) -> Result<i64, MoneyError> {
        if sale.taken <= 0 {
            return Ok(earned.amount);
        }
        if sale.taken >= sale.amount {
            return Ok(0);
        }
        let whole = match self.flat_on_partial {
            FlatOnPartial::Keep => earned.flat()?,
            FlatOnPartial::Proportional => 0,
        };
        let shrinking = money::sub(earned.amount, whole)?;
        let rest = money::sub(sale.amount, sale.taken)?;
        money::add(whole, money::share(shrinking, rest, sale.amount)?)
    }

    fn limit(&self, sale: &Summary, position: Option<&Position>) -> Option<Limit> {
        match (&self.commission, position) {
            (
                CommissionRule::Recurring { max_months, max_payments, .. },
                Some(Position::Payments { number, first_paid_at }),
            ) => {
                if let Some(max) = max_payments.filter(|max| *number > i64::from(*max)) {
                    return Some(Limit::Payments { number: *number, max });
                }
                let until = first_paid_at.plus_months(max_months.as_ref().copied()?);
                (sale.paid_at >= until).then_some(Limit::Months { until })
            }
            (
                CommissionRule::Percentage { .. }
                | CommissionRule::Flat { .. }
                | CommissionRule::Recurring { .. }
                | CommissionRule::Tiered { .. },
                _,
            ) => None,
        }
    }

    /// Whether the affiliate brought less than the first tier asks for.
    fn below_tiers(&self, position: Option<&Position>) -> Option<Limit> {
        let CommissionRule::Tiered { basis, tiers, .. } = &self.commission else { return None };
        let lowest = tiers.first().map_or(0, |tier| tier.from);
        (before(*basis, position) < lowest).then_some(Limit::BelowTiers)
    }

    /// The parts of the sale with the rate of each. Where the parts would earn in several currencies, as
    /// with a flat amount of another one, the program's rate holds for the whole.
    fn shares(
        &self,
        sale: &Summary,
        base: i64,
        position: Option<&Position>,
    ) -> Result<Vec<Share>, MoneyError> {
        let mut shares = Vec::new();
        let mut rest = base;
        for (product, of_product) in self.of_products(sale, base)? {
            rest = money::sub(rest, of_product)?;
            shares.push((Of::Product(product.product.clone()), product.rate, of_product));
        }
        let is_rest = shares.is_empty() || sale.items.iter().any(|item| self.rate_of(item).is_none());
        if is_rest {
            shares.extend(self.by_rule(rest, position)?);
        }
        let first = shares.first().map(|share| currency_of(share, sale));
        if shares.iter().all(|share| Some(currency_of(share, sale)) == first) {
            Ok(shares)
        } else {
            self.by_rule(base, position)
        }
    }

    /// What of `base` was paid for prices and products with a rate of their own, by cumulative rounding
    /// over the lines of the sale, so that the lines sum to the base. A line that takes off, such as the
    /// credit of a proration, has no share.
    fn of_products(&self, sale: &Summary, base: i64) -> Result<Vec<(&ProductRate, i64)>, MoneyError> {
        let total = money::sum(sale.items.iter().map(|item| item.amount.max(0)))?;
        if self.product_rates.is_empty() || total == 0 {
            return Ok(Vec::new());
        }
        let mut found: Vec<(&ProductRate, i64)> = Vec::new();
        let (mut paid, mut given) = (0, 0);
        for item in sale.items.iter().filter(|item| item.amount > 0) {
            paid = money::add(paid, item.amount)?;
            let upto = money::share(base, paid, total)?;
            let of_line = money::sub(upto, given)?;
            given = upto;
            let Some(rate) = self.rate_of(item) else { continue };
            match found.iter_mut().find(|(known, _)| known.product == rate.product) {
                Some((_, sum)) => *sum = money::add(*sum, of_line)?,
                None => found.push((rate, of_line)),
            }
        }
        Ok(found)
    }

    /// The rate of a line: that of its price before that of its product.
    fn rate_of(&self, item: &crate::domain::sale::Item) -> Option<&ProductRate> {
        let named = |id: &Option<String>| {
            let id = id.as_deref()?;
            self.product_rates.iter().find(|rate| rate.product == id)
        };
        named(&item.price).or_else(|| named(&item.product))
    }

    /// What the program's rule gives for `base`.
    fn by_rule(&self, base: i64, position: Option<&Position>) -> Result<Vec<Share>, MoneyError> {
        let shares = match &self.commission {
            CommissionRule::Percentage { bps } => vec![(Of::Sale, Rate::Bps(*bps), base)],
            CommissionRule::Flat { amount_cents, currency } => {
                let rate = Rate::Flat { amount_cents: *amount_cents, currency: *currency };
                vec![(Of::Sale, rate, base)]
            }
            CommissionRule::Recurring { rate, .. } => vec![(Of::Sale, *rate, base)],
            CommissionRule::Tiered { basis, mode, tiers } => {
                let before = before(*basis, position);
                match mode {
                    TierMode::Whole => tiers
                        .iter()
                        .rev()
                        .find(|tier| tier.from <= before)
                        .map(|tier| (Of::Tier(tier.from), tier.rate, base))
                        .into_iter()
                        .collect(),
                    TierMode::Marginal => slices(tiers, before, base)?,
                }
            }
        };
        Ok(shares)
    }
}

/// A part of the sale, its rate, and what it was paid, minor units.
type Share = (Of, Rate, i64);

fn currency_of((_, rate, _): &Share, sale: &Summary) -> Currency {
    match rate {
        Rate::Bps(_) => sale.currency,
        Rate::Flat { currency, .. } => *currency,
    }
}

/// What was counted before this sale.
fn before(basis: TierBasis, position: Option<&Position>) -> i64 {
    match (basis, position) {
        (TierBasis::Count, Some(Position::Sales { count, .. })) => *count,
        (TierBasis::Revenue, Some(Position::Sales { revenue, .. })) => *revenue,
        (TierBasis::Count | TierBasis::Revenue, Some(Position::Payments { .. }) | None) => 0,
    }
}

/// The revenue from `before` to `before + base`, cut at the tiers.
fn slices(tiers: &[Tier], before: i64, base: i64) -> Result<Vec<Share>, MoneyError> {
    let end = money::add(before, base)?;
    let mut slices = Vec::new();
    for (place, tier) in tiers.iter().enumerate() {
        let next = tiers.get(place.saturating_add(1)).map_or(i64::MAX, |next| next.from);
        let (low, high) = (tier.from.max(before), next.min(end));
        if high > low {
            slices.push((Of::Tier(tier.from), tier.rate, money::sub(high, low)?));
        }
    }
    Ok(slices)
}

/// The amounts of the parts. Shares are summed exactly and rounded once: each part gets what the rounded
/// sum grows by it.
fn reckon(shares: Vec<Share>, sale: &Summary) -> Result<(Vec<Part>, Currency), MoneyError> {
    let currency = shares.first().map_or(sale.currency, |share| currency_of(share, sale));
    let (mut exact, mut given) = (0_i128, 0);
    let mut parts = Vec::new();
    for (of, rate, base) in shares {
        let amount = match rate {
            Rate::Bps(bps) => {
                exact = exact.checked_add(numerator(base, bps)).ok_or(MoneyError::Overflow)?;
                let upto = money::divide(exact, 10_000)?;
                let amount = money::sub(upto, given)?;
                given = upto;
                amount
            }
            // A sale without money (a trial) earns nothing, flat or not; an event that was reported as
            // one never has any.
            Rate::Flat { amount_cents, .. } if sale.amount > 0 || sale.is_event => amount_cents,
            Rate::Flat { .. } => 0,
        };
        parts.push(Part { of, rate, base, amount });
    }
    Ok((parts, currency))
}

fn numerator(base: i64, bps: BasisPoints) -> i128 {
    i128::from(base).saturating_mul(i128::from(bps.get()))
}
