//! What a key may read of the books. Each function checks the key and calls one read of the store.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App, Refusal,
    bank_payouts::{self, BankPayoutView},
    explain::{self, CommissionView, EntryView, Explanation, SaleFigures, Told},
    keys::{Principal, Scope},
};
use crate::{
    domain::{
        book::{Book, Sale},
        commission::ConversionStatus,
        fact::{HintSource, ObjectRef, Subject},
        ids::{CommissionId, ConversionId, PayoutId, ProgramId, SaleId},
        money::Currency,
        time::Timestamp,
    },
    store::{
        Conn, StoreError,
        findings::{self, Finding},
        inbox::{self, EventFilter, EventRow},
        intents,
        job_views::{self, AttemptRow},
        sales,
        settlement::{self, ItemRow, PayoutRow},
        views::{self, BalanceRow, CommissionRow, ConversionRow, FlagRow},
    },
};

/// A connection, once it is clear that the program is one the key may read.
async fn of_program(app: &App, by: &Principal, program: &ProgramId) -> Result<Conn, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    let owner = views::program_owner(&mut conn, program).await?.ok_or(Refusal::NotFound)?;
    by.require_owner(&owner)?;
    Ok(conn)
}

/// Conversions of a program, all or those of a status, newest first, before the given time and id.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn conversions(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    status: Option<ConversionStatus>,
    before: Option<&(i64, String)>,
    limit: i64,
) -> Result<Vec<ConversionRow>, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let before = before.map(|(at, id)| (*at, id.as_str()));
    Ok(views::list_conversions(&mut conn, program, status, before, limit).await?)
}

/// One conversion of a program, with the flags of its commission.
///
/// # Errors
/// [`Refusal::NotFound`] for a conversion of another program or owner.
pub async fn conversion(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    id: &ConversionId,
) -> Result<(ConversionRow, Vec<FlagRow>), Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let found = views::find_conversion(&mut conn, id).await?;
    let found = found.filter(|found| found.program_id == program.as_str()).ok_or(Refusal::NotFound)?;
    let flags = views::list_flags(&mut conn, &found.commission_id).await?;
    Ok((found, flags))
}

/// Commissions of a program, newest first, before the given time and id.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn commissions(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    before: Option<&(i64, String)>,
    limit: i64,
) -> Result<Vec<CommissionRow>, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let before = before.map(|(at, id)| (*at, id.as_str()));
    Ok(views::list_commissions(&mut conn, program, before, limit).await?)
}

/// Balances of a program's enrollments, after the given enrollment and currency.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn balances(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    after: Option<&(String, String)>,
    limit: i64,
) -> Result<Vec<BalanceRow>, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let after = after.map(|(enrollment, currency)| (enrollment.as_str(), currency.as_str()));
    Ok(views::list_balances(&mut conn, program, after, limit).await?)
}

/// Payouts of a program, newest first, before the given time and id.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn payouts(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    before: Option<&(i64, String)>,
    limit: i64,
) -> Result<Vec<PayoutRow>, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let before = before.map(|(at, id)| (*at, id.as_str()));
    Ok(settlement::list_payouts(&mut conn, program, before, limit).await?)
}

/// Calls of a payout that are shown with it: the last ones.
const ATTEMPTS_SHOWN: i64 = 100;

/// A payout with its first items and its last calls.
#[derive(Debug)]
pub struct PayoutShown {
    /// The payout.
    pub payout: PayoutRow,
    /// What it is made of.
    pub items: Vec<ItemRow>,
    /// The calls that were made for it, in order.
    pub attempts: Vec<AttemptRow>,
    /// What was told last of the receiving account's own payouts to its bank, newest first; without amounts
    /// for an organization.
    pub bank_payouts: Vec<BankPayoutView>,
}

/// One payout of a program, with its first `items_max` items.
///
/// # Errors
/// [`Refusal::NotFound`] for a payout of another program or owner.
pub async fn payout(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    id: &PayoutId,
    items_max: i64,
) -> Result<PayoutShown, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    let payout = payout_of(&mut conn, program, id).await?;
    let items = settlement::list_items(&mut conn, id, None, items_max).await?;
    let attempts = match intents::find_by_payout(&mut conn, id).await? {
        Some(intent) => job_views::list_attempts(&mut conn, &intent, ATTEMPTS_SHOWN).await?,
        None => Vec::new(),
    };
    let mut bank_payouts =
        bank_payouts::newest(&mut conn, &payout.provider, payout.livemode, &payout.destination).await?;
    if by.organization_id().is_some() {
        bank_payouts = bank_payouts.into_iter().map(BankPayoutView::without_income).collect();
    }
    Ok(PayoutShown { payout, items, attempts, bank_payouts })
}

/// What a payout is made of, after the given lot.
///
/// # Errors
/// As [`payout`].
pub async fn payout_items(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    id: &PayoutId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<ItemRow>, Refusal> {
    let mut conn = of_program(app, by, program).await?;
    payout_of(&mut conn, program, id).await?;
    Ok(settlement::list_items(&mut conn, id, after, limit).await?)
}

async fn payout_of(conn: &mut Conn, program: &ProgramId, id: &PayoutId) -> Result<PayoutRow, Refusal> {
    let found = settlement::find_payout(conn, id).await?;
    found.filter(|payout| payout.program_id == program.as_str()).ok_or(Refusal::NotFound)
}

/// Stored events, newest first. They cross organizations, so only an operator's key reads them.
///
/// # Errors
/// [`Refusal::MissingScope`].
pub async fn events(
    app: &App,
    by: &Principal,
    filter: &EventFilter,
    limit: i64,
) -> Result<Vec<EventRow>, Refusal> {
    by.require(Scope::Events)?;
    let mut conn = app.db.read().await?;
    Ok(inbox::list(&mut conn, filter, limit).await?)
}

/// Findings that are not resolved. They cross organizations, so only an operator's key reads them.
///
/// # Errors
/// [`Refusal::MissingScope`].
pub async fn open_findings(
    app: &App,
    by: &Principal,
    after: Option<&crate::domain::ids::FindingId>,
    limit: i64,
) -> Result<Vec<Finding>, Refusal> {
    by.require(Scope::Events)?;
    let mut conn = app.db.read().await?;
    Ok(findings::list(&mut conn, true, after, limit).await?)
}

/// Why a commission is what it is.
///
/// # Errors
/// [`Refusal::NotFound`] for a commission of another owner's program.
pub async fn explanation(app: &App, by: &Principal, id: &CommissionId) -> Result<Explanation, Refusal> {
    by.require(Scope::Read)?;
    Ok(explain::explain(&app.db, id, by.organization_id()).await?)
}

/// A sale with everything told, decided and posted about it. The buyer's address is not part of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sale)]
pub struct SaleView {
    #[serde(flatten)]
    figures: SaleFigures,
    project_id: String,
    realm: String,
    aliases: Vec<ObjectView>,
    payments: Vec<PaymentView>,
    refunds: Vec<RefundView>,
    refund_totals: Vec<RefundTotalView>,
    disputes: Vec<DisputeView>,
    chargeback_reversals: Vec<ReversalView>,
    hints: Vec<HintView>,
    decisions: Vec<DecisionView>,
    commissions: Vec<CommissionView>,
    entries: Vec<EntryOf>,
    events: Vec<EventView>,
}

impl SaleView {
    /// The commissions of the sale.
    #[must_use]
    pub fn commission_ids(&self) -> Vec<CommissionId> {
        self.commissions.iter().map(|commission| commission.id.clone()).collect()
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProviderObject)]
struct ObjectView {
    kind: &'static str,
    id: String,
}

impl From<&ObjectRef> for ObjectView {
    fn from(object: &ObjectRef) -> Self {
        Self { kind: object.kind.as_str(), id: object.id.clone() }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SalePayment)]
struct PaymentView {
    object: ObjectView,
    parent: Option<ObjectView>,
    amount_minor: i64,
    tax_minor: Option<i64>,
    currency: Currency,
    paid_at: Timestamp,
    customer: Option<String>,
    subscription: Option<String>,
    billing_reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleRefund)]
struct RefundView {
    id: String,
    charge: ObjectView,
    amount_minor: i64,
    currency: Currency,
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleRefundTotal)]
struct RefundTotalView {
    charge: ObjectView,
    total_minor: i64,
    currency: Currency,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleDispute)]
struct DisputeView {
    id: String,
    charge: ObjectView,
    amount_minor: i64,
    currency: Currency,
    phase: &'static str,
    withdrawn_minor: i64,
    reinstated_minor: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleChargebackReversal)]
struct ReversalView {
    id: String,
    amount_minor: i64,
    currency: Currency,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleHint)]
struct HintView {
    subject: String,
    source: String,
    code: String,
    told_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleDecision)]
struct DecisionView {
    id: String,
    enrollment_id: String,
    kind: String,
    reason: Option<String>,
    note: Option<String>,
    amount_minor: Option<i64>,
    actor: String,
    decided_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleEntry)]
struct EntryOf {
    commission_id: String,
    #[serde(flatten)]
    entry: EntryView,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleEvent)]
struct EventView {
    id: String,
    provider: String,
    provider_event_id: String,
    r#type: String,
    received_at: Timestamp,
}

/// The sale that an id leads to: its own id, or any id of a provider that names it.
///
/// # Errors
/// [`Refusal::NotFound`] for a sale of another owner.
pub async fn sale(app: &App, by: &Principal, id: &str) -> Result<SaleView, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    let found = views::find_sale(&mut conn, id, by.organization_id()).await?.ok_or(Refusal::NotFound)?;
    let sale_id = SaleId::parse(&found).map_err(|_| Refusal::NotFound)?;
    let sale = explain::load_sale(&mut conn, &sale_id).await?.ok_or(Refusal::NotFound)?;
    let hints = hints(&mut conn, &sale).await?;
    let told = Told::load(&mut conn, &sale_id).await?;
    let summary = sale.facts.summary().map_err(explain::ExplainError::from)?;
    Ok(SaleView {
        figures: SaleFigures::of(&sale, summary.as_ref()),
        project_id: sale.scope.project_id.to_string(),
        realm: sale.scope.realm.as_str().to_owned(),
        aliases: sale.aliases.iter().map(|alias| (&alias.object).into()).collect(),
        payments: payments(&sale),
        refunds: refunds(&sale),
        refund_totals: refund_totals(&sale),
        disputes: disputes(&sale),
        chargeback_reversals: chargeback_reversals(&sale),
        hints,
        decisions: decisions(&told),
        commissions: sale.commissions.iter().map(CommissionView::of).collect(),
        entries: told
            .entries()
            .into_iter()
            .map(|(commission_id, entry)| EntryOf { commission_id, entry })
            .collect(),
        events: events_of(&told),
    })
}

async fn hints(conn: &mut Conn, sale: &Sale) -> Result<Vec<HintView>, StoreError> {
    let subjects = Book::subjects_of(sale);
    let mut book = Book::default();
    sales::load_hints(conn, &subjects, &mut book).await?;
    let shown = subjects.iter().flat_map(|subject| {
        let of = match &subject.subject {
            Subject::Sale(object) => object.to_string(),
            Subject::Subscription(id) => format!("subscription:{id}"),
            Subject::Customer(id) => format!("customer:{id}"),
        };
        book.hints_for(subject).into_iter().map(move |hint| HintView {
            subject: of.clone(),
            source: match hint.source {
                HintSource::Reported => "reported".to_owned(),
                HintSource::Metadata(index) => format!("metadata key {}", index.saturating_add(1)),
                HintSource::ClientReference => "client_reference_id".to_owned(),
                HintSource::Coupon => "coupon".to_owned(),
                HintSource::Visitor => "visitor".to_owned(),
                HintSource::Program => "program".to_owned(),
            },
            code: hint.code,
            told_at: hint.at,
        })
    });
    Ok(shown.collect())
}

fn payments(sale: &Sale) -> Vec<PaymentView> {
    let shown = sale.facts.payments.iter().map(|(object, payment)| PaymentView {
        object: object.into(),
        parent: payment.parent.as_ref().map(Into::into),
        amount_minor: payment.amount,
        tax_minor: payment.tax,
        currency: payment.currency,
        paid_at: payment.at,
        customer: payment.customer.clone(),
        subscription: payment.subscription.clone(),
        billing_reason: payment.billing_reason.clone(),
    });
    shown.collect()
}

fn refunds(sale: &Sale) -> Vec<RefundView> {
    let shown = sale.facts.refunds.values().map(|refund| RefundView {
        id: refund.refund_id.clone(),
        charge: (&refund.sale).into(),
        amount_minor: refund.amount,
        currency: refund.currency,
        status: refund.status.as_str(),
    });
    shown.collect()
}

fn refund_totals(sale: &Sale) -> Vec<RefundTotalView> {
    let shown = sale.facts.refund_totals.iter().map(|(charge, (total, currency))| RefundTotalView {
        charge: charge.into(),
        total_minor: *total,
        currency: *currency,
    });
    shown.collect()
}

fn disputes(sale: &Sale) -> Vec<DisputeView> {
    let shown = sale.facts.disputes.values().map(|dispute| DisputeView {
        id: dispute.dispute_id.clone(),
        charge: (&dispute.sale).into(),
        amount_minor: dispute.amount,
        currency: dispute.currency,
        phase: dispute.phase.as_str(),
        withdrawn_minor: dispute.withdrawn,
        reinstated_minor: dispute.reinstated,
    });
    shown.collect()
}

fn chargeback_reversals(sale: &Sale) -> Vec<ReversalView> {
    let shown = sale.facts.chargeback_reversals.values().map(|reversal| ReversalView {
        id: reversal.reverse_id.clone(),
        amount_minor: reversal.amount,
        currency: reversal.currency,
    });
    shown.collect()
}

fn decisions(told: &Told) -> Vec<DecisionView> {
    let shown = told.decisions.iter().map(|decision| DecisionView {
        id: decision.id.clone(),
        enrollment_id: decision.enrollment_id.clone(),
        kind: decision.kind.clone(),
        reason: decision.reason.clone(),
        note: decision.note.clone(),
        amount_minor: decision.amount_minor,
        actor: decision.actor.clone(),
        decided_at: Timestamp::from_micros(decision.created_at_us),
    });
    shown.collect()
}

fn events_of(told: &Told) -> Vec<EventView> {
    let shown = told.events.iter().map(|event| EventView {
        id: event.id.clone(),
        provider: event.provider.clone(),
        provider_event_id: event.provider_event_id.clone(),
        r#type: event.event_type.clone(),
        received_at: Timestamp::from_micros(event.received_at_us),
    });
    shown.collect()
}
