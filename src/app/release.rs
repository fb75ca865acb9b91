//! What time alone changes: held commissions whose hold is over become payable.
//!
//! The commission's own row says when it is due; the step claims due sales and runs the same fold that
//! events run, so nothing here decides anything.

use std::collections::BTreeSet;

use super::{
    App,
    fold::{self, FoldAndRecordError},
};
use crate::{
    domain::{book::FoldError, ids::SaleId, ledger::Cause},
    failpoint::{self, Failpoint},
    store::{
        StoreError, commissions,
        findings::{self, NewFinding, Severity},
    },
};

/// Sales folded in one transaction at most; a write transaction on SQLite stays short (`rulings.md` 14).
const SALES_MAX: i64 = 200;

/// How long a sale that cannot be folded is left alone.
const POSTPONE_S: i64 = 3_600;

/// Folds the sales that are due, at most one batch. Returns how many.
///
/// A sale that cannot be folded is put off for an hour with a finding, so that it does not keep the
/// others from being paid.
///
/// # Errors
/// [`StoreError`]; nothing is half done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let mut limit = SALES_MAX;
    loop {
        match release(app, limit).await {
            Ok(released) => return Ok(released),
            Err(FoldAndRecordError::Store(error)) => return Err(error),
            Err(FoldAndRecordError::Fold(error)) if limit == 1 => {
                postpone(app, &error).await?;
                return Ok(1);
            }
            // One of them is bad; taken one by one, oldest first, the bad one stands alone.
            Err(FoldAndRecordError::Fold(_)) => limit = 1,
        }
    }
}

async fn release(app: &App, limit: i64) -> Result<usize, FoldAndRecordError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let due: BTreeSet<SaleId> = commissions::claim_due_sales(&mut tx, now, limit).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut book = fold::load(&mut tx, &due).await?;
    for id in &due {
        if let Some(sale) = book.touch(id) {
            sale.causes.insert(Cause::Time("due"));
        }
    }
    fold::fold_and_record(&mut tx, &mut book, now, app.config.programs.merge_grace_s).await?;
    failpoint::reach(Failpoint::ReleaseBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::ReleaseAfterCommit);
    Ok(due.len())
}

async fn postpone(app: &App, error: &FoldError) -> Result<(), StoreError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    for sale in commissions::claim_due_sales(&mut tx, now, 1).await? {
        commissions::postpone_due(&mut tx, &sale, now.plus_secs(POSTPONE_S)).await?;
        let finding = NewFinding {
            kind: "sale_cannot_be_folded".to_owned(),
            severity: Severity::Critical,
            object: sale.to_string(),
            detail: format!("its commissions stay as they are until this is mended: {error}"),
        };
        findings::raise(&mut tx, &[finding], now).await?;
        tracing::error!(sale.id = %sale, reason = %error, "a due sale cannot be folded and was put off");
    }
    tx.commit().await
}
