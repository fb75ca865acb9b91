-- Enrollments: who invited whom, sponsors and rates over time, accounts of people who signed up.

-- Whether an affiliate may apply without being invited.
ALTER TABLE program ADD COLUMN applications TEXT COLLATE "C" NOT NULL DEFAULT 'closed' CHECK (applications IN ('closed', 'open'));

-- Sponsor over time: what held when a sale was paid decides. Changes of one program begin one after the
-- other, so there is no circle as of any instant.
CREATE TABLE enrollment_sponsor (
    enrollment_id        TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    effective_at_us      BIGINT NOT NULL,
    parent_enrollment_id TEXT COLLATE "C" REFERENCES enrollment (id),    -- none: no sponsor from then on
    PRIMARY KEY (enrollment_id, effective_at_us)
);
CREATE INDEX enrollment_sponsor_by_parent ON enrollment_sponsor (parent_enrollment_id)
    WHERE parent_enrollment_id IS NOT NULL;
INSERT INTO enrollment_sponsor (enrollment_id, effective_at_us, parent_enrollment_id)
SELECT id, 0, parent_enrollment_id FROM enrollment WHERE parent_enrollment_id IS NOT NULL;
ALTER TABLE enrollment DROP COLUMN parent_enrollment_id;
CREATE INDEX enrollment_by_organization ON enrollment (organization_id, id);

-- What an enrollment earns instead of what its program says, over time.
CREATE TABLE enrollment_rate (
    enrollment_id   TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    effective_at_us BIGINT NOT NULL,
    rate            TEXT,                     -- JSON: {"bps"} or {"amount_cents", "currency"}; none: as the program says
    PRIMARY KEY (enrollment_id, effective_at_us)
);

-- When a code was made; those before this migration came with their enrollment.
ALTER TABLE code ADD COLUMN created_at_us BIGINT NOT NULL DEFAULT 0;
UPDATE code SET created_at_us =
    (SELECT enrollment.created_at_us FROM enrollment WHERE enrollment.id = code.enrollment_id);
DROP INDEX code_by_enrollment;
CREATE INDEX code_by_enrollment ON code (enrollment_id, created_at_us, code_normalised);

-- The secret with which whoever was invited by e-mail takes the enrollment over. Only its hash is kept.
CREATE TABLE invite_token (
    enrollment_id TEXT COLLATE "C" PRIMARY KEY REFERENCES enrollment (id),
    token_hash    BYTEA NOT NULL UNIQUE,
    created_at_us BIGINT NOT NULL,
    used_at_us    BIGINT
);

-- A person who signed up for an organization. Personal data.
CREATE TABLE account (
    id              TEXT COLLATE "C" PRIMARY KEY,
    organization_id TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES organization (id),
    email           TEXT NOT NULL,            -- as written; nobody has verified it
    name            TEXT NOT NULL,
    created_at_us   BIGINT NOT NULL
);
