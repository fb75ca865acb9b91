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
    store::{StoreError, commissions},
};

/// Sales folded in one transaction at most; a write transaction on SQLite stays short (`rulings.md` 14).
const SALES_MAX: i64 = 200;

/// Time could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A sale cannot be folded; it is named in the text.
    #[error("a due sale cannot be folded: {0}")]
    Fold(#[from] FoldError),
}

/// Folds the sales that are due, at most one batch. Returns how many.
///
/// # Errors
/// [`ReleaseError`]; nothing is half done.
pub async fn step(app: &App) -> Result<usize, ReleaseError> {
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let due: BTreeSet<SaleId> = commissions::claim_due_sales(&mut tx, now, SALES_MAX).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut book = fold::load(&mut tx, &due).await?;
    for id in &due {
        if let Some(sale) = book.touch(id) {
            sale.causes.insert(Cause::Time("due"));
        }
    }
    match fold::fold_and_record(&mut tx, &mut book, now, app.config.programs.merge_grace_s).await {
        Ok(_) => {}
        Err(FoldAndRecordError::Store(error)) => return Err(error.into()),
        Err(FoldAndRecordError::Fold(error)) => return Err(error.into()),
    }
    tx.commit().await?;
    Ok(due.len())
}
