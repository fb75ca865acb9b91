//! Programs: the row, its statuses and its terms over time. How they are read by the fold is in
//! `directory.rs`.

mod directory;

use std::collections::BTreeMap;

use sqlx::FromRow;

pub use directory::{load_directory, load_program, lock_directory, share_directory};

pub use crate::domain::program::AttributionModel;

use super::{
    Conn, StoreError, Tx, expect_one,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    ids::{OrganizationId, ProgramId},
    money::{BasisPoints, Currency},
    payout::{OnTransferReversed, PayoutSchedule},
    program::{Dated, ProgramStatus, TermsVersion, TouchRule, words},
    time::Timestamp,
};

words! {
    /// What makes a conversion of a program.
    ConversionKind {
        /// Something the owner reports.
        Event = "event",
        /// A payment.
        Payment = "payment",
        /// The start of a right to use something.
        Entitlement = "entitlement",
    }
}

words! {
    /// Whether affiliates may apply without being invited.
    Applications {
        /// They may not; to them the program does not exist.
        Closed = "closed",
        /// They may, and the owner decides.
        Open = "open",
    }
}

/// Smallest payout by currency, minor units, 0 or more. A currency that is not here is not paid out
/// (`rulings.md` 18).
pub type MinPayout = BTreeMap<Currency, i64>;

/// A program with its newest status and terms. Programs as the fold reads them, with all their history,
/// are [`crate::domain::program::Program`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProgramDetails {
    /// Id.
    pub id: ProgramId,
    /// The owner.
    pub organization_id: OrganizationId,
    /// For people.
    pub name: String,
    /// What makes a conversion.
    pub conversion_kind: ConversionKind,
    /// Which touchpoint wins.
    pub attribution_model: AttributionModel,
    /// How long a touchpoint counts, 1 to 365.
    pub attribution_window_days: u16,
    /// The owner's cut of each payout.
    pub platform_fee: BasisPoints,
    /// When it settles on its own.
    pub payout_schedule: Option<PayoutSchedule>,
    /// Smallest payouts.
    pub min_payout: MinPayout,
    /// What a reversed transfer does.
    pub on_transfer_reversed: OnTransferReversed,
    /// Whether affiliates may apply.
    pub applications: Applications,
    /// Where links through this server lead.
    pub landing_url: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The newest status.
    pub status: Dated<ProgramStatus>,
    /// The newest terms.
    pub terms: Dated<TermsVersion>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    organization_id: String,
    name: String,
    conversion_kind: String,
    attribution_model: String,
    attribution_window_days: i64,
    platform_fee_bps: i64,
    payout_schedule: Option<String>,
    min_payout: String,
    on_transfer_reversed: String,
    applications: String,
    landing_url: Option<String>,
    created_at_us: i64,
    status: String,
    status_at_us: i64,
    version: i64,
    terms: String,
    terms_at_us: i64,
}

impl ProgramDetails {
    /// What it makes of touchpoints now.
    #[must_use]
    pub const fn touch_rule(&self) -> TouchRule {
        TouchRule { model: self.attribution_model, window_days: self.attribution_window_days }
    }
}

impl Row {
    fn read(self) -> Result<ProgramDetails, StoreError> {
        let at = At { table: "program", id: &self.id };
        let (status_at, terms_at) = (self.status_at_us, self.terms_at_us);
        Ok(ProgramDetails {
            id: at.read("id", &self.id)?,
            organization_id: at.read("organization_id", &self.organization_id)?,
            conversion_kind: at.read("conversion_kind", &self.conversion_kind)?,
            attribution_model: at.read("attribution_model", &self.attribution_model)?,
            attribution_window_days: u16::try_from(self.attribution_window_days)
                .map_err(|_| at.corrupt("attribution_window_days"))?,
            platform_fee: BasisPoints::new(self.platform_fee_bps)
                .map_err(|_| at.corrupt("platform_fee_bps"))?,
            payout_schedule: at.read_opt("payout_schedule", self.payout_schedule.as_deref())?,
            min_payout: at.read("min_payout", &self.min_payout)?,
            on_transfer_reversed: at.read("on_transfer_reversed", &self.on_transfer_reversed)?,
            applications: at.read("applications", &self.applications)?,
            landing_url: self.landing_url,
            created_at: Timestamp::from_micros(self.created_at_us),
            status: Dated {
                at: Timestamp::from_micros(status_at),
                value: At { table: "program_status", id: &self.id }.read("status", &self.status)?,
            },
            terms: Dated {
                at: Timestamp::from_micros(terms_at),
                value: TermsVersion {
                    version: self.version,
                    terms: At { table: "program_terms", id: &self.id }.read("terms", &self.terms)?,
                },
            },
            name: self.name,
        })
    }
}

/// Adds a program with its first status and terms.
pub async fn insert(tx: &mut Tx, program: &ProgramDetails) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO program (id, organization_id, name, conversion_kind, attribution_model,
                           attribution_window_days, platform_fee_bps, payout_schedule, min_payout,
                           on_transfer_reversed, applications, created_at_us, landing_url)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    tx.q(SQL)
        .bind(program.id.as_str())
        .bind(program.organization_id.as_str())
        .bind(program.name.as_str())
        .bind(program.conversion_kind.as_str())
        .bind(program.attribution_model.as_str())
        .bind(i64::from(program.attribution_window_days))
        .bind(i64::from(program.platform_fee.get()))
        .bind(program.payout_schedule.map(PayoutSchedule::as_str))
        .bind(json(&program.min_payout))
        .bind(program.on_transfer_reversed.as_str())
        .bind(program.applications.as_str())
        .bind(program.created_at.as_micros())
        .bind(program.landing_url.as_deref())
        .exec()
        .await?;
    insert_status(tx, &program.id, &program.status).await?;
    insert_terms(tx, &program.id, &program.terms).await
}

/// Writes the fields of the row itself; status and terms are rows of their own.
pub async fn update(tx: &mut Tx, program: &ProgramDetails) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE program
                       SET name = $2, conversion_kind = $3, attribution_model = $4,
                           attribution_window_days = $5, platform_fee_bps = $6, payout_schedule = $7,
                           min_payout = $8, on_transfer_reversed = $9, applications = $10, landing_url = $11
                       WHERE id = $1";
    let affected = tx
        .q(SQL)
        .bind(program.id.as_str())
        .bind(program.name.as_str())
        .bind(program.conversion_kind.as_str())
        .bind(program.attribution_model.as_str())
        .bind(i64::from(program.attribution_window_days))
        .bind(i64::from(program.platform_fee.get()))
        .bind(program.payout_schedule.map(PayoutSchedule::as_str))
        .bind(json(&program.min_payout))
        .bind(program.on_transfer_reversed.as_str())
        .bind(program.applications.as_str())
        .bind(program.landing_url.as_deref())
        .exec()
        .await?;
    expect_one(affected)
}

/// Notes since when the program has the schedule that it has now.
pub async fn set_schedule_since(tx: &mut Tx, id: &ProgramId, since: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE program SET payout_schedule_since_us = $2 WHERE id = $1";
    expect_one(tx.q(SQL).bind(id.as_str()).bind(since.as_micros()).exec().await?)
}

/// Keeps what the program made of touchpoints until now, before it changes.
pub async fn retire_touch_rule(
    tx: &mut Tx,
    id: &ProgramId,
    former: TouchRule,
    until: Timestamp,
) -> Result<(), StoreError> {
    // Two changes at one instant: what held before the first is what held until then.
    const SQL: &str = "INSERT INTO program_touch_rule
            (program_id, until_us, attribution_model, attribution_window_days)
        VALUES ($1, $2, $3, $4) ON CONFLICT (program_id, until_us) DO NOTHING";
    tx.q(SQL)
        .bind(id.as_str())
        .bind(until.as_micros())
        .bind(former.model.as_str())
        .bind(i64::from(former.window_days))
        .exec()
        .await?;
    Ok(())
}

/// Adds a status that holds from an instant at which no other begins.
pub async fn insert_status(
    tx: &mut Tx,
    id: &ProgramId,
    status: &Dated<ProgramStatus>,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO program_status (program_id, effective_at_us, status) VALUES ($1, $2, $3)";
    tx.q(SQL).bind(id.as_str()).bind(status.at.as_micros()).bind(status.value.as_str()).exec().await?;
    Ok(())
}

/// Adds the next version of the terms.
pub async fn insert_terms(
    tx: &mut Tx,
    id: &ProgramId,
    terms: &Dated<TermsVersion>,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO program_terms (program_id, version, effective_at_us, terms)
                       VALUES ($1, $2, $3, $4)";
    tx.q(SQL)
        .bind(id.as_str())
        .bind(terms.value.version)
        .bind(terms.at.as_micros())
        .bind(json(&terms.value.terms))
        .exec()
        .await?;
    Ok(())
}

/// The versions of a program's terms before the given one, the newest first.
pub async fn list_terms(
    conn: &mut Conn,
    id: &ProgramId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Dated<TermsVersion>>, StoreError> {
    const SQL: &str = "SELECT version, terms, effective_at_us FROM program_terms
        WHERE program_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3";
    let before = before.unwrap_or(i64::MAX);
    let rows: Vec<(i64, String, i64)> = conn.q(SQL).bind(id.as_str()).bind(before).bind(limit).all().await?;
    let at = At { table: "program_terms", id: id.as_str() };
    let read = |(version, terms, from): (i64, String, i64)| {
        let value = TermsVersion { version, terms: at.read("terms", &terms)? };
        Ok(Dated { at: Timestamp::from_micros(from), value })
    };
    rows.into_iter().map(read).collect()
}

/// Lets one transaction at a time change a program and what hangs on it. False when there is none.
///
/// A write that changes nothing is the lock that both engines have. On PostgreSQL it is also weaker
/// than `FOR UPDATE`: books that refer to the program go on being written.
pub async fn lock(tx: &mut Tx, id: &ProgramId) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE program SET name = name WHERE id = $1";
    Ok(tx.q(SQL).bind(id.as_str()).exec().await? == 1)
}

/// One program.
pub async fn find(conn: &mut Conn, id: &ProgramId) -> Result<Option<ProgramDetails>, StoreError> {
    // Both primary keys end in what the joins compare with, so each newest row is one index search.
    const SQL: &str = "SELECT program.id, program.organization_id, program.name, program.conversion_kind,
            program.attribution_model, program.attribution_window_days, program.platform_fee_bps,
            program.payout_schedule, program.min_payout, program.on_transfer_reversed,
            program.applications, program.landing_url, program.created_at_us, status.status,
            status.effective_at_us AS status_at_us,
            terms.version, terms.terms, terms.effective_at_us AS terms_at_us
        FROM program
        JOIN program_status AS status ON status.program_id = program.id AND status.effective_at_us =
            (SELECT MAX(effective_at_us) FROM program_status WHERE program_id = program.id)
        JOIN program_terms AS terms ON terms.program_id = program.id AND terms.version =
            (SELECT MAX(version) FROM program_terms WHERE program_id = program.id)
        WHERE program.id = $1";
    conn.q(SQL).bind(id.as_str()).one().await?.map(Row::read).transpose()
}

/// Programs, newest first: all of them, or those of one organization.
pub async fn list(
    conn: &mut Conn,
    owner: Option<&OrganizationId>,
    before: Option<&ProgramId>,
    limit: i64,
) -> Result<Vec<ProgramDetails>, StoreError> {
    const ALL: &str = "SELECT program.id, program.organization_id, program.name, program.conversion_kind,
            program.attribution_model, program.attribution_window_days, program.platform_fee_bps,
            program.payout_schedule, program.min_payout, program.on_transfer_reversed,
            program.applications, program.landing_url, program.created_at_us, status.status,
            status.effective_at_us AS status_at_us,
            terms.version, terms.terms, terms.effective_at_us AS terms_at_us
        FROM program
        JOIN program_status AS status ON status.program_id = program.id AND status.effective_at_us =
            (SELECT MAX(effective_at_us) FROM program_status WHERE program_id = program.id)
        JOIN program_terms AS terms ON terms.program_id = program.id AND terms.version =
            (SELECT MAX(version) FROM program_terms WHERE program_id = program.id)
        WHERE program.id < $1
        ORDER BY program.id DESC LIMIT $2";
    const OWNED: &str = "SELECT program.id, program.organization_id, program.name, program.conversion_kind,
            program.attribution_model, program.attribution_window_days, program.platform_fee_bps,
            program.payout_schedule, program.min_payout, program.on_transfer_reversed,
            program.applications, program.landing_url, program.created_at_us, status.status,
            status.effective_at_us AS status_at_us,
            terms.version, terms.terms, terms.effective_at_us AS terms_at_us
        FROM program
        JOIN program_status AS status ON status.program_id = program.id AND status.effective_at_us =
            (SELECT MAX(effective_at_us) FROM program_status WHERE program_id = program.id)
        JOIN program_terms AS terms ON terms.program_id = program.id AND terms.version =
            (SELECT MAX(version) FROM program_terms WHERE program_id = program.id)
        WHERE program.id < $1 AND program.organization_id = $3
        ORDER BY program.id DESC LIMIT $2";
    let before = before.map_or(AFTER_EVERY_ID, ProgramId::as_str);
    let rows: Vec<Row> = match owner {
        None => conn.q(ALL).bind(before).bind(limit).all().await?,
        Some(owner) => conn.q(OWNED).bind(before).bind(limit).bind(owner.as_str()).all().await?,
    };
    rows.into_iter().map(Row::read).collect()
}

/// A document for a text column.
fn json(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).expect("documents of plain text and numbers serialise")
}
