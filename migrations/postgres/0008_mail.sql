-- What affiliates are told by e-mail. Nothing is written here while mail is switched off, and addresses
-- and letters never are: both are made of the other tables when a mail is sent.

-- An e-mail, sent by whoever holds its lease.
CREATE TABLE mail (
    id                 TEXT COLLATE "C" PRIMARY KEY,       -- derived from its first notice; its Message-ID is made of it
    topic              TEXT NOT NULL CHECK (topic IN ('enrollment', 'commissions', 'payout_completed',
                           'payout_waiting')),
    enrollment_id      TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    state              TEXT NOT NULL CHECK (state IN ('available', 'running', 'retryable', 'parked',
                           'completed', 'discarded')),
    reason             TEXT,
    attempts           BIGINT NOT NULL,
    epoch              BIGINT NOT NULL,       -- of the lease
    next_attempt_at_us BIGINT,                -- while it runs: the end of the lease
    created_at_us      BIGINT NOT NULL,
    finished_at_us     BIGINT
);
CREATE INDEX mail_due ON mail (next_attempt_at_us, id) WHERE next_attempt_at_us IS NOT NULL;
CREATE INDEX mail_by_state ON mail (state, id);

-- Something that happened to one affiliate, told once however often it is replayed or folded again.
CREATE TABLE notice (
    id            TEXT COLLATE "C" PRIMARY KEY,            -- derived from what happened
    topic         TEXT NOT NULL CHECK (topic IN ('enrollment', 'commissions', 'payout_completed',
                      'payout_waiting')),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    object_id     TEXT COLLATE "C" NOT NULL,               -- the enrollment, commission or payout
    word          TEXT,                        -- the status, or what happened to the commission
    reason        TEXT,                        -- why something was taken back
    currency      TEXT COLLATE "C",
    amount_minor  BIGINT CHECK (amount_minor > 0),
    due_at_us     BIGINT NOT NULL,
    created_at_us BIGINT NOT NULL,
    mail_id       TEXT COLLATE "C" REFERENCES mail (id)
);
CREATE INDEX notice_due ON notice (due_at_us, id) WHERE mail_id IS NULL;
CREATE INDEX notice_waiting ON notice (enrollment_id, topic) WHERE mail_id IS NULL;
CREATE INDEX notice_by_mail ON notice (mail_id) WHERE mail_id IS NOT NULL;
