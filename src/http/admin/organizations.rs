//! `/v1/admin/organizations` and the account each is paid to.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Created, Data, created, ok};
use crate::{
    app::{App, keys::Principal, organizations},
    domain::{ids::OrganizationId, time::Timestamp},
    http::{
        body::Body,
        openapi::schemas::{Email, Name},
        page::{Listing, Page, PageQuery},
        path::Named,
    },
    store::organizations::{Organization, PayoutAccount},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(find))
        .routes(routes!(put_account, find_account))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOrganization {
    #[schema(value_type = Name)]
    name: String,
    #[schema(value_type = Option<Email>)]
    email: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Organization)]
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

/// Makes an organization: an owner of programs, an affiliate, or both.
#[utoipa::path(
    post, path = "/v1/admin/organizations",
    operation_id = "createOrganization", tag = "organizations",
    security(("operatorKey" = [])),
    request_body = NewOrganization,
    responses((status = 201, description = "The organization.", body = Data<OrganizationView>))
)]
async fn create(
    State(app): State<App>,
    by: Principal,
    Body(new): Body<NewOrganization>,
) -> Created<OrganizationView> {
    created(organizations::create(&app, &by, &new.name, new.email.as_deref()).await?.into())
}

/// Organizations, newest first: all for an operator, else the own one.
#[utoipa::path(
    get, path = "/v1/admin/organizations",
    operation_id = "listOrganizations", tag = "organizations",
    params(PageQuery),
    responses((status = 200, description = "A page of organizations.", body = Listing<OrganizationView>))
)]
async fn list(
    State(app): State<App>,
    by: Principal,
    page: Page<OrganizationId>,
) -> Answer<Listing<OrganizationView>> {
    let rows = organizations::list(&app, &by, page.after(), page.fetch()).await?;
    Ok(Json(page.listing(rows, |row| row.id.clone(), Into::into)))
}

/// One organization.
#[utoipa::path(
    get, path = "/v1/admin/organizations/{id}",
    operation_id = "getOrganization", tag = "organizations",
    params(("id" = OrganizationId, Path)),
    responses((status = 200, description = "The organization.", body = Data<OrganizationView>))
)]
async fn find(
    State(app): State<App>,
    by: Principal,
    Named(organization): Named<OrganizationId>,
) -> Answer<Data<OrganizationView>> {
    ok(organizations::find(&app, &by, &organization).await?.into())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPayoutAccount {
    #[schema(pattern = "^stripe$")]
    provider: String,
    #[schema(pattern = "^acct_[A-Za-z0-9]{1,64}$")]
    account_id: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PayoutAccount)]
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

/// Sets the account that an organization is paid to.
#[utoipa::path(
    put, path = "/v1/admin/organizations/{id}/payout-account",
    operation_id = "putPayoutAccount", tag = "organizations",
    params(("id" = OrganizationId, Path)),
    request_body = NewPayoutAccount,
    responses((status = 200, description = "The account.", body = Data<PayoutAccountView>))
)]
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

/// The account that an organization is paid to.
#[utoipa::path(
    get, path = "/v1/admin/organizations/{id}/payout-account",
    operation_id = "getPayoutAccount", tag = "organizations",
    params(("id" = OrganizationId, Path)),
    responses((status = 200, description = "The account.", body = Data<PayoutAccountView>))
)]
async fn find_account(
    State(app): State<App>,
    by: Principal,
    Named(organization): Named<OrganizationId>,
) -> Answer<Data<PayoutAccountView>> {
    ok(organizations::find_payout_account(&app, &by, &organization).await?.into())
}
