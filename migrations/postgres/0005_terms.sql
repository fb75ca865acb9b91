-- Rules that look at other sales (`rulings.md` 9), lines of a sale, and hold periods of one commission.

-- What a sale's payment was for, as JSON lines (domain::fact::Item); none where nothing told it.
ALTER TABLE payment ADD COLUMN items TEXT COLLATE "C";

-- Where the sale stands among others, decided once: JSON (domain::terms::Position).
ALTER TABLE commission ADD COLUMN position TEXT COLLATE "C";
-- The customer among whose payments it is counted.
ALTER TABLE commission ADD COLUMN customer_key TEXT COLLATE "C";
-- What it adds to the tiers of later sales, while it does.
ALTER TABLE commission ADD COLUMN counted_minor BIGINT;
ALTER TABLE commission ADD COLUMN counted_currency TEXT COLLATE "C";
CREATE INDEX commission_counted ON commission (enrollment_id, counted_currency, paid_at_us, counted_minor)
    WHERE counted_minor IS NOT NULL;
CREATE INDEX commission_of_customer ON commission (customer_key, enrollment_id, paid_at_us)
    WHERE customer_key IS NOT NULL;

-- What is locked before the sales by whoever gives a sale its place among others.
CREATE TABLE counter (
    key TEXT COLLATE "C" PRIMARY KEY
);

-- A decision can now say how long one commission is held. Of such ones, amount_minor is days.
ALTER TABLE decision DROP CONSTRAINT decision_kind_check;
ALTER TABLE decision ADD CONSTRAINT decision_kind_check
    CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback', 'transfer_clawback', 'hold_period'));
