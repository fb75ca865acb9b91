//! What the demonstration prints: the tables, or the same as one document.

use serde_json::{Value, json};

use crate::{
    app::demo::{BalanceLine, Line, NotPaid, Outcome, PayoutLine},
    cli::{Format, output},
    domain::money::Money,
};

/// Prints everything.
pub(super) fn show(format: Format, outcome: &Outcome, not_paid: &[NotPaid]) -> anyhow::Result<()> {
    match format {
        Format::Json => Ok(output::object(format, &document(outcome, not_paid), &[])?),
        Format::Table => tables(outcome, not_paid),
    }
}

fn document(outcome: &Outcome, not_paid: &[NotPaid]) -> Value {
    let commission = |line: &Line| {
        json!({
            "shop": line.shop, "affiliate": line.affiliate, "sale": line.sale,
            "currency": line.earned.currency, "earned": line.earned.minor, "clawed": line.clawed.minor,
            "state": line.state, "why": line.why,
        })
    };
    let balance = |line: &BalanceLine| {
        json!({
            "shop": line.shop, "affiliate": line.affiliate, "currency": line.held.currency,
            "earned": line.earned.minor, "clawed": line.clawed.minor, "held": line.held.minor,
            "payable": line.payable.minor, "in_transit": line.in_transit.minor, "paid": line.paid.minor,
            "fee": line.fee.minor, "came_back": line.came_back.minor,
        })
    };
    let payout = |line: &PayoutLine| {
        json!({
            "shop": line.shop, "affiliate": line.affiliate, "currency": line.due.currency,
            "due": line.due.minor, "fee": line.fee.minor, "send": line.send.minor,
            "came_back": line.came_back.minor, "fee_back": line.fee_back.minor,
            "state": line.state.as_str(), "transfer_id": line.transfer_id, "story": line.story,
        })
    };
    let passed_over = |line: &NotPaid| {
        json!({
            "shop": line.shop, "affiliate": line.affiliate, "currency": line.due.currency,
            "due": line.due.minor, "reason": line.reason,
        })
    };
    json!({
        "commissions": outcome.commissions.iter().map(commission).collect::<Vec<_>>(),
        "balances": outcome.balances.iter().map(balance).collect::<Vec<_>>(),
        "payouts": outcome.payouts.iter().map(payout).collect::<Vec<_>>(),
        "not_paid": not_paid.iter().map(passed_over).collect::<Vec<_>>(),
    })
}

fn tables(outcome: &Outcome, not_paid: &[NotPaid]) -> anyhow::Result<()> {
    for shop in outcome.commissions.chunk_by(|a, b| a.shop == b.shop) {
        output::line(&format!("\n{}", shop[0].shop))?;
        output::table(
            &["affiliate", "sale", "earned", "clawed", "state", "why"],
            shop.iter().map(|line| {
                let sale = line.sale.map_or_else(|| "-".to_owned(), |sale| sale.to_string());
                let (earned, clawed) = (line.earned.to_string(), line.clawed.to_string());
                vec![line.affiliate.clone(), sale, earned, clawed, line.state.to_owned(), line.why.clone()]
            }),
        )?;
    }
    output::line("\nPayouts")?;
    output::table(
        &["affiliate", "due", "fee", "sent", "state", "transfer", "what happened", "shop"],
        outcome.payouts.iter().map(|line| {
            let transfer = line.transfer_id.clone().unwrap_or_else(|| "-".to_owned());
            let mut cells = vec![line.affiliate.clone()];
            cells.extend(amounts([line.due, line.fee, line.send]));
            cells.extend([line.state.as_str().to_owned(), transfer, line.story.clone(), line.shop.clone()]);
            cells
        }),
    )?;
    if !not_paid.is_empty() {
        output::line("\nNot paid")?;
        output::table(
            &["affiliate", "payable", "why", "shop"],
            not_paid.iter().map(|line| {
                vec![line.affiliate.clone(), line.due.to_string(), line.reason.to_owned(), line.shop.clone()]
            }),
        )?;
    }
    output::line("\nTotals")?;
    output::table(
        &[
            "affiliate",
            "earned",
            "clawed",
            "held",
            "payable",
            "in transit",
            "paid",
            "fee",
            "came back",
            "shop",
        ],
        outcome.balances.iter().map(|line| {
            let mut cells = vec![line.affiliate.clone()];
            cells.extend(amounts([line.earned, line.clawed, line.held, line.payable]));
            cells.extend(amounts([line.in_transit, line.paid, line.fee, line.came_back]));
            cells.push(line.shop.clone());
            cells
        }),
    )?;
    Ok(())
}

fn amounts<const N: usize>(amounts: [Money; N]) -> [String; N] {
    amounts.map(|money| money.to_string())
}
