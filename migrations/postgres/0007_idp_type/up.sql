-- The type of an identity's provider instance, beside the identity: a list by type goes on in id
-- order by an index of its own, where a join would read every identity there is before it finds a
-- page of a rare type. An instance never changes its type. The trigger fills it, so that a version
-- which does not know the column writes it too.
ALTER TABLE identities ADD COLUMN idp_type TEXT;
CREATE FUNCTION identities_idp_type() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.idp_type := (SELECT provider_type FROM identity_providers WHERE id = NEW.idp_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER identities_idp_type BEFORE INSERT ON identities
    FOR EACH ROW EXECUTE FUNCTION identities_idp_type();
UPDATE identities SET idp_type = identity_providers.provider_type
    FROM identity_providers WHERE identity_providers.id = identities.idp_id;
CREATE INDEX identities_by_idp_type ON identities (idp_type, id);
