"""I9: the payable side is a set of lots, and each is paid out at most once (`rulings.md` 12).

What a payout was made of sums to what it took; that is the fee and what is sent; what is sent is what its
intent asks the provider for.
"""

from collections import defaultdict

from ..rows import RESERVED, VOID, by, of
from . import check


@check("I9")
def a_lot_is_in_one_payout_that_stands(evidence):
    payouts = of(evidence.books.payouts)
    holders = defaultdict(set)
    for item in evidence.books.items:
        if item.payout_id in payouts and payouts[item.payout_id].state not in VOID:
            holders[item.lot_id].add(item.payout_id)
    for lot in evidence.books.lots:
        claimed_by = holders.pop(lot.id, set())
        if len(claimed_by) > 1:
            yield lot.id, f"is in several payouts: {', '.join(sorted(claimed_by))}"
        elif claimed_by != ({lot.payout_id} if lot.payout_id else set()):
            wanted = next(iter(claimed_by), "none")
            yield lot.id, f"is held by the payout {lot.payout_id or 'none'} and is an item of {wanted}"
    for lot_id in holders:
        yield lot_id, "is an item of a payout and does not exist"


@check("I9")
def a_payout_is_the_sum_of_its_lots(evidence):
    lots = of(evidence.books.lots)
    items = by(evidence.books.items, "payout_id")
    for payout in evidence.books.payouts:
        total = 0
        for item in items.get(payout.id, ()):
            total += item.amount_minor
            lot = lots.get(item.lot_id)
            if lot is None:
                continue
            if (lot.amount_minor, lot.commission_id) != (item.amount_minor, item.commission_id):
                yield payout.id, f"its item {item.lot_id} is not what the lot is"
            if (lot.enrollment_id, lot.currency) != (payout.enrollment_id, payout.currency):
                yield payout.id, f"its item {item.lot_id} belongs to another enrollment or currency"
        if total != payout.due_minor:
            yield payout.id, f"took {payout.due_minor}, its items sum to {total}"
        if payout.due_minor != payout.fee_minor + payout.send_minor:
            yield payout.id, f"took {payout.due_minor}, not {payout.fee_minor} and {payout.send_minor}"


@check("I9")
def an_intent_asks_for_what_its_payout_sends(evidence):
    intents = {intent.payout_id: intent for intent in evidence.books.intents if intent.payout_id}
    for payout in evidence.books.payouts:
        intent = intents.get(payout.id)
        if intent is None:
            yield payout.id, "has no intent"
            continue
        wanted = (payout.send_minor, payout.currency, payout.destination, payout.livemode)
        if (intent.amount_minor, intent.currency, intent.destination, intent.livemode) != wanted:
            yield payout.id, "its intent has another amount, currency, destination or mode"


@check("I9")
def lots_are_what_entries_did_to_the_payable_side(evidence):
    lots = by(evidence.books.lots, "entry_id")
    lines = by(evidence.books.postings, "entry_id")
    for entry in evidence.books.entries:
        # These move lots in and out of payouts; they make none.
        if entry.kind in ("payout_reserve", "payout_release"):
            continue
        effect = sum(line.credit for line in lines.get(entry.id, ()) if line.account == "payable")
        own = sum(lot.amount_minor for lot in lots.get(entry.id, ()))
        if own != effect:
            yield entry.id, f"changed the payable side by {effect}, its lots sum to {own}"


def _on_account(books, account):
    """What was posted to an account, by owner and currency."""
    totals, entries = defaultdict(int), of(books.entries)
    for line in books.postings:
        if line.account == account and line.entry_id in entries:
            totals[line.owner_id, entries[line.entry_id].currency] += line.credit
    return totals


@check("I9")
def unclaimed_lots_are_what_is_payable(evidence):
    unclaimed = defaultdict(int)
    for lot in evidence.books.lots:
        if lot.payout_id is None:
            unclaimed[lot.enrollment_id, lot.currency] += lot.amount_minor
    payable = _on_account(evidence.books, "payable")
    for key in sorted(unclaimed.keys() | payable.keys()):
        if unclaimed[key] != payable[key]:
            yield " ".join(key), f"has unclaimed lots of {unclaimed[key]}, and {payable[key]} is payable"


@check("I9")
def what_is_in_transit_is_reserved(evidence):
    reserved = defaultdict(int)
    for payout in evidence.books.payouts:
        if payout.state in RESERVED:
            reserved[payout.enrollment_id, payout.currency] += payout.due_minor
    in_transit = _on_account(evidence.books, "in_transit")
    for key in sorted(reserved.keys() | in_transit.keys()):
        if reserved[key] != in_transit[key]:
            yield " ".join(key), f"has payouts under way of {reserved[key]}, and {in_transit[key]} in transit"
