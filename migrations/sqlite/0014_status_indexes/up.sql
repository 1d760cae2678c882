-- Identities of one type or instance in one state, in id order: without these, a page of the few
-- invalid ones of a rare type reads all that are invalid, and takes longer the more there are.
CREATE INDEX identities_by_idp_type_status ON identities (idp_type, status, id);
CREATE INDEX identities_by_idp_status ON identities (idp_id, status, id);
