//! What must hold in the tables whatever happened, and what of them must not depend on the order in
//! which it happened.

use remit::store::{Conn, Db};

/// Each text selects one text per violation.
const RULES: &[(&str, &str)] = &[
    (
        "every entry balances",
        "SELECT entry_id FROM posting GROUP BY entry_id
         HAVING SUM(CASE side WHEN 'debit' THEN amount_minor ELSE -amount_minor END) <> 0",
    ),
    (
        "every entry has lines",
        "SELECT e.id FROM entry e WHERE NOT EXISTS (SELECT 1 FROM posting p WHERE p.entry_id = e.id)",
    ),
    (
        "balances are the sums of the postings",
        "SELECT b.owner_id || ' ' || b.account FROM balance b LEFT JOIN (
             SELECT p.owner_id, p.account, e.currency,
                 SUM(CASE p.side WHEN 'debit' THEN p.amount_minor ELSE 0 END) AS debits,
                 SUM(CASE p.side WHEN 'credit' THEN p.amount_minor ELSE 0 END) AS credits
             FROM posting p JOIN entry e ON e.id = p.entry_id GROUP BY p.owner_id, p.account, e.currency) s
         ON s.owner_id = b.owner_id AND s.account = b.account AND s.currency = b.currency
         WHERE b.debit_minor <> COALESCE(s.debits, 0) OR b.credit_minor <> COALESCE(s.credits, 0)",
    ),
    (
        "every posting has a balance",
        "SELECT DISTINCT p.owner_id || ' ' || p.account FROM posting p JOIN entry e ON e.id = p.entry_id
         WHERE NOT EXISTS (SELECT 1 FROM balance b WHERE b.owner_id = p.owner_id AND b.account = p.account
             AND b.currency = e.currency)",
    ),
    (
        "the lots of a commission are what it released",
        "SELECT c.id FROM commission c LEFT JOIN (
             SELECT commission_id, SUM(amount_minor) AS amount FROM lot GROUP BY commission_id) l
         ON l.commission_id = c.id WHERE c.released_minor <> COALESCE(l.amount, 0)",
    ),
    (
        "the unclaimed lots of an affiliate are the payable balance",
        "SELECT b.owner_id FROM balance b LEFT JOIN (
             SELECT enrollment_id, currency, SUM(amount_minor) AS amount FROM lot WHERE payout_id IS NULL
             GROUP BY enrollment_id, currency) l
         ON l.enrollment_id = b.owner_id AND l.currency = b.currency
         WHERE b.account = 'payable' AND b.credit_minor - b.debit_minor <> COALESCE(l.amount, 0)",
    ),
    (
        "what a commission holds and released is what was posted for it",
        "SELECT c.id FROM commission c LEFT JOIN (
             SELECT e.commission_id,
                 SUM(CASE WHEN p.account <> 'held' THEN 0 WHEN p.side = 'credit' THEN p.amount_minor
                     ELSE -p.amount_minor END) AS held,
                 SUM(CASE WHEN p.account <> 'payable' THEN 0 WHEN p.side = 'credit' THEN p.amount_minor
                     ELSE -p.amount_minor END) AS payable
             FROM entry e JOIN posting p ON p.entry_id = e.id GROUP BY e.commission_id) s
         ON s.commission_id = c.id
         WHERE c.held_minor <> COALESCE(s.held, 0) OR c.released_minor <> COALESCE(s.payable, 0)",
    ),
    (
        "revisions are counted without a gap",
        "SELECT c.id FROM commission c LEFT JOIN (
             SELECT commission_id, COUNT(*) AS entries, MAX(revision) AS last FROM entry
             GROUP BY commission_id) e
         ON e.commission_id = c.id
         WHERE c.revision <> COALESCE(e.entries, 0) OR c.revision <> COALESCE(e.last, 0)",
    ),
    (
        "a lot is in one payout that was not given up at most, and says in which",
        "SELECT l.id FROM lot l LEFT JOIN (
             SELECT i.lot_id, COUNT(*) AS payouts, MIN(i.payout_id) AS payout_id FROM payout_item i
                 JOIN payout p ON p.id = i.payout_id AND p.state NOT IN ('failed', 'canceled')
             GROUP BY i.lot_id) h
         ON h.lot_id = l.id
         WHERE COALESCE(h.payouts, 0) > 1 OR COALESCE(h.payout_id, '-') <> COALESCE(l.payout_id, '-')",
    ),
    (
        "a payout is the sum of its items, the fee and what is sent",
        "SELECT p.id FROM payout p LEFT JOIN (
             SELECT payout_id, SUM(amount_minor) AS amount FROM payout_item GROUP BY payout_id) i
         ON i.payout_id = p.id
         WHERE p.due_minor <> COALESCE(i.amount, 0) OR p.due_minor <> p.fee_minor + p.send_minor",
    ),
    (
        "an item is as much as its lot",
        "SELECT i.lot_id FROM payout_item i LEFT JOIN lot l ON l.id = i.lot_id
         WHERE l.id IS NULL OR l.amount_minor <> i.amount_minor OR l.commission_id <> i.commission_id",
    ),
    (
        "what is in transit is what the payouts under way reserved",
        "SELECT e.id || ' ' || c.currency FROM enrollment e CROSS JOIN (SELECT DISTINCT currency FROM balance) c
         WHERE COALESCE((SELECT b.credit_minor - b.debit_minor FROM balance b WHERE b.owner_id = e.id
                 AND b.account = 'in_transit' AND b.currency = c.currency), 0)
             <> COALESCE((SELECT SUM(p.due_minor) FROM payout p WHERE p.enrollment_id = e.id
                 AND p.currency = c.currency AND p.state IN ('pending', 'submitting', 'unknown',
                     'waiting_account', 'waiting_funds')), 0)",
    ),
    (
        "earned less clawed is held, payable, in transit, paid and fees, less what came back",
        "SELECT e.id || ' ' || c.currency FROM enrollment e CROSS JOIN (SELECT DISTINCT currency FROM balance) c
         WHERE COALESCE((SELECT SUM(k.earned_minor - k.clawed_minor) FROM commission k
                 WHERE k.enrollment_id = e.id AND k.currency = c.currency), 0)
             <> COALESCE((SELECT SUM(b.credit_minor - b.debit_minor) FROM balance b WHERE b.owner_id = e.id
                 AND b.currency = c.currency AND b.account IN ('held', 'payable', 'in_transit', 'paid')), 0)
             + COALESCE((SELECT SUM(p.fee_minor - p.returned_minor) FROM payout p
                 WHERE p.enrollment_id = e.id AND p.currency = c.currency
                 AND p.state IN ('completed', 'partially_reversed', 'reversed')), 0)",
    ),
    (
        "what is paid is what was sent",
        "SELECT e.id || ' ' || c.currency FROM enrollment e CROSS JOIN (SELECT DISTINCT currency FROM balance) c
         WHERE COALESCE((SELECT b.credit_minor - b.debit_minor FROM balance b WHERE b.owner_id = e.id
                 AND b.account = 'paid' AND b.currency = c.currency), 0)
             <> COALESCE((SELECT SUM(p.send_minor) FROM payout p WHERE p.enrollment_id = e.id
                 AND p.currency = c.currency AND p.state IN ('completed', 'partially_reversed', 'reversed')), 0)",
    ),
    (
        "the revisions of a payout are counted without a gap",
        "SELECT p.id FROM payout p LEFT JOIN (
             SELECT payout_id, COUNT(*) AS entries, MAX(revision) AS last FROM entry GROUP BY payout_id) e
         ON e.payout_id = p.id
         WHERE p.revision <> COALESCE(e.entries, 0) OR p.revision <> COALESCE(e.last, 0)",
    ),
    (
        "a payout has one intent for what is sent, with the bytes of its key and a job",
        "SELECT p.id FROM payout p WHERE (
             SELECT COUNT(*) FROM intent i
                 JOIN generation g ON g.intent_id = i.id AND g.generation = i.generation
                 JOIN job j ON j.intent_id = i.id AND j.lane = i.destination
             WHERE i.payout_id = p.id AND i.amount_minor = p.send_minor AND i.currency = p.currency
                 AND i.destination = p.destination AND i.livemode = p.livemode) <> 1",
    ),
    (
        "a sale that was merged away carries nothing",
        "SELECT s.id FROM sale s WHERE s.merged_into IS NOT NULL AND (
             EXISTS (SELECT 1 FROM sale_alias a WHERE a.sale_id = s.id)
             OR EXISTS (SELECT 1 FROM payment p WHERE p.sale_id = s.id)
             OR EXISTS (SELECT 1 FROM refund r WHERE r.sale_id = s.id)
             OR EXISTS (SELECT 1 FROM refund_total t WHERE t.sale_id = s.id)
             OR EXISTS (SELECT 1 FROM dispute d WHERE d.sale_id = s.id)
             OR EXISTS (SELECT 1 FROM decision d WHERE d.sale_id = s.id AND d.kind <> 'transfer_clawback')
             OR EXISTS (SELECT 1 FROM commission c WHERE c.sale_id = s.id AND c.earned_minor <> c.clawed_minor
                 AND NOT c.claimed))",
    ),
];

/// Panics with everything that does not add up.
pub async fn assert_they_add_up(db: &Db) {
    let mut conn = db.read().await.unwrap();
    let mut wrong = Vec::new();
    for (rule, sql) in RULES {
        let broken: Vec<String> = conn.q(*sql).scalars().await.unwrap();
        if !broken.is_empty() {
            wrong.push(format!("{rule}: {broken:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the books say in the providers' own ids: equal for two databases that were told the same facts,
/// in whatever order, batches and number of nodes.
pub async fn snapshot(db: &Db) -> Vec<String> {
    const SALES: &str = "SELECT 'sale ' || (SELECT MIN(a.kind || ':' || a.object_id) FROM sale_alias a
                WHERE a.sale_id = s.id)
            || ' (' || CAST((SELECT COUNT(*) FROM sale_alias a WHERE a.sale_id = s.id) AS TEXT) || ') '
            || s.status || ' ' || CAST(COALESCE(s.amount_minor, 0) AS TEXT) || ' '
            || CAST(s.refunded_minor AS TEXT) || ' ' || CAST(s.disputed_minor AS TEXT)
        FROM sale s WHERE s.merged_into IS NULL ORDER BY 1";
    const COMMISSIONS: &str = "SELECT 'commission ' || (SELECT MIN(a.kind || ':' || a.object_id)
                FROM sale_alias a WHERE a.sale_id = c.sale_id)
            || ' ' || c.enrollment_id || ' ' || c.state || ' ' || CAST(c.held_minor AS TEXT) || ' '
            || CAST(c.released_minor AS TEXT)
        FROM commission c WHERE c.earned_minor <> c.clawed_minor ORDER BY 1";
    const BALANCES: &str = "SELECT 'balance ' || owner_id || ' ' || account || ' ' || currency || ' '
            || CAST(credit_minor - debit_minor AS TEXT)
        FROM balance WHERE credit_minor <> debit_minor ORDER BY 1";
    const EVENTS: &str = "SELECT 'event ' || endpoint_id || ' ' || provider_event_id || ' ' || state || ' '
            || COALESCE(reason, '-')
        FROM inbox ORDER BY 1";
    let mut conn = db.read().await.unwrap();
    let mut lines = Vec::new();
    for sql in [SALES, COMMISSIONS, BALANCES, EVENTS] {
        let mut part: Vec<String> = conn.q(sql).scalars().await.unwrap();
        part.sort();
        lines.append(&mut part);
    }
    lines
}

/// How many entries were ever posted.
pub async fn entries(conn: &mut Conn) -> i64 {
    conn.q("SELECT COUNT(*) FROM entry").scalar().await.unwrap().unwrap()
}
