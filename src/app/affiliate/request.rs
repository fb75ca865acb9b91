//! What an affiliate would be paid if its programs were settled now, and what stands against it (seed S0,
//! `my_payout_request`). It answers whether payouts are enabled or not, and moves nothing.

use std::collections::BTreeMap;

use super::{App, Part, Principal, Refusal, affiliate_views, own_side};
use crate::{
    app::{
        organizations::PAYOUT_PROVIDER,
        settle::{self, PaidLine, SkippedLine},
    },
    domain::{
        book::Realm,
        ids::{EnrollmentId, ProgramId},
        money::Currency,
        payout::{PayoutSchedule, Skip, Split},
    },
    store::{Conn, StoreError, holds, organizations, programs, transfers},
};

/// Balances that one answer looks at.
const BALANCES_MAX: i64 = 500;

/// What an affiliate is owed and what is ready for it to be paid.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Whether payouts are enabled on this node.
    pub enabled: bool,
    /// Whether somebody has paused all payouts.
    pub paused: bool,
    /// Where the affiliate is paid to; none when it has named nothing.
    pub account: Option<PayoutAccount>,
    /// What is owed, by enrollment and currency.
    pub lines: Vec<PreviewLine>,
}

/// Where an affiliate is paid to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutAccount {
    /// Who moves the money.
    pub provider: &'static str,
    /// The account there.
    pub account_id: String,
    /// Whether it can be paid, as far as the provider told; none when it told nothing, which stops nobody.
    pub is_ready: Option<bool>,
}

/// What settling one enrollment now would come to in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewLine {
    /// The enrollment.
    pub enrollment_id: EnrollmentId,
    /// Who pays.
    pub program_id: ProgramId,
    /// Currency of the amounts.
    pub currency: Currency,
    /// What is owed, minor units; negative is debt.
    pub due: i64,
    /// The smallest amount that the program pays out, minor units; none: it pays nothing in this currency.
    pub minimum: Option<i64>,
    /// When the program is settled by itself.
    pub schedule: Option<PayoutSchedule>,
    /// How the amount would be split; none when nothing would be paid.
    pub split: Option<Split>,
    /// Why nothing would be paid.
    pub skip: Option<Skip>,
}

/// What the affiliate would be paid now.
///
/// # Errors
/// [`Refusal::Forbidden`] for a key of no organization.
pub async fn preview(app: &App, by: &Principal, part: &Part) -> Result<Preview, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    let balances = affiliate_views::list_balances(&mut conn, &scope, part, None, BALANCES_MAX).await?;
    let mut by_enrollment: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for row in balances {
        by_enrollment.entry((row.program_id, row.enrollment_id)).or_default().push(row.currency);
    }
    let mut lines = Vec::new();
    for ((program, enrollment), currencies) in by_enrollment {
        lines.extend(of_enrollment(app, &mut conn, &program, &enrollment, &currencies).await?);
    }
    let account = match by.organization_id() {
        Some(organization) => {
            organizations::find_payout_account(&mut conn, organization, PAYOUT_PROVIDER).await?
        }
        None => None,
    };
    let account = match account {
        Some(account) => Some(PayoutAccount {
            provider: PAYOUT_PROVIDER,
            is_ready: is_ready(app, &mut conn, &account.account_id).await?,
            account_id: account.account_id,
        }),
        None => None,
    };
    let paused = holds::is_paused(&mut conn).await?;
    Ok(Preview { enabled: app.config.payouts_live, paused, account, lines })
}

async fn is_ready(app: &App, conn: &mut Conn, account: &str) -> Result<Option<bool>, StoreError> {
    let realm = Realm::new(PAYOUT_PROVIDER, app.config.livemode, "");
    Ok(transfers::accounts_ready(conn, &realm, &[account]).await?.get(account).copied())
}

/// The lines of one enrollment: what a settlement would make of it, and nothing due where it would not even
/// mention a currency.
async fn of_enrollment(
    app: &App,
    conn: &mut Conn,
    program: &str,
    enrollment: &str,
    currencies: &[String],
) -> Result<Vec<PreviewLine>, Refusal> {
    let corrupt = |column| StoreError::Corrupt { table: "balance", column, id: enrollment.to_owned() };
    let program_id = ProgramId::parse(program).map_err(|_| corrupt("program_id"))?;
    let enrollment_id = EnrollmentId::parse(enrollment).map_err(|_| corrupt("owner_id"))?;
    let program = programs::find(conn, &program_id).await?.ok_or(Refusal::NotFound)?;
    let settlement = settle::plan_one(app, conn, &program, &enrollment_id).await?;
    let mut lines = Vec::new();
    for text in currencies {
        let currency = Currency::parse(text).map_err(|_| corrupt("currency"))?;
        let paid = settlement.payouts.iter().find(|line: &&PaidLine| line.currency == currency);
        let skipped = settlement.skipped.iter().find(|line: &&SkippedLine| line.currency == currency);
        let (due, split, skip) = match (paid, skipped) {
            (Some(paid), _) => (paid.split.due, Some(paid.split), None),
            (None, Some(skipped)) => (skipped.due, None, Some(skipped.reason)),
            (None, None) => (0, None, Some(Skip::NothingDue)),
        };
        lines.push(PreviewLine {
            enrollment_id: enrollment_id.clone(),
            program_id: program_id.clone(),
            currency,
            due,
            minimum: program.min_payout.get(&currency).copied(),
            schedule: program.payout_schedule,
            split,
            skip,
        });
    }
    Ok(lines)
}
