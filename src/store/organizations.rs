//! Organizations, their projects and the accounts they are paid to.

use sqlx::FromRow;

use super::{
    Conn, StoreError, Tx,
    row::{AFTER_EVERY_ID, At},
};
use crate::domain::{
    email,
    ids::{OrganizationId, ProjectId},
    time::Timestamp,
};

/// An owner of programs, an affiliate, or both.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Organization {
    /// Id.
    pub id: OrganizationId,
    /// For people.
    pub name: String,
    /// As written. Personal data.
    pub email: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct OrganizationRow {
    id: String,
    name: String,
    email: Option<String>,
    created_at_us: i64,
}

impl OrganizationRow {
    fn read(self) -> Result<Organization, StoreError> {
        let id = At { table: "organization", id: &self.id }.read("id", &self.id)?;
        let created_at = Timestamp::from_micros(self.created_at_us);
        Ok(Organization { id, name: self.name, email: self.email, created_at })
    }
}

/// Adds an organization, with its address also in the form in which addresses are compared.
pub async fn insert(tx: &mut Tx, organization: &Organization) -> Result<(), StoreError> {
    const ORGANIZATION: &str =
        "INSERT INTO organization (id, name, email, created_at_us) VALUES ($1, $2, $3, $4)";
    const EMAIL: &str = "INSERT INTO organization_email (organization_id, email) VALUES ($1, $2)";
    tx.q(ORGANIZATION)
        .bind(organization.id.as_str())
        .bind(organization.name.as_str())
        .bind(organization.email.as_deref())
        .bind(organization.created_at.as_micros())
        .exec()
        .await?;
    if let Some(address) = &organization.email {
        tx.q(EMAIL).bind(organization.id.as_str()).bind(email::normalise(address)).exec().await?;
    }
    Ok(())
}

/// Adds the addresses that one organization is known by to those of another. They only serve to find
/// self-referrals; the address that people see stays.
pub async fn copy_addresses(
    tx: &mut Tx,
    from: &OrganizationId,
    to: &OrganizationId,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO organization_email (organization_id, email)
                       SELECT $2, email FROM organization_email WHERE organization_id = $1
                       ON CONFLICT (organization_id, email) DO NOTHING";
    tx.q(SQL).bind(from.as_str()).bind(to.as_str()).exec().await?;
    Ok(())
}

/// One organization.
pub async fn find(conn: &mut Conn, id: &OrganizationId) -> Result<Option<Organization>, StoreError> {
    const SQL: &str = "SELECT id, name, email, created_at_us FROM organization WHERE id = $1";
    conn.q(SQL).bind(id.as_str()).one().await?.map(OrganizationRow::read).transpose()
}

/// All organizations, newest first.
pub async fn list(
    conn: &mut Conn,
    before: Option<&OrganizationId>,
    limit: i64,
) -> Result<Vec<Organization>, StoreError> {
    const SQL: &str = "SELECT id, name, email, created_at_us FROM organization
                       WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let before = before.map_or(AFTER_EVERY_ID, OrganizationId::as_str);
    let rows: Vec<OrganizationRow> = conn.q(SQL).bind(before).bind(limit).all().await?;
    rows.into_iter().map(OrganizationRow::read).collect()
}

/// One product of an owner.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Project {
    /// Id.
    pub id: ProjectId,
    /// The owner.
    pub organization_id: OrganizationId,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct ProjectRow {
    id: String,
    organization_id: String,
    name: String,
    created_at_us: i64,
}

impl ProjectRow {
    fn read(self) -> Result<Project, StoreError> {
        let at = At { table: "project", id: &self.id };
        Ok(Project {
            id: at.read("id", &self.id)?,
            organization_id: at.read("organization_id", &self.organization_id)?,
            name: self.name,
            created_at: Timestamp::from_micros(self.created_at_us),
        })
    }
}

/// Adds a project to an organization that exists.
pub async fn insert_project(tx: &mut Tx, project: &Project) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO project (id, organization_id, name, created_at_us) VALUES ($1, $2, $3, $4)";
    tx.q(SQL)
        .bind(project.id.as_str())
        .bind(project.organization_id.as_str())
        .bind(project.name.as_str())
        .bind(project.created_at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// One project.
pub async fn find_project(conn: &mut Conn, id: &ProjectId) -> Result<Option<Project>, StoreError> {
    const SQL: &str = "SELECT id, organization_id, name, created_at_us FROM project WHERE id = $1";
    conn.q(SQL).bind(id.as_str()).one().await?.map(ProjectRow::read).transpose()
}

/// Projects, newest first: all of them, or those of one organization.
pub async fn list_projects(
    conn: &mut Conn,
    owner: Option<&OrganizationId>,
    before: Option<&ProjectId>,
    limit: i64,
) -> Result<Vec<Project>, StoreError> {
    const ALL: &str = "SELECT id, organization_id, name, created_at_us FROM project
                       WHERE id < $1 ORDER BY id DESC LIMIT $2";
    const OWNED: &str = "SELECT id, organization_id, name, created_at_us FROM project
                         WHERE id < $1 AND organization_id = $3 ORDER BY id DESC LIMIT $2";
    let before = before.map_or(AFTER_EVERY_ID, ProjectId::as_str);
    let rows: Vec<ProjectRow> = match owner {
        None => conn.q(ALL).bind(before).bind(limit).all().await?,
        Some(owner) => conn.q(OWNED).bind(before).bind(limit).bind(owner.as_str()).all().await?,
    };
    rows.into_iter().map(ProjectRow::read).collect()
}

/// The provider account an organization is paid to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PayoutAccount {
    /// Who is paid.
    pub organization_id: OrganizationId,
    /// Name of the provider.
    pub provider: String,
    /// The provider's id of the account.
    pub account_id: String,
    /// When it was set.
    pub created_at: Timestamp,
}

/// Sets the account of an organization at a provider. The same account again changes nothing.
pub async fn put_payout_account(tx: &mut Tx, account: &PayoutAccount) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
                       VALUES ($1, $2, $3, $4)
                       ON CONFLICT (organization_id, provider) DO UPDATE
                       SET account_id = excluded.account_id, created_at_us = excluded.created_at_us
                       WHERE payout_account.account_id <> excluded.account_id";
    tx.q(SQL)
        .bind(account.organization_id.as_str())
        .bind(account.provider.as_str())
        .bind(account.account_id.as_str())
        .bind(account.created_at.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// The account of an organization at a provider.
pub async fn find_payout_account(
    conn: &mut Conn,
    organization_id: &OrganizationId,
    provider: &str,
) -> Result<Option<PayoutAccount>, StoreError> {
    const SQL: &str = "SELECT account_id, created_at_us FROM payout_account
                       WHERE organization_id = $1 AND provider = $2";
    let row: Option<(String, i64)> = conn.q(SQL).bind(organization_id.as_str()).bind(provider).one().await?;
    Ok(row.map(|(account_id, created_at_us)| PayoutAccount {
        organization_id: organization_id.clone(),
        provider: provider.to_owned(),
        account_id,
        created_at: Timestamp::from_micros(created_at_us),
    }))
}
