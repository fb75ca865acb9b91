"""What Stripe's events tell about sales, as a pile of statements without order.

An object is named by (realm, kind, id), a carrier of codes by (realm, "customer" or "subscription", id).
Source: docs.stripe.com/api, the pages of each object; shapes before and after 2025-03-31.basil.
"""

import json
from dataclasses import dataclass, field

# What an owner writes into metadata to name the order in the owner's own words.
EXTERNAL_ID = "remit_external_id"

# The strength of codes: metadata keys count from 0, so these come after every one of them.
CLIENT_REFERENCE = 100_000

# Later words replace earlier ones, whatever the order in which they arrive.
PHASES = ("inquiry", "inquiry_closed", "open", "lost", "won")


class Unreadable(Exception):
    """The event is one that the model follows, in a shape that it does not."""


@dataclass(slots=True)
class Paid:
    amount: int
    currency: str
    # Seconds since the Unix epoch.
    at_s: int
    parent: tuple | None
    carriers: set


@dataclass(slots=True)
class Dispute:
    phase: int
    withdrawn: int
    reinstated: int


@dataclass(slots=True)
class Told:
    """Statements about the sales of one project, by object."""

    paid: dict = field(default_factory=dict)
    links: list = field(default_factory=list)
    # Subject to (strength, code) to the earliest time at which it was told, seconds.
    codes: dict = field(default_factory=dict)
    # Charge to refund id to its amount and whether it failed.
    refunds: dict = field(default_factory=dict)
    # Charge to the highest total refunded.
    refund_totals: dict = field(default_factory=dict)
    # Charge to dispute id to the dispute.
    disputes: dict = field(default_factory=dict)
    # Objects of events that the model cannot follow: their sales are left out.
    unread: set = field(default_factory=set)
    currencies: dict = field(default_factory=dict)

    def pay(self, name, amount, currency, at_s, parent=None, carriers=()):
        known = self.paid.setdefault(name, Paid(amount, currency, at_s, parent, set(carriers)))
        known.amount = max(known.amount, amount)
        known.at_s = min(known.at_s, at_s)
        known.parent = known.parent or parent
        known.carriers |= set(carriers)
        self.see_currency(name, currency)

    def see_currency(self, name, currency):
        self.currencies.setdefault(name, set()).add(currency)

    def link(self, one, other):
        if other is not None:
            self.links.append((one, other))

    def code(self, subjects, strength, code, at_s):
        code = normalised(code)
        for subject in subjects:
            if code and subject is not None:
                told = self.codes.setdefault(subject, {})
                told[strength, code] = min(at_s, told.get((strength, code), at_s))

    def refund(self, charge, refund_id, amount, currency, has_failed):
        told = self.refunds.setdefault(charge, {})
        known, failed = told.get(refund_id, (0, False))
        told[refund_id] = (max(amount, known), failed or has_failed)
        self.see_currency(charge, currency)

    def dispute(self, charge, dispute_id, phase, withdrawn, reinstated, currency):
        known = self.disputes.setdefault(charge, {}).setdefault(dispute_id, Dispute(0, 0, 0))
        known.phase = max(known.phase, PHASES.index(phase))
        known.withdrawn = max(known.withdrawn, withdrawn)
        known.reinstated = max(known.reinstated, reinstated)
        self.see_currency(charge, currency)

    def names(self):
        """Every object that is named."""
        found = {*self.paid, *self.refunds, *self.refund_totals, *self.disputes, *self.unread}
        found.update(name for link in self.links for name in link)
        found.update(subject for subject in self.codes if subject[1] not in ("customer", "subscription"))
        return found


def normalised(code):
    """A code as codes are compared; empty where there is none."""
    code = code.strip() if isinstance(code, str) else ""
    return "".join(one.lower() if one.isascii() else one for one in code) if len(code) <= 200 else ""


@dataclass(slots=True)
class _Event:
    """One event while it is read."""

    told: Told
    realm: str
    at_s: int
    kind: str
    object: dict
    keys: tuple

    def name(self, kind, reference):
        """The name of an object that is told by its id or as a whole; None where it is not told."""
        object_id = reference.get("id") if isinstance(reference, dict) else reference
        if object_id is None:
            return None
        return (external_realm(self.realm) if kind == "external" else self.realm, kind, object_id)

    def carriers(self, subscription=None):
        customer = self.name("customer", self.object.get("customer"))
        subscription = self.name("subscription", subscription)
        return [carrier for carrier in (customer, subscription) if carrier is not None]

    def tell_metadata(self, sale, carriers, *metadata):
        """Codes and the owner's own id, from metadata of which the first that has a key counts."""
        for strength, key in enumerate(self.keys):
            codes = (normalised(one.get(key)) for one in metadata if isinstance(one, dict))
            self.told.code([sale, *carriers], strength, next(filter(None, codes), None), self.at_s)
        own = metadata[0] if metadata and isinstance(metadata[0], dict) else {}
        if sale is not None and isinstance(own.get(EXTERNAL_ID), str):
            self.told.link(sale, self.name("external", own[EXTERNAL_ID].strip() or None))


def external_realm(realm):
    """The owner's own ids are the same whichever provider tells them."""
    return f"external/{realm.split('/')[1]}"


def read(told, event, keys):
    """Adds what an event of the inbox tells. Events that tell nothing about sales add nothing."""
    mode = "live" if event.livemode else "test"
    realm = f"{event.provider}/{mode}" + (f"/{event.account}" if event.account else "")
    body = json.loads(event.body)
    reader = READERS.get(body.get("type")) if event.provider == "stripe" else None
    if reader is None:
        # It may still name an order of the owner's, and then say something about its sale.
        told.unread.update(
            (external_realm(realm), "external", found.strip()) for found in _external_ids(body)
        )
        return
    inner = (body.get("data") or {}).get("object") or {}
    one = _Event(told, realm, body.get("created"), body["type"], inner, keys)
    try:
        reader(one)
    except (Unreadable, KeyError, TypeError, AttributeError):
        told.unread.update(name for name in _everything_named(one) if name is not None)


def _external_ids(value):
    if isinstance(value, dict):
        if isinstance(value.get(EXTERNAL_ID), str):
            yield value[EXTERNAL_ID]
        for inner in value.values():
            yield from _external_ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _external_ids(inner)


def _everything_named(one):
    """The objects that an event names in the usual fields."""
    kinds = {"charge.": "charge", "payment_intent.": "payment_intent", "invoice.": "invoice"}
    own = next((kind for start, kind in kinds.items() if one.kind.startswith(start)), "checkout_session")
    named = {"payment_intent": "payment_intent", "invoice": "invoice", "charge": "charge"}
    named |= {"latest_charge": "charge"}
    yield one.name(own, one.object.get("id"))
    for name, kind in named.items():
        yield one.name(kind, one.object.get(name))


def _intent(one):
    body = one.object
    sale = one.name("payment_intent", body["id"])
    carriers = one.carriers()
    one.told.pay(sale, body["amount_received"], body["currency"], one.at_s, carriers=carriers)
    one.told.link(sale, one.name("charge", body.get("latest_charge")))
    one.told.link(sale, one.name("invoice", body.get("invoice")))
    for charge in (body.get("charges") or {}).get("data", ()):
        one.told.link(sale, one.name("charge", charge))
    one.tell_metadata(sale, carriers, body.get("metadata"))


def _charge(one):
    body = one.object
    sale = one.name("charge", body["id"])
    intent = one.name("payment_intent", body.get("payment_intent"))
    carriers = one.carriers()
    amount = body["amount"] if body.get("amount_captured") is None else body["amount_captured"]
    if body["captured"] and amount > 0:
        one.told.pay(sale, amount, body["currency"], one.at_s, parent=intent, carriers=carriers)
    one.told.link(sale, intent)
    one.told.link(sale, one.name("invoice", body.get("invoice")))
    one.tell_metadata(sale, carriers, body.get("metadata"))


def _invoice(one):
    body = one.object
    if body.get("discounts") or body.get("discount"):
        raise Unreadable
    sale = one.name("invoice", body["id"])
    details = (body.get("parent") or {}).get("subscription_details") or body.get("subscription_details") or {}
    carriers = one.carriers(details.get("subscription") or body.get("subscription"))
    paid_at_s = (body.get("status_transitions") or {}).get("paid_at") or one.at_s
    one.told.pay(sale, body["amount_paid"], body["currency"], paid_at_s, carriers=carriers)
    one.told.link(sale, one.name("payment_intent", body.get("payment_intent")))
    one.told.link(sale, one.name("charge", body.get("charge")))
    for payment in (body.get("payments") or {}).get("data", ()):
        _link_payment(one, sale, payment.get("payment") or {})
    one.tell_metadata(sale, carriers, body.get("metadata"), details.get("metadata"))


def _link_payment(one, invoice, payment):
    one.told.link(invoice, one.name("payment_intent", payment.get("payment_intent")))
    one.told.link(invoice, one.name("charge", payment.get("charge")))


def _invoice_payment(one):
    _link_payment(one, one.name("invoice", one.object["invoice"]), one.object.get("payment") or {})


def _session(one):
    body = one.object
    if body.get("mode") == "setup" or body.get("discounts"):
        raise Unreadable
    sale = one.name("checkout_session", body["id"])
    carriers = one.carriers(body.get("subscription"))
    is_free = body.get("payment_status") == "no_payment_required" and body.get("amount_total") == 0
    # The invoice tells the money of a subscription.
    if body.get("mode") != "subscription" and (body.get("payment_status") == "paid" or is_free):
        one.told.pay(sale, body["amount_total"], body["currency"], one.at_s, carriers=carriers)
    one.told.link(sale, one.name("payment_intent", body.get("payment_intent")))
    one.told.link(sale, one.name("invoice", body.get("invoice")))
    one.tell_metadata(sale, carriers, body.get("metadata"))
    one.told.code([sale, *carriers], CLIENT_REFERENCE, body.get("client_reference_id"), one.at_s)


def _subscription(one):
    carriers = one.carriers(one.object["id"])
    one.tell_metadata(None, carriers, one.object.get("metadata"))


def _customer(one):
    one.tell_metadata(None, [one.name("customer", one.object["id"])], one.object.get("metadata"))


def _of_charge(one):
    """The charge that a refund or dispute is about."""
    charge = one.name("charge", one.object.get("charge"))
    intent = one.name("payment_intent", one.object.get("payment_intent"))
    if charge is None:
        # Which of an intent's charges is meant, the model does not guess.
        raise Unreadable
    one.told.link(charge, intent)
    return charge


def _refund(one):
    body = one.object
    if body.get("charge") is None and body.get("payment_intent") is None:
        return
    failed = body.get("status") in ("failed", "canceled")
    one.told.refund(_of_charge(one), body["id"], body["amount"], body["currency"], failed)


def _refunded(one):
    body = one.object
    charge = one.name("charge", body["id"])
    total = max(body["amount_refunded"], one.told.refund_totals.get(charge, 0))
    one.told.refund_totals[charge] = total
    one.told.see_currency(charge, body["currency"])
    for refund in (body.get("refunds") or {}).get("data", ()):
        failed = refund.get("status") in ("failed", "canceled")
        one.told.refund(charge, refund["id"], refund["amount"], refund["currency"], failed)
    one.told.link(charge, one.name("payment_intent", body.get("payment_intent")))
    one.told.link(charge, one.name("invoice", body.get("invoice")))


def _dispute(one):
    body = one.object
    charge = _of_charge(one)
    words = {
        "warning_needs_response": "inquiry",
        "warning_under_review": "inquiry",
        "warning_closed": "inquiry_closed",
        "prevented": "inquiry_closed",
        "won": "won",
        "lost": "lost",
    }
    phase = words.get(body["status"], "open")
    listed = body.get("balance_transactions") or []
    if any(line["currency"] != body["currency"] for line in listed):
        raise Unreadable
    taken = -sum(line["amount"] for line in listed if line["amount"] < 0)
    returned = sum(line["amount"] for line in listed if line["amount"] > 0)
    step = one.kind.rsplit(".", 1)[1]
    if step in ("created", "updated"):
        # They tell how far it is, never that money moved.
        taken = returned = 0
    elif step in ("funds_withdrawn", "funds_reinstated"):
        taken = taken or body["amount"]
        phase = phase if phase in ("lost", "won") else "open"
        if step == "funds_reinstated":
            returned = returned or body["amount"]
    elif phase == "lost" and not listed:
        taken = body["amount"]
    one.told.dispute(charge, body["id"], phase, taken, returned, body["currency"])


READERS = {
    "payment_intent.succeeded": _intent,
    "charge.succeeded": _charge,
    "charge.captured": _charge,
    "invoice.paid": _invoice,
    "invoice.payment_succeeded": _invoice,
    "invoice_payment.paid": _invoice_payment,
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "customer.subscription.created": _subscription,
    "customer.subscription.updated": _subscription,
    "customer.created": _customer,
    "customer.updated": _customer,
    "refund.created": _refund,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.refund.updated": _refund,
    "charge.refunded": _refunded,
    "charge.dispute.created": _dispute,
    "charge.dispute.updated": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _dispute,
    "charge.dispute.closed": _dispute,
}
