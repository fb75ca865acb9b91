-- The domain tables. Times are microseconds since the Unix epoch, UTC; amounts are minor units; ids,
-- states and currency codes are lower-case text. Keys begin
-- with their most selective column: a planner without statistics, as on a fresh install, would otherwise
-- walk everything of one project. Every table has the same columns on both engines.

-- Owners and affiliates are both organizations.
CREATE TABLE organization (
    id            TEXT COLLATE "C" PRIMARY KEY,
    name          TEXT NOT NULL,
    email         TEXT,                       -- as written; personal data
    created_at_us BIGINT NOT NULL
);

-- Normalised addresses of an organization, for finding self-referrals.
CREATE TABLE organization_email (
    organization_id TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    email           TEXT NOT NULL,
    PRIMARY KEY (organization_id, email)
);

-- One product of an owner.
CREATE TABLE project (
    id              TEXT COLLATE "C" PRIMARY KEY,
    organization_id TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    name            TEXT NOT NULL,
    created_at_us   BIGINT NOT NULL
);

-- Webhook endpoints created through the API. The default endpoints live in the configuration.
CREATE TABLE endpoint (
    id             TEXT COLLATE "C" PRIMARY KEY,
    project_id     TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    provider       TEXT NOT NULL,
    livemode       BOOLEAN NOT NULL,
    connect        BOOLEAN NOT NULL,
    secrets_sealed BYTEA NOT NULL,          -- sealed with the master key
    created_at_us  BIGINT NOT NULL,
    deleted_at_us  BIGINT
);

-- API keys: only a hash of the secret is kept.
CREATE TABLE api_key (
    id              TEXT COLLATE "C" PRIMARY KEY,
    kind            TEXT NOT NULL CHECK (kind IN ('operator', 'organization', 'client')),
    organization_id TEXT COLLATE "C" REFERENCES organization (id),
    project_id      TEXT COLLATE "C" REFERENCES project (id),
    scopes          TEXT NOT NULL,            -- comma-separated
    secret_hash     BYTEA NOT NULL,
    created_at_us   BIGINT NOT NULL,
    expires_at_us   BIGINT,
    revoked_at_us   BIGINT
);

-- Every verified webhook event, once. The unique key is the provider's own identity of the event.
-- Keys stay for ever; archiving may empty the body.
CREATE TABLE inbox (
    id                     TEXT COLLATE "C" PRIMARY KEY,
    provider               TEXT NOT NULL,
    endpoint_id            TEXT COLLATE "C" NOT NULL,
    project_id             TEXT COLLATE "C" NOT NULL,
    account                TEXT COLLATE "C" NOT NULL,     -- connected account, '' for none
    livemode               BOOLEAN NOT NULL,
    provider_event_id      TEXT COLLATE "C" NOT NULL,
    event_type             TEXT NOT NULL,
    provider_created_at_us BIGINT,
    received_at_us         BIGINT NOT NULL,
    source                 TEXT NOT NULL CHECK (source IN ('webhook', 'replay', 'reconcile', 'api')),
    state                  TEXT NOT NULL CHECK (state IN ('received', 'applied', 'ignored', 'parked')),
    reason                 TEXT,
    attempts               BIGINT NOT NULL,
    next_attempt_at_us     BIGINT NOT NULL,
    processed_at_us        BIGINT,
    body                   BYTEA NOT NULL,  -- the signed bytes, exactly
    body_sha256            BYTEA NOT NULL,
    UNIQUE (provider, endpoint_id, account, livemode, provider_event_id)
);
-- The processor claims by this; it stays small because processed rows leave it.
CREATE INDEX inbox_due ON inbox (next_attempt_at_us, id) WHERE state = 'received';
CREATE INDEX inbox_by_state ON inbox (state, id);

-- What an operator should look at. One row per kind and object, however often it is seen.
CREATE TABLE finding (
    id             TEXT COLLATE "C" PRIMARY KEY,
    kind           TEXT NOT NULL,
    severity       TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    object         TEXT COLLATE "C" NOT NULL,
    detail         TEXT NOT NULL,
    created_at_us  BIGINT NOT NULL,
    resolved_at_us BIGINT
);
CREATE INDEX finding_open ON finding (id) WHERE resolved_at_us IS NULL;
CREATE INDEX finding_open_by_object ON finding (object) WHERE resolved_at_us IS NULL;

CREATE TABLE program (
    id                      TEXT COLLATE "C" PRIMARY KEY,
    organization_id         TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    name                    TEXT NOT NULL,
    conversion_kind         TEXT NOT NULL CHECK (conversion_kind IN ('event', 'payment', 'entitlement')),
    attribution_model       TEXT NOT NULL CHECK (attribution_model IN ('first_touch', 'last_touch')),
    attribution_window_days BIGINT NOT NULL,
    platform_fee_bps        BIGINT NOT NULL CHECK (platform_fee_bps BETWEEN 0 AND 10000),
    payout_schedule         TEXT CHECK (payout_schedule IN ('weekly', 'monthly')),
    min_payout              TEXT NOT NULL,    -- JSON: minor units by currency
    on_transfer_reversed    TEXT NOT NULL CHECK (on_transfer_reversed IN ('clawback', 'requeue')),
    created_at_us           BIGINT NOT NULL
);
CREATE INDEX program_by_organization ON program (organization_id, id);

-- Status over time: what held when a sale was paid decides.
CREATE TABLE program_status (
    program_id      TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    effective_at_us BIGINT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('draft', 'active', 'paused', 'archived')),
    PRIMARY KEY (program_id, effective_at_us)
);

-- Every version of a program's terms.
CREATE TABLE program_terms (
    program_id      TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    version         BIGINT NOT NULL,
    effective_at_us BIGINT NOT NULL,
    terms           TEXT NOT NULL,            -- JSON, domain::terms::Terms
    PRIMARY KEY (program_id, version)
);

CREATE TABLE enrollment (
    id                   TEXT COLLATE "C" PRIMARY KEY,
    program_id           TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    organization_id      TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    parent_enrollment_id TEXT COLLATE "C" REFERENCES enrollment (id),
    created_at_us        BIGINT NOT NULL,
    UNIQUE (program_id, organization_id)
);

CREATE TABLE enrollment_status (
    enrollment_id   TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    effective_at_us BIGINT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('invited', 'pending', 'active', 'rejected', 'suspended')),
    PRIMARY KEY (enrollment_id, effective_at_us)
);

-- Referral and coupon codes, unique per owner; compared in lower case.
CREATE TABLE code (
    organization_id TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    code_normalised TEXT COLLATE "C" NOT NULL,
    code            TEXT NOT NULL,
    kind            TEXT NOT NULL CHECK (kind IN ('referral', 'coupon')),
    enrollment_id   TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    valid_from_us   BIGINT NOT NULL,
    valid_to_us     BIGINT,
    PRIMARY KEY (organization_id, code_normalised)
);
CREATE INDEX code_by_enrollment ON code (enrollment_id);

-- The provider account an affiliate is paid to.
CREATE TABLE payout_account (
    organization_id TEXT COLLATE "C" NOT NULL REFERENCES organization (id),
    provider        TEXT NOT NULL,
    account_id      TEXT COLLATE "C" NOT NULL,
    created_at_us   BIGINT NOT NULL,
    PRIMARY KEY (organization_id, provider)
);

-- What events said of a provider account; the newest statement holds.
CREATE TABLE provider_account (
    project_id        TEXT COLLATE "C" NOT NULL,
    realm             TEXT COLLATE "C" NOT NULL,
    account_id        TEXT COLLATE "C" NOT NULL,
    transfers_active  BOOLEAN NOT NULL,
    payouts_enabled   BOOLEAN NOT NULL,
    charges_enabled   BOOLEAN NOT NULL,
    details_submitted BOOLEAN NOT NULL,
    disabled_reason   TEXT,
    gone              BOOLEAN NOT NULL,
    told_at_us        BIGINT NOT NULL,
    PRIMARY KEY (account_id, realm, project_id)
);

-- A provider's payment. The cached columns are computed from the fact rows below at every fold.
CREATE TABLE sale (
    id               TEXT COLLATE "C" PRIMARY KEY,
    project_id       TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    realm            TEXT COLLATE "C" NOT NULL,
    merged_into      TEXT COLLATE "C" REFERENCES sale (id),
    status           TEXT NOT NULL CHECK (status IN ('open', 'complete', 'partial_refunded', 'refunded', 'disputed')),
    currency         TEXT,
    amount_minor     BIGINT,
    tax_minor        BIGINT,
    refunded_minor   BIGINT NOT NULL,
    disputed_minor   BIGINT NOT NULL,
    paid_at_us       BIGINT,
    received_at_us   BIGINT NOT NULL,          -- of the last event about it
    created_at_us    BIGINT NOT NULL
);

-- Every id that leads to a sale.
CREATE TABLE sale_alias (
    project_id TEXT COLLATE "C" NOT NULL,
    realm      TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    object_id  TEXT COLLATE "C" NOT NULL,
    sale_id    TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    PRIMARY KEY (object_id, kind, realm, project_id)
);
CREATE INDEX sale_alias_by_sale ON sale_alias (sale_id);

-- Fact: captured money of one object.
CREATE TABLE payment (
    project_id     TEXT COLLATE "C" NOT NULL,
    realm          TEXT COLLATE "C" NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    object_id      TEXT COLLATE "C" NOT NULL,
    sale_id        TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    parent_kind    TEXT,
    parent_id      TEXT,
    amount_minor   BIGINT NOT NULL,
    tax_minor      BIGINT,
    currency       TEXT NOT NULL,
    paid_at_us     BIGINT NOT NULL,
    customer       TEXT COLLATE "C",
    subscription   TEXT COLLATE "C",
    billing_reason TEXT,
    PRIMARY KEY (object_id, kind, realm, project_id)
);
CREATE INDEX payment_by_sale ON payment (sale_id);
CREATE INDEX payment_by_customer ON payment (customer, realm, project_id) WHERE customer IS NOT NULL;
CREATE INDEX payment_by_subscription ON payment (subscription, realm, project_id) WHERE subscription IS NOT NULL;

-- Normalised e-mail addresses of the buyer, apart from the money so that they can be erased.
CREATE TABLE sale_buyer (
    sale_id TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    email   TEXT NOT NULL,
    PRIMARY KEY (sale_id, email)
);

-- Fact: one refund object.
CREATE TABLE refund (
    project_id   TEXT COLLATE "C" NOT NULL,
    realm        TEXT COLLATE "C" NOT NULL,
    refund_id    TEXT COLLATE "C" NOT NULL,
    sale_id      TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    charge_kind  TEXT NOT NULL,
    charge_id    TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency     TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('awaiting_approval', 'active', 'void')),
    PRIMARY KEY (refund_id, realm, project_id)
);
CREATE INDEX refund_by_sale ON refund (sale_id);

-- Fact: the highest running total refunded of one charge.
CREATE TABLE refund_total (
    project_id  TEXT COLLATE "C" NOT NULL,
    realm       TEXT COLLATE "C" NOT NULL,
    charge_kind TEXT COLLATE "C" NOT NULL,
    charge_id   TEXT COLLATE "C" NOT NULL,
    sale_id     TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    total_minor BIGINT NOT NULL,
    currency    TEXT NOT NULL,
    PRIMARY KEY (charge_id, charge_kind, realm, project_id)
);
CREATE INDEX refund_total_by_sale ON refund_total (sale_id);

-- Fact: one dispute or chargeback.
CREATE TABLE dispute (
    project_id       TEXT COLLATE "C" NOT NULL,
    realm            TEXT COLLATE "C" NOT NULL,
    dispute_id       TEXT COLLATE "C" NOT NULL,
    sale_id          TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    charge_kind      TEXT NOT NULL,
    charge_id        TEXT COLLATE "C" NOT NULL,
    amount_minor     BIGINT NOT NULL,
    currency         TEXT NOT NULL,
    phase            TEXT NOT NULL CHECK (phase IN ('inquiry', 'inquiry_closed', 'open', 'lost', 'won')),
    withdrawn_minor  BIGINT NOT NULL,
    reinstated_minor BIGINT NOT NULL,
    PRIMARY KEY (dispute_id, realm, project_id)
);
CREATE INDEX dispute_by_sale ON dispute (sale_id);

-- Fact: a Paddle chargeback_reverse adjustment.
CREATE TABLE chargeback_reversal (
    project_id   TEXT COLLATE "C" NOT NULL,
    realm        TEXT COLLATE "C" NOT NULL,
    reverse_id   TEXT COLLATE "C" NOT NULL,
    sale_id      TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    charge_kind  TEXT NOT NULL,
    charge_id    TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency     TEXT NOT NULL,
    PRIMARY KEY (reverse_id, realm, project_id)
);
CREATE INDEX chargeback_reversal_by_sale ON chargeback_reversal (sale_id);

-- Subscriptions and customers that carry attribution. Locked before sales, so that a code and a sale
-- of the same customer that are processed at the same time see each other.
CREATE TABLE carrier (
    project_id  TEXT COLLATE "C" NOT NULL,
    realm       TEXT COLLATE "C" NOT NULL,
    kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('subscription', 'customer')),
    carrier_id  TEXT COLLATE "C" NOT NULL,
    ended_at_us BIGINT,
    PRIMARY KEY (carrier_id, kind, realm, project_id)
);

-- Fact: a code told for a sale object, a subscription or a customer.
CREATE TABLE attribution_hint (
    project_id   TEXT COLLATE "C" NOT NULL,
    realm        TEXT COLLATE "C" NOT NULL,
    subject_kind TEXT COLLATE "C" NOT NULL,
    subject_id   TEXT COLLATE "C" NOT NULL,
    source       BIGINT NOT NULL,              -- precedence: metadata key index, 100000 client reference, 100001 coupon
    code         TEXT COLLATE "C" NOT NULL,
    at_us        BIGINT NOT NULL,                 -- earliest time it was told
    PRIMARY KEY (subject_id, subject_kind, realm, project_id, source, code)
);

-- Finds what was told of a code that is created or begins to earn later. Codes compare in ASCII lower
-- case, which is what LOWER gives here.
CREATE INDEX attribution_hint_by_code ON attribution_hint (project_id, LOWER(code));

-- Sales to be folded again, and why: work that reaches too many sales for the transaction it came up in.
-- No foreign key to sale: whoever asks would wait for everybody who works on one of the sales.
CREATE TABLE refold (
    sale_id         TEXT COLLATE "C" NOT NULL,
    cause_kind      TEXT COLLATE "C" NOT NULL CHECK (cause_kind IN ('event', 'decision', 'time')),
    cause_id        TEXT COLLATE "C" NOT NULL,
    requested_at_us BIGINT NOT NULL,
    due_at_us       BIGINT NOT NULL,             -- later than requested where it failed before
    PRIMARY KEY (sale_id, cause_kind, cause_id)
);
CREATE INDEX refold_due ON refold (due_at_us, sale_id);
CREATE INDEX refold_requested ON refold (requested_at_us);

-- Which events said something about a sale.
CREATE TABLE sale_event (
    sale_id  TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    inbox_id TEXT COLLATE "C" NOT NULL REFERENCES inbox (id),
    PRIMARY KEY (sale_id, inbox_id)
);

CREATE TABLE conversion (
    id            TEXT COLLATE "C" PRIMARY KEY,
    sale_id       TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    program_id    TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    project_id    TEXT COLLATE "C" NOT NULL REFERENCES project (id),
    kind          TEXT NOT NULL CHECK (kind IN ('event', 'payment', 'entitlement')),
    external_id   TEXT COLLATE "C",
    attributed_by TEXT NOT NULL,
    code          TEXT,
    created_at_us BIGINT NOT NULL,
    UNIQUE (sale_id, enrollment_id)
);
CREATE INDEX conversion_by_program ON conversion (program_id, created_at_us, id);

-- What people decided. Never changed; a later decision is a later row.
CREATE TABLE decision (
    id            TEXT COLLATE "C" PRIMARY KEY,
    sale_id       TEXT COLLATE "C" NOT NULL REFERENCES sale (id),   -- follows the sale into a merge
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    kind          TEXT NOT NULL CHECK (kind IN ('attribute', 'approve', 'reject', 'clawback')),
    reason        TEXT,
    note          TEXT,
    amount_minor  BIGINT,
    actor         TEXT COLLATE "C" NOT NULL,
    created_at_us BIGINT NOT NULL
);
CREATE INDEX decision_by_sale ON decision (sale_id);

-- What one enrollment earns from one sale: the posted state, always earned - clawed = held + released.
CREATE TABLE commission (
    id               TEXT COLLATE "C" PRIMARY KEY,
    conversion_id    TEXT COLLATE "C" NOT NULL REFERENCES conversion (id),
    sale_id          TEXT COLLATE "C" NOT NULL REFERENCES sale (id),
    enrollment_id    TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    program_id       TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    level            BIGINT NOT NULL,
    currency         TEXT NOT NULL,
    terms            TEXT NOT NULL,           -- frozen JSON
    terms_version    BIGINT NOT NULL,
    base_minor       BIGINT NOT NULL,
    amount_minor     BIGINT NOT NULL,
    earned_minor     BIGINT NOT NULL,
    clawed_minor     BIGINT NOT NULL,
    held_minor       BIGINT NOT NULL,
    released_minor   BIGINT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('awaiting_review', 'held', 'flagged', 'payable', 'in_payout', 'paid', 'denied', 'reversed')),
    reason           TEXT,
    claimed          BOOLEAN NOT NULL,
    revision         BIGINT NOT NULL,
    paid_at_us       BIGINT NOT NULL,
    due_at_us        BIGINT,                   -- when time alone can change it next
    created_at_us    BIGINT NOT NULL,
    CHECK (earned_minor - clawed_minor = held_minor + released_minor),
    UNIQUE (sale_id, enrollment_id, level)
);
CREATE INDEX commission_due ON commission (due_at_us, id) WHERE due_at_us IS NOT NULL;
CREATE INDEX commission_by_program ON commission (program_id, created_at_us, id);
CREATE INDEX commission_by_enrollment ON commission (enrollment_id, id);

-- What stops or stopped a commission; each cause once.
CREATE TABLE commission_flag (
    commission_id TEXT COLLATE "C" NOT NULL REFERENCES commission (id),
    cause_kind    TEXT COLLATE "C" NOT NULL,
    cause_id      TEXT COLLATE "C" NOT NULL,
    raised_at_us  BIGINT NOT NULL,
    cleared_at_us BIGINT,
    cleared_by    TEXT COLLATE "C",
    PRIMARY KEY (commission_id, cause_kind, cause_id)
);

-- Journal entries: append-only, one per commission and revision.
CREATE TABLE entry (
    id            TEXT COLLATE "C" PRIMARY KEY,
    commission_id TEXT COLLATE "C" NOT NULL REFERENCES commission (id),
    revision      BIGINT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('accrual', 'adjustment', 'clawback', 'reinstatement', 'release', 'suspension')),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    program_id    TEXT COLLATE "C" NOT NULL REFERENCES program (id),
    currency      TEXT NOT NULL,
    causes        TEXT NOT NULL,              -- JSON: the events and decisions behind it
    content_hash  BYTEA NOT NULL,
    created_at_us BIGINT NOT NULL,
    UNIQUE (commission_id, revision)
);

-- The lines of an entry; amounts are positive, the side says which way.
CREATE TABLE posting (
    entry_id     TEXT COLLATE "C" NOT NULL REFERENCES entry (id),
    line         BIGINT NOT NULL,
    owner_id     TEXT COLLATE "C" NOT NULL,
    account      TEXT COLLATE "C" NOT NULL CHECK (account IN ('held', 'payable', 'in_transit', 'paid', 'expense', 'fee_income', 'returned_cash', 'cash_out')),
    side         TEXT NOT NULL CHECK (side IN ('debit', 'credit')),
    amount_minor BIGINT NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (entry_id, line)
);

-- Sums of the postings, kept beside them and proven equal by `remit doctor`.
CREATE TABLE balance (
    owner_id     TEXT COLLATE "C" NOT NULL,
    account      TEXT COLLATE "C" NOT NULL,
    currency     TEXT COLLATE "C" NOT NULL,
    debit_minor  BIGINT NOT NULL,
    credit_minor BIGINT NOT NULL,
    PRIMARY KEY (owner_id, account, currency)
);

-- Signed parts of the payable balance. Unclaimed lots sum to the payable balance.
CREATE TABLE lot (
    id            TEXT COLLATE "C" PRIMARY KEY,
    entry_id      TEXT COLLATE "C" NOT NULL REFERENCES entry (id),
    commission_id TEXT COLLATE "C" NOT NULL REFERENCES commission (id),
    enrollment_id TEXT COLLATE "C" NOT NULL REFERENCES enrollment (id),
    currency      TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('release', 'adjustment', 'carry_forward', 'reinstatement', 'suspension')),
    amount_minor  BIGINT NOT NULL CHECK (amount_minor <> 0),
    payout_id     TEXT COLLATE "C",                       -- the payout that claimed it
    created_at_us BIGINT NOT NULL
);
CREATE INDEX lot_unclaimed ON lot (enrollment_id, currency, id) WHERE payout_id IS NULL;
CREATE INDEX lot_by_commission ON lot (commission_id);

-- Transfers as the provider shows them.
CREATE TABLE transfer (
    project_id     TEXT COLLATE "C" NOT NULL,
    realm          TEXT COLLATE "C" NOT NULL,
    transfer_id    TEXT COLLATE "C" NOT NULL,
    intent_id      TEXT COLLATE "C",
    amount_minor   BIGINT NOT NULL,
    currency       TEXT NOT NULL,
    destination    TEXT COLLATE "C",
    of_charge      BOOLEAN NOT NULL,
    reversed_minor BIGINT NOT NULL,            -- highest cumulative amount told
    created_at_us  BIGINT NOT NULL,
    PRIMARY KEY (transfer_id, realm, project_id)
);
CREATE INDEX transfer_by_intent ON transfer (intent_id) WHERE intent_id IS NOT NULL;

CREATE TABLE transfer_reversal (
    project_id   TEXT COLLATE "C" NOT NULL,
    realm        TEXT COLLATE "C" NOT NULL,
    reversal_id  TEXT COLLATE "C" NOT NULL,
    transfer_id  TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    PRIMARY KEY (reversal_id, realm, project_id)
);

-- Payouts of connected accounts to their banks: shown, never ours.
CREATE TABLE bank_payout (
    project_id   TEXT COLLATE "C" NOT NULL,
    realm        TEXT COLLATE "C" NOT NULL,
    payout_id    TEXT COLLATE "C" NOT NULL,
    account_id   TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency     TEXT NOT NULL,
    status       TEXT NOT NULL,
    failure_code TEXT,
    told_at_us   BIGINT NOT NULL,
    PRIMARY KEY (payout_id, realm, project_id)
);

-- The organization and project that the default endpoints belong to.
INSERT INTO organization (id, name, email, created_at_us) VALUES ('org_default', 'Default organization', NULL, 0);
INSERT INTO project (id, organization_id, name, created_at_us) VALUES ('proj_default', 'org_default', 'Default project', 0);

-- Append-only, enforced where nothing in the program can forget it.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE ON posting FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entry_no_truncate BEFORE TRUNCATE ON entry FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER posting_no_truncate BEFORE TRUNCATE ON posting FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
