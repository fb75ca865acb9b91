-- The domain tables. Times are microseconds since the Unix epoch, UTC; amounts are minor units; ids,
-- states and currency codes are lower-case text. Keys begin
-- with their most selective column: a planner without statistics, as on a fresh install, would otherwise
-- walk everything of one project. Every table has the same columns on both engines.

-- Owners and affiliates are both organizations.
CREATE TABLE organization (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    email         TEXT,                       -- as written; personal data
    created_at_us INTEGER NOT NULL
) STRICT;

-- Normalised addresses of an organization, for finding self-referrals.
CREATE TABLE organization_email (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    email           TEXT NOT NULL,
    PRIMARY KEY (organization_id, email)
) STRICT;

-- One product of an owner.
CREATE TABLE project (
    id              TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    name            TEXT NOT NULL,
    created_at_us   INTEGER NOT NULL
) STRICT;

-- Webhook endpoints created through the API. The default endpoints live in the configuration.
CREATE TABLE endpoint (
    id             TEXT PRIMARY KEY,
    project_id     TEXT NOT NULL REFERENCES project (id),
    provider       TEXT NOT NULL,
    livemode       INTEGER NOT NULL CHECK (livemode IN (0, 1)),
    connect        INTEGER NOT NULL CHECK (connect IN (0, 1)),
    secrets_sealed BLOB NOT NULL,          -- sealed with the master key
    created_at_us  INTEGER NOT NULL,
    deleted_at_us  INTEGER
) STRICT;

-- API keys: only a hash of the secret is kept.
CREATE TABLE api_key (
    id              TEXT PRIMARY KEY,
    kind            TEXT NOT NULL CHECK (kind IN ('operator', 'organization', 'client')),
    organization_id TEXT REFERENCES organization (id),
    project_id      TEXT REFERENCES project (id),
    scopes          TEXT NOT NULL,            -- comma-separated
    secret_hash     BLOB NOT NULL,
    created_at_us   INTEGER NOT NULL,
    expires_at_us   INTEGER,
    revoked_at_us   INTEGER
) STRICT;

-- Every verified webhook event, once. The unique key is the provider's own identity of the event.
-- Keys stay for ever; archiving may empty the body.
CREATE TABLE inbox (
    id                     TEXT PRIMARY KEY,
    provider               TEXT NOT NULL,
    endpoint_id            TEXT NOT NULL,
    project_id             TEXT NOT NULL,
    account                TEXT NOT NULL,     -- connected account, '' for none
    livemode               INTEGER NOT NULL CHECK (livemode IN (0, 1)),
    provider_event_id      TEXT NOT NULL,
    event_type             TEXT NOT NULL,
    provider_created_at_us INTEGER,
    received_at_us         INTEGER NOT NULL,
    source                 TEXT NOT NULL CHECK (source IN ('webhook', 'replay', 'reconcile', 'api')),
    state                  TEXT NOT NULL CHECK (state IN ('received', 'applied', 'ignored', 'parked')),
    reason                 TEXT,
    attempts               INTEGER NOT NULL,
    next_attempt_at_us     INTEGER NOT NULL,
    processed_at_us        INTEGER,
    body                   BLOB NOT NULL,  -- the signed bytes, exactly
    body_sha256            BLOB NOT NULL,
    UNIQUE (provider, endpoint_id, account, livemode, provider_event_id)
) STRICT;
-- The processor claims by this; it stays small because processed rows leave it.
CREATE INDEX inbox_due ON inbox (next_attempt_at_us, id) WHERE state = 'received';
CREATE INDEX inbox_by_state ON inbox (state, id);

-- What an operator should look at. One row per kind and object, however often it is seen.
CREATE TABLE finding (
    id             TEXT PRIMARY KEY,
    kind           TEXT NOT NULL,
    severity       TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    object         TEXT NOT NULL,
    detail         TEXT NOT NULL,
    created_at_us  INTEGER NOT NULL,
    resolved_at_us INTEGER
) STRICT;
CREATE INDEX finding_open ON finding (id) WHERE resolved_at_us IS NULL;
CREATE INDEX finding_open_by_object ON finding (object) WHERE resolved_at_us IS NULL;

CREATE TABLE program (
    id                      TEXT PRIMARY KEY,
    organization_id         TEXT NOT NULL REFERENCES organization (id),
    name                    TEXT NOT NULL,
    conversion_kind         TEXT NOT NULL CHECK (conversion_kind IN ('event', 'payment', 'entitlement')),
    attribution_model       TEXT NOT NULL CHECK (attribution_model IN ('first_touch', 'last_touch')),
    attribution_window_days INTEGER NOT NULL,
    platform_fee_bps        INTEGER NOT NULL CHECK (platform_fee_bps BETWEEN 0 AND 10000),
    payout_schedule         TEXT CHECK (payout_schedule IN ('weekly', 'monthly')),
    min_payout              TEXT NOT NULL,    -- JSON: minor units by currency
    on_transfer_reversed    TEXT NOT NULL CHECK (on_transfer_reversed IN ('clawback', 'requeue')),
    created_at_us           INTEGER NOT NULL
) STRICT;
CREATE INDEX program_by_organization ON program (organization_id, id);

-- Status over time: what held when a sale was paid decides.
CREATE TABLE program_status (
    program_id      TEXT NOT NULL REFERENCES program (id),
    effective_at_us INTEGER NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('draft', 'active', 'paused', 'archived')),
    PRIMARY KEY (program_id, effective_at_us)
) STRICT;

-- Every version of a program's terms.
CREATE TABLE program_terms (
    program_id      TEXT NOT NULL REFERENCES program (id),
    version         INTEGER NOT NULL,
    effective_at_us INTEGER NOT NULL,
    terms           TEXT NOT NULL,            -- JSON, domain::terms::Terms
    PRIMARY KEY (program_id, version)
) STRICT;

CREATE TABLE enrollment (
    id                   TEXT PRIMARY KEY,
    program_id           TEXT NOT NULL REFERENCES program (id),
    organization_id      TEXT NOT NULL REFERENCES organization (id),
    parent_enrollment_id TEXT REFERENCES enrollment (id),
    created_at_us        INTEGER NOT NULL,
    UNIQUE (program_id, organization_id)
) STRICT;

CREATE TABLE enrollment_status (
    enrollment_id   TEXT NOT NULL REFERENCES enrollment (id),
    effective_at_us INTEGER NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('invited', 'pending', 'active', 'rejected', 'suspended')),
    PRIMARY KEY (enrollment_id, effective_at_us)
) STRICT;

-- Referral and coupon codes, unique per owner; compared in lower case.
CREATE TABLE code (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    code_normalised TEXT NOT NULL,
    code            TEXT NOT NULL,
    kind            TEXT NOT NULL CHECK (kind IN ('referral', 'coupon')),
    enrollment_id   TEXT NOT NULL REFERENCES enrollment (id),
    valid_from_us   INTEGER NOT NULL,
    valid_to_us     INTEGER,
    PRIMARY KEY (organization_id, code_normalised)
) STRICT;
CREATE INDEX code_by_enrollment ON code (enrollment_id);

-- The provider account an affiliate is paid to.
CREATE TABLE payout_account (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    provider        TEXT NOT NULL,
    account_id      TEXT NOT NULL,
    created_at_us   INTEGER NOT NULL,
    PRIMARY KEY (organization_id, provider)
) STRICT;

-- What events said of a provider account; the newest statement holds.
CREATE TABLE provider_account (
    project_id        TEXT NOT NULL,
    realm             TEXT NOT NULL,
    account_id        TEXT NOT NULL,
    transfers_active  INTEGER NOT NULL CHECK (transfers_active IN (0, 1)),
    payouts_enabled   INTEGER NOT NULL CHECK (payouts_enabled IN (0, 1)),
    charges_enabled   INTEGER NOT NULL CHECK (charges_enabled IN (0, 1)),
    details_submitted INTEGER NOT NULL CHECK (details_submitted IN (0, 1)),
    disabled_reason   TEXT,
    gone              INTEGER NOT NULL CHECK (gone IN (0, 1)),
    told_at_us        INTEGER NOT NULL,
    PRIMARY KEY (account_id, realm, project_id)
) STRICT;

-- A provider's payment. The cached columns are computed from the fact rows below at every fold.
CREATE TABLE sale (
    id               TEXT PRIMARY KEY,
    project_id       TEXT NOT NULL REFERENCES project (id),
    realm            TEXT NOT NULL,
    merged_into      TEXT REFERENCES sale (id),
    status           TEXT NOT NULL CHECK (status IN ('open', 'complete', 'partial_refunded', 'refunded', 'disputed')),
    currency         TEXT,
    amount_minor     INTEGER,
    tax_minor        INTEGER,
    refunded_minor   INTEGER NOT NULL,
    disputed_minor   INTEGER NOT NULL,
    paid_at_us       INTEGER,
    received_at_us   INTEGER NOT NULL,          -- of the last event about it
    created_at_us    INTEGER NOT NULL
) STRICT;

-- Every id that leads to a sale.
CREATE TABLE sale_alias (
    project_id TEXT NOT NULL,
    realm      TEXT NOT NULL,
    kind       TEXT NOT NULL,
    object_id  TEXT NOT NULL,
    sale_id    TEXT NOT NULL REFERENCES sale (id),
    PRIMARY KEY (object_id, kind, realm, project_id)
) STRICT;
CREATE INDEX sale_alias_by_sale ON sale_alias (sale_id);

-- Fact: captured money of one object.
CREATE TABLE payment (
    project_id     TEXT NOT NULL,
    realm          TEXT NOT NULL,
    kind           TEXT NOT NULL,
    object_id      TEXT NOT NULL,
    sale_id        TEXT NOT NULL REFERENCES sale (id),
    parent_kind    TEXT,
    parent_id      TEXT,
    amount_minor   INTEGER NOT NULL,
    tax_minor      INTEGER,
    currency       TEXT NOT NULL,
    paid_at_us     INTEGER NOT NULL,
    customer       TEXT,
    subscription   TEXT,
    billing_reason TEXT,
    PRIMARY KEY (object_id, kind, realm, project_id)
) STRICT;
CREATE INDEX payment_by_sale ON payment (sale_id);
CREATE INDEX payment_by_customer ON payment (customer, realm, project_id) WHERE customer IS NOT NULL;
CREATE INDEX payment_by_subscription ON payment (subscription, realm, project_id) WHERE subscription IS NOT NULL;

-- Normalised e-mail addresses of the buyer, apart from the money so that they can be erased.
CREATE TABLE sale_buyer (
    sale_id TEXT NOT NULL REFERENCES sale (id),
    email   TEXT NOT NULL,
    PRIMARY KEY (sale_id, email)
) STRICT;

-- Fact: one refund object.
CREATE TABLE refund (
    project_id   TEXT NOT NULL,
    realm        TEXT NOT NULL,
    refund_id    TEXT NOT NULL,
    sale_id      TEXT NOT NULL REFERENCES sale (id),
    charge_kind  TEXT NOT NULL,
    charge_id    TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency     TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('awaiting_approval', 'active', 'void')),
    PRIMARY KEY (refund_id, realm, project_id)
) STRICT;
CREATE INDEX refund_by_sale ON refund (sale_id);

-- Fact: the highest running total refunded of one charge.
CREATE TABLE refund_total (
    project_id  TEXT NOT NULL,
    realm       TEXT NOT NULL,
    charge_kind TEXT NOT NULL,
    charge_id   TEXT NOT NULL,
    sale_id     TEXT NOT NULL REFERENCES sale (id),
    total_minor INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    PRIMARY KEY (charge_id, charge_kind, realm, project_id)
) STRICT;
CREATE INDEX refund_total_by_sale ON refund_total (sale_id);

-- Fact: one dispute or chargeback.
CREATE TABLE dispute (
    project_id       TEXT NOT NULL,
    realm            TEXT NOT NULL,
    dispute_id       TEXT NOT NULL,
    sale_id          TEXT NOT NULL REFERENCES sale (id),
    charge_kind      TEXT NOT NULL,
    charge_id        TEXT NOT NULL,
    amount_minor     INTEGER NOT NULL,
    currency         TEXT NOT NULL,
    phase            TEXT NOT NULL CHECK (phase IN ('inquiry', 'inquiry_closed', 'open', 'lost', 'won')),
    withdrawn_minor  INTEGER NOT NULL,
    reinstated_minor INTEGER NOT NULL,
    PRIMARY KEY (dispute_id, realm, project_id)
) STRICT;
CREATE INDEX dispute_by_sale ON dispute (sale_id);

-- Fact: a Paddle chargeback_reverse adjustment.
CREATE TABLE chargeback_reversal (
    project_id   TEXT NOT NULL,
    realm        TEXT NOT NULL,
    reverse_id   TEXT NOT NULL,
    sale_id      TEXT NOT NULL REFERENCES sale (id),
    charge_kind  TEXT NOT NULL,
    charge_id    TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency     TEXT NOT NULL,
    PRIMARY KEY (reverse_id, realm, project_id)
) STRICT;
CREATE INDEX chargeback_reversal_by_sale ON chargeback_reversal (sale_id);

-- Subscriptions and customers that carry attribution. Locked before sales, so that a code and a sale
-- of the same customer that are processed at the same time see each other.
CREATE TABLE carrier (
    project_id  TEXT NOT NULL,
    realm       TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('subscription', 'customer')),
    carrier_id  TEXT NOT NULL,
    ended_at_us INTEGER,
    PRIMARY KEY (carrier_id, kind, realm, project_id)
) STRICT;

-- Fact: a code told for a sale object, a subscription or a customer.
CREATE TABLE attribution_hint (
    project_id   TEXT NOT NULL,
    realm        TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    source       INTEGER NOT NULL,              -- precedence: metadata key index, 100000 client reference, 100001 coupon
    code         TEXT NOT NULL,
    at_us        INTEGER NOT NULL,                 -- earliest time it was told
    PRIMARY KEY (subject_id, subject_kind, realm, project_id, source, code)
) STRICT;

-- Finds what was told of a code that is created or begins to earn later. Codes compare in ASCII lower
-- case, which is what LOWER gives here.
CREATE INDEX attribution_hint_by_code ON attribution_hint (project_id, LOWER(code));

-- Sales to be folded again, and why: work that reaches too many sales for the transaction it came up in.
-- No foreign key to sale: whoever asks would wait for everybody who works on one of the sales.
CREATE TABLE refold (
    sale_id         TEXT NOT NULL,
    cause_kind      TEXT NOT NULL CHECK (cause_kind IN ('event', 'decision', 'time')),
    cause_id        TEXT NOT NULL,
    requested_at_us INTEGER NOT NULL,
    due_at_us       INTEGER NOT NULL,             -- later than requested where it failed before
    PRIMARY KEY (sale_id, cause_kind, cause_id)
) STRICT;
CREATE INDEX refold_due ON refold (due_at_us, sale_id);
CREATE INDEX refold_requested ON refold (requested_at_us);

-- Which events said something about a sale.
CREATE TABLE sale_event (
    sale_id  TEXT NOT NULL REFERENCES sale (id),
    inbox_id TEXT NOT NULL REFERENCES inbox (id),
    PRIMARY KEY (sale_id, inbox_id)
) STRICT;

CREATE TABLE conversion (
    id            TEXT PRIMARY KEY,
    sale_id       TEXT NOT NULL REFERENCES sale (id),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    program_id    TEXT NOT NULL REFERENCES program (id),
    project_id    TEXT NOT NULL REFERENCES project (id),
    kind          TEXT NOT NULL CHECK (kind IN ('event', 'payment', 'entitlement')),
    external_id   TEXT,
    attributed_by TEXT NOT NULL,
    code          TEXT,
    created_at_us INTEGER NOT NULL,
    UNIQUE (sale_id, enrollment_id)
) STRICT;
CREATE INDEX conversion_by_program ON conversion (program_id, created_at_us, id);

-- What people decided. Never changed; a later decision is a later row.
CREATE TABLE decision (
    id            TEXT PRIMARY KEY,
    sale_id       TEXT NOT NULL REFERENCES sale (id),   -- follows the sale into a merge
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback')),
    reason        TEXT,
    note          TEXT,
    amount_minor  INTEGER,
    actor         TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX decision_by_sale ON decision (sale_id);

-- What one enrollment earns from one sale: the posted state, always earned - clawed = held + released.
CREATE TABLE commission (
    id               TEXT PRIMARY KEY,
    conversion_id    TEXT NOT NULL REFERENCES conversion (id),
    sale_id          TEXT NOT NULL REFERENCES sale (id),
    enrollment_id    TEXT NOT NULL REFERENCES enrollment (id),
    program_id       TEXT NOT NULL REFERENCES program (id),
    level            INTEGER NOT NULL,
    currency         TEXT NOT NULL,
    terms            TEXT NOT NULL,           -- frozen JSON
    terms_version    INTEGER NOT NULL,
    base_minor       INTEGER NOT NULL,
    amount_minor     INTEGER NOT NULL,
    earned_minor     INTEGER NOT NULL,
    clawed_minor     INTEGER NOT NULL,
    held_minor       INTEGER NOT NULL,
    released_minor   INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('awaiting_review', 'held', 'flagged', 'payable', 'in_payout', 'paid', 'denied', 'reversed')),
    reason           TEXT,
    claimed          INTEGER NOT NULL CHECK (claimed IN (0, 1)),
    revision         INTEGER NOT NULL,
    paid_at_us       INTEGER NOT NULL,
    due_at_us        INTEGER,                   -- when time alone can change it next
    created_at_us    INTEGER NOT NULL,
    CHECK (earned_minor - clawed_minor = held_minor + released_minor),
    UNIQUE (sale_id, enrollment_id, level)
) STRICT;
CREATE INDEX commission_due ON commission (due_at_us, id) WHERE due_at_us IS NOT NULL;
CREATE INDEX commission_by_program ON commission (program_id, created_at_us, id);
CREATE INDEX commission_by_enrollment ON commission (enrollment_id, id);

-- What stops or stopped a commission; each cause once.
CREATE TABLE commission_flag (
    commission_id TEXT NOT NULL REFERENCES commission (id),
    cause_kind    TEXT NOT NULL,
    cause_id      TEXT NOT NULL,
    raised_at_us  INTEGER NOT NULL,
    cleared_at_us INTEGER,
    cleared_by    TEXT,
    PRIMARY KEY (commission_id, cause_kind, cause_id)
) STRICT;

-- Journal entries: append-only, one per commission and revision.
CREATE TABLE entry (
    id            TEXT PRIMARY KEY,
    commission_id TEXT NOT NULL REFERENCES commission (id),
    revision      INTEGER NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('accrual', 'adjustment', 'clawback', 'reinstatement', 'release', 'suspension')),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    program_id    TEXT NOT NULL REFERENCES program (id),
    currency      TEXT NOT NULL,
    causes        TEXT NOT NULL,              -- JSON: the events and decisions behind it
    content_hash  BLOB NOT NULL,
    created_at_us INTEGER NOT NULL,
    UNIQUE (commission_id, revision)
) STRICT;

-- The lines of an entry; amounts are positive, the side says which way.
CREATE TABLE posting (
    entry_id     TEXT NOT NULL REFERENCES entry (id),
    line         INTEGER NOT NULL,
    owner_id     TEXT NOT NULL,
    account      TEXT NOT NULL CHECK (account IN ('held', 'payable', 'in_transit', 'paid', 'expense', 'fee_income', 'returned_cash', 'cash_out')),
    side         TEXT NOT NULL CHECK (side IN ('debit', 'credit')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (entry_id, line)
) STRICT;

-- Sums of the postings, kept beside them and proven equal by `remit doctor`.
CREATE TABLE balance (
    owner_id     TEXT NOT NULL,
    account      TEXT NOT NULL,
    currency     TEXT NOT NULL,
    debit_minor  INTEGER NOT NULL,
    credit_minor INTEGER NOT NULL,
    PRIMARY KEY (owner_id, account, currency)
) STRICT;

-- Signed parts of the payable balance. Unclaimed lots sum to the payable balance.
CREATE TABLE lot (
    id            TEXT PRIMARY KEY,
    entry_id      TEXT NOT NULL REFERENCES entry (id),
    commission_id TEXT NOT NULL REFERENCES commission (id),
    enrollment_id TEXT NOT NULL REFERENCES enrollment (id),
    currency      TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('release', 'adjustment', 'carry_forward', 'reinstatement', 'suspension')),
    amount_minor  INTEGER NOT NULL CHECK (amount_minor <> 0),
    payout_id     TEXT,                       -- the payout that claimed it
    created_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX lot_unclaimed ON lot (enrollment_id, currency, id) WHERE payout_id IS NULL;
CREATE INDEX lot_by_commission ON lot (commission_id);

-- Transfers as the provider shows them.
CREATE TABLE transfer (
    project_id     TEXT NOT NULL,
    realm          TEXT NOT NULL,
    transfer_id    TEXT NOT NULL,
    intent_id      TEXT,
    amount_minor   INTEGER NOT NULL,
    currency       TEXT NOT NULL,
    destination    TEXT,
    of_charge      INTEGER NOT NULL CHECK (of_charge IN (0, 1)),
    reversed_minor INTEGER NOT NULL,            -- highest cumulative amount told
    created_at_us  INTEGER NOT NULL,
    PRIMARY KEY (transfer_id, realm, project_id)
) STRICT;
CREATE INDEX transfer_by_intent ON transfer (intent_id) WHERE intent_id IS NOT NULL;

CREATE TABLE transfer_reversal (
    project_id   TEXT NOT NULL,
    realm        TEXT NOT NULL,
    reversal_id  TEXT NOT NULL,
    transfer_id  TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    PRIMARY KEY (reversal_id, realm, project_id)
) STRICT;

-- Payouts of connected accounts to their banks: shown, never ours.
CREATE TABLE bank_payout (
    project_id   TEXT NOT NULL,
    realm        TEXT NOT NULL,
    payout_id    TEXT NOT NULL,
    account_id   TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency     TEXT NOT NULL,
    status       TEXT NOT NULL,
    failure_code TEXT,
    told_at_us   INTEGER NOT NULL,
    PRIMARY KEY (payout_id, realm, project_id)
) STRICT;

-- The organization and project that the default endpoints belong to.
INSERT INTO organization (id, name, email, created_at_us) VALUES ('org_default', 'Default organization', NULL, 0);
INSERT INTO project (id, organization_id, name, created_at_us) VALUES ('proj_default', 'org_default', 'Default project', 0);

-- Append-only, enforced where nothing in the program can forget it.
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
