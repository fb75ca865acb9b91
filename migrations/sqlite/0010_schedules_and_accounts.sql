-- When the schedule of a program was switched on: it begins with the first period that ends later. None:
-- with the first that ends after the program was made.
ALTER TABLE program ADD COLUMN payout_schedule_since_us INTEGER;

-- Whose account it is that something was told of.
CREATE INDEX payout_account_by_account ON payout_account (account_id, organization_id);

-- Accounts that a settlement passed over because they were told not to be ready: the provider is asked
-- again, in case a later event was lost.
CREATE TABLE account_check (
    provider      TEXT NOT NULL,
    livemode      INTEGER NOT NULL CHECK (livemode IN (0, 1)),
    account_id    TEXT NOT NULL,
    due_at_us     INTEGER,                    -- none: nobody has asked since it was read
    checked_at_us INTEGER,                    -- when the provider was asked last
    PRIMARY KEY (account_id, provider, livemode)
) STRICT;
CREATE INDEX account_check_due ON account_check (due_at_us, account_id) WHERE due_at_us IS NOT NULL;
