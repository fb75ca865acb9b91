"""What follows from the statements about one sale: how much it brought, how much of that was taken back,
whose it is, and so what its commission is.

All rounding is half up, once, on the total (`rulings.md` 24).
"""

import json
from dataclasses import dataclass

from ..rows import by, of
from .told import PHASES, Told, read

# Whose word about the amount counts: an invoice's before a session's before a payment's.
RANK = {"invoice": 0, "checkout_session": 1, "payment_intent": 2, "charge": 2}

# A customer's code speaks for sales from one hour before it was told.
CUSTOMER_SLACK_S = 3_600


class OutOfScope(Exception):
    """The model has no opinion about this sale."""


@dataclass(frozen=True, slots=True)
class Money:
    amount: int
    # Refunded and disputed together, at most `amount`.
    taken: int
    currency: str
    paid_at_s: int


@dataclass(frozen=True, slots=True)
class Story:
    """One sale with every name that leads to it."""

    project_id: str
    names: frozenset
    # Everything that was told in the project.
    told: Told

    def _own(self, table):
        """What a table of statements says under this sale's names."""
        return {name: table[name] for name in self.names if name in table}

    def money(self):
        """None while nobody has told an amount."""
        if self.names & self.told.unread:
            raise OutOfScope("an event that the model does not follow")
        paid = self._own(self.told.paid)
        # A charge inside a payment that tells its own amount is the same money.
        tellers = {name: one for name, one in paid.items() if one.parent not in paid}
        if not tellers:
            return None
        currencies = set().union(*self._own(self.told.currencies).values())
        if len(currencies) > 1:
            raise OutOfScope("several currencies")
        best = min(RANK[name[1]] for name in tellers)
        deciding = [one for name, one in tellers.items() if RANK[name[1]] == best]
        amount = sum(one.amount for one in deciding)
        taken = self._refunded() + self._disputed()
        return Money(amount, min(taken, amount), currencies.pop(), min(one.at_s for one in deciding))

    def _refunded(self):
        """Per charge: the refunds that did not fail, and what the running total shows beyond all refunds
        that were ever told (`rulings.md` 6)."""
        refunds, totals = self._own(self.told.refunds), self._own(self.told.refund_totals)
        refunded = 0
        for charge in refunds.keys() | totals.keys():
            told = refunds.get(charge, {}).values()
            refunded += sum(amount for amount, has_failed in told if not has_failed)
            refunded += max(0, totals.get(charge, 0) - sum(amount for amount, _ in told))
        return refunded

    def _disputed(self):
        withdrawn = returned = 0
        for disputes in self._own(self.told.disputes).values():
            for dispute in disputes.values():
                is_won = PHASES[dispute.phase] == "won"
                withdrawn += dispute.withdrawn
                returned += dispute.withdrawn if is_won else min(dispute.reinstated, dispute.withdrawn)
        return max(0, withdrawn - returned)

    def codes(self, paid_at_s):
        """The codes that can speak for the sale, each with when it was told, the strongest first: its own,
        its subscription's, its customer's; among its own the better source, among the others the earlier.
        One of its own counts as told when it was paid."""
        carriers = set().union(*(one.carriers for one in self._own(self.told.paid).values()))
        own, subscription, customer = [], [], []
        for subject in self.names | carriers:
            for (strength, code), at_s in self.told.codes.get(subject, {}).items():
                if subject in self.names:
                    own.append((strength, at_s, code))
                elif subject[1] == "subscription":
                    subscription.append((at_s, strength, code))
                elif at_s <= paid_at_s + CUSTOMER_SLACK_S:
                    customer.append((at_s, strength, code))
        carried = [*sorted(subscription), *sorted(customer)]
        return [*((code, paid_at_s) for *_, code in sorted(own)), *((code, at_s) for at_s, _, code in carried)]


def stories(books, keys):
    """The sales that the stored events tell of. An event that waits or failed has told nothing yet."""
    by_project = {}
    for event in books.events:
        if event.state in ("applied", "ignored") and event.reason != "wrong_mode":
            read(by_project.setdefault(event.project_id, Told()), event, keys)
    return [
        Story(project_id, frozenset(names), told)
        for project_id, told in by_project.items()
        for names in _joined(told)
    ]


def _joined(told):
    """Names that lead to one sale, because links join them or a payment contains another."""
    parents = [(name, one.parent) for name, one in told.paid.items() if one.parent is not None]
    links = [*told.links, *parents]
    root = {name: name for name in [*told.names(), *(name for link in links for name in link)]}

    def find(name):
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for one, other in links:
        root[find(one)] = find(other)
    groups = {}
    for name in root:
        groups.setdefault(find(name), set()).add(name)
    return groups.values()


def half_up(amount, part, whole):
    """`amount × part ÷ whole` of what is not negative."""
    return (2 * amount * part + whole) // (2 * whole)


class Directory:
    """Who earns by which code, on which terms. Anything that changed over time is out of scope."""

    def __init__(self, books):
        self._owners = {project.id: project.organization_id for project in books.projects}
        self._codes = {(code.organization_id, code.code_normalised): code for code in books.codes}
        self._enrollments = of(books.enrollments)
        self._programs = of(books.programs)
        self._enrollment_statuses = by(books.enrollment_statuses, "enrollment_id")
        self._program_statuses = by(books.program_statuses, "program_id")
        self._sponsors = by(books.enrollment_sponsors, "enrollment_id")
        self._rates = by(books.enrollment_rates, "enrollment_id")
        self._terms = by(books.program_terms, "program_id")

    def enrollment_for(self, project_id, code, told_at_s, paid_at_s):
        """The enrollment that earns by a code, or None. What bound a buyer before it was retired binds."""
        owner = self._owners.get(project_id)
        known = self._codes.get((owner, code))
        if known is None:
            return None
        enrollment = self._enrollments[known.enrollment_id]
        program = self._programs[enrollment.program_id]
        if program.organization_id != owner:
            return None
        at_us = paid_at_s * 1_000_000
        is_retired = known.valid_to_us is not None and known.valid_to_us <= told_at_s * 1_000_000
        is_valid = known.valid_from_us <= at_us and not is_retired
        is_active = all(
            self._is_active(statuses, at_us)
            for statuses in (
                self._enrollment_statuses.get(enrollment.id, []),
                self._program_statuses.get(program.id, []),
            )
        )
        return enrollment.id if is_valid and is_active else None

    @staticmethod
    def _is_active(statuses, at_us):
        if len(statuses) > 1:
            raise OutOfScope("a status that changed")
        return any(one.status == "active" and one.effective_at_us <= at_us for one in statuses)

    def sponsors(self, enrollment_id, paid_at_s):
        """Who may earn with an affiliate: enrollment, level and basis points of the commission. Who was not
        active leaves the level empty."""
        at_us = paid_at_s * 1_000_000
        one, seen = enrollment_id, {enrollment_id}
        for level, bps in enumerate(self._plain_terms(enrollment_id).get("upline_bps", []), 1):
            above = [row for row in self._sponsors.get(one, []) if row.effective_at_us <= at_us]
            one = above[-1].parent_enrollment_id if above else None
            if one is None or one in seen:
                return
            seen.add(one)
            if self._is_active(self._enrollment_statuses.get(one, []), at_us):
                yield one, level, bps

    def rate(self, enrollment_id):
        """Basis points of what was paid."""
        if enrollment_id in self._rates:
            raise OutOfScope("a rate of their own")
        return self._plain_terms(enrollment_id)["commission"]["bps"]

    def _plain_terms(self, enrollment_id):
        versions = self._terms.get(self._enrollments[enrollment_id].program_id, [])
        if len(versions) != 1:
            raise OutOfScope("terms that changed")
        terms = json.loads(versions[0].terms)
        is_plain = (
            terms["commission"]["type"] == "percentage"
            and terms.get("commission_base", "gross") == "gross"
            and terms.get("approval_mode", "auto") == "auto"
            and not terms.get("product_rates")
        )
        if not is_plain:
            raise OutOfScope("terms other than a share of what was paid")
        return terms


@dataclass(frozen=True, slots=True)
class Owed:
    """What one enrollment earns by a sale, minor units; at level 0 who brought it, above that a sponsor."""

    enrollment_id: str
    level: int
    currency: str
    earned: int
    clawed: int


def owed(story, directory, frozen_to=None, transfers=None):
    """What the sale brings to whom: nothing, or the affiliate's commission and then those that sponsors
    have where the platform allows it. What a payout has claimed keeps its enrollment (`frozen_to`), and what
    came back of the transfer that paid one of them (`transfers`, by enrollment) counts as taken back."""
    money = story.money()
    if money is None:
        return []
    transfers = transfers or {}
    found = (
        directory.enrollment_for(story.project_id, code, told_at_s, money.paid_at_s)
        for code, told_at_s in story.codes(money.paid_at_s)
    )
    enrollment_id = frozen_to or next((one for one in found if one is not None), None)
    if enrollment_id is None:
        return []
    earned = half_up(money.amount, directory.rate(enrollment_id), 10_000)
    if earned == 0:
        return []
    kept = 0 if money.taken == money.amount else half_up(earned, money.amount - money.taken, money.amount)

    def of(who, level, whole, left):
        clawed = min(whole, whole - left + transfers.get(who, 0))
        return Owed(who, level, money.currency, whole, clawed)

    sponsors = directory.sponsors(enrollment_id, money.paid_at_s)
    shares = [(who, level, half_up(earned, bps, 10_000)) for who, level, bps in sponsors]
    uplines = [of(who, level, share, half_up(share, kept, earned)) for who, level, share in shares if share]
    return [of(enrollment_id, 0, earned, kept), *uplines]
