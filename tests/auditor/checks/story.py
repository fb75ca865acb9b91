"""I14: the books are those of a sequential model that is told the same facts."""

from collections import defaultdict

from ..reference.model import Directory, OutOfScope, Owed, owed, stories
from ..rows import by
from . import check
from .balances import standing


def compare(evidence):
    """Every sale that the stored events tell of: its story, the ids of its rows, and what it should bring,
    or the reason why the model does not say."""
    books = evidence.books
    # An event whose body is gone may have said anything.
    if any(event.body == b"" and event.state != "received" for event in books.events):
        return
    directory = Directory(books)
    rows = defaultdict(set)
    for alias in books.aliases:
        rows[alias.project_id, (alias.realm, alias.kind, alias.object_id)].add(alias.sale_id)
    decisions, commissions = by(books.decisions, "sale_id"), by(books.commissions, "sale_id")
    waiting = {refold.sale_id for refold in books.refolds}
    for story in stories(books, evidence.attribution_keys):
        ids = set().union(*(rows[story.project_id, name] for name in story.names))
        try:
            yield story, ids, _expected(story, ids, directory, decisions, commissions, waiting)
        except OutOfScope as reason:
            yield story, ids, reason


def _expected(story, ids, directory, decisions, commissions, waiting):
    decided = [decision for sale_id in ids for decision in decisions.get(sale_id, ())]
    if any(decision.kind != "transfer_clawback" for decision in decided):
        raise OutOfScope("a person decided")
    if ids & waiting:
        raise OutOfScope("to be folded again")
    own = [row for sale_id in ids for row in commissions.get(sale_id, ()) if row.level == 0]
    frozen_to = next((row.enrollment_id for row in own if row.claimed), None)
    transfers = defaultdict(int)
    for one in decided:
        transfers[one.enrollment_id] += one.amount_minor or 0
    return owed(story, directory, frozen_to, transfers)


def coverage(evidence):
    """How many sales the model speaks about, of how many."""
    compared = list(compare(evidence))
    spoken = sum(1 for *_, expected in compared if not isinstance(expected, OutOfScope))
    return spoken, len(compared)


@check("I14")
def commissions_are_those_of_the_model(evidence):
    commissions = by(evidence.books.commissions, "sale_id")
    for story, ids, expected in compare(evidence):
        if isinstance(expected, OutOfScope):
            continue
        name = ":".join(min(story.names)[1:])
        if len(ids) > 1:
            yield name, f"is one payment and stands in {len(ids)} sales"
            continue
        due = {(one.enrollment_id, one.level) for one in expected}
        found = [
            Owed(row.enrollment_id, row.level, row.currency, row.earned_minor, row.clawed_minor)
            for sale_id in ids
            for row in commissions.get(sale_id, ())
            # Commissions of others were taken back whole.
            if row.earned_minor != row.clawed_minor or (row.enrollment_id, row.level) in due
        ]
        found.sort(key=lambda one: one.level)
        if found != _allowed(expected, found):
            yield name, f"should bring {_texts(expected)} and brings {_texts(found)}"


@check("I14")
def balances_are_those_of_the_model(evidence):
    books = evidence.books
    totals, spoken_for = defaultdict(int), set()
    commissions = by(books.commissions, "sale_id")
    for _, ids, expected in compare(evidence):
        if isinstance(expected, OutOfScope):
            continue
        spoken_for |= ids
        rows = [row for sale_id in ids for row in commissions.get(sale_id, ())]
        for one in _allowed(expected, rows):
            totals[one.enrollment_id, one.currency] += one.earned - one.clawed
    merged = {sale.id for sale in books.sales if sale.merged_into is not None}
    open_to_doubt = {
        row.enrollment_id
        for row in books.commissions
        if row.sale_id not in spoken_for | merged and row.earned_minor != row.clawed_minor
    }
    have = standing(books)
    for key in sorted(totals.keys() | have.keys()):
        if key[0] not in open_to_doubt and totals[key] != have[key]:
            yield " ".join(key), f"should have earned {totals[key]} in all, and the accounts hold {have[key]}"


def _allowed(expected, found):
    """What is expected, without the sponsors who have nothing: whether the platform let them earn when the
    sale was made is a setting, which is not in the books."""
    have = {(one.enrollment_id, one.level) for one in found}
    return [one for one in expected if one.level == 0 or (one.enrollment_id, one.level) in have]


def _texts(owed):
    told = (f"{one.enrollment_id} {one.earned} {one.currency} less {one.clawed}" for one in owed)
    return ", ".join(told) or "nothing"
