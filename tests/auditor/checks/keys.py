"""I3: every effect once. Natural keys are unique, derived ids are those of what they name, and commissions
and payouts have exactly the entries that their state calls for.

The databases enforce most of the keys; a damaged index or a copy that was put together by hand does not.
"""

from collections import Counter
from hashlib import sha256

from ..rows import SETTLED, VOID, by
from . import check

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def derived_id(prefix, *parts):
    """The id of the thing that `parts` name: SHA-256 over each part with its length (eight bytes, big
    endian) in front, of which the first 128 bits are written as 26 digits of Crockford's base 32."""
    digest = sha256()
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    number = int.from_bytes(digest.digest()[:16], "big")
    return prefix + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


@check("I3")
def natural_keys_are_unique(evidence):
    books = evidence.books
    event_key = ("provider", "endpoint_id", "account", "livemode", "provider_event_id")
    keys = [
        ("event", books.events, event_key),
        ("alias", books.aliases, ("project_id", "realm", "kind", "object_id")),
        ("conversion", books.conversions, ("sale_id", "enrollment_id")),
        ("commission", books.commissions, ("sale_id", "enrollment_id", "level")),
        ("entry", books.entries, ("commission_id", "payout_id", "revision")),
        ("lot", books.lots, ("entry_id",)),
        ("payout", books.payouts, ("run_id", "enrollment_id", "currency")),
        ("intent", books.intents, ("payout_id", "charge_id")),
        ("idempotency key", books.generations, ("idempotency_key",)),
        ("job", books.jobs, ("intent_id",)),
    ]
    for noun, rows, names in keys:
        counted = Counter(tuple(getattr(row, name) for name in names) for row in rows)
        for key, count in counted.items():
            if count > 1:
                yield " ".join(map(str, key)), f"{count} rows of one {noun}"


@check("I3")
def a_period_is_settled_once(evidence):
    scheduled = (run for run in evidence.books.runs if run.period_end_us is not None)
    asked = (run for run in evidence.books.runs if run.request_key is not None)
    for runs in by(scheduled, "program_id", "currency", "period_end_us").values():
        if len(runs) > 1:
            yield runs[0].program_id, f"{len(runs)} runs of the period that ends at {runs[0].period_end_us}"
    for runs in by(asked, "program_id", "request_key").values():
        if len(runs) > 1:
            yield runs[0].program_id, f"{len(runs)} runs of one request"


@check("I3")
def derived_ids_are_those_of_what_they_name(evidence):
    books = evidence.books
    expected = [
        *((row.id, derived_id("je_", row.about, row.revision)) for row in books.entries),
        *((row.id, derived_id("lot_", row.entry_id)) for row in books.lots),
        *(
            (row.id, derived_id("com_", row.sale_id, row.enrollment_id, row.level))
            for row in books.commissions
        ),
        *((row.id, derived_id("conv_", row.sale_id, row.enrollment_id)) for row in books.conversions),
    ]
    for found, wanted in expected:
        if found != wanted:
            yield found, f"has another id than what it names, {wanted}"


@check("I3")
def revisions_are_counted_without_a_gap(evidence):
    books = evidence.books
    entries = by(books.entries, "commission_id", "payout_id")
    stated = {(row.id, None): row.revision for row in books.commissions}
    stated |= {(None, row.id): row.revision for row in books.payouts}
    for key, revision in stated.items():
        posted = sorted(entry.revision for entry in entries.get(key, ()))
        if posted != list(range(1, revision + 1)):
            yield key[0] or key[1], f"stands at revision {revision} and has the entries {posted}"
    for key in entries.keys() - stated.keys():
        yield key[0] or key[1], "has entries and does not exist"


@check("I3")
def a_payout_has_the_entries_of_its_state(evidence):
    amounts = {}
    for posting in evidence.books.postings:
        if posting.side == "debit":
            amounts[posting.entry_id] = amounts.get(posting.entry_id, 0) + posting.amount_minor
    entries = by(evidence.books.entries, "payout_id")
    for payout in evidence.books.payouts:
        posted, returned = [], 0
        for entry in entries.get(payout.id, ()):
            if entry.kind == "transfer_returned":
                returned += amounts.get(entry.id, 0)
            else:
                posted.append((entry.kind, amounts.get(entry.id, 0)))
        wanted = [("payout_reserve", payout.due_minor)]
        if payout.state in SETTLED:
            wanted.append(("payout_settle", payout.send_minor))
            if payout.fee_minor > 0:
                wanted.append(("platform_fee", payout.fee_minor))
        elif payout.state in VOID:
            wanted.append(("payout_release", payout.due_minor))
        if sorted(posted) != sorted(wanted):
            yield payout.id, f"is {payout.state} and has the entries {sorted(posted)}, not {sorted(wanted)}"
        if returned != payout.returned_minor:
            yield payout.id, f"says that {payout.returned_minor} came back, its entries say {returned}"
        if payout.returned_minor > 0 and payout.state not in ("partially_reversed", "reversed"):
            yield payout.id, f"is {payout.state} although something came back of it"
