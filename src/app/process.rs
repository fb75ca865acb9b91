//! Inbox rows become facts, facts become money: a batch of events in one transaction.
//!
//! The steps are the same for one event and for two hundred: claim, translate, lock and load what the
//! facts touch, apply, fold, record, mark, commit. A batch that fails is split until the event that
//! cannot be processed stands alone; that one is tried again a bounded number of times and then parked,
//! where an operator sees it. The others are not delayed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
};

use tracing::{Instrument, debug, error, info_span, warn};

use super::{
    App, bank_payouts,
    fold::{self, Counters, FoldAndRecordError},
    new_id,
    payouts::{self, MoveError},
    report::{self, Report},
};
use crate::{
    domain::{
        book::{AliasKey, Book, CounterKey, FoldError, Realm, Scope, SubjectKey},
        fact::{Fact, Subject},
        ids::{ProjectId, SaleId},
        ledger::Cause,
        program::normalise_code,
        retry,
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::{self, Translation},
    store::{
        StoreError, Tx,
        inbox::{self, ClaimedEvent, InboxState, Processed},
        jobs, programs,
        refold::{self, Reaching},
        sales, transfers,
    },
};

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Events whose processing ended.
    pub finished: usize,
    /// Events that failed and wait or are parked.
    pub failed: usize,
    /// Batches that other transactions kept out; their events still wait and are due.
    pub postponed: usize,
}

impl Worked {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(self) -> bool {
        self.finished == 0 && self.failed == 0 && self.postponed == 0
    }
}

/// Events of one batch at most where the receiver waits for the same writer: a transaction there is to
/// stay under 50 ms (`rulings.md` 14).
const EVENTS_MAX_OF_ONE_WRITER: i64 = 128;

/// How often a batch is started again because another transaction was in the way, before the stage
/// gives the turn back. The events stay as they were and cost no attempt.
const CONFLICTS_MAX: u32 = 8;

/// Sales that a batch folds only because a code or an end of their customers or subscriptions was told.
/// Where there are more, all of them are left to [`super::refold`]: one event can reach any number, and
/// the transaction that takes it must not grow with them.
const CARRIED_MAX: i64 = 64;

/// Why a batch did not commit.
#[derive(Debug)]
enum Failure {
    /// Another transaction was in the way; the same batch will succeed later.
    Conflict,
    /// A unique key was taken: somebody else's commit of a moment ago, or, when it stays taken, rows
    /// that contradict each other.
    KeyTaken(StoreError),
    /// The database is not there; nothing about the events.
    Unreachable(StoreError),
    /// The store refused what these events make of it, or ran out of time or memory on it.
    Store(StoreError),
    /// The rules refused these events; the text says why.
    Fold(String),
    /// Rules count what has to be locked first.
    Uncounted(BTreeSet<CounterKey>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::Conflict
        } else if error.is_unique_violation() {
            Self::KeyTaken(error)
        } else if error.is_unreachable() {
            Self::Unreachable(error)
        } else {
            Self::Store(error)
        }
    }
}

impl From<FoldAndRecordError> for Failure {
    fn from(error: FoldAndRecordError) -> Self {
        match error {
            FoldAndRecordError::Store(error) => error.into(),
            FoldAndRecordError::Fold(error) => error.into(),
            FoldAndRecordError::Uncounted(keys) => Self::Uncounted(keys),
        }
    }
}

impl From<MoveError> for Failure {
    fn from(error: MoveError) -> Self {
        match error {
            MoveError::Store(error) => error.into(),
            MoveError::Uncounted(keys) => Self::Uncounted(keys),
            lasting => Self::Fold(lasting.to_string()),
        }
    }
}

impl From<FoldError> for Failure {
    fn from(error: FoldError) -> Self {
        Self::Fold(error.to_string())
    }
}

/// Which events a batch takes.
#[derive(Clone, Debug)]
enum Claim {
    Due(i64),
    These(Vec<String>),
}

/// Processes the oldest due events, at most one batch of them.
///
/// # Errors
/// [`StoreError`] when the database cannot be reached; nothing is lost and nothing is half done.
pub async fn step(app: &App) -> Result<Worked, StoreError> {
    // Most often there is nothing, and a look disturbs nobody.
    if !inbox::is_any_due(&mut app.db.read().await?, app.now()).await? {
        return Ok(Worked::default());
    }
    let configured = i64::from(app.config.process.batch_events);
    let one_writer = app.db.engine().has_one_writer();
    let limit = if one_writer { configured.min(EVENTS_MAX_OF_ONE_WRITER) } else { configured };
    work_through(app, Claim::Due(limit)).await
}

async fn work_through(app: &App, claim: Claim) -> Result<Worked, StoreError> {
    let mut worked = Worked::default();
    // A work list instead of recursion: a failing batch is replaced by its halves.
    let mut claims = vec![claim];
    while let Some(claim) = claims.pop() {
        let mut claimed = Vec::new();
        let reason = match attempt(app, &claim, &mut claimed).await {
            Ok(finished) => {
                worked.finished += finished;
                continue;
            }
            Err(Failure::Conflict | Failure::Uncounted(_)) => {
                debug!("other transactions were in the way of a batch; it waits its turn");
                worked.postponed += 1;
                continue;
            }
            Err(Failure::Unreachable(error)) => return Err(error),
            // Nothing was claimed, so no event is to blame.
            Err(Failure::Store(error) | Failure::KeyTaken(error)) if claimed.is_empty() => return Err(error),
            Err(Failure::Store(error) | Failure::KeyTaken(error)) => error.to_string(),
            Err(Failure::Fold(reason)) => reason,
        };
        if let [alone] = claimed.as_slice() {
            record_failure(app, alone, &reason).await?;
            worked.failed += 1;
        } else {
            let (earlier, later) = claimed.split_at(claimed.len() / 2);
            let ids = |part: &[ClaimedEvent]| part.iter().map(|event| event.id.clone()).collect();
            // The earlier half is popped first.
            claims.push(Claim::These(ids(later)));
            claims.push(Claim::These(ids(earlier)));
        }
    }
    Ok(worked)
}

/// Processes these events now, if they still wait, whatever is due before them: for a caller that has
/// just stored them and wants the result. Failures are recorded like in [`step`].
///
/// # Errors
/// [`StoreError`] when the database cannot be reached; the events stay stored.
pub async fn process_these(app: &App, ids: Vec<String>) -> Result<Worked, StoreError> {
    work_through(app, Claim::These(ids)).await
}

/// Runs one batch, again and again while others are in the way. `claimed` tells the caller which events
/// it was about, also when it failed.
async fn attempt(app: &App, claim: &Claim, claimed: &mut Vec<ClaimedEvent>) -> Result<usize, Failure> {
    let mut conflicts = 0;
    let mut counters = Counters::default();
    loop {
        match process_batch(app, claim, &counters, claimed).await {
            Err(Failure::Uncounted(keys)) if counters.extend(&keys) => {}
            Err(Failure::Conflict | Failure::KeyTaken(_)) if conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                tokio::task::yield_now().await;
            }
            // Nobody's commit lasts as long as a key that stays taken: then it is about these events, and
            // waiting on would stop every event behind them.
            result => return result,
        }
    }
}

async fn process_batch(
    app: &App,
    claim: &Claim,
    counters: &Counters,
    claimed: &mut Vec<ClaimedEvent>,
) -> Result<usize, Failure> {
    let mut tx = app.db.begin().await?;
    let result = claim_and_record(app, &mut tx, claim, counters, claimed).await;
    if let Ok(events) = &result {
        reach_unless_idle(Failpoint::ProcessBeforeCommit, events);
        tx.commit().await?;
        reach_unless_idle(Failpoint::ProcessAfterCommit, events);
    } else if let Err(error) = tx.rollback().await {
        // Awaited, because a dropped transaction keeps its locks for a moment longer, in which the
        // parts of this batch would be passed over as taken. A connection that is gone has no locks.
        debug!(%error, "a batch could not be rolled back");
    }
    let events = result?;
    if events.is_empty() {
        return Ok(0);
    }
    for event in &events {
        let _entered = event.span.enter();
        debug!(event.state = event.state.as_str(), event.reason = event.reason, "event processed");
    }
    metrics::histogram!(crate::telemetry::names::PROCESS_BATCH_EVENTS)
        .record(f64::from(u32::try_from(events.len()).unwrap_or(u32::MAX)));
    Ok(events.len())
}

/// Everything of a batch between begin and commit.
async fn claim_and_record(
    app: &App,
    tx: &mut Tx,
    claim: &Claim,
    counters: &Counters,
    claimed: &mut Vec<ClaimedEvent>,
) -> Result<Vec<Translated>, Failure> {
    let now = app.now();
    counters.lock(tx).await?;
    *claimed = match claim {
        Claim::Due(limit) => inbox::claim_due(tx, now, *limit).await?,
        Claim::These(ids) => inbox::claim_these(tx, ids).await?,
    };
    let span = info_span!("process", batch.events = claimed.len());
    let work = async {
        let events: Vec<Translated> = claimed.iter().map(|event| translate(app, event)).collect();
        record(app, tx, &events, counters, now).await?;
        reach_unless_idle(Failpoint::ProcessAfterFold, &events);
        let outcomes: Vec<Processed> = events.iter().map(Translated::outcome).collect();
        inbox::mark_processed(tx, &outcomes, now).await?;
        Ok(events)
    };
    work.instrument(span).await
}

/// A stage without work passes its points too, every second, and dying there would prove nothing.
fn reach_unless_idle(point: Failpoint, events: &[Translated]) {
    if !events.is_empty() {
        failpoint::reach(point);
    }
}

/// An event with the facts it tells.
struct Translated {
    id: String,
    scope: Option<Scope>,
    received_at: Timestamp,
    facts: Vec<Fact>,
    state: InboxState,
    reason: Option<String>,
    span: tracing::Span,
}

impl Translated {
    fn outcome(&self) -> Processed {
        Processed { id: self.id.clone(), state: self.state, reason: self.reason.clone() }
    }
}

/// What an event tells; `None` for a provider that this program does not know.
fn read_facts(app: &App, event: &ClaimedEvent) -> Option<Result<Translation, String>> {
    if event.provider == report::PROVIDER {
        let report: Result<Report, _> = serde_json::from_slice(&event.body);
        let facts = report.map(|report| Translation::Facts(report.facts()));
        return Some(facts.map_err(|_| "the stored report cannot be read".to_owned()));
    }
    let provider = providers::inbound(&event.provider)?;
    let facts = provider.facts(&event.body, app.metadata_keys());
    Some(facts.map_err(|malformed| malformed.to_string()))
}

/// Reads the facts of an event. What cannot be read now cannot be read later either, so a malformed
/// body is parked at once; it never keeps others waiting.
fn translate(app: &App, event: &ClaimedEvent) -> Translated {
    let span = info_span!(
        "event",
        event.id = event.id,
        event.provider = event.provider,
        event.provider_id = event.provider_event_id,
        event.r#type = event.event_type,
    );
    let entered = span.enter();
    let read = catch_unwind(AssertUnwindSafe(|| read_facts(app, event)));
    let realm = Realm::new(&event.provider, event.livemode, &event.account);
    // The customers of a report are the owner's own ids, as its orders are.
    let realm = if event.provider == report::PROVIDER { realm.external() } else { realm };
    let scope = ProjectId::parse(&event.project_id).ok().map(|project_id| Scope { project_id, realm });
    let (state, reason, facts) = match read {
        Ok(Some(Ok(Translation::Facts(_)))) if scope.is_none() => {
            (InboxState::Parked, Some("the event's project has no valid id".to_owned()), Vec::new())
        }
        Ok(Some(Ok(Translation::Facts(facts)))) => (InboxState::Applied, None, facts),
        Ok(Some(Ok(Translation::Ignored(reason)))) => {
            (InboxState::Ignored, Some(reason.to_owned()), Vec::new())
        }
        Ok(Some(Err(malformed))) => (InboxState::Parked, Some(malformed), Vec::new()),
        Ok(None) => (InboxState::Parked, Some("unknown provider".to_owned()), Vec::new()),
        Err(_) => (InboxState::Parked, Some("the translation of this event crashed".to_owned()), Vec::new()),
    };
    if state == InboxState::Parked {
        warn!(reason, "event cannot be translated and was parked");
    }
    drop(entered);
    Translated {
        id: event.id.clone(),
        scope,
        received_at: Timestamp::from_micros(event.received_at_us),
        facts,
        state,
        reason,
        span,
    }
}

/// Locks and loads what the facts touch, applies them, folds, and writes the result.
async fn record(
    app: &App,
    tx: &mut Tx,
    events: &[Translated],
    counters: &Counters,
    now: Timestamp,
) -> Result<(), Failure> {
    let told: Vec<(&Scope, &Fact, &Translated)> = events
        .iter()
        .filter_map(|event| Some((event.scope.as_ref()?, event)))
        .flat_map(|(scope, event)| event.facts.iter().map(move |fact| (scope, fact, event)))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let mut book = load_touched(tx, &told, counters, now).await?;
    let mut touched: BTreeSet<(AliasKey, &str)> = BTreeSet::new();
    for (scope, fact, event) in &told {
        let cause = Cause::Event(event.id.clone());
        // A bug in the rules must cost one event, not the process.
        catch_unwind(AssertUnwindSafe(|| book.apply(scope, fact, &cause, event.received_at)))
            .unwrap_or(Err(FoldError::Crashed))?;
        touched.extend(
            Book::objects_of(fact).into_iter().map(|object| (AliasKey::new(scope, object), &*event.id)),
        );
    }
    fold::fold_and_record(app, tx, &mut book, now).await?;
    let pairs = touched
        .into_iter()
        .filter_map(|(alias, event)| Some((book.find(&alias)?.clone(), event.to_owned())))
        .collect();
    sales::save_events(tx, &pairs).await?;
    // Behind the sales, as everybody else takes these locks (`rulings.md` 3).
    transfers::save_received(tx, told.iter().map(|(scope, fact, event)| (*scope, *fact, event.received_at)))
        .await?;
    let livemode = app.config.livemode;
    bank_payouts::look(tx, told.iter().map(|(scope, fact, _)| (*scope, *fact)), livemode, now).await?;
    pass_on_to_payouts(app, tx, &told, now).await
}

/// What concerns payouts is only asked for here: they have locks of their own, taken by
/// [`super::transfers`] and the dispatcher.
async fn pass_on_to_payouts(
    app: &App,
    tx: &mut Tx,
    told: &[(&Scope, &Fact, &Translated)],
    now: Timestamp,
) -> Result<(), Failure> {
    let (mut news, mut accounts) = (Vec::new(), Vec::new());
    for (scope, fact, event) in told {
        let transfer = match fact {
            Fact::TransferSeen(transfer) => transfer,
            Fact::TransferReversed(reversed) => &reversed.transfer,
            Fact::PayoutAccount(account) => {
                accounts.push(account.account_id.as_str());
                continue;
            }
            Fact::FundsAvailable { currencies } => {
                if **scope == payouts::own_scope("stripe", app.config.livemode) {
                    jobs::wake_funds(tx, currencies, now).await?;
                }
                continue;
            }
            Fact::ChargeSeen(seen) => {
                payouts::take_in_charge(app, tx, scope, seen, &event.id, now).await?;
                continue;
            }
            Fact::SalePaid(_)
            | Fact::SaleLinked { .. }
            | Fact::SaleAttributed { .. }
            | Fact::HoldTold { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::SubscriptionEnded { .. }
            | Fact::BankPayout(_) => continue,
        };
        if !transfer.of_charge {
            news.push(transfers::Request {
                scope,
                transfer_id: &transfer.transfer_id,
                event_id: Some(&event.id),
            });
        }
    }
    transfers::request(tx, &news, now).await?;
    jobs::wake_accounts(tx, &accounts, now).await?;
    Ok(())
}

/// The book with every sale that the facts name or carry, locked in the order that all stages use:
/// carriers, then sales by id (`rulings.md` 3).
async fn load_touched(
    tx: &mut Tx,
    told: &[(&Scope, &Fact, &Translated)],
    counters: &Counters,
    now: Timestamp,
) -> Result<Book, Failure> {
    let carriers: BTreeSet<SubjectKey> = told
        .iter()
        .flat_map(|(scope, fact, _)| {
            Book::carriers_of(fact).into_iter().map(|subject| SubjectKey::new(scope, &subject))
        })
        .collect();
    sales::lock_carriers(tx, &carriers).await?;
    let mut reaching = news_of_carriers(tx, told, &carriers).await?;
    if refold::count_carried(tx, &reaching).await? > CARRIED_MAX {
        refold::request_carried(tx, &reaching, now).await?;
        reaching.clear();
    }
    let reaching: BTreeSet<SubjectKey> = reaching.into_keys().collect();
    let carried = sales::sales_carried_by(tx, &reaching).await?;

    let groups = group_objects(told);
    let keys: BTreeSet<AliasKey> = groups.keys().cloned().collect();
    let known = sales::resolve_aliases(tx, &keys).await?;
    let (planned, opened) = plan_sales(&groups, &known, now);
    sales::insert_open(tx, &opened, now).await?;
    let new: BTreeMap<AliasKey, SaleId> = planned
        .iter()
        .filter(|(key, _)| !known.contains_key(*key))
        .map(|(key, sale)| (key.clone(), sale.clone()))
        .collect();
    sales::insert_aliases(tx, &new).await?;

    let ids: BTreeSet<SaleId> = planned.values().chain(&carried).cloned().collect();
    sales::lock(tx, &ids).await?;
    // Between resolving and locking, another node may have added or moved an alias, or merged a sale
    // and so moved the payment that names the customer.
    if sales::resolve_aliases(tx, &keys).await? != planned
        || sales::sales_carried_by(tx, &reaching).await? != carried
    {
        return Err(Failure::Conflict);
    }
    let mut book = fold::load(tx, &ids, counters).await?;
    sales::load_hints(tx, &carriers, &mut book).await?;
    Ok(book)
}

/// The carriers of which this batch tells a new code or an end: all their sales are folded again. Codes
/// that are known already, as at every renewal, are no news.
///
/// That a known code was told earlier than known is news where the time decides: between several codes, of
/// a code that was retired meanwhile, and for a customer, whose code speaks only for sales from about then
/// on.
async fn news_of_carriers(
    tx: &mut Tx,
    told: &[(&Scope, &Fact, &Translated)],
    carriers: &BTreeSet<SubjectKey>,
) -> Result<Reaching, Failure> {
    let mut known = Book::default();
    sales::load_hints(tx, carriers, &mut known).await?;
    let mut reaching = Reaching::new();
    let mut only_earlier: Vec<(&ProjectId, String, SubjectKey, Cause)> = Vec::new();
    for (scope, fact, event) in told {
        let cause = || Cause::Event(event.id.clone());
        match fact {
            Fact::SaleAttributed {
                subject: subject @ (Subject::Subscription(_) | Subject::Customer(_)),
                hint,
            } => {
                let key = SubjectKey::new(scope, subject);
                if !known.is_news(&key, hint) {
                    continue;
                }
                let is_only_code = known.hints_for(&key).iter().all(|other| other.code == hint.code);
                let is_first = known.hints_for(&key).is_empty();
                let is_of_customer = matches!(subject, Subject::Customer(_));
                if is_first || is_of_customer || !is_only_code {
                    reaching.entry(key.clone()).or_default().insert(cause());
                } else {
                    only_earlier.push((&scope.project_id, normalise_code(&hint.code), key.clone(), cause()));
                }
                known.insert_hint(key, hint.clone());
            }
            Fact::SubscriptionEnded { subscription, .. } => {
                let key = SubjectKey::new(scope, &Subject::Subscription(subscription.clone()));
                reaching.entry(key).or_default().insert(cause());
            }
            Fact::SaleAttributed { subject: Subject::Sale(_), .. }
            | Fact::SalePaid(_)
            | Fact::SaleLinked { .. }
            | Fact::HoldTold { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::TransferSeen(_)
            | Fact::TransferReversed(_)
            | Fact::PayoutAccount(_)
            | Fact::PayoutAccountGone { .. }
            | Fact::BankPayout(_)
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => {}
        }
    }
    let told_earlier = only_earlier.iter().map(|(project, code, ..)| (*project, code.as_str())).collect();
    let retired = programs::retired_codes(tx, &told_earlier).await?;
    for (project, code, key, cause) in only_earlier {
        if retired.contains(&(project.clone(), code)) {
            reaching.entry(key).or_default().insert(cause);
        }
    }
    Ok(reaching)
}

/// Every object that the facts name, with the number of the group of objects that are one payment by
/// the facts of this batch alone.
fn group_objects(told: &[(&Scope, &Fact, &Translated)]) -> BTreeMap<AliasKey, usize> {
    let mut groups: BTreeMap<AliasKey, usize> = BTreeMap::new();
    let mut next = 0;
    for (scope, fact, _) in told {
        let keys: Vec<AliasKey> =
            Book::objects_of(fact).into_iter().map(|object| AliasKey::new(scope, object)).collect();
        let Some(group) = keys.iter().find_map(|key| groups.get(key).copied()).or_else(|| {
            next += 1;
            (!keys.is_empty()).then_some(next)
        }) else {
            continue;
        };
        for key in keys {
            if let Some(other) = groups.insert(key, group)
                && other != group
            {
                for value in groups.values_mut().filter(|value| **value == other) {
                    *value = group;
                }
            }
        }
    }
    groups
}

/// Which sale each object leads to: the known one; else the sale that another object of its group leads
/// to; else a new one for the whole group. Groups that lead to several known sales are merged by the
/// book.
fn plan_sales(
    groups: &BTreeMap<AliasKey, usize>,
    known: &BTreeMap<AliasKey, SaleId>,
    now: Timestamp,
) -> (BTreeMap<AliasKey, SaleId>, Vec<(SaleId, Scope)>) {
    let mut sale_of_group: HashMap<usize, SaleId> = HashMap::new();
    for (key, group) in groups {
        if let Some(sale) = known.get(key) {
            let lowest = sale_of_group.entry(*group).or_insert_with(|| sale.clone());
            if sale < lowest {
                *lowest = sale.clone();
            }
        }
    }
    let mut opened = Vec::new();
    let mut planned = BTreeMap::new();
    for (key, group) in groups {
        let sale = known.get(key).or_else(|| sale_of_group.get(group)).cloned();
        let sale = sale.unwrap_or_else(|| {
            let id = new_id!(SaleId, now);
            sale_of_group.insert(*group, id.clone());
            // The sale lives in the realm of a provider; the owner's own ids have none.
            let scope = groups
                .iter()
                .filter(|(_, other)| *other == group)
                .map(|(key, _)| &key.scope)
                .max_by_key(|scope| !scope.realm.is_external())
                .unwrap_or(&key.scope);
            opened.push((id.clone(), scope.clone()));
            id
        });
        planned.insert(key.clone(), sale);
    }
    (planned, opened)
}

/// Records that an event failed alone, in a transaction of its own.
async fn record_failure(app: &App, event: &ClaimedEvent, reason: &str) -> Result<(), StoreError> {
    let now = app.now();
    let attempt = u32::try_from(event.attempts).unwrap_or(u32::MAX).saturating_add(1);
    let next = (attempt < app.config.process.max_attempts)
        .then(|| now.plus_micros(retry::delay(attempt, &event.id)));
    let mut tx = app.db.begin().await?;
    inbox::mark_failed(&mut tx, &event.id, reason, next, now).await?;
    failpoint::reach(Failpoint::FailureBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::FailureAfterCommit);
    let id = &event.id;
    if let Some(at) = next {
        warn!(event.id = id, attempt, reason, next_attempt_at = %at, "event failed and is tried again");
    } else {
        error!(event.id = id, attempt, reason, "event failed for good and was parked");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fact::{ObjectKind, ObjectRef};

    fn scope() -> Scope {
        Scope {
            project_id: ProjectId::parse("proj_default").unwrap(),
            realm: Realm::new("stripe", false, ""),
        }
    }

    #[test]
    fn objects_that_facts_join_share_one_new_sale() {
        let scope = scope();
        let object = |kind, id: &str| ObjectRef::new(kind, id);
        let link = |a: ObjectRef, b: ObjectRef| Fact::SaleLinked { sale: a, alias: b };
        let facts = [
            link(object(ObjectKind::Charge, "ch"), object(ObjectKind::Intent, "pi")),
            link(object(ObjectKind::Invoice, "in"), object(ObjectKind::CheckoutSession, "cs")),
            link(object(ObjectKind::Intent, "pi"), object(ObjectKind::Invoice, "in")),
            link(object(ObjectKind::Intent, "other"), object(ObjectKind::Charge, "other")),
        ];
        let event = Translated {
            id: "in_1".to_owned(),
            scope: None,
            received_at: Timestamp::EPOCH,
            facts: Vec::new(),
            state: InboxState::Applied,
            reason: None,
            span: tracing::Span::none(),
        };
        let told: Vec<_> = facts.iter().map(|fact| (&scope, fact, &event)).collect();
        let groups = group_objects(&told);
        let (planned, opened) = plan_sales(&groups, &BTreeMap::new(), Timestamp::EPOCH);
        assert_eq!(opened.len(), 2);
        let sale = |kind, id: &str| planned[&AliasKey::new(&scope, &object(kind, id))].clone();
        assert_eq!(sale(ObjectKind::Charge, "ch"), sale(ObjectKind::CheckoutSession, "cs"));
        assert_ne!(sale(ObjectKind::Charge, "ch"), sale(ObjectKind::Charge, "other"));
    }
}
