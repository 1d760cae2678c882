-- A refresh changes its row four times: the claim, the lease, the sending, the commit. Where a page
-- has room, the first three write no index entry (heap-only tuples); imported and newly linked rows
-- leave that room from now on. Rows that are there get it as they are rewritten. Each commit leaves
-- a dead entry in the index of what is due; a vacuum comes for them after 5 % of the rows, not 20 %.
ALTER TABLE identities SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
