-- What affiliates and owners look at: an organization's memberships, one membership's books in order of
-- time, and a program's sales by when they were paid.
CREATE INDEX enrollment_of_organization ON enrollment (organization_id, id);
CREATE INDEX entry_by_enrollment ON entry (enrollment_id, created_at_us, revision, id);
CREATE INDEX commission_by_time ON commission (enrollment_id, created_at_us, id);
CREATE INDEX commission_by_payment ON commission (program_id, paid_at_us);
CREATE INDEX commission_waiting ON commission (enrollment_id, currency) WHERE state IN ('awaiting_review', 'held');
