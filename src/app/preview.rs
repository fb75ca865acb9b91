//! What a sale would earn, and why, without selling anything: for an owner who tries out terms, and for
//! support. It runs the same functions as the fold on facts that nobody told, and writes nothing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, Refusal,
    keys::{Principal, Scope},
    programs::visible,
    reckon::{self, Step},
    report::is_text,
};
use crate::{
    domain::{
        book::Tally,
        fact::{Item, ObjectKind, ObjectRef, SalePaid},
        ids::{EnrollmentId, OrganizationId, ProgramId},
        money::{Currency, MoneyError},
        program::{Directory, Program},
        sale::{SaleFacts, Summary},
        terms::{ApprovalMode, Limit, Position, Standing, Terms},
        time::Timestamp,
    },
    store::{
        Conn, counters,
        programs::{self, ConversionKind},
    },
};

/// A sale that might be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PreviewQuestion)]
pub struct Question {
    /// Minor units, tax included, 0 or more.
    #[schema(minimum = 0)]
    pub gross_amount_cents: i64,
    /// Currency of all amounts.
    pub currency: Currency,
    /// Minor units within the gross amount. Absent is not zero.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub tax_cents: Option<i64>,
    /// Minor units given back of it.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub refunded_cents: i64,
    /// When it is paid; now by default. Terms are those of that time.
    #[serde(default)]
    pub paid_at: Option<Timestamp>,
    /// What is sold, for rates by product.
    #[serde(default)]
    #[schema(max_items = 200)]
    pub items: Vec<Line>,
    /// Whose sale it is: their rate, their tier and their sponsors then count.
    #[serde(default)]
    pub enrollment_id: Option<EnrollmentId>,
    /// Who buys, by the id that the provider or the owner's reports know them by: it is then their next
    /// payment to the credit of `enrollment_id`, under the terms that their first one froze. By default
    /// somebody who has paid nothing yet.
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    pub customer: Option<String>,
    /// Where the sale stands among others; by default where it would stand now.
    #[serde(default)]
    pub position: Option<Place>,
}

/// A line of such a sale.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PreviewItem)]
pub struct Line {
    /// The provider's id of the price.
    #[serde(default)]
    pub price: Option<String>,
    /// The provider's id of the product.
    #[serde(default)]
    pub product: Option<String>,
    /// Minor units; only the proportion of the lines counts.
    pub amount_cents: i64,
}

/// Where such a sale stands among others.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PreviewPosition)]
pub struct Place {
    /// Accepted sales of the affiliate before it.
    #[schema(minimum = 0)]
    pub sales_before: i64,
    /// What they brought, minor units of the currency.
    #[schema(minimum = 0)]
    pub revenue_before_cents: i64,
    /// Which payment of its customer it is, 1 for the first; by default the one that comes next.
    #[schema(minimum = 1)]
    pub payment_number: Option<i64>,
    /// When the customer's first payment was made.
    pub first_paid_at: Option<Timestamp>,
}

/// What the sale would earn.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = CommissionPreview)]
pub struct Answer {
    /// The version of the program's terms.
    pub terms_version: i64,
    /// Whether the rule asks which payment of the customer it is, and nobody said who the customer is: the
    /// answer is then that of a first payment.
    pub assumes_new_customer: bool,
    /// What a share is taken of, minor units of the sale's currency.
    pub base_cents: i64,
    /// What the sale earns, minor units.
    pub amount_cents: i64,
    /// What is kept of it after the refund, minor units.
    pub kept_cents: i64,
    /// Currency of the commission.
    pub currency: Currency,
    /// Why it is nothing, where a limit of the rule says so.
    pub limit: Option<&'static str>,
    /// Whether somebody has to approve it first.
    pub needs_approval: bool,
    /// When the hold would be over.
    pub payable_at: Timestamp,
    /// The reckoning.
    pub steps: Vec<Step>,
    /// What sponsors would get on top.
    pub uplines: Vec<Upline>,
}

/// What one sponsor would get.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = PreviewUpline)]
pub struct Upline {
    /// 1 for the affiliate's sponsor.
    pub level: usize,
    /// Who.
    pub enrollment_id: EnrollmentId,
    /// Minor units of the commission's currency.
    pub amount_cents: i64,
}

/// What a sale would earn under the program's terms.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of somebody else, [`Refusal::Invalid`] with a code of its own for
/// each field.
pub async fn preview(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    question: Question,
) -> Result<Answer, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    let details = visible(&mut conn, by, program_id).await?;
    let paid_at = question.paid_at.unwrap_or_else(|| app.now());
    let sale = summary(&question, details.conversion_kind, paid_at)?;
    let mut directory = match &question.enrollment_id {
        Some(id) => programs::load_directory(&mut conn, &[], std::slice::from_ref(id)).await?,
        None => programs::load_program(&mut conn, program_id).await?,
    };
    directory.multi_level = app.config.programs.multi_level;
    let program = directory.programs.get(program_id);
    let enrollment = question.enrollment_id.as_ref().map(|id| {
        let found = directory.enrollments.get(id).filter(|found| found.program_id == *program_id);
        found.ok_or_else(|| {
            let message = "enrollment_id names no affiliate of this program";
            Refusal::invalid("UNKNOWN_ENROLLMENT", "enrollment_id", message)
        })
    });
    let enrollment = enrollment.transpose()?;
    let version = program.and_then(|program| program.terms_at(paid_at)).ok_or(Refusal::NotFound)?;
    let mut terms =
        enrollment.map_or_else(|| version.terms.clone(), |found| found.terms_of(version, paid_at));
    let mut terms_version = version.version;
    let paid_before = paid_before(&mut conn, &details.organization_id, &question).await?;
    // As in the fold: the customer's first payment froze the terms of the later ones.
    if program.is_some_and(Program::follows_customers)
        && let Some(first) = paid_before.as_ref().and_then(|tally| tally.first.as_ref())
    {
        (terms, terms_version) = (first.terms.clone(), first.terms_version);
    }
    let place = question.position.clone().unwrap_or_default();
    let position = match terms.standing() {
        None => None,
        Some(Standing::AmongSales) => Some(
            among_sales(&mut conn, question.position.as_ref(), question.enrollment_id.as_ref(), &sale)
                .await?,
        ),
        Some(Standing::AmongPayments) => Some(among_payments(&place, paid_before.as_ref(), paid_at)?),
    };
    drop(conn);
    let assumes_new_customer = terms.standing() == Some(Standing::AmongPayments)
        && place.payment_number.is_none()
        && question.customer.is_none();
    let sponsors = Sponsors { directory: &directory, enrollment_id: question.enrollment_id.as_ref() };
    let answer = answer(&terms, terms_version, &sale, position, &sponsors).map_err(|_| too_large())?;
    Ok(Answer { assumes_new_customer, ..answer })
}

/// What the customer has paid to the credit of the affiliate; none for whoever has paid nothing yet.
async fn paid_before(
    conn: &mut Conn,
    owner: &OrganizationId,
    question: &Question,
) -> Result<Option<Tally>, Refusal> {
    let Some(customer) = &question.customer else { return Ok(None) };
    if !is_text(customer) {
        let message = "customer must be 1 to 200 printable characters";
        return Err(Refusal::invalid("INVALID_CUSTOMER", "customer", message));
    }
    let Some(enrollment) = &question.enrollment_id else {
        let message = "payments of a customer are counted for one affiliate: name the enrollment_id too";
        return Err(Refusal::invalid("MISSING_ENROLLMENT", "enrollment_id", message));
    };
    let mut found = counters::tallies_of_customer(conn, owner, enrollment, customer).await?;
    if found.len() > 1 {
        let message =
            "several projects or providers have a customer of this id who has paid; give the position";
        return Err(Refusal::invalid("AMBIGUOUS_CUSTOMER", "customer", message));
    }
    Ok(found.pop())
}

fn too_large() -> Refusal {
    Refusal::invalid("INVALID_AMOUNT", "gross_amount_cents", "the amounts do not fit 64 bits")
}

/// The sale as its facts would say it: those of a provider, or the owner's report where the program counts
/// what needs no payment.
fn summary(question: &Question, kind: ConversionKind, paid_at: Timestamp) -> Result<Summary, Refusal> {
    let amount = question.gross_amount_cents;
    if amount < 0 {
        let message = "gross_amount_cents must be 0 or more";
        return Err(Refusal::invalid("INVALID_AMOUNT", "gross_amount_cents", message));
    }
    if !question.currency.is_listed() {
        let message = "currency must be an ISO 4217 code such as usd";
        return Err(Refusal::invalid("INVALID_CURRENCY", "currency", message));
    }
    if question.tax_cents.is_some_and(|tax| !(0..=amount).contains(&tax)) {
        let message = "tax_cents must be 0 to gross_amount_cents";
        return Err(Refusal::invalid("INVALID_TAX", "tax_cents", message));
    }
    if !(0..=amount).contains(&question.refunded_cents) {
        let message = "refunded_cents must be 0 to gross_amount_cents";
        return Err(Refusal::invalid("INVALID_REFUND", "refunded_cents", message));
    }
    if question.items.len() > 200 {
        return Err(Refusal::invalid("INVALID_ITEMS", "items", "items must be at most 200 lines"));
    }
    let teller = match kind {
        ConversionKind::Payment => ObjectKind::Charge,
        ConversionKind::Event | ConversionKind::Entitlement => ObjectKind::External,
    };
    let object = ObjectRef::new(teller, "preview");
    let mut facts = SaleFacts::default();
    facts.merge_payment(&SalePaid {
        sale: object.clone(),
        parent: None,
        amount,
        tax: question.tax_cents,
        currency: question.currency,
        at: paid_at,
        customer: None,
        subscription: None,
        billing_reason: None,
        buyer_email: None,
        items: question.items.iter().map(Line::item).collect(),
    });
    facts.merge_refund_total(&object, question.refunded_cents, question.currency);
    facts.summary().ok().flatten().ok_or_else(too_large)
}

impl Line {
    fn item(&self) -> Item {
        Item { price: self.price.clone(), product: self.product.clone(), amount: self.amount_cents }
    }
}

fn invalid_position() -> Refusal {
    let message = "position counts from 0, payment_number from 1";
    Refusal::invalid("INVALID_POSITION", "position", message)
}

/// Which payment of the customer it is: as it was asked for, else the next.
fn among_payments(place: &Place, before: Option<&Tally>, paid_at: Timestamp) -> Result<Position, Refusal> {
    let next = before.map_or(1, |tally| tally.count.saturating_add(1));
    let number = place.payment_number.unwrap_or(next);
    if place.sales_before < 0 || place.revenue_before_cents < 0 || number < 1 {
        return Err(invalid_position());
    }
    let first = before.and_then(|tally| tally.first.as_ref()).map(|first| first.paid_at);
    let first_paid_at = place.first_paid_at.or(first).unwrap_or(paid_at);
    Ok(Position::Payments { number, first_paid_at })
}

/// After how many sales of the affiliate it comes: as it was asked for, else after all there are. A sale of
/// nobody is the first.
async fn among_sales(
    conn: &mut Conn,
    place: Option<&Place>,
    enrollment: Option<&EnrollmentId>,
    sale: &Summary,
) -> Result<Position, Refusal> {
    let (count, revenue) = match (place, enrollment) {
        (Some(place), _) => (place.sales_before, place.revenue_before_cents),
        (None, Some(enrollment)) => {
            let tally = counters::tally_of_sales(conn, enrollment, sale.currency).await?;
            (tally.count, tally.revenue)
        }
        (None, None) => (0, 0),
    };
    let is_number = place.is_none_or(|place| place.payment_number.is_none_or(|number| number >= 1));
    if count < 0 || revenue < 0 || !is_number {
        return Err(invalid_position());
    }
    Ok(Position::Sales { count, revenue })
}

/// Who would earn besides the affiliate.
struct Sponsors<'a> {
    directory: &'a Directory,
    enrollment_id: Option<&'a EnrollmentId>,
}

fn answer(
    terms: &Terms,
    terms_version: i64,
    sale: &Summary,
    position: Option<Position>,
    sponsors: &Sponsors<'_>,
) -> Result<Answer, MoneyError> {
    let earned = terms.earned(sale, position.as_ref())?;
    let mut steps = reckon::earned(terms, terms_version, sale, position.as_ref(), &earned);
    steps.extend(reckon::kept(terms, sale, &earned)?);
    let mut uplines = Vec::new();
    if let Some(id) = sponsors.enrollment_id.filter(|_| sponsors.directory.multi_level) {
        let chain = sponsors.directory.sponsors_of(id, sale.paid_at, terms.upline_bps.len());
        for ((level, share), sponsor) in (1..).zip(&terms.upline_bps).zip(chain) {
            if sponsor.is_active_at(sale.paid_at) {
                let amount_cents = share.of(earned.amount)?;
                uplines.push(Upline { level, enrollment_id: sponsor.id.clone(), amount_cents });
            }
        }
    }
    Ok(Answer {
        terms_version,
        assumes_new_customer: false,
        base_cents: earned.base,
        amount_cents: earned.amount,
        kept_cents: terms.kept(&earned, sale)?,
        currency: earned.currency,
        limit: earned.limit.map(Limit::as_str),
        needs_approval: terms.approval_mode == ApprovalMode::Manual,
        payable_at: sale.paid_at.plus_days(i64::from(terms.hold_period_days)),
        steps,
        uplines,
    })
}
