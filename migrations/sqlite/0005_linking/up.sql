-- Several accounts of one provider per user, where the provider allows it: an account in a slot of
-- its own (named like the account) stands beside the others. The empty slot is the one that every
-- user has at every provider; older versions know no other.
ALTER TABLE identities ADD COLUMN user_slot TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX identities_user_slot ON identities (idp_id, user_id, user_slot);
DROP INDEX identities_user;

-- Grants that no identity owns any more and that are to be ended at their providers.
CREATE TABLE revocations (
    id          INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    identity_id BIGINT      NOT NULL,
    provider_id BIGINT      NOT NULL,
    user_id     TEXT        NOT NULL,
    external_id TEXT        NOT NULL,
    actor       TEXT        NOT NULL,
    acting_user TEXT,
    reason      TEXT,
    status      TEXT        NOT NULL,
    attempts    INTEGER     NOT NULL,
    queued_at   TEXT        NOT NULL,
    -- When it may be claimed: the end of a claim, or of a pause.
    due_at      TEXT        NOT NULL,
    last_error  TEXT,
    -- The grant, sealed; counted by generation; gone when the revocation has ended.
    sealed      BLOB,
    generation  BIGINT      NOT NULL
);
CREATE INDEX revocations_due ON revocations (status, due_at);
CREATE INDEX revocations_by_provider ON revocations (provider_id, status);

-- Identities that were moved from one user to another.
CREATE TABLE transfers (
    id           INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    from_user_id TEXT        NOT NULL,
    to_user_id   TEXT        NOT NULL,
    items        TEXT        NOT NULL,
    actor        TEXT        NOT NULL,
    acting_user  TEXT,
    reason       TEXT,
    created_at   TEXT        NOT NULL,
    undone_at    TEXT
);
CREATE INDEX transfers_by_from ON transfers (from_user_id, id);
CREATE INDEX transfers_by_to ON transfers (to_user_id, id);
