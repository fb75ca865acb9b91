//! Settlement: what is payable becomes payouts that are frozen, reserved in the books and due to be sent.
//!
//! A run is written down first, then works through the program's enrollments in order of their ids, a
//! chunk per transaction, and is completed in the last one. So a crash leaves a run that stands at the last
//! committed chunk and is taken further by [`step_scheduled`] or by the same request sent again. A payout, its
//! items, its intent with the frozen bytes, its job and its entry are of one transaction. That nobody is
//! paid twice comes from claiming lots under locks, never from which runs there are (`rulings.md` 14): any
//! number of runs may work beside each other, on any number of nodes.
//!
//! Locks are taken in the order of all stages: run, enrollments, sales, then payouts and balances
//! (`rulings.md` 3). The enrollments keep settlements apart, the sales keep folds out: what happens to a
//! sale is either in its lots before they are claimed, or carries forward afterwards. Who is paid is decided
//! in `plan.rs`; nothing is sent from here.

mod plan;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tracing::warn;

use self::plan::{Draft, Known, Plan, Rules};
pub use self::schedule::step as step_scheduled;
use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
    organizations::PAYOUT_PROVIDER,
    payouts, programs as program_rules, random_u128,
};
pub use crate::store::settlement::{PaidLine, SkippedLine};
use crate::{
    domain::{
        book::Realm,
        ids::{EnrollmentId, IntentId, OrganizationId, ProgramId, RunId},
        ledger::{Cause, Entry, LedgerError},
        money::{self, Currency, Money, MoneyError},
        payout::{Payout, PayoutState},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    providers::outbound::{self, Order, OrderKind, Outbound},
    store::{
        Conn, Engine, StoreError, Tx, account_checks, holds,
        intents::{self, NewIntent, Purpose},
        ledger::{self, Posting},
        programs, sales,
        settlement::{self, Batch, Began, NewPayout, OpenLot, Reach, Run},
        transfers,
    },
};

/// How often a chunk is started again because another transaction was in the way.
const CONFLICTS_MAX: u32 = 8;

/// A settlement that somebody asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose affiliates are paid.
    pub program: ProgramId,
    /// What became payable later is left out; by default nothing is. Not in the future.
    pub as_of: Option<Timestamp>,
    /// The caller's own key of this request: the same key is the same run, however often it is sent. Who else
    /// uses it for the same program is refused.
    pub key: Option<String>,
}

/// What a settlement came to, or would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The run; none for a plan.
    pub run_id: Option<RunId>,
    /// Who is paid what, by enrollment and currency.
    pub payouts: Vec<PaidLine>,
    /// Who is not paid, and why.
    pub skipped: Vec<SkippedLine>,
}

/// A chunk could not be settled; nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The store refused, or another transaction was in the way.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Amounts do not fit.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no such run, or not its program.
    #[error("there is no such settlement run")]
    NoRun,
    /// A debt came up between looking and reserving.
    #[error("what is owed changed while it was being settled")]
    Overtaken,
    /// This program cannot send money through the provider.
    #[error("nothing can be sent to the provider `{0}`")]
    UnknownProvider(&'static str),
}

impl From<MoneyError> for SettleError {
    fn from(error: MoneyError) -> Self {
        Self::Ledger(error.into())
    }
}

impl SettleError {
    /// Whether another transaction was in the way, so that the same chunk is expected to succeed. A lot or a
    /// revision that somebody else has taken is read anew.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Store(StoreError::RowsAffected { .. }) | Self::Overtaken => true,
            Self::Store(error) => error.is_retryable() || error.is_unique_violation(),
            Self::Ledger(_) | Self::NoRun | Self::UnknownProvider(_) => false,
        }
    }
}

impl From<SettleError> for Refusal {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Store(error) => Self::Store(error),
            SettleError::NoRun => Self::NotFound,
            SettleError::Overtaken => Self::unavailable(
                "SETTLEMENT_BUSY",
                "what is owed keeps changing while it is being settled; send the same request again",
            ),
            SettleError::Ledger(_) | SettleError::UnknownProvider(_) => {
                Self::conflict("NOT_COMPUTABLE", error.to_string())
            }
        }
    }
}

/// Settles a program now, to the end, and says who is paid. A run of the same key that is there already is
/// taken to its end and answered again.
///
/// # Errors
/// [`Refusal::Unavailable`] while payouts are switched off (`PAYOUTS_NOT_ENABLED`) or paused
/// (`PAYOUTS_PAUSED`); a run that was begun goes on when they are resumed. [`Refusal::KeyReused`] when the
/// key was used with another time, or by another caller.
pub async fn run(app: &App, by: &Principal, request: &Request) -> Result<Settlement, Refusal> {
    by.require(Scope::Settle)?;
    let owner =
        program_rules::visible(&mut app.db.read().await?, by, &request.program).await?.organization_id;
    require_open(app).await?;
    let now = app.now();
    let as_of = as_of(request.as_of, now)?;
    let key = request.key.clone().unwrap_or_else(|| format!("once_{:032x}", random_u128()));
    let run = Run {
        id: RunId::derived(&[request.program.as_str(), "request", &key]),
        program_id: request.program.clone(),
        began: Began::Requested { key },
        as_of,
        actor: by.actor().to_owned(),
        last_enrollment: None,
        created_at: now,
        completed_at: None,
    };
    let begun = begin(app, by, &owner, &run).await?;
    // A run that somebody else began, or one as of another time, answers nothing that was asked here.
    let is_own = begun.actor == run.actor && request.as_of.unwrap_or(begun.created_at) == begun.as_of;
    if !is_own {
        return Err(Refusal::KeyReused);
    }
    loop {
        match step(app, &begun.id).await? {
            Progress::More => tokio::task::yield_now().await,
            Progress::Completed => break,
            Progress::Paused => return Err(paused()),
        }
    }
    let mut conn = app.db.read().await?;
    Ok(Settlement {
        payouts: settlement::payouts_of_run(&mut conn, &begun.id).await?,
        skipped: settlement::skipped_of_run(&mut conn, &begun.id).await?,
        run_id: Some(begun.id),
    })
}

/// What [`run`] would come to now. Changes nothing, needs no gate, and may be out of date when it is read.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn plan(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    as_of: Option<Timestamp>,
) -> Result<Settlement, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    let details = program_rules::visible(&mut conn, by, program).await?;
    let rules = Rules::of(&details);
    let reach = Reach {
        program_id: program,
        currency: None,
        as_of: self::as_of(as_of, app.now())?,
        livemode: app.config.livemode,
    };
    let mut settlement = Settlement { run_id: None, payouts: Vec::new(), skipped: Vec::new() };
    let mut after = None;
    loop {
        let batch = next_batch(app.db.engine(), &mut conn, &reach, after.as_ref()).await?;
        let known = know(app, &mut conn, &reach, &batch).await?;
        let chunk = planned(plan::plan(&rules, known).map_err(SettleError::from)?);
        settlement.payouts.extend(chunk.payouts);
        settlement.skipped.extend(chunk.skipped);
        if !batch.has_more {
            return Ok(settlement);
        }
        after = batch.last;
    }
}

/// What settling one enrollment of a program would come to now, in every currency.
pub(super) async fn plan_one(
    app: &App,
    conn: &mut Conn,
    program: &programs::ProgramDetails,
    enrollment: &EnrollmentId,
) -> Result<Settlement, SettleError> {
    let reach =
        Reach { program_id: &program.id, currency: None, as_of: app.now(), livemode: app.config.livemode };
    let batch = Batch { with_lots: vec![enrollment.clone()], ..Batch::default() };
    let known = know(app, conn, &reach, &batch).await?;
    Ok(planned(plan::plan(&Rules::of(program), known)?))
}

/// A plan as it is answered.
fn planned(plan: Plan) -> Settlement {
    let paid = |draft: Draft| PaidLine {
        id: None,
        enrollment_id: draft.enrollment_id,
        currency: draft.currency,
        split: draft.split,
    };
    let payouts = plan.drafts.into_iter().map(paid).collect();
    Settlement { run_id: None, payouts, skipped: plan.skipped }
}

fn as_of(asked: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Refusal> {
    match asked {
        Some(asked) if asked > now => {
            Err(Refusal::invalid("INVALID_AS_OF", "as_of", "as_of must not be in the future"))
        }
        asked => Ok(asked.unwrap_or(now)),
    }
}

/// Whether a settlement can be begun at all: payouts are enabled, and nobody has paused them.
///
/// # Errors
/// [`Refusal::Unavailable`] with `PAYOUTS_NOT_ENABLED` or `PAYOUTS_PAUSED`.
pub async fn require_open(app: &App) -> Result<(), Refusal> {
    if !app.config.payouts_live {
        return Err(Refusal::unavailable(
            "PAYOUTS_NOT_ENABLED",
            "payouts are not enabled on this node (`payouts.live` is false); a dry run shows what would be paid",
        ));
    }
    if holds::is_paused(&mut app.db.read().await?).await? { Err(paused()) } else { Ok(()) }
}

fn paused() -> Refusal {
    Refusal::unavailable("PAYOUTS_PAUSED", "all payouts are paused; `remit payouts status` says why")
}

/// Writes the run down, unless it is there, and gives it as it stands.
async fn begin(app: &App, by: &Principal, owner: &OrganizationId, run: &Run) -> Result<Run, Refusal> {
    let mut tx = app.db.begin().await?;
    if settlement::insert_run(&mut tx, run).await? {
        let asked = json!({ "program_id": run.program_id, "as_of": run.as_of });
        let change = Change::new("payouts.run", &run.id, Some(owner)).after(&asked);
        audit::record(&mut tx, by, change, run.created_at).await?;
    }
    let begun = settlement::find_run(&mut tx, &run.id).await?.ok_or(Refusal::NotFound)?;
    failpoint::reach(Failpoint::RunBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::RunAfterCommit);
    Ok(begun)
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more enrollments.
    More,
    /// All had their turn.
    Completed,
    /// Payouts are paused; the run stays where it is.
    Paused,
}

/// Takes a run further by one chunk, in one transaction.
///
/// # Errors
/// [`SettleError`]; nothing of the chunk was kept.
pub async fn step(app: &App, run: &RunId) -> Result<Progress, SettleError> {
    let mut conflicts = 0;
    loop {
        match settle_chunk(app, run).await {
            Ok(progress) => {
                app.wake.dispatch.notify_one();
                return Ok(progress);
            }
            Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                warn!(run.id = run.as_str(), reason = %error, "a chunk of a settlement is started again");
                tokio::task::yield_now().await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn settle_chunk(app: &App, run: &RunId) -> Result<Progress, SettleError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let run = settlement::lock_run(&mut tx, run).await?.ok_or(SettleError::NoRun)?;
    if run.completed_at.is_some() {
        return Ok(Progress::Completed);
    }
    if holds::is_paused(&mut tx).await? {
        return Ok(Progress::Paused);
    }
    let program = programs::find(&mut tx, &run.program_id).await?.ok_or(SettleError::NoRun)?;
    let rules = Rules::of(&program);
    let reach = Reach {
        program_id: &run.program_id,
        currency: run.currency(),
        as_of: run.as_of,
        livemode: app.config.livemode,
    };
    let batch = next_batch(app.db.engine(), &mut tx, &reach, run.last_enrollment.as_ref()).await?;
    let known = claim(app, &mut tx, &reach, &batch).await?;
    let Plan { drafts, skipped, not_ready } = plan::plan(&rules, known)?;
    let drafted: BTreeSet<EnrollmentId> = drafts.iter().map(|draft| draft.enrollment_id.clone()).collect();
    let last = batch.last.as_ref().filter(|_| batch.has_more);
    settlement::insert_skips(&mut tx, &run.id, &skipped).await?;
    // What told that they are ready may have been lost; the dispatcher asks, so that the next run knows.
    let accounts = not_ready.iter().map(String::as_str);
    account_checks::request(&mut tx, PAYOUT_PROVIDER, app.config.livemode, accounts, now).await?;
    let entries = reserve(app, &mut tx, &run, &rules, drafts, now).await?;
    settlement::advance_run(&mut tx, &run, last, now).await?;
    let causes = BTreeSet::from([Cause::Run(run.id.to_string())]);
    let postings: Vec<Posting<'_>> = entries.iter().map(|entry| Posting { entry, causes: &causes }).collect();
    ledger::post(&mut tx, &postings, &[], now).await?;
    require_no_debt(&mut tx, &reach, drafted).await?;
    failpoint::reach(Failpoint::SettleBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::SettleAfterCommit);
    Ok(if batch.has_more { Progress::More } else { Progress::Completed })
}

/// The enrollments of the next chunk. A write transaction on SQLite keeps everybody else waiting, so chunks
/// are small there (`rulings.md` 14).
async fn next_batch(
    engine: Engine,
    conn: &mut Conn,
    reach: &Reach<'_>,
    after: Option<&EnrollmentId>,
) -> Result<Batch, StoreError> {
    let (enrollments_max, lots_max) = if engine.has_one_writer() { (100, 250) } else { (500, 2_000) };
    settlement::next_batch(conn, reach, after, enrollments_max, lots_max).await
}

/// What is due is what is payable (`rulings.md` 12): whoever is paid must not be left in debt. The entries are
/// posted, so the payees' balances are locked: what others posted before is seen here, and what they post
/// later carries forward. The open lots are the payable balance, of this mode.
///
/// # Errors
/// [`SettleError::Overtaken`] when a debt of a sale that was not locked was booked since the lots were read.
async fn require_no_debt(
    tx: &mut Tx,
    reach: &Reach<'_>,
    payees: BTreeSet<EnrollmentId>,
) -> Result<(), SettleError> {
    if payees.is_empty() {
        return Ok(());
    }
    let payees: Vec<EnrollmentId> = payees.into_iter().collect();
    let everything = Reach { as_of: Timestamp::from_micros(i64::MAX), ..*reach };
    let mut open: BTreeMap<(EnrollmentId, Currency), i64> = BTreeMap::new();
    for lot in settlement::list_lots(tx, &everything, &payees).await? {
        let sum = open.entry((lot.enrollment_id, lot.currency)).or_default();
        *sum = money::add(*sum, lot.amount)?;
    }
    if open.values().any(|sum| *sum < 0) { Err(SettleError::Overtaken) } else { Ok(()) }
}

/// Locks the enrollments and the sales behind their open lots, then reads what can be claimed. What was earned
/// from a sale that was not open before the locks belongs to a fold that came after; the next settlement takes
/// it.
///
/// # Errors
/// [`SettleError::Overtaken`] when such a fold took something back: a debt is never overlooked.
async fn claim(app: &App, tx: &mut Tx, reach: &Reach<'_>, batch: &Batch) -> Result<Known, SettleError> {
    if batch.with_lots.is_empty() {
        return Ok(Known::default());
    }
    settlement::lock_enrollments(tx, &batch.with_lots).await?;
    let locked = settlement::list_sales(tx, reach, &batch.with_lots).await?;
    sales::lock(tx, &locked).await?;
    let mut known = know(app, tx, reach, batch).await?;
    let is_locked = |lot: &OpenLot| lot.part_of.as_ref().is_none_or(|part| locked.contains(&part.sale_id));
    if known.lots.iter().any(|lot| lot.amount < 0 && !is_locked(lot)) {
        return Err(SettleError::Overtaken);
    }
    known.lots.retain(is_locked);
    Ok(known)
}

/// Reads everything that the plan of a batch looks at.
async fn know(app: &App, conn: &mut Conn, reach: &Reach<'_>, batch: &Batch) -> Result<Known, StoreError> {
    if batch.with_lots.is_empty() {
        return Ok(Known::default());
    }
    let lots = settlement::list_lots(conn, reach, &batch.with_lots).await?;
    let payees = settlement::list_payees(conn, PAYOUT_PROVIDER, &batch.with_lots).await?;
    let accounts: BTreeSet<&str> = payees.iter().filter_map(|payee| payee.account_id.as_deref()).collect();
    let realm = Realm::new(PAYOUT_PROVIDER, app.config.livemode, "");
    let accounts: Vec<&str> = accounts.into_iter().collect();
    let accounts_ready = transfers::accounts_ready(conn, &realm, &accounts).await?;
    let payees: BTreeMap<_, _> =
        payees.into_iter().map(|payee| (payee.enrollment_id.clone(), payee)).collect();
    Ok(Known { lots, payees, accounts_ready })
}

/// Writes the payouts down with everything that goes with them, and gives the entries to be posted.
async fn reserve(
    app: &App,
    tx: &mut Tx,
    run: &Run,
    rules: &Rules,
    drafts: Vec<Draft>,
    now: Timestamp,
) -> Result<Vec<Entry>, SettleError> {
    let provider =
        outbound::outbound(PAYOUT_PROVIDER).ok_or(SettleError::UnknownProvider(PAYOUT_PROVIDER))?;
    let (mut new, mut intents, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for draft in drafts {
        let mut payout = Payout {
            id: Payout::id_of(run.id.as_str(), &draft.enrollment_id, draft.currency),
            enrollment_id: draft.enrollment_id,
            program_id: run.program_id.clone(),
            currency: draft.currency,
            split: draft.split,
            state: PayoutState::Pending,
            on_transfer_reversed: rules.on_transfer_reversed,
            reversed: 0,
            returned: 0,
            revision: 0,
        };
        entries.push(payout.reserve()?);
        intents.push(intent(app, provider, &payout, &draft.destination));
        new.push(NewPayout {
            payout,
            organization_id: draft.organization_id,
            provider: PAYOUT_PROVIDER,
            livemode: app.config.livemode,
            destination: draft.destination,
            lots: draft.lots,
        });
    }
    settlement::insert_payouts(tx, &run.id, &new, now).await?;
    intents::insert(tx, &intents, now).await?;
    Ok(entries)
}

/// The intent that pays a payout, with the bytes that will be sent. Its id follows from what began the run,
/// the enrollment and the currency, so a database that is built anew asks under the same key.
fn intent(app: &App, provider: &dyn Outbound, payout: &Payout, destination: &str) -> NewIntent {
    let order = Order {
        intent_id: IntentId::derived(&["payout", payout.id.as_str()]),
        generation: 0,
        livemode: app.config.livemode,
        amount: Money { minor: payout.split.send, currency: payout.currency },
        destination: destination.to_owned(),
        kind: OrderKind::Transfer,
    };
    let generation = payouts::generation(provider, &order);
    NewIntent {
        id: order.intent_id,
        purpose: Purpose::Payout(payout.id.clone()),
        provider: PAYOUT_PROVIDER.to_owned(),
        livemode: order.livemode,
        destination: order.destination,
        amount: order.amount,
        generation,
    }
}
