//! Clicks on their way into the database: those that are told at one time become one transaction
//! ([`super::group`]), because a campaign brings many at once and each is small.
//!
//! Each click is judged as if it were alone: it is counted once for its visitor and code, and joins the ids
//! that it names. One that makes the transaction fail does not take its neighbours along: then each is
//! carried out by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    time::Duration,
};

use tokio_util::task::TaskTracker;

use super::{
    App, Refusal,
    group::{Commit, Group, GroupLimits, GroupMetrics, Unanswered},
    new_id,
    touchpoints::{Click, Recorded, lock_all, visitor},
};
use crate::{
    domain::{
        attribution::Touch,
        ids::{ProjectId, TouchpointId},
        time::Timestamp,
    },
    store::{
        StoreError, Tx,
        touchpoints::{self, Asked, LinkOwner, Linked, NewTouchpoint, SAME_CLICK_S, TouchpointRow, Visitor},
    },
    telemetry::names,
};

/// The limits of a node: more clicks wait than any campaign brings within the time that one waits.
pub const LIMITS: GroupLimits =
    GroupLimits { queued_max: 4_096, batch_max: 200, writers: 1, answer_within: Duration::from_secs(4) };

/// How often a transaction is tried while others are in the way.
pub(super) const ATTEMPTS_MAX: u32 = 5;

/// A click that was told, with what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Where the visitor's ids belong.
    pub project_id: ProjectId,
    /// Whose link it was.
    pub link: LinkOwner,
    /// The click.
    pub click: Click,
    /// The key that told of it and its request; none for whoever followed a link of ours.
    pub by: Option<(String, String)>,
}

/// Takes clicks in. Clones feed the same queue.
#[derive(Clone)]
pub struct Clicks {
    pub(super) app: App,
    group: Group<Told, Result<Recorded, Refusal>>,
}

impl Clicks {
    /// Starts what writes clicks down, on `tasks`.
    #[must_use]
    pub fn start(app: &App, limits: GroupLimits, tasks: &TaskTracker) -> Self {
        let metrics =
            GroupMetrics { items: names::CLICK_COMMIT_EVENTS, seconds: names::CLICK_COMMIT_SECONDS };
        let group = Group::start(Clerk { app: app.clone() }, limits, metrics, tasks);
        Self { app: app.clone(), group }
    }

    /// Ends it once everything that waits is written down. Call it after the last request was answered.
    pub fn close(&self) {
        self.group.close();
    }

    /// Waits until a click is durable. It is written down also when the caller stops waiting.
    pub(super) async fn tell(&self, told: Told) -> Result<Recorded, Refusal> {
        self.group.commit(told).await.unwrap_or_else(|unanswered| {
            Err(match unanswered {
                Unanswered::Overloaded => {
                    Refusal::unavailable("OVERLOADED", "too many clicks are waiting to be stored")
                }
                Unanswered::Unknown => unavailable(),
            })
        })
    }
}

/// Nothing is known of the click: told again, it is counted once.
fn unavailable() -> Refusal {
    Refusal::unavailable("STORE_UNAVAILABLE", "the store cannot answer now")
}

/// Writes clicks down.
struct Clerk {
    app: App,
}

impl Commit for Clerk {
    type Item = Told;
    type Answer = Result<Recorded, Refusal>;

    async fn commit(&self, told: Vec<Told>) -> Vec<Result<Recorded, Refusal>> {
        match self.write(&told).await {
            Ok(recorded) => recorded.into_iter().map(Ok).collect(),
            Err(error) if error.is_retryable() || error.is_unavailable() => {
                tracing::warn!(%error, clicks = told.len(), "clicks could not be written down");
                told.iter().map(|_| Err(unavailable())).collect()
            }
            Err(error) if told.len() == 1 => vec![Err(error.into())],
            Err(error) => {
                tracing::warn!(%error, clicks = told.len(), "clicks are written down one by one");
                let mut answers = Vec::with_capacity(told.len());
                for one in &told {
                    let alone = self.write(slice::from_ref(one)).await;
                    answers.push(
                        alone
                            .map_err(Refusal::from)
                            .and_then(|recorded| recorded.into_iter().next().ok_or_else(unavailable)),
                    );
                }
                answers
            }
        }
    }
}

impl Clerk {
    async fn write(&self, told: &[Told]) -> Result<Vec<Recorded>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.write_once(told).await {
                // Another transaction was in the way, so nothing of this one was written.
                Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::task::yield_now().await;
                }
                result => return result,
            }
        }
    }

    /// One transaction, in a number of statements that does not depend on the number of clicks, but for
    /// those that join ids.
    async fn write_once(&self, told: &[Told]) -> Result<Vec<Recorded>, StoreError> {
        let now = self.app.now();
        let mut tx = self.app.db.begin().await?;
        let named: BTreeSet<Visitor> = told.iter().flat_map(ids_of).collect();
        lock_all(&mut tx, &named).await?;
        let Joined { stars, places: joined } = join(&mut tx, told, &named, now).await?;
        let asked: Vec<Asked<'_>> = told
            .iter()
            .map(|told| Asked { visitors: star_of(&stars, told), code: &told.link.code, at: told.click.at })
            .collect();
        let known = touchpoints::find_same_clicks(&mut tx, &asked).await?;
        let Judged { answers, new } = judge(told, &stars, &known, now);
        let mut from: Vec<(&BTreeSet<Visitor>, Timestamp)> = Vec::new();
        for told in joined.iter().filter_map(|place| told.get(*place)) {
            // What was clicked under one id now speaks for what was bought under the other.
            let star = star_of(&stars, told);
            from.extend(touchpoints::earliest(&mut tx, star).await?.map(|at| (star, at)));
        }
        from.extend(
            new.iter().filter_map(|(place, new)| Some((star_of(&stars, told.get(*place)?), new.touch.at))),
        );
        let mut since: BTreeMap<Visitor, Timestamp> = BTreeMap::new();
        for (star, at) in from {
            for visitor in star {
                let earliest = since.entry(visitor.clone()).or_insert(at);
                *earliest = at.min(*earliest);
            }
        }
        let new: Vec<NewTouchpoint> = new.into_iter().map(|(_, new)| new).collect();
        touchpoints::request_sales_since(&mut tx, &since, now).await?;
        touchpoints::insert(&mut tx, &new).await?;
        super::commit_change(tx).await?;
        Ok(answers)
    }
}

/// The ids that a click names.
fn ids_of(told: &Told) -> impl Iterator<Item = Visitor> {
    let named = [Some(&told.click.subject), told.click.anonymous.as_ref()];
    named.into_iter().flatten().map(|id| visitor(&told.project_id, id))
}

/// Whose ids are whose, once the ids that clicks name are joined.
struct Joined {
    /// Every id of all visitors, by those that clicks name.
    stars: BTreeMap<Visitor, BTreeSet<Visitor>>,
    /// The places of the clicks that said something new of it.
    places: Vec<usize>,
}

/// Joins the ids that clicks name together. The caller holds them locked.
async fn join(
    tx: &mut Tx,
    told: &[Told],
    named: &BTreeSet<Visitor>,
    now: Timestamp,
) -> Result<Joined, StoreError> {
    let stars = touchpoints::stars(tx, named).await?;
    let mut places = Vec::new();
    for (place, told) in told.iter().enumerate() {
        let Some(anonymous) = &told.click.anonymous else { continue };
        if !star_of(&stars, told).contains(&visitor(&told.project_id, anonymous)) {
            // An id that is somebody else's already stays theirs. The click is the named subject's.
            let linked = touchpoints::link(tx, &told.project_id, anonymous, &told.click.subject, now).await?;
            if linked == Linked::New {
                places.push(place);
            }
        }
    }
    let stars = if places.is_empty() { stars } else { touchpoints::stars(tx, named).await? };
    Ok(Joined { stars, places })
}

/// Every id of the visitor who clicked.
fn star_of<'s>(stars: &'s BTreeMap<Visitor, BTreeSet<Visitor>>, told: &Told) -> &'s BTreeSet<Visitor> {
    static NOBODY: BTreeSet<Visitor> = BTreeSet::new();
    stars.get(&visitor(&told.project_id, &told.click.subject)).unwrap_or(&NOBODY)
}

/// What becomes of clicks.
struct Judged {
    /// In the order of the clicks.
    answers: Vec<Recorded>,
    /// What is to be stored, each with the place of its click.
    new: Vec<(usize, NewTouchpoint)>,
}

/// Which clicks are new, and which touchpoint the others repeat: one that is stored, or one of this batch.
fn judge(
    told: &[Told],
    stars: &BTreeMap<Visitor, BTreeSet<Visitor>>,
    known: &BTreeMap<usize, TouchpointRow>,
    now: Timestamp,
) -> Judged {
    let mut judged = Judged { answers: Vec::with_capacity(told.len()), new: Vec::new() };
    // Of each visitor, who is known by the first of their ids, and each code.
    let mut batch: BTreeMap<(Option<&Visitor>, &str), Vec<TouchpointRow>> = BTreeMap::new();
    for (place, told) in told.iter().enumerate() {
        let of_batch = batch.entry((star_of(stars, told).first(), &*told.link.code)).or_default();
        let at_us = told.click.at.as_micros();
        let is_same =
            |row: &&TouchpointRow| row.at_us.abs_diff(at_us) < SAME_CLICK_S.unsigned_abs() * 1_000_000;
        let same = of_batch.iter().filter(is_same).chain(known.get(&place));
        if let Some(earliest) = same.min_by(|a, b| (a.at_us, &a.id).cmp(&(b.at_us, &b.id))) {
            judged.answers.push(Recorded { touchpoint: earliest.clone(), is_new: false });
            continue;
        }
        let new = touchpoint(told, now);
        let row = TouchpointRow {
            id: new.touch.id.to_string(),
            program_id: new.program_id.to_string(),
            code: new.touch.code.clone(),
            source: new.source.clone(),
            at_us,
        };
        of_batch.push(row.clone());
        judged.answers.push(Recorded { touchpoint: row, is_new: true });
        judged.new.push((place, new));
    }
    judged
}

fn touchpoint(told: &Told, now: Timestamp) -> NewTouchpoint {
    let Told { project_id, link, click, by } = told.clone();
    let touch = Touch {
        id: new_id!(TouchpointId, now),
        enrollment_id: link.enrollment_id,
        code: link.code,
        at: click.at,
    };
    NewTouchpoint {
        touch,
        project_id,
        program_id: link.program_id,
        source: click.source,
        subject: click.subject,
        told_by: by,
        created_at: now,
    }
}
