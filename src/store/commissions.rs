//! Commissions, conversions, flags and decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Conn, Sql, StoreError, Tx,
    ledger::{self, Posting},
    row::At,
    sales::{corrupt, id_list, write_rows},
};
use crate::{
    domain::{
        book::{Book, Folded, Sale},
        commission::{ClawbackReason, Commission, CommissionState, Decision, DecisionKind, Flag, Posted},
        ids::{CommissionId, ConversionId, DecisionId, EnrollmentId, ProgramId, SaleId},
        ledger::Lot,
        money::{Currency, Money},
        sale::{Stop, StopKind},
        time::Timestamp,
    },
    for_update_skip_locked,
};

#[derive(sqlx::FromRow)]
struct CommissionRow {
    id: String,
    conversion_id: String,
    sale_id: String,
    enrollment_id: String,
    program_id: String,
    level: i64,
    currency: String,
    terms: String,
    terms_version: i64,
    base_minor: i64,
    amount_minor: i64,
    earned_minor: i64,
    clawed_minor: i64,
    held_minor: i64,
    released_minor: i64,
    state: String,
    reason: Option<String>,
    claimed: bool,
    revision: i64,
    paid_at_us: i64,
    due_at_us: Option<i64>,
    position: Option<String>,
    customer_key: Option<String>,
    counted_minor: Option<i64>,
    counted_currency: Option<String>,
}

impl CommissionRow {
    fn into_commission(self) -> Result<Commission, StoreError> {
        let bad = |column| corrupt("commission", column, &self.id);
        let at = At { table: "commission", id: &self.id };
        let counted = match (self.counted_minor, &self.counted_currency) {
            (Some(minor), Some(currency)) => {
                Some(Money { minor, currency: at.read("counted_currency", currency)? })
            }
            _ => None,
        };
        Ok(Commission {
            id: CommissionId::parse(&self.id).map_err(|_| bad("id"))?,
            conversion_id: ConversionId::parse(&self.conversion_id).map_err(|_| bad("conversion_id"))?,
            sale_id: SaleId::parse(&self.sale_id).map_err(|_| bad("sale_id"))?,
            enrollment_id: EnrollmentId::parse(&self.enrollment_id).map_err(|_| bad("enrollment_id"))?,
            program_id: ProgramId::parse(&self.program_id).map_err(|_| bad("program_id"))?,
            level: self.level,
            currency: Currency::parse(&self.currency).map_err(|_| bad("currency"))?,
            terms: serde_json::from_str(&self.terms).map_err(|_| bad("terms"))?,
            terms_version: self.terms_version,
            base: self.base_minor,
            amount: self.amount_minor,
            earned: self.earned_minor,
            clawed: self.clawed_minor,
            held: self.held_minor,
            released: self.released_minor,
            state: CommissionState::parse(&self.state).ok_or_else(|| bad("state"))?,
            reason: self.reason.clone(),
            claimed: self.claimed,
            revision: self.revision,
            paid_at: Timestamp::from_micros(self.paid_at_us),
            due_at: self.due_at_us.map(Timestamp::from_micros),
            flags: BTreeMap::new(),
            position: at.read_opt("position", self.position.as_deref())?,
            customer_key: self.customer_key.clone(),
            counted,
        })
    }
}

#[derive(sqlx::FromRow)]
struct FlagRow {
    sale_id: String,
    commission_id: String,
    cause_kind: String,
    cause_id: String,
    raised_at_us: i64,
    cleared_at_us: Option<i64>,
    cleared_by: Option<String>,
}

#[derive(sqlx::FromRow)]
struct DecisionRow {
    id: String,
    sale_id: String,
    enrollment_id: String,
    commission_id: Option<String>,
    kind: String,
    reason: Option<String>,
    amount_minor: Option<i64>,
    created_at_us: i64,
}

/// Puts commissions, flags and decisions into loaded sales. Call it after the sales are locked, in a
/// statement of its own, so that it sees what others have committed (`rulings.md` 3).
pub async fn load_into(conn: &mut Conn, sales: &mut BTreeMap<SaleId, Sale>) -> Result<(), StoreError> {
    const COMMISSIONS: &str = "SELECT id, conversion_id, sale_id, enrollment_id, program_id, level, currency,
            terms, terms_version, base_minor, amount_minor, earned_minor, clawed_minor, held_minor,
            released_minor, state, reason, claimed, revision, paid_at_us, due_at_us, position, customer_key,
            counted_minor, counted_currency
        FROM commission WHERE sale_id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY id";
    const FLAGS: &str = "SELECT c.sale_id, f.commission_id, f.cause_kind, f.cause_id, f.raised_at_us,
            f.cleared_at_us, f.cleared_by
        FROM commission c JOIN commission_flag f ON f.commission_id = c.id
        WHERE c.sale_id IN (SELECT value->>'id' FROM json_each($1))";
    const DECISIONS: &str = "SELECT id, sale_id, enrollment_id, commission_id, kind, reason, amount_minor,
            created_at_us
        FROM decision WHERE sale_id IN (SELECT value->>'id' FROM json_each($1))
        ORDER BY created_at_us, id";
    if sales.is_empty() {
        return Ok(());
    }
    let list = id_list(sales.keys().map(SaleId::as_str));
    for row in conn.q(COMMISSIONS).bind(&*list).all::<CommissionRow>().await? {
        let commission = row.into_commission()?;
        if let Some(sale) = sales.get_mut(&commission.sale_id) {
            sale.commissions.push(commission);
        }
    }
    for row in conn.q(FLAGS).bind(&*list).all::<FlagRow>().await? {
        let bad = |column| corrupt("commission_flag", column, &row.commission_id);
        let kind = StopKind::ALL
            .into_iter()
            .find(|stop| stop.as_str() == row.cause_kind)
            .ok_or_else(|| bad("cause_kind"))?;
        let cleared_by = row.cleared_by.clone().unwrap_or_default();
        let cleared = row.cleared_at_us.map(|at| (Timestamp::from_micros(at), cleared_by));
        let flag = Flag { raised_at: Timestamp::from_micros(row.raised_at_us), cleared };
        let sale_id = SaleId::parse(&row.sale_id).map_err(|_| bad("sale_id"))?;
        let commission = sales.get_mut(&sale_id).and_then(|sale| {
            sale.commissions.iter_mut().find(|known| known.id.as_str() == row.commission_id)
        });
        if let Some(commission) = commission {
            commission.flags.insert(Stop { kind, id: row.cause_id }, flag);
        }
    }
    for row in conn.q(DECISIONS).bind(&*list).all::<DecisionRow>().await? {
        let bad = |column| corrupt("decision", column, &row.id);
        let sale_id = SaleId::parse(&row.sale_id).map_err(|_| bad("sale_id"))?;
        let commission_id = row.commission_id.as_deref().map(CommissionId::parse).transpose();
        let decision = Decision {
            id: DecisionId::parse(&row.id).map_err(|_| bad("id"))?,
            enrollment_id: EnrollmentId::parse(&row.enrollment_id).map_err(|_| bad("enrollment_id"))?,
            commission_id: commission_id.map_err(|_| bad("commission_id"))?,
            kind: DecisionKind::parse(&row.kind).ok_or_else(|| bad("kind"))?,
            reason: row.reason.as_deref().and_then(ClawbackReason::parse),
            amount: row.amount_minor,
            at: Timestamp::from_micros(row.created_at_us),
        };
        if let Some(sale) = sales.get_mut(&sale_id) {
            sale.decisions.push(decision);
        }
    }
    Ok(())
}

/// A decision to be stored.
#[derive(Clone, Debug)]
pub struct NewDecision {
    /// What was decided.
    pub decision: Decision,
    /// About which sale.
    pub sale_id: SaleId,
    /// The person's own words.
    pub note: Option<String>,
    /// The key that decided.
    pub actor: String,
}

/// Stores a decision.
pub async fn insert_decision(tx: &mut Tx, new: &NewDecision) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO decision (id, sale_id, enrollment_id, commission_id, kind, reason, note,
            amount_minor, actor, created_at_us)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let decision = &new.decision;
    tx.q(SQL)
        .bind(decision.id.as_str())
        .bind(new.sale_id.as_str())
        .bind(decision.enrollment_id.as_str())
        .bind(decision.commission_id.as_ref().map(CommissionId::as_str))
        .bind(decision.kind.as_str())
        .bind(decision.reason.map(ClawbackReason::as_str))
        .bind(new.note.as_deref())
        .bind(decision.amount)
        .bind(new.actor.as_str())
        .bind(decision.at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// Points the decisions of merged sales to the sale that carries them now. What came back of a transfer
/// stays with the commission that it paid.
pub async fn move_decisions(tx: &mut Tx, merged: &[(SaleId, SaleId)]) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE decision SET sale_id = k.survivor
        FROM (SELECT value->>'loser' AS loser, value->>'survivor' AS survivor FROM json_each($1)) AS k
        WHERE decision.sale_id = k.loser AND decision.kind <> 'transfer_clawback'";
    let rows =
        merged.iter().map(|(loser, survivor)| json!({ "loser": loser, "survivor": survivor })).collect();
    write_rows(tx, SQL, rows).await
}

/// Whether any commission is due. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp) -> Result<bool, StoreError> {
    // Served by the partial index `commission_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM commission WHERE due_at_us <= $1)";
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(is_due == Some(true))
}

/// Sales with a commission that time alone may change now, oldest first. Sales that another node works
/// on are passed over.
pub async fn claim_due_sales(
    tx: &mut Tx,
    now: Timestamp,
    limit: i64,
) -> Result<BTreeSet<SaleId>, StoreError> {
    // Served by the partial index `commission_due`.
    const SQL: Sql = for_update_skip_locked!(
        "SELECT id FROM sale WHERE id IN (
             SELECT sale_id FROM commission WHERE due_at_us <= $1 ORDER BY due_at_us, id LIMIT $2)
         ORDER BY id"
    );
    let ids: Vec<String> = tx.q(SQL).bind(now.as_micros()).bind(limit).scalars().await?;
    ids.iter().map(|id| SaleId::parse(id).map_err(|_| corrupt("sale", "id", id))).collect()
}

/// As [`claim_due_sales`], only those of a program.
pub async fn claim_due_sales_of(
    tx: &mut Tx,
    program: &ProgramId,
    now: Timestamp,
    limit: i64,
) -> Result<BTreeSet<SaleId>, StoreError> {
    // Served by the partial index `commission_due`.
    const SQL: Sql = for_update_skip_locked!(
        "SELECT id FROM sale WHERE id IN (
             SELECT sale_id FROM commission WHERE due_at_us <= $1 AND program_id = $2
             ORDER BY due_at_us, id LIMIT $3)
         ORDER BY id"
    );
    let ids: Vec<String> =
        tx.q(SQL).bind(now.as_micros()).bind(program.as_str()).bind(limit).scalars().await?;
    ids.iter().map(|id| SaleId::parse(id).map_err(|_| corrupt("sale", "id", id))).collect()
}

/// Lets the due commissions of a sale that cannot be folded wait until `until`.
pub async fn postpone(
    tx: &mut Tx,
    sale: &SaleId,
    now: Timestamp,
    until: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE commission SET due_at_us = $3 WHERE sale_id = $1 AND due_at_us <= $2";
    tx.q(SQL).bind(sale.as_str()).bind(now.as_micros()).bind(until.as_micros()).exec().await?;
    Ok(())
}

/// Writes what folding gave: conversions, commissions, flags, entries, lots and balances.
///
/// The unique key of an entry is (commission, revision). A conflict is an error on purpose: somebody
/// else has posted, so the whole batch must be folded again (`rulings.md` 2).
pub async fn save(tx: &mut Tx, book: &Book, folded: &[Folded], now: Timestamp) -> Result<(), StoreError> {
    let posted: Vec<(&Posted, &Sale, &Folded)> = folded
        .iter()
        .filter_map(|folded| Some((book.sale(&folded.sale_id)?, folded)))
        .flat_map(|(sale, folded)| folded.posted.iter().map(move |posted| (posted, sale, folded)))
        .collect();
    if posted.is_empty() {
        return Ok(());
    }
    save_conversions(tx, &posted, now).await?;
    save_commissions(tx, &posted, now).await?;
    save_flags(tx, &posted).await?;
    let entries: Vec<Posting<'_>> = posted
        .iter()
        .flat_map(|(posted, sale, _)| {
            posted.entries.iter().map(|entry| Posting { entry, causes: &sale.causes })
        })
        .collect();
    let lots: Vec<&Lot> = posted.iter().flat_map(|(posted, ..)| &posted.lots).collect();
    ledger::post(tx, &entries, &lots, now).await
}

type PostedOf<'a> = (&'a Posted, &'a Sale, &'a Folded);

async fn save_conversions(tx: &mut Tx, posted: &[PostedOf<'_>], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO conversion (id, sale_id, enrollment_id, program_id, project_id, kind,
            external_id, attributed_by, code, touchpoint_id, created_at_us)
        SELECT value->>'id', value->>'s', value->>'e', value->>'g', value->>'p',
            (SELECT conversion_kind FROM program WHERE id = value->>'g'),
            value->>'external_id', value->>'by', value->>'code', value->>'touch', $2
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, enrollment_id) DO UPDATE
            SET attributed_by = excluded.attributed_by, code = excluded.code,
                touchpoint_id = excluded.touchpoint_id,
                external_id = COALESCE(conversion.external_id, excluded.external_id)";
    const KEEP: &str = "INSERT INTO conversion (id, sale_id, enrollment_id, program_id, project_id, kind,
            external_id, attributed_by, code, touchpoint_id, created_at_us)
        SELECT value->>'id', value->>'s', value->>'e', value->>'g', value->>'p',
            (SELECT conversion_kind FROM program WHERE id = value->>'g'),
            value->>'external_id', value->>'by', value->>'code', value->>'touch', $2
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (sale_id, enrollment_id) DO NOTHING";
    let (mut current, mut former) = (Vec::new(), Vec::new());
    // A sponsor's commission belongs to the conversion of the direct one.
    for (posted, sale, folded) in posted.iter().filter(|(posted, ..)| posted.commission.level == 0) {
        let commission = &posted.commission;
        let basis = folded
            .attribution
            .to
            .as_ref()
            .filter(|(enrollment, _)| *enrollment == commission.enrollment_id)
            .map(|(_, basis)| basis);
        let external = sale
            .aliases
            .iter()
            .find(|alias| alias.object.kind == crate::domain::fact::ObjectKind::External)
            .map(|alias| alias.object.id.as_str());
        let row = json!({
            "id": commission.conversion_id, "s": sale.id, "e": commission.enrollment_id,
            "g": commission.program_id, "p": sale.scope.project_id,
            "external_id": external,
            "by": basis.map_or("unknown", |basis| basis.as_str()), "code": basis.and_then(|basis| basis.code()),
            "touch": basis.and_then(|basis| basis.touch()).map(|touch| &touch.id),
        });
        if basis.is_some() { current.push(row) } else { former.push(row) }
    }
    for (sql, rows) in [(SQL, current), (KEEP, former)] {
        if !rows.is_empty() {
            tx.q(sql).bind(Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
        }
    }
    Ok(())
}

async fn save_commissions(tx: &mut Tx, posted: &[PostedOf<'_>], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO commission (id, conversion_id, sale_id, enrollment_id, program_id, level,
            currency, terms, terms_version, base_minor, amount_minor, earned_minor, clawed_minor, held_minor,
            released_minor, state, reason, claimed, revision, paid_at_us, due_at_us, position, customer_key,
            counted_minor, counted_currency, created_at_us)
        SELECT value->>'id', value->>'conversion', value->>'s', value->>'e', value->>'g',
            CAST(value->>'level' AS BIGINT), value->>'currency', value->>'terms',
            CAST(value->>'version' AS BIGINT), CAST(value->>'base' AS BIGINT),
            CAST(value->>'amount' AS BIGINT), CAST(value->>'earned' AS BIGINT),
            CAST(value->>'clawed' AS BIGINT), CAST(value->>'held' AS BIGINT),
            CAST(value->>'released' AS BIGINT), value->>'state', value->>'reason',
            CAST(value->>'claimed' AS BOOLEAN), CAST(value->>'revision' AS BIGINT),
            CAST(value->>'paid_at' AS BIGINT), CAST(value->>'due_at' AS BIGINT), value->>'position',
            value->>'customer_key', CAST(value->>'counted' AS BIGINT), value->>'counted_currency', $2
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET currency = excluded.currency, terms = excluded.terms,
            terms_version = excluded.terms_version, paid_at_us = excluded.paid_at_us,
            base_minor = excluded.base_minor, amount_minor = excluded.amount_minor,
            earned_minor = excluded.earned_minor, clawed_minor = excluded.clawed_minor,
            held_minor = excluded.held_minor, released_minor = excluded.released_minor,
            state = excluded.state, reason = excluded.reason, revision = excluded.revision,
            due_at_us = excluded.due_at_us, conversion_id = excluded.conversion_id,
            position = excluded.position, customer_key = excluded.customer_key,
            counted_minor = excluded.counted_minor, counted_currency = excluded.counted_currency";
    let mut rows = Vec::with_capacity(posted.len());
    for (posted, ..) in posted {
        let commission = &posted.commission;
        let terms = serde_json::to_string(&commission.terms)
            .map_err(|_| corrupt("commission", "terms", commission.id.as_str()))?;
        let position = commission.position.map(|position| json!(position).to_string());
        rows.push(json!({
            "id": commission.id, "conversion": commission.conversion_id, "s": commission.sale_id,
            "e": commission.enrollment_id, "g": commission.program_id, "level": commission.level,
            "currency": commission.currency, "terms": terms, "version": commission.terms_version,
            "base": commission.base, "amount": commission.amount, "earned": commission.earned,
            "clawed": commission.clawed, "held": commission.held, "released": commission.released,
            "state": commission.state.as_str(), "reason": commission.reason, "claimed": commission.claimed,
            "revision": commission.revision, "paid_at": commission.paid_at.as_micros(),
            "due_at": commission.due_at.map(Timestamp::as_micros), "position": position,
            "customer_key": commission.customer_key,
            "counted": commission.counted.map(|counted| counted.minor),
            "counted_currency": commission.counted.map(|counted| counted.currency),
        }));
    }
    tx.q(SQL).bind(Value::from(rows).to_string()).bind(now.as_micros()).exec().await?;
    Ok(())
}

async fn save_flags(tx: &mut Tx, posted: &[PostedOf<'_>]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO commission_flag (commission_id, cause_kind, cause_id, raised_at_us,
            cleared_at_us, cleared_by)
        SELECT value->>'c', value->>'kind', value->>'id', CAST(value->>'raised' AS BIGINT),
            CAST(value->>'cleared' AS BIGINT), value->>'by'
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (commission_id, cause_kind, cause_id) DO UPDATE
            SET cleared_at_us = excluded.cleared_at_us, cleared_by = excluded.cleared_by
            WHERE commission_flag.cleared_at_us IS NULL";
    let rows = posted
        .iter()
        .flat_map(|(posted, ..)| {
            let commission = &posted.commission;
            commission.flags.iter().map(|(stop, flag)| {
                json!({
                    "c": commission.id, "kind": stop.kind.as_str(), "id": stop.id,
                    "raised": flag.raised_at.as_micros(),
                    "cleared": flag.cleared.as_ref().map(|(at, _)| at.as_micros()),
                    "by": flag.cleared.as_ref().map(|(_, by)| by),
                })
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}
