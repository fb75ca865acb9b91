"""What is read from the database: one class per table, one field per column that a check looks at.

The field names are the column names; `database.py` builds its SELECT from them. Amounts are minor units,
times are microseconds since the Unix epoch, UTC.
"""

from dataclasses import dataclass, fields


def table(name, order_by):
    """Marks a dataclass as the rows of a table, read in a fixed order."""

    def mark(row):
        row = dataclass(frozen=True, slots=True)(row)
        row.TABLE, row.ORDER_BY = name, order_by
        row.COLUMNS = tuple(field.name for field in fields(row))
        # SQLite has no booleans: there they come as 0 and 1.
        row.BOOLEANS = tuple(field.name for field in fields(row) if field.type in (bool, "bool"))
        return row

    return mark


@table("inbox", "id")
class Event:
    id: str
    provider: str
    endpoint_id: str
    project_id: str
    account: str
    livemode: bool
    provider_event_id: str
    event_type: str
    state: str
    reason: str | None
    next_attempt_at_us: int
    processed_at_us: int | None
    body: bytes
    body_sha256: bytes


@table("finding", "id")
class Finding:
    kind: str
    object: str
    detail: str
    resolved_at_us: int | None


@table("project", "id")
class Project:
    id: str
    organization_id: str


@table("program", "id")
class Program:
    id: str
    organization_id: str


@table("program_status", "program_id, effective_at_us")
class ProgramStatus:
    program_id: str
    effective_at_us: int
    status: str


@table("program_terms", "program_id, version")
class ProgramTerms:
    program_id: str
    version: int
    effective_at_us: int
    terms: str


@table("enrollment", "id")
class Enrollment:
    id: str
    program_id: str
    organization_id: str


@table("enrollment_status", "enrollment_id, effective_at_us")
class EnrollmentStatus:
    enrollment_id: str
    effective_at_us: int
    status: str


@table("enrollment_sponsor", "enrollment_id, effective_at_us")
class EnrollmentSponsor:
    enrollment_id: str
    effective_at_us: int
    parent_enrollment_id: str | None


@table("enrollment_rate", "enrollment_id, effective_at_us")
class EnrollmentRate:
    enrollment_id: str
    effective_at_us: int
    rate: str | None


@table("code", "organization_id, code_normalised")
class Code:
    organization_id: str
    code_normalised: str
    enrollment_id: str
    valid_from_us: int
    valid_to_us: int | None


@table("sale", "id")
class Sale:
    id: str
    project_id: str
    realm: str
    merged_into: str | None


@table("sale_alias", "sale_id, kind, object_id")
class SaleAlias:
    project_id: str
    realm: str
    kind: str
    object_id: str
    sale_id: str


@table("conversion", "id")
class Conversion:
    id: str
    sale_id: str
    enrollment_id: str


@table("decision", "sale_id, created_at_us, id")
class Decision:
    sale_id: str
    enrollment_id: str
    kind: str
    amount_minor: int | None


@table("commission", "id")
class Commission:
    id: str
    sale_id: str
    enrollment_id: str
    level: int
    currency: str
    earned_minor: int
    clawed_minor: int
    held_minor: int
    released_minor: int
    claimed: bool
    revision: int


@table("entry", "id")
class Entry:
    id: str
    commission_id: str | None
    payout_id: str | None
    revision: int
    kind: str
    enrollment_id: str
    program_id: str
    currency: str
    content_hash: bytes
    created_at_us: int

    @property
    def about(self):
        """The commission or the payout that it belongs to."""
        return self.commission_id or self.payout_id


@table("posting", "entry_id, line")
class Posting:
    entry_id: str
    line: int
    owner_id: str
    account: str
    side: str
    amount_minor: int

    @property
    def credit(self):
        """What it changes its account by, seen from the credit side."""
        return self.amount_minor if self.side == "credit" else -self.amount_minor


@table("balance", "owner_id, account, currency")
class Balance:
    owner_id: str
    account: str
    currency: str
    debit_minor: int
    credit_minor: int


@table("lot", "id")
class Lot:
    id: str
    entry_id: str
    commission_id: str | None
    enrollment_id: str
    currency: str
    amount_minor: int
    payout_id: str | None


@table("payout_run", "id")
class Run:
    id: str
    program_id: str
    currency: str | None
    period_end_us: int | None
    request_key: str | None
    state: str
    created_at_us: int


# What became of a payout, by its state. A reserved one holds its amount in transit.
RESERVED = frozenset({"pending", "submitting", "unknown", "waiting_account", "waiting_funds"})
SETTLED = frozenset({"completed", "partially_reversed", "reversed"})
VOID = frozenset({"failed", "canceled"})


@table("payout", "id")
class Payout:
    id: str
    run_id: str
    program_id: str
    enrollment_id: str
    currency: str
    due_minor: int
    fee_minor: int
    send_minor: int
    state: str
    livemode: bool
    destination: str
    transfer_id: str | None
    reversed_minor: int
    returned_minor: int
    revision: int


@table("payout_item", "payout_id, lot_id")
class Item:
    payout_id: str
    lot_id: str
    commission_id: str | None
    amount_minor: int


@table("payout_pause", "id")
class Pause:
    kind: str
    resumed_at_us: int | None


@table("intent", "id")
class Intent:
    id: str
    kind: str
    payout_id: str | None
    charge_id: str | None
    livemode: bool
    destination: str
    amount_minor: int
    currency: str
    state: str
    generation: int
    object_id: str | None
    created_at_us: int


@table("generation", "intent_id, generation")
class Generation:
    intent_id: str
    generation: int
    idempotency_key: str
    path: str
    body: bytes
    body_sha256: bytes
    first_sent_at_us: int | None
    closed_at_us: int | None
    proof: str | None


@table("attempt", "intent_id, number")
class Attempt:
    intent_id: str
    number: int
    generation: int
    kind: str
    sent_at_us: int
    verdict: str | None
    replayed: bool | None


@table("job", "id")
class Job:
    id: str
    intent_id: str
    state: str
    reason: str | None
    next_attempt_at_us: int | None


@table("resolution", "intent_id, created_at_us, id")
class Resolution:
    intent_id: str
    generation: int
    verdict: str
    approver: str | None


@table("refold", "sale_id, cause_kind, cause_id")
class Refold:
    sale_id: str
    cause_kind: str
    cause_id: str
    due_at_us: int


@table("transfer_news", "transfer_id, realm, project_id")
class News:
    transfer_id: str
    due_at_us: int


@dataclass(frozen=True, slots=True)
class Books:
    """The database at one moment."""

    events: list[Event]
    findings: list[Finding]
    projects: list[Project]
    programs: list[Program]
    program_statuses: list[ProgramStatus]
    program_terms: list[ProgramTerms]
    enrollments: list[Enrollment]
    enrollment_statuses: list[EnrollmentStatus]
    enrollment_sponsors: list[EnrollmentSponsor]
    enrollment_rates: list[EnrollmentRate]
    codes: list[Code]
    sales: list[Sale]
    aliases: list[SaleAlias]
    conversions: list[Conversion]
    decisions: list[Decision]
    commissions: list[Commission]
    entries: list[Entry]
    postings: list[Posting]
    balances: list[Balance]
    lots: list[Lot]
    runs: list[Run]
    payouts: list[Payout]
    items: list[Item]
    pauses: list[Pause]
    intents: list[Intent]
    generations: list[Generation]
    attempts: list[Attempt]
    jobs: list[Job]
    resolutions: list[Resolution]
    refolds: list[Refold]
    news: list[News]


def by(rows, *names):
    """Groups rows by one column, or by several as a tuple; groups keep the order of the rows."""
    groups = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in names) if len(names) > 1 else getattr(row, names[0])
        groups.setdefault(key, []).append(row)
    return groups


def of(rows, name="id"):
    """Finds rows by a column that is unique."""
    return {getattr(row, name): row for row in rows}
