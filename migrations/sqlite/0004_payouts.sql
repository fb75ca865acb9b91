-- Money out: settlement runs, payouts with their items, and the outbound protocol (`reliability.md` §5).
-- Entries and lots may now speak of a payout instead of a commission, so these tables are built anew;
-- SQLite cannot drop a NOT NULL.

CREATE TABLE payout_run (
    id              TEXT PRIMARY KEY,
    program_id      TEXT NOT NULL REFERENCES program (id),
    started_by      TEXT NOT NULL CHECK (started_by IN ('schedule', 'request')),
    currency        TEXT,                     -- scheduled runs settle one currency, requests all
    period_end_us   INTEGER,                  -- scheduled runs: end of the period, exclusive
    request_key     TEXT,                     -- requests: the caller's Idempotency-Key
    as_of_us        INTEGER NOT NULL,
    actor           TEXT NOT NULL,            -- the key that asked, or `schedule`
    state           TEXT NOT NULL CHECK (state IN ('running', 'completed')),
    last_enrollment TEXT NOT NULL,            -- enrollments up to this id had their turn
    created_at_us   INTEGER NOT NULL,
    retry_at_us     INTEGER,                  -- a run that cannot go on waits until then
    completed_at_us INTEGER,
    UNIQUE (program_id, currency, period_end_us),
    UNIQUE (program_id, request_key)
) STRICT;
CREATE INDEX payout_run_unfinished ON payout_run (id) WHERE state = 'running';

-- A settlement walks through the enrollments of its program; the schedule looks for programs that have one.
CREATE INDEX enrollment_by_program ON enrollment (program_id, id);
CREATE INDEX program_scheduled ON program (id) WHERE payout_schedule IS NOT NULL;

-- Who was not paid by a run, and why.
CREATE TABLE payout_skip (
    run_id        TEXT NOT NULL REFERENCES payout_run (id),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    currency      TEXT NOT NULL,
    due_minor     INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    PRIMARY KEY (run_id, enrollment_id, currency)
) STRICT;

-- What one enrollment is to be paid in one currency. Frozen: amounts and items never change.
CREATE TABLE payout (
    id                   TEXT PRIMARY KEY,
    run_id               TEXT NOT NULL REFERENCES payout_run (id),
    program_id           TEXT NOT NULL REFERENCES program (id),
    enrollment_id        TEXT NOT NULL REFERENCES enrollment (id),
    organization_id      TEXT NOT NULL REFERENCES organization (id),   -- the payee
    currency             TEXT NOT NULL,
    due_minor            INTEGER NOT NULL CHECK (due_minor > 0),
    fee_minor            INTEGER NOT NULL CHECK (fee_minor >= 0),
    send_minor           INTEGER NOT NULL CHECK (send_minor > 0),
    state                TEXT NOT NULL CHECK (state IN ('pending', 'submitting', 'unknown', 'waiting_account',
                             'waiting_funds', 'completed', 'failed', 'canceled', 'partially_reversed', 'reversed')),
    reason               TEXT,
    provider             TEXT NOT NULL,
    livemode             INTEGER NOT NULL CHECK (livemode IN (0, 1)),
    destination          TEXT NOT NULL,       -- the provider account
    on_transfer_reversed TEXT NOT NULL CHECK (on_transfer_reversed IN ('clawback', 'requeue')),
    transfer_id          TEXT,                -- the provider's object, once known
    reversed_minor       INTEGER NOT NULL,    -- of what was sent, cumulative, posted
    returned_minor       INTEGER NOT NULL,    -- that and the fee's part of it, cumulative, posted
    revision             INTEGER NOT NULL,    -- of its entries
    created_at_us        INTEGER NOT NULL,
    completed_at_us      INTEGER,
    CHECK (due_minor = fee_minor + send_minor)
) STRICT;
CREATE INDEX payout_by_program ON payout (program_id, created_at_us, id);
CREATE INDEX payout_by_enrollment ON payout (enrollment_id, id);
CREATE INDEX payout_by_run ON payout (run_id, id);
CREATE INDEX payout_by_transfer ON payout (transfer_id) WHERE transfer_id IS NOT NULL;
CREATE INDEX payout_unknown ON payout (enrollment_id) WHERE state = 'unknown';

-- The lots a payout was made of. Kept when the payout fails; `lot.payout_id` says who holds a lot now.
CREATE TABLE payout_item (
    payout_id     TEXT NOT NULL REFERENCES payout (id),
    lot_id        TEXT NOT NULL,
    commission_id TEXT REFERENCES commission (id),
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (payout_id, lot_id)
) STRICT;
CREATE INDEX payout_item_by_commission ON payout_item (commission_id) WHERE commission_id IS NOT NULL;

-- Stops on the payouts of one enrollment.
CREATE TABLE payout_hold (
    id            TEXT PRIMARY KEY,
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('operator', 'anomaly')),
    reason        TEXT NOT NULL,
    actor         TEXT NOT NULL,
    placed_at_us  INTEGER NOT NULL,
    lifted_at_us  INTEGER,
    lifted_by     TEXT
) STRICT;
CREATE INDEX payout_hold_open ON payout_hold (enrollment_id) WHERE lifted_at_us IS NULL;

-- Stops on all payouts. Receiving and booking go on.
CREATE TABLE payout_pause (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL CHECK (kind IN ('operator', 'restored')),
    reason        TEXT NOT NULL,
    actor         TEXT NOT NULL,
    paused_at_us  INTEGER NOT NULL,
    resumed_at_us INTEGER,
    resumed_by    TEXT,
    note          TEXT
) STRICT;
CREATE INDEX payout_pause_open ON payout_pause (id) WHERE resumed_at_us IS NULL;

-- One row. The beat only grows; a copy of it outside the database tells when the database went back.
CREATE TABLE instance (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    instance_id       TEXT NOT NULL,
    beat              INTEGER NOT NULL,
    beat_at_us        INTEGER NOT NULL,
    look_up_before_us INTEGER NOT NULL        -- intents older than this are looked up before they are sent
) STRICT;

-- A charge made for a connected account (destination charge).
CREATE TABLE charge (
    id                    TEXT PRIMARY KEY,
    project_id            TEXT NOT NULL REFERENCES project (id),
    client_reference      TEXT,
    amount_minor          INTEGER NOT NULL CHECK (amount_minor > 0),
    currency              TEXT NOT NULL,
    application_fee_minor INTEGER NOT NULL CHECK (application_fee_minor >= 0),
    destination           TEXT NOT NULL,
    state                 TEXT NOT NULL CHECK (state IN ('pending', 'submitting', 'unknown', 'waiting_account',
                              'requires_payment_method', 'requires_confirmation', 'requires_action', 'processing',
                              'requires_capture', 'succeeded', 'canceled', 'failed')),
    reason                TEXT,
    payment_intent_id     TEXT,
    told_at_us            INTEGER NOT NULL,            -- as of when the provider's status is known
    created_at_us         INTEGER NOT NULL,
    UNIQUE (project_id, client_reference)
) STRICT;

-- Money that a provider is to move, at most once.
CREATE TABLE intent (
    id            TEXT PRIMARY KEY,           -- derived from what it pays, the same in a rebuilt database
    kind          TEXT NOT NULL CHECK (kind IN ('transfer', 'charge')),
    payout_id     TEXT UNIQUE REFERENCES payout (id),
    charge_id     TEXT UNIQUE REFERENCES charge (id),
    provider      TEXT NOT NULL,
    livemode      INTEGER NOT NULL CHECK (livemode IN (0, 1)),
    destination   TEXT NOT NULL,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor > 0),
    currency      TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'unknown', 'succeeded', 'failed', 'canceled')),
    generation    INTEGER NOT NULL,
    object_id     TEXT,                       -- the provider's object, once known
    created_at_us INTEGER NOT NULL,
    CHECK ((payout_id IS NULL) <> (charge_id IS NULL))
) STRICT;
CREATE INDEX intent_by_object ON intent (object_id) WHERE object_id IS NOT NULL;

-- One idempotency key and the exact bytes that go with it.
CREATE TABLE generation (
    intent_id         TEXT NOT NULL REFERENCES intent (id),
    generation        INTEGER NOT NULL,
    idempotency_key   TEXT NOT NULL UNIQUE,
    path              TEXT NOT NULL,
    body              BLOB NOT NULL,
    body_sha256       BLOB NOT NULL,
    api_version       TEXT NOT NULL,
    first_sent_at_us  INTEGER,
    closed_at_us      INTEGER,
    proof             TEXT,                   -- why nothing was executed under this key
    PRIMARY KEY (intent_id, generation)
) STRICT;

-- Every call, written down before it is made; its answer is added when it is known.
CREATE TABLE attempt (
    intent_id      TEXT NOT NULL REFERENCES intent (id),
    number         INTEGER NOT NULL,          -- 1, 2, 3, … per intent
    generation     INTEGER NOT NULL,
    kind           TEXT NOT NULL CHECK (kind IN ('send', 'look_up')),
    epoch          INTEGER NOT NULL,          -- of the lease it was made under
    sent_at_us     INTEGER NOT NULL,
    answered_at_us INTEGER,
    verdict        TEXT,                      -- none: nothing is known, so anything may have happened
    status         INTEGER,
    request_id     TEXT,
    replayed       INTEGER CHECK (replayed IN (0, 1)),
    should_retry   INTEGER CHECK (should_retry IN (0, 1)),
    error_code     TEXT,
    object_id      TEXT,
    body_sha256    BLOB,
    PRIMARY KEY (intent_id, number)
) STRICT;

-- Who works on an intent, and when next.
CREATE TABLE job (
    id                 TEXT PRIMARY KEY,
    kind               TEXT NOT NULL CHECK (kind IN ('transfer', 'charge')),
    intent_id          TEXT NOT NULL UNIQUE REFERENCES intent (id),
    lane               TEXT NOT NULL,         -- the destination; one call at a time and node goes to each
    state              TEXT NOT NULL CHECK (state IN ('available', 'running', 'retryable', 'parked', 'unknown', 'completed', 'discarded')),
    reason             TEXT,
    attempts           INTEGER NOT NULL,
    epoch              INTEGER NOT NULL,      -- grows with every claim; a write with an older one is refused
    next_attempt_at_us INTEGER,               -- of a running job: when its lease ends; none: nothing is due
    woken_at_us        INTEGER,               -- when something it may wait for was told, since it was claimed
    created_at_us      INTEGER NOT NULL,
    finished_at_us     INTEGER
) STRICT;
CREATE INDEX job_due ON job (next_attempt_at_us, id) WHERE next_attempt_at_us IS NOT NULL;
CREATE INDEX job_by_lane ON job (lane, next_attempt_at_us, id) WHERE next_attempt_at_us IS NOT NULL;
CREATE INDEX job_by_state ON job (state, id);
CREATE INDEX job_by_time ON job (created_at_us, id);
CREATE INDEX job_waiting ON job (reason, lane) WHERE state = 'parked';

-- How people ended a doubt.
CREATE TABLE resolution (
    id            TEXT PRIMARY KEY,
    intent_id     TEXT NOT NULL REFERENCES intent (id),
    generation    INTEGER NOT NULL,
    verdict       TEXT NOT NULL CHECK (verdict IN ('executed', 'not_executed', 'retry')),
    object_id     TEXT,
    evidence      TEXT NOT NULL,
    actor         TEXT NOT NULL,
    approver      TEXT,
    created_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX resolution_by_intent ON resolution (intent_id);

-- Transfers of which events told something that the payouts have not taken in yet.
CREATE TABLE transfer_news (
    project_id  TEXT NOT NULL,
    realm       TEXT NOT NULL,
    transfer_id TEXT NOT NULL,
    event_id    TEXT,                     -- the last event that told of it
    due_at_us   INTEGER NOT NULL,
    PRIMARY KEY (transfer_id, realm, project_id)
) STRICT;
CREATE INDEX transfer_news_due ON transfer_news (due_at_us, transfer_id);

-- What one payout took of commissions when its transfer came back, as decisions (`rulings.md` 1, 15).
CREATE TABLE decision_rebuilt (
    id            TEXT PRIMARY KEY,
    sale_id       TEXT NOT NULL REFERENCES sale (id),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback', 'transfer_clawback')),
    reason        TEXT,
    note          TEXT,
    amount_minor  INTEGER,
    actor         TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT;
INSERT INTO decision_rebuilt (id, sale_id, enrollment_id, kind, reason, note, amount_minor, actor, created_at_us)
SELECT id, sale_id, enrollment_id, kind, reason, note, amount_minor, actor, created_at_us FROM decision;
DROP TABLE decision;
ALTER TABLE decision_rebuilt RENAME TO decision;
CREATE INDEX decision_by_sale ON decision (sale_id);

CREATE TABLE entry_rebuilt (
    id            TEXT PRIMARY KEY,
    commission_id TEXT REFERENCES commission (id),
    payout_id     TEXT REFERENCES payout (id),
    revision      INTEGER NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('accrual', 'adjustment', 'clawback', 'reinstatement', 'release',
                      'suspension', 'payout_reserve', 'payout_settle', 'payout_release', 'platform_fee',
                      'transfer_returned')),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    program_id    TEXT NOT NULL REFERENCES program (id),
    currency      TEXT NOT NULL,
    causes        TEXT NOT NULL,              -- JSON: the events and decisions behind it
    content_hash  BLOB NOT NULL,
    created_at_us INTEGER NOT NULL,
    CHECK ((commission_id IS NULL) <> (payout_id IS NULL)),
    UNIQUE (commission_id, revision),
    UNIQUE (payout_id, revision)
) STRICT;
INSERT INTO entry_rebuilt (id, commission_id, payout_id, revision, kind, enrollment_id, program_id, currency,
    causes, content_hash, created_at_us)
SELECT id, commission_id, NULL, revision, kind, enrollment_id, program_id, currency, causes, content_hash,
    created_at_us
FROM entry;

CREATE TABLE posting_rebuilt (
    entry_id     TEXT NOT NULL REFERENCES entry_rebuilt (id),
    line         INTEGER NOT NULL,
    owner_id     TEXT NOT NULL,
    account      TEXT NOT NULL CHECK (account IN ('held', 'payable', 'in_transit', 'paid', 'expense', 'fee_income', 'returned_cash')),
    side         TEXT NOT NULL CHECK (side IN ('debit', 'credit')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (entry_id, line)
) STRICT;
INSERT INTO posting_rebuilt (entry_id, line, owner_id, account, side, amount_minor)
SELECT entry_id, line, owner_id, account, side, amount_minor FROM posting;

CREATE TABLE lot_rebuilt (
    id            TEXT PRIMARY KEY,
    entry_id      TEXT NOT NULL REFERENCES entry_rebuilt (id),
    commission_id TEXT REFERENCES commission (id),     -- none: cash that came back
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    currency      TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('release', 'adjustment', 'carry_forward', 'reinstatement', 'suspension', 'returned')),
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    payout_id     TEXT REFERENCES payout (id),         -- the payout that holds it
    created_at_us INTEGER NOT NULL
) STRICT;
INSERT INTO lot_rebuilt (id, entry_id, commission_id, enrollment_id, currency, kind, amount_minor, payout_id,
    created_at_us)
SELECT id, entry_id, commission_id, enrollment_id, currency, kind, amount_minor, payout_id, created_at_us
FROM lot;

DROP TABLE lot;
DROP TABLE posting;
DROP TABLE entry;
ALTER TABLE entry_rebuilt RENAME TO entry;
ALTER TABLE posting_rebuilt RENAME TO posting;
ALTER TABLE lot_rebuilt RENAME TO lot;

CREATE INDEX lot_unclaimed ON lot (enrollment_id, currency, id) WHERE payout_id IS NULL;
CREATE INDEX lot_by_commission ON lot (commission_id);
CREATE INDEX lot_by_payout ON lot (payout_id) WHERE payout_id IS NOT NULL;

CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry
BEGIN
    SELECT RAISE(ABORT, 'entry is append-only');
END;
CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry
BEGIN
    SELECT RAISE(ABORT, 'entry is append-only');
END;
CREATE TRIGGER posting_no_update BEFORE UPDATE ON posting
BEGIN
    SELECT RAISE(ABORT, 'posting is append-only');
END;
CREATE TRIGGER posting_no_delete BEFORE DELETE ON posting
BEGIN
    SELECT RAISE(ABORT, 'posting is append-only');
END;

-- Bank payouts are shown by account.
CREATE INDEX bank_payout_by_account ON bank_payout (account_id, told_at_us);
