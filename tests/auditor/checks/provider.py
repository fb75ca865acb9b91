"""I5 and I6: the provider moved each payout's money at most once, and exactly where the books say so."""

from collections import Counter, defaultdict

from ..rows import RESERVED, SETTLED, VOID, by, of
from . import check

# How an intent stands by the state of its payout.
INTENT_OF = {
    **dict.fromkeys(RESERVED - {"unknown"}, "open"),
    "unknown": "unknown",
    **dict.fromkeys(SETTLED, "succeeded"),
    "failed": "failed",
    "canceled": "canceled",
}


def _moved(provider):
    """What the provider made for intents, whoever asked for it."""
    return [*(transfer for transfer in provider.transfers if transfer.intent_id), *provider.payments]


def _is_reported(books, *ids):
    """Whether an open finding names one of these: then people know."""
    return any(
        one == finding.object or one in finding.object.split() or one in finding.detail
        for finding in books.findings
        if finding.resolved_at_us is None
        for one in ids
        if one
    )


@check("I5", needs="provider")
def an_intent_moves_money_once_and_as_asked(evidence):
    intents = of(evidence.books.intents)
    for intent_id, objects in by(_moved(evidence.provider), "intent_id").items():
        # What the provider doubled by a fault of its own is for people to undo, and I6 sees to that.
        own = [one for one in objects if not one.is_duplicate]
        if len(own) > 1:
            yield intent_id, f"was executed {len(own)} times: {', '.join(one.id for one in own)}"
        intent = intents.get(intent_id)
        if intent is None:
            continue
        wanted = (intent.amount_minor, intent.currency, intent.destination, intent.livemode)
        for one in own:
            if (one.amount, one.currency, one.destination, one.livemode) != wanted:
                yield intent_id, f"{one.id} has another amount, currency, destination or mode"


@check("I6")
def an_intent_stands_where_its_payout_stands(evidence):
    payouts = of(evidence.books.payouts)
    for intent in evidence.books.intents:
        payout = payouts.get(intent.payout_id)
        if payout is None:
            continue
        if intent.state != INTENT_OF[payout.state]:
            yield intent.id, f"is {intent.state}, its payout {payout.id} is {payout.state}"
        if intent.object_id != payout.transfer_id:
            yield intent.id, f"names {intent.object_id}, its payout names {payout.transfer_id}"


@check("I6", needs="provider")
def what_is_paid_was_moved(evidence):
    moved = {one.id: one for one in _moved(evidence.provider)}
    for intent in evidence.books.intents:
        if intent.state != "succeeded":
            continue
        found = moved.get(intent.object_id)
        if found is None:
            yield intent.id, "counts as executed, and the provider has made no such object"
        elif found.intent_id != intent.id:
            yield intent.id, f"counts as executed by {found.id}, which is for {found.intent_id}"


@check("I6", needs="provider")
def what_was_moved_is_claimed_or_known_to_be_open(evidence):
    books = evidence.books
    intents, payouts = of(books.intents), of(books.payouts)
    jobs = {job.intent_id: job for job in books.jobs}
    ours = Counter(one.intent_id for one in _moved(evidence.provider) if not one.is_duplicate)
    for transfer in evidence.provider.transfers:
        if transfer.of_charge or _is_reported(books, transfer.id):
            continue
        intent = intents.get(transfer.intent_id)
        if intent is None:
            yield transfer.id, "belongs to no intent, and no open finding says so"
            continue
        job = jobs.get(intent.id)
        is_under_way = intent.state == "open" and job is not None and job.next_attempt_at_us is not None
        if intent.object_id == transfer.id or intent.state == "unknown" or is_under_way:
            continue
        # That we made a second one is I5's to say.
        if ours[intent.id] > 1 or _is_reported(books, intent.id, intent.payout_id):
            continue
        state = payouts[intent.payout_id].state if intent.payout_id in payouts else intent.state
        yield transfer.id, f"was made for {intent.id}, which is {state}, and no open finding says so"


@check("I6", needs="provider")
def the_provider_and_the_books_agree_on_the_sum(evidence):
    """Per receiving account, currency and mode: transfers less reversals are paid less returned."""
    books = evidence.books
    payouts = of(books.payouts)
    adopted = {payout.transfer_id for payout in books.payouts if payout.state in SETTLED}
    totals = defaultdict(lambda: [0, 0])
    for transfer in evidence.provider.transfers:
        if transfer.id in adopted:
            key = (transfer.destination, transfer.currency, transfer.livemode)
            totals[key][0] += transfer.amount - transfer.reversed
    entries = of(books.entries)
    for line in books.postings:
        payout = payouts.get(entries[line.entry_id].payout_id) if line.entry_id in entries else None
        if payout is not None and line.account in ("paid", "returned_cash"):
            totals[payout.destination, payout.currency, payout.livemode][1] += line.credit
    for (destination, currency, _), (moved, booked) in sorted(totals.items()):
        if moved != booked:
            yield f"{destination} {currency}", f"received {moved}, and the books say {booked}"


@check("I6")
def reversed_payouts_are_reversed_by_as_much(evidence):
    for payout in evidence.books.payouts:
        if payout.state in VOID | RESERVED:
            wanted = payout.reversed_minor == 0
        elif payout.state == "partially_reversed":
            wanted = 0 < payout.reversed_minor < payout.send_minor
        else:
            wanted = payout.reversed_minor == (payout.send_minor if payout.state == "reversed" else 0)
        if not wanted:
            yield (
                payout.id,
                f"is {payout.state}, and {payout.reversed_minor} of {payout.send_minor} came back",
            )
