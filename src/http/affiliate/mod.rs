//! `/v1/affiliate/me`: the affiliate's own side, asked with a key of the affiliate's organization. What
//! belongs to a peer answers as what does not exist.

mod codes;
mod invites;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// Every route of the affiliate's side.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().merge(invites::router()).merge(codes::router())
}
