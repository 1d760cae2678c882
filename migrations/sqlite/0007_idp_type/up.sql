-- The type of an identity's provider instance, beside the identity: see the same step for
-- PostgreSQL.
ALTER TABLE identities ADD COLUMN idp_type TEXT;
CREATE TRIGGER identities_idp_type AFTER INSERT ON identities
BEGIN
    UPDATE identities
        SET idp_type = (SELECT provider_type FROM identity_providers WHERE id = NEW.idp_id)
        WHERE id = NEW.id;
END;
UPDATE identities
    SET idp_type = (SELECT provider_type FROM identity_providers WHERE id = identities.idp_id);
CREATE INDEX identities_by_idp_type ON identities (idp_type, id);
