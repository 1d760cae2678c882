-- Logout tokens that were taken, so that none counts twice
-- (OpenID Connect Back-Channel Logout 1.0 §2.6).
CREATE TABLE logout_tokens (
    provider_id BIGINT      NOT NULL,
    token_hash  BLOB        NOT NULL,
    -- From then on the token is refused for its age.
    forget_at   TEXT        NOT NULL,
    PRIMARY KEY (provider_id, token_hash)
);
CREATE INDEX logout_tokens_by_end ON logout_tokens (forget_at);
