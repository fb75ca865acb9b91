//! People who signed up, one per organization for now.

use super::{Conn, StoreError, Tx};
use crate::domain::{
    ids::{AccountId, OrganizationId},
    time::Timestamp,
};

/// A person who signed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Id.
    pub id: AccountId,
    /// The organization that was made with it.
    pub organization_id: OrganizationId,
    /// As written; nobody has verified it. Personal data.
    pub email: String,
    /// For people. Personal data.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Whether somebody signed this organization up by themselves.
pub async fn signed_up(conn: &mut Conn, organization: &OrganizationId) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM account WHERE organization_id = $1)";
    Ok(conn.q(SQL).bind(organization.as_str()).scalar().await?.unwrap_or(false))
}

/// Adds the account of an organization that has none.
pub async fn insert(tx: &mut Tx, account: &Account) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO account (id, organization_id, email, name, created_at_us)
                       VALUES ($1, $2, $3, $4, $5)";
    tx.q(SQL)
        .bind(account.id.as_str())
        .bind(account.organization_id.as_str())
        .bind(account.email.as_str())
        .bind(account.name.as_str())
        .bind(account.created_at.as_micros())
        .exec()
        .await?;
    Ok(())
}
