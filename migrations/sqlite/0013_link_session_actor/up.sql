-- On whose behalf, and why, a session was asked for: what comes of it later tells the same. Older
-- versions leave them empty.
ALTER TABLE link_sessions ADD COLUMN created_for TEXT;
ALTER TABLE link_sessions ADD COLUMN created_because TEXT;
