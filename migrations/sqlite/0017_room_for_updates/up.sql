-- Nothing to do: SQLite writes an index entry only where an indexed column changes. This step is
-- PostgreSQL's, and is here so that both dialects have the same ones.
SELECT 1;
