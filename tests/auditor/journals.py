"""Reads the two journals: one JSON object per line. README.md has their formats.

A field that is missing where it must be is an error and ends the audit: a witness that cannot be
understood has not said that all is well.
"""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook that was sent, and what it was answered."""

    provider: str
    endpoint_id: str
    account: str
    livemode: bool
    event_id: str
    body_sha256: str
    # None: there was no whole answer.
    status: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request that reached the provider."""

    at_us: int
    request_id: str
    method: str
    path: str
    idempotency_key: str | None
    body_sha256: str
    # The connected account that it was made for; None for the platform.
    account: str | None
    # None: it brought no key that tells.
    livemode: bool | None


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that the provider did: what it is called, and the object as it was afterwards."""

    at_us: int
    effect: str
    idempotency_key: str | None
    # The connected account that it belongs to; None for the platform.
    account: str | None
    # The provider made this object a second time, by a fault of its own.
    is_duplicate: bool
    object: dict


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer as it stands at the provider."""

    id: str
    amount: int
    currency: str
    destination: str
    livemode: bool
    # What it is for, as its metadata or its group says.
    intent_id: str | None
    reversed: int
    of_charge: bool
    is_duplicate: bool


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment intent of a destination charge as it was made."""

    id: str
    amount: int
    currency: str
    destination: str | None
    livemode: bool
    intent_id: str
    is_duplicate: bool


@dataclass(frozen=True, slots=True)
class Provider:
    """What the sandbox's journal tells."""

    requests: list[Request] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)


def read_lines(path):
    """The objects of a file. A last line without its end was cut short by a death and says nothing."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}, is not JSON") from error


def deliveries(lines):
    """The traffic journal."""
    return [
        Delivery(
            provider=line["provider"],
            endpoint_id=line["endpoint_id"],
            account=line.get("account") or "",
            livemode=line["livemode"],
            event_id=line["event_id"],
            body_sha256=line["body_sha256"],
            status=line["status"],
        )
        for line in lines
    ]


def provider(lines):
    """The sandbox's journal. Kinds of lines that no check needs are passed over."""
    told = Provider()
    last = 0
    for line in lines:
        # Every start of the sandbox counts from 1 again.
        if line["seq"] not in (last + 1, 1):
            raise ValueError(f"the sandbox's journal goes from line {last} to line {line['seq']}")
        last = line["seq"]
        if line["kind"] == "request":
            told.requests.append(_request(line))
        elif line["kind"] == "effect":
            told.effects.append(_effect(line))
    told.transfers.extend(_transfers(told.effects))
    told.payments.extend(_payments(told.effects))
    return told


def _request(line):
    return Request(
        at_us=line["at_us"],
        request_id=line["request_id"],
        method=line["method"],
        path=line["path"],
        idempotency_key=line["idempotency_key"],
        body_sha256=line["body_sha256"],
        account=line["stripe_account"],
        livemode=line["livemode"],
    )


def _effect(line):
    return Effect(
        at_us=line["at_us"],
        effect=line["effect"],
        idempotency_key=line["idempotency_key"],
        account=line["account"],
        is_duplicate=bool(line.get("duplicate")),
        object=line["object"],
    )


def _transfers(effects):
    """Each transfer as its last effect shows it. Reversals are cumulative, so the highest total counts."""
    last, made, reversed_minor = {}, {}, {}
    for effect in effects:
        body = effect.object
        # A connected account's own transfers are nobody's payouts here.
        if body.get("object") != "transfer" or effect.account is not None:
            continue
        last[body["id"]] = body
        made.setdefault(body["id"], effect)
        told = body.get("amount_reversed") or 0
        reversed_minor[body["id"]] = max(told, reversed_minor.get(body["id"], 0))
    for transfer_id, body in last.items():
        group = body.get("transfer_group") or ""
        intent_id = (body.get("metadata") or {}).get("intent_id")
        of_charge = intent_id is None and (group.startswith("group_") or bool(body.get("source_transaction")))
        yield Transfer(
            id=transfer_id,
            amount=body["amount"],
            currency=body["currency"],
            destination=body["destination"],
            livemode=body["livemode"],
            intent_id=None if of_charge else intent_id or group or None,
            reversed=reversed_minor[transfer_id],
            of_charge=of_charge,
            is_duplicate=made[transfer_id].is_duplicate,
        )


def _payments(effects):
    made = {}
    for effect in effects:
        body = effect.object
        intent_id = (body.get("metadata") or {}).get("intent_id")
        if body.get("object") == "payment_intent" and intent_id is not None:
            made.setdefault(body["id"], (effect, body, intent_id))
    for effect, body, intent_id in made.values():
        yield Payment(
            id=body["id"],
            amount=body["amount"],
            currency=body["currency"],
            destination=(body.get("transfer_data") or {}).get("destination"),
            livemode=body["livemode"],
            intent_id=intent_id,
            is_duplicate=effect.is_duplicate,
        )
