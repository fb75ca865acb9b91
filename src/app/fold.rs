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
        attribution::Basis,
        book::{Book, CounterKey, FoldError, Folded, SALE_FINDINGS, SubjectKey},
        ids::{EnrollmentId, OrganizationId, SaleId},
        program::{Directory, normalise_code},
        time::Timestamp,
    },
    store::{
        StoreError, Tx, commissions, counters,
        findings::{self, NewFinding, Severity},
        programs, sales, surroundings,
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
    Fold(FoldError),
    /// Rules count what these counters stand for. Nothing was written: the caller begins again with a
    /// transaction that locks them first ([`Counters`]).
    #[error("{} counters have to be locked first", .0.len())]
    Uncounted(BTreeSet<CounterKey>),
}

impl From<FoldError> for FoldAndRecordError {
    fn from(error: FoldError) -> Self {
        match error {
            FoldError::Uncounted(keys) => Self::Uncounted(keys),
            lasting => Self::Fold(lasting),
        }
    }
}

/// What a transaction counts beyond its sales, for rules that look at other sales (`rulings.md` 9).
///
/// Counters are locked before sales, and only the fold finds out which it needs. So a change begins with
/// none; when it fails with [`FoldAndRecordError::Uncounted`], its caller rolls back, takes them up here
/// and begins again. Most programs never need one, and pay nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    keys: BTreeSet<CounterKey>,
}

impl Counters {
    /// Whether the caller should begin again: the error names counters that it has not locked yet.
    pub fn take_up(&mut self, error: &FoldAndRecordError) -> bool {
        match error {
            FoldAndRecordError::Uncounted(keys) => self.extend(keys),
            FoldAndRecordError::Store(_) | FoldAndRecordError::Fold(_) => false,
        }
    }

    /// Adds keys, and whether any of them is new.
    pub fn extend(&mut self, keys: &BTreeSet<CounterKey>) -> bool {
        let before = self.keys.len();
        self.keys.extend(keys.iter().cloned());
        self.keys.len() > before
    }

    /// Locks them: the first thing that a transaction does.
    pub async fn lock(&self, tx: &mut Tx) -> Result<(), StoreError> {
        counters::lock(tx, &self.keys).await
    }
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
pub(super) async fn load(
    tx: &mut Tx,
    ids: &BTreeSet<SaleId>,
    counters: &Counters,
) -> Result<Book, StoreError> {
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
    book.tallies = counters::load(tx, &counters.keys).await?;
    Ok(book)
}

/// The programs, enrollments and codes that the sales of the book can touch.
async fn directory(tx: &mut Tx, book: &Book) -> Result<Directory, StoreError> {
    let mut codes: BTreeSet<(OrganizationId, String)> = BTreeSet::new();
    let mut enrollments: BTreeSet<EnrollmentId> = BTreeSet::new();
    for sale in book.sales() {
        for subject in Book::subjects_of(sale) {
            for hint in book.hints_for(&subject).into_iter().filter(|hint| hint.source.is_code()) {
                codes.insert((sale.owner.clone(), normalise_code(&hint.code)));
            }
        }
        enrollments.extend(sale.commissions.iter().map(|commission| commission.enrollment_id.clone()));
        enrollments.extend(sale.decisions.iter().map(|decision| decision.enrollment_id.clone()));
        let touches = book.surroundings_of(&sale.id).into_iter().flat_map(|around| &around.touches);
        enrollments.extend(touches.map(|touch| touch.enrollment_id.clone()));
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

/// The sales that a touchpoint of their own refers and that earned for nobody by it before, and when they
/// were paid.
fn newly_referred<'a>(
    folded: &'a [Folded],
    earning: &BTreeSet<(SaleId, EnrollmentId)>,
) -> Vec<(&'a SaleId, Timestamp)> {
    let referred = folded.iter().filter_map(|folded| match &folded.attribution.to {
        Some((enrollment, Basis::Touch(_)))
            if !earning.contains(&(folded.sale_id.clone(), enrollment.clone())) =>
        {
            Some((&folded.sale_id, folded.summary.as_ref()?.paid_at))
        }
        _ => None,
    });
    referred.collect()
}

/// Folds what changed in the book and writes the result. The caller commits.
pub(super) async fn fold_and_record(
    app: &App,
    tx: &mut Tx,
    book: &mut Book,
    now: Timestamp,
) -> Result<Vec<Folded>, FoldAndRecordError> {
    surroundings::load(tx, book).await?;
    let settings = app.config.programs;
    let mut directory = directory(tx, book).await?;
    directory.multi_level = settings.multi_level;
    let earning: BTreeSet<(SaleId, EnrollmentId)> = book
        .dirty_sales()
        .flat_map(|sale| &sale.commissions)
        .map(|commission| (commission.sale_id.clone(), commission.enrollment_id.clone()))
        .collect();
    // A bug in the rules must cost one event, not the process.
    let folded = catch_unwind(AssertUnwindSafe(|| book.fold(&directory, now, settings.merge_grace_s)))
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
    counters::save(tx, &book.tallies).await?;
    surroundings::save_customer_emails(tx, book, &folded, now).await?;
    surroundings::request_bound(tx, book, &newly_referred(&folded, &earning), now).await?;
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
