//! The books of one enrollment in one currency, line by line: where it stood, every entry that was posted
//! since with its reason, and where it stands.
//!
//! The balance of a statement is what the affiliate is owed and was not paid: held, payable and in transit
//! together. So earning adds to it, a clawback and a payout take from it, and an entry that only moves money
//! from one of the three to another is a line of 0 that shows what moved. A line's balance is the one before
//! plus its amount, always: pages and files carry the running balances along instead of asking again.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Accounts, App, Principal, Refusal, own_side};
use crate::{
    app::{explain::ExplainError, exports::Pages},
    domain::{
        ids::EnrollmentId,
        money::{self, Currency, MoneyError},
        time::Timestamp,
        window::Window,
    },
    store::{
        Conn, StoreError,
        affiliate_views::AffiliateScope,
        statements::{self, StatementKey, StatementRow},
    },
};

/// Lines that a file reads at once.
const PAGE_LINES: i64 = 500;

/// Which books, and when.
#[derive(Clone, Debug)]
pub struct Range {
    /// Whose.
    pub enrollment: EnrollmentId,
    /// In which currency.
    pub currency: Currency,
    /// Entries posted in this window.
    pub window: Window,
}

/// What a page of a statement begins behind: the last line and the accounts as it left them.
pub type Key = (StatementKey, [i64; 4]);

/// A page of a statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The program of the enrollment.
    pub program_id: String,
    /// The accounts before the first line.
    pub opening: Accounts,
    /// The entries, in order.
    pub lines: Vec<Line>,
}

/// One entry of a statement.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was posted.
    pub posted_at: Timestamp,
    /// The entry.
    pub entry_id: String,
    /// What it does.
    pub kind: String,
    /// What made it necessary: types of events, decisions with their reasons, rules.
    pub reason: String,
    /// The commission it is about.
    pub commission_id: Option<String>,
    /// The payout it is about.
    pub payout_id: Option<String>,
    /// What it changed the balance by, minor units.
    pub amount: i64,
    /// What it changed each account by, minor units.
    pub changed: Accounts,
    /// The accounts afterwards, minor units.
    pub after: Accounts,
    /// The balance afterwards, minor units.
    pub balance: i64,
    revision: i64,
}

impl Line {
    /// What the next page begins behind.
    #[must_use]
    pub fn key(&self) -> Key {
        let Accounts { held, payable, in_transit, paid } = self.after;
        let place = (self.posted_at.as_micros(), self.revision, self.entry_id.clone());
        (place, [held, payable, in_transit, paid])
    }
}

impl Accounts {
    /// What is owed and not paid: held, payable and in transit.
    ///
    /// # Errors
    /// [`MoneyError`] when it does not fit 64 bits.
    pub fn owed(&self) -> Result<i64, MoneyError> {
        money::sum([self.held, self.payable, self.in_transit])
    }

    fn plus(&self, other: &Self) -> Result<Self, MoneyError> {
        Ok(Self {
            held: money::add(self.held, other.held)?,
            payable: money::add(self.payable, other.payable)?,
            in_transit: money::add(self.in_transit, other.in_transit)?,
            paid: money::add(self.paid, other.paid)?,
        })
    }
}

/// A page of the statement of one of the affiliate's enrollments.
///
/// # Errors
/// [`Refusal::NotFound`] also for a peer's enrollment.
pub async fn statement(
    app: &App,
    by: &Principal,
    range: &Range,
    after: Option<&Key>,
    limit: i64,
) -> Result<Statement, Refusal> {
    let scope = own_side(by)?;
    let mut conn = app.db.read().await?;
    let found = statements::find_enrollment(&mut conn, &scope, &range.enrollment).await?;
    let program_id = found.ok_or(Refusal::NotFound)?;
    let opening = match after {
        Some((_, [held, payable, in_transit, paid])) => {
            Accounts { held: *held, payable: *payable, in_transit: *in_transit, paid: *paid }
        }
        None => opening(&mut conn, &scope, range).await?,
    };
    let lines = read(&mut conn, &scope, range, after.map(|(place, _)| place), opening, limit).await?;
    Ok(Statement { program_id, opening, lines })
}

async fn opening(conn: &mut Conn, scope: &AffiliateScope, range: &Range) -> Result<Accounts, StoreError> {
    let from = range.window.from.as_micros();
    statements::accounts_before(conn, scope, &range.enrollment, range.currency, from).await
}

async fn read(
    conn: &mut Conn,
    scope: &AffiliateScope,
    range: &Range,
    after: Option<&StatementKey>,
    opening: Accounts,
    limit: i64,
) -> Result<Vec<Line>, Refusal> {
    let Range { enrollment, currency, window } = range;
    let rows = statements::list_entries(conn, scope, enrollment, *currency, *window, after, limit).await?;
    let reasons = reasons(conn, &rows).await?;
    let mut standing = opening;
    let lines = rows.into_iter().zip(reasons).map(|(row, reason)| {
        standing = standing.plus(&row.changed)?;
        Ok(Line {
            posted_at: Timestamp::from_micros(row.created_at_us),
            entry_id: row.id,
            kind: row.kind,
            reason,
            commission_id: row.commission_id,
            payout_id: row.payout_id,
            amount: row.changed.owed()?,
            changed: row.changed,
            after: standing,
            balance: standing.owed()?,
            revision: row.revision,
        })
    });
    lines.collect::<Result<_, MoneyError>>().map_err(|error| ExplainError::from(error).into())
}

/// What made each entry necessary, in words: `refund.created`, `clawback (fraud)`, `due`, `settlement`.
async fn reasons(conn: &mut Conn, rows: &[StatementRow]) -> Result<Vec<String>, StoreError> {
    #[derive(Deserialize)]
    struct Cause {
        kind: String,
        id: String,
    }
    let causes: Vec<Vec<Cause>> =
        rows.iter().map(|row| serde_json::from_str(&row.causes).unwrap_or_default()).collect();
    let told = |cause: &&Cause| cause.kind == "event" || cause.kind == "decision";
    let ids: Vec<String> = causes.iter().flatten().filter(told).map(|cause| cause.id.clone()).collect();
    let known: BTreeMap<String, String> = statements::list_causes(conn, &ids)
        .await?
        .into_iter()
        .map(|row| {
            let words = match row.reason {
                Some(reason) => format!("{} ({reason})", row.what),
                None => row.what,
            };
            (row.id, words)
        })
        .collect();
    let words = |cause: &Cause| match cause.kind.as_str() {
        "time" => Some(rule(&cause.id).to_owned()),
        "call" => Some("provider_answer".to_owned()),
        "run" => Some("settlement".to_owned()),
        "resolution" => Some("resolved_by_people".to_owned()),
        _ => known.get(&cause.id).cloned(),
    };
    let joined = causes.iter().map(|causes| {
        let mut told: Vec<String> = causes.iter().filter_map(words).collect();
        told.dedup();
        told.join(", ")
    });
    Ok(joined.collect())
}

/// A rule of time without who made it hold, such as the owner's key in `canceled by key_…`.
fn rule(cause: &str) -> &str {
    cause.split_once(" by ").map_or(cause, |(rule, _)| rule)
}

/// A row of a statement's file: the lines between the two balances.
#[derive(Clone, Debug)]
pub enum FileRow {
    /// Where it stood; without a time when the window has no start.
    Opening(Option<Timestamp>, Accounts),
    /// An entry.
    Line(Box<Line>),
    /// Where it stands.
    Closing(Timestamp, Accounts),
}

/// A whole statement, a page at a time.
pub struct StatementFile {
    app: App,
    scope: AffiliateScope,
    range: Range,
    standing: Option<Accounts>,
    after: Option<StatementKey>,
    is_over: bool,
}

/// The whole statement of one of the affiliate's enrollments.
///
/// # Errors
/// As [`statement`].
pub async fn statement_file(app: &App, by: &Principal, range: Range) -> Result<StatementFile, Refusal> {
    let scope = own_side(by)?;
    let found = statements::find_enrollment(&mut app.db.read().await?, &scope, &range.enrollment).await?;
    found.ok_or(Refusal::NotFound)?;
    Ok(StatementFile { app: app.clone(), scope, range, standing: None, after: None, is_over: false })
}

impl Pages for StatementFile {
    type Row = FileRow;

    async fn next(&mut self) -> Result<Option<Vec<FileRow>>, Refusal> {
        if self.is_over {
            return Ok(None);
        }
        let mut conn = self.app.db.read().await?;
        let mut rows = Vec::new();
        let standing = if let Some(standing) = self.standing {
            standing
        } else {
            let opening = opening(&mut conn, &self.scope, &self.range).await?;
            let from = self.range.window.from;
            rows.push(FileRow::Opening(Some(from).filter(|from| *from != Window::ALWAYS.from), opening));
            opening
        };
        let after = self.after.as_ref();
        let lines = read(&mut conn, &self.scope, &self.range, after, standing, PAGE_LINES).await?;
        let standing = lines.last().map_or(standing, |line| line.after);
        self.standing = Some(standing);
        self.is_over = !i64::try_from(lines.len()).is_ok_and(|count| count == PAGE_LINES);
        self.after = lines.last().map(|line| line.key().0).or(self.after.take());
        rows.extend(lines.into_iter().map(|line| FileRow::Line(Box::new(line))));
        if self.is_over {
            rows.push(FileRow::Closing(self.range.window.to, standing));
        }
        Ok(Some(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::rule;

    #[test]
    fn who_canceled_is_the_owners_to_know() {
        assert_eq!(rule("canceled by key_0123"), "canceled");
        assert_eq!(rule("due"), "due");
    }
}
