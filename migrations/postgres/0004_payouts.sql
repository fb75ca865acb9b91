-- Money out: settlement runs, payouts with their items, and the outbound protocol (`reliability.md` §5).
-- Entries and lots may now speak of a payout instead of a commission.

CREATE TABLE payout_run (
    id              TEXT COLLATE "C" PRIMARY KEY,
    program_id      TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    started_by      TEXT NOT NULL CHECK (started_by IN ('schedule', 'request')),
    currency        TEXT COLLATE "C",                     -- scheduled runs settle one currency, requests all
    period_end_us   BIGINT,                  -- scheduled runs: end of the period, exclusive
    request_key     TEXT,                     -- requests: the caller's Idempotency-Key
    as_of_us        BIGINT NOT NULL,
    actor           TEXT NOT NULL,            -- the key that asked, or `schedule`
    state           TEXT NOT NULL CHECK (state IN ('running', 'completed')),
    last_enrollment TEXT COLLATE "C" NOT NULL,            -- enrollments up to this id had their turn
    created_at_us   BIGINT NOT NULL,
    retry_at_us     BIGINT,                   -- a run that cannot go on waits until then
    completed_at_us BIGINT,
    UNIQUE (program_id, currency, period_end_us),
    UNIQUE (program_id, request_key)
);
CREATE INDEX payout_run_unfinished ON payout_run (id) WHERE state = 'running';

-- A settlement walks through the enrollments of its program; the schedule looks for programs that have one.
CREATE INDEX enrollment_by_program ON enrollment (program_id, id);
CREATE INDEX program_scheduled ON program (id) WHERE payout_schedule IS NOT NULL;

-- Who was not paid by a run, and why.
CREATE TABLE payout_skip (
    run_id        TEXT COLLATE "C" NOT NULL REFERENCES payout_run (id),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    currency      TEXT COLLATE "C" NOT NULL,
    due_minor     BIGINT NOT NULL,
    reason        TEXT NOT NULL,
    PRIMARY KEY (run_id, enrollment_id, currency)
);

-- What one enrollment is to be paid in one currency. Frozen: amounts and items never change.
CREATE TABLE payout (
    id                   TEXT COLLATE "C" PRIMARY KEY,
    run_id               TEXT COLLATE "C" NOT NULL REFERENCES payout_run (id),
    program_id           TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    enrollment_id        TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    organization_id      TEXT COLLATE "C" NOT NULL REFERENCES organization (id),   -- the payee
    currency             TEXT COLLATE "C" NOT NULL,
    due_minor            BIGINT NOT NULL CHECK (due_minor > 0),
    fee_minor            BIGINT NOT NULL CHECK (fee_minor >= 0),
    send_minor           BIGINT NOT NULL CHECK (send_minor > 0),
    state                TEXT NOT NULL CHECK (state IN ('pending', 'submitting', 'unknown', 'waiting_account',
                             'waiting_funds', 'completed', 'failed', 'canceled', 'partially_reversed', 'reversed')),
    reason               TEXT,
    provider             TEXT NOT NULL,
    livemode             BOOLEAN NOT NULL,
    destination          TEXT NOT NULL,       -- the provider account
    on_transfer_reversed TEXT NOT NULL CHECK (on_transfer_reversed IN ('clawback', 'requeue')),
    transfer_id          TEXT COLLATE "C",                -- the provider's object, once known
    reversed_minor       BIGINT NOT NULL,    -- of what was sent, cumulative, posted
    returned_minor       BIGINT NOT NULL,    -- that and the fee's part of it, cumulative, posted
    revision             BIGINT NOT NULL,    -- of its entries
    created_at_us        BIGINT NOT NULL,
    completed_at_us      BIGINT,
    CHECK (due_minor = fee_minor + send_minor)
);
CREATE INDEX payout_by_program ON payout (program_id, created_at_us, id);
CREATE INDEX payout_by_enrollment ON payout (enrollment_id, id);
CREATE INDEX payout_by_run ON payout (run_id, id);
CREATE INDEX payout_by_transfer ON payout (transfer_id) WHERE transfer_id IS NOT NULL;
CREATE INDEX payout_unknown ON payout (enrollment_id) WHERE state = 'unknown';

-- The lots a payout was made of. Kept when the payout fails; `lot.payout_id` says who holds a lot now.
CREATE TABLE payout_item (
    payout_id     TEXT COLLATE "C" NOT NULL REFERENCES payout (id),
    lot_id        TEXT COLLATE "C" NOT NULL,
    commission_id TEXT COLLATE "C" REFERENCES commission (id),
    amount_minor  BIGINT NOT NULL CHECK (amount_minor <> 0),
    PRIMARY KEY (payout_id, lot_id)
);
CREATE INDEX payout_item_by_commission ON payout_item (commission_id) WHERE commission_id IS NOT NULL;

-- Stops on the payouts of one enrollment.
CREATE TABLE payout_hold (
    id            TEXT COLLATE "C" PRIMARY KEY,
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('operator', 'anomaly')),
    reason        TEXT NOT NULL,
    actor         TEXT NOT NULL,
    placed_at_us  BIGINT NOT NULL,
    lifted_at_us  BIGINT,
    lifted_by     TEXT
);
CREATE INDEX payout_hold_open ON payout_hold (enrollment_id) WHERE lifted_at_us IS NULL;

-- Stops on all payouts. Receiving and booking go on.
CREATE TABLE payout_pause (
    id            TEXT COLLATE "C" PRIMARY KEY,
    kind          TEXT NOT NULL CHECK (kind IN ('operator', 'restored')),
    reason        TEXT NOT NULL,
    actor         TEXT NOT NULL,
    paused_at_us  BIGINT NOT NULL,
    resumed_at_us BIGINT,
    resumed_by    TEXT,
    note          TEXT
);
CREATE INDEX payout_pause_open ON payout_pause (id) WHERE resumed_at_us IS NULL;

-- One row. The beat only grows; a copy of it outside the database tells when the database went back.
CREATE TABLE instance (
    id                BIGINT PRIMARY KEY CHECK (id = 1),
    instance_id       TEXT COLLATE "C" NOT NULL,
    beat              BIGINT NOT NULL,
    beat_at_us        BIGINT NOT NULL,
    look_up_before_us BIGINT NOT NULL        -- intents older than this are looked up before they are sent
);

-- A charge made for a connected account (destination charge).
CREATE TABLE charge (
    id                    TEXT COLLATE "C" PRIMARY KEY,
    project_id            TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    client_reference      TEXT,
    amount_minor          BIGINT NOT NULL CHECK (amount_minor > 0),
    currency              TEXT COLLATE "C" NOT NULL,
    application_fee_minor BIGINT NOT NULL CHECK (application_fee_minor >= 0),
    destination           TEXT NOT NULL,
    state                 TEXT NOT NULL CHECK (state IN ('pending', 'submitting', 'unknown', 'waiting_account',
                              'requires_payment_method', 'requires_confirmation', 'requires_action', 'processing',
                              'requires_capture', 'succeeded', 'canceled', 'failed')),
    reason                TEXT,
    payment_intent_id     TEXT COLLATE "C",
    told_at_us            BIGINT  NOT NULL,            -- as of when the provider's status is known
    created_at_us         BIGINT NOT NULL,
    UNIQUE (project_id, client_reference)
);

-- Money that a provider is to move, at most once.
CREATE TABLE intent (
    id            TEXT COLLATE "C" PRIMARY KEY,           -- derived from what it pays, the same in a rebuilt database
    kind          TEXT NOT NULL CHECK (kind IN ('transfer', 'charge')),
    payout_id     TEXT COLLATE "C" UNIQUE REFERENCES payout (id),
    charge_id     TEXT COLLATE "C" UNIQUE REFERENCES charge (id),
    provider      TEXT NOT NULL,
    livemode      BOOLEAN NOT NULL,
    destination   TEXT NOT NULL,
    amount_minor  BIGINT NOT NULL CHECK (amount_minor > 0),
    currency      TEXT COLLATE "C" NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'unknown', 'succeeded', 'failed', 'canceled')),
    generation    BIGINT NOT NULL,
    object_id     TEXT COLLATE "C",                       -- the provider's object, once known
    created_at_us BIGINT NOT NULL,
    CHECK ((payout_id IS NULL) <> (charge_id IS NULL))
);
CREATE INDEX intent_by_object ON intent (object_id) WHERE object_id IS NOT NULL;

-- One idempotency key and the exact bytes that go with it.
CREATE TABLE generation (
    intent_id         TEXT COLLATE "C" NOT NULL REFERENCES intent (id),
    generation        BIGINT NOT NULL,
    idempotency_key   TEXT COLLATE "C" NOT NULL UNIQUE,
    path              TEXT NOT NULL,
    body              BYTEA NOT NULL,
    body_sha256       BYTEA NOT NULL,
    api_version       TEXT NOT NULL,
    first_sent_at_us  BIGINT,
    closed_at_us      BIGINT,
    proof             TEXT,                   -- why nothing was executed under this key
    PRIMARY KEY (intent_id, generation)
);

-- Every call, written down before it is made; its answer is added when it is known.
CREATE TABLE attempt (
    intent_id      TEXT COLLATE "C" NOT NULL REFERENCES intent (id),
    number         BIGINT NOT NULL,          -- 1, 2, 3, … per intent
    generation     BIGINT NOT NULL,
    kind           TEXT NOT NULL CHECK (kind IN ('send', 'look_up')),
    epoch          BIGINT NOT NULL,          -- of the lease it was made under
    sent_at_us     BIGINT NOT NULL,
    answered_at_us BIGINT,
    verdict        TEXT,                      -- none: nothing is known, so anything may have happened
    status         BIGINT,
    request_id     TEXT COLLATE "C",
    replayed       BOOLEAN,
    should_retry   BOOLEAN,
    error_code     TEXT,
    object_id      TEXT COLLATE "C",
    body_sha256    BYTEA,
    PRIMARY KEY (intent_id, number)
);

-- Who works on an intent, and when next.
CREATE TABLE job (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    kind               TEXT NOT NULL CHECK (kind IN ('transfer', 'charge')),
    intent_id          TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES intent (id),
    lane               TEXT COLLATE "C" NOT NULL,         -- the destination; one call at a time and node goes to each
    state              TEXT NOT NULL CHECK (state IN ('available', 'running', 'retryable', 'parked', 'unknown', 'completed', 'discarded')),
    reason             TEXT,
    attempts           BIGINT NOT NULL,
    epoch              BIGINT NOT NULL,      -- grows with every claim; a write with an older one is refused
    next_attempt_at_us BIGINT,               -- of a running job: when its lease ends; none: nothing is due
    woken_at_us        BIGINT,               -- when something it may wait for was told, since it was claimed
    created_at_us      BIGINT NOT NULL,
    finished_at_us     BIGINT
);
CREATE INDEX job_due ON job (next_attempt_at_us, id) WHERE next_attempt_at_us IS NOT NULL;
CREATE INDEX job_by_lane ON job (lane, next_attempt_at_us, id) WHERE next_attempt_at_us IS NOT NULL;
CREATE INDEX job_by_state ON job (state, id);
CREATE INDEX job_by_time ON job (created_at_us, id);
CREATE INDEX job_waiting ON job (reason, lane) WHERE state = 'parked';

-- How people ended a doubt.
CREATE TABLE resolution (
    id            TEXT COLLATE "C" PRIMARY KEY,
    intent_id     TEXT COLLATE "C" NOT NULL REFERENCES intent (id),
    generation    BIGINT NOT NULL,
    verdict       TEXT NOT NULL CHECK (verdict IN ('executed', 'not_executed', 'retry')),
    object_id     TEXT COLLATE "C",
    evidence      TEXT NOT NULL,
    actor         TEXT NOT NULL,
    approver      TEXT,
    created_at_us BIGINT NOT NULL
);
CREATE INDEX resolution_by_intent ON resolution (intent_id);

-- Transfers of which events told something that the payouts have not taken in yet.
CREATE TABLE transfer_news (
    project_id  TEXT COLLATE "C" NOT NULL,
    realm       TEXT COLLATE "C" NOT NULL,
    transfer_id TEXT COLLATE "C" NOT NULL,
    event_id    TEXT COLLATE "C",         -- the last event that told of it
    due_at_us   BIGINT NOT NULL,
    PRIMARY KEY (transfer_id, realm, project_id)
);
CREATE INDEX transfer_news_due ON transfer_news (due_at_us, transfer_id);

-- What one payout took of commissions when its transfer came back, as decisions (`rulings.md` 1, 15).
ALTER TABLE decision DROP CONSTRAINT decision_kind_check;
ALTER TABLE decision ADD CONSTRAINT decision_kind_check
    CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback', 'transfer_clawback'));

ALTER TABLE entry ALTER COLUMN commission_id DROP NOT NULL;
ALTER TABLE entry ADD COLUMN payout_id TEXT COLLATE "C" REFERENCES payout (id);
ALTER TABLE entry DROP CONSTRAINT entry_kind_check;
ALTER TABLE entry ADD CONSTRAINT entry_kind_check
    CHECK (kind IN ('accrual', 'adjustment', 'clawback', 'reinstatement', 'release', 'suspension',
        'payout_reserve', 'payout_settle', 'payout_release', 'platform_fee', 'transfer_returned'));
ALTER TABLE entry ADD CONSTRAINT entry_check CHECK ((commission_id IS NULL) <> (payout_id IS NULL));
ALTER TABLE entry ADD CONSTRAINT entry_payout_id_revision_key UNIQUE (payout_id, revision);

ALTER TABLE posting DROP CONSTRAINT posting_account_check;
ALTER TABLE posting ADD CONSTRAINT posting_account_check
    CHECK (account IN ('held', 'payable', 'in_transit', 'paid', 'expense', 'fee_income', 'returned_cash'));

ALTER TABLE lot ALTER COLUMN commission_id DROP NOT NULL;   -- none: cash that came back
ALTER TABLE lot DROP CONSTRAINT lot_kind_check;
ALTER TABLE lot ADD CONSTRAINT lot_kind_check
    CHECK (kind IN ('release', 'adjustment', 'carry_forward', 'reinstatement', 'suspension', 'returned'));
ALTER TABLE lot ADD CONSTRAINT lot_payout_id_fkey FOREIGN KEY (payout_id) REFERENCES payout (id);
CREATE INDEX lot_by_payout ON lot (payout_id) WHERE payout_id IS NOT NULL;

-- Bank payouts are shown by account.
CREATE INDEX bank_payout_by_account ON bank_payout (account_id, told_at_us);
