//! Why a commission is what it is: the rule, the base, the rounding, and the events and decisions
//! behind each amount. Computed from what is stored, with the same functions that computed the money.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use super::reckon;
pub use super::reckon::Step;
use crate::{
    domain::{
        book::Sale,
        commission::{Commission, DecisionKind, Voided},
        ids::{CommissionId, OrganizationId, SaleId},
        money::{Currency, MoneyError},
        sale::Summary,
        terms::Position,
        time::Timestamp,
    },
    store::{
        Conn, Db, StoreError, commissions, sales,
        views::{self, DecisionRow, EntryRow, SaleEventRow},
    },
};

/// A commission and everything that led to it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The commission as posted.
    pub commission: CommissionView,
    /// The sale it belongs to.
    pub sale: SaleFigures,
    /// What carried the affiliate to the sale.
    pub attribution: AttributionView,
    /// The reckoning, from the rule to what is kept.
    pub steps: Vec<Step>,
    /// What was posted, in order, with the events and decisions behind each entry.
    pub entries: Vec<EntryView>,
    /// What stops or stopped the money.
    pub flags: Vec<FlagView>,
}

/// A commission as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SaleCommission)]
pub struct CommissionView {
    /// Id.
    pub id: CommissionId,
    /// The sale.
    pub sale_id: SaleId,
    /// Who earns.
    pub enrollment_id: String,
    /// Who pays.
    pub program_id: String,
    /// 0 for the direct affiliate.
    pub level: i64,
    /// Currency.
    pub currency: Currency,
    /// What the rule gives, minor units.
    pub amount_minor: i64,
    /// Accrued, minor units.
    pub earned_minor: i64,
    /// Taken back, minor units.
    pub clawed_minor: i64,
    /// Still held, minor units.
    pub held_minor: i64,
    /// Released to the payable side, minor units.
    pub payable_minor: i64,
    /// State.
    pub state: &'static str,
    /// Why it is in that state, or earns nothing.
    pub reason: Option<String>,
    /// The version of the program's terms that it is reckoned by.
    pub terms_version: i64,
    /// Where the sale stands among others; null where the terms do not ask.
    pub position: Option<Position>,
    /// When time alone can change it next.
    pub due_at: Option<Timestamp>,
}

/// What the facts of a sale say.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SaleFigures)]
pub struct SaleFigures {
    /// The sale.
    pub id: SaleId,
    /// The sale that carries its facts now, if it was merged.
    pub merged_into: Option<SaleId>,
    /// `open`, `complete`, `partial_refunded`, `refunded` or `disputed`.
    pub status: &'static str,
    /// Currency.
    pub currency: Option<Currency>,
    /// Paid, tax included, minor units.
    pub amount_minor: Option<i64>,
    /// Tax within it, minor units, where it was told.
    pub tax_minor: Option<i64>,
    /// Refunded, minor units.
    pub refunded_minor: i64,
    /// Taken by disputes, minor units.
    pub disputed_minor: i64,
    /// When it was paid.
    pub paid_at: Option<Timestamp>,
}

/// What carried the affiliate to the sale.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Attribution)]
pub struct AttributionView {
    /// `metadata`, `client_reference`, `coupon`, `subscription`, `customer` or `manual`.
    pub by: String,
    /// The code, where one was told.
    pub code: Option<String>,
}

/// A journal entry as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub struct EntryView {
    /// Id.
    pub id: String,
    /// 1, 2, 3, … per commission.
    pub revision: i64,
    /// What it does.
    pub kind: String,
    /// Minor units, positive.
    pub amount_minor: i64,
    /// Currency.
    pub currency: String,
    /// The account debited.
    pub debit: String,
    /// The account credited.
    pub credit: String,
    /// When it was posted.
    pub posted_at: Timestamp,
    /// What made it necessary.
    pub causes: Vec<CauseView>,
}

/// What made an entry necessary.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = Cause)]
pub enum CauseView {
    /// A stored event.
    Event {
        /// Our id.
        id: String,
        /// Provider.
        provider: String,
        /// The provider's id.
        provider_event_id: String,
        /// The provider's type.
        r#type: String,
        /// When it was received.
        received_at: Timestamp,
    },
    /// A person's decision.
    Decision {
        /// Id.
        id: String,
        /// What was decided.
        decision: String,
        /// Why.
        reason: Option<String>,
        /// The person's own words.
        note: Option<String>,
        /// The key that decided.
        actor: String,
    },
    /// Time passed.
    Time {
        /// The rule.
        rule: String,
    },
}

/// What stops or stopped the money.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Flag)]
pub struct FlagView {
    /// What kind of thing.
    pub kind: &'static str,
    /// The provider's id of it.
    pub id: String,
    /// When it was first seen.
    pub raised_at: Timestamp,
    /// When it was cleared.
    pub cleared_at: Option<Timestamp>,
    /// The decision that cleared it, or `resolved`.
    pub cleared_by: Option<String>,
}

/// There is nothing to explain, or it could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no such commission among those the caller may see.
    #[error("there is no such commission")]
    NotFound,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored amounts cannot be reckoned with.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

impl From<ExplainError> for super::Refusal {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::NotFound => Self::NotFound,
            ExplainError::Store(error) => Self::Store(error),
            ExplainError::Money(_) => Self::conflict("NOT_COMPUTABLE", error.to_string()),
        }
    }
}

/// Explains a commission of a program that `owner` owns; of anybody when `owner` is `None`.
///
/// # Errors
/// [`ExplainError::NotFound`] also for a commission of another owner.
pub async fn explain(
    db: &Db,
    id: &CommissionId,
    owner: Option<&OrganizationId>,
) -> Result<Explanation, ExplainError> {
    let mut conn = db.read().await?;
    let place = views::place_commission(&mut conn, id).await?.ok_or(ExplainError::NotFound)?;
    if owner.is_some_and(|owner| owner.as_str() != place.organization_id) {
        return Err(ExplainError::NotFound);
    }
    let sale_id = SaleId::parse(&place.sale_id).map_err(|_| ExplainError::NotFound)?;
    let sale = load_sale(&mut conn, &sale_id).await?.ok_or(ExplainError::NotFound)?;
    let commission = sale.commissions.iter().find(|known| known.id == *id).ok_or(ExplainError::NotFound)?;
    let summary = sale.facts.summary()?;
    let told = Told::load(&mut conn, &sale_id).await?;
    Ok(Explanation {
        commission: CommissionView::of(commission),
        sale: SaleFigures::of(&sale, summary.as_ref()),
        attribution: AttributionView { by: place.attributed_by, code: place.code },
        steps: steps(&sale, commission, summary.as_ref())?,
        entries: told
            .entries
            .iter()
            .filter(|row| row.commission_id == id.as_str())
            .map(|row| told.entry(row))
            .collect(),
        flags: commission
            .flags
            .iter()
            .map(|(stop, flag)| FlagView {
                kind: stop.kind.as_str(),
                id: stop.id.clone(),
                raised_at: flag.raised_at,
                cleared_at: flag.cleared.as_ref().map(|(at, _)| *at),
                cleared_by: flag.cleared.as_ref().map(|(_, by)| by.clone()),
            })
            .collect(),
    })
}

/// A sale with its facts, decisions and commissions, for showing: read without locks.
pub async fn load_sale(conn: &mut Conn, id: &SaleId) -> Result<Option<Sale>, StoreError> {
    let mut loaded = sales::load(conn, &BTreeSet::from([id.clone()])).await?;
    commissions::load_into(conn, &mut loaded).await?;
    Ok(loaded.remove(id))
}

/// What was posted and why, for the commissions of one sale.
pub struct Told {
    entries: Vec<EntryRow>,
    /// Events that said something about the sale.
    pub events: Vec<SaleEventRow>,
    /// Decisions about the sale.
    pub decisions: Vec<DecisionRow>,
}

impl Told {
    /// Loads entries with the events and decisions behind them.
    pub async fn load(conn: &mut Conn, sale: &SaleId) -> Result<Self, StoreError> {
        let entries = views::list_entries(conn, sale).await?;
        let mut events = views::list_sale_events(conn, sale).await?;
        let known: BTreeSet<String> = events.iter().map(|event| event.id.clone()).collect();
        // A code told for the customer is behind an entry without being about the sale.
        let others: Vec<String> = entries
            .iter()
            .flat_map(|entry| causes(&entry.causes))
            .filter(|(kind, id)| kind == "event" && !known.contains(id))
            .map(|(_, id)| id)
            .collect();
        if !others.is_empty() {
            events.extend(views::find_events(conn, &others).await?);
        }
        Ok(Self { entries, events, decisions: views::list_decisions(conn, sale).await? })
    }

    /// All entries of the sale, as they are shown.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, EntryView)> {
        self.entries.iter().map(|row| (row.commission_id.clone(), self.entry(row))).collect()
    }

    fn entry(&self, row: &EntryRow) -> EntryView {
        EntryView {
            id: row.id.clone(),
            revision: row.revision,
            kind: row.kind.clone(),
            amount_minor: row.amount_minor,
            currency: row.currency.clone(),
            debit: row.debit_account.clone(),
            credit: row.credit_account.clone(),
            posted_at: Timestamp::from_micros(row.created_at_us),
            causes: causes(&row.causes).into_iter().filter_map(|(kind, id)| self.cause(&kind, id)).collect(),
        }
    }

    fn cause(&self, kind: &str, id: String) -> Option<CauseView> {
        match kind {
            "event" => self.events.iter().find(|event| event.id == id).map(|event| CauseView::Event {
                id,
                provider: event.provider.clone(),
                provider_event_id: event.provider_event_id.clone(),
                r#type: event.event_type.clone(),
                received_at: Timestamp::from_micros(event.received_at_us),
            }),
            "decision" => {
                self.decisions.iter().find(|decision| decision.id == id).map(|decision| CauseView::Decision {
                    id,
                    decision: decision.kind.clone(),
                    reason: decision.reason.clone(),
                    note: decision.note.clone(),
                    actor: decision.actor.clone(),
                })
            }
            _ => Some(CauseView::Time { rule: id }),
        }
    }
}

/// The causes of an entry as stored: kind and id.
fn causes(stored: &str) -> Vec<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Stored {
        kind: String,
        id: String,
    }
    let causes: Vec<Stored> = serde_json::from_str(stored).unwrap_or_default();
    causes.into_iter().map(|cause| (cause.kind, cause.id)).collect()
}

impl CommissionView {
    /// The commission as it is shown.
    #[must_use]
    pub fn of(commission: &Commission) -> Self {
        Self {
            id: commission.id.clone(),
            sale_id: commission.sale_id.clone(),
            enrollment_id: commission.enrollment_id.to_string(),
            program_id: commission.program_id.to_string(),
            level: commission.level,
            currency: commission.currency,
            amount_minor: commission.amount,
            earned_minor: commission.earned,
            clawed_minor: commission.clawed,
            held_minor: commission.held,
            payable_minor: commission.released,
            state: commission.state.as_str(),
            reason: commission.reason.clone(),
            terms_version: commission.terms_version,
            position: commission.position,
            due_at: commission.due_at,
        }
    }
}

impl SaleFigures {
    /// The sale as it is shown.
    #[must_use]
    pub fn of(sale: &Sale, summary: Option<&Summary>) -> Self {
        Self {
            id: sale.id.clone(),
            merged_into: sale.merged_into.clone(),
            status: summary.map_or("open", |summary| summary.status().as_str()),
            currency: summary.map(|summary| summary.currency),
            amount_minor: summary.map(|summary| summary.amount),
            tax_minor: summary.and_then(|summary| summary.tax),
            refunded_minor: summary.map_or(0, |summary| summary.refunded),
            disputed_minor: summary.map_or(0, |summary| summary.disputed),
            paid_at: summary.map(|summary| summary.paid_at),
        }
    }
}

/// The reckoning from the rule to what is kept. A commission that is owed to nobody any more has none.
fn steps(sale: &Sale, commission: &Commission, summary: Option<&Summary>) -> Result<Vec<Step>, MoneyError> {
    let owed = summary.filter(|_| sale.merged_into.is_none() && !is_voided(commission));
    let Some(sale_now) = owed else { return Ok(Vec::new()) };
    let mut steps = if commission.level == 0 {
        let (terms, position) = (&commission.terms, commission.position.as_ref());
        let earned = terms.earned(sale_now, position)?;
        let mut steps = reckon::earned(terms, commission.terms_version, sale_now, position, &earned);
        steps.extend(reckon::kept(terms, sale_now, &earned)?);
        steps
    } else {
        vec![of_direct(commission)]
    };
    for decision in &sale.decisions {
        let what = match decision.kind {
            DecisionKind::Clawback => "manual_clawback",
            DecisionKind::TransferClawback => "transfer_clawback",
            DecisionKind::Attribute
            | DecisionKind::Approve
            | DecisionKind::Reject
            | DecisionKind::HoldPeriod => continue,
        };
        if !decision.is_about(commission) {
            continue;
        }
        steps.push(Step {
            what,
            how: format!(
                "decision {}{}",
                decision.id,
                decision.reason.map_or_else(String::new, |reason| format!(", reason {}", reason.as_str()))
            ),
            amount_minor: decision.amount.unwrap_or(commission.amount),
            currency: commission.currency,
        });
    }
    steps.push(Step {
        what: "posted",
        how: format!("earned {} less clawed back {}", commission.earned, commission.clawed),
        amount_minor: commission.earned.saturating_sub(commission.clawed),
        currency: commission.currency,
    });
    Ok(steps)
}

/// What a sponsor gets of the direct commission.
fn of_direct(commission: &Commission) -> Step {
    let level = usize::try_from(commission.level.saturating_sub(1)).unwrap_or(usize::MAX);
    let bps = commission.terms.upline_bps.get(level).map_or(0, |bps| bps.get());
    Step {
        what: "commission",
        how: format!(
            "{} of the direct commission × {bps} basis points for level {}, terms version {}: {}",
            commission.base,
            commission.level,
            commission.terms_version,
            reckon::rounding(i128::from(commission.base) * i128::from(bps), 10_000)
        ),
        amount_minor: commission.amount,
        currency: commission.currency,
    }
}

/// Whether the commission is owed to nobody any more. The rule of its terms then says nothing of it: the
/// entries alone tell what was accrued and taken back.
fn is_voided(commission: &Commission) -> bool {
    let reason = commission.reason.as_deref();
    [Voided::Merged, Voided::Reattributed].iter().any(|voided| reason == Some(voided.as_str()))
}
