-- The order in which changes became visible, so that whoever has read up to an event has missed none
-- before it. There is one writer, so ids are in that order already.
ALTER TABLE events ADD COLUMN seq BIGINT;
UPDATE events SET seq = id;
CREATE UNIQUE INDEX events_seq ON events (seq);
CREATE TRIGGER events_give_seq AFTER INSERT ON events WHEN NEW.seq IS NULL
BEGIN
    UPDATE events SET seq = NEW.id WHERE id = NEW.id;
END;

DROP INDEX events_by_identity;
DROP INDEX events_by_kind;
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX events_by_identity ON events (identity_id, seq) WHERE identity_id IS NOT NULL;
CREATE INDEX events_by_user ON events (user_id, seq) WHERE user_id IS NOT NULL;
CREATE INDEX events_by_organization ON events (organization_id, seq) WHERE organization_id IS NOT NULL;
CREATE INDEX events_by_provider ON events (provider_id, seq) WHERE provider_id IS NOT NULL;

CREATE TABLE webhook_endpoints (
    id         INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    url        TEXT        NOT NULL,
    -- Which kinds of events; empty: all.
    kinds      TEXT        NOT NULL,
    enabled    BOOLEAN     NOT NULL,
    secrets    BLOB        NOT NULL,
    -- Counts the values of `secrets`.
    generation BIGINT      NOT NULL,
    -- Up to which event its deliveries exist.
    position   BIGINT      NOT NULL,
    created_at TEXT        NOT NULL
);

CREATE TABLE webhook_deliveries (
    id              INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    endpoint_id     BIGINT      NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    -- events.seq
    event_id        BIGINT      NOT NULL,
    identity_id     BIGINT,
    kind            TEXT        NOT NULL,
    status          TEXT        NOT NULL,
    attempts        INTEGER     NOT NULL,
    next_attempt_at TEXT        NOT NULL,
    -- Until then somebody is at it.
    claimed_until   TEXT,
    last_status     INTEGER,
    last_error      TEXT,
    created_at      TEXT        NOT NULL,
    settled_at      TEXT
);
CREATE UNIQUE INDEX webhook_deliveries_once ON webhook_deliveries (endpoint_id, event_id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_attempt_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_order ON webhook_deliveries (endpoint_id, identity_id, event_id) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_oldest ON webhook_deliveries (created_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_list ON webhook_deliveries (endpoint_id, status, id);
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (settled_at) WHERE status = 'delivered';
