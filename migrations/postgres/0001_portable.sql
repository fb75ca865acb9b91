-- Bulk writes pass one JSON array of objects in one text parameter, with one SQL text for both engines:
--
--     INSERT INTO t (a, b)
--     SELECT CAST(value->>'a' AS BIGINT), value->>'b' FROM json_each($1) WHERE TRUE
--     ON CONFLICT DO NOTHING
--
-- SQLite's built-in `json_each(text)` walks arrays. PostgreSQL's built-in `json_each(json)` walks
-- objects, and no built-in takes text, so this overload is the only candidate for a text parameter.
-- `key` counts from 0, as SQLite's does.
CREATE FUNCTION json_each(document text) RETURNS TABLE (key bigint, value json)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
-- Lists are short beside the tables they are joined to: look each element up by an index.
ROWS 64
AS $$
    SELECT ordinality - 1, element
    FROM json_array_elements(document::json) WITH ORDINALITY AS elements (element, ordinality)
$$;
