-- What is locked by whoever tells of a visitor or folds a sale of theirs, so that neither misses the other
-- (store::touchpoints). A row says nothing else. SQLite has one writer and needs none of them.
CREATE TABLE visitor (
    project_id TEXT NOT NULL,
    id         TEXT NOT NULL,
    PRIMARY KEY (id, project_id)
) STRICT;

-- Made twice: `enrollment_by_organization` is the same.
DROP INDEX enrollment_of_organization;
