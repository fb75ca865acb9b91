-- Who told of a click, and which clicks and ids are old enough to be forgotten.

-- The key of the website or app, and the request by which it told. Null: somebody followed a link of ours,
-- or the click was told before this was written down.
ALTER TABLE touchpoint ADD COLUMN told_by TEXT;
ALTER TABLE touchpoint ADD COLUMN request_id TEXT;

-- The owner's list.
CREATE INDEX touchpoint_by_program ON touchpoint (program_id, at_us, id);
-- Finds what is old; and whether a conversion is owed to it.
CREATE INDEX touchpoint_by_time ON touchpoint (at_us, id);
CREATE INDEX conversion_by_touchpoint ON conversion (touchpoint_id) WHERE touchpoint_id IS NOT NULL;
