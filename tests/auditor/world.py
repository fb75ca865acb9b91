"""A tiny world in which everything is right, for the tests of the auditor: a database made by the real
migrations, with what the program would have written, and both journals.

Two affiliates earn a fifth of each sale; of each payout the platform keeps a twentieth. There is a payout of
every kind: paid, paid after a doubt, partly reversed, waiting under a second key, refused, and unknown.
"""

import json
import sqlite3
from hashlib import sha256
from pathlib import Path

from . import checks, journals
from .checks.keys import derived_id
from .checks.ledger import content_hash
from .database import read_with
from .rows import Entry, Posting

HOUR_US = checks.HOUR_US
# When the sales are paid.
START_S = 1_767_225_600
START_US = START_S * checks.SECOND_US
# When the audit is made.
NOW_US = START_US + 30 * HOUR_US
TERMS = {"commission": {"type": "percentage", "bps": 2000}, "hold_period_days": 0}
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations" / "sqlite"


class World:
    def __init__(self):
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            self.db.executescript(migration.read_text(encoding="utf-8"))
        # A test breaks what the triggers protect.
        for trigger in ("entry_no_update", "entry_no_delete", "posting_no_update", "posting_no_delete"):
            self.db.execute(f"DROP TRIGGER {trigger}")
        self.traffic, self.sandbox = [], []
        self._people()
        self._happen()

    # What the auditor sees.

    def books(self):
        return read_with(lambda sql: self.db.execute(sql).fetchall())

    def evidence(self, **changes):
        evidence = {
            "books": self.books(),
            "deliveries": journals.deliveries(self.traffic),
            "provider": journals.provider(self.sandbox_lines()),
            "now_us": NOW_US,
            "patience_us": 60 * checks.SECOND_US,
            "order_slack_us": 10 * checks.SECOND_US,
            "attribution_keys": ("referral_code", "ref"),
        }
        return checks.Evidence(**evidence | changes)

    def sandbox_lines(self):
        """Numbered as they stand, so that a test may remove one."""
        return [line | {"seq": seq} for seq, line in enumerate(self.sandbox, start=1)]

    def violations(self, **changes):
        return checks.run(self.evidence(**changes))[0]

    # What happened.

    def _people(self):
        self.insert("organization", id="org_owner", name="Owner", created_at_us=0)
        self.insert("project", id="proj_1", organization_id="org_owner", name="Shop", created_at_us=0)
        self.insert(
            "program",
            id="prog_1",
            organization_id="org_owner",
            name="Fifth",
            conversion_kind="payment",
            attribution_model="last_touch",
            attribution_window_days=30,
            platform_fee_bps=500,
            min_payout='{"usd": 1}',
            on_transfer_reversed="requeue",
            created_at_us=0,
        )
        self.insert("program_status", program_id="prog_1", effective_at_us=0, status="active")
        terms = json.dumps(TERMS)
        self.insert("program_terms", program_id="prog_1", version=1, effective_at_us=0, terms=terms)
        for name in ("ada", "bob"):
            self.insert("organization", id=f"org_{name}", name=name, created_at_us=0)
            enrollment = {"program_id": "prog_1", "organization_id": f"org_{name}", "created_at_us": 0}
            self.insert("enrollment", id=f"par_{name}", **enrollment)
            self.insert("enrollment_status", enrollment_id=f"par_{name}", effective_at_us=0, status="active")
            self.insert(
                "code",
                organization_id="org_owner",
                code_normalised=name,
                code=name,
                kind="referral",
                enrollment_id=f"par_{name}",
                valid_from_us=0,
            )

    def _happen(self):
        self.tell("noise", "balance.available", {"object": "balance"}, state="ignored")
        for number, name in enumerate(["ada", "bob", "ada", "bob", "ada", "ada"], start=1):
            self.sell(number, name)
        # Half of the sixth sale is given back before its commission is released.
        refunded = {"id": "ch_6", "amount_refunded": 5_000, "currency": "usd", "payment_intent": "pi_6"}
        self.tell("refund_6", "charge.refunded", refunded)
        self.commission(6, clawed=1_000)

        first = self.run("run_1", hours=2)
        paid = self.payout(first, "ada", [1])
        self.send(paid, "executed", made="tr_paid")
        self.complete(paid, "tr_paid")
        reversed_in_part = self.payout(first, "bob", [2])
        self.send(reversed_in_part, "executed", made="tr_reversed")
        self.complete(reversed_in_part, "tr_reversed")
        self.give_back(reversed_in_part, "tr_reversed", 950)

        second = self.run("run_2", hours=4)
        waiting = self.payout(second, "ada", [3])
        self.send(waiting, "insufficient_funds")
        self.renew(waiting, "insufficient_funds")
        self.stand(waiting, "waiting_funds", "open")
        self.job(waiting, "parked", reason="waiting_funds", next_attempt_at_us=NOW_US + HOUR_US)
        refused = self.payout(second, "bob", [4])
        self.send(refused, "refused")
        self.post(refused, "payout_release", [("in_transit", -refused["due"]), ("payable", refused["due"])])
        self.db.execute("UPDATE lot SET payout_id = NULL WHERE payout_id = ?", [refused["id"]])
        self.stand(refused, "failed", "failed")
        self.job(refused, "discarded")

        third = self.run("run_3", hours=6)
        doubted = self.payout(third, "ada", [5])
        self.send(doubted, None, made="tr_doubted")
        self.send(doubted, "executed", replayed=True)
        self.complete(doubted, "tr_doubted")
        unknown = self.payout(third, "bob", [4, "returned"])
        self.send(unknown, "ambiguous", made="tr_unknown")
        self.stand(unknown, "unknown", "unknown")
        self.job(unknown, "unknown", reason="window_over", next_attempt_at_us=NOW_US + HOUR_US)
        self.payouts = {
            "paid": paid,
            "reversed": reversed_in_part,
            "waiting": waiting,
            "refused": refused,
            "doubted": doubted,
            "unknown": unknown,
        }

    def insert(self, table, **columns):
        names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
        self.db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(columns.values()))

    def tell(self, name, kind, body, state="applied", status=200):
        """An event that was delivered, answered and processed."""
        event = {"id": f"evt_{name}", "object": "event", "type": kind, "created": START_S}
        event = json.dumps(event | {"livemode": False, "data": {"object": body}}).encode()
        digest = sha256(event)
        self.insert(
            "inbox",
            id=f"in_{name}",
            provider="stripe",
            endpoint_id="ep_1",
            project_id="proj_1",
            account="",
            livemode=0,
            provider_event_id=f"evt_{name}",
            event_type=kind,
            received_at_us=START_US,
            source="webhook",
            state=state,
            reason="unhandled_type" if state == "ignored" else None,
            attempts=0,
            next_attempt_at_us=START_US,
            processed_at_us=START_US,
            body=event,
            body_sha256=digest.digest(),
        )
        delivery = {"provider": "stripe", "endpoint_id": "ep_1", "account": "", "livemode": False}
        delivery |= {"event_id": f"evt_{name}", "body_sha256": digest.hexdigest()}
        # The first answer was lost on the way.
        self.traffic += [delivery | {"status": None}, delivery | {"status": status}]

    def sell(self, number, name):
        """A sale of 100.00, told by its payment and its charge."""
        intent = {"id": f"pi_{number}", "amount_received": 10_000, "currency": "usd"}
        intent |= {"metadata": {"referral_code": name}}
        charge = {"id": f"ch_{number}", "amount": 10_000, "captured": True, "currency": "usd"}
        self.tell(f"intent_{number}", "payment_intent.succeeded", intent)
        self.tell(f"charge_{number}", "charge.succeeded", charge | {"payment_intent": f"pi_{number}"})
        sale = {"id": f"sale_{number}", "project_id": "proj_1", "realm": "stripe/test"}
        money = {"status": "complete", "refunded_minor": 0, "disputed_minor": 0}
        self.insert("sale", **sale, **money, received_at_us=START_US, created_at_us=START_US)
        for kind, start in (("payment_intent", "pi"), ("charge", "ch")):
            alias = {"realm": "stripe/test", "kind": kind, "object_id": f"{start}_{number}"}
            self.insert("sale_alias", project_id="proj_1", sale_id=f"sale_{number}", **alias)
        if number != 6:
            self.commission(number, enrollment=f"par_{name}")

    def commission(self, number, enrollment="par_ada", clawed=0):
        """A fifth, released an hour after the sale."""
        sale_id = f"sale_{number}"
        conversion_id = derived_id("conv_", sale_id, enrollment)
        attributed = {"project_id": "proj_1", "kind": "payment", "attributed_by": "metadata"}
        of_sale = {"sale_id": sale_id, "enrollment_id": enrollment, "program_id": "prog_1"}
        self.insert("conversion", id=conversion_id, **of_sale, **attributed, created_at_us=START_US)
        commission_id = derived_id("com_", sale_id, enrollment, 0)
        self.insert(
            "commission",
            id=commission_id,
            conversion_id=conversion_id,
            **of_sale,
            level=0,
            currency="usd",
            terms=json.dumps(TERMS),
            terms_version=1,
            base_minor=10_000,
            amount_minor=2_000,
            earned_minor=2_000,
            clawed_minor=clawed,
            held_minor=0,
            released_minor=2_000 - clawed,
            state="payable",
            claimed=0,
            revision=0,
            paid_at_us=START_US,
            created_at_us=START_US,
        )
        about = {"id": commission_id, "enrollment": enrollment, "table": "commission"}
        self.post(about, "accrual", [("expense", -2_000), ("held", 2_000)], START_US)
        if clawed:
            self.post(about, "clawback", [("held", -clawed), ("expense", clawed)], START_US)
        net = 2_000 - clawed
        self.post(about, "release", [("held", -net), ("payable", net)], START_US + HOUR_US, lot="release")

    def post(self, about, kind, lines, at_us=None, lot=None):
        """An entry with its lines (account and credit), its lot, and the balances."""
        at_us = about["at_us"] if at_us is None else at_us
        table, enrollment = about.get("table", "payout"), about["enrollment"]
        self.db.execute(f"UPDATE {table} SET revision = revision + 1 WHERE id = ?", [about["id"]])
        revision = self.scalar(f"SELECT revision FROM {table} WHERE id = ?", about["id"])
        entry = Entry(
            id=derived_id("je_", about["id"], revision),
            commission_id=about["id"] if table == "commission" else None,
            payout_id=about["id"] if table == "payout" else None,
            revision=revision,
            kind=kind,
            enrollment_id=enrollment,
            program_id="prog_1",
            currency="usd",
            content_hash=b"",
            created_at_us=at_us,
        )
        postings = []
        for number, (account, credit) in enumerate(lines):
            owner = "prog_1" if account in ("expense", "fee_income", "returned_cash") else enrollment
            side = "credit" if credit > 0 else "debit"
            postings.append(Posting(entry.id, number, owner, account, side, abs(credit)))
        columns = {name: getattr(entry, name) for name in Entry.COLUMNS}
        columns |= {"content_hash": content_hash(entry, postings), "causes": "[]"}
        self.insert("entry", **columns)
        for posting in postings:
            self.insert("posting", **{name: getattr(posting, name) for name in Posting.COLUMNS})
            self.db.execute(
                "INSERT INTO balance (owner_id, account, currency, debit_minor, credit_minor)"
                " VALUES (?, ?, 'usd', ?, ?) ON CONFLICT DO UPDATE SET"
                " debit_minor = debit_minor + excluded.debit_minor,"
                " credit_minor = credit_minor + excluded.credit_minor",
                [
                    posting.owner_id,
                    posting.account,
                    posting.amount_minor if posting.side == "debit" else 0,
                    posting.amount_minor if posting.side == "credit" else 0,
                ],
            )
        if lot is not None:
            self.insert(
                "lot",
                id=derived_id("lot_", entry.id),
                entry_id=entry.id,
                commission_id=entry.commission_id,
                enrollment_id=enrollment,
                currency="usd",
                kind=lot,
                amount_minor=sum(credit for account, credit in lines if account == "payable"),
                created_at_us=at_us,
            )
        return entry.id

    def run(self, run_id, hours):
        at_us = START_US + hours * HOUR_US
        self.insert(
            "payout_run",
            id=run_id,
            program_id="prog_1",
            started_by="schedule",
            currency="usd",
            period_end_us=at_us,
            as_of_us=at_us,
            actor="schedule",
            state="completed",
            last_enrollment="par_bob",
            created_at_us=at_us,
            completed_at_us=at_us,
        )
        return {"id": run_id, "at_us": at_us}

    def payout(self, run, name, sources):
        """A payout of the commissions of these sales, or of cash that came back, with all that a settlement
        writes."""
        enrollment, at_us = f"par_{name}", run["at_us"]
        lots = [
            self.db.execute(
                "SELECT id, commission_id, amount_minor FROM lot"
                " WHERE enrollment_id = ? AND payout_id IS NULL"
                " AND (commission_id = ? OR (commission_id IS NULL AND ? = 'returned'))",
                [enrollment, derived_id("com_", f"sale_{source}", enrollment, 0), str(source)],
            ).fetchone()
            for source in sources
        ]
        due = sum(amount for *_, amount in lots)
        fee = due * 500 // 10_000
        payout = {"id": derived_id("po_", run["id"], enrollment, "usd"), "enrollment": enrollment, "due": due}
        payout |= {"fee": fee, "send": due - fee, "at_us": at_us, "destination": f"acct_{name}"}
        payout |= {"intent": derived_id("int_", payout["id"]), "sent": 0, "generation": 0}
        self.insert(
            "payout",
            id=payout["id"],
            run_id=run["id"],
            program_id="prog_1",
            enrollment_id=enrollment,
            organization_id=f"org_{name}",
            currency="usd",
            due_minor=due,
            fee_minor=fee,
            send_minor=due - fee,
            state="pending",
            provider="stripe",
            livemode=0,
            destination=payout["destination"],
            on_transfer_reversed="requeue",
            reversed_minor=0,
            returned_minor=0,
            revision=0,
            created_at_us=at_us,
        )
        for lot_id, commission_id, amount in lots:
            item = {"payout_id": payout["id"], "lot_id": lot_id, "commission_id": commission_id}
            self.insert("payout_item", **item, amount_minor=amount)
            self.db.execute("UPDATE lot SET payout_id = ? WHERE id = ?", [payout["id"], lot_id])
            self.db.execute("UPDATE commission SET claimed = 1 WHERE id = ?", [commission_id])
        self.insert(
            "intent",
            id=payout["intent"],
            kind="transfer",
            payout_id=payout["id"],
            provider="stripe",
            livemode=0,
            destination=payout["destination"],
            amount_minor=due - fee,
            currency="usd",
            state="open",
            generation=0,
            created_at_us=at_us,
        )
        self.generation(payout)
        self.post(payout, "payout_reserve", [("payable", -due), ("in_transit", due)])
        return payout

    def generation(self, payout):
        body = self.request_of(payout)
        self.insert(
            "generation",
            intent_id=payout["intent"],
            generation=payout["generation"],
            idempotency_key=self.key_of(payout),
            path="/v1/transfers",
            body=body,
            body_sha256=sha256(body).digest(),
            api_version="2026-07-29.dahlia",
        )

    @staticmethod
    def key_of(payout):
        return f"remit_test_{payout['intent']}_g{payout['generation']}"

    @staticmethod
    def request_of(payout):
        fields = f"amount={payout['send']}&currency=usd&destination={payout['destination']}"
        return f"{fields}&metadata[generation]={payout['generation']}".encode()

    def send(self, payout, verdict, made=None, replayed=False):
        """One call, written down before, which reaches the provider and perhaps makes a transfer."""
        payout["sent"] += 1
        at_us = payout["at_us"] + payout["sent"] * 60 * checks.SECOND_US
        self.db.execute(
            "UPDATE generation SET first_sent_at_us = COALESCE(first_sent_at_us, ?)"
            " WHERE intent_id = ? AND generation = ?",
            [at_us, payout["intent"], payout["generation"]],
        )
        self.insert(
            "attempt",
            intent_id=payout["intent"],
            number=payout["sent"],
            generation=payout["generation"],
            kind="send",
            epoch=payout["sent"],
            sent_at_us=at_us,
            answered_at_us=None if verdict is None else at_us,
            verdict=verdict,
            replayed=None if verdict is None else int(replayed),
        )
        self.request(self.key_of(payout), self.request_of(payout), at_us)
        if made is not None:
            self.transfer(made, payout)

    def request(self, key, body, at_us, path="/v1/transfers"):
        line = {"kind": "request", "method": "POST", "path": path, "idempotency_key": key, "livemode": False}
        line |= {"stripe_account": None, "body_sha256": sha256(body).hexdigest()}
        self.journal(at_us, line | {"request_id": f"req_{len(self.sandbox)}"})

    def transfer(self, transfer_id, payout, effect="transfer.created", key=None, mark=None, **changes):
        """What the provider did."""
        body = {"id": transfer_id, "object": "transfer", "amount": payout["send"], "amount_reversed": 0}
        body |= {"currency": "usd", "destination": payout["destination"], "livemode": False}
        body |= {"transfer_group": payout["intent"], "metadata": {"intent_id": payout["intent"]}} | changes
        line = {
            "kind": "effect",
            "effect": effect,
            "account": None,
            "idempotency_key": key or self.key_of(payout),
        }
        line |= {mark: True} if mark else {}
        self.journal(payout["at_us"], line | {"object": body})

    def journal(self, at_us, line):
        self.sandbox.append(line | {"at_us": at_us})

    def complete(self, payout, transfer_id):
        self.post(payout, "payout_settle", [("in_transit", -payout["send"]), ("paid", payout["send"])])
        self.post(payout, "platform_fee", [("in_transit", -payout["fee"]), ("fee_income", payout["fee"])])
        self.db.execute("UPDATE payout SET transfer_id = ? WHERE id = ?", [transfer_id, payout["id"]])
        self.db.execute("UPDATE intent SET object_id = ? WHERE id = ?", [transfer_id, payout["intent"]])
        self.stand(payout, "completed", "succeeded")
        self.job(payout, "completed")

    def give_back(self, payout, transfer_id, cash):
        """Part of a transfer came back, with the fee's part of it, and is owed again."""
        fee = payout["fee"] * cash // payout["send"]
        lines = [("returned_cash", -cash), ("fee_income", -fee), ("payable", cash + fee)]
        self.post(payout, "transfer_returned", lines, lot="returned")
        self.db.execute(
            "UPDATE payout SET state = 'partially_reversed', reversed_minor = ?, returned_minor = ?"
            " WHERE id = ?",
            [cash, cash + fee, payout["id"]],
        )
        self.transfer(transfer_id, payout, effect="transfer.reversed", key="by_hand", amount_reversed=cash)

    def renew(self, payout, proof):
        """The next key, because nothing happened under this one."""
        where = [payout["intent"], payout["generation"]]
        closed = "UPDATE generation SET closed_at_us = ?, proof = ? WHERE intent_id = ? AND generation = ?"
        self.db.execute(closed, [payout["at_us"] + HOUR_US, proof, *where])
        payout["generation"] += 1
        self.generation(payout)
        self.db.execute("UPDATE intent SET generation = generation + 1 WHERE id = ?", [payout["intent"]])

    def stand(self, payout, state, intent_state):
        self.db.execute("UPDATE payout SET state = ? WHERE id = ?", [state, payout["id"]])
        self.db.execute("UPDATE intent SET state = ? WHERE id = ?", [intent_state, payout["intent"]])

    def job(self, payout, state, reason=None, next_attempt_at_us=None):
        self.insert(
            "job",
            id=derived_id("job_", payout["intent"]),
            kind="transfer",
            intent_id=payout["intent"],
            lane=payout["destination"],
            state=state,
            reason=reason,
            attempts=payout["sent"],
            epoch=payout["sent"],
            next_attempt_at_us=next_attempt_at_us,
            created_at_us=payout["at_us"],
        )

    def scalar(self, sql, *values):
        return self.db.execute(sql, values).fetchone()[0]
