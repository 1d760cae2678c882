-- For whom and why, about which organization, and what changed. Older versions leave them empty.
ALTER TABLE events ADD COLUMN acting_user TEXT;
ALTER TABLE events ADD COLUMN reason TEXT;
ALTER TABLE events ADD COLUMN organization_id TEXT;
ALTER TABLE events ADD COLUMN before JSONB;
ALTER TABLE events ADD COLUMN after JSONB;

-- What the product uses a provider for.
ALTER TABLE identity_providers ADD COLUMN login BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE identity_providers ADD COLUMN multiple_accounts BOOLEAN NOT NULL DEFAULT FALSE;
