-- Clicks before a sale, who clicked, and what a program does with them.

-- Where `GET /r/{code}` forwards to. Null: the program has no links of its own.
ALTER TABLE program ADD COLUMN landing_url TEXT;

-- The model and window that held until an instant, exclusive; the newest are in `program`. What held
-- when a sale was paid decides about it, so that a later change moves no commission.
CREATE TABLE program_touch_rule (
    program_id              TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    until_us                BIGINT NOT NULL,
    attribution_model       TEXT NOT NULL CHECK (attribution_model IN ('first_touch', 'last_touch')),
    attribution_window_days BIGINT NOT NULL,
    PRIMARY KEY (program_id, until_us)
);

-- One click or scan through an affiliate's link. Never changed.
CREATE TABLE touchpoint (
    id            TEXT COLLATE "C" PRIMARY KEY,
    project_id    TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    program_id    TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    code          TEXT COLLATE "C" NOT NULL,              -- as issued
    source        TEXT NOT NULL,              -- the caller's word: link, redirect, qr, …
    subject       TEXT COLLATE "C" NOT NULL,              -- the visitor: an anonymous id or the owner's reference
    at_us         BIGINT NOT NULL,           -- when it was clicked
    created_at_us BIGINT NOT NULL            -- when it was told
);
CREATE INDEX touchpoint_by_subject ON touchpoint (subject, project_id, at_us);
CREATE INDEX touchpoint_by_enrollment ON touchpoint (enrollment_id, at_us);

-- Clicks per affiliate and day, kept with the touchpoints: what analytics reads.
CREATE TABLE click_day (
    program_id    TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    day           BIGINT NOT NULL,           -- days since 1970-01-01, UTC
    clicks        BIGINT NOT NULL CHECK (clicks > 0),
    PRIMARY KEY (program_id, enrollment_id, day)
);

-- Ids of one visitor. Every id but one points at that one, never further: each group is a star.
CREATE TABLE subject_link (
    project_id    TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    visitor       TEXT COLLATE "C" NOT NULL,
    subject       TEXT COLLATE "C" NOT NULL,
    created_at_us BIGINT NOT NULL,
    PRIMARY KEY (visitor, project_id),
    CHECK (visitor <> subject)
);
CREATE INDEX subject_link_by_subject ON subject_link (subject, project_id);

-- Normalised e-mail addresses with which a provider's customer bought, whatever the sale: an affiliate
-- who used their own once is known by the customer afterwards. Personal data, apart from the money.
CREATE TABLE customer_email (
    project_id TEXT COLLATE "C" NOT NULL,
    realm      TEXT COLLATE "C" NOT NULL,
    customer   TEXT COLLATE "C" NOT NULL,
    email      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (customer, realm, project_id, email)
);
INSERT INTO customer_email (project_id, realm, customer, email)
    SELECT DISTINCT p.project_id, p.realm, p.customer, b.email
    FROM payment p JOIN sale_buyer b ON b.sale_id = p.sale_id WHERE p.customer IS NOT NULL;

-- The click that a conversion is owed to.
ALTER TABLE conversion ADD COLUMN touchpoint_id TEXT COLLATE "C" REFERENCES touchpoint (id);

-- Finds whose code a link carries when the link does not name the owner.
CREATE INDEX code_by_text ON code (code_normalised);
