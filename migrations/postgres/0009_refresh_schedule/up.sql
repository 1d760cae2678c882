-- When credentials are refreshed with nobody asking, and who is at it. A version that does not know
-- these columns leaves them as they are: `planned_generation` then is not the row's `generation`,
-- and the row is planned anew.
ALTER TABLE identities ADD COLUMN planned_generation BIGINT;
ALTER TABLE identities ADD COLUMN refresh_at TIMESTAMPTZ;
ALTER TABLE identities ADD COLUMN refresh_claimed_until TIMESTAMPTZ;
-- When the refresh token ends unless it is used before.
ALTER TABLE identities ADD COLUMN refresh_expires_at TIMESTAMPTZ;
-- When there will be no token that works, as far as is known, and whether there is anything to
-- refresh with.
ALTER TABLE identities ADD COLUMN dies_at TIMESTAMPTZ;
ALTER TABLE identities ADD COLUMN refreshable BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX identities_unplanned ON identities (id)
    WHERE planned_generation IS NULL OR planned_generation <> generation;
CREATE INDEX identities_due ON identities (idp_id, refresh_at) WHERE refresh_at IS NOT NULL;
CREATE INDEX identities_dying ON identities (dies_at, id) WHERE dies_at IS NOT NULL;

-- How fast and whether at all an instance's are claimed: one rate for all replicas. Whoever claims
-- holds the row.
CREATE TABLE refresh_lanes (
    idp_id       BIGINT      PRIMARY KEY REFERENCES identity_providers (id) ON DELETE CASCADE,
    next_free_at TIMESTAMPTZ NOT NULL,
    paused_until TIMESTAMPTZ
);
