//! The check-up: does the database prove what the program promises?
//!
//! Reads only, repairs nothing. The proofs of the ledger are queries of `store::doctor`; this adds the
//! content hashes, what waits for a person, and how bad each thing is.

use serde::Serialize;

use super::{App, instance};
use crate::{
    domain::{intent::IntentKind, notice::OVERDUE_S, time::Timestamp},
    store::{
        Conn, StoreError,
        doctor::{self, EventTrouble},
        findings::Severity,
        holds::{self, PauseKind},
        mail,
    },
};

/// How long an event may be overdue before somebody should look: far longer than any batch takes.
const STUCK_AFTER_S: i64 = 15 * 60;
/// Entries whose hashes are checked at a time.
const PAGE: i64 = 1_000;
/// Further rows of the same kind add nothing to the diagnosis.
const SHOWN_MAX: usize = 100;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the rule that is broken.
    pub invariant: &'static str,
    /// How bad: `critical` when the books are wrong, `warning` when a person should look.
    pub severity: &'static str,
    /// What breaks it.
    pub object: String,
    /// What was compared, or what to do.
    pub detail: String,
}

impl Finding {
    fn new(
        invariant: &'static str,
        severity: Severity,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        let severity = severity.as_str();
        Self { invariant, severity, object: object.into(), detail: detail.into() }
    }
}

/// Checks everything the database can show.
///
/// Each proof is one statement and so sees one state of the books, also beside a busy server.
///
/// # Errors
/// [`StoreError`] when the database does not answer; nothing is concluded then.
pub async fn examine(app: &App) -> Result<Vec<Finding>, StoreError> {
    let mut conn = app.db.read().await?;
    let mut findings = Vec::new();
    for proof in doctor::proofs() {
        for broken in proof.run(&mut conn).await? {
            let detail =
                format!("{} is {}, {} is {}", proof.left, broken.left_minor, proof.right, broken.right_minor);
            findings.push(Finding::new(proof.invariant, Severity::Critical, broken.object, detail));
        }
    }
    findings.extend(check_hashes(&mut conn).await?);
    findings.extend(check_inbox(&mut conn, app.now()).await?);
    findings.extend(check_runs(&mut conn, app.now()).await?);
    findings.extend(check_age(app, &mut conn).await?);
    findings.extend(check_payouts(app, &mut conn).await?);
    findings.extend(check_jobs(app, &mut conn).await?);
    findings.extend(check_mail(&mut conn, app.now()).await?);
    Ok(findings)
}

async fn check_hashes(conn: &mut Conn) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let mut after = String::new();
    loop {
        let page = doctor::check_hashes(conn, &after, PAGE).await?;
        findings.extend(page.changed.into_iter().map(|entry| {
            let detail = "the entry no longer says what it said when it was posted";
            Finding::new("entry_content_hash", Severity::Critical, entry, detail)
        }));
        findings.truncate(SHOWN_MAX);
        match page.last {
            Some(last) => after = last,
            None => return Ok(findings),
        }
    }
}

async fn check_inbox(conn: &mut Conn, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
    let bound = now.plus_secs(-STUCK_AFTER_S);
    let stuck = doctor::list_stuck_events(conn, bound).await?.into_iter().map(|event| {
        let detail = format!(
            "due for more than {STUCK_AFTER_S} s and not processed ({}); is a node with the role `process` \
             running?",
            describe(&event)
        );
        Finding::new("event_stuck", Severity::Critical, event.id, detail)
    });
    let mut findings: Vec<Finding> = stuck.collect();
    findings.extend(doctor::list_parked_events(conn).await?.into_iter().map(|event| {
        let detail = format!("{}; `remit events retry {}` tries it again", describe(&event), event.id);
        Finding::new("event_parked", Severity::Warning, event.id, detail)
    }));
    findings.extend(doctor::list_stuck_refolds(conn, bound).await?.into_iter().map(|(sale, requested)| {
        let since = Timestamp::from_micros(requested);
        let detail = format!(
            "to be folded again since {since} and not done; is a node with the role `schedule` running, and \
             is there a finding `refold_failed`?"
        );
        Finding::new("refold_stuck", Severity::Critical, sale, detail)
    }));
    Ok(findings)
}

async fn check_runs(conn: &mut Conn, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
    let stuck = doctor::list_stuck_runs(conn, now.plus_secs(-STUCK_AFTER_S)).await?;
    let findings = stuck.into_iter().map(|(run, begun)| {
        let since = Timestamp::from_micros(begun);
        let detail = format!(
            "begun at {since} and not completed; is a node with the role `schedule` and with payouts enabled \
             running, are payouts paused, and is there a finding `settlement_failed`?"
        );
        Finding::new("settlement_stuck", Severity::Warning, run, detail)
    });
    Ok(findings.collect())
}

async fn check_age(app: &App, conn: &mut Conn) -> Result<Option<Finding>, StoreError> {
    Ok(instance::check(app, conn).await?.map(|trouble| {
        let detail = format!(
            "{trouble}; nothing is paid out until `remit payouts resume --confirm-restored` says that it was \
             compared with the provider"
        );
        Finding::new("database_not_restored", Severity::Critical, "instance", detail)
    }))
}

async fn check_payouts(app: &App, conn: &mut Conn) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let sends = app.config.payouts_live || app.config.payments_enabled;
    if sends && app.config.stripe.secret_key.is_none() {
        let detail = "payouts or payments are switched on and there is no key to make them with; set \
                      `stripe.secret_key`, or switch them off";
        findings.push(Finding::new(
            "provider_key_configured",
            Severity::Warning,
            "stripe.secret_key",
            detail,
        ));
    }
    for pause in holds::list_pauses(conn).await? {
        // The other kind is reported as what it is: a database that went back in time.
        if pause.kind == PauseKind::Operator {
            let detail = format!(
                "all payouts are paused since {} by {}: {}; `remit payouts resume` lets them go on",
                pause.paused_at, pause.actor, pause.reason
            );
            findings.push(Finding::new(
                "payouts_not_paused",
                Severity::Warning,
                pause.id.to_string(),
                detail,
            ));
        }
    }
    for unknown in doctor::count_unknown(conn).await? {
        let detail = format!(
            "{} of which nobody knows whether the provider moved the money, the oldest made at {}; `remit jobs \
             list --state unknown` shows them, `remit jobs resolve` ends a doubt",
            unknown.count,
            Timestamp::from_micros(unknown.oldest_us)
        );
        findings.push(Finding::new("outcome_known", Severity::Critical, unknown.kind, detail));
    }
    Ok(findings)
}

async fn check_jobs(app: &App, conn: &mut Conn) -> Result<Vec<Finding>, StoreError> {
    let bound = app.now().plus_secs(-STUCK_AFTER_S);
    // What is switched off is not expected to be done.
    let is_on = |kind: &str| match IntentKind::parse(kind) {
        Some(IntentKind::Transfer) => app.config.payouts_live,
        Some(IntentKind::Charge) => app.config.payments_enabled,
        None => true,
    };
    let overdue = doctor::list_overdue_jobs(conn, bound).await?.into_iter().filter(|job| is_on(&job.kind));
    let mut findings: Vec<Finding> = overdue
        .map(|job| {
            let detail = format!(
                "due since {} and not taken; is a node with the role `dispatch` running?",
                Timestamp::from_micros(job.due_at_us)
            );
            Finding::new("job_overdue", Severity::Critical, job.id, detail)
        })
        .collect();
    findings.extend(doctor::list_abandoned_jobs(conn, bound).await?.into_iter().map(|job| {
        let detail = format!(
            "its lease ended at {} and nobody has taken it again; is a node with the role `dispatch` running, \
             and does its log say why the job cannot be worked on?",
            Timestamp::from_micros(job.due_at_us)
        );
        Finding::new("job_abandoned", Severity::Critical, job.id, detail)
    }));
    Ok(findings)
}

async fn check_mail(conn: &mut Conn, now: Timestamp) -> Result<Option<Finding>, StoreError> {
    let (count, since) = mail::count_unsent(conn, now.plus_secs(-OVERDUE_S)).await?;
    Ok(since.map(|since| {
        let detail = format!(
            "{count} e-mails to affiliates wait for more than a day, the oldest since {}; is `mail.url` right, and \
             is a node with the role `dispatch` running?",
            Timestamp::from_micros(since)
        );
        Finding::new("mail_unsent", Severity::Warning, "mail", detail)
    }))
}

fn describe(event: &EventTrouble) -> String {
    let reason = event.reason.as_deref().unwrap_or("no failure recorded");
    format!("{} failed attempts: {reason}", event.attempts)
}
