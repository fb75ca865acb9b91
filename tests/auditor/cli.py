"""The command: reads the witnesses, runs the checks, prints what is wrong.

Exit codes: 0 nothing is wrong, 3 something is, 1 the audit could not be made, 2 wrong usage.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict

from . import checks, journals
from .checks.story import coverage
from .database import read_books

UNREADABLE, FOUND = 1, 3


def main(arguments=None):
    options = _parser().parse_args(arguments)
    try:
        evidence = _evidence(options)
    except (OSError, ValueError, KeyError) as error:
        print(f"the audit cannot be made: {type(error).__name__}: {error}", file=sys.stderr)
        return UNREADABLE
    violations, unchecked = checks.run(evidence)
    spoken, sales = coverage(evidence)
    if options.json:
        report = {
            "violations": [asdict(violation) for violation in violations],
            "unchecked": unchecked,
            "model": {"sales": sales, "compared": spoken},
        }
        print(json.dumps(report, indent=2))
    else:
        for violation in violations:
            print(f"{violation.invariant}  {violation.object}: {violation.detail}")
        for what in unchecked:
            print(f"not checked: {what}")
        print(f"{len(violations)} violations; the model speaks about {spoken} of {sales} sales")
    return FOUND if violations else 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="auditor", description="Holds the books of remit against what was delivered and what was paid."
    )
    parser.add_argument("--database", required=True, metavar="URL", help="sqlite:///path or postgres://…")
    parser.add_argument("--sandbox-journal", metavar="FILE", help="what the provider's sandbox wrote")
    parser.add_argument("--traffic-journal", metavar="FILE", help="what the sender of webhooks wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--now-us",
        type=int,
        metavar="MICROS",
        help="the time by the clock of the audited program, microseconds since 1970; default: this machine's",
    )
    parser.add_argument(
        "--patience-s",
        type=int,
        default=60,
        metavar="N",
        help="how long what is due may wait, seconds; default: %(default)s",
    )
    parser.add_argument(
        "--order-slack-s",
        type=int,
        default=10,
        metavar="N",
        help="how far recorded times may be from the order of commits, seconds; default: %(default)s",
    )
    parser.add_argument(
        "--attribution-keys",
        default="referral_code,affiliate_code,via,ref",
        metavar="KEYS",
        help="REMIT_ATTRIBUTION__KEYS of the audited program; default: %(default)s",
    )
    return parser


def _evidence(options):
    read = journals.read_lines
    delivered, asked = options.traffic_journal, options.sandbox_journal
    return checks.Evidence(
        books=read_books(options.database),
        deliveries=journals.deliveries(read(delivered)) if delivered else None,
        provider=journals.provider(read(asked)) if asked else None,
        now_us=options.now_us if options.now_us is not None else time.time_ns() // 1_000,
        patience_us=options.patience_s * checks.SECOND_US,
        order_slack_us=options.order_slack_s * checks.SECOND_US,
        attribution_keys=tuple(key.strip() for key in options.attribution_keys.split(",") if key.strip()),
    )
