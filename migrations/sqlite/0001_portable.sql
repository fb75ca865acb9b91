-- SQLite has what this migration gives PostgreSQL: `json_each(text)` is built in. The file exists
-- because migrations come in pairs, and this statement changes nothing.
SELECT 1;
