//! Conversions that an owner's own backend reports, instead of or besides a provider's webhook.
//!
//! A report is stored in the inbox like an event and processed by the same stage, so it is idempotent,
//! replayable and explained like one. The owner's id of the order is an alias of the sale: a webhook
//! that names the same id joins it (`rulings.md` 4), and the provider's amounts then win.
//!
//! A report names the affiliate by code, or the buyer by the subject under which touchpoints were recorded,
//! or both; then the code is tried first. An owner who reports every order by subject reports many that
//! nobody referred: these are stored and answered without a conversion, and a touchpoint that is told late
//! still attributes them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    App, Refusal,
    audit::{self, Change},
    decide,
    keys::{Principal, Scope},
    process,
    programs::visible,
    touchpoints,
};
use crate::{
    domain::{
        commission::{Decision, DecisionKind},
        fact::{Fact, Hint, HintSource, ObjectKind, ObjectRef, SalePaid, Subject},
        ids::{EnrollmentId, ProgramId, ProjectId, SaleId},
        money::Currency,
        program::normalise_code,
        terms::CommissionRule,
        time::Timestamp,
    },
    store::{
        inbox::{self, EventSource, InboxState, Inserted, NewEvent},
        organizations,
        programs::{self, ConversionKind, ProgramDetails},
        views::{self, ConversionRow},
    },
};

/// The provider name under which reports are stored.
pub const PROVIDER: &str = "report";

/// How far the clock of an owner's backend may be ahead of ours, seconds.
const AHEAD_MAX_S: i64 = 300;

/// The event type of a report.
pub const EVENT_TYPE: &str = "conversion.reported";

/// A reported sale, as it is stored in the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The owner's own id of the order.
    pub external_id: String,
    /// The affiliate's code.
    #[serde(default)]
    pub code: Option<String>,
    /// The buyer, as touchpoints name them.
    #[serde(default)]
    pub subject_ref: Option<String>,
    /// The program it was reported to. Absent in reports of before there were touchpoints.
    #[serde(default)]
    pub program_id: Option<String>,
    /// Minor units, 0 or more.
    pub gross_amount_cents: i64,
    /// Tax within the amount, minor units.
    #[serde(default)]
    pub tax_cents: Option<i64>,
    /// Currency of the amounts.
    pub currency: Currency,
    /// When the sale was paid.
    pub occurred_at: Timestamp,
    /// The owner's own id of a customer, whose later orders are renewals.
    #[serde(default)]
    pub customer: Option<String>,
    /// Days that the commission is held in the program that this was reported to, other than that says.
    #[serde(default)]
    pub hold_period_days: Option<u16>,
}

impl Report {
    /// The key that makes a report idempotent: one per program and order (seed S0).
    #[must_use]
    pub fn event_id(&self, program: &str) -> String {
        let digest = Sha256::digest(self.external_id.as_bytes());
        format!("{program}/{}", hex::encode(&digest[..16]))
    }

    /// The facts it tells.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let sale = ObjectRef::new(ObjectKind::External, self.external_id.as_str());
        let paid = Fact::SalePaid(SalePaid {
            sale: sale.clone(),
            parent: None,
            amount: self.gross_amount_cents,
            tax: self.tax_cents,
            currency: self.currency,
            at: self.occurred_at,
            customer: self.customer.clone(),
            subscription: None,
            billing_reason: None,
            buyer_email: None,
            items: Vec::new(),
        });
        let told =
            [(HintSource::Reported, self.code.as_ref()), (HintSource::Visitor, self.subject_ref.as_ref())];
        let subjects = [Some(Subject::Sale(sale.clone())), self.customer.clone().map(Subject::Customer)];
        let mut facts = vec![paid];
        for subject in subjects.into_iter().flatten() {
            let told = told.iter().filter_map(|(source, text)| Some((*source, (*text)?.clone())));
            facts.extend(told.map(|(source, code)| Fact::SaleAttributed {
                subject: subject.clone(),
                hint: Hint { source, code, at: self.occurred_at },
            }));
        }
        if let Some(program) = &self.program_id {
            let hint = Hint { source: HintSource::Program, code: program.clone(), at: self.occurred_at };
            facts.push(Fact::SaleAttributed { subject: Subject::Sale(sale.clone()), hint });
        }
        let program = self.program_id.as_deref().and_then(|id| ProgramId::parse(id).ok());
        if let (Some(program), Some(days)) = (program, self.hold_period_days) {
            facts.push(Fact::HoldTold { sale, program, days });
        }
        facts
    }
}

/// A report as the owner sends it.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// The project that sold.
    pub project_id: ProjectId,
    /// The owner's own id of the order, 1 to 200 characters.
    pub external_id: String,
    /// The affiliate's code. It or `subject_ref` is needed.
    pub code: Option<String>,
    /// The buyer, as touchpoints name them, 1 to 200 characters.
    pub subject_ref: Option<String>,
    /// Minor units: more than 0, or 0 where the program counts events or entitlements.
    pub gross_amount_cents: i64,
    /// Tax within the amount, minor units; unknown by default.
    pub tax_cents: Option<i64>,
    /// Currency of the amounts; by default that of the program's flat commission, else `usd`.
    pub currency: Option<Currency>,
    /// What it is; what the program counts by default, and nothing else is taken.
    pub kind: Option<String>,
    /// When the sale was paid; now by default, and not in the future.
    pub occurred_at: Option<Timestamp>,
    /// The owner's own id of the customer, 1 to 200 characters.
    pub customer: Option<String>,
    /// Days that this commission is held, 0 to 3650; as its program says by default.
    pub hold_period_days: Option<i64>,
}

/// What a report led to.
#[derive(Clone, Debug)]
pub enum Reported {
    /// A conversion of the program.
    Conversion(Box<ConversionRow>),
    /// The report was stored, and no touchpoint of its subject refers it to an affiliate of the program.
    NoTouchpoint,
    /// The report was stored, and the sale belongs to an affiliate of another program of the owner's.
    OtherProgram,
}

/// Takes a report and processes it at once. A repeat of (program, project, external id) changes nothing,
/// whatever else it says, and gives the same conversion (seed S0), unless it names the code of somebody else.
///
/// # Errors
/// [`Refusal::Invalid`] naming the field, [`Refusal::NotFound`] for a program or project of somebody
/// else, [`Refusal::Conflict`] when the sale of a code belongs to another affiliate or to nobody, and with
/// `INVALID_STATE` when it is too late to hold the commission for other days.
pub async fn report(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    new: NewReport,
) -> Result<Reported, Refusal> {
    by.require(Scope::Write)?;
    let program = {
        let mut conn = app.db.read().await?;
        visible(&mut conn, by, program_id).await?
    };
    let now = app.now();
    if new.occurred_at.is_some_and(|at| at > now.plus_secs(AHEAD_MAX_S)) {
        let message = "occurred_at must not be in the future: a report tells of what was paid";
        return Err(Refusal::invalid("INVALID_TIME", "occurred_at", message));
    }
    let named = check(app, &program, &new).await?;
    let hold_period_days = new.hold_period_days.map(decide::check_hold_period).transpose()?;
    let report = Report {
        external_id: new.external_id.clone(),
        code: new.code.as_deref().map(|code| code.trim().to_owned()),
        subject_ref: new.subject_ref,
        program_id: Some(program_id.to_string()),
        gross_amount_cents: new.gross_amount_cents,
        tax_cents: new.tax_cents,
        currency: new.currency.unwrap_or_else(|| default_currency(&program)),
        occurred_at: new.occurred_at.unwrap_or(now),
        customer: new.customer,
        hold_period_days,
    };
    let event = stored(app, program_id, &new.project_id, &report, now);
    let mut tx = app.db.begin().await?;
    let inserted = inbox::insert_batch(&mut tx, std::slice::from_ref(&event)).await?;
    if inserted == [Inserted::New] {
        let change =
            Change::new("conversion.reported", &event.id, Some(&program.organization_id)).after(&report);
        audit::record(&mut tx, by, change, now).await?;
    }
    super::commit_change(tx).await?;
    let stored = process_now(app, &event).await?;
    let (first, earned) = {
        let mut conn = app.db.read().await?;
        let body = inbox::find_body(&mut conn, &stored).await?.unwrap_or_default();
        let earned =
            views::find_reported_conversion(&mut conn, new.project_id.as_str(), &new.external_id).await?;
        // What counts is what was reported first. Its body may be archived.
        (serde_json::from_slice::<Report>(&body).ok(), earned)
    };
    if let Some(conversion) = earned.as_ref().filter(|earned| earned.program_id == program_id.as_str()) {
        check_hold(app, first.as_ref().and_then(|first| first.hold_period_days), conversion).await?;
    }
    let Some(named) = named else {
        return Ok(match earned {
            Some(conversion) if conversion.program_id == program_id.as_str() => {
                Reported::Conversion(Box::new(conversion))
            }
            Some(_) => Reported::OtherProgram,
            None => Reported::NoTouchpoint,
        });
    };
    match earned {
        Some(conversion) if conversion.enrollment_id == named.as_str() => {
            Ok(Reported::Conversion(Box::new(conversion)))
        }
        other => {
            Err(not_given(other.is_some(), first.is_none_or(|first| names_same(&first, &report)), &report))
        }
    }
}

fn names_same(first: &Report, report: &Report) -> bool {
    first.code.as_deref().map(normalise_code) == report.code.as_deref().map(normalise_code)
}

/// Why the affiliate of a report's code has no conversion of it. An order is reported once, and what a repeat
/// says otherwise is not stored.
fn not_given(is_anothers: bool, is_as_stored: bool, report: &Report) -> Refusal {
    let stored = if is_as_stored {
        "the report was stored"
    } else {
        "the order was reported before, with another code or none, and a repeat changes nothing"
    };
    match (is_anothers, is_as_stored) {
        (true, _) => {
            let code = report.code.as_deref().unwrap_or_default();
            let message = format!(
                "{stored}; the sale belongs to another affiliate already, and nothing was given to the \
                 affiliate of code `{code}`"
            );
            Refusal::conflict("ALREADY_ATTRIBUTED", message)
        }
        (false, true) => {
            let message = format!(
                "{stored}, but the sale earns nothing: the program, the affiliate or the code was not active \
                 when it was paid"
            );
            Refusal::conflict("NOT_ATTRIBUTED", message)
        }
        (false, false) => {
            let message = format!("{stored}; attribute the sale by hand, if it is to earn");
            Refusal::conflict("NOT_ATTRIBUTED", message)
        }
    }
}

/// Refuses to answer as if the stored report's hold had come in time, where a webhook of the same order was
/// before it and the commission is payable. A longer or shorter hold that somebody decided on is not the
/// report's business.
async fn check_hold(app: &App, days: Option<u16>, conversion: &ConversionRow) -> Result<(), Refusal> {
    let corrupt = |_| Refusal::NotFound;
    let Some(days) = days else { return Ok(()) };
    let mut conn = app.db.read().await?;
    let sale_id = SaleId::parse(&conversion.sale_id).map_err(corrupt)?;
    let Some(sale) = super::explain::load_sale(&mut conn, &sale_id).await? else { return Ok(()) };
    let direct = sale.commissions.iter().find(|known| known.id.as_str() == conversion.commission_id);
    let Some(direct) = direct.filter(|known| known.released > 0) else { return Ok(()) };
    let is_decided =
        |decision: &Decision| decision.kind == DecisionKind::HoldPeriod && decision.is_about(direct);
    if app.now() >= direct.paid_at.plus_days(i64::from(days)) || sale.decisions.iter().any(is_decided) {
        return Ok(());
    }
    let message = format!(
        "the report was stored, but its commission was {} before the report said how long to hold it; nothing \
         was taken back",
        direct.state.as_str()
    );
    Err(Refusal::conflict("INVALID_STATE", message))
}

/// The currency of a report that names none.
fn default_currency(program: &ProgramDetails) -> Currency {
    if let CommissionRule::Flat { currency, .. } = &program.terms.value.terms.commission {
        return *currency;
    }
    Currency::USD
}

/// Sees to it that the stored report is processed before its sender is answered. Another worker may
/// have taken it; then this waits for that one, for a second at most. Gives our id of the stored one.
async fn process_now(app: &App, event: &NewEvent) -> Result<String, Refusal> {
    const LOOKS: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..LOOKS {
        let mut conn = app.db.read().await?;
        // By its key and not by its own id: a repeat finds the row that was stored first.
        let stored = inbox::find_by_key(&mut conn, event.key()).await?.ok_or(Refusal::NotFound)?;
        drop(conn);
        if stored.state != InboxState::Received.as_str() {
            return Ok(stored.id);
        }
        if process::process_these(app, vec![stored.id]).await?.is_idle() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(Refusal::conflict(
        "NOT_PROCESSED_YET",
        "the report is stored and will be processed; send it again to see the conversion",
    ))
}

/// The affiliate that the report's code names, once every field is one that can be stored.
async fn check(
    app: &App,
    program: &ProgramDetails,
    new: &NewReport,
) -> Result<Option<EnrollmentId>, Refusal> {
    check_texts(new)?;
    check_amounts(program, new)?;
    let kind = program.conversion_kind.as_str();
    if new.kind.as_deref().is_some_and(|given| given != kind) {
        let message = format!("kind must be `{kind}`, which is what this program counts, or absent");
        return Err(Refusal::invalid("INVALID_KIND", "kind", message));
    }
    let owner = &program.organization_id;
    let mut conn = app.db.read().await?;
    let project = organizations::find_project(&mut conn, &new.project_id).await?;
    if project.is_none_or(|project| project.organization_id != *owner) {
        let message = "project_id names no project of the program's owner";
        return Err(Refusal::invalid("INVALID_PROJECT", "project_id", message));
    }
    let Some(code) = &new.code else { return Ok(None) };
    let unknown_code = || Refusal::invalid("UNKNOWN_CODE", "code", "code names no affiliate of this program");
    // A code with control characters is nobody's, and not every database can be asked for it.
    if !is_text(code) {
        return Err(unknown_code());
    }
    let code = (owner.clone(), normalise_code(code));
    let directory = programs::load_directory(&mut conn, std::slice::from_ref(&code), &[]).await?;
    let named = directory.codes.get(&code).and_then(|code| directory.enrollments.get(&code.enrollment_id));
    let named = named.filter(|enrollment| enrollment.program_id == program.id);
    named.map(|enrollment| Some(enrollment.id.clone())).ok_or_else(unknown_code)
}

/// Whether a text of an owner's can be stored and searched for.
pub(super) fn is_text(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn check_texts(new: &NewReport) -> Result<(), Refusal> {
    if !is_text(&new.external_id) {
        let message = "external_id must be 1 to 200 printable characters";
        return Err(Refusal::invalid("INVALID_EXTERNAL_ID", "external_id", message));
    }
    if new.customer.as_deref().is_some_and(|customer| !is_text(customer)) {
        let message = "customer must be 1 to 200 printable characters";
        return Err(Refusal::invalid("INVALID_CUSTOMER", "customer", message));
    }
    match (&new.subject_ref, &new.code) {
        (Some(subject), _) => touchpoints::check_subject_ref(subject),
        (None, Some(_)) => Ok(()),
        (None, None) => {
            let message = "a report needs the code of an affiliate or the subject_ref of the buyer";
            Err(Refusal::invalid("MISSING_SUBJECT", "subject_ref", message))
        }
    }
}

/// An event may be worth nothing to the till and still something to the affiliate; a payment of nothing
/// is none (`semantics.md` C22).
fn check_amounts(program: &ProgramDetails, new: &NewReport) -> Result<(), Refusal> {
    let (least, message) = match program.conversion_kind {
        ConversionKind::Payment => (1, "gross_amount_cents must be a positive number of minor units"),
        ConversionKind::Event | ConversionKind::Entitlement => {
            (0, "gross_amount_cents must be a number of minor units, 0 or more")
        }
    };
    if new.gross_amount_cents < least {
        return Err(Refusal::invalid("INVALID_AMOUNT", "gross_amount_cents", message));
    }
    if new.tax_cents.is_some_and(|tax| !(0..=new.gross_amount_cents).contains(&tax)) {
        let message = "tax_cents must be a number of minor units from 0 to gross_amount_cents";
        return Err(Refusal::invalid("INVALID_TAX", "tax_cents", message));
    }
    Ok(())
}

fn stored(
    app: &App,
    program_id: &ProgramId,
    project_id: &ProjectId,
    report: &Report,
    now: Timestamp,
) -> NewEvent {
    let body = serde_json::to_vec(report).unwrap_or_default();
    NewEvent {
        id: super::new_inbox_id(now),
        provider: PROVIDER,
        endpoint_id: project_id.to_string(),
        project_id: project_id.to_string(),
        account: String::new(),
        livemode: app.config.livemode,
        provider_event_id: report.event_id(program_id.as_str()),
        event_type: EVENT_TYPE.to_owned(),
        provider_created_at: Some(report.occurred_at),
        received_at: now,
        state: InboxState::Received,
        reason: None,
        source: EventSource::Api,
        body_sha256: Sha256::digest(&body).into(),
        body,
    }
}
