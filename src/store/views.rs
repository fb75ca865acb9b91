//! Rows as they are shown: conversions, commissions, balances, entries, decisions. Reading only.

use serde_json::{Value, json};

use super::{Conn, StoreError, sales::id_list};
use crate::domain::{
    commission::ConversionStatus,
    ids::{CommissionId, ConversionId, DecisionId, OrganizationId, ProgramId, SaleId},
};

/// A conversion with the state of its direct commission.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ConversionRow {
    /// Id.
    pub id: String,
    /// The sale.
    pub sale_id: String,
    /// Who referred it.
    pub enrollment_id: String,
    /// The program.
    pub program_id: String,
    /// The project that sold.
    pub project_id: String,
    /// `event`, `payment` or `entitlement`.
    pub kind: String,
    /// The owner's own id of the order.
    pub external_id: Option<String>,
    /// What carried the affiliate to the sale.
    pub attributed_by: String,
    /// The code, where one was told.
    pub code: Option<String>,
    /// The touchpoint behind it, if one was.
    pub touchpoint_id: Option<String>,
    /// When that was clicked, microseconds.
    pub touched_at_us: Option<i64>,
    /// When it was first recorded, microseconds.
    pub created_at_us: i64,
    /// The direct commission.
    pub commission_id: String,
    /// Its state.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// The version of the terms that it is reckoned by.
    pub terms_version: i64,
    /// Where the sale stands among others, as JSON.
    pub position: Option<String>,
    /// Its currency.
    pub currency: String,
    /// Accrued, minor units.
    pub earned_minor: i64,
    /// Taken back, minor units.
    pub clawed_minor: i64,
}

/// The states that are called `status`, as the queries take them; none where all are wanted.
pub(super) fn states_of(status: Option<ConversionStatus>) -> Option<String> {
    let states: Value = status?.states().map(|state| json!({ "state": state.as_str() })).collect();
    Some(states.to_string())
}

/// Conversions of a program, all or those of a status, newest first, before the given time and id.
pub async fn list_conversions(
    conn: &mut Conn,
    program: &ProgramId,
    status: Option<ConversionStatus>,
    before: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<ConversionRow>, StoreError> {
    const SQL: &str = "SELECT v.id, v.sale_id, v.enrollment_id, v.program_id, v.project_id, v.kind,
            v.external_id, v.attributed_by, v.code, v.touchpoint_id, t.at_us AS touched_at_us, v.created_at_us,
            c.id AS commission_id, c.state, c.reason,
            c.terms_version, c.position, c.currency, c.earned_minor, c.clawed_minor
        FROM conversion v JOIN commission c ON c.conversion_id = v.id AND c.level = 0
            LEFT JOIN touchpoint t ON t.id = v.touchpoint_id
        WHERE v.program_id = $1 AND ($2 IS NULL OR (v.created_at_us, v.id) < ($2, $3))
            AND ($5 IS NULL OR c.state IN (SELECT value->>'state' FROM json_each($5)))
        ORDER BY v.created_at_us DESC, v.id DESC LIMIT $4";
    let (at, id) = before.unzip();
    let states = states_of(status);
    conn.q(SQL).bind(program.as_str()).bind(at).bind(id).bind(limit).bind(states).all().await
}

/// One conversion.
pub async fn find_conversion(
    conn: &mut Conn,
    id: &ConversionId,
) -> Result<Option<ConversionRow>, StoreError> {
    const SQL: &str = "SELECT v.id, v.sale_id, v.enrollment_id, v.program_id, v.project_id, v.kind,
            v.external_id, v.attributed_by, v.code, v.touchpoint_id, t.at_us AS touched_at_us, v.created_at_us,
            c.id AS commission_id, c.state, c.reason,
            c.terms_version, c.position, c.currency, c.earned_minor, c.clawed_minor
        FROM conversion v JOIN commission c ON c.conversion_id = v.id AND c.level = 0
            LEFT JOIN touchpoint t ON t.id = v.touchpoint_id
        WHERE v.id = $1";
    conn.q(SQL).bind(id.as_str()).one().await
}

/// What stops or stopped a commission.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FlagRow {
    /// What it is, such as `self_referral`.
    pub kind: String,
    /// Which one: a dispute, a subscription, an enrollment.
    pub cause_id: String,
    /// Since when, microseconds.
    pub raised_at_us: i64,
    /// Until when, microseconds.
    pub cleared_at_us: Option<i64>,
    /// The decision that cleared it, or `resolved` when the cause went away.
    pub cleared_by: Option<String>,
}

/// The flags of a commission, oldest first.
pub async fn list_flags(conn: &mut Conn, commission: &str) -> Result<Vec<FlagRow>, StoreError> {
    const SQL: &str = "SELECT cause_kind AS kind, cause_id, raised_at_us, cleared_at_us, cleared_by
        FROM commission_flag WHERE commission_id = $1 ORDER BY raised_at_us, cause_kind, cause_id";
    conn.q(SQL).bind(commission).all().await
}

/// The conversion that the sale of an order earns by: the owner's own id of the order leads to the sale.
/// Conversions that the sale was merged or attributed away from are history and never it.
pub async fn find_reported_conversion(
    conn: &mut Conn,
    project: &str,
    external_id: &str,
) -> Result<Option<ConversionRow>, StoreError> {
    const SQL: &str = "SELECT v.id, v.sale_id, v.enrollment_id, v.program_id, v.project_id, v.kind,
            v.external_id, v.attributed_by, v.code, v.touchpoint_id, t.at_us AS touched_at_us, v.created_at_us,
            c.id AS commission_id, c.state, c.reason,
            c.terms_version, c.position, c.currency, c.earned_minor, c.clawed_minor
        FROM sale_alias a JOIN conversion v ON v.sale_id = a.sale_id
            JOIN commission c ON c.conversion_id = v.id AND c.level = 0
            LEFT JOIN touchpoint t ON t.id = v.touchpoint_id
        WHERE a.project_id = $1 AND a.realm IN ('external/live', 'external/test')
            AND a.kind = 'external' AND a.object_id = $2
            AND (c.reason IS NULL OR c.reason NOT IN ('merged', 'reattributed'))
        ORDER BY v.id LIMIT 1";
    conn.q(SQL).bind(project).bind(external_id).one().await
}

/// The sale at the end of a chain of merges, which is the sale itself where it was not merged; `None`
/// when there is no such sale.
pub async fn find_survivor(conn: &mut Conn, sale: &SaleId) -> Result<Option<SaleId>, StoreError> {
    const SQL: &str = "WITH RECURSIVE chain (id, merged_into) AS (
            SELECT id, merged_into FROM sale WHERE id = $1
            UNION SELECT s.id, s.merged_into FROM chain c JOIN sale s ON s.id = c.merged_into)
        SELECT id FROM chain WHERE merged_into IS NULL";
    let survivor: Option<String> = conn.q(SQL).bind(sale.as_str()).scalar().await?;
    survivor
        .map(|id| SaleId::parse(&id).map_err(|_| super::sales::corrupt("sale", "id", sale.as_str())))
        .transpose()
}

/// The owner of a program.
pub async fn program_owner(conn: &mut Conn, id: &ProgramId) -> Result<Option<OrganizationId>, StoreError> {
    const SQL: &str = "SELECT organization_id FROM program WHERE id = $1";
    let owner: Option<String> = conn.q(SQL).bind(id.as_str()).scalar().await?;
    owner
        .map(|owner| {
            OrganizationId::parse(&owner)
                .map_err(|_| super::sales::corrupt("program", "organization_id", id.as_str()))
        })
        .transpose()
}

/// A commission.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CommissionRow {
    /// Id.
    pub id: String,
    /// The conversion.
    pub conversion_id: String,
    /// The sale.
    pub sale_id: String,
    /// Who earns.
    pub enrollment_id: String,
    /// Who pays.
    pub program_id: String,
    /// 0 for the direct affiliate.
    pub level: i64,
    /// Currency of the amounts.
    pub currency: String,
    /// What the rule was applied to, minor units of the sale's currency.
    pub base_minor: i64,
    /// What the rule gives, minor units.
    pub amount_minor: i64,
    /// Accrued, minor units.
    pub earned_minor: i64,
    /// Taken back, minor units.
    pub clawed_minor: i64,
    /// Still held, minor units.
    pub held_minor: i64,
    /// Released to the payable side, minor units.
    pub released_minor: i64,
    /// State.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// The version of the terms that it is reckoned by.
    pub terms_version: i64,
    /// Where the sale stands among others, as JSON.
    pub position: Option<String>,
    /// When the sale was paid, microseconds.
    pub paid_at_us: i64,
    /// When time alone can change it next, microseconds.
    pub due_at_us: Option<i64>,
    /// When it was first recorded, microseconds.
    pub created_at_us: i64,
}

/// Commissions of a program, newest first, before the given time and id.
pub async fn list_commissions(
    conn: &mut Conn,
    program: &ProgramId,
    before: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<CommissionRow>, StoreError> {
    const SQL: &str =
        "SELECT id, conversion_id, sale_id, enrollment_id, program_id, level, currency, base_minor,
            amount_minor, earned_minor, clawed_minor, held_minor, released_minor, state, reason,
            terms_version, position, paid_at_us,
            due_at_us, created_at_us
        FROM commission WHERE program_id = $1 AND ($2 IS NULL OR (created_at_us, id) < ($2, $3))
        ORDER BY created_at_us DESC, id DESC LIMIT $4";
    let (at, id) = before.unzip();
    conn.q(SQL).bind(program.as_str()).bind(at).bind(id).bind(limit).all().await
}

/// Which sale and program a commission belongs to, and who owns the program.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CommissionPlace {
    /// The sale.
    pub sale_id: String,
    /// The owner of the program.
    pub organization_id: String,
    /// What carried the affiliate to the sale.
    pub attributed_by: String,
    /// The code, where one was told.
    pub code: Option<String>,
}

/// Where a commission belongs.
pub async fn place_commission(
    conn: &mut Conn,
    id: &CommissionId,
) -> Result<Option<CommissionPlace>, StoreError> {
    const SQL: &str = "SELECT c.sale_id, g.organization_id, v.attributed_by, v.code
        FROM commission c JOIN program g ON g.id = c.program_id JOIN conversion v ON v.id = c.conversion_id
        WHERE c.id = $1";
    conn.q(SQL).bind(id.as_str()).one().await
}

/// What one enrollment has in one currency, minor units.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct BalanceRow {
    /// Whose.
    pub enrollment_id: String,
    /// Currency.
    pub currency: String,
    /// Earned, not payable yet.
    pub held: i64,
    /// Payable; negative is debt.
    pub payable: i64,
    /// Reserved by payouts under way.
    pub in_transit: i64,
    /// Paid out.
    pub paid: i64,
}

/// Balances of the enrollments of a program, by enrollment and currency, after the given pair.
pub async fn list_balances(
    conn: &mut Conn,
    program: &ProgramId,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<Vec<BalanceRow>, StoreError> {
    const SQL: &str = "SELECT e.id AS enrollment_id, b.currency,
            CAST(SUM(CASE WHEN b.account = 'held' THEN b.credit_minor - b.debit_minor ELSE 0 END) AS BIGINT)
                AS held,
            CAST(SUM(CASE WHEN b.account = 'payable' THEN b.credit_minor - b.debit_minor ELSE 0 END) AS BIGINT)
                AS payable,
            CAST(SUM(CASE WHEN b.account = 'in_transit' THEN b.credit_minor - b.debit_minor ELSE 0 END) AS BIGINT)
                AS in_transit,
            CAST(SUM(CASE WHEN b.account = 'paid' THEN b.credit_minor - b.debit_minor ELSE 0 END) AS BIGINT)
                AS paid
        FROM enrollment e JOIN balance b ON b.owner_id = e.id
        WHERE e.program_id = $1 AND ($2 IS NULL OR (e.id, b.currency) > ($2, $3))
        GROUP BY e.id, b.currency ORDER BY e.id, b.currency LIMIT $4";
    let (enrollment, currency) = after.unzip();
    conn.q(SQL).bind(program.as_str()).bind(enrollment).bind(currency).bind(limit).all().await
}

/// The sale that an id leads to: its own id or any provider's, among the projects of `owner` where one
/// is given. Several sales can carry one provider id in different projects; the newest is taken.
pub async fn find_sale(
    conn: &mut Conn,
    id: &str,
    owner: Option<&OrganizationId>,
) -> Result<Option<String>, StoreError> {
    const SQL: &str = "SELECT s.id FROM sale s JOIN project p ON p.id = s.project_id
        WHERE (s.id = $1 OR s.id IN (SELECT sale_id FROM sale_alias WHERE object_id = $1))
            AND ($2 IS NULL OR p.organization_id = $2)
        ORDER BY s.id DESC LIMIT 1";
    conn.q(SQL).bind(id).bind(owner.map(OrganizationId::as_str)).scalar().await
}

/// A journal entry, with the signed change it makes to the affiliate's side.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EntryRow {
    /// Id.
    pub id: String,
    /// The commission.
    pub commission_id: String,
    /// 1, 2, 3, …
    pub revision: i64,
    /// What it does.
    pub kind: String,
    /// Currency.
    pub currency: String,
    /// The amount moved, minor units, positive.
    pub amount_minor: i64,
    /// The account debited.
    pub debit_account: String,
    /// The account credited.
    pub credit_account: String,
    /// The events and decisions behind it, JSON.
    pub causes: String,
    /// When it was posted, microseconds.
    pub created_at_us: i64,
}

/// The entries of all commissions of a sale, in order.
pub async fn list_entries(conn: &mut Conn, sale: &SaleId) -> Result<Vec<EntryRow>, StoreError> {
    // Every entry of a commission has exactly one debit and one credit line.
    const SQL: &str = "SELECT e.id, e.commission_id, e.revision, e.kind, e.currency, d.amount_minor,
            d.account AS debit_account, k.account AS credit_account, e.causes, e.created_at_us
        FROM commission c JOIN entry e ON e.commission_id = c.id
            JOIN posting d ON d.entry_id = e.id AND d.side = 'debit'
            JOIN posting k ON k.entry_id = e.id AND k.side = 'credit'
        WHERE c.sale_id = $1 ORDER BY e.created_at_us, e.commission_id, e.revision";
    conn.q(SQL).bind(sale.as_str()).all().await
}

/// An event that said something about a sale.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SaleEventRow {
    /// Our id.
    pub id: String,
    /// Provider.
    pub provider: String,
    /// The provider's id.
    pub provider_event_id: String,
    /// The provider's type.
    pub event_type: String,
    /// When it was received, microseconds.
    pub received_at_us: i64,
}

/// The events that said something about a sale.
pub async fn list_sale_events(conn: &mut Conn, sale: &SaleId) -> Result<Vec<SaleEventRow>, StoreError> {
    const SQL: &str = "SELECT i.id, i.provider, i.provider_event_id, i.event_type, i.received_at_us
        FROM sale_event s JOIN inbox i ON i.id = s.inbox_id
        WHERE s.sale_id = $1 ORDER BY i.received_at_us, i.id";
    conn.q(SQL).bind(sale.as_str()).all().await
}

/// Events by our ids.
pub async fn find_events(conn: &mut Conn, ids: &[String]) -> Result<Vec<SaleEventRow>, StoreError> {
    const SQL: &str = "SELECT id, provider, provider_event_id, event_type, received_at_us FROM inbox
        WHERE id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY received_at_us, id";
    conn.q(SQL).bind(id_list(ids.iter().map(String::as_str))).all().await
}

/// A decision, with the person's own words.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DecisionRow {
    /// Id.
    pub id: String,
    /// Whose commission.
    pub enrollment_id: String,
    /// What was decided.
    pub kind: String,
    /// For clawbacks.
    pub reason: Option<String>,
    /// The person's own words.
    pub note: Option<String>,
    /// For clawbacks, minor units.
    pub amount_minor: Option<i64>,
    /// The key that decided.
    pub actor: String,
    /// When, microseconds.
    pub created_at_us: i64,
}

/// What a decision was about, apart from what its id says.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DecidedRow {
    /// The sale, which is the survivor's where it was merged.
    pub sale_id: String,
    /// The person's own words.
    pub note: Option<String>,
}

/// Where a decision stands.
pub async fn find_decision(conn: &mut Conn, id: &DecisionId) -> Result<Option<DecidedRow>, StoreError> {
    const SQL: &str = "SELECT sale_id, note FROM decision WHERE id = $1";
    conn.q(SQL).bind(id.as_str()).one().await
}

/// The decisions about a sale, in order.
pub async fn list_decisions(conn: &mut Conn, sale: &SaleId) -> Result<Vec<DecisionRow>, StoreError> {
    const SQL: &str = "SELECT id, enrollment_id, kind, reason, note, amount_minor, actor, created_at_us
        FROM decision WHERE sale_id = $1 ORDER BY created_at_us, id";
    conn.q(SQL).bind(sale.as_str()).all().await
}
