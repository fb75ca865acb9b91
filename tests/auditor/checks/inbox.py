"""I1 and I2: what was taken in is there, whole, and is worked on."""

from hashlib import sha256

from . import check


def _key(event):
    return (event.provider, event.endpoint_id, event.account, event.livemode)


@check("I1", needs="deliveries")
def answered_deliveries_are_stored_as_they_were_sent(evidence):
    stored = {(*_key(event), event.provider_event_id): event for event in evidence.books.events}
    sent = {}
    for delivery in evidence.deliveries:
        sent.setdefault((*_key(delivery), delivery.event_id), []).append(delivery)
    for key, deliveries in sent.items():
        if all(delivery.status != 200 for delivery in deliveries):
            continue
        event = stored.get(key)
        if event is None:
            yield key[-1], "was answered 200 and is not in the inbox"
        # Of several bodies under one id the first is kept, and which came first nobody can know.
        elif event.body_sha256.hex() not in {delivery.body_sha256 for delivery in deliveries}:
            yield key[-1], "is stored with other bytes than were sent"


@check("I1")
def stored_bodies_have_their_hash(evidence):
    for event in evidence.books.events:
        is_archived = event.body == b"" and event.state != "received"
        if not is_archived and sha256(event.body).digest() != event.body_sha256:
            yield event.id, "its body does not have the hash that was taken when it arrived"


@check("I2")
def every_event_is_done_due_or_parked_with_a_reason(evidence):
    for event in evidence.books.events:
        if event.state == "received":
            if event.next_attempt_at_us < evidence.now_us - evidence.patience_us:
                yield event.id, "has been due for longer than processing may take"
        elif event.state in ("ignored", "parked") and not event.reason:
            yield event.id, f"is {event.state} without a reason"
