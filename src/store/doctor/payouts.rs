//! Proofs over payouts: what they hold, and what of the balances follows from them; and settlements that
//! do not come to an end.

use super::{Proof, SHOWN_MAX};
use crate::{
    domain::time::Timestamp,
    store::{Conn, StoreError},
};

/// Settlements that were begun before `bound` and are not completed, at most a hundred, each with the
/// microseconds at which it began.
pub async fn list_stuck_runs(conn: &mut Conn, bound: Timestamp) -> Result<Vec<(String, i64)>, StoreError> {
    const SQL: &str =
        "SELECT id, created_at_us FROM payout_run WHERE state = 'running' AND created_at_us < $1
        ORDER BY created_at_us, id LIMIT $2";
    conn.q(SQL).bind(bound.as_micros()).bind(SHOWN_MAX).all().await
}

/// Every rule of payouts that is checked by one query.
pub(super) const PROOFS: &[Proof] = &[
    Proof {
        invariant: "payout_is_its_items",
        left: "due",
        right: "sum of its items",
        sql: "SELECT payout.id AS object, payout.due_minor AS left_minor,
                CAST(COALESCE(SUM(payout_item.amount_minor), 0) AS BIGINT) AS right_minor
            FROM payout LEFT JOIN payout_item ON payout_item.payout_id = payout.id
            GROUP BY payout.id, payout.due_minor, payout.fee_minor, payout.send_minor
            HAVING payout.due_minor <> COALESCE(SUM(payout_item.amount_minor), 0)
                OR payout.due_minor <> payout.fee_minor + payout.send_minor
            ORDER BY payout.id LIMIT $1",
    },
    Proof {
        invariant: "lot_in_one_payout",
        left: "payouts that hold or have paid it",
        right: "payouts it names",
        // Invariant I9. The items stay when a payout ends without moving money; the lot then names none.
        sql: "SELECT lot.id AS object, CAST(COUNT(payout.id) AS BIGINT) AS left_minor,
                CAST(CASE WHEN lot.payout_id IS NULL THEN 0 ELSE 1 END AS BIGINT) AS right_minor
            FROM lot
                LEFT JOIN payout_item ON payout_item.lot_id = lot.id
                LEFT JOIN payout ON payout.id = payout_item.payout_id
                    AND payout.state NOT IN ('failed', 'canceled')
            GROUP BY lot.id, lot.payout_id, lot.amount_minor
            HAVING COUNT(payout.id) <> CASE WHEN lot.payout_id IS NULL THEN 0 ELSE 1 END
                OR MIN(payout.id) <> lot.payout_id
                OR MIN(CASE WHEN payout.id IS NULL THEN lot.amount_minor ELSE payout_item.amount_minor END)
                    <> lot.amount_minor
            ORDER BY lot.id LIMIT $1",
    },
    Proof {
        invariant: "payout_item_has_a_lot",
        left: "lots",
        right: "lots there should be",
        sql: "SELECT payout_item.payout_id || ' ' || payout_item.lot_id AS object, CAST(0 AS BIGINT) AS left_minor,
                CAST(1 AS BIGINT) AS right_minor
            FROM payout_item LEFT JOIN lot ON lot.id = payout_item.lot_id
            WHERE lot.id IS NULL ORDER BY 1 LIMIT $1",
    },
    Proof {
        invariant: "claimed_is_held_by_a_payout",
        left: "marked as claimed",
        right: "lots of it that a payout holds or has paid",
        // A payout may have netted what a commission owes without paying any of it, so lots that were taken
        // make no claim where a debt is among them.
        sql: "SELECT commission.id AS object,
                CAST(CASE WHEN commission.claimed THEN 1 ELSE 0 END AS BIGINT) AS left_minor,
                CAST(COUNT(lot.id) AS BIGINT) AS right_minor
            FROM commission
                LEFT JOIN lot ON lot.commission_id = commission.id AND lot.payout_id IS NOT NULL
            GROUP BY commission.id, commission.claimed, commission.state
            HAVING (commission.claimed AND COUNT(lot.id) = 0)
                OR (NOT commission.claimed
                    AND (MIN(lot.amount_minor) > 0 OR commission.state IN ('in_payout', 'paid')))
            ORDER BY commission.id LIMIT $1",
    },
    Proof {
        invariant: "in_transit_is_reserved",
        left: "in-transit balance",
        right: "payouts under way",
        sql: "SELECT owner_id || ' ' || currency AS object, CAST(SUM(kept) AS BIGINT) AS left_minor,
                CAST(SUM(reserved) AS BIGINT) AS right_minor
            FROM (
                SELECT owner_id, currency, credit_minor - debit_minor AS kept, 0 AS reserved
                FROM balance WHERE account = 'in_transit'
                UNION ALL
                SELECT enrollment_id, currency, 0, due_minor FROM payout
                WHERE state IN ('pending', 'submitting', 'unknown', 'waiting_account', 'waiting_funds')
            ) AS line
            GROUP BY owner_id, currency HAVING SUM(kept) <> SUM(reserved)
            ORDER BY owner_id, currency LIMIT $1",
    },
    Proof {
        invariant: "paid_is_sent",
        left: "paid balance",
        right: "payouts that were sent",
        sql: "SELECT owner_id || ' ' || currency AS object, CAST(SUM(kept) AS BIGINT) AS left_minor,
                CAST(SUM(sent) AS BIGINT) AS right_minor
            FROM (
                SELECT owner_id, currency, credit_minor - debit_minor AS kept, 0 AS sent
                FROM balance WHERE account = 'paid'
                UNION ALL
                SELECT enrollment_id, currency, 0, send_minor FROM payout
                WHERE state IN ('completed', 'partially_reversed', 'reversed')
            ) AS line
            GROUP BY owner_id, currency HAVING SUM(kept) <> SUM(sent)
            ORDER BY owner_id, currency LIMIT $1",
    },
    Proof {
        invariant: "earned_is_accounted_for",
        left: "earned - clawed",
        right: "held + payable + in transit + paid + fees - returned",
        // Invariant I7, per enrollment and currency: every cent that was earned is somewhere.
        sql: "SELECT owner_id || ' ' || currency AS object, CAST(SUM(earned) AS BIGINT) AS left_minor,
                CAST(SUM(placed) AS BIGINT) AS right_minor
            FROM (
                SELECT enrollment_id AS owner_id, currency, earned_minor - clawed_minor AS earned, 0 AS placed
                FROM commission
                UNION ALL
                SELECT owner_id, currency, 0, credit_minor - debit_minor FROM balance
                WHERE account IN ('held', 'payable', 'in_transit', 'paid')
                UNION ALL
                SELECT enrollment_id, currency, 0, fee_minor - returned_minor FROM payout
                WHERE state IN ('completed', 'partially_reversed', 'reversed')
            ) AS line
            GROUP BY owner_id, currency HAVING SUM(earned) <> SUM(placed)
            ORDER BY owner_id, currency LIMIT $1",
    },
    Proof {
        invariant: "payout_revisions_without_gaps",
        left: "posted revision",
        right: "entries of the payout",
        sql: "SELECT payout.id AS object, payout.revision AS left_minor,
                CAST(COUNT(entry.id) AS BIGINT) AS right_minor
            FROM payout LEFT JOIN entry ON entry.payout_id = payout.id
            GROUP BY payout.id, payout.revision
            HAVING payout.revision <> COUNT(entry.id) OR COALESCE(MIN(entry.revision), 0) <> 1
                OR COALESCE(MAX(entry.revision), 0) <> COUNT(entry.id)
            ORDER BY payout.id LIMIT $1",
    },
    Proof {
        invariant: "payout_has_its_intent",
        left: "sent by the payout",
        right: "asked for by its intent",
        sql: "SELECT payout.id AS object, payout.send_minor AS left_minor,
                COALESCE(intent.amount_minor, 0) AS right_minor
            FROM payout LEFT JOIN intent ON intent.payout_id = payout.id
            WHERE intent.id IS NULL OR intent.amount_minor <> payout.send_minor
                OR intent.currency <> payout.currency OR intent.destination <> payout.destination
                OR intent.livemode <> payout.livemode OR intent.provider <> payout.provider
                OR NOT EXISTS (SELECT 1 FROM job WHERE job.intent_id = intent.id)
                OR NOT EXISTS (SELECT 1 FROM generation WHERE generation.intent_id = intent.id
                    AND generation.generation = intent.generation)
            ORDER BY payout.id LIMIT $1",
    },
    Proof {
        invariant: "payout_fits_its_intent",
        left: "payouts that ended this way",
        right: "intents that did",
        sql: "SELECT payout.id AS object,
                CAST(CASE WHEN payout.state IN ('completed', 'partially_reversed', 'reversed') THEN 1 ELSE 0 END
                    AS BIGINT) AS left_minor,
                CAST(CASE WHEN intent.state = 'succeeded' THEN 1 ELSE 0 END AS BIGINT) AS right_minor
            FROM payout JOIN intent ON intent.payout_id = payout.id
            WHERE (payout.state IN ('completed', 'partially_reversed', 'reversed'))
                    <> (intent.state = 'succeeded')
                OR (payout.state IN ('failed', 'canceled')) <> (intent.state IN ('failed', 'canceled'))
                OR (payout.state = 'unknown') <> (intent.state = 'unknown')
            ORDER BY payout.id LIMIT $1",
    },
];
