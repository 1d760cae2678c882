-- What no tokens are handed out to, or of. One of the three is set. No reference to a key or a
-- provider instance: a freeze never stands in the way of a deletion, and ids are given out once.
CREATE TABLE freezes (
    id              INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    api_key_id      BIGINT,
    provider_id     BIGINT,
    organization_id TEXT,
    actor           TEXT        NOT NULL,
    acting_user     TEXT,
    reason          TEXT,
    frozen_at       TEXT        NOT NULL
);
CREATE UNIQUE INDEX freezes_api_key ON freezes (api_key_id);
CREATE UNIQUE INDEX freezes_provider ON freezes (provider_id);
CREATE UNIQUE INDEX freezes_organization ON freezes (organization_id);

-- What a key is limited to; null is everything.
ALTER TABLE api_keys ADD COLUMN providers TEXT;
ALTER TABLE api_keys ADD COLUMN token_scopes TEXT;
ALTER TABLE api_keys ADD COLUMN users TEXT;

-- Who was handed which token: one row for each token and recipient, however often.
CREATE TABLE ledger (
    id          INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    -- Salted: see ledger_salt.
    token_hash  BLOB        NOT NULL,
    identity_id BIGINT      NOT NULL,
    provider_id BIGINT      NOT NULL,
    user_id     TEXT        NOT NULL,
    actor       TEXT        NOT NULL,
    -- Empty for none, so that the key below holds.
    acting_user TEXT        NOT NULL,
    times       BIGINT      NOT NULL,
    first_at    TEXT        NOT NULL,
    last_at     TEXT        NOT NULL,
    -- Of the last time.
    request_id  TEXT        NOT NULL
);
CREATE UNIQUE INDEX ledger_entry ON ledger (token_hash, identity_id, actor, acting_user);
CREATE INDEX ledger_by_identity ON ledger (identity_id, id);
CREATE INDEX ledger_by_time ON ledger (last_at);

-- What the hashes of the ledger are salted with, sealed. One row.
CREATE TABLE ledger_salt (
    id         INTEGER PRIMARY KEY NOT NULL,
    sealed     BLOB   NOT NULL,
    generation BIGINT NOT NULL
);
