"""The checks: small pure functions from evidence to what is wrong, in one file per kind of invariant."""

from dataclasses import dataclass

from ..journals import Delivery, Provider
from ..rows import Books

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses say, and how to read it. A journal that nobody has is None."""

    books: Books
    deliveries: list[Delivery] | None
    provider: Provider | None
    # The time of the audit by the clock of the audited program, microseconds.
    now_us: int
    # How long a node may take to do what is due, microseconds.
    patience_us: int
    # How far apart the recorded times of two entries may be from the order in which they were committed:
    # a time is read before locks are waited for, microseconds.
    order_slack_us: int
    # Metadata keys that carry referral codes, the strongest first.
    attribution_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """Something that must not be."""

    invariant: str
    object: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    invariant: str
    # Names the journal without which the check cannot be made.
    needs: str | None
    find: callable


CHECKS = []


def check(invariant, needs=None):
    """Registers a function that yields pairs of an object and what is wrong with it."""

    def register(find):
        CHECKS.append(Check(invariant, needs, find))
        return find

    return register


def run(evidence):
    """All violations, sorted, and the invariants that could not be checked for want of a journal."""
    violations, unchecked = set(), set()
    for one in CHECKS:
        if one.needs is not None and getattr(evidence, one.needs) is None:
            unchecked.add(f"{one.invariant} against the {one.needs}")
            continue
        violations.update(Violation(one.invariant, *wrong) for wrong in one.find(evidence))
    return sorted(violations), sorted(unchecked)


# Importing registers; nothing else of these modules is used here.
from . import balances, inbox, jobs, keys, ledger, lots, protocol, provider, story  # noqa: E402, F401
