-- Links that users confirm on another device (RFC 8628).
CREATE TABLE device_links (
    id              INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    user_id         TEXT        NOT NULL,
    provider_id     BIGINT      NOT NULL,
    scopes          TEXT        NOT NULL,
    status          TEXT        NOT NULL,
    identity_id     BIGINT,
    error           TEXT,
    created_by      TEXT        NOT NULL,
    created_for     TEXT,
    created_because TEXT,
    created_at      TEXT        NOT NULL,
    expires_at      TEXT        NOT NULL,
    -- Seconds between two polls, and when the next one may be: the end of a pause, or of a claim.
    poll_seconds    BIGINT      NOT NULL,
    next_poll_at    TEXT        NOT NULL,
    -- How many polls were claimed: only the last of them may write.
    polls           BIGINT      NOT NULL,
    -- What the provider is asked with, sealed; gone when the link has ended.
    device_code     BLOB
);
CREATE INDEX device_links_due ON device_links (status, next_poll_at);
CREATE INDEX device_links_by_expiry ON device_links (status, expires_at);
