//! A program's conversions, commissions and payouts as files, for its owner.
//!
//! The rows are read by the functions that the lists of the API read by, so a file and the API cannot tell
//! different things. They come a page at a time, newest first, and each page begins behind the last row of the
//! one before: however long a file is, little of it is in memory, and what is recorded meanwhile neither
//! shifts nor repeats anything.

use std::{future::Future, marker::PhantomData};

use super::{
    App, Refusal,
    keys::{Principal, Scope},
    programs,
};
use crate::{
    domain::{ids::ProgramId, window::Window},
    store::{
        Conn, StoreError,
        settlement::{self, PayoutRow},
        views::{self, CommissionRow, ConversionRow},
    },
};

/// Rows that are read at once.
const PAGE_ROWS: i64 = 500;

/// The rows of a file, a page at a time.
pub trait Pages: Send + 'static {
    /// What a line of the file is made of.
    type Row: Send + 'static;

    /// The next rows; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Self::Row>>, Refusal>> + Send;
}

/// A kind of row that a program's owner can have as a file.
pub trait Exported: Sized + Send + 'static {
    /// The rows of a program, newest first, before the given time in microseconds and id.
    fn page(
        conn: &mut Conn,
        program: &ProgramId,
        before: (i64, &str),
    ) -> impl Future<Output = Result<Vec<Self>, StoreError>> + Send;

    /// When it was first recorded, in microseconds, and its id.
    fn key(&self) -> (i64, String);
}

impl Exported for ConversionRow {
    async fn page(
        conn: &mut Conn,
        program: &ProgramId,
        before: (i64, &str),
    ) -> Result<Vec<Self>, StoreError> {
        views::list_conversions(conn, program, None, Some(before), PAGE_ROWS).await
    }

    fn key(&self) -> (i64, String) {
        (self.created_at_us, self.id.clone())
    }
}

impl Exported for CommissionRow {
    async fn page(
        conn: &mut Conn,
        program: &ProgramId,
        before: (i64, &str),
    ) -> Result<Vec<Self>, StoreError> {
        views::list_commissions(conn, program, Some(before), PAGE_ROWS).await
    }

    fn key(&self) -> (i64, String) {
        (self.created_at_us, self.id.clone())
    }
}

impl Exported for PayoutRow {
    async fn page(
        conn: &mut Conn,
        program: &ProgramId,
        before: (i64, &str),
    ) -> Result<Vec<Self>, StoreError> {
        settlement::list_payouts(conn, program, Some(before), PAGE_ROWS).await
    }

    fn key(&self) -> (i64, String) {
        (self.created_at_us, self.id.clone())
    }
}

/// The rows of one program that were recorded in a window.
pub struct Export<R> {
    app: App,
    program: ProgramId,
    from_us: i64,
    before: (i64, String),
    is_over: bool,
    rows: PhantomData<fn() -> R>,
}

/// The rows of a program that were first recorded in the window: `created_at` of a row, not when a buyer
/// paid. So one file after another, each from where the last one ended, holds every row once, also of a
/// payment that was told late.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of another owner.
pub async fn export<R: Exported>(
    app: &App,
    by: &Principal,
    program: &ProgramId,
    window: Window,
) -> Result<Export<R>, Refusal> {
    by.require(Scope::Read)?;
    programs::visible(&mut app.db.read().await?, by, program).await?;
    Ok(Export {
        app: app.clone(),
        program: program.clone(),
        from_us: window.from.as_micros(),
        // No id is empty, so this comes behind every row of the instants before.
        before: (window.to.as_micros(), String::new()),
        is_over: false,
        rows: PhantomData,
    })
}

impl<R: Exported> Pages for Export<R> {
    type Row = R;

    async fn next(&mut self) -> Result<Option<Vec<R>>, Refusal> {
        if self.is_over {
            return Ok(None);
        }
        let mut conn = self.app.db.read().await?;
        let mut rows = R::page(&mut conn, &self.program, (self.before.0, &self.before.1)).await?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == PAGE_ROWS);
        if let Some(last) = rows.last() {
            self.before = last.key();
        }
        self.is_over = !is_full || self.before.0 < self.from_us;
        rows.retain(|row| row.key().0 >= self.from_us);
        Ok(Some(rows))
    }
}
