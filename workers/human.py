"""The human lane: what a person says of a parked task, as its next place and its facts.

Pure decisions, one value each; ``carry_out`` is the one deed, and one atomic step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from broker import purpose
from broker.events import Attempted, Fact, Finished, Resumed
from broker.money import nano
from broker.scopes import scopes_of
from broker.settings.lanes import HUMAN
from broker.settings.prices import Human
from broker.state import Record
from broker.store import Store
from broker.task import Outcome, Progress, lane_queue
from dispatcher.gates import Verdict
from dispatcher.route import climbed

US_PER_MINUTE = 60_000_000


@dataclass(frozen=True, slots=True)
class Work:
    """Who did it, when it was done on Redis's clock, how long it took (None: not said) and what it costs.

    ``cost_nano`` None: unpriced.
    """

    by: str
    at_us: int
    minutes: Decimal | None
    cost_nano: int | None
    price_ref: str


@dataclass(frozen=True, slots=True)
class Word:
    """A person's word as the record's next state. ``fact`` is their work, ``facts`` what follows from it."""

    status: str
    progress: Progress
    fact: Attempted
    facts: tuple[Fact, ...]
    outcome: Outcome | None = None
    queue: str = ""


def priced(human: Human, *, by: str, at_us: int, minutes: Decimal | None) -> Work:
    """By the minutes where both they and their price are known, else by the review."""
    if human.usd_per_minute is not None and minutes is not None:
        return Work(by, at_us, minutes, nano(human.usd_per_minute * minutes), "human:minute")
    if human.usd_per_review is not None:
        return Work(by, at_us, minutes, nano(human.usd_per_review), "human:review")
    return Work(by, at_us, minutes, None, "")


def answered(record: Record, work: Work, text: str, verdict: Verdict) -> Word:
    """The person's answer is the task's. ``verdict`` is what its gates say of it; they may have been overruled."""
    fact = _attempted(record, work, verdict.gate, verdict.word, verdict.complaint)
    return _succeeded(record, work, fact, text, f"answered by {work.by}")


def approved(record: Record, work: Work) -> Word:
    """The last model's answer is good, whatever the gates said."""
    fact = _attempted(record, work, HUMAN, "pass", "")
    return _succeeded(record, work, fact, record.progress.last_answer, f"approved by {work.by}")


def rejected(record: Record, work: Work, reason: str) -> Word:
    """Nobody is to try any more."""
    why = f"rejected by {work.by}" + (f": {reason}" if reason else "")
    fact = _attempted(record, work, HUMAN, "fail", reason)
    progress = _told(record, fact)
    outcome = Outcome("failed", why, progress.last_answer or None, HUMAN)
    return Word(
        "failed", progress, fact, (Resumed(work.by, HUMAN), Finished("failed", False, HUMAN, why)), outcome
    )


def sent_back(record: Record, work: Work, lane: str, instruction: str) -> Word:
    """A lane of its chain tries once more, told what the person adds; from there on it climbs as ever."""
    fact = _attempted(record, work, "", "", f"sent back to {lane}")
    progress = climbed(_told(record, fact), lane, f"sent back by {work.by}", ())
    said = "\n\n".join(part for part in (progress.instruction, instruction) if part)
    queue = lane_queue(lane, record.task.mode)
    return Word("queued", replace(progress, instruction=said), fact, (Resumed(work.by, lane),), queue=queue)


def lane_to_try(record: Record) -> str | None:
    """Where a task goes back to where nobody names a lane: the last one that tried, else its chain's first."""
    chain = [lane for lane in record.progress.chain if lane != HUMAN]
    tried = [one.lane for one in record.progress.attempts if one.lane in chain]
    return tried[-1] if tried else next(iter(chain), None)


def carry_out(
    store: Store, record: Record, word: Word, *, hard_nano: int | None = None, over: bool = False
) -> str:
    """What came of it: ``done``, ``gone on`` (the task had, and nothing was done), or why the work must not be booked
    (``over|lane:human|day|1200|5000``, see ``scripts/begin.lua``), but with ``over``."""
    before = store.parked.resume(
        record.task.ref,
        word.status,
        (word.fact, *word.facts),
        queue=word.queue,
        progress=word.progress,
        outcome=word.outcome,
        cost_nano=word.fact.cost_nano or 0,
        scopes=scopes_of(record.task, HUMAN),
        hard_nano=hard_nano,
        epoch=record.epoch,
        over=over,
    )
    if before == "parked":
        return "done"
    if "|" in before:
        return before
    # Redis's client asks again after a lost reply, and is told that the task has gone on: by this very word.
    return "done" if word.fact in store.records.one(record.task.ref).progress.attempts else "gone on"


def _succeeded(record: Record, work: Work, fact: Attempted, text: str, why: str) -> Word:
    facts = (Resumed(work.by, HUMAN), Finished("succeeded", True, HUMAN))
    return Word("succeeded", _told(record, fact), fact, facts, Outcome("succeeded", why, text, HUMAN))


def _told(record: Record, fact: Attempted) -> Progress:
    return replace(record.progress, attempts=(*record.progress.attempts, fact))


def _attempted(record: Record, work: Work, gate: str, verdict: str, complaint: str) -> Attempted:
    """A task is parked once a claim at most, so its id and its claim name this piece of work and no other.

    It began when the task was parked at the earliest, however long somebody says that it took.
    """
    attempts = record.progress.attempts
    took_us = round((work.minutes or 0) * US_PER_MINUTE)
    began_us = min(work.at_us, max(work.at_us - took_us, record.since_us))
    return Attempted(
        attempt_id=f"{record.task.task_id}-{record.epoch}-{HUMAN}",
        parent_attempt_id=attempts[-1].attempt_id if attempts else "",
        hop=record.progress.hop,
        lane=HUMAN,
        engine=HUMAN,
        model=work.by,
        purpose=purpose.HUMAN,
        started_us=began_us,
        ended_us=work.at_us,
        queue_wait_ms=max(0, began_us - record.since_us) / 1000,
        latency_ms=took_us / 1000,
        cost_nano=work.cost_nano,
        marginal_nano=work.cost_nano,
        price_ref=work.price_ref,
        gate=gate,
        verdict=verdict,
        complaint=complaint,
    )
