-- How an organization signs in.
CREATE TABLE auth_providers (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    organization_id       TEXT        NOT NULL,
    provider_id           BIGINT      NOT NULL REFERENCES identity_providers (id),
    config                TEXT       NOT NULL,
    allow_unlinked        BOOLEAN     NOT NULL,
    scim_enabled          BOOLEAN     NOT NULL,
    default_role          INTEGER,
    default_global_access BOOLEAN     NOT NULL,
    sync_time             INTEGER,
    last_sync             TEXT,
    date_added            TEXT NOT NULL,
    version               BIGINT      NOT NULL
);
CREATE UNIQUE INDEX auth_providers_organization ON auth_providers (organization_id);
CREATE INDEX auth_providers_by_provider ON auth_providers (provider_id, id);

-- With which accounts its users do.
CREATE TABLE auth_identities (
    id               INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    auth_provider_id BIGINT      NOT NULL REFERENCES auth_providers (id),
    user_id          TEXT        NOT NULL,
    ident            TEXT        NOT NULL,
    data             TEXT       NOT NULL,
    last_verified    TEXT NOT NULL,
    last_synced      TEXT NOT NULL,
    date_added       TEXT NOT NULL,
    version          BIGINT      NOT NULL,
    credentials      BLOB,
    generation       BIGINT      NOT NULL
);
CREATE UNIQUE INDEX auth_identities_ident ON auth_identities (auth_provider_id, ident);
CREATE UNIQUE INDEX auth_identities_user ON auth_identities (auth_provider_id, user_id);
CREATE INDEX auth_identities_by_provider ON auth_identities (auth_provider_id, id);
CREATE INDEX auth_identities_by_user ON auth_identities (user_id, id);

-- Which accounts an organization uses. They go with the identity also where a version unlinks it
-- that does not know of them.
CREATE TABLE organization_identities (
    id              INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    organization_id TEXT        NOT NULL,
    identity_id     BIGINT      NOT NULL REFERENCES identities (id) ON DELETE CASCADE,
    date_added      TEXT NOT NULL
);
CREATE UNIQUE INDEX organization_identities_key ON organization_identities (organization_id, identity_id);
CREATE INDEX organization_identities_by_organization ON organization_identities (organization_id, id);
CREATE INDEX organization_identities_by_identity ON organization_identities (identity_id, id);

-- What a key is limited to; null is everything.
ALTER TABLE api_keys ADD COLUMN organizations TEXT;
ALTER TABLE api_keys ADD COLUMN provider_types TEXT;
