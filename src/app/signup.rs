//! Signing up without a key: an account, an organization and a key in one step (seed S0, "They're brand
//! new").
//!
//! Nothing is looked up: the same address twice makes two organizations and answers the same, so nobody
//! learns who is known here. The address is not verified, so it opens nothing; an invitation that went
//! to it is taken over with its token (`enrollments::invites`). How often somebody may sign up is for
//! whoever hears the request (`http::public`).

use secrecy::SecretString;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{self, Principal},
    new_id,
    organizations::address,
    refusal,
};
use crate::{
    domain::ids::{AccountId, OrganizationId},
    store::{
        accounts::{self, Account},
        organizations::{self, Organization},
    },
};

/// Who wants to sign up.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Not verified.
    pub email: String,
    /// 1 to 200 characters.
    pub name: String,
    /// 1 to 200 characters; by default `name`.
    pub organization_name: Option<String>,
}

/// Who signed up.
#[derive(Debug)]
pub struct SignedUp {
    /// The person.
    pub account: Account,
    /// The organization that was made for them.
    pub organization: Organization,
    /// The key of the organization: the only time this text exists.
    pub key: SecretString,
}

/// Makes an account with an organization of its own and a key for it.
///
/// # Errors
/// [`Refusal::Closed`] with `SIGNUP_CLOSED`; [`Refusal::Invalid`].
pub async fn sign_up(app: &App, by: &Principal, new: NewAccount) -> Result<SignedUp, Refusal> {
    if !app.config.programs.public_signup {
        let message = "nobody can sign up here; ask for a key".into();
        return Err(Refusal::Closed { code: "SIGNUP_CLOSED", message });
    }
    let email = address(&new.email)?;
    let name = refusal::name(&new.name)?;
    let organization_name = match new.organization_name {
        None => name.clone(),
        Some(text) => refusal::name(&text).map_err(|_| {
            let message = "organization_name must be 1 to 200 printable characters";
            Refusal::invalid("INVALID_ORGANIZATION_NAME", "organization_name", message)
        })?,
    };
    let now = app.now();
    let organization = Organization {
        id: new_id!(OrganizationId, now),
        name: organization_name,
        email: Some(email.clone()),
        created_at: now,
    };
    let account = Account {
        id: new_id!(AccountId, now),
        organization_id: organization.id.clone(),
        email,
        name,
        created_at: now,
    };
    let mut tx = app.db.begin().await?;
    organizations::insert(&mut tx, &organization).await?;
    accounts::insert(&mut tx, &account).await?;
    let key = keys::first_of(&mut tx, &organization.id, now).await?;
    let change = Change::new("account.signed_up", &account.id, Some(&organization.id)).after(&organization);
    audit::record(&mut tx, by, change.of_a_person(), now).await?;
    super::commit_change(tx).await?;
    Ok(SignedUp { account, organization, key: key.text })
}
