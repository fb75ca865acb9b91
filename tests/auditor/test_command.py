"""The command from its arguments to its exit code, and what reads the witnesses."""

import contextlib
import io
import json
import sqlite3
import tempfile
import unittest
from pathlib import Path

from . import cli, journals
from .database import postgres_options
from .journals import read_lines
from .world import NOW_US, World


class TheCommand(unittest.TestCase):
    def setUp(self):
        self.world = World()

    def run_on_files(self, *more):
        with tempfile.TemporaryDirectory() as home:
            home = Path(home)
            with contextlib.closing(sqlite3.connect(home / "remit.db")) as file:
                self.world.db.backup(file)
            for name, lines in (("traffic", self.world.traffic), ("sandbox", self.world.sandbox_lines())):
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
        self.world.db.execute("DELETE FROM inbox WHERE id = 'in_noise'")
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
        line = {"kind": "effect", "at_us": 0, "effect": "transfer.reversed", "account": None}
        line |= {"idempotency_key": None}
        lines = [
            line | {"seq": seq, "object": body | {"amount_reversed": total}}
            for seq, total in enumerate([0, 5, 3], start=1)
        ]
        [transfer] = journals.provider(lines).transfers
        self.assertEqual((transfer.reversed, transfer.intent_id), (5, "int_1"))

    def test_a_line_is_missing_in_the_middle_of_the_sandboxs_journal(self):
        lines = [{"seq": seq, "kind": "start"} for seq in (1, 2, 1, 2, 3)]
        self.assertEqual(journals.provider(lines).requests, [])
        with self.assertRaisesRegex(ValueError, "from line 2 to line 4"):
            journals.provider([*lines[:2], {"seq": 4, "kind": "start"}])

    def test_urls_of_postgresql(self):
        socket = postgres_options("postgres:///remit?host=/run/pg&user=me")
        self.assertEqual(socket["unix_sock"], "/run/pg/.s.PGSQL.5432")
        self.assertEqual((socket["user"], socket["database"], socket["password"]), ("me", "remit", None))
        server = postgres_options("postgresql://me:p%40ss@db.example:6432/remit?sslmode=require")
        self.assertEqual((server["host"], server["port"], server["password"]), ("db.example", 6432, "p@ss"))
        self.assertIs(server["ssl_context"], True)
