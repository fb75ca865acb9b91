//! Sales whose money may have changed without an event about them: folded again, some at a time.
//!
//! A code told for a customer, the end of a subscription, an approval or a launch can reach any number
//! of sales. Whoever learns of it only asks (`store::refold`), in the transaction that makes it true;
//! this step folds, so that no transaction grows with the number of sales. It runs the same fold that
//! events run and decides nothing.

use std::collections::BTreeSet;

use tracing::{debug, error};

use super::{
    App,
    fold::{self, Counters, FoldAndRecordError},
};
use crate::{
    domain::{ids::SaleId, time::Timestamp},
    failpoint::{self, Failpoint},
    store::{
        StoreError, Tx,
        findings::{self, NewFinding, Severity},
        refold::{self, Refold},
    },
};

/// Sales folded in one transaction at most.
const SALES_MAX: i64 = 200;

/// The same where all writers wait for each other: a write transaction on SQLite stays short
/// (`rulings.md` 14).
const SALES_MAX_OF_ONE_WRITER: i64 = 50;

/// How long a sale that cannot be folded waits before it is tried again.
const RETRY_S: i64 = 3_600;

/// Folds the sales that wait longest, at most one batch. Returns how many had their turn.
///
/// A batch that fails is folded sale by sale. One that fails alone raises the finding `refold_failed`
/// and waits an hour, so that it does not stop the others.
///
/// # Errors
/// [`StoreError`] when another transaction was in the way or the database is not there; nothing is
/// half done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let now = app.now();
    // Most often there is nothing, and a look disturbs nobody.
    if !refold::is_any_due(&mut app.db.read().await?, now).await? {
        return Ok(0);
    }
    let sales_max = if app.db.engine().has_one_writer() { SALES_MAX_OF_ONE_WRITER } else { SALES_MAX };
    let mut tx = app.db.begin().await?;
    let claimed = refold::claim_due(&mut tx, now, sales_max).await?;
    let sales: BTreeSet<SaleId> = claimed.iter().map(|refold| refold.sale_id.clone()).collect();
    if sales.is_empty() {
        return Ok(0);
    }
    if let Err(error) = answer(app, tx, &claimed, now).await {
        if let Ok(passing) = error.passing() {
            return Err(passing);
        }
        for sale in &sales {
            answer_alone(app, sale, now).await?;
        }
    }
    Ok(sales.len())
}

/// Folds the sales and commits; on an error everything is rolled back, and no lock is left.
async fn answer(app: &App, mut tx: Tx, claimed: &[Refold], now: Timestamp) -> Result<(), FoldAndRecordError> {
    let mut counters = Counters::default();
    loop {
        let error = match fold_claimed(app, &mut tx, claimed, &counters, now).await {
            Ok(()) => {
                failpoint::reach(Failpoint::RefoldBeforeCommit);
                tx.commit().await?;
                failpoint::reach(Failpoint::RefoldAfterCommit);
                return Ok(());
            }
            Err(error) => error,
        };
        // A connection that is gone has no locks, and the first error says more.
        if let Err(error) = tx.rollback().await {
            debug!(%error, "sales to be folded again could not be rolled back");
        }
        if !counters.take_up(&error) {
            return Err(error);
        }
        // Somebody else may fold them meanwhile; to fold them twice changes nothing.
        tx = app.db.begin().await?;
        counters.lock(&mut tx).await?;
    }
}

async fn fold_claimed(
    app: &App,
    tx: &mut Tx,
    claimed: &[Refold],
    counters: &Counters,
    now: Timestamp,
) -> Result<(), FoldAndRecordError> {
    let sales = claimed.iter().map(|refold| refold.sale_id.clone()).collect();
    let mut book = fold::load(tx, &sales, counters).await?;
    let mut passed_on = Vec::new();
    for refold in claimed {
        let Some(sale) = book.touch(&refold.sale_id) else { continue };
        sale.causes.insert(refold.cause.clone());
        // Merged after it was asked for: the facts that this is about have moved on.
        passed_on.extend(sale.merged_into.clone().map(|sale_id| Refold { sale_id, ..refold.clone() }));
    }
    fold::fold_and_record(app, tx, &mut book, now).await?;
    refold::delete(tx, claimed).await?;
    refold::request(tx, &passed_on).await?;
    Ok(())
}

async fn answer_alone(app: &App, sale: &SaleId, now: Timestamp) -> Result<(), StoreError> {
    let mut tx = app.db.begin().await?;
    let claimed = refold::claim_sale(&mut tx, sale, now).await?;
    if claimed.is_empty() {
        return Ok(());
    }
    let Err(error) = answer(app, tx, &claimed, now).await else { return Ok(()) };
    let failure = match error.passing() {
        Ok(passing) => return Err(passing),
        Err(lasting) => lasting,
    };
    error!(sale.id = sale.as_str(), reason = %failure, "a sale cannot be folded again and is tried later");
    let finding = NewFinding {
        kind: "refold_failed".to_owned(),
        severity: Severity::Critical,
        object: sale.to_string(),
        detail: format!(
            "a code, an approval or the end of a subscription concerns this sale, and it cannot be computed: \
             {failure}; run `remit doctor`, it is tried again every hour"
        ),
    };
    let mut tx = app.db.begin().await?;
    refold::postpone(&mut tx, sale, now, now.plus_secs(RETRY_S)).await?;
    findings::raise(&mut tx, &[finding], now).await?;
    super::commit_postponed(tx).await
}
