//! Organizations, projects and payout accounts, as the API and the command line write them.

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{KeyKind, Principal, Scope},
    new_id, refusal,
};
use crate::{
    domain::{
        email,
        ids::{OrganizationId, ProjectId},
    },
    store::organizations::{self, Organization, PayoutAccount, Project},
};

/// Makes an organization. Operators only: everybody else sees only their own.
pub async fn create(
    app: &App,
    by: &Principal,
    name: &str,
    email: Option<&str>,
) -> Result<Organization, Refusal> {
    by.require(Scope::Write)?;
    if by.kind() != KeyKind::Operator {
        return Err(Refusal::Forbidden("only an operator key makes organizations"));
    }
    let name = refusal::name(name)?;
    let email = email.map(address).transpose()?;
    let now = app.now();
    let organization = Organization { id: new_id!(OrganizationId, now), name, email, created_at: now };
    let mut tx = app.db.begin().await?;
    organizations::insert(&mut tx, &organization).await?;
    let change = Change::new("organization.created", &organization.id, Some(&organization.id));
    audit::record(&mut tx, by, change.after(&organization).of_a_person(), now).await?;
    super::commit_change(tx).await?;
    Ok(organization)
}

/// An address as it will be shown, after a check that it can be one. Whether mail arrives there is not
/// asked.
pub(super) fn address(text: &str) -> Result<String, Refusal> {
    let address = text.trim();
    let plain = !address.chars().any(|c| c.is_whitespace() || c.is_control());
    // 254: RFC 3696, erratum 1690.
    if address.len() > 254 || !plain || email::normalise(address).is_empty() {
        return Err(Refusal::invalid(
            "INVALID_EMAIL",
            "email",
            "email must be an address such as name@example.com",
        ));
    }
    Ok(address.to_owned())
}

/// Organizations, newest first: all for an operator, else the caller's own.
pub async fn list(
    app: &App,
    by: &Principal,
    before: Option<&OrganizationId>,
    limit: i64,
) -> Result<Vec<Organization>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    match by.organization_id() {
        None => Ok(organizations::list(&mut conn, before, limit).await?),
        Some(own) if before.is_none_or(|before| own < before) => {
            Ok(organizations::find(&mut conn, own).await?.into_iter().collect())
        }
        Some(_) => Ok(Vec::new()),
    }
}

/// One organization.
pub async fn find(app: &App, by: &Principal, id: &OrganizationId) -> Result<Organization, Refusal> {
    by.require(Scope::Read)?;
    by.require_owner(id)?;
    organizations::find(&mut app.db.read().await?, id).await?.ok_or(Refusal::NotFound)
}

/// Makes a project.
pub async fn create_project(
    app: &App,
    by: &Principal,
    organization_id: &OrganizationId,
    name: &str,
) -> Result<Project, Refusal> {
    by.require(Scope::Write)?;
    by.require_owner(organization_id)?;
    let name = refusal::name(name)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let owner = organizations::find(&mut tx, organization_id).await?.ok_or(Refusal::NotFound)?;
    let project = Project { id: new_id!(ProjectId, now), organization_id: owner.id, name, created_at: now };
    organizations::insert_project(&mut tx, &project).await?;
    let change = Change::new("project.created", &project.id, Some(organization_id)).after(&project);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(project)
}

/// Projects, newest first.
pub async fn list_projects(
    app: &App,
    by: &Principal,
    before: Option<&ProjectId>,
    limit: i64,
) -> Result<Vec<Project>, Refusal> {
    by.require(Scope::Read)?;
    Ok(organizations::list_projects(&mut app.db.read().await?, by.organization_id(), before, limit).await?)
}

/// The one provider that affiliates can be paid through by an account of theirs.
pub(super) const PAYOUT_PROVIDER: &str = "stripe";

/// Sets the account that an organization is paid to. It must exist at the provider already; whether it
/// can take money is asked before each payout, not here.
pub async fn put_payout_account(
    app: &App,
    by: &Principal,
    id: &OrganizationId,
    provider: &str,
    account_id: &str,
) -> Result<PayoutAccount, Refusal> {
    by.require(Scope::Write)?;
    by.require_owner(id)?;
    if provider != PAYOUT_PROVIDER {
        return Err(Refusal::invalid("INVALID_PROVIDER", "provider", "provider must be `stripe`"));
    }
    let tail = account_id.strip_prefix("acct_").unwrap_or_default();
    if !(1..=64).contains(&tail.len()) || !tail.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Refusal::invalid(
            "INVALID_ACCOUNT",
            "account_id",
            "account_id must be the id of a Stripe account, such as acct_1Nv0FGQ9RKHgCVdK",
        ));
    }
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let owner = organizations::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    let old = organizations::find_payout_account(&mut tx, id, provider).await?;
    let account = PayoutAccount {
        organization_id: owner.id,
        provider: provider.to_owned(),
        account_id: account_id.to_owned(),
        created_at: now,
    };
    organizations::put_payout_account(&mut tx, &account).await?;
    let stored = organizations::find_payout_account(&mut tx, id, provider).await?.unwrap_or(account);
    let change = Change::new("payout_account.set", id, Some(id)).before(&old).after(&stored);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(stored)
}

/// The account that an organization is paid to.
pub async fn find_payout_account(
    app: &App,
    by: &Principal,
    id: &OrganizationId,
) -> Result<PayoutAccount, Refusal> {
    by.require(Scope::Read)?;
    by.require_owner(id)?;
    let mut conn = app.db.read().await?;
    organizations::find_payout_account(&mut conn, id, PAYOUT_PROVIDER).await?.ok_or(Refusal::NotFound)
}
