CREATE TABLE identity_providers (
    id            INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    provider_type TEXT        NOT NULL,
    external_id   TEXT,
    config        TEXT        NOT NULL,
    secret_names  TEXT        NOT NULL,
    secrets       BLOB ,
    names_issuer  BOOLEAN     NOT NULL DEFAULT FALSE,
    date_added    TEXT        NOT NULL,
    version       BIGINT      NOT NULL
);
CREATE UNIQUE INDEX identity_providers_key ON identity_providers (provider_type, external_id);
-- An absent external id is a value of its own: one instance of a type may have none.
CREATE UNIQUE INDEX identity_providers_only ON identity_providers (provider_type) WHERE external_id IS NULL;
CREATE INDEX identity_providers_external_id ON identity_providers (external_id);

CREATE TABLE identities (
    id             INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    idp_id         BIGINT      NOT NULL REFERENCES identity_providers (id),
    user_id        TEXT        NOT NULL,
    external_id    TEXT        NOT NULL,
    data           TEXT        NOT NULL,
    status         TEXT        NOT NULL,
    invalid_reason TEXT,
    invalid_at     TEXT       ,
    scopes         TEXT        NOT NULL,
    date_verified  TEXT        NOT NULL,
    date_added     TEXT        NOT NULL,
    expires_at     TEXT       ,
    version        BIGINT      NOT NULL,
    credentials    BLOB ,
    generation     BIGINT      NOT NULL,
    attempt        BIGINT      NOT NULL,
    lease_holder   TEXT,
    lease_until    TEXT       ,
    unanswered     INTEGER     NOT NULL,
    retry_at       TEXT       ,
    failures       INTEGER     NOT NULL,
    failure_class  TEXT,
    failure_detail TEXT
);
CREATE UNIQUE INDEX identities_account ON identities (idp_id, external_id);
CREATE UNIQUE INDEX identities_user ON identities (idp_id, user_id);
CREATE INDEX identities_by_user ON identities (user_id, id);
CREATE INDEX identities_by_external_id ON identities (external_id, id);
CREATE INDEX identities_by_idp ON identities (idp_id, id);
CREATE INDEX identities_by_status ON identities (status, id);

CREATE TABLE link_sessions (
    id              INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    purpose         TEXT        NOT NULL,
    user_id         TEXT,
    provider_id     BIGINT,
    organization_id TEXT,
    return_url      TEXT        NOT NULL,
    scopes          TEXT        NOT NULL,
    login_hint      TEXT,
    reattach        BOOLEAN     NOT NULL,
    auto_complete   BOOLEAN     NOT NULL,
    status          TEXT        NOT NULL,
    identity_id     BIGINT,
    error           TEXT,
    created_by      TEXT        NOT NULL,
    created_at      TEXT        NOT NULL,
    expires_at      TEXT        NOT NULL,
    token_hash      BLOB        NOT NULL,
    -- The trip under way: where to, by which browser, and what proves its answer.
    sent_to         BIGINT,
    browser_hash    BLOB ,
    state_hash      BLOB ,
    proof           BLOB ,
    used            BOOLEAN     NOT NULL DEFAULT FALSE,
    -- What waits for completion, and the hash of the code that opens it.
    code_hash       BLOB ,
    pending         BLOB 
);
CREATE UNIQUE INDEX link_sessions_token ON link_sessions (token_hash);
CREATE UNIQUE INDEX link_sessions_state ON link_sessions (state_hash);
CREATE INDEX link_sessions_by_expiry ON link_sessions (status, expires_at);

CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    at          TEXT        NOT NULL,
    kind        TEXT        NOT NULL,
    actor       TEXT        NOT NULL,
    identity_id BIGINT,
    provider_id BIGINT,
    user_id     TEXT,
    detail      TEXT        NOT NULL
);
CREATE INDEX events_by_identity ON events (identity_id, id);
CREATE INDEX events_by_kind ON events (kind, id);

CREATE TABLE api_keys (
    id         INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name       TEXT        NOT NULL,
    scopes     TEXT        NOT NULL,
    hash       BLOB        NOT NULL,
    created_at TEXT        NOT NULL,
    revoked_at TEXT       
);
CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash);
