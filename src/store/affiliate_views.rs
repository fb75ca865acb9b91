//! What an affiliate sees of its own side. Reading only.
//!
//! Every query begins with the organization: an enrollment of another one joins nothing, so a peer's rows
//! cannot come out however the rest of a query is written (seed S0: "structurally scoped, so they can never
//! see a peer"). Nothing of the buyer and none of the owner's own ids and notes is selected.

use sqlx::FromRow;

use super::{Conn, StoreError, db::Query, views::states_of};
use crate::domain::{
    commission::ConversionStatus,
    ids::{CommissionId, ConversionId, EnrollmentId, OrganizationId, PayoutId, ProgramId},
    window::{Days, Window},
};

/// The one organization whose side is read. Only `app::affiliate` makes one, from a key that was checked.
#[derive(Clone, Debug)]
pub struct AffiliateScope(OrganizationId);

impl AffiliateScope {
    /// The side of this organization.
    pub(crate) const fn of(organization: OrganizationId) -> Self {
        Self(organization)
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// A part of an affiliate's side: one program, one enrollment, or all of it.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Only of this program.
    pub program: Option<ProgramId>,
    /// Only of this enrollment.
    pub enrollment: Option<EnrollmentId>,
}

impl Part {
    fn program(&self) -> Option<&str> {
        self.program.as_ref().map(ProgramId::as_str)
    }

    fn enrollment(&self) -> Option<&str> {
        self.enrollment.as_ref().map(EnrollmentId::as_str)
    }
}

/// Clicks on the links of an affiliate.
pub async fn clicks(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    days: Days,
) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT CAST(COALESCE(SUM(k.clicks), 0) AS BIGINT)
        FROM enrollment e JOIN click_day k ON k.enrollment_id = e.id AND k.program_id = e.program_id
        WHERE e.organization_id = $1 AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            AND k.day >= $4 AND k.day < $5";
    let found: Option<i64> = conn
        .q(SQL)
        .bind(scope.as_str())
        .bind(part.program())
        .bind(part.enrollment())
        .bind(days.first)
        .bind(days.end)
        .scalar()
        .await?;
    Ok(found.unwrap_or(0))
}

/// Sales that an affiliate brought and that were paid in the window, without those that were rejected,
/// merged or attributed away.
pub async fn count_conversions(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    window: Window,
) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM enrollment e JOIN commission c ON c.enrollment_id = e.id
        WHERE e.organization_id = $1 AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            AND c.paid_at_us >= $4 AND c.paid_at_us < $5 AND c.level = 0 AND c.state <> 'denied'
            AND (c.reason IS NULL OR c.reason NOT IN ('merged', 'reattributed'))";
    let found: Option<i64> = conn
        .q(SQL)
        .bind(scope.as_str())
        .bind(part.program())
        .bind(part.enrollment())
        .bind(window.from.as_micros())
        .bind(window.to.as_micros())
        .scalar()
        .await?;
    Ok(found.unwrap_or(0))
}

/// What was posted for an affiliate in one currency.
#[derive(Clone, Debug, FromRow)]
pub struct EarnedRow {
    /// Currency of the amounts.
    pub currency: String,
    /// Accrued less corrected, minor units.
    pub earned: i64,
    /// Taken back less given again, minor units.
    pub clawed: i64,
}

/// What was posted for an affiliate in the window, by currency.
pub async fn earned(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    window: Window,
) -> Result<Vec<EarnedRow>, StoreError> {
    // Served by `enrollment_by_organization` and `entry_by_enrollment`. What a commission costs the program is
    // what it brings the affiliate.
    const SQL: &str = "SELECT currency,
            CAST(SUM(CASE WHEN kind IN ('clawback', 'reinstatement') THEN 0 ELSE cost END) AS BIGINT) AS earned,
            CAST(SUM(CASE WHEN kind IN ('clawback', 'reinstatement') THEN -cost ELSE 0 END) AS BIGINT) AS clawed
        FROM (SELECT n.currency, n.kind,
                CASE p.side WHEN 'debit' THEN p.amount_minor ELSE -p.amount_minor END AS cost
            FROM enrollment e JOIN entry n ON n.enrollment_id = e.id
                JOIN posting p ON p.entry_id = n.id AND p.account = 'expense'
            WHERE e.organization_id = $1 AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
                AND n.created_at_us >= $4 AND n.created_at_us < $5) AS posted
        GROUP BY currency ORDER BY currency";
    conn.q(SQL)
        .bind(scope.as_str())
        .bind(part.program())
        .bind(part.enrollment())
        .bind(window.from.as_micros())
        .bind(window.to.as_micros())
        .all()
        .await
}

/// What an affiliate has by one enrollment in one currency, minor units.
#[derive(Clone, Debug, FromRow)]
pub struct OwnBalanceRow {
    /// The enrollment.
    pub enrollment_id: String,
    /// Its program.
    pub program_id: String,
    /// Currency of the amounts.
    pub currency: String,
    /// What would be earned by sales that somebody must still accept; in no account yet.
    pub awaiting_review: i64,
    /// Earned, not payable yet.
    pub held: i64,
    /// Payable; negative is debt.
    pub payable: i64,
    /// Reserved by payouts under way.
    pub in_transit: i64,
    /// Paid out.
    pub paid: i64,
    /// When the next of what is held becomes payable, microseconds.
    pub next_release_at_us: Option<i64>,
}

/// An affiliate's balances by enrollment and currency, after the given pair.
pub async fn list_balances(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<Vec<OwnBalanceRow>, StoreError> {
    // Served by `enrollment_by_organization`, the key of `balance` and `commission_waiting`, whose condition is
    // repeated word for word. A pair without a balance is one of which everything waits for review.
    const SQL: &str = "SELECT k.enrollment_id, k.program_id, k.currency,
            CAST(SUM(k.awaiting_review) AS BIGINT) AS awaiting_review, CAST(SUM(k.held) AS BIGINT) AS held,
            CAST(SUM(k.payable) AS BIGINT) AS payable, CAST(SUM(k.in_transit) AS BIGINT) AS in_transit,
            CAST(SUM(k.paid) AS BIGINT) AS paid, MIN(k.due_at_us) AS next_release_at_us
        FROM (SELECT e.id AS enrollment_id, e.program_id, b.currency, 0 AS awaiting_review,
                CASE b.account WHEN 'held' THEN b.credit_minor - b.debit_minor ELSE 0 END AS held,
                CASE b.account WHEN 'payable' THEN b.credit_minor - b.debit_minor ELSE 0 END AS payable,
                CASE b.account WHEN 'in_transit' THEN b.credit_minor - b.debit_minor ELSE 0 END AS in_transit,
                CASE b.account WHEN 'paid' THEN b.credit_minor - b.debit_minor ELSE 0 END AS paid,
                CAST(NULL AS BIGINT) AS due_at_us
            FROM enrollment e JOIN balance b ON b.owner_id = e.id
            WHERE e.organization_id = $1 AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            UNION ALL
            SELECT e.id, e.program_id, c.currency,
                CASE c.state WHEN 'awaiting_review' THEN c.amount_minor ELSE 0 END, 0, 0, 0, 0,
                CASE c.state WHEN 'held' THEN c.due_at_us ELSE NULL END
            FROM enrollment e JOIN commission c ON c.enrollment_id = e.id
            WHERE e.organization_id = $1 AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
                AND c.state IN ('awaiting_review', 'held')) AS k
        WHERE $4 IS NULL OR (k.enrollment_id, k.currency) > ($4, $5)
        GROUP BY k.enrollment_id, k.program_id, k.currency
        ORDER BY k.enrollment_id, k.currency LIMIT $6";
    let (enrollment, currency) = after.unzip();
    conn.q(SQL)
        .bind(scope.as_str())
        .bind(part.program())
        .bind(part.enrollment())
        .bind(enrollment)
        .bind(currency)
        .bind(limit)
        .all()
        .await
}

/// Where a page begins: the time in microseconds and the id of the row before it, newest first.
type Before<'a> = Option<(i64, &'a str)>;

/// A page of a list of an affiliate's, see the `own_…` macros for what `sql` begins with.
fn list<'c>(
    conn: &'c mut Conn,
    sql: &'static str,
    scope: &AffiliateScope,
    part: &Part,
    before: Before<'_>,
    limit: i64,
) -> Query<'c> {
    let (at, id) = before.unzip();
    conn.q(sql)
        .bind(scope.as_str())
        .bind(part.program())
        .bind(part.enrollment())
        .bind(at)
        .bind(id)
        .bind(limit)
}

/// A sale that an affiliate brought, as the affiliate sees it.
#[derive(Clone, Debug, FromRow)]
pub struct OwnConversionRow {
    /// Id.
    pub id: String,
    /// The program.
    pub program_id: String,
    /// The enrollment.
    pub enrollment_id: String,
    /// `event`, `payment` or `entitlement`.
    pub kind: String,
    /// What carried the affiliate to the sale.
    pub attributed_by: String,
    /// The affiliate's code, where one was told.
    pub code: Option<String>,
    /// What the affiliate earns of it.
    pub commission_id: String,
    /// Its state.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Currency of the amounts.
    pub currency: String,
    /// Accrued, minor units.
    pub earned_minor: i64,
    /// Taken back, minor units.
    pub clawed_minor: i64,
    /// When the buyer paid, microseconds.
    pub paid_at_us: i64,
    /// When it was first recorded, microseconds.
    pub created_at_us: i64,
}

/// What is selected of an affiliate's conversions. Served by `enrollment_by_organization` and `commission_by_time`.
macro_rules! own_conversions {
    ($rest:literal) => {
        concat!(
            "SELECT v.id, v.program_id, v.enrollment_id, v.kind, v.attributed_by, v.code,
            c.id AS commission_id, c.state, c.reason, c.currency, c.earned_minor, c.clawed_minor, c.paid_at_us,
            c.created_at_us
        FROM enrollment e JOIN commission c ON c.enrollment_id = e.id AND c.level = 0
            JOIN conversion v ON v.id = c.conversion_id AND v.enrollment_id = e.id
        WHERE e.organization_id = $1 ",
            $rest
        )
    };
}

/// An affiliate's conversions, all or those of a status, newest first, before the given time and id.
pub async fn list_conversions(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    status: Option<ConversionStatus>,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnConversionRow>, StoreError> {
    const SQL: &str = own_conversions!(
        "AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            AND ($4 IS NULL OR (c.created_at_us, v.id) < ($4, $5))
            AND ($7 IS NULL OR c.state IN (SELECT value->>'state' FROM json_each($7)))
        ORDER BY c.created_at_us DESC, v.id DESC LIMIT $6"
    );
    list(conn, SQL, scope, part, before, limit).bind(states_of(status)).all().await
}

/// One conversion of an affiliate's.
pub async fn find_conversion(
    conn: &mut Conn,
    scope: &AffiliateScope,
    id: &ConversionId,
) -> Result<Option<OwnConversionRow>, StoreError> {
    const SQL: &str = own_conversions!("AND v.id = $2");
    conn.q(SQL).bind(scope.as_str()).bind(id.as_str()).one().await
}

/// What an affiliate earns of one sale, as the affiliate sees it.
#[derive(Clone, Debug, FromRow)]
pub struct OwnCommissionRow {
    /// Id.
    pub id: String,
    /// The conversion; none where another affiliate brought the sale.
    pub conversion_id: Option<String>,
    /// The program.
    pub program_id: String,
    /// The enrollment.
    pub enrollment_id: String,
    /// 0 where the affiliate brought the sale, more for its sponsors.
    pub level: i64,
    /// Currency of the amounts but the base.
    pub currency: String,
    /// What the rule was applied to, minor units.
    pub base_minor: i64,
    /// Currency of the base.
    pub base_currency: String,
    /// What the rule gives, minor units.
    pub amount_minor: i64,
    /// The version of the program's terms that it is reckoned by.
    pub terms_version: i64,
    /// Where the sale stands among others, JSON; none where the terms do not ask.
    pub position: Option<String>,
    /// Accrued, minor units.
    pub earned_minor: i64,
    /// Taken back, minor units.
    pub clawed_minor: i64,
    /// Still held, minor units.
    pub held_minor: i64,
    /// Released to the payable side, paid out or not, minor units.
    pub released_minor: i64,
    /// State.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// When the buyer paid, microseconds.
    pub paid_at_us: i64,
    /// When time alone can change it next, microseconds.
    pub due_at_us: Option<i64>,
    /// When it was first recorded, microseconds.
    pub created_at_us: i64,
}

/// What is selected of an affiliate's commissions. Served by `enrollment_by_organization` and `commission_by_time`.
macro_rules! own_commissions {
    ($rest:literal) => {
        concat!(
            "SELECT c.id, v.id AS conversion_id, c.program_id, c.enrollment_id, c.level, c.currency,
            c.base_minor, COALESCE(s.currency, c.currency) AS base_currency, c.amount_minor, c.terms_version, c.position,
            c.earned_minor,
            c.clawed_minor, c.held_minor, c.released_minor, c.state, c.reason, c.paid_at_us, c.due_at_us,
            c.created_at_us
        FROM enrollment e JOIN commission c ON c.enrollment_id = e.id JOIN sale s ON s.id = c.sale_id
            LEFT JOIN conversion v ON v.id = c.conversion_id AND v.enrollment_id = e.id
        WHERE e.organization_id = $1 ",
            $rest
        )
    };
}

/// An affiliate's commissions, newest first, before the given time and id.
pub async fn list_commissions(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnCommissionRow>, StoreError> {
    const SQL: &str = own_commissions!(
        "AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            AND ($4 IS NULL OR (c.created_at_us, c.id) < ($4, $5))
        ORDER BY c.created_at_us DESC, c.id DESC LIMIT $6"
    );
    list(conn, SQL, scope, part, before, limit).all().await
}

/// One commission of an affiliate's.
pub async fn find_commission(
    conn: &mut Conn,
    scope: &AffiliateScope,
    id: &CommissionId,
) -> Result<Option<OwnCommissionRow>, StoreError> {
    const SQL: &str = own_commissions!("AND c.id = $2");
    conn.q(SQL).bind(scope.as_str()).bind(id.as_str()).one().await
}

/// A payout as its payee sees it.
#[derive(Clone, Debug, FromRow)]
pub struct OwnPayoutRow {
    /// Id.
    pub id: String,
    /// Who pays.
    pub program_id: String,
    /// For which enrollment.
    pub enrollment_id: String,
    /// Currency of the amounts.
    pub currency: String,
    /// What was taken from the payable side, minor units.
    pub due_minor: i64,
    /// What the platform keeps, minor units.
    pub fee_minor: i64,
    /// What is sent, minor units.
    pub send_minor: i64,
    /// Where it stands.
    pub state: String,
    /// Why, where the state alone does not say.
    pub reason: Option<String>,
    /// Who moves the money.
    pub provider: String,
    /// Real money or a test.
    pub livemode: bool,
    /// The payee's own account.
    pub destination: String,
    /// Of what was sent, how much was taken back, minor units.
    pub reversed_minor: i64,
    /// That and the fee's part of it, minor units.
    pub returned_minor: i64,
    /// When it was made, microseconds.
    pub created_at_us: i64,
    /// When the money moved, microseconds.
    pub completed_at_us: Option<i64>,
}

/// What is selected of an affiliate's payouts. Served by `enrollment_by_organization` and `payout_by_enrollment`.
macro_rules! own_payouts {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.program_id, p.enrollment_id, p.currency, p.due_minor, p.fee_minor,
            p.send_minor, p.state, p.reason, p.provider, p.livemode, p.destination, p.reversed_minor,
            p.returned_minor, p.created_at_us, p.completed_at_us
        FROM enrollment e JOIN payout p ON p.enrollment_id = e.id
        WHERE e.organization_id = $1 ",
            $rest
        )
    };
}

/// An affiliate's payouts, newest first, before the given time and id.
pub async fn list_payouts(
    conn: &mut Conn,
    scope: &AffiliateScope,
    part: &Part,
    before: Before<'_>,
    limit: i64,
) -> Result<Vec<OwnPayoutRow>, StoreError> {
    const SQL: &str = own_payouts!(
        "AND ($2 IS NULL OR e.program_id = $2) AND ($3 IS NULL OR e.id = $3)
            AND ($4 IS NULL OR (p.created_at_us, p.id) < ($4, $5))
        ORDER BY p.created_at_us DESC, p.id DESC LIMIT $6"
    );
    list(conn, SQL, scope, part, before, limit).all().await
}

/// One payout of an affiliate's.
pub async fn find_payout(
    conn: &mut Conn,
    scope: &AffiliateScope,
    id: &PayoutId,
) -> Result<Option<OwnPayoutRow>, StoreError> {
    const SQL: &str = own_payouts!("AND p.id = $2");
    conn.q(SQL).bind(scope.as_str()).bind(id.as_str()).one().await
}
