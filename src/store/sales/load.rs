//! Reading sales with everything that was told of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{corrupt, currency, id_list, object, sale_id, scope};
use crate::{
    domain::{
        book::{AliasKey, Sale},
        fact::{ChargebackReversed, Dispute, DisputePhase, Refund, RefundStatus},
        ids::{OrganizationId, ProgramId, SaleId},
        sale::{Item, Payment},
        time::Timestamp,
    },
    store::{Conn, StoreError},
};

#[derive(sqlx::FromRow)]
struct SaleRow {
    id: String,
    project_id: String,
    organization_id: String,
    realm: String,
    merged_into: Option<String>,
    received_at_us: i64,
}

#[derive(sqlx::FromRow)]
struct PaymentRow {
    kind: String,
    object_id: String,
    sale_id: String,
    parent_kind: Option<String>,
    parent_id: Option<String>,
    amount_minor: i64,
    tax_minor: Option<i64>,
    currency: String,
    paid_at_us: i64,
    customer: Option<String>,
    subscription: Option<String>,
    billing_reason: Option<String>,
    items: Option<String>,
}

#[derive(sqlx::FromRow)]
struct RefundRow {
    refund_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
    status: String,
}

#[derive(sqlx::FromRow)]
struct RefundTotalRow {
    charge_kind: String,
    charge_id: String,
    sale_id: String,
    total_minor: i64,
    currency: String,
}

#[derive(sqlx::FromRow)]
struct DisputeRow {
    dispute_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
    phase: String,
    withdrawn_minor: i64,
    reinstated_minor: i64,
}

#[derive(sqlx::FromRow)]
struct ReversalRow {
    reverse_id: String,
    sale_id: String,
    charge_kind: String,
    charge_id: String,
    amount_minor: i64,
    currency: String,
}

/// Loads sales with all their facts, without decisions and commissions.
pub async fn load(conn: &mut Conn, ids: &BTreeSet<SaleId>) -> Result<BTreeMap<SaleId, Sale>, StoreError> {
    const SALES: &str =
        "SELECT s.id, s.project_id, p.organization_id, s.realm, s.merged_into, s.received_at_us
        FROM sale s JOIN project p ON p.id = s.project_id
        WHERE s.id IN (SELECT value->>'id' FROM json_each($1))";
    const ALIASES: &str = "SELECT project_id, realm, kind, object_id, sale_id FROM sale_alias
        WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const PAYMENTS: &str = "SELECT kind, object_id, sale_id, parent_kind, parent_id, amount_minor, tax_minor,
            currency, paid_at_us, customer, subscription, billing_reason, items
        FROM payment WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    let mut sales = BTreeMap::new();
    if ids.is_empty() {
        return Ok(sales);
    }
    let list = id_list(ids.iter().map(SaleId::as_str));
    for row in conn.q(SALES).bind(&*list).all::<SaleRow>().await? {
        let id = sale_id(&row.id)?;
        let owner = OrganizationId::parse(&row.organization_id)
            .map_err(|_| corrupt("project", "organization_id", &row.project_id))?;
        let mut sale = Sale::open(id.clone(), scope(&row.project_id, row.realm)?, owner);
        sale.merged_into = row.merged_into.as_deref().map(sale_id).transpose()?;
        sale.received_at = Timestamp::from_micros(row.received_at_us);
        sales.insert(id, sale);
    }
    let aliases: Vec<(String, String, String, String, String)> = conn.q(ALIASES).bind(&*list).all().await?;
    for (project, realm, kind, id, owner) in aliases {
        let key = AliasKey { scope: scope(&project, realm)?, object: object("sale_alias", &kind, &id)? };
        of(&mut sales, &owner)?.aliases.insert(key);
    }
    for row in conn.q(PAYMENTS).bind(&*list).all::<PaymentRow>().await? {
        let parent = match (&row.parent_kind, &row.parent_id) {
            (Some(kind), Some(id)) => Some(object("payment", kind, id)?),
            _ => None,
        };
        let payment = Payment {
            parent,
            amount: row.amount_minor,
            tax: row.tax_minor,
            currency: currency("payment", &row.currency, &row.object_id)?,
            at: Timestamp::from_micros(row.paid_at_us),
            customer: row.customer,
            subscription: row.subscription,
            billing_reason: row.billing_reason,
            items: items(row.items.as_deref(), &row.object_id)?,
        };
        let told_by = object("payment", &row.kind, &row.object_id)?;
        of(&mut sales, &row.sale_id)?.facts.payments.insert(told_by, payment);
    }
    load_returns(conn, &list, &mut sales).await?;
    Ok(sales)
}

/// Buyers, refunds, disputes, chargeback reversals and reported holds of the sales in `list`.
async fn load_returns(
    conn: &mut Conn,
    list: &str,
    sales: &mut BTreeMap<SaleId, Sale>,
) -> Result<(), StoreError> {
    const BUYERS: &str = "SELECT sale_id, email FROM sale_buyer
        WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const REFUNDS: &str = "SELECT refund_id, sale_id, charge_kind, charge_id, amount_minor, currency, status
        FROM refund WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const TOTALS: &str = "SELECT charge_kind, charge_id, sale_id, total_minor, currency
        FROM refund_total WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const DISPUTES: &str =
        "SELECT dispute_id, sale_id, charge_kind, charge_id, amount_minor, currency, phase,
            withdrawn_minor, reinstated_minor
        FROM dispute WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const REVERSALS: &str = "SELECT reverse_id, sale_id, charge_kind, charge_id, amount_minor, currency
        FROM chargeback_reversal WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const HOLDS: &str = "SELECT kind, object_id, program_id, sale_id, days
        FROM reported_hold WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))";
    for (sale, email) in conn.q(BUYERS).bind(list).all::<(String, String)>().await? {
        of(sales, &sale)?.facts.buyer_emails.insert(email);
    }
    for row in conn.q(REFUNDS).bind(list).all::<RefundRow>().await? {
        let status = [RefundStatus::AwaitingApproval, RefundStatus::Active, RefundStatus::Void]
            .into_iter()
            .find(|status| status.as_str() == row.status)
            .ok_or_else(|| corrupt("refund", "status", &row.refund_id))?;
        let refund = Refund {
            sale: object("refund", &row.charge_kind, &row.charge_id)?,
            refund_id: row.refund_id.clone(),
            amount: row.amount_minor,
            currency: currency("refund", &row.currency, &row.refund_id)?,
            status,
        };
        of(sales, &row.sale_id)?.facts.refunds.insert(row.refund_id, refund);
    }
    for row in conn.q(TOTALS).bind(list).all::<RefundTotalRow>().await? {
        let charge = object("refund_total", &row.charge_kind, &row.charge_id)?;
        let total = (row.total_minor, currency("refund_total", &row.currency, &row.charge_id)?);
        of(sales, &row.sale_id)?.facts.refund_totals.insert(charge, total);
    }
    for row in conn.q(DISPUTES).bind(list).all::<DisputeRow>().await? {
        let phase = [
            DisputePhase::Inquiry,
            DisputePhase::InquiryClosed,
            DisputePhase::Open,
            DisputePhase::Lost,
            DisputePhase::Won,
        ]
        .into_iter()
        .find(|phase| phase.as_str() == row.phase)
        .ok_or_else(|| corrupt("dispute", "phase", &row.dispute_id))?;
        let dispute = Dispute {
            sale: object("dispute", &row.charge_kind, &row.charge_id)?,
            dispute_id: row.dispute_id.clone(),
            amount: row.amount_minor,
            currency: currency("dispute", &row.currency, &row.dispute_id)?,
            phase,
            withdrawn: row.withdrawn_minor,
            reinstated: row.reinstated_minor,
        };
        of(sales, &row.sale_id)?.facts.disputes.insert(row.dispute_id, dispute);
    }
    for row in conn.q(REVERSALS).bind(list).all::<ReversalRow>().await? {
        let reversal = ChargebackReversed {
            sale: object("chargeback_reversal", &row.charge_kind, &row.charge_id)?,
            reverse_id: row.reverse_id.clone(),
            amount: row.amount_minor,
            currency: currency("chargeback_reversal", &row.currency, &row.reverse_id)?,
        };
        of(sales, &row.sale_id)?.facts.chargeback_reversals.insert(row.reverse_id, reversal);
    }
    let holds: Vec<(String, String, String, String, i64)> = conn.q(HOLDS).bind(list).all().await?;
    for (kind, id, program, sale, days) in holds {
        let order = object("reported_hold", &kind, &id)?;
        let program = ProgramId::parse(&program).map_err(|_| corrupt("reported_hold", "program_id", &id))?;
        let days = u16::try_from(days).map_err(|_| corrupt("reported_hold", "days", &id))?;
        of(sales, &sale)?.facts.merge_hold(&order, &program, days);
    }
    Ok(())
}

fn of<'a>(sales: &'a mut BTreeMap<SaleId, Sale>, id: &str) -> Result<&'a mut Sale, StoreError> {
    let key = sale_id(id)?;
    sales.get_mut(&key).ok_or_else(|| corrupt("sale", "id", id))
}

/// The lines of a payment as stored.
fn items(stored: Option<&str>, payment: &str) -> Result<Vec<Item>, StoreError> {
    stored.map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(text).map_err(|_| corrupt("payment", "items", payment))
    })
}
