//! The statement of one enrollment in one currency: JSON a page at a time, or all of it as CSV.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::part;
use crate::{
    app::{
        App,
        affiliate::{self, Accounts, FileRow, Key, Line, Range},
        keys::Principal,
    },
    domain::{
        ids::{CommissionId, EnrollmentId, EntryId, PayoutId, ProgramId},
        money::Currency,
        time::Timestamp,
        window::Window,
    },
    http::{
        error::ApiError,
        file::{Format, file},
        page::{Page, PageQuery},
        params::{Params, StatementQuery, WindowQuery, refuse},
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(statement))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Statement)]
struct StatementView {
    #[schema(value_type = ProgramId)]
    program_id: String,
    enrollment_id: EnrollmentId,
    currency: Currency,
    from: Option<Timestamp>,
    to: Timestamp,
    /// Before the first line of this page.
    opening: AccountsView,
    lines: Vec<LineView>,
    /// After the last line of this page; on the last page, at the end of the window.
    closing: AccountsView,
}

#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "every amount of the API says its unit")]
#[schema(as = StatementBalances)]
struct AccountsView {
    /// Held, payable and in transit together.
    balance_cents: i64,
    held_cents: i64,
    payable_cents: i64,
    in_transit_cents: i64,
    paid_cents: i64,
}

impl AccountsView {
    fn of(accounts: Accounts) -> Self {
        let Accounts { held, payable, in_transit, paid } = accounts;
        Self {
            balance_cents: held.saturating_add(payable).saturating_add(in_transit),
            held_cents: held,
            payable_cents: payable,
            in_transit_cents: in_transit,
            paid_cents: paid,
        }
    }
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = StatementLine)]
struct LineView {
    posted_at: Option<Timestamp>,
    kind: String,
    reason: String,
    amount_cents: i64,
    balance_cents: i64,
    held_change_cents: i64,
    payable_change_cents: i64,
    in_transit_change_cents: i64,
    paid_change_cents: i64,
    #[schema(value_type = Option<EntryId>)]
    entry_id: Option<String>,
    #[schema(value_type = Option<CommissionId>)]
    commission_id: Option<String>,
    #[schema(value_type = Option<PayoutId>)]
    payout_id: Option<String>,
}

impl From<Line> for LineView {
    fn from(line: Line) -> Self {
        Self {
            posted_at: Some(line.posted_at),
            kind: line.kind,
            reason: line.reason,
            amount_cents: line.amount,
            balance_cents: line.balance,
            held_change_cents: line.changed.held,
            payable_change_cents: line.changed.payable,
            in_transit_change_cents: line.changed.in_transit,
            paid_change_cents: line.changed.paid,
            entry_id: Some(line.entry_id),
            commission_id: line.commission_id,
            payout_id: line.payout_id,
        }
    }
}

/// A line of the file. The balances at both ends are lines that change nothing.
fn file_line(row: FileRow) -> LineView {
    let balance = |kind: &str, posted_at, accounts| LineView {
        posted_at,
        kind: kind.to_owned(),
        balance_cents: AccountsView::of(accounts).balance_cents,
        ..LineView::default()
    };
    match row {
        FileRow::Opening(at, accounts) => balance("opening_balance", at, accounts),
        FileRow::Line(line) => (*line).into(),
        FileRow::Closing(at, accounts) => balance("closing_balance", Some(at), accounts),
    }
}

/// `{"data": {…}, "next_cursor": …}`.
#[derive(Serialize, ToSchema)]
struct StatementPage {
    data: StatementView,
    next_cursor: Option<String>,
}

/// The ledger of one enrollment in one currency, line by line.
#[utoipa::path(
    get, path = "/v1/affiliate/me/statement",
    operation_id = "getOwnStatement", tag = "affiliate",
    params(StatementQuery, WindowQuery, PageQuery),
    responses((status = 200, description = "A page of lines, or the file.",
        content((StatementPage = "application/json"), (String = "text/csv"))))
)]
async fn statement(
    State(app): State<App>,
    by: Principal,
    params: Params,
    page: Page<Key>,
) -> Result<Response, ApiError> {
    let range = range(&params, params.window(app.now())?)?;
    match params.get("format") {
        None | Some("json") => Ok(Json(as_json(&app, &by, range, &page).await?).into_response()),
        Some("csv") => {
            let name = format!("statement-{}-{}", range.enrollment, range.currency);
            file(&name, Format::Csv, affiliate::statement_file(&app, &by, range).await?, file_line).await
        }
        Some(_) => Err(refuse("INVALID_FORMAT", "format", "format must be json or csv")),
    }
}

async fn as_json(
    app: &App,
    by: &Principal,
    range: Range,
    page: &Page<Key>,
) -> Result<StatementPage, ApiError> {
    let found = affiliate::statement(app, by, &range, page.after(), page.fetch()).await?;
    let opening = found.opening;
    let lines = page.listing(found.lines, Line::key, |line| line);
    let closing = lines.data.last().map_or(opening, |line| line.after);
    let from = range.window.from;
    Ok(StatementPage {
        data: StatementView {
            program_id: found.program_id,
            enrollment_id: range.enrollment,
            currency: range.currency,
            from: Some(from).filter(|from| *from != Window::ALWAYS.from),
            to: range.window.to,
            opening: AccountsView::of(opening),
            lines: lines.data.into_iter().map(Into::into).collect(),
            closing: AccountsView::of(closing),
        },
        next_cursor: lines.next_cursor,
    })
}

fn range(params: &Params, window: Window) -> Result<Range, ApiError> {
    let enrollment = part(params)?.enrollment.ok_or_else(|| {
        refuse("MISSING_ENROLLMENT_ID", "enrollment_id", "a statement is about one enrollment: name it")
    })?;
    let currency = params.currency()?.ok_or_else(|| {
        refuse("MISSING_CURRENCY", "currency", "a statement is in one currency: name it, such as usd")
    })?;
    Ok(Range { enrollment, currency, window })
}
