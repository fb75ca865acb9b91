//! What a program came to, and who brought most of it: for its owner alone (seed S0, "Watch it perform").

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, Data, ok};
use crate::{
    app::{
        App,
        analytics::{self, Analytics, CurrencyFigures, Figures, LeaderRow, Rank, Ranking, Statuses},
        keys::Principal,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId},
        money::Currency,
        time::Timestamp,
        window::{self, Days},
    },
    http::{
        error::ApiError,
        params::{DaysQuery, Params, RankQuery, refuse},
        path::Named,
    },
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_program)).routes(routes!(leaderboard))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Analytics)]
struct AnalyticsView {
    program_id: ProgramId,
    from: Timestamp,
    to: Timestamp,
    totals: FiguresView,
    days: Vec<DayView>,
    leaderboard: Vec<LeaderView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnalyticsDay)]
struct DayView {
    /// Such as `2026-01-31`, in UTC.
    #[schema(format = Date)]
    date: String,
    #[serde(flatten)]
    figures: FiguresView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Figures)]
struct FiguresView {
    clicks: i64,
    conversions: i64,
    /// Conversions per click; null without clicks.
    conversion_rate_bps: Option<i64>,
    by_status: StatusesView,
    currencies: Vec<CurrencyView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConversionCounts)]
struct StatusesView {
    pending: i64,
    approved: i64,
    paid: i64,
    rejected: i64,
    clawed_back: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CurrencyFigures)]
struct CurrencyView {
    #[schema(value_type = Currency)]
    currency: String,
    gross_cents: i64,
    refunded_cents: i64,
    disputed_cents: i64,
    /// Refunded and disputed of what was paid; null where nothing was.
    refund_rate_bps: Option<i64>,
    earned_cents: i64,
    clawed_cents: i64,
    net_cents: i64,
    /// Earned per click; null without clicks.
    epc_cents: Option<i64>,
}

impl From<CurrencyFigures> for CurrencyView {
    fn from(figures: CurrencyFigures) -> Self {
        Self {
            currency: figures.currency,
            gross_cents: figures.gross,
            refunded_cents: figures.refunded,
            disputed_cents: figures.disputed,
            refund_rate_bps: figures.refund_rate_bps,
            earned_cents: figures.earned,
            clawed_cents: figures.clawed,
            net_cents: figures.net,
            epc_cents: figures.epc,
        }
    }
}

impl From<Figures> for FiguresView {
    fn from(figures: Figures) -> Self {
        let Statuses { pending, approved, paid, rejected, clawed_back } = figures.statuses;
        Self {
            clicks: figures.clicks,
            conversions: figures.conversions,
            conversion_rate_bps: figures.conversion_rate_bps,
            by_status: StatusesView { pending, approved, paid, rejected, clawed_back },
            currencies: figures.currencies.into_iter().map(Into::into).collect(),
        }
    }
}

/// What a program came to, in all and day by day, and who brought most of it.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/analytics",
    operation_id = "getAnalytics", tag = "analytics",
    params(("program_id" = ProgramId, Path), DaysQuery),
    responses((status = 200, description = "The figures.", body = Data<AnalyticsView>))
)]
async fn of_program(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Answer<Data<AnalyticsView>> {
    let days = params.days(app.now())?;
    let (found, leaders) = analytics::of_program(&app, &by, &program, days).await?;
    let Analytics { days, totals, by_day } = found;
    let shown = |(day, figures): (i64, Figures)| DayView { date: window::date(day), figures: figures.into() };
    ok(AnalyticsView {
        program_id: program,
        from: days.window().from,
        to: days.window().to,
        totals: totals.into(),
        days: by_day.into_iter().map(shown).collect(),
        leaderboard: ranked(leaders, Rank::Conversions, None),
    })
}

#[derive(Serialize, ToSchema)]
#[schema(as = Leaderboard)]
struct LeaderboardView {
    program_id: ProgramId,
    from: Timestamp,
    to: Timestamp,
    #[schema(pattern = "^(earned|net|conversions|clicks)$")]
    by: &'static str,
    currency: Option<Currency>,
    leaders: Vec<LeaderView>,
}

/// Amounts are null where no currency was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = Leader)]
struct LeaderView {
    /// 1, 2, 3, …; equal figures have the same rank.
    rank: usize,
    #[schema(value_type = EnrollmentId)]
    enrollment_id: String,
    #[schema(value_type = OrganizationId)]
    affiliate_org_id: String,
    name: String,
    clicks: i64,
    conversions: i64,
    currency: Option<Currency>,
    earned_cents: Option<i64>,
    clawed_cents: Option<i64>,
    net_cents: Option<i64>,
}

/// The rows with their ranks. They come in order, so the rank is how many were better, and one.
fn ranked(rows: Vec<LeaderRow>, by: Rank, currency: Option<Currency>) -> Vec<LeaderView> {
    let mut last = (0, i64::MAX);
    let shown = rows.into_iter().enumerate().map(|(place, row)| {
        let net = row.earned.saturating_sub(row.clawed);
        let figure = match by {
            Rank::Earned => row.earned,
            Rank::Net => net,
            Rank::Conversions => row.conversions,
            Rank::Clicks => row.clicks,
        };
        if place == 0 || figure != last.1 {
            last = (place + 1, figure);
        }
        LeaderView {
            rank: last.0,
            enrollment_id: row.enrollment_id,
            affiliate_org_id: row.organization_id,
            name: row.name,
            clicks: row.clicks,
            conversions: row.conversions,
            currency,
            earned_cents: currency.map(|_| row.earned),
            clawed_cents: currency.map(|_| row.clawed),
            net_cents: currency.map(|_| net),
        }
    });
    shown.collect()
}

const LEADERS_DEFAULT: i64 = 20;
const LEADERS_MAX: i64 = 100;

/// Who brought most.
#[utoipa::path(
    get, path = "/v1/admin/affiliate/programs/{program_id}/leaderboard",
    operation_id = "getLeaderboard", tag = "analytics",
    params(("program_id" = ProgramId, Path), DaysQuery, RankQuery),
    responses((status = 200, description = "The affiliates, the best first.", body = Data<LeaderboardView>))
)]
async fn leaderboard(
    State(app): State<App>,
    by: Principal,
    Named(program): Named<ProgramId>,
    params: Params,
) -> Answer<Data<LeaderboardView>> {
    let ranking = ranking(&params, params.days(app.now())?)?;
    let rows = analytics::leaders(&app, &by, &program, &ranking).await?;
    let Ranking { days, by, currency, .. } = ranking;
    ok(LeaderboardView {
        program_id: program,
        from: days.window().from,
        to: days.window().to,
        by: by.as_str(),
        currency,
        leaders: ranked(rows, by, currency),
    })
}

fn ranking(params: &Params, days: Days) -> Result<Ranking, ApiError> {
    let by = params
        .get("by")
        .map_or(Some(Rank::Conversions), Rank::parse)
        .ok_or_else(|| refuse("INVALID_BY", "by", "by must be earned, net, conversions or clicks"))?;
    let is_possible = |limit: &i64| (1..=LEADERS_MAX).contains(limit);
    let limit =
        params.get("limit").map_or(Some(LEADERS_DEFAULT), |text| text.parse().ok().filter(is_possible));
    let limit = limit
        .ok_or_else(|| refuse("INVALID_LIMIT", "limit", "limit must be a whole number from 1 to 100"))?;
    Ok(Ranking { days, by, currency: params.currency()?, limit })
}
