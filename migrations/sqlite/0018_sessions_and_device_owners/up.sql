-- On whose behalf a device link was started, as with link sessions.
ALTER TABLE device_links ADD COLUMN organization_id TEXT;
-- What had a grant that came when its device link was over: neither an identity nor an account for
-- single sign-on.
ALTER TABLE revocations ADD COLUMN device_link_id BIGINT;
-- Whose account a session at a provider is, so that a logout token is understood that names the
-- session alone (OpenID Connect Back-Channel Logout 1.0 §2.4).
CREATE TABLE provider_sessions (
    provider_id  BIGINT      NOT NULL,
    -- Of the sid.
    session_hash BLOB        NOT NULL,
    external_id  TEXT        NOT NULL,
    -- So long after it was last heard of.
    forget_at    TEXT        NOT NULL,
    PRIMARY KEY (provider_id, session_hash, external_id)
);
CREATE INDEX provider_sessions_by_end ON provider_sessions (forget_at);
