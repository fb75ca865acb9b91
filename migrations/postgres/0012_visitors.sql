-- What is locked by whoever tells of a visitor or folds a sale of theirs, so that neither misses the other
-- (store::touchpoints). A row says nothing else. SQLite has one writer and needs none of them.
CREATE TABLE visitor (
    project_id TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (id, project_id)
);

-- Made twice: `enrollment_by_organization` is the same.
DROP INDEX enrollment_of_organization;
