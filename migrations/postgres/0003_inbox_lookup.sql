-- Operators name events by the provider's id, which the unique key of the inbox holds last.
CREATE INDEX inbox_by_provider_event ON inbox (provider_event_id);
