-- Who changed what, written in the transaction of the change. It stands on its own, without references:
-- what it names may be gone one day.
CREATE TABLE audit (
    id                    TEXT PRIMARY KEY,
    at_us                 INTEGER NOT NULL,
    actor                 TEXT NOT NULL, -- the id of a key, `console` or `anonymous`
    actor_kind            TEXT NOT NULL, -- the kind of the key, `console` or `anonymous`
    actor_organization_id TEXT,          -- that of the key
    organization_id       TEXT,          -- whose object it is, and who may read this; none: operators only
    action                TEXT NOT NULL, -- such as `program.updated`
    object                TEXT NOT NULL, -- the id of what was changed
    before_json           TEXT,          -- without secrets, addresses masked
    after_json            TEXT,
    request_id            TEXT NOT NULL, -- `cli` for the command line
    idempotency_id        TEXT           -- the row of `idempotency`, for as long as that is kept
) STRICT;
CREATE INDEX audit_by_organization ON audit (organization_id, id);
CREATE INDEX audit_by_object ON audit (object, id);
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_idempotency ON audit (idempotency_id) WHERE idempotency_id IS NOT NULL;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit is append-only');
END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit is append-only');
END;

-- Requests that were sent with an Idempotency-Key, and what they were answered. Kept for a day.
CREATE TABLE idempotency (
    id              TEXT PRIMARY KEY,
    actor           TEXT NOT NULL, -- the key that asked: the caller's own keys are its alone
    request_key     TEXT NOT NULL, -- the caller's own key
    fingerprint     BLOB NOT NULL, -- SHA-256 of method, path with query, and body
    state           TEXT NOT NULL CHECK (state IN ('in_flight', 'completed')),
    claim           INTEGER NOT NULL CHECK (claim >= 1), -- grows when the request is taken over
    leased_until_us INTEGER NOT NULL, -- until then its holder is believed to be at work
    changed         INTEGER NOT NULL CHECK (changed IN (0, 1)), -- something was changed by it, and committed
    status          INTEGER,          -- of the answer
    content_type    TEXT,
    body            BLOB,          -- without what is shown only once
    created_at_us   INTEGER NOT NULL,
    expires_at_us   INTEGER NOT NULL,
    UNIQUE (actor, request_key),
    CHECK ((state = 'completed') = (status IS NOT NULL)),
    CHECK ((status IS NULL) = (body IS NULL))
) STRICT;
CREATE INDEX idempotency_expired ON idempotency (expires_at_us);
