//! Conversions that an owner's own backend reports, instead of or besides a provider's webhook.
//!
//! A report is stored in the inbox like an event and processed by the same stage, so it is idempotent,
//! replayable and explained like one. The owner's id of the order is an alias of the sale: a webhook
//! that names the same id joins it (`rulings.md` 4), and the provider's amounts then win.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
    process,
};
use crate::{
    domain::{
        fact::{Fact, Hint, HintSource, ObjectKind, ObjectRef, SalePaid, Subject},
        ids::{EnrollmentId, OrganizationId, ProgramId, ProjectId},
        money::Currency,
        program::normalise_code,
        time::Timestamp,
    },
    store::{
        inbox::{self, EventSource, InboxState, Inserted, NewEvent},
        organizations, programs,
        views::{self, ConversionRow},
    },
};

/// The provider name under which reports are stored.
pub const PROVIDER: &str = "report";

/// The event type of a report.
pub const EVENT_TYPE: &str = "conversion.reported";

/// A reported sale, as it is stored in the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The owner's own id of the order.
    pub external_id: String,
    /// The affiliate's code.
    pub code: String,
    /// Minor units, more than 0.
    pub gross_amount_cents: i64,
    /// Currency of the amount.
    pub currency: Currency,
    /// When the sale was paid.
    pub occurred_at: Timestamp,
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
            tax: None,
            currency: self.currency,
            at: self.occurred_at,
            customer: None,
            subscription: None,
            billing_reason: None,
            buyer_email: None,
            items: Vec::new(),
        });
        let hint = Hint { source: HintSource::Reported, code: self.code.clone(), at: self.occurred_at };
        vec![paid, Fact::SaleAttributed { subject: Subject::Sale(sale), hint }]
    }
}

/// A report as the owner sends it.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// The project that sold.
    pub project_id: ProjectId,
    /// The owner's own id of the order, 1 to 200 characters.
    pub external_id: String,
    /// The affiliate's code.
    pub code: String,
    /// Minor units, more than 0.
    pub gross_amount_cents: i64,
    /// Currency of the amount.
    pub currency: Currency,
    /// When the sale was paid; now by default.
    pub occurred_at: Option<Timestamp>,
}

/// Takes a report and processes it at once. A repeat of (program, project, external id) changes nothing
/// and gives the same conversion (seed S0).
///
/// # Errors
/// [`Refusal::Invalid`] naming the field, [`Refusal::NotFound`] for a program or project of somebody
/// else, [`Refusal::Conflict`] when the sale belongs to another affiliate or earns nothing.
pub async fn report(
    app: &App,
    by: &Principal,
    program_id: &ProgramId,
    new: NewReport,
) -> Result<ConversionRow, Refusal> {
    by.require(Scope::Write)?;
    let owner = {
        let mut conn = app.db.read().await?;
        views::program_owner(&mut conn, program_id).await?.ok_or(Refusal::NotFound)?
    };
    by.require_owner(&owner)?;
    let named = check(app, &owner, program_id, &new).await?;
    let now = app.now();
    let report = Report {
        external_id: new.external_id.clone(),
        code: new.code.trim().to_owned(),
        gross_amount_cents: new.gross_amount_cents,
        currency: new.currency,
        occurred_at: new.occurred_at.unwrap_or(now),
    };
    let event = stored(app, program_id, &new.project_id, &report, now);
    let mut tx = app.db.begin().await?;
    let inserted = inbox::insert_batch(&mut tx, std::slice::from_ref(&event)).await?;
    if inserted == [Inserted::New] {
        let change = Change::new("conversion.reported", &event.id, Some(&owner)).after(&report);
        audit::record(&mut tx, by, change, now).await?;
    }
    super::commit_change(tx).await?;
    process_now(app, &event).await?;
    let mut conn = app.db.read().await?;
    let earned =
        views::find_reported_conversion(&mut conn, new.project_id.as_str(), &new.external_id).await?;
    match earned {
        Some(conversion) if conversion.enrollment_id == named.as_str() => Ok(conversion),
        Some(_) => Err(Refusal::conflict(
            "ALREADY_ATTRIBUTED",
            format!(
                "the report was stored, but the sale belongs to another affiliate already; nothing was \
                 given to the affiliate of code `{}`",
                report.code
            ),
        )),
        None => Err(Refusal::conflict(
            "NOT_ATTRIBUTED",
            "the report was stored, but the sale earns nothing: the program or the affiliate was not active \
             when it was paid, or its terms give nothing for it",
        )),
    }
}

/// Sees to it that the stored report is processed before its sender is answered. Another worker may
/// have taken it; then this waits for that one, for a second at most.
async fn process_now(app: &App, event: &NewEvent) -> Result<(), Refusal> {
    const LOOKS: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..LOOKS {
        let mut conn = app.db.read().await?;
        // By its key and not by its own id: a repeat finds the row that was stored first.
        let stored = inbox::find_by_key(&mut conn, event.key()).await?.ok_or(Refusal::NotFound)?;
        drop(conn);
        if stored.state != InboxState::Received.as_str() {
            return Ok(());
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
    owner: &OrganizationId,
    program_id: &ProgramId,
    new: &NewReport,
) -> Result<EnrollmentId, Refusal> {
    let is_text = |text: &str| (1..=200).contains(&text.len()) && !text.chars().any(char::is_control);
    if !is_text(&new.external_id) {
        let message = "external_id must be 1 to 200 printable characters";
        return Err(Refusal::invalid("INVALID_EXTERNAL_ID", "external_id", message));
    }
    if new.gross_amount_cents <= 0 {
        let message = "gross_amount_cents must be a positive number of minor units";
        return Err(Refusal::invalid("INVALID_AMOUNT", "gross_amount_cents", message));
    }
    let mut conn = app.db.read().await?;
    let project = organizations::find_project(&mut conn, &new.project_id).await?;
    if project.is_none_or(|project| project.organization_id != *owner) {
        let message = "project_id names no project of the program's owner";
        return Err(Refusal::invalid("INVALID_PROJECT", "project_id", message));
    }
    let unknown_code = || Refusal::invalid("UNKNOWN_CODE", "code", "code names no affiliate of this program");
    // A code with control characters is nobody's, and not every database can be asked for it.
    if !is_text(&new.code) {
        return Err(unknown_code());
    }
    let code = (owner.clone(), normalise_code(&new.code));
    let directory = programs::load_directory(&mut conn, std::slice::from_ref(&code), &[]).await?;
    let named = directory.codes.get(&code).and_then(|code| directory.enrollments.get(&code.enrollment_id));
    let named = named.filter(|enrollment| enrollment.program_id == *program_id);
    named.map(|enrollment| enrollment.id.clone()).ok_or_else(unknown_code)
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
