//! What time alone changes: held commissions whose hold is over become payable.
//!
//! The commission's own row says when it is due; the step claims due sales and runs the same fold that
//! events run, so nothing here decides anything.

use std::collections::BTreeSet;

use tracing::{debug, error};

use super::{
    App,
    fold::{self, Counters, FoldAndRecordError},
};
use crate::{
    domain::{ids::SaleId, ledger::Cause, time::Timestamp},
    failpoint::{self, Failpoint},
    store::{
        StoreError, Tx, commissions,
        findings::{self, NewFinding, Severity},
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
    let mut tx = app.db.begin().await?;
    let due: BTreeSet<SaleId> = commissions::claim_due_sales(&mut tx, now, SALES_MAX).await?;
    if due.is_empty() {
        return Ok(0);
    }
    if let Err(error) = release(app, tx, &due, now).await {
        if let Ok(passing) = error.passing() {
            return Err(passing);
        }
        for sale in &due {
            release_alone(app, sale, now).await?;
        }
    }
    Ok(due.len())
}

/// Folds the sales and commits; on an error everything is rolled back, and no lock is left.
async fn release(
    app: &App,
    mut tx: Tx,
    due: &BTreeSet<SaleId>,
    now: Timestamp,
) -> Result<(), FoldAndRecordError> {
    let mut counters = Counters::default();
    loop {
        let error = match fold_due(app, &mut tx, due, &counters, now).await {
            Ok(()) => {
                failpoint::reach(Failpoint::ReleaseBeforeCommit);
                tx.commit().await?;
                failpoint::reach(Failpoint::ReleaseAfterCommit);
                return Ok(());
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
    now: Timestamp,
) -> Result<(), FoldAndRecordError> {
    let mut book = fold::load(tx, due, counters).await?;
    for id in due {
        if let Some(sale) = book.touch(id) {
            sale.causes.insert(Cause::Time("due".to_owned()));
        }
    }
    fold::fold_and_record(app, tx, &mut book, now).await?;
    Ok(())
}

async fn release_alone(app: &App, sale: &SaleId, now: Timestamp) -> Result<(), StoreError> {
    let alone = BTreeSet::from([sale.clone()]);
    let tx = app.db.begin().await?;
    let Err(error) = release(app, tx, &alone, now).await else { return Ok(()) };
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
    super::commit_postponed(tx).await
}
