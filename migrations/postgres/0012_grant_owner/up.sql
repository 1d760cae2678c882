-- The account for single sign-on that had a grant which is to be revoked; identity_id is 0 then,
-- and a version that does not know the column revokes it all the same.
ALTER TABLE revocations ADD COLUMN auth_identity_id BIGINT;

-- Whether an account that a grant opens signs somebody in is asked before the grant is ended.
CREATE INDEX auth_identities_by_ident ON auth_identities (ident, id);
