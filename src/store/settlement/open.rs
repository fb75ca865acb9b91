//! What a settlement reads: the enrollments whose turn it is, what is open of theirs, and who they are.
//!
//! Every read takes the same [`Reach`], so that what is counted, locked and claimed is the same set.

use std::collections::BTreeSet;

use sqlx::FromRow;

use crate::{
    domain::{
        ids::{CommissionId, EnrollmentId, LotId, OrganizationId, ProgramId, SaleId},
        money::Currency,
        time::Timestamp,
    },
    for_update,
    store::{
        Conn, Sql, StoreError, Tx,
        row::At,
        sales::{corrupt, id_list},
    },
};

/// What a settlement can take.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Of which program.
    pub program_id: &'a ProgramId,
    /// In which currency; none: in all.
    pub currency: Option<Currency>,
    /// Lots made later are left out, unless they take something back: a debt is never overlooked.
    pub as_of: Timestamp,
    /// Real money or a test; the other kind is left out.
    pub livemode: bool,
}

/// Enrollments whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Those with open lots, in order of id.
    pub with_lots: Vec<EnrollmentId>,
    /// The last enrollment that had its turn, with or without lots; none when there was none left.
    pub last: Option<EnrollmentId>,
    /// Whether there may be more after it.
    pub has_more: bool,
}

/// The next enrollments of the program after `after`, at most `enrollments_max` and with at most `lots_max`
/// open lots together; the first that has any is taken whole however many it has.
pub async fn next_batch(
    conn: &mut Conn,
    reach: &Reach<'_>,
    after: Option<&EnrollmentId>,
    enrollments_max: i64,
    lots_max: i64,
) -> Result<Batch, StoreError> {
    // Served by `enrollment_by_program`, and each count by `lot_unclaimed`.
    const SQL: &str = "SELECT e.id, (SELECT COUNT(*) FROM lot l
                WHERE l.enrollment_id = e.id AND l.payout_id IS NULL AND ($3 IS NULL OR l.currency = $3)
                    AND (l.created_at_us <= $4 OR l.amount_minor < 0)) AS lots
        FROM enrollment e WHERE e.program_id = $1 AND e.id > $2 ORDER BY e.id LIMIT $5";
    let rows: Vec<(String, i64)> = conn
        .q(SQL)
        .bind(reach.program_id.as_str())
        .bind(after.map_or("", EnrollmentId::as_str))
        .bind(reach.currency.as_ref().map(Currency::as_str))
        .bind(reach.as_of.as_micros())
        .bind(enrollments_max)
        .all()
        .await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == enrollments_max);
    let mut batch = Batch { has_more: is_full, ..Batch::default() };
    let mut taken = 0_i64;
    for (id, lots) in rows {
        let together = taken.saturating_add(lots);
        if taken > 0 && together > lots_max {
            batch.has_more = true;
            break;
        }
        taken = together;
        let id: EnrollmentId = At { table: "enrollment", id: &id }.read("id", &id)?;
        if lots > 0 {
            batch.with_lots.push(id.clone());
        }
        batch.last = Some(id);
    }
    Ok(batch)
}

fn list(enrollments: &[EnrollmentId]) -> String {
    id_list(enrollments.iter().map(EnrollmentId::as_str))
}

/// Keeps other settlements from these enrollments until the transaction ends. The fold does not wait for
/// this, and this not for the fold.
pub async fn lock_enrollments(tx: &mut Tx, enrollments: &[EnrollmentId]) -> Result<(), StoreError> {
    const SQL: Sql = for_update!(
        "SELECT id FROM enrollment WHERE id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY id"
    );
    tx.q(SQL).bind(list(enrollments)).scalars::<String>().await?;
    Ok(())
}

/// The sales behind the open lots of these enrollments.
pub async fn list_sales(
    conn: &mut Conn,
    reach: &Reach<'_>,
    enrollments: &[EnrollmentId],
) -> Result<BTreeSet<SaleId>, StoreError> {
    const SQL: &str = "SELECT DISTINCT c.sale_id
        FROM json_each($1) k
            JOIN lot l ON l.enrollment_id = k.value->>'id' AND l.payout_id IS NULL
            JOIN commission c ON c.id = l.commission_id
        WHERE ($2 IS NULL OR l.currency = $2) AND (l.created_at_us <= $3 OR l.amount_minor < 0)
            AND (c.claimed OR c.state = 'payable' OR EXISTS (SELECT 1 FROM lot h
                WHERE h.commission_id = c.id AND h.payout_id IS NOT NULL))";
    let ids: Vec<String> = conn
        .q(SQL)
        .bind(list(enrollments))
        .bind(reach.currency.as_ref().map(Currency::as_str))
        .bind(reach.as_of.as_micros())
        .scalars()
        .await?;
    ids.iter().map(|id| SaleId::parse(id).map_err(|_| corrupt("commission", "sale_id", id))).collect()
}

/// A lot that a payout may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenLot {
    /// Id.
    pub id: LotId,
    /// Whose.
    pub enrollment_id: EnrollmentId,
    /// Currency of the amount.
    pub currency: Currency,
    /// Minor units, signed.
    pub amount: i64,
    /// What it is a part of; none for cash that came back.
    pub part_of: Option<Part>,
}

/// The commission that a lot is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The commission.
    pub commission_id: CommissionId,
    /// Its sale.
    pub sale_id: SaleId,
    /// Whether a payout holds, has paid or has netted another part of it.
    pub claimed: bool,
}

/// The open lots of these enrollments, in order of enrollment, currency and id. Call it after the sales are
/// locked, in a statement of its own, so that it sees what others have committed (`rulings.md` 3).
///
/// Lots of commissions that are not payable and of which no payout holds a part are left out: they cancel
/// each other out, since nothing of such a commission is on the payable side. Were they claimed, a
/// commission that comes back to life would be frozen in a payout that never paid it. Where a payout holds a
/// part, the open ones need not cancel out: a debt of the commission may have been netted by a payout of
/// others, so they are owed whatever stops the commission.
///
/// Lots of the other mode than the reach's are left out: those of a commission have the mode of its sale,
/// cash that came back that of its payout.
pub async fn list_lots(
    conn: &mut Conn,
    reach: &Reach<'_>,
    enrollments: &[EnrollmentId],
) -> Result<Vec<OpenLot>, StoreError> {
    // Served by `lot_unclaimed` and `lot_by_commission`.
    const SQL: &str = "SELECT l.id, l.enrollment_id, l.currency, l.amount_minor, l.commission_id, c.sale_id,
            CASE WHEN c.id IS NULL THEN NULL ELSE c.claimed OR EXISTS (SELECT 1 FROM lot h
                WHERE h.commission_id = c.id AND h.payout_id IS NOT NULL) END AS claimed,
            s.realm, p.livemode
        FROM json_each($1) k
            JOIN lot l ON l.enrollment_id = k.value->>'id' AND l.payout_id IS NULL
            LEFT JOIN commission c ON c.id = l.commission_id
            LEFT JOIN sale s ON s.id = c.sale_id
            LEFT JOIN entry ON l.commission_id IS NULL AND entry.id = l.entry_id
            LEFT JOIN payout p ON p.id = entry.payout_id
        WHERE ($2 IS NULL OR l.currency = $2) AND (l.created_at_us <= $3 OR l.amount_minor < 0)
            AND (c.id IS NULL OR c.claimed OR c.state = 'payable' OR EXISTS (SELECT 1 FROM lot h
                WHERE h.commission_id = c.id AND h.payout_id IS NOT NULL))
        ORDER BY l.enrollment_id, l.currency, l.id";
    #[derive(FromRow)]
    struct Row {
        id: String,
        enrollment_id: String,
        currency: String,
        amount_minor: i64,
        commission_id: Option<String>,
        sale_id: Option<String>,
        claimed: Option<bool>,
        realm: Option<String>,
        livemode: Option<bool>,
    }

    impl Row {
        /// The second part of a realm is the mode, such as `stripe/test/acct_1`.
        fn is_live(&self) -> bool {
            let of_sale = self.realm.as_ref().map(|realm| realm.split('/').nth(1) == Some("live"));
            of_sale.or(self.livemode).unwrap_or(false)
        }
    }
    let rows: Vec<Row> = conn
        .q(SQL)
        .bind(list(enrollments))
        .bind(reach.currency.as_ref().map(Currency::as_str))
        .bind(reach.as_of.as_micros())
        .all()
        .await?;
    rows.into_iter()
        .filter(|row| row.is_live() == reach.livemode)
        .map(|row| {
            let at = At { table: "lot", id: &row.id };
            let part_of = match (&row.commission_id, &row.sale_id, row.claimed) {
                (None, None, None) => None,
                (Some(commission), Some(sale), Some(claimed)) => Some(Part {
                    commission_id: at.read("commission_id", commission)?,
                    sale_id: at.read("sale_id", sale)?,
                    claimed,
                }),
                _ => return Err(at.corrupt("commission_id")),
            };
            Ok(OpenLot {
                id: at.read("id", &row.id)?,
                enrollment_id: at.read("enrollment_id", &row.enrollment_id)?,
                currency: at.read("currency", &row.currency)?,
                amount: row.amount_minor,
                part_of,
            })
        })
        .collect()
}

/// Who is to be paid, and what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payee {
    /// The enrollment.
    pub enrollment_id: EnrollmentId,
    /// The affiliate.
    pub organization_id: OrganizationId,
    /// Whether its payouts are stopped.
    pub held: bool,
    /// Whether an earlier payout may or may not have been executed.
    pub has_unknown: bool,
    /// The account at the provider that it named.
    pub account_id: Option<String>,
}

/// The payees behind these enrollments, in order of id.
pub async fn list_payees(
    conn: &mut Conn,
    provider: &str,
    enrollments: &[EnrollmentId],
) -> Result<Vec<Payee>, StoreError> {
    // Served by `payout_hold_open` and `payout_unknown`.
    const SQL: &str = "SELECT e.id, e.organization_id, a.account_id,
            EXISTS (SELECT 1 FROM payout_hold h WHERE h.enrollment_id = e.id AND h.lifted_at_us IS NULL)
                AS held,
            EXISTS (SELECT 1 FROM payout p WHERE p.enrollment_id = e.id AND p.state = 'unknown')
                AS has_unknown
        FROM enrollment e
            LEFT JOIN payout_account a ON a.organization_id = e.organization_id AND a.provider = $2
        WHERE e.id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY e.id";
    #[derive(FromRow)]
    struct Row {
        id: String,
        organization_id: String,
        account_id: Option<String>,
        held: bool,
        has_unknown: bool,
    }
    let rows: Vec<Row> = conn.q(SQL).bind(list(enrollments)).bind(provider).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "enrollment", id: &row.id };
            Ok(Payee {
                enrollment_id: at.read("id", &row.id)?,
                organization_id: at.read("organization_id", &row.organization_id)?,
                held: row.held,
                has_unknown: row.has_unknown,
                account_id: row.account_id,
            })
        })
        .collect()
}
