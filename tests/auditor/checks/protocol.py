"""I8: the money protocol (`reliability.md` §5). One key means one body, for a limited time; every send was
written down before it was made; and a new key is taken only when the old one is proved to have moved
nothing.

The database says what the program believed, the provider's journal what reached it.
"""

from collections import Counter
from hashlib import sha256

from ..rows import by, of
from . import HOUR_US, check

# A key may be used for so long after its first use; the provider forgets it after 24 hours and would
# then execute it again.
WINDOW_US = 20 * HOUR_US
# For calls under way, and for clocks that differ.
MARGIN_US = HOUR_US

# What a provider says when it has stored under the key that nothing was executed.
STORED_REFUSALS = frozenset({"insufficient_funds", "account_not_ready", "refused"})
# After these, and after no answer at all, anything may have happened.
DOUBTFUL = frozenset({None, "ambiguous", "key_misused", "contradiction"})

# How keys of the audited program begin. Others may use the provider's account too.
OURS = "remit_"


def _keyed(provider):
    """Requests that may have effects, by mode, account and key."""
    posts = [one for one in provider.requests if one.method == "POST" and one.idempotency_key]
    return by(posts, "livemode", "account", "idempotency_key")


@check("I8", needs="provider")
def one_key_means_one_request(evidence):
    for (*_, key), requests in _keyed(evidence.provider).items():
        if len({(one.path, one.body_sha256) for one in requests}) > 1:
            yield key, "was used with different requests"


@check("I8", needs="provider")
def a_key_is_not_used_after_its_window(evidence):
    for (*_, key), requests in _keyed(evidence.provider).items():
        times = [one.at_us for one in requests]
        used_us = max(times) - min(times)
        if key.startswith(OURS) and used_us > WINDOW_US + MARGIN_US:
            yield key, f"was used again {used_us // HOUR_US} hours after its first use"


@check("I8", needs="provider")
def what_was_sent_had_been_written_down(evidence):
    # After a restore the database knows less than happened; looking before sending is then what protects.
    if any(pause.kind == "restored" for pause in evidence.books.pauses):
        return
    generations = of(evidence.books.generations, "idempotency_key")
    sends = Counter((one.intent_id, one.generation) for one in evidence.books.attempts if one.kind == "send")
    for (*_, key), requests in _keyed(evidence.provider).items():
        if not key.startswith(OURS):
            continue
        known = generations.get(key)
        if known is None:
            yield key, "was used, and no intent has it"
            continue
        if any((one.path, one.body_sha256) != (known.path, known.body_sha256.hex()) for one in requests):
            yield key, "was used with another request than the one that is stored"
        written = sends[known.intent_id, known.generation]
        if len(requests) > written:
            yield key, f"was sent {len(requests)} times, and {written} attempts were written down"


@check("I8", needs="provider")
def no_key_follows_one_that_moved_money(evidence):
    keys = {(one.intent_id, one.generation): one.idempotency_key for one in evidence.books.generations}
    requested = {one.idempotency_key for one in evidence.provider.requests}
    executed = {effect.idempotency_key for effect in evidence.provider.effects}
    for (intent_id, generation), key in keys.items():
        earlier = (keys.get((intent_id, number)) for number in range(generation))
        if key in requested and any(old in executed for old in earlier):
            yield key, "was used although an earlier key of the same intent had moved the money"


@check("I8")
def stored_requests_are_unchanged(evidence):
    intents = of(evidence.books.intents)
    for one in evidence.books.generations:
        if sha256(one.body).digest() != one.body_sha256:
            yield one.idempotency_key, "its stored request does not have its hash"
        intent = intents.get(one.intent_id)
        if intent is None:
            yield one.idempotency_key, "belongs to no intent"
            continue
        mode = "live" if intent.livemode else "test"
        if one.idempotency_key != f"{OURS}{mode}_{one.intent_id}_g{one.generation}":
            yield one.idempotency_key, f"is not the key of generation {one.generation} of {one.intent_id}"


@check("I8")
def sends_keep_to_the_window_and_to_the_newest_key(evidence):
    generations = {(one.intent_id, one.generation): one for one in evidence.books.generations}
    sends = [one for one in evidence.books.attempts if one.kind == "send"]
    for intent_id, own in by(sends, "intent_id").items():
        newest = 0
        for send in own:
            if send.generation < newest:
                yield intent_id, f"attempt {send.number} used an older key than the attempt before"
            newest = max(newest, send.generation)
            generation = generations.get((intent_id, send.generation))
            if generation is None or generation.first_sent_at_us is None:
                yield intent_id, f"attempt {send.number} used a key that was never marked as sent"
            elif send.sent_at_us - generation.first_sent_at_us > WINDOW_US + evidence.order_slack_us:
                yield intent_id, f"attempt {send.number} was made after the window of its key"


@check("I8")
def a_new_key_needs_proof_about_the_old_one(evidence):
    books = evidence.books
    sends = by((one for one in books.attempts if one.kind == "send"), "intent_id", "generation")
    resolutions = by(books.resolutions, "intent_id", "generation")
    generations = by(books.generations, "intent_id")
    for intent in books.intents:
        own = generations.get(intent.id, [])
        if [one.generation for one in own] != list(range(intent.generation + 1)):
            yield intent.id, f"stands at generation {intent.generation} and does not have all up to it"
        for old in own[:-1]:
            if old.closed_at_us is None or not old.proof:
                yield intent.id, f"took a new key, and generation {old.generation} has no proof"
                continue
            attempts = sends.get((intent.id, old.generation), ())
            if not any(one.verdict in DOUBTFUL for one in attempts):
                continue
            # The key's own answer ends the doubt about all attempts under it; so do two people.
            is_refused = any(one.replayed and one.verdict in STORED_REFUSALS for one in attempts)
            is_resolved = any(
                one.verdict == "not_executed" and one.approver
                for one in resolutions.get((intent.id, old.generation), ())
            )
            if not is_refused and not is_resolved:
                yield intent.id, f"took a new key while generation {old.generation} was in doubt"
