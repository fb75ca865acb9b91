"""Puts one bug at a time into a world in which everything is right, and asserts that the auditor reports
exactly the invariant that no longer holds. What moves money (I5 to I9) is in test_payouts.py.

Where one bug breaks two invariants by their definition, the test names both and says why.
"""

import unittest
from dataclasses import replace

from . import checks
from .checks import jobs, ledger, lots, provider, story
from .checks.keys import a_period_is_settled_once, natural_keys_are_unique
from .checks.story import coverage
from .world import NOW_US, START_US, World


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
            "UPDATE commission SET held_minor = 1, released_minor = released_minor - 1"
            " WHERE sale_id = 'sale_1'"
        )
        self.assert_finds("I4")


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
        other = "CASE enrollment_id WHEN 'par_ada' THEN 'par_bob' ELSE 'par_ada' END"
        self.sql("UPDATE commission SET claimed = 0")
        self.sql(f"UPDATE code SET enrollment_id = {other}")
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

    def test_a_job_outlives_its_intent(self):
        self.sql("UPDATE job SET state = 'unknown' WHERE intent_id = ?", self.payouts["paid"]["intent"])
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


class ChecksThatOverlap(Audited):
    """Checks of one invariant that often find the same bug: each finds it alone."""

    def assert_finds_alone(self, check, sql, *values):
        self.assertEqual(list(check(self.world.evidence())), [])
        self.sql(sql, *values)
        self.assertNotEqual(list(check(self.world.evidence())), [])

    def test_an_entry_that_does_not_balance(self):
        sql = "UPDATE posting SET amount_minor = amount_minor + 1 WHERE account = 'expense' AND line = 0"
        self.assert_finds_alone(ledger.entries_balance, sql)

    def test_an_intent_without_a_job(self):
        sql = "DELETE FROM job WHERE state = 'unknown'"
        self.assert_finds_alone(jobs.every_intent_has_the_job_of_its_state, sql)

    def test_a_lot_in_two_payouts(self):
        sql = "UPDATE OR IGNORE payout_item SET lot_id = (SELECT MIN(lot_id) FROM payout_item)"
        self.assert_finds_alone(lots.a_lot_is_in_one_payout_that_stands, sql)

    def test_a_lot_that_no_entry_made(self):
        sql = "UPDATE lot SET amount_minor = amount_minor + 1 WHERE kind = 'returned'"
        self.assert_finds_alone(lots.lots_are_what_entries_did_to_the_payable_side, sql)

    def test_a_lot_that_is_free_and_paid(self):
        sql = "UPDATE lot SET payout_id = NULL WHERE payout_id = ?"
        self.assert_finds_alone(lots.unclaimed_lots_are_what_is_payable, sql, self.payouts["paid"]["id"])

    def test_a_reservation_that_was_forgotten(self):
        sql = "UPDATE payout SET state = 'canceled' WHERE id = ?"
        self.assert_finds_alone(lots.what_is_in_transit_is_reserved, sql, self.payouts["waiting"]["id"])

    def test_a_payout_that_names_a_transfer_that_is_not_there(self):
        sql = "UPDATE intent SET object_id = 'tr_nowhere' WHERE object_id = 'tr_paid'"
        self.assert_finds_alone(provider.what_is_paid_was_moved, sql)

    def test_a_balance_that_the_model_does_not_know(self):
        sql = "UPDATE posting SET amount_minor = amount_minor + 1 WHERE account = 'paid'"
        self.assert_finds_alone(story.balances_are_those_of_the_model, sql)
