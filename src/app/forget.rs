//! Forgets clicks and ids of visitors that no sale can need any more.
//!
//! A click goes `attribution.keep_clicks_days` after the longest window that its program ever had is over,
//! unless its visitor has bought something, under whichever id: then it may refer a renewal or a sale that is
//! folded again, and stays, as does one that a conversion names. So forgetting changes no sale that is
//! known, and none that is told within those days. What was counted by day stays counted.
//!
//! Ids that were said to be one visitor's go when they are as old, nothing was clicked under any of them and
//! nothing bought. The clicks that have to stay are passed over once in a round, and rounds have a pause.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::{
    App,
    touchpoints::{all_of, lock_all},
};
use crate::{
    domain::{ids::TouchpointId, time::Timestamp},
    store::{
        Conn, StoreError,
        touchpoints::{self, OldClick, Visitor},
    },
};

/// Rows that are looked at in one step: on SQLite everybody waits for it.
const STEP_MAX: i64 = 200;

/// The longest window that a program can have, days.
const WINDOW_MAX_DAYS: i64 = 365;

/// How far a round has come. A new process begins a new one.
#[derive(Clone, Debug)]
pub enum Round {
    /// Among the clicks, behind this one.
    Clicks(Option<(i64, TouchpointId)>),
    /// Among the ids that others were linked to, behind this one.
    Ids(Option<Visitor>),
}

impl Default for Round {
    fn default() -> Self {
        Self::Clicks(None)
    }
}

/// Takes a round one small step further. Returns whether it goes on; the next step begins another one.
///
/// # Errors
/// [`StoreError`]; then the step is taken again.
pub async fn step(app: &App, round: &Mutex<Round>) -> Result<bool, StoreError> {
    let from = round.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let next = match from {
        Round::Clicks(after) => match forget_clicks(app, after.as_ref()).await? {
            Some(last) => Some(Round::Clicks(Some(last))),
            None => Some(Round::Ids(None)),
        },
        Round::Ids(after) => forget_ids(app, after.as_ref()).await?.map(|last| Round::Ids(Some(last))),
    };
    let goes_on = next.is_some();
    *round.lock().unwrap_or_else(PoisonError::into_inner) = next.unwrap_or_default();
    Ok(goes_on)
}

/// What was told before is told for good.
fn told_until(app: &App) -> Timestamp {
    app.now().plus_days(-i64::from(app.config.keep_clicks_days))
}

/// Gives where to go on, or nothing at the end.
async fn forget_clicks(
    app: &App,
    after: Option<&(i64, TouchpointId)>,
) -> Result<Option<(i64, TouchpointId)>, StoreError> {
    let mut conn = app.db.read().await?;
    let old = touchpoints::list_old(&mut conn, after, told_until(app), STEP_MAX).await?;
    let Some(last) = old.last().map(|click| (click.at_us, click.id.clone())) else { return Ok(None) };
    let visitors = old.iter().map(|click| click.visitor.clone()).collect();
    let idle = idle(&mut conn, &visitors).await?;
    drop(conn);
    if idle.is_empty() {
        return Ok(Some(last));
    }
    let mut tx = app.db.begin().await?;
    lock_all(&mut tx, &idle).await?;
    // Looked at again: nobody can buy unseen any more.
    let idle = self::idle(&mut tx, &idle).await?;
    let is_idle = |click: &&OldClick| idle.contains(&click.visitor);
    let ids: Vec<&TouchpointId> = old.iter().filter(is_idle).map(|click| &click.id).collect();
    touchpoints::forget_clicks(&mut tx, &ids).await?;
    let all = all_of(&mut tx, &idle).await?;
    touchpoints::forget_ids(&mut tx, &all, None).await?;
    super::commit_change(tx).await?;
    Ok(Some(last))
}

/// Gives where to go on, or nothing at the end.
async fn forget_ids(app: &App, after: Option<&Visitor>) -> Result<Option<Visitor>, StoreError> {
    let until = told_until(app).plus_days(-WINDOW_MAX_DAYS);
    let mut conn = app.db.read().await?;
    let centers = touchpoints::list_old_links(&mut conn, after, until, STEP_MAX).await?;
    let Some(last) = centers.last().cloned() else { return Ok(None) };
    let centers = unused(&mut conn, &centers.into_iter().collect()).await?;
    drop(conn);
    if centers.is_empty() {
        return Ok(Some(last));
    }
    let mut tx = app.db.begin().await?;
    lock_all(&mut tx, &centers).await?;
    let centers = unused(&mut tx, &centers).await?;
    let all = all_of(&mut tx, &centers).await?;
    touchpoints::forget_ids(&mut tx, &all, Some(until)).await?;
    super::commit_change(tx).await?;
    Ok(Some(last))
}

/// Those of these ids whose visitor has bought nothing under any id.
async fn idle(conn: &mut Conn, visitors: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, StoreError> {
    let stars = touchpoints::stars(conn, visitors).await?;
    let bought = touchpoints::bought(conn, &stars.values().flatten().cloned().collect()).await?;
    Ok(stars.into_iter().filter(|(_, star)| star.is_disjoint(&bought)).map(|(id, _)| id).collect())
}

/// Those of these ids whose visitor has clicked and bought nothing under any id.
async fn unused(conn: &mut Conn, visitors: &BTreeSet<Visitor>) -> Result<BTreeSet<Visitor>, StoreError> {
    let idle = idle(conn, visitors).await?;
    let mut stars = touchpoints::stars(conn, &idle).await?;
    let clicked = touchpoints::clicked(conn, &stars.values().flatten().cloned().collect()).await?;
    stars.retain(|_, star| star.is_disjoint(&clicked));
    Ok(stars.into_keys().collect())
}
