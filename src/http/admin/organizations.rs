//! `/v1/admin/organizations` and the account each is paid to.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, put},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{App, keys::Principal, organizations},
    domain::{ids::OrganizationId, time::Timestamp},
    http::{
        body::Body,
        page::{Listing, Page},
        path::Named,
    },
    store::organizations::{Organization, PayoutAccount},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/admin/organizations", get(list).post(create))
        .route("/v1/admin/organizations/{id}", get(find))
        .route("/v1/admin/organizations/{id}/payout-account", put(put_account).get(find_account))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrganization {
    name: String,
    email: Option<String>,
}

#[derive(Serialize)]
struct OrganizationView {
    id: OrganizationId,
    name: String,
    email: Option<String>,
    created_at: Timestamp,
}

impl From<Organization> for OrganizationView {
    fn from(organization: Organization) -> Self {
        let Organization { id, name, email, created_at } = organization;
        Self { id, name, email, created_at }
    }
}

async fn create(
    State(app): State<App>,
    by: Principal,
    Body(new): Body<NewOrganization>,
) -> Created<OrganizationView> {
    created(organizations::create(&app, &by, &new.name, new.email.as_deref()).await?.into())
}

async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<OrganizationId>,
) -> Answer<Listing<OrganizationView>> {
    let rows = organizations::list(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

async fn find(
    State(app): State<App>,
    by: Principal,
    Named(organization): Named<OrganizationId>,
) -> Answer<Data<OrganizationView>> {
    ok(organizations::find(&app, &by, &organization).await?.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPayoutAccount {
    provider: String,
    account_id: String,
}

#[derive(Serialize)]
struct PayoutAccountView {
    organization_id: OrganizationId,
    provider: String,
    account_id: String,
    created_at: Timestamp,
}

impl From<PayoutAccount> for PayoutAccountView {
    fn from(account: PayoutAccount) -> Self {
        let PayoutAccount { organization_id, provider, account_id, created_at } = account;
        Self { organization_id, provider, account_id, created_at }
    }
}

async fn put_account(
    State(app): State<App>,
    by: Principal,
    Named(organization): Named<OrganizationId>,
    Body(new): Body<NewPayoutAccount>,
) -> Answer<Data<PayoutAccountView>> {
    let account =
        organizations::put_payout_account(&app, &by, &organization, &new.provider, &new.account_id).await?;
    ok(account.into())
}

async fn find_account(
    State(app): State<App>,
    by: Principal,
    Named(organization): Named<OrganizationId>,
) -> Answer<Data<PayoutAccountView>> {
    ok(organizations::find_payout_account(&app, &by, &organization).await?.into())
}
