"""I4: the journal. Entries balance and say what they said when they were posted; balances and the amounts of
commissions are the sums of the entries."""

from collections import defaultdict
from hashlib import sha256

from ..rows import by
from . import check


def content_hash(entry, lines):
    """SHA-256 over everything that an entry says, each text with its length (eight bytes, big endian) in
    front: id, what it is about, revision, kind, enrollment, program, currency; then owner, account, side
    and amount of each line in order."""
    texts = [entry.id, entry.about, entry.revision, entry.kind]
    texts += [entry.enrollment_id, entry.program_id, entry.currency]
    for line in lines:
        texts += [line.owner_id, line.account, line.side, line.amount_minor]
    digest = sha256()
    for text in texts:
        data = str(text).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


@check("I4")
def entries_balance(evidence):
    lines = by(evidence.books.postings, "entry_id")
    for entry in evidence.books.entries:
        own = lines.get(entry.id, ())
        if not own:
            yield entry.id, "has no lines"
        elif any(line.amount_minor <= 0 for line in own):
            yield entry.id, "has a line that is not positive"
        elif total := sum(line.credit for line in own):
            yield entry.id, f"its credits exceed its debits by {total}"
    for orphan in lines.keys() - {entry.id for entry in evidence.books.entries}:
        yield orphan, "has lines and is no entry"


@check("I4")
def entries_say_what_they_said(evidence):
    lines = by(evidence.books.postings, "entry_id")
    for entry in evidence.books.entries:
        if content_hash(entry, lines.get(entry.id, ())) != entry.content_hash:
            yield entry.id, "was changed after it was posted: it does not have its hash"


@check("I4")
def balances_are_the_sums_of_the_postings(evidence):
    currencies = {entry.id: entry.currency for entry in evidence.books.entries}
    sums = defaultdict(lambda: [0, 0])
    for line in evidence.books.postings:
        key = (line.owner_id, line.account, currencies.get(line.entry_id))
        sums[key][line.side == "credit"] += line.amount_minor
    kept = {
        (row.owner_id, row.account, row.currency): [row.debit_minor, row.credit_minor]
        for row in evidence.books.balances
    }
    for key in sorted(sums.keys() | kept.keys(), key=str):
        posted = sums.get(key, [0, 0])
        if kept.get(key, [0, 0]) != posted:
            yield " ".join(map(str, key)), f"is kept as {kept.get(key)} (debit, credit), posted were {posted}"


@check("I4")
def commissions_state_what_was_posted(evidence):
    lines = by(evidence.books.postings, "entry_id")
    posted = defaultdict(lambda: dict.fromkeys(("earned", "clawed", "held", "released"), 0))
    for entry in evidence.books.entries:
        if entry.commission_id is None:
            continue
        sums = posted[entry.commission_id]
        for line in lines.get(entry.id, ()):
            if line.account == "held":
                sums["held"] += line.credit
            elif line.account == "payable":
                sums["released"] += line.credit
            elif line.account == "expense" and entry.kind in ("accrual", "adjustment"):
                sums["earned"] -= line.credit
            elif line.account == "expense":
                sums["clawed"] += line.credit
    for row in evidence.books.commissions:
        stated = {
            "earned": row.earned_minor,
            "clawed": row.clawed_minor,
            "held": row.held_minor,
            "released": row.released_minor,
        }
        if stated != posted[row.id]:
            yield row.id, f"states {stated}, posted was {posted[row.id]}"
