"""Puts one bug at a time into a world in which everything is right, and asserts that the auditor reports
exactly the invariant that no longer holds: `python3 -m unittest auditor.test_auditor` from `tests`.

Where one bug breaks two invariants by their definition, the test names both and says why.
"""

import contextlib
import io
import json
import sqlite3
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from . import checks, cli, journals
from .checks.balances import what_was_earned_is_somewhere
from .checks.keys import a_period_is_settled_once, natural_keys_are_unique
from .checks.story import coverage
from .database import postgres_options
from .journals import read_lines
from .world import HOUR_US, NOW_US, START_US, World


class Audited(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.payouts = self.world.payouts

    def sql(self, text, *values):
        changed = self.world.db.execute(text, values).rowcount
        self.assertNotEqual(changed, 0, f"the bug was put nowhere: {text}")

    def assert_finds(self, *invariants, **changes):
        violations = self.world.violations(**changes)
        self.assertEqual({one.invariant for one in violations}, set(invariants), violations)

    def effect(self, transfer_id):
        """The journal's line about the making of a transfer."""
        return next(line for line in self.world.sandbox if line.get("object", {}).get("id") == transfer_id)


class ARightWorld(Audited):
    def test_has_nothing_wrong(self):
        self.assert_finds()
        self.assertEqual(coverage(self.world.evidence()), (6, 6))

    def test_every_invariant_has_a_check(self):
        found = {one.invariant for one in checks.CHECKS}
        self.assertEqual(found, {f"I{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15)})

    def test_what_cannot_be_checked_without_a_journal_is_said(self):
        violations, unchecked = checks.run(self.world.evidence(deliveries=None, provider=None))
        self.assertEqual(violations, [])
        about = {line.split()[0] for line in unchecked}
        self.assertEqual(about, {"I1", "I5", "I6", "I8"})

    def test_may_have_orphans_and_doubles_of_the_provider_that_people_know_of(self):
        foreign = {"intent": "int_of_nobody", "send": 5, "destination": "acct_x", "at_us": NOW_US}
        self.world.transfer("tr_orphan", foreign, key="of_somebody")
        self.world.transfer("tr_double", self.payouts["paid"], mark="duplicate")
        for transfer_id in ("tr_orphan", "tr_double"):
            self.world.insert(
                "finding",
                id=f"find_{transfer_id}",
                kind="orphan_transfer",
                severity="critical",
                object=transfer_id,
                detail="look at it",
                created_at_us=NOW_US,
            )
        self.assert_finds()
        self.sql("UPDATE finding SET resolved_at_us = created_at_us")
        self.assert_finds("I6")

    def test_may_have_transfers_of_charges(self):
        group = {"transfer_group": "group_pi_1", "metadata": {}, "source_transaction": "ch_1"}
        self.world.transfer("tr_of_charge", self.payouts["paid"], key="buyer", **group)
        self.assert_finds()


class I1(Audited):
    def test_an_answered_event_is_missing(self):
        self.sql("DELETE FROM inbox WHERE id = 'in_noise'")
        self.assert_finds("I1")

    def test_an_event_is_stored_with_other_bytes_than_were_sent(self):
        for line in self.world.traffic:
            line["body_sha256"] = line["body_sha256"][::-1]
        self.assert_finds("I1")

    def test_a_stored_body_was_changed(self):
        self.sql("UPDATE inbox SET body = CAST(body || ' ' AS BLOB) WHERE id = 'in_noise'")
        self.assert_finds("I1")

    def test_of_two_bodies_under_one_id_either_may_be_stored(self):
        self.world.traffic.append(self.world.traffic[0] | {"body_sha256": "00", "status": 200})
        self.assert_finds()

    def test_an_event_that_was_never_answered_may_be_missing(self):
        self.world.traffic.append(self.world.traffic[0] | {"event_id": "evt_unheard", "status": 503})
        self.assert_finds()


class I2(Audited):
    def test_an_event_is_never_processed(self):
        self.sql("UPDATE inbox SET state = 'received' WHERE id = 'in_noise'")
        self.assert_finds("I2")

    def test_an_event_that_is_due_soon_is_well(self):
        self.sql("UPDATE inbox SET state = 'received', next_attempt_at_us = ? WHERE id = 'in_noise'", NOW_US)
        self.assert_finds()

    def test_an_event_is_parked_without_a_reason(self):
        self.sql("UPDATE inbox SET state = 'parked', reason = NULL WHERE id = 'in_noise'")
        self.assert_finds("I2")


class I3(Audited):
    def test_a_revision_is_missing(self):
        self.sql("UPDATE commission SET revision = revision + 1 WHERE sale_id = 'sale_1'")
        self.assert_finds("I3")

    def test_an_id_is_not_that_of_what_it_names(self):
        self.sql("PRAGMA foreign_keys = OFF")
        self.sql("UPDATE conversion SET id = 'conv_other' WHERE sale_id = 'sale_1'")
        self.assert_finds("I3")

    def test_a_payout_does_not_have_the_entries_of_its_state(self):
        # Its fee is taken under the name of a settlement; all sums are as they were.
        entry = "SELECT id FROM entry WHERE kind = 'platform_fee' ORDER BY id LIMIT 1"
        entry_id = self.world.scalar(entry)
        self.sql("UPDATE entry SET kind = 'payout_settle' WHERE id = ?", entry_id)
        # Whoever changed it did not know of the hash.
        self.assert_finds("I3", "I4")

    def test_more_came_back_than_was_booked(self):
        self.sql("UPDATE payout SET returned_minor = 2 WHERE id = ?", self.payouts["paid"]["id"])
        self.assert_finds("I3")

    def test_keys_that_the_database_failed_to_keep_unique(self):
        books = self.world.books()
        for table in ("events", "aliases", "conversions", "commissions", "entries", "lots", "payouts"):
            doubled = replace(books, **{table: getattr(books, table) * 2})
            found = list(natural_keys_are_unique(self.world.evidence(books=doubled)))
            self.assertEqual(len(found), len(getattr(books, table)), table)
        for table in ("intents", "generations", "jobs"):
            doubled = replace(books, **{table: getattr(books, table) * 2})
            self.assertTrue(list(natural_keys_are_unique(self.world.evidence(books=doubled))), table)
        doubled = replace(books, runs=books.runs * 2)
        self.assertEqual(len(list(a_period_is_settled_once(self.world.evidence(books=doubled)))), 3)


class I4(Audited):
    def test_a_balance_is_wrong(self):
        self.sql("UPDATE balance SET debit_minor = debit_minor + 1 WHERE account = 'expense'")
        self.assert_finds("I4")

    def test_an_entry_does_not_balance(self):
        self.sql("UPDATE posting SET amount_minor = amount_minor + 1 WHERE account = 'expense' AND line = 0")
        self.assert_finds("I4")

    def test_an_entry_was_changed(self):
        self.sql("UPDATE entry SET content_hash = zeroblob(32) WHERE kind = 'accrual'")
        self.assert_finds("I4")

    def test_an_entry_lost_its_lines(self):
        # Nothing of the sums is left either; that they are gone is seen from all sides.
        self.sql("DELETE FROM posting WHERE entry_id IN (SELECT id FROM entry WHERE kind = 'platform_fee')")
        self.assertIn("I4", {one.invariant for one in self.world.violations()})

    def test_a_commission_states_what_was_not_posted(self):
        self.sql(
            "UPDATE commission SET held_minor = 1, released_minor = released_minor - 1 WHERE sale_id = 'sale_1'"
        )
        self.assert_finds("I4")


class I5(Audited):
    def test_a_payout_is_transferred_twice(self):
        self.world.transfer("tr_again", self.payouts["paid"])
        self.assert_finds("I5")

    def test_an_unknown_payout_is_transferred_twice(self):
        self.world.transfer("tr_again", self.payouts["unknown"])
        self.assert_finds("I5")

    def test_another_amount_is_transferred(self):
        self.effect("tr_unknown")["object"]["amount"] += 1
        self.assert_finds("I5")

    def test_another_account_receives_it(self):
        self.effect("tr_unknown")["object"]["destination"] = "acct_other"
        self.assert_finds("I5")

    def test_another_currency_is_transferred(self):
        self.effect("tr_unknown")["object"]["currency"] = "eur"
        self.assert_finds("I5")

    def test_real_money_moves_for_a_test(self):
        self.effect("tr_unknown")["object"]["livemode"] = True
        self.assert_finds("I5")


class I6(Audited):
    def test_a_payout_is_paid_without_a_transfer(self):
        self.world.sandbox.remove(self.effect("tr_paid"))
        self.assert_finds("I6")

    def test_a_transfer_is_claimed_by_nobody(self):
        foreign = {"intent": "int_of_nobody", "send": 5, "destination": "acct_x", "at_us": NOW_US}
        self.world.transfer("tr_orphan", foreign, key="of_somebody")
        self.assert_finds("I6")

    def test_a_refused_payout_was_transferred(self):
        self.world.transfer("tr_late", self.payouts["refused"])
        self.assert_finds("I6")

    def test_a_transfer_pays_another_payout_than_it_is_for(self):
        for table, column in (("payout", "transfer_id"), ("intent", "object_id")):
            swap = f"CASE {column} WHEN 'tr_paid' THEN 'tr_doubted' ELSE 'tr_paid' END"
            self.sql(f"UPDATE {table} SET {column} = {swap} WHERE {column} IN ('tr_paid', 'tr_doubted')")
        self.assert_finds("I6")

    def test_a_reversal_is_not_booked(self):
        reversed_in_part = self.world.sandbox[-1] | {
            "object": self.effect("tr_paid")["object"] | {"amount_reversed": 7}
        }
        self.world.journal(NOW_US, reversed_in_part | {"kind": "effect", "effect": "transfer.reversed"})
        self.assert_finds("I6")

    def test_an_intent_stands_elsewhere_than_its_payout(self):
        self.sql("UPDATE intent SET state = 'unknown' WHERE id = ?", self.payouts["waiting"]["intent"])
        self.assert_finds("I6")

    def test_a_payout_is_called_reversed_that_is_not(self):
        self.sql("UPDATE payout SET state = 'reversed' WHERE state = 'partially_reversed'")
        self.assert_finds("I6")


class I7(Audited):
    def test_more_was_reserved_than_was_payable(self):
        # Of two thousand that the payout took, nothing was released before.
        entry = "SELECT id FROM entry WHERE payout_id = ? AND kind = 'payout_reserve'"
        entry_id = self.world.scalar(entry, self.payouts["paid"]["id"])
        self.sql("UPDATE entry SET created_at_us = ? WHERE id = ?", START_US, entry_id)
        self.assert_finds("I7")

    def test_a_debt_was_passed_over(self):
        # What was taken back an hour before the payout is left out of it.
        commission = {"id": self.world.scalar("SELECT id FROM commission WHERE sale_id = 'sale_1'")}
        commission |= {"enrollment": "par_ada", "table": "commission", "at_us": START_US + HOUR_US}
        lines = [("payable", -6_000), ("expense", 6_000)]
        self.world.post(commission, "clawback", lines, lot="carry_forward")
        self.sql(
            "UPDATE commission SET clawed_minor = 6000, earned_minor = 2000, released_minor = -4000"
            " WHERE sale_id = 'sale_1'"
        )
        # And nobody took anything back: the model knows better too.
        self.assert_finds("I7", "I14")

    def test_the_order_of_two_close_entries_is_not_known(self):
        entry = "SELECT id FROM entry WHERE payout_id = ? AND kind = 'payout_reserve'"
        entry_id = self.world.scalar(entry, self.payouts["paid"]["id"])
        self.sql("UPDATE entry SET created_at_us = ? WHERE id = ?", START_US + HOUR_US - 1, entry_id)
        self.assert_finds()

    def test_an_account_holds_what_was_never_earned(self):
        books = self.world.books()
        earned_less = [replace(books.commissions[0], earned_minor=1), *books.commissions[1:]]
        evidence = self.world.evidence(books=replace(books, commissions=earned_less))
        self.assertEqual(len(list(what_was_earned_is_somewhere(evidence))), 1)


class I8(Audited):
    def key(self, name):
        payout = self.payouts[name]
        return f"remit_test_{payout['intent']}_g0"

    def at_us(self, name):
        return self.payouts[name]["at_us"] + 60 * checks.SECOND_US

    def attempt(self, name, **changes):
        """Another attempt that was written down, so that only what the test is about is wrong."""
        payout = self.payouts[name]
        columns = {"intent_id": payout["intent"], "number": payout["sent"] + 1, "generation": 0}
        columns |= {"kind": "send", "epoch": 9, "sent_at_us": self.at_us(name), "verdict": "ambiguous"}
        self.world.insert("attempt", **columns | changes)

    def test_one_key_is_used_with_two_bodies(self):
        self.world.sandbox = [line for line in self.world.sandbox if line.get("idempotency_key") != "x"]
        for body in (b"amount=1", b"amount=2"):
            self.world.request("of_somebody", body, NOW_US)
        self.assert_finds("I8")

    def test_another_request_is_sent_than_is_stored(self):
        for line in self.world.sandbox:
            if line.get("idempotency_key") == self.key("paid") and line["kind"] == "request":
                line["body_sha256"] = "00"
        self.assert_finds("I8")

    def test_a_key_is_used_after_its_window(self):
        late_us = self.at_us("unknown") + 22 * HOUR_US
        self.attempt("unknown")
        self.world.request(self.key("unknown"), self.world.request_of(self.payouts["unknown"]), late_us)
        self.assert_finds("I8")

    def test_a_key_may_be_used_until_its_window_ends(self):
        late_us = self.at_us("unknown") + 20 * HOUR_US - 1
        self.attempt("unknown", sent_at_us=late_us)
        self.world.request(self.key("unknown"), self.world.request_of(self.payouts["unknown"]), late_us)
        self.assert_finds()

    def test_an_attempt_is_made_after_the_window_and_does_not_arrive(self):
        self.attempt("unknown", sent_at_us=self.at_us("unknown") + 22 * HOUR_US)
        self.assert_finds("I8")

    def test_a_send_was_not_written_down(self):
        self.world.request(
            self.key("unknown"), self.world.request_of(self.payouts["unknown"]), self.at_us("unknown")
        )
        self.assert_finds("I8")

    def test_a_key_is_used_that_no_intent_has(self):
        self.world.request("remit_test_int_gone_g0", b"", NOW_US)
        self.assert_finds("I8")

    def test_a_restored_database_may_not_know_what_was_sent(self):
        self.world.request("remit_test_int_gone_g0", b"", NOW_US)
        pause = {"kind": "restored", "reason": "backup", "actor": "node", "paused_at_us": NOW_US}
        self.world.insert("payout_pause", id="pause_1", **pause)
        self.assert_finds()

    def test_a_new_key_is_taken_in_doubt(self):
        self.sql("UPDATE attempt SET verdict = NULL WHERE intent_id = ?", self.payouts["waiting"]["intent"])
        self.assert_finds("I8")

    def test_a_new_key_is_taken_because_the_last_attempt_was_turned_away(self):
        self.attempt("waiting", number=0, verdict=None)
        self.assert_finds("I8")

    def test_the_refusal_that_the_key_repeats_ends_the_doubt(self):
        self.attempt("waiting", number=0, verdict=None)
        self.sql(
            "UPDATE attempt SET replayed = 1 WHERE intent_id = ? AND number = 1",
            self.payouts["waiting"]["intent"],
        )
        self.assert_finds()

    def test_two_people_end_a_doubt_and_one_does_not(self):
        self.attempt("waiting", number=0, verdict=None)
        resolution = {
            "intent_id": self.payouts["waiting"]["intent"],
            "generation": 0,
            "verdict": "not_executed",
        }
        resolution |= {"evidence": "a letter", "actor": "key_1", "created_at_us": NOW_US}
        self.world.insert("resolution", id="res_1", **resolution)
        self.assert_finds("I8")
        self.sql("UPDATE resolution SET approver = 'key_2'")
        self.assert_finds()

    def test_a_new_key_is_taken_without_proof(self):
        self.sql("UPDATE generation SET proof = NULL WHERE proof IS NOT NULL")
        self.assert_finds("I8")

    def test_a_new_key_follows_one_that_moved_the_money(self):
        # The old key executed and the new one is asked too; that it then moves nothing is luck.
        waiting = self.payouts["waiting"]
        first = self.world.key_of(waiting | {"generation": 0})
        self.attempt("waiting", generation=1, verdict="refused", number=2)
        self.sql(
            "UPDATE generation SET first_sent_at_us = ? WHERE intent_id = ? AND generation = 1",
            self.at_us("waiting"),
            waiting["intent"],
        )
        self.world.request(self.world.key_of(waiting), self.world.request_of(waiting), NOW_US)
        self.world.transfer("tr_first", waiting, key=first)
        self.assert_finds("I8")

    def test_an_old_key_is_used_after_a_new_one(self):
        self.attempt("waiting", generation=1, number=2, verdict="not_sent")
        self.attempt("waiting", generation=0, number=3, verdict="not_sent")
        self.sql("UPDATE generation SET first_sent_at_us = ? WHERE generation = 1", self.at_us("waiting"))
        self.assert_finds("I8")

    def test_a_stored_request_was_changed(self):
        other = "UPDATE generation SET body = CAST('amount=1' AS BLOB) WHERE intent_id = ?"
        self.sql(other, self.payouts["paid"]["intent"])
        self.assert_finds("I8")


class I9(Audited):
    def test_a_lot_is_in_two_payouts(self):
        lot = self.world.db.execute(
            "SELECT lot_id, commission_id, amount_minor FROM payout_item WHERE payout_id = ?",
            [self.payouts["paid"]["id"]],
        ).fetchone()
        columns = dict(zip(("lot_id", "commission_id", "amount_minor"), lot, strict=True))
        self.world.insert("payout_item", payout_id=self.payouts["doubted"]["id"], **columns)
        self.assert_finds("I9")

    def test_a_paid_lot_is_free_again(self):
        self.sql("UPDATE lot SET payout_id = NULL WHERE payout_id = ?", self.payouts["paid"]["id"])
        self.assert_finds("I9")

    def test_a_payout_takes_more_than_its_lots(self):
        self.sql("UPDATE payout_item SET amount_minor = 1 WHERE payout_id = ?", self.payouts["paid"]["id"])
        self.assert_finds("I9")

    def test_an_intent_asks_for_more_than_is_sent(self):
        self.sql("UPDATE intent SET amount_minor = 2000 WHERE id = ?", self.payouts["waiting"]["intent"])
        self.assert_finds("I9")

    def test_a_payout_lost_its_intent(self):
        waiting = self.payouts["waiting"]
        for table in ("job", "attempt", "generation"):
            self.sql(f"DELETE FROM {table} WHERE intent_id = ?", waiting["intent"])
        self.sql("DELETE FROM intent WHERE id = ?", waiting["intent"])
        # Its request is then one of nobody, and nobody works on the payout.
        self.assert_finds("I8", "I9", "I15")

    def test_a_lot_appears_from_nowhere(self):
        self.sql("UPDATE lot SET amount_minor = amount_minor + 1 WHERE payout_id IS NULL")
        self.assert_finds("I9")


class I14(Audited):
    def test_a_refund_was_not_taken_in(self):
        refund = {"id": "re_1", "charge": "ch_1", "amount": 10_000, "currency": "usd", "status": "succeeded"}
        self.world.tell("refund_1", "refund.created", refund)
        self.assert_finds("I14")

    def test_a_refund_that_failed_takes_nothing(self):
        refund = {"id": "re_1", "charge": "ch_1", "amount": 10_000, "currency": "usd", "status": "succeeded"}
        self.world.tell("refund_1", "refund.created", refund)
        self.world.tell("refund_1_failed", "refund.failed", refund | {"status": "failed"})
        self.assert_finds()

    def test_a_dispute_that_was_won_takes_nothing_and_one_that_was_lost_all(self):
        dispute = {
            "id": "dp_1",
            "charge": "ch_1",
            "amount": 10_000,
            "currency": "usd",
            "status": "under_review",
        }
        self.world.tell("dispute", "charge.dispute.funds_withdrawn", dispute)
        self.assert_finds("I14")
        self.world.tell("dispute_won", "charge.dispute.closed", dispute | {"status": "won"})
        self.assert_finds()
        lost = dispute | {"id": "dp_2", "charge": "ch_2", "status": "lost"}
        self.world.tell("dispute_lost", "charge.dispute.closed", lost)
        self.assert_finds("I14")

    def test_a_sale_was_ignored(self):
        paid = {"id": "pi_7", "amount_received": 10_000, "currency": "usd", "metadata": {"ref": "ada"}}
        self.world.tell("intent_7", "payment_intent.succeeded", paid, state="ignored")
        self.assert_finds("I14")

    def test_one_payment_was_booked_as_two_sales(self):
        payment = {"invoice": "in_1", "payment": {"payment_intent": "pi_1"}}
        self.world.tell("link", "invoice_payment.paid", payment)
        self.assert_finds()
        payment = {"invoice": "in_1", "payment": {"payment_intent": "pi_3"}}
        self.world.tell("other_link", "invoice_payment.paid", payment)
        self.assert_finds("I14")

    def test_the_wrong_affiliate_earns(self):
        code = "UPDATE code SET enrollment_id = CASE enrollment_id WHEN 'par_ada' THEN 'par_bob' ELSE 'par_ada' END"
        self.sql("UPDATE commission SET claimed = 0")
        self.sql(code)
        self.assert_finds("I14")

    def test_what_a_payout_claimed_keeps_its_affiliate(self):
        # The sixth sale is not claimed yet.
        self.sql("UPDATE code SET enrollment_id = 'par_bob' WHERE code = 'ada'")
        self.sql("UPDATE commission SET claimed = 1")
        self.assert_finds()

    def test_sales_that_people_decided_about_are_left_out(self):
        self.world.insert(
            "decision",
            id="dec_1",
            sale_id="sale_1",
            enrollment_id="par_ada",
            kind="clawback",
            actor="key_1",
            created_at_us=NOW_US,
        )
        self.assertEqual(coverage(self.world.evidence()), (5, 6))

    def test_what_came_back_of_a_transfer_is_taken_back_once(self):
        decision = {"sale_id": "sale_1", "enrollment_id": "par_ada", "kind": "transfer_clawback"}
        decision |= {"amount_minor": 300, "actor": "program", "created_at_us": NOW_US}
        self.world.insert("decision", id="dec_1", **decision)
        self.assert_finds("I14")
        commission = {"id": self.world.scalar("SELECT id FROM commission WHERE sale_id = 'sale_1'")}
        commission |= {"enrollment": "par_ada", "table": "commission", "at_us": NOW_US}
        self.world.post(commission, "clawback", [("payable", -300), ("expense", 300)], lot="carry_forward")
        self.sql("UPDATE commission SET clawed_minor = 300, released_minor = 1700 WHERE sale_id = 'sale_1'")
        self.assert_finds()

    def test_a_code_with_a_past_is_left_out(self):
        self.sql("UPDATE commission SET claimed = 0")
        later = {"enrollment_id": "par_bob", "effective_at_us": NOW_US, "status": "suspended"}
        self.world.insert("enrollment_status", **later)
        self.assertEqual(coverage(self.world.evidence()), (4, 6))


class I15(Audited):
    def test_a_job_is_lost(self):
        self.sql("DELETE FROM job WHERE intent_id = ?", self.payouts["waiting"]["intent"])
        self.assert_finds("I15")

    def test_a_job_is_over_before_its_intent(self):
        self.sql("UPDATE job SET state = 'completed' WHERE intent_id = ?", self.payouts["unknown"]["intent"])
        self.assert_finds("I15")

    def test_a_job_is_parked_without_a_reason(self):
        self.sql("UPDATE job SET reason = NULL WHERE state = 'parked'")
        self.assert_finds("I15")

    def test_a_lease_that_ended_was_taken_over_by_nobody(self):
        self.sql("UPDATE job SET state = 'running', next_attempt_at_us = ? WHERE state = 'parked'", START_US)
        self.assert_finds("I15")

    def test_a_lease_that_lives_is_well(self):
        self.sql("UPDATE job SET state = 'running', next_attempt_at_us = ? WHERE state = 'parked'", NOW_US)
        self.assert_finds()

    def test_a_job_is_due_at_no_time(self):
        self.sql("UPDATE job SET state = 'retryable', next_attempt_at_us = NULL WHERE state = 'parked'")
        self.assert_finds("I15")

    def test_what_is_due_waits_while_payouts_are_paused(self):
        self.sql(
            "UPDATE job SET state = 'retryable', next_attempt_at_us = ? WHERE state = 'parked'", START_US
        )
        pause = {"kind": "operator", "reason": "careful", "actor": "key_1", "paused_at_us": NOW_US}
        self.world.insert("payout_pause", id="pause_1", **pause)
        self.assert_finds()
        self.sql("UPDATE payout_pause SET resumed_at_us = paused_at_us")
        self.assert_finds("I15")

    def test_a_run_is_finished_by_nobody(self):
        self.sql("UPDATE payout_run SET state = 'running' WHERE id = 'run_3'")
        self.assert_finds("I15")

    def test_a_sale_is_folded_again_by_nobody(self):
        queued = {
            "cause_kind": "event",
            "cause_id": "in_1",
            "requested_at_us": START_US,
            "due_at_us": START_US,
        }
        self.world.insert("refold", sale_id="sale_1", **queued)
        self.assert_finds("I15")

    def test_news_of_a_transfer_is_taken_in_by_nobody(self):
        news = {
            "project_id": "proj_1",
            "realm": "stripe/test",
            "transfer_id": "tr_paid",
            "due_at_us": START_US,
        }
        self.world.insert("transfer_news", **news)
        self.assert_finds("I15")


class TheCommand(Audited):
    def run_on_files(self, *more):
        with tempfile.TemporaryDirectory() as home:
            home = Path(home)
            with contextlib.closing(sqlite3.connect(home / "remit.db")) as file:
                self.world.db.backup(file)
            for name, lines in (("traffic", self.world.traffic), ("sandbox", self.world.sandbox)):
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (home / name).write_text(text, encoding="utf-8")
            arguments = [
                "--database",
                f"sqlite://{home}/remit.db",
                "--traffic-journal",
                str(home / "traffic"),
            ]
            arguments += ["--sandbox-journal", str(home / "sandbox"), "--now-us", str(NOW_US), *more]
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main(arguments)
            return code, out.getvalue(), err.getvalue()

    def test_says_that_all_is_well(self):
        code, out, err = self.run_on_files()
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(out, "0 violations; the model speaks about 6 of 6 sales\n")

    def test_lists_what_is_wrong(self):
        self.sql("DELETE FROM inbox WHERE id = 'in_noise'")
        code, out, _ = self.run_on_files("--json")
        wrong = {
            "invariant": "I1",
            "object": "evt_noise",
            "detail": "was answered 200 and is not in the inbox",
        }
        self.assertEqual((code, json.loads(out)["violations"]), (3, [wrong]))

    def test_fails_on_a_journal_that_cannot_be_read(self):
        del self.world.traffic[0]["body_sha256"]
        code, out, err = self.run_on_files()
        self.assertEqual((code, out), (1, ""))
        self.assertIn("body_sha256", err)


class TheReaders(unittest.TestCase):
    def test_a_line_that_was_cut_short_at_the_end_says_nothing(self):
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
            file.write('{"a": 1}\n\n{"a": ')
            file.flush()
            self.assertEqual(list(read_lines(file.name)), [{"a": 1}])
            file.write("\n")
            file.flush()
            with self.assertRaisesRegex(ValueError, "line 3"):
                list(read_lines(file.name))

    def test_the_highest_reversal_of_a_transfer_counts(self):
        body = {"id": "tr_1", "object": "transfer", "amount": 9, "currency": "usd", "livemode": False}
        body |= {"destination": "acct_1", "transfer_group": "int_1"}
        line = {"kind": "effect", "at_us": 0, "effect": "transfer.reversed"}
        totals = [0, 5, 3]
        lines = [
            line | {"seq": seq, "object": body | {"amount_reversed": total}}
            for seq, total in enumerate(totals)
        ]
        [transfer] = journals.provider(reversed(lines)).transfers
        self.assertEqual((transfer.reversed, transfer.intent_id), (5, "int_1"))

    def test_urls_of_postgresql(self):
        socket = postgres_options("postgres:///remit?host=/run/pg&user=me")
        self.assertEqual(socket["unix_sock"], "/run/pg/.s.PGSQL.5432")
        self.assertEqual((socket["user"], socket["database"], socket["password"]), ("me", "remit", None))
        server = postgres_options("postgresql://me:p%40ss@db.example:6432/remit?sslmode=require")
        self.assertEqual((server["host"], server["port"], server["password"]), ("db.example", 6432, "p@ss"))
        self.assertIs(server["ssl_context"], True)


if __name__ == "__main__":
    unittest.main()
