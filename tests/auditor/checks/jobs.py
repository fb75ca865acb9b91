"""I15: no work is lost. Whatever is to be done is due, under way, or stopped with a reason."""

from ..rows import RESERVED, of
from . import check

OVER = frozenset({"completed", "discarded"})


@check("I15")
def every_job_is_over_due_under_way_or_stopped_with_a_reason(evidence):
    overdue = evidence.now_us - evidence.patience_us
    # While payouts are paused nobody takes what is due.
    is_paused = any(pause.resumed_at_us is None for pause in evidence.books.pauses)
    for job in evidence.books.jobs:
        if job.state in OVER or job.state == "unknown":
            continue
        if job.state == "parked":
            if not job.reason:
                yield job.id, "is parked without a reason"
        elif job.next_attempt_at_us is None:
            yield job.id, f"is {job.state} and will never be taken"
        elif job.next_attempt_at_us < overdue and not is_paused:
            what = "its lease ended long ago" if job.state == "running" else "was due long ago"
            yield job.id, f"is {job.state}, and {what}"


@check("I15")
def every_intent_has_the_job_of_its_state(evidence):
    intents = of(evidence.books.intents)
    jobs = {job.intent_id: job for job in evidence.books.jobs}
    for intent in intents.values():
        job = jobs.get(intent.id)
        if intent.state in ("open", "unknown"):
            if job is None:
                yield intent.id, f"is {intent.state} and has no job"
            elif job.state in OVER:
                yield intent.id, f"is {intent.state}, and its job is {job.state}"
        elif job is not None and job.state in ("parked", "unknown"):
            yield intent.id, f"is {intent.state}, and its job is {job.state} for ever"
    for job in evidence.books.jobs:
        if job.intent_id not in intents:
            yield job.id, "belongs to no intent"


@check("I15")
def every_reserved_payout_is_worked_on(evidence):
    intents = {intent.payout_id: intent for intent in evidence.books.intents}
    jobs = {job.intent_id: job for job in evidence.books.jobs}
    for payout in evidence.books.payouts:
        if payout.state not in RESERVED:
            continue
        intent = intents.get(payout.id)
        job = jobs.get(intent.id) if intent is not None else None
        if job is None or job.state in OVER:
            yield payout.id, f"is {payout.state}, and no job works on it"


@check("I15")
def no_queue_stands_still(evidence):
    overdue = evidence.now_us - evidence.patience_us
    for refold in evidence.books.refolds:
        if refold.due_at_us < overdue:
            yield refold.sale_id, "was to be folded again long ago"
    for news in evidence.books.news:
        if news.due_at_us < overdue:
            yield news.transfer_id, "has news that no payout has taken in"
    for run in evidence.books.runs:
        if run.state == "running" and run.created_at_us < overdue:
            yield run.id, "is a settlement run that nobody finishes"
