-- What opens an enrollment that was made for an address goes there by mail. The token waits here, sealed
-- under the master key, from the invitation until the mail is sent or the token opens nothing any more.
ALTER TABLE notice ADD COLUMN token_sealed BLOB;
CREATE INDEX notice_with_token ON notice (enrollment_id) WHERE token_sealed IS NOT NULL;

-- A mail that was given up and that somebody has tried again: since when, for the second time.
ALTER TABLE mail ADD COLUMN retried_at_us INTEGER;
CREATE INDEX mail_by_time ON mail (created_at_us, id);
