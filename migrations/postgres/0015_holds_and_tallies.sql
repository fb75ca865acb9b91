-- Fact: for how many days the owner wants the commission of an order held in the program that it was
-- reported to. The longest that was told counts.
CREATE TABLE reported_hold (
    project_id TEXT COLLATE "C" NOT NULL,
    realm      TEXT COLLATE "C" NOT NULL,
    kind       TEXT NOT NULL,
    object_id  TEXT COLLATE "C" NOT NULL,
    program_id TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    sale_id    TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    days       BIGINT NOT NULL CHECK (days BETWEEN 0 AND 3650),
    PRIMARY KEY (object_id, kind, realm, project_id, program_id)
);
CREATE INDEX reported_hold_by_sale ON reported_hold (sale_id);

-- What the accepted sales of an affiliate come to in one currency, kept by whoever changes one of them,
-- under the lock of this row. Null: not summed yet; the next who locks it counts the commissions once.
ALTER TABLE counter ADD COLUMN sales BIGINT;
ALTER TABLE counter ADD COLUMN revenue_minor BIGINT;

-- The commission that a transfer paid, for what came back of it: one affiliate can have two of one sale.
-- Null for decisions that are about whatever the enrollment has of the sale.
ALTER TABLE decision ADD COLUMN commission_id TEXT COLLATE "C" REFERENCES commission (id);
