//! Proofs over the whole database: each query returns the rows that break a rule, so an empty answer is
//! the proof. Reading only; which rule is how bad is decided in `app::doctor`.
//!
//! The queries recompute from the lowest rows (postings, lots, facts) and compare with what is kept
//! beside them. They are set-based, so a proof is a few scans, whatever the size of the books.

mod counters;
mod payouts;

pub use payouts::list_stuck_runs;
use sqlx::FromRow;

use super::{Conn, Db, StoreError};
use crate::domain::{
    ids::{CommissionId, EnrollmentId, PayoutId, ProgramId},
    ledger::{About, Account, Entry, EntryKind, LedgerError, Owner, Posting, Side, Subject},
    money::Currency,
    time::Timestamp,
};

/// Rows shown per broken rule at most: enough to see the pattern, and a bound on the answer when
/// everything is broken.
const SHOWN_MAX: i64 = 100;

/// A row that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Broken {
    /// The id of the row, or its key.
    pub object: String,
    /// What the rule compares: the first number.
    pub left_minor: i64,
    /// The number it should equal.
    pub right_minor: i64,
}

/// A rule that SQL can check, and the query that finds what breaks it.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Stable name of the rule.
    pub invariant: &'static str,
    /// What must be equal, in words: `left` and `right` of [`Broken`].
    pub left: &'static str,
    /// The other side.
    pub right: &'static str,
    sql: &'static str,
}

impl Proof {
    /// The rows that break the rule, at most a hundred.
    pub async fn run(&self, conn: &mut Conn) -> Result<Vec<Broken>, StoreError> {
        conn.q(self.sql).bind(SHOWN_MAX).all().await
    }
}

/// Every rule that is checked by one query.
pub fn proofs() -> impl Iterator<Item = &'static Proof> {
    PROOFS.iter().chain(payouts::PROOFS).chain(counters::PROOFS)
}

/// Rules of sales, commissions, lots and the ledger.
const PROOFS: &[Proof] = &[
    Proof {
        invariant: "entry_balanced",
        left: "debits",
        right: "credits",
        sql: "SELECT entry.id AS object, CAST(COALESCE(SUM(CASE WHEN side = 'debit' THEN amount_minor END), 0) AS BIGINT) AS left_minor,
                CAST(COALESCE(SUM(CASE WHEN side = 'credit' THEN amount_minor END), 0) AS BIGINT) AS right_minor
            FROM entry LEFT JOIN posting ON posting.entry_id = entry.id
            GROUP BY entry.id
            HAVING COALESCE(SUM(CASE WHEN side = 'debit' THEN amount_minor END), 0)
                    <> COALESCE(SUM(CASE WHEN side = 'credit' THEN amount_minor END), 0)
                OR COUNT(posting.entry_id) = 0
            ORDER BY entry.id LIMIT $1",
    },
    Proof {
        invariant: "balance_is_sum_of_postings",
        left: "kept balance (credit - debit)",
        right: "sum of the postings",
        // Both sides go through one GROUP BY, so a balance without postings shows as well as postings
        // without a balance.
        sql: "SELECT owner_id || ' ' || account || ' ' || currency AS object,
                CAST(SUM(kept_credit - kept_debit) AS BIGINT) AS left_minor,
                CAST(SUM(posted_credit - posted_debit) AS BIGINT) AS right_minor
            FROM (
                SELECT owner_id, account, currency, debit_minor AS kept_debit, credit_minor AS kept_credit,
                    0 AS posted_debit, 0 AS posted_credit
                FROM balance
                UNION ALL
                SELECT posting.owner_id, posting.account, entry.currency, 0, 0,
                    CASE WHEN side = 'debit' THEN amount_minor ELSE 0 END,
                    CASE WHEN side = 'credit' THEN amount_minor ELSE 0 END
                FROM posting JOIN entry ON entry.id = posting.entry_id
            ) AS line
            GROUP BY owner_id, account, currency
            HAVING SUM(kept_debit) <> SUM(posted_debit) OR SUM(kept_credit) <> SUM(posted_credit)
            ORDER BY owner_id, account, currency LIMIT $1",
    },
    Proof {
        invariant: "unclaimed_lots_are_payable",
        left: "unclaimed lots",
        right: "payable balance",
        sql: "SELECT owner_id || ' ' || currency AS object, CAST(SUM(lots) AS BIGINT) AS left_minor,
                CAST(SUM(payable) AS BIGINT) AS right_minor
            FROM (
                SELECT enrollment_id AS owner_id, currency, amount_minor AS lots, 0 AS payable
                FROM lot WHERE payout_id IS NULL
                UNION ALL
                SELECT owner_id, currency, 0, credit_minor - debit_minor
                FROM balance WHERE account = 'payable'
            ) AS line
            GROUP BY owner_id, currency HAVING SUM(lots) <> SUM(payable)
            ORDER BY owner_id, currency LIMIT $1",
    },
    Proof {
        invariant: "lots_follow_entries",
        left: "lots of the entry",
        right: "what the entry posts to payable",
        sql: "SELECT entry_id AS object, CAST(SUM(lots) AS BIGINT) AS left_minor,
                CAST(SUM(payable) AS BIGINT) AS right_minor
            FROM (
                SELECT entry_id, amount_minor AS lots, 0 AS payable FROM lot
                UNION ALL
                SELECT entry_id, 0, CASE WHEN side = 'credit' THEN amount_minor ELSE -amount_minor END
                FROM posting JOIN entry ON entry.id = posting.entry_id
                WHERE account = 'payable' AND entry.kind NOT IN ('payout_reserve', 'payout_release')
            ) AS line
            GROUP BY entry_id HAVING SUM(lots) <> SUM(payable)
            ORDER BY entry_id LIMIT $1",
    },
    Proof {
        invariant: "commission_adds_up",
        left: "earned - clawed",
        right: "held + released",
        sql: "SELECT id AS object, earned_minor - clawed_minor AS left_minor,
                held_minor + released_minor AS right_minor
            FROM commission
            WHERE earned_minor - clawed_minor <> held_minor + released_minor
            ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "commission_held_is_posted",
        left: "held",
        right: "postings to held",
        sql: "SELECT id AS object, CAST(SUM(stated) AS BIGINT) AS left_minor,
                CAST(SUM(posted) AS BIGINT) AS right_minor
            FROM (
                SELECT id, held_minor AS stated, 0 AS posted FROM commission
                UNION ALL
                SELECT entry.commission_id, 0, CASE WHEN side = 'credit' THEN amount_minor ELSE -amount_minor END
                FROM posting JOIN entry ON entry.id = posting.entry_id
                WHERE account = 'held' AND entry.commission_id IS NOT NULL
            ) AS line
            GROUP BY id HAVING SUM(stated) <> SUM(posted) ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "commission_released_is_posted",
        left: "released",
        right: "postings to payable",
        sql: "SELECT id AS object, CAST(SUM(stated) AS BIGINT) AS left_minor,
                CAST(SUM(posted) AS BIGINT) AS right_minor
            FROM (
                SELECT id, released_minor AS stated, 0 AS posted FROM commission
                UNION ALL
                SELECT entry.commission_id, 0, CASE WHEN side = 'credit' THEN amount_minor ELSE -amount_minor END
                FROM posting JOIN entry ON entry.id = posting.entry_id
                WHERE account = 'payable' AND entry.commission_id IS NOT NULL
            ) AS line
            GROUP BY id HAVING SUM(stated) <> SUM(posted) ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "commission_earned_is_posted",
        left: "earned",
        right: "accruals and adjustments",
        sql: "SELECT id AS object, CAST(SUM(stated) AS BIGINT) AS left_minor,
                CAST(SUM(posted) AS BIGINT) AS right_minor
            FROM (
                SELECT id, earned_minor AS stated, 0 AS posted FROM commission
                UNION ALL
                SELECT entry.commission_id, 0, CASE WHEN side = 'debit' THEN amount_minor ELSE -amount_minor END
                FROM posting JOIN entry ON entry.id = posting.entry_id
                WHERE account = 'expense' AND entry.kind IN ('accrual', 'adjustment')
            ) AS line
            GROUP BY id HAVING SUM(stated) <> SUM(posted) ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "commission_clawed_is_posted",
        left: "clawed",
        right: "clawbacks less reinstatements",
        sql: "SELECT id AS object, CAST(SUM(stated) AS BIGINT) AS left_minor,
                CAST(SUM(posted) AS BIGINT) AS right_minor
            FROM (
                SELECT id, clawed_minor AS stated, 0 AS posted FROM commission
                UNION ALL
                SELECT entry.commission_id, 0, CASE WHEN side = 'credit' THEN amount_minor ELSE -amount_minor END
                FROM posting JOIN entry ON entry.id = posting.entry_id
                WHERE account = 'expense' AND entry.kind IN ('clawback', 'reinstatement')
            ) AS line
            GROUP BY id HAVING SUM(stated) <> SUM(posted) ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "revisions_without_gaps",
        left: "posted revision",
        right: "entries of the commission",
        sql: "SELECT commission.id AS object, commission.revision AS left_minor,
                CAST(COUNT(entry.id) AS BIGINT) AS right_minor
            FROM commission LEFT JOIN entry ON entry.commission_id = commission.id
            GROUP BY commission.id, commission.revision
            HAVING commission.revision <> COUNT(entry.id)
                OR COALESCE(MIN(entry.revision), 1) <> 1
                OR COALESCE(MAX(entry.revision), 0) <> COUNT(entry.id)
            ORDER BY commission.id LIMIT $1",
    },
    Proof {
        invariant: "state_fits_amounts",
        left: "held",
        right: "released",
        // `semantics.md`, "One state machine". What a payout has claimed stays on the payable side
        // whatever happens to it, so only unclaimed commissions are bound to the held side.
        sql: "SELECT id AS object, held_minor AS left_minor, released_minor AS right_minor
            FROM commission
            WHERE (state IN ('payable', 'in_payout', 'paid') AND held_minor <> 0)
                OR (claimed AND held_minor <> 0)
                OR (NOT claimed AND state IN ('held', 'flagged') AND released_minor <> 0)
                OR (NOT claimed AND state IN ('awaiting_review', 'denied', 'reversed')
                    AND (held_minor <> 0 OR released_minor <> 0))
                OR earned_minor < 0 OR clawed_minor < 0 OR clawed_minor > earned_minor
            ORDER BY id LIMIT $1",
    },
    Proof {
        invariant: "held_balance_is_sum_of_commissions",
        left: "held balance of the enrollment",
        right: "held by its commissions",
        sql: "SELECT owner_id || ' ' || currency AS object, CAST(SUM(kept) AS BIGINT) AS left_minor,
                CAST(SUM(stated) AS BIGINT) AS right_minor
            FROM (
                SELECT owner_id, currency, credit_minor - debit_minor AS kept, 0 AS stated
                FROM balance WHERE account = 'held'
                UNION ALL
                SELECT enrollment_id, currency, 0, held_minor FROM commission
            ) AS line
            GROUP BY owner_id, currency HAVING SUM(kept) <> SUM(stated)
            ORDER BY owner_id, currency LIMIT $1",
    },
    Proof {
        invariant: "merged_sale_is_empty",
        left: "aliases that still lead to it",
        right: "net commission left on it",
        sql: "SELECT sale.id AS object,
                (SELECT COUNT(*) FROM sale_alias WHERE sale_alias.sale_id = sale.id) AS left_minor,
                (SELECT CAST(COALESCE(SUM(earned_minor - clawed_minor), 0) AS BIGINT)
                    FROM commission WHERE commission.sale_id = sale.id) AS right_minor
            FROM sale
            WHERE merged_into IS NOT NULL
                AND (EXISTS (SELECT 1 FROM sale_alias WHERE sale_alias.sale_id = sale.id)
                    OR EXISTS (SELECT 1 FROM commission WHERE commission.sale_id = sale.id
                        AND earned_minor <> clawed_minor AND NOT claimed))
            ORDER BY sale.id LIMIT $1",
    },
    Proof {
        invariant: "one_intent_per_provider_object",
        left: "intents that it has settled",
        right: "intents that there should be",
        // A transfer that counts for two payouts has paid one of them with nothing.
        sql: "SELECT provider || ' ' || object_id AS object, CAST(COUNT(*) AS BIGINT) AS left_minor,
                CAST(1 AS BIGINT) AS right_minor
            FROM intent WHERE object_id IS NOT NULL GROUP BY provider, livemode, object_id
            HAVING COUNT(*) > 1 ORDER BY 1 LIMIT $1",
    },
    Proof {
        invariant: "one_event_per_provider_id",
        left: "rows",
        right: "rows there should be",
        // The unique keys hold these; a damaged index or a restored copy may not.
        sql: "SELECT provider || ' ' || endpoint_id || ' ' || provider_event_id AS object,
                CAST(COUNT(*) AS BIGINT) AS left_minor, CAST(1 AS BIGINT) AS right_minor
            FROM inbox GROUP BY provider, endpoint_id, account, livemode, provider_event_id
            HAVING COUNT(*) > 1 ORDER BY 1 LIMIT $1",
    },
    Proof {
        invariant: "one_commission_per_sale_and_enrollment",
        left: "rows",
        right: "rows there should be",
        sql: "SELECT sale_id || ' ' || enrollment_id AS object, CAST(COUNT(*) AS BIGINT) AS left_minor,
                CAST(1 AS BIGINT) AS right_minor
            FROM commission GROUP BY sale_id, enrollment_id, level
            HAVING COUNT(*) > 1 ORDER BY 1 LIMIT $1",
    },
    Proof {
        invariant: "one_sale_per_provider_object",
        left: "rows",
        right: "rows there should be",
        sql: "SELECT kind || ' ' || object_id AS object, CAST(COUNT(*) AS BIGINT) AS left_minor,
                CAST(1 AS BIGINT) AS right_minor
            FROM sale_alias GROUP BY project_id, realm, kind, object_id
            HAVING COUNT(*) > 1 ORDER BY 1 LIMIT $1",
    },
];

#[derive(FromRow)]
struct EntryRow {
    id: String,
    commission_id: Option<String>,
    payout_id: Option<String>,
    revision: i64,
    kind: String,
    enrollment_id: String,
    program_id: String,
    currency: String,
    content_hash: Vec<u8>,
}

#[derive(FromRow)]
struct PostingRow {
    entry_id: String,
    owner_id: String,
    account: String,
    side: String,
    amount_minor: i64,
}

/// Some entries in order of their ids, and which of them do not say what they said when they were posted.
#[derive(Clone, Debug, Default)]
pub struct Hashed {
    /// The last id of the page; `None` at the end.
    pub last: Option<String>,
    /// Ids of entries whose content differs from its hash.
    pub changed: Vec<String>,
}

/// Checks the content hash of the next entries after an id (`rulings.md` 25).
pub async fn check_hashes(conn: &mut Conn, after: &str, limit: i64) -> Result<Hashed, StoreError> {
    const ENTRIES: &str =
        "SELECT id, commission_id, payout_id, revision, kind, enrollment_id, program_id, currency,
            content_hash
        FROM entry WHERE id > $1 ORDER BY id LIMIT $2";
    const POSTINGS: &str = "SELECT entry_id, owner_id, account, side, amount_minor
        FROM posting WHERE entry_id > $1 AND entry_id <= $2 ORDER BY entry_id, line";
    let entries: Vec<EntryRow> = conn.q(ENTRIES).bind(after).bind(limit).all().await?;
    let Some(last) = entries.last().map(|entry| entry.id.clone()) else { return Ok(Hashed::default()) };
    let postings: Vec<PostingRow> = conn.q(POSTINGS).bind(after).bind(last.as_str()).all().await?;
    let mut changed = Vec::new();
    let mut rest = postings.as_slice();
    for entry in entries {
        // Both lists are in order of the entry, so the lines of this one come first.
        let lines = rest.iter().take_while(|line| line.entry_id == entry.id).count();
        let (own, others) = rest.split_at(lines);
        rest = others;
        let recomputed = rebuild(&entry, own).map(|rebuilt| rebuilt.content_hash());
        if recomputed.is_none_or(|hash| hash.as_slice() != entry.content_hash) {
            changed.push(entry.id);
        }
    }
    Ok(Hashed { last: Some(last), changed })
}

/// The entry as the rows state it. `None` when they cannot be an entry, which no entry that was posted
/// ever was.
fn rebuild(row: &EntryRow, lines: &[PostingRow]) -> Option<Entry> {
    let about = match (&row.commission_id, &row.payout_id) {
        (Some(id), None) => About::Commission(CommissionId::parse(id).ok()?),
        (None, Some(id)) => About::Payout(PayoutId::parse(id).ok()?),
        (None, None) | (Some(_), Some(_)) => return None,
    };
    let (enrollment_id, program_id, currency) = (
        EnrollmentId::parse(&row.enrollment_id).ok()?,
        ProgramId::parse(&row.program_id).ok()?,
        Currency::parse(&row.currency).ok()?,
    );
    let subject = Subject { about, enrollment_id: &enrollment_id, program_id: &program_id, currency };
    let lines = lines
        .iter()
        .map(|line| {
            let owner = match EnrollmentId::parse(&line.owner_id) {
                Ok(id) => Owner::Enrollment(id),
                Err(_) => Owner::Program(ProgramId::parse(&line.owner_id).ok()?),
            };
            Some(Posting {
                owner,
                account: Account::parse(&line.account)?,
                side: Side::parse(&line.side)?,
                amount: line.amount_minor,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let entry: Result<Entry, LedgerError> =
        Entry::new(&subject, row.revision, EntryKind::parse(&row.kind)?, lines);
    entry.ok().filter(|entry| entry.id.as_str() == row.id)
}

/// An event that an operator should look at.
#[derive(Clone, Debug, FromRow)]
pub struct EventTrouble {
    /// Its id.
    pub id: String,
    /// Why, as far as it is known.
    pub reason: Option<String>,
    /// How often processing failed.
    pub attempts: i64,
}

/// Events that were due before `bound` and that nobody took, at most a hundred: the processor does not
/// run, or something keeps it from this event (invariant I2 of `reliability.md`).
pub async fn list_stuck_events(conn: &mut Conn, bound: Timestamp) -> Result<Vec<EventTrouble>, StoreError> {
    const SQL: &str = "SELECT id, reason, attempts FROM inbox
        WHERE state = 'received' AND next_attempt_at_us < $1 ORDER BY next_attempt_at_us, id LIMIT $2";
    conn.q(SQL).bind(bound.as_micros()).bind(SHOWN_MAX).all().await
}

/// Sales that were to be folded again before `bound` and were not, at most a hundred, each with the
/// microseconds at which it was asked for.
pub async fn list_stuck_refolds(conn: &mut Conn, bound: Timestamp) -> Result<Vec<(String, i64)>, StoreError> {
    const SQL: &str = "SELECT sale_id, MIN(requested_at_us) FROM refold WHERE requested_at_us < $1
        GROUP BY sale_id ORDER BY 2, 1 LIMIT $2";
    conn.q(SQL).bind(bound.as_micros()).bind(SHOWN_MAX).all().await
}

/// Events that failed for good and wait for a person, at most a hundred.
pub async fn list_parked_events(conn: &mut Conn) -> Result<Vec<EventTrouble>, StoreError> {
    const SQL: &str =
        "SELECT id, reason, attempts FROM inbox WHERE state = 'parked' ORDER BY state, id LIMIT $1";
    conn.q(SQL).bind(SHOWN_MAX).all().await
}

/// A job that an operator should look at.
#[derive(Clone, Debug, FromRow)]
pub struct JobTrouble {
    /// Its id.
    pub id: String,
    /// `transfer` or `charge`.
    pub kind: String,
    /// When it was due, microseconds; of a running job when its lease ended.
    pub due_at_us: i64,
}

/// Jobs that were due before `bound` and that nobody took, at most a hundred: the dispatcher does not run,
/// or something keeps it from them (invariant I15 of `reliability.md`).
pub async fn list_overdue_jobs(conn: &mut Conn, bound: Timestamp) -> Result<Vec<JobTrouble>, StoreError> {
    // Served by `job_due`.
    const SQL: &str = "SELECT id, kind, next_attempt_at_us AS due_at_us FROM job
        WHERE next_attempt_at_us < $1 AND state IN ('available', 'retryable', 'parked', 'unknown')
        ORDER BY next_attempt_at_us, id LIMIT $2";
    conn.q(SQL).bind(bound.as_micros()).bind(SHOWN_MAX).all().await
}

/// Jobs of which the lease ended before `bound` and that nobody took again, at most a hundred.
pub async fn list_abandoned_jobs(conn: &mut Conn, bound: Timestamp) -> Result<Vec<JobTrouble>, StoreError> {
    const SQL: &str = "SELECT id, kind, next_attempt_at_us AS due_at_us FROM job
        WHERE next_attempt_at_us < $1 AND state = 'running'
        ORDER BY next_attempt_at_us, id LIMIT $2";
    conn.q(SQL).bind(bound.as_micros()).bind(SHOWN_MAX).all().await
}

/// Intents of one kind of which nobody knows what became of them.
#[derive(Clone, Debug, FromRow)]
pub struct UnknownIntents {
    /// `transfer` or `charge`.
    pub kind: String,
    /// How many.
    pub count: i64,
    /// When the oldest was made, microseconds.
    pub oldest_us: i64,
}

/// How many intents are unknown, per kind that has any.
pub async fn count_unknown(conn: &mut Conn) -> Result<Vec<UnknownIntents>, StoreError> {
    // Through the jobs, which have an index on the state. A look-up that is under way is not over either.
    const SQL: &str = "SELECT i.kind, CAST(COUNT(*) AS BIGINT) AS count, MIN(i.created_at_us) AS oldest_us
        FROM job j JOIN intent i ON i.id = j.intent_id
        WHERE j.state IN ('unknown', 'running') AND i.state = 'unknown' GROUP BY i.kind ORDER BY i.kind";
    conn.q(SQL).all().await
}

/// How many findings are open, per severity that has any.
pub async fn count_open_findings(conn: &mut Conn) -> Result<Vec<(String, i64)>, StoreError> {
    const SQL: &str = "SELECT severity, CAST(COUNT(*) AS BIGINT) FROM finding WHERE resolved_at_us IS NULL
        GROUP BY severity ORDER BY severity";
    conn.q(SQL).all().await
}

/// How far the kept balances are from zero in total, minor units, added up over currencies: 0 when right.
pub async fn ledger_drift(conn: &mut Conn) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT CAST(COALESCE(SUM(ABS(drift)), 0) AS BIGINT)
        FROM (SELECT SUM(debit_minor) - SUM(credit_minor) AS drift FROM balance GROUP BY currency) AS d";
    let drift: Option<i64> = conn.q(SQL).scalar().await?;
    Ok(drift.unwrap_or_default())
}

/// The version of the database library or server.
pub async fn read_version(db: &Db) -> Result<String, StoreError> {
    let version: Option<String> = db.read().await?.q(db.engine().version_sql()).scalar().await?;
    Ok(version.unwrap_or_default())
}
