"""I7: nobody is paid what was not earned (`rulings.md` 12).

The identity: per enrollment and currency, what was earned less what was taken back is held, payable, in
transit, paid, or kept as a fee, and what came back of transfers was paid before and is on one of these
accounts again. The bound: a payout took no more than was payable when it was reserved.
"""

from collections import defaultdict

from ..rows import by, of
from . import check

# The accounts of an affiliate.
OWN = ("held", "payable", "in_transit", "paid")


def standing(books):
    """What each enrollment has on its accounts, with the fees it paid and without what came back, by
    enrollment and currency. From the postings: that the kept balances agree with them is I4's."""
    totals, entries = defaultdict(int), of(books.entries)
    for line in books.postings:
        entry = entries.get(line.entry_id)
        if entry is None:
            continue
        if line.account in OWN:
            totals[line.owner_id, entry.currency] += line.credit
        elif entry.payout_id is not None:
            # The program's side of a payout: fees that it kept, cash that it got back.
            totals[entry.enrollment_id, entry.currency] += line.credit
    return totals


@check("I7")
def what_was_earned_is_somewhere(evidence):
    earned = defaultdict(int)
    for row in evidence.books.commissions:
        earned[row.enrollment_id, row.currency] += row.earned_minor - row.clawed_minor
    have = standing(evidence.books)
    for key in sorted(earned.keys() | have.keys()):
        if earned[key] != have[key]:
            yield " ".join(key), f"earned {earned[key]} in all, and the accounts hold {have[key]}"


@check("I7")
def reservations_were_covered(evidence):
    lines = by(evidence.books.postings, "entry_id")
    history = defaultdict(list)
    for entry in evidence.books.entries:
        effect = sum(line.credit for line in lines.get(entry.id, ()) if line.account == "payable")
        if effect != 0:
            history[entry.enrollment_id, entry.currency].append((entry, effect))
    for entries in history.values():
        for entry, effect in entries:
            if entry.kind != "payout_reserve":
                continue
            # Two entries whose times are close may have been committed in either order. Only what is
            # not covered in the most favourable order is certainly wrong.
            slack = evidence.order_slack_us
            covered = sum(
                other_effect
                for other, other_effect in entries
                if other.id != entry.id
                and other.created_at_us < entry.created_at_us + (slack if other_effect > 0 else -slack)
            )
            if covered < -effect:
                yield entry.about, f"took {-effect} when {covered} was payable"
