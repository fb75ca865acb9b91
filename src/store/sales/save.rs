//! Writing sales: their facts, and the summary of what was folded.

use std::collections::BTreeMap;

use serde_json::json;

use super::{aliases_with_sales, write_rows};
use crate::{
    domain::{
        book::{AliasKey, Book, Folded, Sale},
        ids::SaleId,
        sale::{SaleStatus, Summary},
    },
    store::{StoreError, Tx},
};

/// Writes folded sales: aliases, facts, cached summary, and the events that touched them. Fact rows are
/// merged in memory before, under the locks of their sales, so what is written replaces what was there.
pub async fn save(tx: &mut Tx, book: &Book, folded: &[Folded]) -> Result<(), StoreError> {
    let sales: Vec<(&Sale, &Folded)> =
        folded.iter().filter_map(|folded| Some((book.sale(&folded.sale_id)?, folded))).collect();
    save_summaries(tx, &sales).await?;
    save_aliases(tx, &sales).await?;
    save_payments(tx, &sales).await?;
    save_refunds(tx, &sales).await?;
    save_disputes(tx, &sales).await?;
    save_holds(tx, &sales).await
}

async fn save_summaries(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE sale SET merged_into = k.merged_into, status = k.status, currency = k.currency,
            amount_minor = k.amount, tax_minor = k.tax, refunded_minor = k.refunded,
            disputed_minor = k.disputed, paid_at_us = k.paid_at, received_at_us = k.received_at
        FROM (SELECT value->>'id' AS id, value->>'merged_into' AS merged_into, value->>'status' AS status,
                  value->>'currency' AS currency, CAST(value->>'amount' AS BIGINT) AS amount,
                  CAST(value->>'tax' AS BIGINT) AS tax, CAST(value->>'refunded' AS BIGINT) AS refunded,
                  CAST(value->>'disputed' AS BIGINT) AS disputed, CAST(value->>'paid_at' AS BIGINT) AS paid_at,
                  CAST(value->>'received_at' AS BIGINT) AS received_at
              FROM json_each($1)) AS k
        WHERE sale.id = k.id";
    let rows: Vec<_> = sales
        .iter()
        .map(|(sale, folded)| {
            let summary = folded.summary.as_ref();
            json!({
                "id": sale.id, "merged_into": sale.merged_into,
                "status": summary.map_or(SaleStatus::Open, Summary::status).as_str(),
                "currency": summary.map(|summary| summary.currency),
                "amount": summary.map(|summary| summary.amount),
                "tax": summary.and_then(|summary| summary.tax),
                "refunded": summary.map_or(0, |summary| summary.refunded),
                "disputed": summary.map_or(0, |summary| summary.disputed),
                "paid_at": summary.map(|summary| summary.paid_at.as_micros()),
                "received_at": sale.received_at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}

async fn save_aliases(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO sale_alias (project_id, realm, kind, object_id, sale_id)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s' FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, object_id) DO UPDATE SET sale_id = excluded.sale_id
            WHERE sale_alias.sale_id <> excluded.sale_id";
    let aliases: BTreeMap<&AliasKey, &SaleId> =
        sales.iter().flat_map(|(sale, _)| sale.aliases.iter().map(|alias| (alias, &sale.id))).collect();
    if !aliases.is_empty() {
        tx.q(SQL).bind(aliases_with_sales(aliases.into_iter())).exec().await?;
    }
    Ok(())
}

async fn save_payments(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const PAYMENTS: &str = "INSERT INTO payment (project_id, realm, kind, object_id, sale_id, parent_kind,
            parent_id, amount_minor, tax_minor, currency, paid_at_us, customer, subscription, billing_reason,
            items)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s', value->>'parent_kind',
            value->>'parent_id', CAST(value->>'amount' AS BIGINT), CAST(value->>'tax' AS BIGINT),
            value->>'currency', CAST(value->>'at' AS BIGINT), value->>'customer', value->>'subscription',
            value->>'billing_reason', value->>'items'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, kind, object_id) DO UPDATE SET sale_id = excluded.sale_id,
            parent_kind = excluded.parent_kind, parent_id = excluded.parent_id,
            amount_minor = excluded.amount_minor, tax_minor = excluded.tax_minor,
            currency = excluded.currency, paid_at_us = excluded.paid_at_us, customer = excluded.customer,
            subscription = excluded.subscription, billing_reason = excluded.billing_reason,
            items = excluded.items";
    const BUYERS: &str = "INSERT INTO sale_buyer (sale_id, email)
        SELECT value->>'s', value->>'email' FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, email) DO NOTHING";
    let payments = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.payments.iter().map(|(object, payment)| {
                let scope = sale.scope_of(object);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "k": object.kind.as_str(),
                    "o": object.id, "s": sale.id,
                    "parent_kind": payment.parent.as_ref().map(|parent| parent.kind.as_str()),
                    "parent_id": payment.parent.as_ref().map(|parent| &parent.id),
                    "amount": payment.amount, "tax": payment.tax, "currency": payment.currency,
                    "at": payment.at.as_micros(), "customer": payment.customer,
                    "subscription": payment.subscription, "billing_reason": payment.billing_reason,
                    "items": (!payment.items.is_empty()).then(|| json!(payment.items).to_string()),
                })
            })
        })
        .collect();
    write_rows(tx, PAYMENTS, payments).await?;
    let buyers = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.buyer_emails.iter().map(|email| json!({ "s": sale.id, "email": email }))
        })
        .collect();
    write_rows(tx, BUYERS, buyers).await
}

async fn save_refunds(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const REFUNDS: &str = "INSERT INTO refund (project_id, realm, refund_id, sale_id, charge_kind, charge_id,
            amount_minor, currency, status)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency', value->>'status'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, refund_id) DO UPDATE SET sale_id = excluded.sale_id,
            charge_kind = excluded.charge_kind, charge_id = excluded.charge_id,
            amount_minor = excluded.amount_minor, currency = excluded.currency, status = excluded.status";
    const TOTALS: &str = "INSERT INTO refund_total (project_id, realm, charge_kind, charge_id, sale_id,
            total_minor, currency)
        SELECT value->>'p', value->>'r', value->>'k', value->>'o', value->>'s',
            CAST(value->>'total' AS BIGINT), value->>'currency'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, charge_kind, charge_id) DO UPDATE SET sale_id = excluded.sale_id,
            total_minor = excluded.total_minor, currency = excluded.currency";
    let refunds = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.refunds.values().map(|refund| {
                let scope = sale.scope_of(&refund.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": refund.refund_id,
                    "s": sale.id, "k": refund.sale.kind.as_str(), "o": refund.sale.id,
                    "amount": refund.amount, "currency": refund.currency, "status": refund.status.as_str(),
                })
            })
        })
        .collect();
    write_rows(tx, REFUNDS, refunds).await?;
    let totals = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.refund_totals.iter().map(|(charge, (total, currency))| {
                let scope = sale.scope_of(charge);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "s": sale.id,
                    "k": charge.kind.as_str(), "o": charge.id, "total": total, "currency": currency,
                })
            })
        })
        .collect();
    write_rows(tx, TOTALS, totals).await
}

async fn save_disputes(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const DISPUTES: &str =
        "INSERT INTO dispute (project_id, realm, dispute_id, sale_id, charge_kind, charge_id,
            amount_minor, currency, phase, withdrawn_minor, reinstated_minor)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency', value->>'phase',
            CAST(value->>'withdrawn' AS BIGINT), CAST(value->>'reinstated' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, dispute_id) DO UPDATE SET sale_id = excluded.sale_id,
            charge_kind = excluded.charge_kind, charge_id = excluded.charge_id,
            amount_minor = excluded.amount_minor, currency = excluded.currency, phase = excluded.phase,
            withdrawn_minor = excluded.withdrawn_minor, reinstated_minor = excluded.reinstated_minor";
    const REVERSALS: &str = "INSERT INTO chargeback_reversal (project_id, realm, reverse_id, sale_id,
            charge_kind, charge_id, amount_minor, currency)
        SELECT value->>'p', value->>'r', value->>'id', value->>'s', value->>'k', value->>'o',
            CAST(value->>'amount' AS BIGINT), value->>'currency'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, reverse_id) DO UPDATE SET sale_id = excluded.sale_id,
            amount_minor = excluded.amount_minor";
    let disputes = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.disputes.values().map(|dispute| {
                let scope = sale.scope_of(&dispute.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": dispute.dispute_id,
                    "s": sale.id, "k": dispute.sale.kind.as_str(), "o": dispute.sale.id,
                    "amount": dispute.amount, "currency": dispute.currency, "phase": dispute.phase.as_str(),
                    "withdrawn": dispute.withdrawn, "reinstated": dispute.reinstated,
                })
            })
        })
        .collect();
    write_rows(tx, DISPUTES, disputes).await?;
    let reversals = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.chargeback_reversals.values().map(|reversal| {
                let scope = sale.scope_of(&reversal.sale);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "id": reversal.reverse_id,
                    "s": sale.id, "k": reversal.sale.kind.as_str(), "o": reversal.sale.id,
                    "amount": reversal.amount, "currency": reversal.currency,
                })
            })
        })
        .collect();
    write_rows(tx, REVERSALS, reversals).await
}

/// A report out of an archive may name a program that is not in this database: no commission is of that one, and
/// its sale must not be lost over it.
async fn save_holds(tx: &mut Tx, sales: &[(&Sale, &Folded)]) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO reported_hold (project_id, realm, kind, object_id, program_id, sale_id, days)
        SELECT k.value->>'p', k.value->>'r', k.value->>'k', k.value->>'o', g.id, k.value->>'s',
            CAST(k.value->>'days' AS BIGINT)
        FROM json_each($1) k JOIN program g ON g.id = k.value->>'g' WHERE TRUE
        ON CONFLICT (object_id, kind, realm, project_id, program_id)
            DO UPDATE SET sale_id = excluded.sale_id, days = excluded.days";
    let holds = sales
        .iter()
        .flat_map(|(sale, _)| {
            sale.facts.holds.iter().map(|((order, program), days)| {
                let scope = sale.scope_of(order);
                json!({
                    "p": scope.project_id, "r": scope.realm.as_str(), "k": order.kind.as_str(),
                    "o": order.id, "g": program, "s": sale.id, "days": days,
                })
            })
        })
        .collect();
    write_rows(tx, SQL, holds).await
}
