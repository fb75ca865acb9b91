//! The part that every change of money shares: load sales under their locks, fold, record.
//!
//! The processor (facts), the release step (time) and decisions (people) differ only in what they put
//! into the [`Book`] before folding.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{App, notices};
use crate::{
    domain::{
        book::{Book, FoldError, Folded, SALE_FINDINGS, SubjectKey},
        ids::{EnrollmentId, OrganizationId, SaleId},
        program::{Directory, normalise_code},
        time::Timestamp,
    },
    store::{
        StoreError, Tx, commissions,
        findings::{self, NewFinding, Severity},
        programs, sales,
    },
};

/// A batch could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum FoldAndRecordError {
    /// The store refused, or another transaction was in the way.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The facts cannot be folded; trying again gives the same.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

impl FoldAndRecordError {
    /// The store's error, if the same sales are expected to succeed later, untouched; else what is wrong
    /// with them.
    pub(super) fn passing(self) -> Result<StoreError, Self> {
        match self {
            Self::Store(error) if error.is_retryable() || error.is_unreachable() => Ok(error),
            lasting => Err(lasting),
        }
    }
}

/// Locks sales, then loads them with everything the fold needs, in statements of their own.
pub(super) async fn load(tx: &mut Tx, ids: &BTreeSet<SaleId>) -> Result<Book, StoreError> {
    sales::lock(tx, ids).await?;
    let mut loaded = sales::load(tx, ids).await?;
    commissions::load_into(tx, &mut loaded).await?;
    let mut book = Book::default();
    let mut subjects: BTreeSet<SubjectKey> = BTreeSet::new();
    for sale in loaded.into_values() {
        subjects.extend(Book::subjects_of(&sale));
        book.insert(sale);
    }
    sales::load_hints(tx, &subjects, &mut book).await?;
    Ok(book)
}

/// The programs, enrollments and codes that the sales of the book can touch.
async fn directory(tx: &mut Tx, book: &Book) -> Result<Directory, StoreError> {
    let mut codes: BTreeSet<(OrganizationId, String)> = BTreeSet::new();
    let mut enrollments: BTreeSet<EnrollmentId> = BTreeSet::new();
    for sale in book.sales() {
        for subject in Book::subjects_of(sale) {
            for hint in book.hints_for(&subject) {
                codes.insert((sale.owner.clone(), normalise_code(&hint.code)));
            }
        }
        enrollments.extend(sale.commissions.iter().map(|commission| commission.enrollment_id.clone()));
        enrollments.extend(sale.decisions.iter().map(|decision| decision.enrollment_id.clone()));
    }
    let projects: BTreeSet<_> = book.sales().map(|sale| &sale.scope.project_id).collect();
    programs::share_directory(tx, &projects).await?;
    let codes: Vec<_> = codes.into_iter().collect();
    let enrollments: Vec<_> = enrollments.into_iter().collect();
    programs::load_directory(tx, &codes, &enrollments).await
}

/// The sale at the end of a chain of merges; `None` for a sale that was not merged. Several links of
/// one batch can merge a sale into one that is merged on.
fn survivor_of(book: &Book, id: &SaleId) -> Option<SaleId> {
    let mut survivor = book.sale(id)?.merged_into.as_ref()?;
    while let Some(next) = book.sale(survivor).and_then(|sale| sale.merged_into.as_ref()) {
        survivor = next;
    }
    Some(survivor.clone())
}

/// Folds what changed in the book and writes the result. The caller commits.
pub(super) async fn fold_and_record(
    app: &App,
    tx: &mut Tx,
    book: &mut Book,
    now: Timestamp,
) -> Result<Vec<Folded>, FoldAndRecordError> {
    let directory = directory(tx, book).await?;
    let merge_grace_s = app.config.programs.merge_grace_s;
    // A bug in the rules must cost one event, not the process.
    let folded = catch_unwind(AssertUnwindSafe(|| book.fold(&directory, now, merge_grace_s)))
        .unwrap_or(Err(FoldError::Crashed))?;
    sales::save_hints(tx, book).await?;
    sales::save(tx, book, &folded).await?;
    let merged: Vec<(SaleId, SaleId)> = folded
        .iter()
        .filter_map(|folded| {
            let survivor = survivor_of(book, &folded.sale_id)?;
            Some((folded.sale_id.clone(), survivor))
        })
        .collect();
    commissions::move_decisions(tx, &merged).await?;
    sales::copy_events(tx, &merged).await?;
    commissions::save(tx, book, &folded, now).await?;
    let new: Vec<NewFinding> = folded
        .iter()
        .flat_map(|folded| &folded.findings)
        .map(|finding| NewFinding {
            kind: finding.kind.to_owned(),
            severity: Severity::Warning,
            object: finding.object.clone(),
            detail: finding.detail.clone(),
        })
        .collect();
    findings::raise(tx, &new, now).await?;
    let sales: Vec<&str> = folded.iter().map(|folded| folded.sale_id.as_str()).collect();
    findings::resolve_others(tx, &sales, &SALE_FINDINGS, &new, now).await?;
    notices::of_folded(app, tx, book, &folded, now).await?;
    Ok(folded)
}
