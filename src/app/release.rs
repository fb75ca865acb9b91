//! What time alone changes: held commissions whose hold is over become payable.
//!
//! The commission's own row says when it is due; the step claims due sales and runs the same fold that
//! events run, so nothing here decides anything.

use std::collections::BTreeSet;

use serde_json::json;
use tracing::{debug, error};

use super::{
    App, Refusal,
    audit::{self, Change},
    fold::{self, Counters, FoldAndRecordError},
    keys::{Principal, Scope},
    programs::visible,
};
use crate::{
    domain::{
        commission::CommissionState,
        ids::{ProgramId, SaleId},
        ledger::{Cause, EntryKind},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    store::{
        StoreError, Tx, commissions,
        findings::{self, NewFinding, Severity},
        programs::ProgramDetails,
    },
};

/// Sales folded in one transaction at most; a write transaction on SQLite stays short (`rulings.md` 14).
const SALES_MAX: i64 = 200;

/// How long a sale that cannot be folded waits before it is tried again.
const RETRY_S: i64 = 3_600;

/// Folds the sales that are due, at most one batch. Returns how many had their turn.
///
/// A batch that fails is folded sale by sale. One that fails alone raises the finding `release_failed`
/// and waits an hour, so that it does not stop the others.
///
/// # Errors
/// [`StoreError`] when another transaction was in the way or the database is not there; nothing is
/// half done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let now = app.now();
    // Most often there is nothing, and a look disturbs nobody.
    if !commissions::is_any_due(&mut app.db.read().await?, now).await? {
        return Ok(0);
    }
    let mut tx = app.db.begin().await?;
    let due: BTreeSet<SaleId> = commissions::claim_due_sales(&mut tx, now, SALES_MAX).await?;
    if due.is_empty() {
        return Ok(0);
    }
    release_each(app, tx, &due, now, None).await?;
    Ok(due.len())
}

/// Who asked that a program's due commissions be released now.
struct Asked<'a> {
    by: &'a Principal,
    program: &'a ProgramDetails,
}

/// Releases what is due now in a program, as the schedule would a little later, and tells how many
/// commissions became payable. What is still held stays held.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of somebody else.
pub async fn of_program(app: &App, by: &Principal, id: &ProgramId) -> Result<usize, Refusal> {
    by.require(Scope::Decide)?;
    let now = app.now();
    let program = {
        let mut conn = app.db.read().await?;
        visible(&mut conn, by, id).await?
    };
    let asked = Asked { by, program: &program };
    let mut released = 0;
    // What had its turn is not due at `now` any more, so this ends.
    loop {
        let mut tx = app.db.begin().await?;
        let due = commissions::claim_due_sales_of(&mut tx, id, now, SALES_MAX).await?;
        if due.is_empty() {
            return Ok(released);
        }
        released += release_each(app, tx, &due, now, Some(&asked)).await?;
    }
}

/// Folds the sales together, or one by one where that fails. Gives how many commissions became payable.
async fn release_each(
    app: &App,
    tx: Tx,
    due: &BTreeSet<SaleId>,
    now: Timestamp,
    asked: Option<&Asked<'_>>,
) -> Result<usize, StoreError> {
    let error = match release(app, tx, due, now, asked).await {
        Ok(released) => return Ok(released),
        Err(error) => error,
    };
    if let Ok(passing) = error.passing() {
        return Err(passing);
    }
    let mut released = 0;
    for sale in due {
        released += release_alone(app, sale, now, asked).await?;
    }
    Ok(released)
}

/// Folds the sales and commits; on an error everything is rolled back, and no lock is left. Gives how many
/// commissions became payable.
async fn release(
    app: &App,
    mut tx: Tx,
    due: &BTreeSet<SaleId>,
    now: Timestamp,
    asked: Option<&Asked<'_>>,
) -> Result<usize, FoldAndRecordError> {
    let mut counters = Counters::default();
    loop {
        let program = asked.map(|asked| &asked.program.id);
        let error = match fold_due(app, &mut tx, due, &counters, program, now).await {
            Ok(released) => {
                if let Some(Asked { by, program }) = asked {
                    let after = json!({ "sales": due, "released": released });
                    let owner = Some(&program.organization_id);
                    let change = Change::new("program.released", &program.id, owner).after(&after);
                    audit::record(&mut tx, by, change, now).await?;
                }
                failpoint::reach(Failpoint::ReleaseBeforeCommit);
                tx.commit().await?;
                failpoint::reach(Failpoint::ReleaseAfterCommit);
                return Ok(released);
            }
            Err(error) => error,
        };
        // A connection that is gone has no locks, and the first error says more.
        if let Err(error) = tx.rollback().await {
            debug!(%error, "due sales could not be rolled back");
        }
        if !counters.take_up(&error) {
            return Err(error);
        }
        tx = app.db.begin().await?;
        counters.lock(&mut tx).await?;
    }
}

async fn fold_due(
    app: &App,
    tx: &mut Tx,
    due: &BTreeSet<SaleId>,
    counters: &Counters,
    program: Option<&ProgramId>,
    now: Timestamp,
) -> Result<usize, FoldAndRecordError> {
    let mut book = fold::load(tx, due, counters).await?;
    for id in due {
        if let Some(sale) = book.touch(id) {
            sale.causes.insert(Cause::Time("due".to_owned()));
        }
    }
    let folded = fold::fold_and_record(app, tx, &mut book, now).await?;
    let released = folded.iter().flat_map(|folded| &folded.posted).filter(|posted| {
        posted.commission.state == CommissionState::Payable
            // A sale that has come to belong to another program since is folded whole, and told of there.
            && program.is_none_or(|program| posted.commission.program_id == *program)
            && posted.entries.iter().any(|entry| entry.kind == EntryKind::Release)
    });
    Ok(released.count())
}

async fn release_alone(
    app: &App,
    sale: &SaleId,
    now: Timestamp,
    asked: Option<&Asked<'_>>,
) -> Result<usize, StoreError> {
    let alone = BTreeSet::from([sale.clone()]);
    let tx = app.db.begin().await?;
    let error = match release(app, tx, &alone, now, asked).await {
        Ok(released) => return Ok(released),
        Err(error) => error,
    };
    let failure = match error.passing() {
        Ok(passing) => return Err(passing),
        Err(lasting) => lasting,
    };
    error!(sale.id = sale.as_str(), reason = %failure, "a due sale cannot be folded and is tried again later");
    let finding = NewFinding {
        kind: "release_failed".to_owned(),
        severity: Severity::Critical,
        object: sale.to_string(),
        detail: format!(
            "a commission of this sale is due and cannot be released: {failure}; run `remit doctor`, it is tried again every hour"
        ),
    };
    let mut tx = app.db.begin().await?;
    commissions::postpone(&mut tx, sale, now, now.plus_secs(RETRY_S)).await?;
    findings::raise(&mut tx, &[finding], now).await?;
    super::commit_postponed(tx).await?;
    Ok(0)
}
