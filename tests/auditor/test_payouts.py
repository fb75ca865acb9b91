"""Bugs that move money: the part of test_auditor.py about I5 to I9."""

from dataclasses import replace

from . import checks
from .checks import balances
from .test_auditor import Audited
from .world import HOUR_US, NOW_US, START_US


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
        self.assertEqual(len(list(balances.what_was_earned_is_somewhere(evidence))), 1)


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
