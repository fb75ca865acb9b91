-- Who changed what, written in the transaction of the change. It stands on its own, without references:
-- what it names may be gone one day.
CREATE TABLE audit (
    id                    TEXT COLLATE "C" PRIMARY KEY,
    at_us                 BIGINT NOT NULL,
    actor                 TEXT COLLATE "C" NOT NULL, -- the id of a key, `console` or `anonymous`
    actor_kind            TEXT NOT NULL            , -- the kind of the key, `console` or `anonymous`
    actor_organization_id TEXT COLLATE "C",          -- that of the key
    organization_id       TEXT COLLATE "C",          -- whose object it is, and who may read this; none: operators only
    action                TEXT NOT NULL            , -- such as `program.updated`
    object                TEXT COLLATE "C" NOT NULL, -- the id of what was changed
    before_json           TEXT            ,          -- without secrets, addresses masked
    after_json            TEXT            ,
    request_id            TEXT NOT NULL            , -- `cli` for the command line
    idempotency_id        TEXT COLLATE "C"           -- the row of `idempotency`, for as long as that is kept
);
CREATE INDEX audit_by_organization ON audit (organization_id, id);
CREATE INDEX audit_by_object ON audit (object, id);
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_idempotency ON audit (idempotency_id) WHERE idempotency_id IS NOT NULL;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Requests that were sent with an Idempotency-Key, and what they were answered. Kept for a day.
CREATE TABLE idempotency (
    id              TEXT COLLATE "C" PRIMARY KEY,
    actor           TEXT COLLATE "C" NOT NULL, -- the key that asked: the caller's own keys are its alone
    request_key     TEXT COLLATE "C" NOT NULL, -- the caller's own key
    fingerprint     BYTEA NOT NULL, -- SHA-256 of method, path with query, and body
    state           TEXT NOT NULL CHECK (state IN ('in_flight', 'completed')),
    claim           BIGINT NOT NULL CHECK (claim >= 1), -- grows when the request is taken over
    leased_until_us BIGINT NOT NULL, -- until then its holder is believed to be at work
    changed         BOOLEAN NOT NULL, -- something was changed by it, and committed
    status          BIGINT,          -- of the answer
    content_type    TEXT,
    body            BYTEA,          -- without what is shown only once
    created_at_us   BIGINT NOT NULL,
    expires_at_us   BIGINT NOT NULL,
    UNIQUE (actor, request_key),
    CHECK ((state = 'completed') = (status IS NOT NULL)),
    CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_expired ON idempotency (expires_at_us);
