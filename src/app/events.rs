//! What operators do with stored events. Looking at them is `reads`; what becomes of them is `process`.

use serde_json::json;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
};
use crate::store::inbox;

/// Gives a parked event another chance, with as many attempts as a new one has.
///
/// # Errors
/// [`Refusal::NotFound`]; a conflict `INVALID_STATE` for an event that is not parked.
pub async fn retry(app: &App, by: &Principal, id: &str) -> Result<(), Refusal> {
    by.require(Scope::Events)?;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let event = inbox::find(&mut tx, id).await?.ok_or(Refusal::NotFound)?;
    if !inbox::retry_parked(&mut tx, id, now).await? {
        let message = format!("event {id} is {}, and only parked events are retried", event.state);
        return Err(Refusal::conflict("INVALID_STATE", message));
    }
    let was = json!({ "state": event.state, "reason": event.reason, "attempts": event.attempts });
    audit::record(&mut tx, by, Change::new("event.retried", id, None).before(&was), now).await?;
    super::commit_change(tx).await?;
    app.wake.process.notify_one();
    Ok(())
}
