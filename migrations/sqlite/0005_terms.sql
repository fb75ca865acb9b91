-- Rules that look at other sales (`rulings.md` 9), lines of a sale, and hold periods of one commission.

-- What a sale's payment was for, as JSON lines (domain::fact::Item); none where nothing told it.
ALTER TABLE payment ADD COLUMN items TEXT;

-- Where the sale stands among others, decided once: JSON (domain::terms::Position).
ALTER TABLE commission ADD COLUMN position TEXT;
-- The customer among whose payments it is counted.
ALTER TABLE commission ADD COLUMN customer_key TEXT;
-- What it adds to the tiers of later sales, while it does.
ALTER TABLE commission ADD COLUMN counted_minor INTEGER;
ALTER TABLE commission ADD COLUMN counted_currency TEXT;
CREATE INDEX commission_counted ON commission (enrollment_id, counted_currency, paid_at_us, counted_minor)
    WHERE counted_minor IS NOT NULL;
CREATE INDEX commission_of_customer ON commission (customer_key, enrollment_id, paid_at_us)
    WHERE customer_key IS NOT NULL;

-- What is locked before the sales by whoever gives a sale its place among others.
CREATE TABLE counter (
    key TEXT PRIMARY KEY
) STRICT;

-- A decision can now say how long one commission is held. SQLite cannot change a CHECK.
CREATE TABLE decision_rebuilt (
    id            TEXT PRIMARY KEY,
    sale_id       TEXT NOT NULL REFERENCES sale (id),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback', 'transfer_clawback', 'hold_period')),
    reason        TEXT,
    note          TEXT,
    amount_minor  INTEGER,                    -- of hold periods: days
    actor         TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT;
INSERT INTO decision_rebuilt (id, sale_id, enrollment_id, kind, reason, note, amount_minor, actor, created_at_us)
SELECT id, sale_id, enrollment_id, kind, reason, note, amount_minor, actor, created_at_us FROM decision;
DROP TABLE decision;
ALTER TABLE decision_rebuilt RENAME TO decision;
CREATE INDEX decision_by_sale ON decision (sale_id);
