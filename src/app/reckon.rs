//! The reckoning of a commission in words: from what the buyer paid, part by part, to what is kept. The
//! numbers come from the domain; here they only get their sentences.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{
    money::{Currency, Money, MoneyError},
    sale::Summary,
    terms::{CommissionBase, Earned, FlatOnPartial, Limit, Of, Part, Position, Rate, Terms},
};

/// One step of a reckoning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ExplanationStep)]
pub struct Step {
    /// A stable word for what the step gives.
    pub what: &'static str,
    /// How it came about, in a sentence for people.
    pub how: String,
    /// Minor units of `currency`.
    pub amount_minor: i64,
    /// Currency of the amount.
    pub currency: Currency,
}

/// The steps from what was paid to the commission.
pub fn earned(
    terms: &Terms,
    version: i64,
    sale: &Summary,
    position: Option<&Position>,
    earned: &Earned,
) -> Vec<Step> {
    let mut steps = vec![Step {
        what: "base",
        how: base(terms, sale),
        amount_minor: earned.base,
        currency: sale.currency,
    }];
    if let Some(position) = position {
        steps.push(place(position, sale));
    }
    let of_sale = |part: &Part| sentence(part, version);
    match (earned.limit, earned.parts.as_slice()) {
        (Some(limit), _) => {
            steps.push(Step {
                what: "commission",
                how: format!("{}, terms version {version}", reached(limit)),
                amount_minor: 0,
                currency: earned.currency,
            });
        }
        (None, [part]) => steps.push(Step {
            what: "commission",
            how: of_sale(part),
            amount_minor: earned.amount,
            currency: earned.currency,
        }),
        (None, parts) => {
            steps.extend(parts.iter().map(|part| Step {
                what: "part",
                how: of_sale(part),
                amount_minor: part.amount,
                currency: earned.currency,
            }));
            steps.push(Step {
                what: "commission",
                how: format!("the sum of {} parts, rounded once", parts.len()),
                amount_minor: earned.amount,
                currency: earned.currency,
            });
        }
    }
    steps
}

/// What is kept when part of the sale was given back; none where nothing was.
pub fn kept(terms: &Terms, sale: &Summary, earned: &Earned) -> Result<Option<Step>, MoneyError> {
    if sale.taken == 0 {
        return Ok(None);
    }
    let kept = terms.kept(earned, sale)?;
    let flat = match terms.flat_on_partial {
        FlatOnPartial::Keep if sale.taken < sale.amount => earned.flat()?,
        FlatOnPartial::Keep | FlatOnPartial::Proportional => 0,
    };
    let shrinking = earned.amount.saturating_sub(flat);
    let rest = sale.amount.saturating_sub(sale.taken);
    let whole = "a flat commission stays whole until all of the sale is given back";
    let in_proportion = format!(
        "refunded {} and disputed {} of {}, so {} × {} ÷ {}: {}",
        sale.refunded,
        sale.disputed,
        sale.amount,
        shrinking,
        rest,
        sale.amount,
        rounding(i128::from(shrinking) * i128::from(rest), i128::from(sale.amount.max(1)))
    );
    let how = match (flat, shrinking) {
        (0, _) => in_proportion,
        (_, 0) => whole.to_owned(),
        (flat, _) => format!("{whole}, here {flat}; of the other parts: {in_proportion}"),
    };
    Ok(Some(Step { what: "kept_of_sale", how, amount_minor: kept, currency: earned.currency }))
}

fn base(terms: &Terms, sale: &Summary) -> String {
    let shown = |minor| Money { minor, currency: sale.currency };
    match (terms.commission_base, sale.tax) {
        (CommissionBase::Gross, _) => format!("what the buyer paid: {}", shown(sale.amount)),
        (CommissionBase::NetOfTax, Some(tax)) => {
            format!("paid {} less tax {}", shown(sale.amount), shown(tax))
        }
        (CommissionBase::NetOfTax, None) => {
            format!("paid {}; no event told the tax yet", shown(sale.amount))
        }
    }
}

fn place(position: &Position, sale: &Summary) -> Step {
    let (how, amount_minor) = match position {
        Position::Sales { count, revenue } => {
            let brought = Money { minor: *revenue, currency: sale.currency };
            (format!("{count} accepted sales before this one, which brought {brought}"), *revenue)
        }
        Position::Payments { number, first_paid_at } => {
            (format!("payment {number} of the customer, the first of them at {first_paid_at}"), sale.amount)
        }
    };
    Step { what: "position", how, amount_minor, currency: sale.currency }
}

fn reached(limit: Limit) -> String {
    match limit {
        Limit::Payments { number, max } => {
            format!("nothing: it is payment {number} of the customer, and {max} count")
        }
        Limit::Months { until } => format!("nothing: the customer's payments counted until {until}"),
        Limit::BelowTiers => "nothing: the first tier is not reached".to_owned(),
    }
}

fn sentence(part: &Part, version: i64) -> String {
    let source = match &part.of {
        Of::Sale => format!("terms version {version}"),
        Of::Affiliate => "the affiliate's own rate".to_owned(),
        Of::Product(id) => format!("the rate of `{id}`, terms version {version}"),
        Of::Tier(from) => format!("the tier from {from}, terms version {version}"),
    };
    match part.rate {
        Rate::Bps(bps) => format!(
            "{} × {} basis points, {source}: {}",
            part.base,
            bps.get(),
            rounding(i128::from(part.base) * i128::from(bps.get()), 10_000)
        ),
        Rate::Flat { .. } => format!("flat amount for each paid sale, {source}"),
    }
}

/// A quotient with its remainder and what rounding made of it.
pub fn rounding(product: i128, divisor: i128) -> String {
    let (whole, rest) = (product.div_euclid(divisor), product.rem_euclid(divisor));
    match rest * 2 {
        0 => format!("exactly {whole}"),
        doubled if doubled >= divisor => {
            format!("{whole} and {rest}/{divisor}, rounded half up to {}", whole + 1)
        }
        _ => format!("{whole} and {rest}/{divisor}, rounded down to {whole}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_says_what_was_cut_or_added() {
        assert_eq!(rounding(20_000, 10_000), "exactly 2");
        assert_eq!(rounding(499_750, 10_000), "49 and 9750/10000, rounded half up to 50");
        assert_eq!(rounding(13_334_000, 10_000), "1333 and 4000/10000, rounded down to 1333");
    }
}
